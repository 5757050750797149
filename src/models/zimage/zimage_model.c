/* zimage_model.c - opens the parts of a Z-Image model and binds sessions to them.
 *
 * All parts are opened even when one fails, so that one error text tells everything that is
 * wrong with a download. No weight data is read here. */
#include "models/zimage/zimage.h"

#include "base/mem.h"

#include <string.h>

/* ------------------------------------------------------------------- opening -- */

typedef mica_status (*open_part_fn)(mica_zimage *m, const mica_model_parts *parts, mica_err *err);

static mica_status open_transformer(mica_zimage *m, const mica_model_parts *parts, mica_err *err)
{
    MICA_TRY(mica_weights_open(&m->transformer_files, parts->path[MICA_PART_TRANSFORMER], err));
    if (!mica_zimage_is_transformer(m->transformer_files))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: its tensors are not a Z-Image transformer's",
                         parts->path[MICA_PART_TRANSFORMER]);
    MICA_TRY(mica_zimage_rename(m->transformer_files, err));
    MICA_TRY(mica_zimage_config_read(&m->transformer.config, parts->config[MICA_PART_TRANSFORMER],
                                     m->transformer_files, err));
    mica_weights_hash(m->transformer_files, m->base.hash);
    return mica_zimage_weights_bind(&m->transformer, m->transformer_files, &m->arena, err);
}

void mica_zimage_choose_state(mica_lm_config *c)
{
    c->state_count = 1;
    c->states[0] = (int)c->layers - 1;
}

/* The width is the transformer's, any when that could not be read. */
static mica_status open_text_encoder(mica_zimage *m, const mica_model_parts *parts, mica_err *err)
{
    mica_lm_config *c = &m->text_encoder.config;
    MICA_TRY(mica_qwen3_open(&m->text_files, c, parts->path[MICA_PART_TEXT_ENCODER],
                             parts->config[MICA_PART_TEXT_ENCODER], "Z-Image",
                             m->transformer.config.text_width, err));
    mica_zimage_choose_state(c);
    return mica_lm_bind(&m->text_encoder, m->text_files, "text encoder", &m->arena, err);
}

/* The tables of the VAE belong to its own module; opening it once checks every tensor. */
static mica_status open_vae(mica_zimage *m, const mica_model_parts *parts, mica_err *err)
{
    const char *json = parts->config[MICA_PART_VAE], *path = parts->path[MICA_PART_VAE];
    mica_kl_vae *vae = NULL;
    MICA_TRY(mica_weights_open(&m->vae_files, path, err));
    const int z_dim = mica_kl_vae_probe(m->vae_files);
    if (z_dim == 0)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: its tensors are not an AutoencoderKL's; Z-Image needs FLUX.1's VAE "
                         "(16 latent channels)",
                         path);
    m->vae_config = mica_kl_vae_config_default(z_dim);
    MICA_TRY(mica_kl_vae_rename(m->vae_files, err));
    MICA_TRY(json ? mica_kl_vae_config_read(&m->vae_config, json, err)
                  : mica_kl_vae_config_derive(&m->vae_config, m->vae_files, err));
    MICA_TRY(mica_kl_vae_open(&vae, &m->vae_config, m->vae_files, err));
    mica_kl_vae_close(&vae);
    return MICA_OK;
}

static mica_status open_tokenizer(mica_zimage *m, const mica_model_parts *parts, mica_err *err)
{
    return mica_tokenizer_open(&m->tokenizer, parts->path[MICA_PART_TOKENIZER], err);
}

/* scheduler/scheduler_config.json of Z-Image-Turbo. */
void mica_zimage_schedule_default(mica_schedule_config *c)
{
    mica_schedule_config_init(c);
    c->shift = 3.0;
}

/* Turbo and Base have the same transformer; nothing but the schedule tells them apart. Single files
 * come without one: then it is Turbo unless the user says otherwise. */
static mica_status open_scheduler(mica_zimage *m, const mica_model_parts *parts, mica_err *err)
{
    const char *path = parts->path[MICA_PART_SCHEDULER];
    mica_schedule_config turbo;
    mica_zimage_schedule_default(&turbo);
    m->schedule = turbo;
    m->distilled = true;
    if (!path)
        return MICA_OK;
    mica_schedule_config_init(&m->schedule);
    MICA_TRY(mica_schedule_config_read(&m->schedule, path, err));
    m->distilled = !m->schedule.use_dynamic_shifting && m->schedule.shift == turbo.shift;
    return MICA_OK;
}

