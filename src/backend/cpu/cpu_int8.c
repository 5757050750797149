/* cpu_int8.c - linears in 8-bit integers: weights per output, activations per token.
 *
 *     w[o, :] ~= w_scale[o] * w_q[o, :]               s8, [-127, 127], made once per weight
 *     x[m, :] ~= x_scale[m] * (x_q[m, :] - zero[m])   u8, made anew in every call
 *     y[m, o]  = x_scale[m] * w_scale[o] * (x_q . w_q - zero[m] * sum(w_q[o, :])) + bias
 *
 * Unsigned activations feed the u8 x s8 dot-product instruction directly, and their zero
 * point spends all 255 steps on one-sided inputs (after GELU and SiLU). Sums are exact
 * integers, so only the quantisation is approximate.
 *
 * Outlier channels. Diffusion transformers have a few input channels tens of times larger
 * than the rest; one step size for all of them would round the rest away. Up to 64 such
 * channels keep 16 bits: the lower digit stays in its place in x_q, the upper one goes to
 * a matrix of its own with the same weights,
 *
 *     x / x_scale + zero = 256 * high + low          acc += 256 * (high . w_q[outliers])
 *
 * and the row's scale follows the other channels. With 20-fold outliers the error of a product
 * falls from 3.4 % to 0.8 %. The channels are chosen from all rows of the call,
 * so in this precision a row may differ in the last digits when other rows join it.
 *
 * Prepared form of one weight, 1 byte per parameter:
 *     [panels: nb outputs, 4 of depth together][w_scale: n floats][w_sum: n int32]
 *
 * Packed weights have no prepared form, which would undo their packing: each task expands and quantises
 * the rows of its group in thread scratch, as often as a call cuts its rows of x.
 *
 * Where be->use_dnnl says so both products are oneDNN's: it takes the
 * same panels, 64 outputs wide and padded to 64 of depth, if they are whole and rows have no gaps
 * (for others it has only a reference implementation). Integer sums are exact, so the route
 * cannot change a result. */
#include "backend/cpu/cpu_linear.h"

#include "backend/cpu/cpu_dnnl.h"

#include <math.h>
#include <string.h>

#define OUTLIERS     MICA_CPU_INT8_OUTLIERS
#define OUTLIER_RATE 2.5f /* times the mean of the channels' largest magnitudes */
#define SEARCHED     64   /* rows of one task of the search */
/* Block of oneDNN: 256 KiB of sums; at depth 3072 the block's x and w take 768 KiB each, and
 * all three fit the 2 MiB of L2 that processors with AMX have. */
#define DNNL_ROWS    256
#define DNNL_COLUMNS 256
#define DNNL_SLICE   3072 /* deeper products are added up here: oneDNN's sum rounds to f32 */

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static int panel_count(const mica_cpu_linear_job *j)
{
    return (j->n + j->nb - 1) / j->nb;
}

static size_t panels_size(const mica_cpu_linear_job *j)
{
    return align64((size_t)panel_count(j) * (size_t)j->nb * (size_t)j->depth_pad);
}

static size_t vector_size(const mica_cpu_linear_job *j)
{
    return align64((size_t)j->n * 4);
}

/* ---------------------------------------------------------------- oneDNN -- */

void mica_cpu_int8_plan_dnnl(mica_cpu_linear_job *j)
{
    const int blocks = (j->m + DNNL_ROWS - 1) / DNNL_ROWS, wanted = 4 * j->be->threads;
    j->depth_pad =
        (j->depth + MICA_DNNL_PANEL_BYTES - 1) / MICA_DNNL_PANEL_BYTES * MICA_DNNL_PANEL_BYTES;
    j->nb = MICA_DNNL_PANEL;
    j->columns = DNNL_COLUMNS;
    j->groups = (j->n + j->columns - 1) / j->columns;
    j->mb = (j->m + blocks - 1) / blocks;
    j->slice = MICA_MIN(DNNL_SLICE, j->depth_pad);
    j->slices = j->slice > 0 ? (j->depth_pad + j->slice - 1) / j->slice : 1;
    j->cuts = MICA_MAX(1, MICA_MIN(blocks, (wanted + j->groups - 1) / j->groups));
}

