/* completion_internal.h - one answer under way; shared by the files of this folder. */
#ifndef MICA_COMPLETION_COMPLETION_INTERNAL_H
#define MICA_COMPLETION_COMPLETION_INTERNAL_H

#include "completion/completion.h"
#include "sample/token_grammar.h"
#include "sample/token_sampler.h"
#include "text/token_stream.h"

typedef struct completion_writer {
    int index;
    mica_kv_cache cache;
    int32_t *ids; /* prompt, then what was written */
    size_t count, cap, prompt_count, reused;
    mica_token_sampler sampler;
    mica_token_grammar *grammar; /* NULL: any text */
    mica_token_stream stream;
    mica_text text; /* given to the caller already */
    mica_text held; /* may be the beginning of a stop text */
    mica_finish finish;
    bool done;
    bool given;  /* the last token's text has been */
    int64_t row; /* of the logits */
    double *logprobs;
    mica_token_chance *chances; /* texts are offsets into chance_texts until the end */
    mica_text chance_texts;
    size_t logprob_cap, chance_cap;
} completion_writer;

typedef struct completion_run {
    mica_completion_model *m;
    const mica_text_options *options;
    mica_run run;
    completion_writer *writers;
    int count;
    float *logits; /* [count, vocab] */
    float *work;   /* [vocab]: the sampler's */
    int32_t best
        [MICA_COMPLETION_BATCH]; /* of the logits' rows, where `has_best`: then those were not read */
    bool has_best;
    int64_t context;
    mica_completion_result *result;
    mica_err *err;
} completion_run;

/* ---- completion_prompt.c ---- */
mica_status completion_check_options(const mica_completion_model *m, const mica_text_options *o,
                                     mica_err *err);
/* Ids of prompt `index` into w. */
mica_status completion_prompt(completion_run *r, completion_writer *w, mica_err *err);
/* Reads all of the prompt that the cache does not know; logits of the last row into w's. */
mica_status completion_read(completion_run *r, completion_writer *w);

/* ---- completion_write.c ---- */
mica_status completion_write(completion_run *r);
mica_status completion_push(int32_t **ids, size_t *cap, size_t count, int32_t id, mica_err *err);

/* ---- completion_cache.c ---- */
/* The file's keys and values become what the model keeps. A file that is not there is fine. */
mica_status completion_cache_load(mica_completion_model *m, const char *path, mica_err *err);
/* The first `count` tokens that the model keeps. */
mica_status completion_cache_save(mica_completion_model *m, size_t count, const char *path,
                                  mica_err *err);

#endif
