/* cuda_race.cu - draws a token where the logits are; what was drawn to the host, and its embedding.
 *
 *     noise of every token ─► (logits) ─► penalty ─► likeliest; temperature ─► a bound that at least k reach
 *         ─► candidates: the tokens above it ─► how many of them are larger, and their mass ─► top k, top p
 *         ─► the largest of logit - log(e)
 *
 * One block of threads per sequence; numbers, their order of operations and ties are those of backend_race.c, with
 * logarithms and exponentials in f64, so the choice is the host's. Nothing is sorted: a token stays if fewer than k are
 * larger, and if those, all of them candidates too, and itself have no more than p of the mass. The bound is the k-th
 * largest of 32 to 256 groups' largest: some 20 of 1,025 tokens are above it for k = 15. Where it cannot help (k above
 * 256, logits that are all equal) every token is a candidate: right, but 10 to 20 us.
 *
 * The kernel begins while the step before it still runs (cuda_early.cuh) and makes the noise then. It writes the token
 * into the host's memory itself: a copy and an event behind it cost 8 us. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_early.cuh"
#include "backend/cuda/cuda_step.h"

#define THREADS 256
#define WARPS   (THREADS / 32)
#define MOST    MICA_CUDA_RACE_MOST
#define OWN     (MOST / THREADS) /* tokens of a thread: t, t + THREADS, .. */
#define ALL     0xffffffffu
#define NOBODY  0x7fffffff

struct race_rows {
    mica_cuda_race_row row[MICA_CUDA_STEP_ROWS];
};

struct room {
    /* By token. */
    double noise[MOST], mass[MOST];      /* mass: where top p cuts */
    float logit[MOST], scaled[MOST];     /* behind the penalty; behind the temperature */
    uint16_t candidates[MOST];           /* in order of their threads */
    __align__(16) float groups[THREADS]; /* largest scaled logit of each */
    uint32_t bounds[WARPS], largest[WARPS];
    int counts[WARPS], tokens[WARPS], likeliest;
    double sums[WARPS];
    uint64_t scores[WARPS];
};

static __device__ __forceinline__ room &the_room()
{
    extern __shared__ __align__(16) uint8_t shared[];
    return *(room *)shared;
}

static __device__ __forceinline__ uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Unsigned numbers in the order of what they are made of; above 0 unless NaN. */
static __device__ __forceinline__ uint32_t order_of(float x)
{
    const uint32_t bits = __float_as_uint(x + 0.0f); /* -0 is 0 */
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ uint64_t order_of(double x)
{
    const uint64_t bits = (uint64_t)__double_as_longlong(x + 0.0);
    return bits >> 63 ? ~bits : bits | 0x8000000000000000u;
}

/* What may be drawn, and how. */
struct choice {
    bool draws; /* else the likeliest */
    bool cuts;  /* top p does */
    int n, k, fold;
};

static __device__ __forceinline__ choice choice_of(const mica_cuda_race_row &a)
{
    choice c;
    c.draws = !a.greedy && a.top_k > 1;
    c.cuts = c.draws && a.top_p < 1.0;
    c.n = a.choices;
    c.k = min(a.top_k, a.choices);
    /* Threads of a group, at least twice as many groups as k where there are so many. */
    c.fold = c.k <= 16 ? 8 : c.k <= 32 ? 4 : c.k <= 64 ? 2 : 1;
    return c;
}

static __device__ void make_noise(const mica_cuda_race_row &a, int n)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += THREADS) {
        const uint64_t bits = mix(a.key ^ mix(a.noise + (uint64_t)i)) >> 11;
        const double u = ((double)bits + 0.5) * 1.1102230246251565e-16; /* 2^-53 */
        the_room().noise[i] = log(-log(u));
    }
}

/* This thread's logits; the largest of its warp and of its group. Returns whether one is not finite. */
static __device__ __forceinline__ bool take_logits(const mica_cuda_race_row &a, const choice &c)
{
    room &r = the_room();
    const int t = threadIdx.x;
    float x[OWN], seen[OWN], most = -INFINITY, scaled = -INFINITY;
    bool bad = false;
#pragma unroll
    for (int s = 0; s < OWN; s++) {
        const int i = t + s * THREADS;
        x[s] = i < a.stored ? a.logits[i] : 0.0f;
        seen[s] = a.penalty != 1.0f && i < c.n ? a.seen[i] : 0.0f;
    }
#pragma unroll
    for (int s = 0; s < OWN; s++) {
        const int i = t + s * THREADS;
        bad |= !isfinite(x[s]);
        if (i >= c.n)
            continue;
        if (seen[s] != 0.0f)
            x[s] = x[s] < 0.0f ? x[s] * a.penalty : x[s] / a.penalty;
        const float v = c.draws ? x[s] / a.temperature : x[s];
        r.logit[i] = x[s];
        r.scaled[i] = v;
        most = fmaxf(most, x[s]);
        scaled = fmaxf(scaled, v);
    }
    const uint32_t all = __reduce_max_sync(ALL, order_of(most));
    if (t % 32 == 0)
        r.largest[t / 32] = all;
    for (int step = 1; step < c.fold; step *= 2)
        scaled = fmaxf(scaled, __shfl_xor_sync(ALL, scaled, step));
    if (t % c.fold == 0)
        r.groups[t / c.fold] = scaled;
    return bad;
}