/* Row stride of the sums of `columns` outputs. */
static int sum_stride(const mica_cpu_linear_job *j, int columns)
{
    return j->by_dnnl ? (columns + j->nb - 1) / j->nb * j->nb : j->columns;
}

static mica_status get_sum_op(mica_cpu_linear_job *j, int rows, int columns, int depth,
                              mica_dnnl_op **out, mica_err *err)
{
    const mica_dnnl_key key = {.kind = MICA_DNNL_MATMUL,
                               .src_type = MICA_DNNL_U8,
                               .weight_type = MICA_DNNL_S8,
                               .dst_type = MICA_DNNL_S32,
                               .packed = MICA_DNNL_PANELS,
                               .m = rows,
                               .n = sum_stride(j, columns),
                               .k = depth,
                               .ld_src = depth,
                               .ld_weight = depth,
                               .ld_dst = sum_stride(j, columns)};
    return mica_dnnl_get(j->be->dnnl, &key, out, err);
}

static mica_status get_op(mica_cpu_linear_job *j, int rows, int columns, int slice,
                          mica_dnnl_op **out, mica_err *err)
{
    return get_sum_op(j, rows, columns, mica_cpu_slice_depth(j, slice), out, err);
}

static mica_status get_outlier_op(mica_cpu_linear_job *j, int rows, int columns, int slice,
                                  mica_dnnl_op **out, mica_err *err)
{
    (void)slice;
    return get_sum_op(j, rows, columns, OUTLIERS, out, err);
}

/* ------------------------------------------------------------- weights -- */

/* Nothing of the weight is kept between calls. */
static bool expands(const mica_cpu_linear_job *j)
{
    return mica_dtype_is_packed(j->w->dtype);
}

typedef struct quantise_job {
    const mica_cpu_linear_job *j;
    int8_t *panels;
    float *scale;
    int32_t *sum;
} quantise_job;

/* Row `row` of the weight to s8; returns the scale without the file's own. */
static float quantise_row(const mica_cpu_linear_job *j, int row, int8_t *q, int32_t *sum,
                          float *temp)
{
    const mica_tensor *w = j->w;
    const size_t size = (size_t)mica_dtype_get(w->dtype)->size;
    const void *src = (const uint8_t *)w->data + (size_t)row * (size_t)w->stride_[0] * size;
    switch (w->dtype) {
    case MICA_DTYPE_F32:
        return j->k->quantize_s8_from_f32(j->depth, src, q, sum);
    case MICA_DTYPE_BF16:
        return j->k->quantize_s8_from_bf16(j->depth, src, q, sum);
    case MICA_DTYPE_F16:
        return j->k->quantize_s8_from_f16(j->depth, src, q, sum);
    case MICA_DTYPE_F8_E4M3:
        return j->k->quantize_s8_from_f8_e4m3(j->depth, src, q, sum);
    case MICA_DTYPE_F8_E5M2:
        return j->k->quantize_s8_from_f8_e5m2(j->depth, src, q, sum);
    default: {
        mica_tensor plain = *w;
        if (!w->scale.group) /* the caller's business */
            plain.scale.data = NULL;
        mica_cpu_weight_to_f32(&plain, (int64_t)row * j->depth, j->depth, temp);
        return j->k->quantize_s8_from_f32(j->depth, temp, q, sum);
    }
    }
}

/* Thread scratch: nb rows of s8, then one row of floats. */
static size_t quantise_scratch(const mica_cpu_linear_job *j)
{
    return align64((size_t)j->nb * (size_t)j->depth_pad) + (size_t)j->depth * sizeof(float);
}

/* Where in the prepared form the panel of output `first` has its part of a slice: slices of one
 * group of columns stand behind each other. */
