/* cuda_prompt.c - products of a prompt's few rows by a kernel of our own (cuda_prompt.cu); when, and with what maps.
 *
 *     linear, linears ──► product that cuBLASLt would write itself ──► 9 to 128 rows, large weights: here
 *     linear_swiglu   ──► the same with gate and up
 *
 * Its blocks ask for weights while the small operations before it still run, which needs a stream that is its own:
 * in a network of two branches the second one's products stay with cuBLASLt, whether they run beside the first's or
 * not (be->named), so that every pass has the same bytes. */
#include "backend/cuda/cuda_prompt.h"
#include "backend/cuda/cuda_maps.h"

#define FEWEST_ROWS 9 /* below: cuda_decode.cu and cuBLASLt's products of few rows */
#define LEAST_NUMBERS                                                                              \
    ((int64_t)8 << 20)          /* of weights; smaller products are shorter than a launch */
#define MOST ((int64_t)1 << 20) /* outputs, depth */

#if MICA_CUDA_HOPPER

bool mica_cuda_prompt_fits(const mica_cuda_backend *be, int64_t rows, int64_t outputs,
                           int64_t depth)
{
    return be->bf16 && be->fuse && be->named == 0 && be->device->gpu.capability == 90 &&
           rows >= FEWEST_ROWS && rows <= MICA_CUDA_PROMPT_ROWS && outputs % 8 == 0 &&
           outputs <= MOST && depth <= MOST && outputs * depth >= LEAST_NUMBERS;
}

static int box_of(int64_t rows)
{
    return (int)mica_cuda_round8(rows);
}

/* Counted, because nothing else tells a caller that cuBLASLt did not do it. */
static mica_status launch(mica_cuda_backend *be, const mica_cuda_prompt_args *a, const char *name,
                          mica_err *err)
{
    be->base.counters.prompt_products++;
    return mica_cuda_check(mica_cuda_prompt(a, be->stream), name, err);
}

mica_status mica_cuda_prompt_linear(mica_cuda_backend *be, const mica_cuda_product *p,
                                    const mica_cuda_gemm *g, bool *taken, mica_err *err)
{
    mica_cuda_prompt_args a = {.rows = (int)g->n,
                               .depth = (int)g->k,
                               .outputs = (int)g->m,
                               .residual = g->c,
                               .ld_residual = g->ldc,
                               .y = g->d,
                               .ldy = g->ldd};
    const void *bias;
    *taken = p->act == MICA_ACT_NONE && mica_cuda_prompt_fits(be, g->n, g->m, g->k) &&
             mica_cuda_maps_exist(be);
    if (!*taken)
        return MICA_OK;
    MICA_TRY(mica_cuda_weight(be, p->bias, MICA_CUDA_FORM_F32, &bias, err));
    a.bias = bias;
    MICA_TRY(mica_cuda_map_make(be, &a.x, g->b, g->n, g->k, g->ldb, box_of(g->n), err));
    MICA_TRY(mica_cuda_map_make(be, &a.w, g->a, g->m, g->k, g->lda, MICA_CUDA_PROMPT_TILE, err));
    return launch(be, &a, p->name, err);
}

mica_status mica_cuda_prompt_swiglu(mica_cuda_backend *be, const mica_cuda_view *x,
                                    const mica_cuda_view *y, const void *const w[2],
                                    const char *name, mica_err *err)
{
    const int64_t M = y->rows, F = y->n, D = x->n;
    mica_cuda_prompt_args a = {.swiglu = true,
                               .rows = (int)M,
                               .depth = (int)D,
                               .outputs = (int)F,
                               .y = y->data,
                               .ldy = y->stride[0]};
    const int half = MICA_CUDA_PROMPT_TILE / 2;
    MICA_TRY(mica_cuda_map_make(be, &a.x, x->data, M, D, x->stride[0], box_of(M), err));
    MICA_TRY(mica_cuda_map_make(be, &a.w, w[0], F, D, D, half, err));
    MICA_TRY(mica_cuda_map_make(be, &a.up, w[1], F, D, D, half, err));
    return launch(be, &a, name, err);
}

#else

bool mica_cuda_prompt_fits(const mica_cuda_backend *be, int64_t rows, int64_t outputs,
                           int64_t depth)
{
    (void)be, (void)rows, (void)outputs, (void)depth;
    return false;
}

mica_status mica_cuda_prompt_linear(mica_cuda_backend *be, const mica_cuda_product *p,
                                    const mica_cuda_gemm *g, bool *taken, mica_err *err)
{
    (void)be, (void)p, (void)g, (void)err;
    *taken = false;
    return MICA_OK;
}

#endif
