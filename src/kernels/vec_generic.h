/* vec_generic.h - vec.h for any CPU: 4 lanes in the vector types of GCC and clang, which become
 * SSE2, SSE4, NEON or scalar instructions. Also compiled for x86-64-v2. */
#ifndef MICA_KERNELS_VEC_GENERIC_H
#define MICA_KERNELS_VEC_GENERIC_H

#define MICA_W 4
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef vi vm; /* all bits of a lane */

/* 3 x 16 of c in 12 registers of 16; B comes from memory. */
#define MICA_TILE_MR 3
#define MICA_TILE_NV 4
#define MICA_TILES(X)                                                                              \
    X(1, 1) X(1, 2) X(1, 3) X(1, 4) X(2, 1) X(2, 2) X(2, 3) X(2, 4) X(3, 1) X(3, 2) X(3, 3) X(3, 4)

MICA_VEC vf vf_load(const float *p)
{
    vf x;
    memcpy(&x, p, sizeof(x));
    return x;
}
MICA_VEC vf vf_load_n(const float *p, int n)
{
    return (vf){n > 0 ? p[0] : 0.0f, n > 1 ? p[1] : 0.0f, n > 2 ? p[2] : 0.0f, 0.0f};
}
MICA_VEC void vf_store(float *p, vf x)
{
    memcpy(p, &x, sizeof(x));
}
MICA_VEC void vf_store_n(float *p, vf x, int n)
{
    if (n > 0)
        p[0] = x[0];
    if (n > 1)
        p[1] = x[1];
    if (n > 2)
        p[2] = x[2];
}
MICA_VEC vf vf_set1(float a)
{
    return (vf){a, a, a, a};
}
MICA_VEC vf vf_zero(void)
{
    return (vf){0};
}
MICA_VEC vf vf_add(vf a, vf b)
{
    return a + b;
}
MICA_VEC vf vf_sub(vf a, vf b)
{
    return a - b;
}
MICA_VEC vf vf_mul(vf a, vf b)
{
    return a * b;
}
MICA_VEC vf vf_div(vf a, vf b)
{
    return a / b;
}
MICA_VEC vf vf_fma(vf a, vf b, vf c)
{
    return a * b + c;
}
MICA_VEC vi vi_cast(vf a)
{
    return (vi)a;
}
MICA_VEC vf vf_cast(vi a)
{
    return (vf)a;
}
MICA_VEC vf vf_select(vm m, vf a, vf b)
{
    return (vf)((m & (vi)a) | (~m & (vi)b));
}
MICA_VEC vm vf_lt(vf a, vf b)
{
    return a < b;
}
MICA_VEC vm vf_is_nan(vf a)
{
    return a != a;
}
MICA_VEC vm vm_or(vm a, vm b)
{
    return a | b;
}
MICA_VEC bool vm_any(vm m)
{
    return (m[0] | m[1] | m[2] | m[3]) != 0;
}
MICA_VEC vf vf_max(vf a, vf b)
{
    return vf_select(a > b, a, b);
}
MICA_VEC vf vf_min(vf a, vf b)
{
    return vf_select(a < b, a, b);
}
MICA_VEC vf vf_abs(vf a)
{
    return (vf)((vi)a & 0x7fffffff);
}
MICA_VEC vf vf_round(vf a) /* 1.5 * 2^23: the sum has no bits below 1 */
{
    const vf big = vf_set1(12582912.0f);
    return (a + big) - big;
}
MICA_VEC vf vec_power2(vi n) /* n in [-126, 127] */
{
    return (vf)((n + 127) << 23);
}
/* In two halves, so that 2^n itself may be out of range. NaN in n: x is NaN too, any n does. */
MICA_VEC vf vf_scale2(vf x, vf n)
{
    const vf in_range = vf_min(vf_set1(160.0f), vf_max(n, vf_set1(-160.0f)));
    const vi whole = __builtin_convertvector(vf_select(vf_is_nan(n), vf_zero(), in_range), vi);
    const vi half = whole >> 1;
    return x * vec_power2(half) * vec_power2(whole - half);
}
MICA_VEC float vf_hsum(vf a)
{
    return (a[0] + a[2]) + (a[1] + a[3]);
}
MICA_VEC void vf_hsum_4(const vf *a, float *y) /* y[i] = vf_hsum(a[i]), 4 of them */
{
    MICA_UNROLL(4)
    for (int i = 0; i < 4; i++)
        y[i] = vf_hsum(a[i]);
}
MICA_VEC float vf_hmax(vf a)
{
    const float x = a[0] > a[2] ? a[0] : a[2], y = a[1] > a[3] ? a[1] : a[3];
    return x > y ? x : y;
}

/* ------------------------------------------------------------ narrow types -- */

