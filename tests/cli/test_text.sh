# test_text.sh - `mica complete` and `mica chat`: what they write, keep and refuse.
. "$(dirname "$0")/cli_test.sh"
json_get() { "$MICA_TOOLS/json_get" "$@"; }
folder=$MICA_GOLDEN/../mixtral
prompt='The quick brown fox sits on a rock. 你好, what is 42?'
greedy='284 440 35 59 308 470 266 314 279 145 615 515 153 527 562 418 392 226 580 97 66 622 83 346'

# The reference's tokens, in the form that scripts read.
works complete "$folder/hf" -p "$prompt" --max-tokens 24 --temp 0 --ignore-eos --precision f32 --device cpu \
    --trace t.safetensors --json
cp "$out" a.json
i=0
for id in $greedy; do
    check "token $i" test "$(json_get tokens.$i <a.json)" = "$id"
    i=$((i + 1))
done
check 'finish' test "$(json_get finish <a.json)" = length
check 'a trace' grep -q router_logits.1 t.safetensors
works complete "$folder/hf" -p 'A red fox' --tokens
check 'ids' test "$(cat "$out")" = '1 326 310 376 281 387 396'
works complete "$folder/hf" -p 'A red fox' --tokens --no-bos
check 'ids without a beginning' test "$(cat "$out")" = '326 310 376 281 387 396'

# Names that llama.cpp has for options, and a schema that holds itself.
works complete "$folder/hf" -p "$prompt" --n-predict 3 --ctx-size 60 --batch-size 16 --temp 0 --repeat-last-n 8 --ignore-eos \
    --logit-bias 300-1000 --json
check 'three tokens' test "$(json_get finish <"$out")" = length
works complete "$folder/hf" -p a --seed 2 \
    --json-schema '{"type":"array","items":{"$ref":"#"},"maxItems":1}'
check 'brackets' grep -Eq '^[][ ]+$' "$out"

# What streams is what the JSON says.
works complete "$folder/hf" -p "$prompt" --max-tokens 24 --temp 0 --ignore-eos --precision f32
check 'streamed text' test "$(cat "$out")" = "$(json_get text <a.json)"

# A prompt kept in a file gives the same answer; of another model it is refused.
for reused in 0 40; do
    works complete "$folder/hf" -p "$prompt" --max-tokens 24 --temp 0 --ignore-eos --precision f32 --json \
        --prompt-cache kept.safetensors
    check "reused $reused" test "$(json_get reused_tokens <"$out")" = $reused
    check 'same text' test "$(json_get text <"$out")" = "$(json_get text <a.json)"
done
fails 2 'another model' complete "$folder/mlx_q8" -p "$prompt" --prompt-cache kept.safetensors
echo damaged >kept.safetensors
fails 1 'kept.safetensors' complete "$folder/hf" -p "$prompt" --prompt-cache kept.safetensors

# Several prompts are what they are alone, each with its own seed.
works complete "$folder/hf" -p 'the low' -p "$prompt" --max-tokens 12 --seed 5 --ignore-eos --precision f32 --json
cp "$out" two.json
works complete "$folder/hf" -p "$prompt" --max-tokens 12 --seed 6 --ignore-eos --precision f32 --json
check 'batch' test "$(json_get answers.1.text <two.json)" = "$(json_get text <"$out")"

# A grammar, a schema, stop texts, chances.
works complete "$folder/hf" -p a --grammar 'root ::= [0-9]{4} "."' --seed 2
check 'grammar' grep -Eqx '[0-9]{4}\.' "$out"
works complete "$folder/hf" -p a --json-schema '{"type":"array","items":{"type":"boolean"},"minItems":2,"maxItems":2}' --seed 2
check 'schema' grep -Eq 'true|false' "$out"
works complete "$folder/hf" -p "$prompt" --temp 0 --max-tokens 24 --ignore-eos --precision f32 --stop the --json
check 'stopped' test "$(json_get finish <"$out")" = stop
works complete "$folder/hf" -p "$prompt" --temp 0 --max-tokens 2 --logprobs 2 --json
check 'likeliest first' test "$(json_get logprobs.0.likeliest.0.id <"$out")" = "$(json_get tokens.0 <"$out")"
works complete "$folder/hf" -p a --temp 0 --max-tokens 1 --logit-bias 300=1000 --json
check 'bias' test "$(json_get tokens.0 <"$out")" = 300

works complete "$folder/hf" -p "$prompt" --temp 0 --max-tokens 6 --ignore-eos --precision f32 --cache-type q8 --json
check 'a cache in 8 bits' test "$(json_get tokens.0 <"$out")" = 284
cp "$out" q8.json
for reused in 0 40; do
    works complete "$folder/hf" -p "$prompt" --temp 0 --max-tokens 6 --ignore-eos --precision f32 --cache-type q8 --json \
        --prompt-cache q8.safetensors
    check "reused $reused in 8 bits" test "$(json_get reused_tokens <"$out")" = $reused
    check 'same text in 8 bits' test "$(json_get text <"$out")" = "$(json_get text <q8.json)"
