/* english_normalize.c - what is written but not said as written: numbers, times, money, units,
 * abbreviations (GPT-SoVITS text/en_normalization/expend.py is the reference; what is added here is marked +).
 *
 *     "On 1/31/2025 at 13:30, 2.5kg cost $6.24." ->
 *     "On January thirty first, twenty twenty five at one thirty p.m., two point five kilograms cost
 *      six dollars and twenty four cents."
 *
 * Capital letters behind a letter are set apart, so that abbreviations are spelled ("GPT" is
 * "G P T"); a text without any small letter is taken for shouting and read as words (+). */
#include "speech/english.h"

#include "speech/english_numbers.h"
#include "speech/english_shortened.h"

#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static long number_of(mica_slice s)
{
    char digits[16] = {0};
    memcpy(digits, s.text, MICA_MIN(s.size, sizeof digits - 1));
    return strtol(digits, NULL, 10);
}

/* ---- dates and times ---- */

static void put_date(mica_text *out, mica_slice year, mica_slice month, mica_slice day)
{
    static const char *const months[] = {"January",   "February", "March",    "April",
                                         "May",       "June",     "July",     "August",
                                         "September", "October",  "November", "December"};
    mica_rule_put(out, months[(number_of(month) + 11) % 12]);
    mica_english_ordinal(out, day.text, day.size);
    mica_rule_put(out, ", ");
    mica_english_year(out, year.text, year.size);
}

static void iso_date(mica_text *out, const mica_match *m)
{
    put_date(out, mica_match_group(m, 1), mica_match_group(m, 2), mica_match_group(m, 3));
}

static void us_date(mica_text *out, const mica_match *m)
{
    put_date(out, mica_match_group(m, 3), mica_match_group(m, 1), mica_match_group(m, 2));
}

/* Groups: hour, minute, the am or pm that follows. */
static void clock_time(mica_text *out, const mica_match *m)
{
    const mica_slice minute = mica_match_group(m, 2), said = mica_match_group(m, 3);
    const long hour = number_of(mica_match_group(m, 1));
    char digits[8];
    const int n = snprintf(digits, sizeof digits, "%ld", hour % 12 == 0 ? 12 : hour % 12);
    mica_english_cardinal(out, digits, (size_t)n);
    if (number_of(minute) == 0) {
        if (said.size == 0)
            mica_rule_put(out, " o'clock");
    } else {
        if (minute.text[0] == '0')
            mica_rule_put(out, " oh");
        mica_rule_put(out, " ");
        mica_english_cardinal(out, minute.text, minute.size);
    }
    const bool pm = said.size > 0 ? said.text[0] == 'p' || said.text[0] == 'P' : hour >= 12;
    mica_rule_put(out, pm ? " p.m." : " a.m.");
}

/* 05 "oh five", 00 "oh oh" */
static void put_sixtieths(mica_text *out, mica_slice s)
{
    mica_rule_put(out, s.text[0] == '0' ? " oh " : " ");
    if (number_of(s) == 0)
        mica_rule_put(out, "oh");
    else
        mica_english_cardinal(out, s.text, s.size);
}

/* "1:59:40", a length or a time: hour, minute, second, the am or pm that follows. */
static void long_time(mica_text *out, const mica_match *m)
{
    const mica_slice hour = mica_match_group(m, 1), said = mica_match_group(m, 4);
    mica_english_cardinal(out, hour.text, hour.size);
    put_sixtieths(out, mica_match_group(m, 2));
    put_sixtieths(out, mica_match_group(m, 3));
    if (said.size > 0)
        mica_rule_put(out, said.text[0] == 'p' || said.text[0] == 'P' ? " p.m." : " a.m.");
}

/* "10 am", "5pm" */
static void whole_hour(mica_text *out, const mica_match *m)
{
    const mica_slice hour = mica_match_group(m, 1), said = mica_match_group(m, 2);
    mica_english_cardinal(out, hour.text, hour.size);
    mica_rule_put(out, said.text[0] == 'p' || said.text[0] == 'P' ? " p.m." : " a.m.");
}

/* "1990s", "'80s" */
static void decade(mica_text *out, const mica_match *m)
{
    const mica_slice years = mica_match_group(m, 1);
    mica_english_year(out, years.text, years.size);
    mica_english_plural(out);
}

