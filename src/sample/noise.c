/* noise.c - standard normal numbers as torch's CPU generator draws them.
 *
 *   n >= 16   1. n uniforms u = (word mod 2^24) / 2^24
 *             2. in blocks of 16:   [ a0 .. a7 | b0 .. b7 ]  becomes
 *                r = sqrt(-2 log(1 - a)),  [ r cos(2 pi b) | r sin(2 pi b) ]
 *             3. n not a multiple of 16: the last 16 places are drawn anew and transformed,
 *                overlapping the block before
 *   n <  16   one pair at a time from 53-bit uniforms in double, the second value of the
 *             pair is kept for the next call
 *
 * torch's AVX2 build computes log, sin and cos with the single-precision Cephes polynomials
 * (avx_mathfun.h), and its compiler fuses multiplications and additions. The functions below
 * follow the same polynomials with the same fusing through fmaf, which is exact everywhere, so that a
 * seed gives the same bits on any machine. Checked on 3.3 million draws of torch 2.14: no bit
 * differs. A 1024x1024 picture needs 262,144 values, about 5 ms.
 *
 * torch scales by the deviation 1 and adds the mean 0; the sum turns -0 into 0, hence "+ 0".
 *
 * What it does not do: CUDA's Philox streams, float16 and float64 draws. */
#include "sample/noise.h"

#include "base/half.h"
#include "base/rng.h"

#include <math.h>
#include <stdbool.h>

#define BLOCK 16
#define HALF  8

static const double PI = 3.14159265358979323846;

/* Horner's scheme with one rounding per step. */
static float horner(const float *coefficient, int n, float x)
{
    float y = coefficient[0];
    for (int i = 1; i < n; i++)
        y = fmaf(y, x, coefficient[i]);
    return y;
}

/* Cephes logf: x = m * 2^e with m in [sqrt(1/2), sqrt(2)), log(1 + f) by a polynomial. x is in
 * [2^-24, 1] here. ln 2 is split in two so that e * LN2_HI is exact. */
