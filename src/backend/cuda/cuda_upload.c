/* cuda_upload.c - the numbers of a weight on their way to the form that cuda_prepare.c made room for.
 *
 *     file mapping ─rows─► pinned slot ──► device, as it is                  same type, no padding
 *                                     └──► device slot ─convert─► device     any other type, scales
 *
 * Everything is queued on the copy stream, slot by slot (cuda_stage.c). Pages of a file mapping may leave the
 * process once they have been read. */
#include "backend/cuda/cuda_backend.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

/* One core copies about 11 GB/s out of a mapping, PCIe takes 55: four share the rows of a slot. A thread
 * costs 20 us, a slot 1.5 ms. */
#define GATHERERS   4
#define LEAST_SHARE ((size_t)2 << 20) /* bytes */

typedef struct share {
    const mica_cuda_prepared *p;
    int64_t first, count;
    uint8_t *to;
    size_t row_size;
    pthread_t thread;
} share;

static void *gather_share(void *user)
{
    const share *s = user;
    for (int64_t r = 0; r < s->count; r++)
        gather_row(s->p, s->first + r, s->to + (size_t)r * s->row_size);
    return NULL;
}

static void gather_rows(const mica_cuda_prepared *p, int64_t first, int64_t count, uint8_t *to,
                        size_t row_size)
{
    share s[GATHERERS];
    const int64_t useful = (int64_t)((size_t)count * row_size / LEAST_SHARE);
    const int n = (int)MICA_MAX((int64_t)1, MICA_MIN(useful, (int64_t)GATHERERS));
    bool started[GATHERERS] = {false};
    for (int i = 0; i < n; i++) {
        const int64_t from = count * i / n;
        s[i] = (share){.p = p,
                       .first = first + from,
                       .count = count * (i + 1) / n - from,
                       .to = to + (size_t)from * row_size,
                       .row_size = row_size};
        if (i > 0)
            started[i] = pthread_create(&s[i].thread, NULL, gather_share, &s[i]) == 0;
    }
    for (int i = 0; i < n; i++)
        if (!started[i])
            gather_share(&s[i]);
    for (int i = 1; i < n; i++)
        if (started[i])
            pthread_join(s[i].thread, NULL);
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
    gather_rows(p, first, count, host, row_size);
    for (int64_t r = 0; scaled && r < count; r++)
        ((float *)(void *)((uint8_t *)host + raw))[r] = mica_cuda_weight_scale(w, first + r);
    const bool convert = scaled || !plain || p->form == MICA_CUDA_FORM_FP8;
    const size_t bytes = scaled ? raw + (size_t)count * sizeof(float) : row_size * (size_t)count;
    MICA_TRY(mica_cuda_check(cudaMemcpyAsync(convert ? be->stage_dev : to, host, bytes,
                                             cudaMemcpyHostToDevice, be->copies),
                             "uploading a weight", err));
    MICA_TRY(mica_cuda_stage_close_on(be, be->copies, err));
    if (!convert)
        return MICA_OK;
    const float *scale = scaled ? (const float *)(void *)((uint8_t *)be->stage_dev + raw) : NULL;
    if (p->form == MICA_CUDA_FORM_FP8) {
        const mica_cuda_quantize_weight_args q = {.src = be->stage_dev,
                                                  .src_type = type,
                                                  .rows = count,
                                                  .cols = p->cols,
                                                  .ld = p->ld,
                                                  .given = scale,
                                                  .q = to,
                                                  .scale = mica_cuda_scales_of(p) + first};
        return mica_cuda_check(mica_cuda_quantize_weight(&q, be->copies), "quantising a weight",
                               err);
    }
    const mica_cuda_convert_args args = {.src = be->stage_dev,
                                         .src_type = type,
                                         .dst_type = p->type,
                                         .rows = count,
                                         .cols = p->cols,
                                         .ld = p->ld,
                                         .scale = scale,
                                         .dst = to};
    return mica_cuda_check(mica_cuda_convert(&args, be->copies), "converting a weight", err);
}

/* What the process has read it need not hold: pages that the tensor fills alone come back from the
 * system's cache of the file. */
void mica_cuda_release_pages(const mica_weight *w)
{
    const long system_page = sysconf(_SC_PAGESIZE);
    const uintptr_t page = system_page > 0 ? (uintptr_t)system_page : 4096;
    if (!w->mapped || !mica_tensor_is_contiguous(&w->tensor))
        return;
    const uintptr_t data = (uintptr_t)w->tensor.data;
    const uintptr_t first = (data + page - 1) / page * page;
    const uintptr_t end = (data + mica_tensor_size(&w->tensor)) / page * page;
    if (end > first)
        (void)madvise((void *)first, end - first, MADV_DONTNEED);
}

mica_status mica_cuda_weight_upload(mica_cuda_backend *be, mica_cuda_prepared *p, const char *name,
                                    mica_err *err)
{
    const bool is_packed = p->form == MICA_CUDA_FORM_PACKED;
    const size_t size = is_packed ? 1 : (size_t)mica_dtype_get(p->tensor.dtype)->size;
    const size_t row_size = is_packed ? 1 : (size_t)p->cols * size + sizeof(float);
    const int64_t most = (int64_t)((MICA_CUDA_STAGE_SIZE - 512) / row_size);
    if (most < 1)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: a row of %zu bytes is too long to upload",
                         name, row_size);
    if (!be->stage_dev)
        MICA_TRY(mica_cuda_alloc(be, MICA_CUDA_STAGE_SIZE, "staging", &be->stage_dev, err));
    if (is_packed)
        MICA_TRY(mica_cuda_packed_upload(be, p, err));
    for (int64_t first = 0; !is_packed && first < p->rows; first += most)
        MICA_TRY(upload_part(be, p, first, MICA_MIN(most, p->rows - first), err));
    if (!p->ready)
        MICA_TRY(mica_cuda_check(cudaEventCreateWithFlags(&p->ready, cudaEventDisableTiming),
                                 "creating an event", err));
    return mica_cuda_check(cudaEventRecord(p->ready, be->copies), "recording an event", err);
}
