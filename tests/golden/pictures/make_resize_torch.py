"""Writes resize_torch.safetensors: 8-bit pictures resized by torch's antialiased bicubic filter.

    python3 make_resize_torch.py        (torch, numpy; run in this folder)

Tensors CASE.x and CASE.out, height x width x 3. This is what torchvision's image processors do to
8-bit tensors (torchvision/transforms/functional.py resize -> torch.nn.functional.interpolate).
"""
import json
import struct

import numpy as np
import torch

CASES = {"down": (53, 37, 28, 20), "up": (37, 53, 84, 70), "mixed": (40, 96, 84, 28), "far": (131, 90, 28, 28),
         "one_side": (64, 48, 64, 84)}  # width, height -> width, height


def picture(width, height, seed):
    """Smooth colours, hard edges and noise, so that sums reach both ends of the range."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255.0 / width, y * 255.0 / height, 127.5 + 127.5 * np.sin(x * 0.7 + y * 0.3)], -1)
    base += rng.normal(0, 40, base.shape)
    base[height // 3 : height // 2, width // 4 : width // 2] = (255, 0, 255)
    return np.clip(base, 0, 255).astype(np.uint8)


tensors = {}
for seed, (name, (w, h, width, height)) in enumerate(CASES.items()):
    x = picture(w, h, seed)
    t = torch.from_numpy(x.copy()).permute(2, 0, 1).unsqueeze(0).contiguous()
    out = torch.nn.functional.interpolate(t, size=(height, width), mode="bicubic", align_corners=False, antialias=True)
    tensors[f"{name}.x"] = x
    tensors[f"{name}.out"] = out[0].permute(1, 2, 0).contiguous().numpy()

header, data = {"__metadata__": {"torch": torch.__version__}}, b""
for name, a in tensors.items():
    header[name] = {"dtype": "U8", "shape": list(a.shape), "data_offsets": [len(data), len(data) + a.nbytes]}
    data += a.tobytes()
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open("resize_torch.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + data)
