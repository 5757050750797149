/* english_phones.c - a normalised text to phones, word by word (GPT-SoVITS text/english.py, in its order):
 *
 *     one letter        its name; "A" is EY1, "a" is AH0
 *     homograph         by the words around it (english_homographs.c)
 *     dictionary        without the six entries that are no words but abbreviations
 *     up to 3 letters   spelled
 *     ...'s             the word, then S, Z or AH0 Z by its last phone
 *     hyphens           each part
 *     compounds         the fewest known parts of four letters or more
 *     the rest          from its letters
 *
 * Punctuation is its own phone; an apostrophe that stands alone is "-". */
#include "speech/english.h"

#include <string.h>

#define MOST_WORDS 512 /* looked at around a homograph; texts are cut long before */
#define MOST_PARTS 3
#define LEAST_PART 4

typedef struct word {
    uint8_t phones[MICA_ENGLISH_MOST];
    size_t count;
} word;

static void add_codes(word *w, const uint8_t *codes, size_t count)
{
    const size_t n = MICA_MIN(count, MICA_ENGLISH_MOST - w->count);
    memcpy(w->phones + w->count, codes, n);
    w->count += n;
}

static void add_names(word *w, const char *names)
{
    for (const char *at = names; *at != '\0';) {
        const size_t size = strcspn(at, " ");
        const int code = mica_english_phone_find(at, size);
        const uint8_t byte = (uint8_t)code;
        if (code >= 0)
            add_codes(w, &byte, 1);
        at += size + (at[size] == ' ');
    }
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Abbreviations that the dictionary has as words. */
static bool is_spelled(const char *text, size_t size)
{
    static const char *const spelled[] = {"ae", "ai", "ar", "ios", "hud", "os"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(spelled); i++)
        if (strlen(spelled[i]) == size && memcmp(spelled[i], text, size) == 0)
            return true;
    return false;
}

/* A pronunciation of our own goes before the dictionary's. */
static bool add_special(word *w, const char *text, size_t size)
{
    static const char *const special[][2] = {{"chatgpt", "CH AE1 T JH IY1 P IY1 T IY1"},
                                             {"json", "JH EY1 S AH0 N"},
                                             {"conda", "K AA1 N D AH0"}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(special); i++)
        if (strlen(special[i][0]) == size && memcmp(special[i][0], text, size) == 0) {
            add_names(w, special[i][1]);
            return true;
        }
    return false;
}

static bool add_known(const mica_english *e, word *w, const char *text, size_t size)
{
    uint8_t codes[MICA_ENGLISH_MOST];
    if (size < 2 || is_spelled(text, size))
        return false;
    if (add_special(w, text, size))
        return true;
    const size_t count = mica_english_dict_find(&e->dict, text, size, codes);
    add_codes(w, codes, count);
    return count > 0;
}

static void add_letter(const mica_english *e, word *w, char letter)
{
    uint8_t codes[MICA_ENGLISH_MOST];
    if (letter == 'a')
        add_names(w, "EY1");
    else
        add_codes(w, codes, mica_english_dict_find(&e->dict, &letter, 1, codes));
}

static void add_word(const mica_english *e, word *w, const char *text, size_t size);

/* What 's is after a sound. */
static void add_possessive(word *w)
{
    static const char *const hissing[] = {"S", "Z", "SH", "ZH", "CH", "JH"};
    static const char *const voiceless[] = {"P", "T", "K", "F", "TH", "HH"};
    const char *last = w->count > 0 ? mica_english_phone_name(w->phones[w->count - 1]) : "";
    for (size_t i = 0; i < MICA_ARRAY_LEN(hissing); i++) {
        if (strcmp(last, voiceless[i]) == 0) {
            add_names(w, "S");
            return;
        }
        if (strcmp(last, hissing[i]) == 0) {
            add_names(w, "AH0 Z");
            return;
        }
    }
    add_names(w, "Z");
}

/* The fewest dictionary words of LEAST_PART letters or more that make up the text. */
static bool add_compound(const mica_english *e, word *w, const char *text, size_t size, int parts)
{
    uint8_t codes[MICA_ENGLISH_MOST];
    if (size < LEAST_PART)
        return false;
    const size_t count = mica_english_dict_find(&e->dict, text, size, codes);
    if (count > 0) {
        add_codes(w, codes, count);
        return true;
    }
    for (size_t cut = size - MICA_MIN(size, (size_t)LEAST_PART); parts > 1 && cut >= LEAST_PART;
         cut--) {
        const size_t first = mica_english_dict_find(&e->dict, text, cut, codes);
        const size_t before = w->count;
        if (first == 0)
            continue;
        add_codes(w, codes, first);
        if (add_compound(e, w, text + cut, size - cut, parts - 1))
            return true;
        w->count = before;
    }
    return false;
}

static bool add_in_parts(const mica_english *e, word *w, const char *text, size_t size)
{
    const size_t hyphen = strcspn(text, "-'.");
    if (hyphen >= size)
        return false;
    add_word(e, w, text, hyphen);
    add_word(e, w, text + hyphen + 1, size - hyphen - 1);
    return true;
}

static bool add_joined(const mica_english *e, word *w, const char *text, size_t size)
{
    for (int parts = 2; parts <= MOST_PARTS; parts++)
        if (add_compound(e, w, text, size, parts))
            return true;
    return false;
}

/* text: lower case, letters with ' - . inside, followed by something that is none of them. */
static void add_word(const mica_english *e, word *w, const char *text, size_t size)
{
    uint8_t codes[MICA_ENGLISH_MOST];
    if (size == 0 || add_known(e, w, text, size))
        return;
    if (size > 2 && memcmp(text + size - 2, "'s", 2) == 0) {
        add_word(e, w, text, size - 2);
        add_possessive(w);
        return;
    }
    if (add_in_parts(e, w, text, size))
        return;
    if (size <= 3) {
        for (size_t i = 0; i < size; i++)
            add_letter(e, w, text[i]);
        return;
    }
    if (add_joined(e, w, text, size))
        return;
    const size_t count = mica_english_dict_guess(&e->dict, text, size, codes);
    add_codes(w, codes, count);
    for (size_t i = 0; count == 0 && i < size; i++) /* no vowel: "pdfs" */
        add_letter(e, w, text[i]);
}

/* ---- the text ---- */

typedef struct token {
    const char *text;
    size_t size;
} token;

/* The word at `at`: letters, and ' - . between letters. 0: none. */
static size_t word_size(const char *text, size_t size)
{
    size_t n = 0;
    while (n < size && n < MICA_ENGLISH_MAX_WORD) {
        const bool inside = n > 0 && n + 1 < size && strchr("'-.", text[n]) != NULL &&
                            is_letter(text[n - 1]) && is_letter(text[n + 1]);
        const bool leading = n == 0 && text[0] == '\'' && size > 1 && is_letter(text[1]);
        if (!is_letter(text[n]) && !inside && !leading)
            break;
        n++;
    }
    return n;
}

static void lower(char *out, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        out[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i]);
    out[size] = '\0';
}

