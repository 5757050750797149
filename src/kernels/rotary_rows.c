/* rotary_rows.c - queries and keys: RMS norm per head, then rotation by position, in one pass.
 *
 *     interleaved  x = a0 b0 a1 b1 ...        half   x = a0 a1 ... | b0 b1 ...
 *
 *     (a, b)  ──►  (a cos - b sin,  a sin + b cos)
 *
 * One call handles all heads of one token, which share cos and sin. Heads of 128 floats are
 * eight AVX-512 vectors: read for the norm, read again (from L1) for the rotation. */
#include "kernels/level.h"
#include "kernels/vec.h"

#include <math.h>

MICA_VEC float rms_factor(int k, const float *x, float eps)
{
    vf s0 = vf_zero(), s1 = vf_zero();
    int i = 0;
    for (; i + 2 * MICA_W <= k; i += 2 * MICA_W) {
        const vf a = vf_load(x + i), b = vf_load(x + i + MICA_W);
        s0 = vf_fma(a, a, s0);
        s1 = vf_fma(b, b, s1);
    }
    for (; i < k; i += MICA_W) {
        const vf a = i + MICA_W <= k ? vf_load(x + i) : vf_load_n(x + i, k - i);
        s0 = vf_fma(a, a, s0);
    }
    return 1.0f / sqrtf(vf_hsum(vf_add(s0, s1)) / (float)k + eps);
}

MICA_VEC vf normed(const float *x, const float *w, vf factor)
{
    const vf v = vf_load(x);
    return w ? vf_mul(vf_mul(v, factor), vf_load(w)) : v;
}
MICA_VEC vf normed_n(const float *x, const float *w, vf factor, int n)
{
    const vf v = vf_load_n(x, n);
    return w ? vf_mul(vf_mul(v, factor), vf_load_n(w, n)) : v;
}

/* s carries the sign of each lane: -sin in even lanes, +sin in odd ones. */
MICA_VEC vf rotate_pairs(vf v, vf c, vf s)
{
    return vf_fma(v, c, vf_mul(vf_swap_pairs(v), s));
}

static const float pair_signs[16] = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};

MICA_VEC void head_interleaved(int k, const float *x, const float *w, vf factor, const float *cos,
                               const float *sin, float *y)
{
    const vf signs = vf_load(pair_signs);
    int i = 0;
    for (; i + MICA_W <= k; i += MICA_W) {
        vf v = normed(x + i, w ? w + i : NULL, factor);
        if (cos)
            v = rotate_pairs(v, vf_load_twice(cos + i / 2),
                             vf_mul(signs, vf_load_twice(sin + i / 2)));
        vf_store(y + i, v);
    }
    if (i < k) {
        const int n = k - i;
        vf v = normed_n(x + i, w ? w + i : NULL, factor, n);
        if (cos) {
            vec_buffer c, s;
            vec_buffer_load(&c, cos + i / 2, n / 2, sizeof(float));
            vec_buffer_load(&s, sin + i / 2, n / 2, sizeof(float));
            v = rotate_pairs(v, vf_load_twice(c.f32), vf_mul(signs, vf_load_twice(s.f32)));
        }
        vf_store_n(y + i, v, n);
    }
}

void MICA_K(qk_norm_rope_interleaved)(int heads, int k, const float *x, ptrdiff_t ldx,
                                      const float *w, float eps, const float *cos, const float *sin,
                                      float *y, ptrdiff_t ldy)
{
    for (int h = 0; h < heads; h++) {
        const vf factor = vf_set1(w ? rms_factor(k, x + h * ldx, eps) : 1.0f);
        head_interleaved(k, x + h * ldx, w, factor, cos, sin, y + h * ldy);
    }
}

/* Lanes [i, i + n) of both halves. */
MICA_VEC void rotate_half(int i, int n, int half, const float *x, const float *w, vf factor,
                          const float *cos, const float *sin, float *y)
{
    const vf a = normed_n(x + i, w ? w + i : NULL, factor, n);
    const vf b = normed_n(x + half + i, w ? w + half + i : NULL, factor, n);
    const vf c = cos ? vf_load_n(cos + i, n) : vf_set1(1.0f);
    const vf s = cos ? vf_load_n(sin + i, n) : vf_zero();
    vf_store_n(y + i, cos ? vf_fma(a, c, vf_mul(vf_sub(vf_zero(), b), s)) : a, n);
    vf_store_n(y + half + i, cos ? vf_fma(b, c, vf_mul(a, s)) : b, n);
}

MICA_VEC void head_half(int k, const float *x, const float *w, vf factor, const float *cos,
                        const float *sin, float *y)
{
    const int half = k / 2;
    int i = 0;
    for (; i + MICA_W <= half; i += MICA_W) {
        const vf a = normed(x + i, w ? w + i : NULL, factor);
        const vf b = normed(x + half + i, w ? w + half + i : NULL, factor);
        if (cos) {
            const vf c = vf_load(cos + i), s = vf_load(sin + i);
            vf_store(y + i, vf_fma(a, c, vf_mul(vf_sub(vf_zero(), b), s)));
            vf_store(y + half + i, vf_fma(b, c, vf_mul(a, s)));
        } else {
            vf_store(y + i, a);
            vf_store(y + half + i, b);
        }
    }
    if (i < half)
        rotate_half(i, half - i, half, x, w, factor, cos, sin, y);
}

void MICA_K(qk_norm_rope_half)(int heads, int k, const float *x, ptrdiff_t ldx, const float *w,
                               float eps, const float *cos, const float *sin, float *y,
                               ptrdiff_t ldy)
{
    for (int h = 0; h < heads; h++) {
        const vf factor = vf_set1(w ? rms_factor(k, x + h * ldx, eps) : 1.0f);
        head_half(k, x + h * ldx, w, factor, cos, sin, y + h * ldy);
    }
}
