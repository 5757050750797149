/* gpt_sovits_synthesizer_weights.c - tables of the SoVITS networks, and weights in other forms.
 *
 *     flow with a flip before it    pre's columns and post's rows in reverse: nothing is turned at run time
 *     post of a flow                negated: x1 - m becomes an addition
 *     transposed convolution        rate u, kernel K: u O outputs of ceil(K / u) taps, at stride one
 *     what follows n blocks         an n-th of its weight: the blocks are added, not averaged
 *                                   (the leaky ReLU between is homogeneous)
 *
 * Reference: module/models.py TextEncoder, Generator, ResidualCouplingBlock; module/modules.py WN,
 * MelStyleEncoder; module/mrte_model.py. */
#include "models/gpt_sovits/gpt_sovits_synthesizer.h"

#include <stdio.h>
#include <string.h>

#define AT(field) offsetof(mica_gs_synth, field)
#define LINEAR(name, shape, field, bias)                                                           \
    {name ".weight", shape, AT(field.w), 0},                                                       \
    {                                                                                              \
        name ".bias", bias, AT(field.b), 0                                                         \
    }
static const mica_weight_row ROWS[] = {
    {"quantizer.vq.layers.0._codebook.embed", "NS", AT(codebook), 0},
    LINEAR("enc_p.ssl_proj", "HS", ssl_in, "H"),
    LINEAR("enc_p.proj", "JH", proj, "J"),
    {"enc_p.text_embedding.weight", "PH", AT(text_embed), 0},
    LINEAR("enc_p.mrte.c_pre", "MH", c_pre, "M"),
    LINEAR("enc_p.mrte.text_pre", "MH", text_pre, "M"),
    LINEAR("enc_p.mrte.cross_attention.conv_q", "MM", cross_q, "M"),
    LINEAR("enc_p.mrte.cross_attention.conv_k", "MM", cross_k, "M"),
    LINEAR("enc_p.mrte.cross_attention.conv_v", "MM", cross_v, "M"),
    LINEAR("enc_p.mrte.cross_attention.conv_o", "MM", cross_o, "M"),
    LINEAR("enc_p.mrte.c_post", "HM", c_post, "H"),
    LINEAR("ref_enc.spectral.0.fc", "TB", style_1, "T"),
    LINEAR("ref_enc.spectral.3.fc", "TT", style_2, "T"),
    LINEAR("ref_enc.temporal.0.conv1.conv", "UT1K", glu_1, "U"),
    LINEAR("ref_enc.temporal.1.conv1.conv", "UT1K", glu_2, "U"),
    LINEAR("ref_enc.slf_attn.w_qs", "TT", style_q, "T"),
    LINEAR("ref_enc.slf_attn.w_ks", "TT", style_k, "T"),
    LINEAR("ref_enc.slf_attn.w_vs", "TT", style_v, "T"),
    LINEAR("ref_enc.slf_attn.fc", "TT", style_o, "T"),
    LINEAR("ref_enc.fc.fc", "GT", style_out, "G"),
    LINEAR("dec.conv_pre", "CI17", conv_pre, "C"),
    LINEAR("dec.cond", "CG", cond, "C"),
};
static const mica_weight_row CODE_ROWS[] = {
    LINEAR("ssl_proj", "SS12", code_conv, "S"), /* 25 codes a second */
};
static const mica_weight_row CODE_50_ROWS[] = {
    LINEAR("ssl_proj", "SS", code_conv, "S"),
};
static const mica_weight_row SPEAKER_ROWS[] = {
    LINEAR("sv_emb", "GV", speaker, "G"),
    LINEAR("ge_to512", "MG", ge_to_mrte, "M"),
    {"prelu.weight", "G", AT(prelu), 0},
};
static const mica_weight_row POST_ROWS[] = {
    {"dec.conv_post.weight", "1L17", AT(conv_post.w), 0},
    {"dec.conv_post.bias", "1", AT(conv_post.b), MICA_WEIGHT_OPTIONAL},
};
#undef AT
#define AT(field) offsetof(mica_gs_encoder_layer, field)
#define ENCODER(P)                                                                                 \
    {                                                                                              \
        LINEAR(P "attn_layers.%d.conv_q", "HH", q, "H"),                                           \
            LINEAR(P "attn_layers.%d.conv_k", "HH", k, "H"),                                       \
            LINEAR(P "attn_layers.%d.conv_v", "HH", v, "H"),                                       \
            LINEAR(P "attn_layers.%d.conv_o", "HH", o, "H"),                                       \
            {P "attn_layers.%d.emb_rel_k", "WR", AT(rel_k), 0},                                    \
            {P "attn_layers.%d.emb_rel_v", "WR", AT(rel_v), 0},                                    \
            {P "norm_layers_1.%d.gamma", "H", AT(norm_1.w), 0},                                    \
            {P "norm_layers_1.%d.beta", "H", AT(norm_1.b), 0},                                     \
            {P "norm_layers_2.%d.gamma", "H", AT(norm_2.w), 0},                                    \
            {P "norm_layers_2.%d.beta", "H", AT(norm_2.b), 0},                                     \
    }
