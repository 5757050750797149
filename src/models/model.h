/* model.h - the one interface between the public API and the model families.
 *
 *     paths ─resolve─► mica_model_parts ─open─► mica_model ─session_open─► mica_model_session
 *                      which file is what       mapped, checked,           weights bound to one
 *                                               immutable, shared          backend; one run at a time
 *
 * A family embeds mica_model and mica_model_session as first members of its own structs and
 * adds one mica_model_kind to registry.c. Nothing here knows a tensor name of any family. */
#ifndef MICA_MODELS_MODEL_H
#define MICA_MODELS_MODEL_H

#include "base/json.h"
#include "base/mem.h"
#include "backend/backend.h"
#include "completion/completion.h"
#include "diffusion/diffusion.h"
#include "format/weights.h"
#include "nn/lora.h"
#include "nn/tap.h"

typedef enum mica_model_part {
    MICA_PART_NONE = 0,
    MICA_PART_LANGUAGE, /* a language model that writes text */
    MICA_PART_TRANSFORMER,
    MICA_PART_TEXT_ENCODER,
    MICA_PART_VAE,
    MICA_PART_TOKENIZER,
    MICA_PART_SCHEDULER, /* scheduler_config.json */
    MICA_PART_INDEX,     /* model_index.json: names the pipeline */
    MICA_PART_PROCESSOR, /* preprocessor_config.json: how pictures become the text encoder's input */
    MICA_PART_SEMANTIC,  /* speech: text to semantic codes */
    MICA_PART_SYNTHESIZER, /* codes to sound */
    MICA_PART_HUBERT,
    MICA_PART_BERT,
    MICA_PART_SPEAKER, /* speaker network */
    MICA_PART_G2PW,    /* chooses readings of Chinese characters */
    MICA_PART_COUNT
} mica_model_part;

/* Whether a part is a file of weights. */
static inline bool mica_model_part_is_weights(int part)
{
    return (part >= MICA_PART_LANGUAGE && part <= MICA_PART_VAE) || part >= MICA_PART_SEMANTIC;
}

/* Where each part lies. Strings are owned; NULL: not found. */
typedef struct mica_model_parts {
    char *path[MICA_PART_COUNT];   /* what mica_weights_open or mica_tokenizer_open take;
                                      behind these: the file named at the part */
    char *config[MICA_PART_COUNT]; /* the part's config.json, if there is one */
} mica_model_parts;

typedef struct mica_model_kind mica_model_kind;
typedef struct mica_model {
    const mica_model_kind *kind;
    char hash[17];  /* identifies the weights in recipes */
    bool has_alpha; /* its pictures have transparency */
} mica_model;
typedef struct mica_model_session {
    const mica_model_kind *kind;
} mica_model_session;

/* Finished speech, as a family's speak makes it. */
typedef struct mica_speech_part {
    char *text; /* owned; NULL: not known */
    size_t first, count;
    int tokens, retries;
    unsigned doubts; /* mica_speech_doubt, or-ed */
    bool followed;
    char *dropped, *repeated; /* phones by name, owned; NULL: none */
} mica_speech_part;
typedef struct mica_speech_result {
    float *samples; /* mono; owned */
    size_t count;
    int rate;
    mica_speech_part *parts; /* sentences; owned */
    int part_count;
    char *notes; /* remarks for people, one per line; owned; NULL: none */
    double seconds[MICA_PHASE_COUNT];
    double
        prefix_seconds; /* of MICA_PHASE_DENOISE: until the steps began, where nothing is queued */
} mica_speech_result;
void mica_speech_result_deinit(mica_speech_result *result);

struct mica_model_kind {
    const char *id;    /* "qwen-image" */
    const char *title; /* "Qwen-Image" */
    /* Which part a weight file is, by its tensor names; NONE: not of this family. */
    mica_model_part (*classify)(const mica_weights *w);
    /* Whether such a file is this part, perhaps among others; NULL: classify says all. */
    bool (*holds)(const mica_weights *w, mica_model_part part);
    /* Whether it is of a version that is known by name alone: a folder's other file for the part comes first. NULL:
     * there are none. */
    bool (*refuses)(const mica_weights *w);
    /* Which of the family's versions a model of these parts is, by headers alone, and the part that this version
     * needs and others do not (NONE: no such part). NULL, or a slot of NULL: there are no versions. */
    const char *(*version)(const mica_model_parts *parts, mica_model_part *also);
    /* Maps every part and checks every tensor's name, shape and dtype; lists all problems. */
    mica_status (*open)(mica_model **out, const mica_model_parts *parts, mica_err *err);
    /* Random weights of full width; `spec` is what follows "id:" ("layers=2,..."), may be "". */
    mica_status (*open_synthetic)(mica_model **out, const char *spec, mica_err *err);
    void (*close)(mica_model **model);
    /* The backend must outlive the session. */
    mica_status (*session_open)(mica_model_session **out, const mica_model *model, mica_backend *be,
                                const mica_diffusion_switches *switches, mica_err *err);
    void (*session_close)(mica_model_session **session);
    /* What opening it has to tell people, one line per remark; "" or a slot of NULL: nothing. */
    const char *(*session_notes)(const mica_model_session *session);
    /* Text to pictures. taps may be NULL. On failure *result is empty. options->trace_path and
     * the file of the result are the caller's business. */
    mica_status (*generate)(mica_model_session *session, const mica_image_options *options,
                            const mica_tap_sink *taps, mica_diffusion_result *result,
                            mica_err *err);
    /* Text to sound; NULL: the family does not speak. Otherwise as generate, which may be NULL then. */
    mica_status (*speak)(mica_model_session *session, const mica_speech_options *options,
                         const mica_tap_sink *taps, mica_speech_result *result, mica_err *err);
    /* What `speak` needs to know of options->voices as a file; *notes: owned, NULL: none. With speak only. */
    mica_status (*write_voice)(mica_model_session *session, const mica_speech_options *options,
                               const char *path, char **notes, mica_err *err);
    /* Text to text; NULL: the family does not write. As generate. */
    mica_status (*complete)(mica_model_session *session, const mica_text_options *options,
                            const mica_tap_sink *taps, mica_completion_result *result,
                            mica_err *err);
    /* Token ids of a prompt, template included; mica_mem_free. */
    mica_status (*tokens)(const mica_model *model, const char *text, int32_t **ids, size_t *count,
                          mica_err *err);
    /* Bytes that a run needs beside the mapped weights, at a picture size. */
    uint64_t (*scratch_bytes)(const mica_model *model, int width, int height);
    /* For LoRA files, before the first session; NULL: the family takes none. The second gives what the
     * family's slots want as `weights`. */
    const mica_lora_family *lora;
    void *(*lora_weights)(mica_model *model);
};

/* registry.c */
const mica_model_kind *mica_model_kind_at(int index); /* NULL behind the last */
const mica_model_kind *mica_model_kind_find(const char *id);

#endif
