/* lora_dora.c - DoRA: a LoRA that also says how long each row of the weight is to be.
 *
 *     w' = g * (w + s up down)      g[o] = magnitude[o] / |w[o] + s up[o] down|
 *
 * g is a factor per row, so nothing of the weight's size is made: it joins the scales that weights of
 * some files have per row anyway, and those of `up`. Packed weights have a place for it too: GGUF's blocks get a
 * scale per row beside their own, MLX's groups scales and biases times g, in f32. What was attached to the layer
 * before is multiplied too:
 * that is how the reference goes through several adapters (peft tuners/lora/layer.py Linear.forward,
 * dora.py DoraLinearLayer). s includes the scale that the user asks for.
 *
 * Lengths need every row of the weight once, when the file is attached:
 *
 *     |w + s u d|^2 = |w|^2 + 2 s u.(d w) + s^2 u (d d^T) u        u: a row of up, d: down [r, D]
 *
 * A `dora_scale` [O, 1], as LyCORIS writes it, means the same: lengths of the sum (LyCORIS
 * modules/locon.py apply_weight_decompose with wd_on_out; diffusers loads it as peft's vector). ComfyUI divides by the
 * lengths of w alone there and gives another picture. [1, D] are lengths of columns: a factor per input, which no
 * product here has; it is refused. */
#include "nn/lora_internal.h"

#include "base/mem.h"
#include "kernels/kernels.h"

#include <assert.h>
#include <math.h>
#include <string.h>

typedef struct lengths {
    const mica_lora *lora;
    const mica_lora_target *target;
    const mica_weight *w;
    int64_t skip; /* row of the target that is the weight's first */
    double scale; /* s */
    int64_t rank, width;
    float *down_rD, *row_D, *up_r; /* up_r: one row */
    double *gram_rr, *dots_r;      /* d d^T; d w */
} lengths;

static mica_status no_memory(const mica_lora *l, mica_err *err)
{
    return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for its lengths",
                     mica_weights_path(l->files));
}

static mica_packed kernel_type(mica_dtype dtype)
{
    static_assert((int)MICA_PACKED_B8 - (int)MICA_PACKED_Q8_0 ==
                      (int)MICA_DTYPE_MLX8 - (int)MICA_DTYPE_Q8_0,
                  "both lists have one order");
    if (mica_dtype_is_packed(dtype))
        return (mica_packed)((int)MICA_PACKED_Q8_0 + (int)dtype - (int)MICA_DTYPE_Q8_0);
    return dtype == MICA_DTYPE_BF16  ? MICA_PACKED_BF16
           : dtype == MICA_DTYPE_F16 ? MICA_PACKED_F16
           : dtype == MICA_DTYPE_I8  ? MICA_PACKED_S8
                                     : MICA_PACKED_F32;
}

/* Row `row` of a packed weight, or of int8. */
static void unpack_row(const mica_tensor *w, int64_t row, float *out)
{
    const mica_tensor_scale *s = &w->scale;
    mica_packed_rows r = {.type = kernel_type(w->dtype),
                          .rows = 1,
                          .n = (int)w->shape_[1],
                          .data = (const uint8_t *)w->data +
                                  mica_tensor_offset(w, row * w->stride_[0])};
    if (s->group) {
        const int64_t first = row * w->stride_[0] / s->group;
        const size_t at = (size_t)first * (size_t)mica_dtype_get(s->dtype)->size;
        r.scale = (const uint8_t *)s->data + at;
        r.bias = s->bias ? (const uint8_t *)s->bias + at : NULL;
        r.scale_type = kernel_type(s->dtype);
        r.group = s->group;
    }
    mica_kernels_get()->unpack_f32(&r, out, w->shape_[1]);
}

/* Numbers of a row, without scales of rows. */
static void read_row(const mica_tensor *w, int64_t row, float *out)
{
    const mica_kernels *k = mica_kernels_get();
    const int64_t n = w->shape_[1];
    const void *data = (const uint8_t *)w->data + mica_tensor_offset(w, row * w->stride_[0]);
    if (mica_dtype_is_packed(w->dtype) || w->dtype == MICA_DTYPE_I8) {
        unpack_row(w, row, out);
        return;
    }
    switch (w->dtype) {
    case MICA_DTYPE_BF16:
        k->f32_from_bf16(n, data, 1.0f, out);
        break;
    case MICA_DTYPE_F16:
        k->f32_from_f16(n, data, 1.0f, out);
        break;
    case MICA_DTYPE_F8_E4M3:
        k->f32_from_f8_e4m3(n, data, 1.0f, out);
        break;
    case MICA_DTYPE_F8_E5M2:
        k->f32_from_f8_e5m2(n, data, 1.0f, out);
        break;
    default:
        memcpy(out, data, (size_t)n * sizeof *out);
    }
}

