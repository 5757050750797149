/* qwen_image_weights.h - every tensor of the Qwen-Image transformer, bound and checked.
 *
 *     block n:  image stream  mod  q k v out  norm_q norm_k  mlp_in mlp_out
 *               text stream   the same eleven linears under other names
 *
 * Both streams have the same shape and go through the same code; only names differ. */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_WEIGHTS_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_WEIGHTS_H

#include "models/qwen_image/qwen_image_config.h"
#include "nn/lora.h"

typedef struct mica_qwen_image_stream {
    mica_nn_linear mod;          /* [6D, D]: shift, scale, gate of attention; the same of the MLP */
    mica_nn_linear q, k, v, out; /* [D, D] */
    mica_weight norm_q, norm_k;  /* [K] */
    mica_nn_linear mlp_in, mlp_out; /* [F, D], [D, F] */
} mica_qwen_image_stream;

typedef struct mica_qwen_image_block {
    mica_qwen_image_stream img, txt;
} mica_qwen_image_block;

typedef struct mica_qwen_image_weights {
    mica_qwen_image_config config;
    mica_nn_linear img_in, txt_in;
    mica_weight txt_norm;
    mica_nn_linear time_1, time_2; /* [D, 256], [D, D] */
    mica_weight addition;          /* [2, D], Layered alone; row 0 is added to the timestep's */
    mica_nn_linear norm_out;       /* [2D, D]: scale, shift */
    mica_nn_linear proj_out;       /* [C, D] */
    mica_qwen_image_block *blocks;
} mica_qwen_image_weights;

/* `w->config` is set; names canonical. Lists all problems. */
mica_status mica_qwen_image_weights_bind(mica_qwen_image_weights *w, const mica_weights *files,
                                         mica_arena *arena, mica_err *err);
mica_status mica_qwen_image_weights_copy(mica_qwen_image_weights *out,
                                         const mica_qwen_image_weights *w, mica_arena *arena,
                                         mica_err *err);
mica_status mica_qwen_image_weights_fill(const mica_qwen_image_config *config, mica_weights *files,
                                         mica_arena *arena, mica_err *err);

/* How LoRA files find these tensors; `weights` of its slots is a mica_qwen_image_weights. */
extern const mica_lora_family mica_qwen_image_lora;

/* Groups for prefetch and drop. */
#define MICA_QWEN_IMAGE_BLOCK_WEIGHTS 32
/* What a block needs inside the denoising loop (no modulation); returns how many. */
int mica_qwen_image_list_block(mica_qwen_image_block *b,
                               mica_weight *list[MICA_QWEN_IMAGE_BLOCK_WEIGHTS]);
/* A block's modulation. */
int mica_qwen_image_list_modulation(mica_qwen_image_block *b,
                                    mica_weight *list[MICA_QWEN_IMAGE_BLOCK_WEIGHTS]);
/* What lies outside the blocks. */
int mica_qwen_image_list_rest(mica_qwen_image_weights *w,
                              mica_weight *list[MICA_QWEN_IMAGE_BLOCK_WEIGHTS]);

#endif
