"""Trains the demo text model on one GPU in a few minutes.

    data      documents of dictionary.py, other words and other questions in every pass, 256 tokens a row
    weights   kept in f32; Muon for the matrices of the layers, AdamW for the rest
    4 bits    in the last part of the run every step computes with the weights as they will be stored
              and moves the f32 ones (straight-through), so that rounding costs little

usage: train.py RECORDS.jsonl WORDS.json OUT_FOLDER --seconds N [--cpu]
"""
import argparse
import json
import math
import multiprocessing
import os
import random
import time

import numpy as np
import torch

from dictionary import documents, load
from model import CONFIG, Mixtral
from quantise import export, is_quantised, round_to

ROW, BATCH, QUANTISED_FROM = 256, 256, .55
WORDS = {}


def tokens_of(text):
    """Ids of a document, or None when a word is not known."""
    out = []
    for i, part in enumerate(text.split("<s>")[1].split("</s>")[:-1]):
        if i == 0:
            out.append(1)
        for w in part.split(" ")[1:]:
            ids = WORDS.get(w)
            if ids is None:
                return None
            out += ids
        out.append(2)
    return out


def encode_pass(job):
    records, seed, common = job
    rng, out, lost = random.Random(seed), [], 0
    for d in documents(records, rng, common):
        ids = tokens_of(d)
        if ids is None:
            lost += 1
        else:
            out += ids
    return np.array(out, dtype=np.uint16), lost


def make_data(args):
    j = json.load(open(args.words))
    WORDS.update(zip(j["words"], j["ids"]))
    records, held = load(args.records)
    passes = 2 if args.cpu else 16
    jobs = [(records, 100 + i, 3) for i in range(passes)] + [(held, 7, 0)]
    with multiprocessing.get_context("fork").Pool(min(16, os.cpu_count())) as pool:
        parts = pool.map(encode_pass, jobs, chunksize=1)
    print("tokens:", sum(len(p[0]) for p in parts[:-1]), "held out:", len(parts[-1][0]), "lost documents:",
          sum(p[1] for p in parts))
    return np.concatenate([p[0] for p in parts[:-1]]), parts[-1][0]


# --------------------------------------------------------------------- optimisation

def orthogonal(g):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x.mT if tall else x).float()


class Optimiser:
    """Keeps the f32 weights; the model's own parameters are what a step computes with."""

    def __init__(self, model):
        self.named = list(model.named_parameters())
        self.master = {n: p.detach().clone() for n, p in self.named}
        self.muon = {}
        for n, p in self.named:
            if n.startswith("layers.") and p.ndim >= 2 and "router" not in n:
                self.muon.setdefault(tuple(p.shape[-2:]), []).append(n)
        inner = {n for ns in self.muon.values() for n in ns}
        self.rest = [n for n, _ in self.named if n not in inner]
        self.m = {n: torch.zeros_like(p) for n, p in self.master.items()}
        self.v = {n: torch.zeros_like(self.master[n]) for n in self.rest}
        self.steps = 0

    @torch.no_grad()
    def step(self, lr):
        params = dict(self.named)
        self.steps += 1
        torch.nn.utils.clip_grad_norm_(params.values(), 1.)
        for shape, ns in self.muon.items():
            g = torch.cat([params[n].grad.reshape(-1, *shape) for n in ns])
            m = torch.cat([self.m[n].reshape(-1, *shape) for n in ns])
            m.lerp_(g, .05)
            u = orthogonal(g.lerp(m, .95)) * (.2 * max(shape) ** .5)
            at = 0
            for n in ns:
                k = self.m[n].numel() // (shape[0] * shape[1])
                self.m[n].copy_(m[at:at + k].reshape(self.m[n].shape))
                self.master[n].mul_(1 - .02 * lr).sub_(lr * u[at:at + k].reshape(self.m[n].shape))
                at += k
        for n in self.rest:
            g = params[n].grad.float()
            self.m[n].lerp_(g, .1)
            self.v[n].lerp_(g * g, .02)
            m = self.m[n] / (1 - .9 ** self.steps)
            v = self.v[n] / (1 - .98 ** self.steps)
            self.master[n].sub_(lr * m / (v.sqrt() + 1e-8))

    @torch.no_grad()
    def load(self, bits):
        """The weights into the model, rounded when bits < 16."""
        for n, p in self.named:
            w = self.master[n]
            p.copy_(round_to(w, bits) if bits < 16 and w.ndim >= 2 and is_quantised(n) else w)


