/* cpu_conv.c - convolution of a channels-last picture, and doubling of its size.
 *
 *      x [Y, X, C]            band: `rows` rows of y and the rows of x under them
 *     +-----------+
 *     |  band 0   | ──► thread scratch, with rows of zeros ──┐
 *     |  band 1   | ──► where it lies ───────────────────────┼─► oneDNN ─► y, or scratch and
 *     |  ...      |                                          │             the epilogue to y
 *     |  last     | ──► thread scratch, with rows of zeros ──┘
 *     +-----------+
 *
 * One serial oneDNN primitive computes every band, so there is one layout of the weights per
 * convolution. A band at the border of the picture is completed with zeros in scratch, and so
 * is a last band of fewer rows. The height of a band follows from the shapes alone and a
 * band is computed by one thread: the bytes do not depend on how many there are. Neighbouring
 * bands read the same few rows of x, nothing is computed twice.
 *
 * Weights ([O, C, KY, KX] of any float format and any strides, such as the last time tap of a
 * 5-D weight) are gathered once into oneDNN's layout, as f32 or, with bf16 products, as bf16.
 *
 * Not done here: dilation, groups, batches. Pictures must be contiguous. */
#include "backend/cpu/cpu_backend.h"

#include "backend/cpu/cpu_dnnl.h"
#include "base/checked.h"
#include "kernels/kernels.h"

#include <stdatomic.h>
#include <string.h>

#define BAND_PIXELS 1024 /* of y per band, when the picture has enough rows */
#define BANDS       16   /* wanted at least, to occupy the threads evenly */

typedef struct conv_job {
    mica_cpu_backend *be;
    const mica_conv2d_args *args;
    const char *name;
    bool bf16;
    mica_dnnl_key key; /* of one band: key.y and key.out_y count its rows */
    mica_dnnl_op *op;
    const void *weights;
    const float *bias; /* [o] or NULL */
    float *unfused;    /* [out_y, out_x, o] sums, when the epilogue is a pass of its own */
    size_t in_size, out_size, op_size; /* bytes of scratch, each a multiple of 64 */
    atomic_int status;
} conv_job;

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static const char *name_of(const mica_weight *w)
{
    return w->name ? w->name : "weight";
}

/* -------------------------------------------------------------- weights -- */

typedef struct gather_job {
    const mica_tensor *w; /* [O, C, KY, KX], any strides */
    size_t row;           /* elements of one output channel */
    uint8_t *raw;         /* [O][row] in the weight's format */
    float *plain;         /* the same as f32, scales applied */
    uint16_t *bf16;       /* NULL or the same as bf16 */
    const mica_kernels *k;
} gather_job;

/* One output channel: collect its elements, then convert them as a row. */
static void gather_row(void *user, int64_t o, int thread)
{
    const gather_job *g = user;
    const mica_tensor *w = g->w;
    const size_t size = (size_t)mica_dtype_get(w->dtype)->size;
    const int64_t *n = w->shape_, *step = w->stride_;
    uint8_t *to = g->raw + (size_t)o * g->row * size;
    (void)thread;
    for (int64_t c = 0; c < n[1]; c++)
        for (int64_t ky = 0; ky < n[2]; ky++) {
            const int64_t at = o * step[0] + c * step[1] + ky * step[2];
            for (int64_t kx = 0; kx < n[3]; kx++, to += size)
                memcpy(to, (const uint8_t *)w->data + (size_t)(at + kx * step[3]) * size, size);
        }
    mica_tensor rows = mica_tensor_2d(g->raw, w->dtype, n[0], (int64_t)g->row);
    rows.scale = w->scale;
    float *plain = g->plain + (size_t)o * g->row;
    mica_cpu_weight_to_f32(&rows, o * (int64_t)g->row, (int64_t)g->row, plain);
    if (g->bf16)
        g->k->bf16_from_f32((int64_t)g->row, plain, 1.0f, g->bf16 + (size_t)o * g->row);
}

