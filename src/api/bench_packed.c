/* bench_packed.c - packed weights in `mica bench --kernels`: few rows against the bandwidth of memory, many rows
 * against the same product of bf16 weights.
 *
 *     one row      a weight of at least 256 MiB, far beyond the caches: bytes a second, share of the bandwidth
 *                  that was measured before and behind it; rows of 4,096 numbers and, as the second matrix of
 *                  an MLP has them, of 14,336, beside which x does not fit into the nearest cache
 *     many rows    1,024 (a GPU: 4,096) x 3,072 x 3,072: share of the rate of the bf16 weight of that shape
 *
 * Weights are normal numbers, packed; a block of 64 rows is made once and repeated. */
#include "api/bench.h"

#include "base/half.h"
#include "base/rng.h"
#include "tensor/pack_weights.h"

#include <stdio.h>
#include <string.h>

#define WIDTH   4096
#define LONG    14336
#define BYTES   ((size_t)256 << 20)
#define PATTERN 64 /* rows that are made */
#define MANY_D  3072
#define TRIES   4 /* at a product between two equal bandwidths */

static const mica_dtype TYPES[] = {
    MICA_DTYPE_BF16, MICA_DTYPE_I8,   MICA_DTYPE_Q8_0,  MICA_DTYPE_MLX8,   MICA_DTYPE_Q6_K,
    MICA_DTYPE_MLX6, MICA_DTYPE_Q5_K, MICA_DTYPE_Q5_0,  MICA_DTYPE_MLX5,   MICA_DTYPE_Q4_K,
    MICA_DTYPE_Q4_0, MICA_DTYPE_MLX4, MICA_DTYPE_MXFP4, MICA_DTYPE_IQ4_XS, MICA_DTYPE_Q3_K,
    MICA_DTYPE_MLX3, MICA_DTYPE_Q2_K, MICA_DTYPE_MLX2};

static void fill_row(float *x, int n, mica_mt19937 *g)
{
    for (int i = 0; i < n; i++)
        x[i] = ((float)(mica_mt19937_next(g) >> 8) * 0x1p-24f - 0.5f) * 0.1f;
}

/* Types that nobody writes here: bytes that are small numbers whichever field they belong to. */
static bool is_unwritten(mica_dtype dtype)
{
    return dtype == MICA_DTYPE_Q2_K || dtype == MICA_DTYPE_Q3_K || dtype == MICA_DTYPE_IQ4_XS ||
           dtype == MICA_DTYPE_MXFP4;
}

static void pack_row(const mica_tensor *t, int64_t row, const float *x)
{
    const mica_dtype_info *info = mica_dtype_get(t->dtype);
    const int64_t n = t->shape_[1];
    uint8_t *to = (uint8_t *)t->data + mica_tensor_offset(t, row * n);
    for (int64_t i = 0; i < n; i += info->block) {
        if (t->dtype == MICA_DTYPE_BF16)
            ((uint16_t *)(void *)to)[i] = mica_f32_to_bf16(x[i]);
        else if (t->dtype == MICA_DTYPE_I8)
            to[i] = (uint8_t)(int8_t)(x[i] * 2000.0f);
        else if (is_unwritten(t->dtype))
            for (int b = 0; b < info->size; b++)
                to[i / info->block * info->size + b] = (uint8_t)(0x20 | ((i * 7 + b * 5) & 15));
        else if (!mica_dtype_is_affine(t->dtype))
            mica_packed_write_block(t->dtype, x + i, to + i / info->block * info->size);
    }
    const int group = t->scale.group;
    for (int64_t i = 0; group && i < n; i += group)
        mica_affine_write_group(info->size / 4, group, x + i, to + i / 32 * info->size,
                                (uint16_t *)(uintptr_t)t->scale.data + (row * n + i) / group,
                                (uint16_t *)(uintptr_t)t->scale.bias + (row * n + i) / group);
}

