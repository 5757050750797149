/* test_zimage_golden.c - Z-Image, prompt to picture, against the reference's numbers.
 *
 * f32: every tensor of expected.safetensors within relative L2 1e-4, integers equal, the picture
 * within one level. bf16: the bounds of the manifest. Then what must not change the result: the
 * number of threads, the batch, the trace, each technique switched off. */
#include "golden_invariants.h"

#include "sample/noise.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYSTEM "z_image"
#define MODEL  "z_image/model"

static const golden_setup F32 = {0};
static const char *const CASES[] = {"turbo", "cfg", "cfg_norm"};
static const golden_subject CFG = {SYSTEM, MODEL, "cfg",
                                   (const char *const[]){"prompt.embeds", "step0.cond",
                                                         "step0.uncond", "step2.latents",
                                                         "vae_decode.output", NULL}};

/* ----------------------------------------------------------- against the reference -- */

static void test_f32(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES); i++)
        golden_check_f32(SYSTEM, MODEL, CASES[i]);
}

static void test_bf16(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES); i++)
        golden_check_bf16(SYSTEM, MODEL, CASES[i]);
}

static void test_int8(void **state)
{
    (void)state;
    const golden_subject turbo = {
        SYSTEM, MODEL, "turbo",
        (const char *const[]){"step0.cond", "step0.latents", "step3.cond", "step3.latents", NULL}};
    golden_check_int8(&turbo, &F32, 2.9e-2);
}

/* -------------------------------------------------------- what must not matter -- */

static void test_threads(void **state)
{
    (void)state;
    golden_check_threads(&CFG);
}

static void test_ablate(void **state)
{
    (void)state;
    golden_check_ablations(&CFG, &F32);
}

/* A trace pads captions to the longest and refines the picture of each condition; a run without
 * one does neither. `cfg_norm` has captions of one padded length, `cfg` has not. */
static void test_trace_changes_nothing(void **state)
{
    (void)state;
    static const char *const GUIDED[] = {"cfg", "cfg_norm"};
    mica_model *m = golden_model_open_folder(MODEL);
    for (size_t i = 0; i < MICA_ARRAY_LEN(GUIDED); i++) {
        golden_case c;
        golden_run traced, plain;
        golden_case_open(&c, SYSTEM, GUIDED[i]);
        golden_generate_ok(&traced, m, &F32, &c.options);
        golden_generate_ok(&plain, m, &(golden_setup){.no_trace = true}, &c.options);
        const size_t n = 3 * (size_t)plain.result.width * (size_t)plain.result.height;
        assert_memory_equal(plain.result.rgb, traced.result.rgb, n);
        golden_run_close(&traced);
        golden_run_close(&plain);
        golden_case_close(&c);
    }
    golden_model_close(&m);
}

static mica_image_options small_options(void)
{
    return (mica_image_options){.size = sizeof(mica_image_options),
                                .prompt = "a red fox in the snow",
                                .negative_prompt = "grey",
                                .width = 64,
                                .height = 48,
                                .steps = 2,
                                .guidance = 3.0,
                                .seed = 7};
}

static void test_batch_equals_single_runs(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    golden_check_batch(m, &F32, small_options());
    golden_model_close(&m);
}

/* Noise is drawn as [C, Y, X]. */
static void test_seed_gives_torch_noise(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    const mica_image_options o = small_options();
    golden_run r;
    static float noise[16 * 6 * 8];
    golden_generate_ok(&r, m, &F32, &o);
    mica_noise_f32(7, noise, MICA_ARRAY_LEN(noise));
    const mica_tensor *t = mica_trace_find(r.trace, "initial_latents");
    assert_int_equal(t->ndim, 4);
    assert_int_equal(mica_tensor_size(t), sizeof noise);
    assert_memory_equal(t->data, noise, sizeof noise);
    golden_run_close(&r);
    golden_model_close(&m);
}

/* The tiny model: two noise refiners, two layers, the final layer. */
static void test_counters(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    golden_check_counters(m, 0, small_options(), small_options(), 2 + 2 + 1);
    golden_model_close(&m);
}

/* ------------------------------------------------------------------- guidance -- */

/* Turbo runs without guidance unless it is asked for, Base with it; an absent negative prompt is an
 * empty one. */
