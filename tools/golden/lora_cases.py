#!/usr/bin/env python3
"""LoRA, LoHa, LoKr and differences on the tiny models: files with random factors, and the latents of runs
of the reference pipelines whose weights they were merged into.

    lora_cases.py TESTS_GOLDEN_FOLDER [SYSTEM ...]

writes tests/golden/lora/SYSTEM/{lora,lycoris,fused,expected}.safetensors. The merged weight is

    W + scale * alpha / rank * B A                                    LoRA
    W + scale * alpha / rank * (w1_a w1_b) * (w2_a w2_b)              LoHa, element by element
    W + scale * alpha / rank * kron(w1, w2), w = w_a w_b if factored  LoKr; rank: none if nothing is
    W + scale * diff                                                  and the same of biases and norms

with the conventions of LyCORIS (modules/loha.py, lokr.py, full.py). Sums are in f64, runs in f32.
"""
import math
import os
import sys

import diffusers
import torch
from safetensors.torch import load_file, save_file

SYSTEMS = {
    "qwen_image": (diffusers.QwenImagePipeline, "t2i_nocfg"),
    "flux2_klein": (diffusers.Flux2KleinPipeline, "distilled"),
    "z_image": (diffusers.ZImagePipeline, "turbo"),
}
# The scheduler of the Lightning LoRAs for Qwen-Image.
LIGHTNING = {"base_shift": math.log(3), "max_shift": math.log(3), "shift_terminal": None}


