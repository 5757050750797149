/* gemv.c - matrix times vector, for the few rows of a model that writes text and for its key and value cache.
 *
 *     gemv_*       y[i][r] = sum_k a[r][k] x[i][k]  a as it lies in a file or a cache, read once
 *     gemv_kmajor  y[k] += sum_r x[r] a[r][k]       the other way: values weighted by their scores
 *
 * Bound by memory: a weight of 16 bits needs 8 bytes of bandwidth for every 4 multiply-adds, so widening it
 * in registers costs nothing. Four rows at a time share the loads of x and keep four streams under way.
 * A sum has an order of its length alone, so a row of x gives the same bits alone and among others. */
#include "base/compiler.h"
#include "kernels/level.h"
#include "kernels/vec.h"

#define ROWS 4 /* of a with one row of x */
#define FEW  2 /* of a with several */
#if MICA_W == 16
#define MANY 4 /* rows of x at once: 16 sums of 32 registers */
#elif MICA_W == 8
#define MANY 2
#else
#define MANY 1
#endif

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

/* How far ahead of its use memory is asked for: the next rows where they lie behind each other and are short,
 * else further along the same ones. Processors stop reading ahead at the ends of short rows: 25 GB/s a
 * core became 35 with rows of 1 KiB (Zen 5). */
#define SHORT (16 << 10)
#define ALONG (2 << 10)

MICA_VEC ptrdiff_t distance_ahead(int rows, ptrdiff_t step)
{
    return rows * step <= SHORT ? rows * step : ALONG;
}

/* `rows` rows of a with m rows of x, both constant and their product at most ROWS * 2; two sums each, of even
 * and odd vectors. */
MICA_VEC void dot_tile(int rows, int m, int n, const char *a, ptrdiff_t step, size_t size,
                       const float *x, ptrdiff_t ldx, float *y, ptrdiff_t ldy, load_at *load,
                       load_end *load_last)
{
    const ptrdiff_t ahead = distance_ahead(rows, step);
    vf s[2 * ROWS][2];
    MICA_UNROLL(8)
    for (int i = 0; i < rows * m; i++)
        s[i][0] = s[i][1] = vf_zero();
    int k = 0;
    for (; k + 2 * MICA_W <= n; k += 2 * MICA_W) {
        vf w[ROWS][2];
        MICA_UNROLL(4)
        for (int r = 0; r < rows; r++) {
            MICA_PREFETCH(a + r * step + k * (ptrdiff_t)size + ahead);
            w[r][0] = load(a + r * step, k);
            w[r][1] = load(a + r * step, k + MICA_W);
        }
        MICA_UNROLL(4)
        for (int i = 0; i < m; i++) {
            const vf x0 = vf_load(x + i * ldx + k), x1 = vf_load(x + i * ldx + k + MICA_W);
            MICA_UNROLL(4)
            for (int r = 0; r < rows; r++) {
                s[i * rows + r][0] = vf_fma(w[r][0], x0, s[i * rows + r][0]);
                s[i * rows + r][1] = vf_fma(w[r][1], x1, s[i * rows + r][1]);
            }
        }
    }
    for (; k < n; k += MICA_W) {
        const int left = n - k < MICA_W ? n - k : MICA_W;
        for (int r = 0; r < rows; r++) {
            const vf w = left < MICA_W ? load_last(a + r * step, k, left) : load(a + r * step, k);
            for (int i = 0; i < m; i++) {
                const float *xi = x + i * ldx + k;
                const vf xe = left < MICA_W ? vf_load_n(xi, left) : vf_load(xi);
                s[i * rows + r][0] = vf_fma(w, xe, s[i * rows + r][0]);
            }
        }
    }
    MICA_UNROLL(4)
    for (int i = 0; i < m; i++) {
        MICA_UNROLL(4)
        for (int r = 0; r < rows; r++)
            y[i * ldy + r] = vf_hsum(vf_add(s[i * rows + r][0], s[i * rows + r][1]));
    }
}

/* `rows` rows, constant, with all rows of x: a weight is widened once for MANY of them. */
MICA_VEC void dot_rows(int rows, int n, const char *a, ptrdiff_t step, size_t size, int m,
                       const float *x, ptrdiff_t ldx, float *y, ptrdiff_t ldy, load_at *load,
                       load_end *load_last)
{
    int i = 0;
    for (; i + MANY <= m; i += MANY)
        dot_tile(rows, MANY, n, a, step, size, x + i * ldx, ldx, y + i * ldy, ldy, load, load_last);
    for (; i < m; i++)
        dot_tile(rows, 1, n, a, step, size, x + i * ldx, ldx, y + i * ldy, ldy, load, load_last);
}

MICA_VEC void gemv(const mica_gemv *g, size_t size, load_at *load, load_end *load_last)
{
    const ptrdiff_t step = g->lda * (ptrdiff_t)size;
    const char *a = g->a;
    int r = 0;
    if (g->m == 1)
        for (; r + ROWS <= g->rows; r += ROWS)
            dot_tile(ROWS, 1, g->n, a + r * step, step, size, g->x, 0, g->y + r, 0, load,
                     load_last);
    for (; r + FEW <= g->rows; r += FEW)
        dot_rows(FEW, g->n, a + r * step, step, size, g->m, g->x, g->ldx, g->y + r, g->ldy, load,
                 load_last);
    for (; r < g->rows; r++)
        dot_rows(1, g->n, a + r * step, step, size, g->m, g->x, g->ldx, g->y + r, g->ldy, load,
                 load_last);
}

void MICA_K(gemv_f32)(const mica_gemv *g)
{
    gemv(g, sizeof(float), at_f32, end_f32);
}
void MICA_K(gemv_bf16)(const mica_gemv *g)
{
    gemv(g, sizeof(uint16_t), at_bf16, end_bf16);
}
void MICA_K(gemv_f16)(const mica_gemv *g)
{
    gemv(g, sizeof(uint16_t), at_f16, end_f16);
}

#define STRIP 4 /* vectors of y that stay in registers */

MICA_VEC void add_strip(int vectors, int rows, const float *a, ptrdiff_t lda, const float *x,
                        float *y)
{
    vf s[STRIP];
    MICA_UNROLL(4)
    for (int i = 0; i < vectors; i++)
        s[i] = vf_load(y + i * MICA_W);
    for (int r = 0; r < rows; r++) {
        const vf w = vf_set1(x[r]);
        MICA_UNROLL(4)
        for (int i = 0; i < vectors; i++)
            s[i] = vf_fma(w, vf_load(a + r * lda + i * MICA_W), s[i]);
    }
    MICA_UNROLL(4)
    for (int i = 0; i < vectors; i++)
        vf_store(y + i * MICA_W, s[i]);
}

void MICA_K(gemv_kmajor)(int rows, int n, const float *a, ptrdiff_t lda, const float *x, float *y)
{
    int k = 0;
    for (; k + STRIP * MICA_W <= n; k += STRIP * MICA_W)
        add_strip(STRIP, rows, a + k, lda, x, y + k);
    for (; k + 2 * MICA_W <= n; k += 2 * MICA_W) /* a head of 32 */
        add_strip(2, rows, a + k, lda, x, y + k);
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
