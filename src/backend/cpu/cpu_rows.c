/* cpu_rows.c - norms, rotary embedding and pointwise operations: work on rows of floats.
 *
 *     tensor [.., n]  =  rows of n contiguous floats, rows any strides apart
 *     task            =  a run of rows that holds about TASK_ELEMENTS
 *
 * All of these are bound by memory, not by arithmetic: the point is one pass over the
 * data, cut finely enough for the threads and coarsely enough for the calls. With
 * ablate_fusion the fused kernels fall apart into the passes that fusion saves. */
#include "backend/cpu/cpu_backend.h"

#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#define TASK_ELEMENTS 16384 /* 64 KiB of f32: fits L2 twice over, 10 us of work */

/* A tensor seen as rows. When dimensions before the last lie evenly, `even` stride jumps
 * from row to row; else the offset is built from the indices. */
typedef struct row_view {
    const mica_tensor *t;
    float *data;
    int64_t rows, n;
    int64_t step; /* floats from row to row, when even */
    bool even;
} row_view;

static row_view view_rows(const mica_tensor *t)
{
    row_view v = {.t = t, .data = t->data, .n = t->ndim > 0 ? t->shape_[t->ndim - 1] : 1};
    v.rows = v.n > 0 ? mica_tensor_count(t) / v.n : 0;
    v.step = t->ndim > 1 ? t->stride_[t->ndim - 2] : v.n;
    v.even = true;
    for (int i = 0; i + 2 < t->ndim; i++)
        if (t->stride_[i] != t->stride_[i + 1] * t->shape_[i + 1] && t->shape_[i] > 1)
            v.even = false;
    return v;
}

static float *row_at(const row_view *v, int64_t row)
{
    if (v->even)
        return v->data + row * v->step;
    int64_t offset = 0;
    for (int i = v->t->ndim - 2; i >= 0; i--) {
        offset += row % v->t->shape_[i] * v->t->stride_[i];
        row /= v->t->shape_[i];
    }
    return v->data + offset;
}

/* Rows of one task: `count` rows that may be handed to a kernel with stride `step`, or one. */
static int64_t rows_per_task(const row_view *v)
{
    return MICA_MAX((int64_t)1, TASK_ELEMENTS / MICA_MAX(v->n, (int64_t)1));
}

static bool is_flat(const mica_tensor *t)
{
    return mica_tensor_is_contiguous(t);
}

/* A weight vector as f32 at `out` (shared scratch); NULL stays NULL. */
static const float *vector_f32(const mica_weight *w, float *out)
{
    if (!w)
        return NULL;
    mica_cpu_weight_to_f32(&w->tensor, 0, mica_tensor_count(&w->tensor), out);
    return out;
}

/* ---------------------------------------------------------------- norms -- */

typedef enum norm_kind {
    NORM_LAYER,
    NORM_RMS,
    NORM_RMS_ADD,
    NORM_L2,
    NORM_MODULATE_ONLY, /* y = x * (1 + w) + shift */
    NORM_ADD_ONLY       /* y += x * w */
} norm_kind;

typedef struct norm_job {
    const mica_kernels *k;
    norm_kind kind;
    row_view x, y;
    int64_t per_task;
    const float *w, *shift; /* weight, gamma or scale; shift */
    float eps;
    mica_kernel_act act;
} norm_job;

static void norm_rows(const norm_job *j, int rows, const float *x, ptrdiff_t ldx, float *y,
                      ptrdiff_t ldy)
{
    const int n = (int)j->x.n;
    switch (j->kind) {
    case NORM_LAYER:
        j->k->layer_norm_modulate(rows, n, x, ldx, j->w, j->shift, j->eps, y, ldy);
        break;
    case NORM_RMS:
        j->k->rms_norm(rows, n, x, ldx, j->w, j->eps, y, ldy);
        break;
    case NORM_RMS_ADD:
        j->k->rms_norm_add(rows, n, x, ldx, j->w, j->eps, y, ldy);
        break;
    case NORM_L2:
        j->k->l2_norm_act(rows, n, x, ldx, j->w, j->act, y, ldy);
        break;
    case NORM_MODULATE_ONLY:
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < n; i++)
                y[r * ldy + i] = x[r * ldx + i] * (j->w ? 1.0f + j->w[i] : 1.0f) +
                                 (j->shift ? j->shift[i] : 0.0f);
        break;
    case NORM_ADD_ONLY:
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < n; i++)
                y[r * ldy + i] += x[r * ldx + i] * (j->w ? j->w[i] : 1.0f);
    }
}

