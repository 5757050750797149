/* bench_step.c - one step of speech's text to semantic on the CPU, against what memory delivers.
 *
 *     bench_step [--threads N] [--seconds S] [--rows L] [--seen N] [--precision f32|bf16|int8]
 *
 * 24 blocks of width 512 with random numbers, bf16 in memory as a checkpoint's are, `seen` positions in each of
 * L caches. Three things in turns of a few milliseconds: the step as one region, the same block by block
 * (the ablation of fusion), and reading memory. Medians and the best of each are printed, and which share of
 * the reading the steps reach, turn by turn: on a busy machine only that says anything. */
#include "backend/backend.h"
#include "base/clock.h"
#include "base/half.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS   24
#define WIDTH    512
#define FFN      2048
#define HEADS    16
#define MOST     16 /* rows */
#define CAPACITY 1024
#define TURNS    4096
#define STEPS    2 /* of a turn */
#define LARGE    ((int64_t)256 << 20)

static void die(const char *what)
{
    fprintf(stderr, "bench_step: %s\n", what);
    exit(1);
}

static float noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / 16777216.0f - 0.5f;
}

static mica_tensor random_tensor(mica_dtype dtype, int64_t rows, int64_t columns, float size)
{
    static uint32_t seed = 1;
    mica_tensor t = mica_tensor_2d(NULL, dtype, rows, columns);
    t.data = mica_mem_alloc_aligned(mica_tensor_size(&t), 64);
    if (!t.data)
        die("out of memory");
    for (int64_t i = 0; i < rows * columns; i++)
        if (dtype == MICA_DTYPE_BF16)
            ((uint16_t *)t.data)[i] = mica_f32_to_bf16(size * noise(&seed));
        else
            ((float *)t.data)[i] = size * noise(&seed);
    if (rows == 1)
        t = mica_tensor_1d(t.data, dtype, columns);
    return t;
}

typedef struct model {
    mica_weight w[BLOCKS][8];
    mica_tensor vectors[BLOCKS][4];
    mica_post_norm_block blocks[BLOCKS];
    mica_tensor caches[MOST][BLOCKS][2];
    mica_tensor (*rows[MOST])[2];
    int64_t seen[MOST];
    mica_tensor x;
} model;

static void make_block(model *m, int n)
{
    static const int64_t SHAPES[8][2] = {{3 * WIDTH, WIDTH}, {WIDTH, WIDTH}, {FFN, WIDTH},
                                         {WIDTH, FFN},       {1, 3 * WIDTH}, {1, WIDTH},
                                         {1, FFN},           {1, WIDTH}};
    mica_weight *w = m->w[n];
    for (int i = 0; i < 8; i++)
        w[i] = (mica_weight){.tensor =
                                 random_tensor(MICA_DTYPE_BF16, SHAPES[i][0], SHAPES[i][1], 0.1f),
                             .name = "bench"};
    for (int i = 0; i < 4; i++)
        m->vectors[n][i] = random_tensor(MICA_DTYPE_F32, 1, WIDTH, 0.1f);
    m->blocks[n] = (mica_post_norm_block){.qkv_w = {&w[0]},
                                          .qkv_b = {&w[4]},
                                          .o_w = &w[1],
                                          .o_b = &w[5],
                                          .up_w = &w[2],
                                          .up_b = &w[6],
                                          .down_w = &w[3],
                                          .down_b = &w[7],
                                          .scale_1 = &m->vectors[n][0],
                                          .shift_1 = &m->vectors[n][1],
                                          .scale_2 = &m->vectors[n][2],
                                          .shift_2 = &m->vectors[n][3]};
}

static void make_caches(model *m, int rows, int64_t seen)
{
    for (int l = 0; l < rows; l++) {
        for (int n = 0; n < BLOCKS; n++)
            for (int i = 0; i < 2; i++) {
                const mica_tensor t = random_tensor(MICA_DTYPE_F32, CAPACITY, WIDTH, 1.0f);
                m->caches[l][n][i] =
                    mica_tensor_3d(t.data, MICA_DTYPE_F32, CAPACITY, HEADS, WIDTH / HEADS);
            }
        m->rows[l] = m->caches[l];
        m->seen[l] = seen;
    }
    m->x = random_tensor(MICA_DTYPE_F32, rows, WIDTH, 1.0f);
    m->x.ndim = 2;
    m->x.shape_[0] = rows;
    m->x.shape_[1] = WIDTH;
    m->x.stride_[0] = WIDTH;
    m->x.stride_[1] = 1;
}

