/* utf8.c - decoding as the Unicode standard recommends, and NFC through utf8proc.
 *
 * Well-formed sequences are those of table 3-7 of the standard: the second byte's range depends
 * on the first, which excludes overlong forms, surrogates and values above U+10FFFF. An
 * ill-formed sequence is consumed up to the longest prefix that could still have been right
 * ("maximal subpart") and gives one U+FFFD, as Python, browsers and the Rust tokenizers do. */
#include "base/utf8.h"

#include "base/mem.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#define REPLACEMENT 0xFFFDu

/* Length of the sequence a lead byte announces and the range of its second byte. 0: no lead. */
static int lead_length(uint8_t lead, uint8_t *lo, uint8_t *hi)
{
    *lo = 0x80;
    *hi = 0xbf;
    if (lead >= 0xc2 && lead <= 0xdf)
        return 2;
    if (lead >= 0xe0 && lead <= 0xef) {
        *lo = lead == 0xe0 ? 0xa0 : 0x80; /* no overlong forms */
        *hi = lead == 0xed ? 0x9f : 0xbf; /* no surrogates */
        return 3;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        *lo = lead == 0xf0 ? 0x90 : 0x80;
        *hi = lead == 0xf4 ? 0x8f : 0xbf; /* not above U+10FFFF */
        return 4;
    }
    return 0;
}

/* As mica_utf8_decode; *valid tells a U+FFFD of the text from a substituted one. */
static size_t decode(const uint8_t *s, size_t n, uint32_t *cp, bool *valid)
{
    uint8_t lo, hi;
    *cp = REPLACEMENT;
    *valid = false;
    if (n == 0)
        return 0;
    if (s[0] < 0x80) {
        *cp = s[0];
        *valid = true;
        return 1;
    }
    const int length = lead_length(s[0], &lo, &hi);
    if (length == 0)
        return 1;
    uint32_t value = s[0] & (0x7fu >> length);
    for (size_t i = 1; i < (size_t)length; i++) {
        if (i >= n || s[i] < lo || s[i] > hi)
            return i;
        value = (value << 6) | (s[i] & 0x3fu);
        lo = 0x80;
        hi = 0xbf;
    }
    *cp = value;
    *valid = true;
    return (size_t)length;
}

size_t mica_utf8_decode(const char *s, size_t n, uint32_t *cp)
{
    bool valid;
    return decode((const uint8_t *)s, n, cp, &valid);
}

bool mica_utf8_holds(const char *set, uint32_t cp)
{
    for (size_t at = 0, n = strlen(set); at < n;) {
        uint32_t member;
        at += mica_utf8_decode(set + at, n - at, &member);
        if (member == cp)
            return true;
    }
    return false;
}

size_t mica_utf8_encode(uint32_t cp, char out[4])
{
    uint8_t *o = (uint8_t *)out;
    if (cp < 0x80) {
        o[0] = (uint8_t)cp;
        return 1;
    }
    if (cp < 0x800) {
        o[0] = (uint8_t)(0xc0 | (cp >> 6));
        o[1] = (uint8_t)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        o[0] = (uint8_t)(0xe0 | (cp >> 12));
        o[1] = (uint8_t)(0x80 | ((cp >> 6) & 0x3f));
        o[2] = (uint8_t)(0x80 | (cp & 0x3f));
        return 3;
    }
    o[0] = (uint8_t)(0xf0 | (cp >> 18));
    o[1] = (uint8_t)(0x80 | ((cp >> 12) & 0x3f));
    o[2] = (uint8_t)(0x80 | ((cp >> 6) & 0x3f));
    o[3] = (uint8_t)(0x80 | (cp & 0x3f));
    return 4;
}

bool mica_utf8_is_valid(const char *s, size_t n)
{
    bool valid = true;
    uint32_t cp;
    for (size_t i = 0; valid && i < n;)
        i += decode((const uint8_t *)s + i, n - i, &cp, &valid);
    return valid;
}

mica_status mica_utf8_sanitize(const char *s, size_t n, char **out, size_t *out_size, mica_err *err)
{
    /* One bad byte can become the three of U+FFFD. */
    char *text = n < SIZE_MAX / 3 ? mica_mem_alloc(3 * n + 1) : NULL;
    size_t size = 0;
    *out = NULL;
    if (!text)
        return MICA_FAIL(err, MICA_E_NOMEM, "out of memory for a text of %zu bytes", n);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += mica_utf8_decode(s + i, n - i, &cp);
        size += mica_utf8_encode(cp, text + size);
    }
    text[size] = '\0';
    *out = text;
    *out_size = size;
    return MICA_OK;
}

static bool is_ascii(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] >= 0x80)
            return false;
    return true;
}

mica_status mica_utf8_nfc(const char *s, size_t n, char **out, size_t *out_size, mica_err *err)
{
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t size = (utf8proc_ssize_t)n;
    *out = NULL;
    if (n > (size_t)INT32_MAX)
        return MICA_FAIL(err, MICA_E_USAGE, "a text of %zu bytes is too long to normalise", n);
    if (!is_ascii(s, n)) {
        size = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &composed,
                            (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
        if (size < 0)
            return MICA_FAIL(err, size == UTF8PROC_ERROR_NOMEM ? MICA_E_NOMEM : MICA_E_FORMAT,
                             "cannot normalise text: %s", utf8proc_errmsg(size));
    }
    /* utf8proc allocates by itself; the caller frees through our door. */
    *out = mica_mem_alloc((size_t)size + 1);
    if (*out) {
        memcpy(*out, composed ? (const char *)composed : s, (size_t)size);
        (*out)[size] = '\0';
    }
    free(composed);
    if (!*out)
        return MICA_FAIL(err, MICA_E_NOMEM, "out of memory for a text of %zu bytes", n);
    *out_size = (size_t)size;
    return MICA_OK;
}
