/* cuda_device.cuh - what the kernels of this folder share: loads and stores of 1 or 8 elements of
 * a tagged type, row offsets of a view, sums and maxima over a warp or a block, activations, products of the
 * matrix units, launch shapes.
 *
 *     load<8>   bf16: one 16-byte access       f32: two of them
 *
 * A tag is uniform over a launch, so a branch on it costs an instruction, not divergence. */
#ifndef MICA_BACKEND_CUDA_DEVICE_CUH
#define MICA_BACKEND_CUDA_DEVICE_CUH

#include "backend/cuda/cuda_kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <math.h>

#define BLOCK 256

/* ------------------------------------------------------ loads and stores -- */

template <int V>
static __device__ __forceinline__ void load(const void *p, mica_cuda_type type, int64_t i,
                                            float (&v)[V])
{
    if (type == MICA_CUDA_F32) {
        const float *f = (const float *)p + i;
        if (V == 8) {
            const float4 a = *(const float4 *)f, b = *(const float4 *)(f + 4);
            v[0] = a.x, v[1 % V] = a.y, v[2 % V] = a.z, v[3 % V] = a.w;
            v[4 % V] = b.x, v[5 % V] = b.y, v[6 % V] = b.z, v[7 % V] = b.w;
        } else {
            v[0] = *f;
        }
        return;
    }
    const __nv_bfloat16 *h = (const __nv_bfloat16 *)p + i;
    if (V == 8) {
        const uint4 raw = *(const uint4 *)h;
        const uint32_t w[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            v[(2 * k) % V] = __uint_as_float(w[k] << 16);
            v[(2 * k + 1) % V] = __uint_as_float(w[k] & 0xffff0000u);
        }
    } else {
        v[0] = __bfloat162float(*h);
    }
}

template <int V>
static __device__ __forceinline__ void store(void *p, mica_cuda_type type, int64_t i,
                                             const float (&v)[V])
{
    if (type == MICA_CUDA_F32) {
        float *f = (float *)p + i;
        if (V == 8) {
            *(float4 *)f = make_float4(v[0], v[1 % V], v[2 % V], v[3 % V]);
            *(float4 *)(f + 4) = make_float4(v[4 % V], v[5 % V], v[6 % V], v[7 % V]);
        } else {
            *f = v[0];
        }
        return;
    }
    __nv_bfloat16 *h = (__nv_bfloat16 *)p + i;
    if (V == 8) {
        uint32_t w[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const __nv_bfloat162 two = __floats2bfloat162_rn(v[(2 * k) % V], v[(2 * k + 1) % V]);
            w[k] = *(const uint32_t *)&two;
        }
        *(uint4 *)h = make_uint4(w[0], w[1], w[2], w[3]);
    } else {
        *h = __float2bfloat16_rn(v[0]);
    }
}

static __device__ __forceinline__ float load1(const void *p, mica_cuda_type type, int64_t i)
{
    float v[1];
    load<1>(p, type, i, v);
    return v[0];
}

static __device__ __forceinline__ void store1(void *p, mica_cuda_type type, int64_t i, float x)
{
    const float v[1] = {x};
    store<1>(p, type, i, v);
}

/* Vector of f32 parameters, i a multiple of V; NULL gives `other`. */
template <int V>
static __device__ __forceinline__ void load_vector(const float *p, int64_t i, float other,
                                                   float (&v)[V])
{
    if (V == 8 && p && (uintptr_t)p % 16 == 0) {
        load<V>(p, MICA_CUDA_F32, i, v);
        return;
    }
#pragma unroll
    for (int k = 0; k < V; k++)
        v[k] = p ? __ldg(p + i + k) : other;
}

/* -------------------------------------------------------- bf16 and fp8 x 8 -- */

static __device__ __forceinline__ void unpack(const uint4 &raw, float (&v)[8])
{
    const uint32_t w[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int k = 0; k < 4; k++) {
        v[2 * k] = __uint_as_float(w[k] << 16);
        v[2 * k + 1] = __uint_as_float(w[k] & 0xffff0000u);
    }
}

