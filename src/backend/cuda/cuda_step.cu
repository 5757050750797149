/* cuda_step.cu - one row of each of a few sequences through all blocks of a post-norm model, in one
 * kernel: its embedding first, its logits behind.
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
 * The norm is behind the product:
 *
 *     y = W (f (v - mean) scale + shift) + b = f (W scale v - mean W scale) + W shift + b
 *
 * where W scale and W shift + b are numbers of the weights alone (mica_cuda_step_prepare). So the product need not wait
 * for mean and f, which every warp makes for itself with it. Nobody needs the largest score before the sums of a
 * softmax: exponents are those of a score's distance from the first key's, which every block knows; where one
 * is too far above it, a block takes its own largest and says so.
 *
 * All blocks must be resident in the end. A cooperative launch sees to that, but may not begin while the kernel before
 * it runs (cuda_early.cuh). Steps of one backend wait for each other and all blocks of one fit: they may. Of two
 * backends each could hold places that the other's last blocks want, so those launch cooperatively.
 *
 * What a half needs from memory is asked for a half ahead: each thread copies what it will read from L2, where it comes
 * a block ahead, to its own places in shared memory. A load into a register that is under way holds up whatever
 * next waits for one, words too. Sums have one order, whatever `rows` is.
 *
 * The widths are those of the released models, known to the compiler.
 *
 * Napkin, text to semantic (24 blocks, bf16): 151 MB, 50 us at 3 TB/s; docs/PERFORMANCE.md has what is measured. */
#include "backend/cuda/cuda_early.cuh"
#include "backend/cuda/cuda_step_room.cuh"

/* -------------------------------------------------------------------- rows -- */

/* Where words lie so that a lane's numbers are pairs without conflicts: of hidden units 4 lane .. */
static __device__ __forceinline__ int place_of_unit(int u)
{
    return (u >> 1) % 2 * 64 + (u >> 2) * 2 + u % 2;
}

/* What a warp multiplies. */
struct rows {
    float w[MOST][OWN];
};

#define SUM_OF_V       6 /* with the rows' products come the sum of v and of its squares */
#define SUM_OF_SQUARES 7

template <typename T, bool CLUSTER, kind KIND>
static __device__ __forceinline__ void load_rows(const mica_cuda_step_args &a, const place &p,
                                                 const uint64_t *card, rows &r)
{
    const int count = KIND == HEAD ? rows_of_head(a, p) : 4;
#pragma unroll
    for (int i = 0; i < (KIND == ATTENTION ? MOST : 4); i++) {
        if (KIND == HEAD && i >= count)
            break;
        if (CLUSTER)
            read_own(&rows_of<T>(a)[i * ROW_PIECES(T)][threadIdx.x], THREADS, (const T *)NULL,
                     r.w[i]);
        else
            read_own((const uint4 *)row_of<T, KIND>(a, p, card, i) + p.lane, 32, (const T *)NULL,
                     r.w[i]);
        settle(r.w[i]);
    }
}

/* Of a norm. */
struct spread {
    float mean, factor;
};

/* Lane 4 i .. 4 i + 3: what row i makes of the row in `row`. first: without a norm. */
template <kind KIND>
static __device__ __forceinline__ float multiply_rows(const place &p, const rows &r,
                                                      const row_room &row, float2 slope, float eps,
                                                      bool first, spread &s)
{
    float *const put = the_room().lanes[p.warp] + p.lane;
    float x[OWN], sum = 0.0f, squares = 0.0f;
    read_own(row.v, x);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float4 two = ((const float4 *)row.moments)[32 * i + p.lane];
        sum += two.x + two.z;
        squares += two.y + two.w;
    }
    put[SUM_OF_V * 32] = sum;
    put[SUM_OF_SQUARES * 32] = squares;
