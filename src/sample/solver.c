/* solver.c - applies a solver's coefficients to tensors.
 *
 *   step                 0            1                  last
 *   Euler    sigma_0  ─────► sigma_1 ─────► sigma_2 ... ─────► 0
 *   Heun     the same, but each step but the last tries its end point first:
 *            v at sigma_i, x' = x + dt v;  v' at sigma_i+1, x = x + dt (v + v') / 2
 *   DPM++    m = x - sigma v;  x from x, m and the m before
 *   UniPC    m = x - sigma v;  first x is corrected with m, then predicted from the corrected x
 *
 * Each update is one or two mica_linear_combination calls: no operation allocates or waits. History
 * tensors trade places by swapping their handles.
 *
 * References, in the order above: FlowMatchEulerDiscreteScheduler.step,
 * FlowMatchHeunDiscreteScheduler.step (s_churn 0), DPMSolverMultistepScheduler.step and
 * UniPCMultistepScheduler.step with use_flow_sigmas, solver_order 2, lower_order_final. The
 * multistep references truncate timesteps to whole numbers for the model; here a model
 * always sees the exact sigma. */
#include "sample/solver.h"

#include "sample/solver_coefficients.h"

static int history_needed(mica_solver kind)
{
    switch (kind) {
    case MICA_SOLVER_HEUN:
        return 1;
    case MICA_SOLVER_DPMPP_2M:
        return 2;
    case MICA_SOLVER_UNIPC:
        return 3;
    default:
        return 0;
    }
}

static bool needs_saved(mica_solver kind)
{
    return kind == MICA_SOLVER_HEUN || kind == MICA_SOLVER_UNIPC;
}

mica_status mica_solver_init(mica_solver_state *s, mica_backend *be, mica_solver kind, int steps,
                             const float *sigmas, const mica_tensor *x, mica_err *err)
{
    if (kind == MICA_SOLVER_DEFAULT)
        kind = MICA_SOLVER_EULER;
    if (kind < MICA_SOLVER_EULER || kind > MICA_SOLVER_UNIPC)
        return MICA_FAIL(err, MICA_E_USAGE, "unknown solver %d", (int)kind);
    if (steps < 1)
        return MICA_FAIL(err, MICA_E_USAGE, "a solver needs at least 1 step, got %d", steps);
    *s = (mica_solver_state){.kind = kind, .steps = steps, .sigmas = sigmas};
    for (int i = 0; i < history_needed(kind); i++)
        s->history[i] = mica_state_tensor(be, MICA_POOL_SESSION, x->ndim, x->shape_);
    if (needs_saved(kind))
        s->saved = mica_state_tensor(be, MICA_POOL_SESSION, x->ndim, x->shape_);
    return mica_backend_check(be, err);
}

float mica_solver_sigma(const mica_solver_state *s)
{
    return s->sigmas[s->step + s->stage];
}

bool mica_solver_is_done(const mica_solver_state *s)
{
    return s->step >= s->steps;
}

int mica_solver_plan(mica_solver kind, int steps, const float *sigmas, float *sigmas_out)
{
    int n = 0;
    for (int i = 0; i < steps; i++) {
        sigmas_out[n++] = sigmas[i];
        if (kind == MICA_SOLVER_HEUN && i < steps - 1)
            sigmas_out[n++] = sigmas[i + 1];
    }
    return n;
}

static void copy_to(mica_backend *be, const mica_tensor *src, mica_tensor *dst)
{
    const float one = 1.0f;
    mica_linear_combination(be, 1, &one, &src, dst);
}

/* y = x + a * v */
static void add_scaled(mica_backend *be, const mica_tensor *x, float a, const mica_tensor *v,
                       mica_tensor *y)
{
    const mica_tensor *const terms[] = {x, v};
    mica_linear_combination(be, 2, (const float[]){1.0f, a}, terms, y);
}

static bool step_euler(mica_solver_state *s, mica_backend *be, const mica_tensor *v, mica_tensor *x)
{
    add_scaled(be, x, s->sigmas[s->step + 1] - s->sigmas[s->step], v, x);
    return true;
}

