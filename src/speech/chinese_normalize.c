/* chinese_normalize.c - what is written but not said as written (GPT-SoVITS text/zh_normalization is the
 * reference; what is added or mended here is marked +).
 *
 *     "2025年1月31日下午3:30，气温-5℃，涨了2.5%" ->
 *     "二零二五年一月三十一日下午三点半,气温零下五度,涨了百分之二点五"
 *
 * Order is meaning: dates before times before ranges before units before bare numbers. Three and
 * more bare digits are read one by one, as in house and telephone numbers. */
#include "speech/chinese.h"

#include "speech/chinese_numbers.h"

#include "base/utf8.h"

#include <string.h>

static void cardinal_group(mica_text *out, const mica_match *m)
{
    mica_chinese_cardinal(out, mica_match_group(m, 1));
}

/* A number that may have commas between its thousands. */
static void put_grouped(mica_text *out, mica_slice s)
{
    mica_text plain = {0};
    for (size_t i = 0; i < s.size; i++)
        if (s.text[i] != ',')
            mica_text_add_bytes(&plain, s.text + i, 1);
    if (plain.data != NULL)
        mica_chinese_number(out, (mica_slice){plain.data, plain.size});
    out->failed |= plain.failed;
    mica_text_deinit(&plain);
}

/* "1,234,567.8" (+) */
static void grouped_number(mica_text *out, const mica_match *m)
{
    put_grouped(out, mica_match_group(m, 0));
}

/* ---- dates and times ---- */

/* Groups: year, month, day, the day's word. */
static void date(mica_text *out, const mica_match *m)
{
    const mica_slice month = mica_match_group(m, 2), day = mica_match_group(m, 3);
    mica_chinese_digits(out, mica_match_group(m, 1), false);
    mica_rule_put(out, "年");
    if (month.size > 0) {
        mica_chinese_cardinal(out, month);
        mica_rule_put(out, "月");
    }
    if (day.size > 0) {
        mica_chinese_cardinal(out, day);
        mica_rule_put_slice(out, mica_match_group(m, 4));
    }
}

/* "2022-2024年" (+) */
static void year_range(mica_text *out, const mica_match *m)
{
    mica_chinese_digits(out, mica_match_group(m, 1), false);
    mica_rule_put(out, "到");
    mica_chinese_digits(out, mica_match_group(m, 2), false);
}

/* Groups: year, separator, month, day. */
static void short_date(mica_text *out, const mica_match *m)
{
    mica_chinese_digits(out, mica_match_group(m, 1), false);
    mica_rule_put(out, "年");
    mica_chinese_cardinal(out, mica_match_group(m, 3));
    mica_rule_put(out, "月");
    mica_chinese_cardinal(out, mica_match_group(m, 4));
    mica_rule_put(out, "日");
}

static void digits_group(mica_text *out, const mica_match *m)
{
    mica_chinese_digits(out, mica_match_group(m, 1), false);
}

/* 05 is 零五, 15 is 十五. */
static void put_clock(mica_text *out, mica_slice part, const char *unit)
{
    if (part.size > 1 && part.text[0] == '0')
        mica_rule_put(out, "零");
    mica_chinese_cardinal(out, part);
    mica_rule_put(out, unit);
}

static void put_time(mica_text *out, const mica_match *m, size_t group)
{
    const mica_slice hour = mica_match_group(m, group), minute = mica_match_group(m, group + 1);
    const mica_slice second = mica_match_group(m, group + 2);
    if (mica_slice_is(hour, "2") || mica_slice_is(hour, "02"))
        mica_rule_put(out, "两"); /* + */
    else
        mica_chinese_cardinal(out, hour);
    mica_rule_put(out, "点");
    const bool seconds = second.size > 0 && !mica_slice_is(second, "00");
    if (mica_slice_is(minute, "30") && !seconds)
        mica_rule_put(out, "半");
    else if (!mica_slice_is(minute, "00") || seconds)
        put_clock(out, minute, "分");
    if (seconds)
        put_clock(out, second, "秒");
}

