/* cuda_packed.cu - packed weights on the device: products with few rows of x, and expansion.
 *
 *     chunk = 32 numbers of a row                        one lane decodes one chunk at a time
 *
 *     dot      a warp takes ROWS rows of w; its lanes take chunks 0..31, 32..63, ... of all of them with the same
 *              numbers of x, then the warp adds up
 *     expand   a thread per chunk
 *
 * Napkin, dot at 4 bits: 16 bytes of w a chunk and 64 of x in bf16, which four rows share from registers. About 3
 * instructions a number (shift, mask, multiply-add; lifted below): 9 T numbers a second on an H100, 5 TB/s,
 * above the 3 that its memory has. Elsewhere integers become floats by the bits of 2^23 + q, as conversions
 * run at a quarter of the rate.
 *
 * Types whose blocks are no multiples of 4 bytes are read in halves of words. Layouts: src/tensor/packed.h. */
#include "backend/cuda/cuda_device.cuh"

#include <cuda_fp16.h>

#define ROWS 4 /* of w a warp, for one row of x */

/* ---------------------------------------------------------------- decoding -- */

struct source {
    const uint8_t *data;
    const void *scale, *bias;
    mica_cuda_type scale_type;
    int shift; /* log2 of the group */
    int64_t n; /* numbers of a row */
};

static __device__ __forceinline__ float whole(uint32_t q) /* q < 2^23 */
{
    return __uint_as_float(q | 0x4b000000u) - 8388608.0f;
}

static __device__ __forceinline__ float half_at(const uint8_t *p) /* even addresses */
{
    return __half2float(__ushort_as_half(*(const uint16_t *)p));
}

static __device__ __forceinline__ uint32_t word_at(const uint8_t *p) /* even addresses */
{
    const uint16_t *h = (const uint16_t *)p;
    return (uint32_t)h[0] | (uint32_t)h[1] << 16;
}

static __device__ __forceinline__ float scale_at(const void *p, mica_cuda_type type, int64_t i)
{
    if (type == MICA_CUDA_F16)
        return __half2float(((const __half *)p)[i]);
    return load1(p, type, i);
}

