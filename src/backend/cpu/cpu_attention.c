/* cpu_attention.c - softmax(scale * q k^T) v without ever holding the score matrix.
 *
 *              keys in blocks of kb ──►
 *            +--------+--------+----+      per key head, once (phase 1, shared scratch):
 *     query  | S tile |        |    |        k block as panels of keys        [kb/nb][K][nb]
 *     blocks |  mq x  |        |    |        v block as panels of channels    [K/nb][kb][nb]
 *     of mq  |   kb   |        |    |      per query head and block (phase 2, thread scratch):
 *            +--------+--------+----+        S = q k^T;  P, alpha = softmax step;
 *                                            O = alpha O + P v;   at the end O / row sum
 *
 * Online softmax (Milakov and Gimelshein 2018; Dao et al. 2022, algorithm 1). Blocks are sized
 * so that S, one k block and one v block stay in L2 together (kb * K <= 64 Ki). Heads are
 * taken in groups so that the packed keys and values of a group stay near PACKED_BYTES:
 * 4,352 tokens x 24 heads x 128 would be 107 MB at once. The text and image segments are joined
 * while packing; a query block never spans both.
 *
 * The key blocks depend on M alone and every row is computed by itself, so neither
 * threads nor query blocks can change a result. On CPUs with AVX512_BF16 the operands of both
 * products are rounded to bf16 (precision bf16 and int8); sums and softmax stay f32.
 *
 * Where be->use_dnnl says so both products of a block are oneDNN's,
 * from the same panels, 64 wide and padded to 64 of depth. It is given whole panels and rows
 * without gaps: for others it has only a reference implementation. Its calls cost microseconds,
 * so query blocks are larger there. Heads whose width is no multiple of 64 stay with the kernels. */
#include "backend/cpu/cpu_backend.h"

#include "backend/cpu/cpu_dnnl.h"
#include "backend/cpu/cpu_linear.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#define KEY_BLOCK    512
#define KEY_ELEMENTS 65536 /* kb * K, 256 KiB of f32 */
#define QUERY_BLOCK  128
#define QUERY_DNNL   256 /* query block of oneDNN: with 512 keys, 1.2 MB of the 2 MB of L2 */
#define QUERY_UNIT   16
#define PACKED_BYTES ((size_t)24 << 20)

typedef struct attention_job {
    mica_cpu_backend *be;
    const mica_kernels *k;
    const mica_attention_args *args;
    bool bf16;
    int heads, key_heads, width; /* H, G, K */
    int64_t queries, keys;       /* L, M over both segments */
    float scale;
    int nb, mr;
    int kb, key_blocks;
    int mq[2], query_blocks[2];
    size_t k_block, v_block; /* bytes of one packed block */
    int group, first;        /* key heads packed at a time; first of the current group */
    uint8_t *packed;
    /* Products of oneDNN, by [segment][last query block][last key block]. */
    bool by_dnnl;
    mica_dnnl_op *score_op[2][2][2], *value_op[2][2][2];
    size_t dnnl_scratch;
    atomic_int *dnnl_status; /* first failure */
} attention_job;

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static int round_up(int n, int unit)
{
    return (n + unit - 1) / unit * unit;
}

/* ----------------------------------------------------------------- plan -- */

/* Even blocks of at most `most`, a multiple of `unit`. */
static int even_block(int64_t count, int most, int unit)
{
    const int64_t blocks = (count + most - 1) / most;
    const int64_t size = blocks > 0 ? (count + blocks - 1) / blocks : unit;
    return (int)((size + unit - 1) / unit * unit);
}

static void plan_blocks(attention_job *j)
{
    const int most = MICA_MAX(j->nb, MICA_MIN(KEY_BLOCK, KEY_ELEMENTS / j->width) / j->nb * j->nb);
    const size_t size = j->bf16 ? sizeof(uint16_t) : sizeof(float);
    j->kb = even_block(j->keys, most, j->nb);
    j->key_blocks = (int)((j->keys + j->kb - 1) / j->kb);
    j->k_block = align64((size_t)j->kb * (size_t)round_up(j->width, 2) * size);
    j->v_block = align64((size_t)round_up(j->width, j->nb) * (size_t)j->kb * size);
    for (int s = 0; s < j->args->segments; s++) {
        const int64_t rows = j->args->q_LHK[s]->shape_[0];
        const int most_rows = j->by_dnnl ? QUERY_DNNL : QUERY_BLOCK;
        j->mq[s] = even_block(rows, MICA_MAX(j->mr, most_rows / j->mr * j->mr), j->mr);
        j->query_blocks[s] = (int)((rows + j->mq[s] - 1) / j->mq[s]);
    }
}

