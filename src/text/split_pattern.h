/* split_pattern.h - a tokenizer.json regular expression, rewritten for PCRE2.
 *
 * The files are written for Oniguruma. The two engines agree on the constructs that
 * pre-tokenizers use, except where Unicode tables differ:
 *
 *     \s        PCRE2 counts U+180E as white space, Oniguruma and Unicode (since 6.3) do not
 *     \p{L} \p{N}  depend on the Unicode version a library was built with (PCRE2 10.42: 14),
 *               so the letters and numbers of Unicode 15 to 16 are added by range; the
 *               other categories, which the Qwen files do not use, are PCRE2's own
 *
 * Everything that the engines read differently, or that no known file uses, is refused by
 * name: ^ $ (line anchors in Oniguruma), \h \w \b \R \X \K \G, back references, class
 * intersection (&&), POSIX classes, verbs, named groups. */
#ifndef MICA_TEXT_SPLIT_PATTERN_H
#define MICA_TEXT_SPLIT_PATTERN_H

#include "base/json.h"

#define MICA_SPLIT_PATTERN_MAX_SIZE 4096

/* Appends the PCRE2 spelling. MICA_E_UNSUPPORTED names the construct and its offset; `name` is
 * the file. */
mica_status mica_split_pattern_translate(mica_text *out, const char *name, const char *pattern,
                                         mica_err *err);

#endif
