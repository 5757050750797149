/* cuda_experts.c - a token's step of a language model without waiting: experts chosen on the device, linears
 * of a few rows, attention of one query; the kernels are in cuda_tiles.cu and cuda_decode.cu.
 *
 *     experts     up to 8 rows in bf16 precision, all experts in MLX's 4 bits and on the device; of other types
 *                 by cuda_mixture.c
 *     linears     `by_row`, up to 8 rows: MLX's 4 bits likewise, plain matrices in any precision
 *     attention   one query, heads of 64 or 128
 *
 * What is not among these goes the ways that any rows go; for experts that is backend_experts.c, which reads the
 * router's logits back. A layer's table holds the addresses of its experts and is sent again when they have
 * moved. */
#include "backend/cuda/cuda_experts.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

struct mica_cuda_expert_table {
    mica_cuda_expert_table *next;
    const mica_weight *key; /* the layer's first matrix */
    mica_cuda_matrix image[3 * MICA_CUDA_EXPERTS_MOST], *device;
    int count;
};

void mica_cuda_experts_deinit(mica_cuda_backend *be)
{
    while (be->experts) {
        mica_cuda_expert_table *t = be->experts;
        be->experts = t->next;
        mica_cuda_free(be, t->device);
        mica_mem_free(t);
    }
    mica_cuda_free(be, be->arrived);
    be->arrived = NULL;
}

/* ----------------------------------------------------------------- experts -- */

bool mica_cuda_tiles_weight_fits(const mica_weight *w)
{
    const mica_tensor *t = &w->tensor;
    if (t->dtype != MICA_DTYPE_MLX4 || t->ndim != 2 || !mica_tensor_is_contiguous(t) ||
        w->adapters || mica_cuda_is_streamed(w))
        return false;
    const mica_cuda_packed_rows rows = mica_cuda_packed_view(t, (void *)(uintptr_t)256);
    return mica_cuda_tiles_fit(&rows);
}

mica_status mica_cuda_matrix_of(mica_cuda_backend *be, mica_weight *w, mica_cuda_matrix *out,
                                mica_err *err)
{
    const void *form;
    if (!mica_cuda_is_packed(&w->tensor)) {
        *out = (mica_cuda_matrix){0};
        return mica_cuda_weight(be, w, MICA_CUDA_FORM_MATRIX, &out->data, err);
    }
    MICA_TRY(mica_cuda_weight(be, w, MICA_CUDA_FORM_PACKED, &form, err));
    const mica_cuda_packed_rows rows = mica_cuda_packed_view(&w->tensor, form);
    *out = (mica_cuda_matrix){rows.data, rows.scale, rows.bias};
    return MICA_OK;
}

bool mica_cuda_tiles_go_together(const mica_weight *a, const mica_weight *b)
{
    return a->tensor.scale.dtype == b->tensor.scale.dtype;
}

bool mica_cuda_tiles_experts_fit(const mica_experts_args *a, int64_t E)
{
    if (E > MICA_CUDA_EXPERTS_MOST ||
        !mica_cuda_tile_experts_fit(a->active, a->x_LD->shape_[1], a->gate_FD[0].tensor.shape_[0]))
        return false;
    const mica_weight *const all[] = {a->gate_FD, a->up_FD, a->down_DF};
    for (int64_t i = 0; i < 3 * E; i++) {
        const mica_weight *w = &all[i / E][i % E];
        if (!mica_cuda_tiles_weight_fits(w) || !mica_cuda_tiles_go_together(w, a->gate_FD))
            return false;
    }
    return true;
}

static bool experts_fit(const mica_cuda_backend *be, const mica_experts_args *a)
{
    return be->bf16 && be->fuse && !be->streaming && !be->capturing && a->by_row &&
           a->x_LD->shape_[0] <= MICA_CUDA_TILE_ROWS && a->x_LD->dtype == MICA_DTYPE_BF16 &&
           a->x_LD->stride_[1] == 1 && a->x_LD->stride_[0] % 8 == 0 &&
           mica_tensor_is_contiguous(a->logits_LE) &&
           mica_cuda_tiles_experts_fit(a, a->logits_LE->shape_[1]);
}

mica_status mica_cuda_expert_addresses(mica_cuda_backend *be, const mica_experts_args *a, int E,
                                       const void **out, mica_err *err)
{
    mica_cuda_expert_table *t = be->experts;
    *out = NULL;
    while (t && t->key != a->gate_FD)
        t = t->next;
    if (!t) {
        void *device;
        t = mica_mem_calloc(1, sizeof *t);
        if (!t)
            return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the addresses of experts");
        t->next = be->experts;
        t->key = a->gate_FD;
        be->experts = t;
        MICA_TRY(mica_cuda_alloc(be, sizeof t->image, "the addresses of experts", &device, err));
        t->device = device;
    }
    mica_cuda_matrix fresh[3 * MICA_CUDA_EXPERTS_MOST];
    for (int e = 0; e < E; e++) {
        MICA_TRY(mica_cuda_matrix_of(be, &a->gate_FD[e], &fresh[3 * e], err));
        MICA_TRY(mica_cuda_matrix_of(be, &a->up_FD[e], &fresh[3 * e + 1], err));
        MICA_TRY(mica_cuda_matrix_of(be, &a->down_DF[e], &fresh[3 * e + 2], err));
    }
    const size_t size = (size_t)(3 * E) * sizeof fresh[0];
    *out = t->device;
    if (t->count == E && memcmp(t->image, fresh, size) == 0)
        return MICA_OK;
    void *host;
    MICA_TRY(mica_cuda_stage_open(be, &host, err));
    memcpy(host, fresh, size);
    memcpy(t->image, fresh, size);
    t->count = E;
    MICA_TRY(
        mica_cuda_check(cudaMemcpyAsync(t->device, host, size, cudaMemcpyHostToDevice, be->stream),
                        "sending addresses", err));
    return mica_cuda_stage_close(be, err);
}

