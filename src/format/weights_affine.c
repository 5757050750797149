/* weights_affine.c - MLX's packed integers: three tensors become one weight.
 *
 *     X.weight   U32  [.., out, width * bits / 32] ─┐
 *     X.scales   16- or 32-bit floats [.., out, width / group] ├─►  X.weight  mlx<bits> [.., out, width]
 *     X.biases   the same                          ─┘
 *
 * The shapes tell bits * group alone: words * 32 / groups. Which of the two it is says, in this order,
 *     config.json beside the file     "quantization": {"bits", "group_size", "X": {...} of a module}
 *     metadata                        quantization: the same as text (mica convert)
 *                                     quantization_level: the bits (mflux)
 *     custom                          64 numbers a group, else 32, else 128
 * and it is taken only where it fits the shapes. A model that knows the width has the last word
 * (mica_tensor_set_width), so a wrong guess cannot give wrong numbers: it gives another shape.
 * Reference: mlx.core.quantize, mlx-lm utils.py load_model, mflux weight_saver. */
#include "base/json.h"
#include "base/mem.h"
#include "format/safetensors.h"
#include "format/weights_internal.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

typedef struct affine_hints {
    mica_json json;
    const cJSON *table; /* "quantization" of config.json, or NULL */
    int64_t level;      /* bits by the metadata, or 0 */
} affine_hints;

/* The folder's config.json, if it is there and speaks of quantisation. */
static mica_status open_config(const mica_weights *w, affine_hints *h, mica_err *err)
{
    const char *slash = strrchr(w->path, '/');
    char *folder = mica_path_is_dir(w->path) ? mica_mem_strdup(w->path)
                   : slash ? mica_mem_strndup(w->path, MICA_MAX((size_t)(slash - w->path), 1))
                           : mica_mem_strdup(".");
    char *path = folder ? mica_path_join(folder, "config.json") : NULL;
    mica_status st = MICA_OK;
    if (!path)
        st = MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory for the tensor directory", w->path);
    else if (w->file_count > 0 && w->files[0].is_mapped && mica_path_is_file(path))
        st = mica_json_open(&h->json, path, err);
    if (st == MICA_OK && cJSON_IsObject(h->json.root))
        h->table = mica_json_find(h->json.root, "quantization");
    mica_mem_free(path);
    mica_mem_free(folder);
    return st;
}

/* What the files themselves say, where no config.json does. */
static mica_status open_metadata(const mica_weights *w, affine_hints *h, mica_err *err)
{
    const char *level = mica_weights_metadata(w, "quantization_level");
    const char *text = mica_weights_metadata(w, "quantization");
    h->level = level && strlen(level) == 1 ? level[0] - '0' : 0;
    if (cJSON_IsObject(h->table) || !text)
        return MICA_OK;
    mica_json_close(&h->json);
    h->table = NULL;
    MICA_TRY(mica_json_parse(&h->json, w->path, text, strlen(text), err));
    h->table = h->json.root;
    return MICA_OK;
}

static int64_t member_int(const cJSON *object, const char *name)
{
    const cJSON *m = cJSON_IsObject(object) ? mica_json_find(object, name) : NULL;
    return cJSON_IsNumber(m) && m->valuedouble >= 1 && m->valuedouble <= 4096
               ? (int64_t)m->valuedouble
               : 0;
}

/* The group that `product` = bits * group leaves, or 0 when it is none. */
static int64_t group_of(int64_t product, int64_t bits)
{
    const int64_t group = bits > 0 && product % bits == 0 ? product / bits : 0;
    const bool known = group == 32 || group == 64 || group == 128;
    return known && mica_dtype_from_bits(bits) != MICA_DTYPE_COUNT ? group : 0;
}

/* Bits that were told, in groups that were told or, failing that, are usual. */
static int64_t take_told(int64_t product, int64_t bits, int64_t group)
{
    const int64_t is = group_of(product, bits);
    return is && (group ? is == group : is == 64 || is == 32) ? bits : 0;
}

static int64_t choose_bits(const affine_hints *h, const char *module, int64_t product)
{
    static const int64_t GROUPS[] = {64, 32, 128};
    const cJSON *own = cJSON_IsObject(h->table) ? mica_json_find(h->table, module) : NULL;
    const int64_t own_bits = member_int(own, "bits");
    int64_t bits = group_of(product, own_bits) ? own_bits : 0;
    if (!bits)
        bits = take_told(product, member_int(h->table, "bits"), member_int(h->table, "group_size"));
    if (!bits)
        bits = take_told(product, h->level, 0);
    for (size_t i = 0; i < MICA_ARRAY_LEN(GROUPS) && !bits; i++)
        if (product % GROUPS[i] == 0 && group_of(product, product / GROUPS[i]))
            bits = product / GROUPS[i];
    return bits;
}

