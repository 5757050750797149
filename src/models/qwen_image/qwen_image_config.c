/* qwen_image_config.c - sizes and names of Qwen-Image checkpoints; see qwen_image_config.h.
 *
 *     transformer/config.json ──┐
 *     metadata key "config" ────┼──► mica_qwen_image_config ──► tables of qwen_image_weights.c
 *     tensor shapes ────────────┘                               check every tensor against it
 *
 * Every size is limited so that no later product overflows. A config that contradicts the
 * tensors is found by the tables, which name the tensors. */
#include "models/qwen_image/qwen_image_config.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

#define MAX_SIZE 262144 /* of any one dimension but the vocabulary */

mica_qwen_image_config mica_qwen_image_config_default(void)
{
    return (mica_qwen_image_config){.layers = 60,
                                    .heads = 24,
                                    .head_dim = 128,
                                    .width = 3072,
                                    .ffn = 12288,
                                    .text_width = 3584,
                                    .in_channels = 64,
                                    .axes = {16, 56, 56}};
}

mica_lm_config mica_qwen_image_text_config_default(void)
{
    return (mica_lm_config){.vocab = 152064,
                            .width = 3584,
                            .ffn = 18944,
                            .heads = 28,
                            .kv_heads = 4,
                            .head_dim = 128,
                            .layers = 28,
                            .eps = 1e-6,
                            .theta = 1e6,
                            .sections = {16, 24, 24},
                            .qkv_bias = true,
                            .sensitive = true};
}

/* -------------------------------------------------------------------- names -- */

static bool ends_with(const char *name, const char *suffix)
{
    const size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

static bool has_suffix(const mica_weights *w, const char *suffix)
{
    for (size_t i = 0; i < mica_weights_count(w); i++)
        if (ends_with(mica_weights_name(w, i), suffix))
            return true;
    return false;
}

bool mica_qwen_image_is_transformer(const mica_weights *w)
{
    return has_suffix(w, "transformer_blocks.0.img_mod.1.weight") &&
           has_suffix(w, "transformer_blocks.0.attn.add_q_proj.weight");
}

/* Qwen2.5 alone among the text encoders in use has biases on q, k and v and no qk norm. */
bool mica_qwen_image_is_text_encoder(const mica_weights *w)
{
    return has_suffix(w, "embed_tokens.weight") &&
           has_suffix(w, "layers.0.self_attn.q_proj.bias") &&
           !has_suffix(w, "layers.0.self_attn.q_norm.weight");
}

/* Pairs of prefix and replacement; the first that matches counts. */
typedef struct prefix_rule {
    const char *from, *to;
} prefix_rule;

static bool map_prefix(void *user, const char *name, char *out, size_t cap)
{
    for (const prefix_rule *r = user; r->from; r++) {
        const size_t n = strlen(r->from);
        if (strncmp(name, r->from, n) == 0)
            return (size_t)snprintf(out, cap, "%s%s", r->to, name + n) < cap;
    }
    return false;
}

mica_status mica_qwen_image_rename(mica_weights *w, mica_err *err)
{
    prefix_rule rules[] = {{"model.diffusion_model.", ""},
                           {"diffusion_model.", ""},
                           {"transformer.", ""},
                           {NULL, NULL}};
    return mica_weights_rename(w, map_prefix, rules, err);
}

mica_status mica_qwen_image_text_rename(mica_weights *w, mica_err *err)
{
    prefix_rule rules[] = {{"model.language_model.", "model."},
                           {"language_model.model.", "model."},
                           {"model.visual.", "visual."},
                           {NULL, NULL}};
    return mica_weights_rename(w, map_prefix, rules, err);
}

/* ------------------------------------------------------------------- shapes -- */

/* Dimension `dim` of a tensor, or `otherwise`; the tables complain about absent tensors. */
static int64_t size_of(const mica_weights *w, const char *name, int dim, int64_t otherwise)
{
    const mica_tensor *t = mica_weights_find(w, name);
    return t && dim < t->ndim && t->shape_[dim] > 0 && t->shape_[dim] <= MAX_SIZE ? t->shape_[dim]
                                                                                  : otherwise;
}

static void derive(mica_qwen_image_config *c, const mica_weights *w)
{
    const mica_qwen_image_config d = mica_qwen_image_config_default();
    *c = d;
    c->layers = MICA_MAX(1, mica_weight_count_blocks(w, "transformer_blocks."));
    c->width = size_of(w, "img_in.weight", 0, d.width);
    c->in_channels = size_of(w, "img_in.weight", 1, d.in_channels);
    c->text_width = size_of(w, "txt_in.weight", 1, d.text_width);
    c->head_dim = size_of(w, "transformer_blocks.0.attn.norm_q.weight", 0, d.head_dim);
    c->ffn = size_of(w, "transformer_blocks.0.img_mlp.net.0.proj.weight", 0, 4 * c->width);
    c->heads = MICA_MAX(1, c->width / c->head_dim);
}

/* Variants by what only they have; NULL: plain Qwen-Image. */
static const char *variant_of(const mica_qwen_image_config *c, const mica_weights *w)
{
    if (mica_weights_find(w, "time_text_embed.addition_t_embedding.weight"))
        return "Qwen-Image-Layered (it has time_text_embed.addition_t_embedding)";
    if (c->in_channels == 128)
        return "Mage-Flow (img_in takes 128 channels)";
    return NULL;
}

/* --------------------------------------------------------------------- JSON -- */

static mica_status refuse_flag(const mica_json *j, const char *key, const char *what, mica_err *err)
{
    bool on = false;
    MICA_TRY(mica_json_opt_bool(j, j->root, key, &on, err));
    if (on)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: \"%s\" is true: this is %s, which is not supported", j->name, key,
                         what);
    return MICA_OK;
}

