/* json_grammar.c - see json_grammar.h.
 *
 *     {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"$ref": "#"}}, "required": ["a"]}
 *         root ::= "{" ws o0f0 ws "}"          o0f0 ::= o0m0 o0c1      o0m0 ::= "\"a\"" ws ":" ws integer
 *         ref0 ::= "{" ws o1f0 ws "}"          o0c1 ::= ws "," ws o0m1 | ""      o0m1 ::= "\"b\"" ws ":" ws ref0
 *
 * A member has a rule of its own, and where it is not required two for what follows: as the first one (f), or
 * behind a comma (c). A schema that is referred to is a rule too, so it may hold itself. White space between
 * tokens is at most one blank or a line break with blanks, so that a model cannot write blanks without end. */
#include "sample/json_grammar.h"

#include "sample/json_keywords.h"
#include "sample/json_pattern.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MOST_DEPTH 64
#define MOST_REFS  256
#define MOST_BYTES ((size_t)1 << 20) /* of a grammar */

static const char BASE[] =
    "ws ::= \"\" | \" \" | \"\\n\" [ \\t]{0,20}\n"
    "char ::= [^\"\\\\\\x00-\\x1f\\x7f] | \"\\\\\" ([\"\\\\/bfnrt] | \"u\" [0-9a-fA-F]{4})\n"
    "string ::= \"\\\"\" char* \"\\\"\"\n"
    "integer ::= \"-\"? (\"0\" | [1-9] [0-9]{0,15})\n"
    "number ::= integer (\".\" [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?\n"
    "boolean ::= \"true\" | \"false\"\n"
    "null ::= \"null\"\n"
    "value ::= object | array | string | number | boolean | null\n"
    "object ::= \"{\" ws (string ws \":\" ws value (ws \",\" ws string ws \":\" ws value)*)? ws "
    "\"}\"\n"
    "array ::= \"[\" ws (value (ws \",\" ws value)*)? ws \"]\"\n";

typedef struct writer {
    const mica_json *j;
    mica_text more; /* rules beside the one that is written */
    int objects, arrays, depth;
    const cJSON *refs[MOST_REFS]; /* what ref0, ref1, ... stand for */
    int ref_count;
    mica_err *err;
} writer;

static mica_status refuse(const writer *w, const char *what, const char *name)
{
    return mica_json_refuse(w->err, what, name);
}

/* The text as a literal of the grammar's language. */
static void add_literal(mica_text *out, const char *text)
{
    mica_text_add(out, "\"");
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            mica_text_add(out, "\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            mica_text_add(out, "\\x%02x", (unsigned)(unsigned char)*text);
        else
            mica_text_add_bytes(out, text, 1);
    }
    mica_text_add(out, "\"");
}

static mica_status add_json_literal(const writer *w, mica_text *out, const cJSON *value)
{
    char *text = cJSON_PrintUnformatted(value);
    if (!text)
        return MICA_FAIL(w->err, MICA_E_NOMEM, "json schema: no memory");
    add_literal(out, text);
    cJSON_free(text);
    return MICA_OK;
}

/* An expression of the grammar for a schema. */
static mica_status expression(writer *w, const cJSON *schema, mica_text *out);

static mica_status choice_of(writer *w, const cJSON *list, mica_text *out)
{
    if (!cJSON_IsArray(list) || !list->child)
        return refuse(w, "an empty", list->string);
    mica_text_add(out, "(");
    for (const cJSON *item = list->child; item; item = item->next) {
        mica_text_add(out, item == list->child ? "" : " | ");
        MICA_TRY(expression(w, item, out));
    }
    mica_text_add(out, ")");
    return MICA_OK;
}

/* --------------------------------------------------------------------- values -- */

static bool is_of_type(const cJSON *value, const char *type)
{
    const bool number = cJSON_IsNumber(value);
    return (strcmp(type, "string") == 0 && cJSON_IsString(value)) ||
           (strcmp(type, "number") == 0 && number) ||
           (strcmp(type, "integer") == 0 && number &&
            value->valuedouble == floor(value->valuedouble)) ||
           (strcmp(type, "boolean") == 0 && cJSON_IsBool(value)) ||
           (strcmp(type, "null") == 0 && cJSON_IsNull(value)) ||
           (strcmp(type, "array") == 0 && cJSON_IsArray(value)) ||
           (strcmp(type, "object") == 0 && cJSON_IsObject(value));
}

