/* test_weights_open.c - files, indices and folders: what is opened, what is refused and how. */
#include "format_fixture.h"

#include <sys/stat.h>

/* 56 bytes for a name of one letter: the data is aligned and stays in the mapping. */
#define HEADER(name) "{\"" name "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}  "

static mica_weights *open_ok(const char *path)
{
    mica_weights *w = NULL;
    mica_err err = {.status = MICA_OK};
    expect_ok(mica_weights_open(&w, path, &err), &err);
    return w;
}

static void expect_open_fails(const char *path, mica_status status, const char *text)
{
    mica_err err = {.status = MICA_OK};
    mica_weights *w = (mica_weights *)&err;
    const mica_status st = mica_weights_open(&w, path, &err);
    assert_null(w);
    expect_failure(st, &err, status, text);
}

static void test_single_file(void **state)
{
    (void)state;
    folder f = folder_make();
    folder_write_image(&f, "model.safetensors", HEADER("a"), 8);
    mica_weights *w = open_ok(folder_path(&f, "model.safetensors"));
    const mica_tensor *a = mica_weights_find(w, "a");
    assert_int_equal(((const uint8_t *)a->data)[7], image_byte(7));
    assert_true(mica_weights_is_mapped(w, a));
    mica_weights_dontneed(w, a);
    assert_int_equal(((const uint8_t *)a->data)[7], image_byte(7));
    mica_weights_close(&w);
    w = open_ok(f.path);
    assert_string_equal(mica_weights_path(w), f.path);
    mica_weights_close(&w);
    folder_remove(&f);
}

static void test_absent_and_empty(void **state)
{
    (void)state;
    folder f = folder_make();
    expect_open_fails(folder_path(&f, "no"), MICA_E_MISSING, "no: no such file or folder");
    expect_open_fails("", MICA_E_MISSING, "no such file or folder");
    expect_open_fails(f.path, MICA_E_MISSING, "no .safetensors file in this folder");
    folder_write_text(&f, "zero.safetensors", "");
    expect_open_fails(folder_path(&f, "zero.safetensors"), MICA_E_FORMAT, "the file is empty");
    expect_open_fails(f.path, MICA_E_FORMAT, "zero.safetensors: the file is empty");
    folder_remove(&f);
}

static void test_folders_of_other_things(void **state)
{
    (void)state;
    folder f = folder_make();
    folder_write_text(&f, "q4.ckpt", "PK\003\004");
    expect_open_fails(f.path, MICA_E_UNSUPPORTED,
                      "no .safetensors file, only others such as q4.ckpt");
    expect_open_fails(folder_path(&f, "q4.ckpt"), MICA_E_FORMAT, "q4.ckpt: truncated or damaged");
    folder_write_text(&f, "model_index.json", "{}");
    expect_open_fails(f.path, MICA_E_MISSING, "this is a whole model");
    folder_remove(&f);
}

static void test_unindexed_files(void **state)
{
    (void)state;
    folder f = folder_make();
    folder_write_image(&f, "0.safetensors", HEADER("b"), 8);
    folder_write_image(&f, "1.safetensors", HEADER("a"), 8);
    folder_write_text(&f, "._0.safetensors", "resource fork");
    mica_weights *w = open_ok(f.path);
    assert_int_equal(mica_weights_count(w), 2);
    assert_string_equal(mica_weights_name(w, 0), "b");
    mica_weights_close(&w);
    folder_write_image(&f, "2.safetensors", HEADER("a"), 8);
    expect_open_fails(f.path, MICA_E_FORMAT, "tensor a is in both ");
    folder_remove(&f);
}

static void test_variants_are_passed_over(void **state)
{
    (void)state;
    folder f = folder_make();
    folder_write_image(&f, "model.safetensors", HEADER("a"), 8);
    folder_write_text(&f, "model.fp16.safetensors", "would fail");
    mica_weights *w = open_ok(f.path);
    assert_int_equal(mica_weights_count(w), 1);
    mica_weights_close(&w);
    expect_open_fails(folder_path(&f, "model.fp16.safetensors"), MICA_E_FORMAT,
                      "fp16.safetensors: ");
    folder_remove(&f);
}

static void test_numbered_without_index(void **state)
{
    (void)state;
    folder f = folder_make();
    folder_write_image(&f, "m-00002-of-00004.safetensors", HEADER("b"), 8);
    folder_write_image(&f, "m-00003-of-00004.safetensors", HEADER("c"), 8);
    expect_open_fails(f.path, MICA_E_MISSING,
                      "2 problems:\nshard m-00001-of-00004.safetensors is missing\n"
                      "shard m-00004-of-00004.safetensors is missing");
    folder_write_image(&f, "m-00001-of-00004.safetensors", HEADER("a"), 8);
    folder_write_image(&f, "m-00004-of-00004.safetensors", HEADER("d"), 8);
    mica_weights *w = open_ok(f.path);
    assert_int_equal(mica_weights_count(w), 4);
    mica_weights_close(&w);
    folder_remove(&f);
}

