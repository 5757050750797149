/* check_convert.c - number formats: every code of the narrow types, rounding, quantisation. */
#include "checkkern.h"

#define BENCH_N 49152

typedef double decode16(uint16_t h);
typedef double decode8(uint8_t b);
typedef double round_f64(double x);

/* The product with the factor is rounded to f32 first, then to the destination. */
static double times(double x, float scale)
{
    return (double)((float)x * scale);
}

/* ---------------------------------------------------------- narrow to f32 -- */

static void check_from_16(ck *c, mica_kernel_f32_from_bf16 *run, decode16 *decode)
{
    for (int round = 0; round < 10; round++) {
        ck_begin(c);
        const int n = round ? ck_length(c, 300) : 65536;
        uint16_t *x = ck_buffer(c, (size_t)n, 2);
        float *y = ck_floats(c, n);
        const float scale = round % 2 ? 0.37f : 1.0f;
        for (int i = 0; i < n; i++)
            x[i] = (uint16_t)(round ? ck_random(c) : (uint64_t)i);
        run(n, x, scale, y);
        for (int i = 0; i < n; i++)
            ck_near(c, "y", x[i], y[i], times(decode(x[i]), scale), 0.0);
        ck_end(c, round ? "random codes" : "all codes");
    }
}
static void check_from_8(ck *c, mica_kernel_f32_from_f8_e4m3 *run, decode8 *decode)
{
    for (int round = 0; round < 10; round++) {
        ck_begin(c);
        const int n = round ? ck_length(c, 300) : 256;
        uint8_t *x = ck_buffer(c, (size_t)n, 1);
        float *y = ck_floats(c, n);
        const float scale = round % 2 ? 0.37f : 1.0f;
        for (int i = 0; i < n; i++)
            x[i] = (uint8_t)(round ? ck_random(c) : (uint64_t)i);
        run(n, x, scale, y);
        for (int i = 0; i < n; i++)
            ck_near(c, "y", x[i], y[i], times(decode(x[i]), scale), 0.0);
        ck_end(c, round ? "random codes" : "all codes");
    }
}
void check_f32_from_bf16(ck *c)
{
    check_from_16(c, c->k->f32_from_bf16, ck_decode_bf16);
}
void check_f32_from_f16(ck *c)
{
    check_from_16(c, c->k->f32_from_f16, ck_decode_f16);
}
void check_f32_from_f8_e4m3(ck *c)
{
    check_from_8(c, c->k->f32_from_f8_e4m3, ck_decode_e4m3);
}
void check_f32_from_f8_e5m2(ck *c)
{
    check_from_8(c, c->k->f32_from_f8_e5m2, ck_decode_e5m2);
}

/* ------------------------------------------------------------- to 16 bits -- */

