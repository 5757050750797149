/* audio_resample.h - another sample rate, in the two ways that the reference voices need.
 *
 * A model hears its reference through both: the 16 kHz signal comes from soxr's HQ filter (as
 * librosa loads a file), the spectrum's signal from a short windowed sinc (as torchaudio's
 * Resample with its defaults). They differ audibly little and numerically much, so each is
 * used where the reference implementation uses it. */
#ifndef MICA_MEDIA_AUDIO_RESAMPLE_H
#define MICA_MEDIA_AUDIO_RESAMPLE_H

#include "media/audio.h"

/* ceil(count * rate / a->rate) samples; *out is independent of *a. Equal rates copy. */
mica_status mica_audio_resample_soxr(const mica_audio *a, int rate, mica_audio *out, mica_err *err);
/* The same length. Hann window of 6 zero crossings, cut-off 0.99 of the lower Nyquist
 * frequency, zeros beyond both ends; kernel in f64, rounded to f32, products in f32. */
mica_status mica_audio_resample_sinc(const mica_audio *a, int rate, mica_audio *out, mica_err *err);

#endif
