/* gpt_sovits_convert.h - parts of GPT-SoVITS as mica convert writes them.
 *
 *     s1*.ckpt     names of a common converter, q, k and v apart              ─┐
 *     s2G*.pth     weight norm folded, tensors of training left out           ─┴─► one voice.safetensors
 *     HuBERT       weight norm folded
 *
 * Settings of the checkpoints travel as JSON under the metadata keys of mica_gs_settings_key. */
#ifndef MICA_MODELS_GPT_SOVITS_GPT_SOVITS_CONVERT_H
#define MICA_MODELS_GPT_SOVITS_GPT_SOVITS_CONVERT_H

#include "models/model.h"

/* *view: tensors of `files` under the names and in the shapes that are written; folded ones lie in `arena`. */
mica_status mica_gs_convert_view(mica_weights **view, const mica_weights *files,
                                 mica_model_part part, mica_arena *arena, mica_err *err);
/* "semantic_config", "synthesizer_config": of a file with both; NULL for other parts. */
const char *mica_gs_settings_key(mica_model_part part);
/* "v2Pro", of a synthesizer; NULL: its settings say it, or it is no synthesizer. */
const char *mica_gs_version_name(const mica_weights *files);

/* Where a part's settings are among those of its file, for mica_weights_find_*: "model.head" as
 * "config.model.head", or in a file with both checkpoints as "semantic_config.model.head". */
typedef struct mica_gs_path {
    char text[96];
} mica_gs_path;
mica_gs_path mica_gs_settings_path(const mica_weights *files, mica_model_part part,
                                   const char *path);

#endif
