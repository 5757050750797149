/* cuda_spare.c - buffers that were given back, kept for the next one of their size.
 *
 *     buffer_free ──► spares (the newest last) ──► buffer_alloc of the same size
 *                        └─► the driver: when there are too many, when memory is wanted, at the end
 *
 * Every sentence of a speech model has a cache of 48 pieces, which grows all at once: taking them from the
 * driver and giving them back costs more than the sentence's first second of tokens, and each return waits for
 * the device. A spare is used again without waiting, since all work on buffers is queued on one stream. Pieces
 * below LEAST, which the host may read behind, are not kept. */
#include "backend/cuda/cuda_backend.h"

#define LEAST      ((size_t)64 << 10)
#define MOST_BYTES ((size_t)256 << 20) /* a cache that grows leaves ever larger pieces */

static void drop_all(mica_cuda_backend *be)
{
    for (int i = 0; i < be->spare_count; i++)
        mica_cuda_free(be, be->spares[i].data);
    be->spare_count = 0;
    be->spare_bytes = 0;
}

bool mica_cuda_spare_give_way(mica_cuda_backend *be)
{
    const bool any = be->spare_count > 0;
    drop_all(be);
    return any;
}

static void *take(mica_cuda_backend *be, size_t size)
{
    for (int i = be->spare_count - 1; i >= 0; i--)
        if (be->spares[i].size == size) {
            void *data = be->spares[i].data;
            be->spares[i] = be->spares[--be->spare_count];
            be->spare_bytes -= size;
            return data;
        }
    return NULL;
}

mica_status mica_cuda_buffer_alloc(mica_backend *base, size_t size, void **out, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    *out = take(be, size);
    return *out ? MICA_OK : mica_cuda_alloc(be, size, "a buffer", out, err);
}

void mica_cuda_buffer_free(mica_backend *base, void *buffer)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const size_t size = buffer ? mica_cuda_block_size(buffer) : 0;
    if (size < LEAST || size > MOST_BYTES - be->spare_bytes ||
        be->spare_count == MICA_CUDA_SPARES) {
        mica_cuda_free(be, buffer);
        return;
    }
    be->frees++; /* graphs that know its address are void */
    be->spares[be->spare_count++] = (mica_cuda_spare){buffer, size};
    be->spare_bytes += size;
}