static void clock_time(mica_text *out, const mica_match *m)
{
    put_time(out, m, 1);
}

/* "10:30am", "3pm" (+) */
static void half_day(mica_text *out, const mica_match *m)
{
    const mica_slice said = mica_match_group(m, 1);
    const char half = mica_match_group(m, 4).text[0];
    if (said.size > 0)
        mica_rule_put_slice(out, said);
    else
        mica_rule_put(out, half == 'a' || half == 'A' ? "上午" : "下午");
    mica_rule_put_slice(out, mica_match_group(m, 2));
    if (mica_match_group(m, 3).size > 0)
        mica_rule_put_slice(out, mica_match_group(m, 3));
    else
        mica_rule_put(out, "点");
}

static void time_range(mica_text *out, const mica_match *m)
{
    put_time(out, m, 1);
    mica_rule_put(out, "至");
    put_time(out, m, 4);
}

/* ---- numbers with company ---- */

static void temperature(mica_text *out, const mica_match *m)
{
    mica_rule_put(out, mica_match_group(m, 1).size > 0 ? "零下" : "");
    mica_chinese_number(out, mica_match_group(m, 2));
    const mica_slice unit = mica_match_group(m, 3);
    const bool fahrenheit = mica_slice_is(unit, "°F") || mica_slice_is(unit, "℉");
    mica_rule_put(out, fahrenheit ? "华氏度" : mica_slice_is(unit, "摄氏度") ? "摄氏度" : "度");
}

static void measure(mica_text *out, const mica_match *m)
{
    static const char *const names[][2] = {{"km/h", "千米每小时"},
                                           {"m/s", "米每秒"},
                                           {"cm2", "平方厘米"},
                                           {"cm²", "平方厘米"},
                                           {"cm3", "立方厘米"},
                                           {"cm³", "立方厘米"},
                                           {"km2", "平方千米"},
                                           {"km²", "平方千米"},
                                           {"m2", "平方米"},
                                           {"m²", "平方米"},
                                           {"m3", "立方米"},
                                           {"m³", "立方米"},
                                           {"cm", "厘米"},
                                           {"mm", "毫米"},
                                           {"km", "千米"},
                                           {"kg", "千克"},
                                           {"mg", "毫克"},
                                           {"ml", "毫升"},
                                           {"db", "分贝"},
                                           {"dB", "分贝"},
                                           {"ds", "毫秒"},
                                           {"ms", "毫秒"},
                                           {"m", "米"},
                                           {"g", "克"},
                                           {"L", "升"},
                                           {"s", "秒"},
                                           {"h", "小时"},
                                           {"GHz", "吉赫兹"},
                                           {"MHz", "兆赫兹"},
                                           {"kHz", "千赫兹"},
                                           {"Hz", "赫兹"},
                                           {"kWh", "千瓦时"},
                                           {"kW", "千瓦"},
                                           {"W", "瓦"},
                                           {"V", "伏"},
                                           {"mAh", "毫安时"},
                                           {"Mbps", "兆比特每秒"}};
    const mica_slice sign = mica_match_group(m, 1);
    for (size_t i = 0; i < MICA_ARRAY_LEN(names); i++)
        if (mica_slice_is(sign, names[i][0])) {
            mica_rule_put(out, names[i][1]);
            return;
        }
}
#define MEASURES                                                                                       \
    "(km/h|m/"                                                                                         \
    "s|GHz|MHz|kHz|Hz|kWh|kW|W|V|mAh|Mbps|cm2|cm²|cm3|cm³|km2|km²|m2|m²|m3|m³|cm|mm|km|kg|mg|ml|" \
    "db|dB|ds|ms|m|g|L|"                                                                               \
    "s|h)"

static void money(mica_text *out, const mica_match *m)
{
    static const char *const names[][2] = {
        {"¥", "元"}, {"$", "美元"}, {"€", "欧元"}, {"£", "英镑"}};
    const mica_slice sign = mica_match_group(m, 1);
    put_grouped(out, mica_match_group(m, 2));
    mica_rule_put_slice(out, mica_match_group(m, 3));
    for (size_t i = 0; i < MICA_ARRAY_LEN(names); i++)
        if (mica_slice_is(sign, names[i][0]))
            mica_rule_put(out, names[i][1]);
}

