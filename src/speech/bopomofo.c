/* bopomofo.c - initial, medial, final; see bopomofo.h.
 *
 *     initial + final                   ㄓ + ㄠ              zhao; alone: zhi
 *     initial + medial + final          ㄒ + ㄧ + ㄠ         xiao
 *     medial + final without initial    ㄧ + ㄠ              yao
 *
 * The medial and final together are one of the finals of pinyin, written otherwise where no initial
 * stands before it: ㄨㄥ is -ong and weng. */
#include "speech/bopomofo.h"

#include "base/compiler.h"
#include "base/utf8.h"

#include <stdio.h>
#include <string.h>

static const char *const INITIALS[] = {"b", "p", "m", "f",  "d",  "t",  "n", "l", "g", "k", "h",
                                       "j", "q", "x", "zh", "ch", "sh", "r", "z", "c", "s"};
#define FIRST_BUZZING 14      /* zh; from here on an initial alone is a syllable, written with i */
#define FIRST_INITIAL 0x3105u /* ㄅ; to ㄙ in the order above */
#define LAST_INITIAL  0x3119u
#define MEDIAL_I      0x3127u
#define MEDIAL_U      0x3128u
#define MEDIAL_V      0x3129u

/* ㄚ ㄛ ㄜ ㄝ ㄞ ㄟ ㄠ ㄡ ㄢ ㄣ ㄤ ㄥ ㄦ by the medial before them; [13]: the medial alone. "": no such. */
static const char *const FINALS[4][14] = {
    {"a", "o", "e", "e", "ai", "ei", "ao", "ou", "an", "en", "ang", "eng", "er", "i"},
    {"ia", "io", "", "ie", "iai", "", "iao", "iu", "ian", "in", "iang", "ing", "", "i"},
    {"ua", "uo", "", "", "uai", "ui", "", "", "uan", "un", "uang", "ong", "", "u"},
    {"", "", "", "ve", "", "", "", "", "van", "vn", "", "iong", "", "v"},
};
static const char *const ALONE[4][14] = {
    {"a", "o", "e", "e", "ai", "ei", "ao", "ou", "an", "en", "ang", "eng", "er", ""},
    {"ya", "yo", "", "ye", "yai", "", "yao", "you", "yan", "yin", "yang", "ying", "", "yi"},
    {"wa", "wo", "", "", "wai", "wei", "", "", "wan", "wen", "wang", "weng", "", "wu"},
    {"", "", "", "yue", "", "", "", "", "yuan", "yun", "", "yong", "", "yu"},
};
#define FIRST_FINAL 0x311au
#define LAST_FINAL  0x3126u
#define NO_FINAL    13

static bool is_pinyin(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (text[i] < 'a' || text[i] > 'z')
            return false;
    return size > 0 && size < MICA_PINYIN_MAX;
}

/* The letters of one syllable; false: more than one, or others. */
static bool take_letters(const char *text, size_t size, int *initial, int *medial, int *final)
{
    *initial = -1;
    *medial = 0;
    *final = NO_FINAL;
    for (size_t at = 0; at < size;) {
        uint32_t cp;
        at += mica_utf8_decode(text + at, size - at, &cp);
        if (cp >= FIRST_INITIAL && cp <= LAST_INITIAL && *initial < 0 && !*medial &&
            *final == NO_FINAL)
            *initial = (int)(cp - FIRST_INITIAL);
        else if (cp >= MEDIAL_I && cp <= MEDIAL_V && !*medial && *final == NO_FINAL)
            *medial = (int)(cp - MEDIAL_I) + 1;
        else if (cp >= FIRST_FINAL && cp <= LAST_FINAL && *final == NO_FINAL)
            *final = (int)(cp - FIRST_FINAL);
        else
            return false;
    }
    return true;
}

bool mica_bopomofo_read(const char *text, size_t size, char pinyin[MICA_PINYIN_MAX], int *tone)
{
    int initial, medial, final;
    if (size < 2 || text[size - 1] < '1' || text[size - 1] > '5')
        return false;
    *tone = text[--size] - '0';
    if (is_pinyin(text, size)) {
        memcpy(pinyin, text, size);
        pinyin[size] = '\0';
        return true;
    }
    if (!take_letters(text, size, &initial, &medial, &final))
        return false;
    if (initial >= 0 && initial < FIRST_BUZZING && !medial && final == NO_FINAL)
        return false; /* a consonant alone, as in the interjections hm and ng */
    const char *rest = initial < 0 ? ALONE[medial][final] : FINALS[medial][final];
    const char *lead = initial < 0 ? "" : INITIALS[initial];
    if (*rest == '\0')
        return false;
    /* after j, q and x the ü is written u */
    const bool soft = *lead != '\0' && strchr("jqx", *lead) != NULL;
    snprintf(pinyin, MICA_PINYIN_MAX, "%s%s%s", lead, soft && *rest == 'v' ? "u" : "",
             soft && *rest == 'v' ? rest + 1 : rest);
    return true;
}
