/* cuda_prepare.c - weights on the device, uploaded at first use and shared between sessions.
 *
 *     engine's tensor ◄── weight of session A ──► form (device) ◄── weight of session B
 *                                                  refs: one per weight and backend
 *
 *     file mapping ─rows─► pinned slot ──► device, as it is                  same type, no padding
 *                                     └──► device slot ─convert─► device     any other type, scales
 *
 * As on the CPU (cpu_prepare.c) a form belongs to the tensor it was made from: all living forms stand
 * in one hash table behind a process-wide lock, and weight->prepared remembers the last one a weight
 * was given. A weight may be wanted in two forms (a bias for cuBLASLt and for own kernels). Another
 * backend's stream waits on the device, not on the host, for `ready`. The last user frees:
 * cudaFree waits for the whole device, so nobody can still be reading. */
#include "backend/cuda/cuda_backend.h"

#include "base/mem.h"

#include <pthread.h>
#include <string.h>

#define BUCKETS 4096

struct mica_cuda_prepared {
    mica_cuda_form form;
    mica_cuda_type type;
    mica_tensor tensor; /* what it was made from */
    int64_t rows, cols, ld;
    void *data;
    cudaEvent_t ready;
    mica_cuda_ref *refs;
    mica_cuda_prepared *next; /* in its bucket */
};

