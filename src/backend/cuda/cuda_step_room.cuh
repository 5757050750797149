/* cuda_step_room.cuh - what a block of threads of cuda_step.cu has in shared memory, who it is, and what it asks for
 * ahead.
 *
 *     room   vectors of two halves │ barriers │ a row_room a row │ rows [8 warps][6][512] │ addresses
 *
 * Copies end in shared memory, or in registers for what a lane alone multiplies. */
#ifndef MICA_BACKEND_CUDA_STEP_ROOM_CUH
#define MICA_BACKEND_CUDA_STEP_ROOM_CUH

#include "backend/cuda/cuda_step.cuh"
#include "backend/cuda/cuda_step.h"
#include "backend/cuda/cuda_words.cuh"

#define D       MICA_CUDA_STEP_WIDTH
#define F       MICA_CUDA_STEP_FFN
#define H       MICA_CUDA_STEP_HEADS
#define K       (D / H)
#define GROUPS  H
#define RANKS   4
#define WARPS   8
#define VOICES  (RANKS * WARPS) /* warps of a group */
#define THREADS (32 * WARPS)
#define UNITS   (F / GROUPS)
#define OUTPUTS (D / VOICES) /* of a warp */
#define STRIDE  (8 * VOICES) /* positions that a group takes at once */
#define MOST    6            /* rows that a warp multiplies at once */

static_assert(K == 32 && K == VOICES && K == 4 * WARPS,
              "a warp has 4 rows of q, one of k and of v");
static_assert(UNITS == 4 * VOICES && UNITS == 128 && OUTPUTS == 16,
              "4 units and 16 outputs a warp");
static_assert(D == 2 * THREADS, "a thread has two elements of a row");
static_assert(4 * WARPS * GROUPS * RANKS >= MICA_CUDA_STEP_HEAD, "4 rows of the head a warp");

/* Words of a group and a row. */
enum {
    HIDDEN = 0,
    KEY = HIDDEN + UNITS,          /* the new key and value in turns */
    STRETCHES = KEY + 2 * K,       /* pairs of blocks, K values of both */
    STATS = STRETCHES + RANKS * K, /* sum and reference of each block */
    GROUP_WORDS = STATS + 2 * RANKS
};

/* What mica_cuda_step_block has. */
/* clang-format off */
enum { Q, K_, V, O, UP, DOWN, Q_B, K_B, V_B, O_B, UP_B, DOWN_B, SCALE_1, SHIFT_1, SCALE_2, SHIFT_2, CARD };
/* clang-format on */

static_assert(sizeof(mica_cuda_step_block) == CARD * sizeof(void *), "a card is a list");

/* What a half begins with: the rows that a warp multiplies, of q, k and v, of up, or of the head behind all. */
enum kind { ATTENTION, MLP, HEAD };

/* What a half wants beside its rows. */
struct alignas(16) vectors {
    float scale[D], shift[D]; /* of the norm before it */
    float bias[D];            /* of the outputs before that norm */
    float rows[4 * WARPS];    /* of the rows of q, or of up */
    float key[WARPS], value[WARPS];
};

struct alignas(16) row_room {
    uint64_t words[GROUP_WORDS];      /* where a group is a cluster */
    int64_t sent[2][OUTPUTS * WARPS]; /* parts of outputs of o, of down */
    float x[D];                       /* normalised, natural order; a thread reads what it wrote */
    float v[D];                       /* before the norm, in the order of place_of */
    float q[K];
    float parts[WARPS][K], sums[WARPS]; /* softmax of each warp's keys */
};

struct room {
    vectors next[2];      /* by parity of the half that wants them */
    float head[WARPS][K]; /* what the head makes, as each warp reads it */
    float most[WARPS];
    uint64_t barriers[WARPS + 1]; /* of copies: each warp's rows, the vectors */
    row_room row[1];              /* behind them: each warp's rows, the cards */
};

extern __shared__ uint4 shared[];

static __device__ __forceinline__ room &the_room()
{
    return *(room *)shared;
}

/* Where a thread is. */
struct place {
    int group, rank, warp, voice, lane;
};

static __device__ __forceinline__ place the_place()
{
    place p;
    p.group = blockIdx.x / RANKS;
    p.rank = blockIdx.x % RANKS;
    p.warp = threadIdx.x / 32;
    p.voice = p.rank * WARPS + p.warp;
    p.lane = threadIdx.x % 32;
    return p;
}

/* Addresses of the weights of every block of the network and of its caches, where a look costs no trip to L2. */
struct deck {
    uint64_t *cards;  /* [count][CARD] */
    uint64_t *caches; /* [rows][count][2] */
};

