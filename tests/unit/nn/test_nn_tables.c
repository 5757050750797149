/* test_nn_tables.c - rotary tables and timestep features against the reference, weight tables
 * and traces against their contracts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "nn/rope.h"
#include "nn/timestep.h"
#include "nn/trace.h"
#include "nn/weight_table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static mica_weights *open_primitive(const char *name)
{
    char path[512];
    mica_weights *w = NULL;
    mica_err err = {0};
    snprintf(path, sizeof path, MICA_TEST_DATA "/primitives/%s.safetensors", name);
    if (mica_weights_open(&w, path, &err))
        fail_msg("%s", err.text);
    return w;
}

static const mica_tensor *get(const mica_weights *w, const char *name)
{
    const mica_tensor *t = mica_weights_find(w, name);
    if (!t)
        fail_msg("%s is not there", name);
    return t;
}

static double relative_l2(const float *got, const float *expected, int64_t n)
{
    double d = 0.0, norm = 0.0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)got[i] - expected[i]) * ((double)got[i] - expected[i]);
        norm += (double)expected[i] * expected[i];
    }
    return sqrt(d / norm);
}

static mica_backend *open_backend(void)
{
    mica_backend *be = NULL;
    mica_err err = {0};
    const mica_backend_options o = {.device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32};
    if (mica_backend_open(&be, &o, &err))
        fail_msg("%s", err.text);
    return be;
}

/* The golden rows are those of a list of positions; ours are all rows up to the largest. */
static void check_lm_rope(mica_backend *be, const mica_weights *w, const char *name, int head_dim)
{
    char key[64];
    mica_rope_table table;
    mica_err err = {0};
    static float host[2][1 << 21];
    snprintf(key, sizeof key, "%s.positions", name);
    const mica_tensor *positions = get(w, key);
    const int32_t *at = positions->data;
    const int64_t count = positions->shape_[0];
    int64_t rows = 0;
    for (int64_t i = 0; i < count; i++)
        rows = MICA_MAX(rows, at[i] + 1);
    assert_true(rows * head_dim / 2 <= (int64_t)MICA_ARRAY_LEN(host[0]));
    assert_int_equal(mica_rope_build_lm(be, MICA_POOL_SESSION, rows, head_dim, 1e6, &table, &err),
                     MICA_OK);
    mica_download_f32(be, host[0], &table.cos_Lk);
    mica_download_f32(be, host[1], &table.sin_Lk);
    for (int part = 0; part < 2; part++) {
        snprintf(key, sizeof key, "%s.%s", name, part ? "sin" : "cos");
        const float *expected = get(w, key)->data;
        for (int64_t i = 0; i < count; i++) {
            const double d = relative_l2(host[part] + at[i] * (int64_t)(head_dim / 2),
                                         expected + i * (head_dim / 2), head_dim / 2);
            /* sin of position 0 is 0: 0/0 is the exact agreement. */
            if (!(d <= 1e-4 || (part && at[i] == 0)))
                fail_msg("%s position %d: %.3g", key, at[i], d);
        }
    }
}

static void test_lm_rope(void **state)
{
    (void)state;
    mica_backend *be = open_backend();
    mica_weights *w = open_primitive("rope");
    check_lm_rope(be, w, "llm_1e6_d128", 128);
    check_lm_rope(be, w, "llm_1e6_d32", 32);
    mica_weights_close(&w);
    mica_backend_close(&be);
}

/* Every column of a table of sections is that of the one-axis table at its axis' position. */
static void test_lm_rope_sections(void **state)
{
    (void)state;
    enum { HALF = 16, ROWS = 3, MOST = 41 };
    static const int32_t positions[ROWS][3] = {{0, 0, 0}, {5, 7, 40}, {12, 12, 12}};
    static const int pairs[3] = {3, 8, 5};
    mica_backend *be = open_backend();
    mica_rope_table plain, got;
    mica_err err = {0};
    float one[2][MOST * HALF], three[2][ROWS * HALF];
    assert_int_equal(mica_rope_build_lm(be, MICA_POOL_SESSION, MOST, 2 * HALF, 1e6, &plain, &err),
                     MICA_OK);
    assert_int_equal(
        mica_rope_build_sections(be, MICA_POOL_SESSION, positions[0], ROWS, pairs, 1e6, &got, &err),
        MICA_OK);
    mica_download_f32(be, one[0], &plain.cos_Lk);
    mica_download_f32(be, one[1], &plain.sin_Lk);
    mica_download_f32(be, three[0], &got.cos_Lk);
    mica_download_f32(be, three[1], &got.sin_Lk);
    for (int part = 0; part < 2; part++)
        for (int l = 0; l < ROWS; l++)
            for (int i = 0; i < HALF; i++) {
                const int axis = i < 3 ? 0 : i < 11 ? 1 : 2;
                assert_true(three[part][l * HALF + i] == one[part][positions[l][axis] * HALF + i]);
            }
    mica_backend_close(&be);
}