/* ---- numbers with company ---- */

static void list_number(mica_text *out, const mica_match *m)
{
    const mica_slice n = mica_match_group(m, 1);
    mica_english_ordinal(out, n.text, n.size);
    mica_rule_put(out, ", ");
}

static void phone_number(mica_text *out, const mica_match *m)
{
    for (size_t g = 1; g <= 4; g++) {
        const mica_slice s = mica_match_group(m, g);
        if (s.size == 0)
            continue;
        mica_text part = {0};
        mica_english_digits(&part, s.text, s.size);
        if (part.data != NULL)
            mica_text_add(out, "%s%s", part.data, g < 4 ? ", " : "");
        out->failed |= part.failed;
        mica_text_deinit(&part);
    }
}

static const struct unit {
    const char *sign, *one, *many;
} units[] = {
    {"km/h", "kilometer per hour", "kilometers per hour"},
    {"mph", "mile per hour", "miles per hour"},
    {"m/s", "meter per second", "meters per second"},
    {"tbsp", "tablespoon", "tablespoons"},
    {"tsp", "teaspoon", "teaspoons"},
    {"min", "minute", "minutes"},
    {"lbs", "pound", "pounds"},
    {"lb", "pound", "pounds"},
    {"km", "kilometer", "kilometers"},
    {"kg", "kilogram", "kilograms"},
    {"mg", "milligram", "milligrams"},
    {"cm", "centimeter", "centimeters"},
    {"mm", "millimeter", "millimeters"},
    {"ml", "milliliter", "milliliters"},
    {"ms", "millisecond", "milliseconds"},
    {"mi", "mile", "miles"},
    {"ft", "foot", "feet"},
    {"oz", "ounce", "ounces"},
    {"GHz", "gigahertz", "gigahertz"},
    {"MHz", "megahertz", "megahertz"},
    {"kHz", "kilohertz", "kilohertz"},
    {"Hz", "hertz", "hertz"},
    {"GB", "gigabyte", "gigabytes"},
    {"MB", "megabyte", "megabytes"},
    {"KB", "kilobyte", "kilobytes"},
    {"TB", "terabyte", "terabytes"},
    {"kW", "kilowatt", "kilowatts"},
    {"\xc2\xb0"
     "C",
     "degree celsius", "degrees celsius"},
    {"\xc2\xb0"
     "F",
     "degree fahrenheit", "degrees fahrenheit"},
    {"\xe2\x84\x83", "degree celsius", "degrees celsius"},
    {"\xe2\x84\x89", "degree fahrenheit", "degrees fahrenheit"},
    {"\xc2\xb0", "degree", "degrees"},
    {"m", "meter", "meters"},
    {"g", "gram", "grams"},
    {"L", "liter", "liters"},
    {"l", "liter", "liters"},
    {"h", "hour", "hours"},
    {"s", "second", "seconds"},
};
#define UNIT_PATTERN                                                                               \
    "(km/h|mph|m/"                                                                                 \
    "s|tbsp|tsp|min|lbs|lb|km|kg|mg|cm|mm|ml|ms|mi|ft|oz|GHz|MHz|kHz|Hz|GB|MB|KB|TB|kW|"           \
    "°C|°F|℃|℉|°|m|g|L|l|h|s)"

/* "3h 45m" (+), behind the 3 */
static void hours_minutes(mica_text *out, const mica_match *m)
{
    mica_rule_put(out, " hours ");
    mica_rule_put_slice(out, mica_match_group(m, 1));
    mica_rule_put(out, " minutes");
}

static void measure(mica_text *out, const mica_match *m)
{
    const mica_slice number = mica_match_group(m, 1), sign = mica_match_group(m, 2);
    mica_rule_put_slice(out, number);
    for (size_t i = 0; i < MICA_ARRAY_LEN(units); i++)
        if (mica_slice_is(sign, units[i].sign)) {
            mica_text_add(out, " %s", mica_slice_is(number, "1") ? units[i].one : units[i].many);
            return;
        }
}

/* ---- money ---- */