static ptrdiff_t panel_offset(const mica_cpu_linear_job *j, int first, int slice)
{
    const int column = first / j->columns * j->columns;
    const int stride = MICA_MIN(j->columns, panel_count(j) * j->nb - column);
    return (ptrdiff_t)column * j->depth_pad + (ptrdiff_t)slice * j->slice * stride +
           (ptrdiff_t)(first - column) * mica_cpu_slice_depth(j, slice);
}

/* Outputs [first, first + nb) into `panels`, which begin with those of the group at `column`; scale and
 * sum begin with the group's too. rows: quantise_scratch bytes. */
static void quantise_outputs(const mica_cpu_linear_job *j, int first, int column, int8_t *panels,
                             float *scale, int32_t *sum, int8_t *rows)
{
    float *temp = (float *)(void *)(rows + align64((size_t)j->nb * (size_t)j->depth_pad));
    const int count = MICA_MIN(j->nb, j->n - first);
    for (int i = 0; i < count; i++) {
        const int at = first - column + i;
        float file_scale = 1.0f;
        mica_cpu_weight_scales(j->w, first + i, 1, &file_scale);
        scale[at] =
            file_scale * quantise_row(j, first + i, rows + (ptrdiff_t)i * j->depth, &sum[at], temp);
    }
    for (int s = 0; s < j->slices; s++) {
        const int from = s * j->slice, all = mica_cpu_slice_depth(j, s);
        const int there = MICA_MIN(all, j->depth - from), packed = (there + 3) / 4 * 4;
        int8_t *to = panels + panel_offset(j, first, s) - (ptrdiff_t)column * j->depth_pad;
        j->k->pack_s8(count, there, rows + from, j->depth, j->nb, to);
        memset(to + (ptrdiff_t)packed * j->nb, 0, (size_t)(all - packed) * (size_t)j->nb);
    }
}

static void quantise_panel(void *user, int64_t panel, int thread)
{
    const quantise_job *p = user;
    quantise_outputs(p->j, (int)panel * p->j->nb, 0, p->panels, p->scale, p->sum,
                     mica_cpu_thread_scratch(p->j->be, thread));
}

static mica_status quantise_weight(mica_cpu_backend *be, mica_weight *weight, mica_cpu_prepared *p,
                                   void *user, mica_err *err)
{
    const mica_cpu_linear_job *j = user;
    uint8_t *data = p->data;
    (void)weight;
    quantise_job q = {j, (int8_t *)data, (float *)(void *)(data + panels_size(j)),
                      (int32_t *)(void *)(data + panels_size(j) + vector_size(j))};
    MICA_TRY(mica_cpu_scratch_reserve(be, 0, quantise_scratch(j), err));
    mica_cpu_parallel(be, panel_count(j), quantise_panel, &q);
    return MICA_OK;
}

mica_status mica_cpu_int8_prepare(mica_cpu_linear_job *j, mica_err *err)
{
    const mica_cpu_prepared *p = NULL;
    if (!expands(j)) {
        MICA_TRY(mica_cpu_prepared_get(j->be, j->args->w_OD, MICA_CPU_PREPARED_INT8,
                                       (uint64_t)j->nb << 32 | (uint64_t)j->slice,
                                       panels_size(j) + 2 * vector_size(j), quantise_weight, j, &p,
                                       err));
        const uint8_t *data = p->data;
        j->w_q = (const int8_t *)data;
        j->w_scale = (const float *)(const void *)(data + panels_size(j));
        j->w_sum = (const int32_t *)(const void *)(data + panels_size(j) + vector_size(j));
    }
    if (!j->by_dnnl)
        return MICA_OK;
    MICA_TRY(mica_cpu_linear_get_ops(j, get_op, j->slices, j->op, err));
    return mica_cpu_linear_get_ops(j, get_outlier_op, 1, j->outlier_op, err);
}

/* ------------------------------------------------------------- outliers -- */

/* Largest magnitudes of the channels over some rows, in the thread's scratch. */
static void max_task(void *user, int64_t index, int thread)
{
    const mica_cpu_linear_job *j = user;
    const int first = (int)index * SEARCHED, rows = MICA_MIN(SEARCHED, j->m - first);
    const float *x = (const float *)j->args->x_MD->data + first * j->ldx;
    j->k->column_absmax(rows, j->depth, x, j->ldx, mica_cpu_thread_scratch(j->be, thread));
}

