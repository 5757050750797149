/* cpu_packed.c - weights of any dtype as the packed kernels take them, and products with few rows.
 *
 *     y [m, n] = x [m, depth] w^T, m <= 8      task: 16 to 256 rows of w, each read once from memory
 *
 *         w ─── 16 rows ───► dot_digits, dot_rows ──► sums [m, rows] ──► epilogue ──► y
 *         x ─── all of it, as digits of whole numbers or f32, stays in the cache
 *
 * Such a product is bound by the bandwidth of memory, so nothing is expanded or copied on the way. Where the
 * processor multiplies bytes (kernels.h, dot_digits) x becomes whole numbers once, of as many digits of 8 bits as the
 * precision asks for: three in f32, as exact as f32 sums of the weight's own numbers; two in bf16, whose operands have
 * 8 bits where these have 15; one in int8. Elsewhere x is not rounded. With more rows
 * the dense products win: they expand a group of rows into the panels that they would make anyway
 * (cpu_linear.c, cpu_bf16.c, cpu_int8.c). Where a caller asks for products by row it gets them for any
 * number of rows; plain weights of f32, bf16 and f16 then go the way of cpu_few_rows.c. */
#include "backend/cpu/cpu_linear.h"

static const mica_packed TYPE_OF[MICA_DTYPE_COUNT] = {
    [MICA_DTYPE_F32] = MICA_PACKED_F32,         [MICA_DTYPE_BF16] = MICA_PACKED_BF16,
    [MICA_DTYPE_F16] = MICA_PACKED_F16,         [MICA_DTYPE_F8_E4M3] = MICA_PACKED_F8_E4M3,
    [MICA_DTYPE_F8_E5M2] = MICA_PACKED_F8_E5M2, [MICA_DTYPE_I8] = MICA_PACKED_S8,
    [MICA_DTYPE_Q8_0] = MICA_PACKED_Q8_0,       [MICA_DTYPE_Q4_0] = MICA_PACKED_Q4_0,
    [MICA_DTYPE_Q4_1] = MICA_PACKED_Q4_1,       [MICA_DTYPE_Q5_0] = MICA_PACKED_Q5_0,
    [MICA_DTYPE_Q5_1] = MICA_PACKED_Q5_1,       [MICA_DTYPE_Q2_K] = MICA_PACKED_Q2_K,
    [MICA_DTYPE_Q3_K] = MICA_PACKED_Q3_K,       [MICA_DTYPE_Q4_K] = MICA_PACKED_Q4_K,
    [MICA_DTYPE_Q5_K] = MICA_PACKED_Q5_K,       [MICA_DTYPE_Q6_K] = MICA_PACKED_Q6_K,
    [MICA_DTYPE_IQ4_NL] = MICA_PACKED_IQ4_NL,   [MICA_DTYPE_IQ4_XS] = MICA_PACKED_IQ4_XS,
    [MICA_DTYPE_MXFP4] = MICA_PACKED_MXFP4,     [MICA_DTYPE_MLX2] = MICA_PACKED_B2,
    [MICA_DTYPE_MLX3] = MICA_PACKED_B3,         [MICA_DTYPE_MLX4] = MICA_PACKED_B4,
    [MICA_DTYPE_MLX5] = MICA_PACKED_B5,         [MICA_DTYPE_MLX6] = MICA_PACKED_B6,
    [MICA_DTYPE_MLX8] = MICA_PACKED_B8,
};

