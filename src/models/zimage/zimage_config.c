/* zimage_config.c - sizes and names of Z-Image checkpoints; see zimage_config.h.
 *
 *     diffusers                               ComfyUI, GGUF
 *     all_x_embedder.2-1                      x_embedder
 *     all_final_layer.2-1                     final_layer
 *     layers.N.attention.to_q, to_k, to_v     layers.N.attention.qkv, rows of q, then k, then v
 *     layers.N.attention.to_out.0             layers.N.attention.out
 *     layers.N.attention.norm_q, norm_k       layers.N.attention.q_norm, k_norm
 *     (nothing)                               norm_final.weight, which nobody reads
 *
 * MLX conversions have diffusers' names but for attention.to_out and ada_ln_modulation, without numbers.
 *
 * Reference: diffusers transformer_z_image.py, single_file_utils.py
 * (convert_z_image_transformer_checkpoint_to_diffusers). */
#include "models/zimage/zimage_config.h"

#include "nn/lm_config.h"

#include <stdio.h>
#include <string.h>

mica_zimage_config mica_zimage_config_default(void)
{
    return (mica_zimage_config){.layers = 30,
                                .refiners = 2,
                                .heads = 30,
                                .head_dim = 128,
                                .width = 3840,
                                .ffn = 10240,
                                .text_width = 2560,
                                .channels = 16,
                                .patch_width = 64,
                                .time_hidden = 1024,
                                .time_width = 256,
                                .axes = {32, 48, 48},
                                .axis_lens = {1536, 512, 512},
                                .theta = 256.0,
                                .time_scale = 1000.0,
                                .eps = 1e-5};
}

/* -------------------------------------------------------------------- names -- */

/* Lumina-Image 2.0 has the same names but for the learned pad tokens. */
bool mica_zimage_is_transformer(const mica_weights *w)
{
    return mica_config_has_suffix(w, "noise_refiner.0.attention_norm1.weight") &&
           mica_config_has_suffix(w, "cap_embedder.1.weight") &&
           mica_config_has_suffix(w, "cap_pad_token");
}

typedef struct name_rule {
    const char *from, *to;
} name_rule;

#define FINAL "all_final_layer.2-1.adaLN_modulation."

/* The rest of the name behind its prefix, in diffusers' spelling. */
static void spell(const char *name, char *out, size_t cap)
{
    static const name_rule STARTS[] = {{"x_embedder.", "all_x_embedder.2-1."},
                                       {"final_layer.ada_ln_modulation.", FINAL "1."},
                                       {"all_final_layer.2-1.ada_ln_modulation.", FINAL "1."},
                                       {"final_layer.", "all_final_layer.2-1."},
                                       {FINAL "0.", FINAL "1."}, /* mflux */
                                       {"t_embedder.linear1.", "t_embedder.mlp.0."},
                                       {"t_embedder.linear2.", "t_embedder.mlp.2."}};
    static const name_rule INSIDE[] = {{".attention.out.", ".attention.to_out.0."},
                                       {".attention.to_out.weight", ".attention.to_out.0.weight"},
                                       {".ada_ln_modulation.weight", ".adaLN_modulation.0.weight"},
                                       {".ada_ln_modulation.bias", ".adaLN_modulation.0.bias"},
                                       {".ada_ln_modulation.", ".adaLN_modulation."},
                                       {".attention.q_norm.", ".attention.norm_q."},
                                       {".attention.k_norm.", ".attention.norm_k."}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(STARTS); i++)
        if (strncmp(name, STARTS[i].from, strlen(STARTS[i].from)) == 0) {
            snprintf(out, cap, "%s%s", STARTS[i].to, name + strlen(STARTS[i].from));
            return;
        }
    for (size_t i = 0; i < MICA_ARRAY_LEN(INSIDE); i++) {
        const char *at = strstr(name, INSIDE[i].from);
        if (at) {
            snprintf(out, cap, "%.*s%s%s", (int)(at - name), name, INSIDE[i].to,
                     at + strlen(INSIDE[i].from));
            return;
        }
    }
    snprintf(out, cap, "%s", name);
}

