/* cuda_move.cu - copies with permutation and change of type, weights of files to the device's
 * form, patches of pictures for convolution, doubling of pictures.
 *
 *     work item  =  1 or 8 elements of dst, neighbours in memory; src wherever its strides say
 *
 * Napkin: all of these read and write every element once. The permutation [C, Y, X] -> [Y, X, C]
 * reads 2 or 4 bytes of every 32-byte sector, which the L2 serves to the neighbours; pictures are
 * moved so once per run. Patches of a 3 x 3 convolution are 9 times the picture, made in bands
 * that stay in the L2 until the product has read them (cuda_conv.c). */
#include "backend/cuda/cuda_device.cuh"

#include <cuda_fp16.h>
#include <cuda_fp8.h>

/* ----------------------------------------------------------------- copies -- */

template <int V, typename I>
static __global__ void copy_kernel(const mica_cuda_copy_args a, int64_t items)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        I rest = (I)i;
        int64_t from = 0, to = 0;
        for (int d = a.dims - 1; d >= 0; d--) {
            const I length = (I)(d == a.dims - 1 ? a.shape[d] / V : a.shape[d]);
            const I index = rest % length;
            rest /= length;
            const int64_t unit = d == a.dims - 1 ? V : 1;
            from += (int64_t)index * unit * a.src_stride[d];
            to += (int64_t)index * unit * a.dst_stride[d];
        }
        float v[V];
        load<V>(a.src, a.src_type, from, v);
        store<V>(a.dst, a.dst_type, to, v);
    }
}

extern "C" cudaError_t mica_cuda_copy_strided(const mica_cuda_copy_args *args, cudaStream_t stream)
{
    int64_t items = 1;
    for (int d = 0; d < args->dims; d++)
        items *= args->shape[d];
    const bool small = items <= UINT32_MAX / 2;
    if (args->wide)
        items /= 8;
    const unsigned grid = grid_for(items);
    if (args->wide && small)
        copy_kernel<8, uint32_t><<<grid, BLOCK, 0, stream>>>(*args, items);
    else if (args->wide)
        copy_kernel<8, int64_t><<<grid, BLOCK, 0, stream>>>(*args, items);
    else if (small)
        copy_kernel<1, uint32_t><<<grid, BLOCK, 0, stream>>>(*args, items);
    else
        copy_kernel<1, int64_t><<<grid, BLOCK, 0, stream>>>(*args, items);
    return cudaGetLastError();
}

/* ---------------------------------------------------------------- weights -- */

static __device__ __forceinline__ float stored_number(const void *p, mica_cuda_type type, int64_t i)
{
    switch (type) {
    case MICA_CUDA_F16:
        return __half2float(((const __half *)p)[i]);
    case MICA_CUDA_F64:
        return (float)((const double *)p)[i];
    case MICA_CUDA_F8_E4M3:
    case MICA_CUDA_F8_E5M2: {
        const __nv_fp8_interpretation_t how = type == MICA_CUDA_F8_E4M3 ? __NV_E4M3 : __NV_E5M2;
        const __half_raw raw = __nv_cvt_fp8_to_halfraw(((const __nv_fp8_storage_t *)p)[i], how);
        return __half2float(__half(raw));
    }
    default:
        return load1(p, type, i);
    }
}

static __global__ void convert_kernel(const mica_cuda_convert_args a)
{
    const int64_t items = a.rows * a.ld, step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const parts at = divide(i, a.ld);
        const int64_t row = at.quotient, col = at.rest;
        float v = 0.0f;
        if (col < a.cols) {
            v = stored_number(a.src, a.src_type, row * a.cols + col);
            if (a.scale)
                v *= a.scale[row];
        }
        store1(a.dst, a.dst_type, i, v);
    }
}

extern "C" cudaError_t mica_cuda_convert(const mica_cuda_convert_args *args, cudaStream_t stream)
{
    convert_kernel<<<grid_for(args->rows * args->ld), BLOCK, 0, stream>>>(*args);
    return cudaGetLastError();
}

/* ---------------------------------------------------------------- patches -- */

template <int V> static __global__ void patches_kernel(const mica_cuda_patches_args a)
{
    const int per_tap = a.C / V; /* V == 8 only where C and ld are multiples of it */
    const int row_items = (int)(a.ld / V), filled = a.KY * a.KX * per_tap;
    const int64_t items = a.count * row_items, step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const parts at = divide(i, row_items), pixel = divide(a.first + at.quotient, a.out_x);
        const int j = (int)at.rest;
        float v[V];
#pragma unroll
        for (int k = 0; k < V; k++)
            v[k] = 0.0f;
        if (j < filled) {
            const int tap = j / per_tap, c = j % per_tap * V;
            const int y = (int)pixel.quotient * a.stride + tap / a.KX - a.top;
            const int x = (int)pixel.rest * a.stride + tap % a.KX - a.left;
            if (y >= 0 && y < a.Y && x >= 0 && x < a.X)
                load<V>(a.x, a.type, ((int64_t)y * a.X + x) * a.C + c, v);
        }
        store<V>(a.out, a.out_type, at.quotient * a.ld + (int64_t)j * V, v);
    }
}

extern "C" cudaError_t mica_cuda_patches(const mica_cuda_patches_args *args, cudaStream_t stream)
{
    const bool wide = args->C % 8 == 0 && args->ld % 8 == 0 && (uintptr_t)args->x % 16 == 0;
    const unsigned grid = grid_for(args->count * args->ld / (wide ? 8 : 1));
    if (wide)
        patches_kernel<8><<<grid, BLOCK, 0, stream>>>(*args);
    else
        patches_kernel<1><<<grid, BLOCK, 0, stream>>>(*args);
    return cudaGetLastError();
}

template <int V>
static __global__ void double_kernel(const void *x, mica_cuda_type type, int X, int C, void *y,
                                     mica_cuda_type y_type, int64_t items)
{
    const int per_pixel = C / V;
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const parts at = divide(i, per_pixel), pixel = divide(at.quotient, 2 * X);
        const int64_t c = at.rest * V;
        float v[V];
        load<V>(x, type, (pixel.quotient / 2 * X + pixel.rest / 2) * C + c, v);
        store<V>(y, y_type, at.quotient * C + c, v);
    }
}

extern "C" cudaError_t mica_cuda_double(const void *x, mica_cuda_type type, int Y, int X, int C,
                                        void *y, mica_cuda_type y_type, cudaStream_t stream)
{
    const bool wide = C % 8 == 0 && (uintptr_t)x % 16 == 0 && (uintptr_t)y % 16 == 0;
    const int64_t items = (int64_t)4 * Y * X * (C / (wide ? 8 : 1));
    if (wide)
        double_kernel<8><<<grid_for(items), BLOCK, 0, stream>>>(x, type, X, C, y, y_type, items);
    else
        double_kernel<1><<<grid_for(items), BLOCK, 0, stream>>>(x, type, X, C, y, y_type, items);
    return cudaGetLastError();
}
