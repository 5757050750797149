/* token_sampler.h - which token comes next.
 *
 *     logits ─► + bias ─► penalties ─► allowed by a grammar ─► top-k ─► typical ─► top-p ─► min-p
 *            ─► / temperature ─► draw
 *
 * The order is that of llama.cpp's samplers: cuts look at the model's own probabilities, and the temperature
 * only spreads what is left. Greedy takes the largest logit behind the grammar. */
#ifndef MICA_SAMPLE_TOKEN_SAMPLER_H
#define MICA_SAMPLE_TOKEN_SAMPLER_H

#include "base/rng.h"
#include "base/status.h"

#include <stddef.h>

typedef struct mica_sampler_options {
    bool greedy;
    double temperature;                     /* above 0 */
    int top_k;                              /* 0: all */
    double top_p, typical_p;                /* 1: off */
    double min_p;                           /* 0: off */
    double repetition, frequency, presence; /* 1, 0, 0: off */
    int window;                             /* tokens that penalties look at; -1: all */
    uint64_t seed;
    const mica_logit_bias *bias;
    int bias_count;
} mica_sampler_options;

typedef struct mica_candidate {
    int32_t id;
    float logit;
    double p;
} mica_candidate;

typedef struct mica_token_sampler {
    mica_sampler_options options;
    mica_mt19937 random;
    mica_candidate *candidates; /* [vocab] */
    uint64_t *order[2];         /* [vocab] each, behind each other: of a sort */
    int32_t *seen;              /* [vocab] times in the window */
    int64_t vocab;
} mica_token_sampler;

/* MICA_E_USAGE names an option that is out of range, or a bias for no token. */
mica_status mica_token_sampler_init(mica_token_sampler *s, const mica_sampler_options *options,
                                    int64_t vocab, mica_err *err);
void mica_token_sampler_deinit(mica_token_sampler *s); /* of a zeroed one too */

/* allowed(user, id): NULL, or whether a grammar lets the token come next. */
typedef bool (*mica_allow_fn)(void *user, int32_t id);
/* Draws one. logits [vocab] is changed. history: all tokens so far, oldest first. MICA_E_NUMERIC when no
 * logit is finite, MICA_E_UNSUPPORTED when nothing is allowed. */
mica_status mica_token_sampler_next(mica_token_sampler *s, float *logits, const int32_t *history,
                                    size_t count, mica_allow_fn allowed, void *user, int32_t *id,
                                    mica_err *err);

/* log softmax of logits at id, in f64. */
double mica_token_logprob(const float *logits, int64_t vocab, int32_t id);
/* The `count` largest logits, largest first (of equal ones the lower id). */
void mica_token_top(const float *logits, int64_t vocab, int count, int32_t *ids);

#endif
