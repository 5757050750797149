/* vec_math.h - exp and the activations on vectors, without calls into libm.
 *
 * Every function is a straight line of arithmetic: no branches on values, so that rows of
 * padding, infinities and ordinary numbers cost the same. Polynomials are minimax fits
 * (Remez exchange, 40 digits) of the relative error on the interval named; tests/kernels
 * measures the error of the f32 evaluation. */
#ifndef MICA_KERNELS_VEC_MATH_H
#define MICA_KERNELS_VEC_MATH_H

#include "kernels/kernels.h"
#include "kernels/vec.h"

/* x = n ln 2 + r: returns e^r - 1 and n. Good for |x| up to about 120. */
MICA_VEC vf vf_exp_parts(vf x, vf *n)
{
    *n = vf_round(vf_mul(x, vf_set1(1.44269504f)));
    vf r = vf_fma(*n, vf_set1(-0.693145751953125f), x);
    r = vf_fma(*n, vf_set1(-1.42860677e-6f), r);
    vf q = vf_set1(0.00138145714678f);
    q = vf_fma(q, r, vf_set1(0.00836873017352f));
    q = vf_fma(q, r, vf_set1(0.0416683893304f));
    q = vf_fma(q, r, vf_set1(0.166665205222f));
    q = vf_fma(q, r, vf_set1(0.499999934404f));
    return vf_fma(vf_mul(q, r), r, r);
}

/* e^x: x = n ln 2 + r, e^r = 1 + r + r^2 q(r) on |r| <= ln(2)/2 (fit 3e-9, evaluated 1.2e-7).
 * ln 2 in two parts, the first with 15 bits so that n times it is exact. Overflows to inf above
 * 88.72, reaches 0 through denormals at -103.97; NaN stays (it is the second operand). */
MICA_VEC vf vf_exp(vf x)
{
    x = vf_max(vf_set1(-105.0f), vf_min(vf_set1(89.0f), x));
    vf n;
    const vf p = vf_add(vf_exp_parts(x, &n), vf_set1(1.0f));
    return vf_scale2(p, n);
}

/* m / (m + 2) with m = e^2x - 1 = 2^n (e^r - 1) + (2^n - 1): near 0, where n = 0, m keeps all its
 * digits. Beyond |x| = 10 the result is 1 in f32. */
MICA_VEC vf vf_tanh(vf x)
{
    vf n;
    x = vf_max(vf_set1(-10.0f), vf_min(vf_set1(10.0f), x));
    const vf p = vf_exp_parts(vf_add(x, x), &n), one = vf_set1(1.0f);
    const vf power = vf_scale2(one, n);
    const vf m = vf_fma(power, p, vf_sub(power, one));
    return vf_div(m, vf_add(m, vf_set1(2.0f)));
}

/* x / (1 + e^-x); -0 for x < -88.7 (the true value is below 1e-36), NaN for -inf as in the
 * references. */
MICA_VEC vf vf_silu(vf x)
{
    const vf e = vf_exp(vf_sub(vf_zero(), x));
    return vf_div(x, vf_add(vf_set1(1.0f), e));
}

/* 1 / (1 + e^-x) */
MICA_VEC vf vf_sigmoid(vf x)
{
    const vf one = vf_set1(1.0f);
    return vf_div(one, vf_add(one, vf_exp(vf_sub(vf_zero(), x))));
}

/* With e = e^x: tanh(ln(1 + e)) = n / (n + 2), n = e (e + 2). From x = 20 on it is 1 in f32. */
MICA_VEC vf vf_mish(vf x)
{
    const vf e = vf_exp(vf_min(vf_set1(20.0f), x)), n = vf_mul(e, vf_add(e, vf_set1(2.0f)));
    return vf_mul(x, vf_div(n, vf_add(n, vf_set1(2.0f))));
}

/* x/2 (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), which is x / (1 + e^-2u). */
MICA_VEC vf vf_gelu_tanh(vf x)
{
    const vf cubic = vf_fma(vf_mul(x, x), vf_set1(-0.0713548162726f), vf_set1(-1.59576912161f));
    return vf_div(x, vf_add(vf_set1(1.0f), vf_exp(vf_mul(x, cubic))));
}

/* x/2 (1 + erf(x / sqrt 2)). With a = |x| / sqrt 2 and t = 2 / (2 + a):
 * erfc(a) = e^(-a^2) r(t), fit 3.0e-8 on a <= 9.5; beyond, e^(-a^2) is 0. */
MICA_VEC vf vf_gelu_erf(vf x)
{
    const vf a = vf_mul(vf_abs(x), vf_set1(0.707106781187f));
    const vf t = vf_div(vf_set1(2.0f), vf_add(vf_set1(2.0f), a));
    vf r = vf_set1(-0.0541271071407f);
    r = vf_fma(r, t, vf_set1(0.25906714595f));
    r = vf_fma(r, t, vf_set1(-0.430572471309f));
    r = vf_fma(r, t, vf_set1(0.207319447961f));
    r = vf_fma(r, t, vf_set1(0.028014923308f));
    r = vf_fma(r, t, vf_set1(0.175722538694f));
    r = vf_fma(r, t, vf_set1(0.251578872581f));
    r = vf_fma(r, t, vf_set1(0.280743891481f));
    r = vf_fma(r, t, vf_set1(0.282260575769f));
    r = vf_fma(r, t, vf_set1(-7.84769416977e-6f));
    const vf half_erfc = vf_mul(vf_mul(vf_set1(0.5f), r), vf_exp(vf_sub(vf_zero(), vf_mul(a, a))));
    const vf phi = vf_select(vf_lt(x, vf_zero()), half_erfc, vf_sub(vf_set1(1.0f), half_erfc));
    return vf_mul(x, phi);
}

/* `act` is a constant at every use, so the switch disappears. */
MICA_VEC vf vf_act(vf x, mica_kernel_act act)
{
    switch (act) {
    case MICA_KERNEL_ACT_SILU:
        return vf_silu(x);
    case MICA_KERNEL_ACT_GELU_TANH:
        return vf_gelu_tanh(x);
    case MICA_KERNEL_ACT_GELU_ERF:
        return vf_gelu_erf(x);
    case MICA_KERNEL_ACT_NONE:
        break;
    }
    return x;
}

#endif
