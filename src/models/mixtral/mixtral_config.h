/* mixtral_config.h - sizes of a Mixtral: config.json, the values of a GGUF file, or tensor shapes.
 *
 *     mica_lm_config      what every decoder of the Llama shape has (nn/decoder_lm.h)
 *     experts, active     how many a layer has, and how many see a token
 *     window              keys a query may look back over; 0: all of them
 *     context             tokens the model was made for */
#ifndef MICA_MODELS_MIXTRAL_MIXTRAL_CONFIG_H
#define MICA_MODELS_MIXTRAL_MIXTRAL_CONFIG_H

#include "nn/lm_config.h"

#define MICA_MIXTRAL_MAX_EXPERTS 256
#define MICA_MIXTRAL_ENDS        8

typedef struct mica_mixtral_config {
    mica_lm_config lm;
    int64_t experts, active, window, context;
    bool tied;                       /* the output head is the embedding table */
    bool interleaved;                /* rotary pairs are neighbours: GGUF and Mistral's own files */
    int64_t ends[MICA_MIXTRAL_ENDS]; /* ids that end an answer */
    size_t end_count;
} mica_mixtral_config;

/* Mixtral-8x7B-v0.1. */
mica_mixtral_config mica_mixtral_config_default(void);
/* Names are canonical (mixtral_names.c); c->interleaved is kept. json_path may be NULL. */
mica_status mica_mixtral_config_read(mica_mixtral_config *c, const char *json_path,
                                     const mica_weights *w, mica_err *err);

#endif
