/* cuda_race.cu - draws a token where the logits are; what was drawn to the host, and its embedding.
 *
 *     noise of every token ─► (logits) ─► penalty; temperature ─► a bound that at least k reach
 *         ─► candidates: the tokens above it ─► how many of them are larger, and their mass ─► top k, top p
 *         ─► the largest of logit - log(e)
 *
 * One block of threads per sequence; numbers, their order of operations and ties are those of backend_race.c, with
 * logarithms and exponentials in f64, so the choice is the host's. Nothing is sorted: a token stays if fewer than k are
 * larger, and if those, all of them candidates too, and itself have no more than p of the mass. The bound is the
 * smallest of 16 groups' largest, for k = 15: some 50 of 1,025 tokens reach it. Of k = 100 some 700 do, and where it
 * cannot help (k above 256, logits that are all equal) every token is a candidate: right, but 10 to 20 us.
 *
 * What counts is the number of instructions behind each other, 3 to 5 cycles each: nothing branches that need not, and
 * divisors come as reciprocals. The kernel begins while the step before it still runs (cuda_early.cuh), makes the
 * noise and rehearses. It writes the token into the host's memory itself: a copy and an event behind it cost 8 us. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_early.cuh"
#include "backend/cuda/cuda_step.h"

#define THREADS 256
#define WARPS   (THREADS / 32)
#define MOST    MICA_CUDA_RACE_MOST
#define PARTS   4 /* threads that compare a candidate with the others */
#define ALL     0xffffffffu
#define NOBODY  0x7fffffff
#if __CUDA_ARCH__ >= 900
#define BEGINS_EARLY 1
#else
#define BEGINS_EARLY 0
#endif

struct race_rows {
    mica_cuda_race_row row[MICA_CUDA_STEP_ROWS];
};

