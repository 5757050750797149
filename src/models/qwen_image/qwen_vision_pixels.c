/* qwen_vision_pixels.c - resize, normalise and cut a picture into patches; see
 * qwen_vision_pixels.h.
 *
 * Reference: transformers models/qwen2_vl/image_processing_qwen2_vl.py (smart_resize and
 * _preprocess). Its resize is torch's on 8-bit pixels; scale and mean are one operation there,
 * (x - mean / rescale) / (std / rescale). */
#include "models/qwen_image/qwen_vision_pixels.h"

#include "base/checked.h"
#include "base/mem.h"
#include "media/resize.h"

#include <math.h>

#define LEAST_SIDE 10  /* pixels */
#define MOST_RATIO 200 /* of the sides */

mica_status mica_qwen_pixels_fit(const mica_qwen_pixels_config *c, int width, int height,
                                 int *out_width, int *out_height, mica_err *err)
{
    const double factor = (double)(c->patch * c->merge), w = width, h = height;
    if (width < LEAST_SIDE || height < LEAST_SIDE || fmax(w, h) / fmin(w, h) > MOST_RATIO)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "the text encoder cannot look at a picture of %d x %d pixels; sides must "
                         "be at least %d and at most %d times each other",
                         width, height, LEAST_SIDE, MOST_RATIO);
    double W = rint(w / factor) * factor, H = rint(h / factor) * factor; /* halves to even */
    if (W * H > (double)c->max_pixels) {
        const double beta = sqrt(h * w / (double)c->max_pixels);
        H = fmax(factor, floor(h / beta / factor) * factor);
        W = fmax(factor, floor(w / beta / factor) * factor);
    } else if (W * H < (double)c->min_pixels) {
        const double beta = sqrt((double)c->min_pixels / (h * w));
        H = ceil(h * beta / factor) * factor;
        W = ceil(w * beta / factor) * factor;
    }
    *out_width = (int)W;
    *out_height = (int)H;
    return MICA_OK;
}

void mica_qwen_pixels_deinit(mica_qwen_pixels *p)
{
    mica_mem_free(p->rows);
    *p = (mica_qwen_pixels){0};
}

/* One patch of one channel, in every frame; `pixel` is its upper left corner. */
static void write_patch(const mica_qwen_pixels_config *c, const mica_picture *picture,
                        const uint8_t *pixel, const float levels[256], float *out)
{
    const size_t row = (size_t)picture->width * 3;
    for (int64_t frame = 0; frame < c->frames; frame++)
        for (int64_t y = 0; y < c->patch; y++)
            for (int64_t x = 0; x < c->patch; x++)
                *out++ = levels[pixel[(size_t)y * row + 3 * (size_t)x]];
}

static void write_rows(const mica_qwen_pixels_config *c, const mica_picture *picture,
                       mica_qwen_pixels *out)
{
    float levels[3][256];
    for (int k = 0; k < 3; k++) {
        const float mean = (float)c->mean[k] * (float)(1.0 / c->rescale);
        const float std = (float)c->std[k] * (float)(1.0 / c->rescale);
        for (int v = 0; v < 256; v++)
            levels[k][v] = ((float)v - mean) / std;
    }
    const int64_t merge = c->merge, across = out->w / merge, per_token = merge * merge;
    for (int64_t r = 0; r < (int64_t)out->h * out->w; r++) {
        const int64_t token = r / per_token, in = r % per_token;
        const int64_t y = token / across * merge + in / merge;
        const int64_t x = token % across * merge + in % merge;
        const uint8_t *corner =
            picture->pixels +
            ((size_t)(y * c->patch) * (size_t)picture->width + (size_t)(x * c->patch)) * 3;
        float *row = out->rows + r * out->columns;
        for (int k = 0; k < 3; k++)
            write_patch(c, picture, corner + k, levels[k], row + k * out->columns / 3);
    }
}

mica_status mica_qwen_pixels_make(const mica_qwen_pixels_config *c, const mica_picture *picture,
                                  mica_qwen_pixels *out, mica_err *err)
{
    int width, height;
    mica_picture resized;
    size_t count;
    *out = (mica_qwen_pixels){0};
    MICA_TRY(mica_qwen_pixels_fit(c, picture->width, picture->height, &width, &height, err));
    MICA_TRY(
        mica_picture_resize(picture, width, height, MICA_RESAMPLE_BICUBIC_TORCH, &resized, err));
    out->h = height / (int)c->patch;
    out->w = width / (int)c->patch;
    out->columns = (int)(3 * c->frames * c->patch * c->patch);
    if (mica_mul_size((size_t)out->h * (size_t)out->w, (size_t)out->columns, &count))
        out->rows = mica_mem_calloc(count, sizeof *out->rows);
    if (out->rows)
        write_rows(c, &resized, out);
    mica_picture_deinit(&resized);
    if (!out->rows)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a picture of %d x %d pixels", width,
                         height);
    return MICA_OK;
}
