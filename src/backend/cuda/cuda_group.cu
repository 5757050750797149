/* cuda_group.cu - group norm of a channels-last picture in two operations, see backend.h.
 *
 *     block (y, g):  D = C/G channels of X pixels of row y
 *         pass 1  sum ──► mean;   pass 2  sums of x - mean and of its square
 *     block g:       moments of all rows ──► mean, variance (f64, fixed order) ──► scale, shift
 *
 * Napkin: 1,024 x 1,024 x 128 in bf16 is 268 MB, read twice: 0.18 ms when the second reading
 * misses the L2. A group of 4 channels is 8 bytes of a 32-byte sector; the blocks of the other
 * groups of a row run at the same time and find the rest of the sector in the L2. */
#include "backend/cuda/cuda_device.cuh"

static __global__ void moments_kernel(const void *x, mica_cuda_type type, int X, int C, int G,
                                      float *moments)
{
    const int g = blockIdx.x % G, D = C / G;
    const int64_t y = blockIdx.x / G, row = y * X * (int64_t)C + (int64_t)g * D;
    const int64_t n = (int64_t)X * D;
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < n; i += BLOCK) {
        const parts at = divide(i, D);
        sum += load1(x, type, row + at.quotient * C + at.rest);
    }
    const float mean = group_sum<BLOCK>(sum) / (float)n;
    float rest = 0.0f, squares = 0.0f;
    for (int64_t i = threadIdx.x; i < n; i += BLOCK) {
        const parts at = divide(i, D);
        const float d = load1(x, type, row + at.quotient * C + at.rest) - mean;
        rest += d;
        squares += d * d;
    }
    rest = group_sum<BLOCK>(rest);
    squares = group_sum<BLOCK>(squares);
    if (threadIdx.x == 0) { /* what rounding left in the mean, as cpu_group_norm.c */
        float *out = moments + 2 * (int64_t)blockIdx.x;
        out[0] = mean + rest / (float)n;
        out[1] = squares - rest * rest / (float)n;
    }
}

extern "C" cudaError_t mica_cuda_group_moments(const void *x, mica_cuda_type type, int Y, int X,
                                               int C, int G, float *moments, cudaStream_t stream)
{
    moments_kernel<<<(unsigned)((int64_t)Y * G), BLOCK, 0, stream>>>(x, type, X, C, G, moments);
    return cudaGetLastError();
}

static __global__ void affine_kernel(const float *moments, int rows, int G, int C, int64_t per_row,
                                     float eps, const float *gamma, const float *beta, float *scale,
                                     float *shift)
{
    const int g = blockIdx.x, D = C / G;
    double sum = 0.0, squares = 0.0, between = 0.0;
    for (int y = threadIdx.x; y < rows; y += BLOCK)
        sum += (double)moments[2 * ((int64_t)y * G + g)];
    const double mean = group_sum<BLOCK>(sum) / rows;
    for (int y = threadIdx.x; y < rows; y += BLOCK) {
        const double d = (double)moments[2 * ((int64_t)y * G + g)] - mean;
        squares += (double)moments[2 * ((int64_t)y * G + g) + 1];
        between += d * d;
    }
    squares = group_sum<BLOCK>(squares);
    between = group_sum<BLOCK>(between);
    const double var = (squares + (double)per_row * between) / ((double)per_row * rows);
    const double rstd = 1.0 / sqrt(var + (double)eps);
    for (int c = g * D + threadIdx.x; c < (g + 1) * D; c += BLOCK) {
        const double s = (double)gamma[c] * rstd;
        scale[c] = (float)s;
        shift[c] = (float)((double)beta[c] - mean * s);
    }
}

extern "C" cudaError_t mica_cuda_group_affine(const float *moments, int rows, int G, int C,
                                              int64_t per_row, float eps, const float *gamma,
                                              const float *beta, float *scale, float *shift,
                                              cudaStream_t stream)
{
    affine_kernel<<<(unsigned)G, BLOCK, 0, stream>>>(moments, rows, G, C, per_row, eps, gamma, beta,
                                                     scale, shift);
    return cudaGetLastError();
}