static mica_status check_present(const mica_model_parts *parts, mica_err *err)
{
    static const struct {
        mica_model_part part;
        const char *text;
    } NEEDED[] = {
        {MICA_PART_TRANSFORMER, "transformer (--transformer FILE)"},
        {MICA_PART_TEXT_ENCODER, "text encoder Qwen3-4B (--text-encoder FILE)"},
        {MICA_PART_VAE, "VAE, that of FLUX.1 (--vae FILE)"},
        {MICA_PART_TOKENIZER, "tokenizer (--tokenizer FOLDER with tokenizer.json, or vocab.json "
                              "and merges.txt)"},
    };
    mica_text missing = {0};
    for (size_t i = 0; i < MICA_ARRAY_LEN(NEEDED); i++)
        if (!parts->path[NEEDED[i].part])
            mica_text_add(&missing, "%s%s", missing.size ? ", " : "", NEEDED[i].text);
    const mica_status st =
        missing.failed ? MICA_FAIL(err, MICA_E_NOMEM, "no memory to open the model")
        : missing.size ? MICA_FAIL(err, MICA_E_MISSING, "Z-Image is missing its %s", missing.data)
                       : MICA_OK;
    mica_text_deinit(&missing);
    return st;
}

mica_status mica_zimage_check_parts(const mica_zimage *m, mica_err *err)
{
    const mica_zimage_config *t = &m->transformer.config;
    if (t->text_width != m->text_encoder.config.width)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "the transformer takes text features of width %lld, the text encoder "
                         "gives %lld; they belong to different models",
                         (long long)t->text_width, (long long)m->text_encoder.config.width);
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

static mica_status open_parts(mica_zimage *m, const mica_model_parts *parts, mica_err *err)
{
    static const open_part_fn PARTS[] = {open_transformer, open_text_encoder, open_vae,
                                         open_tokenizer, open_scheduler};
    mica_err all = {0};
    MICA_TRY(check_present(parts, err));
    for (size_t i = 0; i < MICA_ARRAY_LEN(PARTS); i++) {
        mica_err one = {0};
        if (PARTS[i](m, parts, &one))
            mica_err_join(&all, &one);
    }
    if (all.status)
        return MICA_FAIL(err, all.status, "%s", all.text);
    return mica_zimage_check_parts(m, err);
}

static void close_model(mica_model **model)
{
    mica_zimage *m = model ? (mica_zimage *)*model : NULL;
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
    mica_zimage *m = mica_mem_calloc(1, sizeof *m);
    *out = m ? &m->base : NULL;
    if (!m)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to open the model");
    m->base.kind = &mica_zimage_kind;
    mica_arena_init(&m->arena, 1 << 18);
    const mica_status st = open_parts(m, parts, err);
    if (st)
        close_model(out);
    return st;
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

static void drop_vae(mica_kl_vae *vae, mica_backend *be)
{
    for (int half = MICA_KL_VAE_DECODER; half <= MICA_KL_VAE_ENCODER; half++) {
        int count;
        mica_weight *const *list = mica_kl_vae_weights(vae, (mica_kl_vae_half)half, &count);
        mica_backend_drop_weights(be, list, count);
    }
}

static void close_session(mica_model_session **session)
{
    mica_zimage_session *s = session ? (mica_zimage_session *)*session : NULL;
    if (!s)
        return;
    drop_transformer(&s->transformer, s->be);
    if (s->text_encoder.layers)
        mica_lm_drop(&s->text_encoder, s->be);
    if (s->vae)
        drop_vae(s->vae, s->be);
    mica_kl_vae_close(&s->vae);
    mica_arena_deinit(&s->arena);
    mica_mem_free(s);
    *session = NULL;
}

static mica_status open_session(mica_model_session **out, const mica_model *model, mica_backend *be,
                                const mica_diffusion_switches *switches, mica_err *err)
{
    const mica_zimage *m = (const mica_zimage *)model;
    mica_zimage_session *s = mica_mem_calloc(1, sizeof *s);
    *out = s ? &s->base : NULL;
    if (!s)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a session");
    *s = (mica_zimage_session){
        .base = {&mica_zimage_kind}, .model = m, .be = be, .switches = *switches};
    mica_arena_init(&s->arena, 1 << 16);
    mica_status st = mica_zimage_weights_copy(&s->transformer, &m->transformer, &s->arena, err);
    if (!st)
        st = mica_lm_copy(&s->text_encoder, &m->text_encoder, &s->arena, err);
    if (!st)
        st = mica_kl_vae_open(&s->vae, &m->vae_config, m->vae_files, err);
    if (st)
        close_session(out);
    return st;
}

static mica_status tokens(const mica_model *model, const char *text, int32_t **ids, size_t *count,
                          mica_err *err)
{
    mica_qwen3_prompt p;
    const mica_tokenizer *t = ((const mica_zimage *)model)->tokenizer;
    if (!t)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "a synthetic model has no tokenizer");
    MICA_TRY(mica_qwen3_tokenize(t, text, true, MICA_ZIMAGE_MAX_TOKENS, &p, err));
    *ids = p.ids;
    *count = (size_t)p.count;
    return MICA_OK;
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
    .close = close_model,
    .session_open = open_session,
    .session_close = close_session,
    .generate = mica_zimage_generate,
    .tokens = tokens,
    .scratch_bytes = scratch_bytes,
    .lora = &mica_zimage_lora,
    .lora_weights = lora_weights,
};
