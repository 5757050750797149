/* cuda_step.cu - one row of each of a few sequences through all blocks of a post-norm model, in one
 * kernel that holds every multiprocessor.
 *
 *     per block of the network      what a block of threads makes            words that all others wait for
 *       A  norm_2 of the last block, q of a head (and k, v of the new key),
 *          attention over one of 4 stretches of its keys                     H x 4 x (K + 2)
 *       B  stretches joined, o, residual                                     D
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
 * `rows` is.
 *
 * Napkin, text to semantic (24 blocks, D 512, F 2048, bf16): 151 MB, 50 us at 3 TB/s; 96 phases of a trip
 * through L2 (0.5 us) and as much work: about 100 us. One kernel per operation: some 300 launches.
 * With barriers between the phases and norms computed by every warp it took 455 us. */
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
    card cards[2];         /* of this block of the network and the next */
    float row[4 * WIDTH];  /* the input of o; the hidden row in four quarters */
    float stats[WARPS][2]; /* of a norm: mean and squares of each warp's numbers */
    float q[32], k[32], v[32];
    float parts[WARPS][34]; /* of attention: largest score, sum, values; sums of quarters */
    float x[1];             /* [rows][WIDTH] normalised: input and residual */
};

static __device__ __forceinline__ void take_card(const mica_cuda_step_args &a, room &r, int n)
{
    const int words = sizeof(mica_cuda_step_block) / sizeof(void *);
    card *c = &r.cards[n % 2];
    if (threadIdx.x < words)
        ((const void **)&c->b)[threadIdx.x] = ((const void *const *)(a.blocks + n))[threadIdx.x];
    else if (threadIdx.x < words + 2 * a.rows) {
        const int i = threadIdx.x - words;
        c->cache[i / 2][i % 2] = a.caches[2 * (i / 2 * a.count + n) + i % 2];
    }
}

struct words {
    uint64_t *y, *z;  /* [rows][D] before norm_1, before norm_2 */
    uint64_t *hidden; /* [rows][F] */
    uint64_t *parts;  /* [rows][H][K + 2][SPLITS]: largest score, sum, values */
};

static __device__ __forceinline__ words words_of(const mica_cuda_step_args &a)
{
    words w;
    w.y = a.words;
    w.z = w.y + a.rows * a.D;
    w.hidden = w.z + a.rows * a.D;
    w.parts = w.hidden + a.rows * a.F;
    return w;
}

/* Thread t has element v of a row of D; its norm goes to `to` in the order of place(). Means and squares
 * are taken within warps and joined (Chan, Golub and LeVeque 1979). All threads must come here. */
static __device__ __forceinline__ void normalise(room &r, float v, int D, float eps, float scale,
                                                 float shift, float *to)
{
    const int t = threadIdx.x, warp = t / 32;
    const int own = D - 32 * warp < 0 ? 0 : D - 32 * warp > 32 ? 32 : D - 32 * warp;
    const float mean = warp_sum(t < D ? v : 0.0f) / (float)(own > 0 ? own : 1);
    const float d = t < D ? v - mean : 0.0f;
    const float squares = warp_sum(d * d);
    if (t % 32 == 0) {
        r.stats[warp][0] = mean;
        r.stats[warp][1] = squares;
    }
    __syncthreads();
    float all = 0.0f, m2 = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        const int n = D - 32 * w < 0 ? 0 : D - 32 * w > 32 ? 32 : D - 32 * w;
        all = fmaf((float)n, r.stats[w][0], all);
    }
    all /= (float)D;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        const int n = D - 32 * w < 0 ? 0 : D - 32 * w > 32 ? 32 : D - 32 * w;
        const float off = r.stats[w][0] - all;
        m2 += fmaf((float)n * off, off, r.stats[w][1]);
    }
    const float inverse = rsqrtf(m2 / (float)D + eps);
    if (t < D)
        to[place(t)] = fmaf((v - all) * inverse, 1.0f + scale, shift);
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
        const int from = ((j < end ? j : end - 1) * a.H + h) * K + 8 * (lane % (K / 8));
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

/* q of head h over keys [first, end) of the cache, and the new key where it is this stretch's. f: what
 * this lane takes first. */
