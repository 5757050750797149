#!/bin/sh
# lint.sh [BUILD_DIR] - what a reviewer should never have to say.
#
#   layering          #include edges against the ranks of the folders     ranks.awk
#   files             sizes, function lengths, columns, words, calls       source.awk
#   names             every file name once in the tree; every unit test seen by CMake
#   headers           mica.h alone as C11 and C++17; every other header alone as C11
#   exports           libmica.so exports what mica.h marks MICA_API and nothing else
#   formatting        clang-format 14, the version the tree is formatted with
#
# Prints FILE:LINE: TEXT for each finding; status 1 if any is an error.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${1:-build}
lint=tools/lint
report=$(mktemp)
trap 'rm -f "$report"' EXIT
# Bytes, not characters, on every awk.
LC_ALL=C
export LC_ALL

sources_of() { find "$@" \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null | sort; }

# ---- layering, files
# shellcheck disable=SC2046 # paths of this tree hold no blanks
{
    awk -f $lint/ranks.awk $(sources_of src apps)
    awk -v strict=1 -f $lint/source.awk $(sources_of src include)
    awk -f $lint/source.awk $(sources_of apps tests bench docs)
} >>"$report"

# ---- names
sources_of src apps include | sed 's|.*/||' | sort | uniq -d | while read -r name; do
    echo "$name:1: error: file name used twice in the tree"
done >>"$report"
find tests/unit -name '*.c' | while read -r file; do
    folder=$(basename "$(dirname "$file")")
    case $file in
    tests/unit/*/test_*.c) ;;
    *)
        grep -qs "$(basename "$file")" "$(dirname "$file")/CMakeLists.txt" ||
            echo "$file:1: error: not seen by CMake; unit tests are tests/unit/FOLDER/test_NAME.c"
        ;;
    esac
    if [ "$folder" != cli ] && ! grep -rqE "mica_folder\($folder |mica_$folder( |\))" CMakeLists.txt src/*/CMakeLists.txt; then
        echo "$file:1: error: no library mica_$folder to test"
    fi
done >>"$report"

# ---- headers
cc=${CC:-gcc}
cxx=${CXX:-g++}
strict='-fsyntax-only -Wall -Wextra -pedantic -Werror'
# shellcheck disable=SC2086
{
    $cc -std=c11 $strict -x c include/mica/mica.h || echo "include/mica/mica.h:1: error: not C11 by itself"
    if command -v "$cxx" >/dev/null 2>&1; then
        $cxx -std=c++17 $strict -x c++ include/mica/mica.h || echo "include/mica/mica.h:1: error: not C++17 by itself"
    else
        echo "include/mica/mica.h:1: warning: no C++ compiler, C++17 not checked"
    fi
    for header in $(find src apps -name '*.h' | sort); do
        # The others there are compiled once per ISA level with its flags and macros, never alone.
        case $header in
        src/kernels/kernels.h) ;;
        src/kernels/*) continue ;;
        # These need the CUDA runtime's header; where there is a toolkit the build compiles them.
        src/backend/cuda/*) continue ;;
        esac
        $cc -std=c11 -fsyntax-only -Wall -Wextra -Werror -D_GNU_SOURCE -Iinclude -Isrc -Iapps/cli -x c "$header" ||
            echo "$header:1: error: does not compile by itself"
    done
} >>"$report" 2>/dev/null

# ---- exports
if [ -e "$build/libmica.so" ]; then
    $lint/exports.sh "$build/libmica.so" >>"$report"
else
    echo "$build/libmica.so:1: warning: not built, exports not checked" >>"$report"
fi

# ---- formatting
formatter=
for candidate in clang-format-14 clang-format; do
    if command -v $candidate >/dev/null 2>&1 && $candidate --version | grep -q 'version 14\.'; then
        formatter=$candidate
        break
    fi
done
if [ -n "$formatter" ]; then
    # shellcheck disable=SC2046
    $formatter --dry-run $($lint/list_sources.sh) 2>&1 | sed -n 's/^\([^ :]*\):\([0-9]*\):[0-9]*: warning: code should be clang-formatted.*/\1/p' |
        sort | uniq -c | while read -r count file; do
        echo "$file:1: error: $count places differ from clang-format; 'make format'"
    done >>"$report"
else
    echo "lint: clang-format 14 IS NOT INSTALLED: FORMATTING NOT CHECKED (apt-get install clang-format)" >&2
fi

cat "$report"
errors=$(grep -c ': error: ' "$report")
echo "lint: $errors errors, $(grep -c ': warning: ' "$report") warnings"
[ "$errors" -eq 0 ]
