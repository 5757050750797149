/* cuda_step.cu - one row of each of a few sequences through all blocks of a post-norm model, in one
 * kernel.
 *
 *     16 groups of 4 blocks of 8 warps; a group has a head and 128 hidden units, and is a cluster where there are
 *     clusters. A block of the network is
 *
 *       norm; 4 rows of q (every block of the group all of them), one of k and one of v a warp        k, v: 64 words
 *       attention of the group's head: each block its keys, joined                                    34 words a block
 *       16 outputs a warp, the group's part of them                                                   512 sums
 *       norm; 4 hidden units a warp                                                                   128 words
 *       16 outputs a warp, the group's part of them                                                   512 sums
 *
 * Between blocks of threads nobody waits at a barrier: numbers travel within a group as words that carry their round,
 * between groups as sums that L2 adds up and that carry how many parts have come (cuda_words.cuh).
 * A word or a sum is written again one block of the network later. Every warp sends parts of sums of which all blocks
 * wait for the whole, and does so behind all it reads in that half: so whoever has a half's sums knows that all words
 * and sums of the half before have been read.
 *
 * The norm is behind the product: of y = W (f (v - mean) scale + shift) + b, W scale, its sum and W shift + b are
 * made while the sums of v are still under way; with v there comes one product, W scale v, and with it mean and
 * f by every warp for itself. Nobody needs the largest score before the sums of a softmax: exponents are those of
 * a score's distance from the first key's, which every block knows; where one is too far above it, a block takes
 * its own largest and says so.
 *
 * What a half needs from memory is asked for a half ahead: rows and vectors go to shared memory by the copy engine,
 * outputs' columns and keys to registers from L2, where they come a block ahead. A load that is under way
 * holds up whatever next waits for a register, words too, so nothing on the way to a word may come from memory
 * beyond L2. Sums have one order, whatever `rows` is.
 *
 * The widths are those of the released models, known to the compiler.
 *
 * Napkin, text to semantic (24 blocks, bf16): 151 MB, 50 us at 3 TB/s; docs/PERFORMANCE.md has what is measured. */
#include "backend/cuda/cuda_step_room.cuh"

/* -------------------------------------------------------------------- rows -- */

/* Where words lie so that a lane's numbers are pairs without conflicts: of hidden units 4 lane .. */
static __device__ __forceinline__ int place_of_unit(int u)
{
    return (u >> 1) % 2 * 64 + (u >> 2) * 2 + u % 2;
}

/* What a warp multiplies: rows times scale; on lane 4 i what row i makes of the mean, and what it adds. */
struct rows {
    float w[MOST][OWN], slope, offset;
};

#define SUM_OF_V       6 /* with the rows' products come the sum of v and of its squares */
#define SUM_OF_SQUARES 7

static __device__ __forceinline__ float bias_of(const place &p, const vectors &next, kind kind)
{
    const int i = p.lane / 4;
    if (kind == HEAD || i > 5)
        return 0.0f;
    if (i < 4)
        return next.rows[4 * p.warp + i];
    return kind == MLP ? 0.0f : i == 4 ? next.key[p.warp] : next.value[p.warp];
}

template <typename T, bool CLUSTER, kind KIND>
static __device__ __forceinline__ void load_rows(const mica_cuda_step_args &a, const place &p,
                                                 const uint64_t *card, const T *own,
                                                 const vectors &next, rows &r)
{
    const int count = KIND == HEAD ? rows_of_head(a, p) : KIND == MLP ? 4 : MOST;
    float scale[OWN], shift[OWN], slope[8], offset[8];
    read_vector<T>(next.scale, scale);
    read_vector<T>(next.shift, shift);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        slope[i] = offset[i] = 0.0f;
        if (i >= MOST || (KIND != ATTENTION && i >= 4))
            continue;
#pragma unroll
        for (int k = 0; k < OWN; k++)
            r.w[i][k] = 0.0f;
        if (KIND == HEAD && i >= count)
            continue;
        read_own(CLUSTER ? own + i * D : row_of<T, KIND>(a, p, card, i), r.w[i]);
#pragma unroll
        for (int k = 0; k < OWN; k++) {
            offset[i] = fmaf(r.w[i][k], shift[k], offset[i]);
            r.w[i][k] = fmaf(r.w[i][k], scale[k], r.w[i][k]);
            slope[i] += r.w[i][k];
        }
    }
    r.slope = sums_of(slope);
    r.offset = sums_of(offset) + bias_of(p, next, KIND);
}

