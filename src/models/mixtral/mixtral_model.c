/* mixtral_model.c - opens, binds and closes a Mixtral. No weight data is read here.
 *
 *     weights (shards, one file, GGUF) ─► canonical names ─► config ─► every tensor in its place
 *     tokenizer.json beside them, or the vocabulary inside the GGUF file; the chat template of either */
#include "models/mixtral/mixtral.h"

#include "completion/completion.h"
#include "models/mixtral/mixtral_tokenizer.h"
#include "text/chat_template.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- tokenizer -- */

static mica_status keep_template(mica_mixtral *m, const mica_weights *w, mica_err *err)
{
    const char *template = mica_weights_metadata(w, "tokenizer.chat_template");
    m->chat_template = template ? mica_mem_strdup(template) : NULL;
    if (template && !m->chat_template)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the chat template");
    return MICA_OK;
}

/* Of another GGUF file than the weights'. */
static mica_status open_foreign(mica_mixtral *m, const char *path, mica_err *err)
{
    mica_weights *w = NULL;
    MICA_TRY(mica_weights_open(&w, path, err));
    mica_status st = mica_mixtral_open_vocabulary(&m->tokenizer, w, err);
    if (!st)
        st = keep_template(m, w, err);
    mica_weights_close(&w);
    return st;
}

static mica_status open_tokenizer(mica_mixtral *m, const mica_model_parts *parts, mica_err *err)
{
    const char *path = parts->path[MICA_PART_TOKENIZER];
    const char *dot = path ? strrchr(path, '.') : NULL;
    if (dot && strcmp(dot, ".gguf") == 0)
        return open_foreign(m, path, err);
    if (path) {
        MICA_TRY(mica_tokenizer_open(&m->tokenizer, path, err));
        return mica_chat_template_find(path, &m->chat_template, err);
    }
    MICA_TRY(mica_mixtral_open_vocabulary(&m->tokenizer, m->files, err));
    return keep_template(m, m->files, err);
}

/* ------------------------------------------------------------------- models -- */

static mica_status open_weights(mica_mixtral *m, const mica_model_parts *parts, mica_err *err)
{
    mica_mixtral_config *c = &m->weights.config;
    const char *path = parts->path[MICA_PART_LANGUAGE];
    if (!path)
        return MICA_FAIL(err, MICA_E_MISSING, "Mixtral is missing its language model");
    MICA_TRY(mica_weights_open(&m->files, path, err));
    *c = mica_mixtral_config_default();
    MICA_TRY(mica_mixtral_rename(m->files, &c->interleaved, err));
    MICA_TRY(mica_mixtral_config_read(c, parts->config[MICA_PART_LANGUAGE], m->files, err));
    MICA_TRY(mica_mixtral_bind(&m->weights, m->files, &m->arena, err));
    mica_weights_hash(m->files, m->base.hash);
    return MICA_OK;
}

static mica_status check(const mica_mixtral *m, mica_err *err)
{
    const long long tokens = mica_tokenizer_vocab_size(m->tokenizer);
    if (tokens > m->weights.config.lm.vocab)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "the tokenizer has %lld tokens, the model %lld; they belong to different "
                         "models",
                         tokens, (long long)m->weights.config.lm.vocab);
    return MICA_OK;
}

static void close_model(mica_model **model)
{
    mica_mixtral *m = model ? (mica_mixtral *)*model : NULL;
    if (!m)
        return;
    mica_tokenizer_close(&m->tokenizer);
    mica_weights_close(&m->files);
    mica_arena_deinit(&m->arena);
    mica_mem_free(m->chat_template);
    mica_mem_free(m);
    *model = NULL;
}

static mica_status open_model(mica_model **out, const mica_model_parts *parts, mica_err *err)
{
    mica_mixtral *m = mica_mem_calloc(1, sizeof *m);
    *out = m ? &m->base : NULL;
    if (!m)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to open the model");
    m->base.kind = &mica_mixtral_kind;
    mica_arena_init(&m->arena, 1 << 18);
    mica_status st = open_weights(m, parts, err);
    if (!st)
        st = open_tokenizer(m, parts, err);
    if (!st)
        st = check(m, err);
    if (st)
        close_model(out);
    return st;
}

