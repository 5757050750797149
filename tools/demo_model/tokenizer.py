"""Trains the demo model's byte-level BPE on its own prompts; writes the folder `tokenizer/`.

The pipeline drops the first 34 tokens, whatever they are, so the prompt template must be exactly
34 tokens long: the template is part of the corpus often enough that each of its words is one token.

usage: tokenizer.py DATA_FOLDER OUT_FOLDER
"""
import json
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers

from prompts import Table, specification

BEFORE = ("<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
          "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
          "<|im_start|>user\n")
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
DROPPED = 34
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>",
           "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>",
           "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
           "<|video_pad|>"]
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
VOCABULARY = 2800 - len(SPECIAL)


def train(texts):
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"),
         pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    t.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False,
                                            use_regex=False)
    t.decoder = decoders.ByteLevel()
    plain = BEFORE.replace("<|im_start|>", "").replace("<|im_end|>", "") + "assistant\n"
    corpus = texts + [plain] * (len(texts) // 20)
    t.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    return t


def write(t, out):
    os.makedirs(out, exist_ok=True)
    t.save(out + "/tokenizer.json")
    j = json.loads(t.to_str())
    json.dump(j["model"]["vocab"], open(out + "/vocab.json", "w"), ensure_ascii=False)
    with open(out + "/merges.txt", "w") as f:
        f.write("#version: 0.2\n")
        f.writelines("%s %s\n" % tuple(m) for m in j["model"]["merges"])
    added = {s: t.token_to_id(s) for s in SPECIAL}
    json.dump(added, open(out + "/added_tokens.json", "w"), indent=1)
    decoder = {str(i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False,
                        "single_word": False, "special": True} for s, i in added.items()}
    json.dump({"add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": decoder,
               "additional_special_tokens": SPECIAL[1:], "bos_token": None,
               "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>",
               "errors": "replace", "model_max_length": 131072, "pad_token": "<|endoftext|>",
               "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer",
               "unk_token": None}, open(out + "/tokenizer_config.json", "w"), indent=1)


def main():
    texts = specification(Table(sys.argv[1] + "/emoji.json"), 200000, 9)[0]
    t = train(texts)
    write(t, sys.argv[2])
    head = len(t.encode(BEFORE).ids)
    lengths = sorted(len(t.encode(x + AFTER).ids) for x in texts[:5000])
    print("vocabulary", t.get_vocab_size(), "template", head, "prompt median",
          lengths[2500], "99 %", lengths[4950], "longest", lengths[-1])
    if head != DROPPED:
        sys.exit("the template is %d tokens long, not %d" % (head, DROPPED))


if __name__ == "__main__":
    main()
