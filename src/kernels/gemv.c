/* gemv.c - matrix times vector, for the few rows of a model that writes text and for its key and value cache.
 *
 *     gemv_*       y[i][r] = sum_k a[r][k] x[i][k]  a as it lies in a file or a cache, read once
 *     gemv_kmajor  y[k] += sum_r x[r] a[r][k]       the other way: values weighted by their scores
 *     gemv_heads*  both for the heads of a cache    row by row, across heads
 *
 * Bound by memory: a weight of 16 bits needs 8 bytes of bandwidth for every 4 multiply-adds, so widening it
 * in registers costs nothing. One row at a time, front to end, and memory asked for a little ahead: this gets
 * 98-100 % of what plain reading gets of memory, from small pages too; four rows side by side, which share the
 * loads of x, 77-84 % (two threads of Zen 5, rows of 1 and 4 KiB). A sum has an order of its length alone, so a
 * row of x gives the same bits alone and among others. */
#include "base/compiler.h"
#include "kernels/level.h"
#include "kernels/vec.h"

#define SUMS 4 /* of a product, of every fourth vector */
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

#define LINE  64
#define AHEAD (4 << 10) /* bytes of use before their use */

/* How far on lies what is wanted AHEAD bytes later: rows that are apart and short are asked for whole. */
MICA_VEC ptrdiff_t distance_ahead(ptrdiff_t step, ptrdiff_t bytes)
{
    return step == bytes || bytes >= AHEAD ? AHEAD : (AHEAD + bytes - 1) / bytes * step;
}

/* One row of a with m rows of x, constant and at most MANY. */
MICA_VEC void dot_row(int m, int n, const char *a, size_t size, ptrdiff_t ahead, const float *x,
                      ptrdiff_t ldx, float *y, ptrdiff_t ldy, load_at *load, load_end *load_last)
{
    vf s[MANY][SUMS];
    MICA_UNROLL(4)
    for (int i = 0; i < m; i++)
        s[i][0] = s[i][1] = s[i][2] = s[i][3] = vf_zero();
    int k = 0;
    for (; k + SUMS * MICA_W <= n; k += SUMS * MICA_W) {
        vf w[SUMS];
        for (ptrdiff_t p = 0; p < SUMS * MICA_W * (ptrdiff_t)size; p += LINE)
            MICA_PREFETCH(a + k * (ptrdiff_t)size + ahead + p);
        MICA_UNROLL(4)
        for (int v = 0; v < SUMS; v++)
            w[v] = load(a, k + v * MICA_W);
        MICA_UNROLL(4)
        for (int i = 0; i < m; i++) {
            MICA_UNROLL(4)
            for (int v = 0; v < SUMS; v++)
                s[i][v] = vf_fma(w[v], vf_load(x + i * ldx + k + v * MICA_W), s[i][v]);
        }
    }
    for (int v = 0; k < n; k += MICA_W, v++) {
        const int left = n - k < MICA_W ? n - k : MICA_W;
        const vf w = left < MICA_W ? load_last(a, k, left) : load(a, k);
        MICA_PREFETCH(a + k * (ptrdiff_t)size + ahead);
        for (int i = 0; i < m; i++) {
            const float *xi = x + i * ldx + k;
            const vf xe = left < MICA_W ? vf_load_n(xi, left) : vf_load(xi);
            s[i][v % 2] = vf_fma(w, xe, s[i][v % 2]);
        }
    }
    MICA_UNROLL(4)
    for (int i = 0; i < m; i++)
        y[i * ldy] = vf_hsum(vf_add(vf_add(s[i][0], s[i][1]), vf_add(s[i][2], s[i][3])));
}

/* Of rows that are apart: how many of `bytes` bytes lie in AHEAD, and which one that is, not behind the last. */
MICA_VEC int rows_ahead(int bytes)
{
    return (AHEAD + bytes - 1) / bytes;
}
MICA_VEC ptrdiff_t row_ahead(int row, int ahead, int rows)
{
    return row + ahead < rows ? row + ahead : rows - 1;
}

