/* cuda_bandwidth.c - what the device's memory delivers: the yardstick of products with few rows.
 *
 * A copy of 1 GiB within the device, best of 10: as many bytes are read as written, and both count. */
#include "backend/cuda/cuda_backend.h"

#define BYTES  ((size_t)1 << 30)
#define ROUNDS 10

static mica_status time_copy(mica_cuda_backend *be, uint8_t *memory, cudaEvent_t start,
                             cudaEvent_t end, float *ms, mica_err *err)
{
    MICA_TRY(mica_cuda_check(cudaEventRecord(start, be->stream), "timing", err));
    MICA_TRY(mica_cuda_check(
        cudaMemcpyAsync(memory + BYTES, memory, BYTES, cudaMemcpyDeviceToDevice, be->stream),
        "copying", err));
    MICA_TRY(mica_cuda_check(cudaEventRecord(end, be->stream), "timing", err));
    MICA_TRY(mica_cuda_wait(be, "measuring the bandwidth of memory", err));
    return mica_cuda_check(cudaEventElapsedTime(ms, start, end), "timing", err);
}

mica_status mica_cuda_op_measure_bandwidth(mica_backend *base, double *bytes, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    void *memory = NULL;
    cudaEvent_t start = NULL, end = NULL;
    double best = 0.0;
    MICA_TRY(mica_cuda_alloc(be, 2 * BYTES, "measuring the bandwidth of memory", &memory, err));
    mica_status st = mica_cuda_check(cudaEventCreate(&start), "creating an event", err);
    if (!st)
        st = mica_cuda_check(cudaEventCreate(&end), "creating an event", err);
    for (int i = 0; !st && i < ROUNDS; i++) {
        float ms = 0.0f;
        st = time_copy(be, memory, start, end, &ms, err);
        if (!st && ms > 0.0f)
            best = MICA_MAX(best, 2.0 * (double)BYTES / ((double)ms * 1e-3));
    }
    if (start)
        (void)cudaEventDestroy(start);
    if (end)
        (void)cudaEventDestroy(end);
    mica_cuda_free(be, memory);
    *bytes = best;
    return st;
}
