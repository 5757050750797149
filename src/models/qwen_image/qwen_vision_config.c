/* qwen_vision_config.c - configurations of the vision tower; see qwen_vision_config.h.
 *
 * Reference: transformers models/qwen2_5_vl/configuration_qwen2_5_vl.py (Qwen2_5_VLVisionConfig),
 * models/qwen2_vl/image_processing_qwen2_vl.py (Qwen2VLImageProcessor). */
#include "models/qwen_image/qwen_vision_config.h"

#include "base/json.h"
#include "nn/weight_table.h"

#include <string.h>

#define MAX_SIZE  262144
#define MAX_PATCH 64 /* pixels, and patches of a token */

mica_qwen_vision_config mica_qwen_vision_config_default(void)
{
    mica_qwen_vision_config c = {.depth = 32,
                                 .width = 1280,
                                 .heads = 16,
                                 .ffn = 3420,
                                 .out_width = 3584,
                                 .channels = 3,
                                 .frames = 2,
                                 .patch = 14,
                                 .merge = 2,
                                 .window = 112};
    c.whole[7] = c.whole[15] = c.whole[23] = c.whole[31] = true;
    return c;
}

mica_qwen_pixels_config mica_qwen_pixels_config_default(void)
{
    return (mica_qwen_pixels_config){.min_pixels = 56 * 56,
                                     .max_pixels = 12845056,
                                     .rescale = 1.0 / 255.0,
                                     .mean = {0.48145466, 0.4578275, 0.40821073},
                                     .std = {0.26862954, 0.26130258, 0.27577711},
                                     .patch = 14,
                                     .merge = 2,
                                     .frames = 2};
}

bool mica_qwen_vision_is_present(const mica_weights *w)
{
    return mica_weights_find(w, "visual.patch_embed.proj.weight") != NULL;
}

/* --------------------------------------------------------------------- the tower -- */

static int64_t size_of(const mica_weights *w, const char *name, int dim, int64_t otherwise)
{
    const mica_tensor *t = mica_weights_find(w, name);
    return t && dim < t->ndim && t->shape_[dim] > 0 && t->shape_[dim] <= MAX_SIZE ? t->shape_[dim]
                                                                                  : otherwise;
}

/* The number of heads, the window and the whole layers leave no trace in shapes. */
static void derive(mica_qwen_vision_config *c, const mica_weights *w)
{
    const char *patch = "visual.patch_embed.proj.weight"; /* [D, channels, frames, patch, patch] */
    *c = mica_qwen_vision_config_default();
    c->depth = MICA_MAX(1, mica_weight_count_blocks(w, "visual.blocks."));
    c->width = size_of(w, patch, 0, c->width);
    c->channels = size_of(w, patch, 1, c->channels);
    c->frames = size_of(w, patch, 2, c->frames);
    c->patch = size_of(w, patch, 3, c->patch);
    c->ffn = size_of(w, "visual.blocks.0.mlp.gate_proj.weight", 0, c->ffn);
    c->out_width = size_of(w, "visual.merger.mlp.2.weight", 0, c->out_width);
}

static mica_status read_whole_layers(mica_qwen_vision_config *c, const mica_json *j,
                                     const struct cJSON *o, mica_err *err)
{
    int64_t layers[MICA_QWEN_VISION_LAYERS];
    size_t count = 0;
    if (!mica_json_find(o, "fullatt_block_indexes"))
        return MICA_OK;
    MICA_TRY(mica_json_opt_ints(j, o, "fullatt_block_indexes", layers, MICA_ARRAY_LEN(layers),
                                &count, err));
    memset(c->whole, 0, sizeof c->whole);
    for (size_t i = 0; i < count; i++) {
        if (layers[i] < 0 || layers[i] >= c->depth)
            return MICA_FAIL(err, MICA_E_FORMAT,
                             "%s: fullatt_block_indexes names layer %lld, there are %lld", j->name,
                             (long long)layers[i], (long long)c->depth);
        c->whole[layers[i]] = true;
    }
    return MICA_OK;
}

