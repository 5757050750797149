/* file_kind.h - names what a file is when it is not what was asked for.
 *
 * People point a program at whatever they downloaded: a GGUF file, a torch checkpoint, the
 * text pointer of a large-file store, the HTML of an error page. One look at the first bytes
 * turns "bad header" into a sentence that says what to do. Nothing here reads those formats. */
#ifndef MICA_FORMAT_FILE_KIND_H
#define MICA_FORMAT_FILE_KIND_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct mica_file_kind {
    mica_status status; /* UNSUPPORTED: weights of another kind; FORMAT: no weights at all */
    const char *text;   /* "a GGUF file, ...": completes "PATH is "; static storage */
} mica_file_kind;

/* By the first bytes; NULL when they tell nothing. data may be NULL when size is 0. */
const mica_file_kind *mica_file_kind_find(const uint8_t *data, size_t size);

#endif
