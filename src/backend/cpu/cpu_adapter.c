/* cpu_adapter.c - LoRA and its kin beside a linear: y += scale * x kron(mix, up down)^T.
 *
 *     x [m, b q] ──mix──► [m, a q] ──down──► t [m, a r]          once per call, whole rows
 *                                              │
 *     tile of y:  x w^T  +  t[:, block] up^T ──┴─► bias, activation, gate   while it is in the cache
 *
 * Nothing of the weight's size is made: a rank of 16 beside a width of 3072 costs about a hundredth of
 * the linear's arithmetic, whatever dtype the weight has. The small product with `down` goes the way of a sensitive
 * linear (bf16 operands where the processor has them), the one with `up` is f32 and adds to the
 * sums of the tile. Both promise that the cut into tiles does not matter, so the bytes do not
 * depend on threads with adapters either.
 *
 * Where an adapter is a product of two products element by element (LoHa) its factors of rank r1 r2,
 *
 *     up[o, i r2 + j] = up0[o, i] up1[o, j]        down[i r2 + j, d] = down0[i, d] down1[j, d]
 *
 * are spelled out in the step pool for the time of the call: [O, r1 r2] and [r1 r2, D] floats. */
#include "backend/cpu/cpu_linear.h"

#define ROWS_PER_TASK 16

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static ptrdiff_t row_stride(const mica_tensor *t)
{
    return t->ndim > 1 ? (ptrdiff_t)t->stride_[t->ndim - 2] : (ptrdiff_t)t->shape_[0];
}

static mica_status pool_floats(mica_cpu_backend *be, int64_t rows, int64_t columns,
                               mica_tensor *out, mica_err *err)
{
    *out = mica_tensor_2d(NULL, MICA_DTYPE_F32, rows, columns);
    return mica_cpu_pool_alloc(&be->base, MICA_POOL_STEP, mica_tensor_size(out), &out->data, err);
}

/* --------------------------------------------------------------- factors -- */

typedef struct product_job {
    const mica_tensor *a, *b;
    const mica_cpu_backend *be;
    bool by_rows; /* row i r2 + j of the result is row i of a times row j of b */
    mica_tensor *out;
} product_job;

static void product_row(void *user, int64_t row, int thread)
{
    const product_job *p = user;
    const int64_t ca = p->a->shape_[1], cb = p->b->shape_[1], rb = p->b->shape_[0];
    const int64_t row_a = p->by_rows ? row / rb : row, row_b = p->by_rows ? row % rb : row;
    float *out = (float *)p->out->data + row * p->out->shape_[1];
    float *a = mica_cpu_thread_scratch((mica_cpu_backend *)(uintptr_t)p->be, thread), *b = a + ca;
    mica_cpu_weight_to_f32(p->a, row_a * ca, ca, a);
    mica_cpu_weight_to_f32(p->b, row_b * cb, cb, b);
    if (p->by_rows) {
        for (int64_t d = 0; d < ca; d++)
            out[d] = a[d] * b[d];
        return;
    }
    for (int64_t i = 0; i < ca; i++)
        for (int64_t k = 0; k < cb; k++)
            out[i * cb + k] = a[i] * b[k];
}

/* One factor of a LoHa spelled out. */
static mica_status make_product(mica_cpu_backend *be, const mica_tensor pair[2], bool by_rows,
                                mica_tensor *out, mica_err *err)
{
    const int64_t rows = pair[0].shape_[0], columns = pair[0].shape_[1];
    MICA_TRY(by_rows ? pool_floats(be, rows * pair[1].shape_[0], columns, out, err)
                     : pool_floats(be, rows, columns * pair[1].shape_[1], out, err));
    const product_job p = {&pair[0], &pair[1], be, by_rows, out};
    const size_t scratch = (size_t)(columns + pair[1].shape_[1]) * sizeof(float);
    MICA_TRY(mica_cpu_scratch_reserve(be, 0, scratch, err));
    mica_cpu_parallel(be, out->shape_[0], product_row, (void *)(uintptr_t)&p);
    return MICA_OK;
}

