/* test_convert_language.c - a Mixtral converted: GGUF, MLX folders, and back.
 *
 *     hf/ ─► a.gguf                same greedy tokens as the reference's; without rounding the same logits
 *     hf/ ─► q4 folder, q4 GGUF    the logits of the same numbers decoded: packing costs, reading does not
 *     a.gguf ─► b.safetensors      the bytes of hf/: rows of q and k back in their order, stacks cut
 *     a.gguf ─► folder/            config.json and tokenizer from inside the file */
#include "convert_support.h"
#include "golden_layout.h"

#include "base/file.h"
#include "completion/completion.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#define SOURCE MICA_TEST_DATA "/mixtral/hf"
#define CASE   MICA_TEST_DATA "/mixtral/cases/hf_bf16/expected.safetensors"

typedef struct place {
    char dir[256], path[4][320];
} place;

static void open_place(place *p, const char *const names[], int count)
{
    char dir[256];
    golden_temp_folder(dir, sizeof dir);
    memcpy(p->dir, dir, sizeof dir);
    for (int i = 0; i < count; i++)
        snprintf(p->path[i], sizeof p->path[i], "%s/%s", dir, names[i]);
}

/* The prompt of the golden case; the trace is the caller's. */
static mica_completion_result complete(const char *path, const char *tokenizer, int tokens,
                                       mica_trace **trace)
{
    const char *const prompts[] = {
        "The quick brown fox sits on a rock. \xe4\xbd\xa0\xe5\xa5\xbd, what is 42?"};
    const mica_engine_options engine = {
        .size = sizeof engine, .model = path, .tokenizer = tokenizer};
    const mica_backend_options b = {
        .device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32, .threads = 2};
    const mica_text_options o = {.prompts = prompts,
                                 .prompt_count = 1,
                                 .max_tokens = tokens,
                                 .greedy = true,
                                 .ignore_eos = true};
    const mica_diffusion_switches switches = {0};
    mica_err err = {0};
    mica_backend *be = NULL;
    mica_model_session *s = NULL;
    mica_completion_result r;
    mica_model *m = golden_model_open(&engine);
    assert_int_equal(mica_backend_open(&be, &b, &err), MICA_OK);
    assert_int_equal(mica_trace_open(trace, &err), MICA_OK);
    assert_int_equal(m->kind->session_open(&s, m, be, &switches, &err), MICA_OK);
    if (m->kind->complete(s, &o, mica_trace_sink(*trace), &r, &err))
        fail_msg("%s: %s", path, err.text);
    m->kind->session_close(&s);
    mica_backend_close(&be);
    golden_model_close(&m);
    return r;
}

static void expect_reference(const char *path, double bound)
{
    mica_trace *trace;
    mica_weights *want = NULL;
    mica_err err = {0};
    mica_completion_result r = complete(path, NULL, 24, &trace);
    assert_int_equal(mica_weights_open(&want, CASE, &err), MICA_OK);
    golden_assert_equal("input_ids", mica_trace_find(trace, "input_ids"),
                        mica_weights_find(want, "input_ids"));
    golden_assert_near("logits", mica_trace_find(trace, "logits"),
                       mica_weights_find(want, "logits"), bound);
    const mica_tensor *tokens = mica_weights_find(want, "greedy_tokens");
    assert_int_equal(r.answers[0].count, tokens->shape_[0]);
    assert_memory_equal(r.answers[0].ids, tokens->data, mica_tensor_size(tokens));
    mica_completion_result_deinit(&r);
    mica_weights_close(&want);
    mica_trace_close(&trace);
}

/* Both models give the same logits to `bound`. */
static void expect_same(const char *a, const char *b, double bound)
{
    mica_trace *x, *y;
    mica_completion_result r = complete(a, NULL, 1, &x), s = complete(b, NULL, 1, &y);
    golden_assert_equal("input_ids", mica_trace_find(x, "input_ids"),
                        mica_trace_find(y, "input_ids"));
    golden_assert_near("logits", mica_trace_find(x, "logits"), mica_trace_find(y, "logits"), bound);
    mica_completion_result_deinit(&r);
    mica_completion_result_deinit(&s);
    mica_trace_close(&x);
    mica_trace_close(&y);
}

