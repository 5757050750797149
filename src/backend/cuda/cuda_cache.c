/* cuda_cache.c - copies between activations and a cache in 8 bits (nn/kv_cache.h).
 *
 *     f32 or bf16 [rows, heads, width]  ──pack──►  numbers, f32 scales and biases of groups of a head
 *                                      ◄─expand──
 *
 * New rows are packed where they lie in the cache. Attention expands what it reads into scratch
 * (cuda_attention.c): the cache takes half the memory of one in bf16, the expanded rows those of one layer. */
#include "backend/cuda/cuda_backend.h"

mica_status mica_cuda_copy_cache(mica_cuda_backend *be, const mica_tensor *src,
                                 const mica_tensor *dst, mica_err *err)
{
    const bool pack = mica_dtype_is_packed(dst->dtype);
    const mica_tensor *q = pack ? dst : src, *x = pack ? src : dst;
    const mica_tensor_scale *s = &q->scale;
    if (q->dtype != MICA_DTYPE_MLX8 || q->ndim != 3 || x->ndim != 3 ||
        (x->dtype != MICA_DTYPE_F32 && x->dtype != MICA_DTYPE_BF16) || x->stride_[2] != 1 ||
        q->stride_[2] != 1 || s->dtype != MICA_DTYPE_F32 || !s->data || !s->bias ||
        (s->group != 32 && s->group != 64 && s->group != 128) || q->shape_[2] % s->group)
        return MICA_FAIL(err, MICA_E_INTERNAL, "copy: %s to %s; only heads of a cache have 8 bits",
                         mica_dtype_get(src->dtype)->name, mica_dtype_get(dst->dtype)->name);
    const mica_cuda_cache_args args = {.pack = pack,
                                       .rows = q->shape_[0],
                                       .heads = q->shape_[1],
                                       .width = q->shape_[2],
                                       .group = s->group,
                                       .x = x->data,
                                       .type = mica_cuda_type_of(x->dtype),
                                       .x_stride = {x->stride_[0], x->stride_[1]},
                                       .q = q->data,
                                       .q_stride = {q->stride_[0], q->stride_[1]},
                                       .scale = (float *)(uintptr_t)s->data,
                                       .bias = (float *)(uintptr_t)s->bias};
    return mica_cuda_check(mica_cuda_cache_rows(&args, be->stream), "a cache in 8 bits", err);
}
