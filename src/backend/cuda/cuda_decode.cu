/* cuda_decode.cu - what a token's step needs beside its packed products: attention of one query over a cache,
 * plain products of few rows.
 *
 *     attention   grid: key heads x splits of the keys. 16 lanes hold a key of 128; up to 4 query heads that
 *                 share it are answered at once, so keys and values are read once. Then a block per head
 *                 joins the splits
 *     products    a warp an output, 16 bytes a lane at a time
 *
 * Napkin: 1,024 keys of 8 heads of 128 in bf16 are 4 MB, 1.4 us at 3 TB/s; launches count as much. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_tiles.h"

#define SHARE 4 /* query heads at once */
#define WARPS (BLOCK / 32)

struct sums {
    float most, sum, v[8];
};

static __device__ __forceinline__ void add_key(sums &s, float score, const float (&value)[8])
{
    const float most = fmaxf(s.most, score);
    const float old = s.most == -INFINITY ? 0.0f : expf(s.most - most), p = expf(score - most);
    s.sum = fmaf(s.sum, old, p);
#pragma unroll
    for (int i = 0; i < 8; i++)
        s.v[i] = fmaf(s.v[i], old, p * value[i]);
    s.most = most;
}

/* Both as one, in a fixed order. */
static __device__ __forceinline__ void merge(sums &s, float most, float sum, const float (&v)[8])
{
    const float top = fmaxf(s.most, most);
    const float a = s.most == -INFINITY ? 0.0f : expf(s.most - top);
    const float b = most == -INFINITY ? 0.0f : expf(most - top);
    s.sum = s.sum * a + sum * b;
#pragma unroll
    for (int i = 0; i < 8; i++)
        s.v[i] = s.v[i] * a + v[i] * b;
    s.most = top;
}

