"""The grammar of the demo model's prompts: a seed gives a prompt and the scene it describes.

    sample(rng) -> (text, background, slots)

    background  [kind, r, g, b, scene]      kind 0: plain colour, 1: unsaid pastel, 2: scene number
    slots       up to 5 x [row, x, y, size] row of the bitmap table; centre and side as a share
                                            of the picture's width

Rows of the bitmap table are pictures of emoji.json and, behind them, their recoloured variants
(see `Table`). A tenth of all pairs (object, colour), (object, background colour), (object, scene)
and (object, object) never occurs in training; `held_out` names them by a hash, so that the split
does not depend on the seed.
"""
import hashlib
import json
import random

# Hue, saturation, value of a recoloured object; None keeps the picture's own.
COLOURS = {"red": (1, .82, .90), "orange": (28, .88, .97), "yellow": (50, .80, .99),
           "green": (125, .62, .68), "blue": (213, .75, .90), "purple": (275, .60, .72),
           "pink": (335, .42, .97), "brown": (22, .55, .45), "black": (0, .04, .20),
           "white": (210, .03, .97), "grey": (210, .06, .60)}
BACKGROUNDS = {"red": (226, 60, 55), "orange": (248, 152, 56), "yellow": (252, 220, 80),
               "green": (90, 180, 90), "blue": (66, 135, 225), "light blue": (160, 212, 248),
               "purple": (146, 90, 190), "pink": (250, 180, 205), "brown": (128, 86, 58),
               "black": (22, 22, 24), "white": (255, 255, 255), "grey": (150, 152, 156),
               "turquoise": (64, 200, 196), "beige": (240, 226, 200)}
SCENES = ["snow", "grass", "night", "sea", "beach", "desert", "forest", "sunset", "space", "rain"]
SCENE_WORDS = {
    "snow": ["in the snow", "in the snow", "on a snowy field", "in winter", "with snow falling"],
    "grass": ["on the grass", "on green grass", "in a meadow", "in a field", "in a park"],
    "night": ["at night", "under the night sky", "under the stars", "at night under the stars"],
    "sea": ["in the sea", "on the sea", "in the ocean", "on the water", "on the ocean"],
    "beach": ["on the beach", "at the beach", "on a sandy beach", "by the sea"],
    "desert": ["in the desert", "on a sand dune", "in a desert", "on the sand"],
    "forest": ["in the forest", "in the woods", "in a forest", "among the trees"],
    "sunset": ["at sunset", "in front of a sunset", "at dusk", "with a sunset behind"],
    "space": ["in space", "in outer space", "among the stars", "floating in space"],
    "rain": ["in the rain", "on a rainy day", "in rainy weather"],
}
PLACES = {  # words -> (x, y), the centre of a smaller object
    "on the left": (.27, .5), "on the right": (.73, .5), "at the top": (.5, .27),
    "at the bottom": (.5, .73), "in the top left corner": (.25, .25),
    "in the top right corner": (.75, .25), "in the bottom left corner": (.25, .75),
    "in the bottom right corner": (.75, .75), "in the center": (.5, .5),
    "in the middle": (.5, .5), "on the left side": (.27, .5), "on the right side": (.73, .5)}
SIZES = {"small": .40, "tiny": .30, "little": .42, "large": .88, "big": .86, "huge": .95}
FILLERS = ["cute", "nice", "beautiful", "simple", "cartoon", "lovely", "colorful", "shiny", "funny",
           "happy", "pretty"]
MEDIA = ["a picture of", "an image of", "a drawing of", "an illustration of", "an emoji of",
         "an icon of", "a painting of", "a photo of", "a cartoon of", "a sticker of", "clip art of"]
COUNTS = {2: ["two", "2", "a pair of"], 3: ["three", "3"], 4: ["four", "4"], 5: ["five", "5"]}
GRIDS = {2: [(.28, .5), (.72, .5)], 3: [(.2, .5), (.5, .5), (.8, .5)],
         4: [(.28, .28), (.72, .28), (.28, .72), (.72, .72)],
         5: [(.22, .25), (.78, .25), (.5, .5), (.22, .75), (.78, .75)]}
GRID_SIZES = {2: .40, 3: .29, 4: .38, 5: .31}
PLURALS = {"mouse": "mice", "man": "men", "woman": "women", "person": "people", "foot": "feet",
           "tooth": "teeth", "goose": "geese", "sheep": "sheep", "fish": "fish", "leaf": "leaves",
           "wolf": "wolves", "knife": "knives", "child": "children", "ox": "oxen", "deer": "deer"}


