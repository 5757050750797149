/* pack_weights.c - finds scales and integers of packed weights; see pack_weights.h.
 *
 *     symmetric   x ~ s q          try scales around the largest magnitude, keep the least squared error
 *     affine      x ~ s q - m      the same with a minimum m >= 0
 *     then        scales and minima of a block of 256 as integers of its own f16 scale, and the
 *                 integers once more for what the scales have become
 *
 * For given integers the best s (and m) are those of least squares; for given s and m the best integers are
 * the nearest. A few starts, each followed by one such round, come within a percent of an exhaustive search.
 * Scalar and without haste: about 20 ns a number for the types of 256. */
#include "tensor/pack_weights.h"

#include "base/half.h"

#include <math.h>
#include <string.h>

static int clamp(int v, int least, int most)
{
    return v < least ? least : v > most ? most : v;
}

static int nearest(float v)
{
    return (int)lrintf(v);
}

static void put_half(uint8_t *p, float v)
{
    const uint16_t h = mica_f32_to_f16(v);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static float half_of(float v)
{
    return mica_f16_to_f32(mica_f32_to_f16(v));
}

static float inverse(float v)
{
    return v == 0.0f || !isfinite(1.0f / v) ? 0.0f : 1.0f / v;
}

/* The number of largest magnitude, with its sign. */
static float extreme(const float *x, int n)
{
    float most = 0.0f;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(most))
            most = x[i];
    return most;
}

/* ------------------------------------------------------- blocks of 32 -- */

static void write_q8_0(const float *x, uint8_t *b)
{
    const float d = half_of(fabsf(extreme(x, 32)) / 127.0f), id = inverse(d);
    put_half(b, d);
    for (int i = 0; i < 32; i++)
        b[2 + i] = (uint8_t)(int8_t)clamp(nearest(x[i] * id), -127, 127);
}

/* The least squared error of scales near that which puts the extreme number at the far end. */
static float fit_symmetric(const float *x, int n, int least, int most)
{
    const float far = extreme(x, n);
    float best = 0.0f, best_gain = 0.0f;
    for (int step = -4; step <= 4 && far != 0.0f; step++) {
        const float id = ((float)least + 0.1f * (float)step) / far;
        float xq = 0.0f, qq = 0.0f;
        for (int i = 0; i < n; i++) {
            const float q = (float)clamp(nearest(x[i] * id), least, most);
            xq += x[i] * q;
            qq += q * q;
        }
        /* Error with s = xq / qq is sum x^2 - xq^2 / qq. */
        if (qq > 0.0f && xq * xq > best_gain * qq) {
            best = xq / qq;
            best_gain = xq * xq / qq;
        }
    }
    return best;
}

/* q4_0 and q5_0: bits - 1 of magnitude around the middle. */
static void write_signed(const float *x, int bits, uint8_t *b)
{
    const int middle = 1 << (bits - 1);
    const float d = half_of(fit_symmetric(x, 32, -middle, middle - 1)), id = inverse(d);
    uint8_t *qs = b + (bits == 5 ? 6 : 2);
    uint32_t fifth = 0;
    put_half(b, d);
    for (int i = 0; i < 16; i++) {
        const int low = clamp(nearest(x[i] * id), -middle, middle - 1) + middle;
        const int high = clamp(nearest(x[i + 16] * id), -middle, middle - 1) + middle;
        qs[i] = (uint8_t)((low & 15) | (high & 15) << 4);
        fifth |= (uint32_t)(low >> 4) << i | (uint32_t)(high >> 4) << (i + 16);
    }
    for (int i = 0; bits == 5 && i < 4; i++)
        b[2 + i] = (uint8_t)(fifth >> 8 * i);
}

/* ------------------------------------------------------ blocks of 256 -- */

typedef struct affine_fit {
    float scale, least; /* x ~ scale q - least */
} affine_fit;

/* Least squares of x ~ s q - m for the integers that (scale, least) give; the error, and what is better. */
static float refine(const float *x, int most, affine_fit *fit)
{
    float sq = 0.0f, sqq = 0.0f, sx = 0.0f, sxq = 0.0f, error = 0.0f;
    const float id = inverse(fit->scale);
    for (int i = 0; i < 32; i++) {
        const float q = (float)clamp(nearest((x[i] + fit->least) * id), 0, most);
        sq += q;
        sqq += q * q;
        sx += x[i];
        sxq += x[i] * q;
    }
    const float det = 32.0f * sqq - sq * sq;
    if (det > 0.0f) {
        float s = (32.0f * sxq - sx * sq) / det, m = -(sx * sqq - sq * sxq) / det;
        if (m < 0.0f) {
            m = 0.0f;
            s = sqq > 0.0f ? sxq / sqq : 0.0f;
        }
        if (s > 0.0f)
            *fit = (affine_fit){s, m};
    }
    const float best = inverse(fit->scale);
    for (int i = 0; i < 32; i++) {
        const float q = (float)clamp(nearest((x[i] + fit->least) * best), 0, most);
        const float e = x[i] - (fit->scale * q - fit->least);
        error += e * e;
    }
    return error;
}

