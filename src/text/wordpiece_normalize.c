/* wordpiece_normalize.c - BERT's normaliser, character by character.
 *
 *     clean_text      NUL, U+FFFD and control characters go; every space becomes ' '
 *     chinese_chars   ideographs get a space on both sides
 *     strip_accents   NFD, then nonspacing marks go
 *     lowercase
 *
 * Its order and sets are those of Hugging Face tokenizers (normalizers/bert.rs). */
#include "text/wordpiece_parts.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <utf8proc.h>

#define DECOMPOSED_MAX 64 /* code points that one decomposes into, with room */

typedef struct writer {
    char *data;
    size_t size, cap;
    bool failed;
} writer;

static void put(writer *o, uint32_t cp)
{
    void *data = o->data;
    if (!mica_array_reserve(&data, &o->cap, o->size + 4, 1)) {
        o->failed = true;
        return;
    }
    o->data = data;
    o->size += mica_utf8_encode(cp, o->data + o->size);
}

static bool is_cjk(uint32_t cp)
{
    static const uint32_t ranges[][2] = {{0x4e00, 0x9fff},   {0x3400, 0x4dbf},   {0x20000, 0x2a6df},
                                         {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f}, {0x2b920, 0x2ceaf},
                                         {0xf900, 0xfaff},   {0x2f800, 0x2fa1f}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(ranges); i++)
        if (cp >= ranges[i][0] && cp <= ranges[i][1])
            return true;
    return false;
}

/* Control, format, unassigned, private: what "clean" drops. Tab and line ends are spaces before. */
static bool is_control(uint32_t cp)
{
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)cp);
    return category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
           category == UTF8PROC_CATEGORY_CN || category == UTF8PROC_CATEGORY_CO;
}

static bool is_white(uint32_t cp)
{
    if (cp == '\t' || cp == '\n' || cp == '\r' || (cp >= 11 && cp <= 12) || cp == 0x85)
        return true;
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)cp);
    return category >= UTF8PROC_CATEGORY_ZS && category <= UTF8PROC_CATEGORY_ZP;
}

static void put_letter(const mica_wordpiece *w, writer *o, uint32_t cp)
{
    if (!w->lowercase)
        put(o, cp);
    else if (cp == 0x130) { /* the one letter whose lower case has two code points */
        put(o, 'i');
        if (!w->strip_accents)
            put(o, 0x307);
    } else
        put(o, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
}

static void put_stripped(const mica_wordpiece *w, writer *o, uint32_t cp)
{
    utf8proc_int32_t parts[DECOMPOSED_MAX];
    int last = 0;
    const utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, parts, DECOMPOSED_MAX,
                                                       UTF8PROC_DECOMPOSE, &last);
    if (n < 1 || n > DECOMPOSED_MAX) {
        put_letter(w, o, cp);
        return;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++)
        if (utf8proc_category(parts[i]) != UTF8PROC_CATEGORY_MN)
            put_letter(w, o, (uint32_t)parts[i]);
}

static void put_normal(const mica_wordpiece *w, writer *o, uint32_t cp)
{
    if (w->clean && is_white(cp))
        cp = ' ';
    else if (w->clean && (cp == 0 || cp == 0xfffd || is_control(cp)))
        return;
    const bool apart = w->cjk && is_cjk(cp);
    if (apart)
        put(o, ' ');
    if (w->strip_accents)
        put_stripped(w, o, cp);
    else
        put_letter(w, o, cp);
    if (apart)
        put(o, ' ');
}

bool mica_wordpiece_normalize(const mica_wordpiece *w, const char *text, size_t size, char **out,
                              size_t *out_size)
{
    writer o = {0};
    for (size_t at = 0; at < size;) {
        uint32_t cp;
        at += mica_utf8_decode(text + at, size - at, &cp);
        put_normal(w, &o, cp);
    }
    *out = o.data;
    *out_size = o.size;
    return !o.failed;
}
