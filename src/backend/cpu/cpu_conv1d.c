/* cpu_conv1d.c - convolution over time as one product of overlapping rows.
 *
 *     x [R, C]       row r of the product's A is x[r .. r + K - 1], K C numbers that already lie one
 *     +--------+     behind the other: A is x itself with a row stride of C (of stride * C when the
 *     | r      |──┐  convolution strides). Nothing is copied K times.
 *     | r + 1  |  │  K C
 *     | ...    |──┘
 *
 * With dilation d the rows that one output needs are d apart; the rows r, r + d, r + 2d, ... of one
 * phase, gathered behind each other, are a convolution without dilation again.
 *
 *     task = band of outputs: gather each phase into thread scratch (zeros outside, leaky ReLU,
 *            bf16 where the processor multiplies it) ──► gemm ──► epilogue ──► y
 *
 * The band is sized so that the gathered rows and the sums stay in L2. Weights become panels of the
 * micro-kernel once per weight, tap by tap with the channels inside. Neither bands nor threads
 * change a number: the kernels promise that an element does not depend on how rows are cut. */
#include "backend/cpu/cpu_backend.h"

#include "kernels/kernels.h"

#include <string.h>

#define BAND_BYTES 393216 /* of gathered rows and sums */
#define BAND_LEAST 64     /* outputs, so that the K - 1 rows two bands share are few */

typedef struct conv1d_job {
    mica_cpu_backend *be;
    const mica_kernels *k;
    const mica_conv1d_args *args;
    bool bf16;
    int64_t in_rows, out_rows, ldx, ldy, ldres;
    int C, O, taps, depth, depth_pad; /* depth = taps * C */
    int band;                         /* outputs of a task */
    int band_rows;                    /* gathered rows of one phase */
    const void *panels;
    const float *bias;
    size_t rows_size; /* bytes of gathered rows */
} conv1d_job;

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static const char *name_of(const mica_weight *w)
{
    return w->name ? w->name : "weight";
}

/* -------------------------------------------------------------- weights -- */

/* Output channel o as [taps][C] of f32. */
static void gather_taps(const conv1d_job *j, const mica_tensor *w, int64_t o, float *temp,
                        float *out)
{
    const size_t size = (size_t)mica_dtype_get(w->dtype)->size;
    uint8_t *raw = (uint8_t *)temp;
    for (int64_t t = 0; t < j->taps; t++)
        for (int64_t c = 0; c < j->C; c++, raw += size)
            memcpy(raw,
                   (const uint8_t *)w->data +
                       (size_t)(o * w->stride_[0] + c * w->stride_[1] + t * w->stride_[3]) * size,
                   size);
    mica_tensor row = mica_tensor_1d(temp, w->dtype, j->depth);
    mica_cpu_weight_to_f32(&row, 0, j->depth, out);
    if (w->scale.data) {
        float scale;
        mica_cpu_weight_scales(w, o, 1, &scale);
        j->k->mul_scalar(j->depth, scale, out, out);
    }
}

static mica_status pack(mica_cpu_backend *be, mica_weight *weight, mica_cpu_prepared *p, void *user,
                        mica_err *err)
{
    const conv1d_job *j = user;
    const size_t plain = align64((size_t)j->O * (size_t)j->depth * sizeof(float));
    uint8_t *temp = mica_cpu_alloc(be, plain + (size_t)j->depth * sizeof(double));
    if (!temp)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to gather its weights", name_of(weight));
    float *rows = (float *)(void *)temp;
    for (int64_t o = 0; o < j->O; o++)
        gather_taps(j, &weight->tensor, o, (float *)(void *)(temp + plain), rows + o * j->depth);
    if (j->bf16)
        j->k->pack_bf16_from_f32(j->O, j->depth, rows, j->depth, NULL, j->k->gemm_bf16_nb, p->data);
    else
        j->k->pack_f32_from_f32(j->O, j->depth, rows, j->depth, NULL, j->k->gemm_f32_nb, p->data);
    mica_cpu_free(temp);
    return MICA_OK;
}

