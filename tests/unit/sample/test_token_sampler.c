/* test_token_sampler.c - each step of choosing a token by itself, then draws against their probabilities. */
#include "base/mem.h"
#include "sample/token_sampler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#define V 6
/* Probabilities .4 .3 .15 .1 .04 .01 in another order of ids. */
static const double P[V] = {.1, .4, .01, .3, .15, .04};

static mica_sampler_options plain(void)
{
    return (mica_sampler_options){
        .temperature = 1.0, .top_p = 1.0, .typical_p = 1.0, .repetition = 1.0, .window = 64};
}

static void fill(float *logits)
{
    for (int i = 0; i < V; i++)
        logits[i] = (float)(log(P[i]) + 3.0);
}

/* Shares of ids in many draws. */
static void draw_many(const mica_sampler_options *o, const int32_t *history, size_t count,
                      double *share)
{
    enum { N = 20000 };
    mica_err err = {0};
    mica_token_sampler s;
    float logits[V];
    memset(share, 0, V * sizeof *share);
    assert_int_equal(mica_token_sampler_init(&s, o, V, &err), MICA_OK);
    for (int i = 0; i < N; i++) {
        int32_t id = -1;
        fill(logits);
        assert_int_equal(mica_token_sampler_next(&s, logits, history, count, NULL, NULL, &id, &err),
                         MICA_OK);
        share[id] += 1.0 / N;
    }
    mica_token_sampler_deinit(&s);
}

/* Four standard deviations of a share of 20,000 draws are at most 0.0142. */
static void expect_shares(const mica_sampler_options *o, const double *want)
{
    double share[V], sum = 0.0;
    draw_many(o, NULL, 0, share);
    for (int i = 0; i < V; i++)
        sum += want[i];
    for (int i = 0; i < V; i++) {
        assert_true(fabs(share[i] - want[i] / sum) < 0.015);
        assert_true(want[i] > 0.0 || share[i] == 0.0);
    }
}

static void test_cuts(void **state)
{
    (void)state;
    mica_sampler_options o = plain();
    expect_shares(&o, P);
    o.top_k = 2;
    expect_shares(&o, (double[V]){0, .4, 0, .3, 0, 0});
    o = plain();
    o.top_p = .8; /* .4 + .3 + .15 is the first sum that reaches it */
    expect_shares(&o, (double[V]){0, .4, 0, .3, .15, 0});
    o = plain();
    o.min_p = .2; /* of .4: .08 */
    expect_shares(&o, (double[V]){.1, .4, 0, .3, .15, 0});
    o = plain();
    o.temperature = .5; /* squares */
    expect_shares(&o, (double[V]){.01, .16, .0001, .09, .0225, .0016});
    o = plain();
    o.typical_p = .5; /* entropy 1.43: -log .3 and -log .15 are nearest, .45 < .5, then .4 */
    expect_shares(&o, (double[V]){0, .4, 0, .3, .15, 0});
}

static void test_penalties(void **state)
{
    (void)state;
    double share[V];
    const int32_t history[] = {3, 1, 1};
    mica_sampler_options o = plain();
    o.presence = 1.0;
    o.frequency = 0.5; /* id 1: e^-2, id 3: e^-1.5 */
    draw_many(&o, history, 3, share);
    const double a = .4 * exp(-2.0), b = .3 * exp(-1.5), sum = .3 + a + b;
    assert_true(fabs(share[1] - a / sum) < 0.015 && fabs(share[3] - b / sum) < 0.015);
    o.window = 1; /* the last alone */
    draw_many(&o, history, 3, share);
    const double c = .4 * exp(-1.5), sum1 = .6 + c;
    assert_true(fabs(share[1] - c / sum1) < 0.015);
    assert_true(fabs(share[3] - .3 / sum1) < 0.015);
    o = plain();
    o.repetition = 2.0; /* logits above 0 are halved, others doubled */
    draw_many(&o, history, 3, share);
    const double l1 = (log(.4) + 3.0) / 2, l3 = (log(.3) + 3.0) / 2;
    const double d = exp(l1 - 3.0), e = exp(l3 - 3.0), sum2 = .3 + d + e;
    assert_true(fabs(share[1] - d / sum2) < 0.015 && fabs(share[3] - e / sum2) < 0.015);
}

static bool even(void *user, int32_t id)
{
    (void)user;
    return id % 2 == 0;
}

