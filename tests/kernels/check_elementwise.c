/* check_elementwise.c - activations, flat sums, pixels, copies and reductions. */
#include "checkkern.h"

#define BENCH_N 49152 /* 192 KiB per array: L2 of most machines */

static double ref_silu(double x)
{
    return x / (1.0 + exp(-x));
}
static double ref_gelu_tanh(double x)
{
    return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}
static double ref_gelu_erf(double x)
{
    return 0.5 * x * erfc(-x / 1.4142135623730951);
}

/* erfc underflows to 0 for -inf, where x * 0 is NaN as in the references. */
typedef double reference(double x);

static void check_map(ck *c, mica_kernel_silu *run, reference *ref)
{
    for (int round = 0; round < 12; round++) {
        ck_begin(c);
        const int n = round ? ck_length(c, 300) : 20000;
        float *x = ck_floats(c, n), *y = ck_floats(c, n);
        if (round == 0) /* a dense walk over the range where the function is not trivial */
            for (int i = 0; i < n; i++)
                x[i] = (float)(-20.0 + 40.0 * i / n);
        else
            ck_fill_normal(c, n, x, 3.0);
        if (round % 3 == 1)
            ck_sprinkle(c, n, x);
        const bool in_place = round % 4 == 3;
        float *copy = ck_floats(c, n);
        memcpy(copy, x, (size_t)n * sizeof(float));
        run(n, x, in_place ? x : y);
        for (int i = 0; i < n; i++) {
            const double want = ref((double)copy[i]);
            ck_near(c, "y", i, in_place ? x[i] : y[i], want, 1e-6 * fabs(want) + 1e-9);
        }
        ck_end(c, in_place ? "in place" : "n");
    }
    ck_begin(c);
    run(0, NULL, NULL);
    ck_end(c, "n = 0");
}

void check_silu(ck *c)
{
    check_map(c, c->k->silu, ref_silu);
}
void check_gelu_tanh(ck *c)
{
    check_map(c, c->k->gelu_tanh, ref_gelu_tanh);
}
void check_gelu_erf(ck *c)
{
    check_map(c, c->k->gelu_erf, ref_gelu_erf);
}

/* Near 0 tanh is x: all digits count there. */
void check_tanh(ck *c)
{
    check_map(c, c->k->tanh, tanh);
    ck_begin(c);
    float *x = ck_floats(c, 2000), *y = ck_floats(c, 2000);
    for (int i = 0; i < 2000; i++)
        x[i] = (float)(ck_normal(c) * pow(10.0, -i / 100.0));
    c->k->tanh(2000, x, y);
    for (int i = 0; i < 2000; i++)
        ck_near(c, "y", i, y[i], tanh((double)x[i]), 4e-7 * fabs((double)x[i]));
    ck_end(c, "near 0");
}

void check_swiglu(ck *c)
{
    for (int round = 0; round < 12; round++) {
        ck_begin(c);
        const int n = ck_length(c, 300);
        float *g = ck_floats(c, n), *u = ck_floats(c, n), *y = ck_floats(c, n);
        double *want = ck_buffer(c, (size_t)n, sizeof(double));
        ck_fill_normal(c, n, g, 3.0);
        ck_fill_normal(c, n, u, 2.0);
        for (int i = 0; i < n; i++)
            want[i] = ref_silu(g[i]) * u[i];
        float *out = round % 3 == 0 ? g : round % 3 == 1 ? u : y;
        c->k->swiglu(n, g, u, out);
        for (int i = 0; i < n; i++)
            ck_near(c, "y", i, out[i], want[i], 1.1e-6 * fabs(want[i]) + 1e-9);
        ck_end(c, round % 3 == 2 ? "apart" : "in place");
    }
}

void check_add(ck *c)
{
    for (int round = 0; round < 12; round++) {
        ck_begin(c);
        const int n = ck_length(c, 300);
        float *a = ck_floats(c, n), *b = ck_floats(c, n), *y = ck_floats(c, n);
        ck_fill_normal(c, n, a, 1.0);
        ck_fill_normal(c, n, b, 100.0);
        ck_sprinkle(c, n, a);
        float *want = ck_floats(c, n);
        for (int i = 0; i < n; i++)
            want[i] = a[i] + b[i];
        float *out = round % 3 == 0 ? a : round % 3 == 1 ? b : y;
        c->k->add(n, a, b, out);
        for (int i = 0; i < n; i++)
            ck_near(c, "y", i, out[i], want[i], 0.0);
        ck_end(c, "add");
    }
}