@torch.no_grad()
def perplexity(loss, held, device, autocast):
    rows = len(held) // (ROW + 1)
    ids = torch.from_numpy(held[:rows * (ROW + 1)].astype(np.int32)).view(rows, ROW + 1)
    total = 0.0
    for i in range(0, rows - BATCH + 1, BATCH):
        with autocast():
            total += loss(ids[i:i + BATCH].to(device))[0].item()
    return math.exp(total / max(1, rows // BATCH))


@torch.no_grad()
def say(model, words, prompts, device):
    spell = {tuple(v): k for k, v in words.items()}
    pieces = {v[0]: k for k, v in words.items() if len(v) == 1}
    del spell
    for p in prompts:
        ids = [1]
        for w in p.split(" "):
            ids += words.get(w, [0])
        start = len(ids)
        for _ in range(40):
            logits, _ = model(torch.tensor([ids], device=device))
            ids.append(int(logits[0, -1].argmax()))
            if ids[-1] == 2:
                break
        print(p, "=>", ids[start:], " ".join(pieces.get(i, "~") for i in ids[start:]))


def main():
    a = argparse.ArgumentParser()
    a.add_argument("records")
    a.add_argument("words")
    a.add_argument("out")
    a.add_argument("--seconds", type=float, default=240)
    a.add_argument("--lr", type=float, default=4e-3)
    a.add_argument("--cpu", action="store_true")
    args = a.parse_args()
    begin = time.time()
    data, held = make_data(args)
    device = "cpu" if args.cpu else "cuda"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model = Mixtral().to(device)
    print("%.2f M parameters, data after %.0f s" % (sum(p.numel() for p in model.parameters()) * 1e-6,
                                                   time.time() - begin))
    optimiser = Optimiser(model)
    loss = model.loss if args.cpu else torch.compile(model.loss, dynamic=False)

    def autocast():
        return torch.autocast(device, dtype=torch.bfloat16)
    batch = 8 if args.cpu else BATCH
    rows = len(data) // ROW - 1
    tokens = torch.from_numpy(data.astype(np.int32)).to(device)
    offsets = torch.arange(ROW + 1, device=device)
    bits, step, start, report = 16, 0, None, 0
    while True:
        now = time.time()
        part = 0.0 if start is None else (now - start) / args.seconds
        if part >= 1.0:
            break
        bits = 4 if part >= QUANTISED_FROM else 16
        lr = args.lr * min(1.0, (step + 1) / 150) * max(.02, 1.0 - part) * (.5 if bits == 4 else 1.0)
        at = torch.randint(0, rows, (batch,), device=device) * ROW
        ids = tokens[at[:, None] + offsets]
        optimiser.load(bits)
        with autocast():
            ce, balance = loss(ids)
        (ce + .01 * balance).backward()
        optimiser.step(lr)
        model.zero_grad()
        step += 1
        if start is None and step == 3: # compiled by now
            if not args.cpu:
                torch.cuda.synchronize()
            start = time.time()
            print("compiled after %.0f s" % (start - begin))
        if start is not None and now - start > report:
            print("%4.0f s step %d bits %d loss %.4f balance %.3f" % (now - start, step, bits, ce.item(),
                                                                     balance.item()), flush=True)
            report += args.seconds / 25
    print("%d steps, %.1f M tokens" % (step, step * batch * ROW * 1e-6))
    result = {"steps": step, "tokens": step * batch * ROW, "parameters": sum(p.numel() for p in model.parameters())}
    for b in (16, 8, 4):
        optimiser.load(b)
        if len(held) > BATCH * ROW:
            result["held_out_perplexity_%d_bits" % b] = perplexity(loss, held, device, autocast)
    print(json.dumps(result))
    os.makedirs(args.out, exist_ok=True)
    json.dump(result, open(args.out + "/result.json", "w"), indent=1)
    say(model, WORDS, ["[INST] What is a dog? [/INST]", "[INST] What does \"run\" mean? [/INST]",
                       "[INST] Define freedom. [/INST]"], device)
    optimiser.load(16)
    model.cpu()
    export(model, args.out + "/q4", 4)
    export(model, args.out + "/bf16", 16)


if __name__ == "__main__":
    main()
