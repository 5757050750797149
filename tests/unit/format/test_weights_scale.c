/* test_weights_scale.c - fp8 and int8 scale conventions, and the encodings that are refused. */
#include "format_fixture.h"

/* A tensor entry of the header; offsets are filled by hand, all data is image_byte. */
#define T(name, dtype, shape, begin, end)                                                          \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end \
    "]}"
/* X.weight, 2 x 4 bytes at 0..8. */
#define WEIGHT(dtype) T("x.weight", dtype, "[2,4]", 0, 8)

typedef struct scaled_case {
    const char *header;
    size_t data_size;
    mica_dtype dtype;      /* of x.weight after opening */
    mica_dtype scale_type; /* MICA_DTYPE_COUNT: no scale */
    bool per_row;
    size_t count; /* tensors left in the list */
} scaled_case;

static const scaled_case SCALED[] = {
    /* plain fp8: the values as they are */
    {"{" WEIGHT("F8_E4M3") "}", 8, MICA_DTYPE_F8_E4M3, MICA_DTYPE_COUNT, false, 1},
    /* old ComfyUI */
    {"{" WEIGHT("F8_E4M3") "," T("x.scale_weight", "F32", "[]", 8, 12) "," T(
         "x.scale_input", "F32", "[]", 12, 16) "," T("scaled_fp8", "F8_E4M3", "[2]", 16, 18) "}",
     18, MICA_DTYPE_F8_E4M3, MICA_DTYPE_F32, false, 1},
    {"{" WEIGHT("F8_E5M2") "," T("x.scale_weight", "F32", "[1]", 8, 12) "," T(
         "p.scaled_fp8", "F8_E5M2", "[0]", 12, 12) "," T("x.bias", "F32", "[2]", 12, 20) "}",
     20, MICA_DTYPE_F8_E5M2, MICA_DTYPE_F32, false, 2},
    /* new ComfyUI: scalar, [out], [out, 1], other scale dtypes */
    {"{" WEIGHT("F8_E4M3") "," T("x.weight_scale", "F32", "[]", 8, 12) "," T("x.input_scale", "F32",
                                                                             "[1]", 12, 16) "}",
     16, MICA_DTYPE_F8_E4M3, MICA_DTYPE_F32, false, 1},
    {"{" WEIGHT("F8_E4M3") "," T("x.weight_scale", "F32", "[2]", 8, 16) "}", 16, MICA_DTYPE_F8_E4M3,
     MICA_DTYPE_F32, true, 1},
    {"{" WEIGHT("F8_E4M3") "," T("x.weight_scale", "BF16", "[2,1]", 8, 12) "}", 12,
     MICA_DTYPE_F8_E4M3, MICA_DTYPE_BF16, true, 1},
    {"{" WEIGHT("F8_E5M2") "," T("x.weight_scale", "F16", "[1,1]", 8, 10) "}", 10,
     MICA_DTYPE_F8_E5M2, MICA_DTYPE_F16, false, 1},
    /* int8 rows */
    {"{" WEIGHT("I8") "," T("x.weight_scale", "F32", "[2,1]", 8, 16) "}", 16, MICA_DTYPE_I8,
     MICA_DTYPE_F32, true, 1},
    /* declared in the metadata; fp8 in a U8 container */
    {"{\"__metadata__\":{\"_quantization_metadata\":"
     "\"{\\\"layers\\\":{\\\"x\\\":{\\\"format\\\":\\\"float8_e4m3fn\\\"}}}\"}," WEIGHT("U8") "," T(
         "x.weight_scale", "F32", "[]", 8, 12) "}",
     12, MICA_DTYPE_F8_E4M3, MICA_DTYPE_F32, false, 1},
    {"{\"__metadata__\":{\"_quantization_metadata\":"
     "\"{\\\"layers\\\":{\\\"x\\\":\\\"int8_tensorwise\\\",\\\"gone\\\":\\\"float8_e5m2\\\"}}\"}"
     "," WEIGHT("I8") "," T("x.weight_scale", "F32", "[]", 8, 12) "}",
     12, MICA_DTYPE_I8, MICA_DTYPE_F32, false, 1},
    /* a scale without its weight stays listed, for the model's check to name it */
    {"{" WEIGHT("F8_E4M3") "," T("y.weight_scale", "F32", "[]", 8, 12) "}", 12, MICA_DTYPE_F8_E4M3,
     MICA_DTYPE_COUNT, false, 2},
};

