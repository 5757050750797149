"""The held-out check: 60 prompts whose combinations never occur in training, drawn by mica, judged by
classifier.py's network.

usage: evaluate.py choose DATA held_out.json          the prompts (committed; chosen once)
       evaluate.py draw held_out.json MICA FOLDER     pictures FOLDER/00.png ... with seed = number
       evaluate.py score held_out.json DATA CLASSIFIER.pt FOLDER
"""
import json
import random
import subprocess
import sys

from prompts import BACKGROUNDS, COLOURS, SCENE_WORDS, SCENES, Table, held_out


def choose(data, out):
    """30 objects in a colour, 20 on a background colour, 10 in a scene; everyday objects."""
    rng, table, chosen = random.Random(4), Table(data + "/emoji.json"), []

    def name_of(items):
        return table.items[rng.choice(items)]

    emoji = [i for i in table.emoji if table.items[i]["weight"] >= 1.1]
    colourable = [i for i in table.colourable if table.items[i]["weight"] >= 1.1]
    for kind, count in (("colour", 30), ("background", 20), ("scene", 10)):
        while count:
            item = name_of(colourable if kind == "colour" else emoji)
            name = item["name"]
            value = rng.choice({"colour": list(COLOURS), "background": list(BACKGROUNDS),
                                "scene": SCENES}[kind])
            key = (name, value) if kind == "colour" else (name, kind, value)
            if not held_out(*key) or any(c["object"] == name for c in chosen):
                continue
            phrase = value + " " + name if kind == "colour" else name
            text = ("an " if phrase[0] in "aeiou" else "a ") + phrase
            if kind == "background":
                text += " on a %s background" % value
            elif kind == "scene":
                text += " " + SCENE_WORDS[value][0]
            chosen.append({"prompt": text, "object": name, "kind": kind, "value": value})
            count -= 1
    json.dump(chosen, open(out, "w"), indent=0)


def draw(prompts, mica, folder):
    for i, p in enumerate(json.load(open(prompts))):
        subprocess.run([mica, "image", "-p", p["prompt"], "--seed", str(i), "--quiet",
                        "-o", "%s/%02d.png" % (folder, i)], check=True)


def border(x):
    """Mean colour of the picture's rim, 0 .. 255."""
    w = max(1, x.shape[-1] // 24)
    rim = [x[:, :w].flatten(1), x[:, -w:].flatten(1), x[:, :, :w].flatten(1), x[:, :, -w:].flatten(1)]
    import torch
    return (torch.cat(rim, 1).median(1).values + 1) * 127.5


def score(prompts, data, weights, folder):
    import numpy as np
    import torch
    from PIL import Image

    from classifier import Classifier
    chosen, table = json.load(open(prompts)), Table(data + "/emoji.json")
    net = Classifier(len(table.items))
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in
                         torch.load(weights, map_location="cpu", weights_only=True).items()})
    net.eval()
    x = [torch.from_numpy(np.asarray(Image.open("%s/%02d.png" % (folder, i)).convert("RGB")).copy())
         for i in range(len(chosen))]
    x = [p.permute(2, 0, 1).float() / 127.5 - 1 for p in x]
    with torch.no_grad():
        objects, colours = (torch.cat(o) for o in zip(*[net(p[None]) for p in x]))
    palette = torch.tensor(list(BACKGROUNDS.values())).float()
    rims = [list(BACKGROUNDS)[int((palette - border(p)).norm(dim=1).argmin())] for p in x]
    top = objects.topk(5, dim=1).indices
    colour = [list(COLOURS)[int(c[:-1].argmax())] for c in colours]

    def rates(pictures):
        """pictures[i]: the picture that prompt i is compared with."""
        one = five = hue = rim = 0
        misses = []
        for p, k in zip(chosen, pictures):
            rows = {i for i, r in enumerate(table.items) if p["object"] in r["names"]}
            hit = int(top[k, 0]) in rows
            one += hit
            five += any(int(t) in rows for t in top[k])
            if not hit:
                misses.append("%s -> %s" % (p["prompt"], table.items[int(top[k, 0])]["name"]))
            hue += p["kind"] == "colour" and colour[k] == p["value"]
            rim += p["kind"] == "background" and rims[k] == p["value"]
        n = {kind: sum(p["kind"] == kind for p in chosen) for kind in ("colour", "background")}
        return (one / len(chosen), five / len(chosen), hue / n["colour"], rim / n["background"]), misses

    result, misses = rates(range(len(chosen)))
    print("object top-1 %.3f top-5 %.3f, colour %.3f, background %.3f" % result)
    rng, control = random.Random(8), [0.] * 4
    for _ in range(20):
        shuffled = rng.sample(range(len(chosen)), len(chosen))
        control = [c + v / 20 for c, v in zip(control, rates(shuffled)[0])]
    print("shuffled: object top-1 %.3f top-5 %.3f, colour %.3f, background %.3f" % tuple(control))
    print("missed:", *misses, sep="\n  ")


if __name__ == "__main__":
    {"choose": choose, "draw": draw, "score": score}[sys.argv[1]](*sys.argv[2:])
