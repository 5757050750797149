/* cuda_tiles.cu - products of few rows with matrices in MLX's 4 bits, by tiles of 16 rows on the matrix
 * units, and the experts of a mixture with the choice taken on the device; the arithmetic is in cuda_tiles.cuh.
 *
 *     linears     a unit is a tile, its rows shared by 8 warps; up to 8 rows of x, each as if it were alone
 *     gate, up    a unit is a tile of both, 4 warps each
 *     down        a unit is a tile of two chosen experts at a time, 4 warps each; A / 2 turns
 *
 * Blocks stay for several units, so that the next one's first numbers are on their way before the last one's sums
 * are joined, and a block's first before the kernel before has ended (cuda_early.cuh).
 *
 * Napkin: 14,336 x 4,096 in 4.5 bits are 33 MB, 11 us at 3 TB/s; two experts of Mixtral 198 MB, 66 us. */
#include "backend/cuda/cuda_choice.cuh"
#include "backend/cuda/cuda_tiles.cuh"

#define STATIC_MOST (26 << 10) /* shared memory beside x, in bytes */

/* ----------------------------------------------------------------- linears -- */

/* Up to three matrices over one x; blocks count through their tiles. */
struct tile_linears {
    mica_cuda_tile_linear part[MICA_CUDA_TILE_PARTS];
    int first[MICA_CUDA_TILE_PARTS]; /* tile of each part */
    int count, tiles;
    int row, m; /* rows of x [row, row + m) */
    mica_cuda_tile_extra extra;
};

static __device__ __forceinline__ int part_of(const tile_linears &all, int tile)
{
    int which = 0;
    while (which + 1 < all.count && tile >= all.first[which + 1])
        which++;
    return which;
}

/* Row m, output r of the tile, and where it goes. */
static __device__ __forceinline__ float output_of(const tile_linears &all, int tile,
                                                  const tile_parts &parts, int r, int m)
{
    const int which = part_of(all, tile);
    const mica_cuda_tile_linear &a = all.part[which];
    const int64_t o = (int64_t)(tile - all.first[which]) * TILE + r;
    float v = join(parts, 0, WARPS, r);
    if (a.bias)
        v += a.bias[o];
    if (a.residual.data)
        v += load1(a.residual.data, a.residual.type, row_offset(a.residual, all.row + m) + o);
    return v;
}

static __device__ __forceinline__ void put_output(const tile_linears &all, int tile, int r, int m,
                                                  float v)
{
    const int which = part_of(all, tile);
    const mica_cuda_tile_linear &a = all.part[which];
    store1(a.y.data, a.y.type, row_offset(a.y, all.row + m) + (tile - all.first[which]) * TILE + r,
           v);
}

/* Row m of a tile that feeds a router, by the whole block: 16 threads an expert. All of them read the residual, which
 * y may be, before some write. */
static __device__ __forceinline__ void finish_routed(const tile_linears &all, int tile,
                                                     const tile_parts &parts, int m)
{
    const mica_cuda_tile_router &to = all.extra.router;
    const int r = threadIdx.x % TILE, who = threadIdx.x / TILE, lane = threadIdx.x % 32;
    const int64_t outputs = all.part[0].rows, o = (int64_t)tile * TILE + r;
    const float v = output_of(all, tile, parts, r, m);
    const float own = __bfloat162float(__float2bfloat16_rn(v)), scaled = own * to.norm.w[o];
    __syncthreads();
    if (who == 0)
        put_output(all, tile, r, m, v);
    for (int e = who; e <= to.E; e += BLOCK / TILE) {
        float term = e < to.E ? scaled * load1(to.w, to.type, e * outputs + o) : own * own;
#pragma unroll
        for (int step = 1; step < TILE; step *= 2)
            term += __shfl_xor_sync(0xffffu << (lane & 16), term, step);
        if (r == 0)
            to.partials[((all.row + m) * (to.E + 1) + e) * (outputs / TILE) + tile] = term;
    }
}

