/* chinese_sandhi.c - tones that change in company, word by word, in this order:
 *
 *     不        A不B light; before a fourth tone second
 *     一        A一A light; 第一 first; before a fourth tone second, else fourth
 *     light     nǎinai, 了 着 过, 们 子, 桌上, 出来, 三个, 朋友
 *     third     33 -> 23, by the parts of the word; 手里 35 -> 25
 *     儿        takes the tone of the syllable before it, except where it is a word of its own
 *
 * GPT-SoVITS text/tone_sandhi.py and text/chinese2.py are the reference. Different here: endings that
 * are particles only when they stand alone (吧 in 酒吧, 的 in 目的, 滴, 额) keep their tone in words. */
#include "speech/chinese.h"

#include "speech/chinese_neutral.h"

#include "base/utf8.h"

#include <string.h>

#define HAN_BU 0x4e0du /* 不 */
#define HAN_YI 0x4e00u /* 一 */
#define HAN_ER 0x513fu /* 儿 */
#define HAN_GE 0x4e2au /* 个 */
#define HAN_LI 0x91ccu /* 里 */

typedef struct word {
    const mica_chinese *c;
    const uint32_t *chars;
    int *readings;
    size_t size;
    const char *pos;
    mica_arena *arena;
    size_t split;            /* characters of the first of its two halves */
    uint32_t before, behind; /* the characters around the word; 0: none */
} word;

/* The characters at `at` are those of a UTF-8 text. */
static bool has_at(const word *w, size_t at, const char *text)
{
    for (size_t i = 0, n = strlen(text); i < n; at++) {
        uint32_t cp;
        i += mica_utf8_decode(text + i, n - i, &cp);
        if (at >= w->size || w->chars[at] != cp)
            return false;
    }
    return true;
}

static bool is_word(const word *w, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (has_at(w, 0, list[i]) && strlen(list[i]) == 3 * w->size)
            return true;
    return false;
}

static int tone(const word *w, size_t i)
{
    return mica_tone(w->readings[i]);
}

static void set_tone(word *w, size_t i, int to)
{
    w->readings[i] = mica_with_tone(w->readings[i], to);
}

static bool is_numeral(uint32_t cp)
{
    return mica_utf8_holds("零一二三四五六七八九十百千万亿两〇", cp);
}

/* ---- 不 and 一 ---- */

static void bu_sandhi(word *w)
{
    /* 看不懂, 好不好; an adverb before it changes nothing: 真不错 */
    if (w->size == 3 && w->chars[1] == HAN_BU &&
        !mica_utf8_holds("真很太都也就还更最倒并从", w->chars[0])) {
        set_tone(w, 1, 5);
        return;
    }
    for (size_t i = 0; i + 1 < w->size; i++)
        if (w->chars[i] == HAN_BU && tone(w, i + 1) == 4)
            set_tone(w, i, 2);
}

static bool all_numerals(const word *w)
{
    for (size_t i = 0; i < w->size; i++)
        if (!is_numeral(w->chars[i]))
            return false;
    return true;
}

/* The 一 of a date or at the end of a number (一月, 十一个) is said as it is counted. */
static bool counts(const word *w, size_t i)
{
    const uint32_t before = i > 0 ? w->chars[i - 1] : w->before, behind = w->chars[i + 1];
    const uint32_t next = i + 2 < w->size ? w->chars[i + 2] : w->behind;
    if (behind == 0x70b9u /* 点 */ && is_numeral(next))
        return true; /* 一点七五; not 一点半 */
    if (mica_utf8_holds("加减乘除", behind) || mica_utf8_holds("加减乘除比", before))
        return true;
    if (behind == 0x7b49u /* 等 */ && mica_utf8_holds("奖品功座舱", next))
        return true;
    if (mica_utf8_holds("月号楼", behind) ||
        (before == 0x6708u /* 月 */ && behind == 0x65e5u /* 日 */))
        return true;
    return is_numeral(before) && !mica_utf8_holds("百千", behind);
}

