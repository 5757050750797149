/* test_backend_sequence.c - convolution over time, functions with a shift, gated units and relative
 * attention against f64; rows apart, every kind of padding and dilation, any number of threads. */
#include "backend_testing.h"

/* ---------------------------------------------------------- convolution -- */

typedef struct conv_case {
    int R, C, O, K, stride, dilation, left, right;
    bool leaky;
    float slope;
    mica_act act;
    bool bias, residual;
    mica_dtype type;
    int gap; /* columns between rows */
} conv_case;

static int out_rows(const conv_case *c)
{
    return (c->R + c->left + c->right - c->dilation * (c->K - 1) - 1) / c->stride + 1;
}

static double activated(double x, mica_act act)
{
    return act == MICA_ACT_GELU_ERF ? 0.5 * x * erfc(-x / sqrt(2.0)) : x;
}

static void conv_reference(const conv_case *c, const mica_tensor *x, const mica_weight *w,
                           const mica_weight *bias, const float *residual, double *out)
{
    for (int r = 0; r < out_rows(c); r++)
        for (int o = 0; o < c->O; o++) {
            double sum = c->bias ? weight_at(bias, o) : 0.0;
            for (int k = 0; k < c->K; k++) {
                const int at = r * c->stride - c->left + k * c->dilation;
                for (int i = 0; i < c->C && at >= 0 && at < c->R; i++) {
                    const double v = (double)floats(x)[at * x->stride_[0] + i];
                    const double in = c->leaky && v < 0.0 ? (double)c->slope * v : v;
                    sum += in * weight_at(w, ((int64_t)o * c->C + i) * c->K + k);
                }
            }
            out[r * c->O + o] = activated(sum, c->act) +
                                (c->residual ? (double)residual[r * (c->O + c->gap) + o] : 0.0);
        }
}

static void compact(const mica_tensor *t, float *out)
{
    for (int64_t r = 0; r < t->shape_[0]; r++)
        memcpy(out + r * t->shape_[1], floats(t) + r * t->stride_[0],
               (size_t)t->shape_[1] * sizeof(float));
}

/* A view of the first `columns` columns of a random matrix. */
static mica_tensor columns_of(mica_tensor *whole, int64_t columns)
{
    mica_tensor t = *whole;
    t.shape_[1] = columns;
    return t;
}

static void run_conv_case(const conv_case *c, mica_precision precision, double bound)
{
    const int R = out_rows(c);
    mica_tensor x_all = host_random(1.0f, 2, SHAPE(c->R, c->C + c->gap));
    mica_tensor y_all = host_random(1.0f, 2, SHAPE(R, c->O + c->gap));
    mica_tensor first = host_tensor(MICA_DTYPE_F32, 2, SHAPE(R, c->O));
    mica_tensor again = host_tensor(MICA_DTYPE_F32, 2, SHAPE(R, c->O));
    mica_tensor before = host_tensor(MICA_DTYPE_F32, 2, y_all.shape_);
    memcpy(before.data, y_all.data, mica_tensor_size(&y_all));
    mica_tensor x = columns_of(&x_all, c->C), y = columns_of(&y_all, c->O);
    mica_weight w = host_weight(c->type, 0.3f, 4, SHAPE(c->O, c->C, 1, c->K));
    mica_weight bias = host_weight(MICA_DTYPE_F16, 1.0f, 1, SHAPE(c->O));
    double *want = test_malloc((size_t)(R * c->O) * sizeof *want);
    conv_reference(c, &x, &w, &bias, floats(&before), want);
    for (int threads = 1; threads <= 3; threads += 2) {
        mica_backend *be = open_backend(precision, threads);
        memcpy(y_all.data, before.data, mica_tensor_size(&y_all));
        mica_conv1d(be, &(mica_conv1d_args){.x_RC = &x,
                                            .w_OCYX = &w,
                                            .bias_O = c->bias ? &bias : NULL,
                                            .stride = c->stride,
                                            .dilation = c->dilation,
                                            .pad_left = c->left,
                                            .pad_right = c->right,
                                            .leaky = c->leaky,
                                            .slope = c->slope,
                                            .act = c->act,
                                            .residual_RO = c->residual ? &y : NULL,
                                            .y_RO = &y});
        assert_fine(be);
        compact(&y, threads == 1 ? floats(&first) : floats(&again));
        mica_backend_drop_weights(be, (mica_weight *const[]){&w}, 1);
        mica_backend_close(&be);
    }
    assert_close("conv1d", floats(&first), want, (int64_t)R * c->O, bound);
    assert_memory_equal(first.data, again.data, mica_tensor_size(&first));
    for (int r = 0; r < R; r++) /* nothing between the rows was written */
        assert_memory_equal(floats(&y_all) + r * (c->O + c->gap) + c->O,
                            floats(&before) + r * (c->O + c->gap) + c->O,
                            (size_t)c->gap * sizeof(float));
    test_free(want);
    weight_free(&w);
    weight_free(&bias);
    mica_tensor *all[] = {&x_all, &y_all, &first, &again, &before};
    for (size_t i = 0; i < MICA_ARRAY_LEN(all); i++)
        host_free(all[i]);
}

