/* zimage_rope.h - where tokens stand, and the rotary tables made of it.
 *
 *     caption token t (padding included)      (1 + t, 0, 0)
 *     picture token (y, x)                    (1 + padded caption length, y, x)
 *     picture padding                         (0, 0, 0)
 *
 * Both parts are padded to whole groups of 32 tokens. The picture stands behind its caption on the
 * first axis, so prompts of another padded length need another picture table. */
#ifndef MICA_MODELS_ZIMAGE_ZIMAGE_ROPE_H
#define MICA_MODELS_ZIMAGE_ZIMAGE_ROPE_H

#include "models/zimage/zimage_config.h"
#include "nn/rope.h"

#define MICA_ZIMAGE_GROUP 32 /* tokens come in whole groups; the rest is learned padding */

static inline int64_t mica_zimage_padded(int64_t tokens)
{
    return (tokens + MICA_ZIMAGE_GROUP - 1) / MICA_ZIMAGE_GROUP * MICA_ZIMAGE_GROUP;
}

/* Position of row `row` of the picture (h x w tokens and padding) behind a caption of T padded tokens;
 * of the caption. */
void mica_zimage_place_picture(int64_t row, int h, int w, int64_t T, int position[3]);
void mica_zimage_place_caption(int64_t row, int position[3]);

/* Cosines and sines of a position, head_dim / 2 each. */
void mica_zimage_rotation(const mica_zimage_config *c, const int position[3], float *cos,
                          float *sin);

/* [padded(h * w), K/2] and [T, K/2]; T is a padded length. MICA_E_USAGE when the model has no such
 * positions. */
mica_status mica_zimage_rope_picture(mica_backend *be, mica_pool pool, const mica_zimage_config *c,
                                     int h, int w, int64_t T, mica_rope_table *out, mica_err *err);
mica_status mica_zimage_rope_caption(mica_backend *be, mica_pool pool, const mica_zimage_config *c,
                                     int64_t T, mica_rope_table *out, mica_err *err);

#endif
