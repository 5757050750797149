/* gpt_sovits_flow.c - the inverse flow: from the prior's latent to the one that is heard.
 *
 *     four times:  h = pre(z[one half])
 *                  four layers:  a = tanh-gate(conv(h) + style);  h += res(a);  sum += skip(a)
 *                  z[other half] -= post(sum)
 *
 * Which half is which alternates: the flips between are in the weights (_weights.c), as is the sign.
 *
 * Reference: module/models.py ResidualCouplingBlock.forward(reverse=True); module/modules.py
 * ResidualCouplingLayer, WN. */
#include "models/gpt_sovits/gpt_sovits_synthesizer.h"

static void run_layers(mica_gs_flow *f, mica_backend *be, const mica_tensor *shifts, mica_tensor *h,
                       mica_tensor *sum)
{
    const int64_t R = h->shape_[0], H = h->shape_[1];
    mica_tensor both = mica_gs_state(be, R, 2 * H), gate = mica_gs_state(be, R, H);
    for (int i = 0; i < MICA_GS_WN; i++) {
        mica_gs_conv_same(be, &f->in[i], h, 1, NULL, NULL, &both);
        mica_gate(be, true, &both, &shifts[i], &gate);
        if (i == 0)
            mica_nn_linear_run(be, &f->skip[i], &gate, MICA_ACT_NONE, sum);
        else
            mica_nn_linear_gated(be, &f->skip[i], &gate, NULL, sum);
        if (i + 1 < MICA_GS_WN)
            mica_nn_linear_gated(be, &f->res[i], &gate, NULL, h);
    }
}

void mica_gs_flow_run(mica_gs_synth *s, mica_backend *be, const mica_gs_style *style,
                      mica_tensor *z)
{
    const int64_t R = z->shape_[0], half = z->shape_[1] / 2;
    for (int i = MICA_GS_FLOWS - 1; i >= 0; i--) {
        const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
        const bool reversed = (MICA_GS_FLOWS - i) % 2 != 0;
        mica_gs_flow *f = &s->flows[i];
        const mica_tensor from = mica_tensor_columns(z, reversed ? half : 0, half);
        mica_tensor to = mica_tensor_columns(z, reversed ? 0 : half, half);
        mica_tensor h = mica_gs_state(be, R, s->config.hidden);
        mica_tensor sum = mica_gs_state(be, R, s->config.hidden);
        mica_nn_linear_run(be, &f->pre, &from, MICA_ACT_NONE, &h);
        run_layers(f, be, style->flow_N[i], &h, &sum);
        mica_nn_linear_gated(be, &f->post, &sum, NULL, &to);
        mica_pool_release(be, MICA_POOL_STEP, mark);
    }
}
