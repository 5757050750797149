/* test_gpt_sovits_semantic.c - text to semantic against the reference: the prefix, every step's logits
 * and the codes, from a checkpoint of torch and from converted weights; then what must not change the
 * codes: threads, batch, order. */
#include "gpt_sovits_support.h"

#include "base/mem.h"
#include "models/gpt_sovits/gpt_sovits_semantic.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define CHECKPOINT "models/s1.ckpt"
#define CONVERTED  "converted/doubao_mixed_gpt_new.safetensors"

typedef struct text_bench {
    gs_bench b;
    mica_gs_semantic s;
    float *features; /* [phones][width] */
    mica_gs_prefix prefix;
} text_bench;

static void open_text(text_bench *t, const char *model, mica_precision precision, int threads)
{
    mica_err err = {0};
    int64_t heads = 0;
    gs_open(&t->b, model, mica_gs_semantic_directory, "t2s", precision, threads);
    mica_weights_find_int(t->b.files, "config.model.head", &heads);
    gs_ok(mica_gs_semantic_open(&t->s, t->b.directory, heads, &t->b.arena, &err), &err);
    assert_int_equal(t->s.stack.heads, 3);
    gs_ok(mica_gs_semantic_upload(&t->s, t->b.be, &t->b.arena, &err), &err);
    const mica_tensor *phones = gs_expected(&t->b, "phone_ids");
    const mica_tensor *bert = gs_expected(&t->b, "bert_features");
    const mica_tensor *prompt = gs_expected(&t->b, "prompt_tokens");
    const int64_t W = bert->shape_[1], T = bert->shape_[2];
    t->features = mica_mem_calloc((size_t)(W * T), sizeof *t->features);
    for (int64_t i = 0; i < W * T; i++)
        t->features[i % T * W + i / T] = ((const float *)bert->data)[i];
    t->prefix =
        (mica_gs_prefix){phones->data, T, t->features, prompt->data, mica_tensor_count(prompt)};
}

static void close_text(text_bench *t)
{
    mica_gs_semantic_drop(&t->s, t->b.be);
    mica_mem_free(t->features);
    gs_close(&t->b);
}

static mica_gs_sampling greedy(double penalty)
{
    return (mica_gs_sampling){.top_k = 1,
                              .top_p = 1.0,
                              .temperature = 1.0,
                              .penalty = penalty,
                              .greedy = true,
                              .most = 25};
}

static void make_all(text_bench *t, mica_gs_sentence **list, int count)
{
    mica_err err = {0};
    bool running = true;
    while (running) {
        gs_ok(mica_gs_sentences_step(list, count, &t->s, t->b.be, &t->b.run, &err), &err);
        running = false;
        for (int i = 0; i < count; i++)
            running |= !list[i]->finished;
    }
}

/* ------------------------------------------------------ against the reference -- */

static void check_logits(const text_bench *t, double bound)
{
    const mica_tensor *want = gs_expected(&t->b, "rp135.logits");
    const int64_t V = want->shape_[1];
    for (int step = 1; step < 25; step++) {
        char name[64];
        snprintf(name, sizeof name, "semantic.logits.%d", step);
        const mica_tensor *got = mica_trace_find(t->b.trace, name);
        assert_non_null(got);
        double diff = 0.0, norm = 0.0;
        for (int64_t i = 0; i < (step < MICA_GS_LEAST_CODES ? V - 1 : V); i++) {
            const double w = (double)((const float *)want->data)[step * V + i];
            const double d = (double)((const float *)got->data)[i] - w;
            diff += d * d;
            norm += w * w;
        }
        if (!(sqrt(diff / norm) <= bound))
            fail_msg("logits of step %d: relative L2 %.3g", step, sqrt(diff / norm));
    }
}

static void check_case(const char *model, const char *tokens, double penalty, bool logits)
{
    text_bench t;
    mica_gs_sentence one, *list[] = {&one};
    mica_err err = {0};
    const mica_gs_sampling sampling = greedy(penalty);
    open_text(&t, model, MICA_PRECISION_F32, 0);
    gs_ok(mica_gs_sentence_begin(&one, &t.s, t.b.be, &t.b.run, &t.prefix, &sampling, &err), &err);
    gs_near(&t.b, "probe.x_embedded", "probe.x_embedded", 1e-5);
    gs_near(&t.b, "probe.y_embedded", "probe.y_embedded", 1e-5);
    gs_near(&t.b, "probe.prefill_hidden", "probe.prefill_hidden", 1e-5);
    gs_near(&t.b, "probe.prefill_logits", "probe.prefill_logits", 1e-5);
    gs_near(&t.b, "probe.k_cache.0", "probe.k_cache.0", 1e-5);
    make_all(&t, list, 1);
    gs_equal_ids(&t.b, one.codes + one.prompt_count, one.count, tokens);
    if (logits)
        check_logits(&t, 1e-5);
    mica_gs_sentence_deinit(&one);
    close_text(&t);
}

