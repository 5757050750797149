/* kernels.h - the table of leaf computations: one slot per kernel, one contract per slot.
 *
 *     backend/cpu  ──►  const mica_kernels *k  ──►  mica_<slot>__base | __v2 | __v3 | __v4 ...
 *                       (threads, blocking)         (one thread, raw pointers)
 *
 * A family is one C source on top of vec.h, compiled once per level (CMakeLists.txt) with a
 * suffix on its symbols (level.h). kernels.c fills the tables; nothing else names a level.
 * MICA_KERNEL_LIST feeds the table, the prototypes, tests/kernels and its benchmark, so a
 * slot without a test does not link.
 *
 * Rules of every slot
 *   - no allocation, no threads, no failure; preconditions are the caller's promise
 *   - no alignment is needed beyond that of the element type
 *   - n, rows, m may be 0 unless said; ld* are row strides in elements, >= the row length
 *   - reads and writes only the elements named; "y may be x" means the same address and
 *     stride, partial overlap is never allowed
 *   - NaN and infinities propagate as in IEEE arithmetic; nothing is flushed to zero unless said
 *   - the result of an element does not depend on how the caller cut the work into rows,
 *     row blocks or column blocks, so it does not depend on the number of threads
 *   - results of different levels differ by rounding only, within the accuracy named
 * bf16 and f16 are uint16_t, f8 is uint8_t (base/half.h says which formats). */
#ifndef MICA_KERNELS_KERNELS_H
#define MICA_KERNELS_KERNELS_H

#include <mica/mica.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Same values as mica_act of backend.h, which this folder may not know. */
typedef enum mica_kernel_act {
    MICA_KERNEL_ACT_NONE = 0,
    MICA_KERNEL_ACT_SILU,
    MICA_KERNEL_ACT_GELU_TANH,
    MICA_KERNEL_ACT_GELU_ERF
} mica_kernel_act;

/* ---------------------------------------------------------------- norms -- */

/* y = (x - mean) / sqrt(var + eps) * (1 + scale) + shift per row of n >= 1 elements; scale,
 * shift of length n, or NULL. Two passes: the mean first, then the squares of differences,
 * so a large common offset costs no digits. y may be x. Relative error 4e-6 of the row's
 * largest output. */
typedef void mica_kernel_layer_norm_modulate(int rows, int n, const float *x, ptrdiff_t ldx,
                                             const float *scale, const float *shift, float eps,
                                             float *y, ptrdiff_t ldy);
/* y = x / sqrt(mean(x^2) + eps) * w; w of length n or NULL. y may be x. Finite as long as
 * the sum of squares is. */
typedef void mica_kernel_rms_norm(int rows, int n, const float *x, ptrdiff_t ldx, const float *w,
                                  float eps, float *y, ptrdiff_t ldy);
/* y += the same, y apart from x: a normed branch joins its residual stream. */
typedef mica_kernel_rms_norm mica_kernel_rms_norm_add;
/* y = act(x / max(||x||_2, 1e-12) * sqrt(n) * gamma); gamma of length n or NULL, act NONE or
 * SILU. Rows are pixels of channels-last pictures: small n, many rows. y may be x. */
typedef void mica_kernel_l2_norm_act(int rows, int n, const float *x, ptrdiff_t ldx,
                                     const float *gamma, mica_kernel_act act, float *y,
                                     ptrdiff_t ldy);
/* Per channel j of n, over `pixels` rows: sum[j] = sum of d, square[j] = sum of d^2 with
 * d = x - from[j] (from NULL: 0). In f32, one addition per pixel: meant for one row of a picture.
 * Relative error pixels * 2^-24 of the sum of the magnitudes. */
typedef void mica_kernel_channel_sums(int pixels, int n, const float *x, ptrdiff_t ldx,
                                      const float *from, float *sum, float *square);
/* y = act(x * scale[j] + shift[j]) for channel j; act NONE or SILU. y may be x. */
typedef void mica_kernel_channel_affine_act(int pixels, int n, const float *x, ptrdiff_t ldx,
                                            const float *scale, const float *shift,
                                            mica_kernel_act act, float *y, ptrdiff_t ldy);
/* All heads of one token: head h is x[h*ldx .. +k). RMS norm with w (length k; NULL: no norm),
 * then rotation by cos, sin (length k/2; NULL: none) of the pairs (2i, 2i+1) or (i, i + k/2).
 * k even. y may be x. */
