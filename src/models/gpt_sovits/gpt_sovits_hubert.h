/* gpt_sovits_hubert.h - HuBERT-base: sound to 50 feature rows a second (chinese-hubert-base).
 *
 *     16 kHz ─7 convolutions─► C ─norm, linear─► D ─(+) positional convolution─norm─► blocks ─►
 */
#ifndef MICA_MODELS_GPT_SOVITS_HUBERT_H
#define MICA_MODELS_GPT_SOVITS_HUBERT_H

#include "models/gpt_sovits/gpt_sovits_layers.h"

#define MICA_GS_HUBERT_CONVS  7
#define MICA_GS_HUBERT_GROUPS 64 /* of the positional convolution at most; as released 16 */

typedef struct mica_gs_hubert {
    mica_nn_linear conv[MICA_GS_HUBERT_CONVS]; /* b: released ones have none */
    int kernels[MICA_GS_HUBERT_CONVS], strides[MICA_GS_HUBERT_CONVS];
    mica_weight conv_norm_w, conv_norm_b; /* group norm of one channel a group, behind conv[0] */
    mica_gs_norm project_norm;
    mica_nn_linear project;
    mica_nn_linear position; /* [D, D / groups, 1, K], bias [D] */
    int groups;
    mica_nn_linear group[MICA_GS_HUBERT_GROUPS]; /* its parts */
    mica_gs_norm norm;
    mica_gs_stack stack;
} mica_gs_hubert;

bool mica_gs_hubert_probe(const mica_weights *files);
/* Makes the directory of the files (see mica_gs_directory). */
mica_status mica_gs_hubert_directory(mica_weights **out, const mica_weights *files,
                                     mica_arena *arena, mica_err *err);
/* heads 0: mica_gs_likely_heads. Strides and eps are those of the released network until set otherwise. */
mica_status mica_gs_hubert_open(mica_gs_hubert *h, const mica_weights *directory, int64_t heads,
                                mica_arena *arena, mica_err *err);
mica_status mica_gs_hubert_upload(mica_gs_hubert *h, mica_backend *be, mica_err *err);
int64_t mica_gs_hubert_frames(const mica_gs_hubert *h, int64_t samples);
/* y_LD: [mica_gs_hubert_frames(h, count), width]. */
mica_status mica_gs_hubert_run(mica_gs_hubert *h, mica_backend *be, mica_run *run,
                               const float *samples, int64_t count, mica_tensor *y_LD,
                               mica_err *err);
/* Frees prepared forms; the network is used once a reference. */
void mica_gs_hubert_drop(mica_gs_hubert *h, mica_backend *be);

#endif
