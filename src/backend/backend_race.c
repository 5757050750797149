/* backend_race.c - see backend_race.h.
 *
 * The race: of p / e with exponential e the largest is a draw from p; here it is the largest of
 * logit - log(e), so nothing is exponentiated or summed. Sums of top p are in f64: the order of 1,025 additions
 * is nobody's business. Counters become bits by the finaliser of SplitMix64 (Steele, Lea and Flood 2014),
 * three rounds over seed, stream and index. */
#include "backend/backend_race.h"

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

uint64_t mica_race_key(const mica_race *r)
{
    return mix(mix(r->seed) ^ ((uint64_t)r->attempt << 32 | r->stream));
}

double mica_race_uniform(uint64_t seed, uint32_t stream, uint32_t attempt, uint64_t index)
{
    const mica_race r = {.seed = seed, .stream = stream, .attempt = attempt};
    const uint64_t key = mica_race_key(&r);
    return ((double)(mix(key ^ mix(index)) >> 11) + 0.5) * 0x1p-53;
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

/* The k-th largest, from the k largest so far in order: k is small, few of 1,025 numbers get in. */
static float floor_of_top_k(int k, int64_t n, const float *logits, float *largest)
{
    int64_t count = 0;
    if (k >= n)
        return -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        if (count == k && !(logits[i] > largest[k - 1]))
            continue;
        int64_t at = count < k ? count++ : k - 1;
        for (; at > 0 && logits[i] > largest[at - 1]; at--)
            largest[at] = largest[at - 1];
        largest[at] = logits[i];
    }
    return largest[k - 1];
}

static void cut_below(int64_t n, float *logits, float floor)
{
    for (int64_t i = 0; i < n; i++)
        if (logits[i] < floor)
            logits[i] = -INFINITY;
}

static int64_t draw(const mica_race_args *a, const float *logits)
{
    const mica_race *r = &a->race;
    int64_t best = -1;
    double best_score = 0.0;
    for (int64_t i = 0; i < a->choices; i++) {
        if (logits[i] == -INFINITY) /* cut */
            continue;
        const double u = mica_race_uniform(r->seed, r->stream, r->attempt, a->noise + (uint64_t)i);
        const double score = (double)logits[i] - log(-log(u));
        if (best < 0 || score > best_score) {
            best = i;
            best_score = score;
        }
    }
    return best < 0 ? argmax(a->choices, logits) : best;
}

int32_t mica_race_next(const mica_race_args *a, float *logits, const float *seen, float *work,
                       bool *is_end)
{
    const mica_race *r = &a->race;
    const int64_t n = a->choices;
    const float penalty = (float)r->penalty;
    for (int64_t i = 0; i < n && r->penalty != 1.0; i++)
        if (seen[i] != 0.0f)
            logits[i] = logits[i] < 0.0f ? logits[i] * penalty : logits[i] / penalty;
    const int64_t likeliest = argmax(n, logits);
    int64_t code = likeliest;
    if (!r->greedy && r->top_k > 1) {
        if (r->top_p < 1.0)
            cut_below(n, logits, floor_of_top_p(r->top_p, n, logits, work));
        for (int64_t i = 0; i < n; i++)
            logits[i] /= (float)(r->temperature > 1e-5 ? r->temperature : 1e-5);
        cut_below(n, logits, floor_of_top_k(r->top_k, n, logits, work));
        code = draw(a, logits);
    }
    *is_end = a->end >= 0 && (code == a->end || likeliest == a->end);
    return (int32_t)code;
}
