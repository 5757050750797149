/* weights_scale.c - quantised weights: what can be decoded is attached, the rest is refused.
 *
 *     X.weight         F8_E4M3 [out, in]  ◄─┐
 *     X.weight_scale   F32 [] or [out, 1] ──┘ becomes X.weight's .scale and leaves the list
 *     X.comfy_quant    U8, JSON {"format": "float8_e4m3fn"}     read, leaves the list
 *     X.input_scale    for 8-bit activations, unused            leaves the list
 *
 *   spelling          scale          activations    declared by
 *   old ComfyUI       X.scale_weight X.scale_input  marker tensor `scaled_fp8`
 *   new ComfyUI       X.weight_scale X.input_scale  X.comfy_quant, or the metadata key
 *                                                   `_quantization_metadata`
 *
 * In all of them value = stored * scale. Reference: ComfyUI QUANTIZATION.md and
 * comfy/utils.py convert_old_quants. A scale whose X.weight is absent stays listed, where the
 * model's own check will name it. Encodings that pack or permute values in other ways (NVFP4, GPTQ,
 * Nunchaku, bitsandbytes, DFloat11, block scales, rotated int8) are refused by name: read as
 * plain numbers they would give noise. */
#include "base/json.h"
#include "base/names.h"
#include "format/safetensors.h"
#include "format/weights_internal.h"

#include <cjson/cJSON.h>
#include <string.h>

#define MAX_DECLARATION 4096 /* bytes of a comfy_quant JSON; real ones have about 60 */

/* Tensor-name endings that exist only beside weights we cannot decode. */
static const struct {
    const char *suffix, *encoding;
} FOREIGN[] = {
    {".weight_scale_inv", "block-scaled fp8"},
    {".weight_scale_2", "NVFP4"},
    {".weight_packed", "packed integers (compressed-tensors)"},
    {".wscales", "SVDQuant (Nunchaku)"},
    {".qzeros", "GPTQ or AWQ"},
    {".qweight", "packed integers (GPTQ, AWQ or Nunchaku)"},
    {".quant_map", "bitsandbytes"},
    {".absmax", "bitsandbytes"},
    {".encoded_exponent", "DFloat11"},
};

/* "a.b" of "a.b.weight_scale" with another ending: the sibling's entry or NULL. */
static mica_weights_entry *find_sibling(const mica_weights *w, const char *stem, size_t n,
                                        const char *suffix)
{
    char name[1200]; /* above MICA_TENSOR_NAME_MAX plus any suffix here */
    const size_t m = strlen(suffix);
    if (n + m >= sizeof name)
        return NULL;
    memcpy(name, stem, n);
    memcpy(name + n, suffix, m + 1);
    return mica_weights_find_entry(w, name);
}

/* The X.weight that belongs to `name` if it ends in `suffix`. */
static mica_weights_entry *find_weight_of(const mica_weights *w, const char *name,
                                          const char *suffix)
{
    if (!mica_name_ends(name, suffix))
        return NULL;
    return find_sibling(w, name, strlen(name) - strlen(suffix), ".weight");
}

/* ---- declared formats ---- */

static mica_status set_fp8(const mica_weights *w, mica_weights_entry *e, mica_dtype dtype,
                           const char *format, mica_err *err)
{
    if (e->tensor.dtype == MICA_DTYPE_U8) /* some writers have no fp8 dtype and store bytes */
        e->tensor.dtype = dtype;
    if (e->tensor.dtype != dtype)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: tensor %s is declared %s but stored as %s",
                         mica_weights_file_path(w, e), e->name, format,
                         mica_dtype_get(e->tensor.dtype)->name);
    return MICA_OK;
}

/* One declaration {"format": ..., ...} for the layer `layer` whose weight is e (may be NULL:
 * then only the format itself is judged). */
