/* cuda_stage.c - failures of CUDA, scratch, and the pinned ring through which the host's data goes.
 *
 *     host ──memcpy──► slot 0..3 (pinned, 16 MiB) ──queued copy──► device
 *                         └ event: the copy is done, the slot may be written again
 *
 * Pinned copies are queued and return at once; the host waits only when it comes round to a slot
 * whose copy still runs (counted as a wait). 4 slots keep PCIe (55 GB/s) busy while the next one is
 * filled. */
#include "backend/cuda/cuda_backend.h"

#include <stdio.h>

/* After these the context is gone: every later call fails at once with the same, so nothing waits
 * for a device that does not answer. */
static bool is_lost(cudaError_t error)
{
    switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorDevicesUnavailable:
    case cudaErrorNoDevice:
    case cudaErrorAssert:
        return true;
    default:
        return false;
    }
}

mica_status mica_cuda_check(cudaError_t error, const char *what, mica_err *err)
{
    if (error == cudaSuccess)
        return MICA_OK;
    (void)cudaGetLastError(); /* errors of launches stay otherwise */
    if (is_lost(error))
        return MICA_FAIL(
            err, MICA_E_INTERNAL,
            "cuda: the GPU was lost while %s (%s); this process cannot use it any more, "
            "start again or take --device cpu",
            what, cudaGetErrorString(error));
    return MICA_FAIL(err, error == cudaErrorMemoryAllocation ? MICA_E_NOMEM : MICA_E_INTERNAL,
                     "cuda: %s failed: %s", what, cudaGetErrorString(error));
}

mica_status mica_cuda_scratch_reserve(mica_cuda_backend *be, int branch, size_t size, mica_err *err)
{
    if (size <= be->scratch_size[branch])
        return MICA_OK;
    MICA_TRY(mica_cuda_refuse_capture(be, "more scratch", err));
    mica_cuda_free(be, be->scratch[branch]);
    be->scratch[branch] = NULL;
    be->scratch_size[branch] = 0;
    const size_t wanted = mica_cuda_align(size + size / 8);
    MICA_TRY(mica_cuda_alloc(be, wanted, "scratch", &be->scratch[branch], err));
    be->scratch_size[branch] = wanted;
    return MICA_OK;
}

mica_status mica_cuda_scratch(mica_cuda_backend *be, size_t size, void **out, mica_err *err)
{
    MICA_TRY(mica_cuda_scratch_reserve(be, be->branch, size, err));
    if (be->named != be->branch)
        be->side_scratch = MICA_MAX(be->side_scratch, size);
    *out = be->scratch[be->branch];
    return MICA_OK;
}

mica_status mica_cuda_stage_open(mica_cuda_backend *be, void **host, mica_err *err)
{
    mica_cuda_slot *s = &be->slots[be->slot];
    *host = NULL;
    MICA_TRY(mica_cuda_refuse_capture(be, "data of the host", err));
    /* Rare: something of a steady pass is missing. The twin of the slots is one for both streams. */
    if (be->forked) {
        be->base.counters.waits++;
        MICA_TRY(mica_cuda_check(cudaDeviceSynchronize(), "staging", err));
    }
    if (!s->host) {
        be->base.counters.allocations++;
        const cudaError_t error =
            cudaHostAlloc(&s->host, MICA_CUDA_STAGE_SIZE, cudaHostAllocDefault);
        if (error != cudaSuccess) {
            s->host = NULL;
            return mica_cuda_check(error, "allocating pinned memory", err);
        }
        MICA_TRY(mica_cuda_check(cudaEventCreateWithFlags(&s->settled, cudaEventDisableTiming),
                                 "creating an event", err));
    }
    if (s->busy) {
        if (cudaEventQuery(s->settled) == cudaErrorNotReady) {
            be->base.counters.waits++;
            MICA_TRY(mica_cuda_check(cudaEventSynchronize(s->settled), "staging", err));
        }
        s->busy = false;
    }
    *host = s->host;
    return MICA_OK;
}

mica_status mica_cuda_stage_close(mica_cuda_backend *be, mica_err *err)
{
    return mica_cuda_stage_close_on(be, be->stream, err);
}

mica_status mica_cuda_stage_close_on(mica_cuda_backend *be, cudaStream_t stream, mica_err *err)
{
    mica_cuda_slot *s = &be->slots[be->slot];
    MICA_TRY(mica_cuda_check(cudaEventRecord(s->settled, stream), "staging", err));
    s->busy = true;
    be->slot = (be->slot + 1) % MICA_CUDA_STAGE_SLOTS;
    return MICA_OK;
}

void mica_cuda_stage_deinit(mica_cuda_backend *be)
{
    for (int i = 0; i < MICA_CUDA_STAGE_SLOTS; i++) {
        mica_cuda_slot *s = &be->slots[i];
        if (s->settled)
            (void)cudaEventDestroy(s->settled);
        if (s->host)
            (void)cudaFreeHost(s->host);
        *s = (mica_cuda_slot){0};
    }
}

mica_status mica_cuda_wait(mica_cuda_backend *be, const char *what, mica_err *err)
{
    MICA_TRY(mica_cuda_refuse_capture(be, "a wait", err));
    be->base.counters.waits++;
    return mica_cuda_check(cudaStreamSynchronize(be->stream), what, err);
}
