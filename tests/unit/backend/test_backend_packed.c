/* test_backend_packed.c - linears and tables from packed weights, in every precision.
 *
 * Weights are random blocks; what they mean comes from mica_packed_read_block, which is held to
 * another implementation's numbers in test_packed_files.c. Sizes stand on both sides of what counts as
 * few rows (8) and as many (64), with one and several slices of depth. */
#include "backend_testing.h"
#include "tensor/packed.h"

#include "backend/cpu/cpu_linear.h"

static const mica_dtype TYPES[] = {
    MICA_DTYPE_Q8_0,   MICA_DTYPE_Q4_0,   MICA_DTYPE_Q4_1,  MICA_DTYPE_Q5_0, MICA_DTYPE_Q5_1,
    MICA_DTYPE_Q2_K,   MICA_DTYPE_Q3_K,   MICA_DTYPE_Q4_K,  MICA_DTYPE_Q5_K, MICA_DTYPE_Q6_K,
    MICA_DTYPE_IQ4_NL, MICA_DTYPE_IQ4_XS, MICA_DTYPE_MXFP4, MICA_DTYPE_MLX2, MICA_DTYPE_MLX3,
    MICA_DTYPE_MLX4,   MICA_DTYPE_MLX5,   MICA_DTYPE_MLX6,  MICA_DTYPE_MLX8, MICA_DTYPE_I8,
};

/* Where a block keeps f16 numbers, which must be finite and of a usual size. */
static void tame(mica_dtype dtype, uint8_t *block)
{
    static const struct {
        mica_dtype dtype;
        int at[2];
    } HALVES[] = {{MICA_DTYPE_Q4_1, {0, 2}},    {MICA_DTYPE_Q5_1, {0, 2}},
                  {MICA_DTYPE_Q2_K, {80, 82}},  {MICA_DTYPE_Q3_K, {108, 108}},
                  {MICA_DTYPE_Q4_K, {0, 2}},    {MICA_DTYPE_Q5_K, {0, 2}},
                  {MICA_DTYPE_Q6_K, {208, 208}}};
    int at[2] = {0, 0};
    for (size_t i = 0; i < MICA_ARRAY_LEN(HALVES); i++)
        if (HALVES[i].dtype == dtype)
            memcpy(at, HALVES[i].at, sizeof at);
    for (int i = 0; i < 2; i++) {
        const uint16_t h = mica_f32_to_f16(0.01f * random_normal());
        memcpy(block + at[i], &h, 2);
    }
    if (dtype == MICA_DTYPE_MXFP4)
        block[0] = (uint8_t)random_int(118, 126);
}

static void add_scales(mica_tensor *t)
{
    const bool grouped = t->dtype != MICA_DTYPE_I8;
    const int group = grouped ? 32 << random_int(0, t->shape_[1] % 64 == 0) : 0;
    const int64_t count = grouped ? mica_tensor_count(t) / group : t->shape_[0];
    uint16_t *s = test_malloc((size_t)count * 4);
    for (int64_t i = 0; i < 2 * count; i++)
        s[i] = mica_f32_to_f16(0.01f * random_normal());
    t->scale = (mica_tensor_scale){.data = s,
                                   .dtype = MICA_DTYPE_F16,
                                   .per_row = !grouped,
                                   .group = group,
                                   .bias = grouped ? s + count : NULL};
}

static mica_weight packed_weight(mica_dtype dtype, int64_t n, int64_t k)
{
    const mica_dtype_info *info = mica_dtype_get(dtype);
    mica_weight w = {.tensor = host_tensor(dtype, 2, SHAPE(n, k)), .name = "packed.weight"};
    uint8_t *p = w.tensor.data;
    for (size_t i = 0; i < mica_tensor_size(&w.tensor); i++)
        p[i] = (uint8_t)random_u32();
    for (size_t i = 0;
         !mica_dtype_is_affine(dtype) && dtype != MICA_DTYPE_I8 && i < mica_tensor_size(&w.tensor);
         i += (size_t)info->size)
        tame(dtype, p + i);
    if (mica_dtype_is_affine(dtype) || dtype == MICA_DTYPE_I8)
        add_scales(&w.tensor);
    return w;
}

