/* qwen_vision.h - the vision tower of Qwen2.5-VL: a picture to rows among the text's.
 *
 *     patches [N, 1176] ─linear─► x ─► 32 layers ─► RMS norm ─► 4 rows as one ─► MLP ─► [N/4, 3584]
 *
 *     layer   x += proj(attention(RMS norm(x)));  x += down(silu(gate) * up)
 *
 * Most layers attend within windows of 8 x 8 patches, every eighth to the whole picture. Inside,
 * rows are sorted by window, so that a window is a range of rows:
 *
 *     tokens of a picture     windows of 4 x 4 tokens       rows
 *     0 1 2 3 4               A A A A B                     A: 0 1 2 3 5 6 7 8 ...  B: 4 9 ...
 *     5 6 7 8 9               A A A A B
 */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_VISION_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_VISION_H

#include "models/qwen_image/qwen_vision_config.h"
#include "models/qwen_image/qwen_vision_pixels.h"
#include "nn/run.h"
#include "nn/weight_table.h"

typedef struct mica_qwen_vision_layer {
    mica_weight norm_1, norm_2;
    mica_nn_linear qkv;     /* as it stands in the file */
    mica_nn_linear q, k, v; /* its thirds */
    mica_nn_linear proj, gate, up, down;
} mica_qwen_vision_layer;

typedef struct mica_qwen_vision {
    mica_qwen_vision_config config;
    mica_nn_linear patch; /* bias none */
    mica_weight norm;     /* of the merger */
    mica_nn_linear merge_1, merge_2;
    mica_qwen_vision_layer *layers;
} mica_qwen_vision;

/* `v->config` is set, names canonical (`visual.*`). Lists all problems. */
mica_status mica_qwen_vision_bind(mica_qwen_vision *v, const mica_weights *files, mica_arena *arena,
                                  mica_err *err);
/* A copy with preparations of its own, for another session. */
mica_status mica_qwen_vision_copy(mica_qwen_vision *out, const mica_qwen_vision *v,
                                  mica_arena *arena, mica_err *err);
/* Frees every prepared form and lets the pages go. */
void mica_qwen_vision_drop(mica_qwen_vision *v, mica_backend *be);

/* What a layer needs, for prefetch and drop; returns how many. */
#define MICA_QWEN_VISION_LAYER_WEIGHTS 20
int mica_qwen_vision_list_layer(mica_qwen_vision_layer *layer,
                                mica_weight *list[MICA_QWEN_VISION_LAYER_WEIGHTS]);

/* Tokens that a picture becomes. */
int64_t mica_qwen_vision_tokens(const mica_qwen_vision_config *c, const mica_qwen_pixels *pixels);
/* tokens_ND: activations [tokens, out_width], in reading order. */
mica_status mica_qwen_vision_run(mica_qwen_vision *v, mica_backend *be, mica_run *run,
                                 const mica_qwen_pixels *pixels, mica_tensor *tokens_ND,
                                 mica_err *err);

#endif
