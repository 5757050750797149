#!/bin/sh
# install_deps.sh - installs the Debian packages that Mica needs, and does nothing when all are there.
#
#   tools/install_deps.sh           build and tests
#   tools/install_deps.sh --lint    also what `make lint` and `make format` need
#   tools/install_deps.sh --fuzz    also what `make fuzz` needs
#   tools/install_deps.sh --list    print the packages and why, install nothing
#
# Debian 12 or newer and its derivatives. sudo is used only when something is missing and the
# caller is not root. Elsewhere it names what is needed and leaves the verdict to the build.
set -eu

# package            why
build_packages='
gcc                  C11 compiler
g++                  checks that mica.h compiles as C++17
libc6-dev            C library headers
make                 the front door: make, make test, ...
cmake                build system, 3.25 or newer
ninja-build          the generator that CMakePresets.json names
pkg-config           finds the libraries below
libdnnl-dev          oneDNN: matrix products and convolutions on the CPU
libcjson-dev         cJSON: configuration, index and tokenizer files
libpcre2-dev         PCRE2: pre-tokenizer expressions
libutf8proc-dev      utf8proc: Unicode normalisation
libpng-dev           PNG in and out
libjpeg-dev          JPEG in and out
libwebp-dev          WebP in and out
libsndfile1-dev      sound files in and out
libsoxr-dev          resampling of sound
libcmocka-dev        unit tests
'
lint_packages='
clang-format         source formatting
binutils             nm: exported symbols
'
fuzz_packages='
clang                libFuzzer
libomp-dev           OpenMP for clang
'

usage() {
    echo "usage: tools/install_deps.sh [--lint] [--fuzz] [--list]" >&2
    exit 2
}

packages=$build_packages
list=no
for argument in "$@"; do
    case $argument in
    --lint) packages="$packages$lint_packages" ;;
    --fuzz) packages="$packages$fuzz_packages" ;;
    --list) list=yes ;;
    *) usage ;;
    esac
done

if [ "$list" = yes ]; then
    printf '%s\n' "$packages" | sed '/^$/d'
    exit 0
fi

names=$(printf '%s\n' "$packages" | awk 'NF { print $1 }')
if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
    echo "install_deps.sh: this is not a Debian system; the equivalents of these packages are needed:" >&2
    printf '%s\n' "$packages" | sed '/^$/d; s/^/  /' >&2
    exit 0
fi

# "virtual" packages such as pkg-config on newer systems are provided by others, so the real ones
# and what they provide are both looked at.
installed=$(dpkg-query -W -f='${db:Status-Abbrev}${binary:Package}, ${Provides}\n' 2>/dev/null |
    awk '/^ii/ { sub(/^ii */, ""); print }' | tr ',' '\n' | sed 's/^ *//; s/[: (].*//' | sort -u)
missing=
for name in $names; do
    printf '%s\n' "$installed" | grep -qxF -- "$name" || missing="$missing $name"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "install_deps.sh: run as root: apt-get install$missing" >&2
        exit 1
    fi
    as_root=sudo
fi

echo "install_deps.sh: installing$missing"
# The package lists may be old or absent; they are fetched only when the first try fails.
install_missing() {
    # shellcheck disable=SC2086 # a list of words on purpose
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}
if ! install_missing >/dev/null 2>&1; then
    $as_root apt-get update -qq
    install_missing
fi
