/* decoder_lm.h - decoder-only language model of the Llama/Qwen shape, run over whole prompts.
 *
 *     ids ─embed─► x ─┬► RMS norm ─► q k v ─► [qk norm] ─► RoPE ─► causal attention ─► o ─┐ x layers
 *                     ├◄──────────────────────────────── + ───────────────────────────────┘
 *                     ├► RMS norm ─► silu(gate) * up ─► down ─┐
 *                     ├◄────────────────── + ─────────────────┘
 *                     └► RMS norm ─► hidden_LD, or x behind chosen layers as it is
 *
 * Several prompts go through the linears as one block of rows; attention sees one prompt at a
 * time, so there is no padding between them and no mask. Used as a text encoder; no cache, no output
 * head. */
#ifndef MICA_NN_DECODER_LM_H
#define MICA_NN_DECODER_LM_H

#include "nn/run.h"
#include "nn/weight_table.h"

#define MICA_LM_STATES 4

typedef struct mica_lm_config {
    int64_t vocab, width, ffn, heads, kv_heads, head_dim, layers;
    double eps;   /* of every RMS norm */
    double theta; /* rotary base */
    /* Rotary pairs of each of three position axes (time, row, column), adding up to head_dim / 2;
     * all zero: one axis. For text the axes are equal, so that they only matter to pictures. */
    int sections[3];
    bool qkv_bias, qk_norm;
    /* Linears never below bf16. For text encoders: their outlier channels ruin 8-bit sums, every
     * later step depends on them, and they run once. */
    bool sensitive;
    /* Hidden states that a run gives, ascending, beside each other in a row: k is what leaves layer
     * k (0: the embedding), without the final norm, and k < layers. Layers behind the last one and the
     * final norm are then neither bound nor read. state_count 0: what the final norm gives. */
    int states[MICA_LM_STATES], state_count;
} mica_lm_config;

typedef struct mica_lm_layer {
    mica_weight norm_in, norm_post;
    mica_nn_linear q, k, v, o;
    mica_weight q_norm, k_norm; /* name NULL unless config.qk_norm */
    mica_nn_linear gate, up, down;
} mica_lm_layer;

typedef struct mica_lm {
    mica_lm_config config;
    mica_weight embed, norm;
    mica_lm_layer *layers;
} mica_lm;

/* Canonical names: model.embed_tokens.weight, model.layers.N.self_attn.q_proj.weight, model.norm.weight. */
/* Layers that are bound and run. */
int64_t mica_lm_layers(const mica_lm_config *c);
/* Numbers in a row of mica_lm_run's result. */
int64_t mica_lm_result_width(const mica_lm_config *c);
/* Binds every tensor that is needed; `lm->config` is set. Layers come from `arena`. */
mica_status mica_lm_bind(mica_lm *lm, const mica_weights *weights, const char *part,
                         mica_arena *arena, mica_err *err);
/* A copy with preparations of its own, for another session. */
mica_status mica_lm_copy(mica_lm *out, const mica_lm *lm, mica_arena *arena, mica_err *err);
/* Adds random weights of that configuration to an empty directory. */
mica_status mica_lm_fill(const mica_lm_config *config, mica_weights *w, mica_arena *arena,
                         mica_err *err);
/* Frees every prepared form and lets the pages go. */
void mica_lm_drop(mica_lm *lm, mica_backend *be);

#define MICA_LM_PROMPTS 8 /* in one pass */

/* Rows that do not come from the embedding table: a picture's features. */
typedef struct mica_lm_insert {
    int64_t first;       /* row of the prompt that rows_ND[0] becomes */
    mica_tensor rows_ND; /* activations; all N rows lie inside the prompt */
} mica_lm_insert;

typedef struct mica_lm_prompt {
    const int32_t *ids; /* each below config.vocab: checked */
    int64_t count;
    const mica_lm_insert *inserts; /* may be NULL */
    int insert_count;
    const int32_t *positions_L3; /* of every row; NULL: 0, 1, 2, ... Needs config.sections */
    /* Rows from here on are padding: they have features of their own, but nothing looks at them,
     * not even they themselves. 0: none. */
    int64_t valid;
} mica_lm_prompt;

/* At most MICA_LM_PROMPTS prompts. hidden_LN: activations, rows of all prompts in order, each
 * mica_lm_result_width wide. */
mica_status mica_lm_run(mica_lm *lm, mica_backend *be, mica_run *run, const mica_lm_prompt *prompts,
                        int prompt_count, mica_tensor *hidden_LN, mica_err *err);

#endif
