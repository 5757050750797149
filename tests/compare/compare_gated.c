/* compare_gated.c - gate, up and SwiGLU of one input (mica_linear_swiglu), which a device may do at once.
 *
 * The kernel for it takes results of many tiles alone (cuda_swiglu.c), so shapes are either very wide with few rows,
 * some below a tile, or very long with few columns, at a small depth; and small ones that go the other way. How many
 * were done at once the count of operations tells: one instead of two or three.
 *
 * Bounds: sums in f32 rounded once to bf16 are 1.7e-3 away; gate and up rounded before SwiGLU 4e-3. */
#include "compare.h"

#include <stdio.h>
#include <stdlib.h>

#define TILE   128
#define TILES  528 /* four for each of 132 multiprocessors */
#define SPARES 3   /* rows and columns that nobody may write */

typedef struct gated {
    int M, F, D, count;
    bool apart; /* y is a tensor of its own, else the place of gate */
    cmp_weight w[2];
    cmp_tensor x, hidden[2], y;
} gated;

static int tiles_of(int n)
{
    return (n + TILE - 1) / TILE;
}

static void choose_shape(cmp *c, gated *g)
{
    const int some[] = {1, 8, 64, 77, 127, 128, 129, 256, 300, 385, 640, 900};
    const int kind = cmp_int(c, 0, 3);
    g->D = 8 * cmp_int(c, 1, 24);
    if (kind == 0) { /* small */
        g->M = cmp_int(c, 1, 200);
        g->F = cmp_int(c, 1, 200);
        g->D = cmp_int(c, 1, 200);
    } else if (kind == 1) { /* few rows */
        g->M = some[cmp_int(c, 0, 11)];
        g->F = TILE * (TILES / tiles_of(g->M)) + 8 * cmp_int(c, 1, 40);
        g->D = 8 * cmp_int(c, 1, 9);
    } else if (kind == 2) { /* few columns */
        g->F = 8 * cmp_int(c, 1, 60);
        g->M = TILE * (TILES / tiles_of(g->F)) + cmp_int(c, 1, 300);
        g->D = 8 * cmp_int(c, 1, 9);
    } else {
        g->M = cmp_int(c, 2700, 3300);
        g->F = 8 * cmp_int(c, 350, 420);
    }
}

static void open_gated(cmp *c, gated *g)
{
    const mica_dtype types[] = {MICA_DTYPE_BF16, MICA_DTYPE_BF16, MICA_DTYPE_F16, MICA_DTYPE_F32};
    const mica_dtype type = types[cmp_int(c, 0, 3)];
    const int64_t M = g->M, F = g->F, D = g->D, outputs = F * 2 / g->count;
    for (int i = 0; i < g->count; i++) {
        g->w[i] = cmp_weight_make(c, type, 0.1f, 0, 2, CMP_SHAPE(outputs, D));
        g->hidden[i] = cmp_output(c, false, 2, CMP_SHAPE(M, outputs));
    }
    g->x = cmp_act(c, 1.0f, 2, CMP_SHAPE(M, D));
    g->y = cmp_output(c, false, 2, CMP_SHAPE(M + SPARES, F + 8 * SPARES));
}

/* The result's place of side b; apart: inside of a larger tensor. */
static mica_tensor place_of(const gated *g, int b)
{
    if (!g->apart)
        return mica_tensor_columns(&g->hidden[0].t[b], 0, g->F);
    const mica_tensor rows = mica_tensor_rows(&g->y.t[b], 0, g->M);
    return mica_tensor_columns(&rows, 0, g->F);
}

static void run_gated(cmp *c, gated *g, int b, cmp_tensor *result)
{
    mica_linear_args args[2];
    mica_tensor hidden[2], y = place_of(g, b);
    for (int i = 0; i < g->count; i++) {
        hidden[i] = g->hidden[i].t[b];
        args[i] = (mica_linear_args){.x_MD = &g->x.t[b], .w_OD = &g->w[i].w[b], .y_MO = &hidden[i]};
    }
    const uint64_t before = mica_backend_get_counters(c->be[b]).ops;
    mica_linear_swiglu(c->be[b], args, g->count, &y);
    if (b == 1 && mica_backend_get_counters(c->be[b]).ops == before + 1)
        c->at_once++;
    mica_copy(c->be[b], &y, &result->t[b]);
}

/* NaN still, as cmp_output left it. */
static void check_untouched(cmp *c, const gated *g)
{
    const mica_tensor below = mica_tensor_rows(&g->y.t[1], g->M, SPARES);
    const mica_tensor beside = mica_tensor_columns(&g->y.t[1], g->F, 8 * SPARES);
    const mica_tensor *const parts[] = {&below, &beside};
    for (int p = 0; p < 2; p++) {
        const int64_t count = mica_tensor_count(parts[p]);
        float *values = cmp_alloc((size_t)count * sizeof *values);
        int64_t written = 0;
        mica_download_f32(c->be[1], values, parts[p]);
        for (int64_t i = 0; i < count; i++)
            written += values[i] == values[i];
        if (written)
            cmp_fail(c, "numbers written beside the result", (double)written, 0);
        free(values);
    }
}

static void run_case(cmp *c)
{
    gated g = {.count = cmp_int(c, 1, 2), .apart = cmp_u32(c) & 1};
    choose_shape(c, &g);
    open_gated(c, &g);
    snprintf(c->what, sizeof c->what, "%d x %d x 2 * %d, %d linears%s", g.M, g.D, g.F, g.count,
             g.apart ? ", apart" : "");
    cmp_tensor result = cmp_output(c, false, 2, CMP_SHAPE(g.M, g.F));
    for (int b = 0; b < 2; b++)
        run_gated(c, &g, b, &result);
    cmp_result(c, &result, 2e-5, c->fp8 ? 1e-1 : 6e-3);
    if (g.apart)
        check_untouched(c, &g);
    for (int i = 0; i < g.count; i++)
        cmp_weight_free(c, &g.w[i]);
}

const cmp_op cmp_gated_ops[] = {{"linear_swiglu", run_case, 10}, {NULL, NULL, 0}};