/* Of a norm. */
struct spread {
    float mean, factor;
};

/* Lane 4 i .. 4 i + 3: what row i makes of v, a row in shared memory. first: without a norm. */
template <kind KIND>
static __device__ __forceinline__ float multiply_rows(const rows &r, const float *v, float eps,
                                                      bool first, spread &s)
{
    float x[OWN], sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    read_own(v, x);
#pragma unroll
    for (int k = 0; k < OWN; k++) {
#pragma unroll
        for (int i = 0; i < (KIND == ATTENTION ? MOST : 4); i++)
            sums[i] = fmaf(r.w[i][k], x[k], sums[i]);
        sums[SUM_OF_V] += x[k];
        sums[SUM_OF_SQUARES] = fmaf(x[k], x[k], sums[SUM_OF_SQUARES]);
    }
    const float own = sums_of(sums);
    s.mean = __shfl_sync(0xffffffffu, own, 4 * SUM_OF_V) * (1.0f / D);
    const float squares = __shfl_sync(0xffffffffu, own, 4 * SUM_OF_SQUARES) * (1.0f / D);
    s.factor = rsqrtf(fmaxf(fmaf(-s.mean, s.mean, squares), 0.0f) + eps);
    if (first)
        s = {0.0f, 1.0f};
    return fmaf(s.factor, fmaf(-s.mean, r.slope, own), r.offset);
}

/* Elements 2 t and 2 t + 1 that a step begins with. */
template <typename T>
static __device__ __forceinline__ float2 begin_row(const mica_cuda_step_args &a, int m)
{
    if (!a.table)
        return get_two((const T *)a.x, m * (D / 2) + (int)threadIdx.x);
    const int id = *(const volatile int32_t *)a.ids[m];
    const int row = id < 0 || id >= a.table_rows ? 0 : id;
    float2 v = get_two((const T *)a.table + (int64_t)row * D, threadIdx.x);
    if (a.add[m]) {
        const float2 add = get_two(a.add[m], threadIdx.x);
        v.x += add.x, v.y += add.y;
    }
    return v;
}

/* What a lane's row makes, to those who want it: k and v, and q for this block; hidden units; logits. */
template <typename T, bool CLUSTER, kind KIND>
static __device__ __forceinline__ void give(const mica_cuda_step_args &a, const place &p, int m,
                                            const mail<CLUSTER> &words, const uint64_t *caches,
                                            float y, uint32_t round)
{
    const int i = p.lane / 4, rank = p.lane % 4;
    if (KIND == HEAD) {
        if (rank == 0 && i < rows_of_head(a, p))
            a.logits[m * a.logits_ld + 4 * (WARPS * blockIdx.x + p.warp) + i] = y;
    } else if (KIND == MLP) {
        if (i < 4)
            words.of(rank).send(HIDDEN + place_of_unit(4 * p.voice + i), y < 0.0f ? 0.0f : y,
                                round);
    } else if (i < 4) {
        if (rank == 0) /* 1 / sqrt(K), to the base 2 */
            the_room().row[m].q[4 * p.warp + i] = y * 0.25503486f;
    } else if (i < 6) {
        words.of(rank).send(KEY + 2 * p.voice + i - 4, rounded(y, (const T *)NULL), round);
        if (rank == 0)
            put((T *)caches[2 * m * a.count + i - 4] + (int64_t)a.seen[m] * D + p.group * K +
                    p.voice,
                y);
    }
}

static __device__ __forceinline__ void set(mail<true> &m, const void *shared, const uint64_t *)
{
    m.base = (uint32_t)__cvta_generic_to_shared(shared);
}

static __device__ __forceinline__ void set(mail<false> &m, const void *, uint64_t *any)
{
    m.base = any;
}

#define ALL_SUMS (2 * MICA_CUDA_STEP_ROWS * D) /* of one turn: of o and of down */

template <bool CLUSTER>
static __device__ __forceinline__ mail<CLUSTER> words_of(const mica_cuda_step_args &a, int group,
                                                         int m)
{
    mail<CLUSTER> words;
    set(words, the_room().row[m].words,
        a.words + 2 * ALL_SUMS + (group * a.rows + m) * GROUP_WORDS);
    return words;
}

/* Of row m, of o (half 0) or of down. */
static __device__ __forceinline__ uint64_t *sums_of_row(const mica_cuda_step_args &a, int half,
                                                        int m)
{
    return a.words + a.turn * ALL_SUMS + (half * MICA_CUDA_STEP_ROWS + m) * D;
}

