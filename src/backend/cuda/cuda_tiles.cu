/* cuda_tiles.cu - products of few rows with matrices in MLX's 4 bits, by tiles of 16 rows on the matrix
 * units, and the experts of a mixture with the choice taken on the device.
 *
 *     warp: 16 rows of w, groups of 64 numbers
 *       nibble q ──► bf16 128 + q: one AND and OR make two numbers, exactly
 *       D = (128 + q) x      four m16n8k16 a group, x in the 8 columns (one for a single token)
 *       S = 1 x              four more: the sum of x that the 128 and the bias want, in the same place
 *       y += scale D + (bias - 128 scale) S
 *
 * Products of bf16 are exact and sums f32, as by cuda_packed.cu; the instructions are half: 2 a number
 * instead of 3.5, for up to 8 rows of x. The order of k within a group is the file's nibbles' (i and i + 4
 * share a word's halves), and x is taken in the same: it waits in shared memory, in pairs. The warps of a block share
 * k; their sums are joined in shared memory, always in one order.
 *
 * Blocks stay for several tiles, so that the next one's first numbers are on their way before the last one's sums
 * are joined, and a block's first before the kernel before has ended (cuda_early.cuh).
 *
 * Napkin: 14,336 x 4,096 in 4.5 bits are 33 MB, 11 us at 3 TB/s; two experts of Mixtral 198 MB, 66 us. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_early.cuh"
#include "backend/cuda/cuda_tiles.h"

#define WARPS       (BLOCK / 32)
#define GROUP       64
#define STATIC_MOST (12 << 10) /* shared memory beside x, in bytes */

typedef uint32_t pairs[4]; /* of a word's 8 numbers: (0, 4) (1, 5) (2, 6) (3, 7) */

/* 128 + q of two nibbles. */
static __device__ __forceinline__ uint32_t lift(uint32_t word, int shift)
{
    return (word >> shift & 0x000f000fu) | 0x43004300u;
}

/* The same order of 8 numbers of x. */
static __device__ __forceinline__ void pair_up(const uint4 &x, pairs &p)
{
    p[0] = __byte_perm(x.x, x.z, 0x5410);
    p[1] = __byte_perm(x.x, x.z, 0x7632);
    p[2] = __byte_perm(x.y, x.w, 0x5410);
    p[3] = __byte_perm(x.y, x.w, 0x7632);
}

static __device__ __forceinline__ float low(uint32_t w)
{
    return __uint_as_float(w << 16);
}

static __device__ __forceinline__ float high(uint32_t w)
{
    return __uint_as_float(w & 0xffff0000u);
}

/* What a lane has of four groups of its two rows. */
struct four_groups {
    uint2 q[2][4], scale[2], bias[2];
};

/* 16 rows of a matrix, at this lane's first row and numbers. */
struct strip {
    const uint8_t *q;
    const uint16_t *scale, *bias;
};

static __device__ __forceinline__ strip strip_of(const mica_cuda_tiles &w, int n, int row)
{
    const int lane = threadIdx.x % 32, groups = n / GROUP;
    const int64_t first = (int64_t)(row + lane / 4) * groups;
    return {(const uint8_t *)w.data + first * (GROUP / 2) + 8 * (lane % 4),
            (const uint16_t *)w.scale + first, (const uint16_t *)w.bias + first};
}

static __device__ __forceinline__ four_groups ask(const strip &s, int n, int four)
{
    four_groups f;
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int u = 0; u < 4; u++)
            f.q[r][u] = __ldcs((const uint2 *)(s.q + r * 4 * n + (4 * four + u) * (GROUP / 2)));
        f.scale[r] = __ldg((const uint2 *)(s.scale + r * 8 * (n / GROUP) + 4 * four));
        f.bias[r] = __ldg((const uint2 *)(s.bias + r * 8 * (n / GROUP) + 4 * four));
    }
    return f;
}

/* Fours of groups of warp w of `warps`. */
struct stretch {
    int first, end;
};

