/* cuda_largest.cu - the largest number of each row, by its place: a token that is chosen without chance.
 *
 *     block: a row ─► the largest key of each thread, of a warp, of all      key: [number in order][rows' end - place]
 *
 * Napkin: 32,000 logits are 128 KB, which one multiprocessor has from L2 in 3 us; to the host they take 20. */
#include "backend/cuda/cuda_device.cuh"

#define THREADS 1024

/* Rises with the number; of equal numbers the first is the largest. -0 is 0. */
static __device__ __forceinline__ unsigned long long key_of(float x, int64_t at)
{
    const uint32_t bits = __float_as_uint(x + 0.0f);
    const uint32_t order = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (unsigned long long)order << 32 | (0xffffffffu - (uint32_t)at);
}

static __device__ __forceinline__ unsigned long long warp_largest(unsigned long long key)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const unsigned long long other = __shfl_xor_sync(0xffffffffu, key, step);
        key = other > key ? other : key;
    }
    return key;
}

static __global__ void __launch_bounds__(THREADS)
    largest_kernel(const float *x, int64_t n, int64_t ld, int32_t *out)
{
    __shared__ unsigned long long part[THREADS / 32];
    const float *row = x + blockIdx.x * ld;
    unsigned long long key = 0;
    bool bad = false;
#pragma unroll 8
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        const float v = row[i];
        const unsigned long long own = key_of(v, i);
        bad |= !isfinite(v);
        key = own > key ? own : key;
    }
    key = warp_largest(key);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = key;
    bad = __syncthreads_or(bad);
    if (threadIdx.x >= 32)
        return;
    key = warp_largest(part[threadIdx.x]);
    if (threadIdx.x == 0)
        out[blockIdx.x] = bad ? -1 : (int32_t)(0xffffffffu - (uint32_t)key);
}

extern "C" cudaError_t mica_cuda_largest(const float *x, int64_t rows, int64_t n, int64_t ld,
                                         int32_t *out, cudaStream_t stream)
{
    largest_kernel<<<(unsigned)rows, THREADS, 0, stream>>>(x, n, ld, out);
    return cudaGetLastError();
}
