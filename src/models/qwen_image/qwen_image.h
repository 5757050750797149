/* qwen_image.h - the Qwen-Image family as models/model.h sees it, and its two structs.
 *
 *     mica_qwen_image           files, configs, bound tables, tokenizer        immutable, shared
 *     mica_qwen_image_session   copies of the tables; prepared forms shared    one run at a time
 */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_H

#include "models/common/picture_model.h"
#include "models/qwen_image/qwen_image_text.h"
#include "models/qwen_image/qwen_image_vae.h"
#include "models/qwen_image/qwen_image_weights.h"
#include "models/qwen_image/qwen_vision.h"

typedef struct mica_qwen_image {
    mica_picture_model base;
    mica_qwen_image_weights transformer;
    /* For editing. layers NULL: pictures cannot be looked at, and vision_problem says why; text
     * to picture does not care. */
    mica_qwen_vision vision;
    mica_err vision_problem;
    mica_qwen_pixels_config pixels;
    mica_edit editing; /* what the files say: AUTO, when they do not */
    mica_qwen_vae_config vae_config;
} mica_qwen_image;

typedef struct mica_qwen_image_session {
    mica_picture_session base;
    mica_qwen_image_weights transformer;
    mica_qwen_vision vision;
    mica_qwen_vae *vae;
} mica_qwen_image_session;

extern const mica_model_kind mica_qwen_image_kind;
extern const mica_picture_family mica_qwen_image_family;

/* qwen_image_run.c: the `generate` slot. */
mica_status mica_qwen_image_generate(mica_model_session *session, const mica_image_options *options,
                                     const mica_tap_sink *taps, mica_diffusion_result *result,
                                     mica_err *err);
/* qwen_image_run.c: working memory of a run of `items` (pictures times conditions), each with
 * `references` rows beside its own. */
uint64_t mica_qwen_image_scratch(const mica_qwen_image *model, int width, int height,
                                 int64_t references, int items);
/* qwen_image_synthetic.c: ids for a model without tokenizer: as many as a "tokens=N" prompt
 * asks for, otherwise one per four bytes. */
mica_status mica_qwen_image_synthetic_prompt(const char *text, mica_qwen_image_prompt *out,
                                             mica_err *err);
/* qwen_image_synthetic.c: the `open_synthetic` slot. */
mica_status mica_qwen_image_open_synthetic(mica_model **out, const char *spec, mica_err *err);
/* qwen_image_model.c: the schedule of the released models. */
void mica_qwen_image_schedule_default(mica_schedule_config *c);

#endif
