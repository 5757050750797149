/* qwen_image_model.c - the parts of a Qwen-Image model, for models/common/picture_model.h. No weight
 * data is read here. */
#include "models/qwen_image/qwen_image.h"

#include "nn/lm_gguf.h"

#include <string.h>

/* ------------------------------------------------------------------- opening -- */

static mica_status open_transformer(mica_picture_model *base, const mica_model_parts *parts,
                                    mica_err *err)
{
    mica_qwen_image *m = (mica_qwen_image *)base;
    MICA_TRY(
        mica_weights_open(&m->base.transformer_files, parts->path[MICA_PART_TRANSFORMER], err));
    if (!mica_qwen_image_is_transformer(m->base.transformer_files))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: its tensors are not a Qwen-Image transformer's",
                         parts->path[MICA_PART_TRANSFORMER]);
    MICA_TRY(mica_qwen_image_rename(m->base.transformer_files, err));
    MICA_TRY(mica_qwen_image_config_read(&m->transformer.config,
                                         parts->config[MICA_PART_TRANSFORMER],
                                         m->base.transformer_files, err));
    m->base.base.has_alpha = m->transformer.config.layered;
    return mica_qwen_image_weights_bind(&m->transformer, m->base.transformer_files, &m->base.arena,
                                        err);
}

static mica_status bind_vision(mica_qwen_image *m, const mica_model_parts *parts, mica_err *err)
{
    const char *path = parts->path[MICA_PART_TEXT_ENCODER];
    if (!mica_qwen_vision_is_present(m->base.text_files))
        return MICA_FAIL(err, MICA_E_MISSING,
                         "%s: this text encoder has no vision tower (tensors visual.*), which "
                         "editing pictures needs; use the whole Qwen2.5-VL-7B",
                         path);
    MICA_TRY(mica_qwen_vision_config_read(&m->vision.config, parts->config[MICA_PART_TEXT_ENCODER],
                                          m->base.text_files, err));
    if (m->vision.config.out_width != m->base.text_encoder.config.width)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: the vision tower gives rows of width %lld, the text encoder takes "
                         "%lld",
                         path, (long long)m->vision.config.out_width,
                         (long long)m->base.text_encoder.config.width);
    MICA_TRY(mica_qwen_pixels_config_read(&m->pixels, parts->path[MICA_PART_PROCESSOR], err));
    return mica_qwen_vision_bind(&m->vision, m->base.text_files, &m->base.arena, err);
}

/* Only editing needs the vision tower: what is wrong with it is told by a run that does. */
static mica_status open_vision(mica_qwen_image *m, const mica_model_parts *parts, mica_err *err)
{
    const mica_status st = bind_vision(m, parts, &m->vision_problem);
    if (st)
        m->vision.layers = NULL;
    return st == MICA_E_NOMEM ? MICA_FAIL(err, st, "%s", m->vision_problem.text) : MICA_OK;
}

static mica_status open_text_encoder(mica_picture_model *base, const mica_model_parts *parts,
                                     mica_err *err)
{
    mica_qwen_image *m = (mica_qwen_image *)base;
    MICA_TRY(mica_lm_weights_open(&m->base.text_files, parts->path[MICA_PART_TEXT_ENCODER], err));
    if (!mica_qwen_image_is_text_encoder(m->base.text_files))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: its tensors are not a Qwen2.5-VL text encoder's",
                         parts->path[MICA_PART_TEXT_ENCODER]);
    MICA_TRY(mica_qwen_image_text_rename(m->base.text_files, err));
    MICA_TRY(mica_qwen_image_text_config_read(&m->base.text_encoder.config,
                                              parts->config[MICA_PART_TEXT_ENCODER],
                                              m->base.text_files, err));
    MICA_TRY(mica_lm_bind(&m->base.text_encoder, m->base.text_files, "text encoder", &m->base.arena,
                          err));
    return open_vision(m, parts, err);
}

