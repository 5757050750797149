/* added_tokens.c - leftmost-longest search for added tokens, and the rules at their edges.
 *
 * A match that single_word rejects is passed over as a whole: the search goes on behind it,
 * not one byte further, because the reference walks over the matches of one automaton
 * (AddedVocabulary::find_matches). */
#include "text/added_tokens.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "text/vocab.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

void mica_added_set_deinit(mica_added_set *s)
{
    for (size_t i = 0; i < s->count; i++)
        mica_mem_free(s->items[i].text);
    mica_mem_free(s->items);
    memset(s, 0, sizeof *s);
}

mica_status mica_added_set_push(mica_added_set *s, const char *name, const char *text, size_t size,
                                const mica_added_token *token, mica_err *err)
{
    if (size == 0 || size > MICA_ADDED_TOKEN_MAX_SIZE)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: added token %d has %zu bytes, expected 1..%d",
                         name, (int)token->id, size, MICA_ADDED_TOKEN_MAX_SIZE);
    char *copy = mica_mem_strndup(text, size);
    if (copy == NULL ||
        !mica_array_reserve((void **)&s->items, &s->cap, s->count + 1, sizeof *s->items)) {
        mica_mem_free(copy);
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for added token %zu", name, s->count);
    }
    s->items[s->count] = *token;
    s->items[s->count].text = copy;
    s->items[s->count++].size = size;
    return MICA_OK;
}

static int compare(const void *a, const void *b)
{
    const mica_added_token *x = a, *y = b;
    const int c = memcmp(x->text, y->text, MICA_MIN(x->size, y->size));
    return c != 0 ? c : (x->size > y->size) - (x->size < y->size);
}

void mica_added_set_finish(mica_added_set *s)
{
    if (s->count > 0)
        qsort(s->items, s->count, sizeof *s->items, compare);
    size_t i = 0;
    for (int c = 0; c < 256; c++) {
        s->first[c] = i;
        while (i < s->count && (uint8_t)s->items[i].text[0] == c)
            i++;
    }
    s->first[256] = i;
}

const mica_added_token *mica_added_set_get(const mica_added_set *s, int32_t id)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->items[i].id == id)
            return &s->items[i];
    return NULL;
}

/* First index in [lo, hi) whose byte `depth` is at least `c`. All items of the range agree on
 * the bytes before; an item that ends there sorts first and counts as -1. */
static size_t lower_bound(const mica_added_set *s, size_t lo, size_t hi, size_t depth, int c)
{
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const mica_added_token *t = &s->items[mid];
        const int byte = depth < t->size ? (uint8_t)t->text[depth] : -1;
        if (byte < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest token that the text begins with; NULL: none. */
static const mica_added_token *longest_at(const mica_added_set *s, const char *text, size_t size)
{
    const mica_added_token *best = NULL;
    size_t lo = s->first[(uint8_t)text[0]], hi = s->first[(uint8_t)text[0] + 1];
    for (size_t depth = 1; lo < hi; depth++) {
        if (s->items[lo].size == depth)
            best = &s->items[lo]; /* the one that ends here sorts first */
        if (depth == size)
            break;
        const int c = (uint8_t)text[depth];
        lo = lower_bound(s, lo, hi, depth, c);
        hi = lower_bound(s, lo, hi, depth, c + 1);
    }
    return best;
}

/* ---- edges: \s and \w as Rust's regex crate defines them ---- */

static bool is_space(uint32_t cp)
{
    return (cp >= 0x09 && cp <= 0x0D) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F ||
           cp == 0x205F || cp == 0x3000;
}

/* Alphabetic, mark, decimal digit, connector punctuation, join control. Alphabetic is the
 * letters, the letter numbers, some marks (here anyway) and the circled and squared Latin
 * letters, which are symbols by category. */
static bool is_word(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return cp == 0x200C || cp == 0x200D || (cp >= 0x24B6 && cp <= 0x24E9) ||
               (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) ||
               (cp >= 0x1F170 && cp <= 0x1F189);
    }
}

/* The character that ends at `end`; the text is valid UTF-8 and end > 0. */
static size_t previous(const char *text, size_t end, uint32_t *cp)
{
    size_t start = end - 1;
    while (start > 0 && ((uint8_t)text[start] & 0xC0) == 0x80)
        start--;
    mica_utf8_decode(text + start, end - start, cp);
    return start;
}

static bool touches_word(const char *text, size_t size, size_t start, size_t end)
{
    uint32_t cp;
    if (start > 0) {
        previous(text, start, &cp);
        if (is_word(cp))
            return true;
    }
    if (end == size)
        return false;
    mica_utf8_decode(text + end, size - end, &cp);
    return is_word(cp);
}

static void swallow_left(const char *text, size_t floor, size_t *start)
{
    uint32_t cp;
    while (*start > floor) {
        const size_t at = previous(text, *start, &cp);
        if (at < floor || !is_space(cp))
            break;
        *start = at;
    }
}

static void swallow_right(const char *text, size_t size, size_t *end)
{
    uint32_t cp;
    while (*end < size) {
        const size_t step = mica_utf8_decode(text + *end, size - *end, &cp);
        if (!is_space(cp))
            break;
        *end += step;
    }
}

bool mica_added_set_find(const mica_added_set *s, const char *text, size_t size,
                         mica_added_cursor *at, mica_added_match *match)
{
    for (size_t i = at->scan; s->count > 0 && i < size;) {
        const mica_added_token *t = longest_at(s, text + i, size - i);
        if (t == NULL) {
            i++;
            continue;
        }
        size_t start = i, end = i + t->size;
        i = end;
        if (t->single_word && touches_word(text, size, start, end))
            continue;
        if (t->lstrip)
            swallow_left(text, at->floor, &start);
        if (t->rstrip)
            swallow_right(text, size, &end);
        /* A token that starts inside what the last one swallowed still counts, from there. */
        *match = (mica_added_match){
            .start = MICA_MAX(start, at->floor), .end = MICA_MAX(end, at->floor), .id = t->id};
        *at = (mica_added_cursor){.scan = i, .floor = match->end};
        return true;
    }
    at->scan = size;
    return false;
}
