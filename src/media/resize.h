/* resize.h - 8-bit resampling as Pillow and torch do it, and float pixels to 8 bits.
 *
 * Reference pipelines resize their input pictures with Pillow, and some once more with torch;
 * the last bit of the fixed-point filters reaches the encoder, so it is reproduced exactly
 * (goldens primitives/image_resize and, for torch, vision.pixel_values of Qwen-Image edits). */
#ifndef MICA_MEDIA_RESIZE_H
#define MICA_MEDIA_RESIZE_H

#include "media/picture.h"

typedef enum mica_resample {
    MICA_RESAMPLE_BILINEAR = 0, /* triangle, support 1 */
    MICA_RESAMPLE_BICUBIC,      /* Keys' cubic with a = -1/2, support 2 */
    MICA_RESAMPLE_LANCZOS,      /* sinc windowed by sinc, support 3 */
    MICA_RESAMPLE_BICUBIC_TORCH /* the same cubic with torch's 16-bit weights: what torchvision's
                                   image processors do to 8-bit pixels */
} mica_resample;

/* dst becomes src at width x height pixels (1..65535 each); freed with mica_picture_deinit.
 * Filters widen when shrinking (antialiasing). With 4 channels colours are weighted by alpha, as
 * Pillow's Image.resize does for RGBA. dst must not be src. MICA_E_USAGE, MICA_E_NOMEM. */
mica_status mica_picture_resize(const mica_picture *src, int width, int height,
                                mica_resample filter, mica_picture *dst, mica_err *err);

#endif
