/* test_backend_group_norm.c - moments of rows and the norm made of them, against f64: whole
 * pictures, bands, in place, fused and unfused, any number of threads. */
#include "backend_testing.h"

typedef struct norm_case {
    int Y, X, C, G;
    float offset;
    mica_act act;
} norm_case;

static mica_backend *open_with(bool ablate, int threads)
{
    const mica_backend_options options = {
        .precision = MICA_PRECISION_F32, .threads = threads, .ablate_fusion = ablate};
    mica_backend *be = NULL;
    assert_int_equal(mica_backend_open(&be, &options, NULL), MICA_OK);
    return be;
}

static void reference(const norm_case *c, const float *x, const mica_weight *gamma,
                      const mica_weight *beta, double *out)
{
    const int64_t pixels = (int64_t)c->Y * c->X, D = c->C / c->G;
    for (int64_t g = 0; g < c->G; g++) {
        double mean = 0.0, var = 0.0;
        const double n = (double)(pixels * D);
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t i = g * D; i < (g + 1) * D; i++)
                mean += (double)x[p * c->C + i] / n;
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t i = g * D; i < (g + 1) * D; i++)
                var += pow((double)x[p * c->C + i] - mean, 2) / n;
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t i = g * D; i < (g + 1) * D; i++) {
                const double unit = ((double)x[p * c->C + i] - mean) / sqrt(var + 1e-6);
                const double v = unit * weight_at(gamma, i) + weight_at(beta, i);
                out[p * c->C + i] = c->act ? v / (1.0 + exp(-v)) : v;
            }
    }
}

/* Moments and norm in bands of `rows` rows, from the last to the first. */
static void run_bands(mica_backend *be, const norm_case *c, mica_tensor *x, mica_weight *gamma,
                      mica_weight *beta, int rows, mica_tensor *y)
{
    mica_tensor moments = host_tensor(MICA_DTYPE_F32, 3, SHAPE(c->Y, c->G, 2));
    for (int first = (c->Y - 1) / rows * rows; first >= 0; first -= rows) {
        const int n = MICA_MIN(rows, c->Y - first);
        const mica_tensor part = mica_tensor_rows(x, first, n);
        mica_tensor out = mica_tensor_rows(&moments, first, n);
        mica_group_moments(be, &part, &out);
    }
    for (int first = 0; first < c->Y; first += rows) {
        const int n = MICA_MIN(rows, c->Y - first);
        const mica_tensor part = mica_tensor_rows(x, first, n);
        mica_tensor out = mica_tensor_rows(y, first, n);
        mica_group_norm(be, &(mica_group_norm_args){.x_YXC = &part,
                                                    .moments_YG2 = &moments,
                                                    .gamma_C = gamma,
                                                    .beta_C = beta,
                                                    .eps = 1e-6f,
                                                    .act = c->act,
                                                    .y_YXC = &out});
    }
    assert_fine(be);
    host_free(&moments);
}

static void check_case(const norm_case *c)
{
    const int64_t count = (int64_t)c->Y * c->X * c->C;
    mica_tensor x = host_random(1.0f, 3, SHAPE(c->Y, c->X, c->C));
    mica_tensor y = host_tensor(MICA_DTYPE_F32, 3, SHAPE(c->Y, c->X, c->C));
    mica_tensor first = host_tensor(MICA_DTYPE_F32, 3, SHAPE(c->Y, c->X, c->C));
    mica_weight gamma = host_weight(MICA_DTYPE_BF16, 1.0f, 1, SHAPE(c->C));
    mica_weight beta = host_weight(MICA_DTYPE_F32, 1.0f, 1, SHAPE(c->C));
    double *want = test_malloc((size_t)count * sizeof *want);
    for (int64_t i = 0; i < count; i++) /* rows differ, so that joining them matters */
        floats(&x)[i] += c->offset * (float)(1 + i / (c->X * c->C));
    reference(c, floats(&x), &gamma, &beta, want);
    for (int threads = 1; threads <= 3; threads++)
        for (int rows = 1; rows <= c->Y; rows = rows * 2 + 1) {
            mica_backend *be = open_with(false, threads);
            run_bands(be, c, &x, &gamma, &beta, rows, &y);
            /* A row's mean is kept in f32: 2^-24 of the offset moves what is left of it. */
            assert_close("group norm", floats(&y), want, count,
                         3e-6 + 2e-7 * (double)fabsf(c->offset) * c->Y);
            if (threads == 1 && rows == 1)
                memcpy(first.data, y.data, (size_t)count * sizeof(float));
            assert_memory_equal(y.data, first.data, (size_t)count * sizeof(float));
            mica_backend_close(&be);
        }
    mica_backend *be = open_with(true, 2);
    run_bands(be, c, &x, &gamma, &beta, c->Y, &x); /* in place, unfused */
    assert_close("unfused", floats(&x), want, count, 3e-6 + 2e-7 * (double)fabsf(c->offset) * c->Y);
    mica_backend_close(&be);
    test_free(want);
    weight_free(&gamma);
    weight_free(&beta);
    host_free(&x);
    host_free(&y);
    host_free(&first);
}

