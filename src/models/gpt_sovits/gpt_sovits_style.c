/* gpt_sovits_style.c - what a reference recording gives: semantic codes and a style vector.
 *
 *     HuBERT rows ─convolution─► rows ─nearest of the codebook─► codes
 *
 *     spectrum [frames, bins] ─linear, Mish, twice─► + gated convolution, twice ─► self-attention,
 *        + ─► linear ─► mean over time ─► (v2Pro: + speaker, PReLU) ─► ge
 *
 * Reference: module/models.py SynthesizerTrn.extract_latent, decode (get_ge); module/modules.py
 * MelStyleEncoder, whose attention divides by the root of the whole width; module/core_vq.py
 * EuclideanCodebook.quantize. */
#include "models/gpt_sovits/gpt_sovits_synthesizer.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

/* -------------------------------------------------------------------- codes -- */

/* -|x|^2 + 2 x.e - |e|^2 is largest where 2 x.e - |e|^2 is; the first of equals. */
static int32_t nearest(const float *dots, const float *squares, int64_t count)
{
    int64_t best = 0;
    double best_score = -INFINITY;
    for (int64_t i = 0; i < count; i++) {
        const double score = 2.0 * (double)dots[i] - (double)squares[i];
        if (score > best_score) {
            best = i;
            best_score = score;
        }
    }
    return (int32_t)best;
}

static float *squares_of(const mica_weight *codebook)
{
    const mica_tensor *t = &codebook->tensor;
    const int64_t N = t->shape_[0], S = t->shape_[1];
    float *out = mica_mem_calloc((size_t)N, sizeof *out);
    for (int64_t n = 0; out && n < N; n++) {
        double sum = 0.0;
        for (int64_t i = 0; i < S; i++) {
            const double v = (double)mica_tensor_read_f32(t, n * S + i);
            sum += v * v;
        }
        out[n] = (float)sum;
    }
    return out;
}

/* [rows][codes] products to the host. Codes are exact or wrong: products in f32 whatever the precision. */
static float *dots_of(mica_gs_synth *s, mica_backend *be, const mica_tensor *x)
{
    const int64_t R = x->shape_[0], N = s->config.codes;
    float *out = mica_mem_calloc((size_t)(R * N), sizeof *out);
    mica_tensor y = mica_state_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){R, N});
    mica_linear(be,
                &(mica_linear_args){.x_MD = x, .w_OD = &s->codebook, .y_MO = &y, .by_row = true});
    if (out)
        mica_download_f32(be, out, &y);
    return out;
}

static mica_tensor project(mica_gs_synth *s, mica_backend *be, const mica_tensor *ssl_LD)
{
    const int64_t L = ssl_LD->shape_[0], kernel = s->config.code_kernel;
    mica_tensor x = mica_gs_scratch(be, kernel == 2 ? L / 2 : L, s->config.ssl);
    if (kernel != 2) {
        mica_nn_linear_run(be, &s->code_conv, ssl_LD, MICA_ACT_NONE, &x);
        return x;
    }
    const mica_tensor even = mica_tensor_rows(ssl_LD, 0, L / 2 * 2);
    mica_conv1d(be, &(mica_conv1d_args){.x_RC = &even,
                                        .w_OCYX = &s->code_conv.w,
                                        .bias_O = &s->code_conv.b,
                                        .stride = 2,
                                        .dilation = 1,
                                        .y_RO = &x});
    return x;
}

static mica_status find_codes(mica_gs_synth *s, mica_backend *be, mica_run *run,
                              const mica_tensor *ssl_LD, int32_t **codes, int64_t *count,
                              mica_err *err)
{
    const mica_tensor x = project(s, be, ssl_LD);
    const int64_t R = x.shape_[0], N = s->config.codes;
    mica_gs_tap(run->taps, be, ssl_LD, true, "ssl_content");
    mica_gs_tap(run->taps, be, &x, true, "ssl_proj");
    float *squares = squares_of(&s->codebook), *dots = dots_of(s, be, &x);
    int32_t *out = mica_mem_calloc((size_t)R, sizeof *out);
    mica_status st = mica_backend_check(be, err);
    if (!st && (!squares || !dots || !out))
        st = MICA_FAIL(err, MICA_E_NOMEM, "no memory for the codes of a reference");
    for (int64_t r = 0; r < R && !st; r++)
        out[r] = nearest(dots + r * N, squares, N);
    mica_mem_free(squares);
    mica_mem_free(dots);
    if (st) {
        mica_mem_free(out);
        return st;
    }
    mica_gs_tap_ids(run->taps, out, 1, &R, "codes");
    *codes = out;
    *count = R;
    return MICA_OK;
}