static size_t head_bytes(const attention_job *j)
{
    return (size_t)j->key_blocks * (j->k_block + j->v_block);
}

static void plan_groups(attention_job *j)
{
    const int per_head = j->heads / j->key_heads * (j->query_blocks[0] + j->query_blocks[1]);
    const int busy = (4 * j->be->threads + per_head - 1) / per_head;
    const int fitting = (int)MICA_MIN(PACKED_BYTES / head_bytes(j), (size_t)j->key_heads);
    const int most = MICA_MIN(MICA_MAX(MICA_MAX(busy, fitting), 1), j->key_heads);
    const int groups = (j->key_heads + most - 1) / most;
    j->group = (j->key_heads + groups - 1) / groups;
}

/* --------------------------------------------------------------- oneDNN -- */

/* Row stride of the scores of `count` keys; oneDNN takes no gaps. */
static int score_stride(const attention_job *j, int count)
{
    return j->by_dnnl ? round_up(count, MICA_DNNL_PANEL) : j->kb;
}

static mica_status get_ops(attention_job *j, int segment, bool last_rows, bool last_keys,
                           mica_err *err)
{
    const int64_t all_rows = j->args->q_LHK[segment]->shape_[0], before = j->key_blocks - 1;
    const int64_t rows_before = (int64_t)(j->query_blocks[segment] - 1) * j->mq[segment];
    const int rows = last_rows ? (int)(all_rows - rows_before) : j->mq[segment];
    const int count = last_keys ? (int)(j->keys - before * j->kb) : j->kb;
    mica_dnnl_key key = {.kind = MICA_DNNL_MATMUL,
                         .src_type = MICA_DNNL_BF16,
                         .weight_type = MICA_DNNL_BF16,
                         .dst_type = MICA_DNNL_F32,
                         .packed = MICA_DNNL_PANELS,
                         .m = rows,
                         .n = score_stride(j, count),
                         .k = j->width,
                         .ld_src = j->width,
                         .ld_weight = j->width,
                         .ld_dst = score_stride(j, count)};
    mica_dnnl_op **op = &j->score_op[segment][last_rows][last_keys];
    MICA_TRY(mica_dnnl_get(j->be->dnnl, &key, op, err));
    j->dnnl_scratch = MICA_MAX(j->dnnl_scratch, mica_dnnl_scratch_size(*op));
    key.n = key.ld_dst = j->width;
    key.k = key.ld_weight = key.ld_src = score_stride(j, count);
    key.sum = 1;
    op = &j->value_op[segment][last_rows][last_keys];
    MICA_TRY(mica_dnnl_get(j->be->dnnl, &key, op, err));
    j->dnnl_scratch = MICA_MAX(j->dnnl_scratch, mica_dnnl_scratch_size(*op));
    return MICA_OK;
}

static mica_status get_all_ops(attention_job *j, mica_err *err)
{
    for (int i = 0; j->by_dnnl && i < 8; i++)
        if (j->query_blocks[i / 4] > 0)
            MICA_TRY(get_ops(j, i / 4, (i / 2) % 2, i % 2, err));
    return MICA_OK;
}

static void run_op(const attention_job *j, mica_dnnl_op *op, int thread, const void *src,
                   const void *weights, float *dst, void *scratch)
{
    mica_err err = {0};
    int expected = MICA_OK;
    const mica_status st =
        mica_dnnl_run(j->be->dnnl, op, thread, src, weights, NULL, dst, scratch, &err);
    if (st != MICA_OK)
        atomic_compare_exchange_strong(j->dnnl_status, &expected, (int)st);
}

/* -------------------------------------------------------------- packing -- */

/* Keys or values [first, first + count) of one head as contiguous-enough rows: in place when
 * they lie in one segment, else gathered into temp. */
