/* norm_rows.c - normalisation of rows: LayerNorm with modulation, RMS norm, channel L2 norm.
 *
 *     x   rows x n   ──►  statistics of the row  ──►  y = row * factor (* weight + shift)
 *
 * Rows are read twice or three times; a row of 3072 floats (12 KiB) stays in the L1 cache, so
 * memory sees one read and one write. Sums run in four vectors that are added at the end,
 * which keeps the rounding error at n / (4 W) additions and the order fixed for a given n.
 * Norms over groups of channels are in group_norm.c. */
#include "kernels/level.h"
#include "kernels/vec_math.h"

#include <math.h>

MICA_VEC float sum_row(int n, const float *x)
{
    vf s0 = vf_zero(), s1 = vf_zero(), s2 = vf_zero(), s3 = vf_zero();
    int i = 0;
    for (; i + 4 * MICA_W <= n; i += 4 * MICA_W) {
        s0 = vf_add(s0, vf_load(x + i));
        s1 = vf_add(s1, vf_load(x + i + MICA_W));
        s2 = vf_add(s2, vf_load(x + i + 2 * MICA_W));
        s3 = vf_add(s3, vf_load(x + i + 3 * MICA_W));
    }
    for (; i + MICA_W <= n; i += MICA_W)
        s0 = vf_add(s0, vf_load(x + i));
    if (i < n)
        s1 = vf_add(s1, vf_load_n(x + i, n - i));
    return vf_hsum(vf_add(vf_add(s0, s1), vf_add(s2, s3)));
}

MICA_VEC float sum_squares(int n, const float *x)
{
    vf s0 = vf_zero(), s1 = vf_zero(), s2 = vf_zero(), s3 = vf_zero();
    int i = 0;
    for (; i + 4 * MICA_W <= n; i += 4 * MICA_W) {
        const vf a = vf_load(x + i), b = vf_load(x + i + MICA_W);
        const vf c = vf_load(x + i + 2 * MICA_W), d = vf_load(x + i + 3 * MICA_W);
        s0 = vf_fma(a, a, s0);
        s1 = vf_fma(b, b, s1);
        s2 = vf_fma(c, c, s2);
        s3 = vf_fma(d, d, s3);
    }
    for (; i + MICA_W <= n; i += MICA_W) {
        const vf a = vf_load(x + i);
        s0 = vf_fma(a, a, s0);
    }
    if (i < n) {
        const vf a = vf_load_n(x + i, n - i);
        s1 = vf_fma(a, a, s1);
    }
    return vf_hsum(vf_add(vf_add(s0, s1), vf_add(s2, s3)));
}

/* Sums of d = x - mean and of d^2: the first corrects the rounding of the mean itself. */
MICA_VEC void sum_differences(int n, const float *x, float mean, float *sum, float *squares)
{
    const vf m = vf_set1(mean);
    vf a0 = vf_zero(), a1 = vf_zero(), q0 = vf_zero(), q1 = vf_zero();
    int i = 0;
    for (; i + 2 * MICA_W <= n; i += 2 * MICA_W) {
        const vf d = vf_sub(vf_load(x + i), m), e = vf_sub(vf_load(x + i + MICA_W), m);
        a0 = vf_add(a0, d);
        a1 = vf_add(a1, e);
        q0 = vf_fma(d, d, q0);
        q1 = vf_fma(e, e, q1);
    }
    *sum = vf_hsum(vf_add(a0, a1));
    *squares = vf_hsum(vf_add(q0, q1));
    for (; i < n; i++) {
        const float d = x[i] - mean;
        *sum += d;
        *squares += d * d;
    }
}

MICA_VEC vf modulate(vf d, vf correction, vf rstd, vf scale, vf shift)
{
    const vf unit = vf_mul(vf_sub(d, correction), rstd);
    return vf_fma(unit, vf_add(vf_set1(1.0f), scale), shift);
}

