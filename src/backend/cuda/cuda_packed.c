/* cuda_packed.c - linears and tables of packed weights on the device.
 *
 *     file ──bytes──► form on the device: [rows][scales][biases][adapters' factors]    as large as in the file
 *
 *     up to 8 rows of x   cuda_digits.cu multiplies by the packed rows, sums f32 ──► epilogue
 *     more, or adapters   the weight expanded into scratch in the compute type ──► cuBLASLt, as any other
 *
 * The expanded weight lives for one call. Napkin at 4,096 rows of x and 14,336 x 4,096: 0.65 ms of product beside
 * 0.05 ms of expanding (117 MB written); one row of x: 33 MB read in 4 bits, 11 us at 3 TB/s. */
#include "backend/cuda/cuda_backend.h"

#include <string.h>

#define FEW_ROWS 8

bool mica_cuda_is_packed(const mica_tensor *t)
{
    return mica_dtype_is_packed(t->dtype) || (t->dtype == MICA_DTYPE_I8 && t->scale.data);
}

/* ------------------------------------------------------------------- form -- */

typedef struct packed_layout {
    size_t data, scales, biases; /* bytes */
    size_t scale_at, bias_at;    /* places behind the data */
    size_t size;
} packed_layout;

/* Of a matrix, or of `rows` of its rows. */
static packed_layout layout_of(const mica_tensor *w, int64_t rows)
{
    const int64_t width = w->shape_[1];
    packed_layout l = {.data = (size_t)mica_tensor_offset(w, rows * width)};
    if (w->scale.group) {
        l.scales =
            (size_t)(rows * width / w->scale.group) * (size_t)mica_dtype_get(w->scale.dtype)->size;
        l.biases = w->scale.bias ? l.scales : 0;
    } else if (w->scale.data)
        l.scales = (size_t)rows * sizeof(float);
    l.scale_at = mica_cuda_align(l.data);
    l.bias_at = l.scale_at + mica_cuda_align(l.scales);
    l.size = l.bias_at + mica_cuda_align(l.biases);
    return l;
}

static mica_cuda_packed_rows rows_of(const mica_tensor *w, int64_t rows, const void *form)
{
    const packed_layout l = layout_of(w, rows);
    const uint8_t *at = form;
    return (mica_cuda_packed_rows){
        .type = w->dtype == MICA_DTYPE_I8 ? MICA_CUDA_PACKED_S8
                                          : (mica_cuda_packed)(w->dtype - MICA_DTYPE_Q8_0),
        .rows = rows,
        .n = w->shape_[1],
        .data = at,
        .scale = l.scales ? at + l.scale_at : NULL,
        .bias = l.biases ? at + l.bias_at : NULL,
        .scale_type = w->scale.group ? mica_cuda_type_of(w->scale.dtype) : MICA_CUDA_F32,
        .group = w->scale.group};
}

mica_cuda_packed_rows mica_cuda_packed_view(const mica_tensor *w, const void *form)
{
    return rows_of(w, w->shape_[0], form);
}

mica_status mica_cuda_packed_describe(mica_cuda_prepared *p, const char *name, mica_err *err)
{
    const mica_tensor *w = &p->tensor;
    char text[96];
    if (w->ndim != 2 || !mica_tensor_is_contiguous(w) || w->shape_[1] % 32 != 0)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: %s is no packed matrix the device can take",
                         name, mica_tensor_describe(w, text, sizeof text));
    p->rows = 1;
    p->cols = p->ld = (int64_t)((layout_of(w, w->shape_[0]).size + mica_cuda_side_size(p)) /
                                mica_cuda_type_size(p->type));
    return MICA_OK;
}

mica_status mica_cuda_packed_send(mica_cuda_backend *be, uint8_t *to, const void *from, size_t size,
                                  mica_err *err)
{
    for (size_t done = 0; done < size;) {
        const size_t part = MICA_MIN(size - done, MICA_CUDA_STAGE_SIZE);
        void *host;
        MICA_TRY(mica_cuda_stage_open(be, &host, err));
        memcpy(host, (const uint8_t *)from + done, part);
        MICA_TRY(mica_cuda_check(
            cudaMemcpyAsync(to + done, host, part, cudaMemcpyHostToDevice, be->copies),
            "uploading a weight", err));
        MICA_TRY(mica_cuda_stage_close_on(be, be->copies, err));
        done += part;
    }
    return MICA_OK;
}

