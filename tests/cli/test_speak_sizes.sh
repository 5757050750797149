# test_speak_sizes.sh - GPT-SoVITS in sizes that no released model has, from a recording to sound, against upstream.
#
# What the settings of a file say must be used: rates, kernels, dilations, windows, strides, heads. The cases are
# those of tools/golden/gpt_sovits_sizes.py.
. "$(dirname "$0")/cli_test.sh"
cases=$MICA_GOLDEN/../gpt_sovits/cases
recordings=$MICA_GOLDEN/../speech/recordings
ref=$cases/sizes/ref.wav
exact="--greedy --noise-scale 0 --max-tokens 15 --retries 0 --precision f32 --float --pause 0"
same() { "$MICA_TOOLS/trace_same" "$@" >/dev/null; }

for name in sizes short; do
    case=$cases/$name
    parts="--semantic $case/s1.ckpt --synthesizer $case/s2.pth --hubert $case/hubert"
    expected=$case/expected.safetensors
    works speak $parts $exact --voice "$ref" --phones "$expected" --trace $name.safetensors -o $name.wav
    for id in codes semantic_tokens; do
        check "$name: $id" same $name.safetensors "$expected" $id
    done
    stages='hidden_states.0 hidden_states.1 probe.ref_enc probe.enc_p.encoder_ssl probe.enc_p.encoder_text probe.enc_p.mrte
        probe.enc_p.encoder2 probe.flow probe.dec.ups.0 probe.dec.ups.1 probe.dec.ups.2'
    test $name = short || stages="$stages hidden_states.2 hidden_states.3 probe.dec.ups.3"
    for stage in $stages; do
        check "$name: $stage" same $name.safetensors "$expected" $stage 1e-5
    done
    check "$name: waveform" same $name.safetensors "$expected" waveform 1e-4
    works convert "$case/s1.ckpt" $name.voice.safetensors --synthesizer "$case/s2.pth" --type f32
    works speak $name.voice.safetensors --hubert "$case/hubert" $exact --voice "$ref" --phones "$expected" -o converted.wav
    check "$name: settings outlive a conversion" cmp $name.wav converted.wav
done

# ---- a latent longer than a piece of the vocoder, whose blocks see farther than released ones
parts="--semantic $cases/sizes/s1.ckpt --synthesizer $cases/sizes/s2.pth --hubert $cases/sizes/hubert"
given="--phones $cases/sizes/expected.safetensors --tokens $cases/sizes/tokens.safetensors"
works speak $parts $exact --voice "$ref" $given --trace long.safetensors -o whole.wav
check 'given tokens: waveform' same long.safetensors "$cases/sizes/tokens.safetensors" waveform 1e-4
works speak $parts $exact --voice "$ref" $given -o pieces.wav
check 'pieces make the samples of the whole' cmp whole.wav pieces.wav

# ---- what config.json says and is not known is told
mkdir odd
cp "$cases/short/hubert/pytorch_model.bin" odd
odd="--semantic $cases/short/s1.ckpt --synthesizer $cases/short/s2.pth --hubert odd"
for setting in '"hidden_act": "relu"' '"feat_extract_norm": "layer"' '"do_stable_layer_norm": true'; do
    printf '{"num_attention_heads": 4, %s}\n' "$setting" >odd/config.json
    fails 1 'odd/config.json: .*known' speak $odd -t x --voice "$recordings/ref4.flac"
done
finish
