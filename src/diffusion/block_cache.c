/* block_cache.c - see block_cache.h. The mean is taken on the host, in f64 and in order: a run is the same
 * for any number of threads. */
#include "diffusion/block_cache.h"

#include <math.h>
#include <string.h>

#define SAMPLED 256 /* rows that are looked at, evenly over all: 3 MB at a width of 3072 */

/* Relative change of what the first block adds; docs/PERFORMANCE.md has what they do to pictures. */
static const double THRESHOLDS[] = {[MICA_STEP_CACHING_OFF] = 0.0,
                                    [MICA_STEP_CACHING_BALANCED] = 0.04,
                                    [MICA_STEP_CACHING_FAST] = 0.08};

mica_status mica_block_cache_init(mica_block_cache *c, mica_backend *be, mica_step_caching mode,
                                  int64_t rows, int64_t width, mica_arena *arena, mica_err *err)
{
    const int64_t sampled = MICA_MIN(rows, SAMPLED), whole[] = {rows, width};
    const int64_t part[] = {sampled, width};
    *c = (mica_block_cache){.be = be, .rows = rows, .width = width, .sampled = sampled};
    if (mode < MICA_STEP_CACHING_OFF || mode > MICA_STEP_CACHING_FAST)
        return MICA_FAIL(err, MICA_E_USAGE, "unknown step caching %d", (int)mode);
    c->threshold = THRESHOLDS[mode];
    c->rest_LD = mica_state_tensor(be, MICA_POOL_SESSION, 2, whole);
    c->work_LD = mica_state_tensor(be, MICA_POOL_SESSION, 2, whole);
    c->sample_SD = mica_act_tensor(be, MICA_POOL_SESSION, 2, part);
    c->before = mica_arena_calloc(arena, (size_t)(sampled * width), sizeof *c->before);
    c->now = mica_arena_calloc(arena, (size_t)(sampled * width), sizeof *c->now);
    c->kept = mica_arena_calloc(arena, (size_t)(sampled * width), sizeof *c->kept);
    if (!c->before || !c->now || !c->kept)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for step caching");
    return mica_backend_check(be, err);
}

void mica_block_cache_begin(mica_block_cache *c, int e, int evaluations, double scale)
{
    c->may_cut =
        c->full >= 2 && c->row < MICA_BLOCK_CACHE_ROW && e + 1 < evaluations && scale == c->scale;
    c->was_cut = false;
    c->scale = scale;
}

/* The sampled rows of x, on the host. */
static void look(mica_block_cache *c, const mica_tensor *x_LD, float *out)
{
    mica_tensor rows = *x_LD;
    rows.shape_[0] = c->sampled;
    rows.stride_[0] *= c->rows / c->sampled;
    mica_copy(c->be, &rows, &c->sample_SD);
    mica_download_f32(c->be, out, &c->sample_SD);
}

void mica_block_cache_enter(mica_block_cache *c, const mica_tensor *x_LD)
{
    if (!c)
        return;
    c->fits = x_LD->shape_[0] == c->rows && x_LD->shape_[1] == c->width;
    if (!c->fits)
        c->full = 0; /* nothing that is kept belongs to what comes */
    else
        look(c, x_LD, c->before);
}

/* The mean magnitude of the change against that of what was kept; not-a-number compares false. */
static bool is_near(const mica_block_cache *c)
{
    double change = 0.0, size = 0.0;
    for (int64_t i = 0; i < c->sampled * c->width; i++) {
        change += fabs((double)c->now[i] - (double)c->kept[i]);
        size += fabs((double)c->kept[i]);
    }
    return change < c->threshold * size;
}

bool mica_block_cache_first(mica_block_cache *c, mica_tensor *x_LD)
{
    if (!c || !c->fits)
        return false;
    look(c, x_LD, c->now);
    for (int64_t i = 0; i < c->sampled * c->width; i++)
        c->now[i] -= c->before[i];
    c->was_cut = c->may_cut && !mica_backend_failed(c->be) && is_near(c);
    mica_copy(c->be, x_LD, c->was_cut ? &c->work_LD : &c->rest_LD);
    if (!c->was_cut) {
        memcpy(c->kept, c->now, (size_t)(c->sampled * c->width) * sizeof *c->kept);
        return false;
    }
    mica_linear_combination(c->be, 2, (const float[]){1.0f, 1.0f},
                            (const mica_tensor *[]){&c->work_LD, &c->rest_LD}, &c->work_LD);
    mica_copy(c->be, &c->work_LD, x_LD);
    c->row++;
    c->cut++;
    return true;
}

void mica_block_cache_last(mica_block_cache *c, const mica_tensor *x_LD)
{
    if (!c || !c->fits || c->was_cut)
        return;
    mica_copy(c->be, x_LD, &c->work_LD);
    mica_linear_combination(c->be, 2, (const float[]){1.0f, -1.0f},
                            (const mica_tensor *[]){&c->work_LD, &c->rest_LD}, &c->rest_LD);
    c->full++;
    c->row = 0;
}