static void check_timesteps(const mica_weights *w, const char *name, float scale)
{
    char key[64];
    float out[256];
    snprintf(key, sizeof key, "%s.t", name);
    const mica_tensor *t = get(w, key);
    snprintf(key, sizeof key, "%s.out", name);
    const float *expected = get(w, key)->data, *times = t->data;
    for (int64_t i = 0; i < t->shape_[0]; i++) {
        mica_timestep_features(times[i], scale, 256, false, out);
        const double d = relative_l2(out, expected + i * 256, 256);
        if (!(d <= 1e-5))
            fail_msg("%s t = %g: %.3g", name, times[i], d);
    }
}

static void test_timestep_features(void **state)
{
    (void)state;
    mica_weights *w = open_primitive("timestep_embedding");
    check_timesteps(w, "scale_1000_of_unit", 1000.0f);
    check_timesteps(w, "scale_1", 1.0f);
    mica_weights_close(&w);
}

/* In bf16 the reference rounds the timestep and the frequencies: the first frequency is 1, so
 * the first feature is cos of the rounded timestep. */
static void test_timestep_rounding(void **state)
{
    (void)state;
    float exact[256], rounded[256];
    mica_timestep_features(0.582429f, 1000.0f, 256, false, exact);
    mica_timestep_features(0.582429f, 1000.0f, 256, true, rounded);
    assert_true(fabsf(exact[0] - cosf(582.429f)) < 1e-4f);
    assert_true(fabsf(rounded[0] - cosf(1000.0f * 0.58203125f)) < 1e-4f);
}

/* ---------------------------------------------------------------- weight tables -- */

typedef struct thing {
    mica_weight a, b, c;
} thing;
static const mica_weight_row ROWS[] = {
    {"blocks.%d.a.weight", "DF", offsetof(thing, a), 0},
    {"blocks.%d.b.weight", "D", offsetof(thing, b), MICA_WEIGHT_SENSITIVE},
    {"blocks.%d.c.weight", "D", offsetof(thing, c), MICA_WEIGHT_OPTIONAL},
};

static void add(mica_weights *w, const char *name, mica_dtype dtype, int64_t rows, int64_t columns)
{
    static float data[64];
    mica_err err = {0};
    const mica_tensor t =
        columns ? mica_tensor_2d(data, dtype, rows, columns) : mica_tensor_1d(data, dtype, rows);
    assert_int_equal(mica_weights_add(w, name, &t, &err), MICA_OK);
}

static void test_weight_table(void **state)
{
    (void)state;
    mica_weights *w = NULL;
    mica_arena arena;
    mica_err err = {0};
    mica_weight_dims dims = {{0}};
    mica_weight_binder b;
    thing t;
    mica_weight *list[3];
    dims.of['D'] = 4;
    dims.of['F'] = 6;
    mica_arena_init(&arena, 4096);
    assert_int_equal(mica_weights_open_empty(&w, &err), MICA_OK);
    add(w, "blocks.0.a.weight", MICA_DTYPE_F32, 4, 6);
    add(w, "blocks.0.b.weight", MICA_DTYPE_BF16, 4, 0);
    add(w, "blocks.1.a.weight", MICA_DTYPE_F32, 6, 4); /* transposed */
    add(w, "blocks.1.b.weight", MICA_DTYPE_I32, 4, 0); /* not a float */
    add(w, "blocks.2.a.weight", MICA_DTYPE_F32, 4, 6); /* b is absent */
    add(w, "blocks.x.a.weight", MICA_DTYPE_F32, 4, 6); /* no index */
    assert_int_equal(mica_weight_count_blocks(w, "blocks."), 3);

    mica_weight_binder_init(&b, w, "thing", &dims, &arena);
    mica_weight_bind(&b, ROWS, MICA_ARRAY_LEN(ROWS), 0, &t);
    assert_int_equal(b.bound, 2);
    assert_string_equal(t.a.name, "blocks.0.a.weight");
    assert_true(t.b.sensitive && !t.a.sensitive && !t.a.mapped);
    assert_null(t.c.name);
    assert_int_equal(mica_weight_list(ROWS, MICA_ARRAY_LEN(ROWS), &t, list), 2);
    assert_int_equal(mica_weight_binder_finish(&b, &err), MICA_OK);

    mica_weight_binder_init(&b, w, "thing", &dims, &arena);
    mica_weight_bind(&b, ROWS, MICA_ARRAY_LEN(ROWS), 1, &t);
    mica_weight_bind(&b, ROWS, MICA_ARRAY_LEN(ROWS), 2, &t);
    assert_int_equal(mica_weight_binder_finish(&b, &err), MICA_E_FORMAT);
    assert_non_null(strstr(err.text, "3 of its tensors"));
    assert_non_null(strstr(err.text, "blocks.1.a.weight: got [6, 4] f32, expected [4, 6]"));
    assert_non_null(strstr(err.text, "blocks.1.b.weight: got [4] i32"));
    assert_non_null(strstr(err.text, "blocks.2.b.weight: missing, expected [4]"));
    mica_weights_close(&w);
    mica_arena_deinit(&arena);
}

