/* status.h - how the library reports failure.
 *
 * Every fallible function returns mica_status and takes `mica_err *err` last. The
 * text is written once, where the failure is found: what, where, which value, what
 * to do; lower case, no newline. Callers only pass it on (MICA_TRY). */
#ifndef MICA_BASE_STATUS_H
#define MICA_BASE_STATUS_H

#include "base/compiler.h"

#include <mica/mica.h>

#define MICA_ERR_TEXT 2048 /* several problems may be listed, one per line */

typedef struct mica_err {
    mica_status status;
    char text[MICA_ERR_TEXT];
} mica_err;

/* Writes the text (truncated at a character boundary) and returns `status`. err may be NULL. */
mica_status mica_err_set(mica_err *err, mica_status status, const char *format, ...)
    MICA_PRINTF(3, 4);
/* Puts "prefix: " before a text already there; for context that only a caller knows. */
void mica_err_prefix(mica_err *err, const char *format, ...) MICA_PRINTF(2, 3);
/* Puts `more` on a line of its own behind a text already there; into an empty err as it is. */
void mica_err_join(mica_err *err, const mica_err *more);

#define MICA_FAIL(err, status, ...) mica_err_set((err), (status), __VA_ARGS__)
#define MICA_TRY(expr)                                                                             \
    do {                                                                                           \
        const mica_status try_status_ = (expr);                                                    \
        if (try_status_ != MICA_OK)                                                                \
            return try_status_;                                                                    \
    } while (0)

#endif