static float cephes_log(float x)
{
    static const float p[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                              -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                              2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
    const float ln2_lo = -2.12194440e-4f, ln2_hi = 0.693359375f, sqrt_half = 0.707106781186547524f;
    const uint32_t bits = mica_f32_bits(x);
    float e = (float)((int)(bits >> 23) - 126);
    float m = mica_f32_from_bits((bits & 0x007fffffu) | 0x3f000000u); /* [1/2, 1) */
    if (m < sqrt_half) {
        e -= 1.0f;
        m += m;
    }
    const float f = m - 1.0f;
    const float z = f * f;
    float y = fmaf(horner(p, 9, f) * f, z, e * ln2_lo);
    y = fmaf(z, -0.5f, y);
    return fmaf(e, ln2_hi, f + y);
}

/* Cephes sinf and cosf of x in [0, 2 pi]: reduced to [-pi/4, pi/4] by the octant j, pi/4 split in
 * three; then one polynomial for the sine and one for the cosine, exchanged by octant. */
static void cephes_sincos(float x, float *sine, float *cosine)
{
    static const float ps[] = {-1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f};
    static const float pc[] = {2.443315711809948e-5f, -1.388731625493765e-3f,
                               4.166664568298827e-2f};
    const int j = ((int)(x * 1.27323954473516f) + 1) & ~1;
    const float y = (float)j;
    float r = fmaf(y, -0.78515625f, x);
    r = fmaf(y, -2.4187564849853515625e-4f, r);
    r = fmaf(y, -3.77489497744594108e-8f, r);
    const float z = r * r;
    const float c = fmaf(horner(pc, 3, z) * z, z, -0.5f * z) + 1.0f;
    const float s = fmaf(horner(ps, 3, z) * z, r, r);
    const bool swap = (j & 2) != 0;
    *sine = (swap ? c : s) * ((j & 4) ? -1.0f : 1.0f);
    *cosine = (swap ? s : c) * (((j - 2) & 4) ? 1.0f : -1.0f);
}

static float uniform24(mica_mt19937 *g)
{
    return (float)(mica_mt19937_next(g) & 0xffffffu) * 0x1p-24f;
}

/* Two words of the generator, the first one high, of which 53 bits are used. */
static double uniform53(mica_mt19937 *g)
{
    const uint64_t high = mica_mt19937_next(g);
    const uint64_t low = mica_mt19937_next(g);
    return (double)((high << 32 | low) & 0x1fffffffffffffu) * 0x1p-53;
}

static void draw_few(mica_mt19937 *g, float *out, size_t n)
{
    for (size_t i = 0; i < n; i += 2) {
        const double theta = 2.0 * PI * uniform53(g);
        const double radius = sqrt(-2.0 * log1p(-uniform53(g)));
        out[i] = (float)(radius * cos(theta) + 0.0);
        if (i + 1 < n)
            out[i + 1] = (float)(radius * sin(theta) + 0.0);
    }
}

static void transform_block_f32(float *v)
{
    for (int i = 0; i < HALF; i++) {
        float s, c;
        const float radius = sqrtf(-2.0f * cephes_log(1.0f - v[i]));
        cephes_sincos((float)(2.0 * PI) * v[i + HALF], &s, &c);
        v[i] = radius * c + 0.0f;
        v[i + HALF] = radius * s + 0.0f;
    }
}

static float bf16(float v)
{
    return mica_bf16_to_f32(mica_f32_to_bf16(v));
}

/* Every intermediate value is rounded to bfloat16, as torch's scalar template on c10::BFloat16. */
static void transform_block_bf16(float *v)
{
    for (int i = 0; i < HALF; i++) {
        const float u = bf16(1.0f - v[i]);
        const float radius = bf16(sqrtf(bf16(-2.0f * bf16(logf(u)))));
        const float theta = bf16((float)(2.0 * PI * (double)v[i + HALF]));
        v[i] = bf16(radius * bf16(cosf(theta))) + 0.0f;
        v[i + HALF] = bf16(radius * bf16(sinf(theta))) + 0.0f;
    }
}

typedef float (*uniform_fn)(mica_mt19937 *g);
typedef void (*transform_fn)(float *v);

static void draw_many(mica_mt19937 *g, uniform_fn uniform, transform_fn transform, float *out,
                      size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = uniform(g);
    for (size_t i = 0; i + BLOCK <= n; i += BLOCK)
        transform(out + i);
    if (n % BLOCK == 0)
        return;
    float *last = out + n - BLOCK;
    for (int i = 0; i < BLOCK; i++)
        last[i] = uniform(g);
    transform(last);
}

static float uniform8(mica_mt19937 *g)
{
    return (float)(mica_mt19937_next(g) & 0xffu) * 0x1p-8f;
}

void mica_noise_f32_next(mica_mt19937 *g, float *out, size_t n)
{
    if (n < BLOCK)
        draw_few(g, out, n);
    else
        draw_many(g, uniform24, transform_block_f32, out, n);
}

void mica_noise_bf16_torch211_next(mica_mt19937 *g, float *out, size_t n)
{
    if (n >= BLOCK) {
        draw_many(g, uniform8, transform_block_bf16, out, n);
        return;
    }
    draw_few(g, out, n);
    for (size_t i = 0; i < n; i++)
        out[i] = bf16(out[i]);
}

void mica_noise_f32(uint64_t seed, float *out, size_t n)
{
    mica_mt19937 g;
    mica_mt19937_init(&g, seed);
    mica_noise_f32_next(&g, out, n);
}

void mica_noise_bf16_torch211(uint64_t seed, float *out, size_t n)
{
    mica_mt19937 g;
    mica_mt19937_init(&g, seed);
    mica_noise_bf16_torch211_next(&g, out, n);
}