/* All numbers, block by block: mica_tensor_read_f32 decodes a whole block for each. */
static float *decode(const mica_tensor *t)
{
    const mica_dtype_info *info = mica_dtype_get(t->dtype);
    const int64_t count = mica_tensor_count(t);
    float *out = test_malloc((size_t)count * sizeof *out);
    const uint16_t *scale = t->scale.data, *bias = t->scale.bias;
    const bool by_row = t->scale.per_row && mica_dtype_is_packed(t->dtype);
    for (int64_t i = 0; i < count; i += info->block) {
        if (!mica_dtype_is_packed(t->dtype)) {
            out[i] = mica_tensor_read_f32(t, i);
            continue;
        }
        mica_packed_read_block(t->dtype, (const uint8_t *)t->data + mica_tensor_offset(t, i),
                               out + i);
        for (int64_t k = i; by_row && k < i + info->block; k++)
            out[k] *= ((const float *)t->scale.data)[i / t->shape_[1]];
        for (int64_t k = i; t->scale.group && k < i + info->block; k++)
            out[k] = out[k] * mica_f16_to_f32(scale[k / t->scale.group]) +
                     mica_f16_to_f32(bias[k / t->scale.group]);
    }
    return out;
}

typedef struct packed_data {
    mica_weight w, bias;
    mica_tensor x, y, residual;
    double *want;
    int m, n, k;
} packed_data;

static packed_data make_data(mica_dtype dtype, int m, int n, int k)
{
    packed_data d = {.m = m, .n = n, .k = k};
    d.w = packed_weight(dtype, n, k);
    d.bias = host_weight(MICA_DTYPE_BF16, 1.0f, 1, SHAPE(n));
    d.x = host_random(1.0f, 2, SHAPE(m, k));
    d.y = host_tensor(MICA_DTYPE_F32, 2, SHAPE(m, n));
    d.residual = host_random(1.0f, 2, SHAPE(m, n));
    d.want = test_malloc((size_t)(m * n) * sizeof(double));
    float *w = decode(&d.w.tensor);
    for (int i = 0; i < m; i++)
        for (int o = 0; o < n; o++) {
            double sum = weight_at(&d.bias, o) + (double)floats(&d.residual)[i * n + o];
            for (int j = 0; j < k; j++)
                sum += (double)floats(&d.x)[i * k + j] * (double)w[o * k + j];
            d.want[i * n + o] = sum;
        }
    test_free(w);
    return d;
}

static void free_data(packed_data *d)
{
    weight_free(&d->w);
    weight_free(&d->bias);
    host_free(&d->x);
    host_free(&d->y);
    host_free(&d->residual);
    test_free(d->want);
}

static void run(mica_backend *be, packed_data *d)
{
    mica_linear(be, &(mica_linear_args){.x_MD = &d->x,
                                        .w_OD = &d->w,
                                        .bias_O = &d->bias,
                                        .residual_MO = &d->residual,
                                        .y_MO = &d->y});
    assert_fine(be);
}

static void check(mica_backend *be, mica_dtype dtype, int m, int n, int k, double bound)
{
    packed_data d = make_data(dtype, m, n, k);
    char what[96];
    snprintf(what, sizeof what, "%s, m %d n %d k %d", mica_dtype_get(dtype)->name, m, n, k);
    run(be, &d);
    assert_close(what, floats(&d.y), d.want, (int64_t)m * n, bound);
    assert_null(dtype == MICA_DTYPE_I8 ? NULL : d.w.prepared); /* nothing of its size is kept */
    mica_backend_drop_weights(be, (mica_weight *[]){&d.w}, 1);
    free_data(&d);
}

/* few: x in digits of the precision (or as it is, which is better), as it is said in kernels.h; many: more rows. */
static void check_types(mica_backend *be, double few, double many)
{
    for (size_t t = 0; t < MICA_ARRAY_LEN(TYPES); t++) {
        const int block = mica_dtype_get(TYPES[t])->block, unit = MICA_MAX(block, 32);
        check(be, TYPES[t], 1, 37, unit, few);
        check(be, TYPES[t], 8, 300, 3 * unit, few);
        check(be, TYPES[t], 9, 70, 2 * unit, many);
        check(be, TYPES[t], 65, 130, 1024 + unit, many);
    }
}

