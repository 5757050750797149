/* test_speech_front.c - symbol tables, phones by name, short texts, pauses, refusals, no memory. */
#include "golden_file.h"

#include "base/mem.h"
#include "speech/speech_text.h"

static mica_speech_front *front;

static int open_front(void **state)
{
    (void)state;
    mica_err err = {0};
    return mica_speech_front_open(&front, &err) == MICA_OK ? 0 : -1;
}

static int close_front(void **state)
{
    (void)state;
    mica_speech_front_close(&front);
    return 0;
}

static uint32_t crc32_of(uint32_t crc, const char *s, size_t n)
{
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= (uint8_t)s[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

/* The names joined by line ends have the checksum of GPT-SoVITS's symbols.py and symbols2.py. */
static void check_symbols(int count, uint32_t want)
{
    uint32_t crc = 0;
    for (int i = 0; i < count; i++) {
        const char *name = mica_speech_phone_name(front, count, i);
        assert_non_null(name);
        crc = crc32_of(crc, i > 0 ? "\n" : "", i > 0 ? 1 : 0);
        crc = crc32_of(crc, name, strlen(name));
    }
    assert_int_equal(crc, want);
    assert_null(mica_speech_phone_name(front, count, count));
    assert_null(mica_speech_phone_name(front, count, -1));
}

static void test_symbols(void **state)
{
    (void)state;
    check_symbols(322, 0x3b043fa7u);
    check_symbols(732, 0xa0cb70b5u);
    assert_null(mica_speech_phone_name(front, 512, 0));
    assert_string_equal(mica_speech_phone_name(front, 322, 5), "AA");
    assert_string_equal(mica_speech_phone_name(front, 732, 352), "空");
}

static void test_phones_by_name(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_speech_pieces p;
    const char *text = " n i3\th ao3 .\n HH AH0 L OW1 ";
    assert_int_equal(mica_speech_parse_phones(front, text, strlen(text), 732, &p, &err), MICA_OK);
    assert_int_equal(p.count, 1);
    assert_int_equal(p.pieces[0].phone_count, 9);
    assert_string_equal(mica_speech_phone_name(front, 732, p.pieces[0].spans[0].phones[1]), "i3");
    mica_speech_pieces_deinit(&p);
    assert_int_equal(mica_speech_parse_phones(front, "n i3 xx", 7, 732, &p, &err), MICA_E_USAGE);
    assert_non_null(strstr(err.text, "phone 3, \"xx\""));
    assert_int_equal(mica_speech_parse_phones(front, "Yz", 2, 322, &p, &err), MICA_E_USAGE);
    assert_int_equal(mica_speech_parse_phones(front, "Yz", 2, 732, &p, &err), MICA_OK);
    mica_speech_pieces_deinit(&p);
    assert_int_equal(mica_speech_parse_phones(front, "  ", 2, 732, &p, &err), MICA_E_USAGE);
}

static void run(const char *text, mica_speech_pieces *p)
{
    const mica_speech_text_options o = {MICA_SPEECH_AUTO, MICA_SPEECH_CUT_PUNCTUATION, 732, NULL};
    mica_err err = {0};
    if (mica_speech_front_run(front, text, strlen(text), &o, p, &err) != MICA_OK)
        fail_msg("%s: %s", text, err.text);
}

static const char *phone(const mica_speech_pieces *p, size_t piece, size_t span, size_t i)
{
    return mica_speech_phone_name(front, 732, p->pieces[piece].spans[span].phones[i]);
}

/* Few phones: a full stop before; few English ones: a comma. */
static void test_short_texts(void **state)
{
    (void)state;
    mica_speech_pieces p;
    run("好", &p);
    assert_string_equal(phone(&p, 0, 0, 0), ".");
    assert_string_equal(phone(&p, 0, 0, 1), "h");
    mica_speech_pieces_deinit(&p);
    run("我说OK吧", &p);
    assert_int_equal(p.pieces[0].span_count, 3);
    assert_string_equal(phone(&p, 0, 1, 0), ",");
    mica_speech_pieces_deinit(&p);
}

static void test_pauses(void **state)
{
    (void)state;
    mica_speech_pieces p;
    run("你好￥世界真大", &p);
    assert_string_equal(phone(&p, 0, 0, 4), "SP2");
    assert_string_equal(p.pieces[0].spans[0].text, "你好,世界真大.");
    mica_speech_pieces_deinit(&p);
    run("你好^世界真大", &p);
    assert_string_equal(phone(&p, 0, 0, 4), "SP3");
    mica_speech_pieces_deinit(&p);
    run("一共￥5", &p);
    assert_string_equal(p.pieces[0].spans[0].text, "一共五元.");
    mica_speech_pieces_deinit(&p);
}

/* ---- a reader ---- */

/* Answers of one sentence: characters with their readings, the rest unknown. */
typedef struct answer {
    uint32_t cp;
    const char *pinyin;
    int tone;
} answer;

static mica_status take_answers(void *user, const uint32_t *chars, size_t size, int *readings,
                                mica_err *err)
{
    const answer *list = user;
    for (size_t i = 0; i < size; i++) {
        readings[i] = -1;
        for (const answer *a = list; a->cp; a++)
            if (a->cp == chars[i])
                readings[i] = mica_speech_reading(front, a->pinyin, a->tone);
    }
    return list->cp ? MICA_OK : MICA_FAIL(err, MICA_E_CANCELLED, "nobody answers");
}

static mica_status read_with(const answer *answers, const char *text, mica_speech_pieces *p,
                             mica_err *err)
{
    const mica_speech_reader reader = {take_answers, (void *)(uintptr_t)answers};
    const mica_speech_text_options o = {MICA_SPEECH_ZH, MICA_SPEECH_CUT_NONE, 732, &reader};
    return mica_speech_front_run(front, text, strlen(text), &o, p, err);
}

static void expect_read(const answer *answers, const char *text, const char *expected)
{
    mica_speech_pieces p;
    mica_err err = {0};
    char names[512] = "";
    if (read_with(answers, text, &p, &err) != MICA_OK)
        fail_msg("%s: %s", text, err.text);
    for (size_t i = 0; i < p.pieces[0].phone_count; i++) {
        strcat(names, i ? " " : "");
        strcat(names, phone(&p, 0, 0, i));
    }
    assert_string_equal(names, expected);
    mica_speech_pieces_deinit(&p);
}

/* 得 还 行 长 很: what a reader says of characters that are words by themselves is taken, words of the
 * dictionary stay, and the rules of tones come after. */
static void test_reader(void **state)
{
    (void)state;
    static const answer OWE[] = {{0x5f97, "dei", 3}, {0x8fd8, "huan", 2}, {0, NULL, 0}};
    static const answer BANK[] = {{0x884c, "xing", 2}, {0, NULL, 0}};
    static const answer THIRD[] = {{0x4ed6, "ni", 3}, {0, NULL, 0}};
    static const answer NOBODY[] = {{0, NULL, 0}};
    mica_speech_pieces p;
    mica_err err = {0};
    expect_read(OWE, "他得还钱。", "t a1 d ei3 h uan2 q ian2 .");
    expect_read(BANK, "他在银行。", "t a1 z ai4 y in2 h ang2 .");
    expect_read(THIRD, "他好高兴吗。", "n i2 h ao3 g ao1 x ing4 m a5 .");
    const mica_speech_reader reader = {take_answers, (void *)(uintptr_t)THIRD};
    mica_speech_text_options o = {MICA_SPEECH_ZH, MICA_SPEECH_CUT_NONE, 732, NULL};
    assert_int_equal(mica_speech_front_run(front, "他高兴。", 12, &o, &p, &err), MICA_OK);
    assert_string_equal(phone(&p, 0, 0, 2), "a1");
    o.reader = &reader;
    assert_int_equal(mica_speech_front_reread(front, &o, &p, 0, &err), MICA_OK);
    assert_string_equal(phone(&p, 0, 0, 2), "i3");
    assert_string_equal(p.pieces[0].source, "他高兴。");
    mica_speech_pieces_deinit(&p);
    assert_int_equal(read_with(NOBODY, "他得还钱。", &p, &err), MICA_E_CANCELLED);
    assert_string_equal(err.text, "nobody answers");
    assert_int_equal(mica_speech_reading(front, "hao", 0), -1);
    assert_int_equal(mica_speech_reading(front, "hao", 6), -1);
    assert_int_equal(mica_speech_reading(front, "xyz", 1), -1);
}

static void test_transcript(void **state)
{
    (void)state;
    const mica_speech_text_options o = {MICA_SPEECH_AUTO, MICA_SPEECH_CUT_PUNCTUATION, 322, NULL};
    mica_speech_pieces p;
    mica_err err = {0};
    const char *text = "你好，世界。再见\n";
    assert_int_equal(mica_speech_front_run_transcript(front, text, strlen(text), &o, &p, &err),
                     MICA_OK);
    assert_int_equal(p.count, 1);
    assert_string_equal(p.pieces[0].spans[0].text, "你好,世界.再见.");
    mica_speech_pieces_deinit(&p);
    char longer[600];
    memset(longer, 'a', sizeof longer);
    assert_int_equal(mica_speech_front_run_transcript(front, longer, sizeof longer, &o, &p, &err),
                     MICA_E_USAGE);
    assert_non_null(strstr(err.text, "600 characters"));
}

/* Long and monotonous: numbers, ideographs, letters without end take their time, not for ever. */
static void test_long_texts(void **state)
{
    (void)state;
    static const char *const parts[] = {"1 ", "齉", "a", "一不", "-", "1/", "Aa ", "。1"};
    const mica_speech_text_options o = {MICA_SPEECH_AUTO, MICA_SPEECH_CUT_NONE, 732, NULL};
    char *text = malloc(20000);
    assert_non_null(text);
    for (size_t i = 0; i < MICA_ARRAY_LEN(parts); i++) {
        const size_t n = strlen(parts[i]);
        mica_speech_pieces p;
        mica_err err = {0};
        for (size_t at = 0; at + n <= 20000; at += n)
            memcpy(text + at, parts[i], n);
        if (mica_speech_front_run(front, text, 20000 / n * n, &o, &p, &err) == MICA_OK)
            mica_speech_pieces_deinit(&p);
        else
            assert_true(err.text[0] != '\0');
    }
    free(text);
}

static void expect_refusal(const char *text, mica_speech_text_options o, mica_status status,
                           const char *part)
{
    mica_speech_pieces p;
    mica_err err = {0};
    assert_int_equal(mica_speech_front_run(front, text, strlen(text), &o, &p, &err), status);
    if (strstr(err.text, part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, part);
}

static void test_refusals(void **state)
{
    (void)state;
    mica_speech_text_options o = {MICA_SPEECH_AUTO, MICA_SPEECH_CUT_NONE, 732, NULL};
    mica_speech_language language;
    mica_speech_cut how;
    mica_err err = {0};
    expect_refusal("", o, MICA_E_USAGE, "nothing to say");
    expect_refusal("?!…", o, MICA_E_USAGE, "nothing to say");
    expect_refusal("こんにちは", o, MICA_E_UNSUPPORTED, "Japanese");
    o.phone_count = 512;
    expect_refusal("hi", o, MICA_E_UNSUPPORTED, "512");
    assert_int_equal(mica_speech_language_find("ja", &language, &err), MICA_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "Japanese"));
    assert_int_equal(mica_speech_language_find("ko", &language, &err), MICA_E_UNSUPPORTED);
    assert_int_equal(mica_speech_language_find("yue", &language, &err), MICA_E_UNSUPPORTED);
    assert_int_equal(mica_speech_language_find("xx", &language, &err), MICA_E_USAGE);
    assert_int_equal(mica_speech_cut_find("cut6", &how, &err), MICA_E_USAGE);
    assert_int_equal(mica_speech_cut_find("cut", &how, &err), MICA_E_USAGE);
}

static mica_status run_once(mica_err *err)
{
    const mica_speech_text_options o = {MICA_SPEECH_AUTO, MICA_SPEECH_CUT_PUNCTUATION, 732, NULL};
    const char *text = "韩冰用Python写了3行。Dr. Smith's GPT-4";
    mica_speech_front *f = NULL;
    mica_speech_pieces p = {0};
    mica_status status = mica_speech_front_open(&f, err);
    if (status == MICA_OK)
        status = mica_speech_front_run(f, text, strlen(text), &o, &p, err);
    if (status == MICA_OK)
        mica_speech_pieces_deinit(&p);
    mica_speech_front_close(&f);
    return status;
}

/* Each allocation fails in turn; sanitizers look for leaks. */
static void test_no_memory(void **state)
{
    (void)state;
    for (uint64_t n = 1; n < 20000; n += 1 + n / 40) {
        mica_err err = {0};
        mica_mem_fail_at(n);
        const mica_status status = run_once(&err);
        mica_mem_fail_at(0);
        if (status == MICA_OK)
            return;
        assert_int_equal(status, MICA_E_NOMEM);
        assert_true(err.text[0] != '\0');
    }
    fail_msg("20000 allocations were not enough");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_symbols),     cmocka_unit_test(test_phones_by_name),
        cmocka_unit_test(test_short_texts), cmocka_unit_test(test_pauses),
        cmocka_unit_test(test_transcript),  cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_reader),
    };
    return cmocka_run_group_tests(tests, open_front, close_front);
}
