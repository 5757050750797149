/* cuda_attention.c - softmax(scale q k^T) v: cuDNN's fused kernel, or two products and a softmax.
 *
 *     flash      bf16, heads of 64 or 128, with a causal mask or short: our own kernel, cuda_flash.cu.
 *                No plan is made, so a prompt of any length starts at once
 *     fused      bf16, heads of at most 128 and a multiple of 8 wide, no mask: cuda_cudnn.c.
 *                One kernel over all tokens: segments that do not already lie one behind the
 *                other are joined in scratch, and the output is taken apart again
 *     products   the rest: f32, wide or odd heads, causal masks, sizes that come once. Per slab of heads and queries
 *                    S = q k^T  (f32, scratch)     P = softmax(S)     out = P v
 *     grouped    products of several heads whose scores fit into one slab (text encoders): queries
 *                are gathered by head, so that all heads are one batch, and the output spread again.
 *                5 launches a layer; 28 to 36 layers with 3 for every key head took longer to queue
 *                than to compute
 *
 *     scratch    [k][v][q][out]  where not in place   +   [S][P] of a slab   or   workspace
 *
 * Keys and values in 8 bits (a cache, cuda_cache.cu) become the queries' type in scratch first.
 *
 * Napkin: joining 4,352 x 3,072 of q, k, v and out is 8 x 27 MB of traffic, 70 us of the 2 ms a
 * Qwen-Image block takes. The products write and read 6 bytes a score: 24 x 4,352^2 are 2.7 GB,
 * 1.5 ms against the 0.41 ms of the fused kernel. */
#include "backend/cuda/cuda_backend.h"

#include <math.h>

#define SLAB_BYTES  ((size_t)256 << 20) /* scores of a slab */
#define CAUSAL_ROWS 1024                /* of one, at most */

/* [L, H, K] over both segments, in place or in scratch. */
typedef struct rows3 {
    uint8_t *data;
    int64_t L, H, K;   /* K as stored: padded in scratch */
    int64_t stride[2]; /* token, head */
    bool in_place;
    size_t bytes; /* of scratch */
} rows3;

typedef struct job {
    mica_cuda_backend *be;
    const mica_attention_args *args;
    mica_cuda_type type;
    size_t size; /* of an element */
    int64_t L, M, H, G, K, Kp;
    float scale;
    rows3 q, k, v, out;
    int64_t slab_rows, slab_heads, ld; /* ld of scores: M rounded up */
} job;

/* -------------------------------------------------------------- in place? -- */

static bool aligned(const job *j, const mica_tensor *t)
{
    return !mica_dtype_is_packed(t->dtype) && j->K % 8 == 0 && t->stride_[2] == 1 &&
           (uintptr_t)t->data % 16 == 0 && (size_t)t->stride_[0] * j->size % 16 == 0 &&
           (size_t)t->stride_[1] * j->size % 16 == 0;
}

/* Both segments as one array: there is only one, or the second begins where the first ends. */
static bool adjacent(const job *j, const mica_tensor *const t[2])
{
    if (j->args->segments == 1 || t[1]->shape_[0] == 0)
        return true;
    return t[0]->shape_[0] > 0 && t[0]->stride_[0] == t[1]->stride_[0] &&
           t[0]->stride_[1] == t[1]->stride_[1] &&
           (uint8_t *)t[0]->data + (size_t)(t[0]->shape_[0] * t[0]->stride_[0]) * j->size ==
               (uint8_t *)t[1]->data;
}

static void place(const job *j, rows3 *r, const mica_tensor *const t[2], int64_t rows,
                  int64_t heads)
{
    r->L = rows;
    r->H = heads;
    r->in_place = aligned(j, t[0]) && adjacent(j, t);
    r->K = r->in_place ? j->K : j->Kp;
    r->data = r->in_place ? t[0]->data : NULL;
    r->stride[0] = r->in_place ? t[0]->stride_[0] : heads * j->Kp;
    r->stride[1] = r->in_place ? t[0]->stride_[1] : j->Kp;
    r->bytes = r->in_place ? 0 : mica_cuda_align((size_t)(rows * heads * j->Kp) * j->size);
}

