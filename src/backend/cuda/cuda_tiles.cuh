/* cuda_tiles.cuh - 16 rows of a matrix in MLX's 4 bits times a row of x on the matrix units: what the kernels of
 * cuda_tiles.cu share.
 *
 *     warp: 16 rows of w, chunks of 512 numbers: 8 groups of 64
 *       nibble q ──► bf16 128 + q: one AND and OR make two numbers, exactly
 *
 *       a lane's 16 bytes of a row, i = 0..3:       numbers 128 i + 32 t ..       t = lane % 4
 *       column c of the product                     has x at the numbers of group c, else zeros
 *       D[i] = (128 + q) x                          columns 2 i and 2 i + 1 are this i's two groups, the others nothing
 *       y += scale D + (bias - 128 scale) S         by lane t for groups 2 t, 2 t + 1; S: the group's sum of x
 *
 * So a row is read 64 bytes at a time though a group has 32, and the 8 columns of which a token needs one keep groups
 * apart. Products of bf16 are exact and sums f32, as by cuda_packed.cu. S is made once per row of x. The order of
 * numbers within a word is the file's nibbles' (i and i + 4 share its halves), and x is taken in the same: it waits in
 * that order, "in pairs" (x_place), in shared memory or where the kernel before wrote it.
 *
 * A chunk's numbers are asked for again, for the next chunk, as soon as they are multiplied: 4 KB a warp are always on
 * their way, 64 KB a multiprocessor. The warps of a block share a row; their sums are joined in one order. */
#ifndef MICA_BACKEND_CUDA_TILES_CUH
#define MICA_BACKEND_CUDA_TILES_CUH

#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_early.cuh"
#include "backend/cuda/cuda_tiles.h"

#include <cuda_fp16.h>

#define WARPS (BLOCK / 32)
#define TILE  16
#define GROUP 64
#define CHUNK 512 /* numbers */

/* 128 + q of two nibbles. */
static __device__ __forceinline__ uint32_t lift(uint32_t word, int shift)
{
    return (word >> shift & 0x000f000fu) | 0x43004300u;
}

static __device__ __forceinline__ float low(uint32_t w)
{
    return __uint_as_float(w << 16);
}

static __device__ __forceinline__ float high(uint32_t w)
{
    return __uint_as_float(w & 0xffff0000u);
}

/* The first and the second of two scales or biases, f16 or bf16. */
template <bool F16> static __device__ __forceinline__ float first_of(uint32_t w)
{
    return F16 ? __half2float(__ushort_as_half((unsigned short)w)) : low(w);
}

template <bool F16> static __device__ __forceinline__ float second_of(uint32_t w)
{
    return F16 ? __half2float(__ushort_as_half((unsigned short)(w >> 16))) : high(w);
}

/* -------------------------------------------------------------------- w -- */

/* What a lane has of a chunk of its two rows, lane / 4 and that + 8; scales and biases of its two groups. */
struct chunk {
    uint4 q[2][4];
    uint32_t scale[2], bias[2];
};

/* 16 rows of a matrix, at this lane's first row and numbers. */
struct strip {
    const uint8_t *q;
    const uint16_t *scale, *bias;
};

static __device__ __forceinline__ strip strip_of(const mica_cuda_matrix &w, int n, int row)
{
    const int lane = threadIdx.x % 32, groups = n / GROUP;
    const int64_t first = (int64_t)(row + lane / 4) * groups;
    return {(const uint8_t *)w.data + first * (GROUP / 2) + 16 * (lane % 4),
            (const uint16_t *)w.scale + first, (const uint16_t *)w.bias + first};
}

/* Numbers 128 i .. of chunk `at`; behind the end of a row: some before it, which x multiplies by zeros. */
static __device__ __forceinline__ void ask_numbers(chunk &c, const strip &s, int n, int at, int i)
{
    const int offset = at * (CHUNK / 2) + 64 * i - (2 * 64 * i + at * CHUNK < n ? 0 : 128);
#pragma unroll
    for (int r = 0; r < 2; r++)
        c.q[r][i] = __ldcs((const uint4 *)(s.q + r * 4 * n + offset));
}

