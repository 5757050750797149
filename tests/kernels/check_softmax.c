/* check_softmax.c - softmax, its blockwise form, and the epilogues of matmuls. */
#include "checkkern.h"

/* exp(scale * x - max): the argument itself is rounded (2^-24 of its size, and of scale * x
 * where the machine has no fused multiply-add), the polynomial adds 2e-6. */
static double exp_error(double argument, double product)
{
    return 2e-6 + 0x1p-23 * (fabs(argument) + fabs(product));
}

static void softmax_case(ck *c, double spread, bool masked)
{
    ck_begin(c);
    const int m = ck_int(c, 1, 5), n = ck_length(c, 300);
    const ptrdiff_t ldx = ck_stride(c, n);
    const bool in_place = ck_int(c, 0, 1);
    float *x = ck_floats(c, (int64_t)ck_matrix_count(m, n, ldx));
    for (int i = 0; i < m; i++)
        ck_fill_normal(c, n, x + i * ldx, spread);
    for (int i = 0; masked && i < m; i++)
        for (int j = 0; j < n; j++)
            if (i == 0 || ck_int(c, 0, 1))
                x[i * ldx + j] = -INFINITY; /* row 0 has nothing left */
    const ptrdiff_t ldy = in_place ? ldx : ck_stride(c, n);
    float *y = in_place ? x : ck_floats(c, (int64_t)ck_matrix_count(m, n, ldy));
    const float scale = (float)ck_uniform(c, 0.05, 1.5);
    double *want = ck_buffer(c, (size_t)(m * n), sizeof(double));
    double *tol = ck_buffer(c, (size_t)(m * n), sizeof(double));
    for (int i = 0; i < m; i++) {
        double max = -INFINITY, sum = 0.0, most = 0.0;
        for (int j = 0; j < n; j++)
            max = fmax(max, (double)scale * x[i * ldx + j]);
        for (int j = 0; j < n; j++) {
            const double v = (double)scale * x[i * ldx + j];
            want[i * n + j] = max == -INFINITY ? 0.0 : exp(v - max);
            sum += want[i * n + j];
            most = isinf(v) ? most : fmax(most, fabs(v));
        }
        for (int j = 0; j < n; j++) {
            const double v = (double)scale * x[i * ldx + j];
            want[i * n + j] /= sum > 0.0 ? sum : 1.0;
            tol[i * n + j] =
                isinf(v) ? 0.0 : want[i * n + j] * exp_error(v - max, 2 * most) + 1e-38;
        }
    }
    c->k->softmax_rows(m, n, scale, x, ldx, y, ldy);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
            ck_near(c, "y", j, y[i * ldy + j], want[i * n + j], tol[i * n + j]);
    ck_gaps(c, y, m, n, ldy, sizeof(float));
    ck_end(c, masked ? "masked" : "plain");
}

void check_softmax_rows(ck *c)
{
    for (int round = 0; round < 12; round++) {
        softmax_case(c, 1.0, false);
        softmax_case(c, 200.0, false);
        softmax_case(c, 3.0, true);
    }
    ck_begin(c); /* NaN fills its row, +inf too (inf - inf) */
    float *x = ck_floats(c, 75);
    ck_fill_normal(c, 75, x, 1.0);
    x[3] = NAN;
    x[30] = INFINITY;
    c->k->softmax_rows(3, 25, 1.0f, x, 25, x, 25);
    ck_equal(c, "row with NaN", 0, isnan(x[0]) && isnan(x[24]), 1);
    ck_equal(c, "row with inf", 0, isnan(x[30]) != 0, 1);
    ck_equal(c, "clean row", 0, isnan(x[50]) || isnan(x[74]), 0);
    ck_end(c, "specials");
}

