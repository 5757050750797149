/* bench_ops.c - linears and attention of the CPU backend against oneDNN's own best.
 *
 *     bench_ops [--threads N] [--seconds S] [--route kernels|library] [linear|attention]
 *
 * For every depth and width of Qwen-Image's linears the peak is measured in the same run:
 * a oneDNN matmul of the same shape with weights packed in the layout it likes best, f32,
 * bf16 or u8 x s8. Rounds of peak and operation alternate, and the best of each counts, so
 * that a noisy neighbour hits both. Columns: milliseconds, GFLOP/s (2 per multiply-add;
 * attention: 4 L M H K), percent of that peak. A library's own epilogue is not in the peak;
 * ours (bias, GELU on the widening one, gated residual on the narrowing one) is. */
#include "backend/backend.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/cpu_dnnl.h"
#include "base/clock.h"
#include "base/half.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct bench {
    int threads;
    double seconds; /* per line */
    int route; /* of attention and int8 linears; 0: this machine's, 1: own kernels, 2: oneDNN */
} bench;

static void die(const char *what)
{
    fprintf(stderr, "bench_ops: %s\n", what);
    exit(1);
}

static void *must(void *p)
{
    if (!p)
        die("out of memory");
    return p;
}

static float noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / 16777216.0f - 0.5f;
}

static mica_tensor random_f32(int64_t rows, int64_t columns, float scale)
{
    mica_tensor t = mica_tensor_2d(NULL, MICA_DTYPE_F32, rows, columns);
    float *d = must(mica_mem_alloc_aligned(mica_tensor_size(&t), 64));
    uint32_t seed = 1;
    for (int64_t i = 0; i < rows * columns; i++)
        d[i] = scale * noise(&seed);
    t.data = d;
    return t;
}

static mica_weight random_bf16(int64_t rows, int64_t columns)
{
    mica_weight w = {.tensor = mica_tensor_2d(NULL, MICA_DTYPE_BF16, rows, columns),
                     .name = "bench"};
    uint16_t *d = must(mica_mem_alloc_aligned(mica_tensor_size(&w.tensor), 64));
    uint32_t seed = 2;
    for (int64_t i = 0; i < rows * columns; i++)
        d[i] = mica_f32_to_bf16(0.05f * noise(&seed));
    w.tensor.data = d;
    return w;
}

static mica_backend *open_backend(const bench *b, mica_precision precision)
{
    const mica_backend_options options = {.precision = precision, .threads = b->threads};
    mica_backend *be = NULL;
    mica_err err = {0};
    if (mica_backend_open(&be, &options, &err) != MICA_OK)
        die(err.text);
    if (b->route)
        mica_cpu_from(be)->use_dnnl = b->route == 2;
    return be;
}

/* ----------------------------------------------------------------- peak -- */

typedef struct peak {
    mica_cpu_backend *be;
    mica_dnnl_op *op;
    void *src, *weights, *dst, *scratch;
    bool exists;
} peak;

static peak peak_open(mica_backend *base, mica_dnnl_type src, mica_dnnl_type weight,
                      mica_dnnl_type dst, int m, int n, int k)
{
    peak p = {.be = mica_cpu_from(base)};
    mica_dnnl_key key = {0};
    key.kind = MICA_DNNL_MATMUL;
    key.parallel = 1;
    key.packed = MICA_DNNL_PACKED;
    key.src_type = (int32_t)src;
    key.weight_type = (int32_t)weight;
    key.dst_type = (int32_t)dst;
    key.m = m;
    key.n = key.ld_dst = n;
    key.k = key.ld_src = key.ld_weight = k;
    p.exists = mica_dnnl_get(p.be->dnnl, &key, &p.op, NULL) == MICA_OK;
    if (!p.exists)
        return p;
    const size_t weight_size = mica_dnnl_weight_size(p.op);
    p.src = must(mica_mem_calloc((size_t)m * (size_t)k, 4));
    p.weights = must(mica_mem_alloc_aligned(weight_size, 64));
    memset(p.weights, 0, weight_size);
    p.dst = must(mica_mem_calloc((size_t)m * (size_t)n, 4));
    p.scratch = must(mica_mem_alloc_aligned(mica_dnnl_scratch_size(p.op) + 64, 64));
    return p;
}

