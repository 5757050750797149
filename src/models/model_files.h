/* model_files.h - from what the user has to the parts of a model.
 *
 *   diffusers folder    model_index.json, transformer/, text_encoder/, vae/, tokenizer/, scheduler/
 *   ComfyUI folder      diffusion_models/ or unet/, text_encoders/ or clip/, vae/
 *   folder of files     any .safetensors, each told apart by its tensor names
 *   speech folder       checkpoints and folders of networks, see speech_files.c
 *   one file            that part; the others are given one by one
 *
 * Files are recognised by their tensors, never by their names. */
#ifndef MICA_MODELS_MODEL_FILES_H
#define MICA_MODELS_MODEL_FILES_H

#include "models/model.h"

/* `options->model` and the parts given one by one, which win. *kind: the family. Parts that are
 * not found stay NULL; the family's open says which it needs. `options->model` may be NULL when
 * parts are given. */
mica_status mica_model_parts_resolve(mica_model_parts *parts, const mica_model_kind **kind,
                                     const mica_engine_options *options, mica_err *err);
void mica_model_parts_deinit(mica_model_parts *parts);
const char *mica_model_part_name(mica_model_part part);   /* "text encoder" */
const char *mica_model_part_option(mica_model_part part); /* "text-encoder"; "" for those without */

/* Adds the parts of a speech model below `dir` (speech_files.c). */
mica_status mica_speech_parts_find(mica_model_parts *parts, const char *dir,
                                   const bool given[MICA_PART_COUNT], mica_err *err);

/* Every part of a speech model below `dir`, several of one kind too. */
typedef mica_status (*mica_speech_part_fn)(void *user, mica_model_part part, const char *path,
                                           mica_err *err);
mica_status mica_speech_parts_each(const char *dir, mica_speech_part_fn each, void *user,
                                   mica_err *err);

/* Whether the file holds adapters and nothing else that is known (lora_inspect.c). */
bool mica_lora_is_file(const char *path);
mica_status mica_lora_inspect(const char *path, mica_text *text, mica_text *json, mica_err *err);

/* What a model folder or weight file is, for people and as one JSON object. Reads headers only. */
mica_status mica_model_inspect(const char *path, mica_text *text, mica_text *json, mica_err *err);

#endif
