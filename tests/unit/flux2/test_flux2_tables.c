/* test_flux2_tables.c - FLUX.2-klein: sizes of both released models from names and shapes alone,
 * configurations taken and refused, positions and rotary tables, sizes of references. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/mem.h"
#include "models/flux2/flux2_reference.h"
#include "models/flux2/flux2_rope.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* -------------------------------------------------------------------- sizes -- */

/* Shapes are read, data is not there. */
static void add(mica_weights *w, const char *name, int64_t rows, int64_t columns)
{
    mica_err err = {0};
    const mica_tensor t = columns ? mica_tensor_2d(NULL, MICA_DTYPE_F32, rows, columns)
                                  : mica_tensor_1d(NULL, MICA_DTYPE_F32, rows);
    if (mica_weights_add(w, name, &t, &err))
        fail_msg("%s", err.text);
}

/* What tells a released model's sizes, in BFL's names. */
static mica_weights *bfl_names(int64_t D, int64_t E, int last_double, int last_single)
{
    char name[128];
    mica_weights *w = NULL;
    mica_err err = {0};
    assert_int_equal(mica_weights_open_empty(&w, &err), MICA_OK);
    add(w, "img_in.weight", D, 128);
    add(w, "txt_in.weight", D, E);
    add(w, "double_stream_modulation_img.lin.weight", 6 * D, D);
    add(w, "final_layer.adaLN_modulation.1.weight", 2 * D, D);
    add(w, "double_blocks.0.img_attn.norm.query_norm.scale", 128, 0);
    add(w, "double_blocks.0.img_attn.qkv.weight", 3 * D, D);
    add(w, "double_blocks.0.img_mlp.2.weight", D, 3 * D);
    add(w, "single_blocks.0.linear1.weight", 9 * D, D);
    snprintf(name, sizeof name, "double_blocks.%d.img_attn.proj.weight", last_double);
    add(w, name, D, D);
    snprintf(name, sizeof name, "single_blocks.%d.linear2.weight", last_single);
    add(w, name, D, 4 * D);
    assert_true(mica_flux2_is_transformer(w));
    if (mica_flux2_rename(w, &err))
        fail_msg("%s", err.text);
    return w;
}

static int64_t rows_of(const mica_weights *w, const char *name)
{
    const mica_tensor *t = mica_weights_find(w, name);
    if (!t)
        fail_msg("no %s", name);
    return t->shape_[0];
}

static void check_release(int64_t D, int64_t E, int doubles, int singles, int64_t heads)
{
    mica_flux2_config c;
    mica_err err = {0};
    mica_weights *w = bfl_names(D, E, doubles - 1, singles - 1);
    if (mica_flux2_config_read(&c, NULL, w, &err))
        fail_msg("%s", err.text);
    assert_true(c.layers == doubles && c.single_layers == singles && c.heads == heads);
    assert_true(c.width == D && c.ffn == 3 * D && c.text_width == E && c.head_dim == 128);
    assert_true(c.in_channels == 128 && c.axes[0] == 32 && c.axes[3] == 32 && c.theta == 2000.0);
    assert_int_equal(rows_of(w, "transformer_blocks.0.attn.to_v.weight"), D);
    assert_int_equal(rows_of(w, "norm_out.shift.weight"), D);
    assert_int_equal(rows_of(w, "single_transformer_blocks.0.attn.qkv.weight"), 3 * D);
    assert_int_equal(rows_of(w, "single_transformer_blocks.0.attn.mlp.weight"), 6 * D);
    assert_null(mica_weights_find(w, "norm_out.shift_scale.weight"));
    mica_weights_close(&w);
}

static void test_released_sizes(void **state)
{
    (void)state;
    check_release(3072, 7680, 5, 20, 24);
    check_release(4096, 12288, 8, 24, 32);
    const mica_flux2_config d = mica_flux2_config_default();
    assert_true(d.width == 3072 && d.layers == 5 && d.single_layers == 20);
}

static mica_status read_text(const char *text, mica_flux2_config *c, mica_err *err)
{
    char path[] = "/tmp/mica_flux2_XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    mica_weights *w = bfl_names(3072, 7680, 4, 19);
    const mica_status st = mica_flux2_config_read(c, path, w, err);
    mica_weights_close(&w);
    unlink(path);
    return st;
}

