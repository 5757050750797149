"""AdamW for vectors, embeddings and the outer layers; Muon for the matrices of the blocks.

Muon (K. Jordan, 2024) replaces a matrix's momentum by the nearest orthogonal matrix, found by a
Newton-Schulz iteration in bf16; matrices of one shape are handled as one batch. The update is scaled
to the size of AdamW's (Moonlight, 2025), so that one learning rate serves both.
"""
import torch


def orthogonal(g):
    """[N, R, C] -> about U V^T of every matrix"""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x.mT if tall else x).float()


class Muon:
    def __init__(self, parameters, momentum=.95, decay=.01):
        self.groups, self.momentum, self.decay = {}, momentum, decay
        for p in parameters:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {s: torch.zeros(len(ps), *s, device=ps[0].device)
                        for s, ps in self.groups.items()}

    @torch.no_grad()
    def step(self, lr):
        for shape, ps in self.groups.items():
            g = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in ps])
            m = self.buffers[shape]
            m.lerp_(g, 1 - self.momentum)
            u = orthogonal(g.lerp(m, self.momentum)) * (.2 * max(shape) ** .5)
            torch._foreach_mul_(ps, 1 - lr * self.decay)
            torch._foreach_add_(ps, list(u.unbind(0)), alpha=-lr)


class Optimizer:
    def __init__(self, modules, kind, adam_lr, lr):
        named = [(n, p) for m in modules for n, p in m.named_parameters()]
        inner = [p for n, p in named if p.ndim == 2 and ("blocks." in n or n.startswith("layers."))]
        if kind != "muon":
            inner = []
        ids = {id(p) for p in inner}
        rest = [p for _, p in named if id(p) not in ids]
        self.all = [p for _, p in named]
        self.muon = Muon(inner) if inner else None
        self.adam = torch.optim.AdamW(
            [{"params": [p for p in rest if p.ndim > 1], "weight_decay": .01},
             {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.}],
            lr=adam_lr, betas=(.9, .98), eps=1e-8, fused=rest[0].is_cuda)
        self.lr, self.adam_lr = lr, adam_lr

    def step(self, scale):
        torch.nn.utils.clip_grad_norm_([p for p in self.all if p.grad is not None], 1.)
        for g in self.adam.param_groups:
            g["lr"] = self.adam_lr * scale
        self.adam.step()
        if self.muon:
            self.muon.step(self.lr * scale)
        for p in self.all:
            p.grad = None

    def state(self):
        return {"adam": self.adam.state_dict(), "muon": list(self.muon.buffers.values()) if self.muon else []}

    def load(self, state):
        self.adam.load_state_dict(state["adam"])
        if self.muon:
            for b, s in zip(self.muon.buffers.values(), state["muon"]):
                b.copy_(s)


class Average:
    """Exponential moving average of parameters, with a decay that grows from 0."""

    def __init__(self, modules, decay):
        self.live = [p for m in modules for p in m.parameters()]
        self.mean = [p.detach().clone() for p in self.live]
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self):
        self.steps += 1
        d = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.mean, self.live, 1 - d)

    @torch.no_grad()
    def swap(self):
        for p, m in zip(self.live, self.mean):
            t = p.detach().clone()
            p.copy_(m)
            m.copy_(t)
