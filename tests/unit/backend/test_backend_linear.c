/* test_backend_linear.c - linear layers against an f64 reference.
 *
 * Shapes around tile edges, every weight dtype with and without scales, every epilogue, the
 * bytes for 1, 2 and 3 threads, rows of a batch against single rows, and no allocation the
 * second time. The bf16 path is also driven on CPUs without the instruction. */
#include "backend_testing.h"

typedef struct linear_case {
    int m, n, k;
    mica_dtype dtype;
    bool bias, gate, residual, in_place, strided;
    mica_act act;
    int scale; /* 0 none, 1 whole tensor, 2 per row */
} linear_case;

typedef struct linear_data {
    mica_tensor x, y, residual, gate;
    mica_weight w, bias;
    double *want;
} linear_data;

static double act_ref(mica_act act, double v)
{
    switch (act) {
    case MICA_ACT_SILU:
        return v / (1.0 + exp(-v));
    case MICA_ACT_GELU_TANH:
        return 0.5 * v * (1.0 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
    case MICA_ACT_GELU_ERF:
        return 0.5 * v * (1.0 + erf(v / sqrt(2.0)));
    default:
        return v;
    }
}

static void reference(const linear_case *c, linear_data *d)
{
    for (int i = 0; i < c->m; i++)
        for (int o = 0; o < c->n; o++) {
            double s = c->bias ? weight_at(&d->bias, o) : 0.0;
            for (int k = 0; k < c->k; k++)
                s += (double)floats(&d->x)[i * d->x.stride_[0] + k] *
                     weight_at(&d->w, (int64_t)o * c->k + k);
            s = act_ref(c->act, s);
            if (c->gate)
                s *= (double)floats(&d->gate)[o];
            if (c->residual)
                s += (double)floats(&d->residual)[i * c->n + o];
            d->want[i * c->n + o] = s;
        }
}

static void add_scale(mica_weight *w, int kind)
{
    const int64_t n = kind == 2 ? w->tensor.shape_[0] : 1;
    float *s = test_malloc((size_t)n * sizeof *s);
    for (int64_t i = 0; i < n; i++)
        s[i] = 0.02f + 0.001f * (float)(random_u32() % 100);
    w->tensor.scale = (mica_tensor_scale){.data = s, .dtype = MICA_DTYPE_F32, .per_row = kind == 2};
}

static linear_data make_data(const linear_case *c)
{
    linear_data d = {0};
    const int ld = c->strided ? c->k + 5 : c->k;
    d.x = host_random(1.0f, 2, SHAPE(c->m, ld));
    d.x.shape_[1] = c->k;
    d.w = host_weight(c->dtype, 0.1f, 2, SHAPE(c->n, c->k));
    if (c->scale)
        add_scale(&d.w, c->scale);
    d.bias = host_weight(MICA_DTYPE_BF16, 1.0f, 1, SHAPE(c->n));
    d.gate = host_random(1.0f, 1, SHAPE(c->n));
    d.residual = host_random(1.0f, 2, SHAPE(c->m, c->n));
    d.y = host_tensor(MICA_DTYPE_F32, 2, SHAPE(c->m, c->n));
    d.want = test_malloc((size_t)(c->m * c->n) * sizeof(double));
    reference(c, &d);
    return d;
}

static void free_data(linear_data *d)
{
    weight_free(&d->w);
    weight_free(&d->bias);
    host_free(&d->x);
    host_free(&d->y);
    host_free(&d->gate);
    host_free(&d->residual);
    test_free(d->want);
}

static void run(mica_backend *be, const linear_case *c, linear_data *d)
{
    if (c->in_place)
        memcpy(d->y.data, d->residual.data, mica_tensor_size(&d->y));
    const mica_linear_args args = {.x_MD = &d->x,
                                   .w_OD = &d->w,
                                   .bias_O = c->bias ? &d->bias : NULL,
                                   .act = c->act,
                                   .gate_O = c->gate ? &d->gate : NULL,
                                   .residual_MO = !c->residual  ? NULL
                                                  : c->in_place ? &d->y
                                                                : &d->residual,
                                   .y_MO = &d->y};
    mica_linear(be, &args);
    assert_fine(be);
}

static void check(mica_backend *be, const linear_case *c, double bound)
{
    linear_data d = make_data(c);
    char what[128];
    snprintf(what, sizeof what, "m %d n %d k %d dtype %s act %d scale %d%s%s%s", c->m, c->n, c->k,
             mica_dtype_get(c->dtype)->name, (int)c->act, c->scale, c->gate ? " gate" : "",
             c->residual ? " residual" : "", c->in_place ? " in place" : "");
    run(be, c, &d);
    assert_close(what, floats(&d.y), d.want, (int64_t)c->m * c->n, bound);
    mica_backend_drop_weights(be, (mica_weight *[]){&d.w}, 1);
    free_data(&d);
}

static linear_case random_case(mica_dtype dtype)
{
    linear_case c = {.m = random_int(1, 40),
                     .n = random_int(1, 150),
                     .k = random_int(1, 200),
                     .dtype = dtype,
                     .bias = random_u32() & 1,
                     .residual = random_u32() & 1,
                     .strided = random_u32() & 1,
                     .act = (mica_act)(random_u32() % 4),
                     .scale = (int)(random_u32() % 3)};
    c.gate = c.residual && (random_u32() & 1);
    c.in_place = c.residual && (random_u32() & 1);
    return c;
}

static const mica_dtype weight_types[] = {MICA_DTYPE_F32,     MICA_DTYPE_BF16,    MICA_DTYPE_F16,
                                          MICA_DTYPE_F8_E4M3, MICA_DTYPE_F8_E5M2, MICA_DTYPE_F64};

static void test_random_shapes(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    for (size_t t = 0; t < MICA_ARRAY_LEN(weight_types); t++)
        for (int i = 0; i < 25; i++) {
            const linear_case c = random_case(weight_types[t]);
            check(be, &c, 2e-6);
        }
    mica_backend_close(&be);
}

/* Row blocks, several panels, a depth that is cut for the L2 cache. */
static void test_large_shapes(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    const linear_case cases[] = {
        {.m = 397, .n = 200, .k = 65, .dtype = MICA_DTYPE_BF16, .bias = true},
        {.m = 193, .n = 65, .k = 128, .dtype = MICA_DTYPE_F32, .act = MICA_ACT_SILU},
        {.m = 5, .n = 33, .k = 9001, .dtype = MICA_DTYPE_BF16},
        {.m = 1, .n = 1000, .k = 512, .dtype = MICA_DTYPE_F16, .bias = true},
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++)
        check(be, &cases[i], 4e-6);
    mica_backend_close(&be);
}

/* Operands rounded to bf16: 2^-9 relative each, random signs. */
static void test_bf16_operands(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_BF16, 2);
    mica_cpu_from(be)->use_bf16 = true; /* the kernels have a form for every CPU */
    for (size_t t = 0; t < MICA_ARRAY_LEN(weight_types); t++)
        for (int i = 0; i < 12; i++) {
            linear_case c = random_case(weight_types[t]);
            c.k += 8;
            check(be, &c, 8e-3);
        }
    mica_backend_close(&be);
}

