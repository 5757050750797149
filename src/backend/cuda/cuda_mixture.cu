/* cuda_mixture.cu - experts of a few rows by a choice taken on the device, for any type of weights.
 *
 *     logits ─► choices ─┬───────────────────────────────────┬──────────────────────────────────┐
 *                x ──────┴► gate, up: f32 ─► silu(gate) * up ─┴► down: f32 ─────────────────────┴► y += share *
 *
 * blockIdx.y counts choices, blockIdx.z the expert's matrices; a block looks up where its matrix lies and then goes
 * on as cuda_digits.cu and the plain products of cuda_decode.cu do. Rows that chose one expert read it one after the
 * other, the second time mostly from L2. MLX's 4 bits have kernels of their own (cuda_tiles.cu).
 *
 * Napkin: two experts of Mixtral in 8 bits are 374 MB, 125 us at 3 TB/s; six more launches 15 us. */
#include "backend/cuda/cuda_choice.cuh"
#include "backend/cuda/cuda_digits.cuh"
#include "backend/cuda/cuda_mixture.h"

#define WARPS (BLOCK / 32)

/* ------------------------------------------------------------------ choose -- */

static __global__ void choose_kernel(const float *logits, int E, int A, mica_cuda_choice *choices)
{
    const int m = blockIdx.x, lane = threadIdx.x;
    const mica_cuda_choice own = choose_experts(logits + m * E, E, A);
    if (lane < A)
        choices[m * A + lane] = own;
}

cudaError_t mica_cuda_mixture_choose(const float *logits, int m, int E, int A,
                                     mica_cuda_choice *choices, cudaStream_t stream)
{
    choose_kernel<<<(unsigned)m, 32, 0, stream>>>(logits, E, A, choices);
    return cudaGetLastError();
}

/* The block's matrix, and where its results go. */
static __device__ __forceinline__ mica_cuda_matrix matrix_of(const mica_cuda_mixture_args &a)
{
    return a.experts[3 * a.choices[blockIdx.y].expert + a.first + blockIdx.z];
}

static __device__ __forceinline__ float *result_of(const mica_cuda_mixture_args &a, int64_t outputs)
{
    return a.y + ((int64_t)blockIdx.z * a.rows + blockIdx.y) * outputs;
}

/* ------------------------------------------------------------------ packed -- */

template <int T, int SCALE, int R, int S>
static __global__ void __launch_bounds__(BLOCK)
    packed_kernel(mica_cuda_mixture_args a, source w, int64_t outputs, const uint8_t *x,
                  int64_t size)
{
    const mica_cuda_matrix m = matrix_of(a);
    w.data = (const uint8_t *)m.data;
    w.scale = m.scale;
    w.bias = m.bias;
    dot_block<T, SCALE, R, S, 1>(w, outputs, x + (int)blockIdx.y / a.per_x * size, size, 1,
                                 result_of(a, outputs), outputs);
}

template <int T, int SCALE, int R, int S>
static void launch(const mica_cuda_mixture_args *args, const mica_cuda_packed_rows *w,
                   const void *x, cudaStream_t stream)
{
    const int64_t block = WARPS / S * R;
    const dim3 grid((unsigned)((w->rows + block - 1) / block), (unsigned)args->rows,
                    (unsigned)args->count);
    packed_kernel<T, SCALE, R, S><<<grid, BLOCK, 0, stream>>>(
        *args, source_of(w), w->rows, (const uint8_t *)x, (int64_t)mica_cuda_digits_size(w->n));
}

template <int T, int SCALE>
static cudaError_t run_scaled(const mica_cuda_mixture_args *args, const mica_cuda_packed_rows *w,
                              const void *x, cudaStream_t stream)
{
    if (is_tall_matrix(w->rows))
        launch<T, SCALE, 4, 1>(args, w, x, stream);
    else
        launch<T, SCALE, 2, 4>(args, w, x, stream);
    return cudaGetLastError();
}

