/* qwen_image_job.h - one run under way; shared by qwen_image_pipeline.c and qwen_image_decode.c. */
#ifndef MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_JOB_H
#define MICA_MODELS_QWEN_IMAGE_QWEN_IMAGE_JOB_H

#include "models/qwen_image/qwen_image_forward.h"
#include "models/qwen_image/qwen_image_plan.h"
#include "sample/noise.h"

#include <stdio.h>

typedef struct mica_qwen_image_job {
    mica_qwen_image_session *session;
    mica_model_result *result;
    mica_arena arena; /* host arrays of this run */
    mica_run run;
    mica_qwen_image_plan plan;
    /* Session pool. */
    mica_tensor embeds_TE[2];                /* text features of prompt and negative prompt */
    mica_qwen_image_condition conditions[2]; /* the same after txt_in */
    mica_tensor latents_PC;                  /* [pictures * P, C] f32 */
    mica_tensor velocity_PC;                 /* the same per condition */
    mica_qwen_image_modulation mod;
    mica_qwen_image_rope rope;
    mica_pool_mark rope_mark;
    mica_solver_state solver;
    /* Counters of mica_run_stats. */
    uint64_t block_allocations, block_waits, rope_builds;
    int passes;
} mica_qwen_image_job;

/* Rows of all pictures as [pictures, P, C]. */
void mica_qwen_image_tap_latents(mica_qwen_image_job *j, const mica_tensor *x_PC,
                                 const char *name_format, ...) MICA_PRINTF(3, 4);
/* The time that evaluation e gets, once per picture, as `name`.timestep. */
void mica_qwen_image_tap_times(mica_qwen_image_job *j, int e, const char *name);

/* Latents to result->rgb. */
mica_status mica_qwen_image_decode(mica_qwen_image_job *j, mica_err *err);

/* qwen_image_synthetic.c: ids for a model without tokenizer: as many as a "tokens=N" prompt
 * asks for, otherwise one per four bytes. */
mica_status mica_qwen_image_synthetic_prompt(const char *text, mica_qwen_image_prompt *out,
                                             mica_err *err);

#endif
