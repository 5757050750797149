/* wordpiece.c - the encoder.
 *
 *     "Ünglish 你好。" ─normalise─► "unglish  你  好 。" ─words─► unglish | 你 | 好 | 。
 *                     ─pieces──► u ##n ##g ##l ##i ##s ##h 你 好 。
 *
 * Longest piece first costs O(n^2) look-ups in a word, and words have at most max_word
 * characters. */
#include "text/wordpiece_parts.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <string.h>
#include <utf8proc.h>

#define PIECE_MAX (4 * 128 + MICA_WORDPIECE_PREFIX_MAX)

typedef struct encoder {
    const mica_wordpiece *w;
    int32_t *ids;
    size_t count, cap;
    bool failed; /* no memory */
} encoder;

static void put_id(encoder *e, int32_t id)
{
    void *ids = e->ids;
    if (!mica_array_reserve(&ids, &e->cap, e->count + 1, sizeof *e->ids)) {
        e->failed = true;
        return;
    }
    e->ids = ids;
    e->ids[e->count++] = id;
}

/* The longest piece that starts at word[at]; its bytes in *taken, 0: none. */
static int32_t longest_piece(const mica_wordpiece *w, const char *word, size_t size, size_t at,
                             size_t *taken)
{
    char piece[PIECE_MAX];
    const size_t prefix = at > 0 ? w->prefix_size : 0;
    memcpy(piece, w->prefix, prefix);
    memcpy(piece + prefix, word + at, size - at);
    for (size_t end = size; end > at; end--) {
        if (end < size && ((uint8_t)word[end] & 0xc0) == 0x80)
            continue; /* inside a character */
        const mica_vocab_entry *entry = mica_vocab_find(&w->vocab, piece, prefix + end - at);
        if (entry != NULL) {
            *taken = end - at;
            return entry->id;
        }
    }
    *taken = 0;
    return -1;
}

static void encode_word(encoder *e, const char *word, size_t size, size_t characters)
{
    const size_t before = e->count;
    size_t taken = 0;
    if (characters > e->w->max_word) {
        put_id(e, e->w->unknown);
        return;
    }
    for (size_t at = 0; at < size; at += taken) {
        const int32_t id = longest_piece(e->w, word, size, at, &taken);
        if (taken == 0) {
            e->count = before;
            put_id(e, e->w->unknown);
            return;
        }
        put_id(e, id);
    }
}

static bool is_punctuation(uint32_t cp)
{
    if (cp < 128)
        return (cp >= 33 && cp <= 47) || (cp >= 58 && cp <= 64) || (cp >= 91 && cp <= 96) ||
               (cp >= 123 && cp <= 126);
    const utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)cp);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

static bool is_space(uint32_t cp)
{
    return cp == ' ' || (cp >= 9 && cp <= 13) || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f ||
           cp == 0x205f || cp == 0x3000;
}

static void encode_words(encoder *e, const char *text, size_t size)
{
    size_t start = 0, characters = 0;
    for (size_t at = 0, step; at <= size; at += step) {
        uint32_t cp = ' ';
        step = at < size ? mica_utf8_decode(text + at, size - at, &cp) : 1;
        const bool punctuation = at < size && is_punctuation(cp);
        if (!punctuation && !is_space(cp)) {
            characters++;
            continue;
        }
        if (at > start)
            encode_word(e, text + start, at - start, characters);
        if (punctuation)
            encode_word(e, text + at, step, 1);
        start = at + step;
        characters = 0;
    }
}

static void encode_plain(encoder *e, const char *text, size_t size)
{
    char *normal = NULL;
    size_t normal_size = 0;
    if (size == 0)
        return;
    if (mica_wordpiece_normalize(e->w, text, size, &normal, &normal_size))
        encode_words(e, normal, normal_size);
    else
        e->failed = true;
    mica_mem_free(normal);
}

/* A special token that is written out at text[0]: "[MASK]". */
static const mica_vocab_entry *special_at(const mica_wordpiece *w, const char *text, size_t size)
{
    const char *end = text[0] == '[' ? memchr(text, ']', MICA_MIN(size, (size_t)64)) : NULL;
    if (end == NULL)
        return NULL;
    const mica_vocab_entry *entry = mica_vocab_find(&w->vocab, text, (size_t)(end - text) + 1);
    return entry != NULL && entry->special ? entry : NULL;
}

mica_status mica_wordpiece_encode(const mica_wordpiece *w, const char *text, size_t size,
                                  int32_t **ids, size_t *count, mica_err *err)
{
    char *clean = NULL;
    size_t start = 0;
    *ids = NULL;
    *count = 0;
    if (size > MICA_WORDPIECE_MAX_TEXT)
        return MICA_FAIL(err, MICA_E_USAGE, "a text of %zu bytes; at most %d can be encoded", size,
                         MICA_WORDPIECE_MAX_TEXT);
    MICA_TRY(mica_utf8_sanitize(text, size, &clean, &size, err));
    encoder e = {.w = w};
    put_id(&e, w->cls);
    for (size_t at = 0; at < size;) {
        const mica_vocab_entry *special = special_at(w, clean + at, size - at);
        if (special == NULL) {
            at++;
            continue;
        }
        encode_plain(&e, clean + start, at - start);
        put_id(&e, special->id);
        start = at += special->size;
    }
    encode_plain(&e, clean + start, size - start);
    put_id(&e, w->sep);
    mica_mem_free(clean);
    if (e.failed) {
        mica_mem_free(e.ids);
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to encode %zu bytes of text", size);
    }
    *ids = e.ids;
    *count = e.count;
    return MICA_OK;
}

int32_t mica_wordpiece_vocab_size(const mica_wordpiece *w)
{
    return (int32_t)w->vocab.id_count;
}

void mica_wordpiece_close(mica_wordpiece **w)
{
    if (*w == NULL)
        return;
    mica_vocab_deinit(&(*w)->vocab);
    mica_mem_free(*w);
    *w = NULL;
}