/* The part of r that belongs to segment s, as a tensor of K columns. */
static mica_tensor part_of(const job *j, const rows3 *r, const mica_tensor *const t[2], int s)
{
    const int64_t first = s ? t[0]->shape_[0] : 0;
    mica_tensor part = mica_tensor_3d(r->data + (size_t)(first * r->stride[0]) * j->size,
                                      j->args->q_LHK[0]->dtype, t[s]->shape_[0], r->H, j->K);
    part.stride_[0] = r->stride[0];
    part.stride_[1] = r->stride[1];
    return part;
}

/* Copies the segments into scratch; pads with zeros. */
static mica_status join(const job *j, const rows3 *r, const mica_tensor *const t[2], mica_err *err)
{
    if (r->in_place)
        return MICA_OK;
    if (j->Kp != j->K)
        MICA_TRY(mica_cuda_check(cudaMemsetAsync(r->data, 0, r->bytes, j->be->stream),
                                 "padding attention", err));
    for (int s = 0; s < j->args->segments; s++) {
        const mica_tensor to = part_of(j, r, t, s);
        if (t[s]->shape_[0] > 0)
            MICA_TRY(mica_cuda_copy_tensor(j->be, t[s], &to, err));
    }
    return MICA_OK;
}

static mica_status take_apart(const job *j, mica_err *err)
{
    const mica_tensor *const out[2] = {j->args->out_LHK[0],
                                       j->args->segments > 1 ? j->args->out_LHK[1] : NULL};
    for (int s = 0; s < j->args->segments && !j->out.in_place; s++) {
        const mica_tensor from = part_of(j, &j->out, out, s);
        if (out[s]->shape_[0] > 0)
            MICA_TRY(mica_cuda_copy_tensor(j->be, &from, out[s], err));
    }
    return MICA_OK;
}

/* --------------------------------------------------------------- products -- */

static void plan_slabs(job *j)
{
    j->ld = mica_cuda_round8(j->M);
    const int64_t row_bytes = j->ld * (int64_t)sizeof(float);
    j->slab_rows = MICA_MAX((int64_t)1, MICA_MIN(j->L, (int64_t)SLAB_BYTES / row_bytes));
    if (j->args->causal) /* later keys are left out slab by slab */
        j->slab_rows = MICA_MIN(j->slab_rows, (int64_t)CAUSAL_ROWS);
    /* Heads of one slab share a key head, or each has its own. */
    const int64_t share = j->H / j->G, most = share > 1 ? share : j->H;
    const int64_t fitting = (int64_t)SLAB_BYTES / (row_bytes * j->slab_rows);
    j->slab_heads = MICA_MAX((int64_t)1, MICA_MIN(most, fitting));
}

static size_t score_bytes(const job *j)
{
    return mica_cuda_align((size_t)(j->slab_rows * j->slab_heads * j->ld) * sizeof(float));
}

