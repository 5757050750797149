# test_speak.sh - mica speak: usage, files, streams, refusals, on a tiny random model.
#
# Its sound is noise; that the numbers are right is shown elsewhere (tests/golden). Here: what is written
# where, and what is said when it cannot be.
. "$(dirname "$0")/cli_test.sh"
json_get() { "$MICA_TOOLS/json_get" "$@"; }
data=$MICA_GOLDEN/../gpt_sovits
recordings=$MICA_GOLDEN/../speech/recordings
parts="--semantic $data/models/s1.ckpt --synthesizer $data/models/sovits_v2.pth
    --hubert $data/models/chinese-hubert-base --bert $data/models/chinese-roberta-wwm-ext-large --precision f32"
ref=$recordings/ref4.flac
phones="--phones $data/cases/t2s/expected.safetensors --max-tokens 30 --retries 0"

# ---- usage: told before any work
fails 2 'needs a model' speak -t x
fails 2 'needs a text' speak $parts --voice "$ref"
fails 2 'voice is needed' speak $parts -t x
fails 2 'both say what' speak $parts -t x $phones --voice "$ref"
fails 2 'must end in .wav' speak $parts -t x --voice "$ref" -o a.png
fails 2 '--float is for .wav' speak $parts -t x --voice "$ref" -o a.flac --float
fails 2 'must end in .srt or .json' speak $parts -t x --voice "$ref" --timestamps a.txt
fails 2 '--chunk-tokens is for streams' speak $parts -t x --voice "$ref" --chunk-tokens 20
fails 2 'chunk-tokens' speak $parts -t x --voice "$ref" --stream pcm --chunk-tokens 5
fails 2 'both want standard output' speak $parts -t x --voice "$ref" --stream wav --json
fails 2 'recording it belongs to' speak $parts -t x --voice-text y
fails 2 'speed' speak $parts -t x --voice "$ref" --speed 9
fails 2 'cut' speak $parts -t x --voice "$ref" --cut cut9
fails 2 'stream' speak $parts -t x --voice "$ref" --stream mp3
fails 2 'retries' speak $parts -t x --voice "$ref" --retries 99
fails 2 'noise-scale' speak $parts -t x --voice "$ref" --noise-scale nan
fails 1 "voice 'nobody' does not exist" speak $parts -t x --voice nobody
for part in hubert speaker; do
    case $part in
    hubert) some="--speaker $data/versions/speaker.ckpt" ;;
    speaker) some="--hubert $data/models/chinese-hubert-base" ;;
    esac
    fails 1 "give it with --$part" speak --semantic "$data/models/s1.ckpt" --synthesizer "$data/versions/sovits_v2ProPlus.pth" $some -t Hello. --voice "$ref"
done
fails 1 'give it with --bert FOLDER' speak --semantic "$data/models/s1.ckpt" --synthesizer "$data/models/sovits_v2.pth" -t 你好 --voice "$ref"
# ---- v3 and v4, told by their tensors
cfm='"cfm.x.lora_A.weight":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]}'
prior='"enc_p.ssl_proj.weight":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]}'
for header in "{$cfm}0000" "{$cfm,$prior}00000000"; do # zeros behind the last brace are data
    text=${header%\}*}}
    printf "\\$(printf %o ${#text})\\0\\0\\0\\0\\0\\0\\0%s" "$header" >v3.safetensors
    fails 1 'GPT-SoVITS v3 or v4.*flow-matching decoder' speak --semantic "$data/models/s1.ckpt" --synthesizer v3.safetensors -t x --voice "$ref"
    works inspect v3.safetensors
    check 'inspect tells a version that is not spoken' grep -q '^GPT-SoVITS v3 or v4 (not spoken)' "$out"
