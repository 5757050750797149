/* cuda_rows.c - the slots whose work is rows: norms, rotation, pointwise operations, sums.
 *
 *     slot(tensors, weights)  ──►  views and device vectors  ──►  one kernel
 *
 * Weight vectors are f32 on the device, whatever their file holds: a kernel reads them once per
 * row from the L1, and the arithmetic is f32 anyway. State vectors (scales, shifts, gates) are. */
#include "backend/cuda/cuda_backend.h"

static const float *state(const mica_tensor *t)
{
    return t ? t->data : NULL;
}

static mica_status vector(mica_cuda_backend *be, mica_weight *w, const float **out, mica_err *err)
{
    const void *p;
    MICA_TRY(mica_cuda_weight(be, w, MICA_CUDA_FORM_F32, &p, err));
    *out = p;
    return MICA_OK;
}

/* ------------------------------------------------------------------ norms -- */

static mica_status run_norm(mica_backend *base, mica_cuda_norm_args *a, const mica_tensor *x,
                            mica_weight *w, const mica_tensor *y, const char *name, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    a->x = mica_cuda_view_of(x);
    a->y = mica_cuda_view_of(y);
    if (a->x.n != x->shape_[x->ndim - 1] || a->y.n != a->x.n)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: rows must be contiguous", name);
    MICA_TRY(vector(be, w, &a->w, err));
    if (be->fp8 && a->kind <= MICA_CUDA_NORM_RMS && mica_cuda_norm_quantizes(a)) {
        MICA_TRY(mica_cuda_twin_open(be, &a->y, &a->q, &a->q_scale, err));
        a->q_ld = a->y.n;
        a->q_only = a->q && base->is_operand;
    }
    bool done = false;
    if (a->kind <= MICA_CUDA_NORM_RMS)
        MICA_TRY(mica_cuda_residual_norm(be, a, &done, err));
    if (done)
        return MICA_OK;
    return mica_cuda_check(mica_cuda_norm(a, be->stream), name, err);
}

mica_status mica_cuda_op_layer_norm_modulate(mica_backend *be, const mica_tensor *x_MD,
                                             const mica_tensor *scale_D, const mica_tensor *shift_D,
                                             float eps, mica_tensor *y_MD, mica_err *err)
{
    mica_cuda_norm_args a = {
        .kind = MICA_CUDA_NORM_LAYER, .scale = state(scale_D), .shift = state(shift_D), .eps = eps};
    return run_norm(be, &a, x_MD, NULL, y_MD, "layer_norm_modulate", err);
}

mica_status mica_cuda_op_rms_norm_modulate(mica_backend *be, const mica_tensor *x_MD,
                                           mica_weight *w_D, const mica_tensor *scale_D, float eps,
                                           mica_tensor *y_MD, mica_err *err)
{
    mica_cuda_norm_args a = {.kind = MICA_CUDA_NORM_RMS, .scale = state(scale_D), .eps = eps};
    return run_norm(be, &a, x_MD, w_D, y_MD, "rms_norm_modulate", err);
}

mica_status mica_cuda_op_rms_norm_gated(mica_backend *be, const mica_tensor *x_MD, mica_weight *w_D,
                                        const mica_tensor *gate_D, float eps, mica_tensor *y_MD,
                                        mica_err *err)
{
    mica_cuda_norm_args a = {.kind = MICA_CUDA_NORM_GATED, .scale = state(gate_D), .eps = eps};
    mica_cuda_residual_args later = {.normed = true,
                                     .from = mica_cuda_view_of(x_MD),
                                     .residual = mica_cuda_view_of(y_MD),
                                     .gate = state(gate_D),
                                     .eps = eps};
    later.y = later.residual;
    MICA_TRY(vector(mica_cuda_from(be), w_D, &later.w, err));
    if (mica_cuda_residual_defer(mica_cuda_from(be), &later, "rms_norm_gated"))
        return MICA_OK;
    return run_norm(be, &a, x_MD, w_D, y_MD, "rms_norm_gated", err);
}

static mica_status none_or_silu(const char *name, mica_act act, mica_err *err)
{
    if (act == MICA_ACT_NONE || act == MICA_ACT_SILU)
        return MICA_OK;
    return MICA_FAIL(err, MICA_E_INTERNAL, "%s: activation %d; none or silu", name, (int)act);
}

mica_status mica_cuda_op_l2_norm_channels(mica_backend *be, const mica_tensor *x_MC,
                                          mica_weight *gamma_C, mica_act act, mica_tensor *y_MC,
                                          mica_err *err)
{
    const char *name = "l2_norm_channels";
    mica_cuda_norm_args a = {.kind = MICA_CUDA_NORM_L2, .act = (mica_cuda_act)act};
    const mica_cuda_view x = mica_cuda_view_of(x_MC), y = mica_cuda_view_of(y_MC);
    cudaError_t error;
    MICA_TRY(none_or_silu(name, act, err));
    MICA_TRY(vector(mica_cuda_from(be), gamma_C, &a.w, err));
    if (mica_cuda_unit_rows(&x, a.w, a.act, &y, mica_cuda_from(be)->stream, &error))
        return mica_cuda_check(error, name, err);
    return run_norm(be, &a, x_MC, gamma_C, y_MC, name, err);
}