static float any_float(ck *c)
{
    const uint32_t u = (uint32_t)ck_random(c);
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Numbers halfway between neighbours of f16 and bf16, and just beside halfway. */
static float near_tie(ck *c)
{
    const double unit = ldexp(1.0, ck_int(c, -30, 20));
    return (float)(unit * (ck_int(c, 0, 4096) + 0.5 + 0x1p-11 * ck_int(c, -1, 1)));
}

static void check_from_f32(ck *c, mica_kernel_bf16_from_f32 *run, decode16 *decode,
                           round_f64 *round_to)
{
    for (int round = 0; round < 12; round++) {
        ck_begin(c);
        const int n = round ? ck_length(c, 300) : 20000;
        float *x = ck_floats(c, n);
        uint16_t *y = ck_buffer(c, (size_t)n, 2);
        const float scale = round % 3 == 2 ? 0.37f : 1.0f;
        for (int i = 0; i < n; i++)
            x[i] = i % 2 ? any_float(c) : near_tie(c);
        ck_sprinkle(c, n / 4, x);
        run(n, x, scale, y);
        for (int i = 0; i < n; i++) {
            const double want = round_to(times((double)x[i], scale));
            /* Above the largest number of the narrow type the result is infinite. */
            const double got = decode(y[i]);
            ck_near(c, "y", i, got, want, 0.0);
            if (want == 0.0)
                ck_equal(c, "sign", i, signbit(got) != 0, signbit(want) != 0);
        }
        ck_end(c, "n");
    }
}
void check_bf16_from_f32(ck *c)
{
    check_from_f32(c, c->k->bf16_from_f32, ck_decode_bf16, ck_round_bf16);
}

/* ----------------------------------------------------------- quantisation -- */

/* x as real numbers against what came out of a run. Within half a step, and a hair for the
 * rounding of x * (127 / absmax). */
static void compare_s8(ck *c, int n, const double *x, const int8_t *q, float scale, int32_t sum)
{
    double most = 0.0;
    int64_t total = 0;
    for (int i = 0; i < n; i++)
        most = fmax(most, fabs(x[i]));
    ck_near(c, "scale", n, scale, most < 1e-30 ? 0.0 : most / 127.0, 1e-7 * most);
    for (int i = 0; i < n; i++) {
        ck_near(c, "q * scale", i, (double)q[i] * scale, most < 1e-30 ? 0.0 : x[i],
                most / 127.0 * (0.5 + 4e-5));
        ck_equal(c, "is -128", i, q[i] == -128, 0);
        total += q[i];
    }
    ck_equal(c, "sum", n, sum, total);
}

void check_quantize_s8_from_f32(ck *c)
{
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        const int n = ck_length(c, 700);
        float *x = ck_floats(c, n);
        int8_t *q = ck_buffer(c, (size_t)n, 1);
        double *real = ck_buffer(c, (size_t)n, sizeof(double));
        const double spreads[] = {1.0, 1e20, 1e-20, 0.0};
        ck_fill_normal(c, n, x, spreads[round % 4]);
        if (round % 5 == 4)
            x[ck_int(c, 0, n - 1)] = 100.0f; /* an outlier */
        if (round == 15)
            x[0] = 1e-40f; /* too small to have a scale */
        for (int i = 0; i < n; i++)
            real[i] = x[i];
        int32_t sum = -1;
        const float scale = c->k->quantize_s8_from_f32(n, x, q, &sum);
        compare_s8(c, n, real, q, scale, sum);
        c->k->quantize_s8_from_f32(n, x, q, NULL);
        ck_end(c, "row");
    }
}

static void check_s8_from_16(ck *c, mica_kernel_quantize_s8_from_bf16 *run, decode16 *decode)
{
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        const int n = ck_length(c, 700);
        uint16_t *x = ck_buffer(c, (size_t)n, 2);
        int8_t *q = ck_buffer(c, (size_t)n, 1);
        double *real = ck_buffer(c, (size_t)n, sizeof(double));
        for (int i = 0; i < n; i++) {
            do
                x[i] = (uint16_t)(ck_random(c) & 0xbfff); /* |x| < 2 in both types */
            while (!isfinite(decode(x[i])));
            real[i] = decode(x[i]);
        }
        int32_t sum = -1;
        const float scale = run(n, x, q, &sum);
        compare_s8(c, n, real, q, scale, sum);
        ck_end(c, "row");
    }
}
static void check_s8_from_8(ck *c, mica_kernel_quantize_s8_from_f8_e4m3 *run, decode8 *decode)
{
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        const int n = ck_length(c, 700);
        uint8_t *x = ck_buffer(c, (size_t)n, 1);
        int8_t *q = ck_buffer(c, (size_t)n, 1);
        double *real = ck_buffer(c, (size_t)n, sizeof(double));
        for (int i = 0; i < n; i++) {
            do
                x[i] = (uint8_t)ck_random(c);
            while (!isfinite(decode(x[i])));
            real[i] = decode(x[i]);
        }
        int32_t sum = -1;
        const float scale = run(n, x, q, &sum);
        compare_s8(c, n, real, q, scale, sum);
        ck_end(c, "row");
    }
}
void check_quantize_s8_from_bf16(ck *c)
{
    check_s8_from_16(c, c->k->quantize_s8_from_bf16, ck_decode_bf16);
}
void check_quantize_s8_from_f16(ck *c)
{
    check_s8_from_16(c, c->k->quantize_s8_from_f16, ck_decode_f16);
}
void check_quantize_s8_from_f8_e4m3(ck *c)
{
    check_s8_from_8(c, c->k->quantize_s8_from_f8_e4m3, ck_decode_e4m3);
}
void check_quantize_s8_from_f8_e5m2(ck *c)
{
    check_s8_from_8(c, c->k->quantize_s8_from_f8_e5m2, ck_decode_e5m2);
}

