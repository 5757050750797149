/* test_backend_attention.c - attention against an f64 reference and the golden vectors.
 *
 * Shapes around block edges, two segments, grouped keys, causal with and without a longer
 * cache, wide heads, logits that overflow a naive softmax; bytes for 1, 2, 3 threads; rows of a
 * query computed alone; no allocation the second time. Golden cases with masks are left
 * out: the operation has none (padding is cut off by the caller). */
#include "backend_testing.h"

typedef struct attention_case {
    int L[2], M[2], H, G, K;
    bool causal;
    float scale, range;
    int window;
    bool by_row;
} attention_case;

typedef struct attention_data {
    mica_tensor q[2], k[2], v[2], out[2];
    int segments;
} attention_data;

static attention_data make_data(const attention_case *c)
{
    attention_data d = {.segments = c->L[1] + c->M[1] > 0 ? 2 : 1};
    const float range = c->range != 0.0f ? c->range : 1.0f;
    for (int s = 0; s < d.segments; s++) {
        d.q[s] = host_random(range, 3, SHAPE(c->L[s], c->H, c->K));
        d.k[s] = host_random(range, 3, SHAPE(c->M[s], c->G, c->K));
        d.v[s] = host_random(1.0f, 3, SHAPE(c->M[s], c->G, c->K));
        d.out[s] = host_tensor(MICA_DTYPE_F32, 3, SHAPE(c->L[s], c->H, c->K));
    }
    return d;
}

static void free_data(attention_data *d)
{
    for (int s = 0; s < d->segments; s++) {
        host_free(&d->q[s]);
        host_free(&d->k[s]);
        host_free(&d->v[s]);
        host_free(&d->out[s]);
    }
}

static void run(mica_backend *be, const attention_case *c, attention_data *d)
{
    mica_attention_args args = {.segments = d->segments,
                                .scale = c->scale,
                                .causal = c->causal,
                                .by_row = c->by_row,
                                .window = c->window};
    for (int s = 0; s < d->segments; s++) {
        args.q_LHK[s] = &d->q[s];
        args.k_MGK[s] = &d->k[s];
        args.v_MGK[s] = &d->v[s];
        args.out_LHK[s] = &d->out[s];
    }
    mica_attention(be, &args);
    assert_fine(be);
}

/* Row `i` of the joined segments of t, head h. */
static const float *joined(const mica_tensor t[2], int64_t i, int h)
{
    const int s = i >= t[0].shape_[0];
    const int64_t row = s ? i - t[0].shape_[0] : i;
    return floats(&t[s]) + (row * t[s].shape_[1] + h) * t[s].shape_[2];
}

static void reference_row(const attention_case *c, const attention_data *d, int i, int h,
                          double *weights, double *out)
{
    const int L = c->L[0] + c->L[1], M = c->M[0] + c->M[1], g = h / (c->H / c->G);
    const double scale = c->scale != 0.0f ? (double)c->scale : 1.0 / sqrt(c->K);
    const int visible = c->causal ? MICA_MIN(M, MICA_MAX(0, i + M - L + 1)) : M;
    const int hidden = c->window ? MICA_MAX(0, visible - c->window) : 0;
    double max = -INFINITY, sum = 0.0;
    for (int m = hidden; m < visible; m++) {
        double s = 0.0;
        for (int k = 0; k < c->K; k++)
            s += (double)joined(d->q, i, h)[k] * (double)joined(d->k, m, g)[k];
        weights[m] = s * scale;
        max = fmax(max, weights[m]);
    }
    for (int m = hidden; m < visible; m++)
        sum += weights[m] = exp(weights[m] - max);
    for (int k = 0; k < c->K; k++) {
        out[k] = 0.0;
        for (int m = hidden; m < visible; m++)
            out[k] += weights[m] / sum * (double)joined(d->v, m, g)[k];
    }
}

