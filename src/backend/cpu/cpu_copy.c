/* cpu_copy.c - moving elements: strided copies, host transfers, table look-ups, finiteness.
 *
 *     copy: both views have one shape and any strides. Dimensions of length 1 are dropped and
 *     neighbours that lie evenly in both views are merged; what is left is one of
 *
 *         runs       the last dimension is contiguous in both: row copies
 *         transpose  it is contiguous in src only and another one in dst (or the reverse)
 *         general    element by element
 *
 * A task is one index of the outer dimensions, so a permutation of a large picture is cut
 * into many tasks whatever its shape. */
#include "backend/cpu/cpu_backend.h"

#include "kernels/kernels.h"

#include <string.h>

#define TASK_ELEMENTS 16384

/* ----------------------------------------------------------------- copy -- */

typedef struct copy_job {
    const mica_kernels *k;
    int ndim; /* of the simplified views, 1..MICA_MAX_DIMS */
    int64_t shape_[MICA_MAX_DIMS], src_[MICA_MAX_DIMS], dst_[MICA_MAX_DIMS];
    const float *src;
    float *dst;
    int inner;      /* trailing dimensions done by one task, 1 or 2 */
    int64_t chunk;  /* elements of the last dimension per task (inner == 1) */
    int64_t chunks; /* tasks per outer index */
} copy_job;

static void swap_dims(copy_job *j, int a, int b)
{
    int64_t *const of[3] = {j->shape_, j->src_, j->dst_};
    for (int i = 0; i < 3; i++) {
        const int64_t t = of[i][a];
        of[i][a] = of[i][b];
        of[i][b] = t;
    }
}

/* Largest destination strides first: writes then run forward through memory. */
static void sort_dims(copy_job *j)
{
    for (int i = 1; i < j->ndim; i++)
        for (int k = i; k > 0 && j->dst_[k - 1] < j->dst_[k]; k--)
            swap_dims(j, k - 1, k);
}

static void merge_dims(copy_job *j)
{
    int out = 0;
    for (int i = 1; i < j->ndim; i++) {
        if (j->src_[out] == j->src_[i] * j->shape_[i] &&
            j->dst_[out] == j->dst_[i] * j->shape_[i]) {
            j->shape_[out] *= j->shape_[i];
            j->src_[out] = j->src_[i];
            j->dst_[out] = j->dst_[i];
        } else {
            out++;
            j->shape_[out] = j->shape_[i];
            j->src_[out] = j->src_[i];
            j->dst_[out] = j->dst_[i];
        }
    }
    j->ndim = out + 1;
}

static void simplify(copy_job *j, const mica_tensor *src, const mica_tensor *dst)
{
    j->ndim = 0;
    for (int i = 0; i < src->ndim; i++) {
        if (src->shape_[i] == 1)
            continue;
        j->shape_[j->ndim] = src->shape_[i];
        j->src_[j->ndim] = src->stride_[i];
        j->dst_[j->ndim] = dst->stride_[i];
        j->ndim++;
    }
    if (j->ndim == 0) {
        j->ndim = 1;
        j->shape_[0] = j->src_[0] = j->dst_[0] = 1;
    }
    sort_dims(j);
    merge_dims(j);
}

/* The last dimension is contiguous in dst. If src is contiguous along another one, bring that
 * one to the place before the last: the two make a matrix to transpose. */
static void choose_inner(copy_job *j)
{
    const int last = j->ndim - 1;
    j->inner = 1;
    for (int i = 0; i < last && j->dst_[last] == 1 && j->src_[last] != 1; i++) {
        if (j->src_[i] != 1)
            continue;
        swap_dims(j, i, last - 1);
        j->inner = 2;
        break;
    }
    j->chunk = j->shape_[last];
    if (j->inner == 1)
        j->chunk = MICA_MIN(j->chunk, (int64_t)TASK_ELEMENTS);
    else
        j->chunk =
            MICA_MIN(j->chunk, MICA_MAX((int64_t)16,
                                        TASK_ELEMENTS / MICA_MAX(j->shape_[last - 1], (int64_t)1)));
    j->chunks = (j->shape_[last] + j->chunk - 1) / j->chunk;
}

