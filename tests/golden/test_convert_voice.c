/* test_convert_voice.c - GPT-SoVITS checkpoints as one voice file: the same sound to the bit in f32.
 *
 *     s1.ckpt, sovits_v2.pth ─► voice.safetensors       weight norm folded, settings as JSON in the metadata
 *     models/ ─► folder/                               the same with HuBERT and BERT
 *
 * Other types cost what their rounding costs. Converted files convert again, and lose nothing by it. */
#include "convert_support.h"
#include "gpt_sovits_support.h"

#include "base/file.h"
#include "base/mem.h"
#include "media/audio.h"
#include "models/gpt_sovits/gpt_sovits.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define ROOT   MICA_TEST_DATA "/gpt_sovits"
#define MODELS ROOT "/models"
#define S1     MODELS "/s1.ckpt"
#define T2S    ROOT "/cases/t2s/expected.safetensors"

static void write_reference(const char *path)
{
    mica_weights *w = NULL;
    mica_err err = {0};
    assert_int_equal(mica_weights_open(&w, ROOT "/cases/sovits_v2/expected.safetensors", &err),
                     MICA_OK);
    const mica_tensor *t = mica_weights_find(w, "ref_audio_32k");
    const mica_audio a = {.rate = 32000, .count = (size_t)mica_tensor_count(t), .samples = t->data};
    assert_int_equal(mica_audio_write(&a, path, MICA_AUDIO_FLOAT, &err), MICA_OK);
    mica_weights_close(&w);
}

/* An exact run of given phones and codes; the trace is the caller's. */
static mica_trace *speak(const mica_engine_options *engine, const char *wav)
{
    const mica_backend_options b = {
        .device = gs_device(), .precision = MICA_PRECISION_F32, .threads = 2};
    const mica_diffusion_switches switches = {0};
    mica_voice_input voice = {.path = wav};
    const mica_speech_options o = {.size = sizeof o,
                                   .voices = &voice,
                                   .voice_count = 1,
                                   .greedy = true,
                                   .noise_scale = -1.0,
                                   .pause = -1.0,
                                   .max_tokens = 25,
                                   .phones_path = T2S,
                                   .codes_path = T2S};
    mica_err err = {0};
    mica_backend *be = NULL;
    mica_model_session *s = NULL;
    mica_trace *trace = NULL;
    mica_speech_result r;
    mica_model *m = golden_model_open(engine);
    if (mica_backend_open(&be, &b, &err) || mica_trace_open(&trace, &err) ||
        m->kind->session_open(&s, m, be, &switches, &err) ||
        m->kind->speak(s, &o, mica_trace_sink(trace), &r, &err))
        fail_msg("%s", err.text);
    mica_speech_result_deinit(&r);
    m->kind->session_close(&s);
    mica_backend_close(&be);
    golden_model_close(&m);
    return trace;
}

static mica_engine_options with(const char *model, const char *synthesizer)
{
    return (mica_engine_options){.size = sizeof(mica_engine_options),
                                 .model = model,
                                 .synthesizer = synthesizer,
                                 .hubert = MODELS "/chinese-hubert-base",
                                 .bert = MODELS "/chinese-roberta-wwm-ext-large"};
}

static double distance(mica_trace *a, mica_trace *b, const char *name)
{
    return golden_relative_l2(mica_trace_find(a, name), mica_trace_find(b, name));
}

