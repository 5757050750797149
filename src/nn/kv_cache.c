/* kv_cache.c - see kv_cache.h. */
#include "nn/kv_cache.h"

#include "base/checked.h"
#include "base/mem.h"

mica_status mica_kv_cache_init(mica_kv_cache *c, mica_backend *be, int layers, int64_t heads,
                               int64_t width, mica_err *err)
{
    *c = (mica_kv_cache){.be = be, .layers = layers, .heads = heads, .width = width};
    c->rows = mica_mem_calloc((size_t)layers, sizeof *c->rows);
    if (!c->rows)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the caches of %d layers", layers);
    return MICA_OK;
}

void mica_kv_cache_deinit(mica_kv_cache *c)
{
    for (int i = 0; c->rows && i < 2 * c->layers; i++)
        mica_backend_buffer_free(c->be, c->rows[i / 2][i % 2].data);
    mica_mem_free(c->rows);
    *c = (mica_kv_cache){0};
}

static mica_tensor shaped(const mica_kv_cache *c, void *data, int64_t capacity)
{
    return mica_tensor_3d(data, mica_backend_act_dtype(c->be), capacity, c->heads, c->width);
}

/* One half of one layer with more room. */
static mica_status grow(mica_kv_cache *c, mica_tensor *t, int64_t capacity, mica_err *err)
{
    mica_tensor grown = shaped(c, NULL, capacity);
    grown.data = mica_backend_buffer_alloc(c->be, mica_tensor_size(&grown));
    MICA_TRY(mica_backend_check(c->be, err));
    if (c->count > 0) {
        const mica_tensor from = mica_tensor_rows(t, 0, c->count);
        mica_tensor to = mica_tensor_rows(&grown, 0, c->count);
        mica_copy(c->be, &from, &to);
    }
    mica_backend_buffer_free(c->be, t->data);
    *t = grown;
    return mica_backend_check(c->be, err);
}

mica_status mica_kv_cache_reserve(mica_kv_cache *c, int64_t more, mica_err *err)
{
    const int64_t need = c->count + more;
    if (need <= c->capacity)
        return MICA_OK;
    const int64_t capacity = (need + MICA_KV_STEP - 1) / MICA_KV_STEP * MICA_KV_STEP;
    size_t bytes = (size_t)c->heads * (size_t)c->width * sizeof(float);
    if (more < 0 || !mica_mul_size(bytes, (size_t)capacity, &bytes) || bytes > INT64_MAX / 2)
        return MICA_FAIL(err, MICA_E_NOMEM, "%lld tokens are too many for a cache",
                         (long long)need);
    for (int i = 0; i < 2 * c->layers; i++)
        MICA_TRY(grow(c, &c->rows[i / 2][i % 2], capacity, err));
    c->capacity = capacity; /* halves that have grown before a failure have room to spare */
    return MICA_OK;
}

mica_tensor mica_kv_cache_rows(const mica_kv_cache *c, int layer, mica_kv_half half, int64_t first,
                               int64_t count)
{
    return mica_tensor_rows(&c->rows[layer][half], first, count);
}

uint64_t mica_kv_cache_bytes(const mica_kv_cache *c)
{
    const mica_tensor t = shaped(c, NULL, c->capacity);
    return 2 * (uint64_t)c->layers * (uint64_t)mica_tensor_size(&t);
}
