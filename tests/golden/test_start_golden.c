/* test_start_golden.c - runs that start from a picture: against the reference's numbers, and what
 * masks and new borders promise.
 *
 * The reference is run from a seed (tools/golden/start_cases.py), so these cases also hold the order in
 * which a seed's numbers are used: the VAE's posterior first, then the noise. */
#include "golden_support.h"

#include "media/picture.h"

#include <stdio.h>
#include <string.h>

#define MODEL "qwen_image/model"

static const golden_setup F32 = {0};
static const golden_setup QUIET = {.no_trace = true};

static void run_case(golden_case *c, golden_run *r, const char *system, const char *name)
{
    char folder[64];
    snprintf(folder, sizeof folder, "%s/model", system);
    mica_model *m = golden_model_open_folder(folder);
    golden_case_open(c, system, name);
    golden_generate_ok(r, m, &F32, &c->options);
    golden_assert_case(c, r->trace, 1e-4);
    golden_model_close(&m);
}

static void check_img2img(const char *system)
{
    golden_case c;
    golden_run r;
    run_case(&c, &r, system, "img2img");
    const mica_tensor *picture = mica_weights_find(c.expected, "image_u8");
    assert_int_equal(mica_tensor_size(picture), 3 * r.result.width * r.result.height);
    assert_in_range(
        golden_largest_difference(r.result.rgb, picture->data, mica_tensor_size(picture)), 0, 1);
    golden_run_close(&r);
    golden_case_close(&c);
}

static void test_img2img(void **state)
{
    (void)state;
    check_img2img("qwen_image");
    check_img2img("z_image");
}

/* White pixels are the reference's, black ones the start picture's. */
static void check_inpaint(const char *system)
{
    golden_case c;
    golden_run r;
    mica_err err = {0};
    mica_picture start = {0}, mask = {0};
    int black = 0, white = 0;
    run_case(&c, &r, system, "inpaint");
    assert_int_equal(mica_picture_read(&start, c.inputs[0].path, &err), 0);
    assert_int_equal(mica_picture_read(&mask, c.mask.path, &err), 0);
    const uint8_t *reference = mica_weights_find(c.expected, "image_u8")->data;
    for (int i = 0; i < 3 * r.result.width * r.result.height; i++) {
        if (mask.pixels[i])
            assert_in_range(golden_largest_difference(&r.result.rgb[i], &reference[i], 1), 0, 1);
        else
            assert_int_equal(r.result.rgb[i], start.pixels[i]);
        black += !mask.pixels[i];
        white += mask.pixels[i] == 255;
    }
    assert_true(black > 1000 && white > 1000);
    mica_picture_deinit(&start);
    mica_picture_deinit(&mask);
    golden_run_close(&r);
    golden_case_close(&c);
}

static void test_inpaint(void **state)
{
    (void)state;
    check_inpaint("qwen_image");
    check_inpaint("z_image");
    check_inpaint("flux2_klein"); /* where the start picture is a reference too */
}

/* ------------------------------------------------------------- pictures in memory -- */

static uint8_t test_pixels[50 * 37 * 3];
static const mica_image_input TEST_PICTURE = {.rgb = test_pixels, .width = 50, .height = 37};

static mica_image_options start_options(void)
{
    for (size_t i = 0; i < sizeof test_pixels; i++)
        test_pixels[i] = (uint8_t)(i * 37 / 11 + i / 150 * 3);
    return (mica_image_options){.size = sizeof(mica_image_options),
                                .prompt = "a tree",
                                .steps = 2,
                                .seed = 3,
                                .inputs = &TEST_PICTURE,
                                .input_count = 1};
}

static void generate(golden_run *r, const mica_image_options *o)
{
    mica_model *m = golden_model_open_folder(MODEL);
    golden_generate(r, m, &QUIET, o);
    golden_model_close(&m);
}

/* Sides that the model cannot compute: the result has the picture's size, and what is not
 * repainted is the picture. */
static void test_keeps_odd_size(void **state)
{
    (void)state;
    golden_run r;
    static uint8_t black[50 * 37 * 3];
    const mica_image_input mask = {.rgb = black, .width = 50, .height = 37};
    mica_image_options o = start_options();
    o.mask = &mask;
    generate(&r, &o);
    assert_int_equal(r.status, MICA_OK);
    assert_int_equal(r.result.width, 50);
    assert_int_equal(r.result.height, 37);
    assert_memory_equal(r.result.rgb, test_pixels, sizeof test_pixels);
    golden_run_close(&r);
}

