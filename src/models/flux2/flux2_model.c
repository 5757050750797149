/* flux2_model.c - the parts of a FLUX.2-klein model, for models/common/picture_model.h. No weight data
 * is read here but the 256 numbers of the latent batch norm.
 *
 * Distilled and base checkpoints have the same tensors; which it is stands in model_index.json
 * (`is_distilled`, and the class of the pipeline for the one with cached references). */
#include "models/flux2/flux2.h"

#include "models/common/qwen3_text.h"

#include <math.h>
#include <string.h>

#define FAMILY "FLUX.2-klein"

/* ------------------------------------------------------------------- opening -- */

static mica_status open_transformer(mica_picture_model *base, const mica_model_parts *parts,
                                    mica_err *err)
{
    mica_flux2 *m = (mica_flux2 *)base;
    const char *path = parts->path[MICA_PART_TRANSFORMER];
    mica_flux2_weights *w = &m->transformer;
    MICA_TRY(mica_weights_open(&m->base.transformer_files, path, err));
    if (!mica_flux2_is_transformer(m->base.transformer_files))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: its tensors are not a FLUX.2 transformer's",
                         path);
    MICA_TRY(mica_flux2_rename(m->base.transformer_files, err));
    MICA_TRY(mica_flux2_config_read(&w->config, parts->config[MICA_PART_TRANSFORMER],
                                    m->base.transformer_files, err));
    return mica_flux2_weights_bind(w, m->base.transformer_files, &m->base.arena, err);
}

void mica_flux2_set_states(mica_lm_config *c)
{
    /* pipeline_flux2_klein.py, text_encoder_out_layers */
    static const int states[] = {9, 18, 27};
    memcpy(c->states, states, sizeof states);
    c->state_count = (int)MICA_ARRAY_LEN(states);
}

/* Its width is known when the transformer's is. */
static mica_status open_text_encoder(mica_picture_model *base, const mica_model_parts *parts,
                                     mica_err *err)
{
    mica_flux2 *m = (mica_flux2 *)base;
    mica_lm_config *c = &m->base.text_encoder.config;
    MICA_TRY(mica_qwen3_open(&m->base.text_files, c, parts->path[MICA_PART_TEXT_ENCODER],
                             parts->config[MICA_PART_TEXT_ENCODER], FAMILY,
                             m->transformer.config.text_width / 3, err));
    mica_flux2_set_states(c);
    return mica_lm_bind(&m->base.text_encoder, m->base.text_files, "text encoder", &m->base.arena,
                        err);
}

mica_status mica_flux2_alloc_statistics(mica_flux2 *m, mica_err *err)
{
    const size_t C = (size_t)m->vae_config.z_dim * MICA_FLUX2_PATCH * MICA_FLUX2_PATCH;
    m->latent_mean_C = mica_arena_calloc(&m->base.arena, C, sizeof(float));
    m->latent_std_C = mica_arena_calloc(&m->base.arena, C, sizeof(float));
    if (!m->latent_mean_C || !m->latent_std_C)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the latents' statistics");
    for (size_t i = 0; i < C; i++)
        m->latent_std_C[i] = 1.0f;
    return MICA_OK;
}

static mica_status read_eps(const char *json_path, double *eps, mica_err *err)
{
    mica_json j;
    *eps = 1e-4; /* AutoencoderKLFlux2.__init__ */
    if (!json_path)
        return MICA_OK;
    MICA_TRY(mica_json_open(&j, json_path, err));
    const mica_status st = mica_json_opt_double(&j, j.root, "batch_norm_eps", 0.0, 1.0, eps, err);
    mica_json_close(&j);
    return st;
}

static mica_status check_statistics(const mica_tensor *t, const char *name, int64_t C,
                                    const char *path, mica_err *err)
{
    char is[96];
    if (t && t->ndim == 1 && t->shape_[0] == C && mica_dtype_get(t->dtype)->is_float)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_FORMAT,
                     "vae %s: %s: %s, expected [%lld] of a float type: the statistics of the "
                     "latents, without which no picture can be made",
                     path, name, t ? mica_tensor_describe(t, is, sizeof is) : "missing",
                     (long long)C);
}

