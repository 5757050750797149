/* gpt_sovits_layers.h - what the networks of GPT-SoVITS are made of.
 *
 *     weight files ──mica_gs_directory──► one directory: canonical names, weight norm folded,
 *                                         kernels as [O, C, 1, K], kernels of one tap as [O, C]
 *
 *     x ──attention──+──norm──┬──up, f, down──+──norm──►       a post-norm block
 *     └──────────────┘        └───────────────┘
 */
#ifndef MICA_MODELS_GPT_SOVITS_LAYERS_H
#define MICA_MODELS_GPT_SOVITS_LAYERS_H

#include "nn/run.h"
#include "nn/weight_table.h"

/* ------------------------------------------------------------ directory -- */

/* A directory of views of `files` (which must outlive it) and of folded weights, whose memory is the
 * arena's:
 *     X.weight_g, X.weight_v      ──► X.weight = v g / ||v||, the norm over all dimensions but those
 *     X.parametrizations.weight.original0, original1          in which g has more than one index
 *     [O, C, 1] ──► [O, C];   [O, C, K] ──► [O, C, 1, K];   emb_rel_* [1, N, K] ──► [N, K]
 * `rename` as for mica_weights_rename, or NULL; a name it makes "" is left out. */
mica_status mica_gs_directory(mica_weights **out, const mica_weights *files,
                              mica_name_map_fn rename, mica_arena *arena, mica_err *err);
/* Likewise with the shapes of the files: weight norm folded, nothing else. For writing. */
mica_status mica_gs_folded(mica_weights **out, const mica_weights *files, mica_name_map_fn rename,
                           mica_arena *arena, mica_err *err);

/* ---------------------------------------------------------------- layers -- */

/* Layer norm with weight and bias; the vectors are uploaded once, at the opening of a session. */
typedef struct mica_gs_norm {
    mica_weight w, b;
    mica_tensor scale_D, shift_D; /* f32 state: w - 1, b */
} mica_gs_norm;
mica_status mica_gs_norm_upload(mica_gs_norm *n, mica_backend *be, mica_err *err);
void mica_gs_norm_run(mica_backend *be, const mica_gs_norm *n, float eps, const mica_tensor *x_MD,
                      mica_tensor *y_MD);
/* A weight vector, or host numbers, as f32 state of the session. */
mica_tensor mica_gs_upload(mica_backend *be, mica_pool pool, const float *values, int64_t count);

/* Same-size convolution: y = conv(f(x)) + b [+ residual]; an even kernel looks one row further ahead. */
void mica_gs_conv_same(mica_backend *be, mica_nn_linear *l, const mica_tensor *x_RC, int dilation,
                       const float *leaky, const mica_tensor *residual_RO, mica_tensor *y_RO);

typedef struct mica_gs_block {
    mica_nn_linear q, k, v, o, up, down;
    mica_nn_linear qkv; /* the three as one where they lie so; else w.name is NULL */
    mica_gs_norm norm_1, norm_2;
} mica_gs_block;
typedef struct mica_gs_stack {
    mica_gs_block *blocks;
    int count;
    int64_t width, ffn, heads;
    float eps;
    mica_act act; /* of the hidden layer */
} mica_gs_stack;
mica_status mica_gs_stack_upload(mica_gs_stack *s, mica_backend *be, mica_err *err);
/* Block n over one sequence, in place; every row sees every row. Scratch is STEP's. */
void mica_gs_block_run(mica_backend *be, const mica_gs_stack *s, int n, mica_tensor *x_LD);

/* Rows of `columns` activations in STEP. */
mica_tensor mica_gs_scratch(mica_backend *be, int64_t rows, int64_t columns);
/* The same in f32 whatever the activations: what is rounded less than the rest. */
mica_tensor mica_gs_state(mica_backend *be, int64_t rows, int64_t columns);
/* Heads of a transformer whose settings are lost: `wide` numbers each, as released; small ones, which tests and
 * experiments have, four. */
int64_t mica_gs_likely_heads(int64_t width, int64_t wide);
/* [L, H K] seen as [L, H, K]. */
mica_tensor mica_gs_heads(const mica_tensor *x, int64_t heads);

/* ------------------------------------------------------------------- taps -- */

/* x [R, C] as [1, R, C], or turned as [1, C, R] when `turned`: the references keep time last. */
void mica_gs_tap(const mica_tap_sink *taps, mica_backend *be, const mica_tensor *x_RC, bool turned,
                 const char *format, ...) MICA_PRINTF(5, 6);
/* Integers as i32. */
void mica_gs_tap_ids(const mica_tap_sink *taps, const int32_t *ids, int ndim, const int64_t *shape,
                     const char *name);

#endif