static const conv_case CONVS[] = {
    {.R = 40, .C = 1, .O = 9, .K = 10, .stride = 5, .dilation = 1, .type = MICA_DTYPE_F16},
    {.R = 41, .C = 16, .O = 20, .K = 3, .stride = 2, .dilation = 1, .act = MICA_ACT_GELU_ERF},
    {.R = 900,
     .C = 24,
     .O = 24,
     .K = 11,
     .stride = 1,
     .dilation = 5,
     .left = 25,
     .right = 25,
     .leaky = true,
     .slope = 0.1f,
     .bias = true,
     .residual = true,
     .gap = 8},
    {.R = 5000,
     .C = 16,
     .O = 16,
     .K = 3,
     .stride = 1,
     .dilation = 3,
     .left = 3,
     .right = 3,
     .leaky = true,
     .slope = 0.1f,
     .bias = true,
     .residual = true},
    {.R = 7,
     .C = 5,
     .O = 3,
     .K = 7,
     .stride = 1,
     .dilation = 1,
     .left = 3,
     .right = 3,
     .gap = 1,
     .bias = true,
     .leaky = true,
     .slope = 0.01f,
     .type = MICA_DTYPE_BF16},
    {.R = 3, .C = 4, .O = 2, .K = 3, .stride = 1, .dilation = 5, .left = 5, .right = 5},
    {.R = 33,
     .C = 7,
     .O = 50,
     .K = 2,
     .stride = 1,
     .dilation = 1,
     .left = 1,
     .right = 1,
     .leaky = true,
     .type = MICA_DTYPE_F64},
    {.R = 130,
     .C = 96,
     .O = 200,
     .K = 5,
     .stride = 1,
     .dilation = 1,
     .left = 2,
     .right = 2,
     .bias = true},
    {.R = 1, .C = 3, .O = 1, .K = 1, .stride = 1, .dilation = 1, .bias = true},
};

static void test_conv1d(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(CONVS); i++) {
        run_conv_case(&CONVS[i], MICA_PRECISION_F32, 3e-6);
        run_conv_case(&CONVS[i], MICA_PRECISION_BF16, 8e-3);
    }
}

/* A weight as files have it, [O, C, K] seen as [O, C, 1, K], against the same with other strides. */
static void test_conv1d_strided_weight(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
    mica_tensor x = host_random(1.0f, 2, SHAPE(30, 6));
    mica_tensor a = host_tensor(MICA_DTYPE_F32, 2, SHAPE(28, 8)), b = a;
    b.data = test_malloc(mica_tensor_size(&b));
    mica_weight w = host_weight(MICA_DTYPE_F32, 1.0f, 4, SHAPE(8, 6, 1, 3));
    mica_weight turned = host_weight(MICA_DTYPE_F32, 1.0f, 4, SHAPE(8, 3, 1, 6)); /* [O, K, 1, C] */
    for (int o = 0; o < 8; o++)
        for (int c = 0; c < 6; c++)
            for (int k = 0; k < 3; k++)
                floats(&turned.tensor)[(o * 3 + k) * 6 + c] =
                    floats(&w.tensor)[(o * 6 + c) * 3 + k];
    turned.tensor.shape_[1] = 6;
    turned.tensor.shape_[3] = 3;
    turned.tensor.stride_[1] = 1;
    turned.tensor.stride_[3] = 6;
    mica_conv1d_args args = {.x_RC = &x, .w_OCYX = &w, .stride = 1, .dilation = 1, .y_RO = &a};
    mica_conv1d(be, &args);
    args.w_OCYX = &turned;
    args.y_RO = &b;
    mica_conv1d(be, &args);
    assert_fine(be);
    assert_memory_equal(a.data, b.data, mica_tensor_size(&a));
    mica_backend_close(&be);
    host_free(&x);
    host_free(&a);
    host_free(&b);
    weight_free(&w);
    weight_free(&turned);
}

