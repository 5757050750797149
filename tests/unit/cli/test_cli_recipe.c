/* test_cli_recipe.c - the options that a recipe stands for, however its JSON is written.
 *
 * Seeds come from the text, because doubles do not hold them: blanks, other members of that name and strings that
 * look like one must not mislead. */
#include "cmd_image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The seed of an accepted recipe. */
static uint64_t seed_of(const char *json)
{
    mica_err err = {.status = MICA_OK};
    image_recipe r = {.prompt = NULL};
    image_args args;
    image_args_init(&args);
    args.recipe = "input";
    assert_int_equal(image_recipe_follow(&r, json, &args, &err), MICA_OK);
    image_recipe_deinit(&r);
    return args.seed;
}

static void test_seed(void **state)
{
    (void)state;
    static const char *const spellings[] = {
        "{\"recipe\":{\"prompt\":\"x\",\"seed\":18446744073709551615,\"steps\":2}}",
        "{\"recipe\":{\"prompt\":\"x\",\"steps\":2,\"seed\":18446744073709551615}}",
        " {\n \"recipe\" : {\n \"prompt\" : \"x\" ,\n \"seed\"\t:\r\n 18446744073709551615\n}\n}\n",
        "{\"seed\":1,\"a\":[{\"seed\":2}],\"recipe\":{\"b\":{\"seed\":3},\"prompt\":\"x\","
        "\"seed\":18446744073709551615},\"seed\":4}",
        "{\"recipe\":{\"prompt\":\"\\\"seed\\\":5 } \\\\\",\"family\":\"seed\","
        "\"seed\":18446744073709551615}}",
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(spellings); i++)
        assert_true(seed_of(spellings[i]) == UINT64_MAX);
}

static void test_no_seed(void **state)
{
    (void)state;
    image_args fresh;
    image_args_init(&fresh);
    assert_true(seed_of("{\"seed\":1,\"recipe\":{\"prompt\":\"\\\"seed\\\":5\"}}") == fresh.seed);
}

static void test_seed_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "1.5", "-1", "\"x\"", "null", "1e400", "18446744073709551616", "[7]"};
    for (size_t i = 0; i < MICA_ARRAY_LEN(wrong); i++) {
        mica_err err = {.status = MICA_OK};
        image_recipe r = {.prompt = NULL};
        image_args args;
        mica_text json = {0};
        mica_text_add(&json, "{\"recipe\":{\"prompt\":\"x\", \"seed\" : %s }}", wrong[i]);
        image_args_init(&args);
        args.recipe = "input";
        assert_int_not_equal(image_recipe_follow(&r, json.data, &args, &err), MICA_OK);
        assert_true(err.text[0] != '\0');
        image_recipe_deinit(&r);
        mica_text_deinit(&json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seed),
        cmocka_unit_test(test_no_seed),
        cmocka_unit_test(test_seed_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
