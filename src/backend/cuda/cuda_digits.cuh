/* cuda_digits.cuh - few rows of x times packed weights in whole numbers, a chunk of 32 at a time.
 *
 *     x, 32 numbers ──► X = round(x / s), 24 bits ──► three digits of 8 bits with a sign      once a product
 *     w, 32 numbers ──► 8 words of 4 bytes ──► dp4a with each digit: exact             24 instructions
 *
 *         sum = scale * s * (q . X) + least * s * (sum of X)
 *
 * The arithmetic of src/kernels/packed_digits.c: as exact as f32 sums (s is 2^-23 of the largest of the 32). Why: with
 * floats each weight takes a shift, a mask and a multiply-add, and a Hopper runs integer instructions at half the
 * rate; 4-bit types stood at 57 % of the bandwidth. Here 4 weights take 1 to 2 of them and 3 dp4a, on another pipe.
 *
 * A row of x on the device, n numbers (mica_cuda_digits_size bytes):
 *     [n high digits][n middle][n low] [n / 32 floats s] [n / 16 floats s (sum of X of 16)]
 * For mlx4 the digits of a chunk are those of its even numbers, then of the odd ones, as its bytes have them. */
#ifndef MICA_BACKEND_CUDA_DIGITS_CUH
#define MICA_BACKEND_CUDA_DIGITS_CUH

#include "backend/cuda/cuda_packed.cuh"

/* ------------------------------------------------------------------ x -- */

struct digits {
    uint32_t d[3][8]; /* words 0 to 3: the first 16 numbers, 4 to 7: the others */
    float s[2], sum[2];
};

/* Which 16s of a row a lane takes: a chunk, or the same half of two blocks whose nibbles share bytes. */
template <int T> struct halves_of {
    static constexpr bool shares = T == MICA_CUDA_PACKED_Q4_K || T == MICA_CUDA_PACKED_Q5_K;
    /* Whether the halves have scales of their own. */
    static constexpr bool apart = shares || T == MICA_CUDA_PACKED_Q2_K ||
                                  T == MICA_CUDA_PACKED_Q3_K || T == MICA_CUDA_PACKED_Q6_K;
    static __device__ __forceinline__ int first(int c)
    {
        return shares ? c / 2 * 4 + c % 2 : 2 * c;
    }
    static constexpr int second = shares ? 2 : 1; /* 16s further */
};

template <int T>
static __device__ __forceinline__ void load_digits(const uint8_t *x, int64_t n, int c, digits &out)
{
    const int a = halves_of<T>::first(c), b = a + halves_of<T>::second;
    const float *s = (const float *)(x + 3 * n), *sum = s + n / 32;
#pragma unroll
    for (int p = 0; p < 3; p++) {
        const uint4 u = *(const uint4 *)(x + p * n + 16 * a);
        const uint4 v = *(const uint4 *)(x + p * n + 16 * b);
        out.d[p][0] = u.x, out.d[p][1] = u.y, out.d[p][2] = u.z, out.d[p][3] = u.w;
        out.d[p][4] = v.x, out.d[p][5] = v.y, out.d[p][6] = v.z, out.d[p][7] = v.w;
    }
    out.s[0] = s[a / 2], out.s[1] = s[b / 2];
    out.sum[0] = sum[a], out.sum[1] = sum[b];
}

/* ------------------------------------------------------------------ w -- */

struct integers {
    uint32_t q[8]; /* bytes as digits has them */
    float scale[2], least[2];
};

template <int T> struct signed_of {
    static constexpr bool value = T == MICA_CUDA_PACKED_Q8_0 || T == MICA_CUDA_PACKED_S8 ||
                                  T == MICA_CUDA_PACKED_IQ4_NL || T == MICA_CUDA_PACKED_IQ4_XS ||
                                  T == MICA_CUDA_PACKED_MXFP4;
};

/* Scale i; its type is known to the compiler, because a branch would keep the loads of other rows waiting. */
template <int TYPE> static __device__ __forceinline__ float scale_of(const void *p, int64_t i)
{
    if (TYPE == MICA_CUDA_F32)
        return ((const float *)p)[i];
    const uint16_t half = ((const uint16_t *)p)[i];
    return TYPE == MICA_CUDA_F16 ? __half2float(__ushort_as_half(half))
                                 : __uint_as_float((uint32_t)half << 16);
}

