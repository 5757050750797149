/* torch_zip.h - the tensors of a checkpoint that torch.save wrote (since torch 1.6).
 *
 *     archive.zip   NAME/data.pkl      a pickle: names, sizes, strides, "entry 17"
 *                   NAME/data/17       the bytes of that storage, stored as they are
 *                   NAME/byteorder     "little"
 *
 *     {"weight": {"a.b": tensor, ...}, "config": ..., "info": ...}     GPT-SoVITS
 *     {"a.b": tensor, ...}                                            a bare state dict
 *
 * Tensors are those of "weight" (or "state_dict", "generator", "model") where it is a dict, else those of
 * the top level. What stands there and is no tensor is refused; the rest of the tree stays
 * readable as plain data. What an item says is true of the file: its elements lie inside its
 * entry, strides included. */
#ifndef MICA_FORMAT_TORCH_ZIP_H
#define MICA_FORMAT_TORCH_ZIP_H

#include "format/pickle.h"

typedef struct mica_torch_item {
    const char *name;
    mica_dtype dtype;
    int ndim;
    int64_t shape_[MICA_MAX_DIMS], stride_[MICA_MAX_DIMS];
    uint64_t begin; /* of element 0, in the file */
} mica_torch_item;

typedef struct mica_torch_zip {
    mica_torch_item *items; /* in the order of the checkpoint; names differ */
    size_t count;
    const mica_pickle_value *root; /* of the whole tree */
    char header[3]; /* the file's first two bytes: "PK", or a version of GPT-SoVITS */
} mica_torch_zip;

/* All memory comes from `arena`; items point into data by offset only. */
mica_status mica_torch_zip_parse(mica_torch_zip *z, const char *path, const uint8_t *data,
                                 size_t size, mica_arena *arena, mica_err *err);

#endif
