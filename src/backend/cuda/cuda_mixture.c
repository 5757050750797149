/* cuda_mixture.c - a few rows' experts of any type of weights without a wait: the choice is taken on the device.
 *
 *     scratch   [choices][digits of x][gate: f32, then silu(gate) * up][up: f32][digits of that][down: f32]
 *               a row of the last four for each choice
 *
 * Up to 8 rows; gates, ups and downs are of one type each in all experts of a layer, without adapters. In fp8
 * precision float weights keep the way over the host, because there their form on the device is another. */
#include "backend/cuda/cuda_mixture.h"
#include "backend/cuda/cuda_backend.h"

#define ROWS_MOST 8 /* of x */

typedef struct mixture {
    mica_cuda_backend *be;
    const mica_experts_args *a;
    mica_cuda_view x;
    int64_t D, F;
    int rows; /* choices of all rows of x */
    mica_cuda_mixture_args args;
    mica_cuda_choice *choices;
    void *x_digits, *hidden_digits;
    float *gate, *down;
} mixture;

/* -------------------------------------------------------------------- fits -- */

/* All `count` matrices are on the device in one form, as the kernels take it. */
static bool alike(const mica_cuda_backend *be, const mica_weight *w, int64_t count)
{
    const mica_tensor *first = &w[0].tensor;
    const bool packed = mica_cuda_is_packed(first);
    if (first->ndim != 2 || first->shape_[1] % (packed ? 32 : 8) != 0 ||
        (!packed && (be->fp8 || w->exact)))
        return false;
    for (int64_t e = 0; e < count; e++) {
        const mica_tensor *t = &w[e].tensor;
        if (t->dtype != first->dtype || t->ndim != 2 || t->shape_[0] != first->shape_[0] ||
            t->shape_[1] != first->shape_[1] || t->scale.group != first->scale.group ||
            (t->scale.group && t->scale.dtype != first->scale.dtype) ||
            (packed && !mica_tensor_is_contiguous(t)) || w[e].adapters ||
            mica_cuda_is_streamed(&w[e]))
            return false;
    }
    return true;
}

static bool fits(const mica_cuda_backend *be, const mica_experts_args *a, const mica_cuda_view *x)
{
    const int64_t E = a->logits_LE->shape_[1];
    return be->fuse && !be->streaming && !be->capturing && a->by_row && x->rows <= ROWS_MOST &&
           x->wide && x->dims == 1 && x->n == a->x_LD->shape_[1] &&
           a->active <= MICA_CUDA_ACTIVE_MOST && E <= MICA_CUDA_EXPERTS_MOST &&
           mica_tensor_is_contiguous(a->logits_LE) && alike(be, a->gate_FD, E) &&
           alike(be, a->up_FD, E) && alike(be, a->down_DF, E) &&
           a->gate_FD->tensor.dtype == a->up_FD->tensor.dtype &&
           a->gate_FD->tensor.scale.group == a->up_FD->tensor.scale.group &&
           a->gate_FD->tensor.scale.dtype == a->up_FD->tensor.scale.dtype;
}

/* ----------------------------------------------------------------- products -- */

/* Every piece in its place; returns the bytes of all. */
static size_t lay_out(mixture *m, uint8_t *memory)
{
    const size_t rows = (size_t)m->rows, F = (size_t)m->F, D = (size_t)m->D;
    size_t used = 0;
    m->choices = mica_cuda_take(memory, &used, rows * sizeof *m->choices);
    m->x_digits = mica_cuda_take(memory, &used, (size_t)m->x.rows * mica_cuda_digits_size(m->D));
    m->gate = mica_cuda_take(memory, &used, 2 * rows * F * sizeof(float)); /* and up */
    m->hidden_digits = mica_cuda_take(memory, &used, rows * mica_cuda_digits_size(m->F));
    m->down = mica_cuda_take(memory, &used, rows * D * sizeof(float));
    return used;
}

/* Matrices [first, first + count) of each choice's expert times x, whose row serves `per_x` choices. */
static mica_status multiply(mixture *m, const mica_weight *w, const mica_cuda_view *x, void *digits,
                            int per_x, float *y, mica_err *err)
{
    const mica_tensor *t = &w->tensor;
    const bool is_down = w == m->a->down_DF;
    cudaStream_t stream = m->be->stream;
    m->args.first = is_down ? 2 : 0;
    m->args.count = is_down ? 1 : 2;
    m->args.per_x = per_x;
    m->args.y = y;
    if (!mica_cuda_is_packed(t))
        return mica_cuda_check(mica_cuda_mixture_plain(&m->args, mica_cuda_compute_type(m->be),
                                                       t->shape_[0], x, stream),
                               "experts", err);
    const mica_cuda_packed_rows rows = mica_cuda_packed_view(t, (void *)(uintptr_t)256);
    MICA_TRY(mica_cuda_check(mica_cuda_digits(x, rows.type, digits, stream), "experts", err));
    return mica_cuda_check(mica_cuda_mixture_packed(&m->args, &rows, digits, stream), "experts",
                           err);
}

static mica_status run(mixture *m, mica_err *err)
{
    mica_cuda_backend *be = m->be;
    const mica_experts_args *a = m->a;
    const mica_cuda_view gate = mica_cuda_view_matrix(m->gate, MICA_CUDA_F32, m->rows, m->F, m->F);
    const mica_cuda_view up =
        mica_cuda_view_matrix(m->gate + m->rows * m->F, MICA_CUDA_F32, m->rows, m->F, m->F);
    const mica_cuda_view y = mica_cuda_view_of(a->y_LD);
    MICA_TRY(mica_cuda_check(mica_cuda_mixture_choose(a->logits_LE->data, (int)m->x.rows,
                                                      (int)a->logits_LE->shape_[1], a->active,
                                                      m->choices, be->stream),
                             "choosing experts", err));
    MICA_TRY(multiply(m, a->gate_FD, &m->x, m->x_digits, a->active, m->gate, err));
    MICA_TRY(
        mica_cuda_check(mica_cuda_pointwise(MICA_CUDA_POINT_SWIGLU, &gate, &up, &gate, be->stream),
                        "experts", err));
    MICA_TRY(multiply(m, a->down_DF, &gate, m->hidden_digits, 1, m->down, err));
    return mica_cuda_check(mica_cuda_mixture_add(m->choices, a->active, m->down, &y, be->stream),
                           "experts", err);
}

mica_status mica_cuda_mixture(mica_cuda_backend *be, const mica_experts_args *a, bool *taken,
                              mica_err *err)
{
    mixture m = {.be = be,
                 .a = a,
                 .x = mica_cuda_view_of(a->x_LD),
                 .D = a->x_LD->shape_[1],
                 .F = a->gate_FD[0].tensor.shape_[0],
                 .rows = (int)a->x_LD->shape_[0] * a->active};
    const void *addresses;
    void *memory;
    *taken = fits(be, a, &m.x);
    if (!*taken)
        return MICA_OK;
    MICA_TRY(mica_cuda_twin_settle(be, &m.x, err));
    MICA_TRY(mica_cuda_expert_addresses(be, a, (int)a->logits_LE->shape_[1], &addresses, err));
    MICA_TRY(mica_cuda_scratch(be, lay_out(&m, NULL), &memory, err));
    (void)lay_out(&m, memory);
    m.args = (mica_cuda_mixture_args){.experts = addresses, .choices = m.choices, .rows = m.rows};
    return run(&m, err);
}
