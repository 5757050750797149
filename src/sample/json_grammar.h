/* json_grammar.h - a JSON schema as a grammar.
 *
 * Understood: type (one or a list), properties with required, items, minItems and maxItems, enum, const, anyOf
 * and oneOf, $ref to the whole ("#") or into $defs or definitions, minLength and maxLength; "{}" is any JSON.
 * Members come in the order of the schema and no others do. Titles and descriptions are passed over, everything
 * else is refused by name: an answer that keeps to a part of a schema keeps to none. */
#ifndef MICA_SAMPLE_JSON_GRAMMAR_H
#define MICA_SAMPLE_JSON_GRAMMAR_H

#include "base/json.h"

/* Appends the grammar's text. */
mica_status mica_json_grammar(const char *schema, mica_text *out, mica_err *err);

#endif
