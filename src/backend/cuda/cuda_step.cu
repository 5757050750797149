/* cuda_step.cu - one row of each of a few sequences through all blocks of a post-norm model, in one
 * kernel.
 *
 *     16 groups of 8 blocks of 8 warps; a group has a head and 128 hidden units, and is a cluster where there are
 *     clusters. The two halves of a block of the network have one form:
 *
 *       warp v of every group: outputs 8 v .. 8 v + 7 of the last half     16 parts each, through L2
 *       bias, residual; to all blocks of the group                         512 words
 *       norm; two rows a warp of q, k, v or of up; to the group            96 or 128 words
 *       attention of the group's head: stretches of the keys joined        34 words a block
 *         or the group's hidden units
 *       warp v: its group's part of outputs 8 v .. 8 v + 7                 to warp v of every group
 *
 * Between blocks of threads nobody waits at a barrier: numbers travel as words that carry their round (cuda_words.cuh).
 * Words are written again one block of the network later, rows a half later. Every block of a group sends words
 * that all of it waits for behind each reading: hidden units and rows by every warp, stretches of keys behind a
 * barrier of the block's warps. Warps v of all groups wait for each other twice a block. So whoever writes a word
 * again has words that its readers made behind reading the old one.
 *
 * What a half needs from memory is asked for half a block ahead: a warp's two rows and the vectors go to shared
 * memory by the copy engine, outputs' columns and keys to registers from L2, where they come a block ahead. A load
 * that is under way holds up whatever next waits for a register, words too, so nothing on the way to a word may come
 * from memory beyond L2. Sums have one order, whatever `rows` is.
 *
 * The widths are those of the released models, known to the compiler: with guards for others the code was
 * twice as long, and all of it runs once a half.
 *
 * Napkin, text to semantic (24 blocks, bf16): 151 MB, 50 us at 3 TB/s. A block is 2 trips through L2 (600 cycles
 * each) and 5 within a group (350), together 3,000 of the 19,000 cycles that were measured; without waiting for
 * anybody they are 12,700: chains of some 60 shuffles, 30 looks at shared memory, 6 barriers, and the
 * instructions between them (docs/PERFORMANCE.md). */
#include "backend/cuda/cuda_step_room.cuh"

/* -------------------------------------------------------------------- rows -- */

/* Where words lie so that a lane's numbers are pairs without conflicts: of hidden units 4 lane .., of a
 * head 8 (lane % 4) .. */
static __device__ __forceinline__ int place_of_unit(int u)
{
    return (u >> 1) % 2 * 64 + (u >> 2) * 2 + u % 2;
}

static __device__ __forceinline__ int place_of_dim(int d)
{
    return (d >> 1) % 4 * 8 + (d >> 3) * 2 + d % 2;
}

/* Output lane / 4 of this warp as all groups' parts make it. */
static __device__ __forceinline__ float collect(const uint64_t *parts, const place &p,
                                                uint32_t round)
{
    uint64_t w[2][2];
    const uint64_t *const from = parts + (8 * p.voice + p.lane / 4) * GROUPS + 4 * (p.lane % 4);
    do {
        look_global(from, w[0]);
        look_global(from + 2, w[1]);
    } while (missing(w[0][0], round) | missing(w[0][1], round) | missing(w[1][0], round) |
             missing(w[1][1], round));
    __syncwarp();
    return sum_of_4((number_of(w[0][0]) + number_of(w[0][1])) +
                    (number_of(w[1][0]) + number_of(w[1][1])));
}

/* Norm of a row of which each thread has two neighbours. All threads must come here. */
static __device__ __forceinline__ float2 normalise(float2 v, const vectors &next, float eps)
{
    float *const stats = the_room().norm;
    const float sum = warp_sum(v.x + v.y), squares = warp_sum(fmaf(v.x, v.x, v.y * v.y));
    if (threadIdx.x % 32 == 0)
        *(float2 *)(stats + threadIdx.x / 16) = make_float2(sum, squares);
    __syncthreads();
    float2 all = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < WARPS / 2; i++) {
        const float4 s = ((const float4 *)stats)[i];
        all.x += s.x + s.z;
        all.y += s.y + s.w;
    }
    const float mean = all.x / (float)D;
    const float variance = fmaxf(fmaf(-mean, mean, all.y / (float)D), 0.0f);
    const float factor = rsqrtf(variance + eps);
    const float2 scale = ((const float2 *)next.scale)[threadIdx.x];
    const float2 shift = ((const float2 *)next.shift)[threadIdx.x];
    return make_float2(fmaf((v.x - mean) * factor, 1.0f + scale.x, shift.x),
                       fmaf((v.y - mean) * factor, 1.0f + scale.y, shift.y));
}