mica_status mica_cuda_op_experts(mica_backend *base, const mica_experts_args *a, bool *taken,
                                 mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const int64_t L = a->x_LD->shape_[0], F = a->gate_FD[0].tensor.shape_[0];
    const void *addresses;
    void *hidden;
    *taken = experts_fit(be, a);
    if (!*taken)
        return mica_cuda_mixture(be, a, taken, err);
    const mica_cuda_view x = mica_cuda_view_of(a->x_LD);
    MICA_TRY(mica_cuda_twin_settle(be, &x, err));
    MICA_TRY(mica_cuda_expert_addresses(be, a, (int)a->logits_LE->shape_[1], &addresses, err));
    MICA_TRY(
        mica_cuda_scratch(be, mica_cuda_tile_hidden_size((int)L * a->active, F), &hidden, err));
    const mica_cuda_tile_experts args = {.experts = addresses,
                                         .scales =
                                             mica_cuda_type_of(a->gate_FD->tensor.scale.dtype),
                                         .logits = a->logits_LE->data,
                                         .m = (int)L,
                                         .E = (int)a->logits_LE->shape_[1],
                                         .A = a->active,
                                         .D = a->x_LD->shape_[1],
                                         .F = F,
                                         .x = a->x_LD->data,
                                         .ldx = a->x_LD->stride_[0],
                                         .hidden = hidden,
                                         .y = mica_cuda_view_of(a->y_LD)};
    return mica_cuda_check(mica_cuda_tile_experts_run(&args, be->stream), "experts", err);
}

/* ----------------------------------------------------------------- linears -- */

static mica_status describe_tiles(mica_cuda_backend *be, const mica_linear_args *args,
                                  const mica_cuda_product *p, mica_cuda_tile_linear *a,
                                  mica_err *err)
{
    const void *bias;
    *a = (mica_cuda_tile_linear){.scales = mica_cuda_type_of(args->w_OD->tensor.scale.dtype),
                                 .rows = p->outputs,
                                 .n = args->w_OD->tensor.shape_[1],
                                 .x = p->x.data,
                                 .ldx = p->x.stride[0],
                                 .m = (int)p->x.rows,
                                 .y = p->y,
                                 .residual = p->residual};
    MICA_TRY(mica_cuda_matrix_of(be, args->w_OD, &a->w, err));
    MICA_TRY(mica_cuda_weight(be, p->bias, MICA_CUDA_FORM_F32, &bias, err));
    a->bias = bias;
    return MICA_OK;
}

static mica_status run_tiles(mica_cuda_backend *be, const mica_linear_args *args,
                             const mica_cuda_product *p, mica_err *err)
{
    mica_cuda_tile_linear a;
    MICA_TRY(describe_tiles(be, args, p, &a, err));
    return mica_cuda_check(mica_cuda_tile_linears_run(&a, 1, NULL, be->stream), p->name, err);
}

static mica_status run_plain(mica_cuda_backend *be, const mica_linear_args *args,
                             const mica_cuda_product *p, mica_err *err)
{
    mica_cuda_few_args a = {.type = mica_cuda_compute_type(be),
                            .outputs = p->outputs,
                            .ld = p->ld,
                            .x = p->x,
                            .y = p->y,
                            .residual = p->residual,
                            .act = (mica_cuda_act)p->act};
    const void *bias;
    MICA_TRY(mica_cuda_weight(be, args->w_OD, MICA_CUDA_FORM_MATRIX, &a.w, err));
    MICA_TRY(mica_cuda_weight(be, p->bias, MICA_CUDA_FORM_F32, &bias, err));
    a.bias = bias;
    return mica_cuda_check(mica_cuda_few(&a, be->stream), p->name, err);
}

static bool is_few(const mica_cuda_backend *be, const mica_linear_args *args,
                   const mica_cuda_product *p)
{
    return args->by_row && be->fuse && !args->w_OD->exact && !p->gate && p->x.dims == 1 &&
           p->x.wide && p->x.rows <= MICA_CUDA_TILE_ROWS;
}

static bool takes_tiles(const mica_cuda_backend *be, const mica_linear_args *args,
                        const mica_cuda_product *p)
{
    return is_few(be, args, p) && be->bf16 && p->x.type == MICA_CUDA_BF16 &&
           p->act == MICA_ACT_NONE && mica_cuda_tiles_weight_fits(args->w_OD);
}

