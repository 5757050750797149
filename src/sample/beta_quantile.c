/* beta_quantile.c - incomplete beta function by its continued fraction, inverted by Newton steps.
 *
 *     I_x(a, b) = x^a (1 - x)^b / (a B(a, b)) * 1/(1 + d1/(1 + d2/(1 + ...)))
 *
 *     d_2m   =  m (b - m) x / ((a + 2m - 1)(a + 2m))
 *     d_2m+1 = -(a + m)(a + b + m) x / ((a + 2m)(a + 2m + 1))          (DLMF 8.17.22)
 *
 * The fraction converges fast for x < (a + 1)/(a + b + 2); beyond, I_x(a, b) = 1 - I_1-x(b, a)
 * is used. It is evaluated by the modified Lentz method (Thompson and Barnett 1986).
 * The inverse works on the half with p <= 1/2 and mirrors the rest, brackets the root and
 * falls back to bisection whenever a Newton step leaves the bracket, so it always ends.
 * Not meant for hot paths: a schedule calls it once per step. */
#include "sample/beta_quantile.h"

#include <float.h>
#include <math.h>

#define MAX_TERMS      500
#define MAX_ITERATIONS 200

/* Lentz keeps both partial denominators away from zero. */
static double away_from_zero(double v)
{
    return fabs(v) < DBL_MIN / DBL_EPSILON ? DBL_MIN / DBL_EPSILON : v;
}

static double continued_fraction(double x, double a, double b)
{
    double c = 1.0;
    double d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    double f = d;
    for (int m = 1; m <= MAX_TERMS; m++) {
        const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        d = 1.0 / away_from_zero(1.0 + even * d);
        c = away_from_zero(1.0 + even / c);
        f *= d * c;
        const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        d = 1.0 / away_from_zero(1.0 + odd * d);
        c = away_from_zero(1.0 + odd / c);
        f *= d * c;
        if (fabs(d * c - 1.0) < DBL_EPSILON)
            break;
    }
    return f;
}

/* tgamma, not lgamma: the latter writes a global. */
static double log_beta(double a, double b)
{
    return log(tgamma(a)) + log(tgamma(b)) - log(tgamma(a + b));
}

/* log of x^a (1 - x)^b / B(a, b) */
static double log_front(double x, double a, double b)
{
    return a * log(x) + b * log1p(-x) - log_beta(a, b);
}

double mica_beta_cdf(double x, double a, double b)
{
    if (x <= 0.0)
        return 0.0;
    if (x >= 1.0)
        return 1.0;
    const double front = exp(log_front(x, a, b));
    if (x < (a + 1.0) / (a + b + 2.0))
        return front * continued_fraction(x, a, b) / a;
    return 1.0 - front * continued_fraction(1.0 - x, b, a) / b;
}

/* Root of I_x(a, b) = p for p <= 1/2: Newton from the leading term of the series at 0. */
static double lower_quantile(double p, double a, double b)
{
    double lo = 0.0, hi = 1.0;
    double x = exp((log(p) + log(a) + log_beta(a, b)) / a);
    if (!(x > 0.0 && x < 1.0))
        x = 0.5;
    for (int i = 0; i < MAX_ITERATIONS; i++) {
        const double error = mica_beta_cdf(x, a, b) - p;
        if (error > 0.0)
            hi = x;
        else
            lo = x;
        const double density = exp(log_front(x, a, b)) / (x * (1.0 - x));
        double next = x - error / density;
        if (!(next > lo && next < hi))
            next = 0.5 * (lo + hi);
        if (fabs(next - x) <= DBL_EPSILON * x)
            return next;
        x = next;
    }
    return x;
}

double mica_beta_quantile(double p, double a, double b)
{
    if (p <= 0.0)
        return 0.0;
    if (p >= 1.0)
        return 1.0;
    if (p <= 0.5)
        return lower_quantile(p, a, b);
    return 1.0 - lower_quantile(1.0 - p, b, a);
}
