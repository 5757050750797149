/* test_qwen3.c - what is taken for a Qwen3 text encoder and what is refused; its chat template. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/mem.h"
#include "nn/qwen3.h"
#include "nn/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static float data[64];

/* A directory of named tensors; shapes do not matter to the checks by name. */
static mica_weights *directory(const char *const *names)
{
    mica_weights *w = NULL;
    mica_err err = {0};
    const mica_tensor t = mica_tensor_1d(data, MICA_DTYPE_F32, 4);
    assert_int_equal(mica_weights_open_empty(&w, &err), MICA_OK);
    for (; *names; names++)
        if (mica_weights_add(w, *names, &t, &err))
            fail_msg("%s", err.text);
    return w;
}

static void expect_refused(const char *const *names, const char *text)
{
    mica_weights *w = directory(names);
    mica_err err = {0};
    assert_int_equal(mica_qwen3_check(w, NULL, "Z-Image", 2560, &err),
                     strstr(text, "not a language model") ? MICA_E_FORMAT : MICA_E_UNSUPPORTED);
    if (!strstr(err.text, text) || !strstr(err.text, "Qwen3-4B (hidden size 2560)"))
        fail_msg("%s", err.text);
    mica_weights_close(&w);
}

static void test_wrong_encoders_are_named(void **state)
{
    (void)state;
    expect_refused((const char *const[]){"model.language_model.embed_tokens.weight",
                                         "model.language_model.layers.0.self_attn.q_proj.weight",
                                         "model.language_model.layers.0.self_attn.q_norm.weight",
                                         "model.visual.patch_embed.proj.weight", NULL},
                   "those of a Qwen3-VL");
    expect_refused((const char *const[]){"model.embed_tokens.weight",
                                         "model.layers.0.self_attn.q_proj.weight",
                                         "model.layers.0.self_attn.q_norm.weight",
                                         "visual.patch_embed.proj.weight", NULL},
                   "those of a Qwen3-VL");
    expect_refused((const char *const[]){"model.embed_tokens.weight",
                                         "model.layers.0.self_attn.q_proj.weight",
                                         "model.layers.0.self_attn.q_proj.bias",
                                         "visual.patch_embed.proj.weight", NULL},
                   "those of a Qwen2.5-VL");
    expect_refused((const char *const[]){"model.embed_tokens.weight",
                                         "model.layers.0.self_attn.q_proj.weight",
                                         "model.layers.0.self_attn.q_proj.bias", NULL},
                   "those of a Qwen2.5;");
    expect_refused((const char *const[]){"model.embed_tokens.weight",
                                         "model.layers.0.self_attn.q_proj.weight",
                                         "model.layers.0.self_attn.q_norm.weight",
                                         "model.layers.0.mlp.experts.0.gate_proj.weight", NULL},
                   "those of a mixture of experts");
    expect_refused((const char *const[]){"model.embed_tokens.weight",
                                         "model.layers.0.self_attn.q_proj.weight", NULL},
                   "without norms of q and k");
    expect_refused((const char *const[]){"decoder.conv_in.weight", NULL}, "not a language model's");
}

static const char *const QWEN3[] = {"embed_tokens.weight",
                                    "layers.0.self_attn.q_proj.weight",
                                    "layers.0.self_attn.q_norm.weight",
                                    "norm.weight",
                                    "lm_head.weight",
                                    NULL};

static void test_qwen3_is_taken(void **state)
{
    (void)state;
    mica_weights *w = directory(QWEN3);
    mica_err err = {0};
    assert_true(mica_qwen3_probe(w));
    assert_int_equal(mica_qwen3_check(w, NULL, "Z-Image", 2560, &err), MICA_OK);
    assert_int_equal(mica_qwen3_rename(w, &err), MICA_OK);
    assert_non_null(mica_weights_find(w, "model.embed_tokens.weight"));
    assert_non_null(mica_weights_find(w, "model.layers.0.self_attn.q_norm.weight"));
    assert_non_null(mica_weights_find(w, "model.norm.weight"));
    assert_non_null(mica_weights_find(w, "lm_head.weight"));
    mica_weights_close(&w);
}

