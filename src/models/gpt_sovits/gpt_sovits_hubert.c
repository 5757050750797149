/* gpt_sovits_hubert.c - HuBERT; see gpt_sovits_hubert.h.
 *
 * Reference: transformers models/hubert/modeling_hubert.py: HubertFeatureEncoder,
 * HubertPositionalConvEmbedding (its last frame is dropped, which is one zero less at the right),
 * HubertEncoder. */
#include "models/gpt_sovits/gpt_sovits_hubert.h"

#include <stdio.h>
#include <string.h>

#define NORM_EPS 1e-5f

static const int STRIDES[MICA_GS_HUBERT_CONVS] = {5, 2, 2, 2, 2, 2, 2};

#define AT(field) offsetof(mica_gs_hubert, field)
static const mica_weight_row ROWS[] = {
    {"feature_extractor.conv_layers.0.conv.weight", "a11h", AT(conv[0].w), 0},
    {"feature_extractor.conv_layers.1.conv.weight", "ba1i", AT(conv[1].w), 0},
    {"feature_extractor.conv_layers.2.conv.weight", "cb1j", AT(conv[2].w), 0},
    {"feature_extractor.conv_layers.3.conv.weight", "dc1k", AT(conv[3].w), 0},
    {"feature_extractor.conv_layers.4.conv.weight", "ed1l", AT(conv[4].w), 0},
    {"feature_extractor.conv_layers.5.conv.weight", "fe1m", AT(conv[5].w), 0},
    {"feature_extractor.conv_layers.6.conv.weight", "gf1n", AT(conv[6].w), 0},
    {"feature_extractor.conv_layers.0.conv.bias", "a", AT(conv[0].b), MICA_WEIGHT_OPTIONAL},
    {"feature_extractor.conv_layers.1.conv.bias", "b", AT(conv[1].b), MICA_WEIGHT_OPTIONAL},
    {"feature_extractor.conv_layers.2.conv.bias", "c", AT(conv[2].b), MICA_WEIGHT_OPTIONAL},
    {"feature_extractor.conv_layers.3.conv.bias", "d", AT(conv[3].b), MICA_WEIGHT_OPTIONAL},
    {"feature_extractor.conv_layers.4.conv.bias", "e", AT(conv[4].b), MICA_WEIGHT_OPTIONAL},
    {"feature_extractor.conv_layers.5.conv.bias", "f", AT(conv[5].b), MICA_WEIGHT_OPTIONAL},
    {"feature_extractor.conv_layers.6.conv.bias", "g", AT(conv[6].b), MICA_WEIGHT_OPTIONAL},
    {"feature_extractor.conv_layers.0.layer_norm.weight", "a", AT(conv_norm_w), 0},
    {"feature_extractor.conv_layers.0.layer_norm.bias", "a", AT(conv_norm_b), 0},
    {"feature_projection.layer_norm.weight", "g", AT(project_norm.w), 0},
    {"feature_projection.layer_norm.bias", "g", AT(project_norm.b), 0},
    {"feature_projection.projection.weight", "Dg", AT(project.w), 0},
    {"feature_projection.projection.bias", "D", AT(project.b), 0},
    {"encoder.pos_conv_embed.conv.weight", "DG1K", AT(position.w), 0},
    {"encoder.pos_conv_embed.conv.bias", "D", AT(position.b), 0},
    {"encoder.layer_norm.weight", "D", AT(norm.w), 0},
    {"encoder.layer_norm.bias", "D", AT(norm.b), 0},
};
#undef AT
#define AT(field) offsetof(mica_gs_block, field)
#define P         "encoder.layers.%d."
static const mica_weight_row BLOCK_ROWS[] = {
    {P "attention.q_proj.weight", "DD", AT(q.w), 0},
    {P "attention.q_proj.bias", "D", AT(q.b), 0},
    {P "attention.k_proj.weight", "DD", AT(k.w), 0},
    {P "attention.k_proj.bias", "D", AT(k.b), 0},
    {P "attention.v_proj.weight", "DD", AT(v.w), 0},
    {P "attention.v_proj.bias", "D", AT(v.b), 0},
    {P "attention.out_proj.weight", "DD", AT(o.w), 0},
    {P "attention.out_proj.bias", "D", AT(o.b), 0},
    {P "layer_norm.weight", "D", AT(norm_1.w), 0},
    {P "layer_norm.bias", "D", AT(norm_1.b), 0},
    {P "feed_forward.intermediate_dense.weight", "FD", AT(up.w), 0},
    {P "feed_forward.intermediate_dense.bias", "F", AT(up.b), 0},
    {P "feed_forward.output_dense.weight", "DF", AT(down.w), 0},
    {P "feed_forward.output_dense.bias", "D", AT(down.b), 0},
    {P "final_layer_norm.weight", "D", AT(norm_2.w), 0},
    {P "final_layer_norm.bias", "D", AT(norm_2.b), 0},
};
#undef AT
#undef P

