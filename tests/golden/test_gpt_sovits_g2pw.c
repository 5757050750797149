/* test_gpt_sovits_g2pw.c - g2pW from an ONNX file: probabilities as onnxruntime computes them, readings
 * of whole sentences as upstream's code around it gives them. */
#include "gpt_sovits_support.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "models/gpt_sovits/gpt_sovits_readings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL      MICA_TEST_DATA "/gpt_sovits/g2pw/g2pW.onnx"
#define VOCABULARY MICA_TEST_DATA "/gpt_sovits/models/chinese-roberta-wwm-ext-large"
#define READINGS   MICA_TEST_DATA "/gpt_sovits/cases/g2pw/readings.tsv"
#define BOUND      1e-5

typedef struct bench {
    gs_bench gs;
    mica_gs_g2pw g;
    mica_speech_front *front;
    mica_wordpiece *vocabulary;
    mica_gs_readings lists;
    mica_gs_asker asker;
} bench;

static void open_bench(bench *b, mica_precision precision)
{
    mica_err err = {0};
    gs_open(&b->gs, "g2pw/g2pW.onnx", mica_gs_bert_directory, "g2pw", precision, 0);
    assert_true(mica_gs_g2pw_probe(b->gs.files));
    gs_ok(mica_gs_g2pw_open(&b->g, b->gs.directory, 4, &b->gs.arena, &err), &err);
    gs_ok(mica_gs_g2pw_upload(&b->g, b->gs.be, &err), &err);
    gs_ok(mica_speech_front_open(&b->front, &err), &err);
    gs_ok(mica_wordpiece_open(&b->vocabulary, VOCABULARY, &err), &err);
    const mica_gs_list_sizes sizes = {b->g.char_count, b->g.readings};
    gs_ok(mica_gs_readings_open(&b->lists, MODEL, &sizes, b->front, &b->gs.arena, &err), &err);
    b->asker = (mica_gs_asker){&b->lists, &b->g, b->vocabulary, b->gs.be, &b->gs.run};
}

static void close_bench(bench *b)
{
    mica_gs_g2pw_drop(&b->g, b->gs.be);
    mica_speech_front_close(&b->front);
    mica_wordpiece_close(&b->vocabulary);
    gs_close(&b->gs);
}

static const int32_t *expected_ids(const bench *b, const char *name, int64_t *count)
{
    const mica_tensor *t = gs_expected(&b->gs, name);
    assert_int_equal(t->dtype, MICA_DTYPE_I32);
    *count = mica_tensor_count(t);
    return t->data;
}

static void check_probabilities(mica_precision precision, double bound)
{
    bench b;
    mica_err err = {0};
    int64_t count, id_count;
    open_bench(&b, precision);
    const int32_t *ids = expected_ids(&b, "input_ids", &id_count);
    const int32_t *characters = expected_ids(&b, "char_ids", &count);
    const int32_t *places = expected_ids(&b, "position_ids", &count);
    const float *mask = gs_expected(&b.gs, "phoneme_mask")->data;
    const float *want = gs_expected(&b.gs, "probs")->data;
    const int64_t R = b.g.readings;
    mica_gs_question *questions = mica_mem_calloc((size_t)count, sizeof *questions);
    uint8_t *may = mica_mem_calloc((size_t)(count * R), 1);
    int32_t *best = mica_mem_calloc((size_t)count, sizeof *best);
    float *probs = mica_mem_calloc((size_t)(count * R), sizeof *probs);
    for (int64_t i = 0; i < count * R; i++)
        may[i] = mask[i] != 0.0f;
    for (int64_t i = 0; i < count; i++) {
        questions[i] = (mica_gs_question){places[i], characters[i], may + i * R};
        /* The lists give a character the number and the readings it was trained with. */
        assert_memory_equal(b.lists.may_CR + characters[i] * R, may + i * R, (size_t)R);
    }
    gs_ok(mica_gs_g2pw_run(&b.g, b.gs.be, &b.gs.run, ids, id_count, questions, count, best, probs,
                           &err),
          &err);
    gs_near_host(&b.gs, probs, count * R, "probs", bound);
    for (int64_t i = 0; i < count; i++)
        for (int64_t r = 0; r < R; r++)
            assert_true(want[i * R + r] <= want[i * R + best[i]]);
    questions[0].place = (int32_t)id_count;
    assert_int_equal(mica_gs_g2pw_run(&b.g, b.gs.be, &b.gs.run, ids, id_count, questions, count,
                                      best, NULL, &err),
                     MICA_E_INTERNAL);
    mica_mem_free(questions);
    mica_mem_free(may);
    mica_mem_free(best);
    mica_mem_free(probs);
    close_bench(&b);
}

