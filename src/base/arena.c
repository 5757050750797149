/* arena.c - chunks in a list, filled one after the other.
 *
 *     first ──► chunk ──► current ──► spare ──► spare
 *               full      used/size   kept by release, freed by trim
 *
 * An allocation that does not fit into the current chunk takes the first spare that is large
 * enough (moved next to current), else a new one. A chunk's header is 64 bytes, so that the
 * data behind it keeps the 64-byte alignment. */
#include "base/arena.h"

#include "base/checked.h"
#include "base/mem.h"

#include <string.h>

#define ALIGNMENT 64
#define PAGE      4096

struct mica_arena_chunk {
    mica_arena_chunk *next;
    size_t size, used; /* of the data behind the header */
};
#define HEADER ((size_t)ALIGNMENT)
_Static_assert(sizeof(mica_arena_chunk) <= ALIGNMENT, "the header must fit before the data");

void mica_arena_init(mica_arena *a, size_t chunk_size)
{
    *a = (mica_arena){.chunk_size = chunk_size};
}

static void free_chunks(mica_arena_chunk *chunk)
{
    while (chunk) {
        mica_arena_chunk *next = chunk->next;
        mica_mem_free(chunk);
        chunk = next;
    }
}

void mica_arena_deinit(mica_arena *a)
{
    free_chunks(a->first);
    *a = (mica_arena){.chunk_size = a->chunk_size};
}

/* Where chunks behind the current one hang. */
static mica_arena_chunk **spares(mica_arena *a)
{
    return a->current ? &a->current->next : &a->first;
}

static mica_arena_chunk *take_spare(mica_arena *a, size_t size)
{
    for (mica_arena_chunk **link = spares(a); *link; link = &(*link)->next) {
        mica_arena_chunk *chunk = *link;
        if (chunk->size >= size) {
            *link = chunk->next;
            return chunk;
        }
    }
    return NULL;
}

static mica_arena_chunk *new_chunk(mica_arena *a, size_t size)
{
    const size_t wanted = size > a->chunk_size ? size : a->chunk_size;
    size_t bytes;
    if (!mica_add_size(wanted, HEADER + PAGE - 1, &bytes))
        return NULL;
    bytes &= ~(size_t)(PAGE - 1);
    mica_arena_chunk *chunk = mica_mem_alloc_aligned(bytes, PAGE);
    a->heap_calls++;
    if (chunk)
        chunk->size = bytes - HEADER;
    return chunk;
}

static bool next_chunk(mica_arena *a, size_t size)
{
    mica_arena_chunk *chunk = take_spare(a, size);
    if (!chunk)
        chunk = new_chunk(a, size);
    if (!chunk)
        return false;
    mica_arena_chunk **link = spares(a);
    chunk->used = 0;
    chunk->next = *link;
    *link = chunk;
    a->current = chunk;
    return true;
}

void *mica_arena_alloc(mica_arena *a, size_t size)
{
    size_t padded;
    if (!mica_add_size(size ? size : 1, ALIGNMENT - 1, &padded))
        return NULL;
    padded &= ~(size_t)(ALIGNMENT - 1);
    if ((!a->current || a->current->size - a->current->used < padded) && !next_chunk(a, padded))
        return NULL;
    char *data = (char *)a->current + HEADER + a->current->used;
    a->current->used += padded;
    a->in_use += padded;
    if (a->in_use > a->peak)
        a->peak = a->in_use;
    return data;
}

void *mica_arena_calloc(mica_arena *a, size_t count, size_t size)
{
    size_t bytes;
    if (!mica_mul_size(count, size, &bytes))
        return NULL;
    void *data = mica_arena_alloc(a, bytes);
    if (data)
        memset(data, 0, bytes);
    return data;
}

char *mica_arena_strndup(mica_arena *a, const char *s, size_t n)
{
    const char *end = n ? memchr(s, '\0', n) : NULL; /* s may be NULL then */
    const size_t length = end ? (size_t)(end - s) : n;
    char *copy = length < SIZE_MAX ? mica_arena_alloc(a, length + 1) : NULL;
    if (!copy)
        return NULL;
    if (length)
        memcpy(copy, s, length);
    copy[length] = '\0';
    return copy;
}

mica_arena_mark mica_arena_get_mark(const mica_arena *a)
{
    return (mica_arena_mark){a->current, a->current ? a->current->used : 0, a->in_use};
}

void mica_arena_release(mica_arena *a, mica_arena_mark mark)
{
    a->current = mark.chunk;
    if (mark.chunk)
        mark.chunk->used = mark.used;
    a->in_use = mark.in_use;
}
