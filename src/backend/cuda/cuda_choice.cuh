/* cuda_choice.cuh - a router's choice of experts on the device, as backend_experts.c takes it on the host: of a
 * row's logits the A largest, of equal ones the lower; shares are the softmax over all, divided by the sum of the
 * chosen. */
#ifndef MICA_BACKEND_CUDA_CHOICE_CUH
#define MICA_BACKEND_CUDA_CHOICE_CUH

#include "backend/cuda/cuda_mixture.h"

/* By a warp, of E <= 32 experts: lane e has the logit of expert e, and lane a < A returns the a-th choice. */
static __device__ __forceinline__ mica_cuda_choice choose_experts(float logit, int E, int A)
{
    const int lane = threadIdx.x % 32;
    float left = lane < E ? logit : -INFINITY, sum = 0.0f;
    mica_cuda_choice c = {0, 0.0f};
    float top = 0.0f;
    for (int k = 0; k < A; k++) {
        float most = left;
        int best = lane;
#pragma unroll
        for (int step = 16; step > 0; step /= 2) {
            const float v = __shfl_xor_sync(0xffffffffu, most, step);
            const int i = __shfl_xor_sync(0xffffffffu, best, step);
            if (v > most || (v == most && i < best)) {
                most = v;
                best = i;
            }
        }
        if (k == 0)
            top = most;
        const float p = expf(most - top); /* the sum over all experts would be divided out again */
        sum += p;
        if (lane == k)
            c = {best, p};
        if (lane == best)
            left = -INFINITY;
    }
    c.share /= sum;
    return c;
}

/* The same of a row of logits. */
static __device__ __forceinline__ mica_cuda_choice choose_experts(const float *logits, int E, int A)
{
    const int lane = threadIdx.x % 32;
    return choose_experts(lane < E ? __ldcg(logits + lane) : 0.0f, E, A);
}

#endif
