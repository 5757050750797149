/* cuda_point.cu - element by element: activations, products, the late half of a linear, sums,
 * guidance.
 *
 *     thread  ──►  8 neighbouring elements (one 16-byte access of bf16), then a grid further on
 *
 * Napkin: SwiGLU over 4,096 x 12,288 in bf16 moves 3 x 100 MB: 0.1 ms at 3 TB/s, beside the
 * 0.45 ms of the product before it. The late half of a linear (bias, activation, gate, residual)
 * costs as much as reading and writing y once more; it runs only where cuBLASLt's own epilogue
 * cannot do the same sum (a gate per column, SiLU, erf-GELU, mixtures of types, f32 mode). */
#include "backend/cuda/cuda_device.cuh"
#include "backend/cuda/cuda_early.cuh"

/* Row and column of work item `i` in a view of rows of n elements, V at a time. */
struct place {
    int64_t row, col;
};

template <int V>
static __device__ __forceinline__ place place_of(const mica_cuda_view &v, int64_t i)
{
    if (v.rows == 1)
        return {0, i * V};
    const parts at = divide(i, v.n / V);
    return {at.quotient, at.rest * V};
}

static inline int64_t items_of(const mica_cuda_view &v, int width)
{
    return v.rows * (v.n / width);
}

/* ------------------------------------------------------------- pointwise -- */

/* Few items begin early, in blocks that have room beside a product's. */
#define EARLY_ITEMS  (1 << 18)
#define EARLY_BLOCKS 256u

/* For results in bf16: the quotient and exponential of the special function unit are good to 2 ulp of
 * f32, and the plain ones take longer than the memory does. */
static __device__ __forceinline__ float silu_for(mica_cuda_type type, float x)
{
    return type == MICA_CUDA_BF16 ? __fdividef(x, 1.0f + __expf(-x)) : silu(x);
}

template <int V, mica_cuda_point OP>
static __global__ void pointwise_kernel(const mica_cuda_view a, const mica_cuda_view b,
                                        const mica_cuda_view y, int64_t items)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    if (items <= EARLY_ITEMS)
        let_next_begin();
    wait_for_previous();
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const place at = place_of<V>(y, i);
        float p[V], q[V];
        load<V>(a.data, a.type, row_offset(a, at.row) + at.col, p);
        if (OP >= MICA_CUDA_POINT_SWIGLU)
            load<V>(b.data, b.type, row_offset(b, at.row) + at.col, q);
#pragma unroll
        for (int k = 0; k < V; k++)
            switch (OP) {
            case MICA_CUDA_POINT_SILU:
                p[k] = silu_for(y.type, p[k]);
                break;
            case MICA_CUDA_POINT_TANH:
                p[k] = tanhf(p[k]);
                break;
            case MICA_CUDA_POINT_SWIGLU:
                p[k] = silu_for(y.type, p[k]) * q[k];
                break;
            case MICA_CUDA_POINT_ADD:
                p[k] = p[k] + q[k];
                break;
            default:
                p[k] = p[k] * q[k];
            }
        store<V>(y.data, y.type, row_offset(y, at.row) + at.col, p);
    }
}

template <int V>
static void launch_pointwise(mica_cuda_point op, const mica_cuda_view &a, const mica_cuda_view &b,
                             const mica_cuda_view &y, cudaStream_t stream)
{
    const int64_t items = items_of(y, V);
    const auto launch =
        [&](void (*kernel)(mica_cuda_view, mica_cuda_view, mica_cuda_view, int64_t)) {
            if (items > EARLY_ITEMS)
                kernel<<<grid_for(items), BLOCK, 0, stream>>>(a, b, y, items);
            else
                (void)launch_early(kernel, dim3(min(grid_for(items), EARLY_BLOCKS)), BLOCK, 0,
                                   stream, a, b, y, items);
        };
    switch (op) {
    case MICA_CUDA_POINT_SILU:
        launch(pointwise_kernel<V, MICA_CUDA_POINT_SILU>);
        break;
    case MICA_CUDA_POINT_TANH:
        launch(pointwise_kernel<V, MICA_CUDA_POINT_TANH>);
        break;
    case MICA_CUDA_POINT_SWIGLU:
        launch(pointwise_kernel<V, MICA_CUDA_POINT_SWIGLU>);
        break;
    case MICA_CUDA_POINT_ADD:
        launch(pointwise_kernel<V, MICA_CUDA_POINT_ADD>);
        break;
    default:
        launch(pointwise_kernel<V, MICA_CUDA_POINT_MUL>);
    }
}

extern "C" cudaError_t mica_cuda_pointwise(mica_cuda_point op, const mica_cuda_view *a,
                                           const mica_cuda_view *b, const mica_cuda_view *y,
                                           cudaStream_t stream)
{
    if (a->wide && b->wide && y->wide)
        launch_pointwise<8>(op, *a, *b, *y, stream);
    else
        launch_pointwise<1>(op, *a, *b, *y, stream);
    return cudaGetLastError();
}

/* -------------------------------------------------------------- epilogue -- */