/* probe.prefill_logits: from the same codes; the sound: of the same tokens or it says nothing */
static void test_types(void **state)
{
    (void)state;
    static const struct {
        const char *type;
        double logits, sound; /* sound 0: tokens may be others */
    } CASES[] = {{"f32", 1e-6, 1e-6}, {"f16", 2e-3, 5e-3}, {"bf16", 2e-2, 5e-2}, {"q8", 2e-2, 0},
                 {"int8", 2e-2, 0},   {"fp8", 8e-2, 0},    {"q4", 2e-1, 0}};
    char dir[256], voice[300], wav[300];
    golden_temp_folder(dir, sizeof dir);
    snprintf(voice, sizeof voice, "%s/voice.safetensors", dir);
    snprintf(wav, sizeof wav, "%s/ref.wav", dir);
    write_reference(wav);
    const mica_engine_options original = with(MODELS, MODELS "/sovits_v2.pth");
    mica_trace *want = speak(&original, wav);
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES); i++) {
        convert_voice_ok(S1, MODELS "/sovits_v2.pth", voice, CASES[i].type);
        const mica_engine_options converted = with(voice, NULL);
        mica_trace *got = speak(&converted, wav);
        const double logits = distance(got, want, "probe.prefill_logits");
        print_message("%s: logits %.3g\n", CASES[i].type, logits);
        assert_true(logits <= CASES[i].logits);
        if (CASES[i].sound > 0) {
            golden_assert_equal("semantic_tokens", mica_trace_find(got, "semantic_tokens"),
                                mica_trace_find(want, "semantic_tokens"));
            assert_true(distance(got, want, "waveform") <= CASES[i].sound);
        }
        mica_trace_close(&got);
    }
    mica_trace_close(&want);
    golden_remove_folder(dir);
}

/* A folder with everything, converted, and once more from that. */
static void test_folder(void **state)
{
    (void)state;
    char dir[256], first[300], second[300], wav[300];
    golden_temp_folder(dir, sizeof dir);
    snprintf(first, sizeof first, "%s/first", dir);
    snprintf(second, sizeof second, "%s/second", dir);
    snprintf(wav, sizeof wav, "%s/ref.wav", dir);
    write_reference(wav);
    mica_err err = {0};
    const mica_convert_request r = {
        .input = MODELS, .output = first, .synthesizer = MODELS "/sovits_v2.pth", .type = "f32"};
    if (convert_run(&r, NULL, NULL, &err))
        fail_msg("%s", err.text);
    convert_ok(first, second, "f32", 0);
    const mica_engine_options engines[] = {with(MODELS, MODELS "/sovits_v2.pth"),
                                           {.size = sizeof(mica_engine_options), .model = first},
                                           {.size = sizeof(mica_engine_options), .model = second}};
    mica_trace *want = speak(&engines[0], wav);
    for (int i = 1; i < 3; i++) {
        mica_trace *got = speak(&engines[i], wav);
        assert_true(distance(got, want, "waveform") <= 1e-6);
        golden_assert_equal("semantic_tokens", mica_trace_find(got, "semantic_tokens"),
                            mica_trace_find(want, "semantic_tokens"));
        mica_trace_close(&got);
    }
    mica_trace_close(&want);
    golden_remove_folder(dir);
}

/* ---------------------------------------------------------------- settings -- */

static void expect_config(const char *converted, const char *original)
{
    mica_gs_synth_config a, b;
    mica_weights *files[2] = {NULL}, *directory[2] = {NULL};
    const char *const paths[] = {converted, original};
    mica_arena arena;
    mica_err err = {0};
    mica_arena_init(&arena, 1 << 20);
    for (int i = 0; i < 2; i++)
        if (mica_weights_open(&files[i], paths[i], &err) ||
            mica_gs_synth_directory(&directory[i], files[i], &arena, &err) ||
            mica_gs_synth_config_read(i ? &b : &a, files[i], directory[i], &err))
            fail_msg("%s", err.text);
    assert_memory_equal(&a, &b, sizeof a);
    for (size_t i = 0; i < mica_weights_count(directory[1]); i++) {
        const char *name = mica_weights_name(directory[1], i);
        golden_assert_near(name, mica_weights_find(directory[0], name),
                           mica_weights_tensor(directory[1], i), 0.0);
    }
    for (int i = 0; i < 2; i++) {
        mica_weights_close(&directory[i]);
        mica_weights_close(&files[i]);
    }
    mica_arena_deinit(&arena);
}