/* The latent batch norm: z = (x - mean) / sqrt(var + eps) over packed channels. */
static mica_status read_statistics(mica_flux2 *m, const char *json_path, mica_err *err)
{
    const int64_t C = (int64_t)m->vae_config.z_dim * MICA_FLUX2_PATCH * MICA_FLUX2_PATCH;
    const mica_tensor *mean = mica_weights_find(m->base.vae_files, "bn.running_mean");
    const mica_tensor *var = mica_weights_find(m->base.vae_files, "bn.running_var");
    const char *path = mica_weights_path(m->base.vae_files);
    double eps;
    MICA_TRY(read_eps(json_path, &eps, err));
    MICA_TRY(check_statistics(mean, "bn.running_mean", C, path, err));
    MICA_TRY(check_statistics(var, "bn.running_var", C, path, err));
    MICA_TRY(mica_flux2_alloc_statistics(m, err));
    for (int64_t i = 0; i < C; i++) {
        m->latent_mean_C[i] = mica_tensor_read_f32(mean, i);
        m->latent_std_C[i] = sqrtf(mica_tensor_read_f32(var, i) + (float)eps);
        if (!isfinite(m->latent_mean_C[i]) || !(m->latent_std_C[i] > 0.0f) ||
            !isfinite(m->latent_std_C[i]))
            return MICA_FAIL(err, MICA_E_NUMERIC,
                             "vae %s: the latents' statistics of channel %lld are not usable", path,
                             (long long)i);
    }
    return MICA_OK;
}

static mica_status open_vae(mica_picture_model *base, const mica_model_parts *parts, mica_err *err)
{
    mica_flux2 *m = (mica_flux2 *)base;
    const char *json = parts->config[MICA_PART_VAE], *path = parts->path[MICA_PART_VAE];
    MICA_TRY(mica_weights_open(&m->base.vae_files, path, err));
    const int z = mica_kl_vae_probe(m->base.vae_files);
    if (!z)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: its tensors are not a FLUX.2 VAE's", path);
    if (z == 16)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: this is the VAE of FLUX.1 (16 latent channels); %s needs that of "
                         "FLUX.2 (32)",
                         path, FAMILY);
    MICA_TRY(mica_kl_vae_read(&m->vae_config, m->base.vae_files, json, err));
    return read_statistics(m, json, err);
}

/* scheduler/scheduler_config.json of FLUX.2-klein; the released models share it. Its shift comes
 * from the picture's size and the number of steps (mica_schedule_mu_empirical). */
void mica_flux2_schedule_default(mica_schedule_config *c)
{
    mica_schedule_config_init(c);
    c->use_dynamic_shifting = true;
    c->shift = 3.0;
    c->base_shift = 0.5;
    c->max_shift = 1.15;
    c->base_image_seq_len = 256;
    c->max_image_seq_len = 4096;
}

/* Single files come without a scheduler. */
static mica_status open_scheduler(mica_picture_model *base, const mica_model_parts *parts,
                                  mica_err *err)
{
    mica_flux2 *m = (mica_flux2 *)base;
    const char *path = parts->path[MICA_PART_SCHEDULER];
    mica_flux2_schedule_default(&m->base.schedule);
    return path ? mica_schedule_config_read(&m->base.schedule, path, err) : MICA_OK;
}

static mica_status read_index(const mica_json *j, mica_flux2_variant *v, mica_err *err)
{
    const char *name = "Flux2KleinPipeline";
    if (mica_json_find(j->root, "_class_name"))
        MICA_TRY(mica_json_get_string(j, j->root, "_class_name", &name, err));
    v->known = true;
    v->kv = strcmp(name, "Flux2KleinKVPipeline") == 0;
    v->distilled = v->kv;
    if (!v->kv && strncmp(name, "Flux2Klein", 10) != 0)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: its pipeline is %s, expected %s's", j->name,
                         name, FAMILY);
    return mica_json_opt_bool(j, j->root, "is_distilled", &v->distilled, err);
}

static mica_status open_index(mica_picture_model *base, const mica_model_parts *parts,
                              mica_err *err)
{
    mica_flux2 *m = (mica_flux2 *)base;
    const char *path = parts->path[MICA_PART_INDEX];
    mica_json j;
    m->variant = (mica_flux2_variant){.distilled = true};
    if (!path)
        return MICA_OK;
    MICA_TRY(mica_json_open(&j, path, err));
    const mica_status st = read_index(&j, &m->variant, err);
    mica_json_close(&j);
    return st;
}

