/* test_tokenizer_alloc_fail.c - the n-th allocation fails, n = 1, 2, ... through open, encode,
 * decode and close: MICA_E_NOMEM each time, no leak (address sanitizer), no other outcome. */
#include "text_fixture.h"

#include <unistd.h>

#define TEXT "cafe\xcc\x81 the<x> \xff then \xe5\xad\x97 <y>  \n"

static mica_status encode_and_decode(const mica_tokenizer *t, mica_err *err)
{
    int32_t *ids = NULL;
    char *text = NULL;
    size_t count = 0, size = 0;
    mica_status status = mica_tokenizer_encode(t, TEXT, strlen(TEXT), &ids, &count, err);
    if (status == MICA_OK)
        status = mica_tokenizer_decode(t, ids, count, true, &text, &size, err);
    if (status == MICA_OK)
        assert_string_equal(text, "caf\xc3\xa9 the \xef\xbf\xbd then \xe5\xad\x97 <y>  \n");
    else
        assert_null(text);
    mica_mem_free(ids);
    mica_mem_free(text);
    return status;
}

static mica_status whole_run(const char *text, size_t size, mica_err *err)
{
    mica_tokenizer *t = NULL;
    mica_status status = mica_tokenizer_open_json(&t, "t.json", text, size, err);
    if (status == MICA_OK)
        status = encode_and_decode(t, err);
    mica_tokenizer_close(&t);
    return status;
}

static void test_json(void **state)
{
    (void)state;
    const small_json parts = {
        .added = "[{\"id\":300,\"content\":\"<x>\",\"special\":true,\"normalized\":false,"
                 "\"rstrip\":false},{\"id\":301,\"content\":\"<y>\",\"normalized\":true}]",
        .model_options = ",\"ignore_merges\":true"};
    mica_text text = {0};
    mica_err err = {0};
    uint64_t n = 0;
    mica_status status;
    small_json_write(&text, &parts);
    do {
        err.text[0] = '\0';
        mica_mem_fail_at(++n);
        status = whole_run(text.data, text.size, &err);
        mica_mem_fail_at(0);
        if (status != MICA_OK && status != MICA_E_NOMEM)
            fail_msg("allocation %d: status %d, %s", (int)n, (int)status, err.text);
        assert_true(status == MICA_OK || err.text[0] != '\0');
    } while (status != MICA_OK && n < 100000);
    assert_int_equal(status, MICA_OK);
    assert_true(n > 500); /* the failures reached beyond the JSON parser */
    mica_text_deinit(&text);
}

/* The folder form; its JSON parser has been walked above, so only every 31st allocation. */
static void test_folder(void **state)
{
    (void)state;
    uint64_t n = 1;
    mica_status status;
    do {
        mica_err err = {0};
        mica_tokenizer *t = NULL;
        mica_mem_fail_at(n);
        status = mica_tokenizer_open(&t, MICA_TEST_DATA "/qwen_image/edit_model/tokenizer", &err);
        mica_mem_fail_at(0);
        if (status != MICA_OK && status != MICA_E_NOMEM)
            fail_msg("allocation %d: status %d, %s", (int)n, (int)status, err.text);
        mica_tokenizer_close(&t);
        n += 31;
    } while (status != MICA_OK && n < 1000000);
    assert_int_equal(status, MICA_OK);
    assert_true(n > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_folder),
    };
    return cmocka_run_group_tests_name("tokenizer_alloc_fail", tests, NULL, NULL);
}
