/* gemm_tile.h - the blocking that the three matmuls share.
 *
 *               N ──►  panels of NB columns, k-major, packed by pack.c
 *            +------+------+------+        for each strip of COLUMNS (its B stays in L2)
 *     M  MR  | tile | tile | tile |          for each DEPTH of units (fits L1 per panel row)
 *     │      +------+------+------+            for each MR rows: copy them to the stack, unit-major
 *     ▼  MR  | tile |      |      |              for each panel of the strip: one register tile
 *            +------+------+------+
 *
 * unit = one 32-bit lane of a panel: 1 f32, 2 bf16 or 4 s8. The copy of A turns MR rows that
 * are a multiple of 4 KiB apart (they would share one set of the L1 cache) into one stream of
 * MR * DEPTH units; it costs MR*DEPTH moves per strip of up to COLUMNS / NB tiles.
 *
 * A tile starts from what c holds after the first block of units, so that every element is one
 * chain of additions in ascending k wherever the blocks end. */
#ifndef MICA_KERNELS_GEMM_TILE_H
#define MICA_KERNELS_GEMM_TILE_H

#include "kernels/vec.h"

#define GEMM_MR      MICA_TILE_MR
#define GEMM_NV      MICA_TILE_NV
#define GEMM_NB      (GEMM_NV * MICA_W)
#define GEMM_DEPTH   256 /* lanes per row of the A block, which takes MR KiB */
#define GEMM_COLUMNS (512 / GEMM_NB * GEMM_NB) /* B of a strip: 512 * 256 * 4 = 512 KiB */

/* In units and 32-bit lanes; see mica_gemm_f32 for the meaning. */
typedef struct gemm_args {
    int m, n, units;
    const void *a;
    ptrdiff_t lda; /* bytes */
    const void *b;
    void *c;
    ptrdiff_t ldc;
    bool accumulate;
} gemm_args;

/* One register tile: rows <= MR, columns <= NB, `units` deep. a is unit-major with MR lanes per
 * unit, b one panel's units. */
typedef struct gemm_tile {
    int rows, columns, units;
    const float *a; /* for integers: bits */
    const float *b;
    void *c;
    ptrdiff_t ldc;
    bool accumulate;
} gemm_tile;

/* Accumulator of row i, vector v: zero or what c holds; and back. The tile runs as
 * many vectors as t->columns needs; lanes past it are neither read nor written. */
MICA_VEC vf gemm_start(const gemm_tile *t, int i, int v)
{
    const float *p = (const float *)t->c + i * t->ldc + v * MICA_W;
    const int n = t->columns - v * MICA_W;
    if (!t->accumulate)
        return vf_zero();
    return n >= MICA_W ? vf_load(p) : vf_load_n(p, n);
}

MICA_VEC void gemm_finish(const gemm_tile *t, int i, int v, vf x)
{
    float *p = (float *)t->c + i * t->ldc + v * MICA_W;
    const int n = t->columns - v * MICA_W;
    if (n >= MICA_W)
        vf_store(p, x);
    else
        vf_store_n(p, x, n);
}

/* rows x units of 32-bit lanes to unit-major with MR lanes each: MICA_W units of all rows are
 * turned in registers and stored as MICA_W > MR lanes; what hangs over is overwritten by the next
 * unit, and dst has room for the last. */
MICA_VEC void gemm_copy_a(int rows, int units, const char *a, ptrdiff_t lda, float *dst)
{
    int u = 0;
    for (; u + MICA_W <= units; u += MICA_W) {
        vf r[MICA_W];
        MICA_UNROLL(16)
        for (int i = 0; i < MICA_W; i++)
            r[i] = i < rows ? vf_cast(vi_load(a + i * lda + 4 * (ptrdiff_t)u)) : vf_zero();
        vf_transpose(r);
        MICA_UNROLL(16)
        for (int i = 0; i < MICA_W; i++)
            vf_store(dst + (u + i) * GEMM_MR, r[i]);
    }
    for (; u < units; u++)
        for (int i = 0; i < rows; i++)
            memcpy(dst + u * GEMM_MR + i, a + i * lda + 4 * (ptrdiff_t)u, 4);
}

/* The type's own part: how A is copied (`lanes` 32-bit lanes per unit) and the tile. */
typedef void gemm_copy(int rows, int units, const char *a, ptrdiff_t lda, float *dst);
typedef void gemm_run_tile(const gemm_tile *t);

MICA_VEC void gemm_strip(const gemm_args *g, int first, int columns, int from, int units,
                         gemm_copy *copy, gemm_run_tile *run)
{
    float a[GEMM_DEPTH * GEMM_MR + MICA_W];
    gemm_tile t = {.units = units, .a = a, .ldc = g->ldc, .accumulate = g->accumulate || from > 0};
    for (int i = 0; i < g->m; i += GEMM_MR) {
        t.rows = g->m - i < GEMM_MR ? g->m - i : GEMM_MR;
        copy(t.rows, units, (const char *)g->a + i * g->lda + 4 * (ptrdiff_t)from, g->lda, a);
        for (int j = first; j < first + columns; j += GEMM_NB) {
            t.columns = g->n - j < GEMM_NB ? g->n - j : GEMM_NB;
            t.b = (const float *)g->b + (ptrdiff_t)j * g->units + (ptrdiff_t)from * GEMM_NB;
            t.c = (float *)g->c + i * g->ldc + j;
            run(&t);
        }
    }
}

MICA_VEC void gemm_blocks(const gemm_args *g, int lanes, gemm_copy *copy, gemm_run_tile *run)
{
    const int depth = GEMM_DEPTH / lanes;
    for (int j = 0; j < g->n; j += GEMM_COLUMNS) {
        const int columns = g->n - j < GEMM_COLUMNS ? g->n - j : GEMM_COLUMNS;
        int from = 0;
        do {
            const int units = g->units - from < depth ? g->units - from : depth;
            gemm_strip(g, j, columns, from, units, copy, run);
            from += units;
        } while (from < g->units);
    }
}

#endif
