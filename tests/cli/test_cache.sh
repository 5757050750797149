# test_cache.sh - text features of prompts on disk: same pictures, damaged files, limits, many processes.
. "$(dirname "$0")/cli_test.sh"

json_get() { "$MICA_TOOLS/json_get" "$@"; }
kept=$XDG_CACHE_HOME/mica/prompts
small="-W 48 -H 48 --steps 1 --quiet --json"
hits() { test "$(json_get counters.prompt_cache_hits <"$out")" = "$1"; }
entries() { test "$(find "$kept" -name '*.safetensors' | wc -l)" -eq "$1"; }

# shellcheck disable=SC2086 # $small holds several options
{
    works image "$model" -p fox -n bad $small --no-cache -o plain.png
    check 'nothing is kept with --no-cache' test ! -e "$kept"
    works image "$model" -p fox -n bad $small -o first.png
    check 'the first run needs the encoder' hits 0
    works image "$model" -p fox -n bad $small -o second.png
    check 'the second does not' hits 1
    check 'same bytes when kept' cmp plain.png first.png
    check 'same bytes from the cache' cmp plain.png second.png
    check 'one entry' entries 1
    works image "$model" -p fox -n bad $small --threads 1 -o t.png
    check 'threads do not matter' hits 1

    # What is part of the key.
    works image "$model" -p foxes -n bad $small -o x.png
    check 'another prompt' hits 0
    works image "$model" -p fox -n worse $small -o x.png
    check 'another negative prompt' hits 0
    works image "$model" -p fox $small -o x.png
    check 'none' hits 0
    works image "$model" -p fox -n bad $small --precision int8 -o x.png
    check 'another arithmetic' hits 0
    works image "$MICA_GOLDEN/../z_image/model" -p fox $small -o x.png
    check 'another model' hits 0

    # A damaged entry counts as absent and is written anew.
    rm -r "$kept"
    works image "$model" -p fox -n bad $small -o x.png
    entry=$(find "$kept" -name '*.safetensors')
    cp "$entry" good
    size=$(wc -c <good)
    for cut in 0 7 100 $((size / 2)) $((size - 1)); do
        head -c "$cut" good >"$entry"
        works image "$model" -p fox -n bad $small -o cut.png
        check "cut to $cut bytes: the encoder runs" hits 0
        check "cut to $cut bytes: same picture" cmp plain.png cut.png
        check "cut to $cut bytes: whole again" cmp good "$entry"
    done
    { head -c $((size - 9)) good && printf 'xxxxxxxxx'; } >"$entry"
    works image "$model" -p fox -n bad $small -o flip.png
    check 'changed numbers are seen' hits 0
    check 'and do not reach the picture' cmp plain.png flip.png
    works image "$model" -p other -n bad $small -o x.png
    other=$(find "$kept" -name '*.safetensors' ! -path "$entry")
    cp "$other" "$entry"
    works image "$model" -p fox -n bad $small -o swap.png
    check 'an entry of another prompt is not taken' cmp plain.png swap.png

    # Many at once, on an empty folder and while entries come and go.
    rm -r "$kept"
    for i in 1 2 3 4 5 6; do
        "$MICA" image "$model" -p fox -n bad $small --cache-size 1 -o "many$i.png" >/dev/null 2>"many$i.err" </dev/null &
    done
    wait
    for i in 1 2 3 4 5 6; do
        check "process $i made the same picture" cmp plain.png "many$i.png"
        check "process $i was content" test ! -s "many$i.err"
    done
    check 'one entry of six processes' entries 1
    check 'nothing unfinished is left' sh -c '! ls "$1" | grep -q tmp' sh "$kept"

    # The limit: entries not used for longest go first.
    head -c 600000 /dev/zero >"$kept/00000000000000000000000000000000.safetensors"
    touch -d '2001-01-01' "$kept/00000000000000000000000000000000.safetensors"
    head -c 600000 /dev/zero >"$kept/00000000000000000000000000000001.safetensors"
    touch -d '2002-01-01' "$kept/00000000000000000000000000000001.safetensors"
    echo keep >"$kept/notes.txt"
    works image "$model" -p limit $small --cache-size 1 -o x.png
    check 'the oldest is gone' test ! -e "$kept/00000000000000000000000000000000.safetensors"
    check 'the next is not' test -e "$kept/00000000000000000000000000000001.safetensors"
    check 'other files are left alone' test -e "$kept/notes.txt"

    # A folder that cannot be made is a note and no failure.
    echo file >blocked
    XDG_CACHE_HOME=$scratch/blocked
    works image "$model" -p fox -n bad -W 48 -H 48 --steps 1 --json -o blocked.png
    check 'a note' grep -q 'the prompt is not cached' "$err"
    check 'and the picture' cmp plain.png blocked.png
    XDG_CACHE_HOME=relative
    HOME=$scratch/home
    works image "$model" -p fox $small -o x.png
    check 'a relative folder is ignored' test ! -e relative
    check 'the one below HOME is taken' test -d home/.cache/mica/prompts
    fails 2 'cache-size must be from 1' image "$model" -p x --cache-size 0
}
finish