struct room {
    double noise[MOST];               /* by token */
    uint64_t mass[MOST];              /* where top p cuts, as the next */
    float logit[MOST];                /* behind the penalty */
    __align__(16) float scaled[MOST]; /* behind the temperature, of candidates: */
    uint16_t candidates[MOST];
    int count;
    __align__(16) float groups[THREADS]; /* the largest of each, behind the penalty */
    uint32_t largest[WARPS], first[WARPS];
    uint64_t sums[WARPS], scores[WARPS];
    int tokens[WARPS];
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

/* x / d as f32 rounds it, from 1 / d in f64: the quotient of two f32 lies at least 2^-49 of itself away from the
 * middle between two f32, and the error here is 2^-52. */
static __device__ __forceinline__ float divided(float x, double reciprocal)
{
    return (float)((double)x * reciprocal);
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
    /* Threads of a group: at least as many groups as k, where there are so many threads. */
    c.fold = c.k <= 16 ? 16 : c.k <= 32 ? 8 : c.k <= 64 ? 4 : c.k <= 128 ? 2 : 1;
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

/* ----------------------------------------------------------------- logits -- */

/* This thread's tokens t, t + THREADS, ..: behind the penalty, -infinity where there is none. In a rehearsal any
 * numbers. Returns whether a logit is not finite. */
template <int OWN>
static __device__ __forceinline__ bool take(const mica_cuda_race_row &a, const choice &c,
                                            bool rehearsal, float (&x)[OWN])
{
    const int stored = rehearsal ? 0 : a.stored;
    const int marked = a.penalty != 1.0f ? min(c.n, stored) : 0;
    float seen[OWN];
    bool bad = false;
#pragma unroll
    for (int s = 0; s < OWN; s++) {
        const int i = threadIdx.x + s * THREADS;
        x[s] = (float)((uint32_t)i * 2654435761u);
        if (!rehearsal)
            x[s] = i < stored ? __ldcg(a.logits + i) : 0.0f;
        seen[s] = i < marked ? __ldcg(a.seen + i) : 0.0f;
    }
#pragma unroll
    for (int s = 0; s < OWN; s++) {
        const float less = x[s] < 0.0f ? x[s] * a.penalty : divided(x[s], a.per_penalty);
        bad |= !isfinite(x[s]);
        x[s] = seen[s] != 0.0f ? less : x[s];
        x[s] = threadIdx.x + s * THREADS < c.n ? x[s] : -INFINITY;
    }
    return bad;
}

/* The largest of the warp and its first token; the largest of the thread's group. */
template <int OWN>
static __device__ __forceinline__ void find_largest(const choice &c, const float (&x)[OWN])
{
    room &r = the_room();
    const int t = threadIdx.x;
    float most = x[0];
    int first = t;
#pragma unroll
    for (int s = 1; s < OWN; s++) {
        first = x[s] > most ? t + s * THREADS : first;
        most = fmaxf(most, x[s]);
    }
    const uint32_t own = order_of(most), all = __reduce_max_sync(ALL, own);
    const uint32_t token = __reduce_min_sync(ALL, own == all ? (uint32_t)first : ALL);
    if (t % 32 == 0) {
        r.largest[t / 32] = all;
        r.first[t / 32] = token;
    }
    for (int step = 1; step < c.fold; step *= 2)
        most = fmaxf(most, __shfl_xor_sync(ALL, most, step));
    if (t % c.fold == 0)
        r.groups[t / c.fold] = most;
}

/* Of the block, as order_of, and the first token that has it. All of a warp must come here. */
static __device__ __forceinline__ uint32_t likeliest_of_block(int &token)
{
    const room &r = the_room();
    const int lane = threadIdx.x % 32;
    const uint32_t own = lane < WARPS ? r.largest[lane] : 0;
    const uint32_t most = __reduce_max_sync(ALL, own);
    token = (int)__reduce_min_sync(ALL, own == most ? r.first[lane % WARPS] : ALL);
    return most;
}

/* ------------------------------------------------------------- candidates -- */

#define UNIT 1125899906842624.0 /* 2^50, of the likeliest: integers, so that sums have no order */

/* Mass of every token. Returns the sum. */
template <int OWN> static __device__ uint64_t make_mass(int n, uint32_t most, const float (&x)[OWN])
{
    room &r = the_room();
    const double likeliest = (double)__uint_as_float(most >> 31 ? most & 0x7fffffffu : ~most);
    uint64_t sum = 0;
#pragma unroll
    for (int s = 0; s < OWN; s++)
        r.logit[threadIdx.x + s * THREADS] = x[s];
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += THREADS)
        sum += r.mass[i] = __double2ull_rn(UNIT * exp((double)r.logit[i] - likeliest));
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        sum += __shfl_xor_sync(ALL, sum, step);
    if (threadIdx.x % 32 == 0)
        r.sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        sum += r.sums[w];
    return sum;
}

/* The smallest of the groups' largest, behind the temperature: at least k tokens reach it. */
static __device__ __forceinline__ float bound_of(const mica_cuda_race_row &a, const choice &c)
{
    const room &r = the_room();
    const int count = THREADS / c.fold;
    float bound = INFINITY;
    if (c.k > count)
        return -INFINITY;
#pragma unroll 4
    for (int g = 0; g < count; g += 4) {
        const float4 four = *(const float4 *)(r.groups + g);
        bound = fminf(bound, fminf(fminf(four.x, four.y), fminf(four.z, four.w)));
    }
    return divided(bound, a.per_temperature);
}

/* Tokens that reach the bound, without those that top p cuts whatever the others are: all tokens of such a mass
 * together have less than what top p leaves out. Larger ones of a candidate are candidates. */
template <int OWN>
static __device__ __forceinline__ void find_candidates(const mica_cuda_race_row &a, const choice &c,
                                                       const float (&x)[OWN], uint64_t all)
{
    room &r = the_room();
    const float bound = bound_of(a, c);
    const uint64_t least =
        c.cuts ? (uint64_t)(0.999 * (1.0 - a.top_p) * (double)all / (double)c.n) : 0;
    const int lane = threadIdx.x % 32;
    uint32_t votes[OWN];
    float v[OWN];
    int own = 0, at = 0;
#pragma unroll
    for (int s = 0; s < OWN; s++) {
        const int i = threadIdx.x + s * THREADS;
        v[s] = divided(x[s], a.per_temperature);
        votes[s] = __ballot_sync(ALL, i < c.n && v[s] >= bound && (!c.cuts || r.mass[i] >= least));
        own += __popc(votes[s]);
    }
    if (lane == 0 && own > 0)
        at = atomicAdd(&r.count, own);
    at = __shfl_sync(ALL, at, 0);
#pragma unroll
    for (int s = 0; s < OWN; s++) {
        const int to = at + __popc(votes[s] & ((1u << lane) - 1));
        if (votes[s] >> lane & 1) {
            r.candidates[to] = (uint16_t)(threadIdx.x + s * THREADS);
            r.scaled[to] = v[s];
        }
        at += __popc(votes[s]);
    }
    __syncthreads();
}

/* ------------------------------------------------------------------- draw -- */

template <typename T> static __device__ __forceinline__ T sum_of_parts(T v)
{
#pragma unroll
    for (int step = 1; step < PARTS; step *= 2)
        v += __shfl_xor_sync(ALL, v, step);
    return v;
}

/* Whether top k and top p leave a candidate; all PARTS of its threads ask. all: the whole mass. */
static __device__ __forceinline__ bool stays(const mica_cuda_race_row &a, const choice &c, int at,
                                             uint64_t all)
{
    const room &r = the_room();
    const int count = r.count, token = r.candidates[at], part = threadIdx.x % PARTS;
    const float own = r.scaled[at];
    int larger = 0, above = 0;
#pragma unroll 2
    for (int j = 4 * part; j < count && c.k < c.n; j += 4 * PARTS) { /* -infinity behind the last */
        const float4 four = *(const float4 *)(r.scaled + j);
        larger += ((four.x > own) + (four.y > own)) + ((four.z > own) + (four.w > own));
    }
    const bool is_left = sum_of_parts(larger) < c.k;
    if (!c.cuts)
        return is_left;
    const float logit = r.logit[token];
    uint64_t mass = part == 0 ? r.mass[token] : 0;
#pragma unroll 2
    for (int j = part; j < count; j += PARTS) {
        const int other = r.candidates[j];
        mass += r.logit[other] > logit ? r.mass[other] : 0;
        above += r.logit[other] > logit;
    }
    mass = sum_of_parts(mass);
    above = sum_of_parts(above);
    return is_left && (above == 0 || (double)mass / (double)all <= a.top_p);
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

/* As backend_race.c's draw, on warp 0. Where temperature made infinities of all, the first token. */
static __device__ __forceinline__ int draw(const mica_cuda_race_row &a, const choice &c,
                                           uint64_t all)
{
    room &r = the_room();
    const int t = threadIdx.x, count = r.count;
    uint64_t best = 0;
    int token = NOBODY;
#pragma unroll 1
    for (int first = 0; first < count; first += THREADS / PARTS) {
        const int at = min(first + t / PARTS, count - 1); /* the last one is taken several times */
        const int i = r.candidates[at];
        const float v = r.scaled[at];
        const uint64_t score = order_of((double)v - r.noise[i]);
        const bool is_better = score > best || (score == best && i < token);
        if (stays(a, c, at, all) && is_better && v != -INFINITY) {
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

static __device__ __forceinline__ void tell(const mica_cuda_race_row &a, bool bad, int code,
                                            int likeliest)
{
    const bool is_end = !bad && a.end >= 0 && (code == a.end || likeliest == a.end);
    tell_host(a.told, bad ? -1 : code, a.ticket);
    tell_host(a.told + 1, is_end, a.ticket);
    a.drawn[0] = bad ? -1 : code;
    a.drawn[1] = is_end;
    if (!bad && !is_end)
        a.seen[code] = 1.0f;
}

/* Everything twice, at first with numbers of no meaning: the step's kernel still runs, and what was done once is in
 * the instruction cache. */
template <int OWN>
static __global__ void __launch_bounds__(THREADS)
    race_kernel(const __grid_constant__ race_rows rows)
{
    const mica_cuda_race_row &a = rows.row[blockIdx.x];
    const choice c = choice_of(a);
    room &r = the_room();
    let_next_begin();
    if (c.draws)
        make_noise(a, c.n);
#pragma unroll 1
    for (int turn = BEGINS_EARLY ? 0 : 1; turn < 2; turn++) {
        float x[OWN];
        uint64_t all = 0;
        int code = 0, likeliest;
#pragma unroll
        for (int s = 0; s < OWN; s++)
            r.scaled[threadIdx.x + s * THREADS] = -INFINITY;
        if (threadIdx.x == 0)
            r.count = 0;
        if (turn == 1)
            wait_for_previous();
        const bool wrong = take(a, c, turn == 0, x);
        find_largest(c, x);
        const bool bad = __syncthreads_or(wrong);
        const uint32_t most = likeliest_of_block(likeliest);
        if (c.draws) {
            if (c.cuts)
                all = make_mass(c.n, most, x);
            find_candidates(a, c, x, all);
            code = draw(a, c, all);
        }
        if (turn == 1 && threadIdx.x == 0)
            tell(a, bad, c.draws ? code : likeliest, likeliest);
        __syncthreads();
    }
}

template <int OWN> static cudaError_t launch(const race_rows &rows, int count, cudaStream_t stream)
{
    const cudaError_t error = cudaFuncSetAttribute(
        race_kernel<OWN>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(room));
    return error ? error
                 : launch_early(race_kernel<OWN>, dim3((unsigned)count), THREADS, sizeof(room),
                                stream, rows);
}

#define FEW 5 /* tokens of a thread: 1,280, more than the released models have */

extern "C" cudaError_t mica_cuda_race(const mica_cuda_race_row *rows, int count,
                                      cudaStream_t stream)
{
    race_rows all;
    bool few = true;
    for (int i = 0; i < count; i++) {
        all.row[i] = rows[i];
        few = few && rows[i].stored <= FEW * THREADS;
    }
    return few ? launch<FEW>(all, count, stream) : launch<MOST / THREADS>(all, count, stream);
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
