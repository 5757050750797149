/* check_gemm.c - the three matmuls: against f64, exactly on whole numbers, and cut in pieces.
 *
 * Panels are laid out here from the contract's formula, not by the pack kernels. */
#include "checkkern.h"

/* Place of (column, kk) in panels of nb columns and `per_unit` elements per lane. */
static size_t place(int nb, int per_unit, int k, int column, int kk)
{
    const size_t units = (size_t)((k + per_unit - 1) / per_unit);
    const size_t lane = (size_t)(column / nb) * units * (size_t)nb +
                        (size_t)(kk / per_unit) * (size_t)nb + (size_t)(column % nb);
    return lane * (size_t)per_unit + (size_t)(kk % per_unit);
}

typedef struct product {
    int m, n, k, nb;
    ptrdiff_t lda, ldc;
    void *a, *b;
    float *c;
    double *a_f64, *b_f64; /* m x k and n x k */
} product;

static size_t panel_count(const product *p)
{
    return (size_t)((p->n + p->nb - 1) / p->nb) * (size_t)p->nb * (size_t)p->k;
}

/* Sizes around the tiles of the table; k long enough to need several blocks now and then. */
static product make_problem(ck *c, int mr, int nb, int per_unit)
{
    product p = {.m = ck_int(c, 0, 2) ? ck_int(c, 1, 2 * mr + 2) : ck_length(c, 40), .nb = nb};
    p.n = ck_int(c, 0, 2) ? ck_int(c, 1, 2 * nb + 2) : ck_length(c, 100);
    if (ck_int(c, 0, 15) == 0)
        p.n = 512 + ck_int(c, 1, 40);
    p.k = ck_int(c, 0, 2) ? ck_length(c, 150) : ck_int(c, 200, 1400);
    p.k = (p.k + per_unit - 1) / per_unit * per_unit;
    p.lda = ck_stride(c, p.k);
    p.ldc = ck_stride(c, p.n);
    p.a_f64 = ck_buffer(c, (size_t)(p.m * p.k), sizeof(double));
    p.b_f64 = ck_buffer(c, (size_t)(p.n * p.k), sizeof(double));
    p.c = ck_floats(c, (int64_t)ck_matrix_count(p.m, p.n, p.ldc));
    return p;
}

static double pick(ck *c, bool whole)
{
    return whole ? ck_int(c, -8, 8) : (double)(float)ck_normal(c);
}

/* The sum and the bound of k additions with products rounded once: 2^-24 (k + 2) sum |a b|. */
static void compare_f32(ck *c, const product *p, const float *before, bool whole, double unit)
{
    for (int i = 0; i < p->m; i++) {
        for (int j = 0; j < p->n; j++) {
            double want = before ? before[i * p->n + j] : 0.0, size = fabs(want);
            for (int kk = 0; kk < p->k; kk++) {
                const double v = p->a_f64[i * p->k + kk] * p->b_f64[j * p->k + kk];
                want += v;
                size += fabs(v);
            }
            ck_near(c, "c", j, p->c[i * p->ldc + j], want, whole ? 0.0 : unit * (p->k + 2) * size);
        }
    }
    ck_gaps(c, p->c, p->m, p->n, p->ldc, sizeof(float));
}

/* Random c to add to, packed m x n; NULL when the run does not accumulate. */
static float *make_before(ck *c, const product *p, bool accumulate, bool whole)
{
    if (!accumulate)
        return NULL;
    float *before = ck_floats(c, p->m * p->n);
    for (int i = 0; i < p->m; i++)
        for (int j = 0; j < p->n; j++)
            p->c[i * p->ldc + j] = before[i * p->n + j] = (float)pick(c, whole);
    return before;
}

static void fill_f32(ck *c, product *p, bool whole)
{
    float *a = p->a = ck_floats(c, (int64_t)ck_matrix_count(p->m, p->k, p->lda));
    float *b = p->b = ck_floats(c, (int64_t)panel_count(p));
    memset(b, 0, panel_count(p) * sizeof(float));
    for (int i = 0; i < p->m; i++)
        for (int kk = 0; kk < p->k; kk++)
            a[i * p->lda + kk] = (float)(p->a_f64[i * p->k + kk] = pick(c, whole));
    for (int j = 0; j < p->n; j++)
        for (int kk = 0; kk < p->k; kk++)
            b[place(p->nb, 1, p->k, j, kk)] = (float)(p->b_f64[j * p->k + kk] = pick(c, whole));
}