static __device__ __forceinline__ void put(uint32_t (&q)[8], int i, const uint4 &four)
{
    q[i] = four.x, q[i + 1] = four.y, q[i + 2] = four.z, q[i + 3] = four.w;
}

/* Four bits to bit 4 of four bytes. */
static __device__ __forceinline__ uint32_t fifths(uint32_t bits)
{
    return ((bits & 15) * 0x00204081u & 0x01010101u) << 4;
}

/* Words of bytes that have numbers j (low) and j + 16 (high). */
static __device__ __forceinline__ void split(const uint32_t (&words)[4], uint32_t (&q)[8])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        q[i] = words[i] & 0x0f0f0f0fu;
        q[4 + i] = words[i] >> 4 & 0x0f0f0f0fu;
    }
}

/* The same, looked up in a table of 16 bytes. */
static __device__ __forceinline__ void look_up(const uint32_t (&words)[4], const uint32_t (&t)[4],
                                               uint32_t (&q)[8])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t r[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t four = words[i] >> 16 * h & 0xffffu, at = four & 0x7777u;
            const uint32_t upper = __byte_perm(0, 0xffffffffu, (four & 0x8888u) >> 1);
            r[h] = (__byte_perm(t[2], t[3], at) & upper) | (__byte_perm(t[0], t[1], at) & ~upper);
        }
        q[i] = __byte_perm(r[0], r[1], 0x6420);
        q[4 + i] = __byte_perm(r[0], r[1], 0x7531);
    }
}

/* COUNT words from an even address, by whole words: half as many loads as by halves. What is read beside them, at
 * most two bytes on each side, lies in words that they share. */
template <int COUNT>
static __device__ __forceinline__ void words_at(const uint8_t *p, uint32_t (&words)[COUNT])
{
    const int odd = (int)((uintptr_t)p & 2);
    const uint32_t *from = (const uint32_t *)(p - odd);
    uint32_t raw[COUNT + 1];
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        raw[i] = from[i];
    raw[COUNT] = odd ? from[COUNT] : 0;
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        words[i] = __funnelshift_r(raw[i], raw[i + 1], 8 * odd);
}

/* Four numbers of `BITS` bits to four bytes. */
template <int BITS> static __device__ __forceinline__ uint32_t spread(uint32_t bits)
{
    constexpr uint32_t mask = (1u << BITS) - 1;
    return (bits & mask) | (bits << (8 - BITS) & mask << 8) |
           (bits << 2 * (8 - BITS) & mask << 16) | (bits << 3 * (8 - BITS) & mask << 24);
}

template <int BITS>
static __device__ __forceinline__ void take_stream(const uint8_t *b, uint32_t (&q)[8])
{
    if (BITS == 8) {
        put(q, 0, ((const uint4 *)b)[0]);
        put(q, 4, ((const uint4 *)b)[1]);
    } else if (BITS == 4) { /* even numbers, then odd ones: so are the digits */
        const uint4 four = *(const uint4 *)b;
        const uint32_t words[4] = {four.x, four.y, four.z, four.w};
        split(words, q);
    } else {
        uint32_t words[BITS + 1];
        words[BITS] = 0;
        if (BITS % 2 == 0) {
#pragma unroll
            for (int i = 0; i < BITS; i += 2) {
                const uint2 two = *(const uint2 *)(b + 4 * i);
                words[i] = two.x, words[i + 1] = two.y;
            }
        } else {
#pragma unroll
            for (int i = 0; i < BITS; i++)
                words[i] = ((const uint32_t *)b)[i];
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int at = i * 4 * BITS / 32, shift = i * 4 * BITS % 32;
            q[i] = spread<BITS>(__funnelshift_r(words[at], words[at + 1], shift));
        }
    }
}