MICA_VEC vi vec_widen16(const uint16_t *p)
{
    return (vi){p[0], p[1], p[2], p[3]};
}
MICA_VEC vi vec_widen8(const uint8_t *p)
{
    return (vi){p[0], p[1], p[2], p[3]};
}
MICA_VEC vf vf_bf16_low(vi pairs) /* element 0 of each pair (little-endian) */
{
    return (vf)(pairs << 16);
}
MICA_VEC vf vf_bf16_high(vi pairs)
{
    return (vf)(pairs & (int32_t)0xffff0000u);
}
MICA_VEC vf vf_from_bf16(const uint16_t *p)
{
    return vf_bf16_low(vec_widen16(p));
}
/* Sign, exponent and mantissa of a float of `mantissa` fraction bits and exponent bias `bias`:
 * normal numbers by moving the fields, denormals as an integer times their unit. */
MICA_VEC vf vec_expand(vi magnitude, vi sign, int mantissa, int bias)
{
    const vi moved = (magnitude << (23 - mantissa)) + ((127 - bias) << 23);
    const vf unit = (vf)((vi){0} + ((128 - bias - mantissa) << 23));
    const vf denormal = __builtin_convertvector(magnitude, vf) * unit;
    const vm small = magnitude < (1 << mantissa);
    return (vf)((vi)vf_select(small, denormal, (vf)moved) | sign);
}
MICA_VEC vf vf_from_f16(const uint16_t *p)
{
    const vi h = vec_widen16(p), magnitude = h & 0x7fff;
    const vi sign = (h & 0x8000) << 16;
    const vm special = magnitude >= 0x7c00;
    const vi quiet = (magnitude > 0x7c00) & 0x400000;
    const vi infinite = ((magnitude << 13) & 0x7fffff) | 0x7f800000 | quiet | sign;
    return vf_select(special, (vf)infinite, vec_expand(magnitude, sign, 10, 15));
}
MICA_VEC vf vf_from_f8_e4m3(const uint8_t *p)
{
    const vi b = vec_widen8(p), magnitude = b & 0x7f;
    const vi sign = (b & 0x80) << 24;
    const vi nan = (vi){0} + 0x7fc00000;
    return vf_select(magnitude == 0x7f, (vf)(nan | sign), vec_expand(magnitude, sign, 3, 7));
}
MICA_VEC vf vf_from_f8_e5m2(const uint8_t *p)
{
    const uint16_t half[4] = {(uint16_t)(p[0] << 8), (uint16_t)(p[1] << 8), (uint16_t)(p[2] << 8),
                              (uint16_t)(p[3] << 8)};
    return vf_from_f16(half);
}
MICA_VEC vf vf_from_s32(const int32_t *p)
{
    vi x;
    memcpy(&x, p, sizeof(x));
    return __builtin_convertvector(x, vf);
}
/* Logical shift: the shift of a signed lane would drag the sign along. */
MICA_VEC vi vec_srl16(vi x)
{
    return (x >> 16) & 0xffff;
}
/* Round to nearest even on the bits, result in the low half of each lane. */
MICA_VEC vi vec_bf16_bits(vf x)
{
    typedef uint32_t vu __attribute__((vector_size(16)));
    const vu u = (vu)x;
    const vi r = (vi)(u + 0x7fffu + ((u >> 16) & 1u));
    return vec_srl16((vi)vf_select(vf_is_nan(x), (vf)(u | 0x400000u), (vf)r));
}
MICA_VEC void vf_to_bf16(uint16_t *p, vf x)
{
    const vi b = vec_bf16_bits(x);
    for (int i = 0; i < 4; i++)
        p[i] = (uint16_t)b[i];
}
/* Rounded to nearest even; x in the range of the type. */
MICA_VEC void vf_to_s8(int8_t *p, vf x)
{
    const vi q = __builtin_convertvector(vf_round(x), vi);
    for (int i = 0; i < 4; i++)
        p[i] = (int8_t)q[i];
}
MICA_VEC void vf_to_u8(uint8_t *p, vf x)
{
    const vi q = __builtin_convertvector(vf_round(x), vi);
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)q[i];
}
/* Lane i of both as the pair (a_i, b_i) of bf16. */
MICA_VEC vi vi_bf16_pairs(vf a, vf b)
{
    return vec_bf16_bits(a) | (vec_bf16_bits(b) << 16);
}
/* Two vectors of floats to 2 * MICA_W bf16 in order. */
MICA_VEC vi vi_bf16_from_2vf(vf low, vf high)
{
    return vi_bf16_pairs((vf){low[0], low[2], high[0], high[2]},
                         (vf){low[1], low[3], high[1], high[3]});
}

/* ---------------------------------------------------------------- integers -- */