static const char *const PROBE = "feature_extractor.conv_layers.0.conv.weight";

bool mica_gs_hubert_probe(const mica_weights *files)
{
    return mica_weights_find(files, PROBE) ||
           mica_weights_find(files, "hubert.feature_extractor.conv_layers.0.conv.weight");
}

/* "hubert." may stand before all names. */
static bool rename_tensor(void *user, const char *name, char *out, size_t cap)
{
    (void)user;
    if (strncmp(name, "hubert.", 7) != 0)
        return false;
    snprintf(out, cap, "%s", name + 7);
    return true;
}

mica_status mica_gs_hubert_directory(mica_weights **out, const mica_weights *files,
                                     mica_arena *arena, mica_err *err)
{
    return mica_gs_directory(out, files, rename_tensor, arena, err);
}

static int64_t size_of(const mica_weights *w, const char *name, int dim)
{
    const mica_tensor *t = mica_weights_find(w, name);
    return t && dim < t->ndim ? t->shape_[dim] : 0;
}

static mica_weight_dims dims_of(const mica_weights *w)
{
    mica_weight_dims d = {{0}};
    d.of['1'] = 1;
    for (int i = 0; i < MICA_GS_HUBERT_CONVS; i++) {
        char name[64];
        snprintf(name, sizeof name, "feature_extractor.conv_layers.%d.conv.weight", i);
        d.of['a' + i] = size_of(w, name, 0);
        d.of['h' + i] = size_of(w, name, 3);
    }
    d.of['D'] = size_of(w, "feature_projection.projection.weight", 0);
    d.of['G'] = size_of(w, "encoder.pos_conv_embed.conv.weight", 1);
    d.of['K'] = size_of(w, "encoder.pos_conv_embed.conv.weight", 3);
    d.of['F'] = size_of(w, "encoder.layers.0.feed_forward.intermediate_dense.weight", 0);
    return d;
}

/* The positional convolution reads and writes slices of channels: one part of its rows each. */
static void cut_groups(mica_gs_hubert *h)
{
    const int64_t n = h->position.w.tensor.shape_[0] / h->groups;
    for (int g = 0; g < h->groups; g++) {
        h->group[g] = h->position;
        h->group[g].w.tensor = mica_tensor_rows(&h->position.w.tensor, g * n, n);
        h->group[g].b.tensor = mica_tensor_rows(&h->position.b.tensor, g * n, n);
    }
}

