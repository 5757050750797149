/* cuda_experts.h - weights as the kernels of cuda_tiles.cu take them; shared by cuda_experts.c and cuda_layer.c. */
#ifndef MICA_BACKEND_CUDA_EXPERTS_H
#define MICA_BACKEND_CUDA_EXPERTS_H

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/cuda_tiles.h"

/* MLX's 4 bits on the device, without adapters. */
bool mica_cuda_tiles_weight_fits(const mica_weight *w);
/* Two of them in one launch. */
bool mica_cuda_tiles_go_together(const mica_weight *a, const mica_weight *b);
/* Whether all of E experts are such, and go together. */
bool mica_cuda_tiles_experts_fit(const mica_experts_args *args, int64_t E);
/* Where a packed weight lies, or the matrix that a plain one is prepared as. */
mica_status mica_cuda_matrix_of(mica_cuda_backend *be, mica_weight *w, mica_cuda_matrix *out,
                                mica_err *err);
/* be->arrived and the work of mica_cuda_decode_args. */
mica_status mica_cuda_decode_reserve(mica_cuda_backend *be, mica_err *err);

#endif
