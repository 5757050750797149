/* cuda_step.cu - one row of each of a few sequences through all blocks of a post-norm model, in one
 * kernel that holds every multiprocessor.
 *
 *     per block of the network      what a block of threads makes            words that all others wait for
 *       A  norm_2 of the last block, then of a head q and attention over
 *          one of 4 stretches of the keys before;                            D, H x 4 x (K + 2)
 *          the blocks that have no head: k and v, into the cache             2 D
 *       B  stretches and the new key joined, o, residual                     D
 *       C  norm_1, up, ReLU                                                  F
 *       D  down in quarters, residual                                        D
 *
 * Nobody waits at a barrier: a number travels as a word of 64 bits with the number of its round beside it, and
 * whoever needs it reads until the round is there (as NCCL's LL protocol does). No fence is needed, because
 * a word carries all there is to know. A buffer is written again one block of the network later, and to write it
 * one needs words that everyone made after reading the old ones; so a reader is never overtaken.
 *
 * A warp owns an output: 512 inputs are 16 numbers a lane. The matrix rows of the next phase are asked for
 * before its words are, those of the next block of the network go into L2 meanwhile. Sums have one order, whatever
 * `rows` is. All of it runs once a block of the network, so what counts is how much code there is: at 72 KB it
 * came from L2 again and again and took 31,000 cycles a block. Hence loops where one would unroll.
 *
 * Napkin, text to semantic (24 blocks, D 512, F 2048, bf16): 151 MB, 50 us at 3 TB/s; 96 phases of a trip
 * through L2 (0.5 us) and as much work: about 100 us. Measured: 300 us (docs/PERFORMANCE.md). One kernel per
 * operation: some 300 launches. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_step.h"

#define THREADS 512
#define WARPS   (THREADS / 32)
#define SPLITS  MICA_CUDA_STEP_SPLITS
#define WIDTH   MICA_CUDA_STEP_WIDTH

/* ------------------------------------------------------------------- words -- */

static __device__ __forceinline__ void send(uint64_t *word, float x, uint32_t round)
{
    const uint64_t v = (uint64_t)round << 32 | __float_as_uint(x);
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(word), "l"(v) : "memory");
}

static __device__ __forceinline__ uint64_t look(const uint64_t *word)
{
    uint64_t v;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(word) : "memory");
    return v;
}

/* N words that are `step` apart, all asked for at once. */
template <int N>
static __device__ __forceinline__ void receive(const uint64_t *word, int step, uint32_t round,
                                               float (&x)[N])
{
    uint64_t v[N];
    bool there;
    do {
        there = true;
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] = look(word + i * step);
#pragma unroll
        for (int i = 0; i < N; i++)
            there &= (int32_t)((uint32_t)(v[i] >> 32) - round) >= 0;
    } while (!there);
#pragma unroll
    for (int i = 0; i < N; i++)
        x[i] = __uint_as_float((uint32_t)v[i]);
}

/* ------------------------------------------------------------------ pieces -- */

template <typename T> struct piece; /* 8 neighbours */
template <> struct piece<__nv_bfloat16> {
    uint4 a;
};
template <> struct piece<float> {
    float4 a, b;
};

static __device__ __forceinline__ piece<__nv_bfloat16> read_piece(const __nv_bfloat16 *p)
{
    return {__ldcg((const uint4 *)p)};
}

static __device__ __forceinline__ piece<float> read_piece(const float *p)
{
    return {__ldcg((const float4 *)p), __ldcg((const float4 *)p + 1)};
}

static __device__ __forceinline__ void numbers(const piece<__nv_bfloat16> &p, float (&v)[8])
{
    unpack(p.a, v);
}

static __device__ __forceinline__ void numbers(const piece<float> &p, float (&v)[8])
{
    v[0] = p.a.x, v[1] = p.a.y, v[2] = p.a.z, v[3] = p.a.w;
    v[4] = p.b.x, v[5] = p.b.y, v[6] = p.b.z, v[7] = p.b.w;
}

