# test_installed_library.sh PREFIX SOURCE CC [SANITIZERS] - the examples of docs/ against the installed
# library, found through pkg-config, example.c also through the CMake package, and run; a C++ program.
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

for example in example_text example_speech; do
    # shellcheck disable=SC2046,SC2086
    $cc -std=c11 -Wall -Wextra -Werror -pedantic $sanitize "$source/docs/$example.c" \
        $(pkg-config --cflags --libs mica) -o "$work/$example"
done
text=$(LD_LIBRARY_PATH=$libdir "$work/example_text" "$prefix/share/mica/models/demo_text" \
    'What is a computer?' 'What is a dog?')
[ "$(echo "$text" | grep -c .)" -ge 2 ] || { echo "example_text wrote '$text'" >&2; exit 1; }
voice=$MICA_GOLDEN/../speech/recordings/ref4.flac
speech=$MICA_GOLDEN/../gpt_sovits/models
mkdir "$work/speech"
for part in s1.ckpt sovits_v2.pth chinese-hubert-base chinese-roberta-wwm-ext-large; do
    ln -s "$speech/$part" "$work/speech/$part"
done
LD_LIBRARY_PATH=$libdir "$work/example_speech" "$work/speech" "$voice" 'Hello.' "$work/hello.wav"
[ -s "$work/hello.wav" ] || { echo "example_speech made no sound" >&2; exit 1; }

# From C++: the header, the linkage, and what the examples do not show.
case $cc in
*clang*) cxx=clang++ ;;
*) cxx=g++ ;;
esac
if command -v $cxx >/dev/null; then
    # shellcheck disable=SC2046,SC2086
    $cxx -std=c++17 -Wall -Wextra -Werror -pedantic $sanitize "$source/tests/cli/consumer.cpp" \
        $(pkg-config --cflags --libs mica) -o "$work/consumer"
    LD_LIBRARY_PATH=$libdir "$work/consumer" "$model"
fi

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

# The CMake package takes the versions that programs linked to this one can use: those of its soname.
version=$(pkg-config --modversion mica)
soname=libmica.so.${version%.*}
[ -e "$libdir/$soname" ] || { echo "there is no $soname of $version" >&2; exit 1; }
LC_ALL=C readelf -d "$libdir/$soname" | grep -q "soname: \[$soname\]" ||
    { echo "the soname is not $soname" >&2; exit 1; }
for other in 0.0 0.2 1.0; do
    sed "s/find_package(mica 0.1 /find_package(mica $other /" "$work/project/CMakeLists.txt" >"$work/other"
    mkdir "$work/project$other"
    mv "$work/other" "$work/project$other/CMakeLists.txt"
    if cmake -S "$work/project$other" -B "$work/project$other/build" -DCMAKE_PREFIX_PATH="$prefix" \
        -DCMAKE_C_COMPILER="$cc" >"$work/log" 2>&1; then
        echo "the CMake package gives $version for $other" >&2
        exit 1
    fi
    grep -q "considered but not accepted" "$work/log" || { cat "$work/log" >&2; exit 1; }
done

# An installed tree may be moved.
cp -R "$prefix" "$work/moved"
"$work/moved/bin/mica" --version
echo "the examples work through pkg-config, example.c through CMake"
