/* cuda_conv.c - convolution of a channels-last picture, and its doubling.
 *
 *     fused     cuDNN writes y itself, bias and residual added (cuda_dnn_conv.c)
 *     late      cuDNN writes sums to y or scratch, one pass adds the rest: activations, outputs that
 *               8 does not divide (3 colours), y in f32, and where no engine takes the fused graph
 *     point     1 x 1: a product of pixels and weights (cuda_linear.c)
 *     patches   the rest: f32, odd channels, paddings that no engine takes
 *
 *      x [Y, X, C]     band of output pixels        patches [pixels, ld]      w [O, ld]
 *     +-----------+
 *     |  band 0   | ──► one row per output pixel: [KY][KX][C], zeros outside ──► y = patches w^T
 *     |  band 1   |
 *     +-----------+
 *
 * Weights are gathered once to [O][KY][KX][C], rows padded to 8 columns and their number to 8: what
 * both cuDNN and the product want. A band's patches take BAND_BYTES, which the 50 MB L2 of an H100
 * still holds when the product reads them. f32 stays f32, which no library's default promises for
 * convolutions.
 *
 * Napkin: 1,024 x 1,024 pixels, 96 to 96 channels, 3 x 3: 174 GFLOP, 0.25 ms at 700 TFLOP/s. Measured
 * on an H100: 0.32 ms with bias by cuDNN, 1.73 ms as a product with patches (1.8 GB of them are
 * written and read again). */
#include "backend/cuda/cuda_backend.h"

#define BAND_BYTES ((int64_t)24 << 20)

static const char *name_of(const mica_conv2d_args *a)
{
    return a->w_OCYX->name ? a->w_OCYX->name : "conv2d";
}

static mica_status check_conv(const mica_conv2d_args *a, mica_err *err)
{
    if (mica_tensor_is_contiguous(a->x_YXC) && mica_tensor_is_contiguous(a->y_YXO) &&
        (!a->residual_YXO || mica_tensor_is_contiguous(a->residual_YXO)))
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: conv2d needs contiguous pictures", name_of(a));
}

/* Pixels [first, first + count) of a contiguous picture as rows. */
static mica_cuda_view pixels(const mica_tensor *t, int64_t first, int64_t count)
{
    const mica_cuda_type type = mica_cuda_type_of(t->dtype);
    const int64_t C = t->shape_[2];
    uint8_t *data = (uint8_t *)t->data + (size_t)(first * C) * mica_cuda_type_size(type);
    return mica_cuda_view_matrix(data, type, count, C, C);
}

static int64_t pixel_count(const mica_tensor *t_YXC)
{
    return t_YXC->shape_[0] * t_YXC->shape_[1];
}

/* -------------------------------------------------------------- products -- */

static mica_cuda_product product_of(const mica_conv2d_args *a, const void *w, int64_t ld,
                                    int64_t first, int64_t count)
{
    mica_cuda_product p = {.name = name_of(a),
                           .y = pixels(a->y_YXO, first, count),
                           .w = w,
                           .ld = ld,
                           .outputs = a->w_OCYX->tensor.shape_[0],
                           .bias = a->bias_O,
                           .act = a->act};
    if (a->residual_YXO)
        p.residual = pixels(a->residual_YXO, first, count);
    return p;
}

static bool is_point(const mica_conv2d_args *a)
{
    const int64_t *w = a->w_OCYX->tensor.shape_;
    return w[2] == 1 && w[3] == 1 && a->stride == 1 &&
           a->pad_top + a->pad_bottom + a->pad_left + a->pad_right == 0;
}

static mica_status run_point(mica_cuda_backend *be, const mica_conv2d_args *a, const void *w,
                             mica_err *err)
{
    const int64_t total = pixel_count(a->y_YXO);
    mica_cuda_product p = product_of(a, w, mica_cuda_round8(a->w_OCYX->tensor.shape_[1]), 0, total);
    void *scratch;
    p.x = pixels(a->x_YXC, 0, total);
    MICA_TRY(mica_cuda_scratch(be, mica_cuda_product_plan(be, &p), &scratch, err));
    return mica_cuda_product_run(be, &p, scratch, err);
}

