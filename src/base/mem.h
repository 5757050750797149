/* mem.h - the only door to the C heap.
 *
 * Everything that allocates goes through here, third-party libraries included where
 * they take allocator hooks, so that allocations can be counted and the n-th one made
 * to fail (the allocation tests walk n = 1, 2, ... through open -> run -> close). */
#ifndef MICA_BASE_MEM_H
#define MICA_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

void *mica_mem_alloc(size_t size); /* NULL on failure; size 0 gives a unique pointer */
void *mica_mem_calloc(size_t count, size_t size); /* overflow-checked, zeroed */
void *mica_mem_realloc(void *p, size_t size);
void *mica_mem_alloc_aligned(size_t size,
                             size_t align); /* align: power of two; free with mica_mem_free */
void mica_mem_free(void *p);
char *mica_mem_strdup(const char *s);
char *mica_mem_strndup(const char *s, size_t n);

uint64_t mica_mem_count(void);     /* allocations so far, process-wide */
void mica_mem_fail_at(uint64_t n); /* tests: the n-th allocation from now fails (0: never) */

#endif
