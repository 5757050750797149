/* cuda_sequence.h - launchers of cuda_sequence.cu; see cuda_kernels.h for the manners. */
#ifndef MICA_BACKEND_CUDA_SEQUENCE_H
#define MICA_BACKEND_CUDA_SEQUENCE_H

#include "backend/cuda/cuda_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of a convolution over time: out row i holds [K][C] of output first + i, then zeros to ld. */
typedef struct mica_cuda_windows_args {
    const void *x; /* [R, C], rows ldx apart */
    void *out;
    mica_cuda_type type, out_type;
    int64_t R, ldx, first, count, ld;
    int C, K, stride, dilation, left;
    bool leaky;
    float slope;
} mica_cuda_windows_args;
cudaError_t mica_cuda_windows(const mica_cuda_windows_args *args, cudaStream_t stream);

/* y = f(x + shift); f and p as mica_function of backend.h. shift [n] or NULL. */
cudaError_t mica_cuda_apply(int f, float p, const mica_cuda_view *x, const float *shift,
                            const mica_cuda_view *y, cudaStream_t stream);
/* y = g(x[:n]) sigmoid(x[n:]) with a shift of 2 n; g: tanh or identity. n: of y. */
cudaError_t mica_cuda_gate(bool is_tanh, const mica_cuda_view *x, const float *shift,
                           const mica_cuda_view *y, cudaStream_t stream);

/* Strides in elements: token, head. L is limited by shared memory: MICA_CUDA_RELATIVE_MOST. */
#define MICA_CUDA_RELATIVE_MOST 11000
typedef struct mica_cuda_relative_args {
    const void *q, *k, *v;
    void *out;
    mica_cuda_type type;
    int64_t q_stride[2], k_stride[2], v_stride[2], out_stride[2];
    const float *rel_k, *rel_v; /* [N, K] */
    int L, H, K, N;
    float scale;
} mica_cuda_relative_args;
cudaError_t mica_cuda_relative(const mica_cuda_relative_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