/* Rows of `vectors` whole vectors, constant and below SUMS: a head of a cache, 280 of them for each of 16 heads and
 * 24 blocks. In the order of dot_row, without its ends: 1.7 ns a row of 32 floats instead of 5.3. */
MICA_VEC void dot_short(int vectors, const mica_gemv *g, size_t size, ptrdiff_t step, load_at *load)
{
    const int ahead = rows_ahead(vectors * MICA_W * (int)size);
    for (int i = 0; i < g->m; i++) {
        const char *a = g->a;
        float *y = g->y + i * g->ldy;
        vf x[SUMS];
        MICA_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            x[v] = vf_load(g->x + i * g->ldx + v * MICA_W);
        MICA_UNROLL(4)
        for (int r = 0; r < g->rows; r++) {
            const char *later = a + row_ahead(r, ahead, g->rows) * step;
            vf s[2] = {vf_zero(), vf_zero()};
            MICA_UNROLL(4)
            for (int v = 0; v < vectors; v++) {
                MICA_PREFETCH(later + v * MICA_W * (ptrdiff_t)size);
                s[v % 2] = vf_fma(load(a + r * step, v * MICA_W), x[v], s[v % 2]);
            }
            y[r] = vf_hsum(vf_add(s[0], s[1]));
        }
    }
}

