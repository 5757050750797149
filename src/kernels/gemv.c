/* gemv.c - matrix times vector, for the few rows of a model that writes text and for its key and value cache.
 *
 *     gemv_*       y[r] = sum_k a[r][k] x[k]        a as it lies in a file or a cache, read once
 *     gemv_kmajor  y[k] += sum_r x[r] a[r][k]       the other way: values weighted by their scores
 *
 * Bound by memory: a weight of 16 bits needs 8 bytes of bandwidth for every 4 multiply-adds, so widening it
 * in registers costs nothing. Four rows at a time share the loads of x and keep four streams under way.
 * A row's sum has an order of its own length alone. */
#include "kernels/level.h"
#include "kernels/vec.h"

#define ROWS 4

typedef vf load_at(const void *row, int k);
typedef vf load_end(const void *row, int k, int n);

MICA_VEC vf at_f32(const void *row, int k)
{
    return vf_load((const float *)row + k);
}
MICA_VEC vf end_f32(const void *row, int k, int n)
{
    return vf_load_n((const float *)row + k, n);
}
MICA_VEC vf at_bf16(const void *row, int k)
{
    return vf_from_bf16((const uint16_t *)row + k);
}
MICA_VEC vf at_f16(const void *row, int k)
{
    return vf_from_f16((const uint16_t *)row + k);
}
MICA_VEC vf end_bf16(const void *row, int k, int n)
{
    vec_buffer b;
    vec_buffer_load(&b, (const uint16_t *)row + k, n, sizeof(uint16_t));
    return vf_from_bf16(b.u16);
}
MICA_VEC vf end_f16(const void *row, int k, int n)
{
    vec_buffer b;
    vec_buffer_load(&b, (const uint16_t *)row + k, n, sizeof(uint16_t));
    return vf_from_f16(b.u16);
}

/* Two sums a row: even and odd vectors. */
MICA_VEC void dot_rows(int rows, int n, const char *a, ptrdiff_t step, const float *x, float *y,
                       load_at *load, load_end *load_last)
{
    vf s[ROWS][2];
    MICA_UNROLL(4)
    for (int r = 0; r < ROWS; r++)
        s[r][0] = s[r][1] = vf_zero();
    int k = 0;
    for (; k + 2 * MICA_W <= n; k += 2 * MICA_W) {
        const vf x0 = vf_load(x + k), x1 = vf_load(x + k + MICA_W);
        MICA_UNROLL(4)
        for (int r = 0; r < ROWS; r++) {
            if (r >= rows)
                break;
            s[r][0] = vf_fma(load(a + r * step, k), x0, s[r][0]);
            s[r][1] = vf_fma(load(a + r * step, k + MICA_W), x1, s[r][1]);
        }
    }
    for (; k < n; k += MICA_W) {
        const int left = n - k < MICA_W ? n - k : MICA_W;
        const vf xe = left < MICA_W ? vf_load_n(x + k, left) : vf_load(x + k);
        for (int r = 0; r < rows; r++) {
            const vf w = left < MICA_W ? load_last(a + r * step, k, left) : load(a + r * step, k);
            s[r][0] = vf_fma(w, xe, s[r][0]);
        }
    }
    for (int r = 0; r < rows; r++)
        y[r] = vf_hsum(vf_add(s[r][0], s[r][1]));
}

MICA_VEC void gemv(int rows, int n, const void *a, ptrdiff_t step, const float *x, float *y,
                   load_at *load, load_end *load_last)
{
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        dot_rows(ROWS, n, (const char *)a + r * step, step, x, y + r, load, load_last);
    for (; r < rows; r++)
        dot_rows(1, n, (const char *)a + r * step, step, x, y + r, load, load_last);
}

void MICA_K(gemv_f32)(int rows, int n, const float *a, ptrdiff_t lda, const float *x, float *y)
{
    gemv(rows, n, a, lda * (ptrdiff_t)sizeof(*a), x, y, at_f32, end_f32);
}
void MICA_K(gemv_bf16)(int rows, int n, const uint16_t *a, ptrdiff_t lda, const float *x, float *y)
{
    gemv(rows, n, a, lda * (ptrdiff_t)sizeof(*a), x, y, at_bf16, end_bf16);
}
void MICA_K(gemv_f16)(int rows, int n, const uint16_t *a, ptrdiff_t lda, const float *x, float *y)
{
    gemv(rows, n, a, lda * (ptrdiff_t)sizeof(*a), x, y, at_f16, end_f16);
}

#define STRIP 4 /* vectors of y that stay in registers */

void MICA_K(gemv_kmajor)(int rows, int n, const float *a, ptrdiff_t lda, const float *x, float *y)
{
    int k = 0;
    for (; k + STRIP * MICA_W <= n; k += STRIP * MICA_W) {
        vf s[STRIP];
        MICA_UNROLL(4)
        for (int i = 0; i < STRIP; i++)
            s[i] = vf_load(y + k + i * MICA_W);
        for (int r = 0; r < rows; r++) {
            const vf w = vf_set1(x[r]);
            MICA_UNROLL(4)
            for (int i = 0; i < STRIP; i++)
                s[i] = vf_fma(w, vf_load(a + r * lda + k + i * MICA_W), s[i]);
        }
        MICA_UNROLL(4)
        for (int i = 0; i < STRIP; i++)
            vf_store(y + k + i * MICA_W, s[i]);
    }
    for (; k < n; k += MICA_W) {
        const int left = n - k < MICA_W ? n - k : MICA_W;
        vf s = left < MICA_W ? vf_load_n(y + k, left) : vf_load(y + k);
        for (int r = 0; r < rows; r++) {
            const float *row = a + r * lda + k;
            s = vf_fma(vf_set1(x[r]), left < MICA_W ? vf_load_n(row, left) : vf_load(row), s);
        }
        if (left < MICA_W)
            vf_store_n(y + k, s, left);
        else
            vf_store(y + k, s);
    }
}
