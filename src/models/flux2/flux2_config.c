/* flux2_config.c - sizes of FLUX.2 transformers; see flux2_config.h.
 *
 *     transformer/config.json ──┐
 *     metadata key "config" ────┼──► mica_flux2_config ──► tables of flux2_weights.c
 *     tensor shapes ────────────┘                          check every tensor against it
 *
 * Every size is limited so that no later product overflows. A config that contradicts the
 * tensors is found by the tables, which name the tensors. */
#include "models/flux2/flux2_config.h"

#include <math.h>

#define MAX_SIZE MICA_CONFIG_MAX_SIZE

mica_flux2_config mica_flux2_config_default(void)
{
    return (mica_flux2_config){.layers = 5,
                               .single_layers = 20,
                               .heads = 24,
                               .head_dim = 128,
                               .width = 3072,
                               .ffn = 9216,
                               .text_width = 7680,
                               .in_channels = 128,
                               .axes = {32, 32, 32, 32},
                               .theta = 2000.0};
}

/* Equal axes, as every released model has them. */
static void derive(mica_flux2_config *c, const mica_weights *w)
{
    const mica_flux2_config d = mica_flux2_config_default();
    *c = d;
    c->layers = MICA_MAX(1, mica_weight_count_blocks(w, "transformer_blocks."));
    c->single_layers = MICA_MAX(1, mica_weight_count_blocks(w, "single_transformer_blocks."));
    c->width = mica_config_size_of(w, "x_embedder.weight", 0, d.width);
    c->in_channels = mica_config_size_of(w, "x_embedder.weight", 1, d.in_channels);
    c->text_width = mica_config_size_of(w, "context_embedder.weight", 1, d.text_width);
    c->head_dim = mica_config_size_of(w, "transformer_blocks.0.attn.norm_q.weight", 0, d.head_dim);
    c->ffn = mica_config_size_of(w, "transformer_blocks.0.ff.linear_out.weight", 1, 3 * c->width);
    c->heads = MICA_MAX(1, c->width / c->head_dim);
    for (int i = 0; i < MICA_FLUX2_AXES; i++)
        c->axes[i] = (int)MICA_MIN(c->head_dim / MICA_FLUX2_AXES, 1024);
}

/* --------------------------------------------------------------------- JSON -- */

static mica_status read_axes(mica_flux2_config *c, const mica_json *j, mica_err *err)
{
    int64_t axes[MICA_FLUX2_AXES];
    size_t count = 0;
    MICA_TRY(mica_json_opt_ints(j, j->root, "axes_dims_rope", axes, MICA_FLUX2_AXES, &count, err));
    if (count != 0 && count != MICA_FLUX2_AXES)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: axes_dims_rope has %zu entries, expected %d",
                         j->name, count, MICA_FLUX2_AXES);
    for (size_t i = 0; i < count; i++) {
        if (axes[i] < 2 || axes[i] > 1024 || axes[i] % 2)
            return MICA_FAIL(err, MICA_E_FORMAT,
                             "%s: axes_dims_rope[%zu] is %lld, expected a positive even number",
                             j->name, i, (long long)axes[i]);
        c->axes[i] = (int)axes[i];
    }
    return MICA_OK;
}

static mica_status refuse_guidance(const mica_json *j, mica_err *err)
{
    bool on = false;
    MICA_TRY(mica_json_opt_bool(j, j->root, "guidance_embeds", &on, err));
    if (on)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: \"guidance_embeds\" is true: this is FLUX.2-dev, which is not "
                         "supported; FLUX.2-klein is",
                         j->name);
    return MICA_OK;
}

static mica_status read_transformer(mica_flux2_config *c, const mica_json *j, mica_err *err)
{
    const struct cJSON *o = j->root;
    double ratio = (double)c->ffn / (double)c->width, eps = 1e-6;
    int64_t patch = 1, out_channels = c->in_channels, sinusoids = 256;
    MICA_TRY(mica_config_check_class(j, "Flux2Transformer2DModel", err));
    MICA_TRY(refuse_guidance(j, err));
    MICA_TRY(mica_json_opt_int(j, o, "num_layers", 1, 1000, &c->layers, err));
    MICA_TRY(mica_json_opt_int(j, o, "num_single_layers", 1, 1000, &c->single_layers, err));
    MICA_TRY(mica_json_opt_int(j, o, "num_attention_heads", 1, 1024, &c->heads, err));
    MICA_TRY(mica_json_opt_int(j, o, "attention_head_dim", 2, 1024, &c->head_dim, err));
    MICA_TRY(mica_json_opt_int(j, o, "joint_attention_dim", 1, MAX_SIZE, &c->text_width, err));
    MICA_TRY(mica_json_opt_int(j, o, "in_channels", 4, 4096, &c->in_channels, err));
    MICA_TRY(mica_json_opt_int(j, o, "patch_size", 1, 1, &patch, err));
    MICA_TRY(mica_json_opt_int(j, o, "timestep_guidance_channels", 256, 256, &sinusoids, err));
    MICA_TRY(mica_json_opt_double(j, o, "rope_theta", 1.0, 1e12, &c->theta, err));
    MICA_TRY(mica_json_opt_double(j, o, "eps", 1e-6, 1e-6, &eps, err));
    MICA_TRY(mica_json_opt_double(j, o, "mlp_ratio", 0.001, 64.0, &ratio, err));
    out_channels = c->in_channels;
    MICA_TRY(mica_json_opt_int(j, o, "out_channels", 1, 4096, &out_channels, err));
    if (out_channels != c->in_channels)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: out_channels is %lld, expected in_channels = %lld", j->name,
                         (long long)out_channels, (long long)c->in_channels);
    c->width = c->heads * c->head_dim;
    c->ffn = MICA_MAX(1, (int64_t)floor((double)c->width * ratio));
    return read_axes(c, j, err);
}

static mica_status check_sizes(const mica_flux2_config *c, const mica_weights *w, mica_err *err)
{
    const char *path = mica_weights_path(w);
    int sum = 0;
    for (int i = 0; i < MICA_FLUX2_AXES; i++)
        sum += c->axes[i];
    if (mica_config_has_suffix(w, "guidance_embedder.linear_1.weight"))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: this is FLUX.2-dev (it has a guidance embedder), which is not "
                         "supported; FLUX.2-klein is",
                         path);
    if (c->head_dim % 2 || c->width != c->heads * c->head_dim || c->in_channels % 4 ||
        c->text_width % 3)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: width %lld, head size %lld, text width %lld and %lld input channels "
                         "do not make a FLUX.2 transformer",
                         path, (long long)c->width, (long long)c->head_dim,
                         (long long)c->text_width, (long long)c->in_channels);
    if (sum != c->head_dim)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: axes_dims_rope %d + %d + %d + %d does not add up to the head size "
                         "%lld; put the model's config.json beside the weights",
                         path, c->axes[0], c->axes[1], c->axes[2], c->axes[3],
                         (long long)c->head_dim);
    return MICA_OK;
}

mica_status mica_flux2_config_read(mica_flux2_config *c, const char *json_path,
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