done
mkdir -p layout/SoVITS_weights_v3
cp "$data/models/s1.ckpt" "$data/models/sovits_v2.pth" layout
cp -R "$data/models/chinese-hubert-base" layout
cp v3.safetensors layout/SoVITS_weights_v3
cp v3.safetensors layout/a3.safetensors
works speak layout -t x --voice "$ref" --max-tokens 5 --retries 0 --greedy -o a.wav
works inspect layout
check 'what is not spoken needs no choice' grep -q '^GPT-SoVITS v2 ' "$out"
rm layout/sovits_v2.pth
fails 1 'GPT-SoVITS v3 or v4' speak layout -t x --voice "$ref"
works inspect "$data/versions/sovits_v2ProPlus.pth"
check 'a version is told' grep -q '^GPT-SoVITS v2ProPlus' "$out"
check 'and what it needs' grep -q '^  missing .*speaker network' "$out"
works inspect "$data/models/sovits_v2.pth" --json
check 'no speaker network for v2' test "$(json_get version <"$out") $(json_get missing.3 <"$out")" = 'v2 '
fails 1 'is a folder' speak $parts -t x --voice "$recordings"
fails 1 'tokens file' speak $parts -t x --voice "$ref" --tokens none.safetensors
fails 1 'phones file' speak $parts --phones none --voice "$ref"
fails 1 'codes file' speak $parts -t x --voice "$ref" --ref-codes none
fails 1 'output folder' speak $parts -t x --voice "$ref" -o none/a.wav
fails 1 'does not speak' speak "$model" -t x --voice "$ref"

fails 2 'the transcript of the voice has nothing' speak $parts -t 好 --voice "$ref" --voice-text ''
fails 2 'the transcript of the voice has nothing' speak $parts -t 好 --voice "$ref" --voice-text '。。！'

# ---- texts that are hardly any, and others' languages
few="--max-tokens 12 --retries 0 --greedy"
for text in '' '  ' '。。。！！' '!?...' '😀🎉'; do
    fails 2 'the text has nothing to say' speak $parts $few -t "$text" --voice "$ref"
done
fails 1 'Japanese letters \(こ\)' speak $parts -t 'こんにちは' --voice "$ref"
fails 1 'Japanese letters \(テ\)' speak $parts -t '中文テスト' --voice "$ref"
fails 1 'Korean letters \(안\)' speak $parts -t '안녕' --voice "$ref"
fails 1 'Cyrillic letters' speak $parts -t 'Привет' --voice "$ref"
for language in ja ko yue all_ja auto_yue; do
    fails 1 'is not spoken yet; auto, zh and en are' speak $parts -t 好 --lang $language --voice "$ref"
done
fails 1 'Japanese \(ja\) is not spoken yet' speak $parts -t 好 --voice "$ref" --voice-text 好 --voice-lang ja
fails 1 'the language is en, but the text has "你"' speak $parts -t '你好' --lang en --voice "$ref"
fails 2 'no language "xx"' speak $parts -t 好 --lang xx --voice "$ref"
fails 2 'no language "xx"' speak $parts -t 好 --voice-lang xx --voice "$ref"
fails 2 'no language "xx"' speak $parts $phones --lang xx --voice "$ref"
fails 2 '@ is not followed by a file' speak $parts -t @ --voice "$ref"
works speak $parts $few -t "$(printf 'bad \377 bytes')" --voice "$ref" -o bad.wav
check 'a note tells of bytes that are no text' grep -q 'note: the text is not valid UTF-8' "$err"
works speak $parts $few -t '😀你好🎉, world 3.5kg!' --voice "$ref" -o emoji.wav --json
check 'emoji are passed over' test "$(json_get sentences.0.text <"$out")" = '😀你好🎉,'
printf '\357\273\277你好，世界。' >bom.txt
works speak $parts $few -t @bom.txt --voice "$ref" -o bom.wav --json
check 'a byte order mark is no text' test "$(json_get parameters.text <"$out")" = '你好，世界。'
check 'the settings are told' test "$(json_get parameters.max_tokens <"$out") $(json_get parameters.cut <"$out") $(json_get parameters.greedy <"$out")" = '12 cut5 true'
yes 没有标点的长句子 | head -12 | tr -d '\n' >long.txt
works speak $parts $few --max-tokens 8 -t "$(cat long.txt)" --cut cut2 --voice "$ref" --lang zh -o long.wav --bert "$data/models/chinese-roberta-wwm-ext-large"
works speak $parts $few --max-tokens 8 -t "$(cat long.txt)" --cut cut2 --voice "$ref" --lang zh -o long.wav --json
check 'and why' test "$(json_get sentences.0.doubts.0 <"$out") $(json_get sentences.0.doubts.1 <"$out")" = 'short long'
works speak $parts $few --max-tokens 8 -t "$(cat long.txt)" --cut cut2 --voice "$ref" --lang zh -o long.wav
check 'suspicious sentences are named' grep -q 'words may be lost or repeated in 1 "没有标点' "$out"
head -c 1100000 /dev/zero | tr '\0' a >huge.txt
fails 1 'huge.txt' speak $parts -t @huge.txt --voice "$ref"

