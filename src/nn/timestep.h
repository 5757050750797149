/* timestep.h - sinusoidal timestep features, computed on the host.
 *
 *     features = [cos(t * scale * f_i), sin(t * scale * f_i)],  f_i = 10000^(-i / (dim/2))
 *
 * Reference: diffusers models/embeddings.py get_timestep_embedding with flip_sin_to_cos and
 * downscale_freq_shift 0, the only form that the flow-matching models here use. */
#ifndef MICA_NN_TIMESTEP_H
#define MICA_NN_TIMESTEP_H

#include <stdbool.h>

/* out: dim values, dim even. round_bf16: as the reference does when it runs in bf16, where both
 * the timestep and the frequencies are rounded before they are multiplied. */
void mica_timestep_features(float t, float scale, int dim, bool round_bf16, float *out);

#endif
