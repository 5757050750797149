/* english_shortened.c - see english_shortened.h. */
#include "speech/english_shortened.h"

#include "speech/english_numbers.h"

#include <stdio.h>
#include <string.h>

/* The whole name of which `s` is the beginning, perhaps with one letter of the usual "Sept", "Tues", "Thurs". */
static const char *whole(mica_slice s, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (s.size >= 3 && strncmp(s.text, names[i], 3) == 0)
            return names[i];
    return "";
}

static const char *month(mica_slice s)
{
    static const char *const NAMES[] = {"January",   "February", "March",    "April",
                                        "May",       "June",     "July",     "August",
                                        "September", "October",  "November", "December"};
    return whole(s, NAMES, MICA_ARRAY_LEN(NAMES));
}

void mica_english_month(mica_text *out, const mica_match *m)
{
    mica_rule_put(out, month(mica_match_group(m, 1)));
}

void mica_english_month_day(mica_text *out, const mica_match *m)
{
    const mica_slice day = mica_match_group(m, 2);
    mica_text_add(out, "%s ", month(mica_match_group(m, 1)));
    mica_english_ordinal(out, day.text, day.size);
}

void mica_english_day_month(mica_text *out, const mica_match *m)
{
    const mica_slice day = mica_match_group(m, 1);
    mica_rule_put(out, "the ");
    mica_english_ordinal(out, day.text, day.size);
    mica_text_add(out, " of %s", month(mica_match_group(m, 2)));
}

static const char *day(mica_slice s)
{
    static const char *const NAMES[] = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                        "Friday", "Saturday", "Sunday"};
    return whole(s, NAMES, MICA_ARRAY_LEN(NAMES));
}

void mica_english_day(mica_text *out, const mica_match *m)
{
    mica_rule_put(out, day(mica_match_group(m, 1)));
}

void mica_english_days(mica_text *out, const mica_match *m)
{
    mica_text_add(out, "%s to %s", day(mica_match_group(m, 1)), day(mica_match_group(m, 2)));
}

/* Of I, V and X; 0: it is none as one writes them. */
static int roman(mica_slice s)
{
    static const char *const ONES[] = {"", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"};
    size_t tens = 0;
    while (tens < s.size && tens < 3 && s.text[tens] == 'X')
        tens++;
    const mica_slice rest = {s.text + tens, s.size - tens};
    for (int i = 0; i < 10; i++)
        if (mica_slice_is(rest, ONES[i]))
            return 10 * (int)tens + i;
    return 0;
}

static void put_roman(mica_text *out, const mica_match *m, const char *article,
                      void (*put)(mica_text *, const char *, size_t))
{
    char digits[8];
    const mica_slice numeral = mica_match_group(m, 2);
    const int n = snprintf(digits, sizeof digits, "%d", roman(numeral));
    mica_rule_put_slice(out, mica_match_group(m, 1));
    mica_rule_put(out, " ");
    if (digits[0] == '0') {
        mica_rule_put_slice(out, numeral);
        return;
    }
    mica_rule_put(out, article);
    put(out, digits, (size_t)n);
}

void mica_english_roman(mica_text *out, const mica_match *m)
{
    put_roman(out, m, "", mica_english_cardinal);
}

void mica_english_ruler(mica_text *out, const mica_match *m)
{
    put_roman(out, m, "the ", mica_english_ordinal);
}

void mica_english_acronym(mica_text *out, const mica_match *m)
{
    const mica_slice s = mica_match_group(m, 1);
    for (size_t i = 0; i < s.size; i++)
        mica_text_add(out, "%c", s.text[i] | 32);
}
