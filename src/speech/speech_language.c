/* speech_language.c - which stretches of a text are Chinese and which English.
 *
 *     我 用 Python 3 写 了 5kg ， ok !
 *     zh zh en     ─en─ zh zh ─zh─    en        numbers by their neighbours, the rest by script
 *
 * A number touching the letters before it is English (T60, GPT-4). One with a unit sign behind it is
 * Chinese in a Chinese neighbourhood (5kg). Else it goes with both neighbours when they agree,
 * across punctuation with the nearer one, or with the longer. Signs and blanks stay with what
 * is before them. */
#include "speech/speech_cut.h"

#include "base/utf8.h"

#include <string.h>
#include <utf8proc.h>

typedef enum item_kind { NEUTRAL, HAN, LATIN, NUMBER } item_kind;

typedef struct item {
    item_kind kind;
    size_t begin, end;
} item;

typedef struct splitter {
    const char *text;
    size_t size;
    item *items;
    size_t count;
} splitter;

static const char *script_of(uint32_t cp)
{
    static const struct {
        uint32_t first, last;
        const char *name;
    } scripts[] = {
        {0x3041, 0x30ff, "Japanese"}, {0x31f0, 0x31ff, "Japanese"}, {0xff66, 0xff9d, "Japanese"},
        {0x1100, 0x11ff, "Korean"},   {0x3131, 0x318e, "Korean"},   {0xac00, 0xd7af, "Korean"},
        {0x0400, 0x052f, "Cyrillic"}, {0x0590, 0x05ff, "Hebrew"},   {0x0600, 0x06ff, "Arabic"},
        {0x0900, 0x0dff, "Indic"},    {0x0e00, 0x0eff, "Thai"},     {0x3105, 0x312f, "Bopomofo"}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(scripts); i++)
        if (cp >= scripts[i].first && cp <= scripts[i].last && cp != 0x30fb)
            return scripts[i].name;
    return NULL;
}

static bool is_han(uint32_t cp)
{
    return (cp >= 0x4e00 && cp <= 0x9fff) || (cp >= 0x3400 && cp <= 0x4dbf) || cp == 0x3007 ||
           (cp >= 0x20000 && cp <= 0x323af) || (cp >= 0x370 && cp <= 0x3ff); /* Greek is read out */
}

static bool is_digit(uint32_t cp)
{
    return (cp >= '0' && cp <= '9') || (cp >= 0xff10 && cp <= 0xff19);
}

static bool is_latin(uint32_t cp)
{
    if (cp < 128)
        return (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z');
    if ((cp >= 0xff21 && cp <= 0xff3a) || (cp >= 0xff41 && cp <= 0xff5a))
        return true;
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)cp);
    return ((cp >= 0xc0 && cp < 0x250) || (cp >= 0x1e00 && cp < 0x1f00)) && cp != 0xd7 &&
           cp != 0xf7 && category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

static uint32_t char_at(const splitter *s, size_t at, size_t *next)
{
    uint32_t cp = 0;
    *next = at < s->size ? at + mica_utf8_decode(s->text + at, s->size - at, &cp) : at + 1;
    return cp;
}

static bool digit_at(const splitter *s, size_t at)
{
    size_t next;
    return at < s->size && is_digit(char_at(s, at, &next));
}

/* The unit sign behind a number: its bytes, 0: none. Letters may not go on behind it. */
static size_t unit_size(const splitter *s, size_t at)
{
    static const char *const units[] = {
        "L/100km", "km/h", "m/s", "GHz", "MHz", "kHz", "Hz",  "kWh", "kW",  "mAh", "Mbps",
        "am",      "pm",   "AM",  "PM",  "V",   "W",   "cm2", "cm²", "cm3", "cm³", "km2",
        "km²",     "m2",   "m²",  "m3",  "m³",  "cm",  "mm",  "km",  "kg",  "mg",  "ml",
        "db",      "dB",   "ds",  "ms",  "°C",  "m",   "g",   "L",   "s",   "h"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(units); i++) {
        const size_t n = strlen(units[i]);
        size_t next;
        if (at + n <= s->size && memcmp(s->text + at, units[i], n) == 0 &&
            !is_latin(char_at(s, at + n, &next)) && !digit_at(s, at + n))
            return n;
    }
    return 0;
}