static mica_cuda_patches_args patches_of(const mica_conv2d_args *a, int64_t ld, int64_t first,
                                         int64_t count)
{
    const mica_tensor *x = a->x_YXC, *w = &a->w_OCYX->tensor;
    return (mica_cuda_patches_args){.x = x->data,
                                    .type = mica_cuda_type_of(x->dtype),
                                    .Y = (int)x->shape_[0],
                                    .X = (int)x->shape_[1],
                                    .C = (int)x->shape_[2],
                                    .KY = (int)w->shape_[2],
                                    .KX = (int)w->shape_[3],
                                    .stride = a->stride,
                                    .top = a->pad_top,
                                    .left = a->pad_left,
                                    .out_x = (int)a->y_YXO->shape_[1],
                                    .first = first,
                                    .count = count,
                                    .ld = ld};
}

static mica_status run_patches(mica_cuda_backend *be, const mica_conv2d_args *a, const void *w,
                               mica_err *err)
{
    const int64_t *n = a->w_OCYX->tensor.shape_, total = pixel_count(a->y_YXO);
    const mica_cuda_type type = mica_cuda_compute_type(be);
    const int64_t ld = mica_cuda_round8(n[1] * n[2] * n[3]);
    const int64_t row_bytes = ld * (int64_t)mica_cuda_type_size(type);
    const int64_t band =
        MICA_MIN(total, MICA_MAX((int64_t)128, BAND_BYTES / row_bytes / 128 * 128));
    const size_t patch_bytes = mica_cuda_align((size_t)(band * row_bytes));
    void *scratch;
    mica_cuda_product first = product_of(a, w, ld, 0, band); /* no data yet: any aligned address */
    first.x = mica_cuda_view_matrix((void *)(uintptr_t)256, type, band, ld, ld);
    MICA_TRY(
        mica_cuda_scratch(be, patch_bytes + mica_cuda_product_plan(be, &first), &scratch, err));
    for (int64_t at = 0; at < total; at += band) {
        const int64_t count = MICA_MIN(band, total - at);
        mica_cuda_product p = product_of(a, w, ld, at, count);
        mica_cuda_patches_args patches = patches_of(a, ld, at, count);
        patches.out = scratch;
        patches.out_type = type;
        p.x = mica_cuda_view_matrix(scratch, type, count, ld, ld);
        MICA_TRY(mica_cuda_check(mica_cuda_patches(&patches, be->stream), p.name, err));
        mica_cuda_product_plan(be, &p);
        MICA_TRY(mica_cuda_product_run(be, &p, (uint8_t *)scratch + patch_bytes, err));
    }
    return MICA_OK;
}

/* ----------------------------------------------------------------- cuDNN -- */

static bool aligned(const mica_tensor *t)
{
    return t->dtype == MICA_DTYPE_BF16 && (uintptr_t)t->data % 16 == 0;
}

static mica_cuda_conv_shape shape_of(const mica_conv2d_args *a)
{
    const mica_tensor *x = a->x_YXC, *w = &a->w_OCYX->tensor, *y = a->y_YXO;
    return (mica_cuda_conv_shape){.Y = x->shape_[0],
                                  .X = x->shape_[1],
                                  .C = x->shape_[2],
                                  .O = mica_cuda_round8(w->shape_[0]),
                                  .KY = w->shape_[2],
                                  .KX = w->shape_[3],
                                  .out_Y = y->shape_[0],
                                  .out_X = y->shape_[1],
                                  .stride = a->stride,
                                  .pad_top = a->pad_top,
                                  .pad_bottom = a->pad_bottom,
                                  .pad_left = a->pad_left,
                                  .pad_right = a->pad_right};
}

/* The whole of it in one kernel. False: it cannot be, nothing was done. */
static bool run_fused(mica_cuda_backend *be, const mica_conv2d_args *a, const void *w,
                      mica_status *st, mica_err *err)
{
    mica_cuda_conv_shape s = shape_of(a);
    mica_cuda_conv_data d = {.x = a->x_YXC->data, .w = w, .y = a->y_YXO->data};
    size_t workspace;
    s.bias = a->bias_O != NULL;
    s.residual = a->residual_YXO != NULL;
    if (!be->fuse || a->act != MICA_ACT_NONE || s.O != a->w_OCYX->tensor.shape_[0] ||
        !aligned(a->y_YXO) || (a->residual_YXO && !aligned(a->residual_YXO)) ||
        !mica_cuda_dnn_conv_plan(be, &s, &workspace))
        return false;
    d.residual = a->residual_YXO ? a->residual_YXO->data : NULL;
    *st = mica_cuda_weight(be, a->bias_O, MICA_CUDA_FORM_BF16, &d.bias, err);
    if (!*st)
        *st = mica_cuda_scratch(be, workspace, &d.workspace, err);
    if (!*st)
        *st = mica_cuda_dnn_conv_run(be, &s, &d, name_of(a), err);
    return true;
}

