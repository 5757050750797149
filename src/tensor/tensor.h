/* tensor.h - dtype table, tensor view, and the one key of dimension letters.
 *
 * A tensor is a view: it never owns its data. Names of tensors and pointers end in
 * their dimensions, slowest first:
 *
 *   B batch (items)        L query tokens     M key tokens      T text tokens
 *   P image patches        D model width      F ffn width       H heads
 *   G kv heads             K head dim         V vocabulary      E experts
 *   A active experts       C channels         Y X rows/columns  S audio samples, steps
 *   R frames               O outputs of a linear or convolution
 *
 * Inside src/kernels M, N, K keep their BLAS meaning. Weights are always [out, in]. */
#ifndef MICA_TENSOR_TENSOR_H
#define MICA_TENSOR_TENSOR_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define MICA_MAX_DIMS 6

typedef enum mica_dtype {
    MICA_DTYPE_F32 = 0,
    MICA_DTYPE_BF16,
    MICA_DTYPE_F16,
    MICA_DTYPE_F64,
    MICA_DTYPE_F8_E4M3,
    MICA_DTYPE_F8_E5M2,
    MICA_DTYPE_I8,
    MICA_DTYPE_U8,
    MICA_DTYPE_I16,
    MICA_DTYPE_U16,
    MICA_DTYPE_I32,
    MICA_DTYPE_U32,
    MICA_DTYPE_I64,
    MICA_DTYPE_U64,
    MICA_DTYPE_BOOL,
    /* Packed weights (packed.h): GGUF's blocks, then MLX's group-wise affine integers. */
    MICA_DTYPE_Q8_0,
    MICA_DTYPE_Q4_0,
    MICA_DTYPE_Q4_1,
    MICA_DTYPE_Q5_0,
    MICA_DTYPE_Q5_1,
    MICA_DTYPE_Q2_K,
    MICA_DTYPE_Q3_K,
    MICA_DTYPE_Q4_K,
    MICA_DTYPE_Q5_K,
    MICA_DTYPE_Q6_K,
    MICA_DTYPE_IQ4_NL,
    MICA_DTYPE_IQ4_XS,
    MICA_DTYPE_MXFP4,
    MICA_DTYPE_MLX2,
    MICA_DTYPE_MLX3,
    MICA_DTYPE_MLX4,
    MICA_DTYPE_MLX5,
    MICA_DTYPE_MLX6,
    MICA_DTYPE_MLX8,
    MICA_DTYPE_COUNT
} mica_dtype;

typedef struct mica_dtype_info {
    const char *name;             /* "bf16" */
    const char *safetensors_name; /* "BF16"; NULL: not stored there under its own name */
    int size;                     /* bytes of a block */
    bool is_float;                /* numbers of their own: floats, not packed */
    int block;                    /* elements of a block; 1 for everything that is not packed */
} mica_dtype_info;
const mica_dtype_info *mica_dtype_get(mica_dtype dtype);
bool mica_dtype_from_safetensors(const char *name, size_t length, mica_dtype *out);
static inline bool mica_dtype_is_packed(mica_dtype dtype)
{
    return dtype >= MICA_DTYPE_Q8_0 && dtype <= MICA_DTYPE_MLX8;
}
static inline bool mica_dtype_is_affine(mica_dtype dtype)
{
    return dtype >= MICA_DTYPE_MLX2 && dtype <= MICA_DTYPE_MLX8;
}
/* The affine type of 2, 3, 4, 5, 6 or 8 bits; MICA_DTYPE_COUNT: there is none of so many. */
mica_dtype mica_dtype_from_bits(int64_t bits);

/* How stored numbers become real ones: value = stored * scale + bias. For fp8 and int8 files whose
 * scale stands beside the weight (FORMATS: `scale_weight`, `weight_scale`), and for the groups of
 * MLX's affine types. Scales per row of GGUF's blocks come on top of the blocks' own. */
typedef struct mica_tensor_scale {
    const void *data; /* f32/bf16/f16: one for the whole tensor, one per row (dimension 0), or one
                         per group of the last dimension, in the order of the groups */
    mica_dtype dtype;
    bool per_row;
    int group;        /* elements of a group, which divides the last dimension; 0: no groups */
    const void *bias; /* as data, of groups alone; NULL: zeros */
} mica_tensor_scale;

typedef struct mica_tensor {
    void *data; /* of a weight: inside a read-only mapping, never written */
    mica_dtype dtype;
    int ndim;
    int64_t shape_[MICA_MAX_DIMS];
    int64_t stride_[MICA_MAX_DIMS]; /* in elements; last one is 1 for everything the backends take
                                       except convolution weights */
    mica_tensor_scale scale;        /* data == NULL: none */
} mica_tensor;
/* Packed: rows (the last dimension) are whole blocks, and strides still count elements; only whole rows
 * can be addressed. Everything but the last dimension may be cut and reshaped freely. */

/* Contiguous view; unused dimensions are 1. ndim 0..MICA_MAX_DIMS. */
mica_tensor mica_tensor_make(void *data, mica_dtype dtype, int ndim, const int64_t *shape);
mica_tensor mica_tensor_1d(void *data, mica_dtype dtype, int64_t a);
mica_tensor mica_tensor_2d(void *data, mica_dtype dtype, int64_t a, int64_t b);
mica_tensor mica_tensor_3d(void *data, mica_dtype dtype, int64_t a, int64_t b, int64_t c);
mica_tensor mica_tensor_4d(void *data, mica_dtype dtype, int64_t a, int64_t b, int64_t c,
                           int64_t d);
int64_t mica_tensor_count(const mica_tensor *t); /* elements */
size_t mica_tensor_size(const mica_tensor *t);   /* bytes of a contiguous tensor, scales apart */
size_t mica_tensor_scale_size(const mica_tensor *t); /* bytes of its scales and biases */
/* Bytes from the data's start to the element `offset` (as strides count), a block's first. */
ptrdiff_t mica_tensor_offset(const mica_tensor *t, int64_t offset);
/* A backend can multiply by it: floats, packed types, and int8 with a scale. */
bool mica_tensor_is_weight(const mica_tensor *t);
/* Of an affine type files tell bits times width alone: sees the same words as rows of `width` numbers, of
 * as many bits and in as wide groups as that makes. False (and t unchanged): there is no such view. */
bool mica_tensor_set_width(mica_tensor *t, int64_t width);
bool mica_tensor_is_contiguous(const mica_tensor *t);
/* Rows [first, first + count) of dimension 0. */
mica_tensor mica_tensor_rows(const mica_tensor *t, int64_t first, int64_t count);
/* Columns [first, first + count) of a tensor of two dimensions whose elements have whole bytes. */
mica_tensor mica_tensor_columns(const mica_tensor *t, int64_t first, int64_t count);
/* Rows [first, first + count) of a tensor of two dimensions, which may be columns of a wider one, by heads: [count,
 * heads, width]. */
mica_tensor mica_tensor_heads(const mica_tensor *t, int64_t first, int64_t count, int64_t heads,
                              int64_t width);
/* The same elements seen in another shape; t must be contiguous and the counts equal. */
mica_tensor mica_tensor_reshape(const mica_tensor *t, int ndim, const int64_t *shape);
/* Element `index` (row-major) as f32, any dtype of a weight, scale applied. For tests and small
 * tables. */
float mica_tensor_read_f32(const mica_tensor *t, int64_t index);
/* "[3072, 64] bf16" into buffer; returns buffer. */
const char *mica_tensor_describe(const mica_tensor *t, char *buffer, size_t size);

#endif
