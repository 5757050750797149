/* weights.h - weight files as one directory of named tensor views.
 *
 *     folder, index.json or file  ──►  mica_weights  ──►  find("name") -> mica_tensor
 *
 * Everything stays memory-mapped; a tensor's data points into the mapping. Every offset,
 * count and product is checked before a view is made: a view never leaves its file.
 * Scales of fp8 and int8 weights (`X.scale_weight`, `X.weight_scale`, marker `scaled_fp8`) are attached
 * to X.weight and not listed by themselves, as are those of MLX's packed integers (`X.scales`, `X.biases`);
 * encodings that cannot be decoded are refused by name. Packed weights stay packed (tensor/packed.h).
 * Every tensor's data is aligned to its element size, but to no more than that. */
#ifndef MICA_FORMAT_WEIGHTS_H
#define MICA_FORMAT_WEIGHTS_H

#include "base/json.h"
#include "base/status.h"
#include "format/gguf.h"
#include "tensor/tensor.h"

typedef struct mica_weights mica_weights;

/* path: a .safetensors or GGUF file, a torch checkpoint (.ckpt, .pth, .bin) or an ONNX file (both told by
 * their content), a *.index.json, or a folder that holds one of them (an index is preferred; a folder with several
 * unindexed files opens all, less NAME.VARIANT.safetensors beside NAME.safetensors; GGUF, then
 * pytorch_model.bin, then one ONNX file are looked for where there is no safetensors file). A missing shard is an error
 * that names it; of a GGUF file in numbered parts any part stands for all. *out is NULL on failure. */
mica_status mica_weights_open(mica_weights **out, const char *path, mica_err *err);
/* The same for names, sizes and dtypes alone: nothing is copied, and data may lie misaligned and turned. */
mica_status mica_weights_peek(mica_weights **out, const char *path, mica_err *err);
/* A safetensors or GGUF image in memory, which stays the caller's and must outlive *out; `name` stands
 * for the path in messages. */
mica_status mica_weights_open_memory(mica_weights **out, const char *name, const void *data,
                                     size_t size, mica_err *err);
/* Directory without files: tensors are added by mica_weights_add (synthetic models, tests).
 * The view is copied, its data and scale stay the caller's; a pointer from find stays valid. */
mica_status mica_weights_open_empty(mica_weights **out, mica_err *err);
/* Likewise, for tensors of `of` under other names or in other shapes: messages name its path. */
mica_status mica_weights_open_view(mica_weights **out, const mica_weights *of, mica_err *err);
mica_status mica_weights_add(mica_weights *w, const char *name, const mica_tensor *t,
                             mica_err *err);
void mica_weights_close(mica_weights **w);

size_t mica_weights_count(const mica_weights *w);
const char *mica_weights_name(const mica_weights *w, size_t i); /* in file order; borrowed */
const mica_tensor *mica_weights_tensor(const mica_weights *w, size_t i);
const mica_tensor *mica_weights_find(const mica_weights *w, const char *name); /* NULL: absent */
/* Value of a `__metadata__` key of the first file, or NULL. */
const char *mica_weights_metadata(const mica_weights *w, const char *key);
/* A value of a GGUF file's metadata (of the first file), or NULL. */
const mica_meta *mica_weights_meta(const mica_weights *w, const char *key);
const mica_meta *mica_weights_meta_at(const mica_weights *w, size_t i); /* NULL behind the last */
/* The whole number there, or `absent` when there is none. */
int64_t mica_weights_meta_int(const mica_weights *w, const char *key, int64_t absent);
double mica_weights_meta_number(const mica_weights *w, const char *key, double absent);
/* What files say beside their tensors, by a path of keys such as "config.model.head" (weights_settings.c):
 * the plain data of a torch checkpoint of one file; of other files JSON in the metadata, here that of the key
 * "config". False: absent, something else, or too long. */
bool mica_weights_find_int(const mica_weights *w, const char *path, int64_t *out);
bool mica_weights_find_text(const mica_weights *w, const char *path, char *out, size_t cap);
/* Element `index` of a list of whole numbers, as above. */
bool mica_weights_find_item(const mica_weights *w, const char *path, size_t index, int64_t *out);
/* The plain data of a torch checkpoint below `key` as JSON; tensors and unknown objects as null. False: there is
 * none. */
bool mica_weights_write_settings(const mica_weights *w, const char *key, mica_text *out);
/* First two bytes of a torch checkpoint, which GPT-SoVITS uses for a version; "" for other files. */
const char *mica_weights_header(const mica_weights *w);
uint64_t mica_weights_bytes(const mica_weights *w);
uint64_t mica_weights_parameters(const mica_weights *w);
const char *mica_weights_path(const mica_weights *w);
/* A short digest of all names (as in the files), shapes and dtypes plus sampled bytes: identifies
 * the weights in recipes and caches, however they are sharded, renamed or split. 16 hex digits and NUL. */
void mica_weights_hash(const mica_weights *w, char out[17]);

/* Renames every tensor through `map`, which writes the canonical name of `name` into `out`
 * (cap bytes) and returns true, or returns false to keep it. Names that collide are an error,
 * which leaves all names as they were. Old names die only with w. */
typedef bool (*mica_name_map_fn)(void *user, const char *name, char *out, size_t cap);
mica_status mica_weights_rename(mica_weights *w, mica_name_map_fn map, void *user, mica_err *err);

/* Takes `name` out of the directory and puts views of its rows (dimension 0) in, in order, under names
 * of their own, so that a fused tensor (q, k and v in one) is to a table what three tensors are. A
 * scale per row is divided with the rows. `rows` must add up to the tensor's: MICA_E_FORMAT. Nothing
 * happens when there is no such tensor; the table then says what is missing. A failure leaves the
 * directory as it was. */
typedef struct mica_weights_part {
    const char *name; /* copied */
    int64_t rows;
} mica_weights_part;
mica_status mica_weights_split(mica_weights *w, const char *name, const mica_weights_part *parts,
                               size_t count, mica_err *err);

/* A stack of matrices as matrices: `name` [E, ...] is taken out and E tensors [...] are put in, named by
 * `pattern`, whose %d is 0, 1, ... Nothing happens when there is no such tensor. */
mica_status mica_weights_unstack(mica_weights *w, const char *name, const char *pattern,
                                 mica_err *err);

/* Whether a convolution with a square kernel is [O, kernel, C], as MLX has it, and not [O, C, kernel]. */
bool mica_weights_is_channels_last(const mica_tensor *t);
/* Every tensor of 4 or 5 dimensions from the first order to the second: copies, within a budget (weights_axes.c). */
mica_status mica_weights_channels_first(mica_weights *w, mica_err *err);

/* Lets the pages of one tensor go; nothing happens to tensors outside the mappings. */
void mica_weights_dontneed(const mica_weights *w, const mica_tensor *t);
/* True when the tensor's data lies in a mapped file (and so comes back after its pages went). */
bool mica_weights_is_mapped(const mica_weights *w, const mica_tensor *t);

/* ---- writing ---- */
/* Safetensors file; wider elements first, so that all data is aligned, else in the given order. */
typedef struct mica_safetensors_entry {
    const char *name;
    const mica_tensor *tensor; /* contiguous */
} mica_safetensors_entry;
/* Atomic: the file appears whole or not at all. metadata: "key", "value" pairs, NULL-terminated, or NULL. */
mica_status mica_safetensors_write(const char *path, const mica_safetensors_entry *entries,
                                   size_t count, const char *const *metadata, mica_err *err);

#endif
