/* lm_config.c - configurations of language models; see lm_config.h.
 *
 * Reference: transformers configuration_qwen2_5_vl.py, configuration_qwen3.py and the config.json
 * files beside the published weights. */
#include "nn/lm_config.h"

#include "base/names.h"
#include "nn/lm_gguf.h"

#include <string.h>

bool mica_config_has_suffix(const mica_weights *w, const char *suffix)
{
    for (size_t i = 0; i < mica_weights_count(w); i++)
        if (mica_name_ends(mica_weights_name(w, i), suffix))
            return true;
    return false;
}

int64_t mica_config_size_of(const mica_weights *w, const char *name, int dim, int64_t otherwise)
{
    const mica_tensor *t = mica_weights_find(w, name);
    return t && dim < t->ndim && t->shape_[dim] > 0 && t->shape_[dim] <= MICA_CONFIG_MAX_SIZE
               ? t->shape_[dim]
               : otherwise;
}

mica_status mica_config_json_open(mica_json *j, const char *json_path, const mica_weights *w,
                                  bool *found, mica_err *err)
{
    const char *text = json_path ? NULL : mica_weights_metadata(w, "config");
    *found = json_path || text;
    if (json_path)
        return mica_json_open(j, json_path, err);
    if (text)
        return mica_json_parse(j, mica_weights_path(w), text, strlen(text), err);
    return MICA_OK;
}

mica_status mica_config_check_class(const mica_json *j, const char *expected, mica_err *err)
{
    const char *name = NULL;
    if (!mica_json_find(j->root, "_class_name"))
        return MICA_OK;
    MICA_TRY(mica_json_get_string(j, j->root, "_class_name", &name, err));
    if (strcmp(name, expected) != 0)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: it configures a %s, expected a %s", j->name,
                         name, expected);
    return MICA_OK;
}

/* ------------------------------------------------------------------- shapes -- */

static void derive(mica_lm_config *c, const mica_weights *w)
{
    const mica_tensor *embed = mica_weights_find(w, "model.embed_tokens.weight");
    if (embed && embed->ndim == 2 && embed->shape_[0] > 0 && embed->shape_[0] <= 1 << 24)
        c->vocab = embed->shape_[0];
    c->width = mica_config_size_of(w, "model.embed_tokens.weight", 1, c->width);
    c->ffn = mica_config_size_of(w, "model.layers.0.mlp.gate_proj.weight", 0, c->ffn);
    c->layers = MICA_MAX(1, mica_weight_count_blocks(w, "model.layers."));
    if (c->qk_norm)
        c->head_dim =
            mica_config_size_of(w, "model.layers.0.self_attn.q_norm.weight", 0, c->head_dim);
    c->heads =
        mica_config_size_of(w, "model.layers.0.self_attn.q_proj.weight", 0, c->width) / c->head_dim;
    c->kv_heads = mica_config_size_of(w, "model.layers.0.self_attn.k_proj.weight", 0,
                                      c->kv_heads * c->head_dim) /
                  c->head_dim;
}

/* --------------------------------------------------------------------- JSON -- */

/* Rotary pairs of time, row and column. */
static mica_status read_sections(mica_lm_config *c, const mica_json *j, const struct cJSON *o,
                                 mica_err *err)
{
    int64_t pairs[3];
    size_t count = 0;
    MICA_TRY(mica_json_opt_ints(j, o, "mrope_section", pairs, 3, &count, err));
    for (size_t i = 0; i < count; i++) {
        if (pairs[i] < 0 || pairs[i] > MICA_CONFIG_MAX_SIZE)
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: mrope_section[%zu] is %lld", j->name, i,
                             (long long)pairs[i]);
        c->sections[i] = (int)pairs[i];
    }
    if (count != 0 && count != 3)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: mrope_section has %zu entries, expected 3",
                         j->name, count);
    return MICA_OK;
}

