/* test_json_grammar.c - which answers JSON schemas take: numbers between bounds, patterns, formats, maps, tuples,
 * and what is refused. Every number from -250 to 1250 is asked for every range; patterns are asked with texts that
 * POSIX or a reader of ECMA's rules would sort the same way. */
#include "base/json.h"
#include "base/mem.h"
#include "sample/grammar.h"
#include "sample/json_grammar.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static mica_grammar *grammar_of(const char *schema)
{
    mica_err err = {0};
    mica_text text = {0};
    mica_grammar *g = NULL;
    if (mica_json_grammar(schema, &text, &err) != MICA_OK)
        fail_msg("%s: %s", schema, err.text);
    if (mica_grammar_parse(&g, "g", text.data, text.size, &err) != MICA_OK)
        fail_msg("%s: %s\n%s", schema, err.text, text.data);
    mica_text_deinit(&text);
    return g;
}

static bool takes(const mica_grammar *g, const char *text)
{
    mica_err err = {0};
    mica_grammar_state s;
    assert_int_equal(mica_grammar_state_init(&s, g, &err), MICA_OK);
    const bool whole = mica_grammar_advance(&s, text, strlen(text)) && mica_grammar_is_whole(&s);
    mica_grammar_state_deinit(&s);
    return whole;
}

/* Texts behind the first NULL are not taken; another NULL ends them. */
static void expect(const char *schema, const char *const *texts)
{
    mica_grammar *g = grammar_of(schema);
    bool wanted = true;
    for (int rest = 2; rest > 0; texts++) {
        if (!*texts) {
            wanted = false;
            rest--;
        } else if (takes(g, *texts) != wanted) {
            fail_msg("%s: %s is %staken", schema, *texts, wanted ? "not " : "");
        }
    }
    mica_grammar_close(&g);
}

#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void refuse(const char *schema, const char *why)
{
    mica_err err = {0};
    mica_text grammar = {0};
    if (mica_json_grammar(schema, &grammar, &err) == MICA_OK)
        fail_msg("%s is taken", schema);
    if (!strstr(err.text, why))
        fail_msg("\"%s\" does not say \"%s\"", err.text, why);
    mica_text_deinit(&grammar);
}

/* -------------------------------------------------------------------- numbers -- */

static void check_range(int lo, int hi, bool has_lo, bool has_hi)
{
    char schema[160], text[32];
    int n = snprintf(schema, sizeof schema, "{\"type\":\"integer\"");
    if (has_lo)
        n += snprintf(schema + n, sizeof schema - (size_t)n, ",\"minimum\":%d", lo);
    if (has_hi)
        n += snprintf(schema + n, sizeof schema - (size_t)n, ",\"maximum\":%d", hi);
    snprintf(schema + n, sizeof schema - (size_t)n, "}");
    mica_grammar *g = grammar_of(schema);
    for (int i = -250; i <= 1250; i++) {
        snprintf(text, sizeof text, "%d", i);
        if (takes(g, text) != ((!has_lo || i >= lo) && (!has_hi || i <= hi)))
            fail_msg("%s: %d", schema, i);
    }
    assert_false(takes(g, "00"));
    assert_false(takes(g, "-"));
    assert_false(takes(g, ""));
    assert_false(takes(g, "-01"));
    mica_grammar_close(&g);
}

static void test_ranges(void **state)
{
    (void)state;
    static const int BOUNDS[] = {-250, -213, -100, -99, -10, -9, -1,  0,   1,   2,   9,
                                 10,   11,   19,   20,  87,  99, 100, 101, 199, 999, 1234};
    const int count = (int)MICA_ARRAY_LEN(BOUNDS);
    for (int a = 0; a < count; a++) {
        for (int b = a; b < count; b++)
            check_range(BOUNDS[a], BOUNDS[b], true, true);
        check_range(BOUNDS[a], 0, true, false);
        check_range(0, BOUNDS[a], false, true);
    }
    expect("{\"type\":\"integer\",\"minimum\":1}",
           TEXTS("1", "9999999999999999", "10", NULL, "0", "-1", "1.5", "01"));
    expect("{\"type\":\"integer\",\"exclusiveMinimum\":3.5,\"exclusiveMaximum\":6}",
           TEXTS("4", "5", NULL, "3", "6"));
    expect("{\"type\":\"integer\",\"exclusiveMinimum\":3,\"minimum\":1,\"maximum\":5.9}",
           TEXTS("4", "5", NULL, "3", "6"));
}

