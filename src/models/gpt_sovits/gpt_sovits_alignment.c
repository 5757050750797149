/* gpt_sovits_alignment.c - see gpt_sovits_alignment.h.
 *
 * A code looks at phone q where the window q - 1, q, q + 1 has the most of its attention, and for certain
 * where that is half of what goes to phones at all. Heads look a phone ahead or behind, and never stay
 * exactly: so a phone was seen when a code looked at it or at a neighbour, and single glances are taken
 * away by a median of five. */
#include "models/gpt_sovits/gpt_sovits_alignment.h"

#include "base/checked.h"
#include "base/mem.h"

#include <math.h>

#define LEAST_SHARE 0.3f /* of a code's attention on phones; else it looks elsewhere */
#define LEAST_FOCUS 0.5f /* of that in three neighbours */
#define SEEN        0.5f /* attention of half a code, over all codes, is a look too */
#define LEAST_ROWS  12

/* A syllable has two phones or three, a code is 40 ms. */
#define DROPPED  6
#define BACK     6  /* phones behind the furthest one */
#define ON_AGAIN 4  /* phones that are gone again from there */
#define REPEATED 8  /* codes of it */
#define STALLED  63 /* 2.5 s; pauses and drawn-out vowels are shorter */

/* Of a head that is to be trusted with a text. */
#define SCORE_LOCATED     0.75
#define SCORE_DROPPED     2
#define SCORE_BACK        4
#define SCORE_REPEATED    4
#define SCORE_CORRELATION 0.9

typedef struct path {
    int64_t *at;     /* [count]: phone by code, of those that looked for certain */
    int64_t *middle; /* medians of five */
    bool *seen;      /* [phones] */
    int64_t count;
    double focus; /* mean of the windows */
} path;

static void path_deinit(path *p)
{
    mica_mem_free(p->at);
    mica_mem_free(p->middle);
    mica_mem_free(p->seen);
}

/* The middle of the best window of three; *best: its share. */
static int64_t find_phone(const float *row, int64_t phones, float *best)
{
    int64_t at = 0;
    *best = -1.0f;
    for (int64_t j = 0; j < phones; j++) {
        const float sum =
            row[j] + (j > 0 ? row[j - 1] : 0.0f) + (j + 1 < phones ? row[j + 1] : 0.0f);
        /* of two windows that hold the same the one that is centred on more */
        if (sum > *best * 1.0001f || (sum > *best * 0.9999f && row[j] > row[at])) {
            *best = sum;
            at = j;
        }
    }
    return at;
}

/* Whether a code looks at some phone for certain; *focus (may be NULL): the share of its window. */
static bool looks_at(const float *row, int64_t phones, int64_t *at, float *focus)
{
    float best, total = 0.0f;
    for (int64_t j = 0; j < phones; j++)
        total += row[j];
    if (!(total >= LEAST_SHARE))
        return false;
    *at = find_phone(row, phones, &best);
    if (focus)
        *focus = best;
    return best >= LEAST_FOCUS * total;
}

static int64_t median_of(const int64_t *at, int64_t count, int64_t i)
{
    int64_t v[5];
    int n = 0;
    const int64_t reach = MICA_MIN((int64_t)2, MICA_MIN(i, count - 1 - i));
    for (int64_t k = i - reach; k <= i + reach; k++) {
        int j = n++;
        for (; j > 0 && v[j - 1] > at[k]; j--)
            v[j] = v[j - 1];
        v[j] = at[k];
    }
    return v[n / 2];
}

static void mark_seen(path *p, int64_t at, int64_t phones)
{
    for (int64_t j = MICA_MAX(at - 1, (int64_t)0); j <= MICA_MIN(at + 1, phones - 1); j++)
        p->seen[j] = true;
}

static void find_path(const float *shares_RT, int64_t rows, int64_t phones, path *p)
{
    for (int64_t r = 0; r < rows; r++) {
        float focus;
        int64_t at;
        if (!looks_at(shares_RT + r * phones, phones, &at, &focus))
            continue;
        p->at[p->count++] = at;
        p->focus += (double)focus;
        mark_seen(p, at, phones);
    }
    for (int64_t i = 0; i < p->count; i++)
        p->middle[i] = median_of(p->at, p->count, i);
    for (int64_t j = 0; j < phones; j++) {
        float sum = 0.0f;
        for (int64_t r = 0; r < rows; r++)
            sum += shares_RT[r * phones + j];
        p->seen[j] |= sum >= SEEN;
    }
    p->focus /= (double)MICA_MAX(p->count, (int64_t)1);
}

