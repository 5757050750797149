/* cpu_prepare.c - weights in the backend's own form, shared between sessions.
 *
 *     weight->prepared ──► mica_cpu_prepared ──► refs: one per backend that uses it
 *                                                  ▲
 *     be->prepared ────────────────────────────────┘ (all that this backend uses)
 *
 * Sessions of one engine share the engine's weights, so a packed or quantised weight must be
 * made once and live until its last user lets go. A process-wide lock guards every
 * prepared pointer and list; taking it costs nothing beside a matmul. While one session
 * prepares a weight the others wait, and find it ready. */
#include "backend/cpu/cpu_backend.h"

#include "base/half.h"
#include "base/mem.h"
#include "kernels/kernels.h"

#include <pthread.h>
#include <string.h>

struct mica_cpu_prepared_ref {
    mica_cpu_prepared *prepared;
    mica_cpu_backend *backend;
    mica_cpu_prepared_ref *next_of_weight;
    mica_cpu_prepared_ref *next_of_backend;
};

static pthread_mutex_t prepared_lock = PTHREAD_MUTEX_INITIALIZER;

static void prepared_free(mica_cpu_prepared *p)
{
    if (p->weight->prepared == p)
        p->weight->prepared = NULL;
    mica_cpu_free(p->data);
    mica_mem_free(p);
}

/* Unlinks *link (an element of be->prepared) and frees what nobody uses any more. */
static void ref_release(mica_cpu_prepared_ref **link)
{
    mica_cpu_prepared_ref *ref = *link;
    mica_cpu_prepared *p = ref->prepared;
    mica_cpu_prepared_ref **other = &p->refs;
    while (*other != ref)
        other = &(*other)->next_of_weight;
    *other = ref->next_of_weight;
    *link = ref->next_of_backend;
    mica_mem_free(ref);
    if (!p->refs)
        prepared_free(p);
}

/* Lets this backend go of everything it holds of `weight` (NULL: of every weight). */
static void release_of(mica_cpu_backend *be, const mica_weight *weight)
{
    mica_cpu_prepared_ref **link = &be->prepared;
    while (*link) {
        if (!weight || (*link)->prepared->weight == weight)
            ref_release(link);
        else
            link = &(*link)->next_of_backend;
    }
}

void mica_cpu_prepared_drop(mica_cpu_backend *be, mica_weight *weight)
{
    pthread_mutex_lock(&prepared_lock);
    if (weight->prepared)
        release_of(be, weight);
    pthread_mutex_unlock(&prepared_lock);
}

void mica_cpu_prepared_drop_all(mica_cpu_backend *be)
{
    pthread_mutex_lock(&prepared_lock);
    release_of(be, NULL);
    pthread_mutex_unlock(&prepared_lock);
}

static bool has_ref(const mica_cpu_backend *be, const mica_cpu_prepared *p)
{
    for (const mica_cpu_prepared_ref *r = p->refs; r; r = r->next_of_weight)
        if (r->backend == be)
            return true;
    return false;
}

static mica_status add_ref(mica_cpu_backend *be, mica_cpu_prepared *p, mica_err *err)
{
    mica_cpu_prepared_ref *ref = mica_mem_calloc(1, sizeof *ref);
    be->base.counters.allocations++;
    if (!ref)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a reference to a prepared weight");
    *ref = (mica_cpu_prepared_ref){p, be, p->refs, be->prepared};
    p->refs = ref;
    be->prepared = ref;
    return MICA_OK;
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
    p->weight = weight;
    p->data = mica_cpu_alloc(be, model->size);
    mica_status st = MICA_OK;
    if (!p->data)
        st = MICA_FAIL(err, MICA_E_NOMEM, "%s: %zu bytes for its packed form could not be had",
                       weight->name ? weight->name : "weight", model->size);
    if (!st)
        st = fn(be, weight, p, user, err);
    if (!st)
        st = add_ref(be, p, err);
    if (st) {
        mica_cpu_free(p->data);
        mica_mem_free(p);
        return st;
    }
    weight->prepared = p;
    *out = p;
    return MICA_OK;
}

static mica_status get_locked(mica_cpu_backend *be, mica_weight *weight,
                              const mica_cpu_prepared *model, mica_cpu_prepare_fn fn, void *user,
                              mica_cpu_prepared **out, mica_err *err)
{
    mica_cpu_prepared *p = weight->prepared;
    if (p && (p->kind != model->kind || p->layout != model->layout)) {
        /* Another layout is wanted. Users of the old one keep it until they let go; this
         * backend does so now, and the new form takes the place in the weight. */
        release_of(be, weight);
        p = NULL;
    }
    for (mica_cpu_prepared_ref *r = p ? NULL : be->prepared; r; r = r->next_of_backend)
        if (r->prepared->weight == weight && r->prepared->kind == model->kind &&
            r->prepared->layout == model->layout)
            p = r->prepared;
    if (!p)
        return prepared_make(be, weight, model, fn, user, out, err);
    if (!has_ref(be, p))
        MICA_TRY(add_ref(be, p, err));
    *out = p;
    return MICA_OK;
}

mica_status mica_cpu_prepared_get(mica_cpu_backend *be, mica_weight *weight,
                                  mica_cpu_prepared_kind kind, uint64_t layout, size_t size,
                                  mica_cpu_prepare_fn fn, void *user, const mica_cpu_prepared **out,
                                  mica_err *err)
{
    const mica_cpu_prepared model = {.kind = kind, .layout = layout, .size = size};
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
    if (!w->scale.data)
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
    default:
        for (int64_t i = 0; i < n; i++) { /* f64: conversion layers of old files, small */
            double d;
            memcpy(&d, src + 8 * i, 8);
            out[i] = (float)(d * (double)scale);
        }
    }
}

void mica_cpu_weight_to_f32(const mica_tensor *w, int64_t first, int64_t count, float *out)
{
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
    for (int64_t i = 0; i < count; i++)
        out[i] = scale_of(w, first + i);
}
