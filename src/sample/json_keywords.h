/* json_keywords.h - which keywords of JSON schemas are known, and what they may stand beside.
 *
 * A schema is of one form; a keyword of another would have to hold as well, which no grammar here does, so it is
 * refused and not passed over. */
#ifndef MICA_SAMPLE_JSON_KEYWORDS_H
#define MICA_SAMPLE_JSON_KEYWORDS_H

#include "base/json.h"

#include <cjson/cJSON.h>

enum {
    MICA_JSON_VALUES = 1,  /* const, enum; a type beside them leaves the values of it */
    MICA_JSON_SCHEMAS = 2, /* anyOf, oneOf, allOf, $ref */
    MICA_JSON_OBJECTS = 4, /* these by type; objects also by their keywords */
    MICA_JSON_ARRAYS = 8,
    MICA_JSON_TEXTS = 16,
    MICA_JSON_NUMBERS = 32,
    MICA_JSON_OTHERS = 64, /* boolean, null */
    MICA_JSON_ANY = 128    /* nothing is said */
};

/* The form; of a list of types all of theirs. */
unsigned mica_json_form(const cJSON *schema);
/* MICA_E_UNSUPPORTED with the name of a keyword that is not known, or not beside the others. */
mica_status mica_json_check_keywords(const cJSON *schema, mica_err *err);
/* "json schema: WHAT "NAME" is not supported" */
mica_status mica_json_refuse(mica_err *err, const char *what, const char *name);

#endif
