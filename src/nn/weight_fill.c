/* weight_fill.c - random weights by table row, for measurements without a download.
 *
 *     noise[65521]  ──copied at a running offset──►  one bf16 block per tensor
 *     bytes[256 KB] ──the same──►  packed matrices, MLX's groups of 64 with one scale and bias each
 *
 * With `windows` packed matrices are windows of one block of 64 MB instead: a device makes a copy of its own of
 * each, and 26 GB need not be written first. (On the CPU that would measure the caches.)
 *
 * Numbers repeat every 65,521 values (prime, so that no two rows of a matrix line up), which
 * no matrix product can tell from fresh ones. Each tensor has memory of its own. */
#include "nn/weight_table.h"

#include "base/checked.h"
#include "base/half.h"
#include "base/rng.h"

#include <string.h>

#define POOL_COUNT 65521
#define GROUP      64
#define WINDOW     ((size_t)64 << 20) /* and a tensor's size more */
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

/* What packed matrices are made of. */
static mica_status fill_packed(const mica_weight_filler *f, mica_tensor *t, size_t number,
                               const char *pattern, mica_err *err)
{
    const size_t bytes = (size_t)mica_tensor_count(t) / 8 * (size_t)f->bits;
    const size_t groups = (size_t)mica_tensor_count(t) / GROUP;
    uint16_t *scales = mica_arena_alloc(f->arena, 2 * groups * sizeof *scales);
    uint8_t *data = NULL;
    if (!f->windows)
        data = mica_arena_alloc(f->arena, bytes);
    else if (bytes <= WINDOW)
        data = f->window + number * 4096 % WINDOW;
    if (!data || !scales)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu random bytes of %s", bytes, pattern);
    if (!f->windows)
        fill_tensor((uint16_t *)(void *)data, bytes / 2, f->pool, number * 7919);
    /* Numbers of 4 or 8 bits around the middle: as large as the bf16 noise. */
    const float scale = DEVIATION / (f->bits == 4 ? 4.6f : 74.0f);
    const uint16_t s = mica_f32_to_bf16(scale);
    const uint16_t b = mica_f32_to_bf16(-scale * (f->bits == 4 ? 7.5f : 127.5f));
    for (size_t i = 0; i < groups; i++) {
        scales[i] = s;
        scales[groups + i] = b;
    }
    t->dtype = f->bits == 4 ? MICA_DTYPE_MLX4 : MICA_DTYPE_MLX8;
    t->data = data;
    t->scale = (mica_tensor_scale){
        .data = scales, .dtype = MICA_DTYPE_BF16, .group = GROUP, .bias = scales + groups};
    return MICA_OK;
}

static mica_status fill_row(const mica_weight_filler *f, const mica_weight_row *row, int index,
                            mica_err *err)
{
    int64_t shape[MICA_MAX_DIMS];
    const int ndim = (int)strlen(row->shape);
    const size_t number = mica_weights_count(f->w);
    size_t count = 1;
    bool fits = true;
    char name[MICA_WEIGHT_NAME];
    for (int i = 0; i < ndim; i++) {
        shape[i] = f->dims->of[(unsigned char)row->shape[i]];
        fits = fits && mica_mul_size(count, (size_t)shape[i], &count);
    }
    mica_tensor t = mica_tensor_make(NULL, MICA_DTYPE_BF16, ndim, shape);
    mica_weight_row_name(row, index, name);
    if (fits && f->bits < 16 && ndim == 2 && shape[1] % GROUP == 0 &&
        !(row->flags & MICA_WEIGHT_SENSITIVE)) {
        MICA_TRY(fill_packed(f, &t, number, row->pattern, err));
        return mica_weights_add(f->w, name, &t, err);
    }
    uint16_t *data = fits ? mica_arena_calloc(f->arena, count, sizeof *data) : NULL;
    if (!data)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu random weights of %s", count,
                         row->pattern);
    if (is_norm_vector(row))
        for (size_t i = 0; i < count; i++)
            data[i] = mica_f32_to_bf16(1.0f);
    else
        fill_tensor(data, count, f->pool, number * 7919);
    t.data = data;
    return mica_weights_add(f->w, name, &t, err);
}

/* Random bytes, so that every digit of a packed number is as likely. */
static void fill_bytes(uint8_t *out, size_t count)
{
    mica_mt19937 g;
    mica_mt19937_init(&g, 20240818);
    for (size_t i = 0; i + 4 <= count; i += 4) {
        const uint32_t v = mica_mt19937_next(&g);
        memcpy(out + i, &v, sizeof v);
    }
}

mica_status mica_weight_filler_init(mica_weight_filler *f, mica_weights *w,
                                    const mica_weight_dims *dims, mica_arena *arena, int bits,
                                    bool windows, mica_err *err)
{
    *f = (mica_weight_filler){
        .w = w, .dims = dims, .arena = arena, .bits = bits, .windows = windows && bits < 16};
    uint16_t *pool = mica_arena_calloc(arena, POOL_COUNT, sizeof *pool);
    f->pool = pool;
    if (f->windows)
        f->window = mica_arena_alloc(arena, 2 * WINDOW);
    if (!pool || (f->windows && !f->window))
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for random weights");
    fill_pool(pool);
    if (!f->windows)
        return MICA_OK;
    const size_t seed = (size_t)256 << 10;
    fill_bytes(f->window, seed);
    for (size_t at = seed; at < 2 * WINDOW; at += seed)
        memcpy(f->window + at, f->window, seed);
    return MICA_OK;
}

mica_status mica_weight_filler_run(const mica_weight_filler *f, const mica_weight_row *rows,
                                   size_t count, int index, mica_err *err)
{
    for (size_t i = 0; i < count; i++)
        MICA_TRY(fill_row(f, &rows[i], index, err));
    return MICA_OK;
}

mica_status mica_weight_fill(mica_weights *w, const mica_weight_dims *dims, mica_arena *arena,
                             const mica_weight_row *rows, size_t count, int index, mica_err *err)
{
    mica_weight_filler f;
    MICA_TRY(mica_weight_filler_init(&f, w, dims, arena, 16, false, err));
    return mica_weight_filler_run(&f, rows, count, index, err);
}
