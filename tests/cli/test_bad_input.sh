# test_bad_input.sh - damaged, incomplete and hostile inputs: one clear line, status 1 or 2, no
# picture, no crash. The rows are the cases in which known engines crashed, read past a tensor, or
# made a picture from weights they did not have.
. "$(dirname "$0")/cli_test.sh"

small="-W 32 -H 32 --steps 1 --precision f32"
shard=transformer/diffusion_pytorch_model-00001-of-00003.safetensors

# refuses PATTERN what: the folder ./broken must be refused by image, and inspect must not crash.
refuses() {
    # shellcheck disable=SC2086
    fails 1 "$1" image broken -p x $small -o x.png
    leaves_nothing "$2"
    checks=$((checks + 1))
    run_mica inspect broken
    status=$?
    [ "$status" -le 2 ] || complain "mica inspect, $2: status $status"
}

# ---- parts that are absent
absent() {
    copy_model
    rm -rf "broken/$1"
    refuses "$2" "without $1"
}
absent transformer 'transformer'
absent text_encoder 'text.encoder'
absent vae 'vae|VAE'
absent tokenizer 'tokenizer'
absent "$shard" 'diffusion_pytorch_model-00001-of-00003'
absent text_encoder/model-00002-of-00002.safetensors 'model-00002-of-00002'
absent vae/diffusion_pytorch_model.safetensors 'vae|VAE'
absent transformer/config.json 'config'

# ---- damage to one shard, by kind; the message names the file or the tensor
# damaged FILE KIND PATTERN [TENSOR]
damaged() {
    copy_model
    # shellcheck disable=SC2086 # $4 may be absent
    "$MICA_TOOLS/break_weights" "$model/$1" "broken/$1" "$2" ${4-} || complain "break_weights $2"
    refuses "$3" "$1 $2"
}
damaged "$shard" empty 'diffusion_pytorch_model-00001'
damaged "$shard" truncated 'diffusion_pytorch_model-00001'
damaged "$shard" header-length-max 'diffusion_pytorch_model-00001'
damaged "$shard" header-length-8g 'diffusion_pytorch_model-00001'
damaged "$shard" header-length-0 'diffusion_pytorch_model-00001'
damaged "$shard" header-text 'diffusion_pytorch_model-00001'
damaged "$shard" shape-large '[a-z_]+\.[a-z0-9_.]+'
damaged "$shard" shape-small '[a-z_]+\.[a-z0-9_.]+.*\[.*\[|[a-z_]+\.[a-z0-9_.]+'
damaged "$shard" shape-negative '[a-z_]+\.[a-z0-9_.]+'
damaged "$shard" dtype-i64 '[a-z_]+\.[a-z0-9_.]+'
damaged "$shard" dtype-i16 '[a-z_]+\.[a-z0-9_.]+'
damaged "$shard" offsets-beyond '[a-z_]+\.[a-z0-9_.]+'
damaged "$shard" drop '[a-z_]+\.[a-z0-9_.]+'
damaged "$shard" nan 'NaN|nan|finite'
damaged text_encoder/model-00002-of-00002.safetensors truncated 'model-00002-of-00002'
damaged vae/diffusion_pytorch_model.safetensors truncated 'diffusion_pytorch_model'
damaged vae/diffusion_pytorch_model.safetensors nan 'NaN|nan|finite' decoder.conv_out.weight

# ---- configurations
rewritten() {
    copy_model
    printf '%s' "$2" >"broken/$1"
    refuses "$3" "$1 rewritten"
}
rewritten transformer/config.json '' 'config.json'
rewritten transformer/config.json '{"num_layers": 1e99}' 'config.json'
rewritten transformer/config.json '[[[[' 'config.json'
rewritten vae/config.json '{' 'config.json'
rewritten text_encoder/config.json '{"hidden_size": -1}' 'config.json'
rewritten scheduler/scheduler_config.json '{"num_train_timesteps": "many"}' 'scheduler_config.json'
rewritten transformer/diffusion_pytorch_model.safetensors.index.json '{"weight_map": 7}' 'index.json'
rewritten transformer/diffusion_pytorch_model.safetensors.index.json \
    '{"weight_map": {"a": "../../../../etc/passwd"}}' 'passwd|index.json'
rewritten tokenizer/tokenizer.json '{"model": {"vocab": []}}' 'tokenizer.json'

# ---- things that are no model at all
rm -rf broken
mkdir broken
refuses 'broken' 'an empty folder'
printf 'not a model' >broken/model_index.json
refuses 'broken' 'a folder of text'
printf 'hello' >broken.safetensors
# shellcheck disable=SC2086
fails 1 'broken.safetensors' image broken.safetensors -p x $small -o x.png
fails 1 'broken.safetensors' inspect broken.safetensors
fails 1 '/dev/null' inspect /dev/null

# ---- the walk for speech weights: folders below that may not be listed are passed over, the named
# one is not; and it ends. Root is refused nothing unless it gives up its capabilities.
bare=
[ "$(id -u)" -ne 0 ] || bare='setpriv --bounding-set -all --inh-caps -all'
mkdir -p broken-walk/locked
chmod 000 broken-walk/locked
# shellcheck disable=SC2086 # $bare is several words or none
if ! $bare ls broken-walk/locked >/dev/null 2>&1; then
    $bare "$MICA" inspect broken-walk >"$out" 2>"$err"
    check 'a locked folder below is no matter' grep -q '^mica: broken-walk: it holds no part of a model' "$err"
    $bare "$MICA" inspect broken-walk/locked >"$out" 2>"$err"
    check 'a locked model folder is told' grep -q '^mica: broken-walk/locked: cannot list' "$err"
fi
chmod 700 broken-walk/locked
mkdir broken-walk/many
for i in $(seq 330); do # 330 ways to one folder of 330 files
    : >"broken-walk/many/$i"
    ln -s many "broken-walk/l$i"
done
fails 1 'broken-walk: more than 100000 files and folders' inspect broken-walk
fails 1 'broken-walk: more than 100000 files and folders' convert broken-walk converted --type q8
mkfifo broken-walk/locked/s1.ckpt # opening it would wait for ever
fails 1 'locked: it holds no part of a model' inspect broken-walk/locked
leaves_nothing 'a walk'

# ---- noise that does not fit
"$MICA_TOOLS/break_weights" "$model/$shard" broken-noise.safetensors drop
# shellcheck disable=SC2086
fails 1 'initial_latents' image "$model" -p x $small -o x.png --noise broken-noise.safetensors
# shellcheck disable=SC2086
fails 1 'initial_latents' image "$model" -p x $small -o x.png \
    --noise "$MICA_GOLDEN/cases/t2i_cfg/expected.safetensors"
leaves_nothing 'noise that does not fit'

# ---- a prompt of 1,200 words: a picture with a note, or one line; never a crash
long=$(awk 'BEGIN { for (i = 0; i < 1200; i++) printf "fox " }')
checks=$((checks + 1))
# shellcheck disable=SC2086
run_mica image "$model" -p "$long" $small -o long.png
status=$?
if [ "$status" -eq 0 ]; then
    check 'the cut prompt is told' grep -q '^mica: note: .*token' "$err"
else
    check 'the long prompt is refused with its length' grep -Eq '^mica: .*token' "$err"
    [ "$status" -le 2 ] || complain "long prompt: status $status"
fi
finish