static mica_status apply_format(const mica_weights *w, const char *path, const char *layer,
                                mica_weights_entry *e, const cJSON *object, mica_err *err)
{
    const cJSON *member = cJSON_IsObject(object) ? mica_json_find(object, "format") : object;
    const char *format =
        cJSON_IsString(member) ? mica_printable_text(member->valuestring) : "(none)";
    if (strcmp(format, "float8_e4m3fn") == 0)
        return e == NULL ? MICA_OK : set_fp8(w, e, MICA_DTYPE_F8_E4M3, format, err);
    if (strcmp(format, "float8_e5m2") == 0)
        return e == NULL ? MICA_OK : set_fp8(w, e, MICA_DTYPE_F8_E5M2, format, err);
    const bool is_int8 = strcmp(format, "int8_tensorwise") == 0;
    const bool is_rotated =
        cJSON_IsObject(object) && cJSON_IsTrue(mica_json_find(object, "convrot"));
    if (!is_int8 || is_rotated)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: layer %s is quantised as %s%s, which cannot be decoded here; use "
                         "the bf16 or fp8 version",
                         path, layer, format, is_rotated ? " with rotation (convrot)" : "");
    if (e != NULL && e->tensor.dtype != MICA_DTYPE_I8)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: tensor %s is declared %s but stored as %s", path,
                         e->name, format, mica_dtype_get(e->tensor.dtype)->name);
    if (e != NULL)
        e->needs_scale = true;
    return MICA_OK;
}

/* X.comfy_quant. The tensor's bytes are the only data that opening reads from a file. */
static mica_status read_declaration(const mica_weights *w, mica_weights_entry *e, mica_err *err)
{
    const char *path = mica_weights_file_path(w, e);
    const size_t size = mica_tensor_size(&e->tensor);
    char layer[1100] = "";
    mica_json json;
    memcpy(layer, e->name, strlen(e->name) - strlen(".comfy_quant"));
    if (e->tensor.dtype != MICA_DTYPE_U8 || size == 0 || size > MAX_DECLARATION)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: tensor %s is not a short JSON text", path,
                         e->name);
    mica_status st = mica_json_parse(&json, path, e->tensor.data, size, err);
    if (st != MICA_OK) {
        mica_err_prefix(err, "tensor %s", e->name);
        return st;
    }
    e->is_hidden = true;
    st = apply_format(w, path, layer, find_weight_of(w, e->name, ".comfy_quant"), json.root, err);
    mica_json_close(&json);
    return st;
}

/* Metadata {"layers": {"X": {"format": ...}}} of one file. */
static mica_status apply_layers(const mica_weights *w, const char *path, const cJSON *root,
                                mica_err *err)
{
    const cJSON *layers = cJSON_IsObject(root) ? mica_json_find(root, "layers") : NULL;
    const cJSON *layer;
    cJSON_ArrayForEach(layer, layers)
    {
        const char *name = mica_printable_text(layer->string == NULL ? "" : layer->string);
        mica_weights_entry *e = find_sibling(w, name, strlen(name), ".weight");
        MICA_TRY(apply_format(w, path, name, e, layer, err));
    }
    return MICA_OK;
}

static mica_status apply_metadata(const mica_weights *w, const mica_weights_file *f, mica_err *err)
{
    const char *path = f->map.path;
    for (size_t i = 0; i < f->metadata_count; i++) {
        const char *text = f->metadata[2 * i + 1];
        mica_json json;
        if (strcmp(f->metadata[2 * i], "_quantization_metadata") != 0)
            continue;
        mica_status st = mica_json_parse(&json, path, text, strlen(text), err);
        if (st != MICA_OK) {
            mica_err_prefix(err, "metadata key _quantization_metadata");
            return st;
        }
        st = apply_layers(w, path, json.root, err);
        mica_json_close(&json);
        MICA_TRY(st);
    }
    return MICA_OK;
}

static mica_status apply_declarations(const mica_weights *w, mica_err *err)
{
    for (size_t i = 0; i < w->file_count; i++)
        MICA_TRY(apply_metadata(w, &w->files[i], err));
    for (size_t i = 0; i < w->count; i++)
        if (mica_name_ends(w->list[i]->name, ".comfy_quant"))
            MICA_TRY(read_declaration(w, w->list[i], err));
    return MICA_OK;
}

/* ---- scales ---- */

