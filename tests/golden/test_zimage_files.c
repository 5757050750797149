/* test_zimage_files.c - Z-Image in the other layouts users have, and broken ones.
 *
 * Layouts are made from the tiny model of the golden vectors (golden_layout.h). */
#include "golden_layout.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define SYSTEM "z_image"
#define MODEL  "z_image/model"
#define SOURCE MICA_TEST_DATA "/" MODEL
#define BLOCKS "layers."

/* ------------------------------------------------------------- ComfyUI's spelling -- */

static const golden_fusion QKV = {
    {"attention.to_q.weight", "attention.to_k.weight", "attention.to_v.weight", NULL},
    "attention.qkv.weight"};

/* diffusers to ComfyUI and GGUF, the inverse of what opening does. */
static void to_comfy(const char *name, char out[256])
{
    static const char *const RULES[][2] = {{"all_x_embedder.2-1.", "x_embedder."},
                                           {"all_final_layer.2-1.", "final_layer."},
                                           {"attention.to_out.0.", "attention.out."},
                                           {"attention.norm_q.", "attention.q_norm."},
                                           {"attention.norm_k.", "attention.k_norm."}};
    snprintf(out, 256, "%s", name);
    for (size_t i = 0; i < MICA_ARRAY_LEN(RULES); i++) {
        const char *at = strstr(name, RULES[i][0]);
        if (at)
            snprintf(out, 256, "%.*s%s%s", (int)(at - name), name, RULES[i][1],
                     at + strlen(RULES[i][0]));
    }
}

static golden_layout comfy_spec(void)
{
    return (golden_layout){.prefix = "model.diffusion_model.",
                           .rename = to_comfy,
                           .fusion = &QKV,
                           .extra = "model.diffusion_model.norm_final.weight"};
}

static const golden_layout PLAIN = {0};

static void run_case(golden_run *r, const mica_engine_options *options, golden_case *c)
{
    mica_model *m = golden_model_open(options);
    golden_generate_ok(r, m, &(golden_setup){0}, &c->options);
    golden_model_close(&m);
}

/* Every number of the reference, whatever the layout. */
static void check_case(const mica_engine_options *options, const char *name)
{
    golden_case c;
    golden_run r;
    golden_case_open(&c, SYSTEM, name);
    run_case(&r, options, &c);
    golden_assert_case(&c, r.trace, 1e-4);
    golden_run_close(&r);
    golden_case_close(&c);
}

static void test_comfy_folder(void **state)
{
    (void)state;
    golden_comfy c;
    const golden_layout transformer = comfy_spec();
    golden_comfy_make(&c, MODEL, &transformer, &PLAIN, &PLAIN);
    const mica_engine_options o = golden_comfy_options(&c);
    check_case(&o, "cfg");
    golden_comfy_remove(&c);
}

/* All sizes come from shapes: of the transformer whole, of the text encoder but for its rotary
 * base, which is the released one. The VAE's groups cannot be seen. */
static void test_no_configs(void **state)
{
    (void)state;
    golden_comfy c;
    char scheduler[400];
    const golden_layout transformer = comfy_spec();
    golden_comfy_make(&c, MODEL, &transformer, &PLAIN, &PLAIN);
    golden_comfy_drop_config(c.transformer);
    golden_comfy_drop_config(c.text_encoder);
    snprintf(scheduler, sizeof scheduler, "%s/scheduler_config.json", c.dir);
    assert_int_equal(remove(scheduler), 0);
    const mica_engine_options o = golden_comfy_options(&c);
    check_case(&o, "turbo");
    golden_comfy_remove(&c);
}

static void test_parts_one_by_one(void **state)
{
    (void)state;
    golden_comfy c;
    const golden_layout bare = {.from = "model.", .to = ""};
    const golden_layout vae = {.prefix = "first_stage_model.", .extra = "something.else"};
    golden_comfy_make(&c, MODEL, &(golden_layout){.prefix = "transformer."}, &bare, &vae);
    const mica_engine_options o = {.size = sizeof o,
                                   .transformer = c.transformer,
                                   .text_encoder = c.text_encoder,
                                   .vae = c.vae,
                                   .tokenizer = SOURCE "/tokenizer/tokenizer.json"};
    check_case(&o, "cfg_norm");
    golden_comfy_remove(&c);
}

