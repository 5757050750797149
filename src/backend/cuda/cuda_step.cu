/* cuda_step.cu - one row of each of a few sequences through all blocks of a post-norm model, in one
 * kernel that holds every multiprocessor.
 *
 *     per block of the network       work, per block of threads              then all wait for all
 *       A  norm_2 of the last block, q of a head (and k, v of the new key),  ─┐ partial softmax
 *          attention over one of 8 stretches of its keys                      │
 *       B  stretches joined, o, residual                                     ─┤ y
 *       C  norm_1, up, ReLU                                                  ─┤ hidden
 *       D  down in quarters, residual                                        ─┘ z
 *
 * A warp owns an output: 512 inputs are 16 numbers a lane. The matrix rows of the next phase are asked for
 * before the wait, those of the next block go into L2 meanwhile; norms are computed by every warp that
 * needs them, so that no phase exists for them alone. Sums have one order, whatever `rows` is.
 *
 * Napkin, text to semantic (24 blocks, D 512, F 2048, bf16): 151 MB, 50 us at 3 TB/s; 96 waits of about
 * 0.8 us and as many phases of 0.6 us: 130 us. One kernel per operation: 240 launches. */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_step.h"

#define THREADS 512
#define WARPS   (THREADS / 32)
#define SPLITS  MICA_CUDA_STEP_SPLITS

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

static __device__ __forceinline__ void read_row(const float *row, int n, float (&x)[16])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int at = 256 * i + 8 * (threadIdx.x % 32);
        float4 a = make_float4(0.0f, 0.0f, 0.0f, 0.0f), b = a;
        if (at < n)
            a = *(const float4 *)(row + at), b = *(const float4 *)(row + at + 4);
        x[8 * i] = a.x, x[8 * i + 1] = a.y, x[8 * i + 2] = a.z, x[8 * i + 3] = a.w;
        x[8 * i + 4] = b.x, x[8 * i + 5] = b.y, x[8 * i + 6] = b.z, x[8 * i + 7] = b.w;
    }
}

template <typename T>
static __device__ __forceinline__ float dot(const share<T> &w, const float (&x)[16])
{
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float v[8];
        numbers(w.p[i], v);
#pragma unroll
        for (int k = 0; k < 8; k++)
            sum = fmaf(v[k], x[8 * i + k], sum);
    }
    return sum;
}

/* ----------------------------------------------------------------- waiting -- */

/* Everything that this block wrote can be seen by those that wait for it. */
static __device__ __forceinline__ void arrive(unsigned *arrived)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
    }
}

static __device__ __forceinline__ void wait(unsigned *arrived, unsigned target)
{
    if (threadIdx.x == 0) {
        unsigned now;
        do
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                         : "=r"(now)
                         : "l"(arrived)
                         : "memory");
        while (now < target);
    }
    __syncthreads();
}

/* The last block to leave puts the counters back for the next launch: all have passed every wait. */
static __device__ __forceinline__ void leave(unsigned *arrived)
{
    if (threadIdx.x == 0 && atomicAdd(arrived + 1, 1u) == gridDim.x - 1) {
        arrived[0] = 0;
        arrived[1] = 0;
    }
}

/* --------------------------------------------------------------- the phases -- */

struct places {
    float *y, *z;  /* [rows][D] before norm_1, before norm_2 */
    float *hidden; /* [rows][F] */
    float2 *most;  /* [rows][H][SPLITS] largest score, sum */
    float *part;   /* [rows][H][SPLITS][K] */
};

/* What the phases of a block of the network ask for, where a look costs no trip to L2. */
struct card {
    mica_cuda_step_block b;
    void *cache[MICA_CUDA_STEP_ROWS][2];
};

struct room {   /* of the block of threads */
    float *row; /* [rows][max(D, F)] */
    float *x;   /* [rows][D] normalised: the residual */
    float *scale, *shift;
    float *q, *k, *v; /* [K] */
    float *parts;     /* [WARPS][K + 2] */
    card *cards;      /* [2]: of this block of the network and the next */
};

