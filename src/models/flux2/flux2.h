/* flux2.h - the FLUX.2-klein family as models/model.h sees it, and its two structs.
 *
 *     mica_flux2           files, configs, bound tables, tokenizer        immutable, shared
 *     mica_flux2_session   copies of the tables with prepared weights     one run at a time
 */
#ifndef MICA_MODELS_FLUX2_FLUX2_H
#define MICA_MODELS_FLUX2_FLUX2_H

#include "models/flux2/flux2_weights.h"
#include "models/common/picture_model.h"
#include "nn/kl_vae.h"
#include "nn/qwen3.h"

#define MICA_FLUX2_MAX_TOKENS     512 /* every prompt is padded to it unless told otherwise */
#define MICA_FLUX2_MAX_REFERENCES 10
#define MICA_FLUX2_PATCH          2 /* latents per patch and side */

/* What a model_index.json tells of the pipeline. */
typedef struct mica_flux2_variant {
    bool known;     /* there was one */
    bool distilled; /* few steps, no guidance */
    bool kv;        /* references see only each other, at timestep 0 */
} mica_flux2_variant;

typedef struct mica_flux2 {
    mica_picture_model base;
    mica_flux2_weights transformer;
    mica_kl_vae_config vae_config;
    float *latent_mean_C, *latent_std_C; /* the VAE's batch norm over packed channels */
    mica_flux2_variant variant;
} mica_flux2;

typedef struct mica_flux2_session {
    mica_picture_session base;
    mica_flux2_weights transformer;
    mica_kl_vae *vae;
} mica_flux2_session;

extern const mica_model_kind mica_flux2_kind;
extern const mica_picture_family mica_flux2_family;

/* flux2_run.c: the `generate` slot, and working memory of a run of `items` (pictures times
 * conditions) with `references` rows of reference latents each. */
mica_status mica_flux2_generate(mica_model_session *session, const mica_image_options *options,
                                const mica_tap_sink *taps, mica_diffusion_result *result,
                                mica_err *err);
uint64_t mica_flux2_scratch(const mica_flux2 *model, int width, int height, int items,
                            int64_t references);
/* flux2_synthetic.c: the `open_synthetic` slot. */
mica_status mica_flux2_open_synthetic(mica_model **out, const char *spec, mica_err *err);
/* flux2_model.c: the schedule of the released models, the hidden states that the transformer reads,
 * room for the latent statistics (mean 0, deviation 1). */
void mica_flux2_schedule_default(mica_schedule_config *c);
void mica_flux2_set_states(mica_lm_config *c);
mica_status mica_flux2_alloc_statistics(mica_flux2 *m, mica_err *err);

#endif
