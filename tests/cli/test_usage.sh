# test_usage.sh - help, version and every sort of wrong usage: status 2, one line, nothing done.
. "$(dirname "$0")/cli_test.sh"

works --version
check 'version line' grep -Eq '^mica [0-9]+\.[0-9]+\.[0-9]+$' "$out"
works --help
check 'overview lists image' grep -q '^  image ' "$out"
check 'no absent command in the overview' sh -c "! grep -Eq 'serve|pull' '$out'"
works image --help
check 'help of image' grep -q -- '--guidance' "$out"
works help inspect
check 'help of inspect' grep -q '^Usage: mica inspect' "$out"
works bench -h

fails 2 'a command is needed'
fails 2 "unknown command 'imgae'; did you mean 'image'" imgae
fails 2 "unknown command 'xyzzy'" xyzzy
for name in serve pull; do
    fails 2 "this version has no '$name' command" $name x
done

fails 2 'needs a prompt' image "$model"
fails 2 'unknown option --stepz; did you mean --steps' image -p x --stepz 3
fails 2 '-p needs a value' image -p
fails 2 '--steps must be from 1 to 1000; got 0' image -p x --steps 0
fails 2 "--steps takes a whole number; got '4x'" image -p x --steps 4x
fails 2 '-W must be from 16 to 16384; got 0' image -p x -W 0
fails 2 '-W must be from 16 to 16384; got 100000' image -p x -W 100000
fails 2 '-H must be from 16 to 16384; got -64' image -p x -H -64
fails 2 "--seed takes a whole number from 0 to 18446744073709551615, or random; got '-1'" image -p x --seed -1
fails 2 "--guidance takes a number from 0 to 1000; got 'nan'" image -p x --guidance nan
fails 2 '--precision takes one of auto, f32' image -p x --precision f64
fails 2 '--cpu-level takes one of auto' image -p x --cpu-level v7
fails 2 '--solver takes one of' image -p x --solver ddim
fails 2 '--schedule takes one of' image -p x --schedule cosine
fails 2 '--vae-tile takes one of auto, off' image -p x --vae-tile half
fails 2 '--batch must be from 1 to 64' image -p x --batch 0
fails 2 '--quiet takes no value' image -p x --quiet=yes
fails 2 'SCALE from -100 to 100' image -p x --lora a.safetensors:x
fails 2 'SCALE from -100 to 100' image -p x --lora a.safetensors:0
fails 2 'SCALE from -100 to 100' bench --lora a.safetensors:1e9
fails 2 '--lora takes FILE' image -p x --lora ''
fails 2 "one MODEL; got '.*' and 'second'" image "$model" second -p x
fails 2 '--sigmas must fall' image -p x --sigmas 0.5,0.7
fails 2 '--steps is 3 but --sigmas gives 2' image -p x --sigmas 1,0.5 --steps 3
fails 2 'only one of -p and -n' image -p - -n -
fails 2 'inspect needs a PATH' inspect
fails 2 'at a time' bench "$model" --kernels

fails 2 "must end in .png" image "$model" -p x -o picture.gif
fails 2 "must end in .png" image "$model" -p x -o picture
fails 1 "output folder 'no/where' does not exist" image "$model" -p x -o no/where/x.png
mkdir folder.png
fails 1 'is a folder' image "$model" -p x -o folder.png
fails 1 '/proc' image "$model" -p x -o /proc/x.png
fails 1 "noise file 'none.safetensors' does not exist" image "$model" -p x --noise none.safetensors
fails 1 'no-such-prompt' image "$model" -p @no-such-prompt
fails 1 'no-such-model' image no-such-model -p x
fails 1 'no-such-thing' inspect no-such-thing
leaves_nothing 'wrong usage'
# Names that other programs have.
fails 2 '--cfg-scale is --guidance' image -p x --cfg-scale 3
fails 2 '--negative-prompt is --negative here' image -p x --negative-prompt=y
fails 2 '-s is --seed here' image -p x -s 3
finish
