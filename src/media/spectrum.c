/* spectrum.c - short transforms of real signals and what is made of them.
 *
 * The transform is a radix-2 FFT in f64 with its twiddles computed once: ten seconds of sound
 * are 500 transforms of 2048 points, a few milliseconds, so simplicity wins. Two real frames
 * would fit one complex transform; not worth its lines here. */
#include "media/spectrum.h"

#include "base/checked.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

#define FBANK_RATE   16000
#define FBANK_WINDOW 400
#define FBANK_HOP    160
#define FBANK_POINTS 512
#define FBANK_MOST   256 /* filters */

static const double pi = 3.14159265358979323846;

void mica_spectrum_deinit(mica_spectrum *s)
{
    mica_mem_free(s->values_RB);
    memset(s, 0, sizeof *s);
}

/* ---- the transform ---- */

typedef struct transform {
    size_t size;
    double *re, *im; /* `size` each: in, then out */
    double *cosine, *sine;
    double *window;
} transform;

static void transform_deinit(transform *t)
{
    mica_mem_free(t->re);
    memset(t, 0, sizeof *t);
}

static bool transform_init(transform *t, size_t size)
{
    memset(t, 0, sizeof *t);
    double *block = mica_mem_calloc(size * 4, sizeof *block);
    if (block == NULL)
        return false;
    *t = (transform){
        size, block, block + size, block + 2 * size, block + 2 * size + size / 2, block + 3 * size};
    for (size_t i = 0; i < size / 2; i++) {
        t->cosine[i] = cos(2.0 * pi * (double)i / (double)size);
        t->sine[i] = -sin(2.0 * pi * (double)i / (double)size);
    }
    return true;
}

static void reverse_bits(transform *t)
{
    for (size_t i = 1, j = 0; i < t->size; i++) {
        size_t bit = t->size >> 1;
        for (; j & bit; bit >>= 1)
            j ^= bit;
        j ^= bit;
        if (i < j) {
            const double re = t->re[i], im = t->im[i];
            t->re[i] = t->re[j];
            t->im[i] = t->im[j];
            t->re[j] = re;
            t->im[j] = im;
        }
    }
}

static void butterfly(transform *t, size_t a, size_t b, double c, double s)
{
    const double re = t->re[b] * c - t->im[b] * s, im = t->re[b] * s + t->im[b] * c;
    t->re[b] = t->re[a] - re;
    t->im[b] = t->im[a] - im;
    t->re[a] += re;
    t->im[a] += im;
}

static void transform_run(transform *t)
{
    reverse_bits(t);
    for (size_t half = 1; half < t->size; half *= 2) {
        const size_t step = t->size / (2 * half);
        for (size_t base = 0; base < t->size; base += 2 * half)
            for (size_t k = 0; k < half; k++)
                butterfly(t, base + k, base + k + half, t->cosine[k * step], t->sine[k * step]);
    }
}

static mica_status start_spectrum(mica_spectrum *s, size_t frames, size_t bins, mica_err *err)
{
    size_t count, bytes;
    *s = (mica_spectrum){frames, bins, NULL};
    if (!mica_mul_size(frames, bins, &count) || !mica_mul_size(count, sizeof(float), &bytes) ||
        (s->values_RB = mica_mem_alloc(bytes)) == NULL) {
        memset(s, 0, sizeof *s);
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a spectrum of %zu frames", frames);
    }
    return MICA_OK;
}

/* ---- magnitudes ---- */

/* samples[at] where the ends are mirrors that do not repeat the last sample. */
static float mirrored(const float *samples, size_t count, int64_t at)
{
    if (at < 0)
        at = -at;
    if (at >= (int64_t)count)
        at = 2 * (int64_t)(count - 1) - at;
    return samples[at];
}

/* As torch.stft sets it: `window` samples in the middle of t->size, zeros around. */
static void fill_window(transform *t, size_t window)
{
    const size_t first = (t->size - window) / 2;
    for (size_t i = 0; i < window; i++)
        t->window[first + i] =
            (double)(float)(0.5 - 0.5 * cos(2.0 * pi * (double)i / (double)window));
}

