/* mixtral_convert.h - Mixtral in files that are written: stacks of experts, names and values of GGUF.
 *
 *     model.layers.3.block_sparse_moe.experts.0..7.w1.weight  [F, D] each
 *         MLX     model.layers.3.block_sparse_moe.switch_mlp.gate_proj.weight  [E, F, D]
 *         GGUF    blk.3.ffn_gate_exps.weight                                   [E, F, D]
 *
 * References: mlx-lm models/mixtral.py (sanitize); llama.cpp docs/gguf.md, gguf-py/gguf/constants.py. */
#ifndef MICA_MODELS_MIXTRAL_MIXTRAL_CONVERT_H
#define MICA_MODELS_MIXTRAL_MIXTRAL_CONVERT_H

#include "base/json.h"
#include "format/weight_stream.h"
#include "models/mixtral/mixtral_config.h"

/* Gives w its canonical names and checks that all of a Mixtral is there; its sizes to *c. */
mica_status mica_mixtral_prepare(mica_mixtral_config *c, mica_weights *w, const char *config_path,
                                 mica_arena *arena, mica_err *err);

typedef struct mica_mixtral_expert {
    int layer, index, part; /* 1: w1, gate; 2: w2, down; 3: w3, up */
} mica_mixtral_expert;

/* Whether a canonical name is an expert's matrix. */
bool mica_mixtral_is_expert(const char *name, mica_mixtral_expert *out);
void mica_mixtral_expert_name(const mica_mixtral_expert *e, char *out, size_t cap);
/* Of all experts' matrices of that layer and part. */
void mica_mixtral_stack_name(const mica_mixtral_expert *e, bool gguf, char *out, size_t cap);
/* llama.cpp's name of any other tensor; false: it has none. */
bool mica_mixtral_gguf_name(const char *name, char *out, size_t cap);
/* Heads whose rows are rotated: of q and k; 0: of no other tensor. */
int64_t mica_mixtral_rotary_heads(const mica_mixtral_config *c, const char *name);

/* config.json of the released kind. */
void mica_mixtral_write_config(const mica_mixtral_config *c, const char *dtype, mica_text *out);

/* tokenizer.json and tokenizer_config.json of the vocabulary and the chat template in a GGUF file. */
mica_status mica_mixtral_write_tokenizer(const mica_weights *w, mica_text *tokenizer,
                                         mica_text *config, mica_err *err);

/* The vocabulary of a folder's tokenizer as GGUF has it: as many pieces as the model has rows. Everything comes
 * from `arena`. */
typedef struct mica_mixtral_vocabulary {
    const char **texts;
    float *scores;
    int32_t *kinds; /* mica_piece_kind */
    size_t count;
    int32_t bos, eos, unknown; /* -1: none */
    bool adds_bos, adds_eos, space_prefix;
    const char *chat_template; /* NULL: none */
} mica_mixtral_vocabulary;
mica_status mica_mixtral_read_vocabulary(mica_mixtral_vocabulary *v, const char *folder,
                                         const mica_mixtral_config *c, mica_arena *arena,
                                         mica_err *err);

#endif
