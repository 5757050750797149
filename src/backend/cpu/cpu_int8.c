/* cpu_int8.c - linears in 8-bit integers: weights per output, activations per token.
 *
 *     w[o, :] ~= w_scale[o] * w_q[o, :]            s8, [-127, 127], made once per weight
 *     x[m, :] ~= x_scale[m] * (x_q[m, :] - zero[m])   u8, made anew in every call
 *     y[m, o]  = x_scale[m] * w_scale[o] * (x_q . w_q - zero[m] * sum(w_q[o, :])) + bias
 *
 * Unsigned activations feed the u8 x s8 dot-product instruction directly, and their zero
 * point spends all 255 steps on one-sided inputs (after GELU and SiLU). Sums are exact
 * integers, so only the quantisation is approximate.
 *
 * Prepared form of one weight, 1 byte per parameter:
 *     [panels: nb outputs, 4 of depth together][w_scale: n floats][w_sum: n int32] */
#include "backend/cpu/cpu_linear.h"

#include <string.h>

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

/* ------------------------------------------------------------- weights -- */

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

static void quantise_panel(void *user, int64_t panel, int thread)
{
    const quantise_job *p = user;
    const mica_cpu_linear_job *j = p->j;
    int8_t *rows = mica_cpu_thread_scratch(j->be, thread);
    float *temp = (float *)(void *)(rows + align64((size_t)j->nb * (size_t)j->depth_pad));
    const int first = (int)panel * j->nb, count = MICA_MIN(j->nb, j->n - first);
    for (int i = 0; i < count; i++) {
        float file_scale = 1.0f;
        mica_cpu_weight_scales(j->w, first + i, 1, &file_scale);
        p->scale[first + i] =
            file_scale *
            quantise_row(j, first + i, rows + (ptrdiff_t)i * j->depth, &p->sum[first + i], temp);
    }
    j->k->pack_s8(count, j->depth, rows, j->depth, j->nb,
                  p->panels + (size_t)panel * (size_t)j->nb * (size_t)j->depth_pad);
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
    MICA_TRY(mica_cpu_prepared_get(j->be, j->args->w_OD, MICA_CPU_PREPARED_INT8, (uint64_t)j->nb,
                                   panels_size(j) + 2 * vector_size(j), quantise_weight, j, &p,
                                   err));
    const uint8_t *data = p->data;
    j->w_q = (const int8_t *)data;
    j->w_scale = (const float *)(const void *)(data + panels_size(j));
    j->w_sum = (const int32_t *)(const void *)(data + panels_size(j) + vector_size(j));
    return MICA_OK;
}

/* --------------------------------------------------------- activations -- */

size_t mica_cpu_int8_layout(mica_cpu_linear_job *j, uint8_t *base)
{
    const size_t rows = align64((size_t)j->m * (size_t)j->depth_pad);
    const size_t vector = align64((size_t)j->m * 4);
    if (base) {
        j->x_q = base;
        j->x_scale = (float *)(void *)(base + rows);
        j->x_zero = (int32_t *)(void *)(base + rows + vector);
    }
    return rows + 2 * vector;
}

void mica_cpu_int8_row(const mica_cpu_linear_job *j, int row, const float *x)
{
    uint8_t *q = j->x_q + (ptrdiff_t)row * j->depth_pad;
    j->x_scale[row] = j->k->quantize_u8_from_f32(j->depth, x, q, &j->x_zero[row]);
    for (int i = j->depth; i < j->depth_pad; i++)
        q[i] = 0; /* meets packed zeros */
}

void mica_cpu_int8_tile(const mica_cpu_linear_job *j, int column, int row, int32_t *acc,
                        mica_epilogue_s32 *e)
{
    const mica_gemm_s8 g = {.m = e->e.m,
                            .n = e->e.n,
                            .k = j->depth_pad,
                            .a = j->x_q + (ptrdiff_t)row * j->depth_pad,
                            .lda = j->depth_pad,
                            .b = j->w_q + (ptrdiff_t)column * j->depth_pad,
                            .c = acc,
                            .ldc = j->columns};
    j->k->gemm_s8(&g);
    e->acc = acc;
    e->ldacc = j->columns;
    e->row_scale = j->x_scale + row;
    e->row_zero = j->x_zero + row;
    e->col_scale = j->w_scale + column;
    e->col_sum = j->w_sum + column;
    j->k->epilogue_s32_tile(e);
}
