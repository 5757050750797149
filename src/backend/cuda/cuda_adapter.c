/* cuda_adapter.c - adapters of a linear become part of its weight's form when that is made.
 *
 *     file ─► form ─► + scale kron(mix, up down) ─► form that operations see
 *                         up, down, mix: uploaded as f32, one product in f32 each, then dropped
 *
 * On the CPU adapters are computed beside the product (cpu_adapter.c), because there the form is the
 * file's own memory. Here every form is a copy, so a sum costs nothing later: a rank of 16 beside a
 * width of 3,072 would read and write y once more, a fifth of the product's time. The sum is rounded
 * once to the type of the form. Forms with and without adapters are different forms. Packed weights cannot take
 * numbers of other steps in: cuda_packed_side.c. */
#include "backend/cuda/cuda_backend.h"

/* Rows of f32 on the device, freed by free_factors. */
typedef struct factors {
    mica_cuda_prepared up[2], down[2], mix;
    void *delta[2];
} factors;

static void free_factors(mica_cuda_backend *be, factors *f)
{
    mica_cuda_prepared *const all[] = {&f->up[0], &f->up[1], &f->down[0], &f->down[1], &f->mix};
    for (size_t i = 0; i < MICA_ARRAY_LEN(all); i++) {
        mica_cuda_free(be, all[i]->data);
        if (all[i]->ready)
            (void)cudaEventDestroy(all[i]->ready);
    }
    for (int i = 0; i < 2; i++)
        mica_cuda_free(be, f->delta[i]);
}

static mica_status take(mica_cuda_backend *be, const mica_tensor *t, const char *name,
                        mica_cuda_prepared *out, mica_err *err)
{
    if (!t->data)
        return MICA_OK;
    *out = (mica_cuda_prepared){.form = MICA_CUDA_FORM_MATRIX,
                                .type = MICA_CUDA_F32,
                                .tensor = *t,
                                .rows = t->shape_[0],
                                .cols = t->shape_[1],
                                .ld = mica_cuda_round8(t->shape_[1])};
    MICA_TRY(
        mica_cuda_alloc(be, (size_t)(out->rows * out->ld) * sizeof(float), name, &out->data, err));
    MICA_TRY(mica_cuda_weight_upload(be, out, name, err));
    return mica_cuda_check(cudaStreamWaitEvent(be->stream, out->ready, 0), "waiting for a weight",
                           err);
}

/* delta = up down, [p][ld of down]. */
static mica_status multiply(mica_cuda_backend *be, const mica_cuda_prepared *up,
                            const mica_cuda_prepared *down, const char *name, void **out,
                            mica_err *err)
{
    if (!up->data || !down->data)
        return MICA_OK;
    MICA_TRY(mica_cuda_alloc(be, (size_t)(up->rows * down->ld) * sizeof(float), name, out, err));
    const mica_cuda_gemm g = {.m = down->ld,
                              .n = up->rows,
                              .k = up->cols,
                              .type = MICA_CUDA_F32,
                              .d_type = MICA_CUDA_F32,
                              .a = down->data,
                              .b = up->data,
                              .d = *out,
                              .lda = down->ld,
                              .ldb = up->ld,
                              .ldd = down->ld};
    return mica_cuda_gemm_run(be, &g, name, err);
}

static mica_status add_one(mica_cuda_backend *be, const mica_cuda_prepared *p,
                           const mica_adapter *a, const char *name, factors *f, mica_err *err)
{
    for (int i = 0; i < 2; i++) {
        MICA_TRY(take(be, &a->up[i], name, &f->up[i], err));
        MICA_TRY(take(be, &a->down[i], name, &f->down[i], err));
        MICA_TRY(multiply(be, &f->up[i], &f->down[i], name, &f->delta[i], err));
    }
    MICA_TRY(take(be, &a->mix, name, &f->mix, err));
    const bool is_product = f->delta[0] != NULL;
    const mica_cuda_adapt_args args = {
        .w = p->data,
        .type = p->type,
        .cols = p->cols,
        .ld = p->ld,
        .first = a->first,
        .skip = a->skip,
        .count = a->count,
        .scale = a->scale,
        .delta = {is_product ? f->delta[0] : f->up[0].data, f->delta[1]},
        .p = f->up[0].rows,
        .q = is_product ? f->down[0].cols : f->up[0].cols,
        .ld_delta = is_product ? f->down[0].ld : f->up[0].ld,
        .mix = f->mix.data,
        .ld_mix = f->mix.ld};
    return mica_cuda_check(mica_cuda_adapt(&args, be->stream), name, err);
}

mica_status mica_cuda_adapters_add(mica_cuda_backend *be, mica_cuda_prepared *p, const char *name,
                                   mica_err *err)
{
    if (!p->adapters || p->form == MICA_CUDA_FORM_PACKED) /* cuda_packed_side.c keeps them apart */
        return MICA_OK;
    MICA_TRY(
        mica_cuda_check(cudaStreamWaitEvent(be->stream, p->ready, 0), "waiting for a weight", err));
    for (const mica_adapter *a = p->adapters; a; a = a->next) {
        factors f = {0};
        const mica_status st = add_one(be, p, a, name, &f, err);
        free_factors(be, &f); /* waits for what reads them */
        MICA_TRY(st);
    }
    /* From here on the form is ready, and for copies of it too. */
    MICA_TRY(mica_cuda_check(cudaEventRecord(p->ready, be->stream), "recording an event", err));
    return mica_cuda_check(cudaStreamWaitEvent(be->copies, p->ready, 0), "recording an event", err);
}