static void check(mica_backend *be, const attention_case *c, double bound)
{
    attention_data d = make_data(c);
    const int L = c->L[0] + c->L[1], M = c->M[0] + c->M[1];
    double *weights = test_malloc((size_t)M * sizeof(double));
    double *want = test_malloc((size_t)(L * c->H * c->K) * sizeof(double));
    float *got = test_malloc((size_t)(L * c->H * c->K) * sizeof(float));
    char what[128];
    snprintf(what, sizeof what, "L %d+%d M %d+%d H %d G %d K %d%s", c->L[0], c->L[1], c->M[0],
             c->M[1], c->H, c->G, c->K, c->causal ? " causal" : "");
    run(be, c, &d);
    for (int i = 0; i < L; i++)
        for (int h = 0; h < c->H; h++) {
            const size_t at = ((size_t)i * (size_t)c->H + (size_t)h) * (size_t)c->K;
            reference_row(c, &d, i, h, weights, want + at);
            memcpy(got + at, joined(d.out, i, h), (size_t)c->K * sizeof(float));
        }
    assert_close(what, got, want, (int64_t)L * c->H * c->K, bound);
    test_free(weights);
    test_free(want);
    test_free(got);
    free_data(&d);
}

static const attention_case cases[] = {
    {.L = {1}, .M = {1}, .H = 1, .G = 1, .K = 32},
    {.L = {5, 37}, .M = {5, 37}, .H = 2, .G = 2, .K = 64},
    {.L = {20, 130}, .M = {20, 130}, .H = 3, .G = 3, .K = 128},
    {.L = {7, 530}, .M = {7, 530}, .H = 1, .G = 1, .K = 128}, /* two key blocks, joined inside */
    {.L = {300, 300}, .M = {300, 300}, .H = 1, .G = 1, .K = 40},
    {.L = {130}, .M = {1100}, .H = 2, .G = 1, .K = 64},
    {.L = {33}, .M = {33}, .H = 4, .G = 2, .K = 64, .causal = true},
    {.L = {600}, .M = {600}, .H = 2, .G = 2, .K = 32, .causal = true},
    {.L = {1}, .M = {700}, .H = 4, .G = 1, .K = 128, .causal = true},
    {.L = {9}, .M = {70}, .H = 2, .G = 1, .K = 64, .causal = true},
    {.L = {8}, .M = {3}, .H = 1, .G = 1, .K = 32, .causal = true}, /* rows that see nothing */
    /* windows: within a block, of one key, over blocks that no or not every row sees, wider than all */
    {.L = {70}, .M = {90}, .H = 2, .G = 1, .K = 64, .causal = true, .window = 20},
    {.L = {33}, .M = {33}, .H = 2, .G = 2, .K = 32, .causal = true, .window = 1},
    {.L = {700}, .M = {1700}, .H = 2, .G = 1, .K = 64, .causal = true, .window = 300},
    {.L = {40}, .M = {60}, .H = 2, .G = 2, .K = 64, .causal = true, .window = 1000},
    {.L = {3}, .M = {1300}, .H = 4, .G = 2, .K = 32, .causal = true, .window = 513, .by_row = true},
    {.L = {200}, .M = {200}, .H = 1, .G = 1, .K = 384}, /* the VAE's head */
    {.L = {50}, .M = {50}, .H = 1, .G = 1, .K = 512},
    {.L = {17}, .M = {19}, .H = 2, .G = 2, .K = 13},                 /* odd width */
    {.L = {64}, .M = {64}, .H = 1, .G = 1, .K = 64, .range = 12.0f}, /* logits beyond 1000 */
    {.L = {24}, .M = {31}, .H = 2, .G = 2, .K = 32, .scale = 0.5f},
    {.L = {40, 0}, .M = {10, 30}, .H = 2, .G = 2, .K = 32},
};

static void test_against_reference(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++)
        check(be, &cases[i], cases[i].range > 1.0f ? 1e-4 : 3e-6);
    mica_backend_close(&be);
}

static void test_bf16_operands(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_BF16, 2);
    mica_cpu_from(be)->use_bf16 = true;
    mica_cpu_from(be)->use_dnnl = false;
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++)
        if (cases[i].range == 0.0f)
            check(be, &cases[i], 1.5e-2);
    mica_backend_close(&be);
}

/* The products of oneDNN, as on processors with a matrix unit; elsewhere it has the same bf16
 * products in AVX-512, and none below that. */
static void test_products_of_onednn(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_BF16, 2);
    if (!use_dnnl(be)) {
        mica_backend_close(&be);
        skip();
    }
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++)
        if (cases[i].range == 0.0f)
            check(be, &cases[i], 1.5e-2);
    mica_backend_close(&be);
}