static mica_status path_init(path *p, const float *shares_RT, int64_t rows, int64_t phones,
                             mica_err *err)
{
    *p = (path){.at = mica_mem_calloc((size_t)rows + 1, sizeof *p->at),
                .middle = mica_mem_calloc((size_t)rows + 1, sizeof *p->middle),
                .seen = mica_mem_calloc((size_t)phones + 1, sizeof *p->seen)};
    if (!p->at || !p->middle || !p->seen) {
        path_deinit(p);
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the attention of %lld codes",
                         (long long)rows);
    }
    find_path(shares_RT, rows, phones, p);
    return MICA_OK;
}

static void find_dropped(const path *p, int64_t phones, mica_gs_alignment *out)
{
    int64_t run = 0;
    for (int64_t j = 0; j < phones; j++) {
        run = p->seen[j] ? 0 : run + 1;
        if (run > out->dropped) {
            out->dropped = run;
            out->first_dropped = j + 1 - run;
        }
    }
}

/* The longest way that begins `back` phones behind the furthest one and goes on from there. */
static void find_again(const path *p, int64_t back, mica_gs_alignment *out)
{
    int64_t furthest = -1;
    for (int64_t i = 0; i < p->count; i++) {
        int64_t low = p->middle[i], climb = 0, n = i;
        furthest = MICA_MAX(furthest, low);
        if (furthest - low < back)
            continue;
        for (; n < p->count && furthest - p->middle[n] > 2; n++) {
            low = MICA_MIN(low, p->middle[n]);
            climb = MICA_MAX(climb, p->middle[n] - low);
        }
        if (climb >= MICA_MIN(back, (int64_t)ON_AGAIN) && n - i > out->repeated) {
            out->repeated = n - i;
            out->again = climb + 1;
            out->first_again = low;
        }
        i = n - 1;
    }
}

static int64_t longest_stay(const path *p)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < p->count; i++) {
        int64_t low = p->middle[i], high = low, n = i;
        for (; n < p->count; n++) {
            low = MICA_MIN(low, p->middle[n]);
            high = MICA_MAX(high, p->middle[n]);
            if (high - low > 1)
                break;
        }
        longest = MICA_MAX(longest, n - i);
    }
    return longest;
}

mica_status mica_gs_alignment_read(const float *shares_RT, int64_t rows, int64_t phones,
                                   mica_gs_alignment *out, mica_err *err)
{
    path p;
    *out = (mica_gs_alignment){0};
    MICA_TRY(path_init(&p, shares_RT, rows, phones, err));
    if (rows >= LEAST_ROWS && 2 * p.count >= rows) {
        out->followed = true;
        find_dropped(&p, phones, out);
        find_again(&p, BACK, out);
        out->stalled = longest_stay(&p);
    }
    path_deinit(&p);
    return MICA_OK;
}

bool mica_gs_alignment_has_dropped(const mica_gs_alignment *a)
{
    return a->followed && a->dropped >= DROPPED;
}

bool mica_gs_alignment_has_repeated(const mica_gs_alignment *a)
{
    return a->followed && (a->repeated >= REPEATED || a->stalled >= STALLED);
}

/* Pearson's, of phone and code. */
static double correlation(const path *p)
{
    const double n = (double)p->count;
    double x = 0.0, y = 0.0, xx = 0.0, yy = 0.0, xy = 0.0;
    for (int64_t i = 0; i < p->count; i++) {
        const double a = (double)i, b = (double)p->at[i];
        x += a;
        y += b;
        xx += a * a;
        yy += b * b;
        xy += a * b;
    }
    const double spread = (n * xx - x * x) * (n * yy - y * y);
    return spread > 0.0 ? (n * xy - x * y) / sqrt(spread) : 0.0;
}

static bool follows(const path *p, int64_t rows, int64_t phones)
{
    mica_gs_alignment a = {0};
    find_dropped(p, phones, &a);
    find_again(p, SCORE_BACK, &a);
    return rows >= LEAST_ROWS && (double)p->count >= SCORE_LOCATED * (double)rows &&
           a.dropped <= SCORE_DROPPED && a.repeated < SCORE_REPEATED && longest_stay(p) < STALLED &&
           correlation(p) >= SCORE_CORRELATION;
}

/* Most heads look nowhere for certain, as every eighth code shows already. */
static bool may_follow(const float *shares_RT, int64_t rows, int64_t phones)
{
    int64_t asked = 0, certain = 0;
    for (int64_t r = 0; r < rows; r += 8, asked++) {
        int64_t at;
        certain += looks_at(shares_RT + r * phones, phones, &at, NULL);
    }
    return 2 * certain >= asked;
}

mica_status mica_gs_alignment_score(const float *shares_RT, int64_t rows, int64_t phones,
                                    float *score, mica_err *err)
{
    path p;
    *score = 0.0f;
    if (!may_follow(shares_RT, rows, phones))
        return MICA_OK;
    MICA_TRY(path_init(&p, shares_RT, rows, phones, err));
    if (follows(&p, rows, phones))
        *score = (float)p.focus;
    path_deinit(&p);
    return MICA_OK;
}
