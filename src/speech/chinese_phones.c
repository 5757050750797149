/* chinese_phones.c - a normalised text to phones: two per ideograph, one per punctuation mark.
 *
 *     chars ─segment─► words ─readings─► pinyin ─merge, sandhi─► tones ─► initial + final with tone
 *
 * Sentence by sentence: punctuation ends a sentence, and words do not reach over it. */
#include "speech/chinese.h"

#include "base/utf8.h"

#include <string.h>

#define SCRATCH_CHUNK (64 * 1024)

/* The two phones of a syllable by rule, for all 429 of the model's inventory (GPT-SoVITS
 * text/opencpop-strict.txt): zhi -> zh ir, si -> s i0, xu -> x v, yan -> y En, ai -> AA ai. */
static void split_syllable(const char *syllable, char initial[8], char final[8])
{
    static const char *const initials[] = {"zh", "ch", "sh", "b", "p", "m", "f", "d",
                                           "t",  "n",  "l",  "g", "k", "h", "j", "q",
                                           "x",  "r",  "z",  "c", "s", "y", "w"};
    size_t lead = 0;
    for (size_t i = 0; i < MICA_ARRAY_LEN(initials) && lead == 0; i++) {
        const size_t n = strlen(initials[i]);
        if (strncmp(syllable, initials[i], n) == 0 && syllable[n] != '\0')
            lead = n;
    }
    memset(initial, 0, 8);
    memset(final, 0, 8);
    memcpy(final, syllable + lead, strnlen(syllable + lead, 6));
    if (lead == 0) {
        const char *zero = final[0] == 'a' ? "AA" : final[0] == 'o' ? "OO" : "EE";
        memcpy(initial, zero, 2);
        return;
    }
    memcpy(initial, syllable, lead);
    if (strcmp(final, "i") == 0 && (lead == 2 || initial[0] == 'r'))
        memcpy(final, "ir", 3);
    else if (strcmp(final, "i") == 0 && strchr("zcs", initial[0]) != NULL)
        memcpy(final, "i0", 3);
    else if (final[0] == 'u' && strchr("jqxy", initial[0]) != NULL)
        final[0] = 'v';
    else if (initial[0] == 'y' && strcmp(final, "e") == 0)
        memcpy(final, "E", 2);
    else if (initial[0] == 'y' && strcmp(final, "an") == 0)
        memcpy(final, "En", 3);
}

static int32_t find_symbol(const mica_chinese *c, const char *name)
{
    const int32_t id = mica_symbols_find(c->symbols, MICA_SYMBOLS_V1, name, strlen(name));
    return id >= 0 ? id : c->unknown;
}

static void add_reading(const mica_chinese *c, int reading, mica_phone_list *phones)
{
    char initial[8], final[8];
    const char *syllable = mica_chinese_dict_syllable(&c->dict, reading);
    split_syllable(syllable != NULL ? syllable : "", initial, final);
    final[strlen(final)] = (char)('0' + mica_tone(reading));
    mica_phone_list_add(phones, find_symbol(c, initial));
    mica_phone_list_add(phones, find_symbol(c, final));
}

static void add_phones(const mica_chinese *c, const mica_chinese_text *t, int32_t pauses,
                       mica_phone_list *phones, mica_phone_list *counts)
{
    for (size_t i = 0; i < t->size; i++) {
        const size_t before = phones->count;
        char mark[8] = {0};
        if (mica_is_han(t->chars[i]) && t->readings[i] >= 0)
            add_reading(c, t->readings[i], phones);
        else if (mica_is_han(t->chars[i])) { /* a character without any reading */
            mica_phone_list_add(phones, c->unknown);
        } else {
            mica_utf8_encode(t->chars[i], mark);
            mica_phone_list_add(phones,
                                pauses >= 0 && t->chars[i] == ',' ? pauses : find_symbol(c, mark));
        }
        mica_phone_list_add(counts, (int32_t)(phones->count - before));
    }
}

static bool read_sentence(const mica_chinese *c, mica_chinese_text *t)
{
    if (!mica_chinese_segment(c, t))
        return false;
    mica_chinese_find_readings(c, t);
    mica_chinese_merge(t);
    return mica_chinese_sandhi(c, t);
}

/* Characters up to and with the next punctuation mark. */
static size_t sentence_size(const uint32_t *chars, size_t size)
{
    size_t n = 0;
    while (n < size && mica_is_han(chars[n]))
        n++;
    while (n < size && !mica_is_han(chars[n]))
        n++;
    return n;
}

mica_status mica_chinese_read(const mica_chinese *c, const char *text, size_t size, int32_t pauses,
                              const mica_speech_reader *reader, mica_phone_list *phones,
                              mica_phone_list *phones_of_char, mica_err *err)
{
    mica_arena arena;
    mica_arena_init(&arena, SCRATCH_CHUNK);
    uint32_t *chars = mica_arena_alloc(&arena, (size + 1) * sizeof *chars);
    int *readings = mica_arena_calloc(&arena, size + 1, sizeof *readings);
    int *answers = reader ? mica_arena_calloc(&arena, size + 1, sizeof *answers) : NULL;
    mica_status status = MICA_OK;
    size_t count = 0;
    bool ok = chars != NULL && readings != NULL && (answers != NULL || !reader);
    for (size_t at = 0; ok && at < size; count++)
        at += mica_utf8_decode(text + at, size - at, &chars[count]);
    for (size_t at = 0; ok && !status && at < count;) {
        const mica_arena_mark mark = mica_arena_get_mark(&arena);
        mica_chinese_text t = {.chars = chars + at, .readings = readings + at, .arena = &arena};
        t.size = sentence_size(chars + at, count - at);
        if (reader) {
            t.answers = answers + at;
            status = reader->ask(reader->user, t.chars, t.size, t.answers, err);
        }
        ok = status || read_sentence(c, &t);
        if (ok && !status)
            add_phones(c, &t, pauses, phones, phones_of_char);
        at += t.size;
        mica_arena_release(&arena, mark);
    }
    mica_arena_deinit(&arena);
    MICA_TRY(status);
    if (!ok || phones->failed || phones_of_char->failed)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to read a Chinese text");
    return MICA_OK;
}

mica_status mica_chinese_init(mica_chinese *c, const mica_symbols *symbols, mica_err *err)
{
    size_t count;
    memset(c, 0, sizeof *c);
    c->symbols = symbols;
    c->unknown = mica_symbols_find(symbols, MICA_SYMBOLS_V1, "UNK", 3);
    MICA_TRY(mica_chinese_dict_init(&c->dict, mica_speech_table_chinese(), err));
    MICA_TRY(mica_chinese_hmm_init(&c->hmm, mica_speech_table_hmm(), err));
    const mica_rule *rules = mica_chinese_rules(&count);
    return mica_rules_open(&c->rules, rules, count, err);
}

void mica_chinese_deinit(mica_chinese *c)
{
    mica_rules_close(&c->rules);
    mica_chinese_hmm_deinit(&c->hmm);
}
