/* cuda_swiglu.h - the kernel of cuda_swiglu.c: y = silu(x gate^T) * (x up^T) in one. */
#ifndef MICA_BACKEND_CUDA_SWIGLU_H
#define MICA_BACKEND_CUDA_SWIGLU_H

#include "backend/cuda/cuda_kernels.h"

#include <cuda.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A tile of y, and the boxes in which maps bring operands: MICA_CUDA_SWIGLU_DEPTH columns (128 bytes, in the swizzle
 * of 128 bytes), 64 rows of x and y, 128 of the weights. Zeros come where a tensor ends; nothing is written there. */
#define MICA_CUDA_SWIGLU_TILE  128
#define MICA_CUDA_SWIGLU_DEPTH 64

typedef struct mica_cuda_swiglu_args {
    CUtensorMap x, gate, up, y; /* bf16: [M, D], [F, D], [F, D], [M, F] */
    int rows, columns, depth;   /* M, F, D */
} mica_cuda_swiglu_args;

/* For devices of capability 9.0 alone. */
cudaError_t mica_cuda_swiglu_product(const mica_cuda_swiglu_args *args, int multiprocessors,
                                     cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
