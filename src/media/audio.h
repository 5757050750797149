/* audio.h - sound files in and out, thin over libsndfile.
 *
 * A sound here is one channel of floats, nominally -1..1: speech models hear nothing else.
 * Reading takes whatever libsndfile knows (WAV, FLAC, Ogg, AIFF, MP3, ...) by content, averages
 * the channels, and widens integers so that full scale is 1. Files are not trusted: rate, channels
 * and length are limited, every sample must be finite, library errors become messages. */
#ifndef MICA_MEDIA_AUDIO_H
#define MICA_MEDIA_AUDIO_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define MICA_AUDIO_MIN_RATE     1000
#define MICA_AUDIO_MAX_RATE     384000
#define MICA_AUDIO_MAX_CHANNELS 32
#define MICA_AUDIO_MAX_SECONDS  900 /* 15 minutes: far more than a reference voice needs */

typedef struct mica_audio {
    int rate; /* Hz */
    size_t count;
    float *samples; /* freed by mica_audio_deinit */
} mica_audio;
void mica_audio_deinit(mica_audio *a); /* of a zeroed or filled one */

mica_status mica_audio_read(mica_audio *a, const char *path, mica_err *err);
mica_status mica_audio_decode(mica_audio *a, const char *name, const uint8_t *data, size_t size,
                              mica_err *err);

typedef enum mica_audio_depth {
    MICA_AUDIO_PCM16, /* round toward zero of 32768 x, clipped: what numpy's astype gives */
    MICA_AUDIO_FLOAT, /* 32-bit float; WAV only */
} mica_audio_depth;

/* Kind by extension: .wav, .flac, .ogg (Vorbis), .opus, .mp3; the last two where the linked
 * libsndfile writes them. Opus takes 8, 12, 16, 24 and 48 kHz only; other rates are refused.
 * Atomic: the file is there whole or not at all. */
mica_status mica_audio_write(const mica_audio *a, const char *path, mica_audio_depth depth,
                             mica_err *err);
/* The same into memory; `kind` is the extension without its dot. Freed with mica_mem_free. */
mica_status mica_audio_encode(const mica_audio *a, const char *kind, mica_audio_depth depth,
                              uint8_t **data, size_t *size, mica_err *err);
/* The extension of `path` when mica_audio_write knows it ("wav"), else NULL. */
const char *mica_audio_kind(const char *path);

/* Header of a WAV of `count` samples, 16-bit mono PCM: 44 bytes. A count that 32 bits do not hold, UINT64_MAX say,
 * is a length not known yet (sizes 0xFFFFFFFF), as streams have it. */
#define MICA_WAV_HEADER 44
void mica_audio_wav_header(uint8_t out[MICA_WAV_HEADER], int rate, uint64_t count);
/* n floats to little-endian 16-bit samples as mica_audio_write makes them. */
void mica_audio_to_pcm16(const float *samples, size_t n, uint8_t *out);

#endif
