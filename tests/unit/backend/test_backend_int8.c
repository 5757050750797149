/* test_backend_int8.c - accuracy, sharing and life of 8-bit linears.
 *
 * Accuracy is judged on inputs like those of a diffusion transformer: normed activations
 * with a few channels 20 times larger than the rest, one that is 900 times larger, and
 * one-sided inputs after GELU. */
#include "backend_testing.h"

#include <pthread.h>

typedef enum input_kind {
    INPUT_NORMAL,
    INPUT_OUTLIERS,
    INPUT_MASSIVE,
    INPUT_GELU,
    INPUT_ONE_SIDED
} input_kind;

static mica_tensor make_input(input_kind kind, int m, int k)
{
    mica_tensor x = host_random(1.0f, 2, SHAPE(m, k));
    for (int i = 0; i < m; i++)
        for (int c = 0; c < k; c++) {
            float *v = &floats(&x)[i * k + c];
            if (kind == INPUT_OUTLIERS && c % 199 == 7)
                *v *= 20.0f;
            if (kind == INPUT_MASSIVE && c == 77)
                *v = 900.0f;
            if (kind == INPUT_ONE_SIDED)
                *v = 5.0f + 0.1f * *v;
            if (kind == INPUT_GELU)
                *v = 0.5f * *v * (1.0f + erff(*v * 0.70710678f));
        }
    return x;
}

static double product_error(input_kind kind, mica_dtype dtype, bool sensitive)
{
    enum { M = 24, N = 80, K = 1024 };
    mica_tensor x = make_input(kind, M, K), y = host_tensor(MICA_DTYPE_F32, 2, SHAPE(M, N));
    mica_weight w = host_weight(dtype, 0.02f, 2, SHAPE(N, K));
    w.sensitive = sensitive;
    double *want = test_malloc(sizeof(double) * M * N);
    for (int i = 0; i < M; i++)
        for (int o = 0; o < N; o++) {
            double s = 0.0;
            for (int c = 0; c < K; c++)
                s += (double)floats(&x)[i * K + c] * weight_at(&w, (int64_t)o * K + c);
            want[i * N + o] = s;
        }
    mica_backend *be = open_backend(MICA_PRECISION_INT8, 2);
    mica_linear(be, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y});
    assert_fine(be);
    assert_true(sensitive == (w.prepared == NULL));
    const double r = relative_l2(floats(&y), want, M * N);
    mica_backend_close(&be);
    test_free(want);
    weight_free(&w);
    host_free(&x);
    host_free(&y);
    return r;
}

static void test_accuracy(void **state)
{
    (void)state;
    /* Weights alone: 1/(127 * sqrt(12)) * max/rms (3.2 at K = 1024) = 0.7 %. */
    const double normal = product_error(INPUT_NORMAL, MICA_DTYPE_BF16, false);
    const double gelu = product_error(INPUT_GELU, MICA_DTYPE_BF16, false);
    const double outliers = product_error(INPUT_OUTLIERS, MICA_DTYPE_BF16, false);
    const double massive = product_error(INPUT_MASSIVE, MICA_DTYPE_BF16, false);
    print_message("relative L2: normal %.4f, gelu %.4f, outliers %.4f, massive %.4f\n", normal,
                  gelu, outliers, massive);
    assert_true(normal > 1e-4 && normal < 1.5e-2);
    assert_true(gelu < 1.5e-2);
    assert_true(outliers < 1.5e-2);
    assert_true(massive < 1.5e-2);
}

/* Both routes multiply the same integers: every row and column edge, with and without
 * outliers, depths that are no multiple of a panel's or a slice's, sums beyond 2^24 (one-sided). */
/* Products by row keep x as it is and quantise the weight alone; a row is the same alone, and the panels of
 * other products stay beside the rows. */
