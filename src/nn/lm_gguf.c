/* lm_gguf.c - llama.cpp's spelling of language models; see lm_gguf.h.
 *
 *     token_embd.weight            model.embed_tokens.weight
 *     blk.N.attn_q.weight   ──►    model.layers.N.self_attn.q_proj.weight
 *     output_norm.weight           model.norm.weight
 *
 * Rows of q and k stand in their own order in these architectures (the `llama` one permutes them).
 * Reference: gguf-py/gguf/tensor_mapping.py and constants.py of llama.cpp. */
#include "nn/lm_gguf.h"

#include <stdio.h>
#include <string.h>

static const char *const ARCHITECTURES[] = {"qwen2", "qwen2vl", "qwen3"};

typedef struct name_pair {
    const char *from, *to;
} name_pair;

static const name_pair REST[] = {
    {"token_embd.", "model.embed_tokens."},
    {"output_norm.", "model.norm."},
    {"output.", "lm_head."},
};
/* Behind "blk.N.". */
static const name_pair LAYER[] = {
    {"attn_q_norm.", "self_attn.q_norm."}, {"attn_k_norm.", "self_attn.k_norm."},
    {"attn_q.", "self_attn.q_proj."},      {"attn_k.", "self_attn.k_proj."},
    {"attn_v.", "self_attn.v_proj."},      {"attn_output.", "self_attn.o_proj."},
    {"attn_norm.", "input_layernorm."},    {"ffn_norm.", "post_attention_layernorm."},
    {"ffn_gate.", "mlp.gate_proj."},       {"ffn_up.", "mlp.up_proj."},
    {"ffn_down.", "mlp.down_proj."},
};

static const char *architecture_of(const mica_weights *w)
{
    const char *name = mica_weights_metadata(w, "general.architecture");
    for (size_t i = 0; name && i < MICA_ARRAY_LEN(ARCHITECTURES); i++)
        if (strcmp(name, ARCHITECTURES[i]) == 0)
            return ARCHITECTURES[i];
    return NULL;
}

static bool map_begin(const name_pair *pairs, size_t count, const char *name, char *out, size_t cap)
{
    for (size_t i = 0; i < count; i++) {
        const size_t n = strlen(pairs[i].from);
        if (strncmp(name, pairs[i].from, n) == 0)
            return (size_t)snprintf(out, cap, "%s%s", pairs[i].to, name + n) < cap;
    }
    return false;
}

static bool map_name(void *user, const char *name, char *out, size_t cap)
{
    (void)user;
    if (strncmp(name, "blk.", 4) != 0)
        return map_begin(REST, MICA_ARRAY_LEN(REST), name, out, cap);
    const char *number = name + 4;
    const size_t digits = strspn(number, "0123456789");
    const size_t used = (size_t)snprintf(out, cap, "model.layers.%.*s.", (int)digits, number);
    return digits > 0 && digits < 6 && number[digits] == '.' && used < cap &&
           map_begin(LAYER, MICA_ARRAY_LEN(LAYER), number + digits + 1, out + used, cap - used);
}

static bool map_back(const name_pair *pairs, size_t count, const char *name, char *out, size_t cap)
{
    for (size_t i = 0; i < count; i++) {
        const size_t n = strlen(pairs[i].to);
        if (strncmp(name, pairs[i].to, n) == 0)
            return (size_t)snprintf(out, cap, "%s%s", pairs[i].from, name + n) < cap;
    }
    return false;
}

bool mica_lm_gguf_name(const char *name, char *out, size_t cap)
{
    if (strncmp(name, "model.layers.", 13) != 0)
        return map_back(REST, MICA_ARRAY_LEN(REST), name, out, cap);
    const char *number = name + 13;
    const size_t digits = strspn(number, "0123456789");
    const size_t used = (size_t)snprintf(out, cap, "blk.%.*s.", (int)digits, number);
    return digits > 0 && digits < 6 && number[digits] == '.' && used < cap &&
           map_back(LAYER, MICA_ARRAY_LEN(LAYER), number + digits + 1, out + used, cap - used);
}

mica_status mica_lm_weights_open(mica_weights **out, const char *path, mica_err *err)
{
    MICA_TRY(mica_weights_open(out, path, err));
    if (!architecture_of(*out))
        return MICA_OK;
    const mica_status st = mica_weights_rename(*out, map_name, NULL, err);
    if (st != MICA_OK)
        mica_weights_close(out);
    return st;
}

/* ---------------------------------------------------------------- sizes -- */

static const mica_meta *find(const mica_weights *w, const char *key)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", architecture_of(w), key);
    return mica_weights_meta(w, full);
}

static mica_status take_int(int64_t *out, const mica_weights *w, const char *key, int64_t most,
                            mica_err *err)
{
    const mica_meta *m = find(w, key);
    if (!m)
        return MICA_OK;
    if (m->type != MICA_META_INT || m->integer < 1 || m->integer > most)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s is not a whole number from 1 to %lld",
                         mica_weights_path(w), m->key, (long long)most);
    *out = m->integer;
    return MICA_OK;
}

static mica_status take_number(double *out, const mica_weights *w, const char *key, double least,
                               double most, mica_err *err)
{
    const mica_meta *m = find(w, key);
    if (!m)
        return MICA_OK;
    if (m->type != MICA_META_FLOAT || !(m->number >= least && m->number <= most))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s is not a number from %g to %g",
                         mica_weights_path(w), m->key, least, most);
    *out = m->number;
    return MICA_OK;
}

/* Rotary pairs of time, row and column, and a fourth number that is 0. */
static mica_status take_sections(mica_lm_config *c, const mica_weights *w, mica_err *err)
{
    const mica_meta *m = find(w, "rope.dimension_sections");
    if (!m)
        return MICA_OK;
    for (size_t i = 0; m->type == MICA_META_ARRAY && i < m->count && i < 3; i++) {
        const double v = m->element == MICA_META_INT ? mica_meta_number_at(m, i) : -1.0;
        if (!(v >= 0 && v <= 512))
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s[%zu] is not a number of rotary pairs",
                             mica_weights_path(w), m->key, i);
        c->sections[i] = (int)v;
    }
    return MICA_OK;
}

mica_status mica_lm_gguf_config(mica_lm_config *c, const mica_weights *w, mica_err *err)
{
    if (!architecture_of(w))
        return MICA_OK;
    MICA_TRY(take_int(&c->heads, w, "attention.head_count", 1024, err));
    MICA_TRY(take_int(&c->kv_heads, w, "attention.head_count_kv", 1024, err));
    if (find(w, "attention.head_count") && !c->qk_norm)
        c->head_dim = c->width / c->heads;
    MICA_TRY(take_int(&c->head_dim, w, "attention.key_length", 1024, err));
    MICA_TRY(take_number(&c->eps, w, "attention.layer_norm_rms_epsilon", 0.0, 1.0, err));
    MICA_TRY(take_number(&c->theta, w, "rope.freq_base", 1.0, 1e12, err));
    return take_sections(c, w, err);
}