static void test_model_type_is_checked(void **state)
{
    (void)state;
    mica_weights *w = directory(QWEN3);
    mica_err err = {0};
    char path[] = "/tmp/mica-qwen3-XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    fputs("{\"model_type\": \"qwen3_vl\"}", f);
    fclose(f);
    assert_int_equal(mica_qwen3_check(w, path, "FLUX.2-klein", 4096, &err), MICA_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "model_type is \"qwen3_vl\"; the text encoder of "
                                     "FLUX.2-klein is Qwen3-8B (hidden size 4096)"));
    remove(path);
    mica_weights_close(&w);
}

/* The tiny encoder stands for a wrong size. */
static void test_width_is_checked(void **state)
{
    (void)state;
    const char *path = MICA_TEST_DATA "/z_image/model/text_encoder";
    const char *json = MICA_TEST_DATA "/z_image/model/text_encoder/config.json";
    mica_weights *w = NULL;
    mica_lm_config c;
    mica_err err = {0};
    assert_int_equal(mica_qwen3_open(&w, &c, path, json, "Z-Image", 2560, &err),
                     MICA_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "this is a Qwen3 of hidden size 48; the text encoder of "
                                     "Z-Image is Qwen3-4B (hidden size 2560)"));
    mica_weights_close(&w);
    assert_int_equal(mica_qwen3_open(&w, &c, path, json, "Z-Image", 48, &err), MICA_OK);
    assert_int_equal(c.layers, 3);
    assert_int_equal(c.head_dim, 24);
    assert_int_equal(c.kv_heads, 2);
    assert_true(c.qk_norm && c.sensitive && !c.qkv_bias);
    mica_weights_close(&w);
    /* Without a config everything but the rotary base comes from shapes. */
    assert_int_equal(mica_qwen3_open(&w, &c, path, NULL, "Z-Image", 48, &err), MICA_OK);
    assert_int_equal(c.vocab, 768);
    assert_int_equal(c.ffn, 80);
    assert_int_equal(c.layers, 3);
    assert_int_equal(c.heads, 4);
    assert_int_equal(c.kv_heads, 2);
    assert_int_equal(c.head_dim, 24);
    mica_weights_close(&w);
}

static mica_tokenizer *open_tokenizer(const char *system)
{
    mica_tokenizer *t = NULL;
    mica_err err = {0};
    char path[512];
    snprintf(path, sizeof path, "%s/%s/model/tokenizer", MICA_TEST_DATA, system);
    if (mica_tokenizer_open(&t, path, &err))
        fail_msg("%s", err.text);
    return t;
}

/* The reference's ids and mask of a case, through the taps. */
static void compare_ids(const char *kase, const char *name, const char *text)
{
    mica_tokenizer *t = open_tokenizer("z_image");
    mica_weights *expected = NULL;
    mica_trace *trace = NULL;
    mica_qwen3_prompt p;
    mica_err err = {0};
    char path[512], tensor[64];
    static const char *const PARTS[] = {"input_ids", "attention_mask"};
    snprintf(path, sizeof path, "%s/z_image/cases/%s/expected.safetensors", MICA_TEST_DATA, kase);
    assert_int_equal(mica_weights_open(&expected, path, &err), MICA_OK);
    assert_int_equal(mica_qwen3_tokenize(t, text, true, 512, &p, &err), MICA_OK);
    assert_int_equal(p.length, 512);
    assert_int_equal(p.count, p.full_count);
    assert_int_equal(mica_trace_open(&trace, &err), MICA_OK);
    assert_int_equal(mica_qwen3_prompt_tap(&p, mica_trace_sink(trace), name, &err), MICA_OK);
    for (int i = 0; i < 2; i++) {
        snprintf(tensor, sizeof tensor, "%s.%s", name, PARTS[i]);
        const mica_tensor *e = mica_weights_find(expected, tensor);
        const mica_tensor *got = mica_trace_find(trace, tensor);
        assert_non_null(e);
        assert_non_null(got);
        assert_int_equal(mica_tensor_size(got), mica_tensor_size(e));
        assert_memory_equal(got->data, e->data, mica_tensor_size(e));
    }
    mica_trace_close(&trace);
    mica_qwen3_prompt_deinit(&p);
    mica_weights_close(&expected);
    mica_tokenizer_close(&t);
}