/* q4_k and q5_k: 16 low nibbles of part 2 j, 16 high ones of part 2 j + 1. */
template <bool FIVE>
static __device__ __forceinline__ void take_q45_k(const uint8_t *b, int c, integers &out)
{
    const int j = c % 8 / 2, half = c % 2, shift = 16 * (j % 2);
    const uint4 head = *(const uint4 *)b;
    const uint4 four = *(const uint4 *)(b + (FIVE ? 48 : 16) + 32 * j + 16 * half);
    const uint32_t words[4] = {four.x, four.y, four.z, four.w};
    const float d = __half2float(__ushort_as_half((unsigned short)head.x));
    const float least = -__half2float(__ushort_as_half((unsigned short)(head.x >> 16)));
    /* 6-bit scales and minima of parts 0-3 in the low bits of two words, of 4-7 spread over three. */
    const uint32_t s =
        j < 2 ? head.y & 0x3f3f3f3fu : (head.w & 0x0f0f0f0fu) | (head.y >> 2 & 0x30303030u);
    const uint32_t m =
        j < 2 ? head.z & 0x3f3f3f3fu : (head.w >> 4 & 0x0f0f0f0fu) | (head.z >> 2 & 0x30303030u);
    split(words, out.q);
    if (FIVE) {
        const uint4 bits = *(const uint4 *)(b + 16 + 16 * half);
        const uint32_t f[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            out.q[i] |= (f[i] >> 2 * j & 0x01010101u) << 4;
            out.q[4 + i] |= (f[i] >> (2 * j + 1) & 0x01010101u) << 4;
        }
    }
#pragma unroll
    for (int k = 0; k < 2; k++) {
        out.scale[k] = d * whole(s >> (shift + 8 * k) & 63);
        out.least[k] = least * whole(m >> (shift + 8 * k) & 63);
    }
}

static __device__ __forceinline__ void take_q6_k(const uint8_t *b, int c, integers &out)
{
    const int plane = c % 4;
    const float d = half_at(b + 208);
    const uint8_t *ql = b + 64 * (c / 4) + 32 * (plane % 2), *qh = b + 128 + 32 * (c / 4);
    const int8_t *s = (const int8_t *)b + 192 + 2 * c;
    uint32_t low[8], high[8];
    words_at(ql, low);
    words_at(qh, high);
#pragma unroll
    for (int i = 0; i < 8; i++)
        out.q[i] = (low[i] >> 4 * (plane / 2) & 0x0f0f0f0fu) | (high[i] >> 2 * plane & 0x03030303u)
                                                                   << 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        out.scale[h] = d * (float)s[h];
        out.least[h] = -32.0f * out.scale[h];
    }
}

static __device__ __forceinline__ void take_q3_k(const uint8_t *b, int c, integers &out)
{
    const float d = half_at(b + 108);
    const uint8_t *qs = b + 32 + 32 * (c / 4), *s = b + 96;
    uint32_t low[8], third[8];
    words_at(qs, low);
    words_at(b, third);
#pragma unroll
    for (int i = 0; i < 8; i++)
        out.q[i] = (low[i] >> 2 * (c % 4) & 0x03030303u) | (third[i] >> c & 0x01010101u) << 2;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int i = 2 * c + h, low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
        out.scale[h] = d * (float)((low | (s[8 + i % 4] >> 2 * (i / 4) & 3) << 4) - 32);
        out.least[h] = -4.0f * out.scale[h];
    }
}

static __device__ __forceinline__ void take_q2_k(const uint8_t *b, int c, integers &out)
{
    const float d = half_at(b + 80), least = half_at(b + 82);
    const uint32_t *qs = (const uint32_t *)(b + 16 + 32 * (c / 4));
#pragma unroll
    for (int i = 0; i < 8; i++)
        out.q[i] = qs[i] >> 2 * (c % 4) & 0x03030303u;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t s = b[2 * c + h];
        out.scale[h] = d * whole(s & 15);
        out.least[h] = -least * whole(s >> 4);
    }
}

/* Blocks of 32 with nibbles at `at`; `fifth`: where the word of fifth bits is, 0: none. */
static __device__ __forceinline__ void take_nibbles(const uint8_t *b, int at, int fifth,
                                                    uint32_t (&q)[8])
{
    uint32_t words[4];
    words_at(b + at, words);
    split(words, q);
    if (fifth) {
        const uint32_t bits = word_at(b + fifth);
#pragma unroll
        for (int i = 0; i < 8; i++)
            q[i] |= fifths(bits >> 4 * i);
    }
}

