/* template_value.c - values of chat templates: made, compared, printed, looked up by name. */
#include "text/template_value.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

mica_status template_fail(template_run *t, mica_status status, const char *format, ...)
{
    char text[256];
    int line = 1;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (const char *p = t->source; p < t->at; p++)
        line += *p == '\n';
    return MICA_FAIL(t->err, status, "%s:%d: %s", t->name, line, text);
}

/* ------------------------------------------------------------------- values -- */

template_value template_boolean(bool v)
{
    return (template_value){.kind = TEMPLATE_BOOL, .number = v};
}

template_value template_number(int64_t v)
{
    return (template_value){.kind = TEMPLATE_INT, .number = v};
}

template_value template_string(const char *text, size_t size)
{
    return (template_value){.kind = TEMPLATE_STRING, .text = text, .count = (int64_t)size};
}

template_value template_c_string(const char *text)
{
    return template_string(text ? text : "", text ? strlen(text) : 0);
}

bool template_truth(const template_value *v)
{
    switch (v->kind) {
    case TEMPLATE_UNDEFINED:
    case TEMPLATE_NONE:
        return false;
    case TEMPLATE_BOOL:
    case TEMPLATE_INT:
        return v->number != 0;
    case TEMPLATE_STRING:
    case TEMPLATE_MESSAGES:
    case TEMPLATE_ARRAY:
        return v->count > 0;
    default:
        return true;
    }
}

int64_t template_length(const template_value *v)
{
    return v->kind == TEMPLATE_MESSAGES || v->kind == TEMPLATE_ARRAY ? v->count : -1;
}

template_value template_item(const template_value *v, int64_t i)
{
    if (v->kind == TEMPLATE_ARRAY)
        return v->items[i];
    return (template_value){.kind = TEMPLATE_MESSAGE, .number = v->number + i};
}

bool template_equal(const template_value *a, const template_value *b)
{
    const bool numbers = (a->kind == TEMPLATE_INT || a->kind == TEMPLATE_BOOL) &&
                         (b->kind == TEMPLATE_INT || b->kind == TEMPLATE_BOOL);
    if (numbers)
        return a->number == b->number;
    if (a->kind != b->kind)
        return false;
    if (a->kind == TEMPLATE_STRING)
        return a->count == b->count && memcmp(a->text, b->text, (size_t)a->count) == 0;
    return a->kind == TEMPLATE_NONE || a->kind == TEMPLATE_UNDEFINED ||
           (a->number == b->number && a->count == b->count);
}

mica_status template_mistake(template_run *t, const char *what)
{
    return t->dead ? MICA_OK : template_fail(t, MICA_E_UNSUPPORTED, "%s", what);
}

mica_status template_print(template_run *t, const template_value *v)
{
    switch (v->kind) {
    case TEMPLATE_UNDEFINED:
        return MICA_OK;
    case TEMPLATE_NONE:
        mica_text_add(t->out, "None");
        return MICA_OK;
    case TEMPLATE_BOOL:
        mica_text_add(t->out, "%s", v->number ? "True" : "False");
        return MICA_OK;
    case TEMPLATE_INT:
        mica_text_add(t->out, "%lld", (long long)v->number);
        return MICA_OK;
    case TEMPLATE_STRING:
        mica_text_add_bytes(t->out, v->text, (size_t)v->count);
        return MICA_OK;
    default:
        return template_mistake(t, "a list or a message cannot be printed");
    }
}

mica_status template_join(template_run *t, const template_value *a, const template_value *b,
                          template_value *out)
{
    mica_text made = {0}, *kept = t->out;
    t->out = &made;
    mica_status st = template_print(t, a);
    if (!st)
        st = template_print(t, b);
    t->out = kept;
    const char *copy = mica_arena_strndup(&t->arena, made.size ? made.data : "", made.size);
    *out = template_string(copy, made.size);
    if (!st && (made.failed || !copy))
        st = MICA_FAIL(t->err, MICA_E_NOMEM, "%s: no memory to render it", t->name);
    mica_text_deinit(&made);
    return st;
}

/* ---------------------------------------------------------------- variables -- */

mica_status template_set(template_run *t, const char *name, size_t size, int scope,
                         const template_value *value)
{
    for (int i = t->variable_count - 1; i >= 0; i--) {
        template_variable *v = &t->variables[i];
        if (v->scope == scope && v->size == size && memcmp(v->name, name, size) == 0) {
            v->value = *value;
            return MICA_OK;
        }
    }
    if (t->variable_count == TEMPLATE_VARIABLES)
        return template_fail(t, MICA_E_UNSUPPORTED, "more than %d variables", TEMPLATE_VARIABLES);
    t->variables[t->variable_count++] = (template_variable){name, size, scope, *value};
    return MICA_OK;
}

bool template_named(const char *name, size_t size, const char *known)
{
    return strlen(known) == size && memcmp(name, known, size) == 0;
}

/* scope 0: any that is open. */
template_value template_look_up(const template_run *t, const char *name, size_t size, int scope)
{
    for (int i = t->variable_count - 1; i >= 0; i--) {
        const template_variable *v = &t->variables[i];
        const bool here = scope < 0 ? v->scope == scope : v->scope >= 0;
        if (here && v->size == size && memcmp(v->name, name, size) == 0)
            return v->value;
    }
    if (scope < 0)
        return (template_value){0};
    if (template_named(name, size, "messages"))
        return (template_value){.kind = TEMPLATE_MESSAGES, .count = t->input->count};
    if (template_named(name, size, "bos_token"))
        return template_c_string(t->input->bos);
    if (template_named(name, size, "eos_token"))
        return template_c_string(t->input->eos);
    if (template_named(name, size, "add_generation_prompt"))
        return template_boolean(t->input->add_generation_prompt);
    return (template_value){0};
}

static template_value loop_member(const template_value *loop, const char *name, size_t size)
{
    if (template_named(name, size, "index0"))
        return template_number(loop->number);
    if (template_named(name, size, "index"))
        return template_number(loop->number + 1);
    if (template_named(name, size, "first"))
        return template_boolean(loop->number == 0);
    if (template_named(name, size, "last"))
        return template_boolean(loop->number + 1 == loop->count);
    if (template_named(name, size, "length"))
        return template_number(loop->count);
    if (template_named(name, size, "revindex0"))
        return template_number(loop->count - 1 - loop->number);
    return (template_value){0};
}

/* x.name and x['name'] */
mica_status template_member(template_run *t, const template_value *x, const char *name, size_t size,
                            template_value *out)
{
    *out = (template_value){0};
    if (x->kind == TEMPLATE_MESSAGE) {
        const mica_message *m = &t->input->messages[x->number];
        if (template_named(name, size, "role"))
            *out = template_c_string(m->role);
        if (template_named(name, size, "content"))
            *out = template_c_string(m->content);
        return MICA_OK;
    }
    if (x->kind == TEMPLATE_LOOP)
        *out = loop_member(x, name, size);
    else if (x->kind == TEMPLATE_NAMESPACE)
        *out = template_look_up(t, name, size, (int)-x->number);
    else
        return template_mistake(t, "only messages, loops and namespaces have members");
    return MICA_OK;
}