static void norm_task(void *user, int64_t index, int thread)
{
    const norm_job *j = user;
    const int64_t first = index * j->per_task;
    const int64_t count = MICA_MIN(j->per_task, j->x.rows - first);
    (void)thread;
    if (j->x.even && j->y.even) {
        norm_rows(j, (int)count, row_at(&j->x, first), (ptrdiff_t)j->x.step, row_at(&j->y, first),
                  (ptrdiff_t)j->y.step);
        return;
    }
    for (int64_t r = first; r < first + count; r++)
        norm_rows(j, 1, row_at(&j->x, r), (ptrdiff_t)j->x.n, row_at(&j->y, r), (ptrdiff_t)j->x.n);
}

static void run_norm(mica_cpu_backend *be, norm_job *j, const mica_tensor *x, const mica_tensor *y)
{
    j->k = be->kernels;
    j->x = view_rows(x);
    j->y = view_rows(y);
    j->per_task = rows_per_task(&j->x);
    mica_cpu_parallel(be, (j->x.rows + j->per_task - 1) / j->per_task, norm_task, j);
}

mica_status mica_cpu_layer_norm_modulate(mica_backend *base, const mica_tensor *x_MD,
                                         const mica_tensor *scale_D, const mica_tensor *shift_D,
                                         float eps, mica_tensor *y_MD, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    (void)err;
    norm_job j = {.kind = NORM_LAYER,
                  .w = scale_D ? scale_D->data : NULL,
                  .shift = shift_D ? shift_D->data : NULL,
                  .eps = eps};
    if (be->fuse) {
        run_norm(be, &j, x_MD, y_MD);
        return MICA_OK;
    }
    norm_job plain = {.kind = NORM_LAYER, .eps = eps};
    run_norm(be, &plain, x_MD, y_MD);
    j.kind = NORM_MODULATE_ONLY;
    run_norm(be, &j, y_MD, y_MD);
    return MICA_OK;
}

/* w * (offset + vector) in shared scratch; both NULL: NULL. */
static const float *product_f32(mica_cpu_backend *be, const mica_weight *w_D, float offset,
                                const mica_tensor *vector_D, int64_t n)
{
    float *out = mica_cpu_shared_scratch(be);
    const float *v = vector_D ? vector_D->data : NULL;
    if (!w_D && !v)
        return NULL;
    vector_f32(w_D, out);
    for (int64_t i = 0; v && i < n; i++)
        out[i] = (w_D ? out[i] : 1.0f) * (offset + v[i]);
    return out;
}

mica_status mica_cpu_rms_norm_modulate(mica_backend *base, const mica_tensor *x_MD,
                                       mica_weight *w_D, const mica_tensor *scale_D, float eps,
                                       mica_tensor *y_MD, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    const int64_t n = x_MD->shape_[x_MD->ndim - 1];
    const mica_tensor *fused = be->fuse ? scale_D : NULL;
    MICA_TRY(mica_cpu_scratch_reserve(be, (size_t)n * sizeof(float), 0, err));
    norm_job j = {.kind = NORM_RMS, .w = product_f32(be, w_D, 1.0f, fused, n), .eps = eps};
    run_norm(be, &j, x_MD, y_MD);
    if (scale_D && !fused) {
        norm_job late = {.kind = NORM_MODULATE_ONLY, .w = scale_D->data};
        run_norm(be, &late, y_MD, y_MD);
    }
    return MICA_OK;
}

