/* cuda_race.cu - draws a token where the logits are, and the embedding of what was drawn.
 *
 *     penalty ─► likeliest ─► sorted ─► top p ─► temperature ─► top k ─► largest of logit - log(e)
 *
 * One block of threads per sequence; numbers, their order of operations and ties are those of
 * backend_race.c, with logarithms and exponentials in f64, so the choice is the host's. 1,025 logits are sorted
 * in shared memory in 66 steps, 4 us; an embedding is one launch. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_step.h"

#define THREADS 1024
#define MOST    MICA_CUDA_RACE_MOST

struct race_rows {
    mica_cuda_race_row row[MICA_CUDA_STEP_ROWS];
};

static __device__ __forceinline__ uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The largest value of the block and its index; of equal ones the lower. -1 where nothing was given. */
static __device__ int largest(double value, int index)
{
    __shared__ double values[32];
    __shared__ int indices[32];
    for (int round = 0; round < 2; round++) {
#pragma unroll
        for (int step = 16; step > 0; step /= 2) {
            const double v = __shfl_xor_sync(0xffffffffu, value, step);
            const int i = __shfl_xor_sync(0xffffffffu, index, step);
            if (i >= 0 && (index < 0 || v > value || (v == value && i < index))) {
                value = v;
                index = i;
            }
        }
        if (round == 1)
            break;
        __syncthreads();
        if (threadIdx.x % 32 == 0) {
            values[threadIdx.x / 32] = value;
            indices[threadIdx.x / 32] = index;
        }
        __syncthreads();
        value = values[threadIdx.x % 32];
        index = indices[threadIdx.x % 32];
    }
    return index;
}

static __device__ void sort_descending(float *s)
{
    for (int size = 2; size <= MOST; size *= 2)
        for (int step = size / 2; step > 0; step /= 2) {
            __syncthreads();
            const int i = 2 * threadIdx.x - (threadIdx.x & (step - 1)), j = i + step;
            const bool down = (i & size) == 0;
            const float a = s[i], b = s[j];
            if (down ? a < b : a > b) {
                s[i] = b;
                s[j] = a;
            }
        }
    __syncthreads();
}

/* How many of the sorted logits top p keeps, less one: see floor_of_top_p in backend_race.c. */
static __device__ int kept_by_top_p(double top_p, int n, const float *sorted, double *sums)
{
    __shared__ int first_out;
    const int t = threadIdx.x;
    if (t == 0)
        first_out = n;
    for (int i = t; i < MOST; i += THREADS)
        sums[i] = i < n ? exp((double)sorted[i] - (double)sorted[0]) : 0.0;
    for (int step = 1; step < MOST; step *= 2) { /* inclusive sums */
        double add[MOST / THREADS];
        __syncthreads();
        for (int k = 0; k < MOST / THREADS; k++)
            add[k] = t + k * THREADS >= step ? sums[t + k * THREADS - step] : 0.0;
        __syncthreads();
        for (int k = 0; k < MOST / THREADS; k++)
            sums[t + k * THREADS] += add[k];
    }
    __syncthreads();
    const double all = sums[n - 1];
    for (int i = t; i < n; i += THREADS)
        if (i > 0 && sums[i] / all > top_p)
            atomicMin(&first_out, i);
    __syncthreads();
    return first_out - 1;
}

static __device__ int draw(const mica_cuda_race_row &a, float *x, float *sorted, double *sums,
                           int likeliest)
{
    const int n = a.choices;
    for (int i = threadIdx.x; i < MOST; i += THREADS)
        sorted[i] = i < n ? x[i] : -INFINITY;
    sort_descending(sorted);
    const int kept = a.top_p < 1.0 ? kept_by_top_p(a.top_p, n, sorted, sums) : n - 1;
    const float floor_p = a.top_p < 1.0 ? sorted[kept] : -INFINITY;
    float floor_k = -INFINITY; /* behind the temperature */
    if (a.top_k < n && sorted[a.top_k - 1] >= floor_p)
        floor_k = sorted[a.top_k - 1] / a.temperature;
    double best = 0.0;
    int index = -1;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        const float v = x[i] / a.temperature;
        if (x[i] < floor_p || v < floor_k || v == -INFINITY)
            continue;
        const uint64_t bits = mix(a.key ^ mix(a.noise + (uint64_t)i)) >> 11;
        const double u = ((double)bits + 0.5) * 1.1102230246251565e-16; /* 2^-53 */
        const double score = (double)v - log(-log(u));
        if (index < 0 || score > best) {
            best = score;
            index = i;
        }
    }
    index = largest(best, index);
    return index < 0 ? likeliest : index;
}

static __global__ void __launch_bounds__(THREADS, 1) race_kernel(const race_rows rows)
{
    extern __shared__ double shared[];
    const mica_cuda_race_row &a = rows.row[blockIdx.x];
    double *sums = shared;
    float *x = (float *)(sums + MOST), *sorted = x + MOST;
    bool bad = false;
    double value = 0.0;
    int index = -1;
    for (int i = threadIdx.x; i < a.stored; i += THREADS) {
        float v = a.logits[i];
        bad |= !isfinite(v);
        if (i >= a.choices)
            continue;
        if (a.penalty != 1.0f && a.seen[i] != 0.0f)
            v = v < 0.0f ? v * a.penalty : v / a.penalty;
        x[i] = v;
        if (index < 0 || v > value) {
            value = v;
            index = i;
        }
    }
    bad = __syncthreads_or(bad);
    const int likeliest = largest(value, index);
    int code = likeliest;
    if (!bad && !a.greedy && a.top_k > 1)
        code = draw(a, x, sorted, sums, likeliest);
    if (threadIdx.x != 0)
        return;
    const bool is_end = !bad && a.end >= 0 && (code == a.end || likeliest == a.end);
    a.drawn[0] = bad ? -1 : code;
    a.drawn[1] = is_end;
    if (!bad && !is_end)
        a.seen[code] = 1.0f;
}

extern "C" cudaError_t mica_cuda_race(const mica_cuda_race_row *rows, int count,
                                      cudaStream_t stream)
{
    const size_t shared = MOST * (sizeof(double) + 2 * sizeof(float));
    race_rows all;
    for (int i = 0; i < count; i++)
        all.row[i] = rows[i];
    race_kernel<<<(unsigned)count, THREADS, shared, stream>>>(all);
    return cudaGetLastError();
}

/* --------------------------------------------------------------- embedding -- */

static __global__ void drawn_kernel(const mica_cuda_drawn_args a)
{
    const int64_t l = blockIdx.x;
    int64_t id = a.ids[l];
    if (id < 0 || id >= a.V)
        id = 0;
    const int64_t to = row_offset(a.y, l), add = a.add.data ? row_offset(a.add, l) : 0;
    for (int64_t i = threadIdx.x; i < a.y.n; i += BLOCK) {
        float v = load1(a.table, a.type, id * a.ld + i);
        if (a.add.data)
            v += load1(a.add.data, a.add.type, add + i);
        store1(a.y.data, a.y.type, to + i, v);
    }
}

extern "C" cudaError_t mica_cuda_embed_drawn(const mica_cuda_drawn_args *args, cudaStream_t stream)
{
    drawn_kernel<<<(unsigned)args->y.rows, BLOCK, 0, stream>>>(*args);
    return cudaGetLastError();
}
