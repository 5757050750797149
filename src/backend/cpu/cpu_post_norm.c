/* cpu_post_norm.c - a row of each sequence through all blocks with norms behind, in one region.
 *
 *     phase of a block   task            reads                       writes
 *     HEADS              some heads      x (the sums below, normed)  q, k, v: k, v into the cache; its part of out
 *     OUT                some outputs    out, x                      sums_1 = x + o out + b
 *     UP                 some outputs    x' = norm_1(sums_1)         hidden = relu(up x' + b)
 *     DOWN               some outputs    hidden, x'                  sums_2 = x' + down hidden + b
 *
 * A step of text to semantic reads 151 MB of weights and 1.1 MB of cache in each of 24 blocks, and computes next
 * to nothing: at 64 GB/s a block takes 110 us, and block by block it was ten regions (cpu_phases.c says why that
 * is slow). Norms are computed by every thread for itself, 0.1 us a row, rather than waited for. Heads are taken a
 * few at a time, because a row of the cache has them side by side (gemv.c).
 *
 * With weights in 8 bits x goes in whole numbers of two digits (packed_digits.c), nearer to x than bf16 is: twice
 * as fast as widening the weights, which had two cores at 53 % of memory.
 *
 * Sums have the order of their lengths, so neither threads nor other rows change a number. Packed
 * weights, adapters and caches in 8 bits are not taken: block by block then. */
#include "backend/cpu/cpu_few_rows.h"
#include "backend/cpu/cpu_phases.h"

#include "base/compiler.h"

#include <math.h>
#include <string.h>

#define ROWS       8           /* of x at once */
#define COLUMNS    128         /* outputs of a task at most */
#define LEAST      4           /* and at least */
#define TASK_BYTES (128 << 10) /* of weights */
#define GROUP      4           /* heads of a task at most */
#define LINE       64
#define DIGITS     2

enum { HEADS, OUT, UP, DOWN, PHASES };

typedef struct step_block {
    mica_cpu_row_weight qkv[3], o, up, down;
    int columns[PHASES]; /* outputs of a task */
} step_block;

typedef struct step_job {
    mica_cpu_backend *be;
    const mica_kernels *k;
    const mica_post_norm_args *args;
    int rows, width, ffn, heads, head_width;
    int group; /* heads of a task */
    float scale;
    step_block *blocks;
    float *out, *sums[2], *hidden; /* [rows][width], the last [rows][ffn] */
    size_t most;                   /* positions, for scores */
    bool has_digits;               /* some weight is in 8 bits */
} step_job;

/* Of each thread. */
typedef struct step_scratch {
    int *state;        /* which x: 2 block, 2 block + 1 behind its first norm; -1: none */
    float *x;          /* [rows][width] */
    float *qkv;        /* [rows][3][group][head_width] */
    float *scores;     /* [group][most] */
    int *digits_state; /* which phase's input the digits are; -1: none */
    int8_t *digits;    /* [rows] of the phase's width */
} step_scratch;

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static size_t scratch_layout(const step_job *j, uint8_t *base, step_scratch *s)
{
    const size_t x = align64((size_t)j->rows * (size_t)j->width * sizeof(float));
    const size_t heads = (size_t)j->group * sizeof(float);
    const size_t qkv = align64((size_t)j->rows * 3 * (size_t)j->head_width * heads);
    const size_t scores = align64(j->most * heads);
    if (base) {
        s->state = (int *)(void *)base;
        s->digits_state = s->state + 1;
        s->digits = (int8_t *)(base + LINE + x + qkv + scores);
        s->x = (float *)(void *)(base + LINE);
        s->qkv = (float *)(void *)(base + LINE + x);
        s->scores = (float *)(void *)(base + LINE + x + qkv);
    }
    const int widest = MICA_MAX(j->width, j->ffn);
    return LINE + x + qkv + scores +
           (j->has_digits ? (size_t)j->rows * MICA_DIGITS_SIZE(widest, DIGITS) : 0);
}

