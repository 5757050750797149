/* check_norms.c - norms of rows, the halves of a norm over groups, and the norm and rotation of query and key heads. */
#include "checkkern.h"

typedef struct rows_case {
    int rows, n;
    float *x, *y;
    ptrdiff_t ldx, ldy;
} rows_case;

/* A random matrix with an output beside it or on top of it. */
static rows_case make_rows(ck *c, int most, double offset, double spread)
{
    rows_case r = {.rows = ck_int(c, 1, 6), .n = ck_length(c, most)};
    r.ldx = ck_stride(c, r.n);
    r.x = ck_floats(c, (int64_t)ck_matrix_count(r.rows, r.n, r.ldx));
    for (int i = 0; i < r.rows; i++)
        for (int j = 0; j < r.n; j++)
            r.x[i * r.ldx + j] = (float)(offset + spread * ck_normal(c));
    const bool in_place = ck_int(c, 0, 2) == 0;
    r.ldy = in_place ? r.ldx : ck_stride(c, r.n);
    r.y = in_place ? r.x : ck_floats(c, (int64_t)ck_matrix_count(r.rows, r.n, r.ldy));
    return r;
}

static double *copy_f64(ck *c, const rows_case *r)
{
    double *x = ck_buffer(c, (size_t)(r->rows * r->n), sizeof(double));
    for (int i = 0; i < r->rows; i++)
        for (int j = 0; j < r->n; j++)
            x[i * r->n + j] = r->x[i * r->ldx + j];
    return x;
}

static float *maybe_vector(ck *c, int n)
{
    if (ck_int(c, 0, 3) == 0)
        return NULL;
    float *w = ck_floats(c, n);
    ck_fill_normal(c, n, w, 1.0);
    return w;
}

/* Rows of `want` against y, within rel of the largest wanted value of the row; 1e-9 for rows that
 * should be 0, where the f64 mean of equal numbers is off by a rounding of its own. */
static void compare_rows(ck *c, const rows_case *r, const double *want, double rel)
{
    for (int i = 0; i < r->rows; i++) {
        double most = 0.0;
        for (int j = 0; j < r->n; j++)
            most = fmax(most, fabs(want[i * r->n + j]));
        for (int j = 0; j < r->n; j++)
            ck_near(c, "y", j, r->y[i * r->ldy + j], want[i * r->n + j], rel * most + 1e-9);
    }
    ck_gaps(c, r->y, r->rows, r->n, r->ldy, sizeof(float));
}

static void layer_norm_case(ck *c, double offset, double spread)
{
    ck_begin(c);
    const rows_case r = make_rows(c, 700, offset, spread);
    double *x = copy_f64(c, &r);
    const float *scale = maybe_vector(c, r.n), *shift = maybe_vector(c, r.n);
    const double eps = 1e-6;
    for (int i = 0; i < r.rows; i++) {
        double *row = x + i * r.n, mean = 0.0, var = 0.0;
        for (int j = 0; j < r.n; j++)
            mean += row[j] / r.n;
        for (int j = 0; j < r.n; j++)
            var += (row[j] - mean) * (row[j] - mean) / r.n;
        for (int j = 0; j < r.n; j++)
            row[j] = (row[j] - mean) / sqrt(var + eps) * (1.0 + (scale ? scale[j] : 0.0)) +
                     (shift ? shift[j] : 0.0);
    }
    c->k->layer_norm_modulate(r.rows, r.n, r.x, r.ldx, scale, shift, (float)eps, r.y, r.ldy);
    compare_rows(c, &r, x, 4e-6);
    ck_end(c, "rows");
}

void check_layer_norm_modulate(ck *c)
{
    for (int round = 0; round < 8; round++) {
        layer_norm_case(c, 0.0, 1.0);
        layer_norm_case(c, 3.0, 100.0);
        layer_norm_case(c, 3e4, 1.0); /* offset far above the spread */
        layer_norm_case(c, 5.0, 0.0); /* constant rows: the shift alone */
    }
}

