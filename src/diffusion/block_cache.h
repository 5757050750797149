/* block_cache.h - passes that end behind their first block, because what it does hardly changes.
 *
 *     x0 ─► block 0 ─► x1 ─► blocks 1 .. N-1 ─► xN            full: kept are  r = x1 - x0  of some rows
 *                       │                       ▲                             R = xN - x1
 *                       └── |r - r'| / |r'| < threshold ──► xN = x1 + R of the last full pass
 *
 * |.| is the mean magnitude; r' is that of the last full pass. Unlike step_cache.h, which looks at the
 * latents, this looks at what the network makes of them, and costs one block. A model calls enter,
 * first and last around its blocks (NULL: nothing happens); when a pass may be cut short is this
 * file's business: never in the first two evaluations and the last, at most MICA_BLOCK_CACHE_ROW in a row,
 * and not when guidance changes. Both conditions of a guided pass are looked at together.
 *
 * The idea is First Block Cache (ParaAttention; diffusers hooks/first_block_cache.py), and so is the
 * measure; thresholds, exceptions, and that r is looked at in a sample of rows only, are ours. */
#ifndef MICA_DIFFUSION_BLOCK_CACHE_H
#define MICA_DIFFUSION_BLOCK_CACHE_H

#include "backend/backend.h"
#include "base/arena.h"

#define MICA_BLOCK_CACHE_ROW 3

typedef struct mica_block_cache {
    mica_backend *be;
    double threshold;
    int64_t rows, width, sampled;
    mica_tensor rest_LD, work_LD; /* R, and a place to add in; f32 state */
    mica_tensor sample_SD;        /* rows that are looked at; activations */
    float *before, *now, *kept;   /* those rows: x0, then r; of the last full pass r' */
    bool fits;                    /* the pass under way has as many rows */
    bool may_cut, was_cut;        /* of the pass under way */
    double scale;                 /* guidance of the pass under way */
    int full, row;                /* full passes so far; cut ones since the last */
    uint64_t cut;
} mica_block_cache;

/* For passes whose hidden state is [rows, width]; tensors from the session pool. */
mica_status mica_block_cache_init(mica_block_cache *c, mica_backend *be, mica_step_caching mode,
                                  int64_t rows, int64_t width, mica_arena *arena, mica_err *err);
/* Before evaluation e of `evaluations`, whose guidance is `scale`. */
void mica_block_cache_begin(mica_block_cache *c, int e, int evaluations, double scale);

/* ---- for models; c may be NULL; x_LD: activations, contiguous rows ---- */
void mica_block_cache_enter(mica_block_cache *c, const mica_tensor *x_LD);
/* Behind the first block. True: x has become what stands behind the last one. Waits for the device. */
bool mica_block_cache_first(mica_block_cache *c, mica_tensor *x_LD);
void mica_block_cache_last(mica_block_cache *c, const mica_tensor *x_LD);

#endif
