/* safetensors.h - the header of one safetensors file, checked.
 *
 *     0          8                8 + N                                   size
 *     +----------+----------------+---------------------------------------+
 *     | N, u64le | N bytes JSON   | data of all tensors, packed            |
 *     +----------+----------------+---------------------------------------+
 *
 *     {"__metadata__": {"format": "pt"},
 *      "a.weight": {"dtype": "BF16", "shape": [64, 32], "data_offsets": [0, 4096]}, ...}
 *
 * Offsets in the header count from 8 + N; the items below count from the start of the file.
 * What an item says is true of the file: known dtype, at most MICA_MAX_DIMS dimensions, a
 * byte range inside the file that is exactly shape x dtype, no two ranges sharing a byte, no
 * two items sharing a name. Holes are tolerated (the format forbids them, files have them).
 * Not checked: alignment (weights.c sees to it) and the values. */
#ifndef MICA_FORMAT_SAFETENSORS_H
#define MICA_FORMAT_SAFETENSORS_H

#include "base/arena.h"
#include "tensor/tensor.h"

#define MICA_SAFETENSORS_MAX_HEADER 100000000 /* bytes; the limit of the reference reader */
#define MICA_TENSOR_NAME_MAX        1023      /* bytes of a tensor name, without the NUL */

typedef struct mica_safetensors_item {
    const char *name;
    mica_dtype dtype;
    int ndim;
    int64_t shape_[MICA_MAX_DIMS];
    uint64_t begin, end; /* byte range in the file */
} mica_safetensors_item;

typedef struct mica_safetensors {
    mica_safetensors_item *items; /* by rising begin */
    size_t count;
    const char **metadata; /* key, value, key, value, ... of `__metadata__` */
    size_t metadata_count; /* pairs */
} mica_safetensors;

/* Reads the directory of the file image data[0..size). `path` is for messages only. All memory
 * of *s, names included, comes from `arena`; nothing points into data. On failure *s is empty. */
mica_status mica_safetensors_parse(mica_safetensors *s, const char *path, const uint8_t *data,
                                   size_t size, mica_arena *arena, mica_err *err);

/* Sorts the items of any weight file by their place in it and refuses duplicate names, ranges that overlap
 * and ranges that leave the file of `size` bytes. */
mica_status mica_weight_items_check(mica_safetensors_item *items, size_t count, uint64_t size,
                                    const char *path, mica_arena *arena, mica_err *err);

/* 1..MICA_TENSOR_NAME_MAX bytes of valid UTF-8 without control characters (names end up on
 * terminals), and not `__metadata__`. */
bool mica_tensor_name_is_valid(const char *name);
/* Text from a file for use in a message: itself when it could be a name, else "(unprintable)". */
const char *mica_printable_text(const char *text);

#endif