mica_status mica_cpu_rms_norm_gated(mica_backend *base, const mica_tensor *x_MD, mica_weight *w_D,
                                    const mica_tensor *gate_D, float eps, mica_tensor *y_MD,
                                    mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    const int64_t n = x_MD->shape_[x_MD->ndim - 1];
    const int64_t apart = be->fuse ? 0 : mica_tensor_count(x_MD);
    MICA_TRY(mica_cpu_scratch_reserve(be, (size_t)(n + apart) * sizeof(float), 0, err));
    norm_job j = {.kind = NORM_RMS_ADD, .eps = eps};
    if (be->fuse) {
        j.w = product_f32(be, w_D, 0.0f, gate_D, n);
        run_norm(be, &j, x_MD, y_MD);
        return MICA_OK;
    }
    /* Ablation: the normed branch goes through memory. */
    mica_tensor normed = mica_tensor_make((float *)mica_cpu_shared_scratch(be) + n, MICA_DTYPE_F32,
                                          x_MD->ndim, x_MD->shape_);
    j.kind = NORM_RMS;
    j.w = product_f32(be, w_D, 0.0f, NULL, n);
    run_norm(be, &j, x_MD, &normed);
    norm_job late = {.kind = NORM_ADD_ONLY, .w = gate_D ? gate_D->data : NULL};
    run_norm(be, &late, &normed, y_MD);
    return MICA_OK;
}

mica_status mica_cpu_l2_norm_channels(mica_backend *base, const mica_tensor *x_MC,
                                      mica_weight *gamma_C, mica_act act, mica_tensor *y_MC,
                                      mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    const size_t n = (size_t)x_MC->shape_[x_MC->ndim - 1];
    if (act != MICA_ACT_NONE && act != MICA_ACT_SILU)
        return MICA_FAIL(err, MICA_E_INTERNAL, "l2_norm_channels: activation %d; none or silu",
                         (int)act);
    MICA_TRY(mica_cpu_scratch_reserve(be, n * sizeof(float), 0, err));
    norm_job j = {.kind = NORM_L2,
                  .w = vector_f32(gamma_C, mica_cpu_shared_scratch(be)),
                  .act = be->fuse ? (mica_kernel_act)act : MICA_KERNEL_ACT_NONE};
    run_norm(be, &j, x_MC, y_MC);
    return be->fuse || act == MICA_ACT_NONE ? MICA_OK : mica_cpu_silu(base, y_MC, y_MC, err);
}

/* ------------------------------------------------------- q, k preparation -- */

typedef struct rope_job {
    const mica_kernels *k;
    const mica_qk_norm_rope_args *args;
    const float *w;
    bool norm, rotate;
    int64_t per_task;
} rope_job;

static void rope_token(const rope_job *j, int64_t token)
{
    const mica_tensor *x = j->args->x_LHK, *cos = j->args->cos_Lk, *sin = j->args->sin_Lk;
    const bool rotate = j->rotate && cos;
    const int heads = (int)x->shape_[1], width = (int)x->shape_[2];
    float *row = (float *)x->data + token * x->stride_[0];
    const float *c = rotate ? (const float *)cos->data + token * cos->stride_[0] : NULL;
    const float *s = rotate ? (const float *)sin->data + token * sin->stride_[0] : NULL;
    const float *w = j->norm ? j->w : NULL;
    const ptrdiff_t ld = (ptrdiff_t)x->stride_[1];
    if (j->args->layout == MICA_ROPE_INTERLEAVED)
        j->k->qk_norm_rope_interleaved(heads, width, row, ld, w, j->args->eps, c, s, row, ld);
    else
        j->k->qk_norm_rope_half(heads, width, row, ld, w, j->args->eps, c, s, row, ld);
}

static void rope_task(void *user, int64_t index, int thread)
{
    const rope_job *j = user;
    const int64_t first = index * j->per_task;
    const int64_t last = MICA_MIN(first + j->per_task, j->args->x_LHK->shape_[0]);
    (void)thread;
    for (int64_t token = first; token < last; token++)
        rope_token(j, token);
}

static mica_status norm_and_rotate(mica_backend *base, const mica_qk_norm_rope_args *args,
                                   mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    const mica_tensor *x = args->x_LHK;
    const int64_t row = x->shape_[1] * x->shape_[2];
    MICA_TRY(mica_cpu_scratch_reserve(be, (size_t)x->shape_[2] * sizeof(float), 0, err));
    rope_job j = {.k = be->kernels,
                  .args = args,
                  .w = vector_f32(args->norm_K, mica_cpu_shared_scratch(be)),
                  .norm = true,
                  .rotate = be->fuse,
                  .per_task = MICA_MAX((int64_t)1, TASK_ELEMENTS / row)};
    const int64_t tasks = (x->shape_[0] + j.per_task - 1) / j.per_task;
    mica_cpu_parallel(be, tasks, rope_task, &j);
    if (!be->fuse && args->cos_Lk) {
        j.norm = false;
        j.rotate = true;
        mica_cpu_parallel(be, tasks, rope_task, &j);
    }
    return MICA_OK;
}