static void layer_norm_row(int n, const float *x, const float *scale, const float *shift, float eps,
                           float *y)
{
    const float mean = sum_row(n, x) / (float)n;
    float sum, squares;
    sum_differences(n, x, mean, &sum, &squares);
    const float rest = sum / (float)n;
    const float variance = squares / (float)n - rest * rest;
    /* Written so that a NaN variance stays NaN. */
    const float rstd = 1.0f / sqrtf((variance < 0.0f ? 0.0f : variance) + eps);
    const vf m = vf_set1(mean), c = vf_set1(rest), r = vf_set1(rstd), zero = vf_zero();
    int i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(y + i, modulate(vf_sub(vf_load(x + i), m), c, r, scale ? vf_load(scale + i) : zero,
                                 shift ? vf_load(shift + i) : zero));
    if (i < n) {
        const int k = n - i;
        vf_store_n(y + i,
                   modulate(vf_sub(vf_load_n(x + i, k), m), c, r,
                            scale ? vf_load_n(scale + i, k) : zero,
                            shift ? vf_load_n(shift + i, k) : zero),
                   k);
    }
}

void MICA_K(layer_norm_modulate)(int rows, int n, const float *x, ptrdiff_t ldx, const float *scale,
                                 const float *shift, float eps, float *y, ptrdiff_t ldy)
{
    for (int i = 0; i < rows; i++)
        layer_norm_row(n, x + i * ldx, scale, shift, eps, y + i * ldy);
}

/* y = act(x * factor * w) */
MICA_VEC void scale_row(int n, const float *x, float factor, const float *w, mica_kernel_act act,
                        float *y)
{
    const vf f = vf_set1(factor), one = vf_set1(1.0f);
    int i = 0;
    for (; i + MICA_W <= n; i += MICA_W) {
        const vf v = vf_mul(vf_mul(vf_load(x + i), f), w ? vf_load(w + i) : one);
        vf_store(y + i, vf_act(v, act));
    }
    if (i < n) {
        const int k = n - i;
        const vf v = vf_mul(vf_mul(vf_load_n(x + i, k), f), w ? vf_load_n(w + i, k) : one);
        vf_store_n(y + i, vf_act(v, act), k);
    }
}

void MICA_K(rms_norm)(int rows, int n, const float *x, ptrdiff_t ldx, const float *w, float eps,
                      float *y, ptrdiff_t ldy)
{
    for (int i = 0; i < rows; i++) {
        const float squares = sum_squares(n, x + i * ldx);
        const float factor = 1.0f / sqrtf(squares / (float)n + eps);
        scale_row(n, x + i * ldx, factor, w, MICA_KERNEL_ACT_NONE, y + i * ldy);
    }
}

/* y += x * factor * w */
MICA_VEC void add_scaled_row(int n, const float *x, float factor, const float *w, float *y)
{
    const vf f = vf_set1(factor), one = vf_set1(1.0f);
    int i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(y + i,
                 vf_fma(vf_mul(vf_load(x + i), f), w ? vf_load(w + i) : one, vf_load(y + i)));
    if (i < n) {
        const int k = n - i;
        const vf v = vf_mul(vf_load_n(x + i, k), f);
        vf_store_n(y + i, vf_fma(v, w ? vf_load_n(w + i, k) : one, vf_load_n(y + i, k)), k);
    }
}

void MICA_K(rms_norm_add)(int rows, int n, const float *x, ptrdiff_t ldx, const float *w, float eps,
                          float *y, ptrdiff_t ldy)
{
    for (int i = 0; i < rows; i++) {
        const float squares = sum_squares(n, x + i * ldx);
        add_scaled_row(n, x + i * ldx, 1.0f / sqrtf(squares / (float)n + eps), w, y + i * ldy);
    }
}

MICA_VEC void l2_norm(int rows, int n, const float *x, ptrdiff_t ldx, const float *gamma,
                      mica_kernel_act act, float *y, ptrdiff_t ldy)
{
    const float root = sqrtf((float)n);
    for (int i = 0; i < rows; i++) {
        const float norm = sqrtf(sum_squares(n, x + i * ldx));
        const float factor = root / (norm < 1e-12f ? 1e-12f : norm);
        scale_row(n, x + i * ldx, factor, gamma, act, y + i * ldy);
    }
}

void MICA_K(l2_norm_act)(int rows, int n, const float *x, ptrdiff_t ldx, const float *gamma,
                         mica_kernel_act act, float *y, ptrdiff_t ldy)
{
    if (act == MICA_KERNEL_ACT_SILU)
        l2_norm(rows, n, x, ldx, gamma, MICA_KERNEL_ACT_SILU, y, ldy);
    else
        l2_norm(rows, n, x, ldx, gamma, MICA_KERNEL_ACT_NONE, y, ldy);
}
