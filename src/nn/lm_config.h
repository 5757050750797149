/* lm_config.h - sizes of a decoder language model as its file tells them.
 *
 *     config.json, the metadata key "config", or tensor shapes ──► mica_lm_config
 *
 * Names are canonical (nn/decoder_lm.h). Configurations of models that hold a language model among
 * other things keep it under "text_config". */
#ifndef MICA_NN_LM_CONFIG_H
#define MICA_NN_LM_CONFIG_H

#include "nn/decoder_lm.h"

/* *c holds the released model's numbers; what the file does not tell stays. json_path may be NULL:
 * then the file's own metadata, then shapes. Every number is limited so that no later product
 * overflows. A config that contradicts the tensors is found by mica_lm_bind. */
mica_status mica_lm_config_read(mica_lm_config *c, const char *json_path, const mica_weights *w,
                                mica_err *err);
/* Opens json_path or, failing that, the metadata of the file; *found says whether. */
mica_status mica_config_json_open(mica_json *j, const char *json_path, const mica_weights *w,
                                  bool *found, mica_err *err);
/* Dimension `dim` of a tensor when it is there and of a sane size, else `otherwise`. */
int64_t mica_config_size_of(const mica_weights *w, const char *name, int dim, int64_t otherwise);
/* Whether a tensor's name ends so. */
bool mica_config_has_suffix(const mica_weights *w, const char *suffix);
/* `_class_name` of a diffusers config, if it is there, must be `expected`. */
mica_status mica_config_check_class(const mica_json *j, const char *expected, mica_err *err);

#define MICA_CONFIG_MAX_SIZE 262144 /* of any one dimension but the vocabulary */

#endif
