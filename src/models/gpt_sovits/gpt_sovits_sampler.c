/* gpt_sovits_sampler.c - see gpt_sovits_sampler.h.
 *
 * Reference: AR/models/utils.py logits_to_probs and sample, and the loop of
 * AR/models/t2s_model.py infer_panel_naive. */
#include "models/gpt_sovits/gpt_sovits_sampler.h"

#include "backend/backend_race.h"

#include <math.h>
#include <string.h>

double mica_gs_uniform(uint64_t seed, uint32_t stream, uint32_t attempt, uint64_t index)
{
    return mica_race_uniform(seed, stream, attempt, index);
}

void mica_gs_normal(uint64_t seed, uint32_t stream, uint32_t attempt, uint64_t index, float out[2])
{
    const double a = mica_gs_uniform(seed, stream, attempt, 2 * index);
    const double b = mica_gs_uniform(seed, stream, attempt, 2 * index + 1);
    const double r = sqrt(-2.0 * log(a)), angle = 6.283185307179586 * b;
    out[0] = (float)(r * cos(angle));
    out[1] = (float)(r * sin(angle));
}

mica_race_args mica_gs_sampler_race(const mica_gs_sampler *s, int step)
{
    const mica_gs_sampling *o = &s->options;
    const bool may_end = step >= MICA_GS_LEAST_CODES && s->eos >= 0;
    return (mica_race_args){.race = {.top_k = o->top_k,
                                     .top_p = o->top_p,
                                     .temperature = o->temperature,
                                     .penalty = o->penalty,
                                     .greedy = o->greedy,
                                     .seed = o->seed,
                                     .stream = o->sentence,
                                     .attempt = o->attempt},
                            .choices = may_end ? s->vocab : s->vocab - 1,
                            .end = s->eos,
                            .noise = (uint64_t)step * (uint64_t)s->vocab};
}

int32_t mica_gs_sampler_next(const mica_gs_sampler *s, int step, float *logits, const int32_t *seen,
                             int64_t seen_count, float *work, bool *is_end)
{
    const mica_race_args race = mica_gs_sampler_race(s, step);
    float *marks = work + s->vocab;
    memset(marks, 0, (size_t)s->vocab * sizeof *marks);
    for (int64_t i = 0; i < seen_count; i++)
        if (seen[i] >= 0 && seen[i] < s->vocab)
            marks[seen[i]] = 1.0f;
    return mica_race_next(&race, logits, marks, work, is_end);
}