/* From the first digit to the last, with what stands between digits. */
static size_t number_end(const splitter *s, size_t at)
{
    size_t next = at;
    for (;;) {
        while (digit_at(s, at)) {
            (void)char_at(s, at, &next);
            at = next;
        }
        const uint32_t cp = char_at(s, at, &next);
        if (at >= s->size || cp == 0 || strchr(".,:/~-", (int)(cp < 128 ? cp : 1)) == NULL ||
            !digit_at(s, next))
            break;
        at = next;
    }
    const uint32_t cp = char_at(s, at, &next);
    if (at < s->size && (cp == '%' || cp == 0xff05 || cp == 0x2030 || cp == 0x2103 || cp == 0xb0))
        at = next;
    if (cp == 0xb0 && at < s->size && (s->text[at] == 'C' || s->text[at] == 'F'))
        at++; /* °C */
    return at;
}

static bool is_prefix(const splitter *s, size_t at, uint32_t cp, size_t next)
{
    if (!digit_at(s, next))
        return false;
    if (cp == '$' || cp == 0xa3 || cp == 0x20ac || cp == 0xa5)
        return true;
    return (cp == '-' || cp == '+') &&
           (at == 0 || s->text[at - 1] == ' ' || (s->text[at - 1] & 0x80));
}

static void add_item(splitter *s, item_kind kind, size_t begin, size_t end)
{
    item *last = s->count > 0 ? &s->items[s->count - 1] : NULL;
    if (last != NULL && last->kind == kind && kind != NUMBER)
        last->end = end;
    else
        s->items[s->count++] = (item){kind, begin, end};
}

static mica_status find_items(splitter *s, mica_err *err)
{
    for (size_t at = 0, next; at < s->size; at = next) {
        const uint32_t cp = char_at(s, at, &next);
        const char *script = script_of(cp);
        if (script != NULL)
            return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                             "the text has %s letters (%.*s); only Chinese and English are spoken",
                             script, (int)(next - at), s->text + at);
        if (is_digit(cp) || is_prefix(s, at, cp, next)) {
            const size_t begin = at;
            next = number_end(s, is_digit(cp) ? at : next);
            add_item(s, NUMBER, begin, next);
        } else
            add_item(s, is_han(cp) ? HAN : is_latin(cp) ? LATIN : NEUTRAL, at, next);
    }
    return MICA_OK;
}

static bool touches(const splitter *s, size_t i, size_t j, item_kind kind)
{
    return j < s->count && s->items[j].kind == kind &&
           (s->items[i].end == s->items[j].begin || s->items[j].end == s->items[i].begin);
}

/* The nearest Chinese or English item before (step -1) or behind; its index or count. */
static size_t neighbour(const splitter *s, size_t i, int step)
{
    for (size_t j = i + (size_t)step; j < s->count;
         j += (size_t)step) /* wraps below 0 to a huge number */
        if (s->items[j].kind == HAN || s->items[j].kind == LATIN)
            return j;
    return s->count;
}

static bool is_break(const splitter *s, size_t i)
{
    size_t next;
    if (i >= s->count || s->items[i].kind != NEUTRAL)
        return false;
    const uint32_t cp = char_at(s, s->items[i].begin, &next);
    return cp == ',' || cp == '.' || cp == '!' || cp == '?' || cp == 0xff0c || cp == 0x3002 ||
           cp == 0xff01 || cp == 0xff1f;
}

static mica_speech_language of_kind(item_kind k)
{
    return k == LATIN ? MICA_SPEECH_EN : MICA_SPEECH_ZH;
}

/* T60, GPT-4 */
static bool follows_letters(const splitter *s, size_t i)
{
    if (i > 0 && touches(s, i, i - 1, LATIN))
        return true;
    return i > 1 && s->items[i - 1].end - s->items[i - 1].begin == 1 &&
           s->text[s->items[i - 1].begin] == '-' && touches(s, i - 1, i - 2, LATIN);
}

