"""Writes solvers.safetensors and spacings.safetensors beside this file from the reference schedulers.

Needs torch, numpy, scipy, safetensors and diffusers; not needed to build or test Mica.
See README.md for what the tensors mean.
"""
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.stats import beta

import diffusers as d

HERE = pathlib.Path(__file__).resolve().parent
QWEN = dict(base_image_seq_len=256, max_image_seq_len=8192, base_shift=0.5, max_shift=0.9,
            use_dynamic_shifting=True, shift_terminal=0.02)


def velocity(x, sigma, a, b):
    return a * x + b * sigma


def start(steps):
    g = torch.Generator().manual_seed(steps)
    x = torch.randn(1, 24, generator=g)
    a = torch.linspace(-1.5, 1.5, 24)
    b = torch.randn(24, generator=g)
    return x, a, b


def trajectory(scheduler, given, steps):
    """Runs a scheduler whose sigmas are set; one row of `xs` per call of step."""
    x, a, b = start(steps)
    out = dict(x=x.clone(), a=a, b=b, sigmas=torch.as_tensor(given, dtype=torch.float32))
    scheduler.set_begin_index(0)
    heun = isinstance(scheduler, d.FlowMatchHeunDiscreteScheduler)
    xs = []
    for i in range(2 * steps - 1 if heun else steps):
        # Heun's list names each inner sigma twice, one row later than its timesteps.
        sigma = scheduler.timesteps[i] / 1000 if heun else scheduler.sigmas[i]
        x = scheduler.step(velocity(x, sigma, a, b), scheduler.timesteps[i], x, return_dict=False)[0]
        xs.append(x.clone())
    out["xs"] = torch.stack(xs)
    return out


def own_cases(steps):
    """Each class with the sigmas that it makes by itself."""
    h = d.FlowMatchHeunDiscreteScheduler(shift=3.0)
    h.set_timesteps(steps)
    yield "heun", trajectory(h, torch.cat([h.sigmas[:1], h.sigmas[1::2]]), steps)

    flow = dict(prediction_type="flow_prediction", use_flow_sigmas=True)
    p = d.DPMSolverMultistepScheduler(flow_shift=3.0, **flow)
    p.set_timesteps(steps)
    yield "dpmpp_2m_own", trajectory(p, p.sigmas.clone(), steps)
    u = d.UniPCMultistepScheduler(flow_shift=3.0, **flow)
    u.set_timesteps(steps)
    yield "unipc_own", trajectory(u, u.sigmas.clone(), steps)


def qwen_cases(steps):
    """Each class on the sigmas of Qwen-Image, which start at exactly 1."""
    e = d.FlowMatchEulerDiscreteScheduler(**QWEN)
    e.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=0.7)
    sigmas = e.sigmas.clone()
    yield "euler", trajectory(e, sigmas, steps)

    flow = dict(prediction_type="flow_prediction", use_flow_sigmas=True)
    p = d.DPMSolverMultistepScheduler(**flow)
    p.set_timesteps(steps)
    p.sigmas = sigmas.clone()  # the first lambda is -infinity
    yield "dpmpp_2m_qwen", trajectory(p, sigmas, steps)
    u = d.UniPCMultistepScheduler(**flow)
    u.set_timesteps(sigmas=sigmas[:-1].numpy().copy())
    yield "unipc_qwen", trajectory(u, sigmas, steps)


def spacing_cases():
    for kind in ("karras", "exponential", "beta"):
        for steps in (2, 3, 8, 20, 50):
            for name, config, mu in (("qwen", QWEN, 0.7), ("static", dict(shift=3.0), None)):
                e = d.FlowMatchEulerDiscreteScheduler(**config, **{f"use_{kind}_sigmas": True})
                e.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
                yield f"{kind}_{name}_{steps}.sigmas", e.sigmas
                yield f"{kind}_{name}_{steps}.timesteps", e.timesteps
    p = np.concatenate([np.linspace(0, 1, 41), 10.0 ** -np.arange(2, 13), 1 - 10.0 ** -np.arange(2, 13)])
    yield "beta_ppf.p", torch.from_numpy(p)
    yield "beta_ppf.x", torch.from_numpy(np.array([beta.ppf(q, 0.6, 0.6) for q in p]))


def main():
    solvers = {}
    for steps in (1, 2, 3, 6, 10, 20):
        cases = list(own_cases(steps))
        if steps > 1:  # one step with shift_terminal is 0 / 0 in the reference
            cases += qwen_cases(steps)
        for name, tensors in cases:
            solvers.update({f"{name}_{steps}.{k}": v.clone() for k, v in tensors.items()})
    meta = dict(diffusers=d.__version__, torch=torch.__version__, numpy=np.__version__)
    save_file(solvers, HERE / "solvers.safetensors", metadata=meta)
    save_file(dict(spacing_cases()), HERE / "spacings.safetensors", metadata=meta)


main()
