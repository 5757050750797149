/* test_backend_experts.c - the mixture of experts, linears by row and rows picked, against f64.
 *
 * Routing with equal logits, one expert that takes all rows and one that takes none; a batch equals its
 * single rows bit for bit when computed by row; bytes for 1, 2, 3 threads; no allocation the second time. */
#include "backend_testing.h"

#define E 5

typedef struct mixture {
    int L, D, F, active;
    mica_tensor x, y, logits, before;
    mica_weight gate[E], up[E], down[E];
} mixture;

static mixture make(int L, int D, int F, int active, mica_dtype dtype)
{
    mixture m = {.L = L, .D = D, .F = F, .active = active};
    m.x = host_random(1.0f, 2, SHAPE(L, D));
    m.y = host_random(1.0f, 2, SHAPE(L, D));
    m.before = host_tensor(MICA_DTYPE_F32, 2, SHAPE(L, D));
    m.logits = host_random(1.0f, 2, SHAPE(L, E));
    memcpy(m.before.data, m.y.data, mica_tensor_size(&m.y));
    for (int e = 0; e < E; e++) {
        m.gate[e] = host_weight(dtype, 0.3f, 2, SHAPE(F, D));
        m.up[e] = host_weight(dtype, 0.3f, 2, SHAPE(F, D));
        m.down[e] = host_weight(dtype, 0.3f, 2, SHAPE(D, F));
    }
    return m;
}

static void destroy(mixture *m)
{
    host_free(&m->x);
    host_free(&m->y);
    host_free(&m->before);
    host_free(&m->logits);
    for (int e = 0; e < E; e++) {
        weight_free(&m->gate[e]);
        weight_free(&m->up[e]);
        weight_free(&m->down[e]);
    }
}

static void run(mica_backend *be, mixture *m, bool by_row)
{
    memcpy(m->y.data, m->before.data, mica_tensor_size(&m->y));
    mica_experts(be, &(mica_experts_args){.x_LD = &m->x,
                                          .logits_LE = &m->logits,
                                          .active = m->active,
                                          .gate_FD = m->gate,
                                          .up_FD = m->up,
                                          .down_DF = m->down,
                                          .y_LD = &m->y,
                                          .by_row = by_row});
    assert_fine(be);
}

static double dot(const mica_weight *w, int row, const double *x, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += weight_at(w, (int64_t)row * n + i) * x[i];
    return sum;
}

static void add_expert(const mixture *m, int e, double share, const double *x, double *y)
{
    double *h = test_malloc((size_t)m->F * sizeof *h);
    for (int f = 0; f < m->F; f++) {
        const double g = dot(&m->gate[e], f, x, m->D);
        h[f] = g / (1.0 + exp(-g)) * dot(&m->up[e], f, x, m->D);
    }
    for (int d = 0; d < m->D; d++)
        y[d] += share * dot(&m->down[e], d, h, m->F);
    test_free(h);
}

/* Softmax over all, then the chosen ones divided by their sum. */
static void reference_row(const mixture *m, int l, double *y)
{
    const float *logits = floats(&m->logits) + l * E;
    double x[64], chosen[E], sum = 0.0;
    bool taken[E] = {false};
    int choice[E];
    for (int d = 0; d < m->D; d++) {
        x[d] = (double)floats(&m->x)[l * m->D + d];
        y[d] = (double)floats(&m->before)[l * m->D + d];
    }
    for (int a = 0; a < m->active; a++) {
        int best = -1;
        for (int e = 0; e < E; e++)
            if (!taken[e] && (best < 0 || logits[e] > logits[best]))
                best = e;
        taken[best] = true;
        choice[a] = best;
        sum += chosen[a] = exp((double)logits[best]);
    }
    for (int a = 0; a < m->active; a++)
        add_expert(m, choice[a], chosen[a] / sum, x, y);
}

static void expect(const char *what, const mixture *m)
{
    double *want = test_malloc((size_t)m->L * (size_t)m->D * sizeof *want);
    for (int l = 0; l < m->L; l++)
        reference_row(m, l, want + l * m->D);
    assert_close(what, floats(&m->y), want, (int64_t)m->L * m->D, 2e-6);
    test_free(want);
}

static void test_against_reference(void **state)
{
    static const mica_dtype types[] = {MICA_DTYPE_F32, MICA_DTYPE_BF16, MICA_DTYPE_F16};
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    for (int round = 0; round < 24; round++) {
        mixture m = make(random_int(1, 30), random_int(1, 40), random_int(1, 50), random_int(1, E),
                         types[round % 3]);
        run(be, &m, round % 2);
        expect(round % 2 ? "by row" : "product", &m);
        destroy(&m);
    }
    mica_backend_close(&be);
}

