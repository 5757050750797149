/* golden_file.h - reads tests/golden/<...>.safetensors in unit tests, and spells names in other ways; failures
 * end the test. */
#ifndef MICA_TESTS_GOLDEN_FILE_H
#define MICA_TESTS_GOLDEN_FILE_H

#include "format/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The status is MICA_OK; else the text of err ends the test. */
#define assert_ok(expr, err)                                                                       \
    do {                                                                                           \
        if ((expr) != MICA_OK)                                                                     \
            fail_msg("%s", (err).text);                                                            \
    } while (0)

/* Replaces the first `from` in `s`, an array of `cap` bytes; false: there is none. */
static inline bool replace_first(char *s, size_t cap, const char *from, const char *to)
{
    char *at = strstr(s, from);
    if (!at)
        return false;
    char rest[192];
    snprintf(rest, sizeof rest, "%s", at + strlen(from));
    snprintf(at, cap - (size_t)(at - s), "%s%s", to, rest);
    return true;
}

static inline mica_weights *golden_open(const char *relative)
{
    char path[1024];
    mica_err err = {0};
    mica_weights *w = NULL;
    snprintf(path, sizeof path, "%s/%s", MICA_TEST_DATA, relative);
    if (mica_weights_open(&w, path, &err) != MICA_OK)
        fail_msg("%s", err.text);
    return w;
}

/* Tensor "<name>.<part>". */
static inline const mica_tensor *golden_tensor(const mica_weights *w, const char *name,
                                               const char *part)
{
    char full[256];
    snprintf(full, sizeof full, "%s.%s", name, part);
    const mica_tensor *t = mica_weights_find(w, full);
    if (!t)
        fail_msg("%s holds no tensor %s", mica_weights_path(w), full);
    return t;
}

/* Its elements as floats, in memory of their own: a file's data may lie unaligned. */
static inline float *golden_floats(const mica_weights *w, const char *name, const char *part,
                                   size_t *count)
{
    const mica_tensor *t = golden_tensor(w, name, part);
    assert_int_equal(t->dtype, MICA_DTYPE_F32);
    *count = (size_t)mica_tensor_count(t);
    float *copy = malloc((*count + 1) * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, t->data, *count * sizeof *copy);
    return copy;
}

#endif
