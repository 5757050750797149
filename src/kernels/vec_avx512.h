/* vec_avx512.h - vec.h for x86-64-v4: 16 lanes, 32 registers, masks for the ends of rows. */
#ifndef MICA_KERNELS_VEC_AVX512_H
#define MICA_KERNELS_VEC_AVX512_H

#include <immintrin.h>

#define MICA_W 16
typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

/* 8 x 48 of c in 24 registers, a row of B in 3, a broadcast of a in 1: 28 of 32. */
#define MICA_TILE_MR 8
#define MICA_TILE_NV 3
/* clang-format off */
#define MICA_TILES(X) \
    X(1, 1) X(1, 2) X(1, 3)  X(2, 1) X(2, 2) X(2, 3) \
    X(3, 1) X(3, 2) X(3, 3)  X(4, 1) X(4, 2) X(4, 3) \
    X(5, 1) X(5, 2) X(5, 3)  X(6, 1) X(6, 2) X(6, 3) \
    X(7, 1) X(7, 2) X(7, 3)  X(8, 1) X(8, 2) X(8, 3)
/* clang-format on */

MICA_VEC vm vm_first(int n)
{
    return (vm)((1u << n) - 1u);
}
MICA_VEC vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
MICA_VEC vf vf_load_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(vm_first(n), p);
}
MICA_VEC void vf_store(float *p, vf x)
{
    _mm512_storeu_ps(p, x);
}
MICA_VEC void vf_store_n(float *p, vf x, int n)
{
    _mm512_mask_storeu_ps(p, vm_first(n), x);
}
MICA_VEC vf vf_set1(float a)
{
    return _mm512_set1_ps(a);
}
MICA_VEC vf vf_zero(void)
{
    return _mm512_setzero_ps();
}
MICA_VEC vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
MICA_VEC vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
MICA_VEC vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
MICA_VEC vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
MICA_VEC vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
MICA_VEC vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
MICA_VEC vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
MICA_VEC vf vf_abs(vf a)
{
    return _mm512_abs_ps(a);
}
MICA_VEC vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
MICA_VEC vf vf_scale2(vf x, vf n)
{
    return _mm512_scalef_ps(x, n);
}
MICA_VEC float vf_hsum(vf a)
{
    return _mm512_reduce_add_ps(a);
}
/* y[i] = vf_hsum(a[i]), 4 of them, with the additions of that: lanes 8, 4, 2, then 1 apart. */
MICA_VEC void vf_hsum_4(const vf *a, float *y)
{
    const vf b = _mm512_add_ps(_mm512_shuffle_f32x4(a[0], a[1], 0x44),
                               _mm512_shuffle_f32x4(a[0], a[1], 0xee));
    const vf c = _mm512_add_ps(_mm512_shuffle_f32x4(a[2], a[3], 0x44),
                               _mm512_shuffle_f32x4(a[2], a[3], 0xee));
    vf s = _mm512_add_ps(_mm512_shuffle_f32x4(b, c, 0x88), _mm512_shuffle_f32x4(b, c, 0xdd));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1));
    _mm_storeu_ps(y, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, s)));
}
MICA_VEC float vf_hmax(vf a)
{
    return _mm512_reduce_max_ps(a);
}
MICA_VEC vm vf_lt(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
MICA_VEC vm vf_is_nan(vf a)
{
    return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
}
MICA_VEC vf vf_select(vm m, vf a, vf b)
{
    return _mm512_mask_blend_ps(m, b, a);
}
MICA_VEC vm vm_or(vm a, vm b)
{
    return (vm)(a | b);
}
MICA_VEC bool vm_any(vm m)
{
    return m != 0;
}

/* ------------------------------------------------------------ narrow types -- */

MICA_VEC vf vf_bf16_low(vi pairs) /* element 0 of each pair */
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}
MICA_VEC vf vf_bf16_high(vi pairs)
{
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000u)));
}
MICA_VEC vf vf_from_bf16(const uint16_t *p)
{
    return vf_bf16_low(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)));
}
MICA_VEC vf vf_from_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
/* E4M3 through f16 (7 bits of exponent and mantissa, bias off by 8), which the converter takes
 * without a penalty for denormals; f32 denormals cost a microcode assist each. */
