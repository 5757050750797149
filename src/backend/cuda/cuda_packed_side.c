/* cuda_packed_side.c - LoRA on packed weights: its factors behind the weight's bytes, products beside the weight's.
 *
 *     y = x w^T + (x down^T) up^T           all LoRA of a weight are one of the sum of their ranks:
 *
 *     down [rank][width]    their rows of `down` behind each other, then zeros up to a multiple of 8
 *     up   [outputs][rank]  their columns of `up` times scale, zeros in rows that they leave alone
 *
 * Numbers of 4 bits cannot take a change of a hundredth of their step in, and a copy of the weight in 16
 * bits would be four times its size. Two products of a small rank are 1 to 3 % of the weight's own at 4,096
 * rows. Both factors have the compute type. LoHa, LoKr and whole differences have no such factors, theirs lie
 * behind these: cuda_packed_delta.c. */
#include "backend/cuda/cuda_backend.h"

#include "base/half.h"
#include "base/mem.h"

static int64_t rank_of(const mica_adapter *adapters)
{
    int64_t rank = 0;
    for (const mica_adapter *a = adapters; a; a = a->next)
        rank += mica_cuda_is_lora(a) ? a->down[0].shape_[0] : 0;
    return mica_cuda_round8(rank);
}

static size_t down_size(const mica_tensor *w, int64_t rank, mica_cuda_type type)
{
    return mica_cuda_align((size_t)(rank * w->shape_[1]) * mica_cuda_type_size(type));
}

static size_t up_size(const mica_tensor *w, int64_t rank, mica_cuda_type type)
{
    return mica_cuda_align((size_t)(w->shape_[0] * rank) * mica_cuda_type_size(type));
}

size_t mica_cuda_side_size(const mica_cuda_prepared *p)
{
    const int64_t rank = rank_of(p->adapters);
    return down_size(&p->tensor, rank, p->type) + up_size(&p->tensor, rank, p->type) +
           mica_cuda_delta_size(p->adapters);
}

static void put(void *to, mica_cuda_type type, int64_t i, float v)
{
    if (type == MICA_CUDA_F32)
        ((float *)to)[i] = v;
    else
        ((uint16_t *)to)[i] = mica_f32_to_bf16(v);
}

static float number(const mica_tensor *t, int64_t row, int64_t column)
{
    return mica_tensor_read_f32(t, row * t->shape_[1] + column);
}

/* The factors of one LoRA, whose ranks begin at `at`. */
static void put_factors(const mica_cuda_prepared *p, const mica_adapter *a, int64_t at,
                        int64_t rank, void *down, void *up)
{
    const int64_t width = p->tensor.shape_[1], own = a->down[0].shape_[0];
    for (int64_t r = 0; r < own; r++)
        for (int64_t i = 0; i < width; i++)
            put(down, p->type, (at + r) * width + i, number(&a->down[0], r, i));
    for (int64_t o = 0; o < a->count; o++)
        for (int64_t r = 0; r < own; r++)
            put(up, p->type, (a->first + o) * rank + at + r,
                a->scale * number(&a->up[0], a->skip + o, r));
}

mica_status mica_cuda_side_upload(mica_cuda_backend *be, const mica_cuda_prepared *p, uint8_t *to,
                                  mica_err *err)
{
    const int64_t rank = rank_of(p->adapters);
    const size_t size = mica_cuda_side_size(p);
    int64_t at = 0;
    if (!size)
        return MICA_OK;
    uint8_t *host = mica_mem_calloc(1, size);
    if (!host)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu bytes of adapters' factors", size);
    for (const mica_adapter *a = p->adapters; a; a = a->next)
        if (mica_cuda_is_lora(a)) {
            put_factors(p, a, at, rank, host, host + down_size(&p->tensor, rank, p->type));
            at += a->down[0].shape_[0];
        }
    mica_cuda_delta_put(p->adapters, host + size - mica_cuda_delta_size(p->adapters));
    const mica_status st = mica_cuda_packed_send(be, to, host, size, err);
    mica_mem_free(host);
    return st;
}

void mica_cuda_side_of(const mica_weight *w, const void *factors, mica_cuda_type type,
                       mica_cuda_product *p)
{
    p->side_rank = rank_of(w->adapters);
    p->down = factors;
    p->up = (const uint8_t *)factors + down_size(&w->tensor, p->side_rank, type);
    p->deltas = mica_cuda_delta_size(w->adapters)
                    ? (const uint8_t *)p->up + up_size(&w->tensor, p->side_rank, type)
                    : NULL;
}