typedef void mica_kernel_qk_norm_rope_interleaved(int heads, int k, const float *x, ptrdiff_t ldx,
                                                  const float *w, float eps, const float *cos,
                                                  const float *sin, float *y, ptrdiff_t ldy);
typedef mica_kernel_qk_norm_rope_interleaved mica_kernel_qk_norm_rope_half;

/* ---------------------------------------------------------- activations -- */

/* Element-wise; y may be x (or either input). Relative error 1e-6, or 1e-9 where the function
 * tends to 0. */
typedef void mica_kernel_silu(int64_t n, const float *x, float *y); /* x / (1 + e^-x) */
typedef mica_kernel_silu mica_kernel_gelu_tanh;                     /* tanh approximation */
typedef mica_kernel_silu mica_kernel_gelu_erf;                      /* x/2 (1 + erf(x/sqrt 2)) */
typedef mica_kernel_silu mica_kernel_tanh;
typedef void mica_kernel_swiglu(int64_t n, const float *gate, const float *up,
                                float *y); /* silu(gate)*up */
/* x > 0: x, else slope * x; 0 <= slope <= 1. Exact; NaN stays. */
typedef void mica_kernel_leaky_relu(int64_t n, float slope, const float *x, float *y);
/* min(max(x, low), high). Exact; NaN stays. */
typedef void mica_kernel_clamp(int64_t n, float low, float high, const float *x, float *y);
typedef mica_kernel_silu mica_kernel_mish; /* x tanh(ln(1 + e^x)) */
/* a / (1 + e^-b), and tanh(a) / (1 + e^-b): the gates of GLU and WaveNet. */
typedef void mica_kernel_glu(int64_t n, const float *a, const float *b, float *y);
typedef mica_kernel_glu mica_kernel_tanh_glu;
typedef void mica_kernel_add(int64_t n, const float *a, const float *b, float *y);
typedef void mica_kernel_mul_scalar(int64_t n, float a, const float *x, float *y); /* y = a*x */

/* y = residual + gate * act(acc + bias) on an m x n tile; NULL drops bias, gate or residual.
 *   bias, gate   length n; gate without residual multiplies
 *   y            may be acc or residual (same address and stride) */
typedef struct mica_epilogue {
    int m, n;
    const float *acc;
    ptrdiff_t ldacc;
    const float *bias;
    mica_kernel_act act;
    const float *gate;
    const float *residual;
    ptrdiff_t ldres;
    float *y;
    ptrdiff_t ldy;
} mica_epilogue;
typedef void mica_kernel_epilogue_tile(const mica_epilogue *e);

/* The same with integer sums: acc + bias becomes
 *     row_scale[i] * col_scale[j] * (acc[i][j] - row_zero[i] * col_sum[j]) + bias[j]
 * col_sum are the sums of the s8 weight rows and needed with row_zero only; row_zero NULL: 0
 * (symmetric activations). e.acc and e.ldacc are ignored; y may be residual only. */
typedef struct mica_epilogue_s32 {
    mica_epilogue e;
    const int32_t *acc;
    ptrdiff_t ldacc;
    const float *row_scale;
    const int32_t *row_zero;
    const float *col_scale;
    const int32_t *col_sum;
} mica_epilogue_s32;
typedef void mica_kernel_epilogue_s32_tile(const mica_epilogue_s32 *e);

/* -------------------------------------------------------------- softmax -- */

/* y[i] = softmax(scale * x[i]) over n >= 1 columns, scale > 0. -inf columns get 0; a row of -inf alone
 * becomes zeros, not NaN. NaN in a row makes the row NaN. y may be x. Relative error
 * 2e-6, plus 2^-23 of the exponent's argument. */
typedef void mica_kernel_softmax_rows(int m, int n, float scale, const float *x, ptrdiff_t ldx,
                                      float *y, ptrdiff_t ldy);

