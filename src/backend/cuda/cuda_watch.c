/* cuda_watch.c - looks for NaN and Inf that nobody waits for.
 *
 *     watch(x, mark)    kernel: first = min(first, mark) where x is not finite
 *                       first ──► pinned slot mark % SLOTS, event      all queued
 *     watched           a slot whose event has passed, or is waited for
 *
 * `first` only falls while a run lasts, so a slot that was written over tells as much as the one before. */
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/cuda_watch.h"

#include "base/mem.h"

#define SLOTS 4
#define NONE  0x7f7f7f7f /* what cudaMemset can write */

struct mica_cuda_watch {
    int *first;         /* device */
    volatile int *seen; /* pinned, SLOTS of them */
    cudaEvent_t done[SLOTS];
    int last; /* mark; -1: nothing was watched */
};

void mica_cuda_watch_deinit(mica_cuda_backend *be)
{
    mica_cuda_watch *w = be->watch;
    if (!w)
        return;
    for (int i = 0; i < SLOTS; i++)
        if (w->done[i])
            (void)cudaEventDestroy(w->done[i]);
    if (w->seen)
        (void)cudaFreeHost((void *)(uintptr_t)w->seen);
    mica_cuda_free(be, w->first);
    mica_mem_free(w);
    be->watch = NULL;
}

static mica_status watch_open(mica_cuda_backend *be, mica_err *err)
{
    void *memory;
    mica_cuda_watch *w = be->watch = mica_mem_calloc(1, sizeof *w);
    if (!w)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to look for NaN");
    w->last = -1;
    be->base.counters.allocations += 2;
    MICA_TRY(mica_cuda_alloc(be, sizeof(int), "a flag", &memory, err));
    w->first = memory;
    MICA_TRY(mica_cuda_check(cudaHostAlloc(&memory, SLOTS * sizeof(int), cudaHostAllocDefault),
                             "pinned memory", err));
    w->seen = memory;
    for (int i = 0; i < SLOTS; i++)
        MICA_TRY(mica_cuda_check(cudaEventCreateWithFlags(&w->done[i], cudaEventDisableTiming),
                                 "creating an event", err));
    return MICA_OK;
}

mica_status mica_cuda_op_watch(mica_backend *base, const mica_tensor *x, int mark, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_cuda_view view = mica_cuda_view_of(x);
    const int slot = mark % SLOTS;
    MICA_TRY(mica_cuda_refuse_capture(be, "a look for NaN", err));
    if (!be->watch)
        MICA_TRY(watch_open(be, err));
    mica_cuda_watch *w = be->watch;
    if (mark == 0)
        MICA_TRY(mica_cuda_check(cudaMemsetAsync(w->first, NONE & 0xff, sizeof(int), be->stream),
                                 "clearing a flag", err));
    MICA_TRY(mica_cuda_check(mica_cuda_watch_rows(&view, w->first, mark, be->stream),
                             "looking for NaN", err));
    MICA_TRY(mica_cuda_check(cudaMemcpyAsync((void *)(uintptr_t)&w->seen[slot], w->first,
                                             sizeof(int), cudaMemcpyDeviceToHost, be->stream),
                             "looking for NaN", err));
    w->last = mark;
    return mica_cuda_check(cudaEventRecord(w->done[slot], be->stream), "looking for NaN", err);
}

mica_status mica_cuda_op_watched(mica_backend *base, int mark, bool wait, int *first, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    mica_cuda_watch *w = be->watch;
    *first = -1;
    if (!w || w->last < 0)
        return MICA_OK;
    if (wait && mark <= w->last) {
        *(mark < w->last ? &be->base.counters.follows : &be->base.counters.waits) += 1;
        MICA_TRY(mica_cuda_check(cudaEventSynchronize(w->done[mark % SLOTS]), "waiting for a step",
                                 err));
    }
    for (int m = MICA_MAX(0, w->last - SLOTS + 1); m <= w->last; m++) {
        const cudaError_t error = cudaEventQuery(w->done[m % SLOTS]);
        if (error != cudaErrorNotReady)
            MICA_TRY(mica_cuda_check(error, "looking for NaN", err));
        else
            (void)cudaGetLastError();
        if (error == cudaSuccess && w->seen[m % SLOTS] != NONE)
            *first = w->seen[m % SLOTS];
    }
    return MICA_OK;
}
