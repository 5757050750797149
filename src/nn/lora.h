/* lora.h - LoRA files and their kin (LoHa, LoKr, differences), and how they join a model.
 *
 *     file ──open──► targets: name, factors [O, r] [r, D], alpha
 *                       │ attach(family, weights, scale)
 *                       ▼
 *     the model's own rename ─► canonical names, fused ones split ─► mica_weight.adapters
 *
 * The weights themselves are never touched or copied: an adapter is computed beside its linear
 * (backend/backend.h). Vectors (biases, norms) are replaced by their sum, in f32.
 *
 * scale of a target = what the user asks for * alpha / rank; without alpha that quotient is 1. A full
 * difference has no alpha. A DoRA by rows sets the lengths of the weight's rows, too (lora_dora.c).
 * DoRA by columns, Tucker cores and OFT are refused by name. */
#ifndef MICA_NN_LORA_H
#define MICA_NN_LORA_H

#include "nn/weight_table.h"

typedef struct mica_lora mica_lora;

/* Maps the file and understands every key; reads headers and alphas only. MICA_E_FORMAT when it is no
 * LoRA file or its factors do not fit each other. *out is NULL on failure. */
mica_status mica_lora_open(mica_lora **out, const char *path, mica_err *err);
/* The same from a safetensors image that the caller keeps alive. */
mica_status mica_lora_open_memory(mica_lora **out, const char *name, const void *data, size_t size,
                                  mica_err *err);
void mica_lora_close(mica_lora **lora);
/* True when the file has keys of adapters: worth opening as one. */
bool mica_lora_is_lora(const mica_weights *w);

const char *mica_lora_name(const mica_lora *lora); /* file name without folder and ending */
const char *mica_lora_hash(const mica_lora *lora); /* as mica_weights_hash */

typedef struct mica_lora_facts {
    int targets;                           /* layers of the picture model that the file is for */
    int loras, doras, lohas, lokrs, diffs; /* of these, by form; a DoRA is no LoRA here */
    int rank_min, rank_max;                /* of LoRA, LoHa and factored LoKr; 0: none */
    int text_targets;                      /* layers of text encoders; they are left out */
    int unknown;                           /* tensors that are no part of an adapter */
    const char *first_unknown;
    uint64_t parameters, bytes;
} mica_lora_facts;
mica_lora_facts mica_lora_get_facts(const mica_lora *lora);

/* Tables of a model family, one entry per kind of block. */
typedef struct mica_lora_group {
    const mica_weight_row *rows;
    size_t count;
} mica_lora_group;

typedef struct mica_lora_family {
    const mica_lora_group *groups;
    size_t group_count;
    /* Layers as other layouts call them, without ".weight", NULL-terminated: what a flat name may stand
     * for beside the names of the tables. May be NULL. */
    const char *const *aliases;
    /* Foreign names to canonical ones, as for weight files; may split. */
    mica_status (*rename)(mica_weights *w, mica_err *err);
    /* The struct that holds the rows of `group` for block `index`; NULL: there is no such block. */
    void *(*block)(void *weights, size_t group, int index);
} mica_lora_family;

/* What became of a file's targets. */
typedef struct mica_lora_match {
    int matched, missed;
    const char *first_missed; /* NULL: none */
} mica_lora_match;

/* Adds the file's adapters to a bound model (`weights` goes to family->block), times `scale`. The lora
 * must outlive the model and all copies of its tables. Factors must be finite and fit their layers. A file
 * without a single match is MICA_E_MISSING. On failure some may have been added: close the model. */
mica_status mica_lora_attach(mica_lora *lora, const mica_lora_family *family, void *weights,
                             double scale, mica_lora_match *match, mica_err *err);
/* How many targets have names of this family; no model is needed. */
mica_lora_match mica_lora_count_matches(const mica_lora *lora, const mica_lora_family *family);

#endif
