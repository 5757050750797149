/* token_sampler.c - see token_sampler.h.
 *
 * References: repetition penalty: Keskar et al. 2019 (CTRL), as transformers' RepetitionPenaltyLogitsProcessor;
 * frequency and presence: the definition of OpenAI's API; typical: Meister et al. 2022; top-p: Holtzman et
 * al. 2019; min-p: Nguyen et al. 2024. Sums in f64 and in a fixed order, so a seed gives the same text on
 * every machine whose logits are the same. */
#include "sample/token_sampler.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static mica_status check_range(const char *name, double value, double lo, double hi, mica_err *err)
{
    if (value >= lo && value <= hi)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_USAGE, "%s is %g, expected %g to %g", name, value, lo, hi);
}

static mica_status check(const mica_sampler_options *o, int64_t vocab, mica_err *err)
{
    MICA_TRY(check_range("temperature", o->temperature, 0.01, 100.0, err));
    MICA_TRY(check_range("top_k", o->top_k, 0, 1e9, err));
    MICA_TRY(check_range("top_p", o->top_p, 1e-6, 1.0, err));
    MICA_TRY(check_range("typical_p", o->typical_p, 1e-6, 1.0, err));
    MICA_TRY(check_range("min_p", o->min_p, 0.0, 1.0, err));
    MICA_TRY(check_range("repetition_penalty", o->repetition, 0.01, 100.0, err));
    MICA_TRY(check_range("frequency_penalty", o->frequency, -100.0, 100.0, err));
    MICA_TRY(check_range("presence_penalty", o->presence, -100.0, 100.0, err));
    for (int i = 0; i < o->bias_count; i++) {
        if (o->bias[i].id < 0 || o->bias[i].id >= vocab)
            return MICA_FAIL(err, MICA_E_USAGE, "logit bias for token %d of %lld",
                             (int)o->bias[i].id, (long long)vocab);
        MICA_TRY(check_range("logit bias", o->bias[i].bias, -1e6, 1e6, err));
    }
    return MICA_OK;
}

mica_status mica_token_sampler_init(mica_token_sampler *s, const mica_sampler_options *options,
                                    int64_t vocab, mica_err *err)
{
    *s = (mica_token_sampler){.options = *options, .vocab = vocab};
    MICA_TRY(check(options, vocab, err));
    s->candidates = mica_mem_calloc((size_t)vocab, sizeof *s->candidates);
    s->seen = mica_mem_calloc((size_t)vocab, sizeof *s->seen);
    s->order[0] = mica_mem_calloc((size_t)vocab, 2 * sizeof *s->order[0]);
    if (!s->candidates || !s->seen || !s->order[0])
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to choose among %lld tokens",
                         (long long)vocab);
    s->order[1] = s->order[0] + vocab;
    mica_mt19937_init(&s->random, (uint32_t)(options->seed ^ options->seed >> 32));
    return MICA_OK;
}

void mica_token_sampler_deinit(mica_token_sampler *s)
{
    mica_mem_free(s->candidates);
    mica_mem_free(s->seen);
    mica_mem_free(s->order[0]);
    *s = (mica_token_sampler){0};
}

/* ---------------------------------------------------------------- penalties -- */

static void penalise(mica_token_sampler *s, float *logits, const int32_t *history, size_t count)
{
    const mica_sampler_options *o = &s->options;
    if (o->repetition == 1.0 && o->frequency == 0.0 && o->presence == 0.0)
        return;
    const size_t window = o->window < 0 ? count : MICA_MIN(count, (size_t)o->window);
    const int32_t *last = history + count - window;
    for (size_t i = 0; i < window; i++)
        if (last[i] >= 0 && last[i] < s->vocab)
            s->seen[last[i]]++;
    for (size_t i = 0; i < window; i++) {
        const int32_t id = last[i];
        if (id < 0 || id >= s->vocab || s->seen[id] == 0)
            continue;
        float *x = &logits[id];
        *x = *x > 0.0f ? *x / (float)o->repetition : *x * (float)o->repetition;
        *x -= (float)(o->frequency * s->seen[id] + o->presence);
        s->seen[id] = 0;
    }
}

/* --------------------------------------------------------------------- cuts -- */

static void set_probabilities(mica_candidate *c, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += c[i].p = exp((double)c[i].logit - (double)c[0].logit);
    for (size_t i = 0; i < n; i++)
        c[i].p /= sum;
}

