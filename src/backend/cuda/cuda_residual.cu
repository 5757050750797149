/* cuda_residual.cu - a gated sum into the residual stream and the norm of the result, in one kernel.
 *
 *     128 threads per row, N pieces of 8 elements each in registers:
 *         sum      y = residual + gate * (from + bias), or of from's own RMS norm;  rounded, written
 *         norm     mean and variance of the rounded row, (1 + scale) and shift, written in bf16 or fp8
 *
 * Napkin: 4,096 x 3,072 in bf16 is 25 MB. Apart they read sums and residual and write y, then read y and
 * write the result: 125 MB and two launches, 55 us on an H100. Together 100 MB, 40 us; twice in each of
 * Qwen-Image's 60 blocks. With an RMS norm of the sums, 4,224 x 3,840: 130 MB, 50 us. */
#include "backend/cuda/cuda_row.cuh"
#include "backend/cuda/cuda_residual.h"

/* The new residual row in `raw` and in memory. EARLY: the old one is asked for together with `from`, not behind its
 * norm; with FP8 there are no registers for that. */
template <int N, bool NORMED, bool EARLY>
static __device__ __forceinline__ void add(const mica_cuda_residual_args &a, int64_t row,
                                           uint4 (&raw)[N], float *part)
{
    const int first = row_first<ROW_BLOCK>(), n = (int)a.y.n;
    const int64_t to_at = row_offset(a.y, row), old_at = row_offset(a.residual, row);
    float factor = 1.0f, squares = 0.0f;
    uint4 before[N];
    load_row<N, ROW_BLOCK>(a.from, row, raw);
    if (EARLY)
        load_row<N, ROW_BLOCK>(a.residual, row, before);
#pragma unroll
    for (int j = 0; j < N; j++) {
        float v[8];
        unpack(raw[j], v);
#pragma unroll
        for (int k = 0; NORMED && k < 8; k++)
            squares += v[k] * v[k];
    }
    if (NORMED)
        factor = 1.0f / sqrtf(over_row<ROW_BLOCK, false>(squares, part) / (float)n + a.eps);
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int i = first + j * ROW_BLOCK * 8;
        float v[8], old[8], gate[8], other[8];
        if (i >= n)
            break;
        unpack(raw[j], v);
        if (EARLY)
            unpack(before[j], old);
        else
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

/* Six blocks a multiprocessor: 80 registers a thread. */
template <int N, bool NORMED, bool FP8>
static __global__ void __launch_bounds__(ROW_BLOCK, FP8 ? 1 : 6)
    residual_norm_kernel(const mica_cuda_residual_args r, const mica_cuda_norm_args a)
{
    __shared__ float part[4][ROW_WARPS];
    const int64_t row = blockIdx.x;
    uint4 raw[N];
    float mean, factor;
    add<N, NORMED, !FP8>(r, row, raw, part[0]);
    measure_row<N, ROW_BLOCK>(a, raw, mean, factor, part[1], part[2]);
    write_row<N, ROW_BLOCK, false, FP8>(a, row, raw, mean, factor, part[3]);
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
