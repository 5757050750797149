/* chinese_segment.c - words of a text as jieba's posseg cuts and tags them.
 *
 *     text ──► every dictionary word at every place ──► the path of the largest product of
 *     frequencies ──► single characters in a row that make no word: hidden Markov model
 *
 * The dictionary's frequencies above 127 are rounded to 4 %, which moves no boundary that is not
 * a near tie. */
#include "speech/chinese.h"

#include <math.h>
#include <string.h>

typedef struct route {
    double cost; /* log probability from here to the end */
    size_t end;  /* of the word that begins here */
    uint8_t word_class;
    bool known;
} route;

/* Fills routes from the end; text holds ideographs only. */
static void find_routes(const mica_chinese *c, const uint32_t *text, size_t size, route *routes)
{
    const double all = log(MICA_CHINESE_ALL);
    routes[size] = (route){.cost = 0.0, .end = size};
    for (size_t i = size; i-- > 0;) {
        routes[i] = (route){routes[i + 1].cost - all, i + 1, MICA_CHINESE_NO_CLASS, false};
        bool first = true;
        for (size_t n = 1; n <= MICA_CHINESE_LONGEST && i + n <= size; n++) {
            mica_chinese_word word;
            if (!mica_chinese_dict_find(&c->dict, text + i, n, &word))
                continue;
            const double cost = log(word.frequency) - all + routes[i + n].cost;
            if (first || cost >= routes[i].cost)
                routes[i] = (route){cost, i + n, word.word_class, true};
            first = false;
        }
    }
}

static void add_token(mica_chinese_text *t, size_t begin, size_t size, const char *pos)
{
    mica_chinese_token *token = &t->tokens[t->token_count++];
    *token = (mica_chinese_token){.begin = begin, .size = size};
    memcpy(token->pos, pos, MICA_MIN(strlen(pos), sizeof token->pos - 1));
}

static void add_known(const mica_chinese *c, mica_chinese_text *t, size_t begin, size_t size,
                      uint8_t word_class)
{
    char name[8];
    mica_chinese_class_name(&c->dict, word_class, name);
    add_token(t, begin, size, name[0] != '\0' ? name : "x");
}

/* A row of single characters, text[begin..begin+size). */
static bool add_singles(const mica_chinese *c, mica_chinese_text *t, size_t begin, size_t size)
{
    mica_chinese_word word;
    const mica_arena_mark mark = mica_arena_get_mark(t->arena);
    if (size == 1 || mica_chinese_dict_find(&c->dict, t->chars + begin, size, &word)) {
        for (size_t i = 0; i < size; i++) {
            const bool known = mica_chinese_dict_find(&c->dict, t->chars + begin + i, 1, &word);
            add_known(c, t, begin + i, 1, known ? word.word_class : MICA_CHINESE_NO_CLASS);
        }
        return true;
    }
    bool *ends = mica_arena_alloc(t->arena, size * sizeof *ends);
    mica_chinese_tag *tags = mica_arena_alloc(t->arena, size * sizeof *tags);
    const bool ok = ends != NULL && tags != NULL &&
                    mica_chinese_hmm_tag(&c->hmm, t->chars + begin, size, ends, tags, t->arena);
    for (size_t i = 0, start = 0; ok && i < size; i++)
        if (ends[i]) {
            add_token(t, begin + start, i + 1 - start, tags[i].name);
            start = i + 1;
        }
    mica_arena_release(t->arena, mark);
    return ok;
}