static affine_fit fit_affine(const float *x, int most)
{
    float low = 0.0f, high = x[0];
    affine_fit best = {0};
    float best_error = INFINITY;
    for (int i = 0; i < 32; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    if (!(high > low))
        return (affine_fit){0.0f, -low};
    for (int step = -5; step <= 3; step++) {
        affine_fit fit = {(high - low) / ((float)most + 0.1f * (float)step), -low};
        const float error = refine(x, most, &fit);
        if (error < best_error) {
            best = fit;
            best_error = error;
        }
    }
    return best;
}

/* 8 scales and 8 minima of 6 bits into 12 bytes; packed.c's k4_scale is the way back. */
static void put_scales(const int *scale, const int *least, uint8_t *s)
{
    for (int j = 0; j < 4; j++) {
        s[j] = (uint8_t)(scale[j] | (scale[j + 4] >> 4) << 6);
        s[j + 4] = (uint8_t)(least[j] | (least[j + 4] >> 4) << 6);
        s[j + 8] = (uint8_t)((scale[j + 4] & 15) | (least[j + 4] & 15) << 4);
    }
}

static void write_q45_k(const float *x, int bits, uint8_t *b)
{
    affine_fit fit[8];
    float largest = 0.0f, deepest = 0.0f;
    int scale[8], least[8];
    const int most = (1 << bits) - 1;
    uint8_t *qs = b + (bits == 5 ? 48 : 16);
    for (int j = 0; j < 8; j++) {
        fit[j] = fit_affine(x + 32 * j, most);
        largest = fmaxf(largest, fit[j].scale);
        deepest = fmaxf(deepest, fit[j].least);
    }
    const float d = half_of(largest / 63.0f), dmin = half_of(deepest / 63.0f);
    memset(b + 16, 0, bits == 5 ? 160 : 128);
    put_half(b, d);
    put_half(b + 2, dmin);
    for (int j = 0; j < 8; j++) {
        scale[j] = clamp(nearest(fit[j].scale * inverse(d)), 0, 63);
        least[j] = clamp(nearest(fit[j].least * inverse(dmin)), 0, 63);
        const float id = inverse(d * (float)scale[j]), m = dmin * (float)least[j];
        for (int i = 0; i < 32; i++) {
            const int q = clamp(nearest((x[32 * j + i] + m) * id), 0, most);
            qs[32 * (j / 2) + i] |= (uint8_t)((q & 15) << 4 * (j % 2));
            if (bits == 5)
                b[16 + i] |= (uint8_t)((q >> 4) << j);
        }
    }
    put_scales(scale, least, b + 4);
}

static void write_q6_k(const float *x, uint8_t *b)
{
    float scale[16];
    for (int j = 0; j < 16; j++)
        scale[j] = fit_symmetric(x + 16 * j, 16, -32, 31);
    const float d = half_of(extreme(scale, 16) / -128.0f), id = inverse(d);
    memset(b, 0, 210);
    put_half(b + 208, d);
    for (int j = 0; j < 16; j++) {
        const int s = clamp(nearest(scale[j] * id), -128, 127);
        const float is = inverse(d * (float)s);
        b[192 + j] = (uint8_t)(int8_t)s;
        for (int i = 16 * j; i < 16 * j + 16; i++) {
            const int half = i / 128, plane = i % 128 / 32, l = i % 32;
            const int q = clamp(nearest(x[i] * is), -32, 31) + 32;
            b[64 * half + 32 * (plane % 2) + l] |= (uint8_t)((q & 15) << 4 * (plane / 2));
            b[128 + 32 * half + l] |= (uint8_t)((q >> 4) << 2 * plane);
        }
    }
}

void mica_packed_write_block(mica_dtype dtype, const float *x, void *block)
{
    switch (dtype) {
    case MICA_DTYPE_Q8_0:
        write_q8_0(x, block);
        break;
    case MICA_DTYPE_Q4_0:
        write_signed(x, 4, block);
        break;
    case MICA_DTYPE_Q5_0:
        write_signed(x, 5, block);
        break;
    case MICA_DTYPE_Q4_K:
        write_q45_k(x, 4, block);
        break;
    case MICA_DTYPE_Q5_K:
        write_q45_k(x, 5, block);
        break;
    default:
        write_q6_k(x, block);
    }
}

/* --------------------------------------------------------------- groups -- */

/* The end of larger magnitude is met exactly, as mlx.core.quantize has it: the bias is that number. */
void mica_affine_write_group(int bits, int group, const float *x, void *words, uint16_t *scale,
                             uint16_t *bias)
{
    const int most = (1 << bits) - 1;
    float low = x[0], high = x[0];
    uint8_t *out = words;
    for (int i = 1; i < group; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    const bool from_below = fabsf(low) > fabsf(high);
    const float edge = from_below ? low : high, step = (high - low) / (float)most;
    float s = from_below ? step : -step;
    const float zero = s == 0.0f ? 0.0f : rintf(edge / s); /* zero becomes a number of the grid */
    if (zero != 0.0f)
        s = edge / zero;
    *scale = mica_f32_to_bf16(s);
    *bias = mica_f32_to_bf16(edge);
    const float is = inverse(mica_bf16_to_f32(*scale)), b = mica_bf16_to_f32(*bias);
    memset(out, 0, (size_t)(group * bits / 8));
    for (int i = 0; i < group; i++) {
        const int q = clamp(nearest((x[i] - b) * is), 0, most), at = i * bits;
        out[at / 8] |= (uint8_t)(q << at % 8);
        if (at % 8 + bits > 8)
            out[at / 8 + 1] |= (uint8_t)(q >> (8 - at % 8));
    }
}
