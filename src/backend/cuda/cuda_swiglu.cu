/* cuda_swiglu.cu - y = silu(x gate^T) * (x up^T): both products and SwiGLU in one kernel, for Hopper.
 *
 *                     D                    gate 128 ┐ 256 rows of weights
 *     x  128 rows ├────────┤   times       up   128 ┘ for 128 columns of y
 *
 *     a block        three groups of 128 threads, one block a multiprocessor, which stays for all of its tiles
 *       producer     one thread: boxes of 64 columns into four stages of shared memory, ahead across tiles
 *       consumers    64 rows of the tile each: wgmma 64 x 256 x 16; a sum of gate and its sum of up are in the same
 *                    thread, which makes y of them, in bf16 through shared memory to a store of a box
 *     a cluster      two blocks that share what both need, each bringing half of it for both:
 *
 *         tall  ┌───┐ rows m       wide ┌───┬───┐ columns n, n + 1    where 128 rows are
 *               ├───┤ rows m + 1        └───┴───┘                     left over
 *               └───┘ the same weights   the same rows of x
 *
 *     order          bands of BAND pairs of rows; in a band two columns of tiles after the other: about a band's x
 *                    and a few columns of weights are in use at a time, and come from L2
 *
 * Gate and up are never written: at 4,224 x 3,840 x 2 * 10,240 (665 GFLOP) that is 260 MB less, 91 us of an H100. Both
 * products by cuBLASLt and SwiGLU take 1,036 us there at the power limit, this kernel 958; when the GPU is cool 904 and
 * 826. SwiGLU costs nothing: while one consumer computes it the other has the tensor cores. Sums are f32 until y is
 * rounded, which is more exact than rounding gate and up first.
 *
 * Napkin: a stage is 48 KB for 1,024 cycles of tensor cores; a block asks L2 for 32 KB of it and gets the rest from
 * its neighbour: 32 bytes a cycle. Without clusters it is 1 % slower, sharing x alone 2 %, with three stages 2 %. */
#include "backend/cuda/cuda_hopper.cuh"
#include "backend/cuda/cuda_swiglu.h"

#define TILE        MICA_CUDA_SWIGLU_TILE
#define DEPTH       MICA_CUDA_SWIGLU_DEPTH
#define CLUSTER     2
#define BAND        6
#define STAGES      4
#define BOX         (64 * DEPTH * 2) /* bytes of 64 rows */
#define STAGE       (6 * BOX)        /* x; gate; up */
#define GATE        (2 * BOX)
#define UP          (4 * BOX)
#define RESULT      (2 * BOX) /* 64 x 128 of y, of each consumer */
#define CONSUMERS   2
#define THREADS     (128 * (1 + CONSUMERS))
#define SHARED      (1024 + STAGES * STAGE + CONSUMERS * RESULT + 2 * STAGES * 8)
#define FOR_PRODUCE 40 /* registers a thread: 40 + 2 * 232 = 3 * 168, what three groups can have */
#define FOR_CONSUME 232

/* Pairs of tiles of an M x F result. */
struct pairs {
    int tall, steps; /* pairs of rows; pairs of columns */
    bool wide;       /* rows are left over */
};

static __host__ __device__ pairs pairs_of(int rows, int columns)
{
    const int m = (rows + TILE - 1) / TILE, n = (columns + TILE - 1) / TILE;
    return {m / 2, (n + 1) / 2, m % 2 != 0};
}

static __host__ __device__ int count_of(const pairs &p)
{
    return p.steps * (2 * p.tall + p.wide);
}

/* Where a block's tile begins. */
struct tile {
    int row, column;
    bool wide;
};

/* The tile of block `rank` in pair t. */
static __device__ __forceinline__ tile tile_of(const pairs &p, int t, int rank)
{
    const int last = max(p.tall - 1, 0) / BAND, band = min(t / (2 * BAND * p.steps), last);
    const int first = band * BAND, tall = min(BAND, p.tall - first);
    const int step_pairs = 2 * tall + (p.wide && band == last);
    const int at = t - 2 * first * p.steps, step = at / step_pairs, i = at % step_pairs;
    if (i < 2 * tall)
        return {TILE * (2 * (first + i % tall) + rank), TILE * (2 * step + i / tall), false};
    return {TILE * 2 * p.tall, TILE * (2 * step + rank), true};
}