static mica_status pack_weights(mica_cpu_backend *be, mica_weight *weight, mica_cpu_prepared *p,
                                void *user, mica_err *err)
{
    const conv_job *j = user;
    const mica_tensor *w = &weight->tensor;
    const size_t count = (size_t)mica_tensor_count(w);
    const size_t plain = align64(count * sizeof(float));
    const size_t bf16 = j->bf16 ? align64(count * sizeof(uint16_t)) : 0;
    /* Once per weight and given back at once; the scratch of operations should not grow to it. */
    uint8_t *temp =
        mica_cpu_alloc(be, plain + bf16 + count * (size_t)mica_dtype_get(w->dtype)->size);
    if (!temp)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to gather %zu weights", name_of(weight),
                         count);
    gather_job g = {.w = w,
                    .row = count / (size_t)w->shape_[0],
                    .raw = temp + plain + bf16,
                    .plain = (float *)(void *)temp,
                    .bf16 = bf16 ? (uint16_t *)(void *)(temp + plain) : NULL,
                    .k = be->kernels};
    mica_cpu_parallel(be, w->shape_[0], gather_row, &g);
    const mica_status st =
        mica_dnnl_pack(be->dnnl, j->op, j->bf16 ? (void *)g.bf16 : (void *)temp, p->data, err);
    mica_cpu_free(temp);
    return st;
}

/* ----------------------------------------------------------------- plan -- */

static bool fits(const mica_tensor *t)
{
    for (int i = 0; i < t->ndim; i++)
        if (t->shape_[i] > INT32_MAX / 4)
            return false;
    return true;
}

static mica_status check_job(const mica_conv2d_args *a, mica_err *err)
{
    const mica_tensor *w = &a->w_OCYX->tensor, *x = a->x_YXC, *y = a->y_YXO;
    char text[96];
    if (!mica_dtype_get(w->dtype)->is_float)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: a convolution needs floats, not %s",
                         name_of(a->w_OCYX), mica_tensor_describe(w, text, sizeof text));
    if (!mica_tensor_is_contiguous(x) || !mica_tensor_is_contiguous(y) ||
        (a->residual_YXO && !mica_tensor_is_contiguous(a->residual_YXO)))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: a convolution needs contiguous pictures; copy the view first",
                         name_of(a->w_OCYX));
    if (!fits(x) || !fits(y) || !fits(w) || a->pad_top < 0 || a->pad_bottom < 0 ||
        a->pad_left < 0 || a->pad_right < 0)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: %s cannot be convolved in 32-bit sizes",
                         name_of(a->w_OCYX), mica_tensor_describe(x, text, sizeof text));
    return MICA_OK;
}

static int band_rows(int64_t out_y, int64_t out_x)
{
    const int64_t by_size = (BAND_PIXELS + out_x - 1) / out_x;
    const int64_t by_count = (out_y + BANDS - 1) / BANDS;
    return (int)MICA_MAX(1, MICA_MIN(by_size, by_count));
}

static void plan(conv_job *j)
{
    const mica_conv2d_args *a = j->args;
    const int64_t *x = a->x_YXC->shape_, *y = a->y_YXO->shape_, *w = a->w_OCYX->tensor.shape_;
    mica_dnnl_key *k = &j->key;
    const int rows = band_rows(y[0], y[1]);
    memset(k, 0, sizeof *k); /* compared as bytes */
    k->kind = MICA_DNNL_CONV2D;
    k->packed = MICA_DNNL_PACKED;
    k->src_type = k->weight_type = j->bf16 ? MICA_DNNL_BF16 : MICA_DNNL_F32;
    k->dst_type = MICA_DNNL_F32;
    k->c = (int)w[1];
    k->o = (int)w[0];
    k->ky = (int)w[2];
    k->kx = (int)w[3];
    k->stride = a->stride;
    k->out_y = rows;
    k->out_x = (int)y[1];
    k->y = (rows - 1) * a->stride + k->ky;
    k->x = (int)x[1];
    k->pad_left = a->pad_left;
    k->pad_right = a->pad_right;
    k->bias = a->bias_O != NULL;
}

/* --------------------------------------------------------------- a band -- */

