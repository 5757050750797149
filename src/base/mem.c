/* mem.c - the heap behind one door, counted, and able to fail on purpose.
 *
 * Counters are atomic: sessions in several threads allocate at the same time. The countdown of
 * mica_mem_fail_at is process-wide and meant for tests with one thread. */
#include "base/mem.h"

#include "base/checked.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static atomic_uint_fast64_t allocation_count;
static atomic_int_fast64_t fail_countdown; /* 1: the next one fails; 0: off */

/* Counts one allocation; false when it is the one that shall fail. */
static bool count_allocation(void)
{
    atomic_fetch_add_explicit(&allocation_count, 1, memory_order_relaxed);
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) == 0)
        return true;
    return atomic_fetch_sub(&fail_countdown, 1) != 1;
}

uint64_t mica_mem_count(void)
{
    return atomic_load_explicit(&allocation_count, memory_order_relaxed);
}

void mica_mem_fail_at(uint64_t n)
{
    atomic_store(&fail_countdown, (int_fast64_t)n);
}

void *mica_mem_alloc(size_t size)
{
    return count_allocation() ? malloc(size ? size : 1) : NULL;
}

void *mica_mem_calloc(size_t count, size_t size)
{
    size_t bytes;
    if (!count_allocation() || !mica_mul_size(count, size, &bytes))
        return NULL;
    return bytes ? calloc(count, size) : calloc(1, 1);
}

void *mica_mem_realloc(void *p, size_t size)
{
    return count_allocation() ? realloc(p, size ? size : 1) : NULL;
}

void *mica_mem_alloc_aligned(size_t size, size_t align)
{
    size_t padded;
    if (!count_allocation() || !mica_add_size(size ? size : 1, align - 1, &padded))
        return NULL;
    return aligned_alloc(align, padded & ~(align - 1)); /* C11 wants a multiple of align */
}

void mica_mem_free(void *p)
{
    free(p);
}

char *mica_mem_strdup(const char *s)
{
    return mica_mem_strndup(s, strlen(s));
}

char *mica_mem_strndup(const char *s, size_t n)
{
    const char *end = memchr(s, '\0', n);
    const size_t length = end ? (size_t)(end - s) : n;
    char *copy = mica_mem_alloc(length + 1);
    if (!copy)
        return NULL;
    memcpy(copy, s, length);
    copy[length] = '\0';
    return copy;
}
