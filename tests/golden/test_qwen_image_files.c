/* test_qwen_image_files.c - Qwen-Image in the other layouts users have, and broken ones.
 *
 * Layouts are made from the tiny model of the golden vectors by renaming and re-encoding its
 * tensors. An fp8 copy must give what an f32 copy of its decoded values gives: the encoding may
 * cost accuracy, reading it may not. */
#include "golden_layout.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define SOURCE MICA_TEST_DATA "/qwen_image/model"
/* Matrices of the blocks are re-encoded, as the published fp8 files have it. */
#define BLOCKS "transformer_blocks."

static void comfy_make(golden_comfy *c, const golden_layout *transformer,
                       const golden_layout *text_encoder)
{
    golden_comfy_make(c, "qwen_image/model", transformer, text_encoder, &(golden_layout){0});
}

static void run_case(golden_run *r, const mica_engine_options *options, golden_case *c)
{
    mica_model *m = golden_model_open(options);
    golden_generate_ok(r, m, &(golden_setup){0}, &c->options);
    golden_model_close(&m);
}

/* The same bytes as the diffusers folder, from renamed tensors. */
static void check_renamed(const mica_engine_options *options)
{
    golden_case c;
    golden_run r;
    golden_case_open(&c, "qwen_image", "t2i_cfg");
    run_case(&r, options, &c);
    golden_assert_near("step2.latents", mica_trace_find(r.trace, "step2.latents"),
                       mica_weights_find(c.expected, "step2.latents"), 1e-4);
    golden_assert_near("vae_decode.output", mica_trace_find(r.trace, "vae_decode.output"),
                       mica_weights_find(c.expected, "vae_decode.output"), 1e-4);
    golden_run_close(&r);
    golden_case_close(&c);
}

static void test_comfy_folder(void **state)
{
    (void)state;
    golden_comfy c;
    comfy_make(&c, &(golden_layout){.prefix = "model.diffusion_model."},
               &(golden_layout){.from = "model.", .to = "model.language_model."});
    const mica_engine_options o = golden_comfy_options(&c);
    check_renamed(&o);
    golden_remove_folder(c.dir);
}

static void test_parts_one_by_one(void **state)
{
    (void)state;
    golden_comfy c;
    comfy_make(&c, &(golden_layout){0}, &(golden_layout){.extra = "something.else"});
    const mica_engine_options o = {.size = sizeof o,
                                   .transformer = c.transformer,
                                   .text_encoder = c.text_encoder,
                                   .vae = c.vae,
                                   .tokenizer = SOURCE "/tokenizer/tokenizer.json"};
    check_renamed(&o);
    /* A part given by itself wins over the folder's. */
    const mica_engine_options mixed = {.size = sizeof mixed, .model = SOURCE, .vae = c.vae};
    check_renamed(&mixed);
    golden_remove_folder(c.dir);
}

static void compare_encodings(golden_encoding packed, golden_encoding decoded)
{
    golden_comfy a, b;
    golden_case c;
    golden_run x, y;
    comfy_make(
        &a,
        &(golden_layout){.prefix = "model.diffusion_model.", .encoding = packed, .encoded = BLOCKS},
        &(golden_layout){0});
    comfy_make(&b, &(golden_layout){.encoding = decoded, .encoded = BLOCKS}, &(golden_layout){0});
    golden_case_open(&c, "qwen_image", "t2i_cfg");
    const mica_engine_options oa = golden_comfy_options(&a), ob = golden_comfy_options(&b);
    run_case(&x, &oa, &c);
    run_case(&y, &ob, &c);
    golden_assert_near("step2.latents", mica_trace_find(x.trace, "step2.latents"),
                       mica_trace_find(y.trace, "step2.latents"), 1e-5);
    /* And fp8 is fp8: near the original, but not equal to it. */
    const double loss = golden_relative_l2(mica_trace_find(x.trace, "step0.cond"),
                                           mica_weights_find(c.expected, "step0.cond"));
    print_message("relative L2 of step0.cond from fp8 weights: %.3g\n", loss);
    assert_true(loss > 1e-3 && loss < 0.2);
    golden_run_close(&x);
    golden_run_close(&y);
    golden_case_close(&c);
    golden_remove_folder(a.dir);
    golden_remove_folder(b.dir);
}

static void test_fp8_plain(void **state)
{
    (void)state;
    compare_encodings(GOLDEN_FP8_PLAIN, GOLDEN_FP8_PLAIN_AS_F32);
}

