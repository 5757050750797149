/* check_gemv.c - matrix by vectors against f64; rows by themselves; rows cut in pieces; heads beside each other. */
#include "checkkern.h"

typedef struct problem {
    int rows, n, m; /* m rows of x */
    ptrdiff_t lda, ldx, ldy;
    void *a;
    double *a_f64; /* rows x n */
    float *x, *y;
} problem;

typedef enum kind { F32, BF16, F16 } kind;

static double store(kind k, void *a, ptrdiff_t at, double v)
{
    if (k == F32) {
        ((float *)a)[at] = (float)v;
        return (double)(float)v;
    }
    if (k == BF16) {
        ((uint16_t *)a)[at] = ck_encode_bf16(v);
        return ck_decode_bf16(ck_encode_bf16(v));
    }
    /* The number whose magnitude is that: the codes of positive numbers grow with them. */
    const double r = ck_round_f16(v);
    uint16_t bits = 0;
    for (uint32_t h = 0; h < 0x7c00; h++)
        if (ck_decode_f16((uint16_t)h) >= fabs(r)) {
            bits = (uint16_t)h;
            break;
        }
    ((uint16_t *)a)[at] = (uint16_t)(bits | (r < 0 ? 0x8000u : 0));
    return ck_decode_f16(((uint16_t *)a)[at]);
}

static problem make(ck *c, kind k, int most)
{
    const size_t size = k == F32 ? sizeof(float) : sizeof(uint16_t);
    problem p = {.rows = ck_int(c, 0, 11), .n = ck_length(c, most)};
    p.lda = ck_stride(c, p.n);
    p.a = ck_buffer(c, ck_matrix_count(p.rows, p.n, p.lda), size);
    p.a_f64 = ck_buffer(c, (size_t)(p.rows * p.n), sizeof(double));
    for (int r = 0; r < p.rows; r++)
        for (int i = 0; i < p.n; i++)
            p.a_f64[r * p.n + i] = store(k, p.a, r * p.lda + i, ck_normal(c));
    return p;
}

static void run(const mica_kernels *k, kind which, const problem *p)
{
    const mica_gemv g = {.rows = p->rows,
                         .n = p->n,
                         .m = p->m,
                         .a = p->a,
                         .lda = p->lda,
                         .x = p->x,
                         .ldx = p->ldx,
                         .y = p->y,
                         .ldy = p->ldy};
    if (which == F32)
        k->gemv_f32(&g);
    else if (which == BF16)
        k->gemv_bf16(&g);
    else
        k->gemv_f16(&g);
}

/* One number: n additions and as many products rounded at most once each, the same when its rows are
 * alone. */
static void check_one(ck *c, kind which, const problem *p, int i, int r)
{
    const size_t size = which == F32 ? sizeof(float) : sizeof(uint16_t);
    double want = 0.0, weight = 0.0;
    float alone = 0.0f;
    const float *y = &p->y[i * p->ldy + r];
    for (int k = 0; k < p->n; k++) {
        const double v = p->a_f64[r * p->n + k] * (double)p->x[i * p->ldx + k];
        want += v;
        weight += fabs(v);
    }
    ck_near(c, "y", i * p->rows + r, *y, want, 0x1p-24 * (p->n + 2) * weight);
    problem one = *p;
    one.rows = one.m = 1;
    one.a = (char *)p->a + (size_t)(r * p->lda) * size;
    one.x = p->x + i * p->ldx;
    one.y = &alone;
    run(c->k, which, &one);
    ck_same_bytes(c, "a row by itself", &alone, y, sizeof alone);
}

static void check(ck *c, kind which, int most)
{
    ck_begin(c);
    problem p = make(c, which, most);
    p.m = ck_int(c, 0, 9);
    p.ldx = ck_stride(c, p.n);
    p.ldy = ck_stride(c, p.rows);
    const size_t count = ck_matrix_count(p.m, p.n, p.ldx);
    p.x = ck_floats(c, (int)count);
    p.y = ck_floats(c, (int)ck_matrix_count(p.m, p.rows, p.ldy));
    ck_fill_normal(c, (int)count, p.x, 1.0);
    run(c->k, which, &p);
    for (int i = 0; i < p.m; i++)
        for (int r = 0; r < p.rows; r++)
            check_one(c, which, &p, i, r);
    ck_end(c, "gemv");
}

static void check_rounds(ck *c, kind which, int most, int rounds)
{
    for (int i = 0; i < rounds; i++)
        check(c, which, most);
}