/* Half a step of the digits (kernels.h) is 0.29 of it on average, the largest of 32 random numbers 2.1 times their
 * size: 2e-5 for two digits, 5e-3 for one. */
#define FEW_BF16 6e-5
#define FEW_INT8 1.5e-2

static void test_f32(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    check_types(be, 1e-6, 2e-6);
    mica_backend_close(&be);
}

static void test_bf16(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_BF16, 2);
    check_types(be, FEW_BF16, 6e-3);
    if (use_dnnl(be))
        check_types(be, FEW_BF16, 6e-3);
    mica_backend_close(&be);
}

static void test_int8(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_INT8, 2);
    check_types(be, FEW_INT8, 3e-2);
    if (use_dnnl(be))
        check_types(be, FEW_INT8, 3e-2);
    mica_backend_close(&be);
}

/* Rows of GGUF's blocks times a factor each (as nn/lora_dora.c gives them), whole and as a slice, and their numbers. */
static void check_row_scales(mica_backend *be, mica_dtype dtype, int m, double bound)
{
    enum { N = 70, FIRST = 3, COUNT = 60 };
    const int k = 2 * mica_dtype_get(dtype)->block;
    packed_data d = make_data(dtype, m, N, k);
    float *s = test_malloc(N * sizeof *s), *got = test_malloc((size_t)(N * k) * sizeof *got);
    for (int i = 0; i < N; i++)
        s[i] = 1.0f + 0.5f * random_normal();
    d.w.tensor.scale = (mica_tensor_scale){.data = s, .dtype = MICA_DTYPE_F32, .per_row = true};
    float *w = decode(&d.w.tensor);
    mica_cpu_weight_to_f32(&d.w.tensor, 5, (int64_t)N * k - 5, got);
    for (int i = 5; i < N * k; i++)
        assert_true(fabsf(got[i - 5] - w[i]) <= 1e-5f * fabsf(w[i]) + 1e-7f);
    assert_true(fabsf(mica_tensor_read_f32(&d.w.tensor, 7 * k + 1) - w[7 * k + 1]) <=
                1e-6f * fabsf(w[7 * k + 1]));
    mica_weight part = d.w;
    part.tensor = mica_tensor_rows(&d.w.tensor, FIRST, COUNT);
    mica_tensor y = host_tensor(MICA_DTYPE_F32, 2, SHAPE(m, COUNT));
    double *want = test_malloc((size_t)(m * COUNT) * sizeof *want);
    for (int i = 0; i < m; i++)
        for (int o = 0; o < COUNT; o++) {
            want[i * COUNT + o] = 0.0;
            for (int j = 0; j < k; j++)
                want[i * COUNT + o] +=
                    (double)floats(&d.x)[i * k + j] * (double)w[(FIRST + o) * k + j];
        }
    char what[96];
    snprintf(what, sizeof what, "row scales of %s, m %d", mica_dtype_get(dtype)->name, m);
    mica_linear(be, &(mica_linear_args){.x_MD = &d.x, .w_OD = &part, .y_MO = &y});
    assert_fine(be);
    assert_close(what, floats(&y), want, (int64_t)m * COUNT, bound);
    mica_backend_drop_weights(be, (mica_weight *[]){&part}, 1);
    test_free(want);
    test_free(w);
    test_free(got);
    host_free(&y);
    free_data(&d);
}

static void test_row_scales(void **state)
{
    (void)state;
    static const struct {
        mica_precision precision;
        double few, many;
    } CASES[] = {{MICA_PRECISION_F32, 1e-6, 2e-6},
                 {MICA_PRECISION_BF16, FEW_BF16, 6e-3},
                 {MICA_PRECISION_INT8, FEW_INT8, 3e-2}};
    for (size_t c = 0; c < MICA_ARRAY_LEN(CASES); c++) {
        mica_backend *be = open_backend(CASES[c].precision, 2);
        for (size_t t = 0; TYPES[t] != MICA_DTYPE_MLX2; t++) {
            check_row_scales(be, TYPES[t], 2, CASES[c].few);
            check_row_scales(be, TYPES[t], 33, CASES[c].many);
        }
        mica_backend_close(&be);
    }
}

