"""Golden vectors of SoVITS v1 and v2ProPlus and of the speaker network, from the upstream modules.

    python3 gpt_sovits_versions.py UPSTREAM OUT

UPSTREAM is the folder GPT_SoVITS of a checkout of RVC-Boss/GPT-SoVITS (made with commit 48b1a01);
OUT receives versions/*.pth, versions/speaker.ckpt and cases/*/expected.safetensors. Needs torch and
safetensors. Sizes that upstream fixes in code are made smaller by patching its text; nothing of it
is kept."""
import json
import os
import re
import sys
import types

import torch
from safetensors.torch import save_file

UPSTREAM, OUT = sys.argv[1], sys.argv[2]  # also those of gpt_sovits_sizes.py
SSL, HIDDEN, MRTE, STYLE = 32, 16, 32, 16
SPEAKER = 2560  # what the small speaker network below makes
torch.set_num_threads(1)


def stub(name, **attributes):
    module = types.ModuleType(name)
    for key, value in attributes.items():
        setattr(module, key, value)
    sys.modules[name] = module
    return module


class HParams:
    """Pickles as upstream's utils.HParams."""

    def __init__(self, **values):
        for key, value in values.items():
            setattr(self, key, HParams(**value) if isinstance(value, dict) else value)


HParams.__module__, HParams.__qualname__ = "utils", "HParams"


def load_upstream(more=()):
    """module/models.py with its fixed sizes, and those of `more`, exchanged."""
    stub("utils", HParams=HParams)
    stub("einops", rearrange=None, repeat=None)
    stub("tqdm", tqdm=lambda x: x)
    f5 = stub("f5_tts")
    f5.model = stub("f5_tts.model", DiT=None)
    sys.path[:0] = [UPSTREAM, os.path.join(UPSTREAM, "eres2net")]
    import einops

    def rearrange(x, pattern, **sizes):
        return {
            "b d n -> b n d": lambda: x.transpose(1, 2),
            "b n d -> b d n": lambda: x.transpose(1, 2),
            "... d -> (...) d": lambda: x.reshape(-1, x.shape[-1]),
        }[pattern]()

    einops.rearrange = rearrange
    path = os.path.join(UPSTREAM, "module", "models.py")
    text = open(path, encoding="utf-8").read()
    for old, new in [
        ("nn.Conv1d(768, hidden_channels, 1)", f"nn.Conv1d({SSL}, hidden_channels, 1)"),
        ("self.mrte = MRTE()", f"self.mrte = MRTE({HIDDEN}, {MRTE}, {HIDDEN})"),
        ("ssl_dim = 768", f"ssl_dim = {SSL}"),
        ("nn.Linear(20480, gin_channels)", f"nn.Linear({SPEAKER}, gin_channels)"),
        ("nn.Linear(gin_channels, 512)", f"nn.Linear(gin_channels, {MRTE})"),
        ("MelStyleEncoder(spec_channels, style_vector_dim", f"MelStyleEncoder(spec_channels, style_hidden={STYLE}, style_vector_dim"),
        ("MelStyleEncoder(704, style_vector_dim", f"MelStyleEncoder(704, style_hidden={STYLE}, style_vector_dim"),
        *more,
    ]:
        assert old in text, old
        text = text.replace(old, new)
    module = types.ModuleType("module.models")
    exec(compile(text, path, "exec"), module.__dict__)
    return module


