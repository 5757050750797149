#!/bin/sh
# gpu_suite.sh LOG - everything that needs a GPU, in one go; make test-cuda runs it on a build tree.
#
#   1 operations   every operation of backend.h on the device against the CPU
#   2 golden       whole models through the command line against the references' numbers, f32, bf16, fp8
#     pictures     LoRA files and the demo model on the device against the CPU, in dB
#     voices       GPT-SoVITS' parts against the reference's numbers, f32 and bf16
#     text         Mixtral's greedy tokens on the device against the CPU's, which are the reference's
#     speech       GPT-SoVITS' tokens, greedy and drawn, and its sound likewise
#     failures     no memory, a lost device, no wait in the denoising loop
#   3 timings      single operations at Qwen-Image's shapes, then two blocks at full width
#   4 memory       1 again under compute-sanitizer
#
# A failing step does not end the run: LOG has everything, the summary comes last, and the status
# is 1 if any step failed. Each step is held by `timeout`. Environment: MICA, COMPARE
# (compare_backends), GOLDEN_CLI, TRACE_SAME, DATA (tests/golden), PIXELS (picture_pixels), LOST (lost_device), DEMO
# (models/demo), VOICE_TESTS (folder of test_gpt_sovits_*), STEPS (default: all).
set -u
log=$1
steps=${STEPS:-operations golden pictures text voices speech failures timings memory}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$log"
passed=0
failed=0

