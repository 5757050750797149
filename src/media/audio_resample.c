/* audio_resample.c - soxr, and torchaudio's sinc resampling (functional/functional.py:
 * _get_sinc_resample_kernel, _apply_sinc_resample_kernel).
 *
 * The rates divided by their greatest common divisor are `from` and `to`. Output sample
 * k * to + p reads the input around k * from with kernel p:
 *
 *     t[p][j]    = base * ((j - width) / from - p / to),    clamped to +-6
 *     kernel     = sinc(t) * cos^2(pi t / 12) * base / from,    base = 0.99 min(from, to)
 *
 * One kernel per phase, 2 width + from taps each. */
#include "media/audio_resample.h"

#include "base/checked.h"
#include "base/mem.h"

#include <math.h>
#include <soxr.h>
#include <string.h>

#define ZERO_CROSSINGS 6
#define ROLLOFF        0.99
#define MOST_TAPS      (16u << 20) /* all phases together; 44.1 kHz to 32 kHz has 143,000 */

static const double pi = 3.14159265358979323846;

static mica_status start_output(const mica_audio *a, int rate, mica_audio *out, mica_err *err)
{
    memset(out, 0, sizeof *out);
    if (a->rate < MICA_AUDIO_MIN_RATE || a->rate > MICA_AUDIO_MAX_RATE ||
        rate < MICA_AUDIO_MIN_RATE || rate > MICA_AUDIO_MAX_RATE)
        return MICA_FAIL(err, MICA_E_USAGE, "no resampling from %d Hz to %d Hz (%d to %d)", a->rate,
                         rate, MICA_AUDIO_MIN_RATE, MICA_AUDIO_MAX_RATE);
    const uint64_t from = (uint64_t)a->rate, to = (uint64_t)rate;
    const uint64_t count = ((uint64_t)a->count * to + from - 1) / from;
    size_t bytes;
    if (!mica_mul_size((size_t)count + 1, sizeof(float), &bytes) ||
        (out->samples = mica_mem_alloc(bytes)) == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to resample %zu samples", a->count);
    memset(out->samples, 0, bytes);
    out->count = (size_t)count;
    out->rate = rate;
    return MICA_OK;
}

mica_status mica_audio_resample_soxr(const mica_audio *a, int rate, mica_audio *out, mica_err *err)
{
    MICA_TRY(start_output(a, rate, out, err));
    if (rate == a->rate) {
        memcpy(out->samples, a->samples, a->count * sizeof *a->samples);
        return MICA_OK;
    }
    const soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
    const soxr_runtime_spec_t threads = soxr_runtime_spec(1);
    size_t read = 0, written = 0;
    const soxr_error_t error =
        soxr_oneshot(a->rate, rate, 1, a->samples, a->count, &read, out->samples, out->count,
                     &written, NULL, &quality, &threads);
    if (error != NULL) {
        mica_audio_deinit(out);
        return MICA_FAIL(err, MICA_E_NOMEM, "resampling from %d Hz to %d Hz: %s", a->rate, rate,
                         soxr_strerror(error));
    }
    return MICA_OK;
}

static int common_divisor(int a, int b)
{
    while (b != 0) {
        const int rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static void fill_kernels(float *kernels, int from, int to, int width)
{
    const double base = ROLLOFF * MICA_MIN(from, to);
    const int taps = 2 * width + from;
    for (int p = 0; p < to; p++)
        for (int j = 0; j < taps; j++) {
            double t = base * ((double)(j - width) / from + (double)-p / to);
            t = MICA_MIN(MICA_MAX(t, -(double)ZERO_CROSSINGS), (double)ZERO_CROSSINGS);
            const double window = cos(t * pi / ZERO_CROSSINGS / 2), x = t * pi;
            const double sinc = x == 0.0 ? 1.0 : sin(x) / x;
            kernels[(size_t)p * (size_t)taps + (size_t)j] =
                (float)(sinc * window * window * (base / from));
        }
}

/* The sum over the taps that meet a sample; beyond both ends there are zeros. */
static float dot_at(const mica_audio *a, const float *kernel, int taps, int64_t start)
{
    const int64_t first = start < 0 ? -start : 0;
    const int64_t last = MICA_MIN((int64_t)taps, (int64_t)a->count - start);
    float sum = 0.0f;
    for (int64_t j = first; j < last; j++)
        sum += kernel[j] * a->samples[start + j];
    return sum;
}

mica_status mica_audio_resample_sinc(const mica_audio *a, int rate, mica_audio *out, mica_err *err)
{
    MICA_TRY(start_output(a, rate, out, err));
    if (rate == a->rate) {
        memcpy(out->samples, a->samples, a->count * sizeof *a->samples);
        return MICA_OK;
    }
    const int divisor = common_divisor(a->rate, rate);
    const int from = a->rate / divisor, to = rate / divisor;
    const int width = (int)ceil(ZERO_CROSSINGS * from / (ROLLOFF * MICA_MIN(from, to)));
    const int taps = 2 * width + from;
    const bool fits = (uint64_t)taps * (uint64_t)to <= MOST_TAPS;
    float *kernels = fits ? mica_mem_alloc((size_t)taps * (size_t)to * sizeof *kernels) : NULL;
    if (kernels == NULL) {
        mica_audio_deinit(out);
        if (fits)
            return MICA_FAIL(err, MICA_E_NOMEM, "no memory to resample a sound");
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%d Hz and %d Hz have too small a common divisor to resample", a->rate,
                         rate);
    }
    fill_kernels(kernels, from, to, width);
    for (size_t i = 0; i < out->count; i++) {
        const int64_t block = (int64_t)(i / (size_t)to);
        const size_t phase = i % (size_t)to;
        out->samples[i] = dot_at(a, kernels + phase * (size_t)taps, taps, block * from - width);
    }
    mica_mem_free(kernels);
    return MICA_OK;
}