/* All rows of a unit; a row's sums are in parts[m]. */
static __device__ __forceinline__ void finish_linear(const tile_linears &all, int tile,
                                                     const tile_parts *parts)
{
    const int r = threadIdx.x % TILE, row = threadIdx.x / TILE;
    if (all.extra.router.w)
#pragma unroll 1
        for (int m = 0; m < all.m; m++)
            finish_routed(all, tile, parts[m], m);
    else if (row < all.m)
        put_output(all, tile, r, row, output_of(all, tile, parts[row], r, row));
}

/* What a block reads behind the wait on its way; then all rows of x. */
static __device__ __forceinline__ void begin_linear(const tile_linears &all)
{
    __shared__ float part[2][WARPS];
    const mica_cuda_tile_linear &one = all.part[0]; /* x is that of all */
    const mica_cuda_tile_router &to = all.extra.router;
    const mica_cuda_tile_norm &norm = all.extra.norm;
    const int n = (int)one.n;
    if (norm.w)
        ask_for(norm.w, 4 * (int64_t)n);
    if (to.w && (int)threadIdx.x <= to.E) {
        const int e = threadIdx.x, size = to.type == MICA_CUDA_F32 ? 4 : 2;
        ask_l2(e < to.E ? (const void *)((const uint8_t *)to.w +
                                         (e * one.rows + blockIdx.x * TILE) * size)
                        : to.norm.w + blockIdx.x * TILE);
    }
    wait_for_previous();
#pragma unroll 1
    for (int m = 0; m < all.m; m++) {
        const void *x = (const __nv_bfloat16 *)one.x + (all.row + m) * one.ldx;
        if (norm.w)
            take_normed_x(x, n, m, norm, part[m % 2]);
        else
            take_x(x, n, m);
    }
    __syncthreads();
}

static __device__ __forceinline__ strip linear_strip(const tile_linears &all, int tile)
{
    const int which = part_of(all, tile);
    return strip_of(all.part[which].w, (int)all.part[0].n, (tile - all.first[which]) * TILE);
}

/* Units of one strip and one row of x: finish(unit, parts) gets the sums, behind a barrier. */
template <bool F16, typename Locate, typename Begin, typename Finish>
static __device__ __forceinline__ void run_row(int units, int n, stretch own, const Locate &locate,
                                               const Begin &begin, const Finish &finish)
{
    __shared__ tile_parts parts[2];
    float sum[2] = {0.0f, 0.0f};
    int side = 0;
    run_units(
        units, 1, n, own, locate, begin,
        [&](int, int at, chunk &now, const strip &from, int next) {
            x_chunk x;
            read_x(x, n, 0, at);
            multiply_chunk<F16, true>(now, from, n, next, x, sum);
        },
        [&](int) {
            leave(parts[side], sum);
            sum[0] = sum[1] = 0.0f;
        },
        [&](int unit) {
            finish(unit, parts[side]);
            side ^= 1;
        });
}

/* One row of x. */
template <bool F16>
static __global__ void __launch_bounds__(BLOCK, 2)
    linear_kernel(const __grid_constant__ tile_linears all)
{
    const int n = (int)all.part[0].n;
    let_next_begin();
    run_row<F16>(
        all.tiles, n, stretch_of(n, threadIdx.x / 32, WARPS),
        [&](int tile, int) { return linear_strip(all, tile); }, [&] { begin_linear(all); },
        [&](int tile, const tile_parts &parts) { finish_linear(all, tile, &parts); });
}

/* Several: the same for each, and its sums wait in shared memory while a chunk goes through all of them. */
template <bool F16>
static __global__ void __launch_bounds__(BLOCK, 2)
    linear_rows_kernel(const __grid_constant__ tile_linears all)
{
    __shared__ tile_parts parts[2][MICA_CUDA_TILE_ROWS];
    __shared__ float sums[MICA_CUDA_TILE_ROWS][2][BLOCK];
    const int n = (int)all.part[0].n;
    int side = 0;
    let_next_begin();
    for (int m = 0; m < all.m; m++)
        sums[m][0][threadIdx.x] = sums[m][1][threadIdx.x] = 0.0f;
    run_units(
        all.tiles, 1, n, stretch_of(n, threadIdx.x / 32, WARPS),
        [&](int tile, int) { return linear_strip(all, tile); }, [&] { begin_linear(all); },
        [&](int, int at, chunk &now, const strip &from, int next) {
#pragma unroll 1
            for (int m = 0; m < all.m; m++) {
                float sum[2] = {sums[m][0][threadIdx.x], sums[m][1][threadIdx.x]};
                x_chunk x;
                read_x(x, n, m, at);
                multiply_chunk<F16, false>(now, from, n, next, x, sum);
                sums[m][0][threadIdx.x] = sum[0];
                sums[m][1][threadIdx.x] = sum[1];
            }
            ask(now, from, n, next);
        },
        [&](int) {
            for (int m = 0; m < all.m; m++) {
                float sum[2] = {sums[m][0][threadIdx.x], sums[m][1][threadIdx.x]};
                leave(parts[side][m], sum);
                sums[m][0][threadIdx.x] = sums[m][1][threadIdx.x] = 0.0f;
            }
        },
        [&](int tile) {
            finish_linear(all, tile, parts[side]);
            side ^= 1;
        });
}