/* A row of `total` columns in random blocks must give softmax of the whole row. */
static void step_case(ck *c, bool bf16)
{
    ck_begin(c);
    const int m = ck_int(c, 1, 4), total = ck_length(c, 300);
    float *x = ck_floats(c, m * total), *state = ck_floats(c, 3 * m);
    float *row_max = state, *row_sum = state + m, *alpha = state + 2 * m;
    double *acc = ck_buffer(c, (size_t)(m * total), sizeof(double));
    const float scale = (float)ck_uniform(c, 0.05, 1.0);
    ck_fill_normal(c, m * total, x, 8.0);
    for (int j = 0; j < total; j++)
        if (ck_int(c, 0, 5) == 0)
            x[j] = -INFINITY;
    for (int i = 0; i < m; i++) {
        row_max[i] = -INFINITY;
        row_sum[i] = 0.0f;
    }
    for (int from = 0; from < total;) {
        const int n = ck_int(c, 1, total - from), n_pad = n + (n & 1);
        const ptrdiff_t ldp = n_pad + 3;
        c->buffers = 3;
        float *p = bf16 ? NULL : ck_floats(c, (int64_t)ck_matrix_count(m, n_pad, ldp));
        uint16_t *h = bf16 ? ck_buffer(c, ck_matrix_count(m, n_pad, ldp), 2) : NULL;
        const mica_softmax_step s = {m, n, n_pad, scale,   x + from, total,
                                     p, h, ldp,   row_max, row_sum,  alpha};
        (bf16 ? c->k->softmax_step_bf16 : c->k->softmax_step)(&s);
        for (int i = 0; i < m; i++) {
            for (int j = 0; j < from; j++)
                acc[i * total + j] *= (double)alpha[i];
            for (int j = 0; j < n; j++)
                acc[i * total + from + j] =
                    bf16 ? ck_decode_bf16(h[i * ldp + j]) : (double)p[i * ldp + j];
            if (bf16 && n_pad > n)
                ck_equal(c, "padding", i, h[i * ldp + n], 0);
        }
        from += n;
    }
    for (int i = 0; i < m; i++) {
        double max = -INFINITY, sum = 0.0;
        for (int j = 0; j < total; j++)
            max = fmax(max, (double)scale * x[i * total + j]);
        for (int j = 0; j < total; j++)
            sum += exp((double)scale * x[i * total + j] - max);
        for (int j = 0; j < total && max > -INFINITY; j++) {
            const double v = (double)scale * x[i * total + j], want = exp(v - max) / sum;
            const double rel = (bf16 ? 0x1p-8 : 0.0) + 3.0 * exp_error(40.0, 40.0);
            ck_near(c, "p / sum", j, acc[i * total + j] / row_sum[i], want, rel * want + 1e-36);
        }
        if (max == -INFINITY)
            ck_near(c, "empty sum", i, row_sum[i], 0.0, 0.0);
    }
    ck_end(c, bf16 ? "bf16" : "f32");
}

void check_softmax_step(ck *c)
{
    for (int round = 0; round < 24; round++)
        step_case(c, false);
}
void check_softmax_step_bf16(ck *c)
{
    for (int round = 0; round < 24; round++)
        step_case(c, true);
}

void check_scale_rows(ck *c)
{
    for (int round = 0; round < 8; round++) {
        ck_begin(c);
        const int m = ck_int(c, 1, 6), n = ck_length(c, 200);
        const ptrdiff_t ld = ck_stride(c, n);
        float *a = ck_floats(c, m), *want = ck_floats(c, m * n);
        float *y = ck_floats(c, (int64_t)ck_matrix_count(m, n, ld));
        ck_fill_normal(c, m, a, 1.0);
        for (int i = 0; i < m; i++) {
            ck_fill_normal(c, n, y + i * ld, 1.0);
            for (int j = 0; j < n; j++)
                want[i * n + j] = y[i * ld + j] * a[i];
        }
        c->k->scale_rows(m, n, a, y, ld);
        for (int i = 0; i < m; i++)
            ck_same_bytes(c, "row", y + i * ld, want + i * n, (size_t)n * sizeof(float));
        ck_gaps(c, y, m, n, ld, sizeof(float));
        ck_end(c, "rows");
    }
}

