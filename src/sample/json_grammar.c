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

#include <cjson/cJSON.h>
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

static mica_status object(writer *w, const cJSON *schema, mica_text *out)
{
    const cJSON *properties = mica_json_find(schema, "properties");
    if (!cJSON_IsObject(properties) || !properties->child) {
        mica_text_add(out, "object");
        return MICA_OK;
    }
    const int index = w->objects++;
    int k = 0;
    for (const cJSON *p = properties->child; p; p = p->next, k++) {
        mica_text text = {0};
        const mica_status st = member(w, p, &text);
        if (!st && !text.failed)
            add_member_rules(w, text.data, index, k, is_required(schema, p->string), !p->next);
        const bool failed = text.failed;
        mica_text_deinit(&text);
        MICA_TRY(st);
        if (failed)
            return MICA_FAIL(w->err, MICA_E_NOMEM, "json schema: no memory");
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

static mica_status array(writer *w, const cJSON *schema, mica_text *out)
{
    const cJSON *items = mica_json_find(schema, "items");
    char item[16] = "value";
    int64_t lo, hi;
    MICA_TRY(limits(w, schema, "minItems", "maxItems", &lo, &hi));
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
    if (++w->depth > MOST_DEPTH || out->size + w->more.size > MOST_BYTES)
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