#pragma unroll
    for (int i = 0; i < (KIND == ATTENTION ? MOST : 4); i++) {
        float half[2] = {0.0f, 0.0f};
#pragma unroll
        for (int k = 0; k < OWN / 2; k++) {
            half[0] = fmaf(r.w[i][k], x[k], half[0]);
            half[1] = fmaf(r.w[i][OWN / 2 + k], x[OWN / 2 + k], half[1]);
        }
        put[i * 32] = half[0] + half[1];
    }
    const float own = sums_of<SLOTS>(the_room().lanes[p.warp]);
    s.mean = __shfl_sync(0xffffffffu, own, 4 * SUM_OF_V) * (1.0f / D);
    const float all = __shfl_sync(0xffffffffu, own, 4 * SUM_OF_SQUARES) * (1.0f / D);
    s.factor = reciprocal_root(fmaxf(fmaf(-s.mean, s.mean, all), 0.0f) + eps);
    if (first)
        s = {0.0f, 1.0f};
    return fmaf(s.factor, fmaf(-s.mean, slope.x, own), slope.y);
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
static __device__ __forceinline__ void first_part(const mica_cuda_step_args &a, const place &p,
                                                  const rows &w, const uint64_t *caches,
                                                  uint32_t parts, uint32_t round)
{
    const int t = threadIdx.x;
    const float4 norm = asked_of<T>(a).norm[t];
    const float2 bias = asked_of<T>(a).bias[t], slope = asked_of<T>(a).slope[t];
#pragma unroll 1
    for (int m = 0; m < a.rows; m++) {
        row_room &row = the_room().row[m];
        float2 v;
        if (parts == 0)
            v = begin_row<T>(a, m);
        else {
            const float2 x = row.x[t];
            v = take_sums(sums_of_row(a, KIND == MLP ? 0 : 1, m) + 2 * t, parts);
            v.x += x.x + bias.x, v.y += x.y + bias.y;
        }
        put_two(row.v, place_of<T>(2 * t) / 2,
                make_float2(fmaf(v.x, norm.x, v.x), fmaf(v.y, norm.y, v.y)));
        row.moments[t] = make_float2(v.x + v.y, fmaf(v.x, v.x, v.y * v.y));
        __syncthreads();
        spread s;
        const float y = multiply_rows<KIND>(p, w, row, slope, a.eps, parts == 0, s);
        give<T, CLUSTER, KIND>(a, p, m, words_of<CLUSTER>(a, p.group, m), caches, y, round);
        v.x = fmaf((v.x - s.mean) * s.factor, 1.0f + norm.x, norm.z);
        v.y = fmaf((v.y - s.mean) * s.factor, 1.0f + norm.y, norm.w);
        if (KIND != HEAD)
            row.x[t] = v;
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

/* Of the key in unit u. */
template <typename T>
static __device__ __forceinline__ float score_of(const asked<T> &own, int u, const float (&q)[8])
{
    float key[8];
    read_eight(own, u, key);
    return sum_of_4(dot(q, key));
}

/* The keys of which the first were asked for. */
template <typename T>
static __device__ __forceinline__ stretch attend(const mica_cuda_step_args &a, const place &p,
                                                 const float (&q)[8], float reference,
                                                 const uint64_t *caches, int seen)
{
    const asked<T> &own = asked_of<T>(a);
    float sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    stretch s = {0.0f, 0.0f, NOTHING, false};
    int at = first_position(p), of = 0;
#pragma unroll 1
    while (at - p.lane / 4 < seen) {
        float score[2], weight[2];
#pragma unroll
        for (int j = 0; j < 2; j++)
            score[j] = score_of(own, own.KEY_UNIT + (of + j) * own.EIGHT, q);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            score[j] = at + j * STRIDE < seen ? score[j] : NOTHING;
            const float over = score[j] - reference;
            weight[j] = power(over); /* 0 of NOTHING */
            s.is_far |= !(over <= FAR);
            s.most = fmaxf(s.most, score[j]);
        }
        s.sum += weight[0] + weight[1];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float value[8];
            read_eight(own, own.VALUE_UNIT + (of + j) * own.EIGHT, value);
#pragma unroll
            for (int i = 0; i < 8; i++)
                sums[i] = fmaf(weight[j], value[i], sums[i]);
        }
        at += 2 * STRIDE;
        of += 2;
        if (of == own.KEYS && at - p.lane / 4 < seen) {
            of = 0;
            ask_keys<T>(a, p, caches, at, seen);
            wait_for_copies();
        }
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
send_stretch(const mica_cuda_step_args &a, const place &p, row_room &row,
             const mail<CLUSTER> &words, const uint64_t *caches, int seen, uint32_t round)
{
    float q[8];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float4 four = ((const float4 *)row.q)[2 * (p.lane % 4) + i];
        q[4 * i] = four.x, q[4 * i + 1] = four.y, q[4 * i + 2] = four.z, q[4 * i + 3] = four.w;
    }
    const float first = seen > 0 ? score_of(asked_of<T>(a), asked<T>::FIRST_UNIT, q) : NOTHING;
    float reference = first;
#pragma unroll 1
    for (bool again = false;; again = true) {
        const stretch s = attend<T>(a, p, q, reference, caches, seen);
        row.parts[p.warp][8 * (p.lane % 4) + p.lane / 4] = s.v;
        if (p.lane == 0)
            row.sums[p.warp] = s.sum;
        if (!__syncthreads_or(s.is_far) || again)
            break;
        reference = largest_of_block(s.most);
        ask_first_keys<T>(a, p, caches, seen);
        wait_for_copies();
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
                                                      const uint64_t *caches, uint32_t round)
{
    float *const head = the_room().head[p.warp];
    const int part = p.lane % 4, own = p.lane / 4 + 8 * part;
#pragma unroll 1
    for (int m = 0; m < a.rows; m++) {
        row_room &row = the_room().row[m];
        const mail<CLUSTER> words = words_of<CLUSTER>(a, p.group, m);
        const uint64_t *const kept = caches + 2 * m * a.count;
        const float first = send_stretch<T>(a, p, row, words, kept, a.seen[m], round);
        if (m + 1 < a.rows)
            ask_first_keys<T>(a, p, kept + 2 * a.count, a.seen[m + 1]);
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
            read_eight(asked_of<T>(a), asked<T>::O_UNIT + i * asked<T>::EIGHT, w);
            sums[i] = sum_of_4(dot(w, x));
        }
        if (part < 2)
            send_part(sums_of_row(a, 0, m) + OUTPUTS * p.voice + own, part ? sums[1] : sums[0],
                      row.sent[0][OUTPUTS * p.warp + own]);
        __syncwarp();
        wait_for_copies();
    }
}

template <typename T, bool CLUSTER>
static __device__ __forceinline__ void mlp_part(const mica_cuda_step_args &a, const place &p,
                                                uint32_t round)
{
    const int own = p.lane / 2;
    float *const put = the_room().lanes[p.warp] + p.lane, w[OUTPUTS][4];
#pragma unroll
    for (int i = 0; i < OUTPUTS; i += 2)
        read_down(asked_of<T>(a), i, w);
#pragma unroll
    for (int i = 0; i < OUTPUTS; i++)
        settle(w[i]);
#pragma unroll 1
    for (int m = 0; m < a.rows; m++) {
        row_room &row = the_room().row[m];
        float x[4];
        receive<2>(words_of<CLUSTER>(a, p.group, m), HIDDEN + 2 * p.lane, 64, round, x);
        __syncwarp();
#pragma unroll
        for (int i = 0; i < OUTPUTS; i++)
            put[32 * i] = fmaf(w[i][3], x[3], w[i][2] * x[2]) + fmaf(w[i][1], x[1], w[i][0] * x[0]);
        const float sum = sums_of<OUTPUTS>(the_room().lanes[p.warp]);
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

#define AHEAD 1 /* blocks of the network that matrices come to L2 before they are asked for */

template <typename T, bool CLUSTER>
static __global__ void __launch_bounds__(THREADS, 1)
    step_kernel(const __grid_constant__ mica_cuda_step_args a)
{
    room &r = the_room();
    const place p = the_place();
    const deck all = the_deck<T, CLUSTER>(a);
    rows own;
    let_next_begin();
    deal(a, all);
#pragma unroll 1
    for (int i = threadIdx.x; i < a.rows * (int)(sizeof(row_room) / 4); i += THREADS)
        ((uint32_t *)r.row)[i] = 0;
    meet<CLUSTER>();
    ask_half<T, CLUSTER, ATTENTION>(a, p, all.cards, 0);
    ask_o<T>(a, p, all.cards);
    wait_for_previous();
    clear_next_sums(a);
    ask_first_keys<T>(a, p, all.caches, a.seen[0]);
#pragma unroll 1
    for (int n = 0;; n++) {
        const uint32_t round = a.round + (uint32_t)n, parts = GROUPS * n;
        const uint64_t *const card = all.cards + CARD * n, *const caches = all.caches + 2 * n;
        const bool last = n + 1 == a.count;
        const uint64_t *const other = last ? all.cards : card + CARD;
        wait_for_copies();
        if (n == a.count)
            break;
        load_rows<T, CLUSTER, ATTENTION>(a, p, card, own);
        first_part<T, CLUSTER, ATTENTION>(a, p, own, caches, parts, round);
        ask_half<T, CLUSTER, MLP>(a, p, card, 2 * n + 1);
        __syncthreads(); /* q */
        attention_part<T, CLUSTER>(a, p, caches, round);
        ask_down<T>(a, p, card);
        const int coming = (n + AHEAD) % a.count;
        prefetch_keys<T>(p, all.caches + 2 * coming, a.seen[0]);
        prefetch_block<T>(p, all.cards + CARD * coming);

        wait_for_copies();
        load_rows<T, CLUSTER, MLP>(a, p, card, own);
        first_part<T, CLUSTER, MLP>(a, p, own, caches, parts + GROUPS, round);
        if (!last)
            ask_half<T, CLUSTER, ATTENTION>(a, p, other, 2 * n + 2);
        else
            ask_half<T, CLUSTER, HEAD>(a, p, NULL, 2 * n + 2);
        mlp_part<T, CLUSTER>(a, p, round);
        ask_o<T>(a, p, other);
        if (!last)
            ask_first_keys<T>(a, p, caches + 2, a.seen[0]);
        if (n + 2 == a.count)
            prefetch_head<T>(a, p);
    }
    load_rows<T, CLUSTER, HEAD>(a, p, NULL, own);
    first_part<T, CLUSTER, HEAD>(a, p, own, NULL, GROUPS * a.count, 0);
}

/* ----------------------------------------------------------------- prepare -- */

static __device__ __forceinline__ float number_at(const uint64_t *card, int which, int i)
{
    return card ? ((const float *)card[which])[i] : 0.0f;
}

/* norm: the block of the network whose norm comes before KIND; NULL: none. */
template <typename T, kind KIND>
static __device__ __forceinline__ void prepare_half(const mica_cuda_step_args &a, const place &p,
                                                    const uint64_t *card, const uint64_t *norm,
                                                    mica_cuda_norms &to)
{
    const int t = threadIdx.x, scale = KIND == MLP ? SCALE_1 : SCALE_2;
    const int shift = KIND == MLP ? SHIFT_1 : SHIFT_2, bias = KIND == MLP ? O_B : DOWN_B;
    const int count = KIND == HEAD ? rows_of_head(a, p) : KIND == MLP ? 4 : MOST;
    if (blockIdx.x == 0) {
        to.norm[t] = make_float4(number_at(norm, scale, 2 * t), number_at(norm, scale, 2 * t + 1),
                                 number_at(norm, shift, 2 * t), number_at(norm, shift, 2 * t + 1));
        to.bias[t] = make_float2(number_at(norm, bias, 2 * t), number_at(norm, bias, 2 * t + 1));
    }
    for (int i = 0; i < SLOTS; i++) {
        float slope = 0.0f, offset = 0.0f;
        for (int e = p.lane; i < count && e < D; e += 32) {
            const float w = load1(row_of<T, KIND>(a, p, card, i),
                                  sizeof(T) == 4 ? MICA_CUDA_F32 : MICA_CUDA_BF16, e);
            slope += fmaf(w, number_at(norm, scale, e), w);
            offset = fmaf(w, number_at(norm, shift, e), offset);
        }
        slope = warp_sum(slope);
        offset = warp_sum(offset);
        if (KIND == MLP && i < count)
            offset += number_at(card, UP_B, p.group * UNITS + 4 * p.voice + i);
        else if (KIND == ATTENTION && i < 4)
            offset += number_at(card, Q_B, p.group * K + 4 * p.warp + i);
        else if (KIND == ATTENTION && i < count)
            offset += number_at(card, i == 4 ? K_B : V_B, p.group * K + p.voice);
        if (p.lane == 0)
            to.slope[blockIdx.x][p.warp][i] = make_float2(slope, offset);
    }
}

template <typename T>
static __global__ void __launch_bounds__(THREADS)
    prepare_kernel(const __grid_constant__ mica_cuda_step_args a, mica_cuda_norms *to)
{
    const place p = the_place();
    const uint64_t *const cards = (const uint64_t *)a.blocks;
    const int half = blockIdx.y, n = half / 2;
    const uint64_t *const card = cards + CARD * n, *const before = n ? card - CARD : NULL;
    if (n == a.count)
        prepare_half<T, HEAD>(a, p, NULL, before, to[half]);
    else if (half % 2 == 0)
        prepare_half<T, ATTENTION>(a, p, card, before, to[half]);
    else
        prepare_half<T, MLP>(a, p, card, card, to[half]);
}

extern "C" size_t mica_cuda_step_norms(int count)
{
    return (size_t)(2 * count + 1) * sizeof(mica_cuda_norms);
}

extern "C" cudaError_t mica_cuda_step_prepare(const mica_cuda_step_args *args, void *to,
                                              cudaStream_t stream)
{
    const auto kernel =
        args->type == MICA_CUDA_F32 ? prepare_kernel<float> : prepare_kernel<__nv_bfloat16>;
    const dim3 grid(GROUPS * RANKS, (unsigned)(2 * args->count + 1));
    kernel<<<grid, THREADS, 0, stream>>>(*args, (mica_cuda_norms *)to);
    return cudaGetLastError();
}

/* ------------------------------------------------------------------ launch -- */

int64_t mica_cuda_step_words(int rows, bool cluster)
{
    return 2 * ALL_SUMS + (cluster ? 0 : GROUPS * GROUP_WORDS * rows);
}

template <typename T, bool CLUSTER> static size_t shared_of(int rows, int count)
{
    return sizeof(room) + (size_t)(rows - 1) * sizeof(row_room) + sizeof(asked<T>) +
           ROWS_IN_ROOM(T, CLUSTER) + (size_t)(count * (CARD + 2 * rows)) * sizeof(uint64_t);
}

struct launch_of {
    cudaLaunchConfig_t config;
    cudaLaunchAttribute attributes[2];
};

template <typename T, bool CLUSTER>
static cudaError_t prepare(int rows, int count, bool early, launch_of *l)
{
    *l = {};
    l->config.gridDim = dim3(GROUPS * RANKS);
    l->config.blockDim = dim3(THREADS);
    l->config.dynamicSmemBytes = shared_of<T, CLUSTER>(rows, count);
    l->config.attrs = l->attributes;
    l->config.numAttrs = CLUSTER ? 2 : 1;
    if (CLUSTER && early) {
        l->attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        l->attributes[0].val.programmaticStreamSerializationAllowed = 1;
    } else {
        l->attributes[0].id = cudaLaunchAttributeCooperative;
        l->attributes[0].val.cooperative = 1;
    }
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
    const cudaError_t error = prepare<T, CLUSTER>(args.rows, args.count, args.early, &l);
    l.config.stream = stream;
    return error ? error : cudaLaunchKernelEx(&l.config, step_kernel<T, CLUSTER>, args);
}

/* Whether all blocks are resident at once. */
template <typename T, bool CLUSTER> static bool fits(int rows, int multiprocessors)
{
    launch_of l;
    int count = 0;
    if (prepare<T, CLUSTER>(rows, MICA_CUDA_STEP_BLOCKS, false, &l) != cudaSuccess)
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
