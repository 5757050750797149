/* phone_list.h - a growing list of symbol numbers. */
#ifndef MICA_SPEECH_PHONE_LIST_H
#define MICA_SPEECH_PHONE_LIST_H

#include "base/mem.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mica_phone_list {
    int32_t *ids; /* freed with mica_mem_free */
    size_t count, cap;
    bool failed; /* no memory: check once at the end */
} mica_phone_list;

static inline void mica_phone_list_add(mica_phone_list *l, int32_t id)
{
    if (l->count == l->cap) {
        const size_t cap = l->cap > 0 ? 2 * l->cap : 64;
        int32_t *ids = mica_mem_realloc(l->ids, cap * sizeof *ids);
        if (ids == NULL) {
            l->failed = true;
            return;
        }
        l->ids = ids;
        l->cap = cap;
    }
    l->ids[l->count++] = id;
}

#endif
