/* test_grammar.c - which texts a grammar takes, byte by byte; JSON schemas; what is refused. */
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

static mica_grammar *parse_ok(const char *text)
{
    mica_err err = {0};
    mica_grammar *g = NULL;
    if (mica_grammar_parse(&g, "g", text, strlen(text), &err) != MICA_OK)
        fail_msg("%s: %s", text, err.text);
    return g;
}

/* Whole, as one piece and in single bytes; both must agree. */
static bool takes(const mica_grammar *g, const char *text)
{
    bool whole[2];
    for (int single = 0; single < 2; single++) {
        mica_err err = {0};
        mica_grammar_state s;
        const size_t n = strlen(text), step = single ? 1 : n;
        bool fine = true;
        assert_int_equal(mica_grammar_state_init(&s, g, &err), MICA_OK);
        for (size_t i = 0; fine && i < n; i += step) {
            fine = mica_grammar_allows(&s, text + i, step);
            assert_true(mica_grammar_advance(&s, text + i, step) == fine);
        }
        whole[single] = fine && mica_grammar_is_whole(&s);
        mica_grammar_state_deinit(&s);
    }
    assert_true(whole[0] == whole[1]);
    return whole[0];
}

/* Texts behind NULL are not taken. */
static void expect(const char *grammar, const char *const *texts)
{
    mica_grammar *g = parse_ok(grammar);
    bool wanted = true;
    for (int rest = 2; rest > 0; texts++) {
        if (!*texts) {
            wanted = false;
            rest--;
            continue;
        }
        if (takes(g, *texts) != wanted)
            fail_msg("%s: \"%s\" is %staken", grammar, *texts, wanted ? "not " : "");
    }
    mica_grammar_close(&g);
}

#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_forms(void **state)
{
    (void)state;
    expect("root ::= \"yes\" | \"no\"", TEXTS("yes", "no", NULL, "ye", "yess", "", "n o"));
    expect("root ::= [a-c]+ \"-\"? x\nx ::= [^a-z\\n]",
           TEXTS("ab-1", "cZ", NULL, "-1", "ab", "abx"));
    expect("root ::= (\"a\" | \"b\" \"c\")* # remark\n", TEXTS("", "a", "abcbc", NULL, "b", "ac"));
    expect("root ::= \"x\"{2,3} \"y\"{1} \"z\"{1,}",
           TEXTS("xxyz", "xxxyzz", NULL, "xyz", "xxxxyz", "xxy", "xxyyz"));
    expect("root ::= \"\"? \"a\" (\"\" | \"b\")?", TEXTS("a", "ab", NULL, "", "b"));
    expect("root ::= \"(\" root \")\" | \"\"", TEXTS("", "()", "((()))", NULL, "(", "(()", ")"));
    expect("root ::= list\nlist ::= item (\",\" item)*\nitem ::= [0-9]{1,2} | \"[\" list? \"]\"",
           TEXTS("1", "1,22,[3,[]]", NULL, "1,", "[", "123"));
    expect("root ::= \"\\\"\\\\\\n\\x41\\u00e9\" | .",
           TEXTS("\"\\\nA\xc3\xa9", "x", NULL, "", "xy"));
}

/* Classes of characters outside of ASCII, cut into ranges of bytes. */
static void test_characters(void **state)
{
    (void)state;
    expect("root ::= [\xc3\xa0-\xc3\xbc]+",
           TEXTS("\xc3\xa9\xc3\xbc", NULL, "\xc3\xbd", "e", "\xc3"));
    expect("root ::= [^\xe4\xbd\xa0]",
           TEXTS("\xe4\xbd\xa1", "a", "\xf0\x9f\xa6\x8a", "\xc2\x80", NULL, "\xe4\xbd\xa0"));
    expect("root ::= [\\u0400-\\u04ff]{2}", TEXTS("\xd0\x96\xd0\xb8", NULL, "\xd0\x96", "ab"));
    expect("root ::= [\\U0001F600-\\U0001F64F]",
           TEXTS("\xf0\x9f\x98\x80", "\xf0\x9f\x99\x8f", NULL, "\xf0\x9f\x99\x90", "\xf0\x9f\x98"));
    mica_grammar *g = parse_ok("root ::= .");
    char text[5] = {0}; /* overlong forms and surrogates are no characters */
    memcpy(text, "\xed\xa0\x80", 3);
    assert_false(takes(g, text));
    memcpy(text, "\xc0\x80\0", 3);
    assert_false(takes(g, text));
    mica_grammar_close(&g);
}

