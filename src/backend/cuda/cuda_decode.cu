/* cuda_decode.cu - what a token's step needs beside its packed products: attention of one query over a cache,
 * plain products of few rows.
 *
 *     attention   grid: key heads x splits of the keys; up to 4 query heads that share keys are answered at once, so
 *                 keys and values are read once. In bf16 a warp takes 16 keys on the matrix units, in f32 16 lanes
 *                 hold a key of 128. The block that comes last to a head joins the splits
 *     products    a warp an output, 16 bytes a lane at a time
 *
 * Napkin: 4,096 keys of 8 heads of 128 in bf16 are 17 MB, 6 us at 3 TB/s; each launch counts as much. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_early.cuh"
#include "backend/cuda/cuda_tiles.h"

#define THREADS 512
#define SHARE   MICA_CUDA_DECODE_SHARE /* query heads at once */
#define WARPS   (THREADS / 32)
#define KEYS    2 /* of a lane at once */
#define SPLITS  MICA_CUDA_DECODE_SPLITS
static_assert(SPLITS == 32, "a lane joins a split");

/* Scores are powers of two: q comes multiplied by log2 e. */
struct sums {
    float most, sum, v[8];
};

static __device__ __forceinline__ void read_eight(const float *p, float (&v)[8])
{
    load<8>(p, MICA_CUDA_F32, 0, v);
}

/* Keys that are not there have score -inf; the first of a lane's is there. */
static __device__ __forceinline__ void add_keys(sums &s, const float (&score)[KEYS],
                                                const float (&value)[KEYS][8])
{
    float most = s.most, p[KEYS];
#pragma unroll
    for (int k = 0; k < KEYS; k++)
        most = fmaxf(most, score[k]);
    const float old = exp2f(s.most - most);
    s.sum *= old;
#pragma unroll
    for (int k = 0; k < KEYS; k++) {
        p[k] = exp2f(score[k] - most);
        s.sum += p[k];
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        s.v[i] *= old;
#pragma unroll
        for (int k = 0; k < KEYS; k++)
            s.v[i] = fmaf(p[k], value[k][i], s.v[i]);
    }
    s.most = most;
}

/* Both as one, in a fixed order. */
static __device__ __forceinline__ void merge(sums &s, float most, float sum, const float (&v)[8])
{
    const float top = fmaxf(s.most, most);
    const float a = s.most == -INFINITY ? 0.0f : exp2f(s.most - top);
    const float b = most == -INFINITY ? 0.0f : exp2f(most - top);
    s.sum = s.sum * a + sum * b;
#pragma unroll
    for (int i = 0; i < 8; i++)
        s.v[i] = s.v[i] * a + v[i] * b;
    s.most = top;
}

/* Key heads in pieces of up to SHARE query heads; a block has one piece and one split. */
struct piece_of_heads {
    int g, head, heads;
};

static __device__ __forceinline__ piece_of_heads piece_of(const mica_cuda_decode_args &a)
{
    const int share = a.H / a.G, pieces = (share + SHARE - 1) / SHARE;
    const int g = blockIdx.x / pieces, head = g * share + blockIdx.x % pieces * SHARE;
    return {g, head, min(SHARE, (g + 1) * share - head)};
}

/* What a block found: sums of its warps as one, to a.work [H][splits][2 + K]. */
template <int K>
static __device__ __forceinline__ void write_split(const mica_cuda_decode_args &a,
                                                   const piece_of_heads &p, int splits,
                                                   const float (*parts)[SHARE][2 + K])
{
    for (int i = threadIdx.x; i < p.heads * K; i += THREADS) {
        const int h = i / K, d = i % K;
        float *to = a.work + ((int64_t)(p.head + h) * splits + blockIdx.y) * (2 + K);
        float most = -INFINITY, sum = 0.0f, v = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            most = fmaxf(most, parts[w][h][0]);
        for (int w = 0; w < WARPS && most > -INFINITY; w++) {
            const float factor = exp2f(parts[w][h][0] - most);
            sum = fmaf(parts[w][h][1], factor, sum);
            v = fmaf(parts[w][h][2 + d], factor, v);
        }
        to[2 + d] = v;
        if (d == 0) {
            to[0] = most;
            to[1] = sum;
        }
    }
}

