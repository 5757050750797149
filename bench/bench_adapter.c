/* bench_adapter.c - what adapters cost a linear, against the same linear without.
 *
 *     bench_adapter [--threads N] [--seconds S] [--rows M]
 *
 * Qwen-Image's linears (3072 x 3072, 12288 x 3072, 3072 x 12288) in f32, bf16 and int8; LoRA of rank 16 and
 * 64, two of rank 16, LoHa of 8, LoKr of a factor 8 with a whole second part. Plain and adapted runs
 * alternate and the best of each counts. Columns: milliseconds without, then per cent added by each. The time is
 * the processor's, of all threads together, so that other work on the machine counts little. */
#include "backend/backend.h"
#include "base/clock.h"
#include "base/half.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void die(const char *what)
{
    fprintf(stderr, "bench_adapter: %s\n", what);
    exit(1);
}

static float noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / 16777216.0f - 0.5f;
}

static mica_tensor random_tensor(mica_dtype dtype, int64_t rows, int64_t columns)
{
    mica_tensor t = mica_tensor_2d(NULL, dtype, rows, columns);
    uint32_t seed = 1;
    t.data = mica_mem_alloc_aligned(mica_tensor_size(&t), 64);
    if (!t.data)
        die("out of memory");
    for (int64_t i = 0; i < rows * columns; i++)
        if (dtype == MICA_DTYPE_BF16)
            ((uint16_t *)t.data)[i] = mica_f32_to_bf16(0.05f * noise(&seed));
        else
            ((float *)t.data)[i] = noise(&seed);
    return t;
}

/* ---------------------------------------------------------------- adapters -- */

enum { RANK_16, RANK_64, TWO_OF_16, LOHA_8, LOKR_8, KINDS };
static const char *const NAMES[KINDS] = {"rank 16", "rank 64", "2 x rank 16", "LoHa 8", "LoKr 8"};

static mica_adapter low_rank(int64_t outputs, int64_t inputs, int64_t rank)
{
    return (mica_adapter){.count = outputs,
                          .scale = 1.0f,
                          .up = {random_tensor(MICA_DTYPE_BF16, outputs, rank)},
                          .down = {random_tensor(MICA_DTYPE_BF16, rank, inputs)}};
}

static const mica_adapter *make(int kind, int64_t outputs, int64_t inputs, mica_adapter a[2])
{
    a[0] = low_rank(outputs, inputs, kind == RANK_64 ? 64 : kind == LOHA_8 ? 8 : 16);
    if (kind == LOHA_8) {
        a[0].up[1] = random_tensor(MICA_DTYPE_BF16, outputs, 8);
        a[0].down[1] = random_tensor(MICA_DTYPE_BF16, 8, inputs);
    }
    if (kind == LOKR_8)
        a[0] = (mica_adapter){.count = outputs,
                              .scale = 1.0f,
                              .up = {random_tensor(MICA_DTYPE_BF16, outputs / 8, inputs / 8)},
                              .mix = random_tensor(MICA_DTYPE_F32, 8, 8)};
    if (kind == TWO_OF_16) {
        a[1] = low_rank(outputs, inputs, 16);
        a[0].next = &a[1];
    }
    return a;
}

static void free_adapters(mica_adapter a[2])
{
    for (int i = 0; i < 2; i++) {
        const mica_tensor all[] = {a[i].up[0], a[i].up[1], a[i].down[0], a[i].down[1], a[i].mix};
        for (size_t k = 0; k < MICA_ARRAY_LEN(all); k++)
            mica_mem_free(all[k].data);
    }
}

/* ----------------------------------------------------------------- measure -- */

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct linear {
    mica_backend *be;
    mica_weight w;
    mica_tensor x, y;
} linear;

static double run(linear *l, const mica_adapter *a)
{
    mica_err err = {0};
    l->w.adapters = a;
    const double start = cpu_seconds();
    mica_linear(l->be, &(mica_linear_args){.x_MD = &l->x, .w_OD = &l->w, .y_MO = &l->y});
    const double seconds = cpu_seconds() - start;
    if (mica_backend_check(l->be, &err))
        die(err.text);
    return seconds;
}

static void measure(linear *l, double limit)
{
    mica_adapter adapters[KINDS][2] = {{{0}}};
    double plain = 1e9, best[KINDS];
    run(l, NULL); /* prepares */
    for (int k = 0; k < KINDS; k++) {
        make(k, l->w.tensor.shape_[0], l->w.tensor.shape_[1], adapters[k]);
        best[k] = 1e9;
    }
    const double start = mica_clock_seconds();
    do {
        plain = MICA_MIN(plain, run(l, NULL));
        for (int k = 0; k < KINDS; k++)
            best[k] = MICA_MIN(best[k], run(l, adapters[k]));
    } while (mica_clock_seconds() - start < limit);
    printf(" %9.1f ms", 1e3 * plain);
    for (int k = 0; k < KINDS; k++) {
        printf("  %s %+.1f %%", NAMES[k], 100.0 * (best[k] / plain - 1.0));
        free_adapters(adapters[k]);
    }
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const mica_precision PRECISIONS[] = {MICA_PRECISION_F32, MICA_PRECISION_BF16,
                                                MICA_PRECISION_INT8};
    static const char *const WORDS[] = {"f32", "bf16", "int8"};
    static const int64_t SHAPES[][2] = {{3072, 3072}, {12288, 3072}, {3072, 12288}};
    int threads = 0, rows = 1024;
    double seconds = 4.0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--threads") == 0)
            threads = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--rows") == 0)
            rows = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--seconds") == 0)
            seconds = atof(argv[i + 1]);
        else
            die("bench_adapter [--threads N] [--seconds S] [--rows M]");
    }
    for (size_t p = 0; p < MICA_ARRAY_LEN(PRECISIONS); p++)
        for (size_t s = 0; s < MICA_ARRAY_LEN(SHAPES); s++) {
            const int64_t o = SHAPES[s][0], d = SHAPES[s][1];
            const mica_backend_options options = {.precision = PRECISIONS[p], .threads = threads};
            linear l = {.w = {.tensor = random_tensor(MICA_DTYPE_BF16, o, d), .name = "bench"},
                        .x = random_tensor(MICA_DTYPE_F32, rows, d),
                        .y = random_tensor(MICA_DTYPE_F32, rows, o)};
            mica_err err = {0};
            if (mica_backend_open(&l.be, &options, &err))
                die(err.text);
            printf("%-5s %5lld x %5lld x %d", WORDS[p], (long long)o, (long long)d, rows);
            measure(&l, seconds);
            mica_backend_close(&l.be);
            mica_mem_free(l.w.tensor.data);
            mica_mem_free(l.x.data);
            mica_mem_free(l.y.data);
        }
    return 0;
}
