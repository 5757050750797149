/* gemm_bf16.c - bf16 inputs, f32 sums: c[MR x NB] += a[MR x k] * b[k x NB] on pairs of k.
 *
 * With AVX512_BF16 a lane is a pair and one instruction adds both products. Elsewhere the pairs
 * of a panel are taken apart in registers (a shift and a mask per vector of B, 6 for 48
 * multiply-adds) and A is widened to f32 once when it is copied: f32 speed on half the bytes of
 * B, and products are exact, so only the sums round. */
#include "kernels/level.h"
#include "kernels/gemm_tile.h"

#ifdef MICA_VEC_HAS_BF16_DOT

#define A_LANES 1

MICA_VEC void copy_a(int rows, int units, const char *a, ptrdiff_t lda, float *dst)
{
    gemm_copy_a(rows, units, a, lda, dst);
}

MICA_VEC void add_unit(vf c[GEMM_MR][GEMM_NV], const float *a, const float *b, int rows,
                       int vectors)
{
    vi bv[GEMM_NV];
    MICA_UNROLL(4)
    for (int v = 0; v < vectors; v++)
        bv[v] = vi_load(b + v * MICA_W);
    MICA_UNROLL(16)
    for (int i = 0; i < rows; i++) {
        const vi av = vi_cast(vf_set1(a[i]));
        MICA_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            c[i][v] = vf_dot_bf16(c[i][v], av, bv[v]);
    }
}

#else

#define A_LANES 2

/* Pair (x, y) of row i becomes two lanes of units 2u and 2u + 1. */
MICA_VEC void copy_a(int rows, int units, const char *a, ptrdiff_t lda, float *dst)
{
    int u = 0;
    for (; u + MICA_W <= units; u += MICA_W) {
        vf r[MICA_W];
        MICA_UNROLL(16)
        for (int i = 0; i < MICA_W; i++)
            r[i] = i < rows ? vf_cast(vi_load(a + i * lda + 4 * (ptrdiff_t)u)) : vf_zero();
        vf_transpose(r);
        MICA_UNROLL(16)
        for (int i = 0; i < MICA_W; i++) {
            vf_store(dst + (2 * (u + i)) * GEMM_MR, vf_bf16_low(vi_cast(r[i])));
            vf_store(dst + (2 * (u + i) + 1) * GEMM_MR, vf_bf16_high(vi_cast(r[i])));
        }
    }
    for (; u < units; u++) {
        for (int i = 0; i < rows; i++) {
            uint16_t pair[2];
            memcpy(pair, a + i * lda + 4 * (ptrdiff_t)u, 4);
            const uint32_t x = (uint32_t)pair[0] << 16, y = (uint32_t)pair[1] << 16;
            memcpy(dst + 2 * u * GEMM_MR + i, &x, 4);
            memcpy(dst + (2 * u + 1) * GEMM_MR + i, &y, 4);
        }
    }
}

MICA_VEC void add_products(vf c[GEMM_MR][GEMM_NV], const float *a, const vf *bv, int rows,
                           int vectors)
{
    MICA_UNROLL(16)
    for (int i = 0; i < rows; i++) {
        const vf av = vf_set1(a[i]);
        MICA_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            c[i][v] = vf_fma(av, bv[v], c[i][v]);
    }
}

MICA_VEC void add_unit(vf c[GEMM_MR][GEMM_NV], const float *a, const float *b, int rows,
                       int vectors)
{
    vf low[GEMM_NV], high[GEMM_NV];
    MICA_UNROLL(4)
    for (int v = 0; v < vectors; v++)
        low[v] = vf_bf16_low(vi_load(b + v * MICA_W));
    add_products(c, a, low, rows, vectors);
    MICA_UNROLL(4)
    for (int v = 0; v < vectors; v++)
        high[v] = vf_bf16_high(vi_load(b + v * MICA_W));
    add_products(c, a + GEMM_MR, high, rows, vectors);
}

#endif

MICA_VEC void tile(const gemm_tile *t, int rows, int vectors)
{
    const float *a = t->a, *b = t->b;
    vf c[GEMM_MR][GEMM_NV];
    MICA_UNROLL(16)
    for (int i = 0; i < rows; i++) {
        MICA_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            c[i][v] = gemm_start(t, i, v);
    }
    for (int u = 0; u < t->units; u++, a += A_LANES * GEMM_MR, b += GEMM_NB)
        add_unit(c, a, b, rows, vectors);
    MICA_UNROLL(16)
    for (int i = 0; i < rows; i++) {
        MICA_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            gemm_finish(t, i, v, c[i][v]);
    }
}

#include "kernels/gemm_dispatch.h"

void MICA_K(gemm_bf16)(const mica_gemm_bf16 *g)
{
    const gemm_args args = {.m = g->m,
                            .n = g->n,
                            .units = g->k / 2,
                            .a = g->a,
                            .lda = g->lda * (ptrdiff_t)sizeof(uint16_t),
                            .b = g->b,
                            .c = g->c,
                            .ldc = g->ldc,
                            .accumulate = g->accumulate};
    gemm_blocks(&args, A_LANES, copy_a, run_tile);
}
