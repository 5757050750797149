/* tensor.c - the dtype table and the arithmetic of views.
 *
 *     shape  [2, 3, 4]     stride [12, 4, 1]     element (i, j, k) at 12 i + 4 j + k
 *
 * Nothing here allocates or fails; shapes from files are checked before a view is made
 * (src/format), so that counts and sizes cannot overflow. */
#include "tensor/tensor.h"

#include "base/half.h"
#include "tensor/packed.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const mica_dtype_info dtypes[MICA_DTYPE_COUNT] = {
    [MICA_DTYPE_F32] = {"f32", "F32", 4, true, 1},
    [MICA_DTYPE_BF16] = {"bf16", "BF16", 2, true, 1},
    [MICA_DTYPE_F16] = {"f16", "F16", 2, true, 1},
    [MICA_DTYPE_F64] = {"f64", "F64", 8, true, 1},
    [MICA_DTYPE_F8_E4M3] = {"f8_e4m3", "F8_E4M3", 1, true, 1},
    [MICA_DTYPE_F8_E5M2] = {"f8_e5m2", "F8_E5M2", 1, true, 1},
    [MICA_DTYPE_I8] = {"i8", "I8", 1, false, 1},
    [MICA_DTYPE_U8] = {"u8", "U8", 1, false, 1},
    [MICA_DTYPE_I16] = {"i16", "I16", 2, false, 1},
    [MICA_DTYPE_U16] = {"u16", "U16", 2, false, 1},
    [MICA_DTYPE_I32] = {"i32", "I32", 4, false, 1},
    [MICA_DTYPE_U32] = {"u32", "U32", 4, false, 1},
    [MICA_DTYPE_I64] = {"i64", "I64", 8, false, 1},
    [MICA_DTYPE_U64] = {"u64", "U64", 8, false, 1},
    [MICA_DTYPE_BOOL] = {"bool", "BOOL", 1, false, 1},
    [MICA_DTYPE_Q8_0] = {"q8_0", NULL, 34, false, 32},
    [MICA_DTYPE_Q4_0] = {"q4_0", NULL, 18, false, 32},
    [MICA_DTYPE_Q4_1] = {"q4_1", NULL, 20, false, 32},
    [MICA_DTYPE_Q5_0] = {"q5_0", NULL, 22, false, 32},
    [MICA_DTYPE_Q5_1] = {"q5_1", NULL, 24, false, 32},
    [MICA_DTYPE_Q2_K] = {"q2_k", NULL, 84, false, 256},
    [MICA_DTYPE_Q3_K] = {"q3_k", NULL, 110, false, 256},
    [MICA_DTYPE_Q4_K] = {"q4_k", NULL, 144, false, 256},
    [MICA_DTYPE_Q5_K] = {"q5_k", NULL, 176, false, 256},
    [MICA_DTYPE_Q6_K] = {"q6_k", NULL, 210, false, 256},
    [MICA_DTYPE_IQ4_NL] = {"iq4_nl", NULL, 18, false, 32},
    [MICA_DTYPE_IQ4_XS] = {"iq4_xs", NULL, 136, false, 256},
    [MICA_DTYPE_MXFP4] = {"mxfp4", NULL, 17, false, 32},
    [MICA_DTYPE_MLX2] = {"mlx2", NULL, 8, false, 32},
    [MICA_DTYPE_MLX3] = {"mlx3", NULL, 12, false, 32},
    [MICA_DTYPE_MLX4] = {"mlx4", NULL, 16, false, 32},
    [MICA_DTYPE_MLX5] = {"mlx5", NULL, 20, false, 32},
    [MICA_DTYPE_MLX6] = {"mlx6", NULL, 24, false, 32},
    [MICA_DTYPE_MLX8] = {"mlx8", NULL, 32, false, 32},
};

const mica_dtype_info *mica_dtype_get(mica_dtype dtype)
{
    return &dtypes[dtype];
}

bool mica_dtype_from_safetensors(const char *name, size_t length, mica_dtype *out)
{
    for (int i = 0; i < MICA_DTYPE_COUNT; i++) {
        const char *known = dtypes[i].safetensors_name;
        if (known && strlen(known) == length && memcmp(known, name, length) == 0) {
            *out = (mica_dtype)i;
            return true;
        }
    }
    return false;
}

