/* vec_avx2.h - vec.h for x86-64-v3 (AVX2, FMA, F16C): 8 lanes, 16 registers. */
#ifndef MICA_KERNELS_VEC_AVX2_H
#define MICA_KERNELS_VEC_AVX2_H

#include <immintrin.h>

#define MICA_W 8
typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm; /* all bits of a lane */

/* 6 x 16 of c in 12 registers, a row of B in 2, a broadcast of a in 1: 15 of 16. */
#define MICA_TILE_MR 6
#define MICA_TILE_NV 2
#define MICA_TILES(X)                                                                              \
    X(1, 1) X(1, 2) X(2, 1) X(2, 2) X(3, 1) X(3, 2) X(4, 1) X(4, 2) X(5, 1) X(5, 2) X(6, 1) X(6, 2)

MICA_VEC __m256i vec_first(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
MICA_VEC vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
MICA_VEC vf vf_load_n(const float *p, int n)
{
    return _mm256_maskload_ps(p, vec_first(n));
}
MICA_VEC void vf_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x);
}
MICA_VEC void vf_store_n(float *p, vf x, int n)
{
    _mm256_maskstore_ps(p, vec_first(n), x);
}
MICA_VEC vf vf_set1(float a)
{
    return _mm256_set1_ps(a);
}
MICA_VEC vf vf_zero(void)
{
    return _mm256_setzero_ps();
}
MICA_VEC vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
MICA_VEC vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
MICA_VEC vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
MICA_VEC vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
MICA_VEC vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
MICA_VEC vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
MICA_VEC vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
MICA_VEC vf vf_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
MICA_VEC vf vf_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
MICA_VEC vf vec_power2(__m256i n) /* n in [-126, 127] */
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
/* In two halves, so that 2^n itself may be out of range. */
MICA_VEC vf vf_scale2(vf x, vf n)
{
    const __m256i whole = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(x, vec_power2(half)),
                         vec_power2(_mm256_sub_epi32(whole, half)));
}
MICA_VEC float vf_hsum(vf a)
{
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
MICA_VEC void vf_hsum_4(const vf *a, float *y) /* y[i] = vf_hsum(a[i]), 4 of them */
{
    MICA_UNROLL(4)
    for (int i = 0; i < 4; i++)
        y[i] = vf_hsum(a[i]);
}
MICA_VEC float vf_hmax(vf a)
{
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
MICA_VEC vm vf_lt(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
MICA_VEC vm vf_is_nan(vf a)
{
    return _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
}
MICA_VEC vf vf_select(vm m, vf a, vf b)
{
    return _mm256_blendv_ps(b, a, m);
}
MICA_VEC vm vm_or(vm a, vm b)
{
    return _mm256_or_ps(a, b);
}
MICA_VEC bool vm_any(vm m)
{
    return _mm256_movemask_ps(m) != 0;
}

/* ------------------------------------------------------------ narrow types -- */

MICA_VEC vf vf_bf16_low(vi pairs) /* element 0 of each pair */
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}
MICA_VEC vf vf_bf16_high(vi pairs)
{
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000u)));
}
MICA_VEC vf vf_from_bf16(const uint16_t *p)
{
    return vf_bf16_low(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)));
}
MICA_VEC vf vf_from_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
/* E4M3 through f16 (7 bits of exponent and mantissa, bias off by 8), which the converter takes
 * without a penalty for denormals; f32 denormals cost a microcode assist each. */
MICA_VEC vf vf_from_f8_e4m3(const uint8_t *p)
{
    const __m128i b = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p));
    const __m128i magnitude = _mm_and_si128(b, _mm_set1_epi16(0x7f));
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(b, _mm_set1_epi16(0x80)), 8);
    const __m128i nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f));
    const __m128i half = _mm_or_si128(_mm_slli_epi16(magnitude, 7), sign);
    const __m128i quiet = _mm_and_si128(nan, _mm_set1_epi16(0x7e00));
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(half, quiet)), _mm256_set1_ps(256.0f));
}
MICA_VEC vf vf_from_f8_e5m2(const uint8_t *p)
{
    const __m128i b = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p));
    return _mm256_cvtph_ps(_mm_slli_epi16(b, 8));
}
MICA_VEC vf vf_from_s32(const int32_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)p));
}
/* Round to nearest even on the bits, result in the upper half of each lane. */
MICA_VEC __m256i vec_bf16_bits(vf x)
{
    const __m256i u = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    return _mm256_blendv_epi8(r, quiet, _mm256_castps_si256(vf_is_nan(x)));
}
/* 16 values of 16 bits from the low halves of the lanes of a, then b. */
MICA_VEC __m256i vec_pack16(__m256i a, __m256i b)
{
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
}
MICA_VEC void vf_to_bf16(uint16_t *p, vf x)
{
    const __m256i h = _mm256_srli_epi32(vec_bf16_bits(x), 16);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(vec_pack16(h, h)));
}
MICA_VEC __m128i vec_s16(vf x)
{
    const __m256i v = _mm256_cvtps_epi32(x);
    return _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}