static mica_status attach(const mica_weights *w, mica_weights_entry *weight,
                          mica_weights_entry *scale, mica_err *err)
{
    const mica_tensor *s = &scale->tensor;
    mica_tensor *t = &weight->tensor;
    const char *path = mica_weights_file_path(w, scale);
    const int64_t count = mica_tensor_count(s);
    const bool per_row = count != 1;
    char shape[96], scale_shape[96];
    if (t->dtype != MICA_DTYPE_F8_E4M3 && t->dtype != MICA_DTYPE_F8_E5M2 &&
        t->dtype != MICA_DTYPE_I8)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: %s scales a weight stored as %s; only fp8 and int8 "
                         "weights with a scale can be decoded",
                         path, scale->name, mica_tensor_describe(t, shape, sizeof shape));
    if (s->dtype != MICA_DTYPE_F32 && s->dtype != MICA_DTYPE_BF16 && s->dtype != MICA_DTYPE_F16)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: scale %s is %s, not f32, bf16 or f16", path,
                         scale->name, mica_dtype_get(s->dtype)->name);
    /* [out] or [out, 1, ...]: a row scale; anything else is a scale per block. */
    if (per_row && (t->ndim == 0 || s->ndim == 0 || count != t->shape_[0] || s->shape_[0] != count))
        return MICA_FAIL(
            err, MICA_E_UNSUPPORTED,
            "%s: scale %s %s does not fit weight %s: one scale, or one per row, can be "
            "decoded",
            path, scale->name, mica_tensor_describe(s, scale_shape, sizeof scale_shape),
            mica_tensor_describe(t, shape, sizeof shape));
    if (t->scale.data != NULL)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: tensor %s has two scales", path, weight->name);
    t->scale = (mica_tensor_scale){.data = s->data, .dtype = s->dtype, .per_row = per_row};
    scale->is_hidden = true;
    return MICA_OK;
}

static mica_status attach_one(const mica_weights *w, mica_weights_entry *e, mica_err *err)
{
    static const char *const SCALES[] = {".weight_scale", ".scale_weight"};
    static const char *const UNUSED[] = {".input_scale", ".scale_input"};
    if (strcmp(e->name, "scaled_fp8") == 0 || mica_name_ends(e->name, ".scaled_fp8"))
        e->is_hidden = true;
    for (size_t i = 0; i < MICA_ARRAY_LEN(UNUSED); i++)
        if (find_weight_of(w, e->name, UNUSED[i]) != NULL)
            e->is_hidden = true;
    for (size_t i = 0; i < MICA_ARRAY_LEN(SCALES); i++) {
        mica_weights_entry *weight = find_weight_of(w, e->name, SCALES[i]);
        if (weight != NULL)
            return attach(w, weight, e, err);
    }
    return MICA_OK;
}

static mica_status refuse_foreign(const mica_weights *w, const mica_weights_entry *e, mica_err *err)
{
    const char *encoding = NULL;
    for (size_t i = 0; i < MICA_ARRAY_LEN(FOREIGN) && encoding == NULL; i++)
        if (mica_name_ends(e->name, FOREIGN[i].suffix))
            encoding = FOREIGN[i].encoding;
    if (encoding == NULL)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                     "%s: tensor %s belongs to weights quantised as %s, which cannot be decoded "
                     "here; use the bf16 or fp8 version",
                     mica_weights_file_path(w, e), e->name, encoding);
}

mica_weights_entry *mica_weights_find_sibling(const mica_weights *w, const char *name,
                                              const char *suffix, const char *other)
{
    if (!mica_name_ends(name, suffix))
        return NULL;
    return find_sibling(w, name, strlen(name) - strlen(suffix), other);
}

mica_status mica_weights_attach_scales(mica_weights *w, mica_err *err)
{
    MICA_TRY(mica_weights_attach_affine(w, err));
    MICA_TRY(apply_declarations(w, err));
    for (size_t i = 0; i < w->count; i++)
        MICA_TRY(refuse_foreign(w, w->list[i], err));
    for (size_t i = 0; i < w->count; i++)
        MICA_TRY(attach_one(w, w->list[i], err));
    for (size_t i = 0; i < w->count; i++) {
        const mica_weights_entry *e = w->list[i];
        if (e->needs_scale && e->tensor.scale.data == NULL)
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: tensor %s is int8 but has no weight_scale",
                             mica_weights_file_path(w, e), e->name);
    }
    mica_weights_drop_hidden(w);
    return MICA_OK;
}
