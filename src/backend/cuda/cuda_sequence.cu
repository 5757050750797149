/* cuda_sequence.cu - what networks of speech need beside products: windows of a sequence for
 * convolutions over time, functions with a shift per channel, gated units, relative attention.
 *
 * Napkin: a second of v2's decoder is 40 GFLOP, 0.1 ms of bf16 products; its windows are 3 to 11
 * times the activations of 4 MB a layer, 90 layers: 2.5 GB, which L2 serves at about 5 TB/s in
 * 0.5 ms. Relative attention of 500 frames and 2 heads of 96: every block reads all keys and
 * values from L2, 2 x 500 x 400 KB = 0.4 GB, 0.1 ms a layer. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_sequence.h"

/* ---------------------------------------------------------------- windows -- */

template <int V> static __global__ void windows_kernel(const mica_cuda_windows_args a)
{
    const int per_tap = a.C / V; /* V == 8 only where C, ldx and ld are multiples of it */
    const int row_items = (int)(a.ld / V), filled = a.K * per_tap;
    const int64_t items = a.count * row_items, step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const parts at = divide(i, row_items);
        const int j = (int)at.rest;
        float v[V];
#pragma unroll
        for (int k = 0; k < V; k++)
            v[k] = 0.0f;
        if (j < filled) {
            const int64_t r =
                (a.first + at.quotient) * a.stride - a.left + (int64_t)(j / per_tap) * a.dilation;
            if (r >= 0 && r < a.R)
                load<V>(a.x, a.type, r * a.ldx + (int64_t)(j % per_tap) * V, v);
        }
        if (a.leaky) {
#pragma unroll
            for (int k = 0; k < V; k++)
                v[k] = v[k] < 0.0f ? a.slope * v[k] : v[k];
        }
        store<V>(a.out, a.out_type, at.quotient * a.ld + (int64_t)j * V, v);
    }
}

extern "C" cudaError_t mica_cuda_windows(const mica_cuda_windows_args *args, cudaStream_t stream)
{
    const bool wide =
        args->C % 8 == 0 && args->ldx % 8 == 0 && args->ld % 8 == 0 && (uintptr_t)args->x % 16 == 0;
    const unsigned grid = grid_for(args->count * args->ld / (wide ? 8 : 1));
    if (wide)
        windows_kernel<8><<<grid, BLOCK, 0, stream>>>(*args);
    else
        windows_kernel<1><<<grid, BLOCK, 0, stream>>>(*args);
    return cudaGetLastError();
}

/* -------------------------------------------------------------- functions -- */

static __device__ __forceinline__ float function(int f, float p, float x)
{
    switch (f) {
    case 1: /* leaky ReLU */
        return x < 0.0f ? p * x : x;
    case 2: /* clamp */
        return x < 0.0f ? 0.0f : x > p ? p : x;
    case 3: { /* Mish */
        const float e = expf(fminf(x, 20.0f)), n = e * (e + 2.0f);
        return x * (n / (n + 2.0f));
    }
    case 4:
        return activate(x, MICA_CUDA_ACT_GELU_ERF);
    case 5:
        return silu(x);
    case 6:
        return tanhf(x);
    default:
        return x;
    }
}

static __global__ void apply_kernel(int f, float p, const mica_cuda_view x, const float *shift,
                                    const mica_cuda_view y, int64_t items)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const parts at = divide(i, y.n);
        const float v = load1(x.data, x.type, row_offset(x, at.quotient) + at.rest);
        store1(y.data, y.type, row_offset(y, at.quotient) + at.rest,
               function(f, p, shift ? v + __ldg(shift + at.rest) : v));
    }
}

extern "C" cudaError_t mica_cuda_apply(int f, float p, const mica_cuda_view *x, const float *shift,
                                       const mica_cuda_view *y, cudaStream_t stream)
{
    const int64_t items = y->rows * y->n;
    apply_kernel<<<grid_for(items), BLOCK, 0, stream>>>(f, p, *x, shift, *y, items);
    return cudaGetLastError();
}

static __global__ void gate_kernel(bool is_tanh, const mica_cuda_view x, const float *shift,
                                   const mica_cuda_view y, int64_t items)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const parts at = divide(i, y.n);
        const int64_t from = row_offset(x, at.quotient) + at.rest;
        float a = load1(x.data, x.type, from), b = load1(x.data, x.type, from + y.n);
        if (shift) {
            a += __ldg(shift + at.rest);
            b += __ldg(shift + y.n + at.rest);
        }
        store1(y.data, y.type, row_offset(y, at.quotient) + at.rest,
               (is_tanh ? tanhf(a) : a) / (1.0f + expf(-b)));
    }
}

extern "C" cudaError_t mica_cuda_gate(bool is_tanh, const mica_cuda_view *x, const float *shift,
                                      const mica_cuda_view *y, cudaStream_t stream)
{
    const int64_t items = y->rows * y->n;
    gate_kernel<<<grid_for(items), BLOCK, 0, stream>>>(is_tanh, *x, shift, *y, items);
    return cudaGetLastError();
}

/* ----------------------------------------------------- relative attention -- */

/* Floats of shared memory for n numbers: the compiler reads them four at a time, behind the last one too. */
static __host__ __device__ inline int fours(int n)
{
    return (n + 3) / 4 * 4;
}

/* One block per query and head. Shared: the query [K], then the scores [L], which belong to the thread that
 * made them until the sum over all of them is known. */
static __global__ void relative_kernel(const mica_cuda_relative_args a)
{
    extern __shared__ float shared[];
    float *q = shared, *p = shared + fours(a.K);
    const int i = blockIdx.x, h = blockIdx.y, W = a.N / 2;
    for (int c = threadIdx.x; c < a.K; c += BLOCK)
        q[c] = load1(a.q, a.type, i * a.q_stride[0] + h * a.q_stride[1] + c);
    __syncthreads();
    float most = -INFINITY, sum = 0.0f;
    for (int j = threadIdx.x; j < a.L; j += BLOCK) {
        const int64_t key = j * a.k_stride[0] + h * a.k_stride[1];
        const int n = j - i + W;
        const bool near = n >= 0 && n < a.N;
        float s = 0.0f;
        for (int c = 0; c < a.K; c++)
            s +=
                q[c] * (load1(a.k, a.type, key + c) + (near ? __ldg(a.rel_k + n * a.K + c) : 0.0f));
        p[j] = a.scale * s;
        most = fmaxf(most, p[j]);
    }
    most = block_max(most);
    for (int j = threadIdx.x; j < a.L; j += BLOCK) {
        p[j] = expf(p[j] - most);
        sum += p[j];
    }
    sum = group_sum<BLOCK>(sum);
    __syncthreads();
    for (int c = threadIdx.x; c < a.K; c += BLOCK) {
        float s = 0.0f;
        for (int j = 0; j < a.L; j++) {
            const int n = j - i + W;
            const float v = load1(a.v, a.type, j * a.v_stride[0] + h * a.v_stride[1] + c);
            s += p[j] * (n >= 0 && n < a.N ? v + __ldg(a.rel_v + n * a.K + c) : v);
        }
        store1(a.out, a.type, i * a.out_stride[0] + h * a.out_stride[1] + c, s / sum);
    }
}

extern "C" cudaError_t mica_cuda_relative(const mica_cuda_relative_args *args, cudaStream_t stream)
{
    const size_t size = sizeof(float) * (size_t)(fours(args->K) + fours(args->L));
    const dim3 grid((unsigned)args->L, (unsigned)args->H);
    relative_kernel<<<grid, BLOCK, size, stream>>>(*args);
    return cudaGetLastError();
}
