# test_convert.sh - `mica convert` through the program: files of both kinds, reports, pictures from them,
# refusals.
. "$(dirname "$0")/cli_test.sh"

json_get() { "$MICA_TOOLS/json_get" "$@"; }
transformer=$model/transformer
encoder=$model/text_encoder
small="-p fox -W 48 -H 48 --steps 2 --precision f32 --quiet"

fails 2 'convert needs IN and OUT' convert
fails 2 'convert needs IN and OUT' convert "$transformer"
fails 2 'convert needs --type' convert "$transformer" a.gguf
fails 2 'takes 2 operands' convert "$transformer" a.gguf b.gguf --type q8
fails 2 "type 'q9' is not known; q8, q6, q5, q4 \(in GGUF Q8_0, Q6_K, Q5_K, Q4_K\), f32, f16, bf16, fp8 and int8 are" convert "$transformer" a.gguf --type q9
fails 2 'ends in .safetensors or .gguf' convert "$transformer" a.bin --type q8
fails 2 'a GGUF file has no type int8' convert "$transformer" a.gguf --type int8
fails 2 'this is a whole model' convert "$model" a.gguf --type q8
fails 1 'no such file or folder' convert absent a.gguf --type q8
fails 1 'cannot create' convert "$transformer" absent/a.gguf --type q8
fails 1 'GGUF is written of Mixtral' convert "$model/vae" a.gguf --type q8
fails 2 'ends in .safetensors or .gguf' convert "$transformer/config.json" out --type q8
fails 2 'shard-size' convert "$model" out --type q8 --shard-size 0
fails 1 'cannot create' convert "$model" absent/out --type q8
fails 2 'a voice is written as .safetensors' convert "$model/vae" a.gguf --type q8 --synthesizer x.pth
leaves_nothing 'refusals'

works convert "$transformer" t.gguf --type q8
check 'the summary tells the error' grep -q 'relative error 0.00' "$out"
check 'no bar in a pipe' test ! -s "$err"
works convert "$transformer" t.safetensors --type q4 --json
cp "$out" report.json
check 'the report has layers' test "$(json_get layers.0.name <report.json | wc -c)" -gt 5
check 'and their errors' test "$(json_get average_error <report.json | cut -c1-3)" = 0.0
works convert "$encoder" e.gguf --type q8 --quiet
check '--quiet is quiet' test ! -s "$out"
works inspect t.gguf --json
check 'inspect counts packed parameters' test "$(json_get parts.transformer.dtypes.q8_0 <"$out")" -gt 100000
works inspect t.safetensors
check 'inspect names packed types' grep -q 'mlx4' "$out"

# shellcheck disable=SC2086 # $small holds several options
{
    works image "$model" $small -o plain.png
    works image "$model" --transformer t.gguf --text-encoder e.gguf $small -o a.png
    works image "$model" --transformer t.gguf --text-encoder e.gguf $small --threads 1 -o b.png
    check 'threads change nothing' cmp a.png b.png
    works image "$model" --transformer t.safetensors $small -o c.png
    check 'four bits are not eight' sh -c '! cmp -s a.png c.png'
    check 'eight are not sixteen' sh -c '! cmp -s a.png plain.png'
}

# A whole model as a folder.
works convert "$model" whole --type q8 --shard-size 300k
check 'the summary names both networks' grep -q 'whole/text_encoder/model' "$out"
check 'the VAE is copied' cmp whole/vae/config.json "$model/vae/config.json"
fails 2 'there already; --force replaces it' convert "$model" whole --type q4
works convert "$model" whole --type q4 --force --json
check 'the report has parts' test "$(json_get parts.1.folder <"$out")" = text_encoder
check 'with layers' test "$(json_get parts.0.layers.0.name <"$out" | wc -c)" -gt 5
works inspect whole
# shellcheck disable=SC2086 # $small holds several options
works image whole $small -o e.png
check 'no other folder is left' test "$(echo whole*)" = whole

# A language model: GGUF with its tokenizer, and a folder as mlx-lm has it.
language=$MICA_GOLDEN/../mixtral/hf
works convert "$language" l.gguf --type bf16
works convert "$language" l --type q8
ask='complete -p fox --max-tokens 4 --temp 0 --ignore-eos --precision f32 --device cpu --tokens'
# shellcheck disable=SC2086
for m in "$language" l.gguf l; do
    works $ask "$m"
    sed -n 1p "$out" >"ids.$(basename "$m")"