/* y = residual + act(sums + bias). */
static mica_status add_rest(mica_cuda_backend *be, const mica_conv2d_args *a,
                            const mica_cuda_view *sums, mica_err *err)
{
    const int64_t total = pixel_count(a->y_YXO);
    const mica_cuda_act act = (mica_cuda_act)a->act;
    mica_cuda_epilogue_args late = {.acc = *sums, .y = pixels(a->y_YXO, 0, total), .act = act};
    const void *bias;
    cudaError_t error;
    MICA_TRY(mica_cuda_weight(be, a->bias_O, MICA_CUDA_FORM_F32, &bias, err));
    late.bias = bias;
    if (a->residual_YXO)
        late.residual = pixels(a->residual_YXO, 0, total);
    if (!mica_cuda_channel_map(sums, NULL, late.bias, act,
                               late.residual.data ? &late.residual : NULL, &late.y, be->stream,
                               &error))
        error = mica_cuda_epilogue(&late, be->stream);
    return mica_cuda_check(error, name_of(a), err);
}

/* Sums by cuDNN, the rest in a pass of its own. */
static bool run_late(mica_cuda_backend *be, const mica_conv2d_args *a, const void *w,
                     mica_status *st, mica_err *err)
{
    const mica_cuda_conv_shape s = shape_of(a);
    const int64_t O = a->w_OCYX->tensor.shape_[0], total = s.out_Y * s.out_X;
    const bool in_place = s.O == O && aligned(a->y_YXO) &&
                          (!a->residual_YXO || a->residual_YXO->data != a->y_YXO->data);
    const size_t sum_bytes = in_place ? 0 : mica_cuda_align((size_t)(total * s.O) * 2);
    mica_cuda_conv_data d = {.x = a->x_YXC->data, .w = w};
    size_t workspace;
    void *scratch;
    if (!mica_cuda_dnn_conv_plan(be, &s, &workspace))
        return false;
    *st = mica_cuda_scratch(be, sum_bytes + workspace, &scratch, err);
    if (*st)
        return true;
    d.workspace = (uint8_t *)scratch + sum_bytes;
    d.y = in_place ? a->y_YXO->data : scratch;
    *st = mica_cuda_dnn_conv_run(be, &s, &d, name_of(a), err);
    const mica_cuda_view sums = mica_cuda_view_matrix(d.y, MICA_CUDA_BF16, total, O, s.O);
    const bool rest = !in_place || a->bias_O || a->residual_YXO || a->act != MICA_ACT_NONE;
    if (!*st && rest)
        *st = add_rest(be, a, &sums, err);
    return true;
}

mica_status mica_cuda_op_conv2d(mica_backend *base, const mica_conv2d_args *a, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const void *w;
    mica_status st = MICA_OK;
    MICA_TRY(check_conv(a, err));
    MICA_TRY(mica_cuda_weight(be, a->w_OCYX, MICA_CUDA_FORM_CONV, &w, err));
    if (is_point(a))
        return run_point(be, a, w, err);
    if (be->bf16 && aligned(a->x_YXC) && a->x_YXC->shape_[2] % 8 == 0 &&
        (run_fused(be, a, w, &st, err) || run_late(be, a, w, &st, err)))
        return st;
    return run_patches(be, a, w, err);
}

/* --------------------------------------------------------------- doubling -- */

mica_status mica_cuda_op_upsample_nearest2(mica_backend *base, const mica_tensor *x_YXC,
                                           mica_tensor *y_YXC, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_cuda_type type = mica_cuda_type_of(x_YXC->dtype),
                         y_type = mica_cuda_type_of(y_YXC->dtype);
    const int Y = (int)x_YXC->shape_[0], X = (int)x_YXC->shape_[1], C = (int)x_YXC->shape_[2];
    cudaError_t error;
    if (!mica_tensor_is_contiguous(x_YXC) || !mica_tensor_is_contiguous(y_YXC))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "upsample_nearest2 needs contiguous pictures; copy the view first");
    if (type != y_type || !mica_cuda_double_pixels(x_YXC->data, y_YXC->data, Y, X,
                                                   (int64_t)C * (int64_t)mica_cuda_type_size(type),
                                                   be->stream, &error))
        error = mica_cuda_double(x_YXC->data, type, Y, X, C, y_YXC->data, y_type, be->stream);
    return mica_cuda_check(error, "upsample_nearest2", err);
}
