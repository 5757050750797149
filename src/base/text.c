/* text.c - mica_text: a text that grows, and JSON strings in it. */
#include "base/json.h"

#include "base/checked.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void mica_text_deinit(mica_text *t)
{
    mica_mem_free(t->data);
    *t = (mica_text){0};
}

static void fail(mica_text *t)
{
    mica_text_deinit(t);
    t->failed = true;
}

/* Room for n more bytes and the NUL. */
static bool reserve(mica_text *t, size_t n)
{
    size_t need;
    if (t->failed)
        return false;
    if (!mica_add_size(t->size, n, &need) || need >= SIZE_MAX / 2) {
        fail(t);
        return false;
    }
    if (need + 1 <= t->cap)
        return true;
    const size_t cap = MICA_MAX(2 * t->cap, need + 64);
    char *grown = mica_mem_realloc(t->data, cap);
    if (!grown) {
        fail(t);
        return false;
    }
    t->data = grown;
    t->cap = cap;
    return true;
}

void mica_text_add_bytes(mica_text *t, const char *s, size_t n)
{
    if (!reserve(t, n))
        return;
    if (n > 0)
        memcpy(t->data + t->size, s, n);
    t->size += n;
    t->data[t->size] = '\0';
}

void mica_text_add(mica_text *t, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    const int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0)
        fail(t);
    else if (reserve(t, (size_t)length)) {
        vsnprintf(t->data + t->size, (size_t)length + 1, format, again);
        t->size += (size_t)length;
    }
    va_end(again);
}

static void add_code_point(mica_text *t, uint32_t cp)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    char bytes[4];
    const char *special = cp > 0 && cp < 0x80 ? strchr(plain, (int)cp) : NULL;
    if (special)
        mica_text_add(t, "\\%c", letters[special - plain]);
    else if (cp < 0x20 || cp == 0x7f)
        mica_text_add(t, "\\u%04x", (unsigned)cp);
    else
        mica_text_add_bytes(t, bytes, mica_utf8_encode(cp, bytes));
}

void mica_text_add_json_string(mica_text *t, const char *s)
{
    const size_t n = strlen(s);
    mica_text_add_bytes(t, "\"", 1);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += mica_utf8_decode(s + i, n - i, &cp);
        add_code_point(t, cp);
    }
    mica_text_add_bytes(t, "\"", 1);
}
