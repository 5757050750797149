/* packed_blocks.h - packed blocks to vectors, 32 numbers ("a chunk") at a time.
 *
 *     open_<type>(block, &s)        what all chunks of a block share: scales and minima as floats
 *     read_<type>(block, &s, c, v)  numbers 32 c ... of the block in MICA_W-wide vectors v[0 .. CHUNK)
 *
 * src/tensor/packed.h has the layouts; this says how they become lanes:
 *   - bytes are widened to lanes (one instruction from memory), shifted and masked;
 *   - 16 evenly spaced or tabled numbers are looked up where there is a permutation for it, which takes
 *     mask, conversion and multiply-add together;
 *   - scales of 4 and 6 bits are taken apart for a whole block in a few word operations. */
#ifndef MICA_KERNELS_PACKED_BLOCKS_H
#define MICA_KERNELS_PACKED_BLOCKS_H

#include "kernels/vec.h"

#define CHUNK (32 / MICA_W) /* vectors of a chunk */
#define HALF  (16 / MICA_W) /* of half a chunk: 16 bytes or numbers */

typedef struct packed_state {
    float scale[16], least[16];
} packed_state;

static const float IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
static const float E2M1_TWICE[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

MICA_VEC void open_none(const uint8_t *b, packed_state *s)
{
    (void)b;
    (void)s;
}

/* ---------------------------------------------------------- plain numbers -- */

#define READ_PLAIN(name, type, load)                                                               \
    MICA_VEC void read_##name(const uint8_t *b, const packed_state *s, int c, vf *v)               \
    {                                                                                              \
        (void)s;                                                                                   \
        MICA_UNROLL(8)                                                                             \
        for (int i = 0; i < CHUNK; i++)                                                            \
            v[i] = load((const type *)(const void *)b + 32 * c + i * MICA_W);                      \
    }
MICA_VEC vf vf_from_s8(const int8_t *p)
{
    return vf_from_vi(vi_from_s8(p));
}
READ_PLAIN(f32, float, vf_load)
READ_PLAIN(bf16, uint16_t, vf_from_bf16)
READ_PLAIN(f16, uint16_t, vf_from_f16)
READ_PLAIN(f8_e4m3, uint8_t, vf_from_f8_e4m3)
READ_PLAIN(f8_e5m2, uint8_t, vf_from_f8_e5m2)
READ_PLAIN(s8, int8_t, vf_from_s8)

/* ----------------------------------------------------------- blocks of 32 -- */

MICA_VEC void read_q8_0(const uint8_t *b, const packed_state *s, int c, vf *v)
{
    const vf d = vf_set1(vec_f16(b));
    (void)s;
    (void)c;
    MICA_UNROLL(8)
    for (int i = 0; i < CHUNK; i++)
        v[i] = vf_mul(d, vf_from_s8((const int8_t *)b + 2 + i * MICA_W));
}

/* Byte j has numbers j and j + 16. */
MICA_VEC void read_even(const uint8_t *qs, vec_even e, vf *v)
{
    MICA_UNROLL(4)
    for (int i = 0; i < HALF; i++) {
        const vi two = vi_from_u8(qs + i * MICA_W);
        v[i] = vf_even(e, two);
        v[HALF + i] = vf_even(e, vi_shr(two, 4));
    }
}
MICA_VEC void read_table(const uint8_t *qs, vec_table t, vf *v)
{
    MICA_UNROLL(4)
    for (int i = 0; i < HALF; i++) {
        const vi two = vi_from_u8(qs + i * MICA_W);
        v[i] = vf_table(t, two);
        v[HALF + i] = vf_table(t, vi_shr(two, 4));
    }
}
/* Nibbles with fifth bits from a word: scale * q + bias. */
MICA_VEC void read_fifth(const uint8_t *qs, const uint8_t *fifth, float scale, float bias, vf *v)
{
    const vf s = vf_set1(scale), o = vf_set1(bias);
    const vi low = vi_set1(15);
    uint32_t word;
    memcpy(&word, fifth, 4);
    MICA_UNROLL(4)
    for (int i = 0; i < HALF; i++) {
        const vi two = vi_from_u8(qs + i * MICA_W);
        const vi a = vi_or(vi_and(two, low), vi_shl(vi_bit(word, i), 4));
        const vi b = vi_or(vi_shr(two, 4), vi_shl(vi_bit(word, HALF + i), 4));
        v[i] = vf_fma(vf_from_vi(a), s, o);
        v[HALF + i] = vf_fma(vf_from_vi(b), s, o);
    }
}

#define READ_BLOCK(name, what)                                                                     \
    MICA_VEC void read_##name(const uint8_t *b, const packed_state *s, int c, vf *v)               \
    {                                                                                              \
        (void)s;                                                                                   \
        (void)c;                                                                                   \
        what;                                                                                      \
    }
READ_BLOCK(q4_0, read_even(b + 2, vec_even_make(vec_f16(b), -8.0f * vec_f16(b)), v))
READ_BLOCK(q4_1, read_even(b + 4, vec_even_make(vec_f16(b), vec_f16(b + 2)), v))
READ_BLOCK(q5_0, read_fifth(b + 6, b + 2, vec_f16(b), -16.0f * vec_f16(b), v))
READ_BLOCK(q5_1, read_fifth(b + 8, b + 4, vec_f16(b), vec_f16(b + 2), v))
READ_BLOCK(iq4_nl, read_table(b + 2, vec_table_make(IQ4_VALUES, vec_f16(b)), v))

/* 2^(e - 128): the table holds twice the numbers. */
MICA_VEC float half_of_e8m0(uint8_t e)
{
    const uint32_t bits = e < 2 ? UINT32_C(0x00200000) << e : (uint32_t)(e - 1) << 23;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
READ_BLOCK(mxfp4, read_table(b + 1, vec_table_make(E2M1_TWICE, half_of_e8m0(b[0])), v))

/* ---------------------------------------------------------- blocks of 256 -- */

/* 16 bytes, less `zero`, times a factor. */
MICA_VEC void scale_bytes(const uint32_t *words, int zero, float factor, float *out)
{
    const vf f = vf_set1(factor);
    const vi z = vi_set1(zero);
    MICA_UNROLL(4)
    for (int i = 0; i < HALF; i++)
        vf_store(out + i * MICA_W, vf_mul(f, vf_from_vi(vi_sub(vi_from_words(words, i), z))));
}
MICA_VEC void scale_signed(const int8_t *bytes, float factor, float *out)
{
    const vf f = vf_set1(factor);
    MICA_UNROLL(4)
    for (int i = 0; i < HALF; i++)
        vf_store(out + i * MICA_W, vf_mul(f, vf_from_s8(bytes + i * MICA_W)));
}

MICA_VEC void open_q2_k(const uint8_t *b, packed_state *s)
{
    const vf d = vf_set1(vec_f16(b + 80)), least = vf_set1(vec_f16(b + 82));
    MICA_UNROLL(4)
    for (int i = 0; i < HALF; i++) {
        const vi two = vi_from_u8(b + i * MICA_W);
        vf_store(s->scale + i * MICA_W, vf_mul(d, vf_from_vi(vi_and(two, vi_set1(15)))));
        vf_store(s->least + i * MICA_W, vf_mul(least, vf_from_vi(vi_shr(two, 4))));
    }
}
/* Bits 2 * (c % 4) of 32 bytes for each half of the block; scales are of 16 numbers. */
MICA_VEC void read_q2_k(const uint8_t *b, const packed_state *s, int c, vf *v)
{
    const uint8_t *qs = b + 16 + 32 * (c / 4);
    MICA_UNROLL(8)
    for (int i = 0; i < CHUNK; i++) {
        const vi q = vi_and(vi_shr(vi_from_u8(qs + i * MICA_W), 2 * (c % 4)), vi_set1(3));
        const int part = 2 * c + i / HALF;
        v[i] = vf_sub(vf_mul(vf_from_vi(q), vf_set1(s->scale[part])), vf_set1(s->least[part]));
    }
}

/* 16 scales of 6 bits from 12 bytes, less 32. */
MICA_VEC void open_q3_k(const uint8_t *b, packed_state *s)
{
    uint32_t in[3], out[4];
    memcpy(in, b + 96, 12);
    MICA_UNROLL(4)
    for (int i = 0; i < 4; i++) {
        const uint32_t low = in[i % 2] >> (i < 2 ? 0 : 4) & UINT32_C(0x0f0f0f0f);
        const uint32_t high = in[2] >> 2 * i & UINT32_C(0x03030303);
        out[i] = low | high << 4;
    }
    scale_bytes(out, 32, vec_f16(b + 108), s->scale);
}
MICA_VEC void read_q3_k(const uint8_t *b, const packed_state *s, int c, vf *v)
{
    const uint8_t *qs = b + 32 + 32 * (c / 4);
    MICA_UNROLL(8)
    for (int i = 0; i < CHUNK; i++) {
        const vi low = vi_and(vi_shr(vi_from_u8(qs + i * MICA_W), 2 * (c % 4)), vi_set1(3));
        const vi third = vi_and(vi_shr(vi_from_u8(b + i * MICA_W), c), vi_set1(1));
        const vi q = vi_sub(vi_or(low, vi_shl(third, 2)), vi_set1(4));
        v[i] = vf_mul(vf_from_vi(q), vf_set1(s->scale[2 * c + i / HALF]));
    }
}

/* 8 scales and 8 minima of 6 bits from 12 bytes. */
MICA_VEC void open_q4_k(const uint8_t *b, packed_state *s)
{
    uint32_t in[3], out[4];
    memcpy(in, b + 4, 12);
    out[0] = in[0] & UINT32_C(0x3f3f3f3f);
    out[2] = in[1] & UINT32_C(0x3f3f3f3f);
    out[1] = (in[2] & UINT32_C(0x0f0f0f0f)) | (in[0] >> 6 & UINT32_C(0x03030303)) << 4;
    out[3] = (in[2] >> 4 & UINT32_C(0x0f0f0f0f)) | (in[1] >> 6 & UINT32_C(0x03030303)) << 4;
    scale_bytes(out, 0, 1.0f, s->scale); /* minima behind the scales; factors apart */
    s->least[0] = vec_f16(b);
    s->least[1] = -vec_f16(b + 2);
}
MICA_VEC void read_q4_k(const uint8_t *b, const packed_state *s, int c, vf *v)
{
    const uint8_t *qs = b + 16 + 32 * (c / 2);
    const vec_even e = vec_even_make(s->least[0] * s->scale[c], s->least[1] * s->scale[8 + c]);
    MICA_UNROLL(8)
    for (int i = 0; i < CHUNK; i++) {
        const vi two = vi_from_u8(qs + i * MICA_W);
        v[i] = vf_even(e, c % 2 ? vi_shr(two, 4) : two);
    }
}
MICA_VEC void read_q5_k(const uint8_t *b, const packed_state *s, int c, vf *v)
{
    const uint8_t *qs = b + 48 + 32 * (c / 2);
    const vf scale = vf_set1(s->least[0] * s->scale[c]);
    const vf least = vf_set1(s->least[1] * s->scale[8 + c]);
    MICA_UNROLL(8)
    for (int i = 0; i < CHUNK; i++) {
        const vi low = vi_and(vi_shr(vi_from_u8(qs + i * MICA_W), 4 * (c % 2)), vi_set1(15));
        const vi fifth = vi_and(vi_shr(vi_from_u8(b + 16 + i * MICA_W), c), vi_set1(1));
        v[i] = vf_fma(vf_from_vi(vi_or(low, vi_shl(fifth, 4))), scale, least);
    }
}

MICA_VEC void open_q6_k(const uint8_t *b, packed_state *s)
{
    scale_signed((const int8_t *)b + 192, vec_f16(b + 208), s->scale);
}
MICA_VEC void read_q6_k(const uint8_t *b, const packed_state *s, int c, vf *v)
{
    const int plane = c % 4;
    const uint8_t *ql = b + 64 * (c / 4) + 32 * (plane % 2), *qh = b + 128 + 32 * (c / 4);
    MICA_UNROLL(8)
    for (int i = 0; i < CHUNK; i++) {
        const vi low = vi_and(vi_shr(vi_from_u8(ql + i * MICA_W), 4 * (plane / 2)), vi_set1(15));
        const vi high = vi_and(vi_shr(vi_from_u8(qh + i * MICA_W), 2 * plane), vi_set1(3));
        const vi q = vi_sub(vi_or(low, vi_shl(high, 4)), vi_set1(32));
        v[i] = vf_mul(vf_from_vi(q), vf_set1(s->scale[2 * c + i / HALF]));
    }
}

MICA_VEC void open_iq4_xs(const uint8_t *b, packed_state *s)
{
    const float d = vec_f16(b);
    const uint32_t high = (uint32_t)b[2] | (uint32_t)b[3] << 8;
    for (int i = 0; i < 8; i++) {
        const uint32_t low = b[4 + i / 2] >> 4 * (i % 2) & 15u;
        s->scale[i] = d * (float)((int)(low | (high >> 2 * i & 3u) << 4) - 32);
    }
}
MICA_VEC void read_iq4_xs(const uint8_t *b, const packed_state *s, int c, vf *v)
{
    read_table(b + 8 + 16 * c, vec_table_make(IQ4_VALUES, s->scale[c]), v);
}

/* --------------------------------------------------------- streams of bits -- */

/* scale[0] and least[0] are those of the chunk's group. */
MICA_VEC void read_stream(const uint8_t *b, const packed_state *s, int bits, vf *v)
{
    const vf scale = vf_set1(s->scale[0]), bias = vf_set1(s->least[0]);
    MICA_UNROLL(8)
    for (int i = 0; i < CHUNK; i++)
        v[i] = vf_fma(vf_from_vi(vi_bits(b, bits, i)), scale, bias);
}
#define READ_STREAM(name, what)                                                                    \
    MICA_VEC void read_##name(const uint8_t *b, const packed_state *s, int c, vf *v)               \
    {                                                                                              \
        (void)c;                                                                                   \
        what;                                                                                      \
    }
READ_STREAM(b2, read_stream(b, s, 2, v))
READ_STREAM(b3, read_stream(b, s, 3, v))
MICA_VEC void read_b4(const uint8_t *b, const packed_state *s, int c, vf *v)
{
    const vec_even e = vec_even_make(s->scale[0], s->least[0]);
    (void)c;
    MICA_UNROLL(8)
    for (int i = 0; i < CHUNK; i++)
        v[i] = vf_even(e, vi_nibbles(b, i));
}
READ_STREAM(b5, read_stream(b, s, 5, v))
READ_STREAM(b6, read_stream(b, s, 6, v))
MICA_VEC void read_b8(const uint8_t *b, const packed_state *s, int c, vf *v)
{
    const vf scale = vf_set1(s->scale[0]), bias = vf_set1(s->least[0]);
    (void)c;
    MICA_UNROLL(8)
    for (int i = 0; i < CHUNK; i++)
        v[i] = vf_fma(vf_from_vi(vi_from_u8(b + i * MICA_W)), scale, bias);
}

/* X(NAME, open, read, numbers of a block, bytes of a block, kind): 0 block, 1 plain, 2 stream */
#define PACKED_TYPES(X)                                                                            \
    X(F32, none, f32, 32, 128, 1)                                                                  \
    X(BF16, none, bf16, 32, 64, 1)                                                                 \
    X(F16, none, f16, 32, 64, 1)                                                                   \
    X(F8_E4M3, none, f8_e4m3, 32, 32, 1)                                                           \
    X(F8_E5M2, none, f8_e5m2, 32, 32, 1)                                                           \
    X(S8, none, s8, 32, 32, 1)                                                                     \
    X(Q8_0, none, q8_0, 32, 34, 0)                                                                 \
    X(Q4_0, none, q4_0, 32, 18, 0)                                                                 \
    X(Q4_1, none, q4_1, 32, 20, 0)                                                                 \
    X(Q5_0, none, q5_0, 32, 22, 0)                                                                 \
    X(Q5_1, none, q5_1, 32, 24, 0)                                                                 \
    X(Q2_K, q2_k, q2_k, 256, 84, 0)                                                                \
    X(Q3_K, q3_k, q3_k, 256, 110, 0)                                                               \
    X(Q4_K, q4_k, q4_k, 256, 144, 0)                                                               \
    X(Q5_K, q4_k, q5_k, 256, 176, 0)                                                               \
    X(Q6_K, q6_k, q6_k, 256, 210, 0)                                                               \
    X(IQ4_NL, none, iq4_nl, 32, 18, 0)                                                             \
    X(IQ4_XS, iq4_xs, iq4_xs, 256, 136, 0)                                                         \
    X(MXFP4, none, mxfp4, 32, 17, 0)                                                               \
    X(B2, none, b2, 32, 8, 2)                                                                      \
    X(B3, none, b3, 32, 12, 2)                                                                     \
    X(B4, none, b4, 32, 16, 2)                                                                     \
    X(B5, none, b5, 32, 20, 2)                                                                     \
    X(B6, none, b6, 32, 24, 2)                                                                     \
    X(B8, none, b8, 32, 32, 2)

#endif