class Table:
    """Rows of the bitmap table: pictures 0 .. n-1, then variants[(picture, colour)]."""

    def __init__(self, path):
        self.items = json.load(open(path))
        self.variants, self.sources = {}, []
        for i, r in enumerate(self.items):
            if r["subgroup"] != "shape" and r["share"] < .5:
                continue
            if r["subgroup"].startswith(("face", "hand", "person", "emotion")):
                continue
            for colour in COLOURS:
                self.variants[(i, colour)] = len(self.items) + len(self.sources)
                self.sources.append((i, colour))
        self.colourable = sorted({i for i, _ in self.sources
                                  if self.items[i]["subgroup"] != "shape"})
        self.shapes = [i for i, r in enumerate(self.items) if r["subgroup"] == "shape"]
        self.emoji = [i for i, r in enumerate(self.items) if r["subgroup"] != "shape"]
        self.weights = [self.items[i]["weight"] for i in self.emoji]
        self.colour_weights = [self.items[i]["weight"] for i in self.colourable]

    def __len__(self):
        return len(self.items) + len(self.sources)


def held_out(*words):
    return hashlib.md5("|".join(words).encode()).digest()[0] < 26  # 26/256, a tenth


def article(rng, phrase):
    kind = rng.random()
    if kind < .15:
        return phrase
    if kind < .22:
        return "the " + phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def plural(name):
    head, of, tail = name.partition(" of ")
    words = head.split(" ")
    last = words[-1]
    if last in PLURALS:
        last = PLURALS[last]
    elif last.endswith(("s", "x", "ch", "sh", "z")):
        last += "" if last.endswith(("glasses", "jeans", "shorts", "socks", "fries")) else "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join(words[:-1] + [last]) + of + tail


class Object:
    """One thing to draw: its row, and the words for it."""

    def __init__(self, table, rng, colour_share=.5, shape_share=.12, many=False):
        while True:
            self.colour = None
            if rng.random() < shape_share:
                item = rng.choice(table.shapes)
                self.colour = rng.choice(list(COLOURS))
            elif rng.random() < colour_share:
                item = rng.choices(table.colourable, table.colour_weights)[0]
                self.colour = rng.choice(list(COLOURS))
            else:
                item = rng.choices(table.emoji, table.weights)[0]
            self.item, r = item, table.items[item]
            if self.colour is None or not held_out(r["name"], self.colour):
                break
        self.name, self.row, self.size = r["name"], item, None
        kind = rng.random()
        names, words = r["names"], r["words"]
        noun = names[0] if kind < .65 or not words else rng.choice(names)
        if kind > .95 and words and not many:
            noun = rng.choice(words)
        if many:
            noun = plural(noun)
        if self.colour:
            self.row = table.variants[(item, self.colour)]
            said = "gray" if self.colour == "grey" and rng.random() < .5 else self.colour
            noun = said + " " + noun
        if rng.random() < .08:
            noun = rng.choice(FILLERS) + " " + noun
        self.noun = noun

    def sized(self, rng, base):
        """Adds a size word now and then; gives the object's side."""
        if rng.random() < .15:
            word = rng.choice(list(SIZES))
            self.noun = word + " " + self.noun
            return SIZES[word] * rng.uniform(.95, 1.05) * base / .72
        return base * rng.uniform(.9, 1.1)


def pastel(rng):
    if rng.random() < .5:
        return (255, 255, 255)
    return tuple(int(255 - (255 - c) * rng.uniform(.12, .35))
                 for c in rng.choice(list(BACKGROUNDS.values())))


def background(rng, names):
    """(words, background) that is not held out for any of the names."""
    kind = rng.random()
    if kind < .45:
        return "", [1, *pastel(rng), 0]
    while True:
        if kind < .75:
            colour = rng.choice(list(BACKGROUNDS))
            if any(held_out(n, "background", colour) for n in names):
                continue
            said = "gray" if colour == "grey" and rng.random() < .5 else colour
            rgb = [min(255, max(0, c + rng.uniform(-9, 9))) for c in BACKGROUNDS[colour]]
            form = rng.choice(["on a %s background", "on a %s background", "on %s",
                               "with a %s background", "in front of a %s background",
                               "%s background", "against a %s wall"])
            return form % said, [0, *rgb, 0]
        scene = rng.randrange(len(SCENES))
        if any(held_out(n, "scene", SCENES[scene]) for n in names):
            continue
        return rng.choice(SCENE_WORDS[SCENES[scene]]), [2, 0, 0, 0, scene]


