/* cuda_stream.c - blocks whose weights do not fit on the device pass through two windows.
 *
 *     prefetch(block n + 1) while block n computes
 *
 *     blocks   0  1  2  3 | 4  5  6  7          a block is decided when it is prefetched first:
 *              on device  | streamed            on the device while two windows more would fit
 *
 *     windows          [ 4 ][ 5 ]               the block that runs and the one after it, or,
 *     during 4         [ 4 ][ 5 ]               where a resident one runs, the next two streamed
 *     during 5         [ 6 ][ 5 ]               ones in the order of the pass
 *
 * A block's forms lie behind each other in its window, in the order of their first use. The first three
 * passes bring them from the file through pinned slots, like any weight (cuda_prepare.c). When the
 * block leaves its window after the third, it is needed again and again: its bytes are copied back to
 * pinned memory of its own, and from then on it comes as one copy at the speed of PCIe, on a stream
 * beside the operations. Events order both: `loaded` before the first use, `used` before the next
 * block may come over it. The host never waits here. (Pinned memory is made at 2 GB/s: not for the four
 * steps of a distilled model.)
 *
 * Where activations find no room, a block that lies on the device becomes a streamed one, and so much is
 * held in reserve from then on: the next run does not take what it would have to give back. A block for
 * which there is room all the same comes back to stay.
 *
 * The order of blocks is that of their first prefetch, and the last is followed by the first: what
 * every step of a denoiser does. Any other order costs time and changes nothing else.
 *
 * Napkin: a block of Qwen-Image has 0.45 GB in bf16, 9 ms at 50 GB/s against 2 ms of work at 1,024 x
 * 1,024: a step with k streamed blocks of 60 takes max(120 ms, 9 k ms). */
#include "backend/cuda/cuda_backend.h"

#include "base/clock.h"
#include "base/mem.h"

#include <string.h>

#define LOADS_BEFORE_IMAGE 3
#define HOST_RESERVE       ((uint64_t)1 << 30) /* of the host's memory that images leave */

struct mica_cuda_group {
    mica_cuda_group *next;    /* in the order of the first prefetch */
    size_t bytes;             /* of its matrices on the device, as far as can be told before */
    bool decided;             /* about `streamed`, while something of it is on the device */
    bool streamed;            /* in a window, not in memory of its own */
    bool waited;              /* the operations for what was loaded last */
    mica_cuda_window *window; /* that it is in, or NULL */
    mica_cuda_prepared *first, **last; /* forms, by offset */
    size_t used;                       /* bytes of the window that they take */
    void *image;                       /* pinned copy of these bytes, or NULL */
    int loads;
};

static mica_cuda_group *group_of(const mica_weight *w)
{
    return w->group;
}

bool mica_cuda_is_streamed(const mica_weight *w)
{
    return w->group && group_of(w)->streamed;
}

/* ----------------------------------------------------------------- groups -- */

static size_t size_of(const mica_cuda_backend *be, mica_weight *const *weights, int count)
{
    const size_t element = be->bf16 ? 2 : 4;
    size_t bytes = 0;
    for (int i = 0; i < count; i++) {
        const mica_tensor *t = &weights[i]->tensor;
        const int64_t rows = t->ndim > 1 ? t->shape_[0] : 1;
        const int64_t columns = rows > 0 ? mica_tensor_count(t) / rows : 0;
        /* a vector may be wanted in two forms */
        bytes += t->ndim > 1 ? mica_cuda_align((size_t)(rows * mica_cuda_round8(columns)) * element)
                             : 2 * mica_cuda_align((size_t)columns * 4);
    }
    return bytes;
}

static mica_cuda_group *group_make(mica_cuda_backend *be, mica_weight *const *weights, int count)
{
    mica_cuda_group *g = mica_mem_calloc(1, sizeof *g), **link = &be->groups;
    be->base.counters.allocations++;
    if (!g)
        return NULL; /* without a group the weights are on the device or not at all */
    g->last = &g->first;
    g->bytes = size_of(be, weights, count);
    while (*link)
        link = &(*link)->next;
    *link = g;
    for (int i = 0; i < count; i++)
        weights[i]->group = g;
    return g;
}

