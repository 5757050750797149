/* qwen_image_vae_config.c - sizes of the autoencoder.
 *
 *     vae/config.json ──┐
 *     tensor shapes ────┴──► mica_qwen_vae_config ──► tables of qwen_image_vae_weights.c
 *
 * Sizes are limited so that no later product overflows. Whether they fit the tensors is found
 * by the tables, which name the tensors. Also here: the scaling between the diffusion model's latents
 * and the network's. */
#include "models/qwen_image/qwen_image_vae_internal.h"

#include "base/json.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

/* Per-channel statistics of the latents; vae/config.json of Qwen-Image (and of Wan 2.1, whose
 * autoencoder this is). */
static const double LATENTS_MEAN[16] = {-0.7571, -0.7089, -0.9113, 0.1075,  -0.1745, 0.9653,
                                        -0.1517, 1.5508,  0.4134,  -0.0715, 0.5517,  -0.3632,
                                        -0.1922, -0.9497, 0.2503,  -0.2921};
static const double LATENTS_STD[16] = {2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708,
                                       2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579,
                                       1.6382, 1.1253, 2.8251, 1.9160};

mica_qwen_vae_config mica_qwen_vae_config_default(void)
{
    mica_qwen_vae_config c = {.base_dim = 96,
                              .z_dim = 16,
                              .levels = 4,
                              .dim_mult_ = {1, 2, 4, 4},
                              .num_res_blocks = 2,
                              .temporal_ = {false, true, true},
                              .picture_channels = 3};
    memcpy(c.latents_mean_, LATENTS_MEAN, sizeof LATENTS_MEAN);
    memcpy(c.latents_std_, LATENTS_STD, sizeof LATENTS_STD);
    return c;
}

int mica_qwen_vae_scale(const mica_qwen_vae_config *config)
{
    return 1 << (config->levels - 1);
}

static mica_status refuse(mica_err *err, const char *source, const char *what, long long value)
{
    return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s is %lld, which no VAE of this kind has", source,
                     what, value);
}

mica_status mica_vae_config_check(const mica_qwen_vae_config *c, const char *source, mica_err *err)
{
    if (c->levels < 1 || c->levels > MICA_QWEN_VAE_MAX_LEVELS)
        return refuse(err, source, "the number of resolutions (dim_mult)", c->levels);
    if (c->num_res_blocks < 1 || c->num_res_blocks >= MICA_QWEN_VAE_MAX_RES)
        return refuse(err, source, "num_res_blocks", c->num_res_blocks);
    if (c->z_dim < 1 || c->z_dim > MICA_QWEN_VAE_MAX_Z)
        return refuse(err, source, "z_dim", c->z_dim);
    if (c->picture_channels < 1 || c->picture_channels > 64)
        return refuse(err, source, "input_channels", c->picture_channels);
    for (int l = 0; l < c->levels; l++) {
        const int64_t width = (int64_t)c->base_dim * c->dim_mult_[l];
        if (c->base_dim < 1 || c->dim_mult_[l] < 1 || width > MICA_VAE_MAX_CHANNELS ||
            (l > 0 && width % 2 != 0))
            return refuse(err, source, "the width of a level (base_dim * dim_mult)", width);
    }
    for (int z = 0; z < c->z_dim; z++)
        if (!(c->latents_std_[z] > 0.0))
            return MICA_FAIL(err, MICA_E_FORMAT,
                             "%s: latents_std of channel %d is %g; it must be positive", source, z,
                             c->latents_std_[z]);
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

static mica_status read_levels(const mica_json *j, mica_qwen_vae_config *c, mica_err *err)
{
    int64_t mult[MICA_QWEN_VAE_MAX_LEVELS];
    size_t count = 0;
    MICA_TRY(
        mica_json_opt_ints(j, j->root, "dim_mult", mult, MICA_QWEN_VAE_MAX_LEVELS, &count, err));
    for (size_t l = 0; l < count; l++) {
        if (mult[l] < 1 || mult[l] > MICA_VAE_MAX_CHANNELS)
            return refuse(err, j->name, "an entry of dim_mult", (long long)mult[l]);
        c->dim_mult_[l] = (int)mult[l];
    }
    if (count)
        c->levels = (int)count;
    return MICA_OK;
}

/* The published key is misspelt "temperal_downsample"; levels - 1 booleans. */
static mica_status read_temporal(const mica_json *j, mica_qwen_vae_config *c, mica_err *err)
{
    const struct cJSON *list = mica_json_find(j->root, "temperal_downsample");
    if (!list)
        return MICA_OK;
    int count = 0;
    if (!cJSON_IsArray(list))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: \"temperal_downsample\" is not an array",
                         j->name);
    for (const cJSON *item = list->child; item; item = item->next, count++) {
        if (!cJSON_IsBool(item))
            return MICA_FAIL(err, MICA_E_FORMAT,
                             "%s: entry %d of \"temperal_downsample\" is neither true nor false",
                             j->name, count);
        if (count < c->levels - 1)
            c->temporal_[count] = cJSON_IsTrue(item);
    }
    if (count != c->levels - 1)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: \"temperal_downsample\" has %d entries and \"dim_mult\" %d; one less "
                         "is expected",
                         j->name, count, c->levels);
    return MICA_OK;
}

