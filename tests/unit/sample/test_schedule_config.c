/* test_schedule_config.c - scheduler_config.json: defaults, every class, every refusal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "sample/schedule.h"

#define EULER "\"_class_name\": \"FlowMatchEulerDiscreteScheduler\""
#define DPM                                                                                        \
    "\"_class_name\": \"DPMSolverMultistepScheduler\", \"use_flow_sigmas\": true, "                \
    "\"prediction_type\": \"flow_prediction\""
#define UNIPC                                                                                      \
    "\"_class_name\": \"UniPCMultistepScheduler\", \"use_flow_sigmas\": true, "                    \
    "\"prediction_type\": \"flow_prediction\""

static mica_status parse(const char *text, mica_schedule_config *c, mica_err *err)
{
    return mica_schedule_config_parse(c, "scheduler_config.json", text, strlen(text), err);
}

static mica_schedule_config parse_ok(const char *text)
{
    mica_schedule_config c;
    mica_err err = {0};
    if (parse(text, &c, &err) != MICA_OK)
        fail_msg("%s", err.text);
    return c;
}

static void test_golden_file(void **state)
{
    (void)state;
    mica_schedule_config c;
    mica_err err = {0};
    const char *path = MICA_TEST_DATA "/qwen_image/model/scheduler/scheduler_config.json";
    if (mica_schedule_config_read(&c, path, &err) != MICA_OK)
        fail_msg("%s", err.text);
    assert_true(c.use_dynamic_shifting);
    assert_true(c.base_shift == 0.5 && c.max_shift == 0.9 && c.shift_terminal == 0.02);
    assert_int_equal(c.base_image_seq_len, 256);
    assert_int_equal(c.max_image_seq_len, 8192);
    assert_int_equal(c.num_train_timesteps, 1000);
    assert_int_equal(c.time_shift_type, MICA_SHIFT_EXPONENTIAL);
    assert_int_equal(c.spacing, MICA_SPACING_DEFAULT);
    assert_int_equal(c.solver, MICA_SOLVER_EULER);
}

static void test_missing_file(void **state)
{
    (void)state;
    mica_schedule_config c;
    mica_err err = {0};
    assert_int_not_equal(mica_schedule_config_read(&c, "no/such/scheduler_config.json", &err),
                         MICA_OK);
    assert_non_null(strstr(err.text, "no/such/scheduler_config.json"));
}

static void test_defaults(void **state)
{
    (void)state;
    const mica_schedule_config c = parse_ok("{" EULER "}");
    mica_schedule_config d;
    mica_schedule_config_init(&d);
    assert_true(c.shift == d.shift && c.base_shift == d.base_shift && c.max_shift == d.max_shift);
    assert_int_equal(c.max_image_seq_len, 4096);
    assert_true(c.shift_terminal == 0.0);
    assert_false(c.use_dynamic_shifting);
    assert_true(parse_ok("{" EULER ", \"shift_terminal\": null}").shift_terminal == 0.0);
}

static void test_options(void **state)
{
    (void)state;
    assert_int_equal(parse_ok("{" EULER ", \"use_karras_sigmas\": true}").spacing,
                     MICA_SPACING_KARRAS);
    assert_int_equal(parse_ok("{" EULER ", \"use_exponential_sigmas\": true}").spacing,
                     MICA_SPACING_EXPONENTIAL);
    assert_int_equal(parse_ok("{" EULER ", \"use_beta_sigmas\": true}").spacing, MICA_SPACING_BETA);
    assert_int_equal(parse_ok("{" EULER ", \"time_shift_type\": \"linear\"}").time_shift_type,
                     MICA_SHIFT_LINEAR);
    assert_true(parse_ok("{" EULER ", \"invert_sigmas\": true}").invert_sigmas);
    assert_true(parse_ok("{" EULER ", \"stochastic_sampling\": true}").stochastic_sampling);
}

static void test_classes(void **state)
{
    (void)state;
    const mica_schedule_config heun =
        parse_ok("{\"_class_name\": \"FlowMatchHeunDiscreteScheduler\", \"shift\": 3.0}");
    assert_int_equal(heun.solver, MICA_SOLVER_HEUN);
    assert_true(heun.shift == 3.0);
    const mica_schedule_config dpm = parse_ok("{" DPM ", \"flow_shift\": 5}");
    assert_int_equal(dpm.solver, MICA_SOLVER_DPMPP_2M);
    assert_true(dpm.shift == 5.0);
    const mica_schedule_config unipc =
        parse_ok("{" UNIPC ", \"shift_terminal\": 0.02, \"disable_corrector\": []}");
    assert_int_equal(unipc.solver, MICA_SOLVER_UNIPC);
    assert_true(unipc.shift_terminal == 0.02);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *text, *mention;
        mica_status status;
    } cases[] = {
        {"{}", "_class_name", MICA_E_FORMAT},
        {"[]", "_class_name", MICA_E_FORMAT},
        {"{\"_class_name\": \"DDIMScheduler\"}", "DDIMScheduler", MICA_E_UNSUPPORTED},
        {"{" EULER ", \"shift\": -1}", "shift", MICA_E_FORMAT},
        {"{" EULER ", \"shift\": \"3\"}", "shift", MICA_E_FORMAT},
        {"{" EULER ", \"num_train_timesteps\": 0}", "num_train_timesteps", MICA_E_FORMAT},
        {"{" EULER ", \"num_train_timesteps\": 10.5}", "num_train_timesteps", MICA_E_FORMAT},
        {"{" EULER ", \"shift_terminal\": 1}", "shift_terminal", MICA_E_FORMAT},
        {"{" EULER ", \"time_shift_type\": \"cubic\"}", "cubic", MICA_E_FORMAT},
        {"{" EULER ", \"use_dynamic_shifting\": 1}", "use_dynamic_shifting", MICA_E_FORMAT},
        {"{" EULER ", \"base_image_seq_len\": 4096}", "must differ", MICA_E_FORMAT},
        {"{" EULER ", \"use_karras_sigmas\": true, \"use_beta_sigmas\": true}", "only one",
         MICA_E_FORMAT},
        {"{\"_class_name\": \"UniPCMultistepScheduler\"}", "prediction_type", MICA_E_UNSUPPORTED},
        {"{\"_class_name\": \"UniPCMultistepScheduler\", \"prediction_type\": "
         "\"flow_prediction\"}",
         "use_flow_sigmas", MICA_E_UNSUPPORTED},
        {"{" UNIPC ", \"solver_order\": 3}", "solver_order is 3", MICA_E_UNSUPPORTED},
        {"{" UNIPC ", \"solver_type\": \"bh1\"}", "bh1", MICA_E_UNSUPPORTED},
        {"{" UNIPC ", \"predict_x0\": false}", "predict_x0", MICA_E_UNSUPPORTED},
        {"{" UNIPC ", \"lower_order_final\": false}", "lower_order_final", MICA_E_UNSUPPORTED},
        {"{" UNIPC ", \"disable_corrector\": [0]}", "disable_corrector", MICA_E_UNSUPPORTED},
        {"{" UNIPC ", \"disable_corrector\": [0, 1]}", "disable_corrector", MICA_E_UNSUPPORTED},
        {"{" UNIPC ", \"final_sigmas_type\": \"sigma_min\"}", "sigma_min", MICA_E_UNSUPPORTED},
        {"{" UNIPC ", \"thresholding\": true}", "thresholding", MICA_E_UNSUPPORTED},
        {"{" UNIPC ", \"use_karras_sigmas\": true}", "use_karras_sigmas", MICA_E_UNSUPPORTED},
        {"{" DPM ", \"algorithm_type\": \"sde-dpmsolver++\"}", "sde-dpmsolver++",
         MICA_E_UNSUPPORTED},
        {"{" DPM ", \"solver_type\": \"heun\"}", "heun", MICA_E_UNSUPPORTED},
        {"{" DPM ", \"use_lu_lambdas\": true}", "use_lu_lambdas", MICA_E_UNSUPPORTED},
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++) {
        mica_schedule_config c;
        mica_err err = {0};
        const mica_status st = parse(cases[i].text, &c, &err);
        if (st != cases[i].status || !strstr(err.text, cases[i].mention))
            fail_msg("%s: status %d, \"%s\"", cases[i].text, (int)st, err.text);
        if (!strstr(err.text, "scheduler_config.json"))
            fail_msg("\"%s\" does not name the file", err.text);
    }
}

static void test_alloc_fail(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        mica_schedule_config c;
        mica_err err = {0};
        mica_mem_fail_at(n);
        const mica_status st = parse("{" EULER ", \"shift\": 3.0}", &c, &err);
        mica_mem_fail_at(0);
        if (st == MICA_OK) {
            assert_true(n > 1);
            break;
        }
        assert_int_equal(st, MICA_E_NOMEM);
        assert_true(err.text[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_file), cmocka_unit_test(test_missing_file),
        cmocka_unit_test(test_defaults),    cmocka_unit_test(test_options),
        cmocka_unit_test(test_classes),     cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_alloc_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
