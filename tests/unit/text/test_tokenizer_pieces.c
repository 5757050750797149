/* test_tokenizer_pieces.c - a tokenizer as pieces with scores: what is written into GGUF files, read back, encodes
 * every text of the golden cases as before; so does the tokenizer.json made of those. */
#include "line_corpus.h"
#include "pieces_round_trip.h"
#include "text_fixture.h"

#include <cjson/cJSON.h>

#define HF MICA_TEST_DATA "/mixtral/hf"

static void open_both(mica_tokenizer **t, mica_tokenizer **back)
{
    mica_err err = {0};
    assert_int_equal(mica_tokenizer_open(t, HF, &err), MICA_OK);
    if (pieces_round_trip(*t, back, &err) != MICA_OK)
        fail_msg("%s", err.text);
}

static void test_kinds(void **state)
{
    (void)state;
    mica_tokenizer *t, *back;
    open_both(&t, &back);
    assert_int_equal(mica_tokenizer_get_kind(t, 0), MICA_PIECE_UNKNOWN);
    assert_int_equal(mica_tokenizer_get_kind(t, 1), MICA_PIECE_CONTROL);
    assert_int_equal(mica_tokenizer_get_kind(t, 3), MICA_PIECE_BYTE);
    assert_int_equal(mica_tokenizer_get_kind(t, 259), MICA_PIECE_NORMAL);
    assert_int_equal(mica_tokenizer_get_kind(t, 1 << 20), MICA_PIECE_UNUSED);
    float scores[300];
    mica_err err = {0};
    assert_int_equal(mica_tokenizer_get_scores(t, scores, 300, &err), MICA_OK);
    assert_true(scores[259] == 0.0f && scores[260] == -1.0f); /* the first two merges */
    assert_true(scores[0] == 0.0f && scores[3] == 0.0f);
    for (int32_t id = 0; id < mica_tokenizer_vocab_size(t); id++)
        assert_int_equal(mica_tokenizer_get_kind(t, id), mica_tokenizer_get_kind(back, id));
    assert_int_equal(mica_tokenizer_bos(back), mica_tokenizer_bos(t));
    mica_tokenizer_close(&t);
    mica_tokenizer_close(&back);
}

static void expect_same(const mica_tokenizer *a, const mica_tokenizer *b, const char *text)
{
    int32_t *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    mica_err err = {0};
    assert_int_equal(mica_tokenizer_encode(a, text, strlen(text), &x, &n, &err), MICA_OK);
    assert_int_equal(mica_tokenizer_encode(b, text, strlen(text), &y, &m, &err), MICA_OK);
    if (n != m || memcmp(x, y, n * sizeof *x) != 0)
        fail_msg("\"%s\" becomes other tokens", text);
    mica_mem_free(x);
    mica_mem_free(y);
}

static void test_cases(void **state)
{
    (void)state;
    mica_tokenizer *t, *back;
    mica_json j;
    mica_err err = {0};
    int count = 0;
    open_both(&t, &back);
    assert_int_equal(mica_json_open(&j, MICA_TEST_DATA "/mixtral/cases/tokenizer/cases.json", &err),
                     MICA_OK);
    const cJSON *item;
    cJSON_ArrayForEach(item, j.root)
    {
        expect_same(t, back, mica_json_find(item, "text")->valuestring);
        count++;
    }
    assert_true(count >= 10);
    mica_json_close(&j);
    mica_tokenizer_close(&t);
    mica_tokenizer_close(&back);
}

/* All lines of the corpus, with what the reference library makes of them. */
static void expect_lines(const mica_tokenizer *t)
{
    corpus_result result;
    assert_true(corpus_compare(t, MICA_TEST_DATA "/tokenizer/tiny_mixtral.expected", 10, &result));
    assert_int_equal(result.wrong, 0);
    assert_true(result.lines >= 3900);
}

