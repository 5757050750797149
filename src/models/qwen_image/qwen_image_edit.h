/* qwen_image_edit.h - the pictures that a prompt of Qwen-Image-Edit refers to.
 *
 *     reference ─┬─ vision area ─► processor ─► vision tower ─► rows of the text encoder
 *                └─ VAE area ─► VAE ─► rows [R, 64] ─► img_in ─► rows behind the noise's
 *
 *     Edit            one picture; both see it at 1024 x 1024 pixels' area
 *     Edit-Plus       several (2509, 2511); the vision tower sees them at 384 x 384
 *
 *     Layered         one, with transparency; VAE alone, at 640 x 640. A run makes a composite and layers
 *
 * Sides are rounded to multiples of 32 in the picture's own shape. */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_EDIT_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_EDIT_H

#include "models/qwen_image/qwen_image.h"
#include "models/qwen_image/qwen_image_edit_text.h"
#include "models/qwen_image/qwen_image_rope.h"

typedef struct mica_qwen_image_area {
    int width, height; /* pixels */
} mica_qwen_image_area;

typedef struct mica_qwen_image_edit {
    mica_edit kind; /* MICA_EDIT_OFF, _SINGLE or _PLUS */
    int layers;     /* 0: not Layered */
    int count;      /* references */
    mica_qwen_image_area vae_[MICA_QWEN_IMAGE_PICTURES];
    mica_qwen_image_area vision_[MICA_QWEN_IMAGE_PICTURES];
    int64_t R;           /* rows of all references */
    mica_tensor refs_RD; /* session pool */
} mica_qwen_image_edit;

/* Sides near sqrt(area), multiples of 32, in the shape of width x height (calculate_dimensions).
 * Refuses what would have no pixels left, or more than 8192 a side. */
mica_status mica_qwen_image_fit_area(int area, int width, int height, mica_qwen_image_area *out,
                                     mica_err *err);

/* What the options and d->inputs ask for; changes the traits accordingly. Refuses models that
 * cannot look at pictures. */
mica_status mica_qwen_image_edit_describe(mica_qwen_image_edit *e, mica_diffusion *d,
                                          const mica_qwen_image *m, mica_diffusion_traits *t,
                                          mica_err *err);
/* d->text of prompt and negative prompt, both with the pictures. Taps `vision`. */
mica_status mica_qwen_image_edit_encode_text(mica_qwen_image_edit *e, mica_diffusion *d,
                                             mica_qwen_image_session *s, mica_err *err);
/* refs_RD. Taps `transformer_input`. */
mica_status mica_qwen_image_edit_prepare(mica_qwen_image_edit *e, mica_diffusion *d,
                                         mica_qwen_image_session *s, mica_err *err);

#endif