/* Queries [row, row + rows) of heads [head, head + heads). */
static mica_status run_slab(const job *j, int64_t head, int64_t heads, int64_t row, int64_t rows,
                            uint8_t *scores, mica_err *err)
{
    const int64_t share = j->H / j->G, key_head = head / share;
    const int64_t step = share > 1 ? 0 : 1; /* heads of a slab share their keys */
    uint8_t *p = j->type == MICA_CUDA_F32 ? scores : scores + score_bytes(j);
    /* Keys that the last of these queries sees. */
    const bool cut = j->args->causal && j->M >= j->L && !j->args->window;
    const int64_t M = cut ? j->M - (j->L - row - rows) : j->M;
    const mica_cuda_gemm s = {.m = M,
                              .n = rows,
                              .k = j->k.K,
                              .transpose_a = true,
                              .type = j->type,
                              .d_type = MICA_CUDA_F32,
                              .a = j->k.data + (size_t)(key_head * j->k.stride[1]) * j->size,
                              .b = j->q.data +
                                   (size_t)(row * j->q.stride[0] + head * j->q.stride[1]) * j->size,
                              .d = scores,
                              .lda = j->k.stride[0],
                              .ldb = j->q.stride[0],
                              .ldd = j->ld,
                              .batch = (int)heads,
                              .a_step = step * j->k.stride[1],
                              .b_step = j->q.stride[1],
                              .d_step = rows * j->ld};
    const mica_cuda_softmax_args softmax = {.s = (const float *)(void *)scores,
                                            .p = p,
                                            .type = j->type,
                                            .batch = (int)heads,
                                            .rows = rows,
                                            .M = M,
                                            .ld = j->ld,
                                            .scale = j->scale,
                                            .causal = j->args->causal,
                                            .first = cut ? 0 : row,
                                            .L = cut ? rows : j->L,
                                            .window = j->args->window};
    const mica_cuda_gemm o = {
        .m = j->out.K,
        .n = rows,
        .k = M,
        .type = j->type,
        .d_type = j->type,
        .a = j->v.data + (size_t)(key_head * j->v.stride[1]) * j->size,
        .b = p,
        .d = j->out.data + (size_t)(row * j->out.stride[0] + head * j->out.stride[1]) * j->size,
        .lda = j->v.stride[0],
        .ldb = j->ld,
        .ldd = j->out.stride[0],
        .batch = (int)heads,
        .a_step = step * j->v.stride[1],
        .b_step = rows * j->ld,
        .d_step = j->out.stride[1]};
    MICA_TRY(mica_cuda_gemm_run(j->be, &s, "attention scores", err));
    MICA_TRY(mica_cuda_check(mica_cuda_softmax(&softmax, j->be->stream), "softmax", err));
    return mica_cuda_gemm_run(j->be, &o, "attention values", err);
}

static mica_status run_products(const job *j, uint8_t *scores, mica_err *err)
{
    const int64_t share = j->H / j->G;
    for (int64_t head = 0; head < j->H;) {
        int64_t heads = MICA_MIN(j->slab_heads, j->H - head);
        if (share > 1)
            heads = MICA_MIN(heads, share - head % share);
        for (int64_t row = 0; row < j->L; row += j->slab_rows)
            MICA_TRY(
                run_slab(j, head, heads, row, MICA_MIN(j->slab_rows, j->L - row), scores, err));
        head += heads;
    }
    return MICA_OK;
}

/* ---------------------------------------------------------------- grouped -- */

/* Scores [H][L][ld], probabilities behind them where they have another type, then queries and output
 * as [H][L][K]. */
static size_t grouped_bytes(const job *j)
{
    const size_t rows = (size_t)(j->L * j->H);
    const size_t scores = mica_cuda_align(rows * (size_t)mica_cuda_round8(j->M) * sizeof(float));
    return scores * (j->type == MICA_CUDA_F32 ? 1 : 2) +
           2 * mica_cuda_align(rows * (size_t)j->Kp * j->size);
}

static bool can_group(const job *j)
{
    return j->H > 1 && j->L > 0 && grouped_bytes(j) <= 2 * SLAB_BYTES;
}

/* Between tokens of heads and heads of tokens. */
static mica_status by_head(const job *j, const rows3 *r, void *heads, bool gather, mica_err *err)
{
    const int64_t own[2] = {j->L * r->K, r->K}, theirs[2] = {r->stride[1], r->stride[0]};
    mica_cuda_copy_args c = {.src = gather ? (void *)r->data : heads,
                             .dst = gather ? heads : (void *)r->data,
                             .src_type = j->type,
                             .dst_type = j->type,
                             .dims = 3,
                             .shape = {j->H, j->L, r->K},
                             .wide = true}; /* rows of whole vectors: place saw to that */
    for (int d = 0; d < 2; d++) {
        c.src_stride[d] = gather ? theirs[d] : own[d];
        c.dst_stride[d] = gather ? own[d] : theirs[d];
    }
    c.src_stride[2] = c.dst_stride[2] = 1;
    return mica_cuda_check(mica_cuda_copy_strided(&c, j->be->stream), "gathering heads", err);
}