static void test_template_of_the_reference(void **state)
{
    (void)state;
    compare_ids("turbo", "prompt", "A red fox on a mossy rock, morning light 🦊");
    compare_ids("cfg", "negative", "blurry");
    compare_ids("cfg_norm", "prompt", "kite");
    compare_ids("cfg_norm", "negative", "");
}

static void test_no_thinking_and_cut(void **state)
{
    (void)state;
    mica_tokenizer *t = open_tokenizer("z_image");
    mica_qwen3_prompt plain, closed, cut;
    mica_err err = {0};
    assert_int_equal(mica_qwen3_tokenize(t, "kite", true, 64, &plain, &err), MICA_OK);
    assert_int_equal(mica_qwen3_tokenize(t, "kite", false, 64, &closed, &err), MICA_OK);
    assert_int_equal(mica_qwen3_tokenize(t, "kite", true, 5, &cut, &err), MICA_OK);
    assert_true(closed.count > plain.count);
    assert_memory_equal(closed.ids, plain.ids, (size_t)plain.count * sizeof *plain.ids);
    assert_int_equal(closed.ids[plain.count], mica_tokenizer_find(t, "<think>"));
    assert_int_equal(plain.ids[plain.count], mica_tokenizer_find(t, "<|endoftext|>"));
    assert_int_equal(cut.count, 5);
    assert_int_equal(cut.full_count, plain.count);
    assert_memory_equal(cut.ids, plain.ids, 5 * sizeof *cut.ids);
    mica_qwen3_prompt_deinit(&plain);
    mica_qwen3_prompt_deinit(&closed);
    mica_qwen3_prompt_deinit(&cut);
    mica_tokenizer_close(&t);
}

static void test_synthetic_prompts(void **state)
{
    (void)state;
    mica_qwen3_prompt p;
    mica_err err = {0};
    assert_int_equal(mica_qwen3_prompt_synthetic("tokens=17", 512, &p, &err), MICA_OK);
    assert_int_equal(p.count, 17);
    mica_qwen3_prompt_deinit(&p);
    assert_int_equal(mica_qwen3_prompt_synthetic("four four four", 512, &p, &err), MICA_OK);
    assert_int_equal(p.count, 4);
    mica_qwen3_prompt_deinit(&p);
    static const char *const BAD[] = {"tokens=", "tokens=0", "tokens=513", "tokens=3x"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(BAD); i++)
        assert_int_equal(mica_qwen3_prompt_synthetic(BAD[i], 512, &p, &err), MICA_E_USAGE);
}

static void test_releases(void **state)
{
    (void)state;
    const mica_lm_config four = mica_qwen3_config_default(MICA_QWEN3_WIDTH_4B);
    const mica_lm_config eight = mica_qwen3_config_default(MICA_QWEN3_WIDTH_8B);
    assert_int_equal(four.ffn, 9728);
    assert_int_equal(four.layers, 36);
    assert_int_equal(eight.width, 4096);
    assert_int_equal(eight.ffn, 12288);
    assert_string_equal(mica_qwen3_name(4096), "Qwen3-8B");
    assert_null(mica_qwen3_name(3072));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_encoders_are_named),
        cmocka_unit_test(test_qwen3_is_taken),
        cmocka_unit_test(test_model_type_is_checked),
        cmocka_unit_test(test_width_is_checked),
        cmocka_unit_test(test_template_of_the_reference),
        cmocka_unit_test(test_no_thinking_and_cut),
        cmocka_unit_test(test_synthetic_prompts),
        cmocka_unit_test(test_releases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