/* Characters named twice, ranges that overlap or touch: one way to fit, so that long tokens stay cheap. */
static void test_repeated_characters(void **state)
{
    (void)state;
    char text[600] = "root ::= [";
    for (int i = 0; i < 200; i++) /* as many as a class may name */
        strcat(text, i % 2 ? "p" : "o");
    strcat(text, "o-r]+");
    expect(text, TEXTS("op", "rrrr", NULL, "n", "s", ""));
    expect("root ::= [^p-pa-co-qb]", TEXTS("d", "n", "r", NULL, "a", "c", "o", "q"));
    mica_grammar *g = parse_ok(text);
    mica_grammar_state s = {0};
    mica_err err = {0};
    assert_int_equal(mica_grammar_state_init(&s, g, &err), MICA_OK);
    assert_true(s.stack_count < 4);
    assert_true(mica_grammar_allows(&s, "popopopopopopopopopopopopopopopo", 32));
    mica_grammar_state_deinit(&s);
    mica_grammar_close(&g);
}

static void refuse(const char *text, const char *why)
{
    mica_err err = {0};
    mica_grammar *g = NULL;
    assert_int_not_equal(mica_grammar_parse(&g, "g", text, strlen(text), &err), MICA_OK);
    assert_null(g);
    if (!strstr(err.text, why))
        fail_msg("\"%s\" does not say \"%s\"", err.text, why);
}

static void test_refusals(void **state)
{
    (void)state;
    refuse("", "\"root\" is not defined");
    refuse("root ::= x", "\"x\" is not defined");
    refuse("root ::= root \"a\" | \"b\"", "begin with itself");
    refuse("root ::= a\na ::= \"\" b\nb ::= \"x\"* a", "begin with itself");
    refuse("root ::= \"\"* \"a\"", "begin with itself");
    refuse("root ::= (\"a\"", "group does not end");
    refuse("root ::= \"a", "literal does not end");
    refuse("root ::= [a-", "class does not end");
    refuse("root ::= [z-a]", "ends before");
    refuse("root ::= \"a\"\nroot ::= \"b\"", "defined twice");
    refuse("root ::= \"a\"{3,2}", "repetition");
    refuse("root ::= \"a\"{5000}", "more than 1000");
    refuse("root ::= \"\\q\"", "unknown escape");
    refuse("root ::= \"a\"\n\n)", "g:3:");
    refuse("root ::= *", "neither");
    refuse("root = \"a\"", "::=");
}

/* ------------------------------------------------------------------ JSON schemas -- */

static void expect_schema(const char *schema, const char *const *texts)
{
    mica_err err = {0};
    mica_text grammar = {0};
    if (mica_json_grammar(schema, &grammar, &err) != MICA_OK)
        fail_msg("%s: %s", schema, err.text);
    expect(grammar.data, texts);
    mica_text_deinit(&grammar);
}

static void test_schemas(void **state)
{
    (void)state;
    expect_schema("{}", TEXTS("{\"a\": [1, -2.5e3, true, null, \"x\\n\"]}", "[]", "3", NULL, "{a}",
                              "[1,]", "01", "\"\n\"", "tru"));
    expect_schema(
        "{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\"},\"s\":{\"type\":"
        "\"string\"},\"b\":{\"type\":\"boolean\"}},\"required\":[\"n\",\"b\"]}",
        TEXTS("{\"n\":1,\"b\":true}", "{ \"n\": -5, \"s\": \"x\", \"b\": false }", NULL,
              "{\"n\":1}", "{\"b\":true,\"n\":1}", "{\"n\":1.5,\"b\":true}",
              "{\"n\":1,\"b\":true,\"x\":2}"));
    expect_schema("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"null\"},\"b\":{\"type\":"
                  "\"null\"}}}",
                  TEXTS("{}", "{\"a\":null}", "{\"b\":null}", "{\"a\":null,\"b\":null}", NULL,
                        "{\"b\":null,\"a\":null}", "{,}"));
    expect_schema("{\"enum\":[\"red\",\"a\\\"b\",3]}",
                  TEXTS("\"red\"", "\"a\\\"b\"", "3", NULL, "red"));
    expect_schema(
        "{\"type\":\"array\",\"items\":{\"const\":\"x\"},\"minItems\":1,\"maxItems\":3}",
        TEXTS("[\"x\"]", "[\"x\",\"x\", \"x\"]", NULL, "[]", "[\"x\",\"x\",\"x\",\"x\"]"));
    expect_schema("{\"anyOf\":[{\"type\":\"string\",\"maxLength\":2},{\"$ref\":\"#/$defs/t\"}],"
                  "\"$defs\":{\"t\":{\"type\":[\"boolean\",\"null\"]}}}",
                  TEXTS("\"ab\"", "true", "null", NULL, "\"abc\"", "1"));
}

