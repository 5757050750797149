/* kl_vae_config.c - sizes of the autoencoder.
 *
 *     vae/config.json ──┐
 *     tensor shapes ────┴──► mica_kl_vae_config ──► tables of kl_vae_weights.c
 *
 * Sizes are limited so that no later product overflows. Whether they fit the tensors is found
 * by the tables, which name the tensors. What the reference class could do and no released model
 * of this kind does (other blocks, other activations) is refused by name.
 * Defaults: diffusers autoencoder_kl.py AutoencoderKL.__init__, autoencoder_kl_flux2.py. */
#include "nn/kl_vae_internal.h"

#include "base/json.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#define FLUX1_Z 16
#define FLUX2_Z 32

mica_kl_vae_config mica_kl_vae_config_default(int z_dim)
{
    const bool flux1 = z_dim == FLUX1_Z;
    return (mica_kl_vae_config){.z_dim = z_dim,
                                .levels = 4,
                                .encoder_dim_ = {128, 256, 512, 512},
                                .decoder_dim_ = {128, 256, 512, 512},
                                .num_res_blocks = 2,
                                .groups = 32,
                                .picture_channels = 3,
                                .quant_conv = !flux1,
                                .post_quant_conv = !flux1,
                                .mid_attention = true,
                                .scaling_factor = flux1 ? 0.3611 : 1.0,
                                .shift_factor = flux1 ? 0.1159 : 0.0};
}

int mica_kl_vae_scale(const mica_kl_vae_config *config)
{
    return 1 << (config->levels - 1);
}

static mica_status refuse(mica_err *err, const char *source, const char *what, long long value)
{
    return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s is %lld, which no VAE of this kind has", source,
                     what, value);
}

static mica_status check_widths(const mica_kl_vae_config *c, const char *source, const int *dims,
                                mica_err *err)
{
    for (int l = 0; l < c->levels; l++)
        if (dims[l] < 1 || dims[l] > MICA_VAE_MAX_CHANNELS || dims[l] % c->groups != 0)
            return MICA_FAIL(
                err, MICA_E_FORMAT,
                "%s: a width of %d channels (block_out_channels) is not divisible into "
                "the norms' %d groups",
                source, dims[l], c->groups);
    return MICA_OK;
}

mica_status mica_kl_config_check(const mica_kl_vae_config *c, const char *source, mica_err *err)
{
    if (c->levels < 1 || c->levels > MICA_KL_VAE_MAX_LEVELS)
        return refuse(err, source, "the number of resolutions (block_out_channels)", c->levels);
    if (c->num_res_blocks < 1 || c->num_res_blocks >= MICA_KL_VAE_MAX_RES)
        return refuse(err, source, "layers_per_block", c->num_res_blocks);
    if (c->z_dim < 1 || c->z_dim > MICA_KL_VAE_MAX_Z)
        return refuse(err, source, "latent_channels", c->z_dim);
    if (c->picture_channels < 1 || c->picture_channels > 64)
        return refuse(err, source, "in_channels", c->picture_channels);
    if (c->groups < 1 || c->groups > 1024)
        return refuse(err, source, "norm_num_groups", c->groups);
    MICA_TRY(check_widths(c, source, c->encoder_dim_, err));
    MICA_TRY(check_widths(c, source, c->decoder_dim_, err));
    if (!(c->scaling_factor > 0.0))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: scaling_factor is %g; it must be positive",
                         source, c->scaling_factor);
    return MICA_OK;
}

/* --------------------------------------------------------------------- JSON -- */

static mica_status read_int(const mica_json *j, const char *key, int hi, int *out, mica_err *err)
{
    int64_t value = *out;
    MICA_TRY(mica_json_opt_int(j, j->root, key, 1, hi, &value, err));
    *out = (int)value;
    return MICA_OK;
}

