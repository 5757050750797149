/* cpu_few_rows.c - what a model that writes text does with one row, or a few: linears, attention over a
 * cache, rows picked and rows added.
 *
 *     linear      task = some outputs: their rows of the weight, for every row of x       gemv_*
 *     attention   keys in chunks of KEYS:  scores [H L, M]  ─► softmax ─► values by chunk ─► sum
 *
 * With a key head or more for each thread a task is a head, start to end: one region in place of four.
 *
 * All of it is bound by memory. Weights, keys and values are read once and as they lie: packing them first,
 * which pays for many rows, would write more than it reads. A task's weights stay in L2 for the second
 * row of x, a chunk's keys for the heads that share them. Chunks follow from the number of keys
 * alone, and a chunk's sums are added in order, so threads change nothing. */
#include "backend/cpu/cpu_few_rows.h"

#include <math.h>
#include <string.h>

#define TASK_BYTES (256 << 10) /* of weights: they stay in L2 for further rows of x */
#define COLUMNS    128         /* outputs of a task at most */
#define LEAST      16          /* and at least */
#define ROWS       8           /* of x at once */
#define KEYS       512         /* keys of a chunk: 256 KiB at a width of 128 */

/* --------------------------------------------------------------- linear -- */

typedef struct linear_job {
    mica_cpu_backend *be;
    const mica_kernels *k;
    const mica_linear_args *args;
    mica_cpu_row_weight w;
    int m;
    int columns; /* outputs of a task */
    ptrdiff_t ldx, ldy, ldres;
    float *bias;
} linear_job;

bool mica_cpu_row_weight_fits(const mica_weight *weight)
{
    const mica_tensor *w = &weight->tensor;
    const bool known =
        w->dtype == MICA_DTYPE_F32 || w->dtype == MICA_DTYPE_BF16 || w->dtype == MICA_DTYPE_F16;
    const size_t size = (size_t)mica_dtype_get(w->dtype)->size;
    return known && !w->scale.data && !weight->adapters && w->stride_[1] == 1 &&
           (uintptr_t)w->data % size == 0 && w->shape_[0] < INT32_MAX / 64 &&
           w->shape_[1] < INT32_MAX / 64;
}

bool mica_cpu_linear_by_row_fits(const mica_linear_args *args)
{
    return mica_cpu_row_weight_fits(args->w_OD) && mica_tensor_count(args->y_MO) < INT32_MAX;
}

/* In int8 precision small weights are read in 8 bits, with a scale per row; x stays as it is. Large ones,
 * which would be held a third time beside their file and the panels of prompts, are read as they lie. */
#define INT8_MOST ((int64_t)4 << 20)

static bool takes_int8(const mica_cpu_backend *be, const mica_weight *w)
{
    return be->use_int8 && !w->sensitive && !w->exact && mica_tensor_count(&w->tensor) < INT8_MOST;
}

static size_t rows_size(const mica_tensor *w)
{
    return ((size_t)mica_tensor_count(w) + 63) & ~(size_t)63;
}

static mica_status quantise_rows(mica_cpu_backend *be, mica_weight *weight, mica_cpu_prepared *p,
                                 void *user, mica_err *err)
{
    const mica_tensor *w = &weight->tensor;
    const int depth = (int)w->shape_[1];
    float *scale = (float *)(void *)((uint8_t *)p->data + rows_size(w));
    float *row = mica_cpu_alloc(be, (size_t)depth * sizeof *row);
    (void)user;
    if (!row)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to quantise a weight");
    for (int64_t r = 0; r < w->shape_[0]; r++) {
        int32_t sum;
        mica_cpu_weight_to_f32(w, r * depth, depth, row);
        scale[r] =
            be->kernels->quantize_s8_from_f32(depth, row, (int8_t *)p->data + r * depth, &sum);
    }
    mica_cpu_free(row);
    return MICA_OK;
}

