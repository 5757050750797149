/* cuda_residual.c - a gated sum waits for the norm behind it, so that both are one kernel.
 *
 *     linear with gate and residual ─┐ sums in scratch   ┌─ next in the branch: norm of y ──► one kernel
 *     rms_norm_gated ────────────────┴─ pending[branch] ─┴─ anything else: the sum first, then that
 *
 * Nobody sees the difference: backend.c finishes a waiting sum (ops->settle) in front of every operation but
 * norms, and what frees memory, leaves a branch or records does so too. What the sum reads (scratch of its branch,
 * tensors of the pools, vectors) stays as it is until then, because only operations write.
 *
 * Where blocks are streamed nothing waits: a bias lies in a window that moves on. After a failure the sum is
 * forgotten (base.unsettled). */
#include "backend/cuda/cuda_backend.h"

static bool is_plain(const mica_cuda_view *v)
{
    return v->wide && v->dims == 1 && v->type == MICA_CUDA_BF16 && v->n <= MICA_CUDA_RESIDUAL_MOST;
}

bool mica_cuda_residual_defer(mica_cuda_backend *be, const mica_cuda_residual_args *args,
                              const char *name)
{
    const mica_cuda_view *y = &args->y, *const others[] = {&args->from, &args->residual};
    bool fits = be->fuse && !be->streaming && is_plain(y);
    for (size_t i = 0; i < MICA_ARRAY_LEN(others); i++)
        fits = fits && is_plain(others[i]) && others[i]->rows == y->rows && others[i]->n == y->n;
    if (!fits)
        return false;
    if (!be->base.unsettled) /* what a failure left behind */
        be->pending[0].is_waiting = be->pending[1].is_waiting = false;
    be->pending[be->branch] = (mica_cuda_pending){.is_waiting = true, .args = *args, .name = name};
    be->base.unsettled = true;
    return true;
}

/* What waits in a branch, which waits no longer; false: nothing. */
static bool take(mica_cuda_backend *be, int branch, mica_cuda_pending *out)
{
    if (!be->base.unsettled)
        be->pending[0].is_waiting = be->pending[1].is_waiting = false;
    *out = be->pending[branch];
    be->pending[branch].is_waiting = false;
    be->base.unsettled = be->pending[0].is_waiting || be->pending[1].is_waiting;
    return out->is_waiting;
}

static mica_status finish(mica_cuda_backend *be, int branch, const mica_cuda_pending *p,
                          mica_err *err)
{
    const mica_cuda_residual_args *a = &p->args;
    if (a->normed) {
        const mica_cuda_norm_args norm = {.kind = MICA_CUDA_NORM_GATED,
                                          .x = a->from,
                                          .y = a->y,
                                          .w = a->w,
                                          .scale = a->gate,
                                          .eps = a->eps};
        return mica_cuda_check(mica_cuda_norm(&norm, be->streams[branch]), p->name, err);
    }
    const mica_cuda_epilogue_args late = {
        .acc = a->from, .residual = a->residual, .y = a->y, .bias = a->bias, .gate = a->gate};
    return mica_cuda_check(mica_cuda_epilogue(&late, be->streams[branch]), p->name, err);
}

mica_status mica_cuda_residual_settle(mica_cuda_backend *be, int branch, mica_err *err)
{
    mica_cuda_pending p;
    return take(be, branch, &p) ? finish(be, branch, &p, err) : MICA_OK;
}

mica_status mica_cuda_op_settle(mica_backend *base, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    return mica_cuda_residual_settle(be, be->branch, err);
}

mica_status mica_cuda_residual_norm(mica_cuda_backend *be, const mica_cuda_norm_args *norm,
                                    bool *done, mica_err *err)
{
    mica_cuda_pending p;
    *done = false;
    if (!take(be, be->branch, &p))
        return MICA_OK;
    *done = mica_cuda_residual_fits(&p.args, norm);
    if (!*done)
        return finish(be, be->branch, &p, err);
    return mica_cuda_check(mica_cuda_residual_and_norm(&p.args, norm, be->stream), p.name, err);
}
