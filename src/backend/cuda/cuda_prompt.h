/* cuda_prompt.h - the kernel of cuda_prompt.cu, and cuda_prompt.c around it. */
#ifndef MICA_BACKEND_CUDA_PROMPT_H
#define MICA_BACKEND_CUDA_PROMPT_H

#include "backend/cuda/cuda_kernels.h"

#include <cuda.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MICA_CUDA_PROMPT_ROWS 128 /* of x, at most */
#define MICA_CUDA_PROMPT_TILE 128 /* rows of weights of a block */

/* y = residual + x w^T + bias; with `up` y = silu(x w^T) * (x up^T). bf16 but for the bias. */
typedef struct mica_cuda_prompt_args {
    CUtensorMap x;        /* [rows][depth] in boxes of the rows, rounded up to 8 */
    CUtensorMap w, up;    /* [outputs][depth] in boxes of TILE rows; with `up` both of TILE / 2 */
    bool swiglu;          /* with up, and without bias and residual */
    int rows, depth;      /* rows <= MICA_CUDA_PROMPT_ROWS */
    int outputs;          /* a multiple of 8 */
    const float *bias;    /* [outputs] or NULL */
    const void *residual; /* or NULL; may be y */
    void *y;
    int64_t ld_residual, ldy; /* multiples of 8 */
} mica_cuda_prompt_args;

/* For devices of capability 9.0 alone. */
cudaError_t mica_cuda_prompt(const mica_cuda_prompt_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
