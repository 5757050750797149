/* flux2_config.h - sizes of a FLUX.2-klein transformer, from config.json when there is one and from
 * tensor shapes otherwise; spellings of tensor names. */
#ifndef MICA_MODELS_FLUX2_FLUX2_CONFIG_H
#define MICA_MODELS_FLUX2_FLUX2_CONFIG_H

#include "models/common/fused_name.h"
#include "format/weights.h"
#include "nn/lm_config.h"

#define MICA_FLUX2_AXES 4

typedef struct mica_flux2_config {
    int64_t layers;            /* blocks of two streams: 5 (4B), 8 (9B) */
    int64_t single_layers;     /* blocks of one: 20, 24 */
    int64_t heads;             /* 24, 32 */
    int64_t head_dim;          /* 128 */
    int64_t width;             /* heads * head_dim: 3072, 4096 */
    int64_t ffn;               /* 3 * width */
    int64_t text_width;        /* three hidden states side by side: 7680, 12288 */
    int64_t in_channels;       /* 128: 2 x 2 patches of 32 latent channels */
    int axes[MICA_FLUX2_AXES]; /* 32 each: rotary dimensions of picture, row, column, text token */
    double theta;              /* 2000 */
} mica_flux2_config;

/* The released 4B model. */
mica_flux2_config mica_flux2_config_default(void);

/* json_path may be NULL: then the file's own metadata key "config", then tensor shapes.
 * Names must be canonical. FLUX.2-dev (guidance embedded) is refused by name. */
mica_status mica_flux2_config_read(mica_flux2_config *c, const char *json_path,
                                   const mica_weights *w, mica_err *err);

/* By tensor names in any spelling. */
bool mica_flux2_is_transformer(const mica_weights *w);

/* Canonical names: diffusers', with fused tensors split into what the forward pass multiplies by:
 *     norm_out.linear [2D, D]               ─► norm_out.scale, norm_out.shift
 *     single N attn.to_qkv_mlp_proj         ─► attn.qkv [3D, D], attn.mlp [2F, D]
 * BFL's and ComfyUI's names and prefixes are taken; img_attn.qkv and txt_attn.qkv are split in
 * three, and final_layer.adaLN_modulation.1, which has the shift first, the other way round. */
mica_status mica_flux2_rename(mica_weights *w, mica_err *err);
/* The way back: BFL's spelling of a canonical name, which ComfyUI and GGUF files have. */
void mica_flux2_bfl_name(const char *name, mica_fused_name *out);

#endif
