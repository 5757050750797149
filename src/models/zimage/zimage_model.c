/* zimage_model.c - the parts of a Z-Image model, for models/common/picture_model.h. No weight data is
 * read here. */
#include "models/zimage/zimage.h"

#include "models/common/qwen3_text.h"

/* ------------------------------------------------------------------- opening -- */

static mica_status open_transformer(mica_picture_model *base, const mica_model_parts *parts,
                                    mica_err *err)
{
    mica_zimage *m = (mica_zimage *)base;
    MICA_TRY(
        mica_weights_open(&m->base.transformer_files, parts->path[MICA_PART_TRANSFORMER], err));
    if (!mica_zimage_is_transformer(m->base.transformer_files))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: its tensors are not a Z-Image transformer's",
                         parts->path[MICA_PART_TRANSFORMER]);
    MICA_TRY(mica_zimage_rename(m->base.transformer_files, err));
    MICA_TRY(mica_zimage_config_read(&m->transformer.config, parts->config[MICA_PART_TRANSFORMER],
                                     m->base.transformer_files, err));
    return mica_zimage_weights_bind(&m->transformer, m->base.transformer_files, &m->base.arena,
                                    err);
}

void mica_zimage_choose_state(mica_lm_config *c)
{
    c->state_count = 1;
    c->states[0] = (int)c->layers - 1;
}

/* The width is the transformer's, any when that could not be read. */
static mica_status open_text_encoder(mica_picture_model *base, const mica_model_parts *parts,
                                     mica_err *err)
{
    mica_zimage *m = (mica_zimage *)base;
    mica_lm_config *c = &m->base.text_encoder.config;
    MICA_TRY(mica_qwen3_open(&m->base.text_files, c, parts->path[MICA_PART_TEXT_ENCODER],
                             parts->config[MICA_PART_TEXT_ENCODER], "Z-Image",
                             m->transformer.config.text_width, err));
    mica_zimage_choose_state(c);
    return mica_lm_bind(&m->base.text_encoder, m->base.text_files, "text encoder", &m->base.arena,
                        err);
}

static mica_status open_vae(mica_picture_model *base, const mica_model_parts *parts, mica_err *err)
{
    mica_zimage *m = (mica_zimage *)base;
    const char *path = parts->path[MICA_PART_VAE];
    MICA_TRY(mica_weights_open(&m->base.vae_files, path, err));
    if (!mica_kl_vae_probe(m->base.vae_files))
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: its tensors are not an AutoencoderKL's; Z-Image needs FLUX.1's VAE "
                         "(16 latent channels)",
                         path);
    return mica_kl_vae_read(&m->vae_config, m->base.vae_files, parts->config[MICA_PART_VAE], err);
}

/* scheduler/scheduler_config.json of Z-Image-Turbo. */
void mica_zimage_schedule_default(mica_schedule_config *c)
{
    mica_schedule_config_init(c);
    c->shift = 3.0;
}

/* Turbo and Base have the same transformer; nothing but the schedule tells them apart. Single files
 * come without one: then it is Turbo unless the user says otherwise. */
static mica_status open_scheduler(mica_picture_model *base, const mica_model_parts *parts,
                                  mica_err *err)
{
    mica_zimage *m = (mica_zimage *)base;
    const char *path = parts->path[MICA_PART_SCHEDULER];
    mica_schedule_config turbo;
    mica_zimage_schedule_default(&turbo);
    m->base.schedule = turbo;
    m->distilled = true;
    if (!path)
        return MICA_OK;
    mica_schedule_config_init(&m->base.schedule);
    MICA_TRY(mica_schedule_config_read(&m->base.schedule, path, err));
    m->distilled = !m->base.schedule.use_dynamic_shifting && m->base.schedule.shift == turbo.shift;
    return MICA_OK;
}

