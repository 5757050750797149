/* chinese_readings.c - which reading a character has here.
 *
 *     the word is in the dictionary       its readings there: 银行 hang2, 行走 xing2
 *     a reader has an answer              that (g2pW, where its file is there)
 *     it is not (names, joined numbers)   the longest dictionary words inside it
 *     one character that is read in       by its word class and its neighbours:
 *     several ways                        只 zhi3 as an adverb, zhi1 as a measure word
 *
 * Without a reader the last step stands in for the network (g2pW) that upstream asks about every ambiguous
 * character; it decides the frequent ones and leaves the rest to the usual reading. */
#include "speech/chinese.h"

#include "base/utf8.h"

#include <string.h>

/* ---- single characters ---- */

/* What is done for a while, so that 着 behind it is zhe5 whatever follows: 冒着火, 带着凉意. */
#define BEARING "冒对朝向围提带背拿举顶迎沿顺随跟望看守抱隔有"

/* before, behind: the character next to it is one of these; "^" among them is the beginning of a
 * clause; "" does not ask. pos: the class begins
 * with one of these letters; "" does not ask. The first rule that fits decides. */
static const struct context_rule {
    const char *character, *before, *behind, *pos, *syllable;
    int tone;
} context_rules[] = {
    {"得", "^", "了到奖分出知着", "", "de", 2},
    {"得", "", "了奖", "", "de", 2},
    {"得", "^都也就还又总必非你我他她它们这那可", "", "", "dei", 3},
    {"得", "", "", "", "de", 5},
    {"只", "一二三四五六七八九十百千万两几多半这那每整各", "", "", "zhi", 1},
    {"只", "", "", "q", "zhi", 1},
    {"只", "", "", "", "zhi", 3},
    {"为", "", "了何此什谁人我你他她它", "", "wei", 4},
    {"为", "因成作认以称名变分视", "", "", "wei", 2},
    {"为", "", "", "v", "wei", 2},
    {"为", "", "", "", "wei", 4},
    {"还", "", "给钱书债清款回", "", "huan", 2},
    {"还", "要得该来去偿归", "", "v", "huan", 2},
    {"还", "", "", "", "hai", 2},
    {"长", "又很太更最较真好这那么多不够", "", "", "chang", 2},
    {"长", "", "得大高成出满胖在着了", "", "zhang", 3},
    {"长", "市校局部院处科班会团队村镇县区厂船机家队", "", "", "zhang", 3},
    {"重", "很太更最较真这那么多好不", "", "", "zhong", 4},
    {"重", "", "新来复做建修写读启试", "", "chong", 2},
    {"种", "", "树花菜地田草了过着下", "", "zhong", 4},
    {"种", "", "", "v", "zhong", 4},
    {"种", "", "", "", "zhong", 3},
    {"好", "爱喜", "", "", "hao", 4},
    {"数", "", "钱一数了着", "", "shu", 3},
    {"数", "", "", "v", "shu", 3},
    {"数", "", "", "", "shu", 4},
    {"行", "一二三四五六七八九十百千两几多半这那每第", "", "", "hang", 2},
    {"行", "银商各内外同本", "", "", "hang", 2},
    {"行", "", "", "", "xing", 2},
    {"都", "首成京古故帝", "", "", "du", 1},
    {"都", "", "市", "", "du", 1},
    {"都", "", "", "", "dou", 1},
    {"更", "三五深", "", "", "geng", 1},
    {"更", "", "", "", "geng", 4},
    {"干", "", "杯净燥旱粮", "", "gan", 1},
    {"干", "", "", "a", "gan", 1},
    {"干", "", "", "", "gan", 4},
    {"当", "", "成作做真铺", "", "dang", 4},
    {"当", "", "", "", "dang", 1},
    {"倒", "", "了塌下在地闭", "", "dao", 3},
    {"倒", "摔跌打推病晕滑绊", "", "", "dao", 3},
    {"倒", "", "", "", "dao", 4},
    {"教", "", "书我你他她们会学给", "", "jiao", 1},
    {"教", "", "", "v", "jiao", 1},
    {"几", "", "乎", "", "ji", 1},
    {"几", "", "", "", "ji", 3},
    {"应", "", "", "v", "ying", 1},
    {"切", "", "", "v", "qie", 1},
    {"少", "", "年女", "", "shao", 4},
    {"少", "", "", "", "shao", 3},
    {"背", "", "着书包起", "", "bei", 1},
    {"背", "", "", "", "bei", 4},
    {"弹", "", "琴钢吉奏", "", "tan", 2},
    {"弹", "", "", "v", "tan", 2},
    {"弹", "", "", "", "dan", 4},
    {"差", "出", "", "", "chai", 1},
    {"差", "很太更最较真", "", "", "cha", 4},
    {"转", "", "了圈动来", "", "zhuan", 4},
    {"转", "", "", "", "zhuan", 3},
    {"传", "自外正", "", "", "zhuan", 4},
    {"传", "", "", "", "chuan", 2},
    {"发", "头理白黑长短金", "", "n", "fa", 4},
    {"发", "", "", "", "fa", 1},
    {"难", "", "", "n", "nan", 4},
    {"难", "", "", "", "nan", 2},
    {"空", "", "", "n", "kong", 4},
    {"空", "有没抽", "", "", "kong", 4},
    {"空", "", "", "", "kong", 1},
    {"乐", "音", "", "", "yue", 4},
    {"乐", "", "", "", "le", 4},
    {"便", "", "宜", "", "pian", 2},
    {"便", "", "", "", "bian", 4},
    {"着", "睡找点猜抓够得不", "", "", "zhao", 2},
    {"着", "火灯柴炭煤子", "起得不", "", "zhao", 2}, /* burn */
    {"着", "", "了", "", "zhao", 2},                 /* zhe and le do not meet */
    {"着", "^你我他她它们", "什", "", "zhao", 2},
    {"着", BEARING, "火急凉", "", "zhe", 5},
    {"着", "", "急火凉迷", "", "zhao", 2},
    {"着", "", "", "", "zhe", 5},
    {"了", "", "解", "", "liao", 3},
    {"了", "不", "", "", "liao", 3},
    {"了", "", "", "", "le", 5},
    {"看", "", "守门家护", "", "kan", 1},
    {"看", "", "", "", "kan", 4},
    {"薄", "", "", "", "bao", 2},
    {"血", "", "", "", "xue", 4},
    {"中", "命打击射猜", "", "", "zhong", 4},
    {"中", "", "", "", "zhong", 1},
    {"分", "", "", "", "fen", 1},
    {"相", "照真", "", "", "xiang", 4},
    {"相", "", "", "", "xiang", 1},
    {"假", "放请休寒暑", "", "", "jia", 4},
    {"假", "", "", "", "jia", 3},
    {"将", "", "", "", "jiang", 1},
    {"待", "", "", "", "dai", 4},
    {"量", "", "一了体血", "", "liang", 2},
    {"量", "一", "", "v", "liang", 2},
    {"量", "", "", "v", "liang", 2},
    {"量", "", "", "", "liang", 4},
    {"角", "", "色", "", "jue", 2},
    {"角", "", "", "", "jiao", 3},
    {"间", "", "", "", "jian", 1},
    {"钉", "", "", "v", "ding", 4},
    {"冲", "", "", "", "chong", 1},
    {"处", "", "理分罚置于", "", "chu", 3},
    {"处", "", "", "", "chu", 4},
    {"率", "", "领先", "", "shuai", 4},
    {"率", "", "", "", "lv", 4},
    {"累", "", "积计", "", "lei", 3},
    {"累", "", "", "", "lei", 4},
    {"卷", "", "起入", "", "juan", 3},
    {"吐", "呕", "", "", "tu", 4},
    {"吐", "", "", "", "tu", 3},
    {"散", "", "", "v", "san", 4},
    {"露", "", "出面脸", "", "lu", 4},
    {"宿", "一三", "", "", "xiu", 3},
    {"折", "一二三四五六七八九", "", "", "zhe", 2},
    {"似", "", "的", "", "shi", 4},
    {"似", "", "", "", "si", 4},
};