template <typename T, int K>
static __device__ __forceinline__ void attend(const mica_cuda_step_args &a, room &r, const T *keys,
                                              const T *values, int h, int first, int end,
                                              bool is_own, next_keys<T> f)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int lanes = K / 8, step = WARPS * (32 / lanes); /* lanes of a key; keys at once */
    const int part = lane % lanes;
    const float scale = rsqrtf((float)K);
    float q[8], k[8], v[8];
    running sum = {-INFINITY, 0.0f, {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
#pragma unroll
    for (int i = 0; i < 8; i++)
        q[i] = r.q[8 * part + i] * scale;
    for (int at = first + warp * (32 / lanes); at < end; at += step) {
        float score = 0.0f;
        numbers(f.k, k);
        numbers(f.v, v);
        f = read_keys<T, K>(a, keys, values, h, at + step, end);
#pragma unroll
        for (int i = 0; i < 8; i++)
            score = fmaf(q[i], k[i], score);
        score = over_lanes<K / 8>(score);
        if (at + lane / lanes < end)
            add_key(sum, score, v);
    }
    if (warp == WARPS - 1 && is_own) { /* the warp with the fewest keys */
        float score = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] = r.v[8 * part + i];
            score = fmaf(q[i], r.k[8 * part + i], score);
        }
        score = over_lanes<K / 8>(score);
        if (lane < lanes)
            add_key(sum, score, v);
    }
    join_lanes<K>(r, sum);
}

/* The warps' parts of a stretch as one, on their way to everybody. */
template <int K>
static __device__ __forceinline__ void send_stretch(const room &r, uint64_t *to, uint32_t round)
{
    const int d = threadIdx.x;
    if (d >= K)
        return;
    float most = -INFINITY, sum = 0.0f, v = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        most = fmaxf(most, r.parts[w][0]);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        const float factor = r.parts[w][0] == -INFINITY ? 0.0f : __expf(r.parts[w][0] - most);
        sum = fmaf(r.parts[w][1], factor, sum);
        v = fmaf(r.parts[w][2 + d], factor, v);
    }
    send(to + (2 + d) * SPLITS, v, round);
    if (d == 0) {
        send(to, most, round);
        send(to + SPLITS, sum, round);
    }
}

/* --------------------------------------------------------------- the phases -- */

/* The rows of a head's q, k or v that a warp has, and their biases. */
template <typename T, int K> struct head_rows {
    share<T> w[K / WARPS];
    float b[K / WARPS];
};

