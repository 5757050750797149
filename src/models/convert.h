/* convert.h - weights in another type: what becomes of each tensor, and the doing.
 *
 *     request ──► plan: a row per tensor kept, packed or stacked ──► header ──► rows, packed, at their places ──► files
 *
 *     convert_types.c     which type a tensor gets: the types, the table of sensitive layers
 *     convert_check.c     whether input and output fit each other
 *     convert_source.c    what is converted: opened, told apart, under the model's names
 *     convert_plan.c      items, names and places of what is written
 *     convert_header.c    what files say beside their tensors
 *     convert_run.c       the numbers
 *     convert_folder.c    whole models: their parts one by one, everything else copied
 *     convert_index.c     the index of shards, config.json
 *
 * A plan is one part of a model (a transformer, a text encoder, a language model), or the two checkpoints of a
 * voice, which belong into one file. */
#ifndef MICA_MODELS_CONVERT_H
#define MICA_MODELS_CONVERT_H

#include "base/arena.h"
#include "base/json.h"
#include "format/weight_stream.h"
#include "models/common/fused_name.h"
#include "models/model.h"

typedef enum mica_convert_form {
    MICA_CONVERT_COPY = 0, /* the bytes as they are */
    MICA_CONVERT_FLOATS,   /* numbers as `dtype`: f32, f16 or bf16 */
    MICA_CONVERT_BLOCKS,   /* a GGUF type */
    MICA_CONVERT_GROUPS,   /* an affine type: weight, scales, biases */
    MICA_CONVERT_FP8,      /* weight, one scale, what it is */
    MICA_CONVERT_INT8      /* weight, a scale per row */
} mica_convert_form;

/* GGUF's `llama` networks store rotary pairs as neighbours, the others as halves of a head. */
typedef enum mica_convert_turn {
    MICA_CONVERT_AS_IS = 0,
    MICA_CONVERT_TO_NEIGHBOURS,
    MICA_CONVERT_TO_HALVES
} mica_convert_turn;

typedef struct mica_convert_type {
    const char *name;
    bool is_float;          /* f32, f16, bf16 */
    int bits;               /* of groups; 0: not packed so */
    mica_dtype wide, small; /* GGUF: of 256 and of 32; MICA_DTYPE_COUNT: it has none */
    int file_type;          /* GGUF's general.file_type: what most of a file is */
} mica_convert_type;

typedef struct mica_convert_item {
    const char *name; /* as it is written */
    const mica_tensor *const
        *parts; /* one tensor; matrices of one shape that become a stack; or rows of one */
    int part_count;
    int ndim; /* of the whole */
    int64_t shape_[MICA_MAX_DIMS];
    int source; /* in the plan */
    mica_convert_turn turn;
    int64_t heads; /* of `turn` */
    mica_convert_form form;
    mica_dtype dtype; /* of what is written */
    int group;        /* GROUPS */
    size_t first;     /* its tensors in the plan's list */
    size_t file;
    double error; /* relative, L2; set by the run */
} mica_convert_item;

struct mica_mixtral_config;

typedef struct mica_convert_source {
    mica_weights *weights;
    mica_weights *view; /* tensors as they are written, where files hold others; else NULL */
    const mica_model_kind *kind; /* NULL: of no family; nothing is known about its layers then */
    mica_model_part part;
    const char *config_path, *config;           /* config.json beside it and its text, or NULL */
    const struct mica_mixtral_config *language; /* of a language model */
    void (*spell)(const char *name, mica_fused_name *out); /* the output's names; NULL: the same */
} mica_convert_source;

#define MICA_CONVERT_SOURCES 2

typedef struct mica_convert_request {
    const char *input;
    const char *synthesizer; /* of a voice: the second checkpoint; else NULL */
    const char *semantic;    /* of a folder: which to take; NULL: the only one */
    const char *output;      /* the file; of a folder its name */
    const char *type;
    const char
        *stem; /* in a folder: STEM.safetensors or STEM-00001-of-00003.safetensors; else NULL */
    uint64_t shard; /* bytes of a file, about; 0: no limit */
} mica_convert_request;

typedef struct mica_convert_plan {
    const char *input, *output;
    const mica_convert_type *type;
    bool gguf;
    mica_convert_source sources[MICA_CONVERT_SOURCES];
    int source_count;
    const char *architecture; /* GGUF's name of it */
    mica_arena arena;
    mica_convert_item *items;
    size_t item_count;
    mica_stream_tensor *tensors;
    size_t tensor_count, tensor_cap;
    mica_stream_value *values;
    size_t value_count, value_cap;
    const char *quantization; /* MLX's description of packed layers, JSON; NULL: there are none */
    const char **files;       /* names; of a folder below it */
    size_t *file_first;       /* [file_count + 1]: tensors of a file begin here */
    size_t file_count;
    uint64_t bytes;   /* of all tensors */
    uint64_t numbers; /* progress counts them */
    int64_t left_out; /* tensors that the output has no place for: a vision tower in GGUF */
} mica_convert_plan;

/* Reads headers only. */
mica_status mica_convert_plan_make(mica_convert_plan *p, const mica_convert_request *request,
                                   mica_err *err);
void mica_convert_plan_deinit(mica_convert_plan *p);

/* What a fp8 layer says of itself to ComfyUI and to us. */
#define MICA_CONVERT_FP8_FORMAT "{\"format\": \"float8_e4m3fn\"}"

typedef bool (*mica_convert_progress_fn)(void *user, uint64_t done, uint64_t all);
/* Writes the files, below `folder` where it is not NULL, and fills the items' errors. */
mica_status mica_convert_run(mica_convert_plan *p, const char *folder,
                             mica_convert_progress_fn progress, void *user, mica_err *err);

/* ---- inside ---- */
const mica_convert_type *mica_convert_type_find(const char *name); /* or NULL */
/* Form, dtype and group of an item whose parts and shape are set. */
void mica_convert_choose(mica_convert_item *item, mica_model_part part,
                         const mica_convert_type *type, bool gguf);
/* Opens what the request names. */
mica_status mica_convert_open_sources(mica_convert_plan *p, const mica_convert_request *r,
                                      mica_err *err);
/* n bytes of stem and suffix, in the plan's arena; NULL: no memory. */
const char *mica_convert_join(mica_convert_plan *p, const char *stem, size_t n, const char *suffix);
/* Values of the plan's files; items are there. */
mica_status mica_convert_add_header(mica_convert_plan *p, mica_err *err);
void mica_convert_add_text(mica_convert_plan *p, const char *key, const char *text);
/* A number under "ARCHITECTURE.key". */
void mica_convert_add_number(mica_convert_plan *p, const char *key, double number,
                             mica_stream_kind kind);
/* Any value; its key is the caller's or the arena's. */
void mica_convert_add_value(mica_convert_plan *p, const mica_stream_value *value);
mica_status mica_convert_no_memory(const mica_convert_plan *p, mica_err *err);
/* The tensors of a source that are written. */
const mica_weights *mica_convert_tensors(const mica_convert_source *s);

#endif
