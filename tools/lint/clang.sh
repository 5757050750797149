#!/bin/sh
# clang.sh [BUILD_DIR] - every C file of the build through clang's front end, with the build's own options.
# GCC builds every day; without this, what only clang objects to is found when a fuzzer no longer compiles.
# The compilations come from compile_commands.json. Prints what clang says; status 1 if it says anything.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${1:-build}
commands=$build/compile_commands.json
[ -e "$commands" ] || { echo "clang.sh: no $commands; 'make build-all' writes it" >&2; exit 1; }
command -v clang >/dev/null || { echo 'clang.sh: no clang' >&2; exit 1; }
# A command is: [ccache] compiler options -o OBJECT -c FILE, on a line of its own.
sed -n 's/^ *"command": "\(.*\.c\)",\{0,1\}$/\1/p' "$commands" | sed 's/\\\(["\\]\)/\1/g' |
    sed 's/^[^ ]*ccache //; s/^[^ ]* /clang -fsyntax-only /; s/ -o [^ ]* -c / /' |
    tr '\n' '\0' | xargs -0 -n 1 -P "$(getconf _NPROCESSORS_ONLN)" sh -c