mica_status mica_spectrum_magnitude(const float *samples, size_t count, size_t size, size_t window,
                                    size_t hop, mica_spectrum *out, mica_err *err)
{
    memset(out, 0, sizeof *out);
    if (size < 16 || size > 65536 || (size & (size - 1)) != 0 || hop < 1 || hop > size ||
        window < 1 || window > size)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "no spectrum of %zu points under a window of %zu every %zu samples", size,
                         window, hop);
    const size_t pad = (size - hop) / 2;
    if (count <= pad || count + 2 * pad < size)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a sound of %zu samples is too short for a spectrum of %zu points", count,
                         size);
    transform t;
    if (!transform_init(&t, size))
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a transform of %zu points", size);
    const size_t frames = (count + 2 * pad - size) / hop + 1, bins = size / 2 + 1;
    const mica_status status = start_spectrum(out, frames, bins, err);
    fill_window(&t, window);
    for (size_t r = 0; status == MICA_OK && r < frames; r++) {
        for (size_t i = 0; i < size; i++) {
            const int64_t at = (int64_t)(r * hop + i) - (int64_t)pad;
            t.re[i] = (double)mirrored(samples, count, at) * t.window[i];
            t.im[i] = 0.0;
        }
        transform_run(&t);
        for (size_t b = 0; b < bins; b++)
            out->values_RB[r * bins + b] =
                (float)sqrt(t.re[b] * t.re[b] + t.im[b] * t.im[b] + 1e-8);
    }
    transform_deinit(&t);
    return status;
}

/* ---- filter bank ---- */

static double mel_of(double hz)
{
    return 1127.0 * log(1.0 + hz / 700.0);
}

/* Triangles between points equally far apart in mel; the bin of the Nyquist frequency is left out. */
static void fill_filters(float *filters, size_t bins)
{
    const double low = mel_of(20.0), high = mel_of(FBANK_RATE / 2.0);
    const double step = (high - low) / (double)(bins + 1);
    for (size_t f = 0; f < bins; f++) {
        const double left = low + (double)f * step, center = left + step, right = center + step;
        for (size_t b = 0; b < FBANK_POINTS / 2; b++) {
            const double mel = mel_of((double)b * FBANK_RATE / FBANK_POINTS);
            const double up = (mel - left) / (center - left);
            const double down = (right - mel) / (right - center);
            filters[f * (FBANK_POINTS / 2) + b] = (float)MICA_MAX(0.0, MICA_MIN(up, down));
        }
    }
}

static void fbank_frame(transform *t, const float *samples, const float *filters, size_t bins,
                        float *out)
{
    double frame[FBANK_WINDOW], mean = 0.0;
    for (size_t i = 0; i < FBANK_WINDOW; i++)
        mean += (double)samples[i];
    mean /= FBANK_WINDOW;
    for (size_t i = 0; i < FBANK_WINDOW; i++)
        frame[i] = (double)samples[i] - mean;
    memset(t->re, 0, FBANK_POINTS * sizeof *t->re);
    memset(t->im, 0, FBANK_POINTS * sizeof *t->im);
    for (size_t i = 0; i < FBANK_WINDOW; i++) /* the first sample is its own predecessor */
        t->re[i] = (frame[i] - 0.97 * frame[i > 0 ? i - 1 : 0]) * t->window[i];
    transform_run(t);
    for (size_t f = 0; f < bins; f++) {
        double sum = 0.0;
        for (size_t b = 0; b < FBANK_POINTS / 2; b++)
            sum += (t->re[b] * t->re[b] + t->im[b] * t->im[b]) *
                   (double)filters[f * (FBANK_POINTS / 2) + b];
        out[f] = (float)log(MICA_MAX(sum, 1.1920928955078125e-07));
    }
}

mica_status mica_spectrum_fbank16k(const float *samples, size_t count, size_t bins,
                                   mica_spectrum *out, mica_err *err)
{
    memset(out, 0, sizeof *out);
    if (bins < 1 || bins > FBANK_MOST)
        return MICA_FAIL(err, MICA_E_USAGE, "no filter bank of %zu filters (1 to %d)", bins,
                         FBANK_MOST);
    if (count < FBANK_WINDOW)
        return MICA_FAIL(err, MICA_E_USAGE, "a sound of %zu samples is shorter than 25 ms", count);
    transform t;
    float *filters = mica_mem_alloc(bins * (FBANK_POINTS / 2) * sizeof *filters);
    if (filters == NULL || !transform_init(&t, FBANK_POINTS)) {
        mica_mem_free(filters);
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a filter bank");
    }
    fill_filters(filters, bins);
    for (size_t i = 0; i < FBANK_WINDOW; i++)
        t.window[i] = pow(0.5 - 0.5 * cos(2.0 * pi * (double)i / (FBANK_WINDOW - 1)), 0.85);
    const size_t frames = 1 + (count - FBANK_WINDOW) / FBANK_HOP;
    const mica_status status = start_spectrum(out, frames, bins, err);
    for (size_t r = 0; status == MICA_OK && r < frames; r++)
        fbank_frame(&t, samples + r * FBANK_HOP, filters, bins, out->values_RB + r * bins);
    transform_deinit(&t);
    mica_mem_free(filters);
    return status;
}
