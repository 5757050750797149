/* test_audio.c - resampling, spectrum and filter bank against torch's numbers; sound files there and
 * back; files that lie. */
#include "golden_file.h"

#include "base/file.h"
#include "base/mem.h"
#include "media/audio.h"
#include "media/audio_resample.h"
#include "media/spectrum.h"

#include <math.h>
#include <unistd.h>

static double relative_l2(const float *got, const float *want, size_t n)
{
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)got[i] - (double)want[i];
        difference += d * d;
        norm += (double)want[i] * (double)want[i];
    }
    return sqrt(difference / norm);
}

static void expect_close(const char *name, const float *got, size_t count, const float *want,
                         size_t want_count, double bound)
{
    assert_int_equal(count, want_count);
    const double l2 = relative_l2(got, want, count);
    if (!(l2 <= bound))
        fail_msg("%s: relative L2 %.3g, at most %.3g", name, l2, bound);
}

static void test_sinc_resampling(void **state)
{
    (void)state;
    static const int rates[][2] = {{44100, 32000}, {48000, 32000}, {24000, 32000},
                                   {16000, 32000}, {32000, 16000}, {22050, 32000}};
    mica_weights *w = golden_open("speech/audio.safetensors");
    for (size_t i = 0; i < MICA_ARRAY_LEN(rates); i++) {
        char name[64];
        mica_audio in = {.rate = rates[i][0]}, out;
        mica_err err = {0};
        size_t want_count;
        snprintf(name, sizeof name, "resample.%d_%d", rates[i][0], rates[i][1]);
        in.samples = golden_floats(w, name, "x", &in.count);
        float *want = golden_floats(w, name, "out", &want_count);
        assert_int_equal(mica_audio_resample_sinc(&in, rates[i][1], &out, &err), MICA_OK);
        expect_close(name, out.samples, out.count, want, want_count, 1e-6);
        mica_audio_deinit(&out);
        free(in.samples);
        free(want);
    }
    mica_weights_close(&w);
}

static mica_audio tone(int rate, size_t count, double hz)
{
    mica_audio a = {rate, count, mica_mem_alloc(count * sizeof(float))};
    for (size_t i = 0; i < count; i++)
        a.samples[i] = (float)(0.5 * sin(2.0 * 3.14159265358979323846 * hz * (double)i / rate));
    return a;
}

/* A tone below the cut-off keeps its samples, one above it is gone. */
static void test_soxr_resampling(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_audio low = tone(44100, 44100, 440.0), high = tone(44100, 44100, 12000.0), out;
    assert_int_equal(mica_audio_resample_soxr(&low, 16000, &out, &err), MICA_OK);
    assert_int_equal(out.count, 16000);
    mica_audio want = tone(16000, 16000, 440.0);
    expect_close("440 Hz", out.samples + 500, 15000, want.samples + 500, 15000, 1e-4);
    mica_audio_deinit(&out);
    assert_int_equal(mica_audio_resample_soxr(&high, 16000, &out, &err), MICA_OK);
    for (size_t i = 500; i < 15500; i++)
        assert_true(fabsf(out.samples[i]) < 1e-4f);
    mica_audio_deinit(&out);
    assert_int_equal(mica_audio_resample_soxr(&low, 44100, &out, &err), MICA_OK);
    assert_memory_equal(out.samples, low.samples, low.count * sizeof(float));
    mica_audio_deinit(&out);
    mica_audio_deinit(&want);
    mica_audio_deinit(&low);
    mica_audio_deinit(&high);
}

static void test_spectrum(void **state)
{
    (void)state;
    mica_weights *w = golden_open("speech/audio.safetensors");
    mica_err err = {0};
    mica_spectrum s;
    size_t count, want_count;
    float *x = golden_floats(w, "spectrum", "x", &count);
    float *want = golden_floats(w, "spectrum", "out", &want_count);
    assert_int_equal(mica_spectrum_magnitude(x, count, 2048, 2048, 640, &s, &err), MICA_OK);
    assert_int_equal(s.bins, 1025);
    expect_close("spectrum", s.values_RB, s.frames * s.bins, want, want_count, 1e-6);
    mica_spectrum_deinit(&s);
    assert_int_equal(mica_spectrum_magnitude(x, 704, 2048, 2048, 640, &s, &err), MICA_E_USAGE);
    assert_int_equal(mica_spectrum_magnitude(x, count, 2000, 2000, 640, &s, &err), MICA_E_USAGE);
    free(x);
    free(want);
    mica_weights_close(&w);
}

static void test_fbank(void **state)
{
    (void)state;
    mica_weights *w = golden_open("speech/audio.safetensors");
    mica_err err = {0};
    mica_spectrum s;
    size_t count, want_count;
    float *x = golden_floats(w, "fbank", "x", &count);
    float *want = golden_floats(w, "fbank", "out", &want_count);
    assert_int_equal(mica_spectrum_fbank16k(x, count, 80, &s, &err), MICA_OK);
    assert_int_equal(s.bins, 80);
    expect_close("fbank", s.values_RB, s.frames * s.bins, want, want_count, 1e-5);
    mica_spectrum_deinit(&s);
    assert_int_equal(mica_spectrum_fbank16k(x, 399, 80, &s, &err), MICA_E_USAGE);
    free(x);
    free(want);
    mica_weights_close(&w);
}