/* One step of softmax over a long row that arrives in column blocks (flash attention):
 *     new     = max(row_max[i], max_j scale * s[i][j])
 *     alpha[i] = exp(row_max[i] - new)            what the earlier output has to be multiplied by
 *     p[i][j] = exp(scale * s[i][j] - new)
 *     row_sum[i] = row_sum[i] * alpha[i] + sum_j p[i][j];   row_max[i] = new
 * Start with row_max = -inf and row_sum = 0. scale > 0. A block of -inf leaves everything as
 * it was (p = 0, alpha = 1). p may be s. n >= 1. In the bf16 form exp is good to 3e-6, p is
 * rounded (denormals may become 0), row_sum adds the values before rounding, and columns
 * [n, n_pad) of p are set to 0 (n_pad >= n, for the pairs of gemm_bf16). */
typedef struct mica_softmax_step {
    int m, n, n_pad;
    float scale;
    const float *s;
    ptrdiff_t lds;
    float *p;         /* f32 form */
    uint16_t *p_bf16; /* bf16 form */
    ptrdiff_t ldp;
    float *row_max, *row_sum, *alpha;
} mica_softmax_step;
typedef void mica_kernel_softmax_step(const mica_softmax_step *s);
typedef mica_kernel_softmax_step mica_kernel_softmax_step_bf16;
/* y[i][:] *= a[i]. */
typedef void mica_kernel_scale_rows(int m, int n, const float *a, float *y, ptrdiff_t ldy);
/* Largest element, -inf for n = 0, NaN if any is. */
typedef float mica_kernel_row_max(int n, const float *x);

/* ----------------------------------------------------------- conversion -- */

/* dst = src * scale (scale 1: exact). The destination is rounded to nearest even. f8 NaN codes
 * become NaN. bf16_from_f32 overflows to infinity; denormals are kept. */
typedef void mica_kernel_f32_from_bf16(int64_t n, const uint16_t *src, float scale, float *dst);
typedef mica_kernel_f32_from_bf16 mica_kernel_f32_from_f16;
typedef void mica_kernel_f32_from_f8_e4m3(int64_t n, const uint8_t *src, float scale, float *dst);
typedef mica_kernel_f32_from_f8_e4m3 mica_kernel_f32_from_f8_e5m2;
typedef void mica_kernel_bf16_from_f32(int64_t n, const float *src, float scale, uint16_t *dst);

/* Symmetric 8 bit: returns s = absmax/127 and q = round(x/s) in [-127, 127]; a zero row gives
 * s = 0, q = 0. *sum (NULL: not wanted) receives the sum of q. x must be finite. */
typedef float mica_kernel_quantize_s8_from_f32(int n, const float *x, int8_t *q, int32_t *sum);
typedef float mica_kernel_quantize_s8_from_bf16(int n, const uint16_t *x, int8_t *q, int32_t *sum);
typedef mica_kernel_quantize_s8_from_bf16 mica_kernel_quantize_s8_from_f16;
typedef float mica_kernel_quantize_s8_from_f8_e4m3(int n, const uint8_t *x, int8_t *q,
                                                   int32_t *sum);
typedef mica_kernel_quantize_s8_from_f8_e4m3 mica_kernel_quantize_s8_from_f8_e5m2;
/* Asymmetric 8 bit for activations: x ~= s * (q - *zero), q in [0, 255], zero in [0, 255];
 * returns s. 0 is always represented exactly. x must be finite. */
typedef float mica_kernel_quantize_u8_from_f32(int n, const float *x, uint8_t *q, int32_t *zero);

/* --------------------------------------------------------------- panels -- */

/* Weight rows [rows x k], row-major, to the B panels of gemm_f32: groups of nb output rows,
 * k-major inside,  dst[(n / nb)][kk][n % nb], zero-filled up to nb. nb is 16, 32, 48 or 64.
 * row_scale: one factor per row, or NULL. dst holds ceil(rows/nb)*nb * k elements.
 *
 *      src            k ──►              dst (nb = 4)
 *      row 0   a0 a1 a2 ...              a0 b0 c0 d0  a1 b1 c1 d1 ...
 *      row 1   b0 b1 b2 ...              e0 0  0  0   e1 0  0  0 */
typedef void mica_kernel_pack_f32_from_f32(int rows, int k, const float *src, ptrdiff_t ld,
                                           const float *row_scale, int nb, float *dst);
typedef void mica_kernel_pack_f32_from_bf16(int rows, int k, const uint16_t *src, ptrdiff_t ld,
                                            const float *row_scale, int nb, float *dst);
