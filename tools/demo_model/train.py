"""Trains the demo model: autoencoder first, then text encoder and transformer together.

    prompts.py -> tokens, scenes -> render.py -> pictures -> autoencoder -> latents (pool on the
    device, every latent used `reuse` times) -> flow matching: v = noise - x0 at x_t

usage: train.py --data D --state S --out O --vae-until SECONDS --until SECONDS [--tiny]

Times count from the start of the program, so that a lease of a machine is used to its end; the learning
rates follow them. --state keeps vae.pt and diffusion.pt (weights, averages, optimizer, step): a run
that finds them goes on from there. --out gets text.pt, transformer.pt and vae.pt (averages), which
export.py reads, log.txt and sample pictures.
"""
import argparse
import json
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer

from model import (Autoencoder, ChannelNorm, TextEncoder, Transformer, channel_norm, pack,
                   unpack)
from optimizer import Average, Optimizer
from prompts import Table, specification
from render import Renderer
from tokenizer import AFTER, BEFORE, DROPPED

HERE = os.path.dirname(os.path.abspath(__file__))
SAMPLES = [
    "a red fox in the snow", "two blue cats", "a cat and a dog", "a purple car on a yellow background",
    "a rocket in space", "a green apple", "a grinning face", "three pink stars", "an octopus in the sea",
    "a birthday cake on a blue background", "a palm tree on the beach", "an owl at night",
    "a blue heart above a red car", "a cup of coffee", "a white horse on green grass",
    "a pizza on the left", "a penguin in the snow", "a yellow submarine", "a unicorn under the stars",
    "a guitar next to a drum", "four red apples", "a robot in the desert", "a sunflower",
    "a small mouse in the bottom right corner", "a house in the forest", "an elephant",
    "a red bicycle at sunset", "a black cat on an orange background", "a strawberry and a lemon",
    "a pink elephant", "a crown", "a dinosaur in the rain"]


# ---------------------------------------------------------------------------------------- data


def make_part(args):
    data, count, seed, limit = args
    table = Table(data + "/emoji.json")
    texts, backs, slots = specification(table, count, seed)
    t = Tokenizer.from_file(data + "/tokenizer/tokenizer.json")
    ids = np.zeros((count, limit), np.int16)
    lengths = np.zeros(count, np.int16)
    for i, e in enumerate(t.encode_batch([x + AFTER for x in texts])):
        n = len(e.ids)
        lengths[i] = n if n <= limit else 0
        ids[i, :min(n, limit)] = e.ids[:limit]
    keep = lengths > 0
    return ids[keep], lengths[keep], backs[keep].astype(np.float16), slots[keep]


class Data:
    """Token ids, lengths and scenes of all prompts, on the device."""

    def __init__(self, data, config, device, count, workers):
        part = count // workers
        jobs = [(data, part, config["seed"] + 1000 + i, config["text_tokens"]) for i in range(workers)]
        with ProcessPoolExecutor(workers) as pool:
            parts = list(pool.map(make_part, jobs))
        self.ids, self.lengths, self.backs, self.slots = (
            torch.from_numpy(np.concatenate([p[k] for p in parts])).to(device) for k in range(4))
        t = Tokenizer.from_file(data + "/tokenizer/tokenizer.json")
        self.head = torch.tensor(t.encode(BEFORE).ids, device=device)
        assert len(self.head) == DROPPED
        self.tokenizer, self.limit, self.device = t, config["text_tokens"], device

    def __len__(self):
        return len(self.ids)

    def draw(self, count, generator):
        return torch.randint(len(self), (count,), device=self.device, generator=generator)

    def prompt(self, texts):
        """ids [N, 34 + limit], mask [N, limit]"""
        ids = torch.zeros(len(texts), self.limit, dtype=torch.long, device=self.device)
        mask = torch.zeros(len(texts), self.limit, dtype=torch.bool, device=self.device)
        for i, text in enumerate(texts):
            e = self.tokenizer.encode(text + AFTER).ids[:self.limit]
            ids[i, :len(e)] = torch.tensor(e, device=self.device)
            mask[i, :len(e)] = True
        return torch.cat([self.head.expand(len(texts), -1), ids], 1), mask


