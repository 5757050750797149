/* half.h - scalar conversions between f32 and the small float formats.
 *
 * To a smaller format: round to nearest, ties to even; NaN stays NaN (quiet).
 * f8 formats follow the OCP 8-bit specification: E4M3 has no infinity (S.1111.111 is NaN,
 * largest 448, overflow gives NaN as torch's float8_e4m3fn does), E5M2 is IEEE-like. */
#ifndef MICA_BASE_HALF_H
#define MICA_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float mica_f32_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint32_t mica_f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float mica_bf16_to_f32(uint16_t h)
{
    return mica_f32_from_bits((uint32_t)h << 16);
}
static inline uint16_t mica_f32_to_bf16(float f)
{
    const uint32_t u = mica_f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
float mica_f16_to_f32(uint16_t h);
uint16_t mica_f32_to_f16(float f);
float mica_f8_e4m3_to_f32(uint8_t b);
float mica_f8_e5m2_to_f32(uint8_t b);
/* Beyond 448 it is 448: for weights whose scale was chosen to fit. */
uint8_t mica_f32_to_f8_e4m3_saturated(float f);

#endif