/* A type beside the values leaves those of it. */
static bool fits_types(const cJSON *value, const cJSON *type)
{
    bool fits = !type || (cJSON_IsString(type) && is_of_type(value, type->valuestring));
    for (const cJSON *t = cJSON_IsArray(type) ? type->child : NULL; t && !fits; t = t->next)
        fits = cJSON_IsString(t) && is_of_type(value, t->valuestring);
    return fits;
}

static mica_status one_of_values(writer *w, const cJSON *list, const cJSON *type, mica_text *out)
{
    bool any = false;
    mica_text_add(out, "(");
    for (const cJSON *item = cJSON_IsArray(list) ? list->child : NULL; item; item = item->next)
        if (fits_types(item, type)) {
            mica_text_add(out, any ? " | " : "");
            MICA_TRY(add_json_literal(w, out, item));
            any = true;
        }
    mica_text_add(out, ")");
    return any ? MICA_OK : refuse(w, "without a value that fits, the keyword", "enum");
}

/* The items' schema as a rule, so that arrays in arrays do not double with each. */
static mica_status item_rule(writer *w, const cJSON *items, char name[16])
{
    mica_text one = {0};
    snprintf(name, 16, "a%d", w->arrays++);
    const mica_status st = expression(w, items, &one);
    mica_text_add(&w->more, "%s ::= ", name);
    mica_text_add_bytes(&w->more, one.data ? one.data : "", one.size);
    mica_text_add(&w->more, "\n");
    const bool failed = one.failed;
    mica_text_deinit(&one);
    return !st && failed ? MICA_FAIL(w->err, MICA_E_NOMEM, "json schema: no memory") : st;
}

/* -------------------------------------------------------------------- objects -- */

static bool is_required(const cJSON *schema, const char *name)
{
    const cJSON *list = mica_json_find(schema, "required");
    for (const cJSON *item = cJSON_IsArray(list) ? list->child : NULL; item; item = item->next)
        if (cJSON_IsString(item) && strcmp(item->valuestring, name) == 0)
            return true;
    return false;
}

/* property NULL: any value. */
static mica_status member(writer *w, const cJSON *property, const char *name, mica_text *out)
{
    mica_text spelled = {0};
    mica_text_add_json_string(&spelled, name);
    mica_status st =
        spelled.failed ? MICA_FAIL(w->err, MICA_E_NOMEM, "json schema: no memory") : MICA_OK;
    if (!st) {
        add_literal(out, spelled.data);
        mica_text_add(out, property ? " ws \":\" ws " : " ws \":\" ws value");
        if (property)
            st = expression(w, property, out);
    }
    mica_text_deinit(&spelled);
    return st;
}

/* The rules of one member: oNmK is itself, oNfK all from it on when nothing stands before, oNcK likewise
 * behind a member. */
static void add_member_rules(writer *w, const char *text, int object, int k, bool needed, bool last)
{
    mica_text *out = &w->more;
    mica_text_add(out, "o%dm%d ::= ", object, k);
    mica_text_add_bytes(out, text, strlen(text));
    for (int comma = 0; comma < 2; comma++) {
        const char kind = comma ? 'c' : 'f';
        mica_text_add(out, "\no%d%c%d ::= %so%dm%d", object, kind, k, comma ? "ws \",\" ws " : "",
                      object, k);
        if (!last)
            mica_text_add(out, " o%dc%d", object, k + 1);
        if (!needed && last)
            mica_text_add(out, " | \"\"");
        else if (!needed)
            mica_text_add(out, " | o%d%c%d", object, kind, k + 1);
    }
    mica_text_add(out, "\n");
}

/* One member, or one for a required name that has no schema. */
static mica_status add_member(writer *w, const cJSON *property, const char *name, int object, int k,
                              bool needed, bool last)
{
    mica_text text = {0};
    const mica_status st = member(w, property, name, &text);
    if (!st && !text.failed)
        add_member_rules(w, text.data, object, k, needed, last);
    const bool failed = text.failed;
    mica_text_deinit(&text);
    return !st && failed ? MICA_FAIL(w->err, MICA_E_NOMEM, "json schema: no memory") : st;
}

/* The next required name behind `item` that `properties` lack. */
static const cJSON *next_bare(const cJSON *item, const cJSON *properties)
{
    while (item &&
           (!cJSON_IsString(item) || (properties && mica_json_find(properties, item->valuestring))))
        item = item->next;
    return item;
}