/* Every row, as the half before leaves it, normed, times this warp's rows. parts: those that have come when the
 * sums of that half are whole; 0: it begins here. */
template <typename T, bool CLUSTER, kind KIND>
static __device__ __forceinline__ void
first_part(const mica_cuda_step_args &a, const place &p, const rows &w, const vectors &next,
           const uint64_t *caches, uint32_t parts, uint32_t round)
{
    const int t = threadIdx.x;
#pragma unroll 1
    for (int m = 0; m < a.rows; m++) {
        row_room &row = the_room().row[m];
        float2 v;
        if (parts == 0)
            v = begin_row<T>(a, m);
        else {
            const float2 x = get_two(row.x, t), bias = get_two(next.bias, t);
            v = take_sums(sums_of_row(a, KIND == MLP ? 0 : 1, m) + 2 * t, parts);
            v.x += x.x + bias.x, v.y += x.y + bias.y;
        }
        put_two(row.v, place_of<T>(2 * t) / 2, v);
        __syncthreads();
        spread s;
        const float y = multiply_rows<KIND>(w, row.v, a.eps, parts == 0, s);
        give<T, CLUSTER, KIND>(a, p, m, words_of<CLUSTER>(a, p.group, m), caches, y, round);
        const float2 scale = get_two(next.scale, t), shift = get_two(next.shift, t);
        v.x = fmaf((v.x - s.mean) * s.factor, 1.0f + scale.x, shift.x);
        v.y = fmaf((v.y - s.mean) * s.factor, 1.0f + scale.y, shift.y);
        if (KIND != HEAD)
            put_two(row.x, t, v);
        else if (!a.head && blockIdx.x == 0)
            put_two((T *)a.x, m * (D / 2) + t, v);
    }
}

/* --------------------------------------------------------------- attention -- */

/* Softmax of this warp's keys, as sums of 2^(score - reference): lane 4 i + k gets number 8 k + i. */
struct stretch {
    float sum, v, most; /* most: the largest score of this lane's keys */
    bool is_far;        /* a score lies too far above the reference */
};

template <typename T>
static __device__ __forceinline__ float score_of(const float (&q)[8], const piece<T> &k)
{
    float key[8];
    numbers(k, key);
    return sum_of_4(dot(q, key));
}

template <typename T>
static __device__ __forceinline__ void add_key(stretch &s, float (&sums)[8], const float (&q)[8],
                                               float reference, bool seen, const piece<T> &k,
                                               const piece<T> &v)
{
    float value[8];
    const float score = score_of(q, k), over = score - reference;
    const float p = seen ? power(over) : 0.0f;
    numbers(v, value);
    s.is_far |= seen && !(over <= FAR);
    s.most = seen ? fmaxf(s.most, score) : s.most;
    s.sum += p;
#pragma unroll
    for (int i = 0; i < 8; i++)
        sums[i] = fmaf(p, value[i], sums[i]);
}

/* f: what was asked for already. */
template <typename T>
static __device__ __forceinline__ stretch attend(const place &p, const float (&q)[8],
                                                 float reference, const uint64_t *caches, int seen,
                                                 next_keys<T> &f)
{
    float sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    stretch s = {0.0f, 0.0f, NOTHING, false};
#pragma unroll 1
    for (int at = first_position(p); at - p.lane / 4 < seen; at += 2 * STRIDE) {
        add_key(s, sums, q, reference, at < seen, f.k[0], f.v[0]);
        ask_key(p, caches, at + 2 * STRIDE, seen, f.k[0], f.v[0]);
        if (at - p.lane / 4 + STRIDE >= seen)
            break;
        add_key(s, sums, q, reference, at + STRIDE < seen, f.k[1], f.v[1]);
        ask_key(p, caches, at + 3 * STRIDE, seen, f.k[1], f.v[1]);
    }
    s.sum = sum_of_parts(s.sum);
    s.v = sums_of_parts(sums);
    return s;
}

/* The largest of the block. */
static __device__ float largest_of_block(float most)
{
    float *const all = the_room().most;
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    all[threadIdx.x / 32] = most;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        most = fmaxf(most, all[w]);
    return most;
}

