/* template_expression.c - expressions of chat templates, evaluated as they are read.
 *
 *     a if c else b    or and not    == != < <= > >= in is    + -    ~    * // %    x.y x['y'] x[a:b] f(...)  | filter
 *
 * Precedence is Jinja's. Both sides of everything are read; what the value does not depend on is read `dead`:
 * its failures do not count. */
#include "text/template_value.h"

#include <ctype.h>
#include <string.h>

static mica_status choice(template_run *t, template_value *out);

/* ------------------------------------------------------------------- tokens -- */

static bool is_name(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

void template_blank(template_run *t)
{
    while (*t->at == ' ' || *t->at == '\t' || *t->at == '\n' || *t->at == '\r')
        t->at++;
}

bool template_take(template_run *t, const char *token)
{
    const size_t n = strlen(token);
    template_blank(t);
    if (strncmp(t->at, token, n) != 0 || (is_name(token[n - 1]) && is_name(t->at[n])))
        return false;
    t->at += n;
    return true;
}

size_t template_name(template_run *t, const char **name)
{
    size_t n = 0;
    template_blank(t);
    *name = t->at;
    if (!isdigit((unsigned char)*t->at))
        while (is_name(t->at[n]))
            n++;
    t->at += n;
    return n;
}

/* "]}" and "%}" end a tag: an operator may not begin with them. */
static bool take_operator(template_run *t, const char *sign)
{
    template_blank(t);
    const bool ends_tag =
        *t->at == sign[0] && (t->at[1] == '}' || (sign[0] == '-' && t->at[1] == '%'));
    if (ends_tag)
        return false;
    return template_take(t, sign);
}

static mica_status expect(template_run *t, const char *token)
{
    if (template_take(t, token))
        return MICA_OK;
    return template_fail(t, MICA_E_UNSUPPORTED, "expected \"%s\" before \"%.12s\"", token, t->at);
}

/* --------------------------------------------------------- functions, methods -- */

static bool is_white(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static template_value strip(template_value v, bool left, bool right)
{
    while (left && v.count > 0 && is_white(*v.text)) {
        v.text++;
        v.count--;
    }
    while (right && v.count > 0 && is_white(v.text[v.count - 1]))
        v.count--;
    return v;
}

static mica_status in_case(template_run *t, template_value v, bool upper, template_value *out)
{
    char *copy = mica_arena_strndup(&t->arena, v.text, (size_t)v.count);
    if (!copy)
        return MICA_FAIL(t->err, MICA_E_NOMEM, "%s: no memory to render it", t->name);
    for (int64_t i = 0; i < v.count; i++)
        if ((unsigned char)copy[i] < 0x80)
            copy[i] =
                (char)(upper ? toupper((unsigned char)copy[i]) : tolower((unsigned char)copy[i]));
    *out = template_string(copy, (size_t)v.count);
    return MICA_OK;
}

static bool begins(const template_value *v, const template_value *with, bool at_end)
{
    return with->kind == TEMPLATE_STRING && with->count <= v->count &&
           memcmp(v->text + (at_end ? v->count - with->count : 0), with->text,
                  (size_t)with->count) == 0;
}

/* .strip() and its like; the opening parenthesis has been taken. */
static mica_status method(template_run *t, template_value *x, const char *name, size_t size)
{
    template_value argument = {0};
    if (!template_take(t, ")")) {
        MICA_TRY(choice(t, &argument));
        MICA_TRY(expect(t, ")"));
    }
    if (template_named(name, size, "get") && x->kind == TEMPLATE_MESSAGE &&
        argument.kind == TEMPLATE_STRING) {
        const template_value message = *x;
        return template_member(t, &message, argument.text, (size_t)argument.count, x);
    }
    if (x->kind != TEMPLATE_STRING)
        return template_mistake(t, "methods are known of strings alone");
    const bool bare = argument.kind == TEMPLATE_UNDEFINED;
    if (template_named(name, size, "strip") && bare)
        *x = strip(*x, true, true);
    else if (template_named(name, size, "lstrip") && bare)
        *x = strip(*x, true, false);
    else if (template_named(name, size, "rstrip") && bare)
        *x = strip(*x, false, true);
    else if (template_named(name, size, "startswith"))
        *x = template_boolean(begins(x, &argument, false));
    else if (template_named(name, size, "endswith"))
        *x = template_boolean(begins(x, &argument, true));
    else if (template_named(name, size, "upper") || template_named(name, size, "lower"))
        return in_case(t, *x, template_named(name, size, "upper"), x);
    else
        return template_fail(t, MICA_E_UNSUPPORTED, "the method \"%.*s\" is not known", (int)size,
                             name);
    return MICA_OK;
}

/* namespace(a=1, b='x') */
static mica_status make_namespace(template_run *t, template_value *out)
{
    const int id = ++t->namespaces;
    *out = (template_value){.kind = TEMPLATE_NAMESPACE, .number = id};
    for (bool first = true; !template_take(t, ")"); first = false) {
        const char *name;
        template_value value;
        if (!first)
            MICA_TRY(expect(t, ","));
        const size_t size = template_name(t, &name);
        MICA_TRY(expect(t, "="));
        MICA_TRY(choice(t, &value));
        if (!t->dead)
            MICA_TRY(template_set(t, name, size, -id, &value));
    }
    return MICA_OK;
}

static mica_status call(template_run *t, const char *name, size_t size, template_value *out)
{
    if (template_named(name, size, "namespace"))
        return make_namespace(t, out);
    if (!template_named(name, size, "raise_exception"))
        return template_fail(t, MICA_E_UNSUPPORTED, "the function \"%.*s\" is not known", (int)size,
                             name);
    MICA_TRY(choice(t, out));
    MICA_TRY(expect(t, ")"));
    if (t->dead)
        return MICA_OK;
    return template_fail(t, MICA_E_USAGE, "%.*s",
                         out->kind == TEMPLATE_STRING ? (int)out->count : 0,
                         out->text ? out->text : "");
}

static mica_status filter(template_run *t, template_value *x)
{
    const char *name;
    template_value argument = {0};
    const size_t size = template_name(t, &name);
    if (template_take(t, "(")) {
        MICA_TRY(choice(t, &argument));
        MICA_TRY(expect(t, ")"));
    }
    if (template_named(name, size, "trim") && x->kind == TEMPLATE_STRING)
        *x = strip(*x, true, true);
    else if (template_named(name, size, "length") || template_named(name, size, "count"))
        *x = template_number(x->kind == TEMPLATE_STRING ? x->count
                                                        : MICA_MAX(template_length(x), (int64_t)0));
    else if (template_named(name, size, "default")) {
        if (x->kind == TEMPLATE_UNDEFINED)
            *x = argument;
    } else if (template_named(name, size, "first") || template_named(name, size, "last")) {
        const int64_t n = template_length(x);
        *x = n > 0 ? template_item(x, name[0] == 'f' ? 0 : n - 1) : (template_value){0};
    } else if ((template_named(name, size, "upper") || template_named(name, size, "lower")) &&
               x->kind == TEMPLATE_STRING)
        return in_case(t, *x, template_named(name, size, "upper"), x);
    else if (template_named(name, size, "string")) {
        const template_value none = {0};
        return template_join(t, x, &none, x);
    } else if (!template_named(name, size, "list") && !t->dead)
        return template_fail(t, MICA_E_UNSUPPORTED, "the filter \"%.*s\" is not known here",
                             (int)size, name);
    return MICA_OK;
}

/* ------------------------------------------------------------------ postfix -- */

static int64_t clamp_index(int64_t i, int64_t n)
{
    i = i < 0 ? i + n : i;
    return i < 0 ? 0 : i > n ? n : i;
}

/* x[a:b] of a list of messages, an array or a string; a and b may be left out. */
static mica_status slice(template_run *t, template_value *x, const template_value *from)
{
    template_value to = {0};
    if (!template_take(t, "]")) {
        MICA_TRY(choice(t, &to));
        MICA_TRY(expect(t, "]"));
    }
    if (x->kind != TEMPLATE_MESSAGES && x->kind != TEMPLATE_ARRAY && x->kind != TEMPLATE_STRING)
        return template_mistake(t, "only lists and strings can be cut");
    const int64_t a = from->kind == TEMPLATE_INT ? clamp_index(from->number, x->count) : 0;
    const int64_t b = to.kind == TEMPLATE_INT ? clamp_index(to.number, x->count) : x->count;
    x->number += x->kind == TEMPLATE_MESSAGES ? a : 0;
    if (x->kind == TEMPLATE_ARRAY && a > 0) /* an empty one may have no items at all */
        x->items += a;
    if (x->kind == TEMPLATE_STRING && a > 0)
        x->text += a;
    x->count = MICA_MAX(b - a, (int64_t)0);
    return MICA_OK;
}

static mica_status subscript(template_run *t, template_value *x)
{
    template_value key = {0};
    if (template_take(t, ":"))
        return slice(t, x, &key);
    MICA_TRY(choice(t, &key));
    if (template_take(t, ":"))
        return slice(t, x, &key);
    MICA_TRY(expect(t, "]"));
    const template_value whole = *x;
    if (key.kind == TEMPLATE_STRING)
        return template_member(t, &whole, key.text, (size_t)key.count, x);
    const int64_t n = template_length(x), i = key.number < 0 ? key.number + n : key.number;
    if (n < 0 || key.kind != TEMPLATE_INT)
        return template_mistake(t, "a subscript that is neither a name nor a number of a list");
    *x = i >= 0 && i < n ? template_item(&whole, i) : (template_value){0};
    return MICA_OK;
}

static mica_status postfix(template_run *t, template_value *x)
{
    for (;;) {
        const char *name;
        if (++t->steps > TEMPLATE_STEPS)
            return template_fail(t, MICA_E_UNSUPPORTED, "the template does not end");
        if (template_take(t, "[")) {
            MICA_TRY(subscript(t, x));
        } else if (template_take(t, ".")) {
            const size_t size = template_name(t, &name);
            const template_value whole = *x;
            if (template_take(t, "("))
                MICA_TRY(method(t, x, name, size));
            else
                MICA_TRY(template_member(t, &whole, name, size, x));
        } else if (template_take(t, "|")) {
            MICA_TRY(filter(t, x));
        } else
            return MICA_OK;
    }
}

/* ------------------------------------------------------------------ primary -- */

/* A literal in quotes, escapes undone. */
static mica_status read_string(template_run *t, template_value *out)
{
    const char quote = *t->at++;
    const char *end = t->at;
    while (*end && *end != quote)
        end += *end == '\\' && end[1] ? 2 : 1;
    if (!*end)
        return template_fail(t, MICA_E_FORMAT, "a string does not end");
    char *copy = mica_arena_strndup(&t->arena, t->at, (size_t)(end - t->at));
    if (!copy)
        return MICA_FAIL(t->err, MICA_E_NOMEM, "%s: no memory to render it", t->name);
    size_t n = 0;
    for (const char *p = t->at; p < end; p++) {
        char c = *p;
        if (c == '\\' && p + 1 < end) {
            c = *++p;
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
        }
        copy[n++] = c;
    }
    t->at = end + 1;
    *out = template_string(copy, n);
    return MICA_OK;
}

/* ['a', 'b'] */
static mica_status read_array(template_run *t, template_value *out)
{
    template_value items[16];
    int64_t n = 0;
    while (!template_take(t, "]")) {
        if (n > 0)
            MICA_TRY(expect(t, ","));
        if (n == (int64_t)MICA_ARRAY_LEN(items))
            return template_fail(t, MICA_E_UNSUPPORTED, "a list of more than %d items", (int)n);
        MICA_TRY(choice(t, &items[n++]));
    }
    template_value *copy = mica_arena_calloc(&t->arena, (size_t)n + 1, sizeof *copy);
    if (!copy)
        return MICA_FAIL(t->err, MICA_E_NOMEM, "%s: no memory to render it", t->name);
    memcpy(copy, items, (size_t)n * sizeof *copy);
    *out = (template_value){.kind = TEMPLATE_ARRAY, .count = n, .items = copy};
    return MICA_OK;
}

static mica_status word(template_run *t, template_value *out)
{
    const char *name;
    const size_t size = template_name(t, &name);
    if (size == 0)
        return template_fail(t, MICA_E_UNSUPPORTED, "\"%.12s\" is no expression", t->at);
    if (template_named(name, size, "true") || template_named(name, size, "True"))
        *out = template_boolean(true);
    else if (template_named(name, size, "false") || template_named(name, size, "False"))
        *out = template_boolean(false);
    else if (template_named(name, size, "none") || template_named(name, size, "None"))
        *out = (template_value){.kind = TEMPLATE_NONE};
    else if (template_take(t, "("))
        return call(t, name, size, out);
    else
        *out = template_look_up(t, name, size, 0);
    return MICA_OK;
}

static mica_status primary(template_run *t, template_value *out)
{
    *out = (template_value){0};
    template_blank(t);
    if (++t->depth > TEMPLATE_DEPTH)
        return template_fail(t, MICA_E_UNSUPPORTED, "nested deeper than %d", TEMPLATE_DEPTH);
    mica_status st;
    if (*t->at == '\'' || *t->at == '"')
        st = read_string(t, out);
    else if (isdigit((unsigned char)*t->at)) {
        int64_t v = 0;
        for (; isdigit((unsigned char)*t->at); t->at++)
            v = v < 100000000 ? v * 10 + (*t->at - '0') : v;
        *out = template_number(v);
        st = MICA_OK;
    } else if (template_take(t, "(")) {
        st = choice(t, out);
        st = st ? st : expect(t, ")");
    } else if (template_take(t, "["))
        st = read_array(t, out);
    else
        st = word(t, out);
    t->depth--;
    return st ? st : postfix(t, out);
}

/* ---------------------------------------------------------------- operators -- */

static mica_status unary(template_run *t, template_value *out)
{
    if (!take_operator(t, "-"))
        return primary(t, out);
    MICA_TRY(primary(t, out));
    if (out->kind != TEMPLATE_INT)
        return template_mistake(t, "minus something that is no number");
    out->number = -out->number;
    return MICA_OK;
}

static mica_status arithmetic(template_run *t, char sign, const template_value *b,
                              template_value *a)
{
    if (sign == '~' || (sign == '+' && a->kind == TEMPLATE_STRING && b->kind == TEMPLATE_STRING)) {
        const template_value left = *a;
        return template_join(t, &left, b, a);
    }
    const bool numbers = (a->kind == TEMPLATE_INT || a->kind == TEMPLATE_BOOL) &&
                         (b->kind == TEMPLATE_INT || b->kind == TEMPLATE_BOOL);
    if (!numbers || ((sign == '%' || sign == '/') && b->number == 0))
        return template_mistake(t, "an operator between values that it does not join");
    const int64_t x = a->number, y = b->number;
    int64_t r = sign == '+' ? x + y : sign == '-' ? x - y : sign == '*' ? x * y : 0;
    if (sign == '%') /* as Python: the sign of the divisor */
        r = (x % y + y) % y;
    if (sign == '/')
        r = x / y - (x % y != 0 && (x < 0) != (y < 0));
    if (r > INT32_MAX || r < INT32_MIN)
        return template_mistake(t, "a number that is too large");
    *a = template_number(r);
    return MICA_OK;
}

static mica_status term(template_run *t, template_value *out)
{
    template_value b;
    MICA_TRY(unary(t, out));
    for (;;) {
        const char sign = take_operator(t, "//")  ? '/'
                          : take_operator(t, "*") ? '*'
                          : take_operator(t, "%") ? '%'
                                                  : 0;
        if (!sign)
            return MICA_OK;
        MICA_TRY(unary(t, &b));
        MICA_TRY(arithmetic(t, sign, &b, out));
    }
}

static mica_status sum(template_run *t, template_value *out)
{
    template_value b;
    MICA_TRY(term(t, out));
    for (;;) {
        const char sign = take_operator(t, "+")   ? '+'
                          : take_operator(t, "-") ? '-'
                          : take_operator(t, "~") ? '~'
                                                  : 0;
        if (!sign)
            return MICA_OK;
        MICA_TRY(term(t, &b));
        MICA_TRY(arithmetic(t, sign, &b, out));
    }
}

static mica_status contains(template_run *t, const template_value *in, template_value *x)
{
    bool found = false;
    if (in->kind == TEMPLATE_MESSAGE && x->kind == TEMPLATE_STRING) {
        found = template_named(x->text, (size_t)x->count, "role") ||
                template_named(x->text, (size_t)x->count, "content");
    } else if (in->kind == TEMPLATE_STRING && x->kind == TEMPLATE_STRING) {
        for (int64_t i = 0; !found && i + x->count <= in->count; i++)
            found = memcmp(in->text + i, x->text, (size_t)x->count) == 0;
    } else if (in->kind == TEMPLATE_ARRAY) {
        for (int64_t i = 0; i < in->count; i++)
            found |= template_equal(&in->items[i], x);
    } else if (in->kind != TEMPLATE_UNDEFINED)
        return template_mistake(t, "\"in\" something that is neither a list nor a string");
    *x = template_boolean(found);
    return MICA_OK;
}

static mica_status test(template_run *t, template_value *x)
{
    static const struct {
        const char *name;
        template_kind kind;
    } kinds[] = {{"undefined", TEMPLATE_UNDEFINED},
                 {"none", TEMPLATE_NONE},
                 {"string", TEMPLATE_STRING},
                 {"mapping", TEMPLATE_MESSAGE},
                 {"number", TEMPLATE_INT}};
    const char *name;
    const bool negated = template_take(t, "not");
    const size_t size = template_name(t, &name);
    bool result = false, known = true;
    size_t i = 0;
    while (i < MICA_ARRAY_LEN(kinds) && !template_named(name, size, kinds[i].name))
        i++;
    if (i < MICA_ARRAY_LEN(kinds))
        result = x->kind == kinds[i].kind;
    else if (template_named(name, size, "defined"))
        result = x->kind != TEMPLATE_UNDEFINED;
    else if (template_named(name, size, "true") || template_named(name, size, "false"))
        result = x->kind == TEMPLATE_BOOL && x->number == (name[0] == 't');
    else if (template_named(name, size, "iterable") || template_named(name, size, "sequence"))
        result = template_length(x) >= 0 || x->kind == TEMPLATE_STRING;
    else if (template_named(name, size, "odd") || template_named(name, size, "even"))
        result = (x->number % 2 != 0) == (name[0] == 'o');
    else
        known = false;
    if (!known)
        return template_fail(t, MICA_E_UNSUPPORTED, "the test \"%.*s\" is not known", (int)size,
                             name);
    *x = template_boolean(result != negated);
    return MICA_OK;
}

static mica_status order(template_run *t, const char *sign, const template_value *b,
                         template_value *a)
{
    if (a->kind != TEMPLATE_INT || b->kind != TEMPLATE_INT)
        return template_mistake(t, "an order of values that are not numbers");
    const int64_t x = a->number, y = b->number;
    *a = template_boolean(strcmp(sign, "<") == 0    ? x < y
                          : strcmp(sign, "<=") == 0 ? x <= y
                          : strcmp(sign, ">") == 0  ? x > y
                                                    : x >= y);
    return MICA_OK;
}

static mica_status comparison(template_run *t, template_value *out)
{
    static const char *const signs[] = {"==", "!=", "<=", ">=", "<", ">"};
    template_value b;
    MICA_TRY(sum(t, out));
    for (;;) {
        size_t i = 0;
        while (i < MICA_ARRAY_LEN(signs) && !template_take(t, signs[i]))
            i++;
        if (i < MICA_ARRAY_LEN(signs)) {
            MICA_TRY(sum(t, &b));
            if (i < 2)
                *out = template_boolean(template_equal(out, &b) == (i == 0));
            else
                MICA_TRY(order(t, signs[i], &b, out));
            continue;
        }
        const char *before = t->at;
        const bool negated = template_take(t, "not");
        if (template_take(t, "in")) {
            MICA_TRY(sum(t, &b));
            MICA_TRY(contains(t, &b, out));
            if (negated)
                *out = template_boolean(!out->number);
        } else if (!negated && template_take(t, "is")) {
            MICA_TRY(test(t, out));
        } else {
            t->at = before;
            return MICA_OK;
        }
    }
}

static mica_status negation(template_run *t, template_value *out)
{
    bool negated = false, any = false;
    while (template_take(t, "not")) {
        negated = !negated;
        any = true;
    }
    MICA_TRY(comparison(t, out));
    if (any)
        *out = template_boolean(template_truth(out) != negated);
    return MICA_OK;
}

/* `and`, `or` give one of their operands, as in Python. */
static mica_status conjunction(template_run *t, template_value *out)
{
    template_value b;
    MICA_TRY(negation(t, out));
    while (template_take(t, "and")) {
        const bool decided = !template_truth(out);
        t->dead += decided;
        MICA_TRY(negation(t, &b));
        t->dead -= decided;
        *out = decided ? *out : b;
    }
    return MICA_OK;
}

static mica_status disjunction(template_run *t, template_value *out)
{
    template_value b;
    MICA_TRY(conjunction(t, out));
    while (template_take(t, "or")) {
        const bool decided = template_truth(out);
        t->dead += decided;
        MICA_TRY(conjunction(t, &b));
        t->dead -= decided;
        *out = decided ? *out : b;
    }
    return MICA_OK;
}

/* a if c else b: a is read before c decides, so it is read again when it counts. */
static mica_status choice(template_run *t, template_value *out)
{
    const char *start = t->at;
    template_value condition, other = {0};
    if (++t->depth > TEMPLATE_DEPTH || ++t->steps > TEMPLATE_STEPS)
        return template_fail(t, MICA_E_UNSUPPORTED, "nested deeper than %d, or without end",
                             TEMPLATE_DEPTH);
    t->dead++;
    MICA_TRY(disjunction(t, out));
    t->dead--;
    const char *end = t->at;
    bool chosen = true;
    if (template_take(t, "if")) {
        MICA_TRY(disjunction(t, &condition));
        chosen = template_truth(&condition);
        if (template_take(t, "else")) {
            t->dead += chosen;
            MICA_TRY(choice(t, &other));
            t->dead -= chosen;
        }
        end = t->at;
    }
    if (chosen && !t->dead) {
        t->at = start;
        MICA_TRY(disjunction(t, out));
        t->at = end;
    } else if (!chosen)
        *out = other;
    t->depth--;
    return MICA_OK;
}

mica_status template_expression(template_run *t, template_value *out)
{
    return choice(t, out);
}