__device__ const float IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113};
__device__ const float E2M1_TWICE[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* Nibbles of 16 bytes: byte j has numbers j and j + 16; fifth bits from a word. */
static __device__ __forceinline__ void nibbles(const uint8_t *qs, uint32_t fifth, float scale,
                                               float bias, float (&v)[32])
{
#pragma unroll
    for (int w = 0; w < 4; w++) {
        const uint32_t word = word_at(qs + 4 * w);
#pragma unroll
        for (int b = 0; b < 4; b++) {
            const int j = 4 * w + b;
            const uint32_t low = (word >> 8 * b & 15) | (fifth >> j & 1) << 4;
            const uint32_t high = (word >> (8 * b + 4) & 15) | (fifth >> (j + 16) & 1) << 4;
            v[j] = fmaf(whole(low), scale, bias);
            v[j + 16] = fmaf(whole(high), scale, bias);
        }
    }
}

static __device__ __forceinline__ void table(const uint8_t *qs, const float *t, float scale,
                                             float (&v)[32])
{
#pragma unroll
    for (int j = 0; j < 16; j++) {
        v[j] = t[qs[j] & 15] * scale;
        v[j + 16] = t[qs[j] >> 4] * scale;
    }
}

static __device__ __forceinline__ void q8_0(const uint8_t *b, float (&v)[32])
{
    const float d = half_at(b);
#pragma unroll
    for (int w = 0; w < 8; w++) {
        const uint32_t word = word_at(b + 2 + 4 * w) ^ 0x80808080u; /* q + 128 */
#pragma unroll
        for (int k = 0; k < 4; k++)
            v[4 * w + k] = (whole(word >> 8 * k & 255) - 128.0f) * d;
    }
}

static __device__ __forceinline__ void q2_k(const uint8_t *b, int c, float (&v)[32])
{
    const float d = half_at(b + 80), least = half_at(b + 82);
    const uint8_t *qs = b + 16 + 32 * (c / 4);
#pragma unroll
    for (int i = 0; i < 32; i++) {
        const uint32_t s = b[2 * c + i / 16];
        v[i] = fmaf(whole(qs[i] >> 2 * (c % 4) & 3), d * whole(s & 15), -least * whole(s >> 4));
    }
}

static __device__ __forceinline__ void q3_k(const uint8_t *b, int c, float (&v)[32])
{
    const float d = half_at(b + 108);
    const uint8_t *qs = b + 32 + 32 * (c / 4), *s = b + 96;
    float scale[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int i = 2 * c + h;
        const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
        scale[h] = d * (float)((low | (s[8 + i % 4] >> 2 * (i / 4) & 3) << 4) - 32);
    }
#pragma unroll
    for (int i = 0; i < 32; i++)
        v[i] = scale[i / 16] *
               (whole((uint32_t)((qs[i] >> 2 * (c % 4) & 3) | (b[i] >> c & 1) << 2)) - 4.0f);
}

/* q4_k and q5_k; c: one of 8 parts of a block. */
static __device__ __forceinline__ void q45_k(const uint8_t *b, int c, bool five, float (&v)[32])
{
    const uint8_t *s = b + 4;
    const int low = c < 4 ? s[c] & 63 : (s[c + 4] & 15) | s[c - 4] >> 6 << 4;
    const int least = c < 4 ? s[c + 4] & 63 : s[c + 4] >> 4 | s[c] >> 6 << 4;
    const float scale = half_at(b) * (float)low, bias = -half_at(b + 2) * (float)least;
    const uint4 *qs = (const uint4 *)(b + (five ? 48 : 16) + 32 * (c / 2));
    const uint4 *fifth = (const uint4 *)(b + 16);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint4 q = qs[h], f = five ? fifth[h] : make_uint4(0, 0, 0, 0);
        const uint32_t words[4] = {q.x, q.y, q.z, q.w}, bits[4] = {f.x, f.y, f.z, f.w};
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const uint32_t four = words[w] >> 4 * (c % 2) & 0x0f0f0f0fu;
            const uint32_t all = four | (bits[w] >> c & 0x01010101u) << 4;
#pragma unroll
            for (int k = 0; k < 4; k++)
                v[16 * h + 4 * w + k] = fmaf(whole(all >> 8 * k & 31), scale, bias);
        }
    }
}

static __device__ __forceinline__ void q6_k(const uint8_t *b, int c, float (&v)[32])
{
    const int plane = c % 4;
    const float d = half_at(b + 208);
    const uint8_t *ql = b + 64 * (c / 4) + 32 * (plane % 2), *qh = b + 128 + 32 * (c / 4);
    const int8_t *s = (const int8_t *)b + 192 + 2 * c;
    const float scale[2] = {d * (float)s[0], d * (float)s[1]};
#pragma unroll
    for (int w = 0; w < 8; w++) {
        const uint32_t low = word_at(ql + 4 * w) >> 4 * (plane / 2) & 0x0f0f0f0fu;
        const uint32_t all = low | (word_at(qh + 4 * w) >> 2 * plane & 0x03030303u) << 4;
#pragma unroll
        for (int k = 0; k < 4; k++)
            v[4 * w + k] = scale[w / 4] * (whole(all >> 8 * k & 63) - 32.0f);
    }
}

static __device__ __forceinline__ void iq4_xs(const uint8_t *b, int c, float (&v)[32])
{
    const int high = b[2] | b[3] << 8;
    const int s = (b[4 + c / 2] >> 4 * (c % 2) & 15) | (high >> 2 * c & 3) << 4;
    table(b + 8 + 16 * c, IQ4_VALUES, half_at(b) * (float)(s - 32), v);
}