MICA_VEC vf vf_from_f8_e4m3(const uint8_t *p)
{
    const __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    const __m256i magnitude = _mm256_and_si256(b, _mm256_set1_epi16(0x7f));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0x80)), 8);
    const __m256i half = _mm256_or_si256(_mm256_slli_epi16(magnitude, 7), sign);
    const __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
    return _mm512_mul_ps(
        _mm512_cvtph_ps(_mm256_mask_mov_epi16(half, nan, _mm256_set1_epi16(0x7e00))),
        _mm512_set1_ps(256.0f));
}
MICA_VEC vf vf_from_f8_e5m2(const uint8_t *p)
{
    const __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    return _mm512_cvtph_ps(_mm256_slli_epi16(b, 8));
}
MICA_VEC vf vf_from_s32(const int32_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
}
/* Round to nearest even on the bits; NaN keeps its sign and becomes quiet. */
MICA_VEC __m256i vec_bf16_bits(vf x)
{
    const __m512i u = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    r = _mm512_mask_or_epi32(r, vf_is_nan(x), u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}
MICA_VEC void vf_to_bf16(uint16_t *p, vf x)
{
    _mm256_storeu_si256((__m256i *)p, vec_bf16_bits(x));
}
/* Rounded to nearest even; x in the range of the type. */
MICA_VEC void vf_to_s8(int8_t *p, vf x)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)));
}
MICA_VEC void vf_to_u8(uint8_t *p, vf x)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(x)));
}
/* Two vectors of floats to 2 * MICA_W bf16 in order. */
MICA_VEC vi vi_bf16_from_2vf(vf low, vf high)
{
#ifdef __AVX512BF16__ /* the same, but denormals become zeros */
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
#endif
    return _mm512_inserti64x4(_mm512_castsi256_si512(vec_bf16_bits(low)), vec_bf16_bits(high), 1);
}
/* Lane i of both as the pair (a_i, b_i) of bf16. */
MICA_VEC vi vi_bf16_pairs(vf a, vf b)
{
    const __m512i low = _mm512_cvtepu16_epi32(vec_bf16_bits(a));
    return _mm512_or_si512(low, _mm512_slli_epi32(_mm512_cvtepu16_epi32(vec_bf16_bits(b)), 16));
}

/* ---------------------------------------------------------------- integers -- */

MICA_VEC vi vi_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
MICA_VEC void vi_store(void *p, vi x)
{
    _mm512_storeu_si512(p, x);
}
MICA_VEC vi vi_load_n(const int32_t *p, int n)
{
    return _mm512_maskz_loadu_epi32(vm_first(n), p);
}
MICA_VEC void vi_store_n(int32_t *p, vi x, int n)
{
    _mm512_mask_storeu_epi32(p, vm_first(n), x);
}
MICA_VEC vi vi_set1(int32_t a)
{
    return _mm512_set1_epi32(a);
}
MICA_VEC vi vi_zero(void)
{
    return _mm512_setzero_si512();
}
MICA_VEC vi vi_sub(vi a, vi b)
{
    return _mm512_sub_epi32(a, b);
}
MICA_VEC vi vi_mul(vi a, vi b) /* low 32 bits */
{
    return _mm512_mullo_epi32(a, b);
}
MICA_VEC vf vf_from_vi(vi a)
{
    return _mm512_cvtepi32_ps(a);
}
MICA_VEC vi vi_cast(vf a)
{
    return _mm512_castps_si512(a);
}
MICA_VEC vf vf_cast(vi a)
{
    return _mm512_castsi512_ps(a);
}
/* Lane i: acc + sum over its 4 bytes of u8(a) * s8(b), exact. */
#ifdef __AVX512VNNI__
MICA_VEC vi vi_dot_u8s8(vi acc, vi a, vi b)
{
    return _mm512_dpbusd_epi32(acc, a, b);
}
#else
MICA_VEC vi vi_dot_u8s8(vi acc, vi a, vi b)
{
    /* pmaddubsw would saturate; bytes 0, 2 and bytes 1, 3 as 16-bit pairs do not. */
    const __m512i a_even = _mm512_and_si512(a, _mm512_set1_epi16(0xff));
    const __m512i a_odd = _mm512_srli_epi16(a, 8);
    const __m512i b_even = _mm512_srai_epi16(_mm512_slli_epi16(b, 8), 8);
    const __m512i b_odd = _mm512_srai_epi16(b, 8);
    return _mm512_add_epi32(
        acc, _mm512_add_epi32(_mm512_madd_epi16(a_even, b_even), _mm512_madd_epi16(a_odd, b_odd)));
}
#endif
/* Lane i: acc + both products of its bf16 pairs. */
#ifdef __AVX512BF16__
#define MICA_VEC_HAS_BF16_DOT 1
MICA_VEC vf vf_dot_bf16(vf acc, vi a, vi b)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
}
#endif

/* ------------------------------------------------------------ packed numbers -- */