static void test_uneven_choice(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    mixture m = make(9, 16, 24, 2, MICA_DTYPE_BF16);
    for (int l = 0; l < m.L; l++)
        for (int e = 0; e < E; e++) /* expert 3 always; 0 and 1 tie; 4 never */
            floats(&m.logits)[l * E + e] = e == 3 ? 4.0f : e == 4 ? -50.0f : 1.0f;
    run(be, &m, false);
    expect("uneven", &m);
    destroy(&m);
    mica_backend_close(&be);
}

static void test_batch_equals_rows(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 3);
    mixture m = make(11, 40, 56, 2, MICA_DTYPE_BF16);
    run(be, &m, true);
    float *batch = test_malloc(mica_tensor_size(&m.y));
    memcpy(batch, m.y.data, mica_tensor_size(&m.y));
    memcpy(m.y.data, m.before.data, mica_tensor_size(&m.y));
    for (int l = 0; l < m.L; l++) {
        const mica_tensor x = mica_tensor_rows(&m.x, l, 1),
                          logits = mica_tensor_rows(&m.logits, l, 1);
        mica_tensor y = mica_tensor_rows(&m.y, l, 1);
        mica_experts(be, &(mica_experts_args){.x_LD = &x,
                                              .logits_LE = &logits,
                                              .active = 2,
                                              .gate_FD = m.gate,
                                              .up_FD = m.up,
                                              .down_DF = m.down,
                                              .y_LD = &y,
                                              .by_row = true});
    }
    assert_fine(be);
    assert_memory_equal(batch, m.y.data, mica_tensor_size(&m.y));
    test_free(batch);
    destroy(&m);
    mica_backend_close(&be);
}

static void test_threads_and_allocations(void **state)
{
    (void)state;
    mixture m = make(17, 48, 64, 2, MICA_DTYPE_F16);
    float *first = test_malloc(mica_tensor_size(&m.y));
    for (int threads = 1; threads <= 3; threads++) {
        mica_backend *be = open_backend(MICA_PRECISION_F32, threads);
        run(be, &m, false);
        if (threads == 1)
            memcpy(first, m.y.data, mica_tensor_size(&m.y));
        assert_memory_equal(first, m.y.data, mica_tensor_size(&m.y));
        const uint64_t before = mica_backend_get_counters(be).allocations;
        for (int i = 0; i < m.L * E; i++) /* another routing */
            floats(&m.logits)[i] = -floats(&m.logits)[i];
        run(be, &m, false);
        assert_int_equal(mica_backend_get_counters(be).allocations, before);
        for (int i = 0; i < m.L * E; i++)
            floats(&m.logits)[i] = -floats(&m.logits)[i];
        mica_backend_close(&be);
    }
    test_free(first);
    destroy(&m);
}

/* Another backend computes the experts: the same bytes, its failures are the first one's, and nothing is
 * allocated the second time. */
static void test_on_host(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2), *host = NULL;
    assert_int_equal(mica_backend_open_host(&host, be, &err), MICA_OK);
    assert_false(mica_backend_is_queued(host));
    mixture m = make(7, 24, 40, 2, MICA_DTYPE_BF16);
    run(be, &m, false);
    float *here = test_malloc(mica_tensor_size(&m.y));
    memcpy(here, m.y.data, mica_tensor_size(&m.y));
    mica_experts_args args = {.x_LD = &m.x,
                              .logits_LE = &m.logits,
                              .active = m.active,
                              .gate_FD = m.gate,
                              .up_FD = m.up,
                              .down_DF = m.down,
                              .y_LD = &m.y,
                              .host = host};
    for (int round = 0; round < 3; round++) {
        const uint64_t before = mica_backend_get_counters(host).allocations;
        memcpy(m.y.data, m.before.data, mica_tensor_size(&m.y));
        mica_experts(be, &args);
        assert_fine(be);
        assert_memory_equal(here, m.y.data, mica_tensor_size(&m.y));
        if (round > 0)
            assert_int_equal(mica_backend_get_counters(host).allocations, before);
    }
    m.down[0].tensor.shape_[0]--; /* of an expert that is chosen by some row */
    for (int l = 0; l < m.L; l++)
        floats(&m.logits)[l * E] = 9.0f;
    mica_experts(be, &args);
    assert_int_equal(mica_backend_check(be, &err), MICA_E_INTERNAL);
    assert_int_equal(mica_backend_check(host, &err), MICA_OK);
    m.down[0].tensor.shape_[0]++;
    test_free(here);
    destroy(&m);
    mica_backend_close(&host);
    mica_backend_close(&be);
}

static void test_refusals(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
    mixture m = make(3, 8, 8, E, MICA_DTYPE_F32);
    m.active = E + 1;
    mica_experts(be, &(mica_experts_args){.x_LD = &m.x,
                                          .logits_LE = &m.logits,
                                          .active = m.active,
                                          .gate_FD = m.gate,
                                          .up_FD = m.up,
                                          .down_DF = m.down,
                                          .y_LD = &m.y});
    assert_int_equal(mica_backend_check(be, &err), MICA_E_INTERNAL);
    const int32_t rows[] = {0, 3};
    mica_tensor part = mica_tensor_rows(&m.y, 0, 2);
    mica_gather_rows(be, &m.x, rows, 2, &part);
    assert_int_equal(mica_backend_check(be, &err), MICA_E_INTERNAL);
    destroy(&m);
    mica_backend_close(&be);
}

