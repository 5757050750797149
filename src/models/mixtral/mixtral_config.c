/* mixtral_config.c - see mixtral_config.h.
 *
 * Reference: transformers configuration_mixtral.py; llama.cpp's docs/gguf.md for the values "llama.*". */
#include "models/mixtral/mixtral_config.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

mica_mixtral_config mica_mixtral_config_default(void)
{
    return (mica_mixtral_config){.lm = {.vocab = 32000,
                                        .width = 4096,
                                        .ffn = 14336,
                                        .heads = 32,
                                        .kv_heads = 8,
                                        .head_dim = 128,
                                        .layers = 32,
                                        .eps = 1e-5,
                                        .theta = 1e6},
                                 .experts = 8,
                                 .active = 2,
                                 .context = 32768,
                                 .ends = {2},
                                 .end_count = 1};
}

/* ---------------------------------------------------------------------- JSON -- */

/* A number, or a list of them. */
static mica_status read_ends(mica_mixtral_config *c, const mica_json *j, mica_err *err)
{
    const cJSON *item = mica_json_find(j->root, "eos_token_id");
    if (cJSON_IsArray(item))
        return mica_json_opt_ints(j, j->root, "eos_token_id", c->ends, MICA_MIXTRAL_ENDS,
                                  &c->end_count, err);
    return mica_json_opt_int(j, j->root, "eos_token_id", 0, INT32_MAX, &c->ends[0], err);
}

static mica_status check_kind(const mica_json *j, mica_err *err)
{
    const char *type = "mixtral", *act = "silu";
    if (mica_json_find(j->root, "model_type"))
        MICA_TRY(mica_json_get_string(j, j->root, "model_type", &type, err));
    if (mica_json_find(j->root, "hidden_act"))
        MICA_TRY(mica_json_get_string(j, j->root, "hidden_act", &act, err));
    if (strcmp(type, "mixtral") != 0)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: model_type is \"%s\"; of language models with experts, Mixtral is "
                         "known",
                         j->name, type);
    if (strcmp(act, "silu") != 0)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: hidden_act is \"%s\", expected \"silu\"",
                         j->name, act);
    return MICA_OK;
}

static mica_status read_json(mica_mixtral_config *c, const mica_json *j, mica_err *err)
{
    const struct cJSON *o = j->root;
    MICA_TRY(check_kind(j, err));
    MICA_TRY(mica_json_opt_int(j, o, "num_local_experts", 1, MICA_MIXTRAL_MAX_EXPERTS, &c->experts,
                               err));
    MICA_TRY(mica_json_opt_int(j, o, "num_experts_per_tok", 1, MICA_MIXTRAL_MAX_EXPERTS, &c->active,
                               err));
    MICA_TRY(mica_json_opt_int(j, o, "sliding_window", 1, INT32_MAX, &c->window, err));
    MICA_TRY(mica_json_opt_int(j, o, "max_position_embeddings", 1, 1 << 24, &c->context, err));
    MICA_TRY(mica_json_opt_bool(j, o, "tie_word_embeddings", &c->tied, err));
    return read_ends(c, j, err);
}

/* ---------------------------------------------------------------------- GGUF -- */

typedef struct gguf_key {
    const char *key;
    int64_t *value;
    int64_t most;
} gguf_key;

static mica_status read_gguf(mica_mixtral_config *c, const mica_weights *w, mica_err *err)
{
    int64_t rope = 0;
    const mica_tensor *embed = mica_weights_find(w, "model.embed_tokens.weight");
    if (embed && embed->ndim == 2 && embed->shape_[0] > 0 && embed->shape_[0] <= 1 << 24)
        c->lm.vocab = embed->shape_[0]; /* no value tells it */
    const gguf_key keys[] = {{"llama.embedding_length", &c->lm.width, MICA_CONFIG_MAX_SIZE},
                             {"llama.feed_forward_length", &c->lm.ffn, MICA_CONFIG_MAX_SIZE},
                             {"llama.block_count", &c->lm.layers, 1000},
                             {"llama.attention.head_count", &c->lm.heads, 1024},
                             {"llama.attention.head_count_kv", &c->lm.kv_heads, 1024},
                             {"llama.rope.dimension_count", &rope, 1024},
                             {"llama.expert_count", &c->experts, MICA_MIXTRAL_MAX_EXPERTS},
                             {"llama.expert_used_count", &c->active, MICA_MIXTRAL_MAX_EXPERTS},
                             {"llama.context_length", &c->context, 1 << 24},
                             {"llama.attention.sliding_window", &c->window, INT32_MAX},
                             {"tokenizer.ggml.eos_token_id", &c->ends[0], INT32_MAX}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(keys); i++) {
        const int64_t value = mica_weights_meta_int(w, keys[i].key, *keys[i].value);
        if (value < 0 || value > keys[i].most)
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s is %lld", mica_weights_path(w),
                             keys[i].key, (long long)value);
        *keys[i].value = value;
    }
    c->lm.eps = mica_weights_meta_number(w, "llama.attention.layer_norm_rms_epsilon", c->lm.eps);
    c->lm.theta = mica_weights_meta_number(w, "llama.rope.freq_base", c->lm.theta);
    c->lm.head_dim = rope > 0 ? rope : c->lm.heads > 0 ? c->lm.width / c->lm.heads : 0;
    return MICA_OK;
}

static mica_status check(const mica_mixtral_config *c, const mica_weights *w, mica_err *err)
{
    if (c->active > c->experts)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %lld of %lld experts cannot see a token",
                         mica_weights_path(w), (long long)c->active, (long long)c->experts);
    return MICA_OK;
}

mica_status mica_mixtral_config_read(mica_mixtral_config *c, const char *json_path,
                                     const mica_weights *w, mica_err *err)
{
    mica_json j = {0};
    bool found;
    c->tied = !mica_weights_find(w, "lm_head.weight");
    if (!json_path && mica_weights_meta(w, "general.architecture")) {
        MICA_TRY(read_gguf(c, w, err));
        return check(c, w, err);
    }
    MICA_TRY(mica_lm_config_read(&c->lm, json_path, w, err));
    MICA_TRY(mica_config_json_open(&j, json_path, w, &found, err));
    mica_status st = MICA_OK;
    if (found)
        st = read_json(c, &j, err);
    else {
        c->lm.ffn = mica_config_size_of(w, "model.layers.0.block_sparse_moe.experts.0.w1.weight", 0,
                                        c->lm.ffn);
        c->experts =
            mica_config_size_of(w, "model.layers.0.block_sparse_moe.gate.weight", 0, c->experts);
    }
    mica_json_close(&j);
    return st ? st : check(c, w, err);
}
