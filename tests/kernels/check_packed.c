/* check_packed.c - packed weights against the plain decoder of src/tensor/packed.c, in f64.
 *
 * Blocks are random bytes whose f16 fields are made finite; every type takes its turn. The decoder
 * itself is checked against another implementation's numbers (tests/unit/format/test_packed_files.c). */
#include "checkkern.h"
#include "tensor/packed.h"

typedef struct packed_case {
    mica_dtype dtype;
    int halves[2]; /* where a block keeps f16 numbers; -1: none */
} packed_case;

static const packed_case TYPES[MICA_PACKED_COUNT] = {
    [MICA_PACKED_F32] = {MICA_DTYPE_F32, {-1, -1}},
    [MICA_PACKED_BF16] = {MICA_DTYPE_BF16, {-1, -1}},
    [MICA_PACKED_F16] = {MICA_DTYPE_F16, {-1, -1}},
    [MICA_PACKED_F8_E4M3] = {MICA_DTYPE_F8_E4M3, {-1, -1}},
    [MICA_PACKED_F8_E5M2] = {MICA_DTYPE_F8_E5M2, {-1, -1}},
    [MICA_PACKED_S8] = {MICA_DTYPE_I8, {-1, -1}},
    [MICA_PACKED_Q8_0] = {MICA_DTYPE_Q8_0, {0, -1}},
    [MICA_PACKED_Q4_0] = {MICA_DTYPE_Q4_0, {0, -1}},
    [MICA_PACKED_Q4_1] = {MICA_DTYPE_Q4_1, {0, 2}},
    [MICA_PACKED_Q5_0] = {MICA_DTYPE_Q5_0, {0, -1}},
    [MICA_PACKED_Q5_1] = {MICA_DTYPE_Q5_1, {0, 2}},
    [MICA_PACKED_Q2_K] = {MICA_DTYPE_Q2_K, {80, 82}},
    [MICA_PACKED_Q3_K] = {MICA_DTYPE_Q3_K, {108, -1}},
    [MICA_PACKED_Q4_K] = {MICA_DTYPE_Q4_K, {0, 2}},
    [MICA_PACKED_Q5_K] = {MICA_DTYPE_Q5_K, {0, 2}},
    [MICA_PACKED_Q6_K] = {MICA_DTYPE_Q6_K, {208, -1}},
    [MICA_PACKED_IQ4_NL] = {MICA_DTYPE_IQ4_NL, {0, -1}},
    [MICA_PACKED_IQ4_XS] = {MICA_DTYPE_IQ4_XS, {0, -1}},
    [MICA_PACKED_MXFP4] = {MICA_DTYPE_MXFP4, {-1, -1}},
    [MICA_PACKED_B2] = {MICA_DTYPE_MLX2, {-1, -1}},
    [MICA_PACKED_B3] = {MICA_DTYPE_MLX3, {-1, -1}},
    [MICA_PACKED_B4] = {MICA_DTYPE_MLX4, {-1, -1}},
    [MICA_PACKED_B5] = {MICA_DTYPE_MLX5, {-1, -1}},
    [MICA_PACKED_B6] = {MICA_DTYPE_MLX6, {-1, -1}},
    [MICA_PACKED_B8] = {MICA_DTYPE_MLX8, {-1, -1}},
};

static bool is_plain(mica_packed type)
{
    return type <= MICA_PACKED_S8;
}
static bool is_stream(mica_packed type)
{
    return type >= MICA_PACKED_B2;
}

/* Scaled small so that sums stay in range. */
static uint16_t random_half(ck *c, mica_packed type)
{
    const uint16_t sign = (uint16_t)(ck_random(c) & 0x8000u);
    const uint16_t fraction = (uint16_t)(ck_random(c) & (type == MICA_PACKED_BF16 ? 0x7f : 0x3ff));
    const int exponent =
        type == MICA_PACKED_BF16 ? ck_int(c, 118, 127) << 7 : ck_int(c, 0, 12) << 10;
    return (uint16_t)(sign | exponent | fraction);
}