# step SECONDS NAME command...
step() {
    seconds=$1
    name=$2
    shift 2
    begin=$(date +%s)
    echo "== $name" >>"$log"
    timeout "$seconds" "$@" >"$work/out" 2>&1
    status=$?
    cat "$work/out" >>"$log"
    took=$(($(date +%s) - begin))
    if [ "$status" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok      ${took}s $name" | tee -a "$work/summary"
    else
        failed=$((failed + 1))
        echo "FAILED  ${took}s $name (status $status)" | tee -a "$work/summary"
        grep -E 'FAILED|mica:|golden_cli:|error|ERROR' "$work/out" | head -n 6
    fi
}

# judged NAME function...: a function of this file that holds its own time
judged() {
    name=$1
    shift
    begin=$(date +%s)
    if "$@" >>"$log" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $(($(date +%s) - begin))s $name" | tee -a "$work/summary"
    else
        failed=$((failed + 1))
        echo "FAILED  $(($(date +%s) - begin))s $name" | tee -a "$work/summary"
    fi
}

# Some kernels are for this GPU alone.
on_hopper() {
    nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0 | grep -qx '9.0'
}

operations() {
    step 120 'operations f32' "$COMPARE" cpu:f32 cuda:f32 --rounds 3
    # One round: cuDNN compiles a kernel for every shape of attention.
    step 120 'operations bf16' "$COMPARE" cpu:f32 cuda:bf16
    for op in linear linears linear_swiglu prompts residuals operands branches replays; do
        step 60 "$op fp8" "$COMPARE" cpu:f32 cuda:fp8 --rounds 2 --op $op
    done
    step 60 'linears bf16, unfused' "$COMPARE" cpu:f32 cuda:bf16:unfused --rounds 3 --op linear
    step 60 'linear_swiglu bf16' "$COMPARE" cpu:f32 cuda:bf16 --rounds 3 --op linear_swiglu
    cp "$work/out" "$work/swiglu"
    if on_hopper; then
        step 5 'linear_swiglu at once' grep 'at once' "$work/swiglu" # by the kernel for Hopper
    fi
    step 60 'prompts bf16' "$COMPARE" cpu:f32 cuda:bf16 --rounds 3 --op prompts
    cp "$work/out" "$work/prompts"
    if on_hopper; then
        step 5 'prompts by their own kernel' grep ' \([1-9][0-9]*\) of \1 by their own kernel' "$work/prompts"
    fi
    step 60 'linear_swiglu bf16, unfused' "$COMPARE" cpu:f32 cuda:bf16:unfused --op linear_swiglu
}

# one_case MODEL_FOLDER CASE_FOLDER [WORDS...], in every precision
one_case() {
    model=$1
    case=$2
    shift 2
    for precision in f32 bf16 fp8; do
        step 30 "golden $case $precision" "$GOLDEN_CLI" "$MICA" "$DATA/$case" "$DATA/$model" $precision \
            "$work" --device cuda "$@"
    done
}

golden() {
    one_case qwen_image/model qwen_image/cases/t2i_cfg
    one_case qwen_image/model qwen_image/cases/t2i_nocfg
    one_case qwen_image/edit_model qwen_image/cases/edit --edit single
    one_case qwen_image/edit_model qwen_image/cases/edit_plus
    for name in turbo cfg cfg_norm; do
        one_case z_image/model z_image/cases/$name
    done
    for name in base_cfg distilled edit edit_two; do
        one_case flux2_klein/model flux2_klein/cases/$name
    done
}

# near NAME LEAST_DB MODEL PRECISION [WORDS...]: the device's picture against the CPU's in f32
near() {
    what=$1
    least=$2
    model=$3
    precision=$4
    shift 4
    step 60 "$what on the cpu" "$MICA" image "$model" -p 'a red fox in the snow' --seed 5 "$@" \
        --precision f32 --device cpu --quiet -o "$work/cpu.png"
    step 60 "$what $precision" "$MICA" image "$model" -p 'a red fox in the snow' --seed 5 "$@" \
        --precision "$precision" --device cuda --quiet -o "$work/cuda.png"
    step 10 "$what $precision, at least $least dB" "$PIXELS" "$work/cuda.png" "$work/cpu.png" "$least"
    grep 'dB, largest' "$work/out"
}

# has NAME...: all these variables are set
has() {
    for variable in "$@"; do
        eval "[ -n \"\${$variable:-}\" ]" && continue
        echo "skipped: $variable is not set" | tee -a "$work/summary"
        return 1
    done
}

pictures() {
    has PIXELS DEMO || return
    small='-W 64 -H 64 --steps 2'
    # shellcheck disable=SC2086 # $small holds several options
    for one in 'qwen_image lora' 'qwen_image lycoris' 'flux2_klein lora' 'flux2_klein lycoris' 'z_image lora'; do
        family=${one% *}
        near "lora $one" 45 "$DATA/$family/model" f32 $small --lora "$DATA/lora/$family/${one#* }.safetensors"
        near "lora $one" 40 "$DATA/$family/model" bf16 $small --lora "$DATA/lora/$family/${one#* }.safetensors"
    done
    near demo 60 "$DEMO" f32
    near demo 45 "$DEMO" bf16
    near demo 28 "$DEMO" fp8
}

voices() {
    has VOICE_TESTS || return
    for name in encoders semantic check g2pw synthesizer chain precision; do
        step 120 "voices $name" env MICA_TEST_DEVICE=cuda "$VOICE_TESTS/test_gpt_sovits_$name"
    done
}

# refused WORDS COMMAND...: it fails with status 1 and one line that has the words
refused() {
    words=$1
    shift
    "$@" >"$work/refused" 2>&1
    [ $? -eq 1 ] || return 1
    cat "$work/refused"
    [ "$(wc -l <"$work/refused")" -eq 1 ] && grep -q -e "$words" "$work/refused"
}

failures() {
    has DEMO LOST || return
    judged 'no memory is told' refused '--vram' "$MICA" image "$DEMO" -p fox --steps 2 --vram 70M --device cuda \
        --quiet -o "$work/x.png"
    step 60 'a lost device' "$LOST"
    step 60 'a run with progress' "$MICA" image "$DEMO" -p fox --steps 8 --device cuda --json -o "$work/x.png"
    cp "$work/out" "$work/run.json"
    step 5 'no wait in the denoising loop' grep -q '"block_waits":0,"step_waits":0' "$work/run.json"
}

# Ids that both devices write, in f32; --ignore-eos keeps them to one length.
same_tokens() {
    for device in cpu cuda; do
        "$MICA" complete "$1" -p 'The quick brown fox sits on a rock. 你好, what is 42?' --max-tokens 24 --temp 0 \
            --ignore-eos --precision f32 --device $device --json >"$work/$device.json" || return 1
        sed 's/.*"finish":"[a-z]*","tokens":\(\[[0-9,]*\]\),"prompt_tokens.*/\1/' "$work/$device.json" >"$work/$device.ids"
    done
    cat "$work/cpu.ids" "$work/cuda.ids"
    cmp "$work/cpu.ids" "$work/cuda.ids"
}

text() {
    for model in hf mlx_q4 mlx_q8; do
        judged "text $model" same_tokens "$DATA/mixtral/$model"
    done
    step 60 'text bf16' "$MICA" complete "$DATA/mixtral/hf" -p 'a b c' --max-tokens 300 --ignore-eos --device cuda
    step 90 'bench mixtral-8x7b, 2 layers' "$MICA" bench --synthetic mixtral-8x7b:layers=2 --steps 2 --device cuda
}

# same_speech WORDS...: tokens byte by byte, sound within 1e-4, on both devices in f32
same_speech() {
    for device in cpu cuda; do
        "$MICA" speak --semantic "$DATA/gpt_sovits/models/s1.ckpt" --synthesizer "$DATA/gpt_sovits/models/sovits_v2.pth" \
            --hubert "$DATA/gpt_sovits/models/chinese-hubert-base" \
            --bert "$DATA/gpt_sovits/models/chinese-roberta-wwm-ext-large" --precision f32 --device $device \
            --phones "$DATA/gpt_sovits/cases/t2s/expected.safetensors" --voice "$DATA/speech/recordings/ref4.flac" \
            --retries 0 -o "$work/$device.wav" --trace "$work/$device.safetensors" "$@" || return 1
    done
    "$TRACE_SAME" "$work/cpu.safetensors" "$work/cuda.safetensors" semantic_tokens &&
        "$TRACE_SAME" "$work/cpu.safetensors" "$work/cuda.safetensors" waveform 1e-4
}

# same_sizes CASE: networks of sizes that no released model has, beside upstream's numbers
same_sizes() {
    parts=$DATA/gpt_sovits/cases/$1
    "$MICA" speak --semantic "$parts/s1.ckpt" --synthesizer "$parts/s2.pth" --hubert "$parts/hubert" --precision f32 \
        --device cuda --greedy --noise-scale 0 --max-tokens 15 --retries 0 --pause 0 --phones "$parts/expected.safetensors" \
        --voice "$DATA/gpt_sovits/cases/sizes/ref.wav" -o "$work/sizes.wav" --trace "$work/sizes.safetensors" || return 1
    "$TRACE_SAME" "$work/sizes.safetensors" "$parts/expected.safetensors" codes &&
        "$TRACE_SAME" "$work/sizes.safetensors" "$parts/expected.safetensors" semantic_tokens &&
        "$TRACE_SAME" "$work/sizes.safetensors" "$parts/expected.safetensors" waveform 1e-4
}

# Traces keep a step to itself; without one a device runs a step ahead. Its sound must agree.
same_sound() {
    for trace in "" "--trace $work/t.safetensors"; do
        # shellcheck disable=SC2086 # two words or none
        "$MICA" speak --semantic "$DATA/gpt_sovits/models/s1.ckpt" --synthesizer "$DATA/gpt_sovits/models/sovits_v2.pth" \
            --hubert "$DATA/gpt_sovits/models/chinese-hubert-base" \
            --bert "$DATA/gpt_sovits/models/chinese-roberta-wwm-ext-large" --precision f32 --device cuda \
            --phones "$DATA/gpt_sovits/cases/t2s/expected.safetensors" --voice "$DATA/speech/recordings/ref4.flac" \
            --retries 0 --max-tokens 300 -o "$work/sound${trace:+-traced}.wav" $trace || return 1
    done
    # A trace computes some steps unfused: single samples may differ by one level, other tokens by all of them.
    differ=$(cmp -l "$work/sound.wav" "$work/sound-traced.wav" | wc -l)
    echo "$differ of $(wc -c <"$work/sound.wav") bytes differ"
    [ "$((differ * 50))" -lt "$(wc -c <"$work/sound.wav")" ]
}

speech() {
    judged 'speech greedy' same_speech --greedy --max-tokens 60
    judged 'speech drawn' same_speech --seed 3 --max-tokens 60
    judged 'speech drawn, top p' same_speech --seed 4 --max-tokens 300 --top-p 0.9 --temperature 0.8
    judged 'speech a step ahead' same_sound
    for case in sizes short; do
        judged "speech, sizes of $case" same_sizes "$case"
    done
    step 60 'speech of two backends at once' "$COMPARE" --bench-steps cuda:bf16 cuda:bf16
    for model in gpt-sovits-v2 gpt-sovits-v2pro; do
        step 90 "bench $model" "$MICA" bench --synthetic $model --device cuda
    done
}

timings() {
    step 60 'timings of operations, bf16' "$COMPARE" --bench cuda:bf16
    step 60 'bench qwen-image, 2 layers, 1024' "$MICA" bench --synthetic qwen-image:layers=2 \
        -W 1024 -H 1024 --steps 5 --device cuda --precision bf16
    step 60 'timings of operations, f32' "$COMPARE" --bench cuda:f32
    step 60 'timings of pictures, bf16' "$COMPARE" --bench-pictures cuda:bf16
    step 60 'timings of tokens of speech, bf16' "$COMPARE" --bench-steps cuda:bf16
    step 90 'bench qwen-image, 16 layers, streamed' "$MICA" bench --synthetic qwen-image:layers=16,text_layers=1 \
        -W 1024 -H 1024 --cache --steps 10 --device cuda --precision bf16 --vram 4G
}

# races OP PRECISION: own kernels that share memory between threads; cuBLAS' (nvjet) are not ours to check. Not of
# post_norm_step: its blocks talk by words that are written and read without barriers (cuda_words.cuh).
races() {
    step 90 "racecheck $1 $2" compute-sanitizer --tool racecheck "$COMPARE" cpu:f32 cuda:"$2" --seed 4 --op "$1"
    cp "$work/out" "$work/races"
    # shellcheck disable=SC2016 # the inner shell's $0
    step 5 "no races in $1 $2" sh -c '! grep "Race reported" "$0" | grep -v nvjet' "$work/races"
}

memory() {
    command -v compute-sanitizer >/dev/null || {
        echo 'skipped: no compute-sanitizer' | tee -a "$work/summary"
        return
    }
    for precision in f32 bf16; do
        # Calls of the runtime may fail: one case fills the device.
        step 180 "memcheck $precision" compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 \
            "$COMPARE" cpu:f32 cuda:$precision --seed 3
    done
    for op in layer_norm_modulate rms_norm l2_norm_channels group_norm picture_groups picture_unit_rows guidance \
        relative_attention residuals linear_swiglu prompts flash token_linear token_experts token_attention token_layer largest packed_linear packed_embed \
        race_draw; do
        races "$op" bf16
    done
    races attention f32
    races operands fp8
}

nvidia-smi -L >>"$log" 2>&1
for one in $steps; do
    "$one"
done
{
    echo '== summary'
    cat "$work/summary"
    echo "$passed passed, $failed failed"
} >>"$log"
echo "$passed passed, $failed failed; all of it in $log"
[ "$passed" -gt 0 ] && [ "$failed" -eq 0 ]