/* ------------------------------------------------------------- group norm -- */

mica_status mica_cuda_op_group_moments(mica_backend *base, const mica_tensor *x_YXC,
                                       mica_tensor *moments_YG2, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_cuda_type type = mica_cuda_type_of(x_YXC->dtype);
    const int Y = (int)x_YXC->shape_[0], X = (int)x_YXC->shape_[1], C = (int)x_YXC->shape_[2];
    const int G = (int)moments_YG2->shape_[1];
    cudaError_t error;
    if (!mica_cuda_row_moments(x_YXC->data, type, Y, X, C, G, moments_YG2->data, be->stream,
                               &error))
        error =
            mica_cuda_group_moments(x_YXC->data, type, Y, X, C, G, moments_YG2->data, be->stream);
    return mica_cuda_check(error, "group_moments", err);
}

mica_status mica_cuda_op_group_norm(mica_backend *base, const mica_group_norm_args *args,
                                    mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_tensor *m = args->moments_YG2, *x = args->x_YXC;
    const int C = (int)x->shape_[2], G = (int)m->shape_[1];
    const float *gamma, *beta;
    void *scratch;
    MICA_TRY(none_or_silu("group_norm", args->act, err));
    if (!mica_tensor_is_contiguous(args->y_YXC))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "group_norm needs a contiguous output");
    MICA_TRY(vector(be, args->gamma_C, &gamma, err));
    MICA_TRY(vector(be, args->beta_C, &beta, err));
    const size_t part = mica_cuda_align((size_t)C * sizeof(float));
    MICA_TRY(mica_cuda_scratch(be, 2 * part, &scratch, err));
    float *scale = scratch, *shift = (float *)(void *)((uint8_t *)scratch + part);
    MICA_TRY(mica_cuda_check(mica_cuda_group_affine(m->data, (int)m->shape_[0], G, C,
                                                    x->shape_[1] * (C / G), args->eps, gamma, beta,
                                                    scale, shift, be->stream),
                             "group_norm", err));
    const mica_cuda_act act = (mica_cuda_act)args->act;
    const mica_cuda_view in = mica_cuda_view_matrix(x->data, mica_cuda_type_of(x->dtype),
                                                    x->shape_[0] * x->shape_[1], C, C);
    const mica_cuda_view out = mica_cuda_view_matrix(
        args->y_YXC->data, mica_cuda_type_of(args->y_YXC->dtype), in.rows, C, C);
    cudaError_t error;
    if (!mica_cuda_channel_map(&in, scale, shift, act, NULL, &out, be->stream, &error))
        error = mica_cuda_channel_affine(&in, scale, shift, act, &out, be->stream);
    return mica_cuda_check(error, "group_norm", err);
}

/* --------------------------------------------------------------- rotation -- */

static mica_status heads_of(mica_cuda_backend *be, const mica_tensor *x, mica_weight *norm,
                            mica_cuda_heads *out, mica_err *err)
{
    *out = (mica_cuda_heads){
        .x = x->data, .H = (int)x->shape_[1], .stride_l = x->stride_[0], .stride_h = x->stride_[1]};
    if (x->stride_[2] != 1)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "qk_norm_rope: heads must be contiguous");
    return vector(be, norm, &out->w, err);
}

mica_status mica_cuda_op_qk_norm_rope(mica_backend *base, const mica_qk_norm_rope_args *args,
                                      mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_tensor *x = args->x_LHK, *table = args->cos_Lk;
    mica_cuda_rope_args a = {.type = mica_cuda_type_of(x->dtype),
                             .L = x->shape_[0],
                             .K = (int)x->shape_[2],
                             .eps = args->eps,
                             .cos = state(args->cos_Lk),
                             .sin = state(args->sin_Lk),
                             .interleaved = args->layout == MICA_ROPE_INTERLEAVED};
    MICA_TRY(heads_of(be, x, args->norm_K, &a.part[0], err));
    if (args->also_LHK)
        MICA_TRY(heads_of(be, args->also_LHK, args->also_norm_K, &a.part[1], err));
    if (table)
        a.table_stride = table->ndim > 1 ? table->stride_[table->ndim - 2] : x->shape_[2] / 2;
    return mica_cuda_check(mica_cuda_rope(&a, be->stream), "qk_norm_rope", err);
}

/* -------------------------------------------------------------- pointwise -- */

