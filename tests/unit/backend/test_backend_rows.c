/* test_backend_rows.c - norms, rotary embedding, pointwise operations, guidance and sums
 * against f64 references; contiguous and strided, in place, fused and unfused, 1 to 3 threads. */
#include "backend_testing.h"

static double silu_ref(double v)
{
    return v / (1.0 + exp(-v));
}

static mica_backend *open_with(bool ablate, int threads)
{
    const mica_backend_options options = {
        .precision = MICA_PRECISION_F32, .threads = threads, .ablate_fusion = ablate};
    mica_backend *be = NULL;
    assert_int_equal(mica_backend_open(&be, &options, NULL), MICA_OK);
    return be;
}

/* [rows, n] view of a wider random matrix. */
static mica_tensor strided(int rows, int n, int pad)
{
    mica_tensor t = host_random(1.0f, 2, SHAPE(rows, n + pad));
    t.shape_[1] = n;
    return t;
}

static float at(const mica_tensor *t, int64_t row, int64_t i)
{
    return floats(t)[row * t->stride_[0] + i];
}

static void collect(const mica_tensor *t, float *out)
{
    for (int64_t r = 0; r < t->shape_[0]; r++)
        for (int64_t i = 0; i < t->shape_[1]; i++)
            out[r * t->shape_[1] + i] = at(t, r, i);
}

typedef enum norm_kind { LAYER, LAYER_PLAIN, RMS, RMS_SCALED, RMS_GATED, L2, L2_SILU } norm_kind;

static void norm_reference(norm_kind kind, const mica_tensor *x, int64_t row, const mica_weight *w,
                           const mica_tensor *shift, double eps, double *out)
{
    const int64_t n = x->shape_[1];
    double mean = 0.0, square = 0.0, var = 0.0;
    for (int64_t i = 0; i < n; i++) {
        mean += (double)at(x, row, i) / (double)n;
        square += (double)at(x, row, i) * (double)at(x, row, i);
    }
    for (int64_t i = 0; i < n; i++)
        var += pow((double)at(x, row, i) - mean, 2) / (double)n;
    for (int64_t i = 0; i < n; i++) {
        const double v = (double)at(x, row, i), g = weight_at(w, i);
        double y = 0.0;
        if (kind == LAYER || kind == LAYER_PLAIN)
            y = (v - mean) / sqrt(var + eps);
        if (kind == LAYER)
            y = y * (1.0 + g) + (double)floats(shift)[i];
        if (kind == RMS)
            y = v / sqrt(square / (double)n + eps) * g;
        if (kind == RMS_SCALED || kind == RMS_GATED)
            y = v / sqrt(square / (double)n + eps) * g *
                ((kind == RMS_SCALED) + (double)floats(shift)[i]);
        if (kind == L2 || kind == L2_SILU)
            y = v / fmax(sqrt(square), 1e-12) * sqrt((double)n) * g;
        if (kind == RMS_GATED)
            y += out[row * n + i];
        out[row * n + i] = kind == L2_SILU ? silu_ref(y) : y;
    }
}

static void check_norm(mica_backend *be, norm_kind kind, int rows, int n, int pad, bool in_place)
{
    mica_tensor x = strided(rows, n, pad), y = strided(rows, n, pad);
    mica_weight w =
        host_weight(kind == LAYER ? MICA_DTYPE_F32 : MICA_DTYPE_BF16, 1.0f, 1, SHAPE(n));
    mica_tensor shift = host_random(1.0f, 1, SHAPE(n));
    double *want = test_malloc((size_t)(rows * n) * sizeof *want);
    float *got = test_malloc((size_t)(rows * n) * sizeof *got);
    mica_tensor *out = in_place && kind != RMS_GATED ? &x : &y;
    collect(out, got);
    for (int64_t i = 0; i < (int64_t)rows * n; i++)
        want[i] = (double)got[i]; /* what a gated norm adds to */
    for (int r = 0; r < rows; r++)
        norm_reference(kind, &x, r, &w, &shift, 1e-6, want);
    if (kind == LAYER)
        mica_layer_norm_modulate(be, &x, &w.tensor, &shift, 1e-6f, out);
    else if (kind == LAYER_PLAIN)
        mica_layer_norm_modulate(be, &x, NULL, NULL, 1e-6f, out);
    else if (kind == RMS)
        mica_rms_norm(be, &x, &w, 1e-6f, out);
    else if (kind == RMS_SCALED)
        mica_rms_norm_modulate(be, &x, &w, &shift, 1e-6f, out);
    else if (kind == RMS_GATED)
        mica_rms_norm_gated(be, &x, &w, &shift, 1e-6f, out);
    else
        mica_l2_norm_channels(be, &x, &w, kind == L2 ? MICA_ACT_NONE : MICA_ACT_SILU, out);
    assert_fine(be);
    collect(out, got);
    assert_close("norm", got, want, (int64_t)rows * n, 4e-6);
    test_free(want);
    test_free(got);
    weight_free(&w);
    host_free(&x);
    host_free(&y);
    host_free(&shift);
}