template <int V>
static __global__ void epilogue_kernel(const mica_cuda_epilogue_args a, int64_t items)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const place at = place_of<V>(a.y, i);
        float v[V], bias[V], gate[V];
        load<V>(a.acc.data, a.acc.type, row_offset(a.acc, at.row) + at.col, v);
        load_vector<V>(a.bias, at.col, 0.0f, bias);
        load_vector<V>(a.gate, at.col, 1.0f, gate);
#pragma unroll
        for (int k = 0; k < V; k++)
            v[k] = activate(v[k] + bias[k], a.act);
        if (a.residual.data) {
            float r[V];
            load<V>(a.residual.data, a.residual.type, row_offset(a.residual, at.row) + at.col, r);
#pragma unroll
            for (int k = 0; k < V; k++)
                v[k] = r[k] + gate[k] * v[k];
        }
        store<V>(a.y.data, a.y.type, row_offset(a.y, at.row) + at.col, v);
    }
}

#define EPILOGUE_ROWS 4

/* y = residual + gate * (acc + bias), all bf16: a thread owns 8 columns, whose bias and gate stay in
 * registers, of EPILOGUE_ROWS rows. */
static __global__ void gated_kernel(const mica_cuda_epilogue_args a)
{
    const int64_t col = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    const int64_t row = (int64_t)blockIdx.y * EPILOGUE_ROWS;
    if (col >= a.y.n)
        return;
    float bias[8], gate[8], v[EPILOGUE_ROWS][8], r[EPILOGUE_ROWS][8];
#pragma unroll
    for (int i = 0; i < EPILOGUE_ROWS; i++)
        if (row + i < a.y.rows) {
            load<8>(a.acc.data, MICA_CUDA_BF16, (row + i) * a.acc.stride[0] + col, v[i]);
            load<8>(a.residual.data, MICA_CUDA_BF16, (row + i) * a.residual.stride[0] + col, r[i]);
        }
    load_vector<8>(a.bias, col, 0.0f, bias);
    load_vector<8>(a.gate, col, 1.0f, gate);
#pragma unroll
    for (int i = 0; i < EPILOGUE_ROWS; i++)
        if (row + i < a.y.rows) {
#pragma unroll
            for (int k = 0; k < 8; k++)
                v[i][k] = r[i][k] + gate[k] * (v[i][k] + bias[k]);
            store<8>(a.y.data, MICA_CUDA_BF16, (row + i) * a.y.stride[0] + col, v[i]);
        }
}

static bool is_plain(const mica_cuda_view *v)
{
    return v->wide && v->dims == 1 && v->type == MICA_CUDA_BF16;
}

static cudaError_t launch_gated(const mica_cuda_epilogue_args *args, cudaStream_t stream)
{
    const int64_t columns = args->y.n / 8;
    const dim3 grid((unsigned)((columns + 127) / 128),
                    (unsigned)((args->y.rows + EPILOGUE_ROWS - 1) / EPILOGUE_ROWS));
    gated_kernel<<<grid, 128, 0, stream>>>(*args);
    return cudaGetLastError();
}

extern "C" cudaError_t mica_cuda_epilogue(const mica_cuda_epilogue_args *args, cudaStream_t stream)
{
    const bool wide =
        args->acc.wide && args->y.wide && (!args->residual.data || args->residual.wide);
    if (args->act == MICA_CUDA_ACT_NONE && args->residual.data && is_plain(&args->acc) &&
        is_plain(&args->residual) && is_plain(&args->y) && args->y.rows <= 65535 * EPILOGUE_ROWS)
        return launch_gated(args, stream);
    const int64_t items = items_of(args->y, wide ? 8 : 1);
    if (wide)
        epilogue_kernel<8><<<grid_for(items), BLOCK, 0, stream>>>(*args, items);
    else
        epilogue_kernel<1><<<grid_for(items), BLOCK, 0, stream>>>(*args, items);
    return cudaGetLastError();
}

template <int V>
static __global__ void channel_affine_kernel(const mica_cuda_view x, const float *scale,
                                             const float *shift, mica_cuda_act act,
                                             const mica_cuda_view y, int64_t items)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const place at = place_of<V>(y, i);
        float v[V], s[V], t[V];
        load<V>(x.data, x.type, row_offset(x, at.row) + at.col, v);
        load_vector<V>(scale, at.col, 1.0f, s);
        load_vector<V>(shift, at.col, 0.0f, t);
#pragma unroll
        for (int k = 0; k < V; k++)
            v[k] = activate(v[k] * s[k] + t[k], act);
        store<V>(y.data, y.type, row_offset(y, at.row) + at.col, v);
    }
}

extern "C" cudaError_t mica_cuda_channel_affine(const mica_cuda_view *x, const float *scale,
                                                const float *shift, mica_cuda_act act,
                                                const mica_cuda_view *y, cudaStream_t stream)
{
    const bool wide = x->wide && y->wide;
    const int64_t items = items_of(*y, wide ? 8 : 1);
    if (wide)
        channel_affine_kernel<8>
            <<<grid_for(items), BLOCK, 0, stream>>>(*x, scale, shift, act, *y, items);
    else
        channel_affine_kernel<1>
            <<<grid_for(items), BLOCK, 0, stream>>>(*x, scale, shift, act, *y, items);
    return cudaGetLastError();
}

