/* cuda_kernels.h - the launchers of the device kernels, as the C files of this folder see them.
 *
 *     cuda_rows.c, cuda_linear.c, ...  ──►  mica_cuda_<kernel>(args, stream)  ──►  *.cu
 *
 * Plain numbers and views only: a .cu file knows no tensor, no weight and no backend. A launcher
 * queues its kernel and returns what the runtime says of the launch; nothing here waits.
 * Activations are f32 or bf16, told by a tag that is the same for the whole launch, so a kernel
 * branches on it uniformly: all of these are bound by memory and one body serves every mixture. */
#ifndef MICA_BACKEND_CUDA_KERNELS_H
#define MICA_BACKEND_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum mica_cuda_type {
    MICA_CUDA_F32 = 0,
    MICA_CUDA_BF16,
    MICA_CUDA_F16, /* from here on: weights of files only */
    MICA_CUDA_F64,
    MICA_CUDA_F8_E4M3,
    MICA_CUDA_F8_E5M2
} mica_cuda_type;

/* Values of mica_act in backend.h. */
typedef enum mica_cuda_act {
    MICA_CUDA_ACT_NONE = 0,
    MICA_CUDA_ACT_SILU,
    MICA_CUDA_ACT_GELU_TANH,
    MICA_CUDA_ACT_GELU_ERF
} mica_cuda_act;

/* A GPU, as far as launches depend on it. Kept per device (cuda_memory.c): a process may use several. */
typedef struct mica_cuda_gpu {
    int ordinal;
    int capability; /* 90: 9.0 */
    int multiprocessors;
    int shared_most; /* bytes of shared memory of a block, where a kernel asks for them */
    bool cooperates; /* cooperative launches */
    bool is_shared;  /* other processes run on it at the same time (MPS) */
} mica_cuda_gpu;
/* The one that this thread launches on, of those that backends have opened; zeros for any other. */
mica_cuda_gpu mica_cuda_gpu_current(void);

#define MICA_CUDA_DIMS 6

/* A tensor as rows of n contiguous elements: row r begins at the offset that r has in the outer
 * dimensions (slowest first, neighbours merged; dims is 1 nearly always). */
typedef struct mica_cuda_view {
    void *data;
    mica_cuda_type type;
    int dims;
    int64_t rows, n;
    int64_t shape[MICA_CUDA_DIMS], stride[MICA_CUDA_DIMS]; /* in elements */
    bool wide; /* every row starts at a multiple of 16 bytes and n is a multiple of 8 */
} mica_cuda_view;

typedef enum mica_cuda_norm_kind {
    MICA_CUDA_NORM_LAYER, /* (x - mean) / sqrt(var + eps) * (1 + scale) + shift */
    MICA_CUDA_NORM_RMS,   /* x / sqrt(mean(x^2) + eps) * w * (1 + scale) */
    MICA_CUDA_NORM_GATED, /* y += scale * x / sqrt(mean(x^2) + eps) * w */
    MICA_CUDA_NORM_L2     /* act(x / max(||x||, 1e-12) * sqrt(n) * w) */
} mica_cuda_norm_kind;

typedef struct mica_cuda_norm_args {
    mica_cuda_norm_kind kind;
    mica_cuda_view x, y;
    const float *w, *scale, *shift; /* [n] on the device, or NULL */
    float eps;
    mica_cuda_act act;
    uint8_t *q;     /* also y in fp8, rows q_ld apart, and its scales; NULL: not */
    float *q_scale; /* [rows] */
    int64_t q_ld;   /* n, a multiple of 16 */
    bool q_only;    /* y itself is not written */
} mica_cuda_norm_args;
/* Whether mica_cuda_norm can write q for these arguments. */
bool mica_cuda_norm_quantizes(const mica_cuda_norm_args *args);
cudaError_t mica_cuda_norm(const mica_cuda_norm_args *args, cudaStream_t stream);

typedef struct mica_cuda_heads {
    void *x; /* [L, H, K] in place; NULL: none */
    int H;
    int64_t stride_l, stride_h;
    const float *w; /* [K] or NULL */
} mica_cuda_heads;
typedef struct mica_cuda_rope_args {
    mica_cuda_heads part[2]; /* queries and keys, or one alone */
    mica_cuda_type type;
    int64_t L;
    int K;
    float eps;
    const float *cos, *sin; /* [L, K/2], rows `table_stride` apart, or NULL */
    int64_t table_stride;
    bool interleaved;
} mica_cuda_rope_args;
cudaError_t mica_cuda_rope(const mica_cuda_rope_args *args, cudaStream_t stream);

