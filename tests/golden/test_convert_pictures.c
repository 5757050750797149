/* test_convert_pictures.c - whole picture models converted, every type.
 *
 *     model/ ─► a/ of the type ─────────► run A ──┬── near the reference's tensors, within what the type costs
 *                 └─► b/ of its numbers as f32 ─► run B ── the same to 1e-5: the folder is what it says
 *
 * And that nothing is left of what fails, whenever it fails. */
#include "convert_support.h"

#include "base/file.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

typedef struct folder_case {
    const char *system, *name, *last; /* the last latents of the case */
    const char *type;
    double
        cost; /* relative L2 of `last` to the reference, at most; these tiny random models feel it */
} folder_case;

static const folder_case CASES[] = {
    {"qwen_image", "t2i_cfg", "step2.latents", "q8", 0.02},
    {"qwen_image", "t2i_cfg", "step2.latents", "q4", 0.2},
    {"qwen_image", "t2i_cfg", "step2.latents", "int8", 0.02},
    {"qwen_image", "t2i_cfg", "step2.latents", "fp8", 0.1},
    {"qwen_image", "t2i_cfg", "step2.latents", "bf16", 0.02},
    {"z_image", "turbo", "step3.latents", "q6", 0.05},
    {"z_image", "turbo", "step3.latents", "q4", 0.2},
    {"z_image", "turbo", "step3.latents", "int8", 0.02},
    {"z_image", "turbo", "step3.latents", "fp8", 0.1},
    {"z_image", "turbo", "step3.latents", "f16", 0.02},
    {"flux2_klein", "distilled", "step3.latents", "q8", 0.02},
    {"flux2_klein", "distilled", "step3.latents", "q4", 0.2},
    {"flux2_klein", "distilled", "step3.latents", "int8", 0.02},
    {"flux2_klein", "distilled", "step3.latents", "fp8", 0.1},
    {"flux2_klein", "distilled", "step3.latents", "bf16", 0.02},
};

typedef struct places {
    char dir[256], from[512], packed[320], plain[320];
} places;

static void open_places(places *p, const char *system)
{
    golden_temp_folder(p->dir, sizeof p->dir);
    snprintf(p->from, sizeof p->from, "%s/%s/model", MICA_TEST_DATA, system);
    snprintf(p->packed, sizeof p->packed, "%s/packed", p->dir);
    snprintf(p->plain, sizeof p->plain, "%s/plain", p->dir);
}

static void run(golden_run *r, const char *folder, const golden_case *c)
{
    const mica_engine_options o = {.size = sizeof o, .model = folder};
    mica_model *m = golden_model_open(&o);
    golden_generate_ok(r, m, &(golden_setup){0}, &c->options);
    golden_model_close(&m);
}

static void check_case(const folder_case *f)
{
    places p;
    golden_case c;
    golden_run a, b;
    open_places(&p, f->system);
    convert_ok(p.from, p.packed, f->type, 200000);
    convert_ok(p.packed, p.plain, "f32", 0);
    golden_case_open(&c, f->system, f->name);
    run(&a, p.packed, &c);
    run(&b, p.plain, &c);
    golden_assert_near(f->last, mica_trace_find(a.trace, f->last),
                       mica_trace_find(b.trace, f->last), 1e-5);
    const double cost = golden_relative_l2(mica_trace_find(a.trace, f->last),
                                           mica_weights_find(c.expected, f->last));
    print_message("%s %s: relative L2 of %s to the reference %.3g\n", f->system, f->type, f->last,
                  cost);
    assert_true(cost < f->cost);
    golden_run_close(&a);
    golden_run_close(&b);
    golden_case_close(&c);
    golden_remove_folder(p.dir);
}

static void test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES); i++)
        check_case(&CASES[i]);
}

/* Shards, their index, what MLX's programs look for, and everything else as it was. */
static void test_contents(void **state)
{
    (void)state;
    places p;
    char part[340];
    open_places(&p, "z_image");
    convert_ok(p.from, p.packed, "q4", 200000);
    snprintf(part, sizeof part, "%s/transformer", p.packed);
    char *text = convert_read(part, "diffusion_pytorch_model.safetensors.index.json");
    assert_non_null(strstr(text, "diffusion_pytorch_model-00002-of-"));
    mica_mem_free(text);
    text = convert_read(part, "config.json");
    assert_non_null(strstr(text, "\"quantization\""));
    assert_non_null(strstr(text, "\"_class_name\""));
    mica_mem_free(text);
    static const char *const SAME[] = {"model_index.json", "vae/config.json",
                                       "scheduler/scheduler_config.json",
                                       "tokenizer/tokenizer.json"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(SAME); i++) {
        char *a = convert_read(p.from, SAME[i]), *b = convert_read(p.packed, SAME[i]);
        assert_string_equal(a, b);
        mica_mem_free(a);
        mica_mem_free(b);
    }
    golden_remove_folder(p.dir);
}

/* ------------------------------------------------------------------- GGUF -- */