static void fill_plain(ck *c, mica_packed type, uint8_t *p, int n)
{
    for (int i = 0; i < n; i++) {
        const float f = (float)ck_normal(c);
        const uint16_t h = random_half(c, type);
        if (type == MICA_PACKED_F32)
            memcpy(p + 4 * i, &f, 4);
        else if (type == MICA_PACKED_BF16 || type == MICA_PACKED_F16)
            memcpy(p + 2 * i, &h, 2);
        else
            p[i] = (uint8_t)(ck_random(c) & (type == MICA_PACKED_S8 ? 0xff : 0xb7)); /* no NaN */
    }
}

static void fill_blocks(ck *c, mica_packed type, uint8_t *p, int blocks)
{
    const int size = mica_dtype_get(TYPES[type].dtype)->size;
    for (int b = 0; b < blocks; b++, p += size) {
        for (int i = 0; i < size; i++)
            p[i] = (uint8_t)ck_random(c);
        for (int h = 0; h < 2; h++) {
            const uint16_t half = random_half(c, MICA_PACKED_F16);
            if (TYPES[type].halves[h] >= 0)
                memcpy(p + TYPES[type].halves[h], &half, 2);
        }
        if (type == MICA_PACKED_MXFP4)
            p[0] = (uint8_t)(ck_int(c, 0, 20) ? ck_int(c, 110, 135) : ck_int(c, 0, 2));
    }
}

static void add_scales(ck *c, mica_packed_rows *w, double *real)
{
    static const mica_packed KINDS[] = {MICA_PACKED_F32, MICA_PACKED_BF16, MICA_PACKED_F16};
    w->group = 32 << ck_int(c, 0, 2);
    w->n = (w->n + w->group - 1) / w->group * w->group;
    w->scale_type = KINDS[ck_int(c, 0, 2)];
    const int groups = w->n / w->group, size = w->scale_type == MICA_PACKED_F32 ? 4 : 2;
    w->ld_scale = ck_stride(c, groups);
    const size_t count = ck_matrix_count(w->rows, groups, w->ld_scale);
    uint8_t *scale = ck_buffer(c, count, (size_t)size), *bias = NULL;
    fill_plain(c, w->scale_type, scale, (int)count);
    if (ck_int(c, 0, 3)) {
        bias = ck_buffer(c, count, (size_t)size);
        fill_plain(c, w->scale_type, bias, (int)count);
    }
    w->scale = scale;
    w->bias = bias;
    (void)real;
}

static double number_at(mica_packed type, const void *p, ptrdiff_t i)
{
    float f;
    uint16_t h;
    if (type == MICA_PACKED_F32) {
        memcpy(&f, (const char *)p + 4 * i, 4);
        return (double)f;
    }
    memcpy(&h, (const char *)p + 2 * i, 2);
    return type == MICA_PACKED_BF16 ? ck_decode_bf16(h) : ck_decode_f16(h);
}

/* What number k of row r is, and what its rounding is measured by. */
static double decode(const mica_packed_rows *w, int r, int k, double *size)
{
    const mica_dtype_info *info = mica_dtype_get(TYPES[w->type].dtype);
    const uint8_t *row = (const uint8_t *)w->data + r * w->ld;
    float block[MICA_PACKED_BLOCK];
    double v;
    if (is_plain(w->type)) {
        mica_tensor t = mica_tensor_1d((void *)(uintptr_t)(row + (ptrdiff_t)k * info->size),
                                       TYPES[w->type].dtype, 1);
        v = w->type == MICA_PACKED_S8 ? (double)(int8_t)row[k]
                                      : (double)mica_tensor_read_f32(&t, 0);
        *size = fabs(v);
    } else {
        mica_packed_read_block(TYPES[w->type].dtype,
                               row + (ptrdiff_t)(k / info->block) * info->size, block);
        v = (double)block[k % info->block];
        *size = 0.0; /* of what the block's numbers can be: an offset may cancel */
        for (int i = k % info->block / 32 * 32, n = 0; n < 32; n++)
            *size = fmax(*size, 2.0 * fabs((double)block[i + n]));
    }
    if (is_stream(w->type)) {
        const ptrdiff_t g = r * w->ld_scale + k / w->group;
        const double scaled = v * number_at(w->scale_type, w->scale, g);
        const double bias = w->bias ? number_at(w->scale_type, w->bias, g) : 0.0;
        v = scaled + bias;
        *size = fabs(scaled) + fabs(bias);
    }
    if (w->row_scale) {
        v *= (double)w->row_scale[r];
        *size *= fabs((double)w->row_scale[r]);
    }
    return v;
}