static void test_numbers(void **state)
{
    (void)state;
    expect("{\"type\":\"number\",\"minimum\":0,\"maximum\":1}",
           TEXTS("0", "1", "0.5", "1.0", "0.0", "0.999", NULL, "1.01", "-0.5", "2", "1e3", "00.5"));
    expect(
        "{\"type\":\"number\",\"minimum\":-2,\"maximum\":10}",
        TEXTS("-2", "-2.0", "-1.5", "-0.25", "9.99", "10", "10.000", NULL, "-2.1", "10.1", "11"));
    expect("{\"type\":\"number\",\"maximum\":-3}",
           TEXTS("-3", "-3.5", "-44", NULL, "-2.9", "0", "3"));
    expect("{\"type\":\"number\",\"minimum\":0}", TEXTS("0", "12.5", NULL, "-1", "-0.1"));
    expect("{\"type\":[\"integer\",\"null\"],\"minimum\":2}", TEXTS("2", "null", NULL, "1"));
    refuse("{\"type\":\"number\",\"minimum\":0.5}", "not whole and included");
    refuse("{\"type\":\"number\",\"exclusiveMinimum\":0}", "exclusiveMinimum");
    refuse("{\"type\":\"integer\",\"minimum\":1e300}", "2^53");
    refuse("{\"type\":\"integer\",\"minimum\":\"1\"}", "minimum");
    refuse("{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", "below");
    refuse("{\"type\":\"integer\",\"multipleOf\":4}", "multipleOf");
    refuse("{\"type\":\"string\",\"minimum\":4}", "minimum");
    refuse("{\"type\":\"integer\",\"exclusiveMinimum\":true,\"minimum\":1}", "exclusiveMinimum");
}

/* ------------------------------------------------------------------- patterns -- */

static void pattern(const char *expression, const char *const *texts)
{
    mica_text schema = {0};
    mica_text_add(&schema, "{\"type\":\"string\",\"pattern\":");
    mica_text_add_json_string(&schema, expression);
    mica_text_add(&schema, "}");
    expect(schema.data, texts);
    mica_text_deinit(&schema);
}

static void test_patterns(void **state)
{
    (void)state;
    pattern("^$", TEXTS("\"\"", NULL, "\"a\"", ""));
    pattern("^abc$", TEXTS("\"abc\"", NULL, "\"ab\"", "\"abcd\"", "abc"));
    pattern("^[a-c]+x?$", TEXTS("\"abc\"", "\"ax\"", NULL, "\"\"", "\"d\"", "\"axx\""));
    pattern("^(ab|c|)$", TEXTS("\"ab\"", "\"c\"", "\"\"", NULL, "\"a\"", "\"abc\""));
    pattern("^(?:a|b){2,3}$", TEXTS("\"ab\"", "\"bba\"", NULL, "\"a\"", "\"abab\""));
    pattern("^(a||b)$", TEXTS("\"a\"", "\"b\"", "\"\"", NULL, "\"ab\""));
    pattern("^a{0}b{2}c{1,}$", TEXTS("\"bbc\"", "\"bbccc\"", NULL, "\"abbc\"", "\"bb\""));
    pattern("^\\d{3}-\\w\\s$", TEXTS("\"123-_ \"", "\"123-a\\t\"", NULL, "\"12-a \"", "\"123--\""));
    pattern("^[^0-9]\\D$", TEXTS("\"ab\"", "\"\xc3\xa9\xe4\xbd\xa0\"", NULL, "\"1b\"", "\"b1\""));
    pattern("^.$", TEXTS("\"a\"", "\"\xf0\x9f\x98\x80\"", "\"\\\"\"", "\"\\\\\"", NULL, "\"\\n\"",
                         "\"\\\"", "\"\"\""));
    pattern("^\"\\\\\\n$", TEXTS("\"\\\"\\\\\\n\"", NULL, "\"\"\\\\\\n\""));
    pattern("^[\xc3\xa0-\xc3\xbc]\\u00df\\x41$", TEXTS("\"\xc3\xa9\xc3\x9f"
                                                       "A\"",
                                                       NULL,
                                                       "\"e\xc3\x9f"
                                                       "A\""));
    pattern("^[\\]a\\-.]$", TEXTS("\"]\"", "\"a\"", "\"-\"", "\".\"", NULL, "\"\\\\\"", "\"b\""));
    pattern("^[a-]$", TEXTS("\"a\"", "\"-\"", NULL, "\"b\""));
    pattern("^\\$\\^\\.\\*\\/$", TEXTS("\"$^.*/\"", NULL, "\"a\""));
    pattern("^\\\\$", TEXTS("\"\\\\\"", NULL, "\"\\\""));
    pattern("^[\\w.+-]+@\\w+(\\.\\w+)+$",
            TEXTS("\"a.b+c@d.org\"", NULL, "\"a@b\"", "\"@d.org\"", "\"a b@d.org\""));
}

