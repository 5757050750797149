/* test_solver.c - solvers against the reference's trajectories.
 *
 *     v(x, sigma) = a x + b sigma      with vectors a, b: golden solvers/solvers.safetensors
 *
 * The three backend functions that solvers need are written out here, in plain loops, so that a
 * failure points at the solver and not at a backend. */
#include "golden_file.h"

#include "sample/solver.h"
#include "sample/solver_coefficients.h"

#include <math.h>

#define MAX_WIDTH   32
#define MAX_TENSORS 8

struct mica_backend {
    float memory[MAX_TENSORS][MAX_WIDTH];
    int used, refuse_at; /* refuse_at: tensor that cannot be had, 0 for none */
    mica_status status;
    int ops;
};

mica_tensor mica_state_tensor(mica_backend *be, mica_pool pool, int ndim, const int64_t *shape)
{
    assert_int_equal(pool, MICA_POOL_SESSION);
    assert_true(be->used < MAX_TENSORS);
    float *data = be->memory[be->used++];
    if (be->used == be->refuse_at) {
        be->status = MICA_E_NOMEM;
        data = NULL;
    }
    return mica_tensor_make(data, MICA_DTYPE_F32, ndim, shape);
}

mica_status mica_backend_check(mica_backend *be, mica_err *err)
{
    const mica_status st = be->status;
    be->status = MICA_OK;
    return st ? MICA_FAIL(err, st, "no memory for a tensor") : MICA_OK;
}

void mica_linear_combination(mica_backend *be, int n, const float *coef,
                             const mica_tensor *const *x, mica_tensor *y)
{
    assert_in_range(n, 1, 6);
    be->ops++;
    for (int64_t i = 0; i < mica_tensor_count(y); i++) {
        float sum = 0.0f;
        for (int k = 0; k < n; k++) {
            assert_int_equal(mica_tensor_count(x[k]), mica_tensor_count(y));
            sum += coef[k] * ((const float *)x[k]->data)[i];
        }
        ((float *)y->data)[i] = sum;
    }
}

typedef struct golden_run {
    float *x, *a, *b, *sigmas, *xs;
    size_t width, steps, rows;
} golden_run;

static golden_run load_run(const mica_weights *w, const char *name)
{
    golden_run g;
    size_t n;
    g.x = golden_floats(w, name, "x", &g.width);
    g.a = golden_floats(w, name, "a", &n);
    assert_int_equal(n, g.width);
    g.b = golden_floats(w, name, "b", &n);
    assert_int_equal(n, g.width);
    g.sigmas = golden_floats(w, name, "sigmas", &g.steps);
    g.steps--;
    g.xs = golden_floats(w, name, "xs", &g.rows);
    g.rows /= g.width;
    assert_true(g.width <= MAX_WIDTH);
    return g;
}

static void free_run(golden_run *g)
{
    free(g->x);
    free(g->a);
    free(g->b);
    free(g->sigmas);
    free(g->xs);
}

/* The reference computes its coefficients in f32: half log-SNRs of sizes up to 14, of which
 * differences of a few tenths are taken, so a few 1e-6 of its result are its own rounding. */
static void compare_row(const char *name, const golden_run *g, size_t row, const float *got)
{
    double diff = 0, norm = 0;
    for (size_t i = 0; i < g->width; i++) {
        const double want = g->xs[row * g->width + i];
        diff += (got[i] - want) * (got[i] - want);
        norm += want * want;
    }
    if (!(sqrt(diff / norm) <= 1e-5))
        fail_msg("%s, prediction %zu: relative L2 error %.3g", name, row, sqrt(diff / norm));
}