static void test_wrong_shapes_are_told(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 1);
    mica_err err = {0};
    mica_tensor x = host_random(1.0f, 2, SHAPE(10, 4)), y = host_random(1.0f, 2, SHAPE(9, 4));
    mica_weight w = host_weight(MICA_DTYPE_F32, 1.0f, 4, SHAPE(4, 4, 1, 3));
    mica_conv1d_args args = {.x_RC = &x, .w_OCYX = &w, .stride = 1, .dilation = 1, .y_RO = &y};
    mica_conv1d(be, &args);
    assert_int_equal(mica_backend_check(be, &err), MICA_E_INTERNAL);
    assert_non_null(strstr(err.text, "conv1d test.weight: output has another size"));
    mica_gate(be, true, &x, NULL, &y);
    assert_int_equal(mica_backend_check(be, &err), MICA_E_INTERNAL);
    mica_backend_close(&be);
    host_free(&x);
    host_free(&y);
    weight_free(&w);
}

/* ------------------------------------------------- functions and gates -- */

static double function_reference(mica_function f, double p, double x)
{
    switch (f) {
    case MICA_FUNCTION_LEAKY_RELU:
        return x > 0.0 ? x : p * x;
    case MICA_FUNCTION_CLAMP:
        return x < 0.0 ? 0.0 : x > p ? p : x;
    case MICA_FUNCTION_MISH:
        return x * tanh(log1p(exp(x)));
    case MICA_FUNCTION_GELU_ERF:
        return 0.5 * x * erfc(-x / sqrt(2.0));
    case MICA_FUNCTION_SILU:
        return x / (1.0 + exp(-x));
    case MICA_FUNCTION_TANH:
        return tanh(x);
    default:
        return x;
    }
}

static void check_function(mica_backend *be, mica_function f, int rows, int n, int gap,
                           bool with_shift)
{
    const double p = f == MICA_FUNCTION_CLAMP ? 1.5 : 0.1;
    mica_tensor x_all = host_random(2.0f, 2, SHAPE(rows, n + gap)), x = columns_of(&x_all, n);
    mica_tensor shift = host_random(1.0f, 1, SHAPE(n));
    mica_tensor got = host_tensor(MICA_DTYPE_F32, 2, SHAPE(rows, n));
    double *want = test_malloc((size_t)(rows * n) * sizeof *want);
    for (int i = 0; i < rows * n; i++)
        want[i] = function_reference(f, p,
                                     (double)(floats(&x)[i / n * (n + gap) + i % n] +
                                              (with_shift ? floats(&shift)[i % n] : 0.0f)));
    mica_apply(be, f, (float)p, &x, with_shift ? &shift : NULL, &x); /* in place */
    assert_fine(be);
    compact(&x, floats(&got));
    assert_close("apply", floats(&got), want, (int64_t)rows * n, 1e-6);
    test_free(want);
    host_free(&x_all);
    host_free(&shift);
    host_free(&got);
}

static void test_functions(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    for (int f = 0; f < MICA_FUNCTION_COUNT; f++)
        for (int form = 0; form < 4; form++)
            check_function(be, (mica_function)f, 1 + 300 * (form & 1), 77, 3 * (form >> 1),
                           form != 0);
    mica_backend_close(&be);
}

static void test_gates(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    for (int form = 0; form < 4; form++) {
        const int rows = 250, n = 53;
        const bool is_tanh = form & 1, with_shift = form & 2;
        mica_tensor x = host_random(2.0f, 2, SHAPE(rows, 2 * n));
        mica_tensor shift = host_random(1.0f, 1, SHAPE(2 * n));
        mica_tensor y = host_tensor(MICA_DTYPE_F32, 2, SHAPE(rows, n));
        double *want = test_malloc((size_t)(rows * n) * sizeof *want);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < n; i++) {
                const float *row = floats(&x) + r * 2 * n;
                const double a = (double)row[i] + (with_shift ? (double)floats(&shift)[i] : 0.0);
                const double b =
                    (double)row[n + i] + (with_shift ? (double)floats(&shift)[n + i] : 0.0);
                want[r * n + i] = (is_tanh ? tanh(a) : a) / (1.0 + exp(-b));
            }
        mica_gate(be, is_tanh, &x, with_shift ? &shift : NULL, &y);
        assert_fine(be);
        assert_close("gate", floats(&y), want, (int64_t)rows * n, 1e-6);
        test_free(want);
        host_free(&x);
        host_free(&shift);
        host_free(&y);
    }
    mica_backend_close(&be);
}

