/* gpt_sovits_prior.c - where a sentence's latent is likely to be: mean and width of every frame.
 *
 *     codes ─codebook, each twice─linear─► encoder ──────────────► q ─┐
 *     phones ─embedding─► encoder ───────────────────────────► k, v ──┴─ cross attention
 *                                     + style + the query itself ─► encoder ─[speed]─► m, log s
 *
 * Reference: module/models.py TextEncoder.forward; module/attentions.py Encoder, MultiHeadAttention;
 * module/mrte_model.py MRTE.forward; F.interpolate(mode="linear", align_corners=False) for the speed,
 * which is applied here and nowhere else. */
#include "models/gpt_sovits/gpt_sovits_synthesizer.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

#define NORM_EPS 1e-5f

static const float RELU = 0.0f;

/* ----------------------------------------------------------------- encoder -- */

static void self_attention(mica_backend *be, const mica_gs_synth_config *c,
                           mica_gs_encoder_layer *l, mica_tensor *x)
{
    const int64_t L = x->shape_[0], D = x->shape_[1];
    mica_tensor q = mica_gs_scratch(be, L, D), k = mica_gs_scratch(be, L, D);
    mica_tensor v = mica_gs_scratch(be, L, D), out = mica_gs_scratch(be, L, D);
    mica_nn_linear_run(be, &l->q, x, MICA_ACT_NONE, &q);
    mica_nn_linear_run(be, &l->k, x, MICA_ACT_NONE, &k);
    mica_nn_linear_run(be, &l->v, x, MICA_ACT_NONE, &v);
    const mica_tensor q_LHK = mica_gs_heads(&q, c->heads), k_LHK = mica_gs_heads(&k, c->heads);
    const mica_tensor v_LHK = mica_gs_heads(&v, c->heads);
    mica_tensor out_LHK = mica_gs_heads(&out, c->heads);
    mica_relative_attention(be, &(mica_relative_attention_args){.q_LHK = &q_LHK,
                                                                .k_LHK = &k_LHK,
                                                                .v_LHK = &v_LHK,
                                                                .rel_k_NK = &l->rel_k,
                                                                .rel_v_NK = &l->rel_v,
                                                                .out_LHK = &out_LHK});
    mica_nn_linear_gated(be, &l->o, &out, NULL, x);
}

void mica_gs_encoder_run(mica_backend *be, const mica_gs_synth_config *c, const mica_gs_encoder *e,
                         mica_tensor *x)
{
    for (int n = 0; n < e->count; n++) {
        mica_gs_encoder_layer *l = &e->layers[n];
        const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
        mica_tensor hidden = mica_gs_scratch(be, x->shape_[0], c->filter);
        self_attention(be, c, l, x);
        mica_gs_norm_run(be, &l->norm_1, NORM_EPS, x, x);
        mica_gs_conv_same(be, &l->conv_1, x, 1, NULL, NULL, &hidden);
        mica_gs_conv_same(be, &l->conv_2, &hidden, 1, &RELU, x, x);
        mica_gs_norm_run(be, &l->norm_2, NORM_EPS, x, x);
        mica_pool_release(be, MICA_POOL_STEP, mark);
    }
}

/* --------------------------------------------------------- cross attention -- */