static const float *joined_rows(const attention_job *j, const mica_tensor *const *t, int head,
                                int64_t first, int count, float *temp, ptrdiff_t *ld)
{
    if (mica_dtype_is_packed(t[0]->dtype)) { /* of a cache in 8 bits */
        const mica_packed_rows p =
            mica_cpu_packed_rows(t[0], first, count, head * t[0]->stride_[1], j->width, NULL);
        j->k->unpack_f32(&p, temp, j->width);
        *ld = j->width;
        return temp;
    }
    const int64_t split = t[0]->shape_[0];
    if (first + count <= split || first >= split) {
        const mica_tensor *one = first < split ? t[0] : t[1];
        const int64_t row = first < split ? first : first - split;
        *ld = (ptrdiff_t)one->stride_[0];
        return (const float *)one->data + row * one->stride_[0] + head * one->stride_[1];
    }
    const int in_first = (int)(split - first);
    const float *a = (const float *)t[0]->data + first * t[0]->stride_[0] + head * t[0]->stride_[1];
    const float *b = (const float *)t[1]->data + head * t[1]->stride_[1];
    j->k->copy_rows(in_first, j->width, a, (ptrdiff_t)t[0]->stride_[0], temp, j->width);
    j->k->copy_rows(count - in_first, j->width, b, (ptrdiff_t)t[1]->stride_[0],
                    temp + (ptrdiff_t)in_first * j->width, j->width);
    *ld = j->width;
    return temp;
}

static uint8_t *packed_block(const attention_job *j, int head_in_group, int block)
{
    return j->packed + (size_t)head_in_group * head_bytes(j) +
           (size_t)block * (j->k_block + j->v_block);
}

/* Values in panels whose depth, the keys, is padded with zeros. */
static void pack_value_panels(const attention_job *j, int count, const float *rows, ptrdiff_t ld,
                              uint16_t *out)
{
    const int depth = score_stride(j, count), packed = round_up(count, 2);
    for (int first = 0; first < j->width; first += j->nb, out += (ptrdiff_t)depth * j->nb) {
        j->k->pack_bf16_from_kmajor(count, MICA_MIN(j->nb, j->width - first), rows + first, ld,
                                    j->nb, out);
        memset(out + (ptrdiff_t)packed * j->nb, 0,
               (size_t)(depth - packed) * (size_t)j->nb * sizeof *out);
    }
}

static void pack_task(void *user, int64_t index, int thread)
{
    const attention_job *j = user;
    const int head = (int)(index / j->key_blocks), block = (int)(index % j->key_blocks);
    const int64_t first = (int64_t)block * j->kb;
    const int count = (int)MICA_MIN((int64_t)j->kb, j->keys - first);
    float *temp = mica_cpu_thread_scratch(j->be, thread);
    void *k_out = packed_block(j, head, block);
    void *v_out = (uint8_t *)k_out + j->k_block;
    ptrdiff_t ld;
    const float *rows = joined_rows(j, j->args->k_MGK, j->first + head, first, count, temp, &ld);
    if (j->bf16)
        j->k->pack_bf16_from_f32(count, j->width, rows, ld, NULL, j->nb, k_out);
    else
        j->k->pack_f32_from_f32(count, j->width, rows, ld, NULL, j->nb, k_out);
    rows = joined_rows(j, j->args->v_MGK, j->first + head, first, count, temp, &ld);
    if (j->by_dnnl)
        pack_value_panels(j, count, rows, ld, v_out);
    else if (j->bf16)
        j->k->pack_bf16_from_kmajor(count, j->width, rows, ld, j->nb, v_out);
    else
        j->k->pack_f32_from_kmajor(count, j->width, rows, ld, j->nb, v_out);
}

/* -------------------------------------------------------------- queries -- */

/* Thread scratch of one query block. */
typedef struct query_scratch {
    float *s;         /* mq x kb scores, then probabilities */
    float *o;         /* mq x width */
    uint16_t *q_bf16; /* mq x width rounded up to 2 */
    uint16_t *p_bf16; /* mq x kb */
    float *row_max, *row_sum, *alpha;
    void *dnnl;
} query_scratch;