typedef enum route { ROUTE_F32, ROUTE_BF16, ROUTE_ONEDNN } route;

static void threads_give_same_bytes(const attention_case *c, route by)
{
    attention_data d = make_data(c);
    float *first[2] = {NULL, NULL};
    for (int threads = 1; threads <= 3; threads++) {
        mica_backend *be = open_backend(MICA_PRECISION_BF16, threads);
        mica_cpu_from(be)->use_bf16 = by != ROUTE_F32;
        mica_cpu_from(be)->use_dnnl = false;
        if (by == ROUTE_ONEDNN)
            use_dnnl(be);
        run(be, c, &d);
        for (int s = 0; s < d.segments; s++) {
            const size_t size = mica_tensor_size(&d.out[s]);
            if (threads == 1) {
                first[s] = test_malloc(size);
                memcpy(first[s], d.out[s].data, size);
            }
            assert_memory_equal(first[s], d.out[s].data, size);
        }
        mica_backend_close(&be);
    }
    for (int s = 0; s < d.segments; s++)
        test_free(first[s]);
    free_data(&d);
}

static void test_thread_count_does_not_show(void **state)
{
    (void)state;
    const attention_case two = {.L = {21, 700}, .M = {21, 700}, .H = 5, .G = 5, .K = 64};
    const attention_case causal = {.L = {333}, .M = {400}, .H = 4, .G = 2, .K = 32, .causal = true};
    threads_give_same_bytes(&two, ROUTE_F32);
    threads_give_same_bytes(&two, ROUTE_BF16);
    threads_give_same_bytes(&two, ROUTE_ONEDNN);
    threads_give_same_bytes(&causal, ROUTE_F32);
    threads_give_same_bytes(&causal, ROUTE_ONEDNN);
}

/* A query row alone gives the bytes it gives among others. */
static void test_rows_stand_alone(void **state)
{
    (void)state;
    const attention_case c = {.L = {300}, .M = {600}, .H = 2, .G = 2, .K = 64};
    attention_data d = make_data(&c);
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    run(be, &c, &d);
    for (int i = 0; i < 300; i += 37) {
        mica_tensor q = mica_tensor_rows(&d.q[0], i, 1);
        mica_tensor out = host_tensor(MICA_DTYPE_F32, 3, SHAPE(1, 2, 64));
        mica_attention(be, &(mica_attention_args){.segments = 1,
                                                  .q_LHK = {&q},
                                                  .k_MGK = {&d.k[0]},
                                                  .v_MGK = {&d.v[0]},
                                                  .out_LHK = {&out}});
        assert_fine(be);
        assert_memory_equal(out.data, joined(d.out, i, 0), mica_tensor_size(&out));
        host_free(&out);
    }
    mica_backend_close(&be);
    free_data(&d);
}

/* q, k, v as views of one fused [tokens, 3, heads, width] matrix; output over the queries. */
static void test_strided_views_and_in_place(void **state)
{
    (void)state;
    const int L = 150, H = 2, K = 32;
    const attention_case c = {.L = {L}, .M = {L}, .H = H, .G = H, .K = K};
    attention_data d = make_data(&c);
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    run(be, &c, &d);
    mica_tensor fused = host_tensor(MICA_DTYPE_F32, 4, SHAPE(L, 3, H, K));
    mica_tensor view[3];
    const mica_tensor *from[3] = {&d.q[0], &d.k[0], &d.v[0]};
    for (int p = 0; p < 3; p++) {
        view[p] = mica_tensor_3d(floats(&fused) + p * H * K, MICA_DTYPE_F32, L, H, K);
        view[p].stride_[0] = 3 * H * K;
        mica_copy(be, from[p], &view[p]);
    }
    mica_attention(be, &(mica_attention_args){.segments = 1,
                                              .q_LHK = {&view[0]},
                                              .k_MGK = {&view[1]},
                                              .v_MGK = {&view[2]},
                                              .out_LHK = {&view[0]}});
    assert_fine(be);
    for (int i = 0; i < L; i++)
        assert_memory_equal(floats(&fused) + i * 3 * H * K, floats(&d.out[0]) + i * H * K,
                            (size_t)(H * K) * sizeof(float));
    host_free(&fused);
    mica_backend_close(&be);
    free_data(&d);
}

