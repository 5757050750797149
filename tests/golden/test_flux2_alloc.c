/* test_flux2_alloc.c - allocations of open, session and run fail one at a time (golden_alloc.h), with a
 * picture to edit. */
#include "golden_alloc.h"

#define SOURCE MICA_TEST_DATA "/flux2_klein/model"

/* The smallest reference that is taken, of one colour. */
static const uint8_t PIXELS[64 * 64 * 3];
static const mica_image_input INPUTS[] = {{.rgb = PIXELS, .width = 64, .height = 64}};
static const mica_image_options OPTIONS = {.size = sizeof OPTIONS,
                                           .prompt = "a fox",
                                           .max_text_tokens = 16,
                                           .inputs = INPUTS,
                                           .input_count = 1,
                                           .width = 16,
                                           .height = 16,
                                           .steps = 1};

static const mica_engine_options ENGINE = {.size = sizeof ENGINE, .model = SOURCE};

static void test_open(void **state)
{
    (void)state;
    golden_fail_open(&ENGINE);
}

static void test_run(void **state)
{
    (void)state;
    golden_fail_run(&ENGINE, golden_alloc_generate, &OPTIONS, 256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_open), cmocka_unit_test(test_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