mica_dtype mica_dtype_from_bits(int64_t bits)
{
    static const int64_t BITS[] = {2, 3, 4, 5, 6, 8};
    for (int i = 0; i < 6; i++)
        if (BITS[i] == bits)
            return (mica_dtype)(MICA_DTYPE_MLX2 + i);
    return MICA_DTYPE_COUNT;
}

mica_tensor mica_tensor_make(void *data, mica_dtype dtype, int ndim, const int64_t *shape)
{
    mica_tensor t = {.data = data, .dtype = dtype, .ndim = ndim};
    int64_t stride = 1;
    for (int i = MICA_MAX_DIMS - 1; i >= 0; i--) {
        t.shape_[i] = i < ndim ? shape[i] : 1;
        t.stride_[i] = stride;
        stride *= t.shape_[i];
    }
    return t;
}

mica_tensor mica_tensor_1d(void *data, mica_dtype dtype, int64_t a)
{
    return mica_tensor_make(data, dtype, 1, (const int64_t[]){a});
}

mica_tensor mica_tensor_2d(void *data, mica_dtype dtype, int64_t a, int64_t b)
{
    return mica_tensor_make(data, dtype, 2, (const int64_t[]){a, b});
}

mica_tensor mica_tensor_3d(void *data, mica_dtype dtype, int64_t a, int64_t b, int64_t c)
{
    return mica_tensor_make(data, dtype, 3, (const int64_t[]){a, b, c});
}

mica_tensor mica_tensor_4d(void *data, mica_dtype dtype, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return mica_tensor_make(data, dtype, 4, (const int64_t[]){a, b, c, d});
}

int64_t mica_tensor_count(const mica_tensor *t)
{
    int64_t count = 1;
    for (int i = 0; i < t->ndim; i++)
        count *= t->shape_[i];
    return count;
}

size_t mica_tensor_size(const mica_tensor *t)
{
    return (size_t)mica_tensor_offset(t, mica_tensor_count(t));
}

size_t mica_tensor_scale_size(const mica_tensor *t)
{
    const mica_tensor_scale *s = &t->scale;
    if (!s->data)
        return 0;
    const int64_t count = s->group     ? mica_tensor_count(t) / s->group
                          : s->per_row ? t->shape_[0]
                                       : 1;
    return (size_t)count * (size_t)dtypes[s->dtype].size * (s->bias ? 2 : 1);
}

ptrdiff_t mica_tensor_offset(const mica_tensor *t, int64_t offset)
{
    return (ptrdiff_t)(offset / dtypes[t->dtype].block * dtypes[t->dtype].size);
}

bool mica_tensor_is_weight(const mica_tensor *t)
{
    const bool is_scaled = t->dtype == MICA_DTYPE_I8 && t->scale.data;
    return dtypes[t->dtype].is_float || is_scaled || mica_dtype_is_packed(t->dtype);
}

static bool is_group(int64_t width, int64_t groups)
{
    return width == 32 * groups || width == 64 * groups || width == 128 * groups;
}

bool mica_tensor_set_width(mica_tensor *t, int64_t width)
{
    if (!mica_dtype_is_affine(t->dtype) || t->ndim < 2 || width <= 0 || !t->scale.group)
        return false;
    const int64_t words = mica_tensor_offset(t, t->shape_[t->ndim - 1]) / 4;
    const int64_t groups = t->shape_[t->ndim - 1] / t->scale.group;
    const mica_dtype dtype = mica_dtype_from_bits(32 * words / width);
    if (dtype == MICA_DTYPE_COUNT || words * 32 % width != 0 || groups == 0 ||
        !is_group(width, groups) || !mica_tensor_is_contiguous(t))
        return false;
    int64_t shape[MICA_MAX_DIMS];
    for (int i = 0; i < t->ndim; i++)
        shape[i] = i == t->ndim - 1 ? width : t->shape_[i];
    mica_tensor seen = mica_tensor_make(t->data, dtype, t->ndim, shape);
    seen.scale = t->scale;
    seen.scale.group = (int)(width / groups);
    *t = seen;
    return true;
}

bool mica_tensor_is_contiguous(const mica_tensor *t)
{
    int64_t stride = 1;
    if (mica_tensor_count(t) == 0)
        return true;
    for (int i = t->ndim - 1; i >= 0; i--) {
        if (t->shape_[i] != 1 && t->stride_[i] != stride)
            return false;
        stride *= t->shape_[i];
    }
    return true;
}

