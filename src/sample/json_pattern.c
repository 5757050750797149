/* json_pattern.c - regular expressions over texts in JSON; see json_pattern.h.
 *
 *     ^[a-z]+"\d?$   ─►   "\"" ([a-z]+ "\\\"" [0-9]?) "\""
 *
 * A set of characters loses the quote, the backslash and control characters, which stand in JSON by escapes, and gets
 * these as alternatives. */
#include "sample/json_pattern.h"

#include "base/utf8.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define MOST_RANGES 128
#define MOST_DEPTH  32
#define LAST_CHAR   0x10FFFFu

typedef struct range {
    uint32_t lo, hi;
} range;

typedef struct range_set {
    range list[MOST_RANGES];
    size_t count;
} range_set;

typedef struct reader {
    const char *pattern, *at, *end;
    int depth;
    mica_text *out;
    mica_err *err;
} reader;

static mica_status refuse(const reader *r, const char *what)
{
    return MICA_FAIL(r->err, MICA_E_UNSUPPORTED,
                     "json schema: pattern \"%.64s\": %s (character %zu)", r->pattern, what,
                     (size_t)(r->at - r->pattern) + 1);
}

/* ---------------------------------------------------------------------- sets -- */

static mica_status add(const reader *r, range_set *s, uint32_t lo, uint32_t hi)
{
    if (s->count == MOST_RANGES)
        return refuse(r, "a class of too many ranges");
    s->list[s->count++] = (range){lo, hi};
    return MICA_OK;
}

static int compare(const void *a, const void *b)
{
    const range *x = a, *y = b;
    return (x->lo > y->lo) - (x->lo < y->lo);
}

/* In order and apart from each other. */
static void join(range_set *s)
{
    size_t n = 0;
    qsort(s->list, s->count, sizeof *s->list, compare);
    for (size_t i = 0; i < s->count; i++)
        if (n > 0 && s->list[i].lo <= s->list[n - 1].hi + 1)
            s->list[n - 1].hi = MICA_MAX(s->list[n - 1].hi, s->list[i].hi);
        else
            s->list[n++] = s->list[i];
    s->count = n;
}

static mica_status complement(const reader *r, range_set *s)
{
    range_set others = {.count = 0};
    uint32_t next = 0;
    join(s);
    for (size_t i = 0; i < s->count; i++) {
        if (s->list[i].lo > next)
            MICA_TRY(add(r, &others, next, s->list[i].lo - 1));
        next = s->list[i].hi + 1;
    }
    if (next <= LAST_CHAR)
        MICA_TRY(add(r, &others, next, LAST_CHAR));
    *s = others;
    return MICA_OK;
}

static bool holds(const range_set *s, uint32_t c)
{
    for (size_t i = 0; i < s->count; i++)
        if (c >= s->list[i].lo && c <= s->list[i].hi)
            return true;
    return false;
}

/* What stands in a JSON text as it is. */
static void add_plain(mica_text *out, const range_set *s, bool *any)
{
    static const range PLAIN[] = {{' ', '!'}, {'#', '['}, {']', '~'}, {0x80, LAST_CHAR}};
    mica_text ranges = {0};
    for (size_t i = 0; i < s->count; i++)
        for (size_t k = 0; k < MICA_ARRAY_LEN(PLAIN); k++) {
            const uint32_t lo = MICA_MAX(s->list[i].lo, PLAIN[k].lo);
            const uint32_t hi = MICA_MIN(s->list[i].hi, PLAIN[k].hi);
            if (lo <= hi && !(lo >= 0xd800 && hi <= 0xdfff)) /* surrogates are no characters */
                mica_text_add(&ranges, "\\U%08x-\\U%08x", (unsigned)lo, (unsigned)hi);
        }
    if (ranges.size) {
        mica_text_add(out, "[%s]", ranges.data);
        *any = true;
    }
    out->failed |= ranges.failed;
    mica_text_deinit(&ranges);
}

static mica_status write_set(reader *r, range_set *s)
{
    static const struct {
        char c;
        const char *spelled;
    } ESCAPES[] = {{'"', "\"\\\\\\\"\""}, {'\\', "\"\\\\\\\\\""}, {'\b', "\"\\\\b\""},
                   {'\t', "\"\\\\t\""},   {'\n', "\"\\\\n\""},    {'\f', "\"\\\\f\""},
                   {'\r', "\"\\\\r\""}};
    bool any = false, escaped = false;
    join(s);
    for (size_t i = 0; i < MICA_ARRAY_LEN(ESCAPES); i++)
        escaped |= holds(s, (uint32_t)ESCAPES[i].c);
    mica_text_add(r->out, escaped ? "(" : "");
    add_plain(r->out, s, &any);
    for (size_t i = 0; i < MICA_ARRAY_LEN(ESCAPES); i++)
        if (holds(s, (uint32_t)ESCAPES[i].c)) {
            mica_text_add(r->out, "%s%s", any ? " | " : "", ESCAPES[i].spelled);
            any = true;
        }
    mica_text_add(r->out, escaped ? ")" : "");
    return any || r->out->failed ? MICA_OK : refuse(r, "nothing fits here that can be written");
}