static void test_rows_by_themselves(void **state)
{
    enum { M = 11, N = 150, K = 520 };
    const mica_dtype types[] = {MICA_DTYPE_F32, MICA_DTYPE_BF16, MICA_DTYPE_F16};
    (void)state;
    for (size_t t = 0; t < MICA_ARRAY_LEN(types); t++) {
        mica_tensor x = make_input(INPUT_MASSIVE, M, K);
        mica_tensor y = host_tensor(MICA_DTYPE_F32, 2, SHAPE(M, N));
        mica_tensor alone = host_tensor(MICA_DTYPE_F32, 2, SHAPE(1, N));
        mica_weight w = host_weight(types[t], 0.02f, 2, SHAPE(N, K));
        double *want = test_malloc(sizeof(double) * M * N);
        for (int i = 0; i < M * N; i++) {
            want[i] = 0.0;
            for (int c = 0; c < K; c++)
                want[i] += (double)floats(&x)[i / N * K + c] * weight_at(&w, i % N * K + c);
        }
        mica_backend *be = open_backend(MICA_PRECISION_INT8, 2);
        mica_linear(be, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y, .by_row = true});
        assert_fine(be);
        const double error = relative_l2(floats(&y), want, M * N);
        assert_true(error > 1e-4 && error < 0.01);
        for (int r = 0; r < M; r++) {
            const mica_tensor row = mica_tensor_rows(&x, r, 1);
            mica_linear(
                be, &(mica_linear_args){.x_MD = &row, .w_OD = &w, .y_MO = &alone, .by_row = true});
            assert_memory_equal(floats(&alone), floats(&y) + r * N, N * sizeof(float));
        }
        mica_linear(be, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y});
        const uint64_t before = mica_backend_get_counters(be).allocations;
        mica_linear(be, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y, .by_row = true});
        mica_linear(be, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y});
        assert_fine(be);
        assert_int_equal(mica_backend_get_counters(be).allocations, before);
        mica_backend_close(&be);
        test_free(want);
        weight_free(&w);
        host_free(&x);
        host_free(&y);
        host_free(&alone);
    }
}

static void test_routes_give_same_bytes(void **state)
{
    (void)state;
    static const int shapes[][3] = {{1, 1, 8},       {24, 80, 1024},  {257, 64, 65},
                                    {300, 300, 96},  {513, 257, 130}, {32, 512, 200},
                                    {70, 330, 3000}, {5, 300, 6200}};
    static const input_kind kinds[] = {INPUT_NORMAL, INPUT_OUTLIERS, INPUT_ONE_SIDED};
    for (size_t i = 0; i < MICA_ARRAY_LEN(shapes) * 3; i++) {
        const int m = shapes[i / 3][0], n = shapes[i / 3][1], k = shapes[i / 3][2];
        mica_tensor x = make_input(kinds[i % 3], m, k);
        mica_weight w = host_weight(MICA_DTYPE_BF16, 0.02f, 2, SHAPE(n, k));
        for (int64_t e = 0; kinds[i % 3] == INPUT_ONE_SIDED && e < (int64_t)n * k; e++)
            ((uint16_t *)w.tensor.data)[e] = mica_f32_to_bf16(1.0f + 0.01f * random_normal());
        mica_tensor y[2];
        for (int r = 0; r < 2; r++) {
            mica_backend *be = open_backend(MICA_PRECISION_INT8, 1 + r);
            y[r] = host_tensor(MICA_DTYPE_F32, 2, SHAPE(m, n));
            mica_cpu_from(be)->use_dnnl = false;
            const bool is_possible = r == 0 || use_dnnl(be);
            mica_linear(be, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y[r]});
            assert_fine(be);
            mica_backend_close(&be);
            if (!is_possible)
                print_message("no products of oneDNN on this machine\n");
        }
        assert_memory_equal(y[0].data, y[1].data, mica_tensor_size(&y[0]));
        host_free(&x);
        host_free(&y[0]);
        host_free(&y[1]);
        weight_free(&w);
    }
}

/* What cannot be quantised must not turn into ordinary numbers. */
static void test_nan_is_not_hidden(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    mica_weight w = host_weight(MICA_DTYPE_BF16, 1.0f, 2, SHAPE(33, 64));
    mica_backend *be = open_backend(MICA_PRECISION_INT8, 2);
    for (int i = 0; i < 3; i++) {
        mica_tensor x = make_input(INPUT_NORMAL, 5, 64);
        mica_tensor y = host_tensor(MICA_DTYPE_F32, 2, SHAPE(5, 33));
        floats(&x)[3 * 64 + 20] = bad[i];
        mica_linear(be, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y});
        assert_fine(be);
        for (int k = 0; k < 5 * 33; k++)
            assert_true(isfinite(floats(&y)[k]) == (k / 33 != 3));
        host_free(&x);
        host_free(&y);
    }
    mica_backend_close(&be);
    weight_free(&w);
}