mica_packed_rows mica_cpu_packed_rows(const mica_tensor *w, int64_t row, int64_t rows, int64_t from,
                                      int64_t n, const float *row_scale)
{
    const mica_tensor_scale *s = &w->scale;
    const int64_t offset = row * w->stride_[0] + from;
    mica_packed_rows p = {.type = TYPE_OF[w->dtype],
                          .rows = (int)rows,
                          .n = (int)n,
                          .data = (const uint8_t *)w->data + mica_tensor_offset(w, offset),
                          .ld = mica_tensor_offset(w, w->stride_[0]),
                          .row_scale = row_scale ? row_scale + row : NULL};
    if (s->data && s->group) {
        const ptrdiff_t at = (ptrdiff_t)(offset / s->group * mica_dtype_get(s->dtype)->size);
        p.scale = (const uint8_t *)s->data + at;
        p.bias = s->bias ? (const uint8_t *)s->bias + at : NULL;
        p.scale_type = TYPE_OF[s->dtype];
        p.group = s->group;
        p.ld_scale = (ptrdiff_t)(w->stride_[0] / s->group);
    }
    return p;
}

bool mica_cpu_is_few(const mica_linear_args *args, int64_t rows)
{
    const mica_dtype d = args->w_OD->tensor.dtype;
    const bool is_packed = d == MICA_DTYPE_I8 || mica_dtype_is_packed(d);
    return args->by_row ? d != MICA_DTYPE_F64 : rows <= MICA_CPU_FEW_ROWS && is_packed;
}

/* Tasks of about 256 KiB of weights: short enough to share out evenly, long enough for the memory's
 * own read-ahead. */
#define TASK_BYTES (256 << 10)

void mica_cpu_few_plan(mica_cpu_linear_job *j)
{
    const int64_t row = MICA_MAX(mica_tensor_offset(j->w, j->depth), (ptrdiff_t)1);
    const int64_t fair = (j->n + 4 * j->be->threads - 1) / (4 * j->be->threads);
    const int64_t rows = MICA_MAX(MICA_MIN(TASK_BYTES / row, fair), (int64_t)16);
    j->columns = (int)MICA_MIN(MICA_MIN(rows, (int64_t)1024), (int64_t)MICA_MAX(j->n, 1));
    j->groups = (j->n + j->columns - 1) / j->columns;
    j->mb = j->m;
    j->cuts = 1;
}

/* Weights that a precision treats with care have the digits of the one above it. */
static int digits_of(const mica_cpu_linear_job *j)
{
    const mica_weight *w = j->args->w_OD;
    if (w->exact || j->be->base.options.precision == MICA_PRECISION_F32)
        return 3;
    return j->be->use_int8 && !w->sensitive ? 1 : 2;
}

size_t mica_cpu_few_layout(mica_cpu_linear_job *j, uint8_t *base)
{
    const mica_packed type = TYPE_OF[j->w->dtype];
    if (j->path != MICA_CPU_FEW || type < MICA_PACKED_S8 || !j->k->dot_digits)
        return 0;
    j->digits = digits_of(j);
    j->x_digits = (int8_t *)(void *)base;
    return (size_t)j->m * MICA_DIGITS_SIZE(j->depth, j->digits);
}

static void digits_task(void *user, int64_t row, int thread)
{
    const mica_cpu_linear_job *j = user;
    (void)thread;
    j->k->digits_from_f32(TYPE_OF[j->w->dtype], j->digits, 1, j->depth,
                          (const float *)j->args->x_MD->data + row * j->ldx, j->ldx,
                          j->x_digits + (size_t)row * MICA_DIGITS_SIZE(j->depth, j->digits));
}

void mica_cpu_few_inputs(mica_cpu_linear_job *j)
{
    if (j->x_digits)
        mica_cpu_parallel(j->be, j->m, digits_task, j);
}

void mica_cpu_few_block(const mica_cpu_linear_job *j, int column, int columns, float *acc)
{
    const mica_packed_rows w =
        mica_cpu_packed_rows(j->w, column, columns, 0, j->depth, j->row_scale);
    if (j->x_digits)
        j->k->dot_digits(&w, j->digits, j->m, j->x_digits, acc, j->columns);
    else
        j->k->dot_rows(&w, j->m, j->args->x_MD->data, j->ldx, acc, j->columns);
}
