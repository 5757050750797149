/* test_gpt_sovits_stream.c - sound handed out while its codes are still being made: nothing is lost or told
 * twice, and it is nearly what the whole sentence would be. */
#include "golden_support.h"

#include "media/audio.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MODELS  MICA_TEST_DATA "/gpt_sovits/models"
#define PHONES  MICA_TEST_DATA "/gpt_sovits/cases/t2s/expected.safetensors"
#define VOICE   MICA_TEST_DATA "/speech/recordings/ref4.flac"
#define TOKENS  70
#define SAMPLES (TOKENS * 1280)

typedef struct listener {
    float *samples;
    size_t count, calls, stop_at; /* stop_at: calls after which it has heard enough; 0: never */
    bool ended;
} listener;

static bool listen(void *user, const mica_speech_chunk *chunk)
{
    listener *l = user;
    assert_false(l->ended); /* nothing behind the last */
    assert_int_equal(chunk->rate, 32000);
    l->samples = realloc(l->samples, (l->count + chunk->count + 1) * sizeof *l->samples);
    assert_non_null(l->samples);
    memcpy(l->samples + l->count, chunk->samples, chunk->count * sizeof *l->samples);
    l->count += chunk->count;
    l->ended = chunk->last;
    return ++l->calls != l->stop_at;
}

typedef struct speaker {
    mica_model *model;
    mica_backend *be;
    mica_model_session *session;
} speaker;

static void open_speaker(speaker *s)
{
    mica_err err = {0};
    const mica_engine_options options = {
        .size = sizeof options, .model = MODELS, .synthesizer = MODELS "/sovits_v2.pth"};
    const mica_backend_options backend = {
        .device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32, .threads = 2};
    const mica_diffusion_switches switches = {0};
    *s = (speaker){.model = golden_model_open(&options)};
    if (mica_backend_open(&s->be, &backend, &err) ||
        s->model->kind->session_open(&s->session, s->model, s->be, &switches, &err))
        fail_msg("%s", err.text);
}

static void close_speaker(speaker *s)
{
    s->model->kind->session_close(&s->session);
    mica_backend_close(&s->be);
    golden_model_close(&s->model);
}

static mica_status speak(speaker *s, double speed, int chunk_tokens, listener *l,
                         mica_speech_result *r, mica_err *err)
{
    static const mica_voice_input voice = {.path = VOICE};
    const mica_speech_options o = {.size = sizeof o,
                                   .voices = &voice,
                                   .voice_count = 1,
                                   .phones_path = PHONES,
                                   .codes_path = PHONES,
                                   .seed = 3,
                                   .speed = speed,
                                   .pause = 0.1,
                                   .retries = -1,
                                   .max_tokens = TOKENS,
                                   .chunk_tokens = chunk_tokens,
                                   .chunk = listen,
                                   .chunk_user = l};
    return s->model->kind->speak(s->session, &o, NULL, r, err);
}

static void speak_ok(speaker *s, double speed, int chunk_tokens, listener *l, mica_speech_result *r)
{
    mica_err err = {0};
    if (speak(s, speed, chunk_tokens, l, r, &err))
        fail_msg("%s", err.text);
    assert_true(l->ended);
    assert_int_equal(l->count, r->count); /* the stream is the result */
    assert_memory_equal(l->samples, r->samples, r->count * sizeof *r->samples);
    assert_int_equal(r->part_count, 1);
}

static double distance(const float *a, const float *b, size_t count)
{
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    return sqrt(difference / norm);
}

static void test_stream_is_the_sentence(void **state)
{
    (void)state;
    speaker s;
    listener whole = {0}, small = {0}, one = {0};
    mica_speech_result r, streamed, single;
    open_speaker(&s);
    speak_ok(&s, 1.0, 0, &whole, &r);
    assert_int_equal(r.parts[0].count, SAMPLES);
    assert_int_equal(whole.calls, 1);
    speak_ok(&s, 1.0, 20, &small, &streamed);
    assert_int_equal(streamed.parts[0].count, SAMPLES);
    assert_int_equal(streamed.count, r.count);
    assert_true(small.calls >= 4); /* 20, 40, 60, the rest */
    const double l2 = distance(streamed.samples, r.samples, r.count);
    if (l2 > 0.05) /* -26 dB: the prior sees the codes so far, not those to come */
        fail_msg("the stream is %.3g away from the sentence", l2);
    speak_ok(&s, 1.0, 200, &one, &single);
    assert_int_equal(one.calls, 1);
    assert_memory_equal(single.samples, r.samples, r.count * sizeof *r.samples);
    mica_speech_result_deinit(&r);
    mica_speech_result_deinit(&streamed);
    mica_speech_result_deinit(&single);
    free(whole.samples);
    free(small.samples);
    free(one.samples);
    close_speaker(&s);
}

/* Frames of a stream stand where its speed says, whatever the chunks: two cuts of one sentence are one sound, as
 * long as the whole. */
static void test_speed(void **state)
{
    (void)state;
    static const double SPEEDS[] = {0.7, 1.3, 3.0};
    speaker s;
    open_speaker(&s);
    for (int i = 0; i < 3; i++) {
        listener heard[4] = {{0}};
        mica_speech_result r[4];
        static const int CHUNKS[] = {0, 20, 35, 200};
        for (int k = 0; k < 4; k++) {
            speak_ok(&s, SPEEDS[i], CHUNKS[k], &heard[k], &r[k]);
            assert_int_equal(r[k].parts[0].count, ((int)(2 * TOKENS / SPEEDS[i]) + 1) * 640);
        }
        assert_true(heard[1].calls > 1 && heard[2].calls > 1);
        assert_memory_equal(r[3].samples, r[0].samples, r[0].count * sizeof *r[0].samples);
        const double l2 = distance(r[1].samples, r[2].samples, r[1].count);
        if (l2 > 3e-3) /* 2e-3; spread over what is known so far it would be 3.4e-3 to 7.5e-3 */
            fail_msg("at speed %g chunks of 20 and of 35 are %.3g apart", SPEEDS[i], l2);
        for (int k = 0; k < 4; k++) {
            mica_speech_result_deinit(&r[k]);
            free(heard[k].samples);
        }
    }
    close_speaker(&s);
}

static void test_listener_goes_away(void **state)
{
    (void)state;
    speaker s;
    listener l = {.stop_at = 2};
    mica_speech_result r;
    mica_err err = {0};
    open_speaker(&s);
    assert_int_equal(speak(&s, 1.0, 16, &l, &r, &err), MICA_E_CANCELLED);
    assert_int_equal(l.calls, 2);
    assert_null(r.samples);
    free(l.samples);
    l = (listener){0};
    speak_ok(&s, 1.0, 16, &l, &r); /* the session can go on */
    mica_speech_result_deinit(&r);
    free(l.samples);
    close_speaker(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream_is_the_sentence),
        cmocka_unit_test(test_speed),
        cmocka_unit_test(test_listener_goes_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