/* Elements 2 t and 2 t + 1 of what the groups made parts of, normalised. x: the row before, the residual. */
template <typename T, bool CLUSTER>
static __device__ __forceinline__ float2 take_row(const mica_cuda_step_args &a, const place &p,
                                                  const uint64_t *parts, const mail<CLUSTER> &words,
                                                  const float *x, const vectors &next,
                                                  uint32_t round)
{
    const int to = 8 * p.voice + p.lane / 4;
    const float residual = x[place_of<T>(to)], bias = next.bias[8 * p.warp + p.lane / 4];
    float v[2];
    const float y = collect(parts, p, round) + bias + residual;
#pragma unroll
    for (int rank = 0; rank < RANKS; rank += 4)
        words.of(rank + p.lane % 4).send(ROWS + to, y, round);
    receive<1>(words, ROWS + 2 * (int)threadIdx.x, 0, round, v);
    __syncwarp();
    return normalise(make_float2(v[0], v[1]), next, a.eps);
}

/* Two numbers a warp makes of the row, to all of the group. */
template <typename T, bool CLUSTER>
static __device__ __forceinline__ void send_two(const place &p, const mail<CLUSTER> &words,
                                                bool mlp, const T *w, float bias, const float *row,
                                                uint32_t round)
{
    float x[16];
    read_row(row, x);
    const bool upper = p.lane >= 16, has_key = p.voice >= K;
    float v = two_sums(dot(w, x), dot(w + D, x)) + bias;
    int at;
    if (mlp) {
        v = v < 0.0f ? 0.0f : v;
        at = HIDDEN + place_of_unit(p.voice + (upper ? VOICES : 0));
    } else {
        if (upper || has_key)
            v = rounded(v, (const T *)NULL);
        at = QKV + (upper ? 2 : has_key) * K + place_of_dim(p.voice % K);
    }
    if (p.lane % 16 < RANKS && (mlp || !(upper && has_key)))
        words.of(p.lane % 16).send(at, v, round);
}

/* What a lane adds to this warp's 8 outputs. */
template <typename T, int N>
static __device__ __forceinline__ void add_up(const quad<T> (&w)[8], const float (&x)[N],
                                              float (&sums)[8])
{
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float v[4];
        numbers(w[i], v);
        sums[i] = v[0] * x[0];
#pragma unroll
        for (int k = 1; k < N; k++)
            sums[i] = fmaf(v[k], x[k], sums[i]);
    }
}

/* --------------------------------------------------------------- attention -- */

