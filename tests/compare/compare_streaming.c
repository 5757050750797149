/* compare_streaming.c - blocks that do not fit on the device: the same numbers as with all of them there.
 *
 *     12 blocks of 16 MiB, a limit that leaves room for about half of them, four passes in a row
 *
 * Each pass is compared with the reference backend, and the later ones with the first bit by bit: the
 * first two passes bring weights from where they are, the others from pinned copies. */
#include "compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 12
#define PASSES 4
#define ROWS   64
#define WIDTH  1024
#define HIDDEN 4096
/* What a backend takes for itself: workspace, staging and a chunk of each pool. */
#define OVERHEAD ((uint64_t)176 << 20)
#define ROOM     ((uint64_t)112 << 20) /* for weights: two windows of 16 MiB and four or five blocks */

typedef struct network {
    cmp_weight up[BLOCKS], down[BLOCKS];
} network;

/* x of the step pool through all blocks, into out on the host. */
static void run_pass(mica_backend *be, network *n, int side, const mica_tensor *start, float *out)
{
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_tensor x = mica_act_tensor(be, MICA_POOL_STEP, 2, CMP_SHAPE(ROWS, WIDTH));
    mica_tensor h = mica_act_tensor(be, MICA_POOL_STEP, 2, CMP_SHAPE(ROWS, HIDDEN));
    mica_copy(be, start, &x);
    for (int b = 0; b < BLOCKS; b++) {
        const int next = (b + 1) % BLOCKS;
        mica_backend_prefetch_weights(
            be, (mica_weight *[]){&n->up[next].w[side], &n->down[next].w[side]}, 2);
        mica_linear(be,
                    &(mica_linear_args){
                        .x_MD = &x, .w_OD = &n->up[b].w[side], .act = MICA_ACT_SILU, .y_MO = &h});
        mica_linear(be,
                    &(mica_linear_args){
                        .x_MD = &h, .w_OD = &n->down[b].w[side], .residual_MO = &x, .y_MO = &x});
    }
    mica_download_f32(be, out, &x);
    mica_pool_release(be, MICA_POOL_STEP, mark);
}

static void drop(mica_backend *be, network *n, int side)
{
    for (int b = 0; b < BLOCKS; b++)
        mica_backend_drop_weights(be, (mica_weight *[]){&n->up[b].w[side], &n->down[b].w[side]}, 2);
}

static void check_memory(cmp *c, mica_backend *be)
{
    const mica_backend_memory m = mica_backend_get_memory(be, false);
    const uint64_t all = (uint64_t)BLOCKS * 2 * WIDTH * HIDDEN * (c->bf16 ? 2 : 4);
    if (m.streamed == 0 || m.streamed == all)
        cmp_fail(c, "part of the weights must be streamed, bytes", (double)m.streamed, (double)all);
    if (m.peak > m.limit)
        cmp_fail(c, "more memory than the limit, bytes", (double)m.peak, (double)m.limit);
}

static void compare_passes(cmp *c, network *n, mica_backend *be, const cmp_tensor *start,
                           cmp_tensor result)
{
    float *out[2] = {cmp_alloc(sizeof(float) * ROWS * WIDTH),
                     cmp_alloc(sizeof(float) * ROWS * WIDTH)};
    run_pass(c->be[0], n, 0, &start->t[0], out[0]);
    mica_upload_f32(c->be[0], &result.t[0], out[0]);
    mica_download_f32(c->be[1], out[1], &start->t[1]);
    mica_tensor own = mica_act_tensor(be, MICA_POOL_SESSION, 2, CMP_SHAPE(ROWS, WIDTH));
    mica_upload_f32(be, &own, out[1]);
    uint64_t waits = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        const uint64_t before = mica_backend_get_counters(be).waits;
        run_pass(be, n, 1, &own, out[pass > 0]);
        waits = mica_backend_get_counters(be).waits - before;
        if (pass > 0 && memcmp(out[0], out[1], sizeof(float) * ROWS * WIDTH) != 0)
            cmp_fail(c, "another result in pass", pass, 0.0);
    }
    if (waits > 1) /* the download's */
        cmp_fail(c, "waits in the last pass", (double)waits, 1.0);
    mica_upload_f32(c->be[1], &result.t[1], out[0]);
    check_memory(c, be);
    mica_err err = {0};
    if (mica_backend_check(be, &err)) {
        c->failures++;
        printf("  FAILED %s: %s\n", c->op, err.text);
    }
    cmp_result(c, &result, 1e-4, 2e-2);
    free(out[0]);
    free(out[1]);
}

