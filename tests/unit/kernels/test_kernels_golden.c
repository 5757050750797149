/* test_kernels_golden.c - kernels against the golden primitives, on every level.
 *
 * checkkern compares with references written here; these expected values were computed
 * elsewhere, in float64, from the formulas of the reference implementations. Bound: relative
 * L2 1e-5 per tensor, and 1e-3 for the row with the large offset (the manifest says why). */
#include "format/weights.h"
#include "kernels/kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static mica_weights *open_file(const char *name)
{
    char path[1024];
    mica_err err = {0};
    mica_weights *w = NULL;
    snprintf(path, sizeof(path), "%s/primitives/%s.safetensors", MICA_TEST_DATA, name);
    if (mica_weights_open(&w, path, &err) != MICA_OK)
        fail_msg("%s", err.text);
    return w;
}

static const mica_tensor *tensor(const mica_weights *w, const char *kase, const char *name)
{
    char full[128];
    snprintf(full, sizeof(full), "%s.%s", kase, name);
    const mica_tensor *t = mica_weights_find(w, full);
    if (!t)
        fail_msg("no tensor %s", full);
    return t;
}
static const float *floats(const mica_weights *w, const char *kase, const char *name)
{
    return tensor(w, kase, name)->data;
}

static float *result_of(int64_t count)
{
    float *y = malloc((size_t)count * sizeof(float));
    assert_non_null(y);
    return y;
}

static void assert_close(const char *kase, const char *level, const float *got, const float *want,
                         int64_t n, double bound)
{
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += (double)want[i] * want[i];
    }
    /* Written so that NaN fails. */
    if (!(sqrt(difference) <= bound * sqrt(size) + 1e-30))
        fail_msg("%s on %s: relative L2 %.3g > %.3g", kase, level, sqrt(difference / size), bound);
}

typedef void level_test(const mica_kernels *k, const mica_weights *w);

static void on_every_level(const char *file, level_test *test)
{
    const mica_kernels *tables[MICA_KERNELS_MAX];
    const int count = mica_kernels_list(tables);
    mica_weights *w = open_file(file);
    for (int i = 0; i < count; i++)
        test(tables[i], w);
    mica_weights_close(&w);
}

/* ----------------------------------------------------------------- norms -- */

static void rms_case(const mica_kernels *k, const mica_weights *w, const char *kase, float eps)
{
    const mica_tensor *x = tensor(w, kase, "x");
    const int64_t count = mica_tensor_count(x);
    const int n = (int)x->shape_[x->ndim - 1];
    float *y = result_of(count);
    k->rms_norm((int)(count / n), n, x->data, n, floats(w, kase, "weight"), eps, y, n);
    assert_close(kase, k->name, y, floats(w, kase, "out"), count, 1e-5);
    free(y);
}

/* scale and shift belong to an item of the batch: [2, rows, n] with [2, 1, n]. */
static void layer_case(const mica_kernels *k, const mica_weights *w, const char *kase, double bound)
{
    const mica_tensor *x = tensor(w, kase, "x");
    const int rows = (int)x->shape_[1], n = (int)x->shape_[2];
    const int64_t count = mica_tensor_count(x);
    float *y = result_of(count);
    for (int64_t b = 0; b < x->shape_[0]; b++)
        k->layer_norm_modulate(rows, n, (const float *)x->data + b * rows * n, n,
                               floats(w, kase, "scale") + b * n, floats(w, kase, "shift") + b * n,
                               1e-6f, y + b * rows * n, n);
    assert_close(kase, k->name, y, floats(w, kase, "out"), count, bound);
    free(y);
}

/* The file has channels second; the kernel takes them last. */
static void channels_case(const mica_kernels *k, const mica_weights *w)
{
    const mica_tensor *x = tensor(w, "rms_channels", "x");
    const int c = (int)x->shape_[1], pixels = (int)(mica_tensor_count(x) / c);
    float *last = result_of(mica_tensor_count(x)), *y = result_of(mica_tensor_count(x));
    assert_int_equal(x->shape_[0], 1);
    k->transpose(c, pixels, x->data, pixels, last, c);
    k->l2_norm_act(pixels, c, last, c, floats(w, "rms_channels", "gamma"), MICA_KERNEL_ACT_NONE,
                   last, c);
    k->transpose(pixels, c, last, c, y, pixels);
    assert_close("rms_channels", k->name, y, floats(w, "rms_channels", "out"), mica_tensor_count(x),
                 1e-5);
    free(last);
    free(y);
}

