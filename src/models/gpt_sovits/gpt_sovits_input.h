/* gpt_sovits_input.h - what a run reads: recordings or a .voice file, text, given stages. */
#ifndef MICA_MODELS_GPT_SOVITS_INPUT_H
#define MICA_MODELS_GPT_SOVITS_INPUT_H

#include "models/gpt_sovits/gpt_sovits.h"

typedef struct mica_gs_input {
    mica_arena arena; /* texts and their spans */
    mica_speech_pieces pieces, prompt_pieces;
    mica_text notes; /* remarks for people, one per line */
    mica_gs_voice voice;
    mica_gs_text prompt;
    bool has_prompt;
    mica_gs_text *texts;
    int text_count;
    bool is_asked;                    /* g2pW reads each text again before it is spoken */
    mica_speech_text_options options; /* of the text, without a reader */
    const int32_t *given_phones;      /* of phones_path; in the arena */
    int64_t given_phone_count;
    const int32_t *tokens; /* of tokens_path; in the arena */
    int64_t token_count;
} mica_gs_input;

void mica_gs_input_init(mica_gs_input *in);
void mica_gs_input_deinit(mica_gs_input *in);
/* Codes and style of the voice: recordings are heard, a .voice file is read, codes_path wins. */
mica_status mica_gs_input_voice(mica_gs_input *in, mica_gs_session *s, mica_run *run,
                                const mica_speech_options *o, mica_err *err);
/* Sentences and given transcript, or the given phones; and given tokens. Before the voice, which takes time. */
mica_status mica_gs_input_texts(mica_gs_input *in, mica_gs_session *s, mica_run *run,
                                const mica_speech_options *o, mica_err *err);
/* The transcript that the voice's file holds, where none was given. */
mica_status mica_gs_input_kept_transcript(mica_gs_input *in, mica_gs_session *s, mica_run *run,
                                          mica_err *err);
/* The same of a text and of a transcript (gpt_sovits_text.c). */
mica_status mica_gs_input_read_text(mica_gs_input *in, mica_gs_session *s, const char *text,
                                    const char *language, const char *cut, mica_err *err);
/* Asks g2pW about sentence `index`, where it is there. */
mica_status mica_gs_input_ask(mica_gs_input *in, mica_gs_session *s, mica_run *run, int index,
                              mica_err *err);
/* in->pieces to in->texts, which has room for them. */
mica_status mica_gs_input_take_pieces(mica_gs_input *in, const mica_gs_model *m, mica_err *err);
/* NULL: auto. Told also where the language is not asked for. */
mica_status mica_gs_input_check_language(const char *language, mica_err *err);
mica_status mica_gs_input_read_transcript(mica_gs_input *in, mica_gs_session *s, mica_run *run,
                                          const char *text, const char *language, mica_err *err);

#endif
