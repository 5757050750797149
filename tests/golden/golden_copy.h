/* golden_copy.h - weight files of a tiny model written again: renamed, fused, in 8 bits, damaged.
 *
 *     golden_copy_init ─► add, add_rows, add_fp8 ... ─► golden_copy_write (closes)
 *
 * Everything asserts through cmocka. */
#ifndef MICA_TESTS_GOLDEN_COPY_H
#define MICA_TESTS_GOLDEN_COPY_H

#include "golden_support.h"

#include "base/arena.h"

#define GOLDEN_COPY_TENSORS 1024

typedef struct golden_copy {
    mica_safetensors_entry entries[GOLDEN_COPY_TENSORS];
    mica_tensor tensors[GOLDEN_COPY_TENSORS];
    size_t count;
    mica_arena arena;
    const char *metadata[5]; /* key, value, ... of the file; NULL: none */
} golden_copy;

/* On the heap; golden_copy_write frees it. */
golden_copy *golden_copy_new(void);
/* Zeroed memory that lives until the file is written. */
void *golden_copy_bytes(golden_copy *f, size_t n);
/* The tensor as it is; its data stays the caller's. */
void golden_copy_add(golden_copy *f, const char *name, const mica_tensor *t);
/* Matrices of one dtype and width below each other in one tensor. */
void golden_copy_add_rows(golden_copy *f, const char *name, const mica_tensor *const *parts,
                          int count);
/* The nearest fp8 (e4m3) values, with a scale beside them (`scale_weight`) or plain; as_f32: the
 * values those stand for, in f32. */
void golden_copy_add_fp8(golden_copy *f, const char *name, const mica_tensor *t, bool scaled,
                         bool as_f32);
/* A matrix as mlx.core.quantize stores it: integers of `bits` bits in groups of 64 (32 where rows are no multiple),
 * low bits first in words of 32, scales and biases in bf16. as_f32: the values those stand for, in f32. */
void golden_copy_add_mlx(golden_copy *f, const char *name, const mica_tensor *t, int bits,
                         bool as_f32);
void golden_copy_write(golden_copy **f, const char *path);

/* A text file copied. */
void golden_copy_text(const char *from, const char *to);

#endif
