/* test_speech_sentences.c - hand-checked sentences, Chinese, English and mixed, to normal text and phones.
 *
 *     tests/golden/speech/sentences_*.tsv     text TAB spans joined by | TAB phones of the spans joined by |
 *
 * The tables were read by hand; a line that no longer holds is shown with what came out. */
#include "golden_file.h"

#include "speech/speech_text.h"

#define LINE_MAX_BYTES 8192

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

static void append(char *to, const char *more)
{
    const size_t n = strlen(to);
    assert_true(n + strlen(more) + 1 < LINE_MAX_BYTES);
    memcpy(to + n, more, strlen(more) + 1);
}

static void describe(const mica_speech_pieces *p, char *text, char *phones)
{
    text[0] = phones[0] = '\0';
    for (size_t i = 0; i < p->count; i++)
        for (size_t j = 0; j < p->pieces[i].span_count; j++) {
            const mica_speech_span *s = &p->pieces[i].spans[j];
            append(text, i + j > 0 ? "|" : "");
            append(text, s->text);
            append(phones, i + j > 0 ? " |" : "");
            for (size_t k = 0; k < s->phone_count; k++) {
                append(phones, i + j + k > 0 ? " " : "");
                append(phones, mica_speech_phone_name(front, 732, s->phones[k]));
            }
        }
}

/* One entry per character that add up to the phones: what BERT's features are spread by. */
static void check_characters(const char *line, const mica_speech_pieces *p)
{
    for (size_t j = 0; j < p->pieces[0].span_count; j++) {
        const mica_speech_span *s = &p->pieces[0].spans[j];
        size_t characters = 0, sum = 0;
        for (const char *at = s->text; *at != '\0'; at++)
            characters += ((unsigned char)*at & 0xc0) != 0x80;
        if (s->language == MICA_SPEECH_EN) {
            assert_int_equal(s->char_count, 0);
            continue;
        }
        for (size_t k = 0; k < s->char_count; k++)
            sum += (size_t)s->phones_of_char[k];
        if (characters != s->char_count || sum != s->phone_count)
            fail_msg("%s: %zu characters, %zu counts, %zu of %zu phones", line, characters,
                     s->char_count, sum, s->phone_count);
    }
}

static void check_line(const char *text, const char *normal, const char *phones)
{
    static char got_text[LINE_MAX_BYTES], got_phones[LINE_MAX_BYTES];
    const mica_speech_text_options o = {MICA_SPEECH_AUTO, MICA_SPEECH_CUT_NONE, 732, NULL};
    mica_speech_pieces p;
    mica_err err = {0};
    if (mica_speech_front_run(front, text, strlen(text), &o, &p, &err) != MICA_OK)
        fail_msg("%s: %s", text, err.text);
    describe(&p, got_text, got_phones);
    if (strcmp(got_text, normal) != 0)
        fail_msg("%s\n  became   %s\n  expected %s", text, got_text, normal);
    if (strcmp(got_phones, phones) != 0)
        fail_msg("%s\n  became   %s\n  expected %s", text, got_phones, phones);
    check_characters(text, &p);
    mica_speech_pieces_deinit(&p);
}

static size_t check_table(const char *name)
{
    char path[1024], line[LINE_MAX_BYTES];
    size_t checked = 0;
    snprintf(path, sizeof path, "%s/speech/%s", MICA_TEST_DATA, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *normal = strchr(line, '\t'),
             *phones = normal != NULL ? strchr(normal + 1, '\t') : NULL;
        if (line[0] == '#')
            continue;
        assert_non_null(phones);
        *normal++ = *phones++ = '\0';
        check_line(line, normal, phones);
        checked++;
    }
    fclose(file);
    return checked;
}

static void test_chinese(void **state)
{
    (void)state;
    assert_true(check_table("sentences_zh.tsv") >= 200);
}

static void test_english(void **state)
{
    (void)state;
    assert_true(check_table("sentences_en.tsv") >= 140);
}

static void test_mixed(void **state)
{
    (void)state;
    assert_true(check_table("sentences_mix.tsv") >= 25);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chinese),
        cmocka_unit_test(test_english),
        cmocka_unit_test(test_mixed),
    };
    return cmocka_run_group_tests(tests, open_front, close_front);
}
