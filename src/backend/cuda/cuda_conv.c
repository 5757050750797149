/* cuda_conv.c - convolution of a channels-last picture as a product with patches.
 *
 *      x [Y, X, C]     band of output pixels        patches [pixels, ld]      w [O, ld]
 *     +-----------+
 *     |  band 0   | ──► one row per output pixel: [KY][KX][C], zeros outside ──► y = patches w^T
 *     |  band 1   |
 *     +-----------+     1 x 1 without padding: x itself is the patches
 *
 * A band's patches take BAND_BYTES, which the 50 MB L2 of an H100 still holds when the product
 * reads them: the 9-fold picture does not reach memory. Weights are gathered once to
 * [O][KY][KX][C], padded to 8 columns like the patches. f32 stays f32, which no library's default
 * promises for convolutions.
 *
 * Napkin: 1,024 x 1,024 pixels, 96 to 96 channels, 3 x 3: 174 GFLOP, 0.25 ms at 700 TFLOP/s;
 * 1.8 GB of patches written and read at L2 speed (about 5 TB/s): 0.7 ms. An implicit product
 * (cuDNN) saves those and is the next step here. */
#include "backend/cuda/cuda_backend.h"

#define BAND_BYTES ((int64_t)24 << 20)

static mica_status check_conv(const mica_conv2d_args *a, mica_err *err)
{
    if (mica_tensor_is_contiguous(a->x_YXC) && mica_tensor_is_contiguous(a->y_YXO) &&
        (!a->residual_YXO || mica_tensor_is_contiguous(a->residual_YXO)))
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: conv2d needs contiguous pictures",
                     a->w_OCYX->name ? a->w_OCYX->name : "weight");
}

/* Pixels [first, first + count) of a contiguous picture as rows. */
static mica_cuda_view pixels(const mica_tensor *t, int64_t first, int64_t count)
{
    const mica_cuda_type type = mica_cuda_type_of(t->dtype);
    const int64_t C = t->shape_[2];
    uint8_t *data = (uint8_t *)t->data + (size_t)(first * C) * mica_cuda_type_size(type);
    return mica_cuda_view_matrix(data, type, count, C, C);
}

static mica_cuda_product band_product(const mica_conv2d_args *a, const void *w, int64_t ld,
                                      int64_t first, int64_t count)
{
    mica_cuda_product p = {.name = a->w_OCYX->name ? a->w_OCYX->name : "conv2d",
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

mica_status mica_cuda_op_conv2d(mica_backend *base, const mica_conv2d_args *a, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_tensor *x = a->x_YXC, *w = &a->w_OCYX->tensor, *y = a->y_YXO;
    const mica_cuda_type type = mica_cuda_compute_type(be);
    const int64_t total = y->shape_[0] * y->shape_[1];
    const int64_t ld = mica_cuda_round8(w->shape_[1] * w->shape_[2] * w->shape_[3]);
    const bool point = w->shape_[2] == 1 && w->shape_[3] == 1 && a->stride == 1 &&
                       a->pad_top + a->pad_bottom + a->pad_left + a->pad_right == 0;
    const int64_t row_bytes = ld * (int64_t)mica_cuda_type_size(type);
    const int64_t band = point ? total : MICA_MAX((int64_t)128, BAND_BYTES / row_bytes / 128 * 128);
    const void *weights;
    void *scratch;
    MICA_TRY(check_conv(a, err));
    MICA_TRY(mica_cuda_weight(be, a->w_OCYX, MICA_CUDA_FORM_CONV, &weights, err));
    const int64_t most = MICA_MIN(band, total);
    const size_t patch_bytes = point ? 0 : mica_cuda_align((size_t)(most * row_bytes));
    mica_cuda_product first = band_product(a, weights, ld, 0, most);
    first.x = point ? pixels(x, 0, most)
                    : mica_cuda_view_matrix((void *)(uintptr_t)256, type, most, ld, ld);
    MICA_TRY(
        mica_cuda_scratch(be, patch_bytes + mica_cuda_product_plan(be, &first), &scratch, err));
    for (int64_t at = 0; at < total; at += band) {
        const int64_t count = MICA_MIN(band, total - at);
        mica_cuda_product p = band_product(a, weights, ld, at, count);
        p.x = point ? pixels(x, at, count) : mica_cuda_view_matrix(scratch, type, count, ld, ld);
        const mica_cuda_patches_args patches = {.x = x->data,
                                                .out = scratch,
                                                .type = mica_cuda_type_of(x->dtype),
                                                .out_type = type,
                                                .Y = (int)x->shape_[0],
                                                .X = (int)x->shape_[1],
                                                .C = (int)x->shape_[2],
                                                .KY = (int)w->shape_[2],
                                                .KX = (int)w->shape_[3],
                                                .stride = a->stride,
                                                .top = a->pad_top,
                                                .left = a->pad_left,
                                                .out_x = (int)y->shape_[1],
                                                .first = at,
                                                .count = count,
                                                .ld = ld};
        if (!point)
            MICA_TRY(mica_cuda_check(mica_cuda_patches(&patches, be->stream), p.name, err));
        mica_cuda_product_plan(be, &p);
        MICA_TRY(mica_cuda_product_run(be, &p, (uint8_t *)scratch + patch_bytes, err));
    }
    return MICA_OK;
}

mica_status mica_cuda_op_upsample_nearest2(mica_backend *base, const mica_tensor *x_YXC,
                                           mica_tensor *y_YXC, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    if (!mica_tensor_is_contiguous(x_YXC) || !mica_tensor_is_contiguous(y_YXC))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "upsample_nearest2 needs contiguous pictures; copy the view first");
    return mica_cuda_check(mica_cuda_double(x_YXC->data, mica_cuda_type_of(x_YXC->dtype),
                                            (int)x_YXC->shape_[0], (int)x_YXC->shape_[1],
                                            (int)x_YXC->shape_[2], y_YXC->data,
                                            mica_cuda_type_of(y_YXC->dtype), be->stream),
                           "upsample_nearest2", err);
}