/* LANES lanes hold a key of 8 LANES numbers. work: [H][splits][2 + K]. */
template <int LANES>
static __global__ void __launch_bounds__(BLOCK)
    decode_kernel(const mica_cuda_decode_args a, int splits)
{
    __shared__ float parts[WARPS][SHARE][2 + 8 * LANES];
    const int share = a.H / a.G, chunks = (share + SHARE - 1) / SHARE;
    const int g = blockIdx.x / chunks, head = g * share + blockIdx.x % chunks * SHARE;
    const int heads = min(SHARE, (g + 1) * share - head), split = blockIdx.y;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = 8 * (lane % LANES);
    const int64_t first = a.M * split / splits, end = a.M * (split + 1) / splits;
    float q[SHARE][8];
    sums s[SHARE];
#pragma unroll
    for (int i = 0; i < SHARE; i++) {
        load<8>(a.q, a.type, (int64_t)(head + min(i, heads - 1)) * a.q_stride + part, q[i]);
        s[i] = {-INFINITY, 0.0f, {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
    }
    const int64_t step = WARPS * (32 / LANES);
    float k[8], v[8], next_k[8], next_v[8];
    const auto ask = [&](int64_t at, float(&to_k)[8], float(&to_v)[8]) {
        const int64_t j = at + lane / LANES < end ? at + lane / LANES : end - 1;
        load<8>(a.k, a.type, j * a.k_stride[0] + g * a.k_stride[1] + part, to_k);
        load<8>(a.v, a.type, j * a.v_stride[0] + g * a.v_stride[1] + part, to_v);
    };
    if (first < end)
        ask(first + warp * (32 / LANES), next_k, next_v);
    for (int64_t at = first + warp * (32 / LANES); at < end; at += step) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            k[i] = next_k[i];
            v[i] = next_v[i];
        }
        ask(at + step, next_k, next_v); /* behind the last: that again */
#pragma unroll
        for (int i = 0; i < SHARE; i++) {
            float score = 0.0f;
#pragma unroll
            for (int c = 0; c < 8; c++)
                score = fmaf(q[i][c], k[c], score);
#pragma unroll
            for (int step = LANES / 2; step > 0; step /= 2)
                score += __shfl_xor_sync(0xffffffffu, score, step);
            if (at + lane / LANES < end)
                add_key(s[i], score * a.scale, v);
        }
    }
#pragma unroll
    for (int i = 0; i < SHARE; i++) {
#pragma unroll
        for (int step = LANES; step < 32; step *= 2) {
            const float most = __shfl_xor_sync(0xffffffffu, s[i].most, step);
            const float sum = __shfl_xor_sync(0xffffffffu, s[i].sum, step);
            float v[8];
#pragma unroll
            for (int c = 0; c < 8; c++)
                v[c] = __shfl_xor_sync(0xffffffffu, s[i].v[c], step);
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
    for (int i = threadIdx.x; i < heads * 8 * LANES; i += BLOCK) {
        const int h = i / (8 * LANES), d = i % (8 * LANES);
        float *to = a.work + ((int64_t)(head + h) * splits + split) * (2 + 8 * LANES);
        float most = -INFINITY, sum = 0.0f, v = 0.0f;
        for (int w = 0; w < WARPS; w++)
            most = fmaxf(most, parts[w][h][0]);
        for (int w = 0; w < WARPS && most > -INFINITY; w++) {
            const float factor = expf(parts[w][h][0] - most);
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

/* Grid: heads; a thread a number, a lane a split. */
static __global__ void join_kernel(const mica_cuda_decode_args a, int splits)
{
    const int h = blockIdx.x, d = threadIdx.x, lane = threadIdx.x % 32;
    const float *from = a.work + (int64_t)h * splits * (2 + a.K);
    const float own = lane < splits ? from[lane * (2 + a.K)] : -INFINITY;
    const float weight = lane < splits ? from[lane * (2 + a.K) + 1] : 0.0f;
    float most = own, v = 0.0f;
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    const float factor = own == -INFINITY ? 0.0f : expf(own - most);
    const float sum = warp_sum(weight * factor);
#pragma unroll 8
    for (int s = 0; s < splits; s++)
        v = fmaf(from[s * (2 + a.K) + 2 + d], __shfl_sync(0xffffffffu, factor, s), v);
    store1(a.out, a.type, h * a.out_stride + d, v / sum);
}

int64_t mica_cuda_decode_floats(int H, int K)
{
    return (int64_t)H * MICA_CUDA_DECODE_SPLITS * (2 + K);
}

extern "C" cudaError_t mica_cuda_decode(const mica_cuda_decode_args *args, cudaStream_t stream)
{
    /* By the number of keys alone, so that a token does not depend on the rest. */
    const int64_t wanted = (args->M + 31) / 32;
    const int splits = (int)(wanted < MICA_CUDA_DECODE_SPLITS ? wanted : MICA_CUDA_DECODE_SPLITS);
    const int share = args->H / args->G, chunks = (share + SHARE - 1) / SHARE;
    const dim3 grid((unsigned)(args->G * chunks), (unsigned)splits);
    if (args->K == 128)
        decode_kernel<16><<<grid, BLOCK, 0, stream>>>(*args, splits);
    else
        decode_kernel<8><<<grid, BLOCK, 0, stream>>>(*args, splits);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess)
        return error;
    join_kernel<<<(unsigned)args->H, (unsigned)args->K, 0, stream>>>(*args, splits);
    return cudaGetLastError();
}

/* ---------------------------------------------------------------- products -- */

/* G threads share an output: a warp, or where outputs are few the block. */
template <int G>
static __global__ void __launch_bounds__(BLOCK) few_kernel(const mica_cuda_few_args a)
{
    const int64_t o = (int64_t)blockIdx.x * (BLOCK / G) + threadIdx.x / G;
    const int own = threadIdx.x % G, ahead = 4; /* chunks asked for at once */
    float sum[MICA_CUDA_TILE_ROWS] = {0};
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
        few_kernel<BLOCK><<<(unsigned)args->outputs, BLOCK, 0, stream>>>(*args);
    else
        few_kernel<32>
            <<<(unsigned)((args->outputs + WARPS - 1) / WARPS), BLOCK, 0, stream>>>(*args);
    return cudaGetLastError();
}