static void test_group_norm(void **state)
{
    (void)state;
    static const norm_case cases[] = {{1, 1, 4, 1, 0.0f, MICA_ACT_NONE},
                                      {5, 7, 16, 8, 0.0f, MICA_ACT_SILU},
                                      {9, 33, 24, 8, 1.0f, MICA_ACT_SILU},
                                      {17, 40, 128, 32, 0.0f, MICA_ACT_SILU},
                                      {3, 1000, 6, 3, -2.0f, MICA_ACT_NONE},
                                      {8, 16, 512, 32, 10.0f, MICA_ACT_SILU},
                                      {40, 300, 130, 13, 0.5f, MICA_ACT_SILU},
                                      {1, 40000, 6, 6, 0.5f, MICA_ACT_NONE}}; /* a recording */
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++)
        check_case(&cases[i]);
}

/* A recording: one row, mostly silence, whose equal squares all round the same way when they are added one by one. */
static void test_long_row(void **state)
{
    (void)state;
    const norm_case c = {1, 60000, 3, 3, 0.0f, MICA_ACT_NONE};
    mica_tensor x = host_random(1.0f, 3, SHAPE(c.Y, c.X, c.C));
    mica_tensor y = host_tensor(MICA_DTYPE_F32, 3, SHAPE(c.Y, c.X, c.C));
    mica_weight gamma = host_weight(MICA_DTYPE_F32, 1.0f, 1, SHAPE(c.C));
    mica_weight beta = host_weight(MICA_DTYPE_F32, 1.0f, 1, SHAPE(c.C));
    double *want = test_malloc((size_t)c.X * (size_t)c.C * sizeof *want);
    for (int64_t i = 0; i < c.X * c.C; i++)
        if (i / c.C > 3000)
            floats(&x)[i] = 0.0137f;
    reference(&c, floats(&x), &gamma, &beta, want);
    mica_backend *be = open_with(false, 2);
    run_bands(be, &c, &x, &gamma, &beta, 1, &y);
    assert_close("a long row", floats(&y), want, c.X * c.C, 2e-6);
    mica_backend_close(&be);
    test_free(want);
    weight_free(&gamma);
    weight_free(&beta);
    host_free(&x);
    host_free(&y);
}

/* A constant group gives beta, not NaN. */
static void test_constant_group(void **state)
{
    (void)state;
    const norm_case c = {4, 5, 8, 2, 0.0f, MICA_ACT_NONE};
    mica_tensor x = host_random(0.0f, 3, SHAPE(4, 5, 8));
    mica_weight gamma = host_weight(MICA_DTYPE_F32, 1.0f, 1, SHAPE(8));
    mica_weight beta = host_weight(MICA_DTYPE_F32, 1.0f, 1, SHAPE(8));
    mica_backend *be = open_with(false, 1);
    for (int i = 0; i < 160; i++)
        floats(&x)[i] = 7.25f;
    run_bands(be, &c, &x, &gamma, &beta, 4, &x);
    for (int i = 0; i < 160; i++)
        assert_true(fabs((double)floats(&x)[i] - weight_at(&beta, i % 8)) < 1e-2);
    mica_backend_close(&be);
    weight_free(&gamma);
    weight_free(&beta);
    host_free(&x);
}

static void test_wrong_shapes(void **state)
{
    (void)state;
    mica_backend *be = open_with(false, 1);
    mica_err err = {0};
    mica_tensor x = host_random(1.0f, 3, SHAPE(4, 5, 8));
    static const int64_t wrong[][3] = {{3, 2, 2}, {4, 3, 2}, {4, 2, 1}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(wrong); i++) {
        mica_tensor moments = host_tensor(MICA_DTYPE_F32, 3, wrong[i]);
        mica_group_moments(be, &x, &moments);
        assert_int_equal(mica_backend_check(be, &err), MICA_E_INTERNAL);
        host_free(&moments);
    }
    mica_tensor moments = host_random(1.0f, 3, SHAPE(4, 2, 2));
    mica_weight good = host_weight(MICA_DTYPE_F32, 1.0f, 1, SHAPE(8));
    mica_weight bad = host_weight(MICA_DTYPE_F32, 1.0f, 1, SHAPE(7));
    mica_group_norm_args args = {.x_YXC = &x,
                                 .moments_YG2 = &moments,
                                 .gamma_C = &good,
                                 .beta_C = &bad,
                                 .eps = 1e-6f,
                                 .y_YXC = &x};
    mica_group_norm(be, &args);
    assert_int_equal(mica_backend_check(be, &err), MICA_E_INTERNAL);
    args.beta_C = &good;
    args.act = MICA_ACT_GELU_ERF;
    mica_group_norm(be, &args);
    assert_int_equal(mica_backend_check(be, &err), MICA_E_INTERNAL);
    assert_non_null(strstr(err.text, "group_norm"));
    host_free(&moments);
    host_free(&x);
    weight_free(&good);
    weight_free(&bad);
    mica_backend_close(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_group_norm),
        cmocka_unit_test(test_long_row),
        cmocka_unit_test(test_constant_group),
        cmocka_unit_test(test_wrong_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
