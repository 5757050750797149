/* cuda_adapter.cu - LoRA and its kin added to a weight's form, see mica_adapter in backend.h.
 *
 *     w[first + i][c] += scale * mix[ra][cb] * delta0[rp][cq] * delta1[rp][cq]
 *
 *     skip + i = ra p + rp,   c = cb q + cq          delta [p][ld]; mix NULL: one block of 1
 *
 * Napkin: 12,288 x 3,072 of bf16 and one delta in f32: 300 MB, 0.1 ms; once per weight. */
#include "backend/cuda/cuda_device.cuh"

static __global__ void adapt_kernel(const mica_cuda_adapt_args a, int64_t items)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const parts at = divide(i, a.cols), row = divide(a.skip + at.quotient, a.p),
                    col = divide(at.rest, a.q);
        const int64_t from = row.rest * a.ld_delta + col.rest;
        const int64_t to = (a.first + at.quotient) * a.ld + at.rest;
        float v = a.scale * a.delta[0][from];
        if (a.delta[1])
            v *= a.delta[1][from];
        if (a.mix)
            v *= a.mix[row.quotient * a.ld_mix + col.quotient];
        store1(a.w, a.type, to, load1(a.w, a.type, to) + v);
    }
}

extern "C" cudaError_t mica_cuda_adapt(const mica_cuda_adapt_args *args, cudaStream_t stream)
{
    const int64_t items = args->count * args->cols;
    adapt_kernel<<<grid_for(items), BLOCK, 0, stream>>>(*args, items);
    return cudaGetLastError();
}