static void test_config(void **state)
{
    (void)state;
    static const char *const REFUSED[][2] = {
        {"{\"guidance_embeds\": true}", "FLUX.2-dev"},
        {"{\"_class_name\": \"FluxTransformer2DModel\"}", "FluxTransformer2DModel"},
        {"{\"axes_dims_rope\": [32, 32, 32]}", "axes_dims_rope"},
        {"{\"axes_dims_rope\": [32, 32, 32, 31]}", "axes_dims_rope"},
        {"{\"axes_dims_rope\": [16, 32, 32, 32]}", "does not add up"},
        {"{\"num_layers\": 0}", "num_layers"},
        {"{\"patch_size\": 2}", "patch_size"},
        {"{\"out_channels\": 64}", "out_channels"},
        {"{\"joint_attention_dim\": 7681}", "7681"},
        {"{\"eps\": 0.001}", "eps"},
    };
    mica_flux2_config c;
    mica_err err = {0};
    if (read_text("{\"num_layers\": 3, \"mlp_ratio\": 2.5, \"guidance_embeds\": false}", &c, &err))
        fail_msg("%s", err.text);
    assert_true(c.layers == 3 && c.ffn == 7680);
    for (size_t i = 0; i < MICA_ARRAY_LEN(REFUSED); i++) {
        err = (mica_err){0};
        if (!read_text(REFUSED[i][0], &c, &err) || !strstr(err.text, REFUSED[i][1]))
            fail_msg("%s: \"%s\" does not say \"%s\"", REFUSED[i][0], err.text, REFUSED[i][1]);
    }
}

/* ------------------------------------------------------------------- tables -- */

static void test_positions(void **state)
{
    (void)state;
    static const mica_flux2_grid GRIDS[] = {{0, 2, 3}, {10, 1, 2}};
    static const int32_t EXPECTED[10][4] = {
        {0, 0, 0, 0}, {0, 0, 1, 0},  {0, 0, 2, 0},  {0, 1, 0, 0}, {0, 1, 1, 0},
        {0, 1, 2, 0}, {10, 0, 0, 0}, {10, 0, 1, 0}, {0, 0, 0, 0}, {0, 0, 0, 1}};
    int32_t *positions = NULL;
    int64_t rows;
    mica_err err = {0};
    assert_int_equal(mica_flux2_positions(GRIDS, 2, 2, &positions, &rows, &err), MICA_OK);
    assert_int_equal(rows, 10);
    assert_memory_equal(positions, EXPECTED, sizeof EXPECTED);
    mica_mem_free(positions);
}

/* cos and sin of f64 angles, far out: position 4095 of the last axis. */
static void test_rope(void **state)
{
    (void)state;
    const mica_flux2_config c = mica_flux2_config_default();
    static const int32_t POSITIONS[2][4] = {{10, 3, 255, 0}, {0, 0, 0, 4095}};
    const mica_backend_options options = {.threads = 1};
    mica_backend *be = NULL;
    mica_rope_table table;
    mica_err err = {0};
    assert_int_equal(mica_backend_open(&be, &options, &err), MICA_OK);
    assert_int_equal(
        mica_flux2_rope_build(be, MICA_POOL_SESSION, &c, POSITIONS[0], 2, NULL, NULL, &table, &err),
        MICA_OK);
    float cosines[2][64], sines[2][64];
    mica_download_f32(be, cosines[0], &table.cos_Lk);
    mica_download_f32(be, sines[0], &table.sin_Lk);
    for (int l = 0; l < 2; l++)
        for (int i = 0; i < 64; i++) {
            const double angle = POSITIONS[l][i / 16] * pow(2000.0, -(i % 16) / 16.0);
            assert_true(fabs(cosines[l][i] - cos(angle)) < 1e-7);
            assert_true(fabs(sines[l][i] - sin(angle)) < 1e-7);
        }
    mica_backend_close(&be);
}

/* pipeline_flux2_klein.py, 4. process images: by hand. */
static void test_reference_sizes(void **state)
{
    (void)state;
    static const int CASES[][5] = {
        /* width, height, area, and what comes out */
        {1024, 1024, 0, 1024, 1024}, {1000, 1048, 0, 992, 1040}, {1025, 1024, 0, 1024, 1008},
        {4000, 3000, 0, 1168, 880},  {64, 64, 0, 64, 64},        {512, 64, 8192, 256, 32},
        {65535, 8192, 0, 2896, 352},
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES); i++) {
        const int *k = CASES[i];
        int w, h;
        mica_err err = {0};
        if (mica_flux2_reference_size(k[0], k[1], k[2], &w, &h, &err))
            fail_msg("%s", err.text);
        if (w != k[3] || h != k[4])
            fail_msg("%d x %d: got %d x %d, expected %d x %d", k[0], k[1], w, h, k[3], k[4]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_released_sizes),  cmocka_unit_test(test_config),
        cmocka_unit_test(test_positions),       cmocka_unit_test(test_rope),
        cmocka_unit_test(test_reference_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