/* Numbers of all warps' rows. */
#define ROWS_IN_ROOM(cluster) ((cluster) ? MOST * WARPS * D : 0)

template <typename T, bool CLUSTER>
static __device__ __forceinline__ deck the_deck(const mica_cuda_step_args &a)
{
    uint64_t *const cards = (uint64_t *)((T *)(the_room().row + a.rows) + ROWS_IN_ROOM(CLUSTER));
    return {cards, cards + CARD * a.count};
}

static __device__ __forceinline__ void deal(const mica_cuda_step_args &a, const deck &d)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < CARD * a.count; i += THREADS)
        d.cards[i] = ((const uint64_t *)a.blocks)[i];
#pragma unroll 1
    for (int i = threadIdx.x; i < 2 * a.rows * a.count; i += THREADS)
        d.caches[i] = (uint64_t)a.caches[i];
}

/* ------------------------------------------------------- what is asked for -- */

/* Rows of the head that this warp has, from row 4 (WARPS blockIdx.x + warp) on. */
static __device__ __forceinline__ int rows_of_head(const mica_cuda_step_args &a, const place &p)
{
    return a.head ? max(0, min(4, a.head_rows - 4 * (WARPS * (int)blockIdx.x + p.warp))) : 0;
}

/* Row i of those that a warp multiplies: 4 of q, k, v; 4 of up; 4 of the head. */
template <typename T, kind KIND>
static __device__ __forceinline__ const T *row_of(const mica_cuda_step_args &a, const place &p,
                                                  const uint64_t *card, int i)
{
    if (KIND == HEAD)
        return (const T *)a.head + (4 * (WARPS * (int)blockIdx.x + p.warp) + i) * D;
    if (KIND == MLP)
        return (const T *)card[UP] + (p.group * UNITS + 4 * p.voice + i) * D;
    if (i < 4)
        return (const T *)card[Q] + (p.group * K + 4 * p.warp + i) * D;
    return (const T *)card[i == 4 ? K_ : V] + (p.group * K + p.voice) * D;
}

/* To w [MOST][D]; without clusters nobody copies them. */
template <typename T, kind KIND>
static __device__ __forceinline__ void ask_rows(const mica_cuda_step_args &a, const place &p,
                                                const uint64_t *card, T *w)
{
    const int bytes = D * (int)sizeof(T);
    const int four = KIND == HEAD ? rows_of_head(a, p) : 4;
    uint64_t *const done = &the_room().barriers[p.warp];
    __syncwarp(); /* what was there has been read */
    if (p.lane != 0)
        return;
    copies_start(done, (four + (KIND == ATTENTION ? 2 : 0)) * bytes);
    if (four > 0)
        copy_piece(done, w, row_of<T, KIND>(a, p, card, 0), four * bytes);
    if (KIND == ATTENTION) {
        copy_piece(done, w + 4 * D, row_of<T, KIND>(a, p, card, 4), bytes);
        copy_piece(done, w + 5 * D, row_of<T, KIND>(a, p, card, 5), bytes);
    }
}

/* SIZE floats, by all threads. */
template <int SIZE>
static __device__ __forceinline__ void copy_vector(uint64_t *done, float *to, const float *from)
{
#if __CUDA_ARCH__ >= 900
    copy_piece(done, to, from, SIZE * (int)sizeof(float));
#else
    for (int i = threadIdx.x; i < SIZE; i += THREADS)
        copy_own<4>(to + i, from + i);
#endif
}

/* Of the norm behind half `mlp` of a block, and of the rows of KIND that come then. */
template <kind KIND>
static __device__ __forceinline__ void ask_vectors(const place &p, const uint64_t *card,
                                                   const uint64_t *coming, vectors *v)
{
    const bool first = !card; /* there is no norm before the first half */
    uint64_t *const done = &the_room().barriers[WARPS];
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x != 0)
        return;
    copies_start(done, (int)sizeof(float) * ((first ? 0 : 3 * D) + (KIND == HEAD ? 0 : 4 * WARPS) +
                                             (KIND == ATTENTION ? 2 * WARPS : 0)));
#endif
    if (!first) {
        copy_vector<D>(done, v->scale, (const float *)card[KIND == MLP ? SCALE_1 : SCALE_2]);
        copy_vector<D>(done, v->shift, (const float *)card[KIND == MLP ? SHIFT_1 : SHIFT_2]);
        copy_vector<D>(done, v->bias, (const float *)card[KIND == MLP ? O_B : DOWN_B]);
    }
    if (KIND == MLP)
        copy_vector<4 * WARPS>(done, v->rows,
                               (const float *)coming[UP_B] + p.group * UNITS + p.rank * 4 * WARPS);
    if (KIND == ATTENTION) {
        const int at = p.group * K, own = at + p.rank * WARPS;
        copy_vector<K>(done, v->rows, (const float *)coming[Q_B] + at);
        copy_vector<WARPS>(done, v->key, (const float *)coming[K_B] + own);
        copy_vector<WARPS>(done, v->value, (const float *)coming[V_B] + own);
    }
}

