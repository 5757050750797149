/* english_numbers.c - cardinals, ordinals, years, digits. */
#include "speech/english_numbers.h"

#include <stdint.h>
#include <string.h>

#define MOST_DIGITS 15

static const char *const below_twenty[] = {
    "zero",     "one",     "two",     "three",     "four",     "five",    "six",
    "seven",    "eight",   "nine",    "ten",       "eleven",   "twelve",  "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
static const char *const tens[] = {"",      "",      "twenty",  "thirty", "forty",
                                   "fifty", "sixty", "seventy", "eighty", "ninety"};

static void word(mica_text *out, const char *w)
{
    const char last = out->size > 0 ? out->data[out->size - 1] : ' ';
    const bool blank = last != ' ' && last != '-';
    mica_text_add(out, "%s%s", blank ? " " : "", w);
}

static void below_hundred(mica_text *out, unsigned n)
{
    if (n < 20) {
        word(out, below_twenty[n]);
        return;
    }
    word(out, tens[n / 10]);
    if (n % 10 != 0)
        word(out, below_twenty[n % 10]);
}

static void below_thousand(mica_text *out, unsigned n)
{
    if (n >= 100) {
        word(out, below_twenty[n / 100]);
        word(out, "hundred");
        n %= 100;
        if (n == 0)
            return;
    }
    below_hundred(out, n);
}

static bool value_of(const char *digits, size_t size, uint64_t *value)
{
    while (size > 1 && *digits == '0') {
        digits++;
        size--;
    }
    *value = 0;
    if (size == 0 || size > MOST_DIGITS)
        return false;
    for (size_t i = 0; i < size; i++)
        *value = *value * 10 + (uint64_t)(digits[i] - '0');
    return true;
}

static void cardinal_value(mica_text *out, uint64_t n)
{
    static const struct {
        uint64_t unit;
        const char *name;
    } units[] = {{1000000000000u, "trillion"},
                 {1000000000u, "billion"},
                 {1000000u, "million"},
                 {1000u, "thousand"}};
    if (n == 0) {
        word(out, "zero");
        return;
    }
    for (size_t i = 0; i < MICA_ARRAY_LEN(units); i++)
        if (n >= units[i].unit) {
            below_thousand(out, (unsigned)(n / units[i].unit));
            word(out, units[i].name);
            n %= units[i].unit;
        }
    if (n > 0)
        below_thousand(out, (unsigned)n);
}

void mica_english_digits(mica_text *out, const char *digits, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (digits[i] >= '0' && digits[i] <= '9')
            word(out, below_twenty[digits[i] - '0']);
}

void mica_english_cardinal(mica_text *out, const char *digits, size_t size)
{
    uint64_t n;
    if (value_of(digits, size, &n))
        cardinal_value(out, n);
    else
        mica_english_digits(out, digits, size);
}

/* The last word of `out` becomes another, or gets an ending. */
static void replace_last(mica_text *out, size_t cut, const char *ending)
{
    if (out->failed || cut > out->size)
        return;
    out->size -= cut;
    out->data[out->size] = '\0';
    mica_text_add_bytes(out, ending, strlen(ending));
}

static bool ends_with(const mica_text *out, const char *end)
{
    const size_t n = strlen(end);
    return out->size >= n && memcmp(out->data + out->size - n, end, n) == 0;
}

void mica_english_ordinal(mica_text *out, const char *digits, size_t size)
{
    static const char *const odd[][2] = {
        {"one", "first"},    {"two", "second"}, {"three", "third"},   {"five", "fifth"},
        {"eight", "eighth"}, {"nine", "ninth"}, {"twelve", "twelfth"}};
    mica_english_cardinal(out, digits, size);
    for (size_t i = 0; i < MICA_ARRAY_LEN(odd); i++)
        if (ends_with(out, odd[i][0])) {
            replace_last(out, strlen(odd[i][0]), odd[i][1]);
            return;
        }
    if (ends_with(out, "y"))
        replace_last(out, 1, "ieth");
    else
        replace_last(out, 0, "th");
}

void mica_english_plural(mica_text *out)
{
    if (ends_with(out, "y"))
        replace_last(out, 1, "ies");
    else
        replace_last(out, 0, ends_with(out, "x") ? "es" : "s");
}

void mica_english_year(mica_text *out, const char *digits, size_t size)
{
    uint64_t n;
    if (size != 4 || !value_of(digits, size, &n) || n <= 1000 || n >= 3000 ||
        (n >= 2000 && n < 2010)) {
        mica_english_cardinal(out, digits, size);
        return;
    }
    below_hundred(out, (unsigned)(n / 100));
    if (n % 100 == 0) {
        word(out, "hundred");
        return;
    }
    if (n % 100 < 10)
        word(out, "oh");
    below_hundred(out, (unsigned)(n % 100));
}
