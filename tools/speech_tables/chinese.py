"""chinese.bin: words with frequency, word class and readings; hmm.bin: models that cut and tag unknown words.

Little-endian; characters are code points U+4E00..U+9FA5 (FIRST..LAST). A reading is u16: syllable * 5 + tone - 1.

chinese.bin:
    "MZH1", u32 words, u32 blocks, u32 characters, u32 syllables, u32 classes, u32 traditional
    syllables * 8 bytes       names, zero-padded: "zhuang", "lv"
    classes * 4 bytes         word classes, zero-padded: "n", "nrt"
    characters * u16          by frequency in the words; words name them by this rank
    (LAST - FIRST + 2) * u16  where the readings of each character begin
    readings * u16            the usual one first
    traditional * {u16, u16}  traditional and simplified character, sorted
    (blocks + 1) * u32        where each block of 32 words begins, from the start of the file
    blocks: words in order    u8 shared << 5 | (new - 1) << 2 | 2: readings follow
                              new characters: rank < 160 one byte; else 160 + (rank - 160) / 256, low byte
                              u8 frequency: f < 128 itself, else 128 + log scale; u8 class
                              readings: u8 more << 7 | place << 4 | which of the character's readings
hmm.bin:
    "MZM1", u32 characters of the cutter, u32 characters of the tagger, u32 states, u32 transitions, u32 emissions
    u16 start[4], trans[4][4] of B E M S, as i16 milli-nats; -32768: never
    characters * {u16, i16[4]}
    states * {u8 place BEMS, u8 0, 4 bytes class, i16 start}
    transitions * {u8 from, u8 to, i16}  sorted
    tagger characters * {u16, u16 count} sorted; emissions * {u8 state, i16} in that order
"""
import json
import math
import re
import struct
import unicodedata
from collections import Counter

FIRST, LAST = 0x4E00, 0x9FA5
BLOCK, LONGEST = 32, 8
TOP_FREQUENCY = 883634
TONES = {"\u0304": 1, "\u0301": 2, "\u030c": 3, "\u0300": 4}


def in_range(text):
    return all(FIRST <= ord(c) <= LAST for c in text)


def plain(syllable):
    """nǚ -> ("nv", 3); a syllable without a mark has tone 5."""
    tone, letters = 5, ""
    for c in unicodedata.normalize("NFD", syllable):
        if c in TONES:
            tone = TONES[c]
        elif c == "\u0308":
            letters = letters[:-1] + "v"
        elif c == "\u0302":
            continue
        else:
            letters += c
    return letters.replace("ü", "v"), tone


def valid(reading):
    return re.fullmatch(r"[a-z]{1,6}", reading[0]) and reading[0] not in ("hm", "hng", "m", "n", "ng", "ê")


# Readings that the package has wrong.
MENDED = {"为人": "wéi rén", "相差": "xiāng chà", "穿着": "chuān zhe", "吃过饭": "chī guo fàn"}
# Words that are phrases: their parts are read better one by one.
LEFT_OUT = {"地走了"}


class Pinyin:
    def __init__(self, folder):
        data = json.load(open(f"{folder}/pinyin-pro-data-1.3.1/json/complete.json", encoding="utf-8"))
        self.words = {w: [plain(s) for s in p[0].split()] for w, p in data.items() if in_range(w)}
        self.words.update({w: [plain(s) for s in p.split()] for w, p in MENDED.items()})
        self.words = {w: p for w, p in self.words.items() if len(p) == len(w)}
        self.readings = {}
        for w, p in self.words.items():
            if len(w) == 1:
                self.readings[w] = [p[0]]
        script = open(f"{folder}/pinyin-pro-3.29.4/dist/index.js", encoding="utf-8").read()
        for syllables, chars in re.findall(r'"([^"]{1,40})":\[((?:"[^"]+",?)+)\]', script):
            for c in re.findall("[\u4e00-\u9fa5]", chars):  # "xíng háng": ["行", ...]
                for s in syllables.split():
                    self.add(c, plain(s))
        for w, p in self.words.items():
            for c, reading in zip(w, p):
                self.add(c, reading)

    def add(self, char, reading):
        have = self.readings.setdefault(char, [])
        if reading not in have and valid(reading) and len(have) < 16:
            have.append(reading)

    def of(self, word):
        """Readings of a word without the sandhi of 一 and 不, which the rules apply; None: unknown."""
        p = self.words.get(word)
        if p is None:
            return None
        fixed = {"一": ("yi", 1), "不": ("bu", 4)}
        return [fixed.get(c, r) for c, r in zip(word, p)]


