/* test_packed_files.c - packed weights in GGUF and MLX files: values against those of the `gguf` package
 * (tools/golden/packed_types.py), metadata, what must be refused.
 *
 * GGUF images for the refusals are built field by field, so that a case shows the very field that is
 * wrong. */
#include "golden_file.h"
#include "unit/format/format_fixture.h"

#include <math.h>

/* ---------------------------------------------------------------- values -- */

static void expect_values(const mica_tensor *t, const mica_tensor *expected, const char *name)
{
    assert_int_equal(t->ndim, expected->ndim);
    for (int i = 0; i < t->ndim; i++)
        assert_int_equal(t->shape_[i], expected->shape_[i]);
    for (int64_t i = 0; i < mica_tensor_count(t); i++) {
        const float got = mica_tensor_read_f32(t, i), want = mica_tensor_read_f32(expected, i);
        if (!(fabsf(got - want) <= 2e-6f * (fabsf(want) + 0.1f)))
            fail_msg("%s[%d] is %.9g, expected %.9g", name, (int)i, (double)got, (double)want);
    }
}

static void test_gguf_values(void **state)
{
    (void)state;
    mica_weights *w = golden_open("packed/types.gguf");
    mica_weights *values = golden_open("packed/types.safetensors");
    assert_int_equal(mica_weights_count(w), mica_weights_count(values));
    assert_int_equal(mica_weights_count(w), 13 + 3 + 1);
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        const char *name = mica_weights_name(w, i);
        const mica_tensor *expected = mica_weights_find(values, name);
        assert_non_null(expected);
        expect_values(mica_weights_tensor(w, i), expected, name);
        if (strcmp(name, "bent") != 0)
            assert_string_equal(mica_dtype_get(mica_weights_tensor(w, i)->dtype)->name, name);
    }
    mica_weights_close(&w);
    mica_weights_close(&values);
}

static void test_affine_values(void **state)
{
    (void)state;
    mica_weights *w = golden_open("packed/affine.safetensors");
    mica_weights *values = golden_open("packed/affine_values.safetensors");
    assert_int_equal(mica_weights_count(w), 18);
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        char name[64];
        snprintf(name, sizeof name, "%s", mica_weights_name(w, i));
        *strrchr(name, '.') = '\0';
        mica_tensor t = *mica_weights_tensor(w, i);
        if (t.shape_[1] != 512) /* bits and group are guessed; a model knows the width */
            assert_true(mica_tensor_set_width(&t, 512));
        assert_int_equal(t.scale.group, atoi(strchr(name, 'g') + 1));
        assert_int_equal(t.dtype, mica_dtype_from_bits(name[1] - '0'));
        expect_values(&t, mica_weights_find(values, name), name);
        mica_tensor row = mica_tensor_rows(&t, 1, 1), wanted = *mica_weights_find(values, name);
        wanted = mica_tensor_rows(&wanted, 1, 1);
        expect_values(&row, &wanted, name);
    }
    mica_weights_close(&w);
    mica_weights_close(&values);
}

static void test_width(void **state)
{
    (void)state;
    uint32_t words[2 * 16] = {0};
    float scales[2 * 2] = {0};
    mica_tensor t = mica_tensor_2d(words, MICA_DTYPE_MLX4, 2, 128);
    t.scale = (mica_tensor_scale){.data = scales, .dtype = MICA_DTYPE_F32, .group = 64};
    mica_tensor same = t;
    assert_true(mica_tensor_set_width(&same, 64)); /* 8 bits in groups of 32 */
    assert_int_equal(same.dtype, MICA_DTYPE_MLX8);
    assert_int_equal(same.scale.group, 32);
    assert_true(mica_tensor_set_width(&same, 256)); /* 2 bits in groups of 128 */
    assert_int_equal(same.dtype, MICA_DTYPE_MLX2);
    assert_false(mica_tensor_set_width(&t, 32)); /* 16 bits */
    assert_false(mica_tensor_set_width(&t, 100));
    assert_false(mica_tensor_set_width(&t, 0));
    assert_int_equal(t.shape_[1], 128);
    assert_int_equal(mica_tensor_size(&t), sizeof words);
    assert_int_equal(mica_tensor_scale_size(&t), sizeof scales);
}

/* -------------------------------------------------------------- metadata -- */

