/* cuda_fp8.c - linears in fp8: y = residual + gate * act((q_x q_w^T) * scale_x[row] * scale_w[output] + bias).
 *
 *     norm, swiglu, linear with GELU ──► twin: the result's rows in e4m3, a scale each
 *                                         └──► the linears that follow at once read it
 *     any other input                ──► quantised into the twin by the first linear that reads it
 *
 *     weight (bf16, f16, f32, fp8 ...) ──► [O][ld] e4m3 + [O] scales, once    cuda_prepare.c
 *     product ──► cuBLASLt with a scale per row of both operands, sums in f32, result in bf16
 *
 * The twin belongs to one input and lives from the operation that wrote it through the linears right
 * behind that: any other operation might change the tensor, and the count of operations tells. One per
 * branch (cuda_branch.c). Where a model promises that nobody else reads the tensor (mica_next_is_operand)
 * the twin is all there is; a linear in bf16 then gets its numbers back from it.
 *
 * Sensitive weights, those with adapters, and shapes that the tensor cores do not take (multiples of
 * 16) stay in bf16. Fast accumulation is on: its 14 bits are far beyond the 4 of an operand, and it is
 * 15 % faster. */
#include "backend/cuda/cuda_backend.h"

/* ------------------------------------------------------------------- twin -- */

static bool same_rows(const mica_cuda_view *a, const mica_cuda_view *b)
{
    return a->data == b->data && a->rows == b->rows && a->n == b->n && a->type == b->type &&
           (a->rows == 1 || a->stride[0] == b->stride[0]);
}

static bool can_be_twin(const mica_cuda_view *v)
{
    return v->wide && v->dims == 1 && v->n % 16 == 0 && v->n <= MICA_CUDA_QUANTIZE_MOST &&
           v->rows < INT32_MAX;
}

mica_status mica_cuda_twin_open(mica_cuda_backend *be, const mica_cuda_view *of, uint8_t **q,
                                float **scale, mica_err *err)
{
    mica_cuda_twin *t = &be->twins[be->named];
    const size_t rows = mica_cuda_align((size_t)(of->rows * of->n));
    const size_t size = rows + mica_cuda_align((size_t)of->rows * sizeof(float));
    *q = NULL;
    if (!be->fp8 || !can_be_twin(of))
        return MICA_OK;
    if (size > t->size) {
        MICA_TRY(mica_cuda_refuse_capture(be, "more room for operands", err));
        mica_cuda_free(be, t->memory);
        t->memory = NULL;
        t->size = 0;
        MICA_TRY(mica_cuda_alloc(be, size + size / 8, "fp8 operands", &t->memory, err));
        t->size = size + size / 8;
    }
    t->of = *of;
    t->op = mica_cuda_branch_ops(be);
    t->only = be->base.is_operand;
    *q = t->memory;
    *scale = (float *)(void *)((uint8_t *)t->memory + rows);
    return MICA_OK;
}

/* The twin of x if the operation before this one left it. */
static bool twin_find(mica_cuda_backend *be, const mica_cuda_view *x, uint8_t **q, float **scale)
{
    const mica_cuda_twin *t = &be->twins[be->named];
    if (!t->memory || t->op + 1 != mica_cuda_branch_ops(be) || !same_rows(&t->of, x))
        return false;
    *q = t->memory;
    *scale = (float *)(void *)(*q + mica_cuda_align((size_t)(x->rows * x->n)));
    return true;
}

mica_status mica_cuda_twin_settle(mica_cuda_backend *be, const mica_cuda_view *x, mica_err *err)
{
    mica_cuda_twin *t = &be->twins[be->named];
    uint8_t *q;
    float *scale;
    if (!twin_find(be, x, &q, &scale))
        return MICA_OK;
    t->op = mica_cuda_branch_ops(be);
    if (!t->only)
        return MICA_OK;
    t->only = false;
    return mica_cuda_check(mica_cuda_dequantize(q, scale, x->n, x, be->stream), "an operand", err);
}