static void test_unfused_is_the_same_function(void **state)
{
    (void)state;
    const mica_backend_options options = {
        .precision = MICA_PRECISION_F32, .threads = 2, .ablate_fusion = true};
    mica_backend *be = NULL;
    assert_int_equal(mica_backend_open(&be, &options, NULL), MICA_OK);
    for (int i = 0; i < 30; i++) {
        const linear_case c = random_case(MICA_DTYPE_BF16);
        check(be, &c, 2e-6);
    }
    mica_backend_close(&be);
}

static void threads_give_same_bytes(mica_precision precision, bool force_bf16)
{
    const linear_case c = {.m = 230,
                           .n = 170,
                           .k = 301,
                           .dtype = MICA_DTYPE_BF16,
                           .bias = true,
                           .act = MICA_ACT_GELU_TANH,
                           .residual = true,
                           .gate = true};
    linear_data d = make_data(&c);
    const size_t size = mica_tensor_size(&d.y);
    float *first = test_malloc(size);
    for (int threads = 1; threads <= 3; threads++) {
        mica_backend *be = open_backend(precision, threads);
        mica_cpu_from(be)->use_bf16 = force_bf16;
        run(be, &c, &d);
        if (threads == 1)
            memcpy(first, d.y.data, size);
        assert_memory_equal(first, d.y.data, size);
        mica_backend_close(&be);
        assert_null(d.w.prepared);
    }
    test_free(first);
    free_data(&d);
}