/* Names of any text, values of one schema. */
static mica_status map(writer *w, const cJSON *values, mica_text *out)
{
    char item[16];
    MICA_TRY(item_rule(w, values, item));
    mica_text_add(out,
                  "\"{\" ws (string ws \":\" ws %s (ws \",\" ws string ws \":\" ws %s)* ws)? \"}\"",
                  item, item);
    return MICA_OK;
}

static mica_status object(writer *w, const cJSON *schema, mica_text *out)
{
    const cJSON *properties = mica_json_find(schema, "properties");
    const cJSON *required = mica_json_find(schema, "required");
    const cJSON *others = mica_json_find(schema, "additionalProperties");
    if (properties && !cJSON_IsObject(properties))
        return refuse(w, "what is no object as", "properties");
    if (required && !cJSON_IsArray(required))
        return refuse(w, "what is no list as", "required");
    const cJSON *p = properties ? properties->child : NULL;
    const cJSON *bare = next_bare(required ? required->child : NULL, properties);
    if (bare && others && !cJSON_IsTrue(others))
        return refuse(w, "without a schema of it, the required member", bare->valuestring);
    if (!p && !bare && cJSON_IsObject(others))
        return map(w, others, out);
    if (!p && !bare) {
        mica_text_add(out, cJSON_IsFalse(others) ? "\"{\" ws \"}\"" : "object");
        return MICA_OK;
    }
    const int index = w->objects++;
    int k = 0;
    for (; p; p = p->next)
        MICA_TRY(add_member(w, p, p->string, index, k++, is_required(schema, p->string),
                            !p->next && !bare));
    while (bare) {
        const cJSON *next = next_bare(bare->next, properties);
        MICA_TRY(add_member(w, NULL, bare->valuestring, index, k++, true, !next));
        bare = next;
    }
    mica_text_add(out, "\"{\" ws o%df0 ws \"}\"", index);
    return MICA_OK;
}

/* --------------------------------------------------------------------- others -- */

static mica_status limits(const writer *w, const cJSON *schema, const char *least, const char *most,
                          int64_t *lo, int64_t *hi)
{
    *lo = 0;
    *hi = -1;
    MICA_TRY(mica_json_opt_int(w->j, schema, least, 0, 1000, lo, w->err));
    MICA_TRY(mica_json_opt_int(w->j, schema, most, 0, 1000, hi, w->err));
    if (*hi >= 0 && *hi < *lo)
        return refuse(w, "a limit below the least", most);
    return MICA_OK;
}

/* Exactly these items, one after the other. */
static mica_status tuple(writer *w, const cJSON *items, int64_t lo, int64_t hi, mica_text *out)
{
    int64_t count = 0;
    mica_text_add(out, "\"[\" ws ");
    for (const cJSON *i = cJSON_IsArray(items) ? items->child : NULL; i; i = i->next, count++) {
        mica_text_add(out, count ? "\",\" ws " : "");
        MICA_TRY(expression(w, i, out));
        mica_text_add(out, " ws ");
    }
    mica_text_add(out, "\"]\"");
    if (count == 0 || lo > count || (hi >= 0 && hi < count))
        return refuse(w, "without as many items as the limits ask for,", items->string);
    return MICA_OK;
}

static mica_status array(writer *w, const cJSON *schema, mica_text *out)
{
    const cJSON *items = mica_json_find(schema, "items");
    const cJSON *first = mica_json_find(schema, "prefixItems");
    char item[16] = "value";
    int64_t lo, hi;
    MICA_TRY(limits(w, schema, "minItems", "maxItems", &lo, &hi));
    if (first || cJSON_IsArray(items))
        return tuple(w, first ? first : items, lo, hi, out);
    if (items)
        MICA_TRY(item_rule(w, items, item));
    mica_text_add(out, "\"[\" ws ");
    if (hi != 0) {
        mica_text_add(out, "(%s (ws \",\" ws %s)", item, item);
        if (hi < 0)
            mica_text_add(out, "{%d,}", (int)MICA_MAX(lo - 1, (int64_t)0));
        else
            mica_text_add(out, "{%d,%d}", (int)MICA_MAX(lo - 1, (int64_t)0), (int)(hi - 1));
        mica_text_add(out, lo == 0 ? ")? " : ") ");
    }
    mica_text_add(out, "ws \"]\"");
    return MICA_OK;
}

