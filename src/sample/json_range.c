/* json_range.c - numbers between bounds as an expression of a grammar; see json_pattern.h.
 *
 *     7 .. 1234   ─►   [7-9] | [1-9] [0-9] | [1-9] [0-9]{2} | "1" ([0-1] [0-9]{2} | "2" ([0-2] [0-9] | "3" [0-4]))
 *
 * Numbers of one length are compared digit by digit: what begins as both bounds do goes on between what is left of
 * them, what begins between them goes on with any digits. */
#include "sample/json_pattern.h"

#include <stdio.h>
#include <string.h>

#define MOST_DIGITS 16

static void digits(mica_text *out, char lo, char hi, size_t any)
{
    mica_text_add(out, "[%c-%c]", lo, hi);
    if (any > 0)
        mica_text_add(out, " [0-9]{%zu}", any);
}

static bool is_all(const char *text, char digit)
{
    return text[strspn(text, (const char[]){digit, 0})] == 0;
}

/* Texts of as many digits as lo and hi have, from one to the other. */
static void between(mica_text *out, const char *lo, const char *hi)
{
    const size_t rest = strlen(lo) - 1;
    const bool from = !is_all(lo + 1, '0'), to = !is_all(hi + 1, '9');
    if (rest == 0 || (!from && !to)) {
        digits(out, lo[0], hi[0], rest);
        return;
    }
    if (lo[0] == hi[0]) {
        mica_text_add(out, "\"%c\" (", lo[0]);
        between(out, lo + 1, hi + 1);
        mica_text_add(out, ")");
        return;
    }
    char zeros[MOST_DIGITS + 1] = "", nines[MOST_DIGITS + 1] = "";
    memset(zeros, '0', rest);
    memset(nines, '9', rest);
    const char first = (char)(lo[0] + from), last = (char)(hi[0] - to);
    if (from) {
        mica_text_add(out, "\"%c\" (", lo[0]);
        between(out, lo + 1, nines);
        mica_text_add(out, ")");
    }
    if (first <= last) {
        mica_text_add(out, from ? " | " : "");
        digits(out, first, last, rest);
    }
    if (to) {
        mica_text_add(out, from || first <= last ? " | \"%c\" (" : "\"%c\" (", hi[0]);
        between(out, zeros, hi + 1);
        mica_text_add(out, ")");
    }
}

/* 0 <= lo <= hi. */
static void not_negative(mica_text *out, int64_t lo, int64_t hi)
{
    int64_t least = 0, most = 9;
    bool any = false;
    mica_text_add(out, "(");
    for (int n = 1; n <= MOST_DIGITS; n++, least = most + 1, most = most * 10 + 9) {
        const int64_t from = lo > least ? lo : least, to = hi < most ? hi : most;
        char a[24], b[24];
        if (from > to)
            continue;
        snprintf(a, sizeof a, "%lld", (long long)from);
        snprintf(b, sizeof b, "%lld", (long long)to);
        mica_text_add(out, any ? " | " : "");
        between(out, a, b);
        any = true;
    }
    mica_text_add(out, ")");
}

/* The same with digits behind the point, of which those of hi itself are zeros. */
static void magnitudes(mica_text *out, int64_t lo, int64_t hi, bool fraction)
{
    if (!fraction) {
        not_negative(out, lo, hi);
        return;
    }
    mica_text_add(out, "(");
    if (lo < hi) {
        not_negative(out, lo, hi - 1);
        mica_text_add(out, " (\".\" [0-9]{1,16})? | ");
    }
    mica_text_add(out, "\"%lld\" (\".\" \"0\"{1,16})?)", (long long)hi);
}

void mica_json_range(int64_t lo, int64_t hi, bool fraction, mica_text *out)
{
    mica_text_add(out, "(");
    if (hi >= 0)
        magnitudes(out, lo > 0 ? lo : 0, hi, fraction);
    if (lo < 0) {
        mica_text_add(out, hi >= 0 ? " | \"-\" " : "\"-\" ");
        magnitudes(out, hi < 0 ? -hi : !fraction, -lo, fraction);
    }
    mica_text_add(out, ")");
}
