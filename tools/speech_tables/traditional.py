"""traditional.bin: simplified to traditional characters as they are written in Taiwan (OpenCC's s2tw).

Little-endian; characters are code points U+4E00..U+9FA5. Phrases decide where a simplified character stands for several.

    "MZT1", u32 characters, u32 phrases, u32 blocks
    characters * {u16, u16}   simplified and traditional character, sorted; those that stay as they are left out
    (blocks + 1) * u32        where each block of 32 phrases begins, from the start of the file
    blocks: phrases in order  u8 shared << 4 | new; new characters * u16
                              u8 count; count * {u8 place, u16}: characters that do not become what they do alone
"""
import re
import struct

from chinese import in_range

BLOCK, LONGEST = 32, 12


def read_dictionary(folder, name):
    script = open(f"{folder}/opencc-js-1.4.2/dist/esm-lib/dict/{name}.js", encoding="utf-8").read()
    return dict(pair.split(" ")[:2] for pair in re.search(r'"(.*)"', script)[1].split("|"))


def traditional_table(folder):
    single, phrases = read_dictionary(folder, "STCharacters"), read_dictionary(folder, "STPhrases")
    variants = read_dictionary(folder, "TWVariants")
    alone = lambda c: variants.get(single.get(c, c), single.get(c, c))
    chars = [(c, alone(c)) for c in sorted(set(single) | set(variants)) if alone(c) != c and in_range(c + alone(c))]
    entries = {}
    for phrase, other in phrases.items():
        other = "".join(variants.get(c, c) for c in other)
        if len(other) == len(phrase) and 1 < len(phrase) <= LONGEST and in_range(phrase + other):
            entries[phrase] = other
    order, blocks = sorted(entries), []
    for at in range(0, len(order), BLOCK):
        block, last = b"", ""
        for phrase in order[at : at + BLOCK]:
            shared = 0
            while shared < min(len(last), len(phrase) - 1) and last[shared] == phrase[shared]:
                shared += 1
            odd = [(i, c) for i, (c, p) in enumerate(zip(entries[phrase], phrase)) if c != alone(p)]
            block += bytes([shared << 4 | (len(phrase) - shared)])
            block += b"".join(struct.pack("<H", ord(c)) for c in phrase[shared:])
            block += bytes([len(odd)]) + b"".join(struct.pack("<BH", i, ord(c)) for i, c in odd)
            last = phrase
        blocks.append(block)
    head = b"MZT1" + struct.pack("<3I", len(chars), len(order), len(blocks))
    head += b"".join(struct.pack("<2H", ord(a), ord(b)) for a, b in chars)
    offset, offsets = len(head) + 4 * (len(blocks) + 1), []
    for block in blocks:
        offsets.append(offset)
        offset += len(block)
    return head + struct.pack(f"<{len(blocks) + 1}I", *offsets, offset) + b"".join(blocks)


def main(folder, out):
    table = traditional_table(folder)
    open(f"{out}/traditional.bin", "wb").write(table)
    print("traditional.bin", len(table))
