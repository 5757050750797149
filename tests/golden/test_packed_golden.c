/* test_packed_golden.c - picture models from packed files that mica_convert writes.
 *
 *     model/transformer, text_encoder ─convert─► a.gguf, a.safetensors ─► run A, f32
 *                                                     └── every number decoded ─► plain f32 file ─► run B, f32
 *
 * A and B must agree as two orders of f32 sums do: the encoding may cost accuracy, reading and multiplying
 * may not. (What the blocks mean is held to another implementation in test_packed_files.c.) Run A is also
 * compared with the reference's tensors, within what the type costs these tiny random models. */
#include "golden_copy.h"

#include "models/convert_folder.h"
#include "nn/lm_gguf.h"

#include <stdio.h>
#include <string.h>

typedef struct packed_case {
    const char *system, *name, *last; /* the last latents of the case */
    const char *type, *ext;
    double cost; /* relative L2 of `last` to the reference, at most */
} packed_case;

static const packed_case CASES[] = {
    {"qwen_image", "t2i_cfg", "step2.latents", "q8", ".gguf", 0.02},
    {"qwen_image", "t2i_cfg", "step2.latents", "q4", ".gguf", 0.2},
    {"qwen_image", "t2i_cfg", "step2.latents", "q5", ".safetensors", 0.1},
    {"qwen_image", "t2i_cfg", "step2.latents", "int8", ".safetensors", 0.02},
    {"z_image", "turbo", "step3.latents", "q8", ".gguf", 0.02},
    {"z_image", "turbo", "step3.latents", "q5", ".gguf", 0.1},
    {"z_image", "turbo", "step3.latents", "q4", ".safetensors", 0.2},
    {"flux2_klein", "distilled", "step3.latents", "q8", ".safetensors", 0.02},
    {"flux2_klein", "distilled", "step3.latents", "q5", ".gguf", 0.1},
    {"flux2_klein", "distilled", "step3.latents", "fp8", ".safetensors", 0.1},
};

typedef struct packed_files {
    char dir[256], model[512], vae[600], tokenizer[600];
    char transformer[512], text_encoder[512];             /* packed */
    char plain_transformer[512], plain_text_encoder[512]; /* the same numbers as f32 */
} packed_files;

static void convert(const char *from, const char *to, const char *type)
{
    mica_convert_plan plan;
    mica_err err = {0};
    const mica_convert_request request = {.input = from, .output = to, .type = type};
    if (mica_convert_plan_make(&plan, &request, &err) != MICA_OK)
        fail_msg("%s", err.text);
    if (mica_convert_run(&plan, NULL, NULL, NULL, &err) != MICA_OK)
        fail_msg("%s", err.text);
    mica_convert_plan_deinit(&plan);
}

/* Every tensor of a weight file as f32, but what is no weight. */
static void decode(const char *from, const char *to)
{
    mica_weights *w = NULL;
    mica_err err = {0};
    golden_copy *f = golden_copy_new();
    if (mica_lm_weights_open(&w, from, &err) != MICA_OK)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < mica_weights_count(w); i++) {
        const mica_tensor *t = mica_weights_tensor(w, i);
        const int64_t n = mica_tensor_count(t);
        if (!mica_tensor_is_weight(t)) {
            golden_copy_add(f, mica_weights_name(w, i), t);
            continue;
        }
        float *data = golden_copy_bytes(f, (size_t)n * sizeof *data);
        for (int64_t k = 0; k < n; k++)
            data[k] = mica_tensor_read_f32(t, k);
        const mica_tensor plain = mica_tensor_make(data, MICA_DTYPE_F32, t->ndim, t->shape_);
        golden_copy_add(f, mica_weights_name(w, i), &plain);
    }
    golden_copy_write(&f, to);
    mica_weights_close(&w);
}

/* Configurations beside the plain files; the packed ones carry theirs inside. */
static void copy_config(const packed_files *f, const char *part, const char *weights)
{
    char from[700], to[700];
    snprintf(from, sizeof from, "%s/%s/config.json", f->model, part);
    snprintf(to, sizeof to, "%.*s.json", (int)(strlen(weights) - strlen(".safetensors")), weights);
    golden_copy_text(from, to);
}

static void make_files(packed_files *f, const packed_case *c)
{
    char from[700];
    golden_temp_folder(f->dir, sizeof f->dir);
    snprintf(f->model, sizeof f->model, "%s/%s/model", MICA_TEST_DATA, c->system);
    snprintf(f->vae, sizeof f->vae, "%s/vae", f->model);
    snprintf(f->tokenizer, sizeof f->tokenizer, "%s/tokenizer", f->model);
    snprintf(f->transformer, sizeof f->transformer, "%s/a%s", f->dir, c->ext);
    snprintf(f->text_encoder, sizeof f->text_encoder, "%s/b%s", f->dir, c->ext);
    snprintf(f->plain_transformer, sizeof f->plain_transformer, "%s/c.safetensors", f->dir);
    snprintf(f->plain_text_encoder, sizeof f->plain_text_encoder, "%s/d.safetensors", f->dir);
    snprintf(from, sizeof from, "%s/transformer", f->model);
    convert(from, f->transformer, c->type);
    decode(f->transformer, f->plain_transformer);
    copy_config(f, "transformer", f->plain_transformer);
    snprintf(from, sizeof from, "%s/text_encoder", f->model);
    convert(from, f->text_encoder, c->type);
    decode(f->text_encoder, f->plain_text_encoder);
    copy_config(f, "text_encoder", f->plain_text_encoder);
}

