# test_demo.sh - the demo model: found without being named, run as its mica.json says.
. "$(dirname "$0")/cli_test.sh"
json_get() { "$MICA_TOOLS/json_get" "$@"; }
pixels() { "$MICA_TOOLS/picture_pixels" "$@"; }

# Installed below the prefix, its own size, steps, guidance and negative prompt.
works image -p 'a red fox in the snow' -o d.png --json --seed 7
cp "$out" d.json
check 'its size' sh -c '[ "$1" = "256
256" ]' sh "$(json_get outputs.0.width outputs.0.height <d.json)"
check 'its steps' test "$(json_get parameters.steps <d.json)" = 30
check 'its guidance' test "$(json_get parameters.guidance <d.json)" = 4
check 'guided' test "$(json_get parameters.negative_prompt <d.json)" = ' '
check 'the recipe names the model' test "$(json_get parameters.model <d.json)" = demo

# What is given wins; guidance that is off needs no negative prompt.
works image -p 'a cat' -W 128 -H 192 --steps 2 --guidance 1 -o e.png --json
cp "$out" e.json
check 'size, steps and no note' test ! -s "$err"
check 'given width' test "$(json_get outputs.0.width <e.json)" = 128
check 'given steps' test "$(json_get parameters.steps <e.json)" = 2
check 'not guided' test "$(json_get parameters.guidance <e.json)" = 1
works image -p 'a cat' --sigmas 1,0.5 -o e.png --json -i d.png --strength 0.5 -W 128
check 'own sigmas, and the start picture decides the size' test "$(json_get outputs.0.height <"$out")" = 128

# Any number of threads gives the same bytes, in both precisions.
for precision in f32 bf16; do
    works image -p 'an owl' -W 128 -H 128 --steps 3 --precision $precision --threads 1 -o t1.png --quiet
    works image -p 'an owl' -W 128 -H 128 --steps 3 --precision $precision --threads 3 -o t3.png --quiet
    check "threads, $precision" pixels t1.png t3.png
done

# mica.json of any folder; what is wrong in it is told.
copy_model
echo '{"width": 32, "height": 48, "steps": 1}' >broken/mica.json
works image broken -p 'a fox' -o f.png --json
check 'the size of a folder' test "$(json_get outputs.0.height <"$out")" = 48
echo '{"steps": 0}' >broken/mica.json
fails 1 'mica.json.*steps' image broken -p 'a fox' -o x.png
echo '{"negative_prompt": 3}' >broken/mica.json
fails 1 'mica.json.*negative_prompt' image broken -p 'a fox' -o x.png
echo '{' >broken/mica.json
fails 1 'mica.json' image broken -p 'a fox' -o x.png
check 'nothing written' test ! -e x.png
finish
