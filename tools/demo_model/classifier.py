"""The judge of the held-out check: which object, in which colour? Trained on renders only, with its
own seed and architecture; it never sees a picture of the demo model and is not shipped.

usage: classifier.py --data D --out O [--seconds 45] [--tiny]    writes O/classifier.pt
"""
import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

from prompts import BACKGROUNDS, COLOURS, SCENES
from render import Renderer

SIDE = 96


class Basic(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.a, self.na = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.b, self.nb = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.skip = nn.Conv2d(i, o, 1, stride, bias=False) if stride > 1 or i != o else nn.Identity()

    def forward(self, x):
        y = self.nb(self.b(F.relu(self.na(self.a(x)))))
        return F.relu(y + self.skip(x))


class Classifier(nn.Module):
    def __init__(self, objects):
        super().__init__()
        w = [48, 96, 160, 256]
        layers = [nn.Conv2d(3, w[0], 5, 2, 2, bias=False), nn.BatchNorm2d(w[0]), nn.ReLU()]
        for k, o in enumerate(w):
            layers += [Basic(w[max(0, k - 1)], o, 1 if k == 0 else 2), Basic(o, o, 1)]
        self.body = nn.Sequential(*layers)
        self.object, self.colour = nn.Linear(w[-1], objects), nn.Linear(w[-1], len(COLOURS) + 1)

    def forward(self, x):
        """x [B, 3, any, any] in -1 .. 1"""
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        y = self.body(x)
        y = .5 * y.mean((2, 3)) + .5 * y.amax((2, 3))
        return self.object(y), self.colour(y)


class Source:
    """Batches of one object each: random picture or variant, place, size and background."""

    def __init__(self, renderer, device, seed):
        t = renderer.table
        self.r, self.device = renderer, device
        self.g = torch.Generator(device).manual_seed(seed)
        self.emoji = torch.tensor(t.emoji, device=device)
        self.item = torch.tensor([i for i, _ in t.sources], device=device)
        self.colour = torch.tensor([list(COLOURS).index(c) for _, c in t.sources], device=device)
        self.palette = torch.tensor(list(BACKGROUNDS.values()), device=device).float()
        self.first = len(t.items)

    def rand(self, *shape):
        return torch.rand(*shape, device=self.device, generator=self.g)

    def draw(self, n):
        pick = (self.rand(n) * len(self.item)).long()
        plain = self.emoji[(self.rand(n) * len(self.emoji)).long()]
        variant = self.rand(n) < .5
        row = torch.where(variant, self.first + pick, plain)
        item = torch.where(variant, self.item[pick], plain)
        colour = torch.where(variant, self.colour[pick], len(COLOURS))
        side = .35 + .6 * self.rand(n)
        room = (1 - side).clamp_min(0) / 2
        x, y = (.5 + (2 * self.rand(n) - 1) * room * .9 for _ in range(2))
        slots = torch.stack([row.float(), x, y, side], -1)[:, None]
        kind = self.rand(n)
        rgb = self.palette[(self.rand(n) * len(self.palette)).long()]
        rgb = torch.where((kind < .3)[:, None], 255 - (255 - rgb) * .35 * self.rand(n, 1), rgb)
        backs = torch.cat([torch.where(kind > .7, 2., 0.)[:, None], rgb,
                           (self.rand(n) * len(SCENES)).floor()[:, None]], 1)
        p = self.r(backs, slots, 128, self.g)
        blur = F.avg_pool2d(F.pad(p, (1, 1, 1, 1), mode="replicate"), 3, 1)
        p = torch.lerp(p, blur, self.rand(n, 1, 1, 1))
        p = p + .06 * self.rand(n, 1, 1, 1) * torch.randn(p.shape, device=self.device, generator=self.g)
        return p, item, colour


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--data", required=True)
    a.add_argument("--out", required=True)
    a.add_argument("--seconds", type=float, default=45)
    a.add_argument("--tiny", action="store_true")
    a = a.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(77)
    renderer = Renderer(a.data, device, quick=a.tiny)
    source = Source(renderer, device, 78)
    net = Classifier(len(renderer.table.items)).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=.02)
    start, step = time.time(), 0
    while (share := (time.time() - start) / a.seconds) < 1:
        for g in optimizer.param_groups:
            g["lr"] = 3e-3 * min(1, (step + 1) / 100) * max(.01, 1 - share)
        x, item, colour = source.draw(8 if a.tiny else 512)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            o, c = net(x.to(memory_format=torch.channels_last))
            loss = F.cross_entropy(o.float(), item) + .5 * F.cross_entropy(c.float(), colour)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
    net.eval()
    with torch.no_grad():
        x, item, colour = source.draw(8 if a.tiny else 4096)
        o, c = net(x)
    print("classifier: %d steps, fresh renders: object %.3f colour %.3f" % (
        step, (o.argmax(1) == item).float().mean(), (c.argmax(1) == colour).float().mean()))
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()},
               a.out + "/classifier.pt")


if __name__ == "__main__":
    main()