static void test_norms(void **state)
{
    (void)state;
    for (int ablate = 0; ablate < 2; ablate++)
        for (int threads = 1; threads <= 3; threads++) {
            mica_backend *be = open_with(ablate, threads);
            for (int kind = LAYER; kind <= L2_SILU; kind++) {
                check_norm(be, (norm_kind)kind, 1, 1 + kind, 0, false);
                check_norm(be, (norm_kind)kind, 37, 64, 0, true);
                check_norm(be, (norm_kind)kind, 300, 130, 3, threads == 2);
                check_norm(be, (norm_kind)kind, 3, 20000, 1, false);
            }
            mica_backend_close(&be);
        }
}

/* Without a weight, without a vector, without either. */
static void test_rms_norm_parts(void **state)
{
    (void)state;
    enum { ROWS = 5, N = 70 };
    for (int which = 0; which < 16; which++) {
        mica_backend *be = open_with(which & 8, 2);
        const bool gated = which & 4;
        mica_tensor x = strided(ROWS, N, 2), y = strided(ROWS, N, 0);
        mica_tensor v = host_random(1.0f, 1, SHAPE(N));
        mica_weight w = host_weight(MICA_DTYPE_F16, 1.0f, 1, SHAPE(N));
        double want[ROWS * N];
        for (int r = 0; r < ROWS; r++) {
            double square = 0.0;
            for (int i = 0; i < N; i++)
                square += (double)at(&x, r, i) * (double)at(&x, r, i) / N;
            for (int i = 0; i < N; i++)
                want[r * N + i] = (gated ? (double)at(&y, r, i) : 0.0) +
                                  (double)at(&x, r, i) / sqrt(square + 1e-5) *
                                      (which & 1 ? weight_at(&w, i) : 1.0) *
                                      (which & 2 ? !gated + (double)floats(&v)[i] : 1.0);
        }
        mica_weight *weight = which & 1 ? &w : NULL;
        const mica_tensor *vector = which & 2 ? &v : NULL;
        if (gated)
            mica_rms_norm_gated(be, &x, weight, vector, 1e-5f, &y);
        else
            mica_rms_norm_modulate(be, &x, weight, vector, 1e-5f, &y);
        assert_fine(be);
        assert_close("rms", floats(&y), want, ROWS * N, 4e-6);
        weight_free(&w);
        host_free(&x);
        host_free(&y);
        host_free(&v);
        mica_backend_close(&be);
    }
}

static void test_limit_norm(void **state)
{
    (void)state;
    enum { ROWS = 4, N = 20001 };
    static const float FACTORS[ROWS] = {0.5f, 0.999f, 1.5f, 40.0f};
    mica_backend *be = open_with(false, 2);
    mica_tensor reference = strided(ROWS, N, 3), y = strided(ROWS, N, 0);
    double *want = test_malloc(ROWS * N * sizeof *want);
    for (int r = 0; r < ROWS; r++) {
        double have = 0.0, most = 0.0;
        for (int i = 0; i < N; i++) {
            have += pow((double)at(&y, r, i), 2);
            most += pow((double)at(&reference, r, i), 2);
        }
        /* The row becomes FACTORS times as long as 0.7 of the reference's. */
        const float f = (float)(FACTORS[r] * 0.7 * sqrt(most / have));
        for (int i = 0; i < N; i++) {
            floats(&y)[r * N + i] *= f;
            want[r * N + i] = (double)at(&y, r, i) / MICA_MAX(1.0, (double)FACTORS[r]);
        }
    }
    mica_limit_norm(be, &reference, 0.7f, &y);
    assert_fine(be);
    assert_close("limit_norm", floats(&y), want, ROWS * N, 2e-6);
    test_free(want);
    host_free(&reference);
    host_free(&y);
    mica_backend_close(&be);
}

