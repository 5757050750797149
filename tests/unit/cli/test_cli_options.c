/* test_cli_options.c - the command-line parser against a table of every kind of option.
 *
 * Each wrong spelling is listed with the words its message must hold, so that a message that
 * stops naming the option or the value is a failure. */
#include "cli_options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

typedef struct sample {
    bool flag;
    int count, mode, level;
    uint64_t seed, bytes;
    double scale;
    const char *text;
    cli_doubles list;
} sample;

static const cli_word mode_words[] = {{"slow", 1}, {"fast", 2}, {NULL, 0}};
static const cli_word auto_words[] = {{"auto", 0}, {"off", -1}, {NULL, 0}};

#define AT(field) offsetof(sample, field)
static const cli_option table[] = {
    {.name = "flag", .letter = 'f', .kind = CLI_FLAG, .offset = AT(flag), .help = "a flag"},
    {.name = "count",
     .letter = 'c',
     .kind = CLI_INT,
     .offset = AT(count),
     .lo = 1,
     .hi = 64,
     .words = auto_words,
     .value = "N",
     .help = "a number or"},
    {.name = "width", .kind = CLI_INT, .offset = AT(count), .lo = 16, .hi = 16384, .help = "w"},
    {.name = "mode", .kind = CLI_WORD, .offset = AT(mode), .words = mode_words, .help = "a mode"},
    {.name = "seed", .kind = CLI_SEED, .offset = AT(seed), .help = "a seed"},
    {.name = "bytes", .kind = CLI_BYTES, .offset = AT(bytes), .help = "a size"},
    {.name = "scale", .kind = CLI_DOUBLE, .offset = AT(scale), .lo = 0, .hi = 10, .help = "s"},
    {.name = "text", .letter = 't', .kind = CLI_TEXT, .offset = AT(text), .help = "a text"},
    {.name = "list", .kind = CLI_DOUBLES, .offset = AT(list), .lo = 0, .hi = 1, .help = "l"},
    {.name = "cpu-level", .kind = CLI_CPU_LEVEL, .offset = AT(level), .help = "a level"},
    {.name = "help", .letter = 'h', .kind = CLI_HELP, .help = "this"},
    {.name = "unlisted", .kind = CLI_FLAG, .offset = AT(flag)},
    CLI_END,
};

/* A command's struct, in which the table's fields do not come first. */
typedef struct command {
    double other;
    sample values;
} command;

static const cli_group groups[] = {{"Options", table, offsetof(command, values)}, {.title = NULL}};
static const cli_spec spec = {.name = "mica sample",
                              .usage = "[MODEL]",
                              .about = "About.",
                              .groups = groups,
                              .operand_limit = 1,
                              .operand_name = "MODEL"};

typedef struct outcome {
    sample values;
    bool help;
    const char *operand;
    mica_status status;
    mica_err err;
} outcome;

/* Parses the NULL-terminated words. */
static outcome parse(const char *const *words)
{
    outcome result = {.help = false};
    command c = {.other = 3.0, .values = {.count = 7, .scale = -1.0}};
    char *argv[16];
    int argc = 0;
    for (; words[argc]; argc++)
        argv[argc] = (char *)(uintptr_t)words[argc];
    result.status = cli_parse(&spec, argc, argv, &c, &result.operand, &result.help, &result.err);
    result.values = c.values;
    assert_true(c.other == 3.0);
    return result;
}
#define PARSE(...) parse((const char *const[]){__VA_ARGS__, NULL})

static void test_every_spelling(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--count", "12").values.count, 12);
    assert_int_equal(PARSE("--count=12").values.count, 12);
    assert_int_equal(PARSE("-c", "12").values.count, 12);
    assert_int_equal(PARSE("-c12").values.count, 12);
    assert_int_equal(PARSE("--count", "3", "--count", "4").values.count, 4);
    assert_true(PARSE("-f").values.flag);
    assert_true(PARSE("--flag").values.flag);
    assert_string_equal(PARSE("--text=").values.text, "");
    assert_string_equal(PARSE("--text", "").values.text, "");
    assert_string_equal(PARSE("-t", "--flag").values.text, "--flag");
    assert_string_equal(PARSE("--text=a=b").values.text, "a=b");
}

