/* check_pack.c - panels: every element where the layout says, zeros in the padding. */
#include "checkkern.h"

static const int widths[] = {16, 32, 48, 64};

typedef struct shape {
    int rows, k, nb;
    ptrdiff_t ld;
    const float *scale; /* per row or NULL */
    size_t source;      /* elements of the source */
} shape;

static shape make_shape(ck *c, bool may_scale)
{
    shape s = {.rows = ck_length(c, 130), .k = ck_length(c, 150), .nb = widths[ck_int(c, 0, 3)]};
    s.ld = ck_stride(c, s.k);
    s.source = ck_matrix_count(s.rows, s.k, s.ld);
    if (may_scale && ck_int(c, 0, 1)) {
        float *scale = ck_floats(c, s.rows);
        ck_fill_normal(c, s.rows, scale, 1.0);
        s.scale = scale;
    }
    return s;
}

static size_t panel_size(const shape *s, int per_unit)
{
    const size_t panels = (size_t)((s->rows + s->nb - 1) / s->nb);
    return panels * (size_t)s->nb * (size_t)((s->k + per_unit - 1) / per_unit * per_unit);
}

/* Place of (row, kk) in panels of `per_unit` elements per lane. */
static size_t place(const shape *s, int per_unit, int row, int kk)
{
    const int units = (s->k + per_unit - 1) / per_unit;
    const size_t lane = (size_t)(row / s->nb) * (size_t)units * (size_t)s->nb +
                        (size_t)(kk / per_unit) * (size_t)s->nb + (size_t)(row % s->nb);
    return lane * (size_t)per_unit + (size_t)(kk % per_unit);
}

static float factor(const shape *s, int row)
{
    return s->scale ? s->scale[row] : 1.0f;
}

/* value(source, index) as a real number; every place of the panels is visited, padding too. */
typedef double source_value(const void *src, size_t index);

static void compare_f32(ck *c, const shape *s, const void *src, source_value *value,
                        const float *dst)
{
    const int all = (s->rows + s->nb - 1) / s->nb * s->nb;
    for (int r = 0; r < all; r++)
        for (int kk = 0; kk < s->k; kk++) {
            const double want =
                r < s->rows ? (double)((float)value(src, (size_t)(r * s->ld + kk)) * factor(s, r))
                            : 0.0;
            ck_near(c, "panel", r * 1000 + kk, dst[place(s, 1, r, kk)], want, 0.0);
        }
}

static void compare_bf16(ck *c, const shape *s, const void *src, source_value *value,
                         const uint16_t *dst)
{
    const int all = (s->rows + s->nb - 1) / s->nb * s->nb, k = (s->k + 1) / 2 * 2;
    for (int r = 0; r < all; r++)
        for (int kk = 0; kk < k; kk++) {
            double want = 0.0;
            if (r < s->rows && kk < s->k)
                want = ck_round_bf16(
                    (double)((float)value(src, (size_t)(r * s->ld + kk)) * factor(s, r)));
            ck_near(c, "panel", r * 1000 + kk, ck_decode_bf16(dst[place(s, 2, r, kk)]), want, 0.0);
        }
}

static double value_f32(const void *src, size_t i)
{
    return ((const float *)src)[i];
}
static double value_bf16(const void *src, size_t i)
{
    return ck_decode_bf16(((const uint16_t *)src)[i]);
}
static double value_f16(const void *src, size_t i)
{
    return ck_decode_f16(((const uint16_t *)src)[i]);
}
static double value_e4m3(const void *src, size_t i)
{
    return ck_decode_e4m3(((const uint8_t *)src)[i]);
}
static double value_e5m2(const void *src, size_t i)
{
    return ck_decode_e5m2(((const uint8_t *)src)[i]);
}

static void *random_bytes(ck *c, size_t count, size_t size)
{
    uint8_t *p = ck_buffer(c, count, size);
    for (size_t i = 0; i < count * size; i++)
        p[i] = (uint8_t)ck_random(c);
    return p;
}
static float *random_floats(ck *c, size_t count)
{
    float *p = ck_floats(c, (int64_t)count);
    ck_fill_normal(c, (int64_t)count, p, 1.0);
    return p;
}