/* Rounded to nearest even; x in the range of the type. */
MICA_VEC void vf_to_s8(int8_t *p, vf x)
{
    const __m128i v = vec_s16(x);
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(v, v));
}
MICA_VEC void vf_to_u8(uint8_t *p, vf x)
{
    const __m128i v = vec_s16(x);
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(v, v));
}
/* Two vectors of floats to 2 * MICA_W bf16 in order. */
MICA_VEC vi vi_bf16_from_2vf(vf low, vf high)
{
    return vec_pack16(_mm256_srli_epi32(vec_bf16_bits(low), 16),
                      _mm256_srli_epi32(vec_bf16_bits(high), 16));
}
/* Lane i of both as the pair (a_i, b_i) of bf16. */
MICA_VEC vi vi_bf16_pairs(vf a, vf b)
{
    const __m256i high = _mm256_and_si256(vec_bf16_bits(b), _mm256_set1_epi32((int)0xffff0000u));
    return _mm256_or_si256(_mm256_srli_epi32(vec_bf16_bits(a), 16), high);
}

/* ---------------------------------------------------------------- integers -- */

MICA_VEC vi vi_load(const void *p)
{
    return _mm256_loadu_si256(p);
}
MICA_VEC void vi_store(void *p, vi x)
{
    _mm256_storeu_si256(p, x);
}
MICA_VEC vi vi_load_n(const int32_t *p, int n)
{
    return _mm256_maskload_epi32(p, vec_first(n));
}
MICA_VEC void vi_store_n(int32_t *p, vi x, int n)
{
    _mm256_maskstore_epi32(p, vec_first(n), x);
}
MICA_VEC vi vi_set1(int32_t a)
{
    return _mm256_set1_epi32(a);
}
MICA_VEC vi vi_zero(void)
{
    return _mm256_setzero_si256();
}
MICA_VEC vi vi_sub(vi a, vi b)
{
    return _mm256_sub_epi32(a, b);
}
MICA_VEC vi vi_mul(vi a, vi b) /* low 32 bits */
{
    return _mm256_mullo_epi32(a, b);
}
MICA_VEC vf vf_from_vi(vi a)
{
    return _mm256_cvtepi32_ps(a);
}
MICA_VEC vi vi_cast(vf a)
{
    return _mm256_castps_si256(a);
}
MICA_VEC vf vf_cast(vi a)
{
    return _mm256_castsi256_ps(a);
}
/* Lane i: acc + sum over its 4 bytes of u8(a) * s8(b), exact. vpmaddubsw would saturate; bytes
 * 0, 2 and bytes 1, 3 as 16-bit pairs do not. */
MICA_VEC vi vi_dot_u8s8(vi acc, vi a, vi b)
{
    const __m256i a_even = _mm256_and_si256(a, _mm256_set1_epi16(0xff));
    const __m256i a_odd = _mm256_srli_epi16(a, 8);
    const __m256i b_even = _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8);
    const __m256i b_odd = _mm256_srai_epi16(b, 8);
    return _mm256_add_epi32(
        acc, _mm256_add_epi32(_mm256_madd_epi16(a_even, b_even), _mm256_madd_epi16(a_odd, b_odd)));
}

/* ------------------------------------------------------------ packed numbers -- */

