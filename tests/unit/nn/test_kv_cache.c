/* test_kv_cache.c - growing by 256 rows keeps what is there; room behind it; failures leave it whole. */
#include "base/mem.h"
#include "nn/kv_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define LAYERS 3
#define G      2
#define K      5

static mica_backend *open_backend(void)
{
    const mica_backend_options o = {
        .device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32, .threads = 2};
    mica_backend *be = NULL;
    mica_err err = {0};
    assert_int_equal(mica_backend_open(&be, &o, &err), MICA_OK);
    return be;
}

static float value_at(int layer, int half, int64_t row, int i)
{
    return (float)(((int64_t)layer * 2 + half) * 100000 + row * G * K + i);
}

static void append(mica_kv_cache *c, int64_t more)
{
    mica_err err = {0};
    assert_int_equal(mica_kv_cache_reserve(c, more, &err), MICA_OK);
    for (int layer = 0; layer < LAYERS; layer++)
        for (int half = 0; half < 2; half++) {
            const mica_tensor t = mica_kv_cache_rows(c, layer, (mica_kv_half)half, c->count, more);
            for (int64_t i = 0; i < more * G * K; i++)
                ((float *)t.data)[i] =
                    value_at(layer, half, c->count + i / (G * K), (int)(i % (G * K)));
        }
    c->count += more;
}

static void expect_all(const mica_kv_cache *c)
{
    for (int layer = 0; layer < LAYERS; layer++)
        for (int half = 0; half < 2; half++) {
            const mica_tensor t = mica_kv_cache_rows(c, layer, (mica_kv_half)half, 0, c->count);
            for (int64_t i = 0; i < c->count * G * K; i++)
                assert_true(((const float *)t.data)[i] ==
                            value_at(layer, half, i / (G * K), (int)(i % (G * K))));
        }
}

static void test_growth(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_kv_cache c;
    mica_backend *be = open_backend();
    assert_int_equal(mica_kv_cache_init(&c, be, LAYERS, G, K, &err), MICA_OK);
    append(&c, 1);
    assert_int_equal(c.capacity, MICA_KV_STEP);
    const void *data = c.rows[0][0].data;
    append(&c, MICA_KV_STEP - 1);
    assert_ptr_equal(c.rows[0][0].data, data); /* in place */
    append(&c, 1);
    assert_int_equal(c.capacity, 2 * MICA_KV_STEP);
    append(&c, 1000);
    assert_int_equal(c.capacity, 5 * MICA_KV_STEP);
    expect_all(&c);
    assert_int_equal(mica_kv_cache_bytes(&c), 2 * LAYERS * 5 * MICA_KV_STEP * G * K * 4);
    c.count = 300; /* forgets */
    append(&c, 2);
    expect_all(&c);
    mica_kv_cache_deinit(&c);
    mica_kv_cache_deinit(&c);
    mica_backend_close(&be);
}

static void test_failures(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_kv_cache c;
    mica_backend *be = open_backend();
    assert_int_equal(mica_kv_cache_init(&c, be, LAYERS, G, K, &err), MICA_OK);
    append(&c, 200);
    assert_int_equal(mica_kv_cache_reserve(&c, INT64_MAX / 8, &err), MICA_E_NOMEM);
    mica_status st = MICA_E_NOMEM;
    for (uint64_t n = 1; st != MICA_OK && n < 100; n++) {
        mica_mem_fail_at(n);
        st = mica_kv_cache_reserve(&c, 300, &err);
        mica_mem_fail_at(0);
        assert_true(st == MICA_OK || st == MICA_E_NOMEM);
        expect_all(&c);
    }
    assert_int_equal(st, MICA_OK);
    append(&c, 300);
    expect_all(&c);
    mica_kv_cache_deinit(&c);
    mica_backend_close(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_failures),
    };
    return cmocka_run_group_tests_name("kv_cache", tests, NULL, NULL);
}
