#!/bin/sh
# run_fuzzers.sh BUILD_DIR SECONDS - runs every libFuzzer program for a while.
#
# Starts from tests/fuzz/corpus/<name>, writes what it finds to BUILD_DIR/corpus/<name> and
# crashing inputs to BUILD_DIR/crash-<name>-*; the tree itself is not touched. Ends with
# status 1 if any target crashed.
set -eu
build=$1
seconds=$2
corpus=$(dirname "$0")/corpus
status=0
ran=0
for program in "$build"/tests/fuzz/fuzz_*; do
    [ -x "$program" ] && [ -f "$program" ] || continue
    name=${program##*/fuzz_}
    mkdir -p "$build/corpus/$name"
    echo "fuzz: $name for $seconds s"
    if ! "$program" -max_total_time="$seconds" -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 \
        -artifact_prefix="$build/crash-$name-" "$build/corpus/$name" "$corpus/$name" \
        >"$build/fuzz-$name.log" 2>&1; then
        echo "fuzz: $name FAILED, see $build/fuzz-$name.log" >&2
        tail -n 30 "$build/fuzz-$name.log" >&2
        status=1
    fi
    grep 'stat::number_of_executed_units' "$build/fuzz-$name.log" || true
    ran=$((ran + 1))
done
[ "$ran" -gt 0 ] || { echo "fuzz: no targets in $build" >&2; exit 1; }
exit "$status"
