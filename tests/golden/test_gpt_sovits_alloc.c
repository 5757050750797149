/* test_gpt_sovits_alloc.c - allocations of opening a speech model and of a run that hears a recording
 * and speaks Chinese fail one at a time, in growing strides (golden_alloc.h). */
#include "golden_alloc.h"

#include "media/audio.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MODELS MICA_TEST_DATA "/gpt_sovits/models"

static const mica_engine_options ENGINE = {.size = sizeof ENGINE,
                                           .semantic = MODELS "/s1.ckpt",
                                           .synthesizer = MODELS "/sovits_v2.pth",
                                           .hubert = MODELS "/chinese-hubert-base",
                                           .bert = MODELS "/chinese-roberta-wwm-ext-large",
                                           .g2pw = MICA_TEST_DATA "/gpt_sovits/g2pw"};

static mica_status speak(mica_model_session *s, const mica_model_kind *kind, const void *options,
                         mica_err *err)
{
    mica_speech_result result = {0};
    const mica_status st = kind->speak(s, options, NULL, &result, err);
    if ((st == MICA_OK) != (result.samples != NULL))
        fail_msg("status %d: %s", st, err->text);
    mica_speech_result_deinit(&result);
    return st;
}

static void test_open(void **state)
{
    (void)state;
    golden_fail_open(&ENGINE);
}

static void write_tone(const char *path)
{
    mica_err err = {0};
    mica_audio a = {.rate = 16000, .count = 50000};
    a.samples = malloc(a.count * sizeof *a.samples);
    for (size_t i = 0; i < a.count; i++)
        a.samples[i] = (float)(0.4 * sin(0.02 * (double)i) * (0.6 + 0.4 * sin(0.0006 * (double)i)));
    assert_int_equal(mica_audio_write(&a, path, MICA_AUDIO_PCM16, &err), MICA_OK);
    free(a.samples);
}

static void test_run(void **state)
{
    (void)state;
    char folder[256], path[300];
    golden_temp_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/ref.wav", folder);
    write_tone(path);
    const mica_voice_input voice = {.path = path, .text = "你好。", .language = "zh"};
    const mica_speech_options o = {.size = sizeof o,
                                   .text = "天气好得很。",
                                   .voices = &voice,
                                   .voice_count = 1,
                                   .retries = -1,
                                   .max_tokens = 12};
    golden_fail_run(&ENGINE, speak, &o, 48);
    golden_remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_open), cmocka_unit_test(test_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
