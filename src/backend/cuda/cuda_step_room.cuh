/* cuda_step_room.cuh - what a block of threads of cuda_step.cu has in shared memory, who it is, and what it asks for
 * ahead.
 *
 *     room   norm │ vectors of two halves │ barriers │ a row_room a row │ rows [8 warps][2][512] │ addresses
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
#define RANKS   8
#define WARPS   8
#define VOICES  (RANKS * WARPS) /* warps of a group */
#define THREADS (32 * WARPS)
#define UNITS   (F / GROUPS)

static_assert(K == 32 && D == 8 * VOICES && UNITS == 2 * VOICES,
              "a lane a number, 8 outputs a warp");

/* Words of a group and a row. */
enum {
    ROWS = 0, /* before a norm */
    HIDDEN = ROWS + D,
    QKV = HIDDEN + UNITS,
    STRETCHES = QKV + 3 * K,       /* pairs of blocks, K values of both */
    STATS = STRETCHES + RANKS * K, /* largest score and sum of each block */
    GROUP_WORDS = STATS + 2 * RANKS
};
static_assert(RANKS == WARPS, "stretches of blocks are joined as those of warps");

/* Parts of the outputs of o, of down: [rows][D][GROUPS] words each, of all groups. */
#define PARTS (D * GROUPS)

/* What mica_cuda_step_block has. */
/* clang-format off */
enum { Q, K_, V, O, UP, DOWN, Q_B, K_B, V_B, O_B, UP_B, DOWN_B, SCALE_1, SHIFT_1, SCALE_2, SHIFT_2, CARD };
/* clang-format on */

static_assert(sizeof(mica_cuda_step_block) == CARD * sizeof(void *), "a card is a list");

/* What a half wants beside its rows. */
struct alignas(16) vectors {
    float scale[D], shift[D]; /* of the norm before it */
    float bias[8 * WARPS];    /* of this block's outputs before that norm */
    float row_bias[2][WARPS]; /* of each warp's two rows */
};

struct alignas(16) row_room {
    uint64_t words[GROUP_WORDS]; /* where a group is a cluster */
    float x[D];                  /* normalised, in the order of place_of */
    uint64_t
        local[GROUP_WORDS - STRETCHES]; /* stretches of the block's warps, as those of blocks */
};

