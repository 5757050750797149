/* cuda_transfer.c - between host and device: uploads, downloads, rows of a table, finiteness.
 *
 *     upload     host f32 ─► pinned slots ─► device f32 ─(type, strides)─► tensor      queued
 *     download   tensor ─(type, strides)─► device f32 ─► pinned slots ─► host f32      waits
 *     pixels     picture ─► device bytes ─► pinned slots ─► host bytes, a quarter    waits
 *     embed      rows of the mapped table ─► pinned slots ─► tensor                    queued
 *
 * A table of embeddings stays in its file: a prompt needs a few hundred of its 150,000 rows, 3 MB
 * through PCIe instead of 1 GB of device memory. Transfers of tensors that are f32 and contiguous
 * skip the device copy. */
#include "backend/cuda/cuda_backend.h"

#include <string.h>

static bool plain(const mica_tensor *t)
{
    return t->dtype == MICA_DTYPE_F32 && mica_tensor_is_contiguous(t);
}

/* The tensor's elements as contiguous f32 on the device: itself or scratch. */
static mica_status f32_twin(mica_cuda_backend *be, const mica_tensor *t, mica_tensor *out,
                            mica_err *err)
{
    *out = mica_tensor_make(t->data, MICA_DTYPE_F32, t->ndim, t->shape_);
    return plain(t) ? MICA_OK : mica_cuda_scratch(be, mica_tensor_size(out), &out->data, err);
}

mica_status mica_cuda_op_upload_f32(mica_backend *base, const mica_tensor *dst, const float *src,
                                    mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    mica_tensor twin;
    MICA_TRY(f32_twin(be, dst, &twin, err));
    const size_t size = mica_tensor_size(&twin);
    for (size_t done = 0; done < size; done += MICA_CUDA_STAGE_SIZE) {
        const size_t part = MICA_MIN(MICA_CUDA_STAGE_SIZE, size - done);
        void *host;
        MICA_TRY(mica_cuda_stage_open(be, &host, err));
        memcpy(host, (const uint8_t *)src + done, part);
        MICA_TRY(mica_cuda_check(cudaMemcpyAsync((uint8_t *)twin.data + done, host, part,
                                                 cudaMemcpyHostToDevice, be->stream),
                                 "uploading", err));
        MICA_TRY(mica_cuda_stage_close(be, err));
    }
    return plain(dst) ? MICA_OK : mica_cuda_copy_tensor(be, &twin, dst, err);
}

static mica_status download(mica_cuda_backend *be, void *to, const void *from, size_t size,
                            mica_err *err)
{
    for (size_t done = 0; done < size; done += MICA_CUDA_STAGE_SIZE) {
        const size_t part = MICA_MIN(MICA_CUDA_STAGE_SIZE, size - done);
        void *host;
        MICA_TRY(mica_cuda_stage_open(be, &host, err));
        MICA_TRY(mica_cuda_check(cudaMemcpyAsync(host, (const uint8_t *)from + done, part,
                                                 cudaMemcpyDeviceToHost, be->stream),
                                 "downloading", err));
        MICA_TRY(mica_cuda_wait(be, "downloading", err));
        memcpy((uint8_t *)to + done, host, part);
    }
    return MICA_OK;
}

mica_status mica_cuda_op_download_f32(mica_backend *base, float *dst, const mica_tensor *src,
                                      mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    mica_tensor twin;
    MICA_TRY(f32_twin(be, src, &twin, err));
    if (!plain(src))
        MICA_TRY(mica_cuda_copy_tensor(be, src, &twin, err));
    return download(be, dst, twin.data, mica_tensor_size(&twin), err);
}

mica_status mica_cuda_op_download_pixels(mica_backend *base, uint8_t *dst,
                                         const mica_tensor *src_YXC, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const int64_t width = src_YXC->shape_[1] * src_YXC->shape_[2], *stride = src_YXC->stride_;
    const mica_cuda_view x =
        mica_cuda_view_matrix(src_YXC->data, MICA_CUDA_F32, src_YXC->shape_[0], width, stride[0]);
    void *bytes;
    MICA_TRY(mica_cuda_scratch(be, (size_t)(x.rows * width), &bytes, err));
    MICA_TRY(mica_cuda_check(mica_cuda_pixels(&x, bytes, be->stream), "a picture's bytes", err));
    return download(be, dst, bytes, (size_t)(x.rows * width), err);
}

/* ------------------------------------------------------------------- rows -- */