/* --------------------------------------------------- relative attention -- */

static double row_at(const mica_tensor *t, int64_t token, int64_t head, int64_t k)
{
    return (double)floats(t)[token * t->stride_[0] + head * t->stride_[1] + k];
}

static void relative_reference(const mica_tensor *q, const mica_tensor *k, const mica_tensor *v,
                               const mica_weight *rel_k, const mica_weight *rel_v, double *out)
{
    const int64_t L = q->shape_[0], H = q->shape_[1], K = q->shape_[2];
    const int64_t N = rel_k->tensor.shape_[0], W = N / 2;
    double *p = test_malloc((size_t)L * sizeof *p);
    for (int64_t h = 0; h < H; h++)
        for (int64_t i = 0; i < L; i++) {
            double most = -INFINITY, sum = 0.0;
            for (int64_t j = 0; j < L; j++) {
                const int64_t n = j - i + W;
                p[j] = 0.0;
                for (int64_t c = 0; c < K; c++)
                    p[j] += row_at(q, i, h, c) *
                            (row_at(k, j, h, c) +
                             (n >= 0 && n < N ? weight_at(rel_k, n * K + c) : 0.0)) /
                            sqrt((double)K);
                most = fmax(most, p[j]);
            }
            for (int64_t j = 0; j < L; j++)
                sum += p[j] = exp(p[j] - most);
            for (int64_t c = 0; c < K; c++) {
                double s = 0.0;
                for (int64_t j = 0; j < L; j++) {
                    const int64_t n = j - i + W;
                    s += p[j] / sum *
                         (row_at(v, j, h, c) +
                          (n >= 0 && n < N ? weight_at(rel_v, n * K + c) : 0.0));
                }
                out[(i * H + h) * K + c] = s;
            }
        }
    test_free(p);
}

static void check_relative(int L, int H, int K, int W, int threads)
{
    mica_backend *be = open_backend(MICA_PRECISION_BF16, threads); /* f32 all the same */
    mica_tensor qkv = host_random(1.0f, 4, SHAPE(L, 3, H, K));     /* rows of q, k and v in turn */
    mica_tensor part[3];
    for (int i = 0; i < 3; i++) {
        part[i] = mica_tensor_3d(floats(&qkv) + (ptrdiff_t)i * H * K, MICA_DTYPE_F32, L, H, K);
        part[i].stride_[0] = 3 * (int64_t)H * K;
    }
    mica_tensor y = host_tensor(MICA_DTYPE_F32, 3, SHAPE(L, H, K));
    mica_weight rel_k = host_weight(MICA_DTYPE_F16, 1.0f, 2, SHAPE(2 * W + 1, K));
    mica_weight rel_v = host_weight(MICA_DTYPE_F16, 1.0f, 2, SHAPE(2 * W + 1, K));
    double *want = test_malloc((size_t)(L * H * K) * sizeof *want);
    relative_reference(&part[0], &part[1], &part[2], &rel_k, &rel_v, want);
    mica_relative_attention(be, &(mica_relative_attention_args){.q_LHK = &part[0],
                                                                .k_LHK = &part[1],
                                                                .v_LHK = &part[2],
                                                                .rel_k_NK = &rel_k,
                                                                .rel_v_NK = &rel_v,
                                                                .out_LHK = &y});
    assert_fine(be);
    assert_close("relative attention", floats(&y), want, (int64_t)L * H * K, 2e-6);
    test_free(want);
    mica_backend_close(&be);
    weight_free(&rel_k);
    weight_free(&rel_v);
    host_free(&qkv);
    host_free(&y);
}

static void test_relative_attention(void **state)
{
    (void)state;
    check_relative(1, 1, 4, 4, 1);
    check_relative(3, 2, 8, 4, 2); /* shorter than the window */
    check_relative(33, 2, 96, 4, 1);
    check_relative(150, 3, 20, 2, 3);
    check_relative(70, 1, 7, 10, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv1d),
        cmocka_unit_test(test_conv1d_strided_weight),
        cmocka_unit_test(test_functions),
        cmocka_unit_test(test_gates),
        cmocka_unit_test(test_relative_attention),
        cmocka_unit_test(test_wrong_shapes_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
