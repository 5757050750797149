/* grammar_internal.h - a compiled grammar; shared by its parser and its states. */
#ifndef MICA_SAMPLE_GRAMMAR_INTERNAL_H
#define MICA_SAMPLE_GRAMMAR_INTERNAL_H

#include "sample/grammar.h"

typedef enum grammar_kind { GRAMMAR_END = 0, GRAMMAR_BYTES, GRAMMAR_RULE } grammar_kind;

typedef struct grammar_element {
    uint8_t kind, lo, hi; /* BYTES: lo to hi */
    int32_t rule;         /* RULE */
} grammar_element;

typedef struct grammar_rule {
    char *name;      /* NULL: made by the parser */
    int32_t *starts; /* elements that its alternatives begin with */
    size_t count, cap;
    bool defined;
} grammar_rule;

struct mica_grammar {
    grammar_element *elements;
    size_t count, cap;
    grammar_rule *rules;
    size_t rule_count, rule_cap;
    int32_t root;
};

#endif
