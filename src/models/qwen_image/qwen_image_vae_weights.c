/* qwen_image_vae_weights.c - the tensor table of the autoencoder, made from its sizes.
 *
 *     config ──► rows (name, shape letters, place) ──► bind: every tensor checked
 *                                                  └─► fill: random weights
 *     [O, C, 3, 3, 3] ──► [O, C, 3, 3] at the last time tap;  [O, C, 1, 1, 1] ──► [O, C]
 *
 * Letters: a..h width of a resolution, A..H half of it, i..p twice, Q three times the
 * mid width, W base width, Z latent channels, Y twice that, R picture channels, digits themselves.
 *
 * Everything is sensitive (never below bf16): the network is a small part of a run and its errors
 * are seen directly. The table is built at run time because names have two numbers. Names: diffusers
 * autoencoder_kl_qwenimage.py. */
#include "models/qwen_image/qwen_image_vae_internal.h"

#include <stdio.h>
#include <string.h>

static mica_qwen_vae *vae_of(const mica_vae_table *t)
{
    return (mica_qwen_vae *)t->vae;
}

static void add_conv3(mica_vae_table *t, mica_nn_linear *place, char out, char in,
                      const char *prefix, const char *name)
{
    char full[MICA_WEIGHT_NAME];
    snprintf(full, sizeof full, "%s.%s", prefix, name);
    mica_vae_table_conv(t, place, out, in, "333", full);
}

/* Scale of a norm, [C] with three ones behind it, in attention two, in mflux's files none. */
static void add_gamma(mica_vae_table *t, mica_weight *place, char width, int ones, const char *of,
                      const char *norm)
{
    char name[MICA_WEIGHT_NAME + 16], shape[] = {width, '1', '1', '1', '\0'};
    snprintf(name, sizeof name, "%s.%s.gamma", of, norm);
    const mica_tensor *g = t->files ? mica_weights_find(t->files, name) : NULL;
    shape[g && g->ndim == 1 ? 1 : 1 + ones] = '\0';
    mica_vae_table_add(t, place, shape, "%s", name);
}

static void add_res(mica_vae_table *t, mica_vae_res *res, char in, char out, bool widens,
                    const char *name)
{
    char shortcut[MICA_WEIGHT_NAME];
    snprintf(shortcut, sizeof shortcut, "%s.conv_shortcut", name);
    if (widens)
        mica_vae_table_conv(t, &res->shortcut, out, in, "111", shortcut);
    add_gamma(t, &res->norm1, in, 3, name, "norm1");
    add_conv3(t, &res->conv1, out, in, name, "conv1");
    add_gamma(t, &res->norm2, out, 3, name, "norm2");
    add_conv3(t, &res->conv2, out, out, name, "conv2");
}

static void add_mid(mica_vae_table *t, mica_vae_mid *mid, const char *half)
{
    const char m = (char)('a' + vae_of(t)->config.levels - 1);
    char name[MICA_WEIGHT_NAME];
    snprintf(name, sizeof name, "%s.mid_block.resnets.0", half);
    add_res(t, &mid->res[0], m, m, false, name);
    snprintf(name, sizeof name, "%s.mid_block.attentions.0", half);
    add_gamma(t, &mid->norm, m, 2, name, "norm");
    snprintf(name, sizeof name, "%s.mid_block.attentions.0.to_qkv", half);
    mica_vae_table_conv(t, &mid->qkv, 'Q', m, "11", name);
    snprintf(name, sizeof name, "%s.mid_block.attentions.0.proj", half);
    mica_vae_table_conv(t, &mid->proj, m, m, "11", name);
    snprintf(name, sizeof name, "%s.mid_block.resnets.1", half);
    add_res(t, &mid->res[1], m, m, false, name);
}

static void add_head(mica_vae_table *t, mica_vae_half *h, char in, char out, const char *half)
{
    add_gamma(t, &h->norm_out, in, 3, half, "norm_out");
    add_conv3(t, &h->conv_out, out, in, half, "conv_out");
}