/* What a weight asks for is kept above the precision: error of one row of a weight with these flags. */
static double error_of(mica_backend *be, bool sensitive, bool exact)
{
    packed_data d = make_data(MICA_DTYPE_Q6_K, 1, 64, 2048);
    double error = 0.0, size = 0.0;
    d.w.sensitive = sensitive;
    d.w.exact = exact;
    run(be, &d);
    for (int i = 0; i < d.n; i++) {
        const double diff = (double)floats(&d.y)[i] - d.want[i];
        error += diff * diff;
        size += d.want[i] * d.want[i];
    }
    mica_backend_drop_weights(be, (mica_weight *[]){&d.w}, 1);
    free_data(&d);
    return sqrt(error / size);
}

static void test_digits_by_weight(void **state)
{
    (void)state;
    for (int p = MICA_PRECISION_F32; p <= MICA_PRECISION_INT8; p++) {
        mica_backend *be = open_backend((mica_precision)p, 2);
        const bool digits = mica_cpu_from(be)->kernels->dot_digits;
        const double plain = error_of(be, false, false), careful = error_of(be, true, false);
        assert_true(error_of(be, false, true) < 1e-6);
        assert_true(careful < (p == MICA_PRECISION_F32 ? 1e-6 : FEW_BF16));
        assert_true(plain < (p == MICA_PRECISION_INT8 ? FEW_INT8 : FEW_BF16));
        if (digits && p == MICA_PRECISION_INT8)
            assert_true(plain > 50.0 * careful); /* one digit, and not more work than asked for */
        if (digits && p == MICA_PRECISION_BF16)
            assert_true(careful > 2e-6);
        mica_backend_close(&be);
    }
}

/* By row: a row's bits do not depend on the others, nor on the threads; alone it needs no asking. */
static void test_rows_alone(void **state)
{
    (void)state;
    packed_data d = make_data(MICA_DTYPE_Q4_K, 19, 200, 768);
    float *whole = test_malloc(mica_tensor_size(&d.y));
    for (int threads = 1; threads <= 3; threads++) {
        mica_backend *be = open_backend(MICA_PRECISION_BF16, threads);
        mica_linear(be, &(mica_linear_args){.x_MD = &d.x,
                                            .w_OD = &d.w,
                                            .bias_O = &d.bias,
                                            .residual_MO = &d.residual,
                                            .y_MO = &d.y,
                                            .by_row = true});
        assert_fine(be);
        if (threads == 1)
            memcpy(whole, d.y.data, mica_tensor_size(&d.y));
        assert_memory_equal(whole, d.y.data, mica_tensor_size(&d.y));
        for (int i = 0; i < d.m; i++) {
            const mica_tensor x = mica_tensor_rows(&d.x, i, 1),
                              r = mica_tensor_rows(&d.residual, i, 1);
            mica_tensor y = mica_tensor_rows(&d.y, i, 1);
            memset(y.data, 0, mica_tensor_size(&y));
            mica_linear(
                be,
                &(mica_linear_args){
                    .x_MD = &x, .w_OD = &d.w, .bias_O = &d.bias, .residual_MO = &r, .y_MO = &y});
        }
        assert_memory_equal(whole, d.y.data, mica_tensor_size(&d.y));
        mica_backend_close(&be);
    }
    test_free(whole);
    free_data(&d);
}

/* LoRA on a packed weight, whose rows but the first and last few it changes: against the sums in f64, and against
 * the same LoRA on the weight's numbers as plain f32. */
