/* cpu_group_norm.c - norm over groups of channels of a picture, in two operations.
 *
 *     row y of x [X, C] ──► sums per channel ──► mean of each group ──► sums of (x - mean)
 *                                    moments[y][g] = mean, sum of squared differences
 *     moments of all rows ──► mean, variance of each group (f64, in the order of rows)
 *                         ──► scale_C, shift_C ──► y = act(x * scale + shift)
 *
 * A row is read twice, the second time from the cache: differences from a mean lose no digits
 * where sums of squares would. Long rows are added up by stretches, in f64 from there: a lane of f32
 * over the 30,000 samples of a recording's convolution kept five digits. Rows are joined by the formula
 * of Chan, Golub and LeVeque ("Algorithms for computing the sample variance", 1983), which for many rows is
 *     M2 = sum of M2_y + n * sum of (mean_y - mean)^2,    n values in a row of a group. */
#include "backend/cpu/cpu_backend.h"

#include "kernels/kernels.h"

#include <math.h>

#define TASK_ELEMENTS 16384
#define STRETCH       256 /* pixels of a row added in f32 */

/* -------------------------------------------------------------- moments -- */

typedef struct moments_job {
    mica_cpu_backend *be;
    const mica_tensor *x, *moments;
} moments_job;

/* Sums of one group's channels over a row. */
static double group_sum(const float *sum_C, int64_t first, int64_t count)
{
    double total = 0.0;
    for (int64_t c = first; c < first + count; c++)
        total += (double)sum_C[c];
    return total;
}

/* A thread's room: sums of all groups, and of the channels of a stretch. */
typedef struct moments_room {
    double *sum_G, *square_G;
    float *sum_C, *square_C, *mean_C;
} moments_room;

static size_t room_bytes(int64_t G, int64_t C)
{
    return 2 * (size_t)G * sizeof(double) + 3 * (size_t)C * sizeof(float);
}

static moments_room room_of(const moments_job *j, int thread)
{
    const int64_t C = j->x->shape_[2], G = j->moments->shape_[1];
    double *sums = mica_cpu_thread_scratch(j->be, thread);
    float *channels = (float *)(sums + 2 * G);
    return (moments_room){sums, sums + G, channels, channels + C, channels + 2 * C};
}

/* Sums over a row of x - mean_C (NULL: of x) and of its squares, per group. */
static void sum_row(const moments_job *j, const float *row, const float *mean_C, moments_room *r)
{
    const int64_t X = j->x->shape_[1], C = j->x->shape_[2], G = j->moments->shape_[1], D = C / G;
    for (int64_t g = 0; g < G; g++)
        r->sum_G[g] = r->square_G[g] = 0.0;
    for (int64_t x = 0; x < X; x += STRETCH) {
        j->be->kernels->channel_sums((int)MICA_MIN((int64_t)STRETCH, X - x), (int)C, row + x * C, C,
                                     mean_C, r->sum_C, r->square_C);
        for (int64_t g = 0; g < G; g++) {
            r->sum_G[g] += group_sum(r->sum_C, g * D, D);
            r->square_G[g] += group_sum(r->square_C, g * D, D);
        }
    }
}

static void moments_row(void *user, int64_t y, int thread)
{
    const moments_job *j = user;
    const int64_t X = j->x->shape_[1], C = j->x->shape_[2], G = j->moments->shape_[1], D = C / G;
    const double n = (double)(X * D);
    const float *row = (const float *)j->x->data + y * X * C;
    float *out_G2 = (float *)j->moments->data + y * G * 2;
    moments_room r = room_of(j, thread);
    sum_row(j, row, NULL, &r);
    for (int64_t g = 0; g < G; g++) {
        const float mean = (float)(r.sum_G[g] / n);
        for (int64_t c = g * D; c < (g + 1) * D; c++)
            r.mean_C[c] = mean;
    }
    sum_row(j, row, r.mean_C, &r);
    for (int64_t g = 0; g < G; g++) {
        const double rest = r.sum_G[g];
        out_G2[2 * g] = (float)((double)r.mean_C[g * D] + rest / n);
        out_G2[2 * g + 1] = (float)(r.square_G[g] - rest * rest / n);
    }
}