static void test_by_row_linear(void **state)
{
    static const mica_dtype types[] = {MICA_DTYPE_F32, MICA_DTYPE_BF16, MICA_DTYPE_F16,
                                       MICA_DTYPE_F8_E4M3};
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    for (int round = 0; round < 24; round++) {
        const int M = random_int(1, 9), D = random_int(1, 300), O = random_int(1, 90);
        mica_tensor x = host_random(1.0f, 2, SHAPE(M, D));
        mica_tensor y[2], residual = host_random(1.0f, 2, SHAPE(M, O));
        mica_weight w = host_weight(types[round % 4], 0.2f, 2, SHAPE(O, D));
        mica_weight bias = host_weight(MICA_DTYPE_BF16, 1.0f, 1, SHAPE(O));
        for (int i = 0; i < 2; i++) {
            y[i] = host_tensor(MICA_DTYPE_F32, 2, SHAPE(M, O));
            mica_linear(be, &(mica_linear_args){.x_MD = &x,
                                                .w_OD = &w,
                                                .bias_O = round & 4 ? &bias : NULL,
                                                .act = round & 8 ? MICA_ACT_SILU : MICA_ACT_NONE,
                                                .residual_MO = round & 1 ? &residual : NULL,
                                                .y_MO = &y[i],
                                                .by_row = i == 1});
        }
        assert_fine(be);
        double *want = as_doubles(&y[0]);
        assert_close("by row", floats(&y[1]), want, (int64_t)M * O, 3e-6);
        test_free(want);
        for (int i = 0; i < 2; i++)
            host_free(&y[i]);
        host_free(&x);
        host_free(&residual);
        weight_free(&w);
        weight_free(&bias);
    }
    mica_backend_close(&be);
}

/* A cache longer than a chunk, in a wider matrix; against the packed form, and each query alone. */
static void check_cache(mica_backend *be, int L, int M, int H, int G, int K)
{
    mica_tensor q = host_random(1.0f, 3, SHAPE(L, H, K)), wide[2], out[2];
    for (int i = 0; i < 2; i++)
        wide[i] = host_random(1.0f, 3, SHAPE(M + 3, G, K));
    const mica_tensor k = mica_tensor_rows(&wide[0], 0, M), v = mica_tensor_rows(&wide[1], 0, M);
    for (int i = 0; i < 2; i++) {
        out[i] = host_tensor(MICA_DTYPE_F32, 3, SHAPE(L, H, K));
        mica_attention(be, &(mica_attention_args){.segments = 1,
                                                  .q_LHK = {&q},
                                                  .k_MGK = {&k},
                                                  .v_MGK = {&v},
                                                  .out_LHK = {&out[i]},
                                                  .causal = true,
                                                  .by_row = i == 1});
    }
    assert_fine(be);
    double *want = as_doubles(&out[0]);
    assert_close("attention by row", floats(&out[1]), want, (int64_t)L * H * K, 3e-6);
    test_free(want);
    for (int l = 0; l < L; l++) {
        const mica_tensor one = mica_tensor_rows(&q, l, 1);
        const mica_tensor keys = mica_tensor_rows(&k, 0, M - L + l + 1);
        const mica_tensor values = mica_tensor_rows(&v, 0, M - L + l + 1);
        mica_tensor alone = mica_tensor_rows(&out[0], l, 1);
        mica_attention(be, &(mica_attention_args){.segments = 1,
                                                  .q_LHK = {&one},
                                                  .k_MGK = {&keys},
                                                  .v_MGK = {&values},
                                                  .out_LHK = {&alone},
                                                  .causal = true,
                                                  .by_row = true});
    }
    assert_fine(be);
    assert_memory_equal(out[0].data, out[1].data, mica_tensor_size(&out[0]));
    for (int i = 0; i < 2; i++) {
        host_free(&wide[i]);
        host_free(&out[i]);
    }
    host_free(&q);
}

static void test_by_row_attention(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 3; threads++) {
        mica_backend *be = open_backend(MICA_PRECISION_F32, threads);
        check_cache(be, 1, 1, 4, 2, 16);
        check_cache(be, 3, 1300, 8, 2, 32);
        check_cache(be, 1, 512, 4, 4, 64);
        check_cache(be, 2, 513, 6, 1, 24);
        mica_backend_close(&be);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_reference), cmocka_unit_test(test_uneven_choice),
        cmocka_unit_test(test_batch_equals_rows), cmocka_unit_test(test_threads_and_allocations),
        cmocka_unit_test(test_on_host),           cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_by_row_linear),     cmocka_unit_test(test_by_row_attention),
    };
    return cmocka_run_group_tests_name("backend_experts", tests, NULL, NULL);
}