static void test_scales_are_attached(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(SCALED); i++) {
        const scaled_case *c = &SCALED[i];
        image m = image_make(c->header, c->data_size);
        mica_weights *w = NULL;
        mica_err err;
        expect_ok(mica_weights_open_memory(&w, "mem", m.data, m.size, &err), &err);
        const mica_tensor *t = mica_weights_find(w, "x.weight");
        assert_non_null(t);
        assert_int_equal(t->dtype, c->dtype);
        assert_int_equal(mica_weights_count(w), c->count);
        assert_int_equal(t->scale.data != NULL, c->scale_type != MICA_DTYPE_COUNT);
        if (t->scale.data != NULL) {
            assert_int_equal(t->scale.dtype, c->scale_type);
            assert_int_equal(t->scale.per_row, c->per_row);
            assert_int_equal(*(const uint8_t *)t->scale.data, image_byte(8));
        }
        mica_weights_close(&w);
        free(m.data);
    }
}

/* The number itself: stored * scale, for a whole tensor and per row. */
static void test_scaled_values(void **state)
{
    (void)state;
    static const float SCALES[2] = {0.5f, -4.0f};
    image m = image_make("{" T("x.weight_scale", "F32", "[2]", 0, 8) "," T("x.weight", "F8_E4M3",
                                                                           "[2,2]", 8, 12) "}    ",
                         12);
    uint8_t *data = m.data + m.size - 12;
    memcpy(data, SCALES, 8);
    memcpy(data + 8, "\x38\x40\x38\xb8", 4); /* 1, 2, 1, -1 in E4M3 */
    mica_weights *w = NULL;
    mica_err err;
    expect_ok(mica_weights_open_memory(&w, "mem", m.data, m.size, &err), &err);
    const mica_tensor *t = mica_weights_find(w, "x.weight");
    static const float EXPECTED[4] = {0.5f, 1.0f, -4.0f, 4.0f};
    for (int i = 0; i < 4; i++)
        assert_true(mica_tensor_read_f32(t, i) == EXPECTED[i]);
    mica_weights_close(&w);
    free(m.data);
}

typedef struct refused_case {
    const char *header;
    size_t data_size;
    mica_status status;
    const char *text;
} refused_case;

