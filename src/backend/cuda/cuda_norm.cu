/* cuda_norm.cu - norms of rows with the vectors of an adaptive norm, and QK norm with rotation.
 *
 *     bf16, up to 4,096 wide    a warp (n <= 1024) or 128 threads per row, the row in registers as it
 *                               came (cuda_row.cuh): every element is read once. Optionally the result
 *                               goes out in fp8 too, or only (cuda_fp8.c)
 *     the rest                  one warp (n <= 1024) or one block of 256 threads per row:
 *         pass 1   sum of x, or of x^2          from memory
 *         pass 2   sum of (x - mean)^2          from L1   (layer norm only)
 *         pass 3   normalise, modulate, write   from L1
 *
 * Napkin: a Qwen-Image stream of 4,096 x 3,072 in bf16 is 25 MB; read once and written once at
 * 3 TB/s it takes 17 us. Statistics in f32, layer norm from differences to the mean, as the CPU does.
 *
 * QK norm + RoPE in place: in bf16 a head of 64, 128 or 256 is a group of 8, 16 or 32 lanes with 8
 * elements each, which keep their angles for several heads of one token; else one warp per token and
 * head, where every lane owns the same pairs in both passes, so no lane reads what another writes.
 * 4,352 x 24 x 128 in bf16: 53 MB of traffic, 18 us. */
#include "backend/cuda/cuda_early.cuh"
#include "backend/cuda/cuda_row.cuh"

template <int V, int G> static __global__ void norm_kernel(const mica_cuda_norm_args a)
{
    const int64_t row = (int64_t)blockIdx.x * (BLOCK / G) + threadIdx.x / G;
    const int lane = threadIdx.x % G;
    const int64_t n = a.x.n;
    if (G == 32 && row >= a.x.rows)
        return; /* whole warps leave; a block of one row never does */
    const int64_t x_at = row_offset(a.x, row), y_at = row_offset(a.y, row);
    const bool layer = a.kind == MICA_CUDA_NORM_LAYER;
    float sum = 0.0f;
    for (int64_t i = (int64_t)lane * V; i < n; i += G * V) {
        float v[V];
        load<V>(a.x.data, a.x.type, x_at + i, v);
#pragma unroll
        for (int k = 0; k < V; k++)
            sum += layer ? v[k] : v[k] * v[k];
    }
    sum = group_sum<G>(sum);
    float mean = 0.0f, factor;
    if (layer) {
        mean = sum / (float)n;
        float squares = 0.0f;
        for (int64_t i = (int64_t)lane * V; i < n; i += G * V) {
            float v[V];
            load<V>(a.x.data, a.x.type, x_at + i, v);
#pragma unroll
            for (int k = 0; k < V; k++)
                squares += (v[k] - mean) * (v[k] - mean);
        }
        squares = group_sum<G>(squares);
        factor = 1.0f / sqrtf(squares / (float)n + a.eps);
    } else if (a.kind == MICA_CUDA_NORM_L2) {
        factor = sqrtf((float)n) / fmaxf(sqrtf(sum), 1e-12f);
    } else {
        factor = 1.0f / sqrtf(sum / (float)n + a.eps);
    }
    for (int64_t i = (int64_t)lane * V; i < n; i += G * V) {
        float v[V], w[V], scale[V], shift[V];
        load<V>(a.x.data, a.x.type, x_at + i, v);
        load_vector<V>(a.w, i, 1.0f, w);
        load_vector<V>(a.scale, i, a.kind == MICA_CUDA_NORM_GATED ? 1.0f : 0.0f, scale);
        load_vector<V>(a.shift, i, 0.0f, shift);
        if (a.kind == MICA_CUDA_NORM_GATED) {
            float y[V];
            load<V>(a.y.data, a.y.type, y_at + i, y);
#pragma unroll
            for (int k = 0; k < V; k++)
                v[k] = y[k] + v[k] * factor * w[k] * scale[k];
        } else {
#pragma unroll
            for (int k = 0; k < V; k++)
                v[k] =
                    activate((v[k] - mean) * factor * w[k] * (1.0f + scale[k]) + shift[k], a.act);
        }
        store<V>(a.y.data, a.y.type, y_at + i, v);
    }
}

