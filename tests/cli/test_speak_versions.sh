# test_speak_versions.sh - every version of the decoder from a recording to a file: v1, v2, v2ProPlus with the
# speaker network; voices kept, references averaged, streams at another speed; batch and threads.
#
# That the numbers are right is shown in tests/golden; here, that the parts fit through the program.
. "$(dirname "$0")/cli_test.sh"
data=$MICA_GOLDEN/../gpt_sovits
recordings=$MICA_GOLDEN/../speech/recordings
ref=$recordings/ref4.flac
common="--semantic $data/models/s1.ckpt --hubert $data/models/chinese-hubert-base --precision f32"
said="--max-tokens 20 --retries 0 --quiet"
speaker="--speaker $data/versions/speaker.ckpt"
XDG_DATA_HOME=$scratch/share
export XDG_DATA_HOME

# A voice kept is the recording heard; twice the same reference is once; others change the style.
for version in v1 v2 v2ProPlus; do
    case $version in
    v1) parts="$common --synthesizer $data/versions/sovits_v1.pth" ;;
    v2) parts="$common --synthesizer $data/models/sovits_v2.pth" ;;
    v2ProPlus) parts="$common $speaker --synthesizer $data/versions/sovits_v2ProPlus.pth" ;;
    esac
    works speak $parts $said -t 'Hello out there.' --voice "$ref" --voice-text 'What I say.' -o $version.wav
    works voice make $parts --voice "$ref" --voice-text 'What I say.' -o ./$version.voice
    works speak $parts $said -t 'Hello out there.' --voice $version.voice -o kept.wav
    check "$version: a voice kept is the recording heard" cmp $version.wav kept.wav
    works speak $parts $said -t 'Hello out there.' --voice "$ref" --voice-text 'What I say.' --voice "$ref" -o twice.wav
    check "$version: the mean of a reference and itself" cmp $version.wav twice.wav
    works speak $parts $said -t 'Hello out there.' --voice "$ref" --voice-text 'What I say.' \
        --voice "$recordings/ref25.flac" -o two.wav
    check "$version: another reference beside it" sh -c "! cmp -s $version.wav two.wav"
    works speak $parts $said -t 'Hello out there.' --voice $version.voice -o one.wav --threads 1
    check "$version: threads" cmp $version.wav one.wav
done
fails 1 'needs the speaker network' speak $common --synthesizer "$data/versions/sovits_v2ProPlus.pth" -t x --voice "$ref"
fails 2 'made with another synthesizer' speak $common $speaker --synthesizer "$data/versions/sovits_v2ProPlus.pth" -t x --voice v1.voice
fails 1 'makes vectors of 2560 numbers, the synthesizer wants 160' \
    speak $common $speaker --synthesizer "$data/models/sovits_v2Pro.pth" -t x --voice "$ref"

# ---- streams at another speed hold what the file holds
parts="$common $speaker --synthesizer $data/versions/sovits_v2ProPlus.pth --voice v2ProPlus.voice"
words='Hello out there. And one more. Then a third one.'
for speed in 0.8 1 1.5; do
    works speak $parts $said -t "$words" --speed $speed -o speed$speed.wav
    works speak $parts $said -t "$words" --speed $speed --stream pcm
    tail -c +45 speed$speed.wav >speed$speed.pcm
    check "speed $speed: the stream is the file" cmp "$out" speed$speed.pcm
    works speak $parts $said -t "$words" --speed $speed -o alone.wav --batch 1
    check "speed $speed: together or alone" cmp speed$speed.wav alone.wav
done
check 'slower is longer' test "$(wc -c <speed0.8.wav)" -gt "$(wc -c <speed1.wav)"
check 'faster is shorter' test "$(wc -c <speed1.5.wav)" -lt "$(wc -c <speed1.wav)"
finish
