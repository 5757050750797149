/* completion_write.c - the loop that writes: choose, tell, compute the next.
 *
 *     for each answer:  logits ─► sampler ─► id ─► ended? length? context?
 *     CPU:     text of the ids to the caller, then the pass for the next ones
 *     device:  the pass is queued, then the text is told while it runs; reading its logits waits
 *
 * Every 256 tokens unused chunks of scratch memory go back (technique 8). */
#include "completion/completion_internal.h"

#include "base/mem.h"
#include "text/vocab.h"

#include <stdint.h>
#include <string.h>

#define TRIM_EVERY 256

mica_status completion_push(int32_t **ids, size_t *cap, size_t count, int32_t id, mica_err *err)
{
    if (!mica_array_reserve((void **)ids, cap, count + 1, sizeof **ids))
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu token ids", count + 1);
    (*ids)[count] = id;
    return MICA_OK;
}

/* ------------------------------------------------------------------- choose -- */

static bool is_end(const completion_run *r, int32_t id)
{
    for (size_t i = 0; i < r->m->end_count; i++)
        if (r->m->ends[i] == id)
            return !r->options->ignore_eos;
    return false;
}

static mica_status keep_chances(completion_run *r, completion_writer *w, const float *logits,
                                int32_t id)
{
    const int n = r->options->chances;
    const size_t at = w->count - w->prompt_count;
    int32_t ids[MICA_MAX_LOGPROBS];
    if (!r->options->logprobs)
        return MICA_OK;
    if (!mica_array_reserve((void **)&w->logprobs, &w->logprob_cap, at + 1, sizeof(double)) ||
        !mica_array_reserve((void **)&w->chances, &w->chance_cap, (at + 1) * (size_t)n + 1,
                            sizeof(mica_token_chance)))
        return MICA_FAIL(r->err, MICA_E_NOMEM, "no memory for the chances of tokens");
    w->logprobs[at] = mica_token_logprob(logits, r->m->vocab, id);
    mica_token_top(logits, r->m->vocab, n, ids);
    for (int i = 0; i < n; i++) {
        mica_text piece = {0};
        mica_token_stream one = {.tokenizer = r->m->tokenizer};
        if (one.tokenizer) {
            mica_token_stream_add(&one, ids[i], &piece);
            mica_token_stream_finish(&one, &piece);
        }
        w->chances[at * (size_t)n + (size_t)i] =
            (mica_token_chance){.id = ids[i],
                                .logprob = mica_token_logprob(logits, r->m->vocab, ids[i]),
                                .text = (const char *)(uintptr_t)w->chance_texts.size};
        mica_text_add_bytes(&w->chance_texts, piece.size ? piece.data : "", piece.size);
        mica_text_add_bytes(&w->chance_texts, "", 1);
        mica_text_deinit(&piece);
    }
    return MICA_OK;
}

static bool allowed(void *user, int32_t id)
{
    const completion_writer *w = user;
    return mica_token_grammar_allows(w->grammar, id);
}

static mica_status draw(completion_run *r, completion_writer *w, const float *logits, int32_t *id)
{
    memcpy(r->work, logits, (size_t)r->m->vocab * sizeof *logits);
    return mica_token_sampler_next(&w->sampler, r->work, w->ids, w->count,
                                   w->grammar ? allowed : NULL, w, id, r->err);
}

static mica_status choose(completion_run *r, completion_writer *w)
{
    const float *logits = r->logits + w->row * r->m->vocab;
    int32_t id = r->best[w->row];
    if (!r->has_best)
        MICA_TRY(draw(r, w, logits, &id));
    if (is_end(r, id)) {
        w->done = true;
        w->finish = MICA_FINISH_END;
        return MICA_OK;
    }
    MICA_TRY(keep_chances(r, w, logits, id));
    MICA_TRY(completion_push(&w->ids, &w->cap, w->count, id, r->err));
    w->count++;
    w->given = false;
    if (w->grammar)
        mica_token_grammar_take(w->grammar, id);
    return MICA_OK;
}

/* --------------------------------------------------------------------- tell -- */

/* Where the first stop text in `held` begins; SIZE_MAX: there is none. */
static size_t find_stop(const completion_run *r, const mica_text *held)
{
    size_t first = SIZE_MAX;
    for (int i = 0; i < r->options->stop_count && held->size; i++) {
        const char *at = strstr(held->data, r->options->stops[i]);
        if (at)
            first = MICA_MIN(first, (size_t)(at - held->data));
    }
    return first;
}

/* Bytes at the end of `held` that a stop text may begin with. */
static size_t held_back(const completion_run *r, const mica_text *held)
{
    size_t most = 0;
    for (int i = 0; i < r->options->stop_count; i++) {
        const char *stop = r->options->stops[i];
        const size_t n = MICA_MIN(strlen(stop), held->size);
        for (size_t k = n; k > most; k--)
            if (memcmp(held->data + held->size - k, stop, k) == 0)
                most = k;
    }
    return most;
}