static size_t query_layout(const attention_job *j, uint8_t *base, query_scratch *s)
{
    const size_t rows = (size_t)MICA_MAX(j->mq[0], j->mq[1]);
    const size_t scores = align64(rows * (size_t)j->kb * sizeof(float));
    const size_t out = align64(rows * (size_t)j->width * sizeof(float));
    const size_t q = j->bf16 ? align64(rows * (size_t)round_up(j->width, 2) * 2) : 0;
    const size_t p = j->bf16 ? align64(rows * (size_t)j->kb * 2) : 0;
    const size_t vector = align64(rows * sizeof(float));
    if (base) {
        s->s = (float *)(void *)base;
        s->o = (float *)(void *)(base + scores);
        s->q_bf16 = (uint16_t *)(void *)(base + scores + out);
        s->p_bf16 = (uint16_t *)(void *)(base + scores + out + q);
        s->row_max = (float *)(void *)(base + scores + out + q + p);
        s->row_sum = (float *)(void *)(base + scores + out + q + p + vector);
        s->alpha = (float *)(void *)(base + scores + out + q + p + 2 * vector);
        s->dnnl = base + scores + out + q + p + 3 * vector;
    }
    return scores + out + q + p + 3 * vector + j->dnnl_scratch;
}

/* The rows of one task: one query head, rows [row, row + rows) of one segment. */
typedef struct query_block {
    const float *q;
    ptrdiff_t ldq;
    int rows;
    int64_t first; /* position of the first row over both segments */
    float *out;
    ptrdiff_t ldo;
    int key_head; /* in the group */
    int segment, thread;
} query_block;

static query_block find_block(const attention_job *j, int64_t index)
{
    const int per_head = j->query_blocks[0] + j->query_blocks[1];
    const int share = j->heads / j->key_heads;
    const int head_in_group = (int)(index / per_head);
    const int head = j->first * share + head_in_group;
    int block = (int)(index % per_head);
    const int s = block >= j->query_blocks[0];
    block -= s ? j->query_blocks[0] : 0;
    const mica_tensor *q = j->args->q_LHK[s], *out = j->args->out_LHK[s];
    const int64_t row = (int64_t)block * j->mq[s];
    return (query_block){.q = (const float *)q->data + row * q->stride_[0] + head * q->stride_[1],
                         .ldq = (ptrdiff_t)q->stride_[0],
                         .rows = (int)MICA_MIN((int64_t)j->mq[s], q->shape_[0] - row),
                         .first = row + (s ? j->args->q_LHK[0]->shape_[0] : 0),
                         .out = (float *)out->data + row * out->stride_[0] + head * out->stride_[1],
                         .ldo = (ptrdiff_t)out->stride_[0],
                         .key_head = head_in_group / share,
                         .segment = s};
}

static mica_dnnl_op *op_of(const attention_job *j, mica_dnnl_op *const ops[2][2][2],
                           const query_block *b, int count)
{
    return ops[b->segment][b->rows != j->mq[b->segment]][count != j->kb];
}

static void scores(const attention_job *j, const query_block *b, const query_scratch *s,
                   const void *k_block, int count)
{
    if (j->by_dnnl) {
        run_op(j, op_of(j, j->score_op, b, count), b->thread, s->q_bf16, k_block, s->s, s->dnnl);
    } else if (j->bf16) {
        const int depth = round_up(j->width, 2);
        const mica_gemm_bf16 g = {b->rows, count, depth, s->q_bf16, depth,
                                  k_block, s->s,  j->kb, false};
        j->k->gemm_bf16(&g);
    } else {
        const mica_gemm_f32 g = {b->rows, count, j->width, b->q, b->ldq,
                                 k_block, s->s,  j->kb,    false};
        j->k->gemm_f32(&g);
    }
}

/* The first key that the query at `position` sees. */
static int64_t first_seen(const attention_job *j, int64_t position)
{
    const int64_t seen = position + j->keys - j->queries + 1 - j->args->window;
    return j->args->window ? MICA_MAX(seen, (int64_t)0) : 0;
}

/* Query i sees keys up to i + M - L, the last `window` of them. */
static void mask_causal(const attention_job *j, const query_block *b, const query_scratch *s,
                        int64_t first_key, int count)
{
    const int stride = score_stride(j, count);
    for (int i = 0; i < b->rows; i++) {
        const int64_t visible = b->first + i + j->keys - j->queries + 1 - first_key;
        const int64_t hidden = MICA_MIN(first_seen(j, b->first + i) - first_key, (int64_t)count);
        for (int64_t c = 0; c < hidden; c++)
            s->s[(ptrdiff_t)i * stride + c] = -INFINITY;
        for (int64_t c = MICA_MAX(visible, (int64_t)0); c < count; c++)
            s->s[(ptrdiff_t)i * stride + c] = -INFINITY;
    }
}

