/* speech_write.c - finished speech as sound files and streams. */
#include "api/api.h"

#include "media/audio.h"
#include "media/audio_resample.h"

#include <stdio.h>
#include <string.h>

#define OPUS_RATE 48000

static mica_status write_sound(const mica_speech *speech, const char *path, bool floats,
                               mica_err *err)
{
    size_t count;
    const float *samples = mica_speech_samples(speech, &count);
    mica_audio sound = {mica_speech_rate(speech), count, (float *)(uintptr_t)samples};
    mica_audio resampled = {0};
    if (!speech || !path)
        return MICA_FAIL(err, MICA_E_USAGE, "there is no speech to write, or no path");
    const char *kind = mica_audio_kind(path);
    if (kind && strcmp(kind, "opus") == 0) {
        MICA_TRY(mica_audio_resample_soxr(&sound, OPUS_RATE, &resampled, err));
        sound = resampled;
    }
    const mica_status st =
        mica_audio_write(&sound, path, floats ? MICA_AUDIO_FLOAT : MICA_AUDIO_PCM16, err);
    mica_audio_deinit(&resampled);
    return st;
}

mica_status mica_speech_write(const mica_speech *speech, const char *path, bool floats,
                              char *message, size_t message_size)
{
    mica_err err = {0};
    const mica_status st = write_sound(speech, path, floats, &err);
    if (message && message_size)
        snprintf(message, message_size, "%s", st ? err.text : "");
    return st;
}

void mica_wav_header(int rate, uint64_t count, uint8_t header[MICA_WAV_HEADER_SIZE])
{
    mica_audio_wav_header(header, rate, count);
}

void mica_wav_samples(const float *samples, size_t count, uint8_t *bytes)
{
    mica_audio_to_pcm16(samples, count, bytes);
}
