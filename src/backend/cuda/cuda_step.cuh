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

static __device__ __forceinline__ uint32_t ask2(const void *p)
{
    uint16_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(v) : "l"(p));
    return v;
}

template <typename T> struct piece; /* 8 neighbours */
template <> struct piece<__nv_bfloat16> {
    uint4 a;
};
template <> struct piece<float> {
    uint4 a, b;
};

template <typename T> struct quad; /* 4 neighbours, or one */
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

static __device__ __forceinline__ void ask_one(quad<__nv_bfloat16> &p, const __nv_bfloat16 *from)
{
    p.a.x = ask2(from);
}

static __device__ __forceinline__ void ask_one(quad<float> &p, const float *from)
{
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(p.a.x) : "l"(from));
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

/* ------------------------------------------------------------------- a row -- */

/* Where element e of a row of 512 lies in shared memory: so that the numbers of a lane, which are those it reads of
 * a matrix row in pieces of 16 bytes, are four 16-byte reads without conflicts. */
template <typename T> static __device__ __forceinline__ int place_of(int e)
{
    return sizeof(T) == 4 ? e : (e & ~255) | (e & 4) << 5 | (e & 248) >> 1 | (e & 3);
}

static __device__ __forceinline__ void read_row(const float *row, float (&x)[16])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float4 v = ((const float4 *)row)[32 * i + threadIdx.x % 32];
        x[4 * i] = v.x, x[4 * i + 1] = v.y, x[4 * i + 2] = v.z, x[4 * i + 3] = v.w;
    }
}

/* 8 neighbours of a matrix row in shared memory: pieces lane and 32 + lane of 16 bytes, f32 four of them. */
static __device__ __forceinline__ void read_eight(const __nv_bfloat16 *row, int i, float (&v)[8])
{
    unpack(((const uint4 *)row)[32 * i + threadIdx.x % 32], v);
}

static __device__ __forceinline__ void read_eight(const float *row, int i, float (&v)[8])
{
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const float4 w = ((const float4 *)row)[64 * i + 32 * k + threadIdx.x % 32];
        v[4 * k] = w.x, v[4 * k + 1] = w.y, v[4 * k + 2] = w.z, v[4 * k + 3] = w.w;
    }
}

/* x: what read_row reads of a row in the order of place_of<T>. */
template <typename T>
static __device__ __forceinline__ float dot(const T *row, const float (&x)[16])
{
    float sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float v[8];
        read_eight(row, i, v);
#pragma unroll
        for (int k = 0; k < 8; k++)
            sum[i] = fmaf(v[k], x[8 * i + k], sum[i]);
    }
    return sum[0] + sum[1];
}

/* -------------------------------------------------------------------- sums -- */

/* Sums over the warp: the lower half of the lanes gets a's, the upper one b's. */
static __device__ __forceinline__ float two_sums(float a, float b)
{
    const bool upper = threadIdx.x & 16;
    float v = (upper ? b : a) + __shfl_xor_sync(0xffffffffu, upper ? a : b, 16);
#pragma unroll
    for (int step = 8; step > 0; step /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

/* Sums of 8 numbers over the lanes 4 i + k of one k: lane 4 i + k gets number i. */
static __device__ __forceinline__ float eight_sums(float (&v)[8])
{
#pragma unroll
    for (int n = 4; n > 0; n /= 2) {
        const bool upper = threadIdx.x & (4 * n);
#pragma unroll
        for (int i = 0; i < n; i++) {
            const float give = upper ? v[i] : v[i + n];
            v[i] = (upper ? v[i + n] : v[i]) + __shfl_xor_sync(0xffffffffu, give, 4 * n);
        }
    }
    return v[0];
}

/* Over the four lanes 4 i .. 4 i + 3. */
static __device__ __forceinline__ float sum_of_4(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

/* ----------------------------------------------------------------- softmax -- */

#define NOTHING (-1e30f) /* below every score */

/* Scores are logarithms to the base 2. */
static __device__ __forceinline__ float power(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Running softmax of what one lane adds up: largest score, sum, 8 numbers. */
struct running {
    float most, sum, v[8];
};

static __device__ __forceinline__ void add_key(running &r, float score, const float (&value)[8])
{
    const float most = fmaxf(r.most, score);
    const float old = power(r.most - most), p = power(score - most);
    r.sum = fmaf(r.sum, old, p);
#pragma unroll
    for (int i = 0; i < 8; i++)
        r.v[i] = fmaf(p, value[i], r.v[i] * old);
    r.most = most;
}

/* A softmax over some keys; v: one number of the values. */
struct stretch {
    float most, sum, v;
};

/* The lanes' sums of a warp as one. Lane 4 i + k gets number 8 k + i. */
static __device__ __forceinline__ stretch join_lanes(running &r)
{
    float most = r.most;
#pragma unroll
    for (int step = 4; step < 32; step *= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    const float factor = power(r.most - most);
    float sum = r.sum * factor;
#pragma unroll
    for (int i = 0; i < 8; i++)
        r.v[i] *= factor;
#pragma unroll
    for (int step = 4; step < 32; step *= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return {most, sum, eight_sums(r.v)};
}

/* stats: largest and sum of each. */
static __device__ __forceinline__ stretch join_eight(const float (&stats)[16], const float (&v)[8])
{
    stretch s = {stats[0], 0.0f, 0.0f};
#pragma unroll
    for (int i = 1; i < 8; i++)
        s.most = fmaxf(s.most, stats[2 * i]);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float factor = power(stats[2 * i] - s.most);
        s.sum = fmaf(stats[2 * i + 1], factor, s.sum);
        s.v = fmaf(v[i], factor, s.v);
    }
    return s;
}

#endif
