/* cuda_prompt.cu - products of a prompt's few rows with large matrices, for Hopper: the weights stream past.
 *
 *                      depth                     a block has 128 rows of w, in steps of 64 columns
 *     w  outputs ├──┬──┬──┬──┬──┤                   producer    one thread: boxes of w and x, ahead of the others
 *     x  rows    ├──┼──┼──┼──┼──┤                   workers     2 x 128 threads, 64 rows of w each: wgmma 64 x 64 x 16
 *                   a step
 *     tiles      as many blocks as multiprocessors, which stay for all of their tiles; or where tiles are few
 *     splits     a cluster of up to 8 blocks a tile, which share the depth. Sums meet in shared memory, each block
 *                reads those of its rows of x from all others, always in one order, and finishes them
 *     SwiGLU     64 rows of gate and the same of up are a tile: gate and up are never written
 *
 * With few rows such a product waits for its weights and nothing else, and a network of them is a walk through memory.
 * What costs are the gaps: a launch, a norm or an attention between two products, the first and last bytes of each. So
 * the kernel begins early (cuda_early.cuh): while the small kernels before it run, the producers of all blocks ask for
 * what their stages hold, 20 MB in all, and only x waits for the kernel before.
 *
 * Napkin: 64 rows of Qwen2.5-VL-7B, a layer: 466 MB of weights, 155 us at 3 TB/s. Four products by cuBLASLt and SwiGLU
 * one behind the other take 202 us of an H100, these 174, in the network 225 and 195 (docs/PERFORMANCE.md). A step is
 * 16 KB of w and 8 KB of x: L2 delivers half as much again as memory, which is why a tile has 128 rows. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_early.cuh"
#include "backend/cuda/cuda_hopper.cuh"
#include "backend/cuda/cuda_prompt.h"

#define TILE              MICA_CUDA_PROMPT_TILE
#define DEPTH             64  /* columns of a step */
#define ROWS              64  /* of x, of one wgmma */
#define WORKERS           256 /* threads */
#define THREADS           (WORKERS + 32)
#define W_BYTES           (TILE * DEPTH * 2)
#define X_BYTES           (ROWS * DEPTH * 2)
#define SPLIT_MOST        8 /* blocks of a cluster */
#define SPLIT_LEAST_STEPS 4
#define PITCH             (TILE + 4) /* floats from a row of sums to the next: neighbours in other banks */

/* How a product is cut. */
struct cut {
    int tiles, steps, splits, stages;
    int x_bytes; /* that come in a step */
};

/* A block's part of it: every `stride`th tile, steps [first, end) of each. */
struct part {
    int tile, stride, split, first, end;
};

static __device__ __forceinline__ part part_of(const cut &c)
{
    const int split = (int)blockIdx.x % c.splits;
    return {(int)blockIdx.x / c.splits, (int)gridDim.x / c.splits, split,
            c.steps * split / c.splits, c.steps * (split + 1) / c.splits};
}

/* Shared memory: stages of w and x, two barriers of each, sums. BLOCKS of 64 rows of x. */
template <int BLOCKS> struct places {
    static constexpr int stage = W_BYTES + BLOCKS * X_BYTES;
    static constexpr int sums = BLOCKS * ROWS * PITCH * (int)sizeof(float);
    uint32_t stages, full, empty, sums_at;
};

template <int BLOCKS> static __device__ __forceinline__ places<BLOCKS> places_of(const cut &c)
{
    extern __shared__ uint8_t room[];
    places<BLOCKS> at;
    at.stages = (shared_at(room) + 1023) & ~1023u;
    at.full = at.stages + c.stages * at.stage;
    at.empty = at.full + 8 * c.stages;
    at.sums_at = at.empty + 8 * c.stages;
    return at;
}

