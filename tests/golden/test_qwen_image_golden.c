/* test_qwen_image_golden.c - Qwen-Image, prompt to picture, against the reference's numbers.
 *
 * f32: every tensor of expected.safetensors within relative L2 1e-4, integers equal, the picture
 * within one level. bf16: the bounds of the manifest. Then what must not change the result: the
 * number of threads, the batch, each technique switched off. */
#include "golden_invariants.h"

#include "backend/backend_ops.h"
#include "sample/noise.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYSTEM "qwen_image"
#define MODEL  "qwen_image/model"

static const golden_setup F32 = {0};
static const golden_subject CFG = {SYSTEM, MODEL, "t2i_cfg",
                                   (const char *const[]){"prompt.embeds", "step0.cond",
                                                         "step0.uncond", "step2.latents",
                                                         "vae_decode.output", NULL}};

/* ----------------------------------------------------------- against the reference -- */

static void test_cfg_f32(void **state)
{
    (void)state;
    golden_check_f32(SYSTEM, MODEL, "t2i_cfg");
}

static void test_nocfg_f32(void **state)
{
    (void)state;
    golden_check_f32(SYSTEM, MODEL, "t2i_nocfg");
}

static void test_cfg_bf16(void **state)
{
    (void)state;
    golden_check_bf16(SYSTEM, MODEL, "t2i_cfg");
}

static void test_nocfg_bf16(void **state)
{
    (void)state;
    golden_check_bf16(SYSTEM, MODEL, "t2i_nocfg");
}

static void test_cfg_int8(void **state)
{
    (void)state;
    const golden_subject cfg = {SYSTEM, MODEL, "t2i_cfg",
                                (const char *const[]){"step0.cond", "step0.uncond", "step0.latents",
                                                      "step2.cond", "step2.latents", NULL}};
    golden_check_int8(&cfg, &F32, 2.3e-2);
}

/* -------------------------------------------------------- what must not matter -- */

static void test_threads(void **state)
{
    (void)state;
    golden_check_threads(&CFG);
}

typedef struct side_run {
    const mica_model *model;
    const mica_image_options *options;
    golden_run run;
} side_run;

static void *run_aside(void *user)
{
    side_run *s = user;
    golden_generate(&s->run, s->model, &(golden_setup){.precision = MICA_PRECISION_INT8},
                    s->options);
    return NULL;
}

/* Two sessions of one model at once share the quantised weights, and nothing else. */
static void test_sessions_side_by_side(void **state)
{
    (void)state;
    golden_case c;
    golden_run alone;
    mica_model *m = golden_model_open_folder(MODEL);
    golden_case_open(&c, SYSTEM, "t2i_cfg");
    golden_generate_ok(&alone, m, &(golden_setup){.precision = MICA_PRECISION_INT8}, &c.options);
    side_run s[2] = {{.model = m, .options = &c.options}, {.model = m, .options = &c.options}};
    pthread_t thread[2];
    for (int t = 0; t < 2; t++)
        assert_int_equal(pthread_create(&thread[t], NULL, run_aside, &s[t]), 0);
    for (int t = 0; t < 2; t++)
        assert_int_equal(pthread_join(thread[t], NULL), 0);
    for (int t = 0; t < 2; t++) {
        assert_int_equal(s[t].run.status, MICA_OK);
        golden_assert_equal("step2.latents", mica_trace_find(s[t].run.trace, "step2.latents"),
                            mica_trace_find(alone.trace, "step2.latents"));
        golden_run_close(&s[t].run);
    }
    golden_run_close(&alone);
    golden_case_close(&c);
    golden_model_close(&m);
}

static void test_ablate(void **state)
{
    (void)state;
    golden_check_ablations(&CFG, &F32);
}

static mica_image_options small_options(void)
{
    return (mica_image_options){.size = sizeof(mica_image_options),
                                .prompt = "a red fox in the snow",
                                .negative_prompt = " ",
                                .width = 64,
                                .height = 48,
                                .steps = 2,
                                .seed = 7};
}

static void test_batch_equals_single_runs(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    golden_check_batch(m, &F32, small_options());
    golden_check_block_cache(m, &F32, small_options());
    golden_model_close(&m);
}