static bool step_heun(mica_solver_state *s, mica_backend *be, const mica_tensor *v, mica_tensor *x)
{
    const float dt = s->sigmas[s->step + 1] - s->sigmas[s->step];
    if (s->stage == 1) {
        const mica_tensor *const terms[] = {&s->saved, &s->history[0], v};
        mica_linear_combination(be, 3, (const float[]){1.0f, 0.5f * dt, 0.5f * dt}, terms, x);
        s->stage = 0;
        return true;
    }
    if (s->step < s->steps - 1) { /* the last step ends at sigma 0, where no model can look */
        copy_to(be, x, &s->saved);
        copy_to(be, v, &s->history[0]);
        s->stage = 1;
    }
    add_scaled(be, x, dt, v, x);
    return s->stage == 0;
}

/* Makes the oldest of the first n history tensors the newest and writes x - sigma v into it. */
static void push_clean(mica_solver_state *s, mica_backend *be, int n, float sigma,
                       const mica_tensor *v, const mica_tensor *x)
{
    const mica_tensor oldest = s->history[n - 1];
    for (int i = n - 1; i > 0; i--)
        s->history[i] = s->history[i - 1];
    s->history[0] = oldest;
    add_scaled(be, x, -sigma, v, &s->history[0]);
}

/* x = c.x * from + c.m0 * newest + c.m1 * the one before */
static void predict(mica_solver_state *s, mica_backend *be, mica_solver_coefficients c,
                    const mica_tensor *from, mica_tensor *x)
{
    const mica_tensor *const terms[] = {from, &s->history[0], &s->history[1]};
    const int n = c.m1 != 0.0f ? 3 : 2; /* history[1] holds nothing in the first step */
    mica_linear_combination(be, n, (const float[]){c.x, c.m0, c.m1}, terms, x);
}

static bool step_dpmpp(mica_solver_state *s, mica_backend *be, const mica_tensor *v, mica_tensor *x)
{
    push_clean(s, be, 2, s->sigmas[s->step], v, x);
    predict(s, be, mica_solver_predictor(s->sigmas, s->steps, s->step), x, x);
    return true;
}

/* The sigmas around the current step, [step - 2] to [step + 1], as UniPC uses them: only sigma 0
 * of the run can be changed, so a window of four is enough and nothing is allocated. */
typedef struct sigma_window {
    float at[4];
    int step;  /* index of the current step in `at` */
    int steps; /* such that the last step stays the last */
} sigma_window;

static sigma_window unipc_window(const mica_solver_state *s)
{
    sigma_window w;
    const int first = s->step > 2 ? s->step - 2 : 0;
    for (int i = 0; i < 4; i++) {
        const int j = first + i <= s->steps ? first + i : s->steps;
        w.at[i] = j == 0 ? mica_solver_unipc_first_sigma(s->sigmas[0]) : s->sigmas[j];
    }
    w.step = s->step - first;
    w.steps = s->steps - first;
    return w;
}

static void correct(mica_solver_state *s, mica_backend *be, const sigma_window *w, mica_tensor *x)
{
    const mica_solver_coefficients c = mica_solver_corrector(w->at, w->step);
    /* history[0] is m at the end of the step under correction, the others are before it */
    const mica_tensor *const terms[] = {&s->saved, &s->history[0], &s->history[1], &s->history[2]};
    const int n = c.m1 != 0.0f ? 4 : 3;
    mica_linear_combination(be, n, (const float[]){c.x, c.mt, c.m0, c.m1}, terms, x);
}

static bool step_unipc(mica_solver_state *s, mica_backend *be, const mica_tensor *v, mica_tensor *x)
{
    const sigma_window w = unipc_window(s);
    push_clean(s, be, 3, w.at[w.step], v, x);
    if (s->step > 0)
        correct(s, be, &w, x);
    copy_to(be, x, &s->saved);
    predict(s, be, mica_solver_predictor(w.at, w.steps, w.step), &s->saved, x);
    return true;
}

void mica_solver_step(mica_solver_state *s, mica_backend *be, const mica_tensor *v, mica_tensor *x,
                      bool *done_step)
{
    static bool (*const steps[])(mica_solver_state *, mica_backend *, const mica_tensor *,
                                 mica_tensor *) = {
        [MICA_SOLVER_EULER] = step_euler,
        [MICA_SOLVER_HEUN] = step_heun,
        [MICA_SOLVER_DPMPP_2M] = step_dpmpp,
        [MICA_SOLVER_UNIPC] = step_unipc,
    };
    *done_step = steps[s->kind](s, be, v, x);
    s->step += *done_step;
}
