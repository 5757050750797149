/* api.h - what lies behind the handles of mica.h; private to src/api.
 *
 *     mica_engine ──► mica_model (shared, immutable)       engine.c
 *                     LoRA files that hang on it           loras.c
 *     mica_session ─► mica_backend + mica_model_session    session.c
 *     mica_image ───► pixels + one recipe per picture      image.c, recipe.c
 *     mica_report ──► two texts                            report.c, bench.c
 *
 * Options structs may come from a caller compiled against an older or newer header: api_options
 * copies what both sides know and leaves the rest zero. */
#ifndef MICA_API_API_H
#define MICA_API_API_H

#include "base/json.h"
#include "models/model.h"
#include "models/model_defaults.h"

/* A LoRA of an engine; its scale for the recipe. */
typedef struct api_lora {
    mica_lora *file;
    double scale;
} api_lora;

struct mica_engine {
    mica_engine_options options; /* strings are not kept; only the plain values are valid later */
    const mica_model_kind *kind;
    mica_model *model;
    char *name; /* what the user called the model; owned */
    mica_model_defaults defaults;
    api_lora *loras;
    int lora_count;
    mica_text notes;
    mica_err err;
};

struct mica_session {
    mica_engine *engine;
    mica_backend *be;
    mica_model_session *run;
    int32_t *ids; /* last mica_session_tokens */
    char *notes;  /* of the last mica_voice_write */
    mica_run_stats stats;
    mica_err err;
};

struct mica_image {
    int count, width, height, channels;
    uint64_t seed; /* of the first picture */
    bool one_seed; /* and of the others */
    uint8_t *rgb;
    char **recipes;    /* JSON, one per picture */
    char **parameters; /* the one-text form that web interfaces read */
};

struct mica_report {
    mica_text text, json;
    mica_err err;
};

/* Copies `size` bytes of a caller's options over zeroes. MICA_E_USAGE when size is not set. */
mica_status api_options(void *out, size_t known, const void *options, size_t size, mica_err *err);
mica_precision api_precision(const mica_engine *engine); /* AUTO resolved */
/* AUTO becomes CUDA where a GPU can be used and computes in the precision asked for, else CPU. CUDA
 * that cannot be used is refused with the reason, never replaced. */
mica_status api_resolve_device(mica_engine_options *o, mica_text *notes, mica_err *err);

/* loras.c: adds the LoRA files of the options to e->model. They must be closed after the model. */
mica_status api_loras_open(mica_engine *e, const mica_engine_options *options, mica_err *err);
void api_loras_close(mica_engine *e);

/* recipe.c: fills image->recipes and ->parameters. */
mica_status api_recipes(mica_image *image, const mica_session *session,
                        const mica_image_options *options, const mica_diffusion_result *result,
                        mica_err *err);

#endif