/* ------------------------------------------------------- rows in registers -- */

/* y += gate * (x * factor * w) */
template <int N, int T>
static __device__ __forceinline__ void add_row(const mica_cuda_norm_args &a, int64_t row,
                                               const uint4 (&raw)[N], float factor)
{
    const int first = row_first<T>(), n = (int)a.x.n;
    const int64_t y_at = row_offset(a.y, row);
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int i = first + j * T * 8;
        float v[8], w[8], gate[8], y[8];
        if (i >= n)
            break;
        unpack(raw[j], v);
        load_vector<8>(a.w, i, 1.0f, w);
        load_vector<8>(a.scale, i, 1.0f, gate);
        load<8>(a.y.data, a.y.type, y_at + i, y);
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = y[k] + v[k] * factor * w[k] * gate[k];
        store<8>(a.y.data, a.y.type, y_at + i, v);
    }
}

/* A row of n <= 8 N T elements by T threads. */
template <int N, int T, bool SILU, bool FP8>
static __global__ void norm_row_kernel(mica_cuda_norm_args a)
{
    __shared__ float part[3][ROW_WARPS];
    const int64_t row =
        T == 32 ? (int64_t)blockIdx.x * ROW_WARPS + threadIdx.x / 32 : (int64_t)blockIdx.x;
    uint4 raw[N];
    float mean, factor;
    let_next_begin();
    if (a.w && a.x.rows <= EARLY_ROWS)
        for (int i = row_first<T>(); i < (int)a.x.n; i += 8 * T)
            ask_l2(a.w + i);
    wait_for_previous();
    if (T == 32 && row >= a.x.rows)
        return;
    load_row<N, T>(a.x, row, raw);
    measure_row<N, T>(a, raw, mean, factor, part[0], part[1]);
    if (!FP8 && a.kind == MICA_CUDA_NORM_GATED)
        add_row<N, T>(a, row, raw, factor);
    else
        write_row<N, T, SILU, FP8>(a, row, raw, mean, factor, part[2]);
}

template <bool SILU, bool FP8>
static void launch_norm_row(const mica_cuda_norm_args *args, cudaStream_t stream)
{
    const unsigned rows = (unsigned)args->x.rows;
    const unsigned blocks = (rows + ROW_WARPS - 1) / ROW_WARPS;
    const int64_t n = args->x.n;
    const auto launch = [&](void (*kernel)(mica_cuda_norm_args), unsigned grid) {
        if (rows <= EARLY_ROWS)
            (void)launch_early(kernel, dim3(grid), ROW_BLOCK, 0, stream, *args);
        else
            kernel<<<grid, ROW_BLOCK, 0, stream>>>(*args);
    };
    if (n <= 512)
        launch(norm_row_kernel<2, 32, SILU, FP8>, blocks);
    else if (n <= 1024)
        launch(norm_row_kernel<4, 32, SILU, FP8>, blocks);
    else if (n <= 2048)
        launch(norm_row_kernel<2, 128, SILU, FP8>, rows);
    else if (n <= 3072)
        launch(norm_row_kernel<3, 128, SILU, FP8>, rows);
    else
        launch(norm_row_kernel<4, 128, SILU, FP8>, rows);
}

static bool fits_row(const mica_cuda_norm_args *args)
{
    return args->x.wide && args->y.wide && args->x.type == MICA_CUDA_BF16 && args->x.n <= 4096 &&
           (args->act == MICA_CUDA_ACT_NONE || args->act == MICA_CUDA_ACT_SILU);
}

extern "C" bool mica_cuda_norm_quantizes(const mica_cuda_norm_args *args)
{
    return fits_row(args) && args->y.type == MICA_CUDA_BF16 && args->x.n % 16 == 0 &&
           args->act == MICA_CUDA_ACT_NONE;
}

