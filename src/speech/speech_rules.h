/* speech_rules.h - a text rewritten by a list of patterns, one after the other.
 *
 * Each rule replaces every match of its pattern (PCRE2, UTF-8) by what its function writes; the next
 * rule sees the result. Order is meaning: dates before fractions, ranges before minus signs. */
#ifndef MICA_SPEECH_SPEECH_RULES_H
#define MICA_SPEECH_SPEECH_RULES_H

#include "base/json.h"
#include "base/status.h"

#include <stddef.h>

typedef struct mica_match {
    const char *text;      /* the whole subject */
    const size_t *offsets; /* pairs: begin and end of group 0, 1, ... */
    size_t groups, size;   /* size: of the subject */
} mica_match;

typedef struct mica_slice {
    const char *text; /* not NUL-terminated */
    size_t size;
} mica_slice;
/* A group; empty when it took no part or does not exist. */
mica_slice mica_match_group(const mica_match *m, size_t group);

bool mica_slice_is(mica_slice s, const char *text);

typedef void mica_rule_fn(mica_text *out, const mica_match *m);
/* What rules write with: a C string, a part of the match; the first group in place of the match. */
void mica_rule_put(mica_text *out, const char *text);
void mica_rule_put_slice(mica_text *out, mica_slice s);
mica_rule_fn mica_rule_first_group;
typedef struct mica_rule {
    const char *pattern;
    mica_rule_fn *replace; /* NULL: `literal` */
    const char *literal;
} mica_rule;

typedef struct mica_rules mica_rules; /* compiled; does not change after open */
mica_status mica_rules_open(mica_rules **out, const mica_rule *rules, size_t count, mica_err *err);
void mica_rules_close(mica_rules **r);
/* Rewrites *text in place. */
mica_status mica_rules_run(const mica_rules *r, mica_text *text, mica_err *err);

#endif
