/* test_qwen_image_layered.c - Qwen-Image-Layered against the reference's numbers, and what it refuses.
 *
 * layered_model holds what differs from edit_model: transformer, VAE, index (tools/golden/layered_case.py). */
#include "golden_support.h"

#include "base/mem.h"

#include <string.h>

#define DATA MICA_TEST_DATA "/qwen_image/"

static const golden_setup F32 = {0};
static const golden_setup QUIET = {.no_trace = true};

static mica_model *open_model(void)
{
    return golden_model_open(&(mica_engine_options){.size = sizeof(mica_engine_options),
                                                    .model = DATA "layered_model",
                                                    .text_encoder = DATA "edit_model/text_encoder",
                                                    .tokenizer = DATA "edit_model/tokenizer"});
}

static void open_case(golden_case *c)
{
    golden_case_open(c, "qwen_image", "layered");
    c->options.layers = 2;
}

static void test_f32(void **state)
{
    (void)state;
    golden_case c;
    golden_run r;
    mica_model *m = open_model();
    open_case(&c);
    golden_generate_ok(&r, m, &F32, &c.options);
    golden_assert_case(&c, r.trace, 1e-4);
    const mica_tensor *pictures = mica_weights_find(c.expected, "image_u8");
    assert_int_equal(r.result.count, 2);
    assert_int_equal(r.result.channels, 4);
    assert_true(r.result.one_seed);
    assert_int_equal(mica_tensor_size(pictures), 2 * 4 * r.result.width * r.result.height);
    assert_in_range(
        golden_largest_difference(r.result.rgb, pictures->data, mica_tensor_size(pictures)), 0, 1);
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
}

/* bf16 and int8 stay near f32 on the transformer's own output; the noise is given. */
static void test_precisions(void **state)
{
    (void)state;
    static const mica_precision PRECISIONS[] = {MICA_PRECISION_BF16, MICA_PRECISION_INT8};
    golden_case c;
    golden_run r;
    mica_model *m = open_model();
    open_case(&c);
    for (size_t i = 0; i < MICA_ARRAY_LEN(PRECISIONS); i++) {
        golden_generate_ok(&r, m, &(golden_setup){.precision = PRECISIONS[i]}, &c.options);
        golden_assert_near("step0.cond", mica_trace_find(r.trace, "step0.cond"),
                           mica_weights_find(c.expected, "step0.cond"), i ? 3e-2 : 2e-2);
        golden_run_close(&r);
    }
    golden_case_close(&c);
    golden_model_close(&m);
}

/* A seed gives what a file with its noise gives, for any number of threads. */
static void test_noise_and_threads(void **state)
{
    (void)state;
    golden_case c;
    golden_run a, b;
    mica_model *m = open_model();
    open_case(&c);
    golden_generate_ok(&a, m, &(golden_setup){.threads = 1}, &c.options);
    golden_generate_ok(&b, m, &(golden_setup){.threads = 3}, &c.options);
    golden_assert_equal("step1.latents", mica_trace_find(b.trace, "step1.latents"),
                        mica_trace_find(a.trace, "step1.latents"));
    golden_run_close(&b);
    c.options.noise_path = c.expected_path;
    golden_generate_ok(&b, m, &F32, &c.options);
    golden_assert_near("step1.latents", mica_trace_find(b.trace, "step1.latents"),
                       mica_trace_find(a.trace, "step1.latents"), 1e-5);
    golden_run_close(&a);
    golden_run_close(&b);
    golden_case_close(&c);
    golden_model_close(&m);
}

static void test_counters(void **state)
{
    (void)state;
    golden_case c;
    golden_run r;
    mica_model *m = open_model();
    open_case(&c);
    c.options.layers = 5;
    c.options.steps = 3;
    golden_generate_ok(&r, m, &QUIET, &c.options);
    assert_int_equal(r.result.count, 5);
    assert_int_equal(r.result.block_allocations, 0);
    assert_int_equal(r.result.rope_builds, 1);
    assert_int_equal(r.result.passes, 3);
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
}

static uint8_t test_pixels[64 * 64 * 3];
static const mica_image_input PICTURE = {.rgb = test_pixels, .width = 64, .height = 64};

static mica_image_options small_options(void)
{
    return (mica_image_options){.size = sizeof(mica_image_options),
                                .prompt = "a fox",
                                .steps = 1,
                                .ref_pixels = 1024,
                                .inputs = &PICTURE,
                                .input_count = 1,
                                .layers = 1};
}

