/* beta_quantile.h - the quantile function of the beta distribution.
 *
 * The "beta" spacing of a schedule places its sigmas at quantiles of Beta(0.6, 0.6), whose density
 * is large at both ends (Lee et al. 2024, "Beta Sampling is All You Need", arXiv 2407.12173). */
#ifndef MICA_SAMPLE_BETA_QUANTILE_H
#define MICA_SAMPLE_BETA_QUANTILE_H

/* Regularised incomplete beta function I_x(a, b), 0 <= x <= 1, a and b in (0, 80]. */
double mica_beta_cdf(double x, double a, double b);
/* The x with I_x(a, b) = p, 0 <= p <= 1. Relative error below 1e-12 for a, b near 1; quantiles
 * close to 1 are limited by the spacing of doubles there. */
double mica_beta_quantile(double p, double a, double b);

#endif
