/* solver_coefficients.h - the numbers of the multistep solvers, without tensors.
 *
 * Flow matching mixes x = (1 - sigma) x0 + sigma noise, so alpha = 1 - sigma and the half
 * log-SNR is lambda = log((1 - sigma) / sigma): -inf at sigma 1, +inf at sigma 0. Multistep
 * solvers work on m = x - sigma v, the clean latents predicted at sigma. */
#ifndef MICA_SAMPLE_SOLVER_COEFFICIENTS_H
#define MICA_SAMPLE_SOLVER_COEFFICIENTS_H

/* x' = x * x_start + m0 * m_last + m1 * m_before (+ mt * m_next in a corrector) */
typedef struct mica_solver_coefficients {
    float x, m0, m1, mt;
} mica_solver_coefficients;

/* From sigmas[step] to sigmas[step + 1]: second order, except the first and the last step of the
 * run, which have no history or end at sigma 0. Serves DPM++ 2M (midpoint) and UniPC's
 * predictor (B2), which are the same formula. sigmas: steps + 1 values, the last 0. */
mica_solver_coefficients mica_solver_predictor(const float *sigmas, int steps, int step);
/* UniPC's corrector for the step that ended at sigmas[step], 1 <= step < steps: starts again
 * from the x that the step started from, now that m at its end (mt) is known. */
mica_solver_coefficients mica_solver_corrector(const float *sigmas, int step);
/* The first sigma as UniPC uses it: a value within 1e-6 of 1 becomes 1 - 1e-6, to keep lambda finite. */
float mica_solver_unipc_first_sigma(float sigma);

#endif