static void test_nan_is_not_hidden(void **state)
{
    (void)state;
    const attention_case c = {.L = {10}, .M = {10}, .H = 1, .G = 1, .K = 32};
    attention_data d = make_data(&c);
    mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
    floats(&d.k[0])[3 * 32 + 1] = NAN;
    run(be, &c, &d);
    for (int i = 0; i < 10; i++)
        assert_true(isnan(floats(&d.out[0])[i * 32]));
    mica_backend_close(&be);
    free_data(&d);
}

static void test_no_allocation_the_second_time(void **state)
{
    (void)state;
    const attention_case c = {.L = {9, 200}, .M = {9, 200}, .H = 3, .G = 3, .K = 64};
    attention_data d = make_data(&c);
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    run(be, &c, &d);
    const uint64_t before = mica_backend_get_counters(be).allocations, heap = mica_mem_count();
    run(be, &c, &d);
    assert_int_equal(mica_backend_get_counters(be).allocations, before);
    assert_int_equal(mica_mem_count(), heap);
    assert_true(mica_backend_get_counters(be).attention_flops == 2 * 4.0 * 209 * 209 * 3 * 64);
    mica_backend_close(&be);
    free_data(&d);
}

/* ---------------------------------------------------------------- golden -- */

/* One item of a golden [B, H, L, K] tensor as a strided [L, H, K] view. */
static mica_tensor item_view(const mica_tensor *t, int64_t b)
{
    const int64_t H = t->shape_[1], L = t->shape_[2], K = t->shape_[3];
    mica_tensor v = mica_tensor_3d(floats(t) + b * H * L * K, MICA_DTYPE_F32, L, H, K);
    v.stride_[0] = K;
    v.stride_[1] = L * K;
    return v;
}

static void golden_case(const golden *g, mica_backend *be, const char *name, bool causal,
                        float scale)
{
    mica_tensor q, k, v, want;
    assert_true(golden_find(g, name, "q", &q));
    assert_true(golden_find(g, name, "k", &k));
    assert_true(golden_find(g, name, "v", &v));
    assert_true(golden_find(g, name, "out", &want));
    mica_tensor got = host_tensor(MICA_DTYPE_F32, 4, want.shape_);
    for (int64_t b = 0; b < q.shape_[0]; b++) {
        const mica_tensor qb = item_view(&q, b), kb = item_view(&k, b), vb = item_view(&v, b);
        mica_tensor ob = item_view(&got, b);
        mica_attention(be, &(mica_attention_args){.segments = 1,
                                                  .q_LHK = {&qb},
                                                  .k_MGK = {&kb},
                                                  .v_MGK = {&vb},
                                                  .out_LHK = {&ob},
                                                  .scale = scale,
                                                  .causal = causal});
        assert_fine(be);
    }
    double *d = as_doubles(&want);
    assert_close(name, floats(&got), d, mica_tensor_count(&got), 1e-5);
    test_free(d);
    host_free(&q);
    host_free(&k);
    host_free(&v);
    host_free(&want);
    host_free(&got);
}

static void test_golden(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool causal;
        float scale;
    } all[] = {
        {"full_d64", false, 0},      {"full_d128", false, 0},     {"full_d128_long", false, 0},
        {"batch2_d40", false, 0},    {"cross_d12", false, 0},     {"one_wide_head_d96", false, 0},
        {"scale_half", false, 0.5f}, {"gqa_causal_d64", true, 0}, {"gqa_causal_d128", true, 0},
        {"chunk_causal", true, 0},   {"decode_gqa", true, 0},     {"large_logits_d64", false, 0}};
    golden g = golden_open("attention.safetensors");
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    for (size_t i = 0; i < MICA_ARRAY_LEN(all); i++)
        golden_case(&g, be, all[i].name, all[i].causal, all[i].scale);
    mica_backend_close(&be);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_reference),
        cmocka_unit_test(test_bf16_operands),
        cmocka_unit_test(test_products_of_onednn),
        cmocka_unit_test(test_thread_count_does_not_show),
        cmocka_unit_test(test_rows_stand_alone),
        cmocka_unit_test(test_strided_views_and_in_place),
        cmocka_unit_test(test_nan_is_not_hidden),
        cmocka_unit_test(test_no_allocation_the_second_time),
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
