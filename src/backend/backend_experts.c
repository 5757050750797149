/* backend_experts.c - a mixture of experts from operations that every backend has.
 *
 *     logits [L, E] ─► host: A experts a row and their shares
 *                      counting sort:  expert 0: rows 3 7   expert 1: rows 0 3 ...
 *     for each expert that was chosen:
 *         x rows ─gather─► gate, up ─► silu(gate) * up ─► down ─share, add─► y rows
 *
 * The sort makes each expert's three products one product each, however many rows chose it; matrices of
 * experts that nobody chose are never read. All chosen experts' matrices are named to the prefetcher
 * before the first product, so that reading from a disk overlaps with computing. */
#include "backend/backend_ops.h"
#include "base/checked.h"
#include "base/mem.h"

#include <math.h>

typedef struct routing {
    int64_t rows;
    int experts, active;
    float *logits;   /* rows * experts */
    int32_t *first;  /* experts + 1: where each expert's entries begin */
    int32_t *row;    /* rows * active, by expert */
    float *share;    /* likewise */
    int32_t *choice; /* rows * active, by row */
    float *weight;   /* likewise */
} routing;

static void *route_memory(mica_backend *be, size_t size)
{
    if (size > be->route_size) {
        void *grown = mica_mem_realloc(be->route, size);
        if (!grown)
            return NULL;
        be->counters.allocations++;
        be->route = grown;
        be->route_size = size;
    }
    return be->route;
}

static bool route_open(mica_backend *be, routing *r)
{
    const size_t logits = (size_t)r->rows * (size_t)r->experts;
    const size_t entries = (size_t)r->rows * (size_t)r->active;
    const size_t words = logits + 4 * entries + (size_t)r->experts + 1;
    float *memory = words < SIZE_MAX / 4 ? route_memory(be, words * 4) : NULL;
    if (!memory) {
        mica_backend_fail(be, MICA_E_NOMEM, "no memory to route %lld rows to experts",
                          (long long)r->rows);
        return false;
    }
    r->logits = memory;
    r->share = memory + logits;
    r->weight = r->share + entries;
    r->row = (int32_t *)(void *)(r->weight + entries);
    r->choice = r->row + entries;
    r->first = r->choice + entries;
    return true;
}

/* The A largest logits of one row, largest first, and their shares (MixtralTopKRouter.forward of
 * transformers: softmax over all experts in f32, then divided by the sum of the chosen). */
static void choose(const float *logits, int experts, int active, int32_t *choice, float *weight)
{
    float top = logits[0], all = 0.0f, sum = 0.0f;
    for (int e = 1; e < experts; e++)
        top = fmaxf(top, logits[e]);
    for (int e = 0; e < experts; e++)
        all += expf(logits[e] - top);
    for (int a = 0; a < active; a++) {
        int best = -1;
        for (int e = 0; e < experts; e++) {
            bool taken = false;
            for (int b = 0; b < a; b++)
                taken |= choice[b] == e;
            if (!taken && (best < 0 || logits[e] > logits[best]))
                best = e;
        }
        choice[a] = best;
        weight[a] = expf(logits[best] - top) / all;
        sum += weight[a];
    }
    for (int a = 0; a < active; a++)
        weight[a] /= sum;
}

/* Entries of `choice` by expert; rows stay in order within one. */
static void sort_by_expert(const routing *r)
{
    const int64_t entries = r->rows * r->active;
    for (int e = 0; e <= r->experts; e++)
        r->first[e] = 0;
    for (int64_t i = 0; i < entries; i++)
        r->first[r->choice[i] + 1]++;
    for (int e = 0; e < r->experts; e++)
        r->first[e + 1] += r->first[e];
    for (int64_t i = 0; i < entries; i++) {
        const int32_t at = r->first[r->choice[i]]++;
        r->row[at] = (int32_t)(i / r->active);
        r->share[at] = r->weight[i];
    }
    for (int e = r->experts; e > 0; e--)
        r->first[e] = r->first[e - 1];
    r->first[0] = 0;
}

static void prefetch_chosen(mica_backend *be, const mica_experts_args *a, const routing *r)
{
    for (int e = 0; e < r->experts; e++) {
        mica_weight *list[] = {&a->gate_FD[e], &a->up_FD[e], &a->down_DF[e]};
        if (r->first[e + 1] > r->first[e])
            mica_backend_prefetch_weights(be, list, 3);
    }
}

/* Scratch of every row, so that the choice of experts changes no allocation. */
typedef struct expert_scratch {
    mica_tensor x_ND, gate_NF, up_NF, out_ND;
} expert_scratch;

static void linear(mica_backend *be, const mica_experts_args *a, mica_weight *w,
                   const mica_tensor *x, mica_tensor *y)
{
    mica_linear(be, &(mica_linear_args){.x_MD = x, .w_OD = w, .y_MO = y, .by_row = a->by_row});
}

