/* cpu_prepare.c - weights in the backend's own form, shared between sessions.
 *
 *     engine's tensor ◄── weight of session A ──► mica_cpu_prepared ◄── weight of session B
 *                                                    refs: one per weight and backend
 *
 * Every session has its own table of weights, but all of them view the engine's tensors: a packed
 * or quantised form belongs to the tensor. All living forms stand in one hash table, found by
 * what they were made from; weight->prepared remembers the last form a weight was given. A form
 * is made once and lives until its last user lets go. What a tensor views does not change
 * while a form of it lives.
 *
 * A process-wide lock guards the table, every prepared pointer and every list; taking it costs
 * nothing beside a matmul. While one session prepares a weight the others wait, and find it
 * ready. */
#include "backend/cpu/cpu_backend.h"

#include "base/half.h"
#include "base/mem.h"
#include "kernels/kernels.h"
#include "tensor/packed.h"

#include <pthread.h>
#include <string.h>

#define BUCKETS 1024 /* a full-size transformer has 840 weights that are prepared */

struct mica_cpu_prepared_ref {
    mica_cpu_prepared *prepared;
    mica_cpu_backend *backend;
    mica_weight *weight;
    mica_cpu_prepared_ref *next_of_prepared;
    mica_cpu_prepared_ref *next_of_backend;
};

static pthread_mutex_t prepared_lock = PTHREAD_MUTEX_INITIALIZER;
static mica_cpu_prepared *buckets[BUCKETS];

/* ---------------------------------------------------------------- table -- */

static mica_cpu_prepared **bucket_of(const mica_tensor *t)
{
    const uint64_t h = (uint64_t)(uintptr_t)t->data * 0x9e3779b97f4a7c15u;
    return &buckets[h >> 54]; /* BUCKETS: 10 bits */
}

static bool same_tensor(const mica_tensor *a, const mica_tensor *b)
{
    bool same = a->data == b->data && a->dtype == b->dtype && a->ndim == b->ndim &&
                a->scale.data == b->scale.data;
    if (same && a->scale.data)
        same = a->scale.dtype == b->scale.dtype && a->scale.per_row == b->scale.per_row &&
               a->scale.group == b->scale.group && a->scale.bias == b->scale.bias;
    for (int i = 0; same && i < a->ndim; i++)
        same = a->shape_[i] == b->shape_[i] && a->stride_[i] == b->stride_[i];
    return same;
}

/* Made from the same numbers, in the same form. */
static bool same_form(const mica_cpu_prepared *a, const mica_cpu_prepared *b)
{
    return a->kind == b->kind && a->layout == b->layout && same_tensor(&a->tensor, &b->tensor);
}

static mica_cpu_prepared *find(const mica_cpu_prepared *model)
{
    mica_cpu_prepared *p = *bucket_of(&model->tensor);
    while (p && !same_form(p, model))
        p = p->next;
    return p;
}

static void prepared_free(mica_cpu_prepared *p)
{
    mica_cpu_prepared **link = bucket_of(&p->tensor);
    while (*link != p)
        link = &(*link)->next;
    *link = p->next;
    mica_cpu_free(p->data);
    mica_mem_free(p);
}

/* ----------------------------------------------------------- references -- */

static mica_cpu_prepared_ref *find_ref(const mica_cpu_prepared *p, const mica_weight *weight,
                                       const mica_cpu_backend *be)
{
    mica_cpu_prepared_ref *r = p->refs;
    while (r && (r->weight != weight || (be && r->backend != be)))
        r = r->next_of_prepared;
    return r;
}

/* Unlinks *link (an element of be->prepared) and frees what nobody uses any more. */
static void ref_release(mica_cpu_prepared_ref **link)
{
    mica_cpu_prepared_ref *ref = *link;
    mica_cpu_prepared *p = ref->prepared;
    mica_cpu_prepared_ref **other = &p->refs;
    while (*other != ref)
        other = &(*other)->next_of_prepared;
    *other = ref->next_of_prepared;
    *link = ref->next_of_backend;
    if (ref->weight->prepared == p && !find_ref(p, ref->weight, NULL))
        ref->weight->prepared = NULL;
    mica_mem_free(ref);
    if (!p->refs)
        prepared_free(p);
}

/* Lets this backend go of what it holds of `weight` (NULL: of every weight), of one kind or of all (0). */
static void release_of(mica_cpu_backend *be, const mica_weight *weight, int kind)
{
    mica_cpu_prepared_ref **link = &be->prepared;
    while (*link) {
        if ((!weight || (*link)->weight == weight) &&
            (!kind || (int)(*link)->prepared->kind == kind))
            ref_release(link);
        else
            link = &(*link)->next_of_backend;
    }
}

