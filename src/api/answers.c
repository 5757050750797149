/* answers.c - mica_text_generate and its result: thin over completion/. */
#include "api/api.h"

#include "base/clock.h"
#include "base/mem.h"
#include "completion/completion.h"
#include "nn/trace.h"

#include <string.h>

struct mica_completion {
    mica_completion_result result;
    uint64_t peak_memory;
};

const char *mica_finish_name(mica_finish finish)
{
    static const char *const names[] = {"end", "stop", "length", "context", "caller"};
    return finish >= 0 && (size_t)finish < MICA_ARRAY_LEN(names) ? names[finish] : "unknown";
}

static mica_status run_traced(mica_session *s, const mica_text_options *o,
                              mica_completion_result *result)
{
    mica_trace *trace = NULL;
    if (o->trace_path)
        MICA_TRY(mica_trace_open(&trace, &s->err));
    mica_status st = s->engine->kind->complete(s->run, o, trace ? mica_trace_sink(trace) : NULL,
                                               result, &s->err);
    if (!st && trace)
        st = mica_trace_write(trace, o->trace_path, &s->err);
    mica_trace_close(&trace);
    return st;
}

mica_status mica_text_generate(mica_session *session, const mica_text_options *options,
                               mica_completion **out)
{
    mica_text_options o;
    *out = NULL;
    if (!session)
        return MICA_E_USAGE;
    session->err = (mica_err){0};
    if (!session->run)
        return MICA_FAIL(&session->err, MICA_E_USAGE, "the session has no open model");
    if (!session->engine->kind->complete)
        return MICA_FAIL(&session->err, MICA_E_USAGE,
                         "%s: the model is %s, which does not write text", session->engine->name,
                         session->engine->kind->title);
    MICA_TRY(api_options(&o, sizeof o, options, options ? options->size : 0, &session->err));
    mica_completion *c = mica_mem_calloc(1, sizeof *c);
    if (!c)
        return MICA_FAIL(&session->err, MICA_E_NOMEM, "no memory for the answers");
    const mica_status st = run_traced(session, &o, &c->result);
    c->peak_memory = mica_clock_peak_rss();
    if (st)
        mica_completion_close(&c);
    *out = c;
    return st;
}

void mica_completion_close(mica_completion **completion)
{
    if (!completion || !*completion)
        return;
    mica_completion_result_deinit(&(*completion)->result);
    mica_mem_free(*completion);
    *completion = NULL;
}

int mica_completion_count(const mica_completion *completion)
{
    return completion ? completion->result.count : 0;
}

/* Copies what the caller's struct has room for. */
static mica_status hand_out(void *to, size_t size, void *from, size_t known)
{
    if (size < sizeof(size_t))
        return MICA_E_USAGE;
    size = MICA_MIN(size, known);
    memcpy(from, &size, sizeof size); /* `size` is the first member */
    memcpy(to, from, size);
    return MICA_OK;
}

mica_status mica_completion_get(const mica_completion *completion, int index,
                                mica_text_answer *answer)
{
    if (!completion || !answer || index < 0 || index >= completion->result.count)
        return MICA_E_USAGE;
    const mica_completion_answer *a = &completion->result.answers[index];
    mica_text_answer known = {.text = a->text,
                              .finish = a->finish,
                              .prompt_ids = a->prompt_ids,
                              .ids = a->ids,
                              .prompt_count = a->prompt_count,
                              .count = a->count,
                              .reused = a->reused,
                              .logprobs = a->logprobs,
                              .chances = a->chances,
                              .chance_count = completion->result.chance_count};
    return hand_out(answer, answer->size, &known, sizeof known);
}

mica_status mica_completion_stats(const mica_completion *completion, mica_text_stats *stats)
{
    if (!completion || !stats)
        return MICA_E_USAGE;
    const mica_completion_result *r = &completion->result;
    mica_text_stats known = {.read_seconds = r->read_seconds,
                             .write_seconds = r->write_seconds,
                             .read_tokens = r->read_tokens,
                             .write_tokens = r->write_tokens,
                             .token_bytes = r->token_bytes,
                             .cache_bytes = r->cache_bytes,
                             .peak_memory = completion->peak_memory,
                             .cpu_expert_layers = (int)r->host_layers};
    return hand_out(stats, stats->size, &known, sizeof known);
}
