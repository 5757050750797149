/* qwen_image_config.c - sizes and names of Qwen-Image checkpoints; see qwen_image_config.h.
 *
 *     transformer/config.json ──┐
 *     metadata key "config" ────┼──► mica_qwen_image_config ──► tables of qwen_image_weights.c
 *     tensor shapes ────────────┘                               check every tensor against it
 *
 * Every size is limited so that no later product overflows. A config that contradicts the
 * tensors is found by the tables, which name the tensors. */
#include "models/qwen_image/qwen_image_config.h"

#include "nn/lm_config.h"

#include <stdio.h>
#include <string.h>

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

bool mica_qwen_image_is_transformer(const mica_weights *w)
{
    return (mica_config_has_suffix(w, "transformer_blocks.0.img_mod.1.weight") ||
            mica_config_has_suffix(w, "transformer_blocks.0.img_mod_linear.weight")) &&
           mica_config_has_suffix(w, "transformer_blocks.0.attn.add_q_proj.weight");
}

/* Qwen2.5 alone among the text encoders in use has biases on q, k and v and no qk norm. */
bool mica_qwen_image_is_text_encoder(const mica_weights *w)
{
    return mica_config_has_suffix(w, "embed_tokens.weight") &&
           mica_config_has_suffix(w, "layers.0.self_attn.q_proj.bias") &&
           !mica_config_has_suffix(w, "layers.0.self_attn.q_norm.weight");
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

/* mflux and MLX conversions call some layers of a block otherwise. */
static bool map_transformer(void *user, const char *name, char *out, size_t cap)
{
    static const prefix_rule INSIDE[] = {
        {".attn.attn_to_out.", ".attn.to_out."}, {".img_mod_linear.", ".img_mod.1."},
        {".txt_mod_linear.", ".txt_mod.1."},     {".img_ff.mlp_in.", ".img_mlp.net.0.proj."},
        {".img_ff.mlp_out.", ".img_mlp.net.2."}, {".txt_ff.mlp_in.", ".txt_mlp.net.0.proj."},
        {".txt_ff.mlp_out.", ".txt_mlp.net.2."}};
    char bare[MICA_WEIGHT_NAME];
    const bool has_prefix = map_prefix(user, name, bare, sizeof bare);
    const char *at, *from = has_prefix ? bare : name;
    for (size_t i = 0; i < MICA_ARRAY_LEN(INSIDE); i++)
        if ((at = strstr(from, INSIDE[i].from)) != NULL)
            return (size_t)snprintf(out, cap, "%.*s%s%s", (int)(at - from), from, INSIDE[i].to,
                                    at + strlen(INSIDE[i].from)) < cap;
    return has_prefix && (size_t)snprintf(out, cap, "%s", bare) < cap;
}

mica_status mica_qwen_image_rename(mica_weights *w, mica_err *err)
{
    prefix_rule rules[] = {{"model.diffusion_model.", ""},
                           {"diffusion_model.", ""},
                           {"transformer.", ""},
                           {NULL, NULL}};
    return mica_weights_rename(w, map_transformer, rules, err);
}

mica_status mica_qwen_image_text_rename(mica_weights *w, mica_err *err)
{
    prefix_rule rules[] = {{"model.language_model.", "model."},
                           {"language_model.model.", "model."},
                           {"model.visual.", "visual."},
                           {"encoder.visual.merger.mlp_0.", "visual.merger.mlp.0."}, /* mflux */
                           {"encoder.visual.merger.mlp_1.", "visual.merger.mlp.2."},
                           {"encoder.visual.", "visual."},
                           {"encoder.", "model."},
                           {NULL, NULL}};
    MICA_TRY(mica_weights_rename(w, map_prefix, rules, err));
    if (mica_weights_is_channels_last(mica_weights_find(w, "visual.patch_embed.proj.weight")))
        return mica_weights_channels_first(w, err);
    return MICA_OK;
}

/* ------------------------------------------------------------------- shapes -- */

static void derive(mica_qwen_image_config *c, const mica_weights *w)
{
    const mica_qwen_image_config d = mica_qwen_image_config_default();
    *c = d;
    c->layers = MICA_MAX(1, mica_weight_count_blocks(w, "transformer_blocks."));
    c->width = mica_config_size_of(w, "img_in.weight", 0, d.width);
    c->in_channels = mica_config_size_of(w, "img_in.weight", 1, d.in_channels);
    c->text_width = mica_config_size_of(w, "txt_in.weight", 1, d.text_width);
    c->head_dim = mica_config_size_of(w, "transformer_blocks.0.attn.norm_q.weight", 0, d.head_dim);
    c->ffn =
        mica_config_size_of(w, "transformer_blocks.0.img_mlp.net.0.proj.weight", 0, 4 * c->width);
    c->heads = MICA_MAX(1, c->width / c->head_dim);
    c->layered = mica_weights_find(w, "time_text_embed.addition_t_embedding.weight") != NULL;
    c->zero_cond_t = mica_weights_find(w, "__index_timestep_zero__") != NULL; /* ComfyUI's mark */
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

static mica_status read_axes(mica_qwen_image_config *c, const mica_json *j, mica_err *err)
{
    int64_t axes[3] = {c->axes[0], c->axes[1], c->axes[2]};
    size_t count = 3;
    MICA_TRY(mica_json_opt_ints(j, j->root, "axes_dims_rope", axes, 3, &count, err));
    if (count != 3)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: axes_dims_rope has %zu entries, expected 3",
                         j->name, count);
    for (int i = 0; i < 3; i++) {
        if (axes[i] < 2 || axes[i] > MICA_CONFIG_MAX_SIZE || axes[i] % 2)
            return MICA_FAIL(err, MICA_E_FORMAT,
                             "%s: axes_dims_rope[%d] is %lld, expected a positive even number",
                             j->name, i, (long long)axes[i]);
        c->axes[i] = (int)axes[i];
    }
    return MICA_OK;
}

/* The two come together: a second embedding beside the timestep's, positions with layers. */
static mica_status read_layered(mica_qwen_image_config *c, const mica_json *j, mica_err *err)
{
    bool condition = c->layered, rope = c->layered;
    MICA_TRY(mica_json_opt_bool(j, j->root, "use_additional_t_cond", &condition, err));
    MICA_TRY(mica_json_opt_bool(j, j->root, "use_layer3d_rope", &rope, err));
    if (c->layered && !condition)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: use_additional_t_cond is false, the weights hold "
                         "time_text_embed.addition_t_embedding (Qwen-Image-Layered)",
                         j->name);
    if (condition != rope)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: use_additional_t_cond and use_layer3d_rope are supported together "
                         "only (Qwen-Image-Layered)",
                         j->name);
    c->layered = condition;
    return MICA_OK;
}