void check_mul_scalar(ck *c)
{
    for (int round = 0; round < 12; round++) {
        ck_begin(c);
        const int n = ck_length(c, 300);
        float *x = ck_floats(c, n), *y = ck_floats(c, n);
        const float a = (float)ck_normal(c);
        ck_fill_normal(c, n, x, 1.0);
        ck_sprinkle(c, n, x);
        float *want = ck_floats(c, n);
        for (int i = 0; i < n; i++)
            want[i] = a * x[i];
        float *out = round % 2 ? x : y;
        c->k->mul_scalar(n, a, x, out);
        for (int i = 0; i < n; i++)
            ck_near(c, "y", i, out[i], want[i], 0.0);
        ck_end(c, "mul");
    }
}

void check_linear_combination(ck *c)
{
    for (int terms = 1; terms <= 6; terms++) {
        for (int round = 0; round < 4; round++) {
            ck_begin(c);
            const int n = ck_length(c, 200);
            float *x[6], coef[6];
            for (int t = 0; t < terms; t++) {
                x[t] = ck_floats(c, n);
                ck_fill_normal(c, n, x[t], 1.0);
                coef[t] = (float)ck_normal(c);
            }
            double *want = ck_buffer(c, (size_t)n, sizeof(double));
            double *size = ck_buffer(c, (size_t)n, sizeof(double));
            for (int i = 0; i < n; i++) {
                want[i] = size[i] = 0.0;
                for (int t = 0; t < terms; t++) {
                    want[i] += (double)coef[t] * x[t][i];
                    size[i] += fabs((double)coef[t] * x[t][i]);
                }
            }
            float *out = round % 2 ? x[ck_int(c, 0, terms - 1)] : ck_floats(c, n);
            c->k->linear_combination(n, terms, coef, (const float *const *)x, out);
            for (int i = 0; i < n; i++)
                ck_near(c, "y", i, out[i], want[i], (terms + 1) * 0x1p-24 * size[i]);
            ck_end(c, "terms");
        }
    }
}

/* ---------------------------------------------------------------- pixels -- */

void check_u8_from_f32(ck *c)
{
    for (int round = 0; round < 12; round++) {
        ck_begin(c);
        const int n = ck_length(c, 600);
        float *x = ck_floats(c, n);
        uint8_t *y = ck_buffer(c, (size_t)n, 1);
        for (int i = 0; i < n; i++)
            x[i] = ck_int(c, 0, 1) ? (float)ck_uniform(c, -1.2, 1.2)
                                   : (float)((ck_int(c, 0, 509) + 0.5) / 255.0 - 1.0);
        if (round % 2)
            ck_sprinkle(c, n, x);
        c->k->u8_from_f32(n, x, y);
        for (int i = 0; i < n; i++) {
            float v = x[i] / 2.0f + 0.5f; /* as the reference rounds, in f32 */
            v = v > 0.0f ? v : 0.0f;
            v = v < 1.0f ? v : 1.0f;
            ck_equal(c, "y", i, y[i], lrintf(v * 255.0f));
        }
        ck_end(c, "n");
    }
}

void check_upsample2_row(ck *c)
{
    for (int round = 0; round < 8; round++) {
        ck_begin(c);
        const int pixels = ck_int(c, 1, 20), ch = ck_length(c, 100);
        float *x = ck_floats(c, pixels * ch), *y = ck_floats(c, 2 * pixels * ch);
        ck_fill_normal(c, pixels * ch, x, 1.0);
        c->k->upsample2_row(pixels, ch, x, y);
        for (int i = 0; i < 2 * pixels; i++)
            ck_same_bytes(c, "pixel", y + i * ch, x + i / 2 * ch, (size_t)ch * sizeof(float));
        ck_end(c, "row");
    }
}

void check_copy_rows(ck *c)
{
    for (int round = 0; round < 8; round++) {
        ck_begin(c);
        const int rows = ck_int(c, 1, 9), n = ck_length(c, 100);
        const ptrdiff_t ldx = ck_stride(c, n), ldy = ck_stride(c, n);
        const size_t count = ck_matrix_count(rows, n, ldx);
        float *x = ck_floats(c, (int64_t)count);
        float *y = ck_floats(c, (int64_t)ck_matrix_count(rows, n, ldy));
        ck_fill_normal(c, (int64_t)count, x, 1.0);
        c->k->copy_rows(rows, n, x, ldx, y, ldy);
        for (int i = 0; i < rows; i++)
            ck_same_bytes(c, "row", y + i * ldy, x + i * ldx, (size_t)n * sizeof(float));
        ck_gaps(c, y, rows, n, ldy, sizeof(float));
        ck_end(c, "rows");
    }
}