/* ---- index ---- */

#define INDEX_NAME "model.safetensors.index.json"

static void test_index(void **state)
{
    (void)state;
    folder f = folder_make();
    folder_write_text(&f, INDEX_NAME,
                      "{\"metadata\":{\"total_size\":16},\"weight_map\":{"
                      "\"b\":\"two.safetensors\",\"a\":\"one.safetensors\"}}");
    folder_write_image(&f, "one.safetensors", HEADER("a"), 8);
    folder_write_image(&f, "two.safetensors", HEADER("b"), 8);
    folder_write_text(&f, "three.safetensors", "not of the index, must not be read");
    const char *paths[] = {f.path, folder_path(&f, INDEX_NAME)};
    for (int i = 0; i < 2; i++) {
        mica_weights *w = open_ok(paths[i]);
        assert_int_equal(mica_weights_count(w), 2);
        assert_string_equal(mica_weights_name(w, 0), "a");
        assert_non_null(mica_weights_find(w, "b"));
        mica_weights_close(&w);
    }
    folder_write_text(&f, "other.safetensors.index.json", "{}");
    expect_open_fails(f.path, MICA_E_USAGE,
                      "2 weight indices (model.safetensors.index.json and others)");
    folder_remove(&f);
}

/* The index in the working directory: no folder part in its path. */
static void test_index_by_bare_name(void **state)
{
    (void)state;
    folder f = folder_make();
    char before[1024];
    folder_write_text(&f, INDEX_NAME, "{\"weight_map\":{\"a\":\"one.safetensors\"}}");
    folder_write_image(&f, "one.safetensors", HEADER("a"), 8);
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(f.path), 0);
    mica_weights *w = open_ok(INDEX_NAME);
    assert_int_equal(chdir(before), 0);
    assert_int_equal(mica_weights_count(w), 1);
    mica_weights_close(&w);
    folder_remove(&f);
}

typedef struct bad_index {
    const char *json;
    mica_status status;
    const char *text;
} bad_index;

static const bad_index BAD_INDICES[] = {
    {"", MICA_E_FORMAT, INDEX_NAME},
    {"not json", MICA_E_FORMAT, INDEX_NAME},
    {"[]", MICA_E_FORMAT, "no weight_map; this is not a weight index"},
    {"{}", MICA_E_FORMAT, "no weight_map"},
    {"{\"weight_map\":[1]}", MICA_E_FORMAT, "no weight_map"},
    {"{\"weight_map\":{}}", MICA_E_FORMAT, "no weight_map"},
    {"{\"weight_map\":{\"a\":5}}", MICA_E_FORMAT, "weight_map gives no usable file for tensor a"},
    {"{\"weight_map\":{\"a\":\"\"}}", MICA_E_FORMAT, "no usable file for tensor a"},
    {"{\"weight_map\":{\"a\\n\":\"one.safetensors\"}}", MICA_E_FORMAT, "an invalid tensor name"},
    {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", MICA_E_FORMAT,
     "shard '../one.safetensors' is refused: shards must lie beside their index"},
    {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", MICA_E_FORMAT, "shard '/etc/passwd' is refused"},
    {"{\"weight_map\":{\"a\":\"sub\\\\one.safetensors\"}}", MICA_E_FORMAT, "is refused"},
    {"{\"weight_map\":{\"a\":\"..\"}}", MICA_E_FORMAT, "shard '..' is refused"},
    {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", MICA_E_MISSING,
     "shard gone.safetensors is missing"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"x\":\"gone\",\"y\":\"lost\",\"z\":\"lost\"}}",
     MICA_E_MISSING, "2 problems:\nshard gone is missing\nshard lost is missing"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}", MICA_E_MISSING,
     "tensor b is not in shard one.safetensors"},
    {"{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}", MICA_E_MISSING,
     "one.safetensors, the index says two.safetensors"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\",\"c\":\"dup."
     "safetensors\"}}",
     MICA_E_FORMAT, "tensor a is in both "},
    {"{\"weight_map\":{\"a\":\"torch.bin\"}}", MICA_E_FORMAT, "torch.bin: truncated or damaged"},
};

