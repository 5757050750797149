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
 * share a word's halves), and x is taken in the same. The warps of a block share k; their sums are joined in
 * shared memory, always in one order.
 *
 * Napkin: 14,336 x 4,096 in 4.5 bits are 33 MB, 11 us at 3 TB/s; two experts of Mixtral 198 MB, 66 us. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_tiles.h"

#define WARPS (BLOCK / 32)
#define GROUP 64

typedef uint32_t pairs[4]; /* of a word's 8 numbers: (0, 4) (1, 5) (2, 6) (3, 7) */

static __device__ __forceinline__ void multiply(float (&d)[4], uint32_t a0, uint32_t a1,
                                                uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

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

struct tile_rows { /* at this lane's first row */
    const uint8_t *data;
    const uint16_t *scale, *bias;
    int64_t n, groups;
};

static __device__ __forceinline__ four_groups ask(const tile_rows &w, int g)
{
    four_groups f;
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int u = 0; u < 4; u++)
            f.q[r][u] = __ldcs((const uint2 *)(w.data + r * 4 * w.n + (g + u) * (GROUP / 2)));
        f.scale[r] = __ldg((const uint2 *)(w.scale + r * 8 * w.groups + g));
        f.bias[r] = __ldg((const uint2 *)(w.bias + r * 8 * w.groups + g));
    }
    return f;
}

