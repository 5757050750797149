/* elementwise.c - activations and sums on flat arrays: y[i] = f(x[i], ...).
 *
 * Each is one loop over vectors and one partial vector at the end, with the same arithmetic
 * in both, so that an element's result does not depend on where the array was cut. */
#include "kernels/level.h"
#include "kernels/vec_math.h"

MICA_VEC void map(int64_t n, const float *x, float *y, mica_kernel_act act)
{
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(y + i, vf_act(vf_load(x + i), act));
    if (i < n)
        vf_store_n(y + i, vf_act(vf_load_n(x + i, (int)(n - i)), act), (int)(n - i));
}

void MICA_K(silu)(int64_t n, const float *x, float *y)
{
    map(n, x, y, MICA_KERNEL_ACT_SILU);
}
void MICA_K(gelu_tanh)(int64_t n, const float *x, float *y)
{
    map(n, x, y, MICA_KERNEL_ACT_GELU_TANH);
}
void MICA_K(gelu_erf)(int64_t n, const float *x, float *y)
{
    map(n, x, y, MICA_KERNEL_ACT_GELU_ERF);
}

void MICA_K(tanh)(int64_t n, const float *x, float *y)
{
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(y + i, vf_tanh(vf_load(x + i)));
    if (i < n)
        vf_store_n(y + i, vf_tanh(vf_load_n(x + i, (int)(n - i))), (int)(n - i));
}

void MICA_K(swiglu)(int64_t n, const float *gate, const float *up, float *y)
{
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(y + i, vf_mul(vf_silu(vf_load(gate + i)), vf_load(up + i)));
    if (i < n) {
        const int k = (int)(n - i);
        vf_store_n(y + i, vf_mul(vf_silu(vf_load_n(gate + i, k)), vf_load_n(up + i, k)), k);
    }
}

void MICA_K(add)(int64_t n, const float *a, const float *b, float *y)
{
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(y + i, vf_add(vf_load(a + i), vf_load(b + i)));
    if (i < n) {
        const int k = (int)(n - i);
        vf_store_n(y + i, vf_add(vf_load_n(a + i, k), vf_load_n(b + i, k)), k);
    }
}

void MICA_K(mul_scalar)(int64_t n, float a, const float *x, float *y)
{
    const vf f = vf_set1(a);
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(y + i, vf_mul(f, vf_load(x + i)));
    if (i < n)
        vf_store_n(y + i, vf_mul(f, vf_load_n(x + i, (int)(n - i))), (int)(n - i));
}

void MICA_K(linear_combination)(int64_t n, int terms, const float *coef, const float *const *x,
                                float *y)
{
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W) {
        vf sum = vf_mul(vf_set1(coef[0]), vf_load(x[0] + i));
        for (int t = 1; t < terms; t++)
            sum = vf_fma(vf_set1(coef[t]), vf_load(x[t] + i), sum);
        vf_store(y + i, sum);
    }
    if (i < n) {
        const int k = (int)(n - i);
        vf sum = vf_mul(vf_set1(coef[0]), vf_load_n(x[0] + i, k));
        for (int t = 1; t < terms; t++)
            sum = vf_fma(vf_set1(coef[t]), vf_load_n(x[t] + i, k), sum);
        vf_store_n(y + i, sum, k);
    }
}