/* Rows ids[0 .. count) of the table into a slot; scales behind them when there are any. */
static size_t gather(const mica_tensor *w, const int32_t *ids, int64_t count, uint8_t *to)
{
    const size_t size = (size_t)mica_dtype_get(w->dtype)->size;
    const size_t row = (size_t)w->shape_[1] * size, raw = mica_cuda_align(row * (size_t)count);
    for (int64_t i = 0; i < count; i++)
        memcpy(to + (size_t)i * row,
               (const uint8_t *)w->data + (size_t)(ids[i] * w->stride_[0]) * size, row);
    if (!w->scale.data)
        return raw;
    for (int64_t i = 0; i < count; i++)
        ((float *)(void *)(to + raw))[i] = mica_cuda_weight_scale(w, ids[i]);
    return raw + (size_t)count * sizeof(float);
}

/* y's rows [first, first + count) through one slot; scratch holds [raw rows][f32 rows]. */
static mica_status embed_part(mica_cuda_backend *be, const mica_tensor *w, const int32_t *ids,
                              int64_t first, int64_t count, uint8_t *scratch, size_t raw_most,
                              const mica_tensor *y, mica_err *err)
{
    const size_t size = (size_t)mica_dtype_get(w->dtype)->size;
    const size_t scales = mica_cuda_align((size_t)(w->shape_[1] * count) * size);
    void *host;
    MICA_TRY(mica_cuda_stage_open(be, &host, err));
    const size_t bytes = gather(w, ids + first, count, host);
    MICA_TRY(
        mica_cuda_check(cudaMemcpyAsync(scratch, host, bytes, cudaMemcpyHostToDevice, be->stream),
                        "uploading rows of a table", err));
    MICA_TRY(mica_cuda_stage_close(be, err));
    const mica_cuda_convert_args args = {
        .src = scratch,
        .src_type = mica_cuda_type_of(w->dtype),
        .dst_type = MICA_CUDA_F32,
        .rows = count,
        .cols = w->shape_[1],
        .ld = w->shape_[1],
        .scale = w->scale.data ? (const float *)(void *)(scratch + scales) : NULL,
        .dst = scratch + raw_most};
    MICA_TRY(mica_cuda_check(mica_cuda_convert(&args, be->stream), "converting rows", err));
    const mica_tensor from =
        mica_tensor_2d(scratch + raw_most, MICA_DTYPE_F32, count, w->shape_[1]);
    const mica_tensor to = mica_tensor_rows(y, first, count);
    return mica_cuda_copy_tensor(be, &from, &to, err);
}

mica_status mica_cuda_op_embed_rows(mica_backend *base, mica_weight *w_VD, const int32_t *ids,
                                    int64_t count, mica_tensor *y_LD, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    const mica_tensor *w = &w_VD->tensor;
    const char *name = w_VD->name ? w_VD->name : "table";
    if (mica_cuda_is_packed(w))
        return mica_cuda_packed_embed(be, w, ids, count, y_LD, name, err);
    if (!mica_dtype_get(w->dtype)->is_float || w->stride_[1] != 1 || y_LD->ndim != 2)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: a table needs rows of floats", name);
    const size_t row =
        (size_t)w->shape_[1] * (size_t)mica_dtype_get(w->dtype)->size + sizeof(float);
    const int64_t most = MICA_MIN(count, (int64_t)((MICA_CUDA_STAGE_SIZE - 512) / row));
    if (most < 1)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: a row of %zu bytes is too long", name, row);
    const size_t raw = mica_cuda_align((size_t)most * row + 512);
    const size_t wide = (size_t)(most * w->shape_[1]) * sizeof(float);
    void *scratch;
    MICA_TRY(mica_cuda_scratch(be, raw + wide, &scratch, err));
    for (int64_t first = 0; first < count; first += most)
        MICA_TRY(
            embed_part(be, w, ids, first, MICA_MIN(most, count - first), scratch, raw, y_LD, err));
    return MICA_OK;
}

/* ----------------------------------------------------------------- finite -- */

mica_status mica_cuda_op_all_finite(mica_backend *base, const mica_tensor *x, bool *out,
                                    mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    mica_cuda_view v = mica_cuda_view_of(x);
    mica_cuda_view *const views[] = {&v};
    void *host;
    mica_cuda_flatten(views, 1);
    MICA_TRY(mica_cuda_check(cudaMemsetAsync(be->flag, 0, sizeof(int), be->stream), "memset", err));
    MICA_TRY(mica_cuda_check(mica_cuda_find_nonfinite(&v, be->flag, be->stream), "looking for NaN",
                             err));
    MICA_TRY(mica_cuda_stage_open(be, &host, err));
    MICA_TRY(mica_cuda_check(
        cudaMemcpyAsync(host, be->flag, sizeof(int), cudaMemcpyDeviceToHost, be->stream),
        "looking for NaN", err));
    MICA_TRY(mica_cuda_wait(be, "computing", err));
    int found;
    memcpy(&found, host, sizeof found);
    *out = found == 0;
    return MICA_OK;
}