static void norms_on(const mica_kernels *k, const mica_weights *w)
{
    rms_case(k, w, "rms_basic", 1e-6f);
    rms_case(k, w, "rms_eps5", 1e-5f);
    rms_case(k, w, "rms_large", 1e-6f);
    rms_case(k, w, "rms_tiny", 1e-6f);
    rms_case(k, w, "rms_zero", 1e-6f);
    rms_case(k, w, "rms_outlier", 1e-6f);
    layer_case(k, w, "ln_modulate", 1e-5);
    layer_case(k, w, "ln_modulate_5e7", 1e-5);
    layer_case(k, w, "ln_modulate_offset", 1e-3);
    layer_case(k, w, "ln_modulate_outliers_5e7", 1e-5);
    layer_case(k, w, "ln_constant_rows", 1e-5);
    channels_case(k, w);
}
static void test_norms(void **state)
{
    (void)state;
    on_every_level("norms", norms_on);
}

/* ----------------------------------------------------------- activations -- */

static void map_case(const mica_kernels *k, const mica_weights *w, const char *kase,
                     mica_kernel_silu *run)
{
    const mica_tensor *x = tensor(w, kase, "x");
    const int64_t count = mica_tensor_count(x);
    float *y = result_of(count);
    run(count, x->data, y);
    assert_close(kase, k->name, y, floats(w, kase, "out"), count, 1e-6);
    free(y);
}

static void activations_on(const mica_kernels *k, const mica_weights *w)
{
    map_case(k, w, "silu", k->silu);
    map_case(k, w, "gelu_tanh", k->gelu_tanh);
    map_case(k, w, "gelu_erf", k->gelu_erf);
    const mica_tensor *g = tensor(w, "swiglu", "gate"), *x = tensor(w, "softmax", "x");
    float *y = result_of(mica_tensor_count(g));
    k->swiglu(mica_tensor_count(g), g->data, floats(w, "swiglu", "up"), y);
    assert_close("swiglu", k->name, y, floats(w, "swiglu", "out"), mica_tensor_count(g), 1e-6);
    free(y);
    const int m = (int)x->shape_[0], n = (int)x->shape_[1];
    y = result_of(mica_tensor_count(x));
    k->softmax_rows(m, n, 1.0f, x->data, n, y, n);
    assert_close("softmax", k->name, y, floats(w, "softmax", "out"), mica_tensor_count(x), 1e-5);
    free(y);
}
static void test_activations(void **state)
{
    (void)state;
    on_every_level("activations", activations_on);
}

/* ------------------------------------------------------------------ rope -- */

static void rope_case(const mica_kernels *k, const mica_weights *w, const char *kase,
                      mica_kernel_qk_norm_rope_half *run)
{
    const mica_tensor *x = tensor(w, kase, "x"); /* [1, heads, tokens, width] */
    const int heads = (int)x->shape_[1], tokens = (int)x->shape_[2], width = (int)x->shape_[3];
    const float *cos_lk = floats(w, kase, "cos"), *sin_lk = floats(w, kase, "sin");
    float *y = result_of(mica_tensor_count(x));
    for (int t = 0; t < tokens; t++)
        run(heads, width, (const float *)x->data + t * width, (ptrdiff_t)tokens * width, NULL, 0.0f,
            cos_lk + t * width / 2, sin_lk + t * width / 2, y + t * width,
            (ptrdiff_t)tokens * width);
    assert_close(kase, k->name, y, floats(w, kase, "out"), mica_tensor_count(x), 1e-6);
    free(y);
}

static void rope_on(const mica_kernels *k, const mica_weights *w)
{
    rope_case(k, w, "apply_interleaved", k->qk_norm_rope_interleaved);
    rope_case(k, w, "apply_half", k->qk_norm_rope_half);
}
static void test_rope(void **state)
{
    (void)state;
    on_every_level("rope", rope_on);
}

/* ---------------------------------------------------------------- pixels -- */

static void pixels_on(const mica_kernels *k, const mica_weights *w)
{
    const mica_tensor *x = tensor(w, "to_8bit", "x"), *want = tensor(w, "to_8bit", "out");
    const int64_t count = mica_tensor_count(x);
    uint8_t *y = malloc((size_t)count);
    assert_non_null(y);
    k->u8_from_f32(count, x->data, y);
    assert_memory_equal(y, want->data, (size_t)count);
    free(y);
}
static void test_pixels(void **state)
{
    (void)state;
    on_every_level("image_resize", pixels_on);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_pixels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
