/* test_gpt_sovits_chain.c - the whole run through the model's own interface: a folder as its project lays
 * it out, a recording, given phones, tokens, sound; against the reference's chain. Then what must be
 * refused, and what must not matter. */
#include "golden_support.h"

#include "base/file.h"
#include "media/audio.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODELS     MICA_TEST_DATA "/gpt_sovits/models"
#define CASE(name) MICA_TEST_DATA "/gpt_sovits/cases/" name "/expected.safetensors"

typedef struct speaker {
    mica_model *model;
    mica_backend *be;
    mica_model_session *session;
    mica_trace *trace;
    char folder[256], wav[300];
} speaker;

static mica_engine_options model_options(const char *synthesizer)
{
    return (mica_engine_options){
        .size = sizeof(mica_engine_options), .model = MODELS, .synthesizer = synthesizer};
}

/* The reference recording of the case as a file of floats. */
static void write_reference(speaker *s, const char *path)
{
    mica_weights *w = NULL;
    mica_err err = {0};
    golden_temp_folder(s->folder, sizeof s->folder);
    snprintf(s->wav, sizeof s->wav, "%s/ref.wav", s->folder);
    if (mica_weights_open(&w, path, &err))
        fail_msg("%s", err.text);
    const mica_tensor *t = mica_weights_find(w, "ref_audio_32k");
    const mica_audio a = {.rate = 32000, .count = (size_t)mica_tensor_count(t), .samples = t->data};
    if (mica_audio_write(&a, s->wav, MICA_AUDIO_FLOAT, &err))
        fail_msg("%s", err.text);
    mica_weights_close(&w);
}

static void open_speaker(speaker *s, const char *synthesizer, const char *reference, int threads)
{
    mica_err err = {0};
    const mica_engine_options options = model_options(synthesizer);
    const mica_backend_options backend = {
        .device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32, .threads = threads};
    const mica_diffusion_switches switches = {0};
    *s = (speaker){.model = golden_model_open(&options)};
    write_reference(s, reference);
    if (mica_backend_open(&s->be, &backend, &err) || mica_trace_open(&s->trace, &err) ||
        s->model->kind->session_open(&s->session, s->model, s->be, &switches, &err))
        fail_msg("%s", err.text);
}

static void close_speaker(speaker *s)
{
    s->model->kind->session_close(&s->session);
    mica_backend_close(&s->be);
    mica_trace_close(&s->trace);
    golden_model_close(&s->model);
    golden_remove_folder(s->folder);
}

/* An exact run: codes and phones of the text-to-semantic case, the recording for the style. */
static mica_speech_options exact(const speaker *s, mica_voice_input *voice)
{
    *voice = (mica_voice_input){.path = s->wav};
    return (mica_speech_options){.size = sizeof(mica_speech_options),
                                 .voices = voice,
                                 .voice_count = 1,
                                 .greedy = true,
                                 .noise_scale = -1.0,
                                 .pause = -1.0,
                                 .max_tokens = 25,
                                 .phones_path = CASE("t2s"),
                                 .codes_path = CASE("t2s")};
}

static void speak_ok(speaker *s, const mica_speech_options *o, mica_speech_result *r)
{
    mica_err err = {0};
    if (s->model->kind->speak(s->session, o, mica_trace_sink(s->trace), r, &err))
        fail_msg("%s", err.text);
}

static void test_chain(void **state)
{
    (void)state;
    speaker s;
    mica_voice_input voice;
    mica_speech_result r;
    mica_weights *want = NULL;
    mica_err err = {0};
    open_speaker(&s, MODELS "/sovits_v2.pth", CASE("sovits_v2"), 2);
    const mica_speech_options o = exact(&s, &voice);
    speak_ok(&s, &o, &r);
    if (mica_weights_open(&want, CASE("chain"), &err))
        fail_msg("%s", err.text);
    golden_assert_equal("semantic_tokens", mica_trace_find(s.trace, "semantic_tokens"),
                        mica_weights_find(want, "semantic_tokens"));
    golden_assert_near("v2.waveform", mica_trace_find(s.trace, "waveform"),
                       mica_weights_find(want, "v2.waveform"), 1e-4);
    assert_int_equal(r.count, 32000);
    assert_int_equal(r.rate, 32000);
    assert_int_equal(r.part_count, 1);
    assert_int_equal(r.parts[0].tokens, 25);
    mica_speech_result_deinit(&r);
    mica_weights_close(&want);
    close_speaker(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