static mica_packed_rows make_rows(ck *c, mica_packed type, int rows, int n)
{
    const mica_dtype_info *info = mica_dtype_get(TYPES[type].dtype);
    mica_packed_rows w = {.type = type, .rows = rows};
    w.n = (n + info->block - 1) / info->block * info->block;
    if (is_stream(type))
        add_scales(c, &w, NULL);
    const int bytes = w.n / info->block * info->size;
    const int gap = is_plain(type) ? info->size * ck_int(c, 0, 3) : ck_int(c, 0, 3);
    w.ld = bytes + gap;
    uint8_t *data = ck_buffer(
        c, (size_t)((rows - 1) * w.ld + bytes) / (size_t)(is_plain(type) ? info->size : 1),
        is_plain(type) ? (size_t)info->size : 1);
    for (int r = 0; r < rows; r++) {
        if (is_plain(type))
            fill_plain(c, type, data + r * w.ld, w.n);
        else
            fill_blocks(c, type, data + r * w.ld, w.n / info->block);
    }
    w.data = data;
    if (ck_int(c, 0, 1)) {
        float *scale = ck_floats(c, rows);
        ck_fill_normal(c, rows, scale, 1.0);
        w.row_scale = scale;
    }
    return w;
}

static int pick_length(ck *c)
{
    return ck_int(c, 0, 9) == 0 ? ck_int(c, 4000, 17000) : ck_int(c, 1, 1100);
}

void check_unpack_f32(ck *c)
{
    for (int type = 0; type < MICA_PACKED_COUNT; type++) {
        ck_begin(c);
        const mica_packed_rows w = make_rows(c, (mica_packed)type, ck_int(c, 1, 3), pick_length(c));
        const ptrdiff_t ld = ck_stride(c, w.n);
        float *dst = ck_floats(c, (int64_t)ck_matrix_count(w.rows, w.n, ld));
        c->k->unpack_f32(&w, dst, ld);
        for (int r = 0; r < w.rows; r++)
            for (int k = 0; k < w.n; k++) {
                double size;
                const double want = decode(&w, r, k, &size);
                ck_near(c, mica_dtype_get(TYPES[type].dtype)->name, k, (double)dst[r * ld + k],
                        want, 4.0 * 0x1p-24 * size + 0x1p-149);
            }
        ck_gaps(c, dst, w.rows, w.n, ld, sizeof *dst);
        ck_end(c, mica_dtype_get(TYPES[type].dtype)->name);
    }
}

void check_unpack_bf16(ck *c)
{
    for (int type = 0; type < MICA_PACKED_COUNT; type++) {
        ck_begin(c);
        const mica_packed_rows w = make_rows(c, (mica_packed)type, ck_int(c, 1, 3), pick_length(c));
        const ptrdiff_t ld = ck_stride(c, w.n), ld_wide = w.n;
        uint16_t *dst = ck_buffer(c, ck_matrix_count(w.rows, w.n, ld), 2);
        float *wide = ck_floats(c, (int64_t)w.rows * w.n);
        c->k->unpack_bf16(&w, dst, ld);
        c->k->unpack_f32(&w, wide, ld_wide); /* checked above; here the rounding alone */
        for (int r = 0; r < w.rows; r++)
            for (int k = 0; k < w.n; k++)
                ck_near(c, mica_dtype_get(TYPES[type].dtype)->name, k,
                        ck_decode_bf16(dst[r * ld + k]),
                        ck_round_bf16((double)wide[r * ld_wide + k]), 0.0);
        ck_gaps(c, dst, w.rows, w.n, ld, sizeof *dst);
        ck_end(c, mica_dtype_get(TYPES[type].dtype)->name);
    }
}

