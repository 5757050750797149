/* convert_run.c - rows in, packed rows out; see convert.h.
 *
 *     a chunk of rows ──► f32 (the CPU backend reads every type) ──► packed ──► its place in the file
 *                          └──────────► less what was packed, squared: the layer's error
 *
 * A chunk is about a million numbers, so memory stays at some 10 MB. Numbers that are not finite cannot be
 * packed and end the work with the layer's name. */
#include "models/convert.h"

#include "base/half.h"
#include "base/mem.h"
#include "tensor/pack_weights.h"
#include "tensor/packed.h"

#include <math.h>
#include <string.h>

#define CHUNK ((int64_t)1 << 20) /* numbers */

typedef struct worker {
    mica_convert_plan *plan;
    mica_weight_stream stream;
    mica_backend *be;
    mica_convert_progress_fn progress;
    void *user;
    uint64_t done, all;   /* numbers */
    double error2, norm2; /* of the running item */
    bool overflowed;      /* a number that f16 does not hold */
    /* of a chunk: */
    mica_tensor x; /* [rows, width] f32 */
    int32_t *ids;
    uint8_t *out;
    uint16_t *scales, *biases;
    float *row_scales;
} worker;

static void count_error(worker *w, const float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const double e = (double)x[i] - (double)y[i];
        w->error2 += e * e;
        w->norm2 += (double)x[i] * (double)x[i];
    }
}

/* ---------------------------------------------------------------- packing -- */

static void pack_floats(worker *w, const mica_convert_item *item, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float y = x[i];
        if (item->dtype == MICA_DTYPE_F32)
            memcpy(w->out + 4 * i, &x[i], 4);
        else if (item->dtype == MICA_DTYPE_F16) {
            const uint16_t h = mica_f32_to_f16(x[i]);
            memcpy(w->out + 2 * i, &h, 2);
            y = mica_f16_to_f32(h);
            w->overflowed |= !isfinite(y);
        } else {
            const uint16_t h = mica_f32_to_bf16(x[i]);
            memcpy(w->out + 2 * i, &h, 2);
            y = mica_bf16_to_f32(h);
        }
        count_error(w, &x[i], &y, 1);
    }
}

static void pack_blocks(worker *w, const mica_convert_item *item, const float *x, int64_t n)
{
    const mica_dtype_info *info = mica_dtype_get(item->dtype);
    float back[MICA_PACKED_BLOCK];
    uint8_t *to = w->out;
    for (int64_t i = 0; i < n; i += info->block, to += info->size) {
        mica_packed_write_block(item->dtype, x + i, to);
        mica_packed_read_block(item->dtype, to, back);
        count_error(w, x + i, back, info->block);
    }
}

static void pack_groups(worker *w, const mica_convert_item *item, const float *x, int64_t n)
{
    const int bytes = mica_dtype_get(item->dtype)->size, bits = bytes / 4;
    float back[32];
    uint8_t *to = w->out;
    for (int64_t i = 0; i < n; i += item->group, to += item->group * bits / 8) {
        const int64_t g = i / item->group;
        mica_affine_write_group(bits, item->group, x + i, to, &w->scales[g], &w->biases[g]);
        const float scale = mica_bf16_to_f32(w->scales[g]), bias = mica_bf16_to_f32(w->biases[g]);
        for (int k = 0; k < item->group; k += 32) {
            mica_packed_read_block(item->dtype, to + k * bits / 8, back);
            for (int j = 0; j < 32; j++)
                back[j] = back[j] * scale + bias;
            count_error(w, x + i + k, back, 32);
        }
    }
}

static void pack_int8(worker *w, const float *x, int64_t rows, int64_t width)
{
    for (int64_t r = 0; r < rows; r++) {
        float most = 0.0f;
        for (int64_t i = 0; i < width; i++)
            most = fmaxf(most, fabsf(x[r * width + i]));
        const float scale = most / 127.0f, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
        w->row_scales[r] = scale;
        for (int64_t i = 0; i < width; i++) {
            const int8_t q = (int8_t)lrintf(x[r * width + i] * inverse);
            const float y = scale * (float)q;
            w->out[r * width + i] = (uint8_t)q;
            count_error(w, &x[r * width + i], &y, 1);
        }
    }
}

static void pack_fp8(worker *w, const float *x, int64_t n, float scale)
{
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (int64_t i = 0; i < n; i++) {
        w->out[i] = mica_f32_to_f8_e4m3_saturated(x[i] * inverse);
        const float y = scale * mica_f8_e4m3_to_f32(w->out[i]);
        count_error(w, &x[i], &y, 1);
    }
}

/* ---------------------------------------------------------------- reading -- */

/* One of an item's tensors as rows of its last dimension. */
static mica_weight rows_of(const mica_convert_item *item, int part)
{
    const mica_tensor *t = item->parts[part];
    const int64_t width = t->ndim > 0 ? t->shape_[t->ndim - 1] : 1;
    const int64_t rows = width > 0 ? mica_tensor_count(t) / width : 0;
    mica_weight w = {.name = item->name};
    w.tensor = mica_tensor_reshape(t, 2, (const int64_t[]){rows, width});
    return w;
}

