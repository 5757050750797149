/* test_mixtral_golden.c - Mixtral against the reference: bf16 files, MLX in 4 and 8 bits.
 *
 * Logits at every position to relative L2 1e-4 in f32, the greedy tokens exactly; then what must not change
 * an answer: threads, chunks of a prompt, other prompts beside it, what the session has read before, a
 * prompt that comes from a file. */
#include "golden_support.h"

#include "base/file.h"
#include "base/mem.h"
#include "completion/completion.h"
#include "models/mixtral/mixtral.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define CASES MICA_TEST_DATA "/mixtral/cases/"

typedef struct fixture {
    mica_model *model;
    mica_backend *be;
    mica_model_session *session;
} fixture;

static fixture open_fixture(const char *folder, mica_precision precision, int threads)
{
    fixture f = {.model = golden_model_open_folder(folder)};
    const mica_backend_options o = {
        .device = MICA_DEVICE_CPU, .precision = precision, .threads = threads};
    const mica_diffusion_switches switches = {0};
    mica_err err = {0};
    if (mica_backend_open(&f.be, &o, &err))
        fail_msg("%s", err.text);
    if (f.model->kind->session_open(&f.session, f.model, f.be, &switches, &err))
        fail_msg("%s", err.text);
    return f;
}

static void close_fixture(fixture *f)
{
    f->model->kind->session_close(&f->session);
    mica_backend_close(&f->be);
    golden_model_close(&f->model);
}

static mica_status complete(fixture *f, const mica_text_options *o, const mica_tap_sink *taps,
                            mica_completion_result *r, mica_err *err)
{
    err->text[0] = '\0';
    return f->model->kind->complete(f->session, o, taps, r, err);
}

static mica_completion_result complete_ok(fixture *f, const mica_text_options *o)
{
    mica_err err = {0};
    mica_completion_result r;
    if (complete(f, o, NULL, &r, &err))
        fail_msg("%s", err.text);
    return r;
}

static const char PROMPT[] =
    "The quick brown fox sits on a rock. \xe4\xbd\xa0\xe5\xa5\xbd, what is 42?";

/* ------------------------------------------------------------------------ cases -- */

static void expect_tokens(const mica_weights *expected, const mica_completion_answer *a)
{
    const mica_tensor *t = mica_weights_find(expected, "greedy_tokens");
    assert_int_equal(t->shape_[0], (int64_t)a->count);
    assert_memory_equal(t->data, a->ids, a->count * sizeof(int32_t));
}

/* In bf16 the choice between two experts of nearly equal logits may turn; such a row is another, and its
 * neighbours see it through attention. All rows but one keep the bound, and that one alone is far. */
static void check_rows(const mica_tensor *got, const mica_tensor *want, double bound)
{
    const int64_t V = want->shape_[2], rows = want->shape_[1];
    const float *a = got->data, *b = want->data;
    double near = 0.0, norm = 0.0;
    int far = 0;
    for (int64_t r = 0; r < rows; r++) {
        double d = 0.0, n = 0.0;
        for (int64_t i = r * V; i < (r + 1) * V; i++) {
            d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
            n += (double)b[i] * (double)b[i];
        }
        const bool turned = !(d <= 2.5e-3 * n); /* 5e-2 of the row */
        far += turned;
        near += turned ? 0.0 : d;
        norm += n;
    }
    print_message("%d rows turned, the others %.4f\n", far, sqrt(near / norm));
    assert_true(far <= 1 && sqrt(near / norm) <= bound);
}

static void check_trace(const mica_weights *expected, mica_trace *trace, double bound)
{
    const char *const names[] = {"hidden_states.0", "hidden_states.1", "hidden_states.2",
                                 "router_logits.0", "router_logits.1", "logits"};
    golden_assert_equal("input_ids", mica_trace_find(trace, "input_ids"),
                        mica_weights_find(expected, "input_ids"));
    for (size_t i = 0; i < MICA_ARRAY_LEN(names); i++) {
        const mica_tensor *want = mica_weights_find(expected, names[i]);
        if (want && bound > 1e-3 && strcmp(names[i], "logits") == 0)
            check_rows(mica_trace_find(trace, names[i]), want, bound);
        else if (want)
            golden_assert_near(names[i], mica_trace_find(trace, names[i]), want, bound);
    }
}

