/* qwen3_text.c - see qwen3_text.h. */
#include "models/common/qwen3_text.h"

#include "diffusion/prompt_cache.h"

static const char *const NAMES[2] = {"prompt", "negative"};

static int prompt_count(const mica_diffusion *d)
{
    return d->plan.guided ? 2 : 1;
}

static mica_status tokenize(mica_diffusion *d, const mica_tokenizer *tokenizer, bool thinking,
                            int i, mica_qwen3_prompt *out, mica_err *err)
{
    const char *text = i ? d->plan.negative : d->options->prompt;
    const int64_t length = d->plan.max_tokens;
    MICA_TRY(tokenizer ? mica_qwen3_tokenize(tokenizer, text, thinking, length, out, err)
                       : mica_qwen3_prompt_synthetic(text, length, out, err));
    mica_diffusion_note_cut(d, i, out->full_count, length);
    return mica_qwen3_prompt_tap(out, d->run.taps, NAMES[i], err);
}

/* The prompts as the encoder reads them, behind each other; returns the rows of all. */
static int64_t list_rows(const mica_qwen3_prompt *prompts, int count, bool padded,
                         mica_lm_prompt out[2])
{
    int64_t rows = 0;
    for (int i = 0; i < count; i++) {
        out[i] = (mica_lm_prompt){.ids = prompts[i].ids,
                                  .count = padded ? prompts[i].length : prompts[i].count,
                                  .valid = prompts[i].count};
        rows += out[i].count;
    }
    return rows;
}

static mica_status run_encoder(mica_diffusion *d, mica_lm *lm, const mica_lm_prompt *rows,
                               int64_t L, bool padded, mica_err *err)
{
    const int64_t E = mica_lm_result_width(&lm->config);
    int64_t first = 0;
    mica_tensor all_LE = mica_act_tensor(d->be, MICA_POOL_SESSION, 2, (const int64_t[]){L, E});
    MICA_TRY(mica_lm_run(lm, d->be, &d->run, rows, prompt_count(d), &all_LE, err));
    for (int i = 0; i < prompt_count(d); i++) {
        const int64_t T = rows[i].count;
        d->text[i] = (mica_diffusion_text){mica_tensor_rows(&all_LE, first, T), T};
        first += T;
        mica_tap(d->run.taps, d->be, &d->text[i].embeds_TE, padded ? 3 : 0,
                 (const int64_t[]){1, T, E}, "%s.embeds", NAMES[i]);
        if (!mica_all_finite(d->be, &d->text[i].embeds_TE) && !mica_backend_failed(d->be))
            return MICA_FAIL(err, MICA_E_NUMERIC,
                             "text encoder: the features of the %s hold NaN or Inf; the weights "
                             "are damaged or the precision is too low",
                             i ? "negative prompt" : "prompt");
    }
    return mica_backend_check(d->be, err);
}

static mica_prompt_key key_of(const mica_diffusion *d, const mica_picture_session *s,
                              const mica_lm_prompt *rows)
{
    mica_prompt_key key = {.family = s->base.kind->id,
                           .encoder = s->model->text_files,
                           .width = mica_lm_result_width(&s->text_encoder.config),
                           .count = prompt_count(d)};
    for (int i = 0; i < key.count; i++) {
        key.prompts[i].ids = rows[i].ids;
        key.prompts[i].valid = rows[i].valid;
        key.prompts[i].count = key.prompts[i].rows = rows[i].count;
    }
    return key;
}

static mica_status encode(mica_diffusion *d, mica_picture_session *s,
                          const mica_qwen3_prompt *prompts, bool padded, mica_err *err)
{
    mica_lm_prompt rows[2] = {{0}};
    const int64_t L = list_rows(prompts, prompt_count(d), padded, rows);
    const mica_prompt_key key = key_of(d, s, rows);
    if (mica_prompt_cache_find(d, &key))
        return MICA_OK;
    MICA_TRY(run_encoder(d, &s->text_encoder, rows, L, padded, err));
    mica_prompt_cache_keep(d, &key);
    return MICA_OK;
}

mica_status mica_qwen3_text_encode(mica_diffusion *d, mica_picture_session *s,
                                   const mica_qwen3_text *text, mica_err *err)
{
    mica_qwen3_prompt prompts[2] = {{0}, {0}};
    mica_status st = MICA_OK;
    for (int i = 0; i < prompt_count(d) && !st; i++)
        st = tokenize(d, s->model->tokenizer, text->thinking, i, &prompts[i], err);
    if (!st)
        st = encode(d, s, prompts, text->padded, err);
    for (int i = 0; i < 2; i++)
        mica_qwen3_prompt_deinit(&prompts[i]);
    return st;
}

mica_status mica_qwen3_text_tokens(const mica_model *model, const char *text, bool thinking,
                                   int64_t length, int32_t **ids, size_t *count, mica_err *err)
{
    mica_qwen3_prompt p;
    const mica_tokenizer *t = ((const mica_picture_model *)model)->tokenizer;
    if (!t)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "a synthetic model has no tokenizer");
    MICA_TRY(mica_qwen3_tokenize(t, text, thinking, length, &p, err));
    *ids = p.ids;
    *count = (size_t)p.count;
    return MICA_OK;
}