static void test_weight_fill(void **state)
{
    (void)state;
    mica_weights *w = NULL;
    mica_arena arena;
    mica_err err = {0};
    mica_weight_dims dims = {{0}};
    dims.of['D'] = 64;
    dims.of['F'] = 96;
    mica_arena_init(&arena, 4096);
    assert_int_equal(mica_weights_open_empty(&w, &err), MICA_OK);
    assert_int_equal(mica_weight_fill(w, &dims, &arena, ROWS, MICA_ARRAY_LEN(ROWS), 5, &err),
                     MICA_OK);
    const mica_tensor *a = get(w, "blocks.5.a.weight");
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < mica_tensor_count(a); i++) {
        sum += mica_tensor_read_f32(a, i);
        squares += pow(mica_tensor_read_f32(a, i), 2);
    }
    const double n = (double)mica_tensor_count(a);
    assert_true(fabs(sum / n) < 2e-3 && fabs(sqrt(squares / n) - 0.02) < 2e-3);
    mica_weights_close(&w);
    mica_arena_deinit(&arena);
}

/* ------------------------------------------------------------------------ trace -- */

static void test_trace(void **state)
{
    (void)state;
    char path[] = "/tmp/mica-trace-XXXXXX";
    mica_trace *trace = NULL;
    mica_weights *w = NULL;
    mica_err err = {0};
    float values[] = {1, 2, 3, 4};
    int32_t ids[] = {7, 8};
    assert_int_equal(mica_trace_open(&trace, &err), MICA_OK);
    const mica_tensor first = mica_tensor_2d(values, MICA_DTYPE_F32, 1, 4);
    const mica_tensor second = mica_tensor_2d(values, MICA_DTYPE_F32, 2, 2);
    const mica_tensor third = mica_tensor_1d(ids, MICA_DTYPE_I32, 2);
    mica_tap_host(mica_trace_sink(trace), &first, "step%d", 0);
    mica_tap_host(mica_trace_sink(trace), &second, "step%d", 0); /* the later one counts */
    mica_tap_host(mica_trace_sink(trace), &third, "ids");
    mica_tap_host(NULL, &third, "nobody");
    values[0] = 9; /* the trace has its own copy */
    assert_int_equal(mica_trace_count(trace), 2);
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    if (mica_trace_write(trace, path, &err))
        fail_msg("%s", err.text);
    mica_trace_close(&trace);
    assert_null(trace);
    if (mica_weights_open(&w, path, &err))
        fail_msg("%s", err.text);
    const mica_tensor *t = get(w, "step0");
    assert_int_equal(t->shape_[0], 2);
    assert_true(mica_tensor_read_f32(t, 0) == 1.0f);
    assert_int_equal(((const int32_t *)get(w, "ids")->data)[1], 8);
    mica_weights_close(&w);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lm_rope),
        cmocka_unit_test(test_lm_rope_sections),
        cmocka_unit_test(test_timestep_features),
        cmocka_unit_test(test_timestep_rounding),
        cmocka_unit_test(test_weight_table),
        cmocka_unit_test(test_weight_fill),
        cmocka_unit_test(test_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