/* Where row `r` of the output lies in the input; a head has K rows. */
static int64_t turned(const mica_convert_item *item, int64_t r, int64_t rows)
{
    const int64_t K = item->heads > 0 ? rows / item->heads : 0;
    if (item->turn == MICA_CONVERT_AS_IS || K < 2)
        return r;
    const int64_t head = r / K * K, i = r % K;
    return item->turn == MICA_CONVERT_TO_NEIGHBOURS ? head + i % 2 * (K / 2) + i / 2
                                                    : head + i % (K / 2) * 2 + i / (K / 2);
}

/* Rows [first, first + count) of a part into w->x. */
static mica_status read_rows(worker *w, const mica_convert_item *item, int part, int64_t first,
                             int64_t count, mica_err *err)
{
    mica_weight rows = rows_of(item, part);
    if (count > 0 && rows.tensor.shape_[1] > CHUNK)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: rows of %lld numbers are too long",
                         item->name, (long long)rows.tensor.shape_[1]);
    w->x = mica_tensor_2d(w->x.data, MICA_DTYPE_F32, count, rows.tensor.shape_[1]);
    for (int64_t i = 0; i < count; i++)
        w->ids[i] = (int32_t)turned(item, first + i, rows.tensor.shape_[0]);
    mica_embed_rows(w->be, &rows, w->ids, count, &w->x);
    const bool finite = mica_all_finite(w->be, &w->x);
    MICA_TRY(mica_backend_check(w->be, err));
    if (!finite)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: tensor %s holds numbers that are not finite",
                         w->plan->input, item->name);
    return MICA_OK;
}

static mica_status advance(worker *w, int64_t numbers, mica_err *err)
{
    w->done += (uint64_t)numbers;
    if (w->progress && !w->progress(w->user, w->done, w->all))
        return MICA_FAIL(err, MICA_E_CANCELLED, "stopped");
    return MICA_OK;
}

/* ---------------------------------------------------------------- writing -- */

static mica_status put(worker *w, const mica_convert_item *item, int which, uint64_t offset,
                       const void *data, size_t size, mica_err *err)
{
    return mica_weight_stream_write(&w->stream, &w->plan->tensors[item->first + (size_t)which],
                                    offset, data, size, err);
}

/* A chunk's rows, packed into w->out, to their place: behind `first` rows of all parts. */
static mica_status write_chunk(worker *w, const mica_convert_item *item, int64_t first,
                               float fp8_scale, mica_err *err)
{
    const float *x = w->x.data;
    const int64_t rows = w->x.shape_[0], width = w->x.shape_[1], n = rows * width;
    const mica_dtype_info *info = mica_dtype_get(item->dtype);
    const uint64_t at = (uint64_t)(first * width / info->block) * (uint64_t)info->size;
    if (item->form == MICA_CONVERT_FLOATS)
        pack_floats(w, item, x, n);
    else if (item->form == MICA_CONVERT_BLOCKS)
        pack_blocks(w, item, x, n);
    else if (item->form == MICA_CONVERT_GROUPS)
        pack_groups(w, item, x, n);
    else if (item->form == MICA_CONVERT_INT8)
        pack_int8(w, x, rows, width);
    else
        pack_fp8(w, x, n, fp8_scale);
    if (w->overflowed)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: tensor %s holds numbers beyond those of f16; use bf16",
                         w->plan->input, item->name);
    MICA_TRY(put(w, item, 0, at, w->out, (size_t)(n / info->block) * (size_t)info->size, err));
    if (item->form == MICA_CONVERT_GROUPS) {
        const uint64_t g = (uint64_t)(first * width / item->group) * 2;
        const size_t size = (size_t)(n / item->group) * 2;
        MICA_TRY(put(w, item, 1, g, w->scales, size, err));
        MICA_TRY(put(w, item, 2, g, w->biases, size, err));
    }
    if (item->form == MICA_CONVERT_INT8)
        MICA_TRY(put(w, item, 1, (uint64_t)first * 4, w->row_scales, (size_t)rows * 4, err));
    return advance(w, n, err);
}

/* One scale for the whole weight: a pass of its own over the rows. */
static mica_status find_fp8_scale(worker *w, const mica_convert_item *item, int64_t rows,
                                  int64_t step, float *scale, mica_err *err)
{
    float most = 0.0f;
    for (int64_t first = 0; first < rows; first += step) {
        MICA_TRY(read_rows(w, item, 0, first, MICA_MIN(step, rows - first), err));
        const float *x = w->x.data;
        for (int64_t i = 0; i < mica_tensor_count(&w->x); i++)
            most = fmaxf(most, fabsf(x[i]));
    }
    *scale = most / 448.0f;
    MICA_TRY(put(w, item, 1, 0, scale, sizeof *scale, err));
    return put(w, item, 2, 0, MICA_CONVERT_FP8_FORMAT, strlen(MICA_CONVERT_FP8_FORMAT), err);
}