template <typename T, int K>
static __device__ __forceinline__ head_rows<T, K>
read_head(const mica_cuda_step_args &a, const void *w, const float *b, int h, bool wanted)
{
    head_rows<T, K> rows;
#pragma unroll
    for (int i = 0; i < K / WARPS; i++) {
        const int o = h * K + threadIdx.x / 32 + WARPS * i;
        rows.w[i] = read_share((const T *)w + (int64_t)o * a.D, a.D, wanted && h < a.H);
        rows.b[i] = at_or_0(b, o, wanted && h < a.H);
    }
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

/* A: see above. Before the first block of the network x comes as it is. */
template <typename T, int K>
static __device__ __forceinline__ void phase_a(const mica_cuda_step_args &a, room &r,
                                               const words &all, int n, uint32_t round,
                                               const head_rows<T, K> &wq, norm_next norm)
{
    const card &c = r.cards[n % 2];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = threadIdx.x;
    const int h = blockIdx.x / SPLITS, s = blockIdx.x % SPLITS;
    for (int m = 0; m < a.rows; m++) {
        const int seen = a.seen[m], stretch = (seen + SPLITS) / SPLITS;
        const int first = s * stretch, end = first + stretch < seen ? first + stretch : seen;
        const bool is_own = seen / stretch == s && h < a.H;
        T *keys = (T *)c.cache[m][0], *values = (T *)c.cache[m][1];
        const head_rows<T, K> wk = read_head<T, K>(a, c.b.k, c.b.k_b, h, is_own);
        const head_rows<T, K> wv = read_head<T, K>(a, c.b.v, c.b.v_b, h, is_own);
        const next_keys<T> f =
            read_keys<T, K>(a, keys, values, h, first + warp * (256 / K), h < a.H ? end : 0);
        float *x_row = r.x + m * WIDTH, v[1] = {0.0f}, x[16];
        if (n > 0) {
            if (t < a.D)
                receive(all.z + m * a.D + t, 0, round - 1, v);
            normalise(r, v[0], a.D, a.eps, norm.scale, norm.shift, x_row);
        } else {
            if (t < a.D)
                x_row[place(t)] = get((const T *)a.x + m * a.D + t);
            __syncthreads();
        }
        if (h >= a.H)
            continue;
        read_row(x_row, x);
#pragma unroll
        for (int i = 0; i < K / WARPS; i++) {
            const int d = warp + WARPS * i;
            const float q = warp_sum(dot(wq.w[i], x));
            if (lane == 0)
                r.q[d] = q + wq.b[i];
        }
        if (is_own) {
#pragma unroll
            for (int i = 0; i < K / WARPS; i++) {
                const int d = warp + WARPS * i, to = (seen * a.H + h) * K + d;
                const float k = rounded(warp_sum(dot(wk.w[i], x)) + wk.b[i], keys);
                const float u = rounded(warp_sum(dot(wv.w[i], x)) + wv.b[i], keys);
                if (lane == 0) {
                    r.k[d] = k;
                    r.v[d] = u;
                    put(keys + to, k);
                    put(values + to, u);
                }
            }
        }
        __syncthreads();
        attend<T, K>(a, r, keys, values, h, first, end, is_own, f);
        __syncthreads();
        send_stretch<K>(r, all.parts + (int64_t)(m * a.H + h) * (K + 2) * SPLITS + s, round);
        if (m + 1 < a.rows)
            __syncthreads();
    }
}

/* Stretches of this thread's head joined: element t of the input of o. */
template <int K>
static __device__ __forceinline__ void join_stretches(const mica_cuda_step_args &a, room &r,
                                                      const words &all, int m, uint32_t round)
{
    const int t = threadIdx.x;
    if (t >= a.D)
        return;
    const uint64_t *from = all.parts + (int64_t)(m * a.H + t / K) * (K + 2) * SPLITS;
    float most[SPLITS], sums[SPLITS], part[SPLITS], top = -INFINITY, sum = 0.0f, v = 0.0f;
    receive(from + (2 + t % K) * SPLITS, 1, round, part);
    receive(from, 1, round, most);
    receive(from + SPLITS, 1, round, sums);
#pragma unroll
    for (int s = 0; s < SPLITS; s++)
        top = fmaxf(top, most[s]);
#pragma unroll
    for (int s = 0; s < SPLITS; s++) {
        const float factor = most[s] == -INFINITY ? 0.0f : __expf(most[s] - top);
        sum = fmaf(sums[s], factor, sum);
        v = fmaf(part[s], factor, v);
    }
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
    return {read_share(w + (int64_t)o * D, D, o < O), at_or_0(b, o, o < O)};
}

/* finish(o, row o of w times `row`, + b) for every output that this warp has; of the first it has `mine`. */
template <typename T, typename F>
static __device__ __forceinline__ void outputs(const mica_cuda_step_args &a, const float *row,
                                               const void *w, const float *b, int O,
                                               const ahead<T> &mine, F finish)
{
    const int step = gridDim.x * WARPS, first = blockIdx.x + gridDim.x * (threadIdx.x / 32);
    float x[16];
    read_row(row, x);
    for (int o = first; o < O; o += step) {
        const ahead<T> now = o == first ? mine : read_ahead((const T *)w, b, o, O, a.D);
        const float sum = warp_sum(dot(now.w, x));
        if (threadIdx.x % 32 == 0)
            finish(o, sum + now.b);
    }
}

/* D: four warps share an output, each a quarter of the hidden row. */
template <typename T>
static __device__ __forceinline__ ahead<T> read_quarter(const mica_cuda_step_args &a, const void *w,
                                                        const float *b, int o)
{
    const int n = a.F / 4, quarter = threadIdx.x / 32 % 4;
    return {read_share((const T *)w + (int64_t)o * a.F + quarter * n, n, o < a.D),
            at_or_0(b, o, o < a.D && quarter == 0)};
}

/* Word t, t + 512 ... of the hidden row into its quarter. */
static __device__ __forceinline__ void take_hidden(const mica_cuda_step_args &a, room &r,
                                                   const uint64_t *hidden, uint32_t round)
{
    const int t = threadIdx.x, n = a.F / 4;
    if (a.F == 4 * THREADS) {
        float v[4];
        receive(hidden + t, THREADS, round, v);
#pragma unroll
        for (int i = 0; i < 4; i++)
            r.row[i * WIDTH + place(t)] = v[i];
        return;
    }
    for (int i = t; i < a.F; i += THREADS) {
        float v[1];
        receive(hidden + i, 0, round, v);
        r.row[i / n * WIDTH + place(i % n)] = v[0];
    }
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

/* Lines of a matrix into L2; the threads of the whole grid share them. */
static __device__ __forceinline__ void prefetch(const void *matrix, int bytes)
{
    const int all = gridDim.x * THREADS * 128;
    for (int at = (blockIdx.x * THREADS + threadIdx.x) * 128; at < bytes; at += all)
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const char *)matrix + at));
}

