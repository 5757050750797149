/* cuda_quantize.cu - operands in fp8 (e4m3): every row of an activation and of a weight has a scale of its own.
 *
 *     q[r][i] = round(v[r][i] / scale[r])        scale[r] = max |v[r][:]| / 448
 *
 * v is what an operation computes anyway, so that it is read or written once less:
 *
 *     plain       v = x                           attention's output
 *     activated   v = gelu(sums + bias)           the MLP's hidden layer, behind a product without epilogue
 *     swiglu      v = silu(gate) * up
 *     (a norm's result is quantised by cuda_norm.cu, weights by rows below)
 *
 * One block per row, the row in registers between the search for its largest value and the rounding.
 * Napkin: 4,096 x 12,288 sums of bf16 are 100 MB in and 50 MB out: 50 us, which cuBLAS' own GELU epilogue
 * (20 us) and a pass of its own for the scales (50 us) would exceed. */
#include "backend/cuda/cuda_device.cuh"

#include <cuda_fp16.h>

template <mica_cuda_operand KIND>
static __device__ __forceinline__ void produce(const mica_cuda_quantize_args &a, int64_t row,
                                               int64_t col, float (&v)[8])
{
    load<8>(a.x.data, a.x.type, row_offset(a.x, row) + col, v);
    if (KIND == MICA_CUDA_OPERAND_ACTIVATED) {
        float bias[8];
        load_vector<8>(a.bias, col, 0.0f, bias);
#pragma unroll
        for (int k = 0; k < 8; k++) {
            /* tanh-GELU as x * sigmoid(2 u): the exponential is good to 2 ulp. */
            const float x = v[k] + bias[k];
            const float u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
            v[k] = __fdividef(x, 1.0f + __expf(-2.0f * u));
        }
    }
    if (KIND == MICA_CUDA_OPERAND_SWIGLU) {
        float up[8];
        load<8>(a.up.data, a.up.type, row_offset(a.up, row) + col, up);
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = __fdividef(v[k], 1.0f + __expf(-v[k])) * up[k];
    }
}

/* N: pieces of 8 elements per thread, kept in bf16: half the registers, so that a second and a third row
 * hide the first one's waits. */
template <mica_cuda_operand KIND, int N, int T>
static __global__ void __launch_bounds__(T, 1024 / T)
    quantize_kernel(const mica_cuda_quantize_args a)
{
    const int64_t row = blockIdx.x, n = a.x.n;
    uint4 kept[N];
    float largest = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int64_t col = ((int64_t)j * T + threadIdx.x) * 8;
        kept[j] = make_uint4(0, 0, 0, 0);
        if (col < n) {
            float v[8];
            produce<KIND>(a, row, col, v);
            store<8>(&kept[j], MICA_CUDA_BF16, 0, v);
#pragma unroll
            for (int k = 0; k < 8; k++)
                largest = fmaxf(largest, fabsf(v[k]));
        }
    }
    largest = fmaxf(block_max(largest), 1e-30f);
    const float inverse = FP8_LARGEST / largest;
    if (threadIdx.x == 0)
        a.scale[row] = largest / FP8_LARGEST;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int64_t col = ((int64_t)j * T + threadIdx.x) * 8;
        float v[8];
        unpack(kept[j], v);
        if (col < a.ld)
            *(uint2 *)(a.q + row * a.ld + col) = pack_fp8(v, inverse);
        if (a.y.data && col < n)
            store<8>(a.y.data, a.y.type, row_offset(a.y, row) + col, v);
    }
}

template <mica_cuda_operand KIND>
static void launch(const mica_cuda_quantize_args &a, cudaStream_t stream)
{
    const unsigned rows = (unsigned)a.x.rows;
    if (a.ld <= 1024)
        quantize_kernel<KIND, 1, 128><<<rows, 128, 0, stream>>>(a);
    else if (a.ld <= 3072)
        quantize_kernel<KIND, 3, 128><<<rows, 128, 0, stream>>>(a);
    else if (a.ld <= 4096)
        quantize_kernel<KIND, 4, 128><<<rows, 128, 0, stream>>>(a);
    else if (a.ld <= 10240)
        quantize_kernel<KIND, 5, 256><<<rows, 256, 0, stream>>>(a);
    else if (a.ld <= 12288)
        quantize_kernel<KIND, 6, 256><<<rows, 256, 0, stream>>>(a);
    else
        quantize_kernel<KIND, 8, 256><<<rows, 256, 0, stream>>>(a);
}