mica_status mica_gs_hubert_open(mica_gs_hubert *h, const mica_weights *w, int64_t heads,
                                mica_arena *arena, mica_err *err)
{
    const mica_weight_dims dims = dims_of(w);
    mica_weight_binder b;
    const int64_t D = dims.of['D'];
    *h = (mica_gs_hubert){.stack = {.count = mica_weight_count_blocks(w, "encoder.layers."),
                                    .width = D,
                                    .ffn = dims.of['F'],
                                    .eps = NORM_EPS,
                                    .act = MICA_ACT_GELU_ERF}};
    h->stack.heads = heads > 0 ? heads : mica_gs_likely_heads(D, 64);
    h->stack.blocks = mica_arena_calloc(arena, (size_t)h->stack.count + 1, sizeof *h->stack.blocks);
    if (!h->stack.blocks) {
        h->stack.count = 0;
        return MICA_FAIL(err, MICA_E_NOMEM, "HuBERT: no memory for its blocks");
    }
    if (mica_weights_find(w, "feature_extractor.conv_layers.1.layer_norm.weight"))
        return MICA_FAIL(
            err, MICA_E_UNSUPPORTED,
            "HuBERT %s: a norm behind every convolution, as in the large model, is not "
            "known; chinese-hubert-base has one",
            mica_weights_path(w));
    mica_weight_binder_init(&b, w, "HuBERT", &dims, arena);
    mica_weight_bind(&b, ROWS, MICA_ARRAY_LEN(ROWS), 0, h);
    for (int n = 0; n < h->stack.count; n++)
        mica_weight_bind(&b, BLOCK_ROWS, MICA_ARRAY_LEN(BLOCK_ROWS), n, &h->stack.blocks[n]);
    MICA_TRY(mica_weight_binder_finish(&b, err));
    const int64_t groups = dims.of['G'] > 0 && D % dims.of['G'] == 0 ? D / dims.of['G'] : 0;
    if (groups < 1 || groups > MICA_GS_HUBERT_GROUPS || D % h->stack.heads != 0)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "HuBERT %s: a width of %lld does not divide into %lld heads and 1 to %d "
                         "groups of %lld",
                         mica_weights_path(w), (long long)D, (long long)h->stack.heads,
                         MICA_GS_HUBERT_GROUPS, (long long)dims.of['G']);
    h->groups = (int)groups;
    for (int i = 0; i < MICA_GS_HUBERT_CONVS; i++)
        h->kernels[i] = (int)dims.of['h' + i];
    memcpy(h->strides, STRIDES, sizeof h->strides);
    cut_groups(h);
    return MICA_OK;
}

mica_status mica_gs_hubert_upload(mica_gs_hubert *h, mica_backend *be, mica_err *err)
{
    MICA_TRY(mica_gs_norm_upload(&h->project_norm, be, err));
    MICA_TRY(mica_gs_norm_upload(&h->norm, be, err));
    return mica_gs_stack_upload(&h->stack, be, err);
}

/* --------------------------------------------------------------------- pass -- */

int64_t mica_gs_hubert_frames(const mica_gs_hubert *h, int64_t samples)
{
    for (int i = 0; i < MICA_GS_HUBERT_CONVS; i++)
        samples = samples < h->kernels[i] ? 0 : (samples - h->kernels[i]) / h->strides[i] + 1;
    return samples;
}

/* Group norm with one channel a group: over time. */
static void norm_channels(mica_gs_hubert *h, mica_backend *be, mica_tensor *x_RC)
{
    const int64_t R = x_RC->shape_[0], C = x_RC->shape_[1];
    mica_tensor picture = mica_tensor_reshape(x_RC, 3, (const int64_t[]){1, R, C});
    mica_tensor moments = mica_state_tensor(be, MICA_POOL_STEP, 3, (const int64_t[]){1, C, 2});
    mica_group_moments(be, &picture, &moments);
    mica_group_norm(be, &(mica_group_norm_args){.x_YXC = &picture,
                                                .moments_YG2 = &moments,
                                                .gamma_C = &h->conv_norm_w,
                                                .beta_C = &h->conv_norm_b,
                                                .eps = NORM_EPS,
                                                .y_YXC = &picture});
    mica_apply(be, MICA_FUNCTION_GELU_ERF, 0.0f, x_RC, NULL, x_RC);
}

static mica_tensor extract(mica_gs_hubert *h, mica_backend *be, const float *samples, int64_t count)
{
    mica_tensor x = mica_gs_scratch(be, count, 1);
    mica_upload_f32(be, &x, samples);
    for (int i = 0; i < MICA_GS_HUBERT_CONVS; i++) {
        const int64_t rows = (x.shape_[0] - h->kernels[i]) / h->strides[i] + 1;
        mica_tensor y = mica_gs_scratch(be, rows, h->conv[i].w.tensor.shape_[0]);
        mica_conv1d(be, &(mica_conv1d_args){.x_RC = &x,
                                            .w_OCYX = &h->conv[i].w,
                                            .bias_O = h->conv[i].b.name ? &h->conv[i].b : NULL,
                                            .stride = h->strides[i],
                                            .dilation = 1,
                                            .act = i ? MICA_ACT_GELU_ERF : MICA_ACT_NONE,
                                            .y_RO = &y});
        if (i == 0)
            norm_channels(h, be, &y);
        x = y;
    }
    return x;
}

