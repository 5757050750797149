/* cuda_residual.h - a gated sum and the norm behind it; see cuda_residual.c. */
#ifndef MICA_BACKEND_CUDA_RESIDUAL_H
#define MICA_BACKEND_CUDA_RESIDUAL_H

#include "backend/cuda/cuda_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of n <= MICA_CUDA_RESIDUAL_MOST elements in bf16:
 *
 *     normed false   y = residual + gate * (from + bias)
 *     normed true    y = residual + gate * from / sqrt(mean(from^2) + eps) * w
 *
 * bias, gate, w: [n] f32 or NULL (0, 1, 1). y may be the residual. */
#define MICA_CUDA_RESIDUAL_MOST 4096
typedef struct mica_cuda_residual_args {
    bool normed;
    mica_cuda_view from, residual, y;
    const float *bias, *gate, *w;
    float eps;
} mica_cuda_residual_args;

typedef struct mica_cuda_pending {
    bool is_waiting;
    mica_cuda_residual_args args;
    const char *name;
} mica_cuda_pending;

/* Whether both can be one kernel: norm->x is args->y, and the norm is LAYER or RMS. */
bool mica_cuda_residual_fits(const mica_cuda_residual_args *args, const mica_cuda_norm_args *norm);
/* y as above, then the norm of it (as it is stored, rounded to bf16). */
cudaError_t mica_cuda_residual_and_norm(const mica_cuda_residual_args *args,
                                        const mica_cuda_norm_args *norm, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