/* This block's keys: to all blocks of the group. Returns the reference that they agree on, the first key's score. */
template <typename T, bool CLUSTER>
static __device__ __forceinline__ float
send_stretch(const place &p, row_room &row, const mail<CLUSTER> &words, const uint64_t *caches,
             int seen, uint32_t round, next_keys<T> &f)
{
    float q[8];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float4 four = ((const float4 *)row.q)[2 * (p.lane % 4) + i];
        q[4 * i] = four.x, q[4 * i + 1] = four.y, q[4 * i + 2] = four.z, q[4 * i + 3] = four.w;
    }
    const float first = seen > 0 ? score_of(q, f.first) : NOTHING;
    float reference = first;
#pragma unroll 1
    for (bool again = false;; again = true) {
        const stretch s = attend(p, q, reference, caches, seen, f);
        row.parts[p.warp][8 * (p.lane % 4) + p.lane / 4] = s.v;
        if (p.lane == 0)
            row.sums[p.warp] = s.sum;
        if (!__syncthreads_or(s.is_far) || again)
            break;
        reference = largest_of_block(s.most);
        ask_keys(p, caches, seen, f);
    }
    if (p.warp < RANKS) {
        const mail<CLUSTER> to = words.of(p.warp);
        float v = 0.0f, sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            v += row.parts[w][p.lane];
            sum += row.sums[w];
        }
        to.send(STRETCHES + p.rank / 2 * 2 * K + 2 * p.lane + p.rank % 2, v, round);
        if (p.lane < 2)
            to.send(STATS + 2 * p.rank + p.lane, p.lane ? reference : sum, round);
    }
    return first;
}

/* Number `lane` of what the head makes: the blocks' stretches and the new key. first: their reference. */
template <bool CLUSTER>
static __device__ __forceinline__ float join_stretches(const place &p, const row_room &row,
                                                       const mail<CLUSTER> &words, float first,
                                                       uint32_t round)
{
    float key[2], stats[2 * RANKS], v[RANKS];
    receive<1>(words, KEY + 2 * p.lane, 0, round, key);
    const float score = warp_sum(row.q[p.lane] * key[0]);
    receive<RANKS>(words, STATS, 2, round, stats);
    receive<RANKS / 2>(words, STRETCHES + 2 * p.lane, 2 * K, round, v);
    __syncwarp();
    bool differ = false;
    float most = first;
#pragma unroll
    for (int i = 0; i < RANKS; i++) {
        differ |= stats[2 * i + 1] != first;
        most = fmaxf(most, stats[2 * i + 1]);
    }
    if (differ) {
#pragma unroll
        for (int i = 0; i < RANKS; i++) {
            const float factor = power(stats[2 * i + 1] - most);
            stats[2 * i] *= factor;
            v[i] *= factor;
        }
    }
    const float top = fmaxf(most, score);
    const float old = power(most - top), own = power(score - top);
    const float all = (v[0] + v[1]) + (v[2] + v[3]);
    const float sum = (stats[0] + stats[2]) + (stats[4] + stats[6]);
    return __fdividef(fmaf(old, all, own * key[1]), fmaf(old, sum, own));
}

static_assert(RANKS == 4, "four stretches are joined");

/* ------------------------------------------------------------ second halves -- */

/* The group's part in what attention makes of every row. */
template <typename T, bool CLUSTER>
static __device__ __forceinline__ void attention_part(const mica_cuda_step_args &a, const place &p,
                                                      const uint64_t *caches, uint32_t round,
                                                      const o_columns<T> &c, next_keys<T> &f)
{
    float *const head = the_room().head[p.warp];
    const int part = p.lane % 4, own = p.lane / 4 + 8 * part;
#pragma unroll 1
    for (int m = 0; m < a.rows; m++) {
        row_room &row = the_room().row[m];
        const mail<CLUSTER> words = words_of<CLUSTER>(a, p.group, m);
        const uint64_t *const kept = caches + 2 * m * a.count;
        if (m > 0)
            ask_keys(p, kept, a.seen[m], f);
        const float first = send_stretch(p, row, words, kept, a.seen[m], round, f);
        head[p.lane] = join_stretches(p, row, words, first, round);
        __syncwarp();
        float x[8], w[8], sums[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float4 four = ((const float4 *)head)[2 * part + i];
            x[4 * i] = four.x, x[4 * i + 1] = four.y, x[4 * i + 2] = four.z, x[4 * i + 3] = four.w;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            numbers(c.w[i], w);
            sums[i] = sum_of_4(dot(w, x));
        }
        if (part < 2)
            send_part(sums_of_row(a, 0, m) + OUTPUTS * p.voice + own, part ? sums[1] : sums[0],
                      row.sent[0][OUTPUTS * p.warp + own]);
        __syncwarp();
    }
}

