"""Golden case `window` of tests/golden/mixtral: the bf16 model with sliding_window 24, a prompt of 700 tokens.

    input_ids [1, 700], logits [1, 700, 640] of every 7th position, greedy_tokens [16]

Computed in float32 by transformers, eager attention, without a cache (each token anew from all before it).

usage: mixtral_window_case.py HF_FOLDER OUT_FOLDER
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, MixtralForCausalLM

WINDOW, LENGTH, WRITTEN = 24, 700, 16


def main():
    folder, out = sys.argv[1:3]
    config = AutoConfig.from_pretrained(folder)
    config.sliding_window = WINDOW
    config._attn_implementation = "eager"
    model = MixtralForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32,
                                               attn_implementation="eager").eval()
    ids = [1] + [int((i * 7919 + i * i * 31 + 13) % 637) + 3 for i in range(LENGTH - 1)]
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits
        seen, written = list(ids), []
        for _ in range(WRITTEN):
            last = model(torch.tensor([seen]), use_cache=False).logits[0, -1]
            written.append(int(last.argmax()))
            seen.append(written[-1])
        plain = MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        other = plain(torch.tensor([ids]), use_cache=False).logits
    print("differs from no window by", float((other - logits).norm() / logits.norm()))
    os.makedirs(out, exist_ok=True)
    save_file({"input_ids": torch.tensor([ids], dtype=torch.int32), "logits": logits[:, ::7].contiguous(),
               "greedy_tokens": torch.tensor(written, dtype=torch.int32)}, out + "/expected.safetensors")
    json.dump({"case": "window", "model": "../../hf", "sliding_window": WINDOW, "every": 7,
               "tolerance": {"float32_compute": {"rel_l2": 1e-4}}}, open(out + "/manifest.json", "w"), indent=1)


if __name__ == "__main__":
    main()
