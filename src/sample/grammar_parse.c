/* grammar_parse.c - the text of a grammar into elements; docs/TEXT.md has the language.
 *
 *     name ::= alternative | alternative          # remark
 *     alternative: literals "..", classes [a-z] [^"], any character ., names, ( groups ), each with * + ? {m,n}
 *
 *     x*     ─►  r ::= x r |          x?  ─►  r ::= x |         [à-ü]  ─►  r ::= C3 A0..BC | ...
 *
 * A rule goes on over line breaks as long as no new name with ::= begins. */
#include "sample/grammar_internal.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "text/vocab.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_DEPTH  64
#define MOST_REPEAT 1000
#define MOST_RANGES 256
#define LAST_CHAR   0x10FFFFu

typedef struct parser {
    mica_grammar *g;
    const char *name, *text, *at, *end;
    int depth;
    mica_err *err;
} parser;

/* One sequence under construction. */
typedef struct sequence {
    grammar_element *items;
    size_t count, cap;
} sequence;

typedef struct char_range {
    uint32_t lo, hi;
} char_range;

static mica_status fail(const parser *p, const char *what)
{
    int line = 1;
    for (const char *c = p->text; c < p->at; c++)
        line += *c == '\n';
    return MICA_FAIL(p->err, MICA_E_USAGE, "%s:%d: %s", p->name, line, what);
}

static mica_status no_memory(const parser *p)
{
    return MICA_FAIL(p->err, MICA_E_NOMEM, "%s: no memory for its rules", p->name);
}

/* -------------------------------------------------------------------- rules -- */

static mica_status new_rule(parser *p, const char *name, size_t size, int32_t *out)
{
    mica_grammar *g = p->g;
    if (!mica_array_reserve((void **)&g->rules, &g->rule_cap, g->rule_count + 1, sizeof *g->rules))
        return no_memory(p);
    grammar_rule *r = &g->rules[g->rule_count];
    *r = (grammar_rule){.name = name ? mica_mem_strndup(name, size) : NULL};
    *out = (int32_t)g->rule_count++;
    return name && !r->name ? no_memory(p) : MICA_OK;
}

static mica_status find_rule(parser *p, const char *name, size_t size, int32_t *out)
{
    for (size_t i = 0; i < p->g->rule_count; i++) {
        const char *known = p->g->rules[i].name;
        if (known && strlen(known) == size && memcmp(known, name, size) == 0) {
            *out = (int32_t)i;
            return MICA_OK;
        }
    }
    return new_rule(p, name, size, out);
}

static mica_status push(const parser *p, sequence *s, grammar_element e)
{
    if (!mica_array_reserve((void **)&s->items, &s->cap, s->count + 1, sizeof *s->items))
        return no_memory(p);
    s->items[s->count++] = e;
    return MICA_OK;
}

/* The sequence as one more alternative of the rule. */
static mica_status add_alternative(parser *p, int32_t rule, const grammar_element *items,
                                   size_t count)
{
    mica_grammar *g = p->g;
    if (g->count + count + 1 > MICA_GRAMMAR_MAX_ELEMENTS)
        return fail(p, "the grammar is too large");
    if (!mica_array_reserve((void **)&g->elements, &g->cap, g->count + count + 1,
                            sizeof *g->elements))
        return no_memory(p);
    grammar_rule *r = &g->rules[rule];
    if (!mica_array_reserve((void **)&r->starts, &r->cap, r->count + 1, sizeof *r->starts))
        return no_memory(p);
    r->starts[r->count++] = (int32_t)g->count;
    r->defined = true;
    if (count)
        memcpy(g->elements + g->count, items, count * sizeof *items);
    g->count += count;
    g->elements[g->count++] = (grammar_element){.kind = GRAMMAR_END};
    return MICA_OK;
}

static grammar_element call(int32_t rule)
{
    return (grammar_element){.kind = GRAMMAR_RULE, .rule = rule};
}

static grammar_element bytes(uint8_t lo, uint8_t hi)
{
    return (grammar_element){.kind = GRAMMAR_BYTES, .lo = lo, .hi = hi};
}

/* --------------------------------------------------------------- characters -- */

/* Code points of one length whose bytes but the last agree, or whose later bytes are all of their range,
 * are one sequence of byte ranges; others are cut where that begins to hold (as RE2 and Rust's
 * utf8-ranges do). */