/* ------------------------------------------------------------------- escapes -- */

static const range DIGITS[] = {{'0', '9'}};
static const range WORDS[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
static const range SPACES[] = {
    {0x09, 0x0d},     {' ', ' '},       {0xa0, 0xa0},     {0x1680, 0x1680}, {0x2000, 0x200a},
    {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff}};
static const range LINE_ENDS[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

static mica_status add_all(const reader *r, range_set *s, const range *list, size_t count,
                           bool others)
{
    range_set set = {.count = 0};
    for (size_t i = 0; i < count; i++)
        MICA_TRY(add(r, &set, list[i].lo, list[i].hi));
    if (others)
        MICA_TRY(complement(r, &set));
    for (size_t i = 0; i < set.count; i++)
        MICA_TRY(add(r, s, set.list[i].lo, set.list[i].hi));
    return MICA_OK;
}

static mica_status read_hex(reader *r, int count, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < count; i++, r->at++) {
        const unsigned char c = r->at < r->end ? (unsigned char)*r->at : 0;
        if (!isxdigit(c))
            return refuse(r, "an escape lacks digits");
        *out = *out * 16 + (uint32_t)(isdigit(c) ? c - '0' : tolower(c) - 'a' + 10);
    }
    return MICA_OK;
}

/* Behind a backslash: a set (*single false), or one character that could begin a range. */
static mica_status read_escape(reader *r, range_set *s, bool *single, uint32_t *c)
{
    static const char NAMES[] = "tnrfv", CHARS[] = "\t\n\r\f\v";
    const char e = r->at < r->end ? *r->at : 0;
    const char *name = e ? strchr(NAMES, e) : NULL;
    const char low = (char)tolower((unsigned char)e);
    *single = false;
    r->at += e != 0;
    if (low == 'd')
        return add_all(r, s, DIGITS, MICA_ARRAY_LEN(DIGITS), e != low);
    if (low == 'w')
        return add_all(r, s, WORDS, MICA_ARRAY_LEN(WORDS), e != low);
    if (low == 's')
        return add_all(r, s, SPACES, MICA_ARRAY_LEN(SPACES), e != low);
    *single = true;
    if (e == 'x' || e == 'u')
        return read_hex(r, e == 'x' ? 2 : 4, c);
    if (!e || (!name && isalnum((unsigned char)e)) || (unsigned char)e >= 0x80)
        return refuse(r, "this escape is not supported");
    *c = name ? (uint32_t)CHARS[name - NAMES] : (uint32_t)(unsigned char)e;
    return MICA_OK;
}

static mica_status read_member(reader *r, range_set *s, bool *single, uint32_t *c)
{
    *single = true;
    if (r->at >= r->end)
        return refuse(r, "a class does not end");
    if (*r->at == '\\') {
        r->at++;
        return read_escape(r, s, single, c);
    }
    r->at += mica_utf8_decode(r->at, (size_t)(r->end - r->at), c);
    return MICA_OK;
}

/* Behind the bracket. */
static mica_status read_class(reader *r, range_set *s)
{
    const bool others = r->at < r->end && *r->at == '^';
    r->at += others;
    while (r->at < r->end && *r->at != ']') {
        bool single, end_single;
        uint32_t lo = 0, hi;
        MICA_TRY(read_member(r, s, &single, &lo));
        if (!single)
            continue;
        hi = lo;
        if (r->at + 1 < r->end && *r->at == '-' && r->at[1] != ']') {
            r->at++;
            MICA_TRY(read_member(r, s, &end_single, &hi));
            if (!end_single || hi < lo)
                return refuse(r, "a range that does not end above its beginning");
        }
        MICA_TRY(add(r, s, lo, hi));
    }
    if (r->at >= r->end)
        return refuse(r, "a class does not end");
    r->at++;
    return others ? complement(r, s) : MICA_OK;
}

/* --------------------------------------------------------------- expressions -- */

static mica_status alternatives(reader *r);

static mica_status group(reader *r)
{
    if (r->at < r->end && *r->at == '?') {
        if (r->at + 1 >= r->end || r->at[1] != ':')
            return refuse(r, "groups that begin with ? are not supported, but (?:");
        r->at += 2;
    }
    if (++r->depth > MOST_DEPTH)
        return refuse(r, "too many groups in each other");
    MICA_TRY(alternatives(r));
    r->depth--;
    if (r->at >= r->end)
        return refuse(r, "a group does not end");
    r->at++;
    return MICA_OK;
}

static mica_status atom(reader *r)
{
    range_set s = {.count = 0};
    uint32_t c = 0;
    bool single = true;
    switch (*r->at) {
    case '(':
        r->at++;
        return group(r);
    case '[':
        r->at++;
        MICA_TRY(read_class(r, &s));
        return write_set(r, &s);
    case '.':
        r->at++;
        MICA_TRY(add_all(r, &s, LINE_ENDS, MICA_ARRAY_LEN(LINE_ENDS), true));
        return write_set(r, &s);
    case '\\':
        r->at++;
        MICA_TRY(read_escape(r, &s, &single, &c));
        break;
    case '^':
    case '$':
        return refuse(r, "^ and $ may stand at the ends alone; write ^(...)$");
    case '*':
    case '+':
    case '?':
    case '{':
        return refuse(r, "there is nothing to repeat");
    default:
        r->at += mica_utf8_decode(r->at, (size_t)(r->end - r->at), &c);
    }
    if (single)
        MICA_TRY(add(r, &s, c, c));
    return write_set(r, &s);
}

static mica_status quantifier(reader *r)
{
    const char *start = r->at;
    if (r->at < r->end && strchr("*+?", *r->at)) {
        r->at++;
    } else if (r->at < r->end && *r->at == '{') {
        r->at++;
        const size_t lo = strspn(r->at, "0123456789");
        const bool comma = r->at[lo] == ',';
        const size_t hi = comma ? strspn(r->at + lo + 1, "0123456789") : 0;
        if (lo == 0 || r->at[lo + comma + hi] != '}')
            return refuse(r, "a repetition is {m}, {m,} or {m,n}");
        r->at += lo + comma + hi + 1;
    }
    if (r->at > start && r->at < r->end && strchr("?+", *r->at))
        return refuse(r, "lazy repetitions are not supported");
    mica_text_add_bytes(r->out, start, (size_t)(r->at - start));
    return MICA_OK;
}

/* Up to the end or the bracket that closes. */
static mica_status alternatives(reader *r)
{
    bool empty = true;
    mica_text_add(r->out, "(");
    for (; r->at < r->end && *r->at != ')'; empty = false) {
        if (*r->at == '|') {
            if (r->depth == 0) /* ^a|b$ is (^a)|(b$), which fits nearly everything */
                return refuse(r, "^ and $ bind closer than |; write ^(...|...)$");
            mica_text_add(r->out, empty ? "\"\" | " : " | ");
            r->at++;
            if (r->at >= r->end || *r->at == ')' || *r->at == '|')
                mica_text_add(r->out, "\"\"");
            continue;
        }
        MICA_TRY(atom(r));
        MICA_TRY(quantifier(r));
        mica_text_add(r->out, " ");
    }
    mica_text_add(r->out, empty ? "\"\")" : ")");
    return MICA_OK;
}

mica_status mica_json_pattern(const char *pattern, mica_text *out, mica_err *err)
{
    const size_t n = strlen(pattern);
    reader r = {.pattern = pattern, .at = pattern, .end = pattern + n, .out = out, .err = err};
    size_t slashes = 0;
    while (n > slashes + 2 && pattern[n - 2 - slashes] == '\\')
        slashes++;
    if (n < 2 || pattern[0] != '^' || pattern[n - 1] != '$' || slashes % 2)
        return refuse(&r, "it must begin with ^ and end with $");
    r.at++;
    r.end--;
    mica_text_add(out, "\"\\\"\" ");
    MICA_TRY(alternatives(&r));
    if (r.at < r.end)
        return refuse(&r, "a bracket closes that did not open");
    mica_text_add(out, " \"\\\"\"");
    return MICA_OK;
}

#define DATE                                                                                       \
    "[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-"    \
    "(0[1-9]|1[0-9]|2[0-8]))"
#define TIME                                                                                       \
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]" \
    ")"
#define BYTE "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

const char *mica_json_format(const char *name)
{
    static const char *const FORMATS[][2] = {
        {"date", "^" DATE "$"},
        {"time", "^" TIME "$"},
        {"date-time", "^" DATE "T" TIME "$"},
        {"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
        {"ipv4", "^" BYTE "(\\." BYTE "){3}$"}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(FORMATS); i++)
        if (strcmp(name, FORMATS[i][0]) == 0)
            return FORMATS[i][1];
    return NULL;
}
