/* gemm_s8.c - u8 activations times s8 weights, exact s32 sums, on groups of four k.
 *
 * AVX512_VNNI multiplies and adds four bytes per lane in one instruction. Elsewhere bytes become
 * 16-bit pairs first (vi_dot_u8s8 in vec_*.h), because the older u8 x s8 instruction saturates
 * its 16-bit sums. Integer addition is exact, so all levels give the same bits. */
#include "kernels/level.h"
#include "kernels/gemm_tile.h"

MICA_VEC vi start(const gemm_tile *t, int i, int v)
{
    const int32_t *p = (const int32_t *)t->c + i * t->ldc + v * MICA_W;
    const int n = t->columns - v * MICA_W;
    if (!t->accumulate)
        return vi_zero();
    return n >= MICA_W ? vi_load(p) : vi_load_n(p, n);
}

MICA_VEC void finish(const gemm_tile *t, int i, int v, vi x)
{
    int32_t *p = (int32_t *)t->c + i * t->ldc + v * MICA_W;
    const int n = t->columns - v * MICA_W;
    if (n >= MICA_W)
        vi_store(p, x);
    else
        vi_store_n(p, x, n);
}

MICA_VEC void tile(const gemm_tile *t, int rows, int vectors)
{
    const float *a = t->a, *b = t->b;
    vi c[GEMM_MR][GEMM_NV];
    MICA_UNROLL(16)
    for (int i = 0; i < rows; i++) {
        MICA_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            c[i][v] = start(t, i, v);
    }
    for (int u = 0; u < t->units; u++, a += GEMM_MR, b += GEMM_NB) {
        vi bv[GEMM_NV];
        MICA_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            bv[v] = vi_load(b + v * MICA_W);
        MICA_UNROLL(16)
        for (int i = 0; i < rows; i++) {
            const vi av = vi_cast(vf_set1(a[i]));
            MICA_UNROLL(4)
            for (int v = 0; v < vectors; v++)
                c[i][v] = vi_dot_u8s8(c[i][v], av, bv[v]);
        }
    }
    MICA_UNROLL(16)
    for (int i = 0; i < rows; i++) {
        MICA_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            finish(t, i, v, c[i][v]);
    }
}

#include "kernels/gemm_dispatch.h"

void MICA_K(gemm_s8)(const mica_gemm_s8 *g)
{
    const gemm_args args = {.m = g->m,
                            .n = g->n,
                            .units = g->k / 4,
                            .a = g->a,
                            .lda = g->lda,
                            .b = g->b,
                            .c = g->c,
                            .ldc = g->ldc,
                            .accumulate = g->accumulate};
    gemm_blocks(&args, 1, gemm_copy_a, run_tile);
}