/* Order by distance of a token's surprise from the expected one; logit keeps the order for ties. */
typedef struct surprise {
    double distance;
    size_t at;
} surprise;

static int by_distance(const void *a, const void *b)
{
    const surprise *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

/* Keeps the most typical tokens up to a total of typical_p, in order of their logits. */
static size_t cut_typical(mica_candidate *c, size_t n, double typical_p)
{
    double entropy = 0.0, sum = 0.0;
    size_t kept = 0, most = 0;
    surprise *order = mica_mem_calloc(n, sizeof *order);
    if (!order)
        return n; /* a cut less is no harm */
    for (size_t i = 0; i < n; i++)
        if (c[i].p > 0.0)
            entropy -= c[i].p * log(c[i].p);
    for (size_t i = 0; i < n; i++)
        order[i] = (surprise){c[i].p > 0.0 ? fabs(-log(c[i].p) - entropy) : INFINITY, i};
    qsort(order, n, sizeof *order, by_distance);
    while (most < n && sum < typical_p)
        sum += c[order[most++].at].p;
    for (size_t i = 0; i < most; i++)
        c[order[i].at].p = -1.0;
    for (size_t i = 0; i < n; i++)
        if (c[i].p < 0.0)
            c[kept++] = c[i];
    mica_mem_free(order);
    return kept;
}

static size_t cut_top_p(const mica_candidate *c, size_t n, double top_p)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += c[i].p;
        if (sum >= top_p)
            return i + 1;
    }
    return n;
}

static size_t cut_min_p(const mica_candidate *c, size_t n, double min_p)
{
    size_t kept = 1;
    while (kept < n && c[kept].p >= min_p * c[0].p)
        kept++;
    return kept;
}

static size_t cut(const mica_sampler_options *o, mica_candidate *c, size_t n)
{
    if (o->top_k > 0)
        n = MICA_MIN(n, (size_t)o->top_k);
    if (o->typical_p < 1.0 || o->top_p < 1.0 || o->min_p > 0.0)
        set_probabilities(c, n);
    if (o->typical_p < 1.0) {
        n = cut_typical(c, n, o->typical_p);
        set_probabilities(c, n);
    }
    if (o->top_p < 1.0) {
        n = cut_top_p(c, n, o->top_p);
        set_probabilities(c, n);
    }
    return o->min_p > 0.0 ? cut_min_p(c, n, o->min_p) : n;
}

/* --------------------------------------------------------------------- draw -- */

static int32_t draw(mica_token_sampler *s, const mica_candidate *c, size_t n)
{
    const double scale = 1.0 / s->options.temperature;
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double x = ((double)c[i].logit - (double)c[0].logit) * scale;
        if (x < -38.0)
            break; /* exp(x) < 2^-54: the sum, which is 1 at least, would not change, nor by smaller ones */
        sum += exp(x);
    }
    /* 53 bits, as torch and Python draw doubles. */
    const uint32_t a = mica_mt19937_next(&s->random) >> 5, b = mica_mt19937_next(&s->random) >> 6;
    double left = sum * ((a * 67108864.0 + b) / 9007199254740992.0);
    for (size_t i = 0; i < n; i++) {
        left -= exp(((double)c[i].logit - (double)c[0].logit) * scale);
        if (left < 0.0)
            return c[i].id;
    }
    return c[n - 1].id;
}

/* The largest of n > 0 numbers without NaN, by lanes that a compiler makes a vector of. */
static float largest(const float *x, int64_t n)
{
    float top[16];
    int64_t i = 0;
    for (int k = 0; k < 16; k++)
        top[k] = x[0];
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; k++)
            top[k] = x[i + k] > top[k] ? x[i + k] : top[k];
    for (; i < n; i++)
        top[0] = x[i] > top[0] ? x[i] : top[0];
    for (int k = 1; k < 16; k++)
        top[0] = top[k] > top[0] ? top[k] : top[0];
    return top[0];
}

/* The best token that is allowed, of equal ones the first, without sorting all. */
static int32_t best_allowed(float *logits, int64_t vocab, mica_allow_fn allowed, void *user)
{
    for (;;) {
        const float top = largest(logits, vocab);
        int32_t best = 0;
        if (!(top > -INFINITY))
            return -1;
        while (logits[best] != top)
            best++;
        if (!allowed || allowed(user, best))
            return best;
        logits[best] = -INFINITY;
    }
}

