/* gpt_sovits_sampler.c - see gpt_sovits_sampler.h.
 *
 * Reference: AR/models/utils.py logits_to_probs and sample, and the loop of
 * AR/models/t2s_model.py infer_panel_naive. Sums are in f64: the order of 1,025 additions is nobody's
 * business. Counters become bits by the finaliser of SplitMix64 (Steele, Lea and Flood 2014), three
 * rounds over seed, stream and index. */
#include "models/gpt_sovits/gpt_sovits_sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

double mica_gs_uniform(uint64_t seed, uint32_t stream, uint32_t attempt, uint64_t index)
{
    const uint64_t key = mix(mix(seed) ^ ((uint64_t)attempt << 32 | stream));
    return ((double)(mix(key ^ mix(index)) >> 11) + 0.5) * 0x1p-53;
}

void mica_gs_normal(uint64_t seed, uint32_t stream, uint32_t attempt, uint64_t index, float out[2])
{
    const double a = mica_gs_uniform(seed, stream, attempt, 2 * index);
    const double b = mica_gs_uniform(seed, stream, attempt, 2 * index + 1);
    const double r = sqrt(-2.0 * log(a)), angle = 6.283185307179586 * b;
    out[0] = (float)(r * cos(angle));
    out[1] = (float)(r * sin(angle));
}

/* Every code that was seen once, however often it was; `marks` of vocab bytes are zero before and
 * after. */
static void penalise(const mica_gs_sampler *s, int64_t columns, float *logits, const int32_t *seen,
                     int64_t count, float *marks)
{
    const float p = (float)s->options.penalty;
    memset(marks, 0, (size_t)s->vocab * sizeof *marks);
    for (int64_t i = 0; i < count; i++) {
        const int32_t code = seen[i];
        if (code >= columns || marks[code] != 0.0f)
            continue;
        marks[code] = 1.0f;
        logits[code] = logits[code] < 0.0f ? logits[code] * p : logits[code] / p;
    }
}

static int descending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static int64_t argmax(int64_t n, const float *x)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

/* Smallest logit that top p keeps: cumulated probabilities up to it are at most p, or it is the
 * largest. Equal logits stay or go together. */
static float floor_of_top_p(double p, int64_t n, const float *logits, float *sorted)
{
    double sum = 0.0, cumulated = 0.0;
    memcpy(sorted, logits, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, descending);
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)sorted[i] - (double)sorted[0]);
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        cumulated += exp((double)sorted[i] - (double)sorted[0]) / sum;
        if (cumulated > p && i > 0)
            break;
        kept = i;
    }
    return sorted[kept];
}

static float floor_of_top_k(int k, int64_t n, const float *logits, float *sorted)
{
    if (k >= n)
        return -INFINITY;
    memcpy(sorted, logits, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, descending);
    return sorted[k - 1];
}

static void cut_below(int64_t n, float *logits, float floor)
{
    for (int64_t i = 0; i < n; i++)
        if (logits[i] < floor)
            logits[i] = -INFINITY;
}

/* argmax of p / e: the largest logit - log(e); what was cut has p = 0. */
static int64_t draw(const mica_gs_sampler *s, int step, int64_t n, const float *logits)
{
    const mica_gs_sampling *o = &s->options;
    int64_t best = -1;
    double best_score = 0.0;
    for (int64_t i = 0; i < n; i++) {
        if (logits[i] == -INFINITY)
            continue;
        const uint64_t at = (uint64_t)step * (uint64_t)s->vocab + (uint64_t)i;
        const double noise = -log(mica_gs_uniform(o->seed, o->sentence, o->attempt, at));
        const double score = (double)logits[i] - log(noise);
        if (best < 0 || score > best_score) {
            best = i;
            best_score = score;
        }
    }
    return best < 0 ? argmax(n, logits) : best;
}

int32_t mica_gs_sampler_next(const mica_gs_sampler *s, int step, float *logits, const int32_t *seen,
                             int64_t seen_count, float *work, bool *is_end)
{
    const mica_gs_sampling *o = &s->options;
    const int64_t n = step < MICA_GS_LEAST_CODES || s->eos < 0 ? s->vocab - 1 : s->vocab;
    if (o->penalty != 1.0)
        penalise(s, n, logits, seen, seen_count, work);
    const int64_t likeliest = argmax(n, logits);
    int64_t code = likeliest;
    if (!o->greedy && o->top_k > 1) {
        if (o->top_p < 1.0)
            cut_below(n, logits, floor_of_top_p(o->top_p, n, logits, work));
        for (int64_t i = 0; i < n; i++)
            logits[i] /= (float)(o->temperature > 1e-5 ? o->temperature : 1e-5);
        cut_below(n, logits, floor_of_top_k(o->top_k, n, logits, work));
        code = draw(s, step, n, logits);
    }
    *is_end = code == s->eos || likeliest == s->eos;
    return (int32_t)code;
}