static void test_json(void **state)
{
    (void)state;
    mica_tokenizer *t, *back, *direct = NULL, *again = NULL;
    mica_err err = {0};
    open_both(&t, &back);
    if (json_round_trip(back, &again, &err) || json_round_trip(t, &direct, &err))
        fail_msg("%s", err.text);
    expect_lines(back);
    expect_lines(again);
    expect_lines(direct);
    for (int32_t id = 0; id < mica_tokenizer_vocab_size(t); id++)
        assert_int_equal(mica_tokenizer_get_kind(t, id), mica_tokenizer_get_kind(again, id));
    assert_int_equal(mica_tokenizer_bos(again), mica_tokenizer_bos(t));
    assert_int_equal(mica_tokenizer_eos(again), mica_tokenizer_eos(t));
    mica_tokenizer_close(&t);
    mica_tokenizer_close(&back);
    mica_tokenizer_close(&direct);
    mica_tokenizer_close(&again);
}

/* Specials of every kind, ids without a token, no space before a text and none taken from one. */
static void test_json_of_odd_pieces(void **state)
{
    (void)state;
    static const char *const TEXTS[] = {"<unk>",
                                        "<s>",
                                        "</s>",
                                        "[INST]",
                                        "[pad]",
                                        "[pad]",
                                        "a",
                                        "\"b",
                                        "a\"b",
                                        "\xe2\x96\x81",
                                        ("\xe2\x96\x81"
                                         "a")};
    static const int32_t KINDS[] = {2, 3, 3, 4, 5, 5, 1, 1, 1, 1, 1};
    static const float SCORES[] = {0, 0, 0, 0, 0, 0, -9, -9, -1, -9, -2};
    for (int prefix = 0; prefix < 2; prefix++) {
        const mica_pieces p = {.texts = TEXTS,
                               .scores = SCORES,
                               .kinds = KINDS,
                               .count = MICA_ARRAY_LEN(TEXTS),
                               .no_space_prefix = prefix == 0,
                               .bos = prefix ? 1 : -1,
                               .eos = prefix ? 2 : -1};
        mica_tokenizer *t = NULL, *back = NULL;
        mica_err err = {0};
        assert_int_equal(mica_tokenizer_open_pieces(&t, "odd", &p, &err), MICA_OK);
        if (json_round_trip(t, &back, &err))
            fail_msg("%s", err.text);
        static const char *const WORDS[] = {"a\"b a", "[INST]a", " a", "<s>a</s>", "", "\xc3\xa9"};
        for (size_t i = 0; i < MICA_ARRAY_LEN(WORDS); i++)
            expect_same(t, back, WORDS[i]);
        const int32_t spaced[] = {10, 8};
        expect_decoding(t, spaced, 2, true, prefix ? "aa\"b" : " aa\"b");
        expect_decoding(back, spaced, 2, true, prefix ? "aa\"b" : " aa\"b");
        assert_int_equal(mica_tokenizer_bos(back), p.bos);
        assert_int_equal(mica_tokenizer_eos(back), p.eos);
        assert_int_equal(mica_tokenizer_find(back, "[INST]"), 3);
        mica_tokenizer_close(&t);
        mica_tokenizer_close(&back);
    }
}

/* A byte-level vocabulary has no pieces. */
static void test_refused(void **state)
{
    (void)state;
    mica_tokenizer *t = NULL;
    mica_err err = {0};
    float scores[4];
    assert_int_equal(mica_tokenizer_open(&t, MICA_TEST_DATA "/qwen_image/model/tokenizer", &err),
                     MICA_OK);
    assert_int_equal(mica_tokenizer_get_scores(t, scores, 4, &err), MICA_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "byte-level"));
    mica_text text = {0};
    assert_int_equal(mica_tokenizer_write_json(t, &text, &err), MICA_E_UNSUPPORTED);
    assert_int_equal(text.size, 0);
    mica_tokenizer_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),   cmocka_unit_test(test_cases),
        cmocka_unit_test(test_json),    cmocka_unit_test(test_json_of_odd_pieces),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