/* *levels stays as it is when the key is absent or null. */
static mica_status read_widths(const mica_json *j, const char *key, int *dims, int *levels,
                               mica_err *err)
{
    int64_t values[MICA_KL_VAE_MAX_LEVELS];
    size_t count = 0;
    MICA_TRY(mica_json_opt_ints(j, j->root, key, values, MICA_KL_VAE_MAX_LEVELS, &count, err));
    for (size_t l = 0; l < count; l++) {
        if (values[l] < 1 || values[l] > MICA_VAE_MAX_CHANNELS)
            return refuse(err, j->name, "an entry of block_out_channels", (long long)values[l]);
        dims[l] = (int)values[l];
    }
    *levels = count ? (int)count : *levels;
    return MICA_OK;
}

/* The small decoder of FLUX.2 has widths of its own. */
static mica_status read_all_widths(const mica_json *j, mica_kl_vae_config *c, mica_err *err)
{
    MICA_TRY(read_widths(j, "block_out_channels", c->encoder_dim_, &c->levels, err));
    int levels = c->levels;
    memcpy(c->decoder_dim_, c->encoder_dim_, sizeof c->decoder_dim_);
    MICA_TRY(read_widths(j, "decoder_block_out_channels", c->decoder_dim_, &levels, err));
    if (levels != c->levels)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: decoder_block_out_channels has %d entries and block_out_channels %d",
                         j->name, levels, c->levels);
    return MICA_OK;
}

static mica_status check_blocks(const mica_json *j, const char *key, const char *only, int levels,
                                mica_err *err)
{
    const struct cJSON *list = mica_json_find(j->root, key);
    if (!list || cJSON_IsNull(list))
        return MICA_OK;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != levels)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: \"%s\" is not a list of %d names", j->name, key,
                         levels);
    for (const struct cJSON *item = list->child; item; item = item->next)
        if (!cJSON_IsString(item) || strcmp(item->valuestring, only) != 0)
            return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: \"%s\" has a block other than %s",
                             j->name, key, only);
    return MICA_OK;
}

static mica_status check_supported(const mica_json *j, const mica_kl_vae_config *c, mica_err *err)
{
    const struct cJSON *act = mica_json_find(j->root, "act_fn");
    if (act && (!cJSON_IsString(act) || strcmp(act->valuestring, "silu") != 0))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: \"act_fn\" is not \"silu\"", j->name);
    for (int i = 0; i < 2; i++) {
        const char *key = i ? "latents_std" : "latents_mean";
        const struct cJSON *list = mica_json_find(j->root, key);
        if (list && !cJSON_IsNull(list))
            return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                             "%s: \"%s\" is set; statistics per channel are not supported", j->name,
                             key);
    }
    MICA_TRY(check_blocks(j, "down_block_types", "DownEncoderBlock2D", c->levels, err));
    return check_blocks(j, "up_block_types", "UpDecoderBlock2D", c->levels, err);
}

static mica_status read_all(const mica_json *j, mica_kl_vae_config *c, mica_err *err)
{
    const double most = 1e6;
    MICA_TRY(read_int(j, "latent_channels", MICA_KL_VAE_MAX_Z, &c->z_dim, err));
    MICA_TRY(read_int(j, "layers_per_block", MICA_KL_VAE_MAX_RES - 1, &c->num_res_blocks, err));
    MICA_TRY(read_int(j, "norm_num_groups", 1024, &c->groups, err));
    MICA_TRY(read_int(j, "in_channels", 64, &c->picture_channels, err));
    MICA_TRY(read_all_widths(j, c, err));
    MICA_TRY(mica_json_opt_bool(j, j->root, "use_quant_conv", &c->quant_conv, err));
    MICA_TRY(mica_json_opt_bool(j, j->root, "use_post_quant_conv", &c->post_quant_conv, err));
    MICA_TRY(mica_json_opt_bool(j, j->root, "mid_block_add_attention", &c->mid_attention, err));
    MICA_TRY(
        mica_json_opt_double(j, j->root, "scaling_factor", -most, most, &c->scaling_factor, err));
    MICA_TRY(mica_json_opt_double(j, j->root, "shift_factor", -most, most, &c->shift_factor, err));
    MICA_TRY(check_supported(j, c, err));
    return mica_kl_config_check(c, j->name, err);
}

