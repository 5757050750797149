# test_interrupt.sh - Ctrl-C, TERM or HUP in a long run or conversion: a prompt end, its status, no file.
. "$(dirname "$0")/cli_test.sh"

# interrupt SIGNAL STATUS
interrupt() {
    checks=$((checks + 1))
    "$MICA" image "$model" -p 'a fox' -W 1024 -H 1024 --steps 1000 --trace t.safetensors -o x.png \
        >"$out" 2>"$err" &
    run=$!
    sleep 1
    if ! kill -0 $run 2>/dev/null; then
        complain "$1: the run ended before it could be interrupted"
        return
    fi
    before=$(date +%s%N)
    kill -s "$1" $run
    wait $run
    status=$?
    waited=$((($(date +%s%N) - before) / 1000000))
    [ "$status" -eq "$2" ] || complain "$1: status $status, expected $2"
    # One second is the promise; the rest is for a busy machine.
    [ "$waited" -lt 2000 ] || complain "$1: ended only after $waited ms"
    sed -i '/^mica: note: /d' "$err"
    [ "$(wc -l <"$err")" -eq 1 ] && grep -q '^mica: ' "$err" || complain "$1: not one line"
    leaves_nothing "$1"
    echo "$1: ended after $waited ms"
}
interrupt INT 130
interrupt TERM 143
interrupt HUP 129

# Who asked to outlive the terminal does.
checks=$((checks + 1))
(trap '' HUP && exec "$MICA" image "$model" -p 'a fox' -W 1024 -H 1024 --steps 1000 -o x.png) >"$out" 2>"$err" &
run=$!
sleep 1
kill -s HUP $run
sleep 0.3
kill -0 $run 2>/dev/null || complain 'a hangup ended a run that ignores it'
kill -s TERM $run
wait $run
check 'and is terminated as ever' test $? = 143

# A conversion of 4 GB that take no room.
header='{"a.weight":{"dtype":"BF16","shape":[32768,65536],"data_offsets":[0,4294967296]}}       ' # a multiple of 8 characters
printf '%b' "\\0$(printf %o ${#header})\\0000\\0000\\0000\\0000\\0000\\0000\\0000$header" >model_large.safetensors
truncate -s $((4294967296 + 8 + ${#header})) model_large.safetensors
"$MICA" convert model_large.safetensors y.safetensors --type q4 >"$out" 2>"$err" &
run=$!
for i in $(seq 100); do
    ls y.safetensors*.tmp >/dev/null 2>&1 && break
    sleep 0.05
done
check 'the conversion writes to another name' sh -c 'ls y.safetensors*.tmp >/dev/null'
kill -s INT $run
wait $run
check 'an interrupted conversion ends with 130' test $? = 130
check 'in one line' test "$(wc -l <"$err")" = 1
leaves_nothing 'an interrupted conversion'
finish