/* Every tensor of the reference folder is there with the same bytes, and no other. */
static void expect_bytes(const char *path)
{
    mica_weights *a = NULL, *b = NULL;
    mica_err err = {0};
    assert_int_equal(mica_weights_open(&a, SOURCE, &err), MICA_OK);
    assert_int_equal(mica_weights_open(&b, path, &err), MICA_OK);
    assert_int_equal(mica_weights_count(a), mica_weights_count(b));
    for (size_t i = 0; i < mica_weights_count(a); i++) {
        const char *name = mica_weights_name(a, i);
        const mica_tensor *x = mica_weights_tensor(a, i), *y = mica_weights_find(b, name);
        if (!y || mica_tensor_size(x) != mica_tensor_size(y) ||
            memcmp(x->data, y->data, mica_tensor_size(x)) != 0)
            fail_msg("%s differs", name);
    }
    mica_weights_close(&a);
    mica_weights_close(&b);
}

static void test_gguf(void **state)
{
    (void)state;
    static const char *const names[] = {"a.gguf", "b.gguf", "c.gguf", "d.safetensors"};
    place p;
    open_place(&p, names, 4);
    convert_ok(SOURCE, p.path[0], "bf16", 0);
    expect_reference(p.path[0], 1e-4);
    convert_ok(SOURCE, p.path[1], "f32", 0);
    expect_reference(p.path[1], 1e-4);
    mica_weights *w = NULL;
    mica_err err = {0};
    assert_int_equal(mica_weights_open(&w, p.path[0], &err), MICA_OK);
    assert_string_equal(mica_weights_metadata(w, "general.architecture"), "llama");
    assert_int_equal(mica_weights_meta_int(w, "general.file_type", -1), 32);
    assert_int_equal(mica_weights_meta_int(w, "llama.expert_count", -1), 4);
    mica_weights_close(&w);
    /* again from GGUF: the tokenizer comes along */
    convert_ok(p.path[1], p.path[2], "bf16", 0);
    expect_reference(p.path[2], 1e-4);
    golden_remove_folder(p.dir);
}

static void test_back(void **state)
{
    (void)state;
    static const char *const names[] = {"a.gguf", "b.safetensors"};
    place p;
    mica_trace *trace;
    open_place(&p, names, 2);
    convert_ok(SOURCE, p.path[0], "f32", 0);
    convert_ok(p.path[0], p.path[1], "bf16", 0);
    mica_weights *w = NULL;
    mica_err err = {0};
    assert_int_equal(mica_weights_open(&w, p.path[1], &err), MICA_OK);
    assert_non_null(strstr(mica_weights_metadata(w, "config"), "\"num_local_experts\": 4"));
    mica_weights_close(&w);
    mica_completion_result r = complete(p.path[1], SOURCE, 1, &trace); /* its sizes are inside */
    mica_completion_result_deinit(&r);
    mica_trace_close(&trace);
    /* norms and routers are f32 in GGUF and stay so; the folder has them in bf16 */
    open_place(&p, names, 2);
    convert_ok(SOURCE, p.path[1], "bf16", 0);
    expect_bytes(p.path[1]);
    golden_remove_folder(p.dir);
}

/* Rows of q and k through GGUF's order and back: number by number. */
static void test_rotary_rows(void **state)
{
    (void)state;
    static const char *const names[] = {"a.gguf", "b.safetensors"};
    place p;
    mica_weights *a = NULL, *b = NULL;
    mica_err err = {0};
    open_place(&p, names, 2);
    convert_ok(SOURCE, p.path[0], "bf16", 0);
    convert_ok(p.path[0], p.path[1], "f32", 0);
    assert_int_equal(mica_weights_open(&a, SOURCE, &err), MICA_OK);
    assert_int_equal(mica_weights_open(&b, p.path[1], &err), MICA_OK);
    for (size_t i = 0; i < mica_weights_count(a); i++) {
        const char *name = mica_weights_name(a, i);
        const mica_tensor *x = mica_weights_tensor(a, i), *y = mica_weights_find(b, name);
        assert_non_null(y);
        for (int64_t k = 0; k < mica_tensor_count(x); k++)
            if (mica_tensor_read_f32(x, k) != mica_tensor_read_f32(y, k))
                fail_msg("%s[%lld] differs", name, (long long)k);
    }
    mica_weights_close(&a);
    mica_weights_close(&b);
    golden_remove_folder(p.dir);
}

