/* gates.c - activations of convolutional nets on flat arrays: leaky ReLU, clamp, Mish, gated units.
 *
 * As in elementwise.c: vectors, then one partial vector with the same arithmetic. */
#include "kernels/level.h"
#include "kernels/vec_math.h"

/* max and min keep their second operand when one is NaN (vec.h), so x stands there. */
MICA_VEC vf leaky(vf x, vf slope)
{
    return vf_max(vf_mul(slope, x), x);
}

void MICA_K(leaky_relu)(int64_t n, float slope, const float *x, float *y)
{
    const vf s = vf_set1(slope);
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(y + i, leaky(vf_load(x + i), s));
    if (i < n)
        vf_store_n(y + i, leaky(vf_load_n(x + i, (int)(n - i)), s), (int)(n - i));
}

void MICA_K(clamp)(int64_t n, float low, float high, const float *x, float *y)
{
    const vf l = vf_set1(low), h = vf_set1(high);
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(y + i, vf_min(h, vf_max(l, vf_load(x + i))));
    if (i < n) {
        const int k = (int)(n - i);
        vf_store_n(y + i, vf_min(h, vf_max(l, vf_load_n(x + i, k))), k);
    }
}

void MICA_K(mish)(int64_t n, const float *x, float *y)
{
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(y + i, vf_mish(vf_load(x + i)));
    if (i < n)
        vf_store_n(y + i, vf_mish(vf_load_n(x + i, (int)(n - i))), (int)(n - i));
}

void MICA_K(glu)(int64_t n, const float *a, const float *b, float *y)
{
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(y + i, vf_mul(vf_load(a + i), vf_sigmoid(vf_load(b + i))));
    if (i < n) {
        const int k = (int)(n - i);
        vf_store_n(y + i, vf_mul(vf_load_n(a + i, k), vf_sigmoid(vf_load_n(b + i, k))), k);
    }
}

void MICA_K(tanh_glu)(int64_t n, const float *a, const float *b, float *y)
{
    int64_t i = 0;
    for (; i + MICA_W <= n; i += MICA_W)
        vf_store(y + i, vf_mul(vf_tanh(vf_load(a + i)), vf_sigmoid(vf_load(b + i))));
    if (i < n) {
        const int k = (int)(n - i);
        vf_store_n(y + i, vf_mul(vf_tanh(vf_load_n(a + i, k)), vf_sigmoid(vf_load_n(b + i, k))), k);
    }
}
