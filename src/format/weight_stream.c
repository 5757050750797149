/* weight_stream.c - headers of GGUF and safetensors files, and data at known places.
 *
 *     safetensors   wider elements first, which aligns all of them without holes (the format has none)
 *     GGUF          the given order, every tensor at a multiple of 32
 *
 * Names and shapes come from a file that was checked when it was opened; sizes are counted with care all
 * the same. */
#include "format/weight_stream.h"

#include "base/checked.h"
#include "base/json.h"
#include "base/mem.h"
#include "format/gguf.h"
#include "format/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define GGUF_VERSION   3
#define GGUF_ALIGNMENT 32

/* GGUF's numbers of value types. */
enum {
    TYPE_U32 = 4,
    TYPE_I32 = 5,
    TYPE_F32 = 6,
    TYPE_BOOL = 7,
    TYPE_STRING = 8,
    TYPE_ARRAY = 9,
    TYPE_I64 = 11
};

bool mica_stream_is_gguf(const char *path)
{
    const size_t n = strlen(path);
    return n >= 5 && strcmp(path + n - 5, ".gguf") == 0;
}

static mica_status count_bytes(const char *path, const mica_stream_tensor *t, uint64_t *out,
                               mica_err *err)
{
    const mica_dtype_info *info = mica_dtype_get(t->dtype);
    size_t bytes = (size_t)info->size;
    bool fits = true;
    for (int i = 0; i < t->ndim; i++) {
        const int64_t n = i == t->ndim - 1 ? t->shape_[i] / info->block : t->shape_[i];
        fits = fits && mica_mul_size(bytes, (size_t)n, &bytes);
    }
    if (!fits || bytes > INT64_MAX / 4)
        return MICA_FAIL(err, MICA_E_USAGE, "%s: tensor %s is too large", path, t->name);
    *out = bytes;
    return MICA_OK;
}

/* ---------------------------------------------------------- safetensors -- */

typedef struct placed {
    mica_stream_tensor *tensor;
    size_t given;
} placed;

static int compare_placement(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    const int p = mica_dtype_get(x->tensor->dtype)->size;
    const int q = mica_dtype_get(y->tensor->dtype)->size;
    if (p != q)
        return p > q ? -1 : 1;
    return x->given < y->given ? -1 : 1;
}

static void add_tensor_json(mica_text *h, const mica_stream_tensor *t, uint64_t bytes)
{
    mica_text_add_json_string(h, t->name);
    mica_text_add(h, ":{\"dtype\":\"%s\",\"shape\":[", mica_dtype_get(t->dtype)->safetensors_name);
    for (int i = 0; i < t->ndim; i++)
        mica_text_add(h, "%s%" PRId64, i ? "," : "", t->shape_[i]);
    mica_text_add(h, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", t->begin, t->begin + bytes);
}

static void add_metadata(mica_text *h, const mica_stream_value *values, size_t count)
{
    const char *between = "";
    mica_text_add(h, "{\"__metadata__\":{");
    for (size_t i = 0; i < count; i++) {
        if (values[i].kind != MICA_STREAM_TEXT)
            continue;
        mica_text_add(h, "%s", between);
        mica_text_add_json_string(h, values[i].key);
        mica_text_add(h, ":");
        mica_text_add_json_string(h, values[i].text);
        between = ",";
    }
    mica_text_add(h, "}");
}

static mica_status place_safetensors(const char *path, placed *order, size_t count, mica_text *h,
                                     mica_err *err)
{
    uint64_t at = 0;
    qsort(order, count, sizeof *order, compare_placement);
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = 0;
        MICA_TRY(count_bytes(path, order[i].tensor, &bytes, err));
        order[i].tensor->begin = at;
        mica_text_add(h, ",");
        add_tensor_json(h, order[i].tensor, bytes);
        at += bytes;
    }
    mica_text_add(h, "}");
    while (!h->failed && h->size % 8 != 0)
        mica_text_add(h, " ");
    return MICA_OK;
}