/* Over all rows: a maximum is the same in any order. */
static void find_maxima(mica_cpu_linear_job *j)
{
    const size_t size = (size_t)j->depth * sizeof(float);
    for (int t = 0; t < j->be->threads; t++)
        memset(mica_cpu_thread_scratch(j->be, t), 0, size);
    mica_cpu_parallel(j->be, (j->m + SEARCHED - 1) / SEARCHED, max_task, j);
    memset(j->x_max, 0, size);
    for (int t = 0; t < j->be->threads; t++)
        j->k->column_absmax(1, j->depth, mica_cpu_thread_scratch(j->be, t), 0, j->x_max);
}

static int count_above(const mica_cpu_linear_job *j, float bound)
{
    int count = 0;
    for (int i = 0; i < j->depth; i++)
        count += j->x_max[i] > bound;
    return count;
}

static void find_outliers(mica_cpu_linear_job *j)
{
    double sum = 0.0;
    find_maxima(j);
    for (int i = 0; i < j->depth; i++)
        sum += (double)j->x_max[i];
    float bound = OUTLIER_RATE * (float)(sum / j->depth);
    j->outliers = 0;
    if (!isfinite(bound)) /* the rows concerned become NaN; there is nothing to refine */
        return;
    while (count_above(j, bound) > MICA_MIN(OUTLIERS, j->depth / 8))
        bound *= 1.25f;
    for (int i = 0; i < j->depth; i++)
        if (j->x_max[i] > bound)
            j->channel[j->outliers++] = i;
}

/* --------------------------------------------------------- activations -- */

size_t mica_cpu_int8_layout(mica_cpu_linear_job *j, uint8_t *base)
{
    const size_t rows = align64((size_t)j->m * (size_t)j->depth_pad);
    const size_t vector = align64((size_t)j->m * 4);
    const size_t channels = align64((size_t)j->depth * 4), chosen = OUTLIERS * 4;
    if (base) {
        j->x_q = base;
        j->x_scale = (float *)(void *)(base + rows);
        j->x_zero = (int32_t *)(void *)(base + rows + vector);
        j->x_max = (float *)(void *)(base + rows + 2 * vector);
        j->channel = (int32_t *)(void *)(base + rows + 2 * vector + channels);
        j->x_high = base + rows + 2 * vector + channels + chosen;
    }
    return rows + 2 * vector + channels + chosen + (size_t)j->m * OUTLIERS;
}

/* The row with its outliers quantised as if they were 0, then their two digits. */
static void row_with_outliers(const mica_cpu_linear_job *j, int row, const float *x, uint8_t *q,
                              float *temp)
{
    uint8_t *high = j->x_high + (ptrdiff_t)row * OUTLIERS;
    float largest = 0.0f;
    memcpy(temp, x, (size_t)j->depth * sizeof(float));
    for (int i = 0; i < j->outliers; i++) {
        largest = MICA_MAX(largest, fabsf(x[j->channel[i]]));
        temp[j->channel[i]] = 0.0f;
    }
    /* A range of largest/128 at least keeps every digit within 16 bits: 128 * 255 = 32640. */
    temp[j->channel[0]] = largest / 128.0f;
    const float scale = j->k->quantize_u8_from_f32(j->depth, temp, q, &j->x_zero[row]);
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    memset(high, 128, OUTLIERS);
    for (int i = 0; i < j->outliers; i++) {
        const int wide = (int)lrintf(x[j->channel[i]] * inverse) + j->x_zero[row];
        const int low = wide & 255;
        q[j->channel[i]] = (uint8_t)low;
        high[i] = (uint8_t)((wide - low) / 256 + 128);
    }
    j->x_scale[row] = scale;
}

