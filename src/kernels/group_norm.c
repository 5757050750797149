/* group_norm.c - the two halves of a norm over groups of channels of a channels-last picture.
 *
 *     x [pixels, C]  ──►  sums over the pixels, one per channel      channel_sums
 *     x              ──►  y = act(x * scale_C + shift_C)             channel_affine_act
 *
 * Statistics belong to a whole picture and a picture may pass in bands, so what is between (groups,
 * mean, variance) is the caller's: C numbers, not worth vectors. Sums run down the pixels in
 * one lane per channel: the order is fixed by the number of pixels alone. */
#include "kernels/level.h"
#include "kernels/vec_math.h"

/* `n` lanes at column 0 of x; n == MICA_W: whole vectors. */
MICA_VEC vf load_part(const float *x, int n)
{
    return n == MICA_W ? vf_load(x) : vf_load_n(x, n);
}

MICA_VEC void store_part(float *y, vf v, int n)
{
    if (n == MICA_W)
        vf_store(y, v);
    else
        vf_store_n(y, v, n);
}

/* One vector of channels down all pixels. */
MICA_VEC void sum_column(int pixels, int n, const float *x, ptrdiff_t ldx, vf from, float *sum,
                         float *square)
{
    vf s = vf_zero(), q = vf_zero();
    for (int p = 0; p < pixels; p++) {
        const vf d = vf_sub(load_part(x + p * ldx, n), from);
        s = vf_add(s, d);
        q = vf_fma(d, d, q);
    }
    store_part(sum, s, n);
    store_part(square, q, n);
}

/* Four vectors side by side: a cache line is used whole and the additions overlap. */
MICA_VEC void sum_columns4(int pixels, const float *x, ptrdiff_t ldx, const float *from, float *sum,
                           float *square)
{
    vf m[4], s[4], q[4];
    MICA_UNROLL(4)
    for (int v = 0; v < 4; v++) {
        m[v] = from ? vf_load(from + v * MICA_W) : vf_zero();
        s[v] = q[v] = vf_zero();
    }
    for (int p = 0; p < pixels; p++) {
        MICA_UNROLL(4)
        for (int v = 0; v < 4; v++) {
            const vf d = vf_sub(vf_load(x + p * ldx + v * MICA_W), m[v]);
            s[v] = vf_add(s[v], d);
            q[v] = vf_fma(d, d, q[v]);
        }
    }
    MICA_UNROLL(4)
    for (int v = 0; v < 4; v++) {
        vf_store(sum + v * MICA_W, s[v]);
        vf_store(square + v * MICA_W, q[v]);
    }
}

void MICA_K(channel_sums)(int pixels, int n, const float *x, ptrdiff_t ldx, const float *from,
                          float *sum, float *square)
{
    const vf zero = vf_zero();
    int i = 0;
    for (; i + 4 * MICA_W <= n; i += 4 * MICA_W)
        sum_columns4(pixels, x + i, ldx, from ? from + i : NULL, sum + i, square + i);
    for (; i + MICA_W <= n; i += MICA_W)
        sum_column(pixels, MICA_W, x + i, ldx, from ? vf_load(from + i) : zero, sum + i,
                   square + i);
    if (i < n)
        sum_column(pixels, n - i, x + i, ldx, from ? vf_load_n(from + i, n - i) : zero, sum + i,
                   square + i);
}

MICA_VEC void affine(int pixels, int n, const float *x, ptrdiff_t ldx, const float *scale,
                     const float *shift, mica_kernel_act act, float *y, ptrdiff_t ldy)
{
    for (int p = 0; p < pixels; p++) {
        const float *a = x + p * ldx;
        float *b = y + p * ldy;
        int i = 0;
        for (; i + MICA_W <= n; i += MICA_W) {
            const vf v = vf_fma(vf_load(a + i), vf_load(scale + i), vf_load(shift + i));
            vf_store(b + i, vf_act(v, act));
        }
        if (i < n) {
            const int k = n - i;
            const vf v =
                vf_fma(vf_load_n(a + i, k), vf_load_n(scale + i, k), vf_load_n(shift + i, k));
            vf_store_n(b + i, vf_act(v, act), k);
        }
    }
}

void MICA_K(channel_affine_act)(int pixels, int n, const float *x, ptrdiff_t ldx,
                                const float *scale, const float *shift, mica_kernel_act act,
                                float *y, ptrdiff_t ldy)
{
    if (act == MICA_KERNEL_ACT_SILU)
        affine(pixels, n, x, ldx, scale, shift, MICA_KERNEL_ACT_SILU, y, ldy);
    else
        affine(pixels, n, x, ldx, scale, shift, MICA_KERNEL_ACT_NONE, y, ldy);
}