def single(table, rng):
    o = Object(table, rng)
    x, y, side = .5, .5, .72
    words, back = background(rng, [o.name])
    place = ""
    if rng.random() < .22:
        place = rng.choice(list(PLACES))
        x, y = PLACES[place]
        side = .46 if (x, y) != (.5, .5) else .6
    side = min(.95, o.sized(rng, side))
    if back[0] == 2 and not place:
        y = .56
    x += rng.uniform(-.03, .03)
    y += rng.uniform(-.03, .03)
    return join(rng, article(rng, o.noun), place, words), back, [[o.row, x, y, side]]


PAIRS = [("%s and %s", "side"), ("%s and %s", "side"), ("%s next to %s", "side"),
         ("%s beside %s", "side"), ("%s with %s", "side"), ("%s to the left of %s", "side"),
         ("%s left of %s", "side"), ("%s to the right of %s", "swap"), ("%s right of %s", "swap"),
         ("%s above %s", "up"), ("%s on top of %s", "up"), ("%s over %s", "up"),
         ("%s below %s", "down"), ("%s under %s", "down")]


def pair(table, rng):
    while True:
        a, b = Object(table, rng), Object(table, rng)
        if a.item != b.item and not held_out(*sorted((a.name, b.name))):
            break
    form, kind = rng.choice(PAIRS)
    size = rng.uniform(.43, .49)
    first, second = {"side": ((.27, .5), (.73, .5)), "swap": ((.73, .5), (.27, .5)),
                     "up": ((.5, .27), (.5, .73)), "down": ((.5, .73), (.5, .27))}[kind]
    words, back = background(rng, [a.name, b.name])
    slots = [[o.row, x + rng.uniform(-.02, .02), y + rng.uniform(-.02, .02), size]
             for o, (x, y) in ((a, first), (b, second))]
    return join(rng, form % (article(rng, a.noun), article(rng, b.noun)), "", words), back, slots


def several(table, rng):
    o = Object(table, rng, shape_share=.3, many=True)
    n = rng.randint(2, 5)
    words, back = background(rng, [o.name])
    side = GRID_SIZES[n] * rng.uniform(.9, 1.1)
    slots = [[o.row, x + rng.uniform(-.015, .015), y + rng.uniform(-.015, .015), side]
             for x, y in GRIDS[n]]
    return join(rng, rng.choice(COUNTS[n]) + " " + o.noun, "", words), back, slots


def triple(table, rng):
    while True:
        o = [Object(table, rng) for _ in range(3)]
        names = [x.name for x in o]
        if len({x.item for x in o}) == 3 and not any(
                held_out(*sorted((names[i], names[j]))) for i in range(3) for j in range(i)):
            break
    words, back = background(rng, names)
    side = rng.uniform(.27, .31)
    slots = [[x.row, px + rng.uniform(-.01, .01), py + rng.uniform(-.02, .02), side]
             for x, (px, py) in zip(o, GRIDS[3])]
    nouns = [article(rng, x.noun) for x in o]
    return join(rng, "%s, %s and %s" % tuple(nouns), "", words), back, slots


def empty_scene(table, rng):
    while True:
        words, back = background(rng, [])
        if words and back[0] == 2:
            return join(rng, rng.choice(["a landscape", "a scene", "a view"]), "", words), back, []


def join(rng, subject, place, words):
    text = subject
    if rng.random() < .12:
        text = rng.choice(MEDIA) + " " + text
    parts = [p for p in (place, words) if p]
    if len(parts) == 2 and rng.random() < .4:
        parts.reverse()
    for p in parts:
        text += ("" if rng.random() < .8 else ",") + " " + p
    if rng.random() < .1:
        text = text[0].upper() + text[1:]
    if rng.random() < .06:
        text += "."
    return text


KINDS = [(single, .58), (pair, .22), (several, .14), (triple, .04), (empty_scene, .02)]


def sample(table, rng):
    return rng.choices([k for k, _ in KINDS], [w for _, w in KINDS])[0](table, rng)


def specification(table, count, seed):
    """(texts, backgrounds [N, 5], slots [N, 5, 4] with row -1 where unused)."""
    import numpy as np
    rng = random.Random(seed)
    texts, backs = [], np.zeros((count, 5), np.float32)
    slots = np.zeros((count, 5, 4), np.float32)
    slots[:, :, 0] = -1
    for i in range(count):
        text, back, objects = sample(table, rng)
        texts.append(text)
        backs[i] = back
        for k, o in enumerate(objects):
            slots[i, k] = o
    return texts, backs, slots


if __name__ == "__main__":
    import sys
    import time
    t = Table(sys.argv[1] + "/emoji.json")
    print(len(t), "rows,", len(t.colourable), "objects take colours")
    r = random.Random(1)
    for _ in range(60):
        print(sample(t, r)[0])
    start = time.time()
    specification(t, 5000, 1)
    print("%.0f prompts/s" % (5000 / (time.time() - start)))
