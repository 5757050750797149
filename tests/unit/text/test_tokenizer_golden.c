/* test_tokenizer_golden.c - ids and texts that the reference library gives.
 *
 *     MODEL/tokenizer + cases.json     the folders of the golden models, in both forms
 *     variants.json                    whole tokenizer.json files with unusual options
 *     lines.txt + NAME.expected        3,926 lines in every script (line_corpus.h)
 */
#include "text_fixture.h"

#include "line_corpus.h"

#include <cjson/cJSON.h>

static mica_tokenizer *open_or_fail(const char *path)
{
    mica_err err = {0};
    mica_tokenizer *t = NULL;
    if (mica_tokenizer_open(&t, path, &err) != MICA_OK)
        fail_msg("%s", err.text);
    return t;
}

static void read_ids(const cJSON *list, int32_t *ids, size_t cap, size_t *count)
{
    *count = 0;
    for (const cJSON *item = list->child; item != NULL; item = item->next) {
        assert_true(*count < cap);
        ids[(*count)++] = (int32_t)item->valuedouble;
    }
}

/* Each {"text", "ids", "decoded", "decoded_skip_special"} of an array. */
static size_t check_cases(const mica_tokenizer *t, const mica_json *j, const cJSON *cases)
{
    mica_err err = {0};
    int32_t ids[4096];
    size_t count, checked = 0;
    for (const cJSON *item = cases->child; item != NULL; item = item->next, checked++) {
        const char *text, *decoded, *plain;
        assert_int_equal(mica_json_get_string(j, item, "text", &text, &err), MICA_OK);
        assert_int_equal(mica_json_get_string(j, item, "decoded", &decoded, &err), MICA_OK);
        assert_int_equal(mica_json_get_string(j, item, "decoded_skip_special", &plain, &err),
                         MICA_OK);
        read_ids(mica_json_find(item, "ids"), ids, MICA_ARRAY_LEN(ids), &count);
        expect_encoding(t, text, strlen(text), ids, count);
        expect_decoding(t, ids, count, false, decoded);
        expect_decoding(t, ids, count, true, plain);
    }
    return checked;
}

static void check_folder(const char *folder, const char *cases, size_t least)
{
    mica_err err = {0};
    mica_json j = {0};
    mica_tokenizer *t = open_or_fail(folder);
    if (mica_json_open(&j, cases, &err) != MICA_OK)
        fail_msg("%s", err.text);
    assert_true(check_cases(t, &j, j.root) >= least);
    mica_json_close(&j);
    mica_tokenizer_close(&t);
    assert_null(t);
}

#define QWEN   MICA_TEST_DATA "/qwen_image/"
#define Z      MICA_TEST_DATA "/z_image/"
#define FLUX2  MICA_TEST_DATA "/flux2_klein/"
#define CORPUS MICA_TEST_DATA "/tokenizer/"

static void test_folder_with_tokenizer_json(void **state)
{
    (void)state;
    check_folder(QWEN "model/tokenizer", QWEN "cases/tokenizer/cases.json", 20);
    check_folder(QWEN "model/tokenizer/tokenizer.json", QWEN "cases/tokenizer/cases.json", 20);
    check_folder(Z "model/tokenizer", Z "cases/tokenizer/cases.json", 20);
    check_folder(FLUX2 "model/tokenizer", FLUX2 "cases/tokenizer/cases.json", 20);
}

static void test_folder_with_vocab_and_merges(void **state)
{
    (void)state;
    check_folder(QWEN "edit_model/tokenizer", QWEN "cases/tokenizer/cases.json", 20);
    check_folder(QWEN "edit_model_zero_cond/tokenizer", QWEN "cases/tokenizer/cases.json", 20);
    check_folder(QWEN "edit_model/processor", QWEN "cases/tokenizer/cases.json", 20);
}

static void test_variants(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_json j = {0};
    size_t variants = 0, cases = 0;
    if (mica_json_open(&j, CORPUS "variants.json", &err) != MICA_OK)
        fail_msg("%s", err.text);
    for (const cJSON *item = j.root->child; item != NULL; item = item->next, variants++) {
        const char *name = mica_json_find(item, "name")->valuestring;
        char *text = cJSON_PrintUnformatted(mica_json_find(item, "tokenizer"));
        mica_tokenizer *t = NULL;
        assert_non_null(text);
        if (mica_tokenizer_open_json(&t, name, text, strlen(text), &err) != MICA_OK)
            fail_msg("%s", err.text);
        print_message("%s\n", name);
        cases += check_cases(t, &j, mica_json_find(item, "cases"));
        mica_tokenizer_close(&t);
        cJSON_free(text);
    }
    assert_true(variants >= 23 && cases >= 250);
    mica_json_close(&j);
}

static void check_lines(const char *folder, const char *expected)
{
    corpus_result result;
    mica_tokenizer *t = open_or_fail(folder);
    assert_true(corpus_compare(t, expected, 10, &result));
    assert_int_equal(result.wrong, 0);
    assert_true(result.lines >= 3900);
    mica_tokenizer_close(&t);
}

static void test_lines_qwen_image(void **state)
{
    (void)state;
    check_lines(QWEN "model/tokenizer", CORPUS "tiny_qwen_image.expected");
}

static void test_lines_vocab_and_merges(void **state)
{
    (void)state;
    check_lines(QWEN "edit_model/tokenizer", CORPUS "tiny_qwen_image.expected");
}

static void test_lines_z_image(void **state)
{
    (void)state;
    check_lines(Z "model/tokenizer", CORPUS "tiny_z_image.expected");
}

/* The comparison itself must be able to fail. */
static void test_lines_of_another_vocabulary_differ(void **state)
{
    (void)state;
    corpus_result result;
    mica_tokenizer *t = open_or_fail(Z "model/tokenizer");
    assert_true(corpus_compare(t, CORPUS "tiny_qwen_image.expected", 0, &result));
    assert_true(result.wrong > result.lines / 2);
    mica_tokenizer_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folder_with_tokenizer_json),
        cmocka_unit_test(test_folder_with_vocab_and_merges),
        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_lines_qwen_image),
        cmocka_unit_test(test_lines_vocab_and_merges),
        cmocka_unit_test(test_lines_z_image),
        cmocka_unit_test(test_lines_of_another_vocabulary_differ),
    };
    return cmocka_run_group_tests_name("tokenizer_golden", tests, NULL, NULL);
}
