/* grammar.h - context-free grammars over bytes, and what may come next.
 *
 *     root ::= "yes" | "no" " "+ word           elements   [ 'y' 'e' 's' END | 'n' 'o' RULE RULE END ]
 *     word ::= [a-zé]+                                      characters become ranges of UTF-8 bytes
 *
 * The language is a subset of llama.cpp's GBNF (docs/TEXT.md). A state is a set of stacks: every place
 * in the grammar where the text so far may stand. Bytes instead of characters, because tokens
 * may end inside a character. */
#ifndef MICA_SAMPLE_GRAMMAR_H
#define MICA_SAMPLE_GRAMMAR_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define MICA_GRAMMAR_MAX_SIZE     (256 * 1024)
#define MICA_GRAMMAR_MAX_ELEMENTS (1 << 20)

typedef struct mica_grammar mica_grammar;

/* `name` begins messages. Refused: unknown rules, no `root`, a rule that begins with itself. */
mica_status mica_grammar_parse(mica_grammar **out, const char *name, const char *text, size_t size,
                               mica_err *err);
void mica_grammar_close(mica_grammar **g);

/* Where a text stands. deinit also of a zeroed one. */
typedef struct mica_grammar_node {
    int32_t element, parent; /* element -1: the text is whole */
} mica_grammar_node;
typedef struct mica_grammar_state {
    const mica_grammar *grammar;
    mica_grammar_node *nodes;
    int32_t *stacks; /* nodes on top of each */
    size_t node_count, node_cap, stack_count, stack_cap;
    bool overflow; /* too many places at once, or no memory: everything is refused from then on */
} mica_grammar_state;
mica_status mica_grammar_state_init(mica_grammar_state *s, const mica_grammar *g, mica_err *err);
void mica_grammar_state_deinit(mica_grammar_state *s);
/* Whether the bytes may come next; the state stays. */
bool mica_grammar_allows(mica_grammar_state *s, const char *bytes, size_t size);
/* They came. False: they were not allowed, and the state stays. */
bool mica_grammar_advance(mica_grammar_state *s, const char *bytes, size_t size);
/* Whether the text may end here. */
bool mica_grammar_is_whole(const mica_grammar_state *s);

#endif