MICA_VEC vi vi_from_u8(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
MICA_VEC vi vi_from_s8(const int8_t *p)
{
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
MICA_VEC vi vi_from_words(const uint32_t *w, int v)
{
    return _mm256_cvtepu8_epi32(_mm_setr_epi32((int)w[2 * v], (int)w[2 * v + 1], 0, 0));
}
MICA_VEC vi vi_and(vi a, vi b)
{
    return _mm256_and_si256(a, b);
}
MICA_VEC vi vi_or(vi a, vi b)
{
    return _mm256_or_si256(a, b);
}
MICA_VEC vi vi_shl(vi a, int n)
{
    return _mm256_slli_epi32(a, n);
}
MICA_VEC vi vi_shr(vi a, int n)
{
    return _mm256_srli_epi32(a, n);
}
MICA_VEC vi vi_bit(uint32_t word, int v)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i x = _mm256_srlv_epi32(_mm256_set1_epi32((int)(word >> (8 * v))), lane);
    return _mm256_and_si256(x, _mm256_set1_epi32(1));
}
/* 8 numbers are `bits` bytes; a shuffle brings the two that a number may lie in to its lane. */
MICA_VEC vi vi_bits(const void *p, int bits, int v)
{
    typedef int32_t lanes __attribute__((vector_size(32)));
    const lanes at = (lanes){0, 1, 2, 3, 4, 5, 6, 7} * bits, byte = at >> 3;
    uint64_t word = 0;
    memcpy(&word, (const char *)p + v * bits, (size_t)bits);
    const __m256i pick = (__m256i)(byte | ((byte + 1) << 8) | (int32_t)0x80800000);
    const __m256i pairs = _mm256_shuffle_epi8(_mm256_set1_epi64x((long long)word), pick);
    const __m256i low = _mm256_srlv_epi32(pairs, (__m256i)(at & 7));
    return _mm256_and_si256(low, _mm256_set1_epi32((1 << bits) - 1));
}
/* The same 8 numbers of 4 bits, with other numbers above them in the lanes. */
MICA_VEC vi vi_nibbles(const void *p, int v)
{
    int32_t word;
    memcpy(&word, (const char *)p + 4 * v, 4);
    return _mm256_srlv_epi32(_mm256_set1_epi32(word),
                             _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
}
typedef struct vec_table {
    __m256 low, high;
} vec_table;
MICA_VEC vec_table vec_table_make(const float *t, float scale)
{
    const __m256 s = _mm256_set1_ps(scale);
    const vec_table table = {_mm256_mul_ps(_mm256_loadu_ps(t), s),
                             _mm256_mul_ps(_mm256_loadu_ps(t + 8), s)};
    return table;
}
MICA_VEC vf vf_table(vec_table t, vi index)
{
    const __m256 low = _mm256_permutevar8x32_ps(t.low, index);
    const __m256 high = _mm256_permutevar8x32_ps(t.high, index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
typedef struct vec_even {
    __m256 scale, bias;
} vec_even;
MICA_VEC vec_even vec_even_make(float scale, float bias)
{
    const vec_even e = {_mm256_set1_ps(scale), _mm256_set1_ps(bias)};
    return e;
}
MICA_VEC vf vf_even(vec_even e, vi index)
{
    const __m256i low = _mm256_and_si256(index, _mm256_set1_epi32(15));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(low), e.scale, e.bias);
}
MICA_VEC float vec_f16(const void *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof(h));
    return _cvtsh_ss(h);
}

/* -------------------------------------------------------------- permutation -- */

MICA_VEC vf vf_swap_pairs(vf x) /* x1 x0 x3 x2 ... */
{
    return _mm256_permute_ps(x, 0xb1);
}
MICA_VEC vf vf_load_twice(const float *p) /* p0 p0 p1 p1 ...: MICA_W / 2 floats are read */
{
    const __m256i index = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), index);
}
/* Rows to columns in registers: 4 x 4 inside each 128-bit lane, then the lanes. */
MICA_VEC void vf_transpose(vf r[MICA_W])
{
    vf t[MICA_W];
    MICA_UNROLL(2)
    for (int i = 0; i < 2; i++) {
        const vf a = _mm256_unpacklo_ps(r[4 * i], r[4 * i + 1]);
        const vf b = _mm256_unpackhi_ps(r[4 * i], r[4 * i + 1]);
        const vf c = _mm256_unpacklo_ps(r[4 * i + 2], r[4 * i + 3]);
        const vf d = _mm256_unpackhi_ps(r[4 * i + 2], r[4 * i + 3]);
        t[4 * i] = _mm256_shuffle_ps(a, c, 0x44);
        t[4 * i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        t[4 * i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        t[4 * i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    MICA_UNROLL(4)
    for (int j = 0; j < 4; j++) {
        r[j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x20);
        r[4 + j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x31);
    }
}

#endif
