/* test_safetensors.c - every way in which a safetensors header can be wrong, and its message. */
#include "format_fixture.h"

#include "format/safetensors.h"

/* One F32 [2, 3] tensor `a` with chosen dtype, shape and offsets. */
#define ENTRY(name, dtype, shape, offsets)                                                         \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

typedef struct bad_header {
    const char *header;
    size_t data_size;
    mica_status status;
    const char *text;
} bad_header;

static const bad_header BAD_HEADERS[] = {
    {"[1,2,3]", 0, MICA_E_FORMAT, "the header is not a JSON object"},
    {"{\"a\":", 0, MICA_E_FORMAT, "x.safetensors"},
    {"{} {}", 0, MICA_E_FORMAT, "x.safetensors"},
    {"{\"a\":5}", 0, MICA_E_FORMAT, "the entry of tensor a is not a JSON object"},
    {"{\"__metadata__\":5}", 0, MICA_E_FORMAT, "__metadata__ is not a JSON object"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, MICA_E_FORMAT, "__metadata__ is there twice"},
    {"{\"a\":{\"shape\":[],\"data_offsets\":[0,4]}}", 4, MICA_E_FORMAT, "tensor a has no dtype"},
    {"{\"a\":{\"dtype\":7,\"shape\":[],\"data_offsets\":[0,4]}}", 4, MICA_E_FORMAT,
     "tensor a has no dtype"},
    {"{" ENTRY("a", "F4", "[2]", "[0,1]") "}", 1, MICA_E_UNSUPPORTED,
     "tensor a has the unknown dtype F4"},
    {"{" ENTRY("a", "F\\u001b[2J", "[2]", "[0,1]") "}", 1, MICA_E_UNSUPPORTED,
     "unknown dtype (unprintable)"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, MICA_E_FORMAT,
     "tensor a has no shape"},
    {"{" ENTRY("a", "F32", "[-3,2]", "[0,24]") "}", 24, MICA_E_FORMAT,
     "tensor a: dimension 0 is -3, not a whole number from 0 to 2^53"},
    {"{" ENTRY("a", "F32", "[2,1.5]", "[0,12]") "}", 12, MICA_E_FORMAT,
     "tensor a: dimension 1 is 1.5, not a whole number"},
    {"{" ENTRY("a", "F32", "[1e300]", "[0,12]") "}", 12, MICA_E_FORMAT,
     "tensor a: dimension 0 is 1e+300, not a whole number"},
    {"{" ENTRY("a", "F32", "[\"2\"]", "[0,8]") "}", 8, MICA_E_FORMAT,
     "tensor a: dimension 0 is not a number"},
    {"{" ENTRY("a", "F32", "[1,1,1,1,1,1,1]", "[0,4]") "}", 4, MICA_E_UNSUPPORTED,
     "tensor a has more than 6 dimensions"},
    {"{" ENTRY("a", "F32", "[4294967296,4294967296]", "[0,0]") "}", 0, MICA_E_FORMAT,
     "tensor a: the product of its shape overflows"},
    {"{" ENTRY("a", "U8", "[0,9007199254740992,9007199254740992]", "[0,0]") "}", 0, MICA_E_FORMAT,
     "tensor a: the product of its shape overflows"},
    {"{" ENTRY("a", "F32", "[2]", "[0]") "}", 8, MICA_E_FORMAT,
     "tensor a: data_offsets are not two whole numbers in rising order"},
    {"{" ENTRY("a", "F32", "[2]", "[0,8,8]") "}", 8, MICA_E_FORMAT, "not two whole numbers"},
    {"{" ENTRY("a", "F32", "[2]", "[8,0]") "}", 8, MICA_E_FORMAT, "not two whole numbers"},
    {"{" ENTRY("a", "F32", "[2]", "[-8,0]") "}", 8, MICA_E_FORMAT, "not two whole numbers"},
    {"{" ENTRY("a", "F32", "[2]", "{}") "}", 8, MICA_E_FORMAT, "not two whole numbers"},
    {"{" ENTRY("a", "F32", "[3]", "[0,8]") "}", 8, MICA_E_FORMAT,
     "tensor a: data_offsets hold 8 bytes, shape and dtype need 12"},
    {"{" ENTRY("a", "F32", "[1]", "[0,8]") "}", 8, MICA_E_FORMAT,
     "tensor a: data_offsets hold 8 bytes, shape and dtype need 4"},
    {"{" ENTRY("a", "F32", "[2]", "[4,12]") "}", 8, MICA_E_FORMAT,
     "truncated or damaged: tensor a ends at byte 75, the file has 71; download it again"},
    {"{" ENTRY("a", "U8", "[0]", "[9,9]") "}", 8, MICA_E_FORMAT, "tensor a ends at byte"},
    {"{" ENTRY("a", "F32", "[2]", "[0,8]") "," ENTRY("b", "F32", "[2]", "[4,12]") "}", 12,
     MICA_E_FORMAT, "tensors a and b overlap"},
    {"{" ENTRY("b", "F32", "[4]", "[0,16]") "," ENTRY("a", "F32", "[1]", "[4,8]") "}", 16,
     MICA_E_FORMAT, "tensors b and a overlap"},
    {"{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("a", "F32", "[1]", "[4,8]") "}", 8,
     MICA_E_FORMAT, "tensor a is listed twice"},
    {"{" ENTRY("", "F32", "[1]", "[0,4]") "}", 4, MICA_E_FORMAT, "a tensor name is empty"},
    {"{" ENTRY("a\\u0007", "F32", "[1]", "[0,4]") "}", 4, MICA_E_FORMAT, "control character"},
    {"{" ENTRY("a\xff", "F32", "[1]", "[0,4]") "}", 4, MICA_E_FORMAT, "x.safetensors"},
};