/* ---------------------------------------------------------------------- sort -- */

#define DIGIT 11 /* bits: three passes over 32 */

/* Rises as the logit falls. */
static uint32_t rank_of(float logit)
{
    const float x = logit + 0.0f; /* of -0 and 0 none is before the other */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits >> 31 ? bits : ~bits & 0x7fffffffu;
}

/* By the digit of the ranks in the high halves; equal ones keep their order. */
static void sort_digit(const uint64_t *from, uint64_t *to, size_t n, int digit)
{
    const int shift = 32 + DIGIT * digit;
    uint32_t at[1 << DIGIT] = {0}, sum = 0;
    for (size_t i = 0; i < n; i++)
        at[from[i] >> shift & ((1 << DIGIT) - 1)]++;
    for (int d = 0; d < 1 << DIGIT; d++) {
        const uint32_t count = at[d];
        at[d] = sum;
        sum += count;
    }
    for (size_t i = 0; i < n; i++)
        to[at[from[i] >> shift & ((1 << DIGIT) - 1)]++] = from[i];
}

/* Candidates in the order of their ids by logits, the largest first, of equal ones the lower id: a radix sort, a
 * tenth of qsort's time for 32,000 of them. */
static void sort_candidates(mica_token_sampler *s, const float *logits, size_t n)
{
    for (size_t i = 0; i < n; i++)
        s->order[0][i] =
            (uint64_t)rank_of(s->candidates[i].logit) << 32 | (uint32_t)s->candidates[i].id;
    for (int digit = 0; digit < 3; digit++)
        sort_digit(s->order[digit % 2], s->order[(digit + 1) % 2], n, digit);
    for (size_t i = 0; i < n; i++) {
        const int32_t id = (int32_t)(uint32_t)s->order[1][i];
        s->candidates[i] = (mica_candidate){id, logits[id], 0.0};
    }
}

static size_t collect(mica_token_sampler *s, const float *logits, mica_allow_fn allowed, void *user)
{
    size_t n = 0;
    for (int64_t i = 0; i < s->vocab; i++)
        if (logits[i] > -INFINITY && (!allowed || allowed(user, (int32_t)i)))
            s->candidates[n++] = (mica_candidate){(int32_t)i, logits[i], 0.0};
    if (n > 0)
        sort_candidates(s, logits, n);
    return n;
}

/* Without a way out of the loop, so that it becomes one of vectors. */
static bool are_finite(const float *x, int64_t n)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

mica_status mica_token_sampler_next(mica_token_sampler *s, float *logits, const int32_t *history,
                                    size_t count, mica_allow_fn allowed, void *user, int32_t *id,
                                    mica_err *err)
{
    if (!are_finite(logits, s->vocab)) {
        int64_t i = 0;
        while (isfinite(logits[i]))
            i++;
        return MICA_FAIL(err, MICA_E_NUMERIC,
                         "the logit of token %lld at position %zu is not a finite number",
                         (long long)i, count);
    }
    for (int i = 0; i < s->options.bias_count; i++)
        logits[s->options.bias[i].id] += (float)s->options.bias[i].bias;
    penalise(s, logits, history, count);
    if (s->options.greedy) {
        *id = best_allowed(logits, s->vocab, allowed, user);
    } else {
        const size_t n = collect(s, logits, allowed, user);
        *id = n > 0 ? draw(s, s->candidates, cut(&s->options, s->candidates, n)) : -1;
    }
    if (*id < 0)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "the grammar allows no token of this vocabulary at position %zu", count);
    return MICA_OK;
}

double mica_token_logprob(const float *logits, int64_t vocab, int32_t id)
{
    double top = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < vocab; i++)
        top = fmax(top, (double)logits[i]);
    for (int64_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - top);
    return (double)logits[id] - top - log(sum);
}

void mica_token_top(const float *logits, int64_t vocab, int count, int32_t *ids)
{
    int kept = 0;
    for (int64_t i = 0; i < vocab; i++) {
        if (kept == count && logits[i] <= logits[ids[kept - 1]])
            continue;
        int at = kept < count ? kept++ : kept - 1;
        for (; at > 0 && logits[i] > logits[ids[at - 1]]; at--)
            ids[at] = ids[at - 1];
        ids[at] = (int32_t)i;
    }
}