mica_status mica_cpu_qk_norm_rope(mica_backend *be, const mica_qk_norm_rope_args *args,
                                  mica_err *err)
{
    mica_qk_norm_rope_args second = *args;
    MICA_TRY(norm_and_rotate(be, args, err));
    if (!args->also_LHK)
        return MICA_OK;
    second.x_LHK = args->also_LHK;
    second.norm_K = args->also_norm_K;
    return norm_and_rotate(be, &second, err);
}

/* ------------------------------------------------------------ pointwise -- */

typedef enum point_kind { POINT_SILU, POINT_TANH, POINT_SWIGLU, POINT_ADD, POINT_MUL } point_kind;

typedef struct point_job {
    const mica_kernels *k;
    point_kind kind;
    row_view a, b, y;
    bool flat;
    int64_t count, per_task; /* flat: elements; else: rows */
} point_job;

static void point_run(const point_job *j, int64_t n, const float *a, const float *b, float *y)
{
    switch (j->kind) {
    case POINT_SILU:
        j->k->silu(n, a, y);
        break;
    case POINT_TANH:
        j->k->tanh(n, a, y);
        break;
    case POINT_SWIGLU:
        j->k->swiglu(n, a, b, y);
        break;
    case POINT_ADD:
        j->k->add(n, a, b, y);
        break;
    case POINT_MUL:
        for (int64_t i = 0; i < n; i++)
            y[i] = a[i] * b[i];
    }
}

static void point_task(void *user, int64_t index, int thread)
{
    const point_job *j = user;
    const int64_t first = index * j->per_task, count = MICA_MIN(j->per_task, j->count - first);
    (void)thread;
    if (j->flat) {
        point_run(j, count, j->a.data + first, j->b.data + first, j->y.data + first);
        return;
    }
    for (int64_t r = first; r < first + count; r++)
        point_run(j, j->y.n, row_at(&j->a, r), row_at(&j->b, r), row_at(&j->y, r));
}

static mica_status run_point(mica_backend *base, point_kind kind, const mica_tensor *a,
                             const mica_tensor *b, const mica_tensor *y)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    point_job j = {.k = be->kernels,
                   .kind = kind,
                   .a = view_rows(a),
                   .b = view_rows(b),
                   .y = view_rows(y),
                   .flat = is_flat(a) && is_flat(b) && is_flat(y)};
    j.count = j.flat ? mica_tensor_count(y) : j.y.rows;
    j.per_task = j.flat ? TASK_ELEMENTS : rows_per_task(&j.y);
    mica_cpu_parallel(be, (j.count + j.per_task - 1) / j.per_task, point_task, &j);
    return MICA_OK;
}

mica_status mica_cpu_silu(mica_backend *be, const mica_tensor *x, mica_tensor *y, mica_err *err)
{
    (void)err;
    return run_point(be, POINT_SILU, x, x, y);
}

mica_status mica_cpu_tanh(mica_backend *be, const mica_tensor *x, mica_tensor *y, mica_err *err)
{
    (void)err;
    return run_point(be, POINT_TANH, x, x, y);
}

mica_status mica_cpu_swiglu(mica_backend *base, const mica_tensor *gate, const mica_tensor *up,
                            mica_tensor *y, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    if (be->fuse)
        return run_point(base, POINT_SWIGLU, gate, up, y);
    /* Ablation: silu(gate) goes through memory, in scratch because y may be `up`. */
    MICA_TRY(mica_cpu_scratch_reserve(be, (size_t)mica_tensor_count(y) * sizeof(float), 0, err));
    mica_tensor activated =
        mica_tensor_make(mica_cpu_shared_scratch(be), MICA_DTYPE_F32, gate->ndim, gate->shape_);
    MICA_TRY(run_point(base, POINT_SILU, gate, gate, &activated));
    return run_point(base, POINT_MUL, &activated, up, y);
}