MICA_VEC vi vi_load(const void *p)
{
    vi x;
    memcpy(&x, p, sizeof(x));
    return x;
}
MICA_VEC void vi_store(void *p, vi x)
{
    memcpy(p, &x, sizeof(x));
}
MICA_VEC vi vi_load_n(const int32_t *p, int n)
{
    return (vi){n > 0 ? p[0] : 0, n > 1 ? p[1] : 0, n > 2 ? p[2] : 0, 0};
}
MICA_VEC void vi_store_n(int32_t *p, vi x, int n)
{
    if (n > 0)
        p[0] = x[0];
    if (n > 1)
        p[1] = x[1];
    if (n > 2)
        p[2] = x[2];
}
MICA_VEC vi vi_set1(int32_t a)
{
    return (vi){a, a, a, a};
}
MICA_VEC vi vi_zero(void)
{
    return (vi){0};
}
MICA_VEC vi vi_sub(vi a, vi b)
{
    return a - b;
}
MICA_VEC vi vi_mul(vi a, vi b) /* low 32 bits */
{
    return a * b;
}
MICA_VEC vf vf_from_vi(vi a)
{
    return __builtin_convertvector(a, vf);
}
/* Lane i: acc + sum over its 4 bytes of u8(a) * s8(b), exact. */
MICA_VEC vi vi_dot_u8s8(vi acc, vi a, vi b)
{
    acc += (a & 0xff) * ((b << 24) >> 24);
    acc += ((a >> 8) & 0xff) * ((b << 16) >> 24);
    acc += ((a >> 16) & 0xff) * ((b << 8) >> 24);
    return acc + ((a >> 24) & 0xff) * (b >> 24);
}

/* ------------------------------------------------------------ packed numbers -- */

MICA_VEC vi vi_from_u8(const uint8_t *p)
{
    return vec_widen8(p);
}
MICA_VEC vi vi_from_s8(const int8_t *p)
{
    return (vi){p[0], p[1], p[2], p[3]};
}
MICA_VEC vi vi_from_words(const uint32_t *w, int v)
{
    const uint32_t x = w[v];
    return (vi){(int32_t)(x & 255u), (int32_t)(x >> 8 & 255u), (int32_t)(x >> 16 & 255u),
                (int32_t)(x >> 24)};
}
MICA_VEC vi vi_and(vi a, vi b)
{
    return a & b;
}
MICA_VEC vi vi_or(vi a, vi b)
{
    return a | b;
}
MICA_VEC vi vi_shl(vi a, int n)
{
    return a << n;
}
MICA_VEC vi vi_shr(vi a, int n)
{
    typedef uint32_t vu __attribute__((vector_size(16)));
    return (vi)((vu)a >> (uint32_t)n);
}
MICA_VEC vi vi_bit(uint32_t word, int v)
{
    const uint32_t w = word >> (4 * v);
    return (vi){(int32_t)(w & 1u), (int32_t)(w >> 1 & 1u), (int32_t)(w >> 2 & 1u),
                (int32_t)(w >> 3 & 1u)};
}
MICA_VEC int32_t vec_number(const uint8_t *p, int bits, int n)
{
    const int at = n * bits / 8, shift = n * bits % 8;
    const int two = p[at] | (shift + bits > 8 ? p[at + 1] << 8 : 0);
    return two >> shift & ((1 << bits) - 1);
}
MICA_VEC vi vi_bits(const void *p, int bits, int v)
{
    const uint8_t *b = (const uint8_t *)p;
    return (vi){vec_number(b, bits, 4 * v), vec_number(b, bits, 4 * v + 1),
                vec_number(b, bits, 4 * v + 2), vec_number(b, bits, 4 * v + 3)};
}
MICA_VEC vi vi_nibbles(const void *p, int v)
{
    return vi_bits(p, 4, v);
}
typedef struct vec_table {
    const float *t;
    vf scale;
} vec_table;
MICA_VEC vec_table vec_table_make(const float *t, float scale)
{
    return (vec_table){t, vf_set1(scale)};
}
MICA_VEC vf vf_table(vec_table t, vi index)
{
    const vi i = index & 15;
    return (vf){t.t[i[0]], t.t[i[1]], t.t[i[2]], t.t[i[3]]} * t.scale;
}
typedef struct vec_even {
    vf scale, bias;
} vec_even;
MICA_VEC vec_even vec_even_make(float scale, float bias)
{
    return (vec_even){vf_set1(scale), vf_set1(bias)};
}
MICA_VEC vf vf_even(vec_even e, vi index)
{
    return vf_fma(vf_from_vi(index & 15), e.scale, e.bias);
}
MICA_VEC float vec_f16(const void *p)
{
    uint16_t h[4] = {0};
    memcpy(h, p, sizeof(*h));
    return vf_from_f16(h)[0];
}

/* -------------------------------------------------------------- permutation -- */

MICA_VEC vf vf_swap_pairs(vf x) /* x1 x0 x3 x2 */
{
    return (vf){x[1], x[0], x[3], x[2]};
}
MICA_VEC vf vf_load_twice(const float *p) /* p0 p0 p1 p1: MICA_W / 2 floats are read */
{
    return (vf){p[0], p[0], p[1], p[1]};
}
MICA_VEC void vf_transpose(vf r[MICA_W]) /* rows to columns */
{
    const vf a = r[0], b = r[1], c = r[2], d = r[3];
    for (int i = 0; i < 4; i++)
        r[i] = (vf){a[i], b[i], c[i], d[i]};
}

#endif