/* The streamed group that comes at or behind `g` in a pass. */
static mica_cuda_group *streamed_from(const mica_cuda_backend *be, mica_cuda_group *g)
{
    for (mica_cuda_group *at = g; at; at = at->next)
        if (at->streamed)
            return at;
    for (mica_cuda_group *at = be->groups; at && at != g; at = at->next)
        if (at->streamed)
            return at;
    return NULL;
}

static size_t largest(const mica_cuda_backend *be)
{
    size_t bytes = 0;
    for (const mica_cuda_group *g = be->groups; g; g = g->next)
        bytes = MICA_MAX(bytes, g->bytes);
    return bytes;
}

static bool any_prepared(mica_weight *const *weights, int count)
{
    bool any = false;
    for (int i = 0; i < count && !any; i++)
        any = weights[i]->prepared != NULL;
    return any;
}

/* A streamed group for which there is plenty of room again: its forms go, and the next use makes new
 * ones. Plenty, because a phase that is to come may need what is free now, and a block that came back to
 * go again is worse than one that stayed. Asked only when the accounts have changed since. */
static void come_back(mica_cuda_backend *be, mica_cuda_group *g)
{
    const uint64_t used = atomic_load(&be->device->used), drops = be->device->clock;
    if ((used == be->asked[0] && drops == be->asked[1]) || g == be->current)
        return;
    if (used + g->bytes + be->reserve + be->limit / 4 >
        be->limit + mica_cuda_weight_idle_bytes(be)) {
        be->asked[0] = used;
        be->asked[1] = drops;
        return;
    }
    mica_cuda_weight_drop_group(be, g);
    g->streamed = false;
}

/* Anew whenever nothing of the group is on the device: a text encoder that was dropped comes back to
 * what the denoiser leaves. */
static void decide(mica_cuda_backend *be, mica_cuda_group *g, mica_weight *const *weights,
                   int count)
{
    mica_backend_memory m;
    if (g->decided && g->first)
        come_back(be, g);
    if (g->decided && (g->first || any_prepared(weights, count)))
        return;
    uint64_t need = g->bytes + be->reserve + be->limit / 32;
    for (int i = 0; i < MICA_CUDA_WINDOWS; i++)
        need += MICA_MAX(largest(be), be->windows[i].size) - be->windows[i].size;
    g->decided = true;
    g->streamed = false;
    if (atomic_load(&be->device->used) + need <= be->limit)
        return; /* without asking the driver, which takes 0.1 ms */
    mica_cuda_get_memory(&be->base, false, &m);
    g->streamed = need > m.available;
    be->streaming |= g->streamed;
}

/* ---------------------------------------------------------------- windows -- */

static mica_status fail_event(cudaError_t error, mica_err *err)
{
    return mica_cuda_check(error, "streaming weights", err);
}

/* Pinned memory for the bytes of a group that will come again; without it they come from the file. */
static void keep_image(mica_cuda_backend *be, mica_cuda_group *g)
{
    if (g->image || g->loads < LOADS_BEFORE_IMAGE || g->used == 0 ||
        mica_clock_available_memory() < (uint64_t)g->used + HOST_RESERVE)
        return;
    be->base.counters.allocations++;
    if (cudaHostAlloc(&g->image, g->used, cudaHostAllocDefault) != cudaSuccess)
        g->image = NULL;
    else if (cudaMemcpyAsync(g->image, g->window->data, g->used, cudaMemcpyDeviceToHost,
                             be->copies) != cudaSuccess) {
        (void)cudaFreeHost(g->image);
        g->image = NULL;
    }
    (void)cudaGetLastError();
}

/* What is queued may still read it; the next group comes behind that. */
static mica_status leave(mica_cuda_backend *be, mica_cuda_window *w, mica_err *err)
{
    if (!w->group)
        return MICA_OK;
    keep_image(be, w->group);
    w->group->window = NULL;
    w->group = NULL;
    return fail_event(cudaEventRecord(w->used, be->stream), err);
}

