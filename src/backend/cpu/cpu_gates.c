/* cpu_gates.c - functions of single numbers with a shift per channel, and gated units.
 *
 *     row of x, shift ──add──► thread scratch or x itself ──f──► row of y
 *
 * Bound by memory: rows are handed to the kernels in runs of about TASK_ELEMENTS. A run of
 * contiguous rows without a shift is one call. */
#include "backend/cpu/cpu_backend.h"

#include "kernels/kernels.h"

#include <string.h>

#define TASK_ELEMENTS 16384

typedef struct rows_job {
    mica_cpu_backend *be;
    const mica_kernels *k;
    mica_function f;
    float p;
    bool is_tanh;
    const float *x, *shift;
    float *y;
    int64_t rows, n, ldx, ldy, per_task; /* n: of y */
} rows_job;

static void apply_kernel(const rows_job *j, int64_t n, const float *x, float *y)
{
    switch (j->f) {
    case MICA_FUNCTION_LEAKY_RELU:
        j->k->leaky_relu(n, j->p, x, y);
        break;
    case MICA_FUNCTION_CLAMP:
        j->k->clamp(n, 0.0f, j->p, x, y);
        break;
    case MICA_FUNCTION_MISH:
        j->k->mish(n, x, y);
        break;
    case MICA_FUNCTION_GELU_ERF:
        j->k->gelu_erf(n, x, y);
        break;
    case MICA_FUNCTION_SILU:
        j->k->silu(n, x, y);
        break;
    case MICA_FUNCTION_TANH:
        j->k->tanh(n, x, y);
        break;
    default:
        if (x != y)
            memcpy(y, x, (size_t)n * sizeof(float));
    }
}

static void apply_task(void *user, int64_t index, int thread)
{
    const rows_job *j = user;
    const int64_t first = index * j->per_task, last = MICA_MIN(first + j->per_task, j->rows);
    (void)thread;
    if (!j->shift && j->ldx == j->n && j->ldy == j->n) {
        apply_kernel(j, (last - first) * j->n, j->x + first * j->n, j->y + first * j->n);
        return;
    }
    for (int64_t r = first; r < last; r++) {
        const float *x = j->x + r * j->ldx;
        float *y = j->y + r * j->ldy;
        if (j->shift) {
            j->k->add(j->n, x, j->shift, y);
            x = y;
        }
        apply_kernel(j, j->n, x, y);
    }
}

static void gate_task(void *user, int64_t index, int thread)
{
    const rows_job *j = user;
    const int64_t first = index * j->per_task, last = MICA_MIN(first + j->per_task, j->rows);
    float *sum = j->shift ? mica_cpu_thread_scratch(j->be, thread) : NULL;
    for (int64_t r = first; r < last; r++) {
        const float *x = j->x + r * j->ldx;
        if (sum) {
            j->k->add(2 * j->n, x, j->shift, sum);
            x = sum;
        }
        if (j->is_tanh)
            j->k->tanh_glu(j->n, x, x + j->n, j->y + r * j->ldy);
        else
            j->k->glu(j->n, x, x + j->n, j->y + r * j->ldy);
    }
}

/* Distance of the rows when there is one. */
static mica_status row_stride(const mica_tensor *t, const char *op, int64_t *out, mica_err *err)
{
    *out = t->ndim > 1 ? t->stride_[t->ndim - 2] : t->shape_[0];
    for (int i = 0; i + 2 < t->ndim; i++)
        if (t->shape_[i] > 1 && t->stride_[i] != t->stride_[i + 1] * t->shape_[i + 1])
            return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s needs evenly spaced rows", op);
    return MICA_OK;
}

static mica_status describe(rows_job *j, const char *op, const mica_tensor *x,
                            const mica_tensor *shift, const mica_tensor *y, mica_err *err)
{
    j->k = j->be->kernels;
    j->x = x->data;
    j->y = y->data;
    j->shift = shift ? shift->data : NULL;
    j->n = y->ndim > 0 ? y->shape_[y->ndim - 1] : 1;
    j->rows = mica_tensor_count(y) / j->n;
    j->per_task = MICA_MAX((int64_t)1, TASK_ELEMENTS / j->n);
    MICA_TRY(row_stride(x, op, &j->ldx, err));
    return row_stride(y, op, &j->ldy, err);
}

mica_status mica_cpu_apply(mica_backend *base, mica_function f, float p, const mica_tensor *x_MD,
                           const mica_tensor *shift_D, mica_tensor *y_MD, mica_err *err)
{
    rows_job j = {.be = mica_cpu_from(base), .f = f, .p = p};
    if (f < MICA_FUNCTION_IDENTITY || f >= MICA_FUNCTION_COUNT)
        return MICA_FAIL(err, MICA_E_INTERNAL, "apply: there is no function %d", (int)f);
    MICA_TRY(describe(&j, "apply", x_MD, shift_D, y_MD, err));
    mica_cpu_parallel(j.be, (j.rows + j.per_task - 1) / j.per_task, apply_task, &j);
    return MICA_OK;
}

mica_status mica_cpu_gate(mica_backend *base, bool is_tanh, const mica_tensor *x_MN,
                          const mica_tensor *shift_N, mica_tensor *y_MD, mica_err *err)
{
    rows_job j = {.be = mica_cpu_from(base), .is_tanh = is_tanh};
    MICA_TRY(describe(&j, "gate", x_MN, shift_N, y_MD, err));
    if (shift_N)
        MICA_TRY(mica_cpu_scratch_reserve(j.be, 0, 2 * (size_t)j.n * sizeof(float), err));
    mica_cpu_parallel(j.be, (j.rows + j.per_task - 1) / j.per_task, gate_task, &j);
    return MICA_OK;
}