/* The first token that has the largest logit. */
static __device__ __forceinline__ void find_likeliest(int n)
{
    room &r = the_room();
    uint32_t most = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        most = max(most, r.largest[w]);
    for (int i = threadIdx.x; i < n; i += THREADS)
        if (order_of(r.logit[i]) == most)
            atomicMin(&r.likeliest, i);
}

/* The k-th largest of the groups' largest: at least k tokens reach it. Each warp's part of it. */
static __device__ __forceinline__ void find_bound(const choice &c)
{
    room &r = the_room();
    const int t = threadIdx.x, count = THREADS / c.fold;
    uint32_t bound = ALL;
    if (c.k > count) {
        bound = 0;
    } else if (t < count) {
        const float own = r.groups[t];
        int larger = 0;
#pragma unroll 4
        for (int g = 0; g < count; g += 4) {
            const float4 four = *(const float4 *)(r.groups + g);
            larger += (four.x > own) + (four.y > own) + (four.z > own) + (four.w > own);
        }
        bound = larger < c.k ? order_of(own) : ALL;
    }
    bound = __reduce_min_sync(ALL, bound);
    if (t % 32 == 0)
        r.bounds[t / 32] = bound;
}

static __device__ double sum_of_block(double own)
{
    room &r = the_room();
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        own += __shfl_xor_sync(ALL, own, step);
    if (threadIdx.x % 32 == 0)
        r.sums[threadIdx.x / 32] = own;
    __syncthreads();
    double all = 0.0;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        all += r.sums[w];
    return all;
}

/* Mass of every token, that of the likeliest 1. Returns the sum. */
static __device__ double make_mass(int n)
{
    room &r = the_room();
    const double most = (double)r.logit[r.likeliest];
    double sum = 0.0;
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += THREADS)
        sum += r.mass[i] = exp((double)r.logit[i] - most);
    return sum_of_block(sum);
}

/* Tokens that reach the bound, without those that top p cuts whatever the others are: all tokens of such a mass
 * together have less than what top p leaves out. Larger ones of a candidate are candidates. Returns how many. */
static __device__ __forceinline__ int find_candidates(const mica_cuda_race_row &a, const choice &c,
                                                      double all)
{
    room &r = the_room();
    const int t = threadIdx.x;
    const double least = c.cuts ? 0.999 * (1.0 - a.top_p) * all / (double)c.n : 0.0;
    uint32_t bound = ALL, votes[OWN];
    int own = 0, first = 0, count = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        bound = min(bound, r.bounds[w]);
#pragma unroll
    for (int s = 0; s < OWN; s++) {
        const int i = t + s * THREADS;
        const bool reaches = i < c.n && order_of(r.scaled[i]) >= bound;
        votes[s] = __ballot_sync(ALL, reaches && (!c.cuts || r.mass[i] >= least));
        own += __popc(votes[s]);
    }
    if (t % 32 == 0)
        r.counts[t / 32] = own;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        first += w < t / 32 ? r.counts[w] : 0;
        count += r.counts[w];
    }
#pragma unroll
    for (int s = 0; s < OWN; s++) {
        if (votes[s] >> t % 32 & 1)
            r.candidates[first + __popc(votes[s] & ((1u << t % 32) - 1))] =
                (uint16_t)(t + s * THREADS);
        first += __popc(votes[s]);
    }
    __syncthreads();
    return count;
}

/* Whether top k and top p leave it. all: the whole mass. */
static __device__ bool stays(const mica_cuda_race_row &a, const choice &c, int i, int count,
                             double all)
{
    const room &r = the_room();
    const float own = r.scaled[i], logit = r.logit[i];
    int larger = 0;
    if (c.k < c.n) {
#pragma unroll 4
        for (int j = 0; j < count; j++)
            larger += r.scaled[r.candidates[j]] > own;
    }
    if (larger >= c.k || !c.cuts || logit == r.logit[r.likeliest])
        return larger < c.k;
    double mass = r.mass[i];
#pragma unroll 4
    for (int j = 0; j < count; j++) {
        const int other = r.candidates[j];
        mass += r.logit[other] > logit ? r.mass[other] : 0.0;
    }
    return mass / all <= a.top_p;
}