/* ----------------------------------------------------------------- experts -- */

/* What the block's row, blockIdx.y, chose: where its experts lie, [A][3], and their shares. */
struct chosen {
    mica_cuda_matrix w[MICA_CUDA_ACTIVE_MOST][3];
    float share[MICA_CUDA_ACTIVE_MOST];
    float totals[MICA_CUDA_EXPERTS_MOST + 1]; /* of partials, to be multiplied by: */
    float factor;                             /* of x's norm */
};

/* Sums of the partials: a warp a sum. A barrier is to follow. */
static __device__ __forceinline__ void add_partials(const mica_cuda_tile_experts &a, chosen &c)
{
    const int tiles = (int)(a.D / TILE), lane = threadIdx.x % 32;
    for (int e = threadIdx.x / 32; e <= a.E; e += WARPS) {
        const float *from = a.partials + (blockIdx.y * (a.E + 1) + e) * tiles;
        float sum = 0.0f;
#pragma unroll 8
        for (int t = lane; t < tiles; t += 32)
            sum += __ldcg(from + t);
        sum = warp_sum(sum);
        if (lane == 0)
            c.totals[e] = sum;
    }
}

/* All threads come. */
static __device__ __forceinline__ void read_chosen(const mica_cuda_tile_experts &a, chosen &c)
{
    constexpr int words = 3 * (int)(sizeof(mica_cuda_matrix) / sizeof(void *));
    if (!a.logits) {
        add_partials(a, c);
        __syncthreads();
    }
    if (threadIdx.x < 32) {
        const int lane = threadIdx.x;
        const float factor = a.logits ? 1.0f : norm_factor(c.totals[a.E], (int)a.D, a.norm.eps);
        const mica_cuda_choice own =
            a.logits ? choose_experts(a.logits + blockIdx.y * a.E, a.E, a.A)
                     : choose_experts(lane < a.E ? c.totals[lane] * factor : 0.0f, a.E, a.A);
        if (lane < a.A)
            c.share[lane] = own.share;
        if (lane == 0)
            c.factor = factor;
        for (int k = 0; k < a.A; k++) {
            const int expert = __shfl_sync(0xffffffffu, own.expert, k);
            if (lane < words)
                ((const void **)c.w[k])[lane] =
                    ((const void *const *)(a.experts + 3 * expert))[lane];
        }
    }
    __syncthreads();
}

/* hidden[choice] in pairs, the sums of every 16 behind all of them. */
static __device__ __forceinline__ float *hidden_sums(const mica_cuda_tile_experts &a,
                                                     int64_t choice)
{
    return (float *)((__nv_bfloat16 *)a.hidden + (int64_t)a.m * a.A * a.F) + choice * (a.F / TILE);
}

/* Output o of gate and up, by 16 threads. */
static __device__ __forceinline__ void finish_hidden(const mica_cuda_tile_experts &a, int unit,
                                                     const tile_parts &parts)
{
    const int tiles = (int)(a.F / TILE), r = threadIdx.x;
    const int64_t choice = blockIdx.y * a.A + unit / tiles;
    const float gate = join(parts, 0, WARPS / 2, r), up = join(parts, WARPS / 2, WARPS / 2, r);
    const __nv_bfloat16 h = __float2bfloat16_rn(silu(gate) * up);
    ((__nv_bfloat16 *)a.hidden)[choice * a.F + x_place(unit % tiles * TILE + r)] = h;
    float sum = __bfloat162float(h);
#pragma unroll
    for (int step = 1; step < TILE; step *= 2)
        sum += __shfl_xor_sync(0xffffu, sum, step);
    if (r == 0)
        hidden_sums(a, choice)[unit % tiles] = sum;
}

