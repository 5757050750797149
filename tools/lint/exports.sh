#!/bin/sh
# exports.sh LIBRARY - compares the symbols a libmica.so defines with those mica.h declares
# MICA_API. One line per difference; status 1 if there is any.
set -eu
library=$1
header=$(dirname "$0")/../../include/mica/mica.h
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed -n '/^MICA_API/,/;/p' "$header" | tr '\n' ' ' | tr ';' '\n' |
    sed -n 's/.*MICA_API[^(]*[ *]\(mica_[a-z0-9_]*\)(.*/\1/p' | sort >"$work/declared"
nm -D --defined-only "$library" | awk '$2 ~ /^[A-Z]$/ { sub(/@.*/, "", $3); print $3 }' |
    sort >"$work/exported"
[ -s "$work/declared" ] || { echo "$header:1: error: no MICA_API declaration found"; exit 1; }
comm -23 "$work/declared" "$work/exported" | sed "s|.*|$library:1: error: does not export &|" >"$work/found"
comm -13 "$work/declared" "$work/exported" | sed "s|.*|$library:1: error: exports &, which mica.h does not declare|" >>"$work/found"
cat "$work/found"
[ ! -s "$work/found" ]
