/* english_numbers.h - digits to English words, appended with single blanks between words. */
#ifndef MICA_SPEECH_ENGLISH_NUMBERS_H
#define MICA_SPEECH_ENGLISH_NUMBERS_H

#include "base/json.h"

/* "one thousand two hundred thirty four"; more than 15 digits are read one by one. */
void mica_english_cardinal(mica_text *out, const char *digits, size_t size);
/* "twenty first" */
void mica_english_ordinal(mica_text *out, const char *digits, size_t size);
/* 1001..2999 as years are said: "nineteen eighty four", "two thousand five", "nineteen hundred";
 * others as cardinals. */
void mica_english_year(mica_text *out, const char *digits, size_t size);
/* "one two three"; 0 is "zero" (or "oh" in times and years). */
void mica_english_digits(mica_text *out, const char *digits, size_t size);
/* The last word in the plural: "nineteen nineties", "three fourths". */
void mica_english_plural(mica_text *out);

#endif
