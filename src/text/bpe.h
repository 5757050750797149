/* bpe.h - byte-pair encoding of one piece of text: bytes in, ids out.
 *
 *     piece  " the"  ->  Ġ t h e  ->  Ġt h e  ->  Ġt he  ->  Ġthe        (ids)
 *                      at each step the pair of smallest rank, leftmost first
 *
 * A piece begins as bytes, or (`characters`, SentencePiece) as characters, of which those without a
 * token become the tokens of their bytes, <0xE2> and so on, or the unknown token.
 *
 * Does not split text. */
#ifndef MICA_TEXT_BPE_H
#define MICA_TEXT_BPE_H

#include "base/status.h"
#include "text/vocab.h"

/* Ids being collected. */
typedef struct mica_id_list {
    int32_t *ids;
    size_t count, cap;
} mica_id_list;

#define MICA_BPE_FREE_PAIR UINT64_MAX /* ids are below 2^22, so no pair has this value */

typedef struct mica_bpe_merge {
    uint64_t pair; /* left id << 32 | right id; MICA_BPE_FREE_PAIR: empty slot */
    uint32_t rank; /* position in the file's list: smaller merges first */
    int32_t result;
} mica_bpe_merge;

typedef struct mica_bpe {
    mica_bpe_merge *slots; /* open addressing */
    size_t slot_count;     /* power of two, at least twice `count` */
    size_t count;
    uint32_t next_rank;
    int32_t last_result;  /* of the merge added last */
    int32_t byte_id[256]; /* token of each single byte; characters: of the fallback, or -1 */
    bool ignore_merges;   /* a piece that is a token as a whole is that token */
    bool characters;      /* pieces are spelled as they are and begin as characters */
    bool fuse_unknown;    /* unknown characters in a row are one token */
    int32_t unknown;      /* characters: token of what has none; -1: it is left out */
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
/* Makes the table one of characters. With `fallback` the tokens <0x00> to <0xFF> stand for characters
 * without a token where all bytes of one are there. unknown: "" or NULL for none. */
mica_status mica_bpe_bind_characters(mica_bpe *b, const mica_vocab *v, const char *name,
                                     bool fallback, const char *unknown, mica_err *err);
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
