/* cuda_layer.c - a layer of a language model with a mixture of experts, for a token of up to 8 sequences, as five
 * kernels (and one more for each further sequence):
 *
 *     x ─► norm, q k v ─► turn, cache, attention ─► o + x, the router's sums ─► norm, choice, gate, up ─► down + x
 *          linear         decode                    linear                      gate_up                   down
 *
 * Norms, rotation and router have no kernels of their own: each would keep the device for 2 to 3 us in which
 * nothing of the weights comes. A norm is taken by every block that reads x. A router's logit is
 * sum (x * norm) w times the factor of x's norm, so that tiles of o add up their part of it and of x^2, and
 * every block of gate_up and down adds up the tiles and chooses.
 *
 * All weights but norms and router are tiles of MLX's 4 bits (cuda_tiles.cuh), precision is bf16, and heads are as
 * cuda_decode.cu takes them. Otherwise the operations run one by one. */
#include "backend/cuda/cuda_experts.h"

#include <math.h>

typedef struct layer {
    mica_cuda_backend *be;
    const mica_mixture_layer_args *a;
    int L, E, H, G, K;
    int64_t D, F;
    mica_cuda_view x;
    uint8_t *q, *k, *v, *out; /* bf16, rows of all heads */
    float *partials, *work;
    void *hidden;
} layer;

/* -------------------------------------------------------------------- fits -- */

static bool rows_fit(const mica_tensor *t, int64_t heads, int64_t width)
{
    return t->dtype == MICA_DTYPE_BF16 && mica_tensor_is_contiguous(t) && t->ndim == 3 &&
           t->shape_[1] == heads && t->shape_[2] == width && t->shape_[0] < INT32_MAX &&
           (uintptr_t)t->data % 16 == 0;
}

static bool caches_fit(const mica_mixture_layer_args *a, int64_t G, int64_t K)
{
    for (int64_t l = 0; l < a->experts.x_LD->shape_[0]; l++)
        if (!rows_fit(&a->caches[l][0], G, K) || !rows_fit(&a->caches[l][1], G, K))
            return false;
    return true;
}

static bool table_fits(const mica_tensor *t, int64_t K)
{
    return t->ndim == 2 && mica_tensor_is_contiguous(t) && t->shape_[1] == K / 2 &&
           (uintptr_t)t->data % 16 == 0;
}

static bool heads_fit(const mica_mixture_layer_args *a)
{
    const int64_t H = a->heads, G = a->kv_heads;
    const int64_t K = a->q->tensor.shape_[0] / H;
    return (K == 64 || K == 128) && a->q->tensor.shape_[0] == H * K &&
           a->k->tensor.shape_[0] == G * K && a->v->tensor.shape_[0] == G * K && H % G == 0 &&
           H / G <= MICA_CUDA_DECODE_SHARE && H <= MICA_CUDA_HEADS_MOST && caches_fit(a, G, K) &&
           table_fits(a->cos_Lk, K) && table_fits(a->sin_Lk, K);
}

static bool weights_fit(const mica_mixture_layer_args *a)
{
    const mica_tensor *router = &a->router->tensor;
    mica_weight *const tiles[] = {a->q, a->k, a->v, a->o};
    for (size_t i = 0; i < MICA_ARRAY_LEN(tiles); i++)
        if (!mica_cuda_tiles_weight_fits(tiles[i]) || !mica_cuda_tiles_go_together(tiles[i], a->q))
            return false;
    return !mica_cuda_is_packed(router) && !a->router->adapters && !a->router->exact &&
           router->ndim == 2 && router->shape_[0] == a->count &&
           router->shape_[1] == a->experts.x_LD->shape_[1] &&
           mica_cuda_tiles_experts_fit(&a->experts, a->count);
}