static void peak_close(peak *p)
{
    mica_mem_free(p->src);
    mica_mem_free(p->weights);
    mica_mem_free(p->dst);
    mica_mem_free(p->scratch);
    *p = (peak){0};
}

static double peak_run(const peak *p)
{
    const double start = mica_clock_seconds();
    if (mica_dnnl_run(p->be->dnnl, p->op, 0, p->src, p->weights, NULL, p->dst, p->scratch, NULL))
        die("oneDNN refused a matmul");
    return mica_clock_seconds() - start;
}

/* --------------------------------------------------------------- linear -- */

typedef struct precision_row {
    const char *name;
    mica_precision precision;
    mica_dnnl_type src, weight, dst;
} precision_row;

static const precision_row precisions[] = {
    {"f32", MICA_PRECISION_F32, MICA_DNNL_F32, MICA_DNNL_F32, MICA_DNNL_F32},
    {"bf16", MICA_PRECISION_BF16, MICA_DNNL_BF16, MICA_DNNL_BF16, MICA_DNNL_F32},
    {"int8", MICA_PRECISION_INT8, MICA_DNNL_U8, MICA_DNNL_S8, MICA_DNNL_S32},
};

static void line(const char *name, const char *precision, const char *shape, double flops,
                 double seconds, double peak_seconds)
{
    printf("%-10s %-5s %-20s %9.2f ms %8.1f GFLOP/s", name, precision, shape, 1e3 * seconds,
           1e-9 * flops / seconds);
    if (peak_seconds > 0.0)
        printf(" %6.1f %% of %.1f", 100.0 * peak_seconds / seconds, 1e-9 * flops / peak_seconds);
    printf("\n");
    fflush(stdout);
}

static void bench_linear(const bench *b, const precision_row *row, int m, int n, int k)
{
    mica_backend *be = open_backend(b, row->precision);
    /* Without a bf16 unit the bf16 path computes in f32, and that is its peak. */
    const bool plain = row->precision == MICA_PRECISION_BF16 && !mica_cpu_from(be)->use_bf16;
    const precision_row *of = plain ? &precisions[0] : row;
    peak p = peak_open(be, of->src, of->weight, of->dst, m, n, k);
    mica_tensor x = random_f32(m, k, 2.0f), y = random_f32(m, n, 1.0f),
                gate = random_f32(1, n, 1.0f);
    mica_weight w = random_bf16(n, k), bias = random_bf16(1, n);
    const mica_linear_args args = {.x_MD = &x,
                                   .w_OD = &w,
                                   .bias_O = &bias,
                                   .act = n > k ? MICA_ACT_GELU_TANH : MICA_ACT_NONE,
                                   .gate_O = n < k ? &gate : NULL,
                                   .residual_MO = n < k ? &y : NULL,
                                   .y_MO = &y};
    double best = 1e9, best_peak = p.exists ? 1e9 : 0.0;
    const double end = mica_clock_seconds() + b->seconds;
    mica_linear(be, &args);
    for (int i = 0; i < 3 || mica_clock_seconds() < end; i++) {
        if (p.exists)
            best_peak = MICA_MIN(best_peak, peak_run(&p));
        const double start = mica_clock_seconds();
        mica_linear(be, &args);
        best = MICA_MIN(best, mica_clock_seconds() - start);
    }
    char shape[64];
    snprintf(shape, sizeof shape, "%d x %d x %d", m, n, k);
    line("linear", row->name, shape, 2.0 * m * n * k, best, best_peak);
    peak_close(&p);
    mica_backend_close(&be);
    mica_tensor *const all[] = {&x, &y, &gate, &w.tensor, &bias.tensor};
    for (size_t i = 0; i < MICA_ARRAY_LEN(all); i++)
        mica_mem_free(all[i]->data);
}

