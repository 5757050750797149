"""Writes resize.safetensors: 8-bit pictures resized by torch (antialiased bicubic) and by Pillow 13 (Lanczos).

    python3 make_resize.py        (torch, numpy, Pillow; run in this folder)

Tensors CASE.x and CASE.out, height x width x 3. What torch does here is what torchvision's image processors do to
8-bit tensors (torchvision/transforms/functional.py resize -> torch.nn.functional.interpolate). The Pillow cases
lie on both sides of its choice which direction to resample first.
"""
import json
import struct

import numpy as np
import PIL
import torch
from PIL import Image

TORCH = {"down": (53, 37, 28, 20), "up": (37, 53, 84, 70), "mixed": (40, 96, 84, 28), "far": (131, 90, 28, 28),
         "one_side": (64, 48, 64, 84)}  # width, height -> width, height
PILLOW = {"pillow_columns": (50, 60, 40, 39), "pillow_rows": (50, 60, 40, 40), "pillow_wider": (30, 60, 44, 59),
          "pillow_taller": (40, 30, 60, 33)}


def picture(width, height, seed):
    """Smooth colours, hard edges and noise, so that sums reach both ends of the range."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255.0 / width, y * 255.0 / height, 127.5 + 127.5 * np.sin(x * 0.7 + y * 0.3)], -1)
    base += rng.normal(0, 40, base.shape)
    base[height // 3 : height // 2, width // 4 : width // 2] = (255, 0, 255)
    return np.clip(base, 0, 255).astype(np.uint8)


tensors = {}
for seed, (name, (w, h, width, height)) in enumerate({**TORCH, **PILLOW}.items()):
    x = picture(w, h, seed)
    if name in TORCH:
        t = torch.from_numpy(x.copy()).permute(2, 0, 1).unsqueeze(0).contiguous()
        t = torch.nn.functional.interpolate(t, size=(height, width), mode="bicubic", align_corners=False, antialias=True)
        out = t[0].permute(1, 2, 0).contiguous().numpy()
    else:
        out = np.asarray(Image.fromarray(x).resize((width, height), Image.LANCZOS))
    tensors[f"{name}.x"] = x
    tensors[f"{name}.out"] = out

header, data = {"__metadata__": {"torch": torch.__version__, "pillow": PIL.__version__}}, b""
for name, a in tensors.items():
    header[name] = {"dtype": "U8", "shape": list(a.shape), "data_offsets": [len(data), len(data) + a.nbytes]}
    data += a.tobytes()
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open("resize.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + data)