static __device__ __forceinline__ void ask_scales(chunk &c, const strip &s, int n, int at)
{
    const int groups = n / GROUP, own = 8 * at + 2 * (threadIdx.x % 4);
    const int first = own < groups ? own : 8 * at;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        c.scale[r] = __ldg((const uint32_t *)(s.scale + r * 8 * groups + first));
        c.bias[r] = __ldg((const uint32_t *)(s.bias + r * 8 * groups + first));
    }
}

static __device__ __forceinline__ void ask(chunk &c, const strip &s, int n, int at)
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        ask_numbers(c, s, n, at, i);
    ask_scales(c, s, n, at);
}

/* ------------------------------------------------------- x in pairs, and sums -- */

/* 8 neighbouring numbers of x, or the pairs (0, 4) (1, 5) (2, 6) (3, 7) of them. */
static __device__ __forceinline__ uint4 pair_up(const uint4 &x)
{
    return make_uint4(__byte_perm(x.x, x.z, 0x5410), __byte_perm(x.x, x.z, 0x7632),
                      __byte_perm(x.y, x.w, 0x5410), __byte_perm(x.y, x.w, 0x7632));
}

/* Where the eight u of a row stands: the four lanes of a column read neighbours. */
static __device__ __forceinline__ int eight_place(int u)
{
    return (u & ~15) | (u & 3) << 2 | (u >> 2 & 3);
}

/* Where number o of a row stands. */
static __device__ __forceinline__ int x_place(int o)
{
    return 8 * eight_place(o / 8) + ((o & 3) << 1 | (o >> 2 & 1));
}

static __device__ __forceinline__ float sum_of(const uint4 &x)
{
    return ((low(x.x) + high(x.x)) + (low(x.y) + high(x.y))) +
           ((low(x.z) + high(x.z)) + (low(x.w) + high(x.w)));
}

/* Numbers of a row of x in shared memory: whole chunks. */
static __host__ __device__ __forceinline__ int x_numbers(int64_t n)
{
    return (int)((n + CHUNK - 1) / CHUNK * CHUNK);
}

/* Bytes of a row of x there: numbers, then sums of groups. */
static __host__ __device__ __forceinline__ size_t x_stride(int64_t n)
{
    return (size_t)x_numbers(n) / 16 * 33;
}

extern __shared__ uint4 room[];

static __device__ __forceinline__ uint4 *x_row(int n, int m)
{
    return (uint4 *)((uint8_t *)room + (size_t)m * x_stride(n));
}

static __device__ __forceinline__ float *sums_of_row(uint4 *row, int n)
{
    return (float *)(row + x_numbers(n) / 8);
}

/* Eight u of a row to its place, and its group's sum; all 8 threads of a group come together. */
static __device__ __forceinline__ void put_eight(uint4 *row, float *sums, int u, const uint4 &x)
{
    float s = sum_of(x);
    row[eight_place(u)] = pair_up(x);
#pragma unroll
    for (int step = 1; step < 8; step *= 2)
        s += __shfl_xor_sync(0xffffffffu, s, step);
    if (u % 8 == 0)
        sums[u / 8] = s;
}

/* A row of x to shared memory. A barrier is to follow. */
static __device__ __forceinline__ void take_x(const void *x, int n, int m)
{
    uint4 *row = x_row(n, m);
    for (int u = threadIdx.x; u < x_numbers(n) / 8; u += BLOCK)
        put_eight(row, sums_of_row(row, n), u,
                  u < n / 8 ? ((const uint4 *)x)[u] : make_uint4(0, 0, 0, 0));
}

/* ---------------------------------------------------------------- norms -- */

/* Asks for `bytes` that a block reads after it has waited. */
static __device__ __forceinline__ void ask_for(const void *p, int64_t bytes)
{
    for (int64_t i = 128 * threadIdx.x; i < bytes; i += 128 * BLOCK)
        ask_l2((const uint8_t *)p + i);
}

static __device__ __forceinline__ float norm_factor(float squares, int n, float eps)
{
    return 1.0f / sqrtf(squares / (float)n + eps);
}