static void run(golden_run *r, const packed_files *f, bool packed, const golden_setup *setup,
                golden_case *c)
{
    const mica_engine_options o = {.size = sizeof o,
                                   .model = f->model,
                                   .transformer = packed ? f->transformer : f->plain_transformer,
                                   .text_encoder =
                                       packed ? f->text_encoder : f->plain_text_encoder};
    mica_model *m = golden_model_open(&o);
    golden_generate_ok(r, m, setup, &c->options);
    golden_model_close(&m);
}

static void check_case(const packed_case *p)
{
    packed_files f;
    golden_case c;
    golden_run a, b, half;
    make_files(&f, p);
    golden_case_open(&c, p->system, p->name);
    run(&a, &f, true, &(golden_setup){0}, &c);
    run(&b, &f, false, &(golden_setup){0}, &c);
    golden_assert_near(p->last, mica_trace_find(a.trace, p->last),
                       mica_trace_find(b.trace, p->last), 1e-5);
    const mica_tensor *reference = mica_weights_find(c.expected, p->last);
    assert_non_null(reference);
    const double cost = golden_relative_l2(mica_trace_find(a.trace, p->last), reference);
    print_message("%s %s %s%s: relative L2 of %s to the reference %.3g\n", p->system, p->name,
                  p->type, p->ext, p->last, cost);
    assert_true(cost > 1e-5 && cost < p->cost);
    run(&half, &f, true, &(golden_setup){.precision = MICA_PRECISION_BF16}, &c);
    golden_assert_near(p->last, mica_trace_find(half.trace, p->last),
                       mica_trace_find(a.trace, p->last), 3e-2);
    golden_run_close(&a);
    golden_run_close(&b);
    golden_run_close(&half);
    golden_case_close(&c);
    golden_remove_folder(f.dir);
}

static void test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(CASES); i++)
        check_case(&CASES[i]);
}

static void expect_refusal(const char *from, const char *to, const char *type, const char *text)
{
    mica_convert_plan plan;
    mica_err err = {0};
    bool folder;
    const mica_convert_request request = {.input = from, .output = to, .type = type};
    assert_true(mica_convert_check(&request, &folder, &err) != MICA_OK ||
                mica_convert_plan_make(&plan, &request, &err) != MICA_OK);
    if (!strstr(err.text, text))
        fail_msg("%s\n  expected %s", err.text, text);
}

static void test_refusals(void **state)
{
    (void)state;
    const char *transformer = MICA_TEST_DATA "/qwen_image/model/transformer";
    expect_refusal(transformer, "x.bin", "q8", "ends in .safetensors or .gguf");
    expect_refusal(transformer, "x.gguf", "q7", "type 'q7' is not known");
    expect_refusal(transformer, "x.gguf", "fp8", "no type fp8");
    expect_refusal(MICA_TEST_DATA "/qwen_image/model", "x.gguf", "q8", "this is a whole model");
    expect_refusal(MICA_TEST_DATA "/qwen_image/model/vae", "x.gguf", "q8", "GGUF is written of");
    expect_refusal(MICA_TEST_DATA "/absent", "x.gguf", "q8", "no such file");
}

/* Cancelled or failing: neither the file nor its temporary stays. */
static bool stop_at_once(void *user, uint64_t done, uint64_t all)
{
    (void)user;
    return done == all;
}

static void test_cancelled(void **state)
{
    (void)state;
    char dir[256], to[512];
    mica_convert_plan plan;
    mica_err err = {0};
    golden_temp_folder(dir, sizeof dir);
    snprintf(to, sizeof to, "%s/x.gguf", dir);
    const mica_convert_request request = {
        .input = MICA_TEST_DATA "/z_image/model/transformer", .output = to, .type = "q8"};
    assert_int_equal(mica_convert_plan_make(&plan, &request, &err), MICA_OK);
    assert_int_equal(mica_convert_run(&plan, NULL, stop_at_once, NULL, &err), MICA_E_CANCELLED);
    mica_convert_plan_deinit(&plan);
    char **names = NULL;
    size_t count = 0;
    assert_int_equal(mica_path_list(dir, &names, &count, &err), MICA_OK);
    assert_int_equal(count, 0);
    mica_path_list_free(&names, count);
    golden_remove_folder(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