template <typename T, bool CLUSTER>
static __device__ __forceinline__ void mlp_part(const mica_cuda_step_args &a, const place &p,
                                                uint32_t round, const down_columns<T> &c)
{
    const int own = p.lane / 2;
#pragma unroll 1
    for (int m = 0; m < a.rows; m++) {
        row_room &row = the_room().row[m];
        float x[4], sums[OUTPUTS];
        receive<2>(words_of<CLUSTER>(a, p.group, m), HIDDEN + 2 * p.lane, 64, round, x);
        __syncwarp();
#pragma unroll
        for (int i = 0; i < OUTPUTS; i++) {
            float w[4];
            numbers(c.w[i], w);
            sums[i] = w[0] * x[0];
#pragma unroll
            for (int k = 1; k < 4; k++)
                sums[i] = fmaf(w[k], x[k], sums[i]);
        }
        const float sum = sums_of(sums);
        if (p.lane % 2 == 0)
            send_part(sums_of_row(a, 1, m) + OUTPUTS * p.voice + own, sum,
                      row.sent[1][OUTPUTS * p.warp + own]);
    }
}

/* ------------------------------------------------------------------ kernel -- */

/* Sums of the next step, which nobody looks at in this one. */
static __device__ __forceinline__ void clear_next_sums(const mica_cuda_step_args &a)
{
    uint64_t *const next = a.words + (1 - a.turn) * ALL_SUMS;
#pragma unroll 1
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < ALL_SUMS; i += GROUPS * RANKS * THREADS)
        next[i] = 0;
}

template <typename T, bool CLUSTER>
static __global__ void __launch_bounds__(THREADS, 1)
    step_kernel(const __grid_constant__ mica_cuda_step_args a)
{
    room &r = the_room();
    const place p = the_place();
    T *const w = (T *)(r.row + a.rows) + MOST * D * p.warp; /* this warp's rows */
    const deck all = the_deck<T, CLUSTER>(a);
    o_columns<T> o;
    down_columns<T> down;
    next_keys<T> keys = {};
    rows own;
    deal(a, all);
#pragma unroll 1
    for (int i = threadIdx.x; i < a.rows * (int)(sizeof(row_room) / 4); i += THREADS)
        ((uint32_t *)r.row)[i] = 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < (int)(sizeof(vectors) / 4); i += THREADS)
        ((uint32_t *)&r.next[0])[i] = 0;
    if (threadIdx.x <= WARPS)
        copies_open(&r.barriers[threadIdx.x]);
    clear_next_sums(a);
    meet<CLUSTER>();
    if (CLUSTER)
        ask_rows<T, ATTENTION>(a, p, all.cards, w);
    ask_vectors<ATTENTION>(p, NULL, all.cards, &r.next[0]);
    ask_keys(p, all.caches, a.seen[0], keys);
    ask_outputs(p, all.cards, o);
#pragma unroll 1
    for (int n = 0;; n++) {
        const uint32_t round = a.round + (uint32_t)n, parts = GROUPS * n;
        const uint64_t *const card = all.cards + CARD * n, *const caches = all.caches + 2 * n;
        const uint64_t *const other = n + 1 < a.count ? card + CARD : all.cards;
        wait_for_copies<CLUSTER>(p, 2 * n);
        if (n == a.count)
            break;
        load_rows<T, CLUSTER, ATTENTION>(a, p, card, w, r.next[0], own);
        if (CLUSTER)
            ask_rows<T, MLP>(a, p, card, w);
        first_part<T, CLUSTER, ATTENTION>(a, p, own, r.next[0], caches, parts, round);
        ask_vectors<MLP>(p, card, card, &r.next[1]);
        __syncthreads(); /* q */
        attention_part<T, CLUSTER>(a, p, caches, round, o, keys);
        ask_outputs(p, card, down);
        prefetch_block<T>(p, other, n + 1 < a.count ? caches + 2 : all.caches, a.seen[0]);
        if (n + 2 >= a.count)
            prefetch_head<T>(a, p);

        wait_for_copies<CLUSTER>(p, 2 * n + 1);
        load_rows<T, CLUSTER, MLP>(a, p, card, w, r.next[1], own);
        if (CLUSTER && n + 1 < a.count)
            ask_rows<T, ATTENTION>(a, p, other, w);
        else if (CLUSTER)
            ask_rows<T, HEAD>(a, p, NULL, w);
        first_part<T, CLUSTER, MLP>(a, p, own, r.next[1], caches, parts + GROUPS, round);
        if (n + 1 < a.count)
            ask_vectors<ATTENTION>(p, card, other, &r.next[0]);
        else
            ask_vectors<HEAD>(p, card, NULL, &r.next[0]);
        mlp_part<T, CLUSTER>(a, p, round, down);
        ask_outputs(p, other, o);
        if (n + 1 < a.count)
            ask_keys(p, caches + 2, a.seen[0], keys);
    }
    load_rows<T, CLUSTER, HEAD>(a, p, NULL, w, r.next[0], own);
    first_part<T, CLUSTER, HEAD>(a, p, own, r.next[0], NULL, GROUPS * a.count, 0);
}

