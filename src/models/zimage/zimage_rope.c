/* zimage_rope.c - three-axis rotary tables; see zimage_rope.h.
 *
 * Reference: diffusers transformer_z_image.py, RopeEmbedder (frequencies in f64, angles rounded to
 * f32 before cos and sin), patchify_and_embed, _pad_with_ids. Channel pairs are interleaved;
 * columns of a row: half of each axis' dimensions, axis by axis. */
#include "models/zimage/zimage_rope.h"

#include "base/checked.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

void mica_zimage_place_picture(int64_t row, int h, int w, int64_t T, int position[3])
{
    const bool inside = row < (int64_t)h * w;
    position[0] = inside ? (int)T + 1 : 0;
    position[1] = inside ? (int)(row / w) : 0;
    position[2] = inside ? (int)(row % w) : 0;
}

void mica_zimage_place_caption(int64_t row, int position[3])
{
    position[0] = (int)row + 1;
    position[1] = position[2] = 0;
}

void mica_zimage_rotation(const mica_zimage_config *c, const int position[3], float *cos,
                          float *sin)
{
    for (int a = 0, k = 0; a < 3; a++)
        for (int i = 0; i < c->axes[a] / 2; i++, k++) {
            const double frequency = 1.0 / pow(c->theta, (double)(2 * i) / c->axes[a]);
            const float angle = (float)(position[a] * frequency);
            cos[k] = cosf(angle);
            sin[k] = sinf(angle);
        }
}

/* A row whose neighbours are there: what belongs to text and row of the picture from the one to its
 * left, `w` rows back what belongs to the column. */
static void join_row(const mica_zimage_config *c, int w, float *cos, float *sin)
{
    const int64_t half = c->head_dim / 2;
    const size_t shared = (size_t)(c->axes[0] + c->axes[1]) / 2, rest = (size_t)c->axes[2] / 2;
    float *const to[2] = {cos, sin};
    for (int i = 0; i < 2; i++) {
        memcpy(to[i], to[i] - half, shared * sizeof(float));
        memcpy(to[i] + shared, to[i] + shared - w * half, rest * sizeof(float));
    }
}

/* Rows of a table on the host: cosines, then sines. */
static float *host_table(const mica_zimage_config *c, int64_t rows, mica_err *err)
{
    size_t count;
    float *host = NULL;
    if (mica_mul_size((size_t)rows, (size_t)c->head_dim, &count))
        host = mica_mem_calloc(count, sizeof *host);
    if (!host)
        MICA_FAIL(err, MICA_E_NOMEM, "no memory for rotary tables of %lld positions",
                  (long long)rows);
    return host;
}

static mica_status check_positions(const mica_zimage_config *c, int h, int w, int64_t T,
                                   mica_err *err)
{
    if (T + 2 > c->axis_lens[0] || h > c->axis_lens[1] || w > c->axis_lens[2])
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%d x %d pixels behind %lld text tokens need positions the model has not: "
                         "its axes have %d, %d and %d; choose a smaller picture",
                         8 * MICA_ZIMAGE_PATCH * w, 8 * MICA_ZIMAGE_PATCH * h, (long long)T,
                         c->axis_lens[0], c->axis_lens[1], c->axis_lens[2]);
    return MICA_OK;
}

mica_status mica_zimage_rope_picture(mica_backend *be, mica_pool pool, const mica_zimage_config *c,
                                     int h, int w, int64_t T, mica_rope_table *out, mica_err *err)
{
    const int64_t rows = mica_zimage_padded((int64_t)h * w), half = c->head_dim / 2;
    MICA_TRY(check_positions(c, h, w, T, err));
    float *host = host_table(c, rows, err);
    if (!host)
        return MICA_E_NOMEM;
    for (int64_t r = 0; r < rows; r++) {
        int position[3];
        mica_zimage_place_picture(r, h, w, T, position);
        if (position[1] > 0 && position[2] > 0)
            join_row(c, w, host + r * half, host + (rows + r) * half);
        else
            mica_zimage_rotation(c, position, host + r * half, host + (rows + r) * half);
    }
    mica_rope_table_upload(be, pool, rows, (int)half, host, host + rows * half, out);
    mica_mem_free(host);
    return MICA_OK;
}

mica_status mica_zimage_rope_caption(mica_backend *be, mica_pool pool, const mica_zimage_config *c,
                                     int64_t T, mica_rope_table *out, mica_err *err)
{
    const int64_t half = c->head_dim / 2;
    MICA_TRY(check_positions(c, 0, 0, T, err));
    float *host = host_table(c, T, err);
    if (!host)
        return MICA_E_NOMEM;
    for (int64_t r = 0; r < T; r++) {
        int position[3];
        mica_zimage_place_caption(r, position);
        mica_zimage_rotation(c, position, host + r * half, host + (T + r) * half);
    }
    mica_rope_table_upload(be, pool, T, (int)half, host, host + T * half, out);
    mica_mem_free(host);
    return MICA_OK;
}
