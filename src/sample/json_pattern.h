/* json_pattern.h - texts in JSON that fit a regular expression, or one of the formats that have a name, and
 * numbers between bounds, as expressions of a grammar (grammar.h).
 *
 * A subset of ECMA's expressions, anchored on both sides: literals, `.`, classes, \d \w \s and their complements,
 * groups, alternatives, * + ? {m} {m,} {m,n}. What is left out (look-around, back references, \b, lazy
 * quantifiers, \p) is refused by name. Nothing that does not fit is ever taken, but some that fits is not: control
 * characters are there by their short escapes alone. */
#ifndef MICA_SAMPLE_JSON_PATTERN_H
#define MICA_SAMPLE_JSON_PATTERN_H

#include "base/json.h"

/* Appends the text between its quotes. */
mica_status mica_json_pattern(const char *pattern, mica_text *out, mica_err *err);

/* The pattern of a format: date, time, date-time, uuid, ipv4; NULL of others. 29 February is never written. */
const char *mica_json_format(const char *name);

/* The largest number of digits is 16. */
#define MICA_JSON_MOST_NUMBER INT64_C(9999999999999999)

/* Whole numbers from lo to hi, both within +-MICA_JSON_MOST_NUMBER, lo <= hi; `fraction`: and all between them
 * with up to 16 digits behind the point. */
void mica_json_range(int64_t lo, int64_t hi, bool fraction, mica_text *out);

#endif