/* ------------------------------------------------------------ attention -- */

static void bench_attention(const bench *b, const precision_row *row, int tokens, int heads,
                            int width)
{
    mica_backend *be = open_backend(b, row->precision);
    const precision_row *of = mica_cpu_from(be)->use_bf16 ? &precisions[1] : &precisions[0];
    peak p = peak_open(be, of->src, of->weight, of->dst, 1044, 3072, 3072);
    const double scale = 4.0 * tokens * (double)tokens * heads * width / (2.0 * 1044 * 3072 * 3072);
    mica_tensor t[4];
    const int64_t shape[3] = {tokens, heads, width};
    for (int i = 0; i < 4; i++) {
        t[i] = random_f32(tokens, (int64_t)heads * width, 2.0f);
        t[i] = mica_tensor_reshape(&t[i], 3, shape);
    }
    const mica_attention_args args = {
        .segments = 1, .q_LHK = {&t[0]}, .k_MGK = {&t[1]}, .v_MGK = {&t[2]}, .out_LHK = {&t[3]}};
    double best = 1e9, best_peak = p.exists ? 1e9 : 0.0;
    const double end = mica_clock_seconds() + b->seconds;
    mica_attention(be, &args);
    for (int i = 0; i < 3 || mica_clock_seconds() < end; i++) {
        if (p.exists)
            best_peak = MICA_MIN(best_peak, peak_run(&p));
        const double start = mica_clock_seconds();
        mica_attention(be, &args);
        best = MICA_MIN(best, mica_clock_seconds() - start);
    }
    char text[64];
    snprintf(text, sizeof text, "%d x %d x %d", tokens, heads, width);
    line("attention", of->name, text, 4.0 * tokens * (double)tokens * heads * width, best,
         best_peak * scale);
    peak_close(&p);
    mica_backend_close(&be);
    for (int i = 0; i < 4; i++)
        mica_mem_free(t[i].data);
}

int main(int argc, char **argv)
{
    static const int tokens[] = {276, 1044, 4352};
    static const int shapes[][2] = {
        {3072, 3072}, {12288, 3072}, {3072, 12288}}; /* outputs, depth */
    bench b = {.threads = 0, .seconds = 1.0};
    const char *only = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc)
            b.threads = atoi(argv[++i]);
        else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc)
            b.seconds = atof(argv[++i]);
        else if (strcmp(argv[i], "--route") == 0 && i + 1 < argc)
            b.route = strcmp(argv[++i], "library") == 0 ? 2 : 1;
        else if (argv[i][0] != '-')
            only = argv[i];
        else
            die("usage: bench_ops [--threads N] [--seconds S] [--route kernels|library] "
                "[linear|attention]");
    }
    mica_backend *be = open_backend(&b, MICA_PRECISION_BF16);
    printf("%s\n", mica_backend_name(be));
    mica_backend_close(&be);
    for (size_t p = 0; p < MICA_ARRAY_LEN(precisions) && (!only || strcmp(only, "linear") == 0);
         p++)
        for (size_t t = 0; t < MICA_ARRAY_LEN(tokens); t++)
            for (size_t s = 0; s < MICA_ARRAY_LEN(shapes); s++)
                bench_linear(&b, &precisions[p], tokens[t], shapes[s][0], shapes[s][1]);
    for (size_t t = 0; t < MICA_ARRAY_LEN(tokens) && (!only || strcmp(only, "attention") == 0); t++)
        bench_attention(&b, &precisions[1], tokens[t], 24, 128);
    if (!only || strcmp(only, "attention") == 0)
        bench_attention(&b, &precisions[1], 4096, 1, 384);
    return 0;
}
