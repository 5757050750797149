/* test_noise.c - starting noise against torch's, bit for bit. */
#include "golden_file.h"

#include "sample/noise.h"

#include <inttypes.h>
#include <math.h>

typedef void (*noise_fn)(uint64_t seed, float *out, size_t n);

static void check_draw(const mica_weights *w, uint64_t seed, size_t n, const char *dtype,
                       noise_fn noise)
{
    char name[96];
    size_t count;
    snprintf(name, sizeof name, "randn.seed%" PRIu64 ".n%zu", seed, n);
    float *want = golden_floats(w, name, dtype, &count);
    float *got = malloc(n * sizeof *got);
    assert_non_null(got);
    assert_int_equal(count, n);
    noise(seed, got, n);
    for (size_t i = 0; i < n; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg("%s.%s[%zu]: got %.9g, expected %.9g", name, dtype, i, (double)got[i],
                     (double)want[i]);
    free(got);
    free(want);
}

/* 2147483653 = 2^31 + 5; 9007199254741003 = 2^53 + 11: torch keeps the low 32 bits of a seed. */
static void test_golden_draws(void **state)
{
    (void)state;
    static const uint64_t seeds[] = {0, 1, 42, 2147483653u, 9007199254741003u};
    static const size_t sizes[] = {1, 15, 16, 17, 100, 4096};
    mica_weights *w = golden_open("primitives/torch_randn.safetensors");
    for (size_t s = 0; s < MICA_ARRAY_LEN(seeds); s++) {
        for (size_t i = 0; i < MICA_ARRAY_LEN(sizes); i++) {
            check_draw(w, seeds[s], sizes[i], "float32", mica_noise_f32);
            check_draw(w, seeds[s], sizes[i], "bfloat16", mica_noise_bf16_torch211);
        }
    }
    mica_weights_close(&w);
}

/* FNV-1a of the 4,000,012 bytes of torch.randn(1000003, generator=manual_seed(7)), torch 2.14.1. */
static void test_million(void **state)
{
    (void)state;
    const size_t n = 1000003;
    float *v = malloc(n * sizeof *v);
    assert_non_null(v);
    mica_noise_f32(7, v, n);
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &v[i], 4);
        for (int b = 0; b < 4; b++)
            hash = (hash ^ ((bits >> (8 * b)) & 0xffu)) * 0x100000001b3u;
    }
    free(v);
    assert_true(hash == 0xdd0147e79fdd6693u);
}

static void test_moments(void **state)
{
    (void)state;
    enum { N = 65536 };
    static float v[N];
    static const noise_fn draws[] = {mica_noise_f32, mica_noise_bf16_torch211};
    for (size_t d = 0; d < MICA_ARRAY_LEN(draws); d++) {
        double sum = 0, squares = 0;
        draws[d](123, v, N);
        for (int i = 0; i < N; i++) {
            assert_true(isfinite(v[i]));
            sum += v[i];
            squares += (double)v[i] * v[i];
        }
        assert_true(fabs(sum / N) < 4.0 / 256);           /* 4 standard errors of the mean */
        assert_true(fabs(squares / N - 1.0) < 6.0 / 256); /* 8-bit uniforms widen bf16's tails */
    }
}

static void test_nothing_drawn(void **state)
{
    (void)state;
    float guard = 1.25f;
    mica_noise_f32(1, &guard, 0);
    mica_noise_bf16_torch211(1, &guard, 0);
    assert_true(guard == 1.25f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_draws),
        cmocka_unit_test(test_million),
        cmocka_unit_test(test_moments),
        cmocka_unit_test(test_nothing_drawn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