static bool map_name(void *user, const char *name, char *out, size_t cap)
{
    static const char *const PREFIXES[] = {"model.diffusion_model.", "diffusion_model.",
                                           "transformer."};
    (void)user;
    for (size_t i = 0; i < MICA_ARRAY_LEN(PREFIXES); i++)
        if (strncmp(name, PREFIXES[i], strlen(PREFIXES[i])) == 0) {
            name += strlen(PREFIXES[i]);
            break;
        }
    spell(name, out, cap);
    return true;
}

/* One block's qkv, if its file fuses them. */
static mica_status split_block(mica_weights *w, const char *stack, int n, mica_err *err)
{
    char fused[96], names[3][96];
    mica_weights_part parts[3];
    snprintf(fused, sizeof fused, "%s.%d.attention.qkv.weight", stack, n);
    const mica_tensor *t = mica_weights_find(w, fused);
    for (int i = 0; i < 3; i++) {
        snprintf(names[i], sizeof names[i], "%s.%d.attention.to_%c.weight", stack, n, "qkv"[i]);
        parts[i] = (mica_weights_part){names[i], t && t->ndim > 0 ? t->shape_[0] / 3 : 0};
    }
    return mica_weights_split(w, fused, parts, 3, err);
}

mica_status mica_zimage_rename(mica_weights *w, mica_err *err)
{
    static const char *const STACKS[] = {"layers", "noise_refiner", "context_refiner"};
    MICA_TRY(mica_weights_rename(w, map_name, NULL, err));
    for (size_t i = 0; i < MICA_ARRAY_LEN(STACKS); i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "%s.", STACKS[i]);
        const int count = mica_weight_count_blocks(w, prefix);
        for (int n = 0; n < count; n++)
            MICA_TRY(split_block(w, STACKS[i], n, err));
    }
    return MICA_OK;
}

/* q, k and v of a block are written as one. */
static bool fuse(const char *name, const char *at, mica_fused_name *out)
{
    static const char LETTERS[] = "qkv";
    const char *letter = strchr(LETTERS, at[strlen(".attention.to_")]);
    const int before = (int)(at - name);
    if (!letter || strcmp(at + strlen(".attention.to_q"), ".weight") != 0)
        return false;
    out->count = letter == LETTERS ? 3 : 0;
    snprintf(out->name, sizeof out->name, "%.*s.attention.qkv.weight", before, name);
    for (int i = 0; i < 3; i++)
        snprintf(out->parts[i], sizeof out->parts[i], "%.*s.attention.to_%c.weight", before, name,
                 LETTERS[i]);
    return true;
}

void mica_zimage_comfy_name(const char *name, mica_fused_name *out)
{
    static const name_rule STARTS[] = {{"all_x_embedder.2-1.", "x_embedder."},
                                       {"all_final_layer.2-1.", "final_layer."}};
    static const name_rule INSIDE[] = {{".attention.to_out.0.", ".attention.out."},
                                       {".attention.norm_q.", ".attention.q_norm."},
                                       {".attention.norm_k.", ".attention.k_norm."}};
    *out = (mica_fused_name){.count = 1};
    snprintf(out->name, sizeof out->name, "%s", name);
    snprintf(out->parts[0], sizeof out->parts[0], "%s", name);
    for (size_t i = 0; i < MICA_ARRAY_LEN(STARTS); i++)
        if (strncmp(name, STARTS[i].from, strlen(STARTS[i].from)) == 0)
            snprintf(out->name, sizeof out->name, "%s%s", STARTS[i].to,
                     name + strlen(STARTS[i].from));
    const char *at = strstr(name, ".attention.to_");
    if (at && strlen(name) < 128 && fuse(name, at, out))
        return;
    for (size_t i = 0; i < MICA_ARRAY_LEN(INSIDE); i++)
        if ((at = strstr(name, INSIDE[i].from)) != NULL)
            snprintf(out->name, sizeof out->name, "%.*s%s%s", (int)(at - name), name, INSIDE[i].to,
                     at + strlen(INSIDE[i].from));
}

