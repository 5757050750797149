/* vocab.h - the two-way table between token spellings and ids.
 *
 *     slots (hash, index) ──► entries {offset, size, id} ──► bytes "Ġthe" "in" ...
 *                                  ▲
 *     by_id[id] ───────────────────┘      -1: no token has this id
 *
 * Spellings are kept as the file writes them: byte-level tokens in the byte alphabet
 * (byte_alphabet.h), added tokens as plain text. */
#ifndef MICA_TEXT_VOCAB_H
#define MICA_TEXT_VOCAB_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/* by_id costs four bytes an id, so the largest id a file may name is bounded; the largest
 * vocabulary in use has 262,144. */
#define MICA_VOCAB_MAX_ID   (4 * 1024 * 1024 - 1)
#define MICA_TOKEN_MAX_SIZE 4096 /* bytes of one spelling; the longest in use have 512 */

typedef struct mica_vocab_entry {
    uint32_t offset, size; /* in bytes[] */
    int32_t id;
    bool added;     /* is in one of the sets of added tokens */
    bool respelled; /* decodes to the normal form in the set `normalized` */
    bool special;   /* left out by decode when asked */
} mica_vocab_entry;

typedef struct mica_vocab_slot {
    uint32_t hash, index; /* index + 1 of the entry; 0: free */
} mica_vocab_slot;

typedef struct mica_vocab {
    char *bytes;
    size_t bytes_size, bytes_cap;
    mica_vocab_entry *entries;
    size_t count, cap;
    mica_vocab_slot *slots;
    size_t slot_count; /* power of two, at least twice `count`; 0 before the first token */
    int32_t *by_id;
    size_t id_count, id_cap; /* id_count: largest id + 1 */
} mica_vocab;

void mica_vocab_deinit(mica_vocab *v); /* of a zeroed or filled table */
/* `name` is the file, for messages. A spelling or an id that is there already is an error. */
mica_status mica_vocab_add(mica_vocab *v, const char *name, const char *token, size_t size,
                           int64_t id, mica_err *err);
/* Entry of a spelling or of an id; NULL: absent. Valid until the next add. */
mica_vocab_entry *mica_vocab_find(const mica_vocab *v, const char *token, size_t size);
mica_vocab_entry *mica_vocab_get(const mica_vocab *v, int64_t id);
const char *mica_vocab_text(const mica_vocab *v,
                            const mica_vocab_entry *e); /* not NUL-terminated */

/* A spelling for a message: control characters as "?", cut at about 64 bytes. */
typedef struct mica_token_name {
    char text[72];
} mica_token_name;
mica_token_name mica_token_printable(const char *token, size_t size);

/* Grows *array of *cap items of `item` bytes to at least `need` (doubling); false: no memory. */
bool mica_array_reserve(void **array, size_t *cap, size_t need, size_t item);

#endif