works speak --help
check 'the help lists --voice-text' grep -q -- --voice-text "$out"

# ---- a run, its files
works speak $parts $phones --voice "$ref" -o a.wav --timestamps a.srt
check 'a sound of 16 bits' test "$(wc -c <a.wav)" -gt 44
check 'a subtitle' grep -q '^00:00:00,000 --> 00:00:0[0-9],[0-9][0-9][0-9]$' a.srt
works speak $parts $phones --voice "$ref" -o b.wav --threads 1
check 'the same bytes for any number of threads' cmp a.wav b.wav
works speak $parts $phones --voice "$ref" -o c.wav --seed 5
check 'another seed, another sound' sh -c '! cmp -s a.wav c.wav'
works speak $parts $phones --voice "$ref" -o a.flac
works speak $parts $phones --voice "$ref" -o f.wav --float
check 'floats take twice the room' test "$(wc -c <f.wav)" -gt "$(($(wc -c <a.wav) * 19 / 10))"
works speak $parts $phones --voice "$ref" -o p.wav --pause 0
check 'no pause, less sound' test "$(wc -c <p.wav)" -lt "$(wc -c <a.wav)"
works speak $parts $phones --voice "$ref" -o s.wav --speed 2
check 'twice as fast, less sound' test "$(wc -c <s.wav)" -lt "$(wc -c <a.wav)"
works speak $parts $phones --voice "$ref" --voice "$recordings/ref2.flac" -o two.wav --quiet
check 'two recordings, another style' sh -c '! cmp -s a.wav two.wav'
check 'quiet' test ! -s "$out"

# ---- JSON
works speak $parts $phones --voice "$ref" -o a.wav --timestamps t.json --json
check 'rate' test "$("$MICA_TOOLS/json_get" rate <"$out")" = 32000
check 'the sentence begins at 0' test "$("$MICA_TOOLS/json_get" sentences.0.start <"$out")" = 0
check 'nothing is known of dropped words without a transcript' grep -q '"dropped":null,"repeated":null' t.json
check 'time stamps' grep -q '{"sentences":\[{"text":' t.json

# ---- streams: the same samples behind a header of open length
works speak $parts $phones --voice "$ref" --stream pcm
tail -c +45 a.wav >a.pcm
check 'the stream holds the samples of the file' cmp "$out" a.pcm
check 'a note tells of the first sound' grep -Eq '^mica: note: the first sound came after [0-9.]+ s$' "$err"
works speak $parts $phones --voice "$ref" --stream wav -o d.wav
check 'with -o the file is there too' cmp a.wav d.wav
check 'a stream into a file has its length in the header' cmp "$out" a.wav
"$MICA" speak $parts $phones --voice "$ref" --stream wav --quiet | cat >piped.wav
check 'one into a pipe has none' test "$(od -An -tx1 -j40 -N4 piped.wav | tr -d ' ')" = ffffffff
printf before >appended.wav
"$MICA" speak $parts $phones --voice "$ref" --stream wav --quiet >>appended.wav
check 'what lies in front of an appended stream stays' test "$(head -c 10 appended.wav)" = beforeRIFF
tail -c +45 "$out" >stream.pcm
check 'a WAV stream is a header and the same samples' cmp stream.pcm a.pcm
works speak $parts $phones --voice "$ref" --stream pcm --chunk-tokens 1000
check 'a sentence of one chunk is what it would be without' cmp "$out" a.pcm
works speak $parts $phones --voice "$ref" --stream pcm --chunk-tokens 16
check 'chunks add up to the length of the sentence' test "$(wc -c <"$out")" = "$(wc -c <a.pcm)"
works speak $parts $phones --voice "$ref" --stream pcm --speed 1.3
cp "$out" fast.pcm
works speak $parts $phones --voice "$ref" --stream pcm --chunk-tokens 16 --speed 1.3
check 'at another speed too' test "$(wc -c <"$out")" = "$(wc -c <fast.pcm)"

