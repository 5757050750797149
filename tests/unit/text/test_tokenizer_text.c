/* test_tokenizer_text.c - what encode and decode promise for any text: limits, bytes that are not
 * UTF-8, ids that name nothing, long pieces, several threads on one tokenizer. */
#include "text_fixture.h"

#include "base/clock.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define TINY MICA_TEST_DATA "/qwen_image/model/tokenizer"

static mica_tokenizer *open_tiny(void)
{
    mica_err err = {0};
    mica_tokenizer *t = NULL;
    if (mica_tokenizer_open(&t, TINY, &err) != MICA_OK)
        fail_msg("%s", err.text);
    return t;
}

static void test_lookup(void **state)
{
    (void)state;
    mica_tokenizer *t = open_tiny();
    assert_int_equal(mica_tokenizer_find(t, "<|endoftext|>"), 900);
    assert_int_equal(mica_tokenizer_find(t, "<|file_sep|>"), 921);
    assert_int_equal(mica_tokenizer_find(t, "!"), 0);
    assert_int_equal(mica_tokenizer_find(t, "\xc4\xa0the"), 258);
    assert_int_equal(mica_tokenizer_find(t, " the"), -1);
    assert_int_equal(mica_tokenizer_find(t, ""), -1);
    assert_int_equal(mica_tokenizer_vocab_size(t), 922);
    mica_tokenizer_close(&t);
}

static void test_byte_alphabet_is_a_bijection(void **state)
{
    (void)state;
    for (int byte = 0; byte < 256; byte++)
        assert_int_equal(mica_symbol_to_byte(mica_byte_to_symbol((uint8_t)byte)), byte);
    int spelled = 0;
    for (uint32_t cp = 0; cp < 0x11000; cp++)
        spelled += mica_symbol_to_byte(cp) >= 0;
    assert_int_equal(spelled, 256);
    assert_int_equal(mica_byte_to_symbol(' '), 0x120);
    assert_int_equal(mica_byte_to_symbol('\n'), 0x10A);
}

/* Broken bytes read as U+FFFD, one for each maximal subpart. */
static void test_broken_bytes_become_replacement_characters(void **state)
{
    (void)state;
    static const struct {
        const char *broken, *same_as;
    } cases[] = {
        {"a\xff"
         "b",
         "a\xef\xbf\xbd"
         "b"},
        {"\xe4\xbd", "\xef\xbf\xbd"},
        {"\xe4\xbd\xe4\xbd\xa0", "\xef\xbf\xbd\xe4\xbd\xa0"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x98 \xc0\xaf", "\xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd"},
    };
    mica_err err = {0};
    mica_tokenizer *t = open_tiny();
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++) {
        int32_t *ids = NULL;
        size_t count = 0;
        assert_int_equal(mica_tokenizer_encode(t, cases[i].same_as, strlen(cases[i].same_as), &ids,
                                               &count, &err),
                         MICA_OK);
        expect_encoding(t, cases[i].broken, strlen(cases[i].broken), ids, count);
        expect_decoding(t, ids, count, false, cases[i].same_as);
        mica_mem_free(ids);
    }
    mica_tokenizer_close(&t);
}

/* A NUL is a character like others: the size rules, not the terminator. */
static void test_nul_inside_text(void **state)
{
    (void)state;
    mica_tokenizer *t = NULL;
    mica_err err = {0};
    char *text = NULL;
    size_t size = 0;
    const int32_t ids[] = {97, 0, 98};
    assert_int_equal(small_json_open(&(small_json){0}, &t, &err), MICA_OK);
    expect_encoding(t, "a\0b", 3, ids, 3);
    assert_int_equal(mica_tokenizer_decode(t, ids, 3, false, &text, &size, &err), MICA_OK);
    assert_int_equal(size, 3);
    assert_memory_equal(text, "a\0b", 3);
    mica_mem_free(text);
    mica_tokenizer_close(&t);
}

static void test_decode(void **state)
{
    (void)state;
    mica_tokenizer *t = NULL;
    mica_err err = {0};
    char *text = NULL;
    size_t size = 0;
    const small_json with_added = {.added = "[{\"id\":260,\"content\":\"<x>\",\"special\":true},"
                                            "{\"id\":261,\"content\":\"<y>\"}]"};
    assert_int_equal(small_json_open(&with_added, &t, &err), MICA_OK);
    expect_decoding(t, NULL, 0, false, "");
    expect_decoding(t, (const int32_t[]){258, 260, 257, 261}, 4, false, " the<x>the<y>");
    expect_decoding(t, (const int32_t[]){258, 260, 257, 261}, 4, true, " thethe<y>");
    /* Half a character, alone and completed by the next token. */
    expect_decoding(t, (const int32_t[]){0xC3, 0xA9}, 2, false, "\xc3\xa9");
    expect_decoding(t, (const int32_t[]){0xC3}, 1, false, "\xef\xbf\xbd");
    expect_decoding(t, (const int32_t[]){0xC3, 260, 0xA9}, 3, false, "\xef\xbf\xbd<x>\xef\xbf\xbd");
    /* 259 is a gap in the numbering, 5000 lies behind it: models have rows for such ids. */
    expect_decoding(t, (const int32_t[]){'a', 259, 5000, INT32_MAX, 'b'}, 5, false, "ab");
    assert_int_equal(
        mica_tokenizer_decode(t, (const int32_t[]){'a', -1}, 2, false, &text, &size, &err),
        MICA_E_USAGE);
    assert_non_null(strstr(err.text, "token id -1 at position 1 is negative"));
    assert_null(text);
    mica_tokenizer_close(&t);
}

