/* test_conv.c - convolutions and doubling against an f64 reference and the golden vectors.
 *
 * Every weight format, strided views of 5-D weights, channel counts that fill no vector,
 * padding that differs per side, strides, activations and residuals (also in place), with f32 and
 * with bf16 products; the bytes for 1, 2 and 3 threads; no allocation the second time. The
 * slots are called directly, so that shapes outside a model's habits can be driven. */
#include "../backend/backend_testing.h"

#include "backend/cpu/cpu_dnnl.h"

/* Sums of up to 864 products in f32, in whatever order the processor's kernel adds them. */
#define F32_BOUND 3e-6

typedef struct conv_case {
    int y, x, c, o, ky, kx, stride;
    int top, bottom, left, right;
    mica_dtype dtype;
    mica_act act;
    bool bias, residual, in_place, time_tap, scaled;
} conv_case;

typedef struct conv_data {
    mica_tensor x, y, residual;
    mica_weight w, bias;
    double *want;
    int64_t count;
} conv_data;

static mica_cpu_backend *open_cpu(int threads, bool bf16, bool fuse)
{
    mica_backend *be = NULL;
    const mica_backend_options options = {
        .precision = MICA_PRECISION_F32, .threads = threads, .ablate_fusion = !fuse};
    assert_int_equal(mica_cpu_backend_open(&be, &options, NULL), MICA_OK);
    mica_cpu_from(be)->use_bf16 = bf16; /* oneDNN computes the same without the instruction */
    return mica_cpu_from(be);
}

static void close_cpu(mica_cpu_backend *be)
{
    be->base.ops->close(&be->base);
}

/* ------------------------------------------------------------ reference -- */

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

/* The stored value at any strides, which mica_tensor_read_f32 does not look at. */
static double stored(const mica_tensor *w, int64_t at)
{
    mica_tensor one =
        mica_tensor_1d((uint8_t *)w->data + at * mica_dtype_get(w->dtype)->size, w->dtype, 1);
    return (double)mica_tensor_read_f32(&one, 0);
}

static double w_at(const mica_tensor *w, int o, int c, int ky, int kx)
{
    const float *scale = w->scale.data;
    const int64_t at =
        o * w->stride_[0] + c * w->stride_[1] + ky * w->stride_[2] + kx * w->stride_[3];
    return stored(w, at) * (scale ? (double)scale[w->scale.per_row ? o : 0] : 1.0);
}

/* w: [O][KY][KX][C] */
static double sum_at(const conv_case *k, const conv_data *d, const double *w, int y, int x, int o)
{
    double s = k->bias ? weight_at(&d->bias, o) : 0.0;
    for (int i = 0; i < k->ky * k->kx; i++) {
        const int sy = y * k->stride + i / k->kx - k->top, sx = x * k->stride + i % k->kx - k->left;
        if (sy < 0 || sy >= k->y || sx < 0 || sx >= k->x)
            continue;
        const float *pixel = floats(&d->x) + ((int64_t)sy * k->x + sx) * k->c;
        const double *row = w + ((int64_t)o * k->ky * k->kx + i) * k->c;
        for (int c = 0; c < k->c; c++)
            s += (double)pixel[c] * row[c];
    }
    return s;
}

static double *read_weights(const conv_case *k, const mica_tensor *w)
{
    const int area = k->ky * k->kx, count = k->o * area * k->c;
    double *out = test_malloc((size_t)count * sizeof *out);
    for (int i = 0; i < count; i++) {
        const int tap = i / k->c % area;
        out[i] = w_at(w, i / k->c / area, i % k->c, tap / k->kx, tap % k->kx);
    }
    return out;
}

static void reference(const conv_case *k, conv_data *d)
{
    const int64_t *n = d->y.shape_;
    double *w = read_weights(k, &d->w.tensor);
    d->want = test_malloc((size_t)d->count * sizeof *d->want);
    for (int64_t i = 0; i < d->count; i++) {
        const int o = (int)(i % n[2]), x = (int)(i / n[2] % n[1]), y = (int)(i / n[2] / n[1]);
        d->want[i] = act_ref(k->act, sum_at(k, d, w, y, x, o));
        if (k->residual)
            d->want[i] += (double)floats(&d->residual)[i];
    }
    test_free(w);
}

/* ----------------------------------------------------------------- data -- */

