/* packed_scales.h - the scales and biases of a packed row's groups (MLX), a run of numbers at a time.
 *
 *     bf16, f16 or f32, one for 32, 64 or 128 numbers  ──►  floats of 4096 numbers */
#ifndef MICA_KERNELS_PACKED_SCALES_H
#define MICA_KERNELS_PACKED_SCALES_H

#include "kernels/kernels.h"
#include "kernels/vec.h"

#define SCALES_RUN 4096 /* numbers whose scales are kept */

/* With room to load a vector from any of them. */
typedef struct group_scales {
    float scale[SCALES_RUN / 32 + MICA_W], bias[SCALES_RUN / 32 + MICA_W];
    int shift; /* log2 of the group */
} group_scales;

MICA_VEC vf load_scales(mica_packed type, const void *p, int at, int n)
{
    const size_t size = type == MICA_PACKED_F32 ? 4 : 2;
    const void *from = (const char *)p + (size_t)at * size;
    vec_buffer b;
    if (n < MICA_W) {
        vec_buffer_load(&b, from, n, size);
        from = &b;
    }
    if (type == MICA_PACKED_F32)
        return vf_load((const float *)from);
    return type == MICA_PACKED_BF16 ? vf_from_bf16((const uint16_t *)from)
                                    : vf_from_f16((const uint16_t *)from);
}

/* Those of row `r` for numbers [from, from + n), and zeros up to a vector's end. */
MICA_VEC void read_scales(const mica_packed_rows *w, int r, int from, int n, group_scales *g)
{
    const int first = from / w->group, count = (n + w->group - 1) / w->group;
    const ptrdiff_t row = r * w->ld_scale + first;
    const ptrdiff_t bytes = row * (w->scale_type == MICA_PACKED_F32 ? 4 : 2);
    g->shift = w->group == 32 ? 5 : w->group == 64 ? 6 : 7;
    for (int i = 0; i < count; i += MICA_W) {
        const int k = count - i < MICA_W ? count - i : MICA_W;
        vf_store(g->scale + i, load_scales(w->scale_type, (const char *)w->scale + bytes, i, k));
        vf_store(g->bias + i, w->bias
                                  ? load_scales(w->scale_type, (const char *)w->bias + bytes, i, k)
                                  : vf_zero());
    }
}

#endif
