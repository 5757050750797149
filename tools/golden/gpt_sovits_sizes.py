"""Golden chains of GPT-SoVITS in sizes that no released model has, from a recording to sound.

    python3 gpt_sovits_sizes.py UPSTREAM OUT

UPSTREAM as for gpt_sovits_versions.py; OUT receives cases/{sizes,short}/, each with its models and
expected.safetensors; the recording of `sizes` is that of both. Needs torch, transformers and safetensors. What is not as released: numbers, widths,
kernels, strides and groups of HuBERT's convolutions, its eps; heads, blocks and codes of text to semantic;
rates, kernels, number and dilations of the vocoder's residual blocks (`short`: ResBlock2), kernels of the
encoders, frame rate, sampling rate, window and hop of the spectrum."""
import json
import os
import struct
import sys
import types

import torch
from safetensors.torch import save_file
from transformers import HubertConfig, HubertModel

import gpt_sovits_versions as versions
from gpt_sovits_versions import HParams, OUT, SSL, UPSTREAM, probe, randomise, stub

CODES, BERT, RATE = 60, 24, 16000
heard = {}
SIZES = {
    "sizes": dict(
        hubert=dict(conv_dim=(8, 12, 16, 8, 8, 12, 20), conv_kernel=(10, 4, 3, 3, 3, 2, 3), conv_bias=True,
                    conv_stride=(5, 2, 2, 2, 2, 1, 4), num_conv_pos_embeddings=31, num_conv_pos_embedding_groups=8,
                    layer_norm_eps=1e-3, num_hidden_layers=3, num_attention_heads=2),
        semantic=dict(hidden_dim=40, head=5, n_layer=3),
        data=dict(sampling_rate=16000, filter_length=512, hop_length=150, win_length=400),
        model=dict(inter_channels=20, hidden_channels=16, filter_channels=24, n_heads=4, n_layers=2, kernel_size=5,
                   resblock="1", resblock_kernel_sizes=[3, 7], resblock_dilation_sizes=[[1, 2, 7], [2, 4, 9]],
                   upsample_rates=[8, 5, 4, 2], upsample_kernel_sizes=[16, 11, 8, 2], upsample_initial_channel=32,
                   semantic_frame_rate="25hz")),
    "short": dict(
        hubert=dict(conv_dim=(16,) * 7, num_conv_pos_embeddings=64, num_hidden_layers=1, num_attention_heads=4),
        semantic=dict(hidden_dim=32, head=4, n_layer=1),
        data=dict(sampling_rate=24000, filter_length=512, hop_length=240, win_length=512),
        model=dict(inter_channels=16, hidden_channels=16, filter_channels=40, n_heads=1, n_layers=4, kernel_size=1,
                   resblock="2", resblock_kernel_sizes=[3, 5, 7, 9], resblock_dilation_sizes=[[1, 3], [2, 6], [3, 12], [1, 5]],
                   upsample_rates=[10, 8, 6], upsample_kernel_sizes=[16, 16, 12], upsample_initial_channel=24,
                   semantic_frame_rate="50hz")),
}


def load_semantic():
    stub("torchmetrics")
    stub("torchmetrics.classification", MulticlassAccuracy=lambda *a, **k: torch.nn.Identity())
    path = os.path.join(UPSTREAM, "AR", "models", "t2s_model.py")
    text = open(path, encoding="utf-8").read()
    for old, new in [("nn.Linear(1024, self", f"nn.Linear({BERT}, self"), ("@torch.jit.script\nclass", "class"),
                     ("    @torch.jit.ignore\n", "")]:
        assert old in text, old
        text = text.replace(old, new)
    module = types.ModuleType("t2s")
    exec(compile(text, path, "exec"), module.__dict__)
    return module


def recording(folder, generator):
    """3.1 s of a chirp with noise, 16 bits: what is written is what is computed with."""
    time = torch.arange(int(3.1 * RATE)) / RATE
    x = 0.3 * torch.sin(2 * torch.pi * (150 + 300 * time) * time) + 0.05 * torch.randn(len(time), generator=generator)
    x = (x * 32768).round().clamp(-32768, 32767).to(torch.int16)
    data = x.numpy().tobytes()
    if folder.endswith("short"):  # hears that of `sizes`
        return heard["sizes"]
    heard["sizes"] = x.float() / 32768
    with open(os.path.join(folder, "ref.wav"), "wb") as f:
        f.write(b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt ")
        f.write(struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16) + b"data" + struct.pack("<I", len(data)) + data)
    return x.float() / 32768


