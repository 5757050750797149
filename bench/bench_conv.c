/* bench_conv.c - convolutions of the picture decoder on the CPU backend against a matmul.
 *
 *     bench_conv [--threads N] [--seconds S]
 *
 * The shapes are those of the Qwen-Image decoder for pictures up to 512 x 512 (f32, 3 x 3, padding 1,
 * bias; a residual in place where the model has one). Percent is of the best f32 matmul of
 * oneDNN (1024 x 3072 x 3072, packed) measured in the same run; rounds alternate. */
#include "backend/backend.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/cpu_dnnl.h"
#include "base/clock.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct shape {
    int size, c, o;
    bool residual;
} shape;

static const shape shapes[] = {
    {32, 16, 384, false},  {32, 384, 384, true},  {64, 384, 384, true},  {64, 384, 192, false},
    {128, 192, 192, true}, {256, 192, 192, true}, {256, 192, 96, false}, {256, 96, 96, true},
    {512, 96, 96, true},   {512, 96, 3, false},
};

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "bench_conv: out of memory\n");
        exit(1);
    }
    return p;
}

static void check(mica_status st, const mica_err *err)
{
    if (st != MICA_OK) {
        fprintf(stderr, "bench_conv: %s\n", err->text);
        exit(1);
    }
}

static mica_tensor random_tensor(int ndim, const int64_t *dims)
{
    mica_tensor t = mica_tensor_make(NULL, MICA_DTYPE_F32, ndim, dims);
    float *d = must(mica_mem_alloc_aligned(mica_tensor_size(&t), 4096));
    uint32_t state = 1;
    for (int64_t i = 0; i < mica_tensor_count(&t); i++) {
        state = state * 1664525u + 1013904223u;
        d[i] = (float)(state >> 8) / 16777216.0f - 0.5f;
    }
    t.data = d;
    return t;
}

typedef struct peak {
    mica_dnnl_op *op;
    mica_tensor x, y, w;
    void *scratch;
} peak;

enum { PEAK_M = 1024, PEAK_N = 3072 };

static peak peak_open(mica_cpu_backend *be)
{
    peak p = {.x = random_tensor(2, (const int64_t[]){PEAK_M, PEAK_N}),
              .y = random_tensor(2, (const int64_t[]){PEAK_M, PEAK_N})};
    mica_dnnl_key key;
    mica_err err = {0};
    memset(&key, 0, sizeof key);
    key.kind = MICA_DNNL_MATMUL;
    key.parallel = 1;
    key.packed = MICA_DNNL_PACKED;
    key.m = PEAK_M;
    key.n = key.k = key.ld_src = key.ld_weight = key.ld_dst = PEAK_N;
    check(mica_dnnl_get(be->dnnl, &key, &p.op, &err), &err);
    /* Values do not matter for the time, so nothing is packed. */
    p.w = random_tensor(
        1, (const int64_t[]){(int64_t)(mica_dnnl_weight_size(p.op) / sizeof(float)) + 1});
    p.scratch = must(mica_mem_alloc_aligned(mica_dnnl_scratch_size(p.op) + 64, 64));
    return p;
}

static double peak_run(mica_cpu_backend *be, peak *p)
{
    mica_err err = {0};
    const double start = mica_clock_seconds();
    check(
        mica_dnnl_run(be->dnnl, p->op, 0, p->x.data, p->w.data, NULL, p->y.data, p->scratch, &err),
        &err);
    return 2.0 * PEAK_M * PEAK_N * PEAK_N / (mica_clock_seconds() - start);
}

static void bench_shape(mica_backend *be, peak *p, const shape *s, double seconds)
{
    mica_tensor x = random_tensor(3, (const int64_t[]){s->size, s->size, s->c});
    mica_tensor y = random_tensor(3, (const int64_t[]){s->size, s->size, s->o});
    mica_weight w = {.tensor = random_tensor(4, (const int64_t[]){s->o, s->c, 3, 3}),
                     .name = "bench"};
    mica_weight bias = {.tensor = random_tensor(1, (const int64_t[]){s->o}), .name = "bench"};
    const mica_conv2d_args args = {.x_YXC = &x,
                                   .w_OCYX = &w,
                                   .bias_O = &bias,
                                   .stride = 1,
                                   .pad_top = 1,
                                   .pad_bottom = 1,
                                   .pad_left = 1,
                                   .pad_right = 1,
                                   .residual_YXO = s->residual ? &y : NULL,
                                   .y_YXO = &y};
    const double flops = 2.0 * 9.0 * s->size * s->size * (double)s->c * s->o;
    mica_err err = {0};
    double best = 0.0, best_peak = 0.0;
    const double start = mica_clock_seconds();
    mica_conv2d(be, &args); /* packs */
    do {
        memset(y.data, 0, mica_tensor_size(&y)); /* the residual would grow to infinity */
        best_peak = MICA_MAX(best_peak, peak_run(mica_cpu_from(be), p));
        const double before = mica_clock_seconds();
        mica_conv2d(be, &args);
        best = MICA_MAX(best, flops / (mica_clock_seconds() - before));
    } while (mica_clock_seconds() - start < seconds);
    check(mica_backend_check(be, &err), &err);
    printf("%4d x %-4d %3d -> %-3d  %9.2f ms  %7.1f GFLOP/s  %5.1f %% of %.1f\n", s->size, s->size,
           s->c, s->o, 1e3 * flops / best, best * 1e-9, 100.0 * best / best_peak, best_peak * 1e-9);
    fflush(stdout);
    mica_backend_drop_weights(be, (mica_weight *[]){&w}, 1);
    mica_mem_free(x.data);
    mica_mem_free(y.data);
    mica_mem_free(w.tensor.data);
    mica_mem_free(bias.tensor.data);
}

int main(int argc, char **argv)
{
    mica_backend_options options = {.device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32};
    double seconds = 1.0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--threads") == 0)
            options.threads = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--seconds") == 0)
            seconds = atof(argv[i + 1]);
    }
    mica_backend *be = NULL;
    mica_err err = {0};
    check(mica_backend_open(&be, &options, &err), &err);
    printf("%s\n", mica_backend_name(be));
    peak p = peak_open(mica_cpu_from(be));
    for (size_t i = 0; i < MICA_ARRAY_LEN(shapes); i++)
        bench_shape(be, &p, &shapes[i], seconds);
    mica_mem_free(p.x.data);
    mica_mem_free(p.y.data);
    mica_mem_free(p.w.data);
    mica_mem_free(p.scratch);
    mica_backend_close(&be);
    return 0;
}