typedef mica_kernel_pack_f32_from_bf16 mica_kernel_pack_f32_from_f16;
typedef void mica_kernel_pack_f32_from_f8_e4m3(int rows, int k, const uint8_t *src, ptrdiff_t ld,
                                               const float *row_scale, int nb, float *dst);
typedef mica_kernel_pack_f32_from_f8_e4m3 mica_kernel_pack_f32_from_f8_e5m2;

/* The same to the B panels of gemm_bf16: dst[(n / nb)][kk / 2][n % nb][kk % 2], k rounded up to
 * even with zeros. dst holds ceil(rows/nb)*nb * (k rounded up to 2). */
typedef void mica_kernel_pack_bf16_from_f32(int rows, int k, const float *src, ptrdiff_t ld,
                                            const float *row_scale, int nb, uint16_t *dst);
typedef void mica_kernel_pack_bf16_from_bf16(int rows, int k, const uint16_t *src, ptrdiff_t ld,
                                             const float *row_scale, int nb, uint16_t *dst);
/* The same to the B panels of gemm_s8: dst[(n / nb)][kk / 4][n % nb][kk % 4], k rounded up to 4. */
typedef void mica_kernel_pack_s8(int rows, int k, const int8_t *src, ptrdiff_t ld, int nb,
                                 int8_t *dst);
/* B given the other way round, [k x n] row-major (the values of attention), to the same panels:
 * dst[(n / nb)][kk][n % nb] and dst[(n / nb)][kk / 2][n % nb][kk % 2]. */
typedef void mica_kernel_pack_f32_from_kmajor(int k, int n, const float *src, ptrdiff_t ld, int nb,
                                              float *dst);
typedef void mica_kernel_pack_bf16_from_kmajor(int k, int n, const float *src, ptrdiff_t ld, int nb,
                                               uint16_t *dst);

/* --------------------------------------------------------------- matmul -- */

/* c[m x n] = a[m x k] * B (+ c when accumulate). B is panels with nb = the table's
 * gemm_f32_nb / gemm_bf16_nb / gemm_s8_nb. a is row-major with stride lda; c is written in
 * [m x n] only. One accumulator per element, k ascending, started from c: the result does
 * not depend on m, n or on where k was cut. Rows of a may overlap (lda < k). A block is fastest
 * when m >= gemm_*_mr and a
 * panel of k * nb stays in the L2 cache; k = 0 gives c = 0 (or c). */
typedef struct mica_gemm_f32 {
    int m, n, k;
    const float *a;
    ptrdiff_t lda;
    const float *b;
    float *c;
    ptrdiff_t ldc;
    bool accumulate;
} mica_gemm_f32;
typedef void mica_kernel_gemm_f32(const mica_gemm_f32 *g);

/* bf16 inputs, f32 sums. k must be even (a padded by the caller with zeros). Where the table uses
 * AVX512_BF16 (AMD) denormal inputs and sums count as zero. */
typedef struct mica_gemm_bf16 {
    int m, n, k;
    const uint16_t *a;
    ptrdiff_t lda;
    const uint16_t *b;
    float *c;
    ptrdiff_t ldc;
    bool accumulate;
} mica_gemm_bf16;
typedef void mica_kernel_gemm_bf16(const mica_gemm_bf16 *g);

/* u8 x s8 -> s32, exact (k <= 65536). k must be a multiple of 4. */
typedef struct mica_gemm_s8 {
    int m, n, k;
    const uint8_t *a;
    ptrdiff_t lda;
    const int8_t *b;
    int32_t *c;
    ptrdiff_t ldc;
    bool accumulate;
} mica_gemm_s8;
typedef void mica_kernel_gemm_s8(const mica_gemm_s8 *g);

/* ------------------------------------------------------- matrix by vector -- */

/* y[i][r] = sum of a[r][k] x[i][k] over k < n, in f32, for each row of a (f32, bf16 or f16) and m rows of x.
 * A number depends on its row of a and its row of x alone. y apart from a and x. */
