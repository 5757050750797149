/* test_chinese_traditional.c - traditional characters and bopomofo, which g2pW reads and answers in.
 * Expected: OpenCC 1.4 (s2tw), GitYCC/g2pW bopomofo_to_pinyin_wo_tune_dict.json. */
#include "golden_file.h"

#include "base/utf8.h"
#include "speech/bopomofo.h"
#include "speech/chinese_traditional.h"

static void expect_traditional(const char *simplified, const char *traditional)
{
    mica_traditional t;
    mica_err err = {0};
    uint32_t in[64], out[64];
    char text[256] = "";
    size_t size = 0, used = 0;
    assert_int_equal(mica_traditional_init(&t, mica_speech_table_traditional(), &err), MICA_OK);
    for (size_t at = 0, n = strlen(simplified); at < n; size++)
        at += mica_utf8_decode(simplified + at, n - at, &in[size]);
    mica_traditional_convert(&t, in, size, out);
    for (size_t i = 0; i < size; i++)
        used += mica_utf8_encode(out[i], text + used);
    assert_string_equal(text, traditional);
}

static void test_traditional(void **state)
{
    (void)state;
    expect_traditional("", "");
    expect_traditional("头发发白了,里面的干面,后面皇后.", "頭髮發白了,裡面的乾麵,後面皇后.");
    expect_traditional("他得还钱。", "他得還錢。");
    expect_traditional("为了一了百了", "為了一了百了");
    expect_traditional("只有一只", "只有一隻");
    expect_traditional("干部干活干杯", "幹部幹活乾杯");
    expect_traditional("abc", "abc");
}

static void test_damaged_tables(void **state)
{
    (void)state;
    const mica_speech_table whole = mica_speech_table_traditional();
    mica_traditional t;
    mica_err err = {0};
    for (size_t n = 0; n < 64; n++)
        assert_int_equal(mica_traditional_init(&t, (mica_speech_table){whole.data, n}, &err),
                         MICA_E_INTERNAL);
}

static void expect_pinyin(const char *text, const char *pinyin, int tone)
{
    char got[MICA_PINYIN_MAX];
    int number;
    assert_true(mica_bopomofo_read(text, strlen(text), got, &number));
    assert_string_equal(got, pinyin);
    assert_int_equal(number, tone);
}

static void test_bopomofo(void **state)
{
    (void)state;
    static const char *const BAD[] = {"", "4", "ㄏㄤ", "ㄏㄤ6", "ㄋ4", "ㄏㄇ5", "ㄤㄏ1", "x y1"};
    expect_pinyin("ㄏㄤ2", "hang", 2);
    expect_pinyin("ㄓ1", "zhi", 1);
    expect_pinyin("ㄙ4", "si", 4);
    expect_pinyin("ㄦ2", "er", 2);
    expect_pinyin("ㄧ1", "yi", 1);
    expect_pinyin("ㄨㄥ1", "weng", 1);
    expect_pinyin("ㄊㄨㄥ1", "tong", 1);
    expect_pinyin("ㄩㄥ4", "yong", 4);
    expect_pinyin("ㄒㄩㄥ2", "xiong", 2);
    expect_pinyin("ㄋㄩ3", "nv", 3);
    expect_pinyin("ㄌㄩㄝ4", "lve", 4);
    expect_pinyin("ㄐㄩㄝ2", "jue", 2);
    expect_pinyin("ㄑㄩㄣ2", "qun", 2);
    expect_pinyin("ㄐㄧㄡ3", "jiu", 3);
    expect_pinyin("ㄍㄨㄟ4", "gui", 4);
    expect_pinyin("ㄊㄨㄣ1", "tun", 1);
    expect_pinyin("ㄉㄜ5", "de", 5);
    expect_pinyin("wan4", "wan", 4); /* lists in pinyin exist too */
    for (size_t i = 0; i < MICA_ARRAY_LEN(BAD); i++) {
        char got[MICA_PINYIN_MAX];
        int number;
        assert_false(mica_bopomofo_read(BAD[i], strlen(BAD[i]), got, &number));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_traditional),
                                       cmocka_unit_test(test_damaged_tables),
                                       cmocka_unit_test(test_bopomofo)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
