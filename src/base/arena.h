/* arena.h - memory that lives and dies together.
 *
 *     chunk ──► chunk ──► chunk        each chunk: page-aligned, at least MIN_CHUNK bytes
 *     ######    ####..    ......       mark = (chunk, used); release returns to a mark
 *
 * A stack: allocate upwards, mark, release back to the mark. Released chunks stay
 * for reuse, so a loop that repeats the same allocations touches the heap only the
 * first time. Not thread-safe: one owner. */
#ifndef MICA_BASE_ARENA_H
#define MICA_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct mica_arena_chunk mica_arena_chunk;
typedef struct mica_arena {
    mica_arena_chunk *first, *current;
    size_t chunk_size; /* smallest chunk taken from the heap */
    size_t in_use;     /* bytes handed out and not released */
    size_t peak;       /* largest in_use so far */
    uint64_t heap_calls;
} mica_arena;
typedef struct mica_arena_mark {
    mica_arena_chunk *chunk;
    size_t used, in_use;
} mica_arena_mark;

void mica_arena_init(mica_arena *a, size_t chunk_size); /* no allocation yet */
void mica_arena_deinit(mica_arena *a);
/* 64-byte aligned, not zeroed; NULL when the heap refuses. */
void *mica_arena_alloc(mica_arena *a, size_t size);
void *mica_arena_calloc(mica_arena *a, size_t count, size_t size);
char *mica_arena_strndup(mica_arena *a, const char *s, size_t n);
mica_arena_mark mica_arena_get_mark(const mica_arena *a);
void mica_arena_release(mica_arena *a, mica_arena_mark mark);

#endif