/* [O, C, KY, KX], or the last time tap of [O, C, 3, KY, KX]. */
static mica_weight make_weight(const conv_case *k)
{
    const int area = k->ky * k->kx;
    const float scale = 1.0f / sqrtf((float)(k->c * area));
    if (!k->time_tap)
        return host_weight(k->dtype, scale, 4, SHAPE(k->o, k->c, k->ky, k->kx));
    mica_weight w = host_weight(k->dtype, scale, 5, SHAPE(k->o, k->c, 3, k->ky, k->kx));
    mica_tensor view = mica_tensor_4d(w.tensor.data, k->dtype, k->o, k->c, k->ky, k->kx);
    view.stride_[0] = (int64_t)k->c * 3 * area;
    view.stride_[1] = 3 * (int64_t)area;
    view.data = (uint8_t *)view.data + 2 * area * mica_dtype_get(k->dtype)->size;
    w.tensor = view;
    return w;
}

static conv_data make_data(const conv_case *k)
{
    conv_data d = {0};
    const int out_y = (k->y + k->top + k->bottom - k->ky) / k->stride + 1;
    const int out_x = (k->x + k->left + k->right - k->kx) / k->stride + 1;
    d.x = host_random(1.0f, 3, SHAPE(k->y, k->x, k->c));
    d.w = make_weight(k);
    if (k->scaled) {
        float *s = test_malloc((size_t)k->o * sizeof *s);
        for (int i = 0; i < k->o; i++)
            s[i] = 0.5f + 0.01f * (float)random_int(0, 100);
        d.w.tensor.scale = (mica_tensor_scale){.data = s, .dtype = MICA_DTYPE_F32, .per_row = true};
    }
    d.bias = host_weight(MICA_DTYPE_BF16, 1.0f, 1, SHAPE(k->o));
    d.residual = host_random(1.0f, 3, SHAPE(out_y, out_x, k->o));
    d.y = host_tensor(MICA_DTYPE_F32, 3, SHAPE(out_y, out_x, k->o));
    d.count = mica_tensor_count(&d.y);
    reference(k, &d);
    return d;
}

static void free_data(const conv_case *k, conv_data *d)
{
    if (k->time_tap)
        d->w.tensor.data =
            (uint8_t *)d->w.tensor.data - 2 * k->ky * k->kx * mica_dtype_get(k->dtype)->size;
    weight_free(&d->w);
    weight_free(&d->bias);
    host_free(&d->x);
    host_free(&d->y);
    host_free(&d->residual);
    test_free(d->want);
}

static void run(mica_cpu_backend *be, const conv_case *k, conv_data *d)
{
    mica_err err = {0};
    if (k->in_place)
        memcpy(d->y.data, d->residual.data, mica_tensor_size(&d->y));
    const mica_conv2d_args args = {.x_YXC = &d->x,
                                   .w_OCYX = &d->w,
                                   .bias_O = k->bias ? &d->bias : NULL,
                                   .stride = k->stride,
                                   .pad_top = k->top,
                                   .pad_bottom = k->bottom,
                                   .pad_left = k->left,
                                   .pad_right = k->right,
                                   .act = k->act,
                                   .residual_YXO = !k->residual  ? NULL
                                                   : k->in_place ? &d->y
                                                                 : &d->residual,
                                   .y_YXO = &d->y};
    if (mica_cpu_conv2d(&be->base, &args, &err) != MICA_OK)
        fail_msg("conv2d: %s", err.text);
}

static void check(mica_cpu_backend *be, const conv_case *k, double bound)
{
    conv_data d = make_data(k);
    char what[160];
    snprintf(what, sizeof what,
             "%dx%dx%d -> %d, kernel %dx%d stride %d pad %d %d %d %d %s act %d%s%s%s%s%s", k->y,
             k->x, k->c, k->o, k->ky, k->kx, k->stride, k->top, k->bottom, k->left, k->right,
             mica_dtype_get(k->dtype)->name, (int)k->act, k->bias ? " bias" : "",
             k->residual ? " residual" : "", k->in_place ? " in place" : "",
             k->time_tap ? " time tap" : "", k->scaled ? " scaled" : "");
    run(be, k, &d);
    assert_close(what, floats(&d.y), d.want, d.count, bound);
    const uint64_t count = be->base.counters.allocations;
    const uint64_t heap = mica_mem_count();
    run(be, k, &d);
    assert_close(what, floats(&d.y), d.want, d.count, bound);
    assert_int_equal(be->base.counters.allocations, count);
    assert_int_equal(mica_mem_count(), heap);
    mica_cpu_prepared_drop(be, &d.w);
    free_data(k, &d);
}