void check_transpose(ck *c)
{
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        const int rows = ck_length(c, 70), n = ck_length(c, 70);
        const ptrdiff_t ldx = ck_stride(c, n), ldy = ck_stride(c, rows);
        const size_t count = ck_matrix_count(rows, n, ldx);
        float *x = ck_floats(c, (int64_t)count);
        float *y = ck_floats(c, (int64_t)ck_matrix_count(n, rows, ldy));
        ck_fill_normal(c, (int64_t)count, x, 1.0);
        c->k->transpose(rows, n, x, ldx, y, ldy);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < n; j++)
                ck_same_bytes(c, "element", y + j * ldy + i, x + i * ldx + j, sizeof(float));
        ck_gaps(c, y, n, rows, ldy, sizeof(float));
        ck_end(c, "matrix");
    }
}

/* ------------------------------------------------------------ reductions -- */

void check_all_finite(ck *c)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int round = 0; round < 30; round++) {
        ck_begin(c);
        const int n = round % 5 ? ck_length(c, 300) : ck_int(c, 4000, 9000);
        float *x = ck_floats(c, n);
        ck_fill_normal(c, n, x, 1e3);
        x[ck_int(c, 0, n - 1)] = ck_int(c, 0, 1) ? 3.4028234e38f : -1e-45f;
        ck_equal(c, "clean", n, c->k->all_finite(n, x), 1);
        x[ck_int(c, 0, n - 1)] = bad[ck_int(c, 0, 2)];
        ck_equal(c, "spoilt", n, c->k->all_finite(n, x), 0);
        ck_end(c, "n");
    }
    ck_begin(c);
    ck_equal(c, "empty", 0, c->k->all_finite(0, NULL), 1);
    ck_end(c, "n = 0");
}

void check_column_absmax(ck *c)
{
    for (int round = 0; round < 24; round++) {
        ck_begin(c);
        const int rows = ck_int(c, 1, 11), n = ck_length(c, 200);
        const ptrdiff_t ldx = ck_stride(c, n);
        const int64_t count = (int64_t)ck_matrix_count(rows, n, ldx);
        float *x = ck_floats(c, count), *most = ck_floats(c, n), *want = ck_floats(c, n);
        ck_fill_normal(c, count, x, 3.0);
        x[ck_int(c, 0, (int)count - 1)] = NAN;
        for (int i = 0; i < n; i++)
            want[i] = most[i] = i % 3 ? 0.0f : 2.5f;
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < n; i++)
                want[i] = fabsf(x[r * ldx + i]) > want[i] ? fabsf(x[r * ldx + i]) : want[i];
        c->k->column_absmax(rows, n, x, ldx, most);
        ck_same_bytes(c, "channels", most, want, (size_t)n * sizeof(float));
        ck_end(c, "rows and columns");
    }
    ck_begin(c);
    c->k->column_absmax(0, 5, NULL, 5, ck_floats(c, 5));
    ck_end(c, "no rows");
}

void check_dot(ck *c)
{
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        const int n = round % 4 ? ck_length(c, 300) : ck_int(c, 4000, 20000);
        float *a = ck_floats(c, n), *b = ck_floats(c, n);
        ck_fill_normal(c, n, a, 1.0);
        ck_fill_normal(c, n, b, 1.0);
        double want = 0.0, size = 0.0;
        for (int i = 0; i < n; i++) {
            want += (double)a[i] * b[i];
            size += fabs((double)a[i] * b[i]);
        }
        /* At most 4096 / 16 additions in one lane of a block, and the sum of lanes. */
        ck_near(c, "dot", n, c->k->dot(n, a, b), want, (n < 4096 ? n : 4096) * 0x1p-24 * size);
        ck_end(c, "n");
    }
}

static void check_cfg(ck *c, bool renorm, bool in_place)
{
    ck_begin(c);
    const int rows = ck_int(c, 1, 5), n = ck_length(c, 130);
    const ptrdiff_t ldc = ck_stride(c, n), ldu = ck_stride(c, n);
    const ptrdiff_t ldo = in_place ? ldc : ck_stride(c, n);
    float *x = ck_floats(c, (int64_t)ck_matrix_count(rows, n, ldc));
    float *u = ck_floats(c, (int64_t)ck_matrix_count(rows, n, ldu));
    float *o = in_place ? x : ck_floats(c, (int64_t)ck_matrix_count(rows, n, ldo));
    double *want = ck_buffer(c, (size_t)(rows * n), sizeof(double));
    for (int i = 0; i < rows; i++) {
        ck_fill_normal(c, n, x + i * ldc, 1.0);
        ck_fill_normal(c, n, u + i * ldu, 1.0);
    }
    const float scale = (float)ck_uniform(c, 0.5, 8.0);
    for (int i = 0; i < rows; i++) {
        double norm_c = 0.0, norm_o = 0.0;
        for (int j = 0; j < n; j++) {
            const double v = u[i * ldu + j] + scale * ((double)x[i * ldc + j] - u[i * ldu + j]);
            want[i * n + j] = v;
            norm_c += (double)x[i * ldc + j] * x[i * ldc + j];
            norm_o += v * v;
        }
        for (int j = 0; renorm && j < n; j++)
            want[i * n + j] *= sqrt(norm_c / norm_o);
    }
    c->k->cfg_rows(rows, n, x, ldc, u, ldu, scale, renorm, o, ldo);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < n; j++)
            ck_near(c, "out", j, o[i * ldo + j], want[i * n + j],
                    2e-6 * (fabs(want[i * n + j]) + 8.0));
    ck_gaps(c, o, rows, n, ldo, sizeof(float));
    ck_end(c, renorm ? "renorm" : "plain");
}

