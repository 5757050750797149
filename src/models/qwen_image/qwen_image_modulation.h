/* qwen_image_modulation.h - everything that depends on the timestep alone, for many steps at once.
 *
 *     timesteps[S] ─► sinusoids [S, 256] ─► MLP ─► silu ─► [S, D] ─┬─► block n: image [S, 6, D]
 *                                                                  ├─► block n: text  [S, 6, D]
 *                                                                  └─► norm_out       [S, 2, D]
 *
 * The modulation linears are a third of the released model's weights (6.8 of 20.4 B). As one
 * product per block over all steps they are read once, and can then be dropped. A table covers
 * at most MICA_QWEN_IMAGE_MODULATION_STEPS evaluations (8.8 MB each with the released model); longer
 * runs build it again when they leave it. */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_MODULATION_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_MODULATION_H

#include "models/qwen_image/qwen_image_weights.h"
#include "nn/run.h"

#define MICA_QWEN_IMAGE_MODULATION_STEPS 64

typedef struct mica_qwen_image_modulation {
    mica_qwen_image_weights *w;
    const float *timesteps; /* of every evaluation of the run, 0..1; borrowed */
    int evaluations;
    bool round_bf16;
    bool zero;                      /* the image tables have a row for timestep 0, too */
    int capacity;                   /* evaluations a table holds */
    int first, count;               /* those it holds now */
    int current;                    /* the one whose rows stand behind the others too, or NONE */
    uint64_t matmuls;               /* modulation matmuls so far */
    mica_tensor img_BS6D, txt_BS6D; /* all blocks behind each other */
    /* Per block: [(capacity + zero + the current one + zero) * 6, D] f32 state. */
    mica_tensor *img_S6D, *txt_S6D;
    mica_tensor out_S2D; /* the same of 2 */
} mica_qwen_image_modulation;

/* Parts of a row of img_S6D and txt_S6D. */
enum { MICA_MOD_SHIFT = 0, MICA_MOD_SCALE = 1, MICA_MOD_GATE = 2 }; /* + 3 for the MLP */

/* In place of an evaluation: timestep 0, for the rows of references (zero_cond_t). */
#define MICA_QWEN_IMAGE_TIME_ZERO (-1)
#define MICA_QWEN_IMAGE_TIME_NONE (-2)

/* Tables in the session pool; nothing is computed yet. once: one table for as many evaluations
 * as fit; otherwise (ablation) one evaluation at a time. zero: timestep 0 is needed as well. `arena`
 * holds the per-block arrays. */
mica_status mica_qwen_image_modulation_init(mica_qwen_image_modulation *m,
                                            mica_qwen_image_weights *w, mica_backend *be,
                                            mica_arena *arena, const float *timesteps,
                                            int evaluations, bool once, bool zero, mica_err *err);
/* Makes sure evaluation e is in the table. When the table holds the last evaluation, the
 * modulation weights are dropped. */
mica_status mica_qwen_image_modulation_prepare(mica_qwen_image_modulation *m, mica_backend *be,
                                               mica_run *run, int e, mica_err *err);
/* Evaluation e of the table becomes the current one: its rows, and those of timestep 0, lie where those of
 * the one before lay. */
void mica_qwen_image_modulation_select(mica_qwen_image_modulation *m, mica_backend *be, int e);
/* [D] views for evaluation e of the table; TIME_ZERO in image tables alone. */
mica_tensor mica_qwen_image_modulation_row(const mica_qwen_image_modulation *m,
                                           const mica_tensor *table_S6D, int e, int part);

#endif
