"""Writes trained weights as a model folder in the diffusers layout, by the reference's own classes,
and proves that the small networks of model.py compute what the reference computes (f32, CPU).

usage: export.py TRAINED_FOLDER TOKENIZER_FOLDER OUT_FOLDER   needs diffusers and transformers

TRAINED_FOLDER is --out of train.py; the word `random` instead tries the code before training.
"""
import json
import os
import shutil
import sys

import torch
from diffusers import (AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler,
                       QwenImageTransformer2DModel)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from model import Autoencoder, TextEncoder, Transformer, reference_state

LIMIT = 1e-4  # relative L2 of every comparison


def text_config(c, tokenizer):
    added = json.load(open(tokenizer + "/added_tokens.json"))
    ends = {"bos_token_id": added["<|endoftext|>"], "eos_token_id": added["<|im_end|>"]}
    dim = c["width"] // c["heads"]
    text = {"vocab_size": c["vocab"], "hidden_size": c["width"], "intermediate_size": c["ffn"],
            "num_hidden_layers": c["layers"], "num_attention_heads": c["heads"],
            "num_key_value_heads": c["kv_heads"], "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "rope_scaling": {"type": "default", "rope_type": "default", "rope_theta": 1e6,
                             "mrope_section": [dim // 2 - 2 * (dim // 6), dim // 6, dim // 6]},
            "max_position_embeddings": 4096, "use_sliding_window": False,
            "tie_word_embeddings": True, **ends}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1,
              "out_hidden_size": c["width"], "fullatt_block_indexes": [0], "patch_size": 14}
    pictures = {"image_token_id": added["<|image_pad|>"], "video_token_id": added["<|video_pad|>"],
                "vision_start_token_id": added["<|vision_start|>"],
                "vision_end_token_id": added["<|vision_end|>"]}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True,
                            **ends, **pictures)


def build(config, state, tokenizer):
    """The reference's three networks with the trained weights, f32."""
    v, t = config["vae"], config["transformer"]
    vae = AutoencoderKLQwenImage(
        base_dim=v["base"], z_dim=16, dim_mult=v["mult"], num_res_blocks=v["res"],
        temperal_downsample=[False] * (len(v["mult"]) - 1), latents_mean=state["latents_mean"],
        latents_std=state["latents_std"])
    vae.load_state_dict(state["vae"])
    transformer = QwenImageTransformer2DModel(
        num_layers=t["blocks"], attention_head_dim=t["width"] // t["heads"],
        num_attention_heads=t["heads"], joint_attention_dim=t["text_width"],
        axes_dims_rope=t["axes"], in_channels=64, out_channels=16)
    transformer.load_state_dict(state["transformer"])
    torch.manual_seed(config["seed"])
    text = Qwen2_5_VLForConditionalGeneration(text_config(config["text"], tokenizer))
    text.model.language_model.load_state_dict(state["text"])
    text.tie_weights()
    return vae.eval(), transformer.eval(), text.eval()


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


@torch.no_grad()
def compare(config, mine, vae, transformer, text):
    """Largest relative difference between model.py and the reference."""
    torch.manual_seed(1)
    my_text, my_transformer, my_vae = mine
    ids = torch.randint(0, config["text"]["vocab"], (2, 46))
    ours = my_text(ids)
    theirs = text(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    out = {"text": relative(ours, theirs)}
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    x, sigma = torch.randn(2, 36, 64), torch.tensor([.9, .3])
    ours = my_transformer(x, sigma, theirs[:, 34:], mask)
    ref = transformer(hidden_states=x, timestep=sigma, encoder_hidden_states=theirs[:, 34:],
                      encoder_hidden_states_mask=mask, img_shapes=[[(1, 6, 6)]] * 2,
                      return_dict=False)[0]
    out["transformer"] = relative(ours, ref)
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    out["encode"] = relative(my_vae.encode(picture)[0],
                             vae.encode(picture[:, :, None]).latent_dist.mean[:, :, 0])
    z = torch.randn(1, 16, 8, 8)
    out["decode"] = relative(my_vae.decode(z).clamp(-1, 1), vae.decode(z[:, :, None]).sample[:, :, 0])
    return out


def scheduler():
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=True, base_shift=.5,
        max_shift=.9, base_image_seq_len=256, max_image_seq_len=8192, shift_terminal=.02,
        time_shift_type="exponential")


def write(out, vae, transformer, text, tokenizer):
    os.makedirs(out, exist_ok=True)
    vae.to(torch.bfloat16).save_pretrained(out + "/vae")
    transformer.to(torch.bfloat16).save_pretrained(out + "/transformer")
    text.to(torch.bfloat16).save_pretrained(out + "/text_encoder")
    scheduler().save_pretrained(out + "/scheduler")
    shutil.copytree(tokenizer, out + "/tokenizer", dirs_exist_ok=True)
    index = {"_class_name": "QwenImagePipeline", "_diffusers_version": "0.35.0",
             "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
             "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
             "tokenizer": ["transformers", "Qwen2Tokenizer"],
             "transformer": ["diffusers", "QwenImageTransformer2DModel"],
             "vae": ["diffusers", "AutoencoderKLQwenImage"]}
    json.dump(index, open(out + "/model_index.json", "w"), indent=2)
    defaults = {"width": 256, "height": 256, "steps": 30, "guidance": 4, "negative_prompt": " "}
    json.dump(defaults, open(out + "/mica.json", "w"))


def random_state(mine):
    """For checks before training: every tensor random, so that no zero hides a mistake."""
    for m in mine:
        for p in m.parameters():
            p.data = torch.randn_like(p) * (.5 / max(1, p[0].numel()) ** .5) + (p.ndim == 1 or p.shape[-1] == 1) * 1.
    return {"text": reference_state(mine[0]), "transformer": reference_state(mine[1]),
            "vae": reference_state(mine[2]), "latents_mean": [0.] * 16, "latents_std": [1.] * 16}


def main():
    config = json.load(open(os.path.dirname(os.path.abspath(__file__)) + "/config.json"))
    mine = TextEncoder(config["text"]), Transformer(config["transformer"]), Autoencoder(config["vae"])
    if sys.argv[1] == "random":
        state = random_state(mine)
    else:
        w = {}
        for part in ("text", "transformer", "vae"):
            w.update(torch.load("%s/%s.pt" % (sys.argv[1], part), map_location="cpu", weights_only=True))
        for m, key in zip(mine, ("text", "transformer", "vae")):
            m.load_state_dict({k: v.float() for k, v in w[key].items()})
        state = {"text": reference_state(mine[0]), "transformer": reference_state(mine[1]),
                 "vae": reference_state(mine[2]), "latents_mean": w["latents_mean"],
                 "latents_std": w["latents_std"]}
    networks = build(config, state, sys.argv[2])
    differences = compare(config, mine, *networks)
    print(differences)
    if not max(differences.values()) < LIMIT:
        sys.exit("model.py and the reference disagree")
    write(sys.argv[3], *networks, sys.argv[2])
    size = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(sys.argv[3]) for f in fs)
    print("wrote", sys.argv[3], size, "bytes")


if __name__ == "__main__":
    main()
