/* test_qwen_vision.c - what the vision tower takes: configurations, pictures as patches, tensors; and the
 * sizes that references are scaled to. Numbers of the tower itself: tests/golden. */
#include "golden_file.h"

#include "base/mem.h"
#include "media/resize.h"
#include "models/qwen_image/qwen_image_edit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CASE "qwen_image/cases/edit_plus_zero_cond"

/* ------------------------------------------------------------------------ pictures -- */

/* The reference's patches of the case's picture: 72 x 96, scaled to 96 x 128 by the pipeline. */
static void test_pixels(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_picture picture = {0}, sized = {0};
    mica_qwen_pixels p;
    const mica_qwen_pixels_config c = mica_qwen_pixels_config_default();
    mica_weights *w = golden_open(CASE "/expected.safetensors");
    const mica_tensor *want = mica_weights_find(w, "vision.pixel_values");
    assert_int_equal(mica_picture_read(&picture, MICA_TEST_DATA "/" CASE "/input0.png", &err), 0);
    assert_int_equal(mica_picture_resize(&picture, 96, 128, MICA_RESAMPLE_LANCZOS, &sized, &err),
                     0);
    assert_int_equal(mica_qwen_pixels_make(&c, &sized, &p, &err), 0);
    assert_int_equal(p.h * p.w, want->shape_[0]);
    assert_int_equal(p.columns, want->shape_[1]);
    for (int64_t i = 0; i < mica_tensor_count(want); i++)
        assert_true(fabsf(p.rows[i] - mica_tensor_read_f32(want, i)) <= 1e-6f);
    mica_qwen_pixels_deinit(&p);
    mica_picture_deinit(&sized);
    mica_picture_deinit(&picture);
    mica_weights_close(&w);
}

/* smart_resize of the reference's processor. */
static void test_fit(void **state)
{
    (void)state;
    static const struct {
        int width, height, to_width, to_height, most;
    } CASES[] = {{96, 128, 84, 140, 0},        {1024, 1024, 1036, 1036, 0}, {384, 384, 392, 392, 0},
                 {42, 70, 56, 56, 0},          {14, 300, 28, 280, 0},       {10, 10, 56, 56, 0},
                 {4096, 4096, 3584, 3584, 0},  {8000, 100, 8008, 112, 0},   {98, 14, 168, 28, 0},
                 {300, 700, 196, 476, 100000}, {30, 5000, 28, 4060, 100000}};
    mica_err err = {0};
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES); i++) {
        mica_qwen_pixels_config c = mica_qwen_pixels_config_default();
        int width = 0, height = 0;
        if (CASES[i].most)
            c.max_pixels = CASES[i].most;
        assert_int_equal(
            mica_qwen_pixels_fit(&c, CASES[i].width, CASES[i].height, &width, &height, &err), 0);
        assert_int_equal(width, CASES[i].to_width);
        assert_int_equal(height, CASES[i].to_height);
    }
    const mica_qwen_pixels_config c = mica_qwen_pixels_config_default();
    int width, height;
    assert_int_equal(mica_qwen_pixels_fit(&c, 9, 40, &width, &height, &err), MICA_E_USAGE);
    assert_int_equal(mica_qwen_pixels_fit(&c, 4000, 19, &width, &height, &err), MICA_E_USAGE);
    assert_non_null(strstr(err.text, "4000 x 19"));
}

