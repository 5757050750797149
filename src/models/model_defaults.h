/* model_defaults.h - what a run takes where its options leave it open, from the file `mica.json` of a
 * model's folder. A model without one runs as its family's reference does.
 *
 *     {"width": 256, "height": 256, "steps": 30, "guidance": 4, "negative_prompt": " "}
 *
 * Every member is optional; members of other names are ignored. */
#ifndef MICA_MODELS_MODEL_DEFAULTS_H
#define MICA_MODELS_MODEL_DEFAULTS_H

#include "models/model.h"

typedef struct mica_model_defaults {
    int width, height, steps; /* 0: the family's */
    double guidance;          /* 0: the family's */
    char *negative_prompt;    /* owned; NULL: the family's */
} mica_model_defaults;

/* *d is zeroed first. `model`: what the user gave; only a folder that holds mica.json changes it.
 * MICA_E_FORMAT names the file and the key that is wrong. */
mica_status mica_model_defaults_read(mica_model_defaults *d, const char *model, mica_err *err);
mica_status mica_model_defaults_parse(mica_model_defaults *d, const char *name, const char *text,
                                      size_t size, mica_err *err);
/* Fills what *o leaves open. A start picture keeps its own size, own sigmas their number, and a run
 * whose guidance is off gets no negative prompt. Strings are borrowed from *d. */
void mica_model_defaults_apply(const mica_model_defaults *d, mica_image_options *o);
void mica_model_defaults_deinit(mica_model_defaults *d);

#endif