/* Tells the first `size` bytes of what is held. */
static bool tell(completion_run *r, completion_writer *w, int32_t id, size_t size)
{
    const size_t n = r->options->chances > 0 ? (size_t)r->options->chances : 0;
    const size_t at = w->count - w->prompt_count - (w->count > w->prompt_count);
    char *text = mica_mem_strndup(size ? w->held.data : "", size);
    mica_token_chance chances[MICA_MAX_LOGPROBS];
    mica_text_add_bytes(&w->text, size ? w->held.data : "", size);
    for (size_t i = 0; id >= 0 && w->chances && i < n; i++) {
        chances[i] = w->chances[at * n + i];
        chances[i].text = w->chance_texts.data + (uintptr_t)chances[i].text;
    }
    const mica_text_token token = {.prompt = w->index,
                                   .id = id,
                                   .text = text ? text : "",
                                   .logprob = id >= 0 && w->logprobs ? w->logprobs[at] : 0.0,
                                   .chances = w->chances && id >= 0 ? chances : NULL,
                                   .chance_count = w->chances && id >= 0 ? (int)n : 0};
    const bool on = !r->options->token || r->options->token(r->options->token_user, &token);
    mica_mem_free(text);
    if (size)
        memmove(w->held.data, w->held.data + size, w->held.size - size + 1);
    w->held.size -= size;
    return on;
}

static void finish(completion_writer *w, mica_finish how)
{
    w->done = true;
    w->finish = how;
}

/* The text of the last id, as far as it is certain. */
static void tell_last(completion_run *r, completion_writer *w)
{
    const int32_t id = w->ids[w->count - 1];
    if (w->given)
        return;
    w->given = true;
    if (w->stream.tokenizer)
        mica_token_stream_add(&w->stream, id, &w->held);
    const size_t stop = find_stop(r, &w->held);
    const size_t size = stop != SIZE_MAX ? stop : w->held.size - held_back(r, &w->held);
    if (!tell(r, w, id, size))
        finish(w, MICA_FINISH_CALLER);
    else if (stop != SIZE_MAX)
        finish(w, MICA_FINISH_STOP);
}

/* Nothing follows: what was held back is text after all, unless it was a stop text. */
static void tell_rest(completion_run *r, completion_writer *w)
{
    if (w->finish == MICA_FINISH_STOP)
        return;
    if (w->stream.tokenizer)
        mica_token_stream_finish(&w->stream, &w->held);
    if (w->held.size > 0)
        (void)tell(r, w, -1, w->held.size);
}

static void tell_all(completion_run *r)
{
    for (int i = 0; i < r->count; i++)
        if (!r->writers[i].done || !r->writers[i].given)
            if (r->writers[i].count > r->writers[i].prompt_count)
                tell_last(r, &r->writers[i]);
}

/* --------------------------------------------------------------------- next -- */

/* Ends at max_tokens and at the context's end; the last token is told but not read. */
static bool wants_next(const completion_run *r, const completion_writer *w)
{
    const size_t written = w->count - w->prompt_count;
    const bool full = r->options->max_tokens && written >= (size_t)r->options->max_tokens;
    return !w->done && !full && (int64_t)w->count < r->context;
}

static mica_status compute_next(completion_run *r, int *live)
{
    mica_completion_rows rows[MICA_COMPLETION_BATCH];
    *live = 0;
    for (int i = 0; i < r->count; i++) {
        completion_writer *w = &r->writers[i];
        if (!wants_next(r, w))
            continue;
        w->row = *live;
        rows[(*live)++] =
            (mica_completion_rows){.cache = &w->cache, .ids = w->ids + w->cache.count, .count = 1};
    }
    return *live ? r->m->ops->forward(r->m, &r->run, rows, *live, false, r->err) : MICA_OK;
}

/* Nothing but the largest logit matters, so a device need not send all of them. */
static bool wants_best(const completion_run *r)
{
    const mica_text_options *o = r->options;
    const bool penalised = (o->repetition_penalty != 0.0 && o->repetition_penalty != 1.0) ||
                           o->frequency_penalty != 0.0 || o->presence_penalty != 0.0;
    return o->greedy && !penalised && o->logit_bias_count == 0 && !o->grammar && !o->json_schema &&
           !o->logprobs && mica_backend_is_queued(r->m->be);
}

/* What the next choice is taken from. Where a logit is not finite, all are read for the sampler to say which. */
static mica_status read_choices(completion_run *r, int live)
{
    r->has_best = wants_best(r);
    if (r->has_best)
        MICA_TRY(r->m->ops->read_best(r->m, r->best, r->err));
    for (int i = 0; i < live; i++)
        r->has_best = r->has_best && r->best[i] >= 0;
    return r->has_best ? MICA_OK : r->m->ops->read_logits(r->m, r->logits, r->err);
}

static void end_full(completion_run *r)
{
    for (int i = 0; i < r->count; i++) {
        completion_writer *w = &r->writers[i];
        const bool full = (int64_t)w->count >= r->context;
        if (!w->done && !wants_next(r, w))
            finish(w, full ? MICA_FINISH_CONTEXT : MICA_FINISH_LENGTH);
    }
}

mica_status completion_write(completion_run *r)
{
    const bool queued = mica_backend_is_queued(r->m->be);
    int live = r->count;
    for (int step = 1; live > 0; step++) {
        for (int i = 0; i < r->count; i++)
            if (!r->writers[i].done)
                MICA_TRY(choose(r, &r->writers[i]));
        if (!queued)
            tell_all(r);
        MICA_TRY(compute_next(r, &live));
        if (queued)
            tell_all(r);
        end_full(r);
        if (live > 0)
            MICA_TRY(read_choices(r, live));
        if (step % TRIM_EVERY == 0)
            mica_pool_trim(r->m->be);
        MICA_TRY(mica_run_step(&r->run, r->m->be, step, r->options->max_tokens, r->err));
    }
    for (int i = 0; i < r->count; i++)
        tell_rest(r, &r->writers[i]);
    return MICA_OK;
}