static mica_status read_transformer(mica_qwen_image_config *c, const mica_json *j, mica_err *err)
{
    const struct cJSON *o = j->root;
    int64_t patch = 2, out_channels = c->in_channels / 4;
    MICA_TRY(mica_config_check_class(j, "QwenImageTransformer2DModel", err));
    MICA_TRY(refuse_flag(j, "guidance_embeds", "a guidance-distilled variant", err));
    MICA_TRY(read_layered(c, j, err));
    MICA_TRY(mica_json_opt_bool(j, o, "zero_cond_t", &c->zero_cond_t, err));
    MICA_TRY(mica_json_opt_int(j, o, "num_layers", 1, 1000, &c->layers, err));
    MICA_TRY(mica_json_opt_int(j, o, "num_attention_heads", 1, 1024, &c->heads, err));
    MICA_TRY(mica_json_opt_int(j, o, "attention_head_dim", 2, 1024, &c->head_dim, err));
    MICA_TRY(mica_json_opt_int(j, o, "joint_attention_dim", 1, MICA_CONFIG_MAX_SIZE, &c->text_width,
                               err));
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
    if (c->in_channels == 128)
        return MICA_FAIL(
            err, MICA_E_UNSUPPORTED,
            "%s: this is Mage-Flow (img_in takes 128 channels), which is not supported",
            mica_weights_path(w));
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

mica_status mica_qwen_image_config_read(mica_qwen_image_config *c, const char *json_path,
                                        const mica_weights *w, mica_err *err)
{
    mica_json j = {0};
    bool found;
    derive(c, w);
    mica_status st = mica_config_json_open(&j, json_path, w, &found, err);
    if (!st && found)
        st = read_transformer(c, &j, err);
    mica_json_close(&j);
    return st ? st : check_sizes(c, w, err);
}

/* ------------------------------------------------------------- text encoder -- */

mica_status mica_qwen_image_text_config_read(mica_lm_config *c, const char *json_path,
                                             const mica_weights *w, mica_err *err)
{
    *c = mica_qwen_image_text_config_default();
    return mica_lm_config_read(c, json_path, w, err);
}
