/* gpt_sovits_voice_file.h - a voice on disk: what a model knows of its recordings.
 *
 * A .voice file is a safetensors file: `codes` (I32) and `style` (F32), and in its metadata the
 * transcript, its language and the hash of the decoder that the style belongs to. It holds no
 * sound, but it does hold a voice: treat it as the recording itself. */
#ifndef MICA_MODELS_GPT_SOVITS_VOICE_FILE_H
#define MICA_MODELS_GPT_SOVITS_VOICE_FILE_H

#include "models/gpt_sovits/gpt_sovits_chain.h"

#define MICA_GS_VOICE_MAX_CODES 2048 /* ten seconds are 250 (500 at 50 Hz) */
#define MICA_GS_VOICE_MAX_STYLE 8192
#define MICA_GS_VOICE_MAX_TEXT  (64 * 1024) /* bytes of the transcript */

/* Freed with mica_gs_voice_deinit. Values are finite, codes are not negative; whether they fit a model
 * is for that model to check. */
mica_status mica_gs_voice_read(mica_gs_voice *voice, const char *path, mica_err *err);
/* The same from memory; `name` is for messages. */
mica_status mica_gs_voice_parse(mica_gs_voice *voice, const char *name, const void *data,
                                size_t size, mica_err *err);
/* Atomic. */
mica_status mica_gs_voice_write(const mica_gs_voice *voice, const char *path, mica_err *err);
/* By name: it ends in .voice. */
bool mica_gs_voice_is_file(const char *path);

#endif