static mica_status check_activation(const mica_json *j, const struct cJSON *o, mica_err *err)
{
    const char *act = "silu";
    if (mica_json_find(o, "hidden_act"))
        MICA_TRY(mica_json_get_string(j, o, "hidden_act", &act, err));
    if (strcmp(act, "silu") != 0)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: the vision tower's hidden_act is %s, only silu is supported", j->name,
                         act);
    return MICA_OK;
}

static mica_status read_tower(mica_qwen_vision_config *c, const mica_json *j, mica_err *err)
{
    const struct cJSON *o = mica_json_find(j->root, "vision_config");
    if (!o)
        return MICA_OK;
    MICA_TRY(mica_json_opt_int(j, o, "depth", 1, MICA_QWEN_VISION_LAYERS, &c->depth, err));
    MICA_TRY(mica_json_opt_int(j, o, "hidden_size", 1, MAX_SIZE, &c->width, err));
    MICA_TRY(mica_json_opt_int(j, o, "num_heads", 1, 1024, &c->heads, err));
    MICA_TRY(mica_json_opt_int(j, o, "intermediate_size", 1, MAX_SIZE, &c->ffn, err));
    MICA_TRY(mica_json_opt_int(j, o, "out_hidden_size", 1, MAX_SIZE, &c->out_width, err));
    MICA_TRY(mica_json_opt_int(j, o, "in_channels", 1, 1024, &c->channels, err));
    MICA_TRY(mica_json_opt_int(j, o, "temporal_patch_size", 1, MAX_PATCH, &c->frames, err));
    MICA_TRY(mica_json_opt_int(j, o, "patch_size", 1, MAX_PATCH, &c->patch, err));
    MICA_TRY(mica_json_opt_int(j, o, "spatial_merge_size", 1, MAX_PATCH, &c->merge, err));
    MICA_TRY(mica_json_opt_int(j, o, "window_size", 1, MAX_SIZE, &c->window, err));
    MICA_TRY(check_activation(j, o, err));
    return read_whole_layers(c, j, o, err);
}

static mica_status check_tower(const mica_qwen_vision_config *c, const char *name, mica_err *err)
{
    if (c->depth > MICA_QWEN_VISION_LAYERS)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: a vision tower of %lld layers, at most %d", name,
                         (long long)c->depth, MICA_QWEN_VISION_LAYERS);
    if (c->channels != 3)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: the vision tower takes pictures of %lld channels, expected 3", name,
                         (long long)c->channels);
    /* Rows and columns each turn half of a head's pairs. */
    if (c->width % c->heads || c->width / c->heads % 4)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: %lld heads in a vision tower of width %lld are not possible; put the "
                         "text encoder's config.json beside the weights",
                         name, (long long)c->heads, (long long)c->width);
    if (c->window < c->patch * c->merge)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: a window of %lld pixels holds no token of %lld x %lld patches of "
                         "%lld pixels",
                         name, (long long)c->window, (long long)c->merge, (long long)c->merge,
                         (long long)c->patch);
    return MICA_OK;
}

mica_status mica_qwen_vision_config_read(mica_qwen_vision_config *c, const char *json_path,
                                         const mica_weights *w, mica_err *err)
{
    mica_json j = {0};
    mica_status st = MICA_OK;
    derive(c, w);
    if (json_path) {
        st = mica_json_open(&j, json_path, err);
        if (!st)
            st = read_tower(c, &j, err);
        mica_json_close(&j);
    }
    return st ? st : check_tower(c, json_path ? json_path : mica_weights_path(w), err);
}

/* -------------------------------------------------------------------- the pictures -- */

static mica_status expect_true(const mica_json *j, const char *key, mica_err *err)
{
    bool on = true;
    MICA_TRY(mica_json_opt_bool(j, j->root, key, &on, err));
    if (!on)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: \"%s\" is false, which is not supported",
                         j->name, key);
    return MICA_OK;
}