/* calculate_dimensions of the reference's pipelines. */
static void test_areas(void **state)
{
    (void)state;
    static const struct {
        int area, width, height, to_width, to_height;
    } CASES[] = {{1 << 20, 1, 1, 1024, 1024},
                 {1 << 20, 1920, 1080, 1376, 768},
                 {147456, 1080, 1920, 288, 512},
                 {4096, 72, 96, 64, 64},
                 {6400, 120, 88, 96, 64},
                 {1 << 20, 3, 4, 896, 1184},
                 {147456, 4000, 1000, 768, 192},
                 {1 << 20, 47, 53, 960, 1088},
                 {2304, 1, 1, 64, 64} /* 48 is a half: to even */};
    mica_err err = {0};
    mica_qwen_image_area a;
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES); i++) {
        assert_int_equal(
            mica_qwen_image_fit_area(CASES[i].area, CASES[i].width, CASES[i].height, &a, &err), 0);
        assert_int_equal(a.width, CASES[i].to_width);
        assert_int_equal(a.height, CASES[i].to_height);
    }
    assert_int_equal(mica_qwen_image_fit_area(4096, 1000, 10, &a, &err), MICA_E_USAGE);
    assert_int_equal(mica_qwen_image_fit_area(1 << 30, 1, 1, &a, &err), MICA_E_USAGE);
    assert_int_equal(mica_qwen_image_fit_area(1 << 20, 60000, 1, &a, &err), MICA_E_USAGE);
}

static void test_pixels_alloc_fail(void **state)
{
    (void)state;
    static uint8_t rgb[64 * 48 * 3];
    const mica_picture picture = {64, 48, 3, rgb};
    const mica_qwen_pixels_config c = mica_qwen_pixels_config_default();
    mica_qwen_pixels p;
    for (uint64_t n = 1;; n++) {
        mica_err err = {0};
        mica_mem_fail_at(n);
        const mica_status st = mica_qwen_pixels_make(&c, &picture, &p, &err);
        mica_mem_fail_at(0);
        if (!st) {
            assert_true(n > 8);
            mica_qwen_pixels_deinit(&p);
            return;
        }
        assert_int_equal(st, MICA_E_NOMEM);
        assert_null(p.rows);
    }
}

/* ------------------------------------------------------------------- configurations -- */

static void expect_pixels(const char *json, mica_status status, const char *word)
{
    mica_qwen_pixels_config c;
    mica_err err = {0};
    const mica_status st = mica_qwen_pixels_config_parse(&c, "p.json", json, strlen(json), &err);
    if (st != status || !strstr(err.text, word))
        fail_msg("%s: got %d %s", json, st, err.text);
}

static void test_pixels_configs(void **state)
{
    (void)state;
    mica_qwen_pixels_config c;
    mica_err err = {0};
    const char *newer = "{\"size\": {\"shortest_edge\": 100, \"longest_edge\": 5000}, "
                        "\"image_mean\": [0.5, 0.5, 0.5], \"patch_size\": 16}";
    assert_int_equal(mica_qwen_pixels_config_parse(&c, "n", newer, strlen(newer), &err), 0);
    assert_int_equal(c.min_pixels, 100);
    assert_int_equal(c.max_pixels, 5000);
    assert_int_equal(c.patch, 16);
    assert_true(c.mean[2] == 0.5 && c.std[2] > 0.2757 && c.std[2] < 0.2758);
    expect_pixels("{}", MICA_OK, "");
    expect_pixels("{\"size\": {\"shortest_edge\": 9}, \"min_pixels\": 20}", MICA_OK, "");
    expect_pixels("{\"do_resize\": false}", MICA_E_UNSUPPORTED, "do_resize");
    expect_pixels("{\"do_convert_rgb\": 1}", MICA_E_FORMAT, "do_convert_rgb");
    expect_pixels("{\"resample\": 2}", MICA_E_UNSUPPORTED, "bicubic");
    expect_pixels("{\"rescale_factor\": 0}", MICA_E_FORMAT, "rescale_factor");
    expect_pixels("{\"image_mean\": [0.5, 0.5]}", MICA_E_FORMAT, "2 entries");
    expect_pixels("{\"image_std\": [0.5, 0, 0.5]}", MICA_E_FORMAT, "image_std[1]");
    expect_pixels("{\"min_pixels\": 10, \"max_pixels\": 9}", MICA_E_FORMAT, "above");
    expect_pixels("{\"max_pixels\": 1e18}", MICA_E_FORMAT, "max_pixels");
    expect_pixels("{\"patch_size\": 0}", MICA_E_FORMAT, "patch_size");
    expect_pixels("{\"merge_size\": 65}", MICA_E_FORMAT, "merge_size");
    expect_pixels("[", MICA_E_FORMAT, "p.json");
}