/* A stream of bits in aligned words, times the group's scale plus its bias. */
template <int BITS>
static __device__ __forceinline__ void stream(const uint8_t *b, float scale, float bias,
                                              float (&v)[32])
{
    uint32_t words[BITS + 1];
    words[BITS] = 0;
    if (BITS % 4 == 0) {
#pragma unroll
        for (int w = 0; w < BITS / 4; w++) {
            const uint4 four = ((const uint4 *)b)[w];
            words[4 * w] = four.x, words[4 * w + 1] = four.y;
            words[4 * w + 2] = four.z, words[4 * w + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int w = 0; w < BITS; w++)
            words[w] = ((const uint32_t *)b)[w];
    }
#pragma unroll
    for (int i = 0; i < 32; i++) {
        const int at = i * BITS / 32, shift = i * BITS % 32;
        const uint32_t q = shift + BITS > 32 ? __funnelshift_r(words[at], words[at + 1], shift)
                                             : words[at] >> shift;
        v[i] = fmaf(whole(q & ((1u << BITS) - 1)), scale, bias);
    }
}

template <int T> struct kind {
    static constexpr bool is_stream = T >= MICA_CUDA_PACKED_B2 && T <= MICA_CUDA_PACKED_B8;
    static constexpr int bits = T == MICA_CUDA_PACKED_B8 ? 8 : T - MICA_CUDA_PACKED_B2 + 2;
    static constexpr int block =
        (T >= MICA_CUDA_PACKED_Q2_K && T <= MICA_CUDA_PACKED_Q6_K) || T == MICA_CUDA_PACKED_IQ4_XS
            ? 256
            : 32;
    static constexpr int size = T == MICA_CUDA_PACKED_Q8_0     ? 34
                                : T == MICA_CUDA_PACKED_Q4_0   ? 18
                                : T == MICA_CUDA_PACKED_Q4_1   ? 20
                                : T == MICA_CUDA_PACKED_Q5_0   ? 22
                                : T == MICA_CUDA_PACKED_Q5_1   ? 24
                                : T == MICA_CUDA_PACKED_Q2_K   ? 84
                                : T == MICA_CUDA_PACKED_Q3_K   ? 110
                                : T == MICA_CUDA_PACKED_Q4_K   ? 144
                                : T == MICA_CUDA_PACKED_Q5_K   ? 176
                                : T == MICA_CUDA_PACKED_Q6_K   ? 210
                                : T == MICA_CUDA_PACKED_IQ4_NL ? 18
                                : T == MICA_CUDA_PACKED_IQ4_XS ? 136
                                : T == MICA_CUDA_PACKED_MXFP4  ? 17
                                : T == MICA_CUDA_PACKED_S8     ? 32
                                                               : 4 * bits;
};

/* Numbers 32 chunk ... of row `row`. */
template <int T>
static __device__ __forceinline__ void decode(const source &w, int64_t row, int64_t chunk,
                                              float (&v)[32])
{
    using k = kind<T>;
    const int64_t per_row = w.n / k::block, per_block = k::block / 32;
    const int c = (int)(chunk % per_block);
    const uint8_t *b = w.data + (row * per_row + chunk / per_block) * k::size;
    if (T == MICA_CUDA_PACKED_Q8_0)
        q8_0(b, v);
    else if (T == MICA_CUDA_PACKED_Q4_0)
        nibbles(b + 2, 0, half_at(b), -8.0f * half_at(b), v);
    else if (T == MICA_CUDA_PACKED_Q4_1)
        nibbles(b + 4, 0, half_at(b), half_at(b + 2), v);
    else if (T == MICA_CUDA_PACKED_Q5_0)
        nibbles(b + 6, word_at(b + 2), half_at(b), -16.0f * half_at(b), v);
    else if (T == MICA_CUDA_PACKED_Q5_1)
        nibbles(b + 8, word_at(b + 4), half_at(b), half_at(b + 2), v);
    else if (T == MICA_CUDA_PACKED_Q2_K)
        q2_k(b, c, v);
    else if (T == MICA_CUDA_PACKED_Q3_K)
        q3_k(b, c, v);
    else if (T == MICA_CUDA_PACKED_Q4_K)
        q45_k(b, c, false, v);
    else if (T == MICA_CUDA_PACKED_Q5_K)
        q45_k(b, c, true, v);
    else if (T == MICA_CUDA_PACKED_Q6_K)
        q6_k(b, c, v);
    else if (T == MICA_CUDA_PACKED_IQ4_NL)
        table(b + 2, IQ4_VALUES, half_at(b), v);
    else if (T == MICA_CUDA_PACKED_IQ4_XS)
        iq4_xs(b, c, v);
    else if (T == MICA_CUDA_PACKED_MXFP4)
        table(b + 1, E2M1_TWICE,
              b[0] < 2 ? __uint_as_float(0x00200000u << b[0])
                       : __uint_as_float((uint32_t)(b[0] - 1) << 23),
              v);
    else if (T == MICA_CUDA_PACKED_S8) {
        const float scale = ((const float *)w.scale)[row];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t word = ((const uint32_t *)b)[i] ^ 0x80808080u;
#pragma unroll
            for (int j = 0; j < 4; j++)
                v[4 * i + j] = (whole(word >> 8 * j & 255) - 128.0f) * scale;
        }
    } else {
        const int64_t g = (row * w.n + 32 * chunk) >> w.shift;
        stream<k::is_stream ? k::bits : 4>(b, scale_at(w.scale, w.scale_type, g),
                                           w.bias ? scale_at(w.bias, w.scale_type, g) : 0.0f, v);
    }
}