/* ------------------------------------------------------------------- mix -- */

typedef struct mix_job {
    mica_cpu_backend *be;
    const mica_tensor *mix; /* [a, b] */
    const float *x;
    ptrdiff_t ldx;
    int m, q;
    float *out; /* [m, a q] */
} mix_job;

static void mix_rows(void *user, int64_t task, int thread)
{
    const mix_job *j = user;
    const mica_kernels *k = j->be->kernels;
    const int a = (int)j->mix->shape_[0], b = (int)j->mix->shape_[1];
    const int first = (int)task * ROWS_PER_TASK, last = MICA_MIN(j->m, first + ROWS_PER_TASK);
    float *panels = mica_cpu_thread_scratch(j->be, thread);
    for (int row = first; row < last; row++) {
        const mica_gemm_f32 g = {.m = a,
                                 .n = j->q,
                                 .k = b,
                                 .a = j->mix->data,
                                 .lda = b,
                                 .b = panels,
                                 .c = j->out + (ptrdiff_t)row * a * j->q,
                                 .ldc = j->q};
        k->pack_f32_from_kmajor(b, j->q, j->x + row * j->ldx, j->q, k->gemm_f32_nb, panels);
        k->gemm_f32(&g);
    }
}

/* x [m, b q] to [m a, q], contiguous. */
static mica_status mix_input(mica_cpu_backend *be, const mica_tensor *mix, int m, int q,
                             const mica_tensor *x_MD, mica_tensor *out, mica_err *err)
{
    const int64_t a = mix->shape_[0], b = mix->shape_[1], nb = be->kernels->gemm_f32_nb;
    MICA_TRY(pool_floats(be, m * a, q, out, err));
    MICA_TRY(mica_cpu_scratch_reserve(be, 0, (size_t)(b * (q + nb)) * sizeof(float), err));
    mix_job j = {.be = be,
                 .mix = mix,
                 .x = x_MD->data,
                 .ldx = row_stride(x_MD),
                 .m = m,
                 .q = q,
                 .out = out->data};
    mica_cpu_parallel(be, (m + ROWS_PER_TASK - 1) / ROWS_PER_TASK, mix_rows, &j);
    return MICA_OK;
}

/* ------------------------------------------------------------------ make -- */

/* t = x down^T. */
static mica_status run_down(mica_cpu_backend *be, const mica_tensor *x, const mica_tensor *down,
                            const char *name, mica_tensor *t, mica_err *err)
{
    const int64_t rows = mica_tensor_count(x) / x->shape_[x->ndim - 1];
    mica_weight w = {.tensor = *down, .name = name, .sensitive = true};
    MICA_TRY(pool_floats(be, rows, down->shape_[0], t, err));
    const mica_linear_args args = {.x_MD = x, .w_OD = &w, .y_MO = t};
    return mica_cpu_linear_with(be, &args, NULL, 0, err);
}

static mica_status make_side(mica_cpu_backend *be, const mica_linear_args *args,
                             const mica_adapter *a, mica_cpu_side *s, mica_err *err)
{
    mica_tensor x = *args->x_MD, t, down = a->down[0];
    const int64_t m = mica_tensor_count(args->x_MD) / x.shape_[x.ndim - 1];
    *s = (mica_cpu_side){.adapter = a, .up = a->up[0], .blocks = 1};
    if (a->up[1].data) {
        MICA_TRY(make_product(be, a->up, false, &s->up, err));
        MICA_TRY(make_product(be, a->down, true, &down, err));
    }
    const int64_t q = down.data ? down.shape_[1] : s->up.shape_[1];
    if (a->mix.data) {
        s->blocks = (int)a->mix.shape_[0];
        MICA_TRY(mix_input(be, &a->mix, (int)m, (int)q, args->x_MD, &x, err));
    }
    s->p = (int)s->up.shape_[0];
    s->depth = (int)s->up.shape_[1];
    if (down.data) {
        MICA_TRY(run_down(be, &x, &down, args->w_OD->name, &t, err));
        x = t;
    }
    s->t = x.data;
    s->ldt = down.data || a->mix.data ? (ptrdiff_t)s->blocks * s->depth : row_stride(&x);
    return MICA_OK;
}

