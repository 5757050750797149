#!/usr/bin/env python3
"""Reads a folder that `mica convert` wrote the way mlx-lm loads one, and compares it with the original.

    check_mlx.py CONVERTED_FOLDER ORIGINAL_FOLDER [LARGEST_RELATIVE_ERROR]

The rule and the exceptions of config.json's `quantization` say bits and group of a module; a module is packed if
it has `.scales`. Numbers lie low bits first in the words of a row, w = scale * q + bias per group. Experts may be
stacked in one folder and apart in the other. Needs numpy, safetensors and torch (bfloat16 files).
"""
import glob
import json
import os
import re
import sys

import numpy as np
import torch
from safetensors import safe_open


def load(folder):
    index = glob.glob(os.path.join(folder, "*.safetensors.index.json"))
    names = (sorted(set(json.load(open(index[0]))["weight_map"].values())) if index
             else sorted(os.path.basename(f) for f in glob.glob(os.path.join(folder, "*.safetensors"))))
    out = {}
    for name in names:
        with safe_open(os.path.join(folder, name), "pt") as f:
            for key in f.keys():
                t = f.get_tensor(key)
                out[key] = t.numpy() if t.dtype in (torch.uint32, torch.int32) else t.float().numpy()
    return out


def unpack(words, bits, count):
    """Rows of 32-bit words as `count` numbers of `bits` each, low first."""
    rows = words.reshape(-1, words.shape[-1]).astype("<u4")
    stream = np.unpackbits(rows.view(np.uint8), axis=1, bitorder="little")[:, :count * bits]
    values = stream.reshape(rows.shape[0], count, bits).astype(np.int64)
    return (values << np.arange(bits)).sum(-1).reshape(words.shape[:-1] + (count,))


def decode(tensors, quantization):
    out = {}
    for key, t in tensors.items():
        module, _, role = key.rpartition(".")
        if role in ("scales", "biases") and module + ".weight" in tensors:
            continue
        if role == "weight" and module + ".scales" in tensors:
            rule = quantization.get(module, quantization)
            bits, group = rule["bits"], rule["group_size"]
            scales, biases = tensors[module + ".scales"], tensors[module + ".biases"]
            q = unpack(t.view(np.uint32), bits, scales.shape[-1] * group)
            q = q.reshape(q.shape[:-1] + (-1, group)).astype(np.float32)
            t = (q * scales[..., None] + biases[..., None]).reshape(t.shape[:-1] + (-1,))
        out[key] = t
    return out


def find(original, key):
    stack = re.match(r"(.*block_sparse_moe)\.switch_mlp\.(gate|up|down)_proj\.weight$", key)
    if not stack or key in original:
        return original.get(key)
    part = {"gate": "w1", "down": "w2", "up": "w3"}[stack.group(2)]
    matrices = []
    while "%s.experts.%d.%s.weight" % (stack.group(1), len(matrices), part) in original:
        matrices.append(original["%s.experts.%d.%s.weight" % (stack.group(1), len(matrices), part)])
    return np.stack(matrices)


def main():
    config = json.load(open(os.path.join(sys.argv[1], "config.json")))
    assert config.get("quantization") == config.get("quantization_config")
    packed = load(sys.argv[1])
    original, bound = load(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.12
    worst, count, numbers = 0.0, 0, 0
    for key, got in decode(packed, config.get("quantization", {})).items():
        want = find(original, key)
        assert want is not None, "not in the original: " + key
        assert got.shape == want.shape, (key, got.shape, want.shape)
        error = float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30))
        is_packed = key.rpartition(".")[0] + ".scales" in packed
        assert error <= (bound if is_packed else 0.0), (key, error)
        worst, count, numbers = max(worst, error), count + is_packed, numbers + want.size
    assert numbers == sum(t.size for t in original.values()), "not all of the original is there"
    print("%s: %d packed layers, relative error at most %.4g" % (sys.argv[1], count, worst))


main()
