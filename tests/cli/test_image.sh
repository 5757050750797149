# test_image.sh - what a working run gives: files, names, JSON, recipes, prompts, sizes.
. "$(dirname "$0")/cli_test.sh"

small="-W 32 -H 32 --steps 2 --precision f32"
json_get() { "$MICA_TOOLS/json_get" "$@"; }
is_png() { [ "$(head -c 8 "$1" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a ]; }

# Files and names. Options are split on purpose: $small holds several.
# shellcheck disable=SC2086
works image "$model" -p 'a fox' $small -o a.png
check 'a.png is a PNG' is_png a.png
check 'the summary names the picture' grep -q '^a.png: 32x32, seed 0' "$out"
check 'no progress bar in a pipe' test ! -s "$err"
works image "$model" -p 'a fox' $small -o b.png --quiet
check 'quiet is quiet' test ! -s "$out"
check 'the same call gives the same bytes' cmp a.png b.png
works image "$model" -p 'a fox' $small -o b.png --seed 1 --quiet
check 'the picture was replaced' sh -c '! cmp -s a.png b.png'
works image "$model" -p 'a fox' $small -o '%s%n.png' --batch 2 --quiet
check 'first of the batch' is_png '%s%n-1.png'
check 'second of the batch' is_png '%s%n-2.png'
check 'no unnumbered picture' test ! -e '%s%n.png'
works image "$model" -p 'a fox' $small --quiet
check 'default name' is_png out.png
# To a pipe: the bytes of the file and nothing else.
works image "$model" -p 'a fox' $small -o -
check 'standard output is the file' cmp "$out" a.png
works image "$model" -p 'a fox' -p 'a cat' $small -o - --sheet 2
check 'a sheet to standard output' is_png "$out"
check 'no file for standard output' test ! -e ./-
fails 2 'takes one picture' image "$model" -p 'a fox' $small -o - --batch 2
fails 2 'and --json both want standard output' image "$model" -p 'a fox' $small -o - --json
fails 2 'and --tokens both want standard output' image "$model" -p 'a fox' $small -o - --tokens
works image "$model" -p 'a fox' $small -o a.jpg --quiet
check 'JPEG' sh -c '[ "$(head -c 3 a.jpg | od -An -tx1 | tr -d " \n")" = ffd8ff ]'
works image "$model" -p 'a fox' $small -o a.webp --quiet
check 'WebP' sh -c '[ "$(head -c 4 a.webp)" = RIFF ]'

# JSON: exactly one object, with the figures of the contract.
works image "$model" -p 'a "fox"
🦊' -n '' $small -o j.png --json --batch 2 --seed 7
cp "$out" j.json
check 'one JSON object' json_get seconds.open seconds.text seconds.prepare seconds.denoise \
    seconds.decode seconds.total steps_per_second peak_memory device_memory streamed_weights parameters <j.json >j.values
check 'output paths' sh -c '[ "$(cat)" = "j-1.png
j-1.png
j-2.png
8" ]' <<END
$(json_get output outputs.0.path outputs.1.path outputs.1.seed <j.json)
END
check 'each picture tells its prompt' sh -c '[ "$1" = "a \"fox\"
🦊" ]' sh "$(json_get outputs.1.prompt <j.json)"
check 'the prompt survives' sh -c '[ "$1" = "a \"fox\"
🦊" ]' sh "$(json_get parameters.prompt <j.json)"
check 'no allocation inside blocks' test "$(json_get counters.block_allocations <j.json)" = 0
check 'no wait inside blocks' test "$(json_get counters.block_waits <j.json)" = 0
check 'rotary tables built once' test "$(json_get counters.rope_builds <j.json)" = 1

# A batch of two is the same pictures as two runs.
works image "$model" -p 'a fox' $small -o s.png --batch 2 --seed 5 --quiet
works image "$model" -p 'a fox' $small -o s5.png --seed 5 --quiet
works image "$model" -p 'a fox' $small -o s6.png --seed 6 --quiet
for k in 1 2; do
    works inspect s-$k.png --json
done
pixels() { "$MICA_TOOLS/picture_pixels" "$@"; }
check 'batch picture 1' pixels s-1.png s5.png
check 'batch picture 2' pixels s-2.png s6.png

# Any number of threads gives the same bytes.
works image "$model" -p 'a fox' $small -o t1.png --threads 1 --quiet
works image "$model" -p 'a fox' $small -o t3.png --threads 3 --quiet
check '1 and 2 threads' pixels a.png t1.png
check '1 and 3 threads' pixels t1.png t3.png

# Of a JPEG or a WebP the part that its EXIF comment holds.
for kind in jpg webp; do
    works image "$model" -p 'a fox 🦊' $small -o "k.$kind" --seed 5 --quiet
    works inspect "k.$kind"
    check "recipe of .$kind" grep -q 'a fox 🦊' "$out"
    check "seed of .$kind" grep -q 'Seed: 5' "$out"
done

# A picture made again from its recipe, and with options over it.
odd='-W 48 -H 32 --steps 3 --precision f32 --guidance 2.25 --seed 18446744073709551615 --solver heun --schedule karras'
works image "$model" -p '@@at "seed":7, 🦊' -n ' ' $odd --max-text-tokens 20 --cache fast -o first.png --quiet
works image "$model" --recipe first.png -o again.png --quiet
check 'the recipe makes the same file' cmp first.png again.png
works image "$model" --recipe first.png --seed 4 --steps 2 -p 'a cat' -o other.png --json
cp "$out" other.json
check 'options go over the recipe' sh -c '[ "$(cat)" = "a cat
4
2
2.25
heun
48" ]' <<END
$(json_get parameters.prompt parameters.seed parameters.steps parameters.guidance parameters.solver \
    parameters.width <other.json)
END
works image "$model" -p x --sigmas 1,0.7,0.2 -W 32 -H 32 --precision f32 -o sigmas.png --quiet
works image "$model" --recipe sigmas.png -o sigmas2.png --quiet
check 'own sigmas come back' cmp sigmas.png sigmas2.png
works image "$model" --recipe sigmas.png --steps 2 -o sigmas3.png --quiet
works image "$model" -p x -i first.png --strength 0.5 $small -o start.png --quiet
fails 2 'was made with inputs \["first.png"\].*-i FILE' image "$model" --recipe start.png -o no.png
works image "$model" --recipe start.png -i first.png -o start2.png --quiet
check 'a start picture is given again' cmp start.png start2.png
fails 1 'no recipe of mica inside' image "$model" --recipe a.jpg -o no.png
works image "$model" -p x -p y $small --sheet 2 -o sheet.png --quiet
fails 1 'sheet.png: a contact sheet holds' image "$model" --recipe sheet.png -o no.png
fails 1 'takes a picture: .*no-such.png' image "$model" --recipe no-such.png -o no.png
works image --recipe first.png -o demo.png
check 'another model is told' grep -q 'first.png was made with another model: ' "$err"
check 'nothing was made of refused recipes' test ! -e no.png

# The recipe can be read back.
works inspect j-2.png
check 'recipe for people' grep -q 'fox' "$out"
works inspect j-2.png --json
cp "$out" r.json
check 'recipe as JSON' json_get <r.json
# What a picture or a path says reaches no terminal as an order to it.
odd=$(printf 'odd\033[31m.png')
# shellcheck disable=SC2086
works image "$model" -p "$(printf 'red\033[31m\tfox\302\2335n')" $small -o "$odd"
check 'a path is told without control characters' grep -q '^odd?\[31m.png: ' "$out"
works inspect "$odd"
check 'a recipe too' grep -q "$(printf 'red?\\[31m\tfox??5n')" "$out"
fails 1 'odd[?]5n: ' inspect "$(printf 'odd\302\2335n')"
rm "$odd"
works inspect "$model"
check 'the family is told' grep -qi 'qwen' "$out"
works inspect "$model" --json
check 'the report is JSON' json_get <"$out"

# Prompts: files, standard input, empty, not UTF-8, long.
printf 'a fox\n' >prompt.txt
works image "$model" -p @prompt.txt $small -o p.png --quiet
check 'prompt from a file' pixels a.png p.png
checks=$((checks + 1))
printf 'a fox' | "$MICA" image "$model" -p - $small -o p2.png --quiet >"$out" 2>"$err" ||
    complain 'prompt from standard input'
check 'prompt from standard input' pixels a.png p2.png
works image "$model" -p '' $small -o e.png --quiet
check 'empty prompt' is_png e.png
works image "$model" -p "$(printf 'bad \377\300 bytes')" $small -o u.png
check 'a note about UTF-8' grep -q '^mica: note: the prompt is not valid UTF-8' "$err"
check 'picture from it all the same' is_png u.png
works inspect u.png --json
check 'its recipe is valid JSON' json_get <"$out"

# Sizes are rounded down to what the model can do, with a note.
works image "$model" -p 'a fox' -W 250 -H 64 --steps 1 -o w.png --json
cp "$out" w.json
check 'a note about the size' grep -q '^mica: note: .*250' "$err"
check 'rounded down' test "$(json_get outputs.0.width <w.json)" = 240

# Token ids: alone, and beside a picture when one is asked for.
works image "$model" -p 'a fox' --tokens
check 'only numbers' grep -Eq '^[0-9]+( [0-9]+)*$' "$out"
works image "$model" -p 'a fox' -n 'b' --tokens --json
check 'tokens as JSON' sh -c '"$1" tokens.prompt.0 tokens.negative.0 <"$2" >/dev/null' sh "$MICA_TOOLS/json_get" "$out"
finish
