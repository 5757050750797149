# test_installed_library.sh PREFIX SOURCE CC [SANITIZERS] - docs/example.c against the installed
# library, found once through pkg-config and once through the CMake package, and run both times.
set -eu
prefix=$1
source=$2
cc=$3
sanitize=${4:+-fsanitize=$4}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=$MICA_GOLDEN/model

run_example() {
    (cd "$work" && rm -f fox.png && LD_LIBRARY_PATH=$libdir "$1" "$model" 'a red fox' fox.png)
    [ -s "$work/fox.png" ] || { echo "$1 made no picture" >&2; exit 1; }
}

# pkg-config
pc=$(find "$prefix" -name mica.pc)
libdir=$(dirname "$(dirname "$pc")")
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
# shellcheck disable=SC2046,SC2086 # lists of words
$cc -std=c11 -Wall -Wextra -Werror -pedantic $sanitize "$source/docs/example.c" \
    $(pkg-config --cflags --libs mica) -o "$work/by-pkg-config"
run_example "$work/by-pkg-config"

# CMake package
mkdir "$work/project"
cat >"$work/project/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.25)
project(example LANGUAGES C)
find_package(mica 0.1 REQUIRED CONFIG)
add_executable(example $source/docs/example.c)
target_link_libraries(example PRIVATE mica::mica)
END
cmake -S "$work/project" -B "$work/project/build" -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="$sanitize" >/dev/null
cmake --build "$work/project/build" >/dev/null
run_example "$work/project/build/example"

# An installed tree may be moved.
cp -R "$prefix" "$work/moved"
"$work/moved/bin/mica" --version
echo "example.c works through pkg-config and CMake"