def randomise(model, generator):
    """Every parameter and statistic, so that none is 0 or 1 by construction."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            fan = p[0].numel() if p.dim() > 1 else 1
            if name.endswith(("gamma", "weight_g")) or (p.dim() == 1 and "bn" in name and name.endswith("weight")):
                p.copy_(0.8 + 0.4 * torch.rand(p.shape, generator=generator))
            elif p.dim() > 1:
                p.copy_(torch.randn(p.shape, generator=generator) / max(fan, 1) ** 0.5)
            else:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(0.2 * torch.randn(b.shape, generator=generator))
            elif name.endswith("running_var"):
                b.copy_(0.5 + torch.rand(b.shape, generator=generator))
            elif name.endswith("_codebook.embed"):
                b.copy_(torch.randn(b.shape, generator=generator))
            elif name.endswith("inited"):
                b.fill_(1)
        for p in model.parameters():
            p.copy_(p.half().float())
        for b in model.buffers():
            if b.is_floating_point():
                b.copy_(b.half().float())


def settings(version, kernels, gin):
    return {
        "data": {"sampling_rate": 32000, "filter_length": 2048, "hop_length": 640, "win_length": 2048},
        "model": dict(
            inter_channels=16, hidden_channels=HIDDEN, filter_channels=32, n_heads=2, n_layers=4, kernel_size=3,
            p_dropout=0.0, resblock="1", resblock_kernel_sizes=[3, 7, 11],
            resblock_dilation_sizes=[[1, 3, 5]] * 3, upsample_rates=[10, 8, 2, 2, 2], upsample_initial_channel=32,
            upsample_kernel_sizes=kernels, gin_channels=gin, semantic_frame_rate="25hz", freeze_quantizer=True,
            version=version),
    }


def probe(model, names):
    found = {}
    for name in names:
        def keep(_module, _inputs, output, name=name):
            found.setdefault("probe." + name, (output[0] if isinstance(output, tuple) else output).detach().clone())
        model.get_submodule(name).register_forward_hook(keep)
    return found


def save_case(name, model_file, tensors, notes):
    folder = os.path.join(OUT, "cases", name)
    os.makedirs(folder, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(folder, "expected.safetensors"))
    shapes = {k: {"dtype": str(v.dtype).replace("torch.", ""), "shape": list(v.shape)} for k, v in tensors.items()}
    manifest = {"case": name, "model": "../../versions/" + model_file, **notes,
                "compute": "float32 from float16 weights", "tensors": shapes,
                "made_with": {"torch": torch.__version__, "upstream": "48b1a01"}}
    with open(os.path.join(folder, "manifest.json"), "w", encoding="utf-8") as f:
        json.dump(manifest, f, indent=1)


def sovits(models, version, kernels, gin, header, seed, speaker_vector=None):
    generator = torch.Generator().manual_seed(seed)
    config = settings(version, kernels, gin)
    model = models.SynthesizerTrn(1025, 32, n_speakers=300, **config["model"]).eval()
    randomise(model, generator)
    spec = torch.rand(1, 1025, 24, generator=generator) ** 4 * 40
    phones = torch.randint(0, 300, (1, 13), generator=generator)
    codes = torch.randint(0, 1024, (1, 1, 7), generator=generator)
    pro = {"sv_emb": speaker_vector} if "Pro" in version else {}
    ssl = torch.randn(1, SSL, 20, generator=generator)
    found = probe(model, ["ref_enc", "enc_p.encoder_text", "enc_p.mrte", "enc_p.encoder2", "flow", "dec.conv_pre", "dec.ups.0"])
    with torch.no_grad():
        wave = model.decode(codes, phones, spec, noise_scale=0.0, **pro)
        stages = dict(found)
        slow = model.decode(codes, phones, spec, noise_scale=0.0, speed=0.8, **pro)
        reference = model.quantizer(model.ssl_proj(ssl), layers=[0])[1].flatten()
    state = {k: v.half() for k, v in model.state_dict().items() if not k.startswith("enc_q.")}
    file = f"sovits_{version}.pth"
    path = os.path.join(OUT, "versions", file)
    torch.save({"weight": state, "config": HParams(**config), "info": "test"}, path)
    if header:
        data = bytearray(open(path, "rb").read())
        data[:2] = header
        open(path, "wb").write(bytes(data))
    save_case(f"sovits_{version}", file, {
        "refer_spec": spec, "ssl_content": ssl, "codes": reference.int(), "semantic_tokens": codes.int(),
        "phone_ids": phones.int(), **pro, **stages, "waveform": wave, "waveform_speed_0.8": slow,
    }, {"config": config, "waveform_std": float(wave.std())})
    print(file, "waveform std", float(wave.std()), "max", float(wave.abs().max()))


def speaker(seed):
    from ERes2NetV2 import ERes2NetV2
    import kaldi

    generator = torch.Generator().manual_seed(seed)
    model = ERes2NetV2(baseWidth=24, scale=4, expansion=4, m_channels=8).eval()
    randomise(model, generator)
    time = torch.arange(9600) / 16000
    audio = 0.3 * torch.sin(2 * torch.pi * (200 + 900 * time) * time) + 0.05 * torch.randn(9600, generator=generator)
    features = kaldi.fbank(audio.unsqueeze(0), num_mel_bins=80, sample_frequency=16000, dither=0)
    found = probe(model, ["fuse34"])
    with torch.no_grad():
        embedding = model.forward3(features.unsqueeze(0))
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()
             if not k.startswith("seg_")}
    torch.save(state, os.path.join(OUT, "versions", "speaker.ckpt"))
    save_case("speaker", "speaker.ckpt", {"audio_16k": audio, "fbank": features, "sv_emb": embedding,
                                          **found},
              {"what": "ERes2NetV2(baseWidth=24, scale=4, expansion=4, m_channels=8).forward3"})
    print("speaker", embedding.shape, float(embedding.std()))
    return embedding


def main():
    os.makedirs(os.path.join(OUT, "versions"), exist_ok=True)
    models = load_upstream()
    sovits(models, "v1", [16, 16, 8, 2, 2], 32, None, 1)
    sovits(models, "v2ProPlus", [20, 16, 8, 2, 2], 64, b"06", 2, speaker(3))


if __name__ == "__main__":
    main()
