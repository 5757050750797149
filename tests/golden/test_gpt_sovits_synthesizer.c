/* test_gpt_sovits_synthesizer.c - SoVITS v2 and v2Pro against the reference: codes and style of a
 * reference, every stage of the decoder, waveforms with another speed and with two references; from
 * checkpoints of torch and converted weights. Then what must not matter: threads, pieces. On a GPU
 * (gs_device) sums have another order for every size, and flow and vocoder keep nothing in f32. */
#include "gpt_sovits_support.h"

#include "base/mem.h"
#include "models/gpt_sovits/gpt_sovits_synthesizer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct sound_bench {
    gs_bench b;
    mica_gs_synth s;
    float *ge;
    mica_gs_style style;
} sound_bench;

static void open_sound(sound_bench *t, const char *model, const char *name,
                       mica_precision precision, int threads)
{
    mica_err err = {0};
    mica_gs_synth_config c;
    gs_open(&t->b, model, mica_gs_synth_directory, name, precision, threads);
    gs_ok(mica_gs_synth_config_read(&c, t->b.files, t->b.directory, &err), &err);
    gs_ok(mica_gs_synth_open(&t->s, &c, t->b.directory, &t->b.arena, &err), &err);
    gs_ok(mica_gs_synth_upload(&t->s, t->b.be, &err), &err);
    t->ge = mica_mem_calloc((size_t)c.gin, sizeof *t->ge);
}

static void close_sound(sound_bench *t)
{
    mica_gs_synth_drop(&t->s, t->b.be);
    mica_mem_free(t->ge);
    gs_close(&t->b);
}

/* ge of the first `frames` frames of the case's spectrum [1, bins, frames]. */
static void find_style(sound_bench *t, int64_t frames, float *ge)
{
    mica_err err = {0};
    const mica_tensor *spec = gs_expected(&t->b, "refer_spec");
    const mica_tensor *speaker = mica_weights_find(t->b.expected, "sv_emb");
    const int64_t B = spec->shape_[1], R = spec->shape_[2];
    float *rows = mica_mem_calloc((size_t)(frames * B), sizeof *rows);
    for (int64_t r = 0; r < frames; r++)
        for (int64_t i = 0; i < B; i++)
            rows[r * B + i] = ((const float *)spec->data)[i * R + r];
    gs_ok(mica_gs_synth_style(&t->s, t->b.be, &t->b.run, rows, frames, B,
                              speaker ? speaker->data : NULL, ge, &err),
          &err);
    mica_mem_free(rows);
}

static float *speak(sound_bench *t, double speed, int64_t *count)
{
    mica_err err = {0};
    mica_gs_latent l;
    const mica_tensor *codes = gs_expected(&t->b, "semantic_tokens");
    const mica_tensor *phones = gs_expected(&t->b, "phone_ids");
    gs_ok(mica_gs_synth_prior(&t->s, t->b.be, &t->b.run, &t->style, codes->data,
                              mica_tensor_count(codes), phones->data, mica_tensor_count(phones),
                              &(mica_gs_pace){.speed = speed}, &l, &err),
          &err);
    *count = l.frames * t->s.config.hop;
    float *out = mica_mem_calloc((size_t)*count, sizeof *out);
    gs_ok(mica_gs_synth_sound(&t->s, t->b.be, &t->b.run, &t->style, l.m, l.frames, out, &err),
          &err);
    mica_mem_free(l.m);
    return out;
}

static void check_codes(sound_bench *t, double bound)
{
    mica_err err = {0};
    int32_t *codes;
    int64_t count;
    const mica_tensor *ssl = gs_expected(&t->b, "ssl_content");
    const int64_t S = ssl->shape_[1], L = ssl->shape_[2];
    float *rows = mica_mem_calloc((size_t)(S * L), sizeof *rows);
    for (int64_t i = 0; i < S * L; i++)
        rows[i % L * S + i / L] = ((const float *)ssl->data)[i];
    mica_tensor x = mica_act_tensor(t->b.be, MICA_POOL_SESSION, 2, (const int64_t[]){L, S});
    mica_upload_f32(t->b.be, &x, rows);
    gs_ok(mica_gs_synth_codes(&t->s, t->b.be, &t->b.run, &x, &codes, &count, &err), &err);
    if (mica_weights_find(t->b.expected, "ssl_proj"))
        gs_near(&t->b, "ssl_proj", "ssl_proj", bound);
    gs_equal_ids(&t->b, codes, count, "codes");
    mica_mem_free(codes);
    mica_mem_free(rows);
}