static __device__ __forceinline__ float rounded(float x, const __nv_bfloat16 *)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}

static __device__ __forceinline__ float rounded(float x, const float *)
{
    return x;
}

static __device__ __forceinline__ void put(float *p, float x)
{
    *p = x;
}

static __device__ __forceinline__ void put(__nv_bfloat16 *p, float x)
{
    *p = __float2bfloat16_rn(x);
}

static __device__ __forceinline__ float get(const float *p)
{
    return *p;
}

static __device__ __forceinline__ float get(const __nv_bfloat16 *p)
{
    return __bfloat162float(*p);
}

/* What a lane holds of a row of up to 512: numbers 8 lane .. and 256 + 8 lane .., zeros behind n. */
template <typename T> struct share {
    piece<T> p[2];
};

template <typename T>
static __device__ __forceinline__ share<T> read_share(const T *row, int n, bool wanted)
{
    share<T> s;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int at = 256 * i + 8 * (threadIdx.x % 32);
        s.p[i] = piece<T>();
        if (wanted && at < n)
            s.p[i] = read_piece(row + at);
    }
    return s;
}

/* Where element e of a row lies in shared memory: so that the 8 numbers of a lane are two 16-byte reads
 * without conflicts. */
static __device__ __forceinline__ int place(int e)
{
    return (e & ~255) | (e & 4) << 5 | (e & 248) >> 1 | (e & 3);
}

static __device__ __forceinline__ void read_row(const float *row, float (&x)[16])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float4 *p = (const float4 *)(row + 256 * i) + threadIdx.x % 32;
        const float4 a = p[0], b = p[32];
        x[8 * i] = a.x, x[8 * i + 1] = a.y, x[8 * i + 2] = a.z, x[8 * i + 3] = a.w;
        x[8 * i + 4] = b.x, x[8 * i + 5] = b.y, x[8 * i + 6] = b.z, x[8 * i + 7] = b.w;
    }
}

template <typename T>
static __device__ __forceinline__ float dot(const share<T> &w, const float (&x)[16])
{
    float sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float v[8];
        numbers(w.p[i], v);
#pragma unroll
        for (int k = 0; k < 8; k++)
            sum[i] = fmaf(v[k], x[8 * i + k], sum[i]);
    }
    return sum[0] + sum[1];
}

/* -------------------------------------------------------- what a block has -- */

/* What the phases of a block of the network ask for, where a look costs no trip to L2. */
struct card {
    mica_cuda_step_block b;
    void *cache[MICA_CUDA_STEP_ROWS][2];
};

/* Shared memory. Rows are in the order of place(), zeros behind D. */
struct room {
    card cards[2];          /* of this block of the network and the next */
    float row[4 * WIDTH];   /* the input of o; the hidden row in four quarters */
    float stats[WARPS][2];  /* of a norm: mean and squares of each warp's numbers */
    float q[32];            /* of this block's head */
    float parts[WARPS][34]; /* of attention: largest score, sum, values; sums of quarters */
    float x[1];             /* [rows][WIDTH] normalised: input and residual */
};

extern __shared__ float4 shared[];

static __device__ __forceinline__ room &the_room()
{
    return *(room *)shared;
}

/* A word of block n's card, a thread each: asked for in one phase, put away in the next. */
static __device__ __forceinline__ const void *read_card(const mica_cuda_step_args &a, int n)
{
    const int words = sizeof(mica_cuda_step_block) / sizeof(void *), i = threadIdx.x - words;
    if (i < 0)
        return ((const void *const *)(a.blocks + n))[threadIdx.x];
    return i < 2 * a.rows ? a.caches[2 * (i / 2 * a.count + n) + i % 2] : NULL;
}

