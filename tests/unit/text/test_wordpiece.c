/* test_wordpiece.c - ids that transformers' BertTokenizer gives, from both forms of the files. */
#include "golden_file.h"

#include "base/json.h"
#include "base/mem.h"
#include "text/wordpiece.h"

#include <cjson/cJSON.h>

#define DATA MICA_TEST_DATA "/speech/wordpiece/"

static mica_wordpiece *open_or_fail(const char *path)
{
    mica_err err = {0};
    mica_wordpiece *w = NULL;
    if (mica_wordpiece_open(&w, path, &err) != MICA_OK)
        fail_msg("%s", err.text);
    return w;
}

static void expect_ids(const mica_wordpiece *w, const char *text, size_t size, const cJSON *want)
{
    mica_err err = {0};
    int32_t *ids;
    size_t count, i = 0;
    if (mica_wordpiece_encode(w, text, size, &ids, &count, &err) != MICA_OK)
        fail_msg("%s: %s", text, err.text);
    for (const cJSON *item = want->child; item != NULL; item = item->next, i++)
        if (i >= count || ids[i] != (int32_t)item->valuedouble)
            fail_msg("\"%s\": id %zu is %d, not %d", text, i, i < count ? ids[i] : -1,
                     (int)item->valuedouble);
    assert_int_equal(i, count);
    mica_mem_free(ids);
}

static void check_cases(const mica_wordpiece *w)
{
    mica_err err = {0};
    mica_json j = {0};
    size_t checked = 0;
    if (mica_json_open(&j, DATA "cases.json", &err) != MICA_OK)
        fail_msg("%s", err.text);
    for (const cJSON *item = j.root->child; item != NULL; item = item->next, checked++) {
        const char *text;
        assert_int_equal(mica_json_get_string(&j, item, "text", &text, &err), MICA_OK);
        expect_ids(w, text, strlen(text), mica_json_find(item, "ids"));
    }
    assert_true(checked >= 25);
    mica_json_close(&j);
}

static void test_tokenizer_json(void **state)
{
    (void)state;
    mica_wordpiece *w = open_or_fail(DATA "tokenizer.json");
    check_cases(w);
    assert_int_equal(mica_wordpiece_vocab_size(w), 237);
    mica_wordpiece_close(&w);
    w = open_or_fail(DATA);
    check_cases(w);
    mica_wordpiece_close(&w);
}

/* The same pieces without tokenizer.json. */
static void test_vocab_txt(void **state)
{
    (void)state;
    char dir[] = "/tmp/mica_wordpiece_XXXXXX", command[512];
    assert_non_null(mkdtemp(dir));
    snprintf(command, sizeof command, "cp '%svocab.txt' '%stokenizer_config.json' %s", DATA, DATA,
             dir);
    assert_int_equal(system(command), 0);
    mica_wordpiece *w = open_or_fail(dir);
    check_cases(w);
    mica_wordpiece_close(&w);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

#define HEAD  "{\"normalizer\":{\"type\":\"BertNormalizer\",\"lowercase\":false},"
#define SPLIT "\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
#define VOCAB                                                                                      \
    "\"vocab\":{\"[UNK]\":0,\"[CLS]\":1,\"[SEP]\":2,\"[MASK]\":3,\"A\":4,\"##b\":5,\"Ä\":6}"
#define TAIL                                                                                       \
    "\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":3}" \
    "}"
#define GOOD HEAD SPLIT "\"model\":{\"type\":\"WordPiece\"," VOCAB "," TAIL

static mica_wordpiece *open_text(const char *text)
{
    mica_err err = {0};
    mica_wordpiece *w = NULL;
    if (mica_wordpiece_open_json(&w, "x", text, strlen(text), &err) != MICA_OK)
        fail_msg("%s", err.text);
    return w;
}

/* Case and accents stay where the file says so; long words are unknown; specials in the text. */
static void test_options(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int32_t ids[8];
        size_t count;
    } cases[] = {
        {"Ab Ä a", {1, 4, 5, 6, 0, 2}, 6},
        {"Abb Abbb", {1, 4, 5, 5, 0, 2}, 6},
        {"A[MASK]A [mask]", {1, 4, 3, 4, 0, 0, 0, 2}, 8},
        {"A\xff"
         "b",
         {1, 4, 5, 2},
         4},
    };
    mica_wordpiece *w = open_text(GOOD);
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++) {
        int32_t *ids;
        size_t count;
        mica_err err = {0};
        assert_int_equal(
            mica_wordpiece_encode(w, cases[i].text, strlen(cases[i].text), &ids, &count, &err),
            MICA_OK);
        assert_int_equal(count, cases[i].count);
        assert_memory_equal(ids, cases[i].ids, count * sizeof *ids);
        mica_mem_free(ids);
    }
    mica_wordpiece_close(&w);
}

static void expect_refusal(const char *text, mica_status status, const char *part)
{
    mica_err err = {0};
    mica_wordpiece *w = NULL;
    assert_int_equal(mica_wordpiece_open_json(&w, "x", text, strlen(text), &err), status);
    assert_null(w);
    if (strstr(err.text, part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, part);
}

static void test_refusals(void **state)
{
    (void)state;
    expect_refusal("[]", MICA_E_FORMAT, "not a JSON object");
    expect_refusal("{}", MICA_E_FORMAT, "normalizer");
    expect_refusal("{\"normalizer\":{\"type\":\"NFC\"}}", MICA_E_UNSUPPORTED, "NFC");
    expect_refusal(HEAD "\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}", MICA_E_UNSUPPORTED,
                   "ByteLevel");
    expect_refusal(HEAD SPLIT "\"model\":{\"type\":\"BPE\"}}", MICA_E_UNSUPPORTED, "BPE");
    expect_refusal(HEAD SPLIT "\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":-1}," TAIL,
                   MICA_E_FORMAT, "no whole number");
    expect_refusal(HEAD SPLIT "\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"[UNK]\":1}," TAIL,
                   MICA_E_FORMAT, "[CLS]");
    mica_err err = {0};
    mica_wordpiece *w = NULL;
    assert_int_equal(mica_wordpiece_open(&w, "/tmp", &err), MICA_E_MISSING);
}

/* The n-th allocation fails: an error, no leak (sanitizers), no crash. */
static void test_no_memory(void **state)
{
    (void)state;
    for (uint64_t n = 1; n < 400; n++) {
        mica_err err = {0};
        mica_wordpiece *w = NULL;
        int32_t *ids = NULL;
        size_t count = 0;
        mica_mem_fail_at(n);
        mica_status status = mica_wordpiece_open_json(&w, "x", GOOD, strlen(GOOD), &err);
        if (status == MICA_OK)
            status = mica_wordpiece_encode(w, "Ab Ä a", 7, &ids, &count, &err);
        mica_mem_fail_at(0);
        mica_mem_free(ids);
        mica_wordpiece_close(&w);
        if (status == MICA_OK)
            return;
        assert_true(err.text[0] != '\0');
    }
    fail_msg("400 allocations were not enough");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer_json), cmocka_unit_test(test_vocab_txt),
        cmocka_unit_test(test_options),        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
