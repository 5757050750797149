/* test_tokenizer_sentence.c - SentencePiece's style: ids and texts that the reference library gives.
 *
 *     mixtral/hf + cases.json          the golden model's tokenizer; ids there begin with <s>
 *     sentence_variants.json           every spelling of the style's options
 *     lines.txt + tiny_mixtral         3,926 lines in every script
 *
 * and what is made from a vocabulary with scores, and text one id at a time. */
#include "text_fixture.h"

#include "line_corpus.h"
#include "text/token_stream.h"

#include <cjson/cJSON.h>

#define MIXTRAL MICA_TEST_DATA "/mixtral/"
#define CORPUS  MICA_TEST_DATA "/tokenizer/"

static mica_tokenizer *open_or_fail(const char *path)
{
    mica_err err = {0};
    mica_tokenizer *t = NULL;
    if (mica_tokenizer_open(&t, path, &err) != MICA_OK)
        fail_msg("%s", err.text);
    return t;
}

static mica_json json_or_fail(const char *path)
{
    mica_err err = {0};
    mica_json j = {0};
    if (mica_json_open(&j, path, &err) != MICA_OK)
        fail_msg("%s", err.text);
    return j;
}

static size_t read_ids(const cJSON *list, int32_t *ids, size_t cap)
{
    size_t count = 0;
    for (const cJSON *item = list->child; item != NULL; item = item->next) {
        assert_true(count < cap);
        ids[count++] = (int32_t)item->valuedouble;
    }
    return count;
}

static const char *text_of(const cJSON *item, const char *key)
{
    return mica_json_find(item, key)->valuestring;
}

/* `skip` ids at the beginning are those that the file's template adds. */
static size_t check_cases(const mica_tokenizer *t, const cJSON *cases, size_t skip)
{
    int32_t ids[4096];
    size_t checked = 0;
    for (const cJSON *item = cases->child; item != NULL; item = item->next, checked++) {
        const char *text = text_of(item, "text");
        const size_t count = read_ids(mica_json_find(item, "ids"), ids, MICA_ARRAY_LEN(ids));
        if (skip)
            assert_int_equal(ids[0], mica_tokenizer_bos(t));
        expect_encoding(t, text, strlen(text), ids + skip, count - skip);
        expect_decoding(t, ids, count, false, text_of(item, "decoded"));
        expect_decoding(t, ids, count, true, text_of(item, "decoded_skip_special"));
    }
    return checked;
}

static void test_golden_cases(void **state)
{
    (void)state;
    mica_json j = json_or_fail(MIXTRAL "cases/tokenizer/cases.json");
    mica_tokenizer *t = open_or_fail(MIXTRAL "hf");
    assert_int_equal(mica_tokenizer_bos(t), 1);
    assert_int_equal(mica_tokenizer_eos(t), -1);
    assert_true(mica_tokenizer_is_special(t, 2));
    assert_false(mica_tokenizer_is_special(t, 300));
    assert_true(check_cases(t, j.root, 1) >= 20);
    mica_tokenizer_close(&t);
    mica_json_close(&j);
}

static void test_variants(void **state)
{
    (void)state;
    mica_json j = json_or_fail(CORPUS "sentence_variants.json");
    size_t variants = 0, cases = 0;
    for (const cJSON *item = j.root->child; item != NULL; item = item->next, variants++) {
        mica_err err = {0};
        mica_tokenizer *t = NULL;
        char *text = cJSON_PrintUnformatted(mica_json_find(item, "tokenizer"));
        print_message("%s\n", text_of(item, "name"));
        if (mica_tokenizer_open_json(&t, "t.json", text, strlen(text), &err) != MICA_OK)
            fail_msg("%s", err.text);
        cases += check_cases(t, mica_json_find(item, "cases"), 0);
        mica_tokenizer_close(&t);
        cJSON_free(text);
    }
    assert_true(variants >= 19 && cases >= 350);
    mica_json_close(&j);
}