static void test_gguf_metadata(void **state)
{
    (void)state;
    mica_weights *w = golden_open("packed/types.gguf");
    assert_string_equal(mica_weights_metadata(w, "general.architecture"), "mica_test");
    assert_string_equal(mica_weights_metadata(w, "test.string"), "Gr\xc3\xbc\xc3\x9f"
                                                                 "e");
    assert_int_equal(mica_weights_meta_int(w, "test.u8", 0), 200);
    assert_int_equal(mica_weights_meta_int(w, "test.i8", 0), -3);
    assert_int_equal(mica_weights_meta_int(w, "test.u16", 0), 60000);
    assert_int_equal(mica_weights_meta_int(w, "test.i16", 0), -30000);
    assert_int_equal(mica_weights_meta_int(w, "test.u32", 0), 4000000000);
    assert_int_equal(mica_weights_meta_int(w, "test.i32", 0), -2000000000);
    assert_int_equal(mica_weights_meta_int(w, "test.u64", 0), INT64_C(1) << 40);
    assert_int_equal(mica_weights_meta_int(w, "test.i64", 0), -(INT64_C(1) << 40));
    assert_int_equal(mica_weights_meta_int(w, "test.f32", 7), 7);
    assert_int_equal(mica_weights_meta_int(w, "absent", 9), 9);
    assert_true(mica_weights_meta_number(w, "test.f32", 0) == 0.5);
    assert_true(mica_weights_meta_number(w, "test.f64", 0) == 0.25);
    assert_true(mica_weights_meta_number(w, "test.i8", 0) == -3.0);
    assert_int_equal(mica_weights_meta(w, "test.bool")->type, MICA_META_BOOL);
    assert_int_equal(mica_weights_meta(w, "test.bool")->integer, 1);
    const mica_meta *ints = mica_weights_meta(w, "test.ints");
    assert_int_equal(ints->count, 3);
    assert_true(mica_meta_number_at(ints, 1) == -2.0);
    assert_true(mica_meta_number_at(mica_weights_meta(w, "test.floats"), 1) == -1.5);
    const mica_meta *strings = mica_weights_meta(w, "test.strings");
    static const char *const WANTED[] = {"a", "", "ccc"};
    const char *text;
    size_t at = 0, length, n = 0;
    for (; mica_meta_next_string(strings, &at, &text, &length); n++) {
        assert_int_equal(length, strlen(WANTED[n]));
        assert_memory_equal(text, WANTED[n], length);
    }
    assert_int_equal(n, 3);
    mica_weights_close(&w);
}

/* -------------------------------------------------------------- refusals -- */

typedef struct builder {
    uint8_t bytes[4096];
    size_t size;
} builder;

static void put(builder *b, uint64_t v, int size)
{
    for (int i = 0; i < size; i++)
        b->bytes[b->size++] = (uint8_t)(v >> (8 * i));
}

static void put_text(builder *b, const char *text)
{
    put(b, strlen(text), 8);
    memcpy(b->bytes + b->size, text, strlen(text));
    b->size += strlen(text);
}

typedef struct gguf_case {
    const char *expected;
    mica_status status;
    uint32_t version, type, ndim, value_type, alignment;
    uint64_t tensors, values, row, rows, offset;
    const char *name, *second;
    size_t cut; /* bytes taken off the end */
} gguf_case;

/* One value, `general.alignment`, and a tensor [rows, row]; zeros stand for what is right. */
static builder build(const gguf_case *c)
{
    builder b = {.size = 0};
    memcpy(b.bytes, "GGUF", 4);
    b.size = 4;
    put(&b, c->version ? c->version : 3, 4);
    put(&b, c->tensors ? c->tensors : c->second ? 2 : 1, 8);
    put(&b, c->values ? c->values : 1, 8);
    put_text(&b, "general.alignment");
    put(&b, c->value_type ? c->value_type : 4, 4);
    put(&b, c->alignment ? c->alignment : 32, 4);
    for (int i = 0; i < (c->second ? 2 : 1); i++) {
        put_text(&b, i ? c->second : c->name ? c->name : "x");
        put(&b, c->ndim ? c->ndim : 2, 4);
        put(&b, c->row ? c->row : 32, 8);
        put(&b, c->rows ? c->rows : 2, 8);
        put(&b, c->type ? c->type : 2, 4);
        put(&b, c->offset, 8);
    }
    while (b.size % 32)
        put(&b, 0, 1);
    for (int i = 0; i < 36; i++)
        put(&b, 0, 1);
    b.size -= c->cut;
    return b;
}