void check_pack_f32_from_f32(ck *c)
{
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        const shape s = make_shape(c, true);
        const float *src = random_floats(c, s.source);
        float *dst = ck_floats(c, (int64_t)panel_size(&s, 1));
        c->k->pack_f32_from_f32(s.rows, s.k, src, s.ld, s.scale, s.nb, dst);
        compare_f32(c, &s, src, value_f32, dst);
        ck_end(c, "matrix");
    }
}

static void check_from_16(ck *c, mica_kernel_pack_f32_from_bf16 *run, source_value *value)
{
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        const shape s = make_shape(c, true);
        const uint16_t *src = random_bytes(c, s.source, 2);
        float *dst = ck_floats(c, (int64_t)panel_size(&s, 1));
        run(s.rows, s.k, src, s.ld, s.scale, s.nb, dst);
        compare_f32(c, &s, src, value, dst);
        ck_end(c, "matrix");
    }
}
static void check_from_8(ck *c, mica_kernel_pack_f32_from_f8_e4m3 *run, source_value *value)
{
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        const shape s = make_shape(c, true);
        const uint8_t *src = random_bytes(c, s.source, 1);
        float *dst = ck_floats(c, (int64_t)panel_size(&s, 1));
        run(s.rows, s.k, src, s.ld, s.scale, s.nb, dst);
        compare_f32(c, &s, src, value, dst);
        ck_end(c, "matrix");
    }
}
void check_pack_f32_from_bf16(ck *c)
{
    check_from_16(c, c->k->pack_f32_from_bf16, value_bf16);
}
void check_pack_f32_from_f16(ck *c)
{
    check_from_16(c, c->k->pack_f32_from_f16, value_f16);
}
void check_pack_f32_from_f8_e4m3(ck *c)
{
    check_from_8(c, c->k->pack_f32_from_f8_e4m3, value_e4m3);
}
void check_pack_f32_from_f8_e5m2(ck *c)
{
    check_from_8(c, c->k->pack_f32_from_f8_e5m2, value_e5m2);
}

void check_pack_bf16_from_f32(ck *c)
{
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        const shape s = make_shape(c, true);
        const float *src = random_floats(c, s.source);
        uint16_t *dst = ck_buffer(c, panel_size(&s, 2), 2);
        c->k->pack_bf16_from_f32(s.rows, s.k, src, s.ld, s.scale, s.nb, dst);
        compare_bf16(c, &s, src, value_f32, dst);
        ck_end(c, "matrix");
    }
}
void check_pack_bf16_from_bf16(ck *c)
{
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        const shape s = make_shape(c, true);
        const uint16_t *src = random_bytes(c, s.source, 2);
        uint16_t *dst = ck_buffer(c, panel_size(&s, 2), 2);
        c->k->pack_bf16_from_bf16(s.rows, s.k, src, s.ld, s.scale, s.nb, dst);
        compare_bf16(c, &s, src, value_bf16, dst);
        ck_end(c, "matrix");
    }
}
void check_pack_s8(ck *c)
{
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        const shape s = make_shape(c, false);
        const int8_t *src = random_bytes(c, s.source, 1);
        int8_t *dst = ck_buffer(c, panel_size(&s, 4), 1);
        c->k->pack_s8(s.rows, s.k, src, s.ld, s.nb, dst);
        const int all = (s.rows + s.nb - 1) / s.nb * s.nb, k = (s.k + 3) / 4 * 4;
        for (int r = 0; r < all; r++)
            for (int kk = 0; kk < k; kk++)
                ck_equal(c, "panel", r * 1000 + kk, dst[place(&s, 4, r, kk)],
                         r < s.rows && kk < s.k ? src[r * s.ld + kk] : 0);
        ck_end(c, "matrix");
    }
}