static mica_status add_range(parser *p, int32_t rule, uint32_t lo, uint32_t hi)
{
    static const uint32_t lasts[] = {0x7f, 0x7ff, 0xffff, LAST_CHAR};
    for (size_t i = 0; i < 3; i++)
        if (lo <= lasts[i] && hi > lasts[i]) {
            MICA_TRY(add_range(p, rule, lo, lasts[i]));
            return add_range(p, rule, lasts[i] + 1, hi);
        }
    for (int bits = 6; bits < 21 && hi > 0x7f; bits += 6) {
        const uint32_t mask = (1u << bits) - 1;
        if ((lo & ~mask) == (hi & ~mask))
            continue;
        if (lo & mask) {
            MICA_TRY(add_range(p, rule, lo, lo | mask));
            return add_range(p, rule, (lo | mask) + 1, hi);
        }
        if ((hi & mask) != mask) {
            MICA_TRY(add_range(p, rule, lo, (hi & ~mask) - 1));
            return add_range(p, rule, hi & ~mask, hi);
        }
    }
    char a[4], b[4];
    grammar_element items[4];
    const size_t n = mica_utf8_encode(lo, a);
    (void)mica_utf8_encode(hi, b);
    for (size_t i = 0; i < n; i++)
        items[i] = bytes((uint8_t)a[i], (uint8_t)b[i]);
    return add_alternative(p, rule, items, n);
}

/* Surrogates are no characters. */
static mica_status add_chars(parser *p, int32_t rule, uint32_t lo, uint32_t hi)
{
    if (lo < 0xd800 && hi >= 0xd800)
        MICA_TRY(add_range(p, rule, lo, 0xd7ff));
    if (lo <= 0xdfff && hi > 0xdfff)
        return add_range(p, rule, 0xe000, hi);
    if (hi < 0xd800 || lo > 0xdfff)
        return add_range(p, rule, lo, hi);
    return MICA_OK;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static mica_status read_hex(parser *p, int digits, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        const int d = p->at < p->end ? hex(*p->at) : -1;
        if (d < 0)
            return fail(p, "an escape lacks digits");
        *out = *out * 16 + (uint32_t)d;
    }
    return *out > LAST_CHAR ? fail(p, "an escape beyond the last character") : MICA_OK;
}

/* One character of a literal or class, escapes undone. */
static mica_status read_char(parser *p, uint32_t *cp)
{
    if (p->at >= p->end)
        return fail(p, "a literal or class does not end");
    if (*p->at != '\\') {
        p->at += mica_utf8_decode(p->at, (size_t)(p->end - p->at), cp);
        return MICA_OK;
    }
    const char c = p->at + 1 < p->end ? p->at[1] : 0;
    p->at += 2;
    switch (c) {
    case 'n':
        *cp = '\n';
        return MICA_OK;
    case 'r':
        *cp = '\r';
        return MICA_OK;
    case 't':
        *cp = '\t';
        return MICA_OK;
    case 'x':
        return read_hex(p, 2, cp);
    case 'u':
        return read_hex(p, 4, cp);
    case 'U':
        return read_hex(p, 8, cp);
    case '\\':
    case '"':
    case '[':
    case ']':
    case '-':
    case '^':
        *cp = (uint8_t)c;
        return MICA_OK;
    default:
        return fail(p, "an unknown escape");
    }
}

static mica_status literal(parser *p, sequence *s)
{
    p->at++;
    while (p->at < p->end && *p->at != '"') {
        uint32_t cp;
        char spelled[4];
        MICA_TRY(read_char(p, &cp));
        const size_t n = mica_utf8_encode(cp >= 0xd800 && cp <= 0xdfff ? 0xfffd : cp, spelled);
        for (size_t i = 0; i < n; i++)
            MICA_TRY(push(p, s, bytes((uint8_t)spelled[i], (uint8_t)spelled[i])));
    }
    if (p->at >= p->end)
        return fail(p, "a literal does not end");
    p->at++;
    return MICA_OK;
}