/* The band's rows of x into scratch: zeros outside the picture, bf16 when wanted. */
static void load_band(const conv_job *j, int64_t first, void *to)
{
    const mica_kernels *k = j->be->kernels;
    const mica_tensor *x = j->args->x_YXC;
    const int64_t row = x->shape_[1] * x->shape_[2];
    const size_t size = j->bf16 ? sizeof(uint16_t) : sizeof(float);
    for (int i = 0; i < j->key.y; i++) {
        uint8_t *out = (uint8_t *)to + (size_t)i * (size_t)row * size;
        const float *in = (const float *)x->data + (first + i) * row;
        if (first + i < 0 || first + i >= x->shape_[0])
            memset(out, 0, (size_t)row * size);
        else if (j->bf16)
            k->bf16_from_f32(row, in, 1.0f, (uint16_t *)(void *)out);
        else
            memcpy(out, in, (size_t)row * size);
    }
}

/* y = residual + act(sums) for rows [first, first + rows). */
static void store_rows(const conv_job *j, int64_t first, int rows, const float *sums)
{
    const mica_conv2d_args *a = j->args;
    const int o = j->key.o;
    const int64_t at = first * j->key.out_x * o;
    const mica_epilogue e = {.m = rows * j->key.out_x,
                             .n = o,
                             .acc = sums,
                             .ldacc = o,
                             .act = (mica_kernel_act)a->act,
                             .residual =
                                 a->residual_YXO ? (const float *)a->residual_YXO->data + at : NULL,
                             .ldres = o,
                             .y = (float *)a->y_YXO->data + at,
                             .ldy = o};
    j->be->kernels->epilogue_tile(&e);
}

static void run_band(void *user, int64_t band, int thread)
{
    conv_job *j = user;
    const mica_conv2d_args *a = j->args;
    const int64_t out_y = a->y_YXO->shape_[0], first_out = band * j->key.out_y;
    const int64_t first = first_out * a->stride - a->pad_top;
    const int rows = (int)MICA_MIN((int64_t)j->key.out_y, out_y - first_out);
    uint8_t *scratch = mica_cpu_thread_scratch(j->be, thread);
    const bool inside = first >= 0 && first + j->key.y <= a->x_YXC->shape_[0];
    const int64_t row_in = (int64_t)j->key.x * j->key.c, row_out = (int64_t)j->key.out_x * j->key.o;
    const bool final = a->act == MICA_ACT_NONE && !a->residual_YXO;
    float *target = j->unfused ? j->unfused : final ? (float *)a->y_YXO->data : NULL;
    const void *src = scratch;
    float *dst = (float *)(void *)(scratch + j->in_size);
    if (target && rows == j->key.out_y)
        dst = target + first_out * row_out;
    if (inside && !j->bf16)
        src = (const float *)a->x_YXC->data + first * row_in;
    else
        load_band(j, first, scratch);
    const mica_status st = mica_dnnl_run(j->be->dnnl, j->op, thread, src, j->weights, j->bias, dst,
                                         scratch + j->in_size + j->out_size, NULL);
    if (st != MICA_OK) {
        atomic_store(&j->status, (int)st);
        return;
    }
    if (!target)
        store_rows(j, first_out, rows, dst);
    else if (rows < j->key.out_y)
        memcpy(target + first_out * row_out, dst, (size_t)(rows * row_out) * sizeof(float));
}

/* The epilogue as a pass over the whole picture (fusion switched off). */
static void store_unfused(void *user, int64_t row, int thread)
{
    const conv_job *j = user;
    (void)thread;
    store_rows(j, row, 1, j->unfused + row * j->key.out_x * j->key.o);
}

/* ------------------------------------------------------------------ run -- */

static size_t product3(size_t a, size_t b, size_t c, size_t size, bool *fine)
{
    size_t n = 0;
    *fine = *fine && mica_mul_size(a, b, &n) && mica_mul_size(n, c, &n) &&
            mica_mul_size(n, size, &n) && n < SIZE_MAX / 8;
    return *fine ? align64(n) : 0;
}

