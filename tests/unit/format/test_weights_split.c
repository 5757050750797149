/* test_weights_split.c - fused tensors as views of their rows: bytes, scales, order, hash, refusals. */
#include "format_fixture.h"

#define FUSED                                                                                      \
    "{\"qkv.weight\":{\"dtype\":\"F8_E4M3\",\"shape\":[6,2],\"data_offsets\":[0,12]},"             \
    "\"qkv.weight_scale\":{\"dtype\":\"F32\",\"shape\":[6,1],\"data_offsets\":[12,36]},"           \
    "\"other\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[36,40]},"                       \
    "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[40,44]}}   "

static const mica_weights_part QKV[] = {{"to_q", 3}, {"to_k", 1}, {"a_v", 2}};

static mica_weights *open_fused(image *m)
{
    mica_weights *w = NULL;
    mica_err err = {.status = MICA_OK};
    *m = image_make(FUSED, 44);
    expect_ok(mica_weights_open_memory(&w, "mem", m->data, m->size, &err), &err);
    return w;
}

static void close_fused(mica_weights **w, image *m)
{
    mica_weights_close(w);
    free(m->data);
}

static void test_rows_and_scales(void **state)
{
    (void)state;
    image m;
    mica_weights *w = open_fused(&m);
    mica_err err;
    const mica_tensor whole = *mica_weights_find(w, "qkv.weight");
    const uint64_t bytes = mica_weights_bytes(w), parameters = mica_weights_parameters(w);
    assert_non_null(whole.scale.data);
    expect_ok(mica_weights_split(w, "qkv.weight", QKV, 3, &err), &err);
    assert_null(mica_weights_find(w, "qkv.weight"));
    assert_int_equal(mica_weights_count(w), 5);
    assert_int_equal(mica_weights_bytes(w), bytes);
    assert_int_equal(mica_weights_parameters(w), parameters);
    int64_t row = 0;
    for (size_t i = 0; i < MICA_ARRAY_LEN(QKV); i++) {
        const mica_tensor *t = mica_weights_find(w, QKV[i].name);
        assert_non_null(t);
        assert_ptr_equal(t, mica_weights_tensor(w, 2 + i)); /* behind what was there, in order */
        assert_int_equal(t->ndim, 2);
        assert_int_equal(t->shape_[0], QKV[i].rows);
        assert_int_equal(t->shape_[1], 2);
        assert_ptr_equal(t->data, (uint8_t *)whole.data + 2 * row);
        assert_true(mica_tensor_is_contiguous(t));
        for (int64_t k = 0; k < mica_tensor_count(t); k++) {
            const float got = mica_tensor_read_f32(t, k);
            const float expected = mica_tensor_read_f32(&whole, 2 * row + k);
            assert_memory_equal(&got, &expected, sizeof got);
        }
        row += QKV[i].rows;
    }
    /* All lookups still find their way. */
    for (size_t i = 0; i < mica_weights_count(w); i++)
        assert_ptr_equal(mica_weights_find(w, mica_weights_name(w, i)), mica_weights_tensor(w, i));
    close_fused(&w, &m);
}

static void test_hash_stays(void **state)
{
    (void)state;
    image m;
    mica_weights *w = open_fused(&m);
    mica_err err;
    char before[17], after[17];
    mica_weights_hash(w, before);
    expect_ok(mica_weights_split(w, "qkv.weight", QKV, 3, &err), &err);
    mica_weights_hash(w, after);
    assert_string_equal(before, after);
    const mica_weights_part halves[] = {{"first", 1}, {"second", 1}};
    expect_ok(mica_weights_split(w, "other", halves, 2, &err), &err);
    mica_weights_hash(w, after);
    assert_string_equal(before, after);
    close_fused(&w, &m);
}

static void test_absent_is_nothing(void **state)
{
    (void)state;
    image m;
    mica_weights *w = open_fused(&m);
    mica_err err;
    expect_ok(mica_weights_split(w, "absent", QKV, 3, &err), &err);
    assert_int_equal(mica_weights_count(w), 3);
    close_fused(&w, &m);
}

static void refuse(mica_weights *w, const char *name, const mica_weights_part *parts, size_t count,
                   mica_status status, const char *text)
{
    mica_err err = {.status = MICA_OK};
    expect_failure(mica_weights_split(w, name, parts, count, &err), &err, status, text);
    assert_int_equal(mica_weights_count(w), 3);
    assert_non_null(mica_weights_find(w, "qkv.weight"));
}

static void test_refusals_change_nothing(void **state)
{
    (void)state;
    image m;
    mica_weights *w = open_fused(&m);
    const mica_weights_part few[] = {{"a", 3}, {"b", 2}}, many[] = {{"a", 3}, {"b", 4}};
    const mica_weights_part huge[] = {{"a", INT64_MAX}, {"b", INT64_MAX}};
    const mica_weights_part below[] = {{"a", 7}, {"b", -1}}, there[] = {{"other", 3}, {"b", 3}};
    const mica_weights_part twice[] = {{"a", 3}, {"a", 3}}, unnamed[] = {{"", 3}, {"b", 3}};
    const char *sum = "qkv.weight is [6, 2] f8_e4m3 and cannot be split into its 2 parts";
    refuse(w, "qkv.weight", few, 2, MICA_E_FORMAT, sum);
    refuse(w, "qkv.weight", many, 2, MICA_E_FORMAT, sum);
    refuse(w, "qkv.weight", huge, 2, MICA_E_FORMAT, sum);
    refuse(w, "qkv.weight", below, 2, MICA_E_FORMAT, sum);
    refuse(w, "qkv.weight", unnamed, 2, MICA_E_FORMAT, sum);
    refuse(w, "qkv.weight", there, 2, MICA_E_FORMAT, "both qkv.weight and other are there");
    refuse(w, "qkv.weight", twice, 2, MICA_E_INTERNAL, "split into a twice");
    refuse(w, "scalar", few, 2, MICA_E_FORMAT, "cannot be split");
    close_fused(&w, &m);
}

static void test_many_splits(void **state)
{
    (void)state;
    static float data[300 * 4];
    mica_weights *w;
    mica_err err;
    char name[3][24];
    expect_ok(mica_weights_open_empty(&w, &err), &err);
    for (int i = 0; i < 300; i++) {
        const mica_tensor t = mica_tensor_2d(data + 4 * i, MICA_DTYPE_F32, 4, 1);
        snprintf(name[0], sizeof name[0], "f.%d", 7 * i % 300);
        expect_ok(mica_weights_add(w, name[0], &t, &err), &err);
    }
    for (int i = 0; i < 300; i++) {
        snprintf(name[0], sizeof name[0], "f.%d", i);
        snprintf(name[1], sizeof name[1], "b.%d", i);
        snprintf(name[2], sizeof name[2], "x.%d", i);
        const mica_weights_part parts[] = {{name[1], 1}, {name[2], 3}};
        expect_ok(mica_weights_split(w, name[0], parts, 2, &err), &err);
    }
    assert_int_equal(mica_weights_count(w), 600);
    for (size_t i = 0; i < 600; i++)
        assert_ptr_equal(mica_weights_find(w, mica_weights_name(w, i)), mica_weights_tensor(w, i));
    mica_weights_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_and_scales),   cmocka_unit_test(test_hash_stays),
        cmocka_unit_test(test_absent_is_nothing), cmocka_unit_test(test_refusals_change_nothing),
        cmocka_unit_test(test_many_splits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