static size_t panels_size(const conv1d_job *j)
{
    const int nb = j->bf16 ? j->k->gemm_bf16_nb : j->k->gemm_f32_nb;
    const size_t columns = (size_t)((j->O + nb - 1) / nb * nb);
    return columns * (size_t)j->depth_pad * (j->bf16 ? sizeof(uint16_t) : sizeof(float));
}

/* ---------------------------------------------------------------- bands -- */

/* Row `at` of x through the leaky ReLU into `to` (f32); zeros outside. */
static void load_row(const conv1d_job *j, int64_t at, float *to)
{
    const float *x = (const float *)j->args->x_RC->data + at * j->ldx;
    if (at < 0 || at >= j->in_rows)
        memset(to, 0, (size_t)j->C * sizeof(float));
    else if (j->args->leaky)
        j->k->leaky_relu(j->C, j->args->slope, x, to);
    else
        memcpy(to, x, (size_t)j->C * sizeof(float));
}

/* `count` rows from `first` on, `step` apart. */
static void load_rows(const conv1d_job *j, int64_t first, int step, int count, float *to,
                      uint16_t *to_bf16)
{
    const bool inside = first >= 0 && first + (int64_t)(count - 1) * step < j->in_rows;
    if (inside && step == 1 && j->ldx == j->C) { /* one run */
        const float *x = (const float *)j->args->x_RC->data + first * j->ldx;
        const int64_t n = (int64_t)count * j->C;
        if (j->args->leaky) {
            j->k->leaky_relu(n, j->args->slope, x, to);
            x = to;
        }
        if (j->bf16)
            j->k->bf16_from_f32(n, x, 1.0f, to_bf16);
        else if (x != to)
            memcpy(to, x, (size_t)n * sizeof(float));
        return;
    }
    for (int i = 0; i < count; i++)
        load_row(j, first + (int64_t)i * step, to + (ptrdiff_t)i * j->C);
    if (j->bf16)
        j->k->bf16_from_f32((int64_t)count * j->C, to, 1.0f, to_bf16);
}

static void multiply(const conv1d_job *j, int rows, const float *a, const uint16_t *a_bf16,
                     float *sums)
{
    const ptrdiff_t lda = (ptrdiff_t)j->args->stride * j->C;
    if (j->bf16) {
        const mica_gemm_bf16 g = {.m = rows,
                                  .n = j->O,
                                  .k = j->depth_pad,
                                  .a = a_bf16,
                                  .lda = lda,
                                  .b = j->panels,
                                  .c = sums,
                                  .ldc = j->O};
        j->k->gemm_bf16(&g);
        return;
    }
    const mica_gemm_f32 g = {.m = rows,
                             .n = j->O,
                             .k = j->depth,
                             .a = a,
                             .lda = lda,
                             .b = j->panels,
                             .c = sums,
                             .ldc = j->O};
    j->k->gemm_f32(&g);
}

/* Outputs first, first + step, ... from `sums`. */
static void store(const conv1d_job *j, int64_t first, int step, int rows, const float *sums)
{
    const mica_conv1d_args *a = j->args;
    mica_epilogue e = {.m = rows,
                       .n = j->O,
                       .acc = sums,
                       .ldacc = j->O,
                       .bias = j->bias,
                       .act = (mica_kernel_act)a->act,
                       .y = (float *)a->y_RO->data + first * j->ldy,
                       .ldy = step * j->ldy};
    if (a->residual_RO) {
        e.residual = (const float *)a->residual_RO->data + first * j->ldres;
        e.ldres = step * j->ldres;
    }
    j->k->epilogue_tile(&e);
}

