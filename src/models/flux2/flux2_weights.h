/* flux2_weights.h - every tensor of the FLUX.2 transformer, bound and checked.
 *
 *     double block n:  picture stream  q k v out  norm_q norm_k  mlp_in mlp_out
 *                      text stream     the same under other names
 *     single block n:  qkv mlp  norm_q norm_k  out           one stream of both
 *
 * No linear has a bias. Modulation is the model's, not the block's. */
#ifndef MICA_MODELS_FLUX2_FLUX2_WEIGHTS_H
#define MICA_MODELS_FLUX2_FLUX2_WEIGHTS_H

#include "models/flux2/flux2_config.h"
#include "nn/lora.h"

typedef struct mica_flux2_stream {
    mica_nn_linear q, k, v, out;    /* [D, D] */
    mica_weight norm_q, norm_k;     /* [K] */
    mica_nn_linear mlp_in, mlp_out; /* [2F, D]: gate, then up; [D, F] */
} mica_flux2_stream;

typedef struct mica_flux2_double {
    mica_flux2_stream img, txt;
} mica_flux2_double;

typedef struct mica_flux2_single {
    mica_nn_linear qkv, mlp; /* [3D, D], [2F, D]: gate, then up */
    mica_weight norm_q, norm_k;
    mica_nn_linear out; /* [D, D + F]: of attention, then of the MLP */
} mica_flux2_single;

typedef struct mica_flux2_weights {
    mica_flux2_config config;
    mica_nn_linear x_embedder, context_embedder; /* [D, C], [D, E] */
    mica_nn_linear time_1, time_2;               /* [D, 256], [D, D] */
    mica_nn_linear mod_img, mod_txt, mod_single; /* [6D, D], [6D, D], [3D, D] */
    mica_nn_linear norm_scale, norm_shift;       /* [D, D] */
    mica_nn_linear proj_out;                     /* [C, D] */
    mica_flux2_double *doubles;
    mica_flux2_single *singles;
} mica_flux2_weights;

/* `w->config` is set; names canonical. Lists all problems. */
mica_status mica_flux2_weights_bind(mica_flux2_weights *w, const mica_weights *files,
                                    mica_arena *arena, mica_err *err);
mica_status mica_flux2_weights_copy(mica_flux2_weights *out, const mica_flux2_weights *w,
                                    mica_arena *arena, mica_err *err);
mica_status mica_flux2_weights_fill(const mica_flux2_config *config, mica_weights *files,
                                    mica_arena *arena, mica_err *err);

/* How LoRA files find these tensors; `weights` of its slots is a mica_flux2_weights. */
extern const mica_lora_family mica_flux2_lora;

/* Blocks in the order of use: doubles, then singles. */
int mica_flux2_block_count(const mica_flux2_config *c);
/* Groups for prefetch and drop; each returns how many. */
#define MICA_FLUX2_BLOCK_WEIGHTS 16
int mica_flux2_list_block(mica_flux2_weights *w, int block,
                          mica_weight *list[MICA_FLUX2_BLOCK_WEIGHTS]);
/* What lies outside the blocks. */
int mica_flux2_list_rest(mica_flux2_weights *w, mica_weight *list[MICA_FLUX2_BLOCK_WEIGHTS]);

#endif