/* A place in the ring of stages. */
struct ring {
    int stage;
    uint32_t parity;
    __device__ __forceinline__ void next(int stages)
    {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

/* One thread. Weights of the first steps come before the kernel before has ended, their x behind that. */
template <int BLOCKS, bool SWIGLU>
static __device__ __forceinline__ void produce(const mica_cuda_prompt_args &a, const cut &c,
                                               const part &p, const places<BLOCKS> &at)
{
    const int steps = p.end - p.first;
    const int ahead = min((c.tiles - p.tile + p.stride - 1) / p.stride * steps, c.stages);
    ring r = {0, 1};
    int n = 0;
    for (int tile = p.tile; tile < c.tiles; tile += p.stride)
        for (int s = p.first; s < p.end; s++, n++) {
            const uint32_t to = at.stages + r.stage * at.stage, full = at.full + 8 * r.stage;
            barrier_wait(at.empty + 8 * r.stage, r.parity);
            barrier_expect(full, W_BYTES + c.x_bytes);
            if (SWIGLU) {
                const int row = tile * (TILE / 2);
                copy_box_kept(to, &a.w, s * DEPTH, row, full, HOPPER_ONCE);
                copy_box_kept(to + W_BYTES / 2, &a.up, s * DEPTH, row, full, HOPPER_ONCE);
            } else {
                copy_box_kept(to, &a.w, s * DEPTH, tile * TILE, full, HOPPER_ONCE);
            }
            if (n >= ahead)
                copy_box_kept(to + W_BYTES, &a.x, s * DEPTH, 0, full, HOPPER_OFTEN);
            r.next(c.stages);
            if (n + 1 != ahead)
                continue;
            wait_for_previous();
            for (int i = 0; i < ahead; i++)
                copy_box_kept(at.stages + i * at.stage + W_BYTES, &a.x,
                              (p.first + i % steps) * DEPTH, 0, at.full + 8 * i, HOPPER_OFTEN);
        }
}

/* sum = 64 rows of w, of this thread's group, times all of x. */
template <int BLOCKS>
static __device__ __forceinline__ void multiply_steps(const cut &c, const part &p,
                                                      const places<BLOCKS> &at, ring &r,
                                                      float (&sum)[BLOCKS][32])
{
    const int group = threadIdx.x / 128;
    const bool first_lane = threadIdx.x % 32 == 0;
    int before = 0;
#pragma unroll 1
    for (int s = p.first; s < p.end; s++) {
        const uint32_t from = at.stages + r.stage * at.stage;
        const uint64_t w = rows_at(from + group * (W_BYTES / 2)), x = rows_at(from + W_BYTES);
        barrier_wait(at.full + 8 * r.stage, r.parity);
        multiply_begins();
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++)
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                multiply_64x64(sum[b], w + 2 * k, x + b * (X_BYTES / 16) + 2 * k,
                               k > 0 || s > p.first);
        multiply_commit();
        multiply_wait<1>();
        if (s > p.first && first_lane)
            barrier_arrive_here(at.empty + 8 * before);
        before = r.stage;
        r.next(c.stages);
    }
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
        sums_are_done(sum[b]);
    if (first_lane)
        barrier_arrive_here(at.empty + 8 * before);
}

/* A tile's sums as [rows of x][PITCH]. */
template <int BLOCKS>
static __device__ __forceinline__ void leave(float *sums, const float (&sum)[BLOCKS][32])
{
    const int lane = threadIdx.x % 32, column = 16 * (threadIdx.x / 32) + lane / 4;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int i = 0; i < 32; i++)
            sums[(ROWS * b + 8 * (i / 4) + 2 * (lane % 4) + i % 2) * PITCH + column +
                 8 * (i / 2 % 2)] = sum[b][i];
}

static __device__ __forceinline__ uint32_t two(float a, float b)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return *(const uint32_t *)&v;
}

