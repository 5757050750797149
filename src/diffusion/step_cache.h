/* step_cache.h - evaluations of the network that are left out because its output hardly changes.
 *
 *     full evaluations p < q:   k = |v_q - v_p| / |x_q - x_p|         how fast the output follows the input
 *     at x behind q:            k |x - x_q| / |v_q|  < threshold  ──► v_q is taken again
 *
 * v is the guided velocity, x the latents, |.| the L2 norm over all pictures. The estimate is of the
 * relative error that this puts into the velocity. The first two evaluations and the last one are always full, at most
 * MICA_STEP_CACHE_ROW are left out in a row, and none where the guidance scale changes. After the idea of EasyCache
 * (Zhou et al. 2025), with the distance to the last full evaluation itself in place of a running sum. */
#ifndef MICA_DIFFUSION_STEP_CACHE_H
#define MICA_DIFFUSION_STEP_CACHE_H

#include "backend/backend.h"
#include "base/arena.h"

#define MICA_STEP_CACHE_ROW 3

typedef struct mica_step_cache {
    double threshold; /* 0: every evaluation is full */
    int64_t count;    /* numbers in x and v */
    float *x, *v;     /* of the last full evaluation, on the host */
    float *now;       /* x or v under way */
    double scale;     /* its guidance */
    double rate;      /* k; 0: not known yet */
    int full, row;    /* full evaluations so far; left out since the last */
    uint64_t skipped;
} mica_step_cache;

/* `count` numbers of latents; host memory from the run's arena. */
mica_status mica_step_cache_init(mica_step_cache *c, mica_step_caching mode, int64_t count,
                                 mica_arena *arena, mica_err *err);
/* Whether evaluation e of `evaluations` at latents x may take the velocity of the one before. Waits for
 * the device. False while off. */
bool mica_step_cache_may_skip(mica_step_cache *c, mica_backend *be, int e, int evaluations,
                              double scale, const mica_tensor *x_PC);
/* After a full evaluation: v is its guided velocity. */
void mica_step_cache_update(mica_step_cache *c, mica_backend *be, double scale,
                            const mica_tensor *x_PC, const mica_tensor *v_PC);

#endif
