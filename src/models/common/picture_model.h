/* picture_model.h - what the picture families share of opening, of sessions and of closing.
 *
 *     paths ─► parts present? ─► transformer, text encoder, VAE, ... ─► do they fit each other? ─► model
 *                                  each opened, whatever fails            the family's `check`
 *     model ─► session: the text encoder's table copied, the rest by the family's `bind`
 *
 * Transformer, language model as text encoder, VAE, tokenizer, schedule: a family of that shape embeds
 * mica_picture_model and mica_picture_session as first members of its own structs and fills a
 * mica_picture_family. What its tensors are called, and what its VAE is, only the family knows. */
#ifndef MICA_MODELS_COMMON_PICTURE_MODEL_H
#define MICA_MODELS_COMMON_PICTURE_MODEL_H

#include "models/model.h"
#include "nn/decoder_lm.h"
#include "sample/schedule.h"
#include "text/tokenizer.h"

typedef struct mica_picture_family mica_picture_family;

/* Immutable after open, shared by sessions. */
typedef struct mica_picture_model {
    mica_model base;
    const mica_picture_family *family;
    mica_arena arena;
    mica_weights *transformer_files, *text_files, *vae_files;
    mica_tokenizer *tokenizer; /* NULL in a synthetic model: prompts become made-up ids */
    mica_lm text_encoder;
    mica_schedule_config schedule;
} mica_picture_model;

/* Copies of the tables, so that prepared forms come and go with the session; one run at a time. */
typedef struct mica_picture_session {
    mica_model_session base;
    const mica_picture_model *model;
    mica_backend *be;
    mica_diffusion_switches switches;
    mica_arena arena;
    mica_lm text_encoder;
} mica_picture_session;

typedef mica_status (*mica_open_part_fn)(mica_picture_model *m, const mica_model_parts *parts,
                                         mica_err *err);

#define MICA_PICTURE_PARTS 8

struct mica_picture_family {
    const mica_model_kind *kind;
    size_t model_size, session_size; /* of the family's structs */
    /* For the message about what is missing: "text encoder Qwen3-4B", "VAE, that of FLUX.1". */
    const char *text_encoder, *vae;
    /* In this order, all of them whatever fails; up to the first NULL. The tokenizer is opened by
     * this file, and the hash taken from the transformer's files. */
    mica_open_part_fn open[MICA_PICTURE_PARTS];
    /* The configurations against each other, when every part is fine. */
    mica_status (*check)(const mica_picture_model *m, mica_err *err);
    /* The family's own tables of a session, and letting go of what they prepared, however far
     * `bind` came. The text encoder is not its business. */
    mica_status (*bind)(mica_picture_session *s, mica_err *err);
    void (*unbind)(mica_picture_session *s);
};

/* For the slots of mica_model_kind. */
mica_status mica_picture_model_open(mica_model **out, const mica_picture_family *family,
                                    const mica_model_parts *parts, mica_err *err);
void mica_picture_model_close(mica_model **model);
mica_status mica_picture_session_open(mica_model_session **out, const mica_model *model,
                                      mica_backend *be, const mica_diffusion_switches *switches,
                                      mica_err *err);
void mica_picture_session_close(mica_model_session **session);

/* --------------------------------------------------------------- synthetic models -- */

/* "layers=2": one of the numbers that a specification may set. */
typedef struct mica_synthetic_key {
    const char *name;
    int64_t *value;
    int64_t most;      /* from 1 on */
    const char *shown; /* what a user may write for the number; NULL: "N" */
} mica_synthetic_key;

/* Takes "name=number,..." apart; `model` for the message. */
mica_status mica_synthetic_read(const char *spec, const char *model, const mica_synthetic_key *keys,
                                size_t count, mica_err *err);
/* A model of random weights: `build` sets the configurations by `spec`, then fills and binds the
 * directories, which are open and empty. */
mica_status mica_picture_model_synthetic(
    mica_model **out, const mica_picture_family *family, const char *spec,
    mica_status (*build)(mica_picture_model *m, const char *spec, mica_err *err), mica_err *err);

#endif