def frequency_code(f):
    if f < 128:
        return f
    return 128 + round(127 * math.log(f / 128) / math.log(TOP_FREQUENCY / 128))


def read_words(folder):
    words = {}
    for line in open(f"{folder}/nodejieba-3.5.8/submodules/cppjieba/dict/jieba.dict.utf8", encoding="utf-8"):
        word, f, tag = line.split()
        if in_range(word) and len(word) <= LONGEST and int(f) > 0 and word not in LEFT_OUT:
            words[word] = (int(f), tag)
    return words


def read_traditional(folder):
    script = open(f"{folder}/opencc-js-1.4.2/dist/esm-lib/dict/TSCharacters.js", encoding="utf-8").read()
    pairs = []
    for pair in re.search(r'"(.*)"', script)[1].split("|"):
        a, b = pair.split(" ")[:2]
        if in_range(a + b) and len(a) == len(b) == 1 and a != b:
            pairs.append((ord(a), ord(b)))
    return sorted(pairs)


def exceptions(word, readings, pinyin):
    """(place, index) where a character is not read as usual."""
    out = []
    for place, (char, reading) in enumerate(zip(word, readings)):
        have = pinyin.readings.get(char, [])
        if have and reading in have and reading != have[0]:
            out.append((place, have.index(reading)))
    return out


def encode_word(word, shared, entry, ranks, classes, pinyin):
    f, tag = entry
    readings = pinyin.of(word)
    odd = exceptions(word, readings, pinyin) if readings and len(word) > 1 else []
    out = bytes([shared << 5 | (len(word) - shared - 1) << 2 | (2 if odd else 0)])
    for char in word[shared:]:
        rank = ranks[char]
        out += bytes([rank]) if rank < 160 else bytes([160 + ((rank - 160) >> 8), (rank - 160) & 255])
    out += bytes([frequency_code(f), classes.index(tag)])
    for i, (place, which) in enumerate(odd):
        out += bytes([(i < len(odd) - 1) << 7 | place << 4 | which])
    return out


def chinese_table(folder):
    words, pinyin = read_words(folder), Pinyin(folder)
    counts = Counter(c for w in words for c in w)
    chars = [c for c, _ in counts.most_common()]
    ranks = {c: i for i, c in enumerate(chars)}
    classes = sorted({tag for _, tag in words.values()})
    syllables = sorted({r[0] for have in pinyin.readings.values() for r in have if valid(r)})
    number = {s: i for i, s in enumerate(syllables)}
    order = sorted(words)
    blocks = []
    for at in range(0, len(order), BLOCK):
        block, last = b"", ""
        for word in order[at : at + BLOCK]:
            shared = 0
            while shared < min(len(last), len(word) - 1, 7) and last[shared] == word[shared]:
                shared += 1
            block += encode_word(word, shared, words[word], ranks, classes, pinyin)
            last = word
        blocks.append(block)
    starts, readings = [], []
    for code in range(FIRST, LAST + 1):
        starts.append(len(readings))
        readings += [number[s] * 5 + t - 1 for s, t in pinyin.readings.get(chr(code), []) if valid((s, t))]
    starts.append(len(readings))
    traditional = read_traditional(folder)
    head = b"MZH1" + struct.pack("<6I", len(words), len(blocks), len(chars), len(syllables), len(classes), len(traditional))
    head += b"".join(s.encode().ljust(8, b"\0") for s in syllables) + b"".join(c.encode().ljust(4, b"\0") for c in classes)
    for numbers in ([ord(c) for c in chars], starts, readings, [x for pair in traditional for x in pair]):
        head += struct.pack(f"<{len(numbers)}H", *numbers)
    offset, offsets = len(head) + 4 * (len(blocks) + 1), []
    for block in blocks:
        offsets.append(offset)
        offset += len(block)
    return head + struct.pack(f"<{len(blocks) + 1}I", *offsets, offset) + b"".join(blocks)


