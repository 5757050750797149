/* vec_bytes.h - 64 bytes at a time: AVX-512 with VNNI, VBMI and GFNI (Ice Lake, Zen 4 and later).
 *
 *     vb    64 numbers of 8 bits, or the bytes that they are taken from
 *
 * What makes weights of 2 to 8 bits cheap here:
 *   - a permutation brings any bytes of 64 to any place                          vb_pick
 *   - one instruction moves any bits of a byte to any others, another rule for each 8 bytes, so that both
 *     nibbles of 32 bytes become 64 numbers at once                              vb_move
 *   - one instruction takes 8 numbers of any width from 8 bytes                  vb_stream
 *   - one multiplies 64 bytes by 64 and adds them up by fours                    vi_dot_u8s8 of vec.h
 * Only bytes named are read: what is not a whole vector is loaded with a mask. */
#ifndef MICA_KERNELS_VEC_BYTES_H
#define MICA_KERNELS_VEC_BYTES_H

#include "kernels/vec.h"

#if !defined(__AVX512VNNI__) || !defined(__AVX512VBMI__) || !defined(__GFNI__)
#error "compiled for the level of bytes alone (CMakeLists.txt)"
#endif

typedef __m512i vb;

MICA_VEC vb vb_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
MICA_VEC vb vb_twice(const void *p) /* 32 bytes, and again */
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p));
}
MICA_VEC vb vb_halves(const void *low, const void *high) /* 32 bytes of each */
{
    const __m512i l = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)low));
    return _mm512_inserti64x4(l, _mm256_loadu_si256((const __m256i *)high), 1);
}
MICA_VEC vb vb_set1(int byte)
{
    return _mm512_set1_epi8((char)byte);
}
MICA_VEC vb vb_or(vb a, vb b)
{
    return _mm512_or_si512(a, b);
}
MICA_VEC vb vb_and(vb a, vb b)
{
    return _mm512_and_si512(a, b);
}
MICA_VEC vb vb_xor(vb a, vb b)
{
    return _mm512_xor_si512(a, b);
}
/* Byte i is t[x[i]] of 16. */
MICA_VEC vb vb_table(const uint8_t *t, vb x)
{
    return _mm512_shuffle_epi8(
        _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)t)), x);
}
/* The rule "bits [from, from + count) to [to, ...), the rest zero" as gf2p8affineqb takes it: byte 7 - i
 * of the rule has the bits whose sum becomes bit i. */
MICA_VEC long long vb_rule(int from, int count, int to)
{
    unsigned long long m = 0;
    MICA_UNROLL(8)
    for (int i = 0; i < 8; i++)
        if (i < count)
            m |= (unsigned long long)(1u << (from + i)) << 8 * (7 - (to + i));
    return (long long)m;
}
MICA_VEC vb vb_shr_4(vb x) /* the high nibbles */
{
    return _mm512_gf2p8affine_epi64_epi8(x, _mm512_set1_epi64(vb_rule(4, 4, 0)), 0);
}
/* Rule a for 32 bytes, rule b for the others. */
MICA_VEC vb vb_move(vb x, long long a, long long b)
{
    return _mm512_gf2p8affine_epi64_epi8(x, _mm512_setr_epi64(a, a, a, a, b, b, b, b), 0);
}
MICA_VEC vb vb_sixteen(const void *p) /* 16 bytes four times */
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));
}
/* A rule for each 16 bytes. */
MICA_VEC vb vb_move_each(vb x, long long a, long long b, long long c, long long d)
{
    return _mm512_gf2p8affine_epi64_epi8(x, _mm512_setr_epi64(a, a, b, b, c, c, d, d), 0);
}

typedef uint8_t vec_64_bytes __attribute__((vector_size(64)));

/* Four blocks of `size` bytes (17 to 24) in two loads that do not overlap: byte i of the blocks is byte i of the two.
 * What is taken from blocks comes from the same two loads. Overlapping ones cost twice the time from memory, though
 * none in the cache. */