static __device__ __forceinline__ room rooms(const mica_cuda_step_args &a, float *shared)
{
    room r;
    r.cards = (card *)shared;
    r.row = (float *)(r.cards + 2);
    r.x = r.row + a.rows * (a.D > a.F ? a.D : a.F);
    r.scale = r.x + a.rows * a.D;
    r.shift = r.scale + a.D;
    r.q = r.shift + a.D;
    r.k = r.q + a.K;
    r.v = r.k + a.K;
    r.parts = r.v + a.K;
    return r;
}

static __device__ __forceinline__ places places_of(const mica_cuda_step_args &a)
{
    places p;
    p.y = a.work;
    p.z = p.y + a.rows * a.D;
    p.hidden = p.z + a.rows * a.D;
    p.most = (float2 *)(p.hidden + a.rows * a.F);
    p.part = (float *)(p.most + a.rows * a.H * SPLITS);
    return p;
}

/* Row m of r.row through the norm in r.scale and r.shift; every warp for itself. scale NULL: as it is. */
static __device__ __forceinline__ void normalise(const room &r, const float *row, int D, float eps,
                                                 bool as_is, float (&x)[16])
{
    float scale[16], shift[16], sum = 0.0f;
    read_row(row, D, x);
    if (as_is)
        return;
#pragma unroll
    for (int i = 0; i < 16; i++)
        sum += x[i];
    const float mean = warp_sum(sum) / (float)D;
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int at = 256 * (i / 8) + 8 * (threadIdx.x % 32) + i % 8;
        x[i] -= mean;
        sum += at < D ? x[i] * x[i] : 0.0f;
    }
    const float inverse = 1.0f / sqrtf(warp_sum(sum) / (float)D + eps);
    read_row(r.scale, D, scale);
    read_row(r.shift, D, shift);
#pragma unroll
    for (int i = 0; i < 16; i++)
        x[i] = fmaf(x[i] * inverse, 1.0f + scale[i], shift[i]);
}

/* The first warp leaves what all warps computed, for the residual. */
static __device__ __forceinline__ void keep_row(float *to, int D, const float (&x)[16])
{
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int at = 256 * (i / 8) + 8 * (threadIdx.x % 32) + i % 8;
        if (threadIdx.x < 32 && at < D)
            to[at] = x[i];
    }
}

static __device__ __forceinline__ void take_norm(const room &r, int D, const float *scale,
                                                 const float *shift)
{
    for (int i = threadIdx.x; i < D; i += THREADS) {
        r.scale[i] = __ldg(scale + i);
        r.shift[i] = __ldg(shift + i);
    }
}

static __device__ __forceinline__ void take_rows(const room &r, const float *from, int n)
{
    for (int i = threadIdx.x; i < n; i += THREADS)
        r.row[i] = __ldcg(from + i);
}

static __device__ __forceinline__ float with_bias(const float *b, int o, bool wanted)
{
    return b && wanted ? __ldg(b + o) : 0.0f;
}

static __device__ __forceinline__ void take_card(const mica_cuda_step_args &a, const room &r, int n)
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

/* Running softmax of what one lane adds up: largest score, sum, 8 of the K numbers. */
struct running {
    float most, sum, v[8];
};

static __device__ __forceinline__ void add_key(running &r, float score, const float (&value)[8])
{
    const float most = fmaxf(r.most, score);
    const float old = expf(r.most - most), p = expf(score - most);
    r.sum = r.sum * old + p;
#pragma unroll
    for (int i = 0; i < 8; i++)
        r.v[i] = fmaf(p, value[i], r.v[i] * old);
    r.most = most;
}

/* Keys and values that a lane takes first. */
template <typename T> struct first_keys {
    piece<T> k, v;
};

static __device__ __forceinline__ int64_t key_at(const mica_cuda_step_args &a, int h, int64_t at,
                                                 int64_t end)
{
    const int lane = threadIdx.x % 32, lanes = a.K / 8;
    const int64_t j = at + lane / lanes;
    return ((j < end ? j : end - 1) * a.H + h) * a.K + 8 * (lane % lanes);
}