static mica_status read_ranges(parser *p, char_range *ranges, size_t *count)
{
    while (p->at < p->end && *p->at != ']') {
        if (*count == MOST_RANGES)
            return fail(p, "a class of too many ranges");
        char_range *r = &ranges[(*count)++];
        MICA_TRY(read_char(p, &r->lo));
        r->hi = r->lo;
        if (p->at + 1 < p->end && *p->at == '-' && p->at[1] != ']') {
            p->at++;
            MICA_TRY(read_char(p, &r->hi));
        }
        if (r->hi < r->lo)
            return fail(p, "a range that ends before it begins");
    }
    if (p->at >= p->end)
        return fail(p, "a class does not end");
    p->at++;
    return MICA_OK;
}

static int compare_ranges(const void *a, const void *b)
{
    const char_range *x = a, *y = b;
    return (x->lo > y->lo) - (x->lo < y->lo);
}

/* In order, none touching another: what a text fits in two ways doubles the state at every repetition. */
static size_t join_ranges(char_range *ranges, size_t count)
{
    size_t n = 0;
    qsort(ranges, count, sizeof *ranges, compare_ranges);
    for (size_t i = 0; i < count; i++)
        if (n > 0 && ranges[i].lo <= ranges[n - 1].hi + 1)
            ranges[n - 1].hi = MICA_MAX(ranges[n - 1].hi, ranges[i].hi);
        else
            ranges[n++] = ranges[i];
    return n;
}

/* What no range covers. */
static mica_status add_others(parser *p, int32_t rule, const char_range *ranges, size_t count)
{
    uint32_t next = 0;
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].lo > next)
            MICA_TRY(add_chars(p, rule, next, ranges[i].lo - 1));
        next = ranges[i].hi + 1;
    }
    return next <= LAST_CHAR ? add_chars(p, rule, next, LAST_CHAR) : MICA_OK;
}

static mica_status class(parser *p, sequence *s)
{
    char_range ranges[MOST_RANGES];
    size_t count = 0;
    int32_t rule = 0;
    const bool any = *p->at++ == '.';
    const bool others = any || (p->at < p->end && *p->at == '^');
    p->at += others && !any;
    if (!any)
        MICA_TRY(read_ranges(p, ranges, &count));
    count = join_ranges(ranges, count);
    if (!others && count == 1 && ranges[0].hi < 0x80)
        return push(p, s, bytes((uint8_t)ranges[0].lo, (uint8_t)ranges[0].hi));
    MICA_TRY(new_rule(p, NULL, 0, &rule));
    if (others)
        MICA_TRY(add_others(p, rule, ranges, count));
    for (size_t i = 0; i < count && !others; i++)
        MICA_TRY(add_chars(p, rule, ranges[i].lo, ranges[i].hi));
    if (!p->g->rules[rule].defined)
        return fail(p, "a class without characters");
    return push(p, s, call(rule));
}

/* --------------------------------------------------------------- alternatives -- */

static void blank(parser *p)
{
    for (; p->at < p->end; p->at++) {
        if (*p->at == '#')
            while (p->at + 1 < p->end && p->at[1] != '\n')
                p->at++;
        else if (!isspace((unsigned char)*p->at))
            return;
    }
}

static size_t name_size(const parser *p)
{
    size_t n = 0;
    while (p->at + n < p->end &&
           (isalnum((unsigned char)p->at[n]) || p->at[n] == '-' || p->at[n] == '_'))
        n++;
    return n;
}

/* A name that ::= follows begins the next rule. */
static bool at_definition(const parser *p)
{
    parser ahead = *p;
    ahead.at += name_size(p);
    blank(&ahead);
    return ahead.at > p->at && ahead.end - ahead.at >= 3 && memcmp(ahead.at, "::=", 3) == 0;
}

static mica_status alternatives(parser *p, int32_t rule);

static mica_status group(parser *p, sequence *s)
{
    int32_t rule = 0;
    p->at++;
    MICA_TRY(new_rule(p, NULL, 0, &rule));
    MICA_TRY(alternatives(p, rule));
    if (p->at >= p->end || *p->at != ')')
        return fail(p, "a group does not end");
    p->at++;
    return push(p, s, call(rule));
}