static mica_status run_grouped(const job *j, uint8_t *scratch, mica_err *err)
{
    const int64_t share = j->H / j->G, rows = share * j->L, ld = mica_cuda_round8(j->M);
    const size_t scores = mica_cuda_align((size_t)(j->H * j->L * ld) * sizeof(float));
    const size_t heads = mica_cuda_align((size_t)(j->H * j->L * j->Kp) * j->size);
    uint8_t *p = j->type == MICA_CUDA_F32 ? scratch : scratch + scores;
    uint8_t *q = p + scores, *o = q + heads;
    const mica_cuda_gemm s = {.m = j->M,
                              .n = rows,
                              .k = j->q.K,
                              .transpose_a = true,
                              .type = j->type,
                              .d_type = MICA_CUDA_F32,
                              .a = j->k.data,
                              .b = q,
                              .d = scratch,
                              .lda = j->k.stride[0],
                              .ldb = j->q.K,
                              .ldd = ld,
                              .batch = (int)j->G,
                              .a_step = j->k.stride[1],
                              .b_step = rows * j->q.K,
                              .d_step = rows * ld};
    const mica_cuda_softmax_args softmax = {.s = (const float *)(void *)scratch,
                                            .p = p,
                                            .type = j->type,
                                            .batch = (int)j->H,
                                            .rows = j->L,
                                            .M = j->M,
                                            .ld = ld,
                                            .scale = j->scale,
                                            .causal = j->args->causal,
                                            .L = j->L,
                                            .window = j->args->window};
    const mica_cuda_gemm v = {.m = j->out.K,
                              .n = rows,
                              .k = j->M,
                              .type = j->type,
                              .d_type = j->type,
                              .a = j->v.data,
                              .b = p,
                              .d = o,
                              .lda = j->v.stride[0],
                              .ldb = ld,
                              .ldd = j->out.K,
                              .batch = (int)j->G,
                              .a_step = j->v.stride[1],
                              .b_step = rows * ld,
                              .d_step = rows * j->out.K};
    MICA_TRY(by_head(j, &j->q, q, true, err));
    MICA_TRY(mica_cuda_gemm_run(j->be, &s, "attention scores", err));
    MICA_TRY(mica_cuda_check(mica_cuda_softmax(&softmax, j->be->stream), "softmax", err));
    MICA_TRY(mica_cuda_gemm_run(j->be, &v, "attention values", err));
    return by_head(j, &j->out, o, false, err);
}

/* --------------------------------------------------------- flash and fused -- */

/* All heads and tokens at once. */
static mica_cuda_attend_args whole(const job *j)
{
    return (mica_cuda_attend_args){.L = j->L,
                                   .M = j->M,
                                   .H = (int)j->H,
                                   .G = (int)j->G,
                                   .K = (int)j->K,
                                   .scale = j->scale,
                                   .causal = j->args->causal,
                                   .q = j->q.data,
                                   .k = j->k.data,
                                   .v = j->v.data,
                                   .out = j->out.data,
                                   .q_stride = {j->q.stride[0], j->q.stride[1]},
                                   .k_stride = {j->k.stride[0], j->k.stride[1]},
                                   .v_stride = {j->v.stride[0], j->v.stride[1]},
                                   .out_stride = {j->out.stride[0], j->out.stride[1]}};
}

/* Operations of the largest attention without a mask that does not go to cuDNN: half its rate, but it compiles
 * a kernel for every shape, 0.05 s. 700 tokens with 24 heads of 128, 40 us. */
#define FLASH_MOST 6e9

static bool can_flash(const job *j)
{
    return j->type == MICA_CUDA_BF16 && !j->args->window && (j->K == 64 || j->K == 128) &&
           j->H % j->G == 0 && j->H <= 65535 &&
           (j->args->causal || 4.0 * (double)(j->L * j->M) * (double)(j->H * j->K) <= FLASH_MOST);
}

static bool can_fuse(const job *j, size_t *workspace)
{
    const mica_cuda_attend_args args = whole(j);
    *workspace = 0;
    return j->be->sdpa && j->type == MICA_CUDA_BF16 && !j->args->causal && !j->args->once &&
           j->K % 8 == 0 && j->K <= 128 && mica_cuda_sdpa_plan(j->be, &args, workspace);
}