MICA_VEC vi vi_from_u8(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
MICA_VEC vi vi_from_s8(const int8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
}
MICA_VEC vi vi_from_words(const uint32_t *w, int v)
{
    (void)v; /* all 16 bytes */
    return _mm512_cvtepu8_epi32(_mm_setr_epi32((int)w[0], (int)w[1], (int)w[2], (int)w[3]));
}
MICA_VEC vi vi_and(vi a, vi b)
{
    return _mm512_and_si512(a, b);
}
MICA_VEC vi vi_or(vi a, vi b)
{
    return _mm512_or_si512(a, b);
}
MICA_VEC vi vi_shl(vi a, int n)
{
    return _mm512_slli_epi32(a, (unsigned)n);
}
MICA_VEC vi vi_shr(vi a, int n)
{
    return _mm512_srli_epi32(a, (unsigned)n);
}
MICA_VEC vi vi_bit(uint32_t word, int v)
{
    return _mm512_maskz_set1_epi32((__mmask16)(word >> (16 * v)), 1);
}
/* One permutation brings the two 16-bit units that a number may lie in to its lane. */
MICA_VEC vi vi_bits(const void *p, int bits, int v)
{
    typedef int32_t lanes __attribute__((vector_size(64)));
    const lanes i = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const lanes at = (i + 16 * v) * bits, unit = at >> 4;
    const __m512i words = _mm512_maskz_loadu_epi32((__mmask16)((1u << bits) - 1u), p);
    const __m512i pairs = _mm512_permutexvar_epi16((__m512i)(unit | ((unit + 1) << 16)), words);
    const __m512i low = _mm512_srlv_epi32(pairs, (__m512i)(at & 15));
    return _mm512_and_si512(low, _mm512_set1_epi32((1 << bits) - 1));
}
/* The same 16 numbers of 4 bits, with other numbers above them in the lanes. */
MICA_VEC vi vi_nibbles(const void *p, int v)
{
    typedef int32_t lanes __attribute__((vector_size(64)));
    const lanes word = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    const lanes shift = {0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28};
    const __m512i words = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
    return _mm512_srlv_epi32(_mm512_permutexvar_epi32((__m512i)(word + 2 * v), words),
                             (__m512i)shift);
}
typedef __m512 vec_table;
MICA_VEC vec_table vec_table_make(const float *t, float scale)
{
    return _mm512_mul_ps(_mm512_loadu_ps(t), _mm512_set1_ps(scale));
}
MICA_VEC vf vf_table(vec_table t, vi index)
{
    return _mm512_permutexvar_ps(index, t); /* looks at 4 bits */
}
typedef __m512 vec_even;
MICA_VEC vec_even vec_even_make(float scale, float bias)
{
    const __m512 i = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_fmadd_ps(i, _mm512_set1_ps(scale), _mm512_set1_ps(bias));
}
MICA_VEC vf vf_even(vec_even e, vi index)
{
    return _mm512_permutexvar_ps(index, e);
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
    return _mm512_permute_ps(x, 0xb1);
}
MICA_VEC vf vf_load_twice(const float *p) /* p0 p0 p1 p1 ...: MICA_W / 2 floats are read */
{
    const __m512i index = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(index, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}
/* Rows to columns in registers: 4 x 4 inside each 128-bit lane, then the lanes. */
MICA_VEC void vf_transpose(vf r[MICA_W])
{
    vf t[MICA_W];
    MICA_UNROLL(4)
    for (int i = 0; i < 4; i++) {
        const vf a = _mm512_unpacklo_ps(r[4 * i], r[4 * i + 1]);
        const vf b = _mm512_unpackhi_ps(r[4 * i], r[4 * i + 1]);
        const vf c = _mm512_unpacklo_ps(r[4 * i + 2], r[4 * i + 3]);
        const vf d = _mm512_unpackhi_ps(r[4 * i + 2], r[4 * i + 3]);
        t[4 * i] = _mm512_shuffle_ps(a, c, 0x44);
        t[4 * i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        t[4 * i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        t[4 * i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    /* t[4i + j] holds, in 128-bit lane l, column 4l + j of rows 4i .. 4i+3. */
    MICA_UNROLL(4)
    for (int j = 0; j < 4; j++) {
        const vf a = _mm512_shuffle_f32x4(t[j], t[4 + j], 0x88);      /* lanes 0, 2 of rows 0, 4 */
        const vf b = _mm512_shuffle_f32x4(t[j], t[4 + j], 0xdd);      /* lanes 1, 3 */
        const vf c = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0x88); /* rows 8, 12 */
        const vf d = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0xdd);
        r[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[4 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[8 + j] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[12 + j] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

#endif