static mica_status misfit(const mica_weights *w, const mica_weights_entry *weight,
                          const mica_weights_entry *scales, mica_err *err)
{
    char a[96], b[96];
    return MICA_FAIL(err, MICA_E_FORMAT,
                     "%s: scales %s %s do not fit the packed weight %s: no group of 32, 64 or 128 "
                     "numbers of 2 to 8 bits",
                     mica_weights_file_path(w, scales), scales->name,
                     mica_tensor_describe(&scales->tensor, b, sizeof b),
                     mica_tensor_describe(&weight->tensor, a, sizeof a));
}

/* Same shape but for the last dimension. */
static bool same_rows(const mica_tensor *a, const mica_tensor *b)
{
    bool same = a->ndim == b->ndim && a->ndim >= 2;
    for (int i = 0; same && i < a->ndim - 1; i++)
        same = a->shape_[i] == b->shape_[i];
    return same;
}

static mica_status check_biases(const mica_weights *w, const mica_weights_entry *scales,
                                const mica_weights_entry *biases, mica_err *err)
{
    const mica_tensor *s = &scales->tensor;
    const char *path = mica_weights_file_path(w, scales);
    if (s->dtype != MICA_DTYPE_F32 && s->dtype != MICA_DTYPE_BF16 && s->dtype != MICA_DTYPE_F16)
        return MICA_FAIL(
            err, MICA_E_UNSUPPORTED,
            "%s: scales %s are %s; MLX weights are read in its affine mode alone (scales "
            "in f32, bf16 or f16)",
            path, scales->name, mica_dtype_get(s->dtype)->name);
    if (!biases)
        return MICA_FAIL(
            err, MICA_E_UNSUPPORTED,
            "%s: %s has no biases beside it; MLX weights are read in its affine mode alone", path,
            scales->name);
    if (biases->tensor.dtype != s->dtype || !same_rows(s, &biases->tensor) ||
        s->shape_[s->ndim - 1] != biases->tensor.shape_[s->ndim - 1])
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s and %s differ in shape or dtype", path,
                         scales->name, biases->name);
    return MICA_OK;
}

static mica_status attach(const mica_weights *w, const affine_hints *h, mica_weights_entry *weight,
                          mica_weights_entry *scales, mica_weights_entry *biases, mica_err *err)
{
    mica_tensor *t = &weight->tensor;
    const mica_tensor *s = &scales->tensor;
    char module[MICA_TENSOR_NAME_MAX + 1] = "";
    MICA_TRY(check_biases(w, scales, biases, err));
    if (!same_rows(t, s))
        return misfit(w, weight, scales, err);
    const int64_t words = t->shape_[t->ndim - 1], groups = s->shape_[s->ndim - 1];
    if (groups == 0 || words > INT64_MAX / 32 || words * 32 % groups != 0)
        return misfit(w, weight, scales, err);
    memcpy(module, weight->name, strlen(weight->name) - strlen(".weight"));
    const int64_t product = words * 32 / groups, bits = choose_bits(h, module, product);
    if (bits == 0)
        return misfit(w, weight, scales, err);
    int64_t shape[MICA_MAX_DIMS];
    memcpy(shape, t->shape_, sizeof shape);
    shape[t->ndim - 1] = groups * (product / bits);
    *t = mica_tensor_make(t->data, mica_dtype_from_bits(bits), t->ndim, shape);
    t->scale = (mica_tensor_scale){.data = s->data,
                                   .dtype = s->dtype,
                                   .group = (int)(product / bits),
                                   .bias = biases->tensor.data};
    scales->is_hidden = biases->is_hidden = true;
    return MICA_OK;
}

static mica_status attach_all(mica_weights *w, const affine_hints *h, mica_err *err)
{
    for (size_t i = 0; i < w->count; i++) {
        mica_weights_entry *scales = w->list[i];
        mica_weights_entry *weight =
            mica_weights_find_sibling(w, scales->name, ".scales", ".weight");
        if (weight && weight->tensor.dtype == MICA_DTYPE_U32)
            MICA_TRY(attach(w, h, weight, scales,
                            mica_weights_find_sibling(w, scales->name, ".scales", ".biases"), err));
    }
    mica_weights_drop_hidden(w);
    return MICA_OK;
}

mica_status mica_weights_attach_affine(mica_weights *w, mica_err *err)
{
    affine_hints h = {.level = 0};
    bool any = false;
    for (size_t i = 0; i < w->count && !any; i++)
        any = w->list[i]->tensor.dtype == MICA_DTYPE_U32;
    if (!any)
        return MICA_OK;
    mica_status st = open_config(w, &h, err);
    if (st == MICA_OK)
        st = open_metadata(w, &h, err);
    if (st == MICA_OK)
        st = attach_all(w, &h, err);
    mica_json_close(&h.json);
    return st;
}
