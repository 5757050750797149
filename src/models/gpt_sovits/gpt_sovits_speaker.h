/* gpt_sovits_speaker.h - ERes2NetV2: who speaks, as a vector (v2Pro and v2ProPlus).
 *
 *     filter banks [frames, 80] as a picture ─conv─► 4 stages of residual blocks ─┐
 *                                                     3rd ─conv─► fused with 4th ─► mean over time
 *
 * The vector is that before the reference's pooling: channels x frequencies (2048 x 10). */
#ifndef MICA_MODELS_GPT_SOVITS_SPEAKER_H
#define MICA_MODELS_GPT_SOVITS_SPEAKER_H

#include "models/gpt_sovits/gpt_sovits_layers.h"

#define MICA_GS_SPEAKER_STAGES 4
#define MICA_GS_SPEAKER_SCALE  8 /* parts of a block at most */
#define MICA_GS_SPEAKER_BINS   80

typedef struct mica_gs_fusion {
    mica_nn_linear down, up;
} mica_gs_fusion;

typedef struct mica_gs_speaker_block {
    mica_nn_linear in, out, shortcut; /* shortcut.w.name NULL: none */
    mica_nn_linear part[MICA_GS_SPEAKER_SCALE];
    mica_gs_fusion fuse[MICA_GS_SPEAKER_SCALE]; /* [1 ..]; name NULL: plain sums */
    int scale, stride;
} mica_gs_speaker_block;

typedef struct mica_gs_speaker {
    mica_nn_linear conv, down; /* layer3_ds */
    mica_gs_fusion fuse;
    mica_gs_speaker_block *blocks[MICA_GS_SPEAKER_STAGES];
    int counts[MICA_GS_SPEAKER_STAGES];
    int64_t channels; /* of the fused picture */
} mica_gs_speaker;

bool mica_gs_speaker_probe(const mica_weights *files);
mica_status mica_gs_speaker_directory(mica_weights **out, const mica_weights *files,
                                      mica_arena *arena, mica_err *err);
/* Batch norms are folded into the convolutions before them; the arena keeps those. */
mica_status mica_gs_speaker_open(mica_gs_speaker *s, const mica_weights *directory,
                                 mica_arena *arena, mica_err *err);
int64_t mica_gs_speaker_width(const mica_gs_speaker *s); /* of the vector */
/* fbank_RB [frames][80]; out: [mica_gs_speaker_width]. */
mica_status mica_gs_speaker_run(mica_gs_speaker *s, mica_backend *be, mica_run *run,
                                const float *fbank_RB, int64_t frames, float *out, mica_err *err);
void mica_gs_speaker_drop(mica_gs_speaker *s, mica_backend *be);

#endif