static void quantise_input(void *user, int64_t row, int thread)
{
    const mica_cpu_linear_job *j = user;
    const float *x = (const float *)j->args->x_MD->data + row * j->ldx;
    float *temp = mica_cpu_thread_scratch(j->be, thread);
    uint8_t *q = j->slices == 1 ? j->x_q + row * j->depth_pad : (uint8_t *)(temp + j->depth);
    memset(q + j->depth, 0, (size_t)(j->depth_pad - j->depth)); /* meets packed zeros */
    if (!j->k->all_finite(j->depth, x)) {
        /* Integers cannot carry a NaN to the check at the end of the phase; the scale can. */
        memset(q, 0, (size_t)j->depth);
        memset(j->x_high + row * OUTLIERS, 128, OUTLIERS);
        j->x_scale[row] = NAN;
        j->x_zero[row] = 0;
    } else if (j->outliers > 0) {
        row_with_outliers(j, (int)row, x, q, temp);
    } else {
        j->x_scale[row] = j->k->quantize_u8_from_f32(j->depth, x, q, &j->x_zero[row]);
    }
    for (int s = 0; j->slices > 1 && s < j->slices; s++) {
        const ptrdiff_t from = (ptrdiff_t)s * j->slice, depth = mica_cpu_slice_depth(j, s);
        memcpy(j->x_q + from * j->m + row * depth, q + from, (size_t)depth);
    }
}

size_t mica_cpu_int8_row_scratch(const mica_cpu_linear_job *j)
{
    return (size_t)j->depth * sizeof(float) + (size_t)j->depth_pad;
}

void mica_cpu_int8_inputs(mica_cpu_linear_job *j)
{
    find_outliers(j);
    mica_cpu_parallel(j->be, j->m, quantise_input, j);
}

/* --------------------------------------------------------------- blocks -- */

/* [panels, scales, sums of the group, rows on the way: packed weights]
 * [sums][outliers' panels and offsets][oneDNN] */
size_t mica_cpu_int8_scratch_layout(const mica_cpu_linear_job *j, uint8_t *base,
                                    mica_cpu_int8_scratch *s)
{
    const size_t columns = (size_t)j->columns, sums = align64((size_t)j->mb * columns * 4);
    const size_t vector = align64(columns * 4), chosen = align64(columns * OUTLIERS);
    const size_t group = expands(j) ? align64(columns * (size_t)j->depth_pad) : 0;
    const size_t rows = expands(j) ? align64(quantise_scratch(j)) : 0;
    const size_t own = group + (expands(j) ? 2 * vector : 0) + rows;
    if (base) {
        s->group = (int8_t *)base;
        s->group_scale = (float *)(void *)(base + group);
        s->group_sum = (int32_t *)(void *)(base + group + vector);
        s->rows = (int8_t *)base + group + 2 * vector;
        s->sums = (int32_t *)(void *)(base + own);
        s->panels = (int8_t *)base + own + sums;
        s->offset = (int32_t *)(void *)(base + own + sums + chosen);
        s->dnnl = base + own + sums + chosen + vector;
    }
    return own + sums + chosen + vector + j->dnnl_scratch;
}

static int outlier_depth(const mica_cpu_linear_job *j)
{
    return j->by_dnnl ? OUTLIERS : (j->outliers + 3) / 4 * 4;
}

/* The group's part of the weight: prepared, or made now. */
static void find_group(const mica_cpu_linear_job *j, int column, int columns,
                       mica_cpu_int8_scratch *s)
{
    s->w_q = expands(j) ? s->group : j->w_q + (ptrdiff_t)column * j->depth_pad;
    s->w_scale = expands(j) ? s->group_scale : j->w_scale + column;
    s->w_sum = expands(j) ? s->group_sum : j->w_sum + column;
    for (int first = column; expands(j) && first < column + columns; first += j->nb)
        quantise_outputs(j, first, column, s->group, s->group_scale, s->group_sum, s->rows);
}

