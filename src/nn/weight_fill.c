/* weight_fill.c - random weights by table row, for measurements without a download.
 *
 *     noise[65521]  ──copied at a running offset──►  one bf16 block per tensor
 *
 * Numbers repeat every 65,521 values (prime, so that no two rows of a matrix line up), which
 * no matrix product can tell from fresh ones. Each tensor has memory of its own. */
#include "nn/weight_table.h"

#include "base/checked.h"
#include "base/half.h"
#include "base/rng.h"

#include <string.h>

#define POOL_COUNT 65521
#define DEVIATION  0.02f

/* Irwin-Hall: twelve uniforms less six have variance 1; good enough for value ranges. */
static void fill_pool(uint16_t *pool)
{
    mica_mt19937 g;
    mica_mt19937_init(&g, 20240817);
    for (int i = 0; i < POOL_COUNT; i++) {
        float sum = -6.0f;
        for (int k = 0; k < 12; k++)
            sum += (float)(mica_mt19937_next(&g) >> 8) * 0x1p-24f;
        pool[i] = mica_f32_to_bf16(sum * DEVIATION);
    }
}

static void fill_tensor(uint16_t *out, size_t count, const uint16_t *pool, size_t start)
{
    for (size_t i = 0, at = start % POOL_COUNT; i < count; at = 0) {
        const size_t n = MICA_MIN(count - i, POOL_COUNT - at);
        memcpy(out + i, pool + at, n * sizeof *out);
        i += n;
    }
}

static bool is_norm_vector(const mica_weight_row *row)
{
    return strlen(row->shape) == 1 && strstr(row->pattern, "norm") &&
           strstr(row->pattern, "weight");
}

static mica_status fill_row(mica_weights *w, const mica_weight_dims *dims, mica_arena *arena,
                            const mica_weight_row *row, int index, const uint16_t *pool,
                            mica_err *err)
{
    int64_t shape[MICA_MAX_DIMS];
    const int ndim = (int)strlen(row->shape);
    size_t count = 1;
    bool fits = true;
    for (int i = 0; i < ndim; i++) {
        shape[i] = dims->of[(unsigned char)row->shape[i]];
        fits = fits && mica_mul_size(count, (size_t)shape[i], &count);
    }
    uint16_t *data = fits ? mica_arena_calloc(arena, count, sizeof *data) : NULL;
    if (!data)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu random weights of %s", count,
                         row->pattern);
    char name[MICA_WEIGHT_NAME];
    mica_weight_row_name(row, index, name);
    if (is_norm_vector(row))
        for (size_t i = 0; i < count; i++)
            data[i] = mica_f32_to_bf16(1.0f);
    else
        fill_tensor(data, count, pool, mica_weights_count(w) * 7919);
    const mica_tensor t = mica_tensor_make(data, MICA_DTYPE_BF16, ndim, shape);
    return mica_weights_add(w, name, &t, err);
}

mica_status mica_weight_fill(mica_weights *w, const mica_weight_dims *dims, mica_arena *arena,
                             const mica_weight_row *rows, size_t count, int index, mica_err *err)
{
    uint16_t *pool = mica_arena_calloc(arena, POOL_COUNT, sizeof *pool);
    if (!pool)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for random weights");
    fill_pool(pool);
    for (size_t i = 0; i < count; i++)
        MICA_TRY(fill_row(w, dims, arena, &rows[i], index, pool, err));
    return MICA_OK;
}
