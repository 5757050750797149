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

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Rows under construction. */
typedef struct vae_table {
    mica_kl_vae *vae; /* rows' offsets count from here */
    const mica_weights *files;
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

static void add_norm(vae_table *t, mica_kl_norm *place, char width, const char *name)
{
    const char shape[] = {width, '\0'};
    add_row(t, &place->gamma, shape, "%s.weight", name);
    add_row(t, &place->beta, shape, "%s.bias", name);
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

static void add_res(vae_table *t, mica_kl_res *res, char in, char out, bool widens,
                    const char *block)
{
    char name[MICA_WEIGHT_NAME];
    snprintf(name, sizeof name, "%s.conv_shortcut", block);
    if (widens)
        add_conv(t, &res->shortcut, out, in, "11", name);
    snprintf(name, sizeof name, "%s.norm1", block);
    add_norm(t, &res->norm1, in, name);
    snprintf(name, sizeof name, "%s.conv1", block);
    add_conv(t, &res->conv1, out, in, "33", name);
    snprintf(name, sizeof name, "%s.norm2", block);
    add_norm(t, &res->norm2, out, name);
    snprintf(name, sizeof name, "%s.conv2", block);
    add_conv(t, &res->conv2, out, out, "33", name);
}

/* diffusers has linear layers here, LDM files 1x1 convolutions. */
static void add_attention(vae_table *t, mica_kl_mid *mid, char m, const char *half)
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
        add_conv(t, places[i], m, m, w && w->ndim == 4 ? "11" : "", name);
    }
}

static void add_mid(vae_table *t, mica_kl_mid *mid, char m, const char *half)
{
    char name[MICA_WEIGHT_NAME];
    snprintf(name, sizeof name, "%s.mid_block.resnets.0", half);
    add_res(t, &mid->res[0], m, m, false, name);
    if (t->vae->config.mid_attention)
        add_attention(t, mid, m, half);
    snprintf(name, sizeof name, "%s.mid_block.resnets.1", half);
    add_res(t, &mid->res[1], m, m, false, name);
}

/* Level i of a half, whose letters begin with `a`; resolutions by index. */
static void add_level(vae_table *t, mica_kl_vae_half half, int i, char in, char out)
{
    const mica_kl_vae_config *c = &t->vae->config;
    const bool decoder = half == MICA_KL_VAE_DECODER;
    const char *list = decoder ? "decoder.up_blocks" : "encoder.down_blocks";
    mica_kl_level *level = &t->vae->half[half].level[i];
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
    add_conv(t, &level->resample, out, out, "33", name);
}

static void add_decoder(vae_table *t)
{
    mica_kl_half *h = &t->vae->half[MICA_KL_VAE_DECODER];
    const int levels = t->vae->config.levels;
    const char mid = (char)('A' + levels - 1);
    if (t->vae->config.post_quant_conv)
        add_conv(t, &h->quant, 'Z', 'Z', "11", "post_quant_conv");
    add_conv(t, &h->conv_in, mid, 'Z', "33", "decoder.conv_in");
    add_mid(t, &h->mid, mid, "decoder");
    for (int i = 0; i < levels; i++)
        add_level(t, MICA_KL_VAE_DECODER, i, i ? (char)(mid - i + 1) : mid, (char)(mid - i));
    add_norm(t, &h->norm_out, 'A', "decoder.conv_norm_out");
    add_conv(t, &h->conv_out, 'R', 'A', "33", "decoder.conv_out");
}