/* Up block i works at the width of resolution levels - 1 - i. */
static void add_up_block(mica_vae_table *t, mica_vae_level *level, int i)
{
    const mica_qwen_vae_config *c = &vae_of(t)->config;
    const int l = c->levels - 1 - i;
    const char out = (char)('a' + l), first = (char)(i == 0 ? 'a' + l : 'A' + l + 1);
    const bool widens = mica_vae_level_in(c, MICA_QWEN_VAE_DECODER, i) !=
                        mica_vae_level_out(c, MICA_QWEN_VAE_DECODER, i);
    char name[MICA_WEIGHT_NAME];
    for (int r = 0; r <= c->num_res_blocks; r++) {
        snprintf(name, sizeof name, "decoder.up_blocks.%d.resnets.%d", i, r);
        add_res(t, &level->res[r], r ? out : first, out, r == 0 && widens, name);
    }
    if (l == 0)
        return;
    snprintf(name, sizeof name, "decoder.up_blocks.%d.upsamplers.0.resample.1", i);
    mica_vae_table_conv(t, &level->resample, (char)('A' + l), out, "33", name);
    snprintf(name, sizeof name, "decoder.up_blocks.%d.upsamplers.0.time_conv", i);
    if (c->temporal_[l - 1])
        mica_vae_table_conv(t, &level->time, (char)('i' + l), out, "311", name);
}

static void add_decoder(mica_vae_table *t)
{
    mica_vae_half *h = &vae_of(t)->half[MICA_QWEN_VAE_DECODER];
    const int levels = vae_of(t)->config.levels;
    mica_vae_table_conv(t, &h->quant, 'Z', 'Z', "111", "post_quant_conv");
    add_conv3(t, &h->conv_in, (char)('a' + levels - 1), 'Z', "decoder", "conv_in");
    add_mid(t, &h->mid, "decoder");
    for (int i = 0; i < levels; i++)
        add_up_block(t, &h->level[i], i);
    add_head(t, h, 'a', 'R', "decoder");
}

/* Never computed for single frames; mflux leaves one of the encoder's out. */
static bool has_time(const mica_vae_table *t, const char *name)
{
    char weight[MICA_WEIGHT_NAME + 8];
    snprintf(weight, sizeof weight, "%s.weight", name);
    return !t->files || mica_weights_find(t->files, weight);
}

/* Down blocks are one flat list: num_res_blocks and a resampling per resolution. */
static void add_down_level(mica_vae_table *t, mica_vae_level *level, int l)
{
    const mica_qwen_vae_config *c = &vae_of(t)->config;
    const char out = (char)('a' + l), first = (char)(l == 0 ? 'W' : 'a' + l - 1);
    const bool widens = mica_vae_level_in(c, MICA_QWEN_VAE_ENCODER, l) !=
                        mica_vae_level_out(c, MICA_QWEN_VAE_ENCODER, l);
    const int start = l * (c->num_res_blocks + 1);
    char name[MICA_WEIGHT_NAME];
    for (int r = 0; r < c->num_res_blocks; r++) {
        snprintf(name, sizeof name, "encoder.down_blocks.%d", start + r);
        add_res(t, &level->res[r], r ? out : first, out, r == 0 && widens, name);
    }
    if (l == c->levels - 1)
        return;
    snprintf(name, sizeof name, "encoder.down_blocks.%d.resample.1", start + c->num_res_blocks);
    mica_vae_table_conv(t, &level->resample, out, out, "33", name);
    snprintf(name, sizeof name, "encoder.down_blocks.%d.time_conv", start + c->num_res_blocks);
    if (c->temporal_[l] && has_time(t, name))
        mica_vae_table_conv(t, &level->time, out, out, "311", name);
}

static void add_encoder(mica_vae_table *t)
{
    mica_vae_half *h = &vae_of(t)->half[MICA_QWEN_VAE_ENCODER];
    const int levels = vae_of(t)->config.levels;
    add_conv3(t, &h->conv_in, 'W', 'R', "encoder", "conv_in");
    for (int l = 0; l < levels; l++)
        add_down_level(t, &h->level[l], l);
    add_mid(t, &h->mid, "encoder");
    add_head(t, h, (char)('a' + levels - 1), 'Y', "encoder");
    mica_vae_table_conv(t, &h->quant, 'Y', 'Y', "111", "quant_conv");
}

