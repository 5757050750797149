/* cuda_watch.cu - the first mark at which numbers were not finite; see cuda_watch.c. 4,096 x 64 latents in
 * f32 are 1 MB: 2 us. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_watch.h"

static __global__ void watch_kernel(const mica_cuda_view x, int *first, int mark, int64_t items)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    bool bad = false;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const parts at = divide(i, x.n);
        bad = bad || !isfinite(load1(x.data, x.type, row_offset(x, at.quotient) + at.rest));
    }
    if (bad)
        atomicMin(first, mark);
}

extern "C" cudaError_t mica_cuda_watch_rows(const mica_cuda_view *x, int *first, int mark,
                                            cudaStream_t stream)
{
    const int64_t items = x->rows * x->n;
    watch_kernel<<<grid_for(items), BLOCK, 0, stream>>>(*x, first, mark, items);
    return cudaGetLastError();
}
