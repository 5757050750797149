/* test_zimage_tables.c - Z-Image: configurations taken and refused, names, rotary tables against the
 * reference's and their limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "models/zimage/zimage_rope.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---------------------------------------------------------------- configuration -- */

/* Shapes are read, data is not there. */
static void add(mica_weights *w, const char *name, int64_t rows, int64_t columns)
{
    mica_err err = {0};
    const mica_tensor t = columns ? mica_tensor_2d(NULL, MICA_DTYPE_F32, rows, columns)
                                  : mica_tensor_1d(NULL, MICA_DTYPE_F32, rows);
    if (mica_weights_add(w, name, &t, &err))
        fail_msg("%s", err.text);
}

/* The released model as ComfyUI names it. */
static mica_weights *full_size(void)
{
    mica_weights *w = NULL;
    mica_err err = {0};
    assert_int_equal(mica_weights_open_empty(&w, &err), MICA_OK);
    add(w, "model.diffusion_model.x_embedder.weight", 3840, 64);
    add(w, "model.diffusion_model.cap_embedder.1.weight", 3840, 2560);
    add(w, "model.diffusion_model.cap_pad_token", 1, 3840);
    add(w, "model.diffusion_model.t_embedder.mlp.0.weight", 1024, 256);
    add(w, "model.diffusion_model.t_embedder.mlp.2.weight", 256, 1024);
    add(w, "model.diffusion_model.noise_refiner.0.attention_norm1.weight", 3840, 0);
    add(w, "model.diffusion_model.noise_refiner.1.attention_norm1.weight", 3840, 0);
    add(w, "model.diffusion_model.layers.0.attention.q_norm.weight", 128, 0);
    add(w, "model.diffusion_model.layers.0.attention.qkv.weight", 3 * 3840, 3840);
    add(w, "model.diffusion_model.layers.0.feed_forward.w1.weight", 10240, 3840);
    add(w, "model.diffusion_model.layers.29.attention.q_norm.weight", 128, 0);
    assert_true(mica_zimage_is_transformer(w));
    if (mica_zimage_rename(w, &err))
        fail_msg("%s", err.text);
    return w;
}

static void test_names(void **state)
{
    (void)state;
    mica_weights *w = full_size();
    static const char *const PARTS[] = {"layers.0.attention.to_q.weight",
                                        "layers.0.attention.to_k.weight",
                                        "layers.0.attention.to_v.weight"};
    for (int i = 0; i < 3; i++) {
        const mica_tensor *t = mica_weights_find(w, PARTS[i]);
        assert_non_null(t);
        assert_int_equal(t->shape_[0], 3840);
    }
    assert_null(mica_weights_find(w, "layers.0.attention.qkv.weight"));
    assert_non_null(mica_weights_find(w, "all_x_embedder.2-1.weight"));
    assert_non_null(mica_weights_find(w, "layers.29.attention.norm_q.weight"));
    mica_weights_close(&w);
}

static void test_derived_config(void **state)
{
    (void)state;
    mica_weights *w = full_size();
    mica_zimage_config c;
    mica_err err = {0};
    assert_int_equal(mica_zimage_config_read(&c, NULL, w, &err), MICA_OK);
    const mica_zimage_config d = mica_zimage_config_default();
    assert_int_equal(c.layers, d.layers);
    assert_int_equal(c.refiners, d.refiners);
    assert_int_equal(c.heads, d.heads);
    assert_int_equal(c.head_dim, d.head_dim);
    assert_int_equal(c.width, d.width);
    assert_int_equal(c.ffn, d.ffn);
    assert_int_equal(c.text_width, d.text_width);
    assert_int_equal(c.channels, d.channels);
    assert_int_equal(c.time_hidden, d.time_hidden);
    assert_int_equal(c.time_width, d.time_width);
    assert_memory_equal(c.axes, d.axes, sizeof c.axes);
    assert_memory_equal(c.axis_lens, d.axis_lens, sizeof c.axis_lens);
    mica_weights_close(&w);
}