/* The splits of all heads of a piece, joined by the block that is the last to have written. */
template <int K>
static __device__ __forceinline__ void join_splits(const mica_cuda_decode_args &a,
                                                   const piece_of_heads &p, int splits,
                                                   float (*factors)[SPLITS + 1])
{
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) /* counts up to splits and begins again at 0 */
        last = atomicInc(a.arrived + blockIdx.x, (unsigned)splits - 1) == (unsigned)splits - 1;
    __syncthreads();
    if (!last)
        return;
    __threadfence();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (warp < p.heads) {
        const float *from = a.work + (int64_t)(p.head + warp) * splits * (2 + K);
        const float most = lane < splits ? __ldcg(from + lane * (2 + K)) : -INFINITY;
        const float sum = lane < splits ? __ldcg(from + lane * (2 + K) + 1) : 0.0f;
        float top = most;
#pragma unroll
        for (int step = 16; step > 0; step /= 2)
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
        const float factor = most == -INFINITY ? 0.0f : exp2f(most - top);
        factors[warp][lane] = factor;
        const float all = warp_sum(sum * factor);
        if (lane == 0)
            factors[warp][SPLITS] = all;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < p.heads * K; i += THREADS) {
        const int h = i / K, d = i % K;
        const float *from = a.work + (int64_t)(p.head + h) * splits * (2 + K) + 2 + d;
        float v = 0.0f;
#pragma unroll 16
        for (int s = 0; s < splits; s++)
            v = fmaf(__ldcg(from + s * (2 + K)), factors[h][s], v);
        store1(a.out, a.type, (p.head + h) * a.out_stride + d, v / factors[h][SPLITS]);
    }
}

/* In f32: LANES lanes hold a key of LANES x 8 numbers. */
template <int LANES>
static __global__ void __launch_bounds__(THREADS, 1)
    decode_kernel(const __grid_constant__ mica_cuda_decode_args a, int splits)
{
    constexpr int K = 8 * LANES, per = 32 / LANES; /* keys of a warp side by side */
    __shared__ float parts[WARPS][SHARE][2 + K], factors[SHARE][SPLITS + 1];
    const piece_of_heads p = piece_of(a);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = 8 * (lane % LANES);
    const int first = (int)(a.M * blockIdx.y / splits);
    const int end = (int)(a.M * (blockIdx.y + 1) / splits);
    let_next_begin();
    wait_for_previous();
    float q[SHARE][8];
    sums s[SHARE];
#pragma unroll
    for (int i = 0; i < SHARE; i++) {
        load<8>(a.q, a.type, (int64_t)(p.head + min(i, p.heads - 1)) * a.q_stride + part, q[i]);
        s[i] = {-INFINITY, 0.0f, {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
#pragma unroll
        for (int c = 0; c < 8; c++)
            q[i][c] *= a.scale * 1.4426950408889634f;
    }
    const float *keys = (const float *)a.k + p.g * a.k_stride[1] + part;
    const float *values = (const float *)a.v + p.g * a.v_stride[1] + part;
    const int step = WARPS * per;
    for (int at = first + warp * per; at < end; at += KEYS * step) {
        float k[KEYS][8], v[KEYS][8];
#pragma unroll
        for (int i = 0; i < KEYS; i++) { /* behind the last key: that again */
            const int64_t j = min(at + i * step + lane / LANES, end - 1);
            read_eight(keys + j * a.k_stride[0], k[i]);
            read_eight(values + j * a.v_stride[0], v[i]);
        }
#pragma unroll
        for (int i = 0; i < SHARE; i++) {
            float score[KEYS];
#pragma unroll
            for (int n = 0; n < KEYS; n++) {
                score[n] = 0.0f;
#pragma unroll
                for (int c = 0; c < 8; c++)
                    score[n] = fmaf(q[i][c], k[n][c], score[n]);
            }
#pragma unroll
            for (int over = LANES / 2; over > 0; over /= 2)
#pragma unroll
                for (int n = 0; n < KEYS; n++)
                    score[n] += __shfl_xor_sync(0xffffffffu, score[n], over);
#pragma unroll
            for (int n = 0; n < KEYS; n++)
                score[n] = at + n * step + lane / LANES < end ? score[n] : -INFINITY;
            if (at + lane / LANES < end)
                add_keys(s[i], score, v);
        }
    }
#pragma unroll
    for (int i = 0; i < SHARE; i++) {
#pragma unroll
        for (int over = LANES; over < 32; over *= 2) {
            const float most = __shfl_xor_sync(0xffffffffu, s[i].most, over);
            const float sum = __shfl_xor_sync(0xffffffffu, s[i].sum, over);
            float v[8];
#pragma unroll
            for (int c = 0; c < 8; c++)
                v[c] = __shfl_xor_sync(0xffffffffu, s[i].v[c], over);
            merge(s[i], most, sum, v);
        }
        float *to = parts[warp][i];
        if (lane < LANES) {
#pragma unroll
            for (int c = 0; c < 8; c++)
                to[2 + part + c] = s[i].v[c];
        }
        if (lane == 0) {
            to[0] = s[i].most;
            to[1] = s[i].sum;
        }
    }
    __syncthreads();
    write_split<K>(a, p, splits, parts);
    join_splits<K>(a, p, splits, factors);
}

/* ------------------------------------------------ attention on matrix units -- */

/* 8 x 8 numbers, two to a lane, with rows and columns exchanged. */
static __device__ __forceinline__ uint32_t turn(uint32_t x)
{
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

/* Over the lanes that have the same two heads. */
template <bool LARGEST> static __device__ __forceinline__ float over_keys(float v)
{
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, v, step);
        v = LARGEST ? fmaxf(v, other) : v + other;
    }
    return v;
}

/* Four angles of a table. */
static __device__ __forceinline__ void read_four(const float *p, float (&v)[4])
{
    const float4 q = *(const float4 *)p;
    v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
}

/* The 8 numbers of each 32 of a head that this lane has, turned; rounded as if they had been stored. */
template <int K>
static __device__ __forceinline__ void turn_head(uint4 (&x)[K / 32],
                                                 const mica_cuda_decode_fresh &f)
{
    constexpr int half = K / 64;
    const int first = 8 * (threadIdx.x % 4);
#pragma unroll
    for (int b = 0; b < (f.interleaved ? K / 32 : half); b++) {
        float p[8], q[8], c[4], s[4];
        unpack(x[b], p);
        if (f.interleaved) {
            read_four(f.cos + (32 * b + first) / 2, c);
            read_four(f.sin + (32 * b + first) / 2, s);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float even = p[2 * i], odd = p[2 * i + 1];
                p[2 * i] = even * c[i] - odd * s[i];
                p[2 * i + 1] = odd * c[i] + even * s[i];
            }
            store<8>(&x[b], MICA_CUDA_BF16, 0, p);
            continue;
        }
        unpack(x[(b + half) % (K / 32)], q);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (i % 4 == 0) {
                read_four(f.cos + 32 * b + first + i, c);
                read_four(f.sin + 32 * b + first + i, s);
            }
            const float low = p[i], high = q[i];
            p[i] = low * c[i % 4] - high * s[i % 4];
            q[i] = high * c[i % 4] + low * s[i % 4];
        }
        store<8>(&x[b], MICA_CUDA_BF16, 0, p);
        store<8>(&x[(b + half) % (K / 32)], MICA_CUDA_BF16, 0, q);
    }
}