static mica_status quantized_input(mica_cuda_backend *be, const mica_cuda_view *x, uint8_t **q,
                                   float **scale, mica_err *err)
{
    if (!twin_find(be, x, q, scale)) {
        MICA_TRY(mica_cuda_twin_open(be, x, q, scale, err));
        be->twins[be->named].only = false;
        const mica_cuda_quantize_args args = {
            .kind = MICA_CUDA_OPERAND_PLAIN, .x = *x, .q = *q, .scale = *scale, .ld = x->n};
        MICA_TRY(mica_cuda_check(mica_cuda_quantize(&args, be->stream), "quantising", err));
    }
    be->twins[be->named].op = mica_cuda_branch_ops(be); /* for the next linear on the same input */
    return MICA_OK;
}

void mica_cuda_twin_deinit(mica_cuda_backend *be)
{
    for (int i = 0; i < 2; i++) {
        mica_cuda_free(be, be->twins[i].memory);
        be->twins[i] = (mica_cuda_twin){0};
    }
}

/* ----------------------------------------------------------------- linear -- */

bool mica_cuda_fp8_fits(const mica_cuda_backend *be, const mica_linear_args *args)
{
    const mica_tensor *w = &args->w_OD->tensor;
    const mica_cuda_view x = mica_cuda_view_of(args->x_MD), y = mica_cuda_view_of(args->y_MO);
    return be->fp8 && !args->w_OD->sensitive && !args->w_OD->exact && !args->w_OD->adapters &&
           mica_dtype_get(w->dtype)->is_float && y.type == MICA_CUDA_BF16 &&
           w->shape_[0] % 16 == 0 && can_be_twin(&x) && x.n == w->shape_[1] && y.dims == 1 &&
           y.wide && y.n == w->shape_[0];
}

typedef struct job {
    mica_cuda_backend *be;
    const mica_linear_args *args;
    const char *name;
    mica_cuda_view x, y;
    mica_cuda_gemm g;
} job;

/* sums ─► y: what the epilogue of the product does not do. */
static mica_status finish(job *j, mica_err *err)
{
    const mica_linear_args *a = j->args;
    const void *bias;
    mica_cuda_epilogue_args late = {
        .acc = mica_cuda_view_matrix(j->g.d, j->g.d_type, j->y.rows, j->y.n, j->g.ldd),
        .y = j->y,
        .gate = a->gate_O ? a->gate_O->data : NULL,
        .act = (mica_cuda_act)a->act};
    MICA_TRY(mica_cuda_weight(j->be, a->bias_O, MICA_CUDA_FORM_F32, &bias, err));
    late.bias = bias;
    if (a->residual_MO)
        late.residual = mica_cuda_view_of(a->residual_MO);
    return mica_cuda_check(mica_cuda_epilogue(&late, j->be->stream), j->name, err);
}

/* Sums in y itself, then bias and GELU on the way to the twin: y keeps the sums when nobody else
 * wants to see the hidden layer. */
static mica_status run_activated(job *j, mica_err *err)
{
    const void *bias;
    uint8_t *q;
    float *scale;
    j->g.d = j->y.data;
    j->g.ldd = j->y.rows > 1 ? j->y.stride[0] : j->y.n;
    MICA_TRY(mica_cuda_weight(j->be, j->args->bias_O, MICA_CUDA_FORM_F32, &bias, err));
    MICA_TRY(mica_cuda_gemm_run(j->be, &j->g, j->name, err));
    MICA_TRY(mica_cuda_twin_open(j->be, &j->y, &q, &scale, err));
    mica_cuda_quantize_args args = {.kind = MICA_CUDA_OPERAND_ACTIVATED,
                                    .x = j->y,
                                    .bias = bias,
                                    .q = q,
                                    .scale = scale,
                                    .ld = j->y.n};
    if (!j->be->base.is_operand)
        args.y = j->y;
    return mica_cuda_check(mica_cuda_quantize(&args, j->be->stream), j->name, err);
}