static mica_weights *empty_weights(void)
{
    mica_weights *w = NULL;
    mica_err err = {0};
    assert_int_equal(mica_weights_open_empty(&w, &err), MICA_OK);
    return w;
}

static void expect_tower(const char *vision, mica_status status, const char *word)
{
    char path[] = "/tmp/mica-config-XXXXXX", json[512];
    mica_weights *w = empty_weights();
    mica_qwen_vision_config c;
    mica_err err = {0};
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    snprintf(json, sizeof json, "{\"vision_config\": %s}", vision);
    assert_int_equal(write(fd, json, strlen(json)), (ssize_t)strlen(json));
    close(fd);
    const mica_status st = mica_qwen_vision_config_read(&c, path, w, &err);
    if (st != status || !strstr(err.text, word))
        fail_msg("%s: got %d %s", json, st, err.text);
    unlink(path);
    mica_weights_close(&w);
}

static void test_tower_configs(void **state)
{
    (void)state;
    expect_tower("{}", MICA_OK, "");
    expect_tower("{\"depth\": 8, \"fullatt_block_indexes\": [0, 7]}", MICA_OK, "");
    expect_tower("{\"depth\": 7, \"fullatt_block_indexes\": [7]}", MICA_E_FORMAT, "layer 7");
    expect_tower("{\"depth\": 65}", MICA_E_FORMAT, "depth");
    expect_tower("{\"depth\": 0}", MICA_E_FORMAT, "depth");
    expect_tower("{\"hidden_act\": \"gelu\"}", MICA_E_UNSUPPORTED, "gelu");
    expect_tower("{\"in_channels\": 4}", MICA_E_FORMAT, "4 channels");
    expect_tower("{\"num_heads\": 9}", MICA_E_FORMAT, "9 heads");
    expect_tower("{\"num_heads\": 640}", MICA_E_FORMAT, "640 heads"); /* of 2: no row and column */
    expect_tower("{\"window_size\": 27}", MICA_E_FORMAT, "window of 27");
    expect_tower("{\"patch_size\": 1000}", MICA_E_FORMAT, "patch_size");
}

static void add(mica_weights *w, const char *name, int ndim, const int64_t *shape)
{
    static float nothing[1]; /* shapes are read, data is not */
    mica_err err = {0};
    const mica_tensor t = mica_tensor_make(nothing, MICA_DTYPE_F32, ndim, shape);
    assert_int_equal(mica_weights_add(w, name, &t, &err), MICA_OK);
}

/* Files without a configuration: heads leave no trace, so that only the released number is taken. */
static void test_tower_derived(void **state)
{
    (void)state;
    mica_qwen_vision_config c;
    mica_err err = {0};
    mica_weights *tiny = golden_open("qwen_image/edit_model/text_encoder"), *w = empty_weights();
    assert_int_equal(mica_qwen_image_text_rename(tiny, &err), 0);
    assert_true(mica_qwen_vision_is_present(tiny));
    assert_int_equal(mica_qwen_vision_config_read(&c, NULL, tiny, &err), MICA_E_FORMAT);
    assert_non_null(strstr(err.text, "config.json"));
    assert_int_equal(c.depth, 3);
    assert_int_equal(c.out_width, 48);
    assert_false(mica_qwen_vision_is_present(w));
    add(w, "visual.patch_embed.proj.weight", 5, (const int64_t[]){1280, 3, 2, 14, 14});
    add(w, "visual.blocks.0.mlp.gate_proj.weight", 2, (const int64_t[]){3420, 1280});
    add(w, "visual.blocks.31.norm1.weight", 1, (const int64_t[]){1280});
    add(w, "visual.merger.mlp.2.weight", 2, (const int64_t[]){3584, 5120});
    assert_int_equal(mica_qwen_vision_config_read(&c, NULL, w, &err), MICA_OK);
    const mica_qwen_vision_config d = mica_qwen_vision_config_default();
    assert_memory_equal(&c, &d, sizeof c);
    mica_weights_close(&tiny);
    mica_weights_close(&w);
}