/* 一百, 三千一百, 一万; not 第一百, 二十一万. */
static bool heads_unit(const word *w, size_t i)
{
    const uint32_t before = i > 0 ? w->chars[i - 1] : w->before, behind = w->chars[i + 1];
    return w->chars[i] == HAN_YI && before != 0x7b2cu /* 第 */ &&
           (mica_utf8_holds("百千", behind) ||
            (mica_utf8_holds("万亿", behind) && !is_numeral(before)));
}

static void yi_sandhi(word *w)
{
    const bool number = all_numerals(w);
    for (size_t i = 0; number && i + 1 < w->size; i++)
        if (heads_unit(w, i))
            set_tone(w, i, tone(w, i + 1) == 4 ? 2 : 4);
    if (number)
        return;
    if (w->size == 3 && w->chars[1] == HAN_YI && w->chars[0] == w->chars[2]) {
        set_tone(w, 1, 5);
        return;
    }
    if (has_at(w, 0, "第一")) {
        set_tone(w, 1, 1);
        return;
    }
    for (size_t i = 0; i + 1 < w->size; i++)
        if (w->chars[i] == HAN_YI && tone(w, i + 1) > 0 && !counts(w, i))
            set_tone(w, i, tone(w, i + 1) == 4 ? 2 : 4);
}

/* ---- light syllables ---- */

static bool keeps_repetition(const word *w)
{
    static const char *const full[] = {
        "人人", "虎虎", "幺幺", "哈哈", "数数", "袅袅", "想想",     "熙熙",     "攘攘",
        "死死", "冉冉", "恳恳", "佼佼", "吵吵", "打打", "考考",     "整整",     "莘莘",
        "青青", "天天", "年年", "处处", "家家", "纷纷", "渐渐",     "深深",     "高高",
        "慢慢", "常常", "往往", "刚刚", "远远", "满满", "花花草草", "家家户户", "娃哈哈"};
    return is_word(w, full, MICA_ARRAY_LEN(full));
}

/* 高高兴兴: the second syllable is light, the others are full; 爷爷奶奶: two words. */
static bool doubled_pairs(word *w)
{
    if (w->size != 4 || w->chars[0] != w->chars[1] || w->chars[2] != w->chars[3])
        return false;
    for (size_t i = 0; i < 4; i++)
        if (tone(w, i) == 5) {
            const int usual = mica_chinese_dict_reading(&w->c->dict, w->chars[i], 0);
            w->readings[i] = usual >= 0 ? usual : w->readings[i];
        }
    if (!keeps_repetition(w) && !is_numeral(w->chars[0])) /* not 七七八八 */
        set_tone(w, 1, 5);
    mica_chinese_word known;
    if (strcmp(w->pos, "n") == 0 && mica_chinese_dict_find(&w->c->dict, w->chars, 4, &known))
        set_tone(w, 3, 5);
    return true;
}

/* 散散步: the verb of a word, said twice; not 团团转. */
static bool doubles_verb(const word *w)
{
    mica_chinese_word whole, verb;
    char class[8];
    if (w->size != 3 || w->chars[0] != w->chars[1] ||
        !mica_chinese_dict_find(&w->c->dict, w->chars + 1, 2, &whole) ||
        !mica_chinese_dict_find(&w->c->dict, w->chars, 1, &verb))
        return false;
    mica_chinese_class_name(&w->c->dict, verb.word_class, class);
    return class[0] == 'v';
}

static void light_repetition(word *w)
{
    if (doubles_verb(w))
        set_tone(w, 1, 5);
    if (strchr("nva", w->pos[0]) == NULL || w->pos[0] == '\0' || keeps_repetition(w))
        return;
    /* at the end of the word: 奶奶, 老奶奶; not 银行行长, and not 八八 of a number */
    if (w->size > 1 && w->size < 4 && w->chars[w->size - 1] == w->chars[w->size - 2] &&
        !is_numeral(w->chars[w->size - 1]))
        set_tone(w, w->size - 1, 5);
}