typedef struct sentence {
    const char *words[MOST_WORDS];
    char (*text)[MICA_ENGLISH_MAX_WORD + 2];
    size_t count;
} sentence;

static bool gather(sentence *s, const char *text, size_t size)
{
    s->count = 0;
    s->text = mica_mem_alloc(MOST_WORDS * sizeof *s->text);
    if (s->text == NULL)
        return false;
    for (size_t at = 0; at < size && s->count < MOST_WORDS;) {
        const size_t n = word_size(text + at, size - at);
        if (n > 0) {
            lower(s->text[s->count], text + at, n);
            s->words[s->count] = s->text[s->count];
            s->count++;
        }
        at += n > 0 ? n : 1;
    }
    return true;
}

static void read_word(const mica_english *e, const sentence *s, size_t number, const char *text,
                      size_t size, mica_phone_list *out)
{
    char small[MICA_ENGLISH_MAX_WORD + 2];
    word w = {.count = 0};
    lower(small, text, size);
    const mica_english_context context = {s->words, s->count, number};
    const char *homograph = number < s->count ? mica_english_homograph(&context) : NULL;
    if (size == 1 && text[0] == 'a')
        add_names(&w, "AH0");
    else if (size == 1)
        add_letter(e, &w, small[0]);
    else if (homograph != NULL)
        add_names(&w, homograph);
    else {
        const size_t quote = small[0] == '\'' && !add_known(e, &w, small, size);
        if (w.count == 0)
            add_word(e, &w, small + quote, size - quote);
    }
    for (size_t i = 0; i < w.count; i++)
        mica_phone_list_add(out, e->ids[w.phones[i]]);
}

static int32_t punctuation_of(const mica_english *e, char c)
{
    switch (c) {
    case ',':
        return e->comma;
    case '.':
        return e->stop;
    case '?':
        return e->question;
    case '!':
        return e->exclamation;
    case '-':
    case '\'':
        return e->dash;
    default:
        return -1;
    }
}

void mica_english_read(const mica_english *e, const char *text, size_t size, mica_phone_list *out)
{
    sentence s;
    if (!gather(&s, text, size)) {
        out->failed = true;
        return;
    }
    for (size_t at = 0, number = 0; at < size;) {
        const size_t n = word_size(text + at, size - at);
        if (n > 0)
            read_word(e, &s, number++, text + at, n, out);
        else if (punctuation_of(e, text[at]) >= 0)
            mica_phone_list_add(out, punctuation_of(e, text[at]));
        at += n > 0 ? n : 1;
    }
    mica_mem_free(s.text);
}

mica_status mica_english_init(mica_english *e, const mica_symbols *symbols, mica_err *err)
{
    size_t count;
    memset(e, 0, sizeof *e);
    MICA_TRY(mica_english_dict_init(&e->dict, mica_speech_table_english(),
                                    mica_speech_table_letters(), err));
    for (int i = 0; i < MICA_ENGLISH_PHONES; i++) {
        const char *name = mica_english_phone_name(i);
        e->ids[i] = mica_symbols_find(symbols, MICA_SYMBOLS_V1, name, strlen(name));
        if (e->ids[i] < 0)
            return MICA_FAIL(err, MICA_E_INTERNAL, "the symbol table has no %s", name);
    }
    e->comma = mica_symbols_find(symbols, MICA_SYMBOLS_V1, ",", 1);
    e->stop = mica_symbols_find(symbols, MICA_SYMBOLS_V1, ".", 1);
    e->question = mica_symbols_find(symbols, MICA_SYMBOLS_V1, "?", 1);
    e->exclamation = mica_symbols_find(symbols, MICA_SYMBOLS_V1, "!", 1);
    e->dash = mica_symbols_find(symbols, MICA_SYMBOLS_V1, "-", 1);
    const mica_rule *rules = mica_english_rules(&count);
    return mica_rules_open(&e->rules, rules, count, err);
}

void mica_english_deinit(mica_english *e)
{
    mica_rules_close(&e->rules);
}