typedef struct vec_blocks {
    vb first, last;
} vec_blocks;
MICA_VEC vec_blocks vec_four_blocks(const uint8_t *p, int size)
{
    const void *end = p + 64;
    return (vec_blocks){vb_load(p),
                        4 * size - 64 <= 16
                            ? _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)end))
                            : _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)end))};
}
/* 16 bytes of each block, from `at` on. */
MICA_VEC vb vb_four(const uint8_t *p, int size, int at)
{
    vec_64_bytes index;
    const vec_blocks b = vec_four_blocks(p, size);
    MICA_UNROLL(64)
    for (int i = 0; i < 64; i++)
        index[i] = (uint8_t)(i / 16 * size + at + i % 16);
    return _mm512_permutex2var_epi8(b.first, (__m512i)index, b.last);
}
/* x, 16 added where the bit of its place in the 16 at byte `at` of each of four blocks is set. */
MICA_VEC vb vb_add_16_where(vb x, const uint8_t *p, int size, int at)
{
    vec_64_bytes byte, bit;
    const vec_blocks b = vec_four_blocks(p, size);
    MICA_UNROLL(64)
    for (int i = 0; i < 64; i++) {
        byte[i] = (uint8_t)(i / 16 * size + at + i / 8 % 2);
        bit[i] = (uint8_t)(1u << i % 8);
    }
    const __m512i words = _mm512_permutex2var_epi8(b.first, (__m512i)byte, b.last);
    return _mm512_mask_add_epi8(x, _mm512_test_epi8_mask(words, (__m512i)bit), x,
                                _mm512_set1_epi8(16));
}
/* Bytes of two vectors: pieces 0, 2, 4, 6 of the 8 of 16 that they are; or the others. */
MICA_VEC vb vb_every_other(vb a, vb b, int first)
{
    const __m512i even = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
    const __m512i odd = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
    return _mm512_permutex2var_epi64(a, first ? odd : even, b);
}

/* 64 numbers of `bits` (3 to 6) from a stream, low bits first: 8 of them lie in `bits` bytes, the first 8 from byte
 * start[0] on and so forth. From 64 bytes, or from them and those of a second load. */
MICA_VEC vb vb_stream(vb first, vb last, int bits, const int *start)
{
    vec_64_bytes byte, at;
    bool is_far = false;
    MICA_UNROLL(64)
    for (int i = 0; i < 64; i++) {
        byte[i] = (uint8_t)(start[i / 8] + i % 8 % bits);
        at[i] = (uint8_t)(i % 8 * bits);
        is_far = is_far || byte[i] > 63;
    }
    const __m512i words = is_far ? _mm512_permutex2var_epi8(first, (__m512i)byte, last)
                                 : _mm512_permutexvar_epi8((__m512i)byte, first);
    const __m512i shifted = _mm512_multishift_epi64_epi8((__m512i)at, words);
    return _mm512_and_si512(shifted, _mm512_set1_epi8((char)((1 << bits) - 1)));
}
/* Of each of 8 blocks of 32 numbers of 3 bits, 96 bytes, numbers 8 c ... 8 c + 7. */
MICA_VEC vb vb_stream_3(const uint8_t *p, int c)
{
    int start[8];
    const vec_blocks b = vec_four_blocks(p, 24);
    MICA_UNROLL(8)
    for (int i = 0; i < 8; i++)
        start[i] = 12 * i + 3 * c;
    return vb_stream(b.first, b.last, 3, start);
}
/* Of each of 4 blocks of 32 numbers of 5 bits, 80 bytes, the first or the last 16. */
MICA_VEC vb vb_stream_5(const uint8_t *p, int half)
{
    int start[8];
    const vec_blocks b = vec_four_blocks(p, 20);
    MICA_UNROLL(8)
    for (int i = 0; i < 8; i++)
        start[i] = i / 2 * 20 + 10 * half + i % 2 * 5;
    return vb_stream(b.first, b.last, 5, start);
}
/* Numbers 64 c ... 64 c + 63 of 256 of 6 bits, 192 bytes. */
MICA_VEC vb vb_stream_6(const uint8_t *p, int c)
{
    int start[8];
    const int load = 64 * (48 * c / 64);
    MICA_UNROLL(8)
    for (int i = 0; i < 8; i++)
        start[i] = 48 * c - load + 6 * i;
    return vb_stream(vb_load(p + load), c < 3 ? vb_load(p + load + 64) : vb_load(p + load), 6,
                     start);
}

/* ------------------------------------------------------ scales of a panel -- */