static void copy_task(void *user, int64_t index, int thread)
{
    const copy_job *j = user;
    const int last = j->ndim - 1;
    int64_t outer = index / j->chunks;
    const int64_t first = index % j->chunks * j->chunk;
    const int64_t n = MICA_MIN(j->chunk, j->shape_[last] - first);
    const float *src = j->src + first * j->src_[last];
    float *dst = j->dst + first * j->dst_[last];
    (void)thread;
    for (int i = j->ndim - j->inner - 1; i >= 0; i--) {
        src += outer % j->shape_[i] * j->src_[i];
        dst += outer % j->shape_[i] * j->dst_[i];
        outer /= j->shape_[i];
    }
    if (j->inner == 2) /* n rows of src, each contiguous along dimension last - 1 */
        j->k->transpose((int)n, (int)j->shape_[last - 1], src, (ptrdiff_t)j->src_[last], dst,
                        (ptrdiff_t)j->dst_[last - 1]);
    else if (j->src_[last] == 1 && j->dst_[last] == 1)
        memcpy(dst, src, (size_t)n * sizeof(float));
    else
        for (int64_t i = 0; i < n; i++)
            dst[i * j->dst_[last]] = src[i * j->src_[last]];
}

/* Small inner rows would make a task of a few elements each: one task takes `group` of them. */
typedef struct grouped_copy {
    const copy_job *job;
    int64_t total, group;
} grouped_copy;

static void grouped_task(void *user, int64_t index, int thread)
{
    const grouped_copy *g = user;
    const int64_t first = index * g->group, last = MICA_MIN(first + g->group, g->total);
    for (int64_t i = first; i < last; i++)
        copy_task((void *)(uintptr_t)g->job, i, thread);
}

/* --------------------------------------------------------------- quantise -- */

typedef struct quantise_job {
    const mica_tensor *src, *dst; /* [rows, heads, width] */
} quantise_job;

