/* qwen_image_model.c - opens the parts of a Qwen-Image model and binds sessions to them.
 *
 * All parts are opened even when one fails, so that one error text tells everything that is
 * wrong with a download. No weight data is read here. */
#include "models/qwen_image/qwen_image.h"

#include "base/mem.h"

#include <string.h>

/* ------------------------------------------------------------------- opening -- */

typedef mica_status (*open_part_fn)(mica_qwen_image *m, const mica_model_parts *parts,
                                    mica_err *err);

static mica_status open_transformer(mica_qwen_image *m, const mica_model_parts *parts,
                                    mica_err *err)
{
    MICA_TRY(mica_weights_open(&m->transformer_files, parts->path[MICA_PART_TRANSFORMER], err));
    if (!mica_qwen_image_is_transformer(m->transformer_files))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: its tensors are not a Qwen-Image transformer's",
                         parts->path[MICA_PART_TRANSFORMER]);
    MICA_TRY(mica_qwen_image_rename(m->transformer_files, err));
    MICA_TRY(mica_qwen_image_config_read(
        &m->transformer.config, parts->config[MICA_PART_TRANSFORMER], m->transformer_files, err));
    m->base.has_alpha = m->transformer.config.layered;
    mica_weights_hash(m->transformer_files, m->base.hash);
    return mica_qwen_image_weights_bind(&m->transformer, m->transformer_files, &m->arena, err);
}

static mica_status bind_vision(mica_qwen_image *m, const mica_model_parts *parts, mica_err *err)
{
    const char *path = parts->path[MICA_PART_TEXT_ENCODER];
    if (!mica_qwen_vision_is_present(m->text_files))
        return MICA_FAIL(err, MICA_E_MISSING,
                         "%s: this text encoder has no vision tower (tensors visual.*), which "
                         "editing pictures needs; use the whole Qwen2.5-VL-7B",
                         path);
    MICA_TRY(mica_qwen_vision_config_read(&m->vision.config, parts->config[MICA_PART_TEXT_ENCODER],
                                          m->text_files, err));
    if (m->vision.config.out_width != m->text_encoder.config.width)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: the vision tower gives rows of width %lld, the text encoder takes "
                         "%lld",
                         path, (long long)m->vision.config.out_width,
                         (long long)m->text_encoder.config.width);
    MICA_TRY(mica_qwen_pixels_config_read(&m->pixels, parts->path[MICA_PART_PROCESSOR], err));
    return mica_qwen_vision_bind(&m->vision, m->text_files, &m->arena, err);
}

/* Only editing needs the vision tower: what is wrong with it is told by a run that does. */
static mica_status open_vision(mica_qwen_image *m, const mica_model_parts *parts, mica_err *err)
{
    const mica_status st = bind_vision(m, parts, &m->vision_problem);
    if (st)
        m->vision.layers = NULL;
    return st == MICA_E_NOMEM ? MICA_FAIL(err, st, "%s", m->vision_problem.text) : MICA_OK;
}

static mica_status open_text_encoder(mica_qwen_image *m, const mica_model_parts *parts,
                                     mica_err *err)
{
    MICA_TRY(mica_weights_open(&m->text_files, parts->path[MICA_PART_TEXT_ENCODER], err));
    if (!mica_qwen_image_is_text_encoder(m->text_files))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: its tensors are not a Qwen2.5-VL text encoder's",
                         parts->path[MICA_PART_TEXT_ENCODER]);
    MICA_TRY(mica_qwen_image_text_rename(m->text_files, err));
    MICA_TRY(mica_qwen_image_text_config_read(
        &m->text_encoder.config, parts->config[MICA_PART_TEXT_ENCODER], m->text_files, err));
    MICA_TRY(mica_lm_bind(&m->text_encoder, m->text_files, "text encoder", &m->arena, err));
    return open_vision(m, parts, err);
}

