/* timestep.c - sinusoidal timestep features; see timestep.h. All products in f32 and in the
 * reference's order ((t * f) * scale): at scale 1000 an angle off by one part in 2^24 is
 * visible in the fifth digit of the features. */
#include "nn/timestep.h"

#include "base/half.h"

#include <math.h>

static float round_if(bool on, float x)
{
    return on ? mica_bf16_to_f32(mica_f32_to_bf16(x)) : x;
}

void mica_timestep_features(float t, float scale, int dim, bool round_bf16, float *out)
{
    const int half = dim / 2;
    const float step = (float)-log(10000.0);
    t = round_if(round_bf16, t);
    for (int i = 0; i < half; i++) {
        const float f = round_if(round_bf16, expf(step * (float)i / (float)half));
        const float angle = scale * (t * f);
        out[i] = cosf(angle);
        out[half + i] = sinf(angle);
    }
}