void check_rms_norm(ck *c)
{
    static const double spreads[] = {1.0, 1e4, 1e-6, 0.0};
    for (int round = 0; round < 24; round++) {
        ck_begin(c);
        const rows_case r = make_rows(c, 700, 0.0, spreads[round % 4]);
        double *x = copy_f64(c, &r);
        const float *w = maybe_vector(c, r.n);
        for (int i = 0; i < r.rows; i++) {
            double *row = x + i * r.n, squares = 0.0;
            for (int j = 0; j < r.n; j++)
                squares += row[j] * row[j];
            for (int j = 0; j < r.n; j++)
                row[j] *= (w ? w[j] : 1.0) / sqrt(squares / r.n + 1e-6);
        }
        c->k->rms_norm(r.rows, r.n, r.x, r.ldx, w, 1e-6f, r.y, r.ldy);
        compare_rows(c, &r, x, 2e-6);
        ck_end(c, "rows");
    }
    ck_begin(c); /* a NaN stays in its row */
    float *x = ck_floats(c, 40);
    ck_fill_normal(c, 40, x, 1.0);
    x[3] = NAN;
    c->k->rms_norm(2, 20, x, 20, NULL, 1e-6f, x, 20);
    for (int j = 0; j < 40; j++)
        ck_equal(c, "is nan", j, isnan(x[j]) != 0, j < 20);
    ck_end(c, "NaN");
}

void check_rms_norm_add(ck *c)
{
    for (int round = 0; round < 24; round++) {
        ck_begin(c);
        const int rows = ck_int(c, 1, 6), n = ck_length(c, 700);
        const ptrdiff_t ldx = ck_stride(c, n), ldy = ck_stride(c, n);
        float *x = ck_floats(c, (int64_t)ck_matrix_count(rows, n, ldx));
        float *y = ck_floats(c, (int64_t)ck_matrix_count(rows, n, ldy));
        double *want = ck_buffer(c, (size_t)(rows * n), sizeof(double));
        double *tolerance = ck_buffer(c, (size_t)(rows * n), sizeof(double));
        const float *w = maybe_vector(c, n);
        for (int i = 0; i < rows; i++) {
            double squares = 0.0;
            for (int j = 0; j < n; j++) {
                x[i * ldx + j] = (float)(30.0 * ck_normal(c));
                y[i * ldy + j] = (float)ck_normal(c);
                squares += (double)x[i * ldx + j] * x[i * ldx + j];
            }
            for (int j = 0; j < n; j++) {
                const double term = x[i * ldx + j] * (w ? w[j] : 1.0) / sqrt(squares / n + 1e-5);
                want[i * n + j] = y[i * ldy + j] + term;
                /* The terms may cancel: what they round is relative to them, not to their sum. */
                tolerance[i * n + j] = 1e-6 * (fabs((double)y[i * ldy + j]) + fabs(term));
            }
        }
        c->k->rms_norm_add(rows, n, x, ldx, w, 1e-5f, y, ldy);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < n; j++)
                ck_near(c, "y", i * n + j, y[i * ldy + j], want[i * n + j], tolerance[i * n + j]);
        ck_end(c, "rows");
    }
}

void check_l2_norm_act(ck *c)
{
    static const double spreads[] = {1.0, 1e3, 1e-3, 0.0};
    for (int round = 0; round < 32; round++) {
        ck_begin(c);
        const mica_kernel_act act = round % 2 ? MICA_KERNEL_ACT_SILU : MICA_KERNEL_ACT_NONE;
        const rows_case r = make_rows(c, 400, 0.0, spreads[round / 2 % 4]);
        double *x = copy_f64(c, &r);
        const float *gamma = maybe_vector(c, r.n);
        for (int i = 0; i < r.rows; i++) {
            double *row = x + i * r.n, squares = 0.0;
            for (int j = 0; j < r.n; j++)
                squares += row[j] * row[j];
            for (int j = 0; j < r.n; j++) {
                const double v =
                    row[j] / fmax(sqrt(squares), 1e-12) * sqrt(r.n) * (gamma ? gamma[j] : 1.0);
                row[j] = act ? v / (1.0 + exp(-v)) : v;
            }
        }
        c->k->l2_norm_act(r.rows, r.n, r.x, r.ldx, gamma, act, r.y, r.ldy);
        compare_rows(c, &r, x, 3e-6);
        ck_end(c, act ? "silu" : "plain");
    }
}

/* ---------------------------------------------------------------- groups -- */

void check_channel_sums(ck *c)
{
    for (int round = 0; round < 32; round++) {
        ck_begin(c);
        const int pixels = ck_int(c, 0, 70), n = ck_length(c, 300);
        const ptrdiff_t ldx = ck_stride(c, n);
        const double offset = round % 2 ? 1e3 : 0.0;
        float *x = ck_floats(c, (int64_t)ck_matrix_count(pixels > 0 ? pixels : 1, n, ldx));
        float *sum = ck_floats(c, n), *square = ck_floats(c, n), *from = maybe_vector(c, n);
        for (int j = 0; from && j < n; j++)
            from[j] += (float)offset;
        for (int i = 0; i < pixels; i++)
            for (int j = 0; j < n; j++)
                x[i * ldx + j] = (float)(offset + ck_normal(c));
        c->k->channel_sums(pixels, n, x, ldx, from, sum, square);
        for (int j = 0; j < n; j++) {
            double s = 0.0, q = 0.0, most = 0.0;
            for (int i = 0; i < pixels; i++) {
                const double d = (double)x[i * ldx + j] - (from ? from[j] : 0.0);
                s += d;
                q += d * d;
                most += fabs(d);
            }
            /* One rounding of d and one addition a pixel. */
            const double unit = (pixels + 2) * ldexp(1.0, -24);
            ck_near(c, "sum", j, sum[j], s, unit * most + 1e-30);
            ck_near(c, "square", j, square[j], q, 2 * unit * q + 1e-30);
        }
        ck_end(c, from ? "from" : "plain");
    }
}