def resampled(x, rate):
    """As torchaudio.functional.resample: Hann, width 6, rolloff 0.99."""
    if rate == RATE:
        return x
    whole = torch.gcd(torch.tensor(RATE), torch.tensor(rate)).item()
    a, b = RATE // whole, rate // whole
    base = min(a, b) * 0.99
    width = -int(-6 * a // base)
    t = torch.arange(0, -b, -1, dtype=torch.float64)[:, None, None] / b
    t = ((t + torch.arange(-width, width + a, dtype=torch.float64)[None, None] / a) * base).clamp(-6, 6)
    window = torch.cos(t * torch.pi / 12) ** 2
    kernel = torch.sinc(t) * window * base / a
    y = torch.nn.functional.conv1d(torch.nn.functional.pad(x[None, None], (width, width + a)), kernel.float(), stride=a)
    return y.transpose(1, 2).reshape(-1)[: -(-b * len(x) // a)]


def spectrum(x, data):
    """module/mel_processing.py spectrogram_torch."""
    size, hop, window = data["filter_length"], data["hop_length"], data["win_length"]
    pad = int((size - hop) / 2)
    x = torch.nn.functional.pad(x[None, None], (pad, pad), mode="reflect")[0]
    s = torch.stft(x, size, hop_length=hop, win_length=window, window=torch.hann_window(window), center=False,
                   return_complex=True)
    return torch.sqrt(s.real ** 2 + s.imag ** 2 + 1e-8)


def hear(case, folder, x, generator):
    config = HubertConfig(hidden_size=SSL, intermediate_size=48, attn_implementation="eager", **case["hubert"])
    model = HubertModel(config).eval()
    randomise(model, generator)
    os.makedirs(os.path.join(folder, "hubert"), exist_ok=True)
    torch.save({k: v.half() for k, v in model.state_dict().items()}, os.path.join(folder, "hubert", "pytorch_model.bin"))
    with open(os.path.join(folder, "hubert", "config.json"), "w", encoding="utf-8") as f:
        json.dump({k: v for k, v in config.to_dict().items() if k in case["hubert"]}, f, indent=1)
    with torch.no_grad():
        out = model(torch.cat([x, torch.zeros(9600)])[None], output_hidden_states=True)
    return {f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)}, out.last_hidden_state.transpose(1, 2)


def continue_codes(case, folder, module, prompt, phones, features, generator):
    sizes = dict(vocab_size=CODES + 1, phoneme_vocab_size=732, dropout=0, EOS=CODES, **case["semantic"])
    sizes["embedding_dim"] = sizes["hidden_dim"]
    model = module.Text2SemanticDecoder({"model": sizes}).eval()
    randomise(model, generator)
    state = {"model." + k: v.half() for k, v in model.state_dict().items()}
    torch.save({"weight": state, "config": {"model": sizes}, "info": "test"}, os.path.join(folder, "s1.ckpt"))
    with torch.no_grad():
        y, _ = next(model.infer_panel_naive(phones, torch.tensor([phones.shape[1]]), prompt[None], features, top_k=1,
                                            early_stop_num=14))
    return y[:, len(prompt):]


def make(name, case, models, module, seed):
    folder = os.path.join(OUT, "cases", name)
    os.makedirs(folder, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    x = recording(folder, generator)
    found, ssl = hear(case, folder, x, generator)
    config = {"data": case["data"], "model": dict(case["model"], p_dropout=0.0, gin_channels=32, freeze_quantizer=True,
                                                  version="v2")}
    synthesizer = models.SynthesizerTrn(case["data"]["filter_length"] // 2 + 1, 32, n_speakers=300, **config["model"]).eval()
    randomise(synthesizer, generator)
    state = {k: v.half() for k, v in synthesizer.state_dict().items() if not k.startswith("enc_q.")}
    torch.save({"weight": state, "config": HParams(**config), "info": "test"}, os.path.join(folder, "s2.pth"))
    phones = torch.randint(0, 732, (1, 19), generator=generator)
    features = torch.randn(1, BERT, 19, generator=generator)
    spec = spectrum(resampled(x, case["data"]["sampling_rate"]), case["data"])
    stages = probe(synthesizer, ["ref_enc", "enc_p.encoder_ssl", "enc_p.encoder_text", "enc_p.mrte", "enc_p.encoder2", "flow"]
                   + [f"dec.ups.{i}" for i in range(len(case["model"]["upsample_rates"]))])
    with torch.no_grad():
        prompt = synthesizer.quantizer(synthesizer.ssl_proj(ssl), layers=[0])[1].flatten()
        tokens = continue_codes(case, folder, module, prompt, phones, features, generator)
        wave = synthesizer.decode(tokens[None].long(), phones, spec, noise_scale=0.0)
    with open(os.path.join(folder, "manifest.json"), "w", encoding="utf-8") as f:
        json.dump({"case": name, "what": "the recording of sizes to sound, greedy, --max-tokens 15; tokens.safetensors: the sound of other tokens",
                   "sizes": case, "compute": "float32 from float16 weights",
                   "made_with": {"torch": torch.__version__, "upstream": "48b1a01"}}, f, indent=1)
    save_file({k: v.contiguous() for k, v in {
        **found, **stages, "codes": prompt.int(), "phone_ids": phones.int(), "bert_features": features,
        "semantic_tokens": tokens[None].int(), "waveform": wave}.items()}, os.path.join(folder, "expected.safetensors"))
    if name == "sizes":  # more frames than a piece of the vocoder
        many = torch.randint(0, CODES, (105,), generator=generator)[None, None]
        with torch.no_grad():
            wave = synthesizer.decode(many, phones, spec, noise_scale=0.0)
        save_file({"semantic_tokens": many.int(), "waveform": wave}, os.path.join(folder, "tokens.safetensors"))
    print(name, "codes", len(prompt), "tokens", tokens.flatten().tolist(), "waveform", tuple(wave.shape), float(wave.std()),
          float(wave.abs().max()))


def main():
    models = versions.load_upstream([("704", "200"), ("bins=1024", f"bins={CODES}")])
    module = load_semantic()
    for seed, (name, case) in enumerate(SIZES.items(), 11):
        make(name, case, models, module, seed)


main()