/* At least `size` bytes; growing waits for the device, which happens with the first blocks only. */
static mica_status fit(mica_cuda_backend *be, mica_cuda_window *w, size_t size, mica_err *err)
{
    if (w->size >= size)
        return MICA_OK;
    MICA_TRY(fail_event(cudaStreamSynchronize(be->copies), err));
    mica_cuda_free(be, w->data);
    w->data = NULL;
    w->size = 0;
    MICA_TRY(mica_cuda_alloc(be, size, "a window for streamed weights", &w->data, err));
    w->size = size;
    if (!w->loaded)
        MICA_TRY(fail_event(cudaEventCreateWithFlags(&w->loaded, cudaEventDisableTiming), err));
    if (!w->used)
        MICA_TRY(fail_event(cudaEventCreateWithFlags(&w->used, cudaEventDisableTiming), err));
    return fail_event(cudaEventRecord(w->used, be->stream), err);
}

static mica_status load(mica_cuda_backend *be, mica_cuda_group *g, mica_cuda_window *w,
                        mica_err *err)
{
    MICA_TRY(leave(be, w, err));
    MICA_TRY(fit(be, w, MICA_MAX(largest(be), g->used), err));
    MICA_TRY(fail_event(cudaStreamWaitEvent(be->copies, w->used, 0), err));
    w->group = g;
    g->window = w;
    g->waited = false;
    g->loads++;
    be->moves++;
    for (mica_cuda_prepared *p = g->first; p; p = p->next_of_group)
        p->data = (uint8_t *)w->data + p->offset;
    if (g->image)
        MICA_TRY(fail_event(
            cudaMemcpyAsync(w->data, g->image, g->used, cudaMemcpyHostToDevice, be->copies), err));
    for (mica_cuda_prepared *p = g->first; p && !g->image; p = p->next_of_group) {
        MICA_TRY(mica_cuda_weight_upload(be, p, "streamed weight", err));
        MICA_TRY(mica_cuda_adapters_add(be, p, "streamed weight", err));
    }
    return fail_event(cudaEventRecord(w->loaded, be->copies), err);
}

/* The two groups that should be in windows now: never one that operations read. */
static mica_status look_ahead(mica_cuda_backend *be, mica_cuda_group *from, mica_err *err)
{
    mica_cuda_group *wanted[MICA_CUDA_WINDOWS] = {be->current, NULL};
    if (!be->current || !be->current->streamed) {
        wanted[0] = streamed_from(be, from);
        wanted[1] = wanted[0] ? streamed_from(be, wanted[0]->next) : NULL;
    } else {
        wanted[1] = streamed_from(be, from);
    }
    for (int i = 0; i < MICA_CUDA_WINDOWS; i++) {
        mica_cuda_group *g = wanted[i];
        if (!g || g->window || !g->image) /* from the file it comes at its first use, when the
                                              operations of the block before are queued */
            continue;
        mica_cuda_window *w = be->windows;
        while (w->group && (w->group == wanted[0] || w->group == wanted[1]))
            w++;
        MICA_TRY(load(be, g, w, err));
    }
    return MICA_OK;
}

/* ------------------------------------------------------------------ calls -- */

void mica_cuda_prefetch_weights(mica_backend *base, mica_weight *const *weights, int count)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    if (count < 1)
        return;
    mica_cuda_group *g = group_of(weights[0]);
    if (!g) {
        g = group_make(be, weights, count);
        if (!g)
            return;
        g->decided = any_prepared(weights, count); /* used before: they lie on the device */
    }
    if (be->coming &&
        be->coming != g) { /* that one runs now, the operations of the one before are queued */
        be->previous = be->current;
        be->current = be->coming;
    }
    be->coming = g;
    decide(be, g, weights, count);
    if (be->streaming && !base->error.status)
        (void)look_ahead(be, g, &base->error);
}

/* A free one, or that of a group which is neither coming nor still read by what is queued. */
static mica_cuda_window *window_for(mica_cuda_backend *be)
{
    mica_cuda_window *best = be->windows;
    int least = 3;
    for (int i = 0; i < MICA_CUDA_WINDOWS; i++) {
        const mica_cuda_group *in = be->windows[i].group;
        const int cost = !in ? 0 : in == be->coming ? 2 : in == be->previous;
        if (cost < least) {
            best = &be->windows[i];
            least = cost;
        }
    }
    return best;
}

