/* weights_internal.h - the inside of mica_weights, shared by the files of this folder.
 *
 *     files[]   one mapping per shard
 *     list[]    entries in file order        ──► name(i), tensor(i)
 *     sorted[]  the same entries by name     ──► find(name), 11 comparisons for 2,000 tensors
 *
 * An entry never moves, so the `const mica_tensor *` handed out stay valid until close.
 * Phases of opening: mica_weights_take_file for each shard, then mica_weights_index (duplicate
 * names), then mica_weights_attach_scales, which begins with mica_weights_attach_affine. */
#ifndef MICA_FORMAT_WEIGHTS_INTERNAL_H
#define MICA_FORMAT_WEIGHTS_INTERNAL_H

#include "base/arena.h"
#include "base/file.h"
#include "format/gguf.h"
#include "format/pickle.h"
#include "format/weights.h"

#define MICA_WEIGHTS_NO_FILE SIZE_MAX

typedef struct mica_weights_entry {
    mica_tensor tensor;
    const char *name;   /* as renamed */
    const char *source; /* as in the file: what the hash sees */
    size_t file;        /* index into files, or MICA_WEIGHTS_NO_FILE */
    bool is_hidden;     /* consumed by the scale pass; leaves the directory after it */
    bool needs_scale;   /* its declared encoding means nothing without a scale */
} mica_weights_entry;

typedef struct mica_weights_file {
    mica_file_map map; /* data borrowed and path owned for images in memory */
    bool is_mapped;
    const char **metadata; /* key, value pairs: of GGUF the values that are text */
    size_t metadata_count;
    const mica_meta *values; /* of GGUF all of them */
    size_t value_count;
    const mica_pickle_value *root; /* of a torch checkpoint; else NULL */
    char header[3];                /* its first two bytes */
} mica_weights_file;

struct mica_weights {
    char *path;
    mica_arena arena; /* entries, names, metadata */
    mica_weights_file *files;
    size_t file_count, file_cap;
    mica_weights_entry **list, **sorted;
    size_t count, cap;
    char hash[17]; /* as it was before the first split; "" while nothing was split */
    bool is_peek;  /* nobody will read the tensors' data */
    void **copies; /* tensors that lay misaligned in their file */
    size_t copy_count, copy_cap, copy_bytes;
};

mica_status mica_weights_new(mica_weights **out, const char *path, mica_err *err);
/* Maps `path`, checks its header and appends its tensors to list; sorted is stale until
 * mica_weights_index. */
mica_status mica_weights_take_file(mica_weights *w, const char *path, mica_err *err);
/* The tensors of files[file], a mapped torch checkpoint (weights_torch.c). */
mica_status mica_weights_take_torch(mica_weights *w, size_t file, mica_err *err);
/* The initialisers of files[file], a mapped ONNX file (weights_onnx.c). */
mica_status mica_weights_take_onnx(mica_weights *w, size_t file, mica_err *err);
/* Memory that lives with w, for a tensor that cannot be used where it lies; within a budget. */
mica_status mica_weights_new_copy(mica_weights *w, const char *path, const char *name, size_t size,
                                  void **data, mica_err *err);
mica_status mica_weights_index(mica_weights *w, mica_err *err);
/* Room for `more` entries in both orders. */
bool mica_weights_reserve(mica_weights *w, size_t more);
/* First position in sorted whose name is not below `name`. */
size_t mica_weights_lower_bound(const mica_weights *w, const char *name);
mica_weights_entry *mica_weights_find_entry(const mica_weights *w, const char *name);
/* Drops the hidden entries from both orders. */
void mica_weights_drop_hidden(mica_weights *w);
const char *mica_weights_file_path(const mica_weights *w, const mica_weights_entry *e);
/* MLX's packed integers become tensors of an affine type (weights_affine.c). */
mica_status mica_weights_attach_affine(mica_weights *w, mica_err *err);
/* The same, then the fp8 and int8 conventions; refuses encodings that cannot be decoded
 * (weights_scale.c). */
mica_status mica_weights_attach_scales(mica_weights *w, mica_err *err);
/* "a.b" of `name` = "a.b" SUFFIX with another ending: the entry or NULL. */
mica_weights_entry *mica_weights_find_sibling(const mica_weights *w, const char *name,
                                              const char *suffix, const char *other);

#endif