static void check_trajectory(const mica_weights *w, const char *name, mica_solver kind)
{
    golden_run g = load_run(w, name);
    mica_backend be = {0};
    mica_err err = {0};
    float v_data[MAX_WIDTH], plan[64];
    mica_tensor x = mica_tensor_2d(g.x, MICA_DTYPE_F32, 1, (int64_t)g.width);
    const mica_tensor v = mica_tensor_2d(v_data, MICA_DTYPE_F32, 1, (int64_t)g.width);
    mica_solver_state s;
    assert_int_equal(mica_solver_init(&s, &be, kind, (int)g.steps, g.sigmas, &x, &err), MICA_OK);
    const int planned = mica_solver_plan(kind, (int)g.steps, g.sigmas, plan);
    assert_int_equal(planned, g.rows);
    size_t row = 0, done = 0;
    while (!mica_solver_is_done(&s)) {
        const float sigma = mica_solver_sigma(&s);
        bool done_step;
        assert_true(sigma == plan[row]);
        for (size_t i = 0; i < g.width; i++)
            v_data[i] = g.a[i] * g.x[i] + g.b[i] * sigma;
        mica_solver_step(&s, &be, &v, &x, &done_step);
        done += done_step;
        compare_row(name, &g, row++, g.x);
    }
    assert_int_equal(row, g.rows);
    assert_int_equal(done, g.steps);
    free_run(&g);
}

static void test_golden_trajectories(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        mica_solver kind;
        bool from_one; /* made with shift_terminal, which one step does not have */
    } cases[] = {
        {"euler", MICA_SOLVER_EULER, true},
        {"euler", MICA_SOLVER_DEFAULT, true},
        {"heun", MICA_SOLVER_HEUN, false},
        {"dpmpp_2m_own", MICA_SOLVER_DPMPP_2M, false},
        {"dpmpp_2m_qwen", MICA_SOLVER_DPMPP_2M, true},
        {"unipc_own", MICA_SOLVER_UNIPC, false},
        {"unipc_qwen", MICA_SOLVER_UNIPC, true},
    };
    static const int steps[] = {1, 2, 3, 6, 10, 20};
    mica_weights *w = golden_open("solvers/solvers.safetensors");
    for (size_t c = 0; c < MICA_ARRAY_LEN(cases); c++) {
        for (size_t i = 0; i < MICA_ARRAY_LEN(steps); i++) {
            char name[64];
            if (steps[i] == 1 && cases[c].from_one)
                continue;
            snprintf(name, sizeof name, "%s_%d", cases[c].name, steps[i]);
            check_trajectory(w, name, cases[c].kind);
        }
    }
    mica_weights_close(&w);
}

static void test_golden_euler_step(void **state)
{
    (void)state;
    mica_weights *w = golden_open("primitives/schedules.safetensors");
    size_t n;
    float *x = golden_floats(w, "euler_step", "x", &n);
    float *v = golden_floats(w, "euler_step", "v", &n);
    float *want = golden_floats(w, "euler_step", "out", &n);
    const float sigmas[] = {0.87f, 0.61f, 0.0f};
    mica_backend be = {0};
    mica_err err = {0};
    mica_tensor tx = mica_tensor_1d(x, MICA_DTYPE_F32, (int64_t)n);
    const mica_tensor tv = mica_tensor_1d(v, MICA_DTYPE_F32, (int64_t)n);
    mica_solver_state s;
    bool done;
    assert_int_equal(mica_solver_init(&s, &be, MICA_SOLVER_EULER, 2, sigmas, &tx, &err), MICA_OK);
    mica_solver_step(&s, &be, &tv, &tx, &done);
    assert_true(done);
    for (size_t i = 0; i < n; i++)
        assert_true(fabsf(x[i] - want[i]) <= 1e-6f * (1.0f + fabsf(want[i])));
    free(x);
    free(v);
    free(want);
    mica_weights_close(&w);
}

/* dx/dsigma = a x + b sigma has the exact solution
 *     x(s) = C e^(a s) - b s / a - b / a^2
 * Halving the steps must shrink the error by about 2^order. */
