/* qwen_vision_pixels.h - a picture as the vision tower takes it.
 *
 *     picture ─bicubic─► multiples of 28 pixels ─► (x / 255 - mean) / std ─► rows of patches
 *
 *     rows    2 x 2 patches of a token behind each other, tokens in reading order:
 *
 *             0 1 │ 4 5 │        columns of a row: channel, frame, y, x  (3 * 2 * 14 * 14)
 *             2 3 │ 6 7 │ ...    the two frames are equal
 */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_VISION_PIXELS_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_VISION_PIXELS_H

#include "media/picture.h"
#include "models/qwen_image/qwen_vision_config.h"

typedef struct mica_qwen_pixels {
    int h, w;    /* patches, multiples of `merge` */
    int columns; /* numbers in a patch */
    float *rows; /* h * w of them; mica_qwen_pixels_deinit */
} mica_qwen_pixels;

/* Size after the resize, in pixels: multiples of patch * merge near the picture's own, area within
 * the limits. Refuses sides under 10 pixels and sides more than 200 times each other. */
mica_status mica_qwen_pixels_fit(const mica_qwen_pixels_config *c, int width, int height,
                                 int *out_width, int *out_height, mica_err *err);
/* RGB picture. */
mica_status mica_qwen_pixels_make(const mica_qwen_pixels_config *c, const mica_picture *picture,
                                  mica_qwen_pixels *out, mica_err *err);
void mica_qwen_pixels_deinit(mica_qwen_pixels *p);

#endif
