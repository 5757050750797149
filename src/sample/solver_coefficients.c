/* solver_coefficients.c - DPM-Solver++ 2M and UniPC (B2, order 2) for flow matching.
 *
 *      s1 ────────► s0 ────────► t        h0 = lambda(s0) - lambda(s1)
 *      m1    h0     m0     h     mt       h  = lambda(t)  - lambda(s0)
 *
 * First order, both:    x' = (t/s0) x + c m0,    c = alpha_t (1 - e^-h) = alpha_t - alpha_s0 t/s0
 * Second order, both:   x' += c/2 (h/h0) (m0 - m1)
 * (Lu et al. 2022, arXiv 2211.01095, algorithm 2; Zhao et al. 2023, arXiv 2302.04867, with
 * B(h) = e^-h - 1.) Reference: scheduling_dpmsolver_multistep.py
 * multistep_dpm_solver_second_order_update, scheduling_unipc_multistep.py
 * multistep_uni_p_bh_update and multistep_uni_c_bh_update.
 *
 * The closed form of c needs no infinities at t = 0 or s0 = 1. At s1 = 1, h0 is infinite and the
 * second-order term vanishes; UniPC in the reference moves that sigma to 1 - 1e-6 instead,
 * which gives a finite h0 of about 14 and visibly other pictures, so both are kept apart here.
 * Everything is computed in double from the f32 sigmas and rounded once at the end. */
#include "sample/solver_coefficients.h"

#include <math.h>

float mica_solver_unipc_first_sigma(float sigma)
{
    const double margin = 1e-6;
    return fabs((double)sigma - 1.0) < margin ? (float)((double)sigma - margin) : sigma;
}

static double lambda(double sigma)
{
    return log1p(-sigma) - log(sigma);
}

/* alpha_t (1 - e^-h) */
static double first_order_weight(double s, double t)
{
    return (1.0 - t) - (1.0 - s) * t / s;
}

mica_solver_coefficients mica_solver_predictor(const float *sigmas, int steps, int step)
{
    const double s = sigmas[step], t = sigmas[step + 1];
    const double c = first_order_weight(s, t);
    double d = 0.0; /* weight of m0 - m1 */
    if (step > 0 && step < steps - 1) {
        const double h = lambda(t) - lambda(s);
        const double h0 = lambda(s) - lambda(sigmas[step - 1]);
        d = 0.5 * c * h / h0;
    }
    return (mica_solver_coefficients){(float)(t / s), (float)(c + d), (float)-d, 0.0f};
}

/* rho of UniC-p: 1/2 for the first step; for order 2 the solution of
 *     rho_1     + rho_2 = b_1 = (phi_1/hh - 1) / B            hh = -h, B = phi_1 = e^hh - 1
 *     rho_1 * r + rho_2 = b_2 = 2 ((phi_1/hh - 1)/hh - 1/2) / B        r = -h0/h */
mica_solver_coefficients mica_solver_corrector(const float *sigmas, int step)
{
    const double s = sigmas[step - 1], t = sigmas[step];
    const double c = first_order_weight(s, t);
    double d = 0.0, rho_2 = 0.5; /* d: weight of m1 - m0 */
    if (step > 1) {
        const double h = lambda(t) - lambda(s);
        const double r = -(lambda(s) - lambda(sigmas[step - 2])) / h;
        const double B = expm1(-h);
        const double phi_2 = -B / h - 1.0;
        const double b_1 = phi_2 / B;
        const double b_2 = 2.0 * (-phi_2 / h - 0.5) / B;
        const double rho_1 = (b_1 - b_2) / (1.0 - r);
        rho_2 = b_1 - rho_1;
        d = c * rho_1 / r;
    }
    const double e = c * rho_2; /* weight of mt - m0 */
    return (mica_solver_coefficients){(float)(t / s), (float)(c - d - e), (float)d, (float)e};
}