/* Rows beyond the pattern repeat it. */
static void fill(const mica_tensor *t)
{
    mica_mt19937 g;
    float x[LONG];
    const int64_t rows = t->shape_[0], n = t->shape_[1];
    const size_t row = (size_t)mica_tensor_offset(t, n);
    const size_t scales = t->scale.group ? (size_t)(n / t->scale.group) * 2 : 0;
    uint8_t *data = t->data, *s = (uint8_t *)(uintptr_t)t->scale.data;
    uint8_t *b = (uint8_t *)(uintptr_t)t->scale.bias;
    mica_mt19937_init(&g, 5489);
    for (int64_t r = 0; r < rows; r++) {
        if (r < PATTERN) {
            fill_row(x, (int)n, &g);
            pack_row(t, r, x);
            continue;
        }
        const int64_t from = r % PATTERN;
        memcpy(data + (size_t)r * row, data + (size_t)from * row, row);
        if (scales) {
            memcpy(s + (size_t)r * scales, s + (size_t)from * scales, scales);
            memcpy(b + (size_t)r * scales, b + (size_t)from * scales, scales);
        }
    }
    for (int64_t r = 0; t->dtype == MICA_DTYPE_I8 && r < rows; r++)
        ((float *)(void *)s)[r] = 1.0f / 2000.0f;
}

/* A filled weight; *memory is freed with mica_mem_free. */
static mica_status make_weight(mica_dtype dtype, int64_t rows, int64_t n, mica_weight *w,
                               void **memory, mica_err *err)
{
    mica_tensor t = mica_tensor_2d(NULL, dtype, rows, n);
    const size_t data = (mica_tensor_size(&t) + 63) / 64 * 64;
    const size_t scales = mica_dtype_is_affine(dtype) ? (size_t)(rows * n / 64) * 2
                          : dtype == MICA_DTYPE_I8    ? (size_t)rows * 4
                                                      : 0;
    uint8_t *p = *memory = mica_mem_alloc_aligned(data + 2 * scales, 4096);
    if (!p)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a weight of %zu bytes", data);
    t.data = p;
    if (mica_dtype_is_affine(dtype))
        t.scale = (mica_tensor_scale){
            .data = p + data, .dtype = MICA_DTYPE_BF16, .group = 64, .bias = p + data + scales};
    else if (scales)
        t.scale = (mica_tensor_scale){.data = p + data, .dtype = MICA_DTYPE_F32, .per_row = true};
    fill(&t);
    *w = (mica_weight){.tensor = t, .name = "bench"};
    return MICA_OK;
}

/* Seconds of one product of m rows with the weight; 0 after a failure. */
static double time_product(mica_backend *be, mica_weight *w, int m)
{
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    const int64_t n = w->tensor.shape_[1], o = w->tensor.shape_[0];
    mica_tensor x = api_bench_ones(be, 2, (int64_t[]){m, n});
    mica_tensor y = mica_act_tensor(be, MICA_POOL_SESSION, 2, (int64_t[]){m, o});
    const mica_linear_args args = {.x_MD = &x, .w_OD = w, .y_MO = &y, .by_row = m == 1};
    mica_linear(be, &args);
    const double seconds = api_bench_time_linear(be, &args);
    mica_backend_drop_weights(be, &w, 1);
    mica_pool_release(be, MICA_POOL_SESSION, mark);
    return mica_backend_failed(be) ? 0.0 : seconds;
}

/* As many as make the product the larger part of the work. */
static int many_rows(const mica_backend *be)
{
    return mica_backend_is_queued(be) ? 4096 : 1024;
}

typedef struct one_row {
    double seconds, bytes, numbers;
    double share; /* of the bandwidth */
} one_row;

/* What memory gives changes from second to second where others use it too: it is measured before and behind a
 * product, and where the two differ by more than a twentieth all of it again. The closest pair counts. */
static void time_row(mica_backend *be, mica_weight *w, one_row *out)
{
    double nearest = 0.0, before = mica_backend_measure_bandwidth(be);
    for (int i = 0; i < TRIES && nearest < 0.95; i++) {
        const double seconds = time_product(be, w, 1);
        const double behind = mica_backend_measure_bandwidth(be);
        const double near = MICA_MIN(before, behind) / MICA_MAX(before, behind);
        if (near > nearest) {
            nearest = near;
            out->seconds = seconds;
            out->share = out->bytes / seconds / MICA_MAX(before, behind);
        }
        before = behind;
    }
}

