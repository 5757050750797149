/* prompt_cache.h - text features of prompts kept on disk, so that a repeated prompt needs no encoder.
 *
 *     ids, encoder's hash, arithmetic ──► key ──► FOLDER/<32 hex digits>.safetensors
 *                                                   text.0 [T, E] f32, text.1, valid
 *                                                   metadata: the whole key, a digest of the data
 *
 * Token ids stand for prompt, template, tokenizer and limit: equal ids, equal features. Prompt and negative
 * prompt make one entry, since the encoder runs them together and its sums may depend on that; so a picture
 * has the same bytes with and without the cache.
 *
 * Entries appear whole or not at all and are never changed: any number of processes may share a folder.
 * What does not read back exactly as it was written (damaged, another version's, a collision of names) counts
 * as absent and is written anew. So does an entry whose features are not [rows, width] of its prompts: a digest
 * proves nothing about who wrote it. Nothing here can fail a run. */
#ifndef MICA_DIFFUSION_PROMPT_CACHE_H
#define MICA_DIFFUSION_PROMPT_CACHE_H

#include "diffusion/diffusion.h"
#include "format/weights.h"

typedef struct mica_prompt_key {
    const char *family; /* and so which hidden states and rows are features */
    const mica_weights *encoder;
    int64_t width; /* of the features */
    int count;     /* 1, or 2 with a negative prompt */
    struct {
        const int32_t *ids;
        int64_t count;
        int64_t valid; /* those that are not padding */
        int64_t rows;  /* of the features, none of which is hidden from queries */
    } prompts[2];
} mica_prompt_key;

/* Fills d->text from the cache; false: not there, no cache wanted, or a trace needs the encoder. */
bool mica_prompt_cache_find(mica_diffusion *d, const mica_prompt_key *key);
/* Keeps d->text, and removes the entries not used for longest until all fit options->prompt_cache_bytes.
 * A folder that cannot be written is told once, in a note. */
void mica_prompt_cache_keep(mica_diffusion *d, const mica_prompt_key *key);

#endif
