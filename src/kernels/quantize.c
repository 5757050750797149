/* quantize.c - rows to 8 bit: symmetric s8 for weights, asymmetric u8 for activations.
 *
 *     s8   s = max|x| / 127              q = round(x / s)             x ~= s q
 *     u8   s = (max - min) / 255         q = round(x / s) + zero      x ~= s (q - zero)
 *
 * Two passes over a row: its range, then the rounding. Weights are read from the type of their
 * file, so no f32 copy of a matrix is ever made. Rounding is to nearest even. */
#include "kernels/level.h"
#include "kernels/vec.h"

#include <math.h>

/* Below this 127 / absmax would leave the range of f32; such a row is zero for every purpose. */
#define SMALLEST_RANGE 1e-30f

typedef struct row {
    const void *data;
    int n;
} row;
typedef vf load_row(const row *r, int i, int k); /* lanes [i, i + k), k <= MICA_W, zeros behind */

MICA_VEC vf load_f32(const row *r, int i, int k)
{
    const float *p = (const float *)r->data + i;
    return k == MICA_W ? vf_load(p) : vf_load_n(p, k);
}
MICA_VEC const uint16_t *part16(const row *r, int i, int k, vec_buffer *b)
{
    const uint16_t *p = (const uint16_t *)r->data + i;
    if (k == MICA_W)
        return p;
    vec_buffer_load(b, p, k, sizeof(*p));
    return b->u16;
}
MICA_VEC const uint8_t *part8(const row *r, int i, int k, vec_buffer *b)
{
    const uint8_t *p = (const uint8_t *)r->data + i;
    if (k == MICA_W)
        return p;
    vec_buffer_load(b, p, k, sizeof(*p));
    return b->u8;
}
MICA_VEC vf load_bf16(const row *r, int i, int k)
{
    vec_buffer b;
    return vf_from_bf16(part16(r, i, k, &b));
}
MICA_VEC vf load_f16(const row *r, int i, int k)
{
    vec_buffer b;
    return vf_from_f16(part16(r, i, k, &b));
}
MICA_VEC vf load_f8_e4m3(const row *r, int i, int k)
{
    vec_buffer b;
    return vf_from_f8_e4m3(part8(r, i, k, &b));
}
MICA_VEC vf load_f8_e5m2(const row *r, int i, int k)
{
    vec_buffer b;
    return vf_from_f8_e5m2(part8(r, i, k, &b));
}

MICA_VEC float absmax(const row *r, load_row *load)
{
    vf a = vf_zero(), b = vf_zero();
    int i = 0;
    for (; i + 2 * MICA_W <= r->n; i += 2 * MICA_W) {
        a = vf_max(vf_abs(load(r, i, MICA_W)), a);
        b = vf_max(vf_abs(load(r, i + MICA_W, MICA_W)), b);
    }
    for (; i + MICA_W <= r->n; i += MICA_W)
        a = vf_max(vf_abs(load(r, i, MICA_W)), a);
    if (i < r->n)
        a = vf_max(vf_abs(load(r, i, r->n - i)), a);
    return vf_hmax(vf_max(a, b));
}

MICA_VEC int32_t sum_s8(int n, const int8_t *q)
{
    int32_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += q[i];
    return sum;
}

MICA_VEC float quantize_s8(const row *r, int8_t *q, int32_t *sum, load_row *load)
{
    const float range = absmax(r, load);
    if (range < SMALLEST_RANGE) {
        memset(q, 0, (size_t)r->n);
        if (sum)
            *sum = 0;
        return 0.0f;
    }
    const vf inverse = vf_set1(127.0f / range);
    int i = 0;
    for (; i + MICA_W <= r->n; i += MICA_W)
        vf_to_s8(q + i, vf_mul(load(r, i, MICA_W), inverse));
    if (i < r->n) {
        int8_t part[MICA_W];
        vf_to_s8(part, vf_mul(load(r, i, r->n - i), inverse));
        memcpy(q + i, part, (size_t)(r->n - i));
    }
    if (sum)
        *sum = sum_s8(r->n, q);
    return range / 127.0f;
}

float MICA_K(quantize_s8_from_f32)(int n, const float *x, int8_t *q, int32_t *sum)
{
    const row r = {x, n};
    return quantize_s8(&r, q, sum, load_f32);
}
float MICA_K(quantize_s8_from_bf16)(int n, const uint16_t *x, int8_t *q, int32_t *sum)
{
    const row r = {x, n};
    return quantize_s8(&r, q, sum, load_bf16);
}
float MICA_K(quantize_s8_from_f16)(int n, const uint16_t *x, int8_t *q, int32_t *sum)
{
    const row r = {x, n};
    return quantize_s8(&r, q, sum, load_f16);
}
float MICA_K(quantize_s8_from_f8_e4m3)(int n, const uint8_t *x, int8_t *q, int32_t *sum)
{
    const row r = {x, n};
    return quantize_s8(&r, q, sum, load_f8_e4m3);
}
float MICA_K(quantize_s8_from_f8_e5m2)(int n, const uint8_t *x, int8_t *q, int32_t *sum)
{
    const row r = {x, n};
    return quantize_s8(&r, q, sum, load_f8_e5m2);
}

/* The range always contains 0, so that 0 has a code: zeros of padding stay zeros. */
MICA_VEC void range_of(int n, const float *x, float *low, float *high)
{
    vf lo = vf_zero(), hi = vf_zero();
    int i = 0;
    for (; i + MICA_W <= n; i += MICA_W) {
        const vf v = vf_load(x + i);
        lo = vf_min(v, lo);
        hi = vf_max(v, hi);
    }
    if (i < n) {
        const vf v = vf_load_n(x + i, n - i);
        lo = vf_min(v, lo);
        hi = vf_max(v, hi);
    }
    *low = -vf_hmax(vf_sub(vf_zero(), lo));
    *high = vf_hmax(hi);
}

float MICA_K(quantize_u8_from_f32)(int n, const float *x, uint8_t *q, int32_t *zero)
{
    float low, high;
    range_of(n, x, &low, &high);
    if (high - low < SMALLEST_RANGE) {
        *zero = 0;
        memset(q, 0, (size_t)n);
        return 0.0f;
    }
    /* Halves first: high - low may overflow where neither does. */
    const float step = high / 255.0f - low / 255.0f;
    const float offset = rintf(-low / step);
    const vf inverse = vf_set1(1.0f / step), z = vf_set1(offset);
    const vf least = vf_zero(), most = vf_set1(255.0f);
    int i = 0;
    for (; i < n; i += MICA_W) {
        const int k = n - i < MICA_W ? n - i : MICA_W;
        const vf v = k == MICA_W ? vf_load(x + i) : vf_load_n(x + i, k);
        const vf code = vf_add(vf_round(vf_mul(v, inverse)), z);
        const vf clamped = vf_min(most, vf_max(code, least));
        if (k == MICA_W) {
            vf_to_u8(q + i, clamped);
        } else {
            uint8_t part[MICA_W];
            vf_to_u8(part, clamped);
            memcpy(q + i, part, (size_t)k);
        }
    }
    *zero = (int32_t)offset;
    return step;
}