static bool ends_with(const word *w, const char *set)
{
    return mica_utf8_holds(set, w->chars[w->size - 1]);
}

static bool is_pos(const word *w, const char *a, const char *b, const char *c)
{
    return strcmp(w->pos, a) == 0 || strcmp(w->pos, b) == 0 || strcmp(w->pos, c) == 0;
}

/* 子 keeps its tone where the dictionary says so (男子, 电子): only unknown words are made light. */
static bool light_zi(const word *w)
{
    mica_chinese_word known;
    if (!is_pos(w, "r", "n", "n"))
        return false;
    return ends_with(w, "们") || !mica_chinese_dict_find(&w->c->dict, w->chars, w->size, &known);
}

static size_t find_char(const word *w, uint32_t cp)
{
    size_t i = 0;
    while (i < w->size && w->chars[i] != cp)
        i++;
    return i;
}

static bool light_ending(const word *w, size_t *at)
{
    const size_t last = w->size - 1, ge = find_char(w, HAN_GE);
    *at = last;
    if (w->size == 1 && ends_with(w, "吧呢哈啊呐噻嘛吖嗨哦哒滴哩哟喽啰耶喔诶吗啦呀嘞"))
        return true;
    if (ends_with(w, "的地得") && (w->size == 1 ? tone(w, 0) == 5 : false))
        return true;
    if (w->size == 1 && ends_with(w, "过") && is_pos(w, "ul", "uz", "ug"))
        return true; /* 了 le and 着 zhe are light as they are, liǎo and zháo never */
    if (w->size > 1 && ends_with(w, "们子"))
        return light_zi(w);
    if (w->size > 1 && ends_with(w, "上下里") && is_pos(w, "s", "l", "f"))
        return true;
    if (w->size > 1 && ends_with(w, "来去") &&
        mica_utf8_holds("上下进出回过起开", w->chars[last - 1]))
        return true;
    *at = ge;
    if (ge == 0 && w->size == 1)
        return true;
    return ge > 0 && ge < w->size &&
           (is_numeral(w->chars[ge - 1]) ||
            mica_utf8_holds("几有两半多各整每做是这那哪", w->chars[ge - 1]));
}

static bool light_pair(const word *w, size_t end)
{
    return end >= 2 && mica_chinese_is_light(w->chars[end - 2], w->chars[end - 1]);
}

static void light_sandhi(word *w)
{
    size_t at;
    if (doubled_pairs(w))
        return;
    light_repetition(w);
    if (light_ending(w, &at))
        set_tone(w, at, 5);
    else if (light_pair(w, w->size))
        set_tone(w, w->size - 1, 5);
    if (w->split > 0 && w->split < w->size) { /* the same for its halves */
        if (light_pair(w, w->split))
            set_tone(w, w->split - 1, 5);
        if (w->size - w->split >= 2 && light_pair(w, w->size))
            set_tone(w, w->size - 1, 5);
    }
}

/* ---- third tones ---- */

static bool all_third(const word *w, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        if (tone(w, i) != 3)
            return false;
    return end > begin;
}

static void third_of_three(word *w)
{
    const size_t split = w->split;
    if (all_third(w, 0, 3)) {
        if (split == 2) { /* 蒙古 + 包 */
            set_tone(w, 0, 2);
            set_tone(w, 1, 2);
        } else if (split == 1) /* 纸 + 老虎 */
            set_tone(w, 1, 2);
        return;
    }
    if (split == 2 && all_third(w, 0, 2)) /* 所有 + 人 */
        set_tone(w, 0, 2);
    else if (split == 1 && all_third(w, 1, 3))
        set_tone(w, 1, 2);
    else if (split < 3 && tone(w, split) == 3 && tone(w, split - 1) == 3) /* 好 + 喜欢 */
        set_tone(w, split - 1, 2);
}

