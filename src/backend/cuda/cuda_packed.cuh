/* cuda_packed.cuh - packed weights on the device, 32 numbers of a row ("a chunk") at a time to floats.
 *
 * Integers become floats by the bits of 2^23 + q, as conversions run at a half of the rate. Types whose blocks are
 * no multiples of 4 bytes are read in halves of words. Layouts: src/tensor/packed.h. Products of few rows take the
 * integers themselves (cuda_digits.cuh). */
#ifndef MICA_BACKEND_CUDA_PACKED_CUH
#define MICA_BACKEND_CUDA_PACKED_CUH

#include "backend/cuda/cuda_device.cuh"

#include <cuda_fp16.h>

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

/* What a row of GGUF's blocks is multiplied by beside their own scales: 1 unless a DoRA has set it. */
template <int T> static __device__ __forceinline__ float row_scale_of(const source &w, int64_t row)
{
    return kind<T>::is_stream || T == MICA_CUDA_PACKED_S8 || !w.scale
               ? 1.0f
               : ((const float *)w.scale)[row];
}

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
    } else if (k::is_stream) {
        const int64_t g = (row * w.n + 32 * chunk) >> w.shift;
        stream<k::is_stream ? k::bits : 4>(b, scale_at(w.scale, w.scale_type, g),
                                           w.bias ? scale_at(w.bias, w.scale_type, g) : 0.0f, v);
    }
    const float scale = row_scale_of<T>(w, row);
#pragma unroll
    for (int i = 0; i < 32; i++)
        v[i] *= scale;
}

/* ---------------------------------------------------------------- launches -- */

static inline source source_of(const mica_cuda_packed_rows *w)
{
    const int shift = w->group == 128 ? 7 : w->group == 64 ? 6 : 5;
    return {(const uint8_t *)w->data, w->scale, w->bias, w->scale_type, shift, w->n};
}

/* clang-format off */
#define FOR_TYPES(X) \
    X(Q8_0) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) \
    X(IQ4_NL) X(IQ4_XS) X(MXFP4) X(B2) X(B3) X(B4) X(B5) X(B6) X(B8) X(S8)
/* clang-format on */

#endif
