/* mixtral_weights.h - the tensors of a Mixtral by their place in the network.
 *
 * Canonical names are those of transformers' files; mixtral_names.c brings the others to them. */
#ifndef MICA_MODELS_MIXTRAL_MIXTRAL_WEIGHTS_H
#define MICA_MODELS_MIXTRAL_MIXTRAL_WEIGHTS_H

#include "models/mixtral/mixtral_config.h"
#include "nn/weight_table.h"

typedef struct mica_mixtral_layer {
    mica_weight norm_in, norm_post;
    mica_nn_linear q, k, v, o;
    mica_weight router;                     /* [E, D] */
    mica_weight *gate_FD, *up_FD, *down_DF; /* E each: w1, w3, w2 */
} mica_mixtral_layer;

typedef struct mica_mixtral_weights {
    mica_mixtral_config config;
    mica_weight embed, norm, head; /* head.name NULL: config.tied */
    mica_mixtral_layer *layers;
} mica_mixtral_weights;

/* Whether a file's tensors are a Mixtral's, in any of the known spellings. */
bool mica_mixtral_probe(const mica_weights *w);
/* Canonical names; stacks of experts become one tensor each. *interleaved: rotary pairs of q and k are
 * neighbours in this layout. */
mica_status mica_mixtral_rename(mica_weights *w, bool *interleaved, mica_err *err);

/* Binds every tensor; `w->config` is set. Layers come from `arena`. */
mica_status mica_mixtral_bind(mica_mixtral_weights *w, const mica_weights *files, mica_arena *arena,
                              mica_err *err);
/* A copy with preparations of its own, for another session. */
mica_status mica_mixtral_copy(mica_mixtral_weights *out, const mica_mixtral_weights *w,
                              mica_arena *arena, mica_err *err);
/* Random weights of that configuration into an empty directory; bits, windows: see mica_weight_filler. */
mica_status mica_mixtral_fill(const mica_mixtral_config *c, mica_weights *w, mica_arena *arena,
                              int bits, bool windows, mica_err *err);
/* Everything of a layer but its experts; the number of pointers written, at most MICA_MIXTRAL_LAYER. */
#define MICA_MIXTRAL_LAYER 7
int mica_mixtral_list_layer(mica_mixtral_layer *layer, mica_weight **list);
/* Lets the forms of all weights but the experts' go. */
void mica_mixtral_drop(mica_mixtral_weights *w, mica_backend *be);
/* Those of the experts of layers [first, end). */
void mica_mixtral_drop_experts(mica_mixtral_weights *w, int64_t first, int64_t end,
                               mica_backend *be);
/* Bytes of weights that one token reads, with `active` experts a layer. */
uint64_t mica_mixtral_token_bytes(const mica_mixtral_weights *w);

#endif