static void streaming(cmp *c)
{
    static network n;
    mica_backend *be = NULL;
    mica_err err = {0};
    const cmp_tensor start = cmp_act(c, 1.0f, 2, CMP_SHAPE(ROWS, WIDTH));
    const cmp_tensor result = cmp_output(c, true, 2, CMP_SHAPE(ROWS, WIDTH));
    /* Behind these the backend under test takes no more of the device that both share. */
    const mica_backend_memory m = mica_backend_get_memory(c->be[1], false);
    const mica_backend_options o = {.device = MICA_DEVICE_CUDA,
                                    .precision = mica_backend_precision(c->be[1]),
                                    .vram_limit = m.used + OVERHEAD + ROOM * (c->bf16 ? 1 : 2)};
    if (!m.total) /* the host's memory: nothing to stream */
        return;
    if (mica_backend_open(&be, &o, &err)) {
        c->failures++;
        printf("  FAILED %s: %s\n", c->op, err.text);
        return;
    }
    for (int b = 0; b < BLOCKS; b++) {
        n.up[b] = cmp_weight_make(c, MICA_DTYPE_BF16, 0.03f, 0, 2, CMP_SHAPE(HIDDEN, WIDTH));
        n.down[b] = cmp_weight_make(c, MICA_DTYPE_BF16, 0.03f, 0, 2, CMP_SHAPE(WIDTH, HIDDEN));
    }
    compare_passes(c, &n, be, &start, result);
    drop(be, &n, 1);
    mica_backend_close(&be);
    for (int b = 0; b < BLOCKS; b++) {
        cmp_weight_free(c, &n.up[b]);
        cmp_weight_free(c, &n.down[b]);
    }
}

/* A limit that nothing fits in is an error that says what was needed, and the backend lives on. */
static void no_room(cmp *c)
{
    mica_backend *be = NULL;
    mica_err err = {0};
    const mica_backend_memory m = mica_backend_get_memory(c->be[1], false);
    const mica_backend_options o = {.device = MICA_DEVICE_CUDA,
                                    .precision = mica_backend_precision(c->be[1]),
                                    .vram_limit = m.used + ((uint64_t)160 << 20)};
    if (!m.total)
        return;
    c->cases++;
    if (mica_backend_open(&be, &o, &err) == MICA_OK) {
        const mica_tensor t = mica_act_tensor(be, MICA_POOL_STEP, 1, CMP_SHAPE((int64_t)1 << 29));
        if (t.data || mica_backend_check(be, &err) != MICA_E_NOMEM || !strstr(err.text, "--vram"))
            cmp_fail(c, "no clear error without room; pointers", t.data != NULL, 0.0);
        const mica_tensor small = mica_act_tensor(be, MICA_POOL_STEP, 1, CMP_SHAPE(1024));
        if (!small.data || mica_backend_check(be, &err))
            cmp_fail(c, "the backend is of no use afterwards", 0.0, 0.0);
    } else {
        cmp_fail(c, "cannot open", 0.0, 0.0);
    }
    mica_backend_close(&be);
}

/* All that the device has, of which the driver keeps some: it refuses, not a limit of ours. */
static void device_full(cmp *c)
{
    mica_backend *be = c->be[1];
    mica_err err = {0};
    mica_backend_memory m = mica_backend_get_memory(be, false);
    if (!m.total || m.limit != m.total)
        return;
    c->cases++;
    /* What is kept for later goes for a request that nothing can meet; else it would make room for the next one. */
    mica_backend_buffer_free(be, mica_backend_buffer_alloc(be, m.total));
    (void)mica_backend_check(be, &err);
    m = mica_backend_get_memory(be, false);
    void *all = mica_backend_buffer_alloc(be, m.limit - m.used);
    if (all || mica_backend_check(be, &err) != MICA_E_NOMEM || !strstr(err.text, " are free and "))
        cmp_fail(c, "no clear error from a full device; pointers", all != NULL, 0.0);
    mica_backend_buffer_free(be, all);
    const mica_tensor small = mica_act_tensor(be, MICA_POOL_STEP, 1, CMP_SHAPE(1024));
    if (!small.data || mica_backend_check(be, &err))
        cmp_fail(c, "the backend is of no use afterwards", 0.0, 0.0);
}

const cmp_op cmp_streaming_ops[] = {{"streaming", streaming, 1},
                                    {"no_room", no_room, 1},
                                    {"device_full", device_full, 1},
                                    {NULL, NULL, 0}};
