/* flux2_reference.h - pictures that the prompt refers to, as latents beside the noise.
 *
 *     picture ─► smaller if above 1024^2 pixels ─► middle part, sides multiples of 16 ─► VAE ─► rows */
#ifndef MICA_MODELS_FLUX2_FLUX2_REFERENCE_H
#define MICA_MODELS_FLUX2_FLUX2_REFERENCE_H

#include "diffusion/diffusion.h"
#include "models/flux2/flux2_rope.h"

#define MICA_FLUX2_REFERENCE_PIXELS (1024 * 1024)

/* Size at which a reference of width x height goes through the VAE; area 0: the default. Pictures
 * below 64 pixels a side or above 8 : 1 are refused, as the reference does. */
mica_status mica_flux2_reference_size(int width, int height, int area, int *out_width,
                                      int *out_height, mica_err *err);

/* All of d->references: their latents in session-pool rows [R, C], and grids[i] of each. A picture
 * that the run starts from is the first of them, as it is at the output's size. */
mica_status mica_flux2_references_encode(mica_diffusion *d, mica_flux2_grid *grids,
                                         mica_tensor *rows_RC, mica_err *err);

#endif