static void refuse_pattern(const char *expression, const char *why)
{
    mica_text schema = {0};
    mica_text_add(&schema, "{\"type\":\"string\",\"pattern\":");
    mica_text_add_json_string(&schema, expression);
    mica_text_add(&schema, "}");
    refuse(schema.data, why);
    mica_text_deinit(&schema);
}

static void test_pattern_refusals(void **state)
{
    (void)state;
    refuse_pattern("abc", "begin with ^ and end with $");
    refuse_pattern("^abc", "begin with ^ and end with $");
    refuse_pattern("^abc\\$", "begin with ^ and end with $");
    refuse_pattern("", "begin with ^");
    refuse_pattern("^", "begin with ^");
    refuse_pattern("^a|^b$", "bind closer than");
    refuse_pattern("^(a|^b)$", "at the ends alone");
    refuse_pattern("^a|b$", "bind closer than");
    refuse_pattern("^a||b$", "bind closer than");
    refuse_pattern("^(?=a)b$", "groups that begin with ?");
    refuse_pattern("^(a$", "a group does not end");
    refuse_pattern("^a)$", "closes that did not open");
    refuse_pattern("^[a$", "a class does not end");
    refuse_pattern("^[]a-]$", "nothing fits here");
    refuse_pattern("^[z-a]$", "end above its beginning");
    refuse_pattern("^[a-\\d]$", "end above its beginning");
    refuse_pattern("^*$", "nothing to repeat");
    refuse_pattern("^a**$", "nothing to repeat");
    refuse_pattern("^a*?$", "lazy");
    refuse_pattern("^a{,3}$", "{m,n}");
    refuse_pattern("^(a)\\1$", "escape is not supported (character 7)");
    refuse_pattern("^\\bx$", "escape is not supported");
    refuse_pattern("^\\p{L}$", "escape is not supported");
    refuse_pattern("^\\u12$", "lacks digits");
    refuse_pattern("^\\x01$", "nothing fits here");
    refuse("{\"type\":\"string\",\"pattern\":\"^a$\",\"minLength\":1}", "pattern");
    refuse("{\"type\":\"string\",\"pattern\":7}", "pattern");
    char deep[200] = "^";
    memset(deep + 1, '(', 50);
    memset(deep + 51, ')', 50);
    strcpy(deep + 101, "$");
    refuse_pattern(deep, "too many groups");
}

static void test_formats(void **state)
{
    (void)state;
    expect("{\"type\":\"string\",\"format\":\"date\"}",
           TEXTS("\"2024-02-28\"", "\"1999-12-31\"", "\"2024-04-30\"", NULL, "\"2024-04-31\"",
                 "\"2024-02-30\"", "\"2024-13-01\"", "\"2024-1-1\"", "\"2024-00-10\""));
    expect("{\"type\":\"string\",\"format\":\"date-time\"}",
           TEXTS("\"2024-02-28T23:59:59Z\"", "\"2024-02-28T00:00:00.125+05:30\"", NULL,
                 "\"2024-02-28T24:00:00Z\"", "\"2024-02-28 23:59:59Z\"",
                 "\"2024-02-28T23:59:59\""));
    expect("{\"type\":\"string\",\"format\":\"time\"}",
           TEXTS("\"23:59:59Z\"", NULL, "\"23:60:00Z\"", "\"3:00:00Z\""));
    expect("{\"type\":\"string\",\"format\":\"uuid\"}",
           TEXTS("\"123e4567-e89b-12d3-a456-426614174000\"", NULL, "\"123e4567\""));
    expect("{\"type\":\"string\",\"format\":\"ipv4\"}",
           TEXTS("\"127.0.0.1\"", "\"255.255.255.255\"", NULL, "\"256.0.0.1\"", "\"1.2.3\""));
    refuse("{\"type\":\"string\",\"format\":\"email\"}", "email");
    refuse("{\"type\":\"string\",\"format\":\"date\",\"maxLength\":4}", "format");
}

/* ------------------------------------------------------------ objects and lists -- */

