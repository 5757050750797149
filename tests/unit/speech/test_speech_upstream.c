/* test_speech_upstream.c - our phones against those of upstream's own front end.
 *
 *     tests/golden/speech/upstream.tsv    language TAB text TAB its normal text TAB its phones [TAB why TAB our phones]
 *
 * A line without a reason must come out as upstream's, one with a reason as it says and not as upstream's. How
 * the table was made and what the reasons mean stands at its top. */
#include "golden_file.h"

#include "base/file.h"
#include "base/mem.h"
#include "speech/speech_text.h"

#define LINE_MAX_BYTES 8192
#define COLUMNS        6

static mica_speech_front *front;

static void describe(const char *language, const char *text, char *normal, char *phones)
{
    mica_speech_text_options o = {.cut = MICA_SPEECH_CUT_NONE, .phone_count = 732};
    mica_speech_pieces p;
    mica_err err = {0};
    size_t used = 0;
    assert_int_equal(mica_speech_language_find(language, &o.language, &err), MICA_OK);
    if (mica_speech_front_run(front, text, strlen(text), &o, &p, &err) != MICA_OK)
        fail_msg("%s: %s", text, err.text);
    assert_int_equal(p.count, 1);
    assert_int_equal(p.pieces[0].span_count, 1);
    const mica_speech_span *s = &p.pieces[0].spans[0];
    snprintf(normal, LINE_MAX_BYTES, "%s", s->text);
    for (size_t k = 0; k < s->phone_count; k++)
        used += (size_t)snprintf(phones + used, LINE_MAX_BYTES - used, "%s%s", k ? " " : "",
                                 mica_speech_phone_name(front, 732, s->phones[k]));
    mica_speech_pieces_deinit(&p);
}

static int split(char *line, char *columns[COLUMNS])
{
    int n = 0;
    for (char *at = line; at && n < COLUMNS; n++) {
        columns[n] = at;
        at = strchr(at, '\t');
        if (at)
            *at++ = '\0';
    }
    return n;
}

/* true: as upstream. */
static bool check_line(char *line)
{
    char normal[LINE_MAX_BYTES], phones[LINE_MAX_BYTES], *c[COLUMNS];
    const int n = split(line, c);
    assert_true(n == 4 || n == COLUMNS);
    describe(c[0], c[1], normal, phones);
    const bool same = strcmp(normal, c[2]) == 0 && strcmp(phones, c[3]) == 0;
    if (same != (n == 4) || strcmp(phones, c[n - 1]) != 0)
        fail_msg("%s\n  became   %s\n           %s\n  expected %s\n  upstream %s", c[1], normal,
                 phones, c[n - 1], c[3]);
    return same;
}

static void test_table(void **state)
{
    (void)state;
    char *text, *next;
    size_t size;
    int same = 0, other = 0;
    mica_err err = {0};
    assert_int_equal(
        mica_file_read(MICA_TEST_DATA "/speech/upstream.tsv", 1 << 20, &text, &size, &err),
        MICA_OK);
    for (char *line = text; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        if (*line == '#' || *line == '\0')
            continue;
        if (check_line(line))
            same++;
        else
            other++;
    }
    mica_mem_free(text);
    assert_int_equal(same, 582);
    assert_int_equal(other, 260);
}

int main(void)
{
    mica_err err = {0};
    if (mica_speech_front_open(&front, &err) != MICA_OK)
        return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mica_speech_front_close(&front);
    return failed;
}