/* --------------------------------------------------------------------- dot -- */

/* Integer `at` of the words as a float plus 2^BITS, by its bits alone: q becomes the top of the mantissa of
 * 2^BITS. A shift and a mask; what is added comes off with the sum of x. */
template <int BITS> static __device__ __forceinline__ float lifted(uint32_t word, int at)
{
    const int to = 23 - BITS; /* bit of the mantissa where q begins */
    const uint32_t q = at >= to ? word >> (at - to) : word << (to - at);
    return __uint_as_float((q & (((1u << BITS) - 1) << to)) | (uint32_t)(127 + BITS) << 23);
}

/* Numbers that lane `c` of a row's lanes takes: 32 from here, or two runs of 16 that are 32 apart. */
template <int T> static __device__ __forceinline__ int64_t first_number(int64_t c)
{
    if (T == MICA_CUDA_PACKED_Q4_K) /* 16 bytes: 16 low nibbles and 16 high ones */
        return c / 2 * 64 + c % 2 * 16;
    return 32 * c;
}

template <int T>
static __device__ __forceinline__ float dot_decoded(const source &w, int64_t row, int64_t c,
                                                    const float (&x)[32])
{
    float v[32], sum = 0.0f;
    decode<T>(w, row, c, v);
#pragma unroll
    for (int i = 0; i < 32; i++)
        sum = fmaf(v[i], x[i], sum);
    return sum;
}

/* 4 and 8 bits in groups: scale * (sum (q + 2^b) x - 2^b sum x) + bias sum x. */
template <int BITS>
static __device__ __forceinline__ float dot_stream(const source &w, int64_t row, int64_t c,
                                                   const float (&x)[32], float sum_x)
{
    const int64_t first = row * w.n + 32 * c, g = first >> w.shift;
    const uint4 *p = (const uint4 *)(w.data + first * BITS / 8);
    const float scale = scale_at(w.scale, w.scale_type, g);
    const float bias = w.bias ? scale_at(w.bias, w.scale_type, g) : 0.0f;
    float sum = 0.0f;
#pragma unroll
    for (int h = 0; h < BITS / 4; h++) {
        const uint4 four = p[h];
        const uint32_t words[4] = {four.x, four.y, four.z, four.w};
        const int per_word = 32 / BITS;
#pragma unroll
        for (int i = 0; i < 4 * per_word; i++)
            sum = fmaf(lifted<BITS>(words[i / per_word], i % per_word * BITS),
                       x[4 * per_word * h + i], sum);
    }
    return fmaf(scale, sum, (bias - scale * (float)(1 << BITS)) * sum_x);
}

