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

/* In 8 bits: rows that were packed stay what they are when the cache grows and when they pass through a
 * file's pieces into another cache. */
static void test_q8_pieces(void **state)
{
    enum { ROWS = 300, WIDTH = 64 };
    static float x[ROWS * G * WIDTH];
    (void)state;
    mica_err err = {0};
    mica_kv_cache c[2];
    mica_backend *be = open_backend();
    for (int i = 0; i < ROWS * G * WIDTH; i++)
        x[i] = (float)((i * 7919 + i / 13) % 2003) / 500.0f - 2.0f;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mica_kv_cache_init(&c[i], be, 1, G, WIDTH, &err), MICA_OK);
        assert_int_equal(mica_kv_cache_use_q8(&c[i], &err), MICA_OK);
        assert_int_equal(mica_kv_cache_reserve(&c[i], i ? ROWS : 200, &err), MICA_OK);
    }
    const mica_tensor rows = mica_tensor_3d(x, MICA_DTYPE_F32, 200, G, WIDTH);
    mica_tensor to = mica_kv_cache_rows(&c[0], 0, MICA_KV_KEYS, 0, 200);
    mica_copy(be, &rows, &to);
    c[0].count = 200;
    assert_int_equal(mica_kv_cache_reserve(&c[0], ROWS - 200, &err), MICA_OK);
    mica_tensor from[MICA_KV_PIECES], into[MICA_KV_PIECES];
    assert_int_equal(mica_kv_cache_pieces(&c[0], 0, MICA_KV_KEYS, 200, from), MICA_KV_PIECES);
    assert_int_equal(mica_kv_cache_pieces(&c[1], 0, MICA_KV_KEYS, 200, into), MICA_KV_PIECES);
    for (int i = 0; i < MICA_KV_PIECES; i++) {
        static float file[200 * G * WIDTH];
        mica_download_f32(be, file, &from[i]);
        mica_upload_f32(be, &into[i], file);
    }
    assert_int_equal(mica_backend_check(be, &err), MICA_OK);
    for (int k = 0; k < 2; k++) {
        const mica_tensor t = mica_kv_cache_rows(&c[k], 0, MICA_KV_KEYS, 0, 200);
        for (int i = 0; i < 200 * G * WIDTH; i++) {
            const float scale = ((const float *)t.scale.data)[i / 64],
                        bias = ((const float *)t.scale.bias)[i / 64];
            const float value = bias + scale * (float)((const uint8_t *)t.data)[i];
            assert_true(value > x[i] - 0.51f * scale - 1e-5f &&
                        value < x[i] + 0.51f * scale + 1e-5f);
        }
        mica_kv_cache_deinit(&c[k]);
    }
    mica_backend_close(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_q8_pieces),
    };
    return cmocka_run_group_tests_name("kv_cache", tests, NULL, NULL);
}