static void test_fp8_scaled(void **state)
{
    (void)state;
    compare_encodings(GOLDEN_FP8_SCALED, GOLDEN_FP8_SCALED_AS_F32);
}

/* ----------------------------------------------------------------- broken models -- */

/* Two parts are wrong in three ways: one message tells all three. */
static void test_all_problems_listed(void **state)
{
    (void)state;
    golden_comfy c;
    comfy_make(&c,
               &(golden_layout){.drop = "transformer_blocks.1.attn.to_k.weight",
                                .reshape = "proj_out.weight"},
               &(golden_layout){.drop = "model.layers.0.mlp.up_proj.weight"});
    const mica_engine_options o = golden_comfy_options(&c);
    golden_expect_refused(
        &o, MICA_E_FORMAT,
        (const char *const[]){"transformer_blocks.1.attn.to_k.weight: missing, expected "
                              "[64, 64]",
                              "proj_out.weight: got [64, 63] bf16, expected [64, 64]",
                              "model.layers.0.mlp.up_proj.weight: missing", "2 of its", NULL});
    golden_remove_folder(c.dir);
}

static void test_missing_parts(void **state)
{
    (void)state;
    const mica_engine_options o = {.size = sizeof o, .transformer = SOURCE "/transformer"};
    golden_expect_refused(&o, MICA_E_MISSING,
                          (const char *const[]){"text encoder", "VAE", "tokenizer", "--vae", NULL});
    const mica_engine_options absent = {.size = sizeof absent, .model = SOURCE "/nothing"};
    golden_expect_refused(&absent, MICA_E_MISSING, (const char *const[]){"nothing", NULL});
    const mica_engine_options mixed = {
        .size = sizeof mixed, .model = SOURCE, .vae = SOURCE "/text_encoder"};
    golden_expect_refused(&mixed, MICA_E_FORMAT,
                          (const char *const[]){"not a Qwen-Image VAE", NULL});
}

/* Weights of Layered under the plain model's configuration. */
static void test_variants_refused(void **state)
{
    (void)state;
    golden_comfy c;
    comfy_make(&c, &(golden_layout){.extra = "time_text_embed.addition_t_embedding.weight"},
               &(golden_layout){0});
    const mica_engine_options o = golden_comfy_options(&c);
    golden_expect_refused(&o, MICA_E_UNSUPPORTED, (const char *const[]){"Layered", NULL});
    golden_remove_folder(c.dir);
}

/* zero_cond_t only concerns reference pictures. */
static void test_zero_cond_model_makes_pictures(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder("qwen_image/edit_model_zero_cond");
    golden_run r;
    const mica_image_options o = {
        .size = sizeof o, .prompt = "a fox", .width = 32, .height = 32, .steps = 1};
    golden_generate_ok(&r, m, &(golden_setup){0}, &o);
    golden_run_close(&r);
    golden_model_close(&m);
}

/* ------------------------------------------------------------------- broken runs -- */

static void expect_run_fails(const mica_model *m, const mica_image_options *o, mica_status status,
                             const char *word)
{
    golden_run r;
    golden_generate(&r, m, &(golden_setup){0}, o);
    if (r.status != status || !strstr(r.err.text, word))
        fail_msg("got %s (%s), expected %s about \"%s\"", mica_status_name(r.status), r.err.text,
                 mica_status_name(status), word);
    assert_null(r.result.rgb);
    golden_run_close(&r);
}

static void poison_and_run(const golden_layout *transformer, const golden_layout *text_encoder,
                           const char *word)
{
    golden_comfy c;
    comfy_make(&c, transformer, text_encoder);
    const mica_engine_options e = golden_comfy_options(&c);
    const mica_image_options o = {
        .size = sizeof o, .prompt = "a fox", .width = 32, .height = 32, .steps = 2};
    mica_model *m = golden_model_open(&e);
    expect_run_fails(m, &o, MICA_E_NUMERIC, word);
    golden_model_close(&m);
    golden_remove_folder(c.dir);
}

static void test_nan_is_an_error(void **state)
{
    (void)state;
    poison_and_run(&(golden_layout){.poison = "proj_out.bias"}, &(golden_layout){0},
                   "after step 1 of 2");
    poison_and_run(&(golden_layout){0}, &(golden_layout){.poison = "model.norm.weight"},
                   "text encoder");
}

