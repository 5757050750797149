/* test_block_cache.c - caching by the first block, on a made-up network whose blocks add known numbers:
 * when a pass ends early, what stands behind it then, and when it may not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/mem.h"
#include "diffusion/block_cache.h"

#include <math.h>
#include <string.h>

enum { ROWS = 600, WIDTH = 24, COUNT = ROWS * WIDTH, EVALUATIONS = 20 };

typedef struct fixture {
    mica_backend *be;
    mica_arena arena;
    mica_block_cache cache;
    float *x;
} fixture;

static void fixture_open(fixture *f, mica_step_caching mode)
{
    mica_err err = {0};
    const mica_backend_options options = {.precision = MICA_PRECISION_F32, .threads = 2};
    *f = (fixture){.be = NULL};
    mica_arena_init(&f->arena, 1 << 16);
    f->x = mica_mem_calloc(COUNT, sizeof *f->x);
    assert_non_null(f->x);
    assert_int_equal(mica_backend_open(&f->be, &options, &err), MICA_OK);
    assert_int_equal(mica_block_cache_init(&f->cache, f->be, mode, ROWS, WIDTH, &f->arena, &err),
                     MICA_OK);
}

static void fixture_close(fixture *f)
{
    mica_backend_close(&f->be);
    mica_arena_deinit(&f->arena);
    mica_mem_free(f->x);
}

/* Element i of what the network is given at evaluation e, what its first block adds, and the rest. */
static float given(int e, int i)
{
    return 0.1f * (float)(i % 31) - 0.05f * (float)e;
}

static float first_adds(float change, int i)
{
    return (1.0f + change) * (0.5f + 0.01f * (float)(i % 17));
}

static float rest_adds(int e, int i)
{
    return 2.0f + 0.25f * (float)(e % 5) + 0.001f * (float)(i % 7);
}

static void add(fixture *f, const mica_tensor *x, int kind, int e, float change)
{
    mica_download_f32(f->be, f->x, x);
    for (int i = 0; i < (int)mica_tensor_count(x); i++)
        f->x[i] += kind == 0 ? first_adds(change, i) : rest_adds(e, i);
    mica_upload_f32(f->be, x, f->x);
}

/* One pass of `rows` rows; whether it ended early. f->x is what stands behind it. */
static bool pass(fixture *f, int e, double scale, float change, int64_t rows)
{
    const mica_pool_mark mark = mica_pool_get_mark(f->be, MICA_POOL_STEP);
    mica_tensor x = mica_act_tensor(f->be, MICA_POOL_STEP, 2, (const int64_t[]){rows, WIDTH});
    for (int i = 0; i < (int)rows * WIDTH; i++)
        f->x[i] = given(e, i);
    mica_upload_f32(f->be, &x, f->x);
    mica_block_cache_begin(&f->cache, e, EVALUATIONS, scale);
    mica_block_cache_enter(&f->cache, &x);
    add(f, &x, 0, e, change);
    const bool cut = mica_block_cache_first(&f->cache, &x);
    if (!cut)
        add(f, &x, 1, e, change);
    mica_block_cache_last(&f->cache, &x);
    mica_download_f32(f->be, f->x, &x);
    assert_int_equal(cut, f->cache.was_cut);
    mica_pool_release(f->be, MICA_POOL_STEP, mark);
    return cut;
}

/* What stands behind the last block is x1 of this pass and what blocks 1.. added in pass `full`. */
static void check_behind(const fixture *f, int e, float change, int full)
{
    for (int i = 0; i < COUNT; i++) {
        const float want = given(e, i) + first_adds(change, i) + rest_adds(full, i);
        if (fabsf(f->x[i] - want) > 1e-5f)
            fail_msg("element %d: %g, expected %g", i, (double)f->x[i], (double)want);
    }
}

static void test_small_changes_end_a_pass(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, MICA_STEP_CACHING_FAST); /* 0.08 */
    assert_false(pass(&f, 0, 3.0, 0.0f, ROWS));
    assert_false(pass(&f, 1, 3.0, 0.0f, ROWS)); /* the first two are full whatever happens */
    check_behind(&f, 1, 0.0f, 1);
    assert_true(pass(&f, 2, 3.0, 0.07f, ROWS));
    check_behind(&f, 2, 0.07f, 1);
    assert_false(pass(&f, 3, 3.0, 0.09f, ROWS)); /* against the last full pass, not the last */
    check_behind(&f, 3, 0.09f, 3);
    assert_true(pass(&f, 4, 3.0, 0.02f, ROWS)); /* now against 1.09 */
    check_behind(&f, 4, 0.02f, 3);
    assert_int_equal(f.cache.cut, 2);
    fixture_close(&f);
}

static void test_limits(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, MICA_STEP_CACHING_BALANCED);
    int cut = 0;
    for (int e = 0; e < 12; e++) { /* full full cut cut cut full cut cut cut full ... */
        const bool now = pass(&f, e, 3.0, 0.0f, ROWS);
        assert_int_equal(now, e >= 2 && (e - 2) % 4 != 3);
        cut += now;
    }
    assert_int_equal(f.cache.cut, cut);
    assert_false(pass(&f, 12, 2.0, 0.0f, ROWS)); /* another guidance */
    assert_true(pass(&f, 13, 2.0, 0.0f, ROWS));
    assert_false(pass(&f, EVALUATIONS - 1, 2.0, 0.0f, ROWS)); /* the last one */
    fixture_close(&f);
}

static void test_other_rows_forget(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, MICA_STEP_CACHING_FAST);
    for (int e = 0; e < 2; e++)
        assert_false(pass(&f, e, 3.0, 0.0f, ROWS));
    assert_false(pass(&f, 2, 3.0, 0.0f, ROWS / 2));
    assert_false(pass(&f, 3, 3.0, 0.0f, ROWS)); /* two full ones again */
    assert_false(pass(&f, 4, 3.0, 0.0f, ROWS));
    assert_true(pass(&f, 5, 3.0, 0.0f, ROWS));
    fixture_close(&f);
}

static void test_nan_is_computed(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, MICA_STEP_CACHING_FAST);
    for (int e = 0; e < 2; e++)
        assert_false(pass(&f, e, 3.0, 0.0f, ROWS));
    assert_false(pass(&f, 2, 3.0, NAN, ROWS)); /* the step's own check tells */
    fixture_close(&f);
}

static void test_refusals(void **state)
{
    (void)state;
    fixture f;
    mica_err err = {0};
    fixture_open(&f, MICA_STEP_CACHING_FAST);
    mica_block_cache c;
    assert_int_equal(
        mica_block_cache_init(&c, f.be, (mica_step_caching)9, ROWS, WIDTH, &f.arena, &err),
        MICA_E_USAGE);
    mica_mem_fail_at(1);
    assert_int_equal(
        mica_block_cache_init(&c, f.be, MICA_STEP_CACHING_FAST, 1 << 20, WIDTH, &f.arena, &err),
        MICA_E_NOMEM);
    mica_mem_fail_at(0);
    mica_block_cache_enter(NULL, NULL); /* a model without */
    assert_false(mica_block_cache_first(NULL, NULL));
    mica_block_cache_last(NULL, NULL);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_changes_end_a_pass),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_other_rows_forget),
        cmocka_unit_test(test_nan_is_computed),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
