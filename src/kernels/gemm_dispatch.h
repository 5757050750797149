/* gemm_dispatch.h - run_tile: the tile above this include, with its rows and vectors as constants.
 *
 * Included once by each gemm_*.c after `tile`, so that the calls are direct: through a pointer
 * clang merges the cases into one call, and the accumulators stay in memory. A last panel of
 * fewer columns runs fewer vectors (128 columns in panels of 48: 3 + 3 + 2). Cases beyond the
 * level's tile vanish at compile time. */
MICA_VEC void run_vectors(const gemm_tile *t, int rows)
{
    const int vectors = (t->columns + MICA_W - 1) / MICA_W;
    if (vectors >= GEMM_NV)
        tile(t, rows, GEMM_NV);
    else if (vectors == 1)
        tile(t, rows, 1);
    else if (vectors == 2)
        tile(t, rows, GEMM_NV > 2 ? 2 : 1);
    else
        tile(t, rows, GEMM_NV > 3 ? 3 : 1);
}

static void run_tile(const gemm_tile *t)
{
    switch (t->rows) {
    case 1:
        run_vectors(t, 1);
        break;
    case 2:
        if (GEMM_MR >= 2)
            run_vectors(t, GEMM_MR >= 2 ? 2 : 1);
        break;
    case 3:
        if (GEMM_MR >= 3)
            run_vectors(t, GEMM_MR >= 3 ? 3 : 1);
        break;
    case 4:
        if (GEMM_MR >= 4)
            run_vectors(t, GEMM_MR >= 4 ? 4 : 1);
        break;
    case 5:
        if (GEMM_MR >= 5)
            run_vectors(t, GEMM_MR >= 5 ? 5 : 1);
        break;
    case 6:
        if (GEMM_MR >= 6)
            run_vectors(t, GEMM_MR >= 6 ? 6 : 1);
        break;
    case 7:
        if (GEMM_MR >= 7)
            run_vectors(t, GEMM_MR >= 7 ? 7 : 1);
        break;
    case 8:
        if (GEMM_MR >= 8)
            run_vectors(t, GEMM_MR >= 8 ? 8 : 1);
        break;
    default:
        break;
    }
}