static void check_case(const char *model, const char *name, mica_precision precision,
                       double stage_bound, double sound_bound)
{
    static const char *const TAPS[] = {"probe.ref_enc",
                                       "probe.enc_p.ssl_proj",
                                       "probe.enc_p.encoder_ssl",
                                       "probe.enc_p.encoder_text",
                                       "probe.enc_p.mrte",
                                       "probe.enc_p.encoder2",
                                       "probe.enc_p.0",
                                       "probe.enc_p.1",
                                       "probe.enc_p.2",
                                       "probe.enc_p.4",
                                       "probe.flow",
                                       "probe.dec.conv_pre",
                                       "probe.dec.ups.0",
                                       "probe.dec.resblocks.0"};
    sound_bench t;
    mica_err err = {0};
    int64_t count;
    open_sound(&t, model, name, precision, 0);
    if (precision == MICA_PRECISION_F32)
        check_codes(&t, stage_bound);
    const int64_t frames = gs_expected(&t.b, "refer_spec")->shape_[2], G = t.s.config.gin;
    find_style(&t, frames, t.ge);
    gs_ok(mica_gs_style_make(&t.s, t.b.be, t.ge, &t.style, &err), &err);
    float *sound = speak(&t, 1.0, &count);
    for (size_t i = 0; i < MICA_ARRAY_LEN(TAPS); i++)
        if (mica_weights_find(t.b.expected, TAPS[i])) /* own vectors have fewer */
            gs_near(&t.b, TAPS[i], TAPS[i], stage_bound);
    gs_near_host(&t.b, sound, count, "waveform", sound_bound);
    mica_mem_free(sound);
    if (mica_weights_find(t.b.expected, "waveform_speed_1.3")) {
        sound = speak(&t, 1.3, &count);
        gs_near_host(&t.b, sound, count, "waveform_speed_1.3", sound_bound);
        mica_mem_free(sound);
    }
    if (mica_weights_find(t.b.expected, "waveform_speed_0.8")) {
        sound = speak(&t, 0.8, &count);
        gs_near_host(&t.b, sound, count, "waveform_speed_0.8", sound_bound);
        mica_mem_free(sound);
    }
    float *second = mica_mem_calloc((size_t)G, sizeof *second);
    find_style(&t, frames / 2, second);
    for (int64_t g = 0; g < G; g++)
        t.ge[g] = (t.ge[g] + second[g]) / 2.0f;
    gs_ok(mica_gs_style_make(&t.s, t.b.be, t.ge, &t.style, &err), &err);
    sound = speak(&t, 1.0, &count);
    if (mica_weights_find(t.b.expected, "waveform_two_references"))
        gs_near_host(&t.b, sound, count, "waveform_two_references", sound_bound);
    mica_mem_free(sound);
    mica_mem_free(second);
    close_sound(&t);
}

static void check_f32(const char *model, const char *name)
{
    const bool is_cpu = gs_device() == MICA_DEVICE_CPU;
    check_case(model, name, MICA_PRECISION_F32, is_cpu ? 1e-5 : 1e-4, is_cpu ? 1e-4 : 1e-3);
}

static void test_v2(void **state)
{
    (void)state;
    check_f32("models/sovits_v2.pth", "sovits_v2");
    check_f32("converted/doubao_mixed_sovits_new.safetensors", "sovits_v2");
}

static void test_v2pro(void **state)
{
    (void)state;
    check_f32("models/sovits_v2Pro.pth", "sovits_v2Pro");
}

static void test_v1(void **state)
{
    (void)state;
    check_f32("versions/sovits_v1.pth", "sovits_v1");
}

static void test_v2proplus(void **state)
{
    (void)state;
    check_f32("versions/sovits_v2ProPlus.pth", "sovits_v2ProPlus");
}