void check_row_max(ck *c)
{
    for (int round = 0; round < 24; round++) {
        ck_begin(c);
        const int n = ck_length(c, 200);
        float *x = ck_floats(c, n);
        ck_fill_normal(c, n, x, 1.0);
        float want = -INFINITY;
        for (int j = 0; j < n; j++) {
            x[j] -= 100.0f; /* zeros of a padded vector must not win */
            want = x[j] > want ? x[j] : want;
        }
        ck_near(c, "max", n, c->k->row_max(n, x), want, 0.0);
        x[ck_int(c, 0, n - 1)] = NAN;
        ck_near(c, "max", n, c->k->row_max(n, x), NAN, 0.0);
        ck_end(c, "row");
    }
    ck_begin(c);
    ck_near(c, "empty", 0, c->k->row_max(0, NULL), -INFINITY, 0.0);
    ck_end(c, "n = 0");
}

/* ------------------------------------------------------------- epilogues -- */

static double act_ref(double v, mica_kernel_act act)
{
    switch (act) {
    case MICA_KERNEL_ACT_SILU:
        return v / (1.0 + exp(-v));
    case MICA_KERNEL_ACT_GELU_TANH:
        return 0.5 * v * (1.0 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
    case MICA_KERNEL_ACT_GELU_ERF:
        return 0.5 * v * erfc(-v / 1.4142135623730951);
    default:
        return v;
    }
}

static float *maybe_row(ck *c, int n)
{
    float *p = ck_int(c, 0, 1) ? ck_floats(c, n) : NULL;
    if (p)
        ck_fill_normal(c, n, p, 1.0);
    return p;
}

static mica_epilogue make_epilogue(ck *c)
{
    mica_epilogue e = {.m = ck_int(c, 1, 6), .n = ck_length(c, 150)};
    e.act = (mica_kernel_act)ck_int(c, 0, 3);
    e.bias = maybe_row(c, e.n);
    e.gate = maybe_row(c, e.n);
    if (ck_int(c, 0, 1)) {
        e.ldres = ck_stride(c, e.n);
        const int64_t count = (int64_t)ck_matrix_count(e.m, e.n, e.ldres);
        float *r = ck_floats(c, count);
        for (int i = 0; i < e.m; i++)
            ck_fill_normal(c, e.n, r + i * e.ldres, 1.0);
        e.residual = r;
        if (ck_int(c, 0, 1)) { /* in place */
            e.y = r;
            e.ldy = e.ldres;
        }
    }
    if (!e.y) {
        e.ldy = ck_stride(c, e.n);
        e.y = ck_floats(c, (int64_t)ck_matrix_count(e.m, e.n, e.ldy));
    }
    return e;
}

/* want, tol in m x n from the sums v; computed before the run, which may overwrite inputs. */
static void expect(const mica_epilogue *e, int i, int j, double v, double v_error, double *want,
                   double *tol)
{
    const double b = v + (e->bias ? e->bias[j] : 0.0), a = act_ref(b, e->act);
    const double g = e->gate ? e->gate[j] : 1.0;
    const double r = e->residual ? e->residual[i * e->ldres + j] : 0.0;
    *want = r + g * a;
    /* The slope of the activations is below 1.2. */
    *tol = 2e-6 * (fabs(r) + fabs(g * a)) + fabs(g) * (1e-9 + 1.2 * (v_error + 0x1p-24 * fabs(b)));
}

static void compare_tile(ck *c, const mica_epilogue *e, const double *want, const double *tol)
{
    for (int i = 0; i < e->m; i++)
        for (int j = 0; j < e->n; j++)
            ck_near(c, "y", j, e->y[i * e->ldy + j], want[i * e->n + j], tol[i * e->n + j]);
    ck_gaps(c, e->y, e->m, e->n, e->ldy, sizeof(float));
}

void check_epilogue_tile(ck *c)
{
    for (int round = 0; round < 60; round++) {
        ck_begin(c);
        mica_epilogue e = make_epilogue(c);
        const bool on_acc = !e.residual && round % 2;
        e.ldacc = on_acc ? e.ldy : ck_stride(c, e.n);
        float *acc = on_acc ? e.y : ck_floats(c, (int64_t)ck_matrix_count(e.m, e.n, e.ldacc));
        e.acc = acc;
        double *want = ck_buffer(c, (size_t)(e.m * e.n), sizeof(double));
        double *tol = ck_buffer(c, (size_t)(e.m * e.n), sizeof(double));
        for (int i = 0; i < e.m; i++) {
            ck_fill_normal(c, e.n, acc + i * e.ldacc, 3.0);
            for (int j = 0; j < e.n; j++)
                expect(&e, i, j, acc[i * e.ldacc + j], 0.0, want + i * e.n + j, tol + i * e.n + j);
        }
        c->k->epilogue_tile(&e);
        compare_tile(c, &e, want, tol);
        ck_end(c, on_acc ? "on acc" : "apart");
    }
}

void check_epilogue_s32_tile(ck *c)
{
    for (int round = 0; round < 60; round++) {
        ck_begin(c);
        mica_epilogue_s32 s = {.e = make_epilogue(c)};
        const int m = s.e.m, n = s.e.n;
        s.ldacc = ck_stride(c, n);
        int32_t *acc = ck_buffer(c, ck_matrix_count(m, n, s.ldacc), 4);
        int32_t *zero = ck_buffer(c, (size_t)m, 4), *sums = ck_buffer(c, (size_t)n, 4);
        float *rows = ck_floats(c, m), *cols = ck_floats(c, n);
        double *want = ck_buffer(c, (size_t)(m * n), sizeof(double));
        double *tol = ck_buffer(c, (size_t)(m * n), sizeof(double));
        for (int i = 0; i < m; i++) {
            zero[i] = ck_int(c, 0, 255);
            rows[i] = (float)ck_uniform(c, 1e-3, 2e-3);
        }
        for (int j = 0; j < n; j++) {
            sums[j] = ck_int(c, -4000000, 4000000);
            cols[j] = (float)ck_uniform(c, 1e-4, 1e-2);
        }
        const bool asymmetric = round % 2;
        for (int i = 0; i < m; i++) {
            for (int j = 0; j < n; j++) {
                acc[i * s.ldacc + j] = ck_int(c, -900000000, 900000000);
                const double sum =
                    (double)acc[i * s.ldacc + j] - (asymmetric ? (double)zero[i] * sums[j] : 0.0);
                const double v = (double)rows[i] * cols[j] * sum;
                expect(&s.e, i, j, v, 3.0 * 0x1p-24 * fabs(v), want + i * n + j, tol + i * n + j);
            }
        }
        s.acc = acc;
        s.row_scale = rows;
        s.col_scale = cols;
        s.row_zero = asymmetric ? zero : NULL;
        s.col_sum = asymmetric ? sums : NULL;
        c->k->epilogue_s32_tile(&s);
        compare_tile(c, &s.e, want, tol);
        ck_end(c, asymmetric ? "asymmetric" : "symmetric");
    }
}

/* ------------------------------------------------------------- benchmark -- */

#define M 64
#define N 1024

typedef struct scores {
    float *x, *y, *state;
    int32_t *acc;
} scores;

static scores make_scores(ck *c)
{
    ck_begin(c);
    scores s = {ck_floats(c, M * N), ck_floats(c, M * N), ck_floats(c, 3 * N), NULL};
    s.acc = ck_buffer(c, M * N, 4);
    ck_fill_normal(c, M * N, s.x, 3.0);
    ck_fill_normal(c, 3 * N, s.state, 1.0);
    for (int i = 0; i < M * N; i++)
        s.acc[i] = ck_int(c, -100000, 100000);
    return s;
}

static void run_softmax(const mica_kernels *k, const void *p)
{
    const scores *s = p;
    k->softmax_rows(M, N, 0.1f, s->x, N, s->y, N);
}
void bench_softmax_rows(ck *c)
{
    const scores s = make_scores(c);
    ck_bench(c, run_softmax, &s, 8.0 * M * N, 0);
}
static void run_step(const mica_kernels *k, const void *p)
{
    const scores *s = p;
    const mica_softmax_step a = {M,    N,    N, 0.1f,     s->x,         N,
                                 s->y, NULL, N, s->state, s->state + M, s->state + 2 * M};
    k->softmax_step(&a);
}
void bench_softmax_step(ck *c)
{
    const scores s = make_scores(c);
    ck_bench(c, run_step, &s, 8.0 * M * N, 0);
}
static void run_step_bf16(const mica_kernels *k, const void *p)
{
    const scores *s = p;
    uint16_t *h = (uint16_t *)(void *)s->y;
    const mica_softmax_step a = {M,    N, N, 0.1f,     s->x,         N,
                                 NULL, h, N, s->state, s->state + M, s->state + 2 * M};
    k->softmax_step_bf16(&a);
}
void bench_softmax_step_bf16(ck *c)
{
    const scores s = make_scores(c);
    ck_bench(c, run_step_bf16, &s, 6.0 * M * N, 0);
}
static void run_scale(const mica_kernels *k, const void *p)
{
    static const float zeros[M];
    const scores *s = p;
    k->scale_rows(M, N, zeros, s->y, N);
}
void bench_scale_rows(ck *c)
{
    const scores s = make_scores(c);
    memset(s.y, 0, sizeof(float) * M * N);
    ck_bench(c, run_scale, &s, 8.0 * M * N, 0);
}
static void run_max(const mica_kernels *k, const void *p)
{
    const scores *s = p;
    for (int i = 0; i < M; i++)
        s->y[i] = k->row_max(N, s->x + i * N);
}
void bench_row_max(ck *c)
{
    const scores s = make_scores(c);
    ck_bench(c, run_max, &s, 4.0 * M * N, 0);
}
static void run_epilogue(const mica_kernels *k, const void *p)
{
    const scores *s = p;
    const mica_epilogue e = {.m = M,
                             .n = N,
                             .acc = s->x,
                             .ldacc = N,
                             .bias = s->state,
                             .act = MICA_KERNEL_ACT_GELU_TANH,
                             .y = s->y,
                             .ldy = N};
    k->epilogue_tile(&e);
}
void bench_epilogue_tile(ck *c)
{
    const scores s = make_scores(c);
    ck_bench(c, run_epilogue, &s, 8.0 * M * N, 0);
}
static void run_epilogue_s32(const mica_kernels *k, const void *p)
{
    const scores *s = p;
    const mica_epilogue_s32 e = {.e = {.m = M,
                                       .n = N,
                                       .bias = s->state,
                                       .gate = s->state + N,
                                       .residual = s->x,
                                       .ldres = N,
                                       .y = s->y,
                                       .ldy = N},
                                 .acc = s->acc,
                                 .ldacc = N,
                                 .row_scale = s->state,
                                 .row_zero = s->acc,
                                 .col_scale = s->state + 2 * N,
                                 .col_sum = s->acc + N};
    k->epilogue_s32_tile(&e);
}
void bench_epilogue_s32_tile(ck *c)
{
    const scores s = make_scores(c);
    for (int i = 0; i < 2 * N; i++)
        s.acc[i] %= 256;
    ck_bench(c, run_epilogue_s32, &s, 12.0 * M * N, 0);
}