static void test_bad_options(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder("qwen_image/model");
    const mica_image_options good = {
        .size = sizeof good, .prompt = "a fox", .width = 32, .height = 32, .steps = 1};
    const double rising[] = {0.5, 0.9};
    mica_image_options o = good;
    o.prompt = NULL;
    expect_run_fails(m, &o, MICA_E_USAGE, "prompt");
    o = good;
    o.width = 100000;
    expect_run_fails(m, &o, MICA_E_USAGE, "width 100000");
    o = good;
    o.height = 15;
    expect_run_fails(m, &o, MICA_E_USAGE, "height 15");
    o = good;
    o.steps = -1;
    expect_run_fails(m, &o, MICA_E_USAGE, "-1 steps");
    o = good;
    o.guidance = NAN;
    expect_run_fails(m, &o, MICA_E_USAGE, "guidance");
    o = good;
    o.batch = 1000;
    expect_run_fails(m, &o, MICA_E_USAGE, "batch 1000");
    o = good;
    o.schedule = "no such";
    expect_run_fails(m, &o, MICA_E_USAGE, "no such");
    o = good;
    o.steps = 0;
    o.sigmas = rising;
    o.sigma_count = 2;
    expect_run_fails(m, &o, MICA_E_USAGE, "sigma");
    o = good;
    o.max_text_tokens = 2000;
    expect_run_fails(m, &o, MICA_E_USAGE, "2000");
    o = good;
    o.noise_path = SOURCE "/vae/diffusion_pytorch_model.safetensors";
    expect_run_fails(m, &o, MICA_E_MISSING, "initial_latents");
    o = good;
    o.noise_path = MICA_TEST_DATA "/qwen_image/cases/t2i_cfg/expected.safetensors";
    expect_run_fails(m, &o, MICA_E_FORMAT, "[1, 24, 64]");
    golden_model_close(&m);
}

/* Calls so far, and the one to stop at. */
typedef struct stopper {
    int calls, stop_at, after;
    char notices[512];
} stopper;

static bool on_progress(void *user, const mica_progress *p)
{
    stopper *s = user;
    s->calls++;
    if (s->calls > s->stop_at && s->stop_at > 0)
        s->after++;
    if (p->notice)
        snprintf(s->notices + strlen(s->notices), sizeof s->notices - strlen(s->notices), "%s;",
                 p->notice);
    return s->calls != s->stop_at;
}

static void test_cancel_and_notices(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder("qwen_image/model");
    stopper s = {0};
    mica_image_options o = {.size = sizeof o,
                            .prompt = "a fox",
                            .width = 47,
                            .height = 40,
                            .steps = 2,
                            .guidance = 4.0,
                            .progress = on_progress,
                            .progress_user = &s};
    golden_run r;
    golden_generate_ok(&r, m, &(golden_setup){0}, &o);
    assert_int_equal(r.result.width, 32);
    assert_int_equal(r.result.height, 32);
    assert_non_null(strstr(s.notices, "width 47 rounded down to 32"));
    assert_non_null(strstr(s.notices, "height 40 rounded down to 32"));
    assert_non_null(strstr(s.notices, "without a negative prompt"));
    golden_run_close(&r);
    /* Stopped at every call of the run in turn, nothing is called any more and nothing leaks. */
    const int total = s.calls;
    assert_true(total > 10);
    for (int n = 1; n <= total; n++) {
        s = (stopper){.stop_at = n};
        golden_generate(&r, m, &(golden_setup){.no_trace = true}, &o);
        assert_int_equal(r.status, MICA_E_CANCELLED);
        assert_int_equal(s.after, 0);
        assert_null(r.result.rgb);
        golden_run_close(&r);
    }
    golden_model_close(&m);
}

/* A session that was stopped, refused and short of memory still gives the same picture. */
static void test_session_survives_failures(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder("qwen_image/model");
    const mica_backend_options be_options = {
        .device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32, .threads = 2};
    const mica_diffusion_switches switches = {0};
    mica_backend *be = NULL;
    mica_model_session *session = NULL;
    mica_diffusion_result first, r;
    mica_err err = {0};
    stopper s = {.stop_at = 9};
    const mica_image_options good = {
        .size = sizeof good, .prompt = "a fox", .width = 32, .height = 32, .steps = 2};
    mica_image_options stopped = good, wrong = good;
    stopped.progress = on_progress;
    stopped.progress_user = &s;
    wrong.steps = -1;
    assert_int_equal(mica_backend_open(&be, &be_options, &err), MICA_OK);
    assert_int_equal(m->kind->session_open(&session, m, be, &switches, &err), MICA_OK);
    assert_int_equal(m->kind->generate(session, &good, NULL, &first, &err), MICA_OK);
    assert_int_equal(m->kind->generate(session, &stopped, NULL, &r, &err), MICA_E_CANCELLED);
    assert_int_equal(m->kind->generate(session, &wrong, NULL, &r, &err), MICA_E_USAGE);
    mica_mem_fail_at(12);
    assert_int_equal(m->kind->generate(session, &good, NULL, &r, &err), MICA_E_NOMEM);
    mica_mem_fail_at(0);
    assert_int_equal(m->kind->generate(session, &good, NULL, &r, &err), MICA_OK);
    assert_memory_equal(r.rgb, first.rgb, 32 * 32 * 3);
    mica_diffusion_result_deinit(&r);
    mica_diffusion_result_deinit(&first);
    m->kind->session_close(&session);
    mica_backend_close(&be);
    golden_model_close(&m);
}

