/* cpu_pool.c - two stacks of tensors in large chunks.
 *
 *     first ──► chunk ──► chunk ──► NULL        a chunk: header (64 bytes), then data
 *               ####..    ......                current: where allocation goes on
 *
 * A mark is (chunk, used); release makes its chunk current again and later chunks empty,
 * but keeps them: a pass that repeats the allocations of the one before touches no heap.
 * trim frees the empty chunks and all scratch (technique 8: between phases). */
#include "backend/cpu/cpu_backend.h"

#include "backend/cpu/cpu_dnnl.h"
#include "base/checked.h"

#define MIN_CHUNK ((size_t)4 << 20)
#define ALIGN     ((size_t)64)

struct mica_cpu_pool_chunk {
    mica_cpu_pool_chunk *next;
    size_t size, used; /* of the data behind the header */
};
_Static_assert(sizeof(mica_cpu_pool_chunk) <= ALIGN, "the header takes one cache line");

static uint8_t *chunk_data(mica_cpu_pool_chunk *c)
{
    return (uint8_t *)c + ALIGN;
}

/* The next chunk with room for `size` bytes behind the current one; small empty chunks on
 * the way are skipped, not freed, until trim. */
static mica_cpu_pool_chunk *next_chunk(mica_cpu_backend *be, mica_cpu_pool *p, size_t size)
{
    mica_cpu_pool_chunk **link = p->current ? &p->current->next : &p->first;
    mica_cpu_pool_chunk *c = *link;
    if (c && c->size >= size)
        return c;
    /* A chunk that is too small would stay unused for the rest of the pass: put the new one
     * before it, where the next pass meets it first. */
    size_t bytes = 0;
    if (!mica_add_size(MICA_MAX(size, MIN_CHUNK), ALIGN, &bytes))
        return NULL;
    mica_cpu_pool_chunk *fresh = mica_cpu_alloc(be, bytes);
    if (!fresh)
        return NULL;
    fresh->size = bytes - ALIGN;
    fresh->used = 0;
    fresh->next = c;
    *link = fresh;
    return fresh;
}

mica_status mica_cpu_pool_alloc(mica_backend *base, mica_pool pool, size_t size, void **out,
                                mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    mica_cpu_pool *p = &be->pool[pool];
    size_t rounded = 0;
    *out = NULL;
    if (mica_add_size(MICA_MAX(size, (size_t)1), ALIGN - 1, &rounded)) {
        rounded &= ~(ALIGN - 1);
        mica_cpu_pool_chunk *c = p->current;
        if (!c || c->size - c->used < rounded)
            c = next_chunk(be, p, rounded);
        if (c) {
            p->current = c;
            *out = chunk_data(c) + c->used;
            c->used += rounded;
            p->in_use += rounded;
            p->peak = MICA_MAX(p->peak, p->in_use);
            return MICA_OK;
        }
    }
    return MICA_FAIL(err, MICA_E_NOMEM,
                     "a tensor of %zu bytes could not be had (%zu bytes of this pool are in use); "
                     "use a smaller picture or batch",
                     size, p->in_use);
}

mica_pool_mark mica_cpu_pool_get_mark(mica_backend *base, mica_pool pool)
{
    const mica_cpu_pool *p = &mica_cpu_from(base)->pool[pool];
    return (mica_pool_mark){p->current, p->current ? p->current->used : 0, p->in_use};
}

void mica_cpu_pool_release(mica_backend *base, mica_pool pool, mica_pool_mark mark)
{
    mica_cpu_pool *p = &mica_cpu_from(base)->pool[pool];
    mica_cpu_pool_chunk *c = mark.chunk;
    if (c)
        c->used = mark.used;
    for (mica_cpu_pool_chunk *later = c ? c->next : p->first; later; later = later->next)
        later->used = 0;
    p->current = c;
    p->in_use = mark.in_use;
}

static void free_chunks(mica_cpu_pool_chunk **link)
{
    while (*link) {
        mica_cpu_pool_chunk *c = *link;
        *link = c->next;
        mica_cpu_free(c);
    }
}

void mica_cpu_pool_trim(mica_backend *base)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    for (int i = 0; i < MICA_POOL_COUNT; i++) {
        mica_cpu_pool *p = &be->pool[i];
        free_chunks(p->current ? &p->current->next : &p->first);
    }
    mica_cpu_scratch_trim(be);
    mica_dnnl_trim(be->dnnl);
}

uint64_t mica_cpu_pool_peak(const mica_backend *base, mica_pool pool)
{
    return ((const mica_cpu_backend *)base)->pool[pool].peak;
}

void mica_cpu_pool_deinit(mica_cpu_backend *be)
{
    for (int i = 0; i < MICA_POOL_COUNT; i++) {
        free_chunks(&be->pool[i].first);
        be->pool[i].current = NULL;
    }
}