/* ---------------------------------------------------------------- tests -- */

/* Rows, columns, channels in and out; a window and its step; and the usual one, which keeps a picture's size. */
#define SIZE(rows, columns, in, out) .y = rows, .x = columns, .c = in, .o = out
#define WINDOW(rows, columns, step)  .ky = rows, .kx = columns, .stride = step
#define SAME_3X3                     WINDOW(3, 3, 1), .top = 1, .bottom = 1, .left = 1, .right = 1

static const conv_case fixed_cases[] = {
    {SIZE(11, 13, 96, 96), SAME_3X3, .dtype = MICA_DTYPE_BF16, .bias = true, .residual = true,
     .in_place = true, .time_tap = true},
    {SIZE(40, 21, 16, 3), SAME_3X3, .dtype = MICA_DTYPE_F32, .bias = true, .time_tap = true},
    {SIZE(37, 10, 3, 96), SAME_3X3, .dtype = MICA_DTYPE_F16, .act = MICA_ACT_SILU, .bias = true},
    {SIZE(24, 18, 16, 24), WINDOW(3, 3, 2), .bottom = 1, .right = 1, .dtype = MICA_DTYPE_BF16,
     .bias = true},
    {SIZE(19, 9, 48, 40), WINDOW(1, 1, 1), .dtype = MICA_DTYPE_BF16, .act = MICA_ACT_SILU,
     .residual = true, .in_place = true},
    {SIZE(35, 70, 8, 16), WINDOW(3, 3, 1), .bottom = 1, .left = 1, .right = 1,
     .dtype = MICA_DTYPE_F8_E4M3, .scaled = true, .bias = true},
    {SIZE(5, 5, 4, 4), WINDOW(7, 7, 1), .top = 3, .bottom = 3, .left = 3, .right = 3,
     .dtype = MICA_DTYPE_F64, .act = MICA_ACT_GELU_ERF},
};

static conv_case random_case(void)
{
    static const mica_dtype dtypes[] = {MICA_DTYPE_F32, MICA_DTYPE_BF16, MICA_DTYPE_F16,
                                        MICA_DTYPE_F8_E4M3, MICA_DTYPE_F8_E5M2};
    static const int channels[] = {1, 3, 4, 8, 16, 17, 31, 32, 96};
    conv_case k = {.y = random_int(3, 40), .x = random_int(3, 30)};
    k.c = channels[random_int(0, 8)];
    k.o = channels[random_int(0, 8)];
    k.ky = random_int(1, 3);
    k.kx = random_int(1, 3);
    k.stride = random_int(1, 2);
    k.top = random_int(0, k.ky - 1);
    k.bottom = random_int(0, k.ky - 1);
    k.left = random_int(0, k.kx - 1);
    k.right = random_int(0, k.kx - 1);
    k.dtype = dtypes[random_int(0, 4)];
    k.act = (mica_act)random_int(0, 3);
    k.bias = random_int(0, 1);
    k.residual = random_int(0, 1);
    k.in_place = k.residual && random_int(0, 1);
    k.time_tap = random_int(0, 1);
    k.scaled = random_int(0, 1);
    return k;
}

static void check_all(mica_cpu_backend *be, double bound)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(fixed_cases); i++)
        check(be, &fixed_cases[i], bound);
    for (int i = 0; i < 24; i++) {
        const conv_case k = random_case();
        check(be, &k, bound);
    }
}

static void test_f32(void **state)
{
    (void)state;
    mica_cpu_backend *be = open_cpu(2, false, true);
    check_all(be, F32_BOUND);
    close_cpu(be);
}

/* oneDNN emulates bf16 products from AVX-512 on; below that the backend never asks for them. */
static bool has_bf16(mica_cpu_backend *be)
{
    mica_dnnl_key key;
    mica_dnnl_op *op = NULL;
    memset(&key, 0, sizeof key);
    key.kind = MICA_DNNL_CONV2D;
    key.packed = 1;
    key.src_type = key.weight_type = MICA_DNNL_BF16;
    key.y = key.x = key.out_y = key.out_x = key.ky = key.kx = key.stride = 1;
    key.c = key.o = 16;
    return mica_dnnl_get(be->dnnl, &key, &op, NULL) == MICA_OK;
}

