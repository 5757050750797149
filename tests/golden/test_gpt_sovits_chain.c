/* test_gpt_sovits_chain.c - the whole run through the model's own interface: a folder as its project lays
 * it out, a recording, given phones, tokens, sound; against the reference's chain. Then what must be
 * refused, and what must not matter. */
#include "gpt_sovits_support.h"

#include "base/file.h"
#include "media/audio.h"
#include "models/gpt_sovits/gpt_sovits.h"

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

static void open_in(speaker *s, const char *synthesizer, const char *reference,
                    mica_precision precision, int threads)
{
    mica_err err = {0};
    const mica_engine_options options = model_options(synthesizer);
    const mica_backend_options backend = {
        .device = gs_device(), .precision = precision, .threads = threads};
    const mica_diffusion_switches switches = {0};
    *s = (speaker){.model = golden_model_open(&options)};
    write_reference(s, reference);
    if (mica_backend_open(&s->be, &backend, &err) || mica_trace_open(&s->trace, &err) ||
        s->model->kind->session_open(&s->session, s->model, s->be, &switches, &err))
        fail_msg("%s", err.text);
}

static void open_speaker(speaker *s, const char *synthesizer, const char *reference, int threads)
{
    open_in(s, synthesizer, reference, MICA_PRECISION_F32, threads);
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

/* -------------------------------------------------------- what must not matter -- */

#define TEXT "今天天气很好。我们去公园散步吧。The weather is nice today!"

/* Four seconds of a swept tone under a slow envelope: as good as speech to a random network. */
static void write_tone(const char *path, double seconds)
{
    mica_err err = {0};
    mica_audio a = {.rate = 24000, .count = (size_t)(24000 * seconds)};
    a.samples = malloc(a.count * sizeof *a.samples);
    for (size_t i = 0; i < a.count; i++) {
        const double t = (double)i / 24000.0;
        a.samples[i] =
            (float)(0.4 * sin(6.2831853 * (150.0 + 90.0 * t) * t) * (0.6 + 0.4 * sin(9.0 * t)));
    }
    if (mica_audio_write(&a, path, MICA_AUDIO_PCM16, &err))
        fail_msg("%s", err.text);
    free(a.samples);
}

typedef struct collected {
    float *samples;
    size_t count;
    int calls, last, stop_at;
} collected;

static bool collect(void *user, const mica_speech_chunk *chunk)
{
    collected *c = user;
    c->samples = realloc(c->samples, (c->count + chunk->count) * sizeof *c->samples);
    memcpy(c->samples + c->count, chunk->samples, chunk->count * sizeof *c->samples);
    c->count += chunk->count;
    c->last += chunk->last;
    return ++c->calls != c->stop_at;
}

static mica_speech_options spoken(const speaker *s, mica_voice_input *voice)
{
    *voice = (mica_voice_input){.path = s->wav, .text = "你好，世界。", .language = "zh"};
    return (mica_speech_options){.size = sizeof(mica_speech_options),
                                 .text = TEXT,
                                 .voices = voice,
                                 .voice_count = 1,
                                 .seed = 11,
                                 .retries = -1,
                                 .max_tokens = 40};
}

static void assert_same(const mica_speech_result *a, const mica_speech_result *b)
{
    assert_int_equal(a->count, b->count);
    gs_same_samples(b->samples, a->samples, a->count);
}

static void test_text(void **state)
{
    (void)state;
    speaker s;
    mica_voice_input voice;
    mica_speech_result plain, other;
    collected c = {0};
    open_speaker(&s, MODELS "/sovits_v2.pth", CASE("sovits_v2"), 2);
    write_tone(s.wav, 4.0);
    mica_speech_options o = spoken(&s, &voice);
    speak_ok(&s, &o, &plain);
    assert_int_equal(plain.part_count, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(plain.parts[i].count, plain.parts[i].tokens * 1280);
        assert_int_equal(plain.parts[i].first + plain.parts[i].count + 9600,
                         i < 2 ? plain.parts[i + 1].first : plain.count);
    }
    o.batch = 3; /* a batch makes what its sentences make alone */
    o.chunk = collect;
    o.chunk_user = &c;
    speak_ok(&s, &o, &other);
    assert_same(&plain, &other);
    assert_int_equal(c.calls, 3);
    assert_int_equal(c.last, 1);
    assert_int_equal(c.count, plain.count); /* and the pieces are the whole */
    gs_same_samples(c.samples, plain.samples, c.count);
    mica_speech_result_deinit(&other);
    o.chunk = NULL;
    o.seed = 12;
    speak_ok(&s, &o, &other);
    assert_true(other.count != plain.count ||
                memcmp(other.samples, plain.samples, plain.count * sizeof *plain.samples) != 0);
    mica_speech_result_deinit(&other);
    o.seed = 11;
    o.speed = 2.0; /* changes lengths, not codes */
    speak_ok(&s, &o, &other);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(other.parts[i].tokens, plain.parts[i].tokens);
        assert_int_equal(other.parts[i].count, (other.parts[i].tokens + 1) * 640);
    }
    mica_speech_result_deinit(&other);
    mica_speech_result_deinit(&plain);
    free(c.samples);
    close_speaker(&s);
}

