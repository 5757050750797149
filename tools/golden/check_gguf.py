#!/usr/bin/env python3
"""Reads GGUF files that `mica convert` wrote with the `gguf` package, and compares every tensor with the
safetensors file that it was made from.

    check_gguf.py FILE.gguf SAFETENSORS_OR_FOLDER [LARGEST_RELATIVE_ERROR]

Prints a line per type and fails when a tensor is missing, has another shape or errs by more. Text encoders
and Mixtral are compared by llama.cpp's names; of FLUX.2 and Z-Image give a file in ComfyUI's names, which
GGUF has. Needs numpy, safetensors, torch (bfloat16 files) and gguf.
"""
import glob
import os
import re
import sys

import gguf
import numpy as np
from gguf import quants
from safetensors import safe_open

LAYER = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "block_sparse_moe.gate": "ffn_gate_inp"}
EXPERT = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}


def originals(path):
    files = sorted(glob.glob(os.path.join(path, "*.safetensors"))) if os.path.isdir(path) else [path]
    for name in files:
        with safe_open(name, "pt") as f:
            for key in f.keys():
                yield key, f.get_tensor(key).float().numpy()


def stacked(pairs):
    """Experts as one tensor each, as GGUF has them."""
    stacks = {}
    for key, t in pairs:
        m = re.match(r"(model\.layers\.\d+\.)block_sparse_moe\.experts\.(\d+)\.(w\d)\.weight$", key)
        if m:
            stacks.setdefault((m.group(1), m.group(3)), {})[int(m.group(2))] = t
        else:
            yield key, t
    for (layer, part), tensors in stacks.items():
        number = layer.split(".")[2]
        yield ("blk.%s.%s.weight" % (number, EXPERT[part]),
               np.stack([tensors[e] for e in range(len(tensors))]))


def neighbours(t, heads):
    """Rows of each head with rotary pairs as neighbours, as the `llama` architecture has q and k."""
    return t.reshape(heads, 2, -1, t.shape[-1]).swapaxes(1, 2).reshape(t.shape)


def llama_name(key):
    key = key.replace("model.language_model.", "model.")
    for a, b in (("model.embed_tokens.", "token_embd."), ("model.norm.", "output_norm."),
                 ("lm_head.", "output.")):
        if key.startswith(a):
            return b + key[len(a):]
    if key.startswith("model.layers."):
        number, rest = key[len("model.layers."):].split(".", 1)
        module, role = rest.rsplit(".", 1)
        return "blk.%s.%s.%s" % (number, LAYER[module], role)
    return key


def main():
    reader = gguf.GGUFReader(sys.argv[1])
    bound = float(sys.argv[3]) if len(sys.argv) > 3 else 0.15
    architecture = reader.get_field("general.architecture").contents()
    tensors = {t.name: t for t in reader.tensors}
    worst, seen = {}, set()
    heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    for key, want in stacked(originals(sys.argv[2])):
        name = key if key in tensors else llama_name(key)
        if name not in tensors:
            assert key.startswith("visual."), "missing: " + key
            continue
        t = tensors[name]
        role = name.split(".")[-2]
        if architecture == "llama" and role in heads:
            want = neighbours(want, int(reader.get_field(heads[role]).contents()))
        got = np.asarray(quants.dequantize(t.data, t.tensor_type), np.float32)
        got = got.reshape([int(n) for n in reversed(t.shape)])
        assert got.shape == want.shape, (key, got.shape, want.shape)
        error = float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30))
        assert error <= bound, (key, error)
        kind = t.tensor_type.name
        count, most = worst.get(kind, (0, 0.0))
        worst[kind] = (count + 1, max(most, error))
        seen.add(name)
    assert seen == set(tensors), "not in the original: %s" % sorted(set(tensors) - seen)
    print("%s: %s, %d values" % (os.path.basename(sys.argv[1]), architecture, len(reader.fields)))
    for kind, (count, most) in sorted(worst.items()):
        print("  %-6s %4d tensors, relative error at most %.4g" % (kind, count, most))


main()
