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

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Rows under construction. */
typedef struct vae_table {
    mica_qwen_vae *vae; /* rows' offsets count from here */
    mica_arena *arena;
    mica_weight_row *rows; /* NULL while counting */
    size_t count;
    bool out_of_memory;
} vae_table;

static void add_row(vae_table *t, mica_weight *place, const char *shape, const char *format, ...)
    MICA_PRINTF(4, 5);
static void add_row(vae_table *t, mica_weight *place, const char *shape, const char *format, ...)
{
    const size_t index = t->count++;
    if (!t->rows)
        return;
    char name[MICA_WEIGHT_NAME];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    const char *pattern = mica_arena_strndup(t->arena, name, strlen(name));
    const char *letters = mica_arena_strndup(t->arena, shape, strlen(shape));
    t->out_of_memory |= !pattern || !letters;
    t->rows[index] = (mica_weight_row){.pattern = pattern,
                                       .shape = letters,
                                       .offset = (size_t)((char *)place - (char *)t->vae),
                                       .flags = MICA_WEIGHT_SENSITIVE};
}

/* Weight and bias of a convolution; kernel: the shape letters behind [out, in]. */
static void add_conv(vae_table *t, mica_nn_linear *place, char out, char in, const char *kernel,
                     const char *name)
{
    const char bias[] = {out, '\0'};
    char shape[8];
    snprintf(shape, sizeof shape, "%c%c%s", out, in, kernel);
    add_row(t, &place->w, shape, "%s.weight", name);
    add_row(t, &place->b, bias, "%s.bias", name);
}

static void add_conv3(vae_table *t, mica_nn_linear *place, char out, char in, const char *prefix,
                      const char *name)
{
    char full[MICA_WEIGHT_NAME];
    snprintf(full, sizeof full, "%s.%s", prefix, name);
    add_conv(t, place, out, in, "333", full);
}

static void add_res(vae_table *t, mica_vae_res *res, char in, char out, bool widens,
                    const char *name)
{
    const char gamma_in[] = {in, '1', '1', '1', '\0'}, gamma_out[] = {out, '1', '1', '1', '\0'};
    char shortcut[MICA_WEIGHT_NAME];
    snprintf(shortcut, sizeof shortcut, "%s.conv_shortcut", name);
    if (widens)
        add_conv(t, &res->shortcut, out, in, "111", shortcut);
    add_row(t, &res->norm1, gamma_in, "%s.norm1.gamma", name);
    add_conv3(t, &res->conv1, out, in, name, "conv1");
    add_row(t, &res->norm2, gamma_out, "%s.norm2.gamma", name);
    add_conv3(t, &res->conv2, out, out, name, "conv2");
}

static void add_mid(vae_table *t, mica_vae_mid *mid, const char *half)
{
    const char m = (char)('a' + t->vae->config.levels - 1);
    const char gamma[] = {m, '1', '1', '\0'};
    char name[MICA_WEIGHT_NAME];
    snprintf(name, sizeof name, "%s.mid_block.resnets.0", half);
    add_res(t, &mid->res[0], m, m, false, name);
    add_row(t, &mid->norm, gamma, "%s.mid_block.attentions.0.norm.gamma", half);
    snprintf(name, sizeof name, "%s.mid_block.attentions.0.to_qkv", half);
    add_conv(t, &mid->qkv, 'Q', m, "11", name);
    snprintf(name, sizeof name, "%s.mid_block.attentions.0.proj", half);
    add_conv(t, &mid->proj, m, m, "11", name);
    snprintf(name, sizeof name, "%s.mid_block.resnets.1", half);
    add_res(t, &mid->res[1], m, m, false, name);
}

static void add_head(vae_table *t, mica_vae_half *h, char in, char out, const char *half)
{
    const char gamma[] = {in, '1', '1', '1', '\0'};
    add_row(t, &h->norm_out, gamma, "%s.norm_out.gamma", half);
    add_conv3(t, &h->conv_out, out, in, half, "conv_out");
}