static bool add_run(const mica_chinese *c, mica_chinese_text *t, size_t begin, size_t size)
{
    const mica_arena_mark mark = mica_arena_get_mark(t->arena);
    route *routes = mica_arena_alloc(t->arena, (size + 1) * sizeof *routes);
    if (routes == NULL)
        return false;
    find_routes(c, t->chars + begin, size, routes);
    bool ok = true;
    size_t singles = 0; /* characters in a row before `at` */
    for (size_t at = 0; ok && at <= size; at = at < size ? routes[at].end : at + 1) {
        const bool single = at < size && routes[at].end == at + 1;
        if (single) {
            singles++;
            continue;
        }
        if (singles > 0)
            ok = add_singles(c, t, begin + at - singles, singles);
        singles = 0;
        if (at < size)
            add_known(c, t, begin + at, routes[at].end - at, routes[at].word_class);
    }
    mica_arena_release(t->arena, mark);
    return ok;
}

bool mica_chinese_segment(const mica_chinese *c, mica_chinese_text *t)
{
    t->tokens = mica_arena_alloc(t->arena, (t->size + 1) * sizeof *t->tokens);
    t->token_count = 0;
    if (t->tokens == NULL)
        return false;
    for (size_t at = 0; at < t->size;) {
        size_t n = 0;
        while (at + n < t->size && mica_is_han(t->chars[at + n]))
            n++;
        if (n > 0 && !add_run(c, t, at, n))
            return false;
        if (n == 0)
            add_token(t, at, 1, "x");
        at += n > 0 ? n : 1;
    }
    return true;
}

/* ---- search mode ---- */

typedef struct shortest {
    size_t begin, size; /* size 0: none yet */
} shortest;

static void offer(shortest *s, size_t begin, size_t size)
{
    if (s->size == 0 || size < s->size)
        *s = (shortest){begin, size};
}

/* A word of the plain cut with what search mode adds before it: its parts of two and three. */
static void offer_word(const mica_chinese *c, const uint32_t *text, size_t begin, size_t size,
                       shortest *s)
{
    mica_chinese_word word;
    for (size_t part = 2; part <= 3; part++)
        for (size_t i = 0; size > part && i + part <= size; i++)
            if (mica_chinese_dict_find(&c->dict, text + begin + i, part, &word))
                offer(s, begin + i, part);
    offer(s, begin, size);
}

static bool offer_singles(const mica_chinese *c, const uint32_t *text, size_t begin, size_t size,
                          mica_arena *scratch, shortest *s)
{
    mica_chinese_word word;
    if (size == 1 || mica_chinese_dict_find(&c->dict, text + begin, size, &word)) {
        offer(s, begin, 1);
        return true;
    }
    bool *ends = mica_arena_alloc(scratch, size * sizeof *ends);
    if (ends == NULL || !mica_chinese_hmm_cut(&c->hmm, text + begin, size, ends, scratch))
        return false;
    for (size_t i = 0, start = 0; i < size; i++)
        if (ends[i]) {
            offer_word(c, text, begin + start, i + 1 - start, s);
            start = i + 1;
        }
    return true;
}

bool mica_chinese_split(const mica_chinese *c, const uint32_t *word, size_t size,
                        mica_arena *scratch, size_t *first, size_t *length)
{
    const mica_arena_mark mark = mica_arena_get_mark(scratch);
    route *routes = mica_arena_alloc(scratch, (size + 1) * sizeof *routes);
    shortest s = {0, 0};
    bool ok = routes != NULL;
    if (ok)
        find_routes(c, word, size, routes);
    for (size_t at = 0, singles = 0; ok && at <= size; at = at < size ? routes[at].end : at + 1) {
        if (at < size && routes[at].end == at + 1) {
            singles++;
            continue;
        }
        if (singles > 0)
            ok = offer_singles(c, word, at - singles, singles, scratch, &s);
        singles = 0;
        if (at < size)
            offer_word(c, word, at, routes[at].end - at, &s);
    }
    mica_arena_release(scratch, mark);
    /* Where its characters come first in the word, as upstream looks it up. */
    for (size_t i = 0; i < s.begin; i++)
        if (memcmp(word + i, word + s.begin, s.size * sizeof *word) == 0)
            s.begin = i;
    *first = s.begin;
    *length = s.size;
    return ok && s.size > 0;
}