/* One f32 per row, from whatever the file has. */
static mica_status send_row_scales(mica_cuda_backend *be, const mica_tensor *w, uint8_t *to,
                                   mica_err *err)
{
    const int64_t most = (int64_t)(MICA_CUDA_STAGE_SIZE / sizeof(float));
    for (int64_t first = 0; first < w->shape_[0]; first += most) {
        const int64_t count = MICA_MIN(most, w->shape_[0] - first);
        void *host;
        MICA_TRY(mica_cuda_stage_open(be, &host, err));
        for (int64_t i = 0; i < count; i++)
            ((float *)host)[i] = mica_cuda_weight_scale(w, first + i);
        MICA_TRY(mica_cuda_check(cudaMemcpyAsync(to + (size_t)first * sizeof(float), host,
                                                 (size_t)count * sizeof(float),
                                                 cudaMemcpyHostToDevice, be->copies),
                                 "uploading scales", err));
        MICA_TRY(mica_cuda_stage_close_on(be, be->copies, err));
    }
    return MICA_OK;
}

mica_status mica_cuda_packed_upload(mica_cuda_backend *be, mica_cuda_prepared *p, mica_err *err)
{
    const mica_tensor *w = &p->tensor;
    const packed_layout l = layout_of(w, w->shape_[0]);
    uint8_t *to = p->data;
    MICA_TRY(mica_cuda_packed_send(be, to, w->data, l.data, err));
    MICA_TRY(mica_cuda_side_upload(be, p, to + l.size, err));
    if (!w->scale.group)
        return l.scales ? send_row_scales(be, w, to + l.scale_at, err) : MICA_OK;
    MICA_TRY(mica_cuda_packed_send(be, to + l.scale_at, w->scale.data, l.scales, err));
    return l.biases ? mica_cuda_packed_send(be, to + l.bias_at, w->scale.bias, l.biases, err)
                    : MICA_OK;
}

/* ---------------------------------------------------------------- products -- */

/* Sums of a few rows, then bias, activation, gate and residual. */
static mica_status multiply_few(mica_cuda_backend *be, const mica_cuda_packed_rows *w,
                                const mica_cuda_product *p, mica_err *err)
{
    const int64_t ld = mica_cuda_round8(p->outputs);
    const size_t size = mica_cuda_align((size_t)(p->y.rows * ld) * sizeof(float));
    void *sums;
    const void *bias;
    MICA_TRY(mica_cuda_scratch(be, size + FEW_ROWS * mica_cuda_digits_size(w->n), &sums, err));
    MICA_TRY(mica_cuda_weight(be, p->bias, MICA_CUDA_FORM_F32, &bias, err));
    for (int64_t row = 0; row < p->x.rows; row += FEW_ROWS) {
        mica_cuda_view x = p->x;
        void *digits = (uint8_t *)sums + size;
        x.rows = MICA_MIN(FEW_ROWS, p->x.rows - row);
        x.data =
            (uint8_t *)p->x.data + (size_t)(row * p->x.stride[0]) * mica_cuda_type_size(p->x.type);
        MICA_TRY(mica_cuda_check(mica_cuda_digits(&x, w->type, digits, be->stream), p->name, err));
        MICA_TRY(mica_cuda_check(
            mica_cuda_packed_dot(w, digits, (int)x.rows, (float *)sums + row * ld, ld, be->stream),
            p->name, err));
    }
    const mica_cuda_epilogue_args late = {
        .acc = mica_cuda_view_matrix(sums, MICA_CUDA_F32, p->y.rows, p->outputs, ld),
        .residual = p->residual,
        .y = p->y,
        .bias = bias,
        .gate = p->gate,
        .act = (mica_cuda_act)p->act};
    return mica_cuda_check(mica_cuda_epilogue(&late, be->stream), p->name, err);
}

