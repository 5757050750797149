/* cuda_pool.c - two stacks of tensors in large device chunks; see cpu_pool.c, whose rules these are.
 *
 *     first ──► chunk ──► chunk ──► NULL     headers on the host, data on the device
 *               ####..    ......             current: where allocation goes on
 *
 * Release makes room for the next operation at once: the stream runs in order, so what is queued
 * later cannot overwrite what an earlier operation still reads. To give a chunk back to the driver and to
 * take another takes a millisecond or two and waits for the device, so empty chunks stay between phases
 * until somebody has no room; under a limit (--vram) they go at once. */
#include "backend/cuda/cuda_backend.h"

#include "base/checked.h"
#include "base/mem.h"

#define MIN_CHUNK ((size_t)64 << 20)

struct mica_cuda_chunk {
    mica_cuda_chunk *next;
    size_t size, used;
    uint8_t *data; /* device */
};

/* The next chunk with room for `size` bytes; a new one goes before a small one, where the next
 * pass meets it first. */
static mica_status next_chunk(mica_cuda_backend *be, mica_cuda_pool *p, size_t size,
                              mica_cuda_chunk **out, mica_err *err)
{
    mica_cuda_chunk **link = p->current ? &p->current->next : &p->first;
    *out = *link;
    if (*out && (*out)->size >= size)
        return MICA_OK;
    mica_cuda_chunk *fresh = mica_mem_calloc(1, sizeof *fresh);
    if (!fresh)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the header of a chunk");
    void *data = NULL;
    mica_err unused;
    fresh->size = MICA_MAX(size, MIN_CHUNK);
    mica_status st = mica_cuda_alloc(be, fresh->size, "activations", &data, &unused);
    if (st) { /* perhaps as much as is needed */
        fresh->size = size;
        st = mica_cuda_alloc(be, fresh->size, "activations", &data, err);
    }
    if (st) {
        mica_mem_free(fresh);
        return st;
    }
    fresh->data = data;
    fresh->next = *link;
    *link = *out = fresh;
    return MICA_OK;
}

mica_status mica_cuda_pool_alloc(mica_backend *base, mica_pool pool, size_t size, void **out,
                                 mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    mica_cuda_pool *p = &be->pool[pool];
    mica_cuda_chunk *c = p->current;
    *out = NULL;
    if (size > SIZE_MAX / 2)
        return MICA_FAIL(err, MICA_E_NOMEM, "a tensor of %zu bytes does not fit", size);
    const size_t rounded = mica_cuda_align(MICA_MAX(size, (size_t)1));
    if (!c || c->size - c->used < rounded)
        MICA_TRY(next_chunk(be, p, rounded, &c, err));
    p->current = c;
    *out = c->data + c->used;
    c->used += rounded;
    p->in_use += rounded;
    p->peak = MICA_MAX(p->peak, p->in_use);
    return MICA_OK;
}

mica_pool_mark mica_cuda_pool_get_mark(mica_backend *base, mica_pool pool)
{
    const mica_cuda_pool *p = &mica_cuda_from(base)->pool[pool];
    return (mica_pool_mark){p->current, p->current ? p->current->used : 0, p->in_use};
}

void mica_cuda_pool_release(mica_backend *base, mica_pool pool, mica_pool_mark mark)
{
    mica_cuda_pool *p = &mica_cuda_from(base)->pool[pool];
    mica_cuda_chunk *c = mark.chunk;
    if (c)
        c->used = mark.used;
    for (mica_cuda_chunk *later = c ? c->next : p->first; later; later = later->next)
        later->used = 0;
    p->current = c;
    p->in_use = mark.in_use;
}

static bool free_chunks(mica_cuda_backend *be, mica_cuda_chunk **link)
{
    const bool any = *link != NULL;
    while (*link) {
        mica_cuda_chunk *c = *link;
        *link = c->next;
        mica_cuda_free(be, c->data);
        mica_mem_free(c);
        be->moves++;
    }
    return any;
}

bool mica_cuda_pool_give_way(mica_cuda_backend *be)
{
    mica_err ignored; /* a failure of the device comes up with the next operation */
    for (int i = 0; i < 2; i++)
        (void)mica_cuda_residual_settle(be, i, &ignored);
    bool any = mica_cuda_spare_give_way(be);
    for (int i = 0; i < MICA_POOL_COUNT; i++) {
        mica_cuda_pool *p = &be->pool[i];
        any |= free_chunks(be, p->current ? &p->current->next : &p->first);
    }
    return any;
}

void mica_cuda_pool_trim(mica_backend *base)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    if (!be->base.options.vram_limit && !be->streaming)
        return;
    mica_cuda_pool_give_way(be);
    for (int i = 0; i < 2; i++) {
        mica_cuda_free(be, be->scratch[i]);
        be->scratch[i] = NULL;
        be->scratch_size[i] = 0;
    }
}

uint64_t mica_cuda_pool_peak(const mica_backend *base, mica_pool pool)
{
    return ((const mica_cuda_backend *)base)->pool[pool].peak;
}

void mica_cuda_pool_deinit(mica_cuda_backend *be)
{
    mica_cuda_spare_give_way(be);
    for (int i = 0; i < MICA_POOL_COUNT; i++) {
        free_chunks(be, &be->pool[i].first);
        be->pool[i].current = NULL;
    }
}
