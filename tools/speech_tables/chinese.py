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


# Readings that the package has wrong, or that are not the frequent ones.
MENDED = {
    "为人": "wéi rén", "相差": "xiāng chà", "穿着": "chuān zhe", "吃过饭": "chī guo fàn", "花都": "huā dōu", "责任田": "zé rèn tián",
    "监利": "jiàn lì", "计量": "jì liàng", "种姓": "zhǒng xìng", "划一": "huà yī", "连累": "lián lěi", "倒把": "dǎo bǎ", "背囊": "bèi náng",
    "长毛": "cháng máo", "干将": "gàn jiàng", "应手": "yìng shǒu", "坏分子": "huài fèn zǐ", "大出血": "dà chū xuè", "内出血": "nèi chū xuè",
    "血块": "xuè kuài", "空落落": "kōng luò luò", "二重": "èr chóng", "第二重": "dì èr chóng", "划界": "huà jiè", "倒卵形": "dào luǎn xíng",
    "交相": "jiāo xiāng", "馏分": "liú fèn", "首发式": "shǒu fā shì", "强逼": "qiǎng bī", "强留": "qiǎng liú", "曲柄": "qū bǐng",
    "葵扇": "kuí shàn", "扇骨": "shàn gǔ", "留空": "liú kòng", "中招": "zhòng zhāo", "妙着": "miào zhāo",
}
# Words in which 得 is what one gets. In all others that end in it, it only joins a verb to how it is done: 累得.
GETS = set("取获所难心博赢求夺自应可必贪两一既已易相安焉不习购测录偶争觅独摘捕兼复而互幸始乐值了见彼理只始暗忍巧斩智喜休乍征")
# What -得X says can be done: 用得着.
CAN = {"了": ("liao", 3), "着": ("zhao", 2), "出": ("chu", 1), "来": ("lai", 2), "到": ("dao", 4)}
# Adverbs that the word list has with their 地; its other words in 地 are places.
ADVERBS = set("""体面 假装 卑劣 反向 发狂 发呆 口头 可疑 可贵 咆哮 哀求 嘲弄 嘲笑 嘲讽 失礼 妖娆 安闲 宽大 寂静 平安 幸运 幼稚 廉价 忙忙 忿怒 恶毒 悲伤 抱怨 抽象
文雅 斥责 断然 无效 无目 松散 松松 极好 极度 楞楞 欢乐 歪歪 活泼 浪费 温煦 滑稽 滔滔 狂暴 狡猾 猜疑 着重 破旧 私下 稀疏 空洞 空闲 粗心 索索 紧要 绵绵 自夸 荫蔽
融洽 规劝 诙谐 诡秘 谆谆 贤明 贪污 起劲 足足 遥遥 闲散 隐含 静止 催眠 顾自 逆流 跳动 干练""".split())


def particles(word, readings):
    """得 and 地 where they are particles."""
    if len(word) == 2 and word[1] == "得" and word[0] not in GETS:
        return [readings[0], ("de", 5)]
    if len(word) == 3 and word[1] == "得" and word[2] in CAN and word[0] != "不" and readings[1][0] == "de":
        return [readings[0], ("de", 5), CAN[word[2]]]
    if len(word) == 3 and word[2] == "地" and word[:2] in ADVERBS:
        return readings[:2] + [("de", 5)]
    return readings


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
        return [fixed.get(c, r) for c, r in zip(word, particles(word, p))]


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