done
fails 2 'cached with --cache-type q8' complete "$folder/hf" -p "$prompt" --prompt-cache q8.safetensors
fails 2 'cpu-experts is for a model on a GPU' complete "$folder/hf" -p a --cpu-experts all --device cpu

# A full context.
works complete "$folder/hf" -p "$prompt" --context 45 --ignore-eos --json
check 'context' test "$(json_get finish <"$out")" = context
fails 2 '41 tokens' complete "$folder/hf" -p "$prompt" --context 41

# The demo model, without being named.
works complete -p 'dog (noun):' --temp 0
check 'demo' grep -q 'genus Canis' "$out"
printf 'What is a computer?\n/undo\nWhat is a dog?\n' >turns
"$MICA" chat --temp 0 --history h.json <turns >"$out" 2>"$err"
check 'chat' grep -q 'machine for performing calculations' "$out"
check 'history' sh -c 'grep -c role h.json | grep -qx 2'
printf 'Define freedom.\n' >turns
"$MICA" chat --temp 0 --history h.json <turns >"$out" 2>"$err"
check 'history goes on' sh -c 'grep -c role h.json | grep -qx 4'
printf '/nonsense\n' | "$MICA" chat >"$out" 2>"$err"
check 'unknown command' grep -q '/help' "$err"

# Ids as JSON, a note about bytes that are no text.
works complete "$folder/hf" -p 'A red fox' -p a --tokens --no-bos --json
check 'ids as JSON' test "$(cat "$out")" = '{"tokens":[[326,310,376,281,387,396],[260]]}'
works complete "$folder/hf" -p "$(printf 'caf\351')" --max-tokens 1
check 'a note about bytes' grep -q 'the prompt is not valid UTF-8' "$err"

works complete "$folder/hf" -p "$prompt" -n -1 --context 45 --ignore-eos --json
check 'no limit but the context' test "$(json_get finish <"$out")" = context
fails 2 'from 1 to 10000000' complete "$folder/hf" -p a -n 0
works complete "$folder/hf" -p a -n 1 --seed random --json
check 'the seed is told' grep -Eq '"seed":[0-9]+' "$out"

# What llama.cpp spells otherwise is told, not guessed.
fails 2 '^mica: -f is -p @FILE here$' complete -f x
fails 2 '^mica: --grammar-file is --grammar @FILE here$' complete -p a --grammar-file x
fails 2 '^mica: -t is --threads here$' chat -t 2
fails 2 '^mica: -p is a line of input here$' chat -p a
fails 2 'told with --json' complete "$folder/hf" -p a --logprobs 2
fails 2 'a context of 40000 tokens is more than the 32768' complete "$folder/hf" -p a --context 40000

# Refusals.
fails 2 'needs a text' complete "$folder/hf"
fails 2 'ID=BIAS' complete "$folder/hf" -p a --logit-bias 5
fails 2 'logit bias for token' complete "$folder/hf" -p a --logit-bias 99999=1
fails 2 'grammar:1' complete "$folder/hf" -p a --grammar 'root ::= "a'
fails 2 'not both' complete "$folder/hf" -p a --grammar 'root ::= "a"' --json-schema '{}'
fails 1 'pattern' complete "$folder/hf" -p a --json-schema '{"pattern":"x"}'
fails 2 'does not write text' complete "$model" -p a
fails 2 'top-p' complete "$folder/hf" -p a --top-p 2
fails 1 'no such' complete nowhere -p a
fails 2 'of one prompt' complete "$folder/hf" -p a -p b --trace t.safetensors
fails 2 'no JSON' chat --json
cp -r "$folder/hf" broken
chmod -R u+w broken
rm broken/tokenizer.json
fails 1 'tokenizer' complete broken -p a
cp "$folder/hf/tokenizer.json" broken/
sed 's/"num_experts_per_tok": 2/"num_experts_per_tok": 9/' "$folder/hf/config.json" >broken/config.json
fails 1 '9 of 4 experts' complete broken -p a
sed 's/"intermediate_size": 64/"intermediate_size": 65/' "$folder/hf/config.json" >broken/config.json
fails 1 'w1.weight' complete broken -p a
sed 's/"mixtral"/"dbrx"/' "$folder/hf/config.json" >broken/config.json
fails 1 'dbrx' complete broken -p a

# Parts of picture models are wrong usage here, not ignored.
for word in complete chat; do
    for option in --lora --vae --transformer --text-encoder; do
        fails 2 "unknown option $option" $word "$folder/hf" $option nothing
    done
done
fails 1 'nothing' complete "$folder/hf" --tokenizer nothing -p a
finish
