/* fuzz_audio.c - arbitrary bytes as a sound file, and what is then made of its samples.
 *
 * Beyond "no crash": a refusal has a text and leaves no samples; every sample of a success is
 * finite; resampling gives the length that its header promises; spectra are finite. */
#include "base/mem.h"
#include "media/audio.h"
#include "media/audio_resample.h"
#include "media/spectrum.h"

#include <math.h>
#include <stdlib.h>

#define MOST_SAMPLES 20000 /* longer ones are only slow */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* libsndfile 1.2.0 forgets what it allocated for an Ogg stream that breaks off in its headers. Nothing can
 * be done about it here; our own leaks are still found. */
#pragma GCC visibility push(default) /* the sanitizer's library looks it up */
const char *__lsan_default_suppressions(void);
#pragma GCC visibility pop
const char *__lsan_default_suppressions(void)
{
    return "leak:libvorbis\nleak:libogg\nleak:libsndfile\nleak:libmpg123\nleak:libopus\nleak:"
           "libFLAC\n";
}

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_spectra(const mica_audio *a)
{
    mica_err err = {.status = MICA_OK};
    mica_spectrum s;
    if (mica_spectrum_magnitude(a->samples, a->count, 256, 256, 64, &s, &err) == MICA_OK)
        for (size_t i = 0; i < s.frames * s.bins; i++)
            require(s.values_RB[i] >= 0.0f);
    mica_spectrum_deinit(&s);
    if (mica_spectrum_fbank16k(a->samples, a->count, 80, &s, &err) == MICA_OK)
        require(s.frames == 1 + (a->count - 400) / 160);
    mica_spectrum_deinit(&s);
}

static void check_resampling(const mica_audio *a, int rate)
{
    mica_err err = {.status = MICA_OK};
    mica_audio out;
    const uint64_t want =
        ((uint64_t)a->count * (uint64_t)rate + (uint64_t)a->rate - 1) / (uint64_t)a->rate;
    if (want > 8 * MOST_SAMPLES)
        return;
    if (mica_audio_resample_sinc(a, rate, &out, &err) == MICA_OK)
        require(out.count == want);
    else
        require(err.text[0] && !out.samples);
    mica_audio_deinit(&out);
    require(mica_audio_resample_soxr(a, rate, &out, &err) == MICA_OK && out.count == want);
    mica_audio_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mica_audio a;
    mica_err err = {.status = MICA_OK};
    if (mica_audio_decode(&a, "input", data, size, &err) != MICA_OK) {
        require(err.text[0] && !a.samples);
        return 0;
    }
    require(a.count > 0 && a.rate >= MICA_AUDIO_MIN_RATE);
    for (size_t i = 0; i < a.count; i++)
        require(isfinite(a.samples[i]));
    a.count = a.count < MOST_SAMPLES ? a.count : MOST_SAMPLES;
    check_spectra(&a);
    check_resampling(&a, 16000);
    mica_audio_deinit(&a);
    return 0;
}
