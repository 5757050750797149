/* chinese_merge.c - joins tokens whose tones change together, before the tones are changed.
 *
 *     不 + 是       一 + 个       听 + 一 + 听       看 + 看       我 + 想 (two third tones)       花 + 儿
 *
 * In this order; the joined token keeps the class of its first part, 不 that of what follows
 * (GPT-SoVITS text/tone_sandhi.py pre_merge_for_modify). Punctuation is never joined. */
#include "speech/chinese.h"

#include <string.h>

#define HAN_BU   0x4e0du /* 不 */
#define HAN_YI   0x4e00u /* 一 */
#define HAN_ER   0x513fu /* 儿 */
#define HAN_LIAO 0x4e86u /* 了 */
#define LONGEST  3       /* characters of tokens joined for their third tones */

static bool is_char(const mica_chinese_text *t, const mica_chinese_token *token, uint32_t cp)
{
    return token->size == 1 && t->chars[token->begin] == cp;
}

static bool is_word(const mica_chinese_text *t, const mica_chinese_token *token)
{
    return mica_is_han(t->chars[token->begin]);
}

static bool same_word(const mica_chinese_text *t, const mica_chinese_token *a,
                      const mica_chinese_token *b)
{
    return a->size == b->size &&
           memcmp(t->chars + a->begin, t->chars + b->begin, a->size * sizeof *t->chars) == 0;
}

/* Takes token `i` into the one before it. */
static void join(mica_chinese_text *t, size_t i)
{
    t->tokens[i - 1].size += t->tokens[i].size;
    memmove(t->tokens + i, t->tokens + i + 1, (t->token_count - i - 1) * sizeof *t->tokens);
    t->token_count--;
}

static void merge_bu(mica_chinese_text *t)
{
    for (size_t i = 1; i < t->token_count; i++)
        if (is_char(t, &t->tokens[i - 1], HAN_BU) && is_word(t, &t->tokens[i])) {
            memcpy(t->tokens[i - 1].pos, t->tokens[i].pos, sizeof t->tokens[i].pos);
            join(t, i--);
        }
}

/* 来 + 不了 */
static void merge_cannot(mica_chinese_text *t)
{
    for (size_t i = 1; i < t->token_count; i++) {
        const mica_chinese_token *token = &t->tokens[i];
        if (token->size == 2 && t->chars[token->begin] == HAN_BU &&
            t->chars[token->begin + 1] == HAN_LIAO && t->tokens[i - 1].size == 1 &&
            is_word(t, &t->tokens[i - 1]))
            join(t, i);
    }
}

static void merge_yi(mica_chinese_text *t)
{
    for (size_t i = 1; i + 1 < t->token_count; i++)
        if (is_char(t, &t->tokens[i], HAN_YI) &&
            same_word(t, &t->tokens[i - 1], &t->tokens[i + 1]) &&
            (t->tokens[i - 1].size == 1 ||
             (strcmp(t->tokens[i - 1].pos, "v") == 0 && strcmp(t->tokens[i + 1].pos, "v") == 0)) &&
            is_word(t, &t->tokens[i - 1])) {
            join(t, i + 1);
            join(t, i--);
        }
    for (size_t i = 1; i < t->token_count; i++)
        if (is_char(t, &t->tokens[i - 1], HAN_YI) && is_word(t, &t->tokens[i]))
            join(t, i--);
}

/* Three in a row become one token: the comparison is with the part that was read last. */
static void merge_repeated(mica_chinese_text *t)
{
    for (size_t i = 1; i < t->token_count; i++)
        if (is_word(t, &t->tokens[i]) && same_word(t, &t->tokens[i - 1], &t->tokens[i]))
            join(t, i);
}

static bool all_third(const mica_chinese_text *t, const mica_chinese_token *token)
{
    for (size_t i = 0; i < token->size; i++)
        if (mica_tone(t->readings[token->begin + i]) != 3)
            return false;
    return true;
}

static bool repeats(const mica_chinese_text *t, const mica_chinese_token *token)
{
    return token->size == 2 && t->chars[token->begin] == t->chars[token->begin + 1];
}

/* 家里: its third tone becomes light and changes nothing before. */
static bool ends_lightly(const mica_chinese_text *t, const mica_chinese_token *token)
{
    const uint32_t last = t->chars[token->begin + token->size - 1];
    return token->size > 1 && token->pos[1] == '\0' && strchr("slf", token->pos[0]) != NULL &&
           (last == 0x91ccu /* 里 */ || last == 0x4e0bu || last == 0x4e0au);
}

/* whole: both tokens are third tones throughout; else only where they meet. A token that was
 * joined to the one before takes no other. */
static void merge_third(mica_chinese_text *t, bool whole)
{
    bool joined = false;
    for (size_t i = 1; i < t->token_count; i++) {
        const mica_chinese_token *a = &t->tokens[i - 1], *b = &t->tokens[i];
        const bool third = whole ? all_third(t, a) && all_third(t, b)
                                 : mica_tone(t->readings[a->begin + a->size - 1]) == 3 &&
                                       mica_tone(t->readings[b->begin]) == 3;
        if (third && !joined && !repeats(t, a) && !ends_lightly(t, a) &&
            a->size + b->size <= LONGEST) {
            join(t, i--);
            joined = true;
        } else
            joined = false;
    }
}

static void merge_er(mica_chinese_text *t)
{
    for (size_t i = 1; i < t->token_count; i++)
        if (is_char(t, &t->tokens[i], HAN_ER) && is_word(t, &t->tokens[i - 1]))
            join(t, i--);
}

void mica_chinese_merge(mica_chinese_text *t)
{
    merge_cannot(t);
    merge_bu(t);
    merge_yi(t);
    merge_repeated(t);
    merge_third(t, true);
    merge_third(t, false);
    merge_er(t);
}