static __device__ __forceinline__ void take_mxfp4(const uint8_t *b, integers &out)
{
    const uint32_t table[4] = {0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu}; /* E2M1_TWICE */
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        words[i] = (uint32_t)b[4 * i + 1] | (uint32_t)b[4 * i + 2] << 8 |
                   (uint32_t)b[4 * i + 3] << 16 | (uint32_t)b[4 * i + 4] << 24;
    look_up(words, table, out.q);
    out.scale[0] = b[0] < 2 ? __uint_as_float(0x00200000u << b[0])
                            : __uint_as_float((uint32_t)(b[0] - 1) << 23);
}

/* Chunk c of row `row` (of its lanes' halves, see halves_of). SCALE: type of a stream's scales. */
template <int T, int SCALE>
static __device__ __forceinline__ void take(const source &w, int64_t row, int c, integers &out)
{
    using k = kind<T>;
    constexpr uint32_t iq4[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u,
                                 0x71594535u}; /* IQ4_VALUES */
    constexpr int per_block = k::block / 32;
    const uint8_t *b = w.data + (row * (w.n / k::block) + c / per_block) * k::size;
    const int part = c % per_block;
    uint32_t words[4];
    out.least[0] = 0.0f;
    if (T == MICA_CUDA_PACKED_Q8_0) {
        words_at(b + 2, out.q);
        out.scale[0] = half_at(b);
    } else if (T == MICA_CUDA_PACKED_Q4_0 || T == MICA_CUDA_PACKED_Q5_0) {
        constexpr bool five = T == MICA_CUDA_PACKED_Q5_0;
        take_nibbles(b, five ? 6 : 2, five ? 2 : 0, out.q);
        out.scale[0] = half_at(b);
        out.least[0] = (five ? -16.0f : -8.0f) * out.scale[0];
    } else if (T == MICA_CUDA_PACKED_Q4_1 || T == MICA_CUDA_PACKED_Q5_1) {
        constexpr bool five = T == MICA_CUDA_PACKED_Q5_1;
        take_nibbles(b, five ? 8 : 4, five ? 4 : 0, out.q);
        out.scale[0] = half_at(b);
        out.least[0] = half_at(b + 2);
    } else if (T == MICA_CUDA_PACKED_Q2_K) {
        take_q2_k(b, part, out);
    } else if (T == MICA_CUDA_PACKED_Q3_K) {
        take_q3_k(b, part, out);
    } else if (T == MICA_CUDA_PACKED_Q4_K) {
        take_q45_k<false>(b, part, out);
    } else if (T == MICA_CUDA_PACKED_Q5_K) {
        take_q45_k<true>(b, part, out);
    } else if (T == MICA_CUDA_PACKED_Q6_K) {
        take_q6_k(b, part, out);
    } else if (T == MICA_CUDA_PACKED_IQ4_NL) {
        words_at(b + 2, words);
        look_up(words, iq4, out.q);
        out.scale[0] = half_at(b);
    } else if (T == MICA_CUDA_PACKED_IQ4_XS) {
        const int high = b[2] | b[3] << 8;
        const int s = (b[4 + part / 2] >> 4 * (part % 2) & 15) | (high >> 2 * part & 3) << 4;
        words_at(b + 8 + 16 * part, words);
        look_up(words, iq4, out.q);
        out.scale[0] = half_at(b) * (float)(s - 32);
    } else if (T == MICA_CUDA_PACKED_MXFP4) {
        take_mxfp4(b, out);
    } else if (T == MICA_CUDA_PACKED_S8) {
        put(out.q, 0, ((const uint4 *)b)[0]);
        put(out.q, 4, ((const uint4 *)b)[1]);
        out.scale[0] = ((const float *)w.scale)[row];
    } else {
        const int64_t g = row * (w.n >> w.shift) + (c >> (w.shift - 5));
        take_stream<k::is_stream ? k::bits : 4>(b, out.q);
        out.scale[0] = scale_of<SCALE>(w.scale, g);
        out.least[0] = w.bias ? scale_of<SCALE>(w.bias, g) : 0.0f;
    }
}

