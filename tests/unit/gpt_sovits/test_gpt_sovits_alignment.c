/* test_gpt_sovits_alignment.c - what attention says of a reading: made-up traces of sentences read well, with
 * words left out, said again, drawn out; and which heads are trusted at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "models/gpt_sovits/gpt_sovits_alignment.h"

#include <math.h>
#include <string.h>

#define PHONES 40
#define MOST   400

typedef struct trace {
    float shares[MOST][PHONES];
    int64_t rows;
    uint32_t state; /* of the noise */
} trace;

static float noise(trace *t)
{
    t->state = t->state * 1664525u + 1013904223u;
    return (float)(t->state >> 8) / 16777216.0f;
}

/* A code that looks at `at`: a bell over a floor of noise; half of the attention is elsewhere. */
static void look(trace *t, double at, double width)
{
    float *row = t->shares[t->rows++], sum = 0.0f;
    for (int j = 0; j < PHONES; j++) {
        const double d = ((double)j - at) / width;
        row[j] = (float)exp(-0.5 * d * d) + 0.02f * noise(t);
        sum += row[j];
    }
    for (int j = 0; j < PHONES; j++)
        row[j] *= 0.5f / sum;
}

/* From phone `from` up to `to`, `rate` codes a phone and now and then a glance at a neighbour. */
static void go(trace *t, double from, double to, double rate)
{
    const int n = (int)((to - from) * rate);
    for (int i = 0; i < n; i++)
        look(t, from + (double)i / rate + (noise(t) < 0.1f ? 2.0 : 0.0), 0.7);
}

static mica_gs_alignment read_trace(const trace *t)
{
    mica_gs_alignment a;
    mica_err err = {0};
    assert_int_equal(mica_gs_alignment_read(t->shares[0], t->rows, PHONES, &a, &err), MICA_OK);
    return a;
}

static float score(const trace *t)
{
    float s;
    mica_err err = {0};
    assert_int_equal(mica_gs_alignment_score(t->shares[0], t->rows, PHONES, &s, &err), MICA_OK);
    return s;
}

/* Whatever the pace, with a pause, ahead of or behind the text by a phone or two: nothing to complain of. */
static void test_read_well(void **state)
{
    static const double RATES[] = {1.0, 1.5, 2.0, 3.0, 5.0};
    (void)state;
    for (size_t k = 0; k < sizeof RATES / sizeof *RATES; k++)
        for (int lag = -2; lag <= 2; lag++) {
            trace t = {.state = (uint32_t)(k * 7 + (size_t)(lag + 2))};
            go(&t, lag, 20 + lag, RATES[k]);
            for (int i = 0; i < 25; i++) /* a second */
                look(&t, 20 + lag, 0.7);
            go(&t, 20 + lag, PHONES + lag, RATES[k]);
            const mica_gs_alignment a = read_trace(&t);
            assert_true(a.followed);
            assert_false(mica_gs_alignment_has_dropped(&a));
            assert_false(mica_gs_alignment_has_repeated(&a));
            if (lag == 0)
                assert_true(score(&t) > 0.3f);
        }
}

static void test_dropped(void **state)
{
    (void)state;
    for (int first = 0; first <= 28; first += 7) { /* at the beginning, within, at the end */
        trace t = {.state = 5};
        go(&t, 0, first, 2.0);
        go(&t, first + 12, PHONES, 2.0);
        const mica_gs_alignment a = read_trace(&t);
        assert_true(mica_gs_alignment_has_dropped(&a));
        assert_false(mica_gs_alignment_has_repeated(&a));
        assert_true(a.first_dropped >= first && a.first_dropped <= first + 3);
        assert_true(a.dropped >= 8 && a.dropped <= 12);
        assert_true(score(&t) == 0.0f);
    }
    trace t = {.state = 5}; /* a syllable may be swallowed */
    go(&t, 0, 20, 2.0);
    go(&t, 23, PHONES, 2.0);
    const mica_gs_alignment a = read_trace(&t);
    assert_true(a.followed);
    assert_false(mica_gs_alignment_has_dropped(&a));
}

static void test_repeated(void **state)
{
    (void)state;
    trace t = {.state = 9};
    go(&t, 0, 25, 2.0);
    go(&t, 12, PHONES, 2.0); /* words said twice */
    mica_gs_alignment a = read_trace(&t);
    assert_true(mica_gs_alignment_has_repeated(&a));
    assert_false(mica_gs_alignment_has_dropped(&a));
    assert_true(a.first_again >= 11 && a.first_again <= 14);
    assert_true(a.again >= 8);
    assert_true(score(&t) == 0.0f);

    t = (trace){.state = 9}; /* the whole text once more */
    go(&t, 0, PHONES, 2.0);
    go(&t, 0, PHONES, 2.0);
    a = read_trace(&t);
    assert_true(mica_gs_alignment_has_repeated(&a));

    t = (trace){.state = 9}; /* a second's look back at one phone is not reading */
    go(&t, 0, 30, 2.0);
    for (int i = 0; i < 25; i++)
        look(&t, 3, 0.7);
    go(&t, 30, PHONES, 2.0);
    a = read_trace(&t);
    assert_true(a.followed);
    assert_false(mica_gs_alignment_has_repeated(&a));
}

static void test_stalled(void **state)
{
    (void)state;
    for (int n = 40; n <= 80; n += 40) {
        trace t = {.state = 3};
        go(&t, 0, 17, 2.0);
        for (int i = 0; i < n; i++)
            look(&t, 17, 0.7);
        go(&t, 17, PHONES, 2.0);
        const mica_gs_alignment a = read_trace(&t);
        assert_true(a.followed);
        assert_int_equal(mica_gs_alignment_has_repeated(&a), n == 80);
    }
}

/* Heads that see everything, look away, look at one place or anywhere are not asked, and say nothing. */
static void test_not_followed(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        trace t = {.state = 21};
        for (int i = 0; i < 80; i++) {
            look(&t,
                 kind == 0   ? 20.0
                 : kind == 3 ? 40.0 * (double)noise(&t)
                             : i / 2.0,
                 kind == 1 ? 30.0 : 0.7);
            for (int j = 0; kind == 2 && j < PHONES; j++)
                t.shares[i][j] *= 0.1f;
        }
        assert_true(score(&t) == 0.0f);
        const mica_gs_alignment a = read_trace(&t);
        if (kind == 1 || kind == 2) {
            assert_false(a.followed);
            assert_false(mica_gs_alignment_has_dropped(&a));
            assert_false(mica_gs_alignment_has_repeated(&a));
        }
    }
    trace t = {.state = 1};
    go(&t, 0, 5, 2.0); /* too short to say anything */
    assert_false(read_trace(&t).followed);
    t.rows = 0;
    assert_false(read_trace(&t).followed);
    go(&t, 0, PHONES, 2.0);
    for (int64_t i = 0; i < t.rows; i++)
        t.shares[i][i % PHONES] = NAN;
    assert_false(read_trace(&t).followed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_well),    cmocka_unit_test(test_dropped),
        cmocka_unit_test(test_repeated),     cmocka_unit_test(test_stalled),
        cmocka_unit_test(test_not_followed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