/* Sentences that the limit cuts off are odd: each is made anew with noise of its own, as often as allowed. */
static void test_retries(void **state)
{
    (void)state;
    speaker s;
    mica_voice_input voice;
    mica_speech_result plain, again, once;
    open_speaker(&s, MODELS "/sovits_v2.pth", CASE("sovits_v2"), 2);
    write_tone(s.wav, 4.0);
    mica_speech_options o = spoken(&s, &voice);
    speak_ok(&s, &o, &plain);
    o.retries = 2;
    speak_ok(&s, &o, &again);
    o.retries = 1;
    o.batch = 1;
    speak_ok(&s, &o, &once);
    assert_int_equal(again.part_count, plain.part_count);
    for (int i = 0; i < plain.part_count; i++) {
        const mica_speech_part *a = &plain.parts[i], *b = &again.parts[i], *c = &once.parts[i];
        assert_int_equal(a->retries, 0);
        assert_int_equal(b->retries, b->doubts ? 2 : b->retries);
        assert_int_equal(c->retries, c->doubts ? 1 : c->retries);
        if (!a->doubts) {
            assert_int_equal(b->retries, 0);
            continue;
        }
        assert_true(b->retries > 0);
        assert_true(b->count != a->count ||
                    memcmp(again.samples + b->first, plain.samples + a->first,
                           a->count * sizeof(float)) != 0);
    }
    assert_true(plain.parts[0].doubts);
    mica_speech_result_deinit(&plain);
    mica_speech_result_deinit(&again);
    mica_speech_result_deinit(&once);
    close_speaker(&s);
}

static void test_threads(void **state)
{
    (void)state;
    mica_speech_result r[2];
    for (int i = 0; i < 2; i++) {
        speaker s;
        mica_voice_input voice;
        open_speaker(&s, MODELS "/sovits_v2.pth", CASE("sovits_v2"), 1 + 2 * i);
        write_tone(s.wav, 4.0);
        const mica_speech_options o = spoken(&s, &voice);
        speak_ok(&s, &o, &r[i]);
        close_speaker(&s);
    }
    assert_same(&r[0], &r[1]);
    mica_speech_result_deinit(&r[0]);
    mica_speech_result_deinit(&r[1]);
}

/* Prepared forms of all weights, joined ones too, go with the session: it closes before its backend. */
static void test_precisions(void **state)
{
    static const mica_precision LIST[] = {MICA_PRECISION_BF16, MICA_PRECISION_INT8};
    const bool is_cpu = gs_device() == MICA_DEVICE_CPU; /* a GPU has no int8 */
    (void)state;
    for (size_t i = 0; i < (is_cpu ? MICA_ARRAY_LEN(LIST) : 1); i++) {
        speaker s;
        mica_voice_input voice;
        mica_speech_result r;
        open_in(&s, MODELS "/sovits_v2.pth", CASE("sovits_v2"), LIST[i], 2);
        const mica_speech_options o = exact(&s, &voice);
        speak_ok(&s, &o, &r);
        assert_true(r.count > 0);
        for (size_t k = 0; k < r.count; k++)
            assert_true(isfinite(r.samples[k]));
        mica_speech_result_deinit(&r);
        close_speaker(&s);
    }
}

static void refuse(speaker *s, const mica_speech_options *o, mica_status status, const char *text)
{
    mica_speech_result r;
    mica_err err = {0};
    const mica_status st = s->model->kind->speak(s->session, o, NULL, &r, &err);
    if (st != status || !strstr(err.text, text))
        fail_msg("status %d: %s; expected %d with \"%s\"", st, err.text, status, text);
    assert_null(r.samples);
}

