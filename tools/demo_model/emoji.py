"""Chooses the pictures the demo model learns, names them and renders them to bitmaps.

    emoji-test.txt (unicode-data) --+
    annotations en (unicode-cldr) --+--> emoji.json  names, words, weight, main hue per picture
    NotoColorEmoji.ttf -------------+--> emoji.npz   [N, 128, 128, 4] uint8, straight alpha

Simple shapes (circle, star, ...) are drawn here, not taken from the font. Nothing of this is
committed: the tree holds the trained weights only.

usage: emoji.py OUT_FOLDER
"""
import colorsys
import json
import math
import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
EMOJI_TEST = "/usr/share/unicode/emoji/emoji-test.txt"
ANNOTATIONS = ["/usr/share/unicode/cldr/common/annotations/en.xml",
               "/usr/share/unicode/cldr/common/annotationsDerived/en.xml"]
SIZE = 128

# Weight of a subgroup: how often one of its pictures is drawn. Absent: not learned.
WEIGHTS = {
    "face-smiling": .7, "face-affection": .6, "face-tongue": .6, "face-hand": .5,
    "face-neutral-skeptical": .4, "face-sleepy": .5, "face-unwell": .5, "face-hat": .8,
    "face-glasses": .8, "face-concerned": .4, "face-negative": .7, "face-costume": 1.2,
    "cat-face": .5, "monkey-face": .5, "heart": .4, "emotion": .4,
    "hand-fingers-open": .2, "hand-fingers-partial": .3, "hand-single-finger": .2,
    "hand-fingers-closed": .4, "hands": .4, "body-parts": .5, "person": .5, "person-role": .6,
    "person-fantasy": .6, "animal-mammal": 1.6, "animal-bird": 1.5, "animal-amphibian": 1.6,
    "animal-reptile": 1.5, "animal-marine": 1.4, "animal-bug": 1.2, "plant-flower": 1.2,
    "plant-other": 1.1, "food-fruit": 1.6, "food-vegetable": 1.3, "food-prepared": 1.2,
    "food-asian": .8, "food-sweet": 1.2, "drink": 1., "dishware": .8, "place-map": .5,
    "place-geographic": .9, "place-building": .8, "place-religious": .5, "place-other": .7,
    "transport-ground": 1.1, "transport-water": 1.1, "transport-air": 1.1, "hotel": .7,
    "time": .8, "sky & weather": .9, "event": .8, "award-medal": .6, "sport": .9, "game": .8,
    "arts & crafts": .7, "clothing": 1., "sound": .4, "music": .6, "musical-instrument": 1.1,
    "phone": .7, "computer": .8, "light & video": .8, "book-paper": .7, "money": .7, "mail": .4,
    "writing": .8, "office": .5, "lock": .8, "tool": .9, "science": .8, "medical": .7,
    "household": .9, "other-object": .4,
}
# Single pictures of subgroups that are otherwise left out.
EXTRA = {"warning", "no entry", "radioactive", "biohazard", "recycling symbol", "check mark",
         "cross mark", "peace symbol", "yin yang", "infinity", "red question mark",
         "red exclamation mark", "pirate flag", "rainbow flag", "chequered flag", "white flag",
         "black flag", "right arrow", "left arrow", "up arrow", "down arrow", "person surfing",
         "person biking", "person running", "person swimming", "woman dancing", "ballet dancer",
         "person in lotus position", "skier", "snowboarder", "footprints", "fingerprint",
         "family", "trident emblem", "sparkle"}
