/* gguf.h - the header of one GGUF file (versions 2 and 3, little-endian), checked.
 *
 *     "GGUF" | version u32 | tensors u64 | values u64
 *     values    key, type u32, value              strings: length u64, bytes; no NUL
 *     tensors   name, dimensions u32, sizes u64 (fastest first), type u32, offset u64
 *     padding to `general.alignment` (32)
 *     data      offsets count from here and are multiples of the alignment
 *
 * Items come out as those of a safetensors file do: slowest dimension first, byte ranges from the
 * start of the file, all of them inside it and apart. Shapes that writers of picture models had to
 * bend (`comfy.gguf.orig_shape.NAME`) are the original ones again. Values keep their types; text and
 * arrays stay in the image. Types that are not read here are refused by name.
 * Reference: docs/gguf.md of ggml, and ComfyUI-GGUF's loader.py for the shapes. */
#ifndef MICA_FORMAT_GGUF_H
#define MICA_FORMAT_GGUF_H

#include "base/arena.h"
#include "format/safetensors.h"

typedef enum mica_meta_type {
    MICA_META_INT = 0, /* any width and sign that an int64_t holds */
    MICA_META_FLOAT,
    MICA_META_BOOL,
    MICA_META_STRING,
    MICA_META_ARRAY
} mica_meta_type;

typedef struct mica_meta {
    const char *key;
    mica_meta_type type;
    int64_t integer;  /* INT, BOOL */
    double number;    /* FLOAT; of an INT the same number */
    const char *text; /* STRING, NUL-terminated */
    /* ARRAY of anything but arrays: */
    mica_meta_type element;
    uint32_t stored; /* GGUF's number of the elements' type */
    size_t count;
    const uint8_t *data; /* elements as they lie in the image */
    size_t size;         /* their bytes */
} mica_meta;

/* Element i of an array of numbers or truth values; i below count. */
double mica_meta_number_at(const mica_meta *array, size_t i);
/* The next string of an array of strings; *at is 0 before the first. Not NUL-terminated. False
 * behind the last one. */
bool mica_meta_next_string(const mica_meta *array, size_t *at, const char **text, size_t *length);

typedef struct mica_gguf {
    mica_safetensors_item *items; /* by rising begin */
    size_t count;
    mica_meta *values; /* in the order of the file */
    size_t value_count;
} mica_gguf;

bool mica_gguf_is_image(const uint8_t *data, size_t size);
/* Reads the directory of the image; names and texts come from `arena`, arrays point into data. On
 * failure *g is empty. */
mica_status mica_gguf_parse(mica_gguf *g, const char *path, const uint8_t *data, size_t size,
                            mica_arena *arena, mica_err *err);
const mica_meta *mica_gguf_find(const mica_meta *values, size_t count, const char *key);

/* GGUF's number of a dtype, or -1: the file cannot hold it. For writing. */
int mica_gguf_type_of(mica_dtype dtype);

#endif