static void test_every_dtype(void **state)
{
    (void)state;
    const mica_dtype types[] = {MICA_DTYPE_F32,     MICA_DTYPE_F16,     MICA_DTYPE_F64,
                                MICA_DTYPE_F8_E4M3, MICA_DTYPE_F8_E5M2, MICA_DTYPE_BF16};
    for (size_t i = 0; i < MICA_ARRAY_LEN(types); i++)
        assert_true(product_error(INPUT_NORMAL, types[i], false) < 2e-2);
}

static void test_sensitive_weights_are_left_alone(void **state)
{
    (void)state;
    assert_true(product_error(INPUT_OUTLIERS, MICA_DTYPE_F32, true) < 1e-2);
}

/* Two sessions of one engine: the second finds the first one's work and outlives it. */
static void test_sessions_share_prepared_weights(void **state)
{
    (void)state;
    mica_tensor x = make_input(INPUT_NORMAL, 5, 64);
    mica_tensor y1 = host_tensor(MICA_DTYPE_F32, 2, SHAPE(5, 33));
    mica_tensor y2 = host_tensor(MICA_DTYPE_F32, 2, SHAPE(5, 33));
    mica_weight w = host_weight(MICA_DTYPE_BF16, 1.0f, 2, SHAPE(33, 64));
    mica_backend *a = open_backend(MICA_PRECISION_INT8, 1),
                 *b = open_backend(MICA_PRECISION_INT8, 2);
    mica_linear(a, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y1});
    const void *prepared = w.prepared;
    assert_non_null(prepared);
    mica_linear(b, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y2});
    assert_ptr_equal(w.prepared, prepared);
    mica_backend_drop_weights(a, (mica_weight *[]){&w}, 1);
    assert_ptr_equal(w.prepared, prepared);
    mica_backend_close(&a);
    memset(y2.data, 0, mica_tensor_size(&y2));
    mica_linear(b, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y2});
    assert_fine(b);
    assert_memory_equal(y1.data, y2.data, mica_tensor_size(&y1));
    mica_backend_drop_weights(b, (mica_weight *[]){&w}, 1);
    assert_null(w.prepared);
    mica_linear(b, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y2}); /* made anew */
    assert_non_null(w.prepared);
    mica_backend_close(&b);
    assert_null(w.prepared);
    weight_free(&w);
    host_free(&x);
    host_free(&y1);
    host_free(&y2);
}

/* A session: a backend and its own copy of the engine's table. */
typedef struct table_session {
    mica_weight w[6];
    const mica_tensor *x;
    mica_tensor y[6];
    const void *prepared[6]; /* while the session runs */
    pthread_barrier_t *all_made;
    mica_status status;
} table_session;

static void *run_session(void *user)
{
    table_session *s = user;
    mica_backend *be = open_backend(MICA_PRECISION_INT8, 1);
    for (int i = 0; i < 6; i++)
        mica_linear(be, &(mica_linear_args){.x_MD = s->x, .w_OD = &s->w[i], .y_MO = &s->y[i]});
    s->status = mica_backend_check(be, NULL);
    for (int i = 0; i < 6; i++)
        s->prepared[i] = s->w[i].prepared;
    pthread_barrier_wait(s->all_made);
    mica_backend_close(&be);
    return NULL;
}

/* Two sessions in two threads prepare the same tensors at once: every form is made once, both
 * compute the same, and nothing is left behind. */
