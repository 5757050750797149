/* qwen_image_vae.h - AutoencoderKLQwenImage: latents to pixels and back, one frame.
 *
 *   decode  z[Y, X, z_dim] ─► post_quant ─► conv_in ─► mid ─► up blocks ─► picture[8Y, 8X, 3]
 *   encode  picture[Y, X, 3] ─► conv_in ─► down blocks ─► mid ─► quant ─► mean, logvar[Y/8, X/8, z_dim]
 *
 * Everything is channels-last. Pixels are in [-1, 1]; a decoded picture is not clamped. Latents
 * here are the network's own: the diffusion model sees (z - mean) / std per channel, see
 * mica_qwen_vae_normalize / _denormalize.
 *
 * The network is a causal video autoencoder (3-D convolutions). A picture is its first frame:
 * every earlier frame is zero padding, so only the last time tap of each kernel is computed, and the
 * time convolutions of the resampling layers do not run (reference: autoencoder_kl_qwenimage.py,
 * QwenImageResample.forward, feat_cache None -> "Rep"). Video is not supported. */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_VAE_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_VAE_H

#include "backend/backend.h"
#include "base/arena.h"
#include "base/status.h"
#include "format/weights.h"
#include "nn/vae_table.h"

#define MICA_QWEN_VAE_MAX_LEVELS 8
#define MICA_QWEN_VAE_MAX_Z      64

typedef struct mica_qwen_vae_config {
    int base_dim;                             /* channels at full resolution: 96 */
    int z_dim;                                /* latent channels: 16 */
    int levels;                               /* resolutions: 4, hence 8 pixels per latent */
    int dim_mult_[MICA_QWEN_VAE_MAX_LEVELS];  /* 1 2 4 4 */
    int num_res_blocks;                       /* 2; the decoder has one more per level */
    bool temporal_[MICA_QWEN_VAE_MAX_LEVELS]; /* level halves time as well (levels - 1 entries) */
    int picture_channels;                     /* 3 */
    double latents_mean_[MICA_QWEN_VAE_MAX_Z], latents_std_[MICA_QWEN_VAE_MAX_Z];
} mica_qwen_vae_config;

/* The published model. */
mica_qwen_vae_config mica_qwen_vae_config_default(void);
/* vae/config.json; absent keys keep the published values. */
mica_status mica_qwen_vae_config_read(mica_qwen_vae_config *config, const char *path,
                                      mica_err *err);
/* Without a config.json: sizes from the tensor shapes (canonical names, see _rename). */
mica_status mica_qwen_vae_config_derive(mica_qwen_vae_config *config, const mica_weights *w,
                                        mica_err *err);
/* Pixels per latent: 2^(levels - 1). */
int mica_qwen_vae_scale(const mica_qwen_vae_config *config);

/* True when the names look like this autoencoder's, in either spelling. */
bool mica_qwen_vae_probe(const mica_weights *w);
/* Gives every tensor its diffusers name (the canonical one). Accepts diffusers names and
 * Wan/ComfyUI names (`decoder.upsamples.N.residual.K`), each with or without the prefix `vae.` or
 * `first_stage_model.`. Does nothing to names that are canonical already. */
mica_status mica_qwen_vae_rename(mica_weights *w, mica_err *err);

typedef struct mica_qwen_vae mica_qwen_vae;

/* Checks every tensor (presence, shape, dtype) and lists all problems in err. `w` has
 * canonical names and outlives the model. A file without any `encoder.` tensor opens and can only
 * decode. No weight data is read. */
mica_status mica_qwen_vae_open(mica_qwen_vae **out, const mica_qwen_vae_config *config,
                               const mica_weights *w, mica_err *err);
void mica_qwen_vae_close(mica_qwen_vae **vae);
const mica_qwen_vae_config *mica_qwen_vae_get_config(const mica_qwen_vae *vae);
bool mica_qwen_vae_has_encoder(const mica_qwen_vae *vae);

/* Adds random weights of every tensor of `config` (decoder and encoder) to a directory opened
 * empty, as nn/weight_table.h mica_weight_fill does for tables; for measurements without files. */
mica_status mica_qwen_vae_fill(const mica_qwen_vae_config *config, mica_weights *w,
                               mica_arena *arena, mica_err *err);

typedef enum mica_qwen_vae_half {
    MICA_QWEN_VAE_DECODER = 0,
    MICA_QWEN_VAE_ENCODER
} mica_qwen_vae_half;
/* The weights one direction uses, in order of use, for mica_backend_prefetch_weights and
 * mica_backend_drop_weights. Borrowed. */
mica_weight *const *mica_qwen_vae_weights(const mica_qwen_vae *vae, mica_qwen_vae_half half,
                                          int *count);

/* Frees every prepared form of both directions and lets the pages go. */
void mica_qwen_vae_drop(mica_qwen_vae *vae, mica_backend *be);

/* z_YXC: f32 state tensor [Y, X, z_dim], denormalised. picture_YXC: f32 state tensor
 * [Y * scale, X * scale, picture_channels]. args may be NULL. Scratch comes from MICA_POOL_STEP and is
 * released before return. */
mica_status mica_qwen_vae_decode(mica_qwen_vae *vae, mica_backend *be, const mica_tensor *z_YXC,
                                 mica_tensor *picture_YXC, const mica_vae_run_args *args,
                                 mica_err *err);
/* picture_YXC: f32 state tensor, sides divisible by the scale. mean_YXC and logvar_YXC (may be
 * NULL): f32 state tensors [Y / scale, X / scale, z_dim]; logvar is not clamped. */
mica_status mica_qwen_vae_encode(mica_qwen_vae *vae, mica_backend *be,
                                 const mica_tensor *picture_YXC, mica_tensor *mean_YXC,
                                 mica_tensor *logvar_YXC, const mica_vae_run_args *args,
                                 mica_err *err);

/* Between the diffusion model's latents and the network's, in place on host rows of z_dim *
 * `repeat` values, each channel `repeat` times in a row (1: channels-last latents, 4: packed 2 x 2
 * patches): normalize (z - mean) / std, denormalize z * std + mean, in f32 with the reference's order
 * of operations (pipeline_qwenimage.py __call__: z / (1 / std) + mean). */
void mica_qwen_vae_normalize(const mica_qwen_vae_config *config, int repeat, float *z_PC,
                             int64_t rows);
void mica_qwen_vae_denormalize(const mica_qwen_vae_config *config, int repeat, float *z_PC,
                               int64_t rows);

#endif
