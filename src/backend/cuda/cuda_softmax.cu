/* cuda_softmax.cu - softmax of rows of scores, for attention by two products (cuda_attention.c).
 *
 *     block of 256 threads per row:   pass 1  maximum and sum together (online)
 *                                     pass 2  exp(s - max) / sum, zeros where nothing is seen
 *
 * Napkin: 24 heads x 4,352 x 4,352 scores in f32 are 1.8 GB: 0.6 ms to read, which is why this
 * way serves f32 parity, wide heads and causal text encoders, and cuDNN's fused kernel the rest. */
#include "backend/cuda/cuda_device.cuh"

/* Joins the maxima and sums of the threads of a block. */
static __device__ void join(float &top, float &sum)
{
    __shared__ float tops[BLOCK / 32], sums[BLOCK / 32];
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) {
        const float other = __shfl_xor_sync(0xffffffffu, top, step);
        const float other_sum = __shfl_xor_sync(0xffffffffu, sum, step);
        const float most = fmaxf(top, other);
        /* both -inf: exp(NaN) must not reach the sum */
        sum = most == -INFINITY ? 0.0f : sum * expf(top - most) + other_sum * expf(other - most);
        top = most;
    }
    if (threadIdx.x % 32 == 0) {
        tops[threadIdx.x / 32] = top;
        sums[threadIdx.x / 32] = sum;
    }
    __syncthreads();
    top = -INFINITY;
    for (int w = 0; w < BLOCK / 32; w++)
        top = fmaxf(top, tops[w]);
    sum = 0.0f;
    for (int w = 0; w < BLOCK / 32; w++)
        sum += tops[w] == -INFINITY ? 0.0f : sums[w] * expf(tops[w] - top);
}

static __global__ void softmax_kernel(const mica_cuda_softmax_args a)
{
    const int64_t row = blockIdx.x, i = row % a.rows;
    int64_t visible = a.M, hidden = 0;
    if (a.causal) {
        visible = a.first + i + a.M - a.L + 1;
        visible = visible < 0 ? 0 : visible > a.M ? a.M : visible;
        hidden = a.window && visible > a.window ? visible - a.window : 0;
    }
    const float *s = a.s + row * a.ld;
    float top = -INFINITY, sum = 0.0f;
    bool nan = false;
    for (int64_t c = hidden + threadIdx.x; c < visible; c += BLOCK) {
        const float v = a.scale * s[c];
        nan = nan || isnan(v);
        if (v > top) {
            sum *= expf(top - v);
            top = v;
        }
        if (v != -INFINITY)
            sum += expf(v - top);
    }
    const bool any_nan = __syncthreads_or(nan); /* fmaxf would lose it; the caller must see it */
    join(top, sum);
    const float factor = any_nan ? NAN : sum > 0.0f ? 1.0f / sum : 0.0f;
    for (int64_t c = threadIdx.x; c < a.M; c += BLOCK) {
        float p = 0.0f;
        if (c >= hidden && c < visible)
            p = top == -INFINITY ? 0.0f * factor : expf(a.scale * s[c] - top) * factor;
        store1(a.p, a.type, row * a.ld + c, p);
    }
}

extern "C" cudaError_t mica_cuda_softmax(const mica_cuda_softmax_args *args, cudaStream_t stream)
{
    softmax_kernel<<<(unsigned)(args->batch * args->rows), BLOCK, 0, stream>>>(*args);
    return cudaGetLastError();
}