static void test_thread_count_does_not_show(void **state)
{
    (void)state;
    threads_give_same_bytes(MICA_PRECISION_F32, false);
    threads_give_same_bytes(MICA_PRECISION_BF16, true);
    threads_give_same_bytes(MICA_PRECISION_INT8, false);
}

static void test_rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    const linear_case c = {.m = 205, .n = 75, .k = 333, .dtype = MICA_DTYPE_BF16, .bias = true};
    linear_data d = make_data(&c);
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    run(be, &c, &d);
    float *whole = test_malloc(mica_tensor_size(&d.y));
    memcpy(whole, d.y.data, mica_tensor_size(&d.y));
    const int cuts[] = {0, 1, 8, 100, 205};
    for (size_t i = 0; i + 1 < MICA_ARRAY_LEN(cuts); i++) {
        const mica_tensor x = mica_tensor_rows(&d.x, cuts[i], cuts[i + 1] - cuts[i]);
        mica_tensor y = mica_tensor_rows(&d.y, cuts[i], cuts[i + 1] - cuts[i]);
        memset(y.data, 0, mica_tensor_size(&y));
        mica_linear(be,
                    &(mica_linear_args){.x_MD = &x, .w_OD = &d.w, .bias_O = &d.bias, .y_MO = &y});
        assert_fine(be);
    }
    assert_memory_equal(whole, d.y.data, mica_tensor_size(&d.y));
    test_free(whole);
    mica_backend_close(&be);
    free_data(&d);
}

static void test_no_allocation_the_second_time(void **state)
{
    (void)state;
    const mica_precision all[] = {MICA_PRECISION_F32, MICA_PRECISION_BF16, MICA_PRECISION_INT8};
    for (size_t p = 0; p < MICA_ARRAY_LEN(all); p++) {
        const linear_case c = {.m = 50, .n = 130, .k = 96, .dtype = MICA_DTYPE_BF16, .bias = true};
        linear_data d = make_data(&c);
        mica_backend *be = open_backend(all[p], 2);
        mica_cpu_from(be)->use_bf16 = all[p] == MICA_PRECISION_BF16;
        run(be, &c, &d);
        const uint64_t before = mica_backend_get_counters(be).allocations;
        const uint64_t heap = mica_mem_count();
        assert_true(before > 0);
        run(be, &c, &d);
        assert_int_equal(mica_backend_get_counters(be).allocations, before);
        assert_int_equal(mica_mem_count(), heap);
        mica_backend_close(&be);
        free_data(&d);
    }
}

static void test_counters(void **state)
{
    (void)state;
    const linear_case c = {.m = 3, .n = 5, .k = 7, .dtype = MICA_DTYPE_F32};
    linear_data d = make_data(&c);
    mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
    run(be, &c, &d);
    const mica_backend_counters n = mica_backend_get_counters(be);
    assert_int_equal(n.ops, 1);
    assert_true(n.linear_flops == 2.0 * 3 * 5 * 7);
    assert_true(n.linear_seconds > 0.0);
    assert_int_equal(n.waits, 0);
    mica_backend_close(&be);
    free_data(&d);
}

static void test_wrong_shapes_are_told(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
    mica_weight w = host_weight(MICA_DTYPE_F32, 1.0f, 2, SHAPE(4, 6));
    mica_tensor x = host_random(1.0f, 2, SHAPE(3, 5)), y = host_random(1.0f, 2, SHAPE(3, 4));
    mica_linear(be, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y});
    mica_err err = {0};
    assert_int_equal(mica_backend_check(be, &err), MICA_E_INTERNAL);
    assert_non_null(strstr(err.text, "test.weight"));
    assert_non_null(strstr(err.text, "[3, 5]"));
    assert_int_equal(mica_backend_check(be, &err), MICA_OK);
    mica_backend_close(&be);
    weight_free(&w);
    host_free(&x);
    host_free(&y);
}