/* A picture without transparency is an opaque one. */
static void test_rgb_input(void **state)
{
    (void)state;
    golden_run r;
    mica_model *m = open_model();
    const mica_image_options o = small_options();
    golden_generate_ok(&r, m, &F32, &o);
    const mica_tensor *in = mica_trace_find(r.trace, "vae_encode.0.input"); /* [1, 4, 1, Y, X] */
    assert_int_equal(in->shape_[1], 4);
    const int64_t n = in->shape_[3] * in->shape_[4];
    for (int64_t i = 0; i < n; i++) {
        assert_true(mica_tensor_read_f32(in, i) == -1.0f);
        assert_true(mica_tensor_read_f32(in, 3 * n + i) == 1.0f);
    }
    assert_int_equal(r.result.count, 1);
    golden_run_close(&r);
    golden_model_close(&m);
}

static void expect_fails(const mica_model *m, const mica_image_options *o, const char *word)
{
    golden_run r;
    golden_generate(&r, m, &QUIET, o);
    if (r.status != MICA_E_USAGE || !strstr(r.err.text, word))
        fail_msg("got %s (%s), expected \"%s\"", mica_status_name(r.status), r.err.text, word);
    assert_null(r.result.rgb);
    golden_run_close(&r);
}

static void test_refusals(void **state)
{
    (void)state;
    const mica_image_input two[] = {PICTURE, PICTURE};
    mica_model *m = open_model();
    mica_image_options o = small_options();
    o.input_count = 0;
    expect_fails(m, &o, "-i");
    o = small_options();
    o.inputs = two;
    o.input_count = 2;
    expect_fails(m, &o, "at most 1");
    o = small_options();
    o.prompt = " ";
    expect_fails(m, &o, "prompt");
    o = small_options();
    o.layers = -1;
    expect_fails(m, &o, "-1 layers");
    o.layers = 64;
    expect_fails(m, &o, "64 layers");
    o = small_options();
    o.batch = 2;
    expect_fails(m, &o, "batch 2");
    o = small_options();
    o.strength = 0.5;
    expect_fails(m, &o, "strength");
    o = small_options();
    o.mask = &PICTURE;
    expect_fails(m, &o, "mask");
    golden_model_close(&m);
}

/* The VAE must know transparency, and only Layered may. */
static void test_parts_must_fit(void **state)
{
    (void)state;
    static const char *const PARTS[][3] = {
        {DATA "layered_model/transformer", DATA "edit_model/vae", "takes 4"},
        {DATA "edit_model/transformer", DATA "layered_model/vae", "takes 3"}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(PARTS); i++) {
        const mica_engine_options e = {.size = sizeof e,
                                       .transformer = PARTS[i][0],
                                       .vae = PARTS[i][1],
                                       .text_encoder = DATA "edit_model/text_encoder",
                                       .tokenizer = DATA "edit_model/tokenizer"};
        mica_model_parts parts;
        const mica_model_kind *kind;
        mica_model *m = NULL;
        mica_err err = {0};
        assert_int_equal(mica_model_parts_resolve(&parts, &kind, &e, &err), MICA_OK);
        assert_int_equal(kind->open(&m, &parts, &err), MICA_E_UNSUPPORTED);
        assert_non_null(strstr(err.text, PARTS[i][2]));
        assert_null(m);
        mica_model_parts_deinit(&parts);
    }
}

/* Every allocation of a run, refused once. */
static void test_alloc_fail(void **state)
{
    (void)state;
    golden_run r;
    mica_model *m = open_model();
    const mica_image_options o = small_options();
    golden_generate_ok(&r, m, &QUIET, &o); /* fills what libraries keep for good */
    golden_run_close(&r);
    const uint64_t before = mica_mem_count();
    golden_generate_ok(&r, m, &QUIET, &o);
    golden_run_close(&r);
    const uint64_t total = mica_mem_count() - before;
    const mica_backend_options b = {
        .device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32, .threads = 1};
    int refused = 0;
    for (uint64_t n = 1; n <= total; n++) {
        mica_backend *be = NULL;
        mica_model_session *s = NULL;
        mica_err err = {0};
        const mica_diffusion_switches switches = {0};
        mica_diffusion_result result = {0};
        mica_mem_fail_at(n);
        mica_status st = mica_backend_open(&be, &b, &err);
        if (!st)
            st = m->kind->session_open(&s, m, be, &switches, &err);
        if (!st)
            st = m->kind->generate(s, &o, NULL, &result, &err);
        mica_mem_fail_at(0);
        assert_true(st == MICA_OK || (st == MICA_E_NOMEM && err.text[0]));
        assert_true((st == MICA_OK) == (result.rgb != NULL));
        refused += st != MICA_OK;
        mica_diffusion_result_deinit(&result);
        if (s)
            m->kind->session_close(&s);
        mica_backend_close(&be);
    }
    assert_true(refused > 20);
    golden_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_precisions),
        cmocka_unit_test(test_noise_and_threads),
        cmocka_unit_test(test_counters),
        cmocka_unit_test(test_rgb_input),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_parts_must_fit),
        cmocka_unit_test(test_alloc_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