void mica_cpu_prepared_drop(mica_cpu_backend *be, mica_weight *weight)
{
    pthread_mutex_lock(&prepared_lock);
    release_of(be, weight, 0);
    pthread_mutex_unlock(&prepared_lock);
}

void mica_cpu_prepared_drop_all(mica_cpu_backend *be)
{
    pthread_mutex_lock(&prepared_lock);
    release_of(be, NULL, 0);
    pthread_mutex_unlock(&prepared_lock);
}

static mica_status add_ref(mica_cpu_backend *be, mica_weight *weight, mica_cpu_prepared *p,
                           mica_err *err)
{
    mica_cpu_prepared_ref *ref = mica_mem_calloc(1, sizeof *ref);
    be->base.counters.allocations++;
    if (!ref)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a reference to a prepared weight");
    *ref = (mica_cpu_prepared_ref){p, be, weight, p->refs, be->prepared};
    p->refs = ref;
    be->prepared = ref;
    return MICA_OK;
}

/* --------------------------------------------------------------- making -- */

static mica_status fill(mica_cpu_backend *be, mica_weight *weight, mica_cpu_prepared *p,
                        mica_cpu_prepare_fn fn, void *user, mica_err *err)
{
    p->data = mica_cpu_alloc(be, p->size);
    if (!p->data)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: %zu bytes for its packed form could not be had",
                         weight->name ? weight->name : "weight", p->size);
    MICA_TRY(fn(be, weight, p, user, err));
    return add_ref(be, weight, p, err);
}

static mica_status prepared_make(mica_cpu_backend *be, mica_weight *weight,
                                 const mica_cpu_prepared *model, mica_cpu_prepare_fn fn, void *user,
                                 mica_cpu_prepared **out, mica_err *err)
{
    mica_cpu_prepared *p = mica_mem_calloc(1, sizeof *p);
    be->base.counters.allocations++;
    if (!p)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a prepared weight");
    *p = *model;
    const mica_status st = fill(be, weight, p, fn, user, err);
    if (st) {
        mica_cpu_free(p->data);
        mica_mem_free(p);
        return st;
    }
    p->next = *bucket_of(&p->tensor);
    *bucket_of(&p->tensor) = p;
    *out = p;
    return MICA_OK;
}

static mica_status get_locked(mica_cpu_backend *be, mica_weight *weight,
                              const mica_cpu_prepared *model, mica_cpu_prepare_fn fn, void *user,
                              mica_cpu_prepared **out, mica_err *err)
{
    mica_cpu_prepared *p = weight->prepared;
    if (!p || !same_form(p, model))
        p = find(model);
    if (!p || !find_ref(p, weight, be)) {
        release_of(be, weight, (int)model->kind); /* another form of the kind: one at a time */
        if (p)
            MICA_TRY(add_ref(be, weight, p, err));
        else
            MICA_TRY(prepared_make(be, weight, model, fn, user, &p, err));
    }
    weight->prepared = p;
    *out = p;
    return MICA_OK;
}

mica_status mica_cpu_prepared_get(mica_cpu_backend *be, mica_weight *weight,
                                  mica_cpu_prepared_kind kind, uint64_t layout, size_t size,
                                  mica_cpu_prepare_fn fn, void *user, const mica_cpu_prepared **out,
                                  mica_err *err)
{
    const mica_cpu_prepared model = {
        .kind = kind, .layout = layout, .size = size, .tensor = weight->tensor};
    mica_cpu_prepared *p = NULL;
    pthread_mutex_lock(&prepared_lock);
    const mica_status st = get_locked(be, weight, &model, fn, user, &p, err);
    pthread_mutex_unlock(&prepared_lock);
    *out = p;
    return st;
}

/* ------------------------------------------------------------ to f32 -- */

static float scale_of(const mica_tensor *w, int64_t row)
{
    if (!w->scale.data || w->scale.group)
        return 1.0f;
    const int64_t n = w->scale.per_row ? row + 1 : 1;
    mica_tensor t = mica_tensor_1d((void *)(uintptr_t)w->scale.data, w->scale.dtype, n);
    return mica_tensor_read_f32(&t, n - 1);
}

static void convert(const mica_tensor *w, const uint8_t *src, int64_t n, float scale, float *out)
{
    const mica_kernels *k = mica_kernels_get();
    switch (w->dtype) {
    case MICA_DTYPE_F32:
        k->mul_scalar(n, scale, (const float *)(const void *)src, out);
        break;
    case MICA_DTYPE_BF16:
        k->f32_from_bf16(n, (const uint16_t *)(const void *)src, scale, out);
        break;
    case MICA_DTYPE_F16:
        k->f32_from_f16(n, (const uint16_t *)(const void *)src, scale, out);
        break;
    case MICA_DTYPE_F8_E4M3:
        k->f32_from_f8_e4m3(n, src, scale, out);
        break;
    case MICA_DTYPE_F8_E5M2:
        k->f32_from_f8_e5m2(n, src, scale, out);
        break;
    case MICA_DTYPE_I8:
        for (int64_t i = 0; i < n; i++)
            out[i] = scale * (float)(int8_t)src[i];
        break;
    default:
        for (int64_t i = 0; i < n; i++) { /* f64: conversion layers of old files, small */
            double d;
            memcpy(&d, src + 8 * i, 8);
            out[i] = (float)(d * (double)scale);
        }
    }
}