/* y = x + GELU(positional convolution of x), group by group. */
static void add_positions(mica_gs_hubert *h, mica_backend *be, const mica_tensor *x,
                          const mica_tensor *y)
{
    const int64_t n = x->shape_[1] / h->groups;
    const int taps = (int)h->position.w.tensor.shape_[3], pad = taps / 2;
    for (int g = 0; g < h->groups; g++) {
        const mica_tensor in = mica_tensor_columns(x, g * n, n);
        mica_tensor out = mica_tensor_columns(y, g * n, n);
        mica_conv1d(be, &(mica_conv1d_args){.x_RC = &in,
                                            .w_OCYX = &h->group[g].w,
                                            .bias_O = &h->group[g].b,
                                            .stride = 1,
                                            .dilation = 1,
                                            .pad_left = pad,
                                            .pad_right = taps - 1 - pad,
                                            .act = MICA_ACT_GELU_ERF,
                                            .residual_RO = &in,
                                            .y_RO = &out});
    }
}

static mica_status run_pass(mica_gs_hubert *h, mica_backend *be, mica_run *run,
                            const float *samples, int64_t count, mica_tensor *y_LD, mica_err *err)
{
    const mica_tap_sink *taps = run->taps;
    mica_tensor features = extract(h, be, samples, count);
    mica_tensor projected = mica_gs_scratch(be, features.shape_[0], h->stack.width);
    mica_gs_tap(taps, be, &features, true, "conv_features");
    mica_gs_norm_run(be, &h->project_norm, h->stack.eps, &features, &features);
    mica_nn_linear_run(be, &h->project, &features, MICA_ACT_NONE, &projected);
    mica_gs_tap(taps, be, &projected, false, "feature_projection");
    add_positions(h, be, &projected, y_LD);
    mica_gs_norm_run(be, &h->norm, h->stack.eps, y_LD, y_LD);
    mica_gs_tap(taps, be, y_LD, false, "hidden_states.0");
    for (int n = 0; n < h->stack.count; n++) {
        mica_gs_block_run(be, &h->stack, n, y_LD);
        mica_gs_tap(taps, be, y_LD, false, "hidden_states.%d", n + 1);
        MICA_TRY(mica_run_block(run, be, n + 1, h->stack.count, err));
    }
    mica_gs_tap(taps, be, y_LD, false, "last_hidden_state");
    return mica_backend_check(be, err);
}

mica_status mica_gs_hubert_run(mica_gs_hubert *h, mica_backend *be, mica_run *run,
                               const float *samples, int64_t count, mica_tensor *y_LD,
                               mica_err *err)
{
    if (mica_gs_hubert_frames(h, count) < 1)
        return MICA_FAIL(err, MICA_E_USAGE, "%lld samples at 16 kHz are too few for HuBERT",
                         (long long)count);
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_status st = run_pass(h, be, run, samples, count, y_LD, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}

void mica_gs_hubert_drop(mica_gs_hubert *h, mica_backend *be)
{
    mica_weight *list[MICA_ARRAY_LEN(ROWS)];
    mica_backend_drop_weights(be, list, mica_weight_list(ROWS, MICA_ARRAY_LEN(ROWS), h, list));
    for (int g = 0; g < h->groups; g++)
        mica_backend_drop_weights(be, (mica_weight *const[]){&h->group[g].w, &h->group[g].b}, 2);
    for (int n = 0; n < h->stack.count; n++)
        mica_backend_drop_weights(
            be, list,
            mica_weight_list(BLOCK_ROWS, MICA_ARRAY_LEN(BLOCK_ROWS), &h->stack.blocks[n], list));
}