static void check_case(const char *name, const char *folder, mica_precision precision, double bound,
                       int threads)
{
    char path[512];
    const char *const prompts[] = {PROMPT};
    mica_err err = {0};
    mica_trace *trace = NULL;
    mica_weights *expected = NULL;
    mica_completion_result r;
    snprintf(path, sizeof path, CASES "%s/expected.safetensors", name);
    assert_int_equal(mica_weights_open(&expected, path, &err), MICA_OK);
    assert_int_equal(mica_trace_open(&trace, &err), MICA_OK);
    fixture f = open_fixture(folder, precision, threads);
    const int64_t tokens = mica_weights_find(expected, "greedy_tokens")->shape_[0];
    const mica_text_options o = {.prompts = prompts,
                                 .prompt_count = 1,
                                 .max_tokens = (int)tokens,
                                 .greedy = true,
                                 .ignore_eos = true};
    if (complete(&f, &o, mica_trace_sink(trace), &r, &err))
        fail_msg("%s", err.text);
    check_trace(expected, trace, bound);
    if (precision == MICA_PRECISION_F32)
        expect_tokens(expected, &r.answers[0]);
    mica_completion_result_deinit(&r);
    close_fixture(&f);
    mica_trace_close(&trace);
    mica_weights_close(&expected);
}

static void test_hf(void **state)
{
    (void)state;
    check_case("hf_bf16", "mixtral/hf", MICA_PRECISION_F32, 1e-4, 2);
    check_case("hf_bf16", "mixtral/hf", MICA_PRECISION_F32, 1e-4, 1);
    check_case("hf_bf16", "mixtral/hf", MICA_PRECISION_BF16, 4.2e-2, 2);
}

static void test_mlx(void **state)
{
    (void)state;
    check_case("mlx_q4", "mixtral/mlx_q4", MICA_PRECISION_F32, 1e-4, 2);
    check_case("mlx_q8", "mixtral/mlx_q8", MICA_PRECISION_F32, 1e-4, 3);
    check_case("mlx_q4", "mixtral/mlx_q4", MICA_PRECISION_BF16, 2e-2, 2);
    check_case("mlx_q8", "mixtral/mlx_q8", MICA_PRECISION_BF16, 2e-2, 2);
}

/* ---------------------------------------------------------- what changes nothing -- */

static mica_completion_result run_prompts(fixture *f, const char *const *prompts, int count,
                                          int chunk, int max_tokens)
{
    const mica_text_options o = {.prompts = prompts,
                                 .prompt_count = count,
                                 .max_tokens = max_tokens,
                                 .chunk = chunk,
                                 .temperature = 1.0,
                                 .seed = 7,
                                 .ignore_eos = true};
    return complete_ok(f, &o);
}

static void expect_same(const mica_completion_answer *a, const mica_completion_answer *b)
{
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->ids, b->ids, a->count * sizeof(int32_t));
    assert_string_equal(a->text, b->text);
}

static void test_batch(void **state)
{
    (void)state;
    const char *const prompts[] = {PROMPT, "a", "the light of the low river and the hill"};
    fixture f = open_fixture("mixtral/hf", MICA_PRECISION_F32, 2);
    mica_completion_result all = run_prompts(&f, prompts, 3, 0, 20);
    assert_int_equal(all.count, 3);
    for (int i = 0; i < 3; i++) {
        const mica_text_options o = {.prompts = &prompts[i],
                                     .prompt_count = 1,
                                     .max_tokens = 20,
                                     .temperature = 1.0,
                                     .seed = 7 + (uint64_t)i,
                                     .ignore_eos = true};
        mica_completion_result one = complete_ok(&f, &o);
        expect_same(&all.answers[i], &one.answers[0]);
        mica_completion_result_deinit(&one);
    }
    mica_completion_result_deinit(&all);
    close_fixture(&f);
}