static void test_defaults(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    mica_image_options o = small_options();
    golden_run r, empty;
    o.guidance = 0.0;
    o.negative_prompt = NULL;
    o.width = o.height = 32;
    o.steps = 0;
    golden_generate_ok(&r, m, &F32, &o);
    assert_int_equal(r.result.steps, 9);
    assert_false(r.result.guided);
    golden_run_close(&r);
    o.distilled = MICA_CHOICE_NO;
    golden_generate_ok(&r, m, &(golden_setup){.no_trace = true}, &o);
    assert_int_equal(r.result.steps, 50);
    assert_true(r.result.guided);
    assert_true(r.result.guidance == 5.0);
    golden_run_close(&r);
    /* The scale counts from 0: 1 guides, a negative one is off even for Base. */
    o.steps = 2;
    o.guidance = 1.0;
    golden_generate_ok(&r, m, &(golden_setup){.no_trace = true}, &o);
    assert_true(r.result.guided);
    golden_run_close(&r);
    o.guidance = -1.0;
    golden_generate_ok(&r, m, &(golden_setup){.no_trace = true}, &o);
    assert_false(r.result.guided);
    golden_run_close(&r);
    o.guidance = 2.0;
    golden_generate_ok(&r, m, &F32, &o);
    o.negative_prompt = "";
    golden_generate_ok(&empty, m, &F32, &o);
    golden_assert_equal("step1.latents", mica_trace_find(empty.trace, "step1.latents"),
                        mica_trace_find(r.trace, "step1.latents"));
    golden_run_close(&empty);
    golden_run_close(&r);
    golden_model_close(&m);
}

/* Guidance as the reference has it, from the traced outputs: cond + s (cond - uncond), no longer
 * than the limit, and the Euler step along its opposite. */
static void check_step(const golden_run *r, const mica_image_options *o, int step)
{
    char name[32];
    const mica_tensor *cond, *uncond, *before, *after;
    const float *sigmas = mica_trace_find(r->trace, "sigmas")->data;
    snprintf(name, sizeof name, "step%d.cond", step);
    cond = mica_trace_find(r->trace, name);
    snprintf(name, sizeof name, "step%d.uncond", step);
    uncond = mica_trace_find(r->trace, name);
    snprintf(name, sizeof name, "step%d.latents", step);
    after = mica_trace_find(r->trace, name);
    snprintf(name, sizeof name, "step%d.latents", step - 1);
    before = mica_trace_find(r->trace, step ? name : "initial_latents");
    assert_non_null(cond);
    const bool guided = 1.0 - (double)sigmas[step] <= o->cfg_truncation;
    assert_true(guided == (uncond != NULL));
    const int64_t n = mica_tensor_count(cond);
    double *pred = calloc((size_t)n, sizeof *pred), length = 0.0, limit = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double c = mica_tensor_read_f32(cond, i);
        pred[i] = guided ? c + o->guidance * (c - mica_tensor_read_f32(uncond, i)) : c;
        length += pred[i] * pred[i];
        limit += c * c;
    }
    const double most = o->cfg_normalization * sqrt(limit), have = sqrt(length);
    const double shorten = guided && most > 0.0 && have > most ? most / have : 1.0;
    for (int64_t i = 0; i < n; i++) {
        const double x = mica_tensor_read_f32(before, i);
        const double want = x - ((double)sigmas[step + 1] - sigmas[step]) * pred[i] * shorten;
        if (fabs(mica_tensor_read_f32(after, i) - want) > 2e-5 * (1.0 + fabs(want)))
            fail_msg("step %d, element %d: %g, expected %g", step, (int)i,
                     (double)mica_tensor_read_f32(after, i), want);
    }
    free(pred);
}

static void test_truncation_and_limit(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    mica_image_options o = small_options();
    golden_run r;
    o.steps = 4; /* times 0, 0.1, 0.25, 0.5 */
    o.cfg_truncation = 0.2;
    o.cfg_normalization = 0.9;
    golden_generate_ok(&r, m, &F32, &o);
    for (int step = 0; step < 4; step++)
        check_step(&r, &o, step);
    assert_non_null(mica_trace_find(r.trace, "step1.uncond"));
    assert_null(mica_trace_find(r.trace, "step2.uncond"));
    golden_run_close(&r);
    golden_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_ablate),
        cmocka_unit_test(test_trace_changes_nothing),
        cmocka_unit_test(test_batch_equals_single_runs),
        cmocka_unit_test(test_seed_gives_torch_noise),
        cmocka_unit_test(test_counters),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_truncation_and_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