/* ------------------------------------------------------------------ launch -- */

int64_t mica_cuda_step_words(int rows, bool cluster)
{
    return 2 * ALL_SUMS + (cluster ? 0 : GROUPS * GROUP_WORDS * rows);
}

static size_t shared_of(int rows, int count, size_t row_bytes)
{
    return sizeof(room) + (size_t)(rows - 1) * sizeof(row_room) + row_bytes +
           (size_t)(count * (CARD + 2 * rows)) * sizeof(uint64_t);
}

struct launch_of {
    cudaLaunchConfig_t config;
    cudaLaunchAttribute attributes[2];
};

template <typename T, bool CLUSTER> static cudaError_t prepare(int rows, int count, launch_of *l)
{
    *l = {};
    l->config.gridDim = dim3(GROUPS * RANKS);
    l->config.blockDim = dim3(THREADS);
    l->config.dynamicSmemBytes = shared_of(rows, count, ROWS_IN_ROOM(CLUSTER) * sizeof(T));
    l->config.attrs = l->attributes;
    l->config.numAttrs = CLUSTER ? 2 : 1;
    l->attributes[0].id = cudaLaunchAttributeCooperative;
    l->attributes[0].val.cooperative = 1;
    l->attributes[1].id = cudaLaunchAttributeClusterDimension;
    l->attributes[1].val.clusterDim.x = RANKS;
    l->attributes[1].val.clusterDim.y = l->attributes[1].val.clusterDim.z = 1;
    return cudaFuncSetAttribute(step_kernel<T, CLUSTER>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)l->config.dynamicSmemBytes);
}

template <typename T, bool CLUSTER>
static cudaError_t launch(const mica_cuda_step_args &args, cudaStream_t stream)
{
    launch_of l;
    const cudaError_t error = prepare<T, CLUSTER>(args.rows, args.count, &l);
    l.config.stream = stream;
    return error ? error : cudaLaunchKernelEx(&l.config, step_kernel<T, CLUSTER>, args);
}

/* Whether all blocks are resident at once. */
template <typename T, bool CLUSTER> static bool fits(int rows, int multiprocessors)
{
    launch_of l;
    int count = 0;
    if (prepare<T, CLUSTER>(rows, MICA_CUDA_STEP_BLOCKS, &l) != cudaSuccess)
        return false;
    if (CLUSTER)
        return cudaOccupancyMaxActiveClusters(&count, step_kernel<T, CLUSTER>, &l.config) ==
                   cudaSuccess &&
               count >= GROUPS;
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, step_kernel<T, CLUSTER>, THREADS,
                                                         l.config.dynamicSmemBytes) ==
               cudaSuccess &&
           count * multiprocessors >= GROUPS * RANKS;
}

template <typename T> static int rows_that_fit(int multiprocessors, bool cluster)
{
    int rows = MICA_CUDA_STEP_ROWS;
    while (rows > 0 && !(cluster ? fits<T, true>(rows, multiprocessors)
                                 : fits<T, false>(rows, multiprocessors)))
        rows--;
    (void)cudaGetLastError(); /* what does not fit is no error */
    return rows;
}

extern "C" int mica_cuda_step_rows(int multiprocessors, bool cluster, mica_cuda_type type)
{
    return type == MICA_CUDA_F32 ? rows_that_fit<float>(multiprocessors, cluster)
                                 : rows_that_fit<__nv_bfloat16>(multiprocessors, cluster);
}

extern "C" cudaError_t mica_cuda_step(const mica_cuda_step_args *args, cudaStream_t stream)
{
    if (args->type == MICA_CUDA_F32)
        return args->cluster ? launch<float, true>(*args, stream)
                             : launch<float, false>(*args, stream);
    return args->cluster ? launch<__nv_bfloat16, true>(*args, stream)
                         : launch<__nv_bfloat16, false>(*args, stream);
}
