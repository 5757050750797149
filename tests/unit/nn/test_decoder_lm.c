/* test_decoder_lm.c - the language model as an encoder of hidden states: FLUX.2-klein's Qwen3 with its
 * padded prompts against the reference, and layers that are not needed never touched. */
#include "golden_file.h"

#include "base/mem.h"
#include "nn/decoder_lm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLUX2 MICA_TEST_DATA "/flux2_klein"
#define BOUND 1e-4

/* model/text_encoder/config.json, and the states the pipeline reads. */
static const mica_lm_config TINY = {.vocab = 768,
                                    .width = 32,
                                    .ffn = 48,
                                    .heads = 2,
                                    .kv_heads = 1,
                                    .head_dim = 16,
                                    .layers = 28,
                                    .eps = 1e-6,
                                    .theta = 1e6,
                                    .qk_norm = true,
                                    .states = {9, 18, 27},
                                    .state_count = 3};

typedef struct fixture {
    mica_weights *files, *expected;
    mica_arena arena;
    mica_lm lm;
    mica_backend *be;
} fixture;

/* What lies behind the last state must not be missed. */
static bool hide_unneeded(void *user, const char *name, char *out, size_t cap)
{
    (void)user;
    return (strncmp(name, "model.layers.27.", 16) == 0 || strcmp(name, "model.norm.weight") == 0) &&
           snprintf(out, cap, "hidden.%s", name) > 0;
}

static void fixture_open(fixture *f, const char *name, int threads)
{
    mica_err err = {0};
    char path[1024];
    const mica_backend_options options = {.precision = MICA_PRECISION_F32, .threads = threads};
    memset(f, 0, sizeof *f);
    mica_arena_init(&f->arena, 1 << 16);
    assert_ok(mica_weights_open(&f->files, FLUX2 "/model/text_encoder", &err), err);
    assert_ok(mica_weights_rename(f->files, hide_unneeded, NULL, &err), err);
    snprintf(path, sizeof path, FLUX2 "/cases/%s/expected.safetensors", name);
    assert_ok(mica_weights_open(&f->expected, path, &err), err);
    f->lm.config = TINY;
    assert_ok(mica_lm_bind(&f->lm, f->files, "text encoder", &f->arena, &err), err);
    assert_ok(mica_backend_open(&f->be, &options, &err), err);
}

static void fixture_close(fixture *f)
{
    mica_lm_drop(&f->lm, f->be);
    mica_backend_close(&f->be);
    mica_arena_deinit(&f->arena);
    mica_weights_close(&f->files);
    mica_weights_close(&f->expected);
}

/* Prompt and how many of its rows are text, from the case's tensors. */
static mica_lm_prompt prompt_of(const fixture *f, const char *name)
{
    char key[64];
    snprintf(key, sizeof key, "%s.input_ids", name);
    const mica_tensor *ids = mica_weights_find(f->expected, key);
    snprintf(key, sizeof key, "%s.attention_mask", name);
    const mica_tensor *mask = mica_weights_find(f->expected, key);
    mica_lm_prompt p = {.ids = ids->data, .count = mica_tensor_count(ids)};
    for (int64_t i = 0; i < p.count; i++)
        p.valid += ((const int32_t *)mask->data)[i];
    return p;
}

static float *run(fixture *f, const mica_lm_prompt *prompts, int count)
{
    mica_err err = {0};
    mica_run r;
    int64_t L = 0;
    for (int i = 0; i < count; i++)
        L += prompts[i].count;
    const int64_t N = mica_lm_result_width(&f->lm.config);
    mica_tensor out = mica_act_tensor(f->be, MICA_POOL_SESSION, 2, (const int64_t[]){L, N});
    float *host = mica_mem_calloc((size_t)(L * N), sizeof *host);
    mica_run_init(&r, NULL, NULL, NULL);
    assert_ok(mica_lm_run(&f->lm, f->be, &r, prompts, count, &out, &err), err);
    mica_download_f32(f->be, host, &out);
    assert_ok(mica_backend_check(f->be, &err), err);
    return host;
}

static void assert_near(const char *name, const float *got, const mica_tensor *want)
{
    double d = 0.0, norm = 0.0;
    for (int64_t i = 0; i < mica_tensor_count(want); i++) {
        const double w = (double)mica_tensor_read_f32(want, i);
        d += ((double)got[i] - w) * ((double)got[i] - w);
        norm += w * w;
    }
    if (!(norm > 0.0) || !(sqrt(d / norm) <= BOUND))
        fail_msg("%s: relative L2 %.3g", name, sqrt(d / norm));
}

static void test_states_of_padded_prompts(void **state)
{
    (void)state;
    static const char *const cases[] = {"distilled", "distilled_512", "edit"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++)
        for (int threads = 1; threads <= 2; threads++) {
            fixture f;
            fixture_open(&f, cases[i], threads);
            const mica_lm_prompt p = prompt_of(&f, "prompt");
            assert_true(p.valid > 0 && p.valid < p.count);
            float *got = run(&f, &p, 1);
            assert_near(cases[i], got, mica_weights_find(f.expected, "prompt.embeds"));
            mica_mem_free(got);
            fixture_close(&f);
        }
}

/* Prompt and negative prompt share the linears. */
static void test_two_prompts(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, "base_cfg", 2);
    const mica_lm_prompt both[] = {prompt_of(&f, "prompt"), prompt_of(&f, "negative")};
    float *got = run(&f, both, 2);
    assert_near("prompt", got, mica_weights_find(f.expected, "prompt.embeds"));
    assert_near("negative", got + both[0].count * 96,
                mica_weights_find(f.expected, "negative.embeds"));
    mica_mem_free(got);
    fixture_close(&f);
}

/* One state alone is its columns of three; padding changes no text row. */
static void test_one_state(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, "edit", 1);
    mica_lm_prompt p = prompt_of(&f, "prompt");
    float *three = run(&f, &p, 1);
    f.lm.config.states[0] = 18;
    f.lm.config.state_count = 1;
    p.count = p.valid;
    p.valid = 0;
    float *one = run(&f, &p, 1);
    for (int64_t l = 0; l < p.count; l++)
        for (int i = 0; i < 32; i++)
            assert_true(fabsf(one[l * 32 + i] - three[l * 96 + 32 + i]) <=
                        1e-5f * (1.0f + fabsf(one[l * 32 + i])));
    f.lm.config.states[0] = 0; /* the embedding itself, no layer run */
    float *embedding = run(&f, &p, 1);
    const mica_tensor *table = mica_weights_find(f.files, "model.embed_tokens.weight");
    for (int i = 0; i < 32; i++)
        assert_true(embedding[32 + i] == mica_tensor_read_f32(table, p.ids[1] * 32 + i));
    mica_mem_free(three);
    mica_mem_free(one);
    mica_mem_free(embedding);
    f.lm.config = TINY;
    fixture_close(&f);
}

static void test_too_few_layers(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_weights *files = NULL;
    mica_arena arena;
    mica_lm lm = {.config = TINY};
    lm.config.layers = 27;
    mica_arena_init(&arena, 1 << 16);
    assert_ok(mica_weights_open(&files, FLUX2 "/model/text_encoder", &err), err);
    assert_int_equal(mica_lm_bind(&lm, files, "text encoder", &arena, &err), MICA_E_FORMAT);
    assert_non_null(strstr(err.text, "27 layers"));
    mica_arena_deinit(&arena);
    mica_weights_close(&files);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_states_of_padded_prompts),
        cmocka_unit_test(test_two_prompts),
        cmocka_unit_test(test_one_state),
        cmocka_unit_test(test_too_few_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
