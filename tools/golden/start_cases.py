#!/usr/bin/env python3
"""Cases that start from a picture: img2img and inpaint of Qwen-Image and Z-Image, from a seed.

    start_cases.py TESTS_GOLDEN_FOLDER [SYSTEM ...]

The masks have edges on multiples of 8 pixels: within a block the reference asks only the upper left
pixel, Mica any. `image_u8` is the reference's picture, in which the protected pixels went through
the VAE; a test compares it where the mask repaints.
"""
import json
import os
import sys

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image, ImageDraw
from safetensors.torch import save_file

SEED = 4711


def picture(width, height):
    """A smooth background with a few shapes, so that the encoder has something to say."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256], -1)
    image = Image.fromarray(rgb.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width // 4, height // 4, width // 2, height // 2), fill=(230, 40, 60))
    draw.rectangle((width // 2, height // 2, width - 10, height - 6), fill=(20, 60, 200))
    return image


def mask(width, height):
    image = Image.new("L", (width, height), 0)
    ImageDraw.Draw(image).rectangle((16, 8, 55, height - 17), fill=255)
    return image


def pipelines(system):
    if system == "qwen_image":
        return diffusers.QwenImageImg2ImgPipeline, diffusers.QwenImageInpaintPipeline
    return diffusers.ZImageImg2ImgPipeline, diffusers.ZImageInpaintPipeline


def call_of(system):
    if system == "qwen_image":
        return {"negative_prompt": " ", "true_cfg_scale": 3.0}
    return {"guidance_scale": 0.0}


def run(system, name, cls, folder, call, images):
    pipe = cls.from_pretrained(os.path.join(folder, system, "model"), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    tensors = {}

    def keep(_pipe, step, _time, values):
        tensors[f"step{step}.latents"] = values["latents"].clone()
        return values

    encode = pipe.vae.encode

    def watched(x, *args, **kwargs):
        out = encode(x, *args, **kwargs)
        tensors.setdefault("vae_encode.0.input", x.clone())
        tensors.setdefault("vae_encode.0.mean", out.latent_dist.mean.clone())
        return out

    pipe.vae.encode = watched
    decode = pipe.vae.decode

    def watched_decode(z, *args, **kwargs):
        out = decode(z, *args, **kwargs)
        tensors["vae_decode.input"] = z.clone()
        tensors["vae_decode.output"] = out[0].clone()
        return out

    pipe.vae.decode = watched_decode
    result = pipe(**call, **images, output_type="np", callback_on_step_end=keep,
                  generator=torch.Generator("cpu").manual_seed(SEED)).images[0]
    tensors["image_u8"] = torch.from_numpy((result * 255).round().astype(np.uint8))
    where = os.path.join(folder, system, "cases", name)
    os.makedirs(where, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(where, "expected.safetensors"))
    images["image"].save(os.path.join(where, "input0.png"))
    recorded = dict(call, seed=SEED, images=["input0.png"])
    if "mask_image" in images:
        images["mask_image"].save(os.path.join(where, "mask.png"))
        recorded["mask"] = "mask.png"
    manifest = {"case": name, "pipeline": cls.__name__, "model": "../../model", "call": recorded,
                "compute": "float32 from the stored bfloat16 weights",
                "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__,
                             "transformers": transformers.__version__}}
    with open(os.path.join(where, "manifest.json"), "w") as f:
        json.dump(manifest, f, indent=1)
        f.write("\n")
    print(system, name, sorted(tensors))


def main():
    folder = sys.argv[1]
    torch.set_num_threads(1)
    for system in sys.argv[2:] or ["qwen_image", "z_image"]:
        img2img, inpaint = pipelines(system)
        width, height = 96, 64
        # The Z-Image pipeline does not resize its start picture.
        start = picture(120, 80) if system == "qwen_image" else picture(width, height)
        call = {"prompt": "A red fox on a mossy rock", "width": width, "height": height,
                "num_inference_steps": 4, "strength": 0.6, **call_of(system)}
        run(system, "img2img", img2img, folder, call, {"image": start})
        run(system, "inpaint", inpaint, folder, dict(call, strength=1.0),
            {"image": picture(width, height), "mask_image": mask(width, height)})


main()
