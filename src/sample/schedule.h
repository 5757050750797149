/* schedule.h - sigma schedules of flow-matching models.
 *
 * Source: diffusers schedulers/scheduling_flow_match_euler_discrete.py (set_timesteps,
 * time_shift, stretch_shift_to_terminal) and pipeline_qwenimage.py (calculate_shift).
 * Computed as the reference does: numpy f32 or f64 where it uses them, so that sigmas agree
 * to the last bit that matters (golden primitives/schedules). */
#ifndef MICA_SAMPLE_SCHEDULE_H
#define MICA_SAMPLE_SCHEDULE_H

#include "base/status.h"

#define MICA_MAX_STEPS 1000

typedef enum mica_shift_kind { MICA_SHIFT_EXPONENTIAL = 0, MICA_SHIFT_LINEAR } mica_shift_kind;
typedef enum mica_spacing {
    MICA_SPACING_DEFAULT = 0, /* linspace(1, 1/n, n) */
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
} mica_schedule_config;

void mica_schedule_config_init(mica_schedule_config *c); /* the reference class's defaults */
mica_status mica_schedule_config_read(mica_schedule_config *c, const char *path, mica_err *err);

/* mu of a packed sequence length by the linear rule of calculate_shift. */
double mica_schedule_mu(const mica_schedule_config *c, int image_seq_len);
/* FLUX.2's empirical mu (pipeline_flux2_klein.py compute_empirical_mu). */
double mica_schedule_mu_empirical(int image_seq_len, int steps);

/* sigmas[0..steps], the last 0; timesteps[0..steps-1] = sigma * num_train_timesteps (f32).
 * own: caller's unshifted sigmas instead of linspace, or NULL. Arrays hold steps + 1 floats. */
mica_status mica_schedule_run(const mica_schedule_config *c, int steps, double mu,
                              const double *own, float *sigmas, float *timesteps, mica_err *err);

#endif