/* Milliseconds of a step. */
static double run(model *m, mica_backend *be)
{
    mica_err err = {0};
    const double start = mica_clock_seconds();
    for (int i = 0; i < STEPS; i++)
        mica_post_norm_step(be, &(mica_post_norm_args){.blocks = m->blocks,
                                                       .count = BLOCKS,
                                                       .heads = HEADS,
                                                       .eps = 1e-5f,
                                                       .x_LD = &m->x,
                                                       .caches = m->rows,
                                                       .seen = m->seen});
    const double seconds = mica_clock_seconds() - start;
    if (mica_backend_check(be, &err))
        die(err.text);
    return 1e3 * seconds / STEPS;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *list, int n)
{
    qsort(list, (size_t)n, sizeof *list, compare);
    return list[n / 2];
}

static double bytes_of_step(mica_backend *be, model *m)
{
    const double before = mica_backend_get_counters(be).row_bytes;
    run(m, be);
    return (mica_backend_get_counters(be).row_bytes - before) / STEPS;
}

/* Bytes per second of looking at every number of a large tensor. */
static double read_memory(mica_backend *be, const mica_tensor *large)
{
    const double start = mica_clock_seconds();
    if (!mica_all_finite(be, large))
        die("a number is not finite");
    return (double)mica_tensor_size(large) / (mica_clock_seconds() - start);
}

static void measure(model *m, mica_backend *be[2], const mica_tensor *large, double seconds)
{
    static double ms[2][TURNS], share[2][TURNS], speed[TURNS];
    static const char *const NAMES[] = {"one region", "block by block"};
    const double bytes[] = {bytes_of_step(be[0], m), bytes_of_step(be[1], m)};
    const double start = mica_clock_seconds();
    int turns = 0;
    while (turns < TURNS && mica_clock_seconds() - start < seconds) {
        speed[turns] = read_memory(be[0], large);
        for (int i = 0; i < 2; i++) {
            ms[i][turns] = run(m, be[i]);
            share[i][turns] = bytes[i] / (1e-3 * ms[i][turns]) / speed[turns];
        }
        turns++;
    }
    printf("memory %.1f GB/s, %d turns\n", 1e-9 * median(speed, turns), turns);
    for (int i = 0; i < 2; i++) {
        const double middle = median(ms[i], turns);
        printf("%-15s %6.3f ms (best %6.3f), %.3f GB a step, %5.1f GB/s, %5.1f %% of memory\n",
               NAMES[i], middle, ms[i][0], 1e-9 * bytes[i], 1e-6 * bytes[i] / middle,
               100.0 * median(share[i], turns));
    }
}

int main(int argc, char **argv)
{
    static model m;
    static const char *const WORDS[] = {"f32", "bf16", "int8"};
    static const mica_precision PRECISIONS[] = {MICA_PRECISION_F32, MICA_PRECISION_BF16,
                                                MICA_PRECISION_INT8};
    mica_backend_options options = {.precision = MICA_PRECISION_BF16};
    mica_backend *be[2];
    mica_err err = {0};
    int rows = 1, seen = 280;
    double seconds = 2.0;
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--threads") == 0)
            options.threads = atoi(value);
        else if (strcmp(argv[i], "--rows") == 0)
            rows = atoi(value);
        else if (strcmp(argv[i], "--seen") == 0)
            seen = atoi(value);
        else if (strcmp(argv[i], "--seconds") == 0)
            seconds = atof(value);
        else if (strcmp(argv[i], "--precision") == 0) {
            for (int k = 0; k < 3; k++)
                if (strcmp(value, WORDS[k]) == 0)
                    options.precision = PRECISIONS[k];
        } else
            die("bench_step [--threads N] [--seconds S] [--rows L] [--seen N] [--precision P]");
    }
    if (rows < 1 || rows > MOST || seen < 0 || seen >= CAPACITY)
        die("1 to 16 rows, fewer than 1024 positions");
    for (int i = 0; i < 2; i++) {
        options.ablate_fusion = i;
        if (mica_backend_open(&be[i], &options, &err))
            die(err.text);
    }
    for (int n = 0; n < BLOCKS; n++)
        make_block(&m, n);
    make_caches(&m, rows, seen);
    mica_tensor large = {0};
    large =
        mica_tensor_2d(mica_backend_buffer_alloc(be[0], LARGE), MICA_DTYPE_F32, 1024, LARGE / 4096);
    memset(large.data, 0, LARGE);
    measure(&m, be, &large, seconds);
    mica_backend_buffer_free(be[0], large.data);
    mica_backend_close(&be[0]);
    mica_backend_close(&be[1]);
    return 0;
}