typedef struct mica_gemv {
    int rows, n, m;
    const void *a;
    ptrdiff_t lda; /* in elements */
    const float *x;
    ptrdiff_t ldx;
    float *y;
    ptrdiff_t ldy;
} mica_gemv;
typedef void mica_kernel_gemv_f32(const mica_gemv *g);
typedef mica_kernel_gemv_f32 mica_kernel_gemv_bf16;
typedef mica_kernel_gemv_f32 mica_kernel_gemv_f16;
/* y[k] += sum of x[r] a[r][k] over r, row by row: cutting the rows changes nothing. */
typedef void mica_kernel_gemv_kmajor(int rows, int n, const float *a, ptrdiff_t lda, const float *x,
                                     float *y);

/* The same for heads that lie beside each other in the rows of a cache, each with an x and a y of its own: head h of
 * row r at a + r lda + h n. Every number is that of gemv_f32 and gemv_kmajor head by head; memory is read row by row,
 * across heads. y apart from a and x. */
typedef struct mica_gemv_of_heads {
    int heads, rows, n;
    const float *a;
    ptrdiff_t lda;
    const float *x; /* of head h: x + h ldx */
    ptrdiff_t ldx;
    float *y; /* of head h: y + h ldy */
    ptrdiff_t ldy;
} mica_gemv_of_heads;
/* y[h][r] = sum of a[r][h][k] x[h][k] over k < n. */
typedef void mica_kernel_gemv_heads(const mica_gemv_of_heads *g);
/* y[h][k] += sum of x[h][r] a[r][h][k] over r. */
typedef void mica_kernel_gemv_heads_kmajor(const mica_gemv_of_heads *g);

/* --------------------------------------------------------- packed weights -- */

/* What a row of weights is stored as; blocks as in GGUF files, then streams of bits in groups (MLX).
 * The plain types are here too, so that one product serves all. */
typedef enum mica_packed {
    MICA_PACKED_F32 = 0,
    MICA_PACKED_BF16,
    MICA_PACKED_F16,
    MICA_PACKED_F8_E4M3,
    MICA_PACKED_F8_E5M2,
    MICA_PACKED_S8,
    MICA_PACKED_Q8_0,
    MICA_PACKED_Q4_0,
    MICA_PACKED_Q4_1,
    MICA_PACKED_Q5_0,
    MICA_PACKED_Q5_1,
    MICA_PACKED_Q2_K,
    MICA_PACKED_Q3_K,
    MICA_PACKED_Q4_K,
    MICA_PACKED_Q5_K,
    MICA_PACKED_Q6_K,
    MICA_PACKED_IQ4_NL,
    MICA_PACKED_IQ4_XS,
    MICA_PACKED_MXFP4,
    MICA_PACKED_B2, /* B<bits> */
    MICA_PACKED_B3,
    MICA_PACKED_B4,
    MICA_PACKED_B5,
    MICA_PACKED_B6,
    MICA_PACKED_B8,
    MICA_PACKED_COUNT
} mica_packed;

/* rows x n numbers. n is a multiple of the block: 1 for plain types, 32, or 256 from Q2_K to Q6_K and for
 * IQ4_XS. Nothing is aligned but plain types to their own size. B types have scales and biases (biases
 * may be NULL: zeros) of one of the types F32, BF16, F16 per `group` (32, 64 or 128) numbers, ld_scale
 * of them a row; the first number begins a group. row_scale: one factor per row, or NULL. */
typedef struct mica_packed_rows {
    mica_packed type;
    int rows, n;
    const void *data;
    ptrdiff_t ld; /* bytes from row to row */
    const void *scale, *bias;
    mica_packed scale_type;
    ptrdiff_t ld_scale;
    int group;
    const float *row_scale;
} mica_packed_rows;

/* The numbers as they are: f32 to 2 units in the last place of the larger of the scaled integer and
 * its offset; bf16 from that. */
typedef void mica_kernel_unpack_f32(const mica_packed_rows *w, float *dst, ptrdiff_t ld);
typedef void mica_kernel_unpack_bf16(const mica_packed_rows *w, uint16_t *dst, ptrdiff_t ld);
/* y[i][r] = sum_k x[i][k] * w[r][k] for m rows of x, straight from the packed rows; in f32, in an order
 * that n alone decides, so that a row of x gives the same bits alone and with others. Meant for few rows
 * of x: a row of w is unpacked once for every 4 of them (AVX-512; 2 with AVX2). */
typedef void mica_kernel_dot_rows(const mica_packed_rows *w, int m, const float *x, ptrdiff_t ldx,
                                  float *y, ptrdiff_t ldy);

