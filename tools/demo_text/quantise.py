"""MLX's group-wise affine quantisation, and the export of a trained model in that layout.

    w = scale * q + bias      q: 4 or 8 bits, groups of 64 along the last axis, scale and bias bf16
"""
import json
import os
import struct

import torch

GROUP = 64


def quantise(w, bits):
    """q, scale, bias as mlx.core.quantize chooses them: the end of larger magnitude is exact."""
    top = 2 ** bits - 1
    g = w.float().reshape(*w.shape[:-1], -1, GROUP)
    lo, hi = g.amin(-1, keepdim=True), g.amax(-1, keepdim=True)
    low_end = lo.abs() > hi.abs()
    scale = ((hi - lo) / top).clamp(min=1e-7)
    scale = torch.where(low_end, scale, -scale)
    edge = torch.where(low_end, lo, hi)
    q0 = (edge / scale).round()
    scale = torch.where(q0 != 0, edge / q0, scale).bfloat16().float()
    bias = torch.where(q0 != 0, edge, torch.zeros_like(edge)).bfloat16().float()
    scale = torch.where(scale == 0, torch.full_like(scale, 1e-7).bfloat16().float(), scale)
    q = ((g - bias) / scale).round().clamp(0, top)
    return q, scale, bias


def round_to(w, bits):
    q, scale, bias = quantise(w, bits)
    return (q * scale + bias).reshape(w.shape)


def is_quantised(name):
    return not ("norm" in name or "router" in name)


# -------------------------------------------------------------------------- export

def pack(q, bits):
    """[.., n] whole numbers to little-endian 32-bit words, low bits first"""
    per = 32 // bits
    q = q.to(torch.int64).reshape(*q.shape[:-2], -1)
    q = q.reshape(*q.shape[:-1], -1, per)
    words = (q << (torch.arange(per) * bits)).sum(-1)
    return torch.where(words >= 2 ** 31, words - 2 ** 32, words).to(torch.int32)


def names(model):
    """(canonical name without ".weight", tensor) of every parameter"""
    yield "model.embed_tokens", model.embed
    yield "model.norm", model.norm
    for i, layer in enumerate(model.layers):
        p = "model.layers.%d." % i
        yield p + "input_layernorm", layer.norm_in
        yield p + "post_attention_layernorm", layer.norm_post
        for n in "qkvo":
            yield p + "self_attn.%s_proj" % n, getattr(layer, n)
        yield p + "block_sparse_moe.gate", layer.router
        for n, ours in (("gate_proj", layer.w1), ("up_proj", layer.w3), ("down_proj", layer.w2)):
            yield p + "block_sparse_moe.switch_mlp." + n, ours


def write_safetensors(path, tensors):
    kinds = {torch.bfloat16: "BF16", torch.int32: "U32"}
    header, blobs, at = {"__metadata__": {"format": "mlx"}}, [], 0
    for name, t in sorted(tensors.items(), key=lambda i: (i[1].dtype != torch.int32, i[0])):
        raw = t.contiguous().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": kinds[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        blobs.append(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for b in blobs:
            f.write(b)


def config_of(c, bits):
    j = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "bos_token_id": 1, "eos_token_id": 2,
         "hidden_act": "silu", "hidden_size": c["width"], "intermediate_size": c["ffn"],
         "max_position_embeddings": c["context"], "num_attention_heads": c["heads"],
         "num_key_value_heads": c["kv_heads"], "head_dim": c["head_dim"], "num_hidden_layers": c["layers"],
         "num_local_experts": c["experts"], "num_experts_per_tok": c["active"], "rms_norm_eps": c["eps"],
         "rope_theta": c["theta"], "sliding_window": None, "tie_word_embeddings": True,
         "vocab_size": c["vocab"], "torch_dtype": "bfloat16"}
    if bits < 16:
        j["quantization"] = {"group_size": GROUP, "bits": bits}
    return j


def export(model, folder, bits):
    """bits 16: bf16"""
    tensors = {}
    os.makedirs(folder, exist_ok=True)
    for name, w in names(model):
        w = w.detach().float().cpu()
        if bits == 16 or w.ndim < 2 or not is_quantised("router" if name.endswith("moe.gate") else name):
            tensors[name + ".weight"] = w.bfloat16()
            continue
        q, scale, bias = quantise(w, bits)
        tensors[name + ".weight"] = pack(q, bits)
        tensors[name + ".scales"] = scale.squeeze(-1).bfloat16()
        tensors[name + ".biases"] = bias.squeeze(-1).bfloat16()
    write_safetensors(folder + "/model.safetensors", tensors)
    with open(folder + "/config.json", "w") as f:
        json.dump(config_of(model.c, bits), f, indent=1)
        f.write("\n")