static const struct currency {
    const char *sign, *one, *many, *small_one, *small_many;
} currencies[] = {{"$", "dollar", "dollars", "cent", "cents"},
                  {"\xc2\xa3", "pound", "pounds", "penny", "pence"},
                  {"\xe2\x82\xac", "euro", "euros", "cent", "cents"},
                  {"\xc2\xa5", "yuan", "yuan", "fen", "fen"}};

/* amount: digits with at most one point. */
static void put_money(mica_text *out, mica_slice sign, mica_slice amount)
{
    const struct currency *c = NULL;
    for (size_t i = 0; i < MICA_ARRAY_LEN(currencies); i++)
        if (mica_slice_is(sign, currencies[i].sign))
            c = &currencies[i];
    const char *point = memchr(amount.text, '.', amount.size);
    const mica_slice whole = {amount.text, point ? (size_t)(point - amount.text) : amount.size};
    long small = 0;
    if (point != NULL) {
        char cents[3] = "00";
        memcpy(cents, point + 1, MICA_MIN(amount.size - whole.size - 1, (size_t)2));
        small = strtol(cents, NULL, 10);
    }
    const bool none = whole.size == 0 || strspn(whole.text, "0") >= whole.size;
    if (c == NULL)
        return;
    if (!none || small == 0) {
        mica_english_cardinal(out, none ? "0" : whole.text, none ? 1 : whole.size);
        mica_text_add(out, " %s", mica_slice_is(whole, "1") ? c->one : c->many);
    }
    if (small > 0)
        mica_text_add(out, "%s%ld %s", none ? "" : " and ", small,
                      small == 1 ? c->small_one : c->small_many);
}

static void money_before(mica_text *out, const mica_match *m)
{
    put_money(out, mica_match_group(m, 1), mica_match_group(m, 2));
}

/* "million", or "M" (+) */
static void put_scale(mica_text *out, mica_slice s)
{
    static const char *const names[][2] = {{"k", "thousand"}, {"K", "thousand"}, {"M", "million"},
                                           {"m", "million"},  {"mn", "million"}, {"B", "billion"},
                                           {"bn", "billion"}, {"tn", "trillion"}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(names); i++)
        if (mica_slice_is(s, names[i][0])) {
            mica_rule_put(out, names[i][1]);
            return;
        }
    mica_rule_put_slice(out, s);
}

/* "$3.5 million": the number is read before the currency. */
static void big_money(mica_text *out, const mica_match *m)
{
    const mica_slice sign = mica_match_group(m, 1);
    mica_rule_put_slice(out, mica_match_group(m, 2));
    mica_rule_put(out, " ");
    put_scale(out, mica_match_group(m, 3));
    for (size_t i = 0; i < MICA_ARRAY_LEN(currencies); i++)
        if (mica_slice_is(sign, currencies[i].sign))
            mica_text_add(out, " %s", currencies[i].many);
}

static void money_behind(mica_text *out, const mica_match *m)
{
    put_money(out, mica_match_group(m, 2), mica_match_group(m, 1));
}

/* ---- plain numbers ---- */

static void operation(mica_text *out, const mica_match *m)
{
    static const char *const names[][2] = {{"+", " plus "},         {"-", " minus "},
                                           {"\xc3\x97", " times "}, {"\xc3\xb7", " divided by "},
                                           {"=", " equals "},       {"*", " times "}};
    const mica_slice sign = mica_match_group(m, 1);
    for (size_t i = 0; i < MICA_ARRAY_LEN(names); i++)
        if (mica_slice_is(sign, names[i][0]))
            mica_rule_put(out, names[i][1]);
}

static void decimal(mica_text *out, const mica_match *m)
{
    const mica_slice whole = mica_match_group(m, 1), part = mica_match_group(m, 2);
    mica_english_cardinal(out, whole.size > 0 ? whole.text : "0", whole.size > 0 ? whole.size : 1);
    mica_rule_put(out, " point");
    mica_english_digits(out, part.text, part.size);
}

/* "192.168.1.1", "2.0.1" (+) */
static void version(mica_text *out, const mica_match *m)
{
    const mica_slice s = mica_match_group(m, 0);
    for (size_t at = 0; at < s.size;) {
        size_t n = 0;
        while (at + n < s.size && s.text[at + n] != '.')
            n++;
        mica_english_cardinal(out, s.text + at, n);
        at += n + 1;
        if (at < s.size)
            mica_rule_put(out, " point ");
    }
}

