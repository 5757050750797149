/* cuda_swiglu.c - gate, up and SwiGLU of large inputs as one kernel (cuda_swiglu.cu); when, and with what maps.
 *
 *     mica_linear_swiglu ──► here: bf16 in and out, plain weights, capability 9.0, four tiles a multiprocessor
 *                     │      ├──► tensor maps of x, gate, up and y ──► mica_cuda_swiglu_product
 *                     │      └──► a prompt's few rows: mica_cuda_prompt_swiglu (cuda_prompt.c)
 *                     └ else linears through cuBLASLt, then SwiGLU (backend.c)
 *
 * Below four tiles of 128 x 128 a multiprocessor the last round of tiles weighs too much; cuBLASLt has smaller ones.
 * One weight with the rows of both, gate first, is two maps of it. */
#include "backend/cuda/cuda_backend.h"

#if MICA_CUDA_HOPPER
#include "backend/cuda/cuda_maps.h"
#include "backend/cuda/cuda_prompt.h"
#include "backend/cuda/cuda_swiglu.h"

#define FEWEST_TILES 4                  /* a multiprocessor */
#define MOST         ((int64_t)1 << 20) /* rows, columns: tiles are counted in int */

static bool is_matrix(const mica_cuda_view *v)
{
    return v->type == MICA_CUDA_BF16 && v->dims == 1 && v->wide && v->rows <= MOST && v->n <= MOST;
}

static int64_t ld_of(const mica_cuda_view *v)
{
    return v->rows > 1 ? v->stride[0] : v->n;
}

static bool is_plain(const mica_linear_args *a, const mica_linear_args *first)
{
    const mica_tensor *w = &a->w_OD->tensor;
    return !a->bias_O && !a->by_row && !a->w_OD->exact && !mica_cuda_is_packed(w) &&
           mica_dtype_get(w->dtype)->is_float && a->x_MD->data == first->x_MD->data;
}

static bool fits(mica_cuda_backend *be, const mica_linear_args *args, int count,
                 const mica_cuda_view *x, const mica_cuda_view *y)
{
    const int64_t tile = MICA_CUDA_SWIGLU_TILE;
    const int64_t tiles = ((y->rows + tile - 1) / tile) * ((y->n + tile - 1) / tile);
    bool plain = true;
    for (int i = 0; i < count; i++)
        plain = plain && is_plain(&args[i], &args[0]);
    return plain && be->bf16 && !be->fp8 && be->fuse && be->device->gpu.capability == 90 &&
           is_matrix(x) && is_matrix(y) && x->rows == y->rows &&
           (tiles >= FEWEST_TILES * be->device->gpu.multiprocessors ||
            mica_cuda_prompt_fits(be, y->rows, 2 * y->n, x->n)) &&
           mica_cuda_maps_exist(be);
}

/* Gate and up; behind each other where they can be, as mica_cuda_op_linears has them. */
static mica_status weights(mica_cuda_backend *be, const mica_linear_args *args, int count,
                           int64_t numbers, const void *w[2], mica_err *err)
{
    mica_weight *both[2] = {args[0].w_OD, args[count - 1].w_OD};
    if (count == 1)
        MICA_TRY(mica_cuda_weight(be, both[0], MICA_CUDA_FORM_MATRIX, &w[0], err));
    else if (!be->base.options.ablate_joining)
        MICA_TRY(mica_cuda_weights_join(be, both, count, MICA_CUDA_FORM_MATRIX, &w[0], NULL, err));
    if (w[0]) {
        w[1] = (const uint16_t *)w[0] + numbers;
        return MICA_OK;
    }
    for (int i = 0; i < 2; i++)
        MICA_TRY(mica_cuda_weight(be, both[i], MICA_CUDA_FORM_MATRIX, &w[i], err));
    return MICA_OK;
}

mica_status mica_cuda_op_linear_swiglu(mica_backend *base, const mica_linear_args *args, int count,
                                       const mica_tensor *y_MF, bool *taken, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_cuda_view x = mica_cuda_view_of(args[0].x_MD), y = mica_cuda_view_of(y_MF);
    const int64_t M = y.rows, F = y.n, D = x.n;
    const char *name = args[0].w_OD->name ? args[0].w_OD->name : "linear_swiglu";
    const void *w[2] = {NULL, NULL};
    *taken = fits(be, args, count, &x, &y);
    if (!*taken)
        return MICA_OK;
    MICA_TRY(weights(be, args, count, F * D, w, err));
    if (mica_cuda_prompt_fits(be, M, 2 * F, D))
        return mica_cuda_prompt_swiglu(be, &x, &y, w, name, err);
    mica_cuda_swiglu_args a = {.rows = (int)M, .columns = (int)F, .depth = (int)D};
    const int tile = MICA_CUDA_SWIGLU_TILE;
    MICA_TRY(mica_cuda_map_make(be, &a.x, x.data, M, D, ld_of(&x), 64, err));
    MICA_TRY(mica_cuda_map_make(be, &a.gate, w[0], F, D, D, tile, err));
    MICA_TRY(mica_cuda_map_make(be, &a.up, w[1], F, D, D, tile, err));
    MICA_TRY(mica_cuda_map_make(be, &a.y, y.data, M, F, ld_of(&y), 64, err));
    return mica_cuda_check(
        mica_cuda_swiglu_product(&a, be->device->gpu.multiprocessors, be->stream), name, err);
}

#else

mica_status mica_cuda_op_linear_swiglu(mica_backend *base, const mica_linear_args *args, int count,
                                       const mica_tensor *y_MF, bool *taken, mica_err *err)
{
    (void)base, (void)args, (void)count, (void)y_MF, (void)err;
    *taken = false;
    return MICA_OK;
}

#endif