static bool fits(const struct context_rule *r, const mica_chinese_text *t, size_t at,
                 const char *pos)
{
    if (!mica_utf8_holds(r->character, t->chars[at]))
        return false;
    const bool starts = at == 0 || !mica_is_han(t->chars[at - 1]);
    if (r->before[0] != '\0' &&
        !(starts ? r->before[0] == '^' : mica_utf8_holds(r->before, t->chars[at - 1])))
        return false;
    if (r->behind[0] != '\0' &&
        (at + 1 >= t->size || !mica_utf8_holds(r->behind, t->chars[at + 1])))
        return false;
    return r->pos[0] == '\0' || (pos[0] != '\0' && strchr(r->pos, pos[0]) != NULL);
}

/* 地 between two characters of an adverb and what they tell about: 高兴地走. Words with 地 in them
 * are in the dictionary and do not come here. */
static bool is_adverbial(const mica_chinese_text *t, size_t at)
{
    return t->chars[at] == 0x5730u && at >= 2 && at + 1 < t->size &&
           mica_is_han(t->chars[at - 1]) && mica_is_han(t->chars[at - 2]) &&
           mica_is_han(t->chars[at + 1]) &&
           !mica_utf8_holds("这那本该此两各当某三四五几每在", t->chars[at - 1]);
}

