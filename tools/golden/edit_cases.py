#!/usr/bin/env python3
"""The case edit_plus_grid: edit_plus with the text encoder told where the pictures are.

    edit_cases.py TESTS_GOLDEN_FOLDER

diffusers 0.40 does not hand mm_token_type_ids from the processor to the text encoder, and transformers 5
then places the rows of pictures in sequence; the model was trained with a grid, which transformers 4
found by itself. Here the ids are handed over. Pictures, noise and call are those of edit_plus.
"""
import json
import os
import shutil
import sys

import diffusers
import numpy as np
import torch
import transformers
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module
from PIL import Image
from safetensors.torch import load_file, save_file


def main():
    root = os.path.join(sys.argv[1], "qwen_image")
    source, where = os.path.join(root, "cases", "edit_plus"), os.path.join(root, "cases", "edit_plus_grid")
    torch.set_num_threads(1)
    with open(os.path.join(source, "manifest.json")) as f:
        manifest = json.load(f)
    areas = manifest["inputs"]["area_override"]
    module.VAE_IMAGE_SIZE, module.CONDITION_IMAGE_SIZE = areas["vae_image_area"], areas["condition_image_area"]
    pipe = module.QwenImageEditPlusPipeline.from_pretrained(os.path.join(root, "edit_model"), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    tensors = {"initial_latents": load_file(os.path.join(source, "expected.safetensors"))["initial_latents"]}
    forward, encode = pipe.text_encoder.forward, pipe.encode_prompt

    def told(*args, input_ids=None, **kwargs):
        ids = (input_ids == pipe.text_encoder.config.image_token_id).int()
        return forward(*args, input_ids=input_ids, mm_token_type_ids=ids, **kwargs)

    def watched(*args, **kwargs):
        out = encode(*args, **kwargs)
        tensors["negative.embeds" if "prompt.embeds" in tensors else "prompt.embeds"] = out[0].clone()
        return out

    def keep(_pipe, step, _time, values):
        tensors[f"step{step}.latents"] = values["latents"].clone()
        return values

    pipe.text_encoder.forward, pipe.encode_prompt = told, watched
    images = [Image.open(os.path.join(source, name)) for name in manifest["inputs"]["images"]]
    result = pipe(image=images, **manifest["call"], latents=tensors["initial_latents"], output_type="np",
                  callback_on_step_end=keep).images[0]
    tensors["image_u8"] = torch.from_numpy((result * 255).round().astype(np.uint8))
    os.makedirs(where, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(where, "expected.safetensors"))
    for name in manifest["inputs"]["images"]:
        shutil.copy(os.path.join(source, name), where)
    out = {"case": "edit_plus_grid", "pipeline": manifest["pipeline"], "model": manifest["model"],
           "inputs": {k: manifest["inputs"][k] for k in ("images", "area_override")}, "call": manifest["call"],
           "picture_positions": "grid", "compute": manifest["compute"],
           "tolerance": {"float32_compute": {"rel_l2": 1e-4}, "image_u8": {"float32_max_abs": 1}},
           "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__,
                        "transformers": transformers.__version__}}
    with open(os.path.join(where, "manifest.json"), "w") as f:
        json.dump(out, f, indent=1)
        f.write("\n")
    print(sorted(tensors))


main()
