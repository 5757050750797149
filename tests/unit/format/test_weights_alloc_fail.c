/* test_weights_alloc_fail.c - the n-th allocation fails, n = 1, 2, ..., until all succeed.
 *
 * Each round must end in MICA_OK or MICA_E_NOMEM with a text, hand out no handle on failure and
 * leave no file behind. Leaks are for the leak checker of sanitizer builds to see. */
#include "format_fixture.h"

#define MAX_ROUNDS 100000

typedef mica_status (*job_fn)(const char *path, mica_err *err);

/* Runs `job` with every allocation failing in turn; returns the rounds that failed. */
static int walk(job_fn job, const char *path)
{
    for (int n = 1; n < MAX_ROUNDS; n++) {
        mica_err err = {.status = MICA_OK};
        mica_mem_fail_at((uint64_t)n);
        const mica_status st = job(path, &err);
        mica_mem_fail_at(0);
        if (st == MICA_OK)
            return n - 1;
        if (st != MICA_E_NOMEM || err.text[0] == '\0')
            fail_msg("allocation %d: status %d, text '%s'", n, st, err.text);
    }
    fail_msg("still failing after %d allocations", MAX_ROUNDS);
    return 0;
}

static bool shorten(void *user, const char *name, char *out, size_t cap)
{
    (void)user;
    snprintf(out, cap, "short.%s", name);
    return true;
}

static mica_status open_use_close(const char *path, mica_err *err)
{
    mica_weights *w;
    float value = 1;
    const mica_tensor extra = mica_tensor_1d(&value, MICA_DTYPE_F32, 1);
    mica_status st = mica_weights_open(&w, path, err);
    if (st != MICA_OK) {
        assert_null(w);
        return st;
    }
    const size_t count = mica_weights_count(w);
    st = mica_weights_rename(w, shorten, NULL, err);
    if (st == MICA_OK) {
        assert_non_null(mica_weights_find(w, "short.a"));
        st = mica_weights_add(w, "extra", &extra, err);
        assert_int_equal(mica_weights_count(w), count + (st == MICA_OK));
        if (st == MICA_OK) {
            const mica_weights_part halves[] = {{"b1", 1}, {"b2", 1}};
            assert_non_null(mica_weights_find(w, "short.b"));
            st = mica_weights_split(w, "short.b", halves, 2, err);
            assert_true((mica_weights_find(w, "short.b") != NULL) == (st != MICA_OK));
        }
    } else {
        assert_non_null(mica_weights_find(w, "a")); /* names as they were */
    }
    mica_weights_close(&w);
    return st;
}

/* An index, two shards, metadata, a misaligned tensor, an fp8 scale and its declaration. */
static void write_model(const folder *f)
{
    folder_write_text(f, "m.safetensors.index.json",
                      "{\"weight_map\":{\"a\":\"1.safetensors\",\"x.weight\":\"1.safetensors\","
                      "\"x.weight_scale\":\"2.safetensors\"}}");
    folder_write_image(f, "1.safetensors",
                       "{\"__metadata__\":{\"_quantization_metadata\":"
                       "\"{\\\"layers\\\":{\\\"x\\\":{\\\"format\\\":\\\"float8_e4m3fn\\\"}}}\"},"
                       "\"x.weight\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[0,3]},"
                       "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[3,11]},"
                       "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[11,19]}}",
                       19);
    folder_write_image(
        f, "2.safetensors",
        "{\"x.weight_scale\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4);
}

static void test_open_from_index(void **state)
{
    (void)state;
    folder f = folder_make();
    write_model(&f);
    const int rounds = walk(open_use_close, f.path);
    print_message("%d allocations failed in turn\n", rounds);
    assert_true(rounds > 50); /* the walk really reached the inside */
    folder_remove(&f);
}

static mica_status write_sample(const char *path, mica_err *err)
{
    float values[4] = {1, 2, 3, 4};
    const mica_tensor t = mica_tensor_1d(values, MICA_DTYPE_F32, 4);
    const mica_safetensors_entry entries[] = {{"a", &t}, {"b", &t}};
    static const char *const METADATA[] = {"key", "value", NULL};
    return mica_safetensors_write(path, entries, 2, METADATA, err);
}

static void test_write(void **state)
{
    (void)state;
    folder f = folder_make();
    char path[1024];
    snprintf(path, sizeof path, "%s/out.safetensors", f.path);
    assert_true(walk(write_sample, path) > 2);
    mica_weights *w;
    mica_err err;
    expect_ok(mica_weights_open(&w, path, &err), &err);
    assert_int_equal(mica_weights_count(w), 2);
    mica_weights_close(&w);
    assert_int_equal(remove(path), 0);
    folder_expect_empty(&f); /* no temporary file stayed behind */
    folder_remove(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_from_index),
        cmocka_unit_test(test_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
