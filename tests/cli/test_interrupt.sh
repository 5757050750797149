# test_interrupt.sh - Ctrl-C in the middle of a long run: a prompt end, status 130, no file.
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
finish