static void test_bf16(void **state)
{
    (void)state;
    mica_cpu_backend *be = open_cpu(2, true, true);
    if (!has_bf16(be)) {
        close_cpu(be);
        skip();
    }
    check_all(be, 6e-3); /* both factors are rounded to 8 bits */
    close_cpu(be);
}

static void test_unfused(void **state)
{
    (void)state;
    mica_cpu_backend *be = open_cpu(2, false, false);
    check_all(be, F32_BOUND);
    close_cpu(be);
}

static void test_threads(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * (int)MICA_ARRAY_LEN(fixed_cases); i++) {
        const conv_case *k = &fixed_cases[i / 2];
        conv_data d = make_data(k);
        float *first = test_malloc(mica_tensor_size(&d.y));
        for (int threads = 1; threads <= 3; threads++) {
            mica_cpu_backend *be = open_cpu(threads, i % 2 == 1, true);
            be->use_bf16 = be->use_bf16 && has_bf16(be);
            run(be, k, &d);
            if (threads == 1)
                memcpy(first, d.y.data, mica_tensor_size(&d.y));
            assert_memory_equal(first, d.y.data, mica_tensor_size(&d.y));
            close_cpu(be);
        }
        test_free(first);
        free_data(k, &d);
    }
}

/* A picture of another size reuses the packed weights when the layout is the same. */
static void test_shared_weights(void **state)
{
    (void)state;
    mica_cpu_backend *a = open_cpu(1, false, true), *b = open_cpu(2, false, true);
    conv_case k = fixed_cases[0];
    conv_data d = make_data(&k);
    run(a, &k, &d);
    const void *prepared = d.w.prepared;
    assert_non_null(prepared);
    run(b, &k, &d);
    assert_ptr_equal(d.w.prepared, prepared);
    close_cpu(a);
    assert_ptr_equal(d.w.prepared, prepared);
    run(b, &k, &d);
    assert_close("after the first user closed", floats(&d.y), d.want, d.count, 1e-6);
    close_cpu(b);
    assert_null(d.w.prepared);
    free_data(&k, &d);
}

static void test_rejects(void **state)
{
    (void)state;
    mica_cpu_backend *be = open_cpu(1, false, true);
    conv_case k = fixed_cases[3];
    conv_data d = make_data(&k);
    mica_err err = {0};
    mica_conv2d_args args = {
        .x_YXC = &d.x, .w_OCYX = &d.w, .stride = 2, .pad_bottom = 1, .pad_right = 1, .y_YXO = &d.y};
    d.w.tensor.dtype = MICA_DTYPE_I16;
    assert_int_equal(mica_cpu_conv2d(&be->base, &args, &err), MICA_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "needs floats"));
    d.w.tensor.dtype = MICA_DTYPE_BF16;
    d.x.stride_[0]++;
    assert_int_equal(mica_cpu_conv2d(&be->base, &args, &err), MICA_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "contiguous"));
    assert_int_equal(mica_cpu_upsample_nearest2(&be->base, &d.x, &d.y, &err), MICA_E_UNSUPPORTED);
    free_data(&k, &d);
    close_cpu(be);
}

/* Through the public operation: counters, and shapes that do not belong together. */
static void test_public(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    conv_case k = fixed_cases[3];
    conv_data d = make_data(&k);
    mica_conv2d_args args = {.x_YXC = &d.x,
                             .w_OCYX = &d.w,
                             .bias_O = &d.bias,
                             .stride = 2,
                             .pad_bottom = 1,
                             .pad_right = 1,
                             .y_YXO = &d.y};
    mica_conv2d(be, &args);
    assert_fine(be);
    assert_close("public", floats(&d.y), d.want, d.count, F32_BOUND);
    const mica_backend_counters c = mica_backend_get_counters(be);
    assert_true(c.conv_flops == 2.0 * (double)d.count * 16 * 9);
    assert_true(c.conv_seconds > 0.0);
    args.pad_bottom = 3;
    mica_conv2d(be, &args);
    assert_true(mica_backend_failed(be));
    mica_backend_close(&be);
    assert_null(d.w.prepared);
    free_data(&k, &d);
}