static void run_expert(mica_backend *be, const mica_experts_args *a, const routing *r, int e,
                       const expert_scratch *s)
{
    const int64_t count = r->first[e + 1] - r->first[e];
    const int32_t *rows = r->row + r->first[e];
    mica_tensor x = mica_tensor_rows(&s->x_ND, 0, count),
                out = mica_tensor_rows(&s->out_ND, 0, count);
    mica_tensor gate = mica_tensor_rows(&s->gate_NF, 0, count);
    mica_tensor up = mica_tensor_rows(&s->up_NF, 0, count);
    const bool all = count == r->rows; /* then they are in order */
    if (!all)
        mica_gather_rows(be, a->x_LD, rows, count, &x);
    linear(be, a, &a->gate_FD[e], all ? a->x_LD : &x, &gate);
    linear(be, a, &a->up_FD[e], all ? a->x_LD : &x, &up);
    mica_swiglu(be, &gate, &up, &gate);
    linear(be, a, &a->down_DF[e], &gate, &out);
    mica_add_rows(be, &out, rows, r->share + r->first[e], count, a->y_LD);
}

static bool check(mica_backend *be, const mica_experts_args *a)
{
    const mica_tensor *x = a->x_LD, *y = a->y_LD, *g = a->logits_LE;
    if (x->ndim == 2 && y->ndim == 2 && g->ndim == 2 && x->shape_[0] == y->shape_[0] &&
        x->shape_[1] == y->shape_[1] && g->shape_[0] == x->shape_[0] &&
        g->dtype == MICA_DTYPE_F32 && a->active >= 1 && a->active <= g->shape_[1] &&
        x->shape_[0] < INT32_MAX / a->active && a->gate_FD[0].tensor.ndim == 2)
        return true;
    char text_x[96], text_g[96];
    mica_backend_fail(be, MICA_E_INTERNAL, "experts: %d of %s for %s", a->active,
                      mica_tensor_describe(g, text_g, sizeof text_g),
                      mica_tensor_describe(x, text_x, sizeof text_x));
    return false;
}

static mica_tensor scratch(mica_backend *be, int64_t rows, int64_t columns)
{
    return mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){rows, columns});
}

/* Where the backend chooses by itself: nothing is waited for. */
static bool run_on_device(mica_backend *be, const mica_experts_args *args)
{
    bool taken = false;
    if (!be->ops->experts)
        return false;
    const mica_status st = be->ops->experts(be, args, &taken, &be->error);
    if (st)
        mica_backend_fail(be, st, "experts failed without a message");
    if (taken) {
        be->counters.ops++;
        mica_profile_note(be, "experts");
    }
    return taken || st;
}

void mica_experts(mica_backend *be, const mica_experts_args *args)
{
    if (mica_backend_failed(be) || !check(be, args) || args->x_LD->shape_[0] == 0)
        return;
    if (args->host) {
        mica_experts_on_host(be, args);
        return;
    }
    if (run_on_device(be, args))
        return;
    const int64_t L = args->x_LD->shape_[0], D = args->x_LD->shape_[1];
    const int64_t F = args->gate_FD[0].tensor.shape_[0];
    routing r = {.rows = L, .experts = (int)args->logits_LE->shape_[1], .active = args->active};
    if (!route_open(be, &r))
        return;
    mica_download_f32(be, r.logits, args->logits_LE);
    if (mica_backend_failed(be))
        return;
    for (int64_t l = 0; l < L; l++)
        choose(r.logits + l * r.experts, r.experts, r.active, r.choice + l * r.active,
               r.weight + l * r.active);
    sort_by_expert(&r);
    prefetch_chosen(be, args, &r);
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const expert_scratch s = {scratch(be, L, D), scratch(be, L, F), scratch(be, L, F),
                              scratch(be, L, D)};
    for (int e = 0; e < r.experts; e++)
        if (r.first[e + 1] > r.first[e])
            run_expert(be, args, &r, e, &s);
    mica_pool_release(be, MICA_POOL_STEP, mark);
}

/* Nothing is checked that the operations would not be given likewise. */
bool mica_mixture_layer(mica_backend *be, const mica_mixture_layer_args *args)
{
    bool taken = false;
    if (mica_backend_failed(be) || !be->ops->mixture_layer)
        return false;
    mica_backend_settle(be);
    const mica_status st = be->ops->mixture_layer(be, args, &taken, &be->error);
    if (st)
        mica_backend_fail(be, st, "a layer failed without a message");
    if (taken) {
        be->counters.ops++;
        if (be->profile)
            mica_profile_note(be, "mixture_layer");
    }
    return taken;
}