static void fraction(mica_text *out, const mica_match *m)
{
    const mica_slice mixed = mica_match_group(m, 1), top = mica_match_group(m, 2);
    const mica_slice bottom = mica_match_group(m, 3);
    const bool one = number_of(top) == 1;
    if (mixed.size > 0) { /* "3 1/2" (+) */
        mica_english_cardinal(out, mixed.text, mixed.size);
        mica_rule_put(out, " and ");
    }
    mica_english_cardinal(out, top.text, top.size);
    if (mica_slice_is(bottom, "1"))
        return;
    mica_rule_put(out, " ");
    if (mixed.size == 0 && bottom.size > 1 && number_of(top) == number_of(bottom)) { /* 50/50 */
        mica_english_cardinal(out, bottom.text, bottom.size);
        return;
    }
    if (mica_slice_is(bottom, "2")) {
        mica_rule_put(out, one ? "half" : "halves");
        return;
    }
    mica_english_ordinal(out, bottom.text, bottom.size);
    if (!one)
        mica_english_plural(out);
}

static void ordinal(mica_text *out, const mica_match *m)
{
    const mica_slice n = mica_match_group(m, 1);
    mica_english_ordinal(out, n.text, n.size);
}

/* "abc123456" (+) */
static void code_digits(mica_text *out, const mica_match *m)
{
    const mica_slice n = mica_match_group(m, 0);
    mica_rule_put(out, " ");
    mica_english_digits(out, n.text, n.size);
}

static void integer(mica_text *out, const mica_match *m)
{
    const mica_slice n = mica_match_group(m, 0);
    const size_t before = m->offsets[0], behind = m->offsets[1];
    const bool glued =
        behind < m->size && ((m->text[behind] | 32) >= 'a' && (m->text[behind] | 32) <= 'z');
    if (before > 0 && m->text[before - 1] != ' ' && m->text[before - 1] != '-')
        mica_rule_put(out, " ");
    if (n.size > 1 && n.text[0] == '0')
        mica_english_digits(out, n.text, n.size); /* "007" (+) */
    else
        mica_english_year(out, n.text, n.size);
    if (glued)
        mica_rule_put(out, " ");
}

/* ---- letters ---- */

static void plural_letters(mica_text *out, const mica_match *m)
{
    mica_rule_put_slice(out, mica_match_group(m, 1));
    mica_rule_put(out, "'s");
}

static void spelled(mica_text *out, const mica_match *m)
{
    const mica_slice s = mica_match_group(m, 0);
    for (size_t i = 0; i < s.size; i++)
        if (s.text[i] != '.') {
            char letter[3] = {s.text[i], ' ', 0};
            if (letter[0] >= 'a' && letter[0] <= 'z')
                letter[0] = (char)(letter[0] - 32);
            mica_rule_put(out, letter);
        }
    if (m->offsets[1] == m->size) /* the last point ends the sentence too */
        mica_rule_put(out, ".");
}

/* "5-10" (+) */
static void range(mica_text *out, const mica_match *m)
{
    mica_rule_put_slice(out, mica_match_group(m, 1));
    mica_rule_put(out, " to ");
}

/* "10^6" (+) */
static void power(mica_text *out, const mica_match *m)
{
    const mica_slice n = mica_match_group(m, 1);
    mica_rule_put(out, " to the power of ");
    mica_english_cardinal(out, n.text, n.size);
}

static void set_apart(mica_text *out, const mica_match *m)
{
    mica_rule_put(out, " ");
    mica_rule_put_slice(out, mica_match_group(m, 0));
}

#define BEFORE "(?<![A-Za-z0-9])"
#define AFTER  "(?![A-Za-z0-9])"
#define AMOUNT "([0-9]+(?:\\.[0-9]+)?)"
/* The point of an abbreviation, unless it ends a sentence too. */
#define DOT   "(?:\\.(?!\\s*$|\\s+[A-Z]))?"
#define MONEY "(\\$|£|€|¥)"

