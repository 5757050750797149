/* test_gpt_sovits_alloc.c - allocations of opening a speech model and of a run that hears a recording
 * and speaks Chinese fail one at a time, in growing strides. Each attempt must end with "out of memory"
 * and a text, or go without and end well; leaks and wild pointers are the sanitizer build's to find. */
#include "golden_support.h"

#include "base/mem.h"
#include "media/audio.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MODELS MICA_TEST_DATA "/gpt_sovits/models"

static mica_status open_model(mica_model **m, mica_err *err)
{
    const mica_engine_options engine = {.size = sizeof engine,
                                        .semantic = MODELS "/s1.ckpt",
                                        .synthesizer =
                                            MICA_TEST_DATA "/gpt_sovits/models/sovits_v2.pth",
                                        .hubert = MODELS "/chinese-hubert-base",
                                        .bert = MODELS "/chinese-roberta-wwm-ext-large"};
    mica_model_parts parts;
    const mica_model_kind *kind;
    mica_status st = mica_model_parts_resolve(&parts, &kind, &engine, err);
    if (!st)
        st = kind->open(m, &parts, err);
    mica_model_parts_deinit(&parts);
    return st;
}

static mica_status run_model(const mica_model *m, const mica_speech_options *o, mica_err *err)
{
    const mica_backend_options be_options = {
        .device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32, .threads = 1};
    const mica_diffusion_switches switches = {0};
    mica_backend *be = NULL;
    mica_model_session *s = NULL;
    mica_speech_result result = {0};
    mica_status st = mica_backend_open(&be, &be_options, err);
    if (!st)
        st = m->kind->session_open(&s, m, be, &switches, err);
    if (!st)
        st = m->kind->speak(s, o, NULL, &result, err);
    if ((st == MICA_OK) != (result.samples != NULL))
        fail_msg("status %d: %s", st, err->text);
    mica_speech_result_deinit(&result);
    if (s)
        m->kind->session_close(&s);
    mica_backend_close(&be);
    return st;
}

static void check(mica_status st, const mica_err *err, const char *what, uint64_t n)
{
    if (st != MICA_OK && (st != MICA_E_NOMEM || !err->text[0]))
        fail_msg("%s, allocation %d: %s: %s", what, (int)n, mica_status_name(st), err->text);
}

static void test_open(void **state)
{
    (void)state;
    mica_model *m = NULL;
    mica_err err = {0};
    const uint64_t before = mica_mem_count();
    assert_int_equal(open_model(&m, &err), MICA_OK);
    const uint64_t total = mica_mem_count() - before;
    m->kind->close(&m);
    print_message("%d allocations to open\n", (int)total);
    for (uint64_t n = 1; n <= total; n += 1 + n / 64) {
        err = (mica_err){0};
        mica_mem_fail_at(n);
        const mica_status st = open_model(&m, &err);
        mica_mem_fail_at(0);
        check(st, &err, "open", n);
        if (m)
            m->kind->close(&m);
    }
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
    mica_model *m = NULL;
    mica_err err = {0};
    golden_temp_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/ref.wav", folder);
    write_tone(path);
    const mica_voice_input voice = {.path = path, .text = "你好。", .language = "zh"};
    const mica_speech_options o = {.size = sizeof o,
                                   .text = "天气很好。",
                                   .voices = &voice,
                                   .voice_count = 1,
                                   .retries = -1,
                                   .max_tokens = 12};
    assert_int_equal(open_model(&m, &err), MICA_OK);
    assert_int_equal(run_model(m, &o, &err), MICA_OK); /* fills what libraries keep for good */
    const uint64_t before = mica_mem_count();
    assert_int_equal(run_model(m, &o, &err), MICA_OK);
    const uint64_t total = mica_mem_count() - before;
    int refused = 0;
    print_message("%d allocations to run\n", (int)total);
    for (uint64_t n = 1; n <= total; n += 1 + n / 48) {
        err = (mica_err){0};
        mica_mem_fail_at(n);
        const mica_status st = run_model(m, &o, &err);
        mica_mem_fail_at(0);
        check(st, &err, "run", n);
        refused += st != MICA_OK;
    }
    assert_true(refused > 20);
    m->kind->close(&m);
    golden_remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_open), cmocka_unit_test(test_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
