"""Draws the scenes of prompts.py on the device: background, then up to five objects.

    Renderer(folder, device)          bitmaps, recoloured variants and scene backgrounds, loaded once
    renderer(backs, slots, size)  ->  [B, 3, size, size] in -1 .. 1, drawn at twice the size

The same specification gives the same picture at every size.
"""
import numpy as np
import torch
import torch.nn.functional as F

from prompts import COLOURS, SCENES, Table

SCENE_VARIANTS = 24
SCENE_SIDE = 256


def rgb_to_hsv(x):
    """[..., 3] in 0 .. 1 -> hue in degrees, saturation, value."""
    top, low = x.amax(-1), x.amin(-1)
    d = (top - low).clamp_min(1e-6)
    r, g, b = x.unbind(-1)
    h = torch.where(top == r, (g - b) / d % 6, torch.where(top == g, (b - r) / d + 2, (r - g) / d + 4))
    return h * 60 % 360, (top - low) / top.clamp_min(1e-6), top


def hsv_to_rgb(h, s, v):
    k = (torch.tensor([5., 3., 1.], device=h.device) + h[..., None] / 60) % 6
    f = torch.minimum(torch.minimum(k, 4 - k), torch.ones_like(k)).clamp_min(0)
    return v[..., None] * (1 - s[..., None] * f)


def recolour(rgba, hue, mean_s, mean_v, colour):
    """Turns the pixels near the picture's main hue into another colour; [128, 128, 4] 0 .. 1."""
    target_h, target_s, target_v = COLOURS[colour]
    h, s, v = rgb_to_hsv(rgba[..., :3])
    off = (h - hue + 180) % 360 - 180
    mask = ((50 - off.abs()) / 12).clamp(0, 1) * ((s - .12) / .14).clamp(0, 1)
    new = hsv_to_rgb((target_h + .35 * off) % 360, (s / mean_s * target_s).clamp(0, 1),
                     (v / mean_v * target_v).clamp(0, 1))
    out = rgba[..., :3] + mask[..., None] * (new - rgba[..., :3])
    return torch.cat([out, rgba[..., 3:]], -1)


def shape_variant(rgba, colour):
    h, s, v = (torch.tensor(float(x), device=rgba.device) for x in COLOURS[colour])
    return torch.cat([hsv_to_rgb(h, s, v).expand(*rgba.shape[:-1], 3), rgba[..., 3:]], -1)


def load_bitmaps(folder, table, device, quick):
    """uint8 [rows, 128, 128, 4]: pictures, then variants; quick leaves these in their own colours."""
    base = torch.from_numpy(np.load(folder + "/emoji.npz")["rgba"]).to(device)
    out = torch.empty((len(table), *base.shape[1:]), dtype=torch.uint8, device=device)
    out[:len(base)] = base
    for k, (i, colour) in enumerate(table.sources):
        r = table.items[i]
        if quick:
            out[len(base) + k] = base[i]
            continue
        x = base[i].float() / 255
        x = (shape_variant(x, colour) if r["subgroup"] == "shape"
             else recolour(x, r["hue"], max(r["s"], .1), max(r["v"], .1), colour))
        out[len(base) + k] = (x * 255 + .5).to(torch.uint8)
    return out


# ------------------------------------------------------------------------------------- scenes


def mix(a, b, t):
    return a + (b - a) * t[..., None]


def rgb(*c):
    return torch.tensor(c, dtype=torch.float32) / 255


def wavy(x, rng, base, height):
    """A horizon: base + slow waves of the given height."""
    y = torch.full_like(x, base)
    for f in (1, 2, 3):
        y += height / f * float(rng.uniform(.3, 1)) * torch.sin(
            2 * np.pi * f * x * float(rng.uniform(.6, 1.2)) + float(rng.uniform(0, 6.3)))
    return y


def dots(x, y, rng, count, radius, low=0., high=1.):
    """1 inside scattered discs; soft rims."""
    out = torch.zeros_like(x)
    for _ in range(count):
        r = float(rng.uniform(*radius))
        d = ((x - float(rng.uniform(0, 1))) ** 2 + (y - float(rng.uniform(low, high))) ** 2).sqrt()
        out = torch.maximum(out, ((r - d) / .004 + .5).clamp(0, 1))
    return out


def land(x, y, rng, sky_top, sky_low, ground, line, wave=.02):
    """Sky with a gradient above ground behind a wavy horizon."""
    horizon = wavy(x, rng, line + float(rng.uniform(-.05, .05)), wave)
    sky = mix(rgb(*sky_top), rgb(*sky_low), (y / line).clamp(0, 1))
    shade = 1 - .14 * ((y - horizon) / (1 - line)).clamp(0, 1)
    t = ((y - horizon) / .006 + .5).clamp(0, 1)
    return mix(sky, rgb(*ground) * shade[..., None], t), horizon


def trees(x, y, rng, picture, line):
    for _ in range(9):
        cx, h, w = (float(rng.uniform(*r)) for r in ((0, 1), (.3, .6), (.08, .14)))
        inside = w * (y - (line - h)) / h - (x - cx).abs()
        t = (inside / .006 + .5).clamp(0, 1) * (y < line + .02) * (y > line - h)
        shade = float(rng.uniform(.7, 1.1))
        picture = mix(picture, rgb(30, 96, 56) * shade, t)
    return picture