/* A voice kept on disk speaks as the recordings do; that of another model is refused. */
static void test_voice_file(void **state)
{
    (void)state;
    speaker s;
    mica_voice_input voices[2];
    mica_speech_result heard, kept;
    mica_err err = {0};
    char path[320], second[320], *notes = NULL;
    open_speaker(&s, MODELS "/sovits_v2.pth", CASE("sovits_v2"), 2);
    snprintf(path, sizeof path, "%s/one.voice", s.folder);
    snprintf(second, sizeof second, "%s/second.wav", s.folder);
    write_tone(s.wav, 12.0); /* too long: a stretch of it is taken */
    write_tone(second, 3.5);
    mica_speech_options o = spoken(&s, voices);
    voices[1] = (mica_voice_input){.path = second};
    o.voice_count = 2;
    speak_ok(&s, &o, &heard);
    assert_non_null(heard.notes);
    assert_non_null(strstr(heard.notes, "12.0 s long"));
    if (s.model->kind->write_voice(s.session, &o, path, &notes, &err))
        fail_msg("%s", err.text);
    assert_string_equal(notes, heard.notes);
    voices[0] = (mica_voice_input){.path = path}; /* with its transcript */
    o.voice_count = 1;
    speak_ok(&s, &o, &kept);
    assert_same(&heard, &kept);
    mica_speech_result_deinit(&heard);
    mica_speech_result_deinit(&kept);
    mica_mem_free(notes);
    o.voice_count = 2;
    refuse(&s, &o, MICA_E_USAGE, "cannot be joined");
    speaker other;
    open_speaker(&other, MODELS "/sovits_v2Pro.pth", CASE("sovits_v2Pro"), 1);
    o.voice_count = 1;
    refuse(&other, &o, MICA_E_USAGE, "made with another synthesizer");
    close_speaker(&other);
    close_speaker(&s);
}

/* Phones as a text of names; v2Pro with its speaker network. */
static void test_phone_names(void **state)
{
    (void)state;
    speaker s;
    mica_voice_input voice;
    mica_speech_result r;
    char path[320];
    open_speaker(&s, MODELS "/sovits_v2.pth", CASE("sovits_v2"), 1);
    snprintf(path, sizeof path, "%s/phones.txt", s.folder);
    FILE *f = fopen(path, "w");
    fputs("n i3 h ao3 , HH AH0 L OW1 .\n", f);
    fclose(f);
    write_tone(s.wav, 4.0);
    mica_speech_options o = spoken(&s, &voice);
    o.text = NULL;
    o.phones_path = path;
    o.trace_path = NULL;
    speak_ok(&s, &o, &r);
    assert_int_equal(r.part_count, 1);
    mica_speech_result_deinit(&r);
    f = fopen(path, "w");
    fputs("n i3 nonsense\n", f);
    fclose(f);
    refuse(&s, &o, MICA_E_USAGE, "nonsense");
    close_speaker(&s);
}

/* --------------------------------------------------------------- what is refused -- */

static void test_refused(void **state)
{
    (void)state;
    speaker s;
    mica_voice_input voice;
    collected c = {.stop_at = 2};
    open_speaker(&s, MODELS "/sovits_v2.pth", CASE("sovits_v2"), 1);
    write_tone(s.wav, 4.0);
    mica_speech_options o = spoken(&s, &voice);
    o.language = "ja";
    refuse(&s, &o, MICA_E_UNSUPPORTED, "ja");
    o = spoken(&s, &voice);
    o.text = " \n";
    refuse(&s, &o, MICA_E_USAGE, "");
    o = spoken(&s, &voice);
    o.tokens_path = CASE("t2s");
    refuse(&s, &o, MICA_E_MISSING, "no tensor semantic_tokens");
    o = spoken(&s, &voice);
    o.chunk = collect;
    o.chunk_user = &c;
    refuse(&s, &o, MICA_E_CANCELLED, "stopped");
    free(c.samples);
    write_tone(s.wav, 2.5);
    o = spoken(&s, &voice);
    refuse(&s, &o, MICA_E_USAGE, "2.5");
    o.voice_count = 0;
    refuse(&s, &o, MICA_E_USAGE, "no voice");
    close_speaker(&s);
    open_speaker(&s, MODELS "/sovits_v2Pro.pth", CASE("sovits_v2Pro"), 1);
    write_tone(s.wav, 4.0);
    o = spoken(&s, &voice);
    refuse(&s, &o, MICA_E_MISSING, "v2Pro needs the speaker network");
    close_speaker(&s);
}