static void add_encoder(vae_table *t)
{
    mica_kl_half *h = &t->vae->half[MICA_KL_VAE_ENCODER];
    const int levels = t->vae->config.levels;
    const char mid = (char)('a' + levels - 1);
    add_conv(t, &h->conv_in, 'a', 'R', "33", "encoder.conv_in");
    for (int i = 0; i < levels; i++)
        add_level(t, MICA_KL_VAE_ENCODER, i, i ? (char)('a' + i - 1) : 'a', (char)('a' + i));
    add_mid(t, &h->mid, mid, "encoder");
    add_norm(t, &h->norm_out, mid, "encoder.conv_norm_out");
    add_conv(t, &h->conv_out, 'Y', mid, "33", "encoder.conv_out");
    if (t->vae->config.quant_conv)
        add_conv(t, &h->quant, 'Y', 'Y', "11", "quant_conv");
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

/* Twice: counts, then writes. */
static mica_status build_rows(vae_table *t, mica_kl_vae_half half, mica_err *err)
{
    for (int pass = 0; pass < 2; pass++) {
        t->count = 0;
        if (half == MICA_KL_VAE_DECODER)
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

/* What the operations take: 1x1 convolutions are linear layers over pixels. */
static void make_view(mica_weight *w)
{
    mica_tensor *t = &w->tensor;
    if (t->ndim == 4 && t->shape_[2] == 1 && t->shape_[3] == 1)
        t->ndim = 2;
}

/* The weights of one half, in order of use. */
static mica_status finish_half(mica_kl_vae *vae, mica_kl_vae_half half, const vae_table *t,
                               mica_err *err)
{
    mica_kl_half *h = &vae->half[half];
    h->list = mica_arena_calloc(t->arena, t->count, sizeof(mica_weight *));
    if (!h->list)
        return MICA_FAIL(err, MICA_E_NOMEM, "vae: no memory for its tensor list");
    for (size_t i = 0; i < t->count; i++) {
        mica_weight *w = (mica_weight *)(void *)((char *)vae + t->rows[i].offset);
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

static mica_status bind(mica_kl_vae *vae, const mica_weights *w, mica_err *err)
{
    vae_table tables[2];
    const int halves = vae->has_encoder ? 2 : 1;
    const mica_weight_dims dims = dims_of(&vae->config);
    mica_weight_binder b;
    for (int h = 0; h < halves; h++) {
        tables[h] = (vae_table){.vae = vae, .files = w, .arena = &vae->arena};
        MICA_TRY(build_rows(&tables[h], (mica_kl_vae_half)h, err));
    }
    mica_weight_binder_init(&b, w, "vae", &dims, &vae->arena);
    for (int h = 0; h < halves; h++)
        mica_weight_bind(&b, tables[h].rows, tables[h].count, 0, vae);
    MICA_TRY(mica_weight_binder_finish(&b, err));
    for (int h = 0; h < halves; h++)
        MICA_TRY(finish_half(vae, (mica_kl_vae_half)h, &tables[h], err));
    return MICA_OK;
}

mica_status mica_kl_vae_open(mica_kl_vae **out, const mica_kl_vae_config *config,
                             const mica_weights *w, mica_err *err)
{
    *out = NULL;
    MICA_TRY(mica_kl_config_check(config, mica_weights_path(w), err));
    mica_kl_vae *vae = mica_mem_calloc(1, sizeof *vae);
    if (!vae)
        return MICA_FAIL(err, MICA_E_NOMEM, "vae: no memory for its tables");
    vae->config = *config;
    vae->has_encoder = has_encoder_tensor(w);
    mica_arena_init(&vae->arena, 1 << 16);
    const mica_status st = bind(vae, w, err);
    if (st)
        mica_kl_vae_close(&vae);
    *out = vae;
    return st;
}

void mica_kl_vae_close(mica_kl_vae **vae)
{
    if (!vae || !*vae)
        return;
    mica_arena_deinit(&(*vae)->arena);
    mica_mem_free(*vae);
    *vae = NULL;
}

const mica_kl_vae_config *mica_kl_vae_get_config(const mica_kl_vae *vae)
{
    return &vae->config;
}

bool mica_kl_vae_has_encoder(const mica_kl_vae *vae)
{
    return vae->has_encoder;
}

mica_weight *const *mica_kl_vae_weights(const mica_kl_vae *vae, mica_kl_vae_half half, int *count)
{
    *count = vae->half[half].count;
    return vae->half[half].list;
}

mica_status mica_kl_vae_fill(const mica_kl_vae_config *config, mica_weights *w, mica_arena *arena,
                             mica_err *err)
{
    MICA_TRY(mica_kl_config_check(config, "vae", err));
    mica_kl_vae *vae = mica_mem_calloc(1, sizeof *vae); /* only gives the rows their places */
    if (!vae)
        return MICA_FAIL(err, MICA_E_NOMEM, "vae: no memory for its tables");
    vae->config = *config;
    const mica_weight_dims dims = dims_of(config);
    mica_status st = MICA_OK;
    for (int h = 0; h < 2 && !st; h++) {
        vae_table t = {.vae = vae, .arena = arena};
        st = build_rows(&t, (mica_kl_vae_half)h, err);
        if (!st)
            st = mica_weight_fill(w, &dims, arena, t.rows, t.count, 0, err);
    }
    mica_mem_free(vae);
    return st;
}
