# test_device.sh - --device on machines without a GPU: cuda is refused in one line with the reason,
# auto computes on the CPU, and a library that cannot be used is told from one that is absent.
. "$(dirname "$0")/cli_test.sh"

picture="image $model -p x -W 32 -H 32 --steps 1 --quiet"

# shellcheck disable=SC2086 # words
{
    if "$MICA" $picture -o cuda.png --device cuda 2>/dev/null; then
        echo 'a GPU can be used here: refusals for want of one are not tested'
    else
        fails 1 '^mica: device cuda: ' $picture -o cuda.png --device cuda
        works $picture -o auto.png --device auto
        works $picture -o cpu.png --device cpu
        check 'auto is the CPU' "$MICA_TOOLS/picture_pixels" auto.png cpu.png
        works $picture -o auto.png --device auto --json
        check 'and it is told' test "$("$MICA_TOOLS/json_get" device <"$out")" = cpu
        fails 1 '^mica: device cuda: ' bench --kernels --device cuda
    fi

    fails 2 '--vram takes a size like 8G' $picture -o x.png --vram 8
    fails 2 'a limit of GPU memory .--vram. has no meaning on the CPU' $picture -o x.png --device cpu --vram 8G

    # The installed tree with another library of the backend, or none.
    prefix=$(cd "$(dirname "$MICA")/.." && pwd)
    cp -R "$prefix" tree
    library=$(find tree -name 'libmica.so.0.*' -type l | head -n 1)
    folder=$(dirname "$library")
    MICA=$scratch/tree/bin/mica
    rm -f "$folder/libmica_cuda.so"
    fails 1 'device cuda: libmica_cuda.so is not installed beside this library' $picture -o x.png --device cuda
    works $picture -o auto2.png --device auto

    # Where there is a driver, falling back is told: here any library stands for the driver.
    mkdir driver
    cp "$library" driver/libcuda.so.1
    if [ -z "${LD_LIBRARY_PATH-}" ]; then
        LD_LIBRARY_PATH=$scratch/driver
        export LD_LIBRARY_PATH
        works image "$model" -p x -W 32 -H 32 --steps 1 -o auto4.png
        check 'falling back is told' grep -q '^mica: note: the CPU computes: device cuda: ' "$err"
        works complete -p a -n 1
        check 'of text too' grep -q '^mica: note: the CPU computes: device cuda: ' "$err"
        works complete -p a -n 1 --quiet
        check 'but not with --quiet' test ! -s "$err"
        works image "$model" -p x -W 32 -H 32 --steps 1 -o auto5.png --device cpu
        check 'nor where the CPU is asked for' sh -c "! grep -q 'the CPU computes' '$err'"
        unset LD_LIBRARY_PATH
    fi
    echo 'no library' >"$folder/libmica_cuda.so"
    fails 1 'device cuda: libmica_cuda.so cannot be used: ' $picture -o x.png --device cuda
    works $picture -o auto3.png --device auto
    cp "$library" "$folder/libmica_cuda.so"
    fails 1 'device cuda: libmica_cuda.so (belongs to another version|cannot be used: there is no NVIDIA driver)' $picture -o x.png --device cuda
    fails 1 'device cuda: ' $picture -o x.png --device cuda --precision fp8
    fails 1 'precision fp8: CPUs do not compute in fp8' $picture -o x.png --device auto --precision fp8
}
finish
