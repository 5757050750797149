/* test_torch_zip.c - torch checkpoints: what is read, what is refused, and with which words. */
#include "unit/format/format_fixture.h"

#include "format/pickle.h"

#define CORPUS MICA_TEST_DATA "/../fuzz/corpus/torch_zip/"
#define GOLDEN MICA_TEST_DATA "/gpt_sovits/"

static mica_weights *open_good(const char *path)
{
    mica_err err = {.status = MICA_OK};
    mica_weights *w = NULL;
    expect_ok(mica_weights_open(&w, path, &err), &err);
    return w;
}

static void refuse(const char *path, mica_status status, const char *expected)
{
    mica_err err = {.status = MICA_OK};
    mica_weights *w = NULL;
    const mica_status st = mica_weights_open(&w, path, &err);
    assert_null(w);
    expect_failure(st, &err, status, expected);
    assert_null(strchr(err.text, '\n'));
}

static void expect_values(const mica_weights *w, const char *name, int count, const float *values)
{
    const mica_tensor *t = mica_weights_find(w, name);
    assert_non_null(t);
    assert_int_equal(mica_tensor_count(t), count);
    assert_true(mica_tensor_is_contiguous(t));
    for (int i = 0; i < count; i++)
        assert_true(mica_tensor_read_f32(t, i) == values[i]);
}

static void test_gpt_sovits_form(void **state)
{
    (void)state;
    int64_t n = 0;
    char text[16];
    mica_weights *w =
        open_good(CORPUS "good_sovits"); /* begins with "05", config is utils.HParams */
    assert_int_equal(mica_weights_count(w), 2);
    assert_string_equal(mica_weights_name(w, 0), "a");
    expect_values(w, "b", 5, (const float[]){0, 1, 2, 3, 4});
    assert_string_equal(mica_weights_header(w), "05");
    assert_true(mica_weights_find_int(w, "config.model.head", &n) && n == 3);
    assert_true(mica_weights_find_int(w, "config.big", &n) && n == INT64_C(1) << 40);
    assert_true(mica_weights_find_int(w, "config.neg", &n) && n == -5);
    assert_true(mica_weights_find_item(w, "config.model.rates", 1, &n) && n == 8);
    assert_false(mica_weights_find_item(w, "config.model.rates", 3, &n));
    assert_false(mica_weights_find_int(w, "config.lr", &n));
    assert_false(mica_weights_find_int(w, "config.model.absent.deeper", &n));
    assert_true(mica_weights_find_text(w, "config.name", text, sizeof text));
    assert_string_equal(text, "tiny");
    assert_true(mica_weights_find_text(w, "info", text, sizeof text));
    assert_string_equal(text, "8epoch");
    assert_false(mica_weights_find_text(w, "info", text, 6));
    assert_false(mica_weights_find_text(w, "config", text, sizeof text));
    assert_true(mica_weights_is_mapped(w, mica_weights_find(w, "a")));
    mica_weights_close(&w);
}

