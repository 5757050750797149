/* test_qwen_image_alloc.c - Qwen-Image with allocations that fail, one at a time (golden_alloc.h). */
#include "golden_alloc.h"

static const mica_engine_options ENGINE = {.size = sizeof ENGINE,
                                           .model = MICA_TEST_DATA "/qwen_image/model"};
static const mica_engine_options EDIT_ENGINE = {
    .size = sizeof EDIT_ENGINE, .model = MICA_TEST_DATA "/qwen_image/edit_model_zero_cond"};

static const mica_image_options OPTIONS = {.size = sizeof OPTIONS,
                                           .prompt = "a fox",
                                           .negative_prompt = " ",
                                           .width = 16,
                                           .height = 16,
                                           .steps = 1};
static const uint8_t PIXELS[32 * 32 * 3] = {1, 2, 3};
static const mica_image_input PICTURE = {.rgb = PIXELS, .width = 32, .height = 32};
static const mica_image_options EDIT_OPTIONS = {.size = sizeof EDIT_OPTIONS,
                                                .prompt = "a fox",
                                                .negative_prompt = " ",
                                                .width = 16,
                                                .height = 16,
                                                .steps = 1,
                                                .inputs = &PICTURE,
                                                .input_count = 1,
                                                .ref_pixels = 1024,
                                                .vision_pixels = 1024,
                                                .picture_positions = MICA_POSITIONS_GRID};

static void test_open(void **state)
{
    (void)state;
    golden_fail_open(&ENGINE);
}

static void test_run(void **state)
{
    (void)state;
    golden_fail_run(&ENGINE, golden_alloc_generate, &OPTIONS, UINT64_MAX);
}

static void test_edit(void **state)
{
    (void)state;
    golden_fail_run(&EDIT_ENGINE, golden_alloc_generate, &EDIT_OPTIONS, UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_open), cmocka_unit_test(test_run),
                                       cmocka_unit_test(test_edit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
