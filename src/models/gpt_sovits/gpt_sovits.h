/* gpt_sovits.h - GPT-SoVITS as a model: its parts, its sessions, and the chain through them.
 *
 *     mica_gs_model      directories of up to six parts, settings; immutable, shared
 *     mica_gs_session    networks bound to a backend
 *
 * Text to semantic and the synthesizer are always needed. HuBERT (and for v2Pro the speaker network) is
 * needed to hear a recording, BERT for Chinese; what is absent is told when it is asked for. g2pW makes the
 * readings of Chinese characters better and is nowhere needed. */
#ifndef MICA_MODELS_GPT_SOVITS_GPT_SOVITS_H
#define MICA_MODELS_GPT_SOVITS_GPT_SOVITS_H

#include "models/gpt_sovits/gpt_sovits_alignment.h"
#include "models/gpt_sovits/gpt_sovits_bert.h"
#include "models/gpt_sovits/gpt_sovits_chain.h"
#include "models/gpt_sovits/gpt_sovits_hubert.h"
#include "models/gpt_sovits/gpt_sovits_readings.h"
#include "models/gpt_sovits/gpt_sovits_semantic.h"
#include "models/gpt_sovits/gpt_sovits_speaker.h"
#include "models/gpt_sovits/gpt_sovits_synthesizer.h"
#include "models/model.h"
#include "speech/speech_text.h"
#include "text/wordpiece.h"

typedef enum mica_gs_part {
    MICA_GS_SEMANTIC = 0,
    MICA_GS_SYNTHESIZER,
    MICA_GS_HUBERT,
    MICA_GS_BERT,
    MICA_GS_SPEAKER,
    MICA_GS_G2PW,
    MICA_GS_PARTS
} mica_gs_part;

/* What tensors do not tell of a transformer; 0: not told. */
typedef struct mica_gs_settings {
    int64_t heads;
    double eps;
    int strides[MICA_GS_HUBERT_CONVS];
} mica_gs_settings;

typedef struct mica_gs_model {
    mica_model base;
    mica_arena arena;
    mica_weights *files[MICA_GS_PARTS], *directory[MICA_GS_PARTS]; /* NULL: absent */
    mica_gs_settings settings[MICA_GS_PARTS];
    mica_gs_synth_config synth;
    mica_gs_facts facts;
    mica_speech_front *front;   /* text to phones */
    mica_wordpiece *vocabulary; /* of BERT; NULL: not there */
    mica_gs_list_sizes g2pw_sizes;
    mica_gs_readings readings; /* the lists of g2pW, where that is there */
    bool is_synthetic;         /* random weights: voices and BERT's ids are made up, nothing ends */
} mica_gs_model;

/* Heads of text to semantic that are seen to follow the voice's own transcript (gpt_sovits_check.c). */
#define MICA_GS_HEADS 6
typedef struct mica_gs_followers {
    bool are_sought; /* in this run */
    bool are_kept;   /* of the voice of `key`, for the next run */
    uint64_t key;
    int count, layers; /* best first; layers that they need */
    struct {
        int layer, head;
        float score;
    } best[MICA_GS_HEADS];
} mica_gs_followers;

typedef struct mica_gs_session {
    mica_model_session base;
    const mica_gs_model *model;
    mica_backend *be;
    mica_arena arena;
    mica_gs_semantic semantic;
    mica_gs_synth synth;
    mica_gs_hubert hubert;
    mica_gs_bert bert;
    mica_gs_speaker speaker;
    mica_gs_g2pw g2pw;
    mica_gs_followers heads;
} mica_gs_session;

extern const mica_model_kind mica_gpt_sovits_kind;
/* gpt_sovits_synthetic.c: "v2", "v2pro" or "v2proplus", perhaps ",blocks=N,bert_blocks=N". */
mica_status mica_gs_open_synthetic(mica_model **out, const char *spec, mica_err *err);
/* What opening has in common: the parts' sizes against each other, the front end. */
mica_status mica_gs_model_finish(mica_gs_model *m, mica_err *err);
/* gpt_sovits_run.c */
mica_status mica_gs_speak(mica_model_session *session, const mica_speech_options *options,
                          const mica_tap_sink *taps, mica_speech_result *result, mica_err *err);
mica_status mica_gs_write_voice(mica_model_session *session, const mica_speech_options *options,
                                const char *path, char **notes, mica_err *err);

/* ------------------------------------------------------------------- chain -- */

/* What the model needs to know of recordings: codes of the first, the mean of all styles. Transcript
 * and language stay NULL. */
mica_status mica_gs_voice_make(mica_gs_session *s, mica_run *run, const mica_gs_audio *recordings,
                               int count, mica_gs_voice *out, mica_err *err);

/* Features of BERT for a text, [phones][bert_width]; NULL where the text has no span for it.
 * mica_mem_free. */
mica_status mica_gs_features(mica_gs_session *s, mica_run *run, const mica_gs_text *text,
                             float **out, mica_err *err);

typedef struct mica_gs_request {
    const mica_gs_voice *voice;
    const mica_gs_text *prompt; /* transcript of the voice's first recording; NULL: not known */
    bool continues;             /* the voice's codes stand before the sentence's; needs the
                                   transcript's phones, in `prompt` or in the text */
    const mica_gs_text *texts;  /* sentences */
    int count;
    mica_status (*prepare)(void *user, int index, mica_err *err); /* texts[index] is wanted now;
                                                                     may be NULL */
    void *prepare_user;
    const int32_t *tokens; /* of the only sentence, given instead of sampled; or NULL */
    int64_t token_count;
    mica_gs_sampling sampling; /* sentence and attempt are set here */
    double noise_scale, speed; /* exact: 0 is no noise, 1 is the usual speed */
    double pause;              /* seconds behind each sentence */
    int batch, retries;
    int chunk_tokens;     /* 0: whole sentences; else speed must be 1, and nothing is made anew */
    mica_speech_fn chunk; /* may be NULL */
    void *chunk_user;
} mica_gs_request;
mica_status mica_gs_chain_run(mica_gs_session *s, mica_run *run, const mica_gs_request *request,
                              mica_speech_result *result, mica_err *err);

#endif