/* ------------------------------------------------------------------- shapes -- */

static void derive(mica_zimage_config *c, const mica_weights *w)
{
    const mica_zimage_config d = mica_zimage_config_default();
    *c = d;
    c->layers = MICA_MAX(1, mica_weight_count_blocks(w, "layers."));
    c->refiners = MICA_MAX(1, mica_weight_count_blocks(w, "noise_refiner."));
    c->width = mica_config_size_of(w, "all_x_embedder.2-1.weight", 0, d.width);
    c->patch_width = mica_config_size_of(w, "all_x_embedder.2-1.weight", 1, d.patch_width);
    c->channels = c->patch_width / (MICA_ZIMAGE_PATCH * MICA_ZIMAGE_PATCH);
    c->text_width = mica_config_size_of(w, "cap_embedder.1.weight", 1, d.text_width);
    c->head_dim = mica_config_size_of(w, "layers.0.attention.norm_q.weight", 0, d.head_dim);
    c->heads = MICA_MAX(1, c->width / c->head_dim);
    c->ffn = mica_config_size_of(w, "layers.0.feed_forward.w1.weight", 0, d.ffn);
    c->time_hidden = mica_config_size_of(w, "t_embedder.mlp.0.weight", 0, d.time_hidden);
    c->time_width = mica_config_size_of(w, "t_embedder.mlp.2.weight", 0, d.time_width);
    /* The released share of the axes, 2 : 3 : 3. */
    c->axes[0] = (int)c->head_dim / 4;
    c->axes[1] = c->axes[2] = 3 * (int)c->head_dim / 8;
}

/* --------------------------------------------------------------------- JSON -- */

/* The only patch that a table has a name for. */
static mica_status check_patches(const mica_json *j, mica_err *err)
{
    static const struct {
        const char *key;
        int64_t only;
    } PATCHES[] = {{"all_patch_size", MICA_ZIMAGE_PATCH}, {"all_f_patch_size", 1}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(PATCHES); i++) {
        int64_t sizes[8] = {PATCHES[i].only};
        size_t count = 1;
        MICA_TRY(mica_json_opt_ints(j, j->root, PATCHES[i].key, sizes, 8, &count, err));
        if (count != 1 || sizes[0] != PATCHES[i].only)
            return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: %s is not [%lld]", j->name,
                             PATCHES[i].key, (long long)PATCHES[i].only);
    }
    return MICA_OK;
}

static mica_status read_axes(const mica_json *j, const char *key, int64_t lo, int out[3],
                             mica_err *err)
{
    int64_t values[3] = {out[0], out[1], out[2]};
    size_t count = 3;
    MICA_TRY(mica_json_opt_ints(j, j->root, key, values, 3, &count, err));
    if (count != 3)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s has %zu entries, expected 3", j->name, key,
                         count);
    for (int i = 0; i < 3; i++) {
        if (values[i] < lo || values[i] > MICA_CONFIG_MAX_SIZE || values[i] % lo)
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s[%d] is %lld, expected a positive%s number",
                             j->name, key, i, (long long)values[i], lo == 2 ? " even" : "");
        out[i] = (int)values[i];
    }
    return MICA_OK;
}