static void test_views_become_contiguous(void **state)
{
    (void)state;
    mica_weights *w = open_good(CORPUS "good_bare");
    expect_values(w, "t", 12, (const float[]){0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11});
    expect_values(w, "view", 4, (const float[]){3, 5, 6, 8});
    expect_values(w, "bf", 5, (const float[]){0, 1, 2, 3, 4});
    expect_values(w, "d", 5, (const float[]){0, 1, 2, 3, 4});
    assert_int_equal(mica_weights_find(w, "flag")->dtype, MICA_DTYPE_BOOL);
    assert_int_equal(mica_weights_find(w, "scalar")->dtype, MICA_DTYPE_I64);
    assert_int_equal(mica_weights_find(w, "scalar")->ndim, 0);
    assert_false(mica_weights_is_mapped(w, mica_weights_find(w, "t")));
    mica_weights_close(&w);
    w = open_good(CORPUS "good_expanded");
    expect_values(w, "e", 12, (const float[]){1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
    mica_weights_close(&w);
}

static void test_other_forms(void **state)
{
    static const char *const FILES[] = {"good_t2s", "good_param", "good_parameters",
                                        "good_opaque_config", "good_zip64"};
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(FILES); i++) {
        char path[512];
        snprintf(path, sizeof path, CORPUS "%s", FILES[i]);
        mica_weights *w = open_good(path);
        assert_true(mica_weights_count(w) > 0);
        mica_weights_close(&w);
    }
}

static void test_refused(void **state)
{
    (void)state;
    refuse(CORPUS "bad_system", MICA_E_FORMAT, "names posix.system");
    refuse(CORPUS "bad_eval", MICA_E_FORMAT, "names builtins.eval");
    refuse(CORPUS "bad_opaque_weight", MICA_E_FORMAT,
           "a is an object of argparse.Namespace where a tensor belongs");
    refuse(CORPUS "bad_int_weight", MICA_E_FORMAT, "a is a number where a tensor belongs");
    refuse(CORPUS "bad_compressed", MICA_E_UNSUPPORTED, "compressed");
}

/* Every length of a good file, and every byte of its directory and pickle replaced. */
static void test_damage_never_crashes(void **state)
{
    (void)state;
    char *data = NULL;
    size_t size = 0;
    mica_err err = {.status = MICA_OK};
    expect_ok(mica_file_read(CORPUS "good_sovits", 1 << 20, &data, &size, &err), &err);
    for (size_t n = 0; n < size; n++) {
        mica_weights *w = NULL;
        image m = image_raw(data, n);
        assert_int_not_equal(mica_weights_open_memory(&w, "cut", m.data, n, &err), MICA_OK);
        assert_null(w);
        free(m.data);
    }
    for (size_t i = 0; i < size; i++)
        for (int bit = 0; bit < 8; bit++) {
            mica_weights *w = NULL;
            image m = image_raw(data, size);
            m.data[i] ^= (uint8_t)(1 << bit);
            (void)mica_weights_open_memory(&w, "changed", m.data, size, &err);
            mica_weights_close(&w);
            free(m.data);
        }
    mica_mem_free(data);
}

/* ---- pickles written by hand ---- */

static void expect_pickle(const char *bytes, size_t size, const char *expected)
{
    mica_arena arena;
    mica_pickle_value *root = NULL;
    mica_err err = {.status = MICA_OK};
    mica_arena_init(&arena, 1 << 12);
    const mica_status st =
        mica_pickle_parse(&root, "p", (const uint8_t *)bytes, size, &arena, &err);
    if (expected)
        expect_failure(st, &err, MICA_E_FORMAT, expected);
    else
        expect_ok(st, &err);
    mica_arena_deinit(&arena);
}
#define PICKLE(bytes, expected) expect_pickle(bytes, sizeof(bytes) - 1, expected)

static void test_pickles(void **state)
{
    (void)state;
    PICKLE("\x80\x02K\x01.", NULL);
    PICKLE("K\x01", "it has no end");
    PICKLE(".", "empty stack");
    PICKLE("K\x01K\x02.", "leaves values over");
    PICKLE("t.", "a mark is missing");
    PICKLE("h\x05.", "was not stored");
    PICKLE("]r\xff\xff\xff\xff.", "its memo is too large");
    PICKLE("X\xff\xff\xff\x7f"
           "a.",
           "longer than the file");
    PICKLE("\x8a\x09"
           "123456789.",
           "more than 64 bits");
    PICKLE("cos\nsystem\n.", "names os.system");
    PICKLE("c__builtin__\n__import__\n.", "names __builtin__.__import__");
    PICKLE("c\x1b[31m\nx\n.", "no proper name");
    PICKLE("ca\nb\n)R.", NULL); /* an object of an unknown class is nothing */
    PICKLE("i", "the instruction 0x69");
    PICKLE("ccollections\nOrderedDict\n(K\x01tR.", NULL);
    PICKLE("ctorch._utils\n_rebuild_tensor_v2\n)R.", "not described as torch does");
    PICKLE("K\x01Q.", "not described as torch does");
    PICKLE("](K\x01u.", "adds to something");
    PICKLE("](h\x00"
           "e.",
           "was not stored");
    PICKLE("]q\x00h\x00"
           "a.",
           NULL); /* a list that contains itself */
}

/* ---- the golden models ---- */

static void test_golden_models(void **state)
{
    (void)state;
    int64_t n = 0;
    char text[16];
    mica_weights *w = open_good(GOLDEN "models/s1.ckpt");
    assert_true(mica_weights_find_int(w, "config.model.head", &n) && n == 3);
    assert_non_null(mica_weights_find(w, "model.h.layers.1.self_attn.in_proj_weight"));
    mica_weights_close(&w);
    w = open_good(GOLDEN "models/sovits_v2Pro.pth");
    assert_string_equal(mica_weights_header(w), "05");
    assert_true(mica_weights_find_text(w, "config.model.version", text, sizeof text));
    assert_string_equal(text, "v2Pro");
    assert_true(mica_weights_find_item(w, "config.model.upsample_rates", 0, &n) && n == 10);
    mica_weights_close(&w);
    w = open_good(GOLDEN "models/chinese-hubert-base"); /* pytorch_model.bin */
    assert_non_null(mica_weights_find(w, "encoder.pos_conv_embed.conv.weight_g"));
    mica_weights_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt_sovits_form),      cmocka_unit_test(test_views_become_contiguous),
        cmocka_unit_test(test_other_forms),          cmocka_unit_test(test_refused),
        cmocka_unit_test(test_damage_never_crashes), cmocka_unit_test(test_pickles),
        cmocka_unit_test(test_golden_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
