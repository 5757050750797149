/* completion_prompt.c - from texts and conversations to ids, and ids through the model in chunks. */
#include "completion/completion_internal.h"

#include "base/mem.h"
#include "text/chat_template.h"

#include <stdlib.h>
#include <string.h>

/* Tokens: an expert of eight gets 256 rows, which repay expanding its weights (512 at a time take 15 % more
 * processor time), and 1024 rows of two experts stay below 200 MB. */
#define CHUNK 1024
/* Every chunk expands all packed experts once: 0.07 s of a device for 47 billion weights. */
#define DEVICE_CHUNK 4096

static mica_status check_range(const char *name, int value, int lo, int hi, mica_err *err)
{
    if (value >= lo && value <= hi)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_USAGE, "%s is %d, expected %d to %d", name, value, lo, hi);
}

static mica_status check_combinations(const mica_text_options *o, mica_err *err)
{
    const bool one = o->prompt_count + (o->message_count > 0) == 1;
    if ((o->prompt_count > 0) == (o->message_count > 0))
        return MICA_FAIL(err, MICA_E_USAGE, "give either prompts or messages");
    if ((o->cache_path || o->trace_path) && !one)
        return MICA_FAIL(err, MICA_E_USAGE, "a cache file and a trace are of one prompt alone");
    if (o->grammar && o->json_schema)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "an answer follows a grammar or a JSON schema, not both");
    for (int i = 0; i < o->stop_count; i++)
        if (!o->stops[i] || !o->stops[i][0])
            return MICA_FAIL(err, MICA_E_USAGE, "a stop text is empty");
    return MICA_OK;
}

mica_status completion_check_options(const mica_completion_model *m, const mica_text_options *o,
                                     mica_err *err)
{
    MICA_TRY(check_range("prompt_count", o->prompt_count, 0, MICA_COMPLETION_BATCH, err));
    MICA_TRY(check_range("message_count", o->message_count, 0, 100000, err));
    MICA_TRY(check_range("max_tokens", o->max_tokens, 0, INT32_MAX, err));
    if (o->context > m->context)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a context of %d tokens is more than the %lld that the model was made for",
                         o->context, (long long)m->context);
    MICA_TRY(check_range("context", o->context, 0, (int)m->context, err));
    MICA_TRY(check_range("chunk", o->chunk, 0, 65536, err));
    MICA_TRY(check_range("chances", o->chances, 0,
                         (int)MICA_MIN((int64_t)MICA_MAX_LOGPROBS, m->vocab), err));
    MICA_TRY(check_range("penalty_window", o->penalty_window, -1, INT32_MAX, err));
    return check_combinations(o, err);
}

mica_status mica_completion_encode(const mica_tokenizer *t, const char *text, int32_t **ids,
                                   size_t *count, mica_err *err)
{
    MICA_TRY(mica_tokenizer_encode(t, text, strlen(text), ids, count, err));
    const int32_t bos = mica_tokenizer_bos(t);
    if (bos < 0)
        return MICA_OK;
    int32_t *with = mica_mem_realloc(*ids, (*count + 1) * sizeof *with);
    if (!with) {
        mica_mem_free(*ids);
        *ids = NULL;
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu token ids", *count + 1);
    }
    memmove(with + 1, with, *count * sizeof *with);
    with[0] = bos;
    *ids = with;
    *count += 1;
    return MICA_OK;
}

/* "tokens=N" of a model without tokenizer: ids that spread over the vocabulary. */
static mica_status synthetic_ids(const completion_run *r, const char *prompt, completion_writer *w,
                                 mica_err *err)
{
    const char *digits = strncmp(prompt, "tokens=", 7) == 0 ? prompt + 7 : "";
    char *end = NULL;
    const long count = strtol(digits, &end, 10);
    if (end == digits || *end || count < 1 || count > r->m->context)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a synthetic model has no tokenizer: its prompt is \"tokens=N\"");
    for (long i = 0; i < count; i++)
        MICA_TRY(completion_push(&w->ids, &w->cap, (size_t)i,
                                 (int32_t)((i * 7919 + 13) % r->m->vocab), err));
    w->count = (size_t)count;
    return MICA_OK;
}

/* The spelling of an id for templates; "" without one. Freed by the caller. */
static char *spelling(const mica_completion_model *m, int32_t id)
{
    char text[256];
    const size_t n = id >= 0 ? mica_tokenizer_piece(m->tokenizer, id, text, sizeof text) : 0;
    return mica_mem_strndup(text, MICA_MIN(n, sizeof text));
}

