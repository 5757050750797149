# test_disk_full.sh - no room for the result: one line, status 1, no part of a file left.
. "$(dirname "$0")/cli_test.sh"

small="-W 64 -H 64 --steps 1 --precision f32 --quiet"

# A file-size limit of 2 blocks (1 KiB) stands for a full disk and needs no privileges.
limited() {
    checks=$((checks + 1))
    (ulimit -f 2 && exec "$MICA" "$@") >/dev/null 2>.pipe-err </dev/null
    status=$?
    cp .pipe-err "$err" && rm .pipe-err
    : >"$out"
    [ "$status" -eq 1 ] || complain "limited $*: status $status, expected 1"
    [ "$(wc -l <"$err")" -eq 1 ] && grep -q '^mica: ' "$err" || complain "limited $*: not one line"
    leaves_nothing "limited $*"
}
# shellcheck disable=SC2086
{
    limited image "$model" -p 'a fox' $small -o x.png
    limited image "$model" -p 'a fox' $small -o x.webp
    limited image "$model" -p 'a fox' $small -o x.jpg --trace t.safetensors
}

# An older picture survives a failed replacement.
printf 'old' >.stdkeep
cp .stdkeep old.png
checks=$((checks + 1))
# shellcheck disable=SC2086
(ulimit -f 2 && exec "$MICA" image "$model" -p 'a fox' $small -o old.png) >/dev/null 2>&1
[ $? -eq 1 ] || complain 'replacing on a full disk did not fail'
check 'the old file is untouched' cmp .stdkeep old.png
rm old.png

# Standard output that takes nothing.
if [ -c /dev/full ]; then
    checks=$((checks + 1))
    "$MICA" image --help >/dev/full 2>"$err"
    [ $? -eq 1 ] && grep -q '^mica: cannot write to standard output' "$err" || complain '/dev/full'
    checks=$((checks + 1))
    "$MICA" inspect "$model" --json >/dev/full 2>"$err"
    [ $? -eq 1 ] && grep -q '^mica: cannot write to standard output' "$err" ||
        complain 'inspect to /dev/full'
    checks=$((checks + 1))
    "$MICA" image "$model" -p x -W 32 -H 32 --steps 1 -o - >/dev/full 2>"$err"
    [ $? -eq 1 ] && grep -q '^mica: cannot write to standard output' "$err" ||
        complain 'a picture to /dev/full'
    checks=$((checks + 1))
    printf 'What is a dog?\nWhat is a cat?\n' | "$MICA" chat --temp 0 --quiet >/dev/full 2>"$err"
    [ $? -eq 1 ] && [ "$(cat "$err")" = 'mica: cannot write to standard output: No space left on device' ] || complain 'chat to /dev/full'
    for words in '--temp 0 --quiet' '--tokens' '--json --quiet'; do
        checks=$((checks + 1))
        # shellcheck disable=SC2086
        "$MICA" complete -p dog -n 4 $words >/dev/full 2>"$err"
        [ $? -eq 1 ] && [ "$(cat "$err")" = 'mica: cannot write to standard output: No space left on device' ] ||
            complain "complete $words to /dev/full"
    done
fi
finish