template <int T>
static cudaError_t run_packed(const mica_cuda_mixture_args *args, const mica_cuda_packed_rows *w,
                              const void *x, cudaStream_t stream)
{
    constexpr int f16 = kind<T>::is_stream ? MICA_CUDA_F16 : MICA_CUDA_F32;
    constexpr int bf16 = kind<T>::is_stream ? MICA_CUDA_BF16 : MICA_CUDA_F32;
    if (w->scale_type == f16)
        return run_scaled<T, f16>(args, w, x, stream);
    if (w->scale_type == bf16)
        return run_scaled<T, bf16>(args, w, x, stream);
    return run_scaled<T, MICA_CUDA_F32>(args, w, x, stream);
}

cudaError_t mica_cuda_mixture_packed(const mica_cuda_mixture_args *args,
                                     const mica_cuda_packed_rows *w, const void *x,
                                     cudaStream_t stream)
{
    switch (w->type) {
#define CASE(T)                                                                                    \
    case MICA_CUDA_PACKED_##T:                                                                     \
        return run_packed<MICA_CUDA_PACKED_##T>(args, w, x, stream);
        FOR_TYPES(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}

/* ------------------------------------------------------------------- plain -- */

/* A warp an output. */
static __global__ void __launch_bounds__(BLOCK)
    plain_kernel(mica_cuda_mixture_args a, mica_cuda_type type, int64_t outputs, mica_cuda_view x)
{
    const int64_t o = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int64_t row = (int)blockIdx.y / a.per_x * x.stride[0];
    const int lane = threadIdx.x % 32, ahead = 4; /* chunks asked for at once */
    const void *const w = matrix_of(a).data;
    float sum = 0.0f;
    if (o >= outputs)
        return; /* whole warps */
    for (int64_t at = 8 * lane; at < x.n; at += 8 * 32 * ahead) {
        float v[ahead][8];
#pragma unroll
        for (int u = 0; u < ahead; u++) {
            const int64_t i = at + 8 * 32 * u;
            load<8>(w, type, o * x.n + (i < x.n ? i : at), v[u]);
        }
#pragma unroll
        for (int u = 0; u < ahead; u++) {
            const int64_t i = at + 8 * 32 * u;
            float f[8];
            if (i >= x.n)
                break;
            load<8>(x.data, x.type, row + i, f);
#pragma unroll
            for (int k = 0; k < 8; k++)
                sum = fmaf(v[u][k], f[k], sum);
        }
    }
    sum = warp_sum(sum);
    if (lane == 0)
        result_of(a, outputs)[o] = sum;
}

cudaError_t mica_cuda_mixture_plain(const mica_cuda_mixture_args *args, mica_cuda_type type,
                                    int64_t outputs, const mica_cuda_view *x, cudaStream_t stream)
{
    const dim3 grid((unsigned)((outputs + WARPS - 1) / WARPS), (unsigned)args->rows,
                    (unsigned)args->count);
    plain_kernel<<<grid, BLOCK, 0, stream>>>(*args, type, outputs, *x);
    return cudaGetLastError();
}

/* --------------------------------------------------------------------- add -- */

static __global__ void add_kernel(const mica_cuda_choice *choices, int A, const float *x,
                                  mica_cuda_view y)
{
    const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x, m = blockIdx.y;
    float sum = 0.0f;
    if (i >= y.n)
        return;
    for (int64_t j = m * A; j < (m + 1) * A; j++)
        sum = fmaf(choices[j].share, x[j * y.n + i], sum);
    const int64_t at = row_offset(y, m) + i;
    store1(y.data, y.type, at, load1(y.data, y.type, at) + sum);
}

cudaError_t mica_cuda_mixture_add(const mica_cuda_choice *choices, int A, const float *x,
                                  const mica_cuda_view *y, cudaStream_t stream)
{
    const dim3 grid((unsigned)((y->n + BLOCK - 1) / BLOCK), (unsigned)y->rows);
    add_kernel<<<grid, BLOCK, 0, stream>>>(choices, A, x, *y);
    return cudaGetLastError();
}