mica_status mica_cuda_stream_enter(mica_cuda_backend *be, mica_cuda_group *g, mica_err *err)
{
    if (be->current != g)
        be->previous = be->current;
    be->current = g;
    if (!g->streamed)
        return MICA_OK;
    if (!g->window)
        MICA_TRY(load(be, g, window_for(be), err));
    if (!g->waited)
        MICA_TRY(fail_event(cudaStreamWaitEvent(be->stream, g->window->loaded, 0), err));
    g->waited = true;
    return MICA_OK;
}

bool mica_cuda_stream_place(mica_cuda_backend *be, const mica_weight *weight, mica_cuda_prepared *p,
                            mica_status *st, mica_err *err)
{
    mica_cuda_group *g = group_of(weight);
    *st = mica_cuda_stream_enter(be, g, err);
    if (*st || g->used + mica_cuda_align(p->size) > g->window->size)
        return false;
    if (g->image) { /* made before this form was known */
        *st = fail_event(cudaStreamSynchronize(be->copies), err);
        (void)cudaFreeHost(g->image);
        g->image = NULL;
    }
    p->offset = g->used;
    p->data = (uint8_t *)g->window->data + g->used;
    p->group = g;
    p->owner = be;
    g->used += mica_cuda_align(p->size);
    *g->last = p;
    g->last = &p->next_of_group;
    return !*st;
}

void mica_cuda_stream_forget(mica_cuda_backend *be, mica_cuda_prepared *p)
{
    mica_cuda_group *g = p->group;
    mica_cuda_prepared **link = &g->first;
    while (*link != p)
        link = &(*link)->next_of_group;
    *link = p->next_of_group;
    if (g->last == &p->next_of_group)
        g->last = link;
    p->group = NULL;
    if (g->first)
        return; /* the others stay where they are */
    g->used = 0;
    g->loads = 0;
    if (g->window) {
        (void)cudaEventRecord(g->window->used, be->stream);
        g->window->group = NULL;
        g->window = NULL;
    }
    if (g->image) {
        (void)cudaStreamSynchronize(be->copies);
        (void)cudaFreeHost(g->image);
        g->image = NULL;
    }
}

static mica_cuda_group *last_resident(const mica_cuda_backend *be)
{
    mica_cuda_group *last = NULL;
    for (mica_cuda_group *g = be->groups; g; g = g->next)
        if (g->decided && !g->streamed && g != be->current && g != be->coming)
            last = g;
    return last;
}

bool mica_cuda_stream_give_way(mica_cuda_backend *be)
{
    uint64_t freed = 0;
    for (mica_cuda_group *g; freed == 0 && (g = last_resident(be)) != NULL;) {
        const uint64_t before = atomic_load(&be->device->used);
        g->streamed = be->streaming = true;
        mica_cuda_weight_drop_group(be, g); /* nothing where it was dropped already */
        freed = before - atomic_load(&be->device->used);
    }
    be->reserve += freed; /* it would be the same in the next run */
    return freed > 0;
}

uint64_t mica_cuda_stream_bytes(const mica_cuda_backend *be)
{
    uint64_t bytes = 0;
    for (const mica_cuda_group *g = be->groups; g; g = g->next)
        bytes += g->streamed ? g->used : 0;
    return bytes;
}

void mica_cuda_stream_deinit(mica_cuda_backend *be)
{
    while (be->groups) { /* weights that knew them are gone */
        mica_cuda_group *g = be->groups;
        be->groups = g->next;
        if (g->image)
            (void)cudaFreeHost(g->image);
        mica_mem_free(g);
    }
    for (int i = 0; i < MICA_CUDA_WINDOWS; i++) {
        mica_cuda_window *w = &be->windows[i];
        mica_cuda_free(be, w->data);
        if (w->loaded)
            (void)cudaEventDestroy(w->loaded);
        if (w->used)
            (void)cudaEventDestroy(w->used);
    }
}
