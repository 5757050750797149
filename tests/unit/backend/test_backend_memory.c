/* test_backend_memory.c - copies, transfers, pools, failures and their texts, page hints. */
#include "backend_testing.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* ----------------------------------------------------------------- copy -- */

static int64_t offset_of(const mica_tensor *t, int64_t index)
{
    int64_t offset = 0;
    for (int i = t->ndim - 1; i >= 0; i--) {
        offset += index % t->shape_[i] * t->stride_[i];
        index /= t->shape_[i];
    }
    return offset;
}

/* A view of `shape` whose dimensions lie in memory in the order of a random permutation,
 * with gaps. The storage belongs to *storage. */
static mica_tensor random_view(int ndim, const int64_t *shape, mica_tensor *storage)
{
    int order[MICA_MAX_DIMS] = {0, 1, 2, 3, 4, 5};
    mica_tensor v = mica_tensor_make(NULL, MICA_DTYPE_F32, ndim, shape);
    int64_t stride = 1;
    for (int i = ndim - 1; i > 0; i--) {
        const int k = random_int(0, i), t = order[i];
        order[i] = order[k];
        order[k] = t;
    }
    for (int i = 0; i < ndim; i++) {
        v.stride_[order[i]] = stride;
        stride *= shape[order[i]] + random_int(0, 1);
    }
    *storage = host_random(1.0f, 1, &stride);
    v.data = storage->data;
    return v;
}

static void check_copy(mica_backend *be, int ndim, const int64_t *shape)
{
    mica_tensor a_store, b_store;
    const mica_tensor a = random_view(ndim, shape, &a_store);
    mica_tensor b = random_view(ndim, shape, &b_store);
    const int64_t n = mica_tensor_count(&b_store), count = mica_tensor_count(&a);
    float *want = test_malloc((size_t)n * sizeof *want);
    memcpy(want, b_store.data, (size_t)n * sizeof *want);
    for (int64_t i = 0; i < count; i++)
        want[offset_of(&b, i)] = floats(&a)[offset_of(&a, i)];
    mica_copy(be, &a, &b);
    assert_fine(be);
    assert_memory_equal(want, b_store.data, (size_t)n * sizeof *want); /* gaps are untouched */
    test_free(want);
    host_free(&a_store);
    host_free(&b_store);
}

static void test_copy(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 3);
    for (int i = 0; i < 300; i++) {
        const int ndim = random_int(0, 6);
        int64_t shape[MICA_MAX_DIMS];
        for (int d = 0; d < ndim; d++)
            shape[d] = random_int(1, ndim > 4 ? 4 : 9);
        check_copy(be, ndim, shape);
    }
    check_copy(be, 2, SHAPE(500, 300));
    check_copy(be, 3, SHAPE(3, 200, 177));
    check_copy(be, 1, SHAPE(100000));
    check_copy(be, 5, SHAPE(2, 16, 17, 2, 9));
    check_copy(be, 6, SHAPE(1, 8, 2, 8, 2, 16)); /* packing of latents into patches */
    mica_backend_close(&be);
}

static void test_transfers(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    mica_tensor host = host_random(1.0f, 2, SHAPE(37, 91));
    mica_tensor t = mica_act_tensor(be, MICA_POOL_STEP, 2, SHAPE(37, 91));
    float back[37 * 91];
    mica_upload_f32(be, &t, host.data);
    mica_download_f32(be, back, &t);
    assert_fine(be);
    assert_memory_equal(back, host.data, sizeof back);
    mica_tensor column = t;
    column.shape_[1] = 1;
    mica_download_f32(be, back, &column);
    for (int i = 0; i < 37; i++)
        assert_true(back[i] == floats(&host)[i * 91]);
    host_free(&host);
    mica_backend_close(&be);
}

/* ---------------------------------------------------------------- pools -- */

/* Two columns and a row of a picture are not shown. */
static void test_pixels(void **state)
{
    (void)state;
    const float v[] = {-1.0f,
                       1.0f,
                       0.0f, /* 127.5 goes to even */
                       1.0f / 255.0f - 1.0f,
                       NAN,
                       -INFINITY,
                       INFINITY,
                       0.25f,
                       -3.0f};
    float picture[3 * 5 * 3];
    uint8_t got[2 * 3 * 3 + 1];
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    for (size_t i = 0; i < MICA_ARRAY_LEN(picture); i++)
        picture[i] = v[i % MICA_ARRAY_LEN(v)];
    mica_tensor x = mica_tensor_3d(picture, MICA_DTYPE_F32, 3, 5, 3);
    x.shape_[0] = 2;
    x.shape_[1] = 3;
    memset(got, 0xa5, sizeof got);
    mica_download_pixels(be, got, &x);
    assert_fine(be);
    for (int i = 0; i < 18; i++) {
        const float f = picture[i / 9 * 15 + i % 9] / 2.0f + 0.5f;
        const float in = f > 0.0f ? f < 1.0f ? f : 1.0f : 0.0f;
        assert_int_equal(got[i], (uint8_t)rintf(in * 255.0f));
    }
    assert_int_equal(got[0], 0);
    assert_int_equal(got[1], 255);
    assert_int_equal(got[2], 128);
    assert_int_equal(got[4], 0); /* NaN */
    assert_int_equal(got[18], 0xa5);
    x.stride_[1] = 4; /* rows must lie together */
    mica_download_pixels(be, got, &x);
    assert_true(mica_backend_failed(be));
    mica_backend_close(&be);
}

