/* gpt_sovits_layers.c - norms, post-norm blocks, convolutions and taps; see gpt_sovits_layers.h.
 *
 * Reference: HuBERT's and BERT's encoder layers (transformers modeling_hubert.py, modeling_bert.py)
 * and the blocks of AR/models/t2s_model.py are one shape: attention, add, norm, two linears, add,
 * norm. */
#include "models/gpt_sovits/gpt_sovits_layers.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

mica_tensor mica_gs_scratch(mica_backend *be, int64_t rows, int64_t columns)
{
    return mica_act_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){rows, columns});
}

mica_tensor mica_gs_state(mica_backend *be, int64_t rows, int64_t columns)
{
    return mica_state_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){rows, columns});
}

int64_t mica_gs_likely_heads(int64_t width, int64_t wide)
{
    return width >= 256 && width % wide == 0 ? width / wide : 4;
}

mica_tensor mica_gs_heads(const mica_tensor *x, int64_t heads)
{
    return mica_tensor_heads(x, 0, x->shape_[0], heads, x->shape_[1] / heads);
}

/* ---------------------------------------------------------------- vectors -- */

mica_tensor mica_gs_upload(mica_backend *be, mica_pool pool, const float *values, int64_t count)
{
    mica_tensor t = mica_state_tensor(be, pool, 1, &count);
    mica_upload_f32(be, &t, values);
    return t;
}

/* The numbers of a weight, plus `offset`. */
static mica_status upload(mica_backend *be, const mica_weight *w, float offset, mica_tensor *out,
                          mica_err *err)
{
    const int64_t n = mica_tensor_count(&w->tensor);
    float *values = mica_mem_calloc((size_t)n, sizeof *values);
    if (!values)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %s", w->name);
    for (int64_t i = 0; i < n; i++)
        values[i] = mica_tensor_read_f32(&w->tensor, i) + offset;
    *out = mica_gs_upload(be, MICA_POOL_SESSION, values, n);
    mica_mem_free(values);
    return mica_backend_check(be, err);
}

/* ------------------------------------------------------------------ norms -- */

mica_status mica_gs_norm_upload(mica_gs_norm *n, mica_backend *be, mica_err *err)
{
    MICA_TRY(upload(be, &n->w, -1.0f, &n->scale_D, err));
    return upload(be, &n->b, 0.0f, &n->shift_D, err);
}

void mica_gs_norm_run(mica_backend *be, const mica_gs_norm *n, float eps, const mica_tensor *x_MD,
                      mica_tensor *y_MD)
{
    mica_layer_norm_modulate(be, x_MD, &n->scale_D, &n->shift_D, eps, y_MD);
}

/* ----------------------------------------------------------- convolutions -- */

void mica_gs_conv_same(mica_backend *be, mica_nn_linear *l, const mica_tensor *x_RC, int dilation,
                       const float *leaky, const mica_tensor *residual_RO, mica_tensor *y_RO)
{
    const int around = dilation * (int)(l->w.tensor.shape_[3] - 1), pad = around / 2;
    mica_conv1d(be, &(mica_conv1d_args){.x_RC = x_RC,
                                        .w_OCYX = &l->w,
                                        .bias_O = l->b.name ? &l->b : NULL,
                                        .stride = 1,
                                        .dilation = dilation,
                                        .pad_left = pad,
                                        .pad_right = around - pad,
                                        .leaky = leaky != NULL,
                                        .slope = leaky ? *leaky : 0.0f,
                                        .residual_RO = residual_RO,
                                        .y_RO = y_RO});
}

/* ----------------------------------------------------------------- blocks -- */

mica_status mica_gs_stack_upload(mica_gs_stack *s, mica_backend *be, mica_err *err)
{
    for (int n = 0; n < s->count; n++) {
        MICA_TRY(mica_gs_norm_upload(&s->blocks[n].norm_1, be, err));
        MICA_TRY(mica_gs_norm_upload(&s->blocks[n].norm_2, be, err));
    }
    return MICA_OK;
}

void mica_gs_block_run(mica_backend *be, const mica_gs_stack *s, int n, mica_tensor *x_LD)
{
    mica_gs_block *b = &s->blocks[n];
    const int64_t L = x_LD->shape_[0];
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_tensor q = mica_gs_scratch(be, L, s->width), k = mica_gs_scratch(be, L, s->width);
    mica_tensor v = mica_gs_scratch(be, L, s->width), out = mica_gs_scratch(be, L, s->width);
    mica_tensor hidden = mica_gs_scratch(be, L, s->ffn);
    mica_nn_linear_run(be, &b->q, x_LD, MICA_ACT_NONE, &q);
    mica_nn_linear_run(be, &b->k, x_LD, MICA_ACT_NONE, &k);
    mica_nn_linear_run(be, &b->v, x_LD, MICA_ACT_NONE, &v);
    const mica_tensor q_LHK = mica_gs_heads(&q, s->heads), k_LHK = mica_gs_heads(&k, s->heads);
    const mica_tensor v_LHK = mica_gs_heads(&v, s->heads);
    mica_tensor out_LHK = mica_gs_heads(&out, s->heads);
    mica_attention(be, &(mica_attention_args){.segments = 1,
                                              .q_LHK = {&q_LHK},
                                              .k_MGK = {&k_LHK},
                                              .v_MGK = {&v_LHK},
                                              .out_LHK = {&out_LHK},
                                              .once = true});
    mica_nn_linear_gated(be, &b->o, &out, NULL, x_LD);
    mica_gs_norm_run(be, &b->norm_1, s->eps, x_LD, x_LD);
    mica_nn_linear_run(be, &b->up, x_LD, s->act, &hidden);
    mica_nn_linear_gated(be, &b->down, &hidden, NULL, x_LD);
    mica_gs_norm_run(be, &b->norm_2, s->eps, x_LD, x_LD);
    mica_pool_release(be, MICA_POOL_STEP, mark);
}

/* ------------------------------------------------------------------- taps -- */

void mica_gs_tap(const mica_tap_sink *taps, mica_backend *be, const mica_tensor *x_RC, bool turned,
                 const char *format, ...)
{
    char name[128];
    va_list list;
    if (!taps || mica_backend_failed(be))
        return;
    va_start(list, format);
    vsnprintf(name, sizeof name, format, list);
    va_end(list);
    if (!mica_tap_wants(taps, "%s", name))
        return;
    const int64_t R = x_RC->shape_[0], C = x_RC->shape_[1];
    float *rows = mica_mem_calloc((size_t)(2 * R * C), sizeof *rows), *out = rows;
    if (!rows) {
        mica_backend_fail(be, MICA_E_NOMEM, "no memory to copy %s for the trace", name);
        return;
    }
    mica_download_f32(be, rows, x_RC);
    if (turned) {
        out = rows + R * C;
        for (int64_t r = 0; r < R; r++)
            for (int64_t c = 0; c < C; c++)
                out[c * R + r] = rows[r * C + c];
    }
    const mica_tensor host = mica_tensor_3d(out, MICA_DTYPE_F32, 1, turned ? C : R, turned ? R : C);
    if (!mica_backend_failed(be))
        mica_tap_host(taps, &host, "%s", name);
    mica_mem_free(rows);
}

void mica_gs_tap_ids(const mica_tap_sink *taps, const int32_t *ids, int ndim, const int64_t *shape,
                     const char *name)
{
    const mica_tensor t = mica_tensor_make((void *)(uintptr_t)ids, MICA_DTYPE_I32, ndim, shape);
    mica_tap_host(taps, &t, "%s", name);
}