/* The new key, turned, and its value to row M - 1 of the cache, by four lanes of a warp for all of it. */
template <int K>
static __device__ __forceinline__ void keep_fresh(const mica_cuda_decode_args &a, int g)
{
    const int64_t part = 8 * (threadIdx.x % 4), row = a.M - 1;
    const auto from_k = (const __nv_bfloat16 *)a.fresh.k + g * K + part;
    const auto from_v = (const __nv_bfloat16 *)a.fresh.v + g * K + part;
    const auto to_k = (__nv_bfloat16 *)a.k + row * a.k_stride[0] + g * a.k_stride[1] + part;
    const auto to_v = (__nv_bfloat16 *)a.v + row * a.v_stride[0] + g * a.v_stride[1] + part;
    if (threadIdx.x % 32 < 4) {
        uint4 k[K / 32];
#pragma unroll
        for (int b = 0; b < K / 32; b++) {
            k[b] = *(const uint4 *)(from_k + 32 * b);
            *(uint4 *)(to_v + 32 * b) = *(const uint4 *)(from_v + 32 * b);
        }
        turn_head<K>(k, a.fresh);
#pragma unroll
        for (int b = 0; b < K / 32; b++)
            *(uint4 *)(to_k + 32 * b) = k[b];
    }
    __syncwarp();
}

/* A warp takes 16 keys at a time. A lane has 8 neighbouring numbers in each 32 of two of them, r = lane / 4 and r + 8:
 *     scores [16 keys, 8 heads] = k [16, K] q^T      in the order of numbers that the lanes have
 *     v^T of 8 keys x 8 numbers by movmatrix, likewise of the shares p [16 keys, 8 heads]
 *     out [16 numbers, 8 heads] += v^T [16, 16 keys] p
 * A lane ends with heads 2 t and 2 t + 1, t = lane % 4, of the numbers 32 b + 8 (r / 2) + 2 j + r % 2. */
