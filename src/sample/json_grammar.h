/* json_grammar.h - a JSON schema as a grammar.
 *
 * Understood: type (one or a list); of objects properties, required and additionalProperties (a schema of it where
 * there are no properties); of arrays items, prefixItems, minItems, maxItems; of texts minLength and maxLength, or
 * pattern, or format (json_pattern.h); of numbers minimum and maximum, which of `number` are whole; enum, const, anyOf,
 * oneOf (which may fit twice), allOf of one, $ref to the whole ("#") or into $defs or definitions; "{}" is any
 * JSON. Members come in the order of the schema and no others do. Titles and the like are passed over. Everything
 * else, and a keyword beside one that it is not for, is refused by name: an answer that keeps to a part of a schema
 * keeps to none. */
#ifndef MICA_SAMPLE_JSON_GRAMMAR_H
#define MICA_SAMPLE_JSON_GRAMMAR_H

#include "base/json.h"

/* Appends the grammar's text. */
mica_status mica_json_grammar(const char *schema, mica_text *out, mica_err *err);

#endif
