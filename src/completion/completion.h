/* completion.h - the run that writes text with a language model.
 *
 *     messages ─chat template─► text ─tokenizer─► ids ─► less what the cache knows ─► read in chunks
 *     logits ─► sampler (penalties, grammar, cuts, draw) ─► id ─► characters, stop texts ─► caller
 *        ▲                                                   └──────────── forward ───────────┘
 *
 * One prompt goes on from the keys and values that the session has of the last one, as far as their tokens
 * agree. Several prompts are read one after the other and written together, a row each. */
#ifndef MICA_COMPLETION_COMPLETION_H
#define MICA_COMPLETION_COMPLETION_H

#include "completion/completion_model.h"

typedef struct mica_completion_answer {
    char *text;
    mica_finish finish;
    int32_t *prompt_ids, *ids;
    size_t prompt_count, count, reused;
    double *logprobs;
    mica_token_chance *chances;
    char *chance_texts; /* what the chances' texts point into */
} mica_completion_answer;

typedef struct mica_completion_result {
    mica_completion_answer *answers;
    int count, chance_count;
    double read_seconds, write_seconds;
    size_t read_tokens, write_tokens;
    uint64_t token_bytes, cache_bytes;
    int64_t host_layers;
} mica_completion_result;

/* On failure the result is empty. trace_path is the caller's business. */
mica_status mica_completion_run(mica_completion_model *m, const mica_text_options *options,
                                const mica_tap_sink *taps, mica_completion_result *result,
                                mica_err *err);
void mica_completion_result_deinit(mica_completion_result *result);
/* Frees what a session keeps between runs. */
void mica_completion_release(mica_completion_model *m);
/* Ids of a text that is continued: what the tokenizer puts before it included. Freed with mica_mem_free. */
mica_status mica_completion_encode(const mica_tokenizer *t, const char *text, int32_t **ids,
                                   size_t *count, mica_err *err);

#endif
