/* test_gpt_sovits_sampler.c - the draw of semantic codes: frequencies against the probabilities of the
 * reference's own function, the end, and what counter-based noise promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "format/weights.h"
#include "models/gpt_sovits/gpt_sovits_sampler.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define VOCAB 48
#define DRAWS 40000

static const mica_tensor *find(const mica_weights *w, int i, const char *name)
{
    char full[32];
    snprintf(full, sizeof full, "%d.%s", i, name);
    const mica_tensor *t = mica_weights_find(w, full);
    assert_non_null(t);
    return t;
}

static mica_gs_sampler sampler_of(const float *settings)
{
    return (mica_gs_sampler){.vocab = VOCAB,

                             .options = {.top_k = (int)settings[0],
                                         .top_p = (double)settings[1],
                                         .temperature = (double)settings[2],
                                         .penalty = (double)settings[3],
                                         .seed = 99}};
}

/* The end may be drawn from step 11 on: all codes take part. */
static void count_draws(mica_gs_sampler *s, const mica_tensor *logits, const mica_tensor *seen,
                        int counts[VOCAB])
{
    memset(counts, 0, VOCAB * sizeof *counts);
    s->eos = VOCAB; /* none */
    for (int n = 0; n < DRAWS; n++) {
        float work[2 * VOCAB], copy[VOCAB];
        bool is_end = true;
        memcpy(copy, logits->data, sizeof copy);
        s->options.attempt = (uint32_t)n;
        const int32_t code =
            mica_gs_sampler_next(s, 20, copy, seen->data, seen->shape_[0], work, &is_end);
        assert_in_range(code, 0, VOCAB - 1);
        assert_false(is_end);
        counts[code]++;
    }
}

static void test_frequencies(void **state)
{
    (void)state;
    mica_weights *w = NULL;
    mica_err err = {0};
    if (mica_weights_open(&w, MICA_TEST_DATA "/gpt_sovits/cases/sampler/expected.safetensors",
                          &err))
        fail_msg("%s", err.text);
    for (int i = 0; i < 5; i++) {
        int counts[VOCAB];
        mica_gs_sampler s = sampler_of(find(w, i, "settings")->data);
        const float *probs = find(w, i, "probs")->data;
        count_draws(&s, find(w, i, "logits"), find(w, i, "seen"), counts);
        for (int c = 0; c < VOCAB; c++) {
            const double p = (double)probs[c], got = (double)counts[c] / DRAWS;
            if (p == 0.0 ? counts[c] != 0
                         : fabs(got - p) > 5.0 * sqrt(p * (1.0 - p) / DRAWS) + 1e-4)
                fail_msg("case %d, code %d: drawn %.4f, probability %.4f", i, c, got, p);
        }
    }
    mica_weights_close(&w);
}

static void fill(float *logits, int end_rank)
{
    for (int i = 0; i < VOCAB; i++)
        logits[i] = (float)(i % 7) - 3.0f;
    logits[VOCAB - 1] = end_rank == 1 ? 9.0f : -9.0f;
}

static void test_end(void **state)
{
    (void)state;
    const mica_gs_sampler s = {
        .vocab = VOCAB,
        .eos = VOCAB - 1,
        .options = {.top_k = 15, .top_p = 1.0, .temperature = 1.0, .penalty = 1.0, .greedy = true}};
    float logits[VOCAB], work[2 * VOCAB];
    bool is_end;
    fill(logits, 1);
    assert_int_not_equal(mica_gs_sampler_next(&s, 10, logits, NULL, 0, work, &is_end), VOCAB - 1);
    assert_false(is_end); /* not in the first eleven steps */
    fill(logits, 1);
    assert_int_equal(mica_gs_sampler_next(&s, 11, logits, NULL, 0, work, &is_end), VOCAB - 1);
    assert_true(is_end);
    fill(logits, 2);
    mica_gs_sampler_next(&s, 11, logits, NULL, 0, work, &is_end);
    assert_false(is_end);
}

/* The end counts when it is the likeliest, whatever is drawn; codes that were seen are penalised before
 * that is looked at, once however often they were seen. */
static void test_likeliest_end(void **state)
{
    (void)state;
    mica_gs_sampler s = {
        .vocab = VOCAB,
        .eos = VOCAB - 1,
        .options = {.top_k = VOCAB, .top_p = 1.0, .temperature = 50.0, .penalty = 2.0, .seed = 4}};
    float logits[VOCAB], work[2 * VOCAB];
    const int32_t seen[] = {3, 3, 3};
    bool is_end;
    fill(logits, 1);
    logits[3] = 10.0f; /* 5 when penalised: below the end's 9 */
    mica_gs_sampler_next(&s, 30, logits, seen, 3, work, &is_end);
    assert_true(is_end);
    fill(logits, 1);
    logits[3] = 19.0f; /* 9.5: above it */
    s.options.greedy = true;
    assert_int_equal(mica_gs_sampler_next(&s, 30, logits, seen, 3, work, &is_end), 3);
    assert_false(is_end);
}

static void test_noise(void **state)
{
    (void)state;
    double sum = 0.0, square = 0.0;
    for (uint64_t i = 0; i < 20000; i++) {
        float n[2];
        const double u = mica_gs_uniform(1, 2, 3, i);
        assert_true(u > 0.0 && u < 1.0);
        mica_gs_normal(1, 2, 3, i, n);
        sum += (double)n[0] + (double)n[1];
        square += (double)n[0] * (double)n[0] + (double)n[1] * (double)n[1];
    }
    assert_true(fabs(sum / 40000.0) < 0.02);
    assert_true(fabs(square / 40000.0 - 1.0) < 0.03);
    assert_true(mica_gs_uniform(1, 2, 3, 4) == mica_gs_uniform(1, 2, 3, 4));
    assert_true(mica_gs_uniform(1, 2, 3, 4) != mica_gs_uniform(2, 2, 3, 4));
    assert_true(mica_gs_uniform(1, 2, 3, 4) != mica_gs_uniform(1, 3, 3, 4));
    assert_true(mica_gs_uniform(1, 2, 3, 4) != mica_gs_uniform(1, 2, 4, 4));
    assert_true(mica_gs_uniform(1, 2, 3, 4) != mica_gs_uniform(1, 2, 3, 5));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_end),
        cmocka_unit_test(test_likeliest_end),
        cmocka_unit_test(test_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
