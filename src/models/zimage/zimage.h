/* zimage.h - the Z-Image family as models/model.h sees it, and its two structs.
 *
 *     mica_zimage           files, configs, bound tables, tokenizer        immutable, shared
 *     mica_zimage_session   copies of the tables; prepared forms shared    one run at a time
 */
#ifndef MICA_MODELS_ZIMAGE_ZIMAGE_H
#define MICA_MODELS_ZIMAGE_ZIMAGE_H

#include "models/common/picture_model.h"
#include "models/zimage/zimage_weights.h"
#include "nn/kl_vae.h"
#include "nn/qwen3.h"

typedef struct mica_zimage {
    mica_picture_model base;
    mica_zimage_weights transformer;
    mica_kl_vae_config vae_config;
    bool distilled; /* Turbo: few steps without guidance */
} mica_zimage;

typedef struct mica_zimage_session {
    mica_picture_session base;
    mica_zimage_weights transformer;
    mica_kl_vae *vae;
} mica_zimage_session;

extern const mica_model_kind mica_zimage_kind;
extern const mica_picture_family mica_zimage_family;

#define MICA_ZIMAGE_MAX_TOKENS 512 /* of a prompt with its template */

/* zimage_run.c: the `generate` slot. */
mica_status mica_zimage_generate(mica_model_session *session, const mica_image_options *options,
                                 const mica_tap_sink *taps, mica_diffusion_result *result,
                                 mica_err *err);
/* zimage_run.c: working memory of a run of `items` (pictures times conditions). */
uint64_t mica_zimage_scratch(const mica_zimage *model, int width, int height, int items);
/* zimage_synthetic.c: the `open_synthetic` slot. */
mica_status mica_zimage_open_synthetic(mica_model **out, const char *spec, mica_err *err);
/* zimage_model.c: the schedule of the released models. */
void mica_zimage_schedule_default(mica_schedule_config *c);
/* zimage_model.c: the one hidden state that is wanted, the last but one. */
void mica_zimage_choose_state(mica_lm_config *c);

#endif
