/* softmax.c - softmax over rows, whole or in column blocks (the inner step of attention).
 *
 *     scores s   m x n  ──►  p = exp(scale * s - max)   and   row_max, row_sum, alpha
 *
 * exp(scale * s - max) is one fused multiply-add before the polynomial, so a common offset of a
 * row cancels exactly where the machine has FMA. A row whose maximum is -inf uses 0 in its
 * place: exp(-inf) is 0 there and NaN stays NaN, without a case of its own. */
#include "kernels/level.h"
#include "kernels/vec_math.h"

#include <math.h>

MICA_VEC int lanes(int left)
{
    return left < MICA_W ? left : MICA_W;
}
/* The first n lanes, -inf behind them: nothing to a maximum, 0 after exp. */
MICA_VEC vf load_part(const float *p, int n)
{
    if (n == MICA_W)
        return vf_load(p);
    float b[MICA_W];
    vf_store(b, vf_set1(-INFINITY));
    memcpy(b, p, (size_t)n * sizeof(float));
    return vf_load(b);
}

/* NaN lanes may be lost on the way; the sum of exponentials brings them back. */
MICA_VEC float max_row(int n, const float *x)
{
    vf a = vf_set1(-INFINITY), b = a;
    int i = 0;
    for (; i + 2 * MICA_W <= n; i += 2 * MICA_W) {
        a = vf_max(vf_load(x + i), a);
        b = vf_max(vf_load(x + i + MICA_W), b);
    }
    for (; i < n; i += MICA_W)
        a = vf_max(load_part(x + i, lanes(n - i)), a);
    return vf_hmax(vf_max(a, b));
}

/* y = exp(scale * x - shift); returns the sum. */
MICA_VEC float exp_row(int n, float scale, float shift, const float *x, float *y)
{
    const vf s = vf_set1(scale), m = vf_set1(-shift);
    vf sum0 = vf_zero(), sum1 = vf_zero();
    int i = 0;
    for (; i + 2 * MICA_W <= n; i += 2 * MICA_W) {
        const vf a = vf_exp(vf_fma(vf_load(x + i), s, m));
        const vf b = vf_exp(vf_fma(vf_load(x + i + MICA_W), s, m));
        vf_store(y + i, a);
        vf_store(y + i + MICA_W, b);
        sum0 = vf_add(sum0, a);
        sum1 = vf_add(sum1, b);
    }
    for (; i < n; i += MICA_W) {
        const int k = lanes(n - i);
        const vf a = vf_exp(vf_fma(load_part(x + i, k), s, m));
        if (k == MICA_W)
            vf_store(y + i, a);
        else
            vf_store_n(y + i, a, k);
        sum0 = vf_add(sum0, a);
    }
    return vf_hsum(vf_add(sum0, sum1));
}

/* 2^x for x of a few at most, to 2.6e-6 (minimax fit of degree 4 on |r| <= 1/2): enough before
 * rounding to bf16, and half the work of vf_exp. Below -150 as there: 0; NaN stays. */
MICA_VEC vf exp2_coarse(vf x)
{
    x = vf_max(vf_set1(-150.0f), x);
    const vf n = vf_round(x), r = vf_sub(x, n);
    vf q = vf_set1(0.00957010190809f);
    q = vf_fma(q, r, vf_set1(0.0559178603193f));
    q = vf_fma(q, r, vf_set1(0.240247448279f));
    q = vf_fma(q, r, vf_set1(0.693121814737f));
    q = vf_fma(q, r, vf_set1(0.999999261446f));
    return vf_scale2(q, n);
}