typedef enum mica_cuda_point {
    MICA_CUDA_POINT_SILU,
    MICA_CUDA_POINT_TANH,
    MICA_CUDA_POINT_SWIGLU, /* silu(a) * b */
    MICA_CUDA_POINT_ADD,
    MICA_CUDA_POINT_MUL
} mica_cuda_point;
/* y = op(a, b), all of one shape; y may be a or b. */
cudaError_t mica_cuda_pointwise(mica_cuda_point op, const mica_cuda_view *a,
                                const mica_cuda_view *b, const mica_cuda_view *y,
                                cudaStream_t stream);

/* y = residual + gate * act(acc + bias); bias, gate [n] f32 or NULL; residual NULL: none. */
typedef struct mica_cuda_epilogue_args {
    mica_cuda_view acc, residual, y; /* residual.data NULL: none */
    const float *bias, *gate;
    mica_cuda_act act;
} mica_cuda_epilogue_args;
cudaError_t mica_cuda_epilogue(const mica_cuda_epilogue_args *args, cudaStream_t stream);

/* y = sum coef[i] x[i] over `count` floats. */
cudaError_t mica_cuda_combine(int terms, const float *coef, const float *const *x, float *y,
                              int64_t count, cudaStream_t stream);
/* Guidance per row, see mica_cfg_combine. */
cudaError_t mica_cuda_guide(const mica_cuda_view *cond, const mica_cuda_view *uncond, float scale,
                            bool renorm, const mica_cuda_view *out, cudaStream_t stream);
cudaError_t mica_cuda_limit(const mica_cuda_view *reference, float limit, const mica_cuda_view *y,
                            cudaStream_t stream);
/* Sets *flag (device) to 1 when an element is NaN or infinite; never clears it. */
cudaError_t mica_cuda_find_nonfinite(const mica_cuda_view *x, int *flag, cudaStream_t stream);

/* dst[i...] = src[i...]: one shape, any strides. */
typedef struct mica_cuda_copy_args {
    const void *src;
    void *dst;
    mica_cuda_type src_type, dst_type;
    int dims;
    int64_t shape[MICA_CUDA_DIMS], src_stride[MICA_CUDA_DIMS], dst_stride[MICA_CUDA_DIMS];
    bool wide; /* last dimension contiguous in both, everything in multiples of 8 */
} mica_cuda_copy_args;
cudaError_t mica_cuda_copy_strided(const mica_cuda_copy_args *args, cudaStream_t stream);

/* Weights of a file to the device's form: rows of `cols` contiguous elements of any type to rows
 * `ld` apart, zeros between cols and ld. scale: one per row, or NULL. */
typedef struct mica_cuda_convert_args {
    const void *src;
    mica_cuda_type src_type, dst_type; /* dst: F32 or BF16 */
    int64_t rows, cols, ld;
    const float *scale;
    void *dst;
} mica_cuda_convert_args;
cudaError_t mica_cuda_convert(const mica_cuda_convert_args *args, cudaStream_t stream);

/* Part of an adapter's weight added to rows [first, first + count) of a form, see cuda_adapter.cu. */
typedef struct mica_cuda_adapt_args {
    void *w;
    mica_cuda_type type;
    int64_t cols, ld, first, skip, count;
    float scale;
    const float *delta[2]; /* [p][ld_delta]; the second may be NULL */
    int64_t p, q, ld_delta;
    const float *mix; /* or NULL */
    int64_t ld_mix;
} mica_cuda_adapt_args;
cudaError_t mica_cuda_adapt(const mica_cuda_adapt_args *args, cudaStream_t stream);

/* out[r] = place of the largest of row r's n < 2^31 numbers, of equal ones the first; -1 where one is not finite. */
cudaError_t mica_cuda_largest(const float *x, int64_t rows, int64_t n, int64_t ld, int32_t *out,
                              cudaStream_t stream);

/* ---- packed weights (cuda_packed.cu) ---- */

/* The packed types of tensor.h in their order, and int8. */
typedef enum mica_cuda_packed {
    MICA_CUDA_PACKED_Q8_0 = 0,
    MICA_CUDA_PACKED_Q4_0,
    MICA_CUDA_PACKED_Q4_1,
    MICA_CUDA_PACKED_Q5_0,
    MICA_CUDA_PACKED_Q5_1,
    MICA_CUDA_PACKED_Q2_K,
    MICA_CUDA_PACKED_Q3_K,
    MICA_CUDA_PACKED_Q4_K,
    MICA_CUDA_PACKED_Q5_K,
    MICA_CUDA_PACKED_Q6_K,
    MICA_CUDA_PACKED_IQ4_NL,
    MICA_CUDA_PACKED_IQ4_XS,
    MICA_CUDA_PACKED_MXFP4,
    MICA_CUDA_PACKED_B2,
    MICA_CUDA_PACKED_B3,
    MICA_CUDA_PACKED_B4,
    MICA_CUDA_PACKED_B5,
    MICA_CUDA_PACKED_B6,
    MICA_CUDA_PACKED_B8,
    MICA_CUDA_PACKED_S8,
    MICA_CUDA_PACKED_COUNT
} mica_cuda_packed;

