/* weights_hash.c - a short identity of weights that costs milliseconds, not the file.
 *
 *     per tensor   h = hash(name, dtype, shape, scale kind [, sampled bytes])
 *     all          digest = mix(sum of h)
 *
 * The sum makes the digest independent of the order of tensors and of how they are spread
 * over shards; names are those of the file, so renaming does not change it. Sampled are the
 * first and last 48 bytes of the tensors that their own name hash selects: all of them in
 * small files, 16 to 32 in large ones, because every sample may be a page fault and a disk
 * seek. Fine-tunes of one network differ in most of their large tensors, so this tells them
 * apart; an edit of a few values it does not see. Not cryptographic, not for integrity. */
#include "format/weights_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SAMPLE_BYTES   48
#define SAMPLED_AT_MIN 16 /* tensors, on average at least */

/* FNV-1a, 64 bits (Fowler, Noll, Vo). */
static uint64_t add_bytes(uint64_t h, const void *data, size_t size)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

static uint64_t add_u64(uint64_t h, uint64_t v)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(v >> (8 * i));
    return add_bytes(h, bytes, sizeof bytes);
}

/* Finaliser of splitmix64 (Steele, Lea, Flood 2014): FNV alone leaves the high bits of
 * short inputs poor, which a plain sum would keep. */
static uint64_t mix(uint64_t h)
{
    h = (h ^ (h >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    h = (h ^ (h >> 27)) * UINT64_C(0x94d049bb133111eb);
    return h ^ (h >> 31);
}

static uint64_t add_samples(uint64_t h, const mica_tensor *t)
{
    const size_t size = mica_tensor_size(t);
    const uint8_t *p = t->data;
    if (p == NULL || size <= 2 * SAMPLE_BYTES)
        return p == NULL ? h : add_bytes(h, p, size);
    h = add_bytes(h, p, SAMPLE_BYTES);
    return add_bytes(h, p + size - SAMPLE_BYTES, SAMPLE_BYTES);
}

/* dtypes by name: the digest outlives the numbering of the enum. */
static uint64_t hash_entry(const mica_weights_entry *e, uint64_t sample_mask)
{
    const mica_tensor *t = &e->tensor;
    const char *dtype = mica_dtype_get(t->dtype)->name;
    uint64_t h = add_bytes(UINT64_C(0xcbf29ce484222325), e->source, strlen(e->source) + 1);
    const bool is_sampled = (mix(h) & sample_mask) == 0;
    h = add_bytes(h, dtype, strlen(dtype) + 1);
    h = add_u64(h, (uint64_t)t->ndim);
    for (int i = 0; i < t->ndim; i++)
        h = add_u64(h, (uint64_t)t->shape_[i]);
    h = add_u64(h, t->scale.data == NULL ? 0
                   : t->scale.group      ? 1 + (uint64_t)t->scale.group
                                         : 1 + (uint64_t)t->scale.per_row);
    return mix(is_sampled ? add_samples(h, t) : h);
}

void mica_weights_hash(const mica_weights *w, char out[17])
{
    uint64_t mask = 0, sum = w->count;
    if (w->hash[0] != '\0') {
        memcpy(out, w->hash, sizeof w->hash);
        return;
    }
    while (w->count / (2 * (mask + 1)) >= SAMPLED_AT_MIN)
        mask = 2 * mask + 1;
    for (size_t i = 0; i < w->count; i++)
        sum += hash_entry(w->list[i], mask);
    snprintf(out, 17, "%016" PRIx64, mix(sum));
}
