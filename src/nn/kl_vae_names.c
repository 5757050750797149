/* kl_vae_names.c - the spellings of the autoencoder's tensors.
 *
 *     decoder.up.2.block.1.nin_shortcut.weight ──► decoder.up_blocks.1.resnets.1.conv_shortcut.weight
 *     LDM, BFL, ComfyUI: counted by resolution     diffusers: in order of use
 *
 * BFL's FLUX.2 file has the quant convolutions inside the halves (`encoder.quant_conv`). mflux wraps some layers once
 * more (`conv_in.conv2d`) and has channels last.
 * Reference: diffusers loaders/single_file_utils.py, convert_ldm_vae_checkpoint. */
#include "nn/kl_vae.h"

#include "base/names.h"
#include "nn/weight_table.h"

#include <stdio.h>
#include <string.h>

typedef struct name_pair {
    const char *from, *to;
} name_pair;

/* Beginnings behind "encoder." or "decoder.". */
static const name_pair PARTS[] = {
    {"norm_out.", "conv_norm_out."},
    {"mid.block_1.", "mid_block.resnets.0."},
    {"mid.block_2.", "mid_block.resnets.1."},
    {"mid.attn_1.norm.", "mid_block.attentions.0.group_norm."},
    {"mid.attn_1.q.", "mid_block.attentions.0.to_q."},
    {"mid.attn_1.k.", "mid_block.attentions.0.to_k."},
    {"mid.attn_1.v.", "mid_block.attentions.0.to_v."},
    {"mid.attn_1.proj_out.", "mid_block.attentions.0.to_out.0."},
    /* diffusers before 0.18 */
    {"mid_block.attentions.0.query.", "mid_block.attentions.0.to_q."},
    {"mid_block.attentions.0.key.", "mid_block.attentions.0.to_k."},
    {"mid_block.attentions.0.value.", "mid_block.attentions.0.to_v."},
    {"mid_block.attentions.0.proj_attn.", "mid_block.attentions.0.to_out.0."},
    /* mflux (z_image_weight_mapping.py, flux2_weight_mapping.py) */
    {"mid_block.attentions.0.to_out.weight", "mid_block.attentions.0.to_out.0.weight"},
    {"mid_block.attentions.0.to_out.bias", "mid_block.attentions.0.to_out.0.bias"},
    {"conv_in.conv.", "conv_in."},
    {"conv_in.conv2d.", "conv_in."},
    {"conv_out.conv.", "conv_out."},
    {"conv_out.conv2d.", "conv_out."},
    {"conv_norm_out.norm.", "conv_norm_out."},
};

static const char *without_prefix(const char *name)
{
    const char *rest = mica_name_behind(name, "vae.");
    rest = rest ? rest : mica_name_behind(name, "first_stage_model.");
    return rest ? rest : name;
}

/* "L.block.R.rest" and "L.upsample.rest"; `to` names the list, `sampler` its last entry. */
static bool map_level(const char *half, const char *list, const char *to, int block,
                      const char *resampled, const char *sampler, char *out, size_t cap)
{
    int r;
    const char *res = mica_name_behind(list, "block."),
               *rest = res ? mica_name_index(res, &r) : NULL;
    const char *sample = mica_name_behind(list, resampled);
    size_t used = cap;
    if (rest) {
        const char *shortcut = mica_name_behind(rest, "nin_shortcut.");
        used = (size_t)snprintf(out, cap, "%s.%s.%d.resnets.%d.%s%s", half, to, block, r,
                                shortcut ? "conv_shortcut." : "", shortcut ? shortcut : rest);
    } else if (sample) {
        used = (size_t)snprintf(out, cap, "%s.%s.%d.%s.0.%s", half, to, block, sampler, sample);
    }
    return used < cap;
}

/* `rest` stands behind "encoder." or "decoder."; false: it has no other name. */
static bool map_half(const char *half, const char *rest, int levels, char *out, size_t cap)
{
    int l;
    const char *list, *inside;
    for (size_t i = 0; i < MICA_ARRAY_LEN(PARTS); i++)
        if ((inside = mica_name_behind(rest, PARTS[i].from)))
            return (size_t)snprintf(out, cap, "%s.%s%s", half, PARTS[i].to, inside) < cap;
    if ((list = mica_name_behind(rest, "down.")) && (inside = mica_name_index(list, &l)))
        return map_level(half, inside, "down_blocks", l, "downsample.", "downsamplers", out, cap);
    if ((list = mica_name_behind(rest, "up.")) && (inside = mica_name_index(list, &l)) &&
        l < levels)
        return map_level(half, inside, "up_blocks", levels - 1 - l, "upsample.", "upsamplers", out,
                         cap);
    return false;
}

/* user: the number of resolutions. */
static bool map_name(void *user, const char *name, char *out, size_t cap)
{
    const int levels = *(const int *)user;
    const char *bare = without_prefix(name), *rest;
    if ((rest = mica_name_behind(bare, "encoder.quant_conv.")))
        return (size_t)snprintf(out, cap, "quant_conv.%s", rest) < cap;
    if ((rest = mica_name_behind(bare, "decoder.post_quant_conv.")))
        return (size_t)snprintf(out, cap, "post_quant_conv.%s", rest) < cap;
    if ((rest = mica_name_behind(bare, "encoder.")) && map_half("encoder", rest, levels, out, cap))
        return true;
    if ((rest = mica_name_behind(bare, "decoder.")) && map_half("decoder", rest, levels, out, cap))
        return true;
    return bare != name && (size_t)snprintf(out, cap, "%s", bare) < cap;
}

/* Resolutions of the LDM spelling: decoder.up.0 to decoder.up.(n - 1). */
static int count_levels(const mica_weights *w)
{
    int levels = 0;
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        int l;
        const char *list = mica_name_behind(without_prefix(mica_weights_name(w, i)), "decoder.up.");
        if (list && mica_name_index(list, &l))
            levels = MICA_MAX(levels, l + 1);
    }
    return levels;
}

mica_status mica_kl_vae_rename(mica_weights *w, mica_err *err)
{
    int levels = count_levels(w);
    MICA_TRY(mica_weights_rename(w, map_name, &levels, err));
    if (mica_weights_is_channels_last(mica_weights_find(w, "decoder.conv_in.weight")))
        return mica_weights_channels_first(w, err);
    return MICA_OK;
}

static const mica_tensor *find_bare(const mica_weights *w, const char *name)
{
    for (size_t i = 0; i < mica_weights_count(w); i++)
        if (strcmp(without_prefix(mica_weights_name(w, i)), name) == 0)
            return mica_weights_tensor(w, i);
    return NULL;
}

/* Video autoencoders have 5-D convolutions and the Qwen-Image VAE no norm with a bias. */
int mica_kl_vae_probe(const mica_weights *w)
{
    const mica_tensor *in = find_bare(w, "decoder.conv_in.weight");
    in = in ? in : find_bare(w, "decoder.conv_in.conv.weight");
    const bool named =
        ((find_bare(w, "decoder.conv_norm_out.bias") ||
          find_bare(w, "decoder.conv_norm_out.norm.bias")) &&
         find_bare(w, "decoder.up_blocks.0.resnets.0.norm1.bias")) ||
        (find_bare(w, "decoder.norm_out.bias") && find_bare(w, "decoder.up.0.block.0.norm1.bias"));
    const bool flat = in && in->ndim == 4;
    const int64_t z = flat ? in->shape_[mica_weights_is_channels_last(in) ? 3 : 1] : 0;
    return named && z > 0 ? (int)MICA_MIN(z, MICA_KL_VAE_MAX_Z + 1) : 0;
}