static void test_reference(void **state)
{
    (void)state;
    check_case(CHECKPOINT, "rp135.tokens", 1.35, true);
    check_case(CHECKPOINT, "rp100.tokens", 1.0, false);
    check_case(CONVERTED, "rp135.tokens", 1.35, true);
}

/* ------------------------------------------------------- what must not matter -- */

static mica_gs_sampling drawn(uint32_t sentence, int64_t most)
{
    return (mica_gs_sampling){.top_k = 15,
                              .top_p = 0.95,
                              .temperature = 0.8,
                              .penalty = 1.35,
                              .seed = 7,
                              .sentence = sentence,
                              .most = most};
}

/* Three sentences of different length, alone and together. */
static void check_batch(mica_precision precision)
{
    text_bench t;
    mica_gs_sentence alone[3], together[3], *list[3];
    mica_err err = {0};
    open_text(&t, CHECKPOINT, precision, 2);
    mica_gs_prefix prefix[3] = {t.prefix, t.prefix, t.prefix};
    prefix[1].phone_count = 17;
    prefix[2].prompt_count = 0; /* no transcript */
    for (int i = 0; i < 3; i++) {
        const mica_gs_sampling sampling = drawn((uint32_t)i, 30 + 7 * i);
        list[0] = &alone[i];
        gs_ok(
            mica_gs_sentence_begin(&alone[i], &t.s, t.b.be, &t.b.run, &prefix[i], &sampling, &err),
            &err);
        make_all(&t, list, 1);
    }
    for (int i = 0; i < 3; i++) {
        const mica_gs_sampling sampling = drawn((uint32_t)i, 30 + 7 * i);
        list[2 - i] = &together[i]; /* another order */
        gs_ok(mica_gs_sentence_begin(&together[i], &t.s, t.b.be, &t.b.run, &prefix[i], &sampling,
                                     &err),
              &err);
    }
    make_all(&t, list, 3);
    for (int i = 0; i < 3; i++) {
        assert_true(alone[i].count > MICA_GS_LEAST_CODES - 1);
        assert_int_equal(alone[i].count, together[i].count);
        assert_memory_equal(alone[i].codes, together[i].codes,
                            (size_t)(alone[i].prompt_count + alone[i].count) * sizeof(int32_t));
        mica_gs_sentence_deinit(&alone[i]);
        mica_gs_sentence_deinit(&together[i]);
    }
    close_text(&t);
}

static void test_batch(void **state)
{
    (void)state;
    check_batch(MICA_PRECISION_F32);
    check_batch(MICA_PRECISION_BF16);
}

/* Long enough that the cache grows, with one and with three threads. */
static void test_threads_and_growth(void **state)
{
    (void)state;
    mica_gs_sentence one, *list[] = {&one};
    int32_t *made[2];
    int64_t counts[2];
    for (int i = 0; i < 2; i++) {
        text_bench t;
        mica_err err = {0};
        const mica_gs_sampling sampling = drawn(3, 300);
        open_text(&t, CHECKPOINT, MICA_PRECISION_F32, 1 + 2 * i);
        gs_ok(mica_gs_sentence_begin(&one, &t.s, t.b.be, &t.b.run, &t.prefix, &sampling, &err),
              &err);
        make_all(&t, list, 1);
        counts[i] = one.count + one.prompt_count;
        assert_true(counts[i] > 200);
        made[i] = one.codes;
        one.codes = NULL;
        mica_gs_sentence_deinit(&one); /* before its backend */
        close_text(&t);
    }
    assert_int_equal(counts[0], counts[1]);
    assert_memory_equal(made[0], made[1], (size_t)counts[0] * sizeof(int32_t));
    for (int i = 0; i < 2; i++)
        mica_mem_free(made[i]);
}

static void test_foreign_ids(void **state)
{
    (void)state;
    text_bench t;
    mica_gs_sentence one;
    mica_err err = {0};
    const mica_gs_sampling sampling = greedy(1.35);
    const int32_t bad[] = {732}, end[] = {1024};
    open_text(&t, CHECKPOINT, MICA_PRECISION_F32, 1);
    mica_gs_prefix p = t.prefix;
    p.phones = bad;
    p.phone_count = 1;
    assert_int_equal(mica_gs_sentence_begin(&one, &t.s, t.b.be, &t.b.run, &p, &sampling, &err),
                     MICA_E_USAGE);
    assert_non_null(strstr(err.text, "phone id 732; the model has 732 phones"));
    mica_gs_sentence_deinit(&one);
    p = t.prefix;
    p.prompt = end;
    p.prompt_count = 1;
    assert_int_equal(mica_gs_sentence_begin(&one, &t.s, t.b.be, &t.b.run, &p, &sampling, &err),
                     MICA_E_USAGE);
    mica_gs_sentence_deinit(&one);
    close_text(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_threads_and_growth),
        cmocka_unit_test(test_foreign_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
