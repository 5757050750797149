/* qwen_image_vae_names.c - the spellings of the autoencoder's tensors.
 *
 *     decoder.upsamples.5.residual.2.weight  ──►  decoder.up_blocks.1.resnets.1.conv1.weight
 *     Wan, ComfyUI: one flat list                 diffusers: a block per resolution
 *
 * mflux (qwen_weight_mapping.py) has `decoder.up_block1.resnets.1.conv1.conv3d.weight`, the encoder's blocks per
 * resolution too, norms' `weight` for `gamma`, and channels last.
 *
 * Reference: diffusers loaders/single_file_utils.py, convert_wan_vae_to_diffusers. A level of the
 * decoder is R residual blocks and an upsampling, R + 1 entries of the flat list; R is found
 * from the first upsampling, so any depth is taken. The encoder's list is flat in both. */
#include "models/qwen_image/qwen_image_vae.h"

#include "base/names.h"

#include <stdio.h>
#include <string.h>

typedef struct name_pair {
    const char *from, *to;
} name_pair;

/* Inside a residual block, and around the resampling. */
static const name_pair LAYERS[] = {
    {"residual.0.gamma", "norm1.gamma"},         {"residual.2.weight", "conv1.weight"},
    {"residual.2.bias", "conv1.bias"},           {"residual.3.gamma", "norm2.gamma"},
    {"residual.6.weight", "conv2.weight"},       {"residual.6.bias", "conv2.bias"},
    {"shortcut.weight", "conv_shortcut.weight"}, {"shortcut.bias", "conv_shortcut.bias"},
};

/* Whole names behind "encoder." or "decoder.". */
static const name_pair HALF[] = {
    {"conv1.weight", "conv_in.weight"},
    {"conv1.bias", "conv_in.bias"},
    {"head.0.gamma", "norm_out.gamma"},
    {"head.2.weight", "conv_out.weight"},
    {"head.2.bias", "conv_out.bias"},
    {"middle.1.norm.gamma", "mid_block.attentions.0.norm.gamma"},
    {"middle.1.to_qkv.weight", "mid_block.attentions.0.to_qkv.weight"},
    {"middle.1.to_qkv.bias", "mid_block.attentions.0.to_qkv.bias"},
    {"middle.1.proj.weight", "mid_block.attentions.0.proj.weight"},
    {"middle.1.proj.bias", "mid_block.attentions.0.proj.bias"},
};

static const name_pair TOP[] = {
    {"conv1.weight", "quant_conv.weight"},
    {"conv1.bias", "quant_conv.bias"},
    {"conv2.weight", "post_quant_conv.weight"},
    {"conv2.bias", "post_quant_conv.bias"},
};

static const char *find_pair(const name_pair *pairs, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(pairs[i].from, name) == 0)
            return pairs[i].to;
    return NULL;
}

static const char *layer_name(const char *name)
{
    const char *to = find_pair(LAYERS, MICA_ARRAY_LEN(LAYERS), name);
    return to ? to : name;
}

static const char *without_prefix(const char *name)
{
    const char *rest = mica_name_behind(name, "vae.");
    rest = rest ? rest : mica_name_behind(name, "first_stage_model.");
    return rest ? rest : name;
}

/* `rest` stands behind "encoder." or "decoder."; false: it has no other name. */
static bool map_half(const char *half, const char *rest, int period, char *out, size_t cap)
{
    int n;
    const char *list, *layer, *whole = find_pair(HALF, MICA_ARRAY_LEN(HALF), rest);
    size_t used = cap;
    if (whole)
        used = (size_t)snprintf(out, cap, "%s.%s", half, whole);
    else if ((list = mica_name_behind(rest, "middle.")) && (layer = mica_name_index(list, &n)) &&
             n % 2 == 0)
        used = (size_t)snprintf(out, cap, "%s.mid_block.resnets.%d.%s", half, n / 2,
                                layer_name(layer));
    else if ((list = mica_name_behind(rest, "downsamples.")) && (layer = mica_name_index(list, &n)))
        used = (size_t)snprintf(out, cap, "%s.down_blocks.%d.%s", half, n, layer_name(layer));
    else if (!(list = mica_name_behind(rest, "upsamples.")) || !(layer = mica_name_index(list, &n)))
        return false;
    else if (n % period == period - 1)
        used =
            (size_t)snprintf(out, cap, "%s.up_blocks.%d.upsamplers.0.%s", half, n / period, layer);
    else
        used = (size_t)snprintf(out, cap, "%s.up_blocks.%d.resnets.%d.%s", half, n / period,
                                n % period, layer_name(layer));
    return used < cap;
}

/* ---- mflux ---- */

static const name_pair MFLUX_LAYERS[] = {{"norm1.weight", "norm1.gamma"},
                                         {"norm2.weight", "norm2.gamma"},
                                         {"norm.weight", "norm.gamma"},
                                         {"norm_out.weight", "norm_out.gamma"},
                                         {"skip_conv.weight", "conv_shortcut.weight"},
                                         {"skip_conv.bias", "conv_shortcut.bias"},
                                         {"resample_conv.weight", "resample.1.weight"},
                                         {"resample_conv.bias", "resample.1.bias"}};