/* Eight u of a row, x * factor * w, in bf16. */
static __device__ __forceinline__ uint4 scale_eight(const uint4 &x, const float *w, int u,
                                                    float factor)
{
    uint4 y;
    float v[8], f[8];
    unpack(x, v);
    load_vector<8>(w, 8 * u, 1.0f, f);
#pragma unroll
    for (int k = 0; k < 8; k++)
        v[k] = v[k] * factor * f[k];
    store<8>(&y, MICA_CUDA_BF16, 0, v);
    return y;
}

/* A row of x with its norm to shared memory, whose factor is known. A barrier is to follow. */
static __device__ __forceinline__ void take_scaled_x(const void *x, int n, const float *w,
                                                     float factor)
{
    uint4 *row = x_row(n, 0);
    for (int u = threadIdx.x; u < x_numbers(n) / 8; u += BLOCK)
        put_eight(row, sums_of_row(row, n), u,
                  u < n / 8 ? scale_eight(((const uint4 *)x)[u], w, u, factor)
                            : make_uint4(0, 0, 0, 0));
}

/* Row m of x with its norm to shared memory. A barrier is to follow; `part` is another one for the next row. */
static __device__ __forceinline__ void
take_normed_x(const void *x, int n, int m, const mica_cuda_tile_norm &norm, float (&part)[WARPS])
{
    uint4 *row = x_row(n, m);
    float squares = 0.0f;
    for (int u = threadIdx.x; u < x_numbers(n) / 8; u += BLOCK) {
        const uint4 own = u < n / 8 ? ((const uint4 *)x)[u] : make_uint4(0, 0, 0, 0);
        float v[8];
        unpack(own, v);
#pragma unroll
        for (int k = 0; k < 8; k++)
            squares = fmaf(v[k], v[k], squares);
        row[eight_place(u)] = own; /* for this thread, below */
    }
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = squares;
    __syncthreads();
    squares = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        squares += part[w];
    const float factor = norm_factor(squares, n, norm.eps);
    for (int u = threadIdx.x; u < x_numbers(n) / 8; u += BLOCK)
        put_eight(row, sums_of_row(row, n), u,
                  u < n / 8 ? scale_eight(row[eight_place(u)], norm.w, u, factor)
                            : make_uint4(0, 0, 0, 0));
}

/* ------------------------------------------------------------- x of a chunk -- */

/* A lane's x of a chunk: of its column, lane / 4; zeros where its numbers are of another group. S: of groups 2 t and
 * 2 t + 1. */
struct x_chunk {
    uint4 v[4];
    float2 s;
};

/* The first of its eights; the others stand 4 further each. */
static __device__ __forceinline__ int first_eight(int at)
{
    const int lane = threadIdx.x % 32;
    return at * (CHUNK / 8) + 16 * (lane / 8) + lane % 4;
}

static __device__ __forceinline__ bool has_x()
{
    const int lane = threadIdx.x % 32;
    return lane % 4 / 2 == lane / 4 % 2;
}

/* rest: eights of the row, as far as they are there. */
static __device__ __forceinline__ void read_x(x_chunk &x, const uint4 *row, int at, int eights)
{
    const bool reads = has_x() && first_eight(at) < eights;
#pragma unroll
    for (int w = 0; w < 4; w++)
        x.v[w] = reads ? row[first_eight(at) + 4 * w] : make_uint4(0, 0, 0, 0);
}

/* Of a row in shared memory. */
static __device__ __forceinline__ void read_x(x_chunk &x, int n, int m, int at)
{
    uint4 *row = x_row(n, m);
    read_x(x, row, at, x_numbers(n) / 8);
    x.s = *(const float2 *)(sums_of_row(row, n) + 8 * at + 2 * (threadIdx.x % 4));
}

/* --------------------------------------------------------------- products -- */

static __device__ __forceinline__ uint32_t word_of(const uint4 &v, int w)
{
    return w == 0 ? v.x : w == 1 ? v.y : w == 2 ? v.z : v.w;
}

/* Of four values, this lane's. */
static __device__ __forceinline__ float pick(float a, float b, float c, float d)
{
    const int t = threadIdx.x % 4;
    return t < 2 ? (t == 0 ? a : b) : (t == 2 ? c : d);
}

