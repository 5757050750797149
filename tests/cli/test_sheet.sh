# test_sheet.sh - several prompts, contact sheets, and pictures in the terminal.
. "$(dirname "$0")/cli_test.sh"
json_get() { "$MICA_TOOLS/json_get" "$@"; }
pixels() { "$MICA_TOOLS/picture_pixels" "$@"; }
small="-W 32 -H 32 --steps 1 --precision f32"

# Prompts one after the other, each from the same seed, numbered through.
# shellcheck disable=SC2086
{
    works image "$model" -p 'a fox' -p 'an owl' --batch 2 --seed 3 $small -o p.png --json
    cp "$out" p.json
    works image "$model" -p 'an owl' --seed 4 $small -o o.png --quiet
}
check 'four pictures' test -s p-4.png -a ! -e p-5.png
check 'the last is the second of the second prompt' pixels p-4.png o.png
check 'their seeds' sh -c '[ "$1" = "3
4
4" ]' sh "$(json_get outputs.0.seed outputs.1.seed outputs.3.seed <p.json)"
check 'two sets of rotary tables' test "$(json_get counters.rope_builds <p.json)" = 2

# One sheet of them: 2 x 2 with 8 pixels between, nothing else written.
# shellcheck disable=SC2086
{
    works image "$model" -p 'a fox' -p 'an owl' --batch 2 --seed 3 $small -o s.png --sheet auto --json
    cp "$out" s.json
    works image "$model" -p 'a fox' --batch 3 $small -o r.png --sheet 3 --json
    cp "$out" r.json
}
check 'a sheet alone' test -s s.png -a ! -e s-1.png
check 'its size' sh -c '[ "$1" = "72
72" ]' sh "$(json_get outputs.0.width outputs.0.height <s.json)"
check 'three columns' sh -c '[ "$1" = "112
32" ]' sh "$(json_get outputs.0.width outputs.0.height <r.json)"
works inspect s.png
check 'the recipe lists both prompts' sh -c 'grep -q "a fox" "$1" && grep -q "an owl" "$1"' sh "$out"

# The terminal: nothing but a note in a pipe; by name anywhere.
# shellcheck disable=SC2086
{
    works image "$model" -p 'a fox' $small -o t.png --show
    check 'a note' grep -q '^mica: note: --show: standard output is no terminal' "$err"
    check 'no escape' sh -c '! grep -q "$(printf "\033")" "$1"' sh "$out"
    for protocol in kitty iterm2 sixel; do
        works image "$model" -p 'a fox' $small -o t.png --quiet --show-as $protocol
        cp "$out" $protocol.txt
    done
    works image "$model" -p 'a fox' $small -o t.jpg --quiet --show-as iterm2
}
esc=$(printf '\033')
check 'kitty: pixels and size' grep -q "^${esc}_Ga=T,q=2,f=24,s=32,v=32,m=0;[A-Za-z0-9+/]*${esc}" kitty.txt
check 'kitty: 3,072 bytes are 4,096 characters' test "$(tr -cd 'A-Za-z0-9+/=' <kitty.txt | wc -c)" -gt 4096
check 'iTerm2: the file' sh -c 'sed "s/^.*://; s/\a.*$//" iterm2.txt | base64 -d | cmp - t.png'
check 'sixel: size' grep -q "^${esc}P0;1q\"1;1;32;32#0;2;0;0;0" sixel.txt
check 'sixel: six bands' test "$(tr -cd -- '-' <sixel.txt | wc -c)" -ge 6

# Usage.
fails 2 'standard input' image "$model" -p - -p - -o x.png
fails 2 'trace' image "$model" -p a -p b --trace x.safetensors -o x.png
fails 2 'tokens' image "$model" -p a -p b --tokens
fails 2 'json' image "$model" -p a --show --json
fails 2 'sheet' image "$model" -p a --sheet 0
fails 2 'show-as' image "$model" -p a --show-as paper
finish
