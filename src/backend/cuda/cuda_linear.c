/* cuda_linear.c - y = residual + gate * act(x w^T + bias) through cuBLASLt.
 *
 *     row-major y[M, O] = x[M, D] w[O, D]^T      is column-major   y'[O, M] = w'^T x'
 *
 *     direct    cuBLASLt writes y itself: bias, tanh-GELU behind it, or a residual (beta = 1); for a prompt's few
 *               rows a kernel of our own does (cuda_prompt.c)
 *     late      cuBLASLt writes sums to scratch, cuda_point.cu adds the rest, or for a gate and residual the
 *               norm behind it does (cuda_residual.c): gates, SiLU,
 *               erf-GELU, f32 mode, mixtures of types, rows of y that 16 bytes do not divide
 *
 * x goes in place where its rows start on 16 bytes and it has the compute type; else it is
 * converted into scratch, padded like the weight. Sums on the late way have the type of the
 * compute precision, as PyTorch's do.
 *
 * Napkin: the late way moves y twice more: 4,096 x 3,072 in bf16 25 us beside a product of
 * 0.11 to 0.45 ms. Two of a block's gated linears go that way: about 3 % of a Qwen-Image pass. */
#include "backend/cuda/cuda_backend.h"

static bool aligned(const mica_cuda_view *v)
{
    return v->dims == 1 && (uintptr_t)v->data % 16 == 0 &&
           (v->rows == 1 || (size_t)v->stride[0] * mica_cuda_type_size(v->type) % 16 == 0);
}

static mica_cuda_type type_of(const mica_cuda_backend *be, const mica_cuda_product *p)
{
    return p->exact ? MICA_CUDA_F32 : mica_cuda_compute_type(be);
}

/* Leading dimension of an aligned view; one row has no stride of its own. */
static int64_t ld_of(const mica_cuda_view *v)
{
    return v->rows > 1 ? v->stride[0] : mica_cuda_round8(v->n);
}

static size_t x_bytes(const mica_cuda_backend *be, const mica_cuda_product *p)
{
    if (!p->convert_x)
        return 0;
    return mica_cuda_align((size_t)(p->x.rows * p->ld) * mica_cuda_type_size(type_of(be, p)));
}

/* Type of the sums: that of y where it is wider; f32 where more is added to them. */
static mica_cuda_type sum_type(const mica_cuda_backend *be, const mica_cuda_product *p)
{
    const bool narrow =
        type_of(be, p) == MICA_CUDA_BF16 && p->y.type == MICA_CUDA_BF16 && !p->side_rank;
    return narrow ? MICA_CUDA_BF16 : MICA_CUDA_F32;
}

static size_t side_bytes(const mica_cuda_backend *be, const mica_cuda_product *p)
{
    return mica_cuda_align((size_t)(p->y.rows * p->side_rank) *
                           mica_cuda_type_size(type_of(be, p)));
}

size_t mica_cuda_product_plan(mica_cuda_backend *be, mica_cuda_product *p)
{
    const bool rest = p->bias || p->act != MICA_ACT_NONE || p->residual.data || p->gate;
    /* What cuBLASLt's epilogue does exactly as the contract says. */
    const bool fits =
        type_of(be, p) == MICA_CUDA_BF16 && be->fuse && p->y.type == MICA_CUDA_BF16 && !p->gate &&
        (p->act == MICA_ACT_NONE || (p->act == MICA_ACT_GELU_TANH && !p->residual.data)) &&
        (!p->residual.data || (p->residual.type == MICA_CUDA_BF16 && aligned(&p->residual)));
    p->direct = aligned(&p->y) && (!rest || fits) && !p->side_rank && sum_type(be, p) == p->y.type;
    p->convert_x = p->x.type != type_of(be, p) || !aligned(&p->x) || p->ld != p->x.n;
    const size_t sums =
        (size_t)(p->y.rows * mica_cuda_round8(p->outputs)) * mica_cuda_type_size(sum_type(be, p));
    return x_bytes(be, p) + (p->direct ? 0 : mica_cuda_align(sums)) + side_bytes(be, p);
}

/* x as [rows][ld] of the compute type, zeros behind its columns. */
static mica_status convert_x(mica_cuda_backend *be, const mica_cuda_product *p, void *to,
                             mica_err *err)
{
    const mica_cuda_type type = type_of(be, p);
    if (p->ld != p->x.n)
        MICA_TRY(mica_cuda_check(cudaMemsetAsync(to, 0, x_bytes(be, p), be->stream),
                                 "padding an input", err));
    mica_cuda_copy_args c = {.src = p->x.data,
                             .dst = to,
                             .src_type = p->x.type,
                             .dst_type = type,
                             .dims = p->x.dims + 1};
    int64_t step = p->ld;
    for (int d = p->x.dims - 1; d >= 0; d--) {
        c.shape[d] = p->x.shape[d];
        c.src_stride[d] = p->x.stride[d];
        c.dst_stride[d] = step;
        step *= p->x.shape[d];
    }
    c.shape[p->x.dims] = p->x.n;
    c.src_stride[p->x.dims] = c.dst_stride[p->x.dims] = 1;
    c.wide = p->x.wide && p->ld % 8 == 0;
    return mica_cuda_check(mica_cuda_copy_strided(&c, be->stream), "converting an input", err);
}

