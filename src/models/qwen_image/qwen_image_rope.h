/* qwen_image_rope.h - rotary tables of Qwen-Image's joint attention.
 *
 *     image patch (y, x) of an h x w grid:   frame n, row y - (h - h/2), column x - (w - w/2)
 *     text token t:                          max(h/2, w/2) + t on all three axes
 *
 * n counts pictures: 0 the one that is made, then its references; the maximum is over all of them.
 * Layered counts the composite and the layers, the reference stands at -1, and text begins behind the
 * layers, too.
 * Rows and columns count from the middle of the picture, so that a model trained at one size
 * sees familiar positions at another; text begins behind the largest image position. */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_ROPE_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_ROPE_H

#include "nn/rope.h"

/* The reference has tables of this many positions on each side of zero. */
#define MICA_QWEN_IMAGE_POSITIONS 4096

/* A picture in patches. */
typedef struct mica_qwen_image_grid {
    int h, w;
    int frame; /* position on the first axis; -1: the picture that layers are made of */
} mica_qwen_image_grid;

typedef struct mica_qwen_image_rope {
    mica_rope_table img; /* [h * w of all pictures, K/2] */
    mica_rope_table txt; /* [text_tokens, K/2] */
} mica_qwen_image_rope;

/* axes: rotary dimensions of frame, row and column. */
mica_status mica_qwen_image_rope_build(mica_backend *be, mica_pool pool, const int axes[3],
                                       const mica_qwen_image_grid *grids, int count,
                                       int text_tokens, mica_qwen_image_rope *out, mica_err *err);

#endif
