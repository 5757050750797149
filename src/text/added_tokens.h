/* added_tokens.h - tokens that are cut out of the text before it is split and merged.
 *
 *     "a<|im_end|> b"   ->   "a"  [<|im_end|>]  " b"
 *
 * Two sets, as in tokenizer/added_vocabulary.rs of Hugging Face tokenizers: tokens that are
 * looked for in the text as it came, and those marked `normalized`, looked for after NFC.
 * In each the leftmost match wins, and of several at one place the longest.
 *
 *     order[]  items sorted by bytes; first[c]..first[c+1] begin with byte c. Matching
 *              narrows that range byte by byte: a trie without nodes. */
#ifndef MICA_TEXT_ADDED_TOKENS_H
#define MICA_TEXT_ADDED_TOKENS_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/* A match costs at most this many steps at each byte of the text. */
#define MICA_ADDED_TOKEN_MAX_SIZE 512

typedef struct mica_added_token {
    char *text; /* what is looked for; the set's own copy */
    size_t size;
    int32_t id;
    bool single_word;    /* only where no letter, digit or mark touches it */
    bool lstrip, rstrip; /* swallows white space to its left, right */
} mica_added_token;

typedef struct mica_added_set {
    mica_added_token *items;
    size_t count, cap;
    size_t first[257]; /* valid after mica_added_set_finish */
} mica_added_set;

typedef struct mica_added_match {
    size_t start, end; /* bytes of the text that the token replaces */
    int32_t id;
} mica_added_match;

/* Where a scan through one text stands; begin with zeros. */
typedef struct mica_added_cursor {
    size_t scan;  /* next byte to look at */
    size_t floor; /* end of the last match with what it swallowed */
} mica_added_cursor;

void mica_added_set_deinit(mica_added_set *s);
/* Adds a copy of the text with the id and rules of `token` (whose text and size are not read).
 * `name` is the file, for messages. */
mica_status mica_added_set_push(mica_added_set *s, const char *name, const char *text, size_t size,
                                const mica_added_token *token, mica_err *err);
void mica_added_set_finish(mica_added_set *s); /* sorts; no push afterwards */
/* The token with this id; NULL: the set has none. */
const mica_added_token *mica_added_set_get(const mica_added_set *s, int32_t id);
/* The next match in valid UTF-8, or false. */
bool mica_added_set_find(const mica_added_set *s, const char *text, size_t size,
                         mica_added_cursor *at, mica_added_match *match);

#endif