static void test_parts(void **state)
{
    (void)state;
    mica_model_parts parts;
    const mica_model_kind *kind;
    mica_err err = {0};
    mica_engine_options o = model_options(NULL);
    assert_int_equal(mica_model_parts_resolve(&parts, &kind, &o, &err), MICA_E_USAGE);
    assert_non_null(strstr(err.text, "are both a synthesizer; choose one with --synthesizer"));
    o.model = MICA_TEST_DATA "/gpt_sovits/converted";
    if (mica_model_parts_resolve(&parts, &kind, &o, &err))
        fail_msg("%s", err.text);
    assert_string_equal(kind->id, "gpt-sovits");
    mica_model *m = NULL;
    if (kind->open(&m, &parts, &err))
        fail_msg("%s", err.text);
    kind->close(&m);
    mica_model_parts_deinit(&parts);
    o.model = NULL;
    o.synthesizer = MICA_TEST_DATA "/gpt_sovits/versions/sovits_v1.pth"; /* 322 phones */
    o.semantic = MODELS "/s1.ckpt";
    if (mica_model_parts_resolve(&parts, &kind, &o, &err))
        fail_msg("%s", err.text);
    if (kind->open(&m, &parts, &err))
        fail_msg("%s", err.text);
    kind->close(&m);
    mica_model_parts_deinit(&parts);
    o.semantic = NULL;
    if (mica_model_parts_resolve(&parts, &kind, &o, &err))
        fail_msg("%s", err.text);
    assert_int_equal(kind->open(&m, &parts, &err), MICA_E_MISSING);
    assert_null(m);
    assert_non_null(strstr(err.text, "give it with --semantic"));
    mica_model_parts_deinit(&parts);
}

/* ------------------------------------------------------------------- v2Pro -- */

/* The reference's tiny v2Pro wants speaker vectors of 160 numbers, the tiny speaker network makes 2560: the
 * file again with the v2ProPlus case's layer for them. */
static void write_pro(const char *path)
{
    mica_weights *pro = NULL, *plus = NULL;
    mica_err err = {0};
    gs_ok(mica_weights_open(&pro, MODELS "/sovits_v2Pro.pth", &err), &err);
    gs_ok(
        mica_weights_open(&plus, MICA_TEST_DATA "/gpt_sovits/versions/sovits_v2ProPlus.pth", &err),
        &err);
    const size_t count = mica_weights_count(pro);
    mica_safetensors_entry *entries = calloc(count, sizeof *entries);
    for (size_t i = 0; i < count; i++) {
        const char *name = mica_weights_name(pro, i);
        const bool replaced = strcmp(name, "sv_emb.weight") == 0;
        entries[i] = (mica_safetensors_entry){name, replaced ? mica_weights_find(plus, name)
                                                             : mica_weights_tensor(pro, i)};
    }
    gs_ok(mica_safetensors_write(path, entries, count, NULL, &err), &err);
    free(entries);
    mica_weights_close(&pro);
    mica_weights_close(&plus);
}

/* From a recording to sound, with the speaker network as a part; its vector takes part in the style. */
static void test_v2pro(void **state)
{
    (void)state;
    speaker s = {.model = NULL};
    mica_voice_input voice;
    mica_speech_result r;
    mica_err err = {0};
    char file[300];
    write_reference(&s, CASE("sovits_v2Pro"));
    snprintf(file, sizeof file, "%s/pro.safetensors", s.folder);
    write_pro(file);
    mica_engine_options options = model_options(file);
    options.speaker = MICA_TEST_DATA "/gpt_sovits/versions/speaker.ckpt";
    const mica_backend_options backend = {
        .device = gs_device(), .precision = MICA_PRECISION_F32, .threads = 2};
    const mica_diffusion_switches switches = {0};
    s.model = golden_model_open(&options);
    assert_int_equal(((const mica_gs_model *)s.model)->facts.version, MICA_GS_V2PRO);
    gs_ok(mica_backend_open(&s.be, &backend, &err), &err);
    gs_ok(mica_trace_open(&s.trace, &err), &err);
    gs_ok(s.model->kind->session_open(&s.session, s.model, s.be, &switches, &err), &err);
    float styles[2][4];
    for (int i = 0; i < 2; i++) {
        if (i == 1)
            write_tone(s.wav, 4.0);
        const mica_speech_options o = exact(&s, &voice);
        speak_ok(&s, &o, &r);
        assert_int_equal(r.count, 25 * 1280);
        const mica_tensor *style = mica_trace_find(s.trace, "style");
        assert_int_equal(mica_tensor_count(style), 64);
        memcpy(styles[i], style->data, sizeof styles[i]);
        mica_speech_result_deinit(&r);
    }
    assert_memory_not_equal(styles[0], styles[1], sizeof styles[0]);
    close_speaker(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chain),       cmocka_unit_test(test_v2pro),
        cmocka_unit_test(test_text),        cmocka_unit_test(test_retries),
        cmocka_unit_test(test_threads),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_parts),       cmocka_unit_test(test_voice_file),
        cmocka_unit_test(test_phone_names), cmocka_unit_test(test_precisions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