static void test_bf16(void **state)
{
    (void)state;
    check_case("models/sovits_v2.pth", "sovits_v2", MICA_PRECISION_BF16, 5e-2, 6e-2);
    check_case("models/sovits_v2Pro.pth", "sovits_v2Pro", MICA_PRECISION_BF16, 5e-2, 6e-2);
}

/* ------------------------------------------------------- what must not matter -- */

static mica_gs_style style_of(sound_bench *t)
{
    mica_err err = {0};
    mica_gs_style style;
    find_style(t, 20, t->ge);
    gs_ok(mica_gs_style_make(&t->s, t->b.be, t->ge, &style, &err), &err);
    return style;
}

/* A latent of 200 frames: in pieces, whole (a trace of the vocoder asks for that), three threads. */
static void test_pieces_and_threads(void **state)
{
    (void)state;
    enum { FRAMES = 200 };
    float *sound[3], z[FRAMES * 16];
    size_t count = 0;
    for (int i = 0; i < FRAMES * 16; i++)
        z[i] = (float)sin(0.37 * i);
    for (int i = 0; i < 3; i++) {
        sound_bench t;
        mica_err err = {0};
        open_sound(&t, "models/sovits_v2.pth", "sovits_v2", MICA_PRECISION_F32, i == 2 ? 3 : 1);
        t.style = style_of(&t);
        if (i != 1)
            t.b.run.taps = NULL;
        count = (size_t)FRAMES * (size_t)t.s.config.hop;
        sound[i] = mica_mem_calloc(count, sizeof *sound[i]);
        gs_ok(mica_gs_synth_sound(&t.s, t.b.be, &t.b.run, &t.style, z, FRAMES, sound[i], &err),
              &err);
        close_sound(&t);
    }
    gs_same_samples(sound[1], sound[0], count);
    gs_same_samples(sound[2], sound[0], count);
    for (int i = 0; i < 3; i++)
        mica_mem_free(sound[i]);
}

static void test_versions(void **state)
{
    (void)state;
    sound_bench t;
    open_sound(&t, "models/sovits_v2.pth", "sovits_v2", 0, 1);
    assert_int_equal(t.s.config.version, MICA_GS_V2);
    assert_int_equal(t.s.config.hop, 640);
    assert_int_equal(t.s.config.rate, 32000);
    close_sound(&t);
    open_sound(&t, "models/sovits_v2Pro.pth", "sovits_v2Pro", 0, 1);
    assert_int_equal(t.s.config.version, MICA_GS_V2PRO);
    assert_int_equal(t.s.config.speaker, 160);
    close_sound(&t);
    open_sound(&t, "versions/sovits_v2ProPlus.pth", "sovits_v2ProPlus", 0, 1);
    assert_int_equal(t.s.config.version, MICA_GS_V2PRO_PLUS);
    close_sound(&t);
    open_sound(&t, "versions/sovits_v1.pth", "sovits_v1", 0, 1);
    assert_int_equal(t.s.config.version, MICA_GS_V1);
    assert_int_equal(t.s.config.style_bins, 1025);
    assert_int_equal(t.s.config.phones, 322);
    close_sound(&t);
}

static void test_refused(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_weights *w = NULL, *out = NULL;
    mica_arena arena;
    float one = 1.0f;
    const mica_tensor t = mica_tensor_2d(&one, MICA_DTYPE_F32, 1, 1);
    mica_arena_init(&arena, 4096);
    gs_ok(mica_weights_open_empty(&w, &err), &err);
    gs_ok(mica_weights_add(w, "enc_p.ssl_proj.weight", &t, &err), &err);
    gs_ok(mica_weights_add(w, "cfm.estimator.proj_out.weight", &t, &err), &err);
    assert_int_equal(mica_gs_synth_directory(&out, w, &arena, &err), MICA_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "GPT-SoVITS v3 or v4"));
    mica_weights_close(&w);
    mica_arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v2),       cmocka_unit_test(test_v2pro),
        cmocka_unit_test(test_v1),       cmocka_unit_test(test_v2proplus),
        cmocka_unit_test(test_bf16),     cmocka_unit_test(test_pieces_and_threads),
        cmocka_unit_test(test_versions), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
