/* cuda_view.c - tensors as the kernels see them, and the general copy.
 *
 *     [L, H, K] strides (H K, K, 1)   ──►   rows = L H, n = K, one step from row to row
 *     [L, H, K] strides (S, K, 1)     ──►   rows = L H, n = K, two outer dimensions
 *
 * Outer dimensions of length 1 are dropped and neighbours that lie evenly are merged, so that a
 * kernel usually finds its row by one multiplication. */
#include "backend/cuda/cuda_backend.h"

mica_cuda_type mica_cuda_type_of(mica_dtype dtype)
{
    switch (dtype) {
    case MICA_DTYPE_BF16:
        return MICA_CUDA_BF16;
    case MICA_DTYPE_F16:
        return MICA_CUDA_F16;
    case MICA_DTYPE_F64:
        return MICA_CUDA_F64;
    case MICA_DTYPE_F8_E4M3:
        return MICA_CUDA_F8_E4M3;
    case MICA_DTYPE_F8_E5M2:
        return MICA_CUDA_F8_E5M2;
    default:
        return MICA_CUDA_F32;
    }
}

/* ------------------------------------------------------------------ views -- */

static bool rows_aligned(const mica_cuda_view *v)
{
    const size_t size = mica_cuda_type_size(v->type);
    if (v->n % 8 != 0 || (uintptr_t)v->data % 16 != 0)
        return false;
    for (int d = 0; d < v->dims; d++)
        if (v->shape[d] > 1 && (size_t)v->stride[d] * size % 16 != 0)
            return false;
    return true;
}

mica_cuda_view mica_cuda_view_of(const mica_tensor *t)
{
    mica_cuda_view v = {.data = t->data, .type = mica_cuda_type_of(t->dtype), .n = 1, .rows = 1};
    int outer = t->ndim;
    if (t->ndim > 0 && (t->stride_[t->ndim - 1] == 1 || t->shape_[t->ndim - 1] == 1))
        v.n = t->shape_[--outer];
    for (int i = 0; i < outer; i++) {
        if (t->shape_[i] == 1)
            continue;
        v.rows *= t->shape_[i];
        const int last = v.dims - 1;
        if (v.dims > 0 && v.stride[last] == t->stride_[i] * t->shape_[i]) {
            v.shape[last] *= t->shape_[i];
            v.stride[last] = t->stride_[i];
            continue;
        }
        v.shape[v.dims] = t->shape_[i];
        v.stride[v.dims++] = t->stride_[i];
    }
    if (v.dims == 0) {
        v.dims = 1;
        v.shape[0] = 1;
        v.stride[0] = v.n;
    }
    v.wide = rows_aligned(&v);
    return v;
}

mica_cuda_view mica_cuda_view_matrix(void *data, mica_cuda_type type, int64_t rows, int64_t n,
                                     int64_t ld)
{
    mica_cuda_view v = {.data = data,
                        .type = type,
                        .dims = 1,
                        .rows = rows,
                        .n = n,
                        .shape = {rows},
                        .stride = {ld}};
    v.wide = rows_aligned(&v);
    return v;
}

void mica_cuda_flatten(mica_cuda_view *const *views, int count)
{
    const mica_cuda_view *first = views[0];
    for (int i = 0; i < count; i++) {
        const mica_cuda_view *v = views[i];
        if (v->dims != 1 || v->rows != first->rows || v->n != first->n ||
            (v->rows > 1 && v->stride[0] != v->n))
            return;
    }
    for (int i = 0; i < count; i++)
        *views[i] =
            mica_cuda_view_matrix(views[i]->data, views[i]->type, 1, views[i]->rows * views[i]->n,
                                  views[i]->rows * views[i]->n);
}

/* ------------------------------------------------------------------- copy -- */

static void swap_dims(mica_cuda_copy_args *c, int a, int b)
{
    int64_t *const of[3] = {c->shape, c->src_stride, c->dst_stride};
    for (int i = 0; i < 3; i++) {
        const int64_t t = of[i][a];
        of[i][a] = of[i][b];
        of[i][b] = t;
    }
}

/* Largest destination strides first, then neighbours that lie evenly in both views merged: work
 * items that follow each other write memory that does. */
static void simplify(mica_cuda_copy_args *c)
{
    for (int i = 1; i < c->dims; i++)
        for (int k = i; k > 0 && c->dst_stride[k - 1] < c->dst_stride[k]; k--)
            swap_dims(c, k - 1, k);
    int out = 0;
    for (int i = 1; i < c->dims; i++) {
        if (c->src_stride[out] == c->src_stride[i] * c->shape[i] &&
            c->dst_stride[out] == c->dst_stride[i] * c->shape[i])
            c->shape[out] *= c->shape[i];
        else
            c->shape[++out] = c->shape[i];
        c->src_stride[out] = c->src_stride[i];
        c->dst_stride[out] = c->dst_stride[i];
    }
    c->dims = out + 1;
}

static bool can_be_wide(const mica_cuda_copy_args *c)
{
    const int last = c->dims - 1;
    const size_t from = mica_cuda_type_size(c->src_type), to = mica_cuda_type_size(c->dst_type);
    if (c->src_stride[last] != 1 || c->dst_stride[last] != 1 || c->shape[last] % 8 != 0 ||
        (uintptr_t)c->src % 16 != 0 || (uintptr_t)c->dst % 16 != 0)
        return false;
    for (int d = 0; d < last; d++)
        if ((size_t)c->src_stride[d] * from % 16 != 0 || (size_t)c->dst_stride[d] * to % 16 != 0)
            return false;
    return true;
}

mica_status mica_cuda_copy_tensor(mica_cuda_backend *be, const mica_tensor *src,
                                  const mica_tensor *dst, mica_err *err)
{
    mica_cuda_copy_args c = {.src = src->data,
                             .dst = dst->data,
                             .src_type = mica_cuda_type_of(src->dtype),
                             .dst_type = mica_cuda_type_of(dst->dtype)};
    if (mica_dtype_is_packed(src->dtype) || mica_dtype_is_packed(dst->dtype))
        return mica_cuda_copy_cache(be, src, dst, err);
    if ((src->dtype != MICA_DTYPE_F32 && src->dtype != MICA_DTYPE_BF16) ||
        (dst->dtype != MICA_DTYPE_F32 && dst->dtype != MICA_DTYPE_BF16))
        return MICA_FAIL(err, MICA_E_INTERNAL,
                         "copy: %s to %s; tensors of this backend are f32 or bf16",
                         mica_dtype_get(src->dtype)->name, mica_dtype_get(dst->dtype)->name);
    for (int i = 0; i < src->ndim; i++) {
        if (src->shape_[i] == 1)
            continue;
        c.shape[c.dims] = src->shape_[i];
        c.src_stride[c.dims] = src->stride_[i];
        c.dst_stride[c.dims++] = dst->stride_[i];
    }
    if (c.dims == 0) {
        c.dims = 1;
        c.shape[0] = c.src_stride[0] = c.dst_stride[0] = 1;
    }
    simplify(&c);
    c.wide = can_be_wide(&c);
    return mica_cuda_check(mica_cuda_copy_strided(&c, be->stream), "copying a tensor", err);
}

mica_status mica_cuda_op_copy(mica_backend *base, const mica_tensor *src, mica_tensor *dst,
                              mica_err *err)
{
    return mica_cuda_copy_tensor(mica_cuda_from(base), src, dst, err);
}
