"""Writes the picture files beside this file and pictures.safetensors with their expected pixels.

Needs Pillow, numpy, safetensors; not needed to build or test Mica. See README.md.
"""
import pathlib
import struct
import sys
import zlib

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
W, H = 37, 29
pixels = {}


def scene():
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:H, 0:W]
    base = np.stack([x * 255 / (W - 1), y * 255 / (H - 1), 128 + 100 * np.sin(x * y / 40)], -1)
    base[5:12, 20:30] = (250, 20, 30)
    return np.clip(base + rng.normal(0, 6, base.shape), 0, 255).astype(np.uint8)


def png_bytes(samples, depth, color_type, interlace=False):
    """A PNG by hand: for the kinds that Pillow does not write (16-bit RGB, Adam7)."""
    h, w = samples.shape[:2]
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for x0, y0, dx, dy in passes if interlace else [(0, 0, 1, 1)]:
        part = samples[y0::dy, x0::dx]
        if part.size:
            raw += b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in part)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", w, h, depth, color_type, 0, 0, int(interlace))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def put(name, data, expected):
    (HERE / name).write_bytes(data)
    pixels[name] = np.ascontiguousarray(expected, dtype=np.uint8)


def save(name, image, **options):
    """Written and read back by Pillow: the expected pixels are what Pillow decodes, turned upright."""
    image.save(HERE / name, **options)
    back = ImageOps.exif_transpose(Image.open(HERE / name))
    alpha = back.mode in ("RGBA", "LA") or "transparency" in back.info
    pixels[name] = np.ascontiguousarray(np.asarray(back.convert("RGBA" if alpha else "RGB")))


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def main():
    rgb = scene()
    picture = Image.fromarray(rgb)
    alpha = np.linspace(0, 255, W * H).reshape(H, W).astype(np.uint8)
    rgba = Image.fromarray(np.dstack([rgb, alpha]))

    save("rgb.png", picture)
    save("rgba.png", rgba)
    save("grey.png", picture.convert("L"))
    save("grey_alpha.png", rgba.convert("LA"))
    save("bits.png", picture.convert("1"))
    save("palette.png", picture.quantize(16))
    save("palette_alpha.png", picture.quantize(200), transparency=3)
    save("turned.png", picture, exif=orientation(6))
    put("interlaced.png", png_bytes(rgb, 8, 2, interlace=True), rgb)
    deep = (rgb.astype(np.uint32) * 257 + 91).clip(0, 65535).astype(np.uint16)
    put("deep.png", png_bytes(deep, 16, 2), np.round(deep / 257))
    grey = deep[:, :, :1]
    put("deep_grey.png", png_bytes(grey, 16, 0), np.repeat(np.round(grey / 257), 3, axis=2))

    save("rgb.jpg", picture, quality=95, subsampling=0)
    save("subsampled.jpg", picture, quality=80, subsampling=2)
    save("progressive.jpg", picture, quality=90, progressive=True)
    save("grey.jpg", picture.convert("L"), quality=90)
    save("cmyk.jpg", picture.convert("CMYK"), quality=95)
    for i in range(1, 9):
        save(f"turned{i}.jpg", picture, quality=95, subsampling=0, exif=orientation(i))

    save("lossless.webp", picture, lossless=True)
    save("alpha.webp", rgba, lossless=True, exact=True)
    save("lossy.webp", picture, quality=80)
    save("lossy_alpha.webp", rgba, quality=80)
    save("turned.webp", picture, lossless=True, exif=orientation(8))
    picture.save(HERE / "animated.webp", save_all=True, append_images=[ImageOps.mirror(picture)], lossless=True)

    for name, size, how in (("down", (16, 11), "LANCZOS"), ("up", (71, 60), "BICUBIC"), ("tall", (16, 60), "BILINEAR")):
        pixels[f"resize_rgba_{name}"] = np.asarray(rgba.resize(size, Image.Resampling[how]))
    save_file(pixels, HERE / "pictures.safetensors", metadata={"pillow": Image.__version__})


main()
