/* convert.h - weights in another type: what becomes of each tensor, and the doing.
 *
 *     input ──► plan: a row per tensor kept or packed ──► header ──► rows, packed, at their places ──► file
 *
 * One part of a model at a time (a transformer, a text encoder): what users exchange and programs load. */
#ifndef MICA_MODELS_CONVERT_H
#define MICA_MODELS_CONVERT_H

#include "base/arena.h"
#include "base/json.h"
#include "format/weight_stream.h"
#include "models/model.h"

typedef enum mica_convert_form {
    MICA_CONVERT_COPY = 0, /* the bytes as they are */
    MICA_CONVERT_FLOATS,   /* numbers as `dtype`: f32, f16 or bf16 */
    MICA_CONVERT_BLOCKS,   /* a GGUF type */
    MICA_CONVERT_GROUPS,   /* an affine type: weight, scales, biases */
    MICA_CONVERT_FP8,      /* weight, one scale, what it is */
    MICA_CONVERT_INT8      /* weight, a scale per row */
} mica_convert_form;

typedef struct mica_convert_item {
    const char *name; /* in the input */
    const mica_tensor *from;
    mica_convert_form form;
    mica_dtype dtype; /* of what is written */
    int group;        /* GROUPS */
    size_t first;     /* its tensors in the plan's list */
    double error;     /* relative, L2; set by the run */
} mica_convert_item;

typedef struct mica_convert_plan {
    mica_weights *weights;
    const mica_model_kind *kind; /* NULL: of no family; nothing is known about its layers then */
    mica_model_part part;
    const char *architecture; /* GGUF's name of it */
    mica_arena arena;
    mica_convert_item *items;
    size_t item_count;
    mica_stream_tensor *tensors;
    size_t tensor_count;
    mica_stream_value *values;
    size_t value_count;
    int64_t left_out; /* tensors that the output has no place for: a vision tower in GGUF */
} mica_convert_plan;

/* Reads headers only. `type` as in mica_convert_options. */
mica_status mica_convert_plan_make(mica_convert_plan *p, const char *input, const char *output,
                                   const char *type, mica_err *err);
void mica_convert_plan_deinit(mica_convert_plan *p);

/* What a fp8 layer says of itself to ComfyUI and to us. */
#define MICA_CONVERT_FP8_FORMAT "{\"format\": \"float8_e4m3fn\"}"

typedef bool (*mica_convert_progress_fn)(void *user, uint64_t done, uint64_t all);
/* Writes the file and fills the items' errors. */
mica_status mica_convert_run(mica_convert_plan *p, const char *output,
                             mica_convert_progress_fn progress, void *user, mica_err *err);

#endif