static void test_norm_of_four_dimensions(void **state)
{
    (void)state;
    mica_backend *be = open_with(false, 2);
    mica_tensor x = host_random(1.0f, 3, SHAPE(4, 6, 10)), view = x;
    view.shape_[1] = 5; /* rows no longer lie evenly */
    mica_tensor y = host_tensor(MICA_DTYPE_F32, 3, SHAPE(4, 5, 10));
    mica_rms_norm(be, &view, NULL, 1e-6f, &y);
    assert_fine(be);
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < 5; b++) {
            double square = 0.0;
            const float *row = floats(&x) + (a * 6 + b) * 10;
            for (int i = 0; i < 10; i++)
                square += (double)row[i] * (double)row[i];
            for (int i = 0; i < 10; i++)
                assert_true(fabs((double)floats(&y)[(a * 5 + b) * 10 + i] -
                                 (double)row[i] / sqrt(square / 10 + 1e-6)) < 1e-5);
        }
    host_free(&x);
    host_free(&y);
    mica_backend_close(&be);
}

static void rope_reference(const mica_qk_norm_rope_args *a, int64_t token, int64_t head,
                           double *out)
{
    const mica_tensor *x = a->x_LHK;
    const int64_t K = x->shape_[2], half = K / 2;
    const float *row = floats(x) + token * x->stride_[0] + head * x->stride_[1];
    double square = 0.0, normed[512];
    for (int64_t i = 0; i < K; i++)
        square += (double)row[i] * (double)row[i];
    for (int64_t i = 0; i < K; i++)
        normed[i] = a->norm_K ? (double)row[i] / sqrt(square / (double)K + (double)a->eps) *
                                    weight_at(a->norm_K, i)
                              : (double)row[i];
    for (int64_t i = 0; i < half; i++) {
        const bool pairs = a->layout == MICA_ROPE_INTERLEAVED;
        const int64_t p = pairs ? 2 * i : i, q = pairs ? 2 * i + 1 : i + half;
        const double c = a->cos_Lk ? (double)at(a->cos_Lk, token, i) : 1.0;
        const double s = a->sin_Lk ? (double)at(a->sin_Lk, token, i) : 0.0;
        out[p] = normed[p] * c - normed[q] * s;
        out[q] = normed[q] * c + normed[p] * s;
    }
}

/* Keys beside queries: twice the same numbers, as the two tensors of one call. */
static void check_rope_pair(mica_backend *be, const mica_qk_norm_rope_args *args,
                            const mica_tensor *x, const double *want)
{
    mica_tensor q = host_random(1.0f, 3, x->shape_), k = host_random(1.0f, 3, x->shape_);
    const int64_t count = mica_tensor_count(x);
    mica_qk_norm_rope_args both = *args;
    memcpy(q.data, x->data, (size_t)count * sizeof(float));
    memcpy(k.data, x->data, (size_t)count * sizeof(float));
    both.x_LHK = &q;
    both.also_LHK = &k;
    both.also_norm_K = args->norm_K;
    mica_qk_norm_rope(be, &both);
    assert_fine(be);
    assert_close("qk_norm_rope of queries", floats(&q), want, count, 3e-6);
    assert_close("qk_norm_rope of keys", floats(&k), want, count, 3e-6);
    host_free(&q);
    host_free(&k);
}

