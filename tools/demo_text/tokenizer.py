"""Trains the demo text model's tokenizer: BPE of characters with byte fallback, in Mixtral's form.

No token crosses a space, so a text's ids are those of its words one after the other; `words.json`
holds them for every word of the corpus, and training needs no tokenizer.

usage: tokenizer.py RECORDS.jsonl OUT_FOLDER
"""
import json
import os
import random
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dictionary import documents, load

VOCABULARY = 4096
SPACE = "\u2581"


def train(texts):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY - 259, show_progress=False,
                                                     limit_alphabet=160))
    return json.loads(t.to_str())["model"]


def whole(trained):
    """The trained pieces behind <unk>, <s>, </s> and the 256 byte tokens."""
    pieces = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    pieces += sorted(trained["vocab"], key=trained["vocab"].get)
    special = [{"id": i, "content": c, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i, c in enumerate(pieces[:3])]
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    a, b = ({"Sequence": {"id": s, "type_id": i}} for i, s in enumerate("AB"))
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": True},
        "post_processor": {"type": "TemplateProcessing", "single": [begin, a], "pair": [begin, a, b],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
                  "vocab": {p: i for i, p in enumerate(pieces)},
                  "merges": [m if isinstance(m, str) else " ".join(m) for m in trained["merges"]]}}


def main():
    records, held = load(sys.argv[1])
    out = sys.argv[2]
    os.makedirs(out, exist_ok=True)
    rng = random.Random(2)
    texts = [d.replace("<s>", "").replace("</s>", "") for d in documents(records, rng, 1)]
    j = whole(train(rng.sample(texts, 120000)))
    with open(out + "/tokenizer.json", "w") as f:
        json.dump(j, f, ensure_ascii=False, separators=(",", ":"))
    t = Tokenizer.from_str(json.dumps(j))
    words = set()
    for i in range(6): # other turns of phrase each time
        for d in documents(records + held, random.Random(10 + i), 0):
            for part in d.replace("<s>", "").split("</s>"):
                words.update(part.split(" "))
    words = sorted(words - {""})
    ids = [t.encode(" " + w, add_special_tokens=False).ids for w in words]
    json.dump({"words": words, "ids": ids}, open(out + "/words.json", "w"), separators=(",", ":"))
    n = sum(len(i) for i in ids)
    print("%d tokens, %d words of %.2f tokens" % (len(j["model"]["vocab"]), len(words), n / len(words)))


if __name__ == "__main__":
    main()