static void check_lora(mica_backend *be, mica_dtype dtype, int m, double bound)
{
    enum { N = 150, RANK = 6, FIRST = 5, COUNT = 140 };
    const int k = 2 * MICA_MAX(mica_dtype_get(dtype)->block, 32);
    packed_data d = make_data(dtype, m, N, k);
    mica_weight up = host_weight(MICA_DTYPE_F32, 0.3f, 2, SHAPE(COUNT, RANK));
    mica_weight down = host_weight(MICA_DTYPE_F32, 0.3f, 2, SHAPE(RANK, k));
    const mica_adapter a = {
        .first = FIRST, .count = COUNT, .scale = 0.7f, .up = {up.tensor}, .down = {down.tensor}};
    for (int i = 0; i < m; i++)
        for (int r = 0; r < RANK; r++) {
            double t = 0.0;
            for (int j = 0; j < k; j++)
                t += (double)floats(&d.x)[i * k + j] * weight_at(&down, r * k + j);
            for (int o = 0; o < COUNT; o++)
                d.want[i * N + FIRST + o] += (double)a.scale * t * weight_at(&up, o * RANK + r);
        }
    float *numbers = decode(&d.w.tensor);
    mica_weight plain = {.tensor = mica_tensor_2d(numbers, MICA_DTYPE_F32, N, k),
                         .name = "plain.weight",
                         .adapters = &a};
    d.w.adapters = &a;
    char what[96];
    snprintf(what, sizeof what, "LoRA on %s, m %d", mica_dtype_get(dtype)->name, m);
    run(be, &d);
    assert_close(what, floats(&d.y), d.want, (int64_t)m * N, bound);
    packed_data p = d;
    p.w = plain;
    run(be, &p);
    assert_close("LoRA on its numbers", floats(&d.y), d.want, (int64_t)m * N, bound);
    mica_backend_drop_weights(be, (mica_weight *[]){&d.w, &p.w}, 2);
    test_free(numbers);
    weight_free(&up);
    weight_free(&down);
    free_data(&d);
}

static void test_lora(void **state)
{
    (void)state;
    static const struct {
        mica_precision precision;
        double few, many;
    } CASES[] = {{MICA_PRECISION_F32, 2e-6, 2e-6},
                 {MICA_PRECISION_BF16, 6e-3, 6e-3},
                 {MICA_PRECISION_INT8, 3e-2, 3e-2}};
    for (size_t c = 0; c < MICA_ARRAY_LEN(CASES); c++) {
        mica_backend *be = open_backend(CASES[c].precision, 2);
        for (size_t t = 0; t < MICA_ARRAY_LEN(TYPES); t++) {
            check_lora(be, TYPES[t], 1, CASES[c].few);
            check_lora(be, TYPES[t], 7, CASES[c].few);
            check_lora(be, TYPES[t], 33, CASES[c].many);
        }
        mica_backend_close(&be);
    }
}

/* Dense weights by row: f32 sums of x as it is, in a backend that would round it. */
static void test_dense_by_row(void **state)
{
    (void)state;
    static const mica_dtype DENSE[] = {MICA_DTYPE_F32, MICA_DTYPE_BF16, MICA_DTYPE_F16,
                                       MICA_DTYPE_F8_E4M3, MICA_DTYPE_F8_E5M2};
    mica_backend *be = open_backend(MICA_PRECISION_BF16, 2);
    for (size_t t = 0; t < MICA_ARRAY_LEN(DENSE); t++) {
        mica_weight w = host_weight(DENSE[t], 0.1f, 2, SHAPE(45, 77));
        mica_tensor x = host_random(1.0f, 2, SHAPE(3, 77)), y = host_random(1.0f, 2, SHAPE(3, 45));
        double want[3 * 45];
        for (int i = 0; i < 3 * 45; i++) {
            want[i] = 0.0;
            for (int j = 0; j < 77; j++)
                want[i] += weight_at(&w, i % 45 * 77 + j) * (double)floats(&x)[i / 45 * 77 + j];
        }
        mica_linear(be, &(mica_linear_args){.x_MD = &x, .w_OD = &w, .y_MO = &y, .by_row = true});
        assert_fine(be);
        assert_close(mica_dtype_get(DENSE[t])->name, floats(&y), want, 3 * 45, 1e-6);
        weight_free(&w);
        host_free(&x);
        host_free(&y);
    }
    mica_backend_close(&be);
}