# ---- text
said="--max-tokens 20 --retries 0"
works speak $parts $said -t '你好，世界。I have 3 cats!' --voice "$ref" --voice-text '参考音频' -o t.wav --timestamps t.srt
check 'two sentences' test "$(grep -c -- '-->' t.srt)" = 2
check 'no mark before a short beginning' grep -q '^I have 3 cats!$' t.srt
check 'the Chinese one' grep -q '你好，世界。' t.srt
works speak $parts $said -t '你好，世界。I have 3 cats!' --voice "$ref" --voice-text '参考音频' -o t2.wav --batch 1
check 'a batch makes the same bytes' cmp t.wav t2.wav
printf 'One. Two three four five. \n' >text.txt
works speak $parts $said -t @text.txt --voice "$ref" -o t.wav --cut cut0 --json
check 'one sentence without cuts' test "$("$MICA_TOOLS/json_get" sentences.0.tokens <"$out")" = 20
works speak $parts $said -t 'Hello out there.' --voice "$recordings/ref25.flac" -o t.wav
check 'a note tells what a missing transcript costs' grep -q 'note: the words of the recording are not known' "$err"
check 'a note names the part of a long recording' grep -Eq 'note: .*ref25.flac: 25.0 s long; 1[12].[0-9]+ to [12][0-9].[0-9]+ s are used' "$err"
fails 1 'Japanese letters' speak $parts -t 'こんにちは' --voice "$ref"
fails 1 'Japanese .ja. is not spoken' speak $parts -t x --voice "$ref" --lang ja
fails 2 'no language "xx"' speak $parts -t x --voice "$ref" --lang xx
fails 1 'the language is en, but the text has' speak $parts -t '你好' --voice "$ref" --lang en
fails 2 'nothing to say' speak $parts -t '...' --voice "$ref"
fails 2 'only silence' speak $parts -t 'Hello out there.' --voice "$recordings/silence.flac"

# ---- Ctrl-C leaves what was written, and a header that fits it
yes 'This is one of many sentences.' | head -200 >many.txt
"$MICA" speak $parts --max-tokens 30 --retries 0 -t @many.txt --voice "$ref" --stream wav >cut.wav 2>"$err" &
pid=$!
for i in $(seq 300); do
    test "$(wc -c <cut.wav)" -gt 100000 && break
    sleep 0.1
done
kill -INT $pid
wait $pid
check 'an interrupted stream ends with 130' test $? = 130
size=$(wc -c <cut.wav)
check 'its header tells its length' test "$(od -An -tu4 -j40 -N4 cut.wav | tr -d ' ')" = $((size - 44))

check 'a stream whose reader goes away ends with a message' sh -c \
    "\"$MICA\" speak $(echo $parts) $phones --voice '$ref' --stream wav 2>closed | head -c 10 >/dev/null; test ! -s closed || grep -q '^mica: cannot write to standard output' closed"

# ---- phones by name
printf 'n i3\nh ao3 .\n' >phones.txt
works speak $parts --phones phones.txt --voice "$ref" --max-tokens 20 --retries 0 -o a.wav --timestamps t.srt
check 'phones are one line of a subtitle' grep -q '^n i3 h ao3 \.$' t.srt

# ---- recordings nobody should trust
fails 1 'not a sound file|empty' speak $parts $phones --voice "$data/README.md"
: >empty.wav
fails 1 'empty' speak $parts $phones --voice empty.wav
head -c 30 a.wav >cut.wav
fails 1 'cut.wav' speak $parts $phones --voice cut.wav
fails 2 'seconds' speak $parts $phones --voice "$recordings/ref2.flac"
works speak $parts $phones --voice "$ref" -o f.wav --float
{
    head -c 100 f.wav # 1e30 as a float, little end first
    printf '\362\111\161\162'
    tail -c +105 f.wav
} >loud.wav
fails 1 'sounds lie within -1 and 1' speak $parts $phones --voice loud.wav
finish
