/* json_keywords.c - which keywords of JSON schemas may stand together; see json_keywords.h. */
#include "sample/json_keywords.h"

#include <string.h>

#define TYPES                                                                                      \
    (MICA_JSON_OBJECTS | MICA_JSON_ARRAYS | MICA_JSON_TEXTS | MICA_JSON_NUMBERS | MICA_JSON_OTHERS)
#define EVERYWHERE 255

static const struct {
    const char *name;
    unsigned forms;
} KEYS[] = {{"const", MICA_JSON_VALUES},
            {"enum", MICA_JSON_VALUES},
            {"anyOf", MICA_JSON_SCHEMAS},
            {"oneOf", MICA_JSON_SCHEMAS},
            {"allOf", MICA_JSON_SCHEMAS},
            {"$ref", MICA_JSON_SCHEMAS},
            {"type", TYPES | MICA_JSON_VALUES},
            {"properties", MICA_JSON_OBJECTS},
            {"required", MICA_JSON_OBJECTS},
            {"additionalProperties", MICA_JSON_OBJECTS},
            {"items", MICA_JSON_ARRAYS},
            {"prefixItems", MICA_JSON_ARRAYS},
            {"minItems", MICA_JSON_ARRAYS},
            {"maxItems", MICA_JSON_ARRAYS},
            {"minLength", MICA_JSON_TEXTS},
            {"maxLength", MICA_JSON_TEXTS},
            {"pattern", MICA_JSON_TEXTS},
            {"format", MICA_JSON_TEXTS},
            {"minimum", MICA_JSON_NUMBERS},
            {"maximum", MICA_JSON_NUMBERS},
            {"exclusiveMinimum", MICA_JSON_NUMBERS},
            {"exclusiveMaximum", MICA_JSON_NUMBERS},
            {"$defs", EVERYWHERE},
            {"definitions", EVERYWHERE},
            {"title", EVERYWHERE},
            {"description", EVERYWHERE},
            {"$schema", EVERYWHERE},
            {"$id", EVERYWHERE},
            {"$comment", EVERYWHERE},
            {"default", EVERYWHERE},
            {"examples", EVERYWHERE},
            {"deprecated", EVERYWHERE},
            {"readOnly", EVERYWHERE},
            {"writeOnly", EVERYWHERE}};

mica_status mica_json_refuse(mica_err *err, const char *what, const char *name)
{
    return MICA_FAIL(err, MICA_E_UNSUPPORTED, "json schema: %s \"%.64s\" is not supported", what,
                     name);
}

static unsigned form_of_type(const cJSON *type)
{
    const char *name = cJSON_IsString(type) ? type->valuestring : "";
    if (strcmp(name, "object") == 0)
        return MICA_JSON_OBJECTS;
    if (strcmp(name, "array") == 0)
        return MICA_JSON_ARRAYS;
    if (strcmp(name, "string") == 0)
        return MICA_JSON_TEXTS;
    return strcmp(name, "integer") == 0 || strcmp(name, "number") == 0 ? MICA_JSON_NUMBERS
                                                                       : MICA_JSON_OTHERS;
}

unsigned mica_json_form(const cJSON *schema)
{
    unsigned form = 0;
    for (size_t i = 0; i < MICA_ARRAY_LEN(KEYS); i++)
        if ((KEYS[i].forms == MICA_JSON_VALUES || KEYS[i].forms == MICA_JSON_SCHEMAS) &&
            mica_json_find(schema, KEYS[i].name))
            return KEYS[i].forms;
    const cJSON *type = mica_json_find(schema, "type");
    for (const cJSON *t = cJSON_IsArray(type) ? type->child : NULL; t; t = t->next)
        form |= form_of_type(t);
    if (type && !cJSON_IsArray(type))
        form = form_of_type(type);
    if (!type)
        form = mica_json_find(schema, "properties") || mica_json_find(schema, "required") ||
                       mica_json_find(schema, "additionalProperties")
                   ? MICA_JSON_OBJECTS
                   : MICA_JSON_ANY;
    return form;
}

/* How many of anyOf, $ref, ... there are: they would have to hold at once. */
static int count_schemas(const cJSON *schema)
{
    int n = 0;
    for (size_t i = 0; i < MICA_ARRAY_LEN(KEYS); i++)
        n += KEYS[i].forms == MICA_JSON_SCHEMAS && mica_json_find(schema, KEYS[i].name);
    return n;
}

mica_status mica_json_check_keywords(const cJSON *schema, mica_err *err)
{
    if (!cJSON_IsObject(schema) && !cJSON_IsTrue(schema))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "json schema: a schema that is no object");
    const unsigned form = mica_json_form(schema);
    for (const cJSON *key = schema->child; key; key = key->next) {
        size_t i = 0;
        while (i < MICA_ARRAY_LEN(KEYS) && strcmp(KEYS[i].name, key->string) != 0)
            i++;
        if (i == MICA_ARRAY_LEN(KEYS))
            return mica_json_refuse(err, "the keyword", key->string);
        if (!(KEYS[i].forms & form))
            return mica_json_refuse(err, "beside the others of its schema, the keyword",
                                    key->string);
    }
    return count_schemas(schema) > 1
               ? mica_json_refuse(err, "beside another reference or choice,", "$ref")
               : MICA_OK;
}
