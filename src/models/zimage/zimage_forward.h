/* zimage_forward.h - one evaluation of the Z-Image transformer (single-stream DiT).
 *
 * An item is one picture with one prompt. With guidance a picture makes two items, the prompt's
 * and the negative prompt's. All items go through in the same pass: they share every linear, attention
 * runs item by item, so that nothing is padded to the longest prompt.
 *
 *     rows   [ picture of item 0 ][ picture of item 1 ] ... [ caption of item 0 ][ caption of item 1 ] ...
 *              h w, then padding to whole groups of 32        T, padding included
 */
#ifndef MICA_MODELS_ZIMAGE_ZIMAGE_FORWARD_H
#define MICA_MODELS_ZIMAGE_ZIMAGE_FORWARD_H

#include "models/zimage/zimage_modulation.h"
#include "models/zimage/zimage_rope.h"

/* A caption behind the context refiners: it does not depend on the step. */
typedef struct mica_zimage_condition {
    mica_tensor cap_TD;      /* session pool */
    int64_t T;               /* padded length */
    mica_rope_table picture; /* session pool; the picture behind this caption */
    mica_rope_table caption;
} mica_zimage_condition;

typedef struct mica_zimage_pass {
    mica_zimage_weights *w;
    mica_backend *be;
    mica_run *run;
    const mica_zimage_modulation *mod;
    /* Items: `pictures` for each of `condition_count` conditions, condition by condition. */
    const mica_zimage_condition *conditions[2];
    int condition_count;
    int pictures;
    int64_t P;        /* tokens of a picture, without padding */
    bool probes;      /* write probe. taps */
    bool keeps_pages; /* weights stay in the process between steps (ablation) */
    /* Counters over the blocks, see mica_run_stats. */
    uint64_t allocations, waits;
} mica_zimage_pass;

/* embeds_TE: text encoder output. Fills cap_TD and T; the tables of `out` are not touched. */
mica_status mica_zimage_condition_build(mica_zimage_weights *w, mica_backend *be, mica_run *run,
                                        bool probes, const mica_tensor *embeds_TE,
                                        mica_zimage_condition *out, mica_err *err);

/* latents_PC: f32 state [pictures * P, C]. out_PC: f32 state [condition_count * pictures * P, C], the
 * network's output, which points from noise to picture. Evaluation e must be in the modulation
 * table. Adds to the pass's counters. */
mica_status mica_zimage_forward(mica_zimage_pass *pass, int e, const mica_tensor *latents_PC,
                                mica_tensor *out_PC, mica_err *err);

#endif