static void test_bad_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(BAD_HEADERS); i++) {
        const bad_header *b = &BAD_HEADERS[i];
        expect_refused(image_make(b->header, b->data_size), b->status, b->text);
    }
}

static void test_name_too_long(void **state)
{
    (void)state;
    char header[2048];
    char name[1025];
    memset(name, 'n', sizeof name - 1);
    name[1024] = '\0';
    snprintf(header, sizeof header,
             "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", name);
    expect_refused(image_make(header, 1), MICA_E_FORMAT, "longer than 1023 bytes");
}

typedef struct bad_file {
    const char *bytes;
    size_t size;
    mica_status status;
    const char *text;
} bad_file;

#define BYTES(s) (s), sizeof(s) - 1

static const bad_file BAD_FILES[] = {
    {BYTES(""), MICA_E_FORMAT, "x.safetensors: the file is empty"},
    {BYTES("\x02\0\0"), MICA_E_FORMAT, "3 bytes are too few"},
    {BYTES("\0\0\0\0\0\0\0\0"), MICA_E_FORMAT, "header length 0 is not between 1 and"},
    {BYTES("\0\0\0\0\0\0\0\0{}"), MICA_E_FORMAT, "header length 0 is not between 1 and"},
    {BYTES("\xff\xff\xff\xff\xff\xff\xff\x7f{}"), MICA_E_FORMAT,
     "header length 9223372036854775807 is not between 1 and 100000000"},
    {BYTES("\xff\xff\xff\xff\xff\xff\xff\xff{}"), MICA_E_FORMAT,
     "header length 18446744073709551615"},
    {BYTES("\x01\xe1\xf5\x05\0\0\0\0{}"), MICA_E_FORMAT, "header length 100000001"},
    {BYTES("\0\xe1\xf5\x05\0\0\0\0{}"), MICA_E_FORMAT,
     "truncated: the header needs 100000008 bytes, the file has 10"},
    {BYTES("\x09\0\0\0\0\0\0\0{}"), MICA_E_FORMAT,
     "truncated: the header needs 17 bytes, the file has 10"},
    {BYTES("\x02\0\0\0\0\0\0\0"), MICA_E_FORMAT, "truncated: the header needs 10 bytes"},
    {BYTES("\x02\0\0\0\0\0\0\0ab"), MICA_E_FORMAT, "the header is not a JSON object"},
    {BYTES("GGUF\x03\0\0\0\0\0\0\0\0\0\0\0"), MICA_E_FORMAT, "x.safetensors: truncated"},
    {BYTES("FUGG\0\0\0\x03\0\0\0\0\0\0\0\0"), MICA_E_UNSUPPORTED, "a big-endian GGUF file"},
    {BYTES("PK\003\004\0\0\x08\x08\0\0\0\0"), MICA_E_FORMAT, "the zip archive has no end record"},
    {BYTES("PK\003\004"), MICA_E_FORMAT, "the zip archive has no end record"},
    {BYTES("\x80\x02\x8a\x0alFc\x9c"), MICA_E_UNSUPPORTED, "is a Python pickle"},
    {BYTES("\x93NUMPY\x01\0v\0{"), MICA_E_UNSUPPORTED, "is a NumPy array file"},
    {BYTES("\x89HDF\r\n\x1a\n\0\0"), MICA_E_UNSUPPORTED, "is an HDF5 file"},
    {BYTES("version https://git-lfs"), MICA_E_FORMAT, "is a Git LFS pointer"},
    {BYTES("<!DOCTYPE html><html>"), MICA_E_FORMAT, "is a web page"},
    {BYTES("{\"weight_map\": {}}"), MICA_E_FORMAT, "is JSON text"},
    {BYTES("\x89PNG\r\n\x1a\n"), MICA_E_FORMAT, "is a PNG picture"},
};