mica_status mica_cpu_add(mica_backend *be, const mica_tensor *a, const mica_tensor *b,
                         mica_tensor *y, mica_err *err)
{
    (void)err;
    return run_point(be, POINT_ADD, a, b, y);
}

mica_status mica_cpu_mul(mica_backend *be, const mica_tensor *a, const mica_tensor *b,
                         mica_tensor *y, mica_err *err)
{
    (void)err;
    return run_point(be, POINT_MUL, a, b, y);
}

/* ----------------------------------------------------- guidance and sums -- */

typedef struct cfg_job {
    const mica_kernels *k;
    row_view cond, uncond, out;
    float scale;
    bool renorm;
    int64_t per_task;
} cfg_job;

static void cfg_task(void *user, int64_t index, int thread)
{
    const cfg_job *j = user;
    const int64_t first = index * j->per_task, last = MICA_MIN(first + j->per_task, j->out.rows);
    const ptrdiff_t n = (ptrdiff_t)j->out.n;
    (void)thread;
    for (int64_t r = first; r < last; r++)
        j->k->cfg_rows(1, (int)n, row_at(&j->cond, r), n, row_at(&j->uncond, r), n, j->scale,
                       j->renorm, row_at(&j->out, r), n);
}

mica_status mica_cpu_cfg_combine(mica_backend *base, const mica_tensor *cond_PC,
                                 const mica_tensor *uncond_PC, float scale, bool renorm,
                                 mica_tensor *out_PC, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    (void)err;
    cfg_job j = {.k = be->kernels,
                 .cond = view_rows(cond_PC),
                 .uncond = view_rows(uncond_PC),
                 .out = view_rows(out_PC),
                 .scale = scale,
                 .renorm = renorm};
    j.per_task = rows_per_task(&j.out);
    mica_cpu_parallel(be, (j.out.rows + j.per_task - 1) / j.per_task, cfg_task, &j);
    return MICA_OK;
}

typedef struct limit_job {
    const mica_kernels *k;
    row_view reference, y;
    float limit;
} limit_job;

/* A row is a whole picture: few rows, each a pass or two over its memory. */
static void limit_task(void *user, int64_t row, int thread)
{
    const limit_job *j = user;
    const float *r = row_at(&j->reference, row);
    float *y = row_at(&j->y, row);
    (void)thread;
    const double most = (double)j->limit * sqrt(j->k->dot(j->y.n, r, r));
    const double length = sqrt(j->k->dot(j->y.n, y, y));
    if (length > most)
        j->k->mul_scalar(j->y.n, (float)(most / length), y, y);
}

mica_status mica_cpu_limit_norm(mica_backend *base, const mica_tensor *reference_PC, float limit,
                                mica_tensor *y_PC, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    (void)err;
    limit_job j = {.k = be->kernels,
                   .reference = view_rows(reference_PC),
                   .y = view_rows(y_PC),
                   .limit = limit};
    mica_cpu_parallel(be, j.y.rows, limit_task, &j);
    return MICA_OK;
}

typedef struct combination_job {
    const mica_kernels *k;
    int terms;
    const float *coef;
    const mica_tensor *const *x;
    float *y;
    int64_t count;
} combination_job;

static void combination_task(void *user, int64_t index, int thread)
{
    const combination_job *j = user;
    const int64_t first = index * TASK_ELEMENTS;
    const float *x[6];
    (void)thread;
    for (int i = 0; i < j->terms; i++)
        x[i] = (const float *)j->x[i]->data + first;
    j->k->linear_combination(MICA_MIN((int64_t)TASK_ELEMENTS, j->count - first), j->terms, j->coef,
                             x, j->y + first);
}

mica_status mica_cpu_linear_combination(mica_backend *base, int n, const float *coef,
                                        const mica_tensor *const *x, mica_tensor *y, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    bool flat = is_flat(y);
    for (int i = 0; i < n; i++)
        flat = flat && is_flat(x[i]);
    if (!flat)
        return MICA_FAIL(err, MICA_E_INTERNAL, "linear_combination: a tensor is not contiguous");
    combination_job j = {be->kernels, n, coef, x, y->data, mica_tensor_count(y)};
    mica_cpu_parallel(be, (j.count + TASK_ELEMENTS - 1) / TASK_ELEMENTS, combination_task, &j);
    return MICA_OK;
}
