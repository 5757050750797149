/* utf8.h - Unicode text in and out; normalisation through utf8proc. */
#ifndef MICA_BASE_UTF8_H
#define MICA_BASE_UTF8_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/* Decodes one code point; returns bytes consumed (>= 1 when n > 0). A maximal invalid
 * subpart (Unicode 15, 3.9, U+FFFD substitution of maximal subparts) gives *cp = 0xFFFD. */
size_t mica_utf8_decode(const char *s, size_t n, uint32_t *cp);
/* cp is one of the code points of a NUL-terminated set. */
bool mica_utf8_holds(const char *set, uint32_t cp);
/* Writes 1..4 bytes; returns the count. cp must be a scalar value. */
size_t mica_utf8_encode(uint32_t cp, char out[4]);
bool mica_utf8_is_valid(const char *s, size_t n);
/* Copy with every maximal invalid subpart replaced by U+FFFD. Freed with mica_mem_free. */
mica_status mica_utf8_sanitize(const char *s, size_t n, char **out, size_t *out_size,
                               mica_err *err);
/* NFC of valid UTF-8. Freed with mica_mem_free. */
mica_status mica_utf8_nfc(const char *s, size_t n, char **out, size_t *out_size, mica_err *err);

#endif
