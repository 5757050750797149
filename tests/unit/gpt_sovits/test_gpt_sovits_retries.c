/* test_gpt_sovits_retries.c - which codes cannot be what the phones say: too few, too many, loops; and what
 * speech does that is none of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "models/gpt_sovits/gpt_sovits_job.h"

#define PHONES 20
#define PROMPT 30

/* A job of 20 phones with `count` codes behind a prompt that loops itself, which must not matter. */
static bool is_odd(const int32_t *codes, int64_t count)
{
    int32_t all[PROMPT + 600] = {0};
    for (int64_t i = 0; i < count; i++)
        all[PROMPT + i] = codes[i];
    const mica_gs_job j = {.phone_count = PHONES + 7,
                           .prompt_phones = 7,
                           .sentence = {.codes = all,
                                        .prompt_count = PROMPT,
                                        .count = count,
                                        .sampler = {.options = {.most = 500}}}};
    return mica_gs_job_count_doubts(&j) != 0;
}

/* Codes that never repeat. */
static void fill(int32_t *codes, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        codes[i] = (int32_t)i;
}

static void test_length(void **state)
{
    int32_t codes[600];
    (void)state;
    fill(codes, 600);
    assert_true(is_odd(codes, 0));
    assert_true(is_odd(codes, 9)); /* half a code a phone is dropped words */
    assert_false(is_odd(codes, 10));
    assert_false(is_odd(codes, 45));
    assert_false(is_odd(codes, 12 * PHONES + 75));
    assert_true(is_odd(codes, 12 * PHONES + 76));
    assert_true(is_odd(codes, 500)); /* stopped by the limit */
}

static void test_loops(void **state)
{
    static const int PERIODS[] = {1, 2, 3, 4, 7, 12, 25, 50};
    int32_t codes[600];
    (void)state;
    for (size_t k = 0; k < sizeof PERIODS / sizeof *PERIODS; k++) {
        const int period = PERIODS[k], loop = 3 * period > 24 + period ? 3 * period : 24 + period;
        for (int length = loop - 1; length <= loop; length++) {
            fill(codes, 300);
            for (int i = period; i < length; i++) /* begins at 40 */
                codes[40 + i] = codes[40 + i - period];
            assert_int_equal(is_odd(codes, 300), length == loop);
        }
    }
}

/* A word said twice, a pause of 0.9 s. */
static void test_what_speech_does(void **state)
{
    int32_t codes[100];
    (void)state;
    fill(codes, 100);
    for (int i = 0; i < 12; i++)
        codes[32 + i] = codes[20 + i];
    assert_false(is_odd(codes, 100));
    for (int i = 0; i < 23; i++)
        codes[60 + i] = 999;
    assert_false(is_odd(codes, 100));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_loops),
        cmocka_unit_test(test_what_speech_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
