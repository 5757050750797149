/* cuda_profile.c - moments of the stream for mica_backend_profile: one event each, kept for the next
 * profile. Recording one costs the host a microsecond and the device less. */
#include "backend/cuda/cuda_backend.h"

#include "base/mem.h"

mica_status mica_cuda_op_profile_mark(mica_backend *base, int index, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    if (!be->moments)
        be->moments = mica_mem_calloc(MICA_PROFILE_MARKS, sizeof *be->moments);
    if (!be->moments)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a profile");
    if (!be->moments[index])
        MICA_TRY(mica_cuda_check(cudaEventCreate(&be->moments[index]), "creating an event", err));
    return mica_cuda_check(cudaEventRecord(be->moments[index], be->stream), "profiling", err);
}

mica_status mica_cuda_op_profile_read(mica_backend *base, int count, double *seconds, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    MICA_TRY(mica_cuda_wait(be, "profiling", err));
    for (int i = 0; i < count; i++) {
        float ms;
        MICA_TRY(mica_cuda_check(cudaEventElapsedTime(&ms, be->moments[0], be->moments[i]),
                                 "profiling", err));
        seconds[i] = (double)ms * 1e-3;
    }
    return MICA_OK;
}

void mica_cuda_profile_deinit(mica_cuda_backend *be)
{
    for (int i = 0; be->moments && i < MICA_PROFILE_MARKS; i++)
        if (be->moments[i])
            (void)cudaEventDestroy(be->moments[i]);
    mica_mem_free(be->moments);
    be->moments = NULL;
}