static mica_status check(const mica_picture_model *base, mica_err *err)
{
    const mica_flux2 *m = (const mica_flux2 *)base;
    const mica_flux2_config *t = &m->transformer.config;
    const int64_t text = mica_lm_result_width(&m->base.text_encoder.config);
    if (t->text_width != text)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "the transformer takes text features of width %lld, the text encoder "
                         "gives %lld; they belong to different models",
                         (long long)t->text_width, (long long)text);
    if (t->in_channels != (int64_t)m->vae_config.z_dim * MICA_FLUX2_PATCH * MICA_FLUX2_PATCH)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "the transformer's %lld channels are not four times the VAE's %d; they "
                         "belong to different models",
                         (long long)t->in_channels, m->vae_config.z_dim);
    if (m->vae_config.picture_channels != 3)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "the VAE makes pictures of %d channels, expected 3",
                         m->vae_config.picture_channels);
    return MICA_OK;
}

/* Other families have a Qwen3 too; a file alone is then the first one's that asks. */
static mica_model_part classify(const mica_weights *w)
{
    if (mica_flux2_is_transformer(w))
        return MICA_PART_TRANSFORMER;
    if (mica_kl_vae_probe(w) == 32)
        return MICA_PART_VAE;
    return mica_qwen3_probe(w) ? MICA_PART_TEXT_ENCODER : MICA_PART_NONE;
}

/* ------------------------------------------------------------------ sessions -- */

static void drop_transformer(mica_flux2_weights *w, mica_backend *be)
{
    mica_weight *list[MICA_FLUX2_BLOCK_WEIGHTS];
    mica_backend_drop_weights(be, list, mica_flux2_list_rest(w, list));
    for (int n = 0; w->doubles && w->singles && n < mica_flux2_block_count(&w->config); n++)
        mica_backend_drop_weights(be, list, mica_flux2_list_block(w, n, list));
}

static void unbind(mica_picture_session *base)
{
    mica_flux2_session *s = (mica_flux2_session *)base;
    drop_transformer(&s->transformer, base->be);
    if (s->vae)
        mica_kl_vae_drop(s->vae, base->be);
    mica_kl_vae_close(&s->vae);
}

static mica_status bind(mica_picture_session *base, mica_err *err)
{
    mica_flux2_session *s = (mica_flux2_session *)base;
    const mica_flux2 *m = (const mica_flux2 *)base->model;
    MICA_TRY(mica_flux2_weights_copy(&s->transformer, &m->transformer, &base->arena, err));
    return mica_kl_vae_open(&s->vae, &m->vae_config, m->base.vae_files, err);
}

const mica_picture_family mica_flux2_family = {
    .kind = &mica_flux2_kind,
    .model_size = sizeof(mica_flux2),
    .session_size = sizeof(mica_flux2_session),
    .text_encoder = "text encoder Qwen3-4B or -8B",
    .vae = "VAE",
    .open = {open_transformer, open_text_encoder, open_vae, open_scheduler, open_index},
    .check = check,
    .bind = bind,
    .unbind = unbind,
};

static mica_status open_model(mica_model **out, const mica_model_parts *parts, mica_err *err)
{
    return mica_picture_model_open(out, &mica_flux2_family, parts, err);
}

static mica_status tokens(const mica_model *model, const char *text, int32_t **ids, size_t *count,
                          mica_err *err)
{
    return mica_qwen3_text_tokens(model, text, false, MICA_FLUX2_MAX_TOKENS, ids, count, err);
}

static uint64_t scratch_bytes(const mica_model *model, int width, int height)
{
    const mica_flux2 *m = (const mica_flux2 *)model;
    return mica_flux2_scratch(m, width, height, m->variant.distilled ? 1 : 2, 0);
}

static void *lora_weights(mica_model *model)
{
    return &((mica_flux2 *)model)->transformer;
}

const mica_model_kind mica_flux2_kind = {
    .id = "flux2-klein",
    .title = "FLUX.2-klein",
    .classify = classify,
    .open = open_model,
    .open_synthetic = mica_flux2_open_synthetic,
    .close = mica_picture_model_close,
    .session_open = mica_picture_session_open,
    .session_close = mica_picture_session_close,
    .generate = mica_flux2_generate,
    .tokens = tokens,
    .scratch_bytes = scratch_bytes,
    .lora = &mica_flux2_lora,
    .lora_weights = lora_weights,
};