static void cross_attention(mica_gs_synth *s, mica_backend *be, const mica_gs_style *style,
                            const mica_tensor *ssl, const mica_tensor *text, mica_tensor *y)
{
    const int64_t L = ssl->shape_[0], T = text->shape_[0], M = s->config.mrte;
    const int64_t H = s->config.mrte_heads;
    mica_tensor content = mica_gs_scratch(be, L, M), words = mica_gs_scratch(be, T, M);
    mica_tensor q = mica_gs_scratch(be, L, M), out = mica_gs_scratch(be, L, M);
    mica_tensor k = mica_gs_scratch(be, T, M), v = mica_gs_scratch(be, T, M);
    mica_nn_linear_run(be, &s->c_pre, ssl, MICA_ACT_NONE, &content);
    mica_nn_linear_run(be, &s->text_pre, text, MICA_ACT_NONE, &words);
    mica_nn_linear_run(be, &s->cross_q, &content, MICA_ACT_NONE, &q);
    mica_nn_linear_run(be, &s->cross_k, &words, MICA_ACT_NONE, &k);
    mica_nn_linear_run(be, &s->cross_v, &words, MICA_ACT_NONE, &v);
    const mica_tensor q_LHK = mica_gs_heads(&q, H), k_MGK = mica_gs_heads(&k, H);
    const mica_tensor v_MGK = mica_gs_heads(&v, H);
    mica_tensor out_LHK = mica_gs_heads(&out, H);
    mica_attention(be, &(mica_attention_args){.segments = 1,
                                              .q_LHK = {&q_LHK},
                                              .k_MGK = {&k_MGK},
                                              .v_MGK = {&v_MGK},
                                              .out_LHK = {&out_LHK},
                                              .once = true});
    mica_nn_linear_gated(be, &s->cross_o, &out, NULL, &content);
    mica_apply(be, MICA_FUNCTION_IDENTITY, 0.0f, &content, &style->mrte_D, &content);
    mica_nn_linear_run(be, &s->c_post, &content, MICA_ACT_NONE, y);
}

/* ------------------------------------------------------------------- speed -- */

/* Rows of x at (i + 1/2) step - 1/2, between neighbours; beyond the ends the end. */
static mica_status stretch(mica_backend *be, const mica_tensor *x, float step, mica_tensor *y,
                           mica_err *err)
{
    const int64_t R = x->shape_[0], D = x->shape_[1], count = y->shape_[0];
    float *from = mica_mem_calloc((size_t)((R + count) * D), sizeof *from);
    if (!from)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to change the speed");
    float *to = from + R * D;
    mica_download_f32(be, from, x);
    for (int64_t i = 0; i < count; i++) {
        const float at = MICA_MAX(step * ((float)i + 0.5f) - 0.5f, 0.0f);
        const int64_t a = MICA_MIN((int64_t)at, R - 1), b = MICA_MIN(a + 1, R - 1);
        const float t = at - (float)a;
        for (int64_t d = 0; d < D; d++)
            to[i * D + d] = (1.0f - t) * from[a * D + d] + t * from[b * D + d];
    }
    mica_upload_f32(be, y, to);
    mica_mem_free(from);
    return MICA_OK;
}

/* ------------------------------------------------------------------- prior -- */

static mica_status embed_codes(mica_gs_synth *s, mica_backend *be, const int32_t *codes,
                               int64_t count, mica_tensor *x, mica_err *err)
{
    const int64_t times = s->config.code_kernel;
    int32_t *ids = mica_mem_calloc((size_t)(times * count), sizeof *ids);
    if (!ids)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld codes", (long long)count);
    for (int64_t i = 0; i < times * count; i++)
        ids[i] = codes[i / times];
    mica_tensor rows = mica_gs_scratch(be, times * count, s->config.ssl);
    mica_embed_rows(be, &s->codebook, ids, times * count, &rows);
    mica_mem_free(ids);
    mica_nn_linear_run(be, &s->ssl_in, &rows, MICA_ACT_NONE, x);
    return MICA_OK;
}

static mica_status take_latent(mica_gs_synth *s, mica_backend *be, mica_run *run,
                               const mica_tensor *y, mica_gs_latent *out, mica_err *err)
{
    const int64_t R = y->shape_[0], I = s->config.inter;
    mica_tensor both = mica_state_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){R, 2 * I});
    float *rows = mica_mem_calloc((size_t)(4 * R * I), sizeof *rows);
    if (!rows)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a latent of %lld frames", (long long)R);
    mica_nn_linear_run(be, &s->proj, y, MICA_ACT_NONE, &both);
    const mica_tensor m = mica_tensor_columns(&both, 0, I), logs = mica_tensor_columns(&both, I, I);
    mica_gs_tap(run->taps, be, y, true, "probe.enc_p.0");
    mica_gs_tap(run->taps, be, &m, true, "probe.enc_p.1");
    mica_gs_tap(run->taps, be, &logs, true, "probe.enc_p.2");
    float *all = rows + 2 * R * I;
    mica_download_f32(be, all, &both);
    for (int64_t r = 0; r < R; r++) {
        memcpy(rows + r * I, all + 2 * r * I, (size_t)I * sizeof *rows);
        memcpy(rows + (R + r) * I, all + (2 * r + 1) * I, (size_t)I * sizeof *rows);
    }
    *out = (mica_gs_latent){rows, rows + R * I, R};
    return mica_backend_check(be, err);
}