void check_quantize_u8_from_f32(ck *c)
{
    static const double offsets[] = {0.0, 2.0, -5.0, 0.0};
    static const double spreads[] = {1.0, 1.0, 0.5, 0.0};
    for (int round = 0; round < 16; round++) {
        ck_begin(c);
        const int n = ck_length(c, 700);
        float *x = ck_floats(c, n);
        uint8_t *q = ck_buffer(c, (size_t)n, 1);
        double low = 0.0, high = 0.0;
        for (int i = 0; i < n; i++) {
            x[i] = (float)(offsets[round % 4] + spreads[round % 4] * ck_normal(c));
            low = fmin(low, x[i]);
            high = fmax(high, x[i]);
        }
        int32_t zero = -1;
        const float scale = c->k->quantize_u8_from_f32(n, x, q, &zero);
        ck_near(c, "scale", n, scale, (high - low) / 255.0, 1e-6 * (high - low));
        ck_equal(c, "zero in range", zero, zero >= 0 && zero <= 255, 1);
        /* Half a step by rounding, half a step more at the ends, where the zero point moved. */
        for (int i = 0; i < n; i++)
            ck_near(c, "value", i, (double)scale * (q[i] - zero), x[i],
                    (high - low) / 255.0 *
                        (x[i] < low + scale || x[i] > high - scale ? 1.01 : 0.501));
        ck_end(c, "row");
    }
}

/* ------------------------------------------------------------- benchmark -- */

typedef struct arrays {
    float *f;
    uint16_t *h;
    uint8_t *b;
    float *out;
} arrays;

static arrays make_arrays(ck *c)
{
    ck_begin(c);
    arrays a = {ck_floats(c, BENCH_N), ck_buffer(c, BENCH_N, 2), ck_buffer(c, BENCH_N, 1),
                ck_floats(c, BENCH_N)};
    ck_fill_normal(c, BENCH_N, a.f, 0.05);
    for (int i = 0; i < BENCH_N; i++) {
        a.h[i] = ck_encode_bf16((double)a.f[i]);
        a.b[i] = (uint8_t)(ck_random(c) & 0xbf); /* denormals included, no NaN */
    }
    return a;
}

#define BENCH_CONVERT(slot, call, bytes_per_element)                                               \
    static void run_##slot(const mica_kernels *k, const void *problem)                             \
    {                                                                                              \
        const arrays *a = problem;                                                                 \
        call;                                                                                      \
    }                                                                                              \
    void bench_##slot(ck *c)                                                                       \
    {                                                                                              \
        const arrays a = make_arrays(c);                                                           \
        ck_bench(c, run_##slot, &a, (double)(bytes_per_element)*BENCH_N, 0);                       \
    }
#define OUT16 ((uint16_t *)(void *)a->out)
#define OUT8  ((int8_t *)(void *)a->out)
BENCH_CONVERT(f32_from_bf16, k->f32_from_bf16(BENCH_N, a->h, 1.0f, a->out), 6)
BENCH_CONVERT(f32_from_f16, k->f32_from_f16(BENCH_N, a->h, 1.0f, a->out), 6)
BENCH_CONVERT(f32_from_f8_e4m3, k->f32_from_f8_e4m3(BENCH_N, a->b, 0.5f, a->out), 5)
BENCH_CONVERT(f32_from_f8_e5m2, k->f32_from_f8_e5m2(BENCH_N, a->b, 0.5f, a->out), 5)
BENCH_CONVERT(bf16_from_f32, k->bf16_from_f32(BENCH_N, a->f, 1.0f, OUT16), 6)
BENCH_CONVERT(quantize_s8_from_f32, k->quantize_s8_from_f32(BENCH_N, a->f, OUT8, NULL), 5)
BENCH_CONVERT(quantize_s8_from_bf16, k->quantize_s8_from_bf16(BENCH_N, a->h, OUT8, NULL), 3)
BENCH_CONVERT(quantize_s8_from_f16, k->quantize_s8_from_f16(BENCH_N, a->h, OUT8, NULL), 3)
BENCH_CONVERT(quantize_s8_from_f8_e4m3, k->quantize_s8_from_f8_e4m3(BENCH_N, a->b, OUT8, NULL), 2)
BENCH_CONVERT(quantize_s8_from_f8_e5m2, k->quantize_s8_from_f8_e5m2(BENCH_N, a->b, OUT8, NULL), 2)

static void run_quantize_u8(const mica_kernels *k, const void *problem)
{
    const arrays *a = problem;
    int32_t zero;
    k->quantize_u8_from_f32(BENCH_N, a->f, (uint8_t *)a->out, &zero);
}
void bench_quantize_u8_from_f32(ck *c)
{
    const arrays a = make_arrays(c);
    ck_bench(c, run_quantize_u8, &a, 5.0 * BENCH_N, 0);
}