static mica_status string(writer *w, const cJSON *schema, mica_text *out)
{
    const cJSON *pattern = mica_json_find(schema, "pattern");
    const cJSON *format = mica_json_find(schema, "format");
    int64_t lo, hi;
    MICA_TRY(limits(w, schema, "minLength", "maxLength", &lo, &hi));
    if ((pattern || format) && ((pattern && format) || lo > 0 || hi >= 0))
        return refuse(w, "beside other limits, the keyword", pattern ? "pattern" : "format");
    if (pattern && !cJSON_IsString(pattern))
        return refuse(w, "what is no text as", "pattern");
    if (pattern)
        return mica_json_pattern(pattern->valuestring, out, w->err);
    if (format) {
        const char *name = cJSON_IsString(format) ? format->valuestring : "";
        const char *of_name = mica_json_format(name);
        return of_name ? mica_json_pattern(of_name, out, w->err) : refuse(w, "the format", name);
    }
    if (lo == 0 && hi < 0)
        mica_text_add(out, "string");
    else if (hi < 0)
        mica_text_add(out, "\"\\\"\" char{%d,} \"\\\"\"", (int)lo);
    else
        mica_text_add(out, "\"\\\"\" char{%d,%d} \"\\\"\"", (int)lo, (int)hi);
    return MICA_OK;
}

/* A bound as a whole number: the least (`up`) or greatest that keeps it. *found: there is one. */
static mica_status bound(writer *w, const cJSON *schema, const char *key, bool up, bool whole,
                         bool exclusive, int64_t *out, bool *found)
{
    const cJSON *value = mica_json_find(schema, key);
    if (!value)
        return MICA_OK;
    if (!cJSON_IsNumber(value) || fabs(value->valuedouble) > 9007199254740992.0)
        return refuse(w, "what is no number up to 2^53 as", key);
    const double x = value->valuedouble, nearest = up ? ceil(x) : floor(x);
    if (!whole && (nearest != x || exclusive))
        return refuse(w, "of a number, a bound that is not whole and included:", key);
    const int64_t n = (int64_t)nearest + (exclusive && nearest == x ? (up ? 1 : -1) : 0);
    *out = *found ? (up ? MICA_MAX(*out, n) : MICA_MIN(*out, n)) : n;
    *found = true;
    return MICA_OK;
}

static mica_status number(writer *w, const cJSON *schema, bool whole, mica_text *out)
{
    int64_t lo = -MICA_JSON_MOST_NUMBER, hi = MICA_JSON_MOST_NUMBER;
    bool low = false, high = false;
    MICA_TRY(bound(w, schema, "minimum", true, whole, false, &lo, &low));
    MICA_TRY(bound(w, schema, "exclusiveMinimum", true, whole, true, &lo, &low));
    MICA_TRY(bound(w, schema, "maximum", false, whole, false, &hi, &high));
    MICA_TRY(bound(w, schema, "exclusiveMaximum", false, whole, true, &hi, &high));
    if (lo > hi)
        return refuse(w, "a limit below the least", "maximum");
    if (low || high)
        mica_json_range(lo, hi, !whole, out);
    else
        mica_text_add(out, whole ? "integer" : "number");
    return MICA_OK;
}

static mica_status of_type(writer *w, const cJSON *schema, const char *type, mica_text *out)
{
    static const char *const plain[] = {"boolean", "null"};
    const bool whole = strcmp(type, "integer") == 0;
    if (whole || strcmp(type, "number") == 0)
        return number(w, schema, whole, out);
    for (size_t i = 0; i < MICA_ARRAY_LEN(plain); i++)
        if (strcmp(type, plain[i]) == 0) {
            mica_text_add(out, "%s", type);
            return MICA_OK;
        }
    if (strcmp(type, "object") == 0)
        return object(w, schema, out);
    if (strcmp(type, "array") == 0)
        return array(w, schema, out);
    return strcmp(type, "string") == 0 ? string(w, schema, out) : refuse(w, "type", type);
}

static mica_status of_types(writer *w, const cJSON *schema, const cJSON *types, mica_text *out)
{
    mica_text_add(out, "(");
    for (const cJSON *t = types->child; t; t = t->next) {
        if (!cJSON_IsString(t))
            return refuse(w, "a type that is no text in", "type");
        mica_text_add(out, t == types->child ? "" : " | ");
        MICA_TRY(of_type(w, schema, t->valuestring, out));
    }
    mica_text_add(out, ")");
    return MICA_OK;
}

/* The rule of a schema that is referred to; written when the others are. */
static mica_status ref_rule(writer *w, const cJSON *schema, mica_text *out)
{
    int i = 0;
    while (i < w->ref_count && w->refs[i] != schema)
        i++;
    if (i == MOST_REFS)
        return MICA_FAIL(w->err, MICA_E_UNSUPPORTED, "json schema: more than %d references",
                         MOST_REFS);
    w->refs[i] = schema;
    w->ref_count = MICA_MAX(w->ref_count, i + 1);
    mica_text_add(out, "ref%d", i);
    return MICA_OK;
}