static void test_pool_is_a_stack(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
    uint64_t heap = 0;
    for (int pass = 0; pass < 4; pass++) {
        const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
        for (int i = 1; i < 40; i++) {
            mica_tensor t = mica_act_tensor(be, MICA_POOL_STEP, 2, SHAPE(i * 100, 333));
            assert_non_null(t.data);
            assert_int_equal((uintptr_t)t.data % 64, 0);
            memset(t.data, i, mica_tensor_size(&t));
            if (i % 3 == 0) { /* inner scopes */
                const mica_pool_mark inner = mica_pool_get_mark(be, MICA_POOL_STEP);
                mica_act_tensor(be, MICA_POOL_STEP, 1, SHAPE(3000000));
                mica_pool_release(be, MICA_POOL_STEP, inner);
            }
            assert_int_equal(((uint8_t *)t.data)[mica_tensor_size(&t) - 1], i);
        }
        mica_pool_release(be, MICA_POOL_STEP, mark);
        if (pass == 2)
            heap = mica_backend_get_counters(be).allocations;
    }
    assert_int_equal(mica_backend_get_counters(be).allocations, heap);
    const int64_t sum = (int64_t)39 * 40 / 2 * 100 * 333 * 4;
    const uint64_t peak = mica_pool_peak(be, MICA_POOL_STEP);
    assert_true(peak >= (uint64_t)sum && peak <= (uint64_t)sum + 12000000 + 40 * 64);
    assert_int_equal(mica_pool_peak(be, MICA_POOL_SESSION), 0);
    assert_fine(be);
    mica_backend_close(&be);
}

static void test_trim_keeps_what_is_in_use(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
    mica_tensor kept = mica_state_tensor(be, MICA_POOL_SESSION, 1, SHAPE(1000));
    memset(kept.data, 7, mica_tensor_size(&kept));
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_SESSION);
    mica_act_tensor(be, MICA_POOL_SESSION, 1, SHAPE(10000000));
    mica_pool_release(be, MICA_POOL_SESSION, mark);
    mica_pool_trim(be);
    const uint64_t before = mica_backend_get_counters(be).allocations;
    mica_act_tensor(be, MICA_POOL_SESSION, 1, SHAPE(10000000));
    assert_int_equal(mica_backend_get_counters(be).allocations, before + 1);
    for (size_t i = 0; i < 4000; i++)
        assert_int_equal(((uint8_t *)kept.data)[i], 7);
    mica_backend_close(&be);
}

/* ------------------------------------------------------------- failures -- */

static void test_first_failure_is_kept(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
    mica_tensor x = host_random(1.0f, 1, SHAPE(10)), y = host_random(1.0f, 1, SHAPE(10));
    const float untouched = floats(&y)[0];
    mica_err err = {0};
    mica_backend_fail(be, MICA_E_NUMERIC, "step %d is not finite", 3);
    mica_backend_fail(be, MICA_E_IO, "later");
    assert_true(mica_backend_failed(be));
    mica_silu(be, &x, &y);
    assert_true(floats(&y)[0] == untouched);
    assert_null(mica_act_tensor(be, MICA_POOL_STEP, 1, SHAPE(10)).data);
    assert_int_equal(mica_backend_check(be, &err), MICA_E_NUMERIC);
    assert_string_equal(err.text, "step 3 is not finite");
    assert_false(mica_backend_failed(be));
    mica_silu(be, &x, &y);
    assert_fine(be);
    assert_true(floats(&y)[0] != untouched);
    host_free(&x);
    host_free(&y);
    mica_backend_close(&be);
}

static void test_too_large_is_an_error(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
    const int64_t big = (int64_t)1 << 40;
    assert_null(mica_act_tensor(be, MICA_POOL_STEP, 3, SHAPE(big, big, big)).data);
    assert_int_equal(mica_backend_check(be, NULL), MICA_E_NOMEM);
    mica_mem_fail_at(1);
    assert_null(mica_act_tensor(be, MICA_POOL_STEP, 2, SHAPE(1000, 1000)).data);
    mica_mem_fail_at(0);
    assert_int_equal(mica_backend_check(be, NULL), MICA_E_NOMEM);
    mica_backend_close(&be);
}