static void test_nested_schemas(void **state)
{
    (void)state;
    /* A schema that holds itself, by name and as a whole. */
    expect_schema(
        "{\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"null\"},\"c\":{"
        "\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/t\"}}},\"required\":[\"v\"]}},\"$ref\":"
        "\"#/$defs/t\"}",
        TEXTS("{\"v\":null}", "{\"v\":null,\"c\":[]}",
              "{\"v\":null,\"c\":[{\"v\":null,\"c\":[{\"v\":null}]},{\"v\":null}]}", NULL,
              "{\"c\":[]}", "{\"v\":null,\"c\":[{}]}", "{\"v\":null,\"c\":[{\"v\":1}]}"));
    expect_schema("{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"maxItems\":2}",
                  TEXTS("[]", "[[],[[]]]", NULL, "[[],[],[]]", "[1]"));
    /* Arrays in arrays in arrays, enums of all kinds with texts beyond ASCII. */
    expect_schema("{\"type\":\"array\",\"items\":{\"type\":\"array\",\"items\":{\"type\":\"array\","
                  "\"items\":{"
                  "\"enum\":[\"\xc3\xa9\",\"\xf0\x9f\x98\x80\\n\",null,-1.5,{\"k\":[true]}]},"
                  "\"minItems\":1}}}",
                  TEXTS("[[[\"\xc3\xa9\"]],[]]", "[[[\"\xf0\x9f\x98\x80\\n\",null],[-1.5]]]",
                        "[[[{\"k\":[true]}]]]", NULL, "[[[]]]", "[[\"\xc3\xa9\"]]", "[[[\"e\"]]]"));
}

/* 40 members that may all be left out, some by the comma's rules: the grammar grows with their number. */
static void test_many_members(void **state)
{
    (void)state;
    mica_text schema = {0}, grammar = {0};
    mica_err err = {0};
    mica_text_add(&schema, "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; i < 40; i++)
        mica_text_add(&schema, "%s\"p%d\":{\"type\":\"integer\"}", i ? "," : "", i);
    mica_text_add(&schema, "},\"required\":[\"p20\"]}");
    assert_int_equal(mica_json_grammar(schema.data, &grammar, &err), MICA_OK);
    assert_true(grammar.size < 16384);
    mica_text_deinit(&grammar);
    expect_schema(schema.data, TEXTS("{\"p20\":1}", "{\"p3\":1,\"p20\":2}",
                                     "{\"p0\":0,\"p7\":1, \"p20\":3,\"p39\":4}",
                                     "{\"p20\":1,\"p21\":1}", NULL, "{}", "{\"p3\":1}",
                                     "{,\"p20\":1}", "{\"p20\":1,\"p3\":1}", "{\"p20\":1,}"));
    mica_text_deinit(&schema);
}

static void refuse_schema(const char *schema, const char *why)
{
    mica_err err = {0};
    mica_text grammar = {0};
    assert_int_not_equal(mica_json_grammar(schema, &grammar, &err), MICA_OK);
    if (!strstr(err.text, why))
        fail_msg("\"%s\" does not say \"%s\"", err.text, why);
    mica_text_deinit(&grammar);
}

static void test_schema_refusals(void **state)
{
    (void)state;
    refuse_schema("{", "json schema");
    refuse_schema("{\"pattern\":\"a\"}", "pattern");
    refuse_schema("{\"type\":\"date\"}", "date");
    refuse_schema("{\"$ref\":\"#/x\"}", "#/x");
    mica_text endless = {0};
    mica_grammar *g = NULL;
    mica_err err = {0};
    assert_int_equal(
        mica_json_grammar("{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/a\"}}}",
                          &endless, &err),
        MICA_OK);
    assert_int_not_equal(
        mica_grammar_parse(&g, "json schema", endless.data, strlen(endless.data), &err), MICA_OK);
    assert_non_null(strstr(err.text, "can begin with itself"));
    mica_text_deinit(&endless);
    refuse_schema("{\"enum\":[]}", "enum");
    refuse_schema("[]", "no object");
    refuse_schema("{\"type\":\"array\",\"minItems\":3,\"maxItems\":1}", "maxItems");
}

static void test_out_of_memory(void **state)
{
    (void)state;
    const char *text = "root ::= [\xc3\xa0-\xc3\xbc]+ (\"a\" | x){2,3}\nx ::= \"(\" x \")\" | \"\"";
    mica_status st = MICA_E_NOMEM;
    for (uint64_t n = 1; st != MICA_OK && n < 10000; n++) {
        mica_err err = {0};
        mica_grammar *g = NULL;
        mica_grammar_state s = {0};
        mica_mem_fail_at(n);
        st = mica_grammar_parse(&g, "g", text, strlen(text), &err);
        if (st == MICA_OK && mica_grammar_state_init(&s, g, &err) != MICA_OK)
            st = MICA_E_NOMEM;
        mica_mem_fail_at(0);
        assert_true(st == MICA_OK || st == MICA_E_NOMEM);
        mica_grammar_state_deinit(&s);
        mica_grammar_close(&g);
    }
    assert_int_equal(st, MICA_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_characters),
        cmocka_unit_test(test_repeated_characters),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_schemas),
        cmocka_unit_test(test_nested_schemas),
        cmocka_unit_test(test_many_members),
        cmocka_unit_test(test_schema_refusals),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("grammar", tests, NULL, NULL);
}