static void golden_case(const golden *g, mica_backend *be, const char *name)
{
    mica_tensor x, want, bias;
    mica_weight w = {.name = name}, b = {.name = "bias"};
    assert_true(golden_find(g, name, "x", &x));
    assert_true(golden_find(g, name, "out", &want));
    assert_true(golden_find(g, name, "weight", &w.tensor));
    const bool has_bias = golden_find(g, name, "bias", &bias);
    if (has_bias)
        b.tensor = bias;
    mica_tensor y = host_tensor(MICA_DTYPE_F32, 2, want.shape_);
    mica_linear(be, &(mica_linear_args){
                        .x_MD = &x, .w_OD = &w, .bias_O = has_bias ? &b : NULL, .y_MO = &y});
    assert_fine(be);
    double *d = as_doubles(&want);
    assert_close(name, floats(&y), d, mica_tensor_count(&y), 1e-5);
    test_free(d);
    host_free(&x);
    host_free(&want);
    host_free(&w.tensor);
    if (has_bias)
        host_free(&bias);
    host_free(&y);
}

static void test_golden(void **state)
{
    (void)state;
    const char *const names[] = {
        "square", "odd", "row", "tall", "near_overflow", "odd_bf16_weights", "square_bf16_weights"};
    golden g = golden_open("linear.safetensors");
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    for (size_t i = 0; i < MICA_ARRAY_LEN(names); i++)
        golden_case(&g, be, names[i]);
    mica_backend_close(&be);
    golden_close(&g);
}

/* ------------------------------------------------------------- the same input -- */

/* Two linears of one x, the second told so; between them what `between` does. */
typedef void (*between_fn)(mica_backend *be, mica_tensor *x);

static void nothing(mica_backend *be, mica_tensor *x)
{
    (void)be;
    (void)x;
}

/* Takes the scratch that x stands in. */
static void take_scratch(mica_backend *be, mica_tensor *x)
{
    (void)mica_all_finite(be, x);
}

static void free_scratch(mica_backend *be, mica_tensor *x)
{
    (void)x;
    mica_pool_trim(be);
}

static void run_pair(mica_precision precision, int m, int n, between_fn between, bool dnnl)
{
    const linear_case first = {.m = m, .n = 96, .k = 200, .dtype = MICA_DTYPE_BF16, .bias = true};
    linear_data d = make_data(&first);
    mica_weight w = host_weight(MICA_DTYPE_BF16, 0.1f, 2, SHAPE(n, first.k));
    for (int i = 0; i < m; i++)
        floats(&d.x)[i * first.k + 77] *= 20.0f; /* an outlier channel for int8 */
    mica_tensor y[2];
    mica_backend *be = open_backend(precision, 2);
    if (dnnl)
        (void)use_dnnl(be);
    for (int told = 0; told < 2; told++) {
        y[told] = host_tensor(MICA_DTYPE_F32, 2, SHAPE(m, n));
        run(be, &first, &d);
        between(be, &d.x);
        mica_linear(be, &(mica_linear_args){
                            .x_MD = &d.x, .w_OD = &w, .y_MO = &y[told], .same_x = told == 1});
        assert_fine(be);
    }
    assert_memory_equal(y[0].data, y[1].data, mica_tensor_size(&y[0]));
    host_free(&y[0]);
    host_free(&y[1]);
    mica_backend_close(&be);
    weight_free(&w);
    free_data(&d);
}