static void test_bad_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(BAD_FILES); i++) {
        const bad_file *b = &BAD_FILES[i];
        expect_refused(image_raw(b->bytes, b->size), b->status, b->text);
    }
}

/* A correct file cut at every length but the full one is refused, never read beyond. */
static void test_every_truncation(void **state)
{
    (void)state;
    image whole = image_make(
        "{" ENTRY("a", "F32", "[2]", "[0,8]") "," ENTRY("b", "U8", "[3]", "[8,11]") "}", 11);
    for (size_t n = 0; n < whole.size; n++)
        expect_refused(image_raw(whole.data, n), MICA_E_FORMAT, "x.safetensors");
    mica_err err;
    mica_weights *w;
    expect_ok(mica_weights_open_memory(&w, "x", whole.data, whole.size, &err), &err);
    assert_int_equal(mica_weights_count(w), 2);
    mica_weights_close(&w);
    free(whole.data);
}

static void test_good_header(void **state)
{
    (void)state;
    image m =
        image_make("{" ENTRY("late", "BF16", "[2,2]",
                             "[8,16]") ","
                                       "\"__metadata__\":{\"format\":\"pt\",\"n\":5}," ENTRY(
                                           "scalar", "F32", "[]",
                                           "[0,4]") "," ENTRY("none", "F32", "[0,7]",
                                                              "[4,4]") "," ENTRY("wide", "I64",
                                                                                 "[1,1,1,1,1,1]",
                                                                                 "[16,24]") "}   ",
                   24);
    mica_arena arena;
    mica_safetensors s;
    mica_err err;
    mica_arena_init(&arena, 4096);
    expect_ok(mica_safetensors_parse(&s, "x", m.data, m.size, &arena, &err), &err);
    assert_int_equal(s.count, 4); /* by offset: the hole at 4..8 is tolerated */
    assert_string_equal(s.items[0].name, "scalar");
    assert_string_equal(s.items[1].name, "none");
    assert_string_equal(s.items[2].name, "late");
    assert_string_equal(s.items[3].name, "wide");
    assert_int_equal(s.items[0].ndim, 0);
    assert_int_equal(s.items[1].shape_[1], 7);
    assert_int_equal(s.items[2].dtype, MICA_DTYPE_BF16);
    assert_int_equal(s.items[2].end, m.size - 8);
    assert_int_equal(s.items[3].ndim, 6);
    assert_int_equal(s.metadata_count, 1);
    assert_string_equal(s.metadata[0], "format");
    assert_string_equal(s.metadata[1], "pt");
    mica_arena_deinit(&arena);
    free(m.data);
}

static void test_name_rules(void **state)
{
    (void)state;
    assert_true(mica_tensor_name_is_valid("a.b.0.weight"));
    assert_true(mica_tensor_name_is_valid("gewicht.\xc3\xa4"));
    assert_false(mica_tensor_name_is_valid(""));
    assert_false(mica_tensor_name_is_valid("__metadata__"));
    assert_false(mica_tensor_name_is_valid("a\x7f"));
    assert_false(mica_tensor_name_is_valid("a\n"));
    assert_false(mica_tensor_name_is_valid("\xc0\xaf"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_headers), cmocka_unit_test(test_name_too_long),
        cmocka_unit_test(test_bad_files),   cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_good_header), cmocka_unit_test(test_name_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
