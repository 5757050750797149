/* test_zimage_alloc.c - Z-Image with allocations that fail, one at a time (golden_alloc.h). */
#include "golden_alloc.h"

static const mica_engine_options ENGINE = {.size = sizeof ENGINE,
                                           .model = MICA_TEST_DATA "/z_image/model"};

static void test_open(void **state)
{
    (void)state;
    golden_fail_open(&ENGINE);
}

/* With guidance, and a prompt of another padded length than the negative one. */
static void test_run(void **state)
{
    (void)state;
    const mica_image_options o = {.size = sizeof o,
                                  .prompt = "a fox in the snow, morning light, a long shot, film",
                                  .negative_prompt = "",
                                  .width = 16,
                                  .height = 16,
                                  .guidance = 4.0,
                                  .cfg_normalization = 1.0,
                                  .steps = 1};
    golden_fail_run(&ENGINE, golden_alloc_generate, &o, UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_open), cmocka_unit_test(test_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