/* rows x n numbers on the device; n is a multiple of 32, of 256 from Q2_K to Q6_K and for IQ4_XS. Rows lie
 * behind each other. B types: scales and biases (NULL: zeros) of `scale_type` per `group` numbers. S8:
 * scale is one f32 per row, as it may be of all other types. */
typedef struct mica_cuda_packed_rows {
    mica_cuda_packed type;
    int64_t rows, n;
    const void *data, *scale, *bias;
    mica_cuda_type scale_type;
    int group;
} mica_cuda_packed_rows;

/* x (f32 or bf16, one dimension of rows, of 32s) as whole numbers of three digits for weights of this type,
 * mica_cuda_digits_size(n) bytes a row, aligned to 16 (cuda_digits.cuh has the layout). NaN or an infinity makes
 * its 32 NaN. */
size_t mica_cuda_digits_size(int64_t n);
cudaError_t mica_cuda_digits(const mica_cuda_view *x, mica_cuda_packed type, void *out,
                             cudaStream_t stream);
/* y[i][r] = sum_k x[i][k] w[r][k] for count <= 8 rows of x in digits; as exact as sums in f32, y rows ld apart. */
cudaError_t mica_cuda_packed_dot(const mica_cuda_packed_rows *w, const void *x, int count, float *y,
                                 int64_t ld, cudaStream_t stream);
/* Rows of plain numbers without gaps (ld = n). */
cudaError_t mica_cuda_packed_expand(const mica_cuda_packed_rows *w, void *dst, mica_cuda_type type,
                                    int64_t ld, cudaStream_t stream);

/* Patches of output pixels [first, first + count) of a channels-last picture: row p holds
 * [KY][KX][C] of pixel first + p, then zeros up to ld. */
typedef struct mica_cuda_patches_args {
    const void *x; /* [Y, X, C] */
    void *out;     /* [count, ld] */
    mica_cuda_type type, out_type;
    int Y, X, C, KY, KX, stride, top, left, out_x;
    int64_t first, count, ld;
} mica_cuda_patches_args;
cudaError_t mica_cuda_patches(const mica_cuda_patches_args *args, cudaStream_t stream);
/* [Y, X, C] to [2Y, 2X, C], every pixel four times. */
cudaError_t mica_cuda_double(const void *x, mica_cuda_type type, int Y, int X, int C, void *y,
                             mica_cuda_type y_type, cudaStream_t stream);

/* Mean and sum of squared differences of each group of each row: moments[Y][G][2]. */
cudaError_t mica_cuda_group_moments(const void *x, mica_cuda_type type, int Y, int X, int C, int G,
                                    float *moments, cudaStream_t stream);
/* scale[C], shift[C] of the norm from the moments of `rows` rows of `per_row` values each. */
cudaError_t mica_cuda_group_affine(const float *moments, int rows, int G, int C, int64_t per_row,
                                   float eps, const float *gamma, const float *beta, float *scale,
                                   float *shift, cudaStream_t stream);
/* y = act(x * scale[c] + shift[c]) over rows of C channels. */
cudaError_t mica_cuda_channel_affine(const mica_cuda_view *x, const float *scale,
                                     const float *shift, mica_cuda_act act, const mica_cuda_view *y,
                                     cudaStream_t stream);

/* share NULL: y[i] = x[rows[i]], else y[rows[i]] += share[i] x[i], for i < count; rows and share on the
 * device. */
typedef struct mica_cuda_pick_args {
    mica_cuda_view x, y;
    const int32_t *rows;
    const float *share;
    int64_t count;
} mica_cuda_pick_args;
cudaError_t mica_cuda_pick(const mica_cuda_pick_args *args, cudaStream_t stream);

/* ------------------------------------------------------------ cuda_picture.cu --
 * Faster ways of the above for the shapes of pictures. False: not this shape, nothing was done. */

/* Rows to the length sqrt(n), times w; then act. */
bool mica_cuda_unit_rows(const mica_cuda_view *x, const float *w, mica_cuda_act act,
                         const mica_cuda_view *y, cudaStream_t stream, cudaError_t *error);
/* mica_cuda_group_moments. */
bool mica_cuda_row_moments(const void *x, mica_cuda_type type, int Y, int X, int C, int G,
                           float *moments, cudaStream_t stream, cudaError_t *error);
/* y = act(x * scale[c] + shift[c]) + residual; scale, shift, residual may be NULL, y any of the
 * pictures. */
