/* test_schedule.c - schedules against the reference's, bit for bit; configurations and refusals. */
#include "golden_file.h"

#include "sample/beta_quantile.h"
#include "sample/schedule.h"

#include <math.h>

static mica_schedule_config dynamic_config(void)
{
    mica_schedule_config c;
    mica_schedule_config_init(&c);
    c.use_dynamic_shifting = true;
    c.max_image_seq_len = 8192;
    c.max_shift = 0.9;
    return c;
}

static void assert_same_floats(const char *what, const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg("%s[%zu]: got %.9g, expected %.9g", what, i, (double)got[i], (double)want[i]);
}

static void check_run(const mica_weights *w, const char *name, const mica_schedule_config *c,
                      int steps, double mu, const double *own)
{
    float sigmas[MICA_MAX_STEPS + 1], timesteps[MICA_MAX_STEPS];
    mica_err err = {0};
    if (mica_schedule_run(c, steps, mu, own, sigmas, timesteps, &err) != MICA_OK)
        fail_msg("%s: %s", name, err.text);
    size_t n, m;
    float *want = golden_floats(w, name, "sigmas", &n);
    float *want_t = golden_floats(w, name, "timesteps", &m);
    assert_int_equal(n, steps + 1);
    assert_int_equal(m, steps);
    assert_same_floats(name, sigmas, want, n);
    assert_same_floats(name, timesteps, want_t, m);
    free(want);
    free(want_t);
}

static void test_golden_schedules(void **state)
{
    (void)state;
    static const int cases[][2] = {{1, 24},    {3, 24},    {4, 1024}, {8, 4096},
                                   {20, 4096}, {50, 6032}, {28, 8192}};
    mica_weights *w = golden_open("primitives/schedules.safetensors");
    mica_schedule_config qwen = dynamic_config(), linear = qwen, flux2 = qwen, z_image;
    qwen.shift_terminal = 0.02;
    linear.time_shift_type = MICA_SHIFT_LINEAR;
    mica_schedule_config_init(&z_image);
    z_image.shift = 3.0;
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++) {
        const int steps = cases[i][0], length = cases[i][1];
        const double mu = mica_schedule_mu(&qwen, length);
        char name[64];
        snprintf(name, sizeof name, "qwen_image_%d_%d", steps, length);
        if (steps > 1) /* the reference divides 0 by 0 there */
            check_run(w, name, &qwen, steps, mu, NULL);
        snprintf(name, sizeof name, "linear_%d_%d", steps, length);
        check_run(w, name, &linear, steps, mu, NULL);
        snprintf(name, sizeof name, "flux2_%d_%d", steps, length);
        check_run(w, name, &flux2, steps, mica_schedule_mu_empirical(length, steps), NULL);
        snprintf(name, sizeof name, "z_image_%d", steps);
        double own[64];
        mica_schedule_torch_linspace(steps, own);
        check_run(w, name, &z_image, steps, 0.0, own);
    }
    mica_weights_close(&w);
}

static void test_empirical_mu(void **state)
{
    (void)state;
    mica_weights *w = golden_open("primitives/schedules.safetensors");
    const mica_tensor *lengths = golden_tensor(w, "flux2_mu_table", "image_seq_len");
    const mica_tensor *steps = golden_tensor(w, "flux2_mu_table", "steps");
    size_t n;
    float *want = golden_floats(w, "flux2_mu_table", "mu", &n);
    assert_int_equal(n, mica_tensor_count(lengths));
    for (size_t i = 0; i < n; i++) {
        int32_t length, step;
        memcpy(&length, (const char *)lengths->data + 4 * i, 4);
        memcpy(&step, (const char *)steps->data + 4 * i, 4);
        const float got = (float)mica_schedule_mu_empirical(length, step);
        assert_same_floats("mu", &got, &want[i], 1);
    }
    free(want);
    mica_weights_close(&w);
}

/* Spacings are computed in double on both sides and rounded once: one unit in the last place. */
static void check_spacing(const mica_weights *w, const char *name, const mica_schedule_config *c,
                          int steps)
{
    float sigmas[64], timesteps[64];
    mica_err err = {0};
    if (mica_schedule_run(c, steps, 0.7, NULL, sigmas, timesteps, &err) != MICA_OK)
        fail_msg("%s: %s", name, err.text);
    size_t n;
    float *want = golden_floats(w, name, "sigmas", &n);
    assert_int_equal(n, steps + 1);
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(sigmas[i] - want[i]) <= 0x1p-23f * want[i]))
            fail_msg("%s[%zu]: got %.9g, expected %.9g", name, i, (double)sigmas[i],
                     (double)want[i]);
    free(want);
}