/* Up block i works at the width of resolution levels - 1 - i. */
static void add_up_block(vae_table *t, mica_vae_level *level, int i)
{
    const mica_qwen_vae_config *c = &t->vae->config;
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
    add_conv(t, &level->resample, (char)('A' + l), out, "33", name);
    snprintf(name, sizeof name, "decoder.up_blocks.%d.upsamplers.0.time_conv", i);
    if (c->temporal_[l - 1])
        add_conv(t, &level->time, (char)('i' + l), out, "311", name);
}

static void add_decoder(vae_table *t)
{
    mica_vae_half *h = &t->vae->half[MICA_QWEN_VAE_DECODER];
    const int levels = t->vae->config.levels;
    add_conv(t, &h->quant, 'Z', 'Z', "111", "post_quant_conv");
    add_conv3(t, &h->conv_in, (char)('a' + levels - 1), 'Z', "decoder", "conv_in");
    add_mid(t, &h->mid, "decoder");
    for (int i = 0; i < levels; i++)
        add_up_block(t, &h->level[i], i);
    add_head(t, h, 'a', 'R', "decoder");
}

/* Down blocks are one flat list: num_res_blocks and a resampling per resolution. */
static void add_down_level(vae_table *t, mica_vae_level *level, int l)
{
    const mica_qwen_vae_config *c = &t->vae->config;
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
    add_conv(t, &level->resample, out, out, "33", name);
    snprintf(name, sizeof name, "encoder.down_blocks.%d.time_conv", start + c->num_res_blocks);
    if (c->temporal_[l])
        add_conv(t, &level->time, out, out, "311", name);
}

