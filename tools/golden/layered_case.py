#!/usr/bin/env python3
"""The model layered_model and the case layered: Qwen-Image-Layered on random weights.

    layered_case.py TESTS_GOLDEN_FOLDER

Text encoder, tokenizer and processor are those of edit_model. The pipeline scales its picture to 640 x 640
pixels' area; here to 6144, by the same rounding.
"""
import json
import os
import shutil
import sys

import diffusers
import numpy as np
import torch
import transformers
from diffusers.pipelines.qwenimage import pipeline_qwenimage_layered as module
from PIL import Image, ImageDraw
from safetensors.torch import save_file

AREA = 6144
CALL = {"prompt": "a fox in front of a forest", "negative_prompt": " ", "true_cfg_scale": 4.0, "layers": 2,
        "num_inference_steps": 2}


def make_model(root):
    """Random weights of a size that shows in the result, stored as bfloat16."""
    where = os.path.join(root, "layered_model")
    torch.manual_seed(5)
    with open(os.path.join(root, "edit_model", "transformer", "config.json")) as f:
        config = json.load(f)
    config.update(use_additional_t_cond=True, use_layer3d_rope=True, zero_cond_t=False)
    transformer = diffusers.QwenImageTransformer2DModel.from_config(config)
    with open(os.path.join(root, "edit_model", "vae", "config.json")) as f:
        config = json.load(f)
    config.update(input_channels=4)
    vae = diffusers.AutoencoderKLQwenImage.from_config(config)
    for net, gain in ((transformer, 0.6), (vae, 1.3)):
        for name, p in net.named_parameters():
            if "norm" not in name:
                torch.nn.init.normal_(p, std=gain / (p[0].numel() if p.dim() > 1 else 36) ** 0.5)
    transformer.to(torch.bfloat16).save_pretrained(os.path.join(where, "transformer"))
    vae.to(torch.bfloat16).save_pretrained(os.path.join(where, "vae"))
    shutil.copytree(os.path.join(root, "edit_model", "scheduler"), os.path.join(where, "scheduler"), dirs_exist_ok=True)
    with open(os.path.join(root, "edit_model", "model_index.json")) as f:
        index = json.load(f)
    index["_class_name"] = "QwenImageLayeredPipeline"
    with open(os.path.join(where, "model_index.json"), "w") as f:
        json.dump(index, f, indent=1)
        f.write("\n")
    return where


def picture():
    """Colours under a soft alpha, some of it empty."""
    y, x = np.mgrid[0:60, 0:100]
    rgba = np.stack([x * 255 // 99, y * 255 // 59, (x * 3 + y) % 256, np.clip(x * 4 - 40, 0, 255)], -1)
    image = Image.fromarray(rgba.astype(np.uint8), "RGBA")
    ImageDraw.Draw(image).ellipse((30, 10, 70, 50), fill=(230, 40, 60, 255))
    return image


def main():
    root = os.path.join(sys.argv[1], "qwen_image")
    torch.set_num_threads(1)
    model = make_model(root)
    parts = {"transformer": diffusers.QwenImageTransformer2DModel, "vae": diffusers.AutoencoderKLQwenImage}
    pipe = module.QwenImageLayeredPipeline.from_pretrained(
        os.path.join(root, "edit_model"), torch_dtype=torch.float32,
        **{k: c.from_pretrained(os.path.join(model, k), torch_dtype=torch.float32) for k, c in parts.items()})
    pipe.set_progress_bar_config(disable=True)
    fit = module.calculate_dimensions
    module.calculate_dimensions = lambda area, ratio: fit(AREA, ratio)
    tensors, t = {}, pipe.transformer
    forward, encode, decode, prompt = t.forward, pipe.vae.encode, pipe.vae.decode, pipe.encode_prompt

    def watched_forward(*args, **kwargs):
        out = forward(*args, **kwargs)
        rows = tensors["initial_latents"].shape[1]
        step = sum(name.endswith(".cond") for name in tensors)
        name = f"step{step}.cond" if len(seen) % 2 == 0 else f"step{step - 1}.uncond"
        tensors.setdefault("transformer_input", kwargs["hidden_states"].clone())
        tensors[name] = out[0][:, :rows].clone()
        seen.append(name)
        return out

    seen = []

    def watched_encode(x, *args, **kwargs):
        out = encode(x, *args, **kwargs)
        tensors["vae_encode.0.input"], tensors["vae_encode.0.mean"] = x.clone(), out.latent_dist.mean.clone()
        return out

    def watched_decode(z, *args, **kwargs):
        out = decode(z, *args, **kwargs)
        tensors["vae_decode.input"], tensors["vae_decode.output"] = z.clone(), out[0].clone()
        return out

    def watched_prompt(*args, **kwargs):
        out = prompt(*args, **kwargs)
        tensors["negative.embeds" if "prompt.embeds" in tensors else "prompt.embeds"] = out[0].clone()
        return out

    def keep(_pipe, step, _time, values):
        tensors[f"step{step}.latents"] = values["latents"].clone()
        return values

    rope, temb = t.pos_embed.forward, t.time_text_embed.forward

    def watched_rope(*args, **kwargs):
        out = rope(*args, **kwargs)
        for i in range(2):
            tensors.setdefault(f"probe.pos_embed.{i}.cos", out[i].real.float().clone())
            tensors.setdefault(f"probe.pos_embed.{i}.sin", out[i].imag.float().clone())
        return out

    def watched_temb(*args, **kwargs):
        out = temb(*args, **kwargs)
        tensors.setdefault("probe.time_text_embed", out.clone())
        return out

    t.forward, pipe.vae.encode, pipe.vae.decode = watched_forward, watched_encode, watched_decode
    pipe.encode_prompt, t.pos_embed.forward, t.time_text_embed.forward = watched_prompt, watched_rope, watched_temb
    image, seed = picture(), 4711
    width, height = fit(AREA, image.width / image.height)
    # As prepare_latents draws it: one generator for the composite and all layers.
    noise = torch.randn((1, CALL["layers"] + 1, 16, height // 8, width // 8),
                        generator=torch.Generator("cpu").manual_seed(seed))
    tensors["initial_latents"] = pipe._pack_latents(noise, 1, 16, height // 8, width // 8, CALL["layers"] + 1)
    result = pipe(image=image, **CALL, generator=torch.Generator("cpu").manual_seed(seed), output_type="np",
                  callback_on_step_end=keep).images[0]
    tensors["sigmas"] = pipe.scheduler.sigmas.clone()
    tensors["image_u8"] = torch.from_numpy((np.asarray(result) * 255).round().astype(np.uint8))
    where = os.path.join(root, "cases", "layered")
    os.makedirs(where, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(where, "expected.safetensors"))
    image.save(os.path.join(where, "input0.png"))
    manifest = {"case": "layered", "pipeline": "QwenImageLayeredPipeline", "model": "../../layered_model",
                "inputs": {"images": ["input0.png"], "area_override": {"vae_image_area": AREA}},
                "call": dict(CALL, width=width, height=height, seed=seed),
                "compute": "float32 from the stored bfloat16 weights",
                "tolerance": {"float32_compute": {"rel_l2": 1e-4}, "image_u8": {"float32_max_abs": 1}},
                "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__,
                             "transformers": transformers.__version__}}
    with open(os.path.join(where, "manifest.json"), "w") as f:
        json.dump(manifest, f, indent=1)
        f.write("\n")
    for name, x in sorted(tensors.items()):
        print(name, tuple(x.shape), float(x.float().abs().max()), float(x.float().std()))


main()