static void test_values(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--count", "auto").values.count, 0);
    assert_int_equal(PARSE("--count", "off").values.count, -1);
    assert_int_equal(PARSE("--mode", "fast").values.mode, 2);
    assert_true(PARSE("--seed", "18446744073709551615").values.seed == UINT64_MAX);
    const uint64_t drawn = PARSE("--seed", "random").values.seed;
    assert_true(drawn <= UINT32_MAX);
    assert_true(PARSE("--seed", "random").values.seed != drawn ||
                PARSE("--seed", "random").values.seed != drawn);
    assert_true(PARSE("--bytes", "8G").values.bytes == (uint64_t)8 << 30);
    assert_true(PARSE("--bytes", "1.5GiB").values.bytes == (uint64_t)3 << 29);
    assert_true(PARSE("--bytes", "700MB").values.bytes == (uint64_t)700 << 20);
    assert_true(PARSE("--bytes", "3k").values.bytes == 3072);
    assert_true(PARSE("--scale", "2.5e0").values.scale == 2.5);
    assert_int_equal(PARSE("--cpu-level", "v3").values.level, MICA_CPU_LEVEL_V3);
    const outcome o = PARSE("--list", "1,0.5,.25");
    assert_int_equal(o.status, MICA_OK);
    assert_int_equal(o.values.list.count, 3);
    assert_true(o.values.list.values[2] == 0.25);
}

static void test_operand(void **state)
{
    (void)state;
    outcome o = PARSE("model", "-f");
    assert_string_equal(o.operand, "model");
    assert_true(o.values.flag);
    o = PARSE("-f", "--", "-c");
    assert_int_equal(o.status, MICA_OK);
    assert_string_equal(o.operand, "-c");
    assert_string_equal(PARSE("-").operand, "-");
    assert_null(PARSE("-f").operand);
}

static void test_help_ends_parsing(void **state)
{
    (void)state;
    const outcome o = PARSE("-h", "--nonsense");
    assert_int_equal(o.status, MICA_OK);
    assert_true(o.help);
    assert_false(PARSE("--flag").help);
}

typedef struct wrong_case {
    const char *words[4];
    const char *message[3]; /* all must appear */
} wrong_case;

static const wrong_case wrong_cases[] = {
    {{"--conut", "3"}, {"unknown option --conut", "did you mean --count?"}},
    {{"--zzzzzzzzz"}, {"unknown option --zzzzzzzzz", "--help"}},
    {{"--zzzzzzzzz=3"}, {"unknown option --zzzzzzzzz;"}},
    {{"-z"}, {"unknown option -z", "--help"}},
    {{"--coun", "3"}, {"unknown option --coun;", "did you mean --count?"}},
    {{"--count"}, {"--count needs a value"}},
    {{"-c"}, {"-c needs a value"}},
    {{"--flag=1"}, {"--flag takes no value"}},
    {{"-f1"}, {"-f takes no value"}},
    {{"--count", "0"}, {"--count", "from 1 to 64", "got 0"}},
    {{"--count", "65"}, {"from 1 to 64", "got 65"}},
    {{"--count", "1x"}, {"--count", "auto, off", "'1x'"}},
    {{"--width", "1x"}, {"--width takes a whole number", "'1x'"}},
    {{"--width", " 20"}, {"--width takes a whole number; got ' 20'"}},
    {{"--width", ""}, {"--width takes a whole number"}},
    {{"--width", "1e2"}, {"whole number"}},
    {{"--width", "100000"}, {"--width must be from 16 to 16384; got 100000"}},
    {{"--width", "-5"}, {"got -5"}},
    {{"--width", "99999999999999999999"}, {"from 16 to 16384"}},
    {{"--seed", "-1"}, {"--seed", "'-1'"}},
    {{"--seed", "18446744073709551616"}, {"18446744073709551615"}},
    {{"--seed", ""}, {"--seed"}},
    {{"--bytes", "8"}, {"a size like 8G", "'8'"}},
    {{"--bytes", "8X"}, {"a size like 8G"}},
    {{"--bytes", "-8G"}, {"'-8G'"}},
    {{"--bytes", "0G"}, {"'0G'"}},
    {{"--bytes", "8Gb"}, {"'8Gb'"}},
    {{"--bytes", "1e3G"}, {"'1e3G'"}},
    {{"--bytes", "99999999T"}, {"a size like"}},
    {{"--scale", "nan"}, {"--scale takes a number from 0 to 10", "'nan'"}},
    {{"--scale", "inf"}, {"'inf'"}},
    {{"--scale", "1e999"}, {"'1e999'"}},
    {{"--scale", "0x4"}, {"'0x4'"}},
    {{"--scale", "-0.1"}, {"'-0.1'"}},
    {{"--scale", "1,2"}, {"'1,2'"}},
    {{"--scale", "1 "}, {"'1 '"}},
    {{"--mode", "quick"}, {"--mode takes one of slow, fast; got 'quick'"}},
    {{"--cpu-level", "v9"}, {"--cpu-level takes one of", "v3", "'v9'"}},
    {{"--list", "1,,0"}, {"number 2 of '1,,0'"}},
    {{"--list", "1,2"}, {"number 2"}},
    {{"--list", ""}, {"number 1"}},
    {{"--list", "0.5,"}, {"number 2"}},
    {{"--unlistde"}, {"unknown option --unlistde; 'mica sample --help'"}},
    {{"a", "b"}, {"one MODEL", "'a' and 'b'"}},
    {{""}, {"MODEL is empty"}},
};