/* ---- files ---- */

static void check_round_trip(const char *kind, mica_audio_depth depth, float bound)
{
    mica_err err = {0};
    mica_audio in = tone(32000, 8000, 300.0), out;
    uint8_t *data;
    size_t size;
    if (mica_audio_encode(&in, kind, depth, &data, &size, &err) != MICA_OK)
        fail_msg("%s: %s", kind, err.text);
    if (mica_audio_decode(&out, kind, data, size, &err) != MICA_OK)
        fail_msg("%s: %s", kind, err.text);
    assert_int_equal(out.rate, 32000);
    assert_int_equal(out.count, in.count);
    for (size_t i = 0; i < in.count; i++)
        assert_true(fabsf(in.samples[i] - out.samples[i]) <= bound);
    mica_mem_free(data);
    mica_audio_deinit(&in);
    mica_audio_deinit(&out);
}

static void test_there_and_back(void **state)
{
    (void)state;
    check_round_trip("wav", MICA_AUDIO_PCM16, 1.0f / 32768.0f);
    check_round_trip("wav", MICA_AUDIO_FLOAT, 0.0f);
    check_round_trip("flac", MICA_AUDIO_PCM16, 1.0f / 32768.0f);
    check_round_trip("ogg", MICA_AUDIO_PCM16, 0.1f);
}

static void test_refused_kinds(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_audio a = tone(32000, 100, 300.0);
    uint8_t *data;
    size_t size;
    assert_int_equal(mica_audio_encode(&a, "flac", MICA_AUDIO_FLOAT, &data, &size, &err),
                     MICA_E_USAGE);
    assert_int_equal(mica_audio_encode(&a, "opus", MICA_AUDIO_PCM16, &data, &size, &err),
                     MICA_E_USAGE);
    assert_non_null(strstr(err.text, "32000"));
    assert_int_equal(mica_audio_encode(&a, "aiff", MICA_AUDIO_PCM16, &data, &size, &err),
                     MICA_E_USAGE);
    assert_null(mica_audio_kind("a.txt"));
    assert_null(mica_audio_kind("wav"));
    assert_string_equal(mica_audio_kind("x/y.FLAC"), "flac");
    mica_audio_deinit(&a);
}

/* 16-bit samples: truncated toward zero, clipped at the ends. */
static void test_pcm16(void **state)
{
    (void)state;
    static const float x[] = {0.0f, 1.0f, -1.0f, 2.0f, -2.0f, 1.9f / 32768, -1.9f / 32768, 0.5f};
    static const int want[] = {0, 32767, -32768, 32767, -32768, 1, -1, 16384};
    uint8_t bytes[2 * MICA_ARRAY_LEN(x)];
    mica_audio_to_pcm16(x, MICA_ARRAY_LEN(x), bytes);
    for (size_t i = 0; i < MICA_ARRAY_LEN(x); i++)
        assert_int_equal((int16_t)(bytes[2 * i] | bytes[2 * i + 1] << 8), want[i]);
}

/* A stream's header, followed by samples, is a sound file that ends where the bytes end. */
static void test_stream_header(void **state)
{
    (void)state;
    mica_err err = {0};
    uint8_t bytes[MICA_WAV_HEADER + 8];
    const float x[] = {0.25f, -0.25f, 0.5f, -0.5f};
    mica_audio out;
    for (int known = 0; known <= 1; known++) {
        mica_audio_wav_header(bytes, 32000, known ? 4 : UINT64_MAX);
        mica_audio_to_pcm16(x, 4, bytes + MICA_WAV_HEADER);
        if (mica_audio_decode(&out, "stream", bytes, sizeof bytes, &err) != MICA_OK)
            fail_msg("%s", err.text);
        assert_int_equal(out.rate, 32000);
        assert_int_equal(out.count, 4);
        assert_true(out.samples[0] == 0.25f && out.samples[3] == -0.5f);
        mica_audio_deinit(&out);
        assert_int_equal(bytes[40], known ? 8 : 255);
        assert_int_equal(bytes[4], known ? 44 : 255);
    }
    mica_audio_wav_header(bytes, 32000,
                          (UINT64_C(1) << 31) - 23); /* the largest that fits, and one more */
    assert_int_equal(bytes[43], 255);
    assert_int_equal(bytes[40], 0xd2);
    mica_audio_wav_header(bytes, 32000, (UINT64_C(1) << 31) - 22);
    assert_int_equal(bytes[40], 255);
}