/* Before anything of either is read; all threads must come here. half: how often they were asked for before. */
template <bool CLUSTER>
static __device__ __forceinline__ void wait_for_copies(const place &p, int half)
{
    room &r = the_room();
    copies_finish(&r.barriers[WARPS], half);
    if (CLUSTER)
        copies_finish(&r.barriers[p.warp], half);
#if __CUDA_ARCH__ < 900
    __syncthreads();
#endif
}

/* This warp's outputs of o: lane 4 i + k numbers 8 k .. of the head's, of outputs i and 8 + i. */
template <typename T> struct o_columns {
    piece<T> w[2];
};

template <typename T>
static __device__ __forceinline__ void ask_outputs(const place &p, const uint64_t *card,
                                                   o_columns<T> &c)
{
    const T *const from =
        (const T *)card[O] + (OUTPUTS * p.voice + p.lane / 4) * D + p.group * K + 8 * (p.lane % 4);
    ask(c.w[0], from);
    ask(c.w[1], from + 8 * D);
}

/* Of down: 4 of the group's hidden units. */
template <typename T> struct down_columns {
    quad<T> w[OUTPUTS];
};

template <typename T>
static __device__ __forceinline__ void ask_outputs(const place &p, const uint64_t *card,
                                                   down_columns<T> &c)
{
    const T *const from =
        (const T *)card[DOWN] + OUTPUTS * p.voice * F + p.group * UNITS + 4 * p.lane;
#pragma unroll
    for (int i = 0; i < OUTPUTS; i++)
        ask(c.w[i], from + i * F);
}

/* Keys and values of two positions that a lane takes, 8 numbers of each, and of the first key of all. */
template <typename T> struct next_keys {
    piece<T> k[2], v[2], first;
};

/* Stretches of 8 positions go to the blocks of a group in turn, then to their warps. */
static __device__ __forceinline__ int first_position(const place &p)
{
    return 8 * (p.warp * RANKS + p.rank) + p.lane / 4;
}

template <typename T>
static __device__ __forceinline__ void ask_key(const place &p, const uint64_t *caches, int at,
                                               int seen, piece<T> &k, piece<T> &v)
{
    const int from = at * D + p.group * K + 8 * (p.lane % 4);
    if (at < seen) {
        ask(k, (const T *)caches[0] + from);
        ask(v, (const T *)caches[1] + from);
    }
}

template <typename T>
static __device__ __forceinline__ void ask_keys(const place &p, const uint64_t *caches, int seen,
                                                next_keys<T> &f)
{
    const int at = first_position(p);
    if (seen > 0)
        ask(f.first, (const T *)caches[0] + p.group * K + 8 * (p.lane % 4));
    ask_key(p, caches, at, seen, f.k[0], f.v[0]);
    ask_key(p, caches, at + STRIDE, seen, f.k[1], f.v[1]);
}

static __device__ __forceinline__ void prefetch_piece(uint64_t from, int size)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(size) : "memory");
#else
    for (int line = 0; line < size; line += 128)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(from + line));
#endif
}

/* Into L2: the matrices of a block of the network, a stretch of each by each block of threads, and the keys that
 * ask_keys will ask for. */
template <typename T>
static __device__ __forceinline__ void prefetch_block(const place &p, const uint64_t *card,
                                                      const uint64_t *caches, int seen)
{
    const int at = first_position(p), part = p.group * K;
    if (p.lane % 4 < 2) {
        const T *const rows = (const T *)caches[p.lane % 4] + part;
        if (at < seen)
            asm volatile("prefetch.global.L2 [%0];" ::"l"(rows + at * D));
        if (at + STRIDE < seen)
            asm volatile("prefetch.global.L2 [%0];" ::"l"(rows + (at + STRIDE) * D));
    }
    const int size = (threadIdx.x < UP ? D * D : D * F) * (int)sizeof(T) / (RANKS * GROUPS);
    if (threadIdx.x <= DOWN)
        prefetch_piece(card[threadIdx.x] + (uint64_t)(blockIdx.x * size), size);
}

template <typename T>
static __device__ __forceinline__ void prefetch_head(const mica_cuda_step_args &a, const place &p)
{
    const int rows = rows_of_head(a, p);
    if (p.lane == 0 && rows > 0)
        prefetch_piece((uint64_t)row_of<T, HEAD>(a, p, NULL, 0), rows * D * (int)sizeof(T));
}

#endif