static mica_status make_safetensors(const char *path, mica_stream_tensor *tensors, size_t count,
                                    const mica_stream_value *values, size_t value_count,
                                    mica_text *out, mica_err *err)
{
    mica_text h = {0};
    placed *order = mica_mem_calloc(count + 1, sizeof *order);
    for (size_t i = 0; order && i < count; i++)
        order[i] = (placed){&tensors[i], i};
    add_metadata(&h, values, value_count);
    mica_status st = order ? place_safetensors(path, order, count, &h, err) : MICA_E_NOMEM;
    mica_mem_free(order);
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)h.size >> 8 * i);
    mica_text_add_bytes(out, (const char *)length, 8);
    mica_text_add_bytes(out, h.data ? h.data : "", h.size);
    out->failed |= h.failed;
    if (!st && h.size > MICA_SAFETENSORS_MAX_HEADER)
        st = MICA_FAIL(err, MICA_E_USAGE, "%s: a header of %zu bytes is above the format's %d",
                       path, h.size, MICA_SAFETENSORS_MAX_HEADER);
    mica_text_deinit(&h);
    return st;
}

/* ----------------------------------------------------------------- GGUF -- */

static void put(mica_text *h, uint64_t v, int size)
{
    char bytes[8];
    for (int i = 0; i < size; i++)
        bytes[i] = (char)(uint8_t)(v >> 8 * i);
    mica_text_add_bytes(h, bytes, (size_t)size);
}

static void put_string(mica_text *h, const char *s)
{
    put(h, strlen(s), 8);
    mica_text_add_bytes(h, s, strlen(s));
}

static void put_float(mica_text *h, double number)
{
    const float f = (float)number;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    put(h, bits, 4);
}

static void put_list(mica_text *h, const mica_stream_value *v)
{
    const char *const *texts = v->list;
    const float *floats = v->list;
    const int32_t *ints = v->list;
    put(h, TYPE_ARRAY, 4);
    put(h,
        v->kind == MICA_STREAM_TEXTS    ? TYPE_STRING
        : v->kind == MICA_STREAM_FLOATS ? TYPE_F32
                                        : TYPE_I32,
        4);
    put(h, v->count, 8);
    for (size_t i = 0; i < v->count && !h->failed; i++)
        if (v->kind == MICA_STREAM_TEXTS)
            put_string(h, texts[i]);
        else if (v->kind == MICA_STREAM_FLOATS)
            put_float(h, (double)floats[i]);
        else
            put(h, (uint32_t)ints[i], 4);
}

/* Whole numbers keep their value, not their width: readers take any. */
static void put_meta(mica_text *h, const mica_meta *m)
{
    if (m->type == MICA_META_STRING) {
        put(h, TYPE_STRING, 4);
        put_string(h, m->text);
    } else if (m->type == MICA_META_ARRAY) {
        put(h, TYPE_ARRAY, 4);
        put(h, m->stored, 4);
        put(h, m->count, 8);
        mica_text_add_bytes(h, (const char *)m->data, m->size);
    } else if (m->type == MICA_META_BOOL) {
        put(h, TYPE_BOOL, 4);
        put(h, m->integer != 0, 1);
    } else if (m->type == MICA_META_FLOAT) {
        put(h, TYPE_F32, 4);
        put_float(h, m->number);
    } else {
        const bool fits = m->integer >= 0 && m->integer <= UINT32_MAX;
        put(h, fits ? TYPE_U32 : TYPE_I64, 4);
        put(h, (uint64_t)m->integer, fits ? 4 : 8);
    }
}

static void put_value(mica_text *h, const mica_stream_value *v)
{
    put_string(h, v->key);
    if (v->kind == MICA_STREAM_META)
        put_meta(h, v->meta);
    else if (v->kind == MICA_STREAM_TEXT) {
        put(h, TYPE_STRING, 4);
        put_string(h, v->text);
    } else if (v->kind == MICA_STREAM_F32) {
        put(h, TYPE_F32, 4);
        put_float(h, v->number);
    } else if (v->kind == MICA_STREAM_U32) {
        put(h, TYPE_U32, 4);
        put(h, (uint32_t)v->number, 4);
    } else if (v->kind == MICA_STREAM_BOOL) {
        put(h, TYPE_BOOL, 4);
        put(h, v->number != 0.0, 1);
    } else
        put_list(h, v);
}