static void run_band(void *user, int64_t index, int thread)
{
    const conv1d_job *j = user;
    const mica_conv1d_args *a = j->args;
    const int64_t first = index * j->band;
    const int count = (int)MICA_MIN((int64_t)j->band, j->out_rows - first), d = a->dilation;
    uint8_t *scratch = mica_cpu_thread_scratch(j->be, thread);
    float *rows = (float *)(void *)scratch, *sums = (float *)(void *)(scratch + j->rows_size);
    uint16_t *rows_bf16 =
        (uint16_t *)(void *)(scratch + align64((size_t)(j->band_rows * j->C) * sizeof(float)));
    for (int phase = 0; phase < d && phase < count; phase++) {
        const int outputs = (count - phase + d - 1) / d;
        const int inputs = (outputs - 1) * a->stride + j->taps;
        load_rows(j, (first + phase) * a->stride - a->pad_left, d, inputs, rows, rows_bf16);
        if (j->bf16 && j->depth_pad > j->depth) /* the last row's pair reaches one further */
            rows_bf16[(ptrdiff_t)inputs * j->C] = 0;
        multiply(j, outputs, rows, rows_bf16, sums);
        store(j, first + phase, d, outputs, sums);
    }
}

/* ------------------------------------------------------------------ run -- */

static mica_status check_job(const mica_conv1d_args *a, mica_err *err)
{
    const mica_tensor *w = &a->w_OCYX->tensor;
    const mica_dtype_info *type = mica_dtype_get(w->dtype);
    char text[96];
    if (!type->is_float || type->size < 1 || w->shape_[0] > INT32_MAX / 64 ||
        w->shape_[1] * w->shape_[3] > INT32_MAX / 64)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: a convolution cannot use %s",
                         name_of(a->w_OCYX), mica_tensor_describe(w, text, sizeof text));
    return MICA_OK;
}

static void plan(conv1d_job *j)
{
    const mica_conv1d_args *a = j->args;
    const int d = a->dilation;
    const int64_t bytes = (int64_t)sizeof(float) * (j->C * a->stride + j->O);
    int64_t band = MICA_MAX((int64_t)BAND_LEAST * d, BAND_BYTES / bytes);
    band = MICA_MIN(band, j->out_rows);
    j->band = (int)((band + d - 1) / d * d); /* whole phases */
    j->band_rows = (j->band / d - 1) * a->stride + j->taps;
    const size_t rows = align64((size_t)(j->band_rows * j->C) * sizeof(float));
    const size_t half = j->bf16 ? align64((size_t)(j->band_rows * j->C + 2) * sizeof(uint16_t)) : 0;
    j->rows_size = rows + half;
}

mica_status mica_cpu_conv1d(mica_backend *base, const mica_conv1d_args *args, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    const int64_t *w = args->w_OCYX->tensor.shape_;
    MICA_TRY(check_job(args, err));
    conv1d_job j = {.be = be,
                    .k = be->kernels,
                    .args = args,
                    .bf16 = be->use_bf16 && !args->w_OCYX->exact,
                    .in_rows = args->x_RC->shape_[0],
                    .out_rows = args->y_RO->shape_[0],
                    .ldx = args->x_RC->stride_[0],
                    .ldy = args->y_RO->stride_[0],
                    .ldres = args->residual_RO ? args->residual_RO->stride_[0] : 0,
                    .C = (int)w[1],
                    .O = (int)w[0],
                    .taps = (int)w[3]};
    const mica_cpu_prepared *p = NULL;
    j.depth = j.taps * j.C;
    j.depth_pad = j.bf16 ? (j.depth + 1) / 2 * 2 : j.depth;
    plan(&j);
    MICA_TRY(mica_cpu_prepared_get(be, args->w_OCYX, MICA_CPU_PREPARED_CONV1D, j.bf16,
                                   panels_size(&j), pack, &j, &p, err));
    j.panels = p->data;
    const size_t bias = args->bias_O ? align64((size_t)j.O * sizeof(float)) : 0;
    const size_t sums = align64((size_t)(j.band / args->dilation * j.O) * sizeof(float));
    MICA_TRY(mica_cpu_scratch_reserve(be, bias, j.rows_size + sums, err));
    if (bias) {
        mica_cpu_weight_to_f32(&args->bias_O->tensor, 0, j.O, mica_cpu_shared_scratch(be));
        j.bias = mica_cpu_shared_scratch(be);
    }
    mica_cpu_parallel(be, (j.out_rows + j.band - 1) / j.band, run_band, &j);
    return MICA_OK;
}