static void expect_config(const char *json, mica_status status, const char *word)
{
    char path[] = "/tmp/mica-config-XXXXXX";
    mica_weights *w = full_size();
    mica_zimage_config c;
    mica_err err = {0};
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, json, strlen(json)), (ssize_t)strlen(json));
    close(fd);
    const mica_status st = mica_zimage_config_read(&c, path, w, &err);
    if (st != status || !strstr(err.text, word))
        fail_msg("%s: got %d %s", json, st, err.text);
    unlink(path);
    mica_weights_close(&w);
}

static void test_configs(void **state)
{
    (void)state;
    expect_config("{}", MICA_OK, "");
    expect_config("{\"siglip_feat_dim\": null}", MICA_OK, "");
    expect_config("{\"_class_name\": \"Lumina2Transformer2DModel\"}", MICA_E_UNSUPPORTED,
                  "Lumina2");
    expect_config("{\"all_patch_size\": [1]}", MICA_E_UNSUPPORTED, "all_patch_size");
    expect_config("{\"all_patch_size\": [2, 4]}", MICA_E_UNSUPPORTED, "all_patch_size");
    expect_config("{\"all_f_patch_size\": [2]}", MICA_E_UNSUPPORTED, "all_f_patch_size");
    expect_config("{\"qk_norm\": false}", MICA_E_UNSUPPORTED, "qk_norm");
    expect_config("{\"n_kv_heads\": 10}", MICA_E_UNSUPPORTED, "10 key heads");
    expect_config("{\"n_layers\": 0}", MICA_E_FORMAT, "n_layers");
    expect_config("{\"n_layers\": 1e30}", MICA_E_FORMAT, "n_layers");
    expect_config("{\"dim\": \"x\"}", MICA_E_FORMAT, "dim");
    expect_config("{\"n_heads\": 7}", MICA_E_FORMAT, "do not make a Z-Image");
    expect_config("{\"axes_dims\": [32, 48, 46]}", MICA_E_FORMAT, "do not make up the head size");
    expect_config("{\"axes_dims\": [32, 48]}", MICA_E_FORMAT, "2 entries");
    expect_config("{\"axes_dims\": [31, 49, 48]}", MICA_E_FORMAT, "positive even");
    expect_config("{\"axes_lens\": [0, 512, 512]}", MICA_E_FORMAT, "axes_lens[0] is 0");
    expect_config("{\"rope_theta\": 0}", MICA_E_FORMAT, "rope_theta");
    expect_config("{\"t_scale\": -1}", MICA_E_FORMAT, "t_scale");
}

static void test_strangers(void **state)
{
    (void)state;
    mica_weights *w = NULL;
    mica_zimage_config c;
    mica_err err = {0};
    /* Lumina-Image 2.0: the same names, no learned padding. */
    assert_int_equal(mica_weights_open_empty(&w, &err), MICA_OK);
    add(w, "noise_refiner.0.attention_norm1.weight", 2304, 0);
    add(w, "cap_embedder.1.weight", 2304, 2304);
    assert_false(mica_zimage_is_transformer(w));
    mica_weights_close(&w);
    w = full_size();
    add(w, "siglip_embedder.1.weight", 3840, 1152);
    assert_int_equal(mica_zimage_config_read(&c, NULL, w, &err), MICA_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "Z-Image-Omni"));
    mica_weights_close(&w);
    /* A fused tensor that is not three equal parts. */
    assert_int_equal(mica_weights_open_empty(&w, &err), MICA_OK);
    add(w, "layers.0.attention.qkv.weight", 64, 8);
    assert_int_equal(mica_zimage_rename(w, &err), MICA_E_FORMAT);
    assert_non_null(strstr(err.text, "cannot be split"));
    mica_weights_close(&w);
}

/* -------------------------------------------------------------------- positions -- */