template <typename T>
static __device__ __forceinline__ first_keys<T> read_keys(const mica_cuda_step_args &a,
                                                          const T *keys, const T *values, int h,
                                                          int64_t at, int64_t end)
{
    first_keys<T> f = {piece<T>(), piece<T>()};
    if (at < end) {
        const int64_t from = key_at(a, h, at, end);
        f.k = read_piece(keys + from);
        f.v = read_piece(values + from);
    }
    return f;
}

static __device__ __forceinline__ float over_lanes(float x, int lanes)
{
    for (int step = lanes / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/* The lanes' sums of a warp as one, to r.parts. */
static __device__ __forceinline__ void join_lanes(const mica_cuda_step_args &a, const room &r,
                                                  running &sum, int lanes)
{
    const int lane = threadIdx.x % 32;
    float most = sum.most, *to = r.parts + threadIdx.x / 32 * (a.K + 2);
    for (int step = lanes; step < 32; step *= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    const float factor = sum.most == -INFINITY ? 0.0f : expf(sum.most - most);
    sum.sum *= factor;
#pragma unroll
    for (int i = 0; i < 8; i++)
        sum.v[i] *= factor;
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
template <typename T>
static __device__ __forceinline__ void attend(const mica_cuda_step_args &a, const room &r,
                                              const T *keys, const T *values, int h, int64_t first,
                                              int64_t end, bool is_own, first_keys<T> f)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int lanes = a.K / 8, step = WARPS * (32 / lanes); /* lanes of a key; keys at once */
    const int part = lane % lanes;
    const float scale = rsqrtf((float)a.K);
    float q[8], k[8], v[8];
    running sum = {-INFINITY, 0.0f, {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
#pragma unroll
    for (int i = 0; i < 8; i++)
        q[i] = r.q[8 * part + i] * scale;
    for (int64_t at = first + warp * (32 / lanes); at < end; at += step) {
        float score = 0.0f;
        numbers(f.k, k);
        numbers(f.v, v);
        f = read_keys(a, keys, values, h, at + step, end);
#pragma unroll
        for (int i = 0; i < 8; i++)
            score = fmaf(q[i], k[i], score);
        score = over_lanes(score, lanes);
        if (at + lane / lanes < end)
            add_key(sum, score, v);
    }
    if (warp == 0 && is_own) {
        float score = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] = r.v[8 * part + i];
            score = fmaf(q[i], r.k[8 * part + i], score);
        }
        score = over_lanes(score, lanes);
        if (lane < lanes)
            add_key(sum, score, v);
    }
    join_lanes(a, r, sum, lanes);
}

/* The warps' parts of a stretch as one. */
static __device__ __forceinline__ void join_warps(const mica_cuda_step_args &a, const room &r,
                                                  float2 *most_out, float *part_out)
{
    const int d = threadIdx.x;
    if (d >= a.K)
        return;
    float most = -INFINITY, sum = 0.0f, v = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        most = fmaxf(most, r.parts[w * (a.K + 2)]);
    for (int w = 0; w < WARPS && most > -INFINITY; w++) {
        const float *p = r.parts + w * (a.K + 2), factor = expf(p[0] - most);
        sum = fmaf(p[1], factor, sum);
        v = fmaf(p[2 + d], factor, v);
    }
    part_out[d] = v;
    if (d == 0)
        *most_out = make_float2(most, sum);
}

/* The rows of a head's q, k or v that a warp has, and their biases. */
template <typename T> struct head_rows {
    share<T> w[2];
    float b[2];
};

template <typename T>
static __device__ __forceinline__ head_rows<T>
read_head(const mica_cuda_step_args &a, const void *w, const float *b, int h, bool wanted)
{
    head_rows<T> rows;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int d = threadIdx.x / 32 + WARPS * i, o = h * a.K + d;
        const bool is_there = wanted && h < a.H && d < a.K;
        rows.w[i] = read_share((const T *)w + (int64_t)o * a.D, a.D, is_there);
        rows.b[i] = with_bias(b, o, is_there);
    }
    return rows;
}

/* A: see above. wq was asked for before the wait; from: where the rows before norm_2 are, NULL: in r.row. */
template <typename T>
static __device__ __forceinline__ void phase_a(const mica_cuda_step_args &a, const room &r,
                                               const places &p, int n, const head_rows<T> &wq,
                                               const float *from)
{
    const card &c = r.cards[n % 2];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int h = blockIdx.x / SPLITS, s = blockIdx.x % SPLITS;
    for (int m = 0; m < a.rows; m++) {
        const int64_t seen = a.seen[m], stretch = (seen + SPLITS) / SPLITS;
        const int64_t first = s * stretch, end = first + stretch < seen ? first + stretch : seen;
        const bool is_own = seen / stretch == s && h < a.H;
        T *keys = (T *)c.cache[m][0], *values = (T *)c.cache[m][1];
        const head_rows<T> wk = read_head<T>(a, c.b.k, c.b.k_b, h, is_own);
        const head_rows<T> wv = read_head<T>(a, c.b.v, c.b.v_b, h, is_own);
        const int64_t mine = first + warp * (256 / a.K);
        const first_keys<T> f = read_keys<T>(a, keys, values, h, mine, h < a.H ? end : 0);
        float x[16];
        if (m == 0 && from) {
            take_rows(r, from, a.rows * a.D);
            __syncthreads();
        }
        normalise(r, r.row + m * a.D, a.D, a.eps, n == 0, x);
        keep_row(r.x + m * a.D, a.D, x);
        if (h >= a.H)
            continue;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int d = warp + WARPS * i;
            const float q = warp_sum(dot(wq.w[i], x));
            if (lane == 0 && d < a.K)
                r.q[d] = q + wq.b[i];
            if (!is_own)
                continue;
            float k = warp_sum(dot(wk.w[i], x)), v = warp_sum(dot(wv.w[i], x));
            if (lane == 0 && d < a.K) {
                const int64_t to = (seen * a.H + h) * a.K + d;
                r.k[d] = k = rounded(k + wk.b[i], keys);
                r.v[d] = v = rounded(v + wv.b[i], keys);
                put(keys + to, k);
                put(values + to, v);
            }
        }
        __syncthreads();
        attend(a, r, (const T *)keys, (const T *)values, h, first, end, is_own, f);
        __syncthreads();
        const int at = (m * a.H + h) * SPLITS + s;
        join_warps(a, r, p.most + at, p.part + (int64_t)at * a.K);
        if (m + 1 < a.rows)
            __syncthreads();
    }
}

/* Stretches of all heads joined: the input of o, into r.row. */
static __device__ __forceinline__ void join_stretches(const mica_cuda_step_args &a, const room &r,
                                                      const places &p)
{
    for (int i = threadIdx.x; i < a.rows * a.D; i += THREADS) {
        const int m = i / a.D, e = i % a.D, h = e / a.K;
        const int at = (m * a.H + h) * SPLITS;
        float2 most[SPLITS];
        float part[SPLITS], top = -INFINITY, sum = 0.0f, v = 0.0f;
#pragma unroll
        for (int s = 0; s < SPLITS; s++) {
            most[s] = __ldcg(p.most + at + s);
            part[s] = __ldcg(p.part + (int64_t)(at + s) * a.K + e % a.K);
            top = fmaxf(top, most[s].x);
        }
#pragma unroll
        for (int s = 0; s < SPLITS; s++) {
            const float factor = expf(most[s].x - top); /* 0 where there were no keys */
            sum = fmaf(most[s].y, factor, sum);
            v = fmaf(part[s], factor, v);
        }
        r.row[i] = v / sum;
    }
}

/* A warp's row of a matrix, asked for before the wait, and its bias. */
template <typename T> struct ahead {
    share<T> w;
    float b;
};

template <typename T>
static __device__ __forceinline__ ahead<T> read_ahead(const T *w, const float *b, int o, int O,
                                                      int D)
{
    return {read_share(w + (int64_t)o * D, D, o < O), with_bias(b, o, o < O)};
}

/* finish(m, o, dot of row m with row o of w, + b) for every row that this warp has. */
template <typename T, typename F>
static __device__ __forceinline__ void outputs(const mica_cuda_step_args &a, const room &r,
                                               const T *w, const float *b, int O, ahead<T> mine,
                                               bool norm, F finish)
{
    const int step = gridDim.x * WARPS;
    for (int o = blockIdx.x + gridDim.x * (threadIdx.x / 32); o < O; o += step) {
        for (int m = 0; m < a.rows; m++) {
            float x[16];
            if (norm)
                normalise(r, r.row + m * a.D, a.D, a.eps, false, x);
            else
                read_row(r.row + m * a.D, a.D, x);
            const float sum = warp_sum(dot(mine.w, x));
            if (threadIdx.x % 32 == 0)
                finish(m, o, sum + mine.b);
        }
        mine = read_ahead(w, b, o + step, O, a.D);
    }
}

/* D: four warps share an output, each a quarter of the hidden row. */
template <typename T>
static __device__ __forceinline__ ahead<T> read_quarter(const mica_cuda_step_args &a, const T *w,
                                                        const float *b, int o)
{
    const int n = a.F / 4, quarter = threadIdx.x / 32 % 4;
    return {read_share(w + (int64_t)o * a.F + quarter * n, n, o < a.D),
            with_bias(b, o, o < a.D && quarter == 0)};
}

template <typename T>
static __device__ __forceinline__ void phase_d(const mica_cuda_step_args &a, const room &r,
                                               const places &p, const mica_cuda_step_block &b,
                                               ahead<T> mine)
{
    const int warp = threadIdx.x / 32, quarter = warp % 4, n = a.F / 4;
    const int step = gridDim.x * (WARPS / 4);
    for (int first = blockIdx.x; first < a.D; first += step) {
        const int o = first + gridDim.x * (warp / 4);
        for (int m = 0; m < a.rows; m++) {
            float x[16];
            read_row(r.row + m * a.F + quarter * n, n, x);
            const float sum = warp_sum(dot(mine.w, x));
            if (threadIdx.x % 32 == 0)
                r.parts[warp] = sum;
            __syncthreads();
            if (quarter == 0 && threadIdx.x % 32 == 0 && o < a.D)
                p.z[m * a.D + o] = r.parts[warp] + r.parts[warp + 1] + r.parts[warp + 2] +
                                   r.parts[warp + 3] + mine.b + r.x[m * a.D + o];
            __syncthreads();
        }
        mine = read_quarter(a, (const T *)b.down, b.down_b, o + step);
    }
}

/* Lines of a matrix into L2; the threads of the whole grid share them. */
static __device__ __forceinline__ void prefetch(const void *matrix, int64_t bytes)
{
    const int64_t all = (int64_t)gridDim.x * THREADS * 128;
    for (int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 128; at < bytes; at += all)
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const char *)matrix + at));
}

