/* bpe.h - byte-pair encoding of one piece of text: bytes in, ids out.
 *
 *     piece  " the"  ->  Ġ t h e  ->  Ġt h e  ->  Ġt he  ->  Ġthe        (ids)
 *                      at each step the pair of smallest rank, leftmost first
 *
 * Does not split text and knows nothing of Unicode. */
#ifndef MICA_TEXT_BPE_H
#define MICA_TEXT_BPE_H

#include "base/status.h"
#include "text/vocab.h"

/* Ids being collected. */
typedef struct mica_id_list {
    int32_t *ids;
    size_t count, cap;
} mica_id_list;

typedef struct mica_bpe_merge {
    uint64_t pair; /* left id << 32 | right id; FREE_PAIR: empty slot */
    uint32_t rank; /* position in the file's list: smaller merges first */
    int32_t result;
} mica_bpe_merge;

typedef struct mica_bpe {
    mica_bpe_merge *slots; /* open addressing */
    size_t slot_count;     /* power of two, at least twice `count` */
    size_t count;
    uint32_t next_rank;
    int32_t last_result;  /* of the merge added last */
    int32_t byte_id[256]; /* token of each single byte */
    bool ignore_merges;   /* a piece that is a token as a whole is that token */
} mica_bpe;

/* Working memory of one encode; grows to the longest piece and is reused. */
typedef struct mica_bpe_scratch {
    struct mica_bpe_symbol *symbols;
    struct mica_bpe_candidate *heap;
    char *spelling; /* the piece in the byte alphabet, for ignore_merges */
    size_t symbol_cap, heap_cap, spelling_cap, heap_count;
} mica_bpe_scratch;

void mica_bpe_deinit(mica_bpe *b); /* of a zeroed or filled table */
void mica_bpe_scratch_deinit(mica_bpe_scratch *s);
/* Finds the token of every byte; MICA_E_FORMAT when the vocabulary lacks one. */
mica_status mica_bpe_bind_bytes(mica_bpe *b, const mica_vocab *v, const char *name, mica_err *err);
/* The next merge in order of rank. Left, right and their concatenation must be tokens. A pair
 * named twice keeps its later rank, as in models/bpe/model.rs (BpeBuilder::build). */
mica_status mica_bpe_add_merge(mica_bpe *b, const mica_vocab *v, const char *name, const char *left,
                               size_t left_size, const char *right, size_t right_size,
                               mica_err *err);
/* Appends the ids of one piece. O(n log n) for a piece of n bytes. */
mica_status mica_bpe_encode(const mica_bpe *b, const mica_vocab *v, const char *piece, size_t size,
                            mica_bpe_scratch *s, mica_id_list *out, mica_err *err);
mica_status mica_id_list_push(mica_id_list *list, int32_t id, mica_err *err);

#endif