/* One expert of a stack, and rows of a fused weight. */
static void test_views(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_F32, 2);
    for (size_t t = 0; t < MICA_ARRAY_LEN(TYPES); t++) {
        mica_weight whole = packed_weight(TYPES[t], 6 * 40, 256);
        mica_tensor stack = mica_tensor_reshape(&whole.tensor, 3, SHAPE(6, 40, 256));
        mica_tensor x = host_random(1.0f, 2, SHAPE(5, 256)), y = host_random(1.0f, 2, SHAPE(5, 16));
        double want[5 * 16];
        mica_weight part = {.name = "part"};
        if (TYPES[t] != MICA_DTYPE_I8) { /* its scale per row is one of dimension 0 */
            part.tensor = mica_tensor_rows(&stack, 4, 1);
            part.tensor = mica_tensor_reshape(&part.tensor, 2, SHAPE(40, 256));
            part.tensor = mica_tensor_rows(&part.tensor, 8, 16);
        } else
            part.tensor = mica_tensor_rows(&whole.tensor, 4 * 40 + 8, 16);
        for (int i = 0; i < 5 * 16; i++) {
            want[i] = 0.0;
            for (int j = 0; j < 256; j++)
                want[i] +=
                    (double)mica_tensor_read_f32(&whole.tensor, (4 * 40 + 8 + i % 16) * 256 + j) *
                    (double)floats(&x)[i / 16 * 256 + j];
        }
        mica_linear(be, &(mica_linear_args){.x_MD = &x, .w_OD = &part, .y_MO = &y});
        assert_fine(be);
        assert_close(mica_dtype_get(TYPES[t])->name, floats(&y), want, 5 * 16, 2e-6);
        weight_free(&whole);
        host_free(&x);
        host_free(&y);
    }
    mica_backend_close(&be);
}

static void test_embed_rows(void **state)
{
    (void)state;
    mica_backend *be = open_backend(MICA_PRECISION_BF16, 2);
    const int32_t ids[] = {3, 0, 9, 3};
    for (size_t t = 0; t < MICA_ARRAY_LEN(TYPES); t++) {
        mica_weight w = packed_weight(TYPES[t], 10, 512);
        mica_tensor y = host_random(1.0f, 2, SHAPE(4, 512));
        mica_embed_rows(be, &w, ids, 4, &y);
        assert_fine(be);
        for (int i = 0; i < 4 * 512; i++) {
            const float want = mica_tensor_read_f32(&w.tensor, ids[i / 512] * 512 + i % 512);
            if (!(fabsf(floats(&y)[i] - want) <= 2e-6f * (fabsf(want) + 1.0f)))
                fail_msg("%s: element %d is %g, expected %g", mica_dtype_get(TYPES[t])->name, i,
                         (double)floats(&y)[i], (double)want);
        }
        weight_free(&w);
        host_free(&y);
    }
    mica_backend_close(&be);
}

static void test_no_allocation_the_second_time(void **state)
{
    (void)state;
    const mica_precision all[] = {MICA_PRECISION_F32, MICA_PRECISION_BF16, MICA_PRECISION_INT8};
    for (size_t p = 0; p < MICA_ARRAY_LEN(all); p++)
        for (int m = 4; m <= 70; m += 66) {
            packed_data d = make_data(MICA_DTYPE_MLX4, m, 96, 640);
            mica_backend *be = open_backend(all[p], 2);
            run(be, &d);
            const uint64_t before = mica_backend_get_counters(be).allocations;
            run(be, &d);
            assert_int_equal(mica_backend_get_counters(be).allocations, before);
            mica_backend_close(&be);
            free_data(&d);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_digits_by_weight),
        cmocka_unit_test(test_rows_alone),
        cmocka_unit_test(test_row_scales),
        cmocka_unit_test(test_lora),
        cmocka_unit_test(test_dense_by_row),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_embed_rows),
        cmocka_unit_test(test_no_allocation_the_second_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