/* Without the key: those of the released model, or one axis if the heads are of another size. */
static mica_status check_sections(mica_lm_config *c, const mica_lm_config *released,
                                  const mica_weights *w, mica_err *err)
{
    const int *s = c->sections;
    if (s[0] + s[1] + s[2] == 0 && c->head_dim == released->head_dim)
        memcpy(c->sections, released->sections, sizeof c->sections);
    if (s[0] + s[1] + s[2] != 0 && s[0] + s[1] + s[2] != c->head_dim / 2)
        return MICA_FAIL(
            err, MICA_E_FORMAT,
            "%s: mrope_section %d + %d + %d does not add up to half the head size %lld",
            mica_weights_path(w), s[0], s[1], s[2], (long long)c->head_dim);
    return MICA_OK;
}

/* transformers 5 moved rope_theta and rope_scaling into rope_parameters. */
static mica_status read_rope(mica_lm_config *c, const mica_json *j, const struct cJSON *o,
                             mica_err *err)
{
    const struct cJSON *scaling = mica_json_find(o, "rope_scaling");
    const struct cJSON *p = mica_json_find(o, "rope_parameters");
    MICA_TRY(mica_json_opt_double(j, o, "rope_theta", 1.0, 1e12, &c->theta, err));
    if (scaling)
        MICA_TRY(read_sections(c, j, scaling, err));
    if (!p)
        return MICA_OK;
    MICA_TRY(read_sections(c, j, p, err));
    return mica_json_opt_double(j, p, "rope_theta", 1.0, 1e12, &c->theta, err);
}

static mica_status read_json(mica_lm_config *c, const mica_json *j, mica_err *err)
{
    const struct cJSON *o = mica_json_find(j->root, "text_config");
    bool sliding = false;
    if (!o)
        o = j->root;
    MICA_TRY(mica_json_opt_int(j, o, "vocab_size", 1, 1 << 24, &c->vocab, err));
    MICA_TRY(mica_json_opt_int(j, o, "hidden_size", 1, MICA_CONFIG_MAX_SIZE, &c->width, err));
    MICA_TRY(mica_json_opt_int(j, o, "intermediate_size", 1, MICA_CONFIG_MAX_SIZE, &c->ffn, err));
    MICA_TRY(mica_json_opt_int(j, o, "num_hidden_layers", 1, 1000, &c->layers, err));
    MICA_TRY(mica_json_opt_int(j, o, "num_attention_heads", 1, 1024, &c->heads, err));
    c->head_dim = c->heads > 0 ? c->width / c->heads : 0;
    MICA_TRY(mica_json_opt_int(j, o, "head_dim", 2, 1024, &c->head_dim, err));
    MICA_TRY(mica_json_opt_int(j, o, "num_key_value_heads", 1, 1024, &c->kv_heads, err));
    MICA_TRY(mica_json_opt_double(j, o, "rms_norm_eps", 0.0, 1.0, &c->eps, err));
    MICA_TRY(mica_json_opt_bool(j, o, "use_sliding_window", &sliding, err));
    if (sliding)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: use_sliding_window is true, which is not supported", j->name);
    return read_rope(c, j, o, err);
}

mica_status mica_lm_config_read(mica_lm_config *c, const char *json_path, const mica_weights *w,
                                mica_err *err)
{
    const mica_lm_config released = *c;
    mica_json j = {0};
    bool found = false;
    derive(c, w);
    memset(c->sections, 0, sizeof c->sections);
    mica_status st = mica_lm_gguf_config(c, w, err);
    if (!st)
        st = mica_config_json_open(&j, json_path, w, &found, err);
    if (!st && found)
        st = read_json(c, &j, err);
    mica_json_close(&j);
    if (!st)
        st = check_sections(c, &released, w, err);
    if (st)
        return st;
    if (c->heads < 1 || c->kv_heads < 1 || c->heads % c->kv_heads || c->head_dim < 2 ||
        c->head_dim % 2)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: %lld heads, %lld key heads of size %lld are not possible; put the "
                         "text encoder's config.json beside the weights",
                         mica_weights_path(w), (long long)c->heads, (long long)c->kv_heads,
                         (long long)c->head_dim);
    return MICA_OK;
}