/* Address of the element at `offset`, in elements. */
static void *element(const mica_tensor *t, int64_t offset)
{
    return t->data ? (char *)t->data + mica_tensor_offset(t, offset) : NULL;
}

/* Scales of the rows that begin `first` rows of dimension 0 later. */
static void advance_scale(mica_tensor_scale *s, const mica_tensor *t, int64_t first)
{
    const int64_t size = dtypes[s->dtype].size;
    const int64_t step = s->group ? first * t->stride_[0] / s->group : s->per_row ? first : 0;
    s->data = (const char *)s->data + step * size;
    if (s->bias)
        s->bias = (const char *)s->bias + step * size;
}

mica_tensor mica_tensor_rows(const mica_tensor *t, int64_t first, int64_t count)
{
    mica_tensor rows = *t;
    rows.data = element(t, first * t->stride_[0]);
    rows.shape_[0] = count;
    if (t->scale.data)
        advance_scale(&rows.scale, t, first);
    return rows;
}

mica_tensor mica_tensor_columns(const mica_tensor *t, int64_t first, int64_t count)
{
    mica_tensor columns = *t;
    columns.data = element(t, first * t->stride_[1]);
    columns.shape_[1] = count;
    return columns;
}

mica_tensor mica_tensor_heads(const mica_tensor *t, int64_t first, int64_t count, int64_t heads,
                              int64_t width)
{
    const mica_tensor rows = mica_tensor_rows(t, first, count);
    mica_tensor by_heads = mica_tensor_3d(rows.data, rows.dtype, count, heads, width);
    by_heads.stride_[0] = rows.stride_[0];
    return by_heads;
}

mica_tensor mica_tensor_reshape(const mica_tensor *t, int ndim, const int64_t *shape)
{
    mica_tensor reshaped = mica_tensor_make(t->data, t->dtype, ndim, shape);
    reshaped.scale = t->scale;
    return reshaped;
}

static float read_number(const void *data, mica_dtype dtype, int64_t i)
{
    switch (dtype) {
    case MICA_DTYPE_F32:
        return ((const float *)data)[i];
    case MICA_DTYPE_BF16:
        return mica_bf16_to_f32(((const uint16_t *)data)[i]);
    case MICA_DTYPE_F16:
        return mica_f16_to_f32(((const uint16_t *)data)[i]);
    case MICA_DTYPE_F64:
        return (float)((const double *)data)[i];
    case MICA_DTYPE_F8_E4M3:
        return mica_f8_e4m3_to_f32(((const uint8_t *)data)[i]);
    case MICA_DTYPE_F8_E5M2:
        return mica_f8_e5m2_to_f32(((const uint8_t *)data)[i]);
    case MICA_DTYPE_I8:
        return (float)((const int8_t *)data)[i];
    default:
        return mica_dtype_is_packed(dtype) ? mica_packed_read(dtype, data, i) : 0.0f;
    }
}

/* `stored` by the scale and bias of the group at `offset`. */
static float apply_group(const mica_tensor_scale *s, int64_t offset, float stored)
{
    const int64_t g = offset / s->group;
    const float bias = s->bias ? read_number(s->bias, s->dtype, g) : 0.0f;
    return stored * read_number(s->data, s->dtype, g) + bias;
}

float mica_tensor_read_f32(const mica_tensor *t, int64_t index)
{
    int64_t offset = 0, rest = index, row = 0;
    for (int i = t->ndim - 1; i >= 0; i--) {
        row = rest % t->shape_[i]; /* after the loop: the index in dimension 0 */
        offset += row * t->stride_[i];
        rest /= t->shape_[i];
    }
    const float stored = read_number(t->data, t->dtype, offset);
    if (!t->scale.data)
        return stored;
    if (t->scale.group)
        return apply_group(&t->scale, offset, stored);
    return stored * read_number(t->scale.data, t->scale.dtype, t->scale.per_row ? row : 0);
}

const char *mica_tensor_describe(const mica_tensor *t, char *buffer, size_t size)
{
    size_t used = 0;
    for (int i = 0; i < t->ndim && used < size; i++)
        used += (size_t)snprintf(buffer + used, size - used, "%s%" PRId64, i ? ", " : "[",
                                 t->shape_[i]);
    if (used < size)
        snprintf(buffer + used, size - used, "%s] %s", t->ndim ? "" : "[", dtypes[t->dtype].name);
    return buffer;
}