/* Of 8 blocks the f16 at their beginning, then for the second 8 numbers the one `second` bytes behind it. */
MICA_VEC vf vf_from_8_blocks(const uint8_t *p, int size, int second)
{
    uint16_t at[32] = {0};
    const vec_blocks a = vec_four_blocks(p, size), b = vec_four_blocks(p + 4 * size, size);
    const bool in_first = 3 * size + second + 2 <= 64; /* all four */
    MICA_UNROLL(16)
    for (int i = 0; i < 16; i++) {
        const int byte = i % 4 * size + i / 8 * second;
        at[i] = (uint16_t)(byte / 2 + (in_first ? i % 8 / 4 * 32 : 0));
    }
    const __m512i index = _mm512_loadu_si512(at);
    const __m512i all =
        in_first
            ? _mm512_permutex2var_epi16(a.first, index, b.first)
            : _mm512_mask_blend_epi16(0xf0f0, _mm512_permutex2var_epi16(a.first, index, a.last),
                                      _mm512_permutex2var_epi16(b.first, index, b.last));
    return _mm512_cvtph_ps(_mm512_castsi512_si256(all));
}
/* The f16 at the beginning of 8 blocks of 34 bytes, and again. */
MICA_VEC vf vf_from_8_of_34(const uint8_t *p)
{
    uint16_t at[32] = {0};
    MICA_UNROLL(16)
    for (int i = 0; i < 16; i++)
        at[i] = (uint16_t)(i % 2 * 17 + i % 4 / 2 * 32);
    const __m512i index = _mm512_loadu_si512(at);
    const __m512i low = _mm512_permutex2var_epi16(vb_load(p), index, vb_load(p + 68));
    const __m512i high = _mm512_permutex2var_epi16(vb_load(p + 136), index, vb_load(p + 204));
    return _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_mask_blend_epi16(0xf0f0, low, high)));
}
/* The numbers of two of these. */
MICA_VEC vb vb_two_of_34(const uint8_t *p)
{
    vec_64_bytes index;
    MICA_UNROLL(64)
    for (int i = 0; i < 64; i++)
        index[i] = (uint8_t)(i < 32 ? 2 + i : 4 + i);
    const vec_blocks b = vec_four_blocks(p, 17);
    return _mm512_permutex2var_epi8(b.first, (__m512i)index, b.last);
}
MICA_VEC vf vf_from_f16_once(const uint8_t *p) /* one f16 everywhere */
{
    uint16_t h;
    memcpy(&h, p, 2);
    return _mm512_cvtph_ps(_mm256_set1_epi16((short)h));
}
/* 8 bytes that lie 17 apart, and again. */
MICA_VEC vi vi_from_8_bytes_of_17(const uint8_t *p)
{
    uint8_t at[64] = {0};
    MICA_UNROLL(16)
    for (int i = 0; i < 16; i++)
        at[i] = (uint8_t)(i % 4 * 17 + i % 8 / 4 * 64);
    const __m512i bytes =
        _mm512_permutex2var_epi8(vb_load(p), _mm512_loadu_si512(at), vb_load(p + 68));
    return _mm512_cvtepu8_epi32(_mm512_castsi512_si128(bytes));
}

/* 16 numbers of 6 bits: four low bits (or all six) from bit low[i] of 8 bytes on, the two high ones lie at bit
 * high[i] + 4 of 8 others. whole: 0x3f where low[i] gives all six, 0x0f elsewhere. Bits are counted round the 64. */
MICA_VEC __m128i vec_6_bits(__m128i low_bytes, __m128i low, __m128i high_bytes, __m128i high,
                            __m128i whole)
{
    const __m128i a = _mm_multishift_epi64_epi8(low, low_bytes);
    const __m128i b = _mm_multishift_epi64_epi8(high, high_bytes);
    const __m128i both = _mm_ternarylogic_epi64(whole, a, b, 0xca); /* whole ? a : b */
    return _mm_and_si128(both, _mm_set1_epi8(0x3f));
}
/* Scales and minima of Q4_K and Q5_K, 12 bytes at p: of each eight the first four have 6 bits in one byte, the
 * others 4 bits of the last four bytes and 2 on top of the first four's. */
MICA_VEC __m128i vec_q4_k_scales(const uint8_t *p)
{
    const __m128i all = _mm_loadu_si128((const __m128i *)(const void *)p);
    const __m128i words = _mm_shuffle_epi32(all, 2 << 6 | 1 << 4 | 2 << 2 | 0);
    const __m128i low = _mm_setr_epi8(0, 8, 16, 24, 32, 40, 48, 56, 0, 8, 16, 24, 36, 44, 52, 60);
    const __m128i high = _mm_setr_epi8(0, 0, 0, 0, 2, 10, 18, 26, 0, 0, 0, 0, 2, 10, 18, 26);
    const __m128i whole =
        _mm_setr_epi8(63, 63, 63, 63, 15, 15, 15, 15, 63, 63, 63, 63, 15, 15, 15, 15);
    return vec_6_bits(words, low, words, high, whole);
}
/* The 16 scales of Q3_K: nibbles of 8 bytes, low ones first, and 2 bits of each of the next 4, those of 4 scales at
 * a time. */