mica_status mica_cpu_row_weight_get(mica_cpu_backend *be, mica_weight *weight,
                                    mica_cpu_row_weight *out, mica_err *err)
{
    const mica_tensor *w = &weight->tensor;
    const mica_cpu_prepared *p = NULL;
    *out = (mica_cpu_row_weight){.tensor = w, .n = (int)w->shape_[0], .depth = (int)w->shape_[1]};
    out->row_bytes = out->depth * mica_dtype_get(w->dtype)->size;
    if (!takes_int8(be, weight))
        return MICA_OK;
    MICA_TRY(mica_cpu_prepared_get(be, weight, MICA_CPU_PREPARED_INT8_ROWS, 0,
                                   rows_size(w) + (size_t)out->n * sizeof(float), quantise_rows,
                                   NULL, &p, err));
    out->q = p->data;
    out->scale = (const float *)(const void *)((const uint8_t *)p->data + rows_size(w));
    out->row_bytes = out->depth;
    return MICA_OK;
}

const void *mica_cpu_row_weight_at(const mica_cpu_row_weight *w, int row)
{
    if (w->q)
        return w->q + (ptrdiff_t)row * w->depth;
    return (const char *)w->tensor->data +
           mica_tensor_offset(w->tensor, row * w->tensor->stride_[0]);
}

/* Outputs [column, column + columns) of a weight in 8 bits. */
static mica_packed_rows packed_rows(const mica_cpu_row_weight *w, int column, int columns)
{
    return (mica_packed_rows){.type = MICA_PACKED_S8,
                              .rows = columns,
                              .n = w->depth,
                              .data = mica_cpu_row_weight_at(w, column),
                              .ld = w->depth,
                              .row_scale = w->scale + column};
}

void mica_cpu_row_weight_multiply_digits(const mica_kernels *k, const mica_cpu_row_weight *w,
                                         int column, int columns, int digits, int rows,
                                         const int8_t *x, float *y, ptrdiff_t ldy)
{
    const mica_packed_rows q = packed_rows(w, column, columns);
    k->dot_digits(&q, digits, rows, x, y, ldy);
}

void mica_cpu_row_weight_multiply(const mica_kernels *k, const mica_cpu_row_weight *w, int column,
                                  int columns, int rows, const float *x, ptrdiff_t ldx, float *y,
                                  ptrdiff_t ldy)
{
    if (w->q) {
        const mica_packed_rows q = packed_rows(w, column, columns);
        k->dot_rows(&q, rows, x, ldx, y, ldy);
        return;
    }
    const mica_gemv g = {.rows = columns,
                         .n = w->depth,
                         .m = rows,
                         .a = mica_cpu_row_weight_at(w, column),
                         .lda = (ptrdiff_t)w->tensor->stride_[0],
                         .x = x,
                         .ldx = ldx,
                         .y = y,
                         .ldy = ldy};
    if (w->tensor->dtype == MICA_DTYPE_F32)
        k->gemv_f32(&g);
    else if (w->tensor->dtype == MICA_DTYPE_BF16)
        k->gemv_bf16(&g);
    else
        k->gemv_f16(&g);
}

static void linear_task(void *user, int64_t index, int thread)
{
    const linear_job *j = user;
    const mica_linear_args *a = j->args;
    const int column = (int)index * j->columns, columns = MICA_MIN(j->columns, j->w.n - column);
    float acc[ROWS * COLUMNS];
    (void)thread;
    for (int row = 0; row < j->m; row += ROWS) {
        const int rows = MICA_MIN(ROWS, j->m - row);
        mica_cpu_row_weight_multiply(j->k, &j->w, column, columns, rows,
                                     (const float *)a->x_MD->data + row * j->ldx, j->ldx, acc,
                                     COLUMNS);
        mica_epilogue e = {.m = rows,
                           .n = columns,
                           .acc = acc,
                           .ldacc = COLUMNS,
                           .bias = j->bias ? j->bias + column : NULL,
                           .act = (mica_kernel_act)a->act,
                           .gate = a->gate_O ? (const float *)a->gate_O->data + column : NULL,
                           .y = (float *)a->y_MO->data + row * j->ldy + column,
                           .ldy = j->ldy};
        if (a->residual_MO) {
            e.residual = (const float *)a->residual_MO->data + row * j->ldres + column;
            e.ldres = j->ldres;
        }
        j->k->epilogue_tile(&e);
    }
}

