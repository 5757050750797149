/* flux2_modulation.h - everything that depends on the timestep alone, for many steps at once.
 *
 *     timesteps[S] ─► sinusoids [S, 256] ─► MLP ─► silu ─► [S, D] ─┬─► picture stream [S, 6, D]
 *                                                                  ├─► text stream    [S, 6, D]
 *                                                                  ├─► single blocks  [S, 3, D]
 *                                                                  └─► norm_out: scale, shift [S, D]
 *
 * All blocks share it: five products for up to MICA_FLUX2_MODULATION_STEPS evaluations; longer runs
 * build the tables again when they leave them. */
#ifndef MICA_MODELS_FLUX2_FLUX2_MODULATION_H
#define MICA_MODELS_FLUX2_FLUX2_MODULATION_H

#include "models/flux2/flux2_weights.h"
#include "nn/run.h"

#define MICA_FLUX2_MODULATION_STEPS 64

typedef struct mica_flux2_modulation {
    mica_flux2_weights *w;
    const float *timesteps; /* of every evaluation of the run, 0..1; borrowed */
    int evaluations;
    bool round_bf16;
    int capacity;     /* evaluations a table holds */
    int first, count; /* those it holds now */
    int current;      /* the one whose rows stand behind the others too, or -1 */
    uint64_t matmuls; /* modulation matmuls so far */
    mica_tensor img_S6D, txt_S6D, mix_S3D; /* [(capacity + 1) * 6 or 3, D] f32 state */
    mica_tensor scale_SD, shift_SD;        /* [capacity + 1, D] */
} mica_flux2_modulation;

/* Parts of a row of img_S6D, txt_S6D (+ 3 for the MLP) and mix_S3D. */
enum { MICA_FLUX2_SHIFT = 0, MICA_FLUX2_SCALE = 1, MICA_FLUX2_GATE = 2 };

/* Tables in the session pool; nothing is computed yet. once: one table for as many evaluations
 * as fit; otherwise (ablation) one evaluation at a time. */
mica_status mica_flux2_modulation_init(mica_flux2_modulation *m, mica_flux2_weights *w,
                                       mica_backend *be, const float *timesteps, int evaluations,
                                       bool once, mica_err *err);
/* Makes sure evaluation e is in the tables. taps may be NULL. */
mica_status mica_flux2_modulation_prepare(mica_flux2_modulation *m, mica_backend *be,
                                          const mica_tap_sink *taps, int e, mica_err *err);
/* Evaluation e of the tables becomes the current one: its rows lie where those of the one before lay. */
void mica_flux2_modulation_select(mica_flux2_modulation *m, mica_backend *be, int e);
/* [D] view of one part for evaluation e. parts: 6, 3 or 1, as the table has. */
mica_tensor mica_flux2_modulation_row(const mica_flux2_modulation *m, const mica_tensor *table,
                                      int parts, int e, int part);

#endif