/* Rows of x alone give the bits they give together. */
static void check_alone(ck *c, const mica_packed_rows *w, int m, const float *x, ptrdiff_t ldx,
                        const float *y, ptrdiff_t ldy)
{
    float *one = ck_floats(c, w->rows);
    for (int i = 0; i < m; i++) {
        c->k->dot_rows(w, 1, x + i * ldx, ldx, one, w->rows);
        ck_same_bytes(c, "a row alone", one, y + i * ldy, (size_t)w->rows * sizeof *one);
    }
}

void check_dot_rows(ck *c)
{
    for (int type = 0; type < MICA_PACKED_COUNT; type++) {
        ck_begin(c);
        const mica_packed_rows w = make_rows(c, (mica_packed)type, ck_int(c, 1, 4), pick_length(c));
        const int m = ck_int(c, 1, 9);
        const ptrdiff_t ldx = ck_stride(c, w.n), ldy = ck_stride(c, w.rows);
        float *x = ck_floats(c, (int64_t)ck_matrix_count(m, w.n, ldx));
        float *y = ck_floats(c, (int64_t)ck_matrix_count(m, w.rows, ldy));
        for (int i = 0; i < m; i++)
            ck_fill_normal(c, w.n, x + i * ldx, 1.0);
        c->k->dot_rows(&w, m, x, ldx, y, ldy);
        for (int i = 0; i < m; i++)
            for (int r = 0; r < w.rows; r++) {
                double want = 0.0, bound = 0.0, size;
                for (int k = 0; k < w.n; k++) {
                    want += decode(&w, r, k, &size) * (double)x[i * ldx + k];
                    bound += size * fabs((double)x[i * ldx + k]);
                }
                /* 4 roundings of a number, n / 16 of the sum and those of its end */
                ck_near(c, mica_dtype_get(TYPES[type].dtype)->name, r, (double)y[i * ldy + r], want,
                        0x1p-24 * (w.n / 4 + 16) * bound + 0x1p-140);
            }
        check_alone(c, &w, m, x, ldx, y, ldy);
        ck_gaps(c, y, m, w.rows, ldy, sizeof *y);
        ck_end(c, mica_dtype_get(TYPES[type].dtype)->name);
    }
}

/* ---------------------------------------------------------------- digits -- */

/* x of one magnitude, of many, and of nothing, in blocks of 32. */
static void fill_uneven(ck *c, int n, float *x)
{
    for (int i = 0; i < n; i += 32) {
        const int kind = ck_int(c, 0, 7);
        const int left = n - i < 32 ? n - i : 32;
        ck_fill_normal(c, left, x + i, kind == 0 ? 0.0 : kind == 1 ? 1e-35 : kind == 2 ? 1e5 : 1.0);
        if (kind == 3)
            x[i + ck_int(c, 0, left - 1)] = 3e4f;
    }
}

/* What the rounding of number k of x may be: of its block of 32's largest, and what counts as nothing. */
static double rounding_of(int digits, const float *x, int n, int k)
{
    static const double SHARE[] = {0, 1.0 / 253, 0x1p-15, 0x1p-23};
    double most = 0.0;
    for (int i = k / 32 * 32; i < n && i < k / 32 * 32 + 32; i++)
        most = fmax(most, fabs((double)x[i]));
    return most < 0x1p-100 ? most : SHARE[digits] * most;
}