static void operation(mica_text *out, const mica_match *m)
{
    static const char *const names[][2] = {{"+", "加"}, {"-", "减"},   {"×", "乘"},
                                           {"÷", "除"}, {"=", "等于"}, {"*", "乘"}};
    const mica_slice sign = mica_match_group(m, 2);
    mica_rule_put_slice(out, mica_match_group(m, 1));
    for (size_t i = 0; i < MICA_ARRAY_LEN(names); i++)
        if (mica_slice_is(sign, names[i][0]))
            mica_rule_put(out, names[i][1]);
}

static void power(mica_text *out, const mica_match *m)
{
    static const char *const raised[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
    const mica_slice s = mica_match_group(m, 0);
    mica_rule_put(out, "的");
    for (size_t at = 0; at < s.size;) {
        uint32_t cp;
        const size_t n = mica_utf8_decode(s.text + at, s.size - at, &cp);
        for (int d = 0; d < 10; d++)
            if (mica_slice_is((mica_slice){s.text + at, n}, raised[d]))
                mica_chinese_digits(out, (mica_slice){&"0123456789"[d], 1}, false);
        at += n;
    }
    mica_rule_put(out, "次方");
}

static void put_sign(mica_text *out, mica_slice sign)
{
    if (sign.size > 0)
        mica_rule_put(out, "负");
}

static void fraction(mica_text *out, const mica_match *m)
{
    put_sign(out, mica_match_group(m, 1));
    mica_chinese_cardinal(out, mica_match_group(m, 3));
    mica_rule_put(out, "分之");
    mica_chinese_cardinal(out, mica_match_group(m, 2));
}

static void percentage(mica_text *out, const mica_match *m)
{
    put_sign(out, mica_match_group(m, 1));
    mica_rule_put(out, mica_slice_is(mica_match_group(m, 3), "‰") ? "千分之" : "百分之");
    mica_chinese_number(out, mica_match_group(m, 2));
}

/* Digits one by one with 幺; blanks, hyphens: a pause. */
static void telephone(mica_text *out, const mica_match *m)
{
    mica_slice s = mica_match_group(m, 0);
    for (size_t i = 0; i < s.size; i++)
        if (s.text[i] == '-' || s.text[i] == ' ')
            mica_rule_put(out, i > 0 ? "，" : "");
        else
            mica_chinese_digits(out, (mica_slice){s.text + i, 1}, true);
}

static void range(mica_text *out, const mica_match *m)
{
    put_sign(out, mica_match_group(m, 1));
    mica_chinese_number(out, mica_match_group(m, 2));
    mica_rule_put(out, "到");
    put_sign(out, mica_match_group(m, 3));
    mica_chinese_number(out, mica_match_group(m, 4));
}

/* "5%~10%": the sign stays, ~ is said. */
static void unit_range(mica_text *out, const mica_match *m)
{
    mica_rule_put_slice(out, mica_match_group(m, 1));
    mica_rule_put(out, "至");
}
#define UNITS_OF_RANGES "cm2|cm²|cm3|cm³|cm|db|ds|kg|km|m2|m²|m3|m³|ml|mm|m|s"

/* 第100页 is no telephone number, and 第2 is never 两. (+) */
static void rank(mica_text *out, const mica_match *m)
{
    mica_rule_put(out, "第");
    mica_chinese_cardinal(out, mica_match_group(m, 1));
}

/* "第3-5页" (+) */
static void rank_range(mica_text *out, const mica_match *m)
{
    rank(out, m);
    mica_rule_put(out, "到");
    mica_chinese_cardinal(out, mica_match_group(m, 2));
}

static void score(mica_text *out, const mica_match *m)
{
    mica_chinese_cardinal(out, mica_match_group(m, 1));
    mica_rule_put(out, "比");
    mica_chinese_cardinal(out, mica_match_group(m, 2));
}

static void version(mica_text *out, const mica_match *m)
{
    const mica_slice s = mica_match_group(m, 0);
    for (size_t i = 0; i < s.size; i++)
        if (s.text[i] == '.')
            mica_rule_put(out, "点");
        else
            mica_chinese_digits(out, (mica_slice){s.text + i, 1}, false);
}

static void signed_number(mica_text *out, const mica_match *m)
{
    put_sign(out, mica_match_group(m, 1));
    mica_chinese_number(out, mica_match_group(m, 2));
}

static void quantity(mica_text *out, const mica_match *m)
{
    const mica_slice number = mica_match_group(m, 1), more = mica_match_group(m, 2);
    const mica_slice unit = mica_match_group(m, 3);
    if (mica_slice_is(number, "2") && !mica_slice_is(unit, "月") && !mica_slice_is(unit, "日") &&
        !mica_slice_is(unit, "两"))
        mica_rule_put(out, "两");
    else
        mica_chinese_cardinal(out, number);
    mica_rule_put_slice(out, mica_slice_is(more, "+") ? (mica_slice){"多", 3} : more);
    mica_rule_put_slice(out, unit);
}

static void bare_digits(mica_text *out, const mica_match *m)
{
    mica_chinese_digits(out, mica_match_group(m, 0), true);
}

#define MEASURE_WORDS                                                                              \
    "(个半|个|位|名|人|口|只|头|条|匹|峰|尾|张|把|本|册|"                         \
    "页|卷|篇|章|节|段|句|行|字|首|幅|支|枝|根|棵|株|朵|"                         \
    "束|颗|粒|滴|块|片|层|栋|座|幢|间|套|户|家|所|处|台|"                         \
    "架|辆|艘|列|趟|班|次|回|遍|场|顿|番|阵|下|声|圈|步|"                         \
    "件|项|样|种|类|批|组|队|群|伙|对|双|副|串|排|堆|箱|"                         \
    "包|袋|瓶|杯|碗|盘|盆|桶|罐|壶|盒|筐|篮|锅|勺|封|份|"                         \
    "扇|面|门|课|题|届|期|集|部|款|代|世|辈|岁|年|月|日|"                         \
    "天|周|星期|季度|季|小时|分钟|秒钟|秒|分|刻|点|夜|千米|"                   \
    "公里|厘米|毫米|分米|纳米|微米|米|里|尺|寸|丈|平方|立方|"                 \
    "公顷|亩|平米|吨|公斤|千克|毫克|克|斤|两|毫升|升|度|瓦|"                   \
    "千瓦|伏|赫兹|毫安|兆|万亿|千亿|百亿|十亿|亿|千万|百万|十万|"           \
    "万|千|百|美元|欧元|英镑|日元|元|角|毛|倍|成|折|克拉|"                      \
    "英里|英尺|英寸|海里|光年|卡路里|卡|字节|像素|票|分贝)"

#define MINUS       "((?<![0-9])-|)" /* a stroke behind a digit is none */
#define DIGITS_SAID "零一二三四五六七八九十百千万亿幺两"
#define NUMBER      "([0-9]+(?:\\.[0-9]+)?)"
#define CLOCK       "([01]?[0-9]|2[0-3])[:：]([0-5][0-9])(?:[:：]([0-5][0-9]))?"
#define OPERAND     "((?:-?[0-9]+(?:\\.[0-9]+)?|[A-Za-z])[⁰¹²³⁴⁵⁶⁷⁸⁹]*)"
#define RAISED      "[⁰¹²³⁴⁵⁶⁷⁸⁹]+"

static const mica_rule rules[] = {
    {"(?<=[0-9]) (?=[0-9])(?!" CLOCK ")", NULL, ""}, /* 138 1234 5678; a time stays apart (+) */
    {"嗯", NULL, "恩"},
    {"〇", NULL, "零"},
    {"呣", NULL, "母"},
    {"[《》【】<>{}()（）#&@“”\"^_|\\\\\\[\\]「」『』]", NULL, ""},
    {"([¥$€£])([0-9]{1,3}(?:,[0-9]{3})+(?:\\.[0-9]+)?|[0-9]+(?:\\.[0-9]+)?)"
     "(万亿|千亿|百亿|亿|千万|百万|万)?",
     money, NULL},
    {"(?<![0-9,.])[0-9]{1,3}(?:,[0-9]{3})+(?:\\.[0-9]+)?(?![0-9])", grouped_number, NULL},
    {"(?<![0-9.-])([12][0-9]{3})年?[-~～至到]([12][0-9]{3})(?=年)", year_range, NULL},
    {"([0-9]{4})年(?:(0?[1-9]|1[0-2])月)?(?:(3[01]|[12][0-9]|0?[1-9])([日号]))?", date, NULL},
    {"(?<![0-9])([0-9]{2})年(0?[1-9]|1[0-2])月(?:(3[01]|[12][0-9]|0?[1-9])([日号]))?", date, NULL},
    {"(?<![0-9])(0[0-9]|[0-9]0(?=年代)|[6-9][0-9](?!年(?:前|后|来|的|多|间|内|历|时|之)))(?=年)",
     digits_group, NULL},
    {"(?<![0-9])([0-9]{4})([-/.])(0[1-9]|1[0-2])\\2(0[1-9]|[12][0-9]|3[01])(?![0-9])", short_date,
     NULL},
    {"(?<![0-9])([0-9]{4})([-/])([1-9]|1[0-2])\\2(3[01]|[12][0-9]|[1-9])(?![0-9])", short_date,
     NULL},
    {"(上午|下午|早上|晚上|中午|凌晨)?(?<![0-9])([01]?[0-9]|2[0-3])(:[0-5][0-9])?([AaPp])[Mm](?![A-"
     "Za-z])",
     half_day, NULL},
    {"(?<![0-9])" CLOCK "[~～-]" CLOCK "(?![0-9])", time_range, NULL},
    {"(?<![0-9])" CLOCK "(?![0-9])", clock_time, NULL},
    {"([0-9](?:[%％]|°C|℃|度|摄氏度|" UNITS_OF_RANGES "))[~～-](?=-?[0-9])", unit_range, NULL},
    {"([0-9](?:点|号|日|月|年|元|岁|天|公里|米|斤|公斤|小时|分钟|分))[~～-](?=[0-9])", unit_range,
     NULL}, /* + */
    {"((?:周|星期|礼拜)[一二三四五六日天])[~～-](?=(?:周|星期|礼拜)?[一二三四五六日天])",
     unit_range, NULL}, /* + */
    {"(?<![0-9])([0-9]{1,3})[:：]([0-9]{1,3})(?![0-9])", score, NULL},
    {MINUS NUMBER "(°C|°F|℃|℉|度|摄氏度)", temperature, NULL},
    {"(?<=[0-9])L/100km(?![A-Za-z])", NULL, "升每百公里"},
    {"(?<=[0-9]米)([0-9]{2})(?![0-9.])", digits_group, NULL}, /* 1米75 (+) */
    {"(?<=[0-9])" MEASURES "(?![A-Za-z0-9])", measure, NULL},
    {OPERAND "(-)(?=[0-9]+(?:\\.[0-9]+)?[⁰¹²³⁴⁵⁶⁷⁸⁹]*=|[A-Za-z])", operation, NULL},
    {OPERAND "([+×÷=*])(?=-?[0-9.]|[A-Za-z])", operation, NULL},
    {RAISED, power, NULL},
    {MINUS "([0-9]+)/([0-9]+)", fraction, NULL},
    {MINUS NUMBER "([%％‰])", percentage, NULL},
    {"(?<![0-9])(?:\\+?86[ "
     "-]?)?1(?:[38][0-9]|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|9[0-35-9])-?[0-9]{4}-?[0-9]{4}(?![0-9])",
     telephone, NULL},
    {"(?<![0-9])400-?[0-9]{3}-?[0-9]{4}(?![0-9])", telephone, NULL},
    {"(?<![0-9])(?:0|\\+86-?0?)(?:10|2[0-9]|[3-9][0-9]{2})-?[1-9][0-9]{6,7}(?![0-9])", telephone,
     NULL},
    {"第([0-9]+)[-~～]([0-9]+)", rank_range, NULL},
    {"第([0-9]+)", rank, NULL},
    {"(?<![0-9.+×÷=-])(-?)" NUMBER "[-~～](-?)" NUMBER "(?![0-9.+×÷=-])", range, NULL},
    {"(?<![0-9.])[0-9]+(?:\\.[0-9]+){2,}", version, NULL},
    {"(?<![0-9日])(-)([0-9]+(?:\\.[0-9]+)?)", signed_number, NULL},
    {"()([0-9]*\\.[0-9]+)", signed_number, NULL},
    {"(?<![0-9])([0-9]+)([多余几来+])?" MEASURE_WORDS, quantity, NULL},
    {"([0-9]+)" MICA_CHINESE_AMOUNT, cardinal_group, NULL},
    {"[0-9]{3,}", bare_digits, NULL},
    {"([0-9]+)", cardinal_group, NULL},
    {"/", NULL, "每"},
    {"①", NULL, "一"},
    {"②", NULL, "二"},
    {"③", NULL, "三"},
    {"④", NULL, "四"},
    {"⑤", NULL, "五"},
    {"⑥", NULL, "六"},
    {"⑦", NULL, "七"},
    {"⑧", NULL, "八"},
    {"⑨", NULL, "九"},
    {"⑩", NULL, "十"},
    {"[αΑ]", NULL, "阿尔法"},
    {"[βΒ]", NULL, "贝塔"},
    {"[γΓ]", NULL, "伽玛"},
    {"[δΔ]", NULL, "德尔塔"},
    {"ε", NULL, "艾普西龙"},
    {"ζ", NULL, "捷塔"},
    {"η", NULL, "依塔"},
    {"[θΘ]", NULL, "西塔"},
    {"ι", NULL, "艾欧塔"},
    {"κ", NULL, "喀帕"},
    {"[λΛ]", NULL, "拉姆达"},
    {"[μµ]", NULL, "缪"},
    {"ν", NULL, "拗"},
    {"[ξΞ]", NULL, "克西"},
    {"ο", NULL, "欧米克伦"},
    {"[πΠ]", NULL, "派"},
    {"ρ", NULL, "肉"},
    {"[ςσΣ]", NULL, "西格玛"},
    {"τ", NULL, "套"},
    {"υ", NULL, "宇普西龙"},
    {"[φΦ]", NULL, "服艾"},
    {"χ", NULL, "器"},
    {"[ψΨ]", NULL, "普赛"},
    {"[ωΩ]", NULL, "欧米伽"},
    {"\\+", NULL, "加"},
    {"×", NULL, "乘"},
    {"÷", NULL, "除"},
    {"=", NULL, "等于"},
    {"(?<=[" DIGITS_SAID "])-(?=[" DIGITS_SAID "])", NULL, "减"},
    {"(?<=[\\x{4e00}-\\x{9fa5}])-(?=[\\x{4e00}-\\x{9fa5}])", NULL, ","}, /* 北京-上海 (+) */
    {"[：；，、·:;]", NULL, ","},
    {"[。\\n]", NULL, "."},
    {"！", NULL, "!"},
    {"？", NULL, "?"},
    {"[~～]|\\.{3,}", NULL, "…"},
    {"[^\\x{4e00}-\\x{9fa5}!?…,.\\-]+", NULL, ""},
    {"([!?…,.\\-])[!?…,.\\-]+", mica_rule_first_group, NULL},
};

const mica_rule *mica_chinese_rules(size_t *count)
{
    *count = MICA_ARRAY_LEN(rules);
    return rules;
}

/* Units that are one character. */
static bool put_square(uint32_t cp, mica_text *out)
{
    static const struct {
        uint32_t cp;
        const char *text;
    } squares[] = {{0x33a1, "m²"}, {0x33a5, "m³"}, {0x339d, "cm"}, {0x339c, "mm"},
                   {0x339e, "km"}, {0x338f, "kg"}, {0x338e, "mg"}, {0x33a0, "cm²"}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(squares); i++)
        if (squares[i].cp == cp) {
            mica_rule_put(out, squares[i].text);
            return true;
        }
    return false;
}

/* Signs that have several characters become the common one, wide ones narrow. */
static uint32_t plain_char(uint32_t cp)
{
    const bool wide_sign = cp == 0xff0b || (cp >= 0xff0d && cp <= 0xff0f);
    if (wide_sign || (cp >= 0xff10 && cp <= 0xff19) || (cp >= 0xff21 && cp <= 0xff3a) ||
        (cp >= 0xff41 && cp <= 0xff5a))
        return cp - 0xfee0;
    if (cp >= 0x2080 && cp <= 0x2089) /* ₂ */
        return cp - 0x2080 + '0';
    return cp == 0x2212 || cp == 0x2010 || cp == 0x2011 || cp == 0x2013 ? '-' : cp;
}

static bool ends_in_digit(const mica_text *t)
{
    return t->size > 0 && t->data[t->size - 1] >= '0' && t->data[t->size - 1] <= '9';
}

/* Ⅲ and ½: whole numbers and fractions of one character. */
static bool put_number(uint32_t cp, mica_text *out)
{
    static const char *const romans[] = {"一", "二", "三", "四", "五",   "六",
                                         "七", "八", "九", "十", "十一", "十二"};
    static const struct {
        uint32_t cp;
        const char *text;
    } fractions[] = {{0xbd, "1/2"},   {0xbc, "1/4"},   {0xbe, "3/4"},  {0x2153, "1/3"},
                     {0x2154, "2/3"}, {0x2155, "1/5"}, {0x215b, "1/8"}};
    if (cp >= 0x2160 && cp <= 0x216b) {
        mica_rule_put(out, romans[cp - 0x2160]);
        return true;
    }
    for (size_t i = 0; i < MICA_ARRAY_LEN(fractions); i++)
        if (fractions[i].cp == cp) {
            mica_rule_put(out, ends_in_digit(out) ? "又" : "");
            mica_rule_put(out, fractions[i].text);
            return true;
        }
    return false;
}

/* Characters simplified, signs plain; blanks go, but between digits (the first rules see to those). */
static void fold(const mica_chinese *c, const char *text, size_t size, mica_text *out)
{
    bool blank = false;
    for (size_t at = 0; at < size;) {
        uint32_t cp;
        char bytes[4];
        at += mica_utf8_decode(text + at, size - at, &cp);
        if (cp == ' ' || cp == 0x3000 || cp == 0xa0 || cp == '\t' || cp == '\r') {
            blank = true;
            continue;
        }
        cp = plain_char(cp);
        if (blank && ends_in_digit(out) && cp >= '0' && cp <= '9')
            mica_rule_put(out, " ");
        blank = false;
        if (mica_is_han(cp))
            cp = mica_chinese_dict_simplify(&c->dict, cp);
        if (put_square(cp, out) || put_number(cp, out))
            continue;
        mica_text_add_bytes(out, bytes, mica_utf8_encode(cp, bytes));
    }
}

mica_status mica_chinese_normalize(const mica_chinese *c, const char *text, size_t size,
                                   mica_text *out, mica_err *err)
{
    mica_text folded = {0};
    fold(c, text, size, &folded);
    mica_status status = folded.failed ? MICA_FAIL(err, MICA_E_NOMEM, "no memory for the text")
                                       : mica_rules_run(c->rules, &folded, err);
    if (status == MICA_OK && folded.size > 0)
        mica_text_add_bytes(out, folded.data, folded.size);
    mica_text_deinit(&folded);
    return status == MICA_OK && out->failed ? MICA_FAIL(err, MICA_E_NOMEM, "no memory for the text")
                                            : status;
}
