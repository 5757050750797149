/* json_grammar.c - see json_grammar.h.
 *
 *     {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
 *         root ::= "{" ws "\"a\"" ws ":" ws integer ws "}"
 *
 * White space between tokens is at most one blank or a line break with blanks, so that a model cannot
 * write blanks without end. */
#include "sample/json_grammar.h"

#include <cjson/cJSON.h>
#include <string.h>

#define MOST_DEPTH 32

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
    mica_text *out; /* rules */
    int rules, depth;
    mica_err *err;
} writer;

static mica_status refuse(const writer *w, const char *what, const char *name)
{
    return MICA_FAIL(w->err, MICA_E_UNSUPPORTED, "json schema: %s \"%.64s\" is not supported", what,
                     name);
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

static mica_status choice_of(writer *w, const cJSON *list, bool literal, mica_text *out)
{
    if (!cJSON_IsArray(list) || !list->child)
        return refuse(w, "an empty", "enum or anyOf");
    mica_text_add(out, "(");
    for (const cJSON *item = list->child; item; item = item->next) {
        mica_text_add(out, item == list->child ? "" : " | ");
        MICA_TRY(literal ? add_json_literal(w, out, item) : expression(w, item, out));
    }
    mica_text_add(out, ")");
    return MICA_OK;
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

static mica_status member(writer *w, const cJSON *property, mica_text *out)
{
    mica_text name = {0};
    mica_text_add_json_string(&name, property->string);
    mica_status st =
        name.failed ? MICA_FAIL(w->err, MICA_E_NOMEM, "json schema: no memory") : MICA_OK;
    if (!st) {
        add_literal(out, name.data);
        mica_text_add(out, " ws \":\" ws ");
        st = expression(w, property, out);
    }
    mica_text_deinit(&name);
    return st;
}

/* Members in order; those that are not required may be left out. What follows depends on whether
 * one came before, because of the comma: two rules a member, with and without. */
static mica_status members(writer *w, const cJSON *schema, const cJSON *property, bool comma,
                           mica_text *out)
{
    if (!property)
        return MICA_OK;
    if (++w->depth > MOST_DEPTH)
        return refuse(w, "nesting as deep as in", property->string);
    const bool needed = is_required(schema, property->string);
    mica_text_add(out, needed ? "(" : "((");
    if (comma)
        mica_text_add(out, "ws \",\" ws ");
    MICA_TRY(member(w, property, out));
    mica_text_add(out, " ");
    MICA_TRY(members(w, schema, property->next, true, out));
    mica_text_add(out, ")");
    if (!needed && !comma) { /* this one left out: the next is the first */
        mica_text_add(out, " | ");
        if (property->next)
            MICA_TRY(members(w, schema, property->next, false, out));
        else
            mica_text_add(out, "\"\"");
        mica_text_add(out, ")");
    } else if (!needed) {
        mica_text_add(out, " | ");
        if (property->next)
            MICA_TRY(members(w, schema, property->next, true, out));
        else
            mica_text_add(out, "\"\"");
        mica_text_add(out, ")");
    }
    w->depth--;
    return MICA_OK;
}

static mica_status object(writer *w, const cJSON *schema, mica_text *out)
{
    const cJSON *properties = mica_json_find(schema, "properties");
    int optional = 0;
    if (!cJSON_IsObject(properties) || !properties->child) {
        mica_text_add(out, "object");
        return MICA_OK;
    }
    for (const cJSON *p = properties->child; p; p = p->next)
        optional += !is_required(schema, p->string);
    if (optional > 8) /* the rules double with each */
        return MICA_FAIL(w->err, MICA_E_UNSUPPORTED,
                         "json schema: an object with more than 8 members that are not required");
    mica_text_add(out, "\"{\" ws ");
    MICA_TRY(members(w, schema, properties->child, false, out));
    mica_text_add(out, " ws \"}\"");
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

static mica_status array(writer *w, const cJSON *schema, mica_text *out)
{
    const cJSON *items = mica_json_find(schema, "items");
    mica_text one = {0};
    int64_t lo, hi;
    MICA_TRY(limits(w, schema, "minItems", "maxItems", &lo, &hi));
    if (items)
        MICA_TRY(expression(w, items, &one));
    else
        mica_text_add(&one, "value");
    const char *item = one.data ? one.data : "value";
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
    const bool failed = one.failed;
    mica_text_deinit(&one);
    return failed ? MICA_FAIL(w->err, MICA_E_NOMEM, "json schema: no memory") : MICA_OK;
}

static mica_status string(writer *w, const cJSON *schema, mica_text *out)
{
    int64_t lo, hi;
    MICA_TRY(limits(w, schema, "minLength", "maxLength", &lo, &hi));
    if (lo == 0 && hi < 0)
        mica_text_add(out, "string");
    else if (hi < 0)
        mica_text_add(out, "\"\\\"\" char{%d,} \"\\\"\"", (int)lo);
    else
        mica_text_add(out, "\"\\\"\" char{%d,%d} \"\\\"\"", (int)lo, (int)hi);
    return MICA_OK;
}

static mica_status of_type(writer *w, const cJSON *schema, const char *type, mica_text *out)
{
    static const char *const plain[] = {"integer", "number", "boolean", "null"};
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

/* "#/$defs/name": written out where it is used; a schema that holds itself is refused by depth. */
static mica_status reference(writer *w, const char *path, mica_text *out)
{
    const char *const folders[] = {"$defs", "definitions"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(folders); i++) {
        const size_t n = strlen(folders[i]);
        if (strncmp(path, "#/", 2) != 0 || strncmp(path + 2, folders[i], n) != 0 ||
            path[2 + n] != '/')
            continue;
        const cJSON *folder = mica_json_find(w->j->root, folders[i]);
        const cJSON *found = folder ? mica_json_find(folder, path + 3 + n) : NULL;
        if (found)
            return expression(w, found, out);
    }
    return refuse(w, "the reference", path);
}

static mica_status check_keys(const writer *w, const cJSON *schema)
{
    static const char *const known[] = {"type",        "properties",
                                        "required",    "items",
                                        "minItems",    "maxItems",
                                        "enum",        "const",
                                        "anyOf",       "oneOf",
                                        "$ref",        "$defs",
                                        "minLength",   "maxLength",
                                        "definitions", "title",
                                        "description", "$schema",
                                        "$id",         "default",
                                        "examples",    "additionalProperties"};
    if (!cJSON_IsObject(schema) && !cJSON_IsTrue(schema))
        return MICA_FAIL(w->err, MICA_E_UNSUPPORTED, "json schema: a schema that is no object");
    for (const cJSON *key = schema->child; key; key = key->next) {
        size_t i = 0;
        while (i < MICA_ARRAY_LEN(known) && strcmp(known[i], key->string) != 0)
            i++;
        if (i == MICA_ARRAY_LEN(known))
            return refuse(w, "the keyword", key->string);
    }
    const cJSON *others = mica_json_find(schema, "additionalProperties");
    if (others && !cJSON_IsBool(others))
        return refuse(w, "a schema in", "additionalProperties");
    return MICA_OK;
}

static mica_status expression(writer *w, const cJSON *schema, mica_text *out)
{
    MICA_TRY(check_keys(w, schema));
    const cJSON *constant = mica_json_find(schema, "const"), *one = mica_json_find(schema, "enum");
    const cJSON *any = mica_json_find(schema, "anyOf"), *type = mica_json_find(schema, "type");
    const cJSON *ref = mica_json_find(schema, "$ref");
    if (!any)
        any = mica_json_find(schema, "oneOf");
    if (++w->depth > MOST_DEPTH || out->size > 128 * 1024)
        return refuse(w, "nesting as deep as in", schema->string ? schema->string : "this schema");
    mica_status st = MICA_OK;
    if (constant)
        st = add_json_literal(w, out, constant);
    else if (one || any)
        st = choice_of(w, one ? one : any, one != NULL, out);
    else if (cJSON_IsString(ref))
        st = reference(w, ref->valuestring, out);
    else if (cJSON_IsArray(type))
        st = of_types(w, schema, type, out);
    else if (cJSON_IsString(type))
        st = of_type(w, schema, type->valuestring, out);
    else if (mica_json_find(schema, "properties"))
        st = object(w, schema, out);
    else
        mica_text_add(out, "value");
    w->depth--;
    return st;
}

mica_status mica_json_grammar(const char *schema, mica_text *out, mica_err *err)
{
    mica_json j = {0};
    MICA_TRY(mica_json_parse(&j, "json schema", schema, strlen(schema), err));
    writer w = {.j = &j, .out = out, .err = err};
    mica_text_add(out, "root ::= ");
    mica_status st = expression(&w, j.root, out);
    mica_text_add(out, "\n%s", BASE);
    mica_json_close(&j);
    if (!st && out->failed)
        st = MICA_FAIL(err, MICA_E_NOMEM, "json schema: no memory");
    return st;
}