/* pos: the class of a token of one character; "" inside a longer token. */
static void read_single(const mica_chinese *c, mica_chinese_text *t, size_t at, const char *pos)
{
    if (t->answers && t->answers[at] >= 0) {
        t->readings[at] = t->answers[at];
        return;
    }
    t->readings[at] = mica_chinese_dict_reading(&c->dict, t->chars[at], 0);
    if (is_adverbial(t, at)) {
        t->readings[at] = mica_chinese_dict_reading_of(&c->dict, "de", 5);
        return;
    }
    for (size_t i = 0; i < MICA_ARRAY_LEN(context_rules); i++)
        if (fits(&context_rules[i], t, at, pos)) {
            const int reading = mica_chinese_dict_reading_of(&c->dict, context_rules[i].syllable,
                                                             context_rules[i].tone);
            if (reading >= 0)
                t->readings[at] = reading;
            return;
        }
}

/* Dictionary words inside a token, longest first; what is left are single characters. A reader's answers
 * come before words that are only a part of the token. */
static void read_inside(const mica_chinese *c, mica_chinese_text *t,
                        const mica_chinese_token *token)
{
    const size_t begin = token->begin, size = token->size;
    for (size_t at = 0; at < size;) {
        mica_chinese_word word;
        size_t n = MICA_MIN(size - at, (size_t)MICA_CHINESE_LONGEST);
        while (n > 1 && !mica_chinese_dict_find(&c->dict, t->chars + begin + at, n, &word))
            n--;
        for (size_t i = 0; n > 1 && i < n; i++) {
            const int answer = t->answers && n < size ? t->answers[begin + at + i] : -1;
            t->readings[begin + at + i] = answer >= 0 ? answer : word.readings[i];
        }
        if (n == 1)
            read_single(c, t, begin + at, size == 1 ? token->pos : "");
        at += n;
    }
}

/* 来 + 不了: the verb cannot, so 了 is liao3. */
static void read_cannot(const mica_chinese *c, mica_chinese_text *t,
                        const mica_chinese_token *token)
{
    const size_t at = token->begin;
    if (token->size != 2 || at == 0 || !mica_is_han(t->chars[at - 1]) || t->chars[at] != 0x4e0du ||
        t->chars[at + 1] != 0x4e86u || (t->answers && t->answers[at + 1] >= 0))
        return;
    const int reading = mica_chinese_dict_reading_of(&c->dict, "liao", 3);
    if (reading >= 0)
        t->readings[at + 1] = reading;
}

