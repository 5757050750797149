/* cuda_step_room.cuh - what a block of threads of cuda_step.cu has in shared memory, who it is, and what it asks for
 * ahead.
 *
 *     room   numbers to sum │ a row_room a row │ what was asked for │ rows │ addresses
 *
 * What is asked for a thread copies to its own place in shared memory and reads it there itself. */
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

#define SLOTS 8 /* numbers that a warp sums at once: its rows' products and two sums of the norm */

struct alignas(16) row_room {
    uint64_t words[GROUP_WORDS];      /* where a group is a cluster */
    int64_t sent[2][OUTPUTS * WARPS]; /* parts of outputs of o, of down */
    float2 x[THREADS];                /* normalised; a thread reads what it wrote */
    float v[D];                       /* before the norm, scaled, in the order of place_of */
    float2 moments[THREADS];          /* sum and squares of each thread's two elements */
    float q[K];
    float parts[WARPS][K], sums[WARPS]; /* softmax of each warp's keys */
};

/* What a thread asked for, in units of 16 bytes: [unit][thread], so that nobody meets in a bank. The columns of down
 * lie where those of o and the keys did, unit by unit: a thread writes to no other's. */
template <typename T> struct asked {
    enum {
        KEYS = sizeof(T) == 4 ? 2 : 4, /* positions at once */
        EIGHT = sizeof(T) / 2,         /* units of 8 numbers */
        O_UNIT = 0,
        FIRST_UNIT = O_UNIT + 2 * EIGHT,
        KEY_UNIT = FIRST_UNIT + EIGHT,
        VALUE_UNIT = KEY_UNIT + KEYS * EIGHT,
        KEY_UNITS = VALUE_UNIT + KEYS * EIGHT,
        DOWN_UNITS = OUTPUTS * EIGHT / 2,
        UNITS_OF_16 = KEY_UNITS > DOWN_UNITS ? KEY_UNITS : DOWN_UNITS
    };
    float4 norm[THREADS];  /* scale and shift of two elements */
    float2 bias[THREADS];  /* of the outputs before that norm */
    float2 slope[THREADS]; /* and offset of a row: mica_cuda_step_prepare */
    uint4 unit[UNITS_OF_16][THREADS];
};

/* Pieces of 16 bytes of the rows that a warp multiplies: [MOST][ROW_PIECES][THREADS]. */
#define ROW_PIECES(T) (D * (int)sizeof(T) / (16 * 32))

struct room {
    float lanes[WARPS][OUTPUTS * 32]; /* numbers that a warp sums */
    float head[WARPS][K];             /* what the head makes, as each warp reads it */
    float most[WARPS];
    row_room row[1]; /* behind them: what was asked for, rows, the cards */
};

extern __shared__ uint4 shared[];

static __device__ __forceinline__ room &the_room()
{
    return *(room *)shared;
}

template <typename T>
static __device__ __forceinline__ asked<T> &asked_of(const mica_cuda_step_args &a)
{
    return *(asked<T> *)(the_room().row + a.rows);
}

template <typename T>
static __device__ __forceinline__ uint4 (*rows_of(const mica_cuda_step_args &a))[THREADS]
{
    return (uint4(*)[THREADS])(&asked_of<T>(a) + 1);
}

/* Bytes of the rows in the room: without clusters they are read from L2. */
#define ROWS_IN_ROOM(T, cluster) ((cluster) ? MOST * WARPS * D * sizeof(T) : 0)

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

