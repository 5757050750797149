/* kv_cache.h - keys and values of the tokens a language model has read, for one sequence.
 *
 *     layer  k [capacity, G, K]  ######........      rows [0, count) are valid
 *            v [capacity, G, K]  ######........      capacity grows by 256 rows at a time
 *
 * New rows are written in place behind the others and nothing is ever joined (technique 4); growing
 * copies once in 256 tokens. Activations' dtype, or 8 bits with an f32 scale and bias for each group
 * of up to 128 numbers of a head: 8.5 bits a number instead of 32 (on a device: 16). The model writes and
 * reads the rows by views:
 *
 *     mica_kv_cache_reserve(cache, more)          once a pass
 *     mica_kv_cache_rows(cache, layer, MICA_KV_KEYS, cache->count, more)    where new keys go
 *     mica_kv_cache_rows(cache, layer, MICA_KV_KEYS, 0, cache->count + more)    what queries see
 *     cache->count += more                        when the pass has been queued
 */
#ifndef MICA_NN_KV_CACHE_H
#define MICA_NN_KV_CACHE_H

#include "backend/backend.h"

#define MICA_KV_STEP 256

typedef enum mica_kv_half { MICA_KV_KEYS = 0, MICA_KV_VALUES } mica_kv_half;

typedef struct mica_kv_cache {
    mica_backend *be;
    int layers;
    int64_t heads, width; /* G, K */
    int64_t count;        /* valid rows; may be set back to forget the last ones */
    int64_t capacity;     /* a multiple of MICA_KV_STEP */
    bool q8;
    mica_tensor (*rows)[2]; /* by layer */
} mica_kv_cache;

/* Empty; the backend must outlive it. deinit also of a zeroed one. */
mica_status mica_kv_cache_init(mica_kv_cache *c, mica_backend *be, int layers, int64_t heads,
                               int64_t width, mica_err *err);
/* Before the first row: 8 bits from now on. MICA_E_UNSUPPORTED for heads whose size is no multiple of 32. */
mica_status mica_kv_cache_use_q8(mica_kv_cache *c, mica_err *err);
void mica_kv_cache_deinit(mica_kv_cache *c);
/* Room for `more` rows behind the valid ones. A failure leaves the cache as it was. */
mica_status mica_kv_cache_reserve(mica_kv_cache *c, int64_t more, mica_err *err);
mica_tensor mica_kv_cache_rows(const mica_kv_cache *c, int layer, mica_kv_half half, int64_t first,
                               int64_t count);
/* The first `count` rows of a half as they are kept, for a file: [count, G, K] of the activations' dtype; or
 * [count, G, K / 4] with four numbers' bits in the place of an f32, then [count, G, groups] of scales and of
 * biases. Returns how many there are. To and from the host by mica_download_f32 and mica_upload_f32. */
#define MICA_KV_PIECES 3
int mica_kv_cache_pieces(const mica_kv_cache *c, int layer, mica_kv_half half, int64_t count,
                         mica_tensor pieces[MICA_KV_PIECES]);
uint64_t mica_kv_cache_bytes(const mica_kv_cache *c);

#endif