mica_status mica_cuda_packed_linear(mica_cuda_backend *be, const mica_linear_args *args,
                                    mica_cuda_product *p, mica_err *err)
{
    const mica_tensor *w = &args->w_OD->tensor;
    const void *form;
    MICA_TRY(mica_cuda_weight(be, args->w_OD, MICA_CUDA_FORM_PACKED, &form, err));
    const mica_cuda_packed_rows rows = rows_of(w, w->shape_[0], form);
    mica_cuda_side_of(args->w_OD, (const uint8_t *)form + layout_of(w, w->shape_[0]).size,
                      mica_cuda_compute_type(be), p);
    if (p->x.dims == 1 && !p->side_rank && !p->deltas && (args->by_row || p->x.rows <= FEW_ROWS))
        return multiply_few(be, &rows, p, err);
    const mica_cuda_type type = mica_cuda_compute_type(be);
    const size_t panel = mica_cuda_align((size_t)(p->outputs * p->ld) * mica_cuda_type_size(type));
    const size_t rest =
        MICA_MAX(mica_cuda_product_plan(be, p), mica_cuda_delta_scratch(args->w_OD->adapters));
    void *scratch;
    MICA_TRY(mica_cuda_scratch(be, panel + rest, &scratch, err));
    MICA_TRY(mica_cuda_check(mica_cuda_packed_expand(&rows, scratch, type, p->ld, be->stream),
                             p->name, err));
    if (p->deltas) {
        const mica_cuda_expanded whole = {p->name, scratch, type, w->shape_[1], p->ld};
        MICA_TRY(mica_cuda_delta_add(be, args->w_OD->adapters, p->deltas, &whole,
                                     (uint8_t *)scratch + panel, err));
    }
    p->w = scratch;
    return mica_cuda_product_run(be, p, (uint8_t *)scratch + panel, err);
}

/* ------------------------------------------------------------------ tables -- */

/* Rows ids[0 .. count) laid out as a form of their own. */
static void gather(const mica_tensor *w, const int32_t *ids, int64_t count, uint8_t *to)
{
    const packed_layout l = layout_of(w, count), one = layout_of(w, 1);
    for (int64_t i = 0; i < count; i++) {
        const size_t row = (size_t)ids[i], k = (size_t)i;
        memcpy(to + k * one.data, (const uint8_t *)w->data + row * one.data, one.data);
        if (w->scale.group)
            memcpy(to + l.scale_at + k * one.scales,
                   (const uint8_t *)w->scale.data + row * one.scales, one.scales);
        else if (l.scales)
            ((float *)(void *)(to + l.scale_at))[i] = mica_cuda_weight_scale(w, ids[i]);
        if (l.biases)
            memcpy(to + l.bias_at + k * one.biases,
                   (const uint8_t *)w->scale.bias + row * one.biases, one.biases);
    }
}

static mica_status embed_part(mica_cuda_backend *be, const mica_tensor *w, const int32_t *ids,
                              int64_t count, uint8_t *scratch, size_t packed, const mica_tensor *y,
                              mica_err *err)
{
    void *host;
    MICA_TRY(mica_cuda_stage_open(be, &host, err));
    gather(w, ids, count, host);
    MICA_TRY(mica_cuda_check(cudaMemcpyAsync(scratch, host, layout_of(w, count).size,
                                             cudaMemcpyHostToDevice, be->stream),
                             "uploading rows of a table", err));
    MICA_TRY(mica_cuda_stage_close(be, err));
    const mica_cuda_packed_rows rows = rows_of(w, count, scratch);
    MICA_TRY(mica_cuda_check(
        mica_cuda_packed_expand(&rows, scratch + packed, MICA_CUDA_F32, w->shape_[1], be->stream),
        "expanding rows of a table", err));
    const mica_tensor from = mica_tensor_2d(scratch + packed, MICA_DTYPE_F32, count, w->shape_[1]);
    return mica_cuda_copy_tensor(be, &from, y, err);
}

mica_status mica_cuda_packed_embed(mica_cuda_backend *be, const mica_tensor *w, const int32_t *ids,
                                   int64_t count, const mica_tensor *y_LD, const char *name,
                                   mica_err *err)
{
    int64_t most = count;
    void *scratch;
    if (w->ndim != 2 || !mica_tensor_is_contiguous(w) || y_LD->ndim != 2)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: a packed table needs rows without gaps",
                         name);
    while (most > 1 && layout_of(w, most).size > MICA_CUDA_STAGE_SIZE)
        most = (most + 1) / 2;
    const size_t packed = layout_of(w, most).size;
    if (packed > MICA_CUDA_STAGE_SIZE)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: a row of %zu bytes is too long", name,
                         packed);
    MICA_TRY(mica_cuda_scratch(be, packed + (size_t)(most * w->shape_[1]) * sizeof(float), &scratch,
                               err));
    for (int64_t first = 0; first < count; first += most) {
        const int64_t rows = MICA_MIN(most, count - first);
        const mica_tensor y = mica_tensor_rows(y_LD, first, rows);
        MICA_TRY(embed_part(be, w, ids + first, rows, scratch, packed, &y, err));
    }
    return MICA_OK;
}
