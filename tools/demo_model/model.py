"""The three networks of the demo model, small and fast to train, with the reference's mathematics.

    TextEncoder   Qwen2.5-VL's language half (transformers modeling_qwen2_5_vl.py)
    Transformer   QwenImageTransformer2DModel (diffusers transformer_qwenimage.py)
    Autoencoder   AutoencoderKLQwenImage on single pictures (diffusers autoencoder_kl_qwenimage.py):
                  of its causal 3-D kernels only the last time tap counts, so kernels are 2-D here

Parameters carry the reference's names; `reference_state` gives tensors as the reference stores
them. export.py proves equality with the reference implementations.
"""
import torch
import torch.nn.functional as F
from torch import nn

# ------------------------------------------------------------------------------- text encoder


class RMSNorm(nn.Module):
    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * self.weight).to(x.dtype)


class TextAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv, self.dim = c["heads"], c["kv_heads"], c["width"] // c["heads"]
        self.q_proj = nn.Linear(c["width"], self.heads * self.dim)
        self.k_proj = nn.Linear(c["width"], self.kv * self.dim)
        self.v_proj = nn.Linear(c["width"], self.kv * self.dim)
        self.o_proj = nn.Linear(self.heads * self.dim, c["width"], bias=False)

    def forward(self, x, cos, sin):
        B, L, _ = x.shape

        def split(y, n):
            return y.view(B, L, n, self.dim).transpose(1, 2)

        def turn(y):
            a, b = y.chunk(2, -1)
            return (y * cos + torch.cat([-b, a], -1) * sin).to(x.dtype)

        q, k = turn(split(self.q_proj(x), self.heads)), turn(split(self.k_proj(x), self.kv))
        v = split(self.v_proj(x), self.kv)
        group = self.heads // self.kv
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k.to(v.dtype), v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(B, L, -1))


class TextMLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["width"], c["ffn"], bias=False)
        self.up_proj = nn.Linear(c["width"], c["ffn"], bias=False)
        self.down_proj = nn.Linear(c["ffn"], c["width"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TextLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(c["width"]), RMSNorm(c["width"])
        self.self_attn, self.mlp = TextAttention(c), TextMLP(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class TextEncoder(nn.Module):
    THETA = 1e6

    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab"], c["width"])
        self.layers = nn.ModuleList(TextLayer(c) for _ in range(c["layers"]))
        self.norm = RMSNorm(c["width"])
        self.dim = c["width"] // c["heads"]
        nn.init.normal_(self.embed_tokens.weight, std=.5)

    def forward(self, ids):
        """ids [B, L] padded behind; the encoder is causal, so padding does no harm."""
        L = ids.shape[1]
        f = self.THETA ** -(torch.arange(0, self.dim, 2, device=ids.device).float() / self.dim)
        a = torch.arange(L, device=ids.device).float()[:, None] * f
        a = torch.cat([a, a], -1)
        cos, sin = a.cos(), a.sin()
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


# -------------------------------------------------------------------------------- transformer


class Project(nn.Module):
    """The first half of the reference's FeedForward, whose linear is called net.0.proj."""

    def __init__(self, width, out):
        super().__init__()
        self.proj = nn.Linear(width, out)

    def forward(self, x):
        return F.gelu(self.proj(x), approximate="tanh")


class MLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.ModuleList([Project(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x):
        return self.net[2](self.net[0](x))


def rotate(x, cos, sin):
    """Interleaved pairs; x [B, L, H, K], cos and sin [L, 1, K / 2]."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


class JointAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.dim = heads, width // heads
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
            setattr(self, name, nn.Linear(width, width))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            setattr(self, name, RMSNorm(self.dim))

    def forward(self, img, txt, rope, bias):
        def split(y):
            return y.unflatten(-1, (self.heads, self.dim))

        T = txt.shape[1]
        ci, si, ct, st = rope
        q = torch.cat([rotate(self.norm_added_q(split(self.add_q_proj(txt))), ct, st),
                       rotate(self.norm_q(split(self.to_q(img))), ci, si)], 1)
        k = torch.cat([rotate(self.norm_added_k(split(self.add_k_proj(txt))), ct, st),
                       rotate(self.norm_k(split(self.to_k(img))), ci, si)], 1)
        v = torch.cat([split(self.add_v_proj(txt)), split(self.to_v(img))], 1)
        y = F.scaled_dot_product_attention(q.transpose(1, 2).to(v.dtype), k.transpose(1, 2).to(v.dtype),
                                           v.transpose(1, 2), attn_mask=bias)
        y = y.transpose(1, 2).flatten(2)
        return self.to_out[0](y[:, T:]), self.to_add_out(y[:, :T])


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.attn = JointAttention(width, heads)
        self.img_mlp, self.txt_mlp = MLP(width), MLP(width)
        self.width = width
        for m in (self.img_mod[1], self.txt_mod[1]):
            nn.init.zeros_(m.weight)
            nn.init.zeros_(m.bias)

    def norm(self, x):
        return F.layer_norm(x, (self.width,), eps=1e-6)

    def forward(self, img, txt, temb, rope, bias):
        m = self.img_mod(temb)[:, None].chunk(6, -1)
        n = self.txt_mod(temb)[:, None].chunk(6, -1)
        a, b = self.attn(self.norm(img) * (1 + m[1]) + m[0], self.norm(txt) * (1 + n[1]) + n[0],
                         rope, bias)
        img, txt = img + m[2] * a, txt + n[2] * b
        img = img + m[5] * self.img_mlp(self.norm(img) * (1 + m[4]) + m[3])
        txt = txt + n[5] * self.txt_mlp(self.norm(txt) * (1 + n[4]) + n[3])
        return img, txt


class TimeEmbedder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(256, width), nn.Linear(width, width)

    def forward(self, sigma):
        f = 10000. ** -(torch.arange(128, device=sigma.device).float() / 128)
        a = 1000 * sigma.float()[:, None] * f
        return self.linear_2(F.silu(self.linear_1(torch.cat([a.cos(), a.sin()], -1))))


class Transformer(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, self.axes = c["width"], c["axes"]
        self.time_text_embed = nn.ModuleDict({"timestep_embedder": TimeEmbedder(width)})
        self.txt_norm = RMSNorm(c["text_width"])
        self.img_in, self.txt_in = nn.Linear(64, width), nn.Linear(c["text_width"], width)
        self.transformer_blocks = nn.ModuleList(Block(width, c["heads"]) for _ in range(c["blocks"]))
        self.norm_out = nn.ModuleDict({"linear": nn.Linear(width, 2 * width)})
        self.proj_out = nn.Linear(width, 64)
        self.width = width
        for m in (self.norm_out["linear"], self.proj_out):
            nn.init.zeros_(m.weight)
            nn.init.zeros_(m.bias)

    def rope(self, side, T, device):
        """Image positions count from the middle, text starts at side / 2 on all axes."""
        def angles(position, dim):
            f = 10000. ** -(torch.arange(0, dim, 2, device=device).float() / dim)
            return position.float()[:, None] * f

        row = torch.arange(side, device=device) - (side - side // 2)
        y, x = row.repeat_interleave(side), row.repeat(side)
        img = torch.cat([angles(p, d) for p, d in zip((y * 0, y, x), self.axes)], -1)[:, None]
        t = torch.arange(T, device=device) + side // 2
        txt = torch.cat([angles(t, d) for d in self.axes], -1)[:, None]
        return img.cos(), img.sin(), txt.cos(), txt.sin()

    def forward(self, x, sigma, txt, mask):
        """x [B, side * side, 64], txt [B, T, text width], mask [B, T] true for words."""
        B, P, _ = x.shape
        side, T = int(P ** .5 + .5), txt.shape[1]
        img, txt = self.img_in(x), self.txt_in(self.txt_norm(txt))
        temb = self.time_text_embed["timestep_embedder"](sigma).to(img.dtype)
        bias = None
        if mask is not None:
            bias = torch.zeros(B, 1, 1, T + P, device=x.device, dtype=img.dtype)
            bias[..., :T] = torch.where(mask, 0., float("-inf"))[:, None, None].to(img.dtype)
            bias = bias.expand(-1, self.transformer_blocks[0].attn.heads, T + P, -1)
        rope = self.rope(side, T, x.device)
        for block in self.transformer_blocks:
            img, txt = block(img, txt, temb, rope, bias)
        scale, shift = self.norm_out["linear"](F.silu(temb))[:, None].chunk(2, -1)
        return self.proj_out(F.layer_norm(img, (self.width,), eps=1e-6) * (1 + scale) + shift)


def pack(z):
    """[B, 16, H, W] -> [B, H/2 * W/2, 64]"""
    B, C, H, W = z.shape
    return z.view(B, C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * 4)


def unpack(x, side):
    """The reverse; side in tokens."""
    return x.view(-1, side, side, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 16, 2 * side, 2 * side)


# -------------------------------------------------------------------------------- autoencoder


def channel_norm(x, gamma, scale, silu):
    y = (F.normalize(x.float(), dim=1) * scale * gamma).to(x.dtype)
    return F.silu(y) if silu else y


class ChannelNorm(nn.Module):
    """x / |x|_2 over channels * sqrt(C) * gamma"""

    def __init__(self, width, picture=False):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, 1, 1))
        self.picture, self.scale = picture, width ** .5

    function = staticmethod(channel_norm)  # train.py puts a compiled one here

    def forward(self, x, silu=True):
        return ChannelNorm.function(x, self.gamma, self.scale, silu)


def conv3(i, o):
    return nn.Conv2d(i, o, 3, padding=1)


class Residual(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.norm1, self.conv1 = ChannelNorm(i), conv3(i, o)
        self.norm2, self.conv2 = ChannelNorm(o), conv3(o, o)
        self.conv_shortcut = nn.Conv2d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x):
        h = self.conv1(self.norm1(x))
        return self.conv2(self.norm2(h)) + self.conv_shortcut(x)


class PictureAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = ChannelNorm(width, picture=True)
        self.to_qkv, self.proj = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x):
        B, C, H, W = x.shape
        q, k, v = self.to_qkv(self.norm(x, silu=False)).reshape(B, 3, C, H * W).transpose(2, 3).unbind(1)
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj(y.transpose(1, 2).reshape(B, C, H, W))


class Middle(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.resnets = nn.ModuleList([Residual(width, width), Residual(width, width)])
        self.attentions = nn.ModuleList([PictureAttention(width)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Down(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.resample = nn.ModuleList([nn.Identity(), nn.Conv2d(width, width, 3, stride=2)])

    def forward(self, x):
        return self.resample[1](F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.resample = nn.ModuleList([nn.Identity(), conv3(width, width // 2)])

    def forward(self, x):
        return self.resample[1](F.interpolate(x, scale_factor=2., mode="nearest-exact"))


class UpBlock(nn.Module):
    def __init__(self, i, o, count, up):
        super().__init__()
        self.resnets = nn.ModuleList(Residual(i if k == 0 else o, o) for k in range(count))
        self.upsamplers = nn.ModuleList([Up(o)]) if up else None

    def forward(self, x):
        for r in self.resnets:
            x = r(x)
        return self.upsamplers[0](x) if self.upsamplers else x


class Encoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        dims = [c["base"] * m for m in [1] + c["mult"]]
        self.conv_in = conv3(3, dims[0])
        self.down_blocks = nn.ModuleList()
        for l, (i, o) in enumerate(zip(dims[:-1], dims[1:])):
            for k in range(c["res"]):
                self.down_blocks.append(Residual(i if k == 0 else o, o))
            if l < len(c["mult"]) - 1:
                self.down_blocks.append(Down(o))
        self.mid_block = Middle(dims[-1])
        self.norm_out, self.conv_out = ChannelNorm(dims[-1]), conv3(dims[-1], 32)

    def forward(self, x):
        x = self.conv_in(x)
        for b in self.down_blocks:
            x = b(x)
        return self.conv_out(self.norm_out(self.mid_block(x)))


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        dims = [c["base"] * m for m in [c["mult"][-1]] + c["mult"][::-1]]
        self.conv_in, self.mid_block = conv3(16, dims[0]), Middle(dims[0])
        last = len(c["mult"]) - 1
        self.up_blocks = nn.ModuleList(
            UpBlock(i // 2 if l else i, o, c["res"] + 1, l < last)
            for l, (i, o) in enumerate(zip(dims[:-1], dims[1:])))
        self.norm_out, self.conv_out = ChannelNorm(dims[-1]), conv3(dims[-1], 3)

    def forward(self, z):
        x = self.mid_block(self.conv_in(z))
        for b in self.up_blocks:
            x = b(x)
        return self.conv_out(self.norm_out(x))


class Autoencoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(32, 32, 1), nn.Conv2d(16, 16, 1)

    def encode(self, x):
        """mean, log variance"""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))


# ------------------------------------------------------------------------------------- export


def reference_state(model):
    """State dict as the reference stores it: kernels of the autoencoder get their time taps."""
    state = {k: v.detach().float().cpu() for k, v in model.state_dict().items()}
    if not isinstance(model, Autoencoder):
        return state
    out = {}
    for k, v in state.items():
        if "resample" in k or ".to_qkv." in k or ".proj." in k:
            out[k] = v
        elif k.endswith(".gamma"):
            out[k] = v if ".attentions." in k else v[..., None]
        elif v.ndim == 4:
            taps = torch.zeros(*v.shape[:2], v.shape[-1], *v.shape[2:])
            taps[:, :, -1] = v
            out[k] = taps
        else:
            out[k] = v
    return out