void check_gemv_f32(ck *c)
{
    check_rounds(c, F32, 300, 20);
}
void check_gemv_bf16(ck *c)
{
    check_rounds(c, BF16, 300, 20);
}
void check_gemv_f16(ck *c)
{
    check_rounds(c, F16, 40, 8);
}

static void check_kmajor(ck *c)
{
    ck_begin(c);
    problem p = make(c, F32, 200);
    p.x = ck_floats(c, p.rows);
    p.y = ck_floats(c, p.n);
    float *pieces = ck_floats(c, p.n);
    ck_fill_normal(c, p.rows, p.x, 1.0);
    ck_fill_normal(c, p.n, p.y, 1.0);
    memcpy(pieces, p.y, (size_t)p.n * sizeof(float));
    double *want = ck_buffer(c, (size_t)p.n, sizeof(double));
    double *weight = ck_buffer(c, (size_t)p.n, sizeof(double));
    for (int i = 0; i < p.n; i++) {
        want[i] = (double)p.y[i];
        weight[i] = fabs(want[i]);
        for (int r = 0; r < p.rows; r++) {
            want[i] += p.a_f64[r * p.n + i] * (double)p.x[r];
            weight[i] += fabs(p.a_f64[r * p.n + i] * (double)p.x[r]);
        }
    }
    c->k->gemv_kmajor(p.rows, p.n, p.a, p.lda, p.x, p.y);
    for (int i = 0; i < p.n; i++)
        ck_near(c, "y", i, p.y[i], want[i], 0x1p-24 * (p.rows + 2) * weight[i]);
    const int cut = ck_int(c, 0, p.rows);
    c->k->gemv_kmajor(cut, p.n, p.a, p.lda, p.x, pieces);
    c->k->gemv_kmajor(p.rows - cut, p.n, (const float *)p.a + cut * p.lda, p.lda, p.x + cut,
                      pieces);
    ck_same_bytes(c, "rows cut in two", pieces, p.y, (size_t)p.n * sizeof(float));
    ck_end(c, "gemv_kmajor");
}

void check_gemv_kmajor(ck *c)
{
    for (int i = 0; i < 20; i++)
        check_kmajor(c);
}

/* ----------------------------------------------------------------- heads -- */

/* Rows of `heads` times n numbers; x has a row a head: of n numbers, or of all rows' when kmajor. */
static problem make_heads(ck *c, int heads, bool kmajor)
{
    static const int WIDTHS[] = {8, 16, 32, 64};
    problem p = make(c, F32, 1);
    const int n = ck_int(c, 0, 3) ? WIDTHS[ck_int(c, 0, 3)] : ck_length(c, 70);
    const int length = kmajor ? p.rows : n;
    p.n = heads * n;
    p.lda = ck_stride(c, p.n);
    const size_t count = ck_matrix_count(p.rows, p.n, p.lda);
    p.a = ck_floats(c, (int)count);
    ck_fill_normal(c, (int)count, p.a, 1.0);
    p.n = n;
    p.ldx = ck_stride(c, length);
    p.ldy = ck_stride(c, kmajor ? n : p.rows);
    p.x = ck_floats(c, (int)ck_matrix_count(heads, length, p.ldx));
    p.y = ck_floats(c, (int)ck_matrix_count(heads, kmajor ? n : p.rows, p.ldy));
    ck_fill_normal(c, (int)ck_matrix_count(heads, length, p.ldx), p.x, 1.0);
    return p;
}

/* The same bytes as head by head, which is checked above. */
static void check_heads(ck *c, bool kmajor)
{
    ck_begin(c);
    const int heads = ck_int(c, 0, 9);
    const problem p = make_heads(c, heads, kmajor);
    const int length = kmajor ? p.n : p.rows;
    const mica_gemv_of_heads g = {heads, p.rows, p.n, p.a, p.lda, p.x, p.ldx, p.y, p.ldy};
    float *want = ck_floats(c, heads * length);
    ck_fill_normal(c, heads * length, want, 1.0);
    for (int h = 0; h < heads; h++) {
        const float *a = (const float *)p.a + h * p.n, *x = p.x + h * p.ldx;
        memcpy(p.y + h * p.ldy, want + h * length, (size_t)length * sizeof(float));
        if (kmajor)
            c->k->gemv_kmajor(p.rows, p.n, a, p.lda, x, want + h * length);
        else
            c->k->gemv_f32(&(mica_gemv){.rows = p.rows,
                                        .n = p.n,
                                        .m = 1,
                                        .a = a,
                                        .lda = p.lda,
                                        .x = x,
                                        .y = want + h * length});
    }
    if (kmajor)
        c->k->gemv_heads_kmajor(&g);
    else
        c->k->gemv_heads(&g);
    for (int h = 0; h < heads; h++)
        ck_same_bytes(c, "a head by itself", p.y + h * p.ldy, want + h * length,
                      (size_t)length * sizeof(float));
    ck_gaps(c, p.y, heads, length, p.ldy, sizeof(float));
    ck_end(c, kmajor ? "gemv_heads_kmajor" : "gemv_heads");
}