# Left out: near-copies of others, or pictures of writing.
SKIP = {"map of Japan", "love hotel", "Japanese post office", "derelict house", "men’s room",
        "heart exclamation", "dotted line face", "fight cloud", "new moon", "waxing crescent moon",
        "first quarter moon", "waxing gibbous moon", "waning gibbous moon", "last quarter moon",
        "waning crescent moon", "white heart", "grey heart", "black heart", "brown heart",
        "light blue heart", "purple heart", "green heart", "blue heart", "yellow heart",
        "orange heart", "pink heart", "globe showing Asia-Australia", "globe showing Americas",
        "oncoming bus", "oncoming police car", "oncoming taxi", "oncoming automobile",
        "station", "bus stop", "middle finger", "grinning cat with smiling eyes",
        "2nd place medal", "3rd place medal", "left speech bubble", "right anger bubble",
        "eye in speech bubble", "hundred points", "anger symbol", "speaker low volume",
        "speaker medium volume", "muted speaker", "bell with slash", "open mailbox with raised flag",
        "open mailbox with lowered flag", "closed mailbox with lowered flag", "incoming envelope",
        "envelope with arrow", "outbox tray", "inbox tray", "mobile phone with arrow",
        "magnifying glass tilted right", "dvd", "yen banknote", "euro banknote", "pound banknote",
        "chart increasing with yen", "locked with pen", "locked with key", "person: beard",
        "Mx Claus", "placard", "nazar amulet", "hamsa", "funeral urn", "cigarette", "seat",
        "head shaking horizontally", "head shaking vertically", "distorted face", "orca",
        "hairy creature", "landslide", "treasure chest", "trombone", "rightwards hand",
        "leftwards hand", "palm down hand", "palm up hand", "leftwards pushing hand",
        "rightwards pushing hand", "raised back of hand", "kissing face with closed eyes",
        "kissing face with smiling eyes", "woman’s sandal", "umbrella with rain drops",
        "sun behind small cloud", "sun behind large cloud", "camera with flash", "page with curl",
        "notebook with decorative cover", "military medal", "linked paperclips", "trolleybus",
        "railway car", "high-speed train", "light rail", "tram car", "mountain railway",
        "suspension railway", "mountain cableway", "aerial tramway", "motorway", "card index",
        "spiral notepad", "file cabinet", "card file box", "tear-off calendar", "bookmark tabs",
        "white cane", "hiking boot", "Tokyo tower", "kaaba", "pine decoration", "tanabata tree",
        "moon viewing ceremony", "flower playing cards", "mahjong red dragon", "heart with arrow",
        "revolving hearts", "two hearts", "beating heart", "mending heart", "heart decoration"}
# Everyday words the annotations lack or bury; the first counts as the picture's chief name.
ALIASES = {
    "automobile": ["car"], "red apple": ["apple"], "tangerine": ["orange fruit", "tangerine"],
    "honeybee": ["bee"], "hot beverage": ["cup of coffee", "coffee", "cup of tea"],
    "lady beetle": ["ladybug"], "ear of corn": ["corn"], "evergreen tree": ["pine tree", "fir tree"],
    "deciduous tree": ["tree"], "T-Rex": ["t-rex", "dinosaur"], "sauropod": ["dinosaur"],
    "bicycle": ["bicycle", "bike"], "airplane": ["airplane", "plane"], "hamburger": ["hamburger",
    "burger"], "soccer ball": ["soccer ball", "football"], "red heart": ["heart emoji"],
    "glowing star": ["glowing star", "shining star"], "closed umbrella": ["closed umbrella"],
    "racing car": ["racing car", "race car"], "fire engine": ["fire truck", "fire engine"],
    "mobile phone": ["phone", "mobile phone", "smartphone"], "laptop": ["laptop", "computer"],
    "television": ["television", "tv"], "wrapped gift": ["gift", "present"], "locked": ["lock",
    "padlock"], "beer mug": ["beer", "mug of beer"], "wine glass": ["glass of wine", "wine"],
    "snow-capped mountain": ["mountain", "snowy mountain"], "jack-o-lantern": ["pumpkin",
    "jack-o-lantern"], "graduation cap": ["graduation cap"], "t-shirt": ["t-shirt", "shirt"],
    "pile of poo": ["poop", "pile of poo"], "flying saucer": ["ufo", "flying saucer"],
    "alien monster": ["space invader", "alien monster"], "doughnut": ["donut", "doughnut"],
    "steaming bowl": ["bowl of noodles", "ramen"], "cooking": ["fried egg"], "potted plant":
    ["potted plant", "plant"], "crescent moon": ["moon", "crescent moon"], "magnifying glass tilted left":
    ["magnifying glass"], "smiling face with sunglasses": ["face with sunglasses", "cool face"],
    "grinning face": ["grinning face", "happy face", "smiley"], "crying face": ["crying face", "sad face"],
    "enraged face": ["angry red face"], "angry face": ["angry face"], "horizontal traffic light":
    ["horizontal traffic light"], "vertical traffic light": ["traffic light"], "front-facing baby chick":
    ["chick", "baby chick"], "spouting whale": ["whale"], "two-hump camel": ["camel"], "ewe": ["sheep", "ewe"],
    "bullet train": ["bullet train"], "train": ["train"], "couch and lamp": ["couch", "sofa"],
    "person with crown": ["king"], "artist palette": ["paint palette", "palette"], "closed book":
    ["book", "red book"], "fork and knife": ["fork and knife"], "birthday cake": ["birthday cake",
    "cake"], "soft ice cream": ["ice cream cone", "ice cream"], "fire": ["fire", "flame"],
    "droplet": ["water drop", "drop of water"], "high voltage": ["lightning bolt", "lightning"],
    "globe showing Europe-Africa": ["earth", "globe"], "studio microphone": ["studio microphone"],
    "green salad": ["salad"], "hot pepper": ["chili pepper", "hot pepper"], "eggplant": ["eggplant",
    "aubergine"], "snowman without snow": ["snowman"], "delivery truck": ["truck", "delivery truck"],
    "motor scooter": ["scooter"], "passenger ship": ["cruise ship"], "glass of milk": ["glass of milk",
    "milk"], "bouquet": ["bouquet of flowers", "flowers"], "rose": ["rose", "red rose"], "hibiscus":
    ["hibiscus", "flower"], "french fries": ["french fries", "fries"], "spiral shell": ["shell",
    "seashell"], "old man": ["old man", "grandfather"], "old woman": ["old woman", "grandmother"],
    "Santa Claus": ["santa claus", "santa"], "baby angel": ["angel"], "mage": ["wizard", "mage"],
    "merperson": ["mermaid"], "cook": ["chef", "cook"], "health worker": ["doctor"], "money bag":
    ["bag of money"], "dollar banknote": ["money", "dollar bills"], "game die": ["dice", "die"],
    "pool 8 ball": ["eight ball"], "baguette bread": ["baguette"], "mantelpiece clock": ["clock"],
    "woman’s boot": ["boot"], "woman’s hat": ["sun hat"], "running shoe": ["sneaker", "shoe",
    "running shoe"], "video game": ["game controller", "gamepad"], "shopping cart": ["shopping cart"],
    "cut of meat": ["steak"], "poultry leg": ["chicken leg"], "wind face": ["wind"],
    "bow and arrow": ["bow and arrow"], "house": ["house"], "tropical fish": ["tropical fish"],
}
SHAPES = ["circle", "square", "triangle", "star", "heart", "diamond", "hexagon", "cross", "ring"]
NO_COUNT = {"face-smiling", "face-concerned"}


