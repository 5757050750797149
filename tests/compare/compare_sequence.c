/* compare_sequence.c - cases of convolution over time, functions with a shift, gated units and
 * relative attention. Bounds as in compare_products.c. */
#include "compare.h"

#include <stdio.h>

#define F32_BOUND  2e-5
#define BF16_BOUND 6e-3

static int width(cmp *c, int most)
{
    return cmp_u32(c) & 1 ? cmp_int(c, 1, most) : 8 * cmp_int(c, 1, most / 8);
}

static void conv1d(cmp *c)
{
    const int C = width(c, 60), O = width(c, 60), K = cmp_int(c, 1, 11);
    const int stride = cmp_int(c, 1, 3), dilation = stride > 1 ? 1 : cmp_int(c, 1, 5);
    const int left = cmp_int(c, 0, 20), right = cmp_int(c, 0, 20);
    const int R = dilation * (K - 1) + 1 + cmp_int(c, 0, 300), gap = cmp_u32(c) & 1 ? 8 : 0;
    const int rows = (R + left + right - dilation * (K - 1) - 1) / stride + 1;
    const int rest = cmp_int(c, 0, 7); /* 1 bias, 2 residual, 4 leaky */
    snprintf(c->what, sizeof c->what, "%d x %d to %d, %d taps, stride %d, dilation %d, rest %d", R,
             C, O, K, stride, dilation, rest);
    cmp_tensor x = cmp_act(c, 1.0f, 2, CMP_SHAPE(R, C + gap));
    x.t[0].shape_[1] = x.t[1].shape_[1] = C;
    cmp_weight w = cmp_weight_make(c, MICA_DTYPE_F16, 0.1f, 0, 4, CMP_SHAPE(O, C, 1, K));
    cmp_weight bias = cmp_weight_make(c, MICA_DTYPE_F16, 1.0f, 0, 1, CMP_SHAPE(O));
    cmp_tensor residual = cmp_act(c, 1.0f, 2, CMP_SHAPE(rows, O));
    cmp_tensor y = cmp_output(c, false, 2, CMP_SHAPE(rows, O));
    for (int i = 0; i < 2; i++)
        mica_conv1d(c->be[i], &(mica_conv1d_args){.x_RC = &x.t[i],
                                                  .w_OCYX = &w.w[i],
                                                  .bias_O = rest & 1 ? &bias.w[i] : NULL,
                                                  .stride = stride,
                                                  .dilation = dilation,
                                                  .pad_left = left,
                                                  .pad_right = right,
                                                  .leaky = rest & 4,
                                                  .slope = 0.1f,
                                                  .residual_RO = rest & 2 ? &residual.t[i] : NULL,
                                                  .y_RO = &y.t[i]});
    cmp_result(c, &y, F32_BOUND, BF16_BOUND);
    cmp_weight_free(c, &w);
    cmp_weight_free(c, &bias);
}

static void apply(cmp *c)
{
    const mica_function f = (mica_function)cmp_int(c, 0, MICA_FUNCTION_COUNT - 1);
    const int M = cmp_int(c, 1, 90), D = width(c, 200), shifted = cmp_int(c, 0, 1);
    snprintf(c->what, sizeof c->what, "function %d, %d x %d%s", (int)f, M, D,
             shifted ? ", shifted" : "");
    cmp_tensor x = cmp_act(c, 2.0f, 2, CMP_SHAPE(M, D)),
               shift = cmp_state(c, 1.0f, 1, CMP_SHAPE(D));
    cmp_tensor y = cmp_output(c, false, 2, CMP_SHAPE(M, D));
    for (int i = 0; i < 2; i++)
        mica_apply(c->be[i], f, 0.3f, &x.t[i], shifted ? &shift.t[i] : NULL, &y.t[i]);
    cmp_result(c, &y, F32_BOUND, BF16_BOUND);
}

static void gate(cmp *c)
{
    const int M = cmp_int(c, 1, 90), D = width(c, 200), rest = cmp_int(c, 0, 3);
    snprintf(c->what, sizeof c->what, "%d x %d, rest %d", M, D, rest);
    cmp_tensor x = cmp_act(c, 2.0f, 2, CMP_SHAPE(M, 2 * D));
    cmp_tensor shift = cmp_state(c, 1.0f, 1, CMP_SHAPE(2 * D));
    cmp_tensor y = cmp_output(c, false, 2, CMP_SHAPE(M, D));
    for (int i = 0; i < 2; i++)
        mica_gate(c->be[i], rest & 1, &x.t[i], rest & 2 ? &shift.t[i] : NULL, &y.t[i]);
    cmp_result(c, &y, F32_BOUND, BF16_BOUND);
}

static void relative(cmp *c)
{
    const int L = cmp_int(c, 1, 200), H = cmp_int(c, 1, 3), K = width(c, 96), W = cmp_int(c, 1, 6);
    snprintf(c->what, sizeof c->what, "%d tokens, %d heads of %d, window %d", L, H, K, W);
    cmp_tensor q = cmp_act(c, 1.0f, 3, CMP_SHAPE(L, H, K)),
               k = cmp_act(c, 1.0f, 3, CMP_SHAPE(L, H, K));
    cmp_tensor v = cmp_act(c, 1.0f, 3, CMP_SHAPE(L, H, K));
    cmp_weight rel_k = cmp_weight_make(c, MICA_DTYPE_F16, 1.0f, 0, 2, CMP_SHAPE(2 * W + 1, K));
    cmp_weight rel_v = cmp_weight_make(c, MICA_DTYPE_F16, 1.0f, 0, 2, CMP_SHAPE(2 * W + 1, K));
    cmp_tensor out = cmp_output(c, false, 3, CMP_SHAPE(L, H, K));
    for (int i = 0; i < 2; i++)
        mica_relative_attention(c->be[i], &(mica_relative_attention_args){.q_LHK = &q.t[i],
                                                                          .k_LHK = &k.t[i],
                                                                          .v_LHK = &v.t[i],
                                                                          .rel_k_NK = &rel_k.w[i],
                                                                          .rel_v_NK = &rel_v.w[i],
                                                                          .out_LHK = &out.t[i]});
    cmp_result(c, &out, F32_BOUND, BF16_BOUND);
    cmp_weight_free(c, &rel_k);
    cmp_weight_free(c, &rel_v);
}

const cmp_op cmp_sequence_ops[] = {{"conv1d", conv1d, 40},
                                   {"apply", apply, 30},
                                   {"gate", gate, 20},
                                   {"relative_attention", relative, 20},
                                   {NULL, NULL, 0}};