/* Opening, a linear and attention with the n-th allocation refused: an error or a result,
 * never a crash, and a backend that works afterwards. */
static void test_refused_allocations(void **state)
{
    (void)state;
    mica_tensor x = host_random(1.0f, 2, SHAPE(20, 32)), y = host_random(1.0f, 2, SHAPE(20, 32));
    mica_weight w = host_weight(MICA_DTYPE_BF16, 1.0f, 2, SHAPE(32, 32));
    const mica_backend_options options = {.precision = MICA_PRECISION_INT8, .threads = 2};
    bool failed_once = false, done = false;
    for (uint64_t n = 1; n < 64 && !done; n++) {
        mica_backend *be = NULL;
        mica_err err = {0};
        mica_mem_fail_at(n);
        mica_status st = mica_backend_open(&be, &options, &err);
        if (st == MICA_OK) {
            mica_tensor h = mica_act_tensor(be, MICA_POOL_STEP, 2, SHAPE(20, 32));
            mica_linear(be, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &h});
            mica_tensor q = mica_tensor_reshape(&h, 3, SHAPE(20, 2, 16));
            mica_tensor out = mica_tensor_reshape(&y, 3, SHAPE(20, 2, 16));
            mica_attention(
                be,
                &(mica_attention_args){
                    .segments = 1, .q_LHK = {&q}, .k_MGK = {&q}, .v_MGK = {&q}, .out_LHK = {&out}});
            st = mica_backend_check(be, &err);
        }
        done = st == MICA_OK;
        failed_once = failed_once || st == MICA_E_NOMEM;
        if (st != MICA_OK) {
            assert_int_equal(st, MICA_E_NOMEM);
            assert_true(err.text[0] != '\0');
        }
        mica_mem_fail_at(0);
        mica_backend_close(&be);
        assert_null(w.prepared);
    }
    assert_true(failed_once && done);
    weight_free(&w);
    host_free(&x);
    host_free(&y);
}

static void test_unsupported_options(void **state)
{
    (void)state;
    mica_backend *be = NULL;
    mica_err err = {0};
    assert_int_equal(
        mica_backend_open(&be, &(mica_backend_options){.device = MICA_DEVICE_CUDA}, &err),
        MICA_E_UNSUPPORTED);
    assert_null(be);
    assert_int_equal(
        mica_backend_open(&be, &(mica_backend_options){.precision = MICA_PRECISION_FP8}, &err),
        MICA_E_UNSUPPORTED);
    mica_backend_close(&be); /* NULL is fine */
    be = open_backend(MICA_PRECISION_AUTO, 0);
    assert_int_equal(mica_backend_precision(be), MICA_PRECISION_BF16);
    assert_true(strncmp(mica_backend_name(be), "cpu ", 4) == 0);
    mica_backend_close(&be);
}

/* ------------------------------------------------------------ page hints -- */

static void test_page_hints(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
    char path[] = "/tmp/mica-backend-XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    enum { N = 1 << 16 };
    mica_tensor values = host_random(1.0f, 2, SHAPE(256, N / 256));
    assert_int_equal(write(fd, values.data, N * sizeof(float)), N * sizeof(float));
    float *map = mmap(NULL, N * sizeof(float), PROT_READ, MAP_PRIVATE, fd, 0);
    assert_true(map != MAP_FAILED);
    mica_weight mapped = {.tensor = mica_tensor_2d(map, MICA_DTYPE_F32, 256, N / 256),
                          .mapped = true};
    mica_weight own = {.tensor = values};
    mica_weight *both[] = {&mapped, &own};
    for (int i = 0; i < 200; i++)
        mica_backend_prefetch_weights(be, both, 2);
    mica_backend_drop_weights(be, both, 2);
    assert_memory_equal(map, values.data, N * sizeof(float)); /* the file's pages came back */
    assert_true(floats(&values)[N / 2] != 0.0f);              /* own memory was left alone */
    mica_backend_close(&be);
    munmap(map, N * sizeof(float));
    close(fd);
    unlink(path);
    host_free(&values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_transfers),
        cmocka_unit_test(test_pixels),
        cmocka_unit_test(test_pool_is_a_stack),
        cmocka_unit_test(test_trim_keeps_what_is_in_use),
        cmocka_unit_test(test_first_failure_is_kept),
        cmocka_unit_test(test_too_large_is_an_error),
        cmocka_unit_test(test_refused_allocations),
        cmocka_unit_test(test_unsupported_options),
        cmocka_unit_test(test_page_hints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