static mica_status read_statistics(const mica_json *j, const char *key, int z_dim, double *out,
                                   mica_err *err)
{
    double values[MICA_QWEN_VAE_MAX_Z];
    size_t count = 0;
    MICA_TRY(mica_json_opt_doubles(j, j->root, key, values, MICA_QWEN_VAE_MAX_Z, &count, err));
    if (count == 0 && z_dim == (int)MICA_ARRAY_LEN(LATENTS_MEAN))
        return MICA_OK;
    if ((int)count != z_dim)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: \"%s\" has %zu entries, z_dim is %d", j->name,
                         key, count, z_dim);
    memcpy(out, values, count * sizeof *out);
    return MICA_OK;
}

static mica_status read_all(const mica_json *j, mica_qwen_vae_config *c, mica_err *err)
{
    const struct cJSON *scales = mica_json_find(j->root, "attn_scales");
    if (cJSON_GetArraySize(scales) > 0)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: \"attn_scales\" is not empty; attention outside the middle block is "
                         "not supported",
                         j->name);
    MICA_TRY(read_int(j, "base_dim", MICA_VAE_MAX_CHANNELS, &c->base_dim, err));
    MICA_TRY(read_int(j, "z_dim", MICA_QWEN_VAE_MAX_Z, &c->z_dim, err));
    MICA_TRY(read_int(j, "num_res_blocks", MICA_QWEN_VAE_MAX_RES - 1, &c->num_res_blocks, err));
    MICA_TRY(read_int(j, "input_channels", 64, &c->picture_channels, err));
    MICA_TRY(read_levels(j, c, err));
    MICA_TRY(read_temporal(j, c, err));
    MICA_TRY(read_statistics(j, "latents_mean", c->z_dim, c->latents_mean_, err));
    MICA_TRY(read_statistics(j, "latents_std", c->z_dim, c->latents_std_, err));
    return mica_vae_config_check(c, j->name, err);
}

mica_status mica_qwen_vae_config_read(mica_qwen_vae_config *config, const char *path, mica_err *err)
{
    mica_json j;
    *config = mica_qwen_vae_config_default();
    MICA_TRY(mica_json_open(&j, path, err));
    const mica_status st = read_all(&j, config, err);
    mica_json_close(&j);
    return st;
}

/* ------------------------------------------------------------------- shapes -- */