static void test_chunks_and_threads(void **state)
{
    (void)state;
    const char *const prompts[] = {PROMPT};
    mica_completion_result first = {0};
    for (int threads = 1; threads <= 3; threads++) {
        fixture f = open_fixture("mixtral/hf", MICA_PRECISION_F32, threads);
        /* Each in a fresh session, so that nothing is known of the prompt. */
        mica_completion_result r = run_prompts(&f, prompts, 1, threads == 3 ? 7 : 0, 20);
        assert_int_equal(r.answers[0].reused, 0);
        if (threads == 1)
            first = r;
        else {
            expect_same(&first.answers[0], &r.answers[0]);
            mica_completion_result_deinit(&r);
        }
        close_fixture(&f);
    }
    mica_completion_result_deinit(&first);
}

/* The cache grows over 256 rows; a second run goes on from what is there. */
static void test_session_goes_on(void **state)
{
    (void)state;
    const char *const prompts[] = {PROMPT}, *const longer[] = {
                                                "The quick brown fox sits on a hill"};
    fixture f = open_fixture("mixtral/hf", MICA_PRECISION_F32, 2);
    mica_completion_result a = run_prompts(&f, prompts, 1, 0, 300);
    mica_completion_result again = run_prompts(&f, prompts, 1, 0, 300);
    expect_same(&a.answers[0], &again.answers[0]);
    assert_int_equal(again.answers[0].reused, again.answers[0].prompt_count - 1);
    mica_completion_result b = run_prompts(&f, longer, 1, 0, 10);
    assert_true(b.answers[0].reused > 10 && b.answers[0].reused < b.answers[0].prompt_count);
    fixture fresh = open_fixture("mixtral/hf", MICA_PRECISION_F32, 2);
    mica_completion_result c = run_prompts(&fresh, longer, 1, 0, 10);
    expect_same(&b.answers[0], &c.answers[0]);
    mica_completion_result_deinit(&a);
    mica_completion_result_deinit(&again);
    mica_completion_result_deinit(&b);
    mica_completion_result_deinit(&c);
    close_fixture(&fresh);
    close_fixture(&f);
}

static void test_prompt_file(void **state)
{
    (void)state;
    char folder[512], path[600];
    const char *const prompts[] = {PROMPT};
    mica_err err = {0};
    golden_temp_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/prompt.safetensors", folder);
    mica_text_options o = {.prompts = prompts,
                           .prompt_count = 1,
                           .max_tokens = 12,
                           .greedy = true,
                           .ignore_eos = true,
                           .cache_path = path};
    fixture f = open_fixture("mixtral/hf", MICA_PRECISION_F32, 2);
    mica_completion_result a = complete_ok(&f, &o);
    assert_int_equal(a.answers[0].reused, 0);
    close_fixture(&f);
    f = open_fixture("mixtral/hf", MICA_PRECISION_F32, 2);
    mica_completion_result b = complete_ok(&f, &o);
    assert_int_equal(b.answers[0].reused, b.answers[0].prompt_count - 1);
    expect_same(&a.answers[0], &b.answers[0]);
    close_fixture(&f);
    mica_completion_result_deinit(&a);
    mica_completion_result_deinit(&b);
    f = open_fixture("mixtral/mlx_q8", MICA_PRECISION_F32, 2);
    assert_int_equal(complete(&f, &o, NULL, &a, &err), MICA_E_USAGE);
    assert_non_null(strstr(err.text, "another model"));
    close_fixture(&f);
    golden_remove_folder(folder);
}

/* ------------------------------------------------------------------------- ends -- */

static void test_ends(void **state)
{
    (void)state;
    const char *const prompts[] = {PROMPT}, *const stops[] = {"the", "zzz"};
    fixture f = open_fixture("mixtral/hf", MICA_PRECISION_F32, 2);
    mica_text_options o = {.prompts = prompts,
                           .prompt_count = 1,
                           .max_tokens = 24,
                           .greedy = true,
                           .ignore_eos = true,
                           .stops = stops,
                           .stop_count = 2};
    mica_completion_result r = complete_ok(&f, &o);
    assert_int_equal(r.answers[0].finish, MICA_FINISH_STOP);
    assert_null(strstr(r.answers[0].text, "the"));
    assert_true(strlen(r.answers[0].text) > 5);
    mica_completion_result_deinit(&r);
    o.stop_count = 0;
    o.context = 50; /* 41 of the prompt */
    r = complete_ok(&f, &o);
    assert_int_equal(r.answers[0].finish, MICA_FINISH_CONTEXT);
    assert_int_equal(r.answers[0].count, 9);
    mica_completion_result_deinit(&r);
    mica_err err = {0};
    o.context = 41;
    assert_int_equal(complete(&f, &o, NULL, &r, &err), MICA_E_USAGE);
    assert_non_null(strstr(err.text, "41 tokens"));
    o.context = 0;
    o.logprobs = true;
    o.chances = 3;
    o.max_tokens = 4;
    r = complete_ok(&f, &o);
    assert_int_equal(r.answers[0].finish, MICA_FINISH_LENGTH);
    for (size_t i = 0; i < 4; i++) { /* greedy: the chosen one is the likeliest */
        assert_int_equal(r.answers[0].chances[3 * i].id, r.answers[0].ids[i]);
        assert_true(r.answers[0].chances[3 * i].logprob == r.answers[0].logprobs[i]);
        assert_true(r.answers[0].chances[3 * i + 1].logprob <= r.answers[0].logprobs[i]);
    }
    mica_completion_result_deinit(&r);
    close_fixture(&f);
}