static void test_bad_indices(void **state)
{
    (void)state;
    folder f = folder_make();
    folder_write_image(&f, "one.safetensors", HEADER("a"), 8);
    folder_write_image(&f, "two.safetensors", HEADER("b"), 8);
    folder_write_image(&f, "dup.safetensors", HEADER("a"), 8);
    folder_write(&f, "torch.bin", "PK\003\004\0\0\010\010\0\0", 10);
    for (size_t i = 0; i < MICA_ARRAY_LEN(BAD_INDICES); i++) {
        folder_write_text(&f, INDEX_NAME, BAD_INDICES[i].json);
        expect_open_fails(f.path, BAD_INDICES[i].status, BAD_INDICES[i].text);
    }
    folder_remove(&f);
}

/* 20 absent tensors: the count is told, the first 8 are named. */
static void test_index_lists_problems(void **state)
{
    (void)state;
    folder f = folder_make();
    char json[2048];
    size_t n = (size_t)snprintf(json, sizeof json, "{\"weight_map\":{\"a\":\"one.safetensors\"");
    for (int i = 0; i < 20; i++)
        n += (size_t)snprintf(json + n, sizeof json - n, ",\"t%02d\":\"one.safetensors\"", i);
    snprintf(json + n, sizeof json - n, "}}");
    folder_write_text(&f, INDEX_NAME, json);
    folder_write_image(&f, "one.safetensors", HEADER("a"), 8);
    expect_open_fails(f.path, MICA_E_MISSING,
                      "20 problems, the first 8:\ntensor t00 is not in shard");
    mica_weights *w;
    mica_err err;
    mica_weights_open(&w, f.path, &err);
    assert_non_null(strstr(err.text, "tensor t07"));
    assert_null(strstr(err.text, "tensor t08"));
    folder_remove(&f);
}

/* One network in one file and in two: the same identity. */
static void test_hash_ignores_sharding(void **state)
{
    (void)state;
    folder f = folder_make();
    char whole[17], parts[17];
    image both = image_make("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                            "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
                            16);
    memcpy(both.data + both.size - 8, both.data + both.size - 16, 8);
    folder_write(&f, "x.safetensors", both.data, both.size);
    free(both.data);
    mica_weights *w = open_ok(f.path);
    mica_weights_hash(w, whole);
    mica_weights_close(&w);
    assert_int_equal(remove(folder_path(&f, "x.safetensors")), 0);
    folder_write_image(&f, "1.safetensors", HEADER("b"), 8);
    folder_write_image(&f, "2.safetensors", HEADER("a"), 8);
    w = open_ok(f.path);
    mica_weights_hash(w, parts);
    mica_weights_close(&w);
    assert_string_equal(whole, parts);
    folder_remove(&f);
}

/* ---- the models of the golden vectors ---- */

typedef struct golden_part {
    const char *path;
    size_t tensors;
    const char *name; /* one tensor ... */
    int ndim;         /* ... and its number of dimensions */
} golden_part;

static const golden_part GOLDEN[] = {
    {"qwen_image/model/transformer", 0, "img_in.weight", 2},
    {"qwen_image/model/transformer/diffusion_pytorch_model.safetensors.index.json", 0,
     "norm_out.linear.bias", 1},
    {"qwen_image/model/text_encoder", 0, NULL, 0},
    {"qwen_image/model/vae", 194, "decoder.conv_in.weight", 5},
    {"qwen_image/edit_model/transformer", 0, "img_in.weight", 2},
    {"qwen_image/edit_model/text_encoder", 0, NULL, 0},
    {"primitives/torch_randn.safetensors", 90, "randn.seed0.n1.float32", 1},
};

static void test_golden_models(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(GOLDEN); i++) {
        const golden_part *g = &GOLDEN[i];
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", MICA_TEST_DATA, g->path);
        mica_weights *w = open_ok(path);
        assert_true(mica_weights_count(w) > 0);
        if (g->tensors > 0)
            assert_int_equal(mica_weights_count(w), g->tensors);
        if (g->name != NULL) {
            const mica_tensor *t = mica_weights_find(w, g->name);
            assert_non_null(t);
            assert_int_equal(t->ndim, g->ndim);
        }
        mica_weights_close(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_file),
        cmocka_unit_test(test_absent_and_empty),
        cmocka_unit_test(test_folders_of_other_things),
        cmocka_unit_test(test_unindexed_files),
        cmocka_unit_test(test_variants_are_passed_over),
        cmocka_unit_test(test_numbered_without_index),
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_index_by_bare_name),
        cmocka_unit_test(test_bad_indices),
        cmocka_unit_test(test_index_lists_problems),
        cmocka_unit_test(test_hash_ignores_sharding),
        cmocka_unit_test(test_golden_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
