/* mixtral.h - the Mixtral family as models/model.h sees it, and its two structs.
 *
 *     mica_mixtral           files, config, bound tables, tokenizer        immutable, shared
 *     mica_mixtral_session   a copy of the tables, rotary table, what the run needs    one run at a time */
#ifndef MICA_MODELS_MIXTRAL_MIXTRAL_H
#define MICA_MODELS_MIXTRAL_MIXTRAL_H

#include "completion/completion_model.h"
#include "models/mixtral/mixtral_weights.h"
#include "models/model.h"
#include "nn/rope.h"

typedef struct mica_mixtral {
    mica_model base;
    mica_arena arena;
    mica_weights *files;
    mica_tokenizer *tokenizer; /* NULL: synthetic */
    char *chat_template;       /* NULL: none; owned */
    mica_mixtral_weights weights;
} mica_mixtral;

typedef struct mica_mixtral_session {
    mica_model_session base;
    mica_completion_model completion;
    const mica_mixtral *model;
    mica_arena arena;
    mica_mixtral_weights weights;
    mica_pool_mark mark; /* of the session's stack before the rotary table */
    mica_rope_table rope;
    int64_t rope_rows;
    uint64_t rope_builds;
    mica_tensor logits; /* of the last forward, in the stack of the pass */
    mica_backend
        *host;      /* computes the experts of the last completion.host_layers layers; or NULL */
    char note[160]; /* for people: where experts are computed; "" without such layers */
} mica_mixtral_session;

extern const mica_model_kind mica_mixtral_kind;

/* mixtral_forward.c: the slots of mica_completion_ops. */
extern const mica_completion_ops mica_mixtral_completion;
/* mixtral_plan.c: chooses completion.host_layers and opens `host`. scratch: bytes that a run needs beside weights. */
mica_status mica_mixtral_plan(mica_mixtral_session *s, uint64_t scratch, mica_err *err);
/* mixtral_synthetic.c */
mica_status mica_mixtral_open_synthetic(mica_model **out, const char *spec, mica_err *err);

#endif