static bool is_readable(const mica_tensor *w)
{
    const mica_dtype d = w->dtype;
    return w->ndim == 2 && w->stride_[1] == 1 &&
           (mica_dtype_is_packed(d) || (d == MICA_DTYPE_I8 && w->scale.data) ||
            d == MICA_DTYPE_F32 || d == MICA_DTYPE_BF16 || d == MICA_DTYPE_F16 ||
            d == MICA_DTYPE_F8_E4M3 || d == MICA_DTYPE_F8_E5M2);
}

/* Scale of a row, 1 without; those of groups are in its numbers. */
static double scale_of(const mica_tensor *t, int64_t row)
{
    const mica_tensor_scale *s = &t->scale;
    if (s->group)
        return 1.0;
    const int64_t n = s->per_row ? t->shape_[0] : 1;
    const mica_tensor scales = mica_tensor_1d((void *)(uintptr_t)s->data, s->dtype, n);
    return s->data ? (double)mica_tensor_read_f32(&scales, s->per_row ? row : 0) : 1.0;
}

/* What earlier DoRAs multiplied the row by: lengths are those of the file's weight. */
static double factor_of(const mica_weight *w, int64_t row)
{
    double factor = 1.0;
    for (const mica_adapter *a = w->adapters; a; a = a->next)
        factor *= a->row_factor ? (double)a->row_factor[row] : 1.0;
    return factor;
}

static mica_status prepare(lengths *l, mica_err *err)
{
    const mica_tensor *down = &l->target->adapter.down[0];
    l->rank = down->shape_[0];
    l->width = down->shape_[1];
    const size_t r = (size_t)l->rank, D = (size_t)l->width;
    l->down_rD = mica_mem_calloc(r * D, sizeof *l->down_rD);
    l->row_D = mica_mem_calloc(D, sizeof *l->row_D);
    l->up_r = mica_mem_calloc(r, sizeof *l->up_r);
    l->gram_rr = mica_mem_calloc(r * r, sizeof *l->gram_rr);
    l->dots_r = mica_mem_calloc(r, sizeof *l->dots_r);
    if (!l->down_rD || !l->row_D || !l->up_r || !l->gram_rr || !l->dots_r)
        return no_memory(l->lora, err);
    for (int64_t i = 0; i < l->rank * l->width; i++)
        l->down_rD[i] = mica_tensor_read_f32(down, i);
    for (int64_t i = 0; i < l->rank; i++)
        for (int64_t j = 0; j <= i; j++)
            l->gram_rr[i * l->rank + j] = l->gram_rr[j * l->rank + i] = mica_kernels_get()->dot(
                l->width, l->down_rD + i * l->width, l->down_rD + j * l->width);
    return MICA_OK;
}

static void release(lengths *l)
{
    mica_mem_free(l->down_rD);
    mica_mem_free(l->row_D);
    mica_mem_free(l->up_r);
    mica_mem_free(l->gram_rr);
    mica_mem_free(l->dots_r);
}

/* |w + s up down| of row `row` of the weight. */
static double length_of(lengths *l, int64_t row)
{
    const mica_kernels *k = mica_kernels_get();
    const mica_tensor *w = &l->w->tensor, *up = &l->target->adapter.up[0];
    const double own = scale_of(w, row) / factor_of(l->w, row);
    read_row(w, row, l->row_D);
    double sum = own * own * k->dot(l->width, l->row_D, l->row_D);
    for (int64_t i = 0; i < l->rank; i++) {
        l->up_r[i] = mica_tensor_read_f32(up, (l->skip + row) * l->rank + i);
        l->dots_r[i] = own * k->dot(l->width, l->row_D, l->down_rD + i * l->width);
    }
    for (int64_t i = 0; i < l->rank; i++) {
        double across = 0.0;
        for (int64_t j = 0; j < l->rank; j++)
            across += (double)l->up_r[j] * l->gram_rr[i * l->rank + j];
        sum += l->scale * (double)l->up_r[i] * (2.0 * l->dots_r[i] + l->scale * across);
    }
    return sqrt(sum);
}

static mica_status make_factors(lengths *l, float *g, mica_err *err)
{
    const mica_tensor *magnitude = l->target->tensors[MICA_LORA_MAGNITUDE];
    MICA_TRY(prepare(l, err));
    for (int64_t row = 0; row < l->w->tensor.shape_[0]; row++) {
        const double m = (double)mica_tensor_read_f32(magnitude, l->skip + row);
        g[row] = (float)(m / length_of(l, row));
        if (!isfinite(g[row]))
            return MICA_FAIL(err, MICA_E_NUMERIC, "%s: layer %s: row %lld has no length",
                             mica_weights_path(l->lora->files), l->target->name,
                             (long long)(l->skip + row));
    }
    return MICA_OK;
}

