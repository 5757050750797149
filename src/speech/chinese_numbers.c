/* chinese_numbers.c - the reading of numbers, four digits at a time.
 *
 *     1 0203 0000 -> 一亿 零二百零三万
 *
 * A gap of zeros inside is one 零, whatever its length; zeros at the end of a group are silent. */
#include "speech/chinese_numbers.h"

#include <string.h>

#define MOST_DIGITS 16

static const char *const digits_of[] = {"零", "一", "二", "三", "四", "五", "六", "七", "八", "九"};

void mica_chinese_digits(mica_text *out, mica_slice digits, bool yao)
{
    for (size_t i = 0; i < digits.size; i++)
        if (digits.text[i] >= '0' && digits.text[i] <= '9')
            mica_rule_put(out,
                          yao && digits.text[i] == '1' ? "幺" : digits_of[digits.text[i] - '0']);
}

/* Up to four digits; *gap: zeros came before a digit that is still to come. */
static bool put_group(mica_text *out, const char *digits, size_t size, bool first, bool *gap)
{
    static const char *const units[] = {"", "十", "百", "千"};
    bool any = false;
    for (size_t i = 0; i < size; i++) {
        const int d = digits[i] - '0';
        const size_t unit = size - 1 - i;
        if (d == 0) {
            *gap = true;
            continue;
        }
        if (*gap && (any || !first))
            mica_rule_put(out, "零");
        *gap = false;
        if (!(d == 1 && unit == 1 && first && !any)) /* 十二, not 一十二 */
            mica_rule_put(out, digits_of[d]);
        mica_rule_put(out, units[unit]);
        any = true;
    }
    return any;
}

void mica_chinese_cardinal(mica_text *out, mica_slice digits)
{
    static const char *const units[] = {"", "万", "亿", "万亿"};
    while (digits.size > 0 && digits.text[0] == '0') {
        digits.text++;
        digits.size--;
    }
    if (digits.size == 0 || digits.size > MOST_DIGITS) {
        if (digits.size == 0)
            mica_rule_put(out, "零");
        mica_chinese_digits(out, digits, false);
        return;
    }
    bool gap = false, first = true;
    for (size_t at = 0; at < digits.size;) {
        const size_t left = digits.size - at, group = (left - 1) / 4, n = left - 4 * group;
        if (put_group(out, digits.text + at, n, first, &gap)) {
            mica_rule_put(out, units[group]);
            first = false;
            gap = false;
        }
        at += n;
    }
}

void mica_chinese_number(mica_text *out, mica_slice number)
{
    const char *point = memchr(number.text, '.', number.size);
    const mica_slice whole = {number.text, point ? (size_t)(point - number.text) : number.size};
    mica_chinese_cardinal(out, whole);
    if (point == NULL)
        return;
    mica_slice part = {point + 1, number.size - whole.size - 1};
    while (part.size > 1 && part.text[part.size - 1] == '0' && part.text[part.size - 2] == '0')
        part.size--;
    if (part.size == 0)
        return;
    mica_rule_put(out, "点");
    mica_chinese_digits(out, part, false);
}
