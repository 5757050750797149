/* step_cache.c - see step_cache.h. Norms are summed on the host in f64, in order: a run is the same for
 * any number of threads. */
#include "diffusion/step_cache.h"

#include <math.h>
#include <string.h>

/* Estimated relative error of a velocity; docs/PERFORMANCE.md has what they do to pictures. */
static const double THRESHOLDS[] = {[MICA_STEP_CACHING_OFF] = 0.0,
                                    [MICA_STEP_CACHING_BALANCED] = 0.05,
                                    [MICA_STEP_CACHING_FAST] = 0.12};

mica_status mica_step_cache_init(mica_step_cache *c, mica_step_caching mode, int64_t count,
                                 mica_arena *arena, mica_err *err)
{
    *c = (mica_step_cache){.count = count};
    if (mode < MICA_STEP_CACHING_OFF || mode > MICA_STEP_CACHING_FAST)
        return MICA_FAIL(err, MICA_E_USAGE, "unknown step caching %d", (int)mode);
    c->threshold = THRESHOLDS[mode];
    if (mode == MICA_STEP_CACHING_OFF)
        return MICA_OK;
    c->x = mica_arena_calloc(arena, (size_t)count, sizeof *c->x);
    c->v = mica_arena_calloc(arena, (size_t)count, sizeof *c->v);
    c->now = mica_arena_calloc(arena, (size_t)count, sizeof *c->now);
    return c->x && c->v && c->now ? MICA_OK
                                  : MICA_FAIL(err, MICA_E_NOMEM, "no memory for step caching");
}

/* |a - b|; b NULL: |a|. */
static double distance(const float *a, const float *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)a[i] - (b ? (double)b[i] : 0.0);
        sum += d * d;
    }
    return sqrt(sum);
}

bool mica_step_cache_may_skip(mica_step_cache *c, mica_backend *be, int e, int evaluations,
                              double scale, const mica_tensor *x_PC)
{
    if (c->threshold == 0.0 || c->full < 2 || c->row >= MICA_STEP_CACHE_ROW ||
        e + 1 >= evaluations || scale != c->scale)
        return false;
    mica_download_f32(be, c->now, x_PC);
    const double size = distance(c->v, NULL, c->count);
    const double change = c->rate * distance(c->now, c->x, c->count);
    /* Not-a-number compares false: then the evaluation is full, and the step's own check tells. */
    const bool skip = !mica_backend_failed(be) && change < c->threshold * size;
    c->row += skip;
    c->skipped += skip;
    return skip;
}

void mica_step_cache_update(mica_step_cache *c, mica_backend *be, double scale,
                            const mica_tensor *x_PC, const mica_tensor *v_PC)
{
    if (c->threshold == 0.0)
        return;
    const size_t size = (size_t)c->count * sizeof *c->now;
    mica_download_f32(be, c->now, v_PC);
    const double dv = distance(c->now, c->v, c->count);
    memcpy(c->v, c->now, size);
    mica_download_f32(be, c->now, x_PC);
    const double dx = distance(c->now, c->x, c->count);
    memcpy(c->x, c->now, size);
    c->rate = dx > 0.0 ? dv / dx : HUGE_VAL;
    c->scale = scale;
    c->full++;
    c->row = 0;
}