static void test_grammar(void **state)
{
    (void)state;
    const char *const prompts[] = {PROMPT};
    fixture f = open_fixture("mixtral/hf", MICA_PRECISION_F32, 2);
    mica_text_options o = {.prompts = prompts,
                           .prompt_count = 1,
                           .max_tokens = 60,
                           .temperature = 1.5,
                           .grammar = "root ::= (\"yes\" | \"no\") \", \" [0-9]{3} \".\""};
    for (uint64_t seed = 0; seed < 6; seed++) {
        int number = 0, size = 0;
        o.seed = seed;
        mica_completion_result r = complete_ok(&f, &o);
        const char *text = r.answers[0].text;
        text += strncmp(text, "yes", 3) == 0 ? 3 : 2;
        assert_int_equal(sscanf(text, ", %d.%n", &number, &size), 1);
        assert_int_equal(strlen(text), 6);
        assert_int_equal(r.answers[0].finish, MICA_FINISH_END);
        mica_completion_result_deinit(&r);
    }
    close_fixture(&f);
}

/* A conversation is the template's text. */
static void test_conversation(void **state)
{
    (void)state;
    const mica_message turns[] = {{"user", "hello"}, {"assistant", "the low"}, {"user", "and you"}};
    const char *const text[] = {"<s> [INST] hello [/INST] the low</s> [INST] and you [/INST]"};
    fixture f = open_fixture("mixtral/hf", MICA_PRECISION_F32, 2);
    mica_text_options o = {
        .messages = turns, .message_count = 3, .max_tokens = 6, .greedy = true, .ignore_eos = true};
    mica_completion_result a = complete_ok(&f, &o);
    o.messages = NULL;
    o.message_count = 0;
    o.prompts = text;
    o.prompt_count = 1;
    o.no_bos = true;
    mica_completion_result b = complete_ok(&f, &o);
    assert_int_equal(a.answers[0].prompt_count, b.answers[0].prompt_count);
    assert_memory_equal(a.answers[0].prompt_ids, b.answers[0].prompt_ids,
                        b.answers[0].prompt_count * sizeof(int32_t));
    assert_memory_equal(a.answers[0].ids, b.answers[0].ids, 6 * sizeof(int32_t));
    mica_completion_result_deinit(&a);
    mica_completion_result_deinit(&b);
    close_fixture(&f);
}

/* ----------------------------------------------------------------------- window -- */

static void forward(fixture *f, mica_kv_cache *cache, const int32_t *ids, int64_t count,
                    const mica_tap_sink *taps)
{
    mica_completion_model *m = &((mica_mixtral_session *)f->session)->completion;
    const mica_completion_rows rows = {.cache = cache, .ids = ids, .count = count};
    mica_err err = {0};
    mica_run run;
    mica_run_init(&run, NULL, NULL, taps);
    if (m->ops->forward(m, &run, &rows, 1, taps != NULL, &err))
        fail_msg("%s", err.text);
}

