/* test_backend_adapter.c - linears with adapters against the merged weight in f64.
 *
 * Every form (LoRA, LoHa, LoKr with a whole and with a factored second part, a full difference), every
 * dtype of the factors, part of the rows, several at once, every precision and epilogue; the
 * bytes for 1, 2 and 3 threads; no allocation the second time. */
#include "backend_testing.h"

enum { LORA, LOHA, LOKR, LOKR_FACTORED, DIFF, FORMS };

#define MOST 3

typedef struct adapted {
    int m, n, k, count;
    bool bias, gate, residual;
    mica_act act;
    mica_tensor x, y, residual_MO, gate_O;
    mica_weight w, bias_O;
    mica_adapter adapters[MOST];
    double *merged, *want;
} adapted;

static mica_tensor factor(mica_dtype dtype, int64_t rows, int64_t columns)
{
    return host_weight(dtype, 0.3f, 2, SHAPE(rows, columns)).tensor;
}

static double at(const mica_tensor *t, int64_t row, int64_t column)
{
    return (double)mica_tensor_read_f32(t, row * t->shape_[1] + column);
}

static double product_at(const mica_adapter *a, int i, int64_t row, int64_t column)
{
    double sum = 0.0;
    if (!a->down[i].data)
        return at(&a->up[i], row, column);
    for (int64_t r = 0; r < a->down[i].shape_[0]; r++)
        sum += at(&a->up[i], row, r) * at(&a->down[i], r, column);
    return sum;
}

/* Element of kron(mix, delta). */
static double delta_at(const mica_adapter *a, int64_t row, int64_t column)
{
    const int64_t p = a->up[0].shape_[0];
    const int64_t q = a->down[0].data ? a->down[0].shape_[1] : a->up[0].shape_[1];
    double v = product_at(a, 0, row % p, column % q);
    if (a->up[1].data)
        v *= product_at(a, 1, row % p, column % q);
    return a->mix.data ? v * at(&a->mix, row / p, column / q) : v;
}

static int divisor_of(int n)
{
    int d = random_int(1, n);
    while (n % d)
        d--;
    return d;
}

/* An adapter of `rows` x k, of which a part goes to a part of the weight's rows. */
static mica_adapter make_adapter(const adapted *t, int form, mica_dtype dtype)
{
    mica_adapter a = {.scale = 0.5f + 0.1f * (float)random_int(0, 9)};
    const int rows = random_int(1, 2 * t->n), b = divisor_of(t->k), mix = divisor_of(rows);
    const int r = random_int(1, 12), r2 = random_int(1, 9);
    const bool kron = form == LOKR || form == LOKR_FACTORED;
    const int p = kron ? rows / mix : rows, q = kron ? t->k / b : t->k;
    if (kron)
        a.mix = factor(MICA_DTYPE_F32, mix, b);
    if (form == LOKR || form == DIFF) {
        a.up[0] = factor(dtype, p, q);
    } else {
        a.up[0] = factor(dtype, p, r);
        a.down[0] = factor(dtype, r, q);
    }
    if (form == LOHA) {
        a.up[1] = factor(dtype, p, r2);
        a.down[1] = factor(dtype, r2, q);
    }
    a.first = random_int(0, t->n - 1);
    a.skip = random_int(0, rows - 1);
    a.count = random_int(0, (int)MICA_MIN(t->n - a.first, rows - a.skip));
    return a;
}

static void merge(adapted *t)
{
    for (int o = 0; o < t->n; o++)
        for (int d = 0; d < t->k; d++) {
            double v = weight_at(&t->w, (int64_t)o * t->k + d);
            for (int i = 0; i < t->count; i++) {
                const mica_adapter *a = &t->adapters[i];
                if (o >= a->first && o < a->first + a->count)
                    v += (double)a->scale * delta_at(a, o - a->first + a->skip, d);
            }
            t->merged[o * t->k + d] = v;
        }
}

static double act_ref(mica_act act, double v)
{
    return act == MICA_ACT_SILU ? v / (1.0 + exp(-v)) : v;
}