/* -------------------------------------------------------------------- run -- */

static mica_status init_job(job *j, mica_cuda_backend *be, const mica_attention_args *args,
                            mica_err *err)
{
    const mica_tensor *q = args->q_LHK[0], *k = args->k_MGK[0];
    *j = (job){.be = be,
               .args = args,
               .type = mica_cuda_type_of(q->dtype),
               .H = q->shape_[1],
               .G = k->shape_[1],
               .K = q->shape_[2]};
    j->Kp = mica_cuda_round8(j->K);
    j->size = mica_cuda_type_size(j->type);
    for (int s = 0; s < args->segments; s++) {
        const mica_tensor *const all[] = {args->q_LHK[s], args->k_MGK[s], args->v_MGK[s],
                                          args->out_LHK[s]};
        for (size_t i = 0; i < MICA_ARRAY_LEN(all); i++) {
            const bool is_cache = all[i]->dtype == MICA_DTYPE_MLX8 && (i == 1 || i == 2);
            if ((all[i]->dtype != q->dtype && !is_cache) || (all[i]->stride_[2] != 1 && j->K > 1))
                return MICA_FAIL(err, MICA_E_INTERNAL, "attention: tensors of several types");
        }
        j->L += args->q_LHK[s]->shape_[0];
        j->M += args->k_MGK[s]->shape_[0];
    }
    if (args->scale < 0.0f)
        return MICA_FAIL(err, MICA_E_INTERNAL, "attention: scale %g; must not be negative",
                         (double)args->scale);
    j->scale = args->scale > 0.0f ? args->scale : 1.0f / sqrtf((float)j->K);
    place(j, &j->q, args->q_LHK, j->L, j->H);
    place(j, &j->k, args->k_MGK, j->M, j->G);
    place(j, &j->v, args->v_MGK, j->M, j->G);
    place(j, &j->out, (const mica_tensor *const *)args->out_LHK, j->L, j->H);
    return MICA_OK;
}

static uint8_t *take(rows3 *r, uint8_t *at)
{
    if (!r->in_place)
        r->data = at;
    return at + r->bytes;
}

mica_status mica_cuda_op_attention(mica_backend *base, const mica_attention_args *args,
                                   mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    job j;
    size_t workspace = 0;
    void *scratch;
    bool taken = false;
    MICA_TRY(mica_cuda_attend_one(be, args, &taken, err));
    if (taken)
        return MICA_OK;
    MICA_TRY(init_job(&j, be, args, err));
    const bool flash = can_flash(&j), fused = !flash && can_fuse(&j, &workspace);
    const bool grouped = !flash && !fused && can_group(&j);
    if (grouped) {
        workspace = grouped_bytes(&j);
    } else if (!fused && !flash) {
        plan_slabs(&j);
        workspace = score_bytes(&j) * (j.type == MICA_CUDA_F32 ? 1 : 2);
    }
    MICA_TRY(mica_cuda_scratch(be, j.q.bytes + j.k.bytes + j.v.bytes + j.out.bytes + workspace,
                               &scratch, err));
    uint8_t *rest = take(&j.out, take(&j.v, take(&j.k, take(&j.q, scratch))));
    MICA_TRY(join(&j, &j.q, args->q_LHK, err));
    MICA_TRY(join(&j, &j.k, args->k_MGK, err));
    MICA_TRY(join(&j, &j.v, args->v_MGK, err));
    const mica_cuda_attend_args all = whole(&j);
    if (flash) {
        MICA_TRY(mica_cuda_check(mica_cuda_flash(&all, be->stream), "attention", err));
    } else if (fused) {
        MICA_TRY(mica_cuda_sdpa_run(be, &all, rest, err));
    } else if (grouped) {
        MICA_TRY(run_grouped(&j, rest, err));
    } else {
        MICA_TRY(run_products(&j, rest, err));
    }
    return take_apart(&j, err);
}