#define ENCODER_ROWS 14
#define FILTER(P, up, down)                                                                        \
    {                                                                                              \
        LINEAR(P "ffn_layers.%d.conv_1", up, conv_1, "F"),                                         \
            LINEAR(P "ffn_layers.%d.conv_2", down, conv_2, "H"),                                   \
    }
#define FILTER_ROWS 4
static const mica_weight_row ENCODERS[3][ENCODER_ROWS] = {
    ENCODER("enc_p.encoder_ssl."),
    ENCODER("enc_p.encoder_text."),
    ENCODER("enc_p.encoder2."),
};
static const mica_weight_row FILTERS[3][FILTER_ROWS] = {
    FILTER("enc_p.encoder_ssl.", "FH1A", "HF1A"),
    FILTER("enc_p.encoder_text.", "FH1A", "HF1A"),
    FILTER("enc_p.encoder2.", "FH1A", "HF1A"),
};
static const mica_weight_row FILTERS_1[3][FILTER_ROWS] = {
    /* kernels of one tap are [O, C] */
    FILTER("enc_p.encoder_ssl.", "FH", "HF"),
    FILTER("enc_p.encoder_text.", "FH", "HF"),
    FILTER("enc_p.encoder2.", "FH", "HF"),
};
#undef AT
#define AT(field) offsetof(mica_gs_flow, field)
static const mica_weight_row FLOW_ROWS[] = {
    LINEAR("flow.flows.%d.pre", "HE", pre, "H"),
    LINEAR("flow.flows.%d.post", "EH", post, "E"),
    LINEAR("flow.flows.%d.enc.cond_layer", "QG", cond, "Q"),
    LINEAR("flow.flows.%d.enc.in_layers.0", "DH15", in[0], "D"),
    LINEAR("flow.flows.%d.enc.in_layers.1", "DH15", in[1], "D"),
    LINEAR("flow.flows.%d.enc.in_layers.2", "DH15", in[2], "D"),
    LINEAR("flow.flows.%d.enc.in_layers.3", "DH15", in[3], "D"),
    LINEAR("flow.flows.%d.enc.res_skip_layers.0", "DH", res[0], "D"),
    LINEAR("flow.flows.%d.enc.res_skip_layers.1", "DH", res[1], "D"),
    LINEAR("flow.flows.%d.enc.res_skip_layers.2", "DH", res[2], "D"),
    LINEAR("flow.flows.%d.enc.res_skip_layers.3", "HH", skip[3], "H"),
};
#undef AT
#define AT(field) offsetof(mica_gs_resblock, field)
static const mica_weight_row RESBLOCK_ROWS[] = {
    LINEAR("dec.resblocks.%d.convs1.0", "XX1K", convs1[0], "X"),
    LINEAR("dec.resblocks.%d.convs1.1", "XX1K", convs1[1], "X"),
    LINEAR("dec.resblocks.%d.convs1.2", "XX1K", convs1[2], "X"),
    LINEAR("dec.resblocks.%d.convs2.0", "XX1K", convs2[0], "X"),
    LINEAR("dec.resblocks.%d.convs2.1", "XX1K", convs2[1], "X"),
    LINEAR("dec.resblocks.%d.convs2.2", "XX1K", convs2[2], "X"),
};
static const mica_weight_row SHORT_ROWS[] = {
    LINEAR("dec.resblocks.%d.convs.0", "XX1K", convs1[0], "X"),
    LINEAR("dec.resblocks.%d.convs.1", "XX1K", convs1[1], "X"),
};
static const mica_weight_row UP_ROWS[] = {
    {"dec.ups.%d.weight", "XY1K", offsetof(mica_nn_linear, w), 0},
    {"dec.ups.%d.bias", "Y", offsetof(mica_nn_linear, b), 0},
};
#undef AT

