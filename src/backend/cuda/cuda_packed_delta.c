/* cuda_packed_delta.c - LoHa, LoKr and whole differences on packed weights: added to the expanded weight of a call.
 *
 *     form     [weight][LoRA's factors][up0][down0][up1][down1][mix] of each adapter that is no LoRA, in f32,
 *              rows of a multiple of 8; what an adapter lacks takes no place
 *     call     packed ──► scratch, compute type ──► += scale kron(mix, (up0 down0) * (up1 down1)) ──► cuBLASLt
 *
 * They have no small factors that could stand beside the product, as LoRA does (cuda_packed_side.c), and their numbers
 * as a matrix would be four to eight times the packed weight. So only factors stay on the device, and each call
 * makes the numbers anew. Napkin, 12,288 x 3,072: two deltas in f32 written and read, the weight read and written:
 * 750 MB, 0.3 ms at 3 TB/s, beside 0.45 ms of product for 4,096 rows of x. Few rows of x pay the same. */
#include "backend/cuda/cuda_backend.h"

#include "base/mem.h"

#define PARTS 5

static const mica_tensor *part_of(const mica_adapter *a, int part)
{
    return part == 4 ? &a->mix : part % 2 ? &a->down[part / 2] : &a->up[part / 2];
}

bool mica_cuda_is_lora(const mica_adapter *a)
{
    return a->down[0].data && !a->up[1].data && !a->mix.data;
}

static size_t part_size(const mica_tensor *t)
{
    return t->data ? mica_cuda_align((size_t)(t->shape_[0] * mica_cuda_round8(t->shape_[1])) *
                                     sizeof(float))
                   : 0;
}

static size_t factors_size(const mica_adapter *a)
{
    size_t size = 0;
    for (int i = 0; i < PARTS && !mica_cuda_is_lora(a); i++)
        size += part_size(part_of(a, i));
    return size;
}

size_t mica_cuda_delta_size(const mica_adapter *adapters)
{
    size_t size = 0;
    for (const mica_adapter *a = adapters; a; a = a->next)
        size += factors_size(a);
    return size;
}

void mica_cuda_delta_put(const mica_adapter *adapters, uint8_t *host)
{
    for (const mica_adapter *a = adapters; a; a = a->next)
        for (int i = 0; i < PARTS && !mica_cuda_is_lora(a); i++) {
            const mica_tensor *t = part_of(a, i);
            float *to = (float *)(void *)host;
            for (int64_t k = 0; t->data && k < mica_tensor_count(t); k++)
                to[k / t->shape_[1] * mica_cuda_round8(t->shape_[1]) + k % t->shape_[1]] =
                    mica_tensor_read_f32(t, k);
            host += part_size(t);
        }
}

/* ------------------------------------------------------------------ a call -- */

/* Bytes of up0 down0, and of up1 down1. */
static size_t product_size(const mica_adapter *a)
{
    return mica_cuda_align((size_t)(a->up[0].shape_[0] * mica_cuda_round8(a->down[0].shape_[1])) *
                           sizeof(float));
}

size_t mica_cuda_delta_scratch(const mica_adapter *adapters)
{
    size_t size = 0;
    for (const mica_adapter *a = adapters; a; a = a->next)
        if (!mica_cuda_is_lora(a) && a->down[0].data)
            size = MICA_MAX(size, product_size(a) * (a->up[1].data ? 2 : 1));
    return size;
}

/* out = up down, [p][ld of down]. */
static mica_status multiply(mica_cuda_backend *be, const mica_tensor *up, const void *up_data,
                            const mica_tensor *down, const void *down_data, void *out,
                            const char *name, mica_err *err)
{
    const int64_t ld = mica_cuda_round8(down->shape_[1]);
    const mica_cuda_gemm g = {.m = ld,
                              .n = up->shape_[0],
                              .k = up->shape_[1],
                              .type = MICA_CUDA_F32,
                              .d_type = MICA_CUDA_F32,
                              .a = down_data,
                              .b = up_data,
                              .d = out,
                              .lda = ld,
                              .ldb = mica_cuda_round8(up->shape_[1]),
                              .ldd = ld};
    return mica_cuda_gemm_run(be, &g, name, err);
}

static mica_status add_one(mica_cuda_backend *be, const mica_adapter *a, const uint8_t *factors,
                           const mica_cuda_expanded *w, uint8_t *scratch, mica_err *err)
{
    const float *part[PARTS];
    float *delta[2] = {0};
    for (int i = 0; i < PARTS; i++) {
        part[i] = part_of(a, i)->data ? (const float *)(const void *)factors : NULL;
        factors += part_size(part_of(a, i));
    }
    for (int i = 0; i < 2 && part[2 * i] && part[2 * i + 1]; i++) {
        delta[i] = (float *)(void *)(scratch + (size_t)i * product_size(a));
        MICA_TRY(multiply(be, &a->up[i], part[2 * i], &a->down[i], part[2 * i + 1], delta[i],
                          w->name, err));
    }
    const int64_t q = delta[0] ? a->down[0].shape_[1] : a->up[0].shape_[1];
    const mica_cuda_adapt_args args = {.w = w->data,
                                       .type = w->type,
                                       .cols = w->cols,
                                       .ld = w->ld,
                                       .first = a->first,
                                       .skip = a->skip,
                                       .count = a->count,
                                       .scale = a->scale,
                                       .delta = {delta[0] ? delta[0] : part[0], delta[1]},
                                       .p = a->up[0].shape_[0],
                                       .q = q,
                                       .ld_delta = mica_cuda_round8(q),
                                       .mix = part[4],
                                       .ld_mix = part[4] ? mica_cuda_round8(a->mix.shape_[1]) : 0};
    return mica_cuda_check(mica_cuda_adapt(&args, be->stream), w->name, err);
}

mica_status mica_cuda_delta_add(mica_cuda_backend *be, const mica_adapter *adapters,
                                const void *factors, const mica_cuda_expanded *w, void *scratch,
                                mica_err *err)
{
    const uint8_t *at = factors;
    for (const mica_adapter *a = adapters; a; at += factors_size(a), a = a->next)
        if (!mica_cuda_is_lora(a))
            MICA_TRY(add_one(be, a, at, w, scratch, err));
    return MICA_OK;
}
