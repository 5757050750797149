/* qwen_image_forward.h - one evaluation of the Qwen-Image transformer (MMDiT).
 *
 * An item is one picture with one prompt. With guidance a picture makes two items, the prompt's
 * and the negative prompt's, and both go through in the same pass: items share every linear
 * (their rows stand behind each other), attention runs item by item.
 *
 *     image rows   [ item 0: P, R ][ item 1: P, R ] ...    text rows   [ item 0: T0 ][ item 1: T1 ] ...
 *
 * P rows of the picture that is made, R rows of the pictures it refers to, which stay as they are
 * from step to step. With zero_cond_t those R rows are modulated as at timestep 0. */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_FORWARD_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_FORWARD_H

#include "diffusion/block_cache.h"
#include "models/qwen_image/qwen_image_modulation.h"
#include "models/qwen_image/qwen_image_rope.h"

/* Text features of one prompt after txt_norm and txt_in: they do not depend on the step. */
typedef struct mica_qwen_image_condition {
    mica_tensor txt_TD; /* session pool */
    int64_t T;
} mica_qwen_image_condition;

typedef struct mica_qwen_image_pass {
    mica_qwen_image_weights *w;
    mica_backend *be;
    mica_run *run;
    const mica_qwen_image_rope *rope; /* text rows for the longest prompt */
    const mica_qwen_image_modulation *mod;
    /* Items: `pictures` for each of `condition_count` conditions, condition by condition. */
    const mica_qwen_image_condition *conditions[2];
    int condition_count;
    int pictures;
    int64_t P;                  /* image tokens per picture */
    const mica_tensor *refs_RD; /* rows of references after img_in, or NULL */
    int64_t R;                  /* how many; 0 without */
    bool probes;                /* write probe. taps of item 0 */
    mica_block_cache *cache;    /* NULL: every block is computed */
    /* Counters over the blocks, see mica_run_stats. */
    uint64_t allocations, waits;
} mica_qwen_image_pass;

/* embeds_TE: text encoder output. taps may be NULL. */
void mica_qwen_image_condition_build(mica_qwen_image_weights *w, mica_backend *be,
                                     const mica_tap_sink *taps, const mica_tensor *embeds_TE,
                                     mica_qwen_image_condition *out);

/* refs_RC: rows of reference pictures in f32 state; out_RD: session pool. */
void mica_qwen_image_references_build(mica_qwen_image_weights *w, mica_backend *be,
                                      const mica_tensor *refs_RC, mica_tensor *out_RD);

/* latents_PC: f32 state [pictures * P, C]. velocity_PC: f32 state [condition_count * pictures * P, C].
 * Evaluation e must be in the modulation table. Adds to the pass's counters. */
mica_status mica_qwen_image_forward(mica_qwen_image_pass *pass, int e,
                                    const mica_tensor *latents_PC, mica_tensor *velocity_PC,
                                    mica_err *err);

#endif
