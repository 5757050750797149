/* test_flux2_golden.c - FLUX.2-klein, prompt and pictures to picture, against the reference's
 * numbers, and what must not change the result: threads, batch, each technique switched off. */
#include "golden_support.h"

#include "sample/noise.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYSTEM "flux2_klein"
#define MODEL  "flux2_klein/model"

static const golden_setup F32 = {.threads = 1}; /* the fastest for models this small */

/* ----------------------------------------------------------- against the reference -- */

static void run_f32(const char *model, const char *name)
{
    golden_case c;
    golden_run r;
    mica_model *m = golden_model_open_folder(model);
    golden_case_open(&c, SYSTEM, name);
    golden_generate_ok(&r, m, &F32, &c.options);
    golden_assert_case(&c, r.trace, 1e-4);
    const mica_tensor *picture = mica_weights_find(c.expected, "image_u8");
    assert_int_equal(mica_tensor_size(picture), 3 * r.result.width * r.result.height);
    assert_in_range(
        golden_largest_difference(r.result.rgb, picture->data, mica_tensor_size(picture)), 0, 1);
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
}

static void test_cases_f32(void **state)
{
    (void)state;
    /* distilled_512 runs through the command line. */
    static const char *const CASES[] = {"distilled", "base_cfg", "edit", "edit_two"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES); i++)
        run_f32(MODEL, CASES[i]);
}

/* 8-bit operands in the large linears of the transformer. */
static void test_int8(void **state)
{
    (void)state;
    static const char *const NAMES[] = {"step0.cond", "step0.uncond", "step2.cond",
                                        "step2.latents"};
    golden_case c;
    golden_run r;
    mica_model *m = golden_model_open_folder(MODEL);
    const golden_setup setup = {.precision = MICA_PRECISION_INT8, .threads = 1};
    golden_case_open(&c, SYSTEM, "base_cfg");
    golden_generate_ok(&r, m, &setup, &c.options);
    for (size_t i = 0; i < MICA_ARRAY_LEN(NAMES); i++)
        golden_assert_near(NAMES[i], mica_trace_find(r.trace, NAMES[i]),
                           mica_weights_find(c.expected, NAMES[i]), 3e-2);
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
}

/* -------------------------------------------------------- what must not matter -- */

/* Bound 0: the same bytes. */
static void compare_setups(const char *name, const golden_setup *plain, const golden_setup *setup,
                           double bound)
{
    golden_case c;
    golden_run a, b;
    mica_model *m = golden_model_open_folder(MODEL);
    golden_case_open(&c, SYSTEM, name);
    golden_generate_ok(&a, m, plain, &c.options);
    golden_generate_ok(&b, m, setup, &c.options);
    static const char *const NAMES[] = {"prompt.embeds", "step0.cond", "step1.cond",
                                        "step1.latents", "vae_decode.output"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(NAMES); i++) {
        const mica_tensor *x = mica_trace_find(a.trace, NAMES[i]);
        const mica_tensor *y = mica_trace_find(b.trace, NAMES[i]);
        if (bound == 0.0)
            golden_assert_equal(NAMES[i], y, x);
        else
            golden_assert_near(NAMES[i], y, x, bound);
    }
    golden_run_close(&a);
    golden_run_close(&b);
    golden_case_close(&c);
    golden_model_close(&m);
}

static void test_threads(void **state)
{
    (void)state;
    static const mica_precision PRECISIONS[] = {MICA_PRECISION_F32, MICA_PRECISION_BF16,
                                                MICA_PRECISION_INT8};
    for (size_t p = 0; p < MICA_ARRAY_LEN(PRECISIONS); p++)
        compare_setups("edit", &(golden_setup){.precision = PRECISIONS[p], .threads = 1},
                       &(golden_setup){.precision = PRECISIONS[p], .threads = p ? 2 : 3}, 0.0);
}