static mica_status run_point(mica_backend *base, mica_cuda_point op, const mica_tensor *a,
                             const mica_tensor *b, const mica_tensor *y, const char *name,
                             mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    mica_cuda_view p = mica_cuda_view_of(a), q = mica_cuda_view_of(b), out = mica_cuda_view_of(y);
    mica_cuda_view *const views[] = {&p, &q, &out};
    if (p.n != out.n || q.n != out.n)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: rows must be contiguous", name);
    mica_cuda_flatten(views, 3);
    return mica_cuda_check(mica_cuda_pointwise(op, &p, &q, &out, be->stream), name, err);
}

mica_status mica_cuda_op_silu(mica_backend *be, const mica_tensor *x, mica_tensor *y, mica_err *err)
{
    return run_point(be, MICA_CUDA_POINT_SILU, x, x, y, "silu", err);
}

mica_status mica_cuda_op_tanh(mica_backend *be, const mica_tensor *x, mica_tensor *y, mica_err *err)
{
    return run_point(be, MICA_CUDA_POINT_TANH, x, x, y, "tanh", err);
}

mica_status mica_cuda_op_swiglu(mica_backend *base, const mica_tensor *gate, const mica_tensor *up,
                                mica_tensor *y, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    mica_cuda_quantize_args a = {.kind = MICA_CUDA_OPERAND_SWIGLU,
                                 .x = mica_cuda_view_of(gate),
                                 .up = mica_cuda_view_of(up)};
    const mica_cuda_view out = mica_cuda_view_of(y);
    a.ld = out.n;
    if (be->fp8 && base->is_operand && a.x.wide && a.up.wide) {
        MICA_TRY(mica_cuda_twin_open(be, &out, &a.q, &a.scale, err));
        if (a.q)
            return mica_cuda_check(mica_cuda_quantize(&a, be->stream), "swiglu", err);
    }
    return run_point(base, MICA_CUDA_POINT_SWIGLU, gate, up, y, "swiglu", err);
}

mica_status mica_cuda_op_add(mica_backend *be, const mica_tensor *a, const mica_tensor *b,
                             mica_tensor *y, mica_err *err)
{
    return run_point(be, MICA_CUDA_POINT_ADD, a, b, y, "add", err);
}

mica_status mica_cuda_op_mul(mica_backend *be, const mica_tensor *a, const mica_tensor *b,
                             mica_tensor *y, mica_err *err)
{
    return run_point(be, MICA_CUDA_POINT_MUL, a, b, y, "mul", err);
}

/* ------------------------------------------------------ sums and guidance -- */

mica_status mica_cuda_op_linear_combination(mica_backend *base, int n, const float *coef,
                                            const mica_tensor *const *x, mica_tensor *y,
                                            mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const float *from[6];
    bool plain = y->dtype == MICA_DTYPE_F32 && mica_tensor_is_contiguous(y);
    for (int i = 0; i < n; i++) {
        from[i] = x[i]->data;
        plain = plain && x[i]->dtype == MICA_DTYPE_F32 && mica_tensor_is_contiguous(x[i]);
    }
    if (!plain)
        return MICA_FAIL(err, MICA_E_INTERNAL,
                         "linear_combination: a tensor is not contiguous f32");
    return mica_cuda_check(
        mica_cuda_combine(n, coef, from, y->data, mica_tensor_count(y), be->stream),
        "linear_combination", err);
}

mica_status mica_cuda_op_cfg_combine(mica_backend *base, const mica_tensor *cond_PC,
                                     const mica_tensor *uncond_PC, float scale, bool renorm,
                                     mica_tensor *out_PC, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_cuda_view c = mica_cuda_view_of(cond_PC), u = mica_cuda_view_of(uncond_PC);
    const mica_cuda_view out = mica_cuda_view_of(out_PC);
    if (c.n != out.n || u.n != out.n)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "cfg_combine: rows must be contiguous");
    return mica_cuda_check(mica_cuda_guide(&c, &u, scale, renorm, &out, be->stream), "cfg_combine",
                           err);
}

mica_status mica_cuda_op_limit_norm(mica_backend *base, const mica_tensor *reference_PC,
                                    float limit, mica_tensor *y_PC, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_cuda_view r = mica_cuda_view_of(reference_PC), y = mica_cuda_view_of(y_PC);
    if (r.n != y.n)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "limit_norm: rows must be contiguous");
    return mica_cuda_check(mica_cuda_limit(&r, limit, &y, be->stream), "limit_norm", err);
}

mica_status mica_cuda_op_largest(mica_backend *base, const mica_tensor *x_LV, mica_tensor *ids_L,
                                 mica_err *err)
{
    return mica_cuda_check(mica_cuda_largest(x_LV->data, x_LV->shape_[0], x_LV->shape_[1],
                                             x_LV->stride_[0], ids_L->data,
                                             mica_cuda_from(base)->stream),
                           "largest", err);
}
