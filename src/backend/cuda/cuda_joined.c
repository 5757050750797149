/* cuda_joined.c - several linears of one input as one product.
 *
 *     w[0] [O0, D] ┐                             y[0]   y[1]   y[2]
 *     w[1] [O1, D] ├ behind each other      x ─► [M, O0][M, O1][M, O2]   columns of one tensor
 *     w[2] [O2, D] ┘ (cuda_prepare.c)
 *
 * Each weight keeps a form of its own, so that it may be shared, dropped or used alone; that they touch is all
 * that is needed. Where they do not (they came one by one, some are packed or in another precision), the linears run
 * one after the other.
 *
 * Napkin: q, k, v of Qwen2.5-VL-7B for 98 rows: 18 + 12 + 12 us apart, the last two far from any limit;
 * 16 us together. Of Qwen-Image at 1,024 x 1,024: 3 x 101 us apart, 294 together (fewer waves). */
#include "backend/cuda/cuda_backend.h"

#define MOST MICA_CUDA_JOINED_MOST

static bool is_simple(const mica_linear_args *a, const mica_linear_args *first)
{
    const mica_tensor *w = &a->w_OD->tensor;
    return a->act == MICA_ACT_NONE && !a->residual_MO && !a->by_row && !a->w_OD->exact &&
           mica_dtype_get(w->dtype)->is_float && w->ndim == 2 && w->stride_[1] == 1 &&
           w->shape_[0] % 16 == 0 && !a->bias_O == !first->bias_O &&
           a->x_MD->data == first->x_MD->data && a->y_MO->dtype == first->y_MO->dtype;
}

/* The y side by side, as one view. */
static bool view_of_all(const mica_linear_args *args, int count, mica_cuda_view *y)
{
    int64_t columns = 0;
    *y = mica_cuda_view_of(args[0].y_MO);
    for (int i = 0; i < count; i++) {
        const mica_cuda_view v = mica_cuda_view_of(args[i].y_MO);
        const size_t at = (size_t)columns * mica_cuda_type_size(y->type);
        if (v.dims != 1 || v.rows != y->rows || v.n != args[i].w_OD->tensor.shape_[0] ||
            (uint8_t *)v.data != (uint8_t *)y->data + at ||
            (v.rows > 1 && v.stride[0] != y->stride[0]))
            return false;
        columns += v.n;
    }
    const int64_t ld = y->rows > 1 ? y->stride[0] : columns;
    *y = mica_cuda_view_matrix(y->data, y->type, y->rows, columns, ld);
    return true;
}

/* All biases in a form; *joined false: they lie apart. No biases are joined. */
static mica_status join_biases(mica_cuda_backend *be, const mica_linear_args *args, int count,
                               mica_cuda_form form, bool *joined, mica_err *err)
{
    mica_weight *biases[MOST];
    const void *first = NULL;
    *joined = !args[0].bias_O;
    if (*joined)
        return MICA_OK;
    for (int i = 0; i < count; i++)
        biases[i] = args[i].bias_O;
    MICA_TRY(mica_cuda_weights_join(be, biases, count, form, &first, NULL, err));
    *joined = first != NULL;
    return MICA_OK;
}

typedef struct together {
    mica_cuda_view y;
    bool fp8;
    const void *w;
    const float *scale;
} together;

/* Whether they can be one product; its weights. */
static mica_status prepare(mica_cuda_backend *be, const mica_linear_args *args, int count,
                           together *t, bool *fits, mica_err *err)
{
    mica_weight *weights[MOST];
    int in_fp8 = 0;
    *fits = count > 1 && count <= MOST && view_of_all(args, count, &t->y);
    for (int i = 0; i < count && *fits; i++) {
        weights[i] = args[i].w_OD;
        in_fp8 += mica_cuda_fp8_fits(be, &args[i]);
        *fits = is_simple(&args[i], &args[0]);
    }
    t->fp8 = in_fp8 > 0;
    *fits = *fits && (in_fp8 == 0 || in_fp8 == count);
    if (!*fits)
        return MICA_OK;
    MICA_TRY(mica_cuda_weights_join(be, weights, count,
                                    t->fp8 ? MICA_CUDA_FORM_FP8 : MICA_CUDA_FORM_MATRIX, &t->w,
                                    t->fp8 ? &t->scale : NULL, err));
    *fits = t->w != NULL;
    for (int f = 0; f < 2 && *fits; f++) /* which one is used the shapes tell later */
        MICA_TRY(
            join_biases(be, args, count, f ? MICA_CUDA_FORM_BF16 : MICA_CUDA_FORM_F32, fits, err));
    return MICA_OK;
}

static mica_status run_together(mica_cuda_backend *be, const mica_linear_args *args,
                                const together *t, mica_err *err)
{
    mica_cuda_product p = {.name = args->w_OD->name ? args->w_OD->name : "linear",
                           .x = mica_cuda_view_of(args->x_MD),
                           .y = t->y,
                           .w = t->w,
                           .ld = mica_cuda_round8(args->w_OD->tensor.shape_[1]),
                           .outputs = t->y.n,
                           .bias = args->bias_O};
    void *scratch;
    if (t->fp8)
        return mica_cuda_linears_fp8(be, args, &t->y, t->w, t->scale, err);
    MICA_TRY(mica_cuda_twin_settle(be, &p.x, err));
    if (p.x.n != args->w_OD->tensor.shape_[1])
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: rows of a linear must be contiguous",
                         p.name);
    MICA_TRY(mica_cuda_scratch(be, mica_cuda_product_plan(be, &p), &scratch, err));
    return mica_cuda_product_run(be, &p, scratch, err);
}

mica_status mica_cuda_op_linears(mica_backend *base, const mica_linear_args *args, int count,
                                 mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    together t = {0};
    bool fits;
    MICA_TRY(mica_cuda_tile_linears(be, args, count, &fits, err));
    if (fits)
        return MICA_OK;
    MICA_TRY(prepare(be, args, count, &t, &fits, err));
    if (fits)
        return run_together(be, args, &t, err);
    for (int i = 0; i < count; i++) {
        base->counters.ops += i > 0; /* a twin of x goes from one to the next */
        MICA_TRY(mica_cuda_op_linear(base, &args[i], err));
    }
    return MICA_OK;
}