/* P from S, and the earlier output brought to the new maximum. */
static void softmax(const attention_job *j, const query_block *b, const query_scratch *s, int count,
                    bool first_block)
{
    const int stride = score_stride(j, count);
    const mica_softmax_step step = {.m = b->rows,
                                    .n = count,
                                    .n_pad = j->by_dnnl ? stride : round_up(count, 2),
                                    .scale = j->scale,
                                    .s = s->s,
                                    .lds = stride,
                                    .p = s->s,
                                    .p_bf16 = s->p_bf16,
                                    .ldp = stride,
                                    .row_max = s->row_max,
                                    .row_sum = s->row_sum,
                                    .alpha = s->alpha};
    if (j->bf16)
        j->k->softmax_step_bf16(&step);
    else
        j->k->softmax_step(&step);
    if (!first_block)
        j->k->scale_rows(b->rows, j->width, s->alpha, s->o, j->width);
}

static void add_values(const attention_job *j, const query_block *b, const query_scratch *s,
                       const void *v_block, int count, bool first_block)
{
    if (j->by_dnnl) { /* adds; start_block has put zeros there */
        run_op(j, op_of(j, j->value_op, b, count), b->thread, s->p_bf16, v_block, s->o, s->dnnl);
    } else if (j->bf16) {
        const mica_gemm_bf16 g = {b->rows, j->width, round_up(count, 2), s->p_bf16,   j->kb,
                                  v_block, s->o,     j->width,           !first_block};
        j->k->gemm_bf16(&g);
    } else {
        const mica_gemm_f32 g = {b->rows, j->width, count,    s->s,        j->kb,
                                 v_block, s->o,     j->width, !first_block};
        j->k->gemm_f32(&g);
    }
}

static void start_block(const attention_job *j, const query_block *b, const query_scratch *s)
{
    for (int i = 0; i < b->rows; i++) {
        s->row_max[i] = -INFINITY;
        s->row_sum[i] = 0.0f;
    }
    if (!j->bf16)
        return;
    if (j->by_dnnl)
        memset(s->o, 0, (size_t)b->rows * (size_t)j->width * sizeof(float));
    const int depth = round_up(j->width, 2);
    for (int i = 0; i < b->rows; i++) {
        uint16_t *row = s->q_bf16 + (ptrdiff_t)i * depth;
        j->k->bf16_from_f32(j->width, b->q + i * b->ldq, 1.0f, row);
        if (depth > j->width)
            row[j->width] = 0;
    }
}

static void finish_block(const attention_job *j, const query_block *b, const query_scratch *s,
                         bool any)
{
    /* A query that sees no key (causal with more queries than keys) gives zeros; a NaN sum
     * must not be taken for that. */
    for (int i = 0; i < b->rows; i++)
        s->alpha[i] = s->row_sum[i] == 0.0f ? 0.0f : 1.0f / s->row_sum[i];
    if (!any)
        memset(s->o, 0, (size_t)b->rows * (size_t)j->width * sizeof(float));
    j->k->scale_rows(b->rows, j->width, s->alpha, s->o, j->width);
    j->k->copy_rows(b->rows, j->width, s->o, j->width, b->out, b->ldo);
}

static void query_task(void *user, int64_t index, int thread)
{
    const attention_job *j = user;
    query_block b = find_block(j, index);
    b.thread = thread;
    query_scratch s = {0};
    query_layout(j, mica_cpu_thread_scratch(j->be, thread), &s);
    int64_t visible = j->keys; /* to the last row of the block */
    if (j->args->causal)
        visible = MICA_MIN(visible, b.first + b.rows + j->keys - j->queries);
    const int start = (int)(first_seen(j, b.first) / j->kb);
    start_block(j, &b, &s);
    for (int block = start; (int64_t)block * j->kb < visible; block++) {
        const int64_t first = (int64_t)block * j->kb;
        const int count = (int)MICA_MIN((int64_t)j->kb, j->keys - first);
        const uint8_t *packed = packed_block(j, b.key_head, block);
        scores(j, &b, &s, packed, count);
        if (j->args->causal)
            mask_causal(j, &b, &s, first, count);
        softmax(j, &b, &s, count, block == start);
        add_values(j, &b, &s, packed + j->k_block, count, block == start);
    }
    finish_block(j, &b, &s, visible > 0);
}

