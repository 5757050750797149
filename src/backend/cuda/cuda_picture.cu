/* cuda_picture.cu - the kernels of channels-last pictures that the autoencoders spend their time in
 * beside convolutions; each moves every byte once.
 *
 *     rows of n channels        TPR lanes share a row, each holds VPL vectors of 8 channels in registers:
 *                                   96 = 4 lanes x 3, 192 = 8 x 3, 384 = 16 x 3, 512 = 16 x 4
 *     channels over all pixels  a thread keeps its 8 channels and walks over pixels, so what belongs
 *                               to a channel (scale, shift, sums) stays in registers
 *
 * Shapes that do not fit either take the general kernels (cuda_norm.cu, cuda_group.cu, cuda_point.cu).
 * bf16 pictures take the fast exponential and division in SiLU (relative error 1e-6, a bf16 has 4e-3).
 *
 * Napkin for an H100 (3 TB/s): 1,024 x 1,024 x 96 in bf16 are 201 MB, read and written 0.13 ms;
 * its doubling from 512 x 512 x 192 writes 403 MB, 0.17 ms. */
#include "backend/cuda/cuda_device.cuh"

static __device__ __forceinline__ float quick_silu(float x)
{
    return __fdividef(x, 1.0f + __expf(-x));
}

template <int N>
static __device__ __forceinline__ void activate_all(float (&v)[N], mica_cuda_act act, bool quick)
{
    if (act == MICA_CUDA_ACT_NONE)
        return;
#pragma unroll
    for (int k = 0; k < N; k++)
        v[k] = quick && act == MICA_CUDA_ACT_SILU ? quick_silu(v[k]) : activate(v[k], act);
}

/* Blocks of 256 threads for a loop over `items` of them, a few for every multiprocessor. */
static unsigned blocks_for(int64_t items, int64_t per_block)
{
    const int64_t blocks = (items + per_block - 1) / per_block, most = 132 * 8;
    return (unsigned)(blocks < 1 ? 1 : blocks > most ? most : blocks);
}

/* ---------------------------------------------------------------- unit rows -- */

struct unit_rows {
    const void *x;
    void *y;
    mica_cuda_type x_type, y_type;
    int64_t rows;
    const float *w;
    mica_cuda_act act;
};

template <int TPR, int VPL> static __global__ void unit_rows_kernel(const unit_rows a)
{
    constexpr int n = TPR * VPL * 8, ROWS = BLOCK / TPR;
    const int lane = threadIdx.x % TPR;
    const bool quick = a.y_type == MICA_CUDA_BF16;
    float w[VPL][8];
#pragma unroll
    for (int i = 0; i < VPL; i++)
        load_vector<8>(a.w, (i * TPR + lane) * 8, 1.0f, w[i]);
    for (int64_t first = (int64_t)blockIdx.x * ROWS; first < a.rows;
         first += (int64_t)gridDim.x * ROWS) {
        const int64_t row = first + threadIdx.x / TPR;
        const bool there = row < a.rows; /* lanes behind the end take part in the sums */
        float v[VPL][8], sum = 0.0f;
#pragma unroll
        for (int i = 0; i < VPL; i++) {
#pragma unroll
            for (int k = 0; k < 8; k++)
                v[i][k] = 0.0f;
            if (there)
                load<8>(a.x, a.x_type, row * n + (i * TPR + lane) * 8, v[i]);
        }
#pragma unroll
        for (int i = 0; i < VPL; i++)
#pragma unroll
            for (int k = 0; k < 8; k++)
                sum += v[i][k] * v[i][k];
#pragma unroll
        for (int step = TPR / 2; step > 0; step >>= 1)
            sum += __shfl_xor_sync(0xffffffffu, sum, step);
        const float factor = sqrtf((float)n) / fmaxf(sqrtf(sum), 1e-12f);
        if (!there)
            continue;
#pragma unroll
        for (int i = 0; i < VPL; i++) {
#pragma unroll
            for (int k = 0; k < 8; k++)
                v[i][k] = v[i][k] * factor * w[i][k];
            activate_all(v[i], a.act, quick);
            store<8>(a.y, a.y_type, row * n + (i * TPR + lane) * 8, v[i]);
        }
    }
}

template <int TPR> static bool launch_unit_rows(const unit_rows &a, int vpl, cudaStream_t stream)
{
    const unsigned grid = blocks_for(a.rows, BLOCK / TPR);
    if (vpl == 1)
        unit_rows_kernel<TPR, 1><<<grid, BLOCK, 0, stream>>>(a);
    else if (vpl == 2)
        unit_rows_kernel<TPR, 2><<<grid, BLOCK, 0, stream>>>(a);
    else if (vpl == 3)
        unit_rows_kernel<TPR, 3><<<grid, BLOCK, 0, stream>>>(a);
    else if (vpl == 4)
        unit_rows_kernel<TPR, 4><<<grid, BLOCK, 0, stream>>>(a);
    return vpl >= 1 && vpl <= 4;
}

