/* cuda_digits.cu - few rows of x times packed weights: x to digits, then dot products.
 *
 *     digits   8 lanes a chunk of 32 numbers of x
 *     dot      a warp takes R rows of w; its lanes take chunks 0..31, 32..63, ... of all of them with the same
 *              numbers of x, then the warp adds up. Short of rows, S warps share them: each takes every S-th
 *              32 chunks, and the first adds up what they have, in order
 *
 * Napkin, one row at 4.5 bits: 33 MB of 14,336 x 4,096 are 11 us at 3 TB/s; the digits of x 14 KB, 2 us of launch. */
#include "backend/cuda/cuda_digits.cuh"

#define LARGE 8355000.0f /* of X: its digits are 127 at most, whatever the roundings of x / s */

/* ------------------------------------------------------------------ digits -- */

template <typename V> static __device__ __forceinline__ V lanes_max(V v, int lanes)
{
    for (int step = lanes / 2; step > 0; step >>= 1) {
        const V other = __shfl_xor_sync(0xffffffffu, v, step);
        v = other > v ? other : v;
    }
    return v;
}

static __global__ void make_digits(mica_cuda_view x, bool even_odd, uint8_t *out, int64_t size)
{
    const int64_t n = x.n, t = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    const int64_t i =
        t * 4 < n ? t * 4 : n - 4; /* threads past the end repeat the last: whole warps */
    uint8_t *to = out + blockIdx.y * size;
    float v[4], *s = (float *)(to + 3 * n), *sums = s + n / 32;
    uint32_t largest = 0, words[3] = {0, 0, 0};
#pragma unroll
    for (int k = 0; k < 4; k++) {
        v[k] = load1(x.data, x.type, blockIdx.y * x.stride[0] + i + k);
        const uint32_t bits =
            __float_as_uint(v[k]) & 0x7fffffffu; /* NaN above infinity above all */
        largest = bits > largest ? bits : largest;
    }
    const float most = __uint_as_float(lanes_max(largest, 8));
    const bool tiny = most < 0x1p-100f, finite = most <= 0x1.fffffep127f;
    const float unit = !finite ? most - most : tiny ? 0.0f : most * (1.0f / LARGE);
    const float factor = tiny || !finite ? 0.0f : LARGE / most;
    int sum = 0;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int whole = finite ? __float2int_rn(v[k] * factor) : 0;
        const int middle = (whole + 128) >> 8, high = (middle + 128) >> 8;
        words[0] |= (uint32_t)(high & 255) << 8 * k;
        words[1] |= (uint32_t)(middle & 255) << 8 * k;
        words[2] |= (uint32_t)(whole & 255) << 8 * k;
        sum += whole;
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (t * 4 >= n)
        return;
#pragma unroll
    for (int p = 0; p < 3; p++) {
        uint8_t *const chunk = to + p * n + i / 32 * 32;
        if (even_odd) {
            *(uint16_t *)(chunk + i % 32 / 2) = (uint16_t)__byte_perm(words[p], 0, 0x4420);
            *(uint16_t *)(chunk + 16 + i % 32 / 2) = (uint16_t)__byte_perm(words[p], 0, 0x4431);
        } else {
            *(uint32_t *)(chunk + i % 32) = words[p];
        }
    }
    if (i % 16 == 0)
        sums[i / 16] = unit * (float)sum;
    if (i % 32 == 0)
        s[i / 32] = unit;
}

/* --------------------------------------------------------------------- dot -- */

template <int T, int SCALE, int R, int S, int M>
static __global__ void __launch_bounds__(BLOCK)
    dot_rows(source w, int64_t rows, const uint8_t *x, int64_t size, int count, float *y,
             int64_t ld)
{
    dot_block<T, SCALE, R, S, M>(w, rows, x, size, count, y, ld);
}

/* ---------------------------------------------------------------- launches -- */

size_t mica_cuda_digits_size(int64_t n)
{
    return (size_t)(n * 3 + n / 32 * 4 + n / 16 * 4 + 15) / 16 * 16;
}

cudaError_t mica_cuda_digits(const mica_cuda_view *x, mica_cuda_packed type, void *out,
                             cudaStream_t stream)
{
    const dim3 grid((unsigned)((x->n / 4 + BLOCK - 1) / BLOCK), (unsigned)x->rows);
    make_digits<<<grid, BLOCK, 0, stream>>>(*x, type == MICA_CUDA_PACKED_B4, (uint8_t *)out,
                                            (int64_t)mica_cuda_digits_size(x->n));
    return cudaGetLastError();
}

template <int T, int SCALE, int R, int S, int M>
static void launch(const mica_cuda_packed_rows *w, const void *x, int count, float *y, int64_t ld,
                   cudaStream_t stream)
{
    const int64_t block = BLOCK / 32 / S * R;
    dot_rows<T, SCALE, R, S, M><<<(unsigned)((w->rows + block - 1) / block), BLOCK, 0, stream>>>(
        source_of(w), w->rows, (const uint8_t *)x, (int64_t)mica_cuda_digits_size(w->n), count, y,
        ld);
}

template <int T, int SCALE>
static cudaError_t run_scaled(const mica_cuda_packed_rows *w, const void *x, int count, float *y,
                              int64_t ld, cudaStream_t stream)
{
    const bool is_tall = is_tall_matrix(w->rows);
    if (count == 1 && is_tall)
        launch<T, SCALE, 4, 1, 1>(w, x, count, y, ld, stream);
    else if (count == 1)
        launch<T, SCALE, 2, 4, 1>(w, x, count, y, ld, stream);
    else if (is_tall)
        launch<T, SCALE, 2, 1, MANY>(w, x, count, y, ld, stream);
    else
        launch<T, SCALE, 1, 4, MANY>(w, x, count, y, ld, stream);
    return cudaGetLastError();
}

template <int T>
static cudaError_t run_dot(const mica_cuda_packed_rows *w, const void *x, int count, float *y,
                           int64_t ld, cudaStream_t stream)
{
    constexpr bool is_stream = kind<T>::is_stream; /* others have no such scales */
    if (is_stream && w->scale_type == MICA_CUDA_F16)
        return run_scaled < T,
               is_stream ? MICA_CUDA_F16 : MICA_CUDA_F32 > (w, x, count, y, ld, stream);
    if (is_stream && w->scale_type == MICA_CUDA_BF16)
        return run_scaled < T,
               is_stream ? MICA_CUDA_BF16 : MICA_CUDA_F32 > (w, x, count, y, ld, stream);
    return run_scaled<T, MICA_CUDA_F32>(w, x, count, y, ld, stream);
}

cudaError_t mica_cuda_packed_dot(const mica_cuda_packed_rows *w, const void *x, int count, float *y,
                                 int64_t ld, cudaStream_t stream)
{
    switch (w->type) {
#define CASE(T)                                                                                    \
    case MICA_CUDA_PACKED_##T:                                                                     \
        return run_dot<MICA_CUDA_PACKED_##T>(w, x, count, y, ld, stream);
        FOR_TYPES(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}