/* x: 16 numbers of this lane's column in each group, or NULL: zeros. */
static __device__ __forceinline__ void add_groups(const four_groups &f, const __nv_bfloat16 *x,
                                                  float (&sum)[4])
{
#pragma unroll
    for (int u = 0; u < 4; u++) {
        uint4 raw[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
        float d[4] = {0.0f, 0.0f, 0.0f, 0.0f}, ones[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (x) {
            const uint4 *from = (const uint4 *)(x + u * GROUP);
            raw[0] = from[0];
            raw[1] = from[1];
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            pairs p;
            pair_up(raw[h], p);
            const uint32_t a = h ? f.q[0][u].y : f.q[0][u].x, c = h ? f.q[1][u].y : f.q[1][u].x;
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                multiply(d, lift(a, 4 * i), lift(c, 4 * i), lift(a, 4 * i + 4), lift(c, 4 * i + 4),
                         p[i], p[i + 1]);
                multiply(ones, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u, p[i], p[i + 1]);
            }
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

/* sum[c] += rows [row, row + 16) of w times columns of x over groups [first, end) of four; this lane has rows
 * lane / 4 and + 8, columns 2 (lane % 4) and + 1. x: this lane's column's row of x, NULL: zeros. The next
 * groups are on their way while these are multiplied. */
static __device__ __forceinline__ void tile(const mica_cuda_tiles &w, int64_t n, int64_t row,
                                            int first, int end, const __nv_bfloat16 *x,
                                            float (&sum)[4])
{
    const int lane = threadIdx.x % 32, t = lane % 4;
    const int64_t low_row = row + lane / 4, groups = n / GROUP;
    const tile_rows rows = {(const uint8_t *)w.data + low_row * (n / 2) + 8 * t,
                            (const uint16_t *)w.scale + low_row * groups,
                            (const uint16_t *)w.bias + low_row * groups, n, groups};
    if (first >= end)
        return;
    if (x)
        x += 16 * t;
    four_groups now = ask(rows, 4 * first);
    for (int g = 4 * first; g < 4 * end; g += 4) {
        const four_groups next = ask(rows, g + 4 < 4 * end ? g + 4 : g);
        add_groups(now, x ? x + g * GROUP : NULL, sum);
        now = next;
    }
}

/* The sums of `warps` warps from the first on, in out[16][8] of shared memory; thread i < 128 gets one. */
static __device__ __forceinline__ void leave(float (*parts)[16][8], const float (&sum)[4])
{
    const int lane = threadIdx.x % 32, t = 2 * (lane % 4);
    float(*own)[8] = parts[threadIdx.x / 32];
    own[lane / 4][t] = sum[0];
    own[lane / 4][t + 1] = sum[1];
    own[lane / 4 + 8][t] = sum[2];
    own[lane / 4 + 8][t + 1] = sum[3];
}

static __device__ __forceinline__ float join(const float (*parts)[16][8], int first, int warps,
                                             int row, int column)
{
    float sum = 0.0f;
    for (int w = first; w < first + warps; w++)
        sum += parts[w][row][column];
    return sum;
}

/* Groups of four of warp w of `warps`: [first, end). */
static __device__ __forceinline__ void stretch(int64_t n, int w, int warps, int *first, int *end)
{
    const int fours = (int)(n / (4 * GROUP));
    *first = fours * w / warps;
    *end = fours * (w + 1) / warps;
}

/* ----------------------------------------------------------------- linears -- */

/* Up to three matrices over one x; blocks count through their tiles. */
struct tile_linears {
    mica_cuda_tile_linear part[MICA_CUDA_TILE_PARTS];
    int first[MICA_CUDA_TILE_PARTS]; /* tile of each part */
    int count;
};

static __global__ void __launch_bounds__(BLOCK, 2) linear_kernel(const tile_linears all)
{
    __shared__ float parts[WARPS][16][8];
    int which = 0;
    while (which + 1 < all.count && (int)blockIdx.x >= all.first[which + 1])
        which++;
    const mica_cuda_tile_linear &a = all.part[which];
    const int column = threadIdx.x % 32 / 4;
    const int64_t row = (int64_t)(blockIdx.x - all.first[which]) * 16;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    int first, end;
    stretch(a.n, threadIdx.x / 32, WARPS, &first, &end);
    tile(a.w, a.n, row, first, end,
         column < a.m ? (const __nv_bfloat16 *)a.x + column * a.ldx : NULL, sum);
    leave(parts, sum);
    __syncthreads();
    const int r = threadIdx.x % 16, m = threadIdx.x / 16;
    if (m >= a.m)
        return;
    float v = join(parts, 0, WARPS, r, m);
    if (a.bias)
        v += a.bias[row + r];
    if (a.residual.data)
        v += load1(a.residual.data, a.residual.type, row_offset(a.residual, m) + row + r);
    store1(a.y.data, a.y.type, row_offset(a.y, m) + row + r, v);
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
    float left = lane < a.E ? a.logits[m * a.E + lane] : -INFINITY, sum = 0.0f;
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

/* 16 outputs of gate by half of the warps, the same of up by the others. Grid: F / 16, rows x A. */
static __global__ void __launch_bounds__(BLOCK, 2) gate_up_kernel(const mica_cuda_tile_experts a)
{
    __shared__ float parts[WARPS][16][8];
    const int m = blockIdx.y / a.A, active = blockIdx.y % a.A, warp = threadIdx.x / 32;
    const int expert = __shfl_sync(0xffffffffu, choose(a, m).expert, active);
    const int64_t row = (int64_t)blockIdx.x * 16;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    int first, end;
    stretch(a.D, warp % (WARPS / 2), WARPS / 2, &first, &end);
    const mica_cuda_tiles w = a.experts[3 * expert + warp / (WARPS / 2)];
    tile(w, a.D, row, first, end,
         threadIdx.x % 32 < 4 ? (const __nv_bfloat16 *)a.x + m * a.ldx : NULL, sum);
    leave(parts, sum);
    __syncthreads();
    if (threadIdx.x >= 16)
        return;
    const float gate = join(parts, 0, WARPS / 2, threadIdx.x, 0);
    const float up = join(parts, WARPS / 2, WARPS / 2, threadIdx.x, 0);
    ((__nv_bfloat16 *)a.hidden)[(int64_t)blockIdx.y * a.F + row + threadIdx.x] =
        __float2bfloat16_rn(silu(gate) * up);
}

/* 16 outputs of all chosen experts. Grid: D / 16, rows. */
static __global__ void __launch_bounds__(BLOCK, 2) down_kernel(const mica_cuda_tile_experts a)
{
    __shared__ float parts[WARPS][16][8];
    const int m = blockIdx.y;
    const choice c = choose(a, m);
    const int64_t row = (int64_t)blockIdx.x * 16;
    float total[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    int first, end;
    stretch(a.F, threadIdx.x / 32, WARPS, &first, &end);
    for (int active = 0; active < a.A; active++) {
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        const int expert = __shfl_sync(0xffffffffu, c.expert, active);
        const float share = __shfl_sync(0xffffffffu, c.share, active);
        const mica_cuda_tiles w = a.experts[3 * expert + 2];
        tile(w, a.F, row, first, end,
             threadIdx.x % 32 < 4
                 ? (const __nv_bfloat16 *)a.hidden + (int64_t)(m * a.A + active) * a.F
                 : NULL,
             sum);
#pragma unroll
        for (int i = 0; i < 4; i++)
            total[i] = fmaf(share, sum[i], total[i]);
    }
    leave(parts, total);
    __syncthreads();
    if (threadIdx.x >= 16)
        return;
    const int64_t at = row_offset(a.y, m) + row + threadIdx.x;
    store1(a.y.data, a.y.type, at,
           load1(a.y.data, a.y.type, at) + join(parts, 0, WARPS, threadIdx.x, 0));
}

/* ---------------------------------------------------------------- launches -- */

extern "C" bool mica_cuda_tiles_fit(const mica_cuda_packed_rows *w)
{
    return w->type == MICA_CUDA_PACKED_B4 && w->group == GROUP && w->bias && w->rows % 16 == 0 &&
           w->n % (4 * GROUP) == 0 && w->scale_type == MICA_CUDA_BF16;
}

extern "C" cudaError_t mica_cuda_tile_linears_run(const mica_cuda_tile_linear *args, int count,
                                                  cudaStream_t stream)
{
    tile_linears all;
    int tiles = 0;
    all.count = count;
    for (int i = 0; i < count; i++) {
        all.part[i] = args[i];
        all.first[i] = tiles;
        tiles += (int)(args[i].rows / 16);
    }
    linear_kernel<<<(unsigned)tiles, BLOCK, 0, stream>>>(all);
    return cudaGetLastError();
}

extern "C" cudaError_t mica_cuda_tile_experts_run(const mica_cuda_tile_experts *args,
                                                  cudaStream_t stream)
{
    gate_up_kernel<<<dim3((unsigned)(args->F / 16), (unsigned)(args->m * args->A)), BLOCK, 0,
                     stream>>>(*args);
    down_kernel<<<dim3((unsigned)(args->D / 16), (unsigned)args->m), BLOCK, 0, stream>>>(*args);
    return cudaGetLastError();
}
