"""A picture of the demo model by the reference implementation, as a golden case for tests/golden.

usage: reference.py MODEL_FOLDER CASE_FOLDER      needs diffusers and transformers; f32 on the CPU
"""
import json
import os
import sys

import numpy as np
import torch
from diffusers import QwenImagePipeline
from safetensors.torch import save_file

CALL = {"prompt": "a red fox in the snow", "negative_prompt": " ", "width": 256, "height": 256,
        "num_inference_steps": 12, "true_cfg_scale": 4.0}
SEED = 7


def run(model, dtype, tensors):
    pipe = QwenImagePipeline.from_pretrained(model, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)

    def keep(_pipe, step, _time, values):
        tensors["step%d.latents" % step] = values["latents"].float().clone()
        return {}

    noise = torch.randn(1, 1, 16, 32, 32, generator=torch.Generator().manual_seed(SEED))
    latents = pipe._pack_latents(noise, 1, 16, 32, 32)
    tensors["initial_latents"] = latents
    image = pipe(**CALL, latents=latents.to(dtype), callback_on_step_end=keep, output_type="np").images[0]
    return torch.from_numpy((image * 255).round().astype(np.uint8))


def main():
    from PIL import Image
    model, out = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    f32, half = {}, {}
    picture = run(model, torch.float32, f32)
    rounded = run(model, torch.bfloat16, half)
    last = "step%d.latents" % (CALL["num_inference_steps"] - 1)
    kept = {k: f32[k].contiguous() for k in ("initial_latents", "step0.latents", last)}
    kept["image_u8"] = picture.contiguous()
    save_file(kept, out + "/expected.safetensors")
    Image.fromarray(picture.numpy()).save(out + "/image.png")
    own = {k: float((half[k] - f32[k]).norm() / f32[k].norm()) for k in ("step0.latents", last)}
    mean = float((rounded.float() - picture.float()).abs().mean())
    json.dump({
        "case": "demo", "pipeline": "QwenImagePipeline", "model": "models/demo",
        "call": {**CALL, "seed": SEED}, "compute": "float32 from the stored bfloat16 weights",
        "observed_error_of_the_reference_in_bfloat16": {**own, "picture_mean_abs_8bit": mean},
        "tolerance": {"float32_compute": {"rel_l2": 1e-4},
                      "bfloat16_compute": {"per_tensor": {"step0.latents": .02}},
                      "image_u8": {"float32_max_abs": 1, "bfloat16_mean_abs": 2.0}}},
        open(out + "/manifest.json", "w"), indent=1)
    print(own, mean)


if __name__ == "__main__":
    main()