static void test_ablate(void **state)
{
    (void)state;
    static const char *const CASES[] = {"base_cfg", "edit_two"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES); i++) {
        const char *name = CASES[i];
        compare_setups(name, &F32,
                       &(golden_setup){.threads = 1, .switches = {.ablate_rope_once = true}}, 0.0);
        compare_setups(name, &F32, &(golden_setup){.threads = 1, .switches = {.ablate_trim = true}},
                       0.0);
        compare_setups(name, &F32,
                       &(golden_setup){.threads = 1, .switches = {.ablate_modulation_once = true}},
                       1e-5);
        compare_setups(name, &F32,
                       &(golden_setup){.threads = 1, .switches = {.ablate_batched_cfg = true}},
                       1e-5);
        compare_setups(name, &F32, &(golden_setup){.threads = 1, .ablate_fusion = true}, 1e-5);
    }
}

static mica_image_options small_options(void)
{
    return (mica_image_options){.size = sizeof(mica_image_options),
                                .prompt = "a red fox in the snow",
                                .width = 64,
                                .height = 48,
                                .steps = 2,
                                .max_text_tokens = 32,
                                .seed = 7};
}

/* Pictures of a batch do not see each other, with and without guidance and references. */
static void check_batch(mica_image_options o, const mica_model *m)
{
    golden_run both, one;
    const size_t n = 64 * 48 * 3;
    o.batch = 2;
    golden_generate_ok(&both, m, &F32, &o);
    assert_int_equal(both.result.count, 2);
    o.batch = 1;
    for (int i = 0; i < 2; i++) {
        o.seed = 7 + (uint64_t)i;
        golden_generate_ok(&one, m, &F32, &o);
        const mica_tensor *all = mica_trace_find(both.trace, "step1.latents");
        const mica_tensor mine = mica_tensor_rows(all, i, 1);
        golden_assert_near("step1.latents", &mine, mica_trace_find(one.trace, "step1.latents"),
                           1e-5);
        assert_in_range(
            golden_largest_difference(both.result.rgb + (size_t)i * n, one.result.rgb, n), 0, 1);
        golden_run_close(&one);
    }
    assert_true(golden_largest_difference(both.result.rgb, both.result.rgb + n, n) > 8);
    golden_run_close(&both);
}

static void test_batch_equals_single_runs(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    const mica_image_input input = {.path = MICA_TEST_DATA "/flux2_klein/cases/edit/input0.png"};
    mica_image_options o = small_options();
    check_batch(o, m);
    o.distilled = MICA_CHOICE_NO;
    check_batch(o, m);
    o.inputs = &input;
    o.input_count = 1;
    check_batch(o, m);
    golden_model_close(&m);
}

/* Noise is drawn as [128, h, w] of packed channels. */
static void test_seed_draws_patches(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    const mica_image_options o = small_options();
    golden_run r;
    static float noise[128 * 3 * 4];
    golden_generate_ok(&r, m, &F32, &o);
    mica_noise_f32(7, noise, MICA_ARRAY_LEN(noise));
    const mica_tensor *t = mica_trace_find(r.trace, "initial_latents");
    assert_memory_equal(t->data, noise, sizeof noise);
    golden_run_close(&r);
    golden_model_close(&m);
}

static void test_counters(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    mica_image_options o = small_options();
    golden_run r;
    o.steps = 4;
    golden_generate_ok(&r, m, &(golden_setup){.threads = 1, .no_trace = true}, &o);
    assert_int_equal(r.result.block_allocations, 0);
    assert_int_equal(r.result.block_waits, 0);
    assert_int_equal(r.result.rope_builds, 1);
    assert_int_equal(r.result.modulation_matmuls, 5);
    assert_int_equal(r.result.passes, 4);
    golden_run_close(&r);
    const golden_setup ablated = {.threads = 1,
                                  .no_trace = true,
                                  .switches = {.ablate_rope_once = true,
                                               .ablate_modulation_once = true,
                                               .ablate_batched_cfg = true}};
    o.distilled = MICA_CHOICE_NO;
    golden_generate_ok(&r, m, &ablated, &o);
    assert_int_equal(r.result.rope_builds, 4);
    assert_int_equal(r.result.modulation_matmuls, 4 * 5);
    assert_int_equal(r.result.passes, 8);
    golden_run_close(&r);
    golden_model_close(&m);
}

/* ----------------------------------------------------------------- defaults -- */