/* A prompt of any length and content gives a picture; what is cut is told. */
static void test_prompts(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder("qwen_image/model");
    static char letters[6000];
    memset(letters, 'x', sizeof letters - 1);
    const char *const prompts[] = {"", "\xff\xfe broken \xe2\x82", letters, "<|im_end|> {} {0}"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(prompts); i++) {
        stopper s = {0};
        const mica_image_options o = {.size = sizeof o,
                                      .prompt = prompts[i],
                                      .width = 32,
                                      .height = 32,
                                      .steps = 1,
                                      .progress = on_progress,
                                      .progress_user = &s};
        golden_run r;
        golden_generate_ok(&r, m, &(golden_setup){0}, &o);
        const mica_tensor *embeds = mica_trace_find(r.trace, "prompt.embeds");
        const mica_tensor *ids = mica_trace_find(r.trace, "prompt.input_ids");
        assert_true(embeds->shape_[1] >= 1 && embeds->shape_[1] <= 1024);
        assert_int_equal(ids->shape_[1], embeds->shape_[1] + 34);
        if (prompts[i] == letters && embeds->shape_[1] == 1024)
            assert_non_null(strstr(s.notices, "to 1024 tokens"));
        golden_run_close(&r);
    }
    golden_model_close(&m);
}

static void test_token_limit(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder("qwen_image/model");
    golden_case c;
    golden_run r;
    golden_case_open(&c, "qwen_image", "t2i_cfg");
    c.options.max_text_tokens = 8;
    golden_generate_ok(&r, m, &(golden_setup){0}, &c.options);
    /* The first eight rows are those of the whole prompt: the encoder is causal. */
    const mica_tensor *whole = mica_weights_find(c.expected, "prompt.embeds");
    const mica_tensor *cut = mica_trace_find(r.trace, "prompt.embeds");
    assert_int_equal(cut->shape_[1], 8);
    const mica_tensor first = mica_tensor_make(whole->data, whole->dtype, 3, cut->shape_);
    golden_assert_near("prompt.embeds", cut, &first, 1e-4);
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
}

static void test_inspect(void **state)
{
    (void)state;
    mica_text text = {0}, json = {0};
    mica_err err = {0};
    assert_int_equal(mica_model_inspect(SOURCE, &text, &json, &err), MICA_OK);
    assert_non_null(strstr(text.data, "Qwen-Image"));
    assert_non_null(strstr(json.data, "\"missing\":[]"));
    assert_null(strstr(json.data, "\"problems\""));
    mica_json parsed = {0};
    assert_int_equal(mica_json_parse(&parsed, "report", json.data, json.size, &err), MICA_OK);
    mica_json_close(&parsed);
    mica_text_deinit(&text);
    mica_text_deinit(&json);
    text = json = (mica_text){0};
    assert_int_equal(mica_model_inspect(SOURCE "/vae", &text, &json, &err), MICA_OK);
    assert_non_null(
        strstr(json.data, "\"missing\":[\"transformer\",\"text_encoder\",\"tokenizer\"]"));
    mica_text_deinit(&text);
    mica_text_deinit(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comfy_folder),
        cmocka_unit_test(test_parts_one_by_one),
        cmocka_unit_test(test_fp8_plain),
        cmocka_unit_test(test_fp8_scaled),
        cmocka_unit_test(test_all_problems_listed),
        cmocka_unit_test(test_missing_parts),
        cmocka_unit_test(test_variants_refused),
        cmocka_unit_test(test_zero_cond_model_makes_pictures),
        cmocka_unit_test(test_nan_is_an_error),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_cancel_and_notices),
        cmocka_unit_test(test_session_survives_failures),
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_token_limit),
        cmocka_unit_test(test_inspect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
