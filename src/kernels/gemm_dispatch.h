/* gemm_dispatch.h - run_tile: one function per tile size, from the `tile` above this include.
 *
 * Rows and vectors are constants of each function, so its accumulators are registers. The
 * functions are separate because clang merges the branches of one big function, and with them
 * the constants. A last panel of fewer columns runs fewer vectors (128 columns in panels of 48:
 * 3 + 3 + 2). */
#define GEMM_TILE(rows, vectors)                                                                   \
    static void tile_##rows##x##vectors(const gemm_tile *t)                                        \
    {                                                                                              \
        tile(t, rows, vectors);                                                                    \
    }
#define GEMM_ENTRY(rows, vectors) [(rows)-1][(vectors)-1] = tile_##rows##x##vectors,

MICA_TILES(GEMM_TILE)

static void run_tile(const gemm_tile *t)
{
    static gemm_run_tile *const tiles[GEMM_MR][GEMM_NV] = {MICA_TILES(GEMM_ENTRY)};
    tiles[t->rows - 1][(t->columns + MICA_W - 1) / MICA_W - 1](t);
}