/* Number r of a product with row x, and how far from it digits may lead. */
static double digits_product(const mica_packed_rows *w, int digits, int r, const float *x,
                             double *bound)
{
    double want = 0.0, size;
    *bound = w->n * 0x1p-119; /* a scale times s below 2^-126 loses digits: 2^-150 of 2^23 * 255 */
    for (int k = 0; k < w->n; k++) {
        want += decode(w, r, k, &size) * (double)x[k];
        *bound += size * (0x1p-24 * (w->n / 4 + 16) * fabs((double)x[k]) +
                          rounding_of(digits, x, w->n, k));
    }
    return want;
}

static void check_digits_of(ck *c, mica_packed type, int count)
{
    ck_begin(c);
    const char *name = mica_dtype_get(TYPES[type].dtype)->name;
    const mica_packed_rows w = make_rows(c, type, ck_int(c, 1, 20), pick_length(c));
    const int m = ck_int(c, 1, 9);
    const size_t ld = MICA_DIGITS_SIZE(w.n, count);
    const ptrdiff_t ldx = ck_stride(c, w.n), ldy = ck_stride(c, w.rows);
    float *x = ck_floats(c, (int64_t)ck_matrix_count(m, w.n, ldx));
    float *y = ck_floats(c, (int64_t)ck_matrix_count(m, w.rows, ldy));
    int8_t *digits = ck_buffer(c, ld * (size_t)m / 4, 4);
    float *one = ck_floats(c, w.rows);
    for (int i = 0; i < m; i++)
        fill_uneven(c, w.n, x + i * ldx);
    c->k->digits_from_f32(w.type, count, m, w.n, x, ldx, digits);
    c->k->dot_digits(&w, count, m, digits, y, ldy);
    for (int i = 0; i < m; i++) {
        for (int r = 0; r < w.rows; r++) {
            double bound;
            const double want = digits_product(&w, count, r, x + i * ldx, &bound);
            ck_near(c, name, r, (double)y[i * ldy + r], want, bound);
        }
        c->k->dot_digits(&w, count, 1, digits + (size_t)i * ld, one, w.rows);
        ck_same_bytes(c, "a row alone", one, y + i * ldy, (size_t)w.rows * sizeof *one);
    }
    ck_gaps(c, y, m, w.rows, ldy, sizeof *y);
    ck_end(c, name);
}

void check_dot_digits(ck *c)
{
    for (int type = MICA_PACKED_S8; c->k->dot_digits && type < MICA_PACKED_COUNT; type++)
        for (int count = 1; count <= MICA_DIGITS_MOST; count++)
            check_digits_of(c, (mica_packed)type, count);
}

/* Digits themselves are dot_digits' own business; here: their size, what NaN and infinities do, and that a
 * row's do not depend on the others. */
void check_digits_from_f32(ck *c)
{
    static const float BAD[] = {INFINITY, -INFINITY, NAN};
    if (!c->k->digits_from_f32)
        return;
    ck_begin(c);
    mica_packed_rows w = make_rows(c, MICA_PACKED_Q8_0, 2, ck_int(c, 1, 1100));
    const int m = ck_int(c, 2, 4), count = ck_int(c, 1, MICA_DIGITS_MOST);
    const size_t ld = MICA_DIGITS_SIZE(w.n, count);
    float *x = ck_floats(c, (int64_t)m * w.n), *y = ck_floats(c, 2);
    int8_t *all = ck_buffer(c, ld * (size_t)m / 4, 4), *one = ck_buffer(c, ld / 4, 4);
    ck_fill_normal(c, (int64_t)m * w.n, x, 1.0);
    c->k->digits_from_f32(w.type, count, m, w.n, x, w.n, all);
    for (int i = 0; i < m; i++) {
        c->k->digits_from_f32(w.type, count, 1, w.n, x + i * w.n, w.n, one);
        ck_same_bytes(c, "digits alone", one, all + (size_t)i * ld, ld);
    }
    x[ck_int(c, 0, w.n - 1)] = BAD[ck_int(c, 0, 2)];
    c->k->digits_from_f32(w.type, count, 1, w.n, x, w.n, one);
    c->k->dot_digits(&w, count, 1, one, y, 2);
    for (int r = 0; r < 2; r++)
        ck_equal(c, "NaN or infinity makes NaN", r, isnan(y[r]), 1);
    ck_end(c, "digits");
}

