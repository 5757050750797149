/* kl_vae_weights.c - the tensor table of the autoencoder, made from its sizes.
 *
 *     config ──► rows (name, shape letters, place) ──► bind: every tensor checked
 *                                                  └─► fill: random weights
 *
 * Letters: a..h width of a resolution in the encoder, A..H in the decoder, Z latent channels, Y
 * twice that, R picture channels, digits themselves.
 *
 * Everything is sensitive (never below bf16): the network is a small part of a run and its errors
 * are seen directly. The table is built at run time because names have two numbers. */
#include "nn/kl_vae_internal.h"

#include <stdio.h>
#include <string.h>

static mica_kl_vae *vae_of(const mica_vae_table *t)
{
    return (mica_kl_vae *)t->vae;
}

static void add_norm(mica_vae_table *t, mica_kl_norm *place, char width, const char *name)
{
    const char shape[] = {width, '\0'};
    mica_vae_table_add(t, &place->gamma, shape, "%s.weight", name);
    mica_vae_table_add(t, &place->beta, shape, "%s.bias", name);
}

static void add_res(mica_vae_table *t, mica_kl_res *res, char in, char out, bool widens,
                    const char *block)
{
    char name[MICA_WEIGHT_NAME];
    snprintf(name, sizeof name, "%s.conv_shortcut", block);
    if (widens)
        mica_vae_table_conv(t, &res->shortcut, out, in, "11", name);
    snprintf(name, sizeof name, "%s.norm1", block);
    add_norm(t, &res->norm1, in, name);
    snprintf(name, sizeof name, "%s.conv1", block);
    mica_vae_table_conv(t, &res->conv1, out, in, "33", name);
    snprintf(name, sizeof name, "%s.norm2", block);
    add_norm(t, &res->norm2, out, name);
    snprintf(name, sizeof name, "%s.conv2", block);
    mica_vae_table_conv(t, &res->conv2, out, out, "33", name);
}

/* diffusers has linear layers here, LDM files 1x1 convolutions. */
static void add_attention(mica_vae_table *t, mica_kl_mid *mid, char m, const char *half)
{
    static const char *const names[] = {"to_q", "to_k", "to_v", "to_out.0"};
    mica_nn_linear *const places[] = {&mid->q, &mid->k, &mid->v, &mid->out};
    char name[MICA_WEIGHT_NAME];
    snprintf(name, sizeof name, "%s.mid_block.attentions.0.group_norm", half);
    add_norm(t, &mid->norm, m, name);
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s.mid_block.attentions.0.%s.weight", half, names[i]);
        const mica_tensor *w = t->files ? mica_weights_find(t->files, name) : NULL;
        snprintf(name, sizeof name, "%s.mid_block.attentions.0.%s", half, names[i]);
        mica_vae_table_conv(t, places[i], m, m, w && w->ndim == 4 ? "11" : "", name);
    }
}

static void add_mid(mica_vae_table *t, mica_kl_mid *mid, char m, const char *half)
{
    char name[MICA_WEIGHT_NAME];
    snprintf(name, sizeof name, "%s.mid_block.resnets.0", half);
    add_res(t, &mid->res[0], m, m, false, name);
    if (vae_of(t)->config.mid_attention)
        add_attention(t, mid, m, half);
    snprintf(name, sizeof name, "%s.mid_block.resnets.1", half);
    add_res(t, &mid->res[1], m, m, false, name);
}

/* Level i of a half, whose letters begin with `a`; resolutions by index. */
static void add_level(mica_vae_table *t, mica_kl_vae_half half, int i, char in, char out)
{
    const mica_kl_vae_config *c = &vae_of(t)->config;
    const bool decoder = half == MICA_KL_VAE_DECODER;
    const char *list = decoder ? "decoder.up_blocks" : "encoder.down_blocks";
    mica_kl_level *level = &vae_of(t)->half[half].level[i];
    const bool widens = mica_kl_level_in(c, half, i) != mica_kl_level_out(c, half, i);
    char name[MICA_WEIGHT_NAME];
    for (int r = 0; r < mica_kl_level_blocks(c, half); r++) {
        snprintf(name, sizeof name, "%s.%d.resnets.%d", list, i, r);
        add_res(t, &level->res[r], r ? out : in, out, r == 0 && widens, name);
    }
    if (i == c->levels - 1)
        return;
    snprintf(name, sizeof name, "%s.%d.%s.0.conv", list, i,
             decoder ? "upsamplers" : "downsamplers");
    mica_vae_table_conv(t, &level->resample, out, out, "33", name);
}

static void add_decoder(mica_vae_table *t)
{
    mica_kl_half *h = &vae_of(t)->half[MICA_KL_VAE_DECODER];
    const int levels = vae_of(t)->config.levels;
    const char mid = (char)('A' + levels - 1);
    if (vae_of(t)->config.post_quant_conv)
        mica_vae_table_conv(t, &h->quant, 'Z', 'Z', "11", "post_quant_conv");
    mica_vae_table_conv(t, &h->conv_in, mid, 'Z', "33", "decoder.conv_in");
    add_mid(t, &h->mid, mid, "decoder");
    for (int i = 0; i < levels; i++)
        add_level(t, MICA_KL_VAE_DECODER, i, i ? (char)(mid - i + 1) : mid, (char)(mid - i));
    add_norm(t, &h->norm_out, 'A', "decoder.conv_norm_out");
    mica_vae_table_conv(t, &h->conv_out, 'R', 'A', "33", "decoder.conv_out");
}