static void check_rope(mica_backend *be, int L, int H, int K, mica_rope_layout layout, bool norm,
                       bool rotate)
{
    mica_tensor x = host_random(1.0f, 3, SHAPE(L, H, K));
    mica_tensor cos = host_random(1.0f, 2, SHAPE(L, K / 2)),
                sin = host_random(1.0f, 2, SHAPE(L, K / 2));
    mica_weight w = host_weight(MICA_DTYPE_BF16, 1.0f, 1, SHAPE(K));
    const mica_qk_norm_rope_args args = {.x_LHK = &x,
                                         .norm_K = norm ? &w : NULL,
                                         .eps = 1e-6f,
                                         .cos_Lk = rotate ? &cos : NULL,
                                         .sin_Lk = rotate ? &sin : NULL,
                                         .layout = layout};
    double *want = test_malloc((size_t)(L * H * K) * sizeof *want);
    for (int l = 0; l < L; l++)
        for (int h = 0; h < H; h++)
            rope_reference(&args, l, h, want + (l * H + h) * K);
    check_rope_pair(be, &args, &x, want);
    mica_qk_norm_rope(be, &args);
    assert_fine(be);
    assert_close("qk_norm_rope", floats(&x), want, (int64_t)L * H * K, 3e-6);
    test_free(want);
    weight_free(&w);
    host_free(&x);
    host_free(&cos);
    host_free(&sin);
}

static void test_qk_norm_rope(void **state)
{
    (void)state;
    for (int ablate = 0; ablate < 2; ablate++) {
        mica_backend *be = open_with(ablate, 2);
        for (int layout = 0; layout < 2; layout++)
            for (int what = 1; what < 4; what++) {
                check_rope(be, 70, 24, 128, (mica_rope_layout)layout, what & 1, what & 2);
                check_rope(be, 1, 1, 2, (mica_rope_layout)layout, what & 1, what & 2);
                check_rope(be, 13, 3, 40, (mica_rope_layout)layout, what & 1, what & 2);
            }
        mica_backend_close(&be);
    }
}

static void check_pointwise(mica_backend *be, int rows, int n, int pad)
{
    mica_tensor a = strided(rows, n, pad), b = strided(rows, n, pad), y = strided(rows, n, 2 * pad);
    double *want = test_malloc((size_t)(rows * n) * sizeof *want);
    float *got = test_malloc((size_t)(rows * n) * sizeof *got);
    for (int op = 0; op < 6; op++) {
        for (int64_t i = 0; i < (int64_t)rows * n; i++) {
            const double va = (double)at(&a, i / n, i % n), vb = (double)at(&b, i / n, i % n);
            want[i] = op == 0   ? silu_ref(va)
                      : op == 1 ? va + vb
                      : op == 4 ? va * vb
                      : op == 5 ? tanh(va)
                                : silu_ref(va) * vb;
        }
        if (op == 0)
            mica_silu(be, &a, &y);
        if (op == 1)
            mica_add(be, &a, &b, &y);
        if (op == 2)
            mica_swiglu(be, &a, &b, &y);
        if (op == 3)
            mica_swiglu(be, &a, &b, &b);
        if (op == 4)
            mica_mul(be, &a, &b, &y);
        if (op == 5)
            mica_tanh(be, &a, &y);
        assert_fine(be);
        collect(op == 3 ? &b : &y, got);
        assert_close("pointwise", got, want, (int64_t)rows * n, 2e-6);
    }
    test_free(want);
    test_free(got);
    host_free(&a);
    host_free(&b);
    host_free(&y);
}

static void test_pointwise(void **state)
{
    (void)state;
    for (int ablate = 0; ablate < 2; ablate++) {
        mica_backend *be = open_with(ablate, 2);
        check_pointwise(be, 1, 1, 0);
        check_pointwise(be, 100, 777, 0);
        check_pointwise(be, 60, 500, 5);
        mica_backend_close(&be);
    }
}

static void test_embed_rows(void **state)
{
    (void)state;
    mica_backend *be = open_with(false, 2);
    const int32_t ids[] = {6, 0, 3, 3, 5};
    const mica_dtype types[] = {MICA_DTYPE_BF16, MICA_DTYPE_F32, MICA_DTYPE_F16,
                                MICA_DTYPE_F8_E4M3};
    for (size_t t = 0; t < MICA_ARRAY_LEN(types); t++) {
        mica_weight w = host_weight(types[t], 1.0f, 2, SHAPE(7, 33));
        mica_tensor y = host_tensor(MICA_DTYPE_F32, 2, SHAPE(5, 33));
        if (t == 3) {
            float *s = test_malloc(sizeof *s);
            *s = 0.5f;
            w.tensor.scale =
                (mica_tensor_scale){.data = s, .dtype = MICA_DTYPE_F32, .per_row = false};
        }
        mica_embed_rows(be, &w, ids, 5, &y);
        assert_fine(be);
        for (int l = 0; l < 5; l++)
            for (int i = 0; i < 33; i++)
                assert_true((double)floats(&y)[l * 33 + i] == weight_at(&w, ids[l] * 33 + i));
        const int32_t bad = 7;
        mica_tensor one = mica_tensor_rows(&y, 0, 1);
        mica_embed_rows(be, &w, &bad, 1, &one);
        assert_int_equal(mica_backend_check(be, NULL), MICA_E_INTERNAL);
        weight_free(&w);
        host_free(&y);
    }
    mica_backend_close(&be);
}