static mica_status read_three(const mica_json *j, const char *key, double lo, double out[3],
                              mica_err *err)
{
    size_t count = 3;
    MICA_TRY(mica_json_opt_doubles(j, j->root, key, out, 3, &count, err));
    for (size_t i = 0; i < count; i++)
        if (!(out[i] >= lo && out[i] <= 1e6))
            return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s[%zu] is %g", j->name, key, i, out[i]);
    if (count != 3)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: %s has %zu entries, expected 3", j->name, key,
                         count);
    return MICA_OK;
}

/* The older keys stand before the newer ones, as in the reference. */
static mica_status read_areas(mica_qwen_pixels_config *c, const mica_json *j, mica_err *err)
{
    const int64_t most = (int64_t)1 << 28;
    const struct cJSON *size = mica_json_find(j->root, "size");
    if (size) {
        MICA_TRY(mica_json_opt_int(j, size, "shortest_edge", 1, most, &c->min_pixels, err));
        MICA_TRY(mica_json_opt_int(j, size, "longest_edge", 1, most, &c->max_pixels, err));
    }
    MICA_TRY(mica_json_opt_int(j, j->root, "min_pixels", 1, most, &c->min_pixels, err));
    MICA_TRY(mica_json_opt_int(j, j->root, "max_pixels", 1, most, &c->max_pixels, err));
    if (c->min_pixels > c->max_pixels)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: min_pixels %lld is above max_pixels %lld",
                         j->name, (long long)c->min_pixels, (long long)c->max_pixels);
    return MICA_OK;
}

static mica_status read_pixels(mica_qwen_pixels_config *c, const mica_json *j, mica_err *err)
{
    static const char *const ON[] = {"do_resize", "do_rescale", "do_normalize", "do_convert_rgb"};
    int64_t resample = 3;
    for (size_t i = 0; i < MICA_ARRAY_LEN(ON); i++)
        MICA_TRY(expect_true(j, ON[i], err));
    MICA_TRY(mica_json_opt_int(j, j->root, "resample", 0, 5, &resample, err));
    if (resample != 3)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: resample is %lld, only 3 (bicubic) is supported", j->name,
                         (long long)resample);
    MICA_TRY(mica_json_opt_double(j, j->root, "rescale_factor", 1e-6, 1e6, &c->rescale, err));
    MICA_TRY(read_three(j, "image_mean", -1e6, c->mean, err));
    MICA_TRY(read_three(j, "image_std", 1e-6, c->std, err));
    MICA_TRY(mica_json_opt_int(j, j->root, "patch_size", 1, MAX_PATCH, &c->patch, err));
    MICA_TRY(mica_json_opt_int(j, j->root, "merge_size", 1, MAX_PATCH, &c->merge, err));
    MICA_TRY(mica_json_opt_int(j, j->root, "temporal_patch_size", 1, MAX_PATCH, &c->frames, err));
    return read_areas(c, j, err);
}

mica_status mica_qwen_pixels_config_parse(mica_qwen_pixels_config *c, const char *name,
                                          const char *text, size_t size, mica_err *err)
{
    mica_json j = {0};
    *c = mica_qwen_pixels_config_default();
    MICA_TRY(mica_json_parse(&j, name, text, size, err));
    const mica_status st = read_pixels(c, &j, err);
    mica_json_close(&j);
    return st;
}

mica_status mica_qwen_pixels_config_read(mica_qwen_pixels_config *c, const char *json_path,
                                         mica_err *err)
{
    mica_json j = {0};
    *c = mica_qwen_pixels_config_default();
    if (!json_path)
        return MICA_OK;
    MICA_TRY(mica_json_open(&j, json_path, err));
    const mica_status st = read_pixels(c, &j, err);
    mica_json_close(&j);
    return st;
}