static void test_lines(void **state)
{
    (void)state;
    corpus_result result;
    mica_tokenizer *t = open_or_fail(MIXTRAL "hf");
    assert_true(corpus_compare(t, CORPUS "tiny_mixtral.expected", 10, &result));
    assert_int_equal(result.wrong, 0);
    assert_true(result.lines >= 3900);
    mica_tokenizer_close(&t);
}

/* ---- a vocabulary with scores ---- */

typedef struct score_pieces {
    const char *texts[1024];
    float scores[1024];
    int32_t kinds[1024];
    size_t count;
} score_pieces;

/* What a GGUF file of the golden tokenizer would hold: trained pieces score -rank. */
static void fill_pieces(score_pieces *p, const cJSON *model)
{
    memset(p, 0, sizeof *p);
    for (const cJSON *item = mica_json_find(model, "vocab")->child; item; item = item->next) {
        const size_t id = (size_t)item->valuedouble;
        assert_true(id < MICA_ARRAY_LEN(p->texts));
        p->texts[id] = item->string;
        p->kinds[id] = id == 0    ? MICA_PIECE_UNKNOWN
                       : id < 3   ? MICA_PIECE_CONTROL
                       : id < 259 ? MICA_PIECE_BYTE
                                  : MICA_PIECE_NORMAL;
        p->scores[id] = id < 259 ? 0.0f : -(float)(id - 259);
        p->count = MICA_MAX(p->count, id + 1);
    }
}

static void test_pieces_with_scores(void **state)
{
    (void)state;
    static score_pieces p;
    mica_err err = {0};
    mica_json j = json_or_fail(MIXTRAL "hf/tokenizer.json");
    mica_json cases = json_or_fail(MIXTRAL "cases/tokenizer/cases.json");
    fill_pieces(&p, mica_json_find(j.root, "model"));
    const mica_pieces pieces = {.texts = p.texts,
                                .scores = p.scores,
                                .kinds = p.kinds,
                                .count = p.count,
                                .bos = 1,
                                .eos = -1};
    mica_tokenizer *t = NULL;
    if (mica_tokenizer_open_pieces(&t, "pieces", &pieces, &err) != MICA_OK)
        fail_msg("%s", err.text);
    assert_true(check_cases(t, cases.root, 1) >= 20);
    mica_tokenizer_close(&t);
    mica_json_close(&cases);
    mica_json_close(&j);
}

/* ---- one id at a time ---- */

static void expect_stream(const mica_tokenizer *t, const int32_t *ids, size_t count,
                          const char *expected)
{
    mica_text out = {0};
    mica_token_stream s = {.tokenizer = t, .skip_special = true, .strip = true};
    for (size_t i = 0; i < count; i++) {
        mica_token_stream_add(&s, ids[i], &out);
        assert_true(out.size == 0 || mica_utf8_is_valid(out.data, out.size));
    }
    mica_token_stream_finish(&s, &out);
    assert_false(out.failed);
    assert_string_equal(out.size ? out.data : "", expected);
    mica_text_deinit(&out);
}

static void test_stream(void **state)
{
    (void)state;
    int32_t ids[4096];
    mica_json j = json_or_fail(MIXTRAL "cases/tokenizer/cases.json");
    mica_tokenizer *t = open_or_fail(MIXTRAL "hf");
    for (const cJSON *item = j.root->child; item != NULL; item = item->next) {
        const size_t count = read_ids(mica_json_find(item, "ids"), ids, MICA_ARRAY_LEN(ids));
        expect_stream(t, ids, count, text_of(item, "decoded_skip_special"));
    }
    /* F0 9F, then a letter: the character never becomes whole. */
    const int32_t broken[] = {243, 162, 373}, open_end[] = {373, 243, 162, 148};
    expect_stream(t, broken, 3,
                  "\xef\xbf\xbd"
                  "a");
    expect_stream(t, open_end, 4, "a\xef\xbf\xbd");
    mica_tokenizer_close(&t);
    mica_json_close(&j);
}