static mica_status check_class(const mica_json *j, const char *expected, mica_err *err)
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

static mica_status read_axes(mica_qwen_image_config *c, const mica_json *j, mica_err *err)
{
    int64_t axes[3] = {c->axes[0], c->axes[1], c->axes[2]};
    size_t count = 3;
    MICA_TRY(mica_json_opt_ints(j, j->root, "axes_dims_rope", axes, 3, &count, err));
    if (count != 3)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: axes_dims_rope has %zu entries, expected 3",
                         j->name, count);
    for (int i = 0; i < 3; i++) {
        if (axes[i] < 2 || axes[i] > MAX_SIZE || axes[i] % 2)
            return MICA_FAIL(err, MICA_E_FORMAT,
                             "%s: axes_dims_rope[%d] is %lld, expected a positive even number",
                             j->name, i, (long long)axes[i]);
        c->axes[i] = (int)axes[i];
    }
    return MICA_OK;
}

static mica_status read_transformer(mica_qwen_image_config *c, const mica_json *j, mica_err *err)
{
    const struct cJSON *o = j->root;
    int64_t patch = 2, out_channels = c->in_channels / 4;
    MICA_TRY(check_class(j, "QwenImageTransformer2DModel", err));
    MICA_TRY(refuse_flag(j, "guidance_embeds", "a guidance-distilled variant", err));
    MICA_TRY(refuse_flag(j, "use_additional_t_cond", "Qwen-Image-Layered", err));
    MICA_TRY(refuse_flag(j, "use_layer3d_rope", "Qwen-Image-Layered", err));
    MICA_TRY(mica_json_opt_int(j, o, "num_layers", 1, 1000, &c->layers, err));
    MICA_TRY(mica_json_opt_int(j, o, "num_attention_heads", 1, 1024, &c->heads, err));
    MICA_TRY(mica_json_opt_int(j, o, "attention_head_dim", 2, 1024, &c->head_dim, err));
    MICA_TRY(mica_json_opt_int(j, o, "joint_attention_dim", 1, MAX_SIZE, &c->text_width, err));
    MICA_TRY(mica_json_opt_int(j, o, "in_channels", 4, 4096, &c->in_channels, err));
    MICA_TRY(mica_json_opt_int(j, o, "patch_size", 2, 2, &patch, err));
    out_channels = c->in_channels / 4;
    MICA_TRY(mica_json_opt_int(j, o, "out_channels", 1, 1024, &out_channels, err));
    if (out_channels * 4 != c->in_channels)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: out_channels is %lld, expected in_channels / 4 = %lld", j->name,
                         (long long)out_channels, (long long)c->in_channels / 4);
    c->width = c->heads * c->head_dim;
    return read_axes(c, j, err);
}

