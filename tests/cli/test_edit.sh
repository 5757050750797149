# test_edit.sh - editing with Qwen-Image-Edit, through the program. Numbers: golden/edit*.
. "$(dirname "$0")/cli_test.sh"

edit=$MICA_GOLDEN/edit_model
fox=$MICA_GOLDEN/cases/edit_plus/input0.png
tall=$MICA_GOLDEN/cases/edit_plus/input1.png
areas="--ref-pixels 4096 --vision-pixels 4096"
small="-W 32 -H 32 --steps 1 --precision f32 --quiet --json"
json_get() { "$MICA_TOOLS/json_get" "$@"; }

# shellcheck disable=SC2086 # $small and $areas hold several options
{
    works image "$edit" -p 'x' -i "$fox" -i "$tall" $areas $small --edit plus --picture-positions grid -o a.png
    check 'the recipe tells how it was edited' sh -c '[ "$(cat)" = "input0.png
input1.png
4096
4096
plus
grid" ]' <<END
$(json_get parameters.inputs.0 parameters.inputs.1 parameters.ref_pixels parameters.vision_pixels \
        parameters.edit parameters.picture_positions <"$out")
END
    works inspect a.png --json
    check 'inspect prints it too' grep -q picture_positions "$out"

    # The last picture's shape, at an area of 1024 x 1024.
    works image "$edit" -p 'x' -i "$tall" -i "$fox" $areas --steps 1 --quiet --json -o b.png
    check 'size of an edit' sh -c '[ "$(cat)" = "1184 864 " ]' <<END
$(json_get outputs.0.width outputs.0.height <"$out" | tr '\n' ' ')
END

    # Other layouts of pixels are pictures, too.
    for kind in grey.png deep.png rgba.png turned.png grey.jpg turned6.jpg alpha.webp; do
        works image "$edit" -p 'x' -i "$MICA_GOLDEN/../pictures/$kind" $areas $small -o c.png
    done

    fails 2 'edit.*single, plus' image nowhere -p x --edit both
    fails 2 'picture-positions.*grid' image nowhere -p x --picture-positions 3d
    fails 2 'ref-pixels' image nowhere -p x --ref-pixels 12
    fails 2 'vision-pixels' image nowhere -p x --vision-pixels -4
    fails 2 'at most 1' image "$edit" -p x -i "$fox" -i "$tall" --edit single $small -o d.png
    fails 2 'needs a picture' image "$edit" -p x --edit plus $small -o d.png
    fails 2 'image_pad' image "$edit" -p 'a <|image_pad|>' -i "$fox" $areas $small -o d.png
    fails 2 '120 x 88.*256 pixels' image "$edit" -p x -i "$fox" --ref-pixels 256 $small -o d.png
    # Layers have transparency, and take one picture.
    layered="$MICA_GOLDEN/layered_model --text-encoder $edit/text_encoder --tokenizer $edit/tokenizer"
    works image $layered -p x -i "$fox" --ref-pixels 1024 --layers 3 --steps 1 --quiet --json -o l.png
    check 'one file and one seed a layer' sh -c '[ "$(cat)" = "l-1.png l-3.png 0 32 " ]' <<END
$(json_get outputs.0.path outputs.2.path outputs.2.seed outputs.2.width <"$out" | tr '\n' ' ')
END
    works inspect l-2.png --json
    check 'the recipe has the layers' grep -q '"layers":3' "$out"
    fails 2 'l.jpg.*transparency' image $layered -p x -i "$fox" --ref-pixels 1024 --quiet -o l.jpg
    fails 2 'layers.*1 to 63' image nowhere -p x --layers 64
    fails 2 'takes a picture apart' image $layered -p x --quiet -o d.png
    head -c 3000 "$fox" >cut.png
    fails 1 'cut.png' image "$edit" -p x -i cut.png $areas $small -o d.png
    check 'no picture after a failure' test ! -e d.png
}
# A chunk that claims two gigabytes is not believed.
checks=$((checks + 1))
(ulimit -v 1500000 && exec "$MICA" inspect "$MICA_GOLDEN/../../fuzz/corpus/png/huge_chunk.png") >"$out" 2>"$err"
grep -q 'the file ends too early' "$err" || complain 'a huge chunk'
finish