static mica_status copy_item(worker *w, const mica_convert_item *item, mica_err *err)
{
    const mica_tensor *t = item->parts[0];
    const size_t size = mica_tensor_size(t);
    if (size > 0)
        MICA_TRY(put(w, item, 0, 0, t->data, size, err));
    return advance(w, mica_tensor_count(t), err);
}

/* base: rows of the parts before; moved on. */
static mica_status write_part(worker *w, const mica_convert_item *item, int part, int64_t *base,
                              mica_err *err)
{
    const mica_weight whole = rows_of(item, part);
    const int64_t rows = whole.tensor.shape_[0], width = whole.tensor.shape_[1];
    float fp8_scale = 0.0f;
    if (rows == 0 || width == 0)
        return MICA_OK;
    const int64_t step = MICA_MAX(CHUNK / width, (int64_t)1);
    if (item->form == MICA_CONVERT_FP8)
        MICA_TRY(find_fp8_scale(w, item, rows, step, &fp8_scale, err));
    for (int64_t first = 0; first < rows; first += step) {
        MICA_TRY(read_rows(w, item, part, first, MICA_MIN(step, rows - first), err));
        MICA_TRY(write_chunk(w, item, *base + first, fp8_scale, err));
        const mica_tensor seen =
            mica_tensor_rows(&whole.tensor, first, MICA_MIN(step, rows - first));
        mica_weights_dontneed(w->plan->sources[item->source].weights, &seen);
    }
    *base += rows;
    return MICA_OK;
}

static mica_status write_item(worker *w, mica_convert_item *item, mica_err *err)
{
    const mica_convert_source *s = &w->plan->sources[item->source];
    int64_t base = 0;
    w->error2 = w->norm2 = 0.0;
    for (int i = 0; i < item->part_count; i++) {
        MICA_TRY(item->form == MICA_CONVERT_COPY ? copy_item(w, item, err)
                                                 : write_part(w, item, i, &base, err));
        mica_weights_dontneed(s->weights, item->parts[i]);
    }
    item->error = w->norm2 > 0.0 ? sqrt(w->error2 / w->norm2) : 0.0;
    return MICA_OK;
}

/* ------------------------------------------------------------------ entry -- */

static mica_status allocate(worker *w, mica_err *err)
{
    w->x = mica_tensor_2d(mica_mem_alloc_aligned((size_t)CHUNK * 4, 64), MICA_DTYPE_F32, 1, CHUNK);
    w->ids = mica_mem_alloc((size_t)CHUNK * sizeof *w->ids);
    w->out = mica_mem_alloc((size_t)CHUNK * 4);
    w->scales = mica_mem_alloc((size_t)CHUNK / 16);
    w->biases = mica_mem_alloc((size_t)CHUNK / 16);
    w->row_scales = mica_mem_alloc((size_t)CHUNK * 4);
    if (!w->x.data || !w->ids || !w->out || !w->scales || !w->biases || !w->row_scales)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to convert weights");
    /* One thread: packing takes longer than reading, and a team would wait for it. */
    const mica_backend_options options = {
        .device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32, .threads = 1};
    return mica_backend_open(&w->be, &options, err);
}

static void release(worker *w)
{
    mica_backend_close(&w->be);
    mica_mem_free(w->x.data);
    mica_mem_free(w->ids);
    mica_mem_free(w->out);
    mica_mem_free(w->scales);
    mica_mem_free(w->biases);
    mica_mem_free(w->row_scales);
}

static mica_status write_items(worker *w, size_t file, mica_err *err)
{
    mica_convert_plan *p = w->plan;
    for (size_t i = 0; i < p->item_count; i++)
        if (p->items[i].file == file)
            MICA_TRY(write_item(w, &p->items[i], err));
    return MICA_OK;
}

static mica_status write_file(worker *w, size_t file, const char *path, mica_err *err)
{
    mica_convert_plan *p = w->plan;
    const size_t first = p->file_first[file];
    MICA_TRY(mica_weight_stream_open(&w->stream, path, p->tensors + first,
                                     p->file_first[file + 1] - first, p->values, p->value_count,
                                     err));
    const mica_status st = write_items(w, file, err);
    if (!st)
        return mica_weight_stream_commit(&w->stream, err);
    mica_weight_stream_abort(&w->stream);
    return st;
}

static mica_status write_all(worker *w, const char *folder, mica_err *err)
{
    mica_convert_plan *p = w->plan;
    mica_status st = MICA_OK;
    for (size_t i = 0; i < p->file_count && !st; i++) {
        char *path = folder ? mica_path_join(folder, p->files[i]) : mica_mem_strdup(p->files[i]);
        st = path ? write_file(w, i, path, err) : mica_convert_no_memory(p, err);
        mica_mem_free(path);
    }
    return st;
}

mica_status mica_convert_run(mica_convert_plan *p, const char *folder,
                             mica_convert_progress_fn progress, void *user, mica_err *err)
{
    worker w = {.plan = p, .progress = progress, .user = user, .all = p->numbers};
    mica_status st = allocate(&w, err);
    if (!st)
        st = write_all(&w, folder, err);
    release(&w);
    return st;
}