static const mica_rule rules[] = {
    /* The mark that speech_cut.c sets before a short beginning is no decimal point: ".3.5 litres". */
    {"^\\.(?=[0-9]{1,3}[,.?!~:：—…，。？！])", NULL, ". "},
    {"\\bhttps?://", NULL, ""},
    {"[−‐‑]", NULL, "-"},
    {"[’‘`]", NULL, "'"},
    {"(?<=[0-9])'\\s?(?=[0-9]{1,2}[\"”])", NULL, " foot "},
    {"[“”\"«»()\\[\\]{}<>《》]", NULL, " "},
    {"[;，；、]+|[:：]+(?![0-9])", NULL, ", "},
    {"(?<=[0-9A-Za-z])²", NULL, " squared"},
    {"(?<=[0-9A-Za-z])³", NULL, " cubed"},
    {"。", NULL, ". "},
    {"！", NULL, "! "},
    {"？", NULL, "? "},
    {"–", NULL, "-"},
    {"\\s*—+\\s*|\\s+-+\\s+(?=[A-Za-z])", NULL, ", "},
    {"…+|\\.{2,}", NULL, "."},
    {"\\b([A-Z]{2,})s\\b", plural_letters, NULL},
    {BEFORE "Mr\\.", NULL, "mister"},
    {BEFORE "Mrs\\.", NULL, "missus"},
    {BEFORE "Ms\\.", NULL, "miss"},
    {BEFORE "Dr\\.(?= [A-Z])", NULL, "doctor"},
    {BEFORE "St\\.(?= [A-Z])", NULL, "saint"},
    {"(?<=[A-Za-z] )St\\.(?= [a-z])", NULL, "street"},
    {"\\bwww\\.(?=[A-Za-z0-9])", NULL, "www dot "},
    {"(?<=[A-Za-z0-9])\\.(?=[A-Za-z0-9.]+@)", NULL, " dot "},
    {"(?<=[A-Za-z0-9])\\.(?=(?:com|org|net|edu|gov|io|ai|cn|co|uk|de)\\b)", NULL, " dot "},
    {BEFORE "Prof\\.", NULL, "professor"},
    {BEFORE "Jr\\.", NULL, "junior"},
    {BEFORE "Sr\\.", NULL, "senior"},
    {BEFORE "No\\. ?(?=[0-9])", NULL, "number "},
    {BEFORE "#(?=[0-9])", NULL, "number "},
    {BEFORE "(?i)vs\\.?" AFTER, NULL, "versus"},
    {BEFORE "(?i)etc\\.(?=\\s*$|\\s+[A-Z])", NULL, "et cetera."},
    {BEFORE "(?i)etc\\.?" AFTER, NULL, "et cetera"},
    {BEFORE "(?i)approx\\.", NULL, "approximately"},
    {BEFORE "(?i)i\\.e\\.", NULL, "that is"},
    {BEFORE "(?i)e\\.g\\.", NULL, "for example"},
    {BEFORE "(?i)a\\.k\\.a\\.", NULL, "also known as"},
    {BEFORE "24/7" AFTER, NULL, "twenty four seven"},
    {BEFORE "9/11" AFTER, NULL, "nine eleven"},
    {"(?<=[A-Za-z] )Ave\\.", NULL, "avenue"},
    {BEFORE "Mt\\.(?= [A-Z])", NULL, "mount"},
    {"(?<=\\b[A-G])#", NULL, " sharp"},
    {"(?<=\\b[A-F])\\+(?![A-Za-z0-9+])", NULL, " plus"},
    {BEFORE "(?i)ctrl" AFTER, NULL, "control"},
    {"\\b(" MICA_ENGLISH_NUMBERED ") ([IVX]+)\\b(?!')", mica_english_roman, NULL},
    {"\\b(" MICA_ENGLISH_RULERS ") ([IVX]{2,}|[VX])\\b(?!')", mica_english_ruler, NULL},
    {"\\b(" MICA_ENGLISH_ACRONYMS ")\\b", mica_english_acronym, NULL},
    {BEFORE "([1-9]|[12][0-9]|3[01])(?:st|nd|rd|th)? " MICA_ENGLISH_MONTHS "\\b" DOT,
     mica_english_day_month, NULL},
    {"\\b" MICA_ENGLISH_MONTHS "\\.? ([1-9]|[12][0-9]|3[01])(?:st|nd|rd|th)?"
     "(?=\\s*(?:[,;.!?](?![0-9])|$|-|[12][0-9]{3}\\b|(?:at|and|to|in|was|is|for|with|on|from|by)"
     "\\b))",
     mica_english_month_day, NULL},
    {"\\b" MICA_ENGLISH_MONTHS "\\.(?! *$| +[A-Z])", mica_english_month, NULL},
    {"\\b(Jan|Feb|Apr|Aug|Sept?|Oct|Nov|Dec)\\b(?=\\.|\\s+[0-9])", mica_english_month, NULL},
    {"\\b" MICA_ENGLISH_DAYS "(?:\\.-?|-)" MICA_ENGLISH_DAYS "\\b\\.?", mica_english_days, NULL},
    {"\\b" MICA_ENGLISH_DAYS "\\.(?=,| [0-9])", mica_english_day, NULL},
    {"(?:^|(?<=[.!?\\n] ))([0-9]{1,2})\\. (?=[A-Za-z])", list_number, NULL},
    {BEFORE "([12][0-9]{3})-(0?[1-9]|1[0-2])-(0?[1-9]|[12][0-9]|3[01])" AFTER, iso_date, NULL},
    {BEFORE "(0?[1-9]|1[0-2])/(0?[1-9]|[12][0-9]|3[01])/([12][0-9]{3})" AFTER, us_date, NULL},
    {BEFORE "(?:\\+?(1)[- ])?\\(?([0-9]{3})\\)?[- ]([0-9]{3})-([0-9]{4})" AFTER, phone_number,
     NULL},
    {BEFORE "()()([0-9]{3})-([0-9]{4})" AFTER, phone_number, NULL},
    {"(?<=[0-9])\\^([0-9]+)", power, NULL},
    {"(?<=[0-9])\\s+x\\s+(?=[0-9])", NULL, " times "},
    {"(?<=[0-9])x(?=[0-9])", NULL, " by "},
    {"(?<![^\\s(])\\+(?=[0-9])", NULL, "plus "},
    {"(?<=[0-9A-Za-z])\\s+([+×÷=*])\\s+(?=[0-9A-Za-z])", operation, NULL},
    {"(?<=[0-9])\\s+(-)\\s+(?=[0-9])", operation, NULL},
    {"(?<=[0-9])([+×÷=*])(?=[0-9])", operation, NULL},
    {"(?<![^\\s(])-(?=[0-9])", NULL, "negative "},
    {"(?<=[0-9]),(?=[0-9]{3}(?:[^0-9]|$))", NULL, ""},
    {BEFORE "([0-9]{1,3}):([0-5][0-9]):([0-5][0-9])(?:\\s*([AaPp])\\.?[Mm]" DOT ")?" AFTER,
     long_time, NULL},
    {BEFORE "([01]?[0-9]|2[0-3]):([0-5][0-9])(?:\\s*([AaPp])\\.?[Mm]" DOT ")?" AFTER, clock_time,
     NULL},
    {BEFORE "(1[0-2]|[1-9])\\s*([AaPp])\\.?[Mm]" DOT AFTER, whole_hour, NULL},
    {MONEY AMOUNT "\\s*(thousand|million|billion|trillion)", big_money, NULL},
    {MONEY AMOUNT "(k|K|M|m|mn|B|bn|tn)" AFTER, big_money, NULL},
    {MONEY AMOUNT, money_before, NULL},
    {AMOUNT MONEY, money_behind, NULL},
    {"(?<=[0-9])\\s?¢", NULL, " cents"},
    {BEFORE "'?([12][0-9]{2}0|[1-9]0)s" AFTER, decade, NULL},
    {"(?<=[0-9])\\s?h\\s?([0-9]{1,2})\\s?m(?:in)?" AFTER DOT, hours_minutes, NULL},
    {BEFORE AMOUNT "\\s?" UNIT_PATTERN AFTER DOT, measure, NULL},
    {"(?<![0-9.])([0-9]+)(?:\\.[0-9]+){2,}" AFTER, version, NULL},
    {BEFORE "([0-9]+):(?=[0-9]" AFTER ")", range, NULL}, /* 3:2, 16:9 (+) */
    {BEFORE AMOUNT "\\s?[-~]\\s?(?=[0-9]+(?:\\.[0-9]+)?" AFTER "(?!-))", range, NULL},
    {"(?<![0-9])([0-9]*)\\.([0-9]+)", decimal, NULL},
    {"(?:\\b([0-9]+) )?([0-9]+)/([0-9]+)", fraction, NULL},
    {"\\b([0-9]+)(?:st|nd|rd|th)\\b", ordinal, NULL},
    {"(?<=[A-Za-z])[0-9]{5,}", code_digits, NULL},
    {"[0-9]+", integer, NULL},
    {"%", NULL, " percent"},
    {"(?<=[A-Za-z])\\+\\+", NULL, " plus plus"},
    {"&", NULL, " and "},
    {"@", NULL, " at "},
    {"(?<=[A-Za-z])\\+(?=[A-Za-z])", NULL, " plus "},
    {"(?<![A-Za-z.])(?:[A-Za-z]\\.){2,}(?![A-Za-z])", spelled, NULL},
    {"[^ A-Za-z'.,?!\\-]+", NULL, " "},
    {"(?<=[A-Za-z])[A-Z]", set_apart, NULL},
    {"\\s*([.,?!\\-])(?:\\s*[.,?!])+", mica_rule_first_group, NULL},
    {" +(?=[.,?!])", NULL, ""},
    {" {2,}", NULL, " "},
    {"^ | $", NULL, ""},
};

