/* kl_vae.h - AutoencoderKL: latents to pixels and back, for FLUX.2, Z-Image (FLUX.1) and their like.
 *
 *   decode  z[Y, X, z_dim] ─► (post_quant) ─► conv_in ─► mid ─► up blocks ─► picture[sY, sX, 3]
 *   encode  picture ─► conv_in ─► down blocks ─► mid ─► conv_out ─► (quant) ─► mean, logvar[Y, X, z_dim]
 *
 * Everything is channels-last. Pixels are in [-1, 1]; a decoded picture is not clamped. Latents are
 * the network's own: scaling_factor and shift_factor are kept here but applied by the model, and
 * so are the latent batch norm and the packing of FLUX.2.
 *
 * Norms are over groups of channels of the whole picture. Layers therefore follow each other over
 * whole pictures, and inside a layer bands of rows pass: nothing is computed twice and the bands do not
 * change the result. The largest picture, 256 channels at full size in the released models, is what a decode takes
 * (kl_vae_internal.h has the picture).
 *
 * Reference: diffusers models/autoencoders/{autoencoder_kl,autoencoder_kl_flux2,vae}.py. Not
 * supported: other block types than {Down,Up}{En,De}coderBlock2D, latents_mean/std. */
#ifndef MICA_NN_KL_VAE_H
#define MICA_NN_KL_VAE_H

#include "backend/backend.h"
#include "base/arena.h"
#include "base/status.h"
#include "format/weights.h"
#include "nn/vae_table.h"

#define MICA_KL_VAE_MAX_LEVELS 8
#define MICA_KL_VAE_MAX_Z      256

typedef struct mica_kl_vae_config {
    int z_dim;                                /* latent channels: FLUX.2 32, FLUX.1 16 */
    int levels;                               /* resolutions: 4, hence 8 pixels per latent */
    int encoder_dim_[MICA_KL_VAE_MAX_LEVELS]; /* channels, full resolution first: 128 256 512 512 */
    int decoder_dim_[MICA_KL_VAE_MAX_LEVELS]; /* the same but in FLUX.2's small decoder */
    int num_res_blocks;                       /* 2; the decoder has one more per level */
    int groups;                               /* of the norms: 32 */
    int picture_channels;                     /* 3 */
    bool quant_conv, post_quant_conv, mid_attention;
    double scaling_factor, shift_factor; /* for the model: z_network = z / scaling + shift */
} mica_kl_vae_config;

/* The published sizes, for z_dim 16 with FLUX.1's scaling and no quant convolutions, for any other
 * z_dim with scaling 1, shift 0 and quant convolutions. */
mica_kl_vae_config mica_kl_vae_config_default(int z_dim);
/* vae/config.json; absent keys keep the reference class's defaults. */
mica_status mica_kl_vae_config_read(mica_kl_vae_config *config, const char *path, mica_err *err);
/* The same from text in memory; name stands for the file in messages. */
mica_status mica_kl_vae_config_parse(mica_kl_vae_config *config, const char *name, const char *text,
                                     size_t size, mica_err *err);
/* Without a config.json: sizes from the tensor shapes (canonical names, see _rename). The number of
 * groups cannot be seen there and is 32; z_dim is 16 or 32, whose scaling is known. */
mica_status mica_kl_vae_config_derive(mica_kl_vae_config *config, const mica_weights *w,
                                      mica_err *err);
/* Pixels per latent: 2^(levels - 1). */
int mica_kl_vae_scale(const mica_kl_vae_config *config);

/* Latent channels when the names look like this autoencoder's, in either spelling; 0 otherwise. */
int mica_kl_vae_probe(const mica_weights *w);
/* Gives every tensor its diffusers name (the canonical one). Accepts diffusers names (attention as
 * to_q or as query) and LDM/BFL/ComfyUI names (`decoder.up.3.block.0`), each with or without the
 * prefix `vae.` or `first_stage_model.`. Other tensors (`bn.running_mean`) lose the prefix only. */
mica_status mica_kl_vae_rename(mica_weights *w, mica_err *err);

typedef struct mica_kl_vae mica_kl_vae;

/* Checks every tensor (presence, shape, dtype) and lists all problems in err. `w` has
 * canonical names and outlives the model. A file without any `encoder.` tensor opens and can only
 * decode. No weight data is read. */
mica_status mica_kl_vae_open(mica_kl_vae **out, const mica_kl_vae_config *config,
                             const mica_weights *w, mica_err *err);
void mica_kl_vae_close(mica_kl_vae **vae);
/* What opening a model does with this part: canonical names, the configuration from json_path or
 * (NULL) from the shapes, every tensor checked. `w` has the names of its file and was probed. */
mica_status mica_kl_vae_read(mica_kl_vae_config *config, mica_weights *w, const char *json_path,
                             mica_err *err);
const mica_kl_vae_config *mica_kl_vae_get_config(const mica_kl_vae *vae);
bool mica_kl_vae_has_encoder(const mica_kl_vae *vae);

/* Adds random weights of every tensor of `config` (decoder and encoder) to a directory opened
 * empty, as nn/weight_table.h mica_weight_fill does for tables; for measurements without files. */
mica_status mica_kl_vae_fill(const mica_kl_vae_config *config, mica_weights *w, mica_arena *arena,
                             mica_err *err);

typedef enum mica_kl_vae_half { MICA_KL_VAE_DECODER = 0, MICA_KL_VAE_ENCODER } mica_kl_vae_half;
/* The weights one direction uses, in order of use, for mica_backend_prefetch_weights and
 * mica_backend_drop_weights. Borrowed. */
mica_weight *const *mica_kl_vae_weights(const mica_kl_vae *vae, mica_kl_vae_half half, int *count);

/* Frees every prepared form of both directions and lets the pages go. */
void mica_kl_vae_drop(mica_kl_vae *vae, mica_backend *be);

/* z_YXC: f32 state tensor [Y, X, z_dim]. picture_YXC: f32 state tensor [Y * scale, X * scale,
 * picture_channels]. Both contiguous. args may be NULL. Scratch comes from MICA_POOL_STEP and is
 * released before return. */
mica_status mica_kl_vae_decode(mica_kl_vae *vae, mica_backend *be, const mica_tensor *z_YXC,
                               mica_tensor *picture_YXC, const mica_vae_run_args *args,
                               mica_err *err);
/* picture_YXC: f32 state tensor, sides divisible by the scale. mean_YXC and logvar_YXC (may be
 * NULL): f32 state tensors [Y / scale, X / scale, z_dim]; logvar is not clamped. */
mica_status mica_kl_vae_encode(mica_kl_vae *vae, mica_backend *be, const mica_tensor *picture_YXC,
                               mica_tensor *mean_YXC, mica_tensor *logvar_YXC,
                               const mica_vae_run_args *args, mica_err *err);
/* Bytes of scratch a decode of Y x X latents takes with automatic bands. */
uint64_t mica_kl_vae_decode_bytes(const mica_kl_vae_config *config, int64_t Y, int64_t X);

#endif
