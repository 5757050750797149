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
    MICA_DTYPE_COUNT
} mica_dtype;

typedef struct mica_dtype_info {
    const char *name;             /* "bf16" */
    const char *safetensors_name; /* "BF16" */
    int size;                     /* bytes per element */
    bool is_float;                /* usable as a weight */
} mica_dtype_info;
const mica_dtype_info *mica_dtype_get(mica_dtype dtype);
bool mica_dtype_from_safetensors(const char *name, size_t length, mica_dtype *out);

/* How stored numbers become real ones: value = stored * scale. For fp8 files whose
 * scale stands beside the weight (FORMATS: `scale_weight`, `weight_scale`). */
typedef struct mica_tensor_scale {
    const void *data; /* one f32/bf16/f16 (whole tensor) or one per row (dimension 0) */
    mica_dtype dtype;
    bool per_row;
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

/* Contiguous view; unused dimensions are 1. ndim 0..MICA_MAX_DIMS. */
mica_tensor mica_tensor_make(void *data, mica_dtype dtype, int ndim, const int64_t *shape);
mica_tensor mica_tensor_1d(void *data, mica_dtype dtype, int64_t a);
mica_tensor mica_tensor_2d(void *data, mica_dtype dtype, int64_t a, int64_t b);
mica_tensor mica_tensor_3d(void *data, mica_dtype dtype, int64_t a, int64_t b, int64_t c);
mica_tensor mica_tensor_4d(void *data, mica_dtype dtype, int64_t a, int64_t b, int64_t c,
                           int64_t d);
int64_t mica_tensor_count(const mica_tensor *t); /* elements */
size_t mica_tensor_size(const mica_tensor *t);   /* bytes of a contiguous tensor */
bool mica_tensor_is_contiguous(const mica_tensor *t);
/* Rows [first, first + count) of dimension 0. */
mica_tensor mica_tensor_rows(const mica_tensor *t, int64_t first, int64_t count);
/* The same elements seen in another shape; t must be contiguous and the counts equal. */
mica_tensor mica_tensor_reshape(const mica_tensor *t, int ndim, const int64_t *shape);
/* Element `index` (row-major) as f32, any float dtype, scale applied. For tests and small tables. */
float mica_tensor_read_f32(const mica_tensor *t, int64_t index);
/* "[3072, 64] bf16" into buffer; returns buffer. */
const char *mica_tensor_describe(const mica_tensor *t, char *buffer, size_t size);

#endif
