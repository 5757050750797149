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

/* What the launches below ask of the device once; all GPUs of a process that Mica uses are one. */
static inline int device_value(cudaDeviceAttr which)
{
    int device = 0, value = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
                   cudaDeviceGetAttribute(&value, which, device) == cudaSuccess
               ? value
               : 0;
}

static inline unsigned multiprocessors()
{
    static const int count = device_value(cudaDevAttrMultiProcessorCount);
    return count > 0 ? (unsigned)count : 1;
}

template <typename... P, typename... A>
static inline cudaError_t launch_early(void (*kernel)(P...), dim3 grid, unsigned threads,
                                       size_t shared, cudaStream_t stream, A... args)
{
    static const int major = device_value(cudaDevAttrComputeCapabilityMajor);
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = major >= 9 ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, P(args)...);
}

#endif