/* "#", "#/$defs/name" or "#/definitions/name". */
static mica_status reference(writer *w, const char *path, mica_text *out)
{
    const char *const folders[] = {"$defs", "definitions"};
    if (strcmp(path, "#") == 0)
        return ref_rule(w, w->j->root, out);
    for (size_t i = 0; i < MICA_ARRAY_LEN(folders); i++) {
        const size_t n = strlen(folders[i]);
        if (strncmp(path, "#/", 2) != 0 || strncmp(path + 2, folders[i], n) != 0 ||
            path[2 + n] != '/')
            continue;
        const cJSON *folder = mica_json_find(w->j->root, folders[i]);
        const cJSON *found = folder ? mica_json_find(folder, path + 3 + n) : NULL;
        if (found)
            return ref_rule(w, found, out);
    }
    return refuse(w, "the reference", path);
}

/* ---------------------------------------------------------------------- schemas -- */

/* anyOf, oneOf, allOf or $ref. */
static mica_status of_schemas(writer *w, const cJSON *schema, mica_text *out)
{
    const cJSON *any = mica_json_find(schema, "anyOf"), *one = mica_json_find(schema, "oneOf");
    const cJSON *all = mica_json_find(schema, "allOf"), *ref = mica_json_find(schema, "$ref");
    if (any || one)
        return choice_of(w, any ? any : one, out);
    if (all && (!cJSON_IsArray(all) || !all->child || all->child->next))
        return refuse(w, "of more or less than one schema,", "allOf");
    if (all)
        return expression(w, all->child, out);
    return cJSON_IsString(ref) ? reference(w, ref->valuestring, out)
                               : refuse(w, "what is no text as", "$ref");
}

static mica_status of_form(writer *w, const cJSON *schema, mica_text *out)
{
    const cJSON *constant = mica_json_find(schema, "const"), *one = mica_json_find(schema, "enum");
    const cJSON *type = mica_json_find(schema, "type");
    const unsigned form = mica_json_form(schema);
    if (form == MICA_JSON_SCHEMAS)
        return of_schemas(w, schema, out);
    if (constant && (one || !fits_types(constant, type)))
        return refuse(w, "beside another type or enum, the keyword", "const");
    if (constant)
        return add_json_literal(w, out, constant);
    if (one)
        return one_of_values(w, one, type, out);
    if (cJSON_IsArray(type))
        return of_types(w, schema, type, out);
    if (type)
        return of_type(w, schema, cJSON_IsString(type) ? type->valuestring : "", out);
    if (form == MICA_JSON_OBJECTS)
        return object(w, schema, out);
    mica_text_add(out, "value");
    return MICA_OK;
}

static mica_status expression(writer *w, const cJSON *schema, mica_text *out)
{
    MICA_TRY(mica_json_check_keywords(schema, w->err));
    if (++w->depth > MOST_DEPTH || out->size + w->more.size > MOST_BYTES)
        return refuse(w, "nesting as deep as in", schema->string ? schema->string : "this schema");
    const mica_status st = of_form(w, schema, out);
    w->depth--;
    return st;
}

/* Root, then what is referred to: a rule may refer to more. */
static mica_status write_rules(writer *w, mica_text *out)
{
    mica_text_add(out, "root ::= ");
    MICA_TRY(expression(w, w->j->root, out));
    for (int i = 0; i < w->ref_count; i++) {
        mica_text_add(out, "\nref%d ::= ", i);
        MICA_TRY(expression(w, w->refs[i], out));
    }
    mica_text_add(out, "\n");
    mica_text_add_bytes(out, w->more.data ? w->more.data : "", w->more.size);
    mica_text_add(out, "%s", BASE);
    return MICA_OK;
}

mica_status mica_json_grammar(const char *schema, mica_text *out, mica_err *err)
{
    mica_json j = {0};
    MICA_TRY(mica_json_parse(&j, "json schema", schema, strlen(schema), err));
    writer w = {.j = &j, .err = err};
    mica_status st = write_rules(&w, out);
    if (!st && (out->failed || w.more.failed))
        st = MICA_FAIL(err, MICA_E_NOMEM, "json schema: no memory");
    mica_text_deinit(&w.more);
    mica_json_close(&j);
    return st;
}