/* ------------------------------------------------------------------------ prompts -- */

static const mica_qwen_image_tokens PICTURES[] = {{2, 3}, {3, 1}};

static void edit_prompt(mica_qwen_image_prompt *p, const char *text, int max_tokens,
                        mica_status status, const char *word)
{
    mica_tokenizer *t = NULL;
    mica_err err = {0};
    const mica_qwen_image_edit_prompt prompt = {.text = text,
                                                .pictures = PICTURES,
                                                .count = 2,
                                                .numbered = true,
                                                .grid = true,
                                                .max_tokens = max_tokens};
    assert_int_equal(
        mica_tokenizer_open(&t, MICA_TEST_DATA "/qwen_image/edit_model/tokenizer", &err), 0);
    const mica_status st = mica_qwen_image_edit_tokenize(t, &prompt, p, &err);
    if (st != status || !strstr(err.text, word))
        fail_msg("got %d %s", st, err.text);
    mica_tokenizer_close(&t);
}

/* Rows of both pictures and the positions around them, as the drawing in
 * qwen_image_edit_text.h has it. */
static void test_positions(void **state)
{
    (void)state;
    mica_qwen_image_prompt p;
    edit_prompt(&p, "x", 1024, MICA_OK, "");
    const int64_t a = p.picture_at_[0], b = p.picture_at_[1];
    assert_int_equal(p.picture_rows, 9);
    assert_true(a > 64 && b > a + 6);
    for (int64_t i = 0; i < 6; i++) {
        const int32_t *at = p.positions_L3 + 3 * (a + i);
        assert_int_equal(p.ids[a + i], 912);
        assert_int_equal(at[0], a);
        assert_int_equal(at[1], a + i / 3);
        assert_int_equal(at[2], a + i % 3);
    }
    const int32_t start = (int32_t)(b - 6 + 3); /* six rows took three positions */
    for (int64_t i = 0; i < 3; i++) {
        const int32_t *at = p.positions_L3 + 3 * (b + i);
        assert_int_equal(at[0], start);
        assert_int_equal(at[1], start + i);
        assert_int_equal(at[2], start);
    }
    for (int axis = 0; axis < 3; axis++) {
        assert_int_equal(p.positions_L3[3 * (a + 6) + axis], a + 3);
        assert_int_equal(p.positions_L3[3 * (b + 3) + axis], start + 3);
    }
    mica_qwen_image_prompt_deinit(&p);
}

static void test_prompt_limits(void **state)
{
    (void)state;
    mica_qwen_image_prompt p;
    edit_prompt(&p, "look at <|image_pad|>", 1024, MICA_E_USAGE, "<|image_pad|>");
    assert_null(p.ids);
    edit_prompt(&p, "x", 5, MICA_E_USAGE, "no room");
    assert_null(p.ids);
    edit_prompt(&p, "a long prompt about a fox", 30, MICA_OK, "");
    assert_int_equal(p.count, 64 + 9 + 30);
    assert_true(p.full_count > p.count);
    mica_qwen_image_prompt_deinit(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pixels),         cmocka_unit_test(test_fit),
        cmocka_unit_test(test_areas),          cmocka_unit_test(test_pixels_alloc_fail),
        cmocka_unit_test(test_pixels_configs), cmocka_unit_test(test_tower_configs),
        cmocka_unit_test(test_tower_derived),  cmocka_unit_test(test_positions),
        cmocka_unit_test(test_prompt_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
