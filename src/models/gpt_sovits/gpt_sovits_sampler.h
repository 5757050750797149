/* gpt_sovits_sampler.h - from logits to the next semantic code, in upstream's order.
 *
 *     logits ─no end in the first 11─► penalty of codes seen ─► top p ─► temperature ─► top k
 *            ─► softmax ─► argmax(p / e), e exponential noise
 *
 * The arithmetic is backend_race.h's, because a device draws where its logits are.
 * The noise of a code depends on seed, sentence, attempt and step alone, so neither the batch nor the
 * order of sentences changes it. */
#ifndef MICA_MODELS_GPT_SOVITS_SAMPLER_H
#define MICA_MODELS_GPT_SOVITS_SAMPLER_H

#include "backend/backend.h"

typedef struct mica_gs_sampling {
    int top_k; /* above 0 */
    double top_p, temperature, penalty;
    bool greedy;
    uint64_t seed;
    uint32_t sentence, attempt; /* streams of their own */
    int64_t most;               /* codes at most */
} mica_gs_sampling;

typedef struct mica_gs_sampler {
    mica_gs_sampling options;
    int64_t vocab, eos; /* the end is the last code; eos below 0: it is never drawn */
} mica_gs_sampler;

#define MICA_GS_LEAST_CODES 11 /* steps in which the end may not be drawn */

/* What mica_race_draw needs for step `step`; its tensors are the caller's. */
mica_race_args mica_gs_sampler_race(const mica_gs_sampler *s, int step);

/* The code of step `step` on the host; logits are overwritten. *is_end: it is the end, or the end had the
 * largest penalised logit. `work`: 2 * vocab numbers. */
int32_t mica_gs_sampler_next(const mica_gs_sampler *s, int step, float *logits, const int32_t *seen,
                             int64_t seen_count, float *work, bool *is_end);
/* Uniform in (0, 1), by counters: the noise of the sampler and of the decoder's latent. */
double mica_gs_uniform(uint64_t seed, uint32_t stream, uint32_t attempt, uint64_t index);
/* Two normal numbers of counters 2 index and 2 index + 1 (Box and Muller). */
void mica_gs_normal(uint64_t seed, uint32_t stream, uint32_t attempt, uint64_t index, float out[2]);

#endif
