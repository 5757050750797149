/* schedule.c - from a configuration and a number of steps to the sigmas of a run.
 *
 *     linspace(1, 1/n, n)   ──► shift ──► stretch to the terminal ──► respace ──► append 0
 *     or the caller's own       static,    so that the last sigma     karras,
 *                               or by mu   is shift_terminal          exponential, beta
 *
 * Order and precision are those of FlowMatchEulerDiscreteScheduler.set_timesteps when a pipeline
 * passes sigmas: they become numpy float32 first, Python scalars are rounded to float32 where they
 * meet them (NEP 50), and only the respacing works in float64. Therefore every operation
 * of shift_sigmas and stretch_to_terminal below is a single float32 operation.
 *
 * What it does not do: stochastic sampling and inverted sigmas (Mochi) are refused. */
#include "sample/schedule.h"

#include "sample/beta_quantile.h"

#include <math.h>
#include <string.h>

void mica_schedule_config_init(mica_schedule_config *c)
{
    *c = (mica_schedule_config){
        .num_train_timesteps = 1000,
        .shift = 1.0,
        .base_shift = 0.5,
        .max_shift = 1.15,
        .base_image_seq_len = 256,
        .max_image_seq_len = 4096,
        .solver = MICA_SOLVER_EULER,
    };
}

void mica_schedule_config_set_lightning(mica_schedule_config *c)
{
    const int train = c->num_train_timesteps;
    const mica_solver solver = c->solver;
    mica_schedule_config_init(c);
    c->num_train_timesteps = train;
    c->solver = solver;
    c->use_dynamic_shifting = true;
    c->base_shift = c->max_shift = log(3.0);
    c->max_image_seq_len = 8192;
}

static void set_linear(mica_schedule_config *c)
{
    c->use_dynamic_shifting = false;
    c->shift = 1.0;
    c->shift_terminal = 0.0;
    c->spacing = MICA_SPACING_DEFAULT;
}

mica_status mica_schedule_config_set_named(mica_schedule_config *c, const char *name, mica_err *err)
{
    if (!strcmp(name, "linear"))
        set_linear(c);
    else if (!strcmp(name, "karras"))
        c->spacing = MICA_SPACING_KARRAS;
    else if (!strcmp(name, "exponential"))
        c->spacing = MICA_SPACING_EXPONENTIAL;
    else if (!strcmp(name, "beta"))
        c->spacing = MICA_SPACING_BETA;
    else if (!strcmp(name, "lightning"))
        mica_schedule_config_set_lightning(c);
    else
        return MICA_FAIL(err, MICA_E_USAGE,
                         "unknown schedule \"%s\"; use linear, karras, exponential, beta or "
                         "lightning",
                         name);
    return MICA_OK;
}

/* Reference: pipeline_qwenimage.py calculate_shift. */
double mica_schedule_mu(const mica_schedule_config *c, int image_seq_len)
{
    const double slope =
        (c->max_shift - c->base_shift) / (c->max_image_seq_len - c->base_image_seq_len);
    const double intercept = c->base_shift - slope * c->base_image_seq_len;
    return image_seq_len * slope + intercept;
}

/* Reference: pipeline_flux2_klein.py compute_empirical_mu. Two measured lines, for 10 and for
 * 200 steps; between them mu is linear in the number of steps. Long sequences use the
 * second line whatever the number of steps. */
double mica_schedule_mu_empirical(int image_seq_len, int steps)
{
    const double mu_10 = 8.73809524e-05 * image_seq_len + 1.89833333;
    const double mu_200 = 0.00016927 * image_seq_len + 0.45666666;
    if (image_seq_len > 4300)
        return mu_200;
    const double slope = (mu_200 - mu_10) / 190.0;
    return slope * steps + (mu_200 - 200.0 * slope);
}

/* Both halves are counted from their own end, with one fused operation each. */
void mica_schedule_torch_linspace(int steps, double *own)
{
    const float end = (float)(1.0 / steps);
    const float step = steps > 1 ? (end - 1.0f) / (float)(steps - 1) : 0.0f;
    for (int i = 0; i < steps; i++)
        own[i] =
            i < steps / 2 ? fmaf(step, (float)i, 1.0f) : fmaf(-step, (float)(steps - 1 - i), end);
}

static mica_status check_own(const double *own, int steps, mica_err *err)
{
    for (int i = 0; i < steps; i++) {
        if (!(own[i] > 0.0 && own[i] <= 1.0))
            return MICA_FAIL(err, MICA_E_USAGE,
                             "sigma %d of %d is %g; sigmas must be above 0 and at most 1 (the "
                             "final 0 is added by itself)",
                             i + 1, steps, own[i]);
        if (i > 0 && !((float)own[i] < (float)own[i - 1]))
            return MICA_FAIL(err, MICA_E_USAGE,
                             "sigma %d of %d is %.9g and follows %.9g; sigmas must decrease", i + 1,
                             steps, own[i], own[i - 1]);
    }
    return MICA_OK;
}

