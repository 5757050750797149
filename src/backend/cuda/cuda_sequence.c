/* cuda_sequence.c - convolution over time as a product with windows, functions with a shift,
 * gated units and relative attention; the kernels are in cuda_sequence.cu.
 *
 *     x [R, C] ──► windows [band of outputs, K C] in scratch, leaky ReLU on the way ──► product
 *
 * A convolution of one tap without stride, padding and leaky ReLU reads x where it lies. Weights are
 * [O][K][C], the form of cuda_conv.c. */
#include "backend/cuda/cuda_sequence.h"
#include "backend/cuda/cuda_backend.h"

#include <math.h>

#define BAND_BYTES ((int64_t)24 << 20)

static mica_cuda_view rows_of(const mica_tensor *t, int64_t first, int64_t count)
{
    const mica_cuda_type type = mica_cuda_type_of(t->dtype);
    uint8_t *data =
        (uint8_t *)t->data + (size_t)(first * t->stride_[0]) * mica_cuda_type_size(type);
    return mica_cuda_view_matrix(data, type, count, t->shape_[1], t->stride_[0]);
}

typedef struct conv1d_job {
    mica_cuda_backend *be;
    const mica_conv1d_args *args;
    mica_cuda_type type;
    const void *weights;
    int64_t ld, band, total;
    bool point;
} conv1d_job;

static mica_cuda_product product_of(const conv1d_job *j, int64_t first, int64_t count,
                                    void *windows)
{
    const mica_conv1d_args *a = j->args;
    mica_cuda_product p = {.name = a->w_OCYX->name ? a->w_OCYX->name : "conv1d",
                           .y = rows_of(a->y_RO, first, count),
                           .w = j->weights,
                           .ld = j->ld,
                           .outputs = a->w_OCYX->tensor.shape_[0],
                           .bias = a->bias_O,
                           .act = a->act,
                           .exact = a->w_OCYX->exact};
    p.x = j->point ? rows_of(a->x_RC, first, count)
                   : mica_cuda_view_matrix(windows, j->type, count, j->ld, j->ld);
    if (a->residual_RO)
        p.residual = rows_of(a->residual_RO, first, count);
    return p;
}

static mica_status run_band(const conv1d_job *j, int64_t first, uint8_t *scratch, size_t windows,
                            mica_err *err)
{
    const mica_conv1d_args *a = j->args;
    const int64_t count = MICA_MIN(j->band, j->total - first);
    mica_cuda_product p = product_of(j, first, count, scratch);
    const mica_cuda_windows_args w = {.x = a->x_RC->data,
                                      .out = scratch,
                                      .type = mica_cuda_type_of(a->x_RC->dtype),
                                      .out_type = j->type,
                                      .R = a->x_RC->shape_[0],
                                      .ldx = a->x_RC->stride_[0],
                                      .first = first,
                                      .count = count,
                                      .ld = j->ld,
                                      .C = (int)a->x_RC->shape_[1],
                                      .K = (int)a->w_OCYX->tensor.shape_[3],
                                      .stride = a->stride,
                                      .dilation = a->dilation,
                                      .left = a->pad_left,
                                      .leaky = a->leaky,
                                      .slope = a->slope};
    if (!j->point)
        MICA_TRY(mica_cuda_check(mica_cuda_windows(&w, j->be->stream), p.name, err));
    mica_cuda_product_plan(j->be, &p);
    return mica_cuda_product_run(j->be, &p, scratch + windows, err);
}