/* What stands beside the product, into its sums; t: scratch for x down^T. product: as it ran. */
static mica_status add_side(mica_cuda_backend *be, const mica_cuda_product *p,
                            const mica_cuda_gemm *product, void *t, mica_err *err)
{
    const int64_t rank = p->side_rank;
    mica_cuda_gemm down = *product, up = *product;
    if (!rank)
        return MICA_OK;
    down.m = rank;
    down.a = p->down;
    down.d = t;
    down.d_type = product->type;
    down.ldd = rank;
    MICA_TRY(mica_cuda_gemm_run(be, &down, p->name, err));
    up.k = up.lda = up.ldb = rank;
    up.a = p->up;
    up.b = t;
    up.c = up.d;
    up.ldc = up.ldd;
    return mica_cuda_gemm_run(be, &up, p->name, err);
}

mica_status mica_cuda_product_run(mica_cuda_backend *be, const mica_cuda_product *p, void *scratch,
                                  mica_err *err)
{
    const mica_cuda_type type = type_of(be, p);
    void *sums = (uint8_t *)scratch + x_bytes(be, p);
    mica_cuda_gemm g = {.m = p->outputs,
                        .n = p->y.rows,
                        .k = p->ld,
                        .transpose_a = true,
                        .type = type,
                        .d_type = sum_type(be, p),
                        .a = p->w,
                        .b = p->convert_x ? scratch : p->x.data,
                        .lda = p->ld,
                        .ldb = p->convert_x ? p->ld : ld_of(&p->x)};
    if (p->convert_x)
        MICA_TRY(convert_x(be, p, scratch, err));
    if (p->direct) {
        g.d = p->y.data;
        g.ldd = ld_of(&p->y);
        g.gelu = p->act == MICA_ACT_GELU_TANH;
        if (p->residual.data) {
            g.c = p->residual.data;
            g.ldc = ld_of(&p->residual);
        }
        bool taken;
        MICA_TRY(mica_cuda_prompt_linear(be, p, &g, &taken, err));
        if (taken)
            return MICA_OK;
        MICA_TRY(mica_cuda_weight(be, p->bias, MICA_CUDA_FORM_BF16, &g.bias, err));
        return mica_cuda_gemm_run(be, &g, p->name, err);
    }
    const void *bias;
    g.d = sums;
    g.ldd = mica_cuda_round8(p->outputs);
    MICA_TRY(mica_cuda_weight(be, p->bias, MICA_CUDA_FORM_F32, &bias, err));
    MICA_TRY(mica_cuda_gemm_run(be, &g, p->name, err));
    MICA_TRY(add_side(be, p, &g,
                      (uint8_t *)sums + mica_cuda_align((size_t)(p->y.rows * g.ldd) *
                                                        mica_cuda_type_size(g.d_type)),
                      err));
    const mica_cuda_residual_args gated = {
        .from = mica_cuda_view_matrix(sums, g.d_type, p->y.rows, p->outputs, g.ldd),
        .residual = p->residual,
        .y = p->y,
        .bias = bias,
        .gate = p->gate};
    if (p->gate && p->act == MICA_ACT_NONE && mica_cuda_residual_defer(be, &gated, p->name))
        return MICA_OK;
    const mica_cuda_epilogue_args late = {.acc = gated.from,
                                          .residual = p->residual,
                                          .y = p->y,
                                          .bias = bias,
                                          .gate = p->gate,
                                          .act = (mica_cuda_act)p->act};
    return mica_cuda_check(mica_cuda_epilogue(&late, be->stream), p->name, err);
}

mica_status mica_cuda_op_linear(mica_backend *base, const mica_linear_args *args, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_tensor *w = &args->w_OD->tensor;
    mica_cuda_product p = {.name = args->w_OD->name ? args->w_OD->name : "linear",
                           .x = mica_cuda_view_of(args->x_MD),
                           .y = mica_cuda_view_of(args->y_MO),
                           .ld = mica_cuda_round8(w->shape_[1]),
                           .outputs = w->shape_[0],
                           .bias = args->bias_O,
                           .gate = args->gate_O ? args->gate_O->data : NULL,
                           .act = args->act,
                           .exact = args->w_OD->exact && !mica_cuda_is_packed(w)};
    void *scratch;
    if (mica_cuda_fp8_fits(be, args))
        return mica_cuda_linear_fp8(be, args, err);
    MICA_TRY(mica_cuda_twin_settle(be, &p.x, err));
    if (args->residual_MO)
        p.residual = mica_cuda_view_of(args->residual_MO);
    if (p.x.n != w->shape_[1] || p.y.n != p.outputs || (p.residual.data && p.residual.n != p.y.n))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: rows of a linear must be contiguous",
                         p.name);
    bool taken = false;
    MICA_TRY(mica_cuda_few_rows(be, args, &p, &taken, err));
    if (taken)
        return MICA_OK;
    if (mica_cuda_is_packed(w))
        return mica_cuda_packed_linear(be, args, &p, err);
    MICA_TRY(mica_cuda_weight(be, args->w_OD, MICA_CUDA_FORM_MATRIX, &p.w, err));
    MICA_TRY(mica_cuda_scratch(be, mica_cuda_product_plan(be, &p), &scratch, err));
    return mica_cuda_product_run(be, &p, scratch, err);
}