static void reference(adapted *t)
{
    merge(t);
    for (int i = 0; i < t->m; i++)
        for (int o = 0; o < t->n; o++) {
            double s = t->bias ? weight_at(&t->bias_O, o) : 0.0;
            for (int d = 0; d < t->k; d++)
                s += (double)floats(&t->x)[i * t->x.stride_[0] + d] * t->merged[o * t->k + d];
            s = act_ref(t->act, s);
            if (t->gate)
                s *= (double)floats(&t->gate_O)[o];
            if (t->residual)
                s += (double)floats(&t->residual_MO)[i * t->n + o];
            t->want[i * t->n + o] = s;
        }
}

static adapted make(int m, int n, int k, int form, mica_dtype dtype, int count)
{
    adapted t = {.m = m, .n = n, .k = k, .count = count};
    t.bias = random_u32() & 1;
    t.residual = random_u32() & 1;
    t.gate = t.residual && (random_u32() & 1);
    t.act = random_u32() & 1 ? MICA_ACT_SILU : MICA_ACT_NONE;
    t.x = host_random(1.0f, 2, SHAPE(m, k + 3));
    t.x.shape_[1] = k;
    t.w = host_weight(MICA_DTYPE_BF16, 0.1f, 2, SHAPE(n, k));
    t.bias_O = host_weight(MICA_DTYPE_BF16, 1.0f, 1, SHAPE(n));
    t.gate_O = host_random(1.0f, 1, SHAPE(n));
    t.residual_MO = host_random(1.0f, 2, SHAPE(m, n));
    t.y = host_tensor(MICA_DTYPE_F32, 2, SHAPE(m, n));
    t.merged = test_malloc((size_t)(n * k) * sizeof(double));
    t.want = test_malloc((size_t)(m * n) * sizeof(double));
    for (int i = 0; i < count; i++)
        t.adapters[i] = make_adapter(&t, i ? random_int(0, FORMS - 1) : form, dtype);
    reference(&t);
    return t;
}

static void chain(adapted *t)
{
    for (int i = 0; i + 1 < t->count; i++)
        t->adapters[i].next = &t->adapters[i + 1];
    t->w.adapters = t->adapters;
}

static void free_adapted(adapted *t)
{
    for (int i = 0; i < t->count; i++) {
        mica_adapter *a = &t->adapters[i];
        mica_tensor *const all[] = {&a->up[0], &a->up[1], &a->down[0], &a->down[1], &a->mix};
        for (size_t k = 0; k < MICA_ARRAY_LEN(all); k++)
            if (all[k]->data)
                host_free(all[k]);
    }
    weight_free(&t->w);
    weight_free(&t->bias_O);
    host_free(&t->x);
    host_free(&t->y);
    host_free(&t->gate_O);
    host_free(&t->residual_MO);
    test_free(t->merged);
    test_free(t->want);
}

static void run(mica_backend *be, adapted *t)
{
    chain(t);
    mica_linear(be, &(mica_linear_args){.x_MD = &t->x,
                                        .w_OD = &t->w,
                                        .bias_O = t->bias ? &t->bias_O : NULL,
                                        .act = t->act,
                                        .gate_O = t->gate ? &t->gate_O : NULL,
                                        .residual_MO = t->residual ? &t->residual_MO : NULL,
                                        .y_MO = &t->y});
    assert_fine(be);
}

static void check(mica_backend *be, adapted *t, int form, double bound)
{
    char what[96];
    snprintf(what, sizeof what, "form %d, %d adapters, %d x %d x %d", form, t->count, t->m, t->n,
             t->k);
    run(be, t);
    assert_close(what, floats(&t->y), t->want, (int64_t)t->m * t->n, bound);
    mica_backend_drop_weights(be, (mica_weight *[]){&t->w}, 1);
    free_adapted(t);
}

static const mica_dtype factor_types[] = {MICA_DTYPE_F32, MICA_DTYPE_BF16, MICA_DTYPE_F16,
                                          MICA_DTYPE_F8_E4M3};

static void every_form(mica_backend *be, double bound)
{
    for (int form = 0; form < FORMS; form++)
        for (size_t d = 0; d < MICA_ARRAY_LEN(factor_types); d++)
            for (int i = 0; i < 8; i++) {
                adapted t = make(random_int(1, 40), random_int(1, 90), random_int(1, 80), form,
                                 factor_types[d], 1 + i % MOST);
                check(be, &t, form, bound);
            }
}

