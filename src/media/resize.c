/* resize.c - separable resampling in fixed point.
 *
 *     src  w x h  ──► rows resampled: W x h ──► columns resampled: W x H     or the other way round
 *
 *     out[i] = clip8((2^(b-1) + sum_j pixel[first_i + j] * k_i[j]) >> b),   k = round(weight * 2^b)
 *
 *     Pillow   b = 22
 *     torch    the largest b up to 22 whose k all fit into 16 bits
 *
 * Reference: Pillow src/libImaging/Resample.c (precompute_coeffs, normalize_coeffs_8bpc,
 * ImagingResampleHorizontal_8bpc): a pass whose length does not change is left out, weights are
 * computed and normalised in double, sums are 32-bit integers. Premultiplied alpha: Convert.c
 * rgba2rgbA, rgbA2rgba. Which direction comes first moves single levels, because there are 8 bits
 * in between: rows in every Pillow before 13; since then columns, where the height shrinks by more
 * than twice as many pixels as the width (found by comparing both orders with Pillow 13.0's result
 * for 4,000 sizes). The newer order is taken. torch
 * aten/src/ATen/native/cpu/UpSampleKernel.cpp (HelperInterpBase::_compute_index_ranges_int16_weights)
 * does the same arithmetic with shorter weights, which moves one level in 170, rows always first.
 *
 * Plain loops: the pictures are small beside the networks that follow (a 2048x2048 picture to
 * 1024x1024 by Lanczos takes about 0.1 s). */
#include "media/resize.h"

#include "base/checked.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

#define MOST_BITS 22
#define MAX_SIDE  65535

/* Weights of one axis: output i reads `count[i]` pixels from `first[i]`, weights at k + i * taps. */
typedef struct axis {
    int in, out, taps, bits;
    int *first, *count;
    int32_t *k;
} axis;

static double triangle(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double cubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static double sinc(double x)
{
    if (x == 0.0)
        return 1.0;
    x *= 3.14159265358979323846;
    return sin(x) / x;
}

static double lanczos(double x)
{
    return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
}

static const struct {
    double (*weight)(double x);
    double support;
    bool short_weights;
} filters[] = {
    [MICA_RESAMPLE_BILINEAR] = {triangle, 1.0, false},
    [MICA_RESAMPLE_BICUBIC] = {cubic, 2.0, false},
    [MICA_RESAMPLE_LANCZOS] = {lanczos, 3.0, false},
    [MICA_RESAMPLE_BICUBIC_TORCH] = {cubic, 2.0, true},
};

static void axis_deinit(axis *a)
{
    mica_mem_free(a->first);
    mica_mem_free(a->count);
    mica_mem_free(a->k);
    *a = (axis){0};
}

/* Normalised weights of output i, `taps` doubles. */
static void find_weights(axis *a, int i, mica_resample filter, double *weights)
{
    const double scale = (double)a->in / a->out;
    const double stretch = scale < 1.0 ? 1.0 : scale; /* shrinking widens the filter */
    const double support = filters[filter].support * stretch;
    const double center = (i + 0.5) * scale, inverse = 1.0 / stretch;
    int first = (int)(center - support + 0.5);
    int end = (int)(center + support + 0.5);
    first = first < 0 ? 0 : first;
    end = end > a->in ? a->in : end;
    double sum = 0.0;
    for (int j = 0; j < end - first; j++) {
        weights[j] = filters[filter].weight((j + first - center + 0.5) * inverse);
        sum += weights[j];
    }
    a->first[i] = first;
    a->count[i] = end - first;
    for (int j = 0; j < end - first && sum != 0.0; j++)
        weights[j] /= sum;
}

static int choose_bits(const axis *a, mica_resample filter, const double *weights)
{
    if (!filters[filter].short_weights)
        return MOST_BITS;
    double most = 0.0;
    for (size_t i = 0; i < (size_t)a->out * (size_t)a->taps; i++)
        most = weights[i] > most ? weights[i] : most;
    int bits = 0;
    while (bits < MOST_BITS && (int)(0.5 + most * (1 << (bits + 1))) < 1 << 15)
        bits++;
    return bits;
}

static mica_status axis_init(axis *a, int in, int out, mica_resample filter, mica_err *err)
{
    const double scale = (double)in / out;
    const double stretch = scale < 1.0 ? 1.0 : scale;
    const int taps = (int)ceil(filters[filter].support * stretch) * 2 + 1;
    const size_t n = (size_t)out, count = n * (size_t)taps; /* < 65535 * 2^19 */
    *a = (axis){.in = in, .out = out, .taps = taps};
    a->first = mica_mem_calloc(n, sizeof *a->first);
    a->count = mica_mem_calloc(n, sizeof *a->count);
    a->k = mica_mem_calloc(count, sizeof *a->k);
    double *weights = mica_mem_calloc(count, sizeof *weights);
    if (!a->first || !a->count || !a->k || !weights) {
        mica_mem_free(weights);
        axis_deinit(a);
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the weights of resizing %d to %d pixels",
                         in, out);
    }
    for (int i = 0; i < out; i++)
        find_weights(a, i, filter, weights + (size_t)i * (size_t)taps);
    a->bits = choose_bits(a, filter, weights);
    for (size_t i = 0; i < count; i++) {
        const double w = weights[i] * (1 << a->bits);
        a->k[i] = (int32_t)(w < 0.0 ? w - 0.5 : w + 0.5);
    }
    mica_mem_free(weights);
    return MICA_OK;
}