/* x: 16 numbers of part 2 j, then 16 of part 2 j + 1. */
static __device__ __forceinline__ float dot_q4_k(const source &w, int64_t row, int64_t c,
                                                 const float (&x)[32])
{
    const uint8_t *b = w.data + (row * (w.n / 256) + c / 8) * 144;
    const int j = (int)(c % 8) / 2, half = (int)(c % 2);
    const uint4 head = *(const uint4 *)b, q = *(const uint4 *)(b + 16 + 32 * j + 16 * half);
    const uint32_t words[4] = {q.x, q.y, q.z, q.w};
    const float d = __half2float(__ushort_as_half((unsigned short)head.x));
    const float least = -__half2float(__ushort_as_half((unsigned short)(head.x >> 16)));
    /* 6-bit scales and minima of parts 0-3 in the low bits of two words, of 4-7 spread over three. */
    const int shift = 8 * (2 * j % 4);
    const uint32_t s =
        j < 2 ? head.y & 0x3f3f3f3fu : (head.w & 0x0f0f0f0fu) | (head.y >> 2 & 0x30303030u);
    const uint32_t m =
        j < 2 ? head.z & 0x3f3f3f3fu : (head.w >> 4 & 0x0f0f0f0fu) | (head.z >> 2 & 0x30303030u);
    float sum[2] = {0.0f, 0.0f}, sum_x[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 16; i++) {
        sum[0] = fmaf(lifted<4>(words[i / 4], i % 4 * 8), x[i], sum[0]);
        sum[1] = fmaf(lifted<4>(words[i / 4], i % 4 * 8 + 4), x[16 + i], sum[1]);
        sum_x[0] += x[i]; /* the same for every row: the compiler keeps one */
        sum_x[1] += x[16 + i];
    }
    float result = 0.0f;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const float scale = d * whole(s >> (shift + 8 * k) & 63);
        const float bias = least * whole(m >> (shift + 8 * k) & 63);
        result += fmaf(scale, sum[k], (bias - 16.0f * scale) * sum_x[k]);
    }
    return result;
}

template <int T>
static __device__ __forceinline__ float dot_chunk(const source &w, int64_t row, int64_t c,
                                                  const float (&x)[32], float sum_x)
{
    if (T == MICA_CUDA_PACKED_Q4_K)
        return dot_q4_k(w, row, c, x);
    if (T == MICA_CUDA_PACKED_B4)
        return dot_stream<4>(w, row, c, x, sum_x);
    if (T == MICA_CUDA_PACKED_B8)
        return dot_stream<8>(w, row, c, x, sum_x);
    return dot_decoded<T>(w, row, c, x);
}

template <int T>
static __device__ __forceinline__ void load_x(const mica_cuda_view &x, int64_t row, int64_t c,
                                              float (&v)[32])
{
    const int64_t first = row * x.stride[0] + first_number<T>(c);
#pragma unroll
    for (int i = 0; i < 32; i += 8) {
        float part[8];
        const int64_t at = first + i + (T == MICA_CUDA_PACKED_Q4_K && i >= 16 ? 16 : 0);
        if (x.wide)
            load<8>(x.data, x.type, at, part);
        else
            for (int j = 0; j < 8; j++)
                part[j] = load1(x.data, x.type, at + j);
#pragma unroll
        for (int j = 0; j < 8; j++)
            v[i + j] = part[j];
    }
}