static mica_status put_tensor(const char *path, mica_text *h, mica_stream_tensor *t, uint64_t *at,
                              mica_err *err)
{
    uint64_t bytes = 0;
    const int type = mica_gguf_type_of(t->dtype);
    if (type < 0 || t->ndim > 4)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: tensor %s (%s, %d dimensions) has no place in a GGUF file", path,
                         t->name, mica_dtype_get(t->dtype)->name, t->ndim);
    MICA_TRY(count_bytes(path, t, &bytes, err));
    put_string(h, t->name);
    put(h, (uint64_t)t->ndim, 4);
    for (int i = t->ndim - 1; i >= 0; i--)
        put(h, (uint64_t)t->shape_[i], 8);
    put(h, (uint64_t)type, 4);
    put(h, *at, 8);
    t->begin = *at;
    *at = (*at + bytes + GGUF_ALIGNMENT - 1) / GGUF_ALIGNMENT * GGUF_ALIGNMENT;
    return MICA_OK;
}

static mica_status make_gguf(const char *path, mica_stream_tensor *tensors, size_t count,
                             const mica_stream_value *values, size_t value_count, mica_text *h,
                             mica_err *err)
{
    uint64_t at = 0;
    mica_text_add_bytes(h, "GGUF", 4);
    put(h, GGUF_VERSION, 4);
    put(h, count, 8);
    put(h, value_count, 8);
    for (size_t i = 0; i < value_count; i++)
        put_value(h, &values[i]);
    for (size_t i = 0; i < count; i++)
        MICA_TRY(put_tensor(path, h, &tensors[i], &at, err));
    while (!h->failed && h->size % GGUF_ALIGNMENT != 0)
        put(h, 0, 1);
    return MICA_OK;
}

/* ----------------------------------------------------------------- file -- */

/* Space between and behind tensors reads as zeros, and the file has its full length at once. */
static mica_status reserve(mica_weight_stream *s, const char *path,
                           const mica_stream_tensor *tensors, size_t count, uint64_t least,
                           mica_err *err)
{
    uint64_t end = least;
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = 0;
        MICA_TRY(count_bytes(path, &tensors[i], &bytes, err));
        end = MICA_MAX(end, tensors[i].begin + bytes);
    }
    return mica_file_out_resize(&s->file, end, err);
}

mica_status mica_weight_stream_open(mica_weight_stream *s, const char *path,
                                    mica_stream_tensor *tensors, size_t count,
                                    const mica_stream_value *values, size_t value_count,
                                    mica_err *err)
{
    mica_text h = {0};
    *s = (mica_weight_stream){.file = {.fd = -1}};
    mica_status st = mica_stream_is_gguf(path)
                         ? make_gguf(path, tensors, count, values, value_count, &h, err)
                         : make_safetensors(path, tensors, count, values, value_count, &h, err);
    if (h.failed || (st == MICA_E_NOMEM))
        st = MICA_FAIL(err, MICA_E_NOMEM, "%s: out of memory for the header", path);
    for (size_t i = 0; i < count; i++)
        tensors[i].begin += h.size;
    if (!st)
        st = mica_file_out_open(&s->file, path, err);
    if (!st)
        st = mica_file_out_write(&s->file, h.data, h.size, err);
    if (!st)
        st = reserve(s, path, tensors, count, h.size, err);
    mica_text_deinit(&h);
    if (st)
        mica_weight_stream_abort(s);
    return st;
}

mica_status mica_weight_stream_write(mica_weight_stream *s, const mica_stream_tensor *t,
                                     uint64_t offset, const void *data, size_t size, mica_err *err)
{
    return mica_file_out_write_at(&s->file, t->begin + offset, data, size, err);
}

mica_status mica_weight_stream_commit(mica_weight_stream *s, mica_err *err)
{
    return mica_file_out_commit(&s->file, err);
}

void mica_weight_stream_abort(mica_weight_stream *s)
{
    mica_file_out_abort(&s->file);
}
