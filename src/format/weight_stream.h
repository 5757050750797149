/* weight_stream.h - a weight file written piece by piece: the header first, the data in any order.
 *
 *     open(tensors) ──► header on disk, places known ──► write(tensor, offset, bytes) ... ──► commit
 *
 * Nothing of a tensor's size is held in memory. The file appears under its name at commit, whole or not at
 * all; every byte of every tensor must have been written by then. */
#ifndef MICA_FORMAT_WEIGHT_STREAM_H
#define MICA_FORMAT_WEIGHT_STREAM_H

#include "base/file.h"
#include "format/gguf.h"
#include "tensor/tensor.h"

typedef struct mica_stream_tensor {
    const char *name; /* valid until open returns */
    mica_dtype dtype; /* in safetensors files: one of those with a name there */
    int ndim;
    int64_t shape_[MICA_MAX_DIMS]; /* slowest first */
    uint64_t begin;                /* set by open: place in the file */
} mica_stream_tensor;

/* A value of the header; safetensors files take texts alone, others are passed over there. */
typedef enum mica_stream_kind {
    MICA_STREAM_TEXT = 0,
    MICA_STREAM_U32,
    MICA_STREAM_F32,
    MICA_STREAM_BOOL,
    MICA_STREAM_TEXTS, /* lists: of const char *, float, int32_t */
    MICA_STREAM_FLOATS,
    MICA_STREAM_INTS,
    MICA_STREAM_META /* as another GGUF file has it */
} mica_stream_kind;
typedef struct mica_stream_value {
    const char *key;
    mica_stream_kind kind;
    const char *text;
    double number; /* U32, F32, BOOL */
    const void *list;
    size_t count;
    const mica_meta *meta;
} mica_stream_value;

typedef struct mica_weight_stream {
    mica_file_out file;
} mica_weight_stream;

/* GGUF when `path` ends in .gguf, else safetensors. */
bool mica_stream_is_gguf(const char *path);
mica_status mica_weight_stream_open(mica_weight_stream *s, const char *path,
                                    mica_stream_tensor *tensors, size_t count,
                                    const mica_stream_value *values, size_t value_count,
                                    mica_err *err);
/* `size` bytes from `offset` of the tensor's data on. */
mica_status mica_weight_stream_write(mica_weight_stream *s, const mica_stream_tensor *t,
                                     uint64_t offset, const void *data, size_t size, mica_err *err);
mica_status mica_weight_stream_commit(mica_weight_stream *s, mica_err *err);
void mica_weight_stream_abort(mica_weight_stream *s);

#endif
