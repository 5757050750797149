/* completion.c - a run from options to answers; see completion.h. */
#include "completion/completion_internal.h"

#include "base/clock.h"
#include "base/mem.h"

#include <string.h>

void mica_completion_release(mica_completion_model *m)
{
    if (m->kept.rows)
        mica_kv_cache_deinit(&m->kept);
    mica_mem_free(m->kept_ids);
    m->kept_ids = NULL;
    m->kept_cap = 0;
}

void mica_completion_result_deinit(mica_completion_result *result)
{
    for (int i = 0; result->answers && i < result->count; i++) {
        mica_completion_answer *a = &result->answers[i];
        mica_mem_free(a->text);
        mica_mem_free(a->prompt_ids);
        mica_mem_free(a->ids);
        mica_mem_free(a->logprobs);
        mica_mem_free(a->chances);
        mica_mem_free(a->chance_texts);
    }
    mica_mem_free(result->answers);
    *result = (mica_completion_result){0};
}

/* ------------------------------------------------------------------- sampler -- */

static double or_default(double value, double otherwise)
{
    return value != 0.0 ? value : otherwise;
}

static mica_status open_sampler(const completion_run *r, completion_writer *w, mica_err *err)
{
    const mica_text_options *o = r->options;
    const mica_sampler_options s = {.greedy = o->greedy,
                                    .temperature = or_default(o->temperature, 0.7),
                                    .top_k = o->top_k,
                                    .top_p = or_default(o->top_p, 1.0),
                                    .typical_p = or_default(o->typical_p, 1.0),
                                    .min_p = o->min_p,
                                    .repetition = or_default(o->repetition_penalty, 1.0),
                                    .frequency = o->frequency_penalty,
                                    .presence = o->presence_penalty,
                                    .window = o->penalty_window ? o->penalty_window : 64,
                                    .seed = o->seed + (uint64_t)w->index,
                                    .bias = o->logit_bias,
                                    .bias_count = o->logit_bias_count};
    MICA_TRY(mica_token_sampler_init(&w->sampler, &s, r->m->vocab, err));
    if (!o->grammar && !o->json_schema)
        return MICA_OK;
    if (!r->m->tokenizer)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "a grammar needs a tokenizer");
    return mica_token_grammar_open(&w->grammar, o->grammar, o->json_schema, r->m->tokenizer,
                                   r->m->vocab, r->m->ends, r->m->end_count, err);
}

/* -------------------------------------------------------------------- writers -- */

/* The single prompt takes what the model keeps, as far as its tokens agree; at least one is read. */
static void take_kept(completion_run *r, completion_writer *w)
{
    mica_completion_model *m = r->m;
    size_t same = 0;
    const size_t most = MICA_MIN((size_t)m->kept.count, w->prompt_count - 1);
    while (same < most && m->kept_ids[same] == w->ids[same])
        same++;
    if (r->run.taps)
        same = 0;
    w->cache = m->kept;
    w->cache.count = (int64_t)same;
    w->reused = same;
    m->kept = (mica_kv_cache){0};
}

static mica_status open_writer(completion_run *r, completion_writer *w, mica_err *err)
{
    const bool chat = r->options->message_count > 0;
    MICA_TRY(completion_prompt(r, w, err));
    MICA_TRY(open_sampler(r, w, err));
    w->stream = (mica_token_stream){
        .tokenizer = r->m->tokenizer, .skip_special = true, .strip = chat || w->grammar};
    w->row = w->index;
    w->given = true;
    if (r->count == 1 && r->m->kept.rows)
        take_kept(r, w);
    else
        MICA_TRY(r->m->ops->cache_init(r->m, &w->cache, err));
    return MICA_OK;
}

/* A single prompt's cache goes back to the model, with its ids. */
static void keep(completion_run *r, completion_writer *w)
{
    mica_completion_model *m = r->m;
    if (r->count != 1 || !w->cache.rows || (size_t)w->cache.count > w->count)
        return;
    mica_mem_free(m->kept_ids);
    const size_t n = (size_t)w->cache.count;
    m->kept_ids = mica_mem_calloc(n + 1, sizeof *m->kept_ids);
    if (!m->kept_ids)
        return; /* then nothing is kept */
    memcpy(m->kept_ids, w->ids, n * sizeof *m->kept_ids);
    m->kept = w->cache;
    w->cache = (mica_kv_cache){0};
}

static void close_writer(completion_writer *w)
{
    mica_kv_cache_deinit(&w->cache);
    mica_token_sampler_deinit(&w->sampler);
    mica_token_grammar_close(&w->grammar);
    mica_text_deinit(&w->text);
    mica_text_deinit(&w->held);
    mica_text_deinit(&w->chance_texts);
    mica_mem_free(w->ids);
    mica_mem_free(w->logprobs);
    mica_mem_free(w->chances);
}

/* --------------------------------------------------------------------- result -- */

static int32_t *copy_ids(const int32_t *ids, size_t count)
{
    int32_t *copy = mica_mem_calloc(count + 1, sizeof *copy);
    if (copy)
        memcpy(copy, ids, count * sizeof *copy);
    return copy;
}