/* Every version: sizes, rates, heads and the version's name, alone and in a voice file; numbers equal. */
static void test_versions(void **state)
{
    (void)state;
    static const char *const SOVITS[] = {MODELS "/sovits_v2.pth", MODELS "/sovits_v2Pro.pth",
                                         ROOT "/versions/sovits_v1.pth",
                                         ROOT "/versions/sovits_v2ProPlus.pth"};
    char dir[256], path[300], again[300];
    golden_temp_folder(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/a.safetensors", dir);
    snprintf(again, sizeof again, "%s/b.safetensors", dir);
    for (size_t i = 0; i < MICA_ARRAY_LEN(SOVITS); i++) {
        convert_ok(SOVITS[i], path, "f32", 0);
        expect_config(path, SOVITS[i]);
        convert_voice_ok(SOVITS[i], S1, path, "f32"); /* either order */
        expect_config(path, SOVITS[i]);
        convert_ok(path, again, "f32", 0);
        expect_config(again, SOVITS[i]);
    }
    golden_remove_folder(dir);
}

static void test_settings(void **state)
{
    (void)state;
    char dir[256], path[300], text[16];
    mica_weights *w = NULL;
    mica_err err = {0};
    int64_t n = 0;
    golden_temp_folder(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/a.safetensors", dir);
    convert_ok(S1, path, "f16", 0);
    assert_int_equal(mica_weights_open(&w, path, &err), MICA_OK);
    assert_true(mica_weights_find_int(w, "config.model.head", &n) && n == 3);
    assert_false(mica_weights_find_int(w, "config.model", &n));
    assert_false(mica_weights_find_int(w, "config", &n));
    assert_false(mica_weights_find_int(w, "absent.model", &n));
    assert_true(mica_weights_is_mapped(w, mica_weights_find(w, "lm_head.weight")));
    mica_weights_close(&w);
    convert_voice_ok(S1, MODELS "/sovits_v2Pro.pth", path, "f16");
    assert_int_equal(mica_weights_open(&w, path, &err), MICA_OK);
    assert_true(mica_weights_find_int(w, "semantic_config.model.head", &n) && n == 3);
    assert_true(mica_weights_find_item(w, "synthesizer_config.model.upsample_rates", 0, &n) &&
                n == 10);
    assert_false(mica_weights_find_item(w, "synthesizer_config.model.upsample_rates", 99, &n));
    assert_true(mica_weights_find_text(w, "synthesizer_config.model.version", text, sizeof text));
    assert_string_equal(text, "v2Pro");
    assert_null(mica_weights_find(w, "dec.conv_pre.weight_g"));
    mica_weights_close(&w);
    golden_remove_folder(dir);
}

/* ---------------------------------------------------------------- refusals -- */

/* The first `size` bytes of a checkpoint; size 0: all, with one byte changed in the middle of its pickle. */
static void write_damaged(const char *path, const char *from, size_t size)
{
    char *data = NULL;
    size_t all = 0;
    mica_err err = {0};
    mica_file_out out;
    assert_int_equal(mica_file_read(from, 1 << 22, &data, &all, &err), MICA_OK);
    if (size == 0) {
        data[0x60] ^= 0x40;
        size = all;
    }
    assert_int_equal(mica_file_out_open(&out, path, &err), MICA_OK);
    assert_int_equal(mica_file_out_write(&out, data, size, &err), MICA_OK);
    assert_int_equal(mica_file_out_commit(&out, &err), MICA_OK);
    mica_mem_free(data);
}

static void test_refusals(void **state)
{
    (void)state;
    char dir[256], path[300], bad[300];
    golden_temp_folder(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/a.safetensors", dir);
    snprintf(bad, sizeof bad, "%s/bad.ckpt", dir);
    write_damaged(bad, S1, 5000);
    mica_convert_request r = {.input = bad, .output = path, .type = "f16"};
    convert_fails(&r, "bad.ckpt", dir);
    r = (mica_convert_request){.input = MICA_TEST_DATA "/../fuzz/corpus/torch_zip/bad_eval",
                               .output = path,
                               .type = "f16"};
    convert_fails(&r, "bad_eval", dir);
    r = (mica_convert_request){.input = S1, .synthesizer = S1, .output = path, .type = "f16"};
    convert_fails(&r, "a voice is", dir);
    r = (mica_convert_request){.input = MODELS, .output = path, .type = "f16"};
    convert_fails(&r, "choose one with --synthesizer", dir);
    snprintf(path, sizeof path, "%s/a.gguf", dir);
    r = (mica_convert_request){.input = S1, .output = path, .type = "f16"};
    convert_fails(&r, "GGUF is written of", dir);
    golden_remove_folder(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),    cmocka_unit_test(test_folder),
        cmocka_unit_test(test_versions), cmocka_unit_test(test_settings),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