static mica_weight_dims dims_of(const mica_qwen_vae_config *c)
{
    mica_weight_dims d = {{0}};
    for (int l = 0; l < c->levels; l++) {
        const int64_t width = (int64_t)c->base_dim * c->dim_mult_[l];
        d.of['a' + l] = width;
        d.of['A' + l] = width / 2;
        d.of['i' + l] = 2 * width;
    }
    d.of['Q'] = 3 * mica_vae_mid_channels(c);
    d.of['W'] = c->base_dim;
    d.of['Z'] = c->z_dim;
    d.of['Y'] = 2 * c->z_dim;
    d.of['R'] = c->picture_channels;
    d.of['1'] = 1;
    d.of['3'] = 3;
    return d;
}

/* -------------------------------------------------------------------- views -- */

/* What the operations take: the last time tap, no dimensions of one behind the channels. A
 * causal convolution sees zeros in front of the first frame, so its other taps add nothing
 * (autoencoder_kl_qwenimage.py QwenImageCausalConv3d.forward). */
static bool view(mica_weight *w)
{
    mica_tensor *t = &w->tensor;
    if (strstr(w->name, ".time_conv."))
        return false;
    if (t->ndim == 5) {
        const int64_t tap = (t->shape_[2] - 1) * t->stride_[2];
        t->data = (char *)t->data + tap * mica_dtype_get(t->dtype)->size;
        for (int i = 2; i < 4; i++) {
            t->shape_[i] = t->shape_[i + 1];
            t->stride_[i] = t->stride_[i + 1];
        }
        t->shape_[4] = t->stride_[4] = 1;
        t->ndim = 4;
    }
    const bool is_gamma = t->ndim > 1 && t->shape_[1] == 1 && !strstr(w->name, ".weight");
    const bool is_1x1 = t->ndim == 4 && t->shape_[2] == 1 && t->shape_[3] == 1;
    if (is_gamma)
        t->ndim = 1;
    else if (is_1x1)
        t->ndim = 2;
    return true;
}

/* ----------------------------------------------------------------- lifetime -- */

static mica_vae_layout layout_of(mica_qwen_vae *vae)
{
    return (mica_vae_layout){.vae = &vae->base,
                             .dims = dims_of(&vae->config),
                             .add = {add_decoder, add_encoder},
                             .view = view};
}

static mica_status new_vae(mica_qwen_vae **out, const mica_qwen_vae_config *config,
                           const char *source, mica_err *err)
{
    *out = NULL;
    MICA_TRY(mica_vae_config_check(config, source, err));
    *out = mica_vae_new(sizeof **out, err);
    if (!*out)
        return MICA_E_NOMEM;
    (*out)->config = *config;
    return MICA_OK;
}

mica_status mica_qwen_vae_open(mica_qwen_vae **out, const mica_qwen_vae_config *config,
                               const mica_weights *w, mica_err *err)
{
    MICA_TRY(new_vae(out, config, mica_weights_path(w), err));
    const mica_vae_layout layout = layout_of(*out);
    const mica_status st = mica_vae_bind(&layout, w, err);
    if (st)
        mica_qwen_vae_close(out);
    return st;
}

void mica_qwen_vae_close(mica_qwen_vae **vae)
{
    if (!vae || !*vae)
        return;
    mica_vae_free(&(*vae)->base);
    *vae = NULL;
}

const mica_qwen_vae_config *mica_qwen_vae_get_config(const mica_qwen_vae *vae)
{
    return &vae->config;
}

bool mica_qwen_vae_has_encoder(const mica_qwen_vae *vae)
{
    return vae->base.has_encoder;
}

mica_weight *const *mica_qwen_vae_weights(const mica_qwen_vae *vae, mica_qwen_vae_half half,
                                          int *count)
{
    *count = vae->base.lists[half].count;
    return vae->base.lists[half].weights;
}

mica_status mica_qwen_vae_fill(const mica_qwen_vae_config *config, mica_weights *w,
                               mica_arena *arena, mica_err *err)
{
    mica_qwen_vae *vae; /* only gives the rows their places */
    MICA_TRY(new_vae(&vae, config, "vae", err));
    const mica_vae_layout layout = layout_of(vae);
    const mica_status st = mica_vae_fill(&layout, w, arena, err);
    mica_qwen_vae_close(&vae);
    return st;
}

void mica_qwen_vae_drop(mica_qwen_vae *vae, mica_backend *be)
{
    mica_vae_drop(&vae->base, be);
}