/* The adapter's rows alone, each times its factor. NULL: no memory. */
static mica_adapter *scaled_copy(mica_arena *arena, const mica_adapter *a, const float *g)
{
    mica_adapter *copy = mica_arena_calloc(arena, 1, sizeof *copy);
    float *scales = mica_arena_calloc(arena, (size_t)a->count, sizeof *scales);
    if (!copy || !scales)
        return NULL;
    *copy = *a;
    copy->up[0] = mica_tensor_rows(&a->up[0], a->skip, a->count);
    for (int64_t i = 0; i < a->count; i++)
        scales[i] = (float)(scale_of(&copy->up[0], i) * (double)g[a->first + i]);
    copy->up[0].scale =
        (mica_tensor_scale){.data = scales, .dtype = MICA_DTYPE_F32, .per_row = true};
    copy->skip = 0;
    return copy;
}

/* One array of the groups' scales or biases, each times its row's factor. NULL: no memory. */
static const float *multiply_groups(mica_lora *lora, const mica_tensor *w, const void *data,
                                    const float *g)
{
    const int64_t rows = w->shape_[0], per_row = w->shape_[1] / w->scale.group;
    float *out = mica_arena_calloc(&lora->arena, (size_t)(rows * per_row), sizeof *out);
    const mica_tensor t = mica_tensor_1d((void *)(uintptr_t)data, w->scale.dtype, rows * per_row);
    for (int64_t i = 0; out && i < rows * per_row; i++)
        out[i] = mica_tensor_read_f32(&t, i) * g[i / per_row];
    return out;
}

static mica_status multiply_scales(mica_lora *lora, mica_tensor *w, const float *g, mica_err *err)
{
    mica_tensor_scale s = {.dtype = MICA_DTYPE_F32, .group = w->scale.group};
    if (s.group) {
        s.data = multiply_groups(lora, w, w->scale.data, g);
        s.bias = w->scale.bias ? multiply_groups(lora, w, w->scale.bias, g) : NULL;
        if (!s.data || (w->scale.bias && !s.bias))
            return no_memory(lora, err);
        w->scale = s;
        return MICA_OK;
    }
    float *scales = mica_arena_calloc(&lora->arena, (size_t)w->shape_[0], sizeof *scales);
    if (!scales)
        return no_memory(lora, err);
    for (int64_t row = 0; row < w->shape_[0]; row++)
        scales[row] = (float)(scale_of(w, row) * (double)g[row]);
    s.data = scales;
    s.per_row = true;
    w->scale = s;
    return MICA_OK;
}

/* Everything on the weight, the new adapter in front included. */
static mica_status multiply(mica_lora *lora, mica_weight *w, const float *g, mica_err *err)
{
    MICA_TRY(multiply_scales(lora, &w->tensor, g, err));
    const mica_adapter **link = &w->adapters;
    while (*link) {
        mica_adapter *copy = scaled_copy(&lora->arena, *link, g);
        if (!copy)
            return no_memory(lora, err);
        *link = copy;
        link = &copy->next;
    }
    return MICA_OK;
}

static mica_status check(const mica_lora *lora, const mica_lora_target *t, const mica_weight *w,
                         mica_err *err)
{
    char text[96];
    if (!is_readable(&w->tensor))
        return MICA_FAIL(
            err, MICA_E_UNSUPPORTED,
            "%s: layer %s is a DoRA, which needs a matrix of floats or packed numbers, not %s",
            mica_weights_path(lora->files), t->name,
            mica_tensor_describe(&w->tensor, text, sizeof text));
    for (const mica_adapter *a = w->adapters; a; a = a->next)
        if (a->up[1].data || a->mix.data)
            return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                             "%s: layer %s is a DoRA behind a LoHa or LoKr; give the DoRA first",
                             mica_weights_path(lora->files), t->name);
    return MICA_OK;
}

mica_status mica_lora_decompose(mica_lora *lora, const mica_lora_target *t, int64_t skip,
                                double scale, mica_adapter *a, mica_weight *w, mica_err *err)
{
    lengths l = {.lora = lora, .target = t, .w = w, .skip = skip, .scale = scale};
    MICA_TRY(check(lora, t, w, err));
    float *g = mica_arena_calloc(&lora->arena, (size_t)w->tensor.shape_[0], sizeof *g);
    if (!g)
        return no_memory(lora, err);
    const mica_status st = make_factors(&l, g, err);
    release(&l);
    MICA_TRY(st);
    a->row_factor = g;
    a->next = w->adapters;
    w->adapters = a;
    return multiply(lora, w, g, err);
}