static void test_expand(void **state)
{
    (void)state;
    golden_run r;
    mica_image_options o = start_options();
    memcpy(o.expand_, (int[]){5, 3, 20, 0}, sizeof o.expand_);
    generate(&r, &o);
    assert_int_equal(r.status, MICA_OK);
    assert_int_equal(r.result.width, 75);
    assert_int_equal(r.result.height, 40);
    assert_true(r.result.strength == 1.0);
    for (int y = 0; y < 37; y++)
        assert_memory_equal(r.result.rgb + ((y + 3) * 75 + 5) * 3, test_pixels + y * 150, 150);
    golden_run_close(&r);
}

static void test_grey_mask_mixes(void **state)
{
    (void)state;
    golden_run white, grey;
    static uint8_t level[50 * 37 * 3];
    const mica_image_input mask = {.rgb = level, .width = 50, .height = 37};
    mica_image_options o = start_options();
    o.mask = &mask;
    memset(level, 255, sizeof level);
    generate(&white, &o);
    memset(level, 200, sizeof level);
    generate(&grey, &o);
    assert_int_equal(white.status | grey.status, MICA_OK);
    for (size_t i = 0; i < sizeof level; i++) {
        const int mixed = (white.result.rgb[i] * 200 + test_pixels[i] * 55 + 127) / 255;
        assert_int_equal(grey.result.rgb[i], mixed);
    }
    golden_run_close(&white);
    golden_run_close(&grey);
}

static void test_batch_is_single_runs(void **state)
{
    (void)state;
    golden_run batch, one;
    mica_image_options o = start_options();
    o.strength = 0.7;
    o.batch = 2;
    generate(&batch, &o);
    assert_int_equal(batch.status, MICA_OK);
    o.batch = 1;
    o.seed++;
    generate(&one, &o);
    assert_int_equal(one.status, MICA_OK);
    assert_memory_equal(batch.result.rgb + sizeof test_pixels, one.result.rgb, sizeof test_pixels);
    golden_run_close(&batch);
    golden_run_close(&one);
}

/* -------------------------------------------------------------------- refusals -- */

static void refuse(const mica_image_options *o, mica_status status, const char *text)
{
    golden_run r;
    generate(&r, o);
    assert_int_equal(r.status, status);
    if (!strstr(r.err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", r.err.text, text);
    assert_null(r.result.rgb);
    golden_run_close(&r);
}

static void test_refusals(void **state)
{
    (void)state;
    const mica_image_input twice[] = {TEST_PICTURE, TEST_PICTURE};
    const mica_image_input nothing = {0}, absent = {.path = "/nonexistent/picture.png"};
    mica_image_options o = start_options();
    o.strength = 1.5;
    refuse(&o, MICA_E_USAGE, "strength 1.5 is out of range");
    o = start_options();
    o.inputs = twice;
    o.input_count = 2;
    refuse(&o, MICA_E_USAGE, "2 pictures were given");
    o = start_options();
    o.inputs = &nothing;
    refuse(&o, MICA_E_USAGE, "neither a path nor pixels");
    o.inputs = &absent;
    refuse(&o, MICA_E_MISSING, "/nonexistent/picture.png");
    o = start_options();
    o.input_count = 0;
    o.strength = 0.5;
    refuse(&o, MICA_E_USAGE, "needs a picture to start from");
    o = start_options();
    o.expand_[2] = -1;
    refuse(&o, MICA_E_USAGE, "a border of -1 pixels");
    o.expand_[2] = 8192;
    refuse(&o, MICA_E_USAGE, "the longest side is 8192");
    memcpy(o.expand_, (int[]){8192, 8192, 8192, 8192}, sizeof o.expand_);
    o.width = o.height = 64;
    refuse(&o, MICA_E_USAGE, "more than 268435456 pixels");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_img2img),         cmocka_unit_test(test_inpaint),
        cmocka_unit_test(test_keeps_odd_size),  cmocka_unit_test(test_expand),
        cmocka_unit_test(test_grey_mask_mixes), cmocka_unit_test(test_batch_is_single_runs),
        cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