# ---- models of unknown words ----


def milli(p):
    return -32768 if p < -32 else round(p * 1000)


def read_cutter(folder):
    path = f"{folder}/nodejieba-3.5.8/submodules/cppjieba/dict/hmm_model.utf8"
    lines = [line.strip() for line in open(path, encoding="utf-8") if line.strip() and not line.startswith("#")]
    start = [milli(float(x)) for x in lines[0].split()]
    trans = [[milli(float(x)) for x in line.split()] for line in lines[1:5]]
    emit = {}
    for state, line in enumerate(lines[5:9]):
        for item in line.split(","):
            char, p = item.rsplit(":", 1)
            if in_range(char):
                emit.setdefault(char, [-32768] * 4)[state] = milli(float(p))
    return start, trans, emit


def read_tagger(folder):
    base = f"{folder}/nodejieba-3.5.8/submodules/cppjieba/dict/pos_dict"
    lines = lambda name: [x.rstrip("\n") for x in open(f"{base}/{name}", encoding="utf-8") if x.strip() and not x.startswith("#")]
    start = {line.rsplit(":", 1)[0]: milli(float(line.rsplit(":", 1)[1])) for line in lines("prob_start.utf8")}
    trans = {}
    for line in lines("prob_trans.utf8"):
        a, b, p = line.split(":")
        trans[a, b] = milli(float(p))
    emit = {}
    for line in lines("prob_emit.utf8"):
        state, rest = line.split(":", 1)
        for item in rest.split(";"):
            if item.count(",") == 1:
                char, p = item.split(",")
                if len(char) == 1 and in_range(char):
                    emit.setdefault(char, {})[state] = milli(float(p))
    return start, trans, emit


def hmm_table(folder):
    start, trans, emit = read_cutter(folder)
    tag_start, tag_trans, tag_emit = read_tagger(folder)
    used = {s for have in tag_emit.values() for s in have}
    states = sorted(s for s in tag_start if s in used)
    number = {s: i for i, s in enumerate(states)}
    links = sorted((number[a], number[b], p) for (a, b), p in tag_trans.items() if a in number and b in number)
    emissions = [(number[s], p) for c in sorted(tag_emit) for s, p in sorted(tag_emit[c].items()) if s in number]
    assert len(states) <= 255
    out = b"MZM1" + struct.pack("<5I", len(emit), len(tag_emit), len(states), len(links), len(emissions))
    out += struct.pack("<20h", *start, *(x for row in trans for x in row))
    out += b"".join(struct.pack("<H4h", ord(c), *emit[c]) for c in sorted(emit))
    for state in states:
        place, tag = state.split(",")
        out += struct.pack("<BB4sh", "BEMS".index(place), 0, tag.encode()[:4], tag_start[state])
    out += b"".join(struct.pack("<BBh", *link) for link in links)
    out += b"".join(struct.pack("<HH", ord(c), len([s for s in tag_emit[c] if s in number])) for c in sorted(tag_emit))
    return out + b"".join(struct.pack("<Bh", *e) for e in emissions)


def main(folder, out):
    for name, table in (("chinese.bin", chinese_table(folder)), ("hmm.bin", hmm_table(folder))):
        open(f"{out}/{name}", "wb").write(table)
        print(name, len(table))


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