/* Scratch: shared [bias][unfused sums], per thread [x of a band][y of a band][oneDNN's own]. */
static mica_status reserve(conv_job *j, mica_err *err)
{
    const mica_dnnl_key *k = &j->key;
    const mica_conv2d_args *a = j->args;
    const bool unfused = !j->be->fuse && (a->act != MICA_ACT_NONE || a->residual_YXO);
    const size_t bias = k->bias ? align64((size_t)k->o * sizeof(float)) : 0;
    bool fine = true;
    j->in_size = product3((size_t)k->y, (size_t)k->x, (size_t)k->c, sizeof(float), &fine);
    j->out_size = product3((size_t)k->out_y, (size_t)k->out_x, (size_t)k->o, sizeof(float), &fine);
    j->op_size = align64(mica_dnnl_scratch_size(j->op));
    const size_t sums = unfused ? align64(mica_tensor_size(a->y_YXO)) : 0;
    if (!fine)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: %d x %d pixels are too many for one pass",
                         j->name, k->y, k->x);
    MICA_TRY(
        mica_cpu_scratch_reserve(j->be, bias + sums, j->in_size + j->out_size + j->op_size, err));
    uint8_t *shared = mica_cpu_shared_scratch(j->be);
    if (k->bias) {
        j->bias = (float *)(void *)shared;
        mica_cpu_weight_to_f32(&a->bias_O->tensor, 0, k->o, (float *)(void *)shared);
    }
    j->unfused = unfused ? (float *)(void *)(shared + bias) : NULL;
    return MICA_OK;
}

mica_status mica_cpu_conv2d(mica_backend *base, const mica_conv2d_args *args, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    MICA_TRY(check_job(args, err));
    conv_job j = {.be = be, .args = args, .name = name_of(args->w_OCYX), .bf16 = be->use_bf16};
    plan(&j);
    MICA_TRY(mica_dnnl_get(be->dnnl, &j.key, &j.op, err));
    const mica_cpu_prepared *p = NULL;
    MICA_TRY(mica_cpu_prepared_get(be, args->w_OCYX, MICA_CPU_PREPARED_CONV,
                                   mica_dnnl_weight_layout(j.op), mica_dnnl_weight_size(j.op),
                                   pack_weights, &j, &p, err));
    j.weights = p->data;
    MICA_TRY(reserve(&j, err));
    const int64_t out_y = args->y_YXO->shape_[0];
    mica_cpu_parallel(be, (out_y + j.key.out_y - 1) / j.key.out_y, run_band, &j);
    if (j.unfused && atomic_load(&j.status) == MICA_OK)
        mica_cpu_parallel(be, out_y, store_unfused, &j);
    const int status = atomic_load(&j.status);
    if (status != MICA_OK)
        return MICA_FAIL(err, (mica_status)status, "%s: oneDNN failed to run a convolution (%s)",
                         j.name, mica_dnnl_implementation(j.op));
    return MICA_OK;
}

/* ------------------------------------------------------------- doubling -- */

typedef struct upsample_job {
    const mica_kernels *k;
    const mica_tensor *x, *y;
} upsample_job;

/* One row of x becomes two of y. */
static void upsample_row(void *user, int64_t row, int thread)
{
    const upsample_job *j = user;
    const int64_t pixels = j->x->shape_[1], c = j->x->shape_[2], length = 2 * pixels * c;
    float *y = (float *)j->y->data + 2 * row * length;
    (void)thread;
    j->k->upsample2_row((int)pixels, (int)c, (const float *)j->x->data + row * pixels * c, y);
    memcpy(y + length, y, (size_t)length * sizeof *y);
}

mica_status mica_cpu_upsample_nearest2(mica_backend *base, const mica_tensor *x_YXC,
                                       mica_tensor *y_YXC, mica_err *err)
{
    mica_cpu_backend *be = mica_cpu_from(base);
    upsample_job j = {be->kernels, x_YXC, y_YXC};
    if (!mica_tensor_is_contiguous(x_YXC) || !mica_tensor_is_contiguous(y_YXC) || !fits(x_YXC))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "upsample_nearest2 needs contiguous pictures; copy the view first");
    mica_cpu_parallel(be, x_YXC->shape_[0], upsample_row, &j);
    return MICA_OK;
}
