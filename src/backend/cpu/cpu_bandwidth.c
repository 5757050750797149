/* cpu_bandwidth.c - what memory delivers to all threads at once: the yardstick of products with few rows.
 *
 *     512 MiB, far above every cache, in pieces of 1 MiB; each thread looks for the largest number of a piece
 *
 * The best of several passes. Reading only: decoding writes next to nothing. */
#include "backend/cpu/cpu_backend.h"
#include "base/clock.h"
#include "kernels/kernels.h"

#define BYTES   ((size_t)512 << 20)
#define PIECE   ((size_t)1 << 20)
#define SECONDS 0.5

typedef struct read_job {
    const mica_kernels *k;
    float *data;
    float largest[64]; /* one for each 8 MiB, so that nothing is left out */
} read_job;

static void fill_piece(void *user, int64_t index, int thread)
{
    const read_job *j = user;
    const size_t n = PIECE / sizeof(float);
    (void)thread;
    for (size_t i = 0; i < n; i++)
        j->data[(size_t)index * n + i] = (float)(i & 255);
}

static void read_pieces(void *user, int64_t index, int thread)
{
    read_job *j = user;
    const size_t n = PIECE / sizeof(float), count = BYTES / PIECE / 64;
    float largest = 0.0f;
    (void)thread;
    for (size_t i = 0; i < count; i++) {
        const float v = j->k->row_max((int)n, j->data + ((size_t)index * count + i) * n);
        largest = v > largest ? v : largest;
    }
    j->largest[index] = largest;
}

mica_status mica_cpu_measure_bandwidth(mica_backend *base, double *bytes, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    read_job j = {.k = be->kernels, .data = mica_cpu_alloc(be, BYTES)};
    double best = 0.0;
    if (!j.data)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to measure the bandwidth of memory");
    mica_cpu_parallel(be, (int64_t)(BYTES / PIECE), fill_piece, &j);
    const double start = mica_clock_seconds();
    while (best == 0.0 || mica_clock_seconds() - start < SECONDS) {
        const double t = mica_clock_seconds();
        mica_cpu_parallel(be, 64, read_pieces, &j);
        best = MICA_MAX(best, (double)BYTES / (mica_clock_seconds() - t));
    }
    mica_cpu_free(j.data);
    *bytes = best;
    return MICA_OK;
}
