# test_step_cache.sh - --cache: evaluations left out, their count, what they do to the latents.
. "$(dirname "$0")/cli_test.sh"

json_get() { "$MICA_TOOLS/json_get" "$@"; }
skipped() { json_get counters.skipped_evaluations <"$out"; }
run="-p ball --steps 20 --seed 3 --no-cache --quiet --json"

# The demo model: the tiny ones of the golden vectors are random and have no smooth path.
# shellcheck disable=SC2086 # $run holds several options
{
    works image $run -o plain.png
    check 'off is the default' test "$(skipped)" = 0
    works image $run --cache off -o off.png
    check 'and changes nothing' cmp plain.png off.png
    works image $run --cache balanced -o balanced.png
    balanced=$(skipped)
    check 'balanced leaves some out' test "$balanced" -ge 1
    works image $run --cache fast -o fast.png
    fast=$(skipped)
    check 'fast leaves out more' test "$fast" -gt "$balanced"
    check 'but at most three of four' test "$fast" -le 13
    works image $run --cache fast --threads 1 -o again.png
    check 'the same ones with one thread' cmp fast.png again.png
    works image $run -n ' ' --guidance 3 --cache fast -o guided.png
    check 'with guidance too' test "$(skipped)" -ge 1
    works image $run --steps 3 --cache fast -o few.png
    check 'the first two and the last are never left out' test "$(skipped)" = 0
    works image $run --solver heun --cache balanced -o heun.png
    works image $run --cache-method first-block -o method.png
    check 'a method alone changes nothing' cmp plain.png method.png
    works image $run --cache fast --cache-method output -o fast2.png
    check 'the method of this model is output' "$MICA_TOOLS/picture_pixels" fast.png fast2.png
    works image $run --steps 50 --cache fast --cache-method first-block -o block.png
    block=$(skipped)
    check 'what the first block adds leaves some out' test "$block" -ge 10
    check 'but at most three of four' test "$block" -le 36
    works image $run --steps 50 --cache fast --cache-method first-block --threads 1 -o again.png
    check 'the same ones with one thread' cmp block.png again.png
    works image $run --steps 50 -n ' ' --guidance 3 --cache fast --cache-method first-block -o guided.png
    check 'with guidance too' test "$(skipped)" -ge 10
    works image $run --steps 50 --cache balanced --cache-method first-block --solver heun -o heun.png
    works bench --cache --json -W 64 -H 64 --steps 12
    check 'bench tells what was left out' "$MICA_TOOLS/json_get" runs.2.skip_ratio runs.2.relative_l2 runs.2.caching <"$out"
    check 'by both methods' "$MICA_TOOLS/json_get" runs.4.skip_ratio runs.4.method <"$out"
    fails 2 'cache-method takes one of auto, output, first-block' image -p x --cache-method last
    fails 2 'no caching by its first block' image "$MICA_GOLDEN/../z_image/model" -p x --cache fast \
        --cache-method first-block -W 32 -H 32 --quiet -o z.png
    fails 2 '--cache takes one of off, balanced, fast' image -p x --cache slow
}
finish