template <typename T>
static __device__ __forceinline__ void prefetch_block(const mica_cuda_step_args &a, const card &c)
{
    const int64_t square = (int64_t)a.D * a.D * sizeof(T), wide = (int64_t)a.D * a.F * sizeof(T);
    prefetch(c.b.q, square);
    prefetch(c.b.k, square);
    prefetch(c.b.v, square);
    prefetch(c.b.o, square);
    prefetch(c.b.up, wide);
    prefetch(c.b.down, wide);
    for (int m = 0; m < a.rows; m++) {
        prefetch(c.cache[m][0], a.seen[m] * a.D * (int64_t)sizeof(T));
        prefetch(c.cache[m][1], a.seen[m] * a.D * (int64_t)sizeof(T));
    }
}

template <typename T>
static __global__ void __launch_bounds__(THREADS, 1) step_kernel(const mica_cuda_step_args a)
{
    extern __shared__ float4 shared[];
    const room r = rooms(a, (float *)shared);
    const places p = places_of(a);
    const int D = a.D, own = blockIdx.x + gridDim.x * (threadIdx.x / 32);
    unsigned target = 0;
    take_card(a, r, 0);
    for (int i = threadIdx.x; i < a.rows * D; i += THREADS)
        r.row[i] = get((const T *)a.x + i);
    __syncthreads();
    head_rows<T> wq = read_head<T>(a, r.cards[0].b.q, r.cards[0].b.q_b, blockIdx.x / SPLITS, true);
    for (int n = 0; n < a.count; n++) {
        const mica_cuda_step_block &b = r.cards[n % 2].b;
        take_card(a, r, n + 1 < a.count ? n + 1 : n);
        phase_a(a, r, p, n, wq, n ? p.z : NULL);
        arrive(a.arrived);
        ahead<T> w = read_ahead((const T *)b.o, b.o_b, own, D, D);
        take_norm(r, D, b.scale_1, b.shift_1);
        if (n + 1 < a.count)
            prefetch_block<T>(a, r.cards[(n + 1) % 2]);
        wait(a.arrived, target += gridDim.x);
        join_stretches(a, r, p);
        __syncthreads();
        outputs(a, r, (const T *)b.o, b.o_b, D, w, false,
                [&](int m, int o, float sum) { p.y[m * D + o] = sum + r.x[m * D + o]; });
        arrive(a.arrived);
        w = read_ahead((const T *)b.up, b.up_b, own, a.F, D);
        wait(a.arrived, target += gridDim.x);
        take_rows(r, p.y, a.rows * D);
        __syncthreads();
        for (int m = 0; m < a.rows && threadIdx.x < 32; m++) {
            float x[16];
            normalise(r, r.row + m * D, D, a.eps, false, x);
            keep_row(r.x + m * D, D, x);
        }
        outputs(a, r, (const T *)b.up, b.up_b, a.F, w, true,
                [&](int m, int o, float sum) { p.hidden[m * a.F + o] = fmaxf(sum, 0.0f); });
        arrive(a.arrived);
        w = read_quarter(a, (const T *)b.down, b.down_b,
                         (int)(blockIdx.x + gridDim.x * (threadIdx.x / 128)));
        take_norm(r, D, b.scale_2, b.shift_2);
        wait(a.arrived, target += gridDim.x);
        take_rows(r, p.hidden, a.rows * a.F);
        __syncthreads();
        phase_d(a, r, p, b, w);
        arrive(a.arrived);
        const card &next = r.cards[(n + 1) % 2];
        if (n + 1 < a.count)
            wq = read_head<T>(a, next.b.q, next.b.q_b, blockIdx.x / SPLITS, true);
        wait(a.arrived, target += gridDim.x);
    }
    if (blockIdx.x == 0) {
        take_rows(r, p.z, a.rows * D);
        __syncthreads();
        for (int m = 0; m < a.rows && threadIdx.x < 32; m++) {
            float x[16];
            normalise(r, r.row + m * D, D, a.eps, false, x);
            keep_row(r.x + m * D, D, x);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < a.rows * D; i += THREADS)
            put((T *)a.x + i, r.x[i]);
    }
    leave(a.arrived);
}