static void test_spacings(void **state)
{
    (void)state;
    static const char *const kinds[] = {"karras", "exponential", "beta"};
    static const int steps[] = {2, 3, 8, 20, 50};
    mica_weights *w = golden_open("solvers/spacings.safetensors");
    for (size_t k = 0; k < MICA_ARRAY_LEN(kinds); k++) {
        mica_err err = {0};
        mica_schedule_config qwen = dynamic_config(), fixed;
        qwen.shift_terminal = 0.02;
        mica_schedule_config_init(&fixed);
        fixed.shift = 3.0;
        assert_int_equal(mica_schedule_config_set_named(&qwen, kinds[k], &err), MICA_OK);
        assert_int_equal(mica_schedule_config_set_named(&fixed, kinds[k], &err), MICA_OK);
        for (size_t i = 0; i < MICA_ARRAY_LEN(steps); i++) {
            char name[64];
            snprintf(name, sizeof name, "%s_qwen_%d", kinds[k], steps[i]);
            check_spacing(w, name, &qwen, steps[i]);
            snprintf(name, sizeof name, "%s_static_%d", kinds[k], steps[i]);
            check_spacing(w, name, &fixed, steps[i]);
        }
    }
    mica_weights_close(&w);
}

static void test_beta_quantile(void **state)
{
    (void)state;
    mica_weights *w = golden_open("solvers/spacings.safetensors");
    const mica_tensor *p = golden_tensor(w, "beta_ppf", "p");
    const mica_tensor *x = golden_tensor(w, "beta_ppf", "x");
    assert_int_equal(p->dtype, MICA_DTYPE_F64);
    for (int64_t i = 0; i < mica_tensor_count(p); i++) {
        double at, want;
        memcpy(&at, (const char *)p->data + 8 * i, 8);
        memcpy(&want, (const char *)x->data + 8 * i, 8);
        const double got = mica_beta_quantile(at, 0.6, 0.6);
        if (!(fabs(got - want) <= 1e-12 * want + 1e-300))
            fail_msg("quantile of %.17g: got %.17g, expected %.17g", at, got, want);
    }
    mica_weights_close(&w);
}

/* Closed forms: Beta(1, 1) is uniform, Beta(2, 1) has I_x = x^2, Beta(1/2, 1/2) is the arcsine law. */
static void test_beta_closed_forms(void **state)
{
    (void)state;
    for (int i = 0; i <= 100; i++) {
        const double p = i / 100.0, s = sin(p * 3.14159265358979323846 / 2);
        assert_true(fabs(mica_beta_quantile(p, 1.0, 1.0) - p) <= 1e-14);
        assert_true(fabs(mica_beta_quantile(p, 2.0, 1.0) - sqrt(p)) <= 1e-13);
        assert_true(fabs(mica_beta_quantile(p, 0.5, 0.5) - s * s) <= 1e-13);
        assert_true(fabs(mica_beta_cdf(mica_beta_quantile(p, 3.0, 0.7), 3.0, 0.7) - p) <= 1e-12);
    }
}

static void test_own_sigmas(void **state)
{
    (void)state;
    mica_schedule_config c;
    mica_schedule_config_init(&c);
    mica_err err = {0};
    float sigmas[8], timesteps[8];
    const double good[] = {1.0, 0.5, 0.25};
    assert_int_equal(mica_schedule_run(&c, 3, 0, good, sigmas, timesteps, &err), MICA_OK);
    assert_same_floats("sigmas", sigmas, (const float[]){1.0f, 0.5f, 0.25f, 0.0f}, 4);
    assert_same_floats("timesteps", timesteps, (const float[]){1000.0f, 500.0f, 250.0f}, 3);
    static const double bad[][3] = {
        {1.0, 0.5, 0.0}, {1.0, 0.5, 0.5}, {1.1, 0.5, 0.2}, {0.5, 1.0, 0.2}, {1.0, NAN, 0.2}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(bad); i++) {
        assert_int_equal(mica_schedule_run(&c, 3, 0, bad[i], sigmas, timesteps, &err),
                         MICA_E_USAGE);
        assert_non_null(strstr(err.text, "sigma"));
    }
}

static void expect_refusal(const mica_schedule_config *c, int steps, double mu, mica_status status,
                           const char *text)
{
    float sigmas[64], timesteps[64];
    mica_err err = {0};
    assert_int_equal(mica_schedule_run(c, steps, mu, NULL, sigmas, timesteps, &err), status);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not mention \"%s\"", err.text, text);
}