/* One table for whoever frees or lists: the structs of the tables above. */
static mica_weight_dims dims_of(const mica_gs_synth_config *c)
{
    mica_weight_dims d = {{0}};
    d.of['1'] = 1;
    d.of['2'] = 2;
    d.of['3'] = 3;
    d.of['5'] = 5;
    d.of['7'] = 7;
    d.of['N'] = c->codes;
    d.of['S'] = c->ssl;
    d.of['H'] = c->hidden;
    d.of['F'] = c->filter;
    d.of['A'] = c->filter_kernel;
    d.of['J'] = 2 * c->inter;
    d.of['I'] = c->inter;
    d.of['E'] = c->inter / 2;
    d.of['P'] = c->phones;
    d.of['M'] = c->mrte;
    d.of['T'] = c->style;
    d.of['U'] = 2 * c->style;
    d.of['B'] = c->style_bins;
    d.of['G'] = c->gin;
    d.of['V'] = c->speaker;
    d.of['W'] = c->window;
    d.of['R'] = c->hidden / c->heads;
    d.of['C'] = c->channels[0];
    d.of['L'] = c->channels[c->ups];
    d.of['D'] = 2 * c->hidden;
    d.of['Q'] = 2 * c->hidden * MICA_GS_WN;
    d.of['K'] = 5; /* of the style's convolutions; others set it */
    return d;
}

/* ------------------------------------------------------------------- forms -- */

typedef struct maker {
    mica_arena *arena;
    bool failed;
} maker;

/* A weight of f32 in the arena; numbers not set. */
static float *make(maker *m, mica_weight *w, int ndim, const int64_t *shape)
{
    mica_tensor t = mica_tensor_make(NULL, MICA_DTYPE_F32, ndim, shape);
    t.data = mica_arena_alloc(m->arena, mica_tensor_size(&t));
    m->failed |= !t.data;
    w->tensor = t;
    w->mapped = w->lasting = false; /* the arena may go before the backend */
    return t.data;
}

/* new[i] = scale * old[from(i)] with rows and columns perhaps in reverse. */
static void turn_matrix(maker *m, mica_weight *w, bool rows, bool columns, float scale)
{
    const mica_tensor old = w->tensor;
    const int64_t R = old.shape_[0], C = old.ndim > 1 ? old.shape_[1] : 1;
    float *out = make(m, w, old.ndim, old.shape_);
    for (int64_t r = 0; out && r < R; r++)
        for (int64_t c = 0; c < C; c++)
            out[r * C + c] = scale * mica_tensor_read_f32(&old, (rows ? R - 1 - r : r) * C +
                                                                    (columns ? C - 1 - c : c));
}

/* Flows run backwards from the last, a flip before each: the first and the third that run (3 and 1)
 * see channels in reverse. */
static void turn_flow(maker *m, mica_gs_flow *f, int index)
{
    const bool reversed = (MICA_GS_FLOWS - index) % 2 != 0;
    if (reversed)
        turn_matrix(m, &f->pre.w, false, true, 1.0f);
    turn_matrix(m, &f->post.w, reversed, false, -1.0f);
    turn_matrix(m, &f->post.b, reversed, false, -1.0f);
}

/* Rows [0, H) go on as x, rows [H, 2 H) to the sum. */
static void split_res_skip(mica_gs_flow *f, int64_t hidden)
{
    for (int i = 0; i < MICA_GS_WN - 1; i++) {
        const mica_nn_linear both = f->res[i];
        f->skip[i] = both;
        f->res[i].w.tensor = mica_tensor_rows(&both.w.tensor, 0, hidden);
        f->res[i].b.tensor = mica_tensor_rows(&both.b.tensor, 0, hidden);
        f->skip[i].w.tensor = mica_tensor_rows(&both.w.tensor, hidden, hidden);
        f->skip[i].b.tensor = mica_tensor_rows(&both.b.tensor, hidden, hidden);
    }
}