template <int K, bool FRESH>
static __global__ void __launch_bounds__(THREADS, 1)
    decode_tiles_kernel(const __grid_constant__ mica_cuda_decode_args a, int splits)
{
    constexpr int blocks = K / 32;
    __shared__ float parts[WARPS][SHARE][2 + K], factors[SHARE][SPLITS + 1];
    const piece_of_heads p = piece_of(a);
    const int warp = threadIdx.x / 32, r = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int first = (int)(a.M * blockIdx.y / splits);
    const int end = (int)(a.M * (blockIdx.y + 1) / splits);
    const float scale = a.scale * 1.4426950408889634f;
    uint4 q[blocks];
    float out[2 * blocks][4], most[2], sum[2] = {0.0f, 0.0f};
    most[0] = most[1] = -INFINITY;
    let_next_begin();
    if (FRESH && threadIdx.x < K / 32) /* 128 bytes a thread */
        ask_l2((threadIdx.x % 2 ? a.fresh.sin : a.fresh.cos) + threadIdx.x / 2 * 32);
    wait_for_previous();
    const auto keys = (const __nv_bfloat16 *)a.k + p.g * a.k_stride[1] + 8 * t;
    const auto values = (const __nv_bfloat16 *)a.v + p.g * a.v_stride[1] + 8 * t;
    const auto queries = (const __nv_bfloat16 *)a.q + (p.head + r) * a.q_stride + 8 * t;
#pragma unroll
    for (int b = 0; b < blocks; b++) {
        q[b] = r < p.heads ? *(const uint4 *)(queries + 32 * b) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < 4; i++)
            out[2 * b][i] = out[2 * b + 1][i] = 0.0f;
    }
    if (FRESH) {
        turn_head<K>(q, a.fresh);
        if (end == a.M && warp == (end - 1 - first) / 16 % WARPS) /* the one that reads it below */
            keep_fresh<K>(a, p.g);
    }
#pragma unroll 1
    for (int at = first + 16 * warp; at < end; at += 16 * WARPS) {
        uint4 k[2][blocks], v[2][blocks];
        float s[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int h = 0; h < 2; h++) { /* behind the last key: that again */
            const int64_t j = min(at + r + 8 * h, end - 1);
#pragma unroll
            for (int b = 0; b < blocks; b++) {
                k[h][b] = *(const uint4 *)(keys + j * a.k_stride[0] + 32 * b);
                v[h][b] = *(const uint4 *)(values + j * a.v_stride[0] + 32 * b);
            }
        }
#pragma unroll
        for (int b = 0; b < blocks; b++) {
            multiply(s, {k[0][b].x, k[1][b].x, k[0][b].y, k[1][b].y}, q[b].x, q[b].y);
            multiply(s, {k[0][b].z, k[1][b].z, k[0][b].w, k[1][b].w}, q[b].z, q[b].w);
        }
        float factor[2];
#pragma unroll
        for (int c = 0; c < 2; c++) {
            s[c] = at + r < end ? s[c] * scale : -INFINITY;
            s[2 + c] = at + r + 8 < end ? s[2 + c] * scale : -INFINITY;
            const float top = fmaxf(most[c], over_keys<true>(fmaxf(s[c], s[2 + c])));
            factor[c] = exp2f(most[c] - top);
            most[c] = top;
            s[c] = exp2f(s[c] - top);
            s[2 + c] = exp2f(s[2 + c] - top);
            sum[c] = sum[c] * factor[c] + s[c] + s[2 + c];
        }
        uint32_t share[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const __nv_bfloat162 two = __floats2bfloat162_rn(s[2 * h], s[2 * h + 1]);
            share[h] = turn(*(const uint32_t *)&two);
        }
#pragma unroll
        for (int b = 0; b < blocks; b++) {
            const uint32_t low[4] = {v[0][b].x, v[0][b].y, v[0][b].z, v[0][b].w};
            const uint32_t high[4] = {v[1][b].x, v[1][b].y, v[1][b].z, v[1][b].w};
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                float(&o)[4] = out[2 * b + j / 2];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    o[i] *= factor[i % 2];
                multiply(o, {turn(low[j]), turn(low[j + 1]), turn(high[j]), turn(high[j + 1])},
                         share[0], share[1]);
            }
        }
    }
#pragma unroll
    for (int c = 0; c < 2; c++) {
        const int h = 2 * t + c;
        const float all = over_keys<false>(sum[c]);
        if (h >= SHARE)
            continue;
        float *to = parts[warp][h];
        if (r == 0) {
            to[0] = most[c];
            to[1] = all;
        }
#pragma unroll
        for (int i = 0; i < 2 * blocks; i++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                to[2 + 32 * (i / 2) + 8 * (r / 2) + 2 * (2 * (i % 2) + half) + r % 2] =
                    out[i][2 * half + c];
    }
    __syncthreads();
    write_split<K>(a, p, splits, parts);
    join_splits<K>(a, p, splits, factors);
}