/* The last layer of a name as diffusers calls it; without ".conv3d". */
static void map_layer(char *name, size_t cap)
{
    char *wrapped = strstr(name, ".conv3d.");
    if (wrapped)
        memmove(wrapped, wrapped + strlen(".conv3d"), strlen(wrapped + strlen(".conv3d")) + 1);
    for (size_t i = 0; i < MICA_ARRAY_LEN(MFLUX_LAYERS); i++) {
        const size_t n = strlen(name), m = strlen(MFLUX_LAYERS[i].from);
        if (n > m && name[n - m - 1] == '.' && strcmp(name + n - m, MFLUX_LAYERS[i].from) == 0) {
            snprintf(name + n - m, cap - (n - m), "%s", MFLUX_LAYERS[i].to);
            return;
        }
    }
}

/* period: entries of one resolution in the encoder's flat list. */
static bool map_mflux(void *user, const char *name, char *out, size_t cap)
{
    const int period = *(const int *)user;
    const char *bare = without_prefix(name), *list, *layer, *inner;
    int l, r;
    size_t used;
    if ((list = mica_name_behind(bare, "decoder.up_block")) && (layer = mica_name_index(list, &l)))
        used = (size_t)snprintf(out, cap, "decoder.up_blocks.%d.%s", l, layer);
    else if ((list = mica_name_behind(bare, "encoder.down_blocks.")) &&
             (layer = mica_name_index(list, &l)) && (inner = mica_name_behind(layer, "resnets.")) &&
             (inner = mica_name_index(inner, &r)))
        used = (size_t)snprintf(out, cap, "encoder.down_blocks.%d.%s", l * period + r, inner);
    else if (list && layer && (inner = mica_name_behind(layer, "downsamplers.0.")))
        used = (size_t)snprintf(out, cap, "encoder.down_blocks.%d.%s", (l + 1) * period - 1, inner);
    else
        used = (size_t)snprintf(out, cap, "%s", bare);
    if (used < cap)
        map_layer(out, cap);
    return used < cap;
}

/* Residual blocks of a resolution of the encoder, and its resampling; 3 without an encoder. */
static int mflux_period(const mica_weights *w)
{
    static const char FIRST[] = "encoder.down_blocks.0.resnets.";
    int period = 0;
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        int r;
        const char *list = mica_name_behind(without_prefix(mica_weights_name(w, i)), FIRST);
        if (list && mica_name_index(list, &r))
            period = MICA_MAX(period, r + 2);
    }
    return period ? period : 3;
}

static bool has_name(const mica_weights *w, const char *name)
{
    for (size_t i = 0; i < mica_weights_count(w); i++)
        if (strcmp(without_prefix(mica_weights_name(w, i)), name) == 0)
            return true;
    return false;
}

static bool is_mflux(const mica_weights *w)
{
    return has_name(w, "decoder.mid_block.attentions.0.to_qkv.weight") &&
           has_name(w, "decoder.up_block0.resnets.0.norm1.weight");
}

/* ---- all ---- */

static bool map_name(void *user, const char *name, char *out, size_t cap)
{
    const int period = *(const int *)user;
    const char *bare = without_prefix(name);
    const char *rest, *top = find_pair(TOP, MICA_ARRAY_LEN(TOP), bare);
    if (top)
        return (size_t)snprintf(out, cap, "%s", top) < cap;
    if ((rest = mica_name_behind(bare, "encoder.")) && map_half("encoder", rest, period, out, cap))
        return true;
    if ((rest = mica_name_behind(bare, "decoder.")) && map_half("decoder", rest, period, out, cap))
        return true;
    return bare != name && (size_t)snprintf(out, cap, "%s", bare) < cap;
}

/* Entries of one level in the flat list of the decoder; 4 without any upsampling. */
static int find_period(const mica_weights *w)
{
    int period = 0;
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        int n;
        const char *list =
            mica_name_behind(without_prefix(mica_weights_name(w, i)), "decoder.upsamples.");
        const char *layer = list ? mica_name_index(list, &n) : NULL;
        if (layer && mica_name_behind(layer, "resample.") && (period == 0 || n + 1 < period))
            period = n + 1;
    }
    return period ? period : 4;
}

mica_status mica_qwen_vae_rename(mica_weights *w, mica_err *err)
{
    const bool mflux = is_mflux(w);
    int period = mflux ? mflux_period(w) : find_period(w);
    MICA_TRY(mica_weights_rename(w, mflux ? map_mflux : map_name, &period, err));
    if (mica_weights_is_channels_last(mica_weights_find(w, "decoder.conv_in.weight")))
        return mica_weights_channels_first(w, err);
    return MICA_OK;
}

/* Other autoencoders have up_blocks and resnets as well; only this family has a joint to_qkv
 * and norms called gamma (mflux: blocks without a dot before their number). Wan 2.2's nests
 * `upsamples` and is not taken. */
bool mica_qwen_vae_probe(const mica_weights *w)
{
    return (has_name(w, "decoder.mid_block.attentions.0.to_qkv.weight") &&
            has_name(w, "decoder.up_blocks.0.resnets.0.norm1.gamma")) ||
           (has_name(w, "decoder.middle.1.to_qkv.weight") &&
            has_name(w, "decoder.upsamples.0.residual.0.gamma")) ||
           is_mflux(w);
}