static void put_le(uint8_t *p, unsigned v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

/* A WAV of `n` stereo frames as 32-bit floats. */
static size_t make_float_wav(uint8_t *out, int rate, const float *frames, size_t n)
{
    memcpy(out, "RIFF", 4);
    put_le(out + 4, (unsigned)(36 + n * 8), 4);
    memcpy(out + 8, "WAVEfmt ", 8);
    put_le(out + 16, 16, 4);
    put_le(out + 20, 3, 2);
    put_le(out + 22, 2, 2);
    put_le(out + 24, (unsigned)rate, 4);
    put_le(out + 28, (unsigned)rate * 8, 4);
    put_le(out + 32, 8, 2);
    put_le(out + 34, 32, 2);
    memcpy(out + 36, "data", 4);
    put_le(out + 40, (unsigned)(n * 8), 4);
    memcpy(out + 44, frames, n * 8);
    return 44 + n * 8;
}

static void test_stereo_is_averaged(void **state)
{
    (void)state;
    mica_err err = {0};
    uint8_t bytes[256];
    const float frames[] = {0.5f, 0.25f, -1.0f, 0.0f};
    mica_audio a;
    const size_t size = make_float_wav(bytes, 8000, frames, 2);
    assert_int_equal(mica_audio_decode(&a, "x", bytes, size, &err), MICA_OK);
    assert_int_equal(a.count, 2);
    assert_true(a.samples[0] == 0.375f && a.samples[1] == -0.5f);
    mica_audio_deinit(&a);
}

static void expect_refusal(const uint8_t *data, size_t size, const char *text)
{
    mica_err err = {0};
    mica_audio a;
    assert_int_equal(mica_audio_decode(&a, "x", data, size, &err), MICA_E_FORMAT);
    assert_null(a.samples);
    if (strstr(err.text, text) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static void test_files_that_lie(void **state)
{
    (void)state;
    uint8_t bytes[256];
    const float bad[] = {0.5f, NAN, 0.0f, 0.0f}, infinite[] = {0.5f, INFINITY, 0.0f, 0.0f};
    const float good[] = {0.5f, 0.5f, 0.5f, 0.5f};
    expect_refusal(bytes, make_float_wav(bytes, 8000, bad, 2), "sample 0 is not a number");
    expect_refusal(bytes, make_float_wav(bytes, 8000, infinite, 2), "not a number");
    expect_refusal(bytes, make_float_wav(bytes, 999, good, 2), "999 Hz");
    expect_refusal(bytes, make_float_wav(bytes, 500000, good, 2), "500000 Hz");
    expect_refusal(bytes, make_float_wav(bytes, 8000, good, 0), "no samples");
    expect_refusal(bytes, 0, "empty");
    expect_refusal((const uint8_t *)"plain text, no sound", 20, "not a sound file");
    const size_t size = make_float_wav(bytes, 8000, good, 2);
    for (size_t n = 1; n < 44; n++) { /* cut anywhere in the header */
        mica_err err = {0};
        mica_audio a;
        if (mica_audio_decode(&a, "x", bytes, n, &err) == MICA_OK)
            fail_msg("%zu bytes of %zu were read", n, size);
    }
}

static void test_length_limit(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_audio a = {1000, 1000u * MICA_AUDIO_MAX_SECONDS + 1, NULL}, b;
    uint8_t *data;
    size_t size;
    a.samples = mica_mem_calloc(a.count, sizeof(float));
    assert_int_equal(mica_audio_encode(&a, "wav", MICA_AUDIO_PCM16, &data, &size, &err), MICA_OK);
    assert_int_equal(mica_audio_decode(&b, "long", data, size, &err), MICA_E_FORMAT);
    assert_non_null(strstr(err.text, "longer than 900 seconds"));
    mica_mem_free(data);
    mica_audio_deinit(&a);
}

/* The same sound is the same bytes, whenever it is written: no time of day, no serial number by chance. */
static void test_same_bytes(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_audio a = tone(48000, 48000, 300.0), back;
    uint8_t *data[2];
    size_t size[2];
    assert_int_equal(mica_audio_encode(&a, "wav", MICA_AUDIO_FLOAT, data, size, &err), MICA_OK);
    for (size_t i = 0; i < 128; i++)
        assert_true(memcmp(data[0] + i, "PEAK", 4) != 0);
    mica_mem_free(data[0]);
    for (int i = 0; i < 2; i++)
        assert_int_equal(mica_audio_encode(&a, "ogg", MICA_AUDIO_PCM16, &data[i], &size[i], &err),
                         MICA_OK);
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(data[0], data[1], size[0]);
    assert_memory_equal(data[0] + 14, "mica", 4);
    assert_int_equal(mica_audio_decode(&back, "ogg", data[0], size[0], &err), MICA_OK);
    assert_int_equal(back.count, a.count); /* readers pass over pages whose sum is wrong */
    mica_audio_deinit(&back);
    mica_mem_free(data[0]);
    mica_mem_free(data[1]);
    mica_audio_deinit(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sinc_resampling),
        cmocka_unit_test(test_soxr_resampling),
        cmocka_unit_test(test_spectrum),
        cmocka_unit_test(test_fbank),
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_refused_kinds),
        cmocka_unit_test(test_pcm16),
        cmocka_unit_test(test_stream_header),
        cmocka_unit_test(test_stereo_is_averaged),
        cmocka_unit_test(test_files_that_lie),
        cmocka_unit_test(test_length_limit),
        cmocka_unit_test(test_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