mica_status mica_cuda_few_rows(mica_cuda_backend *be, const mica_linear_args *args,
                               const mica_cuda_product *p, bool *taken, mica_err *err)
{
    *taken = takes_tiles(be, args, p);
    if (*taken)
        return run_tiles(be, args, p, err);
    *taken = is_few(be, args, p) && !mica_cuda_is_packed(&args->w_OD->tensor) && p->ld == p->x.n &&
             p->x.n == args->w_OD->tensor.shape_[1];
    return *taken ? run_plain(be, args, p, err) : MICA_OK;
}

/* All of them, or none. */
mica_status mica_cuda_tile_linears(mica_cuda_backend *be, const mica_linear_args *args, int count,
                                   bool *taken, mica_err *err)
{
    mica_cuda_tile_linear parts[MICA_CUDA_TILE_PARTS];
    mica_cuda_product p[MICA_CUDA_TILE_PARTS];
    *taken = count <= MICA_CUDA_TILE_PARTS && !be->fp8;
    for (int i = 0; i < count && *taken; i++) {
        p[i] = (mica_cuda_product){.name = args[i].w_OD->name ? args[i].w_OD->name : "linear",
                                   .x = mica_cuda_view_of(args[i].x_MD),
                                   .y = mica_cuda_view_of(args[i].y_MO),
                                   .outputs = args[i].w_OD->tensor.shape_[0],
                                   .bias = args[i].bias_O,
                                   .gate = args[i].gate_O ? args[i].gate_O->data : NULL,
                                   .act = args[i].act};
        if (args[i].residual_MO)
            p[i].residual = mica_cuda_view_of(args[i].residual_MO);
        *taken = takes_tiles(be, &args[i], &p[i]) && p[i].y.n == p[i].outputs &&
                 mica_cuda_tiles_go_together(args[i].w_OD, args[0].w_OD) &&
                 p[i].x.n == args[i].w_OD->tensor.shape_[1];
    }
    if (!*taken)
        return MICA_OK;
    for (int i = 0; i < count; i++)
        MICA_TRY(describe_tiles(be, &args[i], &p[i], &parts[i], err));
    return mica_cuda_check(mica_cuda_tile_linears_run(parts, count, NULL, be->stream), "linears",
                           err);
}

/* --------------------------------------------------------------- attention -- */

mica_status mica_cuda_decode_reserve(mica_cuda_backend *be, mica_err *err)
{
    const size_t size = MICA_CUDA_HEADS_MOST * sizeof(unsigned);
    if (be->arrived)
        return MICA_OK;
    MICA_TRY(mica_cuda_alloc(be, size, "counters of attention", &be->arrived, err));
    return mica_cuda_check(cudaMemsetAsync(be->arrived, 0, size, be->stream), "clearing counters",
                           err);
}

mica_status mica_cuda_attend_one(mica_cuda_backend *be, const mica_attention_args *args,
                                 bool *taken, mica_err *err)
{
    const mica_tensor *q = args->q_LHK[0], *k = args->k_MGK[0], *v = args->v_MGK[0];
    const mica_tensor *out = args->out_LHK[0];
    const int64_t H = q->shape_[1], G = k->shape_[1], K = q->shape_[2];
    const mica_tensor *const all[] = {q, k, v, out};
    void *work;
    *taken = be->fuse && args->segments == 1 && q->shape_[0] == 1 && (K == 64 || K == 128) &&
             G > 0 && H % G == 0 && H <= MICA_CUDA_HEADS_MOST && k->shape_[0] < INT32_MAX &&
             args->scale >= 0.0f && (args->window == 0 || k->shape_[0] <= args->window);
    for (int i = 0; i < 4 && *taken; i++)
        *taken = all[i]->dtype == q->dtype && all[i]->stride_[2] == 1 &&
                 all[i]->stride_[1] % 8 == 0 && all[i]->stride_[0] % 8 == 0 &&
                 (uintptr_t)all[i]->data % 16 == 0;
    if (!*taken)
        return MICA_OK;
    MICA_TRY(mica_cuda_decode_reserve(be, err));
    MICA_TRY(mica_cuda_scratch(be, (size_t)mica_cuda_decode_floats((int)H, (int)K) * sizeof(float),
                               &work, err));
    const mica_cuda_decode_args a = {.q = q->data,
                                     .k = k->data,
                                     .v = v->data,
                                     .out = out->data,
                                     .type = mica_cuda_type_of(q->dtype),
                                     .M = k->shape_[0],
                                     .q_stride = q->stride_[1],
                                     .out_stride = out->stride_[1],
                                     .k_stride = {k->stride_[0], k->stride_[1]},
                                     .v_stride = {v->stride_[0], v->stride_[1]},
                                     .H = (int)H,
                                     .G = (int)G,
                                     .K = (int)K,
                                     .scale =
                                         args->scale > 0.0f ? args->scale : 1.0f / sqrtf((float)K),
                                     .work = work,
                                     .arrived = be->arrived};
    return mica_cuda_check(mica_cuda_decode(&a, be->stream), "attention", err);
}