extern "C" cudaError_t mica_cuda_norm(const mica_cuda_norm_args *args, cudaStream_t stream)
{
    const bool wide = args->x.wide && args->y.wide;
    const bool warp = args->x.n <= 1024;
    const int64_t blocks = warp ? (args->x.rows + BLOCK / 32 - 1) / (BLOCK / 32) : args->x.rows;
    if (args->q)
        launch_norm_row<false, true>(args, stream);
    else if (fits_row(args) && args->act == MICA_CUDA_ACT_SILU)
        launch_norm_row<true, false>(args, stream);
    else if (fits_row(args))
        launch_norm_row<false, false>(args, stream);
    else if (wide && warp)
        norm_kernel<8, 32><<<(unsigned)blocks, BLOCK, 0, stream>>>(*args);
    else if (wide)
        norm_kernel<8, BLOCK><<<(unsigned)blocks, BLOCK, 0, stream>>>(*args);
    else if (warp)
        norm_kernel<1, 32><<<(unsigned)blocks, BLOCK, 0, stream>>>(*args);
    else
        norm_kernel<1, BLOCK><<<(unsigned)blocks, BLOCK, 0, stream>>>(*args);
    return cudaGetLastError();
}

/* -------------------------------------------------------- q, k: norm, RoPE -- */

static __global__ void rope_kernel(const mica_cuda_rope_args a, const mica_cuda_heads x)
{
    const int64_t job = (int64_t)blockIdx.x * (BLOCK / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32, half = a.K / 2;
    if (job >= a.L * x.H)
        return;
    const int64_t token = job / x.H;
    const int64_t at = token * x.stride_l + job % x.H * x.stride_h;
    float factor = 1.0f;
    if (x.w) {
        float sum = 0.0f;
        for (int i = lane; i < half; i += 32) {
            const int first = a.interleaved ? 2 * i : i,
                      second = a.interleaved ? 2 * i + 1 : i + half;
            const float p = load1(x.x, a.type, at + first), q = load1(x.x, a.type, at + second);
            sum += p * p + q * q;
        }
        factor = 1.0f / sqrtf(warp_sum(sum) / (float)a.K + a.eps);
    }
    for (int i = lane; i < half; i += 32) {
        const int first = a.interleaved ? 2 * i : i, second = a.interleaved ? 2 * i + 1 : i + half;
        float p = load1(x.x, a.type, at + first) * factor;
        float q = load1(x.x, a.type, at + second) * factor;
        if (x.w) {
            p *= __ldg(x.w + first);
            q *= __ldg(x.w + second);
        }
        float c = 1.0f, s = 0.0f;
        if (a.cos) {
            c = __ldg(a.cos + token * a.table_stride + i);
            s = __ldg(a.sin + token * a.table_stride + i);
        }
        store1(x.x, a.type, at + first, p * c - q * s);
        store1(x.x, a.type, at + second, q * c + p * s);
    }
}

/* V floats of a table, 16-byte aligned. */
template <int V> static __device__ __forceinline__ void load_angles(const float *p, float (&v)[8])
{
#pragma unroll
    for (int i = 0; i < V / 4; i++) {
        const float4 q = __ldg((const float4 *)p + i);
        v[4 * i] = q.x, v[4 * i + 1] = q.y, v[4 * i + 2] = q.z, v[4 * i + 3] = q.w;
    }
}

#define HEADS_PER_GROUP 4

/* G lanes hold one head of 8 G elements; see the head of the file. */
template <int G>
static __global__ void rope_group_kernel(const mica_cuda_rope_args a, int queries, int chunks)
{
    const int64_t job = (int64_t)blockIdx.x * (BLOCK / G) + threadIdx.x / G;
    const int lane = threadIdx.x % G;
    let_next_begin();
    wait_for_previous();
    const bool active = job < a.L * chunks;
    const int64_t token = active ? job / chunks : 0;
    const int chunk = active ? (int)(job % chunks) : 0;
    const bool second = chunk >= queries;
    const mica_cuda_heads h = second ? a.part[1] : a.part[0];
    const int head = active ? (second ? chunk - queries : chunk) * HEADS_PER_GROUP : h.H;
    float c[8], s[8], w[8];
    if (a.cos && a.interleaved) {
        load_angles<4>(a.cos + token * a.table_stride + 4 * lane, c);
        load_angles<4>(a.sin + token * a.table_stride + 4 * lane, s);
    } else if (a.cos) {
        load_angles<8>(a.cos + token * a.table_stride + 8 * (lane % (G / 2)), c);
        load_angles<8>(a.sin + token * a.table_stride + 8 * (lane % (G / 2)), s);
    }
    load_vector<8>(h.w, 8 * lane, 1.0f, w);
    __nv_bfloat16 *x = (__nv_bfloat16 *)h.x + token * h.stride_l + 8 * lane;
    uint4 raw[HEADS_PER_GROUP];
#pragma unroll
    for (int n = 0; n < HEADS_PER_GROUP; n++)
        raw[n] =
            head + n < h.H ? *(const uint4 *)(x + (head + n) * h.stride_h) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int n = 0; n < HEADS_PER_GROUP; n++) {
        float v[8];
        unpack(raw[n], v);
        if (h.w) {
            float sum = 0.0f;
#pragma unroll
            for (int k = 0; k < 8; k++)
                sum += v[k] * v[k];
#pragma unroll
            for (int step = G / 2; step > 0; step >>= 1)
                sum += __shfl_xor_sync(0xffffffffu, sum, step);
            const float factor = 1.0f / sqrtf(sum / (float)(8 * G) + a.eps);
#pragma unroll
            for (int k = 0; k < 8; k++)
                v[k] *= factor * w[k];
        }
        if (a.cos && a.interleaved) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const float p = v[2 * k], q = v[2 * k + 1];
                v[2 * k] = p * c[k] - q * s[k];
                v[2 * k + 1] = q * c[k] + p * s[k];
            }
        } else if (a.cos) {
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float other = __shfl_xor_sync(0xffffffffu, v[k], G / 2);
                v[k] = v[k] * c[k] + (lane < G / 2 ? -other : other) * s[k];
            }
        }
        if (head + n < h.H)
            store<8>(x + (head + n) * h.stride_h, MICA_CUDA_BF16, 0, v);
    }
}

