/* cuda_step.cuh - the numbers of cuda_step.cu: rows as the lanes of a warp hold them, sums over lanes. */
#ifndef MICA_BACKEND_CUDA_STEP_CUH
#define MICA_BACKEND_CUDA_STEP_CUH

#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_words.cuh"

/* --------------------------------------------------------------- numbers -- */

static __device__ __forceinline__ float rounded(float x, const __nv_bfloat16 *)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}

static __device__ __forceinline__ float rounded(float x, const float *)
{
    return x;
}

static __device__ __forceinline__ void put(__nv_bfloat16 *to, float x)
{
    *to = __float2bfloat16_rn(x);
}

static __device__ __forceinline__ void put(float *to, float x)
{
    *to = x;
}

/* Elements 2 i and 2 i + 1. */
static __device__ __forceinline__ float2 get_two(const float *x, int i)
{
    return ((const float2 *)x)[i];
}

static __device__ __forceinline__ float2 get_two(const __nv_bfloat16 *x, int i)
{
    return __bfloat1622float2(((const __nv_bfloat162 *)x)[i]);
}

static __device__ __forceinline__ void put_two(float *x, int i, float2 v)
{
    ((float2 *)x)[i] = v;
}

static __device__ __forceinline__ void put_two(__nv_bfloat16 *x, int i, float2 v)
{
    ((__nv_bfloat162 *)x)[i] = __float22bfloat162_rn(v);
}

/* ------------------------------------------------------------------- a row -- */

/* Of a row of 512 a lane has 16 numbers, those of its pieces of 16 bytes: in bf16 8 lane .. and 256 + 8 lane ..,
 * in f32 128 i + 4 lane .. */
#define OWN 16

/* Of a matrix: its pieces of 16 bytes, `far` apart. */
static __device__ __forceinline__ void read_own(const uint4 *pieces, int far, const __nv_bfloat16 *,
                                                float (&v)[OWN])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float eight[8];
        unpack(pieces[far * i], eight);
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[8 * i + k] = eight[k];
    }
}

static __device__ __forceinline__ void read_own(const uint4 *pieces, int far, const float *,
                                                float (&v)[OWN])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint4 w = pieces[far * i];
        v[4 * i] = __uint_as_float(w.x), v[4 * i + 1] = __uint_as_float(w.y);
        v[4 * i + 2] = __uint_as_float(w.z), v[4 * i + 3] = __uint_as_float(w.w);
    }
}

/* A row of f32 in the order in which it is read here: place_of. */
static __device__ __forceinline__ void read_own(const float *row, float (&v)[OWN])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float4 w = ((const float4 *)row)[32 * i + threadIdx.x % 32];
        v[4 * i] = w.x, v[4 * i + 1] = w.y, v[4 * i + 2] = w.z, v[4 * i + 3] = w.w;
    }
}

/* Where element e lies in a row of f32 for a matrix of T. */
template <typename T> static __device__ __forceinline__ int place_of(int e)
{
    return sizeof(T) == 4 ? e : (e & ~255) | (e & 4) << 5 | (e & 248) >> 1 | (e & 3);
}

/* Made here and not where it is used. */
template <int N> static __device__ __forceinline__ void settle(float (&v)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(v[i]));
}

static __device__ __forceinline__ float dot(const float (&w)[8], const float (&x)[8])
{
    float sum = w[0] * x[0];
#pragma unroll
    for (int i = 1; i < 8; i++)
        sum = fmaf(w[i], x[i], sum);
    return sum;
}

/* -------------------------------------------------------------------- sums -- */

/* Over the four lanes 4 i .. 4 i + 3. */
static __device__ __forceinline__ float sum_of_4(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

/* Of 2 n numbers of two lanes that are `far` apart each keeps n, the upper one the upper ones. */
template <int n, int N> static __device__ __forceinline__ void share(float (&v)[N], int far)
{
    const bool upper = threadIdx.x & far;
#pragma unroll
    for (int i = 0; i < n; i++) {
        const float give = upper ? v[i] : v[i + n];
        v[i] = (upper ? v[i + n] : v[i]) + __shfl_xor_sync(0xffffffffu, give, far);
    }
}

/* Sums of 8 numbers over the lanes 4 i + k of one k: lane 4 i + k gets number i. */
static __device__ __forceinline__ float sums_of_parts(float (&v)[8])
{
    share<4>(v, 16);
    share<2>(v, 8);
    share<1>(v, 4);
    return v[0];
}

/* Sums over the warp by way of shared memory, which is less work than shuffles: put[n * 32 + lane] is a lane's
 * share of number n. Lanes 4 i .. 4 i + 3 get number i of 8, lanes 2 i and 2 i + 1 that of 16. */
template <int N> static __device__ __forceinline__ float sums_of(const float *put)
{
    const int lane = threadIdx.x % 32, each = 32 / N, of = lane / each, part = lane % each;
    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
    __syncwarp();
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        const int turn = (i + of) % (N / 4); /* so that no two lanes meet in a bank */
        const float4 v = ((const float4 *)(put + of * 32))[part * (N / 4) + turn];
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    float all = (sum.x + sum.y) + (sum.z + sum.w);
#pragma unroll
    for (int step = 16 / N; step > 0; step /= 2)
        all += __shfl_xor_sync(0xffffffffu, all, step);
    return all;
}

/* Over the lanes 4 i + k of one k. */
static __device__ __forceinline__ float sum_of_parts(float v)
{
#pragma unroll
    for (int step = 16; step > 2; step /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

/* ----------------------------------------------------------------- softmax -- */

#define NOTHING (-1e30f) /* below every score */
#define FAR     100.0f   /* above the reference a score may be: 2^100 times a sum is a float */

static __device__ __forceinline__ float reciprocal_root(float x)
{
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Scores are logarithms to the base 2. */
static __device__ __forceinline__ float power(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