/* Noise is drawn as [C, Y, X] and packed into 2 x 2 patches. */
static void test_seed_packs_noise(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    const mica_image_options o = small_options();
    golden_run r;
    static float noise[16 * 6 * 8];
    golden_generate_ok(&r, m, &F32, &o);
    mica_noise_f32(7, noise, MICA_ARRAY_LEN(noise));
    const mica_tensor *t = mica_trace_find(r.trace, "initial_latents");
    const float *packed = t->data;
    for (int c = 0; c < 16; c++)
        for (int y = 0; y < 6; y++)
            for (int x = 0; x < 8; x++) {
                const int row = (y / 2) * 4 + x / 2, channel = c * 4 + (y % 2) * 2 + x % 2;
                assert_true(packed[row * 64 + channel] == noise[(c * 6 + y) * 8 + x]);
            }
    golden_run_close(&r);
    golden_model_close(&m);
}

/* A backend whose attention waits once and allocates twice, as a device's might. */
static mica_backend_ops waiting_ops;
static mica_status (*silent_attention)(mica_backend *be, const mica_attention_args *args,
                                       mica_err *err);

static mica_status waiting_attention(mica_backend *be, const mica_attention_args *args,
                                     mica_err *err)
{
    be->counters.waits++;
    be->counters.allocations += 2;
    return silent_attention(be, args, err);
}

static void make_it_wait(mica_backend *be)
{
    waiting_ops = *be->ops;
    silent_attention = waiting_ops.attention;
    waiting_ops.attention = waiting_attention;
    be->ops = &waiting_ops;
}

/* The CPU has nothing to wait for, so zeros prove nothing by themselves: waits put into the blocks
 * are all counted, those of the text encoder, the VAE and the first evaluation are not. */
static void test_counters_count(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    mica_image_options o = small_options();
    golden_run r;
    o.steps = 4;
    golden_generate_ok(&r, m, &(golden_setup){.no_trace = true, .change_backend = make_it_wait},
                       &o);
    const int calls = 3 * 2 * 2; /* evaluations after the first, blocks, prompts */
    assert_int_equal(r.result.block_waits, calls);
    assert_int_equal(r.result.step_waits, calls);
    assert_int_equal(r.result.block_allocations, 2 * calls);
    golden_run_close(&r);
    golden_model_close(&m);
}

/* The tiny model: two blocks of two streams, the final norm. */
static void test_counters(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    golden_check_counters(m, 0, small_options(), small_options(), 2 * 2 + 1);
    golden_model_close(&m);
}

/* All solvers follow the same equation: with many small steps they end where Euler with many
 * small steps ends, nearer than Euler with few does. */
static void test_solvers_agree(void **state)
{
    (void)state;
    static const mica_solver SOLVERS[] = {MICA_SOLVER_HEUN, MICA_SOLVER_DPMPP_2M,
                                          MICA_SOLVER_UNIPC};
    mica_model *m = golden_model_open_folder(MODEL);
    mica_image_options o = small_options();
    golden_run fine, r;
    o.negative_prompt = NULL;
    o.steps = 64;
    golden_generate_ok(&fine, m, &F32, &o);
    const mica_tensor *expected = mica_trace_find(fine.trace, "step63.latents");
    o.steps = 8;
    golden_generate_ok(&r, m, &F32, &o);
    const double coarse = golden_relative_l2(mica_trace_find(r.trace, "step7.latents"), expected);
    golden_run_close(&r);
    o.steps = 64;
    for (size_t i = 0; i < MICA_ARRAY_LEN(SOLVERS); i++) {
        o.solver = SOLVERS[i];
        golden_generate_ok(&r, m, &F32, &o);
        const double got = golden_relative_l2(mica_trace_find(r.trace, "step63.latents"), expected);
        print_message("solver %d: %.3g from Euler (8 Euler steps: %.3g)\n", SOLVERS[i], got,
                      coarse);
        assert_true(got < coarse / 2);
        assert_int_equal(r.result.solver, SOLVERS[i]);
        assert_int_equal(r.result.passes, SOLVERS[i] == MICA_SOLVER_HEUN ? 127 : 64);
        golden_run_close(&r);
    }
    golden_run_close(&fine);
    golden_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cfg_f32),
        cmocka_unit_test(test_nocfg_f32),
        cmocka_unit_test(test_cfg_bf16),
        cmocka_unit_test(test_nocfg_bf16),
        cmocka_unit_test(test_cfg_int8),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_sessions_side_by_side),
        cmocka_unit_test(test_ablate),
        cmocka_unit_test(test_batch_equals_single_runs),
        cmocka_unit_test(test_seed_packs_noise),
        cmocka_unit_test(test_counters),
        cmocka_unit_test(test_counters_count),
        cmocka_unit_test(test_solvers_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
