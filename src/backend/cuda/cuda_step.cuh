/* cuda_step.cuh - the numbers of cuda_step.cu: pieces of rows as a lane holds them, sums over lanes.
 *
 * What is asked for here is wanted a phase later: reads that stay where they are written. */
#ifndef MICA_BACKEND_CUDA_STEP_CUH
#define MICA_BACKEND_CUDA_STEP_CUH

#include "backend/cuda/cuda_device.cuh"

/* ------------------------------------------------------------------ pieces -- */

static __device__ __forceinline__ uint4 ask16(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

static __device__ __forceinline__ uint2 ask8(const void *p)
{
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
                 : "=r"(v.x), "=r"(v.y)
                 : "l"(p));
    return v;
}

template <typename T> struct piece; /* 8 neighbours */
template <> struct piece<__nv_bfloat16> {
    uint4 a;
};
template <> struct piece<float> {
    uint4 a, b;
};

template <typename T> struct quad; /* 4 neighbours */
template <> struct quad<__nv_bfloat16> {
    uint2 a;
};
template <> struct quad<float> {
    uint4 a;
};

static __device__ __forceinline__ void ask(piece<__nv_bfloat16> &p, const __nv_bfloat16 *from)
{
    p.a = ask16(from);
}

static __device__ __forceinline__ void ask(piece<float> &p, const float *from)
{
    p.a = ask16(from);
    p.b = ask16(from + 4);
}

static __device__ __forceinline__ void ask(quad<__nv_bfloat16> &p, const __nv_bfloat16 *from)
{
    p.a = ask8(from);
}

static __device__ __forceinline__ void ask(quad<float> &p, const float *from)
{
    p.a = ask16(from);
}

static __device__ __forceinline__ void numbers(const piece<__nv_bfloat16> &p, float (&v)[8])
{
    unpack(p.a, v);
}

static __device__ __forceinline__ void numbers(const piece<float> &p, float (&v)[8])
{
    const uint32_t w[8] = {p.a.x, p.a.y, p.a.z, p.a.w, p.b.x, p.b.y, p.b.z, p.b.w};
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = __uint_as_float(w[i]);
}

static __device__ __forceinline__ void numbers(const quad<__nv_bfloat16> &p, float (&v)[4])
{
    v[0] = __uint_as_float(p.a.x << 16), v[1] = __uint_as_float(p.a.x & 0xffff0000u);
    v[2] = __uint_as_float(p.a.y << 16), v[3] = __uint_as_float(p.a.y & 0xffff0000u);
}

static __device__ __forceinline__ void numbers(const quad<float> &p, float (&v)[4])
{
    v[0] = __uint_as_float(p.a.x), v[1] = __uint_as_float(p.a.y);
    v[2] = __uint_as_float(p.a.z), v[3] = __uint_as_float(p.a.w);
}

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

/* A matrix row, in shared or global memory. */
static __device__ __forceinline__ void read_own(const __nv_bfloat16 *row, float (&v)[OWN])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint4 raw = ((const uint4 *)row)[32 * i + threadIdx.x % 32];
        float eight[8];
        unpack(raw, eight);
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[8 * i + k] = eight[k];
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

/* A vector of f32 in natural order, for a matrix of T. */
template <typename T>
static __device__ __forceinline__ void read_vector(const float *x, float (&v)[OWN])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int lane = threadIdx.x % 32;
        const int at = sizeof(T) == 4 ? 32 * i + lane : 64 * (i / 2) + 2 * lane + i % 2;
        const float4 w = ((const float4 *)x)[at];
        v[4 * i] = w.x, v[4 * i + 1] = w.y, v[4 * i + 2] = w.z, v[4 * i + 3] = w.w;
    }
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

/* Sums over the warp: lanes 4 i .. 4 i + 3 get number i of 8, lanes 2 i and 2 i + 1 that of 16. */
static __device__ __forceinline__ float sums_of(float (&v)[8])
{
    return sum_of_4(sums_of_parts(v));
}

static __device__ __forceinline__ float sums_of(float (&v)[16])
{
    share<8>(v, 16);
    share<4>(v, 8);
    share<2>(v, 4);
    share<1>(v, 2);
    return v[0] + __shfl_xor_sync(0xffffffffu, v[0], 1);
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

/* Scores are logarithms to the base 2. */
static __device__ __forceinline__ float power(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