/* Long runs of memory, but four tasks a thread. Which outputs a task has changes none. */
static int columns_of_task(const linear_job *j)
{
    const int bytes = MICA_MAX(1, j->w.row_bytes);
    const int fair = (j->w.n + 4 * j->be->threads - 1) / (4 * j->be->threads);
    const int columns = MICA_MIN(MICA_MIN(TASK_BYTES / bytes, fair), COLUMNS);
    return MICA_MAX(LEAST, columns / LEAST * LEAST);
}

static ptrdiff_t row_stride(const mica_tensor *t)
{
    return t->ndim > 1 ? (ptrdiff_t)t->stride_[t->ndim - 2] : (ptrdiff_t)t->shape_[0];
}

mica_status mica_cpu_linear_by_row(mica_cpu_backend *be, const mica_linear_args *args,
                                   mica_err *err)
{
    const mica_tensor *w = &args->w_OD->tensor;
    linear_job j = {.be = be,
                    .k = be->kernels,
                    .args = args,
                    .m = (int)(mica_tensor_count(args->y_MO) / w->shape_[0]),
                    .ldx = row_stride(args->x_MD),
                    .ldy = row_stride(args->y_MO),
                    .ldres = args->residual_MO ? row_stride(args->residual_MO) : 0};
    MICA_TRY(mica_cpu_row_weight_get(be, args->w_OD, &j.w, err));
    if (args->bias_O) {
        MICA_TRY(mica_cpu_scratch_reserve(be, (size_t)j.w.n * sizeof(float), 0, err));
        j.bias = mica_cpu_shared_scratch(be);
        mica_cpu_weight_to_f32(&args->bias_O->tensor, 0, j.w.n, j.bias);
    }
    j.columns = columns_of_task(&j);
    be->base.counters.row_bytes += (double)j.w.n * j.w.row_bytes;
    mica_cpu_parallel(be, (j.w.n + j.columns - 1) / j.columns, linear_task, &j);
    return MICA_OK;
}

/* ------------------------------------------------------------ attention -- */

typedef struct few_job {
    mica_cpu_backend *be;
    const mica_kernels *k;
    const mica_tensor *q, *key, *value, *out;
    int queries, heads, key_heads, width, chunks;
    int64_t keys, window;
    float scale;
    bool causal;
    float *scores; /* [heads][queries][keys] */
    float *parts;  /* [chunks][heads][queries][width] */
} few_job;

static int64_t visible(const few_job *j, int query)
{
    return j->causal ? MICA_MAX(j->keys - j->queries + query + 1, (int64_t)0) : j->keys;
}

/* The first key of a window; 0 without one. */
static int64_t hidden(const few_job *j, int64_t seen)
{
    return j->window ? MICA_MAX(seen - j->window, (int64_t)0) : 0;
}

static float *score_row(const few_job *j, int head, int query)
{
    return j->scores + ((int64_t)head * j->queries + query) * j->keys;
}

/* Rows of one head as f32: in place, or unpacked from 8 bits into thread scratch. */
static const float *cache_rows(const few_job *j, const mica_tensor *t, int64_t first, int count,
                               int key_head, int thread, ptrdiff_t *ld)
{
    *ld = (ptrdiff_t)t->stride_[0];
    if (!mica_dtype_is_packed(t->dtype))
        return (const float *)t->data + first * t->stride_[0] + key_head * t->stride_[1];
    const mica_packed_rows p =
        mica_cpu_packed_rows(t, first, count, key_head * t->stride_[1], j->width, NULL);
    float *temp = mica_cpu_thread_scratch(j->be, thread);
    j->k->unpack_f32(&p, temp, j->width);
    *ld = j->width;
    return temp;
}

