/* convert_folder.h - whole models: a folder as another one, parts converted, the rest copied. */
#ifndef MICA_MODELS_CONVERT_FOLDER_H
#define MICA_MODELS_CONVERT_FOLDER_H

#include "models/convert.h"
#include "models/model_files.h"

#define MICA_CONVERT_PARTS 5

typedef struct mica_convert_part {
    char *name; /* below both folders; "" for the folder itself */
    mica_convert_plan plan;
} mica_convert_part;

typedef struct mica_convert_folder {
    const char *input, *output; /* the caller's */
    bool is_speech;
    mica_convert_part parts[MICA_CONVERT_PARTS];
    int count;
    uint64_t copied; /* bytes of files that were copied */
} mica_convert_folder;

/* Whether input and output fit each other, before anything is read; *folder: a folder is to be written. */
mica_status mica_convert_check(const mica_convert_request *request, bool *folder, mica_err *err);

/* Reads headers only. `request` as of a plan, its output a folder; input, synthesizer and stem of the parts are
 * found here. An output that is there is refused, unless it is empty or `replace`. */
mica_status mica_convert_folder_make(mica_convert_folder *f, const mica_convert_request *request,
                                     bool replace, mica_err *err);
/* The folder appears whole or not at all. */
mica_status mica_convert_folder_run(mica_convert_folder *f, bool replace,
                                    mica_convert_progress_fn progress, void *user, mica_err *err);
void mica_convert_folder_deinit(mica_convert_folder *f);

/* ---- convert_index.c ---- */
/* STEM.safetensors.index.json, where there is more than one file. */
mica_status mica_convert_write_index(const mica_convert_plan *p, const char *folder, mica_err *err);
/* The source's config.json with what was done to the weights; nothing where it has none. */
mica_status mica_convert_write_config(const mica_convert_plan *p, const char *folder,
                                      mica_err *err);
/* The tokenizer inside a GGUF file, as the files that belong beside weights. */
mica_status mica_convert_write_tokenizer(const mica_convert_plan *p, const char *folder,
                                         mica_err *err);
/* Whether that will be possible. */
mica_status mica_convert_check_config(const mica_convert_plan *p, mica_err *err);

#endif