/* The thread's scratch with x as it enters the block, or behind its first norm. */
static step_scratch with_x(const step_job *j, int block, bool is_behind, int thread)
{
    step_scratch s = {0};
    const int wanted = 2 * block + is_behind, D = j->width;
    scratch_layout(j, mica_cpu_thread_scratch(j->be, thread), &s);
    if (*s.state == wanted)
        return s;
    *s.state = wanted;
    if (wanted == 0) {
        j->k->copy_rows(j->rows, D, j->args->x_LD->data, (ptrdiff_t)j->args->x_LD->stride_[0], s.x,
                        D);
        return s;
    }
    const mica_post_norm_block *b = &j->args->blocks[is_behind ? block : block - 1];
    const mica_tensor *scale = is_behind ? b->scale_1 : b->scale_2;
    const mica_tensor *shift = is_behind ? b->shift_1 : b->shift_2;
    j->k->layer_norm_modulate(j->rows, D, j->sums[!is_behind], D, scale->data, shift->data,
                              j->args->eps, s.x, D);
    return s;
}

/* ------------------------------------------------------------------ linears -- */

typedef struct product {
    const mica_cpu_row_weight *w;
    const mica_weight *bias;
    const float *x, *residual; /* rows of w->depth and of ldy */
    ptrdiff_t ldx;
    const int8_t *digits; /* of x, for weights in 8 bits */
    bool relu;
    float *y;
    ptrdiff_t ldy;
} product;

/* y = residual + act(w x + b), outputs [column, column + columns) into y[0...]. */
static void multiply(const step_job *j, const product *p, int column, int columns)
{
    float acc[ROWS * COLUMNS], bias[COLUMNS];
    mica_cpu_weight_to_f32(&p->bias->tensor, column, columns, bias);
    for (int row = 0; row < j->rows; row += ROWS) {
        const int rows = MICA_MIN(ROWS, j->rows - row);
        if (p->w->q)
            mica_cpu_row_weight_multiply_digits(
                j->k, p->w, column, columns, DIGITS, rows,
                p->digits + (size_t)row * MICA_DIGITS_SIZE(p->w->depth, DIGITS), acc, COLUMNS);
        else
            mica_cpu_row_weight_multiply(j->k, p->w, column, columns, rows, p->x + row * p->ldx,
                                         p->ldx, acc, COLUMNS);
        const mica_epilogue e = {.m = rows,
                                 .n = columns,
                                 .acc = acc,
                                 .ldacc = COLUMNS,
                                 .bias = bias,
                                 .residual = p->residual ? p->residual + row * p->ldy : NULL,
                                 .ldres = p->ldy,
                                 .y = p->y + row * p->ldy,
                                 .ldy = p->ldy};
        j->k->epilogue_tile(&e);
        for (int i = 0; p->relu && i < rows; i++)
            j->k->leaky_relu(columns, 0.0f, e.y + i * e.ldy, e.y + i * e.ldy);
    }
}

/* Digits of a phase's input, where its weights want them; made by every thread for itself. */
static const int8_t *digits_of(const step_job *j, const step_scratch *s, int phase,
                               const mica_cpu_row_weight *w, const float *x, ptrdiff_t ldx)
{
    if (!w->q || *s->digits_state == phase)
        return s->digits;
    j->k->digits_from_f32(MICA_PACKED_S8, DIGITS, j->rows, w->depth, x, ldx, s->digits);
    *s->digits_state = phase;
    return s->digits;
}

