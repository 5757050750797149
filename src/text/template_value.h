/* template_value.h - values of a chat template while it is rendered (template_value.c); between chat_template.c
 * (tags) and template_expression.c (what stands inside them). */
#ifndef MICA_TEXT_TEMPLATE_VALUE_H
#define MICA_TEXT_TEMPLATE_VALUE_H

#include "base/arena.h"
#include "text/chat_template.h"

typedef enum template_kind {
    TEMPLATE_UNDEFINED = 0,
    TEMPLATE_NONE,
    TEMPLATE_BOOL,
    TEMPLATE_INT,
    TEMPLATE_STRING,
    TEMPLATE_MESSAGES, /* messages[number .. number + count) */
    TEMPLATE_MESSAGE,  /* messages[number] */
    TEMPLATE_ARRAY,    /* items[0 .. count) */
    TEMPLATE_LOOP,     /* round `number` of `count` */
    TEMPLATE_NAMESPACE /* variables of scope -number */
} template_kind;

typedef struct template_value {
    template_kind kind;
    int64_t number, count; /* BOOL, INT; STRING: count is its size */
    const char *text;
    const struct template_value *items;
} template_value;

typedef struct template_variable {
    const char *name;
    size_t size;
    int scope; /* loops nest; negative: of a namespace */
    template_value value;
} template_variable;

#define TEMPLATE_VARIABLES 128
#define TEMPLATE_DEPTH     32      /* of nested tags, and of parentheses */
#define TEMPLATE_STEPS     2000000 /* tags and operators: what no conversation needs */

typedef struct template_run {
    const char *name, *source; /* NUL-terminated */
    const char *at;            /* inside a tag: what is read next */
    const mica_chat_input *input;
    mica_arena arena; /* strings that are made */
    template_variable variables[TEMPLATE_VARIABLES];
    int variable_count, scope, namespaces, depth, steps;
    int dead; /* above 0: the part is read but its result is not wanted, and nothing in it fails */
    mica_text *out;
    mica_err *err;
} template_run;

/* "NAME:LINE: ..." */
mica_status template_fail(template_run *t, mica_status status, const char *format, ...)
    MICA_PRINTF(3, 4);
void template_blank(template_run *t);
/* The name or sign that comes next, taken when it is there. */
bool template_take(template_run *t, const char *token);
/* A name; size 0: none. */
size_t template_name(template_run *t, const char **name);
mica_status template_expression(template_run *t, template_value *out);
bool template_truth(const template_value *v);
mica_status template_set(template_run *t, const char *name, size_t size, int scope,
                         const template_value *value);
/* Appends what {{ }} prints. */
mica_status template_print(template_run *t, const template_value *v);
/* Item i of anything a loop walks over; count: how many there are, -1: not to be walked. */
int64_t template_length(const template_value *v);
template_value template_item(const template_value *v, int64_t i);

template_value template_boolean(bool v);
template_value template_number(int64_t v);
template_value template_string(const char *text, size_t size); /* not copied */
template_value template_c_string(const char *text);            /* NULL: "" */
bool template_equal(const template_value *a, const template_value *b);
/* A failure with that text, but not where the run is dead. */
mica_status template_mistake(template_run *t, const char *what);
/* What printing both one behind the other would give. */
mica_status template_join(template_run *t, const template_value *a, const template_value *b,
                          template_value *out);
/* Whether the name is `known`. */
bool template_named(const char *name, size_t size, const char *known);
/* A variable; scope 0: of any that is open; negative: of a namespace. UNDEFINED: there is none. */
template_value template_look_up(const template_run *t, const char *name, size_t size, int scope);
/* x.name and x['name'] */
mica_status template_member(template_run *t, const template_value *x, const char *name, size_t size,
                            template_value *out);

#endif
