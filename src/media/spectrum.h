/* spectrum.h - what speech networks see of a sound: magnitudes of short transforms, and the
 * mel filter bank features of speaker networks. Rows are frames. */
#ifndef MICA_MEDIA_SPECTRUM_H
#define MICA_MEDIA_SPECTRUM_H

#include "base/status.h"

#include <stddef.h>

typedef struct mica_spectrum {
    size_t frames, bins;
    float *values_RB; /* frames x bins; freed by mica_spectrum_deinit */
} mica_spectrum;
void mica_spectrum_deinit(mica_spectrum *s);

/* sqrt(re^2 + im^2 + 1e-8) of stretches of `size` samples (a power of two, 16 to 65536) every `hop`
 * under a periodic Hann window of `window` samples in their middle (1 to size); (size - hop) / 2
 * samples are mirrored at both ends, so the sound must be longer than that. size / 2 + 1 bins,
 * count / hop frames (rounded down).
 * Linear frequency, no mel scale: GPT-SoVITS's module/mel_processing.py spectrogram_torch. */
mica_status mica_spectrum_magnitude(const float *samples, size_t count, size_t size, size_t window,
                                    size_t hop, mica_spectrum *out, mica_err *err);
/* Kaldi's log filter bank with the options that speaker networks are trained with: 16 kHz, frames of
 * 25 ms every 10 ms that lie whole in the sound, mean removed, pre-emphasis 0.97, Povey window, 512
 * points, power, `bins` triangles from 20 Hz to 8 kHz in mel, no dither, no energy; log of
 * at least 2^-23. Samples are taken as they are (-1..1). */
mica_status mica_spectrum_fbank16k(const float *samples, size_t count, size_t bins,
                                   mica_spectrum *out, mica_err *err);

#endif
