/* mixtral_names.c - spellings of Mixtral's tensors, and stacks of experts as one tensor each.
 *
 *     transformers 4   model.layers.N.block_sparse_moe.experts.E.w1.weight          canonical
 *     transformers 5   model.layers.N.mlp.experts.gate_up_proj  [E, 2 F, D]         cut, then halved
 *     MLX              ...block_sparse_moe.switch_mlp.gate_proj.weight  [E, F, D]   cut
 *     Mistral          layers.N.feed_forward.experts.E.w1.weight                    renamed
 *     GGUF             blk.N.ffn_gate_exps.weight  [E, F, D]                        cut
 *       before 2024-04 blk.N.ffn_gate.E.weight                                      renamed
 *
 * Files of the last three store the rows of q and k for rotary pairs that are neighbours. */
#include "models/mixtral/mixtral_weights.h"

#include "base/names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct renaming {
    const char *from, *to;
} renaming;

static const renaming REST[] = {
    {"tok_embeddings.weight", "model.embed_tokens.weight"},
    {"norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
};
/* Behind "layers.N." or "blk.N.". */
static const renaming LAYER[] = {
    {"attention_norm.weight", "input_layernorm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"attention.wq.weight", "self_attn.q_proj.weight"},
    {"attention.wk.weight", "self_attn.k_proj.weight"},
    {"attention.wv.weight", "self_attn.v_proj.weight"},
    {"attention.wo.weight", "self_attn.o_proj.weight"},
    {"feed_forward.gate.weight", "block_sparse_moe.gate.weight"},
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"ffn_gate_inp.weight", "block_sparse_moe.gate.weight"},
    {"ffn_gate_exps.weight", "block_sparse_moe.switch_mlp.gate_proj.weight"},
    {"ffn_up_exps.weight", "block_sparse_moe.switch_mlp.up_proj.weight"},
    {"ffn_down_exps.weight", "block_sparse_moe.switch_mlp.down_proj.weight"},
    {"mlp.gate.weight", "block_sparse_moe.gate.weight"},
};

static const char *find(const renaming *table, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(table[i].from, name) == 0)
            return table[i].to;
    return NULL;
}

/* "feed_forward.experts.3.w1.weight" or "ffn_gate.3.weight". */
static bool map_expert(const char *rest, int layer, char *out, size_t cap)
{
    static const renaming parts[] = {{"ffn_gate", "w1"}, {"ffn_up", "w3"}, {"ffn_down", "w2"}};
    const char *own = mica_name_behind(rest, "feed_forward.experts.");
    if (own)
        return (size_t)snprintf(out, cap, "model.layers.%d.block_sparse_moe.experts.%s", layer,
                                own) < cap;
    for (size_t i = 0; i < MICA_ARRAY_LEN(parts); i++) {
        const char *number = mica_name_behind(rest, parts[i].from);
        char *end = NULL;
        if (!number || number[0] != '.' || number[1] < '0' || number[1] > '9')
            continue;
        const long e = strtol(number + 1, &end, 10);
        if (e < MICA_MIXTRAL_MAX_EXPERTS && strcmp(end, ".weight") == 0)
            return (size_t)snprintf(out, cap,
                                    "model.layers.%d.block_sparse_moe.experts.%ld.%s.weight", layer,
                                    e, parts[i].to) < cap;
    }
    return false;
}

static bool map_name(void *user, const char *name, char *out, size_t cap)
{
    (void)user;
    const char *to = find(REST, MICA_ARRAY_LEN(REST), name),
               *rest = mica_name_behind(name, "model.layers.");
    if (to)
        return (size_t)snprintf(out, cap, "%s", to) < cap;
    if (!rest)
        rest = mica_name_behind(name, "layers.");
    if (!rest)
        rest = mica_name_behind(name, "blk.");
    char *end = NULL;
    const long layer = rest && *rest >= '0' && *rest <= '9' ? strtol(rest, &end, 10) : -1;
    if (layer < 0 || layer > 9999 || *end != '.')
        return false;
    to = find(LAYER, MICA_ARRAY_LEN(LAYER), end + 1);
    if (to)
        return (size_t)snprintf(out, cap, "model.layers.%ld.%s", layer, to) < cap;
    return map_expert(end + 1, (int)layer, out, cap);
}

/* ------------------------------------------------------------------- stacks -- */

static mica_status unstack(mica_weights *w, int layer, const char *stack, const char *part,
                           mica_err *err)
{
    char name[128], pattern[128];
    snprintf(name, sizeof name, "model.layers.%d.%s", layer, stack);
    snprintf(pattern, sizeof pattern, "model.layers.%d.block_sparse_moe.experts.%%d.%s.weight",
             layer, part);
    return mica_weights_unstack(w, name, pattern, err);
}

/* Gate and up of one expert lie behind each other. */
static mica_status halve(mica_weights *w, int layer, mica_err *err)
{
    for (int e = 0; e < MICA_MIXTRAL_MAX_EXPERTS; e++) {
        char name[3][128];
        static const char *const parts[] = {"w13", "w1", "w3"};
        for (int i = 0; i < 3; i++)
            snprintf(name[i], sizeof name[i],
                     "model.layers.%d.block_sparse_moe.experts.%d.%s.weight", layer, e, parts[i]);
        const mica_tensor *t = mica_weights_find(w, name[0]);
        if (!t || t->ndim != 2 || t->shape_[0] % 2)
            return MICA_OK;
        const mica_weights_part halves[] = {{name[1], t->shape_[0] / 2},
                                            {name[2], t->shape_[0] / 2}};
        MICA_TRY(mica_weights_split(w, name[0], halves, 2, err));
    }
    return MICA_OK;
}

mica_status mica_mixtral_rename(mica_weights *w, bool *interleaved, mica_err *err)
{
    *interleaved = mica_weights_find(w, "blk.0.attn_q.weight") ||
                   mica_weights_find(w, "layers.0.attention.wq.weight");
    MICA_TRY(mica_weights_rename(w, map_name, NULL, err));
    const int layers = mica_weight_count_blocks(w, "model.layers.");
    for (int n = 0; n < layers; n++) {
        MICA_TRY(unstack(w, n, "block_sparse_moe.switch_mlp.gate_proj.weight", "w1", err));
        MICA_TRY(unstack(w, n, "block_sparse_moe.switch_mlp.up_proj.weight", "w3", err));
        MICA_TRY(unstack(w, n, "block_sparse_moe.switch_mlp.down_proj.weight", "w2", err));
        MICA_TRY(unstack(w, n, "mlp.experts.gate_up_proj", "w13", err));
        MICA_TRY(unstack(w, n, "mlp.experts.down_proj", "w2", err));
        MICA_TRY(halve(w, n, err));
    }
    return MICA_OK;
}

/* Other mixtures of experts have the same names in GGUF; their networks differ. */
bool mica_mixtral_probe(const mica_weights *w)
{
    const char *architecture = mica_weights_metadata(w, "general.architecture");
    static const char *const names[] = {
        "model.layers.0.block_sparse_moe.gate.weight", "layers.0.feed_forward.experts.0.w1.weight",
        "blk.0.ffn_gate_inp.weight", "model.layers.0.mlp.experts.gate_up_proj"};
    if (architecture && strcmp(architecture, "llama") != 0)
        return false;
    for (size_t i = 0; i < MICA_ARRAY_LEN(names); i++)
        if (mica_weights_find(w, names[i]))
            return true;
    return false;
}