static __device__ __forceinline__ void keep_card(const mica_cuda_step_args &a, room &r, int n,
                                                 const void *word)
{
    const int words = sizeof(mica_cuda_step_block) / sizeof(void *), i = threadIdx.x - words;
    card &c = r.cards[n % 2];
    if (i < 0)
        ((const void **)&c.b)[threadIdx.x] = word;
    else if (i < 2 * a.rows)
        c.cache[i / 2][i % 2] = (void *)word;
}

struct words {
    uint64_t *y, *z;  /* [rows][D] before norm_1, before norm_2 */
    uint64_t *hidden; /* [rows][F] */
    uint64_t *qkv;    /* [rows][3][D] of the new token */
    uint64_t *parts;  /* [rows][H][K + 2][SPLITS]: largest score, sum, values */
};

static __device__ __forceinline__ words words_of(const mica_cuda_step_args &a)
{
    words w;
    w.y = a.words;
    w.z = w.y + a.rows * a.D;
    w.hidden = w.z + a.rows * a.D;
    w.qkv = w.hidden + a.rows * a.F;
    w.parts = w.qkv + a.rows * 3 * a.D;
    return w;
}

/* Sum over 16 lanes. */
static __device__ __forceinline__ float half_sum(float v)
{
#pragma unroll
    for (int step = 8; step > 0; step /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

static __device__ __forceinline__ int share_of_warp(int D, int warp)
{
    return min(max(D - 32 * warp, 0), 32);
}

/* Thread t has element v of a row of D; its norm goes to x[m] in the order of place(). Means and squares
 * are taken within warps and joined (Chan, Golub and LeVeque 1979). All threads must come here. */
static __device__ __noinline__ void normalise(float v, int D, float eps, float scale, float shift,
                                              int m)
{
    room &r = the_room();
    const int t = threadIdx.x, warp = t / 32, other = t % WARPS;
    const float mean = warp_sum(t < D ? v : 0.0f) / (float)max(share_of_warp(D, warp), 1);
    const float d = t < D ? v - mean : 0.0f;
    const float squares = warp_sum(d * d);
    if (t % 32 == 0) {
        r.stats[warp][0] = mean;
        r.stats[warp][1] = squares;
    }
    __syncthreads();
    const float n = (float)share_of_warp(D, other);
    const float all = half_sum(n * r.stats[other][0]) / (float)D;
    const float off = r.stats[other][0] - all;
    const float m2 = half_sum(fmaf(n * off, off, r.stats[other][1]));
    if (t < D)
        r.x[m * WIDTH + place(t)] =
            fmaf((v - all) * rsqrtf(m2 / (float)D + eps), 1.0f + scale, shift);
    __syncthreads();
}

static __device__ __forceinline__ float at_or_0(const float *b, int i, bool wanted)
{
    return b && wanted ? __ldg(b + i) : 0.0f;
}

/* --------------------------------------------------------------- attention -- */

/* Running softmax of what one lane adds up: largest score, sum, 8 of the K numbers. */
struct running {
    float most, sum, v[8];
};

static __device__ __forceinline__ void add_key(running &r, float score, const float (&value)[8])
{
    const float most = fmaxf(r.most, score);
    const float old = __expf(r.most - most), p = __expf(score - most);
    r.sum = r.sum * old + p;
#pragma unroll
    for (int i = 0; i < 8; i++)
        r.v[i] = fmaf(p, value[i], r.v[i] * old);
    r.most = most;
}

/* Keys and values that a lane takes next. */
template <typename T> struct next_keys {
    piece<T> k, v;
};

template <typename T, int K>
static __device__ __forceinline__ next_keys<T>
read_keys(const mica_cuda_step_args &a, const T *keys, const T *values, int h, int at, int end)
{
    next_keys<T> f = {piece<T>(), piece<T>()};
    if (at < end) {
        const int lane = threadIdx.x % 32, j = at + lane / (K / 8);
        const int from = (min(j, end - 1) * a.H + h) * K + 8 * (lane % (K / 8));
        f.k = read_piece(keys + from);
        f.v = read_piece(values + from);
    }
    return f;
}

template <int LANES> static __device__ __forceinline__ float over_lanes(float x)
{
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/* The lanes' sums of a warp as one, to r.parts. */
template <int K> static __device__ __forceinline__ void join_lanes(room &r, running &sum)
{
    const int lane = threadIdx.x % 32, lanes = K / 8;
    float most = sum.most, *to = r.parts[threadIdx.x / 32];
#pragma unroll
    for (int step = lanes; step < 32; step *= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    const float factor = sum.most == -INFINITY ? 0.0f : __expf(sum.most - most);
    sum.sum *= factor;
#pragma unroll
    for (int i = 0; i < 8; i++)
        sum.v[i] *= factor;
#pragma unroll
    for (int step = lanes; step < 32; step *= 2) {
        sum.sum += __shfl_xor_sync(0xffffffffu, sum.sum, step);
#pragma unroll
        for (int i = 0; i < 8; i++)
            sum.v[i] += __shfl_xor_sync(0xffffffffu, sum.v[i], step);
    }
    if (lane < lanes) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            to[2 + 8 * lane + i] = sum.v[i];
    }
    if (lane == 0) {
        to[0] = most;
        to[1] = sum.sum;
    }
}

/* q of head h over keys [first, end). f: what this lane takes first. */
template <typename T, int K>
static __device__ __forceinline__ void attend(const mica_cuda_step_args &a, room &r, const T *keys,
                                              const T *values, int h, int first, int end,
                                              next_keys<T> f)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int lanes = K / 8, step = WARPS * (32 / lanes); /* lanes of a key; keys at once */
    const int part = 8 * (lane % lanes);
    const float scale = rsqrtf((float)K);
    float k[8], v[8];
    running sum = {-INFINITY, 0.0f, {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
#pragma unroll 1
    for (int at = first + warp * (32 / lanes); at < end; at += step) {
        float score = 0.0f;
        numbers(f.k, k);
        numbers(f.v, v);
        f = read_keys<T, K>(a, keys, values, h, at + step, end);
#pragma unroll
        for (int i = 0; i < 8; i++)
            score = fmaf(r.q[part + i], k[i], score);
        score = over_lanes<K / 8>(score) * scale;
        if (at + lane / lanes < end)
            add_key(sum, score, v);
    }
    join_lanes<K>(r, sum);
}

/* The warps' parts of a stretch as one, on their way to everybody; the first warp's work. */
template <int K>
static __device__ __forceinline__ void send_stretch(const room &r, uint64_t *to, uint32_t round)
{
    const int d = threadIdx.x, w = d % WARPS;
    if (d >= 32)
        return;
    const float own = r.parts[w][0];
    float most = own, v = 0.0f;
#pragma unroll
    for (int step = WARPS / 2; step > 0; step /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    const float factor = own == -INFINITY ? 0.0f : __expf(own - most);
    const float sum = half_sum(r.parts[w][1] * factor);
#pragma unroll
    for (int i = 0; i < WARPS; i++)
        v = fmaf(__shfl_sync(0xffffffffu, factor, i), r.parts[i][2 + d % K], v);
    if (d < K)
        send(to + (2 + d) * SPLITS, v, round);
    if (d == 0) {
        send(to, most, round);
        send(to + SPLITS, sum, round);
    }
}

/* --------------------------------------------------------------- the phases -- */

/* What a warp multiplies in phase A: its rows of a head's q, or, in a block without a head, its first row of
 * k and v, which count as one matrix; and their biases. */
template <typename T, int K> struct head_rows {
    share<T> w[K / WARPS];
    float b[K / WARPS];
};

struct keepers { /* blocks that make k and v: those without a head, or all where each has one */
    int first, step, own; /* own: this warp's first row; below 0: none */
};

static __device__ __forceinline__ keepers keepers_of(const mica_cuda_step_args &a)
{
    const int heads = a.H * SPLITS, first = heads < (int)gridDim.x ? heads : 0;
    const int count = gridDim.x - first;
    return {first, count * WARPS,
            (int)blockIdx.x < first ? -1
                                    : (int)blockIdx.x - first + count * (int)(threadIdx.x / 32)};
}

template <typename T>
static __device__ __forceinline__ share<T> read_kv(const mica_cuda_step_args &a, const card &c,
                                                   int o, float *bias)
{
    const bool wanted = o >= 0 && o < 2 * a.D;
    const int i = o < a.D ? o : o - a.D;
    *bias = at_or_0(o < a.D ? c.b.k_b : c.b.v_b, i, wanted);
    return read_share((const T *)(o < a.D ? c.b.k : c.b.v) + i * a.D, a.D, wanted);
}

template <typename T, int K>
static __device__ __forceinline__ head_rows<T, K> read_head(const mica_cuda_step_args &a,
                                                            const card &c, bool attends)
{
    const int first = blockIdx.x / SPLITS * K + threadIdx.x / 32;
    head_rows<T, K> rows;
#pragma unroll
    for (int i = 0; i < K / WARPS; i++) {
        rows.w[i] = read_share((const T *)c.b.q + (first + WARPS * i) * a.D, a.D, attends);
        rows.b[i] = at_or_0(c.b.q_b, first + WARPS * i, attends);
    }
    if (!attends)
        rows.w[0] = read_kv<T>(a, c, keepers_of(a).own, &rows.b[0]);
    return rows;
}

/* The norm that comes next, of this thread's element. */
struct norm_next {
    float scale, shift;
};

static __device__ __forceinline__ norm_next read_norm(const mica_cuda_step_args &a,
                                                      const float *scale, const float *shift)
{
    const bool wanted = threadIdx.x < a.D;
    return {at_or_0(scale, threadIdx.x, wanted), at_or_0(shift, threadIdx.x, wanted)};
}

/* The new token's keys and values, to the cache and to everybody. */
template <typename T>
static __device__ __forceinline__ void make_kv(const mica_cuda_step_args &a, const words &all,
                                               int m, const card &c, uint32_t round, share<T> w,
                                               float b, bool has_first, const float (&x)[16])
{
    const keepers k = keepers_of(a);
#pragma unroll 1
    for (int o = k.own; o >= 0 && o < 2 * a.D; o += k.step) {
        if (!has_first)
            w = read_kv<T>(a, c, o, &b);
        has_first = false;
        T *cache = (T *)c.cache[m][o >= a.D];
        const float v = rounded(warp_sum(dot(w, x)) + b, cache);
        if (threadIdx.x % 32 == 0) {
            put(cache + a.seen[m] * a.D + (o < a.D ? o : o - a.D), v);
            send(all.qkv + (3 * m + 1) * a.D + o, v, round);
        }
    }
}

/* A: see above. */
template <typename T, int K>
static __device__ __forceinline__ void
phase_a(const mica_cuda_step_args &a, room &r, const words &all, int m, const card &c,
        uint32_t round, bool attends, const head_rows<T, K> &w)
{
    const int h = blockIdx.x / SPLITS, s = blockIdx.x % SPLITS, warp = threadIdx.x / 32;
    const int stretch = (a.seen[m] + SPLITS - 1) / SPLITS, first = s * stretch;
    const int end = min(first + stretch, a.seen[m]);
    const T *keys = (const T *)c.cache[m][0], *values = (const T *)c.cache[m][1];
    const next_keys<T> f =
        read_keys<T, K>(a, keys, values, h, first + warp * (256 / K), attends ? end : 0);
    float x[16];
    read_row(r.x + m * WIDTH, x);
    make_kv(a, all, m, c, round, w.w[0], w.b[0], !attends, x);
    if (!attends)
        return;
#pragma unroll
    for (int i = 0; i < K / WARPS; i++) {
        const int d = warp + WARPS * i;
        const float q = warp_sum(dot(w.w[i], x)) + w.b[i];
        if (threadIdx.x % 32 == 0) {
            r.q[d] = q;
            if (s == 0)
                send(all.qkv + 3 * m * a.D + h * K + d, q, round);
        }
    }
    __syncthreads();
    attend<T, K>(a, r, keys, values, h, first, end, f);
    __syncthreads();
    send_stretch<K>(r, all.parts + (m * a.H + h) * (K + 2) * SPLITS + s, round);
}

/* Stretches of this thread's head and the new key joined: element t of the input of o. All threads come. */
template <int K>
static __device__ __forceinline__ void join_stretches(const mica_cuda_step_args &a, room &r,
                                                      const words &all, int m, uint32_t round)
{
    const int t = min((int)threadIdx.x, a.D - 1);
    const uint64_t *from = all.parts + (m * a.H + t / K) * (K + 2) * SPLITS;
    float part[SPLITS], stats[2 * SPLITS], qkv[3];
    receive(all.qkv + 3 * m * a.D + t, a.D, round, qkv);
    receive(from, 1, round, stats);
    receive(from + (2 + t % K) * SPLITS, 1, round, part);
    __syncwarp();
    float own = qkv[0] * qkv[1], sum = 1.0f;
#pragma unroll
    for (int step = K / 2; step > 0; step /= 2)
        own += __shfl_xor_sync(0xffffffffu, own, step);
    own *= rsqrtf((float)K);
    float top = own;
#pragma unroll
    for (int s = 0; s < SPLITS; s++)
        top = fmaxf(top, stats[s]);
    sum = __expf(own - top);
    float v = sum * qkv[2];
#pragma unroll
    for (int s = 0; s < SPLITS; s++) {
        const float factor = __expf(stats[s] - top); /* 0 where there were no keys */
        sum = fmaf(stats[SPLITS + s], factor, sum);
        v = fmaf(part[s], factor, v);
    }
    if (threadIdx.x < a.D)
        r.row[place(t)] = v / sum;
}

/* A warp's row of a matrix, asked for before the words it is multiplied with, and its bias. */
template <typename T> struct ahead {
    share<T> w;
    float b;
};

template <typename T>
static __device__ __forceinline__ ahead<T> read_ahead(const T *w, const float *b, int o, int O,
                                                      int D)
{
    return {read_share(w + o * D, D, o < O), at_or_0(b, o, o < O)};
}

/* B and C: the row that all blocks know times this warp's outputs. */
template <typename T>
static __device__ __forceinline__ void outputs(const mica_cuda_step_args &a, room &r,
                                               const words &all, int m, bool is_up, const T *w,
                                               const float *b, ahead<T> mine, uint32_t round)
{
    const int O = is_up ? a.F : a.D, step = gridDim.x * WARPS;
    uint64_t *to = is_up ? all.hidden + m * a.F : all.y + m * a.D;
    float x[16];
    read_row(is_up ? r.x + m * WIDTH : r.row, x);
#pragma unroll 1
    for (int o = blockIdx.x + gridDim.x * (threadIdx.x / 32); o < O; o += step) {
        const float sum = warp_sum(dot(mine.w, x)) + mine.b;
        if (threadIdx.x % 32 == 0)
            send(to + o, is_up ? fmaxf(sum, 0.0f) : sum + r.x[m * WIDTH + place(o)], round);
        if (o + step < O)
            mine = read_ahead(w, b, o + step, O, a.D);
    }
}

/* D: four warps share an output, each a quarter of the hidden row. */
template <typename T>
static __device__ __forceinline__ ahead<T> read_quarter(const mica_cuda_step_args &a, const void *w,
                                                        const float *b, int o)
{
    const int n = a.F / 4, quarter = threadIdx.x / 32 % 4;
    return {read_share((const T *)w + o * a.F + quarter * n, n, o < a.D),
            at_or_0(b, o, o < a.D && quarter == 0)};
}

/* Words t, t + 512 ... of the hidden row into their quarters. */
static __device__ __forceinline__ void take_hidden(const mica_cuda_step_args &a, room &r,
                                                   const uint64_t *hidden, uint32_t round)
{
    const int t = threadIdx.x, n = a.F / 4;
    float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (a.F == 4 * THREADS) {
        receive(hidden + t, THREADS, round, v);
    } else {
#pragma unroll 1
        for (int i = 0; i < 4; i++)
            if (t < n)
                receive(hidden + i * n + t, 0, round, *(float(*)[1]) & v[i]);
    }
    if (t < n)
#pragma unroll
        for (int i = 0; i < 4; i++)
            r.row[i * WIDTH + place(t)] = v[i];
}

template <typename T>
static __device__ __forceinline__ void phase_d(const mica_cuda_step_args &a, room &r,
                                               const words &all, int m, uint32_t round,
                                               const mica_cuda_step_block &b, const ahead<T> &mine)
{
    const int warp = threadIdx.x / 32, quarter = warp % 4;
    const int step = gridDim.x * (WARPS / 4);
    float x[16];
    read_row(r.row + quarter * WIDTH, x);
    for (int at = blockIdx.x; at < a.D; at += step) {
        const int o = at + gridDim.x * (warp / 4);
        const ahead<T> now = at == (int)blockIdx.x ? mine : read_quarter<T>(a, b.down, b.down_b, o);
        const float sum = warp_sum(dot(now.w, x));
        if (threadIdx.x % 32 == 0)
            r.parts[warp][0] = sum;
        __syncthreads();
        if (quarter == 0 && threadIdx.x % 32 == 0 && o < a.D)
            send(all.z + m * a.D + o,
                 r.parts[warp][0] + r.parts[warp + 1][0] + r.parts[warp + 2][0] +
                     r.parts[warp + 3][0] + now.b + r.x[m * WIDTH + place(o)],
                 round);
        __syncthreads();
    }
}

/* The matrices and caches of a block of the network into L2, a stretch of each by each block of threads. */
template <typename T>
static __device__ __forceinline__ void prefetch_block(const mica_cuda_step_args &a, const card &c)
{
    const int i = threadIdx.x;
    if (i >= 6 + 2 * a.rows)
        return;
    const char *p =
        i < 6 ? ((const char *const *)&c.b.q)[i] : (const char *)c.cache[(i - 6) / 2][i % 2];
    const int n = i < 4 ? a.D * a.D : i < 6 ? a.D * a.F : a.seen[(i - 6) / 2] * a.D;
    const int bytes = n * (int)sizeof(T), step = (bytes / (int)gridDim.x + 16) & ~15;
    const int at = blockIdx.x * step, size = min(step, bytes - at) & ~15;
#if __CUDA_ARCH__ >= 900
    if (size > 0)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p + at), "r"(size)
                     : "memory");
#else
    for (int line = 0; line < size; line += 128)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(p + at + line));
#endif
}

template <typename T, int K>
static __global__ void __launch_bounds__(THREADS, 1)
    step_kernel(const __grid_constant__ mica_cuda_step_args a)
{
    room &r = the_room();
    const words all = words_of(a);
    const int own = blockIdx.x + gridDim.x * (threadIdx.x / 32), t = threadIdx.x;
    const bool attends = (int)blockIdx.x < a.H * SPLITS;
    for (int i = t; i < 4 * WIDTH; i += THREADS)
        r.row[i] = 0.0f;
    for (int i = t; i < a.rows * WIDTH; i += THREADS)
        r.x[i] = 0.0f;
    keep_card(a, r, 0, read_card(a, 0));
    __syncthreads();
    head_rows<T, K> wq = read_head<T, K>(a, r.cards[0], attends);
    norm_next norm = {0.0f, 0.0f};
#pragma unroll 1
    for (int n = 0; n <= a.count; n++) {
        const card &c = r.cards[n % 2];
        const uint32_t round = a.round + (uint32_t)n;
        const void *next_card = read_card(a, min(n + 1, a.count - 1));
#pragma unroll 1
        for (int m = 0; m < a.rows; m++) {
            float v[1] = {0.0f};
            if (n == 0) {
                if (t < a.D)
                    r.x[m * WIDTH + place(t)] = get((const T *)a.x + m * a.D + t);
                __syncthreads();
            } else {
                if (t < a.D)
                    receive(all.z + m * a.D + t, 0, round - 1, v);
                normalise(v[0], a.D, a.eps, norm.scale, norm.shift, m);
            }
            if (n == a.count) {
                if (blockIdx.x == 0 && t < a.D)
                    put((T *)a.x + m * a.D + t, r.x[m * WIDTH + place(t)]);
                continue;
            }
            phase_a<T, K>(a, r, all, m, c, round, attends, wq);
        }
        if (n == a.count)
            break;
        keep_card(a, r, n + 1, next_card);
#pragma unroll 1
        for (int phase = 0; phase < 2; phase++) { /* B, C */
            const T *w = (const T *)(phase ? c.b.up : c.b.o);
            const float *b = phase ? c.b.up_b : c.b.o_b;
            ahead<T> mine = read_ahead(w, b, own, phase ? a.F : a.D, a.D);
            if (phase == 0)
                norm = read_norm(a, c.b.scale_1, c.b.shift_1);
            else if (n + 1 < a.count)
                prefetch_block<T>(a, r.cards[(n + 1) % 2]);
#pragma unroll 1
            for (int m = 0; m < a.rows; m++) {
                float v[1] = {0.0f};
                if (m > 0)
                    mine = read_ahead(w, b, own, phase ? a.F : a.D, a.D);
                if (phase == 0) {
                    join_stretches<K>(a, r, all, m, round);
                    __syncthreads();
                } else {
                    if (t < a.D)
                        receive(all.y + m * a.D + t, 0, round, v);
                    normalise(v[0], a.D, a.eps, norm.scale, norm.shift, m);
                }
                outputs(a, r, all, m, phase == 1, w, b, mine, round);
                __syncthreads(); /* the row and the residual may be written again */
            }
        }
        const ahead<T> mine =
            read_quarter<T>(a, c.b.down, c.b.down_b, blockIdx.x + gridDim.x * (t / 128));
        norm = read_norm(a, c.b.scale_2, c.b.shift_2);
#pragma unroll 1
        for (int m = 0; m < a.rows; m++) {
            take_hidden(a, r, all.hidden + m * a.F, round);
            __syncthreads();
            phase_d(a, r, all, m, round, c.b, mine);
        }
        if (n + 1 < a.count)
            wq = read_head<T, K>(a, r.cards[(n + 1) % 2], attends);
    }
}

/* ------------------------------------------------------------------ launch -- */

int64_t mica_cuda_step_words(int rows, int D, int F, int H)
{
    return (int64_t)rows * (5 * D + F + (D + 2 * H) * SPLITS);
}

size_t mica_cuda_step_shared(int rows)
{
    return sizeof(room) + sizeof(float) * (size_t)(rows * WIDTH - 1);
}

template <typename T, int K>
static cudaError_t launch(mica_cuda_step_args args, cudaStream_t stream)
{
    const size_t shared = mica_cuda_step_shared(args.rows);
    void *list[] = {&args};
    const cudaError_t error = cudaFuncSetAttribute(
        step_kernel<T, K>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (error != cudaSuccess)
        return error;
    return cudaLaunchCooperativeKernel((const void *)step_kernel<T, K>, dim3((unsigned)args.grid),
                                       dim3(THREADS), list, shared, stream);
}

extern "C" cudaError_t mica_cuda_step(const mica_cuda_step_args *args, cudaStream_t stream)
{
    if (args->type == MICA_CUDA_F32)
        return args->K == 16 ? launch<float, 16>(*args, stream) : launch<float, 32>(*args, stream);
    return args->K == 16 ? launch<__nv_bfloat16, 16>(*args, stream)
                         : launch<__nv_bfloat16, 32>(*args, stream);
}