static const gguf_case CASES[] = {
    {.version = 1, .status = MICA_E_UNSUPPORTED, .expected = "GGUF version 1"},
    {.version = 0x03000000, .status = MICA_E_UNSUPPORTED, .expected = "big-endian"},
    {.tensors = UINT64_MAX, .status = MICA_E_FORMAT, .expected = "truncated or damaged"},
    {.values = UINT64_MAX / 2, .status = MICA_E_FORMAT, .expected = "truncated or damaged"},
    {.values = 2, .status = MICA_E_FORMAT, .expected = "truncated or damaged"},
    {.value_type = 13, .status = MICA_E_FORMAT, .expected = "has the unknown type 13"},
    {.value_type = 8, .status = MICA_E_FORMAT, .expected = "truncated or damaged"},
    {.value_type = 9, .status = MICA_E_UNSUPPORTED, .expected = "is an array of type 32"},
    {.alignment = 33,
     .status = MICA_E_FORMAT,
     .expected = "general.alignment is not a power of two"},
    {.alignment = 1 << 20, .status = MICA_E_FORMAT, .expected = "general.alignment"},
    {.value_type = 6, .status = MICA_E_FORMAT, .expected = "general.alignment"},
    {.name = "a\nb", .status = MICA_E_FORMAT, .expected = "control character"},
    {.second = "x", .offset = 0, .status = MICA_E_FORMAT, .expected = "tensor x is listed twice"},
    {.second = "y", .offset = 0, .status = MICA_E_FORMAT, .expected = "tensors x and y overlap"},
    {.ndim = 5, .status = MICA_E_FORMAT, .expected = "tensor x has 5 dimensions"},
    {.type = 16, .status = MICA_E_UNSUPPORTED, .expected = "tensor x is stored as IQ2_XXS"},
    {.type = 4, .status = MICA_E_UNSUPPORTED, .expected = "tensor x has the unknown type 4"},
    {.row = 33,
     .status = MICA_E_FORMAT,
     .expected = "rows of 33 are no multiple of the 32 of q4_0"},
    {.rows = UINT64_C(1) << 60, .row = 1024, .status = MICA_E_FORMAT, .expected = "overflows"},
    {.rows = UINT64_MAX, .status = MICA_E_FORMAT, .expected = "a dimension is too large"},
    {.rows = 1000, .status = MICA_E_FORMAT, .expected = "truncated or damaged: tensor x"},
    {.rows = 4, .status = MICA_E_FORMAT, .expected = "truncated or damaged: tensor x"},
    {.offset = 8, .status = MICA_E_FORMAT, .expected = "no multiple of the alignment 32"},
    {.offset = UINT64_MAX - 31, .status = MICA_E_FORMAT, .expected = "truncated or damaged"},
    {.cut = 1, .status = MICA_E_FORMAT, .expected = "truncated or damaged: tensor x"},
};

static void test_gguf_refusals(void **state)
{
    (void)state;
    const gguf_case good = {.version = 2};
    builder b = build(&good);
    mica_weights *w = NULL;
    mica_err err = {0};
    expect_ok(mica_weights_open_memory(&w, "x.gguf", b.bytes, b.size, &err), &err);
    assert_int_equal(mica_weights_find(w, "x")->dtype, MICA_DTYPE_Q4_0);
    mica_weights_close(&w);
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES); i++) {
        b = build(&CASES[i]);
        expect_refused(image_raw(b.bytes, b.size), CASES[i].status, CASES[i].expected);
    }
}

static void test_every_truncation(void **state)
{
    (void)state;
    char *data = NULL;
    size_t size = 0;
    mica_err err = {0};
    expect_ok(mica_file_read(MICA_TEST_DATA "/packed/types.gguf", 1 << 20, &data, &size, &err),
              &err);
    for (size_t n = 4; n < size; n += n < 2600 ? 1 : 997) {
        image m = image_raw(data, n);
        mica_weights *w = NULL;
        assert_int_equal(mica_weights_open_memory(&w, "cut", m.data, n, &err), MICA_E_FORMAT);
        assert_null(w);
        free(m.data);
    }
    mica_mem_free(data);
}

#define U32(shape, begin, end)                                                                     \
    "\"x.weight\":{\"dtype\":\"U32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"
#define OTHER(name, dtype, shape, begin, end)                                                      \
    ",\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end  \
    "]}"