template <typename T>
static __device__ __forceinline__ void prefetch_block(const mica_cuda_step_args &a, const card &c)
{
    const int square = a.D * a.D * (int)sizeof(T), wide = a.D * a.F * (int)sizeof(T);
    prefetch(c.b.q, square);
    prefetch(c.b.k, square);
    prefetch(c.b.v, square);
    prefetch(c.b.o, square);
    prefetch(c.b.up, wide);
    prefetch(c.b.down, wide);
    for (int m = 0; m < a.rows; m++) {
        prefetch(c.cache[m][0], a.seen[m] * a.D * (int)sizeof(T));
        prefetch(c.cache[m][1], a.seen[m] * a.D * (int)sizeof(T));
    }
}

template <typename T, int K>
static __global__ void __launch_bounds__(THREADS, 1)
    step_kernel(const __grid_constant__ mica_cuda_step_args a)
{
    extern __shared__ float4 shared[];
    room &r = *(room *)shared;
    const words all = words_of(a);
    const int own = blockIdx.x + gridDim.x * (threadIdx.x / 32), t = threadIdx.x;
    const int own_quarter = blockIdx.x + gridDim.x * (t / 128), h = blockIdx.x / SPLITS;
    for (int i = t; i < 4 * WIDTH; i += THREADS)
        r.row[i] = 0.0f;
    for (int i = t; i < a.rows * WIDTH; i += THREADS)
        r.x[i] = 0.0f;
    take_card(a, r, 0);
    __syncthreads();
    head_rows<T, K> wq = read_head<T, K>(a, r.cards[0].b.q, r.cards[0].b.q_b, h, true);
    norm_next norm = {0.0f, 0.0f};
    for (int n = 0; n < a.count; n++) {
        const mica_cuda_step_block &b = r.cards[n % 2].b;
        const uint32_t round = a.round + (uint32_t)n;
        take_card(a, r, n + 1 < a.count ? n + 1 : n);
        phase_a<T, K>(a, r, all, n, round, wq, norm);

        ahead<T> w = read_ahead((const T *)b.o, b.o_b, own, a.D, a.D);
        norm = read_norm(a, b.scale_1, b.shift_1);
        for (int m = 0; m < a.rows; m++) {
            join_stretches<K>(a, r, all, m, round);
            __syncthreads();
            outputs(a, r.row, b.o, b.o_b, a.D, w, [&](int o, float sum) {
                send(all.y + m * a.D + o, sum + r.x[m * WIDTH + place(o)], round);
            });
            __syncthreads(); /* the row may be written again, the residual too */
        }

        w = read_ahead((const T *)b.up, b.up_b, own, a.F, a.D);
        if (n + 1 < a.count)
            prefetch_block<T>(a, r.cards[(n + 1) % 2]);
        for (int m = 0; m < a.rows; m++) {
            float v[1] = {0.0f};
            if (t < a.D)
                receive(all.y + m * a.D + t, 0, round, v);
            normalise(r, v[0], a.D, a.eps, norm.scale, norm.shift, r.x + m * WIDTH);
            outputs(a, r.x + m * WIDTH, b.up, b.up_b, a.F, w, [&](int o, float sum) {
                send(all.hidden + m * a.F + o, fmaxf(sum, 0.0f), round);
            });
        }

        w = read_quarter<T>(a, b.down, b.down_b, own_quarter);
        norm = read_norm(a, b.scale_2, b.shift_2);
        for (int m = 0; m < a.rows; m++) {
            take_hidden(a, r, all.hidden + m * a.F, round);
            __syncthreads();
            phase_d(a, r, all, m, round, b, w);
        }
        const card &next = r.cards[(n + 1) % 2];
        if (n + 1 < a.count)
            wq = read_head<T, K>(a, next.b.q, next.b.q_b, h, true);
    }
    for (int m = 0; m < a.rows && blockIdx.x == 0; m++) {
        float v[1] = {0.0f};
        if (t < a.D)
            receive(all.z + m * a.D + t, 0, a.round + (uint32_t)a.count - 1, v);
        normalise(r, v[0], a.D, a.eps, norm.scale, norm.shift, r.x);
        if (t < a.D)
            put((T *)a.x + m * a.D + t, r.x[place(t)]);
        __syncthreads();
    }
}

/* ------------------------------------------------------------------ launch -- */

int64_t mica_cuda_step_words(int rows, int D, int F, int H)
{
    return (int64_t)rows * (2 * D + F + (D + 2 * H) * SPLITS);
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