static void test_stream_byte_level(void **state)
{
    (void)state;
    const char *text = "caf\xc3\xa9 \xe5\xad\x97\xf0\x9f\x99\x82!";
    mica_err err = {0};
    mica_tokenizer *t = open_or_fail(MICA_TEST_DATA "/qwen_image/model/tokenizer");
    int32_t *ids = NULL;
    size_t count = 0;
    assert_int_equal(mica_tokenizer_encode(t, text, strlen(text), &ids, &count, &err), MICA_OK);
    expect_stream(t, ids, count, text);
    mica_mem_free(ids);
    mica_tokenizer_close(&t);
}

/* ---- refusals ---- */

#define DECODER                                                                                    \
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{"         \
    "\"String\":\"\xe2\x96\x81\"},\"content\":\" "                                                 \
    "\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}"
#define MODEL                                                                                      \
    "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0},\"merges\":[]}"
#define SPACES "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\","

static void refuse(const char *json, const char *why)
{
    mica_err err = {0};
    mica_tokenizer *t = NULL;
    assert_int_not_equal(mica_tokenizer_open_json(&t, "t.json", json, strlen(json), &err), MICA_OK);
    assert_null(t);
    if (!strstr(err.text, why))
        fail_msg("\"%s\" does not say \"%s\"", err.text, why);
}

static void test_refusals(void **state)
{
    (void)state;
    refuse("{" DECODER "]}," MODEL "}", "pre-tokenizer");
    refuse("{\"normalizer\":{\"type\":\"NFKC\"}," DECODER "]}," MODEL "}", "NFKC");
    refuse("{" DECODER ",{\"type\":\"Metaspace\"}]}," SPACES "\"split\":false}," MODEL "}",
           "Metaspace");
    refuse("{" DECODER ",{\"type\":\"Strip\",\"content\":\" \",\"start\":2,\"stop\":0}]}," SPACES
           "\"split\":false}," MODEL "}",
           "start");
    refuse("{" DECODER "]}," SPACES "\"prepend_scheme\":\"last\"}," MODEL "}", "last");
    refuse("{" DECODER "]},\"pre_tokenizer\":{\"type\":\"Whitespace\"}," MODEL "}", "Whitespace");
    refuse("{" DECODER "]}," SPACES "\"split\":false},\"post_processor\":{\"type\":"
           "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}}]}," MODEL "}",
           "<s>");
    refuse("{" DECODER "]}," SPACES "\"split\":false},\"model\":{\"type\":\"BPE\",\"unk_token\":"
           "\"<u>\",\"vocab\":{\"a\":0},\"merges\":[]}}",
           "<u>");
}

/* The n-th allocation fails: MICA_E_NOMEM and no leak (address sanitizer). */
static void test_out_of_memory(void **state)
{
    (void)state;
    const char *json = "{" DECODER "]}," SPACES "\"prepend_scheme\":\"first\"}," MODEL "}";
    mica_status status = MICA_E_NOMEM;
    for (uint64_t n = 1; status != MICA_OK && n < 10000; n++) {
        mica_err err = {0};
        mica_tokenizer *t = NULL;
        int32_t *ids = NULL;
        size_t count = 0;
        mica_mem_fail_at(n);
        status = mica_tokenizer_open_json(&t, "t.json", json, strlen(json), &err);
        if (status == MICA_OK)
            status = mica_tokenizer_encode(t, "a b a", 5, &ids, &count, &err);
        mica_mem_fail_at(0);
        assert_true(status == MICA_OK || status == MICA_E_NOMEM);
        mica_mem_free(ids);
        mica_tokenizer_close(&t);
    }
    assert_int_equal(status, MICA_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_cases), cmocka_unit_test(test_variants),
        cmocka_unit_test(test_lines),        cmocka_unit_test(test_pieces_with_scores),
        cmocka_unit_test(test_stream),       cmocka_unit_test(test_stream_byte_level),
        cmocka_unit_test(test_refusals),     cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("tokenizer_sentence", tests, NULL, NULL);
}