/* Every refused allocation of a first use is reported and leaves nothing behind. */
static void test_no_memory(void **state)
{
    (void)state;
    conv_case k = fixed_cases[0];
    conv_data d = make_data(&k);
    const mica_conv2d_args args = {.x_YXC = &d.x,
                                   .w_OCYX = &d.w,
                                   .bias_O = &d.bias,
                                   .stride = 1,
                                   .pad_top = 1,
                                   .pad_bottom = 1,
                                   .pad_left = 1,
                                   .pad_right = 1,
                                   .residual_YXO = &d.residual,
                                   .y_YXO = &d.y};
    int failures = 0;
    for (uint64_t n = 1;; n++, failures++) {
        mica_cpu_backend *be = open_cpu(2, false, true);
        mica_err err = {0};
        mica_mem_fail_at(n);
        const mica_status st = mica_cpu_conv2d(&be->base, &args, &err);
        mica_mem_fail_at(0);
        close_cpu(be);
        assert_null(d.w.prepared);
        if (st == MICA_OK)
            break;
        assert_int_equal(st, MICA_E_NOMEM);
        assert_true(strlen(err.text) > 0);
    }
    assert_true(failures >= 6);
    assert_close("after refusals", floats(&d.y), d.want, d.count, 1e-6);
    free_data(&k, &d);
}

/* --------------------------------------------------------------- golden -- */

typedef struct golden_case {
    const char *name;
    int stride, top, bottom, left, right;
} golden_case;

/* Picture n of [N, C, Y, X] as [Y, X, C]. */
static mica_tensor channels_last(const mica_tensor *t, int64_t n)
{
    const int64_t c = t->shape_[1], y = t->shape_[2], x = t->shape_[3];
    mica_tensor out = host_tensor(MICA_DTYPE_F32, 3, SHAPE(y, x, c));
    for (int64_t i = 0; i < c * y * x; i++)
        floats(&out)[i % (y * x) * c + i / (y * x)] = floats(t)[n * c * y * x + i];
    return out;
}

static void check_golden(mica_cpu_backend *be, const golden *g, const golden_case *k)
{
    mica_tensor x, want, bias = {0};
    mica_weight w = {.name = k->name}, b = {.name = k->name};
    mica_err err = {0};
    assert_true(golden_find(g, k->name, "x", &x));
    assert_true(golden_find(g, k->name, "out", &want));
    const bool conv = golden_find(g, k->name, "weight", &w.tensor);
    assert_int_equal(golden_find(g, k->name, "bias", &bias), conv);
    b.tensor = bias;
    for (int64_t n = 0; n < x.shape_[0]; n++) {
        mica_tensor in = channels_last(&x, n), expected = channels_last(&want, n);
        mica_tensor out = host_tensor(MICA_DTYPE_F32, 3, expected.shape_);
        const mica_conv2d_args args = {.x_YXC = &in,
                                       .w_OCYX = &w,
                                       .bias_O = &b,
                                       .stride = k->stride,
                                       .pad_top = k->top,
                                       .pad_bottom = k->bottom,
                                       .pad_left = k->left,
                                       .pad_right = k->right,
                                       .y_YXO = &out};
        const mica_status st = conv ? mica_cpu_conv2d(&be->base, &args, &err)
                                    : mica_cpu_upsample_nearest2(&be->base, &in, &out, &err);
        if (st != MICA_OK)
            fail_msg("%s: %s", k->name, err.text);
        double *doubles = as_doubles(&expected);
        assert_close(k->name, floats(&out), doubles, mica_tensor_count(&out), 1e-6);
        test_free(doubles);
        host_free(&in);
        host_free(&out);
        host_free(&expected);
    }
    if (conv) {
        mica_cpu_prepared_drop(be, &w);
        host_free(&w.tensor);
        host_free(&b.tensor);
    }
    host_free(&x);
    host_free(&want);
}

static void test_golden(void **state)
{
    static const golden_case cases[] = {
        {"conv2d_1x1", 1, 0, 0, 0, 0},
        {"conv2d_3x3", 1, 1, 1, 1, 1},
        {"conv2d_7x7", 1, 3, 3, 3, 3},
        {"conv2d_stride2", 2, 1, 1, 1, 1},
        {"downsample_asymmetric", 2, 0, 1, 0, 1},
        {"upsample_nearest2", 0, 0, 0, 0, 0},
    };
    (void)state;
    golden g = golden_open("convolutions.safetensors");
    mica_cpu_backend *be = open_cpu(2, false, true);
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++)
        check_golden(be, &g, &cases[i]);
    close_cpu(be);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_unfused),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_shared_weights),
        cmocka_unit_test(test_rejects),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_public),
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
