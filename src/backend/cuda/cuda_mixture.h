/* cuda_mixture.h - launchers of cuda_mixture.cu; see cuda_kernels.h for the manners. */
#ifndef MICA_BACKEND_CUDA_MIXTURE_H
#define MICA_BACKEND_CUDA_MIXTURE_H

#include "backend/cuda/cuda_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MICA_CUDA_EXPERTS_MOST 32 /* a lane each */
#define MICA_CUDA_ACTIVE_MOST  4

/* Where a matrix lies: numbers; scales and biases of packed ones, or NULL. */
typedef struct mica_cuda_matrix {
    const void *data, *scale, *bias;
} mica_cuda_matrix;

typedef struct mica_cuda_choice {
    int expert;
    float share;
} mica_cuda_choice;

/* choices[m][A] by logits[m][E], E <= 32. */
cudaError_t mica_cuda_mixture_choose(const float *logits, int m, int E, int A,
                                     mica_cuda_choice *choices, cudaStream_t stream);

/* For each choice j = m A + a, of which there are `rows`, and each of `count` matrices w of its expert, those from
 * experts[3 expert + first] on:
 *
 *     y[i][j] = x[j / per_x] w_i^T          f32, rows outputs apart
 *
 * packed   x: digits (mica_cuda_digits for w.type); w: of all the matrices, its addresses are not read
 * plain    x: a view of rows that are wide, w.n numbers each; matrices [outputs][n] of `type` */
typedef struct mica_cuda_mixture_args {
    const mica_cuda_matrix *experts;
    const mica_cuda_choice *choices;
    int first, count, rows, per_x;
    float *y;
} mica_cuda_mixture_args;
cudaError_t mica_cuda_mixture_packed(const mica_cuda_mixture_args *args,
                                     const mica_cuda_packed_rows *w, const void *x,
                                     cudaStream_t stream);
cudaError_t mica_cuda_mixture_plain(const mica_cuda_mixture_args *args, mica_cuda_type type,
                                    int64_t outputs, const mica_cuda_view *x, cudaStream_t stream);

/* y[m] += sum over a of share[m A + a] x[m A + a] */
cudaError_t mica_cuda_mixture_add(const mica_cuda_choice *choices, int A, const float *x,
                                  const mica_cuda_view *y, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
