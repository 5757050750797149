/* gemm_f32.c - f32 register tile: c[MR x NB] += a[MR x k] * b[k x NB].
 *
 *     per k:   NV vectors of b       loaded once
 *              MR broadcasts of a    each used NV times
 *              MR * NV multiply-adds
 *
 * AVX-512: 8 x 48, 24 multiply-adds on 11 loads, so the two FMA ports are the bound (12 cycles
 * per k); the 24 independent chains cover their latency. 14 x 32 has 16 loads for 28 and measured
 * 10 % less on an Ice Lake; 9 x 48 is as fast, but clang spills. AVX2: 6 x 16. Elsewhere 3 x 16. */
#include "kernels/level.h"
#include "kernels/gemm_tile.h"

/* `rows` and `vectors` are constants at every use: the arrays become registers. */
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
    for (int u = 0; u < t->units; u++, a += GEMM_MR, b += GEMM_NB) {
        vf bv[GEMM_NV];
        MICA_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            bv[v] = vf_load(b + v * MICA_W);
        MICA_UNROLL(16)
        for (int i = 0; i < rows; i++) {
            const vf av = vf_set1(a[i]);
            MICA_UNROLL(4)
            for (int v = 0; v < vectors; v++)
                c[i][v] = vf_fma(av, bv[v], c[i][v]);
        }
    }
    MICA_UNROLL(16)
    for (int i = 0; i < rows; i++) {
        MICA_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            gemm_finish(t, i, v, c[i][v]);
    }
}

#include "kernels/gemm_dispatch.h"

void MICA_K(gemm_f32)(const mica_gemm_f32 *g)
{
    const gemm_args args = {.m = g->m,
                            .n = g->n,
                            .units = g->k,
                            .a = g->a,
                            .lda = g->lda * (ptrdiff_t)sizeof(float),
                            .b = g->b,
                            .c = g->c,
                            .ldc = g->ldc,
                            .accumulate = g->accumulate};
    gemm_blocks(&args, 1, gemm_copy_a, run_tile);
}