void check_channel_affine_act(ck *c)
{
    for (int round = 0; round < 32; round++) {
        ck_begin(c);
        const mica_kernel_act act = round % 2 ? MICA_KERNEL_ACT_SILU : MICA_KERNEL_ACT_NONE;
        const rows_case r = make_rows(c, 300, 0.0, round % 4 < 2 ? 1.0 : 50.0);
        double *x = copy_f64(c, &r), *terms = copy_f64(c, &r);
        float *scale = ck_floats(c, r.n), *shift = ck_floats(c, r.n);
        ck_fill_normal(c, r.n, scale, 1.0);
        ck_fill_normal(c, r.n, shift, 1.0);
        for (int i = 0; i < r.rows; i++)
            for (int j = 0; j < r.n; j++) {
                const double v = x[i * r.n + j] * scale[j] + shift[j];
                terms[i * r.n + j] = fabs(x[i * r.n + j] * scale[j]) + fabs((double)shift[j]);
                x[i * r.n + j] = act ? v / (1.0 + exp(-v)) : v;
            }
        c->k->channel_affine_act(r.rows, r.n, r.x, r.ldx, scale, shift, act, r.y, r.ldy);
        /* The terms may cancel: two roundings of them without fma, then those of silu, whose slope
         * is 1.1 at most. */
        for (int i = 0; i < r.rows; i++)
            for (int j = 0; j < r.n; j++)
                ck_near(c, "y", j, r.y[i * r.ldy + j], x[i * r.n + j],
                        4 * ldexp(terms[i * r.n + j], -24) + 1e-6 * fabs(x[i * r.n + j]));
        ck_gaps(c, r.y, r.rows, r.n, r.ldy, sizeof(float));
        ck_end(c, act ? "silu" : "plain");
    }
}

/* ------------------------------------------------------------------ rope -- */

static void rotate_ref(double *x, int k, bool half, const float *cos_k, const float *sin_k)
{
    for (int i = 0; i < k / 2; i++) {
        double *a = x + (half ? i : 2 * i), *b = x + (half ? i + k / 2 : 2 * i + 1);
        const double u = *a, v = *b;
        *a = u * cos_k[i] - v * sin_k[i];
        *b = u * sin_k[i] + v * cos_k[i];
    }
}

static void rope_case(ck *c, bool half)
{
    ck_begin(c);
    rows_case r = make_rows(c, 140, 0.0, 2.0);
    r.n = r.n / 2 * 2; /* one column of an odd case stays unused: gaps begin earlier */
    double *x = copy_f64(c, &r);
    const float *w = maybe_vector(c, r.n);
    float *angles[2] = {NULL, NULL};
    if (ck_int(c, 0, 3)) {
        angles[0] = ck_floats(c, r.n / 2);
        angles[1] = ck_floats(c, r.n / 2);
        for (int i = 0; i < r.n / 2; i++) {
            const double a = ck_uniform(c, -50.0, 50.0);
            angles[0][i] = (float)cos(a);
            angles[1][i] = (float)sin(a);
        }
    }
    for (int i = 0; i < r.rows; i++) {
        double *row = x + i * r.n, squares = 0.0;
        for (int j = 0; j < r.n; j++)
            squares += row[j] * row[j];
        for (int j = 0; w && j < r.n; j++)
            row[j] *= w[j] / sqrt(squares / r.n + 1e-6);
        if (angles[0])
            rotate_ref(row, r.n, half, angles[0], angles[1]);
    }
    (half ? c->k->qk_norm_rope_half : c->k->qk_norm_rope_interleaved)(
        r.rows, r.n, r.x, r.ldx, w, 1e-6f, angles[0], angles[1], r.y, r.ldy);
    for (int i = 0; i < r.rows; i++) {
        double most = 0.0;
        for (int j = 0; j < r.n; j++)
            most = fmax(most, fabs(x[i * r.n + j]));
        for (int j = 0; j < r.n; j++)
            ck_near(c, "y", j, r.y[i * r.ldy + j], x[i * r.n + j], 2e-6 * most);
    }
    ck_end(c, w ? "norm" : "no norm");
}