static void test_packed(void **state)
{
    (void)state;
    static const char *const TYPES[] = {"q4", "q5", "q6", "q8", "int8", "fp8"};
    static const char *const names[] = {"mlx", "plain", "a.gguf", "b.gguf"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(TYPES); i++) {
        place p;
        open_place(&p, names, 4);
        convert_ok(SOURCE, p.path[0], TYPES[i], 60000);
        convert_ok(p.path[0], p.path[1], "f32", 0);
        expect_same(p.path[0], p.path[1], 1e-5);
        if (TYPES[i][0] == 'q') {
            convert_ok(SOURCE, p.path[2], TYPES[i], 0);
            convert_ok(p.path[2], p.path[3], "f32", 0);
            expect_same(p.path[2], p.path[3], 1e-5);
        }
        golden_remove_folder(p.dir);
    }
}

/* What mlx-lm looks for: names, shapes, the two entries of config.json, an index. */
static void test_mlx_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"mlx"};
    place p;
    mica_json j = {0}, index = {0};
    mica_err err = {0};
    open_place(&p, names, 1);
    convert_ok(SOURCE, p.path[0], "q4", 100000);
    char *text = convert_read(p.path[0], "config.json");
    assert_int_equal(mica_json_parse(&j, "config", text, strlen(text), &err), MICA_OK);
    mica_mem_free(text);
    static const char *const KEYS[] = {"quantization", "quantization_config"};
    for (int i = 0; i < 2; i++) {
        const cJSON *q = mica_json_find(j.root, KEYS[i]);
        assert_int_equal((int)mica_json_find(q, "bits")->valuedouble, 4);
        assert_int_equal((int)mica_json_find(q, "group_size")->valuedouble, 64);
        const cJSON *head = mica_json_find(q, "lm_head");
        assert_int_equal((int)mica_json_find(head, "bits")->valuedouble, 8);
    }
    mica_json_close(&j);
    text = convert_read(p.path[0], "model.safetensors.index.json");
    assert_int_equal(mica_json_parse(&index, "index", text, strlen(text), &err), MICA_OK);
    mica_mem_free(text);
    const cJSON *map = mica_json_find(index.root, "weight_map");
    static const char STACK[] = "model.layers.1.block_sparse_moe.switch_mlp.down_proj";
    static const char *const ENDS[] = {"weight", "scales", "biases"};
    for (int i = 0; i < 3; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s.%s", STACK, ENDS[i]);
        assert_true(cJSON_IsString(mica_json_find(map, name)));
    }
    mica_json_close(&index);
    text = convert_read(p.path[0], "tokenizer.json");
    char *original = convert_read(SOURCE, "tokenizer.json");
    assert_string_equal(text, original);
    mica_mem_free(text);
    mica_mem_free(original);
    /* and back to floats: no word of quantisation is left */
    char plain[340];
    snprintf(plain, sizeof plain, "%s/plain", p.dir);
    convert_ok(p.path[0], plain, "bf16", 0);
    text = convert_read(plain, "config.json");
    assert_null(strstr(text, "quantization"));
    mica_mem_free(text);
    golden_remove_folder(p.dir);
}

/* `to` over the bytes `at` behind where `mark` begins in the file's head. */
static void patch(const char *path, const void *mark, size_t size, long at, const char *to)
{
    static char data[1 << 16];
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    const size_t n = fread(data, 1, sizeof data, f);
    const char *found = memmem(data, n, mark, size);
    assert_non_null(found);
    fseek(f, (long)(found - data) + at, SEEK_SET);
    assert_int_equal(fwrite(to, 1, strlen(to), f), strlen(to));
    fclose(f);
}

/* Our own files carry the original config.json; those of others do not. */
static void forget_config(const char *path)
{
    static const char KEY[] = "\x06\0\0\0\0\0\0\0config\x08\0\0\0"; /* its name, and a text */
    patch(path, KEY, sizeof KEY - 1, 8, "k");
}

