/* test_audio_window.c - the stretch that a voice is taken from. */
#include "golden_file.h"

#include "base/mem.h"
#include "media/audio_window.h"

#include <math.h>

#define RATE 1000

static mica_audio silence(double seconds)
{
    mica_audio a = {RATE, (size_t)(seconds * RATE), NULL};
    a.samples = mica_mem_calloc(a.count + 1, sizeof(float));
    return a;
}

static void speak(mica_audio *a, double from, double to, float loud)
{
    for (size_t i = (size_t)(from * RATE); i < (size_t)(to * RATE) && i < a->count; i++)
        a->samples[i] = loud * (float)sin((double)i * 1.3);
}

static void expect(mica_audio *a, double from, double to, double slack)
{
    mica_err err = {0};
    size_t first, count;
    if (mica_audio_find_window(a, "x", &first, &count, &err) != MICA_OK)
        fail_msg("%s", err.text);
    const double begin = (double)first / RATE, end = (double)(first + count) / RATE;
    assert_true(count >= 3 * RATE && (count <= 10 * RATE || count == a->count));
    if (fabs(begin - from) > slack || fabs(end - to) > slack)
        fail_msg("took %.2f to %.2f, not %.2f to %.2f", begin, end, from, to);
    mica_audio_deinit(a);
}

static void expect_refusal(mica_audio *a, const char *part)
{
    mica_err err = {0};
    size_t first, count;
    assert_int_equal(mica_audio_find_window(a, "ref.wav", &first, &count, &err), MICA_E_USAGE);
    assert_non_null(strstr(err.text, part));
    mica_audio_deinit(a);
}

static void test_short_ones_whole(void **state)
{
    (void)state;
    mica_audio a = silence(3.0), b = silence(10.0);
    speak(&a, 0.5, 2.0, 0.5f);
    expect(&a, 0.0, 3.0, 0.0);
    speak(&b, 0.0, 10.0, 0.5f);
    expect(&b, 0.0, 10.0, 0.0);
}

static void test_refusals(void **state)
{
    (void)state;
    mica_audio a = silence(2.9), b = silence(30.0);
    speak(&a, 0.0, 2.9, 0.5f);
    expect_refusal(&a, "2.90 seconds");
    expect_refusal(&b, "silence");
}

/* Eight seconds of speech between long silences: they are found, and not cut. */
static void test_finds_the_speech(void **state)
{
    (void)state;
    mica_audio a = silence(60.0);
    speak(&a, 2.0, 4.0, 0.5f);
    speak(&a, 31.0, 39.0, 0.5f);
    expect(&a, 31.0, 39.0, 1.1);
}

/* Sentences of four seconds with pauses: edges lie in pauses, never in a sentence. */
static void test_edges_in_pauses(void **state)
{
    (void)state;
    mica_err err = {0};
    size_t first, count;
    mica_audio a = silence(40.0);
    for (double at = 0.5; at + 4.0 < 40.0; at += 4.6)
        speak(&a, at, at + 4.0, 0.3f);
    assert_int_equal(mica_audio_find_window(&a, "x", &first, &count, &err), MICA_OK);
    assert_true(count > 8 * RATE); /* two sentences */
    for (size_t edge = 0; edge < 2; edge++) {
        const double at = (double)(first + edge * count) / RATE - 0.5;
        const double within = at - 4.6 * floor(at / 4.6);
        assert_true(at < 0.0 || within >= 3.98 || within <= 0.02);
    }
    mica_audio_deinit(&a);
}

/* A clipped stretch loses against a clean one; without any pause ten seconds are taken. */
static void test_clipping_and_no_pause(void **state)
{
    (void)state;
    mica_audio a = silence(40.0), b = silence(25.0);
    speak(&a, 2.0, 11.0, 1.4f);
    speak(&a, 22.0, 31.0, 0.5f);
    expect(&a, 22.0, 31.0, 1.1);
    mica_err err = {0};
    size_t first, count;
    speak(&b, 0.0, 25.0, 0.5f);
    assert_int_equal(mica_audio_find_window(&b, "x", &first, &count, &err), MICA_OK);
    assert_true(count <= 10 * RATE && count >= 3 * RATE);
    mica_audio_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_ones_whole),      cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_finds_the_speech),      cmocka_unit_test(test_edges_in_pauses),
        cmocka_unit_test(test_clipping_and_no_pause),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
