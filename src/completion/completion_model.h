/* completion_model.h - what a language model gives to the run that writes text with it.
 *
 *     rows of one or more sequences ─forward─► keys and values into their caches, logits of the last rows
 *                                                                  └─read_logits─► host
 *
 * forward queues; reading waits. Between the two the run may print, so that a device works meanwhile
 * (technique 7). A family embeds this as the first member of its session. */
#ifndef MICA_COMPLETION_COMPLETION_MODEL_H
#define MICA_COMPLETION_COMPLETION_MODEL_H

#include "nn/kv_cache.h"
#include "nn/run.h"
#include "text/tokenizer.h"

/* New tokens of one sequence, `cache->count` old ones before them. */
typedef struct mica_completion_rows {
    mica_kv_cache *cache;
    const int32_t *ids; /* below the vocabulary: checked by forward */
    int64_t count;
} mica_completion_rows;

typedef struct mica_completion_model mica_completion_model;
typedef struct mica_completion_ops {
    mica_status (*cache_init)(mica_completion_model *m, mica_kv_cache *cache, mica_err *err);
    /* One sequence with any number of rows, or several with one row each; then a sequence's result does
     * not depend on the others. Counts of the caches grow. all_rows: logits of every row of the one
     * sequence, and run->taps receives what golden vectors name. */
    mica_status (*forward)(mica_completion_model *m, mica_run *run,
                           const mica_completion_rows *rows, int count, bool all_rows,
                           mica_err *err);
    /* Of the last forward: [sequences, vocab], or the last row of all_rows. */
    mica_status (*read_logits)(mica_completion_model *m, float *logits_NV, mica_err *err);
    /* Of the same: each sequence's largest logit, of equal ones the first; -1 where one is not finite. */
    mica_status (*read_best)(mica_completion_model *m, int32_t *ids_N, mica_err *err);
} mica_completion_ops;

#define MICA_COMPLETION_ENDS 8

struct mica_completion_model {
    const mica_completion_ops *ops;
    mica_backend *be;
    const mica_tokenizer *tokenizer; /* NULL: synthetic */
    const char *chat_template;       /* of the model's files; NULL: none */
    const char *hash;                /* of the weights, for cached prompts */
    int64_t vocab, context, layers;
    int64_t ends[MICA_COMPLETION_ENDS]; /* ids that end an answer */
    size_t end_count;
    uint64_t token_bytes; /* weights that one token reads */
    int64_t host_layers;  /* whose experts the CPU computes beside a device */
    bool cache_q8;        /* caches made from now on: in 8 bits */
    /* Kept between runs: the sequence that was written last. */
    mica_kv_cache kept;
    int32_t *kept_ids; /* kept.count of them */
    size_t kept_cap;
};

#define MICA_COMPLETION_BATCH 64 /* sequences of one forward */

#endif