/* The folder is whole: sizes, tokenizer and chat template come from the file. */
static void expect_folder(const char *from, const char *folder)
{
    mica_json j = {0};
    mica_err err = {0};
    convert_ok(from, folder, "bf16", 0);
    expect_reference(folder, 1e-4);
    char *text = convert_read(folder, "config.json");
    assert_non_null(strstr(text, "bfloat16"));
    mica_mem_free(text);
    text = convert_read(folder, "tokenizer_config.json");
    char *original = convert_read(SOURCE, "tokenizer_config.json");
    assert_int_equal(mica_json_parse(&j, "config", text, strlen(text), &err), MICA_OK);
    assert_string_equal(mica_json_find(j.root, "bos_token")->valuestring, "<s>");
    assert_string_equal(mica_json_find(j.root, "eos_token")->valuestring, "</s>");
    assert_non_null(strstr(mica_json_find(j.root, "chat_template")->valuestring, "[INST]"));
    mica_json_close(&j);
    mica_mem_free(text);
    mica_mem_free(original);
}

static void test_gguf_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"in/a.gguf", "one", "in", "two"};
    place p;
    open_place(&p, names, 4);
    mica_err err = {0};
    assert_int_equal(mica_path_make_dirs(p.path[2], &err), MICA_OK);
    convert_ok(SOURCE, p.path[0], "f32", 0);
    expect_folder(p.path[0], p.path[1]);
    forget_config(p.path[0]);
    expect_folder(p.path[2], p.path[3]);
    /* a tokenizer beside the file is the user's own and is kept */
    char mine[400], three[340];
    snprintf(mine, sizeof mine, "%s/tokenizer.json", p.path[2]);
    snprintf(three, sizeof three, "%s/three", p.dir);
    char *text = convert_read(SOURCE, "tokenizer.json");
    FILE *f = fopen(mine, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
    convert_ok(p.path[2], three, "q8", 0);
    char *kept = convert_read(three, "tokenizer.json");
    assert_string_equal(kept, text);
    mica_mem_free(kept);
    mica_mem_free(text);
    /* packed numbers taken apart: nothing is lost */
    char four[340], plain[340];
    snprintf(four, sizeof four, "%s/four.gguf", p.dir);
    snprintf(plain, sizeof plain, "%s/plain", p.dir);
    convert_ok(p.path[0], four, "q4", 0);
    convert_ok(four, plain, "f32", 0);
    expect_same(four, plain, 1e-5);
    golden_remove_folder(p.dir);
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const names[] = {"a.safetensors", "b.gguf"};
    place p;
    open_place(&p, names, 2);
    convert_ok(SOURCE, p.path[0], "bf16", 0);
    convert_fails(&(mica_convert_request){.input = p.path[0], .output = p.path[1], .type = "q8"},
                  "there is no tokenizer.json", p.dir);
    convert_fails(&(mica_convert_request){.input = p.path[0], .output = p.path[0], .type = "q8"},
                  "this is the input itself", p.dir);
    char folder[340];
    snprintf(folder, sizeof folder, "%s/folder", p.dir);
    convert_fails(&(mica_convert_request){.input = MICA_TEST_DATA "/packed/types.gguf",
                                          .output = folder,
                                          .type = "q8"},
                  "only a GGUF file of a language model", p.dir);
    convert_fails(&(mica_convert_request){.input = p.path[0], .output = folder, .type = "q8"},
                  "ends in .safetensors or .gguf", p.dir);
    /* another mixture of experts has the same names of tensors */
    static const char KEY[] = "general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama";
    static const char *const WORDS[] = {"GGUF architecture 'grok9'", NULL};
    convert_ok(SOURCE, p.path[1], "bf16", 0);
    patch(p.path[1], KEY, sizeof KEY - 1, (long)sizeof KEY - 1 - 5, "grok9");
    golden_expect_refused(
        &(mica_engine_options){.size = sizeof(mica_engine_options), .model = p.path[1]},
        MICA_E_UNSUPPORTED, WORDS);
    golden_remove_folder(p.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf),        cmocka_unit_test(test_back),
        cmocka_unit_test(test_rotary_rows), cmocka_unit_test(test_packed),
        cmocka_unit_test(test_mlx_folder),  cmocka_unit_test(test_gguf_folder),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