static const refused_case REFUSED[] = {
    {"{" WEIGHT("BF16") "," T("x.weight_scale", "F32", "[]", 16, 20) "}", 20, MICA_E_FORMAT,
     "data_offsets hold 8 bytes"},
    {"{" T("x.weight", "BF16", "[2,2]", 0, 8) "," T("x.weight_scale", "F32", "[]", 8, 12) "}", 12,
     MICA_E_UNSUPPORTED, "x.weight_scale scales a weight stored as [2, 2] bf16"},
    {"{" WEIGHT("F8_E4M3") "," T("x.weight_scale", "F64", "[]", 8, 16) "}", 16, MICA_E_UNSUPPORTED,
     "scale x.weight_scale is f64, not f32, bf16 or f16"},
    {"{" WEIGHT("F8_E4M3") "," T("x.weight_scale", "F32", "[4]", 8, 24) "}", 24, MICA_E_UNSUPPORTED,
     "scale x.weight_scale [4] f32 does not fit weight [2, 4] "},
    {"{" WEIGHT("F8_E4M3") "," T("x.weight_scale", "F32", "[1,2]", 8, 16) "}", 16,
     MICA_E_UNSUPPORTED, "does not fit weight"},
    {"{" WEIGHT("F8_E4M3") "," T("x.weight_scale", "F32", "[2,2]", 8, 24) "}", 24,
     MICA_E_UNSUPPORTED, "one scale, or one per row, can be decoded"},
    {"{" WEIGHT("F8_E4M3") "," T("x.weight_scale", "F32", "[0]", 8, 8) "}", 8, MICA_E_UNSUPPORTED,
     "does not fit weight"},
    {"{" WEIGHT("F8_E4M3") "," T("x.weight_scale", "F32", "[]", 8,
                                 12) "," T("x.scale_weight", "F32", "[]", 12, 16) "}",
     16, MICA_E_FORMAT, "tensor x.weight has two scales"},
    {"{" WEIGHT("U8") "," T("x.weight_scale", "F8_E4M3", "[2,1]", 8,
                            10) "," T("x.weight_scale_2", "F32", "[]", 10, 14) "}",
     14, MICA_E_UNSUPPORTED, "quantised as NVFP4"},
    {"{" WEIGHT("F8_E4M3") "," T("x.weight_scale_inv", "F32", "[1,1]", 8, 12) "}", 12,
     MICA_E_UNSUPPORTED, "quantised as block-scaled fp8"},
    {"{" T("x.qweight", "I32", "[2]", 0, 8) "}", 8, MICA_E_UNSUPPORTED, "tensor x.qweight belongs"},
    {"{" T("x.wscales", "F32", "[2]", 0, 8) "}", 8, MICA_E_UNSUPPORTED, "SVDQuant (Nunchaku)"},
    {"{" T("x.weight.absmax", "F32", "[2]", 0, 8) "}", 8, MICA_E_UNSUPPORTED, "bitsandbytes"},
    {"{" T("x.encoded_exponent", "U8", "[8]", 0, 8) "}", 8, MICA_E_UNSUPPORTED, "DFloat11"},
    {"{\"__metadata__\":{\"_quantization_metadata\":\"nonsense\"}," WEIGHT("U8") "}", 8,
     MICA_E_FORMAT, "metadata key _quantization_metadata"},
    {"{\"__metadata__\":{\"_quantization_metadata\":"
     "\"{\\\"layers\\\":{\\\"x\\\":{\\\"format\\\":\\\"mxfp8\\\"}}}\"}," WEIGHT("U8") "}",
     8, MICA_E_UNSUPPORTED, "layer x is quantised as mxfp8, which cannot be decoded here"},
    {"{\"__metadata__\":{\"_quantization_metadata\":"
     "\"{\\\"layers\\\":{\\\"x\\\":{\\\"format\\\":\\\"float8_e4m3fn\\\"}}}\"}," WEIGHT(
         "F8_E5M2") "}",
     8, MICA_E_FORMAT, "tensor x.weight is declared float8_e4m3fn but stored as "},
    {"{\"__metadata__\":{\"_quantization_metadata\":"
     "\"{\\\"layers\\\":{\\\"x\\\":{\\\"format\\\":\\\"int8_tensorwise\\\"}}}\"}," WEIGHT("I8") "}",
     8, MICA_E_FORMAT, "tensor x.weight is int8 but has no weight_scale"},
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(REFUSED); i++) {
        const refused_case *c = &REFUSED[i];
        image m = image_make(c->header, c->data_size);
        mica_weights *w = NULL;
        mica_err err;
        const mica_status st = mica_weights_open_memory(&w, "x.safetensors", m.data, m.size, &err);
        assert_null(w);
        expect_failure(st, &err, c->status, c->text);
        free(m.data);
    }
}

/* ---- comfy_quant: the declaration is the tensor's data ---- */

static mica_status open_declared(const char *dtype, const char *json, mica_dtype *got,
                                 size_t *count, mica_err *err)
{
    char header[512];
    const size_t n = strlen(json);
    snprintf(header, sizeof header,
             "{\"x.weight\":{\"dtype\":\"%s\",\"shape\":[2,4],\"data_offsets\":[0,8]},"
             "\"x.weight_scale\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[8,12]},"
             "\"x.comfy_quant\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":[12,%zu]}}",
             dtype, n, n + 12);
    image m = image_make(header, n + 12);
    memcpy(m.data + m.size - n, json, n);
    mica_weights *w = NULL;
    const mica_status st = mica_weights_open_memory(&w, "x.safetensors", m.data, m.size, err);
    if (st == MICA_OK) {
        *got = mica_weights_find(w, "x.weight")->dtype;
        *count = mica_weights_count(w);
    }
    mica_weights_close(&w);
    free(m.data);
    return st;
}