static mica_status take_answer(const completion_run *r, completion_writer *w,
                               mica_completion_answer *a, mica_err *err)
{
    const size_t n = w->count - w->prompt_count;
    a->text = mica_mem_strndup(w->text.size ? w->text.data : "", w->text.size);
    a->prompt_ids = copy_ids(w->ids, w->prompt_count);
    a->ids = copy_ids(w->ids + w->prompt_count, n);
    a->finish = w->finish;
    a->prompt_count = w->prompt_count;
    a->count = n;
    a->reused = w->reused;
    if (!a->text || !a->prompt_ids || !a->ids || w->text.failed || w->held.failed ||
        w->chance_texts.failed)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the answer");
    a->logprobs = w->logprobs;
    a->chances = w->chances;
    a->chance_texts = w->chance_texts.data;
    for (size_t i = 0; a->chances && i < n * (size_t)r->options->chances; i++)
        a->chances[i].text = a->chance_texts + (uintptr_t)a->chances[i].text;
    w->logprobs = NULL;
    w->chances = NULL;
    w->chance_texts = (mica_text){0};
    return MICA_OK;
}

static mica_status take_result(completion_run *r, mica_err *err)
{
    mica_completion_result *result = r->result;
    result->answers = mica_mem_calloc((size_t)r->count, sizeof *result->answers);
    if (!result->answers)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the answers");
    result->count = r->count;
    result->chance_count = r->options->chances;
    result->token_bytes = r->m->token_bytes;
    result->host_layers = r->m->host_layers;
    for (int i = 0; i < r->count; i++) {
        completion_writer *w = &r->writers[i];
        result->cache_bytes += mica_kv_cache_bytes(&w->cache);
        result->read_tokens += w->prompt_count - w->reused;
        result->write_tokens += w->count - w->prompt_count;
        MICA_TRY(take_answer(r, w, &result->answers[i], err));
    }
    return MICA_OK;
}

/* ------------------------------------------------------------------------ run -- */

static mica_status alloc_run(completion_run *r, mica_err *err)
{
    const size_t vocab = (size_t)r->m->vocab;
    r->writers = mica_mem_calloc((size_t)r->count, sizeof *r->writers);
    r->logits = mica_mem_calloc((size_t)r->count * vocab, sizeof *r->logits);
    r->work = mica_mem_calloc(vocab, sizeof *r->work);
    if (!r->writers || !r->logits || !r->work)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the logits of %d answers", r->count);
    for (int i = 0; i < r->count; i++)
        r->writers[i].index = i;
    return MICA_OK;
}

static mica_status read_and_write(completion_run *r)
{
    const double start = mica_clock_seconds();
    mica_run_set_phase(&r->run, MICA_PHASE_TEXT);
    for (int i = 0; i < r->count; i++)
        MICA_TRY(completion_read(r, &r->writers[i]));
    const double middle = mica_clock_seconds();
    mica_run_set_phase(&r->run, MICA_PHASE_DECODE);
    const mica_status st = completion_write(r);
    r->result->read_seconds = middle - start;
    r->result->write_seconds = mica_clock_seconds() - middle;
    return st;
}

static mica_status run_all(completion_run *r, mica_err *err)
{
    const mica_text_options *o = r->options;
    MICA_TRY(alloc_run(r, err));
    if (o->cache_path)
        MICA_TRY(completion_cache_load(r->m, o->cache_path, err));
    for (int i = 0; i < r->count; i++)
        MICA_TRY(open_writer(r, &r->writers[i], err));
    MICA_TRY(read_and_write(r));
    return take_result(r, err);
}

mica_status mica_completion_run(mica_completion_model *m, const mica_text_options *options,
                                const mica_tap_sink *taps, mica_completion_result *result,
                                mica_err *err)
{
    completion_run r = {.m = m,
                        .options = options,
                        .count = MICA_MAX(options->prompt_count, 1),
                        .context = options->context ? options->context : m->context,
                        .result = result,
                        .err = err};
    *result = (mica_completion_result){0};
    MICA_TRY(completion_check_options(m, options, err));
    m->cache_q8 = options->cache_q8;
    if (m->kept.rows && m->kept.q8 != m->cache_q8)
        mica_completion_release(m);
    mica_run_init(&r.run, options->progress, options->progress_user, taps);
    mica_status st = run_all(&r, err);
    for (int i = 0; r.writers && i < r.count; i++)
        keep(&r, &r.writers[i]);
    if (!st && options->cache_path && r.writers[0].reused < r.writers[0].prompt_count - 1)
        st = completion_cache_save(m, r.writers[0].prompt_count, options->cache_path, err);
    for (int i = 0; r.writers && i < r.count; i++)
        close_writer(&r.writers[i]);
    mica_mem_free(r.writers);
    mica_mem_free(r.logits);
    mica_mem_free(r.work);
    if (st)
        mica_completion_result_deinit(result);
    return st;
}