MICA_VEC __m128i vec_q3_k_scales(const uint8_t *p)
{
    long long nibbles;
    int top;
    memcpy(&nibbles, p, 8);
    memcpy(&top, p + 8, 4);
    const __m128i low = _mm_setr_epi8(0, 8, 16, 24, 32, 40, 48, 56, 4, 12, 20, 28, 36, 44, 52, 60);
    const __m128i high = _mm_setr_epi8(60, 4, 12, 20, 62, 6, 14, 22, 0, 8, 16, 24, 2, 10, 18, 26);
    return vec_6_bits(_mm_set1_epi64x(nibbles), low, _mm_set1_epi32(top), high, _mm_set1_epi8(15));
}
/* 8 bytes without a sign times the first of two f16, 8 more times the second. */
MICA_VEC vf vf_from_2_f16_u8(const uint8_t *two, __m128i bytes)
{
    uint32_t pair;
    memcpy(&pair, two, 4);
    const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m128 factors = _mm_cvtph_ps(_mm_cvtsi32_si128((int)pair));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)),
                         _mm512_permutexvar_ps(index, _mm512_castps128_ps512(factors)));
}
/* 2^(e - 128); 0 and 1 give denormals. */
MICA_VEC vf vf_power2(vi e)
{
    const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    const __m512i least = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    const __mmask16 is_least = _mm512_cmplt_epu32_mask(e, _mm512_set1_epi32(2));
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, is_least, least));
}
/* The low and the high nibbles of 16 bytes. */
MICA_VEC void vf_from_16_nibbles(const uint8_t *p, vf *v)
{
    const vi both = vi_from_u8(p);
    v[0] = vf_from_vi(vi_and(both, vi_set1(15)));
    v[1] = vf_from_vi(vi_shr(both, 4));
}
/* 8 floats for the 32s of a panel from the `8 >> wide` of its groups, and 8 from the other array. */
MICA_VEC vf vf_from_groups(const float *a, const float *b, int wide)
{
    const __m512i by_2 = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512i by_4 = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 4, 4, 4, 4, 5, 5, 5, 5);
    if (wide == 0)
        return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b),
                                  1);
    const __m256 both =
        _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1);
    return _mm512_permutexvar_ps(wide == 1 ? by_2 : by_4, _mm512_castps256_ps512(both));
}
MICA_VEC vf vf_upper(vf x) /* the second 8; zeros for the first */
{
    return _mm512_maskz_mov_ps(0xff00, x);
}

/* ------------------------------------------------------------- whole numbers -- */

MICA_VEC vi vi_fields(uint32_t word, int bits) /* 8 numbers of `bits` bits, and again */
{
    typedef int32_t lanes __attribute__((vector_size(64)));
    const lanes i = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7};
    const __m512i all = _mm512_srlv_epi32(_mm512_set1_epi32((int)word), (__m512i)(i * bits));
    return _mm512_and_si512(all, _mm512_set1_epi32((1 << bits) - 1));
}
MICA_VEC vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
MICA_VEC vi vi_sar(vi a, int n)
{
    return _mm512_srai_epi32(a, (unsigned)n);
}
MICA_VEC vi vi_round(vf a) /* to nearest even */
{
    return _mm512_cvtps_epi32(a);
}
MICA_VEC int32_t vi_hsum(vi a)
{
    return _mm512_reduce_add_epi32(a);
}
MICA_VEC vi vi_from_16_bytes(__m128i bytes) /* without a sign */
{
    return _mm512_cvtepu8_epi32(bytes);
}
MICA_VEC void vi_to_s8(int8_t *p, int8_t *q, vi a) /* the low bytes of 8 and of the other 8 */
{
    const __m128i bytes = _mm512_cvtepi32_epi8(a);
    _mm_storel_epi64((__m128i *)(void *)p, bytes);
    _mm_storel_epi64((__m128i *)(void *)q, _mm_unpackhi_epi64(bytes, bytes));
}
/* 32 numbers: those at even places to a, the others to b. */
MICA_VEC void vf_unzip(vf *a, vf *b)
{
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const vf first = _mm512_permutex2var_ps(*a, even, *b);
    *b = _mm512_permutex2var_ps(*a, odd, *b);
    *a = first;
}
MICA_VEC vf vf_even_first(vf a) /* those at even places, then the others */
{
    const __m512i index = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    return _mm512_permutexvar_ps(index, a);
}
/* The largest magnitude of 32; NaN and infinity count as larger than all numbers. */
MICA_VEC float vf_largest(vf a, vf b)
{
    const __m512i sign = _mm512_set1_epi32((int)0x80000000u);
    const __m512i most = _mm512_max_epu32(_mm512_andnot_si512(sign, _mm512_castps_si512(a)),
                                          _mm512_andnot_si512(sign, _mm512_castps_si512(b)));
    const uint32_t bits = _mm512_reduce_max_epu32(most);
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

#endif