/* w [C, O, 1, K] of a transposed convolution of rate u:  y[u q + r - p] = sum over m of
 * x[q - m] w[:, :, r + u m]. As a convolution: output r O + o, tap k = taps - 1 - m. */
static void turn_up(maker *m, mica_nn_linear *l, int u, float scale)
{
    const mica_tensor w = l->w.tensor, b = l->b.tensor;
    const int64_t C = w.shape_[0], O = w.shape_[1], K = w.shape_[3], taps = (K + u - 1) / u;
    float *out = make(m, &l->w, 4, (const int64_t[]){u * O, C, 1, taps});
    float *bias = make(m, &l->b, 1, (const int64_t[]){u * O});
    for (int64_t r = 0; out && bias && r < u; r++)
        for (int64_t o = 0; o < O; o++) {
            bias[r * O + o] = mica_tensor_read_f32(&b, o);
            for (int64_t c = 0; c < C; c++)
                for (int64_t k = 0; k < taps; k++) {
                    const int64_t from = r + u * (taps - 1 - k);
                    out[((r * O + o) * C + c) * taps + k] =
                        from < K ? scale * mica_tensor_read_f32(&w, (c * O + o) * K + from) : 0.0f;
                }
        }
}

/* -------------------------------------------------------------------- bind -- */

/* [O, C] as the kernel of one tap that it is. */
static void see_as_kernel(mica_nn_linear *l)
{
    const mica_tensor *t = &l->w.tensor;
    if (t->ndim == 2)
        l->w.tensor =
            mica_tensor_reshape(t, 4, (const int64_t[]){t->shape_[0], t->shape_[1], 1, 1});
}

static void bind_encoders(mica_weight_binder *b, mica_gs_synth *s)
{
    mica_gs_encoder *const list[3] = {&s->encoder_ssl, &s->encoder_text, &s->encoder_2};
    const mica_weight_row(*filters)[FILTER_ROWS] =
        s->config.filter_kernel == 1 ? FILTERS_1 : FILTERS;
    for (int e = 0; e < 3; e++)
        for (int n = 0; n < list[e]->count; n++) {
            mica_gs_encoder_layer *l = &list[e]->layers[n];
            mica_weight_bind(b, ENCODERS[e], ENCODER_ROWS, n, l);
            mica_weight_bind(b, filters[e], FILTER_ROWS, n, l);
            see_as_kernel(&l->conv_1);
            see_as_kernel(&l->conv_2);
        }
}

static void bind_vocoder(mica_weight_binder *b, mica_gs_synth *s)
{
    const mica_gs_synth_config *c = &s->config;
    for (int i = 0; i < c->ups; i++) {
        b->dims.of['X'] = c->channels[i];
        b->dims.of['Y'] = c->channels[i + 1];
        b->dims.of['K'] = c->up_kernels[i];
        mica_weight_bind(b, UP_ROWS, MICA_ARRAY_LEN(UP_ROWS), i, &s->ups[i]);
        b->dims.of['X'] = c->channels[i + 1];
        for (int j = 0; j < c->kernel_count; j++) {
            b->dims.of['K'] = c->kernels[j];
            const int n = i * c->kernel_count + j;
            mica_weight_bind(b, c->is_short ? SHORT_ROWS : RESBLOCK_ROWS,
                             c->is_short ? MICA_ARRAY_LEN(SHORT_ROWS)
                                         : MICA_ARRAY_LEN(RESBLOCK_ROWS),
                             n, &s->resblocks[n]);
        }
    }
    mica_weight_bind(b, POST_ROWS, MICA_ARRAY_LEN(POST_ROWS), 0, s);
}

static mica_status allocate(mica_gs_synth *s, mica_arena *arena, mica_err *err)
{
    mica_gs_encoder *const list[3] = {&s->encoder_ssl, &s->encoder_text, &s->encoder_2};
    const int counts[3] = {s->config.layers_ssl, s->config.layers_text, s->config.layers_2};
    for (int e = 0; e < 3; e++) {
        list[e]->layers = mica_arena_calloc(arena, (size_t)counts[e] + 1, sizeof *list[e]->layers);
        if (!list[e]->layers)
            return MICA_FAIL(err, MICA_E_NOMEM, "SoVITS: no memory for its encoders");
        list[e]->count = counts[e];
    }
    return MICA_OK;
}

