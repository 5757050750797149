# test_g2pw.sh - mica speak with and without g2pW: where it is found, what it changes, what is refused.
. "$(dirname "$0")/cli_test.sh"
json_get() { "$MICA_TOOLS/json_get" "$@"; }
data=$MICA_GOLDEN/../gpt_sovits
parts="--semantic $data/models/s1.ckpt --synthesizer $data/models/sovits_v2.pth
    --hubert $data/models/chinese-hubert-base --bert $data/models/chinese-roberta-wwm-ext-large --precision f32"
ref=$MICA_GOLDEN/../speech/recordings/ref4.flac
short="--max-tokens 12 --retries 0 --greedy"

# ---- phones of a sentence: those of the dictionary, those of the network
works speak $parts $short --voice "$ref" -t '他得还钱。' -o a.wav --trace a.safetensors
works speak $parts $short --voice "$ref" -t '他得还钱。' -o b.wav --trace b.safetensors --g2pw "$data/g2pw"
works speak $parts $short --voice "$ref" -t '他得还钱。' -o c.wav --g2pw "$data/g2pw/g2pW.onnx" --threads 1
check 'g2pW changes readings' sh -c '! cmp -s a.wav b.wav'
check 'a folder and its file are the same' cmp b.wav c.wav

# ---- found in a model folder
mkdir -p model/text
cp "$data/models/s1.ckpt" "$data/models/sovits_v2.pth" model
cp -r "$data/models/chinese-hubert-base" "$data/models/chinese-roberta-wwm-ext-large" model
cp -r "$data/g2pw" model/text/G2PWModel
works speak model --precision f32 $short --voice "$ref" -t '他得还钱。' -o d.wav
check 'a model folder with g2pW uses it' cmp b.wav d.wav
works inspect model
check 'inspect names g2pW' grep -q 'g2pW .* tensors.*G2PWModel/g2pW.onnx' "$out"
works inspect model --json
check 'inspect counts its tensors' test "$(json_get parts.g2pw.tensors <"$out")" -eq 44

# ---- converted with its model
works convert model whole --type f16
check 'g2pW becomes safetensors, its lists stay with it' test "$(ls whole/text/G2PWModel | tr '\n' ' ')" = 'MONOPHONIC_CHARS.txt POLYPHONIC_CHARS.txt config.py model.safetensors '
works inspect whole
check 'inspect finds it there' grep -q 'g2pW .*44 tensors.*whole/text/G2PWModel$' "$out"
works speak whole --precision f32 $short --voice "$ref" -t '他得还钱。' -o f.wav

# ---- two synthesizers: nothing is chosen, all is listed
cp "$data/models/sovits_v2Pro.pth" model
works inspect model
check 'inspect lists both' test "$(grep -c '^  synthesizer ' "$out")" -eq 2
check 'and says what to choose' grep -q 'choose  *one synthesizer of 2, with --synthesizer' "$out"
works inspect model --json
check 'as JSON too' test "$(json_get choose.0 <"$out")" = synthesizer
fails 2 'both a synthesizer; choose one with --synthesizer' speak model -t 好 --voice "$ref"
rm model/sovits_v2Pro.pth

# ---- converted once, used as it is mapped
works convert "$data/g2pw/g2pW.onnx" g2pw.safetensors --type bf16
mkdir converted
cp g2pw.safetensors converted/model.safetensors
cp "$data"/g2pw/*.txt converted
works inspect g2pw.safetensors
check 'the converted file is g2pW too' grep -q 'g2pW .*44 tensors' "$out"
works speak $parts $short --voice "$ref" -t '他得还钱。' -o e.wav --g2pw converted
check 'the converted file reads as the other did' cmp b.wav e.wav

# ---- refusals
fails 1 'none: there is no such file or folder' speak $parts -t 好 --voice "$ref" --g2pw none
fails 1 'this is no g2pW' speak $parts -t 好 --voice "$ref" --g2pw "$data/models/chinese-hubert-base"
mkdir bare
cp "$data/g2pw/g2pW.onnx" bare
fails 1 'POLYPHONIC_CHARS.txt: it is not there' speak $parts -t 好 --voice "$ref" --g2pw bare
head -20 "$data/g2pw/POLYPHONIC_CHARS.txt" >bare/POLYPHONIC_CHARS.txt
fails 1 'the list belongs to another' speak $parts -t 好 --voice "$ref" --g2pw bare
echo no tab >bare/POLYPHONIC_CHARS.txt
fails 1 'without a tab' speak $parts -t 好 --voice "$ref" --g2pw bare
head -c 2000 "$data/g2pw/g2pW.onnx" >bare/g2pW.onnx
fails 1 'damaged ONNX' speak $parts -t 好 --voice "$ref" --g2pw bare
finish
