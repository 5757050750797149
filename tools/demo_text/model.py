"""The demo text model in PyTorch: Mixtral as transformers has it, shaped for training.

All experts of a layer are one wide product whose outputs are gated: for experts this small that is
faster than sorting tokens, and the gates of those that were not chosen are zeros.
"""
import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {"vocab": 4096, "width": 256, "ffn": 192, "layers": 5, "heads": 8, "kv_heads": 4, "head_dim": 32,
          "experts": 8, "active": 2, "theta": 10000.0, "eps": 1e-5, "context": 1024}


def norm(x, w):
    f = x.float()
    return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + CONFIG["eps"])).type_as(x) * w


def rotate(x, cos, sin):
    """x [B, H, L, K]; pairs (i, i + K/2)"""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, k = c["width"], c["head_dim"]

        def matrix(*shape, scale=1.0):
            return nn.Parameter(torch.randn(*shape) * scale * shape[-1] ** -.5)
        self.norm_in = nn.Parameter(torch.ones(d))
        self.norm_post = nn.Parameter(torch.ones(d))
        self.q, self.k = matrix(c["heads"] * k, d), matrix(c["kv_heads"] * k, d)
        self.v, self.o = matrix(c["kv_heads"] * k, d), matrix(d, c["heads"] * k, scale=.3)
        self.router = matrix(c["experts"], d)
        self.w1, self.w3 = matrix(c["experts"], c["ffn"], d), matrix(c["experts"], c["ffn"], d)
        self.w2 = matrix(c["experts"], d, c["ffn"], scale=.3)

    def attention(self, x, cos, sin, c):
        b, n, _ = x.shape
        h = norm(x, self.norm_in)
        q = F.linear(h, self.q).view(b, n, c["heads"], -1).transpose(1, 2)
        k = F.linear(h, self.k).view(b, n, c["kv_heads"], -1).transpose(1, 2)
        v = F.linear(h, self.v).view(b, n, c["kv_heads"], -1).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        share = c["heads"] // c["kv_heads"]
        k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + F.linear(y.transpose(1, 2).reshape(b, n, -1), self.o)

    def experts(self, x, c):
        h = norm(x, self.norm_post)
        logits = F.linear(h.float(), self.router.float())
        p = logits.softmax(-1)
        top = p.topk(c["active"], -1)
        gate = torch.zeros_like(p).scatter(-1, top.indices, top.values / top.values.sum(-1, keepdim=True))
        e, f, d = self.w1.shape
        y = F.silu(F.linear(h, self.w1.view(e * f, d))) * F.linear(h, self.w3.view(e * f, d))
        y = y.view(*y.shape[:-1], e, f) * gate.unsqueeze(-1).type_as(y)
        y = F.linear(y.flatten(-2), self.w2.permute(1, 0, 2).reshape(d, e * f))
        chosen = (gate > 0).float().flatten(0, -2).mean(0) / c["active"]
        balance = e * (chosen * p.flatten(0, -2).mean(0)).sum()
        return x + y, balance


class Mixtral(nn.Module):
    def __init__(self, c=CONFIG):
        super().__init__()
        self.c = c
        self.embed = nn.Parameter(torch.randn(c["vocab"], c["width"]) * .02)
        self.norm = nn.Parameter(torch.ones(c["width"]))
        self.layers = nn.ModuleList([Layer(c) for _ in range(c["layers"])])
        half = c["head_dim"] // 2
        freq = 1.0 / c["theta"] ** (torch.arange(half) * 2 / c["head_dim"])
        angle = torch.arange(c["context"])[:, None] * freq
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids):
        """Logits and the mean imbalance of the experts (1: even)."""
        x = F.embedding(ids, self.embed)
        n, total = ids.shape[1], 0.0
        cos, sin = self.cos[:n].type_as(x), self.sin[:n].type_as(x)
        for layer in self.layers:
            x = layer.attention(x, cos, sin, self.c)
            x, balance = layer.experts(x, self.c)
            total = total + balance
        return F.linear(norm(x, self.norm), self.embed), total / len(self.layers)

    def loss(self, ids):
        logits, balance = self(ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten().long()), balance