/* sum[r] += what this lane has of row lane / 4 + 8 r. F16: scales and biases. REFILL: `now` becomes chunk `next` of
 * `from`. */
template <bool F16, bool REFILL>
static __device__ __forceinline__ void multiply_chunk(chunk &now, const strip &from, int n,
                                                      int next, const x_chunk &x, float (&sum)[2])
{
    float d[4][4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        d[i][0] = d[i][1] = d[i][2] = d[i][3] = 0.0f;
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const uint32_t a = word_of(now.q[0][i], w), c = word_of(now.q[1][i], w);
            const uint32_t even[4] = {lift(a, 0), lift(c, 0), lift(a, 4), lift(c, 4)};
            const uint32_t odd[4] = {lift(a, 8), lift(c, 8), lift(a, 12), lift(c, 12)};
            multiply(d[i], even, x.v[w].x, x.v[w].y);
            multiply(d[i], odd, x.v[w].z, x.v[w].w);
        }
        if (REFILL)
            ask_numbers(now, from, n, next, i);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float s[2] = {first_of<F16>(now.scale[r]), second_of<F16>(now.scale[r])};
        const float b[2] = {first_of<F16>(now.bias[r]), second_of<F16>(now.bias[r])};
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const float own =
                pick(d[0][2 * r + c], d[1][2 * r + c], d[2][2 * r + c], d[3][2 * r + c]);
            const float rest = fmaf(-128.0f, s[c], b[c]) * (c ? x.s.y : x.s.x);
            sum[r] += fmaf(s[c], own, rest);
        }
    }
    if (REFILL)
        ask_scales(now, from, n, next);
}

/* ------------------------------------------------------------------- units -- */

/* The sums of a tile by warps, until a barrier lets them be joined. */
typedef float tile_parts[WARPS][TILE];

static __device__ __forceinline__ void leave(tile_parts &parts, float (&sum)[2])
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        if (lane % 4 == 0)
            parts[threadIdx.x / 32][lane / 4 + 8 * r] = sum[r];
    }
}

static __device__ __forceinline__ float join(const tile_parts &parts, int first, int warps, int row)
{
    float sum = 0.0f;
    for (int w = first; w < first + warps; w++)
        sum += parts[w][row];
    return sum;
}

/* Chunks of warp w of `warps` that share a row. */
struct stretch {
    int first, end;
};

static __device__ __forceinline__ stretch stretch_of(int n, int w, int warps)
{
    const int chunks = x_numbers(n) / CHUNK;
    return {chunks * w / warps, chunks * (w + 1) / warps};
}

/* A block's units, one after the other: `strips` strips each, of which this warp takes a stretch. The first numbers
 * are asked for before `begin`, which waits for the kernel before this one and brings x; the next ones, whichever
 * unit they are of, while the last are multiplied.
 *     locate(unit, i)                     strip i of a unit
 *     step(i, at, now, from, next)        multiplies chunk `at` and lets it be refilled
 *     close(i)                            behind a strip's last chunk
 *     finish(unit)                        behind a barrier */
template <typename Locate, typename Begin, typename Step, typename Close, typename Finish>
static __device__ __forceinline__ void
run_units(int units, int strips, int n, stretch own, const Locate &locate, const Begin &begin,
          const Step &step, const Close &close, const Finish &finish)
{
    int ahead = blockIdx.x, ahead_strip = 0, ahead_at = own.first;
    strip from = locate(ahead, 0);
    chunk now;
    if (own.first < own.end)
        ask(now, from, n, own.first);
    begin();
#pragma unroll 1
    for (int unit = blockIdx.x; unit < units; unit += gridDim.x) {
#pragma unroll 1
        for (int i = 0; i < strips; i++) {
#pragma unroll 1
            for (int at = own.first; at < own.end; at++) {
                if (++ahead_at == own.end) {
                    ahead_at = own.first;
                    if (++ahead_strip == strips) {
                        ahead_strip = 0;
                        ahead += gridDim.x;
                    }
                    if (ahead < units)
                        from = locate(ahead, ahead_strip);
                }
                step(i, at, now, from, ahead_at); /* behind the last: some again */
            }
            close(i);
        }
        __syncthreads();
        finish(unit);
    }
}

#endif
