/* reduce.c - one number from many: finiteness, dot products, norms of guidance rows.
 *
 * Sums are f32 inside blocks and f64 across them, in an order fixed by n alone. */
#include "kernels/level.h"
#include "kernels/vec.h"

#include <math.h>

#define BLOCK 4096 /* elements; also how often all_finite looks at its result */

/* x * 0 is 0 for a finite x and NaN for all others, and NaN stays in a sum. */
MICA_VEC bool block_is_finite(int n, const float *x)
{
    vf s0 = vf_zero(), s1 = vf_zero();
    const vf zero = vf_zero();
    int i = 0;
    for (; i + 2 * MICA_W <= n; i += 2 * MICA_W) {
        s0 = vf_fma(vf_load(x + i), zero, s0);
        s1 = vf_fma(vf_load(x + i + MICA_W), zero, s1);
    }
    for (; i + MICA_W <= n; i += MICA_W)
        s0 = vf_fma(vf_load(x + i), zero, s0);
    if (i < n)
        s1 = vf_fma(vf_load_n(x + i, n - i), zero, s1);
    return !vm_any(vf_is_nan(vf_add(s0, s1)));
}

bool MICA_K(all_finite)(int64_t n, const float *x)
{
    for (int64_t i = 0; i < n; i += BLOCK)
        if (!block_is_finite(n - i < BLOCK ? (int)(n - i) : BLOCK, x + i))
            return false;
    return true;
}

MICA_VEC vf load_part(const float *x, int k)
{
    return k == MICA_W ? vf_load(x) : vf_load_n(x, k);
}

MICA_VEC void absmax_lanes(int rows, int k, const float *x, ptrdiff_t ldx, float *most)
{
    vf m = load_part(most, k);
    for (int r = 0; r < rows; r++)
        m = vf_max(vf_abs(load_part(x + r * ldx, k)), m);
    if (k == MICA_W)
        vf_store(most, m);
    else
        vf_store_n(most, m, k);
}

/* Four rows at a time: one load and one store of `most` for four of x. */
void MICA_K(column_absmax)(int rows, int n, const float *x, ptrdiff_t ldx, float *most)
{
    for (int row = 0; row < rows; row += 4) {
        const int count = rows - row < 4 ? rows - row : 4;
        const float *first = x + row * ldx;
        int i = 0;
        for (; count == 4 && i + MICA_W <= n; i += MICA_W) {
            const vf a = vf_max(vf_abs(vf_load(first + i)), vf_load(most + i));
            const vf b = vf_max(vf_abs(vf_load(first + ldx + i)), a);
            const vf c = vf_max(vf_abs(vf_load(first + 2 * ldx + i)), b);
            vf_store(most + i, vf_max(vf_abs(vf_load(first + 3 * ldx + i)), c));
        }
        for (; i < n; i += MICA_W)
            absmax_lanes(count, n - i < MICA_W ? n - i : MICA_W, first + i, ldx, most + i);
    }
}

MICA_VEC float block_dot(int n, const float *a, const float *b)
{
    vf s0 = vf_zero(), s1 = vf_zero(), s2 = vf_zero(), s3 = vf_zero();
    int i = 0;
    for (; i + 4 * MICA_W <= n; i += 4 * MICA_W) {
        s0 = vf_fma(vf_load(a + i), vf_load(b + i), s0);
        s1 = vf_fma(vf_load(a + i + MICA_W), vf_load(b + i + MICA_W), s1);
        s2 = vf_fma(vf_load(a + i + 2 * MICA_W), vf_load(b + i + 2 * MICA_W), s2);
        s3 = vf_fma(vf_load(a + i + 3 * MICA_W), vf_load(b + i + 3 * MICA_W), s3);
    }
    for (; i + MICA_W <= n; i += MICA_W)
        s0 = vf_fma(vf_load(a + i), vf_load(b + i), s0);
    if (i < n)
        s1 = vf_fma(vf_load_n(a + i, n - i), vf_load_n(b + i, n - i), s1);
    return vf_hsum(vf_add(vf_add(s0, s1), vf_add(s2, s3)));
}

MICA_VEC double dot_blocks(int64_t n, const float *a, const float *b)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i += BLOCK)
        sum += (double)block_dot(n - i < BLOCK ? (int)(n - i) : BLOCK, a + i, b + i);
    return sum;
}

double MICA_K(dot)(int64_t n, const float *a, const float *b)
{
    return dot_blocks(n, a, b);
}

MICA_VEC void combine(int n, const float *cond, const float *uncond, float scale, float *out)
{
    const vf s = vf_set1(scale);
    int i = 0;
    for (; i + MICA_W <= n; i += MICA_W) {
        const vf u = vf_load(uncond + i);
        vf_store(out + i, vf_fma(s, vf_sub(vf_load(cond + i), u), u));
    }
    if (i < n) {
        const int k = n - i;
        const vf u = vf_load_n(uncond + i, k);
        vf_store_n(out + i, vf_fma(s, vf_sub(vf_load_n(cond + i, k), u), u), k);
    }
}

void MICA_K(cfg_rows)(int rows, int n, const float *cond, ptrdiff_t ldc, const float *uncond,
                      ptrdiff_t ldu, float scale, bool renorm, float *out, ptrdiff_t ldo)
{
    for (int r = 0; r < rows; r++) {
        const float *c = cond + r * ldc;
        float *o = out + r * ldo;
        /* Before the combination, which may overwrite cond. */
        const double target = renorm ? dot_blocks(n, c, c) : 0.0;
        combine(n, c, uncond + r * ldu, scale, o);
        if (!renorm)
            continue;
        const vf factor = vf_set1((float)(sqrt(target) / sqrt(dot_blocks(n, o, o))));
        int i = 0;
        for (; i + MICA_W <= n; i += MICA_W)
            vf_store(o + i, vf_mul(vf_load(o + i), factor));
        if (i < n)
            vf_store_n(o + i, vf_mul(vf_load_n(o + i, n - i), factor), n - i);
    }
}