class Log:
    def __init__(self, out):
        self.start, self.file = time.time(), open(out + "/log.txt", "a")

    def __call__(self, *words):
        line = "%7.1f " % (time.time() - self.start) + " ".join(str(w) for w in words)
        print(line, flush=True)
        self.file.write(line + "\n")
        self.file.flush()


def save(value, path):
    torch.save(value, path + ".part")
    os.replace(path + ".part", path)


def picture_grid(x, columns, path):
    x = ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    n, h, w, _ = x.shape
    rows = -(-n // columns)
    out = np.zeros((rows * h, columns * w, 3), np.uint8)
    for i, p in enumerate(x):
        r, c = divmod(i, columns)
        out[r * h:r * h + h, c * w:c * w + w] = p
    Image.fromarray(out).save(path)


class Pace:
    """Share of the time of a phase that is over, and the learning rate's factor: a short rise, and
    a cosine down to zero at the end."""

    def __init__(self, run, until, warmup):
        self.begin, self.until, self.run, self.warmup = run.clock(), until, run, warmup

    def share(self):
        return (self.run.clock() - self.begin) / max(1e-9, self.until - self.begin)

    def scale(self, step):
        level = .5 + .5 * math.cos(math.pi * min(1., max(0., self.share())))
        return min(1., (step + 1) / self.warmup) * max(.01, level)


# --------------------------------------------------------------------------------- autoencoder


def gradient_loss(a, b):
    """L1 of horizontal and vertical differences on three scales."""
    total = 0.
    for level in range(3):
        d = a - b
        total = total + (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
        if level < 2:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total / 3


def vae_loss(vae, x, c):
    mean, logvar = vae.encode(x)
    mean, logvar = mean.float(), logvar.float()
    kl = .5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    z = mean + torch.randn_like(mean) * (.5 * logvar).exp()
    # Noise of a random share: the transformer's latents will not be perfect either.
    z = z + torch.randn_like(z) * c["noise"] * torch.rand(len(z), 1, 1, 1, device=z.device)
    y = vae.decode(z.to(x.dtype)).float()
    l1 = (y - x).abs().mean()
    return l1 + c["gradient"] * gradient_loss(y, x) + .5 * (y - x).square().mean() + c["kl"] * kl, l1, kl


def train_vae(run, until):
    c, vae = run.config["train_vae"], run.vae
    optimizer = Optimizer([vae], "adamw", c["lr"], c["lr"])
    average = Average([vae], c["ema"])
    pace, step, shown = None, 0, time.time()
    while pace is None or pace.share() < 1:
        if step == len(c["batches"]):  # the first steps compile; the schedule starts behind them
            pace = Pace(run, until, 100)
        size, batch = c["batches"][step % len(c["batches"])]
        batch = run.shrink(batch)
        at = run.data.draw(batch, run.generator)
        x = run.renderer(run.data.backs[at].float(), run.data.slots[at], size, run.generator)
        x = x.to(memory_format=torch.channels_last)
        with run.autocast():
            loss, l1, kl = vae_loss(vae, x, c)
        loss.backward()
        optimizer.step(pace.scale(step) if pace else .01)
        average.update()
        step += 1
        if step % run.show_every == 0:
            run.log("vae step", step, "loss %.4f l1 %.4f kl %.2f" % (loss.item(), l1.item(), kl.item()),
                    "%.1f steps/s" % (run.show_every / (time.time() - shown)))
            shown = time.time()
    average.swap()
    measure_latents(run)
    run.log("vae steps", step)
    save({"vae": vae.state_dict(), "mean": run.mean, "std": run.std, "steps": step}, run.state + "/vae.pt")
    with torch.no_grad(), run.autocast():
        for size in (128, 256):
            at = run.data.draw(2 if run.tiny else 16, run.generator)
            x = run.renderer(run.data.backs[at].float(), run.data.slots[at], size, run.generator)
            y = vae.decode(vae.encode(x)[0])
            error = (y.float().clamp(-1, 1) - x).square().mean().item()
            run.log("vae at", size, "psnr %.2f" % (10 * math.log10(4 / error)))
            picture_grid(torch.stack([x, y.float()], 1).flatten(0, 1), 8, run.out + "/vae%d.png" % size)


@torch.no_grad()
def measure_latents(run):
    """Mean and standard deviation per channel over the training distribution."""
    zs = []
    for _ in range(1 if run.tiny else 8):
        at = run.data.draw(run.shrink(256), run.generator)
        x = run.renderer(run.data.backs[at].float(), run.data.slots[at], 128, run.generator)
        with run.autocast():
            zs.append(run.vae.encode(x)[0].float())
    z = torch.cat(zs).transpose(0, 1).flatten(1)
    run.mean, run.std = z.mean(1), z.std(1)
    run.log("latents mean", [round(v, 2) for v in run.mean.tolist()],
            "std", [round(v, 2) for v in run.std.tolist()])


# ----------------------------------------------------------------------------------- diffusion


class Pool:
    """Latents of one picture size; every step renders some anew and draws from all."""

    def __init__(self, run, size, batch, capacity, reuse):
        self.run, self.size, self.batch = run, size, batch
        self.fresh = max(1, batch // reuse)
        self.capacity = max(batch, capacity * 128 * 128 // size ** 2)
        side = size // 16
        self.z = torch.zeros(self.capacity, side * side, 64, device=run.device, dtype=torch.bfloat16)
        self.at = torch.zeros(self.capacity, dtype=torch.long, device=run.device)
        self.filled, self.next = 0, 0

    @torch.no_grad()
    def add(self, count):
        run = self.run
        count = min(count, self.capacity - self.next)
        at = run.data.draw(count, run.generator)
        x = run.renderer(run.data.backs[at].float(), run.data.slots[at], self.size, run.generator)
        with run.autocast():
            z = run.vae.encode(x.to(memory_format=torch.channels_last))[0].float()
        z = (z - run.mean[:, None, None]) / run.std[:, None, None]
        self.z[self.next:self.next + count] = pack(z.contiguous()).to(torch.bfloat16)
        self.at[self.next:self.next + count] = at
        self.filled = max(self.filled, self.next + count)
        self.next = (self.next + count) % self.capacity

    def draw(self):
        while self.filled < min(self.capacity, 2 * self.batch):
            self.add(self.fresh)
        self.add(self.fresh)
        pick = torch.randint(self.filled, (self.batch,), device=self.run.device,
                             generator=self.run.generator)
        return self.z[pick].float(), self.at[pick]


def draw_sigma(count, run):
    """Logit-normal, shifted to noise as inference is at these sizes, and a fifth uniform."""
    n = torch.randn(count, device=run.device, generator=run.generator)
    u = torch.rand(count, device=run.device, generator=run.generator)
    s = torch.sigmoid(n * 1.1 + .4)
    return torch.where(u < .2, u * 5, s).clamp(.001, 1.)


def diffusion_loss(run, x0, at):
    c, data = run.config["train_diffusion"], run.data
    B = len(x0)
    ids, lengths = data.ids[at].long(), data.lengths[at].long()
    drop = torch.rand(B, device=run.device, generator=run.generator) < c["dropout"]
    ids = torch.where(drop[:, None], run.empty_ids, ids)
    lengths = torch.where(drop, run.empty_length, lengths)
    mask = torch.arange(data.limit, device=run.device) < lengths[:, None]
    ids = torch.cat([data.head.expand(B, -1), ids], 1)
    noise = torch.randn(x0.shape, device=run.device, generator=run.generator)
    sigma = draw_sigma(B, run)
    x = x0 + (noise - x0) * sigma[:, None, None]
    with run.autocast():
        txt = run.text(ids)[:, DROPPED:]
        v = run.transformer(x, sigma, txt, mask)
    return (v.float() - (noise - x0)).square().mean()


class Learner:
    """Networks, optimizer and average of one optimizer setting."""

    def __init__(self, run, kind):
        c = run.config["train_diffusion"]
        self.run, self.kind, self.step = run, kind, 0
        torch.manual_seed(run.config["seed"])
        run.new_networks()
        modules = [run.text, run.transformer]
        self.text, self.transformer = modules
        self.optimizer = Optimizer(modules, kind, c["adam_lr"], c["lr"])
        self.average = Average(modules, c["ema"])
        self.losses, self.count, self.mean = torch.zeros((), device=run.device), 0, float("nan")

    def use(self):
        self.run.text, self.run.transformer = self.text, self.transformer

    def learn(self, pools, scale):
        batches = self.run.config["train_diffusion"]["batches"]
        x0, at = pools[batches[self.step % len(batches)][0]].draw()
        loss = diffusion_loss(self.run, x0, at)
        loss.backward()
        self.optimizer.step(scale)
        self.average.update()
        self.losses += loss.detach()
        self.step += 1
        self.count += 1
        if self.count == self.run.show_every:
            self.mean = self.losses.item() / self.count
            self.losses.zero_()
            self.count = 0
            return True
        return False

    def save(self, path):
        save({"text": self.text.state_dict(), "transformer": self.transformer.state_dict(),
              "kind": self.kind, "average": self.average.mean, "steps": self.average.steps,
              "step": self.step, "optimizer": self.optimizer.state()}, path)

    def load(self, s):
        self.text.load_state_dict(s["text"])
        self.transformer.load_state_dict(s["transformer"])
        self.optimizer.load(s["optimizer"])
        for m, v in zip(self.average.mean, s["average"]):
            m.copy_(v)
        self.average.steps, self.step = s["steps"], s["step"]


def compile_steps(run, pools):
    """Runs every size once, so that no later time measures the compiler."""
    for pool in pools.values():
        x0, at = pool.draw()
        diffusion_loss(run, x0, at).backward()
        run.log("compiled", pool.size)


def trial(run, kind, pools, seconds):
    """A learner after some seconds at full rate, and its mean loss over the last steps."""
    learner = Learner(run, kind)
    learner.use()
    end, warmup = run.clock() + seconds, run.config["train_diffusion"]["warmup"]
    while run.clock() < end or learner.mean != learner.mean:
        learner.learn(pools, min(1., (learner.step + 1) / warmup))
    run.log("trial of", kind, learner.step, "steps, loss %.4f" % learner.mean)
    return learner


def train_diffusion(run, until):
    c, path = run.config["train_diffusion"], run.state + "/diffusion.pt"
    pools = {size: Pool(run, size, run.shrink(batch), run.shrink(c["pool"]), c["reuse"])
             for size, batch in c["batches"]}
    if os.path.exists(path):
        s = torch.load(path, map_location=run.device, weights_only=True)
        learner = Learner(run, s["kind"])
        learner.load(s)
        learner.use()
        run.log("goes on from step", learner.step)
        compile_steps(run, pools)
    else:
        compile_steps(run, pools)
        tried = [trial(run, kind, pools, c["trial"]) for kind in c["optimizers"]]
        learner = min(tried, key=lambda t: t.mean)
        learner.use()
        run.log("taking", learner.kind)
    for p in learner.optimizer.all:
        p.grad = None
    pace, first, begin, saved = Pace(run, until, c["warmup"]), learner.step, time.time(), time.time()
    while pace.share() < 1:
        if learner.learn(pools, pace.scale(c["warmup"])):
            run.log("step", learner.step, "loss %.4f" % learner.mean, "%.2f steps/s" % (
                (learner.step - first) / (time.time() - begin)))
        if time.time() - saved > 100:
            learner.save(path)
            learner.average.swap()
            write_weights(run)
            learner.average.swap()
            saved = time.time()
    learner.save(path)
    run.log("diffusion steps", learner.step, "loss %.4f" % learner.mean)
    learner.average.swap()
    write_weights(run)


def write_weights(run):
    def half(m):
        return {k: v.detach().to(torch.bfloat16).cpu() for k, v in m.state_dict().items()}

    mean, std = [round(v, 5) for v in run.mean.tolist()], [round(v, 5) for v in run.std.tolist()]
    save({"text": half(run.text), "latents_mean": mean, "latents_std": std}, run.out + "/text.pt")
    save({"transformer": half(run.transformer)}, run.out + "/transformer.pt")
    save({"vae": {k: v.detach().float().cpu() for k, v in run.vae.state_dict().items()},
          "latents_mean": mean, "latents_std": std}, run.out + "/vae.pt")


# ------------------------------------------------------------------------------------- samples


def sigmas(steps, tokens):
    """FlowMatchEulerDiscreteScheduler with Qwen-Image's dynamic shift and terminal stretch."""
    mu = .5 + (.9 - .5) * (tokens - 256) / (8192 - 256)
    s = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    s = math.exp(mu) / (math.exp(mu) + (1 / s - 1))
    s = 1 - (1 - s) / ((1 - s[-1]) / (1 - .02))
    return torch.cat([s, s.new_zeros(1)]).float()


@torch.no_grad()
def sample(run, texts, size, steps=24, guidance=4., seed=1):
    side, n = size // 16, len(texts)
    ids, mask = run.data.prompt(texts + [" "] * n)
    x = torch.randn(n, side * side, 64, generator=torch.Generator().manual_seed(seed)).to(run.device)
    s = sigmas(steps, side * side)
    with run.autocast():
        txt = run.text(ids)[:, DROPPED:]
        for i in range(steps):
            v = run.transformer(torch.cat([x, x]), s[i].to(run.device).expand(2 * n), txt, mask).float()
            cond, un = v.chunk(2)
            v = un + guidance * (cond - un)
            v = v * cond.norm(dim=-1, keepdim=True) / v.norm(dim=-1, keepdim=True)
            x = x + (s[i + 1] - s[i]).item() * v
        z = unpack(x, side) * run.std[:, None, None] + run.mean[:, None, None]
        return run.vae.decode(z)


# ---------------------------------------------------------------------------------------- main


class Run:
    def __init__(self, a):
        self.start = time.time()
        self.config = json.load(open(HERE + "/config.json"))
        self.state, self.out, self.tiny = a.state, a.out, a.tiny
        for d in (a.state, a.out):
            os.makedirs(d, exist_ok=True)
        self.log = Log(a.out)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        seed = self.config["seed"]
        torch.manual_seed(seed)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.show_every = 5 if a.tiny else 200
        if self.device == "cuda":
            self.prepare_compiler()
        self.vae = Autoencoder(self.config["vae"]).to(self.device, memory_format=torch.channels_last)
        self.new_networks()
        self.data = Data(a.data, self.config, self.device,
                         4000 if a.tiny else self.config["prompts"], 2 if a.tiny else 14)
        self.log("prompts", len(self.data))
        self.renderer = Renderer(a.data, self.device, quick=a.tiny)
        self.log("bitmaps", len(self.renderer.bitmaps))
        ids, mask = self.data.prompt([" "])
        self.empty_ids, self.empty_length = ids[0, DROPPED:], mask.sum()

    def clock(self):
        return time.time() - self.start

    def prepare_compiler(self):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch._dynamo.config.automatic_dynamic_shapes = False
        torch._dynamo.config.recompile_limit = 64
        ChannelNorm.function = staticmethod(torch.compile(channel_norm, dynamic=False))

    def new_networks(self):
        self.text = TextEncoder(self.config["text"]).to(self.device)
        self.transformer = Transformer(self.config["transformer"]).to(self.device)
        if self.device == "cuda":
            for m in list(self.transformer.transformer_blocks) + list(self.text.layers):
                m.compile(dynamic=False)

    def autocast(self):
        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")

    def shrink(self, batch):
        return max(2, batch // 128) if self.tiny else batch

    def load_vae(self):
        s = torch.load(self.state + "/vae.pt", map_location=self.device, weights_only=True)
        self.vae.load_state_dict(s["vae"])
        self.mean, self.std = s["mean"], s["std"]


def main():
    p = argparse.ArgumentParser()
    for name in ("data", "state", "out"):
        p.add_argument("--" + name, required=True)
    p.add_argument("--vae-until", type=float, default=290)
    p.add_argument("--until", type=float, default=1050)
    p.add_argument("--tiny", action="store_true", help="small numbers of everything, to try the code")
    a = p.parse_args()
    run = Run(a)
    if os.path.exists(run.state + "/vae.pt"):
        run.load_vae()
    else:
        train_vae(run, a.vae_until)
    train_diffusion(run, a.until)
    if run.device == "cuda":
        torch.compiler.set_stance("force_eager")
    texts = SAMPLES[:2] if a.tiny else SAMPLES
    for size in (128, 256):
        picture_grid(sample(run, texts, size, 2 if a.tiny else 24), 8,
                     run.out + "/samples%d.png" % size)
    run.log("done")


if __name__ == "__main__":
    main()