static void expect_rows(const mica_weights *got, const char *name, int64_t first,
                        const mica_weights *from, const char *part, int64_t from_row, int64_t rows)
{
    const mica_tensor *a = mica_weights_find(got, name), *b = mica_weights_find(from, part);
    if (!a || !b)
        fail_msg("%s: absent", a ? part : name);
    const int64_t width = a->shape_[1];
    assert_int_equal(width, b->shape_[1]);
    for (int64_t i = 0; i < rows * width; i++)
        if (mica_tensor_read_f32(a, first * width + i) !=
            mica_tensor_read_f32(b, from_row * width + i))
            fail_msg("%s: row %d is not that of %s", name, (int)(first + i / width), part);
}

static void open_both(const char *system, const char *to, mica_weights **source,
                      mica_weights **result)
{
    char from[512];
    mica_err err = {0};
    snprintf(from, sizeof from, "%s/%s/model/transformer", MICA_TEST_DATA, system);
    convert_ok(from, to, "f32", 0);
    assert_int_equal(mica_weights_open(source, from, &err), MICA_OK);
    assert_int_equal(mica_weights_open(result, to, &err), MICA_OK);
}

/* The names and fusions that ComfyUI and stable-diffusion.cpp look for, from diffusers' folders. */
static void test_gguf_names(void **state)
{
    (void)state;
    places p;
    char to[300];
    mica_weights *a = NULL, *b = NULL;
    open_places(&p, "flux2_klein");
    snprintf(to, sizeof to, "%s/a.gguf", p.dir);
    open_both("flux2_klein", to, &a, &b);
    const int64_t D = mica_weights_find(a, "transformer_blocks.0.attn.to_q.weight")->shape_[0];
    static const char *const QKV[] = {"to_q", "to_k", "to_v"};
    for (int i = 0; i < 3; i++) {
        char part[96];
        snprintf(part, sizeof part, "transformer_blocks.0.attn.%s.weight", QKV[i]);
        expect_rows(b, "double_blocks.0.img_attn.qkv.weight", i * D, a, part, 0, D);
    }
    const mica_tensor *fused =
        mica_weights_find(a, "single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight");
    expect_rows(b, "single_blocks.0.linear1.weight", 0, a,
                "single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight", 0, fused->shape_[0]);
    expect_rows(b, "final_layer.adaLN_modulation.1.weight", 0, a, "norm_out.linear.weight", D, D);
    expect_rows(b, "final_layer.adaLN_modulation.1.weight", D, a, "norm_out.linear.weight", 0, D);
    assert_non_null(mica_weights_find(b, "double_blocks.0.txt_attn.norm.key_norm.scale"));
    assert_non_null(mica_weights_find(b, "single_blocks.0.norm.query_norm.scale"));
    assert_non_null(mica_weights_find(b, "double_stream_modulation_img.lin.weight"));
    assert_non_null(mica_weights_find(b, "time_in.in_layer.weight"));
    for (size_t i = 0; i < mica_weights_count(b); i++)
        assert_null(strstr(mica_weights_name(b, i), "transformer_blocks"));
    assert_int_equal(mica_weights_parameters(a), mica_weights_parameters(b));
    mica_weights_close(&a);
    mica_weights_close(&b);
    open_both("z_image", to, &a, &b);
    const int64_t W = mica_weights_find(a, "layers.0.attention.to_q.weight")->shape_[0];
    for (int i = 0; i < 3; i++) {
        char part[96];
        snprintf(part, sizeof part, "layers.0.attention.%s.weight", QKV[i]);
        expect_rows(b, "layers.0.attention.qkv.weight", i * W, a, part, 0, W);
    }
    assert_non_null(mica_weights_find(b, "noise_refiner.0.attention.q_norm.weight"));
    assert_non_null(mica_weights_find(b, "layers.0.attention.out.weight"));
    assert_non_null(mica_weights_find(b, "x_embedder.weight"));
    assert_non_null(mica_weights_find(b, "final_layer.linear.weight"));
    assert_int_equal(mica_weights_parameters(a), mica_weights_parameters(b));
    mica_weights_close(&a);
    mica_weights_close(&b);
    golden_remove_folder(p.dir);
}

/* ------------------------------------------------------------------ failing -- */

typedef struct stopper {
    int calls, at;
} stopper;

static bool stop_at(void *user, uint64_t done, uint64_t all)
{
    stopper *s = user;
    assert_true(done <= all);
    return s->calls++ < s->at;
}

/* Stopped anywhere, in a network or while a VAE is copied: nothing is left. */
static void test_stopped(void **state)
{
    (void)state;
    places p;
    mica_err err = {0};
    stopper s = {0};
    open_places(&p, "z_image");
    const mica_convert_request r = {.input = p.from, .output = p.packed, .type = "q8"};
    s.at = 1 << 20;
    assert_int_equal(convert_run(&r, stop_at, &s, &err), MICA_OK);
    const int all = s.calls;
    golden_remove_folder(p.packed);
    for (int at = 0; at < all; at += 1 + all / 12) {
        s = (stopper){.at = at};
        assert_int_equal(convert_run(&r, stop_at, &s, &err), MICA_E_CANCELLED);
        assert_int_equal(convert_count(p.dir), 0);
    }
    golden_remove_folder(p.dir);
}

