/* backend_race.h - the arithmetic of mica_race_draw, for hosts; cuda_race.cu is the device's.
 *
 *     logits ─► penalty of tokens seen ─► top p ─► temperature ─► top k ─► argmax(p / e), e exponential noise
 *
 * Reference: GPT-SoVITS AR/models/utils.py logits_to_probs and sample. */
#ifndef MICA_BACKEND_RACE_H
#define MICA_BACKEND_RACE_H

#include "backend/backend.h"

/* The token; *is_end: it is the end, or the end had the largest penalised logit. logits are changed;
 * seen: [choices], not 0 where a token was seen; work: `choices` numbers. */
int32_t mica_race_next(const mica_race_args *args, float *logits, const float *seen, float *work,
                       bool *is_end);
/* Seed, stream and attempt as one number, the beginning of the noise. */
uint64_t mica_race_key(const mica_race *race);
/* Uniform in (0, 1), by counters. */
double mica_race_uniform(uint64_t seed, uint32_t stream, uint32_t attempt, uint64_t index);

#endif