/* x in whole numbers of one to three digits of 8 bits, for dot_digits: of each 32 numbers X = round(x / s), s =
 * their largest magnitude / 127, 32600 or 8355000, so that the rounding is at most 1/254 of the largest, 2^-15.9 or
 * 2^-23.9. NaN or an infinity makes all 32 NaN; 32 numbers below 2^-100 count as zeros. A row of n numbers takes
 * MICA_DIGITS_SIZE(n, digits) bytes, zeros behind its end, aligned to 4; packed_digits.c has the layout. */
#define MICA_DIGITS_MOST            3
#define MICA_DIGITS_PANEL(digits)   (256 * (digits) + 192) /* bytes for 256 numbers */
#define MICA_DIGITS_SIZE(n, digits) (((size_t)(n) + 255) / 256 * (size_t)MICA_DIGITS_PANEL(digits))
typedef void mica_kernel_digits_from_f32(mica_packed type, int digits, int m, int n, const float *x,
                                         ptrdiff_t ldx, int8_t *dst);
/* dot_rows for m rows of x in digits; of the types from S8 on. Products of digits are exact, sums are f32's: with
 * the rounding of x an error of its share of a 32's largest x times its |w|, beside that of dot_rows; and where a
 * scale of w times s is below 2^-126, what denormals lose. */
typedef void mica_kernel_dot_digits(const mica_packed_rows *w, int digits, int m, const int8_t *x,
                                    float *y, ptrdiff_t ldy);

/* ----------------------------------------------------- pixels and copies -- */

/* round_half_even(clamp(x/2 + 0.5, 0, 1) * 255); NaN gives 0. */
typedef void mica_kernel_u8_from_f32(int64_t n, const float *x, uint8_t *y);
/* One picture row of `pixels` pixels of c channels, every pixel twice. */
typedef void mica_kernel_upsample2_row(int pixels, int c, const float *x, float *y);
typedef void mica_kernel_copy_rows(int rows, int n, const float *x, ptrdiff_t ldx, float *y,
                                   ptrdiff_t ldy);
/* y[j][i] = x[i][j]; x is rows x n, y is n x rows. */
typedef void mica_kernel_transpose(int rows, int n, const float *x, ptrdiff_t ldx, float *y,
                                   ptrdiff_t ldy);

/* ----------------------------------------------------------- reductions -- */

typedef bool mica_kernel_all_finite(int64_t n, const float *x);
/* most[i] = max(most[i], |x[r][i]|) over all rows; NaN does not count. */
typedef void mica_kernel_column_absmax(int rows, int n, const float *x, ptrdiff_t ldx, float *most);
/* Sums in blocks, f32 in a block, f64 across blocks of 4096. */
typedef double mica_kernel_dot(int64_t n, const float *a, const float *b);
/* c = uncond + scale * (cond - uncond) per row; renorm: the row is then multiplied by
 * ||cond|| / ||c|| (norms of the row; a zero ||c|| gives NaN, as the reference). out may be cond
 * or uncond. (pipeline_qwenimage.py, __call__: comb_pred, cond_norm / noise_norm.) */
typedef void mica_kernel_cfg_rows(int rows, int n, const float *cond, ptrdiff_t ldc,
                                  const float *uncond, ptrdiff_t ldu, float scale, bool renorm,
                                  float *out, ptrdiff_t ldo);
/* y = sum_i coef[i] * x[i], 1 <= terms <= 6, added in order; y may be any x. */
typedef void mica_kernel_linear_combination(int64_t n, int terms, const float *coef,
                                            const float *const *x, float *y);

/* ---------------------------------------------------------------- table -- */

