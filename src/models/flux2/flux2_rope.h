/* flux2_rope.h - rotary tables of FLUX.2: four axes (picture, row, column, text token).
 *
 *     output      (0, y, x, 0)        text token l   (0, 0, 0, l)
 *     reference i (10 + 10 i, y, x, 0)
 *
 * Positions count from zero at the upper left. A table row is the axes' columns side by side. */
#ifndef MICA_MODELS_FLUX2_FLUX2_ROPE_H
#define MICA_MODELS_FLUX2_FLUX2_ROPE_H

#include "models/flux2/flux2_config.h"
#include "nn/rope.h"
#include "nn/tap.h"

#define MICA_FLUX2_REFERENCE_STEP 10 /* between pictures on the first axis */

/* One picture of h x w patches at place t of the first axis. */
typedef struct mica_flux2_grid {
    int t, h, w;
} mica_flux2_grid;

/* Positions of all patches of the grids, then of `text` tokens: [rows, 4]; mica_mem_free. */
mica_status mica_flux2_positions(const mica_flux2_grid *grids, int count, int64_t text,
                                 int32_t **out_L4, int64_t *rows, mica_err *err);
/* A table for such positions. With `tap` (may be NULL) both halves go to the trace as the
 * reference has them, every column twice: tap.0 cosines, tap.1 sines. */
mica_status mica_flux2_rope_build(mica_backend *be, mica_pool pool, const mica_flux2_config *c,
                                  const int32_t *positions_L4, int64_t rows,
                                  const mica_tap_sink *taps, const char *tap, mica_rope_table *out,
                                  mica_err *err);

#endif