struct mica_cuda_ref {
    mica_cuda_prepared *prepared;
    mica_cuda_backend *backend;
    mica_weight *weight;
    mica_cuda_ref *next_of_prepared, *next_of_backend;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static mica_cuda_prepared *buckets[BUCKETS];

static const char *name_of(const mica_weight *w)
{
    return w->name ? w->name : "weight";
}

/* ------------------------------------------------------------------ table -- */

static mica_cuda_prepared **bucket_of(const mica_tensor *t)
{
    const uint64_t h = (uint64_t)(uintptr_t)t->data * 0x9e3779b97f4a7c15u;
    return &buckets[h >> 52]; /* BUCKETS: 12 bits */
}

static bool same_tensor(const mica_tensor *a, const mica_tensor *b)
{
    bool same = a->data == b->data && a->dtype == b->dtype && a->ndim == b->ndim &&
                a->scale.data == b->scale.data;
    if (same && a->scale.data)
        same = a->scale.dtype == b->scale.dtype && a->scale.per_row == b->scale.per_row;
    for (int i = 0; same && i < a->ndim; i++)
        same = a->shape_[i] == b->shape_[i] && a->stride_[i] == b->stride_[i];
    return same;
}

static bool same_form(const mica_cuda_prepared *a, const mica_cuda_prepared *b)
{
    return a->form == b->form && a->type == b->type && same_tensor(&a->tensor, &b->tensor);
}

static mica_cuda_prepared *find(const mica_cuda_prepared *model)
{
    mica_cuda_prepared *p = *bucket_of(&model->tensor);
    while (p && !same_form(p, model))
        p = p->next;
    return p;
}

static void prepared_free(mica_cuda_backend *be, mica_cuda_prepared *p)
{
    mica_cuda_free(be, p->data);
    if (p->ready)
        (void)cudaEventDestroy(p->ready);
    mica_mem_free(p);
}

/* ------------------------------------------------------------- references -- */

/* The reference of `weight` to p; be NULL: of any backend. */
static mica_cuda_ref *find_ref(const mica_cuda_prepared *p, const mica_weight *weight,
                               const mica_cuda_backend *be)
{
    mica_cuda_ref *r = p->refs;
    while (r && (r->weight != weight || (be && r->backend != be)))
        r = r->next_of_prepared;
    return r;
}

/* Unlinks *link (an element of be->prepared) and frees what nobody uses any more. */
static void ref_release(mica_cuda_backend *be, mica_cuda_ref **link)
{
    mica_cuda_ref *ref = *link;
    mica_cuda_prepared *p = ref->prepared;
    mica_cuda_ref **other = &p->refs;
    while (*other != ref)
        other = &(*other)->next_of_prepared;
    *other = ref->next_of_prepared;
    *link = ref->next_of_backend;
    if (ref->weight->prepared == p && !find_ref(p, ref->weight, NULL))
        ref->weight->prepared = NULL;
    mica_mem_free(ref);
    if (p->refs)
        return;
    mica_cuda_prepared **place = bucket_of(&p->tensor);
    while (*place != p)
        place = &(*place)->next;
    *place = p->next;
    prepared_free(be, p);
}

void mica_cuda_weight_drop(mica_cuda_backend *be, mica_weight *w)
{
    pthread_mutex_lock(&lock);
    mica_cuda_ref **link = &be->prepared;
    while (*link) {
        if (!w || (*link)->weight == w)
            ref_release(be, link);
        else
            link = &(*link)->next_of_backend;
    }
    pthread_mutex_unlock(&lock);
}

static mica_status add_ref(mica_cuda_backend *be, mica_weight *w, mica_cuda_prepared *p,
                           mica_err *err)
{
    mica_cuda_ref *ref = mica_mem_calloc(1, sizeof *ref);
    be->base.counters.allocations++;
    if (!ref)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a reference to a weight");
    *ref = (mica_cuda_ref){p, be, w, p->refs, be->prepared};
    p->refs = be->prepared = ref;
    return MICA_OK;
}

/* ----------------------------------------------------------------- upload -- */

float mica_cuda_weight_scale(const mica_tensor *w, int64_t row)
{
    if (!w->scale.data)
        return 1.0f;
    const int64_t at = w->scale.per_row ? row : 0;
    mica_tensor t = mica_tensor_1d((void *)(uintptr_t)w->scale.data, w->scale.dtype, at + 1);
    return mica_tensor_read_f32(&t, at);
}

/* Row `row` of the form, as it lies in the file, to `to`. */
static void gather_row(const mica_cuda_prepared *p, int64_t row, uint8_t *to)
{
    const mica_tensor *w = &p->tensor;
    const size_t size = (size_t)mica_dtype_get(w->dtype)->size;
    const uint8_t *from = w->data;
    if (p->form != MICA_CUDA_FORM_CONV) {
        const int64_t step = p->rows > 1 ? w->stride_[0] : 0;
        memcpy(to, from + (size_t)(row * step) * size, (size_t)p->cols * size);
        return;
    }
    const int64_t *n = w->shape_, *step = w->stride_;
    for (int64_t ky = 0; ky < n[2]; ky++)
        for (int64_t kx = 0; kx < n[3]; kx++)
            for (int64_t c = 0; c < n[1]; c++, to += size)
                memcpy(to,
                       from + (size_t)(row * step[0] + c * step[1] + ky * step[2] + kx * step[3]) *
                                  size,
                       size);
}

/* Rows [first, first + count) through one slot. */
static mica_status upload_part(mica_cuda_backend *be, const mica_cuda_prepared *p, int64_t first,
                               int64_t count, mica_err *err)
{
    const mica_tensor *w = &p->tensor;
    const mica_cuda_type type = mica_cuda_type_of(w->dtype);
    const size_t row_size = (size_t)p->cols * mica_cuda_type_size(type);
    const size_t raw = mica_cuda_align(row_size * (size_t)count);
    uint8_t *to = (uint8_t *)p->data + (size_t)(first * p->ld) * mica_cuda_type_size(p->type);
    const bool scaled = w->scale.data != NULL, plain = type == p->type && p->ld == p->cols;
    void *host;
    MICA_TRY(mica_cuda_stage_open(be, &host, err));
    for (int64_t r = 0; r < count; r++)
        gather_row(p, first + r, (uint8_t *)host + (size_t)r * row_size);
    for (int64_t r = 0; scaled && r < count; r++)
        ((float *)(void *)((uint8_t *)host + raw))[r] = mica_cuda_weight_scale(w, first + r);
    const bool convert = scaled || !plain;
    const size_t bytes = scaled ? raw + (size_t)count * sizeof(float) : row_size * (size_t)count;
    MICA_TRY(mica_cuda_check(cudaMemcpyAsync(convert ? be->stage_dev : to, host, bytes,
                                             cudaMemcpyHostToDevice, be->stream),
                             "uploading a weight", err));
    MICA_TRY(mica_cuda_stage_close(be, err));
    if (!convert)
        return MICA_OK;
    const mica_cuda_convert_args args = {
        .src = be->stage_dev,
        .src_type = type,
        .dst_type = p->type,
        .rows = count,
        .cols = p->cols,
        .ld = p->ld,
        .scale = scaled ? (const float *)(void *)((uint8_t *)be->stage_dev + raw) : NULL,
        .dst = to};
    return mica_cuda_check(mica_cuda_convert(&args, be->stream), "converting a weight", err);
}

static mica_status upload(mica_cuda_backend *be, mica_cuda_prepared *p, const char *name,
                          mica_err *err)
{
    const size_t size = (size_t)mica_dtype_get(p->tensor.dtype)->size;
    const size_t row_size = (size_t)p->cols * size + sizeof(float);
    const int64_t most = (int64_t)((MICA_CUDA_STAGE_SIZE - 512) / row_size);
    if (most < 1)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: a row of %zu bytes is too long to upload",
                         name, row_size);
    if (!be->stage_dev)
        MICA_TRY(mica_cuda_alloc(be, MICA_CUDA_STAGE_SIZE, "staging", &be->stage_dev, err));
    for (int64_t first = 0; first < p->rows; first += most)
        MICA_TRY(upload_part(be, p, first, MICA_MIN(most, p->rows - first), err));
    MICA_TRY(mica_cuda_check(cudaEventCreateWithFlags(&p->ready, cudaEventDisableTiming),
                             "creating an event", err));
    return mica_cuda_check(cudaEventRecord(p->ready, be->stream), "recording an event", err);
}

