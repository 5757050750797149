# cli_test.sh - sourced by the test scripts: a scratch folder and a few ways to expect things.
#
#   fails STATUS PATTERN words...    mica ends with STATUS, silent on stdout, with one line on
#                                    stderr that begins "mica: " and matches PATTERN (grep -E)
#   works words...                   mica ends with 0; its output is in $out, stderr in $err
#   check TEXT command...            any command that must succeed
#
# The first failing expectation is told with what came instead, the rest still runs; `finish`
# gives the verdict. Environment: MICA the program, MICA_TOOLS the helpers, MICA_GOLDEN the data.
set -u
scratch=$(mktemp -d)
XDG_CACHE_HOME=$(mktemp -d) # a user's own is nobody's business
export XDG_CACHE_HOME
caches=$XDG_CACHE_HOME
trap 'rm -rf "$scratch" "$caches"' EXIT
cd "$scratch" || exit 1
model=$MICA_GOLDEN/model
out=$scratch/.stdout
err=$scratch/.stderr
failures=0
checks=0

complain() {
    failures=$((failures + 1))
    echo "FAIL: $1" >&2
    sed 's/^/    stdout: /' "$out" | head -n 5 >&2
    sed 's/^/    stderr: /' "$err" | head -n 5 >&2
}

run_mica() {
    "$MICA" "$@" >"$out" 2>"$err" </dev/null
}

fails() {
    expected=$1
    pattern=$2
    shift 2
    checks=$((checks + 1))
    run_mica "$@"
    status=$?
    if [ "$status" -ne "$expected" ]; then
        complain "mica $*: status $status, expected $expected"
    elif [ -s "$out" ]; then
        complain "mica $*: wrote to stdout"
    elif [ "$(wc -l <"$err")" -ne 1 ] || ! grep -q '^mica: ' "$err"; then
        complain "mica $*: not one line 'mica: ...'"
    elif ! grep -Eq -- "$pattern" "$err"; then
        complain "mica $*: message does not match '$pattern'"
    fi
}

works() {
    checks=$((checks + 1))
    run_mica "$@"
    status=$?
    [ "$status" -eq 0 ] || complain "mica $*: status $status"
}

check() {
    checks=$((checks + 1))
    text=$1
    shift
    "$@" || complain "$text"
}

# Neither pictures nor temporary files in the scratch folder.
leaves_nothing() {
    checks=$((checks + 1))
    left=$(find . -type f ! -name '.std*' ! -path './model*' ! -path './broken*')
    [ -z "$left" ] || complain "$1: left $left"
}

copy_model() {
    rm -rf broken
    cp -R "$model" broken
    chmod -R u+w broken
}

finish() {
    echo "$checks checks, $failures failed"
    [ "$checks" -gt 0 ] && [ "$failures" -eq 0 ]
    exit
}