static mica_status check_request(const mica_schedule_config *c, int steps, double mu,
                                 const double *own, mica_err *err)
{
    if (steps < 1 || steps > MICA_MAX_STEPS)
        return MICA_FAIL(err, MICA_E_USAGE, "%d steps asked for; 1 to %d are possible", steps,
                         MICA_MAX_STEPS);
    if (c->invert_sigmas)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "the scheduler configuration sets invert_sigmas, which is not supported");
    if (c->stochastic_sampling)
        return MICA_FAIL(
            err, MICA_E_UNSUPPORTED,
            "the scheduler configuration sets stochastic_sampling, which is not supported");
    if (c->use_dynamic_shifting && !(fabs(mu) <= 50.0))
        return MICA_FAIL(err, MICA_E_USAGE, "shift parameter mu is %g; it must lie within -50..50",
                         mu);
    if (c->use_dynamic_shifting && c->time_shift_type == MICA_SHIFT_LINEAR && !(mu > 0.0))
        return MICA_FAIL(err, MICA_E_USAGE, "shift parameter mu is %g; a linear shift needs mu > 0",
                         mu);
    return own ? check_own(own, steps, err) : MICA_OK;
}

/* numpy.linspace in float64: start + i * step, and the end point itself. */
static double linspace(double start, double stop, int i, int n)
{
    if (i > 0 && i == n - 1)
        return stop;
    const double step = n > 1 ? (stop - start) / (n - 1) : 0.0;
    return i * step + start;
}

static void shift_sigmas(const mica_schedule_config *c, double mu, int n, float *s)
{
    if (c->use_dynamic_shifting) {
        const float scale = (float)(c->time_shift_type == MICA_SHIFT_LINEAR ? mu : exp(mu));
        for (int i = 0; i < n; i++)
            s[i] = scale / (scale + (1.0f / s[i] - 1.0f));
        return;
    }
    const float shift = (float)c->shift, extra = (float)(c->shift - 1.0);
    for (int i = 0; i < n; i++)
        s[i] = shift * s[i] / (1.0f + extra * s[i]);
}

/* 1 - s is scaled so that the last sigma becomes the terminal. A schedule whose last sigma is 1
 * (a single step) cannot be stretched and stays. */
static void stretch_to_terminal(double terminal, int n, float *s)
{
    const float scale = (1.0f - s[n - 1]) / (float)(1.0 - terminal);
    if (!(scale > 0.0f))
        return;
    for (int i = 0; i < n; i++)
        s[i] = 1.0f - (1.0f - s[i]) / scale;
}

/* New sigmas between the first and the last of `s`; Karras et al. 2022 (arXiv 2206.00364) eq. 5
 * with rho 7, the exponential limit of it, or quantiles of Beta(0.6, 0.6). */
static void respace(mica_spacing spacing, int n, float *s)
{
    const double hi = s[0], lo = s[n - 1], rho = 7.0;
    const double hi_root = pow(hi, 1.0 / rho), lo_root = pow(lo, 1.0 / rho);
    for (int i = 0; i < n; i++) {
        const double ramp = linspace(0.0, 1.0, i, n);
        if (spacing == MICA_SPACING_KARRAS)
            s[i] = (float)pow(hi_root + ramp * (lo_root - hi_root), rho);
        else if (spacing == MICA_SPACING_EXPONENTIAL)
            s[i] = (float)exp(linspace(log(hi), log(lo), i, n));
        else
            s[i] = (float)(lo + mica_beta_quantile(1.0 - ramp, 0.6, 0.6) * (hi - lo));
    }
}

static mica_status check_decreasing(int n, const float *s, mica_err *err)
{
    for (int i = 0; i <= n; i++) {
        const bool in_range = s[i] >= 0.0f && s[i] <= 1.0f;
        if (!in_range || (i > 0 && !(s[i] < s[i - 1])))
            return MICA_FAIL(
                err, MICA_E_FORMAT,
                "the schedule does not decrease from at most 1 to 0: sigma %d of %d is "
                "%.9g; check the scheduler configuration or use fewer steps",
                i + 1, n + 1, (double)s[i]);
    }
    return MICA_OK;
}

mica_status mica_schedule_run(const mica_schedule_config *c, int steps, double mu,
                              const double *own, float *sigmas, float *timesteps, mica_err *err)
{
    MICA_TRY(check_request(c, steps, mu, own, err));
    for (int i = 0; i < steps; i++)
        sigmas[i] = (float)(own ? own[i] : linspace(1.0, 1.0 / steps, i, steps));
    shift_sigmas(c, mu, steps, sigmas);
    if (c->shift_terminal > 0.0)
        stretch_to_terminal(c->shift_terminal, steps, sigmas);
    if (c->spacing != MICA_SPACING_DEFAULT)
        respace(c->spacing, steps, sigmas);
    sigmas[steps] = 0.0f;
    for (int i = 0; i < steps; i++)
        timesteps[i] = sigmas[i] * (float)c->num_train_timesteps;
    return check_decreasing(steps, sigmas, err);
}