/* No memory anywhere: an error, nothing left, nothing leaked (the sanitizers look). */
static void test_no_memory(void **state)
{
    (void)state;
    places p;
    open_places(&p, "z_image");
    const mica_convert_request r = {.input = p.from, .output = p.packed, .type = "q8"};
    mica_err err = {0};
    const uint64_t before = mica_mem_count();
    assert_int_equal(convert_run(&r, NULL, NULL, &err), MICA_OK);
    const uint64_t all = mica_mem_count() - before;
    golden_remove_folder(p.packed);
    for (uint64_t n = 1; n <= all; n += 1 + n / 9) {
        err.text[0] = '\0';
        mica_mem_fail_at(n);
        const mica_status st = convert_run(&r, NULL, NULL, &err);
        mica_mem_fail_at(0);
        if (st == MICA_OK) /* a hint that could be done without */
            golden_remove_folder(p.packed);
        else if (st != MICA_E_NOMEM || !err.text[0])
            fail_msg("allocation %d of %d: %s", (int)n, (int)all, err.text);
        assert_int_equal(convert_count(p.dir), 0);
    }
    golden_remove_folder(p.dir);
}

static void write_text(const char *path, const char *text)
{
    mica_err err = {0};
    mica_file_out out;
    assert_int_equal(mica_file_out_open(&out, path, &err), MICA_OK);
    assert_int_equal(mica_file_out_write(&out, text, strlen(text), &err), MICA_OK);
    assert_int_equal(mica_file_out_commit(&out, &err), MICA_OK);
}

static void test_refusals(void **state)
{
    (void)state;
    places p;
    char inner[800], part[700];
    open_places(&p, "z_image");
    mica_convert_request r = {.input = p.from, .output = p.packed, .type = "q9"};
    convert_fails(&r, "type 'q9' is not known", p.dir);
    r.type = "q8";
    snprintf(inner, sizeof inner, "%s/inner", p.packed);
    convert_ok(p.from, p.packed, "q8", 0);
    convert_fails(&r, "it is there already; --force replaces it", p.dir);
    r = (mica_convert_request){.input = p.packed, .output = inner, .type = "q8"};
    convert_fails(&r, "which is to be read", p.packed);
    snprintf(part, sizeof part, "%s/transformer", p.packed);
    r = (mica_convert_request){.input = part, .output = p.packed, .type = "q8"};
    convert_fails(&r, "which is to be read", p.packed);
    snprintf(inner, sizeof inner, "%s/x.gguf", part);
    r = (mica_convert_request){.input = part, .output = inner, .type = "q8"};
    convert_fails(&r, "whose files are read as one model", part);
    r = (mica_convert_request){.input = MICA_TEST_DATA "/speech", .output = p.plain, .type = "q8"};
    convert_fails(&r, "no model that is converted as a whole", p.dir);
    /* told before the work: a configuration that is no object, a model without a transformer */
    snprintf(part, sizeof part, "%s/transformer/config.json", p.packed);
    write_text(part, "[1]");
    r = (mica_convert_request){.input = p.packed, .output = p.plain, .type = "q8"};
    convert_fails(&r, "its config.json is no object", p.dir);
    write_text(part, "{");
    convert_fails(&r, "config", p.dir);
    snprintf(part, sizeof part, "%s/transformer", p.packed);
    golden_remove_folder(part);
    convert_fails(&r, "it has no folder transformer/", p.dir);
    golden_remove_folder(p.dir);
}

/* The old folder goes when the new one is whole, not before. */
static void test_replaced(void **state)
{
    (void)state;
    places p;
    mica_err err = {0};
    mica_convert_folder f;
    stopper s = {.at = 3};
    open_places(&p, "z_image");
    convert_ok(p.from, p.packed, "q8", 0);
    const mica_convert_request r = {.input = p.from, .output = p.packed, .type = "q4"};
    assert_int_equal(mica_convert_folder_make(&f, &r, true, &err), MICA_OK);
    assert_int_equal(mica_convert_folder_run(&f, true, stop_at, &s, &err), MICA_E_CANCELLED);
    char *text = convert_read(p.packed, "transformer/config.json");
    assert_null(strstr(text, "\"bits\":\t4"));
    mica_mem_free(text);
    assert_int_equal(mica_convert_folder_run(&f, true, NULL, NULL, &err), MICA_OK);
    mica_convert_folder_deinit(&f);
    text = convert_read(p.packed, "transformer/config.json");
    assert_non_null(strstr(text, "\"bits\":\t4"));
    mica_mem_free(text);
    assert_int_equal(convert_count(p.dir), 1);
    golden_remove_folder(p.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),      cmocka_unit_test(test_contents),
        cmocka_unit_test(test_gguf_names), cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_no_memory),  cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_replaced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