/* The same product in pieces of rows and of panels has the same bits. */
static void check_cuts_f32(ck *c, const product *p, const float *before)
{
    float *other = ck_floats(c, (int64_t)ck_matrix_count(p->m, p->n, p->ldc));
    for (int i = 0; before && i < p->m; i++)
        memcpy(other + i * p->ldc, before + i * p->n, (size_t)p->n * sizeof(float));
    const int rows = ck_int(c, 1, p->m);
    for (int i = 0; i < p->m; i += rows) {
        for (int j = 0; j < p->n; j += p->nb) {
            const mica_gemm_f32 g = {.m = p->m - i < rows ? p->m - i : rows,
                                     .n = p->n - j < p->nb ? p->n - j : p->nb,
                                     .k = p->k,
                                     .a = (const float *)p->a + i * p->lda,
                                     .lda = p->lda,
                                     .b = (const float *)p->b + (ptrdiff_t)j * p->k,
                                     .c = other + i * p->ldc + j,
                                     .ldc = p->ldc,
                                     .accumulate = before != NULL};
            c->k->gemm_f32(&g);
        }
    }
    for (int i = 0; i < p->m; i++)
        ck_same_bytes(c, "row cut in pieces", other + i * p->ldc, p->c + i * p->ldc,
                      (size_t)p->n * sizeof(float));
}

/* k in two pieces: only where panels of both pieces can be cut out, n <= nb. */
static void check_cut_k(ck *c, const product *p)
{
    if (p->n > p->nb || p->k < 2)
        return;
    float *other = ck_floats(c, (int64_t)ck_matrix_count(p->m, p->n, p->ldc));
    const int first = ck_int(c, 1, p->k - 1);
    mica_gemm_f32 g = {.m = p->m,
                       .n = p->n,
                       .k = first,
                       .a = p->a,
                       .lda = p->lda,
                       .b = p->b,
                       .c = other,
                       .ldc = p->ldc};
    c->k->gemm_f32(&g);
    g.k = p->k - first;
    g.a = (const float *)p->a + first;
    g.b = (const float *)p->b + (ptrdiff_t)first * p->nb;
    g.accumulate = true;
    c->k->gemm_f32(&g);
    for (int i = 0; i < p->m; i++)
        ck_same_bytes(c, "k cut in two", other + i * p->ldc, p->c + i * p->ldc,
                      (size_t)p->n * sizeof(float));
}

void check_gemm_f32(ck *c)
{
    for (int round = 0; round < 40; round++) {
        ck_begin(c);
        const bool whole = round % 2, accumulate = round % 3 == 0;
        product p = make_problem(c, c->k->gemm_f32_mr, c->k->gemm_f32_nb, 1);
        fill_f32(c, &p, whole);
        const float *before = make_before(c, &p, accumulate, whole);
        const mica_gemm_f32 g = {p.m, p.n, p.k, p.a, p.lda, p.b, p.c, p.ldc, accumulate};
        c->k->gemm_f32(&g);
        compare_f32(c, &p, before, whole, 0x1p-24);
        check_cuts_f32(c, &p, before);
        if (!accumulate)
            check_cut_k(c, &p);
        ck_end(c, whole ? "whole numbers" : "normal");
    }
    ck_begin(c);
    float one = 1.0f, sum[2] = {5.0f, 5.0f};
    mica_gemm_f32 g = {1, 2, 0, &one, 1, &one, sum, 2, true};
    c->k->gemm_f32(&g);
    ck_near(c, "k = 0 keeps", 0, sum[0], 5.0, 0.0);
    g.accumulate = false;
    c->k->gemm_f32(&g);
    ck_near(c, "k = 0 clears", 0, sum[1], 0.0, 0.0);
    ck_end(c, "k = 0");
}

void check_gemm_bf16(ck *c)
{
    for (int round = 0; round < 40; round++) {
        ck_begin(c);
        const bool whole = round % 2, accumulate = round % 3 == 0;
        product p = make_problem(c, c->k->gemm_bf16_mr, c->k->gemm_bf16_nb, 2);
        uint16_t *a = ck_buffer(c, ck_matrix_count(p.m, p.k, p.lda), 2);
        uint16_t *b = ck_buffer(c, panel_count(&p), 2);
        memset(b, 0, panel_count(&p) * 2);
        for (int i = 0; i < p.m; i++)
            for (int kk = 0; kk < p.k; kk++) {
                a[i * p.lda + kk] = ck_encode_bf16(pick(c, whole));
                p.a_f64[i * p.k + kk] = ck_decode_bf16(a[i * p.lda + kk]);
            }
        for (int j = 0; j < p.n; j++)
            for (int kk = 0; kk < p.k; kk++) {
                const uint16_t v = ck_encode_bf16(pick(c, whole));
                b[place(p.nb, 2, p.k, j, kk)] = v;
                p.b_f64[j * p.k + kk] = ck_decode_bf16(v);
            }
        const float *before = make_before(c, &p, accumulate, whole);
        const mica_gemm_bf16 g = {p.m, p.n, p.k, a, p.lda, b, p.c, p.ldc, accumulate};
        c->k->gemm_bf16(&g);
        compare_f32(c, &p, before, whole, 0x1p-24);
        /* One row at a time: same bits. */
        float *row = ck_floats(c, p.n);
        const int i = ck_int(c, 0, p.m - 1);
        if (before)
            memcpy(row, before + i * p.n, (size_t)p.n * sizeof(float));
        const mica_gemm_bf16 one = {1, p.n, p.k, a + i * p.lda, p.lda, b, row, p.n, accumulate};
        c->k->gemm_bf16(&one);
        ck_same_bytes(c, "row alone", row, p.c + i * p.ldc, (size_t)p.n * sizeof(float));
        ck_end(c, whole ? "whole numbers" : "normal");
    }
}

