/* status.c - error texts and the names of statuses.
 *
 * Texts are cut at MICA_ERR_TEXT - 1 bytes, never inside a UTF-8 character: names from files
 * and prompts may be quoted in them, and half a character would make a log unreadable. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Removes a UTF-8 character that lost its tail when the text was cut. */
static void trim_partial_character(char *text)
{
    size_t end = strlen(text), start = end;
    while (start > 0 && end - start < 4 && ((unsigned char)text[start - 1] & 0xc0) == 0x80)
        start--;
    if (start == 0)
        return;
    const unsigned char lead = (unsigned char)text[start - 1];
    const size_t need = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    if (end - (start - 1) < need)
        text[start - 1] = '\0';
}

mica_status mica_err_set(mica_err *err, mica_status status, const char *format, ...)
{
    if (!err)
        return status;
    va_list args;
    va_start(args, format);
    const int length = vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    if (length < 0)
        err->text[0] = '\0';
    if (length >= MICA_ERR_TEXT)
        trim_partial_character(err->text);
    err->status = status;
    return status;
}

void mica_err_prefix(mica_err *err, const char *format, ...)
{
    char text[MICA_ERR_TEXT];
    if (!err)
        return;
    va_list args;
    va_start(args, format);
    const int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (length < 0 || length >= (int)sizeof text - 2)
        return;
    /* The old text moves right and loses what does not fit. */
    const size_t shift = (size_t)length + 2, old = strlen(err->text);
    const size_t kept = MICA_MIN(old, sizeof err->text - 1 - shift);
    memmove(err->text + shift, err->text, kept);
    memcpy(err->text, text, (size_t)length);
    memcpy(err->text + length, ": ", 2);
    err->text[shift + kept] = '\0';
    if (kept < old)
        trim_partial_character(err->text);
}

void mica_err_join(mica_err *err, const mica_err *more)
{
    if (err->status == MICA_OK) {
        *err = *more;
        return;
    }
    const mica_err before = *err;
    mica_err_set(err, before.status, "%s\n%s", before.text, more->text);
}

const char *mica_status_name(mica_status status)
{
    switch (status) {
    case MICA_OK:
        return "success";
    case MICA_E_USAGE:
        return "wrong usage";
    case MICA_E_NOMEM:
        return "out of memory";
    case MICA_E_IO:
        return "input or output failed";
    case MICA_E_FORMAT:
        return "damaged or unknown file";
    case MICA_E_MISSING:
        return "something is missing";
    case MICA_E_UNSUPPORTED:
        return "not supported here";
    case MICA_E_CANCELLED:
        return "cancelled";
    case MICA_E_NUMERIC:
        return "not a finite number";
    case MICA_E_INTERNAL:
        return "internal error";
    }
    return "unknown status";
}