/* Shape of the form, or a message when the weight cannot have it. */
static mica_status describe_form(mica_cuda_prepared *p, const char *name, mica_err *err)
{
    const mica_tensor *w = &p->tensor;
    const int64_t count = mica_tensor_count(w);
    char text[96];
    bool fits = mica_dtype_get(w->dtype)->is_float;
    if (p->form == MICA_CUDA_FORM_MATRIX || p->form == MICA_CUDA_FORM_CONV) {
        fits = fits &&
               (p->form == MICA_CUDA_FORM_CONV ? w->ndim == 4 : w->ndim == 2 && w->stride_[1] == 1);
        p->rows = w->shape_[0];
        p->cols = p->rows > 0 ? count / p->rows : 0;
        p->ld = mica_cuda_round8(p->cols);
    } else { /* a vector; with a scale per row every element is a row */
        fits = fits && mica_tensor_is_contiguous(w);
        p->rows = w->scale.data && w->scale.per_row ? count : 1;
        p->cols = p->ld = count / MICA_MAX(p->rows, (int64_t)1);
    }
    if (!fits)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: %s is no weight the device can take", name,
                         mica_tensor_describe(w, text, sizeof text));
    return MICA_OK;
}

static mica_status fill(mica_cuda_backend *be, mica_weight *w, mica_cuda_prepared *p, mica_err *err)
{
    MICA_TRY(describe_form(p, name_of(w), err));
    const size_t row = (size_t)p->ld * mica_cuda_type_size(p->type), used = (size_t)p->rows * row;
    const size_t size =
        p->form == MICA_CUDA_FORM_CONV ? (size_t)mica_cuda_round8(p->rows) * row : used;
    MICA_TRY(mica_cuda_alloc(be, size, name_of(w), &p->data, err));
    if (size > used)
        MICA_TRY(mica_cuda_check(
            cudaMemsetAsync((uint8_t *)p->data + used, 0, size - used, be->stream),
            "padding a weight", err));
    MICA_TRY(upload(be, p, name_of(w), err));
    return add_ref(be, w, p, err);
}

static mica_status make(mica_cuda_backend *be, mica_weight *w, const mica_cuda_prepared *model,
                        mica_cuda_prepared **out, mica_err *err)
{
    mica_cuda_prepared *p = mica_mem_calloc(1, sizeof *p);
    if (!p)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a weight's header");
    *p = *model;
    const mica_status st = fill(be, w, p, err);
    if (st) {
        prepared_free(be, p);
        return st;
    }
    p->next = *bucket_of(&p->tensor);
    *bucket_of(&p->tensor) = *out = p;
    return MICA_OK;
}

static mica_status get_locked(mica_cuda_backend *be, mica_weight *w,
                              const mica_cuda_prepared *model, mica_cuda_prepared **out,
                              mica_err *err)
{
    mica_cuda_prepared *p = w->prepared;
    if (!p || !same_form(p, model))
        p = find(model);
    if (!p) {
        MICA_TRY(make(be, w, model, &p, err));
    } else if (!find_ref(p, w, be)) {
        MICA_TRY(
            mica_cuda_check(cudaStreamWaitEvent(be->stream, p->ready, 0), "sharing a weight", err));
        MICA_TRY(add_ref(be, w, p, err));
    }
    w->prepared = *out = p;
    return MICA_OK;
}

mica_status mica_cuda_weight(mica_cuda_backend *be, mica_weight *w, mica_cuda_form form,
                             const void **out, mica_err *err)
{
    mica_cuda_prepared *p = NULL;
    *out = NULL;
    if (!w)
        return MICA_OK;
    const mica_cuda_prepared model = {.form = form,
                                      .type = form == MICA_CUDA_FORM_F32 ? MICA_CUDA_F32
                                              : form == MICA_CUDA_FORM_BF16
                                                  ? MICA_CUDA_BF16
                                                  : mica_cuda_compute_type(be),
                                      .tensor = w->tensor};
    pthread_mutex_lock(&lock);
    const mica_status st = get_locked(be, w, &model, &p, err);
    pthread_mutex_unlock(&lock);
    if (!st)
        *out = p->data;
    return st;
}