/* Where rounding to bf16 is heard most for what it saves: flow, first, last and upsampling convolutions are 6 % of
 * the products and make 80 % of the error of bf16 (released sizes, kernels whose rows have length 1). */
static void keep_exact(mica_gs_synth *s)
{
    s->conv_pre.w.exact = s->conv_post.w.exact = true;
    for (int i = 0; i < s->config.ups; i++)
        s->ups[i].w.exact = true;
    for (int i = 0; i < MICA_GS_FLOWS; i++) {
        mica_gs_flow *f = &s->flows[i];
        f->pre.w.exact = f->post.w.exact = true;
        for (int k = 0; k < MICA_GS_WN; k++)
            f->in[k].w.exact = f->res[k].w.exact = f->skip[k].w.exact = true;
    }
}

mica_status mica_gs_synth_open(mica_gs_synth *s, const mica_gs_synth_config *config,
                               const mica_weights *w, mica_arena *arena, mica_err *err)
{
    const mica_weight_dims dims = dims_of(config);
    mica_weight_binder b;
    maker m = {.arena = arena};
    *s = (mica_gs_synth){.config = *config};
    MICA_TRY(allocate(s, arena, err));
    mica_weight_binder_init(&b, w, "SoVITS", &dims, arena);
    mica_weight_bind(&b, ROWS, MICA_ARRAY_LEN(ROWS), 0, s);
    mica_weight_bind(&b, config->code_kernel == 2 ? CODE_ROWS : CODE_50_ROWS,
                     MICA_ARRAY_LEN(CODE_ROWS), 0, s);
    if (config->speaker)
        mica_weight_bind(&b, SPEAKER_ROWS, MICA_ARRAY_LEN(SPEAKER_ROWS), 0, s);
    bind_encoders(&b, s);
    for (int i = 0; i < MICA_GS_FLOWS; i++)
        mica_weight_bind(&b, FLOW_ROWS, MICA_ARRAY_LEN(FLOW_ROWS), 2 * i, &s->flows[i]);
    bind_vocoder(&b, s);
    MICA_TRY(mica_weight_binder_finish(&b, err));
    if (config->mrte != config->gin && !config->speaker)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "SoVITS %s: a style of %lld does not fit %lld channels",
                         mica_weights_path(w), (long long)config->gin, (long long)config->mrte);
    for (int i = 0; i < MICA_GS_FLOWS; i++) {
        turn_flow(&m, &s->flows[i], i);
        split_res_skip(&s->flows[i], config->hidden);
    }
    for (int i = 0; i < config->ups; i++)
        turn_up(&m, &s->ups[i], config->rates[i], i ? 1.0f / (float)config->kernel_count : 1.0f);
    const mica_tensor post = s->conv_post.w.tensor;
    float *part = make(&m, &s->conv_post.w, 4, post.shape_);
    for (int64_t i = 0; part && i < mica_tensor_count(&post); i++)
        part[i] = mica_tensor_read_f32(&post, i) / (float)config->kernel_count;
    keep_exact(s);
    return m.failed ? MICA_FAIL(err, MICA_E_NOMEM, "SoVITS: no memory for its weights") : MICA_OK;
}

/* -------------------------------------------------------------------- fill -- */

static mica_status fill_vocoder(mica_weights *w, const mica_gs_synth_config *c,
                                mica_weight_dims *dims, mica_arena *arena, mica_err *err)
{
    for (int i = 0; i < c->ups; i++) {
        dims->of['X'] = c->channels[i];
        dims->of['Y'] = c->channels[i + 1];
        dims->of['K'] = c->up_kernels[i];
        MICA_TRY(mica_weight_fill(w, dims, arena, UP_ROWS, MICA_ARRAY_LEN(UP_ROWS), i, err));
        dims->of['X'] = c->channels[i + 1];
        for (int j = 0; j < c->kernel_count; j++) {
            dims->of['K'] = c->kernels[j];
            MICA_TRY(mica_weight_fill(w, dims, arena, RESBLOCK_ROWS, MICA_ARRAY_LEN(RESBLOCK_ROWS),
                                      i * c->kernel_count + j, err));
        }
    }
    return mica_weight_fill(w, dims, arena, POST_ROWS, MICA_ARRAY_LEN(POST_ROWS), 0, err);
}