def read_annotations():
    """{emoji: (short name, [keywords])}"""
    names, words = {}, {}
    for path in ANNOTATIONS:
        for a in ElementTree.parse(path).iter("annotation"):
            if a.get("type") == "tts":
                names[a.get("cp")] = a.text
            else:
                words[a.get("cp")] = [w.strip() for w in a.text.split("|")]
    return {k: (names.get(k), words.get(k, [])) for k in names}


def choose():
    """Yields (emoji, name, keywords, subgroup, weight) in the order of emoji-test.txt."""
    annotations = read_annotations()
    subgroup = None
    for line in open(EMOJI_TEST, encoding="utf-8"):
        if line.startswith("# subgroup:"):
            subgroup = line.split(":", 1)[1].strip()
        m = re.match(r"^([0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (.*)", line)
        if not m:
            continue
        text, name = "".join(chr(int(c, 16)) for c in m[1].split()), m[2].strip()
        if "skin tone" in name or name in SKIP or "thirty" in name or "o’clock" in name:
            continue
        if re.match(r"(man|woman|men|women)\b", name) and subgroup not in ("person", "clothing"):
            if name not in EXTRA:
                continue
        if ":" in name or "facing right" in name:
            continue
        weight = WEIGHTS.get(subgroup, .4 if name in EXTRA else None)
        if weight is None:
            continue
        words = annotations.get(text.replace("\ufe0f", ""), (name, []))[1]
        yield text, name, words, subgroup, weight


def plain(word):
    """What a person types: lower case, plain apostrophes."""
    return word.replace("’", "'").replace("“", "").replace("”", "").lower().strip()


def add_words(rows):
    """Chief name, further names and shared keywords of every row."""
    uses = {}
    for r in rows:
        first = [plain(a) for a in ALIASES.get(r["cldr"], [])]
        name = plain(r["cldr"])
        names = first + ([name] if name not in first else [])
        if name.endswith(" face") and r["subgroup"].startswith("animal"):
            names.append(name[:-5])
        r["name"], r["names"] = names[0], names
        r["words"] = [w for w in map(plain, r["words"])
                      if w not in names and re.fullmatch(r"[a-z][a-z' -]{2,24}", w)]
        for w in set(r["words"]) | set(names):
            uses[w] = uses.get(w, 0) + 1
    chief = {n for r in rows for n in r["names"]}
    for r in rows:
        r["words"] = [w for w in r["words"] if uses[w] <= 2 and w not in chief][:6]


def render_emoji(font, text):
    box = font.getbbox(text)
    side = 136
    im = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(im)
    draw.text(((side - box[2] - box[0]) / 2, (side - box[3] - box[1]) / 2), text, font=font,
              embedded_color=True)
    return im.resize((SIZE, SIZE), Image.LANCZOS), box[2] - box[0]


