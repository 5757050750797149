#!/usr/bin/env python3
"""Packed weights of every type that Mica reads, and what they mean.

    packed_types.py TESTS_GOLDEN_FOLDER

    packed/types.gguf           a tensor [2, 512] of random blocks per GGUF type, and a value of every type of
                                metadata; written by the `gguf` package
    packed/types.safetensors    the same tensors as f32, decoded by the `gguf` package
    packed/affine.safetensors   MLX's packed integers of 2 to 8 bits in groups of 32, 64 and 128
    packed/affine_values.safetensors  the same as f32, from the definition w = scale * q + bias with q a
                                stream of bits, low first (mlx.core.dequantize)

Needs numpy, safetensors and gguf (Debian: python3-gguf). Nothing here is read by the build.
"""
import os
import sys

import gguf
import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from safetensors.numpy import save_file

ROWS, COLUMNS = 2, 512
# Where a block keeps f16 numbers, which random bytes must not make infinite.
HALVES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82],
          T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0],
          T.MXFP4: []}


def random_blocks(rng, kind):
    block, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (ROWS * COLUMNS // block, size), dtype=np.uint8)
    for at in HALVES[kind]:
        halves = rng.normal(0, 0.02, len(blocks)).astype(np.float16)
        blocks[:, at:at + 2] = halves.view(np.uint8).reshape(-1, 2)
    if kind == T.MXFP4:
        blocks[:, 0] = rng.integers(118, 132, len(blocks))
        blocks[0, 0], blocks[1, 0] = 0, 1  # the two exponents that are denormal numbers
    return blocks.reshape(ROWS, -1)


def add_values(writer):
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -3)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_uint32("test.u32", 4000000000)
    writer.add_int32("test.i32", -2000000000)
    writer.add_float32("test.f32", 0.5)
    writer.add_uint64("test.u64", 1 << 40)
    writer.add_int64("test.i64", -(1 << 40))
    writer.add_float64("test.f64", 0.25)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "Grüße")
    writer.add_array("test.strings", ["a", "", "ccc"])
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [0.5, -1.5])


def write_gguf(folder):
    rng = np.random.default_rng(20260)
    writer = gguf.GGUFWriter(os.path.join(folder, "types.gguf"), "mica_test")
    add_values(writer)
    values = {}
    for kind in HALVES:
        blocks = random_blocks(rng, kind)
        writer.add_tensor(kind.name.lower(), blocks, raw_dtype=kind)
        values[kind.name.lower()] = quants.dequantize(blocks, kind).astype(np.float32)
    plain = rng.normal(0, 1, (ROWS, COLUMNS)).astype(np.float32)
    for kind in (T.F32, T.F16, T.BF16):
        data = quants.quantize(plain, kind)
        writer.add_tensor(kind.name.lower(), data, raw_dtype=kind)
        values[kind.name.lower()] = quants.dequantize(data, kind).astype(np.float32)
    kernel = rng.normal(0, 1, (12, 8)).astype(np.float32)  # as ComfyUI-GGUF stores what has 5 dimensions
    writer.add_array("comfy.gguf.orig_shape.bent", [2, 3, 2, 2, 4])
    writer.add_tensor("bent", kernel)
    values["bent"] = kernel.reshape(2, 3, 2, 2, 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(values, os.path.join(folder, "types.safetensors"))


def pack(q, bits):
    """[rows, columns] of integers to [rows, words] of u32: number i at bit i * bits of the row."""
    stream = (q[..., None] >> np.arange(bits)) & 1
    stream = stream.reshape(q.shape[0], -1, 32).astype(np.uint32)
    return (stream << np.arange(32, dtype=np.uint32)).sum(-1, dtype=np.uint32)


def write_affine(folder):
    rng = np.random.default_rng(20261)
    tensors, values = {}, {}
    for bits in (2, 3, 4, 5, 6, 8):
        for group, dtype in ((32, np.float32), (64, np.float16), (128, np.float16)):
            name = "b%d_g%d" % (bits, group)
            q = rng.integers(0, 1 << bits, (ROWS, COLUMNS))
            scales = rng.normal(0, 0.02, (ROWS, COLUMNS // group)).astype(dtype)
            biases = rng.normal(0, 0.1, (ROWS, COLUMNS // group)).astype(dtype)
            wide = [np.repeat(a.astype(np.float64), group, axis=1) for a in (scales, biases)]
            tensors[name + ".weight"], tensors[name + ".scales"] = pack(q, bits), scales
            tensors[name + ".biases"] = biases
            values[name] = (wide[0] * q + wide[1]).astype(np.float32)
    save_file(tensors, os.path.join(folder, "affine.safetensors"), {"format": "mlx"})
    save_file(values, os.path.join(folder, "affine_values.safetensors"))


def main():
    folder = os.path.join(sys.argv[1], "packed")
    os.makedirs(folder, exist_ok=True)
    write_gguf(folder)
    write_affine(folder)


main()