bool mica_cuda_channel_map(const mica_cuda_view *x, const float *scale, const float *shift,
                           mica_cuda_act act, const mica_cuda_view *residual,
                           const mica_cuda_view *y, cudaStream_t stream, cudaError_t *error);
/* mica_cuda_double of pixels of so many bytes. */
bool mica_cuda_double_pixels(const void *x, void *y, int Y, int X, int64_t pixel_bytes,
                             cudaStream_t stream, cudaError_t *error);

/* Rows in fp8 (e4m3) with a scale each; cuda_quantize.cu. Views are wide, ld is a multiple of 16 and at
 * most MICA_CUDA_QUANTIZE_MOST. */
#define MICA_CUDA_QUANTIZE_MOST 16384
typedef enum mica_cuda_operand {
    MICA_CUDA_OPERAND_PLAIN,     /* x */
    MICA_CUDA_OPERAND_ACTIVATED, /* tanh-GELU(x + bias) */
    MICA_CUDA_OPERAND_SWIGLU     /* silu(x) * up */
} mica_cuda_operand;
typedef struct mica_cuda_quantize_args {
    mica_cuda_operand kind;
    mica_cuda_view x, up;
    const float *bias; /* [n] or NULL */
    mica_cuda_view y;  /* the numbers themselves as well; data NULL: not. May be x or up */
    uint8_t *q;        /* [rows][ld], zeros behind n */
    float *scale;      /* [rows] */
    int64_t ld;
} mica_cuda_quantize_args;
cudaError_t mica_cuda_quantize(const mica_cuda_quantize_args *args, cudaStream_t stream);

/* The numbers again: y = q * scale, rows ld apart. */
cudaError_t mica_cuda_dequantize(const uint8_t *q, const float *scale, int64_t ld,
                                 const mica_cuda_view *y, cudaStream_t stream);

/* What makes a gate part of a product: scale_out = scale * gate, bias_out = bias * gate in bf16 (bias NULL:
 * not written). */
cudaError_t mica_cuda_fold_gate(const float *scale, const float *gate, const float *bias, int64_t n,
                                float *scale_out, void *bias_out, cudaStream_t stream);

/* Rows of a weight of any float type; e4m3 is kept as it is. given: scales of the source, one per row. */
typedef struct mica_cuda_quantize_weight_args {
    const void *src;
    mica_cuda_type src_type;
    int64_t rows, cols, ld;
    const float *given;
    uint8_t *q;
    float *scale;
} mica_cuda_quantize_weight_args;
cudaError_t mica_cuda_quantize_weight(const mica_cuda_quantize_weight_args *args,
                                      cudaStream_t stream);

/* out[row][i] = round(255 clamp(x[row][i] / 2 + 1/2)); x in f32. */
cudaError_t mica_cuda_pixels(const mica_cuda_view *x, uint8_t *out, cudaStream_t stream);

/* softmax(scale q k^T) v of bf16 [L, H, K] arrays, G divides H, scale > 0; starts and strides (token, head; in
 * elements) are multiples of 16 bytes. causal: query i sees keys <= i + M - L. */
typedef struct mica_cuda_attend_args {
    int64_t L, M;
    int H, G, K;
    float scale;
    bool causal;
    const void *q, *k, *v;
    void *out;
    int64_t q_stride[2], k_stride[2], v_stride[2], out_stride[2];
} mica_cuda_attend_args;
/* K 64 or 128. */
cudaError_t mica_cuda_flash(const mica_cuda_attend_args *args, cudaStream_t stream);

/* p[b][i][:] = softmax(scale * s[b][i][0..visible)), zeros behind, for i in [0, rows).
 * visible = M, or with causal min(M, first + i + M - L + 1). A row that sees nothing is zero. With a window
 * only the last `window` of the visible ones count; zeros before. */
typedef struct mica_cuda_softmax_args {
    const float *s;
    void *p;
    mica_cuda_type type;
    int batch;
    int64_t rows, M, ld; /* rows of s and p are ld elements apart */
    float scale;
    bool causal;
    int64_t first, L, window;
} mica_cuda_softmax_args;
cudaError_t mica_cuda_softmax(const mica_cuda_softmax_args *args, cudaStream_t stream);

/* Rows of a cache, [rows, heads, width] on both sides with contiguous heads: x into 8 bits, or back.
 * Scales and biases of groups of 32, 64 or 128 numbers lie as q's elements do, divided by the group.
 * cuda_cache.cu. */
typedef struct mica_cuda_cache_args {
    bool pack; /* x to q; else q to x */
    int64_t rows, heads, width;
    int group;
    void *x;
    mica_cuda_type type;
    int64_t x_stride[2], q_stride[2]; /* row, head */
    uint8_t *q;
    float *scale, *bias;
} mica_cuda_cache_args;
cudaError_t mica_cuda_cache_rows(const mica_cuda_cache_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