/* ---------------------------------------------------------------- bench -- */

typedef struct packed_bench {
    mica_packed_rows w;
    const float *x;
    float *y;
    int m, digits;
} packed_bench;

static void run_dot(const mica_kernels *k, const void *problem)
{
    const packed_bench *b = problem;
    k->dot_rows(&b->w, b->m, b->x, b->w.n, b->y, b->w.rows);
}
static void run_digits(const mica_kernels *k, const void *problem)
{
    const packed_bench *b = problem;
    k->dot_digits(&b->w, b->digits, b->m, (const int8_t *)(const void *)b->x, b->y, b->w.rows);
}
static void run_make_digits(const mica_kernels *k, const void *problem)
{
    const packed_bench *b = problem;
    k->digits_from_f32(b->w.type, b->digits, 1, b->w.n, b->x, b->w.n, (int8_t *)(void *)b->y);
}
static void run_f32(const mica_kernels *k, const void *problem)
{
    const packed_bench *b = problem;
    k->unpack_f32(&b->w, b->y, b->w.n);
}
static void run_bf16(const mica_kernels *k, const void *problem)
{
    const packed_bench *b = problem;
    k->unpack_bf16(&b->w, (uint16_t *)(void *)b->y, b->w.n);
}

/* 64 rows of 4096: in the cache, so that decoding is measured and not memory. */
static void bench_types(ck *c, ck_run *run, int first, int m, int digits)
{
    for (int type = first; type < MICA_PACKED_COUNT; type++) {
        ck_begin(c);
        packed_bench b = {.m = m, .digits = digits};
        b.w = make_rows(c, (mica_packed)type, 64, 4096);
        b.x = ck_floats(c, (int64_t)b.w.n * 8);
        b.y = ck_floats(c, (int64_t)b.w.n * 64);
        memset((void *)(uintptr_t)b.x, 0, (size_t)b.w.n * 8 * sizeof(float));
        printf("%-8s ", mica_dtype_get(TYPES[type].dtype)->name);
        ck_bench(c, run, &b, 64.0 * (double)b.w.ld, 2.0 * 64 * b.w.n * (m ? m : 1));
    }
}

void bench_dot_rows(ck *c)
{
    bench_types(c, run_dot, 0, 1, 0);
    printf("8 rows of x:\n");
    bench_types(c, run_dot, 0, 8, 0);
}
void bench_unpack_f32(ck *c)
{
    bench_types(c, run_f32, 0, 0, 0);
}
void bench_unpack_bf16(ck *c)
{
    bench_types(c, run_bf16, 0, 0, 0);
}
/* Zeros are digits too. */
void bench_dot_digits(ck *c)
{
    if (!c->k->dot_digits)
        return;
    for (int digits = MICA_DIGITS_MOST; digits; digits--)
        for (int m = 1; m <= 8; m += 7) {
            printf("%d rows of x, %d digits:\n", m, digits);
            bench_types(c, run_digits, MICA_PACKED_S8, m, digits);
        }
}
void bench_digits_from_f32(ck *c)
{
    if (!c->k->digits_from_f32)
        return;
    ck_begin(c);
    packed_bench b = {.m = 1, .digits = 2};
    b.w = make_rows(c, MICA_PACKED_Q4_K, 1, 4096);
    float *x = ck_floats(c, b.w.n);
    ck_fill_normal(c, b.w.n, x, 1.0);
    b.x = x;
    b.y = ck_floats(c, (int64_t)MICA_DIGITS_SIZE(b.w.n, b.digits) / 4);
    ck_bench(c, run_make_digits, &b, 4.0 * b.w.n, 0.0);
}
