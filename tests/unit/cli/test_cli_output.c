/* test_cli_output.c - names of pictures, checks of output paths, prompts from files. */
#include "cli.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void expect_name(const char *path, int index, int count, const char *expected)
{
    char *name = NULL;
    mica_err err = {0};
    assert_int_equal(cli_output_name(path, index, count, &name, &err), MICA_OK);
    assert_string_equal(name, expected);
    mica_mem_free(name);
}

static void test_names(void **state)
{
    (void)state;
    expect_name("out.png", 0, 1, "out.png");
    expect_name("out.png", 0, 2, "out-1.png");
    expect_name("out.png", 11, 12, "out-12.png");
    expect_name("a.b/out.tar.png", 1, 2, "a.b/out.tar-2.png");
    expect_name("a.b/out", 1, 2, "a.b/out-2");
    expect_name("%s%n.png", 0, 2, "%s%n-1.png");
    expect_name(".png", 0, 2, ".png-1");
}

static void test_known_kinds(void **state)
{
    (void)state;
    static const char *const good[] = {"x.png", "x.PNG", "x.jpg", "x.jpeg", "./x.webp"};
    static const char *const bad[] = {"x", "x.gif", ".png", "x.png.txt", "x.png/", "", "png"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(good); i++) {
        mica_err err = {0};
        assert_int_equal(cli_output_check(good[i], &err), MICA_OK);
    }
    for (size_t i = 0; i < MICA_ARRAY_LEN(bad); i++) {
        mica_err err = {0};
        assert_int_equal(cli_output_check(bad[i], &err), MICA_E_USAGE);
        assert_non_null(strstr(err.text, bad[i]));
    }
}

static void test_folders(void **state)
{
    (void)state;
    char folder[] = "mica-test-XXXXXX.png"; /* a folder named like a picture */
    char template[] = "mica-test-XXXXXX";
    mica_err err = {0};
    assert_int_equal(cli_output_check("no/such/folder/x.png", &err), MICA_E_MISSING);
    assert_non_null(strstr(err.text, "no/such/folder"));
    assert_non_null(mkdtemp(template));
    memcpy(folder, template, strlen(template));
    assert_int_equal(rename(template, folder), 0);
    assert_int_equal(cli_output_check(folder, &err), MICA_E_IO);
    assert_int_equal(rmdir(folder), 0);
}

/* Writes a file, reads it as a prompt, removes it; NULL when it is refused. */
static char *read_file_prompt(const char *content, size_t size, mica_err *err)
{
    char argument[] = "@mica-test-XXXXXX";
    char *text = NULL;
    const int fd = mkstemp(argument + 1);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, size), (ssize_t)size);
    close(fd);
    const mica_status status = cli_text_read(argument, &text, err);
    unlink(argument + 1);
    assert_int_equal(status, text ? MICA_OK : err->status);
    return text;
}

static void expect_file_prompt(const char *content, const char *expected)
{
    mica_err err = {0};
    char *text = read_file_prompt(content, strlen(content), &err);
    assert_non_null(text);
    assert_string_equal(text, expected);
    mica_mem_free(text);
}

static void test_prompts_from_files(void **state)
{
    (void)state;
    mica_err err = {0};
    expect_file_prompt("a fox", "a fox");
    expect_file_prompt("a fox\n", "a fox");
    expect_file_prompt("a fox\r\n", "a fox");
    expect_file_prompt("two\nlines\n\n", "two\nlines\n");
    expect_file_prompt("", "");
    expect_file_prompt("\n", "");
    assert_null(read_file_prompt("a\0b", 3, &err));
    assert_non_null(strstr(err.text, "NUL"));
}

static void test_prompts_in_place(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"a fox", "a fox"}, {"", ""}, {"@@home", "@home"}, {"a@b", "a@b"}};
    mica_err err = {0};
    char *text = NULL;
    for (size_t i = 0; i < MICA_ARRAY_LEN(pairs); i++) {
        assert_int_equal(cli_text_read(pairs[i][0], &text, &err), MICA_OK);
        assert_string_equal(text, pairs[i][1]);
        mica_mem_free(text);
    }
    assert_int_equal(cli_text_read(NULL, &text, &err), MICA_OK);
    assert_null(text);
    assert_int_not_equal(cli_text_read("@no-such-file", &text, &err), MICA_OK);
    assert_non_null(strstr(err.text, "no-such-file"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_known_kinds),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_prompts_from_files),
        cmocka_unit_test(test_prompts_in_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
