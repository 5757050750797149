/* test_resize.c - resampling against Pillow and torch, exactly; float to 8 bits; refusals. */
#include "golden_file.h"

#include "base/mem.h"
#include "media/resize.h"

#include <math.h>

static mica_picture picture_of(const mica_tensor *t)
{
    assert_int_equal(t->dtype, MICA_DTYPE_U8);
    return (mica_picture){(int)t->shape_[1], (int)t->shape_[0], (int)t->shape_[2], t->data};
}

static void check(const char *name, const mica_picture *src, const mica_picture *want,
                  mica_resample filter)
{
    mica_picture got;
    mica_err err = {0};
    if (mica_picture_resize(src, want->width, want->height, filter, &got, &err) != MICA_OK)
        fail_msg("%s", err.text);
    assert_int_equal(got.width, want->width);
    assert_int_equal(got.height, want->height);
    const int row = want->width * want->channels;
    for (int i = 0; i < row * want->height; i++)
        if (got.pixels[i] != want->pixels[i])
            fail_msg("%s: row %d, byte %d: got %d, expected %d", name, i / row, i % row,
                     got.pixels[i], want->pixels[i]);
    mica_picture_deinit(&got);
}

static void test_golden_rgb(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        mica_resample filter;
    } cases[] = {{"lanczos_down", MICA_RESAMPLE_LANCZOS},
                 {"lanczos_up", MICA_RESAMPLE_LANCZOS},
                 {"bicubic_down", MICA_RESAMPLE_BICUBIC},
                 {"bicubic_up", MICA_RESAMPLE_BICUBIC},
                 {"bilinear_down", MICA_RESAMPLE_BILINEAR}};
    mica_weights *w = golden_open("primitives/image_resize.safetensors");
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++) {
        const mica_picture src = picture_of(golden_tensor(w, cases[i].name, "x"));
        const mica_picture want = picture_of(golden_tensor(w, cases[i].name, "out"));
        check(cases[i].name, &src, &want, cases[i].filter);
    }
    mica_weights_close(&w);
}

static void test_golden_rgba(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        mica_resample filter;
    } cases[] = {{"resize_rgba_down", MICA_RESAMPLE_LANCZOS},
                 {"resize_rgba_up", MICA_RESAMPLE_BICUBIC},
                 {"resize_rgba_tall", MICA_RESAMPLE_BILINEAR}};
    mica_weights *w = golden_open("pictures/pictures.safetensors");
    const mica_picture src = picture_of(golden_tensor(w, "rgba", "png"));
    for (size_t i = 0; i < MICA_ARRAY_LEN(cases); i++) {
        const mica_tensor *t = mica_weights_find(w, cases[i].name);
        assert_non_null(t);
        const mica_picture want = picture_of(t);
        check(cases[i].name, &src, &want, cases[i].filter);
    }
    mica_weights_close(&w);
}

static void check_all(const char *const *names, size_t count, mica_resample filter)
{
    mica_weights *w = golden_open("pictures/resize.safetensors");
    for (size_t i = 0; i < count; i++) {
        const mica_picture src = picture_of(golden_tensor(w, names[i], "x"));
        const mica_picture want = picture_of(golden_tensor(w, names[i], "out"));
        check(names[i], &src, &want, filter);
    }
    mica_weights_close(&w);
}

static void test_golden_torch(void **state)
{
    (void)state;
    static const char *const names[] = {"down", "up", "mixed", "far", "one_side"};
    check_all(names, MICA_ARRAY_LEN(names), MICA_RESAMPLE_BICUBIC_TORCH);
}

/* Which direction comes first shows in single levels. */
static void test_golden_order(void **state)
{
    (void)state;
    static const char *const names[] = {"pillow_columns", "pillow_rows", "pillow_wider",
                                        "pillow_taller"};
    check_all(names, MICA_ARRAY_LEN(names), MICA_RESAMPLE_LANCZOS);
}

static void test_same_size_is_a_copy(void **state)
{
    (void)state;
    uint8_t pixels[] = {0, 10, 20, 0, 255, 1, 2, 3}; /* RGBA: colour under alpha 0 survives */
    const mica_picture p = {2, 1, 4, pixels};
    check("copy", &p, &p, MICA_RESAMPLE_LANCZOS);
}

static void test_flat_stays_flat(void **state)
{
    (void)state;
    uint8_t pixels[5 * 7 * 3];
    memset(pixels, 200, sizeof pixels);
    const mica_picture p = {5, 7, 3, pixels};
    for (int f = MICA_RESAMPLE_BILINEAR; f <= MICA_RESAMPLE_LANCZOS; f++) {
        for (int size = 1; size <= 40; size += 13) {
            mica_picture out;
            mica_err err = {0};
            assert_int_equal(mica_picture_resize(&p, size, size + 1, (mica_resample)f, &out, &err),
                             MICA_OK);
            for (int i = 0; i < size * (size + 1) * 3; i++)
                assert_int_equal(out.pixels[i], 200);
            mica_picture_deinit(&out);
        }
    }
}

static void test_refusals(void **state)
{
    (void)state;
    uint8_t pixels[3] = {1, 2, 3};
    const mica_picture p = {1, 1, 3, pixels};
    mica_picture out;
    mica_err err = {0};
    static const int sizes[][2] = {{0, 1}, {1, -1}, {65536, 1}, {1, 65536}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(sizes); i++) {
        assert_int_equal(
            mica_picture_resize(&p, sizes[i][0], sizes[i][1], MICA_RESAMPLE_BICUBIC, &out, &err),
            MICA_E_USAGE);
        assert_null(out.pixels);
    }
}

static void test_alloc_fail(void **state)
{
    (void)state;
    uint8_t pixels[4 * 4 * 4] = {0};
    const mica_picture p = {4, 4, 4, pixels};
    uint64_t n = 0;
    for (mica_status st = MICA_E_NOMEM; st != MICA_OK;) {
        mica_picture out;
        mica_err err = {0};
        mica_mem_fail_at(++n);
        st = mica_picture_resize(&p, 9, 3, MICA_RESAMPLE_LANCZOS, &out, &err);
        mica_mem_fail_at(0);
        assert_true(st == MICA_OK || (st == MICA_E_NOMEM && !out.pixels && err.text[0]));
        mica_picture_deinit(&out);
    }
    assert_true(n > 8); /* two passes of five allocations, and the copy */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_rgb),
        cmocka_unit_test(test_golden_rgba),
        cmocka_unit_test(test_golden_torch),
        cmocka_unit_test(test_golden_order),
        cmocka_unit_test(test_same_size_is_a_copy),
        cmocka_unit_test(test_flat_stays_flat),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_alloc_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