/* 手里, 眼里: the light 里 was a third tone, and the one before it is said as before one. */
static void third_before_li(word *w)
{
    const size_t last = w->size - 1;
    if (w->size > 1 && w->chars[last] == HAN_LI && tone(w, last) == 5 && tone(w, last - 1) == 3)
        set_tone(w, last - 1, 2);
}

static void third_sandhi(word *w)
{
    third_before_li(w);
    if (w->size == 2 && all_third(w, 0, 2))
        set_tone(w, 0, 2);
    else if (w->size == 3 && w->split > 0)
        third_of_three(w);
    else if (w->size == 4) {
        if (all_third(w, 0, 2))
            set_tone(w, 0, 2);
        if (all_third(w, 2, 4))
            set_tone(w, 2, 2);
    }
}

/* ---- 儿 ---- */

/* Words in which 儿 is a child, a creature or a name, and so a syllable of its own. */
static bool keeps_er(const word *w)
{
    static const char *const own[] = {
        "女儿",   "男儿",   "婴儿",   "幼儿",   "孤儿",   "患儿",   "少儿",   "胎儿",   "健儿",
        "宠儿",   "弃儿",   "孩儿",   "妻儿",   "侄儿",   "孙儿",   "我儿",   "俺儿",   "有儿",
        "一儿",   "为儿",   "护儿",   "瞒儿",   "救儿",   "替儿",   "虐儿",   "拐儿",   "聋儿",
        "乞儿",   "美儿",   "可儿",   "祖儿",   "舫儿",   "花儿",   "虫儿",   "马儿",   "鸟儿",
        "猪儿",   "猫儿",   "狗儿",   "婴幼儿", "连体儿", "脑瘫儿", "流浪儿", "体弱儿", "混血儿",
        "早产儿", "新生儿", "蜜雪儿", "侄孙儿", "红孩儿", "应采儿"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(own); i++) {
        const size_t n = strlen(own[i]) / 3;
        if (n <= w->size && has_at(w, w->size - n, own[i]) && (n == w->size || n == 2))
            return true;
    }
    return false;
}

static bool always_joins(const word *w)
{
    static const char *const joined[] = {"小院儿", "胡同儿",   "范儿",   "老汉儿",
                                         "撒欢儿", "寻老礼儿", "妥妥儿", "媳妇儿"};
    return is_word(w, joined, MICA_ARRAY_LEN(joined));
}

static void join_er(word *w)
{
    if (w->size < 2 || w->chars[w->size - 1] != HAN_ER)
        return;
    if (tone(w, w->size - 1) == 1)
        set_tone(w, w->size - 1, 2);
    if (!always_joins(w) && (keeps_er(w) || is_pos(w, "a", "j", "nr"))) {
        set_tone(w, w->size - 1, 2);
        return;
    }
    set_tone(w, w->size - 1, tone(w, w->size - 2));
}

/* Where the shortest word inside begins or ends is where the word has its joint. */
static bool find_split(word *w)
{
    size_t first, length;
    if (!mica_chinese_split(w->c, w->chars, w->size, w->arena, &first, &length))
        return false;
    w->split = first == 0 ? length : w->size - length;
    return true;
}

bool mica_chinese_sandhi(const mica_chinese *c, mica_chinese_text *t)
{
    for (size_t i = 0; i < t->token_count; i++) {
        const mica_chinese_token *token = &t->tokens[i];
        if (!mica_is_han(t->chars[token->begin]))
            continue;
        word w = {c,
                  t->chars + token->begin,
                  t->readings + token->begin,
                  token->size,
                  token->pos,
                  t->arena,
                  0,
                  token->begin > 0 ? t->chars[token->begin - 1] : 0,
                  token->begin + token->size < t->size ? t->chars[token->begin + token->size] : 0};
        if (w.size > 1 && !find_split(&w))
            return false;
        bu_sandhi(&w);
        yi_sandhi(&w);
        light_sandhi(&w);
        third_sandhi(&w);
        join_er(&w);
    }
    return true;
}