static void test_refusals(void **state)
{
    (void)state;
    mica_schedule_config c = dynamic_config();
    expect_refusal(&c, 0, 0.5, MICA_E_USAGE, "0 steps");
    expect_refusal(&c, MICA_MAX_STEPS + 1, 0.5, MICA_E_USAGE, "1001 steps");
    expect_refusal(&c, 4, NAN, MICA_E_USAGE, "mu");
    expect_refusal(&c, 4, 49.0, MICA_E_FORMAT, "does not decrease"); /* all sigmas round to 1 */
    c.time_shift_type = MICA_SHIFT_LINEAR;
    expect_refusal(&c, 4, -0.5, MICA_E_USAGE, "mu > 0");
    c.invert_sigmas = true;
    expect_refusal(&c, 4, 0.5, MICA_E_UNSUPPORTED, "invert_sigmas");
    c.invert_sigmas = false;
    c.stochastic_sampling = true;
    expect_refusal(&c, 4, 0.5, MICA_E_UNSUPPORTED, "stochastic_sampling");
}

static void test_one_step_with_terminal(void **state)
{
    (void)state;
    mica_schedule_config c = dynamic_config();
    c.shift_terminal = 0.02;
    float sigmas[2], timesteps[1];
    mica_err err = {0};
    assert_int_equal(mica_schedule_run(&c, 1, 0.5, NULL, sigmas, timesteps, &err), MICA_OK);
    assert_same_floats("sigmas", sigmas, (const float[]){1.0f, 0.0f}, 2);
}

static void test_most_steps(void **state)
{
    (void)state;
    static const char *const kinds[] = {"linear", "karras", "exponential", "beta", "lightning"};
    static float sigmas[MICA_MAX_STEPS + 1], timesteps[MICA_MAX_STEPS];
    for (size_t i = 0; i < MICA_ARRAY_LEN(kinds); i++) {
        mica_schedule_config c = dynamic_config();
        c.shift_terminal = 0.02;
        mica_err err = {0};
        assert_int_equal(mica_schedule_config_set_named(&c, kinds[i], &err), MICA_OK);
        if (mica_schedule_run(&c, MICA_MAX_STEPS, 0.9, NULL, sigmas, timesteps, &err) != MICA_OK)
            fail_msg("%s: %s", kinds[i], err.text);
    }
}

static void test_lightning(void **state)
{
    (void)state;
    mica_schedule_config c = dynamic_config();
    c.shift_terminal = 0.02;
    mica_schedule_config_set_lightning(&c);
    assert_true(c.shift_terminal == 0.0);
    assert_true(mica_schedule_mu(&c, 64) == log(3.0));
    assert_true(fabs(mica_schedule_mu(&c, 8192) - log(3.0)) < 1e-15);
    float sigmas[5], timesteps[4];
    mica_err err = {0};
    assert_int_equal(mica_schedule_run(&c, 4, log(3.0), NULL, sigmas, timesteps, &err), MICA_OK);
    const float want[] = {1.0f, 0.9f, 0.75f, 0.5f, 0.0f}; /* a shift of 3, as Z-Image's */
    for (int i = 0; i < 5; i++)
        assert_true(fabsf(sigmas[i] - want[i]) < 1e-6f);
}

static void test_named(void **state)
{
    (void)state;
    mica_schedule_config c = dynamic_config();
    mica_err err = {0};
    assert_int_equal(mica_schedule_config_set_named(&c, "Karras", &err), MICA_E_USAGE);
    assert_non_null(strstr(err.text, "\"Karras\""));
    assert_int_equal(mica_schedule_config_set_named(&c, "linear", &err), MICA_OK);
    float sigmas[5], timesteps[4];
    assert_int_equal(mica_schedule_run(&c, 4, 0.9, NULL, sigmas, timesteps, &err), MICA_OK);
    assert_same_floats("sigmas", sigmas, (const float[]){1.0f, 0.75f, 0.5f, 0.25f, 0.0f}, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_schedules),
        cmocka_unit_test(test_empirical_mu),
        cmocka_unit_test(test_spacings),
        cmocka_unit_test(test_beta_quantile),
        cmocka_unit_test(test_beta_closed_forms),
        cmocka_unit_test(test_own_sigmas),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_one_step_with_terminal),
        cmocka_unit_test(test_most_steps),
        cmocka_unit_test(test_lightning),
        cmocka_unit_test(test_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