static const struct {
    const char *header;
    size_t data;
    mica_status status;
    const char *expected;
} AFFINE[] = {
    {"{" U32("[1,8]", "0", "32") OTHER("x.scales", "F16", "[1,1]", "32", "34") "}", 34,
     MICA_E_UNSUPPORTED, "x.scales has no biases beside it"},
    {"{" U32("[1,8]", "0", "32") OTHER("x.scales", "U8", "[1,2]", "32", "34") "}", 34,
     MICA_E_UNSUPPORTED, "scales x.scales are u8"},
    {"{" U32("[1,8]", "0", "32") OTHER("x.scales", "F16", "[1,1]", "32", "34")
         OTHER("x.biases", "BF16", "[1,1]", "34", "36") "}",
     36, MICA_E_FORMAT, "x.scales and x.biases differ in shape or dtype"},
    {"{" U32("[1,8]", "0", "32") OTHER("x.scales", "F16", "[2,1]", "32", "36")
         OTHER("x.biases", "F16", "[2,1]", "36", "40") "}",
     40, MICA_E_FORMAT, "do not fit the packed weight"},
    {"{" U32("[1,1]", "0", "4") OTHER("x.scales", "F16", "[1,1]", "4", "6")
         OTHER("x.biases", "F16", "[1,1]", "6", "8") "}",
     8, MICA_E_FORMAT, "do not fit the packed weight"},
    {"{" U32("[1,8]", "0", "32") OTHER("x.scales", "F16", "[1,0]", "32", "32")
         OTHER("x.biases", "F16", "[1,0]", "32", "32") "}",
     32, MICA_E_FORMAT, "do not fit the packed weight"},
};

static void test_affine_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(AFFINE); i++)
        expect_refused(image_make(AFFINE[i].header, AFFINE[i].data), AFFINE[i].status,
                       AFFINE[i].expected);
}

/* ---------------------------------------------------------------- folders -- */

#define X_Q4                                                                                       \
    "{" U32("[1,8]", "0", "32") OTHER("x.scales", "F16", "[1,1]", "32", "34")                      \
        OTHER("x.biases", "F16", "[1,1]", "34", "36") "}"

/* bits * group is 256 here: config.json decides, per module before all. */
static void test_affine_config(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        mica_dtype dtype;
        int group;
    } cases[] = {
        {NULL, MICA_DTYPE_MLX4, 64},
        {"{\"quantization\":{\"bits\":8,\"group_size\":32}}", MICA_DTYPE_MLX8, 32},
        {"{\"quantization\":{\"bits\":8,\"x\":{\"bits\":2}}}", MICA_DTYPE_MLX2, 128},
        {"{\"quantization\":{\"bits\":3}}", MICA_DTYPE_MLX4, 64}, /* cannot be: 256 / 3 */
        {"{\"quantization\":7}", MICA_DTYPE_MLX4, 64},
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++) {
        folder f = folder_make();
        mica_weights *w = NULL;
        mica_err err = {0};
        folder_write_image(&f, "model.safetensors", X_Q4, 36);
        if (cases[i].config)
            folder_write_text(&f, "config.json", cases[i].config);
        expect_ok(mica_weights_open(&w, f.path, &err), &err);
        assert_int_equal(mica_weights_count(w), 1);
        const mica_tensor *t = mica_weights_find(w, "x.weight");
        assert_int_equal(t->dtype, cases[i].dtype);
        assert_int_equal(t->scale.group, cases[i].group);
        assert_int_equal(t->shape_[1], cases[i].group);
        mica_weights_close(&w);
        folder_remove(&f);
    }
}

static void test_gguf_parts(void **state)
{
    (void)state;
    folder f = folder_make();
    mica_weights *w = NULL;
    mica_err err = {0};
    const gguf_case first = {.name = "a"}, second = {.name = "b"};
    const builder a = build(&first), b = build(&second);
    folder_write(&f, "m-00001-of-00002.gguf", a.bytes, a.size);
    expect_failure(mica_weights_open(&w, f.path, &err), &err, MICA_E_MISSING,
                   "part m-00002-of-00002.gguf is missing");
    folder_write(&f, "m-00002-of-00002.gguf", b.bytes, b.size);
    expect_ok(mica_weights_open(&w, folder_path(&f, "m-00002-of-00002.gguf"), &err), &err);
    assert_int_equal(mica_weights_count(w), 2);
    mica_weights_close(&w);
    expect_ok(mica_weights_open(&w, f.path, &err), &err);
    assert_int_equal(mica_weights_count(w), 2);
    mica_weights_close(&w);
    folder_write(&f, "other.gguf", a.bytes, a.size);
    expect_failure(mica_weights_open(&w, f.path, &err), &err, MICA_E_USAGE, "3 GGUF files");
    folder_remove(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf_values),     cmocka_unit_test(test_affine_values),
        cmocka_unit_test(test_width),           cmocka_unit_test(test_gguf_metadata),
        cmocka_unit_test(test_gguf_refusals),   cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_affine_refusals), cmocka_unit_test(test_affine_config),
        cmocka_unit_test(test_gguf_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