static uint8_t weighted_sum(const axis *a, int i, const uint8_t *pixel, size_t stride)
{
    const int32_t *k = a->k + (size_t)i * (size_t)a->taps;
    int32_t sum = 1 << (a->bits - 1);
    for (int j = 0; j < a->count[i]; j++)
        sum += pixel[(size_t)j * stride] * k[j];
    sum >>= a->bits; /* arithmetic shift, as everywhere this compiles */
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static void resample_rows(const axis *a, const mica_picture *src, mica_picture *dst)
{
    const size_t n = (size_t)src->channels;
    uint8_t *out = dst->pixels;
    for (int y = 0; y < src->height; y++) {
        const uint8_t *row = src->pixels + (size_t)y * (size_t)src->width * n;
        for (int x = 0; x < a->out; x++) {
            const uint8_t *pixel = row + (size_t)a->first[x] * n;
            for (size_t c = 0; c < n; c++)
                *out++ = weighted_sum(a, x, pixel + c, n);
        }
    }
}

static void resample_columns(const axis *a, const mica_picture *src, mica_picture *dst)
{
    const size_t row = (size_t)src->width * (size_t)src->channels;
    uint8_t *out = dst->pixels;
    for (int y = 0; y < a->out; y++) {
        const uint8_t *top = src->pixels + (size_t)a->first[y] * row;
        for (size_t i = 0; i < row; i++)
            *out++ = weighted_sum(a, y, top + i, row);
    }
}

static mica_status alloc_picture(mica_picture *p, int width, int height, int channels,
                                 mica_err *err)
{
    size_t size = 0;
    if (mica_mul_size((size_t)width * (size_t)height, (size_t)channels, &size))
        p->pixels = mica_mem_alloc(size);
    if (!p->pixels)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a picture of %dx%d pixels", width,
                         height);
    p->width = width;
    p->height = height;
    p->channels = channels;
    return MICA_OK;
}

typedef void (*pass_fn)(const axis *a, const mica_picture *src, mica_picture *dst);

/* Replaces *p by its resampled copy. */
static mica_status run_pass(mica_picture *p, bool rows, int size, mica_resample filter,
                            mica_err *err)
{
    axis a;
    MICA_TRY(axis_init(&a, rows ? p->width : p->height, size, filter, err));
    mica_picture out = {0};
    const mica_status st =
        alloc_picture(&out, rows ? size : p->width, rows ? p->height : size, p->channels, err);
    if (st == MICA_OK) {
        const pass_fn pass = rows ? resample_rows : resample_columns;
        pass(&a, p, &out);
        mica_picture_deinit(p);
        *p = out;
    }
    axis_deinit(&a);
    return st;
}

/* a * b / 255, rounded */
static uint8_t mul_div_255(unsigned a, unsigned b)
{
    const unsigned t = a * b + 128;
    return (uint8_t)(((t >> 8) + t) >> 8);
}

static void premultiply(mica_picture *p)
{
    const size_t n = (size_t)p->width * (size_t)p->height;
    for (uint8_t *v = p->pixels; v < p->pixels + 4 * n; v += 4)
        for (int c = 0; c < 3; c++)
            v[c] = mul_div_255(v[c], v[3]);
}

static void unpremultiply(mica_picture *p)
{
    const size_t n = (size_t)p->width * (size_t)p->height;
    for (uint8_t *v = p->pixels; v < p->pixels + 4 * n; v += 4) {
        if (v[3] == 0 || v[3] == 255)
            continue;
        for (int c = 0; c < 3; c++) {
            const unsigned t = 255u * v[c] / v[3];
            v[c] = (uint8_t)(t > 255 ? 255 : t);
        }
    }
}

static bool columns_come_first(const mica_picture *src, int width, int height, mica_resample filter)
{
    return !filters[filter].short_weights && height < src->height &&
           src->height - height > 2 * (src->width - width);
}

mica_status mica_picture_resize(const mica_picture *src, int width, int height,
                                mica_resample filter, mica_picture *dst, mica_err *err)
{
    *dst = (mica_picture){0};
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE)
        return MICA_FAIL(err, MICA_E_USAGE, "cannot resize to %dx%d pixels; 1 to %d per side",
                         width, height, MAX_SIDE);
    MICA_TRY(alloc_picture(dst, src->width, src->height, src->channels, err));
    memcpy(dst->pixels, src->pixels,
           (size_t)src->width * (size_t)src->height * (size_t)src->channels);
    const bool rows = width != src->width, columns = height != src->height;
    const bool alpha = src->channels == 4 && (rows || columns);
    if (alpha)
        premultiply(dst);
    const bool columns_first = columns_come_first(src, width, height, filter);
    mica_status st = MICA_OK;
    if (columns && columns_first)
        st = run_pass(dst, false, height, filter, err);
    if (st == MICA_OK && rows)
        st = run_pass(dst, true, width, filter, err);
    if (st == MICA_OK && columns && !columns_first)
        st = run_pass(dst, false, height, filter, err);
    if (st != MICA_OK)
        mica_picture_deinit(dst);
    else if (alpha)
        unpremultiply(dst);
    return st;
}