static __device__ __forceinline__ stretch stretch_of(int n, int w, int warps)
{
    const int fours = n / (4 * GROUP);
    return {fours * w / warps, fours * (w + 1) / warps};
}

/* sum += 16 rows times columns of x over four groups; this lane has rows lane / 4 and + 8, columns 2 (lane % 4) and
 * + 1. x: this lane's numbers of its column in pairs, NULL: zeros. */
static __device__ __forceinline__ void add_groups(const four_groups &f, const uint4 *x,
                                                  float (&sum)[4])
{
    const uint32_t one[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
#pragma unroll
    for (int u = 0; u < 4; u++) {
        uint4 p[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
        float d[4] = {0.0f, 0.0f, 0.0f, 0.0f}, ones[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (x) {
            p[0] = x[u * GROUP / 8];
            p[1] = x[u * GROUP / 8 + 1];
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t a = h ? f.q[0][u].y : f.q[0][u].x, c = h ? f.q[1][u].y : f.q[1][u].x;
            multiply(d, {lift(a, 0), lift(c, 0), lift(a, 4), lift(c, 4)}, p[h].x, p[h].y);
            multiply(ones, one, p[h].x, p[h].y);
            multiply(d, {lift(a, 8), lift(c, 8), lift(a, 12), lift(c, 12)}, p[h].z, p[h].w);
            multiply(ones, one, p[h].z, p[h].w);
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint32_t sw = u < 2 ? f.scale[r].x : f.scale[r].y;
            const uint32_t bw = u < 2 ? f.bias[r].x : f.bias[r].y;
            const float sv = u % 2 ? high(sw) : low(sw), bv = u % 2 ? high(bw) : low(bw);
            const float rest = fmaf(-128.0f, sv, bv);
#pragma unroll
            for (int c = 0; c < 2; c++)
                sum[2 * r + c] += fmaf(sv, d[2 * r + c], rest * ones[2 * r + c]);
        }
    }
}

/* ---------------------------------------------------------------- x in pairs -- */

/* Bytes between rows of x in shared memory: neighbours in other banks. */
static __host__ __device__ __forceinline__ size_t x_stride(int64_t n)
{
    return (size_t)(2 * n + 16);
}

extern __shared__ uint4 room[];

static __device__ __forceinline__ uint4 *x_row(int n, int m)
{
    return (uint4 *)((uint8_t *)room + (size_t)m * x_stride(n));
}

/* A row of x to shared memory. A barrier is to follow. */
static __device__ __forceinline__ void take_x(const void *x, int n, int m)
{
    uint4 *to = x_row(n, m);
    for (int i = threadIdx.x; i < n / 8; i += BLOCK) {
        pairs p;
        pair_up(((const uint4 *)x)[i], p);
        to[i] = make_uint4(p[0], p[1], p[2], p[3]);
    }
}

/* Where number o of a row stands when the row is in pairs. */
static __device__ __forceinline__ int pair_place(int o)
{
    return (o & ~7) | (o & 3) << 1 | (o >> 2 & 1);
}

/* This lane's numbers of a four in a row of x in pairs. */
static __device__ __forceinline__ const uint4 *x_at(const uint4 *row, int four)
{
    return row + (four * 4 * GROUP + 16 * (threadIdx.x % 4)) / 8;
}

/* ------------------------------------------------------------------- units -- */

/* The sums of a tile by warps, until the barrier behind its last stage lets them be joined. */
typedef float tile_parts[WARPS][16][8];
typedef float column_parts[WARPS][16]; /* of a single row of x */

static __device__ __forceinline__ void leave(tile_parts &parts, const float (&sum)[4])
{
    const int lane = threadIdx.x % 32, t = 2 * (lane % 4);
    float(*own)[8] = parts[threadIdx.x / 32];
    own[lane / 4][t] = sum[0];
    own[lane / 4][t + 1] = sum[1];
    own[lane / 4 + 8][t] = sum[2];
    own[lane / 4 + 8][t + 1] = sum[3];
}

static __device__ __forceinline__ void leave(column_parts &parts, const float (&sum)[4])
{
    const int lane = threadIdx.x % 32;
    if (lane % 4)
        return;
    parts[threadIdx.x / 32][lane / 4] = sum[0];
    parts[threadIdx.x / 32][lane / 4 + 8] = sum[2];
}

static __device__ __forceinline__ float join(const tile_parts &parts, int row, int column)
{
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        sum += parts[w][row][column];
    return sum;
}

static __device__ __forceinline__ float join(const column_parts &parts, int first, int warps,
                                             int row)
{
    float sum = 0.0f;
    for (int w = first; w < first + warps; w++)
        sum += parts[w][row];
    return sum;
}

/* A block's units, one after the other: `strips` strips each, of which this warp takes a stretch. The first numbers
 * are asked for before `begin`, which waits for the kernel before this one and brings x; the next ones, whichever
 * unit they are of, while the last are multiplied.
 *     locate(unit, i)        strip i of a unit
 *     read(i, four)          the x of a four of groups
 *     close(i, sum)          a strip's sums of this warp
 *     finish(unit)           behind a barrier */
template <typename Locate, typename Begin, typename Read, typename Close, typename Finish>
static __device__ __forceinline__ void
run_units(int units, int strips, int n, stretch own, const Locate &locate, const Begin &begin,
          const Read &read, const Close &close, const Finish &finish)
{
    int ahead = blockIdx.x, ahead_strip = 0, ahead_four = own.first;
    strip from = locate(ahead, 0);
    four_groups now;
    if (own.first < own.end)
        now = ask(from, n, own.first);
    begin();
#pragma unroll 1
    for (int unit = blockIdx.x; unit < units; unit += gridDim.x) {
#pragma unroll 1
        for (int i = 0; i < strips; i++) {
            float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1
            for (int four = own.first; four < own.end; four++) {
                if (++ahead_four == own.end) {
                    ahead_four = own.first;
                    if (++ahead_strip == strips) {
                        ahead_strip = 0;
                        ahead += gridDim.x;
                    }
                    if (ahead < units)
                        from = locate(ahead, ahead_strip);
                }
                const four_groups next = ask(from, n, ahead_four); /* behind the last: some again */
                add_groups(now, read(i, four), sum);
                now = next;
            }
            close(i, sum);
        }
        __syncthreads();
        finish(unit);
    }
}

/* ----------------------------------------------------------------- linears -- */

/* Up to three matrices over one x; blocks count through their tiles. */
struct tile_linears {
    mica_cuda_tile_linear part[MICA_CUDA_TILE_PARTS];
    int first[MICA_CUDA_TILE_PARTS]; /* tile of each part */
    int count, tiles;
    int row, m; /* rows of x [row, row + m) */
};

static __device__ __forceinline__ int part_of(const tile_linears &all, int tile)
{
    int which = 0;
    while (which + 1 < all.count && tile >= all.first[which + 1])
        which++;
    return which;
}

static __device__ __forceinline__ void finish_linear(const tile_linears &all, int tile,
                                                     const tile_parts &parts)
{
    const int which = part_of(all, tile), r = threadIdx.x % 16, m = threadIdx.x / 16;
    const mica_cuda_tile_linear &a = all.part[which];
    const int64_t o = (int64_t)(tile - all.first[which]) * 16 + r;
    if (m >= all.m)
        return;
    float v = join(parts, r, m);
    if (a.bias)
        v += a.bias[o];
    if (a.residual.data)
        v += load1(a.residual.data, a.residual.type, row_offset(a.residual, all.row + m) + o);
    store1(a.y.data, a.y.type, row_offset(a.y, all.row + m) + o, v);
}

static __global__ void __launch_bounds__(BLOCK, 2)
    linear_kernel(const __grid_constant__ tile_linears all)
{
    __shared__ tile_parts parts[2];
    const mica_cuda_tile_linear &one = all.part[0]; /* x is that of all */
    const int n = (int)one.n, column = threadIdx.x % 32 / 4;
    int side = 0;
    let_next_begin();
    run_units(
        all.tiles, 1, n, stretch_of(n, threadIdx.x / 32, WARPS),
        [&](int tile, int) {
            const int which = part_of(all, tile);
            return strip_of(all.part[which].w, n, (tile - all.first[which]) * 16);
        },
        [&] {
            wait_for_previous();
            for (int m = 0; m < all.m; m++)
                take_x((const __nv_bfloat16 *)one.x + (all.row + m) * one.ldx, n, m);
            __syncthreads();
        },
        [&](int, int four) { return column < all.m ? x_at(x_row(n, column), four) : NULL; },
        [&](int, const float(&sum)[4]) { leave(parts[side], sum); },
        [&](int tile) {
            finish_linear(all, tile, parts[side]);
            side ^= 1;
        });
}

/* ----------------------------------------------------------------- experts -- */

/* Of backend_experts.c: the A largest logits, of equal ones the lower; softmax over all, divided by the sum
 * of the chosen. A warp decides by itself: lane e has the logit of expert e, and lane a afterwards the a-th
 * choice and its share. */
struct choice {
    int expert;
    float share;
};

static __device__ __forceinline__ choice choose(const mica_cuda_tile_experts &a, int m)
{
    const int lane = threadIdx.x % 32;
    float left = lane < a.E ? __ldcg(a.logits + m * a.E + lane) : -INFINITY, sum = 0.0f;
    choice c = {0, 0.0f};
    float top = 0.0f;
    for (int k = 0; k < a.A; k++) {
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

/* What the block's row, blockIdx.y, chose: where its experts lie, [A][3], and their shares. All threads come. */
struct chosen {
    mica_cuda_tiles w[MICA_CUDA_ACTIVE_MOST][3];
    float share[MICA_CUDA_ACTIVE_MOST];
};

static __device__ __forceinline__ void read_chosen(const mica_cuda_tile_experts &a, chosen &c)
{
    constexpr int words = 3 * (int)(sizeof(mica_cuda_tiles) / sizeof(void *));
    if (threadIdx.x < 32) {
        const choice own = choose(a, blockIdx.y);
        const int lane = threadIdx.x;
        if (lane < a.A)
            c.share[lane] = own.share;
        for (int k = 0; k < a.A; k++) {
            const int expert = __shfl_sync(0xffffffffu, own.expert, k);
            if (lane < words)
                ((const void **)c.w[k])[lane] =
                    ((const void *const *)(a.experts + 3 * expert))[lane];
        }
    }
    __syncthreads();
}

/* 16 outputs of gate by half of the warps, the same of up by the others. Units: A x F / 16. What follows may begin
 * when the choices can be read. */
static __global__ void __launch_bounds__(BLOCK, 2)
    gate_up_kernel(const __grid_constant__ mica_cuda_tile_experts a)
{
    __shared__ column_parts parts[2];
    __shared__ chosen c;
    const int tiles = (int)(a.F / 16), n = (int)a.D, warp = threadIdx.x / 32;
    const bool is_up = warp >= WARPS / 2, has_x = threadIdx.x % 32 < 4;
    int side = 0;
    wait_for_previous();
    let_next_begin();
    read_chosen(a, c);
    run_units(
        a.A * tiles, 1, n, stretch_of(n, warp % (WARPS / 2), WARPS / 2),
        [&](int unit, int) { return strip_of(c.w[unit / tiles][is_up], n, unit % tiles * 16); },
        [&] {
            take_x((const __nv_bfloat16 *)a.x + blockIdx.y * a.ldx, n, 0);
            __syncthreads();
        },
        [&](int, int four) { return has_x ? x_at(x_row(n, 0), four) : NULL; },
        [&](int, const float(&sum)[4]) { leave(parts[side], sum); },
        [&](int unit) {
            if (threadIdx.x < 16) {
                const int o = unit % tiles * 16 + threadIdx.x;
                const float gate = join(parts[side], 0, WARPS / 2, threadIdx.x);
                const float up = join(parts[side], WARPS / 2, WARPS / 2, threadIdx.x);
                ((__nv_bfloat16 *)
                     a.hidden)[(blockIdx.y * a.A + unit / tiles) * a.F + pair_place(o)] =
                    __float2bfloat16_rn(silu(gate) * up);
            }
            side ^= 1;
        });
}

/* 16 outputs of all chosen experts. Units: D / 16. The choices stand since before gate_up_kernel let this one begin,
 * so its first weights are asked for while that one runs. */
static __global__ void __launch_bounds__(BLOCK, 2)
    down_kernel(const __grid_constant__ mica_cuda_tile_experts a)
{
    __shared__ column_parts parts[2];
    __shared__ chosen c;
    const int n = (int)a.F;
    const bool has_x = threadIdx.x % 32 < 4;
    int side = 0;
    float total[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    let_next_begin();
    read_chosen(a, c);
    run_units((int)(a.D / 16), a.A, n, stretch_of(n, threadIdx.x / 32, WARPS),
              [&](int unit, int i) { return strip_of(c.w[i][2], n, unit * 16); },
              [] { wait_for_previous(); },
              [&](int i, int four) {
                  const auto row = (const __nv_bfloat16 *)a.hidden + (blockIdx.y * a.A + i) * a.F;
                  return has_x ? x_at((const uint4 *)row, four) : NULL;
              },
              [&](int i, const float(&sum)[4]) {
#pragma unroll
                  for (int k = 0; k < 4; k++)
                      total[k] = fmaf(c.share[i], sum[k], i ? total[k] : 0.0f);
                  if (i + 1 == a.A)
                      leave(parts[side], total);
              },
              [&](int unit) {
                  if (threadIdx.x < 16) {
                      const int64_t at = row_offset(a.y, blockIdx.y) + unit * 16 + threadIdx.x;
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
    return w->type == MICA_CUDA_PACKED_B4 && w->group == GROUP && w->bias && w->rows % 16 == 0 &&
           w->n % (4 * GROUP) == 0 && w->n <= MICA_CUDA_TILE_NUMBERS &&
           w->scale_type == MICA_CUDA_BF16;
}

/* Two blocks a multiprocessor at most: each goes on with further units. */
template <typename Args>
static cudaError_t run_tiles(void (*kernel)(Args), const Args &args, int64_t units, int rows,
                             size_t shared, cudaStream_t stream)
{
    const int64_t most = 2 * mica_cuda_gpu_current().multiprocessors;
    const cudaError_t error = cudaFuncSetAttribute(
        (const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (error != cudaSuccess)
        return error;
    return launch_early(kernel, dim3((unsigned)min(units, most), (unsigned)rows), BLOCK, shared,
                        stream, args);
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

extern "C" cudaError_t mica_cuda_tile_linears_run(const mica_cuda_tile_linear *args, int count,
                                                  cudaStream_t stream)
{
    tile_linears all;
    cudaError_t error = cudaSuccess;
    const int at_once = rows_with_room(args->n);
    all.count = count;
    all.tiles = 0;
    for (int i = 0; i < count; i++) {
        all.part[i] = args[i];
        all.first[i] = all.tiles;
        all.tiles += (int)(args[i].rows / 16);
    }
    for (all.row = 0; all.row < args->m && error == cudaSuccess; all.row += at_once) {
        all.m = min(at_once, args->m - all.row);
        error =
            run_tiles(linear_kernel, all, all.tiles, 1, (size_t)all.m * x_stride(args->n), stream);
    }
    return error;
}

extern "C" cudaError_t mica_cuda_tile_experts_run(const mica_cuda_tile_experts *args,
                                                  cudaStream_t stream)
{
    const mica_cuda_tile_experts &a = *args;
    const cudaError_t error =
        run_tiles(gate_up_kernel, a, a.A * (a.F / 16), a.m, x_stride(a.D), stream);
    return error == cudaSuccess ? run_tiles(down_kernel, a, a.D / 16, a.m, 0, stream) : error;
}