static void quantise_group(const float *x, int n, uint8_t *q, float *scale, float *bias)
{
    float lo = x[0], hi = x[0];
    for (int i = 1; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    const float step = (hi - lo) / 255.0f, inverse = step > 0.0f ? 1.0f / step : 0.0f;
    for (int i = 0; i < n; i++)
        q[i] = (uint8_t)((x[i] - lo) * inverse + 0.5f);
    *scale = step;
    *bias = lo;
}

static void quantise_task(void *user, int64_t row, int thread)
{
    const quantise_job *j = user;
    const mica_tensor *src = j->src, *dst = j->dst;
    const int group = dst->scale.group;
    (void)thread;
    for (int64_t h = 0; h < src->shape_[1]; h++)
        for (int64_t k = 0; k < src->shape_[2]; k += group) {
            const int64_t at = row * dst->stride_[0] + h * dst->stride_[1] + k;
            float *scales = (float *)(uintptr_t)dst->scale.data + at / group;
            float *biases = (float *)(uintptr_t)dst->scale.bias + at / group;
            quantise_group((const float *)src->data + row * src->stride_[0] + h * src->stride_[1] +
                               k,
                           group, (uint8_t *)dst->data + at, scales, biases);
        }
}

static mica_status quantise(mica_cpu_backend *be, const mica_tensor *src, const mica_tensor *dst,
                            mica_err *err)
{
    quantise_job j = {src, dst};
    if (dst->dtype != MICA_DTYPE_MLX8 || dst->ndim != 3 || src->dtype != MICA_DTYPE_F32 ||
        src->stride_[2] != 1 || dst->stride_[2] != 1 || dst->scale.dtype != MICA_DTYPE_F32 ||
        !dst->scale.data || !dst->scale.bias || dst->shape_[2] % dst->scale.group)
        return MICA_FAIL(err, MICA_E_INTERNAL,
                         "copy: only f32 becomes 8 bits, in groups of a head");
    mica_cpu_parallel(be, src->shape_[0], quantise_task, &j);
    return MICA_OK;
}

mica_status mica_cpu_copy(mica_backend *base, const mica_tensor *src, mica_tensor *dst,
                          mica_err *err)
{
    if (mica_dtype_is_packed(dst->dtype))
        return quantise(mica_cpu_from(base), src, dst, err);
    mica_cpu_backend *be = mica_cpu_from(base);
    if (src->dtype != MICA_DTYPE_F32 || dst->dtype != MICA_DTYPE_F32)
        return MICA_FAIL(err, MICA_E_INTERNAL, "copy: %s to %s; tensors of this backend are f32",
                         mica_dtype_get(src->dtype)->name, mica_dtype_get(dst->dtype)->name);
    copy_job j = {.k = be->kernels, .src = src->data, .dst = dst->data};
    simplify(&j, src, dst);
    choose_inner(&j);
    int64_t per_task = j.chunk * (j.inner == 2 ? j.shape_[j.ndim - 2] : 1);
    grouped_copy g = {.job = &j, .total = j.chunks};
    for (int i = 0; i < j.ndim - j.inner; i++)
        g.total *= j.shape_[i];
    g.group = MICA_MAX((int64_t)1, TASK_ELEMENTS / per_task);
    mica_cpu_parallel(be, (g.total + g.group - 1) / g.group, grouped_task, &g);
    return MICA_OK;
}

mica_status mica_cpu_upload_f32(mica_backend *be, const mica_tensor *dst, const float *src,
                                mica_err *err)
{
    const mica_tensor host =
        mica_tensor_make((void *)(uintptr_t)src, MICA_DTYPE_F32, dst->ndim, dst->shape_);
    mica_tensor target = *dst;
    return mica_cpu_copy(be, &host, &target, err);
}

mica_status mica_cpu_download_f32(mica_backend *be, float *dst, const mica_tensor *src,
                                  mica_err *err)
{
    mica_tensor host = mica_tensor_make(dst, MICA_DTYPE_F32, src->ndim, src->shape_);
    return mica_cpu_copy(be, src, &host, err);
}

typedef struct pixel_job {
    const mica_kernels *k;
    const mica_tensor *src_YXC;
    uint8_t *dst;
} pixel_job;

static void pixel_task(void *user, int64_t y, int thread)
{
    const pixel_job *j = user;
    const mica_tensor *src = j->src_YXC;
    const int64_t width = src->shape_[1] * src->shape_[2];
    (void)thread;
    j->k->u8_from_f32(width, (const float *)src->data + y * src->stride_[0], j->dst + y * width);
}

mica_status mica_cpu_download_pixels(mica_backend *base, uint8_t *dst, const mica_tensor *src_YXC,
                                     mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    pixel_job j = {be->kernels, src_YXC, dst};
    (void)err;
    mica_cpu_parallel(be, src_YXC->shape_[0], pixel_task, &j);
    return MICA_OK;
}

/* ----------------------------------------------------------------- rows -- */

typedef struct embed_job {
    const mica_tensor *w;
    const int32_t *ids;
    const mica_tensor *y;
} embed_job;

static void embed_task(void *user, int64_t index, int thread)
{
    const embed_job *j = user;
    const int64_t width = j->w->shape_[1];
    const int64_t step = j->y->ndim > 1 ? j->y->stride_[j->y->ndim - 2] : width;
    (void)thread;
    mica_cpu_weight_to_f32(j->w, j->ids[index] * width, width, (float *)j->y->data + index * step);
}

mica_status mica_cpu_embed_rows(mica_backend *base, mica_weight *w_VD, const int32_t *ids,
                                int64_t count, mica_tensor *y_LD, mica_err *err)
{
    (void)err;
    embed_job j = {&w_VD->tensor, ids, y_LD};
    mica_cpu_parallel(mica_cpu_from(base), count, embed_task, &j);
    return MICA_OK;
}

/* --------------------------------------------------------------- finite -- */

typedef struct finite_job {
    const mica_kernels *k;
    const mica_tensor *x;
    int64_t count, tasks;
    bool *finite; /* one per task */
} finite_job;

static int64_t element_offset(const mica_tensor *t, int64_t index)
{
    int64_t offset = 0;
    for (int i = t->ndim - 1; i >= 0; i--) {
        offset += index % t->shape_[i] * t->stride_[i];
        index /= t->shape_[i];
    }
    return offset;
}

static void finite_task(void *user, int64_t index, int thread)
{
    const finite_job *j = user;
    const float *x = j->x->data;
    const int64_t first = index * TASK_ELEMENTS;
    const int64_t n = MICA_MIN((int64_t)TASK_ELEMENTS, j->count - first);
    (void)thread;
    if (mica_tensor_is_contiguous(j->x)) {
        j->finite[index] = j->k->all_finite(n, x + first);
        return;
    }
    bool finite = true;
    for (int64_t i = first; i < first + n && finite; i++)
        finite = j->k->all_finite(1, x + element_offset(j->x, i));
    j->finite[index] = finite;
}

mica_status mica_cpu_all_finite(mica_backend *base, const mica_tensor *x, bool *out, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    finite_job j = {.k = be->kernels, .x = x, .count = mica_tensor_count(x)};
    j.tasks = (j.count + TASK_ELEMENTS - 1) / TASK_ELEMENTS;
    MICA_TRY(mica_cpu_scratch_reserve(be, (size_t)j.tasks * sizeof(bool), 0, err));
    j.finite = mica_cpu_shared_scratch(be);
    mica_cpu_parallel(be, j.tasks, finite_task, &j);
    *out = true;
    for (int64_t i = 0; i < j.tasks; i++)
        *out = *out && j.finite[i];
    return MICA_OK;
}