static void test_declarations(void **state)
{
    (void)state;
    static const struct {
        const char *dtype, *json;
        mica_dtype expected;
    } GOOD[] = {
        {"F8_E4M3", "{\"format\": \"float8_e4m3fn\"}", MICA_DTYPE_F8_E4M3},
        {"U8", "{\"format\":\"float8_e5m2\",\"full_precision_matrix_mult\":true}",
         MICA_DTYPE_F8_E5M2},
        {"I8", "{\"format\":\"int8_tensorwise\",\"convrot\":false}", MICA_DTYPE_I8},
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(GOOD); i++) {
        mica_dtype got = MICA_DTYPE_COUNT;
        size_t count = 0;
        mica_err err;
        expect_ok(open_declared(GOOD[i].dtype, GOOD[i].json, &got, &count, &err), &err);
        assert_int_equal(got, GOOD[i].expected);
        assert_int_equal(count, 1);
    }
}

static void test_bad_declarations(void **state)
{
    (void)state;
    static const struct {
        const char *dtype, *json;
        mica_status status;
        const char *text;
    } BAD[] = {
        {"U8", "{\"format\":\"nvfp4\"}", MICA_E_UNSUPPORTED, "layer x is quantised as nvfp4"},
        {"I8", "{\"format\":\"int8_tensorwise\",\"convrot\":true}", MICA_E_UNSUPPORTED,
         "layer x is quantised as int8_tensorwise with rotation (convrot)"},
        {"I8", "{\"format\":\"int8_blockwise\",\"group_size\":128}", MICA_E_UNSUPPORTED,
         "quantised as int8_blockwise"},
        {"F8_E4M3", "{}", MICA_E_UNSUPPORTED, "layer x is quantised as (none)"},
        {"F8_E4M3", "{\"format\":\"a\\u001b[2J\"}", MICA_E_UNSUPPORTED, "(unprintable)"},
        {"F8_E4M3", "{\"format\":", MICA_E_FORMAT, "tensor x.comfy_quant"},
        {"F8_E4M3", "", MICA_E_FORMAT, "tensor x.comfy_quant is not a short JSON text"},
        {"F8_E5M2", "{\"format\":\"float8_e4m3fn\"}", MICA_E_FORMAT,
         "declared float8_e4m3fn but stored"},
        {"F8_E5M2", "{\"format\":\"int8_tensorwise\"}", MICA_E_FORMAT,
         "declared int8_tensorwise but"},
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(BAD); i++) {
        mica_dtype got;
        size_t count;
        mica_err err;
        const mica_status st = open_declared(BAD[i].dtype, BAD[i].json, &got, &count, &err);
        expect_failure(st, &err, BAD[i].status, BAD[i].text);
    }
}

/* The scale lies in another shard than its weight. */
static void test_scale_in_another_shard(void **state)
{
    (void)state;
    folder f = folder_make();
    folder_write_image(&f, "1.safetensors", "{" T("x.weight_scale", "F32", "[]", 0, 4) "}", 4);
    folder_write_image(&f, "2.safetensors", "{" WEIGHT("F8_E4M3") "}", 8);
    folder_write_text(&f, "m.safetensors.index.json",
                      "{\"weight_map\":{\"x.weight\":\"2.safetensors\","
                      "\"x.weight_scale\":\"1.safetensors\"}}");
    mica_weights *w = NULL;
    mica_err err;
    expect_ok(mica_weights_open(&w, f.path, &err), &err);
    assert_int_equal(mica_weights_count(w), 1);
    assert_non_null(mica_weights_find(w, "x.weight")->scale.data);
    assert_null(mica_weights_find(w, "x.weight_scale"));
    mica_weights_close(&w);
    folder_remove(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scales_are_attached),
        cmocka_unit_test(test_scaled_values),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_declarations),
        cmocka_unit_test(test_bad_declarations),
        cmocka_unit_test(test_scale_in_another_shard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