static __device__ __forceinline__ void read_hidden(const mica_cuda_tile_experts &a, int64_t choice,
                                                   int at, x_chunk &x)
{
    const float4 *sums = (const float4 *)hidden_sums(a, choice);
    const int n = (int)a.F, own = 8 * at + 2 * (threadIdx.x % 4);
    read_x(x, (const uint4 *)((const __nv_bfloat16 *)a.hidden + choice * n), at, n / 8);
    x.s = make_float2(0.0f, 0.0f);
    if (own < n / GROUP) {
        const float4 p = sums[own], q = sums[own + 1];
        x.s = make_float2((p.x + p.y) + (p.z + p.w), (q.x + q.y) + (q.z + q.w));
    }
}

/* 16 outputs of gate by half of the warps, the same of up by the others. Units: A x F / 16. What follows may begin
 * when the choices can be read. */
template <bool F16>
static __global__ void __launch_bounds__(BLOCK, 2)
    gate_up_kernel(const __grid_constant__ mica_cuda_tile_experts a)
{
    __shared__ chosen c;
    const int tiles = (int)(a.F / TILE), n = (int)a.D, warp = threadIdx.x / 32;
    const bool is_up = warp >= WARPS / 2;
    if (a.norm.w)
        ask_for(a.norm.w, 4 * a.D);
    ask_for(a.experts, 3 * a.E * (int64_t)sizeof *a.experts);
    wait_for_previous();
    let_next_begin();
    read_chosen(a, c);
    run_row<F16>(
        a.A * tiles, n, stretch_of(n, warp % (WARPS / 2), WARPS / 2),
        [&](int unit, int) { return strip_of(c.w[unit / tiles][is_up], n, unit % tiles * TILE); },
        [&] {
            const void *x = (const __nv_bfloat16 *)a.x + blockIdx.y * a.ldx;
            if (a.logits)
                take_x(x, n, 0);
            else
                take_scaled_x(x, n, a.norm.w, c.factor);
            __syncthreads();
        },
        [&](int unit, const tile_parts &parts) {
            if (threadIdx.x < TILE)
                finish_hidden(a, unit, parts);
        });
}

/* 16 outputs of all chosen experts, the even ones by half of the warps. Units: D / 16. The choices stand since before
 * gate_up_kernel let this one begin, so its first weights are asked for while that one runs. */
template <bool F16>
static __global__ void __launch_bounds__(BLOCK, 2)
    down_kernel(const __grid_constant__ mica_cuda_tile_experts a)
{
    __shared__ tile_parts parts[2];
    __shared__ chosen c;
    const int n = (int)a.F, warp = threadIdx.x / 32, half = warp / (WARPS / 2);
    const int turns = (a.A + 1 - half) / 2;
    const stretch own = stretch_of(n, warp % (WARPS / 2), WARPS / 2);
    float sum[2] = {0.0f, 0.0f}, total[2] = {0.0f, 0.0f};
    int side = 0;
    let_next_begin();
    read_chosen(a, c);
    if (turns == 0) { /* nothing to add, ever */
        leave(parts[0], sum);
        leave(parts[1], sum);
    }
    run_units((int)(a.D / TILE), turns, n, turns ? own : stretch{0, 0},
              [&](int unit, int i) { return strip_of(c.w[2 * i + half][2], n, unit * TILE); },
              [] { wait_for_previous(); },
              [&](int i, int at, chunk &now, const strip &from, int next) {
                  x_chunk x;
                  read_hidden(a, blockIdx.y * a.A + 2 * i + half, at, x);
                  multiply_chunk<F16, true>(now, from, n, next, x, sum);
              },
              [&](int i) {
#pragma unroll
                  for (int r = 0; r < 2; r++) {
                      total[r] = fmaf(c.share[2 * i + half], sum[r], i ? total[r] : 0.0f);
                      sum[r] = 0.0f;
                  }
                  if (i + 1 == turns)
                      leave(parts[side], total);
              },
              [&](int unit) {
                  if (threadIdx.x < TILE) {
                      const int64_t at = row_offset(a.y, blockIdx.y) + unit * TILE + threadIdx.x;
                      store1(a.y.data, a.y.type, at,
                             load1(a.y.data, a.y.type, at) +
                                 join(parts[side], 0, WARPS, threadIdx.x));
                  }
                  side ^= 1;
              });
}