static mica_status check_flags(const mica_json *j, int64_t heads, mica_err *err)
{
    bool qk_norm = true;
    int64_t kv_heads = heads;
    MICA_TRY(mica_json_opt_bool(j, j->root, "qk_norm", &qk_norm, err));
    MICA_TRY(mica_json_opt_int(j, j->root, "n_kv_heads", 1, 1024, &kv_heads, err));
    if (!qk_norm || kv_heads != heads)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: qk_norm %s with %lld key heads for %lld heads is not Z-Image",
                         j->name, qk_norm ? "true" : "false", (long long)kv_heads,
                         (long long)heads);
    return check_patches(j, err);
}

static mica_status read_json(mica_zimage_config *c, const mica_json *j, mica_err *err)
{
    const struct cJSON *o = j->root;
    MICA_TRY(mica_config_check_class(j, "ZImageTransformer2DModel", err));
    MICA_TRY(mica_json_opt_int(j, o, "n_layers", 1, 1000, &c->layers, err));
    MICA_TRY(mica_json_opt_int(j, o, "n_refiner_layers", 1, 100, &c->refiners, err));
    MICA_TRY(mica_json_opt_int(j, o, "dim", 1, MICA_CONFIG_MAX_SIZE, &c->width, err));
    MICA_TRY(mica_json_opt_int(j, o, "n_heads", 1, 1024, &c->heads, err));
    MICA_TRY(mica_json_opt_int(j, o, "cap_feat_dim", 1, MICA_CONFIG_MAX_SIZE, &c->text_width, err));
    MICA_TRY(mica_json_opt_int(j, o, "in_channels", 1, 1024, &c->channels, err));
    MICA_TRY(mica_json_opt_double(j, o, "norm_eps", 0.0, 1.0, &c->eps, err));
    MICA_TRY(mica_json_opt_double(j, o, "rope_theta", 1.0, 1e12, &c->theta, err));
    MICA_TRY(mica_json_opt_double(j, o, "t_scale", 1e-3, 1e6, &c->time_scale, err));
    MICA_TRY(check_flags(j, c->heads, err));
    c->head_dim = c->width / c->heads;
    c->patch_width = c->channels * MICA_ZIMAGE_PATCH * MICA_ZIMAGE_PATCH;
    MICA_TRY(read_axes(j, "axes_dims", 2, c->axes, err));
    return read_axes(j, "axes_lens", 1, c->axis_lens, err);
}

/* -------------------------------------------------------------------- checks -- */

static mica_status check_sizes(const mica_zimage_config *c, const mica_weights *w, mica_err *err)
{
    if (mica_weights_find(w, "siglip_embedder.1.weight") ||
        mica_weights_find(w, "siglip_pad_token"))
        return MICA_FAIL(
            err, MICA_E_UNSUPPORTED,
            "%s: this is Z-Image-Omni (it has siglip_embedder), which is not supported",
            mica_weights_path(w));
    if (c->width != c->heads * c->head_dim || c->head_dim % 2 || c->channels < 1 ||
        c->patch_width != c->channels * MICA_ZIMAGE_PATCH * MICA_ZIMAGE_PATCH)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: width %lld, head size %lld and %lld numbers in a token do not make a "
                         "Z-Image transformer",
                         mica_weights_path(w), (long long)c->width, (long long)c->head_dim,
                         (long long)c->patch_width);
    if (c->axes[0] + c->axes[1] + c->axes[2] != c->head_dim || c->axes[0] % 2 || c->axes[1] % 2)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: axes_dims %d + %d + %d do not make up the head size %lld; put the "
                         "model's config.json beside the weights",
                         mica_weights_path(w), c->axes[0], c->axes[1], c->axes[2],
                         (long long)c->head_dim);
    return MICA_OK;
}

mica_status mica_zimage_config_read(mica_zimage_config *c, const char *json_path,
                                    const mica_weights *w, mica_err *err)
{
    mica_json j = {0};
    bool found;
    derive(c, w);
    mica_status st = mica_config_json_open(&j, json_path, w, &found, err);
    if (!st && found)
        st = read_json(c, &j, err);
    mica_json_close(&j);
    return st ? st : check_sizes(c, w, err);
}