static bool are_aligned(const mica_cuda_heads *h)
{
    return (uintptr_t)h->x % 16 == 0 && h->stride_l % 8 == 0 && h->stride_h % 8 == 0;
}

static bool fits_groups(const mica_cuda_rope_args *a)
{
    return a->type == MICA_CUDA_BF16 && (a->K == 64 || a->K == 128 || a->K == 256) &&
           are_aligned(&a->part[0]) && are_aligned(&a->part[1]) &&
           (!a->cos || ((uintptr_t)a->cos % 16 == 0 && (uintptr_t)a->sin % 16 == 0 &&
                        a->table_stride % 4 == 0));
}

static int chunks_of(const mica_cuda_heads *h)
{
    return h->x ? (h->H + HEADS_PER_GROUP - 1) / HEADS_PER_GROUP : 0;
}

extern "C" cudaError_t mica_cuda_rope(const mica_cuda_rope_args *args, cudaStream_t stream)
{
    if (fits_groups(args)) {
        const int queries = chunks_of(&args->part[0]);
        const int chunks = queries + chunks_of(&args->part[1]);
        const int64_t threads = args->L * chunks * (args->K / 8);
        const unsigned blocks = (unsigned)((threads + BLOCK - 1) / BLOCK);
        const auto kernel = args->K == 64    ? rope_group_kernel<8>
                            : args->K == 128 ? rope_group_kernel<16>
                                             : rope_group_kernel<32>;
        if (args->L <= EARLY_ROWS)
            return launch_early(kernel, dim3(blocks), BLOCK, 0, stream, *args, queries, chunks);
        kernel<<<blocks, BLOCK, 0, stream>>>(*args, queries, chunks);
        return cudaGetLastError();
    }
    for (int i = 0; i < 2 && args->part[i].x; i++) {
        const int64_t jobs = args->L * args->part[i].H;
        const unsigned blocks = (unsigned)((jobs + BLOCK / 32 - 1) / (BLOCK / 32));
        rope_kernel<<<blocks, BLOCK, 0, stream>>>(*args, args->part[i]);
    }
    return cudaGetLastError();
}