static bool plain_rows(const mica_cuda_view *v)
{
    return v->wide && v->dims == 1 && (v->rows == 1 || v->stride[0] == v->n);
}

extern "C" bool mica_cuda_unit_rows(const mica_cuda_view *x, const float *w, mica_cuda_act act,
                                    const mica_cuda_view *y, cudaStream_t stream,
                                    cudaError_t *error)
{
    const unit_rows a = {x->data, y->data, x->type, y->type, x->rows, w, act};
    *error = cudaSuccess;
    if (!plain_rows(x) || !plain_rows(y) || (uintptr_t)w % 16 != 0)
        return false;
    const int64_t vectors = x->n / 8;
    int tpr = 1;
    while (tpr < 16 && vectors > 3 * tpr)
        tpr *= 2;
    if (vectors % tpr != 0)
        return false;
    const int vpl = (int)(vectors / tpr);
    const bool done = tpr == 1   ? launch_unit_rows<1>(a, vpl, stream)
                      : tpr == 2 ? launch_unit_rows<2>(a, vpl, stream)
                      : tpr == 4 ? launch_unit_rows<4>(a, vpl, stream)
                      : tpr == 8 ? launch_unit_rows<8>(a, vpl, stream)
                                 : launch_unit_rows<16>(a, vpl, stream);
    *error = cudaGetLastError();
    return done;
}

/* ------------------------------------------------------------------ moments -- */

/* A block per row of the picture: threads keep 8 channels each, BLOCK / (C / 8) pixels at a time.
 * Sums are of differences to a value of the row itself, so that squares lose nothing to a mean that
 * is far from zero. */
static __global__ void moments_rows_kernel(const void *x, mica_cuda_type type, int X, int C, int G,
                                           float *moments)
{
    __shared__ float sums[BLOCK * 8], squares[BLOCK * 8];
    const int vectors = C / 8, lanes = BLOCK / vectors, D = C / G;
    const int first = threadIdx.x % vectors * 8, lane = threadIdx.x / vectors;
    const int64_t row = (int64_t)blockIdx.x * X * C;
    float base[8], sum[8] = {}, square[8] = {};
#pragma unroll
    for (int k = 0; k < 8; k++)
        base[k] = load1(x, type, row + (first + k) / D * D);
    if (lane < lanes) { /* the rest of the block is less than a pixel */
#pragma unroll 4
        for (int p = lane; p < X; p += lanes) {
            float v[8];
            load<8>(x, type, row + (int64_t)p * C + first, v);
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float d = v[k] - base[k];
                sum[k] += d;
                square[k] += d * d;
            }
        }
#pragma unroll
        for (int k = 0; k < 8; k++) {
            sums[lane * C + first + k] = sum[k];
            squares[lane * C + first + k] = square[k];
        }
    }
    __syncthreads();
    for (int c = threadIdx.x; c < C; c += BLOCK) /* a column belongs to one thread */
        for (int l = 1; l < lanes; l++) {
            sums[c] += sums[l * C + c];
            squares[c] += squares[l * C + c];
        }
    __syncthreads();
    for (int g = threadIdx.x; g < G; g += BLOCK) {
        float s = 0.0f, q = 0.0f;
        const float n = (float)X * (float)D;
        for (int c = g * D; c < (g + 1) * D; c++) {
            s += sums[c];
            q += squares[c];
        }
        float *out = moments + 2 * ((int64_t)blockIdx.x * G + g);
        out[0] = load1(x, type, row + (int64_t)g * D) + s / n;
        out[1] = fmaxf(q - s * s / n, 0.0f);
    }
}

extern "C" bool mica_cuda_row_moments(const void *x, mica_cuda_type type, int Y, int X, int C,
                                      int G, float *moments, cudaStream_t stream,
                                      cudaError_t *error)
{
    *error = cudaSuccess;
    if (C % 8 != 0 || C > 8 * BLOCK || (uintptr_t)x % 16 != 0)
        return false;
    moments_rows_kernel<<<(unsigned)Y, BLOCK, 0, stream>>>(x, type, X, C, G, moments);
    *error = cudaGetLastError();
    return true;
}

/* ----------------------------------------------------- scales of channels -- */

#define PIXELS 4 /* in flight per thread */

struct channel_map {
    const void *x, *residual; /* residual NULL: none */
    void *y;
    mica_cuda_type x_type, residual_type, y_type;
    int64_t pixels;
    int C;
    const float *scale, *shift; /* NULL: 1, 0 */
    mica_cuda_act act;
};

/* y = act(x scale + shift) + residual. x and residual may be y: a thread reads an element before
 * it writes the same one, and nobody else touches it. */