static __device__ __forceinline__ float4 add(const float4 &a, const float4 &b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

/* Four outputs of row m; from: their sums in this block, and at the same place in the others of the cluster. */
static __device__ __forceinline__ void finish(const mica_cuda_prompt_args &a, int splits, int tile,
                                              int m, uint32_t from)
{
    const int64_t o = (int64_t)tile * TILE + 4 * (threadIdx.x % 32);
    float4 v = load_from(from, 0);
    for (int r = 1; r < splits; r++)
        v = add(v, load_from(from, r));
    if (o >= a.outputs)
        return;
    if (a.bias)
        v = add(v, __ldg((const float4 *)(a.bias + o)));
    if (a.residual) {
        const uint2 r = *(const uint2 *)((const __nv_bfloat16 *)a.residual + m * a.ld_residual + o);
        v = add(v, make_float4(__uint_as_float(r.x << 16), __uint_as_float(r.x & 0xffff0000u),
                               __uint_as_float(r.y << 16), __uint_as_float(r.y & 0xffff0000u)));
    }
    *(uint2 *)((__nv_bfloat16 *)a.y + m * a.ldy + o) = make_uint2(two(v.x, v.y), two(v.z, v.w));
}

/* For results in bf16, see silu_for of cuda_point.cu. */
static __device__ __forceinline__ float swiglu(float gate, float up)
{
    return __fdividef(gate, 1.0f + __expf(-gate)) * up;
}

/* Two outputs of row m, whose gates and ups are at `sums`. */
static __device__ __forceinline__ void finish_swiglu(const mica_cuda_prompt_args &a, int tile,
                                                     int m, const float *sums)
{
    const int64_t o = (int64_t)tile * (TILE / 2) + 2 * (threadIdx.x % 32);
    const float2 gate = *(const float2 *)sums, up = *(const float2 *)(sums + TILE / 2);
    if (o < a.outputs)
        *(uint32_t *)((__nv_bfloat16 *)a.y + m * a.ldy + o) =
            two(swiglu(gate.x, up.x), swiglu(gate.y, up.y));
}

/* The workers of all blocks of the cluster; the producers may have ended. */
static __device__ __forceinline__ void workers_wait(int splits)
{
    if (splits > 1)
        cluster_wait();
    else
        asm volatile("barrier.sync 1, %0;" ::"n"(WORKERS) : "memory");
}

template <int BLOCKS, bool SWIGLU>
static __device__ __forceinline__ void work(const mica_cuda_prompt_args &a, const cut &c,
                                            const part &p, const places<BLOCKS> &at)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float *sums = (float *)__cvta_shared_to_generic(at.sums_at);
    ring r = {0, 0};
    wait_for_previous();
    for (int tile = p.tile; tile < c.tiles; tile += p.stride) {
        float sum[BLOCKS][32];
        multiply_steps<BLOCKS>(c, p, at, r, sum);
        leave<BLOCKS>(sums, sum);
        workers_wait(c.splits);
        for (int m = p.split + c.splits * warp; m < a.rows; m += c.splits * (WORKERS / 32)) {
            if (SWIGLU)
                finish_swiglu(a, tile, m, sums + m * PITCH + 2 * lane);
            else
                finish(a, c.splits, tile, m, at.sums_at + (m * PITCH + 4 * lane) * 4);
        }
        workers_wait(c.splits); /* sums may be written again, and their block may end */
    }
}

template <int BLOCKS, bool SWIGLU>
static __global__ void __launch_bounds__(THREADS, 1)
    prompt_kernel(const __grid_constant__ mica_cuda_prompt_args a, const cut c)
{
    const places<BLOCKS> at = places_of<BLOCKS>(c);
    const part p = part_of(c);
    let_next_begin();
    if (threadIdx.x == 0) {
        for (int i = 0; i < c.stages; i++) {
            barrier_init(at.full + 8 * i, 1);
            barrier_init(at.empty + 8 * i, WORKERS / 32);
        }
        barriers_are_made();
    }
    __syncthreads();
    if (threadIdx.x < WORKERS)
        work<BLOCKS, SWIGLU>(a, c, p, at);
    else if (threadIdx.x == WORKERS)
        produce<BLOCKS, SWIGLU>(a, c, p, at);
}

/* ------------------------------------------------------------------ launch -- */

template <int BLOCKS, bool SWIGLU>
static cudaError_t launch(const mica_cuda_prompt_args &a, cut c, const mica_cuda_gpu &gpu,
                          cudaStream_t stream)
{
    const int each = places<BLOCKS>::stage + 16, rest = 1024 + places<BLOCKS>::sums;
    c.stages = (gpu.shared_most - rest) / each;
    const size_t shared = (size_t)(rest + c.stages * each);
    const int blocks = c.splits > 1 ? c.tiles * c.splits : min(c.tiles, gpu.multiprocessors);
    const cudaError_t error = cudaFuncSetAttribute(
        prompt_kernel<BLOCKS, SWIGLU>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (error != cudaSuccess)
        return error;
    return launch_early_clusters(prompt_kernel<BLOCKS, SWIGLU>, dim3((unsigned)blocks),
                                 (unsigned)c.splits, THREADS, shared, stream, a, c);
}

extern "C" cudaError_t mica_cuda_prompt(const mica_cuda_prompt_args *args, cudaStream_t stream)
{
    const mica_cuda_gpu gpu = mica_cuda_gpu_current();
    const int tile = args->swiglu ? TILE / 2 : TILE;
    cut c = {};
    c.tiles = (args->outputs + tile - 1) / tile;
    c.steps = (args->depth + DEPTH - 1) / DEPTH;
    c.splits = args->swiglu ? 1 : min(SPLIT_MOST, gpu.multiprocessors / c.tiles);
    c.splits = max(1, min(c.splits, c.steps / SPLIT_LEAST_STEPS));
    c.x_bytes = (args->rows + 7) / 8 * 8 * DEPTH * 2;
    if (args->rows <= ROWS)
        return args->swiglu ? launch<1, true>(*args, c, gpu, stream)
                            : launch<1, false>(*args, c, gpu, stream);
    return args->swiglu ? launch<2, true>(*args, c, gpu, stream)
                        : launch<2, false>(*args, c, gpu, stream);
}