done
check 'the same tokens from GGUF' cmp ids.hf ids.l.gguf
check 'the same tokens from the folder' cmp ids.hf ids.l

works convert l.gguf lf --type q8
works convert l.gguf again.gguf --type q4
# shellcheck disable=SC2086
works $ask lf
check 'the same tokens from the folder of a GGUF file' cmp ids.hf "$out"
works complete lf -p fox --max-tokens 4 --ignore-eos
works convert l.gguf alone.safetensors --type q8
fails 1 'missing its tokenizer' complete alone.safetensors -p fox
# shellcheck disable=SC2086
works $ask alone.safetensors --tokenizer l.gguf
check 'the same tokens with the tokenizer of a GGUF file' cmp ids.hf "$out"
fails 2 'there already; --force replaces it' convert l.gguf lf --type q8
fails 2 'only a GGUF file of a language model' convert t.gguf tf --type q8
fails 2 'may be a folder, too' convert t.safetensors tf --type q8
check 'no folder is left' test ! -e tf

# A voice: both checkpoints in one file.
gs=$MICA_GOLDEN/../gpt_sovits/models
works convert "$gs/s1.ckpt" voice.safetensors --type f16 --synthesizer "$gs/sovits_v2.pth"
works inspect voice.safetensors
check 'inspect finds both parts' test "$(grep -c 'voice.safetensors$' "$out")" = 2
fails 2 'choose one with --synthesizer' convert "$gs" v2.safetensors --type f16
cp -r "$gs" several && rm several/sovits_v2Pro.pth && cp several/s1.ckpt several/s1_other.ckpt
fails 2 'choose one with --semantic' convert several v2.safetensors --type f16
fails 1 'no such file' convert several v2.safetensors --type f16 --semantic several/nothing.ckpt
works convert several v2.safetensors --type f16 --semantic several/s1.ckpt
check 'the one chosen is the one by name' cmp v2.safetensors voice.safetensors
fails 2 'chosen from a folder' convert "$gs/s1.ckpt" v2.safetensors --type f16 --semantic several/s1.ckpt
fails 2 'this is no speech model' convert "$model" out --type q8 --semantic several/s1.ckpt
fails 2 'this is no speech model' convert l.gguf out --type q8 --synthesizer "$gs/sovits_v2.pth"
check 'no folder of either is left' test ! -e out

# From packed to packed; what was 8 bits in GGUF is 8 bits in MLX's layout within another rounding.
works convert t.gguf u.safetensors --type q8 --json
check 'the report knows that it was packed' test "$(json_get was_packed <"$out")" = true
check 'the second rounding is as small' test "$(json_get average_error <"$out" | cut -c1-4)" = 0.00

# Files that belong to nobody say which network they are of.
printf 'GGUF\003\000\000\000\000\000\000\000\000\000\000\000\001\000\000\000\000\000\000\000\024\000\000\000\000\000\000\000general.architecture\010\000\000\000\003\000\000\000\000\000\000\000sd3\000\000\000\000\000\000\000\000\000' >sd3.gguf
fails 1 "sd3.gguf: its tensors \\(GGUF architecture 'sd3'\\) belong to no model that is known here" inspect sd3.gguf
head -c 3000 t.gguf >cut.gguf
fails 1 'cut.gguf: truncated or damaged' inspect cut.gguf

# No room for the result.
checks=$((checks + 1))
mkdir full && cd full
(ulimit -f 2 && exec "$MICA" convert "$transformer" x.gguf --type q8) >/dev/null 2>"$err" </dev/null
[ $? -eq 1 ] && grep -q '^mica: ' "$err" || complain 'a full disk is not told'
(ulimit -f 40 && exec "$MICA" convert "$model" whole --type q8) >/dev/null 2>"$err" </dev/null
[ $? -eq 1 ] && grep -q '^mica: ' "$err" || complain 'a full disk is not told of a folder'
checks=$((checks + 2))
[ -z "$(ls)" ] || complain 'a part of a file or folder was left'
cd ..
# An autoencoder has no layer to pack, and that is said.
works convert "$MICA_GOLDEN/../flux2_klein/model/vae" vae.safetensors --type q8
check 'nothing to pack' grep -q '0 packed, .* nothing has changed' "$out"
finish