/* y = residual + gate * (sums + bias) as one product: the gate goes into the weight's scales and the bias. */
static mica_status run_gated(job *j, bool *done, mica_err *err)
{
    const mica_linear_args *a = j->args;
    const mica_cuda_view r = mica_cuda_view_of(a->residual_MO);
    const size_t part = mica_cuda_align((size_t)j->y.n * sizeof(float));
    const void *bias;
    void *scratch;
    mica_cuda_gemm g = j->g;
    g.d = j->y.data;
    g.ldd = j->y.rows > 1 ? j->y.stride[0] : j->y.n;
    g.c = r.data;
    g.ldc = r.rows > 1 ? r.stride[0] : r.n;
    MICA_TRY(mica_cuda_scratch(j->be, 2 * part, &scratch, err));
    g.bias = a->bias_O ? (uint8_t *)scratch + part : NULL;
    *done = r.wide && r.dims == 1 && r.type == MICA_CUDA_BF16 && mica_cuda_gemm_exists(j->be, &g);
    if (!*done)
        return MICA_OK;
    MICA_TRY(mica_cuda_weight(j->be, a->bias_O, MICA_CUDA_FORM_F32, &bias, err));
    MICA_TRY(mica_cuda_check(mica_cuda_fold_gate(g.a_scale, a->gate_O->data, bias, j->y.n, scratch,
                                                 (uint8_t *)scratch + part, j->be->stream),
                             j->name, err));
    g.a_scale = scratch;
    return mica_cuda_gemm_run(j->be, &g, j->name, err);
}

static mica_status run_late(job *j, mica_err *err)
{
    void *sums;
    MICA_TRY(mica_cuda_scratch(
        j->be, (size_t)(j->y.rows * j->y.n) * mica_cuda_type_size(j->g.d_type), &sums, err));
    j->g.d = sums;
    j->g.ldd = j->y.n;
    MICA_TRY(mica_cuda_gemm_run(j->be, &j->g, j->name, err));
    return finish(j, err);
}

/* y: of args, or of several linears that run as one. */
static mica_status run(mica_cuda_backend *be, const mica_linear_args *args, const mica_cuda_view *y,
                       const void *w, const float *w_scale, mica_err *err)
{
    job j = {.be = be,
             .args = args,
             .name = args->w_OD->name ? args->w_OD->name : "linear",
             .x = mica_cuda_view_of(args->x_MD),
             .y = *y};
    const int64_t ld = j.x.n;
    uint8_t *q;
    float *scale;
    MICA_TRY(quantized_input(be, &j.x, &q, &scale, err));
    j.g = (mica_cuda_gemm){.m = j.y.n,
                           .n = j.y.rows,
                           .k = ld,
                           .transpose_a = true,
                           .type = MICA_CUDA_F8_E4M3,
                           .d_type = j.y.type,
                           .a = w,
                           .b = q,
                           .lda = ld,
                           .ldb = ld,
                           .a_scale = w_scale,
                           .b_scale = scale};
    if (args->act == MICA_ACT_GELU_TANH && !args->residual_MO && j.y.type == MICA_CUDA_BF16 &&
        can_be_twin(&j.y))
        return run_activated(&j, err);
    bool done = false;
    if (args->act == MICA_ACT_NONE && args->gate_O)
        MICA_TRY(run_gated(&j, &done, err));
    if (done)
        return MICA_OK;
    if (args->act != MICA_ACT_NONE || args->residual_MO)
        return run_late(&j, err);
    j.g.d = j.y.data;
    j.g.ldd = j.y.rows > 1 ? j.y.stride[0] : j.y.n;
    MICA_TRY(mica_cuda_weight(be, args->bias_O, MICA_CUDA_FORM_BF16, &j.g.bias, err));
    if (mica_cuda_gemm_exists(be, &j.g))
        return mica_cuda_gemm_run(be, &j.g, j.name, err);
    j.g.bias = NULL; /* few rows: no algorithm with an epilogue */
    return run_late(&j, err);
}

mica_status mica_cuda_linear_fp8(mica_cuda_backend *be, const mica_linear_args *args, mica_err *err)
{
    const mica_cuda_view y = mica_cuda_view_of(args->y_MO);
    const void *w;
    const float *scale;
    MICA_TRY(mica_cuda_weight_fp8(be, args->w_OD, &w, &scale, err));
    return run(be, args, &y, w, scale, err);
}

mica_status mica_cuda_linears_fp8(mica_cuda_backend *be, const mica_linear_args *args,
                                  const mica_cuda_view *y, const void *w, const float *w_scale,
                                  mica_err *err)
{
    return run(be, args, y, w, w_scale, err);
}
