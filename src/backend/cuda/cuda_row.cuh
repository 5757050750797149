/* cuda_row.cuh - norms of rows that lie in registers: what cuda_norm.cu and cuda_residual.cu share.
 *
 *     T threads a row (a warp, or the whole block of ROW_BLOCK), N pieces of 8 elements of bf16 each:
 *
 *         thread     0        1      ...   T - 1  |   0        1     ...
 *         raw[j]   0 .. 7   8 .. 15               | 8 T ..                  pieces beyond the row are zeros
 *
 *     measure_row   mean and factor        write_row   modulated, in bf16 or fp8        both from raw alone
 *
 * Every reduction over a row has a `part` of shared memory of its own, so that one barrier each is enough. */
#ifndef MICA_BACKEND_CUDA_ROW_CUH
#define MICA_BACKEND_CUDA_ROW_CUH

#include "backend/cuda/cuda_device.cuh"

#define ROW_BLOCK 128
#define ROW_WARPS (ROW_BLOCK / 32)

/* Over the T threads of a row, the same for each of them. */
template <int T, bool LARGEST>
static __device__ __forceinline__ float over_row(float v, float *part)
{
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) {
        const float other = __shfl_xor_sync(0xffffffffu, v, step);
        v = LARGEST ? fmaxf(v, other) : v + other;
    }
    if (T == 32)
        return v;
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    v = part[0];
#pragma unroll
    for (int w = 1; w < T / 32; w++)
        v = LARGEST ? fmaxf(v, part[w]) : v + part[w];
    return v;
}

/* The thread's first column. */
template <int T> static __device__ __forceinline__ int row_first()
{
    return (int)(threadIdx.x % T) * 8;
}

template <int N, int T>
static __device__ __forceinline__ void load_row(const mica_cuda_view &x, int64_t row,
                                                uint4 (&raw)[N])
{
    const int first = row_first<T>(), n = (int)x.n;
    const uint4 *from = (const uint4 *)((const __nv_bfloat16 *)x.data + row_offset(x, row));
#pragma unroll
    for (int j = 0; j < N; j++)
        raw[j] = first + j * T * 8 < n ? from[first / 8 + j * T] : make_uint4(0, 0, 0, 0);
}

/* Mean (0 without one) and factor of the row. */
template <int N, int T>
static __device__ __forceinline__ void measure_row(const mica_cuda_norm_args &a,
                                                   const uint4 (&raw)[N], float &mean,
                                                   float &factor, float *sums, float *squares)
{
    const int first = row_first<T>(), n = (int)a.x.n;
    const bool layer = a.kind == MICA_CUDA_NORM_LAYER;
    float sum = 0.0f;
    mean = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++) {
        float v[8];
        unpack(raw[j], v);
#pragma unroll
        for (int k = 0; k < 8; k++)
            sum += layer ? v[k] : v[k] * v[k];
    }
    sum = over_row<T, false>(sum, sums);
    if (layer) {
        float around = 0.0f;
        mean = sum / (float)n;
#pragma unroll
        for (int j = 0; j < N; j++) {
            float v[8];
            unpack(raw[j], v);
            if (first + j * T * 8 < n)
#pragma unroll
                for (int k = 0; k < 8; k++)
                    around += (v[k] - mean) * (v[k] - mean);
        }
        sum = over_row<T, false>(around, squares);
    }
    factor = a.kind == MICA_CUDA_NORM_L2 ? sqrtf((float)n) / fmaxf(sqrtf(sum), 1e-12f)
                                         : 1.0f / sqrtf(sum / (float)n + a.eps);
}

/* y = act((x - mean) * factor * w * (1 + scale) + shift); with FP8 also, or only, its rows in e4m3.
 * SILU is a parameter: with a choice of activations at each place the code leaves the instruction
 * cache (96 us instead of 22). */
template <int N, int T, bool SILU, bool FP8>
static __device__ __forceinline__ void write_row(const mica_cuda_norm_args &a, int64_t row,
                                                 uint4 (&raw)[N], float mean, float factor,
                                                 float *part)
{
    const int first = row_first<T>(), n = (int)a.x.n;
    const int64_t y_at = row_offset(a.y, row);
    float largest = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int i = first + j * T * 8;
        float v[8], w[8], scale[8], shift[8];
        if (i >= n)
            break;
        unpack(raw[j], v);
        load_vector<8>(a.w, i, 1.0f, w);
        load_vector<8>(a.scale, i, 0.0f, scale);
        load_vector<8>(a.shift, i, 0.0f, shift);
#pragma unroll
        for (int k = 0; k < 8; k++) {
            v[k] = (v[k] - mean) * factor * w[k] * (1.0f + scale[k]) + shift[k];
            v[k] = SILU ? silu(v[k]) : v[k];
            if (FP8)
                largest = fmaxf(largest, fabsf(v[k]));
        }
        if (!FP8 || !a.q_only)
            store<8>(a.y.data, a.y.type, y_at + i, v);
        if (FP8)
            store<8>(&raw[j], MICA_CUDA_BF16, 0, v);
    }
    if (!FP8)
        return;
    largest = fmaxf(over_row<T, true>(largest, part), 1e-30f);
    if (first == 0)
        a.q_scale[row] = largest / FP8_LARGEST;
#pragma unroll
    for (int j = 0; j < N; j++) {
        float v[8];
        unpack(raw[j], v);
        if (first + j * T * 8 < n)
            *(uint2 *)(a.q + row * a.q_ld + first + j * T * 8) = pack_fp8(v, FP8_LARGEST / largest);
    }
}

#endif