/* The last layer and what stands behind it are not needed, so they may be missing. */
static void test_unused_layer_may_be_missing(void **state)
{
    (void)state;
    golden_comfy c;
    golden_comfy_make(&c, MODEL, &PLAIN,
                      &(golden_layout){.drop = "model.layers.2.mlp.up_proj.weight"}, &PLAIN);
    const mica_engine_options o = golden_comfy_options(&c);
    check_case(&o, "turbo");
    golden_comfy_remove(&c);
}

/* ------------------------------------------------------------------------- fp8 -- */

/* Fused and split files of the same encoding; a scale of the fused tensor is one for q, k and v. */
static void compare_encodings(golden_encoding packed, golden_encoding decoded)
{
    golden_comfy a, b;
    golden_case c;
    golden_run x, y;
    golden_layout comfy = comfy_spec(), plain = comfy_spec();
    comfy.encoding = packed;
    plain.encoding = decoded;
    comfy.encoded = plain.encoded = BLOCKS;
    golden_comfy_make(&a, MODEL, &comfy, &PLAIN, &PLAIN);
    golden_comfy_make(&b, MODEL, &plain, &PLAIN, &PLAIN);
    golden_case_open(&c, SYSTEM, "turbo");
    const mica_engine_options oa = golden_comfy_options(&a), ob = golden_comfy_options(&b);
    run_case(&x, &oa, &c);
    run_case(&y, &ob, &c);
    golden_assert_near("step3.latents", mica_trace_find(x.trace, "step3.latents"),
                       mica_trace_find(y.trace, "step3.latents"), 1e-5);
    /* And fp8 is fp8: near the original, but not equal to it. */
    const double loss = golden_relative_l2(mica_trace_find(x.trace, "step0.cond"),
                                           mica_weights_find(c.expected, "step0.cond"));
    print_message("relative L2 of step0.cond from fp8 weights: %.3g\n", loss);
    assert_true(loss > 1e-3 && loss < 0.2);
    golden_run_close(&x);
    golden_run_close(&y);
    golden_case_close(&c);
    golden_comfy_remove(&a);
    golden_comfy_remove(&b);
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

/* The hash tells weights, not layouts of a directory: it does not change when q, k, v are split. */
static void test_hash_of_a_fused_file(void **state)
{
    (void)state;
    golden_comfy c;
    mica_weights *w = NULL;
    mica_err err = {0};
    char expected[17];
    const golden_layout transformer = comfy_spec();
    golden_comfy_make(&c, MODEL, &transformer, &PLAIN, &PLAIN);
    const mica_engine_options o = golden_comfy_options(&c);
    mica_model *m = golden_model_open(&o);
    assert_int_equal(mica_weights_open(&w, c.transformer, &err), MICA_OK);
    mica_weights_hash(w, expected);
    assert_string_equal(m->hash, expected);
    mica_weights_close(&w);
    golden_model_close(&m);
    golden_comfy_remove(&c);
}

/* -------------------------------------------------------------- wrong and broken -- */

static void expect_copy_refused(const golden_layout *transformer, const golden_layout *text,
                                const golden_layout *vae, mica_status status,
                                const char *const *words)
{
    golden_comfy c;
    golden_comfy_make(&c, MODEL, transformer, text, vae);
    const mica_engine_options o = golden_comfy_options(&c);
    golden_expect_refused(&o, status, words);
    golden_comfy_remove(&c);
}

/* Two parts are wrong in three ways: one message tells all three. */
static void test_all_problems_listed(void **state)
{
    (void)state;
    expect_copy_refused(
        &(golden_layout){.drop = "context_refiner.1.attention.to_k.weight",
                         .reshape = "all_final_layer.2-1.linear.weight"},
        &(golden_layout){.drop = "model.layers.1.mlp.up_proj.weight"}, &PLAIN, MICA_E_FORMAT,
        (const char *const[]){"context_refiner.1.attention.to_k.weight: missing, expected [64, 64]",
                              "all_final_layer.2-1.linear.weight: got [64, 63] bf16, expected "
                              "[64, 64]",
                              "model.layers.1.mlp.up_proj.weight: missing", "2 of its", NULL});
}

/* Named, with the right one named beside it. */
static void test_wrong_text_encoders(void **state)
{
    (void)state;
    const golden_layout vl = {.from = "model.", .to = "model.language_model."};
    const golden_layout visual = {.extra = "visual.patch_embed.proj.weight"};
    expect_copy_refused(&PLAIN, &vl, &PLAIN, MICA_E_UNSUPPORTED,
                        (const char *const[]){"those of a Qwen3-VL", "text encoder of Z-Image is",
                                              "hidden size 48", NULL});
    expect_copy_refused(&PLAIN, &visual, &PLAIN, MICA_E_UNSUPPORTED,
                        (const char *const[]){"those of a Qwen3-VL", NULL});
    const mica_engine_options qwen_image = {.size = sizeof qwen_image,
                                            .model = SOURCE,
                                            .text_encoder =
                                                MICA_TEST_DATA "/qwen_image/model/text_encoder"};
    golden_expect_refused(&qwen_image, MICA_E_UNSUPPORTED,
                          (const char *const[]){"those of a Qwen2.5", "Z-Image", NULL});
    const mica_engine_options flux = {.size = sizeof flux,
                                      .model = SOURCE,
                                      .text_encoder =
                                          MICA_TEST_DATA "/flux2_klein/model/text_encoder"};
    golden_expect_refused(&flux, MICA_E_UNSUPPORTED,
                          (const char *const[]){"this is a Qwen3 of hidden size",
                                                "Z-Image is a Qwen3 of hidden size 48", NULL});
}

static void test_wrong_vae(void **state)
{
    (void)state;
    const mica_engine_options flux = {
        .size = sizeof flux, .model = SOURCE, .vae = MICA_TEST_DATA "/flux2_klein/model/vae"};
    golden_expect_refused(&flux, MICA_E_FORMAT,
                          (const char *const[]){"the VAE of 32", "FLUX.1's VAE", NULL});
    const mica_engine_options none = {
        .size = sizeof none, .model = SOURCE, .vae = SOURCE "/text_encoder"};
    golden_expect_refused(&none, MICA_E_FORMAT,
                          (const char *const[]){"not an AutoencoderKL", "FLUX.1's VAE", NULL});
}

static void test_missing_parts(void **state)
{
    (void)state;
    const mica_engine_options o = {.size = sizeof o, .transformer = SOURCE "/transformer"};
    golden_expect_refused(&o, MICA_E_MISSING,
                          (const char *const[]){"Z-Image is missing", "Qwen3-4B", "FLUX.1",
                                                "tokenizer", "--vae", NULL});
}

static void test_variants_and_damage(void **state)
{
    (void)state;
    expect_copy_refused(&(golden_layout){.extra = "siglip_pad_token"}, &PLAIN, &PLAIN,
                        MICA_E_UNSUPPORTED, (const char *const[]){"Z-Image-Omni", NULL});
    expect_copy_refused(
        &(golden_layout){.extra = "layers.0.attention.qkv.weight"}, &PLAIN, &PLAIN, MICA_E_FORMAT,
        (const char *const[]){"layers.0.attention.qkv.weight", "to_q.weight are there", NULL});
}

static void test_nan_is_an_error(void **state)
{
    (void)state;
    static const struct {
        const char *transformer, *text, *vae, *says;
    } POISONS[] = {{"layers.0.feed_forward.w2.weight", NULL, NULL, "after step 1"},
                   {NULL, "model.layers.0.mlp.up_proj.weight", NULL, "text encoder"},
                   {NULL, NULL, "decoder.conv_in.weight", "VAE"}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(POISONS); i++) {
        golden_comfy c;
        golden_run r;
        golden_comfy_make(&c, MODEL, &(golden_layout){.poison = POISONS[i].transformer},
                          &(golden_layout){.poison = POISONS[i].text},
                          &(golden_layout){.poison = POISONS[i].vae});
        const mica_engine_options o = golden_comfy_options(&c);
        const mica_image_options image = {
            .size = sizeof image, .prompt = "a fox", .width = 32, .height = 32, .steps = 1};
        mica_model *m = golden_model_open(&o);
        golden_generate(&r, m, &(golden_setup){0}, &image);
        assert_int_equal(r.status, MICA_E_NUMERIC);
        if (!strstr(r.err.text, POISONS[i].says))
            fail_msg("%s", r.err.text);
        golden_run_close(&r);
        golden_model_close(&m);
        golden_comfy_remove(&c);
    }
}

/* --------------------------------------------------------------------- options -- */

static void expect_run_fails(const mica_model *m, const mica_image_options *o, const char *text)
{
    golden_run r;
    golden_generate(&r, m, &(golden_setup){.no_trace = true}, o);
    assert_int_equal(r.status, MICA_E_USAGE);
    if (!strstr(r.err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", r.err.text, text);
    golden_run_close(&r);
}

static void test_bad_options(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    const mica_image_options good = {
        .size = sizeof good, .prompt = "a fox", .width = 32, .height = 32, .steps = 1};
    mica_image_options o = good;
    o.cfg_normalization = -0.5;
    expect_run_fails(m, &o, "guidance normalization -0.5");
    o.cfg_normalization = 1e9;
    expect_run_fails(m, &o, "guidance normalization 1e+09");
    o = good;
    o.cfg_truncation = 1.5;
    expect_run_fails(m, &o, "guidance truncation 1.5");
    o.cfg_truncation = -1.0;
    expect_run_fails(m, &o, "guidance truncation -1");
    o = good;
    o.max_text_tokens = 513;
    expect_run_fails(m, &o, "513 text tokens");
    o = good;
    o.width = 8192; /* 512 tokens: the last position the axis has */
    o.height = 16;
    golden_run r;
    golden_generate_ok(&r, m, &(golden_setup){.no_trace = true}, &o);
    golden_run_close(&r);
    golden_model_close(&m);
}

typedef struct listener {
    char notices[512];
} listener;

static bool on_progress(void *user, const mica_progress *p)
{
    listener *l = user;
    if (p->notice)
        snprintf(l->notices + strlen(l->notices), sizeof l->notices - strlen(l->notices), "%s;",
                 p->notice);
    return true;
}

/* Any prompt gives a picture; what is cut is told; the limit counts the template. */
static void test_prompts(void **state)
{
    (void)state;
    mica_model *m = golden_model_open_folder(MODEL);
    static char letters[6000];
    memset(letters, 'x', sizeof letters - 1);
    const char *const prompts[] = {"", "\xff\xfe broken \xe2\x82", letters, "<|im_end|> {} {0}"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(prompts); i++) {
        listener l = {""};
        const mica_image_options o = {.size = sizeof o,
                                      .prompt = prompts[i],
                                      .width = 32,
                                      .height = 32,
                                      .steps = 1,
                                      .progress = on_progress,
                                      .progress_user = &l};
        golden_run r;
        golden_generate_ok(&r, m, &(golden_setup){0}, &o);
        const mica_tensor *embeds = mica_trace_find(r.trace, "prompt.embeds");
        assert_in_range(embeds->shape_[0], 8, 512);
        assert_true((prompts[i] == letters) == (strstr(l.notices, "to 512 tokens") != NULL));
        golden_run_close(&r);
    }
    golden_model_close(&m);
}

static void test_inspect(void **state)
{
    (void)state;
    mica_text text = {0}, json = {0};
    mica_err err = {0};
    assert_int_equal(mica_model_inspect(SOURCE, &text, &json, &err), MICA_OK);
    assert_non_null(strstr(text.data, "Z-Image (z-image)"));
    assert_non_null(strstr(json.data, "\"family\":\"z-image\""));
    assert_non_null(strstr(json.data, "\"missing\":[]"));
    assert_null(strstr(json.data, "\"problems\""));
    mica_text_deinit(&text);
    mica_text_deinit(&json);
    text = json = (mica_text){0};
    assert_int_equal(mica_model_inspect(SOURCE "/transformer", &text, &json, &err), MICA_OK);
    assert_non_null(strstr(json.data, "\"family\":\"z-image\""));
    assert_non_null(strstr(json.data, "\"missing\":[\"text_encoder\",\"vae\",\"tokenizer\"]"));
    mica_text_deinit(&text);
    mica_text_deinit(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comfy_folder),
        cmocka_unit_test(test_no_configs),
        cmocka_unit_test(test_parts_one_by_one),
        cmocka_unit_test(test_unused_layer_may_be_missing),
        cmocka_unit_test(test_fp8_plain),
        cmocka_unit_test(test_fp8_scaled),
        cmocka_unit_test(test_hash_of_a_fused_file),
        cmocka_unit_test(test_all_problems_listed),
        cmocka_unit_test(test_wrong_text_encoders),
        cmocka_unit_test(test_wrong_vae),
        cmocka_unit_test(test_missing_parts),
        cmocka_unit_test(test_variants_and_damage),
        cmocka_unit_test(test_nan_is_an_error),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_inspect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