static void linear_task(const step_job *j, int block, int phase, int task, int thread)
{
    const step_block *b = &j->blocks[block];
    const mica_post_norm_block *m = &j->args->blocks[block];
    const step_scratch s = with_x(j, block, phase != OUT, thread);
    const int column = task * b->columns[phase], D = j->width, F = j->ffn;
    const product list[PHASES] = {
        [OUT] = {&b->o, m->o_b, j->out, s.x + column, D, NULL, false, j->sums[0] + column, D},
        [UP] = {&b->up, m->up_b, s.x, NULL, D, NULL, true, j->hidden + column, F},
        [DOWN] = {&b->down, m->down_b, j->hidden, s.x + column, F, NULL, false, j->sums[1] + column,
                  D},
    };
    product p = list[phase];
    p.digits = digits_of(j, &s, block * PHASES + phase, p.w, p.x, p.ldx);
    multiply(j, &p, column, MICA_MIN(b->columns[phase], p.w->n - column));
}

/* -------------------------------------------------------------------- heads -- */

/* Heads from `head` on in the rows of a cache. */
static float *cache_rows(const step_job *j, int block, int l, int half, int head)
{
    return (float *)j->args->caches[l][block][half].data + (ptrdiff_t)head * j->head_width;
}

/* q, k, v of row l of some heads in qkv: k and v into the cache, then the queries over all of it. */
static void attend(const step_job *j, int block, int l, int head, int heads, const float *qkv,
                   float *scores)
{
    const int K = j->head_width, keys = (int)j->args->seen[l] + 1;
    const ptrdiff_t step[] = {(ptrdiff_t)j->args->caches[l][block][0].stride_[0],
                              (ptrdiff_t)j->args->caches[l][block][1].stride_[0]};
    const ptrdiff_t half = (ptrdiff_t)j->group * K, most = (ptrdiff_t)j->most;
    const size_t size = (size_t)heads * (size_t)K * sizeof(float);
    float *k = cache_rows(j, block, l, 0, head), *v = cache_rows(j, block, l, 1, head);
    float *out = j->out + (ptrdiff_t)l * j->width + (ptrdiff_t)head * K;
    memcpy(k + (keys - 1) * step[0], qkv + half, size);
    memcpy(v + (keys - 1) * step[1], qkv + 2 * half, size);
    mica_gemv_of_heads g = {heads, keys, K, k, step[0], qkv, K, scores, most};
    j->k->gemv_heads(&g);
    j->k->softmax_rows(heads, keys, j->scale, scores, most, scores, most);
    memset(out, 0, size);
    g = (mica_gemv_of_heads){heads, keys, K, v, step[1], scores, most, out, K};
    j->k->gemv_heads_kmajor(&g);
}

static void head_task(const step_job *j, int block, int task, int thread)
{
    const step_block *b = &j->blocks[block];
    const mica_post_norm_block *m = &j->args->blocks[block];
    const step_scratch s = with_x(j, block, false, thread);
    const int K = j->head_width, D = j->width;
    const int head = task * j->group, heads = MICA_MIN(j->group, j->heads - head);
    const bool joined = !m->qkv_w[1];
    for (int i = 0; i < 3; i++)
        for (int first = 0; first < heads * K; first += COLUMNS) {
            const mica_cpu_row_weight *w = &b->qkv[joined ? 0 : i];
            const product p = {.w = w,
                               .bias = m->qkv_b[joined ? 0 : i],
                               .x = s.x,
                               .ldx = D,
                               .digits = digits_of(j, &s, block * PHASES, w, s.x, D),
                               .y = s.qkv + i * j->group * K + first,
                               .ldy = (ptrdiff_t)3 * j->group * K};
            multiply(j, &p, (joined ? i * D : 0) + head * K + first,
                     MICA_MIN(COLUMNS, heads * K - first));
        }
    for (int l = 0; l < j->rows; l++)
        attend(j, block, l, head, heads, s.qkv + (ptrdiff_t)l * 3 * j->group * K, s.scores);
}

/* ------------------------------------------------------------------- phases -- */

static const mica_cpu_row_weight *weight_of(const step_block *b, int phase)
{
    return phase == HEADS ? &b->qkv[0] : phase == OUT ? &b->o : phase == UP ? &b->up : &b->down;
}

