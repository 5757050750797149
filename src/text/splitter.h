/* splitter.h - the pre-tokenizer: text into pieces that are merged each by itself.
 *
 *     "It's 42 x"  ->  "It" "'s" " " "4" "2" " x"
 *
 * One or more patterns, each applied to every piece of the one before. A match is a piece,
 * and so is what lies between two matches (behaviour "Isolated"). Pieces join to the text. */
#ifndef MICA_TEXT_SPLITTER_H
#define MICA_TEXT_SPLITTER_H

#include "base/status.h"

#include <stddef.h>

#define MICA_SPLITTER_MAX_PATTERNS 8

typedef struct mica_splitter {
    struct pcre2_real_general_context_8 *memory; /* PCRE2's allocations through base/mem.h */
    struct pcre2_real_code_8 *patterns[MICA_SPLITTER_MAX_PATTERNS];
    size_t count;
} mica_splitter;

/* What one thread needs to run a splitter. */
typedef struct mica_splitter_run {
    const mica_splitter *splitter;
    struct pcre2_real_match_data_8 *found[MICA_SPLITTER_MAX_PATTERNS];
    struct pcre2_real_match_context_8 *limits;
    mica_status (*emit)(void *user, const char *piece, size_t size, mica_err *err);
    void *user;
} mica_splitter_run;

void mica_splitter_deinit(mica_splitter *s); /* of a zeroed or filled splitter */
/* Appends a pattern in the tokenizer.json spelling; `name` is the file, for messages. */
mica_status mica_splitter_add(mica_splitter *s, const char *name, const char *pattern,
                              mica_err *err);

/* emit and user are set by the caller afterwards. deinit also after a failed init. */
mica_status mica_splitter_run_init(mica_splitter_run *r, const mica_splitter *s, mica_err *err);
void mica_splitter_run_deinit(mica_splitter_run *r);
/* Calls emit for each piece in order, none of them empty. The text must be valid UTF-8. */
mica_status mica_splitter_run_text(mica_splitter_run *r, const char *text, size_t size,
                                   mica_err *err);

#endif