/* A rain, an illness, a war is counted with 场 chang2, whether 一场 is one word or two. */
static void read_event(const mica_chinese *c, mica_chinese_text *t, const mica_chinese_token *token)
{
    const size_t at = token->begin + token->size - 1;
    if (t->chars[at] != 0x573au /* 场 */ || at == 0 || at + 1 >= t->size ||
        (t->answers && t->answers[at] >= 0 && token->size == 1) ||
        !mica_utf8_holds("一这那几两三", t->chars[at - 1]) ||
        !mica_utf8_holds("雨雪大病战梦灾空", t->chars[at + 1]))
        return;
    const int reading = mica_chinese_dict_reading_of(&c->dict, "chang", 2);
    if (reading >= 0)
        t->readings[at] = reading;
}

/* 着火, 着凉, 着急 are words, but not behind what can last; words that end in 着 are, but not before 了:
 * 烧着了. */
static void read_lasting(const mica_chinese *c, mica_chinese_text *t,
                         const mica_chinese_token *token)
{
    const size_t at = token->begin, last = at + token->size - 1;
    int reading = -1;
    if (token->size < 2)
        return;
    if (at > 0 && t->chars[at] == 0x7740u /* 着 */ && mica_utf8_holds("火急凉", t->chars[at + 1]) &&
        mica_utf8_holds(BEARING, t->chars[at - 1])) {
        reading = mica_chinese_dict_reading_of(&c->dict, "zhe", 5);
        t->readings[at] = reading >= 0 ? reading : t->readings[at];
    }
    if (t->chars[last] == 0x7740u && last + 1 < t->size && t->chars[last + 1] == 0x4e86u /* 了 */) {
        reading = mica_chinese_dict_reading_of(&c->dict, "zhao", 2);
        t->readings[last] = reading >= 0 ? reading : t->readings[last];
    }
}

/* The token names people: 校长, 孩子, 我们. Word classes do not tell 班长 from 生长. */
static bool is_who(const mica_chinese_text *t, const mica_chinese_token *token)
{
    const uint32_t *end = t->chars + token->begin + token->size;
    if (token->size < 2)
        return false;
    if (end[-1] == 0x957fu /* 长 */)
        return mica_utf8_holds(
            "校班组队院部局市县镇村区会厂船机社科处州省站所馆团军师旅营连排司行店家室系事士书",
            end[-2]);
    return strchr("nr", token->pos[0]) != NULL &&
           mica_utf8_holds("员师生人家们者友妈爸爷奶哥姐弟妹子工民手", end[-1]);
}

/* 得 tells how something is done behind verbs and adjectives; people must (校长得去, 孩子得睡觉) or get
 * (孩子得病, but 队长得分析). */
static void read_must(const mica_chinese *c, mica_chinese_text *t, size_t index)
{
    const mica_chinese_token *token = &t->tokens[index], *next = token + 1;
    const size_t at = token->begin;
    mica_chinese_word word;
    if (index == 0 || t->chars[at] != 0x5f97u /* 得 */ || at + 1 >= t->size ||
        !mica_is_han(t->chars[at + 1]) || (t->answers && t->answers[at] >= 0) ||
        token[-1].begin + token[-1].size != at || !is_who(t, token - 1) ||
        (token->size > 1 && mica_chinese_dict_find(&c->dict, t->chars + at, token->size, &word)))
        return;
    const bool is_joined = token->size == 1 && index + 1 < t->token_count && next->size > 1;
    if (t->chars[at + 1] == 0x5956u /* 奖 */ ||
        (!is_joined && mica_utf8_holds("了到分出知病胜力益罪名逞救手主很", t->chars[at + 1])))
        return;
    const int reading = mica_chinese_dict_reading_of(&c->dict, "dei", 3);
    if (reading >= 0)
        t->readings[at] = reading;
}

void mica_chinese_find_readings(const mica_chinese *c, mica_chinese_text *t)
{
    for (size_t i = 0; i < t->token_count; i++) {
        const mica_chinese_token *token = &t->tokens[i];
        if (!mica_is_han(t->chars[token->begin])) {
            t->readings[token->begin] = -1;
            continue;
        }
        read_inside(c, t, token);
        read_cannot(c, t, token);
        read_event(c, t, token);
        read_lasting(c, t, token);
        read_must(c, t, i);
    }
}
