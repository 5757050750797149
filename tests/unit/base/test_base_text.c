/* test_base_text.c - UTF-8, JSON in and out, small floats. */
#include "base/half.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_every_scalar_value(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        char bytes[4];
        uint32_t back;
        if (cp >= 0xd800 && cp <= 0xdfff)
            continue;
        const size_t n = mica_utf8_encode(cp, bytes);
        assert_int_equal(mica_utf8_decode(bytes, n, &back), n);
        assert_int_equal(back, cp);
    }
}

typedef struct broken_text {
    const char *in, *out;
} broken_text;

/* Unicode 15, table 3-8 and neighbours: one U+FFFD for each maximal subpart. */
static void test_substitution(void **state)
{
    (void)state;
#define R "\xef\xbf\xbd"
    static const broken_text cases[] = {
        {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", R R R R R R R R "A"},
        {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", R R R R R R R R "A"},
        {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", R R R R R "A" R R "B"},
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", R R R R "A"},
        {"\xe2\x82", R},
        {"a\x80", "a" R},
        {"", ""},
        {"\xf0\x9f\xa6\x8a", "\xf0\x9f\xa6\x8a"},
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++) {
        char *out = NULL;
        size_t size = 0;
        mica_err err = {0};
        assert_int_equal(mica_utf8_sanitize(cases[i].in, strlen(cases[i].in), &out, &size, &err),
                         MICA_OK);
        assert_string_equal(out, cases[i].out);
        assert_int_equal(size, strlen(out));
        assert_int_equal(mica_utf8_is_valid(cases[i].in, strlen(cases[i].in)),
                         strcmp(cases[i].in, cases[i].out) == 0);
        mica_mem_free(out);
    }
}

static void test_nfc(void **state)
{
    (void)state;
    char *out = NULL;
    size_t size = 0;
    mica_err err = {0};
    assert_int_equal(mica_utf8_nfc("e\xcc\x81\0x", 5, &out, &size, &err), MICA_OK);
    assert_int_equal(size, 4); /* U+00E9, NUL, x */
    assert_memory_equal(out, "\xc3\xa9\0x", 5);
    mica_mem_free(out);
    assert_int_equal(mica_utf8_nfc("plain", 5, &out, &size, &err), MICA_OK);
    assert_string_equal(out, "plain");
    mica_mem_free(out);
}

static void test_json_strings(void **state)
{
    (void)state;
    mica_text t = {0};
    mica_text_add(&t, "%d:", 7);
    mica_text_add_json_string(&t, "a\"\\\n\x01\x7f\xff\xc3\xa9");
    assert_string_equal(t.data, "7:\"a\\\"\\\\\\n\\u0001\\u007f\xef\xbf\xbd\xc3\xa9\"");
    mica_text_deinit(&t);
    mica_mem_fail_at(1);
    mica_text_add(&t, "x");
    mica_mem_fail_at(0);
    mica_text_add(&t, "y");
    assert_true(t.failed);
    assert_null(t.data);
    mica_text_deinit(&t);
}

static mica_status parse(mica_json *j, const char *text, mica_err *err)
{
    return mica_json_parse(j, "x.json", text, strlen(text), err);
}

static void test_json_getters(void **state)
{
    (void)state;
    mica_json j;
    mica_err err = {0};
    int64_t i = 5;
    double d = 5.0;
    size_t count = 9;
    int64_t list[2];
    const char *s = NULL;
    assert_int_equal(parse(&j,
                           "{\"i\":3,\"f\":1.5,\"s\":\"t\",\"n\":null,\"a\":[1,2,3],"
                           "\"b\":[4],\"big\":1e300}",
                           &err),
                     MICA_OK);
    assert_int_equal(mica_json_get_int(&j, j.root, "i", 0, 3, &i, &err), MICA_OK);
    assert_int_equal(i, 3);
    assert_int_equal(mica_json_get_int(&j, j.root, "i", 4, 9, &i, &err), MICA_E_FORMAT);
    assert_string_equal(err.text, "x.json: \"i\" is 3, must be from 4 to 9");
    assert_int_equal(mica_json_get_int(&j, j.root, "f", 0, 9, &i, &err), MICA_E_FORMAT);
    assert_int_equal(mica_json_get_int(&j, j.root, "big", INT64_MIN, INT64_MAX, &i, &err),
                     MICA_E_FORMAT);
    assert_int_equal(mica_json_get_int(&j, j.root, "s", 0, 9, &i, &err), MICA_E_FORMAT);
    assert_int_equal(mica_json_get_int(&j, j.root, "absent", 0, 9, &i, &err), MICA_E_FORMAT);
    assert_int_equal(mica_json_opt_int(&j, j.root, "n", 0, 9, &i, &err), MICA_OK);
    assert_int_equal(i, 3);
    assert_int_equal(mica_json_get_double(&j, j.root, "f", 0, 9, &d, &err), MICA_OK);
    assert_true(d == 1.5);
    assert_int_equal(mica_json_get_string(&j, j.root, "s", &s, &err), MICA_OK);
    assert_string_equal(s, "t");
    assert_int_equal(mica_json_opt_ints(&j, j.root, "a", list, 2, &count, &err), MICA_E_FORMAT);
    assert_int_equal(mica_json_opt_ints(&j, j.root, "absent", list, 2, &count, &err), MICA_OK);
    assert_int_equal(count, 9);
    assert_int_equal(mica_json_opt_ints(&j, j.root, "b", list, 2, &count, &err), MICA_OK);
    assert_int_equal(count, 1);
    assert_null(mica_json_find(NULL, "x"));
    mica_json_close(&j);
}

static void test_json_refusals(void **state)
{
    (void)state;
    static char deep[4001];
    static const char *const wrong[] = {"", "{", "{} x", "nul", "[1,]", "{\"a\":1e999", deep};
    memset(deep, '[', sizeof deep - 1);
    for (size_t i = 0; i < MICA_ARRAY_LEN(wrong); i++) {
        mica_json j;
        mica_err err = {0};
        assert_int_equal(parse(&j, wrong[i], &err), MICA_E_FORMAT);
        assert_non_null(strstr(err.text, "x.json"));
        assert_null(j.root);
    }
}

static void test_json_without_memory(void **state)
{
    (void)state;
    mica_json j;
    mica_err err = {0};
    for (uint64_t n = 1; n < 4; n++) {
        mica_mem_fail_at(n);
        assert_int_equal(parse(&j, "{\"a\":\"b\"}", &err), MICA_E_NOMEM);
        mica_mem_fail_at(0);
    }
}

/* Every f16 through f32 and back; and the neighbours of every rounding border. */
static void test_f16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        const float f = mica_f16_to_f32((uint16_t)h);
        if ((h & 0x7fff) > 0x7c00)
            assert_true(isnan(f) && isnan(mica_f16_to_f32(mica_f32_to_f16(f))));
        else
            assert_int_equal(mica_f32_to_f16(f), h);
    }
    for (uint32_t h = 0; h < 0x7bff; h++) {
        const float low = mica_f16_to_f32((uint16_t)h), high = mica_f16_to_f32((uint16_t)(h + 1));
        const float half = 0.5f * (low + high);
        assert_int_equal(mica_f32_to_f16(half), (h + 1) & ~1u); /* ties to even */
        assert_int_equal(mica_f32_to_f16(nextafterf(half, 0.0f)), h);
        assert_int_equal(mica_f32_to_f16(nextafterf(half, INFINITY)), h + 1);
    }
    assert_int_equal(mica_f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(mica_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(mica_f32_to_f16(-INFINITY), 0xfc00);
    assert_true(mica_f16_to_f32(0x8001) == -0x1p-24f);
}

static void test_f8(void **state)
{
    (void)state;
    assert_true(mica_f8_e4m3_to_f32(0x7e) == 448.0f);
    assert_true(isnan(mica_f8_e4m3_to_f32(0x7f)) && isnan(mica_f8_e4m3_to_f32(0xff)));
    assert_true(mica_f8_e4m3_to_f32(0x01) == 0x1p-9f);
    assert_true(mica_f8_e4m3_to_f32(0x38) == 1.0f);
    assert_true(mica_f8_e4m3_to_f32(0xb9) == -1.125f);
    assert_true(signbit(mica_f8_e4m3_to_f32(0x80)) != 0);
    assert_true(mica_f8_e5m2_to_f32(0x3c) == 1.0f);
    assert_true(mica_f8_e5m2_to_f32(0x7b) == 57344.0f);
    assert_true(isinf(mica_f8_e5m2_to_f32(0x7c)) && isnan(mica_f8_e5m2_to_f32(0x7d)));
    assert_true(mica_f8_e5m2_to_f32(0x01) == 0x1p-16f);
}

static void test_bf16(void **state)
{
    (void)state;
    assert_int_equal(mica_f32_to_bf16(1.00390625f), 0x3f80); /* tie, even */
    assert_int_equal(mica_f32_to_bf16(1.01171875f), 0x3f82);
    assert_true(isnan(mica_bf16_to_f32(mica_f32_to_bf16(NAN))));
    assert_int_equal(mica_f32_to_bf16(INFINITY), 0x7f80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_scalar_value),
        cmocka_unit_test(test_substitution),
        cmocka_unit_test(test_nfc),
        cmocka_unit_test(test_json_strings),
        cmocka_unit_test(test_json_getters),
        cmocka_unit_test(test_json_refusals),
        cmocka_unit_test(test_json_without_memory),
        cmocka_unit_test(test_f16),
        cmocka_unit_test(test_f8),
        cmocka_unit_test(test_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
