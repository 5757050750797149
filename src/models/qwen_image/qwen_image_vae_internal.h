/* qwen_image_vae_internal.h - what the files of the autoencoder share.
 *
 *   _config.c   sizes from config.json or from tensor shapes
 *   _names.c    Wan/ComfyUI names to diffusers names
 *   _weights.c  the table of all tensors, binding, views of the last time tap
 *   _blocks.c   layers on bands of rows
 *   _decode.c   latents to pixels          _encode.c   pixels to latents
 *
 * A band of rows. The layers work on slots, flat buffers that a few rows of a picture pass through.
 * A band starts HEAD rows into its slot, so that rows kept from the band before can be put in
 * front of it without moving it:
 *
 *     slot:  |  free  |kept 0..2 rows| rows of this band ..............|  free  |
 *                     '--------- what a 3x3 convolution reads ---------'
 *
 * A 3x3 convolution cannot compute its last row before the next band brings the row below it, so
 * each one lags by a row and keeps its last two input rows; a residual block keeps the same rows of its
 * shortcut. No row is computed twice and the result does not depend on the bands. */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_VAE_INTERNAL_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_VAE_INTERNAL_H

#include "models/qwen_image/qwen_image_vae.h"

#define MICA_QWEN_VAE_MAX_RES 8 /* residual blocks of one level of the decoder */

/* ------------------------------------------------------------------ weights -- */

/* Convolutions are 4-D views [O, C, 3, 3], the 1x1 ones 2-D [O, C], norms 1-D. */
typedef struct mica_vae_res {
    mica_weight norm1, norm2;
    mica_nn_linear conv1, conv2, shortcut; /* shortcut.w.name == NULL: the input itself */
} mica_vae_res;

typedef struct mica_vae_mid {
    mica_vae_res res[2];
    mica_weight norm;
    mica_nn_linear qkv, proj; /* [3 C, C] and [C, C] */
} mica_vae_mid;

typedef struct mica_vae_level {
    mica_vae_res res[MICA_QWEN_VAE_MAX_RES];
    mica_nn_linear resample; /* absent in the last level */
    mica_nn_linear time;     /* checked, never computed */
} mica_vae_level;

typedef struct mica_vae_half {
    mica_nn_linear conv_in, conv_out;
    mica_nn_linear quant; /* decoder: post_quant_conv */
    mica_weight norm_out;
    mica_vae_mid mid;
    mica_vae_level level[MICA_QWEN_VAE_MAX_LEVELS]; /* in order of use */
} mica_vae_half;

struct mica_qwen_vae {
    mica_vae_base base; /* its lists by mica_qwen_vae_half */
    mica_qwen_vae_config config;
    mica_vae_half half[2]; /* likewise */
};

/* Channels that enter and leave level `i` (in order of use) of a half. */
int mica_vae_level_in(const mica_qwen_vae_config *c, mica_qwen_vae_half half, int i);
int mica_vae_level_out(const mica_qwen_vae_config *c, mica_qwen_vae_half half, int i);
/* Channels of the mid block. */
int mica_vae_mid_channels(const mica_qwen_vae_config *c);
/* Residual blocks of one level. */
int mica_vae_level_blocks(const mica_qwen_vae_config *c, mica_qwen_vae_half half);
/* Every size within the limits of the tables and of later products. */
mica_status mica_vae_config_check(const mica_qwen_vae_config *c, const char *source, mica_err *err);

/* --------------------------------------------------------------------- runs -- */

/* Largest number of layers that keep rows: three in a residual block, one in a resampling, one
 * at either end. */
#define MICA_VAE_MAX_KEPT (MICA_QWEN_VAE_MAX_LEVELS * (3 * MICA_QWEN_VAE_MAX_RES + 1) + 2)

/* Rows of a layer's input that the next band needs. */
typedef struct mica_vae_kept {
    mica_tensor rows; /* [2, X, C] */
    int count;        /* 0..2 */
    bool started;     /* the picture's top row is behind us: no padding above any more */
} mica_vae_kept;