def scene(name, rng):
    axis = (torch.arange(SCENE_SIDE) + .5) / SCENE_SIDE
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if name == "snow":
        p, _ = land(x, y, rng, (150, 196, 236), (206, 228, 246), (250, 252, 255), .55)
        return mix(p, rgb(255, 255, 255), dots(x, y, rng, 40, (.006, .014)))
    if name == "grass":
        return land(x, y, rng, (116, 188, 244), (190, 226, 250), (104, 186, 74), .58)[0]
    if name == "night":
        p, _ = land(x, y, rng, (14, 20, 60), (44, 56, 118), (20, 32, 44), .82)
        return mix(p, rgb(255, 250, 214), dots(x, y, rng, 34, (.003, .008), 0, .75))
    if name == "sea":
        p, line = land(x, y, rng, (140, 206, 250), (212, 238, 252), (42, 122, 200), .5, .004)
        wave = torch.sin(60 * y + 5 * torch.sin(9 * x + float(rng.uniform(0, 6)))) * (y > line)
        return mix(p, rgb(120, 184, 236), ((wave - .8) * 5).clamp(0, .7))
    if name == "beach":
        p, line = land(x, y, rng, (130, 204, 250), (206, 236, 252), (48, 146, 214), .42, .003)
        sand = wavy(x, rng, .62, .02)
        return mix(p, rgb(244, 220, 160), ((y - sand) / .008 + .5).clamp(0, 1))
    if name == "desert":
        p, _ = land(x, y, rng, (246, 206, 140), (252, 232, 190), (230, 178, 98), .55, .05)
        far = wavy(x, rng, .74, .04)
        return mix(p, rgb(214, 158, 80), ((y - far) / .006 + .5).clamp(0, 1))
    if name == "forest":
        p, _ = land(x, y, rng, (150, 204, 190), (196, 228, 206), (74, 138, 66), .66)
        return trees(x, y, rng, p, .68)
    if name == "sunset":
        p, line = land(x, y, rng, (92, 62, 132), (252, 150, 84), (86, 52, 84), .66, .01)
        sun = ((x - float(rng.uniform(.3, .7))) ** 2 + (y - .58) ** 2).sqrt()
        return mix(p, rgb(255, 220, 110), ((.15 - sun) / .006 + .5).clamp(0, 1) * (y < line))
    if name == "space":
        p = mix(rgb(10, 8, 28), rgb(34, 20, 66), ((x + y) / 2 + .2 * torch.sin(5 * x)).clamp(0, 1))
        return mix(p, rgb(255, 255, 255), dots(x, y, rng, 60, (.002, .007)))
    p, _ = land(x, y, rng, (112, 126, 146), (164, 176, 190), (104, 116, 124), .72, .004)  # rain
    for _ in range(60):
        cx, cy = float(rng.uniform(0, 1)), float(rng.uniform(0, 1))
        along, across = (y - cy) + .2 * (x - cx), (x - cx) - .2 * (y - cy)
        t = ((.003 - across.abs()) / .003).clamp(0, 1) * (along.abs() < .035)
        p = mix(p, rgb(206, 222, 240), .8 * t)
    return p


def load_scenes(device, seed=5):
    """uint8 [scenes * variants, 3, 256, 256]"""
    rng = np.random.default_rng(seed)
    out = [scene(name, rng) for name in SCENES for _ in range(SCENE_VARIANTS)]
    out = torch.stack(out).permute(0, 3, 1, 2)
    return (out * 255 + .5).clamp(0, 255).to(torch.uint8).to(device)


# ------------------------------------------------------------------------------------ drawing


class Renderer:
    def __init__(self, folder, device, dtype=torch.float16, quick=False):
        self.table = Table(folder + "/emoji.json")
        self.device = device
        self.dtype = dtype if device != "cpu" else torch.float32
        self.bitmaps = load_bitmaps(folder, self.table, device, quick)
        self.scenes = load_scenes(device)

    def background(self, backs, big, generator):
        B = len(backs)
        out = (backs[:, 1:4, None, None] / 255).to(self.dtype).expand(B, 3, big, big).clone()
        at = torch.nonzero(backs[:, 0] == 2).flatten()
        if len(at):
            pick = torch.randint(SCENE_VARIANTS, (len(at),), device=self.device, generator=generator)
            flip = torch.rand(len(at), device=self.device, generator=generator) < .5
            s = self.scenes[backs[at, 4].long() * SCENE_VARIANTS + pick].to(self.dtype) / 255
            s = torch.where(flip[:, None, None, None], s.flip(-1), s)
            out[at] = F.interpolate(s, size=(big, big), mode="bilinear",
                                    align_corners=False)
        return out

    def __call__(self, backs, slots, size, generator=None):
        with torch.autocast(self.device, enabled=False):
            return self.draw(backs, slots, size, generator)

    def draw(self, backs, slots, size, generator):
        big = size * 2
        out = self.background(backs, big, generator)
        axis = (torch.arange(big, device=self.device) + .5) / big
        for k in range(slots.shape[1]):
            at = torch.nonzero(slots[:, k, 0] >= 0).flatten()
            if not len(at):
                break
            row, cx, cy, side = slots[at, k].unbind(-1)
            rgba = self.bitmaps[row.long()].to(self.dtype).permute(0, 3, 1, 2) / 255
            rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
            gx = (axis[None] - cx[:, None]) * 2 / side[:, None]
            gy = (axis[None] - cy[:, None]) * 2 / side[:, None]
            grid = torch.stack([gx[:, None, :].expand(-1, big, -1),
                                gy[:, :, None].expand(-1, -1, big)], -1).to(self.dtype)
            o = F.grid_sample(rgba, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            out[at] = out[at] * (1 - o[:, 3:]) + o[:, :3]
        return F.avg_pool2d(out, 2).float() * 2 - 1
