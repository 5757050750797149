/* test_gpt_sovits_check.c - words left out and words said again, found in the attention of a whole pass, on the
 * device under test: weights by hand make one head look from code n to phone n, so that codes can be put
 * together that read a text well, leave phones out, or go back.
 *
 *     embedding of phone p    4 in dimension p          ─k─►  dimension p of head 0
 *     embedding of code c     4 in dimension 32 + c     ─q─►  dimension c of head 0, times GAIN
 *     head 1                  zeros: looks everywhere alike */
#include "gpt_sovits_support.h"

#include "base/mem.h"
#include "models/gpt_sovits/gpt_sovits_job.h"
#include "speech/speech_symbols.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { D = 64, K = 32, V = 33, PHONES = 32, PROMPT = 12, OWN = PHONES - PROMPT, B = 8 };
#define GAIN 4.0f

typedef struct bench {
    mica_gs_model model;
    mica_gs_session s;
    mica_weights *w;
    mica_arena arena;
    mica_run run;
    mica_gs_voice voice;
    int32_t prompt_codes[3 * PROMPT], phones[PHONES];
    mica_gs_request request;
} bench;

static float *add(bench *b, const char *name, int64_t rows, int64_t columns, float fill)
{
    mica_err err = {0};
    float *data = mica_arena_calloc(&b->arena, (size_t)(rows * columns), sizeof *data);
    for (int64_t i = 0; i < rows * columns; i++)
        data[i] = fill;
    const mica_tensor t = columns > 1 ? mica_tensor_2d(data, MICA_DTYPE_F32, rows, columns)
                                      : mica_tensor_1d(data, MICA_DTYPE_F32, rows);
    gs_ok(mica_weights_add(b->w, name, &t, &err), &err);
    return data;
}

static void add_weights(bench *b)
{
    static const char *const SQUARE[] = {"q_proj", "k_proj", "v_proj", "o_proj"};
    static const char *const NORMS[] = {"input_layernorm", "post_attention_layernorm"};
    char name[64];
    float *phones = add(b, "phoneme_embed.weight", PHONES, D, 0.0f);
    float *codes = add(b, "semantic_embed.weight", V, D, 0.0f);
    for (int i = 0; i < K; i++)
        phones[i * D + i] = codes[i * D + K + i] = 4.0f;
    add(b, "audio_proj.weight", D, B, 0.0f);
    add(b, "audio_proj.bias", D, 1, 0.0f);
    add(b, "text_pos_alpha", 1, 1, 0.0f);
    add(b, "audio_pos_alpha", 1, 1, 0.0f);
    add(b, "lm_head.weight", V, D, 0.0f);
    for (int n = 0; n < 4; n++) {
        snprintf(name, sizeof name, "layers.0.self_attn.%s.weight", SQUARE[n]);
        float *w = add(b, name, D, D, 0.0f);
        for (int i = 0; n < 2 && i < K; i++)
            w[i * D + i + (n == 0 ? K : 0)] = n == 0 ? GAIN : 1.0f;
        snprintf(name, sizeof name, "layers.0.self_attn.%s.bias", SQUARE[n]);
        add(b, name, D, 1, 0.0f);
    }
    for (int n = 0; n < 2; n++) {
        snprintf(name, sizeof name, "layers.0.%s.weight", NORMS[n]);
        add(b, name, D, 1, 1.0f);
        snprintf(name, sizeof name, "layers.0.%s.bias", NORMS[n]);
        add(b, name, D, 1, 0.0f);
    }
    add(b, "layers.0.mlp.gate_proj.weight", D, D, 0.0f);
    add(b, "layers.0.mlp.gate_proj.bias", D, 1, 0.0f);
    add(b, "layers.0.mlp.down_proj.weight", D, D, 0.0f);
    add(b, "layers.0.mlp.down_proj.bias", D, 1, 0.0f);
}

static void open_bench(bench *b)
{
    mica_err err = {0};
    const mica_backend_options options = {
        .device = gs_device(), .precision = MICA_PRECISION_F32, .threads = 2};
    memset(b, 0, sizeof *b);
    mica_arena_init(&b->arena, 1 << 16);
    mica_run_init(&b->run, NULL, NULL, NULL);
    gs_ok(mica_backend_open(&b->s.be, &options, &err), &err);
    gs_ok(mica_speech_front_open(&b->model.front, &err), &err);
    gs_ok(mica_weights_open_empty(&b->w, &err), &err);
    add_weights(b);
    b->model.facts.phone_count = MICA_SYMBOLS_V2;
    b->s.model = &b->model;
    gs_ok(mica_gs_semantic_open(&b->s.semantic, b->w, 2, &b->arena, &err), &err);
    gs_ok(mica_gs_semantic_upload(&b->s.semantic, b->s.be, &b->arena, &err), &err);
    for (int i = 0; i < 3 * PROMPT; i++)
        b->prompt_codes[i] = i / 3;
    for (int i = 0; i < PHONES; i++)
        b->phones[i] = i;
    b->voice = (mica_gs_voice){.codes = b->prompt_codes, .code_count = 3 * PROMPT};
    b->request = (mica_gs_request){
        .voice = &b->voice,
        .continues = true,
        .sampling = {.top_k = 1, .top_p = 1.0, .temperature = 1.0, .penalty = 1.0, .most = 500}};
}

