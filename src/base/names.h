/* names.h - beginnings and ends of names: of tensors, of files. */
#ifndef MICA_BASE_NAMES_H
#define MICA_BASE_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static inline bool mica_name_ends(const char *name, const char *suffix)
{
    const size_t n = strlen(name), m = strlen(suffix);
    return n >= m && memcmp(name + n - m, suffix, m) == 0;
}

/* What stands behind `prefix`, or NULL. */
static inline const char *mica_name_behind(const char *name, const char *prefix)
{
    const size_t n = strlen(prefix);
    return strncmp(name, prefix, n) == 0 ? name + n : NULL;
}

/* "12.rest": the number, below 100,000, and the rest; or NULL. */
static inline const char *mica_name_index(const char *name, int *index)
{
    int n = 0;
    const char *p = name;
    for (; *p >= '0' && *p <= '9' && n < 10000; p++)
        n = n * 10 + (*p - '0');
    *index = n;
    return p > name && *p == '.' ? p + 1 : NULL;
}

#endif
