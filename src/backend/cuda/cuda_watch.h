/* cuda_watch.h - the kernel of cuda_watch.c. */
#ifndef MICA_BACKEND_CUDA_WATCH_H
#define MICA_BACKEND_CUDA_WATCH_H

#include "backend/cuda/cuda_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* *first (device) = min(*first, mark) when an element is NaN or infinite. */
cudaError_t mica_cuda_watch_rows(const mica_cuda_view *x, int *first, int mark,
                                 cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
