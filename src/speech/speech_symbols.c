/* speech_symbols.c - the rules behind the symbol tables (GPT-SoVITS, text/symbols.py, symbols2.py). */
#include "speech/speech_symbols.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_NAMES 512 /* of one part, before duplicates go */

typedef struct names {
    char names[MOST_NAMES][MICA_SYMBOL_BYTES];
    size_t count;
    bool failed;
} names;

static void add(names *n, const char *name, size_t size, int tone)
{
    if (n->count >= MOST_NAMES || size + 2 > MICA_SYMBOL_BYTES) {
        n->failed = true;
        return;
    }
    char *to = n->names[n->count++];
    memset(to, 0, MICA_SYMBOL_BYTES);
    memcpy(to, name, size);
    if (tone >= 0)
        to[size] = (char)('0' + tone);
}

/* Blank-separated words, each with the tones first..last; first < 0: bare. */
static void add_words(names *n, const char *prefix, const char *words, int first, int last)
{
    char name[2 * MICA_SYMBOL_BYTES];
    for (const char *at = words; *at != '\0';) {
        const size_t size = strcspn(at, " "), lead = strlen(prefix);
        if (lead + size > sizeof name) {
            n->failed = true;
            return;
        }
        memcpy(name, prefix, lead);
        memcpy(name + lead, at, size);
        for (int tone = first; tone <= last; tone++)
            add(n, name, lead + size, tone);
        at += size + (at[size] == ' ');
    }
}

static int compare(const void *a, const void *b)
{
    return strcmp(a, b); /* bytes of UTF-8 sort as code points do */
}

static void sort_unique(names *n)
{
    size_t kept = 0;
    qsort(n->names, n->count, sizeof n->names[0], compare);
    for (size_t i = 0; i < n->count; i++)
        if (kept == 0 || strcmp(n->names[kept - 1], n->names[i]) != 0)
            memmove(n->names[kept++], n->names[i], sizeof n->names[0]);
    n->count = kept;
}

static void base_part(names *n)
{
    add_words(n, "", "AA EE OO b c ch d f g h j k l m n p q r s sh t w x y z zh", -1, -1);
    add_words(
        n, "",
        "a ai an ang ao e ei en eng er E En i i0 ia ian iang iao ie in ing iong ir iu o ong ou "
        "u ua uai uan uang ui un uo v van ve vn",
        1, 5);
    add_words(
        n, "",
        "I N U a b by ch cl d dy e f g gy h hy i j k ky m my n ny o p py r ry s sh t ts u v w "
        "y z",
        -1, -1);
    add_words(n, "", "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW", 0, 2);
    add_words(n, "", "ER IH B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH", -1, -1);
    add_words(n, "", "_ ! ? \xe2\x80\xa6 , . - SP SP2 SP3 UNK", -1, -1);
    sort_unique(n);
}

static void korean_part(names *n)
{
    add_words(
        n, "",
        "ㄱ ㄴ ㄷ ㄹ ㅁ ㅂ ㅅ ㅇ ㅈ ㅊ ㅋ ㅌ ㅍ ㅎ ㄲ ㄸ ㅃ ㅆ ㅉ ㅏ ㅓ ㅗ ㅜ ㅡ ㅣ ㅐ ㅔ 空 停",
        -1, -1);
    sort_unique(n);
}

static void cantonese_part(names *n)
{
    add_words(n, "Y", "a aa ai ak au b c d e f g gw h j k kw l m n ng o oi ok on ou p s t uk w z",
              -1, -1);
    add_words(
        n, "Y",
        "a aa aai aak aam aan aang aap aat aau ai ak am an ang ap at au e ei ek eng eoi eon eot "
        "g i ik im in ing ip it iu k m n o oe oek oeng oi ok on ong ot ou p t u ui uk un ung ut "
        "yu yun yut",
        1, 6);
    sort_unique(n);
}

static bool append(mica_symbols *s, size_t *at, const names *n)
{
    if (n->failed || *at + n->count > MICA_SYMBOLS_V2)
        return false;
    memcpy(s->names[*at], n->names, n->count * sizeof n->names[0]);
    *at += n->count;
    return true;
}

mica_status mica_symbols_init(mica_symbols *s, mica_err *err)
{
    static void (*const parts[])(names *) = {base_part, NULL, korean_part, cantonese_part};
    size_t at = 0;
    for (size_t i = 0; i < MICA_ARRAY_LEN(parts); i++) {
        names n = {.count = 0};
        if (parts[i] != NULL)
            parts[i](&n);
        else
            add_words(&n, "", "[ ]", -1, -1);
        if (!append(s, &at, &n) || (i == 0 && at != MICA_SYMBOLS_V1))
            return MICA_FAIL(err, MICA_E_INTERNAL, "the symbol table has %zu names after part %zu",
                             at, i);
    }
    return at == MICA_SYMBOLS_V2
               ? MICA_OK
               : MICA_FAIL(err, MICA_E_INTERNAL, "the symbol table has %zu names, not 732", at);
}

int32_t mica_symbols_find(const mica_symbols *s, int count, const char *name, size_t size)
{
    char key[MICA_SYMBOL_BYTES] = {0};
    if (size == 0 || size >= sizeof key)
        return -1;
    memcpy(key, name, size);
    for (int low = 0, high = MICA_SYMBOLS_V1; low < high;) {
        const int middle = (low + high) / 2, order = strcmp(key, s->names[middle]);
        if (order == 0)
            return middle;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    for (int i = MICA_SYMBOLS_V1; i < count; i++)
        if (strcmp(key, s->names[i]) == 0)
            return i;
    return -1;
}