MICA_VEC void gemv(const mica_gemv *g, size_t size, load_at *load, load_end *load_last)
{
    const ptrdiff_t step = g->lda * (ptrdiff_t)size;
    const ptrdiff_t ahead = distance_ahead(step, g->n * (ptrdiff_t)size);
    const char *a = g->a;
    if (g->n == 2 * MICA_W) {
        dot_short(2, g, size, step, load);
        return;
    }
    for (int r = 0; r < g->rows; r++, a += step) {
        int i = 0;
        for (; i + MANY <= g->m; i += MANY)
            dot_row(MANY, g->n, a, size, ahead, g->x + i * g->ldx, g->ldx, g->y + i * g->ldy + r,
                    g->ldy, load, load_last);
        for (; i < g->m; i++)
            dot_row(1, g->n, a, size, ahead, g->x + i * g->ldx, 0, g->y + i * g->ldy + r, 0, load,
                    load_last);
    }
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
    const int ahead = rows_ahead(vectors * MICA_W * (int)sizeof(float));
    for (int r = 0; r < rows; r++) {
        const float *later = a + row_ahead(r, ahead, rows) * lda;
        const vf w = vf_set1(x[r]);
        MICA_UNROLL(4)
        for (int i = 0; i < vectors; i++)
            MICA_PREFETCH(later + i * MICA_W);
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

/* ---------------------------------------------------------------- heads -- */

/* A row of a cache holds the heads side by side: 16 of 32 numbers are 2 KiB. Head by head memory is asked for two
 * lines of every row, and gives half of what it gives of whole rows. */

/* A row of two whole vectors, in the order of dot_short, without its end. */
MICA_VEC vf sum_short(const float *a, const float *x)
{
    const vf s = vf_fma(vf_load(a), vf_load(x), vf_zero());
    return vf_add(s, vf_fma(vf_load(a + MICA_W), vf_load(x + MICA_W), vf_zero()));
}

/* Rows r to r + 3 of `heads` heads, constant, from `head` on; `later`: from a row to one that is read later. */
MICA_VEC void dot_short_4(int heads, const mica_gemv_of_heads *g, int head, int r, ptrdiff_t later)
{
    const float *a = g->a + r * g->lda + (ptrdiff_t)head * 2 * MICA_W, *x = g->x + head * g->ldx;
    vf s[4][4];
    MICA_UNROLL(4)
    for (int i = 0; i < 4; i++) {
        MICA_UNROLL(4)
        for (int h = 0; h < heads; h++) {
            const float *at = a + i * g->lda + h * 2 * MICA_W;
            MICA_PREFETCH(at + later);
            MICA_PREFETCH(at + later + MICA_W);
            s[h][i] = sum_short(at, x + h * g->ldx);
        }
    }
    MICA_UNROLL(4)
    for (int h = 0; h < heads; h++)
        vf_hsum_4(s[h], g->y + (head + h) * g->ldy + r);
}

/* Heads of two whole vectors: sums of four rows cost their additions a third of what each by itself would. */
MICA_VEC void dot_short_heads(const mica_gemv_of_heads *g)
{
    const int ahead = g->heads > 0 ? rows_ahead(g->heads * g->n * (int)sizeof(float)) : 0;
    int r = 0;
    for (; r + 4 <= g->rows; r += 4) {
        const ptrdiff_t later = (row_ahead(r + 3, ahead, g->rows) - r - 3) * g->lda;
        int h = 0;
        for (; h + 4 <= g->heads; h += 4)
            dot_short_4(4, g, h, r, later);
        for (; h < g->heads; h++)
            dot_short_4(1, g, h, r, later);
    }
    for (; r < g->rows; r++)
        for (int h = 0; h < g->heads; h++)
            g->y[h * g->ldy + r] = vf_hsum(
                sum_short(g->a + r * g->lda + (ptrdiff_t)h * 2 * MICA_W, g->x + h * g->ldx));
}

void MICA_K(gemv_heads)(const mica_gemv_of_heads *g)
{
    const ptrdiff_t size = sizeof(float), bytes = g->heads * g->n * size;
    if (g->n == 2 * MICA_W) {
        dot_short_heads(g);
        return;
    }
    const ptrdiff_t ahead = bytes > 0 ? distance_ahead(g->lda * size, bytes) : 0;
    for (int r = 0; r < g->rows; r++)
        for (int h = 0; h < g->heads; h++)
            dot_row(1, g->n, (const char *)(g->a + r * g->lda + h * g->n), sizeof(float), ahead,
                    g->x + h * g->ldx, 0, g->y + h * g->ldy + r, 0, at_f32, end_f32);
}

/* Heads [first, first + heads) of `vectors` whole vectors, both constant, in the order of add_strip. */
MICA_VEC void add_heads(int heads, int vectors, const mica_gemv_of_heads *g, int first)
{
    const float *a = g->a + (ptrdiff_t)first * g->n, *x = g->x + first * g->ldx;
    float *y = g->y + first * g->ldy;
    const int ahead = rows_ahead(heads * g->n * (int)sizeof(float));
    vf s[2 * STRIP];
    MICA_UNROLL(8)
    for (int i = 0; i < heads * vectors; i++)
        s[i] = vf_load(y + i / vectors * g->ldy + i % vectors * MICA_W);
    for (int r = 0; r < g->rows; r++, a += g->lda, x++) {
        const float *later = g->a + (ptrdiff_t)first * g->n + row_ahead(r, ahead, g->rows) * g->lda;
        MICA_UNROLL(8)
        for (int i = 0; i < heads * vectors; i++)
            MICA_PREFETCH(later + i * MICA_W);
        MICA_UNROLL(8)
        for (int i = 0; i < heads * vectors; i++)
            s[i] = vf_fma(vf_set1(x[i / vectors * g->ldx]), vf_load(a + i * MICA_W), s[i]);
    }
    MICA_UNROLL(8)
    for (int i = 0; i < heads * vectors; i++)
        vf_store(y + i / vectors * g->ldy + i % vectors * MICA_W, s[i]);
}

void MICA_K(gemv_heads_kmajor)(const mica_gemv_of_heads *g)
{
    int h = 0;
    for (; g->n == 2 * MICA_W && h + 4 <= g->heads; h += 4)
        add_heads(4, 2, g, h);
    for (; g->n == 4 * MICA_W && h + 2 <= g->heads; h += 2)
        add_heads(2, 4, g, h);
    for (; h < g->heads; h++)
        MICA_K(gemv_kmajor)
    (g->rows, g->n, g->a + (ptrdiff_t)h * g->n, g->lda, g->x + h * g->ldx, g->y + h * g->ldy);
}