static void test_tables_in_two_threads_share_forms(void **state)
{
    (void)state;
    mica_tensor x = make_input(INPUT_OUTLIERS, 9, 256);
    table_session s[2];
    pthread_barrier_t all_made;
    pthread_t thread[2];
    pthread_barrier_init(&all_made, NULL, 2);
    for (int i = 0; i < 6; i++) {
        s[0].w[i] = s[1].w[i] = host_weight(MICA_DTYPE_BF16, 0.1f, 2, SHAPE(100 + i, 256));
        for (int t = 0; t < 2; t++)
            s[t].y[i] = host_tensor(MICA_DTYPE_F32, 2, SHAPE(9, 100 + i));
    }
    for (int t = 0; t < 2; t++) {
        s[t].x = &x;
        s[t].all_made = &all_made;
        assert_int_equal(pthread_create(&thread[t], NULL, run_session, &s[t]), 0);
    }
    for (int t = 0; t < 2; t++)
        assert_int_equal(pthread_join(thread[t], NULL), 0);
    assert_int_equal(s[0].status, MICA_OK);
    assert_int_equal(s[1].status, MICA_OK);
    for (int i = 0; i < 6; i++) {
        assert_non_null(s[0].prepared[i]);
        assert_ptr_equal(s[0].prepared[i], s[1].prepared[i]);
        assert_memory_equal(s[0].y[i].data, s[1].y[i].data, mica_tensor_size(&s[0].y[i]));
        assert_null(s[0].w[i].prepared);
        assert_null(s[1].w[i].prepared);
        host_free(&s[0].y[i]);
        host_free(&s[1].y[i]);
        weight_free(&s[0].w[i]);
    }
    pthread_barrier_destroy(&all_made);
    host_free(&x);
}

/* Views of one tensor with other scales, or of its other half, are other weights. */
static void test_other_views_are_not_shared(void **state)
{
    (void)state;
    mica_tensor x = make_input(INPUT_NORMAL, 3, 64),
                y = host_tensor(MICA_DTYPE_F32, 2, SHAPE(3, 8));
    mica_weight all = host_weight(MICA_DTYPE_F8_E4M3, 1.0f, 2, SHAPE(16, 64));
    const float two = 2.0f;
    mica_weight w[3] = {all, all, all};
    w[0].tensor = mica_tensor_rows(&all.tensor, 0, 8);
    w[1].tensor = mica_tensor_rows(&all.tensor, 8, 8);
    w[2].tensor = w[0].tensor;
    w[2].tensor.scale = (mica_tensor_scale){.data = &two, .dtype = MICA_DTYPE_F32};
    mica_backend *be = open_backend(MICA_PRECISION_INT8, 1);
    float first[3];
    for (int i = 0; i < 3; i++) {
        mica_linear(be, &(mica_linear_args){.x_MD = &x, .w_OD = &w[i], .y_MO = &y});
        assert_fine(be);
        first[i] = floats(&y)[0];
    }
    assert_ptr_not_equal(w[0].prepared, w[1].prepared);
    assert_ptr_not_equal(w[0].prepared, w[2].prepared);
    assert_true(first[2] == 2.0f * first[0] && first[1] != first[0]);
    mica_backend_close(&be);
    weight_free(&all);
    host_free(&x);
    host_free(&y);
}

static void test_constant_weights_are_kept(void **state)
{
    (void)state;
    mica_tensor x = make_input(INPUT_NORMAL, 2, 32),
                y = host_tensor(MICA_DTYPE_F32, 2, SHAPE(2, 8));
    mica_weight w = host_weight(MICA_DTYPE_F32, 1.0f, 2, SHAPE(8, 32));
    w.constant = true;
    mica_backend *be = open_backend(MICA_PRECISION_INT8, 1);
    mica_linear(be, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y});
    mica_backend_drop_weights(be, (mica_weight *[]){&w}, 1);
    assert_non_null(w.prepared);
    mica_backend_close(&be);
    assert_null(w.prepared);
    weight_free(&w);
    host_free(&x);
    host_free(&y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accuracy),
        cmocka_unit_test(test_rows_by_themselves),
        cmocka_unit_test(test_routes_give_same_bytes),
        cmocka_unit_test(test_nan_is_not_hidden),
        cmocka_unit_test(test_every_dtype),
        cmocka_unit_test(test_sensitive_weights_are_left_alone),
        cmocka_unit_test(test_sessions_share_prepared_weights),
        cmocka_unit_test(test_tables_in_two_threads_share_forms),
        cmocka_unit_test(test_other_views_are_not_shared),
        cmocka_unit_test(test_constant_weights_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