static __global__ void channel_map_kernel(const channel_map a)
{
    const int vectors = a.C / 8, lanes = BLOCK / vectors;
    const int first = threadIdx.x % vectors * 8;
    const bool quick = a.y_type == MICA_CUDA_BF16;
    const int64_t step = (int64_t)gridDim.x * lanes;
    float scale[8], shift[8];
    if (threadIdx.x >= lanes * vectors) /* less than a pixel */
        return;
    load_vector<8>(a.scale, first, 1.0f, scale);
    load_vector<8>(a.shift, first, 0.0f, shift);
    for (int64_t p = (int64_t)blockIdx.x * lanes + threadIdx.x / vectors; p < a.pixels;
         p += PIXELS * step) {
        float v[PIXELS][8], r[PIXELS][8];
#pragma unroll
        for (int i = 0; i < PIXELS; i++) {
            const int64_t at = (p + i * step) * a.C + first;
            if (p + i * step >= a.pixels)
                continue;
            load<8>(a.x, a.x_type, at, v[i]);
            if (a.residual)
                load<8>(a.residual, a.residual_type, at, r[i]);
        }
#pragma unroll
        for (int i = 0; i < PIXELS; i++) {
            if (p + i * step >= a.pixels)
                continue;
#pragma unroll
            for (int k = 0; k < 8; k++)
                v[i][k] = v[i][k] * scale[k] + shift[k];
            activate_all(v[i], a.act, quick);
            if (a.residual)
#pragma unroll
                for (int k = 0; k < 8; k++)
                    v[i][k] += r[i][k];
            store<8>(a.y, a.y_type, (p + i * step) * a.C + first, v[i]);
        }
    }
}

extern "C" bool mica_cuda_channel_map(const mica_cuda_view *x, const float *scale,
                                      const float *shift, mica_cuda_act act,
                                      const mica_cuda_view *residual, const mica_cuda_view *y,
                                      cudaStream_t stream, cudaError_t *error)
{
    const int64_t C = x->n;
    *error = cudaSuccess;
    if (!plain_rows(x) || !plain_rows(y) || (residual && !plain_rows(residual)) || C > 8 * BLOCK)
        return false;
    const channel_map a = {x->data,
                           residual ? residual->data : NULL,
                           y->data,
                           x->type,
                           residual ? residual->type : x->type,
                           y->type,
                           x->rows,
                           (int)C,
                           scale,
                           shift,
                           act};
    channel_map_kernel<<<blocks_for(x->rows, PIXELS * (BLOCK / (C / 8))), BLOCK, 0, stream>>>(a);
    *error = cudaGetLastError();
    return true;
}

/* ----------------------------------------------------------------- doubling -- */

/* A thread reads 16 bytes of a pixel and writes them to its four copies. */
static __global__ void double_kernel(const uint4 *x, uint32_t X, uint32_t vectors, uint32_t items,
                                     uint4 *y)
{
    const uint32_t step = gridDim.x * BLOCK, below = 2 * X * vectors;
    for (uint32_t i = blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const uint32_t pixel = i / vectors, c = i - pixel * vectors;
        const uint32_t row = pixel / X, column = pixel - row * X;
        const uint4 v = x[i];
        uint4 *to = y + ((int64_t)row * 2 * below + (int64_t)column * 2 * vectors + c);
        to[0] = v;
        to[vectors] = v;
        to[below] = v;
        to[below + vectors] = v;
    }
}

extern "C" bool mica_cuda_double_pixels(const void *x, void *y, int Y, int X, int64_t pixel_bytes,
                                        cudaStream_t stream, cudaError_t *error)
{
    const int64_t items = (int64_t)Y * X * pixel_bytes / 16;
    *error = cudaSuccess;
    if (pixel_bytes % 16 != 0 || (uintptr_t)x % 16 != 0 || (uintptr_t)y % 16 != 0 ||
        items >= (int64_t)1 << 31)
        return false;
    double_kernel<<<blocks_for(items, BLOCK), BLOCK, 0, stream>>>(
        (const uint4 *)x, (uint32_t)X, (uint32_t)(pixel_bytes / 16), (uint32_t)items, (uint4 *)y);
    *error = cudaGetLastError();
    return true;
}

/* ------------------------------------------------------------------ bytes -- */

static __global__ void pixels_kernel(const mica_cuda_view x, uint8_t *out, int64_t items)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const parts at = divide(i, x.n);
        const float v = ((const float *)x.data)[row_offset(x, at.quotient) + at.rest];
        /* x / 2 is exact, so a multiply-add rounds as the sum does; fmaxf gives 0 for NaN. */
        out[i] = (uint8_t)rintf(fminf(fmaxf(v / 2.0f + 0.5f, 0.0f), 1.0f) * 255.0f);
    }
}

extern "C" cudaError_t mica_cuda_pixels(const mica_cuda_view *x, uint8_t *out, cudaStream_t stream)
{
    const int64_t items = x->rows * x->n;
    pixels_kernel<<<grid_for(items), BLOCK, 0, stream>>>(*x, out, items);
    return cudaGetLastError();
}