static void test_text_without_end(void **state)
{
    (void)state;
    const size_t size = (64u << 20) + 1;
    mica_tokenizer *t = NULL;
    mica_err err = {0};
    int32_t *ids = NULL;
    size_t count = 0;
    assert_int_equal(small_json_open(&(small_json){0}, &t, &err), MICA_OK);
    char *text = mica_mem_calloc(size, 1);
    assert_non_null(text);
    assert_int_equal(mica_tokenizer_encode(t, text, size, &ids, &count, &err), MICA_E_USAGE);
    assert_non_null(strstr(err.text, "67108865 bytes"));
    assert_null(ids);
    mica_mem_free(text);
    mica_tokenizer_close(&t);
}

/* A pattern that backtracks without end is given up, not waited for. */
static void test_exponential_pattern(void **state)
{
    (void)state;
    const small_json hostile = {
        .pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("(?:(?:a*)*)*b") "," SMALL_BYTE_LEVEL)};
    static const char text[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    mica_tokenizer *t = NULL;
    mica_err err = {0};
    int32_t *ids = NULL;
    size_t count = 0;
    if (small_json_open(&hostile, &t, &err) != MICA_OK)
        fail_msg("%s", err.text);
    const double start = mica_clock_seconds();
    const mica_status status = mica_tokenizer_encode(t, text, strlen(text), &ids, &count, &err);
    assert_true(mica_clock_seconds() - start < 5);
    if (status != MICA_OK)
        assert_non_null(strstr(err.text, "cannot split the text"));
    mica_mem_free(ids);
    mica_tokenizer_close(&t);
}

/* Processor time of one encode of `size` bytes of the repeated unit; the best of three, because
 * neighbours on the machine make some runs slow and none fast. */
static double seconds_for(const mica_tokenizer *t, const char *unit, size_t size)
{
    double best = 1e9;
    char *text = mica_mem_alloc(size);
    assert_non_null(text);
    for (size_t i = 0; i < size; i++)
        text[i] = unit[i % strlen(unit)];
    for (int run = 0; run < 3; run++) {
        mica_err err = {0};
        int32_t *ids = NULL;
        size_t count = 0;
        const clock_t start = clock();
        if (mica_tokenizer_encode(t, text, size, &ids, &count, &err) != MICA_OK)
            fail_msg("%s", err.text);
        best = MICA_MIN(best, (double)(clock() - start) / CLOCKS_PER_SEC);
        mica_mem_free(ids);
    }
    mica_mem_free(text);
    return best;
}

/* One piece of 256 KiB: 16 times the text may take 16 times the time and some more for caches; a
 * quadratic step somewhere would take 256 times. */
static void test_long_pieces_are_not_quadratic(void **state)
{
    (void)state;
    static const char *const units[] = {"a", " ", "\n", "the", "!", "\xe5\xad\x97", "<", "<|im_"};
    mica_tokenizer *t = open_tiny();
    for (size_t i = 0; i < MICA_ARRAY_LEN(units); i++) {
        const size_t size = 16 * 1024;
        const double small = seconds_for(t, units[i], size);
        const double large = seconds_for(t, units[i], size * 16);
        if (large > 100 * (small + 5e-4))
            fail_msg("\"%s\": %.4f s for %zu bytes, %.4f s for 16 times as many", units[i], small,
                     size, large);
    }
    mica_tokenizer_close(&t);
}

static void *encode_often(void *user)
{
    static const char text[] = "It's 42 \xe5\xad\x97<|im_end|> cafe\xcc\x81 the \n\n x";
    mica_err err = {0};
    int32_t *first = NULL;
    size_t first_count = 0;
    if (mica_tokenizer_encode(user, text, strlen(text), &first, &first_count, &err) != MICA_OK)
        return user;
    bool same = true;
    for (int i = 0; i < 200 && same; i++) {
        int32_t *ids = NULL;
        size_t count = 0;
        same = mica_tokenizer_encode(user, text, strlen(text), &ids, &count, &err) == MICA_OK &&
               count == first_count && memcmp(ids, first, count * sizeof *ids) == 0;
        mica_mem_free(ids);
    }
    mica_mem_free(first);
    return same ? NULL : user;
}

static void test_threads_share_a_tokenizer(void **state)
{
    (void)state;
    pthread_t threads[4];
    mica_tokenizer *t = open_tiny();
    for (size_t i = 0; i < MICA_ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, t), 0);
    for (size_t i = 0; i < MICA_ARRAY_LEN(threads); i++) {
        void *failed = t;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    mica_tokenizer_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookup),
        cmocka_unit_test(test_byte_alphabet_is_a_bijection),
        cmocka_unit_test(test_broken_bytes_become_replacement_characters),
        cmocka_unit_test(test_nul_inside_text),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_text_without_end),
        cmocka_unit_test(test_exponential_pattern),
        cmocka_unit_test(test_long_pieces_are_not_quadratic),
        cmocka_unit_test(test_threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests_name("tokenizer_text", tests, NULL, NULL);
}