static void test_wrong_usage(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(wrong_cases); i++) {
        const wrong_case *w = &wrong_cases[i];
        const outcome o = parse(w->words);
        assert_int_equal(o.status, MICA_E_USAGE);
        assert_null(strchr(o.err.text, '\n'));
        for (size_t m = 0; m < MICA_ARRAY_LEN(w->message) && w->message[m]; m++)
            if (!strstr(o.err.text, w->message[m]))
                fail_msg("'%s' lacks '%s'", o.err.text, w->message[m]);
    }
}

static void test_list_limit(void **state)
{
    (void)state;
    static char text[2 * (CLI_MAX_DOUBLES + 1)];
    for (int i = 0; i < CLI_MAX_DOUBLES + 1; i++)
        memcpy(text + 2 * i, "1,", 2);
    text[2 * CLI_MAX_DOUBLES - 1] = '\0';
    assert_int_equal(PARSE("--list", text).status, MICA_OK);
    text[2 * CLI_MAX_DOUBLES - 1] = ',';
    text[2 * CLI_MAX_DOUBLES + 1] = '\0';
    assert_non_null(strstr(PARSE("--list", text).err.text, "at most 1000"));
}

static void test_help_page(void **state)
{
    (void)state;
    mica_text page = {0};
    cli_help(&spec, &page);
    assert_false(page.failed);
    assert_non_null(strstr(page.data, "Usage: mica sample [MODEL]\n"));
    assert_non_null(strstr(page.data, "  -c, --count N              a number or: auto, off\n"));
    assert_non_null(strstr(page.data, "a mode: slow, fast\n"));
    assert_null(strstr(page.data, "unlisted"));
    for (const char *line = page.data; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        assert_true(strcspn(line, "\n") <= 80);
    }
    mica_text_deinit(&page);
}

static void test_suggest(void **state)
{
    (void)state;
    static const char *const names[] = {"image", "inspect", "bench"};
    assert_string_equal(cli_suggest("imgae", names, 3), "image");
    assert_string_equal(cli_suggest("benhc", names, 3), "bench");
    assert_null(cli_suggest("zebra-crossing", names, 3));
    assert_null(cli_suggest("", names, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_spelling), cmocka_unit_test(test_values),
        cmocka_unit_test(test_operand),        cmocka_unit_test(test_help_ends_parsing),
        cmocka_unit_test(test_wrong_usage),    cmocka_unit_test(test_list_limit),
        cmocka_unit_test(test_help_page),      cmocka_unit_test(test_suggest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
