"""WordNet's data files as short documents: entries of a dictionary, and questions with answers.

    record   {"w": words, "p": "noun", "g": gloss, "x": examples, "k": kind of, "c": how often tagged}
    entry    dog (noun): a member of the genus Canis ... "the dog barked all night" Also: domestic dog.
    chat     <s> [INST] What is a dog? [/INST] A dog is a member of the genus Canis ...</s>

Common words come up more often than rare ones; every 50th synset is held out whole.

usage: dictionary.py WORDNET_FOLDER OUT.jsonl
"""
import json
import random
import re
import sys

POS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
FILES = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
BOS, EOS = "<s>", "</s>"


def read_senses(folder):
    """Offsets of a word's senses by (word, file letter), the commonest first."""
    senses = {}
    for name, letter in FILES.items():
        with open(folder + "/index." + name) as f:
            for line in f:
                if line.startswith(" "):
                    continue
                t = line.split()
                pointers = int(t[3])
                senses[t[0], letter] = [int(o) for o in t[6 + pointers:]]
    return senses


def read_counts(folder):
    """How often a synset was tagged in texts, by (file letter, offset)."""
    senses, counts = read_senses(folder), {}
    with open(folder + "/cntlist.rev") as f:
        for line in f:
            key, number, count = line.split()
            word, rest = key.split("%", 1)
            letter = "nvara"[int(rest[0]) - 1]
            offsets = senses.get((word, letter), [])
            if int(number) <= len(offsets):
                at = (letter, offsets[int(number) - 1])
                counts[at] = counts.get(at, 0) + int(count)
    return counts


def clean(word):
    return re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ")


def split_gloss(gloss):
    """Definition, and the examples in quotation marks behind it."""
    parts = gloss.strip().split('; "')
    examples = [p.strip().strip('"').strip() for p in parts[1:]]
    definition = parts[0].strip().rstrip(";").strip()
    if definition.startswith('"'):
        return "", []
    return definition, [e for e in examples if 2 < len(e.split()) < 20 and '"' not in e][:2]


def read_records(folder):
    counts = read_counts(folder)
    words, records = {}, []
    for name, letter in FILES.items():
        with open(folder + "/data." + name) as f:
            for line in f:
                if line.startswith(" "):
                    continue
                data, gloss = line.split(" | ", 1)
                t = data.split()
                n = int(t[3], 16)
                lemmas = [clean(w) for w in t[4:4 + 2 * n:2]]
                rest = t[4 + 2 * n + 1:]
                kind = [(rest[i + 2], int(rest[i + 1])) for i in range(0, len(rest) - 3, 4)
                        if rest[i] in ("@", "@i")] if letter in "nv" else []
                at = (letter, int(t[0]))
                words[at] = lemmas
                definition, examples = split_gloss(gloss)
                if definition and definition.isascii():
                    records.append({"at": at, "w": lemmas[:4], "p": POS[t[2]], "g": definition,
                                    "x": examples, "kind": kind[:1], "c": counts.get(at, 0)})
    for r in records:
        r["k"] = words[r["kind"][0]][0] if r["kind"] else ""
        del r["kind"], r["at"]
    return records


# ------------------------------------------------------------------------ documents

def article(word):
    if word[0].isupper():
        return word
    return ("an " if word[0] in "aeiou" else "a ") + word


def bare(word):
    return re.sub(r"^(a|an|the) ", "", word)


def sentence(text):
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def entry(r, rng):
    text = "%s (%s): %s." % (r["w"][0], r["p"], r["g"])
    if r["x"]:
        text += ' "%s"' % rng.choice(r["x"])
    if len(r["w"]) > 1:
        text += " Also: %s." % ", ".join(r["w"][1:])
    return text


def explain(r, rng):
    w, g = r["w"][0], r["g"]
    if r["p"] == "noun":
        text = "%s is %s." % (sentence(article(w))[:-1] if not w[-1:] == "." else article(w), g)
    elif r["p"] == "verb":
        text = "To %s is to %s." % (w, bare(g))
    else:
        text = 'The word "%s" means %s.' % (w, g)
    if r["x"] and rng.random() < .8:
        text += " For example: %s" % sentence(rng.choice(r["x"]))
    if len(r["w"]) > 1 and rng.random() < .5:
        text += " Another word for it is %s." % r["w"][1]
    elif r["k"] and r["p"] == "noun" and rng.random() < .4:
        text += " It is a kind of %s." % r["k"]
    return text


def question(r, rng):
    w = r["w"][0]
    if r["p"] == "noun":
        return rng.choice(["What is %s?" % article(w), "What is %s?" % article(w), 'What does "%s" mean?' % w,
                           "Define %s." % w, "Explain the word %s." % w, "what is %s" % article(w),
                           "Tell me what %s is." % article(w)])
    if r["p"] == "verb":
        return rng.choice(["What does it mean to %s?" % w, "What does \"%s\" mean?" % w, "Define %s." % w,
                           "What is the meaning of the verb %s?" % w])
    return rng.choice(["What does \"%s\" mean?" % w, "What does %s mean?" % w, "Define %s." % w,
                       "What is the meaning of %s?" % w])


def turn(r, rng):
    roll = rng.random()
    if r["x"] and roll < .12:
        return 'Use "%s" in a sentence.' % r["w"][0], sentence(rng.choice(r["x"]))
    if len(r["w"]) > 1 and roll < .24:
        a, b = rng.sample(r["w"], 2)
        return rng.choice(["What is another word for %s?" % a, "Give a synonym of %s." % a]), \
            "Another word for %s is %s." % (a, b)
    if r["k"] and r["p"] == "noun" and roll < .32:
        return "What kind of thing is %s?" % article(r["w"][0]), \
            "%s is a kind of %s: %s." % (sentence(article(r["w"][0]))[:-1], r["k"], r["g"])
    return question(r, rng), explain(r, rng)


def chat(rs, rng):
    turns = [turn(r, rng) for r in rs]
    return BOS + "".join(" [INST] %s [/INST] %s%s" % (q, a, EOS) for q, a in turns)


def documents(records, rng, common):
    """One pass: each record at least once; the common ones `common` times more."""
    order = []
    for r in records:
        order += [r] * (1 + (common if r["c"] > 0 else 0) + (common if r["c"] > 4 else 0) +
                        (common if r["c"] > 30 else 0))
    rng.shuffle(order)
    i = 0
    while i < len(order):
        roll = rng.random()
        if roll < .3:
            yield BOS + " " + entry(order[i], rng) + EOS
        elif roll < .4:
            yield BOS + " " + explain(order[i], rng) + EOS
        else:
            n = 1 if roll < .8 else 2
            yield chat(order[i:i + n], rng)
            i += n - 1
        i += 1


def load(path):
    with open(path) as f:
        records = [json.loads(line) for line in f]
    held = [r for i, r in enumerate(records) if i % 50 == 17]
    return [r for i, r in enumerate(records) if i % 50 != 17], held


if __name__ == "__main__":
    records = read_records(sys.argv[1])
    random.Random(1).shuffle(records)
    with open(sys.argv[2], "w") as f:
        for r in records:
            f.write(json.dumps(r, ensure_ascii=False) + "\n")
    print("%d synsets" % len(records))