/* This warp's positions, in steps of the group's. f: what was asked for already. */
template <typename T, bool CLUSTER>
static __device__ __forceinline__ stretch attend(const place &p, const mail<CLUSTER> &words,
                                                 const uint64_t *caches, int seen, uint32_t round,
                                                 next_keys<T> &f)
{
    const int part = p.lane % 4;
    running sum = {NOTHING, 0.0f, {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
    float q[8], k[8], v[8];
    receive<4>(words, QKV + 2 * part, 8, round, q);
    __syncwarp();
#pragma unroll 1
    for (int at = first_position(p); at - p.lane / 4 <= seen; at += 8 * VOICES) {
        numbers(f.k, k);
        numbers(f.v, v);
        ask_keys(p, caches, at + 8 * VOICES, seen, f);
        if (at == seen) { /* the new one: from its words, and into the cache */
            const int64_t to = (int64_t)at * D + p.group * K + 8 * part;
            const mica_cuda_type type = sizeof(T) == 4 ? MICA_CUDA_F32 : MICA_CUDA_BF16;
            receive<4>(words, QKV + K + 2 * part, 8, round, k);
            receive<4>(words, QKV + 2 * K + 2 * part, 8, round, v);
            store<8>((void *)caches[0], type, to, k);
            store<8>((void *)caches[1], type, to, v);
        }
        __syncwarp();
        float score = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++)
            score = fmaf(q[i], k[i], score);
        score = sum_of_4(score) * 0.25503486f; /* 1 / sqrt(K), to the base 2 */
        if (at <= seen)
            add_key(sum, score, v);
    }
    return join_lanes(sum);
}

/* Number `lane` of what the group's head makes of a row. local: as `words`, of the block's warps. */
template <typename T, bool CLUSTER>
static __device__ __forceinline__ float
head_output(const place &p, const mail<CLUSTER> &words, const mail<CLUSTER> &local,
            const uint64_t *caches, int seen, uint32_t round, next_keys<T> &f)
{
    stretch s = attend(p, words, caches, seen, round, f);
    int index = p.warp, number = 8 * (p.lane % 4) + p.lane / 4;
    mail<CLUSTER> to = local, from = local;
#pragma unroll 1
    for (int stage = 0;; stage++) {
        float stats[2 * RANKS], v[RANKS];
        to.send(STRETCHES + index / 2 * 2 * K + 2 * number + index % 2, s.v, round);
        if (p.lane < 2)
            to.send(STATS + 2 * index + p.lane, p.lane ? s.sum : s.most, round);
        receive<RANKS>(from, STATS, 2, round, stats);
        receive<RANKS / 2>(from, STRETCHES + 2 * p.lane, 2 * K, round, v);
        __syncwarp();
        s = join_eight(stats, v);
        if (stage == 1)
            return __fdividef(s.v, s.sum);
        __syncthreads(); /* all have read the row: see above */
        to = words.of(p.warp);
        from = words;
        index = p.rank;
        number = p.lane;
    }
}

/* ------------------------------------------------------------------ kernel -- */

static __device__ __forceinline__ void set(mail<true> &m, const void *shared, const uint64_t *)
{
    m.base = (uint32_t)__cvta_generic_to_shared(shared);
}

static __device__ __forceinline__ void set(mail<false> &m, const void *, uint64_t *any)
{
    m.base = any;
}

template <bool CLUSTER>
static __device__ __forceinline__ mail<CLUSTER> words_of(const mica_cuda_step_args &a, room &r,
                                                         int group, int m)
{
    mail<CLUSTER> words;
    set(words, r.row[m].words, a.words + (2 * PARTS * a.rows + (group * a.rows + m) * GROUP_WORDS));
    return words;
}

template <bool CLUSTER> static __device__ __forceinline__ mail<CLUSTER> local_of(row_room &r)
{
    mail<CLUSTER> words;
    const uintptr_t from = (uintptr_t)r.local - STRETCHES * sizeof(uint64_t);
    set(words, (const void *)from, (uint64_t *)from);
    return words;
}

/* Two numbers of a row, elements 2 i and 2 i + 1. */
static __device__ __forceinline__ float2 get_two(const float *x, int i)
{
    return ((const float2 *)x)[i];
}

static __device__ __forceinline__ float2 get_two(const __nv_bfloat16 *x, int i)
{
    return __bfloat1622float2(((const __nv_bfloat162 *)x)[i]);
}

static __device__ __forceinline__ void put_two(float *x, int i, float2 v)
{
    ((float2 *)x)[i] = v;
}

static __device__ __forceinline__ void put_two(__nv_bfloat16 *x, int i, float2 v)
{
    ((__nv_bfloat162 *)x)[i] = __float22bfloat162_rn(v);
}

/* The group's part in what this half makes of every row. */
template <typename T, bool CLUSTER>
static __device__ __forceinline__ void
make_outputs(const mica_cuda_step_args &a, const place &p, const uint64_t *caches, bool mlp,
             uint32_t round, const quad<T> (&w)[8], next_keys<T> &f)
{
    room &r = the_room();
#pragma unroll 1
    for (int m = 0; m < a.rows; m++) {
        const mail<CLUSTER> words = words_of<CLUSTER>(a, r, p.group, m);
        float sums[8];
        if (mlp) {
            float x[4];
            receive<2>(words, HIDDEN + 2 * p.lane, 64, round, x);
            __syncwarp();
            add_up(w, x, sums);
        } else {
            const uint64_t *const own = caches + 2 * m * a.count;
            if (m > 0)
                ask_keys(p, own, first_position(p), a.seen[m], f);
            const mail<CLUSTER> local = local_of<CLUSTER>(r.row[m]);
            const float x[1] = {head_output(p, words, local, own, a.seen[m], round, f)};
            add_up(w, x, sums);
        }
        const float sum = sum_of_4(eight_sums(sums));
        if (p.lane % 4 == 0)
            send_global(a.words + (mlp * a.rows + m) * PARTS + (8 * p.voice + p.lane / 4) * GROUPS +
                            p.group,
                        sum, round);
    }
}

template <typename T, bool CLUSTER>
static __global__ void __launch_bounds__(THREADS, 2)
    step_kernel(const __grid_constant__ mica_cuda_step_args a)
{
    room &r = the_room();
    const place p = the_place();
    const int t = threadIdx.x, pair = place_of<T>(2 * t);
    T *const w = (T *)(r.row + a.rows) + 2 * D * p.warp; /* this warp's rows */
    quad<T> outputs[8];
    next_keys<T> keys = {};
    const deck all = the_deck<T>(a);
    deal(a, all);
#pragma unroll 1
    for (int i = t; i < a.rows * (int)(sizeof(row_room) / 4); i += THREADS)
        ((uint32_t *)r.row)[i] = 0;
    if (t <= WARPS)
        copies_open(&r.barriers[t]);
    meet<CLUSTER>();
    ask_rows(p, all.cards, false, w);
    ask_vectors(p, all.cards, true, all.cards, &r.next[0]); /* half 0: biases of rows alone */
    ask_keys(p, all.caches, first_position(p), a.seen[0], keys);
    ask_outputs(p, all.cards, false, outputs);
#pragma unroll 1
    for (int half = 0;; half++) {
        const bool mlp = half & 1, over = half == 2 * a.count;
        const uint32_t round = a.round + (uint32_t)half;
        const int n = half / 2, next = min(n + 1, a.count - 1);
        const vectors &own = r.next[half % 2];
        const uint64_t *const card = all.cards + CARD * n, *const other = all.cards + CARD * next;
        copies_finish(&r.barriers[WARPS], half);
#pragma unroll 1
        for (int m = 0; m < a.rows; m++) {
            const mail<CLUSTER> words = words_of<CLUSTER>(a, r, p.group, m);
            float *const x = r.row[m].x;
            float2 v;
            if (half == 0)
                v = get_two((const T *)a.x, m * D / 2 + t);
            else
                v = take_row<T>(a, p, a.words + (!mlp * a.rows + m) * PARTS, words, x, own,
                                round - 1);
            *(float2 *)(x + pair) = v;
            __syncthreads();
            if (m == 0 && !over)
                copies_finish(&r.barriers[p.warp], half);
            if (!over)
                send_two(p, words, mlp, w, own.row_bias[p.lane / 16][p.warp], x, round);
            else if (blockIdx.x == 0)
                put_two((T *)a.x, m * D / 2 + t, v);
        }
        if (over)
            break;
        const uint64_t *const coming = mlp ? other : card;
        ask_rows(p, coming, !mlp, w);
        ask_vectors(p, card, mlp, coming, &r.next[(half + 1) % 2]);
        make_outputs<T, CLUSTER>(a, p, all.caches + 2 * n, mlp, round, outputs, keys);
        ask_outputs(p, coming, !mlp, outputs);
        if (mlp)
            ask_keys(p, all.caches + 2 * next, first_position(p), a.seen[0], keys);
        else
            prefetch_block<T>(p, other, all.caches + 2 * next, a.seen[0]);
    }
    /* Nobody's memory goes while it is written to. */
    copies_finish(&r.barriers[p.warp], 2 * a.count);
    meet<CLUSTER>();
}

/* ------------------------------------------------------------------ launch -- */

int64_t mica_cuda_step_words(int rows, bool cluster)
{
    return (int64_t)rows * (2 * PARTS + (cluster ? 0 : GROUPS * GROUP_WORDS));
}

static size_t shared_of(int rows, int count, size_t number)
{
    return sizeof(room) + (size_t)(rows - 1) * sizeof(row_room) + 2 * D * WARPS * number +
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
    l->config.dynamicSmemBytes = shared_of(rows, count, sizeof(T));
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

/* Whether all blocks are resident at once, two to a multiprocessor where it must be: not every H100 has 16 times 8
 * multiprocessors that are close enough for a cluster. */
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
