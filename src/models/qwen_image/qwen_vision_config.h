/* qwen_vision_config.h - sizes of the vision tower of Qwen2.5-VL and of the pictures it takes.
 *
 *     text_encoder/config.json "vision_config", or tensor shapes  ──► mica_qwen_vision_config
 *     processor/preprocessor_config.json, or the released values  ──► mica_qwen_pixels_config
 */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_VISION_CONFIG_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_VISION_CONFIG_H

#include "format/weights.h"

#define MICA_QWEN_VISION_LAYERS 64 /* at most */

typedef struct mica_qwen_vision_config {
    int64_t depth;     /* 32 layers */
    int64_t width;     /* 1280 */
    int64_t heads;     /* 16 */
    int64_t ffn;       /* 3420 */
    int64_t out_width; /* 3584: the language model's */
    int64_t channels;  /* 3 */
    int64_t frames;    /* 2: a still picture becomes two equal frames */
    int64_t patch;     /* 14 pixels a side */
    int64_t merge;     /* 2 x 2 patches become one token */
    int64_t window;    /* 112 pixels a side: the picture's part that most layers attend to */
    bool whole[MICA_QWEN_VISION_LAYERS]; /* layers that attend to all of it: 7, 15, 23, 31 */
} mica_qwen_vision_config;

typedef struct mica_qwen_pixels_config {
    int64_t min_pixels, max_pixels; /* 3136, 12845056: area after the resize */
    double rescale;                 /* 1/255 */
    double mean[3], std[3];         /* of CLIP */
    int64_t patch, merge, frames;   /* must be the tower's */
} mica_qwen_pixels_config;

/* Released values. */
mica_qwen_vision_config mica_qwen_vision_config_default(void);
mica_qwen_pixels_config mica_qwen_pixels_config_default(void);

/* True when the text encoder's file has a vision tower at all; canonical names. */
bool mica_qwen_vision_is_present(const mica_weights *w);
/* json_path: the text encoder's config.json, may be NULL; names canonical. Range-checked. */
mica_status mica_qwen_vision_config_read(mica_qwen_vision_config *c, const char *json_path,
                                         const mica_weights *w, mica_err *err);
/* json_path may be NULL. Settings that change pictures in ways not done here are refused. */
mica_status mica_qwen_pixels_config_read(mica_qwen_pixels_config *c, const char *json_path,
                                         mica_err *err);
mica_status mica_qwen_pixels_config_parse(mica_qwen_pixels_config *c, const char *name,
                                          const char *text, size_t size, mica_err *err);

#endif