/* Task: one chunk of one key head, all heads and queries that read it. */
static void score_task(void *user, int64_t index, int thread)
{
    const few_job *j = user;
    const int key_head = (int)(index / j->chunks), share = j->heads / j->key_heads;
    const int64_t first = index % j->chunks * KEYS;
    const int count = (int)MICA_MIN((int64_t)KEYS, j->keys - first);
    ptrdiff_t ld;
    const float *rows = cache_rows(j, j->key, first, count, key_head, thread, &ld);
    for (int h = key_head * share; h < (key_head + 1) * share; h++) {
        const mica_gemv g = {.rows = count,
                             .n = j->width,
                             .m = j->queries,
                             .a = rows,
                             .lda = ld,
                             .x = (const float *)j->q->data + h * j->q->stride_[1],
                             .ldx = (ptrdiff_t)j->q->stride_[0],
                             .y = score_row(j, h, 0) + first,
                             .ldy = (ptrdiff_t)j->keys};
        j->k->gemv_f32(&g);
    }
}

static void softmax_task(void *user, int64_t index, int thread)
{
    const few_job *j = user;
    const int head = (int)(index / j->queries), query = (int)(index % j->queries);
    const int64_t seen = visible(j, query), first = hidden(j, seen);
    float *row = score_row(j, head, query);
    (void)thread;
    if (seen > 0)
        j->k->softmax_rows(1, (int)(seen - first), j->scale, row + first, (ptrdiff_t)j->keys,
                           row + first, (ptrdiff_t)j->keys);
    memset(row, 0, (size_t)first * sizeof *row);
    memset(row + seen, 0, (size_t)(j->keys - seen) * sizeof *row);
}

static float *part_of(const few_job *j, int chunk, int head, int query)
{
    return j->parts + (((int64_t)chunk * j->heads + head) * j->queries + query) * j->width;
}

static void value_task(void *user, int64_t index, int thread)
{
    const few_job *j = user;
    const int key_head = (int)(index / j->chunks), share = j->heads / j->key_heads;
    const int chunk = (int)(index % j->chunks);
    const int64_t first = (int64_t)chunk * KEYS;
    const int count = (int)MICA_MIN((int64_t)KEYS, j->keys - first);
    ptrdiff_t ld;
    const float *rows = cache_rows(j, j->value, first, count, key_head, thread, &ld);
    for (int h = key_head * share; h < (key_head + 1) * share; h++)
        for (int i = 0; i < j->queries; i++) {
            float *part = part_of(j, chunk, h, i);
            memset(part, 0, (size_t)j->width * sizeof *part);
            j->k->gemv_kmajor(count, j->width, rows, ld, score_row(j, h, i) + first, part);
        }
}

static void sum_task(void *user, int64_t index, int thread)
{
    const few_job *j = user;
    const int head = (int)(index / j->queries), query = (int)(index % j->queries);
    float *out = (float *)j->out->data + query * j->out->stride_[0] + head * j->out->stride_[1];
    (void)thread;
    memcpy(out, part_of(j, 0, head, query), (size_t)j->width * sizeof *out);
    for (int c = 1; c < j->chunks; c++)
        j->k->add(j->width, out, part_of(j, c, head, query), out);
}

/* Task: all of one key head. */
static void head_task(void *user, int64_t key_head, int thread)
{
    const few_job *j = user;
    const int64_t share = j->heads / j->key_heads * j->queries, first = key_head * share;
    for (int c = 0; c < j->chunks; c++)
        score_task(user, key_head * j->chunks + c, thread);
    for (int64_t i = first; i < first + share; i++)
        softmax_task(user, i, thread);
    for (int c = 0; c < j->chunks; c++)
        value_task(user, key_head * j->chunks + c, thread);
    for (int64_t i = first; i < first + share; i++)
        sum_task(user, i, thread);
}

