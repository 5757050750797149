/* test_pack_weights.c - writing packed weights: errors of normal numbers within what the types allow, and
 * blocks at the edges. What is written is read back by the plain decoder, which is held to another
 * implementation in test_packed_files.c; whole files are read back by that implementation
 * (tools/golden/check_gguf.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/half.h"
#include "tensor/pack_weights.h"
#include "tensor/packed.h"

#include <math.h>
#include <string.h>

static uint64_t state_of_random = 88172645463325252u;

static float random_uniform(void)
{
    state_of_random ^= state_of_random << 13;
    state_of_random ^= state_of_random >> 7;
    state_of_random ^= state_of_random << 17;
    return (float)(state_of_random >> 40) * 0x1p-24f;
}

static float random_normal(void)
{
    float s = -6.0f;
    for (int i = 0; i < 12; i++)
        s += random_uniform();
    return s;
}

static double error_of(const float *x, const float *y, int n)
{
    double e = 0.0, s = 0.0;
    for (int i = 0; i < n; i++) {
        e += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        s += (double)x[i] * (double)x[i];
    }
    return s > 0.0 ? sqrt(e / s) : sqrt(e);
}

static double block_error(mica_dtype dtype, const float *x)
{
    uint8_t block[256];
    float back[MICA_PACKED_BLOCK];
    memset(block, 0xa5, sizeof block);
    mica_packed_write_block(dtype, x, block);
    const int size = mica_dtype_get(dtype)->size;
    for (int i = size; i < (int)sizeof block; i++)
        assert_int_equal(block[i], 0xa5);
    mica_packed_read_block(dtype, block, back);
    return error_of(x, back, mica_dtype_get(dtype)->block);
}

/* Relative L2 of N(0, 1): the step of the type over sqrt(12), by its usual range. */
static const struct {
    mica_dtype dtype;
    double least, most;
} BLOCKS[] = {{MICA_DTYPE_Q8_0, 0.003, 0.007}, {MICA_DTYPE_Q4_0, 0.05, 0.1},
              {MICA_DTYPE_Q5_0, 0.025, 0.05},  {MICA_DTYPE_Q4_K, 0.04, 0.085},
              {MICA_DTYPE_Q5_K, 0.02, 0.042},  {MICA_DTYPE_Q6_K, 0.01, 0.022}};

static void test_normal_numbers(void **state)
{
    (void)state;
    for (size_t t = 0; t < MICA_ARRAY_LEN(BLOCKS); t++) {
        double sum = 0.0;
        for (int i = 0; i < 50; i++) {
            float x[MICA_PACKED_BLOCK];
            for (int k = 0; k < MICA_PACKED_BLOCK; k++)
                x[k] = 0.02f * random_normal();
            sum += block_error(BLOCKS[t].dtype, x) / 50.0;
        }
        if (!(sum > BLOCKS[t].least && sum < BLOCKS[t].most))
            fail_msg("%s: relative error %.4f", mica_dtype_get(BLOCKS[t].dtype)->name, sum);
    }
}

/* Zeros stay zeros; one number, constants, one sign and steps are met closely. */
static void test_edges(void **state)
{
    (void)state;
    for (size_t t = 0; t < MICA_ARRAY_LEN(BLOCKS); t++)
        for (int kind = 0; kind < 6; kind++) {
            float x[MICA_PACKED_BLOCK];
            for (int k = 0; k < MICA_PACKED_BLOCK; k++)
                x[k] = kind == 0   ? 0.0f
                       : kind == 1 ? (k == 17 ? -3.0f : 0.0f)
                       : kind == 2 ? 0.7f
                       : kind == 3 ? -0.7f
                       : kind == 4 ? 1e-30f * random_normal() /* below what an f16 scale can say */
                                   : 5.0f + 0.01f * random_normal();
            const double e = block_error(BLOCKS[t].dtype, x);
            if (!(e <= (kind == 0 ? 0.0 : kind == 4 ? 1.0 : 0.035)))
                fail_msg("%s, kind %d: error %.4g", mica_dtype_get(BLOCKS[t].dtype)->name, kind, e);
        }
}

static double group_error(int bits, int group, const float *x)
{
    uint8_t words[128 + 8];
    uint16_t scale, bias;
    float back[128];
    memset(words, 0xa5, sizeof words);
    mica_affine_write_group(bits, group, x, words, &scale, &bias);
    for (int i = group * bits / 8; i < (int)sizeof words; i++)
        assert_int_equal(words[i], 0xa5);
    for (int i = 0; i < group; i++)
        back[i] = mica_packed_read(mica_dtype_from_bits(bits), words, i) * mica_bf16_to_f32(scale) +
                  mica_bf16_to_f32(bias);
    return error_of(x, back, group);
}

static void test_groups(void **state)
{
    (void)state;
    static const struct {
        int bits;
        double most;
    } GROUPS[] = {{2, 0.45}, {3, 0.22}, {4, 0.11}, {5, 0.055}, {6, 0.028}, {8, 0.008}};
    for (size_t t = 0; t < MICA_ARRAY_LEN(GROUPS); t++)
        for (int group = 32; group <= 128; group *= 2) {
            double sum = 0.0;
            float x[128] = {0};
            assert_true(group_error(GROUPS[t].bits, group, x) == 0.0);
            for (int i = 0; i < 50; i++) {
                for (int k = 0; k < group; k++)
                    x[k] = 0.02f * random_normal();
                sum += group_error(GROUPS[t].bits, group, x) / 50.0;
            }
            if (!(sum < GROUPS[t].most))
                fail_msg("%d bits, groups of %d: relative error %.4f", GROUPS[t].bits, group, sum);
            for (int k = 0; k < group; k++)
                x[k] = -0.7f;
            assert_true(group_error(GROUPS[t].bits, group, x) < 0.004);
        }
}

/* Every code is met by its own value, and what lies between goes to the nearer neighbour. */
static void test_fp8(void **state)
{
    (void)state;
    for (int code = 0; code < 256; code++) {
        if ((code & 0x7f) == 0x7f)
            continue;
        const float v = mica_f8_e4m3_to_f32((uint8_t)code);
        assert_int_equal(mica_f32_to_f8_e4m3_saturated(v), code);
        if ((code & 0x7f) >= 0x7e)
            continue;
        const float next = mica_f8_e4m3_to_f32((uint8_t)(code + 1)), middle = (v + next) / 2.0f;
        assert_int_equal(mica_f32_to_f8_e4m3_saturated(nextafterf(middle, v)), code);
        assert_int_equal(mica_f32_to_f8_e4m3_saturated(nextafterf(middle, next)), code + 1);
        assert_int_equal(mica_f32_to_f8_e4m3_saturated(middle), code & 1 ? code + 1 : code);
    }
    assert_int_equal(mica_f32_to_f8_e4m3_saturated(1e9f), 0x7e);
    assert_int_equal(mica_f32_to_f8_e4m3_saturated(-INFINITY), 0xfe);
    assert_int_equal(mica_f32_to_f8_e4m3_saturated(NAN) & 0x7f, 0x7f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_normal_numbers),
                                       cmocka_unit_test(test_edges), cmocka_unit_test(test_groups),
                                       cmocka_unit_test(test_fp8)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