mica_status mica_gs_synth_codes(mica_gs_synth *s, mica_backend *be, mica_run *run,
                                const mica_tensor *ssl_LD, int32_t **codes, int64_t *count,
                                mica_err *err)
{
    *codes = NULL;
    *count = 0;
    if (ssl_LD->shape_[0] < s->config.code_kernel)
        return MICA_FAIL(err, MICA_E_USAGE, "the reference is too short for a semantic code");
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_status st = find_codes(s, be, run, ssl_LD, codes, count, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}

/* -------------------------------------------------------------------- style -- */

static void gated(mica_backend *be, mica_nn_linear *l, mica_tensor *x)
{
    mica_tensor both = mica_gs_scratch(be, x->shape_[0], 2 * x->shape_[1]);
    mica_tensor part = mica_gs_scratch(be, x->shape_[0], x->shape_[1]);
    mica_gs_conv_same(be, l, x, 1, NULL, NULL, &both);
    mica_gate(be, false, &both, NULL, &part);
    mica_add(be, x, &part, x);
}

static void attend(mica_gs_synth *s, mica_backend *be, mica_tensor *x)
{
    const int64_t R = x->shape_[0], T = s->config.style, H = s->config.style_heads;
    mica_tensor q = mica_gs_scratch(be, R, T), k = mica_gs_scratch(be, R, T);
    mica_tensor v = mica_gs_scratch(be, R, T), out = mica_gs_scratch(be, R, T);
    mica_nn_linear_run(be, &s->style_q, x, MICA_ACT_NONE, &q);
    mica_nn_linear_run(be, &s->style_k, x, MICA_ACT_NONE, &k);
    mica_nn_linear_run(be, &s->style_v, x, MICA_ACT_NONE, &v);
    const mica_tensor q_LHK = mica_gs_heads(&q, H), k_LHK = mica_gs_heads(&k, H);
    const mica_tensor v_LHK = mica_gs_heads(&v, H);
    mica_tensor out_LHK = mica_gs_heads(&out, H);
    mica_attention(be, &(mica_attention_args){.segments = 1,
                                              .q_LHK = {&q_LHK},
                                              .k_MGK = {&k_LHK},
                                              .v_MGK = {&v_LHK},
                                              .out_LHK = {&out_LHK},
                                              .scale = 1.0f / sqrtf((float)T)});
    mica_nn_linear_gated(be, &s->style_o, &out, NULL, x);
}

/* The mean of y's rows into ge. */
static mica_status mean_rows(mica_backend *be, const mica_tensor *y, float *ge, mica_err *err)
{
    const int64_t R = y->shape_[0], G = y->shape_[1];
    float *rows = mica_mem_calloc((size_t)(R * G), sizeof *rows);
    if (!rows)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a style");
    mica_download_f32(be, rows, y);
    for (int64_t g = 0; g < G; g++) {
        double sum = 0.0;
        for (int64_t r = 0; r < R; r++)
            sum += (double)rows[r * G + g];
        ge[g] = (float)(sum / (double)R);
    }
    mica_mem_free(rows);
    return mica_backend_check(be, err);
}

/* y = x w^T + b of one host row. */
static mica_status project_row(mica_backend *be, mica_nn_linear *l, const float *x, float *y,
                               mica_err *err)
{
    const int64_t *n = l->w.tensor.shape_;
    mica_tensor in = mica_gs_scratch(be, 1, n[1]);
    mica_tensor out = mica_state_tensor(be, MICA_POOL_STEP, 2, (const int64_t[]){1, n[0]});
    mica_upload_f32(be, &in, x);
    mica_linear(be, &(mica_linear_args){
                        .x_MD = &in, .w_OD = &l->w, .bias_O = &l->b, .y_MO = &out, .by_row = true});
    mica_download_f32(be, y, &out);
    return mica_backend_check(be, err);
}

/* ge = PReLU(ge + speaker w^T + b) */
static mica_status add_speaker(mica_gs_synth *s, mica_backend *be, const float *speaker, float *ge,
                               mica_err *err)
{
    const int64_t G = s->config.gin;
    float *part = mica_mem_calloc((size_t)G, sizeof *part);
    if (!part)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a style");
    const mica_status st = project_row(be, &s->speaker, speaker, part, err);
    for (int64_t g = 0; g < G && !st; g++) {
        const float v = ge[g] + part[g];
        ge[g] = v >= 0.0f ? v : mica_tensor_read_f32(&s->prelu.tensor, g) * v;
    }
    mica_mem_free(part);
    return st;
}

static mica_status find_style(mica_gs_synth *s, mica_backend *be, mica_run *run,
                              const mica_tensor *spectrum, const float *speaker, float *ge,
                              mica_err *err)
{
    const int64_t R = spectrum->shape_[0], T = s->config.style, G = s->config.gin;
    mica_tensor x = mica_gs_scratch(be, R, T), y = mica_gs_scratch(be, R, T);
    mica_tensor wide = mica_gs_scratch(be, R, G);
    mica_nn_linear_run(be, &s->style_1, spectrum, MICA_ACT_NONE, &y);
    mica_apply(be, MICA_FUNCTION_MISH, 0.0f, &y, NULL, &y);
    mica_nn_linear_run(be, &s->style_2, &y, MICA_ACT_NONE, &x);
    mica_apply(be, MICA_FUNCTION_MISH, 0.0f, &x, NULL, &x);
    gated(be, &s->glu_1, &x);
    gated(be, &s->glu_2, &x);
    attend(s, be, &x);
    mica_nn_linear_run(be, &s->style_out, &x, MICA_ACT_NONE, &wide);
    MICA_TRY(mean_rows(be, &wide, ge, err));
    const mica_tensor t = mica_tensor_3d(ge, MICA_DTYPE_F32, 1, G, 1);
    mica_tap_host(run->taps, &t, "probe.ref_enc");
    return speaker ? add_speaker(s, be, speaker, ge, err) : MICA_OK;
}

mica_status mica_gs_synth_style(mica_gs_synth *s, mica_backend *be, mica_run *run,
                                const float *spectrum_RB, int64_t frames, int64_t bins,
                                const float *speaker, float *ge, mica_err *err)
{
    const int64_t B = s->config.style_bins;
    if (bins < B || frames < 1)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a spectrum of %lld frames and %lld bins; %lld are read",
                         (long long)frames, (long long)bins, (long long)B);
    if ((speaker != NULL) != (s->config.speaker > 0))
        return MICA_FAIL(err, MICA_E_USAGE, "a speaker vector is %s",
                         speaker ? "not taken by this model" : "missing");
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    mica_tensor all = mica_gs_scratch(be, frames, bins), spectrum = mica_gs_scratch(be, frames, B);
    const mica_tensor low = mica_tensor_columns(&all, 0, B);
    mica_upload_f32(be, &all, spectrum_RB);
    mica_copy(be, &low, &spectrum);
    const mica_status st = find_style(s, be, run, &spectrum, speaker, ge, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}

/* -------------------------------------------------------- style on the backend -- */

/* Columns of cond's result are the shifts of the layers' gates. */
static mica_status make_flow(mica_gs_flow *f, mica_backend *be, const float *ge, float *work,
                             mica_tensor *shifts, mica_err *err)
{
    const int64_t n = f->cond.w.tensor.shape_[0] / MICA_GS_WN;
    MICA_TRY(project_row(be, &f->cond, ge, work, err));
    for (int i = 0; i < MICA_GS_WN; i++)
        shifts[i] = mica_gs_upload(be, MICA_POOL_SESSION, work + i * n, n);
    return MICA_OK;
}

static mica_status make_style(mica_gs_synth *s, mica_backend *be, const float *ge, float *work,
                              mica_gs_style *out, mica_err *err)
{
    const mica_gs_synth_config *c = &s->config;
    const float *mrte = ge;
    if (c->speaker) {
        MICA_TRY(project_row(be, &s->ge_to_mrte, ge, work, err));
        mrte = work;
    }
    out->mrte_D = mica_gs_upload(be, MICA_POOL_SESSION, mrte, c->mrte);
    MICA_TRY(project_row(be, &s->cond, ge, work, err));
    out->vocoder_C = mica_gs_upload(be, MICA_POOL_SESSION, work, c->channels[0]);
    for (int i = 0; i < MICA_GS_FLOWS; i++)
        MICA_TRY(make_flow(&s->flows[i], be, ge, work, out->flow_N[i], err));
    return mica_backend_check(be, err);
}

mica_status mica_gs_style_make(mica_gs_synth *s, mica_backend *be, const float *ge,
                               mica_gs_style *out, mica_err *err)
{
    const mica_gs_synth_config *c = &s->config;
    const int64_t wide = 2 * c->hidden * MICA_GS_WN;
    float *work =
        mica_mem_calloc((size_t)MICA_MAX(wide, MICA_MAX(c->channels[0], c->mrte)), sizeof *work);
    if (!work)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a style");
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_status st = make_style(s, be, ge, work, out, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    mica_mem_free(work);
    return st;
}