static mica_status read_count(parser *p, long *out)
{
    *out = 0;
    if (p->at >= p->end || !isdigit((unsigned char)*p->at))
        return fail(p, "a repetition without a number");
    for (; p->at < p->end && isdigit((unsigned char)*p->at); p->at++)
        *out = MICA_MIN(*out * 10 + (*p->at - '0'), MOST_REPEAT + 1L);
    return *out > MOST_REPEAT ? fail(p, "a repetition of more than 1000") : MICA_OK;
}

/* *most -1: any number. False: no repetition follows. */
static mica_status read_repeat(parser *p, bool *found, long *least, long *most)
{
    const char c = p->at < p->end ? *p->at : 0;
    *found = c == '*' || c == '+' || c == '?' || c == '{';
    *least = c == '+';
    *most = c == '?' ? 1 : -1;
    if (!*found)
        return MICA_OK;
    p->at++;
    if (c != '{')
        return MICA_OK;
    MICA_TRY(read_count(p, least));
    *most = *least;
    if (p->at < p->end && *p->at == ',') {
        p->at++;
        *most = -1;
        if (p->at < p->end && *p->at != '}')
            MICA_TRY(read_count(p, most));
    }
    if (p->at >= p->end || *p->at != '}' || (*most >= 0 && *most < *least))
        return fail(p, "a repetition that is not {m}, {m,} or {m,n}");
    p->at++;
    return MICA_OK;
}

/* The items from `first` on, repeated; they become a rule of their own. */
static mica_status repeat(parser *p, sequence *s, size_t first, long least, long most)
{
    int32_t item = 0, more = 0;
    MICA_TRY(new_rule(p, NULL, 0, &item));
    const bool nothing = s->count == first; /* an empty literal, the first item perhaps */
    MICA_TRY(add_alternative(p, item, nothing ? NULL : s->items + first, s->count - first));
    s->count = first;
    for (long i = 0; i < least; i++)
        MICA_TRY(push(p, s, call(item)));
    if (most < 0) { /* more ::= item more | nothing */
        MICA_TRY(new_rule(p, NULL, 0, &more));
        MICA_TRY(add_alternative(p, more, (grammar_element[]){call(item), call(more)}, 2));
        MICA_TRY(add_alternative(p, more, NULL, 0));
        return push(p, s, call(more));
    }
    for (long i = most; i > least; i--) { /* rule ::= item (rule of one less) | nothing */
        int32_t rule = 0;
        MICA_TRY(new_rule(p, NULL, 0, &rule));
        const grammar_element items[] = {call(item), call(more)};
        MICA_TRY(add_alternative(p, rule, items, i == most ? 1 : 2));
        MICA_TRY(add_alternative(p, rule, NULL, 0));
        more = rule;
    }
    return most > least ? push(p, s, call(more)) : MICA_OK;
}

static mica_status item(parser *p, sequence *s)
{
    const char c = *p->at;
    const size_t name = name_size(p);
    int32_t rule = 0;
    if (c == '"')
        return literal(p, s);
    if (c == '[' || c == '.')
        return class(p, s);
    if (c == '(')
        return group(p, s);
    if (name == 0)
        return fail(p, "neither a literal, a class, a name nor a group");
    MICA_TRY(find_rule(p, p->at, name, &rule));
    p->at += name;
    return push(p, s, call(rule));
}

static mica_status items(parser *p, sequence *s)
{
    for (blank(p); p->at < p->end && *p->at != '|' && *p->at != ')' && !at_definition(p);
         blank(p)) {
        const size_t first = s->count;
        bool again;
        long least, most;
        MICA_TRY(item(p, s));
        MICA_TRY(read_repeat(p, &again, &least, &most));
        if (again)
            MICA_TRY(repeat(p, s, first, least, most));
    }
    return MICA_OK;
}

static mica_status alternatives(parser *p, int32_t rule)
{
    if (++p->depth > MOST_DEPTH)
        return fail(p, "groups nested too deep");
    for (bool more = true; more;) {
        sequence s = {0};
        mica_status st = items(p, &s);
        if (!st)
            st = add_alternative(p, rule, s.items, s.count);
        mica_mem_free(s.items);
        MICA_TRY(st);
        more = p->at < p->end && *p->at == '|';
        p->at += more;
    }
    p->depth--;
    return MICA_OK;
}

