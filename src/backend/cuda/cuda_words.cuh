/* cuda_words.cuh - numbers that travel between blocks of threads while a kernel runs.
 *
 *     word   | round (32 bits) | number (f32) |      written and read as one, as NCCL's LL protocol does
 *     sum    | bad parts (6) | parts (10) | sum (48) |      added to by L2
 *
 * Whoever needs a number reads its word until the round is there, or a sum until so many parts have come. No barrier
 * and no fence is needed, because a word carries all there is to know. All blocks must be resident in the end, and to
 * write a word again one needs words that its readers made after reading it: the kernel says why that is so.
 *
 * Between all blocks words go through L2, 490 to 675 cycles on an H100. Within a group of blocks that is a cluster they
 * go into the shared memory of each block, 344 cycles (a cluster's barrier: 826); where there are no clusters, through
 * L2 as well. */
#ifndef MICA_BACKEND_CUDA_WORDS_CUH
#define MICA_BACKEND_CUDA_WORDS_CUH

#include <cuda_runtime.h>
#include <stdint.h>

static __device__ __forceinline__ uint64_t word_of(float x, uint32_t round)
{
    return (uint64_t)round << 32 | __float_as_uint(x);
}

/* 0 where the word is of that round. */
static __device__ __forceinline__ uint32_t missing(uint64_t word, uint32_t round)
{
    return (uint32_t)(word >> 32) ^ round;
}

static __device__ __forceinline__ float number_of(uint64_t word)
{
    return __uint_as_float((uint32_t)word);
}

/* Looks before a wait is given up, seconds of them, where a whole step takes a fraction of a millisecond: then a block
 * is missing, and an error of the device is better than a wait without end. */
#define PATIENCE (UINT32_C(1) << 27)

static __device__ __forceinline__ void lose_patience(uint32_t &looks)
{
    if (++looks == PATIENCE)
        __trap();
}

/* Words of a group of blocks of threads: in the shared memory of each (CLUSTER), or one copy in global memory. */
template <bool CLUSTER> struct mail;

template <> struct mail<true> {
    uint32_t base; /* in this block's shared memory, or in another's */

    /* As the block of that rank has it. */
    __device__ __forceinline__ mail<true> of(int rank) const
    {
        mail<true> m = {0};
#if __CUDA_ARCH__ >= 900
        asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(m.base) : "r"(base), "r"(rank));
#endif
        return m;
    }
    __device__ __forceinline__ void send(int at, float x, uint32_t round) const
    {
#if __CUDA_ARCH__ >= 900
        asm volatile("st.relaxed.cluster.shared::cluster.u64 [%0], %1;" ::"r"(base + 8 * at),
                     "l"(word_of(x, round))
                     : "memory");
#endif
    }
    __device__ __forceinline__ void look(int at, uint64_t (&w)[2]) const
    {
        asm volatile("ld.volatile.shared.v2.u64 {%0, %1}, [%2];"
                     : "=l"(w[0]), "=l"(w[1])
                     : "r"(base + 8 * at)
                     : "memory");
    }
};

template <> struct mail<false> {
    uint64_t *
        base; /* of either memory; NULL: of a rank other than 0, which the copy does not belong to */

    __device__ __forceinline__ mail<false> of(int rank) const
    {
        return {rank == 0 ? base : NULL};
    }
    __device__ __forceinline__ void send(int at, float x, uint32_t round) const
    {
        if (base)
            asm volatile("st.relaxed.gpu.u64 [%0], %1;" ::"l"(base + at), "l"(word_of(x, round))
                         : "memory");
    }
    __device__ __forceinline__ void look(int at, uint64_t (&w)[2]) const
    {
        asm volatile("ld.relaxed.gpu.v2.u64 {%0, %1}, [%2];"
                     : "=l"(w[0]), "=l"(w[1])
                     : "l"(base + at)
                     : "memory");
    }
};

/* N pairs of words that are `step` words apart, all asked for at once. */
template <int N, bool CLUSTER>
static __device__ __forceinline__ void receive(const mail<CLUSTER> &m, int at, int step,
                                               uint32_t round, float (&x)[2 * N])
{
    uint64_t w[N][2];
    uint32_t late, looks = 0;
    do {
        lose_patience(looks);
        late = 0;
#pragma unroll
        for (int i = 0; i < N; i++)
            m.look(at + i * step, w[i]);
#pragma unroll
        for (int i = 0; i < N; i++)
            late |= missing(w[i][0], round) | missing(w[i][1], round);
    } while (late);
#pragma unroll
    for (int i = 0; i < 2 * N; i++)
        x[i] = number_of(w[i / 2][i % 2]);
}

/* --------------------------------------------------------------------- sums -- */

/* A sum that blocks of threads far from each other add to, in global memory, signed, in units of 2^-24.
 *
 * L2 adds whole numbers, so that the order does not matter and a sum is the same whenever it is made. A part is
 * sent as its difference from what its sender sent before: the sum is that of the latest parts alone, nobody has to
 * clear it, and it is whole when so many parts have come. Parts of 2^18 and more, and those that are not numbers, are
 * bad: the sum is none then. The rounding of a part, 2^-25, is that of a float of 1. */
#define PART_LIMIT 262144.0f
#define PART_UNIT  16777216.0f /* 1 / 2^-24 */
#define PART_COUNT (UINT64_C(1) << 48)
#define PART_BAD   (UINT64_C(1) << 58)
#define PART_HALF  (UINT64_C(1) << 47) /* makes a sum below 0 borrow nothing */

/* sent: of this sender, 0 at first. */
static __device__ __forceinline__ void send_part(uint64_t *sum, float x, int64_t &sent)
{
    const bool good = fabsf(x) < PART_LIMIT;
    const int64_t now = good ? __float2ll_rn(x * PART_UNIT) : 0;
    const uint64_t add = (uint64_t)(now - sent) + PART_COUNT + (good ? 0 : PART_BAD);
    asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(sum), "l"(add) : "memory");
    sent = now;
}

static __device__ __forceinline__ uint32_t parts_of(uint64_t word)
{
    return (uint32_t)((word + PART_HALF) >> 48) & 1023;
}

static __device__ __forceinline__ float sum_in(uint64_t word)
{
    const float sum = __ll2float_rn((int64_t)(word << 16) >> 16) * (1.0f / PART_UNIT);
    return (word + PART_HALF) >> 58 ? NAN : sum;
}

/* Two neighbours, when `parts` have come to each. */
static __device__ __forceinline__ float2 take_sums(const uint64_t *sums, uint32_t parts)
{
    uint64_t w[2];
    uint32_t looks = 0;
    do {
        lose_patience(looks);
        asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                     : "=l"(w[0]), "=l"(w[1])
                     : "l"(sums)
                     : "memory");
    } while (parts_of(w[0]) != parts || parts_of(w[1]) != parts);
    return make_float2(sum_in(w[0]), sum_in(w[1]));
}

/* ------------------------------------------------------------------- copies -- */

/* SIZE bytes, 4, 8 or 16, of global memory to shared memory while the thread works: no register waits for them. The
 * thread that asks is the one that reads them. */
template <int SIZE> static __device__ __forceinline__ void copy_own(void *to, const void *from)
{
    const uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    if (SIZE == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(SIZE)
                     : "memory");
}

/* All that this thread asked for has come. */
static __device__ __forceinline__ void wait_for_copies()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* All blocks of a cluster, or the threads of a block. */
template <bool CLUSTER> static __device__ __forceinline__ void meet()
{
#if __CUDA_ARCH__ >= 900
    if (CLUSTER) {
        asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
        return;
    }
#endif
    __syncthreads();
}

#endif
