/* test_cpu_dnnl.c - the door to oneDNN: matmuls and convolutions by key, plain and packed. */
#include "../backend/backend_testing.h"

#include "backend/cpu/cpu_dnnl.h"

static mica_cpu_backend *open_cpu(int threads)
{
    mica_backend *be = NULL;
    const mica_backend_options options = {.precision = MICA_PRECISION_F32, .threads = threads};
    assert_int_equal(mica_cpu_backend_open(&be, &options, NULL), MICA_OK);
    return mica_cpu_from(be);
}

static void close_cpu(mica_cpu_backend *be)
{
    be->base.ops->close(&be->base);
}

/* Runs the op of `key` on random data through pack (when asked) and returns dst. */
static mica_tensor run_key(mica_cpu_backend *be, const mica_dnnl_key *key, const mica_tensor *src,
                           const mica_tensor *w, const float *bias, int ndim, const int64_t *shape)
{
    mica_dnnl_op *op = NULL;
    mica_err err = {0};
    if (mica_dnnl_get(be->dnnl, key, &op, &err) != MICA_OK)
        fail_msg("%s", err.text);
    mica_tensor dst = host_tensor(MICA_DTYPE_F32, ndim, shape);
    void *packed = mica_mem_alloc_aligned(mica_dnnl_weight_size(op), 64);
    void *scratch = mica_mem_alloc_aligned(mica_dnnl_scratch_size(op) + 1, 64);
    if (key->packed)
        assert_int_equal(mica_dnnl_pack(be->dnnl, op, w->data, packed, &err), MICA_OK);
    const uint64_t count = be->base.counters.allocations;
    assert_int_equal(mica_dnnl_run(be->dnnl, op, 0, src->data, key->packed ? packed : w->data, bias,
                                   dst.data, scratch, &err),
                     MICA_OK);
    mica_dnnl_op *again = NULL;
    assert_int_equal(mica_dnnl_get(be->dnnl, key, &again, &err), MICA_OK);
    assert_ptr_equal(op, again);
    assert_int_equal(be->base.counters.allocations, count);
    mica_mem_free(packed);
    mica_mem_free(scratch);
    return dst;
}

static void test_matmul(void **state)
{
    (void)state;
    mica_cpu_backend *be = open_cpu(2);
    enum { M = 33, N = 70, K = 65 };
    mica_tensor x = host_random(1.0f, 2, SHAPE(M, K)), w = host_random(1.0f, 2, SHAPE(N, K));
    double *want = test_malloc(sizeof(double) * M * N);
    for (int i = 0; i < M; i++)
        for (int o = 0; o < N; o++) {
            want[i * N + o] = 0.0;
            for (int k = 0; k < K; k++)
                want[i * N + o] += (double)floats(&x)[i * K + k] * (double)floats(&w)[o * K + k];
        }
    for (int mode = 0; mode < 4; mode++) {
        mica_dnnl_key key = {0};
        key.kind = MICA_DNNL_MATMUL;
        key.parallel = mode & 1;
        key.packed = mode >> 1;
        key.m = M;
        key.n = key.ld_dst = N;
        key.k = key.ld_src = key.ld_weight = K;
        mica_tensor y = run_key(be, &key, &x, &w, NULL, 2, SHAPE(M, N));
        assert_close("matmul", floats(&y), want, M * N, 1e-6);
        host_free(&y);
    }
    test_free(want);
    host_free(&x);
    host_free(&w);
    close_cpu(be);
}

static void test_convolution(void **state)
{
    (void)state;
    mica_cpu_backend *be = open_cpu(2);
    enum { Y = 9, X = 7, C = 16, O = 24 };
    mica_tensor x = host_random(1.0f, 3, SHAPE(Y, X, C)),
                w = host_random(1.0f, 4, SHAPE(O, C, 3, 3));
    mica_tensor bias = host_random(1.0f, 1, SHAPE(O));
    double *want = test_malloc(sizeof(double) * Y * X * O);
    for (int i = 0; i < Y * X * O; i++) {
        const int y = i / (X * O), xx = i / O % X, o = i % O;
        want[i] = (double)floats(&bias)[o];
        for (int t = 0; t < 9 * C; t++) {
            const int sy = y + t / C / 3 - 1, sx = xx + t / C % 3 - 1, c = t % C;
            if (sy >= 0 && sy < Y && sx >= 0 && sx < X)
                want[i] += (double)floats(&x)[(sy * X + sx) * C + c] *
                           (double)floats(&w)[((o * C + c) * 3 + t / C / 3) * 3 + t / C % 3];
        }
    }
    for (int mode = 0; mode < 4; mode++) {
        mica_dnnl_key key = {0};
        key.kind = MICA_DNNL_CONV2D;
        key.parallel = mode & 1;
        key.packed = mode >> 1;
        key.y = key.out_y = Y;
        key.x = key.out_x = X;
        key.c = C;
        key.o = O;
        key.ky = key.kx = 3;
        key.stride = key.pad_top = key.pad_bottom = key.pad_left = key.pad_right = 1;
        key.bias = 1;
        mica_tensor y = run_key(be, &key, &x, &w, floats(&bias), 3, SHAPE(Y, X, O));
        assert_close("convolution", floats(&y), want, Y * X * O, 1e-6);
        host_free(&y);
    }
    test_free(want);
    host_free(&x);
    host_free(&w);
    host_free(&bias);
    close_cpu(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_convolution),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
