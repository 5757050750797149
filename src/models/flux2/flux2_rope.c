/* flux2_rope.c - rotary tables of FLUX.2; see flux2_rope.h.
 *
 * Frequencies and angles are f64 and only cosines and sines are rounded, as in the reference:
 * transformer_flux2.py Flux2PosEmbed, pipeline_flux2_klein.py _prepare_latent_ids,
 * _prepare_image_ids, _prepare_text_ids; embeddings.py get_1d_rotary_pos_embed. */
#include "models/flux2/flux2_rope.h"

#include "base/checked.h"
#include "base/mem.h"

#include <math.h>

mica_status mica_flux2_positions(const mica_flux2_grid *grids, int count, int64_t text,
                                 int32_t **out_L4, int64_t *rows, mica_err *err)
{
    int64_t n = text;
    for (int i = 0; i < count; i++)
        n += (int64_t)grids[i].h * grids[i].w;
    *rows = n;
    *out_L4 = mica_mem_calloc((size_t)MICA_MAX(1, n) * MICA_FLUX2_AXES, sizeof **out_L4);
    if (!*out_L4)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %lld positions", (long long)n);
    int32_t *p = *out_L4;
    for (int i = 0; i < count; i++)
        for (int64_t k = 0; k < (int64_t)grids[i].h * grids[i].w; k++, p += MICA_FLUX2_AXES) {
            p[0] = grids[i].t;
            p[1] = (int32_t)(k / grids[i].w);
            p[2] = (int32_t)(k % grids[i].w);
        }
    for (int64_t l = 0; l < text; l++, p += MICA_FLUX2_AXES)
        p[3] = (int32_t)l;
    return MICA_OK;
}

/* Each column twice: pairs of the reference share one angle. */
static void tap_half(const mica_tap_sink *taps, const char *tap, int index, const float *x_Lk,
                     int64_t rows, int half, float *wide)
{
    for (int64_t i = 0; i < rows * half; i++)
        wide[2 * i] = wide[2 * i + 1] = x_Lk[i];
    const mica_tensor t = mica_tensor_2d(wide, MICA_DTYPE_F32, rows, 2 * (int64_t)half);
    mica_tap_host(taps, &t, "%s.%d", tap, index);
}

/* Rows share their positions on an axis: 4,608 rows of a 1,024 x 1,024 picture and 512 tokens have 64
 * rows, 64 columns and 512 places in the text. What was computed for a position is kept here. */
#define KNOWN 1024

typedef struct known {
    int32_t position[KNOWN];
    float cos[KNOWN], sin[KNOWN];
} known;

static void fill_column(const int32_t *positions_L4, int64_t rows, double frequency, int half,
                        known *k, float *cos_Lk, float *sin_Lk)
{
    for (int i = 0; i < KNOWN; i++)
        k->position[i] = -1;
    for (int64_t l = 0; l < rows; l++) {
        const int32_t position = positions_L4[MICA_FLUX2_AXES * l];
        const int slot = position & (KNOWN - 1);
        if (k->position[slot] != position) {
            const double angle = position * frequency;
            k->position[slot] = position;
            k->cos[slot] = (float)cos(angle);
            k->sin[slot] = (float)sin(angle);
        }
        cos_Lk[l * half] = k->cos[slot];
        sin_Lk[l * half] = k->sin[slot];
    }
}

static void fill(const mica_flux2_config *c, const int32_t *positions_L4, int64_t rows,
                 float *cos_Lk, float *sin_Lk)
{
    const int half = (int)c->head_dim / 2;
    known k;
    for (int axis = 0, first = 0; axis < MICA_FLUX2_AXES; first += c->axes[axis++] / 2)
        for (int i = 0; i < c->axes[axis] / 2; i++)
            fill_column(positions_L4 + axis, rows, 1.0 / pow(c->theta, 2.0 * i / c->axes[axis]),
                        half, &k, cos_Lk + first + i, sin_Lk + first + i);
}

mica_status mica_flux2_rope_build(mica_backend *be, mica_pool pool, const mica_flux2_config *c,
                                  const int32_t *positions_L4, int64_t rows,
                                  const mica_tap_sink *taps, const char *tap, mica_rope_table *out,
                                  mica_err *err)
{
    const int half = (int)c->head_dim / 2;
    size_t count;
    float *host = NULL;
    /* cos, sin, and room for one of them twice as wide. */
    if (mica_mul_size((size_t)rows * 4 + 1, (size_t)half, &count))
        host = mica_mem_calloc(count, sizeof *host);
    if (!host)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for rotary tables of %lld positions",
                         (long long)rows);
    float *sin_Lk = host + rows * half, *wide = sin_Lk + rows * half;
    fill(c, positions_L4, rows, host, sin_Lk);
    mica_rope_table_upload(be, pool, rows, half, host, sin_Lk, out);
    if (taps && tap) {
        tap_half(taps, tap, 0, host, rows, half, wide);
        tap_half(taps, tap, 1, sin_Lk, rows, half, wide);
    }
    mica_mem_free(host);
    return MICA_OK;
}