mica_status mica_cpu_attention_few(mica_cpu_backend *be, const mica_attention_args *args,
                                   mica_err *err)
{
    const mica_tensor *q = args->q_LHK[0], *k = args->k_MGK[0];
    few_job j = {.be = be,
                 .k = be->kernels,
                 .q = q,
                 .key = k,
                 .value = args->v_MGK[0],
                 .out = args->out_LHK[0],
                 .queries = (int)q->shape_[0],
                 .heads = (int)q->shape_[1],
                 .key_heads = (int)k->shape_[1],
                 .width = (int)q->shape_[2],
                 .keys = k->shape_[0],
                 .window = args->window,
                 .causal = args->causal};
    if (j.keys > INT32_MAX)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "attention over %lld keys", (long long)j.keys);
    be->base.counters.row_bytes += (double)(mica_tensor_size(k) + mica_tensor_size(j.value));
    j.chunks = (int)((j.keys + KEYS - 1) / KEYS);
    j.scale = args->scale != 0.0f ? args->scale : 1.0f / sqrtf((float)j.width);
    const int64_t rows = (int64_t)j.heads * j.queries;
    const size_t scores = (size_t)(rows * j.keys), parts = (size_t)(rows * j.chunks * j.width);
    const size_t chunk = (size_t)KEYS * (size_t)j.width; /* of a cache in 8 bits */
    MICA_TRY(
        mica_cpu_scratch_reserve(be, (scores + parts) * sizeof(float), chunk * sizeof(float), err));
    j.scores = mica_cpu_shared_scratch(be);
    j.parts = j.scores + scores;
    if (j.key_heads >= be->threads) {
        mica_cpu_parallel(be, j.key_heads, head_task, &j);
        return MICA_OK;
    }
    mica_cpu_parallel(be, (int64_t)j.key_heads * j.chunks, score_task, &j);
    mica_cpu_parallel(be, rows, softmax_task, &j);
    mica_cpu_parallel(be, (int64_t)j.key_heads * j.chunks, value_task, &j);
    mica_cpu_parallel(be, rows, sum_task, &j);
    return MICA_OK;
}

/* ----------------------------------------------------------------- rows -- */

typedef struct rows_job {
    const mica_kernels *k;
    const mica_tensor *x;
    mica_tensor *y;
    const int32_t *rows;
    const float *share;
} rows_job;

static void gather_task(void *user, int64_t i, int thread)
{
    const rows_job *j = user;
    const float *x = (const float *)j->x->data + j->rows[i] * j->x->stride_[0];
    (void)thread;
    memcpy((float *)j->y->data + i * j->y->stride_[0], x, (size_t)j->y->shape_[1] * sizeof(float));
}

static void add_task(void *user, int64_t i, int thread)
{
    const rows_job *j = user;
    (void)thread;
    j->k->gemv_kmajor(1, (int)j->x->shape_[1], (const float *)j->x->data + i * j->x->stride_[0],
                      (ptrdiff_t)j->x->stride_[0], &j->share[i],
                      (float *)j->y->data + j->rows[i] * j->y->stride_[0]);
}

mica_status mica_cpu_gather_rows(mica_backend *be, const mica_tensor *x_MD, const int32_t *rows,
                                 int64_t count, mica_tensor *y_ND, mica_err *err)
{
    rows_job j = {.x = x_MD, .y = y_ND, .rows = rows};
    (void)err;
    mica_cpu_parallel(mica_cpu_from(be), count, gather_task, &j);
    return MICA_OK;
}

mica_status mica_cpu_add_rows(mica_backend *be, const mica_tensor *x_ND, const int32_t *rows,
                              const float *share, int64_t count, mica_tensor *y_MD, mica_err *err)
{
    rows_job j = {
        .k = mica_cpu_from(be)->kernels, .x = x_ND, .y = y_MD, .rows = rows, .share = share};
    (void)err;
    mica_cpu_parallel(mica_cpu_from(be), count, add_task, &j);
    return MICA_OK;
}
