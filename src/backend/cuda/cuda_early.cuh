/* cuda_early.cuh - kernels of a token or a prompt that begin while the one before them still runs.
 *
 *     kernel n      ├ weights on their way ┤ wait │ work ──────────────┤
 *     kernel n + 1                   ├ weights on their way ┄┄┄┄┄┄┄┄┄┄┄┤ wait │ work ──┤
 *
 * Between two kernels of a stream a Hopper is idle for 3 to 5 us: the last blocks end, the next ones start and ask for
 * their first bytes. A kernel launched by launch_early starts as soon as all blocks of the one before it are running
 * and said let_next_begin; up to wait_for_previous it may read only what no kernel of the step writes: weights. Behind
 * that everything before it has ended and is visible, whatever the order in which kernels began, because every one of
 * them waits. Only kernels of few blocks say that the next may begin: others hold the places that the next one's
 * blocks would take, and cuBLASLt's kernels begin early as well. On older GPUs the launch is an ordinary one and both
 * words say nothing. */
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

#define EARLY_ROWS 128 /* at most: a prompt's, or a token's */

/* Not in a recorded step, which is launched as a whole: there kernels that begin early gain nothing. */
static inline bool may_begin_early(cudaStream_t stream)
{
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    return cudaStreamIsCapturing(stream, &status) == cudaSuccess &&
           status == cudaStreamCaptureStatusNone && mica_cuda_gpu_current().capability >= 90;
}

/* In clusters of so many blocks; more than one only from compute capability 9.0 on. */
template <typename... P, typename... A>
static inline cudaError_t launch_early_clusters(void (*kernel)(P...), dim3 grid, unsigned cluster,
                                                unsigned threads, size_t shared,
                                                cudaStream_t stream, A... args)
{
    cudaLaunchAttribute attributes[2] = {};
    unsigned count = 0;
    if (may_begin_early(stream)) {
        attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[count++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        attributes[count].id = cudaLaunchAttributeClusterDimension;
        attributes[count].val.clusterDim.x = cluster;
        attributes[count].val.clusterDim.y = attributes[count].val.clusterDim.z = 1;
        count++;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = count;
    return cudaLaunchKernelEx(&config, kernel, P(args)...);
}

template <typename... P, typename... A>
static inline cudaError_t launch_early(void (*kernel)(P...), dim3 grid, unsigned threads,
                                       size_t shared, cudaStream_t stream, A... args)
{
    return launch_early_clusters(kernel, grid, 1, threads, shared, stream, args...);
}

#endif
