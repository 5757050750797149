/* cuda_graph.c - a denoising step as one CUDA graph.
 *
 *     first step    the body runs: weights, plans and memory come into being. While the device works at
 *                   it, the body is captured from the stream (with its branches) and instantiated
 *     then          launched: one call instead of some 1,500
 *
 * A graph holds addresses, so it is used only while nothing was freed or moved since (be->frees,
 * be->moves) and the step stack stands where it stood; else it is made anew. What cannot be part of one
 * (the pinned ring, waits, allocations) refuses while a capture is on, and its key is not tried again.
 * The counters of operations and arithmetic go on as if the body had run.
 *
 * What it is worth on an H100: docs/PERFORMANCE.md. */
#include "backend/cuda/cuda_backend.h"

#include "base/mem.h"

struct mica_cuda_graph {
    mica_cuda_graph *next;
    uint64_t key;
    bool refused;
    cudaGraphExec_t exec; /* NULL: not captured yet */
    uint64_t frees, moves;
    size_t in_use;                      /* of the step stack */
    mica_backend_counters before, work; /* before the capture, and what the body adds */
};

static void drop_exec(mica_cuda_graph *g)
{
    if (g->exec)
        (void)cudaGraphExecDestroy(g->exec);
    g->exec = NULL;
}

void mica_cuda_graph_deinit(mica_cuda_backend *be)
{
    while (be->graphs) {
        mica_cuda_graph *g = be->graphs;
        be->graphs = g->next;
        drop_exec(g);
        mica_mem_free(g);
    }
}

/* Of the last few keys; a run has three at most, and no key comes back after it. */
#define KEPT 4

static mica_cuda_graph *graph_get(mica_cuda_backend *be, uint64_t key)
{
    int count = 0;
    mica_cuda_graph **link = &be->graphs, *g;
    for (; (g = *link); link = &g->next) {
        if (g->key == key)
            return g;
        if (++count == KEPT) { /* the oldest goes */
            *link = g->next;
            drop_exec(g);
            mica_mem_free(g);
            break;
        }
    }
    g = mica_mem_calloc(1, sizeof *g);
    if (!g)
        return NULL; /* then there is no recording */
    g->key = key;
    g->next = be->graphs;
    be->graphs = g;
    return g;
}

mica_status mica_cuda_refuse_capture(mica_cuda_backend *be, const char *what, mica_err *err)
{
    if (!be->capturing)
        return MICA_OK;
    be->refused = true;
    return MICA_FAIL(err, MICA_E_INTERNAL, "cuda: %s cannot be part of a recording", what);
}

/* What the body added to the counters. */
static void count_work(mica_cuda_backend *be, mica_cuda_graph *g)
{
    const mica_backend_counters *now = &be->base.counters;
    g->work =
        (mica_backend_counters){.ops = now->ops - g->before.ops,
                                .linear_flops = now->linear_flops - g->before.linear_flops,
                                .attention_flops = now->attention_flops - g->before.attention_flops,
                                .conv_flops = now->conv_flops - g->before.conv_flops};
}

static mica_status launch(mica_cuda_backend *be, const mica_cuda_graph *g, mica_err *err)
{
    mica_backend_counters *c = &be->base.counters;
    c->replays++;
    c->ops += g->work.ops;
    c->linear_flops += g->work.linear_flops;
    c->attention_flops += g->work.attention_flops;
    c->conv_flops += g->work.conv_flops;
    return mica_cuda_check(cudaGraphLaunch(g->exec, be->streams[0]), "running a recording", err);
}

static bool is_valid(const mica_cuda_backend *be, const mica_cuda_graph *g)
{
    return g->frees == be->frees && g->moves == be->moves &&
           g->in_use == be->pool[MICA_POOL_STEP].in_use;
}

static mica_status start(mica_cuda_backend *be, uint64_t key, int *state, mica_err *err)
{
    mica_cuda_graph *g = graph_get(be, key);
    *state = MICA_REPLAY_RUN;
    if (!g || g->refused || be->streaming)
        return MICA_OK;
    *state = MICA_REPLAY_FIRST;
    if (!g->exec || !is_valid(be, g))
        return MICA_OK;
    *state = MICA_REPLAY_DONE;
    return launch(be, g, err);
}

static mica_status begin(mica_cuda_backend *be, uint64_t key, int *state, mica_err *err)
{
    mica_cuda_graph *g = graph_get(be, key);
    *state = MICA_REPLAY_DONE;
    if (!g || be->streaming)
        return MICA_OK;
    drop_exec(g);
    g->frees = be->frees;
    g->moves = be->moves;
    g->in_use = be->pool[MICA_POOL_STEP].in_use;
    g->before = be->base.counters;
    MICA_TRY(
        mica_cuda_check(cudaStreamBeginCapture(be->streams[0], cudaStreamCaptureModeThreadLocal),
                        "recording", err));
    be->capturing = g;
    be->refused = false;
    *state = MICA_REPLAY_RECORD;
    return MICA_OK;
}

/* Nothing of what was captured has happened: neither its failures nor its work. */
static mica_status finish(mica_cuda_backend *be, int *state)
{
    mica_cuda_graph *g = be->capturing;
    cudaGraph_t graph = NULL;
    const cudaError_t ended = cudaStreamEndCapture(be->streams[0], &graph);
    be->capturing = NULL;
    *state = MICA_REPLAY_DONE;
    count_work(be, g);
    g->refused = be->refused || be->base.error.status || ended != cudaSuccess || !is_valid(be, g) ||
                 cudaGraphInstantiate(&g->exec, graph, 0) != cudaSuccess;
    if (graph)
        (void)cudaGraphDestroy(graph);
    if (g->refused)
        drop_exec(g);
    else
        (void)cudaGraphUpload(g->exec, be->streams[0]);
    (void)cudaGetLastError();
    /* What waited in the body was captured, or failed. */
    be->pending[0].is_waiting = be->pending[1].is_waiting = be->base.unsettled = false;
    be->base.counters = g->before;
    be->base.error.status = MICA_OK;
    be->base.error.text[0] = '\0';
    return MICA_OK;
}

mica_status mica_cuda_op_replay(mica_backend *base, uint64_t key, int *state, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    if (base->options.ablate_replays) {
        *state = *state == MICA_REPLAY_START ? MICA_REPLAY_RUN : MICA_REPLAY_DONE;
        return MICA_OK;
    }
    mica_err failed; /* while recording, a failure is nobody's */
    MICA_TRY(mica_cuda_residual_settle(be, 0, be->capturing ? &failed : err));
    if (*state == MICA_REPLAY_START)
        return start(be, key, state, err);
    return *state == MICA_REPLAY_FIRST ? begin(be, key, state, err) : finish(be, state);
}
