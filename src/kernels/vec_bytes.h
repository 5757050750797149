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
/* +16 where the bit of `bits` is set. */
MICA_VEC vb vb_add_16_where(vb x, uint64_t bits)
{
    return _mm512_mask_add_epi8(x, (__mmask64)bits, x, _mm512_set1_epi8(16));
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

/* 64 bytes of four pieces of 16 that lie `step` bytes apart; step is 17 to 24. */
MICA_VEC vb vb_four(const uint8_t *p, int step)
{
    const vec_64_bytes at = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                             0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                             0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                             0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const vec_64_bytes piece = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1,
                                1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
                                2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3};
    const int second = 3 * step + 16 - 64; /* two loads that overlap */
    const vec_64_bytes index = piece * (uint8_t)step + at;
    const vec_64_bytes far = (vec_64_bytes)(index > 63);
    return _mm512_permutex2var_epi8(vb_load(p), (__m512i)(index + (far & (uint8_t)(64 - second))),
                                    vb_load(p + second));
}
/* Bytes of two vectors: pieces 0, 2, 4, 6 of the 8 of 16 that they are; or the others. */
MICA_VEC vb vb_every_other(vb a, vb b, int first)
{
    const __m512i even = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
    const __m512i odd = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
    return _mm512_permutex2var_epi64(a, first ? odd : even, b);
}

/* Numbers of `bits` (2 to 6) from a stream, low bits first. `run` of them follow each other, then as many
 * `apart` numbers further; 8 lie in `bits` bytes. All 64 within 128 bytes from p. */
MICA_VEC vb vb_stream(const uint8_t *p, int bits, int run, int apart)
{
    const vec_64_bytes at = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5,
                             6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3,
                             4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7};
    vec_64_bytes byte;
    MICA_UNROLL(64)
    for (int i = 0; i < 64; i++)
        byte[i] = (uint8_t)(i / run * apart / 8 * bits + i % run / 8 * bits + i % 8);
    const int last = 56 / run * apart / 8 * bits + 56 % run / 8 * bits + bits;
    __m512i words;
    if (last <= 64) {
        words = _mm512_permutexvar_epi8((__m512i)byte, vb_load(p));
    } else {
        const vec_64_bytes far = (vec_64_bytes)(byte > 63);
        words = _mm512_permutex2var_epi8(
            vb_load(p), (__m512i)(byte + (far & (uint8_t)(128 - last))), vb_load(p + last - 64));
    }
    const __m512i shifted = _mm512_multishift_epi64_epi8((__m512i)(at * (uint8_t)bits), words);
    return _mm512_and_si512(shifted, _mm512_set1_epi8((char)((1 << bits) - 1)));
}

/* ------------------------------------------------------ scales of a panel -- */

/* 16-bit words are put together in ordinary registers: the permutation units have enough to do. */
MICA_VEC uint64_t vec_4_words(const uint8_t *p, int step)
{
    uint64_t all = 0;
    MICA_UNROLL(4)
    for (int i = 0; i < 4; i++) {
        uint16_t w;
        memcpy(&w, p + i * step, 2);
        all |= (uint64_t)w << 16 * i;
    }
    return all;
}
/* 8 f16 that lie `step` bytes apart, and again. */
MICA_VEC vf vf_from_8_f16(const uint8_t *p, int step)
{
    const __m128i h =
        _mm_set_epi64x((long long)vec_4_words(p + 4 * step, step), (long long)vec_4_words(p, step));
    return _mm512_cvtph_ps(_mm256_broadcastsi128_si256(h));
}
/* 8 pairs of f16 that lie `step` bytes apart: the first of each, then the second of each. */
MICA_VEC vf vf_from_8_pairs(const uint8_t *p, int step)
{
    const __m512i index = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    uint32_t w[8];
    MICA_UNROLL(8)
    for (int i = 0; i < 8; i++)
        memcpy(&w[i], p + i * step, 4);
    const __m256i pairs = _mm256_set_epi64x(
        (long long)(w[6] | (uint64_t)w[7] << 32), (long long)(w[4] | (uint64_t)w[5] << 32),
        (long long)(w[2] | (uint64_t)w[3] << 32), (long long)(w[0] | (uint64_t)w[1] << 32));
    return _mm512_permutexvar_ps(index, _mm512_cvtph_ps(pairs));
}
/* 8 bytes without a sign times the first of two f16, 8 more times the second. */
MICA_VEC vf vf_from_2_f16_u8(const uint8_t *two, uint64_t first, uint64_t second)
{
    uint32_t pair;
    memcpy(&pair, two, 4);
    const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m128 factors = _mm_cvtph_ps(_mm_cvtsi32_si128((int)pair));
    const __m128i bytes = _mm_set_epi64x((long long)second, (long long)first);
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)),
                         _mm512_permutexvar_ps(index, _mm512_castps128_ps512(factors)));
}
/* 2^(e - 128) of 8 bytes e, and again; 0 and 1 give denormals. */
MICA_VEC vf vf_power2_of_8(uint64_t bytes)
{
    const __m512i e = _mm512_cvtepu8_epi32(_mm_set_epi64x((long long)bytes, (long long)bytes));
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
MICA_VEC void vi_to_s8(int8_t *p, vi a) /* the low bytes */
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(a));
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
