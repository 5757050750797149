/* test_flux2_golden.c - FLUX.2-klein, prompt and pictures to picture, against the reference's
 * numbers, and what must not change the result: threads, batch, each technique switched off. */
#include "golden_invariants.h"

#include "sample/noise.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYSTEM "flux2_klein"
#define MODEL  "flux2_klein/model"

static const golden_setup F32 = {.threads = 1}; /* the fastest for models this small */

/* ----------------------------------------------------------- against the reference -- */

static void test_cases_f32(void **state)
{
    (void)state;
    /* distilled_512 runs through the command line. */
    static const char *const CASES[] = {"distilled", "base_cfg", "edit", "edit_two"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES); i++)
        golden_check_f32(SYSTEM, MODEL, CASES[i]);
}

static void test_int8(void **state)
{
    (void)state;
    const golden_subject cfg = {
        SYSTEM, MODEL, "base_cfg",
        (const char *const[]){"step0.cond", "step0.uncond", "step2.cond", "step2.latents", NULL}};
    golden_check_int8(&cfg, &F32, 0.0);
}

/* -------------------------------------------------------- what must not matter -- */

static golden_subject subject(const char *name)
{
    static const char *const TENSORS[] = {"prompt.embeds", "step0.cond",        "step1.cond",
                                          "step1.latents", "vae_decode.output", NULL};
    return (golden_subject){SYSTEM, MODEL, name, TENSORS};
}

static void test_threads(void **state)
{
    (void)state;
    const golden_subject edit = subject("edit");
    golden_check_threads(&edit);
}

static void test_ablate(void **state)
{
    (void)state;
    const golden_subject cfg = subject("base_cfg"), edit = subject("edit_two");
    golden_check_ablations(&cfg, &F32);
    golden_check_ablations(&edit, &F32);
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

/* With and without guidance and references. */
static void test_batch_equals_single_runs(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    const mica_image_input input = {.path = MICA_TEST_DATA "/flux2_klein/cases/edit/input0.png"};
    mica_image_options o = small_options();
    golden_check_batch(m, &F32, o);
    o.distilled = MICA_CHOICE_NO;
    golden_check_batch(m, &F32, o);
    golden_check_block_cache(m, &F32, o);
    o.inputs = &input;
    o.input_count = 1;
    golden_check_batch(m, &F32, o);
    golden_check_block_cache(m, &F32, o);
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
    mica_image_options guided = small_options();
    guided.distilled = MICA_CHOICE_NO;
    golden_check_counters(m, 1, small_options(), guided, 5);
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