mica_status mica_cpu_sides_make(mica_cpu_backend *be, const mica_linear_args *args,
                                const mica_cpu_side **sides, int *count, mica_err *err)
{
    void *list = NULL;
    *count = 0;
    for (const mica_adapter *a = args->w_OD->adapters; a; a = a->next)
        ++*count;
    MICA_TRY(mica_cpu_pool_alloc(&be->base, MICA_POOL_STEP, (size_t)*count * sizeof(mica_cpu_side),
                                 &list, err));
    mica_cpu_side *s = list;
    for (const mica_adapter *a = args->w_OD->adapters; a; a = a->next)
        MICA_TRY(make_side(be, args, a, s++, err));
    *sides = list;
    return MICA_OK;
}

/* ----------------------------------------------------------------- tiles -- */

size_t mica_cpu_side_scratch_layout(const mica_cpu_linear_job *j, uint8_t *base,
                                    mica_cpu_side_scratch *s)
{
    const size_t columns = (size_t)(j->columns + j->k->gemm_f32_nb), wide = sizeof(float);
    const size_t sums =
        j->path == MICA_CPU_INT8 ? align64((size_t)j->mb * (size_t)j->columns * wide) : 0;
    const size_t panels = align64(columns * MICA_CPU_SLICE * wide), scale = align64(columns * wide);
    if (!j->side_count)
        return 0;
    if (base) {
        s->sums = (float *)(void *)base;
        s->panels = (float *)(void *)(base + sums);
        s->scale = (float *)(void *)(base + sums + panels);
    }
    return sums + panels + scale;
}

/* acc[rows x n] += t's block times rows [row_up, row_up + n) of up. */
static void add_block(const mica_cpu_linear_job *j, const mica_cpu_side *side, int block,
                      int row_up, int n, int row, int rows, const mica_cpu_side_scratch *s,
                      float *acc, ptrdiff_t ld)
{
    mica_cpu_weight_scales(&side->up, row_up, n, s->scale);
    for (int i = 0; i < n; i++)
        s->scale[i] *= side->adapter->scale;
    for (int from = 0; from < side->depth; from += MICA_CPU_SLICE) {
        const mica_cpu_slice up = {.w = &side->up,
                                   .row = row_up,
                                   .rows = n,
                                   .from = from,
                                   .depth = MICA_MIN(MICA_CPU_SLICE, side->depth - from),
                                   .scale = s->scale};
        const mica_gemm_f32 g = {.m = rows,
                                 .n = n,
                                 .k = up.depth,
                                 .a = side->t + row * side->ldt + (ptrdiff_t)block * side->depth +
                                      from,
                                 .lda = side->ldt,
                                 .b = s->panels,
                                 .c = acc,
                                 .ldc = ld,
                                 .accumulate = true};
        mica_cpu_pack_slice(j->k, &up, j->k->gemm_f32_nb, s->panels, NULL);
        j->k->gemm_f32(&g);
    }
}

void mica_cpu_sides_add(const mica_cpu_linear_job *j, int column, int columns, int row, int rows,
                        const mica_cpu_side_scratch *s, float *acc, ptrdiff_t ld)
{
    for (int i = 0; i < j->side_count; i++) {
        const mica_cpu_side *side = &j->sides[i];
        const mica_adapter *a = side->adapter;
        int o = (int)MICA_MAX(column, a->first), n;
        const int end = (int)MICA_MIN(column + columns, a->first + a->count);
        for (; o < end; o += n) {
            const int at = (int)(o - a->first + a->skip), row_up = at % side->p;
            n = MICA_MIN(end - o, side->p - row_up);
            add_block(j, side, at / side->p, row_up, n, row, rows, s, acc + (o - column), ld);
        }
    }
}
