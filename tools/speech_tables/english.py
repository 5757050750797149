"""english.bin: words and their phones, front-coded in blocks; letters.bin: trees for words that are not there.

english.bin, little-endian:
    "MEN1", u32 words, u32 blocks, u32 pairs
    pairs * {u8 first, u8 second}      code 69 + n stands for both; each may be a pair itself
    (blocks + 1) * u32                 where each block of 32 words begins, from the start of the file
    blocks: words in byte order, each  u8 shared << 4 | new   (15: one more byte to add)
                                       new bytes, u8 codes, code bytes
letters.bin:
    "MLT1", 27 * u32                   first node of each letter's tree: a..z; the last one is the number of nodes
    nodes of 4 bytes                   u8 place, u8 letter, u16 no    yes: the next node; no: further by that many
                                       255, code, code, 0            leaf: up to two phones; 254: none
    place 0..7: p.p.p.p, p.p.p, p.p, p, n, n.n, n.n.n, n.n.n.n;  letter 0: beyond the word
"""
import json
import re
import struct
from collections import Counter

from phones import CODE

BLOCK = 32
FIRST_PAIR = len(CODE)
PLACES = {"p.p.p.p": 0, "p.p.p": 1, "p.p": 2, "p": 3, "n": 4, "n.n": 5, "n.n.n": 6, "n.n.n.n": 7}


def read_words(folder):
    words = {}
    pattern = re.compile(r'^  "((?:[^"\\]|\\.)+)": "([^"]+)"')
    for line in open(f"{folder}/cmu-pronouncing-dictionary-3.0.0/index.js", encoding="utf-8"):
        match = pattern.match(line)
        if not match or match[1].endswith(")"):  # word(2): a second pronunciation
            continue
        if not re.fullmatch(r"[a-z][a-z'.\-]*|'[a-z]+", match[1]):
            continue
        words[match[1]] = bytes(CODE[p] for p in match[2].split("#")[0].split())
    return words


def pair_codes(sequences, count):
    """Byte pairs merged greedily: the commonest pair becomes a code, again and again."""
    sequences = [list(s) for s in sequences]
    pairs = []
    for code in range(FIRST_PAIR, FIRST_PAIR + count):
        counts = Counter()
        for s in sequences:
            counts.update(zip(s, s[1:]))
        (a, b), _ = counts.most_common(1)[0]
        pairs.append((a, b))
        for s in sequences:
            i = 0
            while i < len(s) - 1:
                if s[i] == a and s[i + 1] == b:
                    s[i : i + 2] = [code]
                i += 1
    return pairs, sequences


def nibbles(shared, new):
    head, tail = [], b""
    for n in (shared, new):
        head.append(min(n, 15))
        if n >= 15:
            tail += bytes([n - 15])
    return bytes([head[0] << 4 | head[1]]) + tail


def shared_prefix(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def english_table(folder):
    words = sorted((w.encode(), p) for w, p in read_words(folder).items())
    pairs, codes = pair_codes([p for _, p in words], 256 - FIRST_PAIR)
    blocks = []
    for at in range(0, len(words), BLOCK):
        block, last = b"", b""
        for (word, _), code in zip(words[at : at + BLOCK], codes[at : at + BLOCK]):
            n = shared_prefix(last, word)
            block += nibbles(n, len(word) - n) + word[n:] + bytes([len(code)]) + bytes(code)
            last = word
        blocks.append(block)
    head = b"MEN1" + struct.pack("<III", len(words), len(blocks), len(pairs)) + bytes(x for p in pairs for x in p)
    offset, offsets = len(head) + 4 * (len(blocks) + 1), []
    for block in blocks:
        offsets.append(offset)
        offset += len(block)
    return head + struct.pack(f"<{len(offsets) + 1}I", *offsets, offset) + b"".join(blocks)


def read_trees(folder):
    text = open(f"{folder}/festlex-cmu/usr/share/festival/dicts/cmu/cmu_lts_rules.scm", encoding="latin-1").read()
    tokens = re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text))
    stack = [[]]
    for token in tokens:
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    return {letter: tree for letter, tree in stack[0][0][3] if len(letter) == 1 and letter.isalpha()}


def leaf_phones(leaf):
    name = leaf[0][-1]
    if name == "_epsilon_":
        return []
    out = []
    for part in name.upper().split("-"):
        out.append({"AX0": "AH0", "AX1": "AH1", "AX": "AH0"}.get(part, part))
    return [CODE[p] for p in out]


def flatten(tree, nodes):
    if isinstance(tree[0][0], list):  # a leaf: (((phone weight) ... phone))
        phones = leaf_phones(tree)
        nodes.append([255] + (phones + [254, 254])[:2] + [0])
        return
    feature, _, letter = tree[0]
    at = len(nodes)
    nodes.append(None)
    flatten(tree[1], nodes)
    no = len(nodes) - at
    assert no < 65536
    nodes[at] = [PLACES[feature.removesuffix(".name")], 0 if letter in "#0" else ord(letter), no & 255, no >> 8]
    flatten(tree[2], nodes)


def letters_table(folder):
    trees, nodes, first = read_trees(folder), [], []
    for letter in "abcdefghijklmnopqrstuvwxyz":
        first.append(len(nodes))
        flatten(trees[letter], nodes)
    first.append(len(nodes))
    return b"MLT1" + struct.pack("<27I", *first) + bytes(x for node in nodes for x in node)


def main(folder, out):
    for name, table in (("english.bin", english_table(folder)), ("letters.bin", letters_table(folder))):
        open(f"{out}/{name}", "wb").write(table)
        print(name, len(table))


if __name__ == "__main__":
    import sys

    sys.setrecursionlimit(100000)
    main(*sys.argv[1:])