#define FP8_LARGEST 448.0f /* of e4m3 */

/* e4m3 of v * inverse. */
static __device__ __forceinline__ uint2 pack_fp8(const float (&v)[8], float inverse)
{
    uint32_t w[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float2 a = make_float2(v[4 * h] * inverse, v[4 * h + 1] * inverse);
        const float2 b = make_float2(v[4 * h + 2] * inverse, v[4 * h + 3] * inverse);
        w[h] = (uint32_t)__nv_cvt_float2_to_fp8x2(a, __NV_SATFINITE, __NV_E4M3) |
               (uint32_t)__nv_cvt_float2_to_fp8x2(b, __NV_SATFINITE, __NV_E4M3) << 16;
    }
    return make_uint2(w[0], w[1]);
}

/* Quotient and rest. A 64-bit division is some 70 instructions, a 32-bit one 20; nearly all fit. */
struct parts {
    int64_t quotient, rest;
};

static __device__ __forceinline__ parts divide(int64_t a, int64_t b)
{
    if (((uint64_t)a | (uint64_t)b) >> 32 == 0) {
        const uint32_t q = (uint32_t)a / (uint32_t)b;
        return {q, (int64_t)((uint32_t)a - q * (uint32_t)b)};
    }
    return {a / b, a % b};
}

static __device__ __forceinline__ int64_t row_offset(const mica_cuda_view &v, int64_t row)
{
    if (v.dims == 1)
        return row * v.stride[0];
    int64_t offset = 0;
    for (int d = v.dims - 1; d >= 0; d--) {
        const parts at = divide(row, v.shape[d]);
        offset += at.rest * v.stride[d];
        row = at.quotient;
    }
    return offset;
}

/* ----------------------------------------------------------- activations -- */

static __device__ __forceinline__ float silu(float x)
{
    return x / (1.0f + expf(-x));
}

static __device__ __forceinline__ float activate(float x, mica_cuda_act act)
{
    switch (act) {
    case MICA_CUDA_ACT_SILU:
        return silu(x);
    case MICA_CUDA_ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case MICA_CUDA_ACT_GELU_ERF:
        return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    default:
        return x;
    }
}

/* ------------------------------------------------------------------ sums -- */

template <typename T> static __device__ __forceinline__ T warp_sum(T v)
{
#pragma unroll
    for (int step = 16; step > 0; step >>= 1)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

/* Sum over the G threads that share a row: a warp, or the whole block of BLOCK threads, every one
 * of which must come here. The order is fixed, so results repeat bit by bit. */
template <int G, typename T> static __device__ __forceinline__ T group_sum(T v)
{
    v = warp_sum(v);
    if (G == 32)
        return v;
    __shared__ T part[BLOCK / 32];
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    T total = 0;
#pragma unroll
    for (int w = 0; w < BLOCK / 32; w++)
        total += part[w];
    return total;
}

/* Largest over the block of at most BLOCK threads, the same for every one of them; once in a kernel. */
static __device__ __forceinline__ float block_max(float v)
{
    __shared__ float part[BLOCK / 32];
#pragma unroll
    for (int step = 16; step > 0; step >>= 1)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    v = part[0];
    for (unsigned w = 1; w < blockDim.x / 32; w++)
        v = fmaxf(v, part[w]);
    return v;
}

/* ---------------------------------------------------------- matrix units -- */

/* d[16 x 8] += a[16 x 16] b[16 x 8] of bf16 by a warp, sums in f32: PTX's mma.m16n8k16 says who has what. */
static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* --------------------------------------------------------------- launches -- */

/* Blocks for `items` threads of a grid-stride loop: enough to fill the device several times. */
static inline unsigned grid_for(int64_t items)
{
    const int64_t blocks = (items + BLOCK - 1) / BLOCK, most = 132 * 16;
    return (unsigned)(blocks < 1 ? 1 : blocks > most ? most : blocks);
}

#endif
