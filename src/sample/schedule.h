/* schedule.h - sigma schedules of flow-matching models.
 *
 * Source: diffusers schedulers/scheduling_flow_match_euler_discrete.py (set_timesteps,
 * time_shift, stretch_shift_to_terminal) and pipeline_qwenimage.py (calculate_shift).
 * Computed as the reference does: numpy f32 or f64 where it uses them, so that sigmas agree
 * to the last bit that matters (golden primitives/schedules). */
#ifndef MICA_SAMPLE_SCHEDULE_H
#define MICA_SAMPLE_SCHEDULE_H

#include "base/status.h"

#include <stddef.h>

#define MICA_MAX_STEPS 1000

typedef enum mica_shift_kind { MICA_SHIFT_EXPONENTIAL = 0, MICA_SHIFT_LINEAR } mica_shift_kind;
typedef enum mica_spacing {
    MICA_SPACING_DEFAULT = 0, /* linspace(1, 1/n, n), what the reference pipelines pass */
    MICA_SPACING_KARRAS,
    MICA_SPACING_EXPONENTIAL,
    MICA_SPACING_BETA
} mica_spacing;

/* scheduler_config.json */
typedef struct mica_schedule_config {
    int num_train_timesteps;
    double shift;
    bool use_dynamic_shifting;
    double base_shift, max_shift;
    int base_image_seq_len, max_image_seq_len;
    double shift_terminal; /* 0: none */
    mica_shift_kind time_shift_type;
    mica_spacing spacing;
    bool invert_sigmas;
    bool stochastic_sampling;
    mica_solver solver; /* the solver that the file's class stands for */
} mica_schedule_config;

void mica_schedule_config_init(mica_schedule_config *c); /* the reference class's defaults */
/* Keys that are absent keep the reference class's default. Understood classes:
 * FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, and the flow variants of
 * DPMSolverMultistepScheduler and UniPCMultistepScheduler (second order; other settings of theirs
 * are refused by name: MICA_E_UNSUPPORTED). */
mica_status mica_schedule_config_read(mica_schedule_config *c, const char *path, mica_err *err);
/* The same from text in memory; name stands for the file in messages. */
mica_status mica_schedule_config_parse(mica_schedule_config *c, const char *name, const char *text,
                                       size_t size, mica_err *err);
/* The schedule that Qwen-Image-Lightning was distilled with: a constant shift of 3 (mu = log 3 at
 * every size) and no terminal stretch. Keeps the length of the training range. */
void mica_schedule_config_set_lightning(mica_schedule_config *c);
/* A schedule by the name that users give (mica_image_options.schedule):
 *   linear                       1, (n-1)/n, ... 1/n: no shift, no terminal stretch
 *   karras, exponential, beta    respaced between the checkpoint's first and last sigma
 *   lightning                    mica_schedule_config_set_lightning
 * MICA_E_USAGE for any other name. */
mica_status mica_schedule_config_set_named(mica_schedule_config *c, const char *name,
                                           mica_err *err);

/* mu of a packed sequence length by the linear rule of calculate_shift. */
double mica_schedule_mu(const mica_schedule_config *c, int image_seq_len);
/* FLUX.2's empirical mu (pipeline_flux2_klein.py compute_empirical_mu). */
double mica_schedule_mu_empirical(int image_seq_len, int steps);

/* own[0..steps-1] = torch.linspace(1, 1/steps, steps) as its vectorised f32 kernel computes it: what
 * pipeline_z_image.py passes. Differs from numpy's in the last bit of some values. */
void mica_schedule_torch_linspace(int steps, double *own);

/* sigmas[0..steps], strictly decreasing, the last 0; timesteps[0..steps-1] = sigma *
 * num_train_timesteps (f32). mu is read only with use_dynamic_shifting.
 * own: `steps` unshifted sigmas in (0, 1], decreasing, without the final 0, instead of linspace; or
 * NULL. sigmas holds steps + 1 floats, timesteps holds steps.
 * One step with shift_terminal gives 1, 0: the reference divides 0 by 0 there.
 * MICA_E_USAGE: steps or own out of range; MICA_E_UNSUPPORTED: invert_sigmas, stochastic_sampling;
 * MICA_E_FORMAT: a configuration whose result does not decrease. */
mica_status mica_schedule_run(const mica_schedule_config *c, int steps, double mu,
                              const double *own, float *sigmas, float *timesteps, mica_err *err);

#endif