mica_status mica_kl_vae_config_read(mica_kl_vae_config *config, const char *path, mica_err *err)
{
    mica_json j;
    *config = mica_kl_vae_config_default(FLUX2_Z);
    MICA_TRY(mica_json_open(&j, path, err));
    const mica_status st = read_all(&j, config, err);
    mica_json_close(&j);
    return st;
}

mica_status mica_kl_vae_config_parse(mica_kl_vae_config *config, const char *name, const char *text,
                                     size_t size, mica_err *err)
{
    mica_json j;
    *config = mica_kl_vae_config_default(FLUX2_Z);
    MICA_TRY(mica_json_parse(&j, name, text, size, err));
    const mica_status st = read_all(&j, config, err);
    mica_json_close(&j);
    return st;
}

/* ------------------------------------------------------------------- shapes -- */

static void derive_widths(mica_kl_vae_config *c, const mica_weights *w)
{
    char name[96];
    for (int l = 0; l < MICA_MIN(c->levels, MICA_KL_VAE_MAX_LEVELS); l++) {
        snprintf(name, sizeof name, "decoder.up_blocks.%d.resnets.0.conv1.weight",
                 c->levels - 1 - l);
        c->decoder_dim_[l] = mica_vae_size(w, name, 0);
        snprintf(name, sizeof name, "encoder.down_blocks.%d.resnets.0.conv1.weight", l);
        c->encoder_dim_[l] =
            mica_weights_find(w, name) ? mica_vae_size(w, name, 0) : c->decoder_dim_[l];
    }
}

mica_status mica_kl_vae_config_derive(mica_kl_vae_config *config, const mica_weights *w,
                                      mica_err *err)
{
    mica_kl_vae_config *c = config;
    const int z_dim = mica_vae_size(w, "decoder.conv_in.weight", 1);
    *c = mica_kl_vae_config_default(z_dim);
    c->levels = mica_weight_count_blocks(w, "decoder.up_blocks.");
    c->num_res_blocks = mica_weight_count_blocks(w, "decoder.up_blocks.0.resnets.") - 1;
    c->picture_channels = mica_vae_size(w, "decoder.conv_out.weight", 0);
    c->quant_conv = mica_weights_find(w, "quant_conv.weight") != NULL;
    c->post_quant_conv = mica_weights_find(w, "post_quant_conv.weight") != NULL;
    c->mid_attention = mica_weights_find(w, "decoder.mid_block.attentions.0.to_q.weight") != NULL;
    derive_widths(c, w);
    if (z_dim != FLUX1_Z && z_dim != FLUX2_Z)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: %d latent channels, whose scaling is known for %d and %d only; put "
                         "the VAE's config.json beside it",
                         mica_weights_path(w), z_dim, FLUX1_Z, FLUX2_Z);
    return mica_kl_config_check(c, mica_weights_path(w), err);
}

/* ------------------------------------------------------------------ channels -- */

static const int *dims_of(const mica_kl_vae_config *c, mica_kl_vae_half half)
{
    return half == MICA_KL_VAE_ENCODER ? c->encoder_dim_ : c->decoder_dim_;
}

int mica_kl_mid_channels(const mica_kl_vae_config *c, mica_kl_vae_half half)
{
    return dims_of(c, half)[c->levels - 1];
}

int mica_kl_level_in(const mica_kl_vae_config *c, mica_kl_vae_half half, int i)
{
    if (half == MICA_KL_VAE_ENCODER)
        return c->encoder_dim_[MICA_MAX(0, i - 1)];
    return c->decoder_dim_[i == 0 ? c->levels - 1 : c->levels - i];
}

int mica_kl_level_out(const mica_kl_vae_config *c, mica_kl_vae_half half, int i)
{
    return half == MICA_KL_VAE_ENCODER ? c->encoder_dim_[i] : c->decoder_dim_[c->levels - 1 - i];
}

int mica_kl_level_blocks(const mica_kl_vae_config *c, mica_kl_vae_half half)
{
    return c->num_res_blocks + (half == MICA_KL_VAE_DECODER);
}