/* The tables of the VAE belong to its own module; opening it once checks every tensor. */
static mica_status open_vae(mica_picture_model *base, const mica_model_parts *parts, mica_err *err)
{
    mica_qwen_image *m = (mica_qwen_image *)base;
    mica_qwen_vae *vae = NULL;
    const char *json = parts->config[MICA_PART_VAE];
    MICA_TRY(mica_weights_open(&m->base.vae_files, parts->path[MICA_PART_VAE], err));
    if (!mica_qwen_vae_probe(m->base.vae_files))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: its tensors are not a Qwen-Image VAE's",
                         parts->path[MICA_PART_VAE]);
    MICA_TRY(mica_qwen_vae_rename(m->base.vae_files, err));
    m->vae_config = mica_qwen_vae_config_default();
    MICA_TRY(json ? mica_qwen_vae_config_read(&m->vae_config, json, err)
                  : mica_qwen_vae_config_derive(&m->vae_config, m->base.vae_files, err));
    MICA_TRY(mica_qwen_vae_open(&vae, &m->vae_config, m->base.vae_files, err));
    mica_qwen_vae_close(&vae);
    return MICA_OK;
}

/* scheduler/scheduler_config.json of Qwen-Image; the released models share it. */
void mica_qwen_image_schedule_default(mica_schedule_config *c)
{
    mica_schedule_config_init(c);
    c->use_dynamic_shifting = true;
    c->base_shift = 0.5;
    c->max_shift = 0.9;
    c->base_image_seq_len = 256;
    c->max_image_seq_len = 8192;
    c->shift_terminal = 0.02;
}

/* Single files come without a scheduler. */
static mica_status open_scheduler(mica_picture_model *base, const mica_model_parts *parts,
                                  mica_err *err)
{
    mica_qwen_image *m = (mica_qwen_image *)base;
    const char *path = parts->path[MICA_PART_SCHEDULER];
    mica_schedule_config_init(&m->base.schedule);
    if (path)
        return mica_schedule_config_read(&m->base.schedule, path, err);
    mica_qwen_image_schedule_default(&m->base.schedule);
    return MICA_OK;
}

/* model_index.json names the pipeline; single files tell Edit-2511 at most. */
static mica_status open_index(mica_picture_model *base, const mica_model_parts *parts,
                              mica_err *err)
{
    mica_qwen_image *m = (mica_qwen_image *)base;
    static const struct {
        const char *pipeline;
        mica_edit editing;
    } KNOWN[] = {{"QwenImageEditPipeline", MICA_EDIT_SINGLE},
                 {"QwenImageEditInpaintPipeline", MICA_EDIT_SINGLE},
                 {"QwenImageEditPlusPipeline", MICA_EDIT_PLUS}};
    const char *path = parts->path[MICA_PART_INDEX], *name = "";
    mica_json j = {0};
    m->editing = m->transformer.config.zero_cond_t ? MICA_EDIT_PLUS : MICA_EDIT_AUTO;
    if (!path)
        return MICA_OK;
    MICA_TRY(mica_json_open(&j, path, err));
    mica_status st = MICA_OK;
    if (mica_json_find(j.root, "_class_name"))
        st = mica_json_get_string(&j, j.root, "_class_name", &name, err);
    if (!st && name[0])
        m->editing = MICA_EDIT_OFF;
    for (size_t i = 0; !st && i < MICA_ARRAY_LEN(KNOWN); i++)
        if (strcmp(name, KNOWN[i].pipeline) == 0)
            m->editing = KNOWN[i].editing;
    mica_json_close(&j);
    return st;
}

static mica_status check(const mica_picture_model *base, mica_err *err)
{
    const mica_qwen_image *m = (const mica_qwen_image *)base;
    const mica_qwen_image_config *t = &m->transformer.config;
    if (t->text_width != m->base.text_encoder.config.width)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "the transformer takes text features of width %lld, the text encoder "
                         "gives %lld; they belong to different models",
                         (long long)t->text_width, (long long)m->base.text_encoder.config.width);
    if (t->in_channels != 4 * m->vae_config.z_dim)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "the transformer's %lld channels are not four times the VAE's %d; they "
                         "belong to different models",
                         (long long)t->in_channels, m->vae_config.z_dim);
    if (m->vae_config.picture_channels != (t->layered ? 4 : 3))
        return MICA_FAIL(
            err, MICA_E_UNSUPPORTED, "the VAE makes pictures of %d channels, %s takes %d",
            m->vae_config.picture_channels, t->layered ? "Qwen-Image-Layered" : "this transformer",
            t->layered ? 4 : 3);
    return MICA_OK;
}