static void test_greedy_bias_grammar(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_token_sampler s;
    int32_t id;
    float logits[V];
    const mica_logit_bias bias[] = {{2, 100.0}, {1, -100.0}};
    mica_sampler_options o = plain();
    o.greedy = true;
    assert_int_equal(mica_token_sampler_init(&s, &o, V, &err), MICA_OK);
    fill(logits);
    assert_int_equal(mica_token_sampler_next(&s, logits, NULL, 0, NULL, NULL, &id, &err), MICA_OK);
    assert_int_equal(id, 1);
    fill(logits);
    assert_int_equal(mica_token_sampler_next(&s, logits, NULL, 0, even, NULL, &id, &err), MICA_OK);
    assert_int_equal(id, 4);
    mica_token_sampler_deinit(&s);
    o.bias = bias;
    o.bias_count = 2;
    assert_int_equal(mica_token_sampler_init(&s, &o, V, &err), MICA_OK);
    fill(logits);
    assert_int_equal(mica_token_sampler_next(&s, logits, NULL, 0, NULL, NULL, &id, &err), MICA_OK);
    assert_int_equal(id, 2);
    logits[0] = NAN;
    assert_int_equal(mica_token_sampler_next(&s, logits, NULL, 0, NULL, NULL, &id, &err),
                     MICA_E_NUMERIC);
    mica_token_sampler_deinit(&s);
}

static bool nothing(void *user, int32_t id)
{
    (void)user;
    (void)id;
    return false;
}

static void test_refusals(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_token_sampler s;
    const mica_logit_bias bias[] = {{V, 1.0}};
    mica_sampler_options bad[6];
    for (int i = 0; i < 6; i++)
        bad[i] = plain();
    bad[0].temperature = 0.0;
    bad[1].top_p = 1.5;
    bad[2].min_p = -1.0;
    bad[3].repetition = 0.0;
    bad[4].bias = bias;
    bad[4].bias_count = 1;
    bad[5].top_k = -1;
    for (int i = 0; i < 6; i++) {
        assert_int_equal(mica_token_sampler_init(&s, &bad[i], V, &err), MICA_E_USAGE);
        mica_token_sampler_deinit(&s);
    }
    float logits[V];
    int32_t id;
    mica_sampler_options o = plain();
    for (int greedy = 0; greedy < 2; greedy++) {
        o.greedy = greedy;
        assert_int_equal(mica_token_sampler_init(&s, &o, V, &err), MICA_OK);
        fill(logits);
        assert_int_equal(mica_token_sampler_next(&s, logits, NULL, 0, nothing, NULL, &id, &err),
                         MICA_E_UNSUPPORTED);
        mica_token_sampler_deinit(&s);
    }
}

static void test_logprobs(void **state)
{
    (void)state;
    float logits[V];
    int32_t top[3];
    fill(logits);
    for (int i = 0; i < V; i++)
        assert_true(fabs(mica_token_logprob(logits, V, i) - log(P[i])) < 1e-6);
    mica_token_top(logits, V, 3, top);
    assert_true(top[0] == 1 && top[1] == 3 && top[2] == 4);
    logits[3] = logits[1]; /* equal ones: the lower id first */
    mica_token_top(logits, V, 2, top);
    assert_true(top[0] == 1 && top[1] == 3);
}

/* The same seed gives the same draws, another one others. */
static void test_seed(void **state)
{
    (void)state;
    int32_t ids[3][64];
    float logits[V];
    mica_err err = {0};
    for (int run = 0; run < 3; run++) {
        mica_token_sampler s;
        mica_sampler_options o = plain();
        o.seed = run == 2 ? 8 : 7;
        assert_int_equal(mica_token_sampler_init(&s, &o, V, &err), MICA_OK);
        for (int i = 0; i < 64; i++) {
            fill(logits);
            (void)mica_token_sampler_next(&s, logits, NULL, 0, NULL, NULL, &ids[run][i], &err);
        }
        mica_token_sampler_deinit(&s);
    }
    assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
    assert_memory_not_equal(ids[0], ids[2], sizeof ids[0]);
}

/* Candidates stand by their logits, of equal ones the lower id first; -0 and 0 are equal. */
static void test_order(void **state)
{
    (void)state;
    const mica_sampler_options o = plain();
    mica_err err = {0};
    mica_token_sampler s;
    mica_mt19937 random;
    float logits[5000], work[5000];
    int32_t id;
    mica_mt19937_init(&random, 11);
    for (int i = 0; i < 5000; i++) {
        const int n = (int)(mica_mt19937_next(&random) % 1001) - 500;
        logits[i] = n ? (float)n * 0.0371f : i % 2 ? -0.0f : 0.0f;
    }
    logits[17] = 3e38f;
    logits[18] = -3e38f;
    logits[19] = 1e-40f;
    assert_int_equal(mica_token_sampler_init(&s, &o, 5000, &err), MICA_OK);
    memcpy(work, logits, sizeof work);
    assert_int_equal(mica_token_sampler_next(&s, work, NULL, 0, NULL, NULL, &id, &err), MICA_OK);
    assert_int_equal(id, 17);
    for (int i = 0; i + 1 < 5000; i++) {
        const mica_candidate *a = &s.candidates[i], *b = a + 1;
        assert_true(a->logit == logits[a->id]);
        assert_true(a->logit > b->logit || (a->logit == b->logit && a->id < b->id));
    }
    mica_token_sampler_deinit(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_greedy_bias_grammar),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_seed),
        cmocka_unit_test(test_order),
    };
    return cmocka_run_group_tests_name("token_sampler", tests, NULL, NULL);
}
