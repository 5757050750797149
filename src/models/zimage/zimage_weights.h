/* zimage_weights.h - every tensor of the Z-Image transformer, bound and checked.
 *
 *     noise_refiner x 2     picture tokens     modulated by the timestep
 *     context_refiner x 2   caption tokens     not modulated: once per run
 *     layers x 30           both               modulated
 *
 * All three kinds are the same block; only context refiners have no `mod`. */
#ifndef MICA_MODELS_ZIMAGE_ZIMAGE_WEIGHTS_H
#define MICA_MODELS_ZIMAGE_ZIMAGE_WEIGHTS_H

#include "models/zimage/zimage_config.h"
#include "nn/lora.h"
#include "nn/weight_table.h"

typedef struct mica_zimage_block {
    mica_nn_linear mod;                 /* [4D, A]: scale, gate of attention; the same of the MLP */
    mica_weight attn_norm1, attn_norm2; /* [D]: before and behind the branch */
    mica_weight ffn_norm1, ffn_norm2;   /* [D] */
    mica_nn_linear q, k, v, out;        /* [D, D] */
    mica_weight norm_q, norm_k;         /* [K] */
    mica_nn_linear mlp_gate, mlp_up, mlp_down; /* w1, w3 [F, D]; w2 [D, F] */
} mica_zimage_block;

typedef struct mica_zimage_weights {
    mica_zimage_config config;
    mica_nn_linear x_in;           /* [D, C] */
    mica_nn_linear cap_in;         /* [D, E] */
    mica_weight cap_norm;          /* [E] */
    mica_weight x_pad, cap_pad;    /* [1, D] */
    mica_nn_linear time_1, time_2; /* [N, 256], [A, N] */
    mica_nn_linear out_mod;        /* [D, A]: scale */
    mica_nn_linear out;            /* [C, D] */
    mica_zimage_block *noise, *context, *layers;
} mica_zimage_weights;

/* `w->config` is set; names canonical. Lists all problems. */
mica_status mica_zimage_weights_bind(mica_zimage_weights *w, const mica_weights *files,
                                     mica_arena *arena, mica_err *err);
mica_status mica_zimage_weights_copy(mica_zimage_weights *out, const mica_zimage_weights *w,
                                     mica_arena *arena, mica_err *err);
mica_status mica_zimage_weights_fill(const mica_zimage_config *config, mica_weights *files,
                                     mica_arena *arena, mica_err *err);

/* How LoRA files find these tensors; `weights` of its slots is a mica_zimage_weights. */
extern const mica_lora_family mica_zimage_lora;

/* The blocks that a step runs, noise refiners first: 0 .. refiners + layers - 1. */
mica_zimage_block *mica_zimage_step_block(const mica_zimage_weights *w, int n);
int mica_zimage_step_blocks(const mica_zimage_weights *w);

/* Groups for prefetch and drop; each returns how many it lists. */
#define MICA_ZIMAGE_BLOCK_WEIGHTS 20
int mica_zimage_list_block(mica_zimage_block *b, mica_weight *list[MICA_ZIMAGE_BLOCK_WEIGHTS]);
int mica_zimage_list_modulation(mica_zimage_block *b, mica_weight *list[MICA_ZIMAGE_BLOCK_WEIGHTS]);
int mica_zimage_list_rest(mica_zimage_weights *w, mica_weight *list[MICA_ZIMAGE_BLOCK_WEIGHTS]);

#endif
