/* half.c - f16 and the two f8 formats, one number at a time.
 *
 *            sign exponent mantissa  bias
 *     f16      1      5       10      15    IEEE 754 binary16
 *     E5M2     1      5        2      15    the upper byte of an f16
 *     E4M3     1      4        3       7    no infinity; S.1111.111 is NaN; largest 448
 *
 * Rows of numbers are converted by the kernels; this is for tables, tests and tails. */
#include "base/half.h"

#include <math.h>

float mica_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 0x1fu, mantissa = h & 0x3ffu;
    if (exponent == 0x1fu) /* infinity, or NaN made quiet */
        return mica_f32_from_bits(sign | 0x7f800000u | (mantissa << 13) |
                                  (mantissa ? 0x00400000u : 0u));
    if (exponent != 0)
        return mica_f32_from_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
    const float magnitude = (float)mantissa * 0x1p-24f; /* exact */
    return sign ? -magnitude : magnitude;
}

uint16_t mica_f32_to_f16(float f)
{
    const uint32_t bits = mica_f32_bits(f), magnitude = bits & 0x7fffffffu;
    const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude >= 0x38800000u) { /* normal in f16: 2^-14 and above */
        const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
        return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
    }
    /* Subnormal: adding 2^-1 * 2^0 aligns the last bit with 2^-24; the addition rounds to even. */
    const float aligned = mica_f32_from_bits(magnitude) + 0.5f;
    return (uint16_t)(sign | (mica_f32_bits(aligned) - 0x3f000000u));
}

float mica_f8_e4m3_to_f32(uint8_t b)
{
    const uint32_t exponent = (b >> 3) & 15u, mantissa = b & 7u;
    float magnitude;
    if (exponent == 15u && mantissa == 7u)
        return NAN;
    if (exponent == 0)
        magnitude = (float)mantissa * 0x1p-9f;
    else
        magnitude = mica_f32_from_bits(((exponent + 120u) << 23) | (mantissa << 20));
    return (b & 0x80u) ? -magnitude : magnitude;
}

float mica_f8_e5m2_to_f32(uint8_t b)
{
    return mica_f16_to_f32((uint16_t)(b << 8));
}

uint8_t mica_f32_to_f8_e4m3_saturated(float f)
{
    const uint32_t u = mica_f32_bits(f);
    const uint8_t sign = (uint8_t)(u >> 24 & 0x80u);
    const float a = mica_f32_from_bits(u & 0x7fffffffu);
    if (!(a == a))
        return (uint8_t)(sign | 0x7fu);
    if (a >= 448.0f)
        return (uint8_t)(sign | 0x7eu);
    if (a < 0x1p-6f) { /* denormal: multiples of 2^-9; adding 2^23 rounds to whole ones */
        const float whole = a * 512.0f + 8388608.0f;
        return (uint8_t)(sign | (mica_f32_bits(whole) & 15u));
    }
    const uint32_t b = mica_f32_bits(a), rounded = b + 0x7ffffu + (b >> 20 & 1u);
    return (uint8_t)(sign | ((rounded >> 20) - ((127u - 7u) << 3)));
}