static int tasks_of(const void *user, int phase)
{
    const step_job *j = user;
    const step_block *b = &j->blocks[phase / PHASES];
    const int columns = b->columns[phase % PHASES];
    return phase % PHASES == HEADS ? (j->heads + j->group - 1) / j->group
                                   : (weight_of(b, phase % PHASES)->n + columns - 1) / columns;
}

static void run_task(void *user, int phase, int task, int thread)
{
    const step_job *j = user;
    if (phase % PHASES == HEADS)
        head_task(j, phase / PHASES, task, thread);
    else
        linear_task(j, phase / PHASES, phase % PHASES, task, thread);
}

static const void *begins(const void *user, int phase, int task, size_t *size)
{
    const step_job *j = user;
    const step_block *b = &j->blocks[phase / PHASES];
    const mica_cpu_row_weight *w = weight_of(b, phase % PHASES);
    const int columns = b->columns[phase % PHASES];
    *size = (size_t)MICA_MIN(columns, w->n - task * columns) * (size_t)w->row_bytes;
    return mica_cpu_row_weight_at(w, task * columns);
}

/* ------------------------------------------------------------------- opening -- */

static bool block_fits(const mica_post_norm_block *b)
{
    const mica_weight *all[] = {b->qkv_w[0], b->qkv_w[1], b->qkv_w[2], b->o_w, b->up_w, b->down_w};
    for (size_t i = 0; i < MICA_ARRAY_LEN(all); i++)
        if (all[i] && !mica_cpu_row_weight_fits(all[i]))
            return false;
    return true;
}

/* f32, heads side by side. */
static bool cache_fits(const mica_tensor *t)
{
    return t->dtype == MICA_DTYPE_F32 && t->stride_[1] == t->shape_[2];
}

static bool fits(const mica_cpu_backend *be, const mica_post_norm_args *a)
{
    bool ok =
        be->fuse && a->count > 0 && a->count < INT32_MAX / PHASES && !a->table_VD && !a->head_VD;
    for (int n = 0; ok && n < a->count; n++) {
        ok = block_fits(&a->blocks[n]);
        for (int64_t l = 0; ok && l < a->x_LD->shape_[0]; l++)
            ok = cache_fits(&a->caches[l][n][0]) && cache_fits(&a->caches[l][n][1]) &&
                 a->seen[l] < INT32_MAX - 1;
    }
    return ok;
}

static int columns_of(const step_job *j, const mica_cpu_row_weight *w)
{
    const int fair = (w->n + 4 * j->be->threads - 1) / (4 * j->be->threads);
    const int columns = MICA_MIN(MICA_MIN(TASK_BYTES / MICA_MAX(1, w->row_bytes), fair), COLUMNS);
    return MICA_MAX(LEAST, columns / LEAST * LEAST);
}

static mica_status open_block(step_job *j, int n, mica_err *err)
{
    const mica_post_norm_block *m = &j->args->blocks[n];
    step_block *b = &j->blocks[n];
    double *bytes = &j->be->base.counters.row_bytes;
    for (int i = 0; i < 3 && m->qkv_w[i]; i++) {
        MICA_TRY(mica_cpu_row_weight_get(j->be, m->qkv_w[i], &b->qkv[i], err));
        *bytes += (double)b->qkv[i].n * b->qkv[i].row_bytes;
    }
    MICA_TRY(mica_cpu_row_weight_get(j->be, m->o_w, &b->o, err));
    MICA_TRY(mica_cpu_row_weight_get(j->be, m->up_w, &b->up, err));
    MICA_TRY(mica_cpu_row_weight_get(j->be, m->down_w, &b->down, err));
    b->columns[HEADS] = j->group * j->head_width;
    for (int i = 0; i < 3; i++)
        j->has_digits |= b->qkv[i].q != NULL;
    j->has_digits |= b->o.q || b->up.q || b->down.q;
    for (int phase = OUT; phase < PHASES; phase++) {
        const mica_cpu_row_weight *w = weight_of(b, phase);
        b->columns[phase] = columns_of(j, w);
        *bytes += (double)w->n * w->row_bytes;
    }
    for (int l = 0; l < j->rows; l++)
        *bytes += 2.0 * (double)(j->args->seen[l] + 1) * j->width * sizeof(float);
    return MICA_OK;
}