static mica_status bench_row(mica_backend *be, mica_dtype dtype, int64_t width, one_row *out,
                             mica_err *err)
{
    const mica_tensor row = mica_tensor_2d(NULL, dtype, 1, width);
    const int64_t rows = (int64_t)(BYTES / mica_tensor_size(&row));
    mica_weight w;
    void *memory = NULL;
    MICA_TRY(make_weight(dtype, rows, width, &w, &memory, err));
    out->numbers = (double)rows * (double)width;
    out->bytes = (double)(mica_tensor_size(&w.tensor) + mica_tensor_scale_size(&w.tensor));
    time_row(be, &w, out);
    mica_mem_free(memory);
    return mica_backend_check(be, err);
}

static mica_status bench_many(mica_backend *be, mica_dtype dtype, double *seconds, mica_err *err)
{
    mica_weight w;
    void *memory = NULL;
    MICA_TRY(make_weight(dtype, MANY_D, MANY_D, &w, &memory, err));
    *seconds = time_product(be, &w, many_rows(be));
    mica_mem_free(memory);
    return mica_backend_check(be, err);
}

static mica_status bench_type(const api_bench *b, mica_backend *be, mica_dtype dtype, double *dense,
                              mica_err *err)
{
    const char *name = mica_dtype_get(dtype)->name;
    one_row usual, longer;
    double many;
    MICA_TRY(bench_row(be, dtype, WIDTH, &usual, err));
    MICA_TRY(bench_row(be, dtype, LONG, &longer, err));
    MICA_TRY(bench_many(be, dtype, &many, err));
    if (dtype == MICA_DTYPE_BF16)
        *dense = many;
    api_bench_say(
        b,
        "  %-8s one row %7.1f GB/s %4.0f %% of the bandwidth, %d long %4.0f %% %9.2f G numbers/s   "
        "%d rows %4.0f %% of bf16",
        name, usual.bytes / usual.seconds * 1e-9, 100.0 * usual.share, LONG, 100.0 * longer.share,
        usual.numbers / usual.seconds * 1e-9, many_rows(be), 100.0 * *dense / many);
    mica_text_add(&b->report->json,
                  ",{\"operation\":\"packed %s\",\"row_seconds\":%.9f,\"row_bytes\":%.0f,"
                  "\"share_of_bandwidth\":%.4f,\"long_row\":%d,\"long_row_seconds\":%.9f,"
                  "\"long_row_bytes\":%.0f,\"long_row_share_of_bandwidth\":%.4f,\"rows\":%d,"
                  "\"rows_seconds\":%.9f,\"share_of_bf16\":%.4f}",
                  name, usual.seconds, usual.bytes, usual.share, LONG, longer.seconds, longer.bytes,
                  longer.share, many_rows(be), many, *dense / many);
    return MICA_OK;
}

mica_status api_bench_packed(const api_bench *b)
{
    const mica_backend_options o = {
        .device = b->engine.device, .precision = MICA_PRECISION_BF16, .threads = b->engine.threads};
    mica_backend *be = NULL;
    mica_err *err = &b->report->err;
    double dense = 0.0;
    MICA_TRY(mica_backend_open(&be, &o, err));
    const double bandwidth = mica_backend_measure_bandwidth(be);
    mica_status st = mica_backend_check(be, err);
    if (!st) {
        api_bench_say(b, "%s, packed weights; memory delivers %.1f GB/s", mica_backend_name(be),
                      bandwidth * 1e-9);
        mica_text_add(&b->report->json, ",{\"operation\":\"bandwidth\",\"bytes_per_second\":%.0f}",
                      bandwidth);
    }
    for (size_t i = 0; !st && i < MICA_ARRAY_LEN(TYPES); i++)
        st = bench_type(b, be, TYPES[i], &dense, err);
    mica_backend_close(&be);
    return st;
}