static void close_bench(bench *b)
{
    mica_gs_semantic_drop(&b->s.semantic, b->s.be);
    mica_backend_close(&b->s.be);
    mica_weights_close(&b->w);
    mica_speech_front_close(&b->model.front);
    mica_arena_deinit(&b->arena);
}

/* A finished sentence of these codes. */
static mica_gs_job finished(bench *b, const int32_t *codes, int64_t count)
{
    mica_err err = {0};
    mica_gs_job j = {.phones = b->phones, .phone_count = PHONES, .prompt_phones = PROMPT};
    gs_ok(mica_gs_job_begin(&j, &b->s, &b->run, &b->request, &err), &err);
    mica_gs_sentence *t = &j.sentence;
    const int64_t all = t->prompt_count + count;
    t->codes = mica_mem_realloc(t->codes, (size_t)all * sizeof *t->codes);
    memcpy(t->codes + t->prompt_count, codes, (size_t)count * sizeof *codes);
    t->count = count;
    t->cap = all;
    t->finished = true;
    return j;
}

/* Two codes a phone, for phones [from, to) of the sentence. */
static int64_t go(int32_t *codes, int64_t at, int from, int to)
{
    for (int i = from; i < to; i++)
        for (int k = 0; k < 2; k++)
            codes[at++] = PROMPT + i;
    return at;
}

static mica_speech_part check_codes(bench *b, const int32_t *codes, int64_t count)
{
    mica_err err = {0};
    mica_speech_part part = {0};
    mica_gs_job j = finished(b, codes, count);
    gs_ok(mica_gs_job_check(&j, &b->s, &b->run, &b->request, &err), &err);
    gs_ok(mica_gs_job_name_doubts(&j, &b->s, &part, &err), &err);
    mica_gs_sentence_deinit(&j.sentence);
    return part;
}

static void free_part(mica_speech_part *part)
{
    mica_mem_free(part->dropped);
    mica_mem_free(part->repeated);
}

static void test_words(void **state)
{
    (void)state;
    bench b;
    int32_t codes[200];
    open_bench(&b);
    int64_t n = go(codes, 0, 0, OWN);
    mica_speech_part part = check_codes(&b, codes, n);
    assert_int_equal(b.s.heads.count, 1); /* the other one looks everywhere */
    assert_int_equal(b.s.heads.best[0].layer, 0);
    assert_int_equal(b.s.heads.best[0].head, 0);
    assert_true(part.followed);
    assert_int_equal(part.doubts, 0);
    assert_null(part.dropped);
    assert_null(part.repeated);

    n = go(codes, 0, 0, 4);
    n = go(codes, n, 14, OWN);
    part = check_codes(&b, codes, n);
    assert_int_equal(part.doubts, MICA_SPEECH_DROPPED);
    const char *first = mica_speech_phone_name(b.model.front, MICA_SYMBOLS_V2, PROMPT + 5);
    assert_int_equal(strncmp(part.dropped, first, strlen(first)), 0);
    assert_null(part.repeated);
    free_part(&part);

    n = go(codes, 0, 0, 14);
    n = go(codes, n, 2, OWN);
    part = check_codes(&b, codes, n);
    assert_int_equal(part.doubts, MICA_SPEECH_REPEATED);
    assert_null(part.dropped);
    assert_non_null(part.repeated);
    free_part(&part);
    close_bench(&b);
}