mica_status mica_cuda_op_conv1d(mica_backend *base, const mica_conv1d_args *a, mica_err *err)
{
    const mica_tensor *w = &a->w_OCYX->tensor;
    conv1d_job j = {.be = mica_cuda_from(base), .args = a, .total = a->y_RO->shape_[0]};
    j.type = a->w_OCYX->exact ? MICA_CUDA_F32 : mica_cuda_compute_type(j.be);
    j.ld = mica_cuda_round8(w->shape_[1] * w->shape_[3]);
    j.point = w->shape_[3] == 1 && a->stride == 1 && a->pad_left + a->pad_right == 0 && !a->leaky;
    const int64_t row_bytes = j.ld * (int64_t)mica_cuda_type_size(j.type);
    j.band = j.point ? j.total : MICA_MAX((int64_t)128, BAND_BYTES / row_bytes / 128 * 128);
    const int64_t most = MICA_MIN(j.band, j.total);
    const size_t windows = j.point ? 0 : mica_cuda_align((size_t)(most * row_bytes));
    void *scratch;
    MICA_TRY(mica_cuda_weight(j.be, a->w_OCYX, MICA_CUDA_FORM_CONV, &j.weights, err));
    mica_cuda_product first = product_of(&j, 0, most, (void *)(uintptr_t)256);
    MICA_TRY(
        mica_cuda_scratch(j.be, windows + mica_cuda_product_plan(j.be, &first), &scratch, err));
    for (int64_t at = 0; at < j.total; at += j.band)
        MICA_TRY(run_band(&j, at, scratch, windows, err));
    return MICA_OK;
}

mica_status mica_cuda_op_apply(mica_backend *base, mica_function f, float p,
                               const mica_tensor *x_MD, const mica_tensor *shift_D,
                               mica_tensor *y_MD, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    mica_cuda_view x = mica_cuda_view_of(x_MD), y = mica_cuda_view_of(y_MD);
    mica_cuda_view *const views[] = {&x, &y};
    if (x.n != y.n)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "apply: rows must be contiguous");
    if (!shift_D)
        mica_cuda_flatten(views, 2);
    return mica_cuda_check(
        mica_cuda_apply((int)f, p, &x, shift_D ? shift_D->data : NULL, &y, be->stream), "apply",
        err);
}

mica_status mica_cuda_op_gate(mica_backend *base, bool is_tanh, const mica_tensor *x_MN,
                              const mica_tensor *shift_N, mica_tensor *y_MD, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_cuda_view x = mica_cuda_view_of(x_MN), y = mica_cuda_view_of(y_MD);
    if (x.n != 2 * y.n)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "gate: rows must be contiguous");
    return mica_cuda_check(
        mica_cuda_gate(is_tanh, &x, shift_N ? shift_N->data : NULL, &y, be->stream), "gate", err);
}

mica_status mica_cuda_op_relative_attention(mica_backend *base,
                                            const mica_relative_attention_args *a, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_tensor *q = a->q_LHK, *k = a->k_LHK, *v = a->v_LHK, *out = a->out_LHK;
    const void *rel_k, *rel_v;
    if (q->shape_[0] > MICA_CUDA_RELATIVE_MOST)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "relative_attention: %lld frames at once, the device takes %d; cut the "
                         "text into sentences",
                         (long long)q->shape_[0], MICA_CUDA_RELATIVE_MOST);
    MICA_TRY(mica_cuda_weight(be, a->rel_k_NK, MICA_CUDA_FORM_F32, &rel_k, err));
    MICA_TRY(mica_cuda_weight(be, a->rel_v_NK, MICA_CUDA_FORM_F32, &rel_v, err));
    const mica_cuda_relative_args args = {
        .q = q->data,
        .k = k->data,
        .v = v->data,
        .out = out->data,
        .type = mica_cuda_type_of(q->dtype),
        .q_stride = {q->stride_[0], q->stride_[1]},
        .k_stride = {k->stride_[0], k->stride_[1]},
        .v_stride = {v->stride_[0], v->stride_[1]},
        .out_stride = {out->stride_[0], out->stride_[1]},
        .rel_k = rel_k,
        .rel_v = rel_v,
        .L = (int)q->shape_[0],
        .H = (int)q->shape_[1],
        .K = (int)q->shape_[2],
        .N = (int)a->rel_k_NK->tensor.shape_[0],
        .scale = a->scale > 0.0f ? a->scale : 1.0f / sqrtf((float)q->shape_[2])};
    return mica_cuda_check(mica_cuda_relative(&args, be->stream), "relative_attention", err);
}