/* Level l of the picture's resolutions is up block levels - 1 - l. */
static void derive_level(mica_qwen_vae_config *c, const mica_weights *w, int l)
{
    char name[96];
    const int block = c->levels - 1 - l;
    snprintf(name, sizeof name, "decoder.up_blocks.%d.resnets.0.conv1.weight", block);
    c->dim_mult_[l] = mica_vae_size(w, name, 0) / MICA_MAX(1, c->base_dim);
    snprintf(name, sizeof name, "decoder.up_blocks.%d.upsamplers.0.time_conv.weight", block - 1);
    c->temporal_[l] = block > 0 && mica_weights_find(w, name);
}

mica_status mica_qwen_vae_config_derive(mica_qwen_vae_config *config, const mica_weights *w,
                                        mica_err *err)
{
    mica_qwen_vae_config *c = config;
    *c = mica_qwen_vae_config_default();
    c->levels = mica_weight_count_blocks(w, "decoder.up_blocks.");
    c->num_res_blocks = mica_weight_count_blocks(w, "decoder.up_blocks.0.resnets.") - 1;
    /* dim_mult begins with 1 in every published model: the head's width is base_dim. */
    c->base_dim = mica_vae_size(w, "decoder.conv_out.weight", 1);
    c->picture_channels = mica_vae_size(w, "decoder.conv_out.weight", 0);
    c->z_dim = mica_vae_size(w, "decoder.conv_in.weight", 1);
    for (int l = 0; l < MICA_MIN(c->levels, MICA_QWEN_VAE_MAX_LEVELS); l++)
        derive_level(c, w, l);
    if (c->z_dim != (int)MICA_ARRAY_LEN(LATENTS_MEAN))
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: %d latent channels, whose statistics are known for %zu only; put the "
                         "VAE's config.json beside it",
                         mica_weights_path(w), c->z_dim, MICA_ARRAY_LEN(LATENTS_MEAN));
    return mica_vae_config_check(c, mica_weights_path(w), err);
}

/* ------------------------------------------------------------------ channels -- */

static int width_of(const mica_qwen_vae_config *c, int level)
{
    return c->base_dim * c->dim_mult_[level];
}

int mica_vae_mid_channels(const mica_qwen_vae_config *c)
{
    return width_of(c, c->levels - 1);
}

/* Encoder: conv_in gives base_dim. Decoder: an upsampling halves the channels. */
int mica_vae_level_in(const mica_qwen_vae_config *c, mica_qwen_vae_half half, int i)
{
    if (half == MICA_QWEN_VAE_ENCODER)
        return i == 0 ? c->base_dim : width_of(c, i - 1);
    return i == 0 ? mica_vae_mid_channels(c) : width_of(c, c->levels - i) / 2;
}

int mica_vae_level_out(const mica_qwen_vae_config *c, mica_qwen_vae_half half, int i)
{
    return width_of(c, half == MICA_QWEN_VAE_ENCODER ? i : c->levels - 1 - i);
}

int mica_vae_level_blocks(const mica_qwen_vae_config *c, mica_qwen_vae_half half)
{
    return c->num_res_blocks + (half == MICA_QWEN_VAE_DECODER);
}

/* ------------------------------------------------------------------- scaling -- */

void mica_qwen_vae_normalize(const mica_qwen_vae_config *config, int repeat, float *z_PC,
                             int64_t rows)
{
    const int C = config->z_dim * repeat;
    for (int64_t p = 0; p < rows; p++)
        for (int c = 0; c < C; c++)
            z_PC[p * C + c] = (z_PC[p * C + c] - (float)config->latents_mean_[c / repeat]) /
                              (float)config->latents_std_[c / repeat];
}

void mica_qwen_vae_denormalize(const mica_qwen_vae_config *config, int repeat, float *z_PC,
                               int64_t rows)
{
    const int C = config->z_dim * repeat;
    for (int64_t p = 0; p < rows; p++)
        for (int c = 0; c < C; c++)
            z_PC[p * C + c] = z_PC[p * C + c] / (1.0f / (float)config->latents_std_[c / repeat]) +
                              (float)config->latents_mean_[c / repeat];
}