static void add_encoder(vae_table *t)
{
    mica_vae_half *h = &t->vae->half[MICA_QWEN_VAE_ENCODER];
    const int levels = t->vae->config.levels;
    add_conv3(t, &h->conv_in, 'W', 'R', "encoder", "conv_in");
    for (int l = 0; l < levels; l++)
        add_down_level(t, &h->level[l], l);
    add_mid(t, &h->mid, "encoder");
    add_head(t, h, (char)('a' + levels - 1), 'Y', "encoder");
    add_conv(t, &h->quant, 'Y', 'Y', "111", "quant_conv");
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

/* Twice: counts, then writes. */
static mica_status build_rows(vae_table *t, mica_qwen_vae_half half, mica_err *err)
{
    for (int pass = 0; pass < 2; pass++) {
        t->count = 0;
        if (half == MICA_QWEN_VAE_DECODER)
            add_decoder(t);
        else
            add_encoder(t);
        if (pass == 0)
            t->rows = mica_arena_calloc(t->arena, t->count, sizeof *t->rows);
        if (!t->rows || t->out_of_memory)
            return MICA_FAIL(err, MICA_E_NOMEM, "vae: no memory for its tensor table");
    }
    return MICA_OK;
}

/* -------------------------------------------------------------------- views -- */

/* What the operations take: the last time tap, no dimensions of one behind the channels. A
 * causal convolution sees zeros in front of the first frame, so its other taps add nothing
 * (autoencoder_kl_qwenimage.py QwenImageCausalConv3d.forward). */
static void make_view(mica_weight *w)
{
    mica_tensor *t = &w->tensor;
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
}

/* The weights of one half, in order of use, without what is never computed. */
static mica_status finish_half(mica_qwen_vae *vae, mica_qwen_vae_half half, const vae_table *t,
                               mica_err *err)
{
    mica_vae_half *h = &vae->half[half];
    h->list = mica_arena_calloc(t->arena, t->count, sizeof(mica_weight *));
    if (!h->list)
        return MICA_FAIL(err, MICA_E_NOMEM, "vae: no memory for its tensor list");
    for (size_t i = 0; i < t->count; i++) {
        mica_weight *w = (mica_weight *)(void *)((char *)vae + t->rows[i].offset);
        if (strstr(w->name, ".time_conv."))
            continue;
        make_view(w);
        h->list[h->count++] = w;
    }
    return MICA_OK;
}

/* ----------------------------------------------------------------- lifetime -- */

static bool has_encoder_tensor(const mica_weights *w)
{
    for (size_t i = 0; i < mica_weights_count(w); i++)
        if (strncmp(mica_weights_name(w, i), "encoder.", 8) == 0)
            return true;
    return false;
}

static mica_status bind(mica_qwen_vae *vae, const mica_weights *w, mica_err *err)
{
    vae_table tables[2];
    const int halves = vae->has_encoder ? 2 : 1;
    const mica_weight_dims dims = dims_of(&vae->config);
    mica_weight_binder b;
    for (int h = 0; h < halves; h++) {
        tables[h] = (vae_table){.vae = vae, .arena = &vae->arena};
        MICA_TRY(build_rows(&tables[h], (mica_qwen_vae_half)h, err));
    }
    mica_weight_binder_init(&b, w, "vae", &dims, &vae->arena);
    for (int h = 0; h < halves; h++)
        mica_weight_bind(&b, tables[h].rows, tables[h].count, 0, vae);
    MICA_TRY(mica_weight_binder_finish(&b, err));
    for (int h = 0; h < halves; h++)
        MICA_TRY(finish_half(vae, (mica_qwen_vae_half)h, &tables[h], err));
    return MICA_OK;
}

mica_status mica_qwen_vae_open(mica_qwen_vae **out, const mica_qwen_vae_config *config,
                               const mica_weights *w, mica_err *err)
{
    *out = NULL;
    MICA_TRY(mica_vae_config_check(config, mica_weights_path(w), err));
    mica_qwen_vae *vae = mica_mem_calloc(1, sizeof *vae);
    if (!vae)
        return MICA_FAIL(err, MICA_E_NOMEM, "vae: no memory for its tables");
    vae->config = *config;
    vae->has_encoder = has_encoder_tensor(w);
    mica_arena_init(&vae->arena, 1 << 16);
    const mica_status st = bind(vae, w, err);
    if (st)
        mica_qwen_vae_close(&vae);
    *out = vae;
    return st;
}

void mica_qwen_vae_close(mica_qwen_vae **vae)
{
    if (!vae || !*vae)
        return;
    mica_arena_deinit(&(*vae)->arena);
    mica_mem_free(*vae);
    *vae = NULL;
}

const mica_qwen_vae_config *mica_qwen_vae_get_config(const mica_qwen_vae *vae)
{
    return &vae->config;
}

bool mica_qwen_vae_has_encoder(const mica_qwen_vae *vae)
{
    return vae->has_encoder;
}

mica_weight *const *mica_qwen_vae_weights(const mica_qwen_vae *vae, mica_qwen_vae_half half,
                                          int *count)
{
    *count = vae->half[half].count;
    return vae->half[half].list;
}

mica_status mica_qwen_vae_fill(const mica_qwen_vae_config *config, mica_weights *w,
                               mica_arena *arena, mica_err *err)
{
    MICA_TRY(mica_vae_config_check(config, "vae", err));
    mica_qwen_vae *vae = mica_mem_calloc(1, sizeof *vae); /* only gives the rows their places */
    if (!vae)
        return MICA_FAIL(err, MICA_E_NOMEM, "vae: no memory for its tables");
    vae->config = *config;
    const mica_weight_dims dims = dims_of(config);
    mica_status st = MICA_OK;
    for (int h = 0; h < 2 && !st; h++) {
        vae_table t = {.vae = vae, .arena = arena};
        st = build_rows(&t, (mica_qwen_vae_half)h, err);
        if (!st)
            st = mica_weight_fill(w, &dims, arena, t.rows, t.count, 0, err);
    }
    mica_mem_free(vae);
    return st;
}
