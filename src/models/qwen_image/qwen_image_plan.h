/* qwen_image_plan.h - a request made definite: every default filled in, every limit checked. */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_PLAN_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_PLAN_H

#include "models/qwen_image/qwen_image.h"
#include "nn/run.h"
#include "sample/solver.h"

typedef struct mica_qwen_image_plan {
    const mica_image_options *options;
    int width, height; /* pixels, multiples of 2 * VAE scale */
    int h, w;          /* patches */
    int64_t P, C;      /* patches of a picture, channels of a patch */
    int pictures;
    int steps;
    double guidance;
    bool guided;
    int max_tokens;
    mica_solver solver;
    float *sigmas;    /* steps + 1 */
    float *timesteps; /* steps, 0..1000: for the trace */
    int evaluations;
    float *eval_times; /* what the transformer gets at each evaluation, 0..1 */
} mica_qwen_image_plan;

/* Notices (rounded sizes, ignored options) go to the run. The schedule is part of the plan. Arrays
 * come from `arena`. */
mica_status mica_qwen_image_plan_make(mica_qwen_image_plan *p, const mica_qwen_image *model,
                                      const mica_image_options *options, mica_run *run,
                                      mica_arena *arena, mica_err *err);

#endif