/* ---------------------------------------------------------------- product -- */

template <bool SIGNED> static __device__ __forceinline__ int dp4a(uint32_t w, uint32_t x, int acc)
{
    int r;
    if (SIGNED)
        asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(w), "r"(x), "r"(acc));
    else
        asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(w), "r"(x), "r"(acc));
    return r;
}

/* q . X of words [from, from + COUNT) as a float. */
template <bool SIGNED, int COUNT>
static __device__ __forceinline__ float dot_words(const uint32_t (&q)[8], const digits &x, int from)
{
    int sum = 0, low = 0;
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        sum = dp4a<SIGNED>(q[from + i], x.d[0][from + i], sum);
    sum *= 256; /* 255 * 127 * 32 * 256 < 2^31 */
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        sum = dp4a<SIGNED>(q[from + i], x.d[1][from + i], sum);
        low = dp4a<SIGNED>(q[from + i], x.d[2][from + i], low);
    }
    return fmaf((float)sum, 256.0f, (float)low);
}

template <int T>
static __device__ __forceinline__ float dot_digits(const integers &w, const digits &x)
{
    constexpr bool is_signed = signed_of<T>::value;
    if (!halves_of<T>::apart) {
        const float sum = dot_words<is_signed, 8>(w.q, x, 0) * (w.scale[0] * x.s[0]);
        return is_signed ? sum : fmaf(w.least[0], x.sum[0] + x.sum[1], sum);
    }
    float sum = 0.0f;
#pragma unroll
    for (int h = 0; h < 2; h++)
        sum = fmaf(dot_words<is_signed, 4>(w.q, x, 4 * h), w.scale[h] * x.s[h],
                   fmaf(w.least[h], x.sum[h], sum));
    return sum;
}

/* ------------------------------------------------------------------ rows -- */

#define MANY 8 /* rows of x at once, at most */

/* How many warps share rows follows from the weight alone, so that a row of x gives the same bits alone and
 * with others. */
static inline bool is_tall_matrix(int64_t rows)
{
    return rows >= 132 * 8 * 4 * 4;
}

/* A block's rows of w, by blockIdx.x, times `count` rows of x in digits, `size` bytes apart: a warp takes R rows, or S
 * warps share them. M: rows of x, or MANY for up to as many. */
template <int T, int SCALE, int R, int S, int M>
static __device__ __forceinline__ void dot_block(const source &w, int64_t rows, const uint8_t *x,
                                                 int64_t size, int count, float *y, int64_t ld)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t first = ((int64_t)blockIdx.x * (BLOCK / 32 / S) + warp / S) * R;
    const int chunks = (int)(w.n / 32);
    float sum[M][R] = {};
    for (int c = warp % S * 32 + lane; c < chunks; c += 32 * S) {
        integers q[R];
#pragma unroll
        for (int r = 0; r < R; r++) /* no branch: the loads of all rows go out together */
            take<T, SCALE>(w, first + r < rows ? first + r : rows - 1, c, q[r]);
#pragma unroll
        for (int m = 0; m < M; m++) {
            if (M > 1 && m >= count)
                break;
            digits d;
            load_digits<T>(x + m * size, w.n, c, d);
#pragma unroll
            for (int r = 0; r < R; r++)
                sum[m][r] += dot_digits<T>(q[r], d);
        }
    }
    __shared__ float part[S > 1 ? BLOCK / 32 : 1][M][R];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < R; r++) {
            sum[m][r] = warp_sum(sum[m][r]);
            if (S > 1 && lane == 0)
                part[warp][m][r] = sum[m][r];
        }
    if (S > 1)
        __syncthreads();
    if (lane > 0 || warp % S > 0)
        return;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < R; r++) {
            for (int k = 1; k < S; k++)
                sum[m][r] += part[S > 1 ? warp + k : 0][m][r];
            if (m < count && first + r < rows)
                y[m * ld + first + r] = sum[m][r] * row_scale_of<T>(w, first + r);
        }
}

#endif
