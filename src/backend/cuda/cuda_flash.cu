/* cuda_flash.cu - attention of bf16 heads in one kernel, with and without a causal mask.
 *
 *     block   64 queries of one head, 4 warps of 16          grid   tiles of queries x heads
 *     loop    64 keys and values at a time, two stages of cp.async:
 *                 S = q k^T      tensor cores (mma m16n8k16), sums in f32
 *                 online softmax in base 2: running maximum and sum of each row, in registers
 *                 O = O exp2(old - new) + P v        P rounded to bf16
 *     shared  rows of K elements in chunks of 16 bytes, chunk c of row r at c ^ (r % 8): no bank conflicts
 *
 * What it is for: text encoders and prompts (causal, any length) and short sequences. cuDNN compiles a
 * kernel for every shape it has not seen (0.8 s on an H100); this one serves all of them. For long
 * sequences without a mask cuDNN is twice as fast: it uses wgmma.
 *
 * Napkin: 512 tokens, 32 heads of 128, causal: 2.4 GFLOP with the diagonal, 10 us at 250 TFLOP/s. By products
 * it moved 6 bytes a score five times: 110 us. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_early.cuh"

#include <cstdint>

#define TILE    64 /* queries, and keys */
#define WARPS   4
#define THREADS (32 * WARPS)

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes; zeros where !valid. */
static __device__ __forceinline__ void copy_async(uint32_t to, const void *from, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(valid ? 16 : 0));
}

static __device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from));
}

static __device__ __forceinline__ void load_transposed(uint32_t (&r)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from));
}

/* 2^x to 2 ulp, 0 for -infinity. */
static __device__ __forceinline__ float power_of_two(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ uint32_t pack_two(float low, float high)
{
    const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&two;
}

/* Where chunk `chunk` of row `row` lies in a tile. */
template <int K> static __device__ __forceinline__ uint32_t place_of(int row, int chunk)
{
    return (uint32_t)(row * K * 2 + ((chunk ^ (row & 7)) * 16));
}

/* Rows [first, first + TILE) of a head, zeros from `rows` on. */
template <int K>
static __device__ __forceinline__ void load_tile(uint32_t tile, const __nv_bfloat16 *head,
                                                 int64_t stride, int64_t first, int64_t rows)
{
#pragma unroll
    for (int i = 0; i < TILE * K / 8 / THREADS; i++) {
        const int item = (int)threadIdx.x + i * THREADS;
        const int row = item / (K / 8), chunk = item % (K / 8);
        const bool valid = first + row < rows;
        copy_async(tile + place_of<K>(row, chunk),
                   head + (valid ? first + row : 0) * stride + chunk * 8, valid);
    }
}

/* S = q k^T of a warp's 16 queries. */
template <int K>
static __device__ __forceinline__ void score(float (&s)[TILE / 8][4],
                                             const uint32_t (&q)[K / 16][4], uint32_t keys)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < TILE / 16; n++) {
        const int row = n * 16 + lane / 16 * 8 + lane % 8;
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[2 * n][i] = s[2 * n + 1][i] = 0.0f;
#pragma unroll
        for (int k = 0; k < K / 16; k++) {
            uint32_t b[4];
            load_matrices(b, keys + place_of<K>(row, 2 * k + lane / 8 % 2));
            multiply(s[2 * n], q[k], b[0], b[1]);
            multiply(s[2 * n + 1], q[k], b[2], b[3]);
        }
    }
}

/* O += P v; P are the scores' places after the softmax. */
template <int K>
static __device__ __forceinline__ void add_values(float (&o)[K / 8][4],
                                                  const float (&p)[TILE / 8][4], uint32_t values)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < TILE / 16; k++) {
        const uint32_t a[4] = {
            pack_two(p[2 * k][0], p[2 * k][1]), pack_two(p[2 * k][2], p[2 * k][3]),
            pack_two(p[2 * k + 1][0], p[2 * k + 1][1]), pack_two(p[2 * k + 1][2], p[2 * k + 1][3])};
        const int row = k * 16 + lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
        for (int n = 0; n < K / 16; n++) {
            uint32_t b[4];
            load_transposed(b, values + place_of<K>(row, 2 * n + lane / 16));
            multiply(o[2 * n], a, b[0], b[1]);
            multiply(o[2 * n + 1], a, b[2], b[3]);
        }
    }
}

/* Scores of keys from `visible[h]` on, of the rows of half h, count for nothing. first: key of column 0. */
static __device__ __forceinline__ void mask(float (&s)[TILE / 8][4], int64_t first,
                                            const int64_t (&visible)[2])
{
    const int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < TILE / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (first + n * 8 + column + i % 2 >= visible[i / 2])
                s[n][i] = -INFINITY;
}

/* s becomes exp2(factor (s - maximum)); what was summed before is brought to the new maximum. */
template <int K>
static __device__ __forceinline__ void soften(float (&s)[TILE / 8][4], float (&o)[K / 8][4],
                                              float (&top)[2], float (&sum)[2], float factor)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = top[h];
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
            most = fmaxf(most, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        const float base = most == -INFINITY ? 0.0f : most * factor; /* nothing seen so far */
        const float shrink = power_of_two(top[h] * factor - base);
        top[h] = most;
        sum[h] *= shrink;
#pragma unroll
        for (int n = 0; n < K / 8; n++) {
            o[n][2 * h] *= shrink;
            o[n][2 * h + 1] *= shrink;
        }
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                s[n][i] = power_of_two(s[n][i] * factor - base);
                sum[h] += s[n][i]; /* of this thread's columns */
            }
    }
}

