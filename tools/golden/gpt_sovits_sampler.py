"""Probabilities of the sampler of GPT-SoVITS for a few settings, from upstream's own function.

    python3 gpt_sovits_sampler.py UPSTREAM OUT.safetensors

UPSTREAM is the folder GPT_SoVITS of a checkout of RVC-Boss/GPT-SoVITS (commit 48b1a01)."""
import sys, os
sys.path.insert(0, os.path.join(sys.argv[1], "AR", "models"))
import torch
from safetensors.torch import save_file
src = open(os.path.join(sys.argv[1], "AR", "models", "utils.py"), encoding="utf-8").read()
import types
m = types.ModuleType("u"); exec(compile(src, "utils.py", "exec"), m.__dict__)
g = torch.Generator().manual_seed(5)
cases = [(15, 1.0, 1.0, 1.35), (5, 0.8, 0.7, 1.35), (40, 0.6, 1.3, 1.0), (3, 1.0, 0.5, 2.0), (48, 0.95, 1.0, 1.1)]
out = {}
for i, (k, p, t, r) in enumerate(cases):
    logits = torch.randn(1, 48, generator=g) * 2.5
    seen = torch.randint(0, 48, (1, 20), generator=g)
    probs = m.logits_to_probs(logits.clone(), seen, temperature=t, top_k=k, top_p=p, repetition_penalty=r)
    out |= {f"{i}.logits": logits[0], f"{i}.seen": seen[0].int(), f"{i}.probs": probs[0],
            f"{i}.settings": torch.tensor([k, p, t, r])}
save_file(out, sys.argv[2])