static mica_backend *open_backend(void)
{
    mica_backend *be = NULL;
    mica_err err = {0};
    const mica_backend_options o = {.device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32};
    assert_int_equal(mica_backend_open(&be, &o, &err), MICA_OK);
    return be;
}

/* Rows [0, rows) of a table against the reference's, from row `first` of it on. */
static void compare(const mica_tensor *got, const mica_weights *w, const char *name, int64_t first,
                    int64_t rows)
{
    const mica_tensor *all = mica_weights_find(w, name);
    assert_non_null(all);
    const int64_t half = all->shape_[1];
    assert_int_equal(got->shape_[1], half);
    assert_in_range(rows, 0, got->shape_[0]);
    for (int64_t i = 0; i < rows * half; i++)
        assert_true(fabsf(mica_tensor_read_f32(got, i) -
                          mica_tensor_read_f32(all, first * half + i)) < 1e-6f);
}

/* The guided case: 5 x 3 tokens behind captions of 128 and of 32. The caption's rows in the
 * reference are 128 + 29 of the first item, then those of the second. */
static void test_rope_of_the_reference(void **state)
{
    (void)state;
    mica_zimage_config c = mica_zimage_config_default();
    mica_weights *w = NULL;
    mica_backend *be = open_backend();
    mica_rope_table table;
    mica_err err = {0};
    c.head_dim = 32;
    c.axes[0] = 8;
    c.axes[1] = c.axes[2] = 12;
    assert_int_equal(
        mica_weights_open(&w, MICA_TEST_DATA "/z_image/cases/cfg/expected.safetensors", &err),
        MICA_OK);
    for (int i = 0; i < 2; i++) {
        const int64_t T = i ? 32 : 128;
        assert_int_equal(mica_zimage_rope_picture(be, MICA_POOL_SESSION, &c, 3, 5, T, &table, &err),
                         MICA_OK);
        assert_int_equal(table.cos_Lk.shape_[0], 32);
        compare(&table.cos_Lk, w, "probe.rope.image.cos", i * 32, 32);
        compare(&table.sin_Lk, w, "probe.rope.image.sin", i * 32, 32);
        assert_int_equal(mica_zimage_rope_caption(be, MICA_POOL_SESSION, &c, T, &table, &err),
                         MICA_OK);
        compare(&table.cos_Lk, w, "probe.rope.caption.cos", i * 157, T);
        compare(&table.sin_Lk, w, "probe.rope.caption.sin", i * 157, T);
    }
    mica_weights_close(&w);
    mica_backend_close(&be);
}

static void test_rope_limits(void **state)
{
    (void)state;
    const mica_zimage_config c = mica_zimage_config_default();
    mica_backend *be = open_backend();
    mica_rope_table t;
    mica_err err = {0};
    assert_int_equal(mica_zimage_rope_picture(be, MICA_POOL_SESSION, &c, 1, 512, 512, &t, &err),
                     MICA_OK);
    assert_int_equal(mica_zimage_rope_picture(be, MICA_POOL_SESSION, &c, 1, 513, 512, &t, &err),
                     MICA_E_USAGE);
    assert_non_null(strstr(err.text, "8208 x 16 pixels"));
    assert_int_equal(mica_zimage_rope_picture(be, MICA_POOL_SESSION, &c, 1, 1, 1536, &t, &err),
                     MICA_E_USAGE);
    mica_backend_close(&be);
}

static void test_padded(void **state)
{
    (void)state;
    assert_int_equal(mica_zimage_padded(1), 32);
    assert_int_equal(mica_zimage_padded(32), 32);
    assert_int_equal(mica_zimage_padded(33), 64);
    assert_int_equal(mica_zimage_padded(4096), 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_derived_config),
        cmocka_unit_test(test_configs),
        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_rope_of_the_reference),
        cmocka_unit_test(test_rope_limits),
        cmocka_unit_test(test_padded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