static void add_encoder(mica_vae_table *t)
{
    mica_kl_half *h = &vae_of(t)->half[MICA_KL_VAE_ENCODER];
    const int levels = vae_of(t)->config.levels;
    const char mid = (char)('a' + levels - 1);
    mica_vae_table_conv(t, &h->conv_in, 'a', 'R', "33", "encoder.conv_in");
    for (int i = 0; i < levels; i++)
        add_level(t, MICA_KL_VAE_ENCODER, i, i ? (char)('a' + i - 1) : 'a', (char)('a' + i));
    add_mid(t, &h->mid, mid, "encoder");
    add_norm(t, &h->norm_out, mid, "encoder.conv_norm_out");
    mica_vae_table_conv(t, &h->conv_out, 'Y', mid, "33", "encoder.conv_out");
    if (vae_of(t)->config.quant_conv)
        mica_vae_table_conv(t, &h->quant, 'Y', 'Y', "11", "quant_conv");
}

static mica_weight_dims dims_of(const mica_kl_vae_config *c)
{
    mica_weight_dims d = {{0}};
    d.of['Z'] = c->z_dim;
    d.of['Y'] = 2 * (int64_t)c->z_dim;
    d.of['R'] = c->picture_channels;
    d.of['1'] = 1;
    d.of['3'] = 3;
    for (int l = 0; l < c->levels; l++) {
        d.of['a' + l] = c->encoder_dim_[l];
        d.of['A' + l] = c->decoder_dim_[l];
    }
    return d;
}

/* What the operations take: 1x1 convolutions are linear layers over pixels. */
static bool view(mica_weight *w)
{
    mica_tensor *t = &w->tensor;
    if (t->ndim == 4 && t->shape_[2] == 1 && t->shape_[3] == 1)
        t->ndim = 2;
    return true;
}

/* ----------------------------------------------------------------- lifetime -- */

static mica_vae_layout layout_of(mica_kl_vae *vae)
{
    return (mica_vae_layout){.vae = &vae->base,
                             .dims = dims_of(&vae->config),
                             .add = {add_decoder, add_encoder},
                             .view = view};
}

static mica_status new_vae(mica_kl_vae **out, const mica_kl_vae_config *config, const char *source,
                           mica_err *err)
{
    *out = NULL;
    MICA_TRY(mica_kl_config_check(config, source, err));
    *out = mica_vae_new(sizeof **out, err);
    if (!*out)
        return MICA_E_NOMEM;
    (*out)->config = *config;
    return MICA_OK;
}

mica_status mica_kl_vae_open(mica_kl_vae **out, const mica_kl_vae_config *config,
                             const mica_weights *w, mica_err *err)
{
    MICA_TRY(new_vae(out, config, mica_weights_path(w), err));
    const mica_vae_layout layout = layout_of(*out);
    const mica_status st = mica_vae_bind(&layout, w, err);
    if (st)
        mica_kl_vae_close(out);
    return st;
}

void mica_kl_vae_close(mica_kl_vae **vae)
{
    if (!vae || !*vae)
        return;
    mica_vae_free(&(*vae)->base);
    *vae = NULL;
}

mica_status mica_kl_vae_read(mica_kl_vae_config *config, mica_weights *w, const char *json_path,
                             mica_err *err)
{
    mica_kl_vae *vae = NULL;
    MICA_TRY(mica_kl_vae_rename(w, err));
    MICA_TRY(json_path ? mica_kl_vae_config_read(config, json_path, err)
                       : mica_kl_vae_config_derive(config, w, err));
    MICA_TRY(mica_kl_vae_open(&vae, config, w, err));
    mica_kl_vae_close(&vae);
    return MICA_OK;
}

const mica_kl_vae_config *mica_kl_vae_get_config(const mica_kl_vae *vae)
{
    return &vae->config;
}

bool mica_kl_vae_has_encoder(const mica_kl_vae *vae)
{
    return vae->base.has_encoder;
}

mica_weight *const *mica_kl_vae_weights(const mica_kl_vae *vae, mica_kl_vae_half half, int *count)
{
    *count = vae->base.lists[half].count;
    return vae->base.lists[half].weights;
}

mica_status mica_kl_vae_fill(const mica_kl_vae_config *config, mica_weights *w, mica_arena *arena,
                             mica_err *err)
{
    mica_kl_vae *vae; /* only gives the rows their places */
    MICA_TRY(new_vae(&vae, config, "vae", err));
    const mica_vae_layout layout = layout_of(vae);
    const mica_status st = mica_vae_fill(&layout, w, arena, err);
    mica_kl_vae_close(&vae);
    return st;
}

void mica_kl_vae_drop(mica_kl_vae *vae, mica_backend *be)
{
    mica_vae_drop(&vae->base, be);
}
