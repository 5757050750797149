/* test_speech_cut.c - pieces as GPT-SoVITS cuts them (tools/golden/speech_cuts.py), and languages. */
#include "golden_file.h"

#include "base/json.h"
#include "speech/speech_cut.h"

#include <cjson/cJSON.h>

static const char *string_of(const mica_json *j, const cJSON *item, const char *key)
{
    const char *text;
    mica_err err = {0};
    if (mica_json_get_string(j, item, key, &text, &err) != MICA_OK)
        fail_msg("%s", err.text);
    return text;
}

static void check_case(const mica_json *j, const cJSON *item)
{
    mica_err err = {0};
    mica_arena arena;
    mica_cut_piece *pieces;
    size_t count, i = 0;
    mica_speech_text_options o = {.phone_count = 732};
    const char *text = string_of(j, item, "text"), *how = string_of(j, item, "cut");
    const char *language = string_of(j, item, "language");
    assert_int_equal(mica_speech_language_find(language, &o.language, &err), MICA_OK);
    assert_int_equal(mica_speech_cut_find(how, &o.cut, &err), MICA_OK);
    mica_arena_init(&arena, 65536);
    assert_int_equal(mica_speech_cut_text(text, strlen(text), &o, &arena, &pieces, &count, &err),
                     MICA_OK);
    for (const cJSON *want = mica_json_find(item, "pieces")->child; want != NULL;
         want = want->next, i++)
        if (i >= count || strcmp(pieces[i].text, want->valuestring) != 0)
            fail_msg("%s, %s, %s: piece %zu is \"%s\", not \"%s\"", text, language, how, i,
                     i < count ? pieces[i].text : "(none)", want->valuestring);
    if (i != count)
        fail_msg("%s, %s, %s: %zu pieces, not %zu: \"%s\"", text, language, how, count, i,
                 pieces[i].text);
    mica_arena_deinit(&arena);
}

static void test_cuts(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_json j = {0};
    size_t checked = 0;
    if (mica_json_open(&j, MICA_TEST_DATA "/speech/cuts.json", &err) != MICA_OK)
        fail_msg("%s", err.text);
    for (const cJSON *item = j.root->child; item != NULL; item = item->next, checked++)
        check_case(&j, item);
    assert_int_equal(checked, 612);
    mica_json_close(&j);
}

/* Above 510 characters without punctuation, where upstream's BERT would fail: between words, or anywhere. */
static void test_no_punctuation(void **state)
{
    (void)state;
    static char text[2400];
    mica_speech_text_options o = {.phone_count = 732, .cut = MICA_SPEECH_CUT_PUNCTUATION};
    mica_err err = {0};
    mica_arena arena;
    mica_cut_piece *pieces;
    size_t count;
    for (int i = 0; i < 200; i++)
        strcat(text, "word ");
    mica_arena_init(&arena, 65536);
    assert_int_equal(mica_speech_cut_text(text, strlen(text), &o, &arena, &pieces, &count, &err),
                     MICA_OK);
    assert_int_equal(count, 2);
    assert_int_equal(pieces[0].size, 510);
    assert_memory_equal(pieces[1].text, "word word", 9);
    text[0] = '\0';
    for (int i = 0; i < 700; i++)
        strcat(text, "长");
    assert_int_equal(mica_speech_cut_text(text, strlen(text), &o, &arena, &pieces, &count, &err),
                     MICA_OK);
    assert_int_equal(count, 2);
    assert_int_equal(pieces[0].size, 3 * 510);
    mica_arena_deinit(&arena);
}

static void expect_runs(const char *text, mica_speech_language language, const char *want)
{
    mica_err err = {0};
    mica_arena arena;
    mica_language_run *runs;
    size_t count;
    char got[1024] = "";
    mica_arena_init(&arena, 65536);
    if (mica_speech_find_languages(text, strlen(text), language, &arena, &runs, &count, &err) !=
        MICA_OK)
        fail_msg("%s: %s", text, err.text);
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        n += (size_t)snprintf(got + n, sizeof got - n, "%s%s[%.*s]", i ? " " : "",
                              runs[i].language == MICA_SPEECH_EN ? "en" : "zh", (int)runs[i].size,
                              text + runs[i].begin);
    if (strcmp(got, want) != 0)
        fail_msg("%s\n  gave     %s\n  expected %s", text, got, want);
    mica_arena_deinit(&arena);
}

static void test_languages(void **state)
{
    (void)state;
    expect_runs("我用Python。", MICA_SPEECH_AUTO, "zh[我用] en[Python。]");
    expect_runs("“Hi”，他说。", MICA_SPEECH_AUTO, "en[“Hi”，] zh[他说。]");
    expect_runs("买5kg米", MICA_SPEECH_AUTO, "zh[买5kg米]");
    expect_runs("buy 5kg now", MICA_SPEECH_AUTO, "en[buy 5kg now]");
    expect_runs("T60底部", MICA_SPEECH_AUTO, "en[T60] zh[底部]");
    expect_runs("GPT-4很好", MICA_SPEECH_AUTO, "en[GPT-4] zh[很好]");
    expect_runs("5G网络", MICA_SPEECH_AUTO, "zh[5] en[G] zh[网络]");
    expect_runs("价格$25.5元", MICA_SPEECH_AUTO, "zh[价格$25.5元]");
    expect_runs("it is -5, ok", MICA_SPEECH_AUTO, "en[it is -5, ok]");
    expect_runs("12345", MICA_SPEECH_AUTO, "zh[12345]");
    expect_runs("…！", MICA_SPEECH_AUTO, "zh[…！]");
    expect_runs("在Beijing, 2025年", MICA_SPEECH_AUTO, "zh[在] en[Beijing, ] zh[2025年]");
    expect_runs("abcdef 3 好", MICA_SPEECH_AUTO, "en[abcdef 3 ] zh[好]");
    expect_runs("abcdef 3 好", MICA_SPEECH_ZH, "en[abcdef ] zh[3 好]");
    expect_runs("café 25°C", MICA_SPEECH_AUTO, "en[café 25°C]");
    expect_runs("10 apples", MICA_SPEECH_EN, "en[10 apples]");
    expect_runs("", MICA_SPEECH_AUTO, "");
}

static void expect_refusal(const char *text, mica_speech_language language, const char *part)
{
    mica_err err = {0};
    mica_arena arena;
    mica_language_run *runs;
    size_t count;
    mica_arena_init(&arena, 65536);
    assert_int_equal(
        mica_speech_find_languages(text, strlen(text), language, &arena, &runs, &count, &err),
        MICA_E_UNSUPPORTED);
    if (strstr(err.text, part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, part);
    mica_arena_deinit(&arena);
}

static void test_refused_scripts(void **state)
{
    (void)state;
    expect_refusal("君の瞳", MICA_SPEECH_AUTO, "Japanese letters (の)");
    expect_refusal("カタカナ", MICA_SPEECH_ZH, "Japanese");
    expect_refusal("안녕", MICA_SPEECH_AUTO, "Korean");
    expect_refusal("привет", MICA_SPEECH_EN, "Cyrillic");
    expect_refusal("مرحبا", MICA_SPEECH_AUTO, "Arabic");
    expect_refusal("hello 你好", MICA_SPEECH_EN, "你");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_no_punctuation),
        cmocka_unit_test(test_languages),
        cmocka_unit_test(test_refused_scripts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