template <typename T, bool CLUSTER>
static __device__ __forceinline__ deck the_deck(const mica_cuda_step_args &a)
{
    uint64_t *const cards = (uint64_t *)((uint8_t *)rows_of<T>(a) + ROWS_IN_ROOM(T, CLUSTER));
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

/* What mica_cuda_step_prepare makes for each half. */
struct mica_cuda_norms {
    float4 norm[THREADS];
    float2 bias[THREADS];
    float2 slope[GROUPS * RANKS][WARPS][SLOTS];
};

/* For half `half`, which begins with KIND: the norm before it, and this warp's rows, as read_own reads them. */
template <typename T, bool CLUSTER, kind KIND>
static __device__ __forceinline__ void ask_half(const mica_cuda_step_args &a, const place &p,
                                                const uint64_t *card, int half)
{
    const int t = threadIdx.x;
    const mica_cuda_norms &from = a.norms[half];
    asked<T> &to = asked_of<T>(a);
    copy_own<16>(&to.norm[t], &from.norm[t]);
    copy_own<8>(&to.bias[t], &from.bias[t]);
    copy_own<8>(&to.slope[t], &from.slope[blockIdx.x][p.warp][p.lane / 4]);
    if (!CLUSTER)
        return;
    uint4(*const room)[THREADS] = rows_of<T>(a);
    const int count = KIND == HEAD ? rows_of_head(a, p) : 4;
    const T *const four = row_of<T, KIND>(a, p, card, 0);
    const T *const key = KIND == ATTENTION ? row_of<T, KIND>(a, p, card, 4) : NULL;
    const T *const value = KIND == ATTENTION ? row_of<T, KIND>(a, p, card, 5) : NULL;
#pragma unroll
    for (int i = 0; i < (KIND == ATTENTION ? MOST : 4); i++) {
        if (KIND == HEAD && i >= count)
            break;
        const uint4 *const row = (const uint4 *)(i < 4 ? four + i * D : i == 4 ? key : value);
#pragma unroll
        for (int k = 0; k < ROW_PIECES(T); k++)
            copy_own<16>(&room[i * ROW_PIECES(T) + k][t], row + 32 * k + p.lane);
    }
}

/* 8 numbers into unit u. */
template <typename T>
static __device__ __forceinline__ void ask_eight(asked<T> &to, int u, const T *from)
{
#pragma unroll
    for (int i = 0; i < asked<T>::EIGHT; i++)
        copy_own<16>(&to.unit[u + i][threadIdx.x], from + 4 * i);
}

static __device__ __forceinline__ void read_eight(const asked<__nv_bfloat16> &from, int u,
                                                  float (&v)[8])
{
    unpack(from.unit[u][threadIdx.x], v);
}

static __device__ __forceinline__ void read_eight(const asked<float> &from, int u, float (&v)[8])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float4 w = *(const float4 *)&from.unit[u + i][threadIdx.x];
        v[4 * i] = w.x, v[4 * i + 1] = w.y, v[4 * i + 2] = w.z, v[4 * i + 3] = w.w;
    }
}

/* This warp's outputs of o: lane 4 i + k numbers 8 k .. of the head's, of outputs i and 8 + i. */
template <typename T>
static __device__ __forceinline__ void ask_o(const mica_cuda_step_args &a, const place &p,
                                             const uint64_t *card)
{
    asked<T> &to = asked_of<T>(a);
    const T *const from =
        (const T *)card[O] + (OUTPUTS * p.voice + p.lane / 4) * D + p.group * K + 8 * (p.lane % 4);
    ask_eight(to, asked<T>::O_UNIT, from);
    ask_eight(to, asked<T>::O_UNIT + asked<T>::EIGHT, from + 8 * D);
}

/* Of down: 4 of the group's hidden units. */
template <typename T>
static __device__ __forceinline__ void ask_down(const mica_cuda_step_args &a, const place &p,
                                                const uint64_t *card)
{
    uint8_t *const to = (uint8_t *)&asked_of<T>(a).unit[0][threadIdx.x];
    const T *const from =
        (const T *)card[DOWN] + OUTPUTS * p.voice * F + p.group * UNITS + 4 * p.lane;
    const int bytes = 4 * sizeof(T), each = 16 / bytes;
#pragma unroll
    for (int i = 0; i < OUTPUTS; i++)
        copy_own<bytes>(to + i / each * 16 * THREADS + i % each * bytes, from + i * F);
}