static bool has_han(const splitter *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->items[i].kind == HAN)
            return true;
    return false;
}

static mica_speech_language number_language(const splitter *s, size_t i, bool prefer_zh)
{
    const size_t before = neighbour(s, i, -1), behind = neighbour(s, i, 1);
    if (follows_letters(s, i))
        return MICA_SPEECH_EN;
    if (before >= s->count && touches(s, i, i + 1, LATIN) && has_han(s))
        return MICA_SPEECH_ZH; /* 5G at the beginning: the letters are English, the number is not */
    if (before >= s->count && behind >= s->count)
        return MICA_SPEECH_ZH;
    if (before >= s->count || behind >= s->count)
        return of_kind(s->items[before >= s->count ? behind : before].kind);
    if (s->items[before].kind == s->items[behind].kind)
        return of_kind(s->items[before].kind);
    if (prefer_zh || touches(s, i, i + 1, LATIN))
        return MICA_SPEECH_ZH;
    if (is_break(s, i - 1))
        return of_kind(s->items[behind].kind);
    if (is_break(s, i + 1))
        return of_kind(s->items[before].kind);
    const item *a = &s->items[before], *b = &s->items[behind];
    return of_kind(a->end - a->begin >= b->end - b->begin ? a->kind : b->kind);
}

static void add_run(mica_language_run *runs, size_t *count, mica_speech_language language,
                    size_t end)
{
    const size_t begin = *count > 0 ? runs[*count - 1].begin + runs[*count - 1].size : 0;
    if (end <= begin)
        return;
    if (*count > 0 && runs[*count - 1].language == language)
        runs[*count - 1].size += end - begin;
    else
        runs[(*count)++] = (mica_language_run){language, begin, end - begin};
}

/* A unit sign behind a Chinese number belongs to it. */
static size_t take_unit(const splitter *s, size_t i, mica_speech_language language)
{
    const size_t n = language == MICA_SPEECH_ZH ? unit_size(s, s->items[i].end) : 0;
    return s->items[i].end + n;
}

static void fill_runs(const splitter *s, bool prefer_zh, mica_language_run *runs, size_t *count)
{
    for (size_t i = 0; i < s->count; i++) {
        const item *it = &s->items[i];
        if (it->kind == NEUTRAL) {
            if (*count > 0)
                add_run(runs, count, runs[*count - 1].language, it->end);
        } else if (it->kind == NUMBER) {
            const mica_speech_language language = number_language(s, i, prefer_zh);
            add_run(runs, count, language, take_unit(s, i, language));
        } else
            add_run(runs, count, of_kind(it->kind), it->end);
    }
    if (*count == 0 && s->size > 0)
        add_run(runs, count, MICA_SPEECH_ZH, s->size);
}

/* English was asked for: nothing else may be there. */
static mica_status check_english(const splitter *s, mica_err *err)
{
    for (size_t i = 0; i < s->count; i++) {
        size_t next;
        const size_t at = s->items[i].begin;
        if (s->items[i].kind != HAN)
            continue;
        (void)char_at(s, at, &next);
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "the language is en, but the text has \"%.*s\"; take auto or zh",
                         (int)(next - at), s->text + at);
    }
    return MICA_OK;
}

mica_status mica_speech_find_languages(const char *text, size_t size, mica_speech_language language,
                                       mica_arena *arena, mica_language_run **runs, size_t *count,
                                       mica_err *err)
{
    splitter s = {text, size, mica_arena_alloc(arena, (size + 1) * sizeof *s.items), 0};
    *runs = mica_arena_alloc(arena, (size + 1) * sizeof **runs);
    *count = 0;
    if (s.items == NULL || *runs == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a text of %zu bytes", size);
    MICA_TRY(find_items(&s, err));
    if (language != MICA_SPEECH_EN) {
        fill_runs(&s, language == MICA_SPEECH_ZH, *runs, count);
        return MICA_OK;
    }
    add_run(*runs, count, MICA_SPEECH_EN, size);
    return check_english(&s, err);
}
