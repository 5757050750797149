"""Held-out perplexity of a model folder as Mica computes it, from the logits of traces.

usage: perplexity.py MICA MODEL RECORDS.jsonl [TEXTS]
"""
import array
import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile

from dictionary import documents, load


def read(path):
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(size))
        data = f.read()

    def tensor(name):
        a, b = header[name]["data_offsets"]
        return array.array({"F32": "f", "I32": "i"}[header[name]["dtype"]], data[a:b])
    return tensor("logits"), tensor("input_ids"), header["logits"]["shape"][-1]


def surprise(row, chosen):
    top = max(row)
    return top + math.log(sum(math.exp(x - top) for x in row)) - row[chosen]


def main():
    mica, model, records = sys.argv[1:4]
    texts = int(sys.argv[4]) if len(sys.argv) > 4 else 20
    docs = list(documents(load(records)[1], random.Random(7), 0))
    total, count = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        trace = os.path.join(folder, "t.safetensors")
        for i in range(texts):
            # Documents behind each other, about 256 tokens, as they were in training.
            text = "".join(docs[6 * i:6 * i + 6])
            subprocess.run([mica, "complete", model, "-p", text, "--no-bos", "--max-tokens", "1",
                            "--trace", trace, "--precision", "f32", "--quiet"],
                           check=True, stdout=subprocess.DEVNULL)
            logits, ids, vocab = read(trace)
            for k in range(len(ids) - 1):
                total += surprise(logits[k * vocab:(k + 1) * vocab], ids[k + 1])
            count += len(ids) - 1
    print("%d tokens, perplexity %.2f" % (count, math.exp(total / count)))


if __name__ == "__main__":
    main()