static mica_model_part classify(const mica_weights *w)
{
    if (mica_qwen_image_is_transformer(w))
        return MICA_PART_TRANSFORMER;
    if (mica_qwen_image_is_text_encoder(w))
        return MICA_PART_TEXT_ENCODER;
    return mica_qwen_vae_probe(w) ? MICA_PART_VAE : MICA_PART_NONE;
}

/* ------------------------------------------------------------------ sessions -- */

static void drop_transformer(mica_qwen_image_weights *w, mica_backend *be)
{
    mica_weight *list[MICA_QWEN_IMAGE_BLOCK_WEIGHTS];
    mica_backend_drop_weights(be, list, mica_qwen_image_list_rest(w, list));
    for (int64_t n = 0; w->blocks && n < w->config.layers; n++) {
        mica_backend_drop_weights(be, list, mica_qwen_image_list_block(&w->blocks[n], list));
        mica_backend_drop_weights(be, list, mica_qwen_image_list_modulation(&w->blocks[n], list));
    }
}

static void unbind(mica_picture_session *base)
{
    mica_qwen_image_session *s = (mica_qwen_image_session *)base;
    drop_transformer(&s->transformer, base->be);
    if (s->vision.layers)
        mica_qwen_vision_drop(&s->vision, base->be);
    if (s->vae)
        mica_qwen_vae_drop(s->vae, base->be);
    mica_qwen_vae_close(&s->vae);
}

static mica_status bind(mica_picture_session *base, mica_err *err)
{
    mica_qwen_image_session *s = (mica_qwen_image_session *)base;
    const mica_qwen_image *m = (const mica_qwen_image *)base->model;
    MICA_TRY(mica_qwen_image_weights_copy(&s->transformer, &m->transformer, &base->arena, err));
    if (m->vision.layers)
        MICA_TRY(mica_qwen_vision_copy(&s->vision, &m->vision, &base->arena, err));
    return mica_qwen_vae_open(&s->vae, &m->vae_config, m->base.vae_files, err);
}

const mica_picture_family mica_qwen_image_family = {
    .kind = &mica_qwen_image_kind,
    .model_size = sizeof(mica_qwen_image),
    .session_size = sizeof(mica_qwen_image_session),
    .text_encoder = "text encoder Qwen2.5-VL-7B",
    .vae = "VAE",
    .open = {open_transformer, open_text_encoder, open_vae, open_scheduler, open_index},
    .check = check,
    .bind = bind,
    .unbind = unbind,
};

static mica_status open_model(mica_model **out, const mica_model_parts *parts, mica_err *err)
{
    return mica_picture_model_open(out, &mica_qwen_image_family, parts, err);
}

static mica_status tokens(const mica_model *model, const char *text, int32_t **ids, size_t *count,
                          mica_err *err)
{
    mica_qwen_image_prompt p;
    const mica_tokenizer *t = ((const mica_picture_model *)model)->tokenizer;
    if (!t)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "a synthetic model has no tokenizer");
    MICA_TRY(mica_qwen_image_tokenize(t, text, &p, err));
    *ids = p.ids;
    *count = p.count;
    return MICA_OK;
}

static uint64_t scratch_bytes(const mica_model *model, int width, int height)
{
    return mica_qwen_image_scratch((const mica_qwen_image *)model, width, height, 0, 2);
}

static void *lora_weights(mica_model *model)
{
    return &((mica_qwen_image *)model)->transformer;
}

const mica_model_kind mica_qwen_image_kind = {
    .id = "qwen-image",
    .title = "Qwen-Image",
    .classify = classify,
    .open = open_model,
    .open_synthetic = mica_qwen_image_open_synthetic,
    .close = mica_picture_model_close,
    .session_open = mica_picture_session_open,
    .session_close = mica_picture_session_close,
    .generate = mica_qwen_image_generate,
    .tokens = tokens,
    .scratch_bytes = scratch_bytes,
    .lora = &mica_qwen_image_lora,
    .lora_weights = lora_weights,
};