/* The tables of the VAE belong to its own module; opening it once checks every tensor. */
static mica_status open_vae(mica_qwen_image *m, const mica_model_parts *parts, mica_err *err)
{
    mica_qwen_vae *vae = NULL;
    const char *json = parts->config[MICA_PART_VAE];
    MICA_TRY(mica_weights_open(&m->vae_files, parts->path[MICA_PART_VAE], err));
    if (!mica_qwen_vae_probe(m->vae_files))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: its tensors are not a Qwen-Image VAE's",
                         parts->path[MICA_PART_VAE]);
    MICA_TRY(mica_qwen_vae_rename(m->vae_files, err));
    m->vae_config = mica_qwen_vae_config_default();
    MICA_TRY(json ? mica_qwen_vae_config_read(&m->vae_config, json, err)
                  : mica_qwen_vae_config_derive(&m->vae_config, m->vae_files, err));
    MICA_TRY(mica_qwen_vae_open(&vae, &m->vae_config, m->vae_files, err));
    mica_qwen_vae_close(&vae);
    return MICA_OK;
}

static mica_status open_tokenizer(mica_qwen_image *m, const mica_model_parts *parts, mica_err *err)
{
    return mica_tokenizer_open(&m->tokenizer, parts->path[MICA_PART_TOKENIZER], err);
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
static mica_status open_scheduler(mica_qwen_image *m, const mica_model_parts *parts, mica_err *err)
{
    const char *path = parts->path[MICA_PART_SCHEDULER];
    mica_schedule_config_init(&m->schedule);
    if (path)
        return mica_schedule_config_read(&m->schedule, path, err);
    mica_qwen_image_schedule_default(&m->schedule);
    return MICA_OK;
}

/* model_index.json names the pipeline; single files tell Edit-2511 at most. */
static mica_status open_index(mica_qwen_image *m, const mica_model_parts *parts, mica_err *err)
{
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

static mica_status check_present(const mica_model_parts *parts, mica_err *err)
{
    static const struct {
        mica_model_part part;
        const char *text;
    } NEEDED[] = {
        {MICA_PART_TRANSFORMER, "transformer (--transformer FILE)"},
        {MICA_PART_TEXT_ENCODER, "text encoder Qwen2.5-VL-7B (--text-encoder FILE)"},
        {MICA_PART_VAE, "VAE (--vae FILE)"},
        {MICA_PART_TOKENIZER, "tokenizer (--tokenizer FOLDER with tokenizer.json, or vocab.json "
                              "and merges.txt)"},
    };
    mica_text missing = {0};
    for (size_t i = 0; i < MICA_ARRAY_LEN(NEEDED); i++)
        if (!parts->path[NEEDED[i].part])
            mica_text_add(&missing, "%s%s", missing.size ? ", " : "", NEEDED[i].text);
    const mica_status st =
        missing.failed ? MICA_FAIL(err, MICA_E_NOMEM, "no memory to open the model")
        : missing.size
            ? MICA_FAIL(err, MICA_E_MISSING, "Qwen-Image is missing its %s", missing.data)
            : MICA_OK;
    mica_text_deinit(&missing);
    return st;
}

mica_status mica_qwen_image_check_parts(const mica_qwen_image *m, mica_err *err)
{
    const mica_qwen_image_config *t = &m->transformer.config;
    if (t->text_width != m->text_encoder.config.width)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "the transformer takes text features of width %lld, the text encoder "
                         "gives %lld; they belong to different models",
                         (long long)t->text_width, (long long)m->text_encoder.config.width);
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

static mica_status open_parts(mica_qwen_image *m, const mica_model_parts *parts, mica_err *err)
{
    static const open_part_fn PARTS[] = {open_transformer, open_text_encoder, open_vae,
                                         open_tokenizer,   open_scheduler,    open_index};
    mica_err all = {0};
    MICA_TRY(check_present(parts, err));
    for (size_t i = 0; i < MICA_ARRAY_LEN(PARTS); i++) {
        mica_err one = {0};
        if (PARTS[i](m, parts, &one))
            mica_err_join(&all, &one);
    }
    if (all.status)
        return MICA_FAIL(err, all.status, "%s", all.text);
    return mica_qwen_image_check_parts(m, err);
}

static void close_model(mica_model **model)
{
    mica_qwen_image *m = model ? (mica_qwen_image *)*model : NULL;
    if (!m)
        return;
    mica_tokenizer_close(&m->tokenizer);
    mica_weights_close(&m->transformer_files);
    mica_weights_close(&m->text_files);
    mica_weights_close(&m->vae_files);
    mica_arena_deinit(&m->arena);
    mica_mem_free(m);
    *model = NULL;
}

static mica_status open_model(mica_model **out, const mica_model_parts *parts, mica_err *err)
{
    mica_qwen_image *m = mica_mem_calloc(1, sizeof *m);
    *out = m ? &m->base : NULL;
    if (!m)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to open the model");
    m->base.kind = &mica_qwen_image_kind;
    mica_arena_init(&m->arena, 1 << 18);
    const mica_status st = open_parts(m, parts, err);
    if (st)
        close_model(out);
    return st;
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

static void drop_vae(mica_qwen_vae *vae, mica_backend *be)
{
    for (int half = MICA_QWEN_VAE_DECODER; half <= MICA_QWEN_VAE_ENCODER; half++) {
        int count;
        mica_weight *const *list = mica_qwen_vae_weights(vae, (mica_qwen_vae_half)half, &count);
        mica_backend_drop_weights(be, list, count);
    }
}

static void close_session(mica_model_session **session)
{
    mica_qwen_image_session *s = session ? (mica_qwen_image_session *)*session : NULL;
    if (!s)
        return;
    drop_transformer(&s->transformer, s->be);
    if (s->text_encoder.layers)
        mica_lm_drop(&s->text_encoder, s->be);
    if (s->vision.layers)
        mica_qwen_vision_drop(&s->vision, s->be);
    if (s->vae)
        drop_vae(s->vae, s->be);
    mica_qwen_vae_close(&s->vae);
    mica_arena_deinit(&s->arena);
    mica_mem_free(s);
    *session = NULL;
}

static mica_status open_session(mica_model_session **out, const mica_model *model, mica_backend *be,
                                const mica_diffusion_switches *switches, mica_err *err)
{
    const mica_qwen_image *m = (const mica_qwen_image *)model;
    mica_qwen_image_session *s = mica_mem_calloc(1, sizeof *s);
    *out = s ? &s->base : NULL;
    if (!s)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a session");
    *s = (mica_qwen_image_session){
        .base = {&mica_qwen_image_kind}, .model = m, .be = be, .switches = *switches};
    mica_arena_init(&s->arena, 1 << 16);
    mica_status st = mica_qwen_image_weights_copy(&s->transformer, &m->transformer, &s->arena, err);
    if (!st)
        st = mica_lm_copy(&s->text_encoder, &m->text_encoder, &s->arena, err);
    if (!st && m->vision.layers)
        st = mica_qwen_vision_copy(&s->vision, &m->vision, &s->arena, err);
    if (!st)
        st = mica_qwen_vae_open(&s->vae, &m->vae_config, m->vae_files, err);
    if (st)
        close_session(out);
    return st;
}

static mica_status tokens(const mica_model *model, const char *text, int32_t **ids, size_t *count,
                          mica_err *err)
{
    mica_qwen_image_prompt p;
    const mica_tokenizer *t = ((const mica_qwen_image *)model)->tokenizer;
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
    .close = close_model,
    .session_open = open_session,
    .session_close = close_session,
    .generate = mica_qwen_image_generate,
    .tokens = tokens,
    .scratch_bytes = scratch_bytes,
    .lora = &mica_qwen_image_lora,
    .lora_weights = lora_weights,
};
