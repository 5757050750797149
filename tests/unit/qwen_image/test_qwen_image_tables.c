/* test_qwen_image_tables.c - rotary tables against the reference; what configurations are
 * taken, derived and refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "models/qwen_image/qwen_image_config.h"
#include "models/qwen_image/qwen_image_rope.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const int AXES[3] = {16, 56, 56};

static void compare(mica_backend *be, const mica_weights *w, const char *name, const char *part,
                    const mica_tensor *got)
{
    char key[64];
    static float host[4096];
    double d = 0.0, norm = 0.0;
    snprintf(key, sizeof key, "%s.%s", name, part);
    const mica_tensor *expected = mica_weights_find(w, key);
    assert_non_null(expected);
    assert_int_equal(got->shape_[0], expected->shape_[0]);
    assert_int_equal(got->shape_[1], expected->shape_[1]);
    mica_download_f32(be, host, got);
    for (int64_t i = 0; i < mica_tensor_count(expected); i++) {
        const double e = mica_tensor_read_f32(expected, i);
        d += (host[i] - e) * (host[i] - e);
        norm += e * e;
    }
    if (!(sqrt(d / norm) <= 1e-6))
        fail_msg("%s: relative L2 %.3g", key, sqrt(d / norm));
}

static void check_rope(mica_backend *be, const mica_weights *w, const char *name,
                       const mica_qwen_image_grid *grids, int count, int text)
{
    mica_qwen_image_rope rope;
    mica_err err = {0};
    assert_int_equal(
        mica_qwen_image_rope_build(be, MICA_POOL_SESSION, AXES, grids, count, text, &rope, &err),
        MICA_OK);
    compare(be, w, name, "img_cos", &rope.img.cos_Lk);
    compare(be, w, name, "img_sin", &rope.img.sin_Lk);
    compare(be, w, name, "txt_cos", &rope.txt.cos_Lk);
    compare(be, w, name, "txt_sin", &rope.txt.sin_Lk);
}

static void test_rope(void **state)
{
    (void)state;
    mica_backend *be = NULL;
    mica_weights *w = NULL;
    mica_qwen_image_rope rope;
    mica_err err = {0};
    const mica_backend_options o = {.device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32};
    assert_int_equal(mica_backend_open(&be, &o, &err), MICA_OK);
    assert_int_equal(mica_weights_open(&w, MICA_TEST_DATA "/primitives/rope.safetensors", &err),
                     MICA_OK);
    check_rope(be, w, "qwen_image_even", (const mica_qwen_image_grid[]){{4, 6, 0}}, 1, 9);
    check_rope(be, w, "qwen_image_odd", (const mica_qwen_image_grid[]){{7, 3, 0}}, 1, 12);
    check_rope(be, w, "qwen_image_two_images", (const mica_qwen_image_grid[]){{4, 5, 0}, {3, 8, 1}},
               2, 7);
    /* 8,000 patches in a row put the last text token at position 4,000 + 200. */
    const mica_qwen_image_grid wide = {1, 8000, 0};
    assert_int_equal(
        mica_qwen_image_rope_build(be, MICA_POOL_SESSION, AXES, &wide, 1, 200, &rope, &err),
        MICA_E_USAGE);
    mica_weights_close(&w);
    mica_backend_close(&be);
}

/* ---------------------------------------------------------------- configuration -- */

static void add(mica_weights *w, const char *name, int64_t rows, int64_t columns)
{
    static float nothing[1]; /* shapes are read, data is not */
    mica_err err = {0};
    const mica_tensor t = columns ? mica_tensor_2d(nothing, MICA_DTYPE_F32, rows, columns)
                                  : mica_tensor_1d(nothing, MICA_DTYPE_F32, rows);
    assert_int_equal(mica_weights_add(w, name, &t, &err), MICA_OK);
}

static mica_weights *full_size(int64_t channels)
{
    mica_weights *w = NULL;
    mica_err err = {0};
    assert_int_equal(mica_weights_open_empty(&w, &err), MICA_OK);
    add(w, "img_in.weight", 3072, channels);
    add(w, "txt_in.weight", 3072, 3584);
    add(w, "transformer_blocks.0.attn.norm_q.weight", 128, 0);
    add(w, "transformer_blocks.0.img_mlp.net.0.proj.weight", 12288, 3072);
    add(w, "transformer_blocks.59.attn.norm_q.weight", 128, 0);
    return w;
}

static void test_derived_config(void **state)
{
    (void)state;
    mica_weights *w = full_size(64);
    mica_qwen_image_config c;
    mica_err err = {0};
    assert_int_equal(mica_qwen_image_config_read(&c, NULL, w, &err), MICA_OK);
    const mica_qwen_image_config d = mica_qwen_image_config_default();
    assert_int_equal(c.layers, d.layers);
    assert_int_equal(c.heads, d.heads);
    assert_int_equal(c.head_dim, d.head_dim);
    assert_int_equal(c.width, d.width);
    assert_int_equal(c.ffn, d.ffn);
    assert_int_equal(c.text_width, d.text_width);
    assert_int_equal(c.in_channels, d.in_channels);
    assert_memory_equal(c.axes, d.axes, sizeof c.axes);
    mica_weights_close(&w);
}