static double final_error(mica_solver kind, int steps)
{
    const double a = 0.8, b = -1.1, x1 = 0.7;
    const double c = (x1 + b / a + b / (a * a)) / exp(a), exact = c - b / (a * a);
    float sigmas[129], x = (float)x1, v;
    for (int i = 0; i <= steps; i++) /* from 1; the multistep solvers' lambda is infinite there */
        sigmas[i] = 1.0f - (float)i / (float)steps;
    mica_backend be = {0};
    mica_err err = {0};
    mica_tensor tx = mica_tensor_1d(&x, MICA_DTYPE_F32, 1);
    const mica_tensor tv = mica_tensor_1d(&v, MICA_DTYPE_F32, 1);
    mica_solver_state s;
    assert_int_equal(mica_solver_init(&s, &be, kind, steps, sigmas, &tx, &err), MICA_OK);
    while (!mica_solver_is_done(&s)) {
        bool done;
        v = (float)(a * x + b * mica_solver_sigma(&s));
        mica_solver_step(&s, &be, &tv, &tx, &done);
    }
    return fabs(x - exact);
}

static void test_convergence(void **state)
{
    (void)state;
    assert_true(final_error(MICA_SOLVER_EULER, 32) < 0.6 * final_error(MICA_SOLVER_EULER, 16));
    /* Heun's last step is Euler's, of size 1/n: second order all the same. */
    assert_true(final_error(MICA_SOLVER_HEUN, 32) < 0.35 * final_error(MICA_SOLVER_HEUN, 16));
    assert_true(final_error(MICA_SOLVER_DPMPP_2M, 32) < final_error(MICA_SOLVER_EULER, 32));
    assert_true(final_error(MICA_SOLVER_UNIPC, 32) < final_error(MICA_SOLVER_EULER, 32));
}

/* If the model's clean latents are constant, every multistep formula must stay on the straight line:
 * its weights add up to (1 - t) for m and t/s for x. */
static void test_weights_add_up(void **state)
{
    (void)state;
    const float sigmas[] = {0.999f, 0.9f, 0.7f, 0.45f, 0.2f, 0.0f};
    for (int i = 0; i < 5; i++) {
        const double s = sigmas[i], t = sigmas[i + 1];
        const double want = (1 - t) - (1 - s) * t / s;
        const mica_solver_coefficients p = mica_solver_predictor(sigmas, 5, i);
        assert_true(fabs((double)p.m0 + p.m1 - want) < 1e-6);
        assert_true(fabs(p.x - t / s) < 1e-6);
        if (i == 4)
            continue; /* nothing is corrected at sigma 0 */
        const mica_solver_coefficients c = mica_solver_corrector(sigmas, i + 1);
        assert_true(fabs((double)c.m0 + c.m1 + c.mt - want) < 1e-6);
        assert_true(c.mt != 0.0f);
        assert_true(fabs(c.x - t / s) < 1e-6);
    }
    const mica_solver_coefficients last = mica_solver_predictor(sigmas, 5, 4);
    assert_true(last.x == 0.0f && last.m0 == 1.0f && last.m1 == 0.0f);
}

static void test_unipc_first_sigma(void **state)
{
    (void)state;
    assert_true(mica_solver_unipc_first_sigma(1.0f) == (float)(1.0 - 1e-6));
    assert_true(mica_solver_unipc_first_sigma(0.999f) == 0.999f);
}

static void test_init_failures(void **state)
{
    (void)state;
    const float sigmas[] = {1.0f, 0.0f};
    float data[4] = {0};
    const mica_tensor x = mica_tensor_1d(data, MICA_DTYPE_F32, 4);
    mica_solver_state s;
    mica_err err = {0};
    mica_backend be = {0};
    assert_int_equal(mica_solver_init(&s, &be, (mica_solver)99, 1, sigmas, &x, &err), MICA_E_USAGE);
    assert_non_null(strstr(err.text, "99"));
    assert_int_equal(mica_solver_init(&s, &be, MICA_SOLVER_EULER, 0, sigmas, &x, &err),
                     MICA_E_USAGE);
    for (int n = 1; n <= 4; n++) {
        be = (mica_backend){.refuse_at = n};
        assert_int_equal(mica_solver_init(&s, &be, MICA_SOLVER_UNIPC, 1, sigmas, &x, &err),
                         MICA_E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_trajectories), cmocka_unit_test(test_golden_euler_step),
        cmocka_unit_test(test_convergence),         cmocka_unit_test(test_weights_add_up),
        cmocka_unit_test(test_unipc_first_sigma),   cmocka_unit_test(test_init_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