class Maker:
    def __init__(self, seed):
        self.random = torch.Generator("cpu").manual_seed(seed)
        self.file, self.deltas = {}, []  # deltas: (parameter, first row, f64 values)

    def factor(self, *shape, like=None):
        """Random values whose product with another factor has about a third of a weight's size."""
        x = torch.randn(*shape, generator=self.random) * 0.25
        return x.to(torch.bfloat16)

    def put(self, key, value):
        self.file[key] = value.contiguous()
        return value.double()

    def alpha(self, key, rank, i):
        """Two in three have an alpha."""
        if i % 3 == 0:
            return 1.0
        alpha = float(rank) * (0.5 if i % 3 == 1 else 1.5)
        self.file[key + ".alpha"] = torch.tensor(alpha)
        return alpha / rank

    def lora(self, key, rows, columns, i):
        rank = 2 + i % 3
        down = self.put(key + ".lora_A.weight", self.factor(rank, columns))
        up = self.put(key + ".lora_B.weight", self.factor(rows, rank))
        return self.alpha(key, rank, i) * (up @ down)

    def loha(self, key, rows, columns, i):
        rank = 2 + i % 2
        parts = [self.put(f"{key}.hada_w{n}_{c}", self.factor(*(
            (rows, rank) if c == "a" else (rank, columns)))) for n in (1, 2) for c in "ab"]
        return self.alpha(key, rank, i) * 4 * ((parts[0] @ parts[1]) * (parts[2] @ parts[3])) / 4

    def half(self, key, name, rows, columns, rank):
        if not rank:
            return self.put(f"{key}.lokr_{name}", self.factor(rows, columns))
        return (self.put(f"{key}.lokr_{name}_a", self.factor(rows, rank))
                @ self.put(f"{key}.lokr_{name}_b", self.factor(rank, columns)))

    def lokr(self, key, rows, columns, i):
        a, b = (4, 8) if i % 2 else (8, 4)
        rank_1, rank_2 = [(0, 0), (0, 2), (2, 0), (3, 3)][i % 4]
        w1 = self.half(key, "w1", a, b, rank_1)
        w2 = self.half(key, "w2", rows // a, columns // b, rank_2)
        rank = rank_2 or rank_1
        return (self.alpha(key, rank, i) if rank else 1.0) * torch.kron(w1, w2)

    def diff(self, key, rows, columns, i):
        return self.put(key + ".diff", self.factor(rows, columns) * 0.3)

    def add(self, form, key, places, shape, i):
        """`places`: (parameter, rows) that the layer's rows go to, in order."""
        delta, first = getattr(self, form)(key, *shape, i), 0
        for name, rows in places:
            self.deltas.append((name, delta[first:first + rows]))
            first += rows

    def add_vector(self, key, name, size):
        self.deltas.append((name, self.put(key, self.factor(size) * 0.3)))


def linears(model):
    return [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]


def make_lora(model):
    m = Maker(1)
    for i, (name, linear) in enumerate(linears(model)):
        m.add("lora", "transformer." + name, [(name + ".weight", linear.out_features)],
              linear.weight.shape, i)
        if linear.bias is not None and i % 4 == 0:
            scale = float(m.file.get(f"transformer.{name}.alpha", 2 + i % 3)) / (2 + i % 3)
            bias = m.put(f"transformer.{name}.lora_B.bias", m.factor(linear.out_features) * 0.3)
            m.deltas.append((name + ".bias", scale * bias))
    return m


def make_lycoris(model):
    m, forms = Maker(2), ["loha", "lokr", "lokr", "diff", "lokr", "lokr"]
    for i, (name, linear) in enumerate(linears(model)):
        form = forms[i % len(forms)]
        if form == "diff" and linear.weight.numel() > 8192:
            form = "lokr"
        if form == "lokr" and (linear.out_features % 8 or linear.in_features % 8):
            form = "loha"
        m.add(form, "diffusion_model." + name, [(name + ".weight", linear.out_features)],
              linear.weight.shape, i)
        if linear.bias is not None and i % 5 == 0:
            m.add_vector(f"diffusion_model.{name}.diff_b", name + ".bias", linear.out_features)
    for i, (name, p) in enumerate(model.named_parameters()):
        if name.endswith("norm_q.weight") or name.endswith("norm_k.weight"):
            ending = ".diff" if i % 2 else ".w_norm"
            m.add_vector("diffusion_model." + name[:-len(".weight")] + ending, name, p.shape[0])
    return m


def fused_layers(system, model):
    """Names of single-file layouts and the parameters that their rows are."""
    width = {"flux2_klein": 64, "z_image": 64}[system]
    if system == "z_image":
        for stack in ("layers", "noise_refiner", "context_refiner"):
            for n in range(2):
                block = f"{stack}.{n}.attention."
                yield block + "qkv", [(block + f"to_{c}.weight", width) for c in "qkv"]
                yield block + "out", [(block + "to_out.0.weight", width)]
        yield "x_embedder", [("all_x_embedder.2-1.weight", width)]
        yield "final_layer.linear", [("all_final_layer.2-1.linear.weight", width)]
        return
    for n in range(2):
        block = f"transformer_blocks.{n}.attn."
        yield f"double_blocks.{n}.img_attn.qkv", [(block + f"to_{c}.weight", width) for c in "qkv"]
        yield f"double_blocks.{n}.txt_attn.qkv", [(block + f"add_{c}_proj.weight", width)
                                                  for c in "qkv"]
        yield f"double_blocks.{n}.img_mlp.0", [(f"transformer_blocks.{n}.ff.linear_in.weight", 0)]
        single = f"single_transformer_blocks.{n}.attn."
        yield f"single_blocks.{n}.linear1", [(single + "to_qkv_mlp_proj.weight", 0)]
        yield f"single_blocks.{n}.linear2", [(single + "to_out.weight", 0)]
    yield "double_stream_modulation_img.lin", [("double_stream_modulation_img.linear.weight", 0)]
    # (shift, scale) in these files, (scale, shift) in the model.
    yield "final_layer.adaLN_modulation.1", [("norm_out.linear.weight", "swap")]


def make_fused(system, model):
    m, forms, weights = Maker(3), ["lora", "lokr", "loha"], model.state_dict()
    for i, (key, places) in enumerate(fused_layers(system, model)):
        shapes = [weights[name].shape for name, _ in places]
        rows = sum(s[0] for s in shapes)
        m.add(forms[i % 3], "diffusion_model." + key, [(n, s[0]) for (n, _), s in zip(places, shapes)],
              (rows, shapes[0][1]), i)
        if places[0][1] == "swap":
            name, delta = m.deltas.pop()
            m.deltas.append((name, torch.cat([delta[rows // 2:], delta[:rows // 2]])))
    return m


def run(system, folder, loras, lightning=False):
    import json
    cls, case = SYSTEMS[system]
    where = os.path.join(folder, system, "cases", case)
    with open(os.path.join(where, "manifest.json")) as f:
        call = json.load(f)["call"]
    noise = load_file(os.path.join(where, "expected.safetensors"))["initial_latents"]
    pipe = cls.from_pretrained(os.path.join(folder, system, "model"), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if lightning:
        pipe.scheduler = type(pipe.scheduler).from_config(dict(pipe.scheduler.config, **LIGHTNING))
        call = dict(call, num_inference_steps=4)
    weights = pipe.transformer.state_dict()
    sums = {}
    for maker, scale in loras:
        for name, delta in maker.deltas:
            sums[name] = sums.get(name, weights[name].double()) + scale * delta
    with torch.no_grad():
        for name, value in sums.items():
            weights[name].copy_(value.reshape(weights[name].shape).float())
    out = {}

    def keep(_pipe, step, _time, values):
        out[f"step{step}.latents"] = values["latents"].clone()
        return values

    pipe(**call, latents=noise, output_type="latent", callback_on_step_end=keep)
    return out


def main():
    folder = sys.argv[1]
    torch.set_num_threads(1)
    for system in sys.argv[2:] or list(SYSTEMS):
        cls, _ = SYSTEMS[system]
        model = cls.from_pretrained(os.path.join(folder, system, "model"),
                                    torch_dtype=torch.float32).transformer
        makers = {"lora": make_lora(model), "lycoris": make_lycoris(model)}
        if system != "qwen_image":
            makers["fused"] = make_fused(system, model)
        runs = {name: [(m, 0.8)] for name, m in makers.items()}
        runs["both"] = [(makers["lora"], 0.5), (makers["lycoris"], -0.7)]
        expected = {}
        for name, loras in runs.items():
            for key, value in run(system, folder, loras).items():
                expected[f"{name}.{key}"] = value.contiguous()
        if system == "qwen_image":
            for key, value in run(system, folder, [(makers["lora"], 1.0)], lightning=True).items():
                expected[f"lightning.{key}"] = value.contiguous()
        plain = run(system, folder, [])
        where = os.path.join(folder, "lora", system)
        os.makedirs(where, exist_ok=True)
        for name, m in makers.items():
            save_file(m.file, os.path.join(where, name + ".safetensors"))
        save_file(expected, os.path.join(where, "expected.safetensors"))
        for name in runs:
            a, b = expected[f"{name}.step1.latents"], plain["step1.latents"]
            print(system, name, "differs from the plain model by",
                  float((a - b).norm() / b.norm()))


main()