/* Steps, guidance and size when nothing is asked for. */
static void test_defaults(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    const mica_image_input input = {.path = MICA_TEST_DATA "/flux2_klein/cases/edit/input0.png"};
    mica_image_options o = small_options();
    golden_run r;
    o.steps = 0;
    o.width = o.height = 16;
    golden_generate_ok(&r, m, &(golden_setup){.threads = 1, .no_trace = true}, &o);
    assert_true(r.result.steps == 4 && !r.result.guided);
    golden_run_close(&r);
    o.distilled = MICA_CHOICE_NO;
    golden_generate_ok(&r, m, &(golden_setup){.threads = 1, .no_trace = true}, &o);
    assert_true(r.result.steps == 50 && r.result.guided && r.result.guidance == 4.0);
    golden_run_close(&r);
    o = small_options();
    o.width = o.height = 0;
    o.inputs = &input;
    o.input_count = 1;
    golden_generate_ok(&r, m, &F32, &o);
    const mica_tensor *seen = mica_trace_find(r.trace, "vae_encode.0.input");
    assert_int_equal(r.result.height, seen->shape_[2]);
    assert_int_equal(r.result.width, seen->shape_[3]);
    golden_run_close(&r);
    golden_model_close(&m);
}

/* A picture to start from is a reference too, at the output's size (inpaint pipeline). */
static void test_start_is_a_reference(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    const mica_image_input input = {.path = MICA_TEST_DATA "/flux2_klein/cases/edit/input0.png"};
    mica_image_options o = small_options();
    golden_run r;
    o.inputs = &input;
    o.input_count = 1;
    o.strength = 0.5;
    golden_generate_ok(&r, m, &F32, &o);
    const mica_tensor *ids = mica_trace_find(r.trace, "img_ids");
    const int32_t *positions = ids->data;
    assert_int_equal(ids->shape_[1], 2 * 12);
    assert_int_equal(positions[4 * 12], 10);
    golden_run_close(&r);
    golden_model_close(&m);
}

static void test_reference_limits(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    static uint8_t pixels[64 * 600 * 3];
    mica_image_input inputs[11];
    mica_image_options o = small_options();
    golden_run r;
    for (int i = 0; i < 11; i++)
        inputs[i] = (mica_image_input){.rgb = pixels, .width = 64, .height = 64};
    o.inputs = inputs;
    o.input_count = 10;
    golden_generate_ok(&r, m, &F32, &o);
    assert_int_equal(mica_trace_find(r.trace, "img_ids")->shape_[1], 12 + 10 * 16);
    golden_run_close(&r);
    o.input_count = 11;
    golden_generate(&r, m, &F32, &o);
    assert_true(r.status == MICA_E_USAGE && strstr(r.err.text, "at most 10"));
    golden_run_close(&r);
    o.input_count = 1;
    inputs[0].width = 63;
    golden_generate(&r, m, &F32, &o);
    assert_true(r.status == MICA_E_USAGE && strstr(r.err.text, "63 x 64"));
    golden_run_close(&r);
    inputs[0] = (mica_image_input){.rgb = pixels, .width = 64, .height = 600};
    golden_generate(&r, m, &F32, &o);
    assert_true(r.status == MICA_E_USAGE && strstr(r.err.text, "8 times"));
    golden_run_close(&r);
    inputs[0] = (mica_image_input){.rgb = pixels, .width = 64, .height = 512};
    o.ref_pixels = 1000;
    golden_generate(&r, m, &F32, &o);
    assert_true(r.status == MICA_E_USAGE && strstr(r.err.text, "--ref-pixels"));
    golden_run_close(&r);
    o.ref_pixels = 8192;
    golden_generate_ok(&r, m, &F32, &o);
    const mica_tensor *seen = mica_trace_find(r.trace, "vae_encode.0.input");
    assert_true(seen->shape_[2] == 256 && seen->shape_[3] == 32);
    golden_run_close(&r);
    golden_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases_f32),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_ablate),
        cmocka_unit_test(test_batch_equals_single_runs),
        cmocka_unit_test(test_seed_draws_patches),
        cmocka_unit_test(test_counters),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_start_is_a_reference),
        cmocka_unit_test(test_reference_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
