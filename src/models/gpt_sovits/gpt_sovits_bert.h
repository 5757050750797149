/* gpt_sovits_bert.h - BERT: one feature row per character (chinese-roberta-wwm-ext-large).
 *
 *     ids ─words + positions + type 0─norm─► blocks 0 .. n-3 ─► drop [CLS], [SEP] ─► features
 *
 * The features are what leaves the third block from the end; the last two are neither bound nor
 * run. g2pW (gpt_sovits_g2pw.h) is a BERT of which all blocks run. */
#ifndef MICA_MODELS_GPT_SOVITS_BERT_H
#define MICA_MODELS_GPT_SOVITS_BERT_H

#include "models/gpt_sovits/gpt_sovits_layers.h"

typedef struct mica_gs_bert {
    mica_weight words, positions, types;
    mica_gs_norm norm;
    mica_gs_stack stack; /* count: blocks that run */
} mica_gs_bert;

#define MICA_GS_BERT_SKIPPED 2 /* blocks at the end whose output the features do not need */

bool mica_gs_bert_probe(const mica_weights *files);
mica_status mica_gs_bert_directory(mica_weights **out, const mica_weights *files, mica_arena *arena,
                                   mica_err *err);
/* heads 0: mica_gs_likely_heads. skipped: blocks at the end that are left out. */
mica_status mica_gs_bert_open(mica_gs_bert *b, const mica_weights *directory, int64_t heads,
                              int skipped, mica_arena *arena, mica_err *err);
mica_status mica_gs_bert_fill(mica_weights *directory, int blocks, mica_arena *arena,
                              mica_err *err);
mica_status mica_gs_bert_upload(mica_gs_bert *b, mica_backend *be, mica_err *err);
int64_t mica_gs_bert_most(const mica_gs_bert *b); /* ids at once */
/* features_CD: count - 2 rows on the host. */
mica_status mica_gs_bert_run(mica_gs_bert *b, mica_backend *be, mica_run *run, const int32_t *ids,
                             int64_t count, float *features_CD, mica_err *err);
/* The rows of all ids as they leave the last block that runs, in STEP: x_LD is made there. tap: taps are
 * called TAP.hidden_states.N; NULL: none. */
mica_status mica_gs_bert_hidden(mica_gs_bert *b, mica_backend *be, mica_run *run, const char *tap,
                                const int32_t *ids, int64_t count, mica_tensor *x_LD,
                                mica_err *err);
void mica_gs_bert_drop(mica_gs_bert *b, mica_backend *be);

#endif