int64_t mica_cuda_decode_floats(int H, int K)
{
    return (int64_t)H * SPLITS * (2 + K);
}

extern "C" cudaError_t mica_cuda_decode(const mica_cuda_decode_args *args, cudaStream_t stream)
{
    const bool bf16 = args->type == MICA_CUDA_BF16, wide = args->K == 128;
    const int share = args->H / args->G, pieces = (share + SHARE - 1) / SHARE;
    /* By the heads and the number of keys alone, so that a token does not depend on the rest: a block a
     * multiprocessor, and at least 4 keys for each of its warps. */
    const int64_t wanted = (args->M + 63) / 64, most = args->G * pieces >= 8 ? SPLITS / 2 : SPLITS;
    const int splits = (int)(wanted < most ? wanted : most);
    const dim3 grid((unsigned)(args->G * pieces), (unsigned)splits);
    const auto plain =
        bf16 ? (wide ? decode_tiles_kernel<128, false> : decode_tiles_kernel<64, false>)
             : (wide ? decode_kernel<16> : decode_kernel<8>);
    const auto fresh = wide ? decode_tiles_kernel<128, true> : decode_tiles_kernel<64, true>;
    const auto kernel = args->fresh.k ? fresh : plain;
    return launch_early(kernel, grid, THREADS, 0, stream, *args, splits);
}

/* ---------------------------------------------------------------- products -- */

/* G threads share an output: a warp, or where outputs are few the block. */
template <int G>
static __global__ void __launch_bounds__(BLOCK) few_kernel(const mica_cuda_few_args a)
{
    const int64_t o = (int64_t)blockIdx.x * (BLOCK / G) + threadIdx.x / G;
    const int own = threadIdx.x % G, ahead = 4; /* chunks asked for at once */
    float sum[MICA_CUDA_TILE_ROWS] = {0};
    let_next_begin();
    for (int64_t at = 8 * own; at < a.ld && o < a.outputs; at += 8 * G)
        ask_l2((const uint8_t *)a.w + (o * a.ld + at) * (a.type == MICA_CUDA_F32 ? 4 : 2));
    wait_for_previous();
    if (o >= a.outputs)
        return; /* warps of their own: nobody waits for them */
    for (int64_t at = 8 * own; at < a.ld; at += 8 * G * ahead) {
        float w[ahead][8];
#pragma unroll
        for (int u = 0; u < ahead; u++) {
            const int64_t i = at + 8 * G * u;
            load<8>(a.w, a.type, o * a.ld + (i < a.ld ? i : at), w[u]);
        }
        for (int m = 0; m < a.x.rows; m++) {
            float s = 0.0f;
#pragma unroll
            for (int u = 0; u < ahead; u++) {
                const int64_t i = at + 8 * G * u;
                float x[8];
                if (i >= a.ld)
                    break;
                load<8>(a.x.data, a.x.type, m * a.x.stride[0] + i, x);
#pragma unroll
                for (int k = 0; k < 8; k++)
                    s = fmaf(w[u][k], x[k], s);
            }
#pragma unroll
            for (int k = 0; k < MICA_CUDA_TILE_ROWS; k++)
                sum[k] += k == m ? s : 0.0f;
        }
    }
#pragma unroll
    for (int m = 0; m < MICA_CUDA_TILE_ROWS; m++) {
        if (m >= a.x.rows)
            break;
        float v = group_sum<G>(sum[m]);
        if (own != 0)
            continue;
        v = activate(v + (a.bias ? a.bias[o] : 0.0f), a.act);
        if (a.residual.data)
            v += load1(a.residual.data, a.residual.type, row_offset(a.residual, m) + o);
        store1(a.y.data, a.y.type, row_offset(a.y, m) + o, v);
    }
}

extern "C" cudaError_t mica_cuda_few(const mica_cuda_few_args *args, cudaStream_t stream)
{
    if (args->outputs <= 256)
        return launch_early(few_kernel<BLOCK>, dim3((unsigned)args->outputs), BLOCK, 0, stream,
                            *args);
    return launch_early(few_kernel<32>,
                        dim3((unsigned)((args->outputs + (BLOCK / 32) - 1) / (BLOCK / 32))), BLOCK,
                        0, stream, *args);
}
