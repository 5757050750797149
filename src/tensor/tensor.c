/* tensor.c - the dtype table and the arithmetic of views.
 *
 *     shape  [2, 3, 4]     stride [12, 4, 1]     element (i, j, k) at 12 i + 4 j + k
 *
 * Nothing here allocates or fails; shapes from files are checked before a view is made
 * (src/format), so that counts and sizes cannot overflow. */
#include "tensor/tensor.h"

#include "base/half.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const mica_dtype_info dtypes[MICA_DTYPE_COUNT] = {
    [MICA_DTYPE_F32] = {"f32", "F32", 4, true},
    [MICA_DTYPE_BF16] = {"bf16", "BF16", 2, true},
    [MICA_DTYPE_F16] = {"f16", "F16", 2, true},
    [MICA_DTYPE_F64] = {"f64", "F64", 8, true},
    [MICA_DTYPE_F8_E4M3] = {"f8_e4m3", "F8_E4M3", 1, true},
    [MICA_DTYPE_F8_E5M2] = {"f8_e5m2", "F8_E5M2", 1, true},
    [MICA_DTYPE_I8] = {"i8", "I8", 1, false},
    [MICA_DTYPE_U8] = {"u8", "U8", 1, false},
    [MICA_DTYPE_I16] = {"i16", "I16", 2, false},
    [MICA_DTYPE_U16] = {"u16", "U16", 2, false},
    [MICA_DTYPE_I32] = {"i32", "I32", 4, false},
    [MICA_DTYPE_U32] = {"u32", "U32", 4, false},
    [MICA_DTYPE_I64] = {"i64", "I64", 8, false},
    [MICA_DTYPE_U64] = {"u64", "U64", 8, false},
    [MICA_DTYPE_BOOL] = {"bool", "BOOL", 1, false},
};

const mica_dtype_info *mica_dtype_get(mica_dtype dtype)
{
    return &dtypes[dtype];
}

bool mica_dtype_from_safetensors(const char *name, size_t length, mica_dtype *out)
{
    for (int i = 0; i < MICA_DTYPE_COUNT; i++) {
        const char *known = dtypes[i].safetensors_name;
        if (strlen(known) == length && memcmp(known, name, length) == 0) {
            *out = (mica_dtype)i;
            return true;
        }
    }
    return false;
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
    return (size_t)mica_tensor_count(t) * (size_t)dtypes[t->dtype].size;
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
    return t->data ? (char *)t->data + offset * dtypes[t->dtype].size : NULL;
}

mica_tensor mica_tensor_rows(const mica_tensor *t, int64_t first, int64_t count)
{
    mica_tensor rows = *t;
    rows.data = element(t, first * t->stride_[0]);
    rows.shape_[0] = count;
    if (t->scale.data && t->scale.per_row)
        rows.scale.data = (const char *)t->scale.data + first * dtypes[t->scale.dtype].size;
    return rows;
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
    default:
        return 0.0f;
    }
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