/* Those of outputs i, i + 1 .. that share a unit. */
static __device__ __forceinline__ void read_down(const asked<__nv_bfloat16> &from, int i,
                                                 float (&v)[OUTPUTS][4])
{
    float eight[8];
    read_eight(from, i / 2, eight);
#pragma unroll
    for (int k = 0; k < 8; k++)
        v[i + k / 4][k % 4] = eight[k];
}

static __device__ __forceinline__ void read_down(const asked<float> &from, int i,
                                                 float (&v)[OUTPUTS][4])
{
    float eight[8];
    read_eight(from, i, eight);
#pragma unroll
    for (int k = 0; k < 8; k++)
        v[i + k / 4][k % 4] = eight[k];
}

/* Stretches of 8 positions go to the blocks of a group in turn, then to their warps. */
static __device__ __forceinline__ int first_position(const place &p)
{
    return 8 * (p.warp * RANKS + p.rank) + p.lane / 4;
}

/* Values that are multiplied by 0: what another row left there may be no number. */
template <typename T> static __device__ __forceinline__ void clear_eight(asked<T> &to, int u)
{
#pragma unroll
    for (int i = 0; i < asked<T>::EIGHT; i++)
        to.unit[u + i][threadIdx.x] = make_uint4(0, 0, 0, 0);
}

/* Keys and values of the positions from `at` on, a stride apart, that are there; 8 numbers of each. */
template <typename T>
static __device__ __forceinline__ void ask_keys(const mica_cuda_step_args &a, const place &p,
                                                const uint64_t *caches, int at, int seen)
{
    asked<T> &to = asked_of<T>(a);
    const int from = at * D + p.group * K + 8 * (p.lane % 4);
    const T *const key = (const T *)caches[0] + from, *const value = (const T *)caches[1] + from;
#pragma unroll
    for (int j = 0; j < asked<T>::KEYS; j++)
        if (at + j * STRIDE < seen) {
            ask_eight(to, to.KEY_UNIT + j * to.EIGHT, key + j * STRIDE * D);
            ask_eight(to, to.VALUE_UNIT + j * to.EIGHT, value + j * STRIDE * D);
        } else {
            clear_eight(to, to.VALUE_UNIT + j * to.EIGHT);
        }
}

/* Those that a row begins with, and the first key of all. */
template <typename T>
static __device__ __forceinline__ void ask_first_keys(const mica_cuda_step_args &a, const place &p,
                                                      const uint64_t *caches, int seen)
{
    if (seen > 0)
        ask_eight(asked_of<T>(a), asked<T>::FIRST_UNIT,
                  (const T *)caches[0] + p.group * K + 8 * (p.lane % 4));
    ask_keys<T>(a, p, caches, first_position(p), seen);
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

/* Into L2: the keys that ask_first_keys will ask for. */
template <typename T>
static __device__ __forceinline__ void prefetch_keys(const place &p, const uint64_t *caches,
                                                     int seen)
{
    if (p.lane % 4 >= 2)
        return;
    const T *const rows = (const T *)caches[p.lane % 4] + p.group * K;
#pragma unroll 1
    for (int j = 0, at = first_position(p); j < asked<T>::KEYS && at < seen; j++, at += STRIDE)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(rows + at * D));
}

/* The matrices of a block of the network, a stretch of each by each block of threads. */
template <typename T>
static __device__ __forceinline__ void prefetch_block(const place &p, const uint64_t *card)
{
    const int size = (p.warp < UP ? D * D : D * F) * (int)sizeof(T) / (RANKS * GROUPS);
    if (p.warp <= DOWN && p.lane == 0)
        prefetch_piece(card[p.warp] + (uint64_t)(blockIdx.x * size), size);
}

template <typename T>
static __device__ __forceinline__ void prefetch_head(const mica_cuda_step_args &a, const place &p)
{
    const int rows = rows_of_head(a, p);
    if (p.lane == 0 && rows > 0)
        prefetch_piece((uint64_t)row_of<T, HEAD>(a, p, NULL, 0), rows * D * (int)sizeof(T));
}

#endif