static mica_status run_prior(mica_gs_synth *s, mica_backend *be, mica_run *run,
                             const mica_gs_style *style, const int32_t *codes, int64_t code_count,
                             const int32_t *phones, int64_t phone_count, const mica_gs_pace *pace,
                             mica_gs_latent *out, mica_err *err)
{
    const mica_gs_synth_config *c = &s->config;
    const int64_t R = code_count * c->code_kernel;
    mica_tensor ssl = mica_gs_scratch(be, R, c->hidden), y = mica_gs_scratch(be, R, c->hidden);
    mica_tensor text = mica_gs_scratch(be, phone_count, c->hidden);
    MICA_TRY(embed_codes(s, be, codes, code_count, &ssl, err));
    mica_gs_tap(run->taps, be, &ssl, true, "probe.enc_p.ssl_proj");
    mica_gs_encoder_run(be, c, &s->encoder_ssl, &ssl);
    mica_gs_tap(run->taps, be, &ssl, true, "probe.enc_p.encoder_ssl");
    mica_embed_rows(be, &s->text_embed, phones, phone_count, &text);
    mica_gs_encoder_run(be, c, &s->encoder_text, &text);
    mica_gs_tap(run->taps, be, &text, true, "probe.enc_p.encoder_text");
    cross_attention(s, be, style, &ssl, &text, &y);
    mica_gs_tap(run->taps, be, &y, true, "probe.enc_p.mrte");
    mica_gs_encoder_run(be, c, &s->encoder_2, &y);
    mica_gs_tap(run->taps, be, &y, true, "probe.enc_p.encoder2");
    mica_gs_tap(run->taps, be, &y, true, "probe.enc_p.4");
    MICA_TRY(mica_run_block(run, be, 1, 3, err));
    if (pace->speed == 1.0)
        return take_latent(s, be, run, &y, out, err);
    const int64_t count = (int64_t)((double)R / pace->speed) + 1;
    const float step = pace->is_open ? (float)pace->speed : (float)R / (float)count;
    mica_tensor other = mica_gs_scratch(be, count, c->hidden);
    MICA_TRY(stretch(be, &y, step, &other, err));
    return take_latent(s, be, run, &other, out, err);
}

static mica_status check(const mica_gs_synth *s, const int32_t *codes, int64_t code_count,
                         const int32_t *phones, int64_t phone_count, mica_err *err)
{
    if (code_count < 1 || phone_count < 1)
        return MICA_FAIL(err, MICA_E_USAGE, "nothing to decode: %lld codes, %lld phones",
                         (long long)code_count, (long long)phone_count);
    for (int64_t i = 0; i < code_count; i++)
        if (codes[i] < 0 || codes[i] >= s->config.codes)
            return MICA_FAIL(err, MICA_E_USAGE, "semantic code %d; the model has %lld",
                             (int)codes[i], (long long)s->config.codes);
    for (int64_t i = 0; i < phone_count; i++)
        if (phones[i] < 0 || phones[i] >= s->config.phones)
            return MICA_FAIL(err, MICA_E_USAGE, "phone id %d; the model has %lld phones",
                             (int)phones[i], (long long)s->config.phones);
    return MICA_OK;
}

mica_status mica_gs_synth_prior(mica_gs_synth *s, mica_backend *be, mica_run *run,
                                const mica_gs_style *style, const int32_t *codes,
                                int64_t code_count, const int32_t *phones, int64_t phone_count,
                                const mica_gs_pace *pace, mica_gs_latent *out, mica_err *err)
{
    *out = (mica_gs_latent){0};
    MICA_TRY(check(s, codes, code_count, phones, phone_count, err));
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_status st =
        run_prior(s, be, run, style, codes, code_count, phones, phone_count, pace, out, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    if (st) {
        mica_mem_free(out->m);
        *out = (mica_gs_latent){0};
    }
    return st;
}