void check_gemv_heads(ck *c)
{
    for (int i = 0; i < 60; i++)
        check_heads(c, false);
}
void check_gemv_heads_kmajor(ck *c)
{
    for (int i = 0; i < 60; i++)
        check_heads(c, true);
}

/* ---------------------------------------------------------------- timing -- */

#define BENCH_ROWS 64
#define BENCH_N    4096

typedef struct bench {
    kind which;
    bool kmajor;
    problem p;
} bench;

static void run_bench(const mica_kernels *k, const void *problem_)
{
    const bench *b = problem_;
    if (b->kmajor)
        k->gemv_kmajor(b->p.rows, b->p.n, b->p.a, b->p.lda, b->p.x, b->p.y);
    else
        run(k, b->which, &b->p);
}

static void time_gemv(ck *c, kind which, bool kmajor)
{
    const size_t size = which == F32 ? sizeof(float) : sizeof(uint16_t);
    bench b = {.which = which, .kmajor = kmajor};
    b.p = (problem){
        .rows = BENCH_ROWS, .m = 1, .n = kmajor ? 128 : BENCH_N, .lda = kmajor ? 1024 : BENCH_N};
    b.p.a = ck_buffer(c, (size_t)b.p.rows * (size_t)b.p.lda, size);
    memset(b.p.a, 0, (size_t)b.p.rows * (size_t)b.p.lda * size);
    b.p.x = ck_floats(c, BENCH_N);
    b.p.y = ck_floats(c, BENCH_N);
    ck_fill_normal(c, BENCH_N, b.p.x, 1.0);
    ck_fill_normal(c, BENCH_N, b.p.y, 1.0);
    ck_bench(c, run_bench, &b, (double)b.p.rows * b.p.n * (double)size, 2.0 * b.p.rows * b.p.n);
}

void bench_gemv_f32(ck *c)
{
    time_gemv(c, F32, false);
}
void bench_gemv_bf16(ck *c)
{
    time_gemv(c, BF16, false);
}
void bench_gemv_f16(ck *c)
{
    time_gemv(c, F16, false);
}
void bench_gemv_kmajor(ck *c)
{
    time_gemv(c, F32, true);
}

/* A layer of GPT-SoVITS at 280 positions: 16 heads of 32, of which a task has 4. */
#define BENCH_KEYS 280

typedef struct heads_bench {
    bool kmajor;
    mica_gemv_of_heads g;
} heads_bench;

static void run_heads(const mica_kernels *k, const void *problem_)
{
    const heads_bench *b = problem_;
    if (b->kmajor)
        k->gemv_heads_kmajor(&b->g);
    else
        k->gemv_heads(&b->g);
}

static void time_heads(ck *c, bool kmajor)
{
    const int heads = 4, n = 32, row = 512;
    float *a = ck_floats(c, BENCH_KEYS * row), *x = ck_floats(c, heads * BENCH_KEYS);
    float *y = ck_floats(c, heads * BENCH_KEYS);
    ck_fill_normal(c, BENCH_KEYS * row, a, 1.0);
    ck_fill_normal(c, heads * BENCH_KEYS, x, 1.0);
    ck_fill_normal(c, heads * BENCH_KEYS, y, 1.0);
    const heads_bench b = {
        kmajor,
        {heads, BENCH_KEYS, n, a, row, x, kmajor ? BENCH_KEYS : n, y, kmajor ? n : BENCH_KEYS}};
    const double numbers = (double)heads * n * BENCH_KEYS;
    ck_bench(c, run_heads, &b, numbers * sizeof(float), 2.0 * numbers);
}

void bench_gemv_heads(ck *c)
{
    time_heads(c, false);
}
void bench_gemv_heads_kmajor(ck *c)
{
    time_heads(c, true);
}