struct room {
    float norm[2 * WARPS];        /* sum and squares of each warp's numbers */
    vectors next[2];              /* by parity of the half that wants them */
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

template <typename T> static __device__ __forceinline__ deck the_deck(const mica_cuda_step_args &a)
{
    uint64_t *const cards = (uint64_t *)((T *)(the_room().row + a.rows) + 2 * D * WARPS);
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

/* Two rows that a warp multiplies with the row that its group knows: of q or k and of v, or of up; to
 * w [2][D]. */
template <typename T>
static __device__ __forceinline__ void ask_rows(const place &p, const uint64_t *card, bool mlp,
                                                T *w)
{
    const int has_key = p.voice >= K;
    const int at = mlp ? p.group * UNITS + p.voice : p.group * K + p.voice % K;
    const T *const a = (const T *)card[mlp ? UP : Q + has_key] + at * D;
    const T *const b = mlp ? a + VOICES * D : (const T *)card[V] + at * D;
    __syncwarp(); /* what was there has been read */
#if __CUDA_ARCH__ >= 900
    const int bytes = D * (int)sizeof(T);
    uint64_t *const done = &the_room().barriers[p.warp];
    if (p.lane == 0) {
        copies_start(done, 2 * bytes);
        copy_piece(done, w, a, bytes);
        copy_piece(done, w + D, b, bytes);
    }
#else
    const int own = 16 / (int)sizeof(T);
    for (int i = own * p.lane; i < D; i += 32 * own) {
        copy_own<16>(w + i, a + i);
        copy_own<16>(w + D + i, b + i);
    }
#endif
}

/* Vectors between this half and the next one, whose rows are those of `coming`. */
static __device__ __forceinline__ void ask_vectors(const place &p, const uint64_t *card, bool mlp,
                                                   const uint64_t *coming, vectors *v)
{
    const float *const bias = (const float *)card[mlp ? DOWN_B : O_B] + 8 * WARPS * p.rank;
    const float *const scale = (const float *)card[mlp ? SCALE_2 : SCALE_1];
    const float *const shift = (const float *)card[mlp ? SHIFT_2 : SHIFT_1];
    const int first = p.rank * WARPS, at = mlp ? p.group * K + first % K : p.group * UNITS + first;
    const float *const a = (const float *)coming[mlp ? Q_B + (first >= K) : UP_B] + at;
    const float *const b = mlp ? (const float *)coming[V_B] + at : a + VOICES;
#if __CUDA_ARCH__ >= 900
    uint64_t *const done = &the_room().barriers[WARPS];
    if (threadIdx.x != 0)
        return;
    copies_start(done, (int)sizeof(vectors));
    copy_piece(done, v->scale, scale, (int)sizeof v->scale);
    copy_piece(done, v->shift, shift, (int)sizeof v->shift);
    copy_piece(done, v->bias, bias, (int)sizeof v->bias);
    copy_piece(done, v->row_bias[0], a, (int)sizeof v->row_bias[0]);
    copy_piece(done, v->row_bias[1], b, (int)sizeof v->row_bias[1]);
#else
    const int t = threadIdx.x, o = 8 * p.warp + p.lane / 4, row = p.lane / 16;
    copy_own<8>(v->scale + 2 * t, scale + 2 * t);
    copy_own<8>(v->shift + 2 * t, shift + 2 * t);
    copy_own<4>(v->bias + o, bias + o);
    copy_own<4>(v->row_bias[row] + p.warp, (row ? b : a) + p.warp);
#endif
}

/* Of this warp's 8 outputs: number `lane` of the head's, or 4 of the group's hidden units. */
template <typename T>
static __device__ __forceinline__ void ask_outputs(const place &p, const uint64_t *card, bool mlp,
                                                   quad<T> (&w)[8])
{
    if (mlp) {
        const T *const from =
            (const T *)card[DOWN] + 8 * p.voice * F + p.group * UNITS + 4 * p.lane;
#pragma unroll
        for (int i = 0; i < 8; i++)
            ask(w[i], from + i * F);
    } else {
        const T *const from = (const T *)card[O] + 8 * p.voice * D + p.group * K + p.lane;
#pragma unroll
        for (int i = 0; i < 8; i++)
            ask_one(w[i], from + i * D);
    }
}

/* Key and value of the position that a lane takes, 8 numbers of them. */
template <typename T> struct next_keys {
    piece<T> k, v;
};

/* Stretches of 8 positions go to the blocks of a group in turn, then to their warps. */
static __device__ __forceinline__ int first_position(const place &p)
{
    return 8 * (p.warp * RANKS + p.rank) + p.lane / 4;
}

template <typename T>
static __device__ __forceinline__ void ask_keys(const place &p, const uint64_t *caches, int at,
                                                int seen, next_keys<T> &f)
{
    const int from = at * D + p.group * K + 8 * (p.lane % 4);
    if (at < seen) {
        ask(f.k, (const T *)caches[0] + from);
        ask(f.v, (const T *)caches[1] + from);
    }
}

/* Into L2: the matrices of a block of the network, a stretch of each by each block of threads, and the keys that
 * ask_keys will ask for. */
template <typename T>
static __device__ __forceinline__ void prefetch_block(const place &p, const uint64_t *card,
                                                      const uint64_t *caches, int seen)
{
    const int at = first_position(p), part = p.group * K;
    if (p.lane % 4 < 2 && at < seen)
        asm volatile(
            "prefetch.global.L2 [%0];" ::"l"((const T *)caches[p.lane % 4] + at * D + part));
    const int size = (threadIdx.x < UP ? D * D : D * F) * (int)sizeof(T) / (RANKS * GROUPS);
    if (threadIdx.x > DOWN)
        return;
    const uint64_t from = card[threadIdx.x] + (uint64_t)(blockIdx.x * size);
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(size) : "memory");
#else
    for (int line = 0; line < size; line += 128)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(from + line));
#endif
}

#endif