void mica_cpu_int8_begin(const mica_cpu_linear_job *j, int column, int columns,
                         mica_cpu_int8_scratch *s)
{
    const int nb = j->nb, depth = outlier_depth(j);
    find_group(j, column, columns, s);
    if (j->outliers == 0)
        return;
    memset(s->panels, 0, (size_t)j->columns * (size_t)depth);
    memset(s->offset, 0, (size_t)j->columns * sizeof *s->offset);
    for (int first = 0; first < columns; first += nb) {
        int8_t *to = s->panels + (ptrdiff_t)first * depth;
        for (int i = 0; i < j->outliers; i++) {
            const int slice = j->channel[i] / j->slice, c = j->channel[i] % j->slice;
            const int8_t *from =
                s->w_q + panel_offset(j, column + first, slice) - (ptrdiff_t)column * j->depth_pad;
            for (int n = 0; n < nb; n++) {
                const int8_t v = from[((ptrdiff_t)(c / 4) * nb + n) * 4 + c % 4];
                to[((ptrdiff_t)(i / 4) * nb + n) * 4 + i % 4] = v;
                s->offset[first + n] += 256 * 128 * v;
            }
        }
    }
}

/* acc += 256 * (high - 128) . w over the outlier channels. */
static void add_outliers(mica_cpu_linear_job *j, int thread, int row, int32_t *acc,
                         const mica_cpu_int8_scratch *s, const mica_epilogue *e)
{
    const int stride = sum_stride(j, e->n);
    const mica_gemm_s8 g = {.m = e->m,
                            .n = e->n,
                            .k = outlier_depth(j),
                            .a = j->x_high + (ptrdiff_t)row * OUTLIERS,
                            .lda = OUTLIERS,
                            .b = s->panels,
                            .c = s->sums,
                            .ldc = stride};
    if (j->by_dnnl)
        mica_cpu_linear_run(j, j->outlier_op[e->m != j->mb][e->n != j->columns][0], thread, g.a,
                            g.b, g.c, s->dnnl);
    else
        j->k->gemm_s8(&g);
    for (int i = 0; i < e->m; i++) {
        int32_t *to = acc + (ptrdiff_t)i * stride;
        const int32_t *from = s->sums + (ptrdiff_t)i * stride;
        for (int n = 0; n < e->n; n++)
            to[n] += 256 * from[n] - s->offset[n];
    }
}

static void add_slices(mica_cpu_linear_job *j, int thread, const mica_cpu_block *b, int32_t *acc,
                       const mica_cpu_int8_scratch *s)
{
    const int32_t *sums = s->sums;
    mica_cpu_linear_run_slice(j, thread, b, 0, acc, s->dnnl);
    for (int i = 1; i < j->slices; i++) {
        mica_cpu_linear_run_slice(j, thread, b, i, s->sums, s->dnnl);
        for (ptrdiff_t e = 0; e < (ptrdiff_t)b->rows * b->stride; e++)
            acc[e] += sums[e];
    }
}

void mica_cpu_int8_block(mica_cpu_linear_job *j, int thread, int row, int32_t *acc,
                         const mica_cpu_int8_scratch *s, mica_epilogue_s32 *e)
{
    const int stride = sum_stride(j, e->e.n);
    const mica_gemm_s8 g = {.m = e->e.m,
                            .n = e->e.n,
                            .k = j->depth_pad,
                            .a = j->x_q + (ptrdiff_t)row * j->depth_pad,
                            .lda = j->depth_pad,
                            .b = s->w_q,
                            .c = acc,
                            .ldc = stride};
    const mica_cpu_block b = {.row = row,
                              .rows = e->e.m,
                              .columns = e->e.n,
                              .stride = stride,
                              .size = 1,
                              .x = j->x_q,
                              .weights = g.b};
    if (j->by_dnnl)
        add_slices(j, thread, &b, acc, s);
    else
        j->k->gemm_s8(&g);
    if (j->outliers > 0)
        add_outliers(j, thread, row, acc, s, &e->e);
    e->acc = acc;
    e->ldacc = stride;
    e->row_scale = j->x_scale + row;
    e->row_zero = j->x_zero + row;
    e->col_scale = s->w_scale;
    e->col_sum = s->w_sum;
    j->k->epilogue_s32_tile(e);
}