void check_gemm_s8(ck *c)
{
    for (int round = 0; round < 40; round++) {
        ck_begin(c);
        const bool extreme = round % 2, accumulate = round % 3 == 0;
        product p = make_problem(c, c->k->gemm_s8_mr, c->k->gemm_s8_nb, 4);
        uint8_t *a = ck_buffer(c, ck_matrix_count(p.m, p.k, p.lda), 1);
        int8_t *b = ck_buffer(c, panel_count(&p), 1);
        int32_t *out = (int32_t *)(void *)p.c;
        memset(b, 0, panel_count(&p));
        /* Extremes of one sign would saturate 16-bit sums. */
        for (int i = 0; i < p.m; i++)
            for (int kk = 0; kk < p.k; kk++)
                a[i * p.lda + kk] = extreme ? 255 : (uint8_t)ck_random(c);
        for (int j = 0; j < p.n; j++)
            for (int kk = 0; kk < p.k; kk++) {
                const int8_t v = extreme ? (int8_t)(j % 2 ? 127 : -128) : (int8_t)ck_random(c);
                b[place(p.nb, 4, p.k, j, kk)] = v;
                p.b_f64[j * p.k + kk] = v;
            }
        for (int i = 0; accumulate && i < p.m; i++)
            for (int j = 0; j < p.n; j++)
                out[i * p.ldc + j] = 1000 * i + j;
        const mica_gemm_s8 g = {p.m, p.n, p.k, a, p.lda, b, out, p.ldc, accumulate};
        c->k->gemm_s8(&g);
        for (int i = 0; i < p.m; i++)
            for (int j = 0; j < p.n; j++) {
                int64_t want = accumulate ? 1000 * i + j : 0;
                for (int kk = 0; kk < p.k; kk++)
                    want += a[i * p.lda + kk] * (int64_t)p.b_f64[j * p.k + kk];
                ck_equal(c, "c", j, out[i * p.ldc + j], want);
            }
        ck_gaps(c, out, p.m, p.n, p.ldc, sizeof(int32_t));
        ck_end(c, extreme ? "extremes" : "random");
    }
}

/* ------------------------------------------------------------- benchmark -- */

/* A block of a linear layer: B stays in the L2 cache. */
#define M 112
#define N 480 /* whole panels of every width */
#define K 512

typedef struct block {
    void *a, *b, *c;
} block;

static block make_block(ck *c, size_t size)
{
    ck_begin(c);
    block b = {ck_buffer(c, M * K, size), ck_buffer(c, N * K, size), ck_floats(c, M * N)};
    memset(b.a, 0x3e, M * K * size);
    memset(b.b, 0x3d, (size_t)N * K * size);
    return b;
}

static void run_f32(const mica_kernels *k, const void *problem)
{
    const block *b = problem;
    const mica_gemm_f32 g = {M, N, K, b->a, K, b->b, b->c, N, false};
    k->gemm_f32(&g);
}
void bench_gemm_f32(ck *c)
{
    const block b = make_block(c, 4);
    ck_bench(c, run_f32, &b, 0, 2.0 * M * N * K);
}
static void run_bf16(const mica_kernels *k, const void *problem)
{
    const block *b = problem;
    const mica_gemm_bf16 g = {M, N, K, b->a, K, b->b, b->c, N, false};
    k->gemm_bf16(&g);
}
void bench_gemm_bf16(ck *c)
{
    const block b = make_block(c, 2);
    ck_bench(c, run_bf16, &b, 0, 2.0 * M * N * K);
}
static void run_s8(const mica_kernels *k, const void *problem)
{
    const block *b = problem;
    const mica_gemm_s8 g = {M, N, K, b->a, K, b->b, b->c, N, false};
    k->gemm_s8(&g);
}
void bench_gemm_s8(ck *c)
{
    const block b = make_block(c, 1);
    ck_bench(c, run_s8, &b, 0, 2.0 * M * N * K);
}