static mica_model_part classify(const mica_weights *w)
{
    return mica_mixtral_probe(w) ? MICA_PART_LANGUAGE : MICA_PART_NONE;
}

/* ------------------------------------------------------------------ sessions -- */

static void drop_weights(mica_mixtral_session *s)
{
    mica_backend *be = s->completion.be;
    const int64_t layers = s->weights.config.lm.layers, here = layers - s->completion.host_layers;
    mica_mixtral_drop(&s->weights, be);
    mica_mixtral_drop_experts(&s->weights, 0, here, be);
    if (s->host)
        mica_mixtral_drop_experts(&s->weights, here, layers, s->host);
}

static void close_session(mica_model_session **session)
{
    mica_mixtral_session *s = session ? (mica_mixtral_session *)*session : NULL;
    if (!s)
        return;
    mica_completion_release(&s->completion);
    drop_weights(s);
    mica_backend_close(&s->host);
    mica_arena_deinit(&s->arena);
    mica_mem_free(s);
    *session = NULL;
}

static void fill_completion(mica_mixtral_session *s, const mica_mixtral *m, mica_backend *be)
{
    const mica_mixtral_config *c = &m->weights.config;
    s->completion = (mica_completion_model){.ops = &mica_mixtral_completion,
                                            .be = be,
                                            .tokenizer = m->tokenizer,
                                            .chat_template = m->chat_template,
                                            .hash = m->base.hash,
                                            .vocab = c->lm.vocab,
                                            .context = c->context,
                                            .layers = c->lm.layers,
                                            .end_count = c->end_count,
                                            .token_bytes = mica_mixtral_token_bytes(&m->weights)};
    memcpy(s->completion.ends, c->ends, sizeof s->completion.ends);
}

/* Of a prompt of 1024 tokens in one pass, and a cache of 4,096. The sizes of pictures do not matter. */
static uint64_t scratch_bytes(const mica_model *model, int width, int height)
{
    const mica_lm_config *c = &((const mica_mixtral *)model)->weights.config.lm;
    const int64_t row = 6 * c->width + 2 * c->ffn + 2 * c->heads * c->head_dim;
    (void)width;
    (void)height;
    return 4 * (uint64_t)(1024 * row + 4096 * 2 * c->layers * c->kv_heads * c->head_dim);
}

static mica_status open_session(mica_model_session **out, const mica_model *model, mica_backend *be,
                                const mica_diffusion_switches *switches, mica_err *err)
{
    const mica_mixtral *m = (const mica_mixtral *)model;
    mica_mixtral_session *s = mica_mem_calloc(1, sizeof *s);
    (void)switches;
    *out = s ? &s->base : NULL;
    if (!s)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a session");
    s->base.kind = model->kind;
    s->model = m;
    fill_completion(s, m, be);
    mica_arena_init(&s->arena, 1 << 16);
    s->mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    mica_status st = mica_mixtral_copy(&s->weights, &m->weights, &s->arena, err);
    if (!st) /* activations are half as wide on a device */
        st =
            mica_mixtral_plan(s, scratch_bytes(model, 0, 0) / 4 * (uint64_t)mica_act_size(be), err);
    if (st)
        close_session(out);
    return st;
}

static const char *notes(const mica_model_session *session)
{
    return ((const mica_mixtral_session *)session)->note;
}

static mica_status complete(mica_model_session *session, const mica_text_options *options,
                            const mica_tap_sink *taps, mica_completion_result *result,
                            mica_err *err)
{
    return mica_completion_run(&((mica_mixtral_session *)session)->completion, options, taps,
                               result, err);
}

static mica_status tokens(const mica_model *model, const char *text, int32_t **ids, size_t *count,
                          mica_err *err)
{
    const mica_mixtral *m = (const mica_mixtral *)model;
    if (!m->tokenizer)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "a synthetic model has no tokenizer");
    return mica_completion_encode(m->tokenizer, text, ids, count, err);
}

const mica_model_kind mica_mixtral_kind = {
    .id = "mixtral",
    .title = "Mixtral",
    .classify = classify,
    .open = open_model,
    .open_synthetic = mica_mixtral_open_synthetic,
    .close = close_model,
    .session_open = open_session,
    .session_close = close_session,
    .session_notes = notes,
    .complete = complete,
    .tokens = tokens,
    .scratch_bytes = scratch_bytes,
};
