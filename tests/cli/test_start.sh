# test_start.sh - pictures made from pictures, through the program.
. "$(dirname "$0")/cli_test.sh"

small="--steps 2 --precision f32 --quiet --json"
cases=$MICA_GOLDEN/cases
size_is() { test "$(json_get outputs.0.width outputs.0.height <"$out" | tr '\n' ' ')" = "$1 "; }
json_get() { "$MICA_TOOLS/json_get" "$@"; }

# shellcheck disable=SC2086 # $small holds several options
{
    # The reference's pictures of these calls, made from its seeds.
    works image "$model" -p 'A red fox on a mossy rock' -n ' ' --guidance 3 -W 96 -H 64 --steps 4 --seed 4711 \
        -i "$cases/img2img/input0.png" --strength 0.6 --precision f32 --trace t.safetensors -o a.png --json
    cp "$out" a.json
    check 'the recipe has strength and input' sh -c '[ "$(cat)" = "0.6
input0.png" ]' <<END
$(json_get parameters.strength parameters.inputs.0 <a.json)
END
    works inspect a.png
    check 'inspect prints the strength' grep -q strength "$out"

    # The size is the picture's, with or without a border; other sizes on request.
    works image "$model" -p x -i "$cases/img2img/input0.png" --strength 0.5 $small -o b.png
    check 'size of the start picture' size_is '120 80'
    works image "$model" -p x -i "$cases/img2img/input0.png" --expand 4,0,12,8 $small -o c.png
    check 'size with a border' size_is '136 88'
    works image "$model" -p x -i "$cases/img2img/input0.png" -W 48 $small -o d.png
    check 'height follows width' size_is '48 32'

    # What is wrong with the command line is told before the model opens.
    fails 2 'strength.*-i FILE' image nowhere -p x --strength 0.5
    fails 2 'mask.*-i FILE' image nowhere -p x --mask m.png
    fails 2 'expand.*-i FILE' image nowhere -p x --expand 8
    fails 2 'expand.*got 2' image nowhere -p x -i a.png --expand 8,9
    fails 2 'expand.*whole' image nowhere -p x -i a.png --expand 8.5
    fails 2 'strength.*0.001 to 1' image nowhere -p x -i a.png --strength 2
    fails 1 'absent.png.*does not exist' image nowhere -p x -i absent.png
    fails 1 'absent.png.*does not exist' image nowhere -p x -i a.png --mask absent.png

    # Files that are no pictures.
    printf 'P6 no' >bad.png
    fails 1 'bad.png' image "$model" -p x -i bad.png --strength 0.5 $small -o e.png
    head -c 400 a.png >cut.png
    fails 1 'cut.png' image "$model" -p x -i a.png --mask cut.png $small -o e.png
    check 'no picture after a failure' test ! -e e.png
    fails 2 '2 pictures were given' image "$model" -p x -i a.png -i a.png $small -o e.png
}
finish
