/* qwen_image_rope.c - three-axis rotary tables; see qwen_image_rope.h.
 *
 * Reference: diffusers transformer_qwenimage.py, QwenEmbedRope (QwenEmbedLayer3DRope) with scale_rope (rope_params,
 * _compute_video_freqs, forward). Columns of a row: axes[0]/2 of the frame, axes[1]/2 of the row,
 * axes[2]/2 of the column; channel pairs are interleaved. */
#include "models/qwen_image/qwen_image_rope.h"

#include "base/checked.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

#define THETA 10000.0f

typedef struct angles {
    const int *axes;
    const float *freq[3]; /* frequencies of each axis, axes[a]/2 */
    int half;             /* columns: half the head size */
} angles;

static void fill_row(const angles *g, const int position[3], float *cos_k, float *sin_k)
{
    int k = 0;
    for (int a = 0; a < 3; a++)
        for (int i = 0; i < g->axes[a] / 2; i++, k++) {
            const float angle = (float)position[a] * g->freq[a][i];
            cos_k[k] = cosf(angle);
            sin_k[k] = sinf(angle);
        }
}

/* A row whose neighbours are there: frame and row of the picture from the one to its left, `w` rows
 * back the column. Cosines of 4,096 rows would take longer than a step's first block on a GPU. */
static void join_row(const angles *g, int w, float *cos_k, float *sin_k)
{
    const size_t shared = (size_t)(g->axes[0] + g->axes[1]) / 2, rest = (size_t)g->axes[2] / 2;
    float *const to[2] = {cos_k, sin_k};
    for (int i = 0; i < 2; i++) {
        memcpy(to[i], to[i] - g->half, shared * sizeof(float));
        memcpy(to[i] + shared, to[i] + shared - (int64_t)w * g->half, rest * sizeof(float));
    }
}

static void fill_image(const angles *g, mica_qwen_image_grid grid, float *cos_Pk, float *sin_Pk)
{
    for (int y = 0; y < grid.h; y++)
        for (int x = 0; x < grid.w; x++) {
            /* For an odd side the extra position is on the negative side. */
            const int position[3] = {grid.frame, y - (grid.h - grid.h / 2),
                                     x - (grid.w - grid.w / 2)};
            const int64_t p = (int64_t)y * grid.w + x;
            if (x > 0 && y > 0)
                join_row(g, grid.w, cos_Pk + p * g->half, sin_Pk + p * g->half);
            else
                fill_row(g, position, cos_Pk + p * g->half, sin_Pk + p * g->half);
        }
}

static void build_images(mica_backend *be, mica_pool pool, const angles *g,
                         const mica_qwen_image_grid *grids, int count, int64_t P, float *host,
                         mica_rope_table *out)
{
    float *cos_Pk = host, *sin_Pk = host + P * g->half;
    int64_t first = 0;
    for (int n = 0; n < count; n++) {
        fill_image(g, grids[n], cos_Pk + first * g->half, sin_Pk + first * g->half);
        first += (int64_t)grids[n].h * grids[n].w;
    }
    mica_rope_table_upload(be, pool, P, g->half, cos_Pk, sin_Pk, out);
}

static void build_text(mica_backend *be, mica_pool pool, const angles *g, int first, int T,
                       float *host, mica_rope_table *out)
{
    float *cos_Tk = host, *sin_Tk = host + (int64_t)T * g->half;
    for (int t = 0; t < T; t++) {
        const int position[3] = {first + t, first + t, first + t};
        fill_row(g, position, cos_Tk + (int64_t)t * g->half, sin_Tk + (int64_t)t * g->half);
    }
    mica_rope_table_upload(be, pool, T, g->half, cos_Tk, sin_Tk, out);
}

static mica_status check_positions(const mica_qwen_image_grid *grids, int first, int text_tokens,
                                   mica_err *err)
{
    if (first + text_tokens <= MICA_QWEN_IMAGE_POSITIONS)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_USAGE,
                     "%d x %d pixels and %d text tokens need rotary positions up to %d, the model "
                     "has %d; choose a smaller picture",
                     16 * grids[0].w, 16 * grids[0].h, text_tokens, first + text_tokens,
                     MICA_QWEN_IMAGE_POSITIONS);
}

mica_status mica_qwen_image_rope_build(mica_backend *be, mica_pool pool, const int axes[3],
                                       const mica_qwen_image_grid *grids, int count,
                                       int text_tokens, mica_qwen_image_rope *out, mica_err *err)
{
    const int half = (axes[0] + axes[1] + axes[2]) / 2;
    int first = 0;
    int64_t P = 0;
    for (int n = 0; n < count; n++) {
        first = MICA_MAX(first, MICA_MAX(grids[n].h / 2, grids[n].w / 2));
        P += (int64_t)grids[n].h * grids[n].w;
    }
    if (grids[count - 1].frame < 0) /* QwenEmbedLayer3DRope */
        first = MICA_MAX(first, count - 1);
    MICA_TRY(check_positions(grids, first, text_tokens, err));
    const size_t rows = MICA_MAX((size_t)P, (size_t)text_tokens);
    size_t values;
    float *host = NULL;
    if (mica_mul_size(2 * rows + 1, (size_t)half, &values))
        host = mica_mem_calloc(values, sizeof *host);
    if (!host)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for rotary tables of %zu positions", rows);
    float *freq = host + 2 * rows * (size_t)half;
    const angles g = {axes, {freq, freq + axes[0] / 2, freq + (axes[0] + axes[1]) / 2}, half};
    mica_rope_frequencies(THETA, axes[0], freq);
    mica_rope_frequencies(THETA, axes[1], freq + axes[0] / 2);
    mica_rope_frequencies(THETA, axes[2], freq + (axes[0] + axes[1]) / 2);
    build_images(be, pool, &g, grids, count, P, host, &out->img);
    build_text(be, pool, &g, first, text_tokens, host, &out->txt);
    mica_mem_free(host);
    return MICA_OK;
}