static void test_members(void **state)
{
    (void)state;
    /* Required names without a schema are members of any value. */
    expect("{\"type\":\"object\",\"required\":[\"a\"]}",
           TEXTS("{\"a\":1}", "{\"a\":[null]}", NULL, "{}", "{\"b\":1}"));
    expect("{\"properties\":{\"b\":{\"type\":\"null\"}},\"required\":[\"a\",\"c\"]}",
           TEXTS("{\"b\":null,\"a\":1,\"c\":2}", "{\"a\":1,\"c\":{}}", NULL, "{\"b\":null,\"a\":1}",
                 "{\"c\":1,\"a\":1}"));
    expect("{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}",
           TEXTS("{}", "{\"x\":1}", "{\"x\":1, \"y\": -2}", NULL, "{\"x\":true}", "{,}"));
    expect("{\"type\":\"object\",\"additionalProperties\":false}", TEXTS("{}", NULL, "{\"a\":1}"));
    refuse("{\"required\":[\"a\"],\"additionalProperties\":false}", "\"a\"");
    refuse("{\"properties\":[]}", "properties");
    refuse("{\"type\":\"object\",\"required\":\"a\"}", "required");
    refuse("{\"type\":\"object\",\"minProperties\":1}", "minProperties");
}

static void test_lists(void **state)
{
    (void)state;
    expect("{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"boolean\"}],"
           "\"items\":false}",
           TEXTS("[1,true]", "[ -3, false ]", NULL, "[1]", "[true,1]", "[1,true,1]"));
    expect("{\"type\":\"array\",\"items\":[{\"type\":\"null\"}],\"maxItems\":4}",
           TEXTS("[null]", NULL, "[]"));
    refuse("{\"type\":\"array\",\"prefixItems\":[{}],\"minItems\":2}", "prefixItems");
    refuse("{\"type\":\"array\",\"prefixItems\":[]}", "prefixItems");
    refuse("{\"type\":\"array\",\"uniqueItems\":true}", "uniqueItems");
}

/* What would have to hold besides is not passed over. */
static void test_beside(void **state)
{
    (void)state;
    expect("{\"type\":\"string\",\"enum\":[\"a\",3,null]}", TEXTS("\"a\"", NULL, "3", "null"));
    expect("{\"type\":[\"integer\",\"null\"],\"enum\":[\"a\",3,1.5,null]}",
           TEXTS("3", "null", NULL, "\"a\"", "1.5"));
    expect("{\"allOf\":[{\"$ref\":\"#/$defs/t\"}],\"title\":\"x\",\"$defs\":{\"t\":{\"const\":1}}}",
           TEXTS("1", NULL, "2"));
    refuse("{\"type\":\"string\",\"enum\":[3]}", "enum");
    refuse("{\"type\":\"string\",\"const\":3}", "const");
    refuse("{\"enum\":[\"a\",\"b\"],\"minLength\":2}", "\"minLength\"");
    refuse("{\"$ref\":\"#/$defs/t\",\"minLength\":2,\"$defs\":{\"t\":{}}}", "\"minLength\"");
    refuse("{\"anyOf\":[{}],\"type\":\"string\"}", "\"type\"");
    refuse("{\"anyOf\":[{}],\"oneOf\":[{}]}", "choice");
    refuse("{\"allOf\":[{},{}]}", "allOf");
    refuse("{\"minItems\":1}", "\"minItems\"");
    refuse("{\"type\":\"string\",\"minItems\":1}", "\"minItems\"");
    refuse("{\"type\":\"string\",\"properties\":{}}", "\"properties\"");
    refuse("{\"anyOf\":[]}", "anyOf");
    refuse("{\"$ref\":5}", "$ref");
    refuse("{\"not\":{}}", "\"not\"");
}

static void test_out_of_memory(void **state)
{
    (void)state;
    static const char SCHEMA[] =
        "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^[a-z]\\\\d+"
        "$\"},"
        "\"b\":{\"type\":\"integer\",\"minimum\":-7,\"maximum\":1234}},\"required\":[\"c\"]}";
    mica_status st = MICA_E_NOMEM;
    for (uint64_t n = 1; st != MICA_OK && n < 10000; n++) {
        mica_err err = {0};
        mica_text text = {0};
        mica_mem_fail_at(n);
        st = mica_json_grammar(SCHEMA, &text, &err);
        mica_mem_fail_at(0);
        if (st != MICA_OK && st != MICA_E_NOMEM)
            fail_msg("allocation %d: %s", (int)n, err.text);
        mica_text_deinit(&text);
    }
    assert_int_equal(st, MICA_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges),        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_patterns),      cmocka_unit_test(test_pattern_refusals),
        cmocka_unit_test(test_formats),       cmocka_unit_test(test_members),
        cmocka_unit_test(test_lists),         cmocka_unit_test(test_beside),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("json_grammar", tests, NULL, NULL);
}