static mica_status check(const mica_picture_model *base, mica_err *err)
{
    const mica_zimage *m = (const mica_zimage *)base;
    const mica_zimage_config *t = &m->transformer.config;
    if (t->text_width != m->base.text_encoder.config.width)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "the transformer takes text features of width %lld, the text encoder "
                         "gives %lld; they belong to different models",
                         (long long)t->text_width, (long long)m->base.text_encoder.config.width);
    if (t->channels != m->vae_config.z_dim)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "the transformer has latents of %lld channels, the VAE of %d; Z-Image "
                         "needs FLUX.1's VAE (16 latent channels)",
                         (long long)t->channels, m->vae_config.z_dim);
    if (m->vae_config.picture_channels != 3)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "the VAE makes pictures of %d channels, expected 3",
                         m->vae_config.picture_channels);
    return MICA_OK;
}

/* Text encoders and VAEs of other models too, so that opening can say what is wrong with them. */
static mica_model_part classify(const mica_weights *w)
{
    if (mica_zimage_is_transformer(w))
        return MICA_PART_TRANSFORMER;
    if (mica_qwen3_probe(w))
        return MICA_PART_TEXT_ENCODER;
    return mica_kl_vae_probe(w) ? MICA_PART_VAE : MICA_PART_NONE;
}

/* ------------------------------------------------------------------ sessions -- */

static void drop_transformer(mica_zimage_weights *w, mica_backend *be)
{
    mica_weight *list[MICA_ZIMAGE_BLOCK_WEIGHTS];
    mica_backend_drop_weights(be, list, mica_zimage_list_rest(w, list));
    if (!w->noise || !w->context || !w->layers)
        return;
    for (int n = 0; n < mica_zimage_step_blocks(w); n++) {
        mica_zimage_block *b = mica_zimage_step_block(w, n);
        mica_backend_drop_weights(be, list, mica_zimage_list_block(b, list));
        mica_backend_drop_weights(be, list, mica_zimage_list_modulation(b, list));
    }
    for (int n = 0; n < (int)w->config.refiners; n++)
        mica_backend_drop_weights(be, list, mica_zimage_list_block(&w->context[n], list));
}

static void unbind(mica_picture_session *base)
{
    mica_zimage_session *s = (mica_zimage_session *)base;
    drop_transformer(&s->transformer, base->be);
    if (s->vae)
        mica_kl_vae_drop(s->vae, base->be);
    mica_kl_vae_close(&s->vae);
}

static mica_status bind(mica_picture_session *base, mica_err *err)
{
    mica_zimage_session *s = (mica_zimage_session *)base;
    const mica_zimage *m = (const mica_zimage *)base->model;
    MICA_TRY(mica_zimage_weights_copy(&s->transformer, &m->transformer, &base->arena, err));
    return mica_kl_vae_open(&s->vae, &m->vae_config, m->base.vae_files, err);
}

const mica_picture_family mica_zimage_family = {
    .kind = &mica_zimage_kind,
    .model_size = sizeof(mica_zimage),
    .session_size = sizeof(mica_zimage_session),
    .text_encoder = "text encoder Qwen3-4B",
    .vae = "VAE, that of FLUX.1",
    .open = {open_transformer, open_text_encoder, open_vae, open_scheduler},
    .check = check,
    .bind = bind,
    .unbind = unbind,
};

static mica_status open_model(mica_model **out, const mica_model_parts *parts, mica_err *err)
{
    return mica_picture_model_open(out, &mica_zimage_family, parts, err);
}

static mica_status tokens(const mica_model *model, const char *text, int32_t **ids, size_t *count,
                          mica_err *err)
{
    return mica_qwen3_text_tokens(model, text, true, MICA_ZIMAGE_MAX_TOKENS, ids, count, err);
}

static uint64_t scratch_bytes(const mica_model *model, int width, int height)
{
    return mica_zimage_scratch((const mica_zimage *)model, width, height, 2);
}

static void *lora_weights(mica_model *model)
{
    return &((mica_zimage *)model)->transformer;
}

const mica_model_kind mica_zimage_kind = {
    .id = "z-image",
    .title = "Z-Image",
    .classify = classify,
    .open = open_model,
    .open_synthetic = mica_zimage_open_synthetic,
    .close = mica_picture_model_close,
    .session_open = mica_picture_session_open,
    .session_close = mica_picture_session_close,
    .generate = mica_zimage_generate,
    .tokens = tokens,
    .scratch_bytes = scratch_bytes,
    .lora = &mica_zimage_lora,
    .lora_weights = lora_weights,
};