static bool fits(const mica_cuda_backend *be, const mica_mixture_layer_args *a)
{
    const mica_tensor *x = a->experts.x_LD;
    return be->bf16 && !be->fp8 && be->fuse && !be->streaming && !be->capturing &&
           x->dtype == MICA_DTYPE_BF16 && x->ndim == 2 && mica_tensor_is_contiguous(x) &&
           x->shape_[0] <= MICA_CUDA_TILE_ROWS && x->shape_[1] % 16 == 0 && weights_fit(a) &&
           heads_fit(a);
}

/* ------------------------------------------------------------------- parts -- */

/* Every piece behind `memory`, or NULL: they are only counted. Returns the bytes of all. */
static size_t lay_out(layer *y, uint8_t *memory)
{
    const size_t L = (size_t)y->L, q = L * (size_t)(y->H * y->K) * 2,
                 k = L * (size_t)(y->G * y->K) * 2;
    size_t used = 0;
    y->q = mica_cuda_take(memory, &used, q);
    y->k = mica_cuda_take(memory, &used, k);
    y->v = mica_cuda_take(memory, &used, k);
    y->out = mica_cuda_take(memory, &used, q);
    y->partials =
        mica_cuda_take(memory, &used, L * (size_t)((y->E + 1) * (y->D / 16)) * sizeof(float));
    y->work =
        mica_cuda_take(memory, &used, (size_t)mica_cuda_decode_floats(y->H, y->K) * sizeof(float));
    y->hidden = mica_cuda_take(memory, &used,
                               mica_cuda_tile_hidden_size(y->L * y->a->experts.active, y->F));
    return used;
}

static mica_status norm_of(mica_cuda_backend *be, mica_weight *w, float eps,
                           mica_cuda_tile_norm *out, mica_err *err)
{
    const void *p;
    MICA_TRY(mica_cuda_weight(be, w, MICA_CUDA_FORM_F32, &p, err));
    *out = (mica_cuda_tile_norm){.w = p, .eps = eps};
    return MICA_OK;
}

static mica_status linear_of(const layer *y, mica_weight *w, const void *x, void *to,
                             mica_cuda_tile_linear *out, mica_err *err)
{
    const int64_t rows = w->tensor.shape_[0], n = w->tensor.shape_[1];
    *out =
        (mica_cuda_tile_linear){.scales = mica_cuda_type_of(w->tensor.scale.dtype),
                                .rows = rows,
                                .n = n,
                                .x = x,
                                .ldx = n,
                                .m = y->L,
                                .y = mica_cuda_view_matrix(to, MICA_CUDA_BF16, y->L, rows, rows)};
    return mica_cuda_matrix_of(y->be, w, &out->w, err);
}

static mica_status run_inputs(layer *y, mica_err *err)
{
    const mica_mixture_layer_args *a = y->a;
    mica_cuda_tile_linear parts[3];
    mica_cuda_tile_extra extra = {0};
    MICA_TRY(norm_of(y->be, a->norm_in, a->eps, &extra.norm, err));
    MICA_TRY(linear_of(y, a->q, y->x.data, y->q, &parts[0], err));
    MICA_TRY(linear_of(y, a->k, y->x.data, y->k, &parts[1], err));
    MICA_TRY(linear_of(y, a->v, y->x.data, y->v, &parts[2], err));
    return mica_cuda_check(mica_cuda_tile_linears_run(parts, 3, &extra, y->be->stream),
                           "queries, keys and values", err);
}

static mica_status attend(layer *y, int l, mica_err *err)
{
    const mica_mixture_layer_args *a = y->a;
    const mica_tensor *k = &a->caches[l][0], *v = &a->caches[l][1];
    const size_t head = (size_t)y->K * 2, half = (size_t)y->K / 2;
    const size_t queries = (size_t)(l * y->H) * head, keys = (size_t)(l * y->G) * head;
    const size_t angle = (size_t)a->positions[l] * half;
    const mica_cuda_decode_args args = {
        .q = y->q + queries,
        .k = k->data,
        .v = v->data,
        .out = y->out + queries,
        .type = MICA_CUDA_BF16,
        .M = k->shape_[0],
        .q_stride = y->K,
        .out_stride = y->K,
        .k_stride = {k->stride_[0], k->stride_[1]},
        .v_stride = {v->stride_[0], v->stride_[1]},
        .H = y->H,
        .G = y->G,
        .K = y->K,
        .scale = 1.0f / sqrtf((float)y->K),
        .work = y->work,
        .arrived = y->be->arrived,
        .fresh = {.k = y->k + keys,
                  .v = y->v + keys,
                  .cos = (const float *)a->cos_Lk->data + angle,
                  .sin = (const float *)a->sin_Lk->data + angle,
                  .interleaved = a->layout == MICA_ROPE_INTERLEAVED}};
    return mica_cuda_check(mica_cuda_decode(&args, y->be->stream), "attention", err);
}