void check_qk_norm_rope_interleaved(ck *c)
{
    for (int round = 0; round < 32; round++)
        rope_case(c, false);
}
void check_qk_norm_rope_half(ck *c)
{
    for (int round = 0; round < 32; round++)
        rope_case(c, true);
}

/* ------------------------------------------------------------- benchmark -- */

typedef struct matrix {
    int rows, n;
    float *x, *y, *w, *v;
} matrix;

static matrix make_matrix(ck *c, int rows, int n)
{
    ck_begin(c);
    matrix m = {rows,           n, ck_floats(c, rows * n), ck_floats(c, rows * n), ck_floats(c, n),
                ck_floats(c, n)};
    ck_fill_normal(c, rows * n, m.x, 1.0);
    ck_fill_normal(c, n, m.w, 1.0);
    ck_fill_normal(c, n, m.v, 1.0);
    return m;
}

static void run_layer_norm(const mica_kernels *k, const void *p)
{
    const matrix *m = p;
    k->layer_norm_modulate(m->rows, m->n, m->x, m->n, m->w, m->v, 1e-6f, m->y, m->n);
}
void bench_layer_norm_modulate(ck *c)
{
    const matrix m = make_matrix(c, 16, 3072);
    ck_bench(c, run_layer_norm, &m, 8.0 * 16 * 3072, 0);
}
static void run_rms_norm(const mica_kernels *k, const void *p)
{
    const matrix *m = p;
    k->rms_norm(m->rows, m->n, m->x, m->n, m->w, 1e-6f, m->y, m->n);
}
void bench_rms_norm(ck *c)
{
    const matrix m = make_matrix(c, 16, 3072);
    ck_bench(c, run_rms_norm, &m, 8.0 * 16 * 3072, 0);
}
static void run_rms_norm_add(const mica_kernels *k, const void *p)
{
    const matrix *m = p;
    k->rms_norm_add(m->rows, m->n, m->x, m->n, m->w, 1e-6f, m->y, m->n);
}
void bench_rms_norm_add(ck *c)
{
    const matrix m = make_matrix(c, 16, 3072);
    ck_bench(c, run_rms_norm_add, &m, 12.0 * 16 * 3072, 0);
}
static void run_l2_norm(const mica_kernels *k, const void *p)
{
    const matrix *m = p;
    k->l2_norm_act(m->rows, m->n, m->x, m->n, m->w, MICA_KERNEL_ACT_SILU, m->y, m->n);
}
void bench_l2_norm_act(ck *c)
{
    const matrix m = make_matrix(c, 512, 96);
    ck_bench(c, run_l2_norm, &m, 8.0 * 512 * 96, 0);
}
static void run_channel_sums(const mica_kernels *k, const void *p)
{
    const matrix *m = p;
    k->channel_sums(m->rows, m->n, m->x, m->n, m->w, m->y, m->v);
}
void bench_channel_sums(ck *c)
{
    const matrix m = make_matrix(c, 512, 128);
    ck_bench(c, run_channel_sums, &m, 4.0 * 512 * 128, 0);
}
static void run_channel_affine(const mica_kernels *k, const void *p)
{
    const matrix *m = p;
    k->channel_affine_act(m->rows, m->n, m->x, m->n, m->w, m->v, MICA_KERNEL_ACT_SILU, m->y, m->n);
}
void bench_channel_affine_act(ck *c)
{
    const matrix m = make_matrix(c, 512, 128);
    ck_bench(c, run_channel_affine, &m, 8.0 * 512 * 128, 0);
}
static void run_interleaved(const mica_kernels *k, const void *p)
{
    const matrix *m = p;
    k->qk_norm_rope_interleaved(m->rows, m->n, m->x, m->n, m->w, 1e-6f, m->v, m->v, m->y, m->n);
}
void bench_qk_norm_rope_interleaved(ck *c)
{
    const matrix m = make_matrix(c, 24, 128);
    ck_bench(c, run_interleaved, &m, 8.0 * 24 * 128, 0);
}
static void run_half(const mica_kernels *k, const void *p)
{
    const matrix *m = p;
    k->qk_norm_rope_half(m->rows, m->n, m->x, m->n, m->w, 1e-6f, m->v, m->v, m->y, m->n);
}
void bench_qk_norm_rope_half(ck *c)
{
    const matrix m = make_matrix(c, 24, 128);
    ck_bench(c, run_half, &m, 8.0 * 24 * 128, 0);
}