mica_status mica_cpu_group_moments(mica_backend *base, const mica_tensor *x_YXC,
                                   mica_tensor *moments_YG2, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    moments_job j = {be, x_YXC, moments_YG2};
    MICA_TRY(
        mica_cpu_scratch_reserve(be, 0, room_bytes(moments_YG2->shape_[1], x_YXC->shape_[2]), err));
    mica_cpu_parallel(be, x_YXC->shape_[0], moments_row, &j);
    return MICA_OK;
}

/* ----------------------------------------------------------------- norm -- */

typedef struct norm_job {
    const mica_kernels *k;
    const mica_group_norm_args *args;
    const float *scale_C, *shift_C;
    mica_kernel_act act;
    int64_t pixels, per_task;
} norm_job;

/* Mean and 1 / sqrt(var + eps) of group g over all rows. */
static void join_rows(const mica_group_norm_args *a, int64_t g, double *mean, double *rstd)
{
    const mica_tensor *m = a->moments_YG2;
    const int64_t Y = m->shape_[0], G = m->shape_[1];
    const double n = (double)(a->x_YXC->shape_[1] * (a->x_YXC->shape_[2] / G));
    const float *of_g = (const float *)m->data + 2 * g;
    double sum = 0.0, squares = 0.0, between = 0.0;
    for (int64_t y = 0; y < Y; y++)
        sum += (double)of_g[y * G * 2];
    *mean = sum / (double)Y;
    for (int64_t y = 0; y < Y; y++) {
        const double d = (double)of_g[y * G * 2] - *mean;
        squares += (double)of_g[y * G * 2 + 1];
        between += d * d;
    }
    *rstd = 1.0 / sqrt((squares + n * between) / (n * (double)Y) + (double)a->eps);
}

static void norm_task(void *user, int64_t index, int thread)
{
    const norm_job *j = user;
    const int64_t C = j->args->x_YXC->shape_[2], first = index * j->per_task;
    const int64_t count = MICA_MIN(j->per_task, j->pixels - first);
    (void)thread;
    j->k->channel_affine_act((int)count, (int)C, (const float *)j->args->x_YXC->data + first * C, C,
                             j->scale_C, j->shift_C, j->act,
                             (float *)j->args->y_YXC->data + first * C, C);
}

mica_status mica_cpu_group_norm(mica_backend *base, const mica_group_norm_args *args, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    const int64_t C = args->x_YXC->shape_[2], G = args->moments_YG2->shape_[1];
    if (args->act != MICA_ACT_NONE && args->act != MICA_ACT_SILU)
        return MICA_FAIL(err, MICA_E_INTERNAL, "group_norm: activation %d; none or silu",
                         (int)args->act);
    MICA_TRY(mica_cpu_scratch_reserve(be, 2 * (size_t)C * sizeof(float), 0, err));
    float *scale_C = mica_cpu_shared_scratch(be), *shift_C = scale_C + C;
    mica_cpu_weight_to_f32(&args->gamma_C->tensor, 0, C, scale_C);
    mica_cpu_weight_to_f32(&args->beta_C->tensor, 0, C, shift_C);
    for (int64_t g = 0; g < G; g++) {
        double mean, rstd;
        join_rows(args, g, &mean, &rstd);
        for (int64_t c = g * (C / G); c < (g + 1) * (C / G); c++) {
            const double scale = (double)scale_C[c] * rstd;
            scale_C[c] = (float)scale;
            shift_C[c] = (float)((double)shift_C[c] - mean * scale);
        }
    }
    norm_job j = {.k = be->kernels,
                  .args = args,
                  .scale_C = scale_C,
                  .shift_C = shift_C,
                  .act = be->fuse ? (mica_kernel_act)args->act : MICA_KERNEL_ACT_NONE,
                  .pixels = args->x_YXC->shape_[0] * args->x_YXC->shape_[1],
                  .per_task = MICA_MAX((int64_t)1, TASK_ELEMENTS / C)};
    mica_cpu_parallel(be, (j.pixels + j.per_task - 1) / j.per_task, norm_task, &j);
    return be->fuse || args->act == MICA_ACT_NONE
               ? MICA_OK
               : mica_cpu_silu(base, args->y_YXC, args->y_YXC, err);
}