static mica_status render(const completion_run *r, mica_text *out, mica_err *err)
{
    const mica_completion_model *m = r->m;
    const mica_text_options *o = r->options;
    const char *source = o->chat_template   ? o->chat_template
                         : m->chat_template ? m->chat_template
                                            : mica_chat_template_mixtral;
    char *bos = spelling(m, mica_tokenizer_bos(m->tokenizer));
    char *eos = spelling(m, m->end_count > 0 ? (int32_t)m->ends[0] : -1);
    const mica_chat_input input = {.messages = o->messages,
                                   .count = o->message_count,
                                   .bos = bos,
                                   .eos = eos,
                                   .add_generation_prompt = true};
    mica_status st = MICA_OK;
    if (!bos || !eos)
        st = MICA_FAIL(err, MICA_E_NOMEM, "no memory to render the conversation");
    if (!st)
        st = mica_chat_template_render("chat template", source, &input, out, err);
    mica_mem_free(bos);
    mica_mem_free(eos);
    return st;
}

static mica_status encode(const completion_run *r, completion_writer *w, mica_err *err)
{
    const mica_text_options *o = r->options;
    const mica_tokenizer *t = r->m->tokenizer;
    mica_text text = {0};
    mica_status st;
    if (o->message_count > 0) {
        st = render(r, &text, err);
        if (!st)
            st = mica_tokenizer_encode(t, text.size ? text.data : "", text.size, &w->ids, &w->count,
                                       err);
    } else if (o->no_bos) {
        const char *prompt = o->prompts[w->index];
        st = mica_tokenizer_encode(t, prompt, strlen(prompt), &w->ids, &w->count, err);
    } else
        st = mica_completion_encode(t, o->prompts[w->index], &w->ids, &w->count, err);
    mica_text_deinit(&text);
    w->cap = w->count;
    return st;
}

mica_status completion_prompt(completion_run *r, completion_writer *w, mica_err *err)
{
    if (!r->options->message_count && !r->options->prompts[w->index])
        return MICA_FAIL(err, MICA_E_USAGE, "prompt %d is NULL", w->index);
    if (!r->m->tokenizer)
        MICA_TRY(
            synthetic_ids(r, r->options->prompts ? r->options->prompts[w->index] : "", w, err));
    else
        MICA_TRY(encode(r, w, err));
    w->prompt_count = w->count;
    if (w->count == 0)
        return MICA_FAIL(err, MICA_E_USAGE, "the prompt has no tokens");
    if ((int64_t)w->count >= r->context)
        return MICA_FAIL(
            err, MICA_E_USAGE,
            "the prompt has %zu tokens, the context holds %lld and an answer needs room: "
            "shorten the prompt%s",
            w->count, (long long)r->context,
            r->context < r->m->context ? " or ask for a larger context" : "");
    return MICA_OK;
}

static mica_status read_chunk(completion_run *r, completion_writer *w, int64_t count, bool all_rows)
{
    const mica_completion_rows rows = {
        .cache = &w->cache, .ids = w->ids + w->cache.count, .count = count};
    return r->m->ops->forward(r->m, &r->run, &rows, 1, all_rows, r->err);
}

/* Room for the prompt and the first tokens of the answer at once: a cache that grows is copied. */
static mica_status reserve(completion_run *r, completion_writer *w)
{
    const int most = r->options->max_tokens;
    const int64_t answer = most && most < MICA_KV_STEP ? most : MICA_KV_STEP;
    const int64_t end = MICA_MIN((int64_t)w->prompt_count + answer, r->context);
    return mica_kv_cache_reserve(&w->cache, end - w->cache.count, r->err);
}

static void tap_ids(completion_run *r, const completion_writer *w)
{
    const mica_tensor ids = mica_tensor_2d(w->ids, MICA_DTYPE_I32, 1, (int64_t)w->prompt_count);
    mica_tap_host(r->run.taps, &ids, "input_ids");
}

mica_status completion_read(completion_run *r, completion_writer *w)
{
    const bool traced = r->run.taps != NULL;
    const int64_t chunk = traced                             ? (int64_t)w->prompt_count
                          : r->options->chunk                ? r->options->chunk
                          : mica_backend_is_queued(r->m->be) ? DEVICE_CHUNK
                                                             : CHUNK;
    if (traced)
        tap_ids(r, w);
    MICA_TRY(reserve(r, w));
    while (w->cache.count < (int64_t)w->prompt_count) {
        const int64_t left = (int64_t)w->prompt_count - w->cache.count;
        MICA_TRY(read_chunk(r, w, MICA_MIN(left, chunk), traced));
        MICA_TRY(
            mica_run_step(&r->run, r->m->be, (int)w->cache.count, (int)w->prompt_count, r->err));
    }
    r->run.taps = NULL; /* of the prompt alone */
    return r->m->ops->read_logits(r->m, r->logits + w->row * r->m->vocab, r->err);
}