/* ------------------------------------------------------------------ run -- */

static void init_job(attention_job *j, mica_cpu_backend *be, const mica_attention_args *args)
{
    const mica_tensor *q = args->q_LHK[0], *k = args->k_MGK[0];
    *j = (attention_job){.be = be,
                         .k = be->kernels,
                         .args = args,
                         .bf16 = be->use_bf16,
                         .heads = (int)q->shape_[1],
                         .key_heads = (int)k->shape_[1],
                         .width = (int)q->shape_[2],
                         .nb = be->use_bf16 ? be->kernels->gemm_bf16_nb : be->kernels->gemm_f32_nb,
                         .mr = be->use_bf16 ? be->kernels->gemm_bf16_mr : be->kernels->gemm_f32_mr};
    for (int s = 0; s < args->segments; s++) {
        j->queries += args->q_LHK[s]->shape_[0];
        j->keys += args->k_MGK[s]->shape_[0];
    }
    j->scale = args->scale != 0.0f ? args->scale : 1.0f / sqrtf((float)j->width);
    j->by_dnnl = be->use_bf16 && be->use_dnnl && j->width % MICA_DNNL_PANEL == 0;
    if (j->by_dnnl) {
        j->nb = MICA_DNNL_PANEL;
        j->mr = QUERY_UNIT;
    }
    plan_blocks(j);
    plan_groups(j);
}

static mica_status check_strides(const mica_attention_args *args, mica_err *err)
{
    for (int s = 0; s < args->segments; s++)
        if (args->q_LHK[s]->stride_[2] != 1 || args->k_MGK[s]->stride_[2] != 1 ||
            args->v_MGK[s]->stride_[2] != 1 || args->out_LHK[s]->stride_[2] != 1)
            return MICA_FAIL(err, MICA_E_INTERNAL,
                             "attention: the channels of a head are not contiguous");
    if (args->segments == 2 && (mica_dtype_is_packed(args->k_MGK[0]->dtype) ||
                                mica_dtype_is_packed(args->k_MGK[1]->dtype)))
        return MICA_FAIL(err, MICA_E_INTERNAL, "attention: keys in 8 bits come in one segment");
    if (args->scale < 0.0f)
        return MICA_FAIL(err, MICA_E_INTERNAL, "attention: scale %g; must not be negative",
                         (double)args->scale);
    return MICA_OK;
}

mica_status mica_cpu_attention(mica_backend *base, const mica_attention_args *args, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    attention_job j;
    atomic_int dnnl_status = MICA_OK;
    MICA_TRY(check_strides(args, err));
    if (args->by_row && args->segments == 1)
        return mica_cpu_attention_few(be, args, err);
    init_job(&j, be, args);
    j.dnnl_status = &dnnl_status;
    MICA_TRY(get_all_ops(&j, err));
    const size_t temp = (size_t)j.kb * (size_t)j.width * sizeof(float);
    const size_t query = query_layout(&j, NULL, NULL);
    MICA_TRY(
        mica_cpu_scratch_reserve(be, (size_t)j.group * head_bytes(&j), MICA_MAX(temp, query), err));
    j.packed = mica_cpu_shared_scratch(be);
    const int per_key_head = j.heads / j.key_heads * (j.query_blocks[0] + j.query_blocks[1]);
    for (j.first = 0; j.first < j.key_heads; j.first += j.group) {
        const int now = MICA_MIN(j.group, j.key_heads - j.first);
        mica_cpu_parallel(be, (int64_t)now * j.key_blocks, pack_task, &j);
        mica_cpu_parallel(be, (int64_t)now * per_key_head, query_task, &j);
    }
    const int status = atomic_load(&dnnl_status);
    if (status != MICA_OK)
        return MICA_FAIL(err, (mica_status)status, "attention: oneDNN failed to run a matmul");
    return MICA_OK;
}
