/* cuda_early.cuh - kernels of a token's step that begin while the one before them still runs.
 *
 *     kernel n      ├ weights on their way ┤ wait │ work ──────────────┤
 *     kernel n + 1                   ├ weights on their way ┄┄┄┄┄┄┄┄┄┄┄┤ wait │ work ──┤
 *
 * Between two kernels of a stream a Hopper is idle for 3 to 5 us: the last blocks end, the next ones start and ask for
 * their first bytes. A kernel launched by launch_early starts as soon as all blocks of the one before it are running
 * and said let_next_begin; up to wait_for_previous it may read only what no kernel of the step writes: weights. Behind
 * that everything before it has ended and is visible, whatever the order in which kernels began, because every one of
 * them waits. On older GPUs the launch is an ordinary one and both words say nothing. */
#ifndef MICA_BACKEND_CUDA_EARLY_CUH
#define MICA_BACKEND_CUDA_EARLY_CUH

#include "backend/cuda/cuda_kernels.h"

#include <cuda_runtime.h>
#include <stdint.h>

static __device__ __forceinline__ void let_next_begin()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

static __device__ __forceinline__ void wait_for_previous()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The line of `p` on its way into L2. */
static __device__ __forceinline__ void ask_l2(const void *p)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

template <typename... P, typename... A>
static inline cudaError_t launch_early(void (*kernel)(P...), dim3 grid, unsigned threads,
                                       size_t shared, cudaStream_t stream, A... args)
{
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = mica_cuda_gpu_current().capability >= 90 ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, P(args)...);
}

#endif
