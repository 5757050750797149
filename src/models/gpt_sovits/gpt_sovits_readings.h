/* gpt_sovits_readings.h - the lists beside g2pW, and asking it about a sentence.
 *
 *     POLYPHONIC_CHARS.txt   "行<TAB>ㄏㄤ2": what a character may be; sorted, its lines are the
 *                            numbers of characters and readings that the network was trained with
 *     MONOPHONIC_CHARS.txt   characters with one reading; may be absent
 *     config.py              use_mask = False: every reading is possible for every character; may be absent
 *
 *     他得还钱  ─traditional─► 他得還錢  ─WordPiece─► ids ─g2pW─► 得 dei3, 還 huan2
 *
 * Reference: GPT-SoVITS text/g2pw/onnx_api.py (_prepare_data, get_phoneme_labels), dataset.py. */
#ifndef MICA_MODELS_GPT_SOVITS_READINGS_H
#define MICA_MODELS_GPT_SOVITS_READINGS_H

#include "models/gpt_sovits/gpt_sovits_g2pw.h"
#include "speech/chinese_traditional.h"
#include "speech/speech_text.h"
#include "text/wordpiece.h"

typedef struct mica_gs_character {
    uint32_t cp;
    bool is_asked; /* others keep what the dictionary says */
} mica_gs_character;

typedef struct mica_gs_single {
    uint32_t cp;
    int reading;
} mica_gs_single;

typedef struct mica_gs_readings {
    mica_traditional traditional;
    mica_gs_character *characters; /* sorted */
    mica_gs_single *singles;       /* sorted */
    int64_t character_count, single_count, reading_count;
    int *readings;   /* of mica_speech_reading, by the network's numbers; -1: none of ours */
    uint8_t *may_CR; /* 1: a reading of the character */
} mica_gs_readings;

/* What the network was made for. */
typedef struct mica_gs_list_sizes {
    int64_t characters, readings;
} mica_gs_list_sizes;

/* path: the network's file or folder; the lists lie there, and must have these sizes. All memory is the
 * arena's. */
mica_status mica_gs_readings_open(mica_gs_readings *r, const char *path,
                                  const mica_gs_list_sizes *sizes, const mica_speech_front *front,
                                  mica_arena *arena, mica_err *err);

/* Who is asked: everything is borrowed. */
typedef struct mica_gs_asker {
    const mica_gs_readings *lists;
    mica_gs_g2pw *network;
    const mica_wordpiece *vocabulary;
    mica_backend *be;
    mica_run *run;
} mica_gs_asker;
/* A mica_speech_reader's function; user: a mica_gs_asker. */
mica_status mica_gs_ask(void *user, const uint32_t *chars, size_t size, int *readings,
                        mica_err *err);

#endif