static mica_status run_output(layer *y, const mica_cuda_tile_norm *norm, mica_err *err)
{
    const mica_mixture_layer_args *a = y->a;
    mica_cuda_tile_linear o;
    mica_cuda_tile_extra extra = {.router = {.type = mica_cuda_compute_type(y->be),
                                             .E = y->E,
                                             .norm = *norm,
                                             .partials = y->partials}};
    MICA_TRY(mica_cuda_weight(y->be, a->router, MICA_CUDA_FORM_MATRIX, &extra.router.w, err));
    MICA_TRY(linear_of(y, a->o, y->out, y->x.data, &o, err));
    o.residual = o.y;
    return mica_cuda_check(mica_cuda_tile_linears_run(&o, 1, &extra, y->be->stream),
                           "attention's output", err);
}

static mica_status run_experts(layer *y, const mica_cuda_tile_norm *norm, const void *addresses,
                               mica_err *err)
{
    const mica_tensor *gate = &y->a->experts.gate_FD->tensor;
    const mica_cuda_tile_experts args = {.experts = addresses,
                                         .scales = mica_cuda_type_of(gate->scale.dtype),
                                         .partials = y->partials,
                                         .norm = *norm,
                                         .m = y->L,
                                         .E = y->E,
                                         .A = y->a->experts.active,
                                         .D = y->D,
                                         .F = y->F,
                                         .x = y->x.data,
                                         .ldx = y->D,
                                         .hidden = y->hidden,
                                         .y = y->x};
    return mica_cuda_check(mica_cuda_tile_experts_run(&args, y->be->stream), "experts", err);
}

/* ------------------------------------------------------------------- layer -- */

static layer layer_of(mica_cuda_backend *be, const mica_mixture_layer_args *a)
{
    return (layer){.be = be,
                   .a = a,
                   .L = (int)a->experts.x_LD->shape_[0],
                   .E = a->count,
                   .H = a->heads,
                   .G = a->kv_heads,
                   .K = (int)(a->q->tensor.shape_[0] / a->heads),
                   .D = a->experts.x_LD->shape_[1],
                   .F = a->experts.gate_FD[0].tensor.shape_[0],
                   .x = mica_cuda_view_of(a->experts.x_LD)};
}

mica_status mica_cuda_op_mixture_layer(mica_backend *base, const mica_mixture_layer_args *a,
                                       bool *taken, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const void *addresses;
    mica_cuda_tile_norm norm;
    void *memory;
    *taken = fits(be, a);
    if (!*taken)
        return MICA_OK;
    layer y = layer_of(be, a);
    MICA_TRY(mica_cuda_expert_addresses(be, &a->experts, a->count, &addresses, err));
    MICA_TRY(mica_cuda_decode_reserve(be, err));
    MICA_TRY(mica_cuda_scratch(be, lay_out(&y, NULL), &memory, err));
    (void)lay_out(&y, memory);
    MICA_TRY(run_inputs(&y, err));
    for (int l = 0; l < y.L; l++)
        MICA_TRY(attend(&y, l, err));
    MICA_TRY(norm_of(be, a->norm_post, a->eps, &norm, err));
    MICA_TRY(run_output(&y, &norm, err));
    return run_experts(&y, &norm, addresses, err);
}