const mica_rule *mica_english_rules(size_t *count)
{
    *count = MICA_ARRAY_LEN(rules);
    return rules;
}

/* Numbers of one character (½, Ⅲ, ₂, ①) are taken apart into what they look like; ² and the like have rules. */
static int decomposition_of(uint32_t cp)
{
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    const bool number = c == UTF8PROC_CATEGORY_NO || c == UTF8PROC_CATEGORY_NL;
    const bool raised = cp == 0xb2 || cp == 0xb3 || cp == 0xb9 || (cp >= 0x2070 && cp <= 0x2079);
    return number && !raised ? UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT : UTF8PROC_DECOMPOSE;
}

/* Letters without their accents; small letters when the text has no other. */
static void add_plain(mica_text *out, const char *text, size_t size)
{
    bool small = false, words = false;
    for (size_t i = 0; i < size; i++) {
        small |= text[i] >= 'a' && text[i] <= 'z';
        words |= i > 0 && text[i] == ' ' && text[i - 1] >= 'A' && text[i - 1] <= 'Z';
    }
    for (size_t at = 0; at < size;) {
        uint32_t cp;
        utf8proc_int32_t parts[16];
        int last = 0;
        at += mica_utf8_decode(text + at, size - at, &cp);
        utf8proc_ssize_t n =
            utf8proc_decompose_char((utf8proc_int32_t)cp, parts, 16, decomposition_of(cp), &last);
        for (utf8proc_ssize_t i = 0; i < n && n <= 16; i++) {
            char bytes[4];
            if (utf8proc_category(parts[i]) == UTF8PROC_CATEGORY_MN)
                continue;
            if (parts[i] == 0x2044) /* the stroke of ½ */
                parts[i] = '/';
            if (!small && words && parts[i] >= 'A' && parts[i] <= 'Z')
                parts[i] += 32;
            mica_text_add_bytes(out, bytes, mica_utf8_encode((uint32_t)parts[i], bytes));
        }
    }
}

mica_status mica_english_normalize(const mica_english *e, const char *text, size_t size,
                                   mica_text *out, mica_err *err)
{
    mica_text plain = {0};
    add_plain(&plain, text, size);
    mica_status status = plain.failed ? MICA_FAIL(err, MICA_E_NOMEM, "no memory for the text")
                                      : mica_rules_run(e->rules, &plain, err);
    if (status == MICA_OK && plain.size > 0)
        mica_text_add_bytes(out, plain.data, plain.size);
    mica_text_deinit(&plain);
    return status == MICA_OK && out->failed ? MICA_FAIL(err, MICA_E_NOMEM, "no memory for the text")
                                            : status;
}
