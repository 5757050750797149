/* zimage_modulation.h - everything that depends on the timestep alone, for many steps at once.
 *
 *     times[S] ─► sinusoids [S, 256] ─► MLP ─► [S, A] ─┬─► block n: scale, tanh gate of attention,
 *                                                      │            scale, tanh gate of the MLP  [S, 4, D]
 *                                                      └─► silu ─► final layer: scale            [S, D]
 *
 * One product per block over all steps; the weights (0.13 of 6.15 B) are then dropped. A table covers at
 * most MICA_ZIMAGE_MODULATION_STEPS evaluations (2 MB each with the released model); longer runs
 * build it again when they leave it. */
#ifndef MICA_MODELS_ZIMAGE_ZIMAGE_MODULATION_H
#define MICA_MODELS_ZIMAGE_ZIMAGE_MODULATION_H

#include "models/zimage/zimage_weights.h"
#include "nn/run.h"

#define MICA_ZIMAGE_MODULATION_STEPS 64

typedef struct mica_zimage_modulation {
    mica_zimage_weights *w;
    const float *times; /* of every evaluation of the run, 0 (noise) to 1; borrowed */
    int evaluations;
    int capacity;           /* evaluations a table holds */
    int first, count;       /* those it holds now */
    int current;            /* the one whose rows stand behind the others too, or -1 */
    uint64_t matmuls;       /* modulation matmuls so far */
    mica_tensor all_BS4D;   /* every block_S4D behind each other */
    mica_tensor *block_S4D; /* per step block: [(capacity + 1) * 4, D] f32 state */
    mica_tensor out_SD;     /* [capacity + 1, D] */
} mica_zimage_modulation;

/* Rows of block_S4D. */
enum {
    MICA_ZIMAGE_ATTN_SCALE = 0,
    MICA_ZIMAGE_ATTN_GATE,
    MICA_ZIMAGE_MLP_SCALE,
    MICA_ZIMAGE_MLP_GATE,
    MICA_ZIMAGE_MOD_PARTS
};

/* Tables in the session pool; nothing is computed yet. once: one table for as many evaluations
 * as fit; otherwise (ablation) one evaluation at a time. `arena` holds the per-block arrays. */
mica_status mica_zimage_modulation_init(mica_zimage_modulation *m, mica_zimage_weights *w,
                                        mica_backend *be, mica_arena *arena, const float *times,
                                        int evaluations, bool once, mica_err *err);
/* Makes sure evaluation e is in the table. When the table holds the last evaluation, the
 * modulation weights are dropped. */
mica_status mica_zimage_modulation_prepare(mica_zimage_modulation *m, mica_backend *be,
                                           mica_run *run, int e, mica_err *err);
/* Evaluation e of the table becomes the current one: its rows lie where those of the one before lay. */
void mica_zimage_modulation_select(mica_zimage_modulation *m, mica_backend *be, int e);
/* [D] views for evaluation e: of step block n, and of the final layer. */
mica_tensor mica_zimage_modulation_row(const mica_zimage_modulation *m, int n, int e, int part);
mica_tensor mica_zimage_modulation_out(const mica_zimage_modulation *m, int e);

#endif