static int32_t likeliest(fixture *f)
{
    mica_completion_model *m = &((mica_mixtral_session *)f->session)->completion;
    float logits[640];
    mica_err err = {0};
    int32_t best = 0;
    assert_int_equal(m->ops->read_logits(m, logits, &err), MICA_OK);
    for (int32_t i = 1; i < 640; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

/* In one piece every 7th row's logits, then in chunks and token by token the greedy tokens. */
static void test_window(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_weights *expected = NULL;
    mica_trace *trace = NULL;
    mica_kv_cache cache;
    fixture f = open_fixture("mixtral/hf", MICA_PRECISION_F32, 2);
    mica_mixtral_session *s = (mica_mixtral_session *)f.session;
    assert_int_equal(mica_weights_open(&expected, CASES "window/expected.safetensors", &err),
                     MICA_OK);
    assert_int_equal(mica_trace_open(&trace, &err), MICA_OK);
    s->weights.config.window = 24;
    const mica_tensor *ids = mica_weights_find(expected, "input_ids");
    const mica_tensor *tokens = mica_weights_find(expected, "greedy_tokens");
    const int64_t count = ids->shape_[1];
    assert_int_equal(s->completion.ops->cache_init(&s->completion, &cache, &err), MICA_OK);
    forward(&f, &cache, ids->data, count, mica_trace_sink(trace));
    mica_tensor every = *mica_trace_find(trace, "logits");
    every.shape_[1] = 100;
    every.stride_[1] *= 7;
    golden_assert_near("logits", &every, mica_weights_find(expected, "logits"), 1e-4);
    cache.count = 0;
    for (int64_t at = 0; at < count; at += 300)
        forward(&f, &cache, (const int32_t *)ids->data + at, MICA_MIN((int64_t)300, count - at),
                NULL);
    for (int64_t i = 0; i < tokens->shape_[0]; i++) {
        const int32_t id = likeliest(&f);
        assert_int_equal(id, ((const int32_t *)tokens->data)[i]);
        forward(&f, &cache, &id, 1, NULL);
    }
    mica_kv_cache_deinit(&cache);
    mica_trace_close(&trace);
    mica_weights_close(&expected);
    close_fixture(&f);
}

/* Keys and values in 8 bits move the logits a little and take a quarter of the memory. */
static void test_cache_in_8_bits(void **state)
{
    (void)state;
    static float logits[2][640];
    const mica_tensor shape = mica_tensor_1d(NULL, MICA_DTYPE_F32, 640);
    mica_weights *expected = NULL;
    mica_err err = {0};
    uint64_t bytes[2];
    assert_int_equal(mica_weights_open(&expected, CASES "window/expected.safetensors", &err),
                     MICA_OK);
    const mica_tensor *ids = mica_weights_find(expected, "input_ids");
    fixture f = open_fixture("mixtral/hf", MICA_PRECISION_F32, 2);
    mica_completion_model *m = &((mica_mixtral_session *)f.session)->completion;
    for (int q8 = 0; q8 < 2; q8++) {
        mica_kv_cache cache;
        m->cache_q8 = q8;
        assert_int_equal(m->ops->cache_init(m, &cache, &err), MICA_OK);
        forward(&f, &cache, ids->data, 290, NULL); /* then rows by themselves, over a growth */
        for (int i = 290; i < 530; i++)
            forward(&f, &cache, (const int32_t *)ids->data + i, 1, NULL);
        forward(&f, &cache, (const int32_t *)ids->data + 530, 20, NULL);
        assert_int_equal(m->ops->read_logits(m, logits[q8], &err), MICA_OK);
        bytes[q8] = mica_kv_cache_bytes(&cache);
        mica_kv_cache_deinit(&cache);
    }
    mica_tensor got = shape, want = shape;
    got.data = logits[1];
    want.data = logits[0];
    const double distance = golden_relative_l2(&got, &want);
    print_message("8 bits: %.4f of the logits, %.3f of the memory\n", distance,
                  (double)bytes[1] / (double)bytes[0]);
    assert_true(distance > 1e-5 && distance < 3e-2);
    assert_true(bytes[1] * 3 < bytes[0]); /* groups of 32 here: 0.31; of 128: 0.27 */
    mica_weights_close(&expected);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hf),
        cmocka_unit_test(test_mlx),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_chunks_and_threads),
        cmocka_unit_test(test_session_goes_on),
        cmocka_unit_test(test_prompt_file),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_grammar),
        cmocka_unit_test(test_conversation),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_cache_in_8_bits),
    };
    return cmocka_run_group_tests_name("mixtral_golden", tests, NULL, NULL);
}
