#!/usr/bin/env python3
"""FLUX.2-klein cases beyond text and plain editing: references whose keys are kept (the pipeline of
9b-kv), and inpainting with the start picture as a reference.

    flux2_cases.py TESTS_GOLDEN_FOLDER

The noise is given in the files (`initial_latents`). The mask's edges lie on multiples of 16 pixels:
the reference scales the mask to patches, Mica asks for each block.
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

SEED = 20817


def write(folder, name, cls, call, tensors, extra):
    where = os.path.join(folder, "flux2_klein", "cases", name)
    os.makedirs(where, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()},
              os.path.join(where, "expected.safetensors"))
    manifest = {"case": name, "pipeline": cls.__name__, "model": "../../model",
                "inputs": {"is_distilled": True, "images": extra["images"]},
                "call": dict(call, **extra.get("call", {})),
                "compute": "float32 from the stored bfloat16 weights",
                "tolerance": {"float32_compute": {"rel_l2": 1e-4},
                              "image_u8": {"float32_max_abs": 1}},
                "made_with": {"torch": torch.__version__, "diffusers": diffusers.__version__,
                              "transformers": transformers.__version__}}
    with open(os.path.join(where, "manifest.json"), "w") as f:
        json.dump(manifest, f, indent=1)
        f.write("\n")
    print(name, sorted(tensors))
    return where


def run(cls, folder, call, **images):
    pipe = cls.from_pretrained(os.path.join(folder, "flux2_klein", "model"),
                               torch_dtype=torch.float32, is_distilled=True) \
        if "is_distilled" in cls.__init__.__code__.co_varnames else \
        cls.from_pretrained(os.path.join(folder, "flux2_klein", "model"), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    tensors, step = {}, [0]
    P = call["height"] // 16 * (call["width"] // 16)
    forward = pipe.transformer.forward

    def watched(*args, **kwargs):
        out = forward(*args, **kwargs)
        tensors[f"step{step[0]}.cond"] = out[0][:, :P].clone()
        return out

    def keep(_pipe, i, _time, values):
        tensors[f"step{i}.latents"] = values["latents"].clone()
        step[0] = i + 1
        return values

    pipe.transformer.forward = watched
    noise = torch.randn((1, 128, call["height"] // 16, call["width"] // 16),
                        generator=torch.Generator("cpu").manual_seed(SEED))
    tensors["initial_latents"] = noise
    decode = pipe.vae.decode

    def watched_decode(z, *args, **kwargs):
        out = decode(z, *args, **kwargs)
        tensors["vae_decode.output"] = out[0].clone()
        return out

    pipe.vae.decode = watched_decode
    given = {} if "mask_image" in images else {"latents": noise}
    result = pipe(**call, **images, **given, output_type="np", callback_on_step_end=keep,
                  generator=torch.Generator("cpu").manual_seed(SEED)).images[0]
    tensors["image_u8"] = torch.from_numpy((result * 255).round().astype(np.uint8))
    return tensors


def edit_kv(folder):
    source = os.path.join(folder, "flux2_klein", "cases", "edit_two")
    images = [Image.open(os.path.join(source, f"input{i}.png")).convert("RGB") for i in range(2)]
    call = {"prompt": "put both into one picture", "height": 48, "width": 64,
            "num_inference_steps": 3, "max_sequence_length": 48}
    cls = diffusers.Flux2KleinKVPipeline
    tensors = run(cls, folder, call, image=images)
    where = write(folder, "edit_kv", cls, call, tensors, {"images": ["input0.png", "input1.png"]})
    for i, image in enumerate(images):
        image.save(os.path.join(where, f"input{i}.png"))


def inpaint(folder):
    width, height = 96, 64
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) % 256], -1)
    image = Image.fromarray(rgb.astype(np.uint8))
    ImageDraw.Draw(image).ellipse((24, 16, 48, 32), fill=(230, 40, 60))
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).rectangle((16, 16, 63, 47), fill=255)
    call = {"prompt": "a red fox", "height": height, "width": width, "num_inference_steps": 4,
            "strength": 0.75, "max_sequence_length": 32}
    cls = diffusers.Flux2KleinInpaintPipeline
    tensors = run(cls, folder, call, image=image, mask_image=mask)
    del tensors["initial_latents"]  # drawn from the seed
    where = write(folder, "inpaint", cls, call, tensors,
                  {"images": ["input0.png"],
                   "call": {"seed": SEED, "images": ["input0.png"], "mask": "mask.png"}})
    image.save(os.path.join(where, "input0.png"))
    mask.save(os.path.join(where, "mask.png"))


torch.set_num_threads(1)
edit_kv(sys.argv[1])
inpaint(sys.argv[1])