static void test_cfg_combine(void **state)
{
    (void)state;
    mica_backend *be = open_with(false, 3);
    for (int renorm = 0; renorm < 2; renorm++) {
        mica_tensor c = strided(301, 64, 0), u = strided(301, 64, 1);
        double *want = test_malloc(301 * 64 * sizeof *want);
        float *got = test_malloc(301 * 64 * sizeof *got);
        for (int r = 0; r < 301; r++) {
            double cond = 0.0, comb = 0.0;
            for (int i = 0; i < 64; i++) {
                const double vc = (double)at(&c, r, i), vu = (double)at(&u, r, i);
                want[r * 64 + i] = vu + 4.0 * (vc - vu);
                cond += vc * vc;
                comb += want[r * 64 + i] * want[r * 64 + i];
            }
            for (int i = 0; renorm && i < 64; i++)
                want[r * 64 + i] *= sqrt(cond / comb);
        }
        mica_cfg_combine(be, &c, &u, 4.0f, renorm, &c);
        assert_fine(be);
        collect(&c, got);
        assert_close("cfg", got, want, 301 * 64, 3e-6);
        test_free(want);
        test_free(got);
        host_free(&c);
        host_free(&u);
    }
    mica_backend_close(&be);
}

static void test_linear_combination(void **state)
{
    (void)state;
    enum { N = 40001 };
    mica_backend *be = open_with(false, 2);
    mica_tensor x[6];
    const mica_tensor *list[6];
    const float coef[6] = {0.5f, -2.0f, 3.0f, 0.25f, 1.0f, -1.5f};
    for (int i = 0; i < 6; i++) {
        x[i] = host_random(1.0f, 1, SHAPE(N));
        list[i] = &x[i];
    }
    double *want = test_malloc(N * sizeof *want);
    for (int n = 1; n <= 6; n++) {
        for (int k = 0; k < N; k++) {
            want[k] = 0.0;
            for (int i = 0; i < n; i++)
                want[k] += (double)coef[i] * (double)floats(&x[i])[k];
        }
        mica_linear_combination(be, n, coef, list, &x[0]);
        assert_fine(be);
        assert_close("combination", floats(&x[0]), want, N, 1e-6);
    }
    mica_linear_combination(be, 7, coef, list, &x[0]);
    assert_int_equal(mica_backend_check(be, NULL), MICA_E_INTERNAL);
    for (int i = 0; i < 6; i++)
        host_free(&x[i]);
    test_free(want);
    mica_backend_close(&be);
}

static void test_all_finite(void **state)
{
    (void)state;
    mica_backend *be = open_with(false, 2);
    mica_tensor x = host_random(1.0f, 2, SHAPE(300, 200)), view = x;
    assert_true(mica_all_finite(be, &x));
    view.shape_[1] = 150; /* a view that leaves the bad element out */
    const int64_t places[] = {0, 299 * 200 + 199, 170 * 200 + 160};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        const float old = floats(&x)[places[i]];
        floats(&x)[places[i]] = bad[i];
        assert_false(mica_all_finite(be, &x));
        assert_true(mica_all_finite(be, &view) == (i != 0));
        floats(&x)[places[i]] = old;
    }
    host_free(&x);
    mica_backend_close(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_norm_of_four_dimensions),
        cmocka_unit_test(test_rms_norm_parts),
        cmocka_unit_test(test_limit_norm),
        cmocka_unit_test(test_qk_norm_rope),
        cmocka_unit_test(test_pointwise),
        cmocka_unit_test(test_embed_rows),
        cmocka_unit_test(test_cfg_combine),
        cmocka_unit_test(test_linear_combination),
        cmocka_unit_test(test_all_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
