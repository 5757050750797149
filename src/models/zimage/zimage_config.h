/* zimage_config.h - sizes of a Z-Image transformer, from config.json when there is one and from
 * tensor shapes otherwise; spellings of tensor names. */
#ifndef MICA_MODELS_ZIMAGE_ZIMAGE_CONFIG_H
#define MICA_MODELS_ZIMAGE_ZIMAGE_CONFIG_H

#include "models/common/fused_name.h"
#include "format/weights.h"

#define MICA_ZIMAGE_PATCH 2 /* latents per side of a token */

typedef struct mica_zimage_config {
    int64_t layers;      /* 30 single-stream blocks */
    int64_t refiners;    /* 2 noise refiners and 2 context refiners */
    int64_t heads;       /* 30 */
    int64_t head_dim;    /* 128 */
    int64_t width;       /* heads * head_dim = 3840 */
    int64_t ffn;         /* 10240 = 8/3 width */
    int64_t text_width;  /* 2560: what the text encoder gives */
    int64_t channels;    /* 16: of a latent */
    int64_t patch_width; /* 64: of a token, 2 x 2 latents */
    int64_t time_hidden; /* 1024 */
    int64_t time_width;  /* 256: what adaLN reads */
    int axes[3];         /* 32, 48, 48: rotary dimensions of caption, row, column; sum head_dim */
    int axis_lens[3];    /* 1536, 512, 512: positions of each axis */
    double theta;        /* 256: rotary base */
    double time_scale;   /* 1000 */
    double eps;          /* 1e-5: of the block's RMS norms */
} mica_zimage_config;

/* The released model. */
mica_zimage_config mica_zimage_config_default(void);

/* json_path may be NULL: then the file's own metadata key "config", then tensor shapes.
 * Names must be canonical. Variants that need other code are refused by name. */
mica_status mica_zimage_config_read(mica_zimage_config *c, const char *json_path,
                                    const mica_weights *w, mica_err *err);

/* By tensor names in any spelling. */
bool mica_zimage_is_transformer(const mica_weights *w);
/* Canonical (diffusers) names: takes prefixes off, names ComfyUI's and GGUF's layers as diffusers
 * does, and splits their fused q, k, v. */
mica_status mica_zimage_rename(mica_weights *w, mica_err *err);
/* The way back: ComfyUI's spelling of a canonical name. */
void mica_zimage_comfy_name(const char *name, mica_fused_name *out);

#endif