static void test_same_input(void **state)
{
    (void)state;
    static const mica_precision precisions[] = {MICA_PRECISION_F32, MICA_PRECISION_BF16,
                                                MICA_PRECISION_INT8};
    static const between_fn between[] = {nothing, take_scratch, free_scratch};
    for (size_t p = 0; p < MICA_ARRAY_LEN(precisions); p++)
        for (size_t b = 0; b < MICA_ARRAY_LEN(between); b++)
            for (int dnnl = 0; dnnl < 2; dnnl++) {
                run_pair(precisions[p], 70, 96, between[b], dnnl);
                run_pair(precisions[p], 70, 300, between[b], dnnl); /* more scratch than before */
                run_pair(precisions[p], 3, 40, between[b], dnnl);
            }
}

/* The hint where x is another tensor, or other rows of it: made anew, since places do not agree. */
/* Three linears of one input into columns of one tensor, with and without the switch. */
static void test_linears_of_one_input(void **state)
{
    (void)state;
    static const int64_t widths[3] = {24, 7, 40};
    for (int ablate = 0; ablate < 2; ablate++) {
        mica_backend *be = NULL;
        mica_err err = {0};
        const mica_backend_options options = {
            .precision = MICA_PRECISION_F32, .threads = 2, .ablate_joining = ablate};
        assert_int_equal(mica_backend_open(&be, &options, &err), MICA_OK);
        mica_tensor x = host_random(1.0f, 2, SHAPE(13, 33)),
                    all = host_random(1.0f, 2, SHAPE(13, 71));
        mica_tensor y[3], alone[3];
        mica_weight w[3];
        mica_linear_args args[3];
        int64_t first = 0;
        for (int i = 0; i < 3; i++) {
            w[i] = host_weight(MICA_DTYPE_BF16, 0.1f, 2, SHAPE(widths[i], 33));
            y[i] = mica_tensor_columns(&all, first, widths[i]);
            alone[i] = host_random(1.0f, 2, SHAPE(13, widths[i]));
            args[i] = (mica_linear_args){.x_MD = &x, .w_OD = &w[i], .y_MO = &alone[i]};
            mica_linear(be, &args[i]);
            args[i].y_MO = &y[i];
            first += widths[i];
        }
        mica_linears(be, args, 3);
        assert_fine(be);
        for (int i = 0; i < 3; i++) {
            for (int64_t r = 0; r < 13; r++)
                assert_memory_equal(floats(&y[i]) + r * 71, floats(&alone[i]) + r * widths[i],
                                    (size_t)widths[i] * sizeof(float));
            mica_backend_drop_weights(be, (mica_weight *const[]){&w[i]}, 1);
            weight_free(&w[i]);
            host_free(&alone[i]);
        }
        host_free(&x);
        host_free(&all);
        mica_backend_close(&be);
    }
}

static void test_same_input_elsewhere(void **state)
{
    (void)state;
    const linear_case c = {.m = 40, .n = 64, .k = 128, .dtype = MICA_DTYPE_BF16};
    linear_data a = make_data(&c), b = make_data(&c);
    mica_tensor want = host_tensor(MICA_DTYPE_F32, 2, SHAPE(c.m, c.n));
    mica_backend *be = open_backend(MICA_PRECISION_INT8, 2);
    mica_linear_args args = {.x_MD = &b.x, .w_OD = &b.w, .y_MO = &want};
    mica_linear(be, &args);
    run(be, &c, &a);
    args.y_MO = &b.y;
    args.same_x = true;
    mica_linear(be, &args);
    assert_fine(be);
    assert_memory_equal(b.y.data, want.data, mica_tensor_size(&want));
    mica_backend_close(&be);
    host_free(&want);
    free_data(&a);
    free_data(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_shapes),
        cmocka_unit_test(test_large_shapes),
        cmocka_unit_test(test_bf16_operands),
        cmocka_unit_test(test_unfused_is_the_same_function),
        cmocka_unit_test(test_thread_count_does_not_show),
        cmocka_unit_test(test_rows_do_not_depend_on_the_batch),
        cmocka_unit_test(test_no_allocation_the_second_time),
        cmocka_unit_test(test_same_input),
        cmocka_unit_test(test_linears_of_one_input),
        cmocka_unit_test(test_same_input_elsewhere),
        cmocka_unit_test(test_counters),
        cmocka_unit_test(test_wrong_shapes_are_told),
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