typedef struct mica_vae_band {
    int slot;
    int64_t start; /* row of the slot */
    int64_t rows, X, C;
} mica_vae_band;

/* Slot 0 holds the activations, 1 and 2 the inside of a layer. Slot 2 is the wide one: it
 * also takes an upsampled band, four times its input. */
enum { MICA_VAE_MAIN = 0, MICA_VAE_INNER, MICA_VAE_WIDE, MICA_VAE_SLOTS };

typedef struct mica_vae_run {
    mica_qwen_vae *vae;
    mica_backend *be;
    const mica_vae_run_args *args; /* never NULL */
    mica_err *err;
    mica_tensor slot[MICA_VAE_SLOTS]; /* [elements] */
    mica_vae_band x;
    int64_t head; /* rows free in front of a fresh band */
    bool last;    /* the band ends at the picture's bottom */
    mica_vae_kept kept[MICA_VAE_MAX_KEPT];
    int next_kept;
    int done, total;
} mica_vae_run;

/* Sizes of the slots in elements. */
typedef struct mica_vae_slot_sizes {
    int64_t narrow, wide;
} mica_vae_slot_sizes;

void mica_vae_run_init(mica_vae_run *r, mica_qwen_vae *vae, mica_backend *be,
                       const mica_vae_run_args *args, mica_err *err);
/* Takes the slots from MICA_POOL_STEP, and forgets what layers kept before. */
mica_status mica_vae_run_slots(mica_vae_run *r, mica_vae_slot_sizes sizes);
/* Counts one piece of work; MICA_E_CANCELLED, or the backend's failure. */
mica_status mica_vae_run_step(mica_vae_run *r);
/* Starts a band: rows of `src` [rows, X, C] become r->x. */
void mica_vae_run_load(mica_vae_run *r, const mica_tensor *src_YXC, bool last);
/* The band as a tensor [rows, X, C]. */
mica_tensor mica_vae_band_view(mica_vae_run *r, const mica_vae_band *b);
/* `t` [Y, X, C] under the reference's layout [1, C, 1, Y, X]. */
void mica_vae_tap(mica_vae_run *r, const char *format, ...) MICA_PRINTF(2, 3);

/* Layers, r->x to r->x. */
void mica_vae_conv(mica_vae_run *r, mica_nn_linear *conv); /* 3x3, same size */
void mica_vae_conv_1x1(mica_vae_run *r, mica_nn_linear *conv);
void mica_vae_res_run(mica_vae_run *r, mica_vae_res *res);
void mica_vae_attention(mica_vae_run *r, mica_vae_mid *mid);     /* needs the whole picture */
void mica_vae_upsample(mica_vae_run *r, mica_nn_linear *conv);   /* twice the size */
void mica_vae_downsample(mica_vae_run *r, mica_nn_linear *conv); /* half the size */
/* norm, SiLU, convolution; `norm_tap` names the result of the norm alone. */
void mica_vae_head(mica_vae_run *r, mica_weight *norm, mica_nn_linear *conv, const char *norm_tap);
/* Both residual blocks and the attention; `name` ("decoder") begins the taps. */
mica_status mica_vae_mid_run(mica_vae_run *r, mica_vae_half *half, const char *name);

/* Bands: rows of latents in each, from what the caller asks (mica_vae_run_args.tile_rows).
 * sizes(c, X, Y, N) tells what N rows of a picture of Y x X latents need. */
typedef mica_vae_slot_sizes (*mica_vae_sizes_fn)(const mica_qwen_vae_config *c, int64_t Y,
                                                 int64_t X, int64_t N);
int64_t mica_vae_band_rows(const mica_vae_run *r, mica_vae_sizes_fn sizes, int64_t Y, int64_t X);
/* Free rows in front of a fresh band. */
int64_t mica_vae_head_rows(const mica_qwen_vae_config *c);

#endif