/* Numbers [column, column + n) of a row of packed blocks, `at` the row's first element. */
static void packed_to_f32(const mica_tensor *w, int64_t at, int64_t column, int64_t n, float *out)
{
    const mica_dtype_info *info = mica_dtype_get(w->dtype);
    float block[MICA_PACKED_BLOCK];
    mica_tensor view = *w; /* of the block: its scales are found by offset */
    if (column == 0 && n == w->shape_[w->ndim - 1] &&
        at % n == 0) { /* a whole row: the kernels' business */
        view = mica_tensor_2d(w->data, w->dtype, at / n + 1, n);
        view.scale = w->scale;
        const mica_packed_rows row = mica_cpu_packed_rows(&view, at / n, 1, 0, n, NULL);
        mica_kernels_get()->unpack_f32(&row, out, n);
        return;
    }
    while (n > 0) {
        const int64_t skip = column % info->block, part = MICA_MIN(n, info->block - skip);
        const int64_t offset = at + column - skip;
        mica_packed_read_block(w->dtype, (const uint8_t *)w->data + mica_tensor_offset(w, offset),
                               block);
        if (w->scale.group) {
            const int64_t g = offset / w->scale.group;
            view = mica_tensor_1d((void *)(uintptr_t)w->scale.data, w->scale.dtype, g + 1);
            const float scale = mica_tensor_read_f32(&view, g);
            view.data = (void *)(uintptr_t)w->scale.bias;
            const float bias = view.data ? mica_tensor_read_f32(&view, g) : 0.0f;
            for (int i = 0; i < info->block; i++)
                block[i] = block[i] * scale + bias;
        }
        memcpy(out, block + skip, (size_t)part * sizeof(float));
        column += part;
        out += part;
        n -= part;
    }
}

/* Any elements of a packed weight in row-major order. */
static void packed_range_to_f32(const mica_tensor *w, int64_t first, int64_t count, float *out)
{
    const int64_t length = w->shape_[w->ndim - 1];
    const int64_t rows = w->ndim > 1 ? mica_tensor_count(w) / w->shape_[0] / length : 1;
    while (count > 0) {
        const int64_t row = first / length, column = first % length;
        const int64_t n = MICA_MIN(count, length - column);
        const int64_t at = w->ndim > 1 ? row / rows * w->stride_[0] + row % rows * length : 0;
        packed_to_f32(w, at, column, n, out);
        for (int64_t i = 0; w->scale.data && w->scale.per_row && i < n; i++)
            out[i] *= scale_of(w, row);
        first += n;
        count -= n;
        out += n;
    }
}

void mica_cpu_weight_to_f32(const mica_tensor *w, int64_t first, int64_t count, float *out)
{
    if (mica_dtype_is_packed(w->dtype)) {
        packed_range_to_f32(w, first, count, out);
        return;
    }
    const size_t size = (size_t)mica_dtype_get(w->dtype)->size;
    const bool rows = w->ndim > 1 && (w->scale.data || w->stride_[0] != w->shape_[1]);
    if (!rows && !(w->scale.data && w->scale.per_row)) {
        convert(w, (const uint8_t *)w->data + size * (size_t)first, count, scale_of(w, 0), out);
        return;
    }
    const int64_t length = w->ndim > 1 ? mica_tensor_count(w) / w->shape_[0] : 1;
    const int64_t stride = w->ndim > 0 ? w->stride_[0] : 1;
    while (count > 0) {
        const int64_t row = first / length, column = first % length;
        const int64_t n = MICA_MIN(count, length - column);
        const uint8_t *src = (const uint8_t *)w->data + size * (size_t)(row * stride + column);
        convert(w, src, n, scale_of(w, row), out);
        first += n;
        count -= n;
        out += n;
    }
}

void mica_cpu_weight_scales(const mica_tensor *w, int64_t first, int64_t count, float *out)
{
    if (!w->scale.data || w->scale.group || !w->scale.per_row) {
        const float scale = scale_of(w, 0);
        for (int64_t i = 0; i < count; i++)
            out[i] = scale;
        return;
    }
    /* As a vector: a row of 4,096 bytes takes memory 100 ns, and to look at its scale alone took 30 more. */
    const mica_tensor scales =
        mica_tensor_1d((void *)(uintptr_t)w->scale.data, w->scale.dtype, first + count);
    mica_cpu_weight_to_f32(&scales, first, count, out);
}