static void test_probabilities(void **state)
{
    (void)state;
    check_probabilities(MICA_PRECISION_F32, BOUND);
    check_probabilities(MICA_PRECISION_BF16, 5e-2);
}

/* One line of readings.tsv. Characters that nobody is asked about may be read otherwise. */
static int check_sentence(bench *b, char *line)
{
    uint32_t chars[256];
    int readings[256], asked = 0;
    size_t size = 0;
    mica_err err = {0};
    char *sentence = strtok(line, "\t"), *want = strtok(NULL, "\t");
    for (size_t at = 0, n = strlen(sentence); at < n; size++)
        at += mica_utf8_decode(sentence + at, n - at, &chars[size]);
    gs_ok(mica_gs_ask(&b->asker, chars, size, readings, &err), &err);
    want = strtok(want, " ");
    for (size_t i = 0; i < size; i++, want = strtok(NULL, " ")) {
        assert_non_null(want);
        if (readings[i] < 0)
            continue;
        char pinyin[8] = {0};
        memcpy(pinyin, want, strlen(want) - 1);
        if (readings[i] != mica_speech_reading(b->front, pinyin, want[strlen(want) - 1] - '0'))
            fail_msg("%s: character %zu should be %s", sentence, i + 1, want);
        asked++;
    }
    assert_null(want);
    return asked;
}

static void test_sentences(void **state)
{
    (void)state;
    bench b;
    mica_err err = {0};
    char *text, *next;
    size_t size;
    int lines = 0, asked = 0;
    open_bench(&b, MICA_PRECISION_F32);
    gs_ok(mica_file_read(READINGS, 1 << 16, &text, &size, &err), &err);
    for (char *line = text; line && *line; line = next, lines++) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        asked += check_sentence(&b, line);
    }
    assert_int_equal(lines, 24);
    assert_int_equal(asked, 104);
    mica_mem_free(text);
    close_bench(&b);
}

static void expect_reading(const bench *b, const int *readings, size_t at, const char *pinyin,
                           int tone)
{
    assert_int_equal(readings[at], mica_speech_reading(b->front, pinyin, tone));
}

/* More characters than BERT has places (96): each question sees what is around it, and a question whose
 * surroundings are whole gets the answer it gets alone. */
static void test_long_sentence(void **state)
{
    (void)state;
    bench b;
    mica_err err = {0};
    uint32_t chars[400];
    int readings[400];
    open_bench(&b, MICA_PRECISION_F32);
    for (size_t i = 0; i < 400; i++)
        chars[i] = i % 40 == 7 ? 0x884c : 0x7684; /* 行, 的 */
    gs_ok(mica_gs_ask(&b.asker, chars, 400, readings, &err), &err);
    for (size_t i = 0; i < 400; i++) {
        const int hang = mica_speech_reading(b.front, "hang", 2);
        const int xing = mica_speech_reading(b.front, "xing", 2);
        assert_true(i % 40 == 7 ? readings[i] == hang || readings[i] == xing : readings[i] == -1);
    }
    close_bench(&b);
}

static void test_lists(void **state)
{
    (void)state;
    static const uint32_t SINGLE[] = {0x671f, 0x4f3c, 0x4e00, 0x4e0d}; /* 期 似 一 不 */
    bench b;
    int readings[4];
    mica_err err = {0};
    open_bench(&b, MICA_PRECISION_F32);
    gs_ok(mica_gs_ask(&b.asker, SINGLE, 4, readings, &err), &err);
    expect_reading(&b, readings, 0, "qi", 2); /* of the list of single readings */
    assert_int_equal(readings[1], -1);        /* upstream does not believe that list there */
    assert_int_equal(readings[2], -1);        /* nor the network here */
    assert_int_equal(readings[3], -1);
    const mica_gs_list_sizes other = {b.g.char_count, b.g.readings + 1};
    mica_gs_readings lists;
    assert_int_equal(mica_gs_readings_open(&lists, MODEL, &other, b.front, &b.gs.arena, &err),
                     MICA_E_FORMAT);
    assert_non_null(strstr(err.text, "belongs to another"));
    const mica_gs_list_sizes sizes = {b.g.char_count, b.g.readings};
    err = (mica_err){0};
    assert_int_equal(mica_gs_readings_open(&lists, VOCABULARY, &sizes, b.front, &b.gs.arena, &err),
                     MICA_E_MISSING);
    close_bench(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_probabilities), cmocka_unit_test(test_sentences),
        cmocka_unit_test(test_long_sentence), cmocka_unit_test(test_lists)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