/* ------------------------------------------------------------------ sums -- */

struct combination {
    int terms;
    float coef[6];
    const float *x[6];
};

static __global__ void combine_kernel(const combination c, float *y, int64_t count)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < count; i += step) {
        float sum = c.coef[0] * c.x[0][i];
#pragma unroll
        for (int t = 1; t < 6; t++)
            if (t < c.terms)
                sum += c.coef[t] * c.x[t][i];
        y[i] = sum;
    }
}

extern "C" cudaError_t mica_cuda_combine(int terms, const float *coef, const float *const *x,
                                         float *y, int64_t count, cudaStream_t stream)
{
    combination c = {};
    c.terms = terms;
    for (int i = 0; i < terms; i++) {
        c.coef[i] = coef[i];
        c.x[i] = x[i];
    }
    combine_kernel<<<grid_for(count), BLOCK, 0, stream>>>(c, y, count);
    return cudaGetLastError();
}

/* -------------------------------------------------------------- guidance -- */

/* One block per row. A row of latents has 64 elements, of a whole picture 260,000: sums in f64
 * beyond the thread so that the longest row loses nothing. */
static __global__ void guide_kernel(const mica_cuda_view cond, const mica_cuda_view uncond,
                                    float scale, bool renorm, const mica_cuda_view out)
{
    const int64_t row = blockIdx.x;
    const int64_t c_at = row_offset(cond, row), u_at = row_offset(uncond, row);
    const int64_t o_at = row_offset(out, row);
    float factor = 1.0f;
    if (renorm) {
        double of_cond = 0.0, of_both = 0.0;
        for (int64_t i = threadIdx.x; i < out.n; i += BLOCK) {
            const float c = load1(cond.data, cond.type, c_at + i);
            const float u = load1(uncond.data, uncond.type, u_at + i);
            const float v = u + scale * (c - u);
            of_cond += (double)c * (double)c;
            of_both += (double)v * (double)v;
        }
        of_cond = group_sum<BLOCK>(of_cond);
        of_both = group_sum<BLOCK>(of_both);
        factor = (float)(sqrt(of_cond) / sqrt(of_both));
    }
    for (int64_t i = threadIdx.x; i < out.n; i += BLOCK) {
        const float c = load1(cond.data, cond.type, c_at + i);
        const float u = load1(uncond.data, uncond.type, u_at + i);
        store1(out.data, out.type, o_at + i, (u + scale * (c - u)) * factor);
    }
}

extern "C" cudaError_t mica_cuda_guide(const mica_cuda_view *cond, const mica_cuda_view *uncond,
                                       float scale, bool renorm, const mica_cuda_view *out,
                                       cudaStream_t stream)
{
    guide_kernel<<<(unsigned)out->rows, BLOCK, 0, stream>>>(*cond, *uncond, scale, renorm, *out);
    return cudaGetLastError();
}

static __global__ void limit_kernel(const mica_cuda_view reference, float limit,
                                    const mica_cuda_view y)
{
    const int64_t row = blockIdx.x;
    const int64_t r_at = row_offset(reference, row), y_at = row_offset(y, row);
    double of_reference = 0.0, of_y = 0.0;
    for (int64_t i = threadIdx.x; i < y.n; i += BLOCK) {
        const double r = load1(reference.data, reference.type, r_at + i);
        const double v = load1(y.data, y.type, y_at + i);
        of_reference += r * r;
        of_y += v * v;
    }
    const double most = (double)limit * sqrt(group_sum<BLOCK>(of_reference));
    const double length = sqrt(group_sum<BLOCK>(of_y));
    if (!(length > most))
        return;
    const float factor = (float)(most / length);
    for (int64_t i = threadIdx.x; i < y.n; i += BLOCK)
        store1(y.data, y.type, y_at + i, factor * load1(y.data, y.type, y_at + i));
}

extern "C" cudaError_t mica_cuda_limit(const mica_cuda_view *reference, float limit,
                                       const mica_cuda_view *y, cudaStream_t stream)
{
    limit_kernel<<<(unsigned)y->rows, BLOCK, 0, stream>>>(*reference, limit, *y);
    return cudaGetLastError();
}

/* --------------------------------------------------------------- finite -- */

static __global__ void nonfinite_kernel(const mica_cuda_view x, int *flag, int64_t items)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    bool bad = false;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < items; i += step) {
        const place at = place_of<1>(x, i);
        bad = bad || !isfinite(load1(x.data, x.type, row_offset(x, at.row) + at.col));
    }
    if (bad)
        *flag = 1; /* every writer writes the same */
}

extern "C" cudaError_t mica_cuda_find_nonfinite(const mica_cuda_view *x, int *flag,
                                                cudaStream_t stream)
{
    const int64_t items = items_of(*x, 1);
    nonfinite_kernel<<<grid_for(items), BLOCK, 0, stream>>>(*x, flag, items);
    return cudaGetLastError();
}
