/* qwen_image_config.h - sizes of a Qwen-Image transformer and its text encoder, from config.json
 * when there is one and from tensor shapes otherwise; spellings of tensor names. */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_CONFIG_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_CONFIG_H

#include "format/weights.h"
#include "nn/decoder_lm.h"

typedef struct mica_qwen_image_config {
    int64_t layers;      /* 60 */
    int64_t heads;       /* 24 */
    int64_t head_dim;    /* 128 */
    int64_t width;       /* heads * head_dim = 3072 */
    int64_t ffn;         /* 4 * width */
    int64_t text_width;  /* 3584: what the text encoder gives */
    int64_t in_channels; /* 64: 2 x 2 patches of 16 latent channels */
    bool zero_cond_t;    /* Edit-2511: rows of reference pictures are modulated at timestep 0 */
    bool layered;        /* Qwen-Image-Layered: a picture is taken apart into layers */
    int axes[3];         /* 16, 56, 56: rotary dimensions of frame, row, column; sum head_dim */
} mica_qwen_image_config;

/* The released model. */
mica_qwen_image_config mica_qwen_image_config_default(void);

/* json_path may be NULL: then the file's own metadata key "config", then tensor shapes.
 * Names must be canonical. Variants that need other code are refused by name. */
mica_status mica_qwen_image_config_read(mica_qwen_image_config *c, const char *json_path,
                                        const mica_weights *w, mica_err *err);
mica_status mica_qwen_image_text_config_read(mica_lm_config *c, const char *json_path,
                                             const mica_weights *w, mica_err *err);
mica_lm_config mica_qwen_image_text_config_default(void); /* Qwen2.5-VL-7B */

/* By tensor names in any spelling. */
bool mica_qwen_image_is_transformer(const mica_weights *w);
bool mica_qwen_image_is_text_encoder(const mica_weights *w);
/* Canonical (diffusers, transformers) names: takes prefixes off. */
mica_status mica_qwen_image_rename(mica_weights *w, mica_err *err);
mica_status mica_qwen_image_text_rename(mica_weights *w, mica_err *err);

#endif
