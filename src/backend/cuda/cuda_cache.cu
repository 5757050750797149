/* cuda_cache.cu - rows of a key and value cache in 8 bits, and back (cuda_cache.c).
 *
 *     [row, head, width]   a warp per group of 32 to 128 numbers:
 *         pack     lo, hi of the group ─► scale = (hi - lo) / 255, bias = lo;   q = round((x - lo) / scale)
 *         expand   x = bias + scale q
 *
 * Napkin: 4,096 tokens of one layer of 8x7B are 4.2 million keys and as many values: 8 MB read, 17 MB of bf16
 * written and read again by attention, about 15 us at 3 TB/s. */
#include "backend/cuda/cuda_device.cuh"

#define WARPS (BLOCK / 32)

/* Elements before group `at` in x and in q. */
static __device__ __forceinline__ void place(const mica_cuda_cache_args &a, int64_t at, int64_t &x,
                                             int64_t &q)
{
    const int64_t groups = a.width / a.group, g = at % groups, head = at / groups % a.heads;
    const int64_t row = at / groups / a.heads;
    x = row * a.x_stride[0] + head * a.x_stride[1] + g * a.group;
    q = row * a.q_stride[0] + head * a.q_stride[1] + g * a.group;
}

static __global__ void pack_kernel(const mica_cuda_cache_args a)
{
    const int64_t at = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    int64_t x, q;
    if (at >= a.rows * a.heads * (a.width / a.group))
        return;
    place(a, at, x, q);
    float lo = INFINITY, hi = -INFINITY, v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (i * 32 >= a.group)
            continue;
        v[i] = load1(a.x, a.type, x + i * 32 + lane);
        lo = fminf(lo, v[i]);
        hi = fmaxf(hi, v[i]);
    }
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) {
        lo = fminf(lo, __shfl_xor_sync(0xffffffffu, lo, step));
        hi = fmaxf(hi, __shfl_xor_sync(0xffffffffu, hi, step));
    }
    const float scale = (hi - lo) / 255.0f, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i * 32 < a.group)
            a.q[q + i * 32 + lane] = (uint8_t)((v[i] - lo) * inverse + 0.5f);
    if (lane == 0) {
        a.scale[q / a.group] = scale;
        a.bias[q / a.group] = lo;
    }
}

static __global__ void expand_kernel(const mica_cuda_cache_args a)
{
    const int64_t at = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    int64_t x, q;
    if (at >= a.rows * a.heads * (a.width / a.group))
        return;
    place(a, at, x, q);
    const float scale = a.scale[q / a.group], bias = a.bias[q / a.group];
    for (int i = lane; i < a.group; i += 32)
        store1(a.x, a.type, x + i, fmaf(scale, (float)a.q[q + i], bias));
}

extern "C" cudaError_t mica_cuda_cache_rows(const mica_cuda_cache_args *args, cudaStream_t stream)
{
    const int64_t groups = args->rows * args->heads * (args->width / args->group);
    const unsigned blocks = (unsigned)((groups + WARPS - 1) / WARPS);
    if (args->pack)
        pack_kernel<<<blocks, BLOCK, 0, stream>>>(*args);
    else
        expand_kernel<<<blocks, BLOCK, 0, stream>>>(*args);
    return cudaGetLastError();
}
