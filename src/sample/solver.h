/* solver.h - from one latent to the next: the update rules of flow matching.
 *
 * A model predicts velocity v = dx/dsigma. A solver asks for predictions at given sigmas and
 * combines them; it keeps its history in session tensors and allocates nothing after init.
 *
 *   Euler      x += (s' - s) v                       FlowMatchEulerDiscreteScheduler.step
 *   Heun       two predictions a step                FlowMatchHeunDiscreteScheduler.step
 *   DPM++ 2M   multistep, flow prediction            DPMSolverMultistepScheduler, use_flow_sigmas
 *   UniPC      predictor-corrector, flow prediction  UniPCMultistepScheduler, use_flow_sigmas
 */
#ifndef MICA_SAMPLE_SOLVER_H
#define MICA_SAMPLE_SOLVER_H

#include "backend/backend.h"

#define MICA_SOLVER_HISTORY 3

typedef struct mica_solver_state {
    mica_solver kind;
    int steps;
    int step;            /* solver step under way, 0-based */
    int stage;           /* Heun: 0 or 1 */
    const float *sigmas; /* steps + 1, strictly decreasing, last 0; borrowed */
    /* f32 state, newest first. Heun: [0] is the velocity at the start of the step. Multistep:
     * predicted clean latents x - sigma v. */
    mica_tensor history[MICA_SOLVER_HISTORY];
    mica_tensor saved; /* x at the start of the step */
} mica_solver_state;

/* x: shape of the latents; history tensors come from the session pool: Euler 0, Heun 2,
 * DPM++ 2M 2, UniPC 4 times the size of x. MICA_SOLVER_DEFAULT is Euler. */
mica_status mica_solver_init(mica_solver_state *s, mica_backend *be, mica_solver kind, int steps,
                             const float *sigmas, const mica_tensor *x, mica_err *err);
/* Sigma at which the next prediction is wanted. */
float mica_solver_sigma(const mica_solver_state *s);
/* All sigmas a run will ask for, in order (Heun: up to 2 * steps - 1); returns the count. Used to
 * compute every modulation vector before the loop. sigmas_out holds 2 * steps floats. */
int mica_solver_plan(mica_solver kind, int steps, const float *sigmas, float *sigmas_out);
/* Takes the prediction v at that sigma (f32 state of x's shape; kept as it is), updates x in
 * place; *done_step is true when a whole solver step is finished. */
void mica_solver_step(mica_solver_state *s, mica_backend *be, const mica_tensor *v, mica_tensor *x,
                      bool *done_step);
bool mica_solver_is_done(const mica_solver_state *s);

#endif
