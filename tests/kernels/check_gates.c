/* check_gates.c - leaky ReLU, clamp, Mish and the gated units. */
#include "checkkern.h"

#define BENCH_N 49152

void check_leaky_relu(ck *c)
{
    static const float SLOPES[] = {0.0f, 0.01f, 0.1f, 1.0f};
    for (int round = 0; round < 12; round++) {
        ck_begin(c);
        const int n = ck_length(c, 300);
        const float slope = SLOPES[round % 4];
        float *x = ck_floats(c, n), *y = ck_floats(c, n), *want = ck_floats(c, n);
        ck_fill_normal(c, n, x, 2.0);
        if (round % 3 == 1 && slope > 0.0f) /* 0 times infinity has no sign to agree on */
            ck_sprinkle(c, n, x);
        for (int i = 0; i < n; i++)
            want[i] = x[i] > 0.0f ? x[i] : slope * x[i];
        float *out = round % 2 ? x : y;
        c->k->leaky_relu(n, slope, x, out);
        for (int i = 0; i < n; i++)
            ck_near(c, "y", i, out[i], want[i], 0.0);
        ck_end(c, round % 2 ? "in place" : "apart");
    }
}

void check_clamp(ck *c)
{
    for (int round = 0; round < 12; round++) {
        ck_begin(c);
        const int n = ck_length(c, 300);
        float *x = ck_floats(c, n), *y = ck_floats(c, n), *want = ck_floats(c, n);
        ck_fill_normal(c, n, x, 20.0);
        if (round % 3 == 1)
            ck_sprinkle(c, n, x);
        for (int i = 0; i < n; i++)
            want[i] = x[i] < 0.0f ? 0.0f : x[i] > 20.0f ? 20.0f : x[i];
        float *out = round % 2 ? x : y;
        c->k->clamp(n, 0.0f, 20.0f, x, out);
        for (int i = 0; i < n; i++)
            ck_near(c, "y", i, out[i], want[i], 0.0);
        ck_end(c, round % 2 ? "in place" : "apart");
    }
}

void check_mish(ck *c)
{
    for (int round = 0; round < 12; round++) {
        ck_begin(c);
        const int n = round ? ck_length(c, 300) : 20000;
        float *x = ck_floats(c, n), *y = ck_floats(c, n);
        for (int i = 0; i < n; i++)
            x[i] = round ? (float)(5.0 * ck_normal(c)) : (float)(-40.0 + 80.0 * i / n);
        c->k->mish(n, x, y);
        for (int i = 0; i < n; i++) {
            const double want = x[i] * tanh(log1p(exp((double)x[i])));
            ck_near(c, "y", i, y[i], want, 1.5e-6 * fabs(want) + 1e-9);
        }
        ck_end(c, "n");
    }
}

static void check_gate(ck *c, mica_kernel_glu *run, bool is_tanh)
{
    for (int round = 0; round < 12; round++) {
        ck_begin(c);
        const int n = ck_length(c, 300);
        float *a = ck_floats(c, n), *b = ck_floats(c, n), *y = ck_floats(c, n);
        double *want = ck_buffer(c, (size_t)n, sizeof(double));
        ck_fill_normal(c, n, a, 2.0);
        ck_fill_normal(c, n, b, 4.0);
        for (int i = 0; i < n; i++)
            want[i] = (is_tanh ? tanh((double)a[i]) : (double)a[i]) / (1.0 + exp(-(double)b[i]));
        float *out = round % 3 == 0 ? a : round % 3 == 1 ? b : y;
        run(n, a, b, out);
        for (int i = 0; i < n; i++)
            ck_near(c, "y", i, out[i], want[i], 2e-6 * fabs(want[i]) + 1e-9);
        ck_end(c, round % 3 == 2 ? "apart" : "in place");
    }
}

void check_glu(ck *c)
{
    check_gate(c, c->k->glu, false);
}

void check_tanh_glu(ck *c)
{
    check_gate(c, c->k->tanh_glu, true);
}

typedef struct problem {
    const float *a, *b;
    float *y;
} problem;

static problem make_problem(ck *c)
{
    float *a = ck_floats(c, BENCH_N), *b = ck_floats(c, BENCH_N);
    ck_fill_normal(c, BENCH_N, a, 2.0);
    ck_fill_normal(c, BENCH_N, b, 2.0);
    return (problem){a, b, ck_floats(c, BENCH_N)};
}

#define BENCH(slot, arrays, ...)                                                                   \
    static void run_##slot(const mica_kernels *k, const void *user)                                \
    {                                                                                              \
        const problem *p = user;                                                                   \
        k->slot(BENCH_N, __VA_ARGS__, p->y);                                                       \
    }                                                                                              \
    void bench_##slot(ck *c)                                                                       \
    {                                                                                              \
        const problem p = make_problem(c);                                                         \
        ck_bench(c, run_##slot, &p, 4.0 * (arrays)*BENCH_N, 0.0);                                  \
    }
BENCH(leaky_relu, 2, 0.1f, p->a)
BENCH(clamp, 2, 0.0f, 20.0f, p->a)
BENCH(mish, 2, p->a)
BENCH(glu, 3, p->a, p->b)
BENCH(tanh_glu, 3, p->a, p->b)