mica_status mica_gs_synth_fill(mica_weights *w, const mica_gs_synth_config *c, mica_arena *arena,
                               mica_err *err)
{
    const int counts[3] = {c->layers_ssl, c->layers_text, c->layers_2};
    mica_weight_dims dims = dims_of(c);
    MICA_TRY(mica_weight_fill(w, &dims, arena, ROWS, MICA_ARRAY_LEN(ROWS), 0, err));
    MICA_TRY(mica_weight_fill(w, &dims, arena, CODE_ROWS, MICA_ARRAY_LEN(CODE_ROWS), 0, err));
    if (c->speaker)
        MICA_TRY(
            mica_weight_fill(w, &dims, arena, SPEAKER_ROWS, MICA_ARRAY_LEN(SPEAKER_ROWS), 0, err));
    for (int e = 0; e < 3; e++)
        for (int n = 0; n < counts[e]; n++) {
            MICA_TRY(mica_weight_fill(w, &dims, arena, ENCODERS[e], ENCODER_ROWS, n, err));
            MICA_TRY(mica_weight_fill(w, &dims, arena, FILTERS[e], FILTER_ROWS, n, err));
        }
    for (int i = 0; i < MICA_GS_FLOWS; i++)
        MICA_TRY(
            mica_weight_fill(w, &dims, arena, FLOW_ROWS, MICA_ARRAY_LEN(FLOW_ROWS), 2 * i, err));
    return fill_vocoder(w, c, &dims, arena, err);
}

/* ---------------------------------------------------------- upload and drop -- */

mica_status mica_gs_synth_upload(mica_gs_synth *s, mica_backend *be, mica_err *err)
{
    mica_gs_encoder *const list[3] = {&s->encoder_ssl, &s->encoder_text, &s->encoder_2};
    for (int e = 0; e < 3; e++)
        for (int n = 0; n < list[e]->count; n++) {
            MICA_TRY(mica_gs_norm_upload(&list[e]->layers[n].norm_1, be, err));
            MICA_TRY(mica_gs_norm_upload(&list[e]->layers[n].norm_2, be, err));
        }
    return MICA_OK;
}

static void drop(mica_backend *be, const mica_weight_row *rows, size_t count, void *base)
{
    mica_weight *list[64];
    mica_backend_drop_weights(be, list, mica_weight_list(rows, count, base, list));
}

void mica_gs_synth_drop(mica_gs_synth *s, mica_backend *be)
{
    mica_gs_encoder *const list[3] = {&s->encoder_ssl, &s->encoder_text, &s->encoder_2};
    drop(be, ROWS, MICA_ARRAY_LEN(ROWS), s);
    drop(be, CODE_ROWS, MICA_ARRAY_LEN(CODE_ROWS), s);
    drop(be, SPEAKER_ROWS, MICA_ARRAY_LEN(SPEAKER_ROWS), s);
    drop(be, POST_ROWS, MICA_ARRAY_LEN(POST_ROWS), s);
    for (int e = 0; e < 3; e++)
        for (int n = 0; n < list[e]->count; n++) {
            drop(be, ENCODERS[e], ENCODER_ROWS, &list[e]->layers[n]);
            drop(be, FILTERS[e], FILTER_ROWS, &list[e]->layers[n]);
        }
    for (int i = 0; i < MICA_GS_FLOWS; i++) {
        drop(be, FLOW_ROWS, MICA_ARRAY_LEN(FLOW_ROWS), &s->flows[i]);
        for (int k = 0; k < MICA_GS_WN - 1; k++)
            mica_backend_drop_weights(
                be, (mica_weight *const[]){&s->flows[i].skip[k].w, &s->flows[i].skip[k].b}, 2);
    }
    for (int i = 0; i < s->config.ups; i++)
        drop(be, UP_ROWS, MICA_ARRAY_LEN(UP_ROWS), &s->ups[i]);
    for (int i = 0; i < s->config.ups * s->config.kernel_count; i++)
        drop(be, RESBLOCK_ROWS,
             s->config.is_short ? MICA_ARRAY_LEN(SHORT_ROWS) : MICA_ARRAY_LEN(RESBLOCK_ROWS),
             &s->resblocks[i]);
}
