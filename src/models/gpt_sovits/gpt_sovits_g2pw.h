/* gpt_sovits_g2pw.h - g2pW: which of its readings a character has in its sentence.
 *
 *     ids ─BERT─► hidden row h of the character asked about
 *     h ─pos_classifier─► word class c (the likeliest)
 *     w = sigmoid(bias + of character + of (character, class))      one number per reading
 *     h ─classifier─► softmax over the readings that the character can have, weighted by w
 *
 * Reference: g2pw/module.py of GitYCC/g2pW (G2PW.forward, _weighted_softmax); the paper is "g2pW: A Conditional
 * Weighted Softmax BERT for Polyphone Disambiguation in Mandarin" (Interspeech 2022). Which readings are
 * which numbers is gpt_sovits_readings.h. */
#ifndef MICA_MODELS_GPT_SOVITS_G2PW_H
#define MICA_MODELS_GPT_SOVITS_G2PW_H

#include "models/gpt_sovits/gpt_sovits_bert.h"

typedef struct mica_gs_g2pw {
    mica_gs_bert bert;
    mica_nn_linear classifier, pos;          /* pos.w.name NULL: nothing depends on the class */
    mica_weight bias, chars, classes, pairs; /* rows of weights, any may be absent */
    int64_t readings, char_count, class_count;
    bool on_hidden; /* weights multiply h instead of the readings */
} mica_gs_g2pw;

bool mica_gs_g2pw_probe(const mica_weights *files);
mica_status mica_gs_g2pw_open(mica_gs_g2pw *g, const mica_weights *directory, int64_t heads,
                              mica_arena *arena, mica_err *err);
mica_status mica_gs_g2pw_upload(mica_gs_g2pw *g, mica_backend *be, mica_err *err);

typedef struct mica_gs_question {
    int32_t place;        /* of the character among the ids */
    int32_t character;    /* its number */
    const uint8_t *may_R; /* 1: a reading that it can have */
} mica_gs_question;
/* best[i]: the likeliest reading of question i. probs_NR: all probabilities; or NULL. */
mica_status mica_gs_g2pw_run(mica_gs_g2pw *g, mica_backend *be, mica_run *run, const int32_t *ids,
                             int64_t id_count, const mica_gs_question *questions, int64_t count,
                             int32_t *best, float *probs_NR, mica_err *err);
void mica_gs_g2pw_drop(mica_gs_g2pw *g, mica_backend *be);

#endif