template <int K>
static __device__ __forceinline__ void store_rows(const mica_cuda_attend_args &a, int head,
                                                  int64_t first, const float (&o)[K / 8][4],
                                                  const float (&sum)[2])
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float total = sum[h];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        const int64_t row = first + lane / 4 + 8 * h;
        const float inverse = total == 0.0f ? 0.0f : 1.0f / total; /* NaN stays one */
        __nv_bfloat16 *out =
            (__nv_bfloat16 *)a.out + row * a.out_stride[0] + head * a.out_stride[1] + lane % 4 * 2;
        if (row < a.L)
#pragma unroll
            for (int n = 0; n < K / 8; n++)
                *(uint32_t *)(out + n * 8) =
                    pack_two(o[n][2 * h] * inverse, o[n][2 * h + 1] * inverse);
    }
}

template <int K>
static __global__ void __launch_bounds__(THREADS) flash_kernel(const mica_cuda_attend_args a)
{
    extern __shared__ __align__(128)
        uint8_t memory[]; /* queries; then keys, values of two stages */
    constexpr uint32_t TILE_BYTES = TILE * K * 2;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    /* The last queries of a causal mask see most: they start first. */
    const int64_t first = (int64_t)(gridDim.x - 1 - blockIdx.x) * TILE;
    const int head = blockIdx.y, key_head = head / (a.H / a.G);
    const uint32_t queries = shared_address(memory), stages = queries + TILE_BYTES;
    const __nv_bfloat16 *k = (const __nv_bfloat16 *)a.k + key_head * a.k_stride[1];
    const __nv_bfloat16 *v = (const __nv_bfloat16 *)a.v + key_head * a.v_stride[1];
    const int64_t ahead = a.M - a.L; /* keys before those of the first query */
    int64_t visible[2], end = a.M;
    for (int h = 0; h < 2; h++) {
        const int64_t i = first + warp * 16 + lane / 4 + 8 * h;
        visible[h] = a.causal && i + ahead + 1 < a.M ? i + ahead + 1 : a.M;
    }
    if (a.causal && first + TILE + ahead < a.M)
        end = first + TILE + ahead;
    const int64_t tiles = end > 0 ? (end + TILE - 1) / TILE : 0;

    if (a.L <= EARLY_ROWS)
        let_next_begin();
    wait_for_previous();
    load_tile<K>(queries, (const __nv_bfloat16 *)a.q + head * a.q_stride[1], a.q_stride[0], first,
                 a.L);
    load_tile<K>(stages, k, a.k_stride[0], 0, a.M);
    load_tile<K>(stages + TILE_BYTES, v, a.v_stride[0], 0, a.M);
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 0;");
    __syncthreads();
    uint32_t q[K / 16][4];
#pragma unroll
    for (int i = 0; i < K / 16; i++)
        load_matrices(q[i], queries + place_of<K>(warp * 16 + lane % 16, 2 * i + lane / 16));
    float o[K / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    for (int64_t t = 0; t < tiles; t++) {
        const uint32_t now = stages + (uint32_t)(t % 2) * 2 * TILE_BYTES;
        const uint32_t next = stages + (uint32_t)((t + 1) % 2) * 2 * TILE_BYTES;
        if (t + 1 < tiles) {
            load_tile<K>(next, k, a.k_stride[0], (t + 1) * TILE, a.M);
            load_tile<K>(next + TILE_BYTES, v, a.v_stride[0], (t + 1) * TILE, a.M);
        }
        asm volatile("cp.async.commit_group;");
        float s[TILE / 8][4];
        score<K>(s, q, now);
        if ((t + 1) * TILE > a.M || (a.causal && (t + 1) * TILE > first + ahead + 1))
            mask(s, t * TILE, visible);
        soften<K>(s, o, top, sum, a.scale * 1.4426950408889634f);
        add_values<K>(o, s, now + TILE_BYTES);
        asm volatile("cp.async.wait_group 0;");
        __syncthreads();
    }
    store_rows<K>(a, head, first + warp * 16, o, sum);
}

template <int K> static cudaError_t launch(const mica_cuda_attend_args *a, cudaStream_t stream)
{
    const int bytes = (a->M > TILE ? 5 : 3) * TILE * K * 2; /* one stage for one tile of keys */
    const cudaError_t error =
        cudaFuncSetAttribute(flash_kernel<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess)
        return error;
    const dim3 grid((unsigned)((a->L + TILE - 1) / TILE), (unsigned)a->H);
    if (a->L <= EARLY_ROWS)
        return launch_early(flash_kernel<K>, grid, THREADS, bytes, stream, *a);
    flash_kernel<K><<<grid, THREADS, bytes, stream>>>(*a);
    return cudaGetLastError();
}

extern "C" cudaError_t mica_cuda_flash(const mica_cuda_attend_args *args, cudaStream_t stream)
{
    return args->K == 64 ? launch<64>(args, stream) : launch<128>(args, stream);
}
