"""Reference numbers for tests/golden/speech/audio.safetensors.

    python3 audio.py KALDI_PY OUT      torch and safetensors are needed

KALDI_PY is GPT-SoVITS's eres2net/kaldi.py. Resampling follows torchaudio's functional.resample with its
defaults (sinc_interp_hann, width 6, roll-off 0.99), which torch alone suffices to write down; the
spectrum is torch.stft as GPT-SoVITS's module/mel_processing.py calls it.
"""
import importlib.util
import math
import sys

import torch
from safetensors.torch import save_file

WIDTH, ROLLOFF = 6, 0.99


def signal(count, rate):
    t = torch.arange(count, dtype=torch.float64) / rate
    tones = 0.4 * torch.sin(2 * math.pi * (90 * t + 400 * t * t)) + 0.15 * torch.sin(2 * math.pi * 1234.5 * t)
    return (tones + 0.02 * torch.randn(count, dtype=torch.float64)).float()


def resample(x, rate, new_rate):
    common = math.gcd(rate, new_rate)
    source, target = rate // common, new_rate // common
    base = min(source, target) * ROLLOFF
    width = math.ceil(WIDTH * source / base)
    at = torch.arange(-width, width + source, dtype=torch.float64)[None, None] / source
    t = (torch.arange(0, -target, -1, dtype=torch.float64)[:, None, None] / target + at) * base
    t = t.clamp(-WIDTH, WIDTH)
    window = torch.cos(t * math.pi / WIDTH / 2) ** 2
    kernel = (torch.sinc(t) * window * (base / source)).float()
    padded = torch.nn.functional.pad(x[None, None], (width, width + source))
    y = torch.nn.functional.conv1d(padded, kernel, stride=source)
    return y.transpose(1, 2).reshape(-1)[: math.ceil(target * len(x) / source)].contiguous()


def spectrum(x, size=2048, hop=640):
    pad = (size - hop) // 2
    y = torch.nn.functional.pad(x[None, None], (pad, pad), mode="reflect")[0]
    s = torch.stft(y, size, hop_length=hop, win_length=size, window=torch.hann_window(size), center=False,
                   onesided=True, return_complex=True)
    return torch.sqrt(torch.view_as_real(s).pow(2).sum(-1) + 1e-8)[0].T.contiguous()


def main(kaldi_path, out_path):
    spec = importlib.util.spec_from_file_location("kaldi", kaldi_path)
    kaldi = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kaldi)
    torch.manual_seed(7)
    out = {}
    for rate, new_rate in ((44100, 32000), (48000, 32000), (24000, 32000), (16000, 32000), (32000, 16000), (22050, 32000)):
        x = signal(3001, rate)
        out[f"resample.{rate}_{new_rate}.x"] = x
        out[f"resample.{rate}_{new_rate}.out"] = resample(x, rate, new_rate)
    x = signal(12345, 32000)
    out["spectrum.x"], out["spectrum.out"] = x, spectrum(x)
    x = signal(4000, 16000)
    out["fbank.x"] = x
    out["fbank.out"] = kaldi.fbank(x[None], num_mel_bins=80, sample_frequency=16000, dither=0)
    save_file(out, out_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