/* The source is k x n: the matrix of the other checks, transposed. */
void check_pack_f32_from_kmajor(ck *c)
{
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        shape s = make_shape(c, false);
        s.ld = ck_stride(c, s.rows);
        const float *src = random_floats(c, ck_matrix_count(s.k, s.rows, s.ld));
        float *dst = ck_floats(c, (int64_t)panel_size(&s, 1));
        c->k->pack_f32_from_kmajor(s.k, s.rows, src, s.ld, s.nb, dst);
        const int all = (s.rows + s.nb - 1) / s.nb * s.nb;
        for (int r = 0; r < all; r++)
            for (int kk = 0; kk < s.k; kk++)
                ck_near(c, "panel", r * 1000 + kk, dst[place(&s, 1, r, kk)],
                        r < s.rows ? src[kk * s.ld + r] : 0.0f, 0.0);
        ck_end(c, "matrix");
    }
}
void check_pack_bf16_from_kmajor(ck *c)
{
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        shape s = make_shape(c, false);
        s.ld = ck_stride(c, s.rows);
        const float *src = random_floats(c, ck_matrix_count(s.k, s.rows, s.ld));
        uint16_t *dst = ck_buffer(c, panel_size(&s, 2), 2);
        c->k->pack_bf16_from_kmajor(s.k, s.rows, src, s.ld, s.nb, dst);
        const int all = (s.rows + s.nb - 1) / s.nb * s.nb, k = (s.k + 1) / 2 * 2;
        for (int r = 0; r < all; r++)
            for (int kk = 0; kk < k; kk++)
                ck_near(c, "panel", r * 1000 + kk, ck_decode_bf16(dst[place(&s, 2, r, kk)]),
                        r < s.rows && kk < s.k ? ck_round_bf16((double)src[kk * s.ld + r]) : 0.0,
                        0.0);
        ck_end(c, "matrix");
    }
}

/* ------------------------------------------------------------- benchmark -- */

#define ROWS 96
#define K    1024

typedef struct panels {
    void *src;
    float *dst;
    int nb;
} panels;

#define BENCH_PACK(slot, call, source_size, dst_size)                                              \
    static void run_##slot(const mica_kernels *k, const void *problem)                             \
    {                                                                                              \
        const panels *p = problem;                                                                 \
        call;                                                                                      \
    }                                                                                              \
    void bench_##slot(ck *c)                                                                       \
    {                                                                                              \
        ck_begin(c);                                                                               \
        panels p = {ck_buffer(c, ROWS * K, source_size), ck_floats(c, ROWS * K),                   \
                    c->k->gemm_f32_nb};                                                            \
        memset(p.src, 0x31, (size_t)ROWS *K *(source_size));                                       \
        ck_bench(c, run_##slot, &p, (double)((source_size) + (dst_size)) * ROWS * K, 0);           \
    }
#define OUT16 ((uint16_t *)(void *)p->dst)
BENCH_PACK(pack_f32_from_f32, k->pack_f32_from_f32(ROWS, K, p->src, K, NULL, p->nb, p->dst), 4, 4)
BENCH_PACK(pack_f32_from_bf16, k->pack_f32_from_bf16(ROWS, K, p->src, K, NULL, p->nb, p->dst), 2, 4)
BENCH_PACK(pack_f32_from_f16, k->pack_f32_from_f16(ROWS, K, p->src, K, NULL, p->nb, p->dst), 2, 4)
BENCH_PACK(pack_f32_from_f8_e4m3, k->pack_f32_from_f8_e4m3(ROWS, K, p->src, K, NULL, p->nb, p->dst),
           1, 4)
BENCH_PACK(pack_f32_from_f8_e5m2, k->pack_f32_from_f8_e5m2(ROWS, K, p->src, K, NULL, p->nb, p->dst),
           1, 4)
BENCH_PACK(pack_bf16_from_f32, k->pack_bf16_from_f32(ROWS, K, p->src, K, NULL, p->nb, OUT16), 4, 2)
BENCH_PACK(pack_bf16_from_bf16, k->pack_bf16_from_bf16(ROWS, K, p->src, K, NULL, p->nb, OUT16), 2,
           2)
BENCH_PACK(pack_s8, k->pack_s8(ROWS, K, p->src, K, p->nb, (int8_t *)p->dst), 1, 1)
BENCH_PACK(pack_f32_from_kmajor, k->pack_f32_from_kmajor(K, ROWS, p->src, ROWS, p->nb, p->dst), 4,
           4)
BENCH_PACK(pack_bf16_from_kmajor, k->pack_bf16_from_kmajor(K, ROWS, p->src, ROWS, p->nb, OUT16), 4,
           2)