/* The place in the ring of stages. */
struct ring {
    int stage;
    uint32_t parity;
    __device__ __forceinline__ void next(void)
    {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

/* Where a block's shared memory has what: stages, results, barriers. */
struct places {
    uint32_t stages, results, full, empty;
};

/* One step of depth at column k for a tile. */
static __device__ __forceinline__ void bring(const mica_cuda_swiglu_args &a, const tile &t, int k,
                                             int rank, uint32_t to, uint32_t full)
{
    barrier_expect(full, STAGE);
    if (t.wide) {
        copy_box_to_both(to + rank * BOX, &a.x, k, t.row + rank * 64, full);
        copy_box(to + GATE, &a.gate, k, t.column, full);
        copy_box(to + UP, &a.up, k, t.column, full);
        return;
    }
    copy_box(to, &a.x, k, t.row, full);
    copy_box(to + BOX, &a.x, k, t.row + 64, full);
    if (rank == 0)
        copy_box_to_both(to + GATE, &a.gate, k, t.column, full);
    else
        copy_box_to_both(to + UP, &a.up, k, t.column, full);
}

static __device__ __forceinline__ void produce(const mica_cuda_swiglu_args &a, const pairs &p,
                                               const places &at, int rank)
{
    ring r = {0, 0};
    for (int i = blockIdx.x / CLUSTER; i < count_of(p); i += gridDim.x / CLUSTER) {
        const tile t = tile_of(p, i, rank);
        if (!t.wide && t.column >= a.columns) /* an odd number of columns */
            continue;
        for (int k = 0; k < a.depth; k += DEPTH, r.next()) {
            barrier_wait(at.empty + 8 * r.stage, r.parity ^ 1);
            bring(a, t, k, rank, at.stages + r.stage * STAGE, at.full + 8 * r.stage);
        }
    }
}

/* silu(gate) * up by the special function unit, whose 2^x and 1 / x are good to 2 ulp of f32: ample for bf16. */
static __device__ __forceinline__ float swiglu(float gate, float up)
{
    float e, r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(gate * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(1.0f + e));
    return gate * r * up;
}

static __device__ __forceinline__ uint32_t two_of(float low, float high)
{
    const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&two);
}

/* A consumer's 64 x 128 of y, from its sums of gate (the first 64) and of up to two boxes. */
static __device__ __forceinline__ void write_results(const float (&d)[128], uint32_t to)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32, matrix = lane / 8;
    const int row = 16 * warp + 8 * (matrix & 1) + lane % 8;
#pragma unroll
    for (int j = 0; j < 8; j++) { /* 16 columns: two chunks of a row */
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int n = 4 * (2 * j + i / 2) + 2 * (i & 1);
            v[i] = two_of(swiglu(d[n], d[n + 64]), swiglu(d[n + 1], d[n + 65]));
        }
        const int chunk = 2 * j + (matrix >> 1);
        store_matrices(to + (chunk / 8) * BOX + row * 128 + ((chunk % 8 ^ (row & 7)) << 4), v);
    }
}

/* Sums of one tile: 64 rows of x by both weights. A stage is given back one step behind, when what read it is done. */
static __device__ __forceinline__ void multiply_tile(float (&d)[128], int depth, const places &at,
                                                     int consumer, ring *r)
{
    const int lane = threadIdx.x % 32;
    const uint64_t x_0 = rows_at(at.stages + consumer * BOX), w_0 = rows_at(at.stages + GATE);
    int before = 0;
    for (int k = 0; k < depth; k += DEPTH, r->next()) {
        const uint64_t x = x_0 + r->stage * (STAGE / 16), w = w_0 + r->stage * (STAGE / 16);
        barrier_wait(at.full + 8 * r->stage, r->parity);
        multiply_begins();
#pragma unroll
        for (int i = 0; i < DEPTH / 16; i++)
            multiply_64x256(d, x + 2 * i, w + 2 * i, i ? 1 : k);
        multiply_commit();
        multiply_wait<1>();
        if (k && lane < CLUSTER)
            barrier_arrive(at.empty + 8 * before, lane);
        before = r->stage;
    }
    sums_are_done(d);
    if (lane < CLUSTER)
        barrier_arrive(at.empty + 8 * before, lane);
}

static __device__ __forceinline__ void consume(const mica_cuda_swiglu_args &a, const pairs &p,
                                               const places &at, int rank, int consumer)
{
    const bool stores = threadIdx.x % 128 == 0;
    const uint32_t result = at.results + consumer * RESULT;
    ring r = {0, 0};
    float d[128];
    for (int i = blockIdx.x / CLUSTER; i < count_of(p); i += gridDim.x / CLUSTER) {
        const tile t = tile_of(p, i, rank);
        if (!t.wide && t.column >= a.columns)
            continue;
        multiply_tile(d, a.depth, at, consumer, &r);
        if (stores)
            stores_have_read();
        warpgroup_wait(1 + consumer);
        write_results(d, result);
        writes_are_for_copies();
        warpgroup_wait(1 + consumer);
        if (stores) {
            store_box(&a.y, result, t.column, t.row + 64 * consumer);
            store_box(&a.y, result + BOX, t.column + 64, t.row + 64 * consumer);
            stores_commit();
        }
    }
    if (stores)
        stores_have_read();
}

static __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    swiglu_product_kernel(const __grid_constant__ mica_cuda_swiglu_args a)
{
    extern __shared__ uint8_t shared[];
    const pairs p = pairs_of(a.rows, a.columns);
    places at;
    at.stages = (shared_at(shared) + 1023) & ~1023u; /* swizzles repeat after 1,024 bytes */
    at.results = at.stages + STAGES * STAGE;
    at.full = at.results + CONSUMERS * RESULT;
    at.empty = at.full + STAGES * 8;
    const int rank = (int)cluster_rank();
    const int group = __shfl_sync(0xffffffff, threadIdx.x / 128, 0); /* known to be a warp's own */
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(at.full + 8 * i, 1);
            barrier_init(at.empty + 8 * i, CLUSTER * CONSUMERS * 4); /* warps */
        }
        barriers_are_made();
    }
    cluster_wait();
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(FOR_PRODUCE));
        if (threadIdx.x == 0)
            produce(a, p, at, rank);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(FOR_CONSUME));
        consume(a, p, at, rank, group - 1);
    }
    cluster_wait(); /* until then the other block may write here */
}

extern "C" cudaError_t mica_cuda_swiglu_product(const mica_cuda_swiglu_args *args,
                                                int multiprocessors, cudaStream_t stream)
{
    const int tiles = CLUSTER * count_of(pairs_of(args->rows, args->columns));
    const int most = multiprocessors / CLUSTER * CLUSTER, grid = tiles < most ? tiles : most;
    const cudaError_t error = cudaFuncSetAttribute(
        swiglu_product_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED);
    if (error != cudaSuccess)
        return error;
    swiglu_product_kernel<<<grid, THREADS, SHARED, stream>>>(*args);
    return cudaGetLastError();
}