static void test_f32(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    every_form(be, 4e-6);
    mica_backend_close(&be);
}

static void test_bf16(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_BF16, 2);
    mica_cpu_from(be)->use_bf16 = true;
    every_form(be, 2e-2);
    mica_backend_close(&be);
}

static void test_int8(void **state)
{
    (void)state;
    for (int dnnl = 0; dnnl < 2; dnnl++) {
        mica_backend *be = open_backend(MICA_PRECISION_INT8, 2);
        if (!dnnl)
            mica_cpu_from(be)->use_dnnl = false;
        else if (!use_dnnl(be))
            dnnl = 2;
        every_form(be, 3e-2);
        mica_backend_close(&be);
    }
}

static void test_unfused(void **state)
{
    (void)state;
    const mica_precision all[] = {MICA_PRECISION_F32, MICA_PRECISION_INT8};
    for (size_t i = 0; i < MICA_ARRAY_LEN(all); i++) {
        const mica_backend_options options = {
            .precision = all[i], .threads = 2, .ablate_fusion = true};
        mica_backend *be = NULL;
        assert_int_equal(mica_backend_open(&be, &options, NULL), MICA_OK);
        every_form(be, i ? 3e-2 : 4e-6);
        mica_backend_close(&be);
    }
}

/* Tiles, panels and slices of more than one. */
static void test_large(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    for (int form = 0; form < FORMS; form++) {
        adapted t = make(150, 700, 300, form, MICA_DTYPE_BF16, 2);
        check(be, &t, form, 4e-6);
    }
    mica_backend_close(&be);
}

static void threads_give_same_bytes(mica_precision precision, bool bf16)
{
    adapted t = make(230, 170, 120, LOKR_FACTORED, MICA_DTYPE_BF16, MOST);
    const size_t size = mica_tensor_size(&t.y);
    float *first = test_malloc(size);
    for (int threads = 1; threads <= 3; threads++) {
        mica_backend *be = open_backend(precision, threads);
        mica_cpu_from(be)->use_bf16 = bf16;
        run(be, &t);
        if (threads == 1)
            memcpy(first, t.y.data, size);
        assert_memory_equal(first, t.y.data, size);
        mica_backend_close(&be);
    }
    test_free(first);
    free_adapted(&t);
}

static void test_thread_count_does_not_show(void **state)
{
    (void)state;
    threads_give_same_bytes(MICA_PRECISION_F32, false);
    threads_give_same_bytes(MICA_PRECISION_BF16, true);
    threads_give_same_bytes(MICA_PRECISION_INT8, false);
}

static void test_no_allocation_the_second_time(void **state)
{
    (void)state;
    const mica_precision all[] = {MICA_PRECISION_F32, MICA_PRECISION_BF16, MICA_PRECISION_INT8};
    for (size_t p = 0; p < MICA_ARRAY_LEN(all); p++) {
        adapted t = make(50, 130, 96, LOHA, MICA_DTYPE_BF16, MOST);
        mica_backend *be = open_backend(all[p], 2);
        mica_cpu_from(be)->use_bf16 = all[p] == MICA_PRECISION_BF16;
        run(be, &t);
        const uint64_t before = mica_backend_get_counters(be).allocations;
        run(be, &t);
        assert_int_equal(mica_backend_get_counters(be).allocations, before);
        mica_backend_close(&be);
        free_adapted(&t);
    }
}

/* A backend that does not know adapters says so and never leaves them out. */
static void test_other_backends_refuse(void **state)
{
    (void)state;
    adapted t = make(3, 5, 7, LORA, MICA_DTYPE_F32, 1);
    mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
    mica_err err = {0};
    be->takes_adapters = false;
    chain(&t);
    mica_linear(be, &(mica_linear_args){.x_MD = &t.x, .w_OD = &t.w, .y_MO = &t.y});
    assert_int_equal(mica_backend_check(be, &err), MICA_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "LoRA"));
    mica_backend_close(&be);
    free_adapted(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_unfused),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_thread_count_does_not_show),
        cmocka_unit_test(test_no_allocation_the_second_time),
        cmocka_unit_test(test_other_backends_refuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