extern "C" cudaError_t mica_cuda_quantize(const mica_cuda_quantize_args *args, cudaStream_t stream)
{
    switch (args->kind) {
    case MICA_CUDA_OPERAND_PLAIN:
        launch<MICA_CUDA_OPERAND_PLAIN>(*args, stream);
        break;
    case MICA_CUDA_OPERAND_ACTIVATED:
        launch<MICA_CUDA_OPERAND_ACTIVATED>(*args, stream);
        break;
    default:
        launch<MICA_CUDA_OPERAND_SWIGLU>(*args, stream);
    }
    return cudaGetLastError();
}

static __global__ void dequantize_kernel(const uint8_t *q, const float *scale, int64_t ld,
                                         const mica_cuda_view y)
{
    const int64_t row = blockIdx.x, to = row_offset(y, row);
    const float factor = scale[row];
    for (int64_t i = threadIdx.x; i < y.n; i += BLOCK)
        store1(y.data, y.type, to + i,
               factor * __half2float(__half(__nv_cvt_fp8_to_halfraw(q[row * ld + i], __NV_E4M3))));
}

extern "C" cudaError_t mica_cuda_dequantize(const uint8_t *q, const float *scale, int64_t ld,
                                            const mica_cuda_view *y, cudaStream_t stream)
{
    dequantize_kernel<<<(unsigned)y->rows, BLOCK, 0, stream>>>(q, scale, ld, *y);
    return cudaGetLastError();
}

/* ------------------------------------------------------------------ gates -- */

static __global__ void fold_gate_kernel(const float *scale, const float *gate, const float *bias,
                                        int64_t n, float *scale_out, __nv_bfloat16 *bias_out)
{
    const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
    if (i >= n)
        return;
    scale_out[i] = scale[i] * gate[i];
    if (bias)
        bias_out[i] = __float2bfloat16_rn(bias[i] * gate[i]);
}

extern "C" cudaError_t mica_cuda_fold_gate(const float *scale, const float *gate, const float *bias,
                                           int64_t n, float *scale_out, void *bias_out,
                                           cudaStream_t stream)
{
    fold_gate_kernel<<<(unsigned)((n + BLOCK - 1) / BLOCK), BLOCK, 0, stream>>>(
        scale, gate, bias, n, scale_out, (__nv_bfloat16 *)bias_out);
    return cudaGetLastError();
}

/* ---------------------------------------------------------------- weights -- */

static __device__ __forceinline__ float number_at(const mica_cuda_quantize_weight_args &a,
                                                  int64_t row, int64_t col)
{
    const int64_t i = row * a.cols + col;
    switch (a.src_type) {
    case MICA_CUDA_F16:
        return __half2float(((const __half *)a.src)[i]);
    case MICA_CUDA_F64:
        return (float)((const double *)a.src)[i];
    case MICA_CUDA_F8_E5M2:
        return __half2float(
            __half(__nv_cvt_fp8_to_halfraw(((const __nv_fp8_storage_t *)a.src)[i], __NV_E5M2)));
    default:
        return load1(a.src, a.src_type, i);
    }
}

static __global__ void quantize_weight_kernel(const mica_cuda_quantize_weight_args a)
{
    const int64_t row = blockIdx.x;
    const float given = a.given ? a.given[row] : 1.0f;
    uint8_t *q = a.q + row * a.ld;
    if (a.src_type == MICA_CUDA_F8_E4M3) { /* as it is */
        const uint8_t *from = (const uint8_t *)a.src + row * a.cols;
        for (int64_t i = threadIdx.x; i < a.ld; i += BLOCK)
            q[i] = i < a.cols ? from[i] : 0;
        if (threadIdx.x == 0)
            a.scale[row] = given;
        return;
    }
    float largest = 0.0f;
    for (int64_t i = threadIdx.x; i < a.cols; i += BLOCK)
        largest = fmaxf(largest, fabsf(number_at(a, row, i)));
    largest = fmaxf(block_max(largest), 1e-30f);
    for (int64_t i = threadIdx.x; i < a.ld; i += BLOCK)
        q[i] = i < a.cols ? __nv_cvt_float_to_fp8(number_at(a, row, i) * (FP8_LARGEST / largest),
                                                  __NV_SATFINITE, __NV_E4M3)
                          : 0;
    if (threadIdx.x == 0)
        a.scale[row] = largest / FP8_LARGEST * given;
}

extern "C" cudaError_t mica_cuda_quantize_weight(const mica_cuda_quantize_weight_args *args,
                                                 cudaStream_t stream)
{
    quantize_weight_kernel<<<(unsigned)args->rows, BLOCK, 0, stream>>>(*args);
    return cudaGetLastError();
}
