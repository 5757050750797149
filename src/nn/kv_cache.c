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

mica_status mica_kv_cache_use_q8(mica_kv_cache *c, mica_err *err)
{
    if (c->width % 32)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "a cache in 8 bits needs heads of a multiple of 32, not %lld",
                         (long long)c->width);
    c->q8 = true;
    return MICA_OK;
}

/* Numbers of a head that share a scale. */
static int group_of(const mica_kv_cache *c)
{
    return c->width % 128 == 0 ? 128 : c->width % 64 == 0 ? 64 : 32;
}

/* Bytes of one half's numbers; in 8 bits its scales follow, then its biases. */
static size_t numbers(const mica_kv_cache *c, int64_t capacity)
{
    const size_t count = (size_t)(capacity * c->heads * c->width);
    return c->q8 ? count : count * (size_t)mica_dtype_get(mica_backend_act_dtype(c->be))->size;
}

static size_t scales(const mica_kv_cache *c, int64_t capacity)
{
    return c->q8 ? (size_t)(capacity * c->heads * c->width) / (size_t)group_of(c) * sizeof(float)
                 : 0;
}

static mica_tensor shaped(const mica_kv_cache *c, void *data, int64_t capacity)
{
    const mica_dtype dtype = c->q8 ? MICA_DTYPE_MLX8 : mica_backend_act_dtype(c->be);
    mica_tensor t = mica_tensor_3d(data, dtype, capacity, c->heads, c->width);
    if (c->q8) {
        const char *first = (const char *)data + numbers(c, capacity);
        t.scale = (mica_tensor_scale){.data = first,
                                      .dtype = MICA_DTYPE_F32,
                                      .group = group_of(c),
                                      .bias = first + scales(c, capacity)};
    }
    return t;
}

static mica_tensor piece(const void *data, int64_t count, int64_t heads, int64_t width)
{
    return mica_tensor_3d((void *)(uintptr_t)data, MICA_DTYPE_F32, count, heads, width);
}

static int pieces_of(const mica_kv_cache *c, const mica_tensor *half, int64_t count,
                     mica_tensor pieces[MICA_KV_PIECES])
{
    pieces[0] = mica_tensor_rows(half, 0, count);
    if (!c->q8)
        return 1;
    const int64_t groups = c->width / group_of(c);
    pieces[0] = piece(half->data, count, c->heads, c->width / 4);
    pieces[1] = piece(half->scale.data, count, c->heads, groups);
    pieces[2] = piece(half->scale.bias, count, c->heads, groups);
    return MICA_KV_PIECES;
}

int mica_kv_cache_pieces(const mica_kv_cache *c, int layer, mica_kv_half half, int64_t count,
                         mica_tensor pieces[MICA_KV_PIECES])
{
    return pieces_of(c, &c->rows[layer][half], count, pieces);
}

/* Rows from one half into a larger one, as they are. */
static void move_rows(mica_kv_cache *c, const mica_tensor *from, const mica_tensor *to)
{
    mica_tensor old[MICA_KV_PIECES], fresh[MICA_KV_PIECES];
    const int count = pieces_of(c, from, c->count, old);
    pieces_of(c, to, c->count, fresh);
    for (int i = 0; i < count; i++)
        mica_copy(c->be, &old[i], &fresh[i]);
}

/* One half of one layer with more room. */
static mica_status grow(mica_kv_cache *c, mica_tensor *t, int64_t capacity, mica_err *err)
{
    const size_t size = numbers(c, capacity) + 2 * scales(c, capacity);
    void *data = mica_backend_buffer_alloc(c->be, size);
    MICA_TRY(mica_backend_check(c->be, err));
    mica_tensor grown = shaped(c, data, capacity);
    if (c->count > 0)
        move_rows(c, t, &grown);
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
    return 2 * (uint64_t)c->layers *
           (uint64_t)(numbers(c, c->capacity) + 2 * scales(c, c->capacity));
}
