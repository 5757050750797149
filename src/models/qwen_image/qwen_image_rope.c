/* qwen_image_rope.c - three-axis rotary tables; see qwen_image_rope.h.
 *
 * Reference: diffusers transformer_qwenimage.py, QwenEmbedRope with scale_rope (rope_params,
 * _compute_video_freqs, forward). Columns of a row: axes[0]/2 of the frame, axes[1]/2 of the row,
 * axes[2]/2 of the column; channel pairs are interleaved. */
#include "models/qwen_image/qwen_image_rope.h"

#include "base/checked.h"
#include "base/mem.h"

#include <math.h>

#define THETA 10000.0f

typedef struct grid {
    const int *axes;
    const float *freq[3]; /* frequencies of each axis, axes[a]/2 */
    int half;             /* columns: half the head size */
} grid;

static void fill_row(const grid *g, const int position[3], float *cos_k, float *sin_k)
{
    int k = 0;
    for (int a = 0; a < 3; a++)
        for (int i = 0; i < g->axes[a] / 2; i++, k++) {
            const float angle = (float)position[a] * g->freq[a][i];
            cos_k[k] = cosf(angle);
            sin_k[k] = sinf(angle);
        }
}

static void build_image(mica_backend *be, mica_pool pool, const grid *g, int h, int w, float *host,
                        mica_rope_table *out)
{
    const int64_t P = (int64_t)h * w;
    float *cos_Pk = host, *sin_Pk = host + P * g->half;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            /* For an odd side the extra position is on the negative side. */
            const int position[3] = {0, y - (h - h / 2), x - (w - w / 2)};
            const int64_t p = (int64_t)y * w + x;
            fill_row(g, position, cos_Pk + p * g->half, sin_Pk + p * g->half);
        }
    mica_rope_table_upload(be, pool, P, g->half, cos_Pk, sin_Pk, out);
}

static void build_text(mica_backend *be, mica_pool pool, const grid *g, int first, int T,
                       float *host, mica_rope_table *out)
{
    float *cos_Tk = host, *sin_Tk = host + (int64_t)T * g->half;
    for (int t = 0; t < T; t++) {
        const int position[3] = {first + t, first + t, first + t};
        fill_row(g, position, cos_Tk + (int64_t)t * g->half, sin_Tk + (int64_t)t * g->half);
    }
    mica_rope_table_upload(be, pool, T, g->half, cos_Tk, sin_Tk, out);
}

mica_status mica_qwen_image_rope_build(mica_backend *be, mica_pool pool, const int axes[3], int h,
                                       int w, int text_tokens, mica_qwen_image_rope *out,
                                       mica_err *err)
{
    const int half = (axes[0] + axes[1] + axes[2]) / 2, first = MICA_MAX(h / 2, w / 2);
    if (first + text_tokens > MICA_QWEN_IMAGE_POSITIONS)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "%d x %d pixels and %d text tokens need rotary positions up to %d, the "
                         "model has %d; choose a smaller picture",
                         16 * w, 16 * h, text_tokens, first + text_tokens,
                         MICA_QWEN_IMAGE_POSITIONS);
    const size_t rows = MICA_MAX((size_t)h * (size_t)w, (size_t)text_tokens);
    size_t count;
    float *host = NULL;
    if (mica_mul_size(2 * rows + 1, (size_t)half, &count))
        host = mica_mem_calloc(count, sizeof *host);
    if (!host)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for rotary tables of %zu positions", rows);
    float *freq = host + 2 * rows * (size_t)half;
    const grid g = {axes, {freq, freq + axes[0] / 2, freq + (axes[0] + axes[1]) / 2}, half};
    mica_rope_frequencies(THETA, axes[0], freq);
    mica_rope_frequencies(THETA, axes[1], freq + axes[0] / 2);
    mica_rope_frequencies(THETA, axes[2], freq + (axes[0] + axes[1]) / 2);
    build_image(be, pool, &g, h, w, host, &out->img);
    build_text(be, pool, &g, first, text_tokens, host, &out->txt);
    mica_mem_free(host);
    return MICA_OK;
}