/* Of bad attempts the best is kept, of two alike the later one; a good one beats all. */
static void test_best_attempt(void **state)
{
    (void)state;
    bench b;
    mica_err err = {0};
    int32_t codes[3][200];
    int64_t n[3];
    open_bench(&b);
    n[0] = go(codes[0], 0, 0, 3); /* leaves out 13 phones */
    n[0] = go(codes[0], n[0], 16, OWN);
    n[1] = go(codes[1], 0, 0, 4); /* 10 */
    n[1] = go(codes[1], n[1], 14, OWN);
    n[2] = go(codes[2], 0, 0, OWN);
    for (int k = 0; k < 3; k++) {
        /* worse then better, better then worse, bad then good */
        const int first = k == 0 ? 0 : 1, second = k == 0 ? 1 : k == 1 ? 0 : 2;
        const int best = k == 2 ? 2 : 1;
        mica_gs_job j = finished(&b, codes[first], n[first]);
        gs_ok(mica_gs_job_check(&j, &b.s, &b.run, &b.request, &err), &err);
        assert_true(j.doubts & MICA_SPEECH_DROPPED);
        gs_ok(mica_gs_job_keep(&j, &err), &err);
        mica_gs_sentence_deinit(&j.sentence);
        const mica_gs_attempt kept = j.best;
        j = finished(&b, codes[second], n[second]);
        j.best = kept;
        gs_ok(mica_gs_job_check(&j, &b.s, &b.run, &b.request, &err), &err);
        gs_ok(mica_gs_job_take_best(&j, &err), &err);
        assert_int_equal(j.sentence.count, n[best]);
        assert_memory_equal(j.sentence.codes + j.sentence.prompt_count, codes[best],
                            (size_t)n[best] * sizeof(int32_t));
        assert_int_equal(j.doubts, best == 2 ? 0 : MICA_SPEECH_DROPPED);
        mica_mem_free(j.best.codes);
        mica_gs_sentence_deinit(&j.sentence);
    }
    close_bench(&b);
}

/* Without a transcript, or with a wrong one, nobody follows, and nothing is said. */
static void test_nobody_to_ask(void **state)
{
    (void)state;
    bench b;
    int32_t codes[200];
    const int64_t n = go(codes, 0, 0, 10);
    open_bench(&b);
    b.request.continues = false;
    mica_speech_part part = check_codes(&b, codes, n);
    assert_false(part.followed);
    assert_int_equal(part.doubts, 0);
    b.request.continues = true;
    b.s.heads.are_sought = false; /* as at the beginning of a run */
    for (int i = 0; i < 3 * PROMPT; i++)
        b.prompt_codes[i] = i * 7 % PROMPT; /* to and fro */
    part = check_codes(&b, codes, n);
    assert_int_equal(b.s.heads.count, 0);
    assert_false(part.followed);
    assert_int_equal(part.doubts, 0);
    b.s.heads.best[0].score = 9.0f; /* the next run with this voice keeps what was found */
    b.s.heads.are_sought = false;
    check_codes(&b, codes, n);
    assert_true(b.s.heads.are_sought && b.s.heads.best[0].score == 9.0f);
    b.s.heads.are_sought = false; /* one with another voice does not */
    for (int i = 0; i < 3 * PROMPT; i++)
        b.prompt_codes[i] = i / 3;
    part = check_codes(&b, codes, n);
    assert_int_equal(b.s.heads.count, 1);
    assert_true(b.s.heads.best[0].score < 1.0f);
    free_part(&part);
    close_bench(&b);
}

/* ---------------------------------------------------------- the pass itself -- */

typedef struct seen {
    float shares[64 * 2 * PHONES];
    int layers;
} seen;

static bool wants(void *user, int layer)
{
    (void)user;
    return layer == 0;
}

static mica_status take(void *user, int layer, const float *shares_LHT, mica_err *err)
{
    seen *s = user;
    (void)err;
    assert_int_equal(layer, 0);
    memcpy(s->shares, shares_LHT, sizeof s->shares);
    s->layers++;
    return MICA_OK;
}

/* The softmax that the weights spell out, by hand; twice, because a sentence may be watched again. */
static void test_shares(void **state)
{
    (void)state;
    bench b;
    mica_err err = {0};
    int32_t codes[64];
    seen s = {.layers = 0};
    const mica_gs_watch watch = {
        .phones = PHONES, .layers = 1, .wants = wants, .seen = take, .user = &s};
    open_bench(&b);
    for (int i = 0; i < 64; i++)
        codes[i] = i * 5 % K;
    mica_gs_job j = finished(&b, codes, 64);
    for (int round = 0; round < 2; round++) {
        memset(s.shares, 0, sizeof s.shares);
        gs_ok(mica_gs_sentence_watch(&j.sentence, &b.s.semantic, b.s.be, codes, 64, &watch, &err),
              &err);
        for (int i = 0; i < 64; i++) {
            const double keys =
                PHONES + 3 * PROMPT + i + 1; /* text, prompt, codes up to this one */
            const double peak = exp((double)GAIN * 16.0 / sqrt((double)K));
            for (int p = 0; p < PHONES; p++) {
                const double want = (p == codes[i] ? peak : 1.0) / (peak + keys - 1.0);
                const float *row = s.shares + i * 2 * PHONES;
                assert_true(fabs((double)row[p] - want) < 1e-5);
                assert_true(fabs((double)row[PHONES + p] - 1.0 / keys) < 1e-5);
            }
        }
    }
    assert_int_equal(s.layers, 2);
    mica_gs_sentence_deinit(&j.sentence);
    close_bench(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_nobody_to_ask),
        cmocka_unit_test(test_best_attempt),
        cmocka_unit_test(test_shares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
