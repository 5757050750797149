# test_voice.sh - mica voice make and list, and speaking with what they keep.
. "$(dirname "$0")/cli_test.sh"
data=$MICA_GOLDEN/../gpt_sovits
recordings=$MICA_GOLDEN/../speech/recordings
hear="--hubert $data/models/chinese-hubert-base"
decode="--semantic $data/models/s1.ckpt --synthesizer $data/models/sovits_v2.pth
    --bert $data/models/chinese-roberta-wwm-ext-large --precision f32"
ref=$recordings/ref4.flac
XDG_DATA_HOME=$scratch/share
export XDG_DATA_HOME

fails 2 'make, list' voice
fails 2 'make, list' voice sing
fails 2 'needs the model' voice make --voice "$ref" -o me
fails 2 'voice is needed' voice make $hear $decode -o me
fails 2 'needs a name' voice make $hear $decode --voice "$ref"
fails 2 'must end in .voice' voice make $hear $decode --voice "$ref" -o ./me.wav
fails 1 'does not exist' voice make $hear $decode --voice none.wav -o me
fails 1 "output folder 'no' does not exist" voice make $hear $decode --voice "$ref" -o no/me.voice
fails 1 'HuBERT' voice make $decode --voice "$ref" -o me
fails 1 "folder 'none' does not exist" voice list none
works voice --help
works voice make --help
works voice list
check 'no voices yet' grep -q 'no voices in' "$out"

# ---- a voice of its own name, and one by path
works voice make $hear $decode --voice "$ref" --voice-text '参考音频' --voice-lang zh -o me
check 'it is in the folder of voices' test -s share/mica/voices/me.voice
works voice make $hear $decode --voice "$recordings/ref25.flac" -o ./long.voice --json
check 'a note names the part of a long recording' grep -q 'note: .*s are used' "$err"
check 'the path in JSON' test "$("$MICA_TOOLS/json_get" output <"$out")" = ./long.voice
works voice list
check 'the list has its transcript' grep -Eq '^me  model [0-9a-f]{16}  [0-9]+ codes  参考音频$' "$out"
works voice list . --json
check 'another folder' test "$("$MICA_TOOLS/json_get" voices.0.name <"$out")" = long.voice
works inspect share/mica/voices/me.voice
check 'inspect knows a voice' grep -q '^voice for GPT-SoVITS models with decoder [0-9a-f]*, [0-9]* codes$' "$out"
works inspect --json share/mica/voices/me.voice
check 'and its transcript' test "$("$MICA_TOOLS/json_get" text <"$out")" = 参考音频
echo broken >share/mica/voices/bad.voice
fails 1 'bad.voice' inspect share/mica/voices/bad.voice
works voice list
check 'a broken one is named' grep -q '^bad  cannot be read: ' "$out"

# ---- speaking with it: the same as with the recording, and nothing hears any more
said="--max-tokens 20 --retries 0 -t 你好，世界。"
works speak $hear $decode $said --voice "$ref" --voice-text '参考音频' --voice-lang zh -o a.wav
works speak $decode $said --voice me -o b.wav
check 'the same bytes as from the recording' cmp a.wav b.wav
works speak $decode $said --voice share/mica/voices/me.voice -o c.wav
check 'by path too' cmp a.wav c.wav
fails 2 'another synthesizer' speak --semantic $data/models/s1.ckpt --synthesizer $data/models/sovits_v2Pro.pth \
    --bert $data/models/chinese-roberta-wwm-ext-large $said --voice me
fails 1 'bad.voice' speak $decode $said --voice bad

# ---- phones by name
printf '. n i2 h ao3 , sh ir4 j ie4 .\n' >phones.txt
works speak $decode --max-tokens 20 --retries 0 --phones phones.txt --voice me -o p.wav
check 'phones make sound' test "$(wc -c <p.wav)" -gt 1000
printf 'n i2 xx\n' >wrong.txt
fails 2 'xx' speak $decode --phones wrong.txt --voice me
finish