static mica_status definition(parser *p)
{
    int32_t rule = 0;
    const size_t name = name_size(p);
    if (!at_definition(p))
        return fail(p, "expected NAME ::= ...");
    MICA_TRY(find_rule(p, p->at, name, &rule));
    if (p->g->rules[rule].defined)
        return fail(p, "a rule is defined twice");
    p->at += name;
    blank(p);
    p->at += 3;
    MICA_TRY(alternatives(p, rule));
    return p->at < p->end && *p->at == ')' ? fail(p, "a ) without a (") : MICA_OK;
}

/* -------------------------------------------------------------------- checks -- */

/* Whether a rule can begin with itself before any byte: then entering it would not end. */
typedef struct walker {
    const mica_grammar *g;
    uint8_t *state; /* 0 new, 1 being walked, 2 done */
    bool *nullable;
    int depth;
} walker;

static void find_nullable(walker *w)
{
    const mica_grammar *g = w->g;
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t i = 0; i < g->rule_count; i++)
            for (size_t k = 0; k < g->rules[i].count && !w->nullable[i]; k++) {
                const grammar_element *e = &g->elements[g->rules[i].starts[k]];
                while (e->kind == GRAMMAR_RULE && w->nullable[e->rule])
                    e++;
                if (e->kind == GRAMMAR_END)
                    w->nullable[i] = changed = true;
            }
    }
}

/* False: a cycle, or a chain too long to walk. */
static bool walk(walker *w, int32_t rule)
{
    if (w->state[rule])
        return w->state[rule] == 2;
    if (++w->depth > 400)
        return false;
    w->state[rule] = 1;
    for (size_t k = 0; k < w->g->rules[rule].count; k++) {
        const grammar_element *e = &w->g->elements[w->g->rules[rule].starts[k]];
        for (; e->kind == GRAMMAR_RULE; e++) {
            if (!walk(w, e->rule))
                return false;
            if (!w->nullable[e->rule])
                break;
        }
    }
    w->state[rule] = 2;
    w->depth--;
    return true;
}

static mica_status check_rules(parser *p)
{
    const mica_grammar *g = p->g;
    for (size_t i = 0; i < g->rule_count; i++)
        if (!g->rules[i].defined)
            return MICA_FAIL(p->err, MICA_E_USAGE, "%s: the rule \"%s\" is not defined", p->name,
                             g->rules[i].name);
    walker w = {.g = g,
                .state = mica_mem_calloc(g->rule_count, 1),
                .nullable = mica_mem_calloc(g->rule_count, sizeof(bool))};
    mica_status st = w.state && w.nullable ? MICA_OK : no_memory(p);
    if (!st)
        find_nullable(&w);
    for (size_t i = 0; i < g->rule_count && !st; i++) {
        w.depth = 0;
        if (!walk(&w, (int32_t)i))
            st = MICA_FAIL(p->err, MICA_E_USAGE,
                           "%s: the rule \"%s\" can begin with itself; write it so that it begins "
                           "with something else",
                           p->name, g->rules[i].name ? g->rules[i].name : "in parentheses");
    }
    mica_mem_free(w.state);
    mica_mem_free(w.nullable);
    return st;
}

void mica_grammar_close(mica_grammar **g)
{
    if (!g || !*g)
        return;
    for (size_t i = 0; i < (*g)->rule_count; i++) {
        mica_mem_free((*g)->rules[i].name);
        mica_mem_free((*g)->rules[i].starts);
    }
    mica_mem_free((*g)->rules);
    mica_mem_free((*g)->elements);
    mica_mem_free(*g);
    *g = NULL;
}

static mica_status parse(parser *p)
{
    if ((size_t)(p->end - p->text) > MICA_GRAMMAR_MAX_SIZE)
        return fail(p, "the grammar is too large");
    MICA_TRY(find_rule(p, "root", 4, &p->g->root));
    for (blank(p); p->at < p->end; blank(p))
        MICA_TRY(definition(p));
    return check_rules(p);
}

mica_status mica_grammar_parse(mica_grammar **out, const char *name, const char *text, size_t size,
                               mica_err *err)
{
    *out = mica_mem_calloc(1, sizeof **out);
    if (!*out)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its rules", name);
    parser p = {.g = *out, .name = name, .text = text, .at = text, .end = text + size, .err = err};
    const mica_status st = parse(&p);
    if (st)
        mica_grammar_close(out);
    return st;
}
