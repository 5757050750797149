/* cuda_residual.cu - a gated sum into the residual stream and the norm of the result, in one kernel.
 *
 *     128 threads per row, N pieces of 8 elements each in registers:
 *         sum      y = residual + gate * (from + bias), or of from's own RMS norm;  rounded, written
 *         norm     mean and variance of the rounded row, (1 + scale) and shift, written in bf16 or fp8
 *
 * Napkin: 4,096 x 3,072 in bf16 is 25 MB. Apart they read sums and residual and write y, then read y and
 * write the result: 125 MB and two launches, 55 us on an H100. Together 100 MB, 38 us; twice in each of
 * Qwen-Image's 60 blocks. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_residual.h"

#define ROW_BLOCK 128

/* Over the threads of the block, the same for each of them. part: of this reduction alone. */
template <bool LARGEST> static __device__ __forceinline__ float over_row(float v, float *part)
{
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) {
        const float other = __shfl_xor_sync(0xffffffffu, v, step);
        v = LARGEST ? fmaxf(v, other) : v + other;
    }
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    v = part[0];
#pragma unroll
    for (int w = 1; w < ROW_BLOCK / 32; w++)
        v = LARGEST ? fmaxf(v, part[w]) : v + part[w];
    return v;
}

/* The new residual row in `raw` and in memory. */
template <int N, bool NORMED>
static __device__ __forceinline__ void add(const mica_cuda_residual_args &a, int64_t row,
                                           uint4 (&raw)[N], float *part)
{
    const int first = (int)threadIdx.x * 8, n = (int)a.y.n;
    const int64_t from_at = row_offset(a.from, row), to_at = row_offset(a.y, row);
    const int64_t old_at = row_offset(a.residual, row);
    float factor = 1.0f, squares = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int i = first + j * ROW_BLOCK * 8;
        float v[8];
        raw[j] = i < n ? *(const uint4 *)((const __nv_bfloat16 *)a.from.data + from_at + i)
                       : make_uint4(0, 0, 0, 0);
        unpack(raw[j], v);
#pragma unroll
        for (int k = 0; NORMED && k < 8; k++)
            squares += v[k] * v[k];
    }
    if (NORMED)
        factor = 1.0f / sqrtf(over_row<false>(squares, part) / (float)n + a.eps);
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int i = first + j * ROW_BLOCK * 8;
        float v[8], old[8], gate[8], other[8];
        if (i >= n)
            break;
        unpack(raw[j], v);
        load<8>(a.residual.data, MICA_CUDA_BF16, old_at + i, old);
        load_vector<8>(a.gate, i, 1.0f, gate);
        load_vector<8>(NORMED ? a.w : a.bias, i, NORMED ? 1.0f : 0.0f, other);
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = old[k] + (NORMED ? v[k] * factor * other[k] : v[k] + other[k]) * gate[k];
        store<8>(&raw[j], MICA_CUDA_BF16, 0, v);
        *(uint4 *)((__nv_bfloat16 *)a.y.data + to_at + i) = raw[j];
    }
}

/* Mean (0 for RMS) and factor of the row. */
template <int N>
static __device__ __forceinline__ void measure(const mica_cuda_norm_args &a, const uint4 (&raw)[N],
                                               float &mean, float &factor, float *sums,
                                               float *squares)
{
    const int first = (int)threadIdx.x * 8, n = (int)a.x.n;
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
    sum = over_row<false>(sum, sums);
    if (layer) {
        float around = 0.0f;
        mean = sum / (float)n;
#pragma unroll
        for (int j = 0; j < N; j++) {
            float v[8];
            unpack(raw[j], v);
            if (first + j * ROW_BLOCK * 8 < n)
#pragma unroll
                for (int k = 0; k < 8; k++)
                    around += (v[k] - mean) * (v[k] - mean);
        }
        sum = over_row<false>(around, squares);
    }
    factor = 1.0f / sqrtf(sum / (float)n + a.eps);
}

template <int N, bool NORMED, bool FP8>
static __global__ void residual_norm_kernel(const mica_cuda_residual_args r,
                                            const mica_cuda_norm_args a)
{
    __shared__ float part[4][ROW_BLOCK / 32];
    const int64_t row = blockIdx.x, y_at = row_offset(a.y, row);
    const int first = (int)threadIdx.x * 8, n = (int)a.x.n;
    uint4 raw[N];
    float mean, factor, largest = 0.0f;
    add<N, NORMED>(r, row, raw, part[0]);
    measure<N>(a, raw, mean, factor, part[1], part[2]);
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int i = first + j * ROW_BLOCK * 8;
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
            largest = fmaxf(largest, fabsf(v[k]));
        }
        if (!FP8 || !a.q_only)
            store<8>(a.y.data, MICA_CUDA_BF16, y_at + i, v);
        if (FP8)
            store<8>(&raw[j], MICA_CUDA_BF16, 0, v);
    }
    if (!FP8)
        return;
    largest = fmaxf(over_row<true>(largest, part[3]), 1e-30f);
    if (first == 0)
        a.q_scale[row] = largest / FP8_LARGEST;
#pragma unroll
    for (int j = 0; j < N; j++) {
        float v[8];
        unpack(raw[j], v);
        if (first + j * ROW_BLOCK * 8 < n)
            *(uint2 *)(a.q + row * a.q_ld + first + j * ROW_BLOCK * 8) =
                pack_fp8(v, FP8_LARGEST / largest);
    }
}

template <bool NORMED, bool FP8>
static void launch(const mica_cuda_residual_args *r, const mica_cuda_norm_args *a,
                   cudaStream_t stream)
{
    const unsigned rows = (unsigned)a->x.rows;
    if (a->x.n <= 1024)
        residual_norm_kernel<1, NORMED, FP8><<<rows, ROW_BLOCK, 0, stream>>>(*r, *a);
    else if (a->x.n <= 2048)
        residual_norm_kernel<2, NORMED, FP8><<<rows, ROW_BLOCK, 0, stream>>>(*r, *a);
    else if (a->x.n <= 3072)
        residual_norm_kernel<3, NORMED, FP8><<<rows, ROW_BLOCK, 0, stream>>>(*r, *a);
    else
        residual_norm_kernel<4, NORMED, FP8><<<rows, ROW_BLOCK, 0, stream>>>(*r, *a);
}

static bool is_row_of(const mica_cuda_view *a, const mica_cuda_view *b)
{
    return a->wide && a->dims == 1 && a->type == MICA_CUDA_BF16 && a->rows == b->rows &&
           a->n == b->n;
}

extern "C" bool mica_cuda_residual_fits(const mica_cuda_residual_args *args,
                                        const mica_cuda_norm_args *norm)
{
    const mica_cuda_view *y = &args->y, *x = &norm->x;
    return norm->kind <= MICA_CUDA_NORM_RMS && norm->act == MICA_CUDA_ACT_NONE &&
           x->data == y->data && is_row_of(x, y) && is_row_of(&norm->y, y) &&
           (x->rows == 1 || x->stride[0] == y->stride[0]);
}

extern "C" cudaError_t mica_cuda_residual_and_norm(const mica_cuda_residual_args *args,
                                                   const mica_cuda_norm_args *norm,
                                                   cudaStream_t stream)
{
    if (args->normed && norm->q)
        launch<true, true>(args, norm, stream);
    else if (args->normed)
        launch<true, false>(args, norm, stream);
    else if (norm->q)
        launch<false, true>(args, norm, stream);
    else
        launch<false, false>(args, norm, stream);
    return cudaGetLastError();
}