/* ------------------------------------------------------------------ launch -- */

int64_t mica_cuda_step_floats(int rows, int D, int F, int H)
{
    return (int64_t)rows * (2 * D + F + 2 * H * SPLITS + D * SPLITS);
}

size_t mica_cuda_step_shared(int rows, int D, int F, int K)
{
    const int row = D > F ? D : F;
    return 2 * sizeof(card) +
           sizeof(float) * (size_t)(rows * (row + D) + 2 * D + 3 * K + WARPS * (K + 2));
}

template <typename T> static cudaError_t launch(mica_cuda_step_args args, cudaStream_t stream)
{
    const size_t shared = mica_cuda_step_shared(args.rows, args.D, args.F, args.K);
    void *list[] = {&args};
    const cudaError_t error = cudaFuncSetAttribute(
        step_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (error != cudaSuccess)
        return error;
    return cudaLaunchCooperativeKernel((const void *)step_kernel<T>, dim3((unsigned)args.grid),
                                       dim3(THREADS), list, shared, stream);
}

extern "C" cudaError_t mica_cuda_step(const mica_cuda_step_args *args, cudaStream_t stream)
{
    return args->type == MICA_CUDA_F32 ? launch<float>(*args, stream)
                                       : launch<__nv_bfloat16>(*args, stream);
}