static void expect_config(const char *json, mica_status status, const char *word)
{
    char path[] = "/tmp/mica-config-XXXXXX";
    mica_weights *w = full_size(64);
    mica_qwen_image_config c;
    mica_err err = {0};
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, json, strlen(json)), (ssize_t)strlen(json));
    close(fd);
    const mica_status st = mica_qwen_image_config_read(&c, path, w, &err);
    if (st != status || !strstr(err.text, word))
        fail_msg("%s: got %d %s", json, st, err.text);
    unlink(path);
    mica_weights_close(&w);
}

static void test_configs(void **state)
{
    (void)state;
    expect_config("{}", MICA_OK, "");
    expect_config("{\"zero_cond_t\": true}", MICA_OK, "");
    expect_config("{\"guidance_embeds\": true}", MICA_E_UNSUPPORTED, "guidance");
    expect_config("{\"use_layer3d_rope\": true}", MICA_E_UNSUPPORTED, "together");
    expect_config("{\"use_additional_t_cond\": true}", MICA_E_UNSUPPORTED, "together");
    expect_config("{\"use_additional_t_cond\": true, \"use_layer3d_rope\": true}", MICA_OK, "");
    expect_config("{\"_class_name\": \"FluxTransformer2DModel\"}", MICA_E_UNSUPPORTED, "Flux");
    expect_config("{\"num_layers\": 0}", MICA_E_FORMAT, "num_layers");
    expect_config("{\"num_layers\": 1e30}", MICA_E_FORMAT, "num_layers");
    expect_config("{\"attention_head_dim\": \"x\"}", MICA_E_FORMAT, "attention_head_dim");
    expect_config("{\"axes_dims_rope\": [16, 56, 54]}", MICA_E_FORMAT, "add up");
    expect_config("{\"axes_dims_rope\": [16, 56]}", MICA_E_FORMAT, "axes_dims_rope");
    expect_config("{\"axes_dims_rope\": [15, 57, 56]}", MICA_E_FORMAT, "even");
    expect_config("{\"out_channels\": 17}", MICA_E_FORMAT, "out_channels");
}

/* The text encoder of that config.json, whose first section must be `first`. */
static void expect_sections(const char *json, mica_status status, const char *word, int first)
{
    char path[] = "/tmp/mica-config-XXXXXX";
    mica_weights *w = NULL;
    mica_lm_config c;
    mica_err err = {0};
    assert_int_equal(mica_weights_open_empty(&w, &err), MICA_OK);
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, json, strlen(json)), (ssize_t)strlen(json));
    close(fd);
    const mica_status st = mica_qwen_image_text_config_read(&c, path, w, &err);
    if (st != status || !strstr(err.text, word))
        fail_msg("%s: got %d %s", json, st, err.text);
    if (!st)
        assert_int_equal(c.sections[0], first);
    unlink(path);
    mica_weights_close(&w);
}

static void test_text_sections(void **state)
{
    (void)state;
    expect_sections("{}", MICA_OK, "", 16);
    expect_sections("{\"hidden_size\": 64, \"num_attention_heads\": 4, \"num_key_value_heads\": 4}",
                    MICA_OK, "", 0);
    expect_sections("{\"rope_scaling\": {\"mrope_section\": [20, 22, 22]}}", MICA_OK, "", 20);
    expect_sections("{\"rope_scaling\": null}", MICA_OK, "", 16);
    expect_sections("{\"text_config\": {\"rope_parameters\": {\"mrope_section\": [24, 20, 20]}}}",
                    MICA_OK, "", 24);
    expect_sections("{\"rope_scaling\": {\"mrope_section\": [16, 24]}}", MICA_E_FORMAT, "2 entries",
                    0);
    expect_sections("{\"rope_scaling\": {\"mrope_section\": [-16, 40, 40]}}", MICA_E_FORMAT, "-16",
                    0);
    expect_sections("{\"rope_scaling\": {\"mrope_section\": [16, 24, 23]}}", MICA_E_FORMAT,
                    "add up", 0);
}

static void test_variant_by_shape(void **state)
{
    (void)state;
    mica_weights *w = full_size(128);
    mica_qwen_image_config c;
    mica_err err = {0};
    assert_int_equal(mica_qwen_image_config_read(&c, NULL, w, &err), MICA_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "128 channels"));
    mica_weights_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_derived_config),
        cmocka_unit_test(test_configs),
        cmocka_unit_test(test_text_sections),
        cmocka_unit_test(test_variant_by_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