/* The same with p rounded to bf16 and zeros in [n, n_pad). The sum is that of the unrounded. */
MICA_VEC float exp_row_bf16(int n, int n_pad, float scale, float shift, const float *x, uint16_t *p)
{
    const float log2e = 1.44269504f;
    const vf s = vf_set1(scale * log2e), m = vf_set1(-shift * log2e);
    vf sum0 = vf_zero(), sum1 = vf_zero();
    int i = 0;
    for (; i + 2 * MICA_W <= n; i += 2 * MICA_W) {
        const vf a = exp2_coarse(vf_fma(vf_load(x + i), s, m));
        const vf b = exp2_coarse(vf_fma(vf_load(x + i + MICA_W), s, m));
        vi_store(p + i, vi_bf16_from_2vf(a, b));
        sum0 = vf_add(sum0, a);
        sum1 = vf_add(sum1, b);
    }
    for (; i < n; i += MICA_W) {
        const int k = lanes(n - i);
        const vf a = exp2_coarse(vf_fma(load_part(x + i, k), s, m));
        vec_buffer b;
        vf_to_bf16(b.u16, a);
        memcpy(p + i, b.u16, (size_t)k * sizeof(uint16_t));
        sum0 = vf_add(sum0, a);
    }
    for (i = n; i < n_pad; i++)
        p[i] = 0;
    return vf_hsum(vf_add(sum0, sum1));
}

MICA_VEC float exp_one(float x)
{
    float y[MICA_W];
    vf_store(y, vf_exp(vf_set1(x)));
    return y[0];
}

MICA_VEC float shift_of(float max)
{
    return max == -INFINITY ? 0.0f : max;
}

void MICA_K(softmax_rows)(int m, int n, float scale, const float *x, ptrdiff_t ldx, float *y,
                          ptrdiff_t ldy)
{
    for (int i = 0; i < m; i++) {
        const float shift = shift_of(scale * max_row(n, x + i * ldx));
        float *row = y + i * ldy;
        const float sum = exp_row(n, scale, shift, x + i * ldx, row);
        const vf inverse = vf_set1(sum == 0.0f ? 0.0f : 1.0f / sum);
        int j = 0;
        for (; j + MICA_W <= n; j += MICA_W)
            vf_store(row + j, vf_mul(vf_load(row + j), inverse));
        if (j < n)
            vf_store_n(row + j, vf_mul(vf_load_n(row + j, n - j), inverse), n - j);
    }
}

/* The new maximum of row i; stores it and alpha, returns what exp has to subtract. */
MICA_VEC float step_max(const mica_softmax_step *s, int i)
{
    const float old = s->row_max[i];
    const float block = s->scale * max_row(s->n, s->s + i * s->lds);
    const float max = block > old ? block : old;
    s->row_max[i] = max;
    s->alpha[i] = max == old ? 1.0f : exp_one(old - max);
    return shift_of(max);
}

void MICA_K(softmax_step)(const mica_softmax_step *s)
{
    for (int i = 0; i < s->m; i++) {
        const float shift = step_max(s, i);
        const float sum = exp_row(s->n, s->scale, shift, s->s + i * s->lds, s->p + i * s->ldp);
        s->row_sum[i] = s->row_sum[i] * s->alpha[i] + sum;
    }
}

void MICA_K(softmax_step_bf16)(const mica_softmax_step *s)
{
    for (int i = 0; i < s->m; i++) {
        const float shift = step_max(s, i);
        const float sum = exp_row_bf16(s->n, s->n_pad, s->scale, shift, s->s + i * s->lds,
                                       s->p_bf16 + i * s->ldp);
        s->row_sum[i] = s->row_sum[i] * s->alpha[i] + sum;
    }
}

void MICA_K(scale_rows)(int m, int n, const float *a, float *y, ptrdiff_t ldy)
{
    for (int i = 0; i < m; i++) {
        const vf f = vf_set1(a[i]);
        float *row = y + i * ldy;
        int j = 0;
        for (; j + MICA_W <= n; j += MICA_W)
            vf_store(row + j, vf_mul(vf_load(row + j), f));
        if (j < n)
            vf_store_n(row + j, vf_mul(vf_load_n(row + j, n - j), f), n - j);
    }
}

float MICA_K(row_max)(int n, const float *x)
{
    vf max = vf_set1(-INFINITY);
    vm nan = vf_is_nan(max);
    for (int i = 0; i < n; i += MICA_W) {
        const vf v = load_part(x + i, lanes(n - i));
        max = vf_max(v, max);
        nan = vm_or(nan, vf_is_nan(v));
    }
    return vm_any(nan) ? NAN : vf_hmax(max);
}
