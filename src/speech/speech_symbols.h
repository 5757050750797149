/* speech_symbols.h - phones by name and by the number that models know them by.
 *
 * The tables follow from rules and are built, not stored: initials, finals with five tones, Japanese and
 * English phones and punctuation in code point order are the 322 symbols of v1; v2 adds two brackets,
 * 29 Korean and 379 Cantonese symbols behind them, 732 in all. A symbol's number is its place. */
#ifndef MICA_SPEECH_SPEECH_SYMBOLS_H
#define MICA_SPEECH_SPEECH_SYMBOLS_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define MICA_SYMBOLS_V1   322
#define MICA_SYMBOLS_V2   732
#define MICA_SYMBOL_BYTES 8 /* the longest has 6 and a NUL */

typedef struct mica_symbols {
    char names[MICA_SYMBOLS_V2][MICA_SYMBOL_BYTES]; /* the first 322 are v1's */
} mica_symbols;

mica_status mica_symbols_init(mica_symbols *s, mica_err *err);
/* Number of a name among the first `count`; -1: absent. The base part is found by bisection. */
int32_t mica_symbols_find(const mica_symbols *s, int count, const char *name, size_t size);

#endif