void check_cfg_rows(ck *c)
{
    for (int round = 0; round < 16; round++)
        check_cfg(c, round & 1, (round & 2) != 0);
}

/* ------------------------------------------------------------- benchmark -- */

typedef struct flat {
    int n;
    float *x, *z, *y;
} flat;

static flat make_flat(ck *c, int n)
{
    ck_begin(c);
    flat f = {n, ck_floats(c, n), ck_floats(c, n), ck_floats(c, 2 * (int64_t)n)};
    ck_fill_normal(c, n, f.x, 2.0);
    ck_fill_normal(c, n, f.z, 2.0);
    return f;
}

#define BENCH_FLAT(slot, call, arrays)                                                             \
    static void run_##slot(const mica_kernels *k, const void *problem)                             \
    {                                                                                              \
        const flat *f = problem;                                                                   \
        call;                                                                                      \
    }                                                                                              \
    void bench_##slot(ck *c)                                                                       \
    {                                                                                              \
        const flat f = make_flat(c, BENCH_N);                                                      \
        ck_bench(c, run_##slot, &f, 4.0 * (arrays)*BENCH_N, 0);                                    \
    }
BENCH_FLAT(silu, k->silu(f->n, f->x, f->y), 2)
BENCH_FLAT(gelu_tanh, k->gelu_tanh(f->n, f->x, f->y), 2)
BENCH_FLAT(gelu_erf, k->gelu_erf(f->n, f->x, f->y), 2)
BENCH_FLAT(tanh, k->tanh(f->n, f->x, f->y), 2)
BENCH_FLAT(swiglu, k->swiglu(f->n, f->x, f->z, f->y), 3)
BENCH_FLAT(add, k->add(f->n, f->x, f->z, f->y), 3)
BENCH_FLAT(mul_scalar, k->mul_scalar(f->n, 0.5f, f->x, f->y), 2)
BENCH_FLAT(u8_from_f32, k->u8_from_f32(f->n, f->x, (uint8_t *)f->y), 1.25)
BENCH_FLAT(upsample2_row, k->upsample2_row(f->n / 96, 96, f->x, f->y), 3)
BENCH_FLAT(copy_rows, k->copy_rows(f->n / 192, 192, f->x, 192, f->y, 200), 2)
BENCH_FLAT(transpose, k->transpose(f->n / 256, 256, f->x, 256, f->y, f->n / 256), 2)
BENCH_FLAT(cfg_rows, k->cfg_rows(f->n / 64, 64, f->x, 64, f->z, 64, 4.0f, true, f->y, 64), 3)

static void run_linear_combination(const mica_kernels *k, const void *problem)
{
    const flat *f = problem;
    const float *x[3] = {f->x, f->z, f->x};
    const float coef[3] = {0.5f, 0.25f, 0.125f};
    k->linear_combination(f->n, 3, coef, x, f->y);
}
void bench_linear_combination(ck *c)
{
    const flat f = make_flat(c, BENCH_N);
    ck_bench(c, run_linear_combination, &f, 16.0 * BENCH_N, 0);
}

/* The results go to memory so that the calls are not dropped. */
static void run_all_finite(const mica_kernels *k, const void *problem)
{
    const flat *f = problem;
    f->y[0] = k->all_finite(f->n, f->x) ? 1.0f : 0.0f;
}
void bench_all_finite(ck *c)
{
    const flat f = make_flat(c, BENCH_N);
    ck_bench(c, run_all_finite, &f, 4.0 * BENCH_N, 0);
}
static void run_column_absmax(const mica_kernels *k, const void *problem)
{
    const flat *f = problem;
    k->column_absmax(f->n / 1024, 1024, f->x, 1024, f->y);
}
void bench_column_absmax(ck *c)
{
    const flat f = make_flat(c, BENCH_N);
    ck_bench(c, run_column_absmax, &f, 4.0 * BENCH_N, 0);
}
static void run_dot(const mica_kernels *k, const void *problem)
{
    const flat *f = problem;
    f->y[0] = (float)k->dot(f->n, f->x, f->z);
}
void bench_dot(ck *c)
{
    const flat f = make_flat(c, BENCH_N);
    ck_bench(c, run_dot, &f, 8.0 * BENCH_N, 2.0 * BENCH_N);
}