/* The token with the highest of 32 scores, of equal ones the first; NOBODY where all are 0. */
static __device__ __forceinline__ int winner_of_warp(uint64_t &score, int token)
{
    const uint32_t high = __reduce_max_sync(ALL, (uint32_t)(score >> 32));
    const uint32_t low = __reduce_max_sync(ALL, score >> 32 == high ? (uint32_t)score : 0u);
    const uint64_t best = (uint64_t)high << 32 | low;
    const uint32_t first =
        __reduce_min_sync(ALL, score == best && best > 0 ? (uint32_t)token : (uint32_t)NOBODY);
    score = best;
    return (int)first;
}

/* As backend_race.c's draw. Where temperature made infinities of all, the first token. */
static __device__ int draw(const mica_cuda_race_row &a, const choice &c)
{
    room &r = the_room();
    const int t = threadIdx.x;
    const double all = c.cuts ? make_mass(c.n) : 0.0;
    const int count = find_candidates(a, c, all);
    uint64_t best = 0;
    int token = NOBODY;
#pragma unroll 1
    for (int j = t; j < count; j += THREADS) {
        const int i = r.candidates[j];
        const float v = r.scaled[i];
        if (v == -INFINITY || !stays(a, c, i, count, all))
            continue;
        const uint64_t score = order_of((double)v - r.noise[i]);
        if (score > best || (score == best && i < token)) {
            best = score;
            token = i;
        }
    }
    token = winner_of_warp(best, token);
    if (t % 32 == 0) {
        r.scores[t / 32] = best;
        r.tokens[t / 32] = token;
    }
    __syncthreads();
    best = t < WARPS ? r.scores[t] : 0;
    token = winner_of_warp(best, t < WARPS ? r.tokens[t] : NOBODY);
    return token == NOBODY ? 0 : token;
}

/* A number and the ticket that it answers, in one piece; see cuda_fetch.c. */
static __device__ __forceinline__ void tell_host(uint64_t *word, int32_t number, uint32_t ticket)
{
    const uint64_t both = (uint64_t)ticket << 32 | (uint32_t)number;
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(word), "l"(both) : "memory");
}

static __global__ void __launch_bounds__(THREADS)
    race_kernel(const __grid_constant__ race_rows rows)
{
    const mica_cuda_race_row &a = rows.row[blockIdx.x];
    const choice c = choice_of(a);
    room &r = the_room();
    let_next_begin();
    if (c.draws)
        make_noise(a, c.n);
    if (threadIdx.x == 0)
        r.likeliest = c.n - 1;
    wait_for_previous();
    const bool bad = __syncthreads_or(take_logits(a, c));
    find_likeliest(c.n);
    if (c.draws)
        find_bound(c);
    __syncthreads();
    const int likeliest = r.likeliest, code = c.draws && !bad ? draw(a, c) : likeliest;
    if (threadIdx.x != 0)
        return;
    const bool is_end = !bad && a.end >= 0 && (code == a.end || likeliest == a.end);
    a.drawn[0] = bad ? -1 : code;
    a.drawn[1] = is_end;
    tell_host(a.told, bad ? -1 : code, a.ticket);
    tell_host(a.told + 1, is_end, a.ticket);
    if (!bad && !is_end)
        a.seen[code] = 1.0f;
}

extern "C" cudaError_t mica_cuda_race(const mica_cuda_race_row *rows, int count,
                                      cudaStream_t stream)
{
    race_rows all;
    const cudaError_t error = cudaFuncSetAttribute(
        race_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(room));
    if (error)
        return error;
    for (int i = 0; i < count; i++)
        all.row[i] = rows[i];
    return launch_early(race_kernel, dim3((unsigned)count), THREADS, sizeof(room), stream, all);
}

/* ------------------------------------------------------------------- fetch -- */

static __global__ void fetch_kernel(const int32_t *ids, int count, uint64_t *told, uint32_t ticket)
{
    const int i = threadIdx.x;
    let_next_begin();
    wait_for_previous();
    if (i < count)
        tell_host(told + i, ids[i], ticket);
}

extern "C" cudaError_t mica_cuda_fetch(const int32_t *ids, int count, uint64_t *told,
                                       uint32_t ticket, cudaStream_t stream)
{
    return launch_early(fetch_kernel, dim3(1), 32, 0, stream, ids, count, told, ticket);
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
