#!/bin/sh
# list_sources.sh - every C source and header of the project, one path a line.
cd "$(dirname "$0")/../.." && find include src apps tests bench tools docs \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null | sort