/* One row of x, R rows of w a warp. */
template <int T, int R>
static __global__ void dot_one(source w, int64_t rows, mica_cuda_view x, float *y)
{
    const int64_t first = ((int64_t)blockIdx.x * (BLOCK / 32) + threadIdx.x / 32) * R;
    const int lane = threadIdx.x % 32;
    float sum[R] = {0};
    if (first >= rows)
        return;
    for (int64_t c = lane; c < w.n / 32; c += 32) {
        float xv[32], sum_x = 0.0f;
        load_x<T>(x, 0, c, xv);
#pragma unroll
        for (int i = 0; i < 32; i++)
            sum_x += xv[i];
#pragma unroll
        for (int r = 0; r < R; r++) { /* no branch: the loads of all rows go out together */
            const int64_t row = first + r < rows ? first + r : rows - 1;
            sum[r] += dot_chunk<T>(w, row, c, xv, sum_x);
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        const float s = warp_sum(sum[r]);
        if (lane == 0 && first + r < rows)
            y[first + r] = s;
    }
}

/* Up to 8 rows of x, one row of w a warp. */
template <int T>
static __global__ void dot_some(source w, int64_t rows, mica_cuda_view x, float *y, int64_t ld)
{
    const int64_t row = (int64_t)blockIdx.x * (BLOCK / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    float sum[8] = {0};
    if (row >= rows)
        return;
    for (int64_t c = lane; c < w.n / 32; c += 32) {
#pragma unroll
        for (int m = 0; m < 8; m++) { /* a second look at w comes from L1 */
            if (m >= x.rows)
                break;
            float xv[32], sum_x = 0.0f;
            load_x<T>(x, m, c, xv);
#pragma unroll
            for (int i = 0; i < 32; i++)
                sum_x += xv[i];
            sum[m] += dot_chunk<T>(w, row, c, xv, sum_x);
        }
    }
#pragma unroll
    for (int m = 0; m < 8; m++) {
        const float s = warp_sum(sum[m]);
        if (lane == 0 && m < x.rows)
            y[m * ld + row] = s;
    }
}

/* ------------------------------------------------------------------ expand -- */

template <int T>
static __global__ void expand(source w, int64_t rows, void *dst, mica_cuda_type type, int64_t ld)
{
    const int64_t chunks = w.n / 32, all = rows * chunks;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < all;
         i += (int64_t)gridDim.x * BLOCK) {
        const parts at = divide(i, chunks);
        float v[32];
        decode<T>(w, at.quotient, at.rest, v);
#pragma unroll
        for (int k = 0; k < 32; k += 8) {
            const float part[8] = {v[k],     v[k + 1], v[k + 2], v[k + 3],
                                   v[k + 4], v[k + 5], v[k + 6], v[k + 7]};
            store<8>(dst, type, at.quotient * ld + 32 * at.rest + k, part);
        }
    }
}

/* ---------------------------------------------------------------- launches -- */

static source source_of(const mica_cuda_packed_rows *w)
{
    const int shift = w->group == 128 ? 7 : w->group == 64 ? 6 : 5;
    return {(const uint8_t *)w->data, w->scale, w->bias, w->scale_type, shift, w->n};
}

template <int T>
static cudaError_t run_dot(const mica_cuda_packed_rows *w, const mica_cuda_view *x, float *y,
                           int64_t ld, cudaStream_t stream)
{
    const int warps = BLOCK / 32;
    if (x->rows > 1)
        dot_some<T><<<(unsigned)((w->rows + warps - 1) / warps), BLOCK, 0, stream>>>(
            source_of(w), w->rows, *x, y, ld);
    else if (w->rows >= 132 * warps * ROWS) /* else fewer rows a warp, more warps */
        dot_one<T, ROWS>
            <<<(unsigned)((w->rows + warps * ROWS - 1) / (warps * ROWS)), BLOCK, 0, stream>>>(
                source_of(w), w->rows, *x, y);
    else
        dot_one<T, 1><<<(unsigned)((w->rows + warps - 1) / warps), BLOCK, 0, stream>>>(
            source_of(w), w->rows, *x, y);
    return cudaGetLastError();
}

template <int T>
static cudaError_t run_expand(const mica_cuda_packed_rows *w, void *dst, mica_cuda_type type,
                              int64_t ld, cudaStream_t stream)
{
    expand<T><<<grid_for(w->rows * (w->n / 32)), BLOCK, 0, stream>>>(source_of(w), w->rows, dst,
                                                                     type, ld);
    return cudaGetLastError();
}

/* clang-format off */
#define FOR_TYPES(X) \
    X(Q8_0) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) \
    X(IQ4_NL) X(IQ4_XS) X(MXFP4) X(B2) X(B3) X(B4) X(B5) X(B6) X(B8) X(S8)
/* clang-format on */

cudaError_t mica_cuda_packed_dot(const mica_cuda_packed_rows *w, const mica_cuda_view *x, float *y,
                                 int64_t ld, cudaStream_t stream)
{
    switch (w->type) {
#define CASE(T)                                                                                    \
    case MICA_CUDA_PACKED_##T:                                                                     \
        return run_dot<MICA_CUDA_PACKED_##T>(w, x, y, ld, stream);
        FOR_TYPES(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}

cudaError_t mica_cuda_packed_expand(const mica_cuda_packed_rows *w, void *dst, mica_cuda_type type,
                                    int64_t ld, cudaStream_t stream)
{
    switch (w->type) {
#define CASE(T)                                                                                    \
    case MICA_CUDA_PACKED_##T:                                                                     \
        return run_expand<MICA_CUDA_PACKED_##T>(w, dst, type, ld, stream);
        FOR_TYPES(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}
