# test_lora.sh - LoRA files through the program: pictures, recipes, inspect, refusals.
. "$(dirname "$0")/cli_test.sh"

json_get() { "$MICA_TOOLS/json_get" "$@"; }
loras=$MICA_GOLDEN/../lora
cp "$loras/qwen_image/lora.safetensors" style.safetensors
cp "$loras/qwen_image/lycoris.safetensors" detail:2.safetensors
small="-p fox -W 48 -H 48 --steps 2 --precision f32 --quiet"

# shellcheck disable=SC2086 # $small holds several options
{
    works image "$model" $small -o plain.png
    works image "$model" $small --lora style.safetensors -o one.png
    works image "$model" $small --lora style.safetensors:1 -o same.png
    works image "$model" $small --lora style.safetensors:0.5 -o half.png
    works image "$model" $small --lora style.safetensors:0.5 --lora detail:2.safetensors:-0.5 --json -o two.png
    cp "$out" two.json
    check 'scale 1 is the default' cmp one.png same.png
    check 'a LoRA changes the picture' sh -c '! cmp -s plain.png one.png'
    check 'its scale does' sh -c '! cmp -s one.png half.png'
    check 'a second one does' sh -c '! cmp -s half.png two.png'
    check 'the recipe has names, scales and hashes' sh -c '[ "$(cat)" = "style
0.5
detail:2
-0.5" ]' <<END
$(json_get parameters.loras.0.name parameters.loras.0.scale parameters.loras.1.name parameters.loras.1.scale <two.json)
END
    check 'a hash has 16 digits' test "$(json_get parameters.loras.1.hash <two.json | wc -c)" = 17
    works inspect two.png
    check 'inspect prints the LoRA of a picture' grep -q '<lora:style:0.5>.*' "$out"

    works inspect style.safetensors
    check 'inspect names the family' grep -q 'LoRA for Qwen-Image' "$out"
    check 'inspect tells the ranks' grep -q 'ranks 2 to 4' "$out"
    works inspect --json detail:2.safetensors
    check 'as JSON' sh -c '[ "$(cat)" = "lora
qwen-image" ]' <<END
$(json_get kind family <"$out")
END
    works inspect "$loras/flux2_klein/fused.safetensors"
    check 'BFL names are FLUX.2' grep -q 'LoRA for FLUX.2-klein' "$out"

    fails 1 'absent.safetensors' image "$model" $small --lora absent.safetensors -o x.png
    fails 1 'none of its .* layers' image "$model" $small --lora "$loras/z_image/fused.safetensors" -o x.png
    fails 1 'is no LoRA' image "$model" $small --lora "$MICA_GOLDEN/model/vae/diffusion_pytorch_model.safetensors" -o x.png
    check 'nothing is written then' test ! -e x.png

    # Lightning: few steps with the LoRA's own noise levels.
    works image "$model" $small --steps 4 --schedule lightning --lora style.safetensors -o fast.png
}
# A file for another model of the same layers' names.
fails 1 'x_embedder adds \[64, 128\] to a layer of this model that is \[64, 64\];.*mica inspect' image "$MICA_GOLDEN/../z_image/model" \
    -p x --lora "$MICA_GOLDEN/../lora/flux2_klein/lora.safetensors" --steps 1 -W 64 -H 64
finish