static mica_status check_sizes(const mica_qwen_image_config *c, const mica_weights *w,
                               mica_err *err)
{
    const char *variant = variant_of(c, w);
    if (variant)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: this is %s, which is not supported",
                         mica_weights_path(w), variant);
    if (c->head_dim % 2 || c->width != c->heads * c->head_dim || c->in_channels % 4)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: width %lld, head size %lld and %lld input channels do not make a "
                         "Qwen-Image transformer",
                         mica_weights_path(w), (long long)c->width, (long long)c->head_dim,
                         (long long)c->in_channels);
    if (c->axes[0] + c->axes[1] + c->axes[2] != c->head_dim)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: axes_dims_rope %d + %d + %d does not add up to the head size %lld; "
                         "put the model's config.json beside the weights",
                         mica_weights_path(w), c->axes[0], c->axes[1], c->axes[2],
                         (long long)c->head_dim);
    return MICA_OK;
}

/* Opens json_path or, failing that, the metadata of the file; *found says whether. */
static mica_status open_json(mica_json *j, const char *json_path, const mica_weights *w,
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

mica_status mica_qwen_image_config_read(mica_qwen_image_config *c, const char *json_path,
                                        const mica_weights *w, mica_err *err)
{
    mica_json j = {0};
    bool found;
    derive(c, w);
    mica_status st = open_json(&j, json_path, w, &found, err);
    if (!st && found)
        st = read_transformer(c, &j, err);
    mica_json_close(&j);
    return st ? st : check_sizes(c, w, err);
}

/* ------------------------------------------------------------- text encoder -- */

static void derive_text(mica_lm_config *c, const mica_weights *w)
{
    const mica_lm_config d = mica_qwen_image_text_config_default();
    const mica_tensor *embed = mica_weights_find(w, "model.embed_tokens.weight");
    *c = d;
    if (embed && embed->ndim == 2 && embed->shape_[0] > 0 && embed->shape_[0] <= 1 << 24)
        c->vocab = embed->shape_[0];
    c->width = size_of(w, "model.embed_tokens.weight", 1, d.width);
    c->ffn = size_of(w, "model.layers.0.mlp.gate_proj.weight", 0, d.ffn);
    c->layers = MICA_MAX(1, mica_weight_count_blocks(w, "model.layers."));
    c->heads = size_of(w, "model.layers.0.self_attn.q_proj.weight", 0, c->width) / c->head_dim;
    c->kv_heads = size_of(w, "model.layers.0.self_attn.k_proj.weight", 0, 512) / c->head_dim;
}

/* Rotary pairs of time, row and column. */
static mica_status read_sections(mica_lm_config *c, const mica_json *j, const struct cJSON *o,
                                 mica_err *err)
{
    int64_t pairs[3];
    size_t count = 0;
    MICA_TRY(mica_json_opt_ints(j, o, "mrope_section", pairs, 3, &count, err));
    for (size_t i = 0; i < count; i++) {
        if (pairs[i] < 0 || pairs[i] > MAX_SIZE)
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
static mica_status check_sections(mica_lm_config *c, const mica_weights *w, mica_err *err)
{
    const int *s = c->sections;
    if (s[0] + s[1] + s[2] == 0 && c->head_dim == 128)
        memcpy(c->sections, mica_qwen_image_text_config_default().sections, sizeof c->sections);
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

static mica_status read_text(mica_lm_config *c, const mica_json *j, mica_err *err)
{
    const struct cJSON *o = mica_json_find(j->root, "text_config");
    bool sliding = false;
    if (!o)
        o = j->root;
    MICA_TRY(mica_json_opt_int(j, o, "vocab_size", 1, 1 << 24, &c->vocab, err));
    MICA_TRY(mica_json_opt_int(j, o, "hidden_size", 1, MAX_SIZE, &c->width, err));
    MICA_TRY(mica_json_opt_int(j, o, "intermediate_size", 1, MAX_SIZE, &c->ffn, err));
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

mica_status mica_qwen_image_text_config_read(mica_lm_config *c, const char *json_path,
                                             const mica_weights *w, mica_err *err)
{
    mica_json j = {0};
    bool found;
    derive_text(c, w);
    memset(c->sections, 0, sizeof c->sections);
    mica_status st = open_json(&j, json_path, w, &found, err);
    if (!st && found)
        st = read_text(c, &j, err);
    mica_json_close(&j);
    if (!st)
        st = check_sections(c, w, err);
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