/* All slots but those that have compilations of their own for VNNI and BF16. */
#define MICA_KERNEL_LIST_PLAIN(X)                                                                  \
    X(layer_norm_modulate)                                                                         \
    X(rms_norm)                                                                                    \
    X(rms_norm_add)                                                                                \
    X(l2_norm_act)                                                                                 \
    X(channel_sums)                                                                                \
    X(channel_affine_act)                                                                          \
    X(qk_norm_rope_interleaved)                                                                    \
    X(qk_norm_rope_half)                                                                           \
    X(silu)                                                                                        \
    X(gelu_tanh)                                                                                   \
    X(gelu_erf)                                                                                    \
    X(tanh)                                                                                        \
    X(swiglu)                                                                                      \
    X(leaky_relu)                                                                                  \
    X(clamp)                                                                                       \
    X(mish)                                                                                        \
    X(glu)                                                                                         \
    X(tanh_glu)                                                                                    \
    X(add)                                                                                         \
    X(mul_scalar)                                                                                  \
    X(epilogue_tile)                                                                               \
    X(epilogue_s32_tile)                                                                           \
    X(softmax_rows)                                                                                \
    X(softmax_step)                                                                                \
    X(scale_rows)                                                                                  \
    X(row_max)                                                                                     \
    X(f32_from_bf16)                                                                               \
    X(f32_from_f16)                                                                                \
    X(f32_from_f8_e4m3)                                                                            \
    X(f32_from_f8_e5m2)                                                                            \
    X(bf16_from_f32)                                                                               \
    X(quantize_s8_from_f32)                                                                        \
    X(quantize_s8_from_bf16)                                                                       \
    X(quantize_s8_from_f16)                                                                        \
    X(quantize_s8_from_f8_e4m3)                                                                    \
    X(quantize_s8_from_f8_e5m2)                                                                    \
    X(quantize_u8_from_f32)                                                                        \
    X(pack_f32_from_f32)                                                                           \
    X(pack_f32_from_bf16)                                                                          \
    X(pack_f32_from_f16)                                                                           \
    X(pack_f32_from_f8_e4m3)                                                                       \
    X(pack_f32_from_f8_e5m2)                                                                       \
    X(pack_bf16_from_f32)                                                                          \
    X(pack_bf16_from_bf16)                                                                         \
    X(pack_s8)                                                                                     \
    X(pack_f32_from_kmajor)                                                                        \
    X(pack_bf16_from_kmajor)                                                                       \
    X(gemm_f32)                                                                                    \
    X(gemv_f32)                                                                                    \
    X(gemv_bf16)                                                                                   \
    X(gemv_f16)                                                                                    \
    X(gemv_kmajor)                                                                                 \
    X(gemv_heads)                                                                                  \
    X(gemv_heads_kmajor)                                                                           \
    X(unpack_f32)                                                                                  \
    X(unpack_bf16)                                                                                 \
    X(dot_rows)                                                                                    \
    X(u8_from_f32)                                                                                 \
    X(upsample2_row)                                                                               \
    X(copy_rows)                                                                                   \
    X(transpose)                                                                                   \
    X(all_finite)                                                                                  \
    X(column_absmax)                                                                               \
    X(dot)                                                                                         \
    X(cfg_rows)                                                                                    \
    X(linear_combination)
#define MICA_KERNEL_LIST(X)                                                                        \
    MICA_KERNEL_LIST_PLAIN(X)                                                                      \
    X(softmax_step_bf16)                                                                           \
    X(gemm_bf16)                                                                                   \
    X(gemm_s8)

/* Slots that are NULL in all tables but that of a processor with VNNI, VBMI and GFNI. */
#define MICA_KERNEL_LIST_BYTES(X)                                                                  \
    X(digits_from_f32)                                                                             \
    X(dot_digits)

typedef struct mica_kernels {
    mica_cpu_level level;
    const char *name;             /* "v4", "v4+vnni", ...: what the slots were compiled for */
    int gemm_f32_mr, gemm_f32_nb; /* rows of a register tile; columns of a panel */
    int gemm_bf16_mr, gemm_bf16_nb;
    int gemm_s8_mr, gemm_s8_nb;
    bool has_bf16_dot; /* gemm_bf16 multiplies pairs of bf16, at twice the rate of f32 */
#define MICA_KERNEL_SLOT(slot) mica_kernel_##slot *slot;
    MICA_KERNEL_LIST(MICA_KERNEL_SLOT)
    MICA_KERNEL_LIST_BYTES(MICA_KERNEL_SLOT)
#undef MICA_KERNEL_SLOT
} mica_kernels;

/* The table for mica_cpu_get_level(). Never NULL; valid for the life of the process. */
const mica_kernels *mica_kernels_get(void);
/* Every table this build has and this machine can run, slowest first; returns how many. For
 * tests and benchmarks. */
#define MICA_KERNELS_MAX 7
int mica_kernels_list(const mica_kernels *tables[MICA_KERNELS_MAX]);

#endif