/* Memory of a step; from the pool, for weights that are prepared take the scratch. */
static mica_status open_step(step_job *j, mica_err *err)
{
    const size_t rows = (size_t)j->rows, wide = align64(rows * (size_t)j->width * sizeof(float));
    const size_t ffn = align64(rows * (size_t)j->ffn * sizeof(float));
    const size_t blocks = align64((size_t)j->args->count * sizeof *j->blocks);
    void *memory;
    MICA_TRY(
        mica_cpu_pool_alloc(&j->be->base, MICA_POOL_STEP, blocks + 3 * wide + ffn, &memory, err));
    j->blocks = memory;
    j->out = (float *)(void *)((uint8_t *)memory + blocks);
    j->sums[0] = (float *)(void *)((uint8_t *)memory + blocks + wide);
    j->sums[1] = (float *)(void *)((uint8_t *)memory + blocks + 2 * wide);
    j->hidden = (float *)(void *)((uint8_t *)memory + blocks + 3 * wide);
    for (int n = 0; n < j->args->count; n++)
        MICA_TRY(open_block(j, n, err));
    MICA_TRY(mica_cpu_scratch_reserve(j->be, 0, scratch_layout(j, NULL, NULL), err));
    for (int i = 0; i < j->be->threads; i++) {
        step_scratch s = {0};
        scratch_layout(j, mica_cpu_thread_scratch(j->be, i), &s);
        *s.state = *s.digits_state = -1;
    }
    return MICA_OK;
}

static mica_status run_step(step_job *j, mica_err *err)
{
    const mica_post_norm_block *last = &j->args->blocks[j->args->count - 1];
    const mica_tensor *x = j->args->x_LD;
    MICA_TRY(open_step(j, err));
    const mica_cpu_phases phases = {.count = PHASES * j->args->count,
                                    .tasks = tasks_of,
                                    .run = run_task,
                                    .begins = begins,
                                    .user = j};
    MICA_TRY(mica_cpu_run_phases(j->be, &phases, err));
    j->k->layer_norm_modulate(j->rows, j->width, j->sums[1], j->width, last->scale_2->data,
                              last->shift_2->data, j->args->eps, x->data, (ptrdiff_t)x->stride_[0]);
    return MICA_OK;
}

mica_status mica_cpu_post_norm_step(mica_backend *base, const mica_post_norm_args *args,
                                    bool *taken, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    *taken = fits(be, args);
    if (!*taken)
        return MICA_OK;
    step_job j = {.be = be,
                  .k = be->kernels,
                  .args = args,
                  .rows = (int)args->x_LD->shape_[0],
                  .width = (int)args->x_LD->shape_[1],
                  .ffn = (int)args->blocks[0].up_w->tensor.shape_[0],
                  .heads = args->heads};
    j.head_width = j.width / j.heads;
    j.group = MICA_MAX(1, MICA_MIN(GROUP, j.heads / (2 * be->threads)));
    j.scale = 1.0f / sqrtf((float)j.head_width);
    for (int l = 0; l < j.rows; l++)
        j.most = MICA_MAX(j.most, (size_t)args->seen[l] + 1);
    const mica_pool_mark mark = mica_cpu_pool_get_mark(base, MICA_POOL_STEP);
    const mica_status st = run_step(&j, err);
    mica_cpu_pool_release(base, MICA_POOL_STEP, mark);
    return st;
}