def star_points(n, inner):
    out = []
    for i in range(2 * n):
        r, a = (1 if i % 2 == 0 else inner), math.pi * i / n - math.pi / 2
        out.append((r * math.cos(a), r * math.sin(a)))
    return out


def heart_points():
    out = []
    for i in range(200):
        t = 2 * math.pi * i / 200
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        out.append((x / 17, -(y + 2.5) / 17))
    return out


def polygon(n, turn):
    return [(math.cos(turn + 2 * math.pi * i / n), math.sin(turn + 2 * math.pi * i / n))
            for i in range(n)]


def render_shape(name):
    """White with full alpha, 4 x 4 samples per pixel."""
    big = SIZE * 4
    mask = Image.new("L", (big, big))
    d = ImageDraw.Draw(mask)
    c, r = big / 2, big * .46
    points = {"square": [(-.86, -.86), (.86, -.86), (.86, .86), (-.86, .86)],
              "triangle": [(0, -.95), (1, .8), (-1, .8)], "star": star_points(5, .42),
              "heart": heart_points(), "diamond": [(0, -1), (.75, 0), (0, 1), (-.75, 0)],
              "hexagon": polygon(6, 0)}.get(name)
    if name in ("circle", "ring"):
        d.ellipse([c - r, c - r, c + r, c + r], fill=255)
        if name == "ring":
            d.ellipse([c - r * .58, c - r * .58, c + r * .58, c + r * .58], fill=0)
    elif name == "cross":
        d.rectangle([c - r * .3, c - r, c + r * .3, c + r], fill=255)
        d.rectangle([c - r, c - r * .3, c + r, c + r * .3], fill=255)
    else:
        d.polygon([(c + r * x, c + r * y) for x, y in points], fill=255)
    mask = mask.resize((SIZE, SIZE), Image.LANCZOS)
    out = Image.new("RGBA", (SIZE, SIZE), (255, 255, 255, 0))
    out.putalpha(mask)
    return out


def main_hue(rgba):
    """(hue in degrees, share of the opaque pixels within 35 degrees of it, mean S, mean V)."""
    a = rgba.reshape(-1, 4).astype(np.float32) / 255
    a = a[a[:, 3] > .5]
    if not len(a):
        return 0., 0., 0., 0.
    hsv = np.array([colorsys.rgb_to_hsv(*p[:3]) for p in a[::3]])
    strong = (hsv[:, 1] > .3) & (hsv[:, 2] > .25)
    if strong.sum() < 20:
        return 0., 0., 0., 0.
    hist = np.histogram(hsv[strong, 0] * 360, bins=36, range=(0, 360))[0].astype(float)
    ring = sum(np.roll(hist, s) for s in range(-3, 4))
    hue = (int(ring.argmax()) + .5) * 10
    near = strong & (np.abs((hsv[:, 0] * 360 - hue + 180) % 360 - 180) < 35)
    centre = hsv[near, 0] * 360
    hue = float((hue + np.mean((centre - hue + 180) % 360 - 180)) % 360)
    return hue, float(near.mean()), float(hsv[near, 1].mean()), float(hsv[near, 2].mean())


def main():
    out = sys.argv[1]
    font = ImageFont.truetype(FONT, 109, layout_engine=ImageFont.Layout.RAQM)
    rows, pictures = [], []
    for text, name, words, subgroup, weight in choose():
        im, width = render_emoji(font, text)
        a = np.asarray(im)
        if width > 150 or (a[..., 3] > 127).sum() < 300:
            print("left out, not one glyph:", name, width)
            continue
        hue, share, s, v = main_hue(a)
        rows.append({"emoji": text, "cldr": name, "words": words, "subgroup": subgroup,
                     "weight": weight, "hue": hue, "share": share, "s": s, "v": v})
        pictures.append(a)
    add_words(rows)
    for name in SHAPES:
        rows.append({"emoji": "", "cldr": name, "name": name + " shape", "names": [name],
                     "words": [], "subgroup": "shape", "weight": 0., "hue": 0., "share": 0.,
                     "s": 0., "v": 1.})
        pictures.append(np.asarray(render_shape(name)))
    np.savez_compressed(out + "/emoji.npz", rgba=np.stack(pictures))
    json.dump(rows, open(out + "/emoji.json", "w"), ensure_ascii=False, indent=0)
    print(len(rows), "pictures,", sum(r["share"] > .45 for r in rows), "of one main colour")


if __name__ == "__main__":
    main()