/* ---------------------------------------------------------------- launches -- */

extern "C" bool mica_cuda_tiles_fit(const mica_cuda_packed_rows *w)
{
    return w->type == MICA_CUDA_PACKED_B4 && w->group == GROUP && w->bias && w->rows % TILE == 0 &&
           w->n % (4 * GROUP) == 0 && w->n <= MICA_CUDA_TILE_NUMBERS &&
           (w->scale_type == MICA_CUDA_BF16 || w->scale_type == MICA_CUDA_F16);
}

/* Two blocks a multiprocessor at most; each goes on with further units, all with as many where that can be. */
template <typename Args>
static cudaError_t run_tiles(void (*kernel)(Args), const Args &args, int64_t units, int rows,
                             size_t shared, cudaStream_t stream)
{
    const int64_t most = 2 * mica_cuda_gpu_current().multiprocessors;
    const int64_t turns = (units + most - 1) / most;
    const cudaError_t error = cudaFuncSetAttribute(
        (const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (error != cudaSuccess)
        return error;
    return launch_early(kernel, dim3((unsigned)((units + turns - 1) / turns), (unsigned)rows),
                        BLOCK, shared, stream, args);
}

/* Rows of x of n numbers that have room in shared memory. */
static int rows_with_room(int64_t n)
{
    return (int)((mica_cuda_gpu_current().shared_most - STATIC_MOST) / (int64_t)x_stride(n));
}

extern "C" bool mica_cuda_tile_experts_fit(int A, int64_t D, int64_t F)
{
    return A <= MICA_CUDA_ACTIVE_MOST && rows_with_room(D) >= 1 && F <= MICA_CUDA_TILE_NUMBERS;
}

extern "C" size_t mica_cuda_tile_hidden_size(int rows, int64_t F)
{
    return (size_t)rows * (size_t)(F * 2 + F / TILE * 4);
}

extern "C" cudaError_t mica_cuda_tile_linears_run(const mica_cuda_tile_linear *args, int count,
                                                  const mica_cuda_tile_extra *extra,
                                                  cudaStream_t stream)
{
    tile_linears all = {};
    cudaError_t error = cudaSuccess;
    const int at_once = rows_with_room(args->n);
    const bool f16 = args->scales == MICA_CUDA_F16;
    const auto one = f16 ? linear_kernel<true> : linear_kernel<false>;
    const auto several = f16 ? linear_rows_kernel<true> : linear_rows_kernel<false>;
    all.count = count;
    if (extra)
        all.extra = *extra;
    for (int i = 0; i < count; i++) {
        all.part[i] = args[i];
        all.first[i] = all.tiles;
        all.tiles += (int)(args[i].rows / TILE);
    }
    for (all.row = 0; all.row < args->m && error == cudaSuccess; all.row += at_once) {
        all.m = min(at_once, args->m - all.row);
        error = run_tiles(all.m == 1 ? one : several, all, all.tiles, 1,
                          (size_t)all.m * x_stride(args->n), stream);
    }
    return error;
}

extern "C" cudaError_t mica_cuda_tile_experts_run(const mica_cuda_tile_experts *args,
                                                  cudaStream_t stream)
{
    const mica_cuda_tile_experts &a = *args;
    const bool f16 = a.scales == MICA_CUDA_F16;
    const auto gate_up = f16 ? gate_up_kernel<true> : gate_up_kernel<false>;
    const auto down = f16 ? down_kernel<true> : down_kernel<false>;
    const cudaError_t error = run_tiles(gate_up, a, a.A * (a.F / TILE), a.m, x_stride(a.D), stream);
    return error == cudaSuccess ? run_tiles(down, a, a.D / TILE, a.m, 0, stream) : error;
}
